/*-------------------------------------------------------------------------
 *
 * clients.h
 *		The table of client entries: one per (address, database, role).
 *
 * See clients.c for memory and locking.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLIENTS_H
#define KASM_LATENCY_CLIENTS_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "slot.h"

/* not for other libraries: so that calls and variables need no table */
#pragma GCC visibility push(hidden)

/* the spans that can be read, in minutes */
#define SPAN_MAX_MINUTES 60
#define SPAN_SINCE_RESET 0

/* a host name that the server resolved, cut there */
#define CLIENT_HOSTNAME_LEN 256

typedef struct ClientKey
{
	uint8 family; /* 0 = Unix-domain socket, else 4 or 6 */
	uint8 address[16];
	Oid database;
	Oid role;
} ClientKey;

/* what was counted over a span, wide enough for any */
typedef struct WideFigures
{
	uint64 counters[N_COUNTERS];
	uint64 cells[N_CELLS];
	uint64 floors[HISTOGRAM_CELLS]; /* of the connections that ended */
	uint64 connections_made;
	uint64 connections_ended;
} WideFigures;

/* one client, as a reader gets it */
typedef struct ClientReading
{
	ClientKey key;
	bool evicted; /* the sum of those that had to make room */
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

/* one live connection, as a reader gets it */
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

typedef struct ClientsInfo
{
	int clients;
	int max_clients;
	uint64 evicted;
	Size shared_memory_bytes;
	TimestampTz stats_reset;
	TimestampTz saved_at; /* 0 = not read from a file */
} ClientsInfo;

/* at start */
extern Size clients_shmem_size(void);
extern int clients_lock_count(void);
extern bool clients_shmem_startup(void);
extern bool clients_ready(void);

/* the calling backend */
extern void client_attach(TimestampTz now, int64 monotonic_ns, uint32 floor_us,
						  uint32 retransmits);
extern void client_fold_if_free(int64 monotonic_ns);
extern void client_detach(void);
extern bool client_log_far_now(TimestampTz now);
extern void client_describe_mine(char *text, Size size);
extern int64 client_next_fold_ns;

/* readers */
extern int clients_capacity(void);
extern void client_key_set_address(ClientKey *key, bool ipv4,
								   const unsigned char *address);
extern bool client_read(int index, int span_minutes, ClientReading *reading);
extern int connections_read(ConnectionReading **readings);
extern void clients_info(ClientsInfo *info);
extern void clients_info_unlocked(ClientsInfo *info);
extern TimestampTz clients_reset(const ClientKey *address_of);

/*
 * The save file: in the postmaster, while no other process runs, and so
 * without locks.  A client's saved form is two chunks of fixed size.
 */
typedef struct ClientChunks
{
	const void *identity;
	const void *history;
} ClientChunks;

extern Size client_identity_size(void);
extern Size client_history_size(void);
extern bool client_chunks(int index, ClientChunks *chunks);
extern void client_restore(const ClientChunks *chunks);
extern void clients_restored(const ClientsInfo *info);
extern void clients_forget_all(void);
extern bool clients_any_live(void);

#ifdef KASM_LATENCY_TEST
extern void clients_test_fill(int n);
#endif

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CLIENTS_H */
