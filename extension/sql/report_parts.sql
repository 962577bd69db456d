/*
 * Parts of the report: each a function that returns HTML, or NULL where it has
 * nothing to show.  Whatever comes from outside goes through html().  The style
 * sheet is report.css, which make puts in the place of the line that names it.
 */

CREATE FUNCTION kasm_latency_internal.html(plain text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- nothing but ASCII, so that the page is right in whatever encoding it is written
    SELECT coalesce(string_agg(CASE c WHEN '&' THEN '&amp;' WHEN '<' THEN '&lt;' WHEN '>' THEN '&gt;'
                                      WHEN '"' THEN '&quot;' WHEN '''' THEN '&#39;'
                                      ELSE CASE WHEN c BETWEEN ' ' AND '~' COLLATE "C" THEN c
                                                WHEN current_setting('server_encoding') = 'UTF8' THEN '&#' || ascii(c) || ';'
                                                ELSE '?' END
                               END, '' ORDER BY place), '')
    FROM unnest(string_to_array(plain, NULL)) WITH ORDINALITY AS u (c, place)
$$;
COMMENT ON FUNCTION kasm_latency_internal.html(text) IS 'Text for HTML, whatever is in it; nothing of NULL';

CREATE FUNCTION kasm_latency_internal.axis_position(ms double precision)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the axis goes from 0.05 ms to 1 s
    SELECT round((100 * ln(least(greatest(ms, 0.05), 1000) / 0.05) / ln(1000 / 0.05))::numeric, 2)
$$;
COMMENT ON FUNCTION kasm_latency_internal.axis_position(double precision) IS 'Where a latency lies on the report''s logarithmic axis, in percent';

CREATE FUNCTION kasm_latency_internal.seconds_cell(seconds double precision)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN seconds >= 0.05 THEN round(seconds::numeric, 1) || ' s' ELSE '&ndash;' END
$$;
COMMENT ON FUNCTION kasm_latency_internal.seconds_cell(double precision) IS 'Seconds in a cell of a table; a dash where there are next to none';

CREATE FUNCTION kasm_latency_internal.report_style()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT $css$
@report.css@
$css$
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_style() IS 'The report''s style sheet: extension/sql/report.css';

CREATE FUNCTION kasm_latency_internal.report_axis(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the verdict is told by a word and by the bar's pattern, not by colour alone
    SELECT '<div class="axis" role="list" aria-label="Round trip of each host">'
        || string_agg(format(
            '<div class="host" role="listitem"><div class="name"><b>%s</b> <span class="%s">%s</span></div>'
            '<div class="track" role="img" aria-label="%s">'
            '<i class="near" style="width:%s%%"></i>%s<i class="limit" style="left:%s%%"></i>%s%s</div></div>',
            kasm_latency_internal.html(h.host), h.verdict, replace(h.verdict, '_', ' '),
            kasm_latency_internal.html(format('round trip at least %s, typical turnaround %s',
                                              coalesce(kasm_latency_internal.ms_text(h.rtt_ms), 'unknown'),
                                              coalesce(kasm_latency_internal.ms_text(h.turnaround_p50_ms), 'unknown'))),
            kasm_latency_internal.axis_position(l.ms), b.lines, kasm_latency_internal.axis_position(l.ms),
            CASE WHEN h.rtt_ms IS NOT NULL THEN
                format('<i class="bar %s" style="left:%s%%;width:%s%%"></i>', h.verdict,
                       kasm_latency_internal.axis_position(h.rtt_ms),
                       greatest(kasm_latency_internal.axis_position(coalesce(h.turnaround_p95_ms, h.rtt_ms))
                                - kasm_latency_internal.axis_position(h.rtt_ms), 1)) END,
            CASE WHEN h.turnaround_p50_ms IS NOT NULL THEN
                format('<i class="median" style="left:%s%%"></i>', kasm_latency_internal.axis_position(h.turnaround_p50_ms)) END),
            '' ORDER BY h.place)
        || '<div class="host scale" aria-hidden="true"><div class="name"></div><div class="track">'
        || (SELECT string_agg(format('<span style="left:%s%%">%s</span>', kasm_latency_internal.axis_position(t.ms), t.label), '')
            FROM (VALUES (0.1, '0.1'), (1, '1'), (5, '5'), (10, '10'), (100, '100 ms')) AS t (ms, label))
        || (SELECT string_agg(format('<small style="left:%s%%;width:%s%%">%s</small>', kasm_latency_internal.axis_position(t.low),
                                     kasm_latency_internal.axis_position(t.high) - kasm_latency_internal.axis_position(t.low),
                                     kasm_latency.path_class(t.low)), '')
            FROM (VALUES (0.05, 1), (1, 5), (10, 100), (100, 1000)) AS t (low, high))
        || '</div></div></div>'
    FROM (SELECT s.*, row_number() OVER () AS place FROM kasm_latency.host_stats(since) AS s
          WHERE s.verdict <> 'no_data') AS h
    CROSS JOIN kasm_latency_internal.limit_ms() AS l (ms)
    CROSS JOIN (SELECT string_agg(format('<i class="bound" style="left:%s%%"></i>', kasm_latency_internal.axis_position(t.ms)), '') AS lines
                FROM unnest(ARRAY[1, 5, 10, 100]) AS t (ms)) AS b
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_axis(interval) IS 'Part of the report: the hosts on a logarithmic axis';

CREATE FUNCTION kasm_latency_internal.report_costs(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '<div class="wide" role="region" aria-label="Cost of each host" tabindex="0"><table><thead><tr><th scope="col">Host'
        '<th scope="col">Verdict<th scope="col">Round trip<th scope="col">Exchanges<th scope="col">Lost to the distance'
        '<th scope="col">Transactions waited<th scope="col">Waited for locks<th scope="col">Made others wait'
        '<th scope="col">Queries in a row<th scope="col">A launch takes<th scope="col">Beside the database</tr></thead><tbody>'
        || string_agg(format('<tr><th scope="row">%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s</tr>',
               kasm_latency_internal.html(i.host), replace(i.verdict, '_', ' '), coalesce(kasm_latency_internal.ms_text(i.rtt_ms), '&ndash;'),
               i.round_trips, kasm_latency_internal.seconds_cell(i.network_s), kasm_latency_internal.seconds_cell(i.in_transaction_wait_s),
               kasm_latency_internal.seconds_cell(i.lock_wait_s), kasm_latency_internal.seconds_cell(i.made_others_wait_s), coalesce(i.chain_p50::text, '&ndash;'),
               coalesce(kasm_latency_internal.ms_text(i.launch_ms), '&ndash;'),
               coalesce(kasm_latency_internal.ms_text(i.launch_ms_colocated), '&ndash;')), '' ORDER BY i.place)
        || '</tbody></table></div>'
    FROM (SELECT c.*, row_number() OVER () AS place FROM kasm_latency_internal.host_impact(since) AS c
          WHERE c.verdict <> 'no_data') AS i
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_costs(interval) IS 'Part of the report: what the distance costs, as a table';

CREATE FUNCTION kasm_latency_internal.report_collateral(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '<div class="wide" role="region" aria-label="Who made whom wait" tabindex="0"><table><thead><tr>'
        '<th scope="col">Who held the lock<th scope="col">Verdict<th scope="col">Round trip<th scope="col" class="words">Who waited'
        '<th scope="col">Waited<th scope="col">Of this for its client</tr></thead><tbody>'
        || string_agg(format('<tr><th scope="row">%s<td>%s<td>%s<td class="words">%s<td>%s<td>%s</tr>',
               kasm_latency_internal.html(c.blocking_host), coalesce(replace(c.blocking_verdict, '_', ' '), '&ndash;'),
               coalesce(kasm_latency_internal.ms_text(c.blocking_rtt_ms), '&ndash;'),
               CASE WHEN c.waiting_host = c.blocking_host THEN 'itself' ELSE kasm_latency_internal.html(c.waiting_host) END,
               kasm_latency_internal.seconds_cell(c.waited_s),
               kasm_latency_internal.seconds_cell(c.waited_for_client_s)), '' ORDER BY c.place)
        || '</tbody></table></div>'
    FROM (SELECT h.*, row_number() OVER () AS place FROM kasm_latency_internal.host_collateral(since) AS h LIMIT 20) AS c
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_collateral(interval) IS 'Part of the report: who made whom wait for locks, the twenty longest waits; NULL where nobody waited, or nobody looked';

CREATE FUNCTION kasm_latency_internal.report_distributions(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('<h3>%s</h3><div class="spread">%s</div>', kasm_latency_internal.html(w.host), d.bars), '' ORDER BY w.place)
    FROM (SELECT s.host, row_number() OVER () AS place FROM kasm_latency.host_stats(since) AS s
          WHERE s.turnaround_p50_ms IS NOT NULL LIMIT 3) AS w
    CROSS JOIN LATERAL (
        SELECT string_agg(format('<div><span>%s</span><span class="count"><i style="width:%s%%"></i></span><span>%s %%</span></div>',
                                 kasm_latency_internal.ms_text(x.from_ms), round(100 * x.count / max_count),
                                 round((100 * x.share)::numeric, 1)), '' ORDER BY x.from_ms) AS bars
        FROM (SELECT c.*, max(c.count) OVER () AS max_count
              FROM kasm_latency.histogram('turnaround', w.host, since) AS c WHERE c.count > 0) AS x) AS d
    WHERE d.bars IS NOT NULL
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_distributions(interval) IS 'Part of the report: how the turnarounds of the three worst hosts are spread';

CREATE FUNCTION kasm_latency_internal.how_to_keep_history()
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE current_setting('kasm_latency.history_database', true)
        WHEN current_database() THEN 'It is kept here: see the server''s log, if none comes.'
        ELSE format('To keep it: <code>ALTER SYSTEM SET kasm_latency.history_database = %s; SELECT pg_reload_conf()</code>',
                    kasm_latency_internal.html(quote_literal(current_database())))
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.how_to_keep_history() IS 'What the report says, as HTML, where it finds no history';

CREATE FUNCTION kasm_latency_internal.moment_text(moment timestamptz)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_char(moment, 'YYYY-MM-DD HH24:MI TZ')
$$;
COMMENT ON FUNCTION kasm_latency_internal.moment_text(timestamptz) IS 'A minute, as the report writes it';

CREATE FUNCTION kasm_latency_internal.report_history(first_at timestamptz, last_at timestamptz)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH steps AS (
        SELECT h.host, s.step, max(h.rtt_ms) AS rtt_ms
        FROM kasm_latency.history AS h
        CROSS JOIN LATERAL (
            SELECT floor(300 * extract(epoch FROM h.taken_at - report_history.first_at)
                         / greatest(extract(epoch FROM report_history.last_at - report_history.first_at), 60))::integer AS step) AS s
        WHERE h.taken_at >= report_history.first_at AND h.taken_at <= report_history.last_at AND h.rtt_ms IS NOT NULL
        GROUP BY h.host, s.step),
    lines AS (
        SELECT s.host, max(s.rtt_ms) AS worst_ms, count(*) AS n, row_number() OVER (ORDER BY max(s.rtt_ms) DESC, s.host) AS place,
               string_agg(format('%s,%s', s.step, 100 - kasm_latency_internal.axis_position(s.rtt_ms)), ' ' ORDER BY s.step) AS points,
               (array_agg(s.step ORDER BY s.step DESC))[1] AS last_step,
               (array_agg(s.rtt_ms ORDER BY s.step DESC))[1] AS last_ms
        FROM steps AS s
        GROUP BY s.host
        ORDER BY max(s.rtt_ms) DESC, s.host
        LIMIT 6)
    SELECT '<div class="past"><svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" '
        'aria-label="Round trip of the hosts below over that time">'
        || (SELECT string_agg(format('<line class="%s" x1="0" x2="300" y1="%s" y2="%s"/>',
                                     CASE WHEN t.ms = kasm_latency_internal.limit_ms() THEN 'limitline' ELSE 'grid' END,
                                     100 - kasm_latency_internal.axis_position(t.ms), 100 - kasm_latency_internal.axis_position(t.ms)), '')
            FROM (SELECT unnest(ARRAY[0.1, 1, 10, 100]::double precision[]) UNION SELECT kasm_latency_internal.limit_ms()) AS t (ms))
        -- a line of one step would be invisible
        || string_agg(format('<polyline class="line line%s" points="%s%s"/>', l.place, l.points,
                             CASE l.n WHEN 1 THEN format(' %s,%s', l.last_step + 1, 100 - kasm_latency_internal.axis_position(l.last_ms))
                                      ELSE '' END), '' ORDER BY l.place)
        || '</svg>'
        || (SELECT string_agg(format('<span class="y" style="top:%s%%">%s</span>', 100 - kasm_latency_internal.axis_position(t.ms), t.label), '')
            FROM (VALUES (0.1, '0.1'), (1, '1'), (10, '10'), (100, '100 ms')) AS t (ms, label))
        || '</div><p class="x">' || (SELECT string_agg(format('<span>%s</span>', kasm_latency_internal.html(
                                         kasm_latency_internal.moment_text(t.at))), '' ORDER BY t.at)
                                     FROM (VALUES (report_history.first_at), (report_history.last_at)) AS t (at))
        || '</p><ul class="legend">'
        || string_agg(format('<li><svg viewBox="0 0 30 6" aria-hidden="true"><line class="line line%s" x1="0" x2="30" y1="3" y2="3"/></svg>'
                             '%s: in the end %s, at worst %s', l.place, kasm_latency_internal.html(l.host), kasm_latency_internal.ms_text(l.last_ms),
                             kasm_latency_internal.ms_text(l.worst_ms)), '' ORDER BY l.place)
        || '</ul>'
    FROM lines AS l
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_history(timestamptz, timestamptz) IS 'Part of the report: the round trip of the six farthest hosts over a time; NULL without history';

CREATE FUNCTION kasm_latency_internal.report_remedies(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('<article><h3>%s <span class="%s">%s</span></h3><p>%s</p><p><b>What to do:</b> %s</p></article>',
                             kasm_latency_internal.html(f.host), f.verdict, replace(f.verdict, '_', ' '),
                             kasm_latency_internal.html(f.reason), kasm_latency_internal.html(f.remedy)), '' ORDER BY f.place)
    FROM (SELECT x.*, row_number() OVER () AS place FROM kasm_latency_internal.flagged_hosts(since) AS x) AS f
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_remedies(interval) IS 'Part of the report: reasons and remedies of the flagged hosts; NULL where there are none';

CREATE FUNCTION kasm_latency_internal.before_cell(then_was text, before_was text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(nullif(then_was, ''), '&ndash;') || CASE WHEN nullif(before_was, '') <> '&ndash;' THEN '<small>before: ' || before_was || '</small>' ELSE '' END
$$;
COMMENT ON FUNCTION kasm_latency_internal.before_cell(text, text) IS 'What was then, and in a line below it what was before, if anything';

CREATE FUNCTION kasm_latency_internal.report_incident(first_at timestamptz, last_at timestamptz, OUT hosts text, OUT compared_with text, OUT says text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH rows AS MATERIALIZED (
        SELECT i.*, row_number() OVER () AS place FROM kasm_latency.incident(first_at, last_at) AS i)
    SELECT '<div class="wide" role="region" aria-label="Each host then, and before" tabindex="0"><table><thead><tr><th scope="col">Host'
        '<th scope="col">What was different<th scope="col">Verdict<th scope="col">Round trip<th scope="col">A run of queries took'
        '<th scope="col">Waited for locks<th scope="col">Made others wait</tr></thead><tbody>'
        || string_agg(format('<tr><th scope="row">%s<td class="words">%s<td>%s<td>%s<td>%s<td>%s<td>%s</tr>',
               kasm_latency_internal.html(r.host), kasm_latency_internal.html(r.says),
               kasm_latency_internal.before_cell(replace(kasm_latency_internal.html(r.verdict), '_', ' '),
                                                 replace(kasm_latency_internal.html(r.verdict_before), '_', ' ')),
               kasm_latency_internal.before_cell(kasm_latency_internal.ms_text(r.rtt_ms), kasm_latency_internal.ms_text(r.rtt_before_ms)),
               kasm_latency_internal.before_cell(kasm_latency_internal.ms_text(r.chain_p50_ms),
                                                 kasm_latency_internal.ms_text(r.chain_p50_before_ms)),
               kasm_latency_internal.before_cell(kasm_latency_internal.seconds_cell(r.lock_wait_s),
                                                 kasm_latency_internal.seconds_cell(r.lock_wait_before_s)),
               kasm_latency_internal.before_cell(kasm_latency_internal.seconds_cell(r.made_others_wait_s),
                                                 kasm_latency_internal.seconds_cell(r.made_others_wait_before_s))), '' ORDER BY r.place)
        || '</tbody></table></div>',
        min(r.compared_with),
        CASE WHEN bool_or(r.differs) THEN
                 format('%s different; most of all %s: %s',
                        CASE WHEN count(*) = 1 THEN 'The one host was'
                             WHEN count(*) FILTER (WHERE r.differs) = 1 THEN format('1 of %s hosts was', count(*))
                             ELSE format('%s of %s hosts were', count(*) FILTER (WHERE r.differs), count(*)) END,
                        (array_agg(r.host ORDER BY r.place))[1], (array_agg(r.says ORDER BY r.place))[1])
             WHEN bool_and(r.verdict_before IS NULL) THEN 'There is no history of the time before, so nothing to compare with'
             WHEN count(*) > 0 THEN 'No host was different' END
    FROM rows AS r
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_incident(timestamptz, timestamptz) IS 'Part of the report of an incident: the hosts as a table, what they are compared with, and a sentence; NULL without history of that time';
