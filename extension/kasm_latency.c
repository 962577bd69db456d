/*-------------------------------------------------------------------------
 *
 * kasm_latency.c
 *		Settings and hooks: the only file that PostgreSQL calls at load.
 *
 * Without shared_preload_libraries there is no shared memory, and nothing is
 * measured; CREATE EXTENSION works all the same, and the functions say what
 * is missing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "libpq/auth.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "client_table.h"
#include "collateral.h"
#include "compat.h"
#include "exchange.h"
#include "kasm_latency.h"
#include "savefile.h"
#include "watcher.h"
#include "workers.h"

PG_MODULE_MAGIC;

bool kasm_latency_enabled = true;
double kasm_latency_rtt_limit = 10;
double kasm_latency_server_rtt_limit = 10;
int kasm_latency_max_clients = 200;
bool kasm_latency_log_far_clients = true;
bool kasm_latency_save = true;
int kasm_latency_sample_locks = 100;
char *kasm_latency_history_database = NULL;
int kasm_latency_history_interval = 5;

/* kept by exchange.c in a form of its own */
static int idle_after = 1000;

/* read by SQL only */
static int recent = 15; /* minutes */
static int min_samples = 20;
static char *app_roles = NULL;
static int history_keep = 90 * MINS_PER_HOUR * HOURS_PER_DAY; /* minutes */

static ClientAuthentication_hook_type previous_authentication_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;
#ifdef HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type previous_shmem_request_hook = NULL;
#endif

void _PG_init(void);

static void
assign_enabled(bool newval, void *extra)
{
	(void) extra;
	if (newval != kasm_latency_enabled)
		exchange_pause();
}

static void
assign_idle_after(int newval, void *extra)
{
	(void) extra;
	exchange_set_idle_after(newval);
}

static bool
check_app_roles(char **newval, void **extra, GucSource source)
{
	char *copy = pstrdup(*newval);
	List *names = NIL;
	bool valid = SplitIdentifierString(copy, ',', &names);

	(void) extra;
	(void) source;
	if (!valid)
		GUC_check_errdetail("List syntax is invalid.");
	pfree(copy);
	list_free(names);
	return valid;
}

/* settings in the order of the documentation */
static void
define_settings(void)
{
	DefineCustomBoolVariable("kasm_latency.enabled",
							 "Measures exchanges with clients.", NULL,
							 &kasm_latency_enabled, true, PGC_SIGHUP, 0, NULL,
							 assign_enabled, NULL);
	DefineCustomRealVariable(
		"kasm_latency.rtt_limit",
		"Sets the round trip time from which on a client is out of band.",
		NULL, &kasm_latency_rtt_limit, 10, 0.001, 60000, PGC_USERSET,
		GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("kasm_latency.recent",
							"Sets the span that the views cover.", NULL,
							&recent, 15, 1, SPAN_MAX_MINUTES, PGC_USERSET,
							GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"kasm_latency.min_samples",
		"Sets how many turnarounds a verdict of in_band or unproven takes.",
		NULL, &min_samples, 20, 1, INT_MAX, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"kasm_latency.idle_after",
		"Sets the time after which a silent client is taken for idle.", NULL,
		&idle_after, 1000, 1, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL,
		assign_idle_after, NULL);
	DefineCustomStringVariable(
		"kasm_latency.app_roles",
		"Lists the database roles whose clients are judged.",
		"Empty means all.", &app_roles, "", PGC_USERSET, GUC_LIST_INPUT,
		check_app_roles, NULL, NULL);
	DefineCustomIntVariable("kasm_latency.max_clients",
							"Sets how many clients are kept apart.",
							"A client is an address, database and role.",
							&kasm_latency_max_clients, 200, 1, 100000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable(
		"kasm_latency.log_far_clients",
		"Logs clients at or above the limit when they connect.", NULL,
		&kasm_latency_log_far_clients, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable(
		"kasm_latency.save", "Saves statistics across server shutdowns.", NULL,
		&kasm_latency_save, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kasm_latency.sample_locks",
							"Sets how often lock waits are looked at.",
							"0 is never.", &kasm_latency_sample_locks, 100, 0,
							60 * 1000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL,
							NULL);
	DefineCustomStringVariable(
		"kasm_latency.history_database",
		"Sets the database in which history is kept.",
		"Empty means that the server keeps none by itself.",
		&kasm_latency_history_database, "", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("kasm_latency.history_interval",
							"Sets how often a snapshot is taken.", NULL,
							&kasm_latency_history_interval, 5, 1,
							MINS_PER_HOUR * HOURS_PER_DAY, PGC_SIGHUP,
							GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"kasm_latency.history_keep", "Sets how long snapshots are kept.",
		"0 is for ever.", &history_keep, 90 * MINS_PER_HOUR * HOURS_PER_DAY, 0,
		INT_MAX, PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	MarkGUCPrefixReserved("kasm_latency");
}

static void
request_shared_memory(void)
{
	RequestAddinShmemSpace(client_table_size());
	RequestNamedLWLockTranche("kasm_latency", client_table_lock_count());
	collateral_request();
	workers_request();
}

#ifdef HAVE_SHMEM_REQUEST_HOOK
static void
shmem_request(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	request_shared_memory();
}
#endif

/* on_shmem_exit callback of the postmaster */
static void
save_at_exit(int code, Datum arg)
{
	(void) arg;

	if (code == 0 && kasm_latency_save && client_table_ready())
		savefile_write();
}

static void
shmem_startup(void)
{
	bool made;

	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	made = client_table_startup();
	collateral_startup();
	workers_startup();
	LWLockRelease(AddinShmemInitLock);

	if (IsUnderPostmaster)
		return;
	on_shmem_exit(save_at_exit, (Datum) 0);
	if (made)
		savefile_load();
}

static void
client_authentication(Port *port, int status)
{
	if (previous_authentication_hook)
		previous_authentication_hook(port, status);
	if (status != STATUS_OK)
		return;

	/* the server's: what the client and its role say of it comes after this */
	kasm_latency_server_rtt_limit = kasm_latency_rtt_limit;
	exchange_watch_connection();
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_settings();

#ifdef HAVE_SHMEM_REQUEST_HOOK
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
#else
	request_shared_memory();
#endif
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	previous_authentication_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = client_authentication;
	watcher_register();
}
