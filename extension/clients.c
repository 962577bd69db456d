/*-------------------------------------------------------------------------
 *
 * clients.c
 *		The table of client entries: minutes, folding, eviction, reading.
 *
 * A client is an (address, database, role).  Its entry holds an identity and
 * a history: totals since the last reset, and two rings that are filled at
 * once, of 16 one-minute and 13 five-minute cells.  A cell knows the number
 * of its minute, so a ring needs no sweeping: a cell is cleared when a newer
 * minute takes its place, and a reader skips those that are too old.
 *
 * Minutes are numbered by the monotonic clock, set against the wall clock
 * once at server start: they never step, and still mean the same after a
 * restart, so that the save file's cells age by themselves.
 *
 * Folding moves what a slot has gained since its baseline into the entry:
 * entry += slot - baseline; baseline = slot.  The owner of the slot does so
 * when a minute is over, if the lock is free at once, and at exit.  A reader
 * adds slot - baseline of the live slots itself.  So nothing is lost or
 * counted twice, whenever it looks, and a reset is exact: zero the entry,
 * baseline = slot.
 *
 * Memory: one allocation, sized at start; nothing is ever allocated later.
 * When all entries are taken, the one unseen for longest, of those without
 * a live connection, makes room: its totals are added to an entry of their
 * own (the last one), which sums include.  Where every entry has live
 * connections the newcomer is accounted in that entry too.
 *
 * Locking.  The table lock guards which key has which entry: the hash
 * chains, "used", and far_logged_hour.  Each entry has a lock of its own,
 * which guards everything else in it, its list of slots, and these slots'
 * links and baselines.  Who takes both takes the table lock first.  A key is
 * changed under both, so either suffices to read one.  Readers take one
 * entry's lock at a time, shared and never the table's, and copy out before
 * they do anything that could fail.  An exchange never waits for any of
 * these; a connect waits for another's search, for the reading of its entry,
 * and for a reset of everything.
 *
 * After a crash the postmaster makes the memory anew, and all of this with
 * it; no lock or list can be left half done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "common/hashfn.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "clients.h"
#include "clock.h"
#include "compat.h"
#include "kasm_latency.h"

#define MINUTE_CELLS 16
#define FIVE_CELLS 13
#define NO_ENTRY (-1)
#define NO_SLOT (-1)

typedef struct Cell
{
	uint32 number; /* of its minute, or of its five minutes; 0 = unused */
	uint32 turnaround_min_us;
	uint32 connections_made;
	uint32 connections_ended;
	Figures figures;
	uint32 floors[HISTOGRAM_CELLS]; /* of the connections that ended */
} Cell;

typedef struct ClientIdentity
{
	ClientKey key;
	char hostname[CLIENT_HOSTNAME_LEN];
	TimestampTz first_seen;
	TimestampTz last_seen;
	TimestampTz stats_since;
	uint32 floor_us;		   /* lowest of the newest minute with a connect */
	uint32 floor_minute;	   /* that minute */
	uint32 newest_floor_us;	   /* of the newest connection alone */
	int64 newest_connected_us; /* when that was made, as minutes count */
	uint32 far_logged_hour;	   /* under the table lock */
} ClientIdentity;

typedef struct ClientHistory
{
	WideFigures totals;
	Cell minutes[MINUTE_CELLS];
	Cell fives[FIVE_CELLS];
} ClientHistory;

typedef struct ClientEntry
{
	bool used;
	uint32 hash;
	int next;		/* in the hash chain, or in no list */
	int live;		/* slots in the list; such an entry stays */
	int first_slot; /* list of live slots */
	ClientIdentity identity;
} ClientEntry;

typedef struct ClientTable
{
	int max_clients;
	int n_slots;
	int n_buckets; /* a power of two */
	int n_used;
	int64 clock_offset_us; /* wall clock minus monotonic clock, at start */
	uint64 evicted;
	TimestampTz stats_reset;
	TimestampTz saved_at;
} ClientTable;

/* All of it lies in one allocation; these are the same in every process. */
static ClientTable *table = NULL;
static int *buckets;
static ClientEntry *entries;	 /* max_clients, and the evicted one */
static ClientHistory *histories; /* as many */
static char *slots;				 /* n_slots of SLOT_SIZE */
static char *baselines;			 /* n_slots of BASELINE_SIZE */
static LWLockPadded *locks;		 /* the table's, then the entries' */

/* when the calling backend's pending figures are due for folding */
int64 client_next_fold_ns = 0;

#define TABLE_LOCK (&locks[0].lock)
#define ENTRY_LOCK(i) (&locks[1 + (i)].lock)
#define EVICTED_ENTRY (table->max_clients)
#define SLOT(i) ((Slot *) (slots + (Size) (i) *SLOT_SIZE))
#define BASELINE(i) ((Baseline *) (baselines + (Size) (i) *BASELINE_SIZE))


/* ----------
 * Start
 * ----------
 */

static int
bucket_count(void)
{
	int n = 16;

	while (n < kasm_latency_max_clients)
		n *= 2;
	return n;
}

/*
 * Walk through the parts of the allocation; with base NULL, only add up.
 */
static Size
lay_out(char *base)
{
	Size size = 0;
	Size n_entries = (Size) kasm_latency_max_clients + 1;

#define PART(pointer, type, bytes)                                            \
	do                                                                        \
	{                                                                         \
		if (base)                                                             \
			pointer = (type) (base + size);                                   \
		size = add_size(size, TYPEALIGN(PG_CACHE_LINE_SIZE, bytes));          \
	} while (0)

	PART(table, ClientTable *, sizeof(ClientTable));
	PART(buckets, int *, mul_size(sizeof(int), bucket_count()));
	PART(entries, ClientEntry *, mul_size(sizeof(ClientEntry), n_entries));
	PART(histories, ClientHistory *,
		 mul_size(sizeof(ClientHistory), n_entries));
	PART(slots, char *, mul_size(SLOT_SIZE, MaxConnections));
	PART(baselines, char *, mul_size(BASELINE_SIZE, MaxConnections));
#undef PART

	return size;
}

Size
clients_shmem_size(void)
{
	return lay_out(NULL);
}

int
clients_lock_count(void)
{
	return 1 + kasm_latency_max_clients + 1;
}

/*
 * The clock by which minutes are numbered: that of the wall at the server's
 * start, and never set since.
 */
static int64
minutes_clock_us(int64 monotonic_ns)
{
	return monotonic_ns / 1000 + table->clock_offset_us;
}

static int64
minute_begins_ns(uint32 minute)
{
	return ((int64) minute * USECS_PER_MINUTE - table->clock_offset_us) * 1000;
}

static uint32
minute_of(int64 monotonic_ns)
{
	return (uint32) (minutes_clock_us(monotonic_ns) / USECS_PER_MINUTE);
}

/*
 * Make or find the allocation.  True if it was made, and so is empty.
 */
bool
clients_shmem_startup(void)
{
	bool found;
	char *base;

	base = ShmemInitStruct("kasm_latency", clients_shmem_size(), &found);
	lay_out(base);
	locks = GetNamedLWLockTranche("kasm_latency");
	if (found)
		return false;

	table->max_clients = kasm_latency_max_clients;
	table->n_slots = MaxConnections;
	table->n_buckets = bucket_count();
	table->clock_offset_us = GetCurrentTimestamp() - monotonic_now_ns() / 1000;
	for (int i = 0; i < table->n_slots; i++)
		slot_init(SLOT(i), BASELINE(i));
	clients_forget_all();
	return true;
}

bool
clients_ready(void)
{
	return table != NULL;
}

/*
 * Empty the table.  Only while no other process uses it.
 */
void
clients_forget_all(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < table->n_buckets; i++)
		buckets[i] = NO_ENTRY;
	memset(entries, 0, sizeof(ClientEntry) * (table->max_clients + 1));
	memset(histories, 0, sizeof(ClientHistory) * (table->max_clients + 1));
	for (int i = 0; i <= table->max_clients; i++)
		entries[i].first_slot = NO_SLOT;
	entries[EVICTED_ENTRY].identity.stats_since = now;
	table->n_used = 0;
	table->evicted = 0;
	table->stats_reset = now;
	table->saved_at = 0;
}


/* ----------
 * Adding up
 * ----------
 */

/* to += slot - baseline; 32-bit cells may have wrapped, differences not */
static void
add_difference(WideFigures *to, const Figures *now, const Figures *before)
{
	for (int i = 0; i < N_COUNTERS; i++)
		to->counters[i] += now->counters[i] - before->counters[i];
	for (int i = 0; i < N_CELLS; i++)
		to->cells[i] += (uint32) (now->cells[i] - before->cells[i]);
}

static void
add_difference_to_cell(Cell *cell, const Figures *now, const Figures *before)
{
	for (int i = 0; i < N_COUNTERS; i++)
		cell->figures.counters[i] += now->counters[i] - before->counters[i];
	for (int i = 0; i < N_CELLS; i++)
		cell->figures.cells[i] += now->cells[i] - before->cells[i];
}

static void
add_cell(WideFigures *to, const Cell *cell)
{
	static const Figures none;

	add_difference(to, &cell->figures, &none);
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		to->floors[i] += cell->floors[i];
	to->connections_made += cell->connections_made;
	to->connections_ended += cell->connections_ended;
}

static void
add_wide(WideFigures *to, const WideFigures *from)
{
	for (int i = 0; i < N_COUNTERS; i++)
		to->counters[i] += from->counters[i];
	for (int i = 0; i < N_CELLS; i++)
		to->cells[i] += from->cells[i];
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		to->floors[i] += from->floors[i];
	to->connections_made += from->connections_made;
	to->connections_ended += from->connections_ended;
}

/*
 * The ring's cell of that number, cleared if it held an older one; NULL if a
 * newer one has its place already.
 */
static Cell *
ring_cell(Cell *ring, int n_cells, uint32 number)
{
	Cell *cell = &ring[number % n_cells];

	if (cell->number == number)
		return cell;
	if (cell->number > number)
		return NULL;
	memset(cell, 0, sizeof(Cell));
	cell->number = number;
	cell->turnaround_min_us = NO_MINIMUM;
	return cell;
}

static void
minute_cells(ClientHistory *history, uint32 minute, Cell *cells[2])
{
	cells[0] = ring_cell(history->minutes, MINUTE_CELLS, minute);
	cells[1] = ring_cell(history->fives, FIVE_CELLS, minute / 5);
}

/*
 * Take a connection's floor into its client's.  A client's floor is that of
 * the newest minute in which a connection was made: the kernel's minimum is
 * sticky, so an old connection may still show a path that is no more.  That
 * of the newest connection alone is kept too, for when both are of one minute.
 * May be called again for a connection, whose floor can only have fallen.
 */
static void
note_floor(ClientIdentity *identity, const Slot *slot)
{
	uint32 us = slot->floor_us;

	if (us == 0)
		return;
	if (identity->floor_us == 0 ||
		slot->connected_minute > identity->floor_minute)
	{
		identity->floor_us = us;
		identity->floor_minute = slot->connected_minute;
	}
	else if (slot->connected_minute == identity->floor_minute)
		identity->floor_us = Min(identity->floor_us, us);

	if (slot->connected_us >= identity->newest_connected_us)
	{
		identity->newest_floor_us = us;
		identity->newest_connected_us = slot->connected_us;
	}
}

/*
 * Fold the calling backend's slot into its client.  Caller holds the entry's
 * lock exclusively.
 */
static void
fold(int index)
{
	ClientEntry *entry = &entries[index];
	ClientHistory *history = &histories[index];
	Cell *cells[2];

	minute_cells(history, MySlot->minute, cells);
	for (int i = 0; i < 2; i++)
	{
		/* idle for so long that the minute is gone: only to the totals */
		if (cells[i] == NULL)
			continue;
		add_difference_to_cell(cells[i], &MySlot->figures,
							   &MyBaseline->figures);
		if (MySlot->epoch == MyBaseline->epoch)
			cells[i]->turnaround_min_us =
				Min(cells[i]->turnaround_min_us, MySlot->pending_min_us);
	}
	add_difference(&history->totals, &MySlot->figures, &MyBaseline->figures);
	memcpy(&MyBaseline->figures, &MySlot->figures, sizeof(Figures));

	if (index != EVICTED_ENTRY)
		note_floor(&entry->identity, MySlot);
	if (entry->identity.last_seen < MySlot->last_seen)
		entry->identity.last_seen = MySlot->last_seen;
}


/* ----------
 * The calling backend
 * ----------
 */

/*
 * Set a key's address, normalised: an IPv4 address mapped into IPv6 is that
 * IPv4 address.
 */
void
client_key_set_address(ClientKey *key, bool ipv4, const unsigned char *address)
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (!ipv4 && memcmp(address, mapped, sizeof(mapped)) == 0)
	{
		ipv4 = true;
		address += sizeof(mapped);
	}
	key->family = ipv4 ? 4 : 6;
	memcpy(key->address, address, ipv4 ? 4 : 16);
}

/*
 * The key of the calling backend's client.
 */
static void
my_key(ClientKey *key)
{
	const struct sockaddr_storage *address = &MyProcPort->raddr.addr;

	memset(key, 0, sizeof(ClientKey));
	key->database = MyDatabaseId;
	key->role = MyProc->roleId;

	if (address->ss_family == AF_INET)
		client_key_set_address(
			key, true,
			(const unsigned char *) &((const struct sockaddr_in *) address)
				->sin_addr);
	else if (address->ss_family == AF_INET6)
		client_key_set_address(
			key, false,
			(const unsigned char *) &((const struct sockaddr_in6 *) address)
				->sin6_addr);
}

/* the entry of a key, or NO_ENTRY; caller holds the table lock */
static int
find_entry(const ClientKey *key, uint32 hash)
{
	for (int i = buckets[hash & (table->n_buckets - 1)]; i != NO_ENTRY;
		 i = entries[i].next)
		if (entries[i].hash == hash &&
			memcmp(&entries[i].identity.key, key, sizeof(ClientKey)) == 0)
			return i;
	return NO_ENTRY;
}

static void
link_entry(int index)
{
	int *bucket = &buckets[entries[index].hash & (table->n_buckets - 1)];

	entries[index].next = *bucket;
	*bucket = index;
}

/* take an entry out of the table; caller holds both locks exclusively */
static void
remove_entry(int index)
{
	int *link = &buckets[entries[index].hash & (table->n_buckets - 1)];

	while (*link != index)
		link = &entries[*link].next;
	*link = entries[index].next;
	entries[index].used = false;
	table->n_used--;
}

/* clear an entry's figures; caller holds its lock exclusively, or is alone */
static void
clear_history(int index)
{
	ClientHistory *history = &histories[index];

	memset(&history->totals, 0, sizeof(WideFigures));

	/* a cell is cleared when its number is taken */
	for (int i = 0; i < MINUTE_CELLS; i++)
		history->minutes[i].number = 0;
	for (int i = 0; i < FIVE_CELLS; i++)
		history->fives[i].number = 0;
}

/*
 * Find a place for a new client: a free entry, or the one unseen for longest
 * of those that have no live connection, or none.  Caller holds the table
 * lock exclusively.
 */
static int
find_room(void)
{
	int oldest = NO_ENTRY;

	for (int i = 0; i < table->max_clients; i++)
	{
		if (!entries[i].used)
			return i;
		if (entries[i].live == 0 &&
			(oldest == NO_ENTRY || entries[i].identity.last_seen <
									   entries[oldest].identity.last_seen))
			oldest = i;
	}
	return oldest;
}

/* make an entry free; caller holds the table lock exclusively */
static void
evict(int index)
{
	LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
	LWLockAcquire(ENTRY_LOCK(EVICTED_ENTRY), LW_EXCLUSIVE);
	add_wide(&histories[EVICTED_ENTRY].totals, &histories[index].totals);
	entries[EVICTED_ENTRY].used = true;
	LWLockRelease(ENTRY_LOCK(EVICTED_ENTRY));
	remove_entry(index);
	table->evicted++;
	LWLockRelease(ENTRY_LOCK(index));
}

/*
 * The entry for a key, made if need be.  Caller holds the table lock
 * exclusively.
 */
static int
find_or_make_entry(const ClientKey *key, TimestampTz now)
{
	uint32 hash = hash_bytes((const unsigned char *) key, sizeof(ClientKey));
	int index = find_entry(key, hash);
	ClientEntry *entry;

	if (index != NO_ENTRY)
		return index;

	index = find_room();
	if (index == NO_ENTRY)
	{
		entries[EVICTED_ENTRY].used = true;
		table->evicted++;
		return EVICTED_ENTRY;
	}
	if (entries[index].used)
		evict(index);

	LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
	entry = &entries[index];
	memset(&entry->identity, 0, sizeof(ClientIdentity));
	entry->identity.key = *key;
	entry->identity.first_seen = now;
	entry->identity.last_seen = now;
	entry->identity.stats_since = now;
	entry->hash = hash;
	entry->live = 0;
	entry->first_slot = NO_SLOT;
	clear_history(index);
	link_entry(index);
	entry->used = true;
	table->n_used++;
	LWLockRelease(ENTRY_LOCK(index));
	return index;
}

/*
 * Keep the name that the server resolved.  Whoever runs the client's DNS
 * chooses it: only plain characters are taken over, so that it is valid in
 * every encoding and harmless in every terminal.
 */
static void
set_hostname(ClientIdentity *identity, const char *name)
{
	int n = 0;

	if (name == NULL || name[0] == '\0')
		return;
	for (; n < CLIENT_HOSTNAME_LEN - 1 && name[n] != '\0'; n++)
		identity->hostname[n] =
			name[n] > ' ' && name[n] < 0x7f ? name[n] : '?';
	identity->hostname[n] = '\0';
}

/*
 * Begin to account the calling backend's connection.  Does nothing where no
 * slot is to be had; the connection is then not accounted.
 */
void
client_attach(TimestampTz now, int64 monotonic_ns, uint32 floor_us,
			  uint32 retransmits)
{
	int number = compat_my_proc_number();
	uint32 minute;
	Cell *cells[2];
	ClientKey key;
	ClientEntry *entry;
	Slot *slot;
	Baseline *baseline;
	int index;

	if (number < 0 || number >= table->n_slots)
		return;

	my_key(&key);
	minute = minute_of(monotonic_ns);
	slot = SLOT(number);
	baseline = BASELINE(number);
	slot_init(slot, baseline);
	slot->floor_us = floor_us;
	slot->figures.counters[RETRANSMITS] = retransmits;
	slot->minute = minute;
	slot->last_seen = now;
	slot->pid = MyProcPid;
	slot->connected_us = minutes_clock_us(monotonic_ns);
	slot->connected_minute = minute;
	slot->connected_at = MyStartTimestamp;

	LWLockAcquire(TABLE_LOCK, LW_EXCLUSIVE);
	index = find_or_make_entry(&key, now);
	LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
	entry = &entries[index];
	slot->client = index;
	slot->next = entry->first_slot;
	entry->first_slot = number;
	entry->live++;
	if (entry->identity.last_seen < now)
		entry->identity.last_seen = now;

	minute_cells(&histories[index], minute, cells);
	for (int i = 0; i < 2; i++)
		if (cells[i] != NULL)
			cells[i]->connections_made++;
	histories[index].totals.connections_made++;

	if (index != EVICTED_ENTRY)
	{
		note_floor(&entry->identity, slot);
		set_hostname(&entry->identity, MyProcPort->remote_hostname);
	}
	LWLockRelease(ENTRY_LOCK(index));
	LWLockRelease(TABLE_LOCK);

	MySlot = slot;
	MyBaseline = baseline;
	client_next_fold_ns = minute_begins_ns(minute + 1);
}

/*
 * A minute is over: fold, unless somebody holds the lock; then the caller
 * tries again at its next exchange.
 */
void
client_fold_if_free(int64 monotonic_ns)
{
	LWLock *lock = ENTRY_LOCK(MySlot->client);
	uint32 minute = minute_of(monotonic_ns);

	if (!LWLockConditionalAcquire(lock, LW_EXCLUSIVE))
		return;
	fold(MySlot->client);
	slot_begin_minute(minute);
	LWLockRelease(lock);

	client_next_fold_ns = minute_begins_ns(minute + 1);
}

/*
 * A connection has ended: count it, under its floor, in the running minute.
 * Those alive in a span are thus the ones that ended in it and the live ones,
 * which a reader finds itself.
 */
static void
note_end(int index, uint32 floor_us)
{
	ClientHistory *history = &histories[index];
	Cell *cells[2];

	minute_cells(history, minute_of(monotonic_now_ns()), cells);
	for (int i = 0; i < 2; i++)
	{
		if (cells[i] == NULL)
			continue;
		cells[i]->connections_ended++;
		if (floor_us != 0)
			cells[i]->floors[histogram_cell(floor_us)]++;
	}
	history->totals.connections_ended++;
	if (floor_us != 0)
		history->totals.floors[histogram_cell(floor_us)]++;
}

/*
 * The calling backend exits: fold the rest and free the slot, in one
 * critical section, so that no reader misses it or sees it twice.
 */
void
client_detach(void)
{
	Slot *slot = MySlot;
	int index;
	ClientEntry *entry;

	if (slot == NULL)
		return;

	index = slot->client;
	entry = &entries[index];
	LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
	fold(index);
	for (int *link = &entry->first_slot; *link != NO_SLOT;
		 link = &SLOT(*link)->next)
	{
		if (SLOT(*link) == slot)
		{
			*link = slot->next;
			break;
		}
	}
	entry->live--;
	note_end(index, slot->floor_us);
	MySlot = NULL;
	MyBaseline = NULL;
	LWLockRelease(ENTRY_LOCK(index));
}

/*
 * The calling backend's client for a log line: its address, with the name
 * that the server resolved, if any.
 */
void
client_describe_mine(char *text, Size size)
{
	const ClientIdentity *identity = &entries[MySlot->client].identity;
	char address[INET6_ADDRSTRLEN];

	LWLockAcquire(ENTRY_LOCK(MySlot->client), LW_SHARED);
	if (inet_ntop(identity->key.family == 4 ? AF_INET : AF_INET6,
				  identity->key.address, address, sizeof(address)) == NULL)
		address[0] = '\0';
	if (identity->hostname[0] != '\0')
		snprintf(text, size, "%s (%s)", address, identity->hostname);
	else
		strlcpy(text, address, size);
	LWLockRelease(ENTRY_LOCK(MySlot->client));
}

/*
 * Is it time to log that the calling backend's client is far?  Once per
 * address and hour, whatever databases and roles it uses.  A client without
 * an entry of its own is not logged, as nobody would remember that it was.
 */
bool
client_log_far_now(TimestampTz now)
{
	uint32 hour = (uint32) (now / USECS_PER_HOUR);
	ClientEntry *mine;
	bool logged;

	if (MySlot->client == EVICTED_ENTRY)
		return false;

	LWLockAcquire(TABLE_LOCK, LW_EXCLUSIVE);
	mine = &entries[MySlot->client];
	logged = mine->identity.far_logged_hour == hour;
	for (int i = 0; i < table->max_clients && !logged; i++)
		logged =
			entries[i].used && entries[i].identity.far_logged_hour == hour &&
			entries[i].identity.key.family == mine->identity.key.family &&
			memcmp(entries[i].identity.key.address, mine->identity.key.address,
				   sizeof(mine->identity.key.address)) == 0;
	mine->identity.far_logged_hour = hour;
	LWLockRelease(TABLE_LOCK);
	return !logged;
}


/* ----------
 * Readers
 * ----------
 */

/* how many entries there are to read, used or not */
int
clients_capacity(void)
{
	return table->max_clients + 1;
}

/*
 * Add the cells of a ring from "first" on.
 */
static void
read_ring(ClientReading *reading, const Cell *ring, int n_cells, uint32 first)
{
	for (int i = 0; i < n_cells; i++)
	{
		if (ring[i].number < first)
			continue;
		add_cell(&reading->figures, &ring[i]);
		reading->turnaround_min_us =
			Min(reading->turnaround_min_us, ring[i].turnaround_min_us);
	}
}

/*
 * Add the ceilings of the minutes from "first" on.
 */
static void
read_ceilings(ClientReading *reading, const Cell *minutes, uint32 first)
{
	for (int i = 0; i < MINUTE_CELLS; i++)
	{
		if (minutes[i].number < first)
			continue;
		for (int c = 0; c < HISTOGRAM_CELLS; c++)
			reading->ceilings_since_floor[c] +=
				minutes[i].figures.cells[CEILINGS_AT + c];
	}
}

/*
 * Add what a live slot has beyond its baseline.  "first_minute" is the first
 * of the span, 0 for the totals; "first_since" the first after the floor's.
 * What it adds to the client's identity goes to a copy of that.
 */
static void
read_slot(ClientReading *reading, int number, uint32 first_minute,
		  uint32 first_since, ClientIdentity *identity)
{
	const Baseline *baseline = BASELINE(number);
	Slot slot;

	slot_read(SLOT(number), &slot);
	if (slot.minute >= first_minute)
	{
		add_difference(&reading->figures, &slot.figures, &baseline->figures);
		if (slot.epoch == baseline->epoch)
			reading->turnaround_min_us =
				Min(reading->turnaround_min_us, slot.pending_min_us);
	}
	if (slot.minute >= first_since)
		for (int c = 0; c < HISTOGRAM_CELLS; c++)
			reading->ceilings_since_floor[c] +=
				(uint32) (slot.figures.cells[CEILINGS_AT + c] -
						  baseline->figures.cells[CEILINGS_AT + c]);

	reading->connections++;
	if (slot.floor_us != 0)
		reading->figures.floors[histogram_cell(slot.floor_us)]++;
	if (!reading->evicted)
		note_floor(identity, &slot);
	if (identity->last_seen < slot.last_seen)
		identity->last_seen = slot.last_seen;
}

/*
 * Read a client's figures over a span of minutes (1 to SPAN_MAX_MINUTES), or
 * since the last reset.  A span reaches back to the beginning of its first
 * minute and includes the running one; beyond 15 it goes by fives.  False if
 * the entry is not used.
 */
bool
client_read(int index, int span_minutes, ClientReading *reading)
{
	uint32 now_minute = minute_of(monotonic_now_ns());
	const ClientEntry *entry = &entries[index];
	const ClientHistory *history = &histories[index];
	uint32 first_minute = 0;
	uint32 first_since;
	ClientIdentity identity;

	LWLockAcquire(ENTRY_LOCK(index), LW_SHARED);
	if (!entry->used)
	{
		LWLockRelease(ENTRY_LOCK(index));
		return false;
	}

	memset(reading, 0, sizeof(ClientReading));
	reading->evicted = index == EVICTED_ENTRY;
	reading->turnaround_min_us = NO_MINIMUM;
	identity = entry->identity;

	if (span_minutes == SPAN_SINCE_RESET)
		reading->figures = history->totals;
	else if (span_minutes < MINUTE_CELLS)
	{
		first_minute = now_minute - span_minutes;
		read_ring(reading, history->minutes, MINUTE_CELLS, first_minute);
	}
	else
	{
		uint32 first_five = now_minute / 5 - (span_minutes + 4) / 5;

		first_minute = first_five * 5;
		read_ring(reading, history->fives, FIVE_CELLS, first_five);
	}
	reading->connections = reading->figures.connections_ended;

	first_since =
		identity.floor_minute + (identity.floor_minute < now_minute ? 1 : 0);
	first_since = Max(first_since, first_minute);
	read_ceilings(reading, history->minutes, first_since);

	for (int i = entry->first_slot; i != NO_SLOT; i = SLOT(i)->next)
		read_slot(reading, i, first_minute, first_since, &identity);
	LWLockRelease(ENTRY_LOCK(index));

	reading->key = identity.key;
	memcpy(reading->hostname, identity.hostname, CLIENT_HOSTNAME_LEN);
	reading->floor_us = identity.floor_us;
	reading->newest_floor_us = identity.newest_floor_us;
	reading->floor_age_minutes = now_minute > identity.floor_minute
									 ? now_minute - identity.floor_minute
									 : 0;
	reading->first_seen = identity.first_seen;
	reading->last_seen = identity.last_seen;
	reading->stats_since = identity.stats_since;
	return true;
}

/*
 * Read the live connections.  Returns how many; the array is palloc'd.
 */
int
connections_read(ConnectionReading **readings)
{
	ConnectionReading *result;
	int n = 0;

	result = palloc(mul_size(sizeof(ConnectionReading), table->n_slots));
	for (int index = 0; index < clients_capacity(); index++)
	{
		const ClientEntry *entry = &entries[index];

		LWLockAcquire(ENTRY_LOCK(index), LW_SHARED);
		for (int i = entry->first_slot; i != NO_SLOT && n < table->n_slots;
			 i = SLOT(i)->next)
		{
			ConnectionReading *reading = &result[n++];
			Slot slot;

			slot_read(SLOT(i), &slot);
			reading->key = entry->identity.key;
			memcpy(reading->hostname, entry->identity.hostname,
				   CLIENT_HOSTNAME_LEN);
			reading->pid = slot.pid;
			reading->round_trips = slot.figures.counters[ROUND_TRIPS];
			reading->floor_us = slot.floor_us;
			reading->turnaround_min_us = slot.turnaround_min_us;
			reading->connected_at = slot.connected_at;
			reading->last_seen = slot.last_seen;
		}
		LWLockRelease(ENTRY_LOCK(index));
	}
	*readings = result;
	return n;
}

void
clients_info(ClientsInfo *info)
{
	LWLockAcquire(TABLE_LOCK, LW_SHARED);
	clients_info_unlocked(info);
	LWLockRelease(TABLE_LOCK);
}

/* the same for the postmaster, which can take no lock */
void
clients_info_unlocked(ClientsInfo *info)
{
	memset(info, 0, sizeof(ClientsInfo));
	info->clients = table->n_used;
	info->max_clients = table->max_clients;
	info->evicted = table->evicted;
	info->shared_memory_bytes = clients_shmem_size();
	info->stats_reset = table->stats_reset;
	info->saved_at = table->saved_at;
}

/*
 * Zero an entry; its live connections go on, from here.  Caller holds both
 * locks exclusively.
 */
static void
reset_entry(int index, TimestampTz now)
{
	ClientEntry *entry = &entries[index];

	clear_history(index);
	entry->identity.first_seen = now;
	entry->identity.stats_since = now;
	entry->identity.floor_us = 0;
	entry->identity.floor_minute = 0;
	entry->identity.newest_floor_us = 0;
	entry->identity.newest_connected_us = 0;

	for (int i = entry->first_slot; i != NO_SLOT; i = SLOT(i)->next)
	{
		Baseline *baseline = BASELINE(i);
		Slot slot;

		slot_read(SLOT(i), &slot);
		baseline->figures = slot.figures;
		baseline->epoch++;
		if (index != EVICTED_ENTRY)
			note_floor(&entry->identity, &slot);
	}
	if (entry->live > 0)
		return;
	if (index != EVICTED_ENTRY)
		remove_entry(index);
	else
		entry->used = false;
}

/*
 * Forget everything, or all clients of one address (whatever the database
 * and role).  Returns the time.
 */
TimestampTz
clients_reset(const ClientKey *address_of)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(TABLE_LOCK, LW_EXCLUSIVE);
	for (int index = 0; index < clients_capacity(); index++)
	{
		const ClientKey *key = &entries[index].identity.key;

		if (!entries[index].used)
			continue;
		if (address_of != NULL &&
			(index == EVICTED_ENTRY || key->family != address_of->family ||
			 memcmp(key->address, address_of->address, sizeof(key->address)) !=
				 0))
			continue;
		LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
		reset_entry(index, now);
		LWLockRelease(ENTRY_LOCK(index));
	}
	if (address_of == NULL)
	{
		table->stats_reset = now;
		table->evicted = 0;
	}
	LWLockRelease(TABLE_LOCK);
	return now;
}


/* ----------
 * The save file
 * ----------
 */

/*
 * Is any connection still accounted?  Not after an orderly shutdown.
 */
bool
clients_any_live(void)
{
	for (int i = 0; i < clients_capacity(); i++)
		if (entries[i].live > 0)
			return true;
	return false;
}

Size
client_identity_size(void)
{
	return sizeof(ClientIdentity);
}

Size
client_history_size(void)
{
	return sizeof(ClientHistory);
}

/* an entry's chunks; false if it is not used */
bool
client_chunks(int index, ClientChunks *chunks)
{
	chunks->identity = &entries[index].identity;
	chunks->history = &histories[index];
	return entries[index].used;
}

/*
 * Put a saved client into the table.  Where max_clients was lowered, the most
 * recently seen stay.  The sum of the evicted has no role, as no client can.
 */
void
client_restore(const ClientChunks *chunks)
{
	const ClientIdentity *identity = chunks->identity;
	const ClientHistory *saved = chunks->history;
	uint32 now_minute = minute_of(monotonic_now_ns());
	ClientEntry *entry;
	ClientHistory *history;
	int index;

	if (!OidIsValid(identity->key.role))
		index = EVICTED_ENTRY;
	else
	{
		index = find_room();
		if (entries[index].used)
		{
			int loser = EVICTED_ENTRY;

			table->evicted++;
			entries[loser].used = true;
			if (entries[index].identity.last_seen >= identity->last_seen)
			{
				add_wide(&histories[loser].totals, &saved->totals);
				return;
			}
			add_wide(&histories[loser].totals, &histories[index].totals);
			remove_entry(index);
		}
	}

	entry = &entries[index];
	history = &histories[index];
	entry->identity = *identity;
	entry->identity.hostname[CLIENT_HOSTNAME_LEN - 1] = '\0';
	entry->live = 0;
	entry->first_slot = NO_SLOT;
	entry->used = true;
	if (index == EVICTED_ENTRY)
	{
		add_wide(&history->totals, &saved->totals);
		return;
	}
	*history = *saved;
	entry->hash =
		hash_bytes((const unsigned char *) &identity->key, sizeof(ClientKey));
	link_entry(index);
	table->n_used++;

	/* the wall clock may have been set back meanwhile */
	if (identity->floor_minute > now_minute)
	{
		entry->identity.floor_us = 0;
		entry->identity.floor_minute = 0;
		entry->identity.newest_floor_us = 0;
		entry->identity.newest_connected_us = 0;
	}
	for (int i = 0; i < MINUTE_CELLS; i++)
		if (history->minutes[i].number > now_minute)
			history->minutes[i].number = 0;
	for (int i = 0; i < FIVE_CELLS; i++)
		if (history->fives[i].number > now_minute / 5)
			history->fives[i].number = 0;
}

void
clients_restored(const ClientsInfo *info)
{
	table->evicted += info->evicted;
	table->stats_reset = info->stats_reset;
	table->saved_at = info->saved_at;
}

#ifdef KASM_LATENCY_TEST

/*
 * For benchmarks of reading, not in release builds: make so many clients,
 * each with every cell of the last hour full, of the calling backend's
 * address and database, with role numbers of their own.
 */
void
clients_test_fill(int n)
{
	uint32 minute = minute_of(monotonic_now_ns());
	TimestampTz now = GetCurrentTimestamp();
	ClientKey key;

	my_key(&key);
	LWLockAcquire(TABLE_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
	{
		ClientHistory *history;
		int index;

		key.role = 1000000 + i;
		index = find_or_make_entry(&key, now);
		history = &histories[index];
		LWLockAcquire(ENTRY_LOCK(index), LW_EXCLUSIVE);
		for (uint32 m = minute - 65; m <= minute; m++)
		{
			Cell *cells[2];

			minute_cells(history, m, cells);
			for (int j = 0; j < 2; j++)
			{
				cells[j]->connections_made++;
				for (int k = 0; k < N_COUNTERS; k++)
					cells[j]->figures.counters[k]++;
				for (int k = 0; k < HISTOGRAM_CELLS; k++)
					cells[j]->floors[k]++;
				for (int k = 0; k < N_CELLS; k++)
					cells[j]->figures.cells[k]++;
			}
		}
		add_cell(&history->totals, &history->fives[0]);
		entries[index].identity.floor_us = 400;
		entries[index].identity.floor_minute = minute - 1;
		LWLockRelease(ENTRY_LOCK(index));
	}
	LWLockRelease(TABLE_LOCK);
}

#endif /* KASM_LATENCY_TEST */
