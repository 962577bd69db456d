/*
 * The two schemas.  kasm_latency holds what users type, and nothing else:
 * docs/reference.md describes all of it, and a test lists it.  Whatever else the
 * script needs lives in kasm_latency_internal, and may change at any time.
 *
 * The script makes both and never adopts one that is there.
 *
 * What holds for all the files here, which make joins in the order of SQL_PARTS
 * (Makefile): a file uses only what files before it make; everything is
 * schema-qualified or of pg_catalog; every function in SQL or PL/pgSQL pins its
 * search_path; every object and every column of a public relation has a comment,
 * right after it.
 */

CREATE SCHEMA kasm_latency;
COMMENT ON SCHEMA kasm_latency IS 'How far away each client host is, whether that is near enough, and what it costs';

CREATE SCHEMA kasm_latency_internal;
COMMENT ON SCHEMA kasm_latency_internal IS 'What the extension kasm_latency needs for itself; it may change at any time';
