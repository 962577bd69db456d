/*
 * Who made whom wait for locks.  Uses hosts, in host_figures(), and names.
 */

CREATE FUNCTION kasm_latency_internal.host_collateral(since interval)
RETURNS TABLE (
    blocking_host text, blocking_verdict text, blocking_rtt_ms double precision, waiting_host text,
    waited_s double precision, waited_for_client_s double precision, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH pairs AS MATERIALIZED (
        SELECT * FROM kasm_latency_internal.lock_pairs(coalesce(since, kasm_latency_internal.recent()))),
    -- as a rule nobody waits, and nothing else is looked at
    clients AS MATERIALIZED (
        SELECT f.client_addr, f.database_oid, f.role_oid, f.resolved_name
        FROM kasm_latency_internal.client_figures(NULL, histograms => false) AS f
        WHERE NOT f.overflow AND EXISTS (SELECT FROM pairs)),
    hosts AS MATERIALIZED (
        SELECT h.host, h.verdict, h.rtt_ms FROM kasm_latency_internal.host_figures(since) AS h WHERE EXISTS (SELECT FROM pairs)),
    named AS (
        SELECT coalesce(p.blocking_name, bh.host) AS blocking_host, coalesce(p.waiting_name, wh.host) AS waiting_host,
               p.waited_s, p.waited_for_client_s, p.last_seen
        FROM pairs AS p
        LEFT JOIN clients AS b ON b.client_addr IS NOT DISTINCT FROM p.blocking_addr
                              AND b.database_oid = p.blocking_database_oid AND b.role_oid = p.blocking_role_oid
        LEFT JOIN clients AS w ON w.client_addr IS NOT DISTINCT FROM p.waiting_addr
                              AND w.database_oid = p.waiting_database_oid AND w.role_oid = p.waiting_role_oid
        CROSS JOIN LATERAL kasm_latency_internal.host_of(p.blocking_addr, b.resolved_name) AS bh
        CROSS JOIN LATERAL kasm_latency_internal.host_of(p.waiting_addr, w.resolved_name) AS wh),
    summed AS (
        SELECT n.blocking_host, n.waiting_host, sum(n.waited_s) AS waited_s,
               sum(n.waited_for_client_s) AS waited_for_client_s, max(n.last_seen) AS last_seen
        FROM named AS n
        GROUP BY n.blocking_host, n.waiting_host)
    SELECT s.blocking_host, h.verdict, h.rtt_ms, s.waiting_host,
           kasm_latency_internal.rounded(s.waited_s, 3), kasm_latency_internal.rounded(s.waited_for_client_s, 3), s.last_seen
    FROM summed AS s
    LEFT JOIN hosts AS h ON h.host = s.blocking_host
    ORDER BY s.waited_s DESC, s.blocking_host, s.waiting_host
$$;
COMMENT ON FUNCTION kasm_latency_internal.host_collateral(interval) IS 'What the view collateral shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.collateral AS
    SELECT * FROM kasm_latency_internal.host_collateral(NULL);
COMMENT ON VIEW kasm_latency.collateral IS 'Which host kept which host waiting for locks over the recent span, the longest waits first; sampled every kasm_latency.sample_locks';
COMMENT ON COLUMN kasm_latency.collateral.blocking_host IS 'Host whose transaction the others waited for in the end: one that did not wait for a lock itself; (prepared transaction); (other process): one without a client, or that is not measured; (overflow): clients without an entry of their own';
COMMENT ON COLUMN kasm_latency.collateral.blocking_verdict IS 'Verdict on that host, as in hosts; NULL: it is none';
COMMENT ON COLUMN kasm_latency.collateral.blocking_rtt_ms IS 'Milliseconds: its floor, as in hosts; NULL: not known';
COMMENT ON COLUMN kasm_latency.collateral.waiting_host IS 'Host whose connections waited; the same as blocking_host where one of its connections waited for another';
COMMENT ON COLUMN kasm_latency.collateral.waited_s IS 'Seconds that its connections waited, added up over connections: each look stands for the time since the look before; shared evenly where several hosts block at once';
COMMENT ON COLUMN kasm_latency.collateral.waited_for_client_s IS 'Of these, seconds in which the blocking backend was itself waiting for its client (wait event ClientRead or ClientWrite): what the distance, or the client''s own time, costs the others';
COMMENT ON COLUMN kasm_latency.collateral.last_seen IS 'When that was last seen';
