/*
 * Clients (address x database x role), judged: raw figures meet names and rules
 * here, and nowhere else.  Every relation on a span is made of judged_clients().
 */

CREATE FUNCTION kasm_latency_internal.judged_clients(since interval)
RETURNS TABLE (
    client_addr inet, database text, username text, host text, host_role text, zone text,
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, rtt_age_minutes integer, turnaround_min_ms double precision,
    p50_ms double precision,
    near bigint, far bigint, near_since bigint, far_since bigint, mixed boolean, samples bigint,
    blocks bigint, far_blocks bigint, far_blocks_show text, hidden_ms double precision,
    rtts bytea, ceilings bytea, bounds bytea, server_times bytea,
    network_s double precision, server_s double precision, in_transaction_wait_s double precision,
    lock_wait_s double precision, made_others_wait_s double precision,
    chains bigint, chain_round_trips bigint, chain_s double precision, chain_network_s double precision, chain_server_s double precision,
    chain_lengths bytea, chain_durations bytea,
    retransmits bigint, judged boolean, verdict text, rank integer, severity text,
    first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    WITH setting AS MATERIALIZED (
        SELECT kasm_latency_internal.limit_ms() AS limit_ms, kasm_latency_internal.min_samples() AS min_samples,
               kasm_latency_internal.app_roles() AS app_roles)
    SELECT f.client_addr,
           coalesce(d.datname, '(' || f.database_oid || ')'), coalesce(u.rolname, '(' || f.role_oid || ')'),
           h.host, h.host_role, h.zone,
           f.connections, f.round_trips, f.transactions,
           k.floor_ms, f.rtt_age_minutes, f.turnaround_min_ms,
           n.p50_ms,
           n.near, n.far, n.near_since, n.far_since, m.mixed, n.samples,
           n.blocks, n.far_blocks, b.show,
           CASE WHEN v.verdict = 'unproven' AND NOT m.mixed AND b.show IN ('distance', 'distance or pause')
                THEN y.steady_ms END,
           f.rtts, f.ceilings, f.bounds, f.server_times,
           f.network_s, f.server_s, f.in_transaction_wait_s, f.lock_wait_s, f.made_others_wait_s,
           f.chains, f.chain_round_trips, f.chain_s, f.chain_network_s, f.chain_server_s, f.chain_lengths, f.chain_durations,
           f.retransmits,
           h.host_role NOT IN ('admin', 'monitor', 'candidate')
               AND (s.app_roles IS NULL OR coalesce(u.rolname = ANY (s.app_roles), false)),
           v.verdict, v.rank, v.severity,
           f.first_seen, f.last_seen
    FROM setting AS s
    CROSS JOIN kasm_latency_internal.client_figures(coalesce(since, kasm_latency_internal.recent())) AS f
    CROSS JOIN LATERAL kasm_latency_internal.host_of(f.client_addr, f.resolved_name) AS h
    -- From here on each step uses what those before it have, some of it more than once.  OFFSET 0 has it computed
    -- once: else the planner puts a column's expression wherever the column is used.
    CROSS JOIN LATERAL (
        SELECT -- the exact minimum is sharper than the cell that it fell into
               greatest(kasm_latency_internal.percentile_ms(f.ceilings, 0.5), f.turnaround_min_ms) AS p50_ms,
               kasm_latency_internal.count_from(f.ceilings, 0) AS samples,
               kasm_latency_internal.count_from(f.bounds, 0) AS blocks,
               kasm_latency_internal.count_from(f.bounds, s.limit_ms) AS far_blocks,
               kasm_latency_internal.count_below(f.rtts, s.limit_ms) AS near,
               kasm_latency_internal.count_from(f.rtts, s.limit_ms) AS far,
               kasm_latency_internal.count_below(f.ceilings_since_rtt, s.limit_ms) AS near_since,
               kasm_latency_internal.count_from(f.ceilings_since_rtt, s.limit_ms) AS far_since
        OFFSET 0) AS n
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.enough(n.far, n.near) AS far,
               kasm_latency_internal.enough(n.near_since, n.far_since) AS near_since
        OFFSET 0) AS enough
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.floor_ms(f.rtt_ms, f.newest_rtt_ms, enough.near_since, n.far_since,
                                              s.limit_ms, s.min_samples) AS floor_ms
        OFFSET 0) AS k
    -- who comes by a Unix-domain socket is on this machine, by the kernel's word
    CROSS JOIN LATERAL (SELECT CASE WHEN f.client_addr IS NULL THEN 0 ELSE k.floor_ms END AS rtt_ms) AS r
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.mixed_distances(r.rtt_ms, s.limit_ms, n.near, enough.far, enough.near_since) AS mixed
        OFFSET 0) AS m
    -- how the bounds of far blocks are spread, where there are enough to ask
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n.far_blocks >= 3 THEN kasm_latency_internal.part_from(f.bounds, s.limit_ms) END AS bounds
        OFFSET 0) AS far
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.percentile_ms(far.bounds, 0.1) AS p10_ms,
               kasm_latency_internal.percentile_ms(far.bounds, 0.5) AS p50_ms,
               kasm_latency_internal.percentile_ms(far.bounds, 0.9) AS p90_ms
        OFFSET 0) AS p
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.steady_ms(n.far_blocks, p.p10_ms, p.p50_ms, p.p90_ms) AS steady_ms
        OFFSET 0) AS y
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.count_from(f.ceilings, 0.9 * y.steady_ms)
               - kasm_latency_internal.count_from(f.ceilings, 1.25 * p.p90_ms) AS samples,
               -- near blocks of a path that is known to be longer are no more than twice as long
               greatest(kasm_latency_internal.count_from(f.bounds, greatest(y.steady_ms / 4, 2 * r.rtt_ms)) - n.far_blocks, 0)
                   AS blocks_between
        OFFSET 0) AS alike
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.far_blocks_show(n.blocks, n.far_blocks, p.p50_ms, y.steady_ms, n.samples, alike.samples,
                                                     alike.blocks_between, r.rtt_ms) AS show
        OFFSET 0) AS b
    CROSS JOIN LATERAL (
        SELECT kasm_latency_internal.verdict(
                   h.host_role, f.connections_made > 0 OR f.round_trips > 0, r.rtt_ms, m.mixed,
                   n.samples, n.blocks, b.show, n.p50_ms, s.limit_ms, s.min_samples) AS verdict
        OFFSET 0) AS j
    JOIN kasm_latency.verdicts AS v ON v.verdict = j.verdict
    LEFT JOIN pg_database AS d ON d.oid = f.database_oid
    LEFT JOIN pg_roles AS u ON u.oid = f.role_oid
    WHERE NOT f.overflow
$$;
COMMENT ON FUNCTION kasm_latency_internal.judged_clients(interval) IS 'Each client with its name, figures and verdict: what clients, hosts and flagged are made of';

CREATE FUNCTION kasm_latency.client_stats(since interval)
RETURNS TABLE (
    client_addr inet, database text, username text,
    host text, verdict text, path text, rtt_ms double precision, turnaround_p50_ms double precision,
    host_role text, zone text,
    connections bigint, round_trips bigint, transactions bigint,
    blocks bigint, far_blocks bigint, block_p50_ms double precision,
    turnaround_min_ms double precision, turnaround_p10_ms double precision,
    turnaround_p95_ms double precision, turnaround_p99_ms double precision,
    server_p50_ms double precision, server_p95_ms double precision, server_p99_ms double precision,
    retransmits bigint, first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.client_addr, c.database, c.username,
           c.host, c.verdict, kasm_latency.path_class(c.rtt_ms), c.rtt_ms, c.p50_ms,
           c.host_role, c.zone,
           c.connections, c.round_trips, c.transactions,
           c.blocks, c.far_blocks, greatest(kasm_latency_internal.percentile_ms(c.bounds, 0.5), c.turnaround_min_ms),
           c.turnaround_min_ms, greatest(kasm_latency_internal.percentile_ms(c.ceilings, 0.1), c.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(c.ceilings, 0.95), c.turnaround_min_ms),
           greatest(kasm_latency_internal.percentile_ms(c.ceilings, 0.99), c.turnaround_min_ms),
           kasm_latency_internal.percentile_ms(c.server_times, 0.5),
           kasm_latency_internal.percentile_ms(c.server_times, 0.95),
           kasm_latency_internal.percentile_ms(c.server_times, 0.99),
           c.retransmits, c.first_seen, c.last_seen
    FROM kasm_latency_internal.judged_clients(since) AS c
    ORDER BY c.rank DESC, c.rtt_ms DESC NULLS LAST, c.client_addr, c.database, c.username
$$;
COMMENT ON FUNCTION kasm_latency.client_stats(interval) IS 'What the view clients shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.clients AS
    SELECT * FROM kasm_latency.client_stats(NULL);
COMMENT ON VIEW kasm_latency.clients IS 'Each client (address, database, role) over the recent span, worst first';
COMMENT ON COLUMN kasm_latency.clients.client_addr IS 'Address that the server sees, IPv4 where it is mapped into IPv6; NULL: a Unix-domain socket';
COMMENT ON COLUMN kasm_latency.clients.database IS 'Database that it connects to, from pg_database by OID; (OID) if it was dropped';
COMMENT ON COLUMN kasm_latency.clients.username IS 'Database role that it logs in as, from pg_roles by OID; (OID) if it was dropped';
COMMENT ON COLUMN kasm_latency.clients.host IS 'Name of the host: as registered, else as the server resolved it, else the address; [local] for a Unix-domain socket';
COMMENT ON COLUMN kasm_latency.clients.verdict IS 'Verdict on this client over the span: one of those in the view verdicts';
COMMENT ON COLUMN kasm_latency.clients.path IS 'What kind of path rtt_ms is typical of, as path_class says; NULL where rtt_ms is';
COMMENT ON COLUMN kasm_latency.clients.rtt_ms IS 'Milliseconds: the floor, the lowest tcpi_min_rtt of the kernel''s TCP_INFO over the connections of the newest minute in which one was made (or of the newest connection alone, where all turnarounds since show that the others'' path is no more); NULL: not known, as with a Unix-domain socket';
COMMENT ON COLUMN kasm_latency.clients.turnaround_p50_ms IS 'Milliseconds: median time from an answer to the next request inside transactions, by the server''s clock, so a ceiling on the round trip; from a histogram and its exact sum: within 1 % where turnarounds are alike, else off by less than a cell, which is at most 10 % wide; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.host_role IS 'Role of the host as registered: webapp, proxy, agent, admin, monitor or candidate; webapp where nothing is registered';
COMMENT ON COLUMN kasm_latency.clients.zone IS 'Zone of the host as registered, else what kasm_hosts has for its name; NULL: not known';
COMMENT ON COLUMN kasm_latency.clients.connections IS 'Connections alive in the span: those that ended in it, and those that have not';
COMMENT ON COLUMN kasm_latency.clients.round_trips IS 'Exchanges in the span: the client sent something and waited, the server answered';
COMMENT ON COLUMN kasm_latency.clients.transactions IS 'Exchanges of the span that ended outside a transaction block (status I of ReadyForQuery)';
COMMENT ON COLUMN kasm_latency.clients.blocks IS 'Blocks of the span that have a bound: what lies between two ReadyForQuery with status I belongs to one client, also behind a pooler, and its shortest turnaround inside is the bound on that client''s round trip';
COMMENT ON COLUMN kasm_latency.clients.far_blocks IS 'Of these, blocks whose bound is at or above kasm_latency.rtt_limit';
COMMENT ON COLUMN kasm_latency.clients.block_p50_ms IS 'Milliseconds: median of the bounds, from a histogram and its exact sum, as exact as turnaround_p50_ms; NULL: no block with a bound ended in the span';
COMMENT ON COLUMN kasm_latency.clients.turnaround_min_ms IS 'Milliseconds: the shortest turnaround inside transactions, exact; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.turnaround_p10_ms IS 'Milliseconds: 10th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.turnaround_p95_ms IS 'Milliseconds: 95th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.turnaround_p99_ms IS 'Milliseconds: 99th percentile of the same turnarounds as turnaround_p50_ms, from the histogram; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.server_p50_ms IS 'Milliseconds: median of the server''s own time per exchange, by its clock, from the request''s arrival to the answer''s departure (commit included, and the wait for a client that reads a large result slowly); from a histogram, as exact as turnaround_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.server_p95_ms IS 'Milliseconds: 95th percentile of the same times as server_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.server_p99_ms IS 'Milliseconds: 99th percentile of the same times as server_p50_ms; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.clients.retransmits IS 'Segments that the server''s TCP sent again in the span (tcpi_total_retrans of TCP_INFO)';
COMMENT ON COLUMN kasm_latency.clients.first_seen IS 'When it first connected since the last reset';
COMMENT ON COLUMN kasm_latency.clients.last_seen IS 'When the last exchange ended; NULL: none yet';
