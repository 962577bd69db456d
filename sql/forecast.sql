-- Before it is deployed, and before the load comes: probe(), load_forecast(), against known answers.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

-- a thousand chains of ten exchanges, 100 ms each
CREATE TEMPORARY VIEW chains AS
    SELECT '\x00e1f5050000000096e807'::bytea AS durations, '\xffffffffffffffff0ae807'::bytea AS lengths;
SELECT c.from_ms, c.count, kasm_latency_internal.percentile_ms(durations, 0.5) AS p50_ms, kasm_latency_internal.percentile_whole(lengths, 0.5) AS length
FROM chains, kasm_latency_internal.histogram_cells(durations) AS c;

-- one connection for three and five tenths of its time, by Crommelin's formula for such a queue (M/D/1); with room for
-- all nobody waits; and past capacity there is no answer
SELECT gain_ms, per_s, pool, t.held_ms, t.p50_ms BETWEEN 0.99 * p50 AND 1.05 * p50 AS p50, t.p95_ms BETWEEN 0.95 * p95 AND 1.05 * p95 AS p95
FROM chains
CROSS JOIN (VALUES (0, 3, 1, 100, 207.1), (0, 5, 1, 100, 305.1), (0, 5, 100, 100, 100), (0, 10, 1, 0, 0), (9, 30, 1, 10, 20.7), (9, 10, 1, 10, 15.4)) AS v (gain_ms, per_s, pool, p50, p95)
CROSS JOIN LATERAL kasm_latency_internal.pool_times(durations, lengths, 10, gain_ms, per_s, pool) AS t;
-- the same figures, the same forecast
SELECT count(DISTINCT t.p95_ms) FROM chains, generate_series(1, 3) AS n, LATERAL kasm_latency_internal.pool_times(durations, lengths, 10, n * 0.0, 8, 1) AS t;
-- nothing was measured; and what is refused
SELECT t.* FROM chains, LATERAL kasm_latency_internal.pool_times('', lengths, 10, 0, 1, 1) AS t;
SELECT t.* FROM chains, LATERAL kasm_latency_internal.pool_times(durations, lengths, 10, 0, 1, 0) AS t;
SELECT t.* FROM chains, LATERAL kasm_latency_internal.pool_times(durations, lengths, 10, 0, -1, 1) AS t;
SELECT t.* FROM chains, LATERAL kasm_latency_internal.pool_times(durations, lengths, 10, 0, 'NaN', 1) AS t;
SELECT t.* FROM chains, LATERAL kasm_latency_internal.pool_times(durations, lengths, 0, 0, 1, 1) AS t;
-- 8, 12 and 16 exchanges of 26.2 ms; beside the database 1.2 ms of each are left, whatever the width of a cell
SELECT round(held_ms::numeric, 1) AS held_ms, round(p50_ms::numeric, 1) AS p50_ms, round(p95_ms::numeric, 1) AS p95_ms
FROM kasm_latency_internal.pool_times(
    '\x800b1c1c00000000a0f403a5f403aaf403',
    '\xffffffffffffffff08f4030cf40310f403', 12, 25, 1, 100);
SELECT * FROM kasm_latency.load_forecast(pool => 0);
SELECT * FROM kasm_latency.load_forecast(times => '{1,-1}');
SELECT * FROM kasm_latency.load_forecast(times => '{NaN}');
SELECT count(*) FROM kasm_latency.load_forecast('no such host');

-- the verdict on a single connection
SELECT rtt_ms, turnaround_min_ms, kasm_latency_internal.probe_verdict(rtt_ms, turnaround_min_ms, 10) AS verdict
FROM (VALUES (0.3, NULL), (9.99, NULL), (10, NULL), (0.3, 0.5), (0.3, 9.99), (0.3, 10), (25, 26), (NULL, 0.5), (NULL, 12), (NULL, NULL))
    AS v (rtt_ms, turnaround_min_ms);

-- this session: by a Unix-domain socket, and asked as a role that may see nothing else
CREATE ROLE regress_kasm_installer;
GRANT USAGE ON SCHEMA kasm_latency TO regress_kasm_installer;
GRANT EXECUTE ON FUNCTION kasm_latency.probe(integer), kasm_latency.assert_here() TO regress_kasm_installer;
SET ROLE regress_kasm_installer;
SELECT client_addr, rtt_ms, path, verdict, queries, launch_ms >= 0 AS launch, says FROM kasm_latency.probe(12);
SELECT queries > 0 AS by_the_fleet FROM kasm_latency.probe();
SELECT kasm_latency.probe(0);
SELECT kasm_latency.assert_here();
SELECT count(*) FROM kasm_latency.hosts;
SELECT kasm_latency.summary();
RESET ROLE;
DROP OWNED BY regress_kasm_installer;
DROP ROLE regress_kasm_installer;

DROP EXTENSION kasm_latency;
