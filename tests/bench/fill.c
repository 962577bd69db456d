/*-------------------------------------------------------------------------
 *
 * fill.c
 *		For benchmarks of reading: a table full of clients.
 *
 * Linked into the library by "make bench", and into no other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "../../extension/client_table.h"

PG_FUNCTION_INFO_V1(kasm_latency_test_fill);

/* one connection's minute, with a value in every cell */
static Figures one_of_each;

/*
 * Make so many clients at so many addresses, each with every cell of the last
 * hour full, of the calling backend's database, with role numbers of their own.
 */
Datum
kasm_latency_test_fill(PG_FUNCTION_ARGS)
{
	static const Figures none;
	unsigned char address[4] = { 127, 0, 0, 1 };
	uint32 minute = minutes_now();
	TimestampTz first = GetCurrentTimestamp() - 3600 * USECS_PER_SEC;
	ClientKey key;

	for (int i = 0; i < N_COUNTERS; i++)
		one_of_each.counters[i] = 1;
	for (int i = 0; i < N_CELLS; i++)
		one_of_each.cells[i] = 1;
	/* a forecast goes by these sums */
	one_of_each.counters[CHAINS] = HISTOGRAM_CELLS;
	one_of_each.counters[CHAIN_ROUND_TRIPS] = HISTOGRAM_CELLS * 20;
	for (int i = 0; i < HISTOGRAM_CELLS; i++)
		one_of_each.counters[CHAIN_US] += histogram_cell_start(i);

	memset(&key, 0, sizeof(key));
	key.database = MyDatabaseId;
	LWLockAcquire(client_table_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < PG_GETARG_INT32(0); i++)
	{
		History *history;
		int index;

		address[3] = (unsigned char) (1 + i % PG_GETARG_INT32(1));
		client_key_set_address(&key, true, address);
		key.role = 1000000 + i;
		index = client_find_or_make(&key, client_hash(&key), first);
		history = &client_histories[index];
		LWLockAcquire(client_lock(index), LW_EXCLUSIVE);
		for (uint32 m = minute - 65; m <= minute; m++)
		{
			history_count_connect(history, m);
			history_add(history, m, &one_of_each, &none, NO_MINIMUM);
			for (int k = 0; k < HISTOGRAM_CELLS; k++)
				history_count_end(history, m,
								  (uint32) histogram_cell_start(k));
		}
		client_entries[index].identity.floor_us = 400;
		client_entries[index].identity.floor_minute = minute - 1;
		LWLockRelease(client_lock(index));
	}
	LWLockRelease(client_table_lock());
	PG_RETURN_VOID();
}
