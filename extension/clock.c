/*-------------------------------------------------------------------------
 *
 * clock.c
 *		Was the wall clock set?
 *
 * The wall clock and CLOCK_MONOTONIC are slewed alike, so how far they are
 * apart changes only when somebody sets the former, or when the machine is
 * suspended.  That distance is taken once per connection, by the fine clock.
 * At each exchange the coarse one is read in its place, which lags behind by
 * up to a tick, or by more where ticks come late on a busy machine: beyond
 * two ticks the fine clock is asked again.  So a step of less than two ticks
 * may go unseen for a while, and into one sample.
 *
 * All state here is the calling backend's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"

/*
 * Two clocks read one after the other may part by that much; we were
 * interrupted between the two if it is more.
 */
#define FINE_SLACK_NS (200 * NS_PER_US)

/* how often a reading that was interrupted is made anew */
#define READ_ATTEMPTS 10

/* the least that the wall clock is ahead of its guard, if it was not set */
int64 clocks_least_apart_ns = 0;

/* and how much more it may be */
uint64 clocks_slack_ns = 0;

/*
 * All clocks, with no interruption in between: on a machine so busy that
 * there always is one, the last attempt.
 */
static Clocks
read_together(int64 *fine_ns)
{
	Clocks now;

	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++)
	{
		int64 before_ns = clock_ns(CLOCK_MONOTONIC);

		now = clocks_read();
		*fine_ns = clock_ns(CLOCK_MONOTONIC);
		if (*fine_ns - before_ns < FINE_SLACK_NS / 2)
			break;
	}
	return now;
}

/*
 * Begin to watch the wall clock from here.
 */
Clocks
clocks_start(void)
{
	struct timespec tick = { 0, 0 };
	int64 fine_ns;
	Clocks now = read_together(&fine_ns);

	(void) clock_getres(GUARD_CLOCK, &tick);
	clocks_least_apart_ns = clock_ahead_ns(now.wall, fine_ns) - FINE_SLACK_NS;
	clocks_slack_ns = 2 * (FINE_SLACK_NS + tick.tv_nsec);
	return now;
}

/*
 * The two do not agree: read them again.  False if the wall clock was set, or
 * the machine suspended; what was stamped before is then worth nothing, and
 * what comes is held against the clock as it is now.
 */
bool
clocks_look_closely(Clocks *now)
{
	int64 fine_ns;
	int64 moved_ns;

	*now = read_together(&fine_ns);
	moved_ns = clock_ahead_ns(now->wall, fine_ns) -
			   (clocks_least_apart_ns + FINE_SLACK_NS);
	if (moved_ns >= -FINE_SLACK_NS && moved_ns <= FINE_SLACK_NS)
		return true;
	clocks_least_apart_ns += moved_ns;
	return false;
}
