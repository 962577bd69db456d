-- The latency arithmetic: known answers, and arguments that are refused by name.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

SELECT kasm_latency.launch_cost(10, 100) AS ten_over_100_ms,
       kasm_latency.launch_cost(10, 150) AS ten_over_150_ms,
       kasm_latency.launch_cost(10, 0.5, 2) AS ten_nearby,
       kasm_latency.launch_cost(1, 0) AS nothing;
SELECT kasm_latency.launch_capacity(20, 10, 100) AS twenty_connections,
       kasm_latency.launch_capacity(30, 12, 0.5, 0.1) AS nearby,
       kasm_latency.launch_capacity(1, 1, 0) AS without_limit;
SELECT kasm_latency.launch_cost(NULL, 1) AS queries, kasm_latency.launch_cost(1, NULL) AS rtt_ms,
       kasm_latency.launch_cost(1, 1, NULL) AS server_ms, kasm_latency.launch_capacity(NULL, 1, 1) AS connections;

SELECT kasm_latency.launch_cost(0, 1);
SELECT kasm_latency.launch_cost(-1, 1);
SELECT kasm_latency.launch_cost(1, -1);
SELECT kasm_latency.launch_cost(1, 'NaN');
SELECT kasm_latency.launch_cost(1, 1, -1);
SELECT kasm_latency.launch_cost(1, 1, 'NaN');
SELECT kasm_latency.launch_capacity(0, 1, 1);
SELECT kasm_latency.launch_capacity(0, 1, 0);
SELECT kasm_latency.launch_capacity(-5, 1, 0.0001);
SELECT kasm_latency.launch_capacity(1, 0, 1);
SELECT kasm_latency.launch_capacity(1, 1, -0.1);
SELECT kasm_latency.launch_capacity(1, 1, 1, 'NaN');
SELECT kasm_latency.placement_plan(NULL, 0);

-- lengths of chains: whole numbers, exact up to 20
CREATE TEMPORARY VIEW lengths AS
    SELECT '\xffffffffffffffff0c64'::bytea AS all_twelve, '\xffffffffffffffff0c0a1405'::bytea AS twelve_and_twenty;
SELECT kasm_latency_internal.percentile_whole(all_twelve, 0.5) AS p50, kasm_latency_internal.percentile_whole(all_twelve, 0.95) AS p95,
       kasm_latency_internal.percentile_whole(twelve_and_twenty, 0.5) AS p50, kasm_latency_internal.percentile_whole(twelve_and_twenty, 0.95) AS p95,
       kasm_latency_internal.percentile_whole(''::bytea, 0.5) AS of_nothing
FROM lengths;

DROP EXTENSION kasm_latency;
