/*-------------------------------------------------------------------------
 *
 * my_socket.h
 *		The calling backend's own socket.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_MY_SOCKET_H
#define KASM_LATENCY_MY_SOCKET_H

#include "postgres.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern void my_socket_read(void);
extern bool my_socket_has_more(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_MY_SOCKET_H */
