/*-------------------------------------------------------------------------
 *
 * figures.h
 *		What is counted, and its layout.
 *
 * The same figures are kept of a connection (in its slot, as it writes them),
 * of a client's minute, and of a client since the last reset: so they are
 * added up by their numbers alone, and a new counter or histogram is added
 * here, recorded in slot.c and shown by sql_functions.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_FIGURES_H
#define KASM_LATENCY_FIGURES_H

#include "postgres.h"

#include "histogram.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/* Times are microseconds. */
typedef enum Counter
{
	ROUND_TRIPS,	   /* exchanges */
	TRANSACTIONS,	   /* exchanges that ended with status I */
	SERVER_US,		   /* time from a request's arrival to its answer */
	CEILINGS_US,	   /* time from an answer to the next request: ceilings */
	OTHERS,			   /* other turnarounds */
	OTHERS_US,		   /* their times */
	BOUNDS_US,		   /* the shortest ceilings of blocks */
	OPEN_WAIT_US,	   /* waits for a client that keeps a transaction open and
						* that are no ceilings: it was idle, or pipelines */
	NETWORK_US,		   /* exchanges times the floor of that time */
	RETRANSMITS,	   /* TCP segments the server sent again */
	CHAINS,			   /* chains that have ended, and that were timed */
	CHAIN_ROUND_TRIPS, /* their exchanges */
	CHAIN_US,		   /* their durations */
	CHAIN_SERVER_US,   /* of that, server time */
	CHAIN_NETWORK_US,  /* of that, exchanges times the floor */
	/* of a client alone, by the watcher: see collateral.c */
	LOCK_WAIT_US,		 /* its waits for locks */
	MADE_WAIT_US,		 /* waits of other addresses for locks it held */
	MADE_CLIENT_WAIT_US, /* of that, while the server waited for it */
	N_COUNTERS
} Counter;

/*
 * Turnarounds.  What follows an exchange that leaves a transaction open is a
 * ceiling, what follows another is not.
 */
typedef enum Turnaround
{
	CEILING, /* bounds the round trip from above */
	OTHER	 /* may be another client's, or a pause */
} Turnaround;

/*
 * Where the cells of each histogram begin.  For memory's sake turnarounds that
 * are no ceilings have none, as they say nothing; and of the lengths of chains,
 * which are whole numbers on the same scale, up to 20 each has a cell of its
 * own, and the last cell holds all from 280 on.
 */
#define CHAIN_LENGTH_CELLS 60
#define CEILINGS_AT 0
#define BOUNDS_AT (CEILINGS_AT + HISTOGRAM_CELLS)
#define SERVER_AT (BOUNDS_AT + HISTOGRAM_CELLS)
#define CHAIN_DURATIONS_AT (SERVER_AT + HISTOGRAM_CELLS)
#define CHAIN_LENGTHS_AT (CHAIN_DURATIONS_AT + HISTOGRAM_CELLS)
#define N_CELLS (CHAIN_LENGTHS_AT + CHAIN_LENGTH_CELLS)

/* no such sample in this exchange */
#define NO_SAMPLE INT64CONST(-1)

/* no minimum yet */
#define NO_MINIMUM PG_UINT32_MAX

/*
 * The form in which a backend writes them.  32 bits of a cell may wrap in a
 * connection that lives long: what is taken from it are differences, of a
 * minute each.
 */
typedef struct Figures
{
	uint64 counters[N_COUNTERS];
	uint32 cells[N_CELLS];
} Figures;

/* Of any span, wide enough for all. */
typedef struct WideFigures
{
	uint64 counters[N_COUNTERS];
	uint64 cells[N_CELLS];
	uint64 floors[HISTOGRAM_CELLS]; /* of the connections that ended */
	uint64 connections_made;
	uint64 connections_ended;
} WideFigures;

#pragma GCC visibility pop

#endif /* KASM_LATENCY_FIGURES_H */
