/*-------------------------------------------------------------------------
 *
 * client_mine.c
 *		The calling backend and its client: attach, fold, detach, and the line
 *		in the log about a client that is far.
 *
 * Folding moves what a slot has gained since its baseline into the entry:
 * entry += slot - baseline; baseline = slot.  The owner of the slot does so
 * when a minute is over, if the lock is free at once, and at exit.  A reader
 * adds slot - baseline of the live slots itself.  So nothing is lost or
 * counted twice, whenever it looks, and a reset is exact: zero the entry,
 * baseline = slot.
 *
 * Writes the calling backend's slot, and under their locks (client_table.c)
 * its baseline and its client's entry and history.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "client_mine.h"
#include "client_table.h"
#include "compat.h"
#include "kasm_latency.h"

/*
 * The key of the calling backend's client.
 */
static void
my_key(ClientKey *key)
{
	const struct sockaddr_storage *address = &MyProcPort->raddr.addr;

	memset(key, 0, sizeof(ClientKey));
	key->database = MyDatabaseId;
	key->role = MyProc->roleId;

	if (address->ss_family == AF_INET)
		client_key_set_address(
			key, true,
			(const unsigned char *) &((const struct sockaddr_in *) address)
				->sin_addr);
	else if (address->ss_family == AF_INET6)
		client_key_set_address(
			key, false,
			(const unsigned char *) &((const struct sockaddr_in6 *) address)
				->sin6_addr);
}

/*
 * Keep the name that the server resolved.  Whoever runs the client's DNS
 * chooses it: only plain characters are taken over, so that it is valid in
 * every encoding and harmless in every terminal.
 */
static void
set_hostname(ClientIdentity *identity, const char *name)
{
	int n = 0;

	if (name == NULL || name[0] == '\0')
		return;
	for (; n < CLIENT_HOSTNAME_LEN - 1 && name[n] != '\0'; n++)
		identity->hostname[n] =
			name[n] > ' ' && name[n] < 0x7f ? name[n] : '?';
	identity->hostname[n] = '\0';
}

/*
 * Take what the connection has brought into its client's entry, all but the
 * slot's figures.  Caller holds the entry's lock exclusively.
 */
static void
note_connection(int index, const Slot *slot)
{
	ClientIdentity *identity = &client_entries[index].identity;

	client_note_seen(identity, slot);
	if (index != OVERFLOW_ENTRY)
		client_note_floor(identity, slot);
}

/*
 * Link a slot to the entry of its client.  Caller holds the table lock.
 */
static void
link_to(int index, Slot *slot, int number, bool connects)
{
	LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
	client_entries[index].used = true; /* the overflow may not have been */
	client_link_slot(index, number);
	if (connects)
		history_count_connect(&client_histories[index], slot->minute);
	note_connection(index, slot);
	if (index != OVERFLOW_ENTRY)
		set_hostname(&client_entries[index].identity,
					 MyProcPort->remote_hostname);
	LWLockRelease(client_lock(index));
}

/*
 * Link a slot to the entry of its client, which is made where it is not known
 * yet; or to the overflow, where there is no room.
 */
static void
link_to_client(Slot *slot, int number, TimestampTz now)
{
	ClientKey key;
	uint32 hash;
	int index;

	/* nearly always the entry is there, and connects need not wait in line */
	my_key(&key);
	hash = client_hash(&key);
	LWLockAcquire(client_table_lock(), LW_SHARED);
	index = client_find(&key, hash);
	if (index == NO_ENTRY)
	{
		LWLockRelease(client_table_lock());
		LWLockAcquire(client_table_lock(), LW_EXCLUSIVE);
		index = client_find_or_make(&key, hash, now);
	}
	if (index == NO_ENTRY)
	{
		index = OVERFLOW_ENTRY;
		client_table->overflowed++;
	}
	link_to(index, slot, number, true);
	LWLockRelease(client_table_lock());
}

/*
 * Begin to account the calling backend's connection.  False where no slot is
 * to be had; the connection is then not accounted.
 */
bool
client_attach(TimestampTz now, const SocketRtt *rtt)
{
	int number = compat_my_proc_number();
	int64 minutes_us = minutes_now_us();
	Slot *slot;
	Baseline *baseline;

	if (number < 0 || number >= client_table->n_slots)
		return false;

	slot = client_slot(number);
	baseline = client_baseline(number);
	slot_init(slot, baseline);
	slot->floor_us = rtt->min_rtt_us;
	slot->figures.counters[RETRANSMITS] = rtt->total_retrans;
	slot->minute = minute_at(minutes_us);
	slot->newest_minute = slot->minute;
	slot->last_seen = now;
	slot->pid = MyProcPid;
	slot->connected_us = minutes_us;
	slot->connected_minute = slot->minute;
	slot->connected_at = MyStartTimestamp;

	link_to_client(slot, number, now);
	MySlot = slot;
	MyBaseline = baseline;
	return true;
}

/*
 * What the slot held when a minute ended that could not be folded, as somebody
 * had the lock.  What has come since belongs to the slot's newest minute.
 */
static struct
{
	bool kept;
	uint32 epoch;
	uint32 turnaround_min_us;
	Figures figures;
} minute_end;

/*
 * Add what the slot gained up to some moment to a minute of its client.
 */
static void
fold_minute(uint32 minute, const Figures *now, uint32 turnaround_min_us)
{
	history_add(&client_histories[MySlot->client], minute, now,
				&MyBaseline->figures,
				slot_epoch_is_current() ? turnaround_min_us : NO_MINIMUM);
	memcpy(&MyBaseline->figures, now, sizeof(Figures));
}

/*
 * Fold the calling backend's slot into its client.  Caller holds the entry's
 * lock exclusively.
 */
static void
fold(void)
{
	/* a reset has moved the baseline beyond what was kept */
	if (minute_end.kept && minute_end.epoch == MyBaseline->epoch)
		fold_minute(MySlot->minute, &minute_end.figures,
					minute_end.turnaround_min_us);
	minute_end.kept = false;
	fold_minute(MySlot->newest_minute, &MySlot->figures,
				MySlot->pending_min_us);
	note_connection(MySlot->client, MySlot);
}

/*
 * How long the minute still lasts to which the next exchange belongs.
 */
int64
client_minute_left_ns(void)
{
	return minute_left_ns(MySlot->newest_minute);
}

/*
 * Is a minute over that was not folded?
 */
bool
client_fold_is_due(void)
{
	return minute_end.kept || client_minute_left_ns() <= 0;
}

/*
 * Leave the overflow for an entry of its own, if there is room by now: or in a
 * minute, if anybody holds the table's lock.  The connect was counted where it
 * was made.
 */
void
client_leave_overflow(void)
{
	int number = compat_my_proc_number();
	LWLock *overflow_lock = client_lock(OVERFLOW_ENTRY);
	ClientKey key;
	uint32 hash;
	int index;

	if (MySlot->client != OVERFLOW_ENTRY ||
		!LWLockConditionalAcquire(client_table_lock(), LW_EXCLUSIVE))
		return;
	my_key(&key);
	hash = client_hash(&key);
	index = client_find_or_make(&key, hash, GetCurrentTimestamp());
	if (index != NO_ENTRY)
	{
		LWLockAcquire(overflow_lock, LW_EXCLUSIVE);
		client_unlink_slot(OVERFLOW_ENTRY, number);
		LWLockRelease(overflow_lock);
		link_to(index, MySlot, number, false);
	}
	LWLockRelease(client_table_lock());
}

/*
 * The minute is over: fold, unless somebody holds the lock; then false, and
 * the caller tries again at its next exchange.  Whatever comes belongs to the
 * minute that begins.
 */
bool
client_fold_if_free(void)
{
	LWLock *lock = client_lock(MySlot->client);
	uint32 minute = minutes_now();

	if (!LWLockConditionalAcquire(lock, LW_EXCLUSIVE))
	{
		if (!minute_end.kept)
		{
			minute_end.kept = true;
			minute_end.epoch = MyBaseline->epoch;
			minute_end.turnaround_min_us = MySlot->pending_min_us;
			memcpy(&minute_end.figures, &MySlot->figures, sizeof(Figures));
			slot_note_minute(minute);
		}
		return false;
	}
	fold();
	slot_begin_minute(minute);
	LWLockRelease(lock);
	return true;
}

/*
 * The calling backend exits: fold the rest and free the slot, in one
 * critical section, so that no reader misses it or sees it twice.
 */
void
client_detach(void)
{
	int index = MySlot->client;
	LWLock *lock = client_lock(index);

	LWLockAcquire(lock, LW_EXCLUSIVE);
	fold();
	client_unlink_slot(index, compat_my_proc_number());
	history_count_end(&client_histories[index], minutes_now(),
					  MySlot->floor_us);
	MySlot = NULL;
	MyBaseline = NULL;
	LWLockRelease(lock);
}

/*
 * Take it upon the calling backend to log that its client is far: true for
 * the first of an address in an hour, whatever its database and role.  A
 * client without an entry of its own is not logged, as nobody would remember
 * that it was.
 */
static bool
claim_far_line(void)
{
	uint32 minute = MySlot->connected_minute;
	ClientIdentity *mine = &client_entries[MySlot->client].identity;
	uint32 logged;

	if (MySlot->client == OVERFLOW_ENTRY)
		return false;

	/* nearly always it is this client itself that was logged */
	LWLockAcquire(client_table_lock(), LW_SHARED);
	logged = mine->far_logged_minute;
	LWLockRelease(client_table_lock());
	if (minute_within_hour(logged, minute))
		return false;

	LWLockAcquire(client_table_lock(), LW_EXCLUSIVE);
	logged = mine->far_logged_minute;
	for (int i = 0;
		 i < client_table->max_clients && !minute_within_hour(logged, minute);
		 i++)
	{
		const ClientEntry *entry = &client_entries[i];

		if (entry->used &&
			client_same_address(&entry->identity.key, &mine->key))
			logged = entry->identity.far_logged_minute;
	}
	mine->far_logged_minute =
		minute_within_hour(logged, minute) ? logged : minute;
	LWLockRelease(client_table_lock());
	return !minute_within_hour(logged, minute);
}

/*
 * The calling backend's client: its address, with the name that the server
 * resolved, if any.
 */
static void
describe_client(char *text, Size size)
{
	LWLock *lock = client_lock(MySlot->client);
	const ClientIdentity *identity = &client_entries[MySlot->client].identity;
	char address[INET6_ADDRSTRLEN];

	LWLockAcquire(lock, LW_SHARED);
	if (inet_ntop(identity->key.family == 4 ? AF_INET : AF_INET6,
				  identity->key.address, address, sizeof(address)) == NULL)
		address[0] = '\0';
	if (identity->hostname[0] != '\0')
		snprintf(text, size, "%s (%s)", address, identity->hostname);
	else
		strlcpy(text, address, size);
	LWLockRelease(lock);
}

/*
 * Say once an hour, in the server's log only, that the calling backend's
 * client is beyond the server's limit: not its own, which the client may set.
 * Called when the first ReadyForQuery is in the send buffer.
 */
void
client_log_if_far(void)
{
	double ms = MySlot->floor_us / 1000.0;
	char client[512];

	if (!kasm_latency_log_far_clients || MySlot->floor_us == 0 ||
		ms < kasm_latency_server_rtt_limit || !claim_far_line())
		return;
	describe_client(client, sizeof(client));

	/*
	 * A query cancel that was pending must not be served by the end of
	 * ereport: its error would look like the answer to the next query.
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
