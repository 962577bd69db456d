/*-------------------------------------------------------------------------
 *
 * queue.h
 *		A queue before a pool of connections, simulated.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_QUEUE_H
#define KASM_LATENCY_QUEUE_H

#include "postgres.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/* how many connections a pool may have */
#define QUEUE_MAX_POOL 10000

typedef struct QueueTimes
{
	double p50_us;
	double p95_us;
} QueueTimes;

extern QueueTimes queue_simulate(const double *service_us, int n_service,
								 double arrivals_per_us, int pool);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_QUEUE_H */
