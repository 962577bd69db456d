/*-------------------------------------------------------------------------
 *
 * histogram.c
 *		Log-linear latency histogram: its scale, and percentiles.
 *
 * This file owns no memory but a table of the scale.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "histogram.h"

#define OVERFLOW_CELL (HISTOGRAM_CELLS - 1)
#define OVERFLOW_US INT64CONST(100000000)

/*
 * (us * reciprocal) >> 58 = us / step: exact as long as us * step stays below
 * 2^58 (it is at most 1e8 * 5e6), and within 64 bits as us is at most 20
 * steps.
 */
#define SEGMENT(start, step, first_cell)                                      \
	{                                                                         \
		start,                                                                \
			((UINT64CONST(1) << HISTOGRAM_RECIPROCAL_BITS) + (step) -1) /     \
				(step),                                                       \
			(first_cell) - (start) / (step), step                             \
	}

#define DECADE(ten, first_cell)                                               \
	SEGMENT(ten, (ten) / 10, first_cell),                                     \
		SEGMENT(2 * (ten), (ten) / 5, (first_cell) + 10),                     \
		SEGMENT(5 * (ten), (ten) / 2, (first_cell) + 25)

const HistogramSegment histogram_segments[] = {
	SEGMENT(0, 1, 0),
	SEGMENT(20, 2, 20),
	SEGMENT(50, 5, 35),
	DECADE(100, 45),
	DECADE(1000, 80),
	DECADE(10000, 115),
	DECADE(100000, 150),
	DECADE(1000000, 185),
	DECADE(10000000, 220),
	{ OVERFLOW_US, 0, OVERFLOW_CELL, OVERFLOW_US },
	{ PG_UINT64_MAX, 0, OVERFLOW_CELL, OVERFLOW_US },
};

#define N_SEGMENTS ((int) lengthof(histogram_segments) - 1)
#define OVERFLOW_SEGMENT (N_SEGMENTS - 1)

/* by position of the highest bit: the segment of 2^bit */
const uint8 histogram_segment_of_bit[64] = {
	/* 1 to 16 us: the identity */
	0, 0, 0, 0, 0,
	/* 32 us to 67 s */
	1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 16, 17, 18, 19,
	20,
	/* and all above */
	21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21,
	21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21, 21
};

StaticAssertDecl(OVERFLOW_SEGMENT == 21,
				 "the table of bits must name the overflow segment");

static int64
compute_cell_start(int cell)
{
	int i = OVERFLOW_SEGMENT;

	if (cell == OVERFLOW_CELL)
		return OVERFLOW_US;
	do
		i--;
	while ((int64) histogram_cell(histogram_segments[i].start) > cell);
	return (cell - histogram_segments[i].base) *
		   (int64) histogram_segments[i].step;
}

/*
 * The lowest value, in microseconds, of a cell.  The one past the last cell
 * has no start; callers show it as infinity.  A percentile asks for all of
 * them: so they are computed once.
 */
int64
histogram_cell_start(int cell)
{
	static int64 starts[HISTOGRAM_CELLS];

	Assert(cell >= 0 && cell < HISTOGRAM_CELLS);

	if (starts[OVERFLOW_CELL] == 0)
		for (int i = 0; i < HISTOGRAM_CELLS; i++)
			starts[i] = compute_cell_start(i);
	return starts[cell];
}

/*
 * The cell in which "fraction" of what was counted is reached, how many lie
 * in those before it, and the rank of the value asked for: 1 for the lowest,
 * as percentile_disc counts.  -1 if nothing was counted.
 */
static int
cell_at(const uint64 *counts, double fraction, uint64 *before, double *rank)
{
	uint64 total = 0;
	int cell = 0;

	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		total += counts[i];
	if (total == 0)
		return -1;

	*rank = Max(ceil(fraction * (double) total), 1);
	*before = 0;
	while ((double) (*before + counts[cell]) < *rank)
		*before += counts[cell++];
	return cell;
}

/* up to 19 us a cell is one exact value; the last has no end */
static double
cell_width(int cell)
{
	if (cell < 20 || cell == OVERFLOW_CELL)
		return 0;
	return (double) (histogram_cell_start(cell + 1) -
					 histogram_cell_start(cell));
}

static double
cell_middle(int cell)
{
	return (double) histogram_cell_start(cell) + cell_width(cell) / 2;
}

/*
 * What lies in the cells from first to last adds up to about that.
 */
int64
histogram_middle_sum(const uint64 *counts, int first, int last)
{
	double sum = 0;

	for (int i = first; i <= last; i++)
		if (counts[i] != 0)
			sum += (double) counts[i] * cell_middle(i);
	return (int64) rint(sum);
}

/*
 * Where the sum of all says in which place of their cells most values lie.
 */
typedef struct Dominant
{
	int cell;	  /* it and the next, or -1 */
	double place; /* of what lies in the first of the two */
	double next;  /* and in the second */
} Dominant;

/*
 * How far a sum can be off, if every value is taken as its cell's middle, is
 * the counts times the widths.  If nearly all of that comes from one cell or
 * from two neighbours, the sum tells where in there the values lie, as they do
 * of a steady path: all in one place, or on both sides of the bound between
 * the two.
 */
static Dominant
dominant_cells(const uint64 *counts, int64 sum_us)
{
	Dominant dominant = { -1, 0, 0 };
	double total = 0;
	double most = 0;
	double before = 0;
	double here;
	double there;
	double mean;
	double bound;

	/* the last cell has no end: what lies in it may be the most of the sum */
	if (counts[OVERFLOW_CELL] != 0)
		return dominant;
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
	{
		double doubt = counts[i] == 0 ? 0 : (double) counts[i] * cell_width(i);

		total += doubt;
		if (before + doubt > most)
		{
			most = before + doubt;
			dominant.cell = before > 0 ? i - 1 : i;
		}
		before = doubt;
	}
	if (dominant.cell < 0 || most < 0.9 * total)
	{
		dominant.cell = -1;
		return dominant;
	}

	here = (double) counts[dominant.cell];
	there = (double) counts[dominant.cell + 1];
	bound = (double) histogram_cell_start(dominant.cell + 1);
	mean = ((double) sum_us -
			(double) histogram_middle_sum(counts, 0, dominant.cell - 1) -
			(double) histogram_middle_sum(counts, dominant.cell + 2,
										  OVERFLOW_CELL)) /
		   (here + there);

	/* a value of each side cannot cross the bound */
	if (there == 0)
		dominant.place = mean;
	else if (mean < bound)
	{
		dominant.place = bound - (bound - mean) * (here + there) / here;
		dominant.next = bound;
	}
	else
	{
		dominant.place = bound;
		dominant.next = bound + (mean - bound) * (here + there) / there;
	}
	return dominant;
}

/*
 * The latency, in microseconds, below or at which "fraction" of the counted
 * ones lie; -1 if none was counted.  The sum of all, where it is known, makes
 * it sharper than a cell is wide: see above.
 *
 * Else values are taken as evenly spread within a cell, and each as the middle
 * of its share.  Either way a percentile never touches the far boundary of its
 * cell, so one whose values all lie below a limit on a boundary is below it
 * too.  The overflow cell answers with its start.
 */
double
histogram_percentile(const uint64 *counts, double fraction, int64 sum_us)
{
	uint64 before;
	double rank;
	int cell = cell_at(counts, fraction, &before, &rank);
	double start;
	double width;

	if (cell < 0)
		return -1;
	start = (double) histogram_cell_start(cell);
	width = cell_width(cell);
	if (width == 0)
		return start;
	if (sum_us != NO_SUM)
	{
		Dominant dominant = dominant_cells(counts, sum_us);
		double place = cell == dominant.cell ? dominant.place : dominant.next;

		if (dominant.cell >= 0 &&
			(cell == dominant.cell || cell == dominant.cell + 1))
			return Min(Max(place, start), start + width - 1);
	}
	return start +
		   width * (rank - (double) before - 0.5) / (double) counts[cell];
}

/*
 * The same of whole numbers: the lowest that its cell holds.
 */
int64
histogram_percentile_whole(const uint64 *counts, double fraction)
{
	uint64 before;
	double rank;
	int cell = cell_at(counts, fraction, &before, &rank);

	return cell < 0 ? -1 : histogram_cell_start(cell);
}
