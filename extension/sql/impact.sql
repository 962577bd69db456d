/*
 * What a distance costs, and what to do about it: shares of the time in chains,
 * launches here and elsewhere, conclusions in a line.  Uses hosts, in
 * host_figures(), and arithmetic.
 */

CREATE FUNCTION kasm_latency_internal.host_impact(since interval)
RETURNS TABLE (
    host text, verdict text, round_trips bigint, transactions bigint,
    round_trips_per_transaction double precision,
    network_s double precision, server_s double precision, lock_wait_s double precision,
    in_transaction_wait_s double precision, made_others_wait_s double precision,
    network_share double precision, launch_ms double precision, launch_ms_colocated double precision,
    chain_p50 integer, chain_p95 integer, chain_p50_ms double precision, chain_p95_ms double precision,
    server_share double precision, lock_share double precision, client_share double precision, chains bigint,
    host_role text, judged boolean, rtt_ms double precision, hidden_ms double precision, server_p50_ms double precision,
    chain_mean double precision, chain_mean_ms double precision, round_trip_in_chain_ms double precision)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    WITH figures AS (
        SELECT h.*,
               kasm_latency_internal.percentile_whole(h.chain_lengths, 0.5) AS chain_p50,
               kasm_latency_internal.percentile_ms(h.server_times, 0.5) AS server_p50_ms,
               -- no more than the chain took: a floor of whole microseconds may be one too long
               least(h.chain_network_s / nullif(h.chain_s, 0), 1) AS network_share,
               least(h.chain_server_s / nullif(h.chain_s, 0), 1) AS server_share,
               -- of all server time, what was a wait for a lock: that part of it in chains is none of the server's own
               coalesce(least(h.lock_wait_s / nullif(h.server_s, 0), 1), 0) AS lock_part
        FROM kasm_latency_internal.host_figures(since) AS h)
    SELECT f.host, f.verdict, f.round_trips, f.transactions,
           kasm_latency_internal.rounded(f.round_trips / nullif(f.transactions, 0)::double precision, 1),
           kasm_latency_internal.rounded(f.network_s, 3), kasm_latency_internal.rounded(f.server_s, 3),
           kasm_latency_internal.rounded(f.lock_wait_s, 3),
           kasm_latency_internal.rounded(f.in_transaction_wait_s, 3), kasm_latency_internal.rounded(f.made_others_wait_s, 3),
           kasm_latency_internal.rounded(f.network_share, 3),
           kasm_latency.launch_cost(coalesce(f.chain_p50, 10), f.rtt_ms, coalesce(f.server_p50_ms, 0)),
           kasm_latency.launch_cost(coalesce(f.chain_p50, 10), kasm_latency_internal.colocated_ms(), coalesce(f.server_p50_ms, 0)),
           f.chain_p50, kasm_latency_internal.percentile_whole(f.chain_lengths, 0.95),
           kasm_latency_internal.percentile_ms(f.chain_durations, 0.5),
           kasm_latency_internal.percentile_ms(f.chain_durations, 0.95),
           kasm_latency_internal.rounded(f.server_share * (1 - f.lock_part), 3),
           kasm_latency_internal.rounded(f.server_share * f.lock_part, 3),
           kasm_latency_internal.rounded(greatest(1 - f.network_share - f.server_share, 0), 3),
           f.chains, f.host_role, f.judged, f.rtt_ms, f.hidden_ms, f.server_p50_ms,
           kasm_latency_internal.rounded(f.chain_round_trips / nullif(f.chains, 0)::double precision, 1),
           kasm_latency_internal.rounded(1000 * f.chain_s / nullif(f.chains, 0), 3),
           kasm_latency_internal.rounded(1000 * f.chain_s / nullif(f.chain_round_trips, 0), 3)
    FROM figures AS f
    ORDER BY f.rank DESC, f.network_s DESC, f.host
$$;
COMMENT ON FUNCTION kasm_latency_internal.host_impact(interval) IS 'What impact, diagnose and placement_plan are made of, over a span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.impact AS
    SELECT i.host, i.verdict, i.rtt_ms, i.round_trips, i.transactions, i.round_trips_per_transaction,
           i.network_s, i.server_s, i.lock_wait_s, i.in_transaction_wait_s, i.made_others_wait_s, i.network_share,
           i.launch_ms, i.launch_ms_colocated, i.chain_p50, i.chain_p95, i.chain_p50_ms, i.chain_p95_ms
    FROM kasm_latency_internal.host_impact(NULL) AS i;
COMMENT ON VIEW kasm_latency.impact IS 'What each host''s distance costs over the recent span, worst first';
COMMENT ON COLUMN kasm_latency.impact.host IS 'Name, as in hosts';
COMMENT ON COLUMN kasm_latency.impact.verdict IS 'Verdict, as in hosts';
COMMENT ON COLUMN kasm_latency.impact.rtt_ms IS 'Milliseconds: the floor, as in hosts; NULL: not known';
COMMENT ON COLUMN kasm_latency.impact.round_trips IS 'Exchanges in the span, as in hosts';
COMMENT ON COLUMN kasm_latency.impact.transactions IS 'Transactions in the span, as in hosts';
COMMENT ON COLUMN kasm_latency.impact.round_trips_per_transaction IS 'round_trips / transactions; NULL: no transaction ended in the span';
COMMENT ON COLUMN kasm_latency.impact.network_s IS 'Seconds lost to the distance: the floor of the moment, added up exchange by exchange';
COMMENT ON COLUMN kasm_latency.impact.server_s IS 'Seconds of the server''s own time, added up exchange by exchange; waits for locks are in it, see lock_wait_s';
COMMENT ON COLUMN kasm_latency.impact.lock_wait_s IS 'Seconds that its connections waited for locks, added up over connections; sampled every kasm_latency.sample_locks: each look stands for the time since the look before';
COMMENT ON COLUMN kasm_latency.impact.in_transaction_wait_s IS 'Seconds that transactions stood open, holding their locks, while the server waited for this host: turnarounds inside transactions, also those longer than kasm_latency.idle_after';
COMMENT ON COLUMN kasm_latency.impact.made_others_wait_s IS 'Seconds that connections from other addresses waited for locks which its transactions held, sampled likewise: the view collateral has who waited';
COMMENT ON COLUMN kasm_latency.impact.network_share IS 'Part of the time in chains that is network, 0 to 1: floor x exchanges / duration; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.impact.launch_ms IS 'Milliseconds that a chain of chain_p50 exchanges (10 where none was seen) takes at rtt_ms and the median server time, as launch_cost says; NULL: rtt_ms is not known';
COMMENT ON COLUMN kasm_latency.impact.launch_ms_colocated IS 'Milliseconds: the same at a round trip of 0.5 ms, beside the database';
COMMENT ON COLUMN kasm_latency.impact.chain_p50 IS 'Median number of exchanges in a chain, exact up to 20, then the lower bound of a cell at most 10 % wide; 280 is 280 or more; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.impact.chain_p95 IS '95th percentile of the same; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.impact.chain_p50_ms IS 'Milliseconds that the median chain takes the client, from a histogram and its exact sum, as exact as hosts.turnaround_p50_ms; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.impact.chain_p95_ms IS 'Milliseconds: 95th percentile of the same; NULL: no chain ended in the span';

CREATE FUNCTION kasm_latency.placement_plan(host text DEFAULT NULL, queries integer DEFAULT NULL)
RETURNS TABLE (
    host text, option text, web_apps integer, queries integer, rtt_ms double precision, server_ms double precision,
    client_ms double precision, launch_ms double precision, max_launches_per_s double precision, says text)
LANGUAGE sql VOLATILE ROWS 40
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT kasm_latency_internal.argument('queries', placement_plan.queries) AS queries),
    hosts AS MATERIALIZED (
        SELECT i.host, i.verdict, i.rtt_ms,
               -- of an exchange in a chain, on average: what the server takes, waits for locks included, and what the client does
               coalesce((i.server_share + i.lock_share) * i.round_trip_in_chain_ms, 0) AS server_ms,
               coalesce(i.client_share * i.round_trip_in_chain_ms, 0) AS client_ms,
               coalesce(i.lock_share * i.round_trip_in_chain_ms, 0) AS lock_ms,
               coalesce(a.queries, i.chain_p50, 10) AS queries,
               kasm_latency_internal.pool_size() AS pool, kasm_latency_internal.colocated_ms() AS colocated_ms,
               kasm_latency_internal.limit_ms() AS limit_ms,
               row_number() OVER () AS place
        -- by way of "asked", so that a bad argument is refused where there is no host too
        FROM asked AS a
        CROSS JOIN LATERAL kasm_latency_internal.host_impact(CASE WHEN a.queries > 0 THEN NULL::interval END) AS i
        WHERE i.host_role = 'webapp' AND i.judged AND i.rtt_ms IS NOT NULL
          AND (placement_plan.host IS NULL OR i.host = placement_plan.host)),
    costs AS MATERIALIZED (
        SELECT h.*,
               CASE h.queries WHEN 1 THEN '1 query' ELSE h.queries || ' queries, one after the other,' END AS what,
               kasm_latency.launch_cost(h.queries, h.rtt_ms, h.server_ms + h.client_ms) AS today_ms,
               kasm_latency.launch_cost(h.queries, h.colocated_ms, h.server_ms + h.client_ms) AS beside_ms,
               -- a server that takes no time of its own: what is waited for locks, others hold
               kasm_latency.launch_cost(h.queries, h.rtt_ms, h.lock_ms + h.client_ms) AS faster_ms,
               -- its users' proxy stays in their region, and asks the Web App once per session
               CASE WHEN h.rtt_ms >= h.limit_ms THEN h.rtt_ms ELSE 0 END AS proxy_ms
        FROM hosts AS h)
    SELECT c.host, o.option, o.web_apps, c.queries, o.rtt_ms,
           kasm_latency_internal.rounded(o.server_ms, 3), kasm_latency_internal.rounded(c.client_ms, 3),
           kasm_latency_internal.rounded(o.launch_ms, 3),
           kasm_latency_internal.rounded(o.web_apps * c.pool * 1000.0 / nullif(o.holds_ms, 0), 1),
           o.says
    FROM costs AS c
    CROSS JOIN LATERAL (VALUES
        (1, 'today', 1, c.rtt_ms, c.server_ms, c.today_ms, c.today_ms,
         format('%s over %s each.', c.what, kasm_latency_internal.ms_text(c.rtt_ms))),
        (2, 'moved beside the database', 1, c.colocated_ms, c.server_ms, c.beside_ms + c.proxy_ms, c.beside_ms,
         CASE WHEN c.beside_ms + c.proxy_ms >= c.today_ms AND c.proxy_ms = 0 THEN 'Gains nothing: it is beside it already.'
              WHEN c.beside_ms + c.proxy_ms >= c.today_ms
              THEN format('A launch of %s gains nothing, as the Dedicated Proxy asks over %s once; but locks and connections '
                          'are held for less.', c.what, kasm_latency_internal.ms_text(c.rtt_ms))
              WHEN c.proxy_ms > 0
              THEN format('Saves %s of each launch: the queries stay in the database''s zone, and a Dedicated Proxy left '
                          'behind asks the control plane once per session, over %s.',
                          kasm_latency_internal.ms_text(c.today_ms - c.beside_ms - c.proxy_ms), kasm_latency_internal.ms_text(c.rtt_ms))
              WHEN c.rtt_ms >= 1
              THEN format('It is near enough; in the database''s own zone each launch would take %s less.',
                          kasm_latency_internal.ms_text(c.today_ms - c.beside_ms))
              ELSE 'It shares the database''s zone already: there is little to gain.' END),
        (3, 'one more Web App where it is', 2, c.rtt_ms, c.server_ms, c.today_ms, c.today_ms,
         'Does not help: more launches at a time, each as slow as today, and each holding its locks as long.'),
        (4, 'a faster database', 1, c.rtt_ms, c.lock_ms, c.faster_ms, c.faster_ms,
         format('Even one that takes no time at all saves %s of each launch: %s %% of it.',
                coalesce(kasm_latency_internal.ms_text(c.today_ms - c.faster_ms), '0 ms'),
                coalesce(round(100 * (c.today_ms - c.faster_ms) / nullif(c.today_ms, 0)), 0)))
    ) AS o (place, option, web_apps, rtt_ms, server_ms, launch_ms, holds_ms, says)
    ORDER BY c.place, o.place
$$;
COMMENT ON FUNCTION kasm_latency.placement_plan(text, integer) IS 'Per Web App: a launch today, with the Web App moved beside the database, with one more where it is, and with a faster database';

CREATE FUNCTION kasm_latency_internal.next_step(bound text, host text, flagged boolean, hidden_ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN bound = 'lock-bound' THEN
            'SELECT * FROM kasm_latency.collateral; SELECT * FROM kasm_latency.blocking; '
            '-- who keeps whom waiting, and who does at this moment'
        WHEN flagged AND bound <> 'server-bound' THEN
            format('SELECT reason, remedy FROM kasm_latency.flagged WHERE host = %L;', host)
            || coalesce(' -- what is behind it may be ' || kasm_latency_internal.ms_text(hidden_ms) || ' away', '')
        WHEN bound = 'network-bound' THEN
            format('SELECT option, launch_ms, says FROM kasm_latency.placement_plan(%L);', host)
        WHEN bound = 'server-bound' THEN
            'SELECT query, calls, mean_exec_time FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 10; '
            '-- the slowest queries, where pg_stat_statements is loaded'
        WHEN bound = 'client-bound' THEN
            format('SELECT pid, state, state_change, query FROM pg_stat_activity WHERE pid IN '
                   '(SELECT pid FROM kasm_latency.connections WHERE host = %L); -- what does it do between these? '
                   'Look at the load of that host, and at its services'' logs.', host)
        WHEN bound = 'no data' THEN
            format('SELECT * FROM kasm_latency.connections WHERE host = %L; -- is it connected, and does it ask anything?', host)
        ELSE 'None here: the database answers this host in time. Look at the host itself, at its users'' path to it, '
             'and at the agents.'
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.next_step(text, text, boolean, double precision) IS 'What to do after a conclusion of diagnose(): a query to paste, or what to look at';

CREATE FUNCTION kasm_latency_internal.diagnosis(
    bound text, chain_mean double precision, chain_mean_ms double precision, round_trip_in_chain_ms double precision,
    network_share double precision, server_share double precision, lock_share double precision,
    client_share double precision, held_by text,
    rtt_ms double precision, verdict text, hidden_ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- shares are of sums; so what is said beside them are means, of the same chains
    SELECT CASE bound
        WHEN 'no data' THEN 'no data: no run of queries has ended in the span'
        ELSE format('%s: on average %s; network %s %% (%s), server %s %%, %sclient %s %%',
                    bound,
                    CASE chain_mean
                        WHEN 1 THEN format('a query takes %s', kasm_latency_internal.ms_text(chain_mean_ms))
                        ELSE format('%s queries in a row take %s, %s each', chain_mean,
                                    kasm_latency_internal.ms_text(chain_mean_ms),
                                    kasm_latency_internal.ms_text(round_trip_in_chain_ms)) END,
                    round(100 * network_share),
                    coalesce('a round trip takes ' || kasm_latency_internal.ms_text(rtt_ms), 'a Unix-domain socket'),
                    round(100 * server_share),
                    CASE WHEN bound = 'lock-bound' OR lock_share >= 0.005
                         THEN format('waits for locks %s %%%s, ', round(100 * lock_share), coalesce(' (' || held_by || ')', ''))
                         ELSE '' END,
                    round(100 * client_share))
             || CASE WHEN verdict <> 'unproven' THEN ''
                     WHEN hidden_ms IS NOT NULL
                     THEN format('; what is behind it may be %s away: see flagged', kasm_latency_internal.ms_text(hidden_ms))
                     WHEN bound <> 'network-bound' THEN '; a pooler or proxy may hide a distance: see flagged'
                     ELSE '' END
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.diagnosis(text, double precision, double precision, double precision, double precision, double precision, double precision, double precision, text, double precision, text, double precision) IS 'The conclusion of diagnose() in a sentence';

CREATE FUNCTION kasm_latency.diagnose(host text DEFAULT NULL)
RETURNS TABLE (
    host text, verdict text, network_share double precision, server_share double precision,
    lock_share double precision, client_share double precision,
    chain_p50 integer, chain_p50_ms double precision, conclusion text, next_step text)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    WITH impact AS MATERIALIZED (
        SELECT * FROM kasm_latency_internal.host_impact(NULL)),
    -- of each host's waits, the part that one host is to blame for; its floor may be older than its distance
    held AS MATERIALIZED (
        SELECT DISTINCT ON (c.waiting_host) c.waiting_host,
               format('%s %% of it held by %s',
                      round(100 * c.waited_s / nullif(sum(c.waited_s) OVER (PARTITION BY c.waiting_host), 0)),
                      CASE WHEN c.blocking_host = c.waiting_host THEN 'itself'
                           WHEN c.blocking_verdict = 'unproven' AND b.hidden_ms IS NOT NULL
                           THEN format('%s, maybe %s away', c.blocking_host, kasm_latency_internal.ms_text(b.hidden_ms))
                           ELSE concat_ws(', ', c.blocking_host, kasm_latency_internal.ms_text(c.blocking_rtt_ms) || ' away') END) AS says
        FROM kasm_latency.collateral AS c
        LEFT JOIN impact AS b ON b.host = c.blocking_host
        ORDER BY c.waiting_host, c.waited_s DESC, c.blocking_host)
    SELECT i.host, i.verdict, i.network_share, i.server_share, i.lock_share, i.client_share, i.chain_p50, i.chain_p50_ms,
           kasm_latency_internal.diagnosis(
               c.bound, i.chain_mean, i.chain_mean_ms, i.round_trip_in_chain_ms,
               i.network_share, i.server_share, i.lock_share, i.client_share, b.says, i.rtt_ms, i.verdict, i.hidden_ms),
           kasm_latency_internal.next_step(c.bound, i.host,
                                           i.judged AND coalesce(v.severity IN ('critical', 'warning'), false), i.hidden_ms)
    FROM impact AS i
    JOIN kasm_latency.verdicts AS v ON v.verdict = i.verdict
    LEFT JOIN held AS b ON b.waiting_host = i.host
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN i.chains = 0 THEN 'no data'
            -- queries that take less than the limit on average make nobody wait; but for a lock a run waits once, and long
            WHEN i.round_trip_in_chain_ms < kasm_latency_internal.limit_ms()
             AND (i.lock_share > greatest(i.network_share, i.server_share, i.client_share)
                  AND i.lock_share * i.chain_mean_ms >= kasm_latency_internal.limit_ms()) IS NOT TRUE THEN 'healthy'
            WHEN i.network_share >= greatest(i.server_share, i.lock_share, i.client_share) THEN 'network-bound'
            WHEN i.lock_share >= greatest(i.server_share, i.client_share) THEN 'lock-bound'
            WHEN i.server_share >= i.client_share THEN 'server-bound'
            ELSE 'client-bound'
        END) AS c (bound)
    -- who asks for a host by name is told of it, judged or not
    WHERE CASE WHEN diagnose.host IS NULL THEN i.judged ELSE i.host = diagnose.host END
    ORDER BY array_position(ARRAY['network-bound', 'lock-bound', 'server-bound', 'client-bound', 'healthy', 'no data'], c.bound),
             i.chain_p50_ms DESC NULLS LAST, i.host
$$;
COMMENT ON FUNCTION kasm_latency.diagnose(text) IS 'Kasm is slow: is it the database''s distance?  Each host''s shares of network, server, waits for locks and client in its runs of queries, a conclusion, and the next step; the distant first';

CREATE FUNCTION kasm_latency_internal.conclusion(since interval, OUT state text, OUT says text, OUT first_host text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH hosts AS MATERIALIZED (
        SELECT i.*, coalesce(kasm_latency_internal.ms_text(i.rtt_ms), 'unknown') AS rtt, v.severity
        FROM kasm_latency_internal.host_impact(since) AS i
        JOIN kasm_latency.verdicts AS v ON v.verdict = i.verdict
        WHERE i.judged AND i.verdict <> 'no_data'),
    counted AS (
        SELECT count(*) AS n,
               count(*) FILTER (WHERE h.severity = 'critical') AS far,
               count(*) FILTER (WHERE h.severity = 'warning') AS doubtful,
               count(*) FILTER (WHERE h.verdict = 'floor_only' AND h.rtt_ms IS NOT NULL) AS by_the_kernel,
               string_agg(h.host || ' (' || h.rtt || ')', ', ' ORDER BY h.rtt_ms DESC NULLS LAST)
                   FILTER (WHERE h.severity = 'critical') AS far_hosts,
               string_agg(h.host || ' (' || replace(h.verdict, '_', ' ')
                          || coalesce(', maybe ' || kasm_latency_internal.ms_text(h.hidden_ms) || ' behind it', '') || ')',
                          ', ' ORDER BY h.host)
                   FILTER (WHERE h.severity = 'warning') AS doubtful_hosts,
               min(h.host) FILTER (WHERE h.severity = 'warning') AS doubtful_host
        FROM hosts AS h),
    worst AS (
        SELECT h.* FROM hosts AS h
        WHERE h.severity = 'critical' ORDER BY h.rtt_ms DESC NULLS LAST LIMIT 1),
    -- of the far hosts the one that others waited for longest, if it is worth a word
    holder AS (
        SELECT h.host, h.made_others_wait_s FROM hosts AS h
        WHERE h.severity = 'critical' AND h.made_others_wait_s >= 1 ORDER BY h.made_others_wait_s DESC, h.host LIMIT 1)
    SELECT s.state,
           CASE s.state
               WHEN 'no data' THEN 'Nothing was measured in the span'
               WHEN 'far' THEN
                   format('%s too far from the database: %s; ',
                          CASE WHEN c.n = 1 THEN 'The one host measured is' WHEN c.far = 1 THEN format('1 of %s hosts is', c.n)
                               ELSE format('%s of %s hosts are', c.far, c.n) END, c.far_hosts)
                   || format('a launch of %s queries in a row takes %s from %s, and would take %s beside the database',
                             coalesce(w.chain_p50, 10), kasm_latency_internal.ms_text(w.launch_ms), w.host,
                             kasm_latency_internal.ms_text(w.launch_ms_colocated))
                   || CASE WHEN b.host IS NULL THEN ''
                           ELSE format('; %s made others wait %s s for its locks',
                                       CASE WHEN b.host = w.host THEN 'it' ELSE b.host END,
                                       round(b.made_others_wait_s::numeric, 1)) END
                   || CASE WHEN c.doubtful > 0 THEN '; to be looked at as well: ' || c.doubtful_hosts ELSE '' END
               WHEN 'doubtful' THEN
                   format('No host is proven to be too far from the database, but %s a look: %s',
                          CASE c.doubtful WHEN 1 THEN '1 needs' ELSE c.doubtful || ' need' END, c.doubtful_hosts)
               ELSE
                   format('%s within %s of the database',
                          CASE c.n WHEN 1 THEN 'The one host measured is' ELSE format('All %s hosts are', c.n) END,
                          kasm_latency_internal.ms_text(kasm_latency_internal.limit_ms()))
                   || CASE WHEN c.by_the_kernel > 0
                           THEN format(', %s by the kernel''s word alone',
                                       CASE c.by_the_kernel WHEN c.n THEN 'though' ELSE c.by_the_kernel || ' of them' END)
                           ELSE '' END
           END,
           coalesce(w.host, c.doubtful_host)
    FROM counted AS c
    LEFT JOIN worst AS w ON true
    LEFT JOIN holder AS b ON true
    CROSS JOIN LATERAL (SELECT CASE WHEN c.n = 0 THEN 'no data' WHEN c.far > 0 THEN 'far'
                                    WHEN c.doubtful > 0 THEN 'doubtful' ELSE 'near' END) AS s (state)
$$;
COMMENT ON FUNCTION kasm_latency_internal.conclusion(interval) IS 'All hosts in a sentence, without its full stop: what summary() and the report begin with; and the host to begin with';

CREATE FUNCTION kasm_latency.summary()
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE c.state
        WHEN 'no data' THEN
            format('Nothing was measured in the last %s minutes: check that kasm_latency.enabled is on (it is %s), that '
                   'kasm_latency.app_roles names the database role of the Web Apps (it is %s), and that they are '
                   'connected to this server at all: SELECT * FROM kasm_latency.connections.',
                   round(extract(epoch FROM kasm_latency_internal.recent()) / 60),
                   current_setting('kasm_latency.enabled'),
                   coalesce(nullif(quote_literal(current_setting('kasm_latency.app_roles')), ''''''), 'empty: all'))
        WHEN 'near' THEN
            c.says || ': the distance is not what makes it slow; if it is slow all the same, SELECT host, conclusion, next_step '
                      'FROM kasm_latency.diagnose() tells whether it is the server or the client, and '
                      'SELECT * FROM kasm_latency.blocking who waits for whose lock.'
        ELSE c.says || format('; first: SELECT reason, remedy FROM kasm_latency.flagged WHERE host = %L.', c.first_host)
    END
    FROM kasm_latency_internal.conclusion(NULL) AS c
$$;
COMMENT ON FUNCTION kasm_latency.summary() IS 'One sentence: is anything wrong with a distance, what does it cost, and what to do first';
