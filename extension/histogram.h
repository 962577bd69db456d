/*-------------------------------------------------------------------------
 *
 * histogram.h
 *		Log-linear latency histogram: which cell a latency falls into.
 *
 * A histogram is an array of HISTOGRAM_CELLS counters.  Latencies are whole
 * microseconds.  Cells 0 to 9 hold exactly 0 to 9 us; then every decade,
 * from 10 us up to 100 s, has 35 cells: steps of a tenth of its start up to
 * twice that, of a fifth up to five times, of a half up to ten times.  The
 * last cell holds everything from 100 s on.  So a cell is at most 10 % wide
 * (a value taken as its cell's middle is at most 5 % off), and 1, 5, 10
 * and 100 ms are boundaries, so that "below the limit" is exact there.
 *
 * Everything is integer arithmetic.  No PostgreSQL header but c.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_HISTOGRAM_H
#define KASM_LATENCY_HISTOGRAM_H

#include "postgres.h"

#include "port/pg_bitutils.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

#define HISTOGRAM_CELLS 256

/*
 * The scale is piecewise linear; its pieces ("segments") start at 1, 2 and 5
 * times each power of ten, at the tenth of their steps.  The cell of a value
 * is base + value / step, the division done by a reciprocal.
 */
typedef struct HistogramSegment
{
	uint64 start;	   /* us, first value of the segment */
	uint64 reciprocal; /* 2^58 / step, rounded up; 0 for one cell in all */
	int64 base;
	uint64 step; /* us, width of its cells */
} HistogramSegment;

#define HISTOGRAM_RECIPROCAL_BITS 58

extern const HistogramSegment histogram_segments[];
extern const uint8 histogram_segment_of_bit[64];

/* the sum of what was counted is not known */
#define NO_SUM INT64CONST(-1)

extern int64 histogram_cell_start(int cell);
extern double histogram_percentile(const uint64 *counts, double fraction,
								   int64 sum_us);
extern int64 histogram_middle_sum(const uint64 *counts, int first, int last);
extern int64 histogram_percentile_whole(const uint64 *counts, double fraction);

/*
 * The cell that a latency of "us" microseconds, not negative, falls into.
 * Runs twice per exchange.
 *
 * A power-of-two bracket [2^b, 2^(b+1)) holds at most one segment start, as
 * neighbouring starts are a factor of two or more apart.  So the position of
 * the highest bit names the segment up to one comparison.
 */
static inline uint64
histogram_cell(uint64 us)
{
	const HistogramSegment *segment =
		&histogram_segments[histogram_segment_of_bit[(
			unsigned int) pg_leftmost_one_pos64(us | 1)]];

	if (us >= segment[1].start)
		segment++;
	return segment->base +
		   (us * segment->reciprocal >> HISTOGRAM_RECIPROCAL_BITS);
}

#pragma GCC visibility pop

#endif /* KASM_LATENCY_HISTOGRAM_H */
