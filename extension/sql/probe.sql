/*
 * Before a Web App is put somewhere: how far is the place that asks?  Uses rules,
 * arithmetic, and raw figures.
 */

CREATE FUNCTION kasm_latency.probe(queries integer DEFAULT NULL)
RETURNS TABLE (
    client_addr inet, rtt_ms double precision, turnaround_min_ms double precision, path text, verdict text,
    queries integer, launch_ms double precision, launch_ms_colocated double precision, says text)
LANGUAGE sql VOLATILE ROWS 1 PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH connection AS MATERIALIZED (
        SELECT coalesce(c.client_addr, inet_client_addr()) AS client_addr,
               CASE WHEN inet_client_addr() IS NULL THEN 0 ELSE c.rtt_ms END AS rtt_ms, c.turnaround_min_ms
        FROM (VALUES (pg_backend_pid())) AS me (pid)
        LEFT JOIN kasm_latency_internal.live_connections() AS c ON c.pid = me.pid),
    -- what a launch is, as the Web Apps there are show it
    fleet AS MATERIALIZED (
        SELECT coalesce(kasm_latency_internal.argument('queries', probe.queries),
                        kasm_latency_internal.percentile_whole(kasm_latency_internal.merge_histograms(j.chain_lengths), 0.5),
                        10) AS queries,
               coalesce(kasm_latency_internal.percentile_ms(kasm_latency_internal.merge_histograms(j.server_times), 0.5), 0) AS server_ms
        FROM kasm_latency_internal.judged_clients(NULL) AS j
        WHERE j.judged AND j.host_role = 'webapp'),
    costs AS (
        SELECT c.*, f.queries, l.limit_ms,
               kasm_latency_internal.probe_verdict(c.rtt_ms, c.turnaround_min_ms, l.limit_ms) AS verdict,
               kasm_latency.launch_cost(f.queries, c.rtt_ms, f.server_ms) AS launch_ms,
               kasm_latency.launch_cost(f.queries, kasm_latency_internal.colocated_ms(), f.server_ms) AS launch_ms_colocated,
               kasm_latency_internal.ms_text(c.rtt_ms) AS rtt, kasm_latency_internal.ms_text(c.turnaround_min_ms) AS turnaround,
               kasm_latency_internal.ms_text(l.limit_ms) AS limit_text
        FROM connection AS c, fleet AS f, kasm_latency_internal.limit_ms() AS l (limit_ms))
    SELECT c.client_addr, c.rtt_ms, c.turnaround_min_ms, kasm_latency.path_class(c.rtt_ms), c.verdict,
           c.queries, c.launch_ms, c.launch_ms_colocated,
           CASE
               WHEN c.verdict = 'no_data' THEN
                   'Nothing was measured of this connection: is kasm_latency.enabled on?'
               WHEN c.client_addr IS NULL THEN 'This is the database''s own machine: it came by a Unix-domain socket.'
               WHEN c.verdict = 'out_of_band' THEN
                   format('Too far for a Web App: the fastest round trip from here took %s, and the limit is %s. A launch of %s queries '
                          'in a row would take %s, and %s beside the database: put the Web App there, and a Dedicated Proxy here.',
                          c.rtt, c.limit_text, c.queries, kasm_latency_internal.ms_text(c.launch_ms),
                          kasm_latency_internal.ms_text(c.launch_ms_colocated))
               WHEN c.verdict = 'unproven' THEN
                   format('Something near answers, at %s; but even the shortest turnaround inside a transaction took %s, and the limit '
                          'is %s. A connection pooler or proxy between here and there hides the distance, or this client was slow '
                          'itself: connect straight to the database and try again.', coalesce(c.rtt, 'an unknown time'), c.turnaround, c.limit_text)
               WHEN c.verdict = 'in_band' THEN
                   format('Near enough for a Web App: the fastest round trip took %s, and no more than %s can lie between: the shortest '
                          'turnaround inside a transaction; the limit is %s.', coalesce(c.rtt, 'an unknown time'), c.turnaround, c.limit_text)
               ELSE
                   format('What answers is near: the fastest round trip took %s, and the limit is %s. If a connection pooler or proxy stands '
                          'between, this is the distance to that one; to be sure, ask inside a transaction: psql -c BEGIN -c ''SELECT 1'' '
                          '-c ''SELECT * FROM kasm_latency.probe()''.', c.rtt, c.limit_text)
           END
           || CASE WHEN c.client_addr IS NOT NULL AND c.verdict IN ('in_band', 'floor_only') AND c.rtt_ms >= 1
                   THEN format(' In the database''s own zone a launch of %s queries in a row would take %s less.', c.queries,
                               kasm_latency_internal.ms_text(c.launch_ms - c.launch_ms_colocated))
                   ELSE '' END
    FROM costs AS c
$$;
COMMENT ON FUNCTION kasm_latency.probe(integer) IS 'Of the calling connection: how far is the place that it comes from, is that near enough for a Web App, and what would a launch of so many queries cost from there; without an argument, of as many as the Web Apps that are there send in a row';

CREATE FUNCTION kasm_latency.assert_here()
RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here record;
BEGIN
    SELECT * INTO here FROM kasm_latency.probe();
    IF here.verdict IN ('in_band', 'floor_only') THEN
        RETURN 'OK: ' || here.says;
    END IF;
    RAISE EXCEPTION '%', here.says
        USING HINT = 'SELECT * FROM kasm_latency.probe() has the figures.';
END
$$;
COMMENT ON FUNCTION kasm_latency.assert_here() IS 'A line that says OK, or an error where the place that the calling connection comes from is too far for a Web App, or hidden: for a deployment that must stop then';
