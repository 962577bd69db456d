/*
 * What happens when the load grows.  Uses hosts, in host_figures(), and pool_times().
 */

CREATE FUNCTION kasm_latency_internal.forecast_places(since interval, host text)
RETURNS TABLE (
    host text, host_place bigint, place text, place_number integer, rtt_ms double precision, gain_ms double precision,
    per_s double precision, durations bytea, lengths bytea, mean_length double precision)
LANGUAGE sql VOLATILE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
    -- how far the figures reach back: to the beginning of a minute, or, beyond 15 of them, of five
    WITH span AS MATERIALIZED (
        SELECT CASE WHEN m.minutes > 15 THEN 300 * ceil(m.minutes / 5) + mod(m.now_s, 300)
                    ELSE 60 * m.minutes + mod(m.now_s, 60) END::double precision AS seconds
        FROM (SELECT ceil(extract(epoch FROM coalesce(since, kasm_latency_internal.recent()))::numeric / 60),
                     extract(epoch FROM clock_timestamp())::numeric) AS m (minutes, now_s))
    SELECT f.host, row_number() OVER (PARTITION BY p.number ORDER BY f.rank DESC, f.network_s DESC, f.host), p.place, p.number,
           least(f.rtt_ms, coalesce(p.rtt_ms, f.rtt_ms)), greatest(f.rtt_ms - p.rtt_ms, 0),
           -- launches of the time in which the host was there, not longer than the span
           f.chains / greatest(least(extract(epoch FROM clock_timestamp() - f.first_seen)::double precision, s.seconds), 1),
           f.chain_durations, f.chain_lengths, f.chain_round_trips / f.chains::double precision
    FROM kasm_latency_internal.host_figures(since) AS f
    CROSS JOIN span AS s
    CROSS JOIN (VALUES (1, 'today', NULL::double precision), (2, 'beside the database', kasm_latency_internal.colocated_ms())) AS p (number, place, rtt_ms)
    WHERE f.host_role = 'webapp' AND f.judged AND f.chains > 0 AND f.rtt_ms IS NOT NULL
      AND (forecast_places.host IS NULL OR f.host = forecast_places.host)
$$;
COMMENT ON FUNCTION kasm_latency_internal.forecast_places(interval, text) IS 'What a forecast is made of: per Web App, where it is and beside the database, launches per second of the span, what each exchange gains there, and the chains that were measured';

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
    forecasts AS (
        SELECT h.host, h.host_place, h.place, h.place_number, a.times, a.place AS times_place, a.pool,
               h.per_s * a.times AS per_s, s.held_ms, s.p50_ms, s.p95_ms,
               h.per_s * a.times * s.held_ms / 1000 / a.pool AS utilisation
        FROM kasm_latency_internal.forecast_places(NULL, load_forecast.host) AS h
        CROSS JOIN asked AS a
        CROSS JOIN LATERAL kasm_latency_internal.pool_times(
            h.durations, h.lengths, h.mean_length, h.gain_ms, h.per_s * a.times, a.pool) AS s)
    SELECT f.host, f.place, f.times, kasm_latency_internal.rounded(f.per_s, 2),
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
    ORDER BY f.host_place, f.place_number, f.times_place
$$;
COMMENT ON FUNCTION kasm_latency.load_forecast(text, integer, double precision[]) IS 'How long a launch takes when so many times as many arrive as now, at random, for a pool of so many connections, where the Web App is and beside the database';
