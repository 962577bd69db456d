/*
 * The report: a self-contained HTML page, in ASCII, without a script.  Uses the
 * parts and conclusion().
 */

CREATE FUNCTION kasm_latency.report(since interval DEFAULT NULL)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO'
AS $$
    SELECT $page$<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distance to the database</title>
<style>
$page$ || kasm_latency_internal.report_style() || $page$</style></head><body>
<h1>Distance to the database</h1>
<p class="when">$page$
        || kasm_latency_internal.html(format('Measured by kasm_latency over the last %s minutes up to %s, in database %s.',
               ceil(extract(epoch FROM coalesce(since, kasm_latency_internal.recent())) / 60),
               to_char(now(), 'YYYY-MM-DD HH24:MI TZ'), current_database()))
        || '</p><p class="conclusion">' || kasm_latency_internal.html((kasm_latency_internal.conclusion(since)).says || '.') || '</p>'
        || coalesce('<h2>How far each host is</h2><figure style="margin:0">' || kasm_latency_internal.report_axis(since)
               || '<figcaption>Each bar goes from the fastest round trip that the kernel saw (nobody is nearer) to what 95 % of the '
                  'turnarounds inside transactions took at most; the tick is their median. The shaded side of the dashed line is '
                  'within the limit. The axis is logarithmic.</figcaption></figure>', '')
        || coalesce('<h2>What the distance costs</h2>' || kasm_latency_internal.report_costs(since)
               || '<p class="note">A launch is as many queries in a row as were counted on the host (ten where none were), each paying the '
                  'round trip and the median server time; beside the database a round trip takes 0.5 ms.</p>', '')
        || '<h2>What to do</h2>' || coalesce(kasm_latency_internal.report_remedies(since), '<p>Nothing: no host is flagged.</p>')
        || '<h2>Over time</h2>' || coalesce(kasm_latency_internal.report_history(),
               '<p>There is no history of the last seven days. Schedule <code>SELECT kasm_latency.snapshot()</code>.</p>')
        || coalesce('<h2>How turnarounds are spread</h2>' || kasm_latency_internal.report_distributions(since), '')
        || '</body></html>'
$$;
COMMENT ON FUNCTION kasm_latency.report(interval) IS 'A self-contained HTML page of all this, to hand over';
