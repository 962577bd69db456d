/*
 * relay.c
 *		Joins two network namespaces by a pair of TUN devices and carries IP
 *		packets between them with a set delay: a distance that is real to the
 *		kernel, and so to TCP, TLS and every driver.
 *
 *	relay NETNS_A DEVICE_A NETNS_B DEVICE_B
 *
 * NETNS is the path of a network namespace.  Says "ready" once both devices
 * exist.  Reads lines from its input, each of which sets the path from then
 * on (a packet keeps the delay with which it came), and answers "set":
 *
 *	DELAY_US JITTER_US LOSS_PERMILLE REORDER_PERMILLE
 *
 * DELAY is one way.  JITTER adds from nothing to that much to each packet,
 * in order; a REORDERed packet is held back by another 2 to 6 ms, so that
 * later ones overtake it.  Nothing ever arrives sooner than DELAY: the lowest
 * round trip is twice that, whatever else is set.  Ends with its input.
 *
 * It runs at real-time priority where it may, as a relay that waits for the
 * processor would measure the machine's load.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define MAX_PACKET 2048
#define MAX_QUEUED 20000

typedef struct Packet
{
	int64_t due_ns;
	uint64_t number; /* in order of arrival, for equal dues */
	int to;			 /* index of the device to send it to */
	int length;
	unsigned char data[MAX_PACKET];
} Packet;

static Packet *heap[MAX_QUEUED]; /* ordered by due time, then number */
static Packet *spare[MAX_QUEUED];
static int n_queued = 0;
static int n_spare = 0;

static int64_t delay_ns = 0;
static int64_t jitter_ns = 0;
static int loss_permille = 0;
static int reorder_permille = 0;
static int64_t last_due_ns[2] = { 0, 0 };

static void
fail(const char *what)
{
	fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

static int
earlier(const Packet *a, const Packet *b)
{
	return a->due_ns < b->due_ns ||
		   (a->due_ns == b->due_ns && a->number < b->number);
}

static void
push(Packet *packet)
{
	int i = n_queued++;

	while (i > 0 && earlier(packet, heap[(i - 1) / 2]))
	{
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = packet;
}

static Packet *
pop(void)
{
	Packet *first = heap[0];
	Packet *last = heap[--n_queued];
	int i = 0;

	for (;;)
	{
		int child = 2 * i + 1;

		if (child >= n_queued)
			break;
		if (child + 1 < n_queued && earlier(heap[child + 1], heap[child]))
			child++;
		if (!earlier(heap[child], last))
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = last;
	return first;
}

/* below n, not too evenly; the path need not be the same twice */
static int64_t
random_below(int64_t n)
{
	return n <= 0 ? 0 : (int64_t) (drand48() * (double) n);
}

static int
tun_in(const char *netns, const char *name)
{
	struct ifreq request;
	int ns = open(netns, O_RDONLY | O_CLOEXEC);
	int tun;

	if (ns < 0 || setns(ns, CLONE_NEWNET) != 0)
		fail(netns);
	close(ns);
	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tun < 0)
		fail("/dev/net/tun");
	memset(&request, 0, sizeof(request));
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (ioctl(tun, TUNSETIFF, &request) != 0)
		fail(name);
	return tun;
}

/* take over all packets that wait at a device */
static void
receive(int tun, int to)
{
	static uint64_t number = 0;

	for (;;)
	{
		Packet *packet =
			n_spare > 0 ? spare[--n_spare] : malloc(sizeof(Packet));
		int64_t due;

		if (packet == NULL)
			fail("out of memory");
		packet->length = (int) read(tun, packet->data, MAX_PACKET);
		if (packet->length <= 0 || n_queued >= MAX_QUEUED - 1 ||
			random_below(1000) < loss_permille)
		{
			int more = packet->length > 0;

			spare[n_spare++] = packet;
			if (more)
				continue;
			return;
		}
		due = now_ns() + delay_ns + random_below(jitter_ns);
		if (random_below(1000) < reorder_permille)
			due += 2000000 + random_below(4000000);
		else
		{
			if (due < last_due_ns[to])
				due = last_due_ns[to];
			last_due_ns[to] = due;
		}
		packet->due_ns = due;
		packet->number = number++;
		packet->to = to;
		push(packet);
	}
}

/* take a line that sets the path; false at the end of the input */
static int
configure(void)
{
	static char line[256];
	static size_t length = 0;
	ssize_t n = read(0, line + length, sizeof(line) - 1 - length);
	char *end;

	if (n <= 0)
		return 0;
	length += (size_t) n;
	line[length] = '\0';
	while ((end = strchr(line, '\n')) != NULL)
	{
		long delay;
		long jitter;

		if (sscanf(line, "%ld %ld %d %d", &delay, &jitter, &loss_permille,
				   &reorder_permille) != 4)
		{
			fprintf(stderr, "relay: what does this mean: %s", line);
			exit(1);
		}
		delay_ns = (int64_t) delay * 1000;
		jitter_ns = (int64_t) jitter * 1000;
		/* what was slow before must not hold up what is fast now */
		last_due_ns[0] = last_due_ns[1] = 0;
		printf("set\n");
		fflush(stdout);
		length -= (size_t) (end + 1 - line);
		memmove(line, end + 1, length + 1);
	}
	return 1;
}

int
main(int argc, char **argv)
{
	struct sched_param priority = { .sched_priority = 10 };
	int tun[2];
	struct pollfd wanted[3];

	if (argc != 5)
	{
		fprintf(stderr, "usage: relay NETNS_A DEVICE_A NETNS_B DEVICE_B\n");
		return 2;
	}
	tun[0] = tun_in(argv[1], argv[2]);
	tun[1] = tun_in(argv[3], argv[4]);
	srand48(getpid());

	/* best effort: without them it is only less exact */
	(void) sched_setscheduler(0, SCHED_FIFO, &priority);
	(void) prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	(void) prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0);
	(void) mlockall(MCL_CURRENT | MCL_FUTURE);

	wanted[0] = (struct pollfd){ .fd = tun[0], .events = POLLIN };
	wanted[1] = (struct pollfd){ .fd = tun[1], .events = POLLIN };
	wanted[2] = (struct pollfd){ .fd = 0, .events = POLLIN };
	printf("ready\n");
	fflush(stdout);

	for (;;)
	{
		struct timespec wait = { 0, 0 };
		int64_t left = 0;

		if (n_queued > 0)
		{
			left = heap[0]->due_ns - now_ns();
			if (left > 0)
			{
				wait.tv_sec = left / 1000000000;
				wait.tv_nsec = left % 1000000000;
			}
		}
		if (ppoll(wanted, 3, n_queued > 0 ? &wait : NULL, NULL) < 0 &&
			errno != EINTR)
			fail("ppoll");
		if (wanted[2].revents != 0 && !configure())
			return 0;
		receive(tun[0], 1);
		receive(tun[1], 0);
		while (n_queued > 0 && heap[0]->due_ns <= now_ns())
		{
			Packet *packet = pop();

			/* a device without room loses the packet, as a router would */
			if (write(tun[packet->to], packet->data, (size_t) packet->length) <
					0 &&
				errno != EAGAIN && errno != EIO && errno != ENOBUFS &&
				errno != EINVAL)
				fail("write");
			spare[n_spare++] = packet;
		}
	}
}
