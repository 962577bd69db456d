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
 * (a value taken as its cell's middle is at most 4.8 % off), and 1, 5, 10
 * and 100 ms are boundaries, so that "below the limit" is exact there.
 *
 * Everything is integer arithmetic.  No PostgreSQL header but c.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_HISTOGRAM_H
#define KASM_LATENCY_HISTOGRAM_H

#include "postgres.h"

#define HISTOGRAM_CELLS 256

extern int histogram_cell(int64 us);
extern int64 histogram_cell_start(int cell);
extern double histogram_percentile(const uint64 *counts, double fraction);

#endif /* KASM_LATENCY_HISTOGRAM_H */
