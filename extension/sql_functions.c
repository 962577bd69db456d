/*-------------------------------------------------------------------------
 *
 * sql_functions.c
 *		Shared memory to rows, and nothing else: what it means is judged in
 *		the install script.
 *
 * Latencies leave here in milliseconds, rounded to whole microseconds;
 * histograms in the form of sql_histogram.c.
 *
 * Entries are copied under their locks (client_read.c) and turned into rows
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

#include "client_read.h"
#include "collateral.h"
#include "compat.h"
#include "kasm_latency.h"
#include "savefile.h"
#include "sql_histogram.h"
#include "sql_row.h"
#include "workers.h"

PG_FUNCTION_INFO_V1(kasm_latency_client_figures);
PG_FUNCTION_INFO_V1(kasm_latency_live_connections);
PG_FUNCTION_INFO_V1(kasm_latency_lock_pairs);
PG_FUNCTION_INFO_V1(kasm_latency_server_info);
PG_FUNCTION_INFO_V1(kasm_latency_reset);
PG_FUNCTION_INFO_V1(kasm_latency_reset_address);
PG_FUNCTION_INFO_V1(kasm_latency_limit_ms);


static void
require_loaded(void)
{
	if (client_table_ready())
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
add_histogram(Row *row, const uint64 *counts, int n_cells, int64 sum_us)
{
	add_value(row, PointerGetDatum(histogram_out(counts, n_cells, sum_us)));
}

/* a client's histograms, or as many NULLs */
static void
add_histograms(Row *row, const ClientReading *reading, bool wanted)
{
	const uint64 *cells = reading->figures.cells;
	const uint64 *counters = reading->figures.counters;

	if (!wanted)
	{
		for (int i = 0; i < 7; i++)
			add_null(row);
		return;
	}
	add_histogram(row, reading->figures.floors, HISTOGRAM_CELLS, NO_SUM);
	add_histogram(row, cells + CEILINGS_AT, HISTOGRAM_CELLS,
				  counters[CEILINGS_US]);
	add_histogram(row, cells + BOUNDS_AT, HISTOGRAM_CELLS,
				  counters[BOUNDS_US]);
	add_histogram(row, cells + SERVER_AT, HISTOGRAM_CELLS,
				  counters[SERVER_US]);
	add_histogram(row, reading->ceilings_since_floor, HISTOGRAM_CELLS, NO_SUM);
	add_histogram(row, cells + CHAIN_LENGTHS_AT, CHAIN_LENGTH_CELLS, NO_SUM);
	add_histogram(row, cells + CHAIN_DURATIONS_AT, HISTOGRAM_CELLS,
				  counters[CHAIN_US]);
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
	MemoryContext row_context;
	MemoryContext old_context;

	require_loaded();
	if (!PG_ARGISNULL(0))
		span = span_argument(PG_GETARG_INTERVAL_P(0));
	compat_init_materialized_srf(fcinfo);

	reading = palloc(sizeof(ClientReading));

	/*
	 * What a row is made of is copied with it.  Fresh memory for each would
	 * cost more than to read the client.
	 */
	row_context = AllocSetContextCreate(CurrentMemoryContext,
										"kasm_latency client figures",
										ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(row_context);
	for (int i = 0; i < client_table_capacity(); i++)
	{
		const WideFigures *figures = &reading->figures;

		CHECK_FOR_INTERRUPTS();
		if (!client_read(i, span, reading))
			continue;
		add_key(&row, &reading->key);
		add_hostname(&row, reading->hostname);
		add_value(&row, BoolGetDatum(reading->overflow));
		add_count(&row, reading->connections);
		add_count(&row, figures->connections_made);
		add_count(&row, figures->counters[ROUND_TRIPS]);
		add_count(&row, figures->counters[TRANSACTIONS]);
		add_count(&row, figures->counters[OTHERS]);
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
		add_seconds(&row, figures->counters[CEILINGS_US] +
							  figures->counters[OTHERS_US]);
		add_seconds(&row, figures->counters[CEILINGS_US] +
							  figures->counters[OPEN_WAIT_US]);
		add_seconds(&row, figures->counters[LOCK_WAIT_US]);
		add_seconds(&row, figures->counters[MADE_WAIT_US]);
		add_seconds(&row, figures->counters[MADE_CLIENT_WAIT_US]);
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
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(row_context);
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

/* in four columns: a name for who is no client of ours, and a client's key */
static void
add_party(Row *row, const Party *party)
{
	static const char *const names[] = { [PARTY_OVERFLOW] = "(overflow)",
										 [PARTY_PREPARED] =
											 "(prepared transaction)",
										 [PARTY_OTHER] = "(other process)" };

	if (party->kind == PARTY_CLIENT)
		add_null(row);
	else
		add_value(row, CStringGetTextDatum(names[party->kind]));
	add_key(row, &party->key);
}

/*
 * lock_pairs(since interval): a row per blocking and waiting client of whom
 * the one waited for the other in the span.
 */
Datum
kasm_latency_lock_pairs(PG_FUNCTION_ARGS)
{
	PairReading *readings;
	Row row = { .n = 0 };
	int span = span_argument(PG_GETARG_INTERVAL_P(0));
	int n;

	require_loaded();
	compat_init_materialized_srf(fcinfo);
	n = collateral_read(span, &readings);
	for (int i = 0; i < n; i++)
	{
		const PairReading *reading = &readings[i];

		add_party(&row, &reading->blocking);
		add_party(&row, &reading->waiting);
		add_seconds(&row, reading->waited_us);
		add_seconds(&row, reading->waited_for_client_us);
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
	TableReading table;
	int pid;
	Row row = { .n = 0 };

	require_loaded();
	compat_init_materialized_srf(fcinfo);
	table_read(&table);
	add_value(&row, CStringGetTextDatum(KASM_LATENCY_VERSION));
	add_count(&row, table.clients);
	add_count(&row, table.max_clients);
	add_count(&row, table.overflowed);
	add_count(&row,
			  table.shared_memory_bytes + collateral_size() + workers_size());
	add_time(&row, table.stats_reset);
	add_time(&row, table.saved_at);
	pid = worker_pid(WATCHER);
	if (pid == 0)
		add_null(&row);
	else
		add_value(&row, Int32GetDatum(pid));
	put_row(fcinfo, &row);
	return (Datum) 0;
}

/*
 * The setting kasm_latency.rtt_limit: its text form is rounded, and not
 * always an interval.  NULL where it is not defined.
 */
Datum
kasm_latency_limit_ms(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	if (!client_table_ready())
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(kasm_latency_rtt_limit);
}

/*
 * reset(): forget everything
 */
Datum
kasm_latency_reset(PG_FUNCTION_ARGS)
{
	(void) fcinfo;
	require_loaded();
	savefile_used();
	collateral_reset(NULL);
	PG_RETURN_TIMESTAMPTZ(client_table_reset(NULL));
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
	savefile_used();
	collateral_reset(&key);
	PG_RETURN_TIMESTAMPTZ(client_table_reset(&key));
}
