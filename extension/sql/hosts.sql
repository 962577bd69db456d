/*
 * Hosts: the clients of one name taken together, and those that are flagged.
 * Uses judged_clients() and the rules; a new column of "hosts" is made in
 * host_figures() or host_stats(), and commented below.
 */

CREATE FUNCTION kasm_latency_internal.host_figures(since interval)
RETURNS TABLE (
    host text, role text, zone text, client_addrs inet[], judged boolean, verdict text, rank integer,
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, turnaround_min_ms double precision, retransmits bigint,
    network_s double precision, server_s double precision, in_transaction_wait_s double precision,
    chains bigint, chain_round_trips bigint,
    chain_s double precision, chain_network_s double precision, chain_server_s double precision,
    ceilings bytea, server_times bytea, chain_lengths bytea, chain_durations bytea,
    first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.host,
           -- of a host's clients those that are judged speak first, and of these the worst
           (array_agg(c.role ORDER BY c.judged DESC, c.rank DESC))[1],
           (array_agg(c.zone ORDER BY c.zone))[1],
           array_agg(DISTINCT c.client_addr ORDER BY c.client_addr) FILTER (WHERE c.client_addr IS NOT NULL),
           bool_or(c.judged),
           (array_agg(c.verdict ORDER BY c.judged DESC, c.rank DESC))[1],
           (array_agg(c.rank ORDER BY c.judged DESC, c.rank DESC))[1],
           sum(c.connections)::bigint, sum(c.round_trips)::bigint, sum(c.transactions)::bigint,
           max(c.rtt_ms), min(c.turnaround_min_ms), sum(c.retransmits)::bigint,
           sum(c.network_s), sum(c.server_s), sum(c.in_transaction_wait_s),
           sum(c.chains)::bigint, sum(c.chain_round_trips)::bigint,
           sum(c.chain_s), sum(c.chain_network_s), sum(c.chain_server_s),
           kasm_latency_internal.merge_histograms(c.ceilings), kasm_latency_internal.merge_histograms(c.server_times),
           kasm_latency_internal.merge_histograms(c.chain_lengths), kasm_latency_internal.merge_histograms(c.chain_durations),
           min(c.first_seen), max(c.last_seen)
    FROM kasm_latency_internal.judged_clients(since) AS c
    GROUP BY c.host
$$;
COMMENT ON FUNCTION kasm_latency_internal.host_figures(interval) IS 'The clients of each host taken together: what hosts and impact are made of';

CREATE FUNCTION kasm_latency.host_stats(since interval)
RETURNS TABLE (
    host text, role text, zone text, client_addrs inet[],
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, turnaround_min_ms double precision,
    turnaround_p10_ms double precision, turnaround_p50_ms double precision,
    turnaround_p95_ms double precision, turnaround_p99_ms double precision,
    server_p50_ms double precision, server_p95_ms double precision, server_p99_ms double precision,
    retransmits bigint, path text, verdict text, first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.host, h.role, h.zone, h.client_addrs,
           h.connections, h.round_trips, h.transactions,
           h.rtt_ms, h.turnaround_min_ms,
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.1), h.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.5), h.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.95), h.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(h.ceilings, 0.99), h.turnaround_min_ms),
           kasm_latency_internal.percentile_ms(h.server_times, 0.5),
           kasm_latency_internal.percentile_ms(h.server_times, 0.95),
           kasm_latency_internal.percentile_ms(h.server_times, 0.99),
           h.retransmits, kasm_latency.path_class(h.rtt_ms), h.verdict, h.first_seen, h.last_seen
    FROM kasm_latency_internal.host_figures(since) AS h
    ORDER BY h.rank DESC, h.rtt_ms DESC NULLS LAST, h.host
$$;
COMMENT ON FUNCTION kasm_latency.host_stats(interval) IS 'What the view hosts shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.hosts AS
    SELECT * FROM kasm_latency.host_stats(NULL);
COMMENT ON VIEW kasm_latency.hosts IS 'Each client host over the recent span, worst first';

CREATE FUNCTION kasm_latency_internal.flagged_hosts(since interval)
RETURNS TABLE (
    severity text, host text, role text, zone text, client_addrs inet[], verdict text,
    rtt_ms double precision, turnaround_p10_ms double precision, turnaround_p50_ms double precision,
    limit_ms double precision, round_trips bigint, reason text, remedy text, last_seen timestamptz)
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
    SELECT w.severity, w.host, w.role, w.zone, a.client_addrs, w.verdict,
           w.rtt_ms, w.p10_ms AS turnaround_p10_ms, w.p50_ms AS turnaround_p50_ms,
           l.limit_ms, a.round_trips,
           kasm_latency_internal.reason(w.verdict, w.role, w.mixed, w.rtt_ms, w.rtt_age_minutes, w.near, w.far, w.near_since,
                               w.far_since, w.round_trips, w.samples, w.p10_ms, w.p50_ms, l.limit_ms) AS reason,
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
COMMENT ON VIEW kasm_latency.flagged IS 'Hosts that are not fine, worst first, with the figures of their worst client, the reason and the remedy';
