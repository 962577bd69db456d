/*
 * Raw figures: shared memory to rows, by functions in C, which are called by
 * position.  Nothing is judged or named here.  Uses nothing.
 */

CREATE FUNCTION kasm_latency_internal.client_figures(
    since interval,
    histograms boolean DEFAULT true,
    OUT client_addr inet,
    OUT database_oid oid,
    OUT role_oid oid,
    OUT resolved_name text,
    OUT overflow boolean,
    OUT connections bigint,
    OUT connections_made bigint,
    OUT round_trips bigint,
    OUT transactions bigint,
    OUT other_turnarounds bigint,
    OUT retransmits bigint,
    OUT rtt_ms double precision,
    OUT newest_rtt_ms double precision,
    OUT rtt_age_minutes integer,
    OUT turnaround_min_ms double precision,
    OUT network_s double precision,
    OUT server_s double precision,
    OUT turnaround_s double precision,
    OUT in_transaction_wait_s double precision,
    OUT lock_wait_s double precision,
    OUT made_others_wait_s double precision,
    OUT made_others_wait_for_client_s double precision,
    OUT chains bigint,
    OUT chain_round_trips bigint,
    OUT chain_s double precision,
    OUT chain_network_s double precision,
    OUT chain_server_s double precision,
    OUT rtts bytea,
    OUT ceilings bytea,
    OUT bounds bytea,
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
COMMENT ON FUNCTION kasm_latency_internal.client_figures(interval, boolean) IS 'Raw figures of each client over a span of up to an hour; with NULL, since the last reset';

CREATE FUNCTION kasm_latency_internal.live_connections(
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
COMMENT ON FUNCTION kasm_latency_internal.live_connections() IS 'Raw figures of each live client backend since it connected';

CREATE FUNCTION kasm_latency_internal.lock_pairs(
    since interval,
    OUT blocking_name text,
    OUT blocking_addr inet,
    OUT blocking_database_oid oid,
    OUT blocking_role_oid oid,
    OUT waiting_name text,
    OUT waiting_addr inet,
    OUT waiting_database_oid oid,
    OUT waiting_role_oid oid,
    OUT waited_s double precision,
    OUT waited_for_client_s double precision,
    OUT last_seen timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL SAFE ROWS 20
AS 'MODULE_PATHNAME', 'kasm_latency_lock_pairs';
COMMENT ON FUNCTION kasm_latency_internal.lock_pairs(interval) IS 'Who waited for whose locks over a span of up to an hour, and for how long; a name stands for who is not measured as a client';

CREATE FUNCTION kasm_latency_internal.server_info(
    OUT version text,
    OUT clients bigint,
    OUT max_clients bigint,
    OUT overflowed bigint,
    OUT shared_memory_bytes bigint,
    OUT stats_reset timestamptz,
    OUT saved_at timestamptz,
    OUT watcher_pid integer)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1
AS 'MODULE_PATHNAME', 'kasm_latency_server_info';
COMMENT ON FUNCTION kasm_latency_internal.server_info() IS 'One row about the extension itself; see the view info';

CREATE FUNCTION kasm_latency.reset()
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kasm_latency_reset';
COMMENT ON FUNCTION kasm_latency.reset() IS 'Forget all that was measured; returns the time';

CREATE FUNCTION kasm_latency_internal.reset_address(client_addr inet)
RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'kasm_latency_reset_address';
COMMENT ON FUNCTION kasm_latency_internal.reset_address(inet) IS 'Forget what was measured of one client address, or with NULL of the clients by Unix-domain socket; returns the time';
