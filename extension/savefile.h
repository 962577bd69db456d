/*-------------------------------------------------------------------------
 *
 * savefile.h
 *		The table of clients, to disk and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_SAVEFILE_H
#define KASM_LATENCY_SAVEFILE_H

extern void savefile_load(void);
extern void savefile_write(void);

#endif /* KASM_LATENCY_SAVEFILE_H */
