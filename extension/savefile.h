/*-------------------------------------------------------------------------
 *
 * savefile.h
 *		The table of clients, to disk and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SAVEFILE_H
#define KASM_LATENCY_SAVEFILE_H

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern void savefile_load(void);
extern void savefile_write(void);
extern void savefile_used(void);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_SAVEFILE_H */
