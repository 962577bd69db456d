/*-------------------------------------------------------------------------
 *
 * chain.c
 *		Blocks and chains on the calling backend's connection.
 *
 * A block is what lies between two ReadyForQuery with status I: for that long
 * the connection belongs to one client, behind a pooler too.  Its bound is its
 * shortest ceiling; a block without a ceiling has none.
 *
 * A chain is what a user waits for, sequential and blocking queries: one transaction block, BEGIN and COMMIT included.  Exchanges
 * outside of blocks make one as long as the client pauses between them no
 * longer than chain_longest_gap_us.  When a chain begins and ends is for
 * exchange.c to say; here is what is remembered of its beginning, and how it
 * is recorded at its end, in the backend's slot.
 *
 * Its length is the number of its exchanges.  Its duration is the client's:
 * from the first request's arrival to the last answer, and one round trip,
 * for the way there and back; without the times for which the client was idle
 * (in_transaction_wait_s has these), so that a forgotten console does not
 * drown what all others do.
 *
 * All state here is the calling backend's own.  A chain that is over for want
 * of further exchanges is recorded when the next one comes, or at exit: so
 * nothing has to watch the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "chain.h"
#include "slot.h"

/*
 * Between exchanges outside of transaction blocks: what a program needs to
 * get on with the next query, and not what a person does, or a timer.
 */
#define GAP_US INT64CONST(10000)
#define GAP_ROUND_TRIPS 10
#define NO_CHAIN (-1)

int64 chain_longest_gap_us = NO_CHAIN;

int64 block_bound_us = NO_BOUND;

/* the first request; 0 = not known, or lost with a clock that was set */
static TimestampTz began_at;

/* the slot's counters then */
static uint64 round_trips_before;
static uint64 server_us_before;
static uint64 network_us_before;

/* for how long the client was idle in it */
static int64 idle_us;

/*
 * A block has ended: record its bound, if it has one.
 */
void
block_end(void)
{
	if (block_bound_us == NO_BOUND)
		return;
	slot_record_bound(block_bound_us);
	block_bound_us = NO_BOUND;
}

static bool
chain_is_open(void)
{
	return chain_longest_gap_us != NO_CHAIN;
}

static void
chain_open(TimestampTz request_at)
{
	const uint64 *counters = MySlot->figures.counters;

	chain_longest_gap_us =
		Max(GAP_US, GAP_ROUND_TRIPS * (int64) MySlot->floor_us);
	began_at = request_at;
	round_trips_before = counters[ROUND_TRIPS];
	server_us_before = counters[SERVER_US];
	network_us_before = counters[NETWORK_US];
	idle_us = 0;
}

/*
 * The chain's last exchange is the last one recorded.
 */
void
chain_end(void)
{
	const uint64 *counters = MySlot->figures.counters;
	int64 us = NO_SAMPLE;

	if (!chain_is_open())
		return;
	chain_longest_gap_us = NO_CHAIN;
	if (began_at != 0)
		us = MySlot->last_seen - began_at + MySlot->floor_us - idle_us;
	if (us < 0)
		us = NO_SAMPLE;
	slot_record_chain(counters[ROUND_TRIPS] - round_trips_before, us,
					  counters[SERVER_US] - server_us_before,
					  counters[NETWORK_US] - network_us_before);
}

/*
 * The client was idle since then: no part of the chain, if that has not begun
 * only after it.
 */
void
chain_leave_out(int64 idle, TimestampTz since)
{
	if (began_at <= since)
		idle_us += idle;
}

void
chain_lose_time(void)
{
	began_at = 0;
}

/*
 * What has begun counts no more.
 */
void
chain_drop(void)
{
	chain_longest_gap_us = NO_CHAIN;
}

/*
 * An exchange is about to be recorded, before which the client was silent for
 * that long: does a chain end before it, does one begin with it?  A block is
 * a chain of its own; what goes before it makes another.
 */
void
chain_turn(bool begins_block, Turnaround before, int64 silent_us,
		   TimestampTz request_at)
{
	if (begins_block || (before == OTHER && silent_us > chain_longest_gap_us))
		chain_end();
	if (!chain_is_open())
		chain_open(request_at);
}

/*
 * The same where the chain has lasted for so long that it is to be cut: a
 * client that never pauses outside of blocks would never be recorded else.
 */
void
chain_cut_endless(TimestampTz request_at)
{
	if (MySlot->figures.counters[ROUND_TRIPS] == round_trips_before ||
		MySlot->last_seen - began_at <= USECS_PER_MINUTE)
		return;
	chain_end();
	chain_open(request_at);
}
