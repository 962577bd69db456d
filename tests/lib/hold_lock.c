/*-------------------------------------------------------------------------
 *
 * hold_lock.c
 *		For tests: somebody has a lock of kasm_latency, and keeps it.
 *
 * A library of its own, which 007_minutes.pl builds: the one that is tested is
 * as it is shipped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lwlock.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(hold_lock);

/*
 * Take the tranche's lock of that number as a reader does, say so, and keep it
 * until the query is cancelled: not an interrupt, as whoever has such a lock
 * is not interrupted.
 */
Datum
hold_lock(PG_FUNCTION_ARGS)
{
	LWLock *lock =
		&GetNamedLWLockTranche("kasm_latency")[PG_GETARG_INT32(0)].lock;

	LWLockAcquire(lock, LW_SHARED);
	ereport(NOTICE, (errmsg("held")));
	while (!QueryCancelPending && !ProcDiePending)
		pg_usleep(1000);
	LWLockRelease(lock);
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}
