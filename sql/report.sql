-- The report as a page: of the last minutes, and of a time that is past.  Whatever is in a name stays text.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;
-- whatever waited for a lock before, in another test
SELECT kasm_latency.reset() IS NOT NULL AS forgotten;
SET timezone = 'UTC';
\pset format unaligned
\pset tuples_only on

-- the body, a part to a line
CREATE FUNCTION parts(page text) RETURNS text LANGUAGE sql AS
$$ SELECT regexp_replace(replace(split_part(page, '<body>', 2), current_database(), 'mine'), '(<h1|<h2|<tr|<p|<line|<polyline|<li|<ul)', E'\n\\1', 'g') $$;

-- what it is made of where nobody waited, nothing is flagged, and there is no history
SELECT unnest(regexp_matches(kasm_latency.report(), '<h2>([^<]*)</h2>', 'g'));
SELECT unnest(regexp_matches(kasm_latency.report('1 hour'), '(There is no history.*<code>[A-Za-z_ .]* =)'));
SELECT kasm_latency_internal.report_collateral(NULL) IS NULL AS nobody_waited;

-- a made-up past: a Web App that became far and kept another waiting, under the worst of names
INSERT INTO kasm_latency.history (taken_at, host, host_role, verdict, rtt_ms, network_share, server_share, lock_share, client_share,
                                  chain_p50, chain_p50_ms, network_s, lock_wait_s, waited_for, made_others_wait_s, span)
SELECT week + t, host, 'webapp', CASE WHEN rtt_ms < 10 THEN 'in_band' ELSE 'out_of_band' END, rtt_ms, network, 0.02, locks, 0.98 - network - locks,
       12, CASE WHEN locks > 0.5 THEN 1443.2 ELSE 12 * rtt_ms + 2 END, rtt_ms, waited, CASE WHEN waited > 0 THEN jsonb_build_object(evil, waited) END,
       made, '15 min'
FROM (VALUES (timestamptz '2026-03-01 14:00Z', false), ('2026-03-08 14:00Z', true)) AS w (week, bad),
     generate_series(0, 4) AS n, LATERAL (VALUES (n * interval '15 min')) AS t (t),
     (VALUES ($$<b>far</b> "1" & 'co' %s$$)) AS e (evil),
     LATERAL (VALUES (evil, CASE WHEN bad AND n > 1 THEN 120.2 ELSE 0.4 END, CASE WHEN bad THEN 0.9 ELSE 0.5 END, 0, 0,
                      CASE WHEN bad AND n > 1 THEN 120.4 ELSE 0 END),
                     ('webapp-1', 0.3, 0.01, CASE WHEN bad AND n > 1 THEN 0.9 ELSE 0 END,
                      CASE WHEN bad AND n > 1 THEN 120.4 ELSE 0 END, 0),
                     ('webapp-2', 0.3, 0.5, 0, 0, 0)) AS h (host, rtt_ms, network, locks, waited, made);
SELECT parts(kasm_latency.report('2026-03-08 14:00Z', '2026-03-08 15:00Z'));

-- at first nothing is different; of one time there is no history, of another none of the time before
SELECT parts(kasm_latency.report('2026-03-08 14:00Z', '2026-03-08 14:15Z')) ~ 'No host was different' AS quiet;
SELECT parts(kasm_latency.report('2026-01-01', '2026-01-02'));
SELECT split_part(parts(kasm_latency.report('2026-03-01 14:00Z', '2026-03-01 14:00Z')), '<h2>', 1);
-- hosts that were not there before, one of them worth a word; and one that had little to do
INSERT INTO kasm_latency.history (taken_at, host, host_role, verdict, rtt_ms) VALUES
    ('2026-03-08 14:00Z', 'new', 'webapp', 'out_of_band', 25.2), ('2026-03-08 14:00Z', 'newer', 'webapp', 'floor_only', 0.3),
    ('2026-03-08 14:00Z', 'quiet', 'webapp', 'floor_only', 0.3), ('2026-03-01 14:00Z', 'quiet', 'webapp', 'in_band', 0.3);
SELECT unnest(regexp_matches(kasm_latency.report('2026-03-08 14:00Z', '2026-03-08 14:15Z'), '<p class="conclusion">(.*?)</p>.*?(<tr><th scope="row">new.*?</tr>)'));
SELECT host, says, differs FROM kasm_latency.incident('2026-03-08 14:00Z', '2026-03-08 14:15Z');
SET kasm_latency.rtt_limit = '200ms';
SELECT regexp_matches(kasm_latency.report('2026-03-08 14:00Z', '2026-03-08 15:00Z'), '<line class="limitline"[^>]*>');
RESET kasm_latency.rtt_limit;

-- text for pages alone, ASCII, and nothing that another server would be asked for
SELECT page ~ '<b>far' AS markup, page ~ '&lt;b&gt;far&lt;/b&gt; &quot;1&quot; &amp; &#39;co&#39; %s' AS as_text, page ~ '[^\n -~]' AS beyond_ascii,
       page ~ '(src|href)=|url\(|@import|<script|<link' AS asks_others
FROM kasm_latency.report('2026-03-08 14:00Z', '2026-03-08 15:00Z') AS page;

-- arguments are those of incident()
SELECT kasm_latency.report('2026-03-08 15:00Z', '2026-03-08 14:00Z');
SELECT kasm_latency.report(NULL, now());

DROP FUNCTION parts(text);
DROP EXTENSION kasm_latency;
