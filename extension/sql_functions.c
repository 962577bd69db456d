/*-------------------------------------------------------------------------
 *
 * sql_functions.c
 *		Shared memory to rows, and nothing else: what it means is judged in
 *		the install script.
 *
 * Latencies leave here in milliseconds, rounded to whole microseconds; a
 * histogram as a bytea of its cells that are not empty, which only the
 * functions here look into.
 *
 * Entries are copied under their locks (clients.c) and turned into rows
 * after, as making rows can fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"

#include "clients.h"
#include "compat.h"
#include "histogram.h"
#include "kasm_latency.h"

PG_FUNCTION_INFO_V1(kasm_latency_client_figures);
PG_FUNCTION_INFO_V1(kasm_latency_live_connections);
PG_FUNCTION_INFO_V1(kasm_latency_server_info);
PG_FUNCTION_INFO_V1(kasm_latency_reset);
PG_FUNCTION_INFO_V1(kasm_latency_reset_address);
PG_FUNCTION_INFO_V1(kasm_latency_merge_transition);
PG_FUNCTION_INFO_V1(kasm_latency_merge_final);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_ms);
PG_FUNCTION_INFO_V1(kasm_latency_percentile_whole);
PG_FUNCTION_INFO_V1(kasm_latency_count_from);
PG_FUNCTION_INFO_V1(kasm_latency_count_below);
PG_FUNCTION_INFO_V1(kasm_latency_limit_ms);
PG_FUNCTION_INFO_V1(kasm_latency_histogram_cells);

#define MAX_COLUMNS 40

/* one row in the making */
typedef struct Row
{
	Datum values[MAX_COLUMNS];
	bool nulls[MAX_COLUMNS];
	int n;
} Row;

static void
require_loaded(void)
{
	if (clients_ready())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("kasm_latency must be loaded via "
					"shared_preload_libraries"),
			 errhint("Add the line \"shared_preload_libraries = "
					 "'kasm_latency'\" to postgresql.conf and restart the "
					 "server.")));
}


/* ----------
 * Values
 * ----------
 */

static void
add_value(Row *row, Datum value)
{
	Assert(row->n < MAX_COLUMNS);
	row->nulls[row->n] = false;
	row->values[row->n++] = value;
}

static void
add_null(Row *row)
{
	Assert(row->n < MAX_COLUMNS);
	row->nulls[row->n] = true;
	row->values[row->n++] = (Datum) 0;
}

static void
add_count(Row *row, uint64 count)
{
	add_value(row, Int64GetDatum((int64) count));
}

/* microseconds to milliseconds; NULL if there is none */
static void
add_ms(Row *row, uint32 us, uint32 none)
{
	if (us == none)
		add_null(row);
	else
		add_value(row, Float8GetDatum(us / 1000.0));
}

static void
add_seconds(Row *row, uint64 us)
{
	add_value(row, Float8GetDatum(us / 1000000.0));
}

static void
add_time(Row *row, TimestampTz time)
{
	if (time == 0)
		add_null(row);
	else
		add_value(row, TimestampTzGetDatum(time));
}

/* the key, in three columns; a Unix-domain client has no address */
static void
add_key(Row *row, const ClientKey *key)
{
	if (key->family == 0)
		add_null(row);
	else
	{
		inet *address = (inet *) palloc0(sizeof(inet));

		ip_family(address) = key->family == 4 ? PGSQL_AF_INET : PGSQL_AF_INET6;
		ip_bits(address) = ip_maxbits(address);
		memcpy(ip_addr(address), key->address, ip_addrsize(address));
		SET_INET_VARSIZE(address);
		add_value(row, InetPGetDatum(address));
	}
	add_value(row, ObjectIdGetDatum(key->database));
	add_value(row, ObjectIdGetDatum(key->role));
}

static void
add_hostname(Row *row, const char *hostname)
{
	if (hostname[0] == '\0')
		add_null(row);
	else
		add_value(row, CStringGetTextDatum(hostname));
}

static void
put_row(FunctionCallInfo fcinfo, Row *row)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (row->n != rsinfo->setDesc->natts)
		elog(ERROR, "function has %d columns, not %d", rsinfo->setDesc->natts,
			 row->n);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row->values,
						 row->nulls);
	row->n = 0;
}


/* ----------
 * Histograms
 * ----------
 */

/*
 * A histogram's form outside: its cells that are not empty, each as its
 * number (a byte) and its count (eight, in the machine's order).
 */
#define FILLED_CELL_SIZE (1 + sizeof(uint64))

static bytea *
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
static bytea *
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
 * The setting kasm_latency.rtt_limit: its text form is rounded, and not
 * always an interval.  NULL where it is not defined.
 */
Datum
kasm_latency_limit_ms(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	if (!clients_ready())
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(kasm_latency_rtt_limit);
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


/* ----------
 * Clients, connections, the whole
 * ----------
 */

/*
 * The span that an argument names, in minutes, rounded up.
 */
static int
span_argument(const Interval *since)
{
	double us = (double) since->time + (double) since->day * USECS_PER_DAY +
				(double) since->month * DAYS_PER_MONTH * USECS_PER_DAY;
	double minutes = ceil(us / USECS_PER_MINUTE);

	if (us <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("since must be greater than zero")));
	if (minutes > SPAN_MAX_MINUTES)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("since must not be longer than %d minutes",
							   SPAN_MAX_MINUTES),
						errhint("What lies further back is only in "
								"kasm_latency.totals.")));
	return (int) minutes;
}

static void
add_histogram(Row *row, bytea *histogram)
{
	add_value(row, PointerGetDatum(histogram));
}

/* a client's histograms, or as many NULLs */
static void
add_histograms(Row *row, const ClientReading *reading, bool wanted)
{
	const uint64 *cells = reading->figures.cells;

	if (!wanted)
	{
		for (int i = 0; i < 7; i++)
			add_null(row);
		return;
	}
	add_histogram(row,
				  histogram_out(reading->figures.floors, HISTOGRAM_CELLS));
	add_histogram(row, histogram_out(cells + CEILINGS_AT, HISTOGRAM_CELLS));
	add_histogram(row, coarse_histogram_out(cells + OTHERS_AT));
	add_histogram(row, histogram_out(cells + SERVER_AT, HISTOGRAM_CELLS));
	add_histogram(
		row, histogram_out(reading->ceilings_since_floor, HISTOGRAM_CELLS));
	add_histogram(row,
				  histogram_out(cells + CHAIN_LENGTHS_AT, CHAIN_LENGTH_CELLS));
	add_histogram(row,
				  histogram_out(cells + CHAIN_DURATIONS_AT, HISTOGRAM_CELLS));
}

/*
 * client_figures(since interval, histograms boolean): a row per client, of
 * its figures over a span; with NULL, since the last reset.  Without the
 * histograms, which are most of a row, these are NULL.
 */
Datum
kasm_latency_client_figures(PG_FUNCTION_ARGS)
{
	ClientReading *reading;
	Row row = { .n = 0 };
	int span = SPAN_SINCE_RESET;
	bool histograms = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);

	require_loaded();
	if (!PG_ARGISNULL(0))
		span = span_argument(PG_GETARG_INTERVAL_P(0));
	compat_init_materialized_srf(fcinfo);

	reading = palloc(sizeof(ClientReading));
	for (int i = 0; i < clients_capacity(); i++)
	{
		const WideFigures *figures = &reading->figures;

		CHECK_FOR_INTERRUPTS();
		if (!client_read(i, span, reading))
			continue;
		add_key(&row, &reading->key);
		add_hostname(&row, reading->hostname);
		add_value(&row, BoolGetDatum(reading->evicted));
		add_count(&row, reading->connections);
		add_count(&row, figures->connections_made);
		add_count(&row, figures->counters[ROUND_TRIPS]);
		add_count(&row, figures->counters[TRANSACTIONS]);
		add_count(&row, figures->counters[RETRANSMITS]);
		add_ms(&row, reading->floor_us, 0);
		add_ms(&row, reading->newest_floor_us, 0);
		if (reading->floor_us == 0)
			add_null(&row);
		else
			add_value(&row, Int32GetDatum(reading->floor_age_minutes));
		add_ms(&row, reading->turnaround_min_us, NO_MINIMUM);
		add_seconds(&row, figures->counters[NETWORK_US]);
		add_seconds(&row, figures->counters[SERVER_US]);
		add_seconds(&row, figures->counters[TURNAROUND_OPEN_US] +
							  figures->counters[TURNAROUND_IDLE_US]);
		add_seconds(&row, figures->counters[TURNAROUND_OPEN_US] +
							  figures->counters[IDLE_OPEN_US]);
		add_count(&row, figures->counters[CHAINS]);
		add_count(&row, figures->counters[CHAIN_ROUND_TRIPS]);
		add_seconds(&row, figures->counters[CHAIN_US]);
		add_seconds(&row, figures->counters[CHAIN_NETWORK_US]);
		add_seconds(&row, figures->counters[CHAIN_SERVER_US]);
		add_histograms(&row, reading, histograms);
		add_time(&row, reading->first_seen);
		add_time(&row, reading->last_seen);
		add_time(&row, reading->stats_since);
		put_row(fcinfo, &row);
	}
	return (Datum) 0;
}

/*
 * live_connections(): a row per client backend.
 */
Datum
kasm_latency_live_connections(PG_FUNCTION_ARGS)
{
	ConnectionReading *readings;
	Row row = { .n = 0 };
	int n;

	require_loaded();
	compat_init_materialized_srf(fcinfo);
	n = connections_read(&readings);
	for (int i = 0; i < n; i++)
	{
		const ConnectionReading *reading = &readings[i];

		add_value(&row, Int32GetDatum(reading->pid));
		add_key(&row, &reading->key);
		add_hostname(&row, reading->hostname);
		add_count(&row, reading->round_trips);
		add_ms(&row, reading->floor_us, 0);
		add_ms(&row, reading->turnaround_min_us, NO_MINIMUM);
		add_time(&row, reading->connected_at);
		add_time(&row, reading->last_seen);
		put_row(fcinfo, &row);
	}
	return (Datum) 0;
}

/*
 * server_info(): one row about the extension itself.
 */
Datum
kasm_latency_server_info(PG_FUNCTION_ARGS)
{
	ClientsInfo info;
	Row row = { .n = 0 };

	require_loaded();
	compat_init_materialized_srf(fcinfo);
	clients_info(&info);
	add_value(&row, CStringGetTextDatum(KASM_LATENCY_VERSION));
	add_count(&row, info.clients);
	add_count(&row, info.max_clients);
	add_count(&row, info.evicted);
	add_count(&row, info.shared_memory_bytes);
	add_time(&row, info.stats_reset);
	add_time(&row, info.saved_at);
	put_row(fcinfo, &row);
	return (Datum) 0;
}

/*
 * reset(): forget everything
 */
Datum
kasm_latency_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	require_loaded();
	PG_RETURN_TIMESTAMPTZ(clients_reset(NULL));
}

/*
 * reset_address(client_addr inet): forget the clients of one address; with
 * NULL, those by Unix-domain socket, which have none
 */
Datum
kasm_latency_reset_address(PG_FUNCTION_ARGS)
{
	ClientKey key;

	require_loaded();
	memset(&key, 0, sizeof(key));
	if (!PG_ARGISNULL(0))
	{
		const inet *address = PG_GETARG_INET_PP(0);

		if (ip_bits(address) != ip_maxbits(address))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("client_addr must be an address, not a network")));
		client_key_set_address(&key, ip_family(address) == PGSQL_AF_INET,
							   ip_addr(address));
	}
	PG_RETURN_TIMESTAMPTZ(clients_reset(&key));
}

#ifdef KASM_LATENCY_TEST

PG_FUNCTION_INFO_V1(kasm_latency_test_fill);

Datum
kasm_latency_test_fill(PG_FUNCTION_ARGS)
{
	require_loaded();
	clients_test_fill(PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}

#endif /* KASM_LATENCY_TEST */
