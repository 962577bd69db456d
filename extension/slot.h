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

#include "histogram.h"

/* not for other libraries: so that calls and variables need no table */
#pragma GCC visibility push(hidden)

/* Counters of a connection, a client, a minute.  Times are microseconds. */
typedef enum Counter
{
	ROUND_TRIPS,  /* exchanges */
	TRANSACTIONS, /* exchanges that ended with status I */
	SERVER_US,	  /* time from a request's arrival to its answer */
	/* time from an answer to the next request: see TURNAROUND_US() */
	TURNAROUND_OPEN_US, /* of a client that keeps a transaction open */
	TURNAROUND_IDLE_US, /* of one that does not */
	IDLE_OPEN_US,		/* the former, where it is too long for a turnaround */
	NETWORK_US,			/* exchanges times the floor of that time */
	RETRANSMITS,		/* TCP segments the server sent again */
	CHAINS,				/* chains that have ended, and that were timed */
	CHAIN_ROUND_TRIPS,	/* their exchanges */
	CHAIN_US,			/* their durations */
	CHAIN_SERVER_US,	/* of that, server time */
	CHAIN_NETWORK_US,	/* of that, exchanges times the floor */
	N_COUNTERS
} Counter;

/*
 * Turnarounds.  What follows an exchange that leaves a transaction open is a
 * ceiling, what follows another is not: so one number names histogram and
 * counter.
 */
typedef enum Turnaround
{
	CEILINGS, /* bound the round trip from above */
	OTHERS	  /* may be another client's, or a pause */
} Turnaround;

#define TURNAROUND_US(turnaround)                                             \
	((Counter) (TURNAROUND_OPEN_US + (turnaround)))

StaticAssertDecl(CEILINGS == 0 && OTHERS == 1 &&
					 TURNAROUND_IDLE_US == TURNAROUND_OPEN_US + 1,
				 "turnarounds are counted by their kind's number");

/*
 * Where the cells of each histogram begin.  For memory's sake two are no finer
 * than need be: turnarounds that are no ceilings are counted coarsely; and of
 * the lengths of chains, which are whole numbers on the same scale, up to 20
 * each has a cell of its own, and the last cell holds all from 280 on.
 */
#define CHAIN_LENGTH_CELLS 60
#define CEILINGS_AT 0
#define OTHERS_AT (CEILINGS_AT + HISTOGRAM_CELLS)
#define SERVER_AT (OTHERS_AT + COARSE_HISTOGRAM_CELLS)
#define CHAIN_DURATIONS_AT (SERVER_AT + HISTOGRAM_CELLS)
#define CHAIN_LENGTHS_AT (CHAIN_DURATIONS_AT + HISTOGRAM_CELLS)
#define N_CELLS (CHAIN_LENGTHS_AT + CHAIN_LENGTH_CELLS)

/* the cell of a turnaround: one number is histogram and coarseness */
#define TURNAROUND_CELL(turnaround, us)                                       \
	((turnaround) *OTHERS_AT + (histogram_cell(us) >> (turnaround)))

/* no such sample in this exchange */
#define NO_SAMPLE INT64CONST(-1)

/* no minimum yet */
#define NO_MINIMUM PG_UINT32_MAX

/*
 * What is counted, in the form in which a backend writes it.  32 bits of a
 * cell may wrap in a connection that lives long: what is taken from it are
 * differences, of a minute each.
 */
typedef struct Figures
{
	uint64 counters[N_COUNTERS];
	uint32 cells[N_CELLS];
} Figures;

typedef struct Slot
{
	/* odd while the owner writes what follows up to "figures" */
	uint32 changes;

	uint32 epoch;			  /* of the baseline, when the minima began */
	uint32 floor_us;		  /* lowest tcpi_min_rtt seen; 0 = not known */
	uint32 turnaround_min_us; /* lowest ceiling since connect or reset */
	uint32 pending_min_us;	  /* lowest ceiling since the last fold */
	uint32 minute;			  /* to which all that is not folded belongs */
	TimestampTz last_seen;	  /* end of the last exchange, or connect */
	Figures figures;

	/*
	 * Under the client's lock, and so not on a cache line of the above: other
	 * backends write the link.
	 */
	int next pg_attribute_aligned(PG_CACHE_LINE_SIZE); /* slot of the same
														* client, or -1 */
	int client; /* index of the client entry */
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
StaticAssertDecl(sizeof(Slot) <= 4096 && sizeof(Figures) == 3928,
				 "a slot has grown: see Memory in docs/reference.md");

/* the calling backend's; NULL before its first ReadyForQuery */
extern Slot *MySlot;
extern Baseline *MyBaseline;

extern void slot_init(Slot *slot, Baseline *baseline);
extern void slot_set_floor(uint32 floor_us);
extern void slot_set_retransmits(uint32 retransmits);
extern void slot_begin_minute(uint32 minute);
extern void slot_record_idle_open(int64 us);
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
 * Record one exchange in the calling backend's slot.  Times that were not
 * measured are NO_SAMPLE; "waited" tells what kept the turnaround waiting,
 * "kind" what it is good for: the same but for connections that
 * pipeline; "ends_transaction" is 0 or 1.
 *
 * Runs at the end of every exchange, and so is inline: keep it short.
 */
static pg_attribute_always_inline void
slot_record(int64 turnaround_us, Turnaround waited, Turnaround kind,
			int64 server_us, uint64 ends_transaction, TimestampTz now)
{
	Slot *slot = MySlot;

	slot_begin_change(slot);

	if (unlikely(slot->epoch != MyBaseline->epoch))
	{
		slot->epoch = MyBaseline->epoch;
		slot->turnaround_min_us = NO_MINIMUM;
		slot->pending_min_us = NO_MINIMUM;
	}

	slot->figures.counters[ROUND_TRIPS]++;
	slot->figures.counters[TRANSACTIONS] += ends_transaction;
	slot->figures.counters[NETWORK_US] += slot->floor_us;

	if (likely(turnaround_us >= 0))
	{
		slot->figures.counters[TURNAROUND_US(waited)] += turnaround_us;
		slot->figures.cells[TURNAROUND_CELL(kind, turnaround_us)]++;
		if (unlikely(turnaround_us < slot->pending_min_us) && kind == CEILINGS)
		{
			slot->pending_min_us = (uint32) turnaround_us;
			if (turnaround_us < slot->turnaround_min_us)
				slot->turnaround_min_us = (uint32) turnaround_us;
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
