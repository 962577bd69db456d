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

#include "clients.h"
#include "clock.h"
#include "compat.h"
#include "exchange.h"
#include "kasm_latency.h"
#include "slot.h"
#include "socket_rtt.h"

/*
 * The socket is read at connect, once a minute, and every that many ends of a
 * command.
 */
#define SOCKET_READ_EVERY 64

/*
 * Between two ends the wall clock and the monotonic clock may part by that
 * much; beyond, somebody set the wall clock, or we were suspended between
 * reading the two, and the stamps are worth nothing.
 */
#define CLOCK_SLACK_US 200

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

static const PQcommMethods *wrapped;
static PQcommMethods wrapper;

/* the last message put since the last flush; 0 = none */
static char last_message = 0;

/* is the request still to be seen of which the next answer will be? */
static bool awaiting_request = false;

static bool connection_open =
	false;						   /* first ReadyForQuery seen, and enabled */
static bool pipelines = false;	   /* the client does not wait for answers */
static bool client_ahead = false;  /* ... and so this exchange goes on */
static bool error_flushed = false; /* an error went out, and no end since */
static bool copying_in = false;	   /* from CopyInResponse to the next end */
static bool copy_failed = false;   /* an error went out during that */

static bool exit_registered = false;
static int socket_read_due = SOCKET_READ_EVERY;

static TimestampTz request_at = 0;	   /* of this exchange; 0 = not known */
static TimestampTz answer_at = 0;	   /* of the last one, wall clock */
static int64 answer_monotonic = 0;	   /* the same, monotonic clock */
static Histogram answer_kind = OTHERS; /* what its turnaround will be */

/*
 * Take the statement's start for the time at which the request came, if it
 * is one newer than the last answer.
 */
static void
look_for_request(void)
{
	TimestampTz statement_start = GetCurrentStatementStartTimestamp();

	if (statement_start > answer_at)
	{
		request_at = statement_start;
		awaiting_request = false;
	}
}

/*
 * In the place of PqCommMethods->putmessage.  Runs for every row of a result:
 * a store, a test and a jump.
 */
static int
exchange_putmessage(char msgtype, const char *s, size_t len)
{
	last_message = msgtype;
	if (unlikely(awaiting_request))
		look_for_request();
	return wrapped->putmessage(msgtype, s, len);
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

static void
read_socket(void)
{
	SocketRtt rtt;

	socket_read_due = SOCKET_READ_EVERY;
	if (!socket_rtt_read(MyProcPort->sock, &rtt))
		return;
	slot_set_floor(rtt.min_rtt_us);
	slot_set_retransmits(rtt.total_retrans);
}

/*
 * Has the client sent more already?
 */
static bool
client_sent_more(void)
{
	if (compat_client_bytes_buffered())
		return true;
	if (!pipelines)
		return false;
#ifdef USE_OPENSSL
	if (MyProcPort->ssl_in_use && SSL_pending(MyProcPort->ssl) > 0)
		return true;
#endif
	return socket_bytes_waiting(MyProcPort->sock);
}

static void
begin_waiting(TimestampTz wall, int64 monotonic, Histogram kind)
{
	answer_at = wall;
	answer_monotonic = monotonic;
	answer_kind = kind;
	request_at = 0;
	awaiting_request = true;
	client_ahead = false;
	error_flushed = false;
	copy_failed = false;
	copying_in = false;
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
	if (connection_open && kasm_latency_enabled && !awaiting_request &&
		(error_flushed || client_ahead))
		slot_record(NO_SAMPLE, OTHERS, NO_SAMPLE, false,
					GetCurrentTimestamp());
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
static void
open_connection(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64 monotonic = monotonic_now_us();

	if (MySlot == NULL)
	{
		SocketRtt rtt = { 0, 0 };

		/* first, as it can fail: a slot in use must be freed at exit */
		if (!exit_registered)
			on_shmem_exit(exchange_exit, (Datum) 0);
		exit_registered = true;

		(void) socket_rtt_read(MyProcPort->sock, &rtt);
		client_attach(now, monotonic, rtt.min_rtt_us, rtt.total_retrans);
		if (MySlot == NULL)
			return;
		log_if_far(rtt.min_rtt_us, now);
	}
	connection_open = true;
	begin_waiting(now, monotonic, OTHERS);
}

/*
 * What was the turnaround that preceded this exchange?
 */
static int64
turnaround_us(void)
{
	int64 us = request_at - answer_at;

	if (us > (int64) kasm_latency_idle_after * 1000)
		return NO_SAMPLE;

	/*
	 * Nobody is faster than the path; but the lowest round trip may have
	 * come down since we last asked.
	 */
	if (unlikely(us + FLOOR_SLACK_US < (int64) MySlot->floor_us))
	{
		read_socket();
		if (us + FLOOR_SLACK_US < (int64) MySlot->floor_us)
		{
			pipelines = true;
			return NO_SAMPLE;
		}
	}
	return us;
}

/*
 * A flush that ends an exchange, or opens the connection.
 */
static void
end_exchange(FlushKind kind)
{
	TimestampTz now;
	int64 monotonic;
	int64 drift;
	int64 server_us = NO_SAMPLE;
	int64 waited_us = NO_SAMPLE;
	Histogram waited_kind;
	bool ready = kind == FLUSH_READY;
	char status = ready ? TransactionBlockStatusCode() : 'T';

	if (!connection_open)
	{
		if (ready)
			open_connection();
		return;
	}

	/*
	 * After CopyInResponse the client's data, or a Sync that it sent along,
	 * are no new request; after a failed copy its data may still come.
	 */
	if (kind != FLUSH_COPY_IN && !copy_failed && client_sent_more())
	{
		pipelines = true;
		client_ahead = true;
		return;
	}

	now = GetCurrentTimestamp();
	monotonic = monotonic_now_us();
	waited_kind = pipelines ? OTHERS : answer_kind;

	drift = (now - answer_at) - (monotonic - answer_monotonic);
	if (request_at != 0 && drift >= -CLOCK_SLACK_US && drift <= CLOCK_SLACK_US)
	{
		server_us = now - request_at;
		waited_us = turnaround_us();
	}

	if (ready)
	{
		if (unlikely(monotonic >= client_next_fold_us))
		{
			/* what comes now belongs to a new minute */
			read_socket();
			client_fold_if_free(monotonic);
		}
		else if (unlikely(--socket_read_due == 0))
			read_socket();
	}

	slot_record(waited_us, waited_kind, server_us, status == 'I', now);
	begin_waiting(now, monotonic, status == 'I' ? OTHERS : CEILINGS);
	copying_in = kind == FLUSH_COPY_IN;
}

/*
 * In the place of PqCommMethods->flush.
 */
static int
exchange_flush(void)
{
	FlushKind kind = flush_kind(last_message);

	last_message = 0;
	if (unlikely(!kasm_latency_enabled))
	{
		/* when switched on again, begin afresh */
		connection_open = false;
		awaiting_request = false;
	}
	else if (likely(kind > FLUSH_ERROR))
		end_exchange(kind);
	else if (kind == FLUSH_ERROR)
	{
		error_flushed = true;
		copy_failed = copying_in;
	}
	return wrapped->flush();
}

/*
 * Called after a client has authenticated, before anything of that is sent.
 */
void
exchange_watch_connection(void)
{
	if (am_walsender || wrapped != NULL || !clients_ready())
		return;
	wrapped = PqCommMethods;
	wrapper = *wrapped;
	wrapper.putmessage = exchange_putmessage;
	wrapper.flush = exchange_flush;
	PqCommMethods = &wrapper;
}
