-- A role that puts its own objects in the way, and names full of markup: nothing changes, nothing breaks.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;
SELECT kasm_latency.register_host('127.0.0.0/8', 'by address') \g (format=unaligned tuples_only=on)

-- what our functions call by a name that could be somebody else's
SET client_min_messages = warning;
CREATE SCHEMA evil;
CREATE FUNCTION evil.spring() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the trap was sprung'; END $$;
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.proname, oidvectortypes(p.proargtypes) AS arguments, p.prorettype::regtype AS result
             FROM pg_proc AS p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.provariadic = 0
               AND p.proname IN ('format', 'round', 'lower', 'host', 'masklen', 'network', 'set_masklen', 'split_part', 'btrim',
                                 'current_setting', 'trim_scale', 'repeat', 'ceil', 'substr', 'length', 'replace',
                                 'pg_blocking_pids', 'to_regclass', 'clock_timestamp', 'left', 'regexp_replace', 'coalesce',
                                 'has_column_privilege', 'quote_literal')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS '
                       '$f$ BEGIN RAISE EXCEPTION ''the trap was sprung''; END $f$', f.proname, f.arguments, f.result);
    END LOOP;
END
$$;
CREATE FUNCTION evil.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN evil.spring(); END $$;
CREATE FUNCTION evil.trap(double precision, double precision) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN evil.spring(); END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.trap);
CREATE OPERATOR evil.>= (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = evil.trap);
CREATE OPERATOR evil.< (LEFTARG = double precision, RIGHTARG = double precision, FUNCTION = evil.trap);
CREATE VIEW evil.pg_stat_activity AS SELECT evil.spring();
CREATE VIEW evil.pg_database AS SELECT evil.spring();
CREATE VIEW evil.pg_roles AS SELECT evil.spring();
CREATE VIEW evil.pg_locks AS SELECT evil.spring();
SET search_path = evil, pg_catalog;
SELECT lower('the traps are set');
SELECT 1.0::double precision < 2.0::double precision AS set_too;
SELECT * FROM pg_locks;
SELECT count(*) > 0 AS clients FROM kasm_latency.clients;
SELECT count(*) > 0 AS hosts FROM kasm_latency.hosts;
SELECT count(*) AS flagged FROM kasm_latency.flagged;
SELECT count(*) > 0 AS connections FROM kasm_latency.connections;
SELECT count(*) > 0 AS totals FROM kasm_latency.totals;
SELECT count(*) > 0 AS impact FROM kasm_latency.impact;
SELECT count(*) AS blocking FROM kasm_latency.blocking;
SELECT count(*) AS info FROM kasm_latency.info;
SELECT count(*) > 0 AS diagnose FROM kasm_latency.diagnose();
SELECT count(*) AS placement_plan FROM kasm_latency.placement_plan();
SELECT count(*) > 0 AS histogram FROM kasm_latency.histogram('server');
SELECT kasm_latency.path_class(3), kasm_latency.launch_cost(10, 100), kasm_latency.launch_capacity(20, 10, 100);
SELECT kasm_latency.register_host('10.0.0.1', 'x') \g (format=unaligned tuples_only=on)
SELECT kasm_latency.forget_host('10.0.0.1');
SELECT kasm_latency.summary() LIKE '%within%' AS summary;
SELECT kasm_latency.reset('10.0.0.1') IS NOT NULL AS reset;
CREATE TABLE public.managers (manager_hostname text, zone_id int);
CREATE TABLE public.zones (zone_id int, zone_name text);
INSERT INTO public.managers VALUES ('webapp-1', 1);
SELECT kasm_latency.import_kasm_hosts();
DROP TABLE public.managers, public.zones;
RESET search_path;
DROP SCHEMA evil CASCADE;
RESET client_min_messages;

-- names are text, whatever is in them
SET application_name = '''";<script>alert(1)</script> %s %I $$ \';
SELECT application_name FROM kasm_latency.connections WHERE pid = pg_backend_pid();
SELECT kasm_latency.register_host('0.0.0.0/0', '''"; DROP TABLE x; -- <b>&amp; %s %I $$ \ {}', zone => '<script>') \g (format=unaligned tuples_only=on)
SELECT host, zone FROM kasm_latency_internal.host_of('10.1.2.3', NULL);
SELECT count(*) FROM kasm_latency.histogram('rtt', '''"; DROP TABLE x; -- <b>&amp; %s %I $$ \ {}');

DROP EXTENSION kasm_latency;
