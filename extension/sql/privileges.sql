/*
 * Who may do what; the last file, as it speaks of all objects.  Client addresses
 * are sensitive: PUBLIC gets nothing, who may read statistics reads, and the
 * owner alone changes anything, but where he grants it.
 */

REVOKE ALL ON SCHEMA kasm_latency, kasm_latency_internal FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA kasm_latency, kasm_latency_internal FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA kasm_latency, kasm_latency_internal FROM PUBLIC;
GRANT USAGE ON SCHEMA kasm_latency, kasm_latency_internal TO pg_read_all_stats;
GRANT SELECT ON ALL TABLES IN SCHEMA kasm_latency, kasm_latency_internal TO pg_read_all_stats;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA kasm_latency, kasm_latency_internal TO pg_read_all_stats;
REVOKE EXECUTE ON FUNCTION
    kasm_latency.reset(),
    kasm_latency.reset(text),
    kasm_latency.register_host(inet, text, text, text),
    kasm_latency.forget_host(inet),
    kasm_latency.import_kasm_hosts(),
    kasm_latency.snapshot(),
    kasm_latency.prune(interval),
    kasm_latency_internal.keep_history(),
    kasm_latency_internal.reset_address(inet)
FROM pg_read_all_stats;
