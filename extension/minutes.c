/*-------------------------------------------------------------------------
 *
 * minutes.c
 *		A client's history: totals, and figures by minutes.
 *
 * A history holds the totals since the last reset, and two rings that are
 * filled at once, of 16 one-minute and 13 five-minute cells.  A cell knows the
 * number of its minute, so a ring needs no sweeping: a cell is cleared when a
 * newer minute takes its place, and a reader skips those that are too old.
 *
 * Minutes are numbered by a clock that is set against the wall clock once, at
 * server start: they never step, and still mean the same after a restart, so
 * that the save file's cells age by themselves.
 *
 * This file owns no shared memory and takes no locks: a history is guarded by
 * its client's lock, see client_table.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "minutes.h"

/* the wall clock minus MINUTES_CLOCK, at server start: in every process */
static int64 clock_offset_us = 0;


/* ----------
 * The clock
 * ----------
 */

/*
 * What the clock's offset is to be, at server start.  Minutes are those since
 * 1970, and an hour and more: so that the first minute of a span has a number
 * whatever a machine takes for the time when it begins to run.
 */
int64
minutes_clock_offset_now(void)
{
	int64 unix_us = clock_wall() +
					(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

	return Max(unix_us, 0) + 100 * USECS_PER_MINUTE -
		   clock_ns(MINUTES_CLOCK) / NS_PER_US;
}

void
minutes_set_clock(int64 offset_us)
{
	clock_offset_us = offset_us;
}

int64
minutes_now_us(void)
{
	return clock_ns(MINUTES_CLOCK) / NS_PER_US + clock_offset_us;
}

uint32
minute_at(int64 minutes_us)
{
	return (uint32) (minutes_us / USECS_PER_MINUTE);
}

uint32
minutes_now(void)
{
	return minute_at(minutes_now_us());
}

/* how long that minute still lasts; not positive if it is over */
int64
minute_left_ns(uint32 minute)
{
	return (((int64) minute + 1) * USECS_PER_MINUTE - minutes_now_us()) *
		   NS_PER_US;
}

/*
 * Was it in the hour before "minute"?  By another backend it may be of a
 * minute later.  0 is never.
 */
bool
minute_within_hour(uint32 logged, uint32 minute)
{
	return logged != 0 &&
		   (logged >= minute || minute - logged < MINS_PER_HOUR);
}


/* ----------
 * Adding up
 * ----------
 */

/* to += now - before; 32-bit cells may have wrapped, differences not */
void
figures_add_difference(WideFigures *to, const Figures *now,
					   const Figures *before)
{
	for (int i = 0; i < N_COUNTERS; i++)
		to->counters[i] += now->counters[i] - before->counters[i];
	for (int i = 0; i < N_CELLS; i++)
		to->cells[i] += (uint32) (now->cells[i] - before->cells[i]);
}

/*
 * The same of the ceilings alone.
 */
void
figures_add_ceilings(uint64 *cells, const Figures *now, const Figures *before)
{
	for (int c = 0; c < HISTOGRAM_CELLS; c++)
		cells[c] += (uint32) (now->cells[CEILINGS_AT + c] -
							  before->cells[CEILINGS_AT + c]);
}

void
figures_add_wide(WideFigures *to, const WideFigures *from)
{
	for (int i = 0; i < N_COUNTERS; i++)
		to->counters[i] += from->counters[i];
	for (int i = 0; i < N_CELLS; i++)
		to->cells[i] += from->cells[i];
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		to->floors[i] += from->floors[i];
	to->connections_made += from->connections_made;
	to->connections_ended += from->connections_ended;
}

/* of a cell all is new */
static const Figures none;

static void
add_cell(WideFigures *to, const Cell *cell)
{
	figures_add_difference(to, &cell->figures, &none);
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		to->floors[i] += cell->floors[i];
	to->connections_made += cell->connections_made;
	to->connections_ended += cell->connections_ended;
}


/* ----------
 * One history
 * ----------
 */

/*
 * The ring's cell of that number, cleared if it held an older one; NULL if a
 * newer one has its place already.
 */
static Cell *
ring_cell(Cell *ring, int n_cells, uint32 number)
{
	Cell *cell = &ring[number % n_cells];

	if (cell->number == number)
		return cell;
	if (cell->number > number)
		return NULL;
	memset(cell, 0, sizeof(Cell));
	cell->number = number;
	cell->turnaround_min_us = NO_MINIMUM;
	return cell;
}

/*
 * The minute's cells in the two rings.  One that is NULL is gone already: what
 * comes so late goes to the totals only.
 */
static void
minute_cells(History *history, uint32 minute, Cell *cells[2])
{
	cells[0] = ring_cell(history->minutes, MINUTE_CELLS, minute);
	cells[1] = ring_cell(history->fives, FIVE_CELLS, minute / 5);
}

void
history_clear(History *history)
{
	memset(&history->totals, 0, sizeof(WideFigures));

	/* a cell is cleared when its number is taken */
	for (int i = 0; i < MINUTE_CELLS; i++)
		history->minutes[i].number = 0;
	for (int i = 0; i < FIVE_CELLS; i++)
		history->fives[i].number = 0;
}

/*
 * Forget cells that are still to come: the wall clock was set back while the
 * server was down.
 */
void
history_drop_future(History *history, uint32 now_minute)
{
	for (int i = 0; i < MINUTE_CELLS; i++)
		if (history->minutes[i].number > now_minute)
			history->minutes[i].number = 0;
	for (int i = 0; i < FIVE_CELLS; i++)
		if (history->fives[i].number > now_minute / 5)
			history->fives[i].number = 0;
}

/*
 * Add what a connection has gained in a minute: "now" less "before".
 */
void
history_add(History *history, uint32 minute, const Figures *now,
			const Figures *before, uint32 turnaround_min_us)
{
	Cell *cells[2];

	minute_cells(history, minute, cells);
	for (int c = 0; c < 2; c++)
	{
		Cell *cell = cells[c];

		if (cell == NULL)
			continue;
		for (int i = 0; i < N_COUNTERS; i++)
			cell->figures.counters[i] +=
				now->counters[i] - before->counters[i];
		for (int i = 0; i < N_CELLS; i++)
			cell->figures.cells[i] += now->cells[i] - before->cells[i];
		cell->turnaround_min_us =
			Min(cell->turnaround_min_us, turnaround_min_us);
	}
	figures_add_difference(&history->totals, now, before);
}

/*
 * Add to one of the figures that no connection counts by itself.
 */
void
history_add_counter(History *history, uint32 minute, Counter counter,
					uint64 us)
{
	Cell *cells[2];

	minute_cells(history, minute, cells);
	for (int c = 0; c < 2; c++)
		if (cells[c] != NULL)
			cells[c]->figures.counters[counter] += us;
	history->totals.counters[counter] += us;
}

void
history_count_connect(History *history, uint32 minute)
{
	Cell *cells[2];

	minute_cells(history, minute, cells);
	for (int c = 0; c < 2; c++)
		if (cells[c] != NULL)
			cells[c]->connections_made++;
	history->totals.connections_made++;
}

/*
 * A connection has ended: count it, under its floor.  Those alive in a span
 * are thus the ones that ended in it and the live ones, which a reader finds
 * itself.
 */
void
history_count_end(History *history, uint32 minute, uint32 floor_us)
{
	Cell *cells[2];

	minute_cells(history, minute, cells);
	for (int c = 0; c < 2; c++)
	{
		if (cells[c] == NULL)
			continue;
		cells[c]->connections_ended++;
		if (floor_us != 0)
			cells[c]->floors[histogram_cell(floor_us)]++;
	}
	history->totals.connections_ended++;
	if (floor_us != 0)
		history->totals.floors[histogram_cell(floor_us)]++;
}

/*
 * A span of minutes (1 to SPAN_MAX_MINUTES), or since the last reset.  It
 * reaches back to the beginning of its first minute and includes the running
 * one; beyond 15 minutes it goes by fives.
 */
Span
span_of_minutes(int span_minutes, uint32 now_minute)
{
	Span span = { .since_reset = span_minutes == SPAN_SINCE_RESET,
				  .by_fives = span_minutes >= MINUTE_CELLS };

	if (span.by_fives)
		span.first_minute = (now_minute / 5 - (span_minutes + 4) / 5) * 5;
	else if (!span.since_reset)
		span.first_minute = now_minute - span_minutes;
	return span;
}

/*
 * Add up what a history has of a span.
 */
void
history_read(const History *history, const Span *span, WideFigures *figures,
			 uint32 *turnaround_min_us)
{
	const Cell *ring = span->by_fives ? history->fives : history->minutes;
	int n_cells = span->by_fives ? FIVE_CELLS : MINUTE_CELLS;
	uint32 first =
		span->by_fives ? span->first_minute / 5 : span->first_minute;

	if (span->since_reset)
	{
		figures_add_wide(figures, &history->totals);
		return;
	}
	for (int i = 0; i < n_cells; i++)
	{
		if (ring[i].number < first)
			continue;
		add_cell(figures, &ring[i]);
		*turnaround_min_us =
			Min(*turnaround_min_us, ring[i].turnaround_min_us);
	}
}

/*
 * Add the ceilings of the minutes from "first" on.
 */
void
history_read_ceilings(const History *history, uint32 first, uint64 *cells)
{
	for (int i = 0; i < MINUTE_CELLS; i++)
		if (history->minutes[i].number >= first)
			figures_add_ceilings(cells, &history->minutes[i].figures, &none);
}
