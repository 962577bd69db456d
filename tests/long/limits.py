"""More addresses than max_clients: memory does not grow, the most recently
seen stay, what the others had stays in the sums.  Failed logins, port scans
and garbage make no entry.  max_clients = 1 works.

    limits.py BINDIR USER

In namespaces of its own, for a whole IPv6 network on loopback.
"""
import asyncio
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
import rawclient  # noqa: E402
from rawclient import Connection, Failed  # noqa: E402

MAX_CLIENTS = 50
IPV4 = [f"127.{10 + i // 10000}.{i // 100 % 100}.{i % 100 + 1}" for i in range(3000)]
IPV6 = [f"fd99::{i:x}" for i in range(1, 1001)]

async def visit(server, addr):
    """A client with three exchanges."""
    host = "fd99::1" if ":" in addr else "127.0.0.1"
    conn = await Connection.open(server.port, addr, host=host, user="kasmapp", database="kasm")
    for sql in ("BEGIN", "SELECT 1", "COMMIT"):
        await conn.query(sql)
    await conn.close()
    return conn.exchanges


async def visit_all(server, addresses, at_once):
    counted = 0
    for i in range(0, len(addresses), at_once):
        counted += sum(await asyncio.gather(*(visit(server, addr) for addr in addresses[i:i + at_once])))
    return counted


def gone(server):
    return lab.wait_until(lambda: server.rows("SELECT count(*) AS n FROM kasm_latency.connections "
                                               "WHERE username = 'kasmapp'")[0]["n"] == "0")


def shared_memory(server):
    return server.rows("SELECT i.shared_memory_bytes AS said, (SELECT sum(a.allocated_size) FROM pg_shmem_allocations AS a "
                        "WHERE a.name LIKE 'kasm_latency%') AS is FROM kasm_latency.info AS i")[0]


def many(server):
    before = shared_memory(server)
    server.psql("SELECT kasm_latency.reset()", options=["-o", "/dev/null"])
    counted = asyncio.run(visit_all(server, IPV4[:-40] + IPV6, 20))
    last = IPV4[-40:]
    counted += asyncio.run(visit_all(server, last, 1))
    gone(server)
    info = server.rows("SELECT clients, max_clients, overflowed FROM kasm_latency.info")[0]
    said = server.rows("SELECT sum(round_trips) AS n FROM kasm_latency.totals "
                       "WHERE username = 'kasmapp' OR host = '(overflow)'")[0]
    # this script is a client too, by Unix-domain socket: its reset came first, had
    # to make room like the rest, and is in the sums; then it came back to ask
    require(int(info["clients"]) == MAX_CLIENTS, f"{info['clients']} clients of {MAX_CLIENTS}")
    require(int(info["overflowed"]) == len(IPV4) + len(IPV6) + 2 - MAX_CLIENTS, f"{info['overflowed']} overflowed")
    require(int(said["n"]) == counted + 1, f"{said['n']} exchanges in the sums, {counted} counted")
    kept = {row["addr"] for row in server.rows("SELECT host(client_addr) AS addr FROM kasm_latency.clients")}
    require(set(last) <= kept, f"the most recently seen are not all there: {set(last) - kept}")
    after = shared_memory(server)
    require(before == after and after["said"] == after["is"], f"memory: {before}, then {after}")
    print(f"{len(IPV4) + len(IPV6)} addresses: {info['clients']} clients kept, {info['overflowed']} overflowed, "
          f"{counted} exchanges counted by the clients, {said['n']} in the sums", flush=True)


async def refuse(server, addr):
    """Logins that fail, a scan, TLS asked for and dropped, garbage."""
    for user, database in (("kasmapp", "nowhere"), ("nobody_here", "kasm"), ("scram", "kasm")):
        try:
            conn = await Connection.open(server.port, addr, user=user, database=database)
            await conn.close()
            require(False, f"{user} got into {database}")
        except (Failed, asyncio.IncompleteReadError, ConnectionError, struct.error):
            pass
    for first in (b"", struct.pack("!ii", 8, 80877103), b"GET / HTTP/1.0\r\n\r\n", rawclient.startup("kasmapp", "kasm")[:9]):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(addr, 0))
        writer.write(first)
        await writer.drain()
        writer.transport.abort()


def refused(server):
    before = {row["addr"] for row in server.rows("SELECT host(client_addr) AS addr FROM kasm_latency.clients")}

    async def try_all():
        for i in range(100):
            await refuse(server, f"127.50.0.{i + 1}")
    asyncio.run(try_all())
    gone(server)
    after = {row["addr"] for row in server.rows("SELECT host(client_addr) AS addr FROM kasm_latency.clients")}
    require(before == after, f"new entries: {after - before}")
    print("300 failed logins and 400 scans: no new entry", flush=True)


def single(server):
    server.stop()
    with open(server.data + "/postgresql.conf", "a") as conf:
        conf.write("kasm_latency.max_clients = 1\n")
    server.command("pg_ctl", "-D", server.data, "-l", server.log, "-w", "-s", "start")
    server.psql("SELECT kasm_latency.reset()", options=["-o", "/dev/null"])
    counted = asyncio.run(visit_all(server, IPV4[:200], 10))
    gone(server)
    said = server.rows("SELECT (SELECT clients FROM kasm_latency.info) AS clients, "
                        "(SELECT sum(round_trips) FROM kasm_latency.totals) AS n")[0]
    # what this script asked for itself is in the sums too, as it cannot be told apart
    require(said["clients"] == "1" and 0 <= int(said["n"]) - counted <= 200, f"max_clients = 1: {said}, {counted} counted")
    print(f"max_clients = 1: {said['clients']} client, {counted} exchanges counted by the clients, {said['n']} in the sums "
          "with this script's own", flush=True)


def main(bindir, user):
    lab.run("ip", "-6", "route", "add", "local", "fd99::/64", "dev", "lo")
    lab.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind")
    server = lab.Server(bindir, user, settings=f"max_connections = 60\nkasm_latency.max_clients = {MAX_CLIENTS}\n"
                                               "autovacuum = off")
    try:
        server.start()
        server.psql("CREATE ROLE scram LOGIN PASSWORD 'secret'")
        many(server)
        refused(server)
        single(server)
        bad = [line for line in server.log_text().splitlines() if "PANIC" in line or "TRAP" in line or "WARNING" in line]
        require(not bad, f"the server's log: {bad[:3]}")
    finally:
        server.remove()
    return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(main(*sys.argv[1:3]))
