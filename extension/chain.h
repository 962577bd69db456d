/*-------------------------------------------------------------------------
 *
 * chain.h
 *		Blocks and chains on the calling backend's connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CHAIN_H
#define KASM_LATENCY_CHAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "figures.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/*
 * How long the client may pause between exchanges outside of transaction
 * blocks for the chain to go on; less than nothing where none is open.
 */
extern int64 chain_longest_gap_us;


/* the shortest ceiling of the block so far; NO_BOUND = it had none */
extern int64 block_bound_us;

#define NO_BOUND PG_INT64_MAX

extern void block_end(void);
extern void chain_turn(bool begins_block, Turnaround before, int64 silent_us,
					   TimestampTz request_at);
extern void chain_cut_endless(TimestampTz request_at);
extern void chain_drop(void);
extern void chain_end(void);
extern void chain_leave_out(int64 idle, TimestampTz since);
extern void chain_lose_time(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CHAIN_H */
