/*-------------------------------------------------------------------------
 *
 * histogram.c
 *		Log-linear latency histogram: cell arithmetic and percentiles.
 *
 * The scale is piecewise linear; its pieces ("segments") start at 1, 2 and 5
 * times each power of ten.  A power-of-two bracket [2^b, 2^(b+1)) holds at
 * most one segment start, as neighbouring starts are a factor of two or more
 * apart.  So the position of the highest bit names the segment up to one
 * comparison, and a multiplication with a scaled reciprocal takes the place
 * of the division by the segment's step.
 *
 * This file owns no memory.  histogram_cell() runs twice per exchange.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "port/pg_bitutils.h"

#include "histogram.h"

#define OVERFLOW_CELL (HISTOGRAM_CELLS - 1)
#define OVERFLOW_US INT64CONST(100000000)

typedef struct Segment
{
	uint32 start;	   /* us, first value of the segment */
	uint32 step;	   /* us, width of its cells */
	uint32 first_cell; /* cell of "start" */
	uint64 reciprocal; /* 2^48 / step, rounded up */
} Segment;

/*
 * (offset * reciprocal) >> 48 = offset / step: exact as long as offset * step
 * stays below 2^48 (it is at most 5e7 * 5e6), and within 64 bits as an offset
 * is at most 15 steps.
 */
#define RECIPROCAL_BITS 48
#define SEGMENT(start, step, first_cell)                                      \
	{                                                                         \
		start, step, first_cell,                                              \
			((UINT64CONST(1) << RECIPROCAL_BITS) + (step) -1) / (step)        \
	}

#define DECADE(ten, first_cell)                                               \
	SEGMENT(ten, (ten) / 10, first_cell),                                     \
		SEGMENT(2 * (ten), (ten) / 5, (first_cell) + 10),                     \
		SEGMENT(5 * (ten), (ten) / 2, (first_cell) + 25)

/*
 * Segment 0, the values 0 to 19, is the identity: histogram_cell() answers
 * these itself.  The last one only ends the one before it.
 */
static const Segment segments[] = {
	{ 0, 1, 0, 0 },		   SEGMENT(20, 2, 20),
	SEGMENT(50, 5, 35),	   DECADE(100, 45),
	DECADE(1000, 80),	   DECADE(10000, 115),
	DECADE(100000, 150),   DECADE(1000000, 185),
	DECADE(10000000, 220), { OVERFLOW_US, 1, OVERFLOW_CELL, 0 },
};

#define N_SEGMENTS ((int) lengthof(segments))

/* by position of the highest bit: the segment of 2^bit */
static const uint8 segment_of_bit[] = {
	0,	/* 1 */
	0,	/* 2 */
	0,	/* 4 */
	0,	/* 8 */
	0,	/* 16 */
	1,	/* 32 */
	2,	/* 64 */
	3,	/* 128 */
	4,	/* 256 */
	5,	/* 512 */
	6,	/* 1024 */
	7,	/* 2048 */
	7,	/* 4096 */
	8,	/* 8192 */
	9,	/* 16384 */
	10, /* 32768 */
	11, /* 65536 */
	12, /* 131072 */
	13, /* 262144 */
	14, /* 524288 */
	15, /* 1048576 */
	16, /* 2097152 */
	16, /* 4194304 */
	17, /* 8388608 */
	18, /* 16777216 */
	19, /* 33554432 */
	20, /* 67108864 */
};

/*
 * The cell that a latency of "us" microseconds falls into.  Negative values,
 * which no caller should have, count as 0.
 */
int
histogram_cell(int64 us)
{
	const Segment *segment;

	if (us < 20)
		return us < 0 ? 0 : (int) us;
	if (us >= OVERFLOW_US)
		return OVERFLOW_CELL;

	segment = &segments[segment_of_bit[pg_leftmost_one_pos32((uint32) us)]];
	if ((uint32) us >= segment[1].start)
		segment++;
	return segment->first_cell +
		   (int) (((uint32) us - segment->start) * segment->reciprocal >>
				  RECIPROCAL_BITS);
}

/*
 * The lowest value, in microseconds, of a cell.  The one past the last cell
 * has no start; callers show it as infinity.
 */
int64
histogram_cell_start(int cell)
{
	int i = N_SEGMENTS - 1;

	Assert(cell >= 0 && cell < HISTOGRAM_CELLS);

	while ((int) segments[i].first_cell > cell)
		i--;
	return (int64) segments[i].start +
		   (int64) (cell - (int) segments[i].first_cell) * segments[i].step;
}

/*
 * The latency, in microseconds, below or at which "fraction" of the counted
 * ones lie; -1 if none was counted.
 *
 * Within a cell values are taken as evenly spread, and each as the middle of
 * its share: so a percentile never touches the far boundary of its cell, and
 * one whose values all lie below a limit on a boundary is below it too.  The
 * overflow cell answers with its start.
 */
double
histogram_percentile(const uint64 *counts, double fraction)
{
	uint64 total = 0;
	uint64 before = 0;
	double rank;

	for (int cell = 0; cell < HISTOGRAM_CELLS; cell++)
		total += counts[cell];
	if (total == 0)
		return -1;

	/* the rank is 1 for the lowest, as percentile_disc counts */
	rank = ceil(fraction * (double) total);
	if (rank < 1)
		rank = 1;

	for (int cell = 0; cell < OVERFLOW_CELL; cell++)
	{
		if ((double) (before + counts[cell]) >= rank)
		{
			double start = (double) histogram_cell_start(cell);
			double width = (double) histogram_cell_start(cell + 1) - start;

			/* up to 19 us a cell is one exact value */
			if (cell < 20)
				return start;
			return start + width * (rank - (double) before - 0.5) /
							   (double) counts[cell];
		}
		before += counts[cell];
	}
	return (double) OVERFLOW_US;
}
