/*
 * Names: what a client's host is called, which role it has, where it is.  The two
 * tables are ours, and dumped with the extension; nothing here but
 * import_kasm_hosts() ever looks at a table of somebody else's.  Uses settings
 * (checks of arguments).
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

CREATE FUNCTION kasm_latency_internal.plain_network(network inet)
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
COMMENT ON FUNCTION kasm_latency_internal.plain_network(inet) IS 'The network of an address, IPv4 where it is mapped into IPv6';

CREATE FUNCTION kasm_latency.register_host(
    network inet, host text, role text DEFAULT 'webapp', zone text DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF network IS NULL THEN
        PERFORM kasm_latency_internal.refuse('network must not be null');
    ELSIF coalesce(btrim(host), '') = '' THEN
        PERFORM kasm_latency_internal.refuse('host must not be null or empty');
    ELSIF host ~ '[[:cntrl:]]' OR zone ~ '[[:cntrl:]]' THEN
        PERFORM kasm_latency_internal.refuse('host and zone must not contain control characters');
    ELSIF length(host) > 255 OR length(zone) > 255 THEN
        PERFORM kasm_latency_internal.refuse('host and zone must not be longer than 255 characters');
    ELSIF role IS NULL OR role NOT IN ('webapp', 'proxy', 'agent', 'admin', 'monitor') THEN
        PERFORM kasm_latency_internal.refuse('role must be webapp, proxy, agent, admin or monitor');
    END IF;
    INSERT INTO kasm_latency.host_registry AS r (network, host, role, zone)
    VALUES (kasm_latency_internal.plain_network(register_host.network), btrim(register_host.host),
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
        PERFORM kasm_latency_internal.refuse('network must not be null');
    END IF;
    DELETE FROM kasm_latency.host_registry AS r
    WHERE r.network = kasm_latency_internal.plain_network(forget_host.network);
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION kasm_latency.forget_host(inet) IS 'Forget the name of an address or range; false if it had none of its own';

CREATE FUNCTION kasm_latency_internal.host_of(
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
COMMENT ON FUNCTION kasm_latency_internal.host_of(inet, text) IS 'Name, role and zone of a client: as registered, else the name that the server resolved, else the address';

CREATE FUNCTION kasm_latency_internal.plain_rows(relation text, column1 text, column2 text, OUT value1 text, OUT value2 text)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE ROWS 20
AS 'MODULE_PATHNAME', 'kasm_latency_plain_rows';
COMMENT ON FUNCTION kasm_latency_internal.plain_rows(text, text, text) IS 'Two columns of a plain table of the schema public, read so that nothing of its owner''s runs; up to a thousand rows';

CREATE FUNCTION kasm_latency_internal.read_kasm_hosts(notices boolean)
RETURNS TABLE (host text, zone text)
LANGUAGE plpgsql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    -- whoever reads runs this: so not by a query of these tables
    RETURN QUERY
        SELECT DISTINCT regexp_replace(m.value1, '[[:cntrl:]]', '?', 'g'), regexp_replace(z.value2, '[[:cntrl:]]', '?', 'g')
        FROM kasm_latency_internal.plain_rows('managers', 'manager_hostname', 'zone_id') AS m
        LEFT JOIN kasm_latency_internal.plain_rows('zones', 'zone_id', 'zone_name') AS z ON z.value1 = m.value2
        WHERE m.value1 <> ''
        ORDER BY 1, 2;
EXCEPTION WHEN OTHERS THEN
    IF notices THEN
        RAISE NOTICE 'kasm_latency: no host names from Kasm''s own tables: %', SQLERRM;
    END IF;
END
$$;
COMMENT ON FUNCTION kasm_latency_internal.read_kasm_hosts(boolean) IS 'What kasm_hosts() returns; says why there is nothing, if asked to';

CREATE FUNCTION kasm_latency.kasm_hosts()
RETURNS TABLE (host text, zone text)
LANGUAGE sql VOLATILE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT * FROM kasm_latency_internal.read_kasm_hosts(true)
$$;
COMMENT ON FUNCTION kasm_latency.kasm_hosts() IS 'Names and zones of Web Apps from Kasm''s own tables; nothing, and a notice, where these cannot be read';
