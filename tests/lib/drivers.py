"""A unit of work through a real driver: BEGIN, ten queries, COMMIT.

    drivers.py DRIVER DSN

Prints "connected", does one unit of work for every line it reads, prints
"done" after each, and disconnects when its input ends.
"""
import asyncio
import contextlib
import sys

QUERIES = 10
FIRST = True


def wait_for_go():
    """True for a line, False at the end of the input."""
    global FIRST
    print("connected" if FIRST else "done", flush=True)
    FIRST = False
    return sys.stdin.readline() != ""


def parts_of(dsn):
    """A DSN's parts, for those who take no DSN in libpq's key=value form."""
    return dict(part.split("=", 1) for part in dsn.split())


def sqlalchemy_psycopg2(dsn):
    # as Kasm's services do: a pool, an ORM session per unit of work
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    engine = create_engine("postgresql+psycopg2://{user}@{host}:{port}/{dbname}"
                           .format(**parts_of(dsn)),
                           pool_size=10, max_overflow=20)
    with engine.connect():
        pass  # the dialect asks the server about itself, once
    while wait_for_go():
        with contextlib.closing(Session(engine)) as session:  # SQLAlchemy 1.3 closes none itself
            for i in range(QUERIES):
                session.execute(text("SELECT :i"), {"i": i})
            session.commit()
    engine.dispose()


def psycopg2(dsn):
    import psycopg2 as driver

    conn = driver.connect(dsn)
    while wait_for_go():
        cur = conn.cursor()
        for i in range(QUERIES):
            cur.execute("SELECT %s", (i,))
        conn.commit()
    conn.close()


def psycopg3(dsn):
    import psycopg as driver

    conn = driver.connect(dsn)
    while wait_for_go():
        for i in range(QUERIES):
            conn.execute("SELECT %s::int", (i,))
        conn.commit()
    conn.close()


def asyncpg(dsn):
    asyncio.run(asyncpg_work(dsn, {}))


def asyncpg_uncached(dsn):
    asyncio.run(asyncpg_work(dsn, {"statement_cache_size": 0}))


async def asyncpg_work(dsn, options):
    import asyncpg as driver

    parts = parts_of(dsn)
    conn = await driver.connect(host=parts["host"], port=parts["port"],
                                user=parts["user"], database=parts["dbname"],
                                ssl=False, **options)
    while wait_for_go():
        async with conn.transaction():
            for i in range(QUERIES):
                await conn.fetchval("SELECT $1::int", i)
    await conn.close()


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
