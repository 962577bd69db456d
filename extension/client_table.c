/*-------------------------------------------------------------------------
 *
 * client_table.c
 *		The table of clients in shared memory: layout, hash, overflow, reset.
 *
 * A client is an (address, database, role).  Its entry holds an identity and
 * a history (minutes.c); its live connections have slots (slot.c), which the
 * entry lists.
 *
 * Memory: one allocation, sized at start; nothing is ever allocated later.
 * When all entries are taken, the one unseen for longest, of those without
 * a live connection, makes room: its totals are added to an entry of their
 * own (the last one, "overflow"), which sums include.  Where every entry has
 * live connections the newcomer is accounted in that entry too, until there
 * is room at the end of one of its minutes.
 *
 * Locking.  The table lock guards which key has which entry: the hash
 * chains, "used", the counts, and far_logged_minute.  Each entry has a lock of its own,
 * which guards everything else in it, its history, its list of slots, and
 * these slots' links and baselines.  The room lock guards the list of entries
 * that can make room: all without live connections, but the overflow.  They
 * are taken in this order: the table's, an entry's, the overflow's, the
 * room's.  A key is changed under the table's and the entry's, so either
 * suffices to read one; an entry gets live slots under both too (the table's
 * shared), so under the table's, exclusively, one without any has none until
 * it is released.
 *
 * Readers (client_read.c) take one entry's lock at a time, shared and never
 * the table's, and copy out before they do anything that could fail.  An
 * exchange waits for none of these, but where a client leaves the overflow; a
 * connect of a new client waits for another's, one of a known client for the
 * reading of its entry, and both for a reset of everything.
 *
 * After a crash the postmaster makes the memory anew, and all of this with
 * it; no lock or list can be left half done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "client_table.h"
#include "kasm_latency.h"

/* All of it lies in one allocation. */
ClientTable *client_table = NULL;
ClientEntry *client_entries;
History *client_histories;
static int *buckets;
static char *slots;			/* n_slots of SLOT_SIZE */
static char *baselines;		/* n_slots of BASELINE_SIZE */
static LWLockPadded *locks; /* the table's, the room's, then the entries' */

#define ROOM_LOCK (&locks[1].lock)
#define N_TABLE_LOCKS 2


/* ----------
 * Layout
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

	PART(client_table, ClientTable *, sizeof(ClientTable));
	PART(buckets, int *, mul_size(sizeof(int), bucket_count()));
	PART(client_entries, ClientEntry *,
		 mul_size(sizeof(ClientEntry), n_entries));
	PART(client_histories, History *, mul_size(sizeof(History), n_entries));
	PART(slots, char *, mul_size(SLOT_SIZE, MaxConnections));
	PART(baselines, char *, mul_size(BASELINE_SIZE, MaxConnections));
#undef PART

	return size;
}

Size
client_table_size(void)
{
	return lay_out(NULL);
}

int
client_table_lock_count(void)
{
	return N_TABLE_LOCKS + kasm_latency_max_clients + 1;
}

/*
 * Make or find the allocation.  True if it was made, and so is empty.
 */
bool
client_table_startup(void)
{
	bool found;
	char *base;

	base = ShmemInitStruct("kasm_latency", client_table_size(), &found);
	lay_out(base);
	locks = GetNamedLWLockTranche("kasm_latency");
	if (!found)
	{
		client_table->max_clients = kasm_latency_max_clients;
		client_table->n_slots = MaxConnections;
		client_table->n_buckets = bucket_count();
		client_table->clock_offset_us = minutes_clock_offset_now();
		for (int i = 0; i < client_table->n_slots; i++)
			slot_init(client_slot(i), client_baseline(i));
		client_table_clear();
	}
	minutes_set_clock(client_table->clock_offset_us);
	return !found;
}

/*
 * Empty the table.  Only while no other process uses it.  A history is cleared
 * when its entry is taken: until then none of its memory is touched.
 */
void
client_table_clear(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int n_entries = client_table_capacity();

	for (int i = 0; i < client_table->n_buckets; i++)
		buckets[i] = NO_ENTRY;
	memset(client_entries, 0, sizeof(ClientEntry) * n_entries);
	history_clear(&client_histories[OVERFLOW_ENTRY]);
	for (int i = 0; i < n_entries; i++)
	{
		client_entries[i].first_slot = NO_SLOT;
		client_entries[i].room_next = i + 1;
		client_entries[i].room_previous = i - 1;
	}
	client_table->room_first = 0;
	client_table->room_last = client_table->max_clients - 1;
	client_entries[client_table->room_last].room_next = NO_ENTRY;
	client_entries[OVERFLOW_ENTRY].identity.stats_since = now;
	client_table->n_used = 0;
	client_table->overflowed = 0;
	client_table->stats_reset = now;
	client_table->saved_at = 0;
	client_table->save_file_there = false;
}

LWLock *
client_table_lock(void)
{
	return &locks[0].lock;
}

LWLock *
client_lock(int index)
{
	return &locks[N_TABLE_LOCKS + index].lock;
}

Slot *
client_slot(int number)
{
	return (Slot *) (slots + (Size) number * SLOT_SIZE);
}

Baseline *
client_baseline(int number)
{
	return (Baseline *) (baselines + (Size) number * BASELINE_SIZE);
}


/* ----------
 * Keys and entries
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

bool
client_same_address(const ClientKey *a, const ClientKey *b)
{
	return a->family == b->family &&
		   memcmp(a->address, b->address, sizeof(a->address)) == 0;
}

uint32
client_hash(const ClientKey *key)
{
	return hash_bytes((const unsigned char *) key, sizeof(ClientKey));
}

static int *
bucket_of(uint32 hash)
{
	return &buckets[hash & (client_table->n_buckets - 1)];
}

/* the entry of a key, or NO_ENTRY; caller holds the table lock */
int
client_find(const ClientKey *key, uint32 hash)
{
	for (int i = *bucket_of(hash); i != NO_ENTRY; i = client_entries[i].next)
		if (client_entries[i].hash == hash &&
			memcmp(&client_entries[i].identity.key, key, sizeof(ClientKey)) ==
				0)
			return i;
	return NO_ENTRY;
}

/* put an entry with its key and hash into the table; locks as below */
void
client_link(int index)
{
	ClientEntry *entry = &client_entries[index];
	int *bucket = bucket_of(entry->hash);

	entry->next = *bucket;
	*bucket = index;
	entry->used = true;
	client_table->n_used++;
}

/* take an entry out of the table; caller holds both locks exclusively */
void
client_unlink(int index)
{
	int *link = bucket_of(client_entries[index].hash);

	while (*link != index)
		link = &client_entries[*link].next;
	*link = client_entries[index].next;
	client_entries[index].used = false;
	client_table->n_used--;
}

/* ----------
 * Room
 * ----------
 */

static void
room_remove(int index)
{
	const ClientEntry *entry = &client_entries[index];

	if (entry->room_previous != NO_ENTRY)
		client_entries[entry->room_previous].room_next = entry->room_next;
	else
		client_table->room_first = entry->room_next;
	if (entry->room_next != NO_ENTRY)
		client_entries[entry->room_next].room_previous = entry->room_previous;
	else
		client_table->room_last = entry->room_previous;
}

/* put an entry behind another, or with NO_ENTRY to the front */
static void
room_insert(int index, int behind)
{
	ClientEntry *entry = &client_entries[index];
	int *front = behind == NO_ENTRY ? &client_table->room_first
									: &client_entries[behind].room_next;

	entry->room_previous = behind;
	entry->room_next = *front;
	*front = index;
	if (entry->room_next != NO_ENTRY)
		client_entries[entry->room_next].room_previous = index;
	else
		client_table->room_last = index;
}

/*
 * The entries that can make room, one after the other: the first to do so for
 * NO_ENTRY.  Only while no other process uses the table.
 */
int
client_next_to_make_room(int index)
{
	return index == NO_ENTRY ? client_table->room_first
							 : client_entries[index].room_next;
}

/*
 * Find a place for a new client: a free entry, or the one unseen for longest
 * of those that have no live connection, or none.  It is the last to make
 * room from now on.  Caller holds the table lock exclusively, or is alone.
 */
int
client_find_room(void)
{
	int index;

	if (IsUnderPostmaster)
		LWLockAcquire(ROOM_LOCK, LW_EXCLUSIVE);
	index = client_table->room_first;
	if (index != NO_ENTRY)
	{
		room_remove(index);
		room_insert(index, client_table->room_last);
	}
	if (IsUnderPostmaster)
		LWLockRelease(ROOM_LOCK);
	return index;
}

/* make an entry free; caller holds the table lock exclusively */
static void
evict(int index)
{
	LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
	LWLockAcquire(client_lock(OVERFLOW_ENTRY), LW_EXCLUSIVE);
	figures_add_wide(&client_histories[OVERFLOW_ENTRY].totals,
					 &client_histories[index].totals);
	client_entries[OVERFLOW_ENTRY].used = true;
	LWLockRelease(client_lock(OVERFLOW_ENTRY));
	client_unlink(index);
	client_table->overflowed++;
	LWLockRelease(client_lock(index));
}

/*
 * The entry of a key, made where it has none; NO_ENTRY where there is no room.
 * Caller holds the table lock exclusively.
 */
int
client_find_or_make(const ClientKey *key, uint32 hash, TimestampTz now)
{
	int index = client_find(key, hash);
	ClientEntry *entry;

	if (index != NO_ENTRY)
		return index;
	index = client_find_room();
	if (index == NO_ENTRY)
		return NO_ENTRY;
	if (client_entries[index].used)
		evict(index);

	LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
	entry = &client_entries[index];
	memset(&entry->identity, 0, sizeof(ClientIdentity));
	entry->identity.key = *key;
	entry->identity.first_seen = now;
	entry->identity.last_seen = now;
	entry->identity.stats_since = now;
	entry->hash = hash;
	history_clear(&client_histories[index]);
	client_link(index);
	LWLockRelease(client_lock(index));
	return index;
}


/* ----------
 * Connections of an entry
 * ----------
 */

/* caller holds the entry's lock exclusively, and the table's */
void
client_link_slot(int index, int number)
{
	ClientEntry *entry = &client_entries[index];
	Slot *slot = client_slot(number);

	slot->client = index;
	slot->previous = NO_SLOT;
	slot->next = entry->first_slot;
	if (slot->next != NO_SLOT)
		client_slot(slot->next)->previous = number;
	entry->first_slot = number;
	if (entry->live++ == 0 && index != OVERFLOW_ENTRY)
	{
		LWLockAcquire(ROOM_LOCK, LW_EXCLUSIVE);
		room_remove(index);
		LWLockRelease(ROOM_LOCK);
	}
}

/* caller holds the entry's lock exclusively */
void
client_unlink_slot(int index, int number)
{
	ClientEntry *entry = &client_entries[index];
	Slot *slot = client_slot(number);

	slot->client = NO_CLIENT;
	if (slot->previous != NO_SLOT)
		client_slot(slot->previous)->next = slot->next;
	else
		entry->first_slot = slot->next;
	if (slot->next != NO_SLOT)
		client_slot(slot->next)->previous = slot->previous;
	if (--entry->live == 0 && index != OVERFLOW_ENTRY)
	{
		LWLockAcquire(ROOM_LOCK, LW_EXCLUSIVE);
		room_insert(index, client_table->room_last);
		LWLockRelease(ROOM_LOCK);
	}
}

/*
 * Take a connection's last exchange into its client's.  A time that is still to
 * come was stamped when the wall clock was wrong: it must not make a client
 * seen until then.
 */
void
client_note_seen(ClientIdentity *identity, const Slot *slot)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz seen = Min(slot->last_seen, now);

	if (identity->last_seen < seen || identity->last_seen > now)
		identity->last_seen = seen;
}

/*
 * Take a connection's floor into its client's.  A client's floor is that of
 * the newest minute in which a connection was made: the kernel's minimum is
 * sticky, so an old connection may still show a path that is no more.  That
 * of the newest connection alone is kept too, for when both are of one minute.
 * May be called again for a connection, whose floor can only have fallen.
 */
void
client_note_floor(ClientIdentity *identity, const Slot *slot)
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

/* no connection is known of which the floor would be */
void
client_forget_floor(ClientIdentity *identity)
{
	identity->floor_us = 0;
	identity->floor_minute = 0;
	identity->newest_floor_us = 0;
	identity->newest_connected_us = 0;
}


/* ----------
 * Reset
 * ----------
 */

/*
 * Zero an entry; its live connections go on, from here.  Caller holds both
 * locks exclusively.
 */
static void
reset_entry(int index, TimestampTz now)
{
	ClientEntry *entry = &client_entries[index];

	history_clear(&client_histories[index]);
	entry->identity.first_seen = now;
	entry->identity.last_seen = now;
	entry->identity.stats_since = now;
	client_forget_floor(&entry->identity);

	for (int i = entry->first_slot; i != NO_SLOT; i = client_slot(i)->next)
	{
		Baseline *baseline = client_baseline(i);
		Slot slot;

		slot_read(client_slot(i), &slot);
		baseline->figures = slot.figures;
		baseline->epoch++;
		client_note_seen(&entry->identity, &slot);
		if (index != OVERFLOW_ENTRY)
			client_note_floor(&entry->identity, &slot);
	}
	if (entry->live > 0)
		return;
	if (index == OVERFLOW_ENTRY)
	{
		entry->used = false;
		return;
	}
	client_unlink(index);
	LWLockAcquire(ROOM_LOCK, LW_EXCLUSIVE);
	room_remove(index);
	room_insert(index, NO_ENTRY);
	LWLockRelease(ROOM_LOCK);
}

/*
 * Forget everything, or all clients of one address (whatever the database
 * and role).  Returns the time.
 */
TimestampTz
client_table_reset(const ClientKey *address_of)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(client_table_lock(), LW_EXCLUSIVE);
	for (int index = 0; index < client_table_capacity(); index++)
	{
		const ClientEntry *entry = &client_entries[index];

		if (!entry->used)
			continue;
		if (address_of != NULL &&
			(index == OVERFLOW_ENTRY ||
			 !client_same_address(&entry->identity.key, address_of)))
			continue;
		LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
		reset_entry(index, now);
		LWLockRelease(client_lock(index));
	}
	if (address_of == NULL)
	{
		client_table->stats_reset = now;
		client_table->overflowed = 0;
	}
	LWLockRelease(client_table_lock());
	return now;
}
