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
#include "sql_histogram.h"
#include "sql_row.h"

PG_FUNCTION_INFO_V1(kasm_latency_merge_transition);
PG_FUNCTION_INFO_V1(kasm_latency_merge_final);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_ms);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_whole);
PG_FUNCTION_INFO_V1(kasm_latency_count_from);
PG_FUNCTION_INFO_V1(kasm_latency_count_below);
PG_FUNCTION_INFO_V1(kasm_latency_histogram_cells);

/*
 * A histogram's form outside: its cells that are not empty, each as its
 * number (a byte) and its count (eight, in the machine's order).
 */
#define FILLED_CELL_SIZE (1 + sizeof(uint64))

bytea *
histogram_out(const uint64 *counts, int n_cells)
{
	Size size = VARHDRSZ;
	bytea *result;
	char *at;

	for (int i = 0; i < n_cells; i++)
		if (counts[i] != 0)
			size += FILLED_CELL_SIZE;
	result = palloc(size);
	SET_VARSIZE(result, size);
	at = VARDATA(result);
	for (int i = 0; i < n_cells; i++)
	{
		if (counts[i] == 0)
			continue;
		*at++ = (char) i;
		memcpy(at, &counts[i], sizeof(uint64));
		at += sizeof(uint64);
	}
	return result;
}

/*
 * The same of a coarse histogram, in the form of any other: as values are
 * taken to be spread in a cell, half of them lie in each of its two.
 */
bytea *
coarse_histogram_out(const uint64 *counts)
{
	uint64 fine[HISTOGRAM_CELLS];

	for (int i = 0; i < COARSE_HISTOGRAM_CELLS; i++)
	{
		fine[2 * i] = (counts[i] + 1) / 2;
		fine[2 * i + 1] = counts[i] / 2;
	}
	return histogram_out(fine, HISTOGRAM_CELLS);
}

/* counts += what a bytea made by histogram_out() holds */
static void
histogram_add(uint64 *counts, const bytea *data)
{
	const char *at = VARDATA_ANY(data);
	Size size = VARSIZE_ANY_EXHDR(data);

	if (size % FILLED_CELL_SIZE != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("this is not a histogram of kasm_latency")));
	for (const char *end = at + size; at < end; at += FILLED_CELL_SIZE)
	{
		uint64 count;

		memcpy(&count, at + 1, sizeof(uint64));
		counts[(unsigned char) *at] += count;
	}
}

/* the argument's histogram, in an array that it is given */
static void
histogram_argument(FunctionCallInfo fcinfo, int number, uint64 *counts)
{
	memset(counts, 0, HISTOGRAM_CELLS * sizeof(uint64));
	histogram_add(counts, PG_GETARG_BYTEA_PP(number));
}

/*
 * Aggregate over histograms: their sum.  NULLs add nothing.
 */
Datum
kasm_latency_merge_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	uint64 *counts;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "merge_transition called outside of an aggregate");
	if (PG_ARGISNULL(0))
		counts =
			MemoryContextAllocZero(context, HISTOGRAM_CELLS * sizeof(uint64));
	else
		counts = (uint64 *) PG_GETARG_POINTER(0);
	if (!PG_ARGISNULL(1))
		histogram_add(counts, PG_GETARG_BYTEA_PP(1));
	PG_RETURN_POINTER(counts);
}

Datum
kasm_latency_merge_final(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(
		histogram_out((uint64 *) PG_GETARG_POINTER(0), HISTOGRAM_CELLS));
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
	uint64 counts[HISTOGRAM_CELLS];
	double us;

	histogram_argument(fcinfo, 0, counts);
	us = histogram_percentile(counts, fraction_argument(fcinfo, 1));
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
	uint64 counts[HISTOGRAM_CELLS];
	int64 number;

	histogram_argument(fcinfo, 0, counts);
	number = histogram_percentile_whole(counts, fraction_argument(fcinfo, 1));
	if (number < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) number);
}

/*
 * How many lie surely at or above that many milliseconds, or surely below:
 * of a cell that it cuts through nobody knows.
 */
static int64
count_side(FunctionCallInfo fcinfo, bool above)
{
	uint64 counts[HISTOGRAM_CELLS];
	double us = rint(PG_GETARG_FLOAT8(1) * 1000.0);
	uint64 total = 0;
	int cut; /* the cell that it lies in */

	histogram_argument(fcinfo, 0, counts);
	cut = us <= 0 ? 0 : (int) histogram_cell((uint64) Min(us, 1e15));
	if (above)
	{
		/* if it begins there, it lies above as a whole */
		if ((double) histogram_cell_start(cut) < us)
			cut++;
		for (int i = cut; i < HISTOGRAM_CELLS; i++)
			total += counts[i];
	}
	else
		for (int i = 0; i < cut; i++)
			total += counts[i];
	return (int64) total;
}

Datum
kasm_latency_count_from(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(count_side(fcinfo, true));
}

Datum
kasm_latency_count_below(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(count_side(fcinfo, false));
}

/*
 * The cells from the first to the last that is not empty: from, to (NULL: no
 * upper bound), count.
 */
Datum
kasm_latency_histogram_cells(PG_FUNCTION_ARGS)
{
	uint64 counts[HISTOGRAM_CELLS];
	int first = 0;
	int last = HISTOGRAM_CELLS - 1;
	Row row = { .n = 0 };

	compat_init_materialized_srf(fcinfo);
	histogram_argument(fcinfo, 0, counts);
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
