/*-------------------------------------------------------------------------
 *
 * socket_rtt.c
 *		The kernel's view of one socket: lowest round trip, retransmissions,
 *		bytes not yet read.
 *
 * The fields wanted are in <linux/tcp.h> and not in glibc's <netinet/tcp.h>;
 * the two cannot be included together, and PostgreSQL's libpq headers include
 * the latter.  So this file includes no PostgreSQL header at all.
 *
 * tcpi_rtt (srtt) is of no use here: the client's acknowledgement rides on
 * its next query, so srtt holds the client's thinking.  tcpi_min_rtt does
 * not: see docs/measurement.md.
 *
 * This file owns no memory, never allocates and never fails loudly: where
 * the kernel does not know, nothing is known.
 *
 *-------------------------------------------------------------------------
 */
#include "socket_rtt.h"

#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <netinet/in.h>

#if defined(__linux__) && defined(__has_include)
#if __has_include(<linux/tcp.h>)
#include <linux/tcp.h>
#define HAVE_TCP_MIN_RTT 1
#endif
#endif

/*
 * Read the lowest round trip and the count of retransmitted segments of a
 * TCP socket.  False where the socket is no TCP socket or the kernel is too
 * old (before Linux 4.6) or of another make to tell.
 */
bool
socket_rtt_read(int sock, SocketRtt *rtt)
{
#ifdef HAVE_TCP_MIN_RTT
	struct tcp_info info;
	socklen_t length = sizeof(info);

	if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
		length < offsetof(struct tcp_info, tcpi_min_rtt) +
					 sizeof(info.tcpi_min_rtt))
		return false;

	/* the kernel says ~0 as long as it has no sample */
	rtt->min_rtt_us = info.tcpi_min_rtt == UINT32_MAX ? 0 : info.tcpi_min_rtt;
	rtt->total_retrans = info.tcpi_total_retrans;
	return true;
#else
	(void) sock;
	(void) rtt;
	return false;
#endif
}

/*
 * Are there bytes from the client that nobody has read yet?
 */
bool
socket_bytes_waiting(int sock)
{
	int bytes = 0;

	return ioctl(sock, FIONREAD, &bytes) == 0 && bytes > 0;
}
