/*
 * The schema.  The script makes it and never adopts one that is there.
 *
 * What holds for all the files here, which make joins in the order of SQL_PARTS
 * (Makefile): a file uses only what files before it make; everything is
 * schema-qualified or of pg_catalog; every function in SQL or PL/pgSQL pins its
 * search_path; every object has a comment, right after it.
 */

CREATE SCHEMA kasm_latency;
COMMENT ON SCHEMA kasm_latency IS 'How far away each client host is, whether that is near enough, and what it costs';
