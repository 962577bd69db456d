/*-------------------------------------------------------------------------
 *
 * history_worker.h
 *		The background worker that keeps history: one snapshot, and it ends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_HISTORY_WORKER_H
#define KASM_LATENCY_HISTORY_WORKER_H

#include "postgres.h"

#include "fmgr.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern void history_worker_start(void);

#pragma GCC visibility pop

/* PostgreSQL looks it up by its name */
extern PGDLLEXPORT void kasm_latency_history_main(Datum arg);

#endif /* KASM_LATENCY_HISTORY_WORKER_H */
