/*-------------------------------------------------------------------------
 *
 * client_table.h
 *		The table of clients in shared memory: one entry per (address,
 *		database, role).
 *
 * For the files that work on the table.  See client_table.c for memory and
 * locking; others see client_mine.h and client_read.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLIENT_TABLE_H
#define KASM_LATENCY_CLIENT_TABLE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/lwlock.h"

#include "minutes.h"
#include "slot.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/* a host name that the server resolved, cut there */
#define CLIENT_HOSTNAME_LEN 256

#define NO_ENTRY (-1)
#define NO_SLOT (-1)

typedef struct ClientKey
{
	uint8 family; /* 0 = Unix-domain socket, else 4 or 6 */
	uint8 address[16];
	Oid database;
	Oid role;
} ClientKey;

typedef struct ClientIdentity
{
	ClientKey key;
	char hostname[CLIENT_HOSTNAME_LEN];
	TimestampTz first_seen;
	TimestampTz last_seen;
	TimestampTz stats_since;
	uint32 far_logged_minute;  /* when that was logged; under the table lock */
	uint32 floor_us;		   /* lowest of the newest minute with a connect */
	uint32 floor_minute;	   /* that minute */
	uint32 newest_floor_us;	   /* of the newest connection alone */
	int64 newest_connected_us; /* when that was made, as minutes count */
} ClientIdentity;

typedef struct ClientEntry
{
	bool used;
	uint32 hash;
	int next;		   /* in the hash chain, if used */
	int live;		   /* slots in the list; such an entry stays */
	int first_slot;	   /* list of live slots */
	int room_next;	   /* in the list of those that can make room: with the */
	int room_previous; /* room lock */
	ClientIdentity identity;
} ClientEntry;

typedef struct ClientTable
{
	int max_clients;
	int n_slots;
	int n_buckets; /* a power of two */
	int n_used;
	int room_first; /* free entries, then those unseen for longest */
	int room_last;
	int64 clock_offset_us; /* of the minutes' clock */
	uint64 overflowed;	   /* clients that made room, or found none */
	TimestampTz stats_reset;
	TimestampTz saved_at; /* 0 = not read from a file */
	bool save_file_there; /* and is still there: see savefile.c */
} ClientTable;

/* The same in every process; NULL where the library was not preloaded. */
extern ClientTable *client_table;
extern ClientEntry *client_entries; /* max_clients, and the overflow */
extern History *client_histories;	/* as many */

/* the last entry: the sum of clients that have none of their own */
#define OVERFLOW_ENTRY (client_table->max_clients)

/* at start */
extern Size client_table_size(void);
extern int client_table_lock_count(void);
extern bool client_table_startup(void);
extern void client_table_clear(void);

/* the rest: callers hold the locks that client_table.c tells of */
extern LWLock *client_table_lock(void);
extern LWLock *client_lock(int index);
extern Slot *client_slot(int number);
extern Baseline *client_baseline(int number);
extern uint32 client_hash(const ClientKey *key);
extern int client_find(const ClientKey *key, uint32 hash);
extern int client_find_or_make(const ClientKey *key, uint32 hash,
							   TimestampTz now);
extern int client_next_to_make_room(int index);
extern int client_find_room(void);
extern void client_link(int index);
extern void client_unlink(int index);
extern void client_link_slot(int index, int number);
extern void client_unlink_slot(int index, int number);
extern void client_note_floor(ClientIdentity *identity, const Slot *slot);
extern void client_note_seen(ClientIdentity *identity, const Slot *slot);
extern void client_forget_floor(ClientIdentity *identity);
extern bool client_same_address(const ClientKey *a, const ClientKey *b);
extern void client_key_set_address(ClientKey *key, bool ipv4,
								   const unsigned char *address);

/* takes the locks itself */
extern TimestampTz client_table_reset(const ClientKey *address_of);

static inline bool
client_table_ready(void)
{
	return client_table != NULL;
}

/* how many entries there are to read, used or not */
static inline int
client_table_capacity(void)
{
	return client_table->max_clients + 1;
}

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CLIENT_TABLE_H */
