-- Who may do what: a plain role nothing, pg_read_all_stats reads.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;
CREATE ROLE regress_kasm_plain;
CREATE ROLE regress_kasm_reader IN ROLE pg_read_all_stats;
CREATE ROLE regress_kasm_monitor IN ROLE pg_monitor;

SET ROLE regress_kasm_plain;
SELECT * FROM kasm_latency.clients;
SELECT * FROM kasm_latency.info;
SELECT kasm_latency.path_class(1);
SELECT kasm_latency.reset();
RESET ROLE;

-- object by object
SELECT r.rolname, count(*) FILTER (WHERE has_table_privilege(r.oid, c.oid, 'SELECT')) AS may_select, count(*) AS relations
FROM pg_roles r, pg_class c
WHERE r.rolname ~ '^regress_kasm' AND c.relnamespace = 'kasm_latency'::regnamespace AND c.relkind IN ('r', 'v')
GROUP BY 1 ORDER BY 1;
SELECT r.rolname, p.oid::regprocedure AS refused
FROM pg_roles r, pg_proc p
WHERE r.rolname ~ '^regress_kasm_(reader|monitor)' AND p.pronamespace = 'kasm_latency'::regnamespace
  AND NOT has_function_privilege(r.oid, p.oid, 'EXECUTE')
ORDER BY 1, p.oid::regprocedure::text COLLATE "C";
SELECT count(*) AS open_to_public
FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'kasm_latency'::regnamespace AND a.grantee = 0;

-- and in deed
SET ROLE regress_kasm_monitor;
SELECT count(*) >= 1 AS clients FROM kasm_latency.clients;
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;
SELECT count(*) AS flagged FROM kasm_latency.flagged;
SELECT count(*) >= 1 AS connections FROM kasm_latency.connections;
SELECT count(*) >= 1 AS totals FROM kasm_latency.totals;
SELECT count(*) AS info FROM kasm_latency.info;
SELECT count(*) >= 1 AS histogram FROM kasm_latency.histogram('server');
SELECT count(*) >= 1 AS impact FROM kasm_latency.impact;
SELECT count(*) AS blocking FROM kasm_latency.blocking;
SELECT count(*) >= 1 AS diagnose FROM kasm_latency.diagnose();
SELECT count(*) >= 0 AS placement_plan FROM kasm_latency.placement_plan();
SELECT count(*) AS registry FROM kasm_latency.host_registry;
SELECT kasm_latency.reset();
SELECT kasm_latency.reset('127.0.0.1');
SELECT kasm_latency.register_host('10.0.0.1', 'x');
SELECT kasm_latency.forget_host('10.0.0.1');
INSERT INTO kasm_latency.host_registry VALUES ('10.0.0.1', 'x', 'webapp');
RESET ROLE;

-- what the owner grants, works: it runs as the owner
GRANT EXECUTE ON FUNCTION kasm_latency.register_host(inet, text, text, text), kasm_latency.reset(inet) TO regress_kasm_monitor;
SET ROLE regress_kasm_monitor;
SELECT kasm_latency.register_host('10.0.0.1', 'x');
SELECT kasm_latency.reset('10.0.0.1') IS NOT NULL AS reset;
RESET ROLE;
TABLE kasm_latency.host_registry;

DROP EXTENSION kasm_latency;
DROP ROLE regress_kasm_plain, regress_kasm_reader, regress_kasm_monitor;
