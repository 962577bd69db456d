/*
 * Histograms: outside C a histogram is a bytea that only these functions look
 * into.  Uses nothing.
 */

CREATE FUNCTION kasm_latency_internal.merge_transition(state internal, histogram bytea)
RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_merge_transition';
COMMENT ON FUNCTION kasm_latency_internal.merge_transition(internal, bytea) IS 'Transition function of merge_histograms';

CREATE FUNCTION kasm_latency_internal.merge_final(state internal)
RETURNS bytea
LANGUAGE c IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_merge_final';
COMMENT ON FUNCTION kasm_latency_internal.merge_final(internal) IS 'Final function of merge_histograms';

CREATE AGGREGATE kasm_latency_internal.merge_histograms(histogram bytea) (
    SFUNC = kasm_latency_internal.merge_transition,
    STYPE = internal,
    FINALFUNC = kasm_latency_internal.merge_final
);
COMMENT ON AGGREGATE kasm_latency_internal.merge_histograms(bytea) IS 'The sum of histograms';

CREATE FUNCTION kasm_latency_internal.percentile_ms(histogram bytea, fraction double precision)
RETURNS double precision
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_percentile_ms';
COMMENT ON FUNCTION kasm_latency_internal.percentile_ms(bytea, double precision) IS 'A percentile of a histogram in milliseconds; NULL of an empty one';

CREATE FUNCTION kasm_latency_internal.percentile_whole(histogram bytea, fraction double precision)
RETURNS integer
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_percentile_whole';
COMMENT ON FUNCTION kasm_latency_internal.percentile_whole(bytea, double precision) IS 'A percentile of a histogram of whole numbers; NULL of an empty one';

CREATE FUNCTION kasm_latency_internal.count_from(histogram bytea, ms double precision)
RETURNS bigint
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_count_from';
COMMENT ON FUNCTION kasm_latency_internal.count_from(bytea, double precision) IS 'How many of a histogram lie surely at or above that many milliseconds';

CREATE FUNCTION kasm_latency_internal.count_below(histogram bytea, ms double precision)
RETURNS bigint
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_count_below';
COMMENT ON FUNCTION kasm_latency_internal.count_below(bytea, double precision) IS 'How many of a histogram lie surely below that many milliseconds';

CREATE FUNCTION kasm_latency_internal.part_from(histogram bytea, ms double precision)
RETURNS bytea
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_part_from';
COMMENT ON FUNCTION kasm_latency_internal.part_from(bytea, double precision) IS 'The part of a histogram that lies surely at or above that many milliseconds';

CREATE FUNCTION kasm_latency_internal.sum_s(histogram bytea)
RETURNS double precision
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'kasm_latency_sum_s';
COMMENT ON FUNCTION kasm_latency_internal.sum_s(bytea) IS 'The sum of what a histogram counts, in seconds; NULL where it is not kept';

CREATE FUNCTION kasm_latency_internal.histogram_cells(
    histogram bytea,
    OUT from_ms double precision,
    OUT to_ms double precision,
    OUT count bigint)
RETURNS SETOF record
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE ROWS 30
AS 'MODULE_PATHNAME', 'kasm_latency_histogram_cells';
COMMENT ON FUNCTION kasm_latency_internal.histogram_cells(bytea) IS 'The cells of a histogram, from the first to the last that is not empty';

CREATE FUNCTION kasm_latency_internal.pool_times(
    durations bytea, lengths bytea, mean_length double precision, gain_ms double precision, launches_per_s double precision,
    pool integer,
    OUT held_ms double precision, OUT p50_ms double precision, OUT p95_ms double precision)
RETURNS SETOF record
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE ROWS 1 COST 1000000
AS 'MODULE_PATHNAME', 'kasm_latency_pool_times';
COMMENT ON FUNCTION kasm_latency_internal.pool_times(bytea, bytea, double precision, double precision, double precision, integer) IS 'How long a launch holds a connection in the mean, and how long it takes with its wait for one, simulated: chains of these durations and lengths, these of that exact mean, each gain_ms shorter by exchange, arriving at random; NULL where the pool cannot carry that';
