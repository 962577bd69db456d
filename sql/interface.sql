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
SELECT info.shared_memory_bytes = (SELECT sum(a.allocated_size) FROM pg_shmem_allocations AS a WHERE a.name LIKE 'kasm_latency%') AS memory_is_what_is_allocated,
       info.shared_memory_bytes <= 36000000 AS within_36_mb
FROM kasm_latency.info;
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
-- (a histogram is a sum, or -1 where it is not known, and cells with their counts)
CREATE TEMPORARY VIEW hundred AS SELECT '\xffffffffffffffff7364'::bytea AS h;
SELECT limit_ms, kasm_latency_internal.count_below(h, limit_ms), kasm_latency_internal.count_from(h, limit_ms)
FROM hundred, unnest(ARRAY[9.5, 10, 10.5, 11, 11.5]) AS limit_ms;
SELECT c.*, kasm_latency_internal.percentile_ms(h, 0.5) FROM hundred, kasm_latency_internal.histogram_cells(h) AS c;

-- the sum tells where in its cell a steady latency lies: 100 of 10.9 ms; 50 each of 9.9 and 10.1 ms; 99 of 10.9 ms and
-- one of 5 s, whose cell is so wide that nothing can be told of the others; two of 0.4 ms and 100 of 10.9 ms; 1000 of
-- 1.0 ms and one of an hour, which is beyond the scale
SELECT name, kasm_latency_internal.percentile_ms(h, 0.1) AS p10, kasm_latency_internal.percentile_ms(h, 0.5) AS p50,
       kasm_latency_internal.percentile_ms(h, 0.99) AS p99, kasm_latency_internal.sum_s(h)
FROM (VALUES
    ('steady', '\x50a11000000000007364'::bytea),
    ('at a bound', '\x40420f000000000072327332'),
    ('with an outlier', '\x74bd5c00000000007363cd01'),
    ('beyond the scale', '\x40e6a2d60000000050e807ff01'),
    ('on both sides', '\x5874060000000000720a731e'), -- ten of 9.6 and thirty of 10.9 ms
    ('near and far', '\x70a410000000000041027364')) AS h (name, h);
SELECT kasm_latency_internal.percentile_ms(kasm_latency_internal.part_from(h, 10), 0.5) AS far_p50,
       kasm_latency_internal.count_from(kasm_latency_internal.part_from(h, 10), 0) AS far
FROM (VALUES ('\x70a410000000000041027364'::bytea)) AS h (h);

-- what far blocks show
SELECT why, kasm_latency_internal.far_blocks_show(
           blocks, far, p50, kasm_latency_internal.steady_ms(far, p10, p50, p90), samples, alike, between, rtt) AS show
FROM (VALUES
    (1, 'none', 76, 0, NULL, NULL, NULL, 900, NULL, 0, 0.4),
    (2, 'two of many', 76, 2, NULL, NULL, NULL, 900, NULL, 0, 0.4),
    (3, 'three of a hundred', 100, 3, 120, 121, 122, 900, 30, 0, 0.4),
    (4, 'three of sixty, steady', 60, 3, 120, 121, 122, 900, 30, 0, 0.4),
    (5, 'three of sixty, scattered', 60, 3, 20, 60, 120, 900, 30, 0, 0.4),
    (6, 'steady, where pauses are usual', 60, 6, 20.1, 20.4, 20.9, 600, 540, 0, 0.4),
    (7, 'steady, beside longer pauses', 60, 6, 25.1, 25.4, 25.9, 600, 60, 0, 0.4),
    (8, 'of a path of 8.5 ms', 60, 6, 10.1, 10.4, 10.9, 600, 60, 0, 8.5),
    (9, 'nearly all, steady', 60, 54, 120, 121, 122, 600, 540, 0, 0.4),
    (10, 'nearly all, scattered', 60, 54, 12, 20, 60, 600, 540, 0, 0.4),
    (11, 'no floor known', 60, 6, 25.1, 25.4, 25.9, 600, 60, 0, NULL),
    (12, 'all but two', 8, 6, 36.1, 37.6, 39, 160, 120, 0, 0.4),
    (13, 'beside bounds below the limit', 19, 3, 10.1, 11, 12, 100, 10, 2, 0.4),
    (14, 'beside one such bound', 19, 3, 10.1, 11, 12, 100, 10, 1, 0.4),
    (15, 'two distances, the nearer more frequent', 90, 30, 25.1, 25.9, 121, 900, 300, 0, 0.4),
    (16, 'two distances, the farther more frequent', 90, 30, 25.1, 121, 122, 900, 200, 0, 0.4),
    (18, 'two of twenty', 20, 2, 120, 121, 122, 200, 20, 0, 0.4),
    (19, 'few, close together by chance', 19, 7, 15.6, 16.9, 38.6, 200, 40, 1, 0.4),
    (17, 'a busy machine', 60, 14, 25.9, 28.5, 44, 600, 140, 0, 0.4)
) AS t (n, why, blocks, far, p10, p50, p90, samples, alike, between, rtt) ORDER BY n;

-- the rule of the verdicts, case by case
SELECT why, kasm_latency_internal.verdict(host_role, measured, rtt, mixed, samples, blocks, show, p50, 10, 20) AS verdict
FROM (VALUES
    (1, 'nothing measured', 'webapp', false, 0.4, false, 0, 0, 'accident', NULL),
    (2, 'floor at the limit', 'webapp', true, 10, false, 0, 0, 'accident', NULL),
    (3, 'floor below, blocks below', 'webapp', true, 9.999, false, 20, 3, 'accident', 9.999),
    (4, 'floor below, too few ceilings', 'webapp', true, 9.999, false, 19, 9, 'distance', 50),
    (5, 'floor below, too few blocks', 'webapp', true, 9.999, false, 900, 2, 'accident', 50),
    (6, 'a hidden distance', 'webapp', true, 0.4, false, 20, 9, 'distance', 0.5),
    (7, 'nearly all far, steady', 'webapp', true, 0.4, false, 20, 9, 'distance or pause', 50),
    (8, 'nearly all far, scattered', 'webapp', true, 0.4, false, 20, 9, 'far', 50),
    (9, 'pauses', 'webapp', true, 0.4, false, 20, 9, 'pauses', 9),
    (10, 'jitter of a path near the limit', 'webapp', true, 8.5, false, 20, 9, 'path', 9),
    (11, 'the median at the limit', 'webapp', true, 0.4, false, 20, 9, 'accident', 10),
    (12, 'mixed, the newest near', 'webapp', true, 0.4, true, 100, 9, 'accident', 0.5),
    (13, 'mixed, the newest far', 'webapp', true, 60, true, 100, 9, 'accident', 0.5),
    (14, 'no floor, blocks below', 'webapp', true, NULL, false, 20, 9, 'accident', 0.5),
    (15, 'no floor, blocks above', 'webapp', true, NULL, false, 20, 9, 'distance or pause', 15),
    (16, 'no floor, few ceilings', 'webapp', true, NULL, false, 5, 1, 'accident', 15),
    (17, 'a proxy that connects', 'proxy', true, 0.4, false, 20, 9, 'accident', 0.5),
    (18, 'an agent, far away', 'agent', true, 120, false, 20, 9, 'distance', 120),
    (19, 'a proxy that does not', 'proxy', false, NULL, false, 0, 0, 'accident', NULL),
    (20, 'admin', 'admin', true, 120, false, 0, 0, 'accident', NULL),
    (21, 'candidate, far away', 'candidate', true, 120, false, 20, 9, 'distance', 120)
) AS t (n, why, host_role, measured, rtt, mixed, samples, blocks, show, p50) ORDER BY n;
SELECT why, kasm_latency_internal.mixed_distances(rtt, 10, near, kasm_latency_internal.enough(far, near),
                                                  kasm_latency_internal.enough(near_since, far_since)) AS mixed
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
    ('unexpected_client', true, 0.4, 200, 5, 4, 30, 0, 402, 340, 40, 0, 'accident', NULL, 0.6),
    ('out_of_band', false, 118.2, 0, 0, 3, 0, 340, 402, 340, 40, 40, 'distance or pause', NULL, 121.5),
    ('out_of_band', false, 118.2, 200, 0, 3, 0, 0, 402, 0, 0, 0, 'accident', NULL, NULL),
    ('unproven', false, 0.4, 20, 5, 0, 0, 340, 402, 340, 76, 16, 'distance', 120.8, 0.6),
    ('unproven', false, 0.4, 0, 5, 0, 0, 340, 402, 340, 40, 40, 'distance or pause', 120.8, 121.5),
    ('unproven', false, NULL, NULL, 0, 0, 0, 340, 402, 340, 40, 39, 'far', NULL, 50),
    ('unproven', true, 0.4, 0, 5, 4, 30, 0, 402, 340, 40, 0, 'accident', NULL, 60),
    ('unproven', true, 60, 0, 5, 1, 30, 310, 402, 340, 40, 0, 'accident', NULL, 60)
) AS t (v, m, rtt, age, near, far, near_since, far_since, n, samples, blocks, far_blocks, show, hidden, p50),
LATERAL kasm_latency_internal.reason(v, 'proxy', m, rtt, age, near, far, near_since, far_since, n, samples, blocks, far_blocks,
                                     show, hidden, p50, 10) AS reason \gx

-- what diagnose() concludes
SELECT kasm_latency_internal.diagnosis(bound, n, ms, each, network, server, locks, 1 - network - server - locks,
                                       'held by webapp-eu', rtt, v, hidden) AS conclusion
FROM (VALUES
    (1, 'network-bound', 12, 1443.7, 120.31, 0.993, 0.001, 0, 120.2, 'out_of_band', NULL),
    (2, 'server-bound', 1, 18.8, 18.8, 0, 0.99, 0, NULL, 'floor_only', NULL),
    (3, 'healthy', 11.7, 43.3, 3.7, 0.88, 0.01, 0, 3.08, 'in_band', NULL),
    (4, 'client-bound', 12, 1463.1, 121.9, 0.004, 0.001, 0, 0.45, 'unproven', 121.2),
    (5, 'client-bound', 12, 263.1, 21.9, 0.004, 0.001, 0, 0.45, 'unproven', NULL),
    (6, 'network-bound', 12, 263.1, 21.9, 0.9, 0.001, 0, 15, 'unproven', NULL),
    (7, 'no data', NULL, NULL, NULL, NULL, NULL, NULL, 0.45, 'floor_only', NULL),
    (8, 'lock-bound', 12, 1463.1, 121.9, 0.004, 0.03, 0.9, 0.45, 'in_band', NULL),
    (9, 'server-bound', 12, 1463.1, 121.9, 0.004, 0.8, 0.1, 0.45, 'in_band', NULL)
) AS t (n_, bound, n, ms, each, network, server, locks, rtt, v, hidden) ORDER BY n_ \gx

-- what to do next, by what diagnose() concludes
SELECT bound, flagged, kasm_latency_internal.next_step(bound, 'it''s "far"', flagged, NULL) AS next_step
FROM (VALUES ('network-bound'), ('lock-bound'), ('server-bound'), ('client-bound'), ('healthy'), ('no data')) AS b (bound),
     unnest(ARRAY[true, false]) AS flagged \gx
SELECT kasm_latency_internal.next_step('client-bound', 'webapp-eu', true, 120.8) AS with_a_hidden_distance;

-- nothing measured: what to check
SET kasm_latency.app_roles = 'regress_no_such_role';
SELECT kasm_latency.summary();
RESET kasm_latency.app_roles;

DROP EXTENSION kasm_latency;
SELECT count(*) AS left_behind FROM pg_namespace WHERE nspname ~ '^kasm_latency';
