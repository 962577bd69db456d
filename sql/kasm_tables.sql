-- Kasm's own tables: as they are said to be, absent, of another shape, hostile.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;
CREATE ROLE regress_kasm_reader IN ROLE pg_read_all_stats;

-- absent: nothing, and why; silence inside views
SELECT * FROM kasm_latency.kasm_hosts();
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;

-- as they are said to be
CREATE TABLE managers (manager_id uuid, manager_hostname varchar(255), zone_id uuid);
CREATE TABLE zones (zone_id uuid, zone_name varchar(255));
INSERT INTO zones VALUES ('00000000-0000-0000-0000-000000000001', 'default'),
                         ('00000000-0000-0000-0000-000000000002', E'eu\nwest');
INSERT INTO managers VALUES (NULL, 'webapp-1', '00000000-0000-0000-0000-000000000001'),
                            (NULL, 'webapp-1', '00000000-0000-0000-0000-000000000001'),
                            (NULL, 'WebApp-EU.example.com', '00000000-0000-0000-0000-000000000002'),
                            (NULL, 'homeless', NULL), (NULL, NULL, NULL), (NULL, '', NULL);
SELECT * FROM kasm_latency.kasm_hosts();
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;

-- without the right to read them
SET ROLE regress_kasm_reader;
SELECT * FROM kasm_latency.kasm_hosts();
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;
RESET ROLE;

-- of another shape
ALTER TABLE zones RENAME zone_name TO name;
SELECT * FROM kasm_latency.kasm_hosts();
ALTER TABLE zones RENAME name TO zone_name;
ALTER TABLE managers ALTER zone_id TYPE text;
SELECT count(*) FROM kasm_latency.kasm_hosts();
ALTER TABLE managers ALTER manager_hostname TYPE jsonb USING '{}';
SELECT * FROM kasm_latency.kasm_hosts();
DROP TABLE managers;

-- what would run somebody else's code is not read: views, row security, casts
CREATE FUNCTION trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the trap was sprung'; END $$;
CREATE VIEW managers AS SELECT trap() AS manager_hostname, NULL::uuid AS zone_id;
SELECT * FROM kasm_latency.kasm_hosts();
DROP VIEW managers;
CREATE TABLE managers (manager_hostname text, zone_id uuid);
INSERT INTO managers VALUES ('webapp-1', NULL);
ALTER TABLE managers ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON managers USING (trap() IS NOT NULL);
SELECT * FROM kasm_latency.kasm_hosts();
DROP TABLE managers;
CREATE TYPE trap_type AS (a text);
CREATE FUNCTION trap(trap_type) RETURNS text LANGUAGE sql AS $$ SELECT trap() $$;
CREATE CAST (trap_type AS text) WITH FUNCTION trap(trap_type) AS IMPLICIT;
CREATE TABLE managers (manager_hostname text, zone_id trap_type);
INSERT INTO managers VALUES ('webapp-1', ROW('x'));
SELECT * FROM kasm_latency.kasm_hosts();
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;

DROP TABLE managers;

-- nor is it planned: an index's expression and a statistics' would be evaluated
CREATE TABLE managers (manager_hostname text, zone_id uuid);
INSERT INTO managers VALUES ('webapp-1', '00000000-0000-0000-0000-000000000002');
CREATE FUNCTION quiet_trap() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN current_setting('trap.armed', true) = 'on' THEN public.trap() END; END $$;
CREATE INDEX ON managers ((manager_hostname || quiet_trap()));
CREATE INDEX ON managers (zone_id) WHERE manager_hostname <> quiet_trap();
CREATE STATISTICS trap_statistics ON zone_id, manager_hostname FROM managers;
SET trap.armed = 'on';
SELECT count(*) FROM managers;
SELECT * FROM kasm_latency.kasm_hosts();
SELECT kasm_latency.snapshot() >= 0 AS snapshot;
RESET trap.armed;

-- a table that somebody filled up does not stall a view
INSERT INTO managers SELECT 'filler-' || n FROM generate_series(1, 100000) AS n;
SELECT count(*) FROM kasm_latency.kasm_hosts();

DROP TABLE managers, zones;
DROP FUNCTION quiet_trap();
DROP FUNCTION trap() CASCADE;
DROP TYPE trap_type CASCADE;
DROP EXTENSION kasm_latency;
DROP ROLE regress_kasm_reader;
