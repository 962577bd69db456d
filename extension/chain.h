/*-------------------------------------------------------------------------
 *
 * chain.h
 *		Runs of exchanges on the calling backend's connection.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CHAIN_H
#define KASM_LATENCY_CHAIN_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* not for other libraries: so that calls and variables need no table */
#pragma GCC visibility push(hidden)

extern bool chain_is_open(void);
extern void chain_open(TimestampTz request_at);
extern void chain_end(void);
extern void chain_lose_time(void);
extern bool chain_is_endless(void);
extern int64 chain_longest_gap_us(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CHAIN_H */
