/*-------------------------------------------------------------------------
 *
 * exchange.h
 *		The protocol boundary: bytes put and flushed become exchanges.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_EXCHANGE_H
#define KASM_LATENCY_EXCHANGE_H

/* not for other libraries, so that nothing needs a table to be found */
#pragma GCC visibility push(hidden)

extern void exchange_watch_connection(void);
extern void exchange_pause(void);
extern void exchange_set_idle_after(int ms);

#pragma GCC visibility pop

#endif /* KASM_LATENCY_EXCHANGE_H */
