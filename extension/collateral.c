/*-------------------------------------------------------------------------
 *
 * collateral.c
 *		Who made whom wait for a lock, and for how long.
 *
 * The watcher (watcher.c) looks at the lock waits there are, and adds the time
 * since it looked last: to counters of the waiting and of the blocking client,
 * which stand among the figures of their entries (client_table.c), and to the
 * pair of both, which is kept here.
 *
 * The pairs are a table of fixed size in shared memory, under a lock of its
 * own, which is the last to be taken.  Only the watcher adds to it; a reset
 * removes.  When it is full, the pair unseen for longest makes room: what is
 * lost is who waited for whom, not how long, as clients have their counters.
 *
 * A party is named by its client's key, not by its entry, which may make room
 * for another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "collateral.h"

#define LOCK_NAME "kasm_latency_collateral"

/* shared memory: an array of PAIRS */
static Pair *pairs = NULL;
static LWLock *pairs_lock;

Size
collateral_size(void)
{
	return CACHELINEALIGN(PAIRS * sizeof(Pair));
}

void
collateral_request(void)
{
	RequestAddinShmemSpace(collateral_size());
	RequestNamedLWLockTranche(LOCK_NAME, 1);
}

/*
 * Make or find the pairs.  Caller holds AddinShmemInitLock.
 */
void
collateral_startup(void)
{
	bool found;

	pairs =
		ShmemInitStruct("kasm_latency collateral", collateral_size(), &found);
	pairs_lock = &GetNamedLWLockTranche(LOCK_NAME)->lock;
	if (!found)
		collateral_clear();
}

/*
 * Only while no other process uses them.
 */
void
collateral_clear(void)
{
	memset(pairs, 0, collateral_size());
}

Pair *
collateral_pairs(void)
{
	return pairs;
}

/*
 * Forget pairs of a time still to come: the wall clock was set back while the
 * server was down.
 */
void
collateral_drop_future(void)
{
	for (int i = 0; i < PAIRS; i++)
		if (pairs[i].newest_minute > minutes_now())
			memset(&pairs[i], 0, sizeof(Pair));
}


/* ----------
 * Adding
 * ----------
 */

/*
 * Whose backend is that, by the number of its PGPROC?  Returns the index of
 * its client's entry; NO_ENTRY where it is not measured.
 */
int
party_of_backend(int number, int pid, Party *party)
{
	const Slot *slot;
	int index;
	LWLock *lock;

	memset(party, 0, sizeof(Party));
	party->kind = PARTY_OTHER;
	if (number < 0 || number >= client_table->n_slots)
		return NO_ENTRY;

	/* the slot may go before its client's lock is there */
	slot = client_slot(number);
	index = *(const volatile int *) &slot->client;
	if (index == NO_CLIENT)
		return NO_ENTRY;
	lock = client_lock(index);
	LWLockAcquire(lock, LW_SHARED);
	if (slot->client != index || slot->pid != pid)
		index = NO_ENTRY;
	else if (index == OVERFLOW_ENTRY)
		party->kind = PARTY_OVERFLOW;
	else
	{
		party->kind = PARTY_CLIENT;
		party->key = client_entries[index].identity.key;
	}
	LWLockRelease(lock);
	return index;
}

/*
 * Add to a counter of a party's client, if the entry is still that client's.
 */
static void
charge(int index, const Party *party, Counter counter, int64 us)
{
	const ClientEntry *entry = &client_entries[index];

	LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
	if (entry->used &&
		memcmp(&entry->identity.key, &party->key, sizeof(ClientKey)) == 0)
		history_add_counter(&client_histories[index], minutes_now(), counter,
							us);
	LWLockRelease(client_lock(index));
}

/*
 * The pair of two parties; if it is not there, that makes room which was not
 * seen for longest.  Caller holds the lock exclusively.
 */
static Pair *
find_pair(const Party *blocking, const Party *waiting)
{
	Pair *oldest = &pairs[0];

	for (int i = 0; i < PAIRS; i++)
	{
		Pair *pair = &pairs[i];

		if (pair->newest_minute != 0 &&
			memcmp(&pair->blocking, blocking, sizeof(Party)) == 0 &&
			memcmp(&pair->waiting, waiting, sizeof(Party)) == 0)
			return pair;
		if (pair->newest_minute < oldest->newest_minute)
			oldest = pair;
	}
	memset(oldest, 0, sizeof(Pair));
	oldest->blocking = *blocking;
	oldest->waiting = *waiting;
	return oldest;
}

static uint32
sum_of_steps(uint32 steps, int64 us)
{
	return (uint32) Min(steps +
							(uint64) (us + PAIR_STEP_US / 2) / PAIR_STEP_US,
						PG_UINT32_MAX);
}

static void
charge_pair(const Party *blocking, const Party *waiting, int64 us,
			bool waits_for_client)
{
	uint32 number = minutes_now();
	PairMinute *minute;
	Pair *pair;

	LWLockAcquire(pairs_lock, LW_EXCLUSIVE);
	pair = find_pair(blocking, waiting);
	pair->last_seen = GetCurrentTimestamp();
	pair->newest_minute = number;
	minute = &pair->minutes[number % PAIR_MINUTES];
	if (minute->number != number)
	{
		memset(minute, 0, sizeof(PairMinute));
		minute->number = number;
	}
	minute->waited = sum_of_steps(minute->waited, us);
	if (waits_for_client)
		minute->waited_for_client =
			sum_of_steps(minute->waited_for_client, us);
	LWLockRelease(pairs_lock);
}

/*
 * A client's backend waited for a lock for so long.
 */
void
collateral_charge_wait(int client, const Party *waiting, int64 us)
{
	charge(client, waiting, LOCK_WAIT_US, us);
}

/*
 * It did so for another, whose client's entry "client" is, if it has one; and
 * that one was waiting for its own client meanwhile, or not.  A client that
 * waits for itself makes no others wait: the pair shows it.
 */
void
collateral_charge_blocker(int client, const Party *blocking,
						  const Party *waiting, int64 us,
						  bool waits_for_client)
{
	if (client != NO_ENTRY &&
		!client_same_address(&blocking->key, &waiting->key))
	{
		charge(client, blocking, MADE_WAIT_US, us);
		if (waits_for_client)
			charge(client, blocking, MADE_CLIENT_WAIT_US, us);
	}
	charge_pair(blocking, waiting, us, waits_for_client);
}


/* ----------
 * Reading and forgetting
 * ----------
 */

static void
read_pair(const Pair *pair, uint32 first_minute, PairReading *reading)
{
	uint64 waited = 0;
	uint64 waited_for_client = 0;

	for (int i = 0; i < PAIR_MINUTES; i++)
	{
		if (pair->minutes[i].number < first_minute)
			continue;
		waited += pair->minutes[i].waited;
		waited_for_client += pair->minutes[i].waited_for_client;
	}
	reading->blocking = pair->blocking;
	reading->waiting = pair->waiting;
	reading->last_seen = pair->last_seen;
	reading->waited_us = waited * PAIR_STEP_US;
	reading->waited_for_client_us = waited_for_client * PAIR_STEP_US;
}

/*
 * Read the pairs that waited in a span of minutes.  Returns how many; the
 * array is palloc'd.
 */
int
collateral_read(int span_minutes, PairReading **readings)
{
	Span span = span_of_minutes(span_minutes, minutes_now());
	PairReading *result = palloc(sizeof(PairReading) * PAIRS);
	int n = 0;

	LWLockAcquire(pairs_lock, LW_SHARED);
	for (int i = 0; i < PAIRS; i++)
	{
		if (pairs[i].newest_minute == 0)
			continue;
		read_pair(&pairs[i], span.first_minute, &result[n]);
		if (result[n].waited_us > 0)
			n++;
	}
	LWLockRelease(pairs_lock);
	*readings = result;
	return n;
}

/*
 * Forget all pairs, or those of an address.
 */
void
collateral_reset(const ClientKey *address_of)
{
	LWLockAcquire(pairs_lock, LW_EXCLUSIVE);
	for (int i = 0; i < PAIRS; i++)
	{
		Pair *pair = &pairs[i];

		if (address_of == NULL ||
			(pair->blocking.kind == PARTY_CLIENT &&
			 client_same_address(&pair->blocking.key, address_of)) ||
			(pair->waiting.kind == PARTY_CLIENT &&
			 client_same_address(&pair->waiting.key, address_of)))
			memset(pair, 0, sizeof(Pair));
	}
	LWLockRelease(pairs_lock);
}
