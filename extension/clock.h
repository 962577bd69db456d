/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The wall clock, and the one that never steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLOCK_H
#define KASM_LATENCY_CLOCK_H

#include "postgres.h"

#include <sys/time.h>
#include <time.h>

#include "datatype/timestamp.h"

/*
 * Both run at the end of every exchange.  Their buffers are static, as one on
 * the stack costs a stack check.
 */

/* nanoseconds of CLOCK_MONOTONIC, the same for all processes */
static inline int64
monotonic_now_ns(void)
{
	static struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

/* GetCurrentTimestamp(), inline */
static inline TimestampTz
wall_now(void)
{
	static struct timeval now;

	gettimeofday(&now, NULL);
	return ((TimestampTz) now.tv_sec -
			(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) *
			   USECS_PER_SEC +
		   now.tv_usec;
}

#endif /* KASM_LATENCY_CLOCK_H */
