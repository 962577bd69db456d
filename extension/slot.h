/*-------------------------------------------------------------------------
 *
 * slot.h
 *		One slot per client backend, in shared memory: what its connection
 *		has measured since it was made.
 *
 * See slot.c for who may write what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SLOT_H
#define KASM_LATENCY_SLOT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"

#include "figures.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/* a slot that no connection has */
#define NO_CLIENT (-1)

typedef struct Slot
{
	/* odd while the owner writes what follows up to "figures" */
	uint32 changes;

	uint32 epoch;			  /* of the baseline, when the minima began */
	uint32 floor_us;		  /* lowest tcpi_min_rtt seen; 0 = not known */
	uint32 turnaround_min_us; /* lowest ceiling since connect or reset */
	uint32 pending_min_us;	  /* lowest ceiling since the last fold */
	uint32 minute;			  /* to which what is not folded belongs, */
	uint32 newest_minute;	  /* or the last of it: see client_mine.c */
	TimestampTz last_seen;	  /* end of the last exchange, or connect */
	Figures figures;

	/*
	 * Under the client's lock, and so not on a cache line of the above: other
	 * backends write the links.
	 */
	int next pg_attribute_aligned(PG_CACHE_LINE_SIZE); /* slots of the same */
	int previous;									   /* client, or -1 */
	int client; /* index of the client entry, or NO_CLIENT */
	int pid;
	uint32 connected_minute;
	int64 connected_us; /* by the clock of the minutes */
	TimestampTz connected_at;
} Slot;

/*
 * What of a slot has been folded into its client's entry already.  Written
 * only under the client's lock, by the owner at a fold and by whoever resets
 * the client; on cache lines of its own.
 */
typedef struct Baseline
{
	uint32 epoch; /* moved by each reset: minima from before don't count */
	Figures figures;
} Baseline;

/*
 * The slots and the baselines are arrays of these, and begin on a cache line.
 * So what an exchange writes shares no cache line with what others write.
 */
#define SLOT_SIZE sizeof(Slot)
#define BASELINE_SIZE TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(Baseline))

StaticAssertDecl(sizeof(Slot) % PG_CACHE_LINE_SIZE == 0,
				 "a slot must fill its cache lines");
StaticAssertDecl(
	offsetof(Slot, next) % PG_CACHE_LINE_SIZE == 0 &&
		offsetof(Slot, next) >= offsetof(Slot, figures) + sizeof(Figures),
	"a slot's links must not share a cache line with its figures");
StaticAssertDecl(sizeof(Slot) <= 4736 && sizeof(Figures) == 4480,
				 "a slot has grown: see Memory in docs/reference.md");

/* the calling backend's; NULL before its first ReadyForQuery */
extern Slot *MySlot;
extern Baseline *MyBaseline;

extern void slot_init(Slot *slot, Baseline *baseline);
extern void slot_begin_epoch(void);
extern void slot_set_floor(uint32 floor_us);
extern void slot_set_retransmits(uint32 retransmits);
extern void slot_begin_minute(uint32 minute);
extern void slot_note_minute(uint32 minute);
extern void slot_record_open_wait(int64 us);
extern void slot_record_bound(int64 us);
extern void slot_record_chain(uint64 length, int64 us, uint64 server_us,
							  uint64 network_us);
extern void slot_read(const Slot *slot, Slot *copy);

/*
 * The owner brackets its writes with these; see slot.c.
 */
static inline void
slot_begin_change(Slot *slot)
{
	slot->changes++;
	pg_write_barrier();
}

static inline void
slot_end_change(Slot *slot)
{
	pg_write_barrier();
	slot->changes++;
}

/*
 * Has nobody reset the client since the minima began?
 */
static inline bool
slot_epoch_is_current(void)
{
	return MySlot->epoch == MyBaseline->epoch;
}

/*
 * Record one exchange in the calling backend's slot.  Times that were not
 * measured are NO_SAMPLE; "kind" tells what the turnaround is good for.
 *
 * Runs at the end of every exchange, and so is inline: keep it short.
 */
static pg_attribute_always_inline void
slot_record(int64 turnaround_us, Turnaround kind, int64 server_us,
			bool ends_transaction, TimestampTz now)
{
	Slot *slot = MySlot;

	slot_begin_change(slot);

	slot->figures.counters[ROUND_TRIPS]++;
	slot->figures.counters[TRANSACTIONS] += ends_transaction;
	slot->figures.counters[NETWORK_US] += slot->floor_us;

	if (likely(turnaround_us >= 0))
	{
		if (kind == CEILING)
		{
			slot->figures.counters[CEILINGS_US] += turnaround_us;
			slot->figures.cells[CEILINGS_AT + histogram_cell(turnaround_us)]++;
			if (unlikely(turnaround_us < slot->pending_min_us))
			{
				slot->pending_min_us = (uint32) turnaround_us;
				if (turnaround_us < slot->turnaround_min_us)
					slot->turnaround_min_us = (uint32) turnaround_us;
			}
		}
		else
		{
			slot->figures.counters[OTHERS]++;
			slot->figures.counters[OTHERS_US] += turnaround_us;
		}
	}
	if (likely(server_us >= 0))
	{
		slot->figures.counters[SERVER_US] += server_us;
		slot->figures.cells[SERVER_AT + histogram_cell(server_us)]++;
	}
	slot->last_seen = now;

	slot_end_change(slot);
}

#pragma GCC visibility pop

#endif /* KASM_LATENCY_SLOT_H */
