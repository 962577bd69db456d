"""A client of the lab.

    client.py MODE DSN [--seconds S | --launches N] [--queries N] [--pause S]
              [--think S [--vary SHARE] [--busy]] [--autocommit | --begin | --sqlalchemy]
              [--connections N] [--update ROW,...]

Modes:

launches    what Kasm does: BEGIN, so many sequential queries, COMMIT (the
            driver sends each by itself and waits), and a pause.  psycopg2
            sends BEGIN as the first query is asked for, so that nothing is
            done between the two.  With --begin the program does that itself,
            as one in Go does, and works after it too; with --autocommit the
            queries alone; with --sqlalchemy as Kasm has it.  With --update
            the third query updates one of these rows, by chance, and the
            second none: how much longer the third takes, it waited.
asyncpg     the same through asyncpg, which sends BEGIN by itself
pipeline    the same queries in libpq's pipeline mode, by psycopg 3
bulk        large results and COPY both ways, also read slowly
slow        a server that takes its time: pg_sleep, a lock, a commit
commotion   notifications, idling in transactions, cursors, errors, cancelled,
            timed out and terminated queries

--think is work before each query and before COMMIT (but not of SQLAlchemy's
commit); it is slept through, or with --busy the processor's.  --vary makes
each piece of it longer by chance, up to that share.

Prints what it counted as JSON: launches, exchanges, and blocks (transactions
of more than one exchange), null where it cannot know; waited_s; and cycle_ms,
of launches by psycopg2: from asking one thing to asking the next, by its own
clock, the shortest of each launch, of these the median.
"""
import argparse
import asyncio
import io
import json
import random
import select
import statistics
import threading
import time

import psycopg2
import psycopg2.errors
import psycopg2.extensions


def working_time(options):
    """How long the client's own work takes this time."""
    return options.think * (1 + options.vary * random.random())


def work(options):
    if not options.busy:
        time.sleep(working_time(options))
        return
    end = time.thread_time() + working_time(options)
    while time.thread_time() < end:
        pass


def count(counted, launches, exchanges, blocks):
    with counted["lock"]:
        counted["launches"] += launches
        counted["exchanges"] += exchanges
        counted["blocks"] += blocks


def shortest_cycle(counted, asked):
    """Of a launch, from when its queries were asked."""
    if len(asked) > 1:
        with counted["lock"]:
            counted["cycles"].append(min(after - before for before, after in zip(asked, asked[1:])))


def wait(counted, seconds):
    with counted["lock"]:
        counted["waited_s"] += seconds


def launches(options, counted):
    if options.sqlalchemy:
        return sqlalchemy_launches(options, counted)
    conn = psycopg2.connect(options.dsn)
    conn.autocommit = options.autocommit or options.begin

    def update(cursor, row):
        began = time.monotonic()
        cursor.execute("UPDATE launched SET n = n + 1 WHERE id = %s", (row,))
        return time.monotonic() - began

    def launch():
        cursor = conn.cursor()
        asked = []
        if options.begin:
            cursor.execute("BEGIN")
        for i in range(options.queries):
            work(options)
            asked.append(time.monotonic())
            if i == 1 and options.update:
                usual_s = update(cursor, None)
            elif i == 2 and options.update:
                wait(counted, update(cursor, random.choice(options.update)) - usual_s)
            else:
                cursor.execute("SELECT %s", (i,))
        if not options.autocommit:
            work(options)
            asked.append(time.monotonic())
            if options.begin:
                cursor.execute("COMMIT")
            else:
                conn.commit()
        shortest_cycle(counted, asked)

    done = repeat(options, launch)
    if options.autocommit:
        count(counted, done, done * options.queries, 0)
    else:
        count(counted, done, done * (options.queries + 2), done)
    conn.close()


class CountedCursor(psycopg2.extensions.cursor):
    def execute(self, *query):
        self.connection.asked()
        return super().execute(*query)


class CountedConnection(psycopg2.extensions.connection):
    """Counts what SQLAlchemy asks for by itself too, as when it connects."""
    exchanges = blocks = 0
    counted = None  # where the launches' cycles go

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.times = []

    def in_transaction(self):
        return self.get_transaction_status() != psycopg2.extensions.TRANSACTION_STATUS_IDLE

    def asked(self):
        # the driver sends BEGIN first
        self.exchanges += 1 if self.in_transaction() or self.autocommit else 2
        self.times.append(time.monotonic())

    def ended(self):
        if self.in_transaction():
            self.exchanges += 1
            self.blocks += 1
            self.times.append(time.monotonic())
        if self.counted:
            shortest_cycle(self.counted, self.times)
        self.times = []

    def cursor(self, *args, cursor_factory=None, **options):
        return super().cursor(*args, cursor_factory=CountedCursor, **options)

    def commit(self):
        self.ended()
        super().commit()

    def rollback(self):
        self.ended()
        super().rollback()


def sqlalchemy_launches(options, counted):
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session
    made = []

    def connect():
        made.append(psycopg2.connect(options.dsn, connection_factory=CountedConnection))
        made[-1].counted = counted
        return made[-1]

    engine = create_engine("postgresql+psycopg2://", creator=connect, pool_size=10, max_overflow=20)

    def launch():
        with Session(engine) as session:
            for i in range(options.queries):
                work(options)
                session.execute(text("SELECT :i"), {"i": i})
            session.commit()

    done = repeat(options, launch)
    engine.dispose()
    count(counted, done, sum(conn.exchanges for conn in made), sum(conn.blocks for conn in made))


def asyncpg(options, counted):
    import asyncpg as driver
    loop = asyncio.new_event_loop()
    parts = dict(part.split("=", 1) for part in options.dsn.split())
    conn = loop.run_until_complete(driver.connect(
        host=parts["host"], port=parts["port"], user=parts["user"], database=parts["dbname"], ssl=False))

    async def launch():
        async with conn.transaction():
            for i in range(options.queries):
                await asyncio.sleep(working_time(options))
                await conn.fetchval("SELECT $1::int", i)
            await asyncio.sleep(working_time(options))

    done = repeat(options, lambda: loop.run_until_complete(launch()))
    # the first query of all is parsed and described, with Flush, by an exchange of its own
    count(counted, done, done * (options.queries + 2) + 1, done)
    loop.run_until_complete(conn.close())
    loop.close()


def repeat(options, launch):
    """Launch for so long, or so often; how often it was."""
    end = None if options.seconds is None else time.monotonic() + options.seconds
    done = 0
    while ((end is None or time.monotonic() < end)
           and (options.launches is None or done < options.launches)):
        launch()
        done += 1
        time.sleep(options.pause)
    return done


def pipeline(options, counted):
    import psycopg
    counted["exchanges"] = counted["blocks"] = None
    conn = psycopg.connect(options.dsn, autocommit=options.autocommit, prepare_threshold=None)
    for _ in range(options.launches):
        with conn.pipeline():
            cursors = [conn.execute("SELECT %s::int", (i,)) for i in range(options.queries)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(options.queries))
        if not options.autocommit:
            conn.commit()
        time.sleep(options.pause)
    conn.close()


class SlowReader(io.RawIOBase):
    """Takes a COPY's data at some 20 MB/s, with pauses of 50 ms."""
    def writable(self):
        return True

    def write(self, data):
        self.taken = getattr(self, "taken", 0) + len(data)
        if self.taken > 1000000:
            self.taken = 0
            time.sleep(0.05)
        return len(data)


def bulk(options, counted):
    counted["exchanges"] = counted["blocks"] = None
    conn = psycopg2.connect(options.dsn)
    cursor = conn.cursor()
    fifty_mb = "COPY (SELECT repeat('x', 999) FROM generate_series(1, 50000)) TO STDOUT"
    cursor.copy_expert(fifty_mb, io.BytesIO())
    cursor.execute("SELECT generate_series(1, 100000)")
    assert len(cursor.fetchall()) == 100000
    cursor.copy_expert(fifty_mb, SlowReader())
    cursor.execute("CREATE TEMPORARY TABLE data (line text)")
    cursor.copy_expert("COPY data FROM STDIN", io.StringIO(("x" * 999 + "\n") * 20000))
    conn.commit()
    for _ in range(4):
        for i in range(10):
            cursor.execute("SELECT %s", (i,))
        conn.commit()
    conn.close()


def slow(options, counted):
    counted["exchanges"] = counted["blocks"] = None
    conn, holder = psycopg2.connect(options.dsn), psycopg2.connect(options.dsn)
    cursor = conn.cursor()
    cursor.execute("CREATE TABLE slow (id int)")
    cursor.execute("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                   "'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END'")
    cursor.execute("CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE "
                   "INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()")
    conn.commit()
    for _ in range(30):
        cursor.execute("SELECT pg_sleep(0.2)")
    conn.commit()
    for _ in range(3):
        cursor.execute("INSERT INTO slow VALUES (1)")
        conn.commit()  # takes 200 ms
        holder.cursor().execute("LOCK TABLE slow")
        release = threading.Timer(0.3, holder.commit)
        release.start()
        cursor.execute("SELECT count(*) FROM slow")  # waits for 300 ms
        release.join()
        conn.commit()
    conn.close()
    holder.close()


def commotion(options, counted):
    counted["exchanges"] = counted["blocks"] = None
    conn, other = psycopg2.connect(options.dsn), psycopg2.connect(options.dsn)
    other.autocommit = True
    cursor, aside = conn.cursor(), other.cursor()

    def fails(error, *query):
        try:
            cursor.execute(*query)
            assert False, f"{query} went well"
        except error:
            pass

    for _ in range(3):
        cursor.execute("LISTEN news")
        conn.commit()
        aside.execute("NOTIFY news")
        select.select([conn], [], [], 10)  # idle, and told so meanwhile
        conn.poll()
        cursor.execute("SELECT 1")
        time.sleep(2)  # idle in transaction
        cursor.execute("DECLARE c CURSOR FOR SELECT generate_series(1, 20)")
        for _ in range(20):
            cursor.execute("FETCH 1 FROM c")
        fails(psycopg2.errors.DivisionByZero, "SELECT 1/0")
        fails(psycopg2.errors.InFailedSqlTransaction, "SELECT 1")
        conn.rollback()
        cursor.execute("SET statement_timeout = '50ms'")
        fails(psycopg2.errors.QueryCanceled, "SELECT pg_sleep(10)")
        conn.rollback()
        threading.Timer(0.2, conn.cancel).start()
        fails(psycopg2.errors.QueryCanceled, "SELECT pg_sleep(10)")
        conn.rollback()
    threading.Timer(0.2, aside.execute,
                    ["SELECT pg_terminate_backend(%s)", (conn.get_backend_pid(),)]).start()
    # AdminShutdown, or a connection closed before that was read
    fails(psycopg2.OperationalError, "SELECT pg_sleep(10)")
    other.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["launches", "asyncpg", "pipeline", "bulk", "slow", "commotion"])
    parser.add_argument("dsn")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--launches", type=int)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("--think", type=float, default=0)
    parser.add_argument("--vary", type=float, default=0)
    parser.add_argument("--busy", action="store_true")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--autocommit", action="store_true")
    how.add_argument("--begin", action="store_true")
    how.add_argument("--sqlalchemy", action="store_true")
    parser.add_argument("--update", type=lambda rows: [int(row) for row in rows.split(",")])
    parser.add_argument("--connections", type=int, default=1)
    options = parser.parse_args()

    counted = {"launches": 0, "exchanges": 0, "blocks": 0, "waited_s": 0, "cycles": [], "lock": threading.Lock()}
    failed = []

    def run():
        try:
            globals()[options.mode](options, counted)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    del counted["lock"]
    cycles = counted.pop("cycles")
    counted["cycle_ms"] = statistics.median(cycles) * 1000 if cycles else None
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
