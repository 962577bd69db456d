/*-------------------------------------------------------------------------
 *
 * queue.c
 *		A queue before a pool of connections, simulated.
 *
 * Launches arrive at random (Poisson), wait for a connection in the order in
 * which they came, and hold it for a time drawn from those that were measured.
 * No formula knows the waits of such a queue; but a simulation of some ten
 * thousand launches takes a millisecond.  The dice are the same each time, so
 * that a forecast is the same for the same figures.
 *
 * This file owns no memory and knows nothing of PostgreSQL but palloc().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "queue.h"

/*
 * So many launches are counted, after a fifth as many that fill the queue;
 * fewer, where there is hardly any.
 */
#define LAUNCHES 20000
#define LAUNCHES_AT_EASE 4000
#define AT_EASE 0.5

/* xorshift64* */
static uint64
next_random(uint64 *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64CONST(2685821657736338717);
}

/* above 0, at most 1 */
static double
next_fraction(uint64 *state)
{
	return (double) ((next_random(state) >> 11) + 1) / 9007199254740992.0;
}

/*
 * Give the connection that is free first, at the root of the heap, another
 * time when it is free.
 */
static void
occupy_first(double *free_at, int pool, double until)
{
	int parent = 0;

	for (;;)
	{
		int child = 2 * parent + 1;

		if (child >= pool)
			break;
		if (child + 1 < pool && free_at[child + 1] < free_at[child])
			child++;
		if (free_at[child] >= until)
			break;
		free_at[parent] = free_at[child];
		parent = child;
	}
	free_at[parent] = until;
}

/*
 * The value of that rank, from 0, of an array that is put in another order.
 */
static double
select_rank(double *values, int n, int rank)
{
	int first = 0;
	int last = n - 1;

	while (first < last)
	{
		double pivot = values[(first + last) / 2];
		int i = first;
		int k = last;

		while (i <= k)
		{
			while (values[i] < pivot)
				i++;
			while (values[k] > pivot)
				k--;
			if (i <= k)
			{
				double value = values[i];

				values[i++] = values[k];
				values[k--] = value;
			}
		}
		if (rank <= k)
			last = k;
		else if (rank >= i)
			first = i;
		else
			break;
	}
	return values[rank];
}

/*
 * How long launches take, their wait for a connection included, where so many
 * arrive and a connection is held for one of the times given, each as often as
 * another.  The pool must be able to carry that.
 */
QueueTimes
queue_simulate(const double *service_us, int n_service, double arrivals_per_us,
			   int pool)
{
	double *took_us = palloc(sizeof(double) * LAUNCHES);
	double *free_at = palloc0(sizeof(double) * pool);
	uint64 random = UINT64CONST(88172645463325252);
	double mean_us = 0;
	double now = 0;
	int launches;
	QueueTimes times;

	for (int i = 0; i < n_service; i++)
		mean_us += service_us[i] / n_service;
	launches = mean_us * arrivals_per_us < AT_EASE * pool ? LAUNCHES_AT_EASE
														  : LAUNCHES;
	for (int i = -launches / 5; i < launches; i++)
	{
		double begins;
		double ends;

		now -= log(next_fraction(&random)) / arrivals_per_us;
		begins = Max(now, free_at[0]);
		ends = begins + service_us[next_random(&random) % n_service];
		occupy_first(free_at, pool, ends);
		if (i >= 0)
			took_us[i] = ends - now;
	}
	times.p50_us = select_rank(took_us, launches, launches / 2);
	times.p95_us = select_rank(took_us, launches, launches * 19 / 20);
	pfree(free_at);
	pfree(took_us);
	return times;
}
