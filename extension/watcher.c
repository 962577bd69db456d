/*-------------------------------------------------------------------------
 *
 * watcher.c
 *		The background worker that watches lock waits.
 *
 * Every kasm_latency.sample_locks it looks which processes wait for a
 * heavyweight lock.  Nearly always there are none, and to see that is a walk
 * over the PGPROCs, which reads a pointer of each without a lock.  For those
 * that wait it asks the lock manager, as pg_blocking_pids() does, who blocks
 * them, and follows that to the roots: to those who do not wait themselves.
 * Each look stands for the time since the one before: so long each of these
 * clients has waited, and so long, shared among several, have its roots kept
 * it waiting (collateral.c).  In the mean that is the time really waited,
 * whatever it is of waits shorter than that; the looks come a little earlier
 * or later by chance, so that no client keeps step with them.
 *
 * It also starts, every kasm_latency.history_interval, the worker that keeps
 * history (history_worker.c).  To know whether there is such a database it
 * reads pg_database; it is connected to none itself, as the logical
 * replication launcher is not, so that it stands in nobody's way.  But it
 * takes part in what DROP DATABASE and DROP TABLESPACE ask of all processes,
 * and must come by CHECK_FOR_INTERRUPTS() soon whenever its latch is set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "clock.h"
#include "collateral.h"
#include "history_worker.h"
#include "kasm_latency.h"
#include "watcher.h"
#include "workers.h"

/* of the time at most a tenth is spent on looking */
#define REST_AFTER_LOOK 9

/* with nothing to do; a reload sets the latch */
#define LONG_MS (60 * 60 * 1000)

/* a process that waits for a lock; of parallel ones their leader */
typedef struct Waiter
{
	PGPROC *proc;
	int pid;
	int n_blockers;
	const int *blockers; /* pids; 0 = a prepared transaction */
	Bitmapset *roots;	 /* numbers in Look.roots */
} Waiter;

/* who blocks others and does not wait */
typedef struct Root
{
	int pid;
	int client; /* index of its entry, or NO_ENTRY */
	Party party;
	bool waits_for_client;
} Root;

typedef struct Look
{
	int n_waiters;
	Waiter *waiters; /* ordered by pid, once all are there */
	int n_roots;
	int max_roots;
	Root *roots;
} Look;


/* ----------
 * Who waits for whom
 * ----------
 */

static inline bool
waits_for_lock(const PGPROC *proc)
{
	return *(LOCK *const volatile *) &proc->waitLock != NULL;
}

static inline int
proc_number(const PGPROC *proc)
{
	return (int) (proc - ProcGlobal->allProcs);
}

static int
compare_waiters(const void *a, const void *b)
{
	int left = ((const Waiter *) a)->pid;
	int right = ((const Waiter *) b)->pid;

	return (left > right) - (left < right);
}

static Waiter *
find_waiter(const Look *look, int pid)
{
	Waiter key = { .pid = pid };

	return bsearch(&key, look->waiters, look->n_waiters, sizeof(Waiter),
				   compare_waiters);
}

/*
 * Who blocks that process, by the lock manager: nobody, if it has got its lock
 * meanwhile.
 */
static void
ask_blockers(Waiter *waiter)
{
	ArrayType *pids = DatumGetArrayTypeP(
		DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(waiter->pid)));

	waiter->n_blockers = ArrayGetNItems(ARR_NDIM(pids), ARR_DIMS(pids));
	waiter->blockers = (const int *) ARR_DATA_PTR(pids);
}

/*
 * Find all that wait, and for whom.
 */
static void
find_waiters(Look *look)
{
	int max = (int) ProcGlobal->allProcCount;
	int n = 0;
	int pid = 0;

	for (int i = 0; i < max; i++)
	{
		PGPROC *proc = GetPGProcByNumber(i);
		PGPROC *leader;
		Waiter *waiter;

		if (likely(!waits_for_lock(proc)))
			continue;
		if (look->waiters == NULL)
			look->waiters = palloc0(mul_size(sizeof(Waiter), max));
		waiter = &look->waiters[n];
		/* which its owner may clear at any moment */
		leader = *(PGPROC *const volatile *) &proc->lockGroupLeader;
		waiter->proc = leader != NULL ? leader : proc;
		waiter->pid = waiter->proc->pid;
		if (waiter->pid != 0)
			n++;
	}
	if (n == 0)
		return;

	/* several of a parallel query are one */
	qsort(look->waiters, n, sizeof(Waiter), compare_waiters);
	for (int i = 0; i < n; i++)
	{
		Waiter *waiter = &look->waiters[look->n_waiters];

		if (i > 0 && look->waiters[i].pid == pid)
			continue;
		pid = look->waiters[i].pid;
		*waiter = look->waiters[i];
		ask_blockers(waiter);
		if (waiter->n_blockers > 0)
			look->n_waiters++;
	}
}

/*
 * Is a backend waiting for its client: for the next request, or until the
 * answer is read?
 */
static bool
waits_for_client(const PGPROC *proc)
{
	uint32 event = *(const volatile uint32 *) &proc->wait_event_info;

	return event == WAIT_EVENT_CLIENT_READ || event == WAIT_EVENT_CLIENT_WRITE;
}

/*
 * The number of a root, which is made where it is not there yet.
 */
static int
root_number(Look *look, int pid)
{
	PGPROC *proc;
	Root *root;

	for (int i = 0; i < look->n_roots; i++)
		if (look->roots[i].pid == pid)
			return i;
	if (look->n_roots == look->max_roots)
	{
		look->max_roots = Max(2 * look->max_roots, 16);
		look->roots =
			look->roots == NULL
				? palloc(sizeof(Root) * look->max_roots)
				: repalloc(look->roots, sizeof(Root) * look->max_roots);
	}
	root = &look->roots[look->n_roots];
	memset(root, 0, sizeof(Root));
	root->pid = pid;
	root->client = NO_ENTRY;
	root->party.kind = pid == 0 ? PARTY_PREPARED : PARTY_OTHER;
	proc = pid == 0 ? NULL : BackendPidGetProc(pid);
	if (proc != NULL)
	{
		root->client = party_of_backend(proc_number(proc), pid, &root->party);
		root->waits_for_client = waits_for_client(proc);
	}
	return look->n_roots++;
}

/*
 * Add the roots of those who block a process.  True if that made a difference.
 */
static bool
add_roots(Look *look, Waiter *waiter)
{
	int before = bms_num_members(waiter->roots);

	for (int i = 0; i < waiter->n_blockers; i++)
	{
		int pid = waiter->blockers[i];
		const Waiter *blocker = find_waiter(look, pid);

		if (blocker != NULL)
			waiter->roots = bms_add_members(waiter->roots, blocker->roots);
		else
			waiter->roots =
				bms_add_member(waiter->roots, root_number(look, pid));
	}
	return bms_num_members(waiter->roots) > before;
}

/*
 * Follow who waits for whom to those who do not wait.
 */
static void
find_roots(Look *look)
{
	bool more = true;

	while (more)
	{
		more = false;
		for (int i = 0; i < look->n_waiters; i++)
			if (add_roots(look, &look->waiters[i]))
				more = true;
	}

	/* a deadlock, until it is found: there they wait for each other */
	for (int i = 0; i < look->n_waiters; i++)
	{
		Waiter *waiter = &look->waiters[i];

		if (!bms_is_empty(waiter->roots))
			continue;
		for (int k = 0; k < waiter->n_blockers; k++)
			waiter->roots = bms_add_member(
				waiter->roots, root_number(look, waiter->blockers[k]));
	}
}

/*
 * The waiting client has waited for so long, and its roots, each for its
 * share, have kept it waiting.
 */
static void
charge_all(const Look *look, const Waiter *waiter, int64 us)
{
	int n = bms_num_members(waiter->roots);
	int64 left_us = us;
	Party party;
	int client;
	int i = -1;

	client = party_of_backend(proc_number(waiter->proc), waiter->pid, &party);
	if (client == NO_ENTRY)
		return;
	collateral_charge_wait(client, &party, us);
	while ((i = bms_next_member(waiter->roots, i)) >= 0)
	{
		const Root *root = &look->roots[i];
		int64 share_us = left_us / n--;

		collateral_charge_blocker(root->client, &root->party, &party, share_us,
								  root->waits_for_client);
		left_us -= share_us;
	}
}

/*
 * Look once, for the time since the look before.
 */
void
watcher_look(int64 elapsed_us)
{
	Look look = { 0 };

	find_waiters(&look);
	if (look.n_waiters == 0)
		return;
	find_roots(&look);
	for (int i = 0; i < look.n_waiters; i++)
		charge_all(&look, &look.waiters[i], elapsed_us);
}


/* ----------
 * The process
 * ----------
 */

static int64
now_us(void)
{
	return clock_ns(CLOCK_MONOTONIC) / NS_PER_US;
}

/*
 * When to look, and how long a look stands for.
 */
static struct
{
	int64 last_us; /* 0 = not looking */
	int64 next_us;
} looks;

/*
 * Look if it is time.  Returns after how many milliseconds it is again.
 */
static int64
look_if_due(MemoryContext context)
{
	int64 began_us = now_us();
	int64 interval_us = (int64) kasm_latency_sample_locks * 1000;
	int64 took_us;

	if (interval_us == 0 || !kasm_latency_enabled)
	{
		looks.last_us = 0;
		return LONG_MS;
	}
	if (looks.last_us == 0)
	{
		/* nobody knows of the time before */
		looks.last_us = began_us;
		looks.next_us = began_us + interval_us;
	}
	if (began_us >= looks.next_us)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		watcher_look(began_us - looks.last_us);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		looks.last_us = began_us;

		/* from three to five quarters of the interval */
		interval_us = interval_us * (768 + random() % 512) / 1024;
		took_us = now_us() - began_us;
		looks.next_us = began_us + Max(interval_us, REST_AFTER_LOOK * took_us);
	}
	return Max((looks.next_us - now_us() + 999) / 1000, 1);
}

/*
 * Is history kept, and where?  The empty name where it is not.
 */
static const char *
history_database(void)
{
	return kasm_latency_enabled ? kasm_latency_history_database : "";
}

/*
 * Start the worker that keeps history, if an interval is over, or at once
 * where a reload has named the database: so that whoever did that sees what
 * comes of it.  Returns after how many milliseconds the next interval begins.
 */
static int64
keep_history_if_due(void)
{
	static char last_database[NAMEDATALEN] = "";
	static uint32 last_number = 0;
	const char *database = history_database();
	uint32 interval = (uint32) kasm_latency_history_interval;
	uint32 number = minutes_now() / interval;
	bool due = strcmp(database, last_database) != 0 || number > last_number;

	/* at the start of this process no interval is over */
	if (last_number == 0)
		due = false;
	last_number = number;
	strlcpy(last_database, database, sizeof(last_database));
	if (database[0] == '\0')
		return LONG_MS;

	/* a standby has no history of its own; it may be promoted */
	if (due && !RecoveryInProgress())
		history_worker_start();
	return Max(
		minute_left_ns((number + 1) * interval - 1) / (NS_PER_US * 1000) + 1,
		1);
}

void
watcher_register(void)
{
	BackgroundWorker worker;

	/* pg_upgrade wants nothing written by itself */
	if (IsBinaryUpgrade)
		return;
	worker_describe(&worker, "kasm_latency watcher",
					"kasm_latency_watcher_main");
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

void
kasm_latency_watcher_main(Datum arg)
{
	MemoryContext context;

	(void) arg;
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	if (!worker_begin(WATCHER))
		proc_exit(1);
	context = AllocSetContextCreate(TopMemoryContext, "kasm_latency look",
									ALLOCSET_DEFAULT_SIZES);

	/* with an exit code that is not 0 the postmaster starts it again */
	while (!ShutdownRequestPending)
	{
		int64 timeout_ms;
		int64 history_ms;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		timeout_ms = look_if_due(context);
		history_ms = keep_history_if_due();
		(void) WaitLatch(
			MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
			(long) Min(timeout_ms, history_ms), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	proc_exit(1);
}
