/*-------------------------------------------------------------------------
 *
 * exchange.h
 *		The protocol boundary: bytes put and flushed become exchanges.
 *
 *-------------------------------------------------------------------------
 */
#ifndef KASM_LATENCY_EXCHANGE_H
#define KASM_LATENCY_EXCHANGE_H

extern void exchange_watch_connection(void);
extern void exchange_pause(void);
extern void exchange_set_idle_after(int ms);

#endif /* KASM_LATENCY_EXCHANGE_H */
