-- Naming: what is registered, the longest prefix first.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

SELECT kasm_latency.register_host('10.8.0.0/16', 'region-eu', zone => 'eu');
SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'eu-1');
SELECT kasm_latency.register_host('10.9.0.7/16', 'host bits do not matter', 'monitor');
SELECT kasm_latency.register_host('::ffff:10.7.0.1', 'mapped', 'admin');
SELECT kasm_latency.register_host('::ffff:10.6.0.0/112', 'mapped range', 'proxy');
SELECT kasm_latency.register_host('fd77::/64', ' six ', 'agent');
TABLE kasm_latency.host_registry ORDER BY network;

SELECT addr, (kasm_latency_internal.host_of(addr, 'resolved.example')).*
FROM unnest(ARRAY['10.8.0.7', '10.8.1.1', '10.9.9.9', '10.7.0.1', '10.6.0.9', 'fd77::1', '192.0.2.1']::inet[]) AS addr;
SELECT (kasm_latency_internal.host_of('192.0.2.1', NULL)).*;
SELECT (kasm_latency_internal.host_of(NULL, NULL)).*;

-- a second call replaces
SELECT kasm_latency.register_host('10.8.0.7', 'webapp-paris', 'webapp', NULL);
SELECT (kasm_latency_internal.host_of('10.8.0.7', NULL)).*;

SELECT kasm_latency.forget_host('10.8.0.7'), kasm_latency.forget_host('10.8.0.7');
SELECT (kasm_latency_internal.host_of('10.8.0.7', NULL)).*;

-- a name that the server resolved may not pass for a registered host, another address, or a row of ours
SELECT name, (kasm_latency_internal.host_of('192.0.2.1', name)).*
FROM unnest(ARRAY['webapp-9.example', 'region-eu', 'REGION-EU', '10.8.0.7', 'fe80::1', '::ffff:10.8.0.7', '[local]', '(overflow)',
                  '10.example']) AS name;
-- nor does it hide what is registered for the address
SELECT (kasm_latency_internal.host_of('10.8.0.7', 'six')).*;

-- bad input changes nothing
SELECT kasm_latency.register_host(NULL, 'x');
SELECT kasm_latency.register_host('10.0.0.1', NULL);
SELECT kasm_latency.register_host('10.0.0.1', '');
SELECT kasm_latency.register_host('10.0.0.1', '  ');
SELECT kasm_latency.register_host('10.0.0.1', E'two\nlines');
SELECT kasm_latency.register_host('10.5.0.1', 'new site', 'candidate');
SELECT kasm_latency.forget_host('10.5.0.1');
SELECT kasm_latency.register_host('10.0.0.1', 'x', 'boss');
SELECT kasm_latency.register_host('10.0.0.1', 'x', NULL);
SELECT kasm_latency.register_host('10.0.0.1', 'x', zone => E'\x01');
SELECT kasm_latency.register_host('10.0.0.1', repeat('x', 256));
SELECT kasm_latency.register_host('not an address', 'x');
SELECT kasm_latency.forget_host(NULL);
SELECT count(*) FROM kasm_latency.host_registry;

-- the registry is the extension's configuration: pg_dump carries it
SELECT extconfig::regclass[] FROM pg_extension WHERE extname = 'kasm_latency';

-- roles that are shown, never flagged; app_roles
SET kasm_latency.rtt_limit = '1us';
SELECT kasm_latency.register_host('0.0.0.0/0', 'monitor', 'monitor');
SELECT kasm_latency.register_host('::/0', 'monitor', 'monitor');
SELECT count(*) FROM kasm_latency.flagged WHERE client_addrs IS NOT NULL;
SET kasm_latency.app_roles = 'kasmapp, "Odd, ""name"""';
SELECT kasm_latency_internal.app_roles();
SELECT count(*) FROM kasm_latency.flagged;
SET kasm_latency.app_roles = '';
SELECT kasm_latency_internal.app_roles();

DROP EXTENSION kasm_latency;
