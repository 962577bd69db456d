/*
 * What was it like, and what was different: a time that is past, from history.
 */

CREATE FUNCTION kasm_latency_internal.history_over(first_at timestamptz, last_at timestamptz)
RETURNS TABLE (
    host text, snapshots bigint, verdict text, usual_verdict text, from_at timestamptz, until_at timestamptz,
    rtt_ms double precision, usual_rtt_ms double precision, hidden_ms double precision,
    network_share double precision, server_share double precision, lock_share double precision, client_share double precision,
    chain_p50 integer, chain_p50_ms double precision, usual_chain_p50_ms double precision,
    network_s double precision, lock_wait_s double precision, made_others_wait_s double precision, waited_for text)
LANGUAGE sql STABLE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    -- spans overlap where snapshots come more often than "recent" is long: each stands for the time since the one before
    WITH snapshots AS MATERIALIZED (
        SELECT * FROM (
            SELECT h.*, v.rank,
                   coalesce(least(extract(epoch FROM h.taken_at - lag(h.taken_at) OVER (PARTITION BY h.host ORDER BY h.taken_at))
                                  / extract(epoch FROM h.span), 1), 1)::double precision AS part
            FROM kasm_latency.history AS h
            LEFT JOIN kasm_latency.verdicts AS v ON v.verdict = h.verdict
            WHERE h.taken_at >= history_over.first_at - interval '1 hour' AND h.taken_at <= history_over.last_at) AS s
        WHERE s.taken_at >= history_over.first_at),
    worst AS (
        SELECT DISTINCT ON (s.host) s.host, s.verdict FROM snapshots AS s ORDER BY s.host, s.rank DESC NULLS LAST),
    slowest AS (
        SELECT DISTINCT ON (s.host) s.* FROM snapshots AS s ORDER BY s.host, s.chain_p50_ms DESC NULLS LAST, s.taken_at),
    waits AS (
        SELECT s.host, w.key AS blocking_host, sum(w.value::double precision * s.part) AS waited_s
        FROM snapshots AS s
        CROSS JOIN LATERAL jsonb_each_text(s.waited_for) AS w
        GROUP BY s.host, w.key),
    longest AS (
        SELECT DISTINCT ON (w.host) w.host,
               format('%s %% of it for %s', round(100 * w.waited_s / nullif(sum(w.waited_s) OVER (PARTITION BY w.host), 0)),
                      CASE WHEN w.blocking_host = w.host THEN 'itself' ELSE w.blocking_host END) AS says
        FROM waits AS w
        ORDER BY w.host, w.waited_s DESC, w.blocking_host)
    SELECT s.host, count(*), w.verdict, mode() WITHIN GROUP (ORDER BY s.verdict),
           min(s.taken_at) FILTER (WHERE s.verdict = w.verdict), max(s.taken_at) FILTER (WHERE s.verdict = w.verdict),
           max(s.rtt_ms), percentile_cont(0.5) WITHIN GROUP (ORDER BY s.rtt_ms), max(s.hidden_ms) FILTER (WHERE s.verdict = w.verdict),
           m.network_share, m.server_share, m.lock_share, m.client_share, m.chain_p50, m.chain_p50_ms,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY s.chain_p50_ms),
           sum(s.network_s * s.part), sum(s.lock_wait_s * s.part), sum(s.made_others_wait_s * s.part), l.says
    FROM snapshots AS s
    JOIN worst AS w ON w.host = s.host
    JOIN slowest AS m ON m.host = s.host
    LEFT JOIN longest AS l ON l.host = s.host
    GROUP BY s.host, w.verdict, m.network_share, m.server_share, m.lock_share, m.client_share, m.chain_p50, m.chain_p50_ms, l.says
$$;
COMMENT ON FUNCTION kasm_latency_internal.history_over(timestamptz, timestamptz) IS 'Each host of the snapshots of a time: at its worst, as usual, and in all';

CREATE FUNCTION kasm_latency_internal.compared_with(first_at timestamptz, last_at timestamptz, OUT back interval, OUT says text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.back, c.says
    FROM (VALUES (1, interval '7 days', 'the same hours of the week before'),
                 (2, interval '1 day', 'the same hours of the day before'),
                 (3, greatest(last_at - first_at, interval '1 minute'), 'as long a time just before it'),
                 (4, NULL, 'nothing: there is no history of the time before it')) AS c (place, back, says)
    WHERE c.back IS NULL
       -- nothing of the time itself
       OR c.back >= last_at - first_at
          AND EXISTS (SELECT FROM kasm_latency.history AS h WHERE h.taken_at >= first_at - c.back AND h.taken_at <= last_at - c.back
                                                              AND h.taken_at < first_at)
    ORDER BY c.place
    LIMIT 1
$$;
COMMENT ON FUNCTION kasm_latency_internal.compared_with(timestamptz, timestamptz) IS 'What a time is to be compared with: as far back as there is history of, at most a week';

CREATE FUNCTION kasm_latency.incident(first_at timestamptz, last_at timestamptz DEFAULT now())
RETURNS TABLE (
    host text, says text, verdict text, verdict_before text, from_at timestamptz, until_at timestamptz,
    rtt_ms double precision, rtt_before_ms double precision,
    network_share double precision, server_share double precision, lock_share double precision, client_share double precision,
    chain_p50 integer, chain_p50_ms double precision, chain_p50_before_ms double precision,
    network_s double precision, network_before_s double precision,
    lock_wait_s double precision, lock_wait_before_s double precision,
    made_others_wait_s double precision, made_others_wait_before_s double precision,
    differs boolean, compared_with text)
LANGUAGE sql STABLE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT CASE WHEN incident.first_at <= incident.last_at THEN incident.first_at
                    ELSE kasm_latency_internal.refuse('first_at must not be null, nor after last_at')::timestamptz END AS first_at),
    compared AS MATERIALIZED (
        SELECT a.first_at, c.back, c.says
        FROM asked AS a, kasm_latency_internal.compared_with(a.first_at, incident.last_at) AS c),
    figures AS (
        SELECT n.*, c.says AS compared_with,
               b.host IS NOT NULL AS known, b.usual_verdict AS verdict_before, b.usual_rtt_ms AS rtt_before_ms,
               b.usual_chain_p50_ms AS chain_p50_before_ms, b.network_s AS network_before_s, b.lock_wait_s AS lock_wait_before_s,
               b.made_others_wait_s AS made_others_wait_before_s
        FROM compared AS c
        CROSS JOIN LATERAL kasm_latency_internal.history_over(c.first_at, incident.last_at) AS n
        LEFT JOIN LATERAL kasm_latency_internal.history_over(
            c.first_at - c.back, least(incident.last_at - c.back, c.first_at - interval '1 microsecond')) AS b ON b.host = n.host),
    -- what is worth a word
    differences AS (
        SELECT f.*,
               f.verdict IS DISTINCT FROM f.verdict_before
                   -- most have none
                   AND (coalesce(nv.severity, '') || coalesce(bv.severity, '')) ~ 'critical|warning' AS other_verdict,
               coalesce(abs(f.rtt_ms - f.rtt_before_ms) > 1 + 0.25 * f.rtt_before_ms, false) AS other_rtt,
               coalesce(f.chain_p50_ms > 5 + 1.5 * f.chain_p50_before_ms, false) AS slower,
               coalesce(f.lock_wait_s > 1 + 2 * coalesce(f.lock_wait_before_s, 0), false) AS waited,
               coalesce(f.made_others_wait_s > 1 + 2 * coalesce(f.made_others_wait_before_s, 0), false) AS made_wait
        FROM figures AS f
        LEFT JOIN kasm_latency.verdicts AS nv ON nv.verdict = f.verdict
        LEFT JOIN kasm_latency.verdicts AS bv ON bv.verdict = f.verdict_before)
    SELECT d.host,
           coalesce(nullif(concat_ws('; ',
               CASE WHEN d.other_verdict
                    THEN format('was %s%s in the snapshot%s%s', d.verdict,
                                coalesce(', with something maybe ' || kasm_latency_internal.ms_text(d.hidden_ms) || ' away behind it,', ''),
                                CASE WHEN d.from_at = d.until_at THEN format(' of %s', to_char(d.from_at, t.format))
                                     ELSE format('s from %s to %s', to_char(d.from_at, t.format), to_char(d.until_at, t.format)) END,
                                coalesce(' (before: ' || d.verdict_before || ')', '')) END,
               CASE WHEN d.other_rtt
                    THEN format('round trip up to %s (before: %s), in all %s s lost to the distance (before: %s s)',
                                kasm_latency_internal.ms_text(d.rtt_ms), kasm_latency_internal.ms_text(d.rtt_before_ms),
                                round(d.network_s::numeric, 1), round(d.network_before_s::numeric, 1)) END,
               CASE WHEN d.slower
                    THEN format('%s took up to %s (before: %s), network %s %%, server %s %%, waits for locks %s %%, client %s %% of it',
                                CASE d.chain_p50 WHEN 1 THEN 'a query' ELSE format('a run of %s queries', d.chain_p50) END, kasm_latency_internal.ms_text(d.chain_p50_ms),
                                kasm_latency_internal.ms_text(d.chain_p50_before_ms),
                                round(100 * d.network_share), round(100 * d.server_share),
                                round(100 * coalesce(d.lock_share, 0)), round(100 * d.client_share)) END,
               CASE WHEN d.waited
                    THEN format('waited %s s for locks%s%s', round(d.lock_wait_s::numeric, 1),
                                coalesce(' (before: ' || round(d.lock_wait_before_s::numeric, 1) || ' s)', ''),
                                coalesce(', ' || d.waited_for, '')) END,
               CASE WHEN d.made_wait
                    THEN format('made others wait %s s for its locks%s', round(d.made_others_wait_s::numeric, 1),
                                coalesce(' (before: ' || round(d.made_others_wait_before_s::numeric, 1) || ' s)', '')) END), ''),
               CASE WHEN d.known THEN 'no different' ELSE 'was not there before: nothing to compare it with' END),
           d.verdict, d.verdict_before, d.from_at, d.until_at, d.rtt_ms, d.rtt_before_ms,
           d.network_share, d.server_share, d.lock_share, d.client_share,
           d.chain_p50, d.chain_p50_ms, d.chain_p50_before_ms,
           kasm_latency_internal.rounded(d.network_s, 3), kasm_latency_internal.rounded(d.network_before_s, 3),
           kasm_latency_internal.rounded(d.lock_wait_s, 3), kasm_latency_internal.rounded(d.lock_wait_before_s, 3),
           kasm_latency_internal.rounded(d.made_others_wait_s, 3), kasm_latency_internal.rounded(d.made_others_wait_before_s, 3),
           x.differs, d.compared_with
    FROM differences AS d
    -- what is longer than a day needs the date
    CROSS JOIN (SELECT CASE WHEN incident.last_at - incident.first_at <= interval '1 day' THEN 'HH24:MI'
                            ELSE 'YYYY-MM-DD HH24:MI' END) AS t (format)
    CROSS JOIN LATERAL (SELECT d.other_verdict OR d.other_rtt OR d.slower OR d.waited OR d.made_wait) AS x (differs)
    ORDER BY x.differs DESC, d.made_others_wait_s DESC NULLS LAST, d.other_verdict DESC, d.lock_wait_s DESC NULLS LAST, d.host
$$;
COMMENT ON FUNCTION kasm_latency.incident(timestamptz, timestamptz) IS 'What was different at a time that is past: each host of history at its worst then, and as it was in the same hours of the week before; what differs first';
