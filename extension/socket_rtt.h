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

typedef struct SocketRtt
{
	uint32_t min_rtt_us;	/* tcpi_min_rtt; 0 = not known */
	uint32_t total_retrans; /* tcpi_total_retrans */
} SocketRtt;

extern bool socket_rtt_read(int sock, SocketRtt *rtt);
extern bool socket_bytes_waiting(int sock);

#endif /* KASM_LATENCY_SOCKET_RTT_H */
