"""Clients that make life hard without meaning harm: one that sends a byte at a
time, thousands of connections that come and go, a wall clock that is set back
and forth by an hour while clients run.  Whatever they do, every exchange is
counted once.

    churn.py BINDIR USER
"""
import asyncio
import os
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import Connection, query  # noqa: E402
from scenarios import FAKETIME  # noqa: E402

OPEN = 800  # at once: a backend is a few MB
CONNECTIONS = 5000  # at least
SECONDS = 60  # at least
LIMIT = 900  # seconds
ADDRESSES = [f"127.{4 + i // 200}.0.{i % 200 + 1}" for i in range(600)]


def counted(server, host="127.0.0.0/8"):
    # whoever made room, or found none, is in the overflow: which has this script's own too
    return int(server.rows(f"SELECT sum(round_trips) AS n FROM kasm_latency.totals WHERE client_addr <<= '{host}' "
                           "AND username = 'kasmapp' OR host = '(overflow)'")[0]["n"] or 0)


def gone(server):
    return lab.wait_until(lambda: server.rows("SELECT count(*) AS n FROM kasm_latency.connections "
                                               "WHERE username = 'kasmapp'")[0]["n"] == "0", 300)


async def trickle(server):
    """Every byte in a segment of its own."""
    conn = await Connection.open(server.port, "127.1.0.1", user="kasmapp", database="kasm")
    for sql in ("BEGIN", "SELECT 1", "SELECT 1/0", "ROLLBACK", "SELECT 2") * 20:
        for byte in query(sql):
            conn.writer.write(bytes([byte]))
            await conn.writer.drain()
            await asyncio.sleep(0)
        try:
            await conn.answer()
        except Exception as error:  # the division by zero
            require("zero" in str(error) or "zero" in repr(error.__dict__), f"an answer: {error!r}")
    await conn.close()
    return 100


async def come_and_go(server):
    """Connections from many addresses, hundreds open at any time."""
    started = time.monotonic()
    exchanges = connections = longest = 0

    def over():
        took = time.monotonic() - started
        return took > LIMIT or took > SECONDS and connections >= CONNECTIONS

    async def worker(number):
        nonlocal exchanges, connections, longest
        while not over():
            began = time.monotonic()
            conn = await Connection.open(server.port, ADDRESSES[(number * 7 + connections) % len(ADDRESSES)],
                                         user="kasmapp", database="kasm")
            longest = max(longest, time.monotonic() - began)
            for sql in ("BEGIN", "SELECT 1", "COMMIT"):
                await conn.query(sql)
            await asyncio.sleep(number % 10)
            await conn.close(farewell=number % 3 > 0)
            exchanges += conn.exchanges
            connections += 1
    await asyncio.gather(*(worker(n) for n in range(OPEN)))
    return exchanges, connections, longest, time.monotonic() - started


def churn(server):
    server.psql("SELECT kasm_latency.reset()", options=["-o", "/dev/null"])
    exchanges = asyncio.run(trickle(server))
    gone(server)
    said = counted(server, "127.1.0.1")
    require(said == exchanges, f"a byte at a time: {said} round trips, {exchanges} exchanges")
    print(f"a byte at a time: {exchanges} exchanges, {said} counted", flush=True)

    server.psql("SELECT kasm_latency.reset()", options=["-o", "/dev/null"])
    exchanges, connections, longest, took = asyncio.run(come_and_go(server))
    gone(server)
    said = counted(server)
    info = server.rows("SELECT clients, overflowed FROM kasm_latency.info")[0]
    # looking whether they have gone is an exchange of this script's, in the sums once it had to make room
    require(0 <= said - exchanges <= 200, f"{said} round trips, {exchanges} exchanges")
    require(connections >= CONNECTIONS, f"only {connections} connections")
    require(int(info["overflowed"]) > 0, "nobody had to make room")
    print(f"{connections} connections of {len(ADDRESSES)} addresses within {took:.0f} s, up to {OPEN} open: {exchanges} exchanges, "
          f"{said} counted with this script's own; {info['clients']} clients kept, {info['overflowed']} made room; "
          f"the longest connect took {1000 * longest:.0f} ms", flush=True)

    began = time.monotonic()

    async def all_leave():
        conns = [await Connection.open(server.port, "127.1.0.1", user="kasmapp", database="kasm") for _ in range(OPEN)]
        for conn in conns:
            await conn.query("SELECT 1")
        for conn in conns:
            await conn.close(farewell=False)
    asyncio.run(all_leave())
    gone(server)
    print(f"{OPEN} connections of one client came and left at once: {time.monotonic() - began:.1f} s", flush=True)


def clocks(bindir, user):
    """The wall clock an hour ahead and back, five times a second, beyond the end of a minute."""
    with tempfile.NamedTemporaryFile("w", prefix="kasm_latency_clock.") as offset:
        os.chmod(offset.name, 0o644)
        offset.write("+0\n")
        offset.flush()
        server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", settings="autovacuum = off",
                            LD_PRELOAD=FAKETIME, FAKETIME_TIMESTAMP_FILE=offset.name, FAKETIME_NO_CACHE="1",
                            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1", FAKETIME_DONT_RESET="1")
        steps = 0

        async def step(end):
            nonlocal steps
            while time.monotonic() < end:
                steps += 1
                offset.seek(0)
                offset.write("+3600   \n" if steps % 2 else "+0      \n")
                offset.flush()
                await asyncio.sleep(0.2)
            offset.seek(0)
            offset.write("+0      \n")
            offset.flush()

        async def work(end):
            exchanges = 0
            while time.monotonic() < end:
                conn = await Connection.open(server.port, "127.1.0.1", user="kasmapp", database="kasm")
                for _ in range(100):
                    for sql in ("BEGIN", "SELECT 1", "COMMIT"):
                        await conn.query(sql)
                await conn.close()
                exchanges += conn.exchanges
            return exchanges

        async def run():
            end = time.monotonic() + 75
            return sum((await asyncio.gather(step(end), *(work(end) for _ in range(4))))[1:])
        try:
            server.start()
            exchanges = asyncio.run(run())
            gone(server)
            row = server.rows("""
                SELECT t.round_trips, c.round_trips AS recent, c.last_seen <= clock_timestamp() AS seen, c.turnaround_p99_ms,
                       (SELECT max(from_ms) FROM kasm_latency.histogram('turnaround')) AS turnaround,
                       (SELECT max(from_ms) FROM kasm_latency.histogram('server')) AS server
                FROM kasm_latency.totals AS t JOIN kasm_latency.clients AS c USING (client_addr, username)
                WHERE t.username = 'kasmapp'""")[0]
            require(int(row["round_trips"]) == exchanges == int(row["recent"]), f"{exchanges} exchanges: {row}")
            require(row["seen"] == "t", "last_seen is in the future")
            for metric in ("turnaround", "server"):
                require(float(row[metric]) < 10000, f"a {metric} sample of {row[metric]} ms")
            print(f"the clock set {steps} times by an hour: {exchanges} exchanges, all counted, all recent; the longest turnaround "
                  f"{row['turnaround']} ms, the longest server time {row['server']} ms", flush=True)
        finally:
            server.remove()


def main(bindir, user):
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                        settings=f"max_connections = {OPEN + 50}\nautovacuum = off\nlog_min_messages = warning")
    try:
        server.start()
        churn(server)
        bad = [line for line in server.log_text().splitlines() if "PANIC" in line or "TRAP" in line]
        require(not bad, f"the server's log: {bad[:3]}")
    finally:
        server.remove()
    clocks(bindir, user)
    return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(main(*sys.argv[1:3]))
