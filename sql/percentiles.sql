-- Percentiles of histograms against the values that were counted, and against their exact mean.
\set SHOW_CONTEXT never
CREATE EXTENSION kasm_latency;

-- a histogram of so many microseconds, byte by byte: its sum, and each cell's number and count
CREATE FUNCTION pg_temp.cell(us bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN us < 20 THEN us::integer
                ELSE 10 + 35 * (d - 1) + CASE WHEN us < 2 * ten THEN (us - ten) * 10 / ten
                                              WHEN us < 5 * ten THEN 10 + (us - 2 * ten) * 5 / ten
                                              ELSE 25 + (us - 5 * ten) * 2 / ten END END::integer
    FROM (SELECT d, (10 ^ d)::bigint AS ten FROM generate_series(1, 7) AS d WHERE us >= 10 ^ d ORDER BY d DESC LIMIT 1) AS x
    RIGHT JOIN (VALUES (1)) AS one (row) ON true
$$;
CREATE FUNCTION pg_temp.eight_bytes(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(substr(int8send(n), i, 1), ''::bytea ORDER BY i DESC) FROM generate_series(1, 8) AS i
$$;
CREATE FUNCTION pg_temp.count_bytes(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(set_byte('\x00'::bytea, 0, ((n >> 7 * i & 127) + CASE WHEN n >> 7 * (i + 1) > 0 THEN 128 ELSE 0 END)::integer),
                      ''::bytea ORDER BY i)
    FROM generate_series(0, 8) AS i WHERE i = 0 OR n >> 7 * i > 0
$$;
CREATE FUNCTION pg_temp.histogram(us bigint[], sum_us bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_temp.eight_bytes(sum_us)
           || string_agg(set_byte('\x00'::bytea, 0, c.cell) || pg_temp.count_bytes(c.n), ''::bytea ORDER BY c.cell)
    FROM (SELECT pg_temp.cell(u) AS cell, count(*) AS n FROM unnest(us) AS u GROUP BY 1) AS c
$$;
CREATE FUNCTION pg_temp.sum(us bigint[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT sum(u)::bigint FROM unnest(us) AS u $$;

-- cells are what the extension says that they are
SELECT us, pg_temp.cell(us), c.from_ms, c.to_ms, c.from_ms <= us / 1000.0 AND us / 1000.0 < c.to_ms AS right_cell
FROM unnest(ARRAY[0, 19, 20, 49, 50, 99, 100, 1999, 2000, 4999, 5000, 9999, 10000, 120999, 99999999]::bigint[]) AS us
CROSS JOIN LATERAL kasm_latency_internal.histogram_cells(pg_temp.histogram(ARRAY[us], us)) AS c;

-- tight: within half a percent of a place, wherever in its cell that is, and on both sides of a cell's bound; every
-- percentile and the mean within 1 %
CREATE TEMPORARY VIEW tight AS
    SELECT 'around ' || ms || ' ms' AS name,
           (SELECT array_agg(round(1000 * ms * (1 + (i - 100) / 20000.0))::bigint) FROM generate_series(1, 199) AS i) AS us
    FROM unnest(ARRAY[0.403, 1, 1.04, 4.99, 5.02, 10, 10.05, 10.5, 10.95, 11, 25.1, 121, 125, 129.4, 199.5, 1440]) AS ms
    UNION ALL
    SELECT 'around 121 ms, and 2 % of 0.4 ms',
           (SELECT array_agg(CASE WHEN i % 50 = 0 THEN 400 ELSE 120900 + i END) FROM generate_series(1, 200) AS i);
CREATE FUNCTION pg_temp.compared(us bigint[], known boolean,
                                 OUT fraction double precision, OUT truth double precision, OUT said double precision)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    SELECT f, t.us / 1000, kasm_latency_internal.percentile_ms(h, f)
    FROM pg_temp.histogram(us, CASE WHEN known THEN pg_temp.sum(us) ELSE -1 END) AS h,
         unnest(ARRAY[0.1, 0.5, 0.9, 0.95, 0.99]) AS f
    CROSS JOIN LATERAL (SELECT percentile_disc(f) WITHIN GROUP (ORDER BY u)::double precision AS us FROM unnest(us) AS u) AS t
$$;
SELECT t.name, bool_and(abs(c.said / c.truth - 1) <= 0.01) AS all_within_1_percent,
       bool_or(c.fraction = 0.5 AND (abs(c.said * 1000 * cardinality(t.us) / pg_temp.sum(t.us) - 1) <= 0.01
                                     OR t.name ~ 'and')) AS median_is_mean
FROM tight AS t CROSS JOIN LATERAL pg_temp.compared(t.us, true) AS c
GROUP BY t.name ORDER BY t.name COLLATE "C";
-- without the sum they are not
SELECT count(*) FILTER (WHERE abs(c.said / c.truth - 1) > 0.01) > 40 AS many_off,
       bool_and(abs(c.said / c.truth - 1) < 0.1) AS in_their_cells
FROM tight AS t CROSS JOIN LATERAL pg_temp.compared(t.us, false) AS c;
-- nor with a wrong one, but they stay in their cells
SELECT sum_us, kasm_latency_internal.percentile_ms(pg_temp.histogram(ARRAY[10500, 10500, 10500], sum_us), 0.5)
FROM unnest(ARRAY[0, 30000, 31500, 33000, 1000000]::bigint[]) AS sum_us;

-- broad, over many cells: no worse than half a cell, as a cell's middle would be
CREATE TEMPORARY VIEW broad AS
    SELECT 'even, 1 to 100 ms' AS name, array_agg((1000 + i * 99)::bigint) AS us FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'even, 9 to 12 ms', array_agg((9000 + i * 3)::bigint) FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'even by decades, 0.1 to 100 ms', array_agg(round(100 * 10 ^ (3 * i / 1000.0))::bigint) FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'a client that works, 20 ms on average', array_agg(round(400 - 20000 * ln((i + 0.5) / 1000))::bigint) FROM generate_series(0, 999) AS i;
SELECT b.name, bool_and(abs(c.said / c.truth - 1) <= 0.05) AS all_within_half_a_cell
FROM broad AS b CROSS JOIN LATERAL pg_temp.compared(b.us, true) AS c
GROUP BY b.name ORDER BY b.name COLLATE "C";

-- in between, spread over one cell or two, where all of a cell are said to be in one place; or in several places, where
-- one sum tells of none of them: what is said is in the right cell, which is at most 10 % wide
CREATE TEMPORARY VIEW between AS
    SELECT 'even, 10 to 11 ms' AS name, array_agg((10000 + i)::bigint) AS us FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'even, 10 to 12 ms', array_agg((10000 + i * 2)::bigint) FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'most at 10, some at 10.99 ms', array_agg(CASE WHEN i % 20 = 0 THEN 10990 ELSE 10000 END::bigint) FROM generate_series(0, 999) AS i
    UNION ALL
    SELECT 'a third each at 0.4, 25 and 121 ms', array_agg((ARRAY[400, 25100, 121300])[1 + i % 3]::bigint) FROM generate_series(0, 999) AS i;
SELECT b.name, bool_and(pg_temp.cell(round(1000 * c.said)::bigint) = pg_temp.cell(round(1000 * c.truth)::bigint)) AS in_their_cells,
       bool_and(abs(c.said / c.truth - 1) < 0.05) FILTER (WHERE c.fraction = 0.5) AS median_within_half_a_cell
FROM between AS b CROSS JOIN LATERAL pg_temp.compared(b.us, true) AS c
GROUP BY b.name ORDER BY b.name COLLATE "C";

-- what a pooler hides: three of sixty bounds, of which the near ones' sum is not known apart
SELECT kasm_latency_internal.percentile_ms(kasm_latency_internal.part_from(h, 10), 0.5) BETWEEN 121 / 1.01 AND 121 * 1.01 AS within_1_percent
FROM (SELECT array_agg(CASE WHEN i % 20 = 0 THEN 121000 ELSE 500 + 7 * i END::bigint) AS us FROM generate_series(1, 60) AS i) AS x
CROSS JOIN LATERAL pg_temp.histogram(us, pg_temp.sum(us)) AS h;

DROP VIEW tight, broad, between;
DROP EXTENSION kasm_latency;
