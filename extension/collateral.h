/*-------------------------------------------------------------------------
 *
 * collateral.h
 *		Who made whom wait for a lock, and for how long.
 *
 * See collateral.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_COLLATERAL_H
#define KASM_LATENCY_COLLATERAL_H

#include "postgres.h"

#include "client_table.h"

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

/*
 * Pairs are kept by the minute as far back as any span reaches, the running
 * minute included.
 */
#define PAIRS 512
#define PAIR_MINUTES (SPAN_MAX_MINUTES + 6)

/* times of a minute are kept in steps of 10 us, so that 32 bits hold them */
#define PAIR_STEP_US 10

typedef enum PartyKind
{
	PARTY_CLIENT,
	PARTY_OVERFLOW, /* a client without an entry of its own */
	PARTY_PREPARED, /* a prepared transaction */
	PARTY_OTHER /* a process without a client, or one that is not measured */
} PartyKind;

/* who waits, or who is waited for */
typedef struct Party
{
	PartyKind kind;
	ClientKey key; /* of a client */
} Party;

typedef struct PairMinute
{
	uint32 number; /* 0 = unused */
	uint32 waited;
	uint32 waited_for_client;
} PairMinute;

typedef struct Pair
{
	Party blocking;
	Party waiting;
	TimestampTz last_seen;
	uint32 newest_minute; /* 0 = unused */
	PairMinute minutes[PAIR_MINUTES];
} Pair;

/* a pair over a span */
typedef struct PairReading
{
	Party blocking;
	Party waiting;
	TimestampTz last_seen;
	uint64 waited_us;
	uint64 waited_for_client_us;
} PairReading;

/* at start */
extern Size collateral_size(void);
extern void collateral_request(void);
extern void collateral_startup(void);

/* the watcher's */
extern int party_of_backend(int number, int pid, Party *party);
extern void collateral_charge_wait(int client, const Party *waiting, int64 us);
extern void collateral_charge_blocker(int client, const Party *blocking,
									  const Party *waiting, int64 us,
									  bool waits_for_client);

/* everybody's */
extern int collateral_read(int span_minutes, PairReading **readings);
extern void collateral_reset(const ClientKey *address_of);

/* while no other process uses them */
extern void collateral_clear(void);
extern Pair *collateral_pairs(void);
extern void collateral_drop_future(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_COLLATERAL_H */
