/*-------------------------------------------------------------------------
 *
 * workers.c
 *		What the background processes share: which runs, what was logged.
 *
 * There is one watcher (watcher.c), and for moments a worker that keeps
 * history (history_worker.c); of neither there are ever two.  What keeps them
 * from their work is logged once an hour: what was said is remembered here,
 * in shared memory under a lock of its own, as processes come and go.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "minutes.h"
#include "workers.h"

#define LOCK_NAME "kasm_latency_workers"

/* causes that are remembered; of more, that of longest ago is forgotten */
#define N_CAUSES 32

typedef struct Cause
{
	uint32 hash;   /* of its name */
	uint32 minute; /* when it was logged; 0 = never */
} Cause;

typedef struct Workers
{
	int pids[N_WORKERS]; /* 0 = does not run */
	Cause causes[N_CAUSES];
} Workers;

static Workers *workers = NULL;
static LWLock *workers_lock;

Size
workers_size(void)
{
	return CACHELINEALIGN(sizeof(Workers));
}

void
workers_request(void)
{
	RequestAddinShmemSpace(workers_size());
	RequestNamedLWLockTranche(LOCK_NAME, 1);
}

/*
 * Make or find the memory.  Caller holds AddinShmemInitLock.
 */
void
workers_startup(void)
{
	bool found;

	workers = ShmemInitStruct("kasm_latency workers", workers_size(), &found);
	workers_lock = &GetNamedLWLockTranche(LOCK_NAME)->lock;
	if (!found)
		memset(workers, 0, workers_size());
}

/*
 * What both have in common, for the postmaster.
 */
void
worker_describe(BackgroundWorker *worker, const char *name,
				const char *function)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	worker->bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	strlcpy(worker->bgw_library_name, "kasm_latency",
			sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function,
			sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, name, sizeof(worker->bgw_name));
	strlcpy(worker->bgw_type, name, sizeof(worker->bgw_type));
}

/* on_shmem_exit callback */
static void
worker_end(int code, Datum kind)
{
	(void) code;
	LWLockAcquire(workers_lock, LW_EXCLUSIVE);
	workers->pids[DatumGetInt32(kind)] = 0;
	LWLockRelease(workers_lock);
}

/*
 * The calling process is that worker from now on, until it exits; false where
 * another one is.
 */
bool
worker_begin(WorkerKind kind)
{
	bool mine;

	LWLockAcquire(workers_lock, LW_EXCLUSIVE);
	mine = workers->pids[kind] == 0;
	if (mine)
		workers->pids[kind] = MyProcPid;
	LWLockRelease(workers_lock);
	if (mine)
		on_shmem_exit(worker_end, Int32GetDatum(kind));
	return mine;
}

int
worker_pid(WorkerKind kind)
{
	int pid;

	LWLockAcquire(workers_lock, LW_SHARED);
	pid = workers->pids[kind];
	LWLockRelease(workers_lock);
	return pid;
}

/*
 * Has that not been said for an hour?  It is now.
 */
static bool
claim_line(const char *said)
{
	uint32 hash = hash_bytes((const unsigned char *) said, (int) strlen(said));
	uint32 minute = minutes_now();
	Cause *oldest = &workers->causes[0];
	bool claimed = true;

	LWLockAcquire(workers_lock, LW_EXCLUSIVE);
	for (int i = 0; i < N_CAUSES; i++)
	{
		Cause *cause = &workers->causes[i];

		if (cause->hash == hash && minute_within_hour(cause->minute, minute))
			claimed = false;
		if (cause->minute < oldest->minute)
			oldest = cause;
	}
	if (claimed)
	{
		oldest->hash = hash;
		oldest->minute = minute;
	}
	LWLockRelease(workers_lock);
	return claimed;
}

/*
 * Log why something is not done: once an hour for each cause, which is the
 * message itself where that is always the same.
 */
void
worker_log_hourly(const char *cause, const char *message, const char *hint)
{
	if (claim_line(cause != NULL ? cause : message))
		ereport(LOG, (errmsg("kasm_latency: %s", message),
					  hint != NULL ? errhint("%s", hint) : 0));
}
