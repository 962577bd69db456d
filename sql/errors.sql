-- Bad input: a clear ERROR, or NULL for NULL, and nothing changed.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

SELECT * FROM kasm_latency.histogram('rrt');
SELECT * FROM kasm_latency.histogram(NULL);
SELECT * FROM kasm_latency.histogram('rtt', since => '-1 minute');
SELECT * FROM kasm_latency.histogram('rtt', since => '0');
SELECT * FROM kasm_latency.histogram('rtt', since => '61 minutes');
SELECT * FROM kasm_latency.histogram('rtt', since => '1 month');
SELECT * FROM kasm_latency.client_stats('2 hours');
SELECT * FROM kasm_latency.host_stats('-1 day');
SELECT kasm_latency.path_class(NULL), kasm_latency.path_class('NaN');
SELECT kasm_latency.path_class(NULL);
SELECT kasm_latency.path_class('NaN');
SELECT kasm_latency.path_class(-0.1);
SELECT kasm_latency.reset('10.0.0.0/8');
SELECT kasm_latency.reset('no such host');
SELECT kasm_latency.reset('');
SELECT kasm_latency.reset(NULL);
SELECT kasm_latency_internal.percentile_ms('\x00'::bytea, 0.5);
SELECT kasm_latency_internal.percentile_ms('\x000000000000000010'::bytea, 0.5);
SELECT kasm_latency_internal.percentile_ms('\x00000000000000001080'::bytea, 0.5);
SELECT kasm_latency_internal.percentile_ms('\x000000000000000010ffffffffffffffffffff01'::bytea, 0.5);
SELECT kasm_latency_internal.percentile_ms('', 1.1);
SELECT kasm_latency_internal.percentile_ms('', 'NaN');

-- settings; of a range PostgreSQL's versions say the same in different words
\set VERBOSITY sqlstate
SET kasm_latency.rtt_limit = 0;
SET kasm_latency.rtt_limit = '2 min';
SET kasm_latency.recent = 0;
SET kasm_latency.recent = '61 min';
\set VERBOSITY default
SET kasm_latency.rtt_limit = 'NaN';
SET kasm_latency.min_samples = 0;
SET kasm_latency.app_roles = 'a,,b';
SET kasm_latency.idle_after = 10;
SET kasm_latency.enabled = off;
SET kasm_latency.max_clients = 10;
SET kasm_latency.log_far_clients = off;
SET kasm_latency.save = off;
SELECT name, boot_val, min_val, max_val, unit, context FROM pg_settings WHERE name LIKE 'kasm_latency.%' ORDER BY name COLLATE "C";

SET kasm_latency.rtt_limit = 0.5;
SELECT kasm_latency_internal.limit_ms();
SET kasm_latency.rtt_limit = '1.5s';
SELECT kasm_latency_internal.limit_ms();
SET kasm_latency.rtt_limit = 12345.678;
SELECT kasm_latency_internal.limit_ms();
SELECT count(*) AS flagged FROM kasm_latency.flagged;
SET intervalstyle = sql_standard;
SET kasm_latency.recent = '1h';
SELECT kasm_latency_internal.recent() = interval '1 hour' AS recent;
RESET ALL;
SELECT kasm_latency_internal.limit_ms(), kasm_latency_internal.recent() = interval '15 minutes' AS recent, kasm_latency_internal.min_samples();

-- the schemas are never adopted
DROP EXTENSION kasm_latency;
CREATE SCHEMA kasm_latency;
CREATE EXTENSION kasm_latency;
DROP SCHEMA kasm_latency;
CREATE SCHEMA kasm_latency_internal;
CREATE EXTENSION kasm_latency;
DROP SCHEMA kasm_latency_internal;
CREATE EXTENSION kasm_latency SCHEMA public;
