/*-------------------------------------------------------------------------
 *
 * kasm_latency.h
 *		The settings.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_H
#define KASM_LATENCY_H

#include "postgres.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

#define KASM_LATENCY_VERSION "1.0"

extern bool kasm_latency_enabled;
extern double kasm_latency_rtt_limit;		 /* ms, of the session */
extern double kasm_latency_server_rtt_limit; /* ms, of the server */
extern int kasm_latency_max_clients;
extern bool kasm_latency_log_far_clients;
extern bool kasm_latency_save;
extern int kasm_latency_sample_locks;		/* ms; 0 = off */
extern char *kasm_latency_history_database; /* empty = none */
extern int kasm_latency_history_interval;	/* minutes */

#pragma GCC visibility pop

#endif /* KASM_LATENCY_H */
