/*
 * Part of the report: what happens when the load grows, as a picture.  Uses
 * forecasts, html(), and what the report's style sheet has for history.
 */

CREATE FUNCTION kasm_latency_internal.load_position(launch_ms double precision)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the axis goes from 1 ms to 100 s
    SELECT round((100 - 100 * ln(least(greatest(launch_ms, 1), 100000)) / ln(100000))::numeric, 2)
$$;
COMMENT ON FUNCTION kasm_latency_internal.load_position(double precision) IS 'How far from the top of the forecast''s logarithmic axis a launch''s time lies, in percent';

CREATE FUNCTION kasm_latency_internal.report_forecast(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH pool AS (SELECT kasm_latency_internal.pool_size() AS size),
    places AS MATERIALIZED (
        SELECT p.*, pool.size, s.held_ms, 1000 * pool.size / s.held_ms AS most_per_s
        FROM pool
        CROSS JOIN kasm_latency_internal.forecast_places(since, NULL) AS p
        CROSS JOIN LATERAL kasm_latency_internal.pool_times(p.durations, p.lengths, p.mean_length, p.gain_ms, 0, pool.size) AS s
        WHERE p.host_place <= 3),
    -- from the load of now to what the pool carries beside the database, or where the host is if that is more
    axes AS (
        SELECT p.host, min(p.per_s) AS from_per_s, greatest(max(p.most_per_s), 2 * min(p.per_s)) AS to_per_s
        FROM places AS p
        GROUP BY p.host),
    points AS (
        SELECT p.host, p.place_number, n, t.p95_ms,
               round((300 * ln(l.per_s / a.from_per_s) / ln(a.to_per_s / a.from_per_s))::numeric, 2) AS x
        FROM places AS p
        JOIN axes AS a ON a.host = p.host
        CROSS JOIN generate_series(0, 16) AS n
        -- closer where it bends: at 98 % of what the pool carries it ends
        CROSS JOIN LATERAL (SELECT p.per_s * (0.98 * p.most_per_s / p.per_s) ^ (1 - (1 - n / 16.0) ^ 2)) AS l (per_s)
        CROSS JOIN LATERAL kasm_latency_internal.pool_times(p.durations, p.lengths, p.mean_length, p.gain_ms, l.per_s, p.size) AS t
        WHERE p.per_s < 0.98 * p.most_per_s),
    lines AS (
        SELECT p.host, p.place_number, (array_agg(p.p95_ms ORDER BY p.n))[1] AS now_ms,
               string_agg(format('%s,%s', p.x, kasm_latency_internal.load_position(p.p95_ms)), ' ' ORDER BY p.n) AS points
        FROM points AS p
        WHERE p.p95_ms IS NOT NULL
        GROUP BY p.host, p.place_number)
    SELECT string_agg(h.figure, '' ORDER BY h.host_place)
           || '<p class="note">What 95 % of the launches take at most, their wait for a connection included, as more of them arrive; '
              'upright lines: where all connections of a pool are in use without a pause. Both axes are logarithmic.</p>'
    FROM (
        SELECT p.host_place,
               format('<h3>%s</h3><div class="past"><svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" '
                      'aria-label="How long launches take as more of them arrive, in the figures below">',
                      kasm_latency_internal.html(p.host))
               || (SELECT string_agg(format('<line class="grid" x1="0" x2="300" y1="%s" y2="%s"/>', y, y), '')
                   FROM unnest(ARRAY[10, 100, 1000, 10000]) AS ms, LATERAL (SELECT kasm_latency_internal.load_position(ms)) AS g (y))
               || string_agg(format('<line class="limitline" x1="%s" x2="%s" y1="0" y2="100"/>', x.most, x.most), '')
                  FILTER (WHERE x.most >= 0)
               || coalesce(string_agg(format('<polyline class="line line%s" points="%s"/>', p.place_number, l.points), ''
                                      ORDER BY p.place_number), '')
               || '</svg>'
               || (SELECT string_agg(format('<span class="y" style="top:%s%%">%s</span>', kasm_latency_internal.load_position(t.ms), t.label), '')
                   FROM (VALUES (10, '10 ms'), (100, '100 ms'), (1000, '1 s'), (10000, '10 s')) AS t (ms, label))
               || format('</div><p class="x"><span>now, %s launches/s</span><span>%s launches/s</span></p><ul class="legend">',
                         round(min(p.per_s)::numeric, 1), round(min(a.to_per_s)::numeric, 1))
               || string_agg(format('<li><svg viewBox="0 0 30 6" aria-hidden="true"><line class="line line%s" x1="0" x2="30" y1="3" y2="3"/></svg>'
                                    '%s, at %s: %s; %s connections carry %s launches/s', p.place_number, p.place,
                                    kasm_latency_internal.ms_text(p.rtt_ms),
                                    coalesce(format('95 %% of the launches take no more than %s now', kasm_latency_internal.ms_text(l.now_ms)),
                                             'past capacity, so launches queue without end'),
                                    p.size, round(p.most_per_s::numeric, 1)), '' ORDER BY p.place_number)
               || '</ul>' AS figure
        FROM places AS p
        JOIN axes AS a ON a.host = p.host
        LEFT JOIN lines AS l ON l.host = p.host AND l.place_number = p.place_number
        CROSS JOIN LATERAL (SELECT round((300 * ln(p.most_per_s / a.from_per_s) / ln(a.to_per_s / a.from_per_s))::numeric, 2)) AS x (most)
        GROUP BY p.host, p.host_place) AS h
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_forecast(interval) IS 'Part of the report: how long launches of the three worst Web Apps take as the load grows, today and beside the database, and where a pool of 30 connections ends; NULL where no Web App has launched';
