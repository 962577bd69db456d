/*-------------------------------------------------------------------------
 *
 * client_mine.h
 *		The calling backend and its client.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_CLIENT_MINE_H
#define KASM_LATENCY_CLIENT_MINE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "socket_rtt.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern bool client_attach(TimestampTz now, const SocketRtt *rtt);
extern int64 client_minute_left_ns(void);
extern bool client_fold_is_due(void);
extern bool client_fold_if_free(void);
extern void client_leave_overflow(void);
extern void client_detach(void);
extern void client_log_if_far(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_CLIENT_MINE_H */
