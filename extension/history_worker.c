/*-------------------------------------------------------------------------
 *
 * history_worker.c
 *		The background worker that keeps history: one snapshot, and it ends.
 *
 * The watcher starts it every kasm_latency.history_interval.  It connects to
 * kasm_latency.history_database, lets the extension there take a snapshot and
 * remove what is too old, logs which verdicts have changed, and is gone: so
 * nobody who wants that database for himself waits for longer than that.
 *
 * What goes wrong is logged once an hour (workers.c), and the process ends as
 * if nothing had happened: the postmaster would log its exit code every time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "history_worker.h"
#include "kasm_latency.h"
#include "workers.h"


/* ----------
 * In the watcher
 * ----------
 */

/*
 * Is there no such database, or may one not connect to it?  What to log then,
 * else NULL.  Found out here, as a worker that cannot connect would be logged
 * by the postmaster too, each time.  Without a database there are only the
 * catalogs that are nailed, and no index: so it looks as the autovacuum
 * launcher does.
 */
static const char *
problem_of_database(const char *name)
{
	const char *problem = "no history: there is no database \"%s\"";
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (strcmp(NameStr(database->datname), name) == 0)
			problem = database->datallowconn
						  ? NULL
						  : "no history: database \"%s\" does not accept "
							"connections";
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	return problem;
}

/*
 * Start the worker, unless it still runs.
 */
void
history_worker_start(void)
{
	const char *database = kasm_latency_history_database;
	const char *problem;
	BackgroundWorker worker;
	char message[NAMEDATALEN + 100];

	if (worker_pid(HISTORY_WORKER) != 0)
	{
		worker_log_hourly(NULL, "no snapshot: the one before has not ended",
						  NULL);
		return;
	}
	problem = problem_of_database(database);
	if (problem != NULL)
	{
		snprintf(message, sizeof(message), problem, database);
		worker_log_hourly(NULL, message,
						  "The setting "
						  "kasm_latency.history_database names it.");
		return;
	}

	worker_describe(&worker, "kasm_latency history",
					"kasm_latency_history_main");
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_extra, database, sizeof(worker.bgw_extra));
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		worker_log_hourly(NULL,
						  "no history: there is no room for a background "
						  "worker",
						  "Raise max_worker_processes.");
}


/* ----------
 * In the worker
 * ----------
 */

/*
 * Take a snapshot, and log what has changed.
 */
static void
take_snapshot(const char *database)
{
	char message[NAMEDATALEN + 100];

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (!OidIsValid(get_extension_oid("kasm_latency", true)))
	{
		snprintf(message, sizeof(message),
				 "no history: extension kasm_latency is not in database "
				 "\"%s\"",
				 database);
		worker_log_hourly(NULL, message,
						  "CREATE EXTENSION kasm_latency there, or "
						  "change kasm_latency.history_database.");
	}
	else
	{
		pgstat_report_activity(STATE_RUNNING,
							   "SELECT kasm_latency.snapshot()");
		if (SPI_execute("SELECT kasm_latency_internal.keep_history()", false,
						0) != SPI_OK_SELECT)
			elog(ERROR, "keep_history() returned nothing");
		for (uint64 i = 0; i < SPI_processed; i++)
			ereport(LOG, (errmsg("kasm_latency: %s",
								 SPI_getvalue(SPI_tuptable->vals[i],
											  SPI_tuptable->tupdesc, 1)),
						  errhidestmt(true)));
	}
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void
kasm_latency_history_main(Datum arg)
{
	char database[NAMEDATALEN];
	MemoryContext context;

	(void) arg;
	strlcpy(database, MyBgworkerEntry->bgw_extra, sizeof(database));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(database, NULL, 0);
	if (!worker_begin(HISTORY_WORKER))
		proc_exit(0);

	context = CurrentMemoryContext;
	PG_TRY();
	{
		take_snapshot(database);
	}
	PG_CATCH();
	{
		ErrorData *error;
		StringInfoData message;
		char cause[NAMEDATALEN + 10];

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);

		/* the same may be worded anew each time: with a block, a process */
		snprintf(cause, sizeof(cause), "%s %s",
				 unpack_sql_state(error->sqlerrcode), database);
		initStringInfo(&message);
		appendStringInfo(&message, "no snapshot in database \"%s\": %s",
						 database, error->message);
		worker_log_hourly(cause, message.data, error->hint);
	}
	PG_END_TRY();
	proc_exit(0);
}
