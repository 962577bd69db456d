/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The clock that never steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLOCK_H
#define KASM_LATENCY_CLOCK_H

#include "postgres.h"

#include <time.h>

#include "datatype/timestamp.h"

/* microseconds of CLOCK_MONOTONIC, the same for all processes */
static inline int64
monotonic_now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}

#endif /* KASM_LATENCY_CLOCK_H */
