-- The public names, whole: what users may type, and nothing else; and the rules that need no clients.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

-- relations (their columns are in the test columns), functions, and nothing of another kind
SELECT c.relname, c.relkind FROM pg_class c
WHERE c.relnamespace = 'kasm_latency'::regnamespace AND c.relkind <> 'i' ORDER BY c.relname COLLATE "C";
\pset format unaligned
SELECT format('%s(%s)', p.proname, pg_get_function_arguments(p.oid)) AS function, pg_get_function_result(p.oid) AS result
FROM pg_proc p WHERE p.pronamespace = 'kasm_latency'::regnamespace
ORDER BY p.proname COLLATE "C", p.pronargs;
\pset format aligned
SELECT count(*) AS others FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE t.typnamespace = 'kasm_latency'::regnamespace AND t.typcategory <> 'A' AND c.oid IS NULL;
SELECT count(*) AS relations_inside FROM pg_class c WHERE c.relnamespace = 'kasm_latency_internal'::regnamespace;

-- latencies are double precision milliseconds
SELECT c.relname, a.attname, format_type(a.atttypid, NULL)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'kasm_latency'::regnamespace AND a.attname ~ '_(ms|s)$'
  AND a.atttypid <> 'double precision'::regtype;

-- what runs as the extension's owner
SELECT p.oid::regprocedure AS definer
FROM pg_proc p WHERE p.pronamespace IN ('kasm_latency'::regnamespace, 'kasm_latency_internal'::regnamespace) AND p.prosecdef
ORDER BY p.oid::regprocedure::text COLLATE "C";

-- no name is hidden by one of the other schema
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'kasm_latency'::regnamespace
INTERSECT SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'kasm_latency_internal'::regnamespace;

-- everything has a comment, every function a pinned search_path
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'kasm_latency'::regnamespace AND c.relkind IN ('r', 'v')
  AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT n.nspname FROM pg_namespace n WHERE n.nspname ~ '^kasm_latency' AND obj_description(n.oid, 'pg_namespace') IS NULL;
SELECT p.proname FROM pg_proc p
WHERE p.pronamespace IN ('kasm_latency'::regnamespace, 'kasm_latency_internal'::regnamespace)
  AND (obj_description(p.oid, 'pg_proc') IS NULL
       OR p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND p.prokind = 'f' AND NOT coalesce(p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false));

-- the views and functions answer
SELECT count(*) >= 1 AS clients FROM kasm_latency.clients;
SELECT count(*) >= 1 AS hosts FROM kasm_latency.hosts;
SELECT count(*) AS flagged FROM kasm_latency.flagged;
SELECT count(*) AS me FROM kasm_latency.connections WHERE pid = pg_backend_pid();
SELECT sum(round_trips) > 0 AS totals FROM kasm_latency.totals;
SELECT version, clients >= 1 AS clients, max_clients, overflowed, coalesce(saved_at < now(), true) AS saved_at FROM kasm_latency.info;
SELECT info.shared_memory_bytes = allocated_size AS memory_is_what_is_allocated,
       info.shared_memory_bytes <= 32 * 1024 * 1024 AS within_32_mb
FROM kasm_latency.info, pg_shmem_allocations WHERE name = 'kasm_latency';
SELECT sum(count) > 0 AS counted, round(sum(share)::numeric, 2) AS share FROM kasm_latency.histogram('server');
SELECT count(*) FROM kasm_latency.histogram('server', 'no such host');
SELECT count(*) >= 1 AS client_stats FROM kasm_latency.client_stats('1 hour');
SELECT count(*) >= 1 AS impact FROM kasm_latency.impact;
SELECT count(*) >= 1 AS diagnose FROM kasm_latency.diagnose();
SELECT host FROM kasm_latency.diagnose('[local]');
SELECT count(*) AS diagnose FROM kasm_latency.diagnose('no such host');
SELECT kasm_latency.summary();
SELECT count(*) AS blocking FROM kasm_latency.blocking;
SELECT count(*) AS placement_plan FROM kasm_latency.placement_plan('no such host');
SELECT count(*) >= 1 AS host_stats FROM kasm_latency.host_stats('1 minute');

-- every exchange of this session is counted once: reading it is one
SELECT round_trips AS before FROM kasm_latency.connections WHERE pid = pg_backend_pid() \gset
SELECT 1 \g (format=unaligned tuples_only=on)
SELECT 2 \g (format=unaligned tuples_only=on)
SELECT round_trips - :before AS counted FROM kasm_latency.connections WHERE pid = pg_backend_pid();

-- path classes, at their bounds
SELECT ms, kasm_latency.path_class(ms)
FROM unnest(ARRAY[0, 0.999, 1, 4.999, 5, 9.999, 10, 99.9, 100, 'Infinity', NULL]::float8[]) AS ms;

-- histograms: merged, and their percentiles (a cell is at most 10 % wide)
SELECT kasm_latency_internal.percentile_ms(''::bytea, 0.5) AS of_nothing, kasm_latency_internal.count_from(''::bytea, 0) AS none,
       kasm_latency_internal.percentile_ms(kasm_latency_internal.merge_histograms(''::bytea), 0.5) AS merged;
SELECT kasm_latency_internal.merge_histograms(h) IS NULL AS of_no_rows FROM (SELECT NULL::bytea AS h WHERE false) x;

-- of a cell that the limit cuts through nobody knows: here 100 in [10, 11) ms
CREATE TEMPORARY VIEW hundred AS SELECT decode(to_hex(115), 'hex') || '\x6400000000000000'::bytea AS h;
SELECT limit_ms, kasm_latency_internal.count_below(h, limit_ms), kasm_latency_internal.count_from(h, limit_ms)
FROM hundred, unnest(ARRAY[9.5, 10, 10.5, 11, 11.5]) AS limit_ms;
SELECT c.*, kasm_latency_internal.percentile_ms(h, 0.5) FROM hundred, kasm_latency_internal.histogram_cells(h) AS c;

-- the rule of the verdicts, case by case
SELECT why, kasm_latency_internal.verdict(host_role, measured, rtt, mixed, samples, p10, p50, 10, 20) AS verdict
FROM (VALUES
    (1, 'nothing measured', 'webapp', false, 0.4, false, 0, NULL, NULL),
    (2, 'floor at the limit', 'webapp', true, 10, false, 0, NULL, NULL),
    (3, 'floor below, ceilings below', 'webapp', true, 9.999, false, 20, 9.999, 9.999),
    (4, 'floor below, too few ceilings', 'webapp', true, 9.999, false, 19, 50, 50),
    (5, 'the tenth percentile at the limit', 'webapp', true, 0.4, false, 20, 10, 11),
    (6, 'the median at the limit', 'webapp', true, 0.4, false, 20, 9.9, 10),
    (7, 'mixed, the newest near', 'webapp', true, 0.4, true, 100, 0.5, 0.5),
    (8, 'mixed, the newest far', 'webapp', true, 60, true, 100, 0.5, 0.5),
    (9, 'no floor, ceilings below', 'webapp', true, NULL, false, 20, 0.5, 0.5),
    (10, 'no floor, ceilings above', 'webapp', true, NULL, false, 20, 15, 15),
    (11, 'no floor, few ceilings', 'webapp', true, NULL, false, 5, 15, 15),
    (12, 'a proxy that connects', 'proxy', true, 0.4, false, 20, 0.5, 0.5),
    (13, 'an agent, far away', 'agent', true, 120, false, 20, 120, 120),
    (14, 'a proxy that does not', 'proxy', false, NULL, false, 0, NULL, NULL),
    (15, 'admin', 'admin', true, 120, false, 0, NULL, NULL),
    (16, 'candidate, far away', 'candidate', true, 120, false, 20, 120, 120)
) AS t (n, why, host_role, measured, rtt, mixed, samples, p10, p50) ORDER BY n;
SELECT why, kasm_latency_internal.mixed_distances(rtt, 10, near, far, near_since, far_since) AS mixed
FROM (VALUES
    (1, 'all near', 0.4, 10, 0, 10, 0),
    (2, 'three far connections of many', 0.4, 997, 3, 100, 0),
    (3, 'two far connections of many', 0.4, 998, 2, 100, 0),
    (4, 'one of ten', 0.4, 9, 1, 100, 0),
    (5, 'far alone', 60, 0, 10, 0, 10),
    (6, 'far now, near before', 60, 10, 1, 0, 10),
    (7, 'far now, near answers since', 60, 10, 1, 3, 100),
    (8, 'far now, one accident since', 60, 10, 1, 1, 100),
    (9, 'no round trip known', NULL, 0, 0, 10, 10)
) AS t (n, why, rtt, near, far, near_since, far_since) ORDER BY n;
SELECT verdict, rank, severity FROM kasm_latency.verdicts ORDER BY rank DESC;

-- sentences
SELECT kasm_latency_internal.ms_text(ms) FROM unnest(ARRAY[0.023, 0.4, 9.994, 10, 25.26, 118.2, 1234]::float8[]) AS ms;
SELECT reason, kasm_latency_internal.remedy(v, m) AS remedy
FROM (VALUES
    ('unexpected_client', true, 0.4, 200, 5, 4, 30, 0, 402, 340, 0.5, 60),
    ('out_of_band', false, 118.2, 0, 0, 3, 0, 340, 402, 340, 119, 121.5),
    ('out_of_band', false, 118.2, 200, 0, 3, 0, 0, 402, 0, NULL, NULL),
    ('unproven', false, 0.4, 20, 5, 0, 0, 340, 402, 340, 119, 121.5),
    ('unproven', true, 0.4, 0, 5, 4, 30, 0, 402, 340, 0.5, 60),
    ('unproven', true, 60, 0, 5, 1, 30, 310, 402, 340, 0.5, 60)
) AS t (v, m, rtt, age, near, far, near_since, far_since, n, samples, p10, p50),
LATERAL kasm_latency_internal.reason(v, 'proxy', m, rtt, age, near, far, near_since, far_since, n, samples, p10, p50, 10) AS reason \gx

-- what to do next, by what diagnose() concludes
SELECT bound, flagged, kasm_latency_internal.next_step(bound, 'it''s "far"', flagged) AS next_step
FROM (VALUES ('network-bound'), ('server-bound'), ('client-bound'), ('healthy'), ('no data')) AS b (bound),
     unnest(ARRAY[true, false]) AS flagged \gx

-- nothing measured: what to check
SET kasm_latency.app_roles = 'regress_no_such_role';
SELECT kasm_latency.summary();
RESET kasm_latency.app_roles;

DROP EXTENSION kasm_latency;
SELECT count(*) AS left_behind FROM pg_namespace WHERE nspname ~ '^kasm_latency';
