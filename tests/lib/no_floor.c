/*-------------------------------------------------------------------------
 *
 * no_floor.c
 *		For tests: a kernel that has no round trip of a connection yet, as after
 *		a SYN cookie, as long as the file NO_FLOOR is there.
 *
 * Preloaded into a server by 007_minutes.pl.
 *
 *-------------------------------------------------------------------------
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int
getsockopt(int sock, int level, int name, void *value, socklen_t *length)
{
	const char *file = getenv("NO_FLOOR");
	long result = syscall(SYS_getsockopt, sock, level, name, value, length);

	if (result == 0 && level == IPPROTO_TCP && name == TCP_INFO &&
		file != NULL && access(file, F_OK) == 0)
		((struct tcp_info *) value)->tcpi_min_rtt = UINT32_MAX;
	return (int) result;
}
