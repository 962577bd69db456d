/*-------------------------------------------------------------------------
 *
 * compat.h
 *		What differs between the PostgreSQL versions we build on (13 to 18).
 *
 * Every version test of the project stands here, so that the other files
 * read as if there were one PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_COMPAT_H
#define KASM_LATENCY_COMPAT_H

#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "libpq/libpq.h"
#include "storage/ipc.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/proc.h"
#include "utils/tuplestore.h"

/* 15 asks for shared memory in a hook of its own, earlier ones at load */
#if PG_VERSION_NUM >= 150000
#define HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* the number of the calling backend's PGPROC */
static inline int
compat_my_proc_number(void)
{
#if PG_VERSION_NUM >= 170000
	return (int) MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

/*
 * Are bytes from the client already in the backend's own buffer?  13 and 14
 * got the function in a minor release (13.5, 14.1).
 */
static inline bool
compat_client_bytes_buffered(void)
{
#if PG_VERSION_NUM >= 170000
	return pq_buffer_remaining_data() > 0;
#elif PG_VERSION_NUM >= 150000 || (PG_VERSION_NUM >= 140001) ||               \
	(PG_VERSION_NUM >= 130005 && PG_VERSION_NUM < 140000)
	return pq_buffer_has_data();
#else
	return false;
#endif
}

/* reserve the prefix of our settings: 15 says so, before it was a warning */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/*
 * Begin a set-returning function that fills a tuplestore.  15.1 has this
 * function, and a second argument of flags that we have no use for.
 */
#if PG_VERSION_NUM >= 150001
#define compat_init_materialized_srf(fcinfo) InitMaterializedSRF(fcinfo, 0)
#else
static inline void
compat_init_materialized_srf(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext previous;
	TupleDesc tupdesc;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot "
						"accept a set")));
	previous = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(
		(rsinfo->allowedModes & SFRM_Materialize_Random) != 0, false,
		work_mem);
	rsinfo->setDesc = tupdesc;
	MemoryContextSwitchTo(previous);
}
#endif

#endif /* KASM_LATENCY_COMPAT_H */
