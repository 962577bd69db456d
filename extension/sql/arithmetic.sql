/*
 * Arithmetic of latencies, and how they are written.  Pure: what is here looks at
 * its arguments alone.  Uses settings (checks of arguments).
 */

CREATE FUNCTION kasm_latency_internal.rounded(value double precision, digits integer)
RETURNS double precision
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value IN ('Infinity', '-Infinity', 'NaN') THEN value
                ELSE round(value::numeric, digits)::double precision END
$$;
COMMENT ON FUNCTION kasm_latency_internal.rounded(double precision, integer) IS 'A figure for a column, without digits that mean nothing';

CREATE FUNCTION kasm_latency_internal.ms_text(ms double precision)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT trim_scale(round(ms::numeric, CASE WHEN ms < 0.1 THEN 3 WHEN ms < 10 THEN 2 WHEN ms < 100 THEN 1 ELSE 0 END))
           || ' ms'
$$;
COMMENT ON FUNCTION kasm_latency_internal.ms_text(double precision) IS 'Milliseconds for a sentence: 0.42 ms, 12.5 ms, 118 ms';

CREATE FUNCTION kasm_latency_internal.colocated_ms()
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 0.5::double precision
$$;
COMMENT ON FUNCTION kasm_latency_internal.colocated_ms() IS 'Milliseconds that a round trip takes beside the database, in all that says what it would be like there';

CREATE FUNCTION kasm_latency_internal.pool_size()
RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 30
$$;
COMMENT ON FUNCTION kasm_latency_internal.pool_size() IS 'Connections that a Web App may have at once: SQLAlchemy''s pool as Kasm sets it up, pool_size 10 and max_overflow 20';

CREATE FUNCTION kasm_latency.path_class(rtt_ms double precision)
RETURNS text
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    -- the views ask for each client: argument() is called for its error alone
    SELECT CASE
        WHEN rtt_ms IS NULL THEN NULL
        WHEN rtt_ms = 'NaN' OR rtt_ms < 0 THEN kasm_latency_internal.argument('rtt_ms', rtt_ms)::text
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
    SELECT kasm_latency_internal.rounded(
        kasm_latency_internal.argument('queries', queries)
        * (kasm_latency_internal.argument('rtt_ms', rtt_ms) + kasm_latency_internal.argument('server_ms', server_ms)), 3)
$$;
COMMENT ON FUNCTION kasm_latency.launch_cost(integer, double precision, double precision) IS 'Milliseconds that so many sequential queries take: queries * (rtt_ms + server_ms)';

CREATE FUNCTION kasm_latency.launch_capacity(
    connections integer, queries integer, rtt_ms double precision, server_ms double precision DEFAULT 0)
RETURNS double precision
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.launch_ms = 0 THEN 'Infinity'
                ELSE kasm_latency_internal.rounded(c.connections * 1000.0 / c.launch_ms, 3) END
    FROM (SELECT kasm_latency_internal.argument('connections', connections) AS connections,
                 kasm_latency_internal.argument('queries', queries)
                 * (kasm_latency_internal.argument('rtt_ms', rtt_ms)
                    + kasm_latency_internal.argument('server_ms', server_ms)) AS launch_ms) AS c
$$;
COMMENT ON FUNCTION kasm_latency.launch_capacity(integer, integer, double precision, double precision) IS 'Launches per second that a pool of so many connections can carry at that distance';
