/*
 * The report: a self-contained HTML page, in ASCII, without a script; of the last
 * minutes, or of a time that is past.  Uses the parts and conclusion().
 */

CREATE FUNCTION kasm_latency_internal.report_page(about text, says text, parts text)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT $page$<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distance to the database</title>
<style>
$page$ || kasm_latency_internal.report_style() || $page$</style></head><body>
<h1>Distance to the database</h1>
<p class="when">$page$
        || kasm_latency_internal.html(about) || '</p><p class="conclusion">' || kasm_latency_internal.html(says || '.') || '</p>'
        || parts || '</body></html>'
$$;
COMMENT ON FUNCTION kasm_latency_internal.report_page(text, text, text) IS 'The page around a report''s parts: what it is about and what it says as text, the parts as HTML';

CREATE FUNCTION kasm_latency.report(since interval DEFAULT NULL)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO'
AS $$
    SELECT kasm_latency_internal.report_page(
        format('Measured by kasm_latency over the last %s minutes up to %s, in database %s.',
               ceil(extract(epoch FROM coalesce(since, kasm_latency_internal.recent())) / 60),
               kasm_latency_internal.moment_text(now()), current_database()),
        (kasm_latency_internal.conclusion(since)).says,
        coalesce('<h2>How far each host is</h2><figure style="margin:0">' || kasm_latency_internal.report_axis(since)
               || '<figcaption>Each bar goes from the fastest round trip that the kernel saw (nobody is nearer) to what 95 % of the '
                  'turnarounds inside transactions took at most; the tick is their median. The shaded side of the dashed line is '
                  'within the limit. The axis is logarithmic.</figcaption></figure>', '')
        || coalesce('<h2>What the distance costs</h2>' || kasm_latency_internal.report_costs(since)
               || '<p class="note">A launch is as many queries in a row as were counted on the host (ten where none were), each paying the '
                  'round trip and the median server time; beside the database a round trip takes 0.5 ms.</p>', '')
        || coalesce('<h2>Who made whom wait</h2>' || kasm_latency_internal.report_collateral(since)
               || '<p class="note">Seconds that connections waited for locks, added up over connections; the longest first, twenty at most. '
                  'For its client: the holder''s next query was on its way, or its client busy, and the server did nothing but wait for it.</p>', '')
        || '<h2>What to do</h2>' || coalesce(kasm_latency_internal.report_remedies(since), '<p>Nothing: no host is flagged.</p>')
        || coalesce('<h2>When the load grows</h2>' || kasm_latency_internal.report_forecast(since), '')
        || '<h2>Over time</h2>' || coalesce(kasm_latency_internal.report_history(now() - interval '7 days', now()),
               '<p>There is no history of the last seven days. ' || kasm_latency_internal.how_to_keep_history() || '</p>')
        || coalesce('<h2>How turnarounds are spread</h2>' || kasm_latency_internal.report_distributions(since), ''))
$$;
COMMENT ON FUNCTION kasm_latency.report(interval) IS 'A self-contained HTML page of all this, to hand over';

CREATE FUNCTION kasm_latency.report(first_at timestamptz, last_at timestamptz)
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO'
AS $$
    SELECT kasm_latency_internal.report_page(
        format('Kept by kasm_latency from %s to %s, in database %s%s.',
               kasm_latency_internal.moment_text(first_at), kasm_latency_internal.moment_text(last_at), current_database(),
               coalesce('; compared with ' || i.compared_with, '')),
        coalesce(i.says, 'There is no history of that time'),
        coalesce('<h2>What was different</h2>' || i.hosts
               || '<p class="note">Each host at its worst then, and as it usually was before; seconds in all. A run of queries is what somebody '
                  'waits for: a transaction, or queries that follow each other closely. Locks are those that its transactions '
                  'waited for, or held while connections from elsewhere waited.</p>',
                 '<p>' || kasm_latency_internal.how_to_keep_history() || '</p>')
        || coalesce('<h2>Round trips then</h2>' || kasm_latency_internal.report_history(first_at, last_at), ''))
    FROM kasm_latency_internal.report_incident(first_at, last_at) AS i
$$;
COMMENT ON FUNCTION kasm_latency.report(timestamptz, timestamptz) IS 'The same of a time that is past: what incident() says, as a page';
