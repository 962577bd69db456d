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
 * nothing here throws, allocates or waits, but when a connection opens, and
 * when one that found no room gets an entry; only a flush that ends an
 * exchange does more than count; and nothing is half done when the wrapped
 * flush is called.
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
#include "client_mine.h"
#include "client_table.h"
#include "clock.h"
#include "compat.h"
#include "exchange.h"
#include "kasm_latency.h"
#include "my_socket.h"
#include "savefile.h"
#include "slot.h"
#include "socket_rtt.h"

/*
 * The socket is read at connect, when that is so long ago, once a minute and
 * at exit; and when a turnaround says that the floor must have come down.
 */
#define FIRST_UPKEEP_NS NS_PER_S

/* stamps are whole microseconds, and the kernel's are others than ours */
#define FLOOR_SLACK_US 2

/* the kinds of flush that end an exchange */
typedef enum FlushKind
{
	FLUSH_BY_CLIENT,
	FLUSH_COPY_IN,
	FLUSH_READY
} FlushKind;

static PQcommMethods wrapper;
static int (*wrapped_putmessage)(char msgtype, const char *s,
								 size_t len) = NULL;
static int (*wrapped_flush)(void);
static bool exit_registered = false;

/* the last message put since the last flush; 0 = none */
static char last_message = 0;

/* first ReadyForQuery seen, and not switched off since */
static bool connection_open = false;

/* was there no transaction block at the last ReadyForQuery? */
static bool was_outside = true;

/* the client does not always wait for answers */
static bool pipelines = false;

/* what has happened since the last end */
#define CLIENT_AHEAD 0x01  /* it sent more, so the exchange goes on */
#define AHEAD_OUTSIDE 0x02 /* and its last ReadyForQuery had status I */
#define ERROR_FLUSHED 0x04 /* an error went out */
#define COPYING_IN 0x08	   /* that end was a CopyInResponse */
#define COPY_FAILED 0x10   /* and an error went out during the copy */
static uint8 since_end = 0;

static TimestampTz request_at = 0;	   /* of this exchange; 0 = not known */
static TimestampTz answer_at = 0;	   /* of the last one */
static Turnaround answer_kind = OTHER; /* what its turnaround will be */

/* longer turnarounds are none: the client was idle */
static int64 idle_after_us = INT64CONST(1000000);

/* when to read the socket again, and fold if a minute is over */
static int64 upkeep_due_ns = 0;


static void exchange_exit(int code, Datum arg);
/* ----------
 * The request
 * ----------
 */

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
 * The same until the request of the next answer is seen: take the statement's
 * start for its arrival, if that is newer than the last answer.
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

/* after status I the next request may be another client's */
static inline Turnaround
turnaround_after(bool outside)
{
	return outside ? OTHER : CEILING;
}

static void
begin_waiting(TimestampTz now, bool outside)
{
	answer_at = now;
	answer_kind = turnaround_after(outside);
	request_at = 0;
	wrapper.putmessage = putmessage_awaiting_request;
	since_end = 0;
}


/* ----------
 * Is the client waiting?
 * ----------
 */

/*
 * At an end of a connection that pipelines, or that has bytes in the buffer:
 * does the exchange go on, as the client has sent more, and so was not
 * waiting?  But it ends with the minute: a client that is always ahead would
 * never be counted else.  And after a failed copy its data may still come.
 */
static pg_noinline bool
exchange_goes_on(bool outside)
{
	if ((since_end & COPY_FAILED) != 0 ||
		!(compat_client_bytes_buffered() || my_socket_has_more()))
		return false;
	pipelines = true;
	since_end = CLIENT_AHEAD | (outside ? AHEAD_OUTSIDE : 0) |
				(since_end & COPYING_IN);
	if (!client_fold_is_due())
		return true;
	upkeep_due_ns = 0;
	return false;
}


/* ----------
 * What is not as in nearly every exchange
 * ----------
 */

/*
 * The wall clock is not where it should be.  If it was set, what was stamped
 * before is worth nothing; if the machine was suspended, a minute may be over
 * that the guard has not seen.
 */
static Clocks
check_clocks(void)
{
	Clocks now;

	if (clocks_look_closely(&now))
		return now;
	request_at = 0;
	answer_at = now.wall;
	chain_lose_time();
	if (answer_kind == OTHER)
		chain_end();
	upkeep_due_ns = 0;
	return now;
}

/*
 * What is due now and then: the socket, and the minute.  A fold that found its
 * lock taken is due again at the next exchange.  After ReadyForQuery alone may
 * more be done than what never waits.
 */
static void
upkeep(FlushKind kind, int64 guard_ns)
{
	my_socket_read();
	if (client_fold_is_due())
	{
		if (was_outside)
			chain_cut_endless(request_at);
		if (!client_fold_if_free())
			return;
		if (kind == FLUSH_READY)
			client_leave_overflow();
	}
	upkeep_due_ns = guard_ns + client_minute_left_ns();
}

/* nobody who waited for the answer is faster than the path */
static inline bool
faster_than_path(int64 turnaround_us)
{
	return turnaround_us < (int64) MySlot->floor_us - FLOOR_SLACK_US;
}

/*
 * A turnaround shorter than the path gives a client away as one that
 * pipelines: unless the lowest round trip has come down since we last asked.
 */
static void
learn_from_turnaround(int64 us)
{
	if (faster_than_path(us))
		my_socket_read();
	if (faster_than_path(us))
		pipelines = true;
}

/*
 * The server has waited for that long with a transaction open.  A wait that
 * becomes a ceiling is recorded as that.
 */
static void
note_open_wait(int64 us)
{
	if (us > idle_after_us)
		chain_leave_out(us, answer_at);
	if (us > idle_after_us || pipelines)
		slot_record_open_wait(us);
}

/* the client was reset: what began before counts no more */
static void
begin_epoch(void)
{
	slot_begin_epoch();
	chain_drop();
	block_bound_us = NO_BOUND;
}


/* ----------
 * The ends of exchanges
 * ----------
 */

/*
 * The connection is ready for its first request, or for the next after we
 * were switched off.  The one place here that may wait for a lock, and log:
 * the backend is idle, outside any transaction's work.
 */
static pg_noinline void
open_connection(void)
{
	Clocks now = clocks_start();

	if (MySlot == NULL)
	{
		SocketRtt rtt = { 0, 0 };

		/* first, as it can fail: a slot in use must be freed at exit */
		if (!exit_registered)
			on_shmem_exit(exchange_exit, (Datum) 0);
		exit_registered = true;

		(void) socket_rtt_read(MyProcPort->sock, &rtt);
		savefile_used();
		if (!client_attach(now.wall, &rtt))
			return;
		client_log_if_far();
	}
	connection_open = true;
	was_outside = !IsTransactionBlock();
	block_bound_us = NO_BOUND; /* of a block that was seen in parts */
	chain_end();
	upkeep_due_ns =
		now.guard_ns + Min(FIRST_UPKEEP_NS, client_minute_left_ns());
	begin_waiting(now.wall, true);
}

/*
 * Is there nothing to decide?  Only if none of what finish_exchange() looks
 * for can be.
 */
static inline bool
is_usual(FlushKind kind, bool outside, Clocks now)
{
	int64 waited_us = request_at - answer_at;

	/* a block goes on, or there is none */
	return kind == FLUSH_READY && outside == was_outside &&
		   answer_kind == turnaround_after(outside) && clocks_agree(now) &&
		   request_at != 0 && waited_us <= chain_longest_gap_us &&
		   waited_us <= idle_after_us && !faster_than_path(waited_us) &&
		   !pipelines && slot_epoch_is_current() &&
		   now.guard_ns < upkeep_due_ns;
}

/*
 * Record an exchange that ends now.
 *
 * Compiled twice: where all is usual, nearly always, whatever is decided here
 * is left out.  It then calls nothing, and so keeps nothing across a call,
 * which is worth 51 instructions (229 without).
 */
static pg_attribute_always_inline void
finish_exchange(FlushKind kind, bool outside, Clocks now, const bool usual)
{
	int64 waited_us = NO_SAMPLE;
	int64 server_us = NO_SAMPLE;
	int64 silent_us;

	if (!usual && !slot_epoch_is_current())
		begin_epoch();
	if (!usual && !clocks_agree(now))
		now = check_clocks();

	if (usual || request_at != 0)
	{
		waited_us = request_at - answer_at;
		server_us = now.wall - request_at;
		silent_us = waited_us;
	}
	else
		silent_us = now.wall - answer_at; /* or less: there is no stamp */

	if (!usual)
		chain_turn(kind == FLUSH_READY && was_outside && !outside, answer_kind,
				   silent_us, request_at);

	/* before the exchange is recorded: it belongs to the minute that begins */
	if (!usual && now.guard_ns >= upkeep_due_ns)
		upkeep(kind, now.guard_ns);

	if (!usual && waited_us != NO_SAMPLE)
	{
		learn_from_turnaround(waited_us);
		if (answer_kind == CEILING)
			note_open_wait(waited_us);
		if (pipelines)
			answer_kind = OTHER;
		if (waited_us > idle_after_us || faster_than_path(waited_us))
			waited_us = NO_SAMPLE;
	}

	slot_record(waited_us, answer_kind, server_us, outside, now.wall);
	if (answer_kind == CEILING && waited_us != NO_SAMPLE &&
		waited_us < block_bound_us)
		block_bound_us = waited_us;

	if (!usual && kind == FLUSH_READY)
	{
		if (outside)
			block_end();
		if (outside && !was_outside)
			chain_end();
		was_outside = outside;
	}
	begin_waiting(now.wall, outside);
}

static pg_noinline void
finish_unusual_exchange(FlushKind kind, bool outside, Clocks now)
{
	finish_exchange(kind, outside, now, false);
}

/*
 * A flush that ends an exchange, or opens the connection.
 */
static pg_attribute_always_inline void
end_exchange(const FlushKind kind)
{
	Clocks now;
	bool outside;

	if (unlikely(!connection_open))
	{
		if (kind == FLUSH_READY && kasm_latency_enabled)
			open_connection();
		return;
	}

	/* the same as status I in the ReadyForQuery */
	outside = kind == FLUSH_READY && !IsTransactionBlock();

	/* after CopyInResponse its data, or a Sync, are no new request */
	if (kind != FLUSH_COPY_IN &&
		unlikely(pipelines || compat_client_bytes_buffered()) &&
		exchange_goes_on(outside))
		return;

	now = clocks_read();
	if (likely(is_usual(kind, outside, now)))
		finish_exchange(kind, outside, now, true);
	else
		finish_unusual_exchange(kind, outside, now);
	if (kind == FLUSH_COPY_IN)
		since_end = COPYING_IN;
}

/*
 * A flush after anything but ReadyForQuery: what the last message makes of it.
 */
static pg_noinline void
other_flush(char message)
{
	switch (message)
	{
		case 0:	  /* nothing was put */
		case 'N': /* NoticeResponse */
		case 'A': /* NotificationResponse */
		case 'S': /* ParameterStatus */
		case 'K': /* BackendKeyData */
			break;
		case 'E': /* ErrorResponse: a ReadyForQuery follows */
			since_end |= ERROR_FLUSHED;
			if (since_end & COPYING_IN)
				since_end |= COPY_FAILED;
			break;
		case 'G': /* CopyInResponse */
			end_exchange(FLUSH_COPY_IN);
			break;
		default:
			end_exchange(FLUSH_BY_CLIENT);
			break;
	}
}

/* in the place of PqCommMethods->flush */
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
 * Record what is under way as the backend exits.
 *
 * If it dies of an error while a command is open, the client has been answered
 * by that error, and waits no more.  So has one that sent its farewell along
 * with its last request.
 *
 * If the server was waiting for the client, with a transaction open, it has
 * done so up to here: whoever holds locks for longest ends like that.
 */
static void
finish_connection(void)
{
	Clocks now = clocks_read();
	const bool copying = (since_end & COPYING_IN) != 0;
	TimestampTz waited_until;
	bool answered;

	if (!slot_epoch_is_current())
		begin_epoch();
	if (!clocks_agree(now))
		now = check_clocks();
	answered =
		(request_at != 0 && (since_end & CLIENT_AHEAD) != 0) ||
		((request_at != 0 || copying) && (since_end & ERROR_FLUSHED) != 0);

	/* what is over belongs to the minute in which it was */
	if (!answered)
	{
		block_end();
		chain_end();
	}
	if (client_fold_is_due())
		(void) client_fold_if_free();

	waited_until = now.wall;
	if (request_at != 0)
		waited_until = request_at;
	else if (GetCurrentStatementStartTimestamp() > answer_at)
		waited_until = GetCurrentStatementStartTimestamp();
	if (answered)
		chain_turn(false, answer_kind, waited_until - answer_at, request_at);

	/* data has no stamp: nobody knows whether it was waited for */
	if (answer_kind == CEILING && !copying && waited_until > answer_at)
	{
		slot_record_open_wait(waited_until - answer_at);
		if (answered && waited_until - answer_at > idle_after_us)
			chain_leave_out(waited_until - answer_at, answer_at);
	}
	if (answered)
		slot_record(NO_SAMPLE, OTHER, NO_SAMPLE,
					(since_end & (AHEAD_OUTSIDE | ERROR_FLUSHED)) ==
						AHEAD_OUTSIDE,
					now.wall);
	block_end();
	chain_end();
}

static void
exchange_exit(int code, Datum arg)
{
	(void) code;
	(void) arg;

	if (MySlot == NULL)
		return;
	if (connection_open)
		finish_connection();
	my_socket_read();
	client_detach();
}


/* ----------
 * Connections and settings
 * ----------
 */

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
}

/* called after a client has authenticated, before anything of that is sent */
void
exchange_watch_connection(void)
{
	if (am_walsender || wrapped_putmessage != NULL || !client_table_ready())
		return;
	wrapper = *PqCommMethods;
	wrapped_putmessage = wrapper.putmessage;
	wrapped_flush = wrapper.flush;
	wrapper.putmessage = exchange_putmessage;
	wrapper.flush = exchange_flush;
	PqCommMethods = &wrapper;
}
