/*-------------------------------------------------------------------------
 *
 * my_socket.c
 *		The calling backend's own socket: what the kernel says of it, into the
 *		slot; and whether the client has sent more.
 *
 * Apart from socket_rtt.c, which can include none of the headers that know
 * which socket that is.  Both functions are system calls.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/libpq-be.h"
#include "miscadmin.h"

#include "my_socket.h"
#include "slot.h"
#include "socket_rtt.h"

void
my_socket_read(void)
{
	SocketRtt rtt;

	if (!socket_rtt_read(MyProcPort->sock, &rtt))
		return;
	slot_set_floor(rtt.min_rtt_us);
	slot_set_retransmits(rtt.total_retrans);
}

/*
 * Are there bytes from the client between its socket and the backend's
 * buffer?
 */
bool
my_socket_has_more(void)
{
#ifdef USE_OPENSSL
	if (MyProcPort->ssl_in_use && SSL_pending(MyProcPort->ssl) > 0)
		return true;
#endif
	return socket_bytes_waiting(MyProcPort->sock);
}
