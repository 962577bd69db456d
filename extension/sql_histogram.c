/*-------------------------------------------------------------------------
 *
 * sql_histogram.c
 *		Histograms in SQL: a bytea that only the functions here look into.
 *
 * They are immutable functions of their arguments, and know nothing of shared
 * memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"

#include "compat.h"
#include "histogram.h"
#include "queue.h"
#include "sql_histogram.h"
#include "sql_row.h"

PG_FUNCTION_INFO_V1(kasm_latency_merge_transition);
PG_FUNCTION_INFO_V1(kasm_latency_merge_final);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_ms);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_whole);
PG_FUNCTION_INFO_V1(kasm_latency_count_from);
PG_FUNCTION_INFO_V1(kasm_latency_count_below);
PG_FUNCTION_INFO_V1(kasm_latency_part_from);
PG_FUNCTION_INFO_V1(kasm_latency_sum_s);
PG_FUNCTION_INFO_V1(kasm_latency_histogram_cells);
PG_FUNCTION_INFO_V1(kasm_latency_pool_times);

/*
 * A histogram's form outside: the sum of what it counts, in microseconds or
 * NO_SUM (eight bytes, in the machine's order); then its cells that are not
 * empty, each as its number (a byte) and its count (seven bits a byte, the
 * lowest first, all bytes but the last with the highest bit set).  Reading all
 * clients holds thousands of them at once, so they are short.
 */
typedef struct Histogram
{
	int64 sum_us;
	uint64 counts[HISTOGRAM_CELLS];
} Histogram;

#define COUNT_BITS 7
#define COUNT_MORE 0x80
#define CELL_MAX_SIZE (1 + (64 + COUNT_BITS - 1) / COUNT_BITS)

bytea *
histogram_out(const uint64 *counts, int n_cells, int64 sum_us)
{
	unsigned char body[sizeof(int64) + HISTOGRAM_CELLS * CELL_MAX_SIZE];
	unsigned char *at = body + sizeof(int64);
	bytea *result;

	memcpy(body, &sum_us, sizeof(int64));
	for (int i = 0; i < n_cells; i++)
	{
		uint64 count = counts[i];

		if (count == 0)
			continue;
		*at++ = (unsigned char) i;
		for (; count >= COUNT_MORE; count >>= COUNT_BITS)
			*at++ = (unsigned char) (count | COUNT_MORE);
		*at++ = (unsigned char) count;
	}
	result = palloc(VARHDRSZ + (at - body));
	SET_VARSIZE(result, VARHDRSZ + (at - body));
	memcpy(VARDATA(result), body, at - body);
	return result;
}

/* a cell's count; false if it is cut off, or longer than a count can be */
static bool
read_count(const unsigned char **at, const unsigned char *end, uint64 *count)
{
	*count = 0;
	for (int shift = 0; *at < end && shift < 64; shift += COUNT_BITS)
	{
		unsigned char byte = *(*at)++;

		*count |= (uint64) (byte & ~COUNT_MORE) << shift;
		if ((byte & COUNT_MORE) == 0)
			return true;
	}
	return false;
}

/* add what histogram_out() has written; false if that is something else */
static bool
read_histogram(Histogram *histogram, const unsigned char *at, Size size)
{
	const unsigned char *end = at + size;
	int64 sum_us;

	if (size < sizeof(int64))
		return size == 0;
	memcpy(&sum_us, at, sizeof(int64));
	if (sum_us < 0 || histogram->sum_us == NO_SUM)
		histogram->sum_us = NO_SUM;
	else
		histogram->sum_us = (int64) ((uint64) histogram->sum_us + sum_us);
	at += sizeof(int64);
	while (at < end)
	{
		unsigned char cell = *at++;
		uint64 count;

		if (!read_count(&at, end, &count))
			return false;
		histogram->counts[cell] += count;
	}
	return true;
}

static void
histogram_add(Histogram *histogram, const bytea *data)
{
	if (!read_histogram(histogram, (const unsigned char *) VARDATA_ANY(data),
						VARSIZE_ANY_EXHDR(data)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("this is not a histogram of kasm_latency")));
}

/* the argument's histogram */
static void
histogram_argument(FunctionCallInfo fcinfo, int number, Histogram *histogram)
{
	memset(histogram, 0, sizeof(Histogram));
	histogram_add(histogram, PG_GETARG_BYTEA_PP(number));
}

/*
 * Aggregate over histograms: their sum.  NULLs add nothing.
 */
Datum
kasm_latency_merge_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	Histogram *histogram;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "merge_transition called outside of an aggregate");
	if (PG_ARGISNULL(0))
		histogram = MemoryContextAllocZero(context, sizeof(Histogram));
	else
		histogram = (Histogram *) PG_GETARG_POINTER(0);
	if (!PG_ARGISNULL(1))
		histogram_add(histogram, PG_GETARG_BYTEA_PP(1));
	PG_RETURN_POINTER(histogram);
}

Datum
kasm_latency_merge_final(PG_FUNCTION_ARGS)
{
	const Histogram *histogram;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	histogram = (const Histogram *) PG_GETARG_POINTER(0);
	PG_RETURN_BYTEA_P(
		histogram_out(histogram->counts, HISTOGRAM_CELLS, histogram->sum_us));
}

static double
fraction_argument(FunctionCallInfo fcinfo, int number)
{
	double fraction = PG_GETARG_FLOAT8(number);

	if (!(fraction >= 0 && fraction <= 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("fraction must be between 0 and 1")));
	return fraction;
}

/*
 * A percentile in milliseconds; NULL of an empty histogram.
 */
Datum
kasm_latency_percentile_ms(PG_FUNCTION_ARGS)
{
	Histogram histogram;
	double us;

	histogram_argument(fcinfo, 0, &histogram);
	us = histogram_percentile(histogram.counts, fraction_argument(fcinfo, 1),
							  histogram.sum_us);
	if (us < 0)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(rint(us) / 1000.0);
}

/*
 * A percentile of whole numbers, not of latencies.
 */
Datum
kasm_latency_percentile_whole(PG_FUNCTION_ARGS)
{
	Histogram histogram;
	int64 number;

	histogram_argument(fcinfo, 0, &histogram);
	number = histogram_percentile_whole(histogram.counts,
										fraction_argument(fcinfo, 1));
	if (number < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) number);
}

/*
 * The first cell whose values all lie at or above that many milliseconds; or,
 * not above, the one past the last whose values all lie below.
 */
static int
cell_limit(double ms, bool above)
{
	double us = rint(ms * 1000.0);
	int cut = us <= 0 ? 0 : (int) histogram_cell((uint64) Min(us, 1e15));

	/* if it begins there, it lies above as a whole */
	if (above && (double) histogram_cell_start(cut) < us)
		cut++;
	return cut;
}

static int64
count_cells(const uint64 *counts, int first, int end)
{
	uint64 total = 0;

	for (int i = first; i < end; i++)
		total += counts[i];
	return (int64) total;
}

/*
 * How many lie surely at or above that many milliseconds, or surely below: of
 * a cell that it cuts through nobody knows.
 */
Datum
kasm_latency_count_from(PG_FUNCTION_ARGS)
{
	Histogram histogram;

	histogram_argument(fcinfo, 0, &histogram);
	PG_RETURN_INT64(count_cells(histogram.counts,
								cell_limit(PG_GETARG_FLOAT8(1), true),
								HISTOGRAM_CELLS));
}

Datum
kasm_latency_count_below(PG_FUNCTION_ARGS)
{
	Histogram histogram;

	histogram_argument(fcinfo, 0, &histogram);
	PG_RETURN_INT64(count_cells(histogram.counts, 0,
								cell_limit(PG_GETARG_FLOAT8(1), false)));
}

/*
 * The part of a histogram that lies surely at or above that many
 * milliseconds.  Its sum is what the others, taken as in the middles of their
 * cells, leave of the whole.
 */
Datum
kasm_latency_part_from(PG_FUNCTION_ARGS)
{
	Histogram histogram;
	int first = cell_limit(PG_GETARG_FLOAT8(1), true);

	histogram_argument(fcinfo, 0, &histogram);
	if (histogram.sum_us != NO_SUM)
		histogram.sum_us =
			Max(histogram.sum_us -
					histogram_middle_sum(histogram.counts, 0, first - 1),
				0);
	memset(histogram.counts, 0, first * sizeof(uint64));
	PG_RETURN_BYTEA_P(
		histogram_out(histogram.counts, HISTOGRAM_CELLS, histogram.sum_us));
}

/*
 * The sum of what a histogram counts, in seconds; NULL where it is not known.
 */
Datum
kasm_latency_sum_s(PG_FUNCTION_ARGS)
{
	Histogram histogram;

	histogram_argument(fcinfo, 0, &histogram);
	if (histogram.sum_us == NO_SUM)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8((double) histogram.sum_us / 1e6);
}

/*
 * The cells from the first to the last that is not empty: from, to (NULL: no
 * upper bound), count.
 */
Datum
kasm_latency_histogram_cells(PG_FUNCTION_ARGS)
{
	Histogram histogram;
	const uint64 *counts = histogram.counts;
	int first = 0;
	int last = HISTOGRAM_CELLS - 1;
	Row row = { .n = 0 };

	compat_init_materialized_srf(fcinfo);
	histogram_argument(fcinfo, 0, &histogram);
	while (first <= last && counts[first] == 0)
		first++;
	while (last >= first && counts[last] == 0)
		last--;
	for (int i = first; i <= last; i++)
	{
		add_value(&row, Float8GetDatum(histogram_cell_start(i) / 1000.0));
		if (i + 1 < HISTOGRAM_CELLS)
			add_value(&row,
					  Float8GetDatum(histogram_cell_start(i + 1) / 1000.0));
		else
			add_null(&row);
		add_count(&row, counts[i]);
		put_row(fcinfo, &row);
	}
	return (Datum) 0;
}

/* steps in which a distribution is taken apart for a simulation */
#define QUANTILES 250

/*
 * How long launches hold a connection, from short to long, where each of their
 * exchanges takes gain_us less than it did: the mean.  -1 of empty histograms.
 *
 * The longest are taken to have the most exchanges.  What is left when the gain
 * is taken off may be a thirtieth of what was measured, and then the width of a
 * cell is more than the whole of it.  So a launch is taken to last as long as
 * the mean exchange does, times its exchanges, as far as its cell allows; and
 * what comes out has the mean that the exact sums have.
 */
static double
service_times(const Histogram *durations, const Histogram *lengths,
			  double mean_length, double gain_us, double *service_us)
{
	double us[QUANTILES];
	double length[QUANTILES];
	double mean_us = 0;
	double length_found = 0;
	double left_us = 0;
	int64 n = count_cells(durations->counts, 0, HISTOGRAM_CELLS);

	if (n == 0 || count_cells(lengths->counts, 0, HISTOGRAM_CELLS) == 0)
		return -1;
	for (int i = 0; i < QUANTILES; i++)
	{
		double fraction = (i + 0.5) / QUANTILES;

		us[i] = histogram_percentile(durations->counts, fraction,
									 durations->sum_us);
		length[i] =
			(double) histogram_percentile_whole(lengths->counts, fraction);
		mean_us += us[i] / QUANTILES;
		length_found += length[i] / QUANTILES;
	}
	if (durations->sum_us > 0)
		mean_us = (double) durations->sum_us / (double) n;

	for (int i = 0; i < QUANTILES; i++)
	{
		int cell = (int) histogram_cell((uint64) us[i]);

		/* of long ones the cell's lowest is known */
		length[i] *= mean_length / length_found;
		if (cell + 1 < HISTOGRAM_CELLS)
			us[i] = Min(Max(length[i] * mean_us / mean_length,
							(double) histogram_cell_start(cell)),
						(double) histogram_cell_start(cell + 1));
		/* a launch that waits for nothing still takes a while */
		service_us[i] = Max(us[i] - gain_us * length[i], 1);
		left_us += service_us[i] / QUANTILES;
	}
	mean_us = Max(mean_us - gain_us * mean_length, 1);
	for (int i = 0; i < QUANTILES; i++)
		service_us[i] *= mean_us / left_us;
	return mean_us;
}

/*
 * pool_times(durations, lengths bytea, mean_length, gain_ms, launches_per_s
 * float8, pool integer): how long launches take, their wait for a connection of
 * the pool included, where so many arrive and each exchange takes gain_ms less:
 * median and 95th percentile.  No row of empty histograms; NULLs where the pool
 * cannot carry that.
 */
Datum
kasm_latency_pool_times(PG_FUNCTION_ARGS)
{
	Histogram durations;
	Histogram lengths;
	double mean_length = PG_GETARG_FLOAT8(2);
	double gain_us = PG_GETARG_FLOAT8(3) * 1000.0;
	double arrivals_per_us = PG_GETARG_FLOAT8(4) / 1e6;
	int pool = PG_GETARG_INT32(5);
	double service_us[QUANTILES];
	double mean_us;
	QueueTimes times;
	Row row = { .n = 0 };

	if (pool < 1 || pool > QUEUE_MAX_POOL || !(arrivals_per_us >= 0))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("pool must be between 1 and %d, and arrivals "
							   "not negative",
							   QUEUE_MAX_POOL)));
	if (!(mean_length >= 1))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a chain has one exchange at least")));
	compat_init_materialized_srf(fcinfo);
	histogram_argument(fcinfo, 0, &durations);
	histogram_argument(fcinfo, 1, &lengths);
	mean_us =
		service_times(&durations, &lengths, mean_length, gain_us, service_us);
	if (mean_us < 0)
		return (Datum) 0;

	add_value(&row, Float8GetDatum(mean_us / 1000.0));
	if (arrivals_per_us > 0 && mean_us * arrivals_per_us < pool)
	{
		times = queue_simulate(service_us, QUANTILES, arrivals_per_us, pool);
		add_value(&row, Float8GetDatum(rint(times.p50_us) / 1000.0));
		add_value(&row, Float8GetDatum(rint(times.p95_us) / 1000.0));
	}
	else
	{
		add_null(&row);
		add_null(&row);
	}
	put_row(fcinfo, &row);
	return (Datum) 0;
}
