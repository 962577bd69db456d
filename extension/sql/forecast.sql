/*
 * What happens when the load grows.  Uses hosts, in host_figures(), and pool_times().
 */

CREATE FUNCTION kasm_latency.load_forecast(
    host text DEFAULT NULL, pool integer DEFAULT 30, times double precision[] DEFAULT '{1,2,4,8,16}')
RETURNS TABLE (
    host text, place text, times double precision, launches_per_s double precision, busy_connections double precision,
    pool integer, utilisation double precision, launch_p50_ms double precision, launch_p95_ms double precision, says text)
LANGUAGE sql VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT kasm_latency_internal.argument('pool', load_forecast.pool) AS pool, t.times, t.place
        FROM unnest(load_forecast.times) WITH ORDINALITY AS u (times, place)
        CROSS JOIN LATERAL (SELECT kasm_latency_internal.argument('times', u.times) AS times, u.place) AS t),
    -- launches of the time in which the host was there, not longer than the span
    hosts AS MATERIALIZED (
        SELECT f.*, f.chains / greatest(least(extract(epoch FROM clock_timestamp() - f.first_seen),
                                              extract(epoch FROM kasm_latency_internal.recent()) + extract(second FROM clock_timestamp())),
                                        1)::double precision AS per_s,
               row_number() OVER (ORDER BY f.rank DESC, f.network_s DESC, f.host) AS place
        FROM kasm_latency_internal.host_figures(NULL) AS f
        WHERE f.host_role = 'webapp' AND f.judged AND f.chains > 0 AND f.rtt_ms IS NOT NULL
          AND (load_forecast.host IS NULL OR f.host = load_forecast.host)),
    -- where the host is, and beside the database: there each exchange takes half a millisecond of path
    forecasts AS (
        SELECT h.host, h.place AS host_place, p.place, p.name, a.times, a.place AS times_place, a.pool,
               h.per_s * a.times AS per_s, s.held_ms, s.p50_ms, s.p95_ms,
               h.per_s * a.times * s.held_ms / 1000 / a.pool AS utilisation
        FROM hosts AS h
        CROSS JOIN LATERAL (VALUES (1, 'today', 0), (2, 'beside the database', greatest(h.rtt_ms - 0.5, 0))) AS p (place, name, gain_ms)
        CROSS JOIN asked AS a
        CROSS JOIN LATERAL kasm_latency_internal.pool_times(h.chain_durations, h.chain_lengths, p.gain_ms, h.per_s * a.times, a.pool) AS s)
    SELECT f.host, f.name, f.times, kasm_latency_internal.rounded(f.per_s, 2),
           kasm_latency_internal.rounded(least(f.per_s * f.held_ms / 1000, f.pool), 2), f.pool,
           kasm_latency_internal.rounded(f.utilisation, 3),
           kasm_latency_internal.rounded(f.p50_ms, 3), kasm_latency_internal.rounded(f.p95_ms, 3),
           CASE
               WHEN f.utilisation >= 1 THEN
                   format('Past capacity: %s connections carry %s launches per second, and the queue grows for as long as more arrive.', f.pool,
                          kasm_latency_internal.rounded(1000 * f.pool / f.held_ms, 1))
               WHEN f.utilisation >= 0.9 THEN 'At the edge: a little more, or a busy minute, and launches queue for connections.'
               WHEN f.p95_ms > 1.5 * first_value(f.p95_ms) OVER (PARTITION BY f.host, f.place ORDER BY f.times) THEN
                   'Launches wait for a connection.'
               ELSE 'The pool has room.'
           END
    FROM forecasts AS f
    ORDER BY f.host_place, f.place, f.times_place
$$;
COMMENT ON FUNCTION kasm_latency.load_forecast(text, integer, double precision[]) IS 'How long a launch takes when so many times as many arrive as now, at random, for a pool of so many connections, where the Web App is and beside the database';
