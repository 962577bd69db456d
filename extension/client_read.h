/*-------------------------------------------------------------------------
 *
 * client_read.h
 *		What others read of the table of clients: copies.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLIENT_READ_H
#define KASM_LATENCY_CLIENT_READ_H

#include "postgres.h"

#include "client_table.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/* one client */
typedef struct ClientReading
{
	ClientKey key;
	bool overflow; /* the sum of those without an entry of their own */
	char hostname[CLIENT_HOSTNAME_LEN];
	WideFigures figures; /* and floors of live connections */
	uint64 connections;	 /* alive in the span: ended in it, or not yet */
	/* ceilings of the minutes after the floor's, or of its own while it runs */
	uint64 ceilings_since_floor[HISTOGRAM_CELLS];
	uint32 floor_us;		/* of the newest minute with a connect; 0 = none */
	uint32 newest_floor_us; /* of the newest connection alone */
	uint32 floor_age_minutes;
	uint32 turnaround_min_us; /* NO_MINIMUM = none */
	TimestampTz first_seen;
	TimestampTz last_seen;
	TimestampTz stats_since;
} ClientReading;

/* one live connection */
typedef struct ConnectionReading
{
	ClientKey key;
	char hostname[CLIENT_HOSTNAME_LEN];
	int pid;
	uint64 round_trips;
	uint32 floor_us;
	uint32 turnaround_min_us;
	TimestampTz connected_at;
	TimestampTz last_seen;
} ConnectionReading;

/* the whole */
typedef struct TableReading
{
	int clients;
	int max_clients;
	uint64 overflowed;
	Size shared_memory_bytes;
	TimestampTz stats_reset;
	TimestampTz saved_at; /* 0 = not read from a file */
} TableReading;

extern bool client_read(int index, int span_minutes, ClientReading *reading);
extern int connections_read(ConnectionReading **readings);
extern void table_read(TableReading *reading);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CLIENT_READ_H */
