/*-------------------------------------------------------------------------
 *
 * sql_histogram.h
 *		Histograms in SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SQL_HISTOGRAM_H
#define KASM_LATENCY_SQL_HISTOGRAM_H

#include "postgres.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern bytea *histogram_out(const uint64 *counts, int n_cells, int64 sum_us);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_SQL_HISTOGRAM_H */
