/*
 * What is not per host or not over a span: live connections, lock waits, totals
 * since the last reset, the extension itself, histograms; and forgetting.
 */

CREATE VIEW kasm_latency.connections AS
    SELECT c.pid, coalesce(c.client_addr, a.client_addr) AS client_addr, h.host,
           d.datname::text AS database, u.rolname::text AS username, a.application_name,
           c.connected_at, c.round_trips, c.rtt_ms, c.turnaround_min_ms, c.last_seen
    FROM kasm_latency_internal.live_connections() AS c
    LEFT JOIN pg_stat_activity AS a ON a.pid = c.pid
    CROSS JOIN LATERAL kasm_latency_internal.host_of(coalesce(c.client_addr, a.client_addr), c.resolved_name) AS h
    LEFT JOIN pg_database AS d ON d.oid = coalesce(nullif(c.database_oid, 0), a.datid)
    LEFT JOIN pg_roles AS u ON u.oid = coalesce(nullif(c.role_oid, 0), a.usesysid);
COMMENT ON VIEW kasm_latency.connections IS 'Each live client backend since it connected';
COMMENT ON COLUMN kasm_latency.connections.pid IS 'Process of the backend, as in pg_stat_activity';
COMMENT ON COLUMN kasm_latency.connections.client_addr IS 'Address that the server sees, IPv4 where it is mapped into IPv6; NULL: a Unix-domain socket';
COMMENT ON COLUMN kasm_latency.connections.host IS 'Name of the host, as in clients';
COMMENT ON COLUMN kasm_latency.connections.database IS 'Database that it is connected to';
COMMENT ON COLUMN kasm_latency.connections.username IS 'Database role that it logged in as';
COMMENT ON COLUMN kasm_latency.connections.application_name IS 'What the client calls itself, from pg_stat_activity';
COMMENT ON COLUMN kasm_latency.connections.connected_at IS 'When it logged in';
COMMENT ON COLUMN kasm_latency.connections.round_trips IS 'Exchanges since it connected';
COMMENT ON COLUMN kasm_latency.connections.rtt_ms IS 'Milliseconds: the lowest tcpi_min_rtt of this connection''s TCP_INFO; it never rises; NULL: a Unix-domain socket, or not known yet';
COMMENT ON COLUMN kasm_latency.connections.turnaround_min_ms IS 'Milliseconds: its shortest turnaround inside transactions since it connected, exact; NULL: none yet';
COMMENT ON COLUMN kasm_latency.connections.last_seen IS 'When its last exchange ended; NULL: none yet';

CREATE VIEW kasm_latency.blocking AS
    WITH waits AS MATERIALIZED (
        SELECT w.pid, b.pid AS blocking_pid,
               -- the lock manager's own time of it where there is one (from PostgreSQL 14 on)
               coalesce((SELECT min((to_jsonb(l) ->> 'waitstart')::timestamptz)
                         FROM pg_locks AS l WHERE l.pid = w.pid AND NOT l.granted),
                        w.query_start) AS since
        FROM pg_stat_activity AS w
        CROSS JOIN LATERAL (SELECT DISTINCT * FROM unnest(pg_blocking_pids(w.pid))) AS b (pid)
        WHERE w.wait_event_type = 'Lock'),
    hosts AS MATERIALIZED (
        SELECT h.host, h.verdict FROM kasm_latency.host_stats(NULL) AS h WHERE EXISTS (SELECT FROM waits))
    SELECT w.pid AS waiting_pid,
           coalesce(wc.host, wa.backend_type) AS waiting_host,
           w.blocking_pid,
           CASE WHEN w.blocking_pid = 0 THEN '(prepared transaction)'
                ELSE coalesce(bc.host, ba.backend_type) END AS blocking_host,
           h.verdict AS blocking_verdict,
           kasm_latency_internal.rounded(greatest(extract(epoch FROM clock_timestamp() - w.since), 0) * 1000, 3) AS waited_ms,
           coalesce(ba.state LIKE 'idle in transaction%' OR ba.wait_event = 'ClientRead', false)
               AS blocker_waits_for_client
    FROM waits AS w
    LEFT JOIN pg_stat_activity AS wa ON wa.pid = w.pid
    LEFT JOIN pg_stat_activity AS ba ON ba.pid = w.blocking_pid
    LEFT JOIN kasm_latency.connections AS wc ON wc.pid = w.pid
    LEFT JOIN kasm_latency.connections AS bc ON bc.pid = w.blocking_pid
    LEFT JOIN hosts AS h ON h.host = bc.host
    ORDER BY waited_ms DESC, waiting_pid, blocking_pid;
COMMENT ON VIEW kasm_latency.blocking IS 'Lock waits as they are now: who waits for which host''s transaction, and whether that waits for its own client meanwhile';
COMMENT ON COLUMN kasm_latency.blocking.waiting_pid IS 'Process of the backend that waits for a lock, from pg_stat_activity';
COMMENT ON COLUMN kasm_latency.blocking.waiting_host IS 'Host of its client; of a backend without a client its backend_type';
COMMENT ON COLUMN kasm_latency.blocking.blocking_pid IS 'Process that holds the lock, from pg_blocking_pids(); 0: a prepared transaction';
COMMENT ON COLUMN kasm_latency.blocking.blocking_host IS 'Host of its client; of a backend without a client its backend_type; (prepared transaction)';
COMMENT ON COLUMN kasm_latency.blocking.blocking_verdict IS 'Verdict on the blocking host over the span recent; NULL: it is no client';
COMMENT ON COLUMN kasm_latency.blocking.waited_ms IS 'Milliseconds waited so far, since pg_locks.waitstart; before PostgreSQL 14 since the query began';
COMMENT ON COLUMN kasm_latency.blocking.blocker_waits_for_client IS 'Is the blocking backend waiting for its own client at this moment: idle in transaction, or in wait event ClientRead (pg_stat_activity)';

CREATE VIEW kasm_latency.totals AS
    SELECT f.client_addr,
           coalesce(d.datname::text, '(' || nullif(f.database_oid, 0) || ')') AS database,
           coalesce(u.rolname::text, '(' || nullif(f.role_oid, 0) || ')') AS username,
           CASE WHEN f.overflow THEN '(overflow)' ELSE h.host END AS host,
           f.round_trips, f.transactions, f.network_s, f.server_s, f.lock_wait_s,
           f.made_others_wait_s, f.made_others_wait_for_client_s, f.turnaround_s,
           f.retransmits, f.connections_made AS connections_total, f.stats_since
    FROM kasm_latency_internal.client_figures(NULL, histograms => false) AS f
    CROSS JOIN LATERAL kasm_latency_internal.host_of(f.client_addr, f.resolved_name) AS h
    LEFT JOIN pg_database AS d ON d.oid = f.database_oid
    LEFT JOIN pg_roles AS u ON u.oid = f.role_oid;
COMMENT ON VIEW kasm_latency.totals IS 'Counters of each client since the last reset; clients that had to make room are summed in the row (overflow)';
COMMENT ON COLUMN kasm_latency.totals.client_addr IS 'Address that the server sees, IPv4 where it is mapped into IPv6; NULL: a Unix-domain socket, or (overflow)';
COMMENT ON COLUMN kasm_latency.totals.database IS 'Database that it connects to; (OID) if it was dropped; NULL: (overflow)';
COMMENT ON COLUMN kasm_latency.totals.username IS 'Database role that it logs in as; (OID) if it was dropped; NULL: (overflow)';
COMMENT ON COLUMN kasm_latency.totals.host IS 'Name of the host, as in clients; (overflow): the sum of those that had to make room, or found none';
COMMENT ON COLUMN kasm_latency.totals.round_trips IS 'Exchanges since stats_since';
COMMENT ON COLUMN kasm_latency.totals.transactions IS 'Exchanges since stats_since that ended outside a transaction block';
COMMENT ON COLUMN kasm_latency.totals.network_s IS 'Seconds lost to the distance: exchanges x the floor of that time';
COMMENT ON COLUMN kasm_latency.totals.server_s IS 'Seconds of the server''s own time, waits for locks included';
COMMENT ON COLUMN kasm_latency.totals.lock_wait_s IS 'Seconds that its connections waited for locks, sampled every kasm_latency.sample_locks';
COMMENT ON COLUMN kasm_latency.totals.made_others_wait_s IS 'Seconds that connections from other addresses waited for locks which its transactions held, sampled likewise';
COMMENT ON COLUMN kasm_latency.totals.made_others_wait_for_client_s IS 'Of these, seconds in which its own backend was waiting for it: what its distance, or its own time, cost the others';
COMMENT ON COLUMN kasm_latency.totals.turnaround_s IS 'Seconds from answers to next requests, inside and outside transactions, up to kasm_latency.idle_after each';
COMMENT ON COLUMN kasm_latency.totals.retransmits IS 'Segments that the server''s TCP sent again (tcpi_total_retrans of TCP_INFO)';
COMMENT ON COLUMN kasm_latency.totals.connections_total IS 'Connections made since stats_since';
COMMENT ON COLUMN kasm_latency.totals.stats_since IS 'Since when these count: the last reset, the client''s first connection, or the start after a crash; a clean restart keeps them';

CREATE VIEW kasm_latency.info AS
    SELECT * FROM kasm_latency_internal.server_info();
COMMENT ON VIEW kasm_latency.info IS 'About the extension itself: version, clients kept, memory, last reset';
COMMENT ON COLUMN kasm_latency.info.version IS 'Version of the library; \dx has that of the SQL objects';
COMMENT ON COLUMN kasm_latency.info.clients IS 'Clients kept apart at this moment';
COMMENT ON COLUMN kasm_latency.info.max_clients IS 'How many can be: the setting kasm_latency.max_clients';
COMMENT ON COLUMN kasm_latency.info.overflowed IS 'How often since stats_reset a client had to make room, or a connection found none and was counted as overflow';
COMMENT ON COLUMN kasm_latency.info.shared_memory_bytes IS 'Bytes of shared memory, as in pg_shmem_allocations';
COMMENT ON COLUMN kasm_latency.info.stats_reset IS 'When all was last forgotten: by reset(), or by a start without saved statistics';
COMMENT ON COLUMN kasm_latency.info.watcher_pid IS 'Process of the background worker that watches lock waits and starts snapshots; NULL: it does not run, as where max_worker_processes leaves no room, and collateral is empty because nobody looks';
COMMENT ON COLUMN kasm_latency.info.saved_at IS 'When the statistics that the server started with were saved; NULL: it started empty';

CREATE FUNCTION kasm_latency.histogram(
    metric text, host text DEFAULT NULL, since interval DEFAULT NULL)
RETURNS TABLE (from_ms double precision, to_ms double precision, count bigint, share double precision, bar text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT CASE WHEN metric IN ('rtt', 'turnaround', 'block', 'server') THEN metric
                    ELSE kasm_latency_internal.refuse('metric must be rtt, turnaround, block or server') END AS metric),
    cells AS MATERIALIZED (
        SELECT cell.*
        FROM (SELECT kasm_latency_internal.merge_histograms(
                         CASE asked.metric WHEN 'rtt' THEN c.rtts
                                           WHEN 'turnaround' THEN c.ceilings
                                           WHEN 'block' THEN c.bounds
                                           ELSE c.server_times END) AS merged
              FROM asked
              LEFT JOIN kasm_latency_internal.judged_clients(since) AS c
                     ON histogram.host IS NULL OR c.host = histogram.host) AS m,
             kasm_latency_internal.histogram_cells(m.merged) AS cell),
    -- Many cells are shown ten rows to the decade, whose bounds are all bounds of cells too.
    steps AS (
        SELECT 0::double precision AS from_ms
        UNION ALL
        SELECT (step * 10.0 ^ decade)::double precision
        FROM generate_series(-2, 4) AS decade,
             unnest(ARRAY[1, 1.2, 1.5, 2, 2.4, 3, 4, 5, 6, 8]) AS step
        UNION ALL
        SELECT 100000),
    rows AS (
        SELECT c.from_ms, c.to_ms FROM cells AS c WHERE (SELECT count(*) FROM cells) <= 30
        UNION ALL
        SELECT * FROM (SELECT s.from_ms, lead(s.from_ms) OVER (ORDER BY s.from_ms) AS to_ms FROM steps AS s) AS s
        WHERE (SELECT count(*) FROM cells) > 30
          AND s.from_ms <= (SELECT max(c.from_ms) FROM cells AS c)
          AND (s.to_ms IS NULL OR s.to_ms > (SELECT min(c.from_ms) FROM cells AS c))),
    counted AS (
        SELECT r.from_ms, r.to_ms, sum(c.count)::bigint AS count
        FROM rows AS r
        JOIN cells AS c ON c.from_ms >= r.from_ms AND (r.to_ms IS NULL OR c.from_ms < r.to_ms)
        GROUP BY r.from_ms, r.to_ms)
    SELECT c.from_ms, c.to_ms, c.count,
           round(c.count / sum(c.count) OVER (), 4)::double precision,
           repeat('#', ceil(40.0 * c.count / max(c.count) OVER ())::integer)
    FROM counted AS c
    ORDER BY c.from_ms
$$;
COMMENT ON FUNCTION kasm_latency.histogram(text, text, interval) IS 'How round trips (rtt), turnarounds inside transactions (turnaround), the bounds of blocks (block) or server times (server) are spread, of one host or of all';

CREATE FUNCTION kasm_latency.reset(host text)
RETURNS timestamptz
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    address inet;
    known boolean := false;
    result timestamptz := clock_timestamp();
BEGIN
    FOR address IN
        SELECT DISTINCT f.client_addr
        FROM kasm_latency_internal.client_figures(NULL, histograms => false) AS f
        CROSS JOIN LATERAL kasm_latency_internal.host_of(f.client_addr, f.resolved_name) AS h
        WHERE NOT f.overflow AND h.host = reset.host
    LOOP
        result := kasm_latency_internal.reset_address(address);
        known := true;
    END LOOP;
    -- a host that has no clients now has nothing to forget
    IF known OR reset.host = '[local]'
       OR EXISTS (SELECT FROM kasm_latency.host_registry AS r WHERE r.host = reset.host) THEN
        RETURN result;
    END IF;
    BEGIN
        address := reset.host::inet;
    EXCEPTION WHEN invalid_text_representation THEN
        RAISE EXCEPTION '"%" is neither a host that is known here nor an address', reset.host
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'SELECT host, client_addrs FROM kasm_latency.hosts shows which are.';
    END;
    RETURN kasm_latency_internal.reset_address(address);
END
$$;
COMMENT ON FUNCTION kasm_latency.reset(text) IS 'Forget what was measured of one host, by its name (all its addresses) or by an address; returns the time';
