/*-------------------------------------------------------------------------
 *
 * client_read.c
 *		Readers of the table of clients.
 *
 * Each takes the lock of one entry at a time, shared, copies, and releases it
 * before anybody does something with the copy that could fail.  To the entry
 * it adds what the live slots have beyond their baselines.  Nothing is
 * written here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/shmem.h"

#include "client_read.h"

/* a client while it is read */
typedef struct Reader
{
	ClientReading *reading;
	ClientIdentity identity; /* a copy, to which live slots add */
	Span span;
	uint32 first_since; /* the first minute after the floor's */
} Reader;

/*
 * Add what a live slot has beyond its baseline.
 */
static void
read_slot(Reader *reader, int number)
{
	ClientReading *reading = reader->reading;
	const Baseline *baseline = client_baseline(number);
	Slot slot;

	slot_read(client_slot(number), &slot);
	if (slot.newest_minute >= reader->span.first_minute)
	{
		figures_add_difference(&reading->figures, &slot.figures,
							   &baseline->figures);
		if (slot.epoch == baseline->epoch)
			reading->turnaround_min_us =
				Min(reading->turnaround_min_us, slot.pending_min_us);
	}
	if (slot.newest_minute >= reader->first_since)
		figures_add_ceilings(reading->ceilings_since_floor, &slot.figures,
							 &baseline->figures);

	reading->connections++;
	if (slot.floor_us != 0)
		reading->figures.floors[histogram_cell(slot.floor_us)]++;
	client_note_seen(&reader->identity, &slot);
}

/*
 * Read an entry and its live slots.  Caller holds the entry's lock.
 */
static void
read_entry(Reader *reader, int index, uint32 now_minute)
{
	const ClientEntry *entry = &client_entries[index];
	const History *history = &client_histories[index];
	ClientReading *reading = reader->reading;

	reader->identity = entry->identity;
	history_read(history, &reader->span, &reading->figures,
				 &reading->turnaround_min_us);
	reading->connections = reading->figures.connections_ended;

	/* a floor that its connection has not folded yet is one already */
	if (!reading->overflow)
		for (int i = entry->first_slot; i != NO_SLOT; i = client_slot(i)->next)
			client_note_floor(&reader->identity, client_slot(i));

	reader->first_since = reader->identity.floor_minute +
						  (reader->identity.floor_minute < now_minute ? 1 : 0);
	reader->first_since = Max(reader->first_since, reader->span.first_minute);
	history_read_ceilings(history, reader->first_since,
						  reading->ceilings_since_floor);

	for (int i = entry->first_slot; i != NO_SLOT; i = client_slot(i)->next)
		read_slot(reader, i);
}

/*
 * Read a client's figures over a span of minutes, or since the last reset
 * (see span_of_minutes).  False if the entry is not used.
 */
bool
client_read(int index, int span_minutes, ClientReading *reading)
{
	uint32 now_minute = minutes_now();
	Reader reader = { .reading = reading,
					  .span = span_of_minutes(span_minutes, now_minute) };

	memset(reading, 0, sizeof(ClientReading));
	reading->overflow = index == OVERFLOW_ENTRY;
	reading->turnaround_min_us = NO_MINIMUM;

	LWLockAcquire(client_lock(index), LW_SHARED);
	if (!client_entries[index].used)
	{
		LWLockRelease(client_lock(index));
		return false;
	}
	read_entry(&reader, index, now_minute);
	LWLockRelease(client_lock(index));

	reading->key = reader.identity.key;
	memcpy(reading->hostname, reader.identity.hostname, CLIENT_HOSTNAME_LEN);
	reading->floor_us = reader.identity.floor_us;
	reading->newest_floor_us = reader.identity.newest_floor_us;
	if (now_minute > reader.identity.floor_minute)
		reading->floor_age_minutes = now_minute - reader.identity.floor_minute;
	reading->first_seen = reader.identity.first_seen;
	reading->last_seen = reader.identity.last_seen;
	reading->stats_since = reader.identity.stats_since;
	return true;
}

/*
 * Read the live connections.  Returns how many; the array is palloc'd.
 */
int
connections_read(ConnectionReading **readings)
{
	int max = client_table->n_slots;
	ConnectionReading *result;
	int n = 0;

	result = palloc(mul_size(sizeof(ConnectionReading), max));
	for (int index = 0; index < client_table_capacity(); index++)
	{
		const ClientEntry *entry = &client_entries[index];

		LWLockAcquire(client_lock(index), LW_SHARED);
		for (int i = entry->first_slot; i != NO_SLOT && n < max;
			 i = client_slot(i)->next)
		{
			ConnectionReading *reading = &result[n++];
			Slot slot;

			slot_read(client_slot(i), &slot);
			reading->key = entry->identity.key;
			memcpy(reading->hostname, entry->identity.hostname,
				   CLIENT_HOSTNAME_LEN);
			reading->pid = slot.pid;
			reading->round_trips = slot.figures.counters[ROUND_TRIPS];
			reading->floor_us = slot.floor_us;
			reading->turnaround_min_us =
				slot.epoch == client_baseline(i)->epoch
					? slot.turnaround_min_us
					: NO_MINIMUM;
			reading->connected_at = slot.connected_at;
			reading->last_seen = slot.last_seen;
		}
		LWLockRelease(client_lock(index));
	}
	*readings = result;
	return n;
}

void
table_read(TableReading *reading)
{
	memset(reading, 0, sizeof(TableReading));
	reading->shared_memory_bytes = client_table_size();

	LWLockAcquire(client_table_lock(), LW_SHARED);
	reading->clients = client_table->n_used;
	reading->max_clients = client_table->max_clients;
	reading->overflowed = client_table->overflowed;
	reading->stats_reset = client_table->stats_reset;
	reading->saved_at = client_table->saved_at;
	LWLockRelease(client_table_lock());
}
