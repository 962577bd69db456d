-- Every column of every public relation, in order, with its type and its comment, which says all of it.
-- docs/reference.md's tables of columns are made of what is expected here: "make reference".
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

\pset format unaligned
SELECT c.relname AS relation, a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
       col_description(c.oid, a.attnum) AS comment
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'kasm_latency'::regnamespace AND c.relkind <> 'i'
ORDER BY c.relname COLLATE "C", a.attnum;
\pset format aligned

-- none without a comment, and none whose comment a table of the document could not hold
SELECT c.relname, a.attname FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'kasm_latency'::regnamespace AND c.relkind <> 'i'
  AND coalesce(col_description(c.oid, a.attnum), '') !~ '^[^|[:cntrl:]]+$';

-- the functions behind the views have the views' columns
SELECT v.view, v.function FROM (VALUES ('clients', 'client_stats'), ('hosts', 'host_stats')) AS v (view, function)
WHERE (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
       WHERE a.attrelid = ('kasm_latency.' || v.view)::regclass AND a.attnum > 0)
      <> (SELECT p.proargnames[2:] FROM pg_proc AS p
          WHERE p.pronamespace = 'kasm_latency'::regnamespace AND p.proname = v.function);

DROP EXTENSION kasm_latency;
