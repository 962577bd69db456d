/*
 * The rules: verdict, reason, remedy.  The rule of each verdict stands in one
 * place, verdict(); all others word it.  Pure functions of figures: nothing here
 * reads one.  Those that are asked for each client call no other: it would be
 * planned anew at every call.  Uses settings and arithmetic.
 */

CREATE VIEW kasm_latency.verdicts AS
    SELECT * FROM (VALUES
        ('out_of_band', 7, 'critical', 'even the fastest round trip took as long as the limit or longer'),
        ('unproven', 6, 'warning', 'something near answers, and what is behind it may be far: see the reason'),
        ('unexpected_client', 5, 'warning', 'registered in a role that has no business with the database'),
        ('slow_turnaround', 4, 'info', 'the path is near; the client pauses between queries, or the path is congested at times'),
        ('in_band', 3, NULL, 'proven from both sides to be near'),
        ('floor_only', 2, NULL, 'near by the kernel''s word, if nothing stands between; too few exchanges to prove it'),
        ('no_data', 1, NULL, 'nothing was measured in the span')
    ) AS v (verdict, rank, severity, meaning);
COMMENT ON VIEW kasm_latency.verdicts IS 'The verdicts, worst first, with the severity of each; flagged shows critical and warning';
COMMENT ON COLUMN kasm_latency.verdicts.verdict IS 'Name of the verdict';
COMMENT ON COLUMN kasm_latency.verdicts.rank IS 'The higher, the worse';
COMMENT ON COLUMN kasm_latency.verdicts.severity IS 'critical and warning are in flagged, info is not; NULL: nothing to say';
COMMENT ON COLUMN kasm_latency.verdicts.meaning IS 'What it means';

CREATE FUNCTION kasm_latency_internal.enough(these bigint, others bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT these >= 3 OR these > 0 AND these >= 0.1 * (these + others)
$$;
COMMENT ON FUNCTION kasm_latency_internal.enough(bigint, bigint) IS 'Are so many, beside so many others, no accident: at least 3, or 10 %';

CREATE FUNCTION kasm_latency_internal.floor_ms(
    rtt_ms double precision, newest_rtt_ms double precision, near_since_enough boolean, far_since bigint,
    limit_ms double precision, min_samples bigint)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- in the minute of the newest connection others were nearer; if all that came
    -- since was far, they show a path that is no more
    SELECT CASE WHEN rtt_ms < limit_ms AND newest_rtt_ms >= limit_ms
                     AND far_since >= min_samples AND NOT near_since_enough
                THEN newest_rtt_ms
                ELSE rtt_ms END
$$;
COMMENT ON FUNCTION kasm_latency_internal.floor_ms(double precision, double precision, boolean, bigint, double precision, bigint) IS 'A client''s fastest round trip as it is now: of the newest minute with a connection, or of the newest connection alone';

CREATE FUNCTION kasm_latency_internal.mixed_distances(
    rtt_ms double precision, limit_ms double precision,
    near bigint, far_enough boolean, near_since_enough boolean)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the newest connections are far, yet near answers came after them; or the
    -- newest are near, and others of the span far
    SELECT CASE WHEN rtt_ms >= limit_ms THEN near_since_enough
                ELSE near > 0 AND far_enough END
$$;
COMMENT ON FUNCTION kasm_latency_internal.mixed_distances(double precision, double precision, bigint, boolean, boolean) IS 'Are there hosts at different distances behind one address?  From how many connections of the span have a floor below the limit, and whether those that have not are enough(), and turnarounds since the newest floor that are below the limit';

CREATE FUNCTION kasm_latency_internal.steady_ms(
    far_blocks bigint, far_p10_ms double precision, far_p50_ms double precision, far_p90_ms double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        -- a half of few may lie close together by chance
        WHEN far_blocks < 10 AND far_p90_ms > 1.5 * far_p10_ms THEN NULL
        -- what a busy machine adds, it adds to the upper half; and each is an upper bound, so the lowest come nearest
        WHEN far_p50_ms - far_p10_ms <= greatest(0.125 * far_p50_ms, 1) THEN far_p10_ms
        -- of two distances at one address the farther may be the more frequent
        WHEN far_p90_ms - far_p50_ms <= greatest(0.125 * far_p90_ms, 1) THEN far_p50_ms
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.steady_ms(bigint, double precision, double precision, double precision) IS 'Where the bounds of far blocks lie close together, from their percentiles: a half of them within an eighth, or 1 ms, and of fewer than ten nearly all within a half; NULL where they are scattered';

CREATE FUNCTION kasm_latency_internal.far_blocks_show(
    blocks bigint, far_blocks bigint, far_p50_ms double precision, steady_ms double precision,
    samples bigint, samples_alike bigint, blocks_between bigint, rtt_ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN far_blocks < 3 OR far_blocks < 0.05 * blocks THEN 'accident'
        -- no farther than the floor says that the path is
        WHEN far_p50_ms < 1.5 * rtt_ms THEN 'path'
        WHEN steady_ms IS NULL THEN
            CASE WHEN n.nearly_all THEN 'far' ELSE 'pauses' END
        WHEN n.nearly_all THEN 'distance or pause'
        -- they are the end of a broad distribution, which the limit happens to cut
        WHEN blocks_between >= 0.5 * far_blocks THEN 'pauses'
        -- turnarounds as long as these are usual in the near blocks too
        WHEN samples_alike > samples * (1 + far_blocks / blocks::double precision) / 2 THEN 'pauses'
        ELSE 'distance'
    END
    -- one or two near ones are as little as one or two far ones
    FROM (SELECT far_blocks >= 0.9 * blocks OR blocks - far_blocks < 3) AS n (nearly_all)
$$;
COMMENT ON FUNCTION kasm_latency_internal.far_blocks_show(bigint, bigint, double precision, double precision, bigint, bigint, bigint, double precision) IS 'What the blocks whose bound is at or above the limit show, from their median bound and where their bounds lie close together, from how many of all ceilings lie where these bounds do, and how many bounds between a quarter of that (or twice the floor) and the limit: accident, path (jitter of a path that is known), pauses, distance (hidden, and steady), distance or pause (of nearly all blocks, steady), far (of nearly all, scattered)';

CREATE FUNCTION kasm_latency_internal.verdict(
    host_role text, measured boolean, rtt_ms double precision, mixed boolean, samples bigint, blocks bigint,
    far_blocks_show text, p50_ms double precision,
    limit_ms double precision, min_samples bigint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN NOT measured THEN 'no_data'
        WHEN host_role IN ('proxy', 'agent') THEN 'unexpected_client'
        WHEN mixed THEN 'unproven'
        WHEN rtt_ms >= limit_ms THEN 'out_of_band'
        WHEN samples < min_samples OR blocks < 3 THEN CASE WHEN rtt_ms IS NULL THEN 'no_data' ELSE 'floor_only' END
        WHEN far_blocks_show IN ('distance', 'distance or pause', 'far') THEN 'unproven'
        WHEN far_blocks_show IN ('pauses', 'path') OR p50_ms >= limit_ms THEN 'slow_turnaround'
        ELSE 'in_band'
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.verdict(text, boolean, double precision, boolean, bigint, bigint, text, double precision, double precision, bigint) IS 'The verdict on a client: the one place of the rule';

CREATE FUNCTION kasm_latency_internal.probe_verdict(
    rtt_ms double precision, turnaround_min_ms double precision, limit_ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- of one connection, which belongs to one client: a single turnaround inside a transaction bounds its distance
    SELECT CASE
        WHEN rtt_ms IS NULL AND turnaround_min_ms IS NULL THEN 'no_data'
        WHEN rtt_ms >= limit_ms THEN 'out_of_band'
        WHEN turnaround_min_ms < limit_ms THEN 'in_band'
        WHEN turnaround_min_ms >= limit_ms THEN 'unproven'
        ELSE 'floor_only'
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.probe_verdict(double precision, double precision, double precision) IS 'The verdict on a single connection, for probe(): from its fastest round trip and its shortest turnaround inside a transaction';

CREATE FUNCTION kasm_latency_internal.reason(
    verdict text, host_role text, mixed boolean, rtt_ms double precision, rtt_age_minutes integer,
    near bigint, far bigint, near_since bigint, far_since bigint, round_trips bigint,
    samples bigint, blocks bigint, far_blocks bigint, far_blocks_show text, hidden_ms double precision,
    p50_ms double precision, limit_ms double precision)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN verdict = 'unexpected_client' THEN
            format('It is registered as %s, and such a host has no business with the database; yet it made connections, '
                   'with %s exchanges.', host_role, round_trips)
        WHEN mixed AND rtt_ms < limit_ms THEN
            format('Of %s connections %s took %s or longer for their fastest round trip, the others less (the newest %s), '
                   'over %s exchanges: hosts at different distances share this address, as behind NAT or docker-proxy, '
                   'or the path became shorter within the span.',
                   near + far, far, kasm_latency_internal.ms_text(limit_ms), kasm_latency_internal.ms_text(rtt_ms), round_trips)
        WHEN mixed THEN
            format('The newest connections took %s for their fastest round trip, yet of %s turnarounds inside transactions '
                   'since %s took less than the limit of %s, over %s exchanges: hosts at different distances share this '
                   'address, as behind NAT or docker-proxy, or the path became longer within the last minute.',
                   kasm_latency_internal.ms_text(rtt_ms), near_since + far_since, near_since, kasm_latency_internal.ms_text(limit_ms),
                   round_trips)
        WHEN verdict = 'out_of_band' THEN
            format('The fastest round trip took %s, and the limit is %s: every query waits at least that long. ',
                   kasm_latency_internal.ms_text(rtt_ms), kasm_latency_internal.ms_text(limit_ms))
            || CASE WHEN samples > 0
                    THEN format('Over %s exchanges the typical turnaround inside transactions took %s (median of %s); what it '
                                'has beyond the fastest is the client''s own time, or the path''s congestion.',
                                round_trips, kasm_latency_internal.ms_text(p50_ms), samples)
                    ELSE format('Of %s exchanges none was timed inside a transaction yet.', round_trips) END
        WHEN far_blocks_show = 'distance' THEN
            format('%s of %s transactions came from about %s away: a connection pooler or proxy at this address hides a '
                   'client that far away, or the path became that long since the connections were made. The fastest '
                   'round trip to the address itself took %s, and the limit is %s; turnarounds as long as these are not '
                   'usual in the other transactions, so it is no pause of the client.',
                   far_blocks, blocks, kasm_latency_internal.ms_text(hidden_ms),
                   coalesce(kasm_latency_internal.ms_text(rtt_ms), 'an unknown time'), kasm_latency_internal.ms_text(limit_ms))
        WHEN verdict = 'unproven' THEN
            format('In %s of %s transactions even the shortest turnaround took %s: the client pauses before every query, '
                   'or a connection pooler or proxy at this address hides a client that is far away, or the path became '
                   'longer since the connections were made. The fastest round trip to the address itself took %s, and the '
                   'limit is %s.',
                   far_blocks, blocks,
                   coalesce('about ' || kasm_latency_internal.ms_text(hidden_ms),
                            kasm_latency_internal.ms_text(limit_ms) || ' or longer, now more, now less'),
                   coalesce(kasm_latency_internal.ms_text(rtt_ms), 'an unknown time'), kasm_latency_internal.ms_text(limit_ms))
    END
    || CASE WHEN verdict = 'unexpected_client' THEN ''
            WHEN rtt_age_minutes >= 120
            THEN format(' (The fastest round trip is of %s hours ago, when the newest connection was made.)',
                        rtt_age_minutes / 60)
            WHEN rtt_age_minutes > extract(epoch FROM kasm_latency_internal.recent()) / 60
            THEN format(' (The fastest round trip is of %s minutes ago, when the newest connection was made.)',
                        rtt_age_minutes)
            ELSE '' END
$$;
COMMENT ON FUNCTION kasm_latency_internal.reason(text, text, boolean, double precision, integer, bigint, bigint, bigint, bigint, bigint, bigint, bigint, bigint, text, double precision, double precision, double precision) IS 'A verdict in words, with the figures that it rests on';

CREATE FUNCTION kasm_latency_internal.remedy(verdict text, mixed boolean)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN verdict = 'unexpected_client' THEN
            'Dedicated Proxy nodes and agents need no database connection, they talk to the Web Apps by HTTPS: find out in '
            'kasm_latency.connections what connects, and take the database out of its configuration. If it is a Web App '
            'after all, register it as one.'
        WHEN mixed THEN
            'Check first, in kasm_latency.connections, how far each connection is, and what they belong to; then give '
            'each Web App an address of its own towards the database.'
        WHEN verdict = 'out_of_band' THEN
            'Move this Web App beside the database (same region, best the same zone), and serve its users by a Dedicated '
            'Proxy in their region, which needs no database connection. Check first with ping from the database''s host.'
        WHEN verdict = 'unproven' THEN
            'Find out first how far the Web App itself is: a fresh connection measures the path anew, so run psql on it, '
            'straight to the database and past any pooler, and look at that connection''s row in kasm_latency.connections. '
            'If that is far, move the Web App beside the database. If it is near, the client pauses: look at that host''s load.'
    END
$$;
COMMENT ON FUNCTION kasm_latency_internal.remedy(text, boolean) IS 'What to do about a verdict, and what to check first';
