/*
 * kasm_latency 1.0: what is measured (C functions), what it means (verdicts,
 * reasons, remedies), and what a DBA reads (views).
 *
 * The layers, each of which uses only those above it:
 *
 *	1. raw figures, from shared memory
 *	2. histograms
 *	3. settings and arithmetic
 *	4. host names
 *	5. the rules: verdict, reason, remedy
 *	6. clients, hosts, flagged and the other relations
 *	7. over time: history, checks
 *	8. the report
 *	9. who may do what
 *
 * Every function in SQL or PL/pgSQL pins its search_path; everything is
 * schema-qualified or of pg_catalog.
 */
\echo Use "CREATE EXTENSION kasm_latency" to load this file. \quit

CREATE SCHEMA kasm_latency;
COMMENT ON SCHEMA kasm_latency IS 'How far away each client host is, whether that is near enough, and what it costs';


/*
 * 1. Raw figures
 */

CREATE FUNCTION kasm_latency.client_figures(
    since interval,
    histograms boolean DEFAULT true,
    OUT client_addr inet,
    OUT database_oid oid,
    OUT role_oid oid,
    OUT resolved_name text,
    OUT evicted boolean,
    OUT connections bigint,
    OUT connections_made bigint,
    OUT round_trips bigint,
    OUT transactions bigint,
    OUT retransmits bigint,
    OUT rtt_ms double precision,
    OUT newest_rtt_ms double precision,
    OUT rtt_age_minutes integer,
    OUT turnaround_min_ms double precision,
    OUT network_s double precision,
    OUT server_s double precision,
    OUT turnaround_s double precision,
    OUT in_transaction_wait_s double precision,
    OUT chains bigint,
    OUT chain_round_trips bigint,
    OUT chain_s double precision,
    OUT chain_network_s double precision,
    OUT chain_server_s double precision,
    OUT rtts bytea,
    OUT ceilings bytea,
    OUT other_turnarounds bytea,
    OUT server_times bytea,
    OUT ceilings_since_rtt bytea,
    OUT chain_lengths bytea,
    OUT chain_durations bytea,
    OUT first_seen timestamptz,
    OUT last_seen timestamptz,
    OUT stats_since timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL SAFE ROWS 200
AS 'MODULE_PATHNAME', 'kasm_latency_client_figures';
COMMENT ON FUNCTION kasm_latency.client_figures(interval, boolean) IS 'Raw figures of each client over a span of up to an hour; with NULL, since the last reset';

CREATE FUNCTION kasm_latency.live_connections(
    OUT pid integer,
    OUT client_addr inet,
    OUT database_oid oid,
    OUT role_oid oid,
    OUT resolved_name text,
    OUT round_trips bigint,
    OUT rtt_ms double precision,
    OUT turnaround_min_ms double precision,
    OUT connected_at timestamptz,
    OUT last_seen timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL SAFE ROWS 100
AS 'MODULE_PATHNAME', 'kasm_latency_live_connections';
COMMENT ON FUNCTION kasm_latency.live_connections() IS 'Raw figures of each live client backend since it connected';

CREATE FUNCTION kasm_latency.server_info(
    OUT version text,
    OUT clients bigint,
    OUT max_clients bigint,
    OUT evicted bigint,
    OUT shared_memory_bytes bigint,
    OUT stats_reset timestamptz,
    OUT saved_at timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'kasm_latency_server_info';
COMMENT ON FUNCTION kasm_latency.server_info() IS 'One row about the extension itself; see the view info';

CREATE FUNCTION kasm_latency.reset()
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kasm_latency_reset';
COMMENT ON FUNCTION kasm_latency.reset() IS 'Forget all that was measured; returns the time';

CREATE FUNCTION kasm_latency.reset(client_addr inet)
RETURNS timestamptz
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kasm_latency_reset_address';
COMMENT ON FUNCTION kasm_latency.reset(inet) IS 'Forget what was measured of one client address; returns the time';


/*
 * 2. Histograms.  Outside C a histogram is a bytea that only these look into.
 */

CREATE FUNCTION kasm_latency.merge_transition(state internal, histogram bytea)
RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_merge_transition';
COMMENT ON FUNCTION kasm_latency.merge_transition(internal, bytea) IS 'Transition function of merge_histograms';

CREATE FUNCTION kasm_latency.merge_final(state internal)
RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_merge_final';
COMMENT ON FUNCTION kasm_latency.merge_final(internal) IS 'Final function of merge_histograms';

CREATE AGGREGATE kasm_latency.merge_histograms(histogram bytea) (
    SFUNC = kasm_latency.merge_transition,
    STYPE = internal,
    FINALFUNC = kasm_latency.merge_final
);
COMMENT ON AGGREGATE kasm_latency.merge_histograms(bytea) IS 'The sum of histograms';

CREATE FUNCTION kasm_latency.percentile_ms(histogram bytea, fraction double precision)
RETURNS double precision
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_percentile_ms';
COMMENT ON FUNCTION kasm_latency.percentile_ms(bytea, double precision) IS 'A percentile of a histogram in milliseconds; NULL of an empty one';

CREATE FUNCTION kasm_latency.percentile_whole(histogram bytea, fraction double precision)
RETURNS integer
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_percentile_whole';
COMMENT ON FUNCTION kasm_latency.percentile_whole(bytea, double precision) IS 'A percentile of a histogram of whole numbers; NULL of an empty one';

CREATE FUNCTION kasm_latency.count_from(histogram bytea, ms double precision)
RETURNS bigint
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_count_from';
COMMENT ON FUNCTION kasm_latency.count_from(bytea, double precision) IS 'How many of a histogram lie surely at or above that many milliseconds';

CREATE FUNCTION kasm_latency.count_below(histogram bytea, ms double precision)
RETURNS bigint
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_count_below';
COMMENT ON FUNCTION kasm_latency.count_below(bytea, double precision) IS 'How many of a histogram lie surely below that many milliseconds';

CREATE FUNCTION kasm_latency.histogram_cells(
    histogram bytea,
    OUT from_ms double precision,
    OUT to_ms double precision,
    OUT count bigint)
RETURNS SETOF record
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE ROWS 30
AS 'MODULE_PATHNAME', 'kasm_latency_histogram_cells';
COMMENT ON FUNCTION kasm_latency.histogram_cells(bytea) IS 'The cells of a histogram, from the first to the last that is not empty';


/*
 * 3. Settings and arithmetic.  A setting is NULL where the library is not
 * loaded; the raw figures then refuse with a hint.
 */

CREATE FUNCTION kasm_latency.limit_ms()
RETURNS double precision
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_limit_ms';
COMMENT ON FUNCTION kasm_latency.limit_ms() IS 'The setting kasm_latency.rtt_limit, in milliseconds';

CREATE FUNCTION kasm_latency.recent()
RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET intervalstyle = postgres
AS $$
    SELECT current_setting('kasm_latency.recent', true)::interval
$$;
COMMENT ON FUNCTION kasm_latency.recent() IS 'The setting kasm_latency.recent: the span that the views cover';

CREATE FUNCTION kasm_latency.min_samples()
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT current_setting('kasm_latency.min_samples', true)::bigint
$$;
COMMENT ON FUNCTION kasm_latency.min_samples() IS 'The setting kasm_latency.min_samples';

CREATE FUNCTION kasm_latency.app_roles()
RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(CASE WHEN name[1] LIKE '"%'
                          THEN replace(substr(name[1], 2, length(name[1]) - 2), '""', '"')
                          ELSE lower(name[1]) END)
    FROM regexp_matches(current_setting('kasm_latency.app_roles', true),
                        '("(?:[^"]|"")*"|[^,[:space:]]+)', 'g') AS name
$$;
COMMENT ON FUNCTION kasm_latency.app_roles() IS 'The setting kasm_latency.app_roles: database roles whose clients are judged; NULL means all';

CREATE FUNCTION kasm_latency.refuse(message text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = message, ERRCODE = 'invalid_parameter_value';
END
$$;
COMMENT ON FUNCTION kasm_latency.refuse(text) IS 'Raises an error about an argument';

CREATE FUNCTION kasm_latency.argument(name text, value double precision)
RETURNS double precision
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value = 'NaN' THEN kasm_latency.refuse(name || ' must not be NaN')::double precision
                WHEN value < 0 THEN kasm_latency.refuse(name || ' must not be negative')::double precision
                ELSE value END
$$;
COMMENT ON FUNCTION kasm_latency.argument(text, double precision) IS 'An argument that is a time, or an error that names it';

CREATE FUNCTION kasm_latency.argument(name text, value integer)
RETURNS integer
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value <= 0 THEN kasm_latency.refuse(name || ' must be greater than zero')::integer
                ELSE value END
$$;
COMMENT ON FUNCTION kasm_latency.argument(text, integer) IS 'An argument that counts something, or an error that names it';

CREATE FUNCTION kasm_latency.rounded(value double precision, digits integer)
RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value IN ('Infinity', '-Infinity', 'NaN') THEN value
                ELSE round(value::numeric, digits)::double precision END
$$;
COMMENT ON FUNCTION kasm_latency.rounded(double precision, integer) IS 'A figure for a column, without digits that mean nothing';

CREATE FUNCTION kasm_latency.path_class(rtt_ms double precision)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the views ask for each client: argument() is called for its error alone
    SELECT CASE
        WHEN rtt_ms IS NULL THEN NULL
        WHEN rtt_ms = 'NaN' OR rtt_ms < 0 THEN kasm_latency.argument('rtt_ms', rtt_ms)::text
        WHEN rtt_ms < 1 THEN 'same zone'
        WHEN rtt_ms < 5 THEN 'same region'
        WHEN rtt_ms < 10 THEN 'single-digit'
        WHEN rtt_ms < 100 THEN 'cross-region'
        ELSE 'intercontinental'
    END
$$;
COMMENT ON FUNCTION kasm_latency.path_class(double precision) IS 'What kind of path a round trip of that many milliseconds is typical of';

CREATE FUNCTION kasm_latency.launch_cost(
    queries integer, rtt_ms double precision, server_ms double precision DEFAULT 0)
RETURNS double precision
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT kasm_latency.rounded(
        kasm_latency.argument('queries', queries)
        * (kasm_latency.argument('rtt_ms', rtt_ms) + kasm_latency.argument('server_ms', server_ms)), 3)
$$;
COMMENT ON FUNCTION kasm_latency.launch_cost(integer, double precision, double precision) IS 'Milliseconds that so many sequential queries take: queries * (rtt_ms + server_ms)';

CREATE FUNCTION kasm_latency.launch_capacity(
    connections integer, queries integer, rtt_ms double precision, server_ms double precision DEFAULT 0)
RETURNS double precision
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.launch_ms = 0 THEN 'Infinity' ELSE kasm_latency.rounded(c.connections * 1000.0 / c.launch_ms, 3) END
    FROM (SELECT kasm_latency.argument('connections', connections) AS connections,
                 kasm_latency.argument('queries', queries)
                 * (kasm_latency.argument('rtt_ms', rtt_ms) + kasm_latency.argument('server_ms', server_ms)) AS launch_ms) AS c
$$;
COMMENT ON FUNCTION kasm_latency.launch_capacity(integer, integer, double precision, double precision) IS 'Launches per second that a pool of so many connections can carry at that distance';

CREATE FUNCTION kasm_latency.ms_text(ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT trim_scale(round(ms::numeric, CASE WHEN ms < 0.1 THEN 3 WHEN ms < 10 THEN 2 WHEN ms < 100 THEN 1 ELSE 0 END))
           || ' ms'
$$;
COMMENT ON FUNCTION kasm_latency.ms_text(double precision) IS 'Milliseconds for a sentence: 0.42 ms, 12.5 ms, 118 ms';


/*
 * 4. Host names
 */

CREATE TABLE kasm_latency.host_registry (
    network cidr PRIMARY KEY,
    host text NOT NULL CHECK (length(host) <= 255),
    role text NOT NULL CHECK (role IN ('webapp', 'proxy', 'agent', 'admin', 'monitor')),
    zone text CHECK (length(zone) <= 255)
);
COMMENT ON TABLE kasm_latency.host_registry IS 'Names given to addresses and ranges by register_host; the longest prefix wins';
COMMENT ON COLUMN kasm_latency.host_registry.network IS 'The address or range';
COMMENT ON COLUMN kasm_latency.host_registry.host IS 'The name that the views show';
COMMENT ON COLUMN kasm_latency.host_registry.role IS 'webapp, proxy, agent, admin or monitor; the last two are never flagged';
COMMENT ON COLUMN kasm_latency.host_registry.zone IS 'Where it is, as the site calls it';
SELECT pg_extension_config_dump('kasm_latency.host_registry', '');

CREATE FUNCTION kasm_latency.plain_network(network inet)
RETURNS cidr
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN network <<= inet '::ffff:0.0.0.0/96'
            THEN network(set_masklen(inet '0.0.0.0' + (host(network)::inet - inet '::ffff:0.0.0.0'),
                                     masklen(network) - 96))
        ELSE network(network)
    END
$$;
COMMENT ON FUNCTION kasm_latency.plain_network(inet) IS 'The network of an address, IPv4 where it is mapped into IPv6';

CREATE FUNCTION kasm_latency.register_host(
    network inet, host text, role text DEFAULT 'webapp', zone text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF network IS NULL THEN
        PERFORM kasm_latency.refuse('network must not be null');
    ELSIF coalesce(btrim(host), '') = '' THEN
        PERFORM kasm_latency.refuse('host must not be null or empty');
    ELSIF host ~ '[[:cntrl:]]' OR zone ~ '[[:cntrl:]]' THEN
        PERFORM kasm_latency.refuse('host and zone must not contain control characters');
    ELSIF length(host) > 255 OR length(zone) > 255 THEN
        PERFORM kasm_latency.refuse('host and zone must not be longer than 255 characters');
    ELSIF role IS NULL OR role NOT IN ('webapp', 'proxy', 'agent', 'admin', 'monitor') THEN
        PERFORM kasm_latency.refuse('role must be webapp, proxy, agent, admin or monitor');
    END IF;
    INSERT INTO kasm_latency.host_registry AS r (network, host, role, zone)
    VALUES (kasm_latency.plain_network(register_host.network), btrim(register_host.host),
            register_host.role, register_host.zone)
    ON CONFLICT ON CONSTRAINT host_registry_pkey
    DO UPDATE SET host = excluded.host, role = excluded.role, zone = excluded.zone;
END
$$;
COMMENT ON FUNCTION kasm_latency.register_host(inet, text, text, text) IS 'Name an address or a range; the longest prefix wins, and a second call replaces the first';

CREATE FUNCTION kasm_latency.forget_host(network inet)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF network IS NULL THEN
        PERFORM kasm_latency.refuse('network must not be null');
    END IF;
    DELETE FROM kasm_latency.host_registry AS r
    WHERE r.network = kasm_latency.plain_network(forget_host.network);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION kasm_latency.forget_host(inet) IS 'Forget the name of an address or range; false if it had none of its own';

CREATE FUNCTION kasm_latency.host_of(
    client_addr inet, resolved_name text, OUT host text, OUT role text, OUT zone text)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(r.host, resolved_name, host(client_addr), '[local]'),
           coalesce(r.role, 'webapp'),
           r.zone
    FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (
        SELECT * FROM kasm_latency.host_registry AS h
        WHERE h.network >>= client_addr
        ORDER BY masklen(h.network) DESC
        LIMIT 1) AS r ON true
$$;
COMMENT ON FUNCTION kasm_latency.host_of(inet, text) IS 'Name, role and zone of a client: as registered, else the name that the server resolved, else the address';


CREATE FUNCTION kasm_latency.plain_rows(relation text, column1 text, column2 text, OUT value1 text, OUT value2 text)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE ROWS 20
AS 'MODULE_PATHNAME', 'kasm_latency_plain_rows';
COMMENT ON FUNCTION kasm_latency.plain_rows(text, text, text) IS 'Two columns of a plain table of the schema public, read so that nothing of its owner''s runs; up to a thousand rows';

CREATE FUNCTION kasm_latency.read_kasm_hosts(notices boolean)
RETURNS TABLE (host text, zone text)
LANGUAGE plpgsql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    -- whoever reads runs this: so not by a query of these tables
    RETURN QUERY
        SELECT DISTINCT regexp_replace(m.value1, '[[:cntrl:]]', '?', 'g'), regexp_replace(z.value2, '[[:cntrl:]]', '?', 'g')
        FROM kasm_latency.plain_rows('managers', 'manager_hostname', 'zone_id') AS m
        LEFT JOIN kasm_latency.plain_rows('zones', 'zone_id', 'zone_name') AS z ON z.value1 = m.value2
        WHERE m.value1 <> ''
        ORDER BY 1, 2;
EXCEPTION WHEN OTHERS THEN
    IF notices THEN
        RAISE NOTICE 'kasm_latency: no host names from Kasm''s own tables: %', SQLERRM;
    END IF;
END
$$;
COMMENT ON FUNCTION kasm_latency.read_kasm_hosts(boolean) IS 'What kasm_hosts() returns; says why there is nothing, if asked to';

CREATE FUNCTION kasm_latency.kasm_hosts()
RETURNS TABLE (host text, zone text)
LANGUAGE sql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM kasm_latency.read_kasm_hosts(true)
$$;
COMMENT ON FUNCTION kasm_latency.kasm_hosts() IS 'Names and zones of Web Apps from Kasm''s own tables; nothing, and a notice, where these cannot be read';

/*
 * 5. The rules
 */

CREATE VIEW kasm_latency.verdicts AS
    SELECT * FROM (VALUES
        ('out_of_band', 7, 'critical', 'even the fastest round trip took as long as the limit or longer'),
        ('unproven', 6, 'warning', 'near by one sign and far by another: see the reason'),
        ('unexpected_client', 5, 'warning', 'registered in a role that has no business with the database'),
        ('slow_turnaround', 4, 'info', 'the path is near; the client pauses between queries, or the path is congested at times'),
        ('in_band', 3, NULL, 'proven from both sides to be near'),
        ('floor_only', 2, NULL, 'near by the kernel''s word, if nothing stands between; too few exchanges to prove it'),
        ('no_data', 1, NULL, 'nothing was measured in the span')
    ) AS v (verdict, rank, severity, meaning);
COMMENT ON VIEW kasm_latency.verdicts IS 'The verdicts, worst first, with the severity of each; flagged shows critical and warning';
COMMENT ON COLUMN kasm_latency.verdicts.rank IS 'The higher, the worse';

CREATE FUNCTION kasm_latency.enough(these bigint, others bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT these >= 3 OR these > 0 AND these >= 0.1 * (these + others)
$$;
COMMENT ON FUNCTION kasm_latency.enough(bigint, bigint) IS 'Are so many, beside so many others, no accident: at least 3, or 10 %';

CREATE FUNCTION kasm_latency.floor_ms(
    rtt_ms double precision, newest_rtt_ms double precision, near_since bigint, far_since bigint,
    limit_ms double precision, min_samples bigint)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- in the minute of the newest connection others were nearer; if all that came
    -- since was far, they show a path that is no more
    SELECT CASE WHEN rtt_ms < limit_ms AND newest_rtt_ms >= limit_ms
                     AND far_since >= min_samples AND NOT kasm_latency.enough(near_since, far_since)
                THEN newest_rtt_ms
                ELSE rtt_ms END
$$;
COMMENT ON FUNCTION kasm_latency.floor_ms(double precision, double precision, bigint, bigint, double precision, bigint) IS 'A client''s fastest round trip as it is now: of the newest minute with a connection, or of the newest connection alone';

CREATE FUNCTION kasm_latency.mixed_distances(
    rtt_ms double precision, limit_ms double precision,
    near bigint, far bigint, near_since bigint, far_since bigint)
RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the newest connections are far, yet near answers came after them; or the
    -- newest are near, and others of the span far
    SELECT CASE WHEN rtt_ms >= limit_ms THEN kasm_latency.enough(near_since, far_since)
                ELSE near > 0 AND kasm_latency.enough(far, near) END
$$;
COMMENT ON FUNCTION kasm_latency.mixed_distances(double precision, double precision, bigint, bigint, bigint, bigint) IS 'Are there hosts at different distances behind one address?  Connections of the span with a floor below the limit and not; turnarounds since the newest floor below the limit and not';

CREATE FUNCTION kasm_latency.verdict(
    role text, measured boolean, rtt_ms double precision, mixed boolean, samples bigint,
    p10_ms double precision, p50_ms double precision,
    limit_ms double precision, min_samples bigint)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN NOT measured THEN 'no_data'
        WHEN role IN ('proxy', 'agent') THEN 'unexpected_client'
        WHEN mixed THEN 'unproven'
        WHEN rtt_ms >= limit_ms THEN 'out_of_band'
        WHEN samples < min_samples THEN CASE WHEN rtt_ms IS NULL THEN 'no_data' ELSE 'floor_only' END
        WHEN p10_ms >= limit_ms THEN 'unproven'
        WHEN p50_ms >= limit_ms THEN 'slow_turnaround'
        ELSE 'in_band'
    END
$$;
COMMENT ON FUNCTION kasm_latency.verdict(text, boolean, double precision, boolean, bigint, double precision, double precision, double precision, bigint) IS 'The verdict on a client: the one place of the rule';

CREATE FUNCTION kasm_latency.reason(
    verdict text, role text, mixed boolean, rtt_ms double precision, rtt_age_minutes integer,
    near bigint, far bigint, near_since bigint, far_since bigint, round_trips bigint,
    samples bigint, p10_ms double precision, p50_ms double precision, limit_ms double precision)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN verdict = 'unexpected_client' THEN
            format('It is registered as %s, and such a host has no business with the database; yet it made connections, '
                   'with %s exchanges.', role, round_trips)
        WHEN mixed AND rtt_ms < limit_ms THEN
            format('Of %s connections %s took %s or longer for their fastest round trip, the others less (the newest %s), '
                   'over %s exchanges: hosts at different distances share this address, as behind NAT or docker-proxy, '
                   'or the path became shorter within the span.',
                   near + far, far, kasm_latency.ms_text(limit_ms), kasm_latency.ms_text(rtt_ms), round_trips)
        WHEN mixed THEN
            format('The newest connections took %s for their fastest round trip, yet of %s turnarounds inside transactions '
                   'since %s took less than the limit of %s, over %s exchanges: hosts at different distances share this '
                   'address, as behind NAT or docker-proxy, or the path became longer within the last minute.',
                   kasm_latency.ms_text(rtt_ms), near_since + far_since, near_since, kasm_latency.ms_text(limit_ms),
                   round_trips)
        WHEN verdict = 'out_of_band' THEN
            format('The fastest round trip took %s, and the limit is %s: every query waits at least that long. ',
                   kasm_latency.ms_text(rtt_ms), kasm_latency.ms_text(limit_ms))
            || CASE WHEN samples > 0
                    THEN format('Over %s exchanges the typical turnaround inside transactions took %s (median of %s); what it '
                                'has beyond the fastest is the client''s own time, or the path''s congestion.',
                                round_trips, kasm_latency.ms_text(p50_ms), samples)
                    ELSE format('Of %s exchanges none was timed inside a transaction yet.', round_trips) END
        WHEN verdict = 'unproven' THEN
            format('The fastest round trip took %s, but of %s turnarounds inside transactions nine in ten took %s '
                   'or longer, the typical one %s, over %s exchanges, and the limit is %s. In between stands a connection '
                   'pooler or proxy that hides a distant client; or the path became slower since the connections were '
                   'made; or the client pauses before every query.',
                   coalesce(kasm_latency.ms_text(rtt_ms), 'an unknown time'), samples, kasm_latency.ms_text(p10_ms),
                   kasm_latency.ms_text(p50_ms), round_trips, kasm_latency.ms_text(limit_ms))
    END
    || CASE WHEN verdict = 'unexpected_client' THEN ''
            WHEN rtt_age_minutes >= 120
            THEN format(' (The fastest round trip is of %s hours ago, when the newest connection was made.)',
                        rtt_age_minutes / 60)
            WHEN rtt_age_minutes > extract(epoch FROM kasm_latency.recent()) / 60
            THEN format(' (The fastest round trip is of %s minutes ago, when the newest connection was made.)',
                        rtt_age_minutes)
            ELSE '' END
$$;
COMMENT ON FUNCTION kasm_latency.reason(text, text, boolean, double precision, integer, bigint, bigint, bigint, bigint, bigint, bigint, double precision, double precision, double precision) IS 'A verdict in words, with the figures that it rests on';

CREATE FUNCTION kasm_latency.remedy(verdict text, mixed boolean)
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
            'Check first what is at this address. A pooler or proxy: measure the round trip from the Web App behind it. '
            'The Web App itself: restart its services, as a new connection measures the path anew; if it is near then '
            'too, the client pauses, so look at that host''s load.'
    END
$$;
COMMENT ON FUNCTION kasm_latency.remedy(text, boolean) IS 'What to do about a verdict, and what to check first';


/*
 * 6. Relations
 */

CREATE FUNCTION kasm_latency.judged_clients(since interval)
RETURNS TABLE (
    client_addr inet, database text, username text, host text, role text, zone text,
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, rtt_age_minutes integer, turnaround_min_ms double precision,
    p10_ms double precision, p50_ms double precision,
    near bigint, far bigint, near_since bigint, far_since bigint, mixed boolean, samples bigint,
    rtts bytea, ceilings bytea, server_times bytea,
    network_s double precision, server_s double precision, in_transaction_wait_s double precision,
    chains bigint, chain_round_trips bigint, chain_s double precision, chain_network_s double precision, chain_server_s double precision,
    chain_lengths bytea, chain_durations bytea,
    retransmits bigint, judged boolean, verdict text, rank integer, severity text,
    first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    WITH setting AS MATERIALIZED (
        SELECT kasm_latency.limit_ms() AS limit_ms, kasm_latency.min_samples() AS min_samples,
               kasm_latency.app_roles() AS app_roles),
    kasm AS MATERIALIZED (
        SELECT lower(k.host) AS host, k.zone FROM kasm_latency.read_kasm_hosts(false) AS k WHERE k.zone IS NOT NULL),
    counted AS MATERIALIZED (
        SELECT f.client_addr, f.database_oid, f.role_oid, f.resolved_name,
               f.connections, f.connections_made, f.round_trips, f.transactions, f.retransmits,
               f.rtt_ms, f.newest_rtt_ms, f.rtt_age_minutes, f.turnaround_min_ms,
               f.rtts, f.ceilings, f.server_times, f.first_seen, f.last_seen,
               f.network_s, f.server_s, f.in_transaction_wait_s,
               f.chains, f.chain_round_trips, f.chain_s, f.chain_network_s, f.chain_server_s, f.chain_lengths, f.chain_durations,
               -- the exact minimum is sharper than the cell that it fell into
               greatest(kasm_latency.percentile_ms(f.ceilings, 0.1), f.turnaround_min_ms) AS p10_ms,
               greatest(kasm_latency.percentile_ms(f.ceilings, 0.5), f.turnaround_min_ms) AS p50_ms,
               kasm_latency.count_from(f.ceilings, 0) AS samples,
               kasm_latency.count_below(f.rtts, s.limit_ms) AS near,
               kasm_latency.count_from(f.rtts, s.limit_ms) AS far,
               kasm_latency.count_below(f.ceilings_since_rtt, s.limit_ms) AS near_since,
               kasm_latency.count_from(f.ceilings_since_rtt, s.limit_ms) AS far_since
        FROM kasm_latency.client_figures(coalesce(since, kasm_latency.recent())) AS f, setting AS s
        WHERE NOT f.evicted),
    figures AS (
        SELECT c.*,
               kasm_latency.floor_ms(c.rtt_ms, c.newest_rtt_ms, c.near_since, c.far_since,
                                     s.limit_ms, s.min_samples) AS floor_ms
        FROM counted AS c, setting AS s)
    SELECT f.client_addr,
           coalesce(d.datname, '(' || f.database_oid || ')'), coalesce(u.rolname, '(' || f.role_oid || ')'),
           h.host, h.role, coalesce(h.zone, k.zone),
           f.connections, f.round_trips, f.transactions,
           f.floor_ms, f.rtt_age_minutes, f.turnaround_min_ms,
           f.p10_ms, f.p50_ms,
           f.near, f.far, f.near_since, f.far_since, m.mixed, f.samples,
           f.rtts, f.ceilings, f.server_times,
           f.network_s, f.server_s, f.in_transaction_wait_s,
           f.chains, f.chain_round_trips, f.chain_s, f.chain_network_s, f.chain_server_s, f.chain_lengths, f.chain_durations,
           f.retransmits,
           h.role NOT IN ('admin', 'monitor') AND (s.app_roles IS NULL OR coalesce(u.rolname = ANY (s.app_roles), false)),
           v.verdict, v.rank, v.severity,
           f.first_seen, f.last_seen
    FROM setting AS s
    CROSS JOIN figures AS f
    CROSS JOIN LATERAL kasm_latency.host_of(f.client_addr, f.resolved_name) AS h
    -- a zone that nobody registered, by the name that Kasm has for the host
    LEFT JOIN LATERAL (
        SELECT k.zone
        FROM unnest(ARRAY[lower(f.resolved_name), lower(split_part(f.resolved_name, '.', 1)),
                          lower(h.host), host(f.client_addr)]) WITH ORDINALITY AS n (name, place)
        JOIN kasm AS k ON k.host = n.name
        ORDER BY n.place, k.zone
        LIMIT 1) AS k ON h.zone IS NULL
    -- who comes by a Unix-domain socket is on this machine, by the kernel's word
    CROSS JOIN LATERAL (SELECT CASE WHEN f.client_addr IS NULL THEN 0 ELSE f.floor_ms END) AS r (rtt_ms)
    CROSS JOIN LATERAL kasm_latency.mixed_distances(
        r.rtt_ms, s.limit_ms, f.near, f.far, f.near_since, f.far_since) AS m (mixed)
    JOIN kasm_latency.verdicts AS v ON v.verdict = kasm_latency.verdict(
        h.role, f.connections_made > 0 OR f.round_trips > 0, r.rtt_ms, m.mixed,
        f.samples, f.p10_ms, f.p50_ms, s.limit_ms, s.min_samples)
    LEFT JOIN pg_database AS d ON d.oid = f.database_oid
    LEFT JOIN pg_roles AS u ON u.oid = f.role_oid
$$;
COMMENT ON FUNCTION kasm_latency.judged_clients(interval) IS 'Each client with its name, figures and verdict: what clients, hosts and flagged are made of';

CREATE FUNCTION kasm_latency.client_stats(since interval)
RETURNS TABLE (
    client_addr inet, database text, username text, host text, role text, zone text,
    connections bigint, round_trips bigint, transactions bigint,
    rtt_ms double precision, turnaround_min_ms double precision,
    turnaround_p10_ms double precision, turnaround_p50_ms double precision,
    turnaround_p95_ms double precision, turnaround_p99_ms double precision,
    server_p50_ms double precision, server_p95_ms double precision, server_p99_ms double precision,
    retransmits bigint, path text, verdict text, first_seen timestamptz, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.client_addr, c.database, c.username, c.host, c.role, c.zone,
           c.connections, c.round_trips, c.transactions,
           c.rtt_ms, c.turnaround_min_ms, c.p10_ms, c.p50_ms,
           greatest(kasm_latency.percentile_ms(c.ceilings, 0.95), c.turnaround_min_ms),
           greatest(kasm_latency.percentile_ms(c.ceilings, 0.99), c.turnaround_min_ms),
           kasm_latency.percentile_ms(c.server_times, 0.5),
           kasm_latency.percentile_ms(c.server_times, 0.95),
           kasm_latency.percentile_ms(c.server_times, 0.99),
           c.retransmits, kasm_latency.path_class(c.rtt_ms), c.verdict, c.first_seen, c.last_seen
    FROM kasm_latency.judged_clients(since) AS c
    ORDER BY c.rank DESC, c.rtt_ms DESC NULLS LAST, c.client_addr, c.database, c.username
$$;
COMMENT ON FUNCTION kasm_latency.client_stats(interval) IS 'What the view clients shows, over another span of up to an hour; NULL is the setting recent';

CREATE FUNCTION kasm_latency.host_figures(since interval)
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
           kasm_latency.merge_histograms(c.ceilings), kasm_latency.merge_histograms(c.server_times),
           kasm_latency.merge_histograms(c.chain_lengths), kasm_latency.merge_histograms(c.chain_durations),
           min(c.first_seen), max(c.last_seen)
    FROM kasm_latency.judged_clients(since) AS c
    GROUP BY c.host
$$;
COMMENT ON FUNCTION kasm_latency.host_figures(interval) IS 'The clients of each host taken together: what hosts and impact are made of';

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
           greatest(kasm_latency.percentile_ms(h.ceilings, 0.1), h.turnaround_min_ms),
           greatest(kasm_latency.percentile_ms(h.ceilings, 0.5), h.turnaround_min_ms),
           greatest(kasm_latency.percentile_ms(h.ceilings, 0.95), h.turnaround_min_ms),
           greatest(kasm_latency.percentile_ms(h.ceilings, 0.99), h.turnaround_min_ms),
           kasm_latency.percentile_ms(h.server_times, 0.5),
           kasm_latency.percentile_ms(h.server_times, 0.95),
           kasm_latency.percentile_ms(h.server_times, 0.99),
           h.retransmits, kasm_latency.path_class(h.rtt_ms), h.verdict, h.first_seen, h.last_seen
    FROM kasm_latency.host_figures(since) AS h
    ORDER BY h.rank DESC, h.rtt_ms DESC NULLS LAST, h.host
$$;
COMMENT ON FUNCTION kasm_latency.host_stats(interval) IS 'What the view hosts shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.clients AS
    SELECT * FROM kasm_latency.client_stats(NULL);
COMMENT ON VIEW kasm_latency.clients IS 'Each client (address, database, role) over the recent span, worst first';

CREATE VIEW kasm_latency.hosts AS
    SELECT * FROM kasm_latency.host_stats(NULL);
COMMENT ON VIEW kasm_latency.hosts IS 'Each client host over the recent span, worst first';

CREATE FUNCTION kasm_latency.flagged_hosts(since interval)
RETURNS TABLE (
    severity text, host text, role text, zone text, client_addrs inet[], verdict text,
    rtt_ms double precision, turnaround_p10_ms double precision, turnaround_p50_ms double precision,
    limit_ms double precision, round_trips bigint, reason text, remedy text, last_seen timestamptz)
LANGUAGE sql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
    WITH judged AS MATERIALIZED (
        SELECT * FROM kasm_latency.judged_clients(since) AS c WHERE c.judged),
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
           kasm_latency.reason(w.verdict, w.role, w.mixed, w.rtt_ms, w.rtt_age_minutes, w.near, w.far, w.near_since,
                               w.far_since, w.round_trips, w.samples, w.p10_ms, w.p50_ms, l.limit_ms) AS reason,
           kasm_latency.remedy(w.verdict, w.mixed) AS remedy,
           a.last_seen
    FROM worst AS w
    JOIN whole AS a ON a.host = w.host
    CROSS JOIN kasm_latency.limit_ms() AS l (limit_ms)
    WHERE w.severity IN ('critical', 'warning')
    ORDER BY w.rank DESC, w.rtt_ms DESC NULLS LAST, w.host
$$;
COMMENT ON FUNCTION kasm_latency.flagged_hosts(interval) IS 'What the view flagged shows, over another span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.flagged AS
    SELECT * FROM kasm_latency.flagged_hosts(NULL);
COMMENT ON VIEW kasm_latency.flagged IS 'Hosts that are not fine, worst first, with the figures of their worst client, the reason and the remedy';

CREATE FUNCTION kasm_latency.host_impact(since interval)
RETURNS TABLE (
    host text, verdict text, round_trips bigint, transactions bigint,
    round_trips_per_transaction double precision,
    network_s double precision, server_s double precision, in_transaction_wait_s double precision,
    network_share double precision, launch_ms double precision, launch_ms_colocated double precision,
    chain_p50 integer, chain_p95 integer, chain_p50_ms double precision, chain_p95_ms double precision,
    server_share double precision, client_share double precision, chains bigint,
    role text, judged boolean, rtt_ms double precision, server_p50_ms double precision,
    round_trip_in_chain_ms double precision)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    WITH figures AS (
        SELECT h.*,
               kasm_latency.percentile_whole(h.chain_lengths, 0.5) AS chain_p50,
               kasm_latency.percentile_ms(h.server_times, 0.5) AS server_p50_ms,
               -- no more than the chain took: a floor of whole microseconds may be one too long
               least(h.chain_network_s / nullif(h.chain_s, 0), 1) AS network_share,
               least(h.chain_server_s / nullif(h.chain_s, 0), 1) AS server_share
        FROM kasm_latency.host_figures(since) AS h)
    SELECT f.host, f.verdict, f.round_trips, f.transactions,
           kasm_latency.rounded(f.round_trips / nullif(f.transactions, 0)::double precision, 1),
           kasm_latency.rounded(f.network_s, 3), kasm_latency.rounded(f.server_s, 3),
           kasm_latency.rounded(f.in_transaction_wait_s, 3),
           kasm_latency.rounded(f.network_share, 3),
           kasm_latency.launch_cost(coalesce(f.chain_p50, 10), f.rtt_ms, coalesce(f.server_p50_ms, 0)),
           kasm_latency.launch_cost(coalesce(f.chain_p50, 10), 0.5, coalesce(f.server_p50_ms, 0)),
           f.chain_p50, kasm_latency.percentile_whole(f.chain_lengths, 0.95),
           kasm_latency.percentile_ms(f.chain_durations, 0.5),
           kasm_latency.percentile_ms(f.chain_durations, 0.95),
           kasm_latency.rounded(f.server_share, 3),
           kasm_latency.rounded(greatest(1 - f.network_share - f.server_share, 0), 3),
           f.chains, f.role, f.judged, f.rtt_ms, f.server_p50_ms,
           kasm_latency.rounded(1000 * f.chain_s / nullif(f.chain_round_trips, 0), 3)
    FROM figures AS f
    ORDER BY f.rank DESC, f.network_s DESC, f.host
$$;
COMMENT ON FUNCTION kasm_latency.host_impact(interval) IS 'What impact, diagnose and placement_plan are made of, over a span of up to an hour; NULL is the setting recent';

CREATE VIEW kasm_latency.impact AS
    SELECT i.host, i.verdict, i.round_trips, i.transactions, i.round_trips_per_transaction,
           i.network_s, i.server_s, i.in_transaction_wait_s, i.network_share,
           i.launch_ms, i.launch_ms_colocated, i.chain_p50, i.chain_p95, i.chain_p50_ms, i.chain_p95_ms
    FROM kasm_latency.host_impact(NULL) AS i;
COMMENT ON VIEW kasm_latency.impact IS 'What each host''s distance costs over the recent span, worst first';

CREATE FUNCTION kasm_latency.diagnose()
RETURNS TABLE (
    host text, verdict text, network_share double precision, server_share double precision,
    client_share double precision, chain_p50 integer, chain_p50_ms double precision, conclusion text)
LANGUAGE sql VOLATILE ROWS 200
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.host, i.verdict, i.network_share, i.server_share, i.client_share, i.chain_p50, i.chain_p50_ms,
           CASE c.bound
               WHEN 'no data' THEN 'no data: no run of queries has ended in the span'
               ELSE format('%s: typically %s, %s in all (%s each): network %s %% (%s), server %s %%, client %s %%',
                           c.bound, CASE i.chain_p50 WHEN 1 THEN '1 query' ELSE i.chain_p50 || ' queries in a row' END,
                           kasm_latency.ms_text(i.chain_p50_ms), kasm_latency.ms_text(i.round_trip_in_chain_ms),
                           round(100 * i.network_share),
                           coalesce('a round trip takes ' || kasm_latency.ms_text(i.rtt_ms), 'a Unix-domain socket'),
                           round(100 * i.server_share), round(100 * i.client_share))
                    || CASE WHEN i.verdict = 'unproven' AND c.bound <> 'network-bound'
                            THEN '; a pooler or proxy may hide a distance: see flagged' ELSE '' END
           END
    FROM kasm_latency.host_impact(NULL) AS i
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN i.chains = 0 THEN 'no data'
            -- a query that is answered within the limit, all in all, makes nobody wait
            WHEN i.round_trip_in_chain_ms < kasm_latency.limit_ms() THEN 'healthy'
            WHEN i.network_share >= greatest(i.server_share, i.client_share) THEN 'network-bound'
            WHEN i.server_share >= i.client_share THEN 'server-bound'
            ELSE 'client-bound'
        END) AS c (bound)
    WHERE i.judged
    ORDER BY array_position(ARRAY['network-bound', 'server-bound', 'client-bound', 'healthy', 'no data'], c.bound),
             i.chain_p50_ms DESC NULLS LAST, i.host
$$;
COMMENT ON FUNCTION kasm_latency.diagnose() IS 'Kasm is slow: is it the database''s distance?  Each host''s shares of network, server and client in its runs of queries, and a conclusion; the distant first';

CREATE FUNCTION kasm_latency.placement_plan(host text DEFAULT NULL, queries integer DEFAULT NULL)
RETURNS TABLE (
    host text, option text, web_apps integer, queries integer, rtt_ms double precision,
    launch_ms double precision, launches_per_s double precision, says text)
LANGUAGE sql VOLATILE ROWS 30
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT kasm_latency.argument('queries', placement_plan.queries) AS queries),
    hosts AS MATERIALIZED (
        SELECT i.host, i.verdict, i.rtt_ms, coalesce(i.server_p50_ms, 0) AS server_ms,
               coalesce(a.queries, i.chain_p50, 10) AS queries,
               -- SQLAlchemy's pool as Kasm sets it up: pool_size 10 and max_overflow 20
               30 AS pool, 0.5::double precision AS colocated_ms,
               row_number() OVER () AS place
        -- by way of "asked", so that a bad argument is refused where there is no host too
        FROM asked AS a
        CROSS JOIN LATERAL kasm_latency.host_impact(CASE WHEN a.queries > 0 THEN NULL::interval END) AS i
        WHERE i.role = 'webapp' AND i.judged AND i.rtt_ms IS NOT NULL
          AND (placement_plan.host IS NULL OR i.host = placement_plan.host)),
    costs AS MATERIALIZED (
        SELECT h.*,
               CASE h.queries WHEN 1 THEN '1 query' ELSE h.queries || ' queries, one after the other,' END AS what,
               kasm_latency.launch_cost(h.queries, h.rtt_ms, h.server_ms) AS today_ms,
               -- its users' proxy stays in their region, and asks the Web App once per session
               kasm_latency.launch_cost(h.queries, h.colocated_ms, h.server_ms) + h.rtt_ms AS moved_ms
        FROM hosts AS h)
    SELECT c.host, o.option, o.web_apps, c.queries, o.rtt_ms,
           kasm_latency.rounded(o.launch_ms, 3),
           kasm_latency.rounded(o.web_apps * c.pool * 1000.0 / nullif(o.holds_ms, 0), 1),
           o.says
    FROM costs AS c
    CROSS JOIN LATERAL (VALUES
        (1, 'today', 1, c.rtt_ms, c.today_ms, c.today_ms,
         format('%s over %s each.', c.what, kasm_latency.ms_text(c.rtt_ms))),
        (2, 'moved beside the database', 1, c.colocated_ms, c.moved_ms, c.moved_ms - c.rtt_ms,
         CASE WHEN c.moved_ms < c.today_ms
              THEN format('Saves %s of each launch: the queries stay in the database''s zone, and a Dedicated Proxy left '
                          'behind asks the control plane once per session, over %s.',
                          kasm_latency.ms_text(c.today_ms - c.moved_ms), kasm_latency.ms_text(c.rtt_ms))
              WHEN c.rtt_ms < kasm_latency.limit_ms() THEN 'Gains nothing: it is near already.'
              ELSE format('A launch of %s gains nothing, as the Dedicated Proxy asks over %s once; but locks and connections '
                          'are held for less.', c.what, kasm_latency.ms_text(c.rtt_ms)) END),
        (3, 'one more Web App where it is', 2, c.rtt_ms, c.today_ms, c.today_ms,
         'Does not help: more launches at a time, each as slow as today, and each holding its locks as long.')
    ) AS o (place, option, web_apps, rtt_ms, launch_ms, holds_ms, says)
    ORDER BY c.place, o.place
$$;
COMMENT ON FUNCTION kasm_latency.placement_plan(text, integer) IS 'Per Web App: a launch today, with the Web App moved beside the database, and with one more where it is';

CREATE VIEW kasm_latency.connections AS
    SELECT c.pid, coalesce(c.client_addr, a.client_addr) AS client_addr, h.host,
           d.datname::text AS database, u.rolname::text AS username, a.application_name,
           c.connected_at, c.round_trips, c.rtt_ms, c.turnaround_min_ms, c.last_seen
    FROM kasm_latency.live_connections() AS c
    LEFT JOIN pg_stat_activity AS a ON a.pid = c.pid
    CROSS JOIN LATERAL kasm_latency.host_of(coalesce(c.client_addr, a.client_addr), c.resolved_name) AS h
    LEFT JOIN pg_database AS d ON d.oid = coalesce(nullif(c.database_oid, 0), a.datid)
    LEFT JOIN pg_roles AS u ON u.oid = coalesce(nullif(c.role_oid, 0), a.usesysid);
COMMENT ON VIEW kasm_latency.connections IS 'Each live client backend since it connected';

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
           kasm_latency.rounded(greatest(extract(epoch FROM clock_timestamp() - w.since), 0) * 1000, 3) AS waited_ms,
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

CREATE VIEW kasm_latency.totals AS
    SELECT f.client_addr,
           coalesce(d.datname, '(' || nullif(f.database_oid, 0) || ')') AS database,
           coalesce(u.rolname, '(' || nullif(f.role_oid, 0) || ')') AS username,
           CASE WHEN f.evicted THEN '(evicted)' ELSE h.host END AS host,
           f.round_trips, f.transactions, f.network_s, f.server_s, f.turnaround_s,
           f.retransmits, f.connections_made AS connections_total, f.stats_since
    FROM kasm_latency.client_figures(NULL, histograms => false) AS f
    CROSS JOIN LATERAL kasm_latency.host_of(f.client_addr, f.resolved_name) AS h
    LEFT JOIN pg_database AS d ON d.oid = f.database_oid
    LEFT JOIN pg_roles AS u ON u.oid = f.role_oid;
COMMENT ON VIEW kasm_latency.totals IS 'Counters of each client since the last reset; clients that had to make room are summed in the row (evicted)';

CREATE VIEW kasm_latency.info AS
    SELECT * FROM kasm_latency.server_info();
COMMENT ON VIEW kasm_latency.info IS 'About the extension itself: version, clients kept, memory, last reset';

CREATE FUNCTION kasm_latency.histogram(
    metric text, host text DEFAULT NULL, since interval DEFAULT NULL)
RETURNS TABLE (from_ms double precision, to_ms double precision, count bigint, share double precision, bar text)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH asked AS MATERIALIZED (
        SELECT CASE WHEN metric IN ('rtt', 'turnaround', 'server') THEN metric
                    ELSE kasm_latency.refuse('metric must be rtt, turnaround or server') END AS metric),
    cells AS MATERIALIZED (
        SELECT cell.*
        FROM (SELECT kasm_latency.merge_histograms(
                         CASE asked.metric WHEN 'rtt' THEN c.rtts
                                           WHEN 'turnaround' THEN c.ceilings
                                           ELSE c.server_times END) AS merged
              FROM asked
              LEFT JOIN kasm_latency.judged_clients(since) AS c
                     ON histogram.host IS NULL OR c.host = histogram.host) AS m,
             kasm_latency.histogram_cells(m.merged) AS cell),
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
COMMENT ON FUNCTION kasm_latency.histogram(text, text, interval) IS 'How round trips (rtt), turnarounds inside transactions (turnaround) or server times (server) are spread, of one host or of all';


/*
 * 7. Over time: history, checks
 */

CREATE TABLE kasm_latency.history (
    taken_at timestamptz NOT NULL,
    host text NOT NULL,
    role text,
    zone text,
    round_trips bigint,
    transactions bigint,
    rtt_ms double precision,
    turnaround_p10_ms double precision,
    turnaround_p50_ms double precision,
    turnaround_p95_ms double precision,
    server_p50_ms double precision,
    server_p95_ms double precision,
    verdict text,
    network_s double precision,
    in_transaction_wait_s double precision,
    span interval,
    PRIMARY KEY (host, taken_at)
);
CREATE INDEX history_taken_at ON kasm_latency.history (taken_at);
COMMENT ON TABLE kasm_latency.history IS 'What snapshot() kept of hosts and impact: a row per host and minute';
COMMENT ON COLUMN kasm_latency.history.taken_at IS 'The minute of the snapshot';
COMMENT ON COLUMN kasm_latency.history.span IS 'The span that the figures cover, which ends there: the setting recent';
SELECT pg_extension_config_dump('kasm_latency.history', '');

CREATE FUNCTION kasm_latency.snapshot()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
DECLARE
    appended integer;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'kasm_latency: a standby cannot keep history'
            USING ERRCODE = 'read_only_sql_transaction',
                  HINT = 'Read kasm_latency.hosts here, or run snapshot() on the primary, which measures its own clients.';
    END IF;
    INSERT INTO kasm_latency.history
    SELECT date_trunc('minute', clock_timestamp()), h.host, h.role, h.zone, h.round_trips, h.transactions,
           h.rtt_ms, h.turnaround_p10_ms, h.turnaround_p50_ms, h.turnaround_p95_ms,
           h.server_p50_ms, h.server_p95_ms, h.verdict, i.network_s, i.in_transaction_wait_s, kasm_latency.recent()
    FROM kasm_latency.hosts AS h
    LEFT JOIN kasm_latency.impact AS i ON i.host = h.host
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
        PERFORM kasm_latency.refuse('keep must not be null or negative');
    END IF;
    DELETE FROM kasm_latency.history AS h WHERE h.taken_at < now() - keep;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;
COMMENT ON FUNCTION kasm_latency.prune(interval) IS 'Remove history older than that; returns how many rows';

CREATE VIEW kasm_latency.verdict_changes AS
    SELECT c.host, c.taken_at AS changed_at, c.from_verdict, c.verdict AS to_verdict, c.rtt_ms
    FROM (SELECT h.host, h.taken_at, h.verdict, h.rtt_ms,
                 lag(h.verdict) OVER (PARTITION BY h.host ORDER BY h.taken_at) AS from_verdict
          FROM kasm_latency.history AS h) AS c
    WHERE c.from_verdict <> c.verdict
    ORDER BY c.taken_at DESC, c.host;
COMMENT ON VIEW kasm_latency.verdict_changes IS 'Where a host''s verdict in history differs from the snapshot before, newest first';

CREATE FUNCTION kasm_latency.spark(ms double precision)
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
COMMENT ON FUNCTION kasm_latency.spark(double precision) IS 'A latency as one character of eight: below 0.5, 1, 2, 5, 10, 25, 100 ms, and above';

CREATE FUNCTION kasm_latency.host_history(host text DEFAULT NULL, since interval DEFAULT '7 days')
RETURNS TABLE (
    host text, snapshots bigint, first_at timestamptz, last_at timestamptz,
    rtt_min_ms double precision, rtt_max_ms double precision, verdict text, rtt text, turnaround text)
LANGUAGE sql STABLE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bounds AS (
        SELECT CASE WHEN since > interval '0' THEN now() - since
                    ELSE kasm_latency.refuse('since must be greater than zero')::timestamptz END AS first_at),
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
           kasm_latency.rounded(min(b.rtt_min_ms), 3), kasm_latency.rounded(max(b.rtt_max_ms), 3),
           (array_agg(b.verdict ORDER BY b.bucket DESC) FILTER (WHERE b.verdict IS NOT NULL))[1],
           rtrim(string_agg(kasm_latency.spark(b.rtt_max_ms), '' ORDER BY k.bucket)),
           rtrim(string_agg(kasm_latency.spark(b.p50_ms), '' ORDER BY k.bucket))
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
                    ELSE kasm_latency.refuse('step must be greater than zero')::double precision END AS seconds)
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

CREATE FUNCTION kasm_latency.assert_in_band(severity text DEFAULT 'critical')
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    severities text[] := ARRAY['critical', 'warning'];
    found text;
    n bigint;
BEGIN
    IF severity IS NULL OR severity <> ALL (severities) THEN
        PERFORM kasm_latency.refuse('severity must be critical or warning');
    END IF;
    SELECT count(*), string_agg(format('%s is %s (round trip %s, turnaround %s)', f.host, f.verdict,
                                       coalesce(kasm_latency.ms_text(f.rtt_ms), 'unknown'),
                                       coalesce(kasm_latency.ms_text(f.turnaround_p50_ms), 'unknown')), '; ')
    INTO n, found
    FROM kasm_latency.flagged AS f
    WHERE array_position(severities, f.severity) <= array_position(severities, assert_in_band.severity);
    IF n > 0 THEN
        RAISE EXCEPTION '%: %', CASE n WHEN 1 THEN '1 host is not fine' ELSE n || ' hosts are not fine' END, found
            USING HINT = 'SELECT * FROM kasm_latency.flagged says why, and what to do.';
    END IF;
    SELECT count(*) INTO n FROM kasm_latency.host_impact(NULL) AS i WHERE i.judged AND i.verdict <> 'no_data';
    IF n = 0 THEN
        RETURN 'OK, but nothing was measured: does anybody connect, and is kasm_latency.app_roles right?';
    END IF;
    RETURN format('OK: %s measured, none of them %s', CASE n WHEN 1 THEN '1 host' ELSE n || ' hosts' END,
                  CASE severity WHEN 'critical' THEN 'out of band' ELSE 'flagged' END);
END
$$;
COMMENT ON FUNCTION kasm_latency.assert_in_band(text) IS 'A line that says OK, or an error that names the hosts flagged with that severity or a higher one: for scheduled checks';

CREATE FUNCTION kasm_latency.host_buckets(metric text)
RETURNS TABLE (
    host text, role text, zone text,
    upper_s double precision[], cumulative bigint[], sum_s double precision, count bigint)
LANGUAGE sql VOLATILE ROWS 50
SET search_path = pg_catalog, pg_temp
AS $$
    WITH merged AS MATERIALIZED (
        SELECT h.host, min(h.role) AS role, min(h.zone) AS zone,
               kasm_latency.merge_histograms(
                   CASE metric WHEN 'turnaround' THEN f.ceilings
                               WHEN 'server' THEN f.server_times
                               WHEN 'rtt' THEN f.rtts
                               ELSE kasm_latency.refuse('metric must be rtt, turnaround or server')::bytea END) AS histogram
        FROM kasm_latency.client_figures(NULL) AS f
        CROSS JOIN LATERAL kasm_latency.host_of(f.client_addr, f.resolved_name) AS h
        WHERE NOT f.evicted
        GROUP BY h.host),
    -- the cells of all hosts have the same bounds, from 10 us to 10 s: a series must not come and go
    bounds AS MATERIALIZED (
        -- seconds by themselves, as they become labels: 1.5e-05, not 1.4999999999999999e-05
        SELECT (step * 10.0 ^ decade)::double precision AS upper_ms,
               (step * 10.0 ^ (decade - 3))::double precision AS upper_s
        FROM generate_series(-2, 3) AS decade,
             (SELECT 1 + 0.1 * n FROM generate_series(0, 9) AS n
              UNION ALL SELECT 2 + 0.2 * n FROM generate_series(0, 14) AS n
              UNION ALL SELECT 5 + 0.5 * n FROM generate_series(0, 9) AS n) AS s (step)
        UNION ALL
        SELECT 10000, 10)
    SELECT m.host, m.role, m.zone, c.upper_s, c.cumulative, c.sum_s, kasm_latency.count_from(m.histogram, 0)
    FROM merged AS m
    CROSS JOIN LATERAL (
        SELECT array_agg(b.upper_s ORDER BY b.upper_ms) AS upper_s,
               array_agg(kasm_latency.count_below(m.histogram, b.upper_ms) ORDER BY b.upper_ms) AS cumulative,
               (SELECT coalesce(sum((x.from_ms + coalesce(x.to_ms, x.from_ms)) / 2 * x.count), 0) / 1000
                FROM kasm_latency.histogram_cells(m.histogram) AS x) AS sum_s
        FROM bounds AS b) AS c
$$;
COMMENT ON FUNCTION kasm_latency.host_buckets(text) IS 'A histogram of each host since the last reset in the form of a Prometheus histogram: turnaround, server or rtt, in seconds';


/*
 * 8. The report
 */

CREATE FUNCTION kasm_latency.html(plain text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- nothing but ASCII, so that the page is right in whatever encoding it is written
    SELECT coalesce(string_agg(CASE c WHEN '&' THEN '&amp;' WHEN '<' THEN '&lt;' WHEN '>' THEN '&gt;'
                                      WHEN '"' THEN '&quot;' WHEN '''' THEN '&#39;'
                                      ELSE CASE WHEN c BETWEEN ' ' AND '~' COLLATE "C" THEN c
                                                WHEN current_setting('server_encoding') = 'UTF8' THEN '&#' || ascii(c) || ';'
                                                ELSE '?' END
                               END, '' ORDER BY place), '')
    FROM unnest(string_to_array(plain, NULL)) WITH ORDINALITY AS u (c, place)
$$;
COMMENT ON FUNCTION kasm_latency.html(text) IS 'Text for HTML, whatever is in it; nothing of NULL';

CREATE FUNCTION kasm_latency.axis_position(ms double precision)
RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the axis goes from 0.05 ms to 1 s
    SELECT round((100 * ln(least(greatest(ms, 0.05), 1000) / 0.05) / ln(1000 / 0.05))::numeric, 2)
$$;
COMMENT ON FUNCTION kasm_latency.axis_position(double precision) IS 'Where a latency lies on the report''s logarithmic axis, in percent';

CREATE FUNCTION kasm_latency.conclusion(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH hosts AS MATERIALIZED (
        SELECT i.*, kasm_latency.ms_text(i.rtt_ms) AS rtt, v.severity
        FROM kasm_latency.host_impact(since) AS i
        JOIN kasm_latency.verdicts AS v ON v.verdict = i.verdict
        WHERE i.judged AND i.verdict <> 'no_data'),
    counted AS (
        SELECT count(*) AS n,
               count(*) FILTER (WHERE h.severity = 'critical') AS far,
               count(*) FILTER (WHERE h.severity = 'warning') AS doubtful,
               string_agg(h.host || ' (' || h.rtt || ')', ', ' ORDER BY h.rtt_ms DESC)
                   FILTER (WHERE h.severity = 'critical') AS far_hosts,
               string_agg(h.host, ', ' ORDER BY h.host)
                   FILTER (WHERE h.severity = 'warning') AS doubtful_hosts
        FROM hosts AS h),
    worst AS (
        SELECT h.* FROM hosts AS h
        WHERE h.severity = 'critical' ORDER BY h.rtt_ms DESC LIMIT 1)
    SELECT CASE
        WHEN c.n = 0 THEN 'Nothing was measured in the span.'
        WHEN c.far > 0 THEN
            format('%s too far from the database: %s. ',
                   CASE WHEN c.n = 1 THEN 'The one host measured is' WHEN c.far = 1 THEN format('1 of %s hosts is', c.n)
                        ELSE format('%s of %s hosts are', c.far, c.n) END, c.far_hosts)
            || format('A launch of %s queries in a row takes %s from %s, and would take %s beside the database.',
                      coalesce(w.chain_p50, 10), kasm_latency.ms_text(w.launch_ms), w.host,
                      kasm_latency.ms_text(w.launch_ms_colocated))
            || CASE WHEN c.doubtful > 0 THEN ' In doubt: ' || c.doubtful_hosts || '.' ELSE '' END
        WHEN c.doubtful > 0 THEN
            format('No host is proven to be too far from the database, but %s in doubt: %s.',
                   CASE c.doubtful WHEN 1 THEN 'one is' ELSE c.doubtful || ' are' END, c.doubtful_hosts)
        ELSE format('%s within %s of the database.',
                    CASE c.n WHEN 1 THEN 'The one host measured is' ELSE format('All %s hosts are', c.n) END,
                    kasm_latency.ms_text(kasm_latency.limit_ms()))
    END
    FROM counted AS c
    LEFT JOIN worst AS w ON true
$$;
COMMENT ON FUNCTION kasm_latency.conclusion(interval) IS 'All hosts in a sentence: what the report begins with';

CREATE FUNCTION kasm_latency.report_axis(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the verdict is told by a word and by the bar's pattern, not by colour alone
    SELECT '<div class="axis" role="list" aria-label="Round trip of each host">'
        || string_agg(format(
            '<div class="host" role="listitem"><div class="name"><b>%s</b> <span class="%s">%s</span></div>'
            '<div class="track" role="img" aria-label="%s">'
            '<i class="near" style="width:%s%%"></i>%s<i class="limit" style="left:%s%%"></i>%s%s</div></div>',
            kasm_latency.html(h.host), h.verdict, replace(h.verdict, '_', ' '),
            kasm_latency.html(format('round trip at least %s, typical turnaround %s',
                                     coalesce(kasm_latency.ms_text(h.rtt_ms), 'unknown'),
                                     coalesce(kasm_latency.ms_text(h.turnaround_p50_ms), 'unknown'))),
            kasm_latency.axis_position(l.ms), b.lines, kasm_latency.axis_position(l.ms),
            CASE WHEN h.rtt_ms IS NOT NULL THEN
                format('<i class="bar %s" style="left:%s%%;width:%s%%"></i>', h.verdict,
                       kasm_latency.axis_position(h.rtt_ms),
                       greatest(kasm_latency.axis_position(coalesce(h.turnaround_p95_ms, h.rtt_ms))
                                - kasm_latency.axis_position(h.rtt_ms), 1)) END,
            CASE WHEN h.turnaround_p50_ms IS NOT NULL THEN
                format('<i class="median" style="left:%s%%"></i>', kasm_latency.axis_position(h.turnaround_p50_ms)) END),
            '' ORDER BY h.place)
        || '<div class="host scale" aria-hidden="true"><div class="name"></div><div class="track">'
        || (SELECT string_agg(format('<span style="left:%s%%">%s</span>', kasm_latency.axis_position(t.ms), t.label), '')
            FROM (VALUES (0.1, '0.1'), (1, '1'), (5, '5'), (10, '10'), (100, '100 ms')) AS t (ms, label))
        || (SELECT string_agg(format('<small style="left:%s%%;width:%s%%">%s</small>', kasm_latency.axis_position(t.low),
                                     kasm_latency.axis_position(t.high) - kasm_latency.axis_position(t.low),
                                     kasm_latency.path_class(t.low)), '')
            FROM (VALUES (0.05, 1), (1, 5), (10, 100), (100, 1000)) AS t (low, high))
        || '</div></div></div>'
    FROM (SELECT s.*, row_number() OVER () AS place FROM kasm_latency.host_stats(since) AS s
          WHERE s.verdict <> 'no_data') AS h
    CROSS JOIN kasm_latency.limit_ms() AS l (ms)
    CROSS JOIN (SELECT string_agg(format('<i class="bound" style="left:%s%%"></i>', kasm_latency.axis_position(t.ms)), '') AS lines
                FROM unnest(ARRAY[1, 5, 10, 100]) AS t (ms)) AS b
$$;
COMMENT ON FUNCTION kasm_latency.report_axis(interval) IS 'Part of the report: the hosts on a logarithmic axis';

CREATE FUNCTION kasm_latency.report_costs(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '<div class="wide" role="region" aria-label="Cost of each host" tabindex="0"><table><thead><tr><th scope="col">Host'
        '<th scope="col">Verdict<th scope="col">Round trip<th scope="col">Exchanges<th scope="col">Lost to the distance'
        '<th scope="col">Transactions waited<th scope="col">Queries in a row<th scope="col">A launch takes'
        '<th scope="col">Beside the database</tr></thead><tbody>'
        || string_agg(format('<tr><th scope="row">%s<td>%s<td>%s<td>%s<td>%s s<td>%s s<td>%s<td>%s<td>%s</tr>',
               kasm_latency.html(i.host), replace(i.verdict, '_', ' '), coalesce(kasm_latency.ms_text(i.rtt_ms), '&ndash;'),
               i.round_trips, i.network_s, i.in_transaction_wait_s, coalesce(i.chain_p50::text, '&ndash;'),
               coalesce(kasm_latency.ms_text(i.launch_ms), '&ndash;'),
               coalesce(kasm_latency.ms_text(i.launch_ms_colocated), '&ndash;')), '' ORDER BY i.place)
        || '</tbody></table></div>'
    FROM (SELECT c.*, row_number() OVER () AS place FROM kasm_latency.host_impact(since) AS c
          WHERE c.verdict <> 'no_data') AS i
$$;
COMMENT ON FUNCTION kasm_latency.report_costs(interval) IS 'Part of the report: what the distance costs, as a table';

CREATE FUNCTION kasm_latency.report_distributions(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('<h3>%s</h3><div class="spread">%s</div>', kasm_latency.html(w.host), d.bars), '' ORDER BY w.place)
    FROM (SELECT s.host, row_number() OVER () AS place FROM kasm_latency.host_stats(since) AS s
          WHERE s.turnaround_p50_ms IS NOT NULL LIMIT 3) AS w
    CROSS JOIN LATERAL (
        SELECT string_agg(format('<div><span>%s</span><span class="count"><i style="width:%s%%"></i></span><span>%s %%</span></div>',
                                 kasm_latency.ms_text(x.from_ms), round(100 * x.count / max_count),
                                 round((100 * x.share)::numeric, 1)), '' ORDER BY x.from_ms) AS bars
        FROM (SELECT c.*, max(c.count) OVER () AS max_count
              FROM kasm_latency.histogram('turnaround', w.host, since) AS c WHERE c.count > 0) AS x) AS d
    WHERE d.bars IS NOT NULL
$$;
COMMENT ON FUNCTION kasm_latency.report_distributions(interval) IS 'Part of the report: how the turnarounds of the three worst hosts are spread';

CREATE FUNCTION kasm_latency.report_history()
RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH bounds AS (SELECT now() - interval '7 days' AS first_at),
    steps AS (
        SELECT h.host, s.step, max(h.rtt_ms) AS rtt_ms
        FROM bounds AS b
        JOIN kasm_latency.history AS h ON h.taken_at >= b.first_at AND h.rtt_ms IS NOT NULL
        CROSS JOIN LATERAL (
            SELECT floor(300 * extract(epoch FROM h.taken_at - b.first_at) / (7 * 86400))::integer AS step) AS s
        GROUP BY h.host, s.step),
    lines AS (
        SELECT s.host, max(s.rtt_ms) AS worst_ms, count(*) AS n, row_number() OVER (ORDER BY max(s.rtt_ms) DESC, s.host) AS place,
               string_agg(format('%s,%s', s.step, 100 - kasm_latency.axis_position(s.rtt_ms)), ' ' ORDER BY s.step) AS points,
               (array_agg(s.step ORDER BY s.step DESC))[1] AS last_step,
               (array_agg(s.rtt_ms ORDER BY s.step DESC))[1] AS last_ms
        FROM steps AS s
        GROUP BY s.host
        ORDER BY max(s.rtt_ms) DESC, s.host
        LIMIT 6)
    SELECT '<div class="past"><svg viewBox="0 0 300 100" preserveAspectRatio="none" role="img" '
        'aria-label="Round trip of the hosts below over the last seven days">'
        || (SELECT string_agg(format('<line class="%s" x1="0" x2="300" y1="%s" y2="%s"/>',
                                     CASE WHEN t.ms = kasm_latency.limit_ms() THEN 'limitline' ELSE 'grid' END,
                                     100 - kasm_latency.axis_position(t.ms), 100 - kasm_latency.axis_position(t.ms)), '')
            FROM (SELECT unnest(ARRAY[0.1, 1, 10, 100]::double precision[]) UNION SELECT kasm_latency.limit_ms()) AS t (ms))
        -- a line of one step would be invisible
        || string_agg(format('<polyline class="line line%s" points="%s%s"/>', l.place, l.points,
                             CASE l.n WHEN 1 THEN format(' %s,%s', l.last_step + 1, 100 - kasm_latency.axis_position(l.last_ms))
                                      ELSE '' END), '' ORDER BY l.place)
        || '</svg>'
        || (SELECT string_agg(format('<span class="y" style="top:%s%%">%s</span>', 100 - kasm_latency.axis_position(t.ms), t.label), '')
            FROM (VALUES (0.1, '0.1'), (1, '1'), (10, '10'), (100, '100 ms')) AS t (ms, label))
        || '</div><p class="x"><span>7 days ago</span><span>now</span></p><ul class="legend">'
        || string_agg(format('<li><svg viewBox="0 0 30 6" aria-hidden="true"><line class="line line%s" x1="0" x2="30" y1="3" y2="3"/></svg>'
                             '%s: now %s, at worst %s', l.place, kasm_latency.html(l.host), kasm_latency.ms_text(l.last_ms),
                             kasm_latency.ms_text(l.worst_ms)), '' ORDER BY l.place)
        || '</ul>'
    FROM lines AS l
$$;
COMMENT ON FUNCTION kasm_latency.report_history() IS 'Part of the report: the round trip of the six farthest hosts over seven days; NULL without history';

CREATE FUNCTION kasm_latency.report_remedies(since interval)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('<article><h3>%s <span class="%s">%s</span></h3><p>%s</p><p><b>What to do:</b> %s</p></article>',
                             kasm_latency.html(f.host), f.verdict, replace(f.verdict, '_', ' '),
                             kasm_latency.html(f.reason), kasm_latency.html(f.remedy)), '' ORDER BY f.place)
    FROM (SELECT x.*, row_number() OVER () AS place FROM kasm_latency.flagged_hosts(since) AS x) AS f
$$;
COMMENT ON FUNCTION kasm_latency.report_remedies(interval) IS 'Part of the report: reasons and remedies of the flagged hosts; NULL where there are none';

CREATE FUNCTION kasm_latency.report(since interval DEFAULT NULL)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO'
AS $$
    SELECT $page$<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Distance to the database</title>
<style>
:root { color-scheme: light dark; --ink: #1a1c20; --paper: #fff; --soft: #5a6069; --rule: #d5d9df; --near: #e4f1fa;
        --good: #0072b2; --bad: #b34700; --doubt: #8a5a00; --calm: #5a6069 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --paper: #16181c; --soft: #a7aeb8; --rule: #3a3f47; --near: #1b2c38;
          --good: #56b4e9; --bad: #ff9457; --doubt: #e6b34d; --calm: #a7aeb8 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem } h3 { font-size: 1rem; margin: 1rem 0 .3rem }
.when, figcaption, .note { color: var(--soft); font-size: .875rem; margin: .3rem 0 }
.conclusion { font-size: 1.25rem; border-left: .3rem solid var(--ink); padding-left: .8rem; margin: 1rem 0 }
.host { display: grid; grid-template-columns: minmax(8rem, 16rem) 1fr; gap: .2rem 1rem; padding: .3rem 0; border-top: 1px solid var(--rule) }
.name span, h3 span { font-size: .875rem; font-weight: normal; white-space: nowrap }
.track { position: relative; height: 1.5rem; min-width: 0 }
.track i { position: absolute; top: .2rem; bottom: .2rem }
.track .near { left: 0; top: 0; bottom: 0; background: var(--near) }
.track .bound { width: 0; top: 0; bottom: 0; border-left: 1px solid var(--rule) }
.track .limit { width: 0; top: 0; bottom: 0; border-left: 2px dashed var(--soft) }
.track .median { width: 0; top: 0; bottom: 0; border-left: 3px solid var(--ink) }
.scale { border: 0 } .scale .track { height: 3.4rem }
.scale small { position: absolute; top: 1.3rem; text-align: center; font-size: .7rem; line-height: 1.1; color: var(--soft); overflow-wrap: normal }
.scale .track span { position: absolute; transform: translateX(-50%); font-size: .8rem; color: var(--soft); white-space: nowrap }
.bar { background: var(--calm) }
.bar.in_band { background: var(--good) }
.bar.out_of_band { background: repeating-linear-gradient(45deg, var(--bad) 0 6px, var(--paper) 6px 8px); outline: 1px solid var(--bad) }
.bar.unproven, .bar.unexpected_client { background: repeating-linear-gradient(90deg, var(--doubt) 0 3px, var(--paper) 3px 6px); outline: 1px solid var(--doubt) }
span.in_band { color: var(--good) } span.out_of_band { color: var(--bad); font-weight: bold }
span.unproven, span.unexpected_client { color: var(--doubt); font-weight: bold }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; width: 100% }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; overflow-wrap: normal }
td { white-space: nowrap }
th { font-weight: 600 } th[scope="row"] { min-width: 7rem } th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left }
.spread div { display: grid; grid-template-columns: 4.5rem 1fr 4rem; gap: .5rem; font-size: .875rem; font-variant-numeric: tabular-nums }
.spread span:first-child, .spread span:last-child { text-align: right } .count i { display: block; height: 1em; margin-top: .25em; background: var(--good); min-width: 1px }
.past { position: relative; height: 14rem; margin-left: 3.5rem; border-left: 1px solid var(--rule); border-bottom: 1px solid var(--rule) }
.past svg { width: 100%; height: 100%; display: block } .past .y { position: absolute; right: 100%; margin-right: .4rem; transform: translateY(-50%); font-size: .8rem; color: var(--soft); white-space: nowrap }
.grid { stroke: var(--rule) } .limitline { stroke: var(--soft); stroke-dasharray: 6 4 } .grid, .limitline, .line { vector-effect: non-scaling-stroke }
.line { fill: none; stroke-width: 2; stroke: var(--bad) } .line2 { stroke: var(--good); stroke-dasharray: 8 3 } .line3 { stroke: var(--doubt); stroke-dasharray: 2 3 }
.line4 { stroke: var(--ink); stroke-dasharray: 10 3 2 3 } .line5 { stroke: var(--soft); stroke-dasharray: 5 5 } .line6 { stroke: var(--good); stroke-dasharray: 1 5 }
.x { display: flex; justify-content: space-between; margin: .2rem 0 0 3.5rem; font-size: .8rem; color: var(--soft) }
.legend { list-style: none; padding: 0; margin: .5rem 0; font-size: .9rem } .legend svg { width: 30px; height: 6px; margin-right: .5rem }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px }
@media (max-width: 36rem) { .host { grid-template-columns: 1fr } }
@media print { @page { size: A4; margin: 1.5cm } body { padding: 0; font-size: 11pt } .wide { overflow: visible } table { font-size: 8pt }
  th, td { padding: .2rem } .host, article, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact } }
</style></head><body>
<h1>Distance to the database</h1>
<p class="when">$page$
        || kasm_latency.html(format('Measured by kasm_latency over the last %s minutes up to %s, in database %s.',
               ceil(extract(epoch FROM coalesce(since, kasm_latency.recent())) / 60), to_char(now(), 'YYYY-MM-DD HH24:MI TZ'), current_database()))
        || '</p><p class="conclusion">' || kasm_latency.html(kasm_latency.conclusion(since)) || '</p>'
        || coalesce('<h2>How far each host is</h2><figure style="margin:0">' || kasm_latency.report_axis(since)
               || '<figcaption>Each bar goes from the fastest round trip that the kernel saw (nobody is nearer) to what 95 % of the '
                  'turnarounds inside transactions took at most; the tick is their median. The shaded side of the dashed line is '
                  'within the limit. The axis is logarithmic.</figcaption></figure>', '')
        || coalesce('<h2>What the distance costs</h2>' || kasm_latency.report_costs(since)
               || '<p class="note">A launch is as many queries in a row as were counted on the host (ten where none were), each paying the '
                  'round trip and the median server time; beside the database a round trip takes 0.5 ms.</p>', '')
        || '<h2>What to do</h2>' || coalesce(kasm_latency.report_remedies(since), '<p>Nothing: no host is flagged.</p>')
        || '<h2>Over time</h2>' || coalesce(kasm_latency.report_history(),
               '<p>There is no history of the last seven days. Schedule <code>SELECT kasm_latency.snapshot()</code>.</p>')
        || coalesce('<h2>How turnarounds are spread</h2>' || kasm_latency.report_distributions(since), '')
        || '</body></html>'
$$;
COMMENT ON FUNCTION kasm_latency.report(interval) IS 'A self-contained HTML page of all this, to hand over';


/*
 * 9. Who may do what.  Client addresses are sensitive: PUBLIC gets nothing.
 */

REVOKE ALL ON SCHEMA kasm_latency FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA kasm_latency FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA kasm_latency FROM PUBLIC;
GRANT USAGE ON SCHEMA kasm_latency TO pg_read_all_stats;
GRANT SELECT ON ALL TABLES IN SCHEMA kasm_latency TO pg_read_all_stats;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kasm_latency TO pg_read_all_stats;
REVOKE EXECUTE ON FUNCTION
    kasm_latency.reset(),
    kasm_latency.reset(inet),
    kasm_latency.register_host(inet, text, text, text),
    kasm_latency.forget_host(inet),
    kasm_latency.snapshot(),
    kasm_latency.prune(interval)
FROM pg_read_all_stats;
