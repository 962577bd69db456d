/*-------------------------------------------------------------------------
 *
 * watcher.h
 *		The background worker that watches lock waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_WATCHER_H
#define KASM_LATENCY_WATCHER_H

#include "postgres.h"

#include "fmgr.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern void watcher_register(void);
extern void watcher_look(int64 elapsed_us);

#pragma GCC visibility pop

/* PostgreSQL looks it up by its name */
extern PGDLLEXPORT void kasm_latency_watcher_main(Datum arg);

#endif /* KASM_LATENCY_WATCHER_H */
