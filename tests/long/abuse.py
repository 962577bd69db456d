"""Hostile clients: random bytes, messages cut off, clients that vanish in each
state of the protocol, half-open connections, connects without a login.  No
crash, no WARNING flood, nothing counted that was not; and the memory of a
backend stays flat over 100,000 exchanges.

    abuse.py BINDIR USER [SEED]
"""
import asyncio
import os
import random
import re
import socket
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import Connection, message, query, startup  # noqa: E402

ROUNDS = 3000
KNOCKS = 10000
EXCHANGES = 100000

def extended(sql):
    return (message("P", b"\0" + sql.encode() + b"\0\0\0") + message("B", b"\0\0\0\0\0\0\0\0")
            + message("E", b"\0\0\0\0\0") + message("S"))


# what a client sends before it stops; each leaves the server in another state
STATES = {
    "idle": [],
    "a query's answer unread": [query("SELECT generate_series(1, 100000)")],
    "a query runs": [query("SELECT pg_sleep(0.05)")],
    "in a transaction": [query("BEGIN"), query("SELECT 1")],
    "in a failed transaction": [query("BEGIN"), query("SELECT 1/0")],
    "copy in": [query("COPY junk FROM STDIN"), message("d", b"some\n")],
    "copy in, extended": [extended("COPY junk FROM STDIN"), message("d", b"some\n")],
    "copy out unread": [query("COPY (SELECT generate_series(1, 100000)) TO STDOUT")],
    "parsed, not synced": [message("P", b"\0SELECT 1\0\0\0"), message("H")],
    "an extended batch": [extended("SELECT 1") * 50],
    "after an error, not synced": [message("P", b"\0SELEC\0\0\0"), message("H")],
    "a function call cut off": [message("F", struct.pack("!ihhh", 2026, 0, 0, 0))],
    "an unknown message": [message("?", b"what")],
    "a length below four": [b"Q" + struct.pack("!i", 3)],
    "a length of a gigabyte": [b"Q" + struct.pack("!i", 1 << 30)],
    "a farewell in the middle": [query("BEGIN"), message("X"), query("SELECT 1")],
}


def connect(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.settimeout(5)
    return s


def login(port):
    s = connect(port)
    s.sendall(startup("kasmapp", "kasm"))
    answer = b""
    while not re.search(rb"Z\0\0\0\x05.$", answer, re.S):
        got = s.recv(65536)
        if not got:
            raise ConnectionError("no login")
        answer += got
    return s


def leave(s, chance):
    """As a client does that crashes, closes, or only stops sending."""
    how = chance.randrange(3)
    if how == 0:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == 1:
        try:
            s.shutdown(socket.SHUT_WR)
            s.settimeout(0.2)
            while s.recv(65536):
                pass
        except OSError:
            pass
    s.close()


def abuse(port, chance):
    """One hostile client."""
    try:
        kind = chance.randrange(4)
        if kind == 0:  # garbage instead of a login
            s = connect(port)
            s.sendall(chance.randbytes(chance.randrange(1, 200)))
        elif kind == 1:  # a login cut off
            s = connect(port)
            s.sendall(startup("kasmapp", "kasm")[:chance.randrange(1, 30)])
        else:
            s = login(port)
            sent = b"".join(STATES[chance.choice(list(STATES))])
            if kind == 3:  # cut off, or broken, and then garbage
                sent = bytearray(sent[:chance.randrange(len(sent) + 1)])
                for _ in range(chance.randrange(3)):
                    if sent:
                        sent[chance.randrange(len(sent))] = chance.randrange(256)
                sent += chance.randbytes(chance.randrange(20))
            s.sendall(sent)
            if chance.randrange(2):
                s.settimeout(0.05)
                try:
                    s.recv(chance.randrange(1, 10000))
                except OSError:
                    pass
        leave(s, chance)
    except OSError:
        pass


def knock(port):
    """Connect, and leave at once, or after half a word."""
    for i in range(KNOCKS):
        try:
            s = connect(port)
            if i % 2:
                s.sendall(struct.pack("!i", 100)[:i % 4 + 1])
            s.close()
        except OSError:
            pass


def private_memory(pid):
    """KiB of anonymous memory of a process."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"RssAnon:\s+(\d+)", status.read()).group(1))


async def flat(server):
    """A backend's memory after 20,000 exchanges, and after 100,000 more."""
    conn = await Connection.open(server.port, user="kasmapp", database="kasm")
    pid = int((await conn.query("SELECT pg_backend_pid()"))[0][0])
    sizes = []
    for n in (20000, EXCHANGES):
        for i in range(n // 4):
            for sql in ("BEGIN", "SELECT 1", "COMMIT", "SELECT 2"):
                await conn.query(sql)
        sizes.append(private_memory(pid))
    await conn.close()
    return sizes


def main(bindir, user, seed="1"):
    chance = random.Random(int(seed))
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                        settings="max_connections = 100\nautovacuum = off\nrestart_after_crash = off")
    try:
        server.start()
        server.psql("CREATE TABLE junk (line text)", "GRANT ALL ON junk TO kasmapp", options=["-d", "kasm"])
        for _ in range(ROUNDS):
            abuse(server.port, chance)
        print(f"{ROUNDS} hostile clients", flush=True)
        knock(server.port)
        print(f"{KNOCKS} connects without a login", flush=True)

        def gone():
            return server.rows("SELECT count(*) AS n FROM pg_stat_activity "
                               "WHERE usename = 'kasmapp'")[0]["n"] == "0"
        require(lab.wait_until(gone, 30), "backends are left")
        left = server.rows("SELECT count(*) AS n FROM kasm_latency.connections WHERE username = 'kasmapp'")[0]["n"]
        require(left == "0", f"{left} connections are still shown")
        sane = server.rows("SELECT sum(round_trips) AS n, max(turnaround_s) AS s FROM kasm_latency.totals "
                           "WHERE username = 'kasmapp'")[0]
        require(0 < int(sane["n"]) < 100 * ROUNDS and float(sane["s"]) < 600, f"totals: {sane}")

        first, last = asyncio.run(flat(server))
        require(last - first <= 128, f"a backend grew from {first} to {last} KiB over {EXCHANGES} exchanges")
        print(f"private memory of a backend after 20,000 exchanges {first} KiB, after {EXCHANGES:,} more {last} KiB")

        log = server.log_text().splitlines()
        bad = [line for line in log if "PANIC" in line or "TRAP" in line or "terminated by signal" in line]
        require(not bad, f"the server's log: {bad[:3]}")
        ours = [line for line in log if "kasm_latency" in line and ("WARNING" in line or "ERROR" in line)]
        require(not ours, f"the server's log has {len(ours)} lines of ours: {ours[:3]}")
    finally:
        server.remove()
    return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(main(*sys.argv[1:]))
