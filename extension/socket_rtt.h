/*-------------------------------------------------------------------------
 *
 * socket_rtt.h
 *		The kernel's view of one socket.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SOCKET_RTT_H
#define KASM_LATENCY_SOCKET_RTT_H

#include <stdbool.h>
#include <stdint.h>

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

typedef struct SocketRtt
{
	uint32_t min_rtt_us;	/* tcpi_min_rtt; 0 = not known */
	uint32_t total_retrans; /* tcpi_total_retrans */
} SocketRtt;

extern bool socket_rtt_read(int sock, SocketRtt *rtt);
extern bool socket_bytes_waiting(int sock);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_SOCKET_RTT_H */
