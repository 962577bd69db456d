/*-------------------------------------------------------------------------
 *
 * sql_row.h
 *		The rows of a set-returning function, column by column.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SQL_ROW_H
#define KASM_LATENCY_SQL_ROW_H

#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/tuplestore.h"

#define MAX_COLUMNS 40

/* one row in the making */
typedef struct Row
{
	Datum values[MAX_COLUMNS];
	bool nulls[MAX_COLUMNS];
	int n;
} Row;

static inline void
add_value(Row *row, Datum value)
{
	Assert(row->n < MAX_COLUMNS);
	row->nulls[row->n] = false;
	row->values[row->n++] = value;
}

static inline void
add_null(Row *row)
{
	Assert(row->n < MAX_COLUMNS);
	row->nulls[row->n] = true;
	row->values[row->n++] = (Datum) 0;
}

static inline void
add_count(Row *row, uint64 count)
{
	add_value(row, Int64GetDatum((int64) count));
}

static inline void
put_row(FunctionCallInfo fcinfo, Row *row)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (row->n != rsinfo->setDesc->natts)
		elog(ERROR, "function has %d columns, not %d", rsinfo->setDesc->natts,
			 row->n);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row->values,
						 row->nulls);
	row->n = 0;
}

#endif /* KASM_LATENCY_SQL_ROW_H */
