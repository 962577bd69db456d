/*-------------------------------------------------------------------------
 *
 * savefile.c
 *		The table of clients, to disk at shutdown and back at start.
 *
 * Only the postmaster comes here, when no other process uses the table.
 *
 * The file is written under a temporary name, synced and renamed.  It is
 * unlinked as soon as it was read: after a crash there is none, and the
 * server starts empty, as it should, since what a crash left would be of an
 * unknown age.  A standby copied from a stopped server brings the file along
 * once.
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

#include "clients.h"
#include "kasm_latency.h"
#include "savefile.h"

#define SAVE_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/kasm_latency.stat"
#define SAVE_FILE_TEMPORARY SAVE_FILE ".tmp"

#define SAVE_MAGIC 0x6b6c6174
#define SAVE_VERSION 2

/* Everything that must agree before a byte of the rest is believed. */
typedef struct SaveHeader
{
	uint32 magic;
	uint32 version;
	uint32 pg_major;
	uint32 n_clients;
	uint64 identity_size;
	uint64 history_size;
	ClientsInfo info;
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
	header->identity_size = client_identity_size();
	header->history_size = client_history_size();
}

static bool
write_all(SaveFile *save)
{
	SaveHeader header;
	ClientChunks chunks;
	pg_crc32c crc;

	init_header(&header);
	clients_info_unlocked(&header.info);
	header.info.saved_at = GetCurrentTimestamp();
	for (int i = 0; i < clients_capacity(); i++)
		header.n_clients += client_chunks(i, &chunks);

	INIT_CRC32C(save->crc);
	if (!put(save, &header, sizeof(header)))
		return false;
	for (int i = 0; i < clients_capacity(); i++)
	{
		if (!client_chunks(i, &chunks))
			continue;
		if (!put(save, chunks.identity, client_identity_size()) ||
			!put(save, chunks.history, client_history_size()))
			return false;
	}
	crc = save->crc;
	FIN_CRC32C(crc);
	return fwrite(&crc, 1, sizeof(crc), save->file) == sizeof(crc);
}

void
savefile_write(void)
{
	SaveFile save;

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

/*
 * Read the rest of the file into the empty table.  Returns NULL, or what is
 * wrong with the file.
 */
static const char *
read_all(SaveFile *save)
{
	SaveHeader header;
	SaveHeader expected;
	ClientChunks chunks;
	char *identity;
	char *history;
	pg_crc32c crc;
	const char *problem = NULL;

	init_header(&expected);
	INIT_CRC32C(save->crc);
	if (!get(save, &header, sizeof(header)))
		return "it is too short";
	expected.n_clients = header.n_clients;
	expected.info = header.info;
	if (memcmp(&header, &expected, sizeof(header)) != 0)
		return "it was written by another version";

	chunks.identity = identity = palloc(client_identity_size());
	chunks.history = history = palloc(client_history_size());
	for (uint32 i = 0; i < header.n_clients && problem == NULL; i++)
	{
		if (!get(save, identity, client_identity_size()) ||
			!get(save, history, client_history_size()))
			problem = "it is too short";
		else
			client_restore(&chunks);
	}
	pfree(identity);
	pfree(history);
	if (problem != NULL)
		return problem;

	FIN_CRC32C(save->crc);
	if (fread(&crc, 1, sizeof(crc), save->file) != sizeof(crc))
		return "it is too short";
	if (!EQ_CRC32C(crc, save->crc))
		return "its checksum is wrong";
	if (fgetc(save->file) != EOF)
		return "it is too long";
	clients_restored(&header.info);
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
	unlink(SAVE_FILE);
	if (problem == NULL)
		return;
	clients_forget_all();
	ereport(WARNING, (errcode(ERRCODE_DATA_CORRUPTED),
					  errmsg("kasm_latency: ignoring file \"%s\": %s",
							 SAVE_FILE, problem),
					  errdetail("Starting empty.")));
}
