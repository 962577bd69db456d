-- Who may do what: a plain role nothing, pg_read_all_stats reads.
\set SHOW_CONTEXT never
CREATE ROLE regress_kasm_owner SUPERUSER;
SET ROLE regress_kasm_owner;
CREATE EXTENSION kasm_latency;
RESET ROLE;
ALTER ROLE regress_kasm_owner NOSUPERUSER;
CREATE ROLE regress_kasm_plain;
CREATE ROLE regress_kasm_reader IN ROLE pg_read_all_stats;
CREATE ROLE regress_kasm_monitor IN ROLE pg_monitor;

SET ROLE regress_kasm_plain;
SELECT * FROM kasm_latency.clients;
SELECT * FROM kasm_latency.info;
SELECT * FROM kasm_latency_internal.client_figures(NULL);
SELECT kasm_latency.path_class(1);
SELECT kasm_latency.reset();
RESET ROLE;

-- object by object: Superuser, Owner, pg_Monitor, pg_Read_all_stats, Plain role
CREATE VIEW rights AS
    SELECT object, kind,
           string_agg(CASE WHEN reads THEN letter ELSE '-' END, '' ORDER BY place) AS rights,
           string_agg(CASE WHEN writes THEN letter ELSE '-' END, '' ORDER BY place) AS writes
    FROM (VALUES (1, 'S', current_user::text), (2, 'O', 'regress_kasm_owner'), (3, 'M', 'regress_kasm_monitor'),
                 (4, 'R', 'regress_kasm_reader'), (5, 'P', 'regress_kasm_plain')) AS r (place, letter, name)
    CROSS JOIN LATERAL (
        SELECT c.oid::regclass::text AS object, 'relation' AS kind,
               has_table_privilege(name, c.oid, 'SELECT') AND has_schema_privilege(name, c.relnamespace, 'USAGE') AS reads,
               has_table_privilege(name, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AS writes
        FROM pg_class AS c WHERE c.relnamespace::regnamespace::text ~ '^kasm_latency' AND c.relkind IN ('r', 'v')
        UNION ALL
        SELECT p.oid::regprocedure::text, 'function',
               has_function_privilege(name, p.oid, 'EXECUTE') AND has_schema_privilege(name, p.pronamespace, 'USAGE'), NULL
        FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text ~ '^kasm_latency') AS o
    GROUP BY object, kind;
SELECT kind, object, rights, writes FROM rights ORDER BY kind DESC, object COLLATE "C";
DROP VIEW rights;
SELECT count(*) AS open_to_public
FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace::regnamespace::text ~ '^kasm_latency' AND a.grantee = 0;

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
SELECT count(*) AS kasm_hosts FROM kasm_latency.kasm_hosts;
SELECT kasm_latency.summary() IS NOT NULL AS summary;
SELECT kasm_latency.assert_in_band() IS NOT NULL AS checked;
SELECT length(kasm_latency.report()) > 0 AS report;
SELECT count(*) >= 0 AS placement_plan FROM kasm_latency.placement_plan();
SELECT count(*) AS registry FROM kasm_latency.host_registry;
SELECT kasm_latency.reset();
SELECT kasm_latency.reset('127.0.0.1');
SELECT kasm_latency_internal.reset_address('127.0.0.1');
SELECT kasm_latency.import_kasm_hosts();
SELECT kasm_latency.snapshot();
SELECT kasm_latency.prune();
SELECT kasm_latency.register_host('10.0.0.1', 'x');
SELECT kasm_latency.forget_host('10.0.0.1');
INSERT INTO kasm_latency.host_registry VALUES ('10.0.0.1', 'x', 'webapp');
DELETE FROM kasm_latency.kasm_hosts;
RESET ROLE;

-- what the owner grants, works: it runs as the owner
GRANT EXECUTE ON FUNCTION kasm_latency.register_host(inet, text, text, text), kasm_latency.reset(text) TO regress_kasm_monitor;
SET ROLE regress_kasm_monitor;
SELECT kasm_latency.register_host('10.0.0.1', 'x');
SELECT kasm_latency.reset('10.0.0.1') IS NOT NULL AS reset;
RESET ROLE;
TABLE kasm_latency.host_registry;

DROP EXTENSION kasm_latency;
DROP ROLE regress_kasm_plain, regress_kasm_reader, regress_kasm_monitor, regress_kasm_owner;
