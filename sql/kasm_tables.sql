-- Kasm's own tables: copied when a DBA says so, and never looked at by a view.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;
CREATE ROLE regress_kasm_reader IN ROLE pg_read_all_stats;
CREATE ROLE regress_kasm_dba;
GRANT USAGE ON SCHEMA kasm_latency TO regress_kasm_dba;
GRANT EXECUTE ON FUNCTION kasm_latency.import_kasm_hosts() TO regress_kasm_dba;
GRANT SELECT, INSERT, UPDATE, DELETE ON kasm_latency.kasm_hosts TO regress_kasm_dba;

-- absent: an error that says what is missing
SELECT kasm_latency.import_kasm_hosts();

-- as they are said to be
CREATE TABLE managers (manager_id uuid, manager_hostname varchar, zone_id uuid);
CREATE TABLE zones (zone_id uuid, zone_name varchar(255));
INSERT INTO zones VALUES ('00000000-0000-0000-0000-000000000001', 'default'),
                         ('00000000-0000-0000-0000-000000000002', E'eu\nwest');
INSERT INTO managers VALUES (NULL, 'webapp-1', '00000000-0000-0000-0000-000000000001'),
                            (NULL, 'webapp-1', '00000000-0000-0000-0000-000000000001'),
                            (NULL, 'WEBAPP-1', NULL),
                            (NULL, 'WebApp-EU.example.com', '00000000-0000-0000-0000-000000000002'),
                            (NULL, '192.0.2.7', '00000000-0000-0000-0000-000000000002'),
                            (NULL, E' a\tb ', NULL), (NULL, repeat('x', 1000), NULL),
                            (NULL, 'homeless', NULL), (NULL, NULL, NULL), (NULL, '', NULL), (NULL, '  ', NULL);
SELECT kasm_latency.import_kasm_hosts();
SELECT left(host, 30) AS host, length(host), zone FROM kasm_latency.kasm_hosts ORDER BY host COLLATE "C";

-- a second time: in the place of the first
DELETE FROM managers WHERE manager_hostname = 'homeless';
SELECT kasm_latency.import_kasm_hosts();

-- zones of hosts that nobody registered, or without one: by the name resolved, its first label, the name given, the address
SELECT kasm_latency.register_host('10.0.0.1', 'webapp-1'), kasm_latency.register_host('10.0.0.2', 'WebApp-1', zone => 'mine') \g (format=unaligned tuples_only=on)
SELECT addr, name, (kasm_latency_internal.host_of(addr, name)).*
FROM (VALUES (inet '192.0.2.1', 'webapp-eu.EXAMPLE.com'), ('192.0.2.2', 'homeless'), ('192.0.2.3', 'a'), ('192.0.2.7', NULL),
             ('10.0.0.1', NULL), ('10.0.0.2', NULL), ('10.0.0.1', 'webapp-eu.example.com'),
             -- a name that may not be taken gives no zone either
             ('192.0.2.4', 'webapp-1'), (NULL, NULL)) AS t (addr, name);

-- by hand, as from another database: what does not fit is refused
INSERT INTO kasm_latency.kasm_hosts VALUES ('', NULL);
INSERT INTO kasm_latency.kasm_hosts VALUES (E'a\nb', NULL);
INSERT INTO kasm_latency.kasm_hosts VALUES ('a', repeat('x', 256));

-- as whoever calls: without the right to read Kasm's tables, or to write ours
SET ROLE regress_kasm_dba;
SELECT kasm_latency.import_kasm_hosts();
RESET ROLE;
GRANT SELECT ON managers, zones TO regress_kasm_dba;
REVOKE DELETE ON kasm_latency.kasm_hosts FROM regress_kasm_dba;
SET ROLE regress_kasm_dba;
SELECT kasm_latency.import_kasm_hosts();
RESET ROLE;
GRANT DELETE ON kasm_latency.kasm_hosts TO regress_kasm_dba;
SET ROLE regress_kasm_dba;
SELECT kasm_latency.import_kasm_hosts();
RESET ROLE;

-- of another shape: what is missing, and nothing changed
ALTER TABLE zones RENAME zone_name TO name;
SELECT kasm_latency.import_kasm_hosts();
ALTER TABLE zones RENAME name TO zone_name;
ALTER TABLE managers ALTER zone_id TYPE text;
SELECT kasm_latency.import_kasm_hosts();
ALTER TABLE managers DROP manager_hostname;
SELECT kasm_latency.import_kasm_hosts();
DROP TABLE zones;
SELECT count(*) FROM kasm_latency.kasm_hosts;

-- views do not care for what is in their place, locked or sprung
DROP TABLE managers;
CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the trap was sprung'; END $$;
CREATE VIEW managers AS SELECT trap() AS manager_hostname, NULL::uuid AS zone_id;
CREATE VIEW zones AS SELECT NULL::uuid AS zone_id, trap() AS zone_name;
SET ROLE regress_kasm_reader;
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;
SELECT count(*) >= 1 AS clients FROM kasm_latency.clients;
SELECT count(*) >= 0 AS flagged FROM kasm_latency.flagged;
SELECT count(*) >= 1 AS totals FROM kasm_latency.totals;
RESET ROLE;
SELECT kasm_latency.snapshot() >= 0 AS snapshot;
-- and who imports has been told that it is a query: what it runs runs as its caller
SELECT kasm_latency.import_kasm_hosts();
SELECT count(*) FROM kasm_latency.kasm_hosts;

DROP VIEW managers, zones;
DROP FUNCTION trap();
DROP EXTENSION kasm_latency;
DROP ROLE regress_kasm_reader, regress_kasm_dba;
