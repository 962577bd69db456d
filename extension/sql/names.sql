/*
 * Names: what a client's host is called, which role it has, where it is.  The two
 * tables are ours, and dumped with the extension; nothing here but
 * import_kasm_hosts() ever looks at a table of somebody else's.  Uses settings
 * (checks of arguments).
 */

CREATE TABLE kasm_latency.host_registry (
    network cidr PRIMARY KEY,
    host text NOT NULL CHECK (length(host) <= 255),
    host_role text NOT NULL CHECK (host_role IN ('webapp', 'proxy', 'agent', 'admin', 'monitor', 'candidate')),
    zone text CHECK (length(zone) <= 255)
);
COMMENT ON TABLE kasm_latency.host_registry IS 'Names given to addresses and ranges by register_host; the longest prefix wins';
COMMENT ON COLUMN kasm_latency.host_registry.network IS 'Address or range; of several that hold an address the longest prefix wins';
COMMENT ON COLUMN kasm_latency.host_registry.host IS 'Name that the views show; several addresses of one name are one host';
COMMENT ON COLUMN kasm_latency.host_registry.host_role IS 'webapp, proxy, agent, admin, monitor or candidate; the last three are shown, never flagged';
COMMENT ON COLUMN kasm_latency.host_registry.zone IS 'Where it is, as the site calls it; NULL: see kasm_hosts';
SELECT pg_extension_config_dump('kasm_latency.host_registry', '');
CREATE INDEX host_registry_host ON kasm_latency.host_registry (lower(host));
COMMENT ON INDEX kasm_latency.host_registry_host IS 'For host_of(): is a name that was resolved a registered one';

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
    network inet, host text, host_role text DEFAULT 'webapp', zone text DEFAULT NULL)
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
    ELSIF host_role IS NULL OR host_role NOT IN ('webapp', 'proxy', 'agent', 'admin', 'monitor', 'candidate') THEN
        PERFORM kasm_latency_internal.refuse('host_role must be webapp, proxy, agent, admin, monitor or candidate');
    END IF;
    INSERT INTO kasm_latency.host_registry AS r (network, host, host_role, zone)
    VALUES (kasm_latency_internal.plain_network(register_host.network), btrim(register_host.host),
            register_host.host_role, register_host.zone)
    ON CONFLICT ON CONSTRAINT host_registry_pkey
    DO UPDATE SET host = excluded.host, host_role = excluded.host_role, zone = excluded.zone;
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

CREATE TABLE kasm_latency.kasm_hosts (
    host text NOT NULL CHECK (length(host) BETWEEN 1 AND 255 AND host !~ '[[:cntrl:]]'),
    zone text CHECK (length(zone) <= 255 AND zone !~ '[[:cntrl:]]')
);
COMMENT ON TABLE kasm_latency.kasm_hosts IS 'Names and zones of Web Apps, copied from Kasm''s own tables by import_kasm_hosts() or by hand';
COMMENT ON COLUMN kasm_latency.kasm_hosts.host IS 'Name of a Web App, from managers.manager_hostname of Kasm''s database';
COMMENT ON COLUMN kasm_latency.kasm_hosts.zone IS 'Its zone, from zones.zone_name of Kasm''s database: for hosts that are registered without one, or not at all; NULL: it has none';
SELECT pg_extension_config_dump('kasm_latency.kasm_hosts', '');
CREATE INDEX kasm_hosts_host ON kasm_latency.kasm_hosts (lower(host));
COMMENT ON INDEX kasm_latency.kasm_hosts_host IS 'For host_of(): the zone of a name';

CREATE FUNCTION kasm_latency.import_kasm_hosts()
RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wanted record;
    relation regclass;
    imported integer;
    elsewhere CONSTANT text := 'Kasm''s tables are in Kasm''s own database, as a rule kasm. To copy them from there into this one, '
        'see "Kasm''s names" in docs/operations.md.';
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES ('managers', 'manager_hostname'), ('managers', 'zone_id'),
                              ('zones', 'zone_id'), ('zones', 'zone_name')) AS v (relation, attribute)
    LOOP
        relation := to_regclass(format('public.%I', wanted.relation));
        IF relation IS NULL THEN
            RAISE EXCEPTION 'there is no table public.% in this database', wanted.relation
                USING ERRCODE = 'undefined_table', HINT = elsewhere;
        ELSIF NOT EXISTS (SELECT FROM pg_attribute AS a
                          WHERE a.attrelid = relation AND a.attname = wanted.attribute
                            AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION 'table public.% has no column %', wanted.relation, wanted.attribute
                USING ERRCODE = 'undefined_column',
                      HINT = 'This is not a table as Kasm is known to have it. Names and zones can be given by hand: '
                             'see kasm_latency.register_host.';
        ELSIF NOT has_column_privilege(relation, wanted.attribute, 'SELECT') THEN
            RAISE EXCEPTION 'role % may not read public.%', current_user, wanted.relation
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('Let another role call this, or GRANT SELECT ON public.managers, public.zones TO %I.',
                                    current_user);
        END IF;
    END LOOP;

    -- one at a time; who reads the views is not held up
    LOCK TABLE kasm_latency.kasm_hosts IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM kasm_latency.kasm_hosts;
    -- whoever calls this runs it, and so what Kasm's role may have put in the place
    -- of these tables: a DBA does so once, and no view ever
    INSERT INTO kasm_latency.kasm_hosts (host, zone)
    SELECT DISTINCT ON (lower(k.host)) k.host, k.zone
    FROM (SELECT regexp_replace(left(btrim(m.manager_hostname::text), 255), '[[:cntrl:]]', '?', 'g') AS host,
                 regexp_replace(left(z.zone_name::text, 255), '[[:cntrl:]]', '?', 'g') AS zone
          FROM public.managers AS m
          LEFT JOIN public.zones AS z ON z.zone_id::text = m.zone_id::text) AS k
    WHERE k.host <> ''
    ORDER BY lower(k.host), k.zone NULLS LAST, k.host;
    GET DIAGNOSTICS imported = ROW_COUNT;
    RETURN imported;
END
$$;
COMMENT ON FUNCTION kasm_latency.import_kasm_hosts() IS 'Copy names and zones of Web Apps from Kasm''s own tables in this database into kasm_hosts, in the place of what is there, as whoever calls; returns how many it found';

CREATE FUNCTION kasm_latency_internal.host_of(
    client_addr inet, resolved_name text, OUT host text, OUT host_role text, OUT zone text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    resolved text := resolved_name;
    names text[];
BEGIN
    SELECT h.host, h.host_role, h.zone INTO host, host_role, zone
    FROM kasm_latency.host_registry AS h
    WHERE h.network >>= client_addr
    ORDER BY masklen(h.network) DESC
    LIMIT 1;
    IF NOT FOUND THEN
        -- A name is whatever the owner of the address's reverse DNS says: it must not
        -- pass for a registered host, another address, or a row of ours like [local].
        IF resolved IS NOT NULL
           AND (resolved ~ '^[[(]|^[0-9.]+$|:'
                OR EXISTS (SELECT FROM kasm_latency.host_registry AS h WHERE lower(h.host) = lower(resolved))) THEN
            resolved := NULL;
        END IF;
        host := coalesce(resolved, host(client_addr), '[local]');
        host_role := 'webapp';
    END IF;
    IF zone IS NULL THEN
        -- a zone that nobody registered, by the name that Kasm has for the host
        names := ARRAY[lower(resolved), lower(split_part(resolved, '.', 1)), lower(host), host(client_addr)];
        SELECT k.zone INTO zone
        FROM kasm_latency.kasm_hosts AS k
        WHERE lower(k.host) = ANY (names) AND k.zone IS NOT NULL
        ORDER BY array_position(names, lower(k.host)), k.zone
        LIMIT 1;
    END IF;
END
$$;
COMMENT ON FUNCTION kasm_latency_internal.host_of(inet, text) IS 'Name, role and zone of a client: as registered, else the name that the server resolved, else the address; a zone that is not registered is that of kasm_hosts';
