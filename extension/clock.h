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

/* nanoseconds */
static inline int64
timespec_ns(const struct timespec *time)
{
	return (int64) time->tv_sec * INT64CONST(1000000000) + time->tv_nsec;
}

/* as GetCurrentTimestamp() does it */
static inline TimestampTz
timeval_timestamptz(const struct timeval *time)
{
	return ((TimestampTz) time->tv_sec -
			(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) *
			   USECS_PER_SEC +
		   time->tv_usec;
}

/* CLOCK_MONOTONIC, the same for all processes */
static inline int64
monotonic_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return timespec_ns(&now);
}

#endif /* KASM_LATENCY_CLOCK_H */
