/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The clocks, and what each is for.
 *
 *	wall		stamps requests and answers, as PostgreSQL stamps a
 *				statement's start; somebody may set it
 *	guard		CLOCK_MONOTONIC_COARSE: nobody sets it, and a reading costs a
 *				fifth of the others'; it moves by ticks of 1 to 10 ms.  The
 *				course of the wall clock is held against it
 *	minutes		CLOCK_BOOTTIME: goes on while the machine is suspended, so
 *				that "the last 15 minutes" are those of people
 *
 * Other systems have CLOCK_MONOTONIC for the last two.  See clock.c for how
 * the wall clock is watched.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLOCK_H
#define KASM_LATENCY_CLOCK_H

#include "postgres.h"

#include <sys/time.h>
#include <time.h>

#include "datatype/timestamp.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

#ifdef CLOCK_MONOTONIC_COARSE
#define GUARD_CLOCK CLOCK_MONOTONIC_COARSE
#else
#define GUARD_CLOCK CLOCK_MONOTONIC
#endif

#ifdef CLOCK_BOOTTIME
#define MINUTES_CLOCK CLOCK_BOOTTIME
#else
#define MINUTES_CLOCK CLOCK_MONOTONIC
#endif

#define NS_PER_S INT64CONST(1000000000)
#define NS_PER_US INT64CONST(1000)

/* the wall clock and its guard, read one right after the other */
typedef struct Clocks
{
	TimestampTz wall;
	int64 guard_ns;
} Clocks;

extern Clocks clocks_start(void);
extern bool clocks_look_closely(Clocks *now);

/* see clock.c */
extern int64 clocks_least_apart_ns;
extern uint64 clocks_slack_ns;

static inline int64
clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (int64) now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* as GetCurrentTimestamp() does it */
static inline TimestampTz
clock_wall(void)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	return ((TimestampTz) now.tv_sec -
			(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) *
			   USECS_PER_SEC +
		   now.tv_usec;
}

static inline Clocks
clocks_read(void)
{
	Clocks now;

	now.wall = clock_wall();
	now.guard_ns = clock_ns(GUARD_CLOCK);
	return now;
}

/*
 * How far the wall clock is ahead of another, in nanoseconds.  Only
 * differences mean anything: the figure itself may have wrapped.
 */
static inline int64
clock_ahead_ns(TimestampTz wall, int64 other_ns)
{
	return (int64) ((uint64) wall * NS_PER_US - (uint64) other_ns);
}

/*
 * Is the wall clock where its guard says that it is?  If not, it may have
 * been set: clocks_look_closely() tells.
 */
static inline bool
clocks_agree(Clocks now)
{
	return (uint64) (clock_ahead_ns(now.wall, now.guard_ns) -
					 clocks_least_apart_ns) <= clocks_slack_ns;
}

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CLOCK_H */
