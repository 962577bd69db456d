/*-------------------------------------------------------------------------
 *
 * workers.h
 *		What the background processes share: which runs, what was logged.
 *
 * See workers.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_WORKERS_H
#define KASM_LATENCY_WORKERS_H

#include "postgres.h"

#include "postmaster/bgworker.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

typedef enum WorkerKind
{
	WATCHER,
	HISTORY_WORKER,
	N_WORKERS
} WorkerKind;

/* at start */
extern Size workers_size(void);
extern void workers_request(void);
extern void workers_startup(void);

extern void worker_describe(BackgroundWorker *worker, const char *name,
							const char *function);
extern bool worker_begin(WorkerKind kind);
extern int worker_pid(WorkerKind kind);
extern void worker_log_hourly(const char *cause, const char *message,
							  const char *hint);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_WORKERS_H */
