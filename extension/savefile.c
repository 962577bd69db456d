/*-------------------------------------------------------------------------
 *
 * savefile.c
 *		The table of clients, to disk at shutdown and back at start.
 *
 * The postmaster reads and writes it, when no other process uses the table: so
 * without locks.
 *
 * The file holds a header, each client's identity and history and the pairs as
 * they lie in memory, and a checksum.  Whatever changes these structs changes
 * their size, or SAVE_VERSION has to be raised.
 *
 * It is written under a temporary name, synced and renamed.  It is unlinked
 * when the first client is there, or at a reset: until then nothing was counted that is not
 * in it, and a server that fails to start loses nothing.  After a crash there
 * is none, and the server starts empty, as it should, since what a crash left
 * would be of an unknown age.  A standby copied from a stopped server brings
 * the file along once.
 *
 * A file that cannot be used is worth one WARNING and an empty start, never
 * a failed one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#include "client_table.h"
#include "collateral.h"
#include "kasm_latency.h"
#include "savefile.h"

#define SAVE_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/kasm_latency.stat"
#define SAVE_FILE_TEMPORARY SAVE_FILE ".tmp"

#define SAVE_MAGIC 0x6b6c6174
#define SAVE_VERSION 6

typedef struct SaveHeader
{
	/* what must agree before a byte of the rest is believed */
	uint32 magic;
	uint32 version;
	uint32 pg_major;
	uint32 padding;
	uint64 identity_size;
	uint64 history_size;
	uint64 pair_size;

	/* the table's */
	uint64 n_clients;
	uint64 n_pairs;
	uint64 overflowed;
	TimestampTz stats_reset;
	TimestampTz saved_at;
} SaveHeader;

typedef struct SaveFile
{
	FILE *file;
	pg_crc32c crc;
} SaveFile;

static bool
put(SaveFile *save, const void *data, Size size)
{
	COMP_CRC32C(save->crc, data, size);
	return fwrite(data, 1, size, save->file) == size;
}

static bool
get(SaveFile *save, void *data, Size size)
{
	if (fread(data, 1, size, save->file) != size)
		return false;
	COMP_CRC32C(save->crc, data, size);
	return true;
}

static void
init_header(SaveHeader *header)
{
	memset(header, 0, sizeof(SaveHeader));
	header->magic = SAVE_MAGIC;
	header->version = SAVE_VERSION;
	header->pg_major = PG_VERSION_NUM / 100;
	header->identity_size = sizeof(ClientIdentity);
	header->history_size = sizeof(History);
	header->pair_size = sizeof(Pair);
}


/* ----------
 * To disk
 * ----------
 */

static bool
write_client(SaveFile *save, int index)
{
	return !client_entries[index].used ||
		   (put(save, &client_entries[index].identity,
				sizeof(ClientIdentity)) &&
			put(save, &client_histories[index], sizeof(History)));
}

static bool
write_all(SaveFile *save)
{
	const Pair *pairs = collateral_pairs();
	SaveHeader header;
	pg_crc32c crc;

	init_header(&header);
	header.n_clients =
		client_table->n_used + client_entries[OVERFLOW_ENTRY].used;
	for (int i = 0; i < PAIRS; i++)
		header.n_pairs += pairs[i].newest_minute != 0;
	header.overflowed = client_table->overflowed;
	header.stats_reset = client_table->stats_reset;
	header.saved_at = GetCurrentTimestamp();

	/* no entry has a live connection: so all are in that list */
	INIT_CRC32C(save->crc);
	if (!put(save, &header, sizeof(header)) ||
		!write_client(save, OVERFLOW_ENTRY))
		return false;
	for (int i = client_next_to_make_room(NO_ENTRY); i != NO_ENTRY;
		 i = client_next_to_make_room(i))
		if (!write_client(save, i))
			return false;
	for (int i = 0; i < PAIRS; i++)
		if (pairs[i].newest_minute != 0 && !put(save, &pairs[i], sizeof(Pair)))
			return false;
	crc = save->crc;
	FIN_CRC32C(crc);
	return fwrite(&crc, 1, sizeof(crc), save->file) == sizeof(crc);
}

/*
 * Is any connection still accounted?  Not after an orderly shutdown.  But in
 * an immediate one backends die at any point, and take with them what was not
 * folded.
 */
static bool
any_live(void)
{
	for (int i = 0; i < client_table_capacity(); i++)
		if (client_entries[i].live > 0)
			return true;
	return false;
}

void
savefile_write(void)
{
	SaveFile save;

	if (any_live())
		return;
	save.file = AllocateFile(SAVE_FILE_TEMPORARY, PG_BINARY_W);
	if (save.file == NULL)
		goto fail;
	if (!write_all(&save))
		goto fail;
	if (FreeFile(save.file) != 0)
	{
		save.file = NULL;
		goto fail;
	}

	/* this syncs the file before it is renamed, and says what went wrong */
	(void) durable_rename(SAVE_FILE_TEMPORARY, SAVE_FILE, WARNING);
	return;

fail:
	ereport(WARNING, (errcode_for_file_access(),
					  errmsg("kasm_latency: could not write file \"%s\": %m",
							 SAVE_FILE_TEMPORARY),
					  errdetail("The statistics of this run are lost.")));
	if (save.file != NULL)
		FreeFile(save.file);
	unlink(SAVE_FILE_TEMPORARY);
}


/* ----------
 * And back
 * ----------
 */

static void
add_to_overflow(const WideFigures *totals)
{
	figures_add_wide(&client_histories[OVERFLOW_ENTRY].totals, totals);
	client_entries[OVERFLOW_ENTRY].used = true;
}

/*
 * Put a saved client into the table.  They come in the order in which they
 * make room: where max_clients was lowered, the first do so for the last.  The
 * overflow has no role, as no client can.
 */
static void
restore(const ClientIdentity *identity, const History *history)
{
	uint32 now_minute = minutes_now();
	ClientEntry *entry;
	int index;

	if (!OidIsValid(identity->key.role))
	{
		add_to_overflow(&history->totals);
		client_entries[OVERFLOW_ENTRY].identity = *identity;
		return;
	}

	index = client_find_room();
	entry = &client_entries[index];
	if (entry->used)
	{
		client_table->overflowed++;
		add_to_overflow(&client_histories[index].totals);
		client_unlink(index);
	}
	entry->identity = *identity;
	entry->identity.hostname[CLIENT_HOSTNAME_LEN - 1] = '\0';
	entry->hash = client_hash(&identity->key);
	client_link(index);
	client_histories[index] = *history;

	/* the wall clock may have been set back meanwhile */
	history_drop_future(&client_histories[index], now_minute);
	if (identity->floor_minute > now_minute)
		client_forget_floor(&entry->identity);
	if (identity->far_logged_minute > now_minute)
		entry->identity.far_logged_minute = 0;
}

static const char *
read_clients(SaveFile *save, uint64 n_clients)
{
	ClientIdentity identity;
	History *history = palloc(sizeof(History));
	const char *problem = NULL;

	for (uint64 i = 0; i < n_clients && problem == NULL; i++)
	{
		if (!get(save, &identity, sizeof(identity)) ||
			!get(save, history, sizeof(History)))
			problem = "it is too short";
		else
			restore(&identity, history);
	}
	pfree(history);
	return problem;
}

/*
 * Read the file into the empty table.  Returns NULL, or what is wrong with
 * the file.
 */
static const char *
read_all(SaveFile *save)
{
	SaveHeader header;
	SaveHeader expected;
	pg_crc32c crc;
	const char *problem;

	init_header(&expected);
	INIT_CRC32C(save->crc);
	if (!get(save, &header, sizeof(header)))
		return "it is too short";
	if (memcmp(&header, &expected, offsetof(SaveHeader, n_clients)) != 0)
		return "it was written by another version";

	problem = read_clients(save, header.n_clients);
	if (problem != NULL)
		return problem;
	if (header.n_pairs > PAIRS)
		return "it has too many pairs";
	if (!get(save, collateral_pairs(), header.n_pairs * sizeof(Pair)))
		return "it is too short";
	collateral_drop_future();

	FIN_CRC32C(save->crc);
	if (fread(&crc, 1, sizeof(crc), save->file) != sizeof(crc))
		return "it is too short";
	if (!EQ_CRC32C(crc, save->crc))
		return "its checksum is wrong";
	if (fgetc(save->file) != EOF)
		return "it is too long";

	client_table->overflowed += header.overflowed;
	client_table->stats_reset = header.stats_reset;
	client_table->saved_at = header.saved_at;
	return NULL;
}

void
savefile_load(void)
{
	SaveFile save;
	const char *problem;

	unlink(SAVE_FILE_TEMPORARY);
	if (!kasm_latency_save)
	{
		/* switched on again, it must not bring back what is long past */
		unlink(SAVE_FILE);
		return;
	}
	save.file = AllocateFile(SAVE_FILE, PG_BINARY_R);
	if (save.file == NULL)
	{
		if (errno == ENOENT)
			ereport(LOG, (errmsg("kasm_latency: no saved statistics; "
								 "starting empty")));
		else
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("kasm_latency: could not open file \"%s\": %m",
							SAVE_FILE),
					 errdetail("Starting empty.")));
		return;
	}

	problem = read_all(&save);
	FreeFile(save.file);
	if (problem == NULL)
	{
		client_table->save_file_there = true;
		return;
	}
	unlink(SAVE_FILE);
	client_table_clear();
	collateral_clear();
	ereport(WARNING, (errcode(ERRCODE_DATA_CORRUPTED),
					  errmsg("kasm_latency: ignoring file \"%s\": %s",
							 SAVE_FILE, problem),
					  errdetail("Starting empty.")));
}

/*
 * There is a client, or a reset: from now on the file is out of date.
 * Whether several come at once does not matter.
 */
void
savefile_used(void)
{
	if (!client_table->save_file_there)
		return;
	if (unlink(SAVE_FILE) == 0 || errno == ENOENT)
		client_table->save_file_there = false;
}
