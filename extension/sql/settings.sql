/*
 * Settings as SQL values, and checks of arguments.  A setting is NULL where the
 * library is not loaded; the raw figures then refuse with a hint.  Uses nothing.
 */

CREATE FUNCTION kasm_latency_internal.limit_ms()
RETURNS double precision
LANGUAGE c STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_limit_ms';
COMMENT ON FUNCTION kasm_latency_internal.limit_ms() IS 'The setting kasm_latency.rtt_limit, in milliseconds';

CREATE FUNCTION kasm_latency_internal.recent()
RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET intervalstyle = postgres
AS $$
    SELECT current_setting('kasm_latency.recent', true)::interval
$$;
COMMENT ON FUNCTION kasm_latency_internal.recent() IS 'The setting kasm_latency.recent: the span that the views cover';

CREATE FUNCTION kasm_latency_internal.min_samples()
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT current_setting('kasm_latency.min_samples', true)::bigint
$$;
COMMENT ON FUNCTION kasm_latency_internal.min_samples() IS 'The setting kasm_latency.min_samples';

CREATE FUNCTION kasm_latency_internal.app_roles()
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
COMMENT ON FUNCTION kasm_latency_internal.app_roles() IS 'The setting kasm_latency.app_roles: database roles whose clients are judged; NULL means all';

CREATE FUNCTION kasm_latency_internal.refuse(message text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING MESSAGE = message, ERRCODE = 'invalid_parameter_value';
END
$$;
COMMENT ON FUNCTION kasm_latency_internal.refuse(text) IS 'Raises an error about an argument';

CREATE FUNCTION kasm_latency_internal.argument(name text, value double precision)
RETURNS double precision
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value = 'NaN' THEN kasm_latency_internal.refuse(name || ' must not be NaN')::double precision
                WHEN value < 0 THEN kasm_latency_internal.refuse(name || ' must not be negative')::double precision
                ELSE value END
$$;
COMMENT ON FUNCTION kasm_latency_internal.argument(text, double precision) IS 'An argument that is a time, or an error that names it';

CREATE FUNCTION kasm_latency_internal.argument(name text, value integer)
RETURNS integer
LANGUAGE sql VOLATILE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN value <= 0 THEN kasm_latency_internal.refuse(name || ' must be greater than zero')::integer
                ELSE value END
$$;
COMMENT ON FUNCTION kasm_latency_internal.argument(text, integer) IS 'An argument that counts something, or an error that names it';
