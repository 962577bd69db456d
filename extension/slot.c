/*-------------------------------------------------------------------------
 *
 * slot.c
 *		The calling backend's slot.
 *
 * A slot belongs to one client backend (by its PGPROC number) from its first
 * ReadyForQuery to its exit, and only that backend writes its figures.  They
 * are cumulative since connect and never cleared; what has been taken into
 * the client's entry is remembered beside it, in the baseline.  So the path
 * of an exchange takes no lock and writes no cache line that another backend
 * writes.
 *
 * The owner brackets its writes with two increments of "changes", with write
 * barriers between; a reader copies the slot, with read barriers, until it
 * saw the same even number before and after.  The pair of barriers is what
 * makes this right on machines that reorder stores or loads (ARM, POWER).
 * Between the increments stands straight-line code of a few dozen
 * instructions: nothing there can throw, wait or be left half done.
 *
 * The list links and the client's number are written under the client's lock,
 * pid and connected_* before the slot is in any list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/s_lock.h"

#include "slot.h"

/*
 * How often a reader tries for a copy that no write crossed, before it takes
 * what it has.  Every counter only grows, so a crossed copy is still one of
 * true counters (where 64 bits are read at once), at most one exchange apart
 * from each other.
 */
#define READ_ATTEMPTS 1000

Slot *MySlot = NULL;
Baseline *MyBaseline = NULL;

/*
 * Make a slot ready for a new connection.  Nobody reads it yet: it is not in
 * its client's list.
 */
void
slot_init(Slot *slot, Baseline *baseline)
{
	memset(slot, 0, sizeof(Slot));
	memset(baseline, 0, sizeof(Baseline));
	slot->turnaround_min_us = NO_MINIMUM;
	slot->pending_min_us = NO_MINIMUM;
	slot->client = NO_CLIENT;
}

/*
 * The client was reset: minima from before count no more.
 */
void
slot_begin_epoch(void)
{
	slot_begin_change(MySlot);
	MySlot->epoch = MyBaseline->epoch;
	MySlot->turnaround_min_us = NO_MINIMUM;
	MySlot->pending_min_us = NO_MINIMUM;
	slot_end_change(MySlot);
}

/*
 * Take over what the kernel says of the socket.  A floor never rises.
 */
void
slot_set_floor(uint32 floor_us)
{
	if (floor_us == 0 ||
		(MySlot->floor_us != 0 && MySlot->floor_us <= floor_us))
		return;
	slot_begin_change(MySlot);
	MySlot->floor_us = floor_us;
	slot_end_change(MySlot);
}

void
slot_set_retransmits(uint32 retransmits)
{
	if (MySlot->figures.counters[RETRANSMITS] == retransmits)
		return;
	slot_begin_change(MySlot);
	MySlot->figures.counters[RETRANSMITS] = retransmits;
	slot_end_change(MySlot);
}

/*
 * All has been folded: what comes belongs to another minute.
 */
void
slot_begin_minute(uint32 minute)
{
	slot_begin_change(MySlot);
	MySlot->minute = minute;
	MySlot->newest_minute = minute;
	MySlot->pending_min_us = NO_MINIMUM;
	slot_end_change(MySlot);
}

/*
 * Something has still to be folded, and what comes belongs to another minute.
 */
void
slot_note_minute(uint32 minute)
{
	slot_begin_change(MySlot);
	MySlot->newest_minute = minute;
	MySlot->pending_min_us = NO_MINIMUM;
	slot_end_change(MySlot);
}

/*
 * The server waited for that long for a client with a transaction open, and
 * the wait is no ceiling.
 */
void
slot_record_open_wait(int64 us)
{
	slot_begin_change(MySlot);
	MySlot->figures.counters[OPEN_WAIT_US] += us;
	slot_end_change(MySlot);
}

/*
 * Record a block that has ended: its shortest ceiling.
 */
void
slot_record_bound(int64 us)
{
	slot_begin_change(MySlot);
	MySlot->figures.counters[BOUNDS_US] += us;
	MySlot->figures.cells[BOUNDS_AT + histogram_cell(us)]++;
	slot_end_change(MySlot);
}

/*
 * Record a chain that has ended.  One that could not be timed has a length,
 * and nothing else.
 */
void
slot_record_chain(uint64 length, int64 us, uint64 server_us, uint64 network_us)
{
	Figures *figures = &MySlot->figures;
	uint64 length_cell = histogram_cell(length);

	slot_begin_change(MySlot);
	figures
		->cells[CHAIN_LENGTHS_AT + Min(length_cell, CHAIN_LENGTH_CELLS - 1)]++;
	if (us != NO_SAMPLE)
	{
		figures->counters[CHAINS]++;
		figures->counters[CHAIN_ROUND_TRIPS] += length;
		figures->counters[CHAIN_US] += us;
		figures->counters[CHAIN_SERVER_US] += server_us;
		figures->counters[CHAIN_NETWORK_US] += network_us;
		figures->cells[CHAIN_DURATIONS_AT + histogram_cell(us)]++;
	}
	slot_end_change(MySlot);
}

/*
 * Copy a slot that its owner may be writing.
 */
void
slot_read(const Slot *slot, Slot *copy)
{
	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++)
	{
		uint32 before = *(volatile const uint32 *) &slot->changes;

		pg_read_barrier();
		memcpy(copy, slot, sizeof(Slot));
		pg_read_barrier();
		if ((before & 1) == 0 &&
			before == *(volatile const uint32 *) &slot->changes)
			return;
		SPIN_DELAY();
	}
}
