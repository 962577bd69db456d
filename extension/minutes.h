/*-------------------------------------------------------------------------
 *
 * minutes.h
 *		A client's history: totals, and figures by minutes.
 *
 * See minutes.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_MINUTES_H
#define KASM_LATENCY_MINUTES_H

#include "postgres.h"

#include "figures.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

#define MINUTE_CELLS 16
#define FIVE_CELLS 13

/* the spans that can be read, in minutes */
#define SPAN_MAX_MINUTES 60
#define SPAN_SINCE_RESET 0

typedef struct Cell
{
	uint32 number; /* of its minute, or of its five minutes; 0 = unused */
	uint32 turnaround_min_us;
	uint32 connections_made;
	uint32 connections_ended;
	Figures figures;
	uint32 floors[HISTOGRAM_CELLS]; /* of the connections that ended */
} Cell;

typedef struct History
{
	WideFigures totals;
	Cell minutes[MINUTE_CELLS];
	Cell fives[FIVE_CELLS];
} History;

/* the minutes of a span that is read */
typedef struct Span
{
	bool since_reset; /* all of it: the totals */
	bool by_fives;
	uint32 first_minute; /* 0 for the totals */
} Span;

/* the clock by which minutes are numbered */
extern void minutes_set_clock(int64 offset_us);
extern int64 minutes_clock_offset_now(void);
extern int64 minutes_now_us(void);
extern uint32 minutes_now(void);
extern uint32 minute_at(int64 minutes_us);
extern int64 minute_left_ns(uint32 minute);

/* what was logged in a minute, 0 for never, is not logged again for an hour */
extern bool minute_within_hour(uint32 logged, uint32 minute);

/* adding up */
extern void figures_add_difference(WideFigures *to, const Figures *now,
								   const Figures *before);
extern void figures_add_ceilings(uint64 *cells, const Figures *now,
								 const Figures *before);
extern void figures_add_wide(WideFigures *to, const WideFigures *from);

/* one client's history; the caller holds the lock that guards it */
extern void history_clear(History *history);
extern void history_drop_future(History *history, uint32 now_minute);
extern void history_add(History *history, uint32 minute, const Figures *now,
						const Figures *before, uint32 turnaround_min_us);
extern void history_add_counter(History *history, uint32 minute,
								Counter counter, uint64 us);
extern void history_count_connect(History *history, uint32 minute);
extern void history_count_end(History *history, uint32 minute,
							  uint32 floor_us);
extern void history_read(const History *history, const Span *span,
						 WideFigures *figures, uint32 *turnaround_min_us);
extern void history_read_ceilings(const History *history, uint32 first,
								  uint64 *cells);
extern Span span_of_minutes(int span_minutes, uint32 now_minute);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_MINUTES_H */
