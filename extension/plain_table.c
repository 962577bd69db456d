/*-------------------------------------------------------------------------
 *
 * plain_table.c
 *		Two columns of somebody else's table, without running anything of
 *		theirs.
 *
 * A query would do, but whoever owns a table can hang functions on it that
 * run as whoever queries it: in views and policies, and, as early as when the
 * query is planned, in indexes and extended statistics.  So the table is
 * scanned here: locked first and looked at then; a plain heap without row
 * security, and columns of built-in types only, whose output functions are
 * PostgreSQL's own.
 *
 * What is wrong is an error, which the caller in SQL turns into a notice or
 * nothing.  This file owns no memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"

PG_FUNCTION_INFO_V1(kasm_latency_plain_rows);

/* a reader of views must not wait for a table that somebody filled up */
#define MAX_ROWS 1000
#define MAX_BYTES 1000

/* a column that can be read, by its number */
static AttrNumber
plain_column(Relation relation, const char *name)
{
	TupleDesc columns = RelationGetDescr(relation);

	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);

		if (column->attisdropped ||
			strcmp(NameStr(column->attname), name) != 0)
			continue;
		switch (column->atttypid)
		{
			case TEXTOID:
			case VARCHAROID:
			case BPCHAROID:
			case NAMEOID:
			case UUIDOID:
			case INT2OID:
			case INT4OID:
			case INT8OID:
				return column->attnum;
			default:
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("column %s.%s has a type that is not read",
								RelationGetRelationName(relation), name)));
		}
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("there is no column %s.%s",
						   RelationGetRelationName(relation), name)));
}

static void
check_plain(Relation relation, const AttrNumber *columns)
{
	Oid oid = RelationGetRelid(relation);

	if (relation->rd_rel->relkind != RELKIND_RELATION ||
		relation->rd_rel->relam != HEAP_TABLE_AM_OID ||
		relation->rd_rel->relrowsecurity)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("%s is not a plain table",
							   RelationGetRelationName(relation))));
	if (pg_class_aclcheck(oid, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	for (int i = 0; i < 2; i++)
		if (pg_attribute_aclcheck(oid, columns[i], GetUserId(), ACL_SELECT) !=
			ACLCHECK_OK)
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("permission denied for table %s",
								   RelationGetRelationName(relation))));
}

/* a column's value as text, or NULL; never longer than a name would be */
static Datum
column_text(TupleTableSlot *slot, AttrNumber number, bool *is_null)
{
	Oid output;
	bool is_varlena;
	Datum value = slot_getattr(slot, number, is_null);
	char *text;

	if (*is_null)
		return (Datum) 0;
	getTypeOutputInfo(
		TupleDescAttr(slot->tts_tupleDescriptor, number - 1)->atttypid,
		&output, &is_varlena);
	text = OidOutputFunctionCall(output, value);
	return PointerGetDatum(cstring_to_text_with_len(
		text, pg_mbcliplen(text, (int) strlen(text), MAX_BYTES)));
}

/*
 * plain_rows(relation text, column1 text, column2 text): these columns of the
 * first thousand rows of a table of the schema public.
 */
Datum
kasm_latency_plain_rows(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result;
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	AttrNumber columns[2];
	Oid oid;
	Relation relation;
	TupleTableSlot *slot;
	TableScanDesc scan;

	compat_init_materialized_srf(fcinfo);
	result = (ReturnSetInfo *) fcinfo->resultinfo;

	oid = RangeVarGetRelid(makeRangeVar("public", name, -1), AccessShareLock,
						   true);
	if (!OidIsValid(oid))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("there is no table public.%s", name)));
	relation = relation_open(oid, NoLock);
	for (int i = 0; i < 2; i++)
		columns[i] =
			plain_column(relation, text_to_cstring(PG_GETARG_TEXT_PP(1 + i)));
	check_plain(relation, columns);

	slot = table_slot_create(relation, NULL);
	scan = table_beginscan(relation, GetActiveSnapshot(), 0, NULL);
	for (int n = 0; n < MAX_ROWS &&
					table_scan_getnextslot(scan, ForwardScanDirection, slot);
		 n++)
	{
		Datum values[2];
		bool nulls[2];

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < 2; i++)
			values[i] = column_text(slot, columns[i], &nulls[i]);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(relation, AccessShareLock);
	return (Datum) 0;
}
