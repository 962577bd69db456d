/*-------------------------------------------------------------------------
 *
 * exchange.c
 *		The protocol boundary: bytes put and flushed become exchanges.
 *
 * An exchange is: the client sent something and waits; the server answers
 * and blocks reading.  We stand between the backend and its socket, by
 * wrapping two of its PqCommMethods, and see every message that is put and
 * every flush.  The last message put before a flush tells whether the client
 * has got what it waits for:
 *
 *	Z (ReadyForQuery)				ends an exchange; the first one of a
 *									connection only opens it
 *	G (CopyInResponse)				ends one: the client now sends its data
 *	E, N, A, S, K					never end one
 *	any other						the client sent Flush: ends one
 *	nothing put since the last		nothing
 *
 * The answer is stamped immediately before the flush that ends the exchange:
 * the client may have its next request on the wire before send() returns.
 * The request is stamped by PostgreSQL, as the statement's start; the later
 * messages of a batch move that, so the first value newer than the answer
 * counts, looked for at every put until it is there.
 *
 * A client that has sent its next request already was not waiting, so the
 * exchange goes on.  Bytes in the backend's buffer say so for nothing.  Once
 * they, or a turnaround shorter than the round trip, have given a connection
 * away as one that pipelines, the socket is asked at every end, and its
 * turnarounds are no longer taken for ceilings.
 *
 * What may happen here is narrow.  Errors are put before the transaction is
 * aborted, perhaps under LWLocks; quickdie() puts from a signal handler; the
 * wrapped flush may not return, when a blocked write ends the process.  So
 * nothing here throws, allocates or waits; only a flush after a ReadyForQuery
 * does more than count; and nothing is half done when the wrapped flush is
 * called.
 *
 * All state here is the calling backend's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "chain.h"
#include "clients.h"
#include "clock.h"
#include "compat.h"
#include "exchange.h"
#include "kasm_latency.h"
#include "slot.h"
#include "socket_rtt.h"

/*
 * The socket is read at connect, when that is so long ago, once a minute and
 * at exit; and when a turnaround says that the floor must have come down.
 */
#define FIRST_UPKEEP_NS INT64CONST(1000000000)

/*
 * Between two ends the wall clock and the monotonic clock may part by that
 * much; beyond, somebody set the wall clock, or we were suspended between
 * reading the two, and the stamps are worth nothing.
 */
#define CLOCK_SLACK_NS 200000

/* stamps are whole microseconds, and the kernel's are others than ours */
#define FLOOR_SLACK_US 2

/* what the last message before a flush makes of it */
typedef enum FlushKind
{
	FLUSH_OF_NOTHING,
	FLUSH_IN_BETWEEN,
	FLUSH_ERROR,
	FLUSH_BY_CLIENT,
	FLUSH_COPY_IN,
	FLUSH_READY
} FlushKind;

static PQcommMethods wrapper;
static int (*wrapped_putmessage)(char msgtype, const char *s,
								 size_t len) = NULL;
static int (*wrapped_flush)(void);

/* the last message put since the last flush; 0 = none */
static char last_message = 0;

/* first ReadyForQuery seen, and not switched off since */
static bool connection_open = false;

/* the client does not always wait for answers */
static bool pipelines = false;

/* what has happened since the last end */
#define CLIENT_AHEAD 0x01  /* it sent more, so the exchange goes on */
#define ERROR_FLUSHED 0x02 /* an error went out */
#define COPYING_IN 0x04	   /* that end was a CopyInResponse */
#define COPY_FAILED 0x08   /* and an error went out during the copy */
static uint8 since_end = 0;

static bool exit_registered = false;

/* longer turnarounds are none: the client was idle */
static int64 idle_after_us = INT64CONST(1000000);

/*
 * The usual turnarounds, those that need no second look: from "shortest" on,
 * neither below the floor nor those of an idle client.
 */
static int64 usual_shortest_us = 0;
static uint64 usual_span_us = 0;

/* was there no transaction block at the last ReadyForQuery? */
static uint64 outside_block = 1;

/* when to read the socket again, and fold if a minute is over */
static int64 upkeep_due_ns = 0;

static TimestampTz request_at = 0;	  /* of this exchange; 0 = not known */
static TimestampTz answer_at = 0;	  /* of the last one */
static int64 answer_clocks_apart = 0; /* how far the clocks were apart then */
static Turnaround answer_kind = OTHERS; /* what its turnaround will be */

/*
 * In the place of PqCommMethods->putmessage.  Runs for every row of a result:
 * a store and a jump.
 */
static int
exchange_putmessage(char msgtype, const char *s, size_t len)
{
	last_message = msgtype;
	return wrapped_putmessage(msgtype, s, len);
}

/*
 * The same, as long as the request is still to be seen of which the next
 * answer will be: take the statement's start for its time of arrival, if it
 * is one newer than the last answer.
 */
static int
putmessage_awaiting_request(char msgtype, const char *s, size_t len)
{
	int result = exchange_putmessage(msgtype, s, len);
	TimestampTz statement_start = GetCurrentStatementStartTimestamp();

	if (likely(statement_start > answer_at))
	{
		request_at = statement_start;
		wrapper.putmessage = exchange_putmessage;
	}
	return result;
}

static FlushKind
flush_kind(char message)
{
	switch (message)
	{
		case 0:
			return FLUSH_OF_NOTHING;
		case 'Z':
			return FLUSH_READY;
		case 'G':
			return FLUSH_COPY_IN;
		case 'E':
			return FLUSH_ERROR;
		case 'N':
		case 'A':
		case 'S':
		case 'K':
			return FLUSH_IN_BETWEEN;
		default:
			return FLUSH_BY_CLIENT;
	}
}

/*
 * The usual turnarounds are neither below the floor nor so long that the
 * client was idle, or a chain over.  Where a chain is still to begin, and
 * where the client pipelines, none is usual.
 */
static void
set_usual_turnarounds(void)
{
	int64 shortest;
	int64 longest;

	usual_shortest_us = PG_INT64_MAX;
	usual_span_us = 0;
	if (MySlot == NULL || !chain_is_open() || pipelines)
		return;
	shortest = Max((int64) MySlot->floor_us - FLOOR_SLACK_US, 0);
	longest = Min(idle_after_us, chain_longest_gap_us());
	if (longest < shortest)
		return;
	usual_shortest_us = shortest;
	usual_span_us = (uint64) (longest - shortest);
}

static pg_noinline void
read_socket(void)
{
	SocketRtt rtt;

	if (!socket_rtt_read(MyProcPort->sock, &rtt))
		return;
	slot_set_floor(rtt.min_rtt_us);
	slot_set_retransmits(rtt.total_retrans);
	set_usual_turnarounds();
}

/*
 * Are there bytes from the client between its socket and the backend's
 * buffer?  Asked of connections that pipeline alone, as it is a system call.
 */
static pg_noinline bool
socket_has_more(void)
{
#ifdef USE_OPENSSL
	if (MyProcPort->ssl_in_use && SSL_pending(MyProcPort->ssl) > 0)
		return true;
#endif
	return socket_bytes_waiting(MyProcPort->sock);
}

/*
 * Both clocks, one right after the other.  Static, as on the stack they would
 * cost a stack check.
 */
static struct timeval wall_clock;
static struct timespec monotonic_clock;

static inline void
read_clocks(void)
{
	gettimeofday(&wall_clock, NULL);
	clock_gettime(CLOCK_MONOTONIC, &monotonic_clock);
}

/* the last readings of the clocks, the exchange's times by them */
#define WALL_NOW timeval_timestamptz(&wall_clock)
#define MONOTONIC_NOW_NS timespec_ns(&monotonic_clock)

/* how often a reading that was interrupted is made anew */
#define READ_CLOCKS_ATTEMPTS 10

/*
 * Both clocks, with no interruption between the two: on a machine so busy that
 * there always is one, the last attempt.
 */
static pg_noinline void
read_clocks_together(void)
{
	for (int attempt = 0; attempt < READ_CLOCKS_ATTEMPTS; attempt++)
	{
		int64 before_ns = monotonic_now_ns();

		read_clocks();
		if (MONOTONIC_NOW_NS - before_ns < CLOCK_SLACK_NS / 2)
			break;
	}
}

/*
 * How far the wall clock is ahead of the monotonic one, in nanoseconds.  Only
 * differences mean anything: the figure itself may have wrapped.
 */
static inline int64
clocks_apart(TimestampTz wall, int64 monotonic_ns)
{
	return (int64) ((uint64) wall * 1000 - (uint64) monotonic_ns);
}

static void
begin_waiting(TimestampTz wall, int64 apart, Turnaround kind)
{
	answer_at = wall;
	answer_clocks_apart = apart;
	answer_kind = kind;
	request_at = 0;
	wrapper.putmessage = putmessage_awaiting_request;
	since_end = 0;
}

/*
 * An exchange is about to be recorded, before which the client was silent for
 * that long: does a chain end before it, does one begin with it?  A block is
 * a chain of its own; what goes before it makes another.
 */
static void
turn_chain(bool begins_block, int64 silent_us)
{
	if (begins_block ||
		(answer_kind == OTHERS && silent_us > chain_longest_gap_us()))
		chain_end();
	if (!chain_is_open())
		chain_open(request_at);
}

/*
 * The backend exits.  If it dies of an error while a request is open, the
 * client has been answered by that error, and waits no more.  So has one that
 * sent its farewell along with its last request.
 */
static void
exchange_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;

	if (MySlot == NULL)
		return;
	if (connection_open && request_at != 0 &&
		(since_end & (ERROR_FLUSHED | CLIENT_AHEAD)) != 0)
	{
		turn_chain(false, request_at - answer_at);
		slot_record(NO_SAMPLE, OTHERS, OTHERS, NO_SAMPLE, 0,
					GetCurrentTimestamp());
	}
	chain_end();
	read_socket();
	client_detach();
}

/*
 * Say once an hour, in the server's log only, that a client is beyond the
 * server's limit: not its own, which the client may set.
 */
static void
log_if_far(uint32 floor_us, TimestampTz now)
{
	double ms = floor_us / 1000.0;
	char client[512];

	if (!kasm_latency_log_far_clients || floor_us == 0 ||
		ms < kasm_latency_server_rtt_limit || !client_log_far_now(now))
		return;
	client_describe_mine(client, sizeof(client));

	/*
	 * The ReadyForQuery is in the send buffer.  A query cancel that was
	 * pending must not be served by the end of ereport: its error would look
	 * like the answer to the next query.
	 */
	HOLD_INTERRUPTS();
	ereport(LOG_SERVER_ONLY,
			(errmsg("kasm_latency: client %s is %.*f ms away; "
					"the limit is %g ms",
					client, ms < 10 ? 2 : (ms < 100 ? 1 : 0), ms,
					kasm_latency_server_rtt_limit),
			 errhidestmt(true)));
	RESUME_INTERRUPTS();
}

/*
 * The connection is ready for its first request, or for the next after we
 * were switched off.  The one place here that may take a lock, and log: the
 * backend is idle, outside any transaction's work.
 */
static pg_noinline void
open_connection(void)
{
	TimestampTz now;
	int64 monotonic_ns;

	/* the first turnaround is measured from these */
	read_clocks_together();
	now = WALL_NOW;
	monotonic_ns = MONOTONIC_NOW_NS;

	if (MySlot == NULL)
	{
		SocketRtt rtt = { 0, 0 };

		/* first, as it can fail: a slot in use must be freed at exit */
		if (!exit_registered)
			on_shmem_exit(exchange_exit, (Datum) 0);
		exit_registered = true;

		(void) socket_rtt_read(MyProcPort->sock, &rtt);
		client_attach(now, monotonic_ns, rtt.min_rtt_us, rtt.total_retrans);
		if (MySlot == NULL)
			return;
		log_if_far(rtt.min_rtt_us, now);
	}
	connection_open = true;
	outside_block = !IsTransactionBlock();
	chain_end();
	set_usual_turnarounds();
	upkeep_due_ns = Min(monotonic_ns + FIRST_UPKEEP_NS, client_next_fold_ns);
	begin_waiting(now, clocks_apart(now, monotonic_ns), OTHERS);
}

/*
 * A turnaround came out below the floor.  Nobody is faster than the path; but
 * the lowest round trip may have come down since we last asked.
 */
static pg_noinline bool
below_floor(int64 us)
{
	read_socket();
	if (us + FLOOR_SLACK_US >= (int64) MySlot->floor_us)
		return false;
	pipelines = true;
	return true;
}

/*
 * Did the wall clock go as far since the last answer as the monotonic one?
 */
static inline bool
clocks_agree(int64 apart)
{
	return (uint64) (apart - answer_clocks_apart + CLOCK_SLACK_NS) <=
		   2 * CLOCK_SLACK_NS;
}

/*
 * What is due now and then, at the end of a command.  A fold that found its
 * lock taken is due again at the next.
 */
static pg_noinline void
upkeep(int64 monotonic_ns)
{
	read_socket();
	if (monotonic_ns >= client_next_fold_ns)
		client_fold_if_free(monotonic_ns);
	upkeep_due_ns = client_next_fold_ns;
}

/*
 * A turnaround as a sample: NO_SAMPLE where the client was idle, or faster
 * than its path, which nobody is who waited for the answer.
 */
static int64
turnaround_sample(int64 waited_us)
{
	if (waited_us > idle_after_us ||
		(waited_us + FLOOR_SLACK_US < (int64) MySlot->floor_us &&
		 below_floor(waited_us)))
		return NO_SAMPLE;
	return waited_us;
}

/*
 * Record an exchange of which something is not as it is in nearly every one:
 * its request is not known, the clocks have parted, the client paused or was
 * faster than its path, a chain begins or ends, or upkeep is due.
 */
static pg_noinline void
record_unusual(FlushKind kind, bool idle)
{
	const bool ready = kind == FLUSH_READY;
	const bool begins_block = ready && outside_block && !idle;
	const bool ends_block = ready && !outside_block && idle;
	int64 server_us = NO_SAMPLE;
	int64 waited_us = NO_SAMPLE;
	int64 silent_us = PG_INT64_MAX;
	TimestampTz now;
	int64 monotonic_ns;

	/* we may have been interrupted between reading the two clocks */
	if (!clocks_agree(clocks_apart(WALL_NOW, MONOTONIC_NOW_NS)))
		read_clocks_together();
	now = WALL_NOW;
	monotonic_ns = MONOTONIC_NOW_NS;

	if (!clocks_agree(clocks_apart(now, monotonic_ns)))
	{
		chain_lose_time();
		request_at = 0;
	}
	else if (request_at != 0)
	{
		server_us = now - request_at;
		waited_us = request_at - answer_at;
		silent_us = waited_us;
	}
	else
		silent_us = now - answer_at; /* or less: the request has no stamp */

	if (outside_block && monotonic_ns >= client_next_fold_ns &&
		chain_is_endless())
		chain_end();
	turn_chain(begins_block, silent_us);

	/* before the exchange is recorded: it belongs to the minute that begins */
	if (ready && monotonic_ns >= upkeep_due_ns)
		upkeep(monotonic_ns);

	if (waited_us > idle_after_us && answer_kind == CEILINGS)
		slot_record_idle_open(waited_us);
	if (waited_us != NO_SAMPLE)
		waited_us = turnaround_sample(waited_us);
	slot_record(waited_us, answer_kind, pipelines ? OTHERS : answer_kind,
				server_us, idle, now);
	if (ends_block)
		chain_end();
	if (ready)
		outside_block = idle;
	set_usual_turnarounds();
	begin_waiting(now, clocks_apart(now, monotonic_ns),
				  idle ? OTHERS : CEILINGS);
}

/*
 * A flush that ends an exchange, or opens the connection.  Inline, so that
 * the one after a ReadyForQuery, which is nearly every one, gets a path of
 * its own.
 */
static pg_attribute_always_inline void
end_exchange(const FlushKind kind)
{
	uint64 idle; /* as wide as what it is added to, for one register less */
	int64 waited_us;
	int64 apart;
	TimestampTz now;

	if (unlikely(!connection_open))
	{
		if (kind == FLUSH_READY && kasm_latency_enabled)
			open_connection();
		return;
	}

	/*
	 * A client that has sent more was not waiting.  But after CopyInResponse
	 * its data, or a Sync that it sent along, are no new request; and after a
	 * failed copy its data may still come.
	 */
	if (kind != FLUSH_COPY_IN &&
		unlikely(pipelines || compat_client_bytes_buffered()))
	{
		if ((since_end & COPY_FAILED) == 0 &&
			(compat_client_bytes_buffered() || socket_has_more()))
		{
			pipelines = true;
			since_end |= CLIENT_AHEAD;
			set_usual_turnarounds();
			return;
		}
	}

	/* the same as status I in the ReadyForQuery */
	idle = kind == FLUSH_READY && !IsTransactionBlock();

	/*
	 * The common case calls nothing from here on, and the other one nothing
	 * but a function that begins anew: what is held across a call costs a
	 * register saved and restored.
	 */
	read_clocks();
	now = WALL_NOW;
	apart = clocks_apart(now, MONOTONIC_NOW_NS);
	waited_us = request_at - answer_at;

	/* without a request at hand the turnaround is far from usual */
	if (unlikely(!clocks_agree(apart) || idle != outside_block ||
				 (uint64) (waited_us - usual_shortest_us) > usual_span_us ||
				 MONOTONIC_NOW_NS >= upkeep_due_ns))
		record_unusual(kind, idle);
	else
	{
		if (waited_us < 0)
			pg_unreachable();
		slot_record(waited_us, answer_kind, answer_kind, now - request_at,
					idle, now);
		begin_waiting(now, apart, idle ? OTHERS : CEILINGS);
	}
	if (kind == FLUSH_COPY_IN)
		since_end = COPYING_IN;
}

/*
 * A flush after anything but ReadyForQuery.
 */
static pg_noinline void
other_flush(char message)
{
	FlushKind kind = flush_kind(message);

	switch (kind)
	{
		case FLUSH_OF_NOTHING:
		case FLUSH_IN_BETWEEN:
		case FLUSH_READY:
			break;
		case FLUSH_ERROR:
			since_end |= ERROR_FLUSHED;
			if (since_end & COPYING_IN)
				since_end |= COPY_FAILED;
			break;
		case FLUSH_BY_CLIENT:
			end_exchange(FLUSH_BY_CLIENT);
			break;
		case FLUSH_COPY_IN:
			end_exchange(FLUSH_COPY_IN);
			break;
	}
}

/*
 * In the place of PqCommMethods->flush.
 */
static int
exchange_flush(void)
{
	char message = last_message;

	last_message = 0;
	if (likely(message == 'Z'))
		end_exchange(FLUSH_READY);
	else
		other_flush(message);
	return wrapped_flush();
}

/*
 * We are switched off, or on again: then the next ReadyForQuery opens the
 * connection afresh.
 */
void
exchange_pause(void)
{
	connection_open = false;
	wrapper.putmessage = exchange_putmessage;
}

void
exchange_set_idle_after(int ms)
{
	idle_after_us = (int64) ms * 1000;
	set_usual_turnarounds();
}

/*
 * Called after a client has authenticated, before anything of that is sent.
 */
void
exchange_watch_connection(void)
{
	if (am_walsender || wrapped_putmessage != NULL || !clients_ready())
		return;
	wrapper = *PqCommMethods;
	wrapped_putmessage = wrapper.putmessage;
	wrapped_flush = wrapper.flush;
	wrapper.putmessage = exchange_putmessage;
	wrapper.flush = exchange_flush;
	PqCommMethods = &wrapper;
}
