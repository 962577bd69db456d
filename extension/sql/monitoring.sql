/*
 * For programs that watch: a check that fails, histograms for Prometheus.  What
 * docs/monitoring calls must be public.
 */

CREATE FUNCTION kasm_latency.assert_in_band(severity text DEFAULT 'critical', raise boolean DEFAULT true)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    severities text[] := ARRAY['critical', 'warning'];
    worst text;
    found text;
    n bigint;
    apart bigint;
BEGIN
    IF severity IS NULL OR severity <> ALL (severities) THEN
        PERFORM kasm_latency_internal.refuse('severity must be critical or warning');
    END IF;
    IF raise IS NULL THEN
        PERFORM kasm_latency_internal.refuse('raise must be true or false');
    END IF;
    SELECT count(*), severities[min(array_position(severities, f.severity))],
           string_agg(format('%s is %s (round trip %s%s, turnaround %s)', f.host, f.verdict,
                             coalesce(kasm_latency_internal.ms_text(f.rtt_ms), 'unknown'),
                             coalesce(', hidden behind it ' || kasm_latency_internal.ms_text(f.hidden_ms), ''),
                             coalesce(kasm_latency_internal.ms_text(f.turnaround_p50_ms), 'unknown')), '; ')
    INTO n, worst, found
    FROM kasm_latency.flagged AS f
    WHERE array_position(severities, f.severity) <= array_position(severities, assert_in_band.severity);
    IF n > 0 THEN
        found := CASE n WHEN 1 THEN '1 host is flagged: ' ELSE n || ' hosts are flagged: ' END || found;
        IF raise THEN
            RAISE EXCEPTION '%', found USING HINT = 'SELECT * FROM kasm_latency.flagged says why, and what to do.';
        END IF;
        RETURN format('%s: %s', upper(worst), found);
    END IF;
    SELECT count(*) FILTER (WHERE i.verdict <> 'no_data'),
           string_agg(i.host, ', ' ORDER BY i.host) FILTER (WHERE i.verdict = 'no_data' AND i.connections > 0)
    INTO n, found
    FROM kasm_latency_internal.host_figures(NULL) AS i WHERE i.judged;
    SELECT f.connections INTO apart
    FROM kasm_latency_internal.client_figures(kasm_latency_internal.recent(), histograms => false) AS f
    WHERE f.overflow AND f.connections > 0;
    RETURN CASE WHEN n = 0 THEN 'OK, but nothing was measured: does anybody connect, and is kasm_latency.app_roles right?'
                ELSE format('OK: %s measured, none of them %s', CASE n WHEN 1 THEN '1 host' ELSE n || ' hosts' END,
                            CASE severity WHEN 'critical' THEN 'out of band' ELSE 'flagged' END) END
           -- what was not looked at is not fine
           || coalesce('; connected, but nothing was measured of: ' || found, '')
           || CASE WHEN apart IS NULL THEN ''
                   ELSE format('; not looked at: %s, for which kasm_latency.max_clients left no room',
                               CASE apart WHEN 1 THEN '1 connection' ELSE apart || ' connections' END) END;
END
$$;
COMMENT ON FUNCTION kasm_latency.assert_in_band(text, boolean) IS 'A line that says OK, or an error that names the hosts flagged with that severity or a higher one: for scheduled checks; with raise => false a line that begins with CRITICAL or WARNING in the place of the error';

CREATE FUNCTION kasm_latency.host_buckets(metric text, fine boolean DEFAULT false)
RETURNS TABLE (
    host text, host_role text, zone text,
    upper_s double precision[], cumulative bigint[], sum_s double precision, count bigint)
LANGUAGE sql VOLATILE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH merged AS MATERIALIZED (
        SELECT h.host, min(h.host_role) AS host_role, min(h.zone) AS zone,
               kasm_latency_internal.merge_histograms(
                   CASE metric WHEN 'turnaround' THEN f.ceilings
                               WHEN 'block' THEN f.bounds
                               WHEN 'server' THEN f.server_times
                               WHEN 'rtt' THEN f.rtts
                               ELSE kasm_latency_internal.refuse('metric must be rtt, turnaround, block or server')::bytea END) AS histogram
        FROM kasm_latency_internal.client_figures(NULL) AS f
        CROSS JOIN LATERAL kasm_latency_internal.host_of(f.client_addr, f.resolved_name) AS h
        WHERE NOT f.overflow
        GROUP BY h.host),
    -- the buckets of all hosts have the same bounds, from 10 us to 10 s: a series must not come and go; each
    -- is a series, so they are few: three to the decade, or with "fine" the cells themselves, 35
    bounds AS MATERIALIZED (
        -- seconds by themselves, as they become labels: 1.5e-05, not 1.4999999999999999e-05
        SELECT (step * 10.0 ^ decade)::double precision AS upper_ms,
               (step * 10.0 ^ (decade - 3))::double precision AS upper_s
        FROM generate_series(-2, 3) AS decade,
             (SELECT 1 + 0.1 * n FROM generate_series(0, 9) AS n
              UNION ALL SELECT 2 + 0.2 * n FROM generate_series(0, 14) AS n
              UNION ALL SELECT 5 + 0.5 * n FROM generate_series(0, 9) AS n) AS s (step)
        WHERE fine OR step IN (1, 2, 5)
        UNION ALL
        SELECT 10000, 10)
    SELECT m.host, m.host_role, m.zone, c.upper_s, c.cumulative, c.sum_s, kasm_latency_internal.count_from(m.histogram, 0)
    FROM merged AS m
    CROSS JOIN LATERAL (
        SELECT array_agg(b.upper_s ORDER BY b.upper_ms) AS upper_s,
               array_agg(kasm_latency_internal.count_below(m.histogram, b.upper_ms) ORDER BY b.upper_ms) AS cumulative,
               coalesce(kasm_latency_internal.sum_s(m.histogram),
                        (SELECT coalesce(sum((x.from_ms + coalesce(x.to_ms, x.from_ms)) / 2 * x.count), 0) / 1000
                         FROM kasm_latency_internal.histogram_cells(m.histogram) AS x)) AS sum_s
        FROM bounds AS b) AS c
$$;
COMMENT ON FUNCTION kasm_latency.host_buckets(text, boolean) IS 'A histogram of each host since the last reset in the form of a Prometheus histogram, in seconds: turnaround, block, server or rtt; in 20 buckets, the last of them without an upper bound, or with fine => true in 212 as narrow as what was counted';
