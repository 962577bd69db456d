-- History, checks: what is kept, what changes, what fails.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

-- once a minute at most (should the minute change in between, once more is right)
SELECT kasm_latency.snapshot() >= 1 AS appended;
SELECT kasm_latency.snapshot() >= 0 AS again;
SELECT count(*) BETWEEN 1 AND 2 AS once, bool_and(taken_at = date_trunc('minute', taken_at)) AS by_minute FROM kasm_latency.history;
SELECT h.host_role, h.verdict, h.span = kasm_latency_internal.recent() AS span, h.network_s FROM kasm_latency.history AS h LIMIT 1;

-- a made-up past
TRUNCATE kasm_latency.history;
INSERT INTO kasm_latency.history (taken_at, host, host_role, rtt_ms, turnaround_p50_ms, verdict)
SELECT date_trunc('minute', now()) - n * interval '2.8 hours', 'webapp-eu', 'webapp',
       CASE WHEN n BETWEEN 20 AND 40 THEN 25 ELSE 0.4 END, CASE WHEN n BETWEEN 20 AND 40 THEN 26 ELSE 0.7 END,
       CASE WHEN n BETWEEN 20 AND 40 THEN 'out_of_band' ELSE 'in_band' END
FROM generate_series(0, 59) AS n;
INSERT INTO kasm_latency.history (taken_at, host, verdict) VALUES (now() - interval '100 days', 'gone', 'in_band'),
                                                                  (now() - interval '2 hours', 'quiet', 'floor_only');
SELECT host, from_verdict, to_verdict, rtt_ms FROM kasm_latency.verdict_changes;
SELECT host, snapshots, rtt_min_ms, rtt_max_ms, verdict, length(rtt), rtt, turnaround FROM kasm_latency.host_history();
SELECT host, snapshots FROM kasm_latency.host_history('webapp-eu', '1 day');
SELECT count(*) FROM kasm_latency.host_history('nobody');
SELECT kasm_latency.host_history(NULL, '0');
SELECT string_agg(kasm_latency_internal.spark(ms), '') FROM unnest(ARRAY[0.1, 0.5, 1, 2, 5, 10, 25, 100, NULL, 9.999]::float8[]) AS ms;
SELECT kasm_latency.prune(), kasm_latency.prune('1 day') AS of_a_day;
SELECT count(*) FROM kasm_latency.history;
SELECT kasm_latency.prune(NULL);
SELECT kasm_latency.prune('-1 day');
SELECT extconfig::regclass[] FROM pg_extension WHERE extname = 'kasm_latency';

-- the newest snapshot of each step, whole multiples of it; both ends are included
TRUNCATE kasm_latency.history;
INSERT INTO kasm_latency.history (taken_at, host)
SELECT t, host FROM generate_series(timestamptz '2026-01-01 00:00Z', '2026-01-01 06:00Z', '5 min') AS t, unnest(ARRAY['a', 'b']) AS host
WHERE t NOT BETWEEN '2026-01-01 03:00Z' AND '2026-01-01 03:59Z';
SELECT to_char(p.taken_at AT TIME ZONE 'UTC', 'HH24:MI') AS taken_at
FROM kasm_latency.history_points('2026-01-01 00:30Z', '2026-01-01 06:00Z', '1 hour') AS p;
SELECT count(*), count(DISTINCT p.taken_at) FROM kasm_latency.history_points('2026-01-01 00:30Z', '2026-01-01 01:30Z', '1 min') AS p;
SELECT count(*) FROM kasm_latency.history_points('2026-01-01 06:00Z', '2026-01-01 00:00Z', '1 min');
SELECT count(*) FROM kasm_latency.history_points(now(), now(), '0');

-- a minute that is past, of 15 minutes' snapshots every 5: each second counts once, whatever number of snapshots has it
TRUNCATE kasm_latency.history;
INSERT INTO kasm_latency.history (taken_at, host, host_role, verdict, rtt_ms, network_s, lock_wait_s, waited_for, made_others_wait_s,
                                  network_share, server_share, lock_share, client_share, chain_p50, chain_p50_ms, span)
SELECT t, h.host, 'webapp', CASE WHEN far AND h.eu THEN 'out_of_band' ELSE 'in_band' END, CASE WHEN far AND h.eu THEN 120 ELSE 1 END,
       CASE WHEN far AND h.eu THEN 123 ELSE 15 END, CASE WHEN far AND NOT h.eu THEN 45 ELSE 0 END,
       CASE WHEN far AND NOT h.eu THEN '{"webapp-eu": 40.5, "webapp-1": 4.5}'::jsonb END, CASE WHEN far AND h.eu THEN 40.5 ELSE 0 END,
       0.5, 0.1, CASE WHEN far AND NOT h.eu THEN 0.3 ELSE 0 END, 0.1, 12, 20, '15 min'
FROM generate_series(timestamptz '2026-01-01 00:00', '2026-01-01 06:00', '5 min') AS t,
     LATERAL (SELECT t > '2026-01-01 05:00' AND t <= '2026-01-01 05:15' AS far) AS f,
     (VALUES ('webapp-eu', true), ('webapp-1', false), ('webapp-2', NULL)) AS h (host, eu);
\x on
SELECT host, says, verdict, verdict_before, from_at, until_at, rtt_ms, rtt_before_ms, network_s, network_before_s, lock_wait_s,
       made_others_wait_s, differs, compared_with
FROM kasm_latency.incident('2026-01-01 05:01', '2026-01-01 05:30');
\x off
-- the same, asked of two days, when it was unproven
UPDATE kasm_latency.history SET verdict = 'unproven', rtt_ms = 1, hidden_ms = 120 WHERE verdict = 'out_of_band';
SELECT says, compared_with FROM kasm_latency.incident('2026-01-01 00:00', '2026-01-02 06:00') WHERE host = 'webapp-eu';
SELECT kasm_latency.incident(NULL);

-- checks: this session is the only client, by a Unix-domain socket
SELECT kasm_latency.assert_in_band();
SELECT kasm_latency.assert_in_band('warning');
SELECT kasm_latency.assert_in_band('info');
SELECT kasm_latency.assert_in_band(NULL);
SELECT kasm_latency.assert_in_band(raise => NULL);
-- its transactions are far by a limit that is below every turnaround: a warning, raised or only said, in the same words
SET kasm_latency.rtt_limit = '0.001ms';
SET kasm_latency.min_samples = 1;
BEGIN; SELECT 'a block'; COMMIT;
BEGIN; SELECT 'a block'; COMMIT;
BEGIN; SELECT 'a block'; COMMIT;
BEGIN; SELECT 'a block'; COMMIT;
SELECT kasm_latency.assert_in_band(raise => false);
DO $$
DECLARE
    said text := kasm_latency.assert_in_band('warning', raise => false);
BEGIN
    RAISE INFO '%', regexp_replace(said, '\(.*\)', '(...)');
    PERFORM kasm_latency.assert_in_band('warning');
EXCEPTION WHEN raise_exception THEN
    RAISE INFO '%: the same: %', SQLSTATE, said = 'WARNING: ' || SQLERRM;
END
$$;
RESET kasm_latency.rtt_limit;
RESET kasm_latency.min_samples;

-- in the form of a Prometheus histogram: bounds that never change, counts that never fall
-- (on a slow server CREATE EXTENSION takes longer than the last bound)
SELECT array_length(upper_s, 1) AS buckets, upper_s, cumulative[19] BETWEEN count - slower - 5 AND count AS all_counted,
       -- as many as the fine ones say
       (SELECT count(*)
        FROM kasm_latency.host_buckets('server', fine => true) AS f,
             unnest(b.upper_s, b.cumulative) AS few (le, n), unnest(f.upper_s, f.cumulative) AS fine (le, n)
        WHERE f.host = b.host AND fine.le = few.le AND fine.n BETWEEN few.n AND few.n + 5) AS agree
FROM kasm_latency.host_buckets('server') AS b,
     (SELECT coalesce(sum(count), 0) FROM kasm_latency.histogram('server') WHERE from_ms >= 10000) AS h (slower);
SELECT array_length(upper_s, 1) AS buckets, upper_s[1] AS first, upper_s[141] AS hundred_ms, upper_s[211] AS last,
       cumulative[211] BETWEEN count - slower - 5 AND count AS all_counted, count > 10 AS some, sum_s > 0 AS sum,
       (SELECT bool_and(c >= coalesce(p, 0)) FROM (SELECT c, lag(c) OVER () AS p FROM unnest(cumulative) AS c) AS x) AS grows
FROM kasm_latency.host_buckets('server', fine => true) AS b,
     (SELECT coalesce(sum(count), 0) FROM kasm_latency.histogram('server') WHERE from_ms >= 10000) AS h (slower);
SELECT count(*) FROM kasm_latency.host_buckets('turnaround');
SELECT count(*) FROM kasm_latency.host_buckets('nothing');

DROP EXTENSION kasm_latency;
