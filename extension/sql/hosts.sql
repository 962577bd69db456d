/*
 * Hosts: the clients of one name taken together, and those that are flagged.
 * Uses judged_clients() and the rules; a new column of "hosts" is made in
 * host_figures() or host_stats(), and commented below.
 */

CREATE FUNCTION kasm_latency_internal.host_figures(since interval)
RETURNS TABLE (
    host text, host_role text, zone text, client_addrs inet[], judged boolean, verdict text, rank integer,
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, hidden_ms double precision, turnaround_min_ms double precision, retransmits bigint,
    network_s double precision, server_s double precision, in_transaction_wait_s double precision,
    lock_wait_s double precision, made_others_wait_s double precision,
    chains bigint, chain_round_trips bigint,
    chain_s double precision, chain_network_s double precision, chain_server_s double precision,
    blocks bigint, far_blocks bigint,
    ceilings bytea, bounds bytea, server_times bytea, chain_lengths bytea, chain_durations bytea,
    first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.host,
           -- of a host's clients those that are judged speak first, and of these the worst
           (array_agg(c.host_role ORDER BY c.judged DESC, c.rank DESC))[1],
           (array_agg(c.zone ORDER BY c.zone))[1],
           array_agg(DISTINCT c.client_addr ORDER BY c.client_addr) FILTER (WHERE c.client_addr IS NOT NULL),
           bool_or(c.judged),
           (array_agg(c.verdict ORDER BY c.judged DESC, c.rank DESC))[1],
           (array_agg(c.rank ORDER BY c.judged DESC, c.rank DESC))[1],
           sum(c.connections)::bigint, sum(c.round_trips)::bigint, sum(c.transactions)::bigint,
           max(c.rtt_ms), (array_agg(c.hidden_ms ORDER BY c.judged DESC, c.rank DESC, c.rtt_ms DESC NULLS LAST))[1],
           min(c.turnaround_min_ms), sum(c.retransmits)::bigint,
           sum(c.network_s), sum(c.server_s), sum(c.in_transaction_wait_s), sum(c.lock_wait_s), sum(c.made_others_wait_s),
           sum(c.chains)::bigint, sum(c.chain_round_trips)::bigint,
           sum(c.chain_s), sum(c.chain_network_s), sum(c.chain_server_s),
           sum(c.blocks)::bigint, sum(c.far_blocks)::bigint,
           kasm_latency_internal.merge_histograms(c.ceilings), kasm_latency_internal.merge_histograms(c.bounds),
           kasm_latency_internal.merge_histograms(c.server_times),
           kasm_latency_internal.merge_histograms(c.chain_lengths), kasm_latency_internal.merge_histograms(c.chain_durations),
           min(c.first_seen), max(c.last_seen)
    FROM kasm_latency_internal.judged_clients(since) AS c
    GROUP BY c.host
$$;
COMMENT ON FUNCTION kasm_latency_internal.host_figures(interval) IS 'The clients of each host taken together: what hosts and impact are made of';

CREATE FUNCTION kasm_latency.host_stats(since interval)
RETURNS TABLE (
    host text, verdict text, path text, rtt_ms double precision, turnaround_p50_ms double precision,
    host_role text, zone text, client_addrs inet[],
    connections bigint, round_trips bigint, transactions bigint,
    blocks bigint, far_blocks bigint, block_p50_ms double precision,
    turnaround_min_ms double precision, turnaround_p10_ms double precision,
    turnaround_p95_ms double precision, turnaround_p99_ms double precision,
    server_p50_ms double precision, server_p95_ms double precision, server_p99_ms double precision,
    retransmits bigint, first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.host, h.verdict, kasm_latency.path_class(h.rtt_ms), h.rtt_ms,
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.5), h.turnaround_min_ms),
           h.host_role, h.zone, h.client_addrs,
           h.connections, h.round_trips, h.transactions,
           h.blocks, h.far_blocks, greatest(kasm_latency_internal.percentile_ms(h.bounds, 0.5), h.turnaround_min_ms),
           h.turnaround_min_ms,
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.1), h.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.95), h.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.99), h.turnaround_min_ms),
           kasm_latency_internal.percentile_ms(h.server_times, 0.5),
           kasm_latency_internal.percentile_ms(h.server_times, 0.95),
           kasm_latency_internal.percentile_ms(h.server_times, 0.99),
           h.retransmits, h.first_seen, h.last_seen
    FROM kasm_latency_internal.host_figures(since) AS h
    ORDER BY h.rank DESC, h.rtt_ms DESC NULLS LAST, h.host
$$;
COMMENT ON FUNCTION kasm_latency.host_stats(interval) IS 'What the view hosts shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.hosts AS
    SELECT * FROM kasm_latency.host_stats(NULL);
COMMENT ON VIEW kasm_latency.hosts IS 'Each client host over the recent span, worst first';
COMMENT ON COLUMN kasm_latency.hosts.host IS 'Name: as registered, else as the server resolved it, else the address; [local] for Unix-domain sockets';
COMMENT ON COLUMN kasm_latency.hosts.verdict IS 'The worst verdict of its clients, of those that are judged where any is: one of those in the view verdicts';
COMMENT ON COLUMN kasm_latency.hosts.path IS 'What kind of path rtt_ms is typical of, as path_class says; NULL where rtt_ms is';
COMMENT ON COLUMN kasm_latency.hosts.rtt_ms IS 'Milliseconds: the floor of its farthest client, from the kernel''s TCP_INFO (see clients.rtt_ms); NULL: not known, as with a Unix-domain socket';
COMMENT ON COLUMN kasm_latency.hosts.turnaround_p50_ms IS 'Milliseconds: median time from an answer to the next request inside transactions, by the server''s clock, so a ceiling on the round trip; from the merged histograms of its clients and their exact sum: within 1 % where turnarounds are alike, else off by less than a cell, which is at most 10 % wide; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.host_role IS 'Role as registered: webapp, proxy, agent, admin, monitor or candidate; webapp where nothing is registered';
COMMENT ON COLUMN kasm_latency.hosts.zone IS 'Zone as registered, else what kasm_hosts has for its name; NULL: not known';
COMMENT ON COLUMN kasm_latency.hosts.client_addrs IS 'Addresses that it connects from; NULL: by Unix-domain socket alone';
COMMENT ON COLUMN kasm_latency.hosts.connections IS 'Connections alive in the span: those that ended in it, and those that have not';
COMMENT ON COLUMN kasm_latency.hosts.round_trips IS 'Exchanges in the span: the client sent something and waited, the server answered';
COMMENT ON COLUMN kasm_latency.hosts.transactions IS 'Exchanges of the span that ended outside a transaction block (status I of ReadyForQuery)';
COMMENT ON COLUMN kasm_latency.hosts.blocks IS 'Blocks of the span that have a bound: what lies between two ReadyForQuery with status I belongs to one client, also behind a pooler, and its shortest turnaround inside is the bound on that client''s round trip';
COMMENT ON COLUMN kasm_latency.hosts.far_blocks IS 'Of these, blocks whose bound is at or above kasm_latency.rtt_limit';
COMMENT ON COLUMN kasm_latency.hosts.block_p50_ms IS 'Milliseconds: median of the bounds, from a histogram and its exact sum, as exact as turnaround_p50_ms; NULL: no block with a bound ended in the span';
COMMENT ON COLUMN kasm_latency.hosts.turnaround_min_ms IS 'Milliseconds: the shortest turnaround inside transactions, of the nearest client, exact; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.turnaround_p10_ms IS 'Milliseconds: 10th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.turnaround_p95_ms IS 'Milliseconds: 95th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.turnaround_p99_ms IS 'Milliseconds: 99th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.server_p50_ms IS 'Milliseconds: median of the server''s own time per exchange, by its clock, from the request''s arrival to the answer''s departure (commit included, and the wait for a client that reads a large result slowly); from a histogram, as exact as turnaround_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.server_p95_ms IS 'Milliseconds: 95th percentile of the same times as server_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.server_p99_ms IS 'Milliseconds: 99th percentile of the same times as server_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.hosts.retransmits IS 'Segments that the server''s TCP sent again in the span (tcpi_total_retrans of TCP_INFO)';
COMMENT ON COLUMN kasm_latency.hosts.first_seen IS 'When the host first connected since the last reset';
COMMENT ON COLUMN kasm_latency.hosts.last_seen IS 'When the last exchange ended; NULL: none yet';

CREATE FUNCTION kasm_latency_internal.flagged_hosts(since interval)
RETURNS TABLE (
    severity text, host text, verdict text, rtt_ms double precision, hidden_ms double precision,
    turnaround_p50_ms double precision, limit_ms double precision, host_role text, zone text, client_addrs inet[],
    round_trips bigint, blocks bigint, far_blocks bigint, reason text, remedy text, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
    WITH judged AS MATERIALIZED (
        SELECT * FROM kasm_latency_internal.judged_clients(since) AS c WHERE c.judged),
    worst AS (
        SELECT DISTINCT ON (j.host) j.*
        FROM judged AS j
        ORDER BY j.host, j.rank DESC, j.rtt_ms DESC NULLS LAST),
    whole AS (
        SELECT j.host, sum(j.round_trips)::bigint AS round_trips, max(j.last_seen) AS last_seen,
               array_agg(DISTINCT j.client_addr ORDER BY j.client_addr)
                   FILTER (WHERE j.client_addr IS NOT NULL) AS client_addrs
        FROM judged AS j
        GROUP BY j.host)
    SELECT w.severity, w.host, w.verdict, w.rtt_ms, w.hidden_ms, w.p50_ms AS turnaround_p50_ms,
           l.limit_ms, w.host_role, w.zone, a.client_addrs, a.round_trips, w.blocks, w.far_blocks,
           kasm_latency_internal.reason(
               w.verdict, w.host_role, w.mixed, w.rtt_ms, w.rtt_age_minutes, w.near, w.far, w.near_since,
               w.far_since, w.round_trips, w.samples, w.blocks, w.far_blocks, w.far_blocks_show, w.hidden_ms,
               w.p50_ms, l.limit_ms) AS reason,
           kasm_latency_internal.remedy(w.verdict, w.mixed) AS remedy,
           a.last_seen
    FROM worst AS w
    JOIN whole AS a ON a.host = w.host
    CROSS JOIN kasm_latency_internal.limit_ms() AS l (limit_ms)
    WHERE w.severity IN ('critical', 'warning')
    ORDER BY w.rank DESC, w.rtt_ms DESC NULLS LAST, w.host
$$;
COMMENT ON FUNCTION kasm_latency_internal.flagged_hosts(interval) IS 'What the view flagged shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.flagged AS
    SELECT * FROM kasm_latency_internal.flagged_hosts(NULL);
COMMENT ON VIEW kasm_latency.flagged IS 'Hosts that are too far, in doubt, or have no business here, worst first, with the figures of their worst client, the reason and the remedy';
COMMENT ON COLUMN kasm_latency.flagged.severity IS 'critical or warning: that of the verdict in the view verdicts';
COMMENT ON COLUMN kasm_latency.flagged.host IS 'Name, as in hosts';
COMMENT ON COLUMN kasm_latency.flagged.verdict IS 'Verdict on its worst client';
COMMENT ON COLUMN kasm_latency.flagged.rtt_ms IS 'Milliseconds: the floor of its worst client (see clients.rtt_ms); NULL: not known';
COMMENT ON COLUMN kasm_latency.flagged.hidden_ms IS 'Milliseconds: the distance that something at the address hides, of its worst client: where the bounds of its far blocks lie close together; where nearly all blocks are far it may be a steady pause of the client instead, see reason; NULL: none is hidden, or none that is steady';
COMMENT ON COLUMN kasm_latency.flagged.turnaround_p50_ms IS 'Milliseconds: median turnaround inside transactions of its worst client (see clients.turnaround_p50_ms); NULL: none in the span';
COMMENT ON COLUMN kasm_latency.flagged.limit_ms IS 'Milliseconds: the setting kasm_latency.rtt_limit';
COMMENT ON COLUMN kasm_latency.flagged.host_role IS 'Role, as in hosts';
COMMENT ON COLUMN kasm_latency.flagged.zone IS 'Zone, as in hosts; NULL: not known';
COMMENT ON COLUMN kasm_latency.flagged.client_addrs IS 'Addresses that its judged clients connect from; NULL: by Unix-domain socket alone';
COMMENT ON COLUMN kasm_latency.flagged.round_trips IS 'Exchanges of its judged clients in the span';
COMMENT ON COLUMN kasm_latency.flagged.blocks IS 'Blocks of its worst client that have a bound (see clients.blocks)';
COMMENT ON COLUMN kasm_latency.flagged.far_blocks IS 'Of these, blocks whose bound is at or above the limit';
COMMENT ON COLUMN kasm_latency.flagged.reason IS 'Why, in sentences with the figures that the verdict rests on';
COMMENT ON COLUMN kasm_latency.flagged.remedy IS 'What to check first, and what to do';
COMMENT ON COLUMN kasm_latency.flagged.last_seen IS 'When its last exchange ended; NULL: none yet';
