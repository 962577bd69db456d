/*-------------------------------------------------------------------------
 *
 * slot.c
 *		The calling backend's slot: record one exchange.
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
 * The list links and the identity (pid, client, next, connected_*) are
 * written under the client's lock, by clients.c.
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
 * true counters, at most one exchange apart from each other.
 */
#define READ_ATTEMPTS 1000

Slot *MySlot = NULL;
Baseline *MyBaseline = NULL;

static inline void
begin_change(Slot *slot)
{
	slot->changes++;
	pg_write_barrier();
}

static inline void
end_change(Slot *slot)
{
	pg_write_barrier();
	slot->changes++;
}

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
}

/*
 * Record one exchange.  Times that were not measured are NO_SAMPLE.
 *
 * Runs at the end of every exchange: keep it short.
 */
void
slot_record(int64 turnaround_us, Histogram turnaround_kind, int64 server_us,
			bool ends_transaction, TimestampTz now)
{
	Slot *slot = MySlot;

	begin_change(slot);

	if (unlikely(slot->epoch != MyBaseline->epoch))
	{
		slot->epoch = MyBaseline->epoch;
		slot->turnaround_min_us = NO_MINIMUM;
		slot->pending_min_us = NO_MINIMUM;
	}

	slot->figures.counters[ROUND_TRIPS]++;
	slot->figures.counters[TRANSACTIONS] += ends_transaction;
	slot->figures.counters[NETWORK_US] += slot->floor_us;

	if (turnaround_us >= 0)
	{
		slot->figures.counters[TURNAROUND_US] += turnaround_us;
		slot->figures
			.histograms[turnaround_kind][histogram_cell(turnaround_us)]++;
		if (turnaround_kind == CEILINGS &&
			turnaround_us < slot->pending_min_us)
		{
			slot->pending_min_us = (uint32) turnaround_us;
			if (turnaround_us < slot->turnaround_min_us)
				slot->turnaround_min_us = (uint32) turnaround_us;
		}
	}
	if (server_us >= 0)
	{
		slot->figures.counters[SERVER_US] += server_us;
		slot->figures.histograms[SERVER][histogram_cell(server_us)]++;
	}
	slot->last_seen = now;

	end_change(slot);
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
	begin_change(MySlot);
	MySlot->floor_us = floor_us;
	end_change(MySlot);
}

void
slot_set_retransmits(uint32 retransmits)
{
	if (MySlot->figures.counters[RETRANSMITS] == retransmits)
		return;
	begin_change(MySlot);
	MySlot->figures.counters[RETRANSMITS] = retransmits;
	end_change(MySlot);
}

/*
 * All has been folded: what comes belongs to another minute.
 */
void
slot_begin_minute(uint32 minute)
{
	begin_change(MySlot);
	MySlot->minute = minute;
	MySlot->pending_min_us = NO_MINIMUM;
	end_change(MySlot);
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
