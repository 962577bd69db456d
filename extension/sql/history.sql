/*
 * Over time: what snapshot() keeps of hosts and impact, and how it is read.  The
 * table is ours, and dumped with the extension.
 */

CREATE TABLE kasm_latency.history (
    taken_at timestamptz NOT NULL,
    host text NOT NULL,
    host_role text,
    zone text,
    verdict text,
    round_trips bigint,
    transactions bigint,
    rtt_ms double precision,
    hidden_ms double precision,
    turnaround_p10_ms double precision,
    turnaround_p50_ms double precision,
    turnaround_p95_ms double precision,
    server_p50_ms double precision,
    server_p95_ms double precision,
    blocks bigint,
    far_blocks bigint,
    network_s double precision,
    in_transaction_wait_s double precision,
    lock_wait_s double precision,
    waited_for jsonb,
    made_others_wait_s double precision,
    network_share double precision,
    server_share double precision,
    lock_share double precision,
    client_share double precision,
    chain_p50 integer,
    chain_p50_ms double precision,
    span interval,
    PRIMARY KEY (host, taken_at)
);
COMMENT ON TABLE kasm_latency.history IS 'What snapshot() kept of hosts and impact: a row per host and minute';
COMMENT ON COLUMN kasm_latency.history.taken_at IS 'Minute of the snapshot';
COMMENT ON COLUMN kasm_latency.history.host IS 'Name, as in hosts';
COMMENT ON COLUMN kasm_latency.history.host_role IS 'Role, as in hosts';
COMMENT ON COLUMN kasm_latency.history.zone IS 'Zone, as in hosts; NULL: not known';
COMMENT ON COLUMN kasm_latency.history.verdict IS 'Verdict, as in hosts';
COMMENT ON COLUMN kasm_latency.history.round_trips IS 'Exchanges in the span';
COMMENT ON COLUMN kasm_latency.history.transactions IS 'Exchanges of the span that ended outside a transaction block';
COMMENT ON COLUMN kasm_latency.history.rtt_ms IS 'Milliseconds: the floor, as in hosts; NULL: not known';
COMMENT ON COLUMN kasm_latency.history.hidden_ms IS 'Milliseconds: the distance that something at the address may hide, as in flagged; NULL: none that is steady';
COMMENT ON COLUMN kasm_latency.history.turnaround_p10_ms IS 'Milliseconds: 10th percentile of the turnarounds inside transactions; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.history.turnaround_p50_ms IS 'Milliseconds: median of the same; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.history.turnaround_p95_ms IS 'Milliseconds: 95th percentile of the same; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.history.server_p50_ms IS 'Milliseconds: median of the server''s own time per exchange; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.history.server_p95_ms IS 'Milliseconds: 95th percentile of the same; NULL: none in the span';
COMMENT ON COLUMN kasm_latency.history.blocks IS 'Blocks of the span that have a bound, as in hosts';
COMMENT ON COLUMN kasm_latency.history.far_blocks IS 'Of these, blocks whose bound is at or above kasm_latency.rtt_limit';
COMMENT ON COLUMN kasm_latency.history.network_s IS 'Seconds lost to the distance, as in impact';
COMMENT ON COLUMN kasm_latency.history.in_transaction_wait_s IS 'Seconds that transactions stood open while the server waited for this host, as in impact';
COMMENT ON COLUMN kasm_latency.history.lock_wait_s IS 'Seconds that its connections waited for locks, as in impact';
COMMENT ON COLUMN kasm_latency.history.waited_for IS 'Seconds that they waited, by the host that kept them waiting, as in collateral: an object of numbers; NULL: nobody did';
COMMENT ON COLUMN kasm_latency.history.made_others_wait_s IS 'Seconds that connections from other addresses waited for its locks, as in impact';
COMMENT ON COLUMN kasm_latency.history.network_share IS 'Part of the time in chains that is network, 0 to 1, as in diagnose; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.server_share IS 'Part of it that is the server''s own time, as in diagnose; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.lock_share IS 'Part of it that is waits for locks, as in diagnose; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.client_share IS 'Part of it that is the client, as in diagnose; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.chain_p50 IS 'Median number of exchanges in a chain, as in impact; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.chain_p50_ms IS 'Milliseconds that the median chain takes the client, as in impact; NULL: no chain ended in the span';
COMMENT ON COLUMN kasm_latency.history.span IS 'What the figures cover, which ends at taken_at: the setting recent';
SELECT pg_extension_config_dump('kasm_latency.history', '');
CREATE INDEX history_taken_at ON kasm_latency.history (taken_at);
COMMENT ON INDEX kasm_latency.history_taken_at IS 'For prune() and graphs: snapshots of a time';

CREATE FUNCTION kasm_latency.snapshot()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- so long at the most who wants this database for himself waits for the background worker
SET lock_timeout = '2s'
AS $$
DECLARE
    appended integer;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'kasm_latency: a standby cannot keep history'
            USING ERRCODE = 'read_only_sql_transaction',
                  HINT = 'Read kasm_latency.hosts here, or run snapshot() on the primary, which measures its own clients.';
    END IF;
    INSERT INTO kasm_latency.history (
        taken_at, host, host_role, zone, verdict, round_trips, transactions,
        rtt_ms, hidden_ms, turnaround_p10_ms, turnaround_p50_ms, turnaround_p95_ms,
        server_p50_ms, server_p95_ms, blocks, far_blocks,
        network_s, in_transaction_wait_s, lock_wait_s, waited_for, made_others_wait_s,
        network_share, server_share, lock_share, client_share, chain_p50, chain_p50_ms, span)
    SELECT date_trunc('minute', clock_timestamp()), h.host, h.host_role, h.zone, h.verdict,
           h.round_trips, h.transactions,
           h.rtt_ms, i.hidden_ms, h.turnaround_p10_ms, h.turnaround_p50_ms, h.turnaround_p95_ms,
           h.server_p50_ms, h.server_p95_ms, h.blocks, h.far_blocks,
           i.network_s, i.in_transaction_wait_s, i.lock_wait_s, c.waited_for, i.made_others_wait_s,
           i.network_share, i.server_share, i.lock_share, i.client_share,
           i.chain_p50, i.chain_p50_ms, kasm_latency_internal.recent()
    FROM kasm_latency.hosts AS h
    LEFT JOIN kasm_latency_internal.host_impact(NULL) AS i ON i.host = h.host
    LEFT JOIN (SELECT c.waiting_host, jsonb_object_agg(c.blocking_host, c.waited_s) AS waited_for
               FROM kasm_latency.collateral AS c
               GROUP BY c.waiting_host) AS c ON c.waiting_host = h.host
    WHERE h.verdict <> 'no_data'
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS appended = ROW_COUNT;
    RETURN appended;
END
$$;
COMMENT ON FUNCTION kasm_latency.snapshot() IS 'Append what hosts shows now to history, once a minute at most; returns how many rows';

CREATE FUNCTION kasm_latency.prune(keep interval DEFAULT '90 days')
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    removed bigint;
BEGIN
    IF keep IS NULL OR keep < interval '0' THEN
        PERFORM kasm_latency_internal.refuse('keep must not be null or negative');
    END IF;
    DELETE FROM kasm_latency.history AS h WHERE h.taken_at < now() - keep;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION kasm_latency.prune(interval) IS 'Remove history older than that; returns how many rows';

CREATE FUNCTION kasm_latency_internal.keep_history()
RETURNS SETOF text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET intervalstyle = postgres
AS $$
DECLARE
    keep CONSTANT interval := current_setting('kasm_latency.history_keep');
    newest timestamptz;
BEGIN
    IF kasm_latency.snapshot() > 0 THEN
        newest := (SELECT max(h.taken_at) FROM kasm_latency.history AS h);
        RETURN QUERY
            SELECT format('%s is %s now (was %s): round trip %s, was %s', n.host, n.verdict, p.verdict,
                          coalesce(kasm_latency_internal.ms_text(n.rtt_ms), 'unknown'),
                          coalesce(kasm_latency_internal.ms_text(p.rtt_ms), 'unknown'))
            FROM kasm_latency.history AS n
            CROSS JOIN LATERAL (
                SELECT h.verdict, h.rtt_ms FROM kasm_latency.history AS h
                WHERE h.host = n.host AND h.taken_at < n.taken_at
                ORDER BY h.taken_at DESC LIMIT 1) AS p
            JOIN kasm_latency.verdicts AS nv ON nv.verdict = n.verdict
            JOIN kasm_latency.verdicts AS pv ON pv.verdict = p.verdict
            WHERE n.taken_at = newest AND n.verdict <> p.verdict AND n.host_role NOT IN ('admin', 'monitor', 'candidate')
              -- between in_band and floor_only a host goes whenever it has little to do
              AND (nv.severity IN ('critical', 'warning') OR pv.severity IN ('critical', 'warning'))
            ORDER BY n.host;
    END IF;
    IF keep > interval '0' THEN
        PERFORM kasm_latency.prune(keep);
    END IF;
END
$$;
COMMENT ON FUNCTION kasm_latency_internal.keep_history() IS 'What the background worker calls every kasm_latency.history_interval: snapshot() and prune(); returns what it logs of verdicts that became, or are no longer, critical or warning';

CREATE VIEW kasm_latency.verdict_changes AS
    SELECT c.host, c.taken_at AS changed_at, c.from_verdict, c.verdict AS to_verdict, c.rtt_ms
    FROM (SELECT h.host, h.taken_at, h.verdict, h.rtt_ms,
                 lag(h.verdict) OVER (PARTITION BY h.host ORDER BY h.taken_at) AS from_verdict
          FROM kasm_latency.history AS h) AS c
    WHERE c.from_verdict <> c.verdict
    ORDER BY c.taken_at DESC, c.host;
COMMENT ON VIEW kasm_latency.verdict_changes IS 'Where a host''s verdict in history differs from the snapshot before, newest first';
COMMENT ON COLUMN kasm_latency.verdict_changes.host IS 'Name, as in hosts';
COMMENT ON COLUMN kasm_latency.verdict_changes.changed_at IS 'Minute of the snapshot that has another verdict than the host''s snapshot before';
COMMENT ON COLUMN kasm_latency.verdict_changes.from_verdict IS 'Verdict before';
COMMENT ON COLUMN kasm_latency.verdict_changes.to_verdict IS 'Verdict then';
COMMENT ON COLUMN kasm_latency.verdict_changes.rtt_ms IS 'Milliseconds: the floor then; NULL: not known';

CREATE FUNCTION kasm_latency_internal.spark(ms double precision)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- lower and upper half of the scale meet at 10 ms; blocks where the encoding has them
    SELECT CASE WHEN ms IS NULL THEN ' '
                WHEN current_setting('server_encoding') = 'UTF8' THEN chr(9601 + level)
                ELSE substr('.:-=+*#@', level + 1, 1) END
    FROM (SELECT width_bucket(ms, ARRAY[0.5, 1, 2, 5, 10, 25, 100]::double precision[])) AS w (level)
$$;
COMMENT ON FUNCTION kasm_latency_internal.spark(double precision) IS 'A latency as one character of eight: below 0.5, 1, 2, 5, 10, 25, 100 ms, and above';

CREATE FUNCTION kasm_latency.host_history(host text DEFAULT NULL, since interval DEFAULT '7 days')
RETURNS TABLE (
    host text, snapshots bigint, first_at timestamptz, last_at timestamptz,
    rtt_min_ms double precision, rtt_max_ms double precision, verdict text, rtt text, turnaround text)
LANGUAGE sql STABLE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bounds AS (
        SELECT CASE WHEN since > interval '0' THEN now() - since
                    ELSE kasm_latency_internal.refuse('since must be greater than zero')::timestamptz END AS first_at),
    buckets AS (
        SELECT h.host, least(width_bucket(extract(epoch FROM h.taken_at)::double precision,
                                          extract(epoch FROM b.first_at)::double precision,
                                          extract(epoch FROM now())::double precision + 60, 60), 60) AS bucket,
               count(*) AS n, min(h.taken_at) AS first_at, max(h.taken_at) AS last_at,
               min(h.rtt_ms) AS rtt_min_ms, max(h.rtt_ms) AS rtt_max_ms,
               max(h.turnaround_p50_ms) AS p50_ms,
               (array_agg(h.verdict ORDER BY h.taken_at DESC))[1] AS verdict
        FROM bounds AS b
        JOIN kasm_latency.history AS h ON h.taken_at >= b.first_at
        WHERE host_history.host IS NULL OR h.host = host_history.host
        GROUP BY 1, 2)
    SELECT k.host, sum(b.n)::bigint, min(b.first_at), max(b.last_at),
           kasm_latency_internal.rounded(min(b.rtt_min_ms), 3), kasm_latency_internal.rounded(max(b.rtt_max_ms), 3),
           (array_agg(b.verdict ORDER BY b.bucket DESC) FILTER (WHERE b.verdict IS NOT NULL))[1],
           rtrim(string_agg(kasm_latency_internal.spark(b.rtt_max_ms), '' ORDER BY k.bucket)),
           rtrim(string_agg(kasm_latency_internal.spark(b.p50_ms), '' ORDER BY k.bucket))
    FROM (SELECT DISTINCT b.host, n.bucket FROM buckets AS b, generate_series(1, 60) AS n (bucket)) AS k
    LEFT JOIN buckets AS b ON b.host = k.host AND b.bucket = k.bucket
    GROUP BY k.host
    ORDER BY max(b.rtt_max_ms) DESC NULLS LAST, k.host
$$;
COMMENT ON FUNCTION kasm_latency.host_history(text, interval) IS 'A host over time (or all): sixty steps of its round trip and median turnaround, the worst of each, as a line of text';

CREATE FUNCTION kasm_latency.history_points(first_at timestamptz, last_at timestamptz, step interval)
RETURNS TABLE (taken_at timestamptz)
LANGUAGE sql STABLE ROWS 1000
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS (
        SELECT CASE WHEN step > interval '0' THEN extract(epoch FROM step)::double precision
                    ELSE kasm_latency_internal.refuse('step must be greater than zero')::double precision END AS seconds)
    SELECT newest.taken_at
    FROM asked AS a
    -- steps begin at whole multiples: who looks again a little later sees the same snapshots
    CROSS JOIN LATERAL generate_series(floor(extract(epoch FROM first_at) / a.seconds)::bigint,
                                       floor(extract(epoch FROM last_at) / a.seconds)::bigint) AS s (number)
    CROSS JOIN LATERAL (
        SELECT h.taken_at FROM kasm_latency.history AS h
        WHERE h.taken_at >= greatest(to_timestamp(s.number * a.seconds), first_at)
          AND h.taken_at < to_timestamp((s.number + 1) * a.seconds) AND h.taken_at <= last_at
        ORDER BY h.taken_at DESC LIMIT 1) AS newest
    ORDER BY newest.taken_at
$$;
COMMENT ON FUNCTION kasm_latency.history_points(timestamptz, timestamptz, interval) IS 'The newest snapshot of each step of a time: what a graph of so many points shows, without reading what lies between';
