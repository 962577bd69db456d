"""A differential fuzz of the protocol: the same bytes, at the same pace, to a
server without the library and to one with it.  Every byte that comes back must
be the same, but process numbers, secret keys and table OIDs; both servers live;
and what was counted then is consistent.

    fuzz.py BINDIR USER [SEQUENCES [SEED [FIRST]]]

Sequence number i of a seed is always the same: a run that failed is repeated by
its seed, and one sequence alone by "1 SEED i".
"""
import os
import random
import re
import select
import socket
import ssl
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import message, query, startup  # noqa: E402

SEQUENCES = 10000
PATIENCE = 10  # seconds
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
DATABASE = "kasm"

# nothing that tells the time, and nothing that stays: what a server has seen
# before must make no difference
STATEMENTS = [
    "SELECT 1", "", ";", "SELECT 1; SELECT 2", "SELECT 1/0", "SELEC", "BEGIN", "COMMIT", "ROLLBACK", "BEGIN; SELECT 1",
    "SELECT 1; COMMIT", "COMMIT AND CHAIN", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "SELECT repeat('x', 20000)",
    "SELECT generate_series(1, 500)", "SELECT * FROM item", "COPY item TO STDOUT", "COPY sink FROM STDIN",
    "COPY sink FROM STDIN (FORMAT binary)", "COPY (SELECT generate_series(1, 2000)) TO STDOUT", "INSERT INTO sink VALUES (1)",
    "DO $$BEGIN RAISE NOTICE 'noted'; END$$", "DO $$BEGIN RAISE EXCEPTION 'raised'; END$$", "LISTEN heard", "NOTIFY heard",
    "SET application_name = 'fuzz'", "SET statement_timeout = 0", "SHOW server_encoding", "PREPARE p AS SELECT $1::int",
    "EXECUTE p(1)", "DEALLOCATE ALL", "DECLARE c CURSOR FOR SELECT generate_series(1, 100)", "FETCH 10 FROM c",
    "SELECT pg_sleep(0.002)", "SET client_encoding = 'LATIN1'", "SET client_encoding = 'nonsense'", "DISCARD ALL",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "CREATE TEMP TABLE mine (a int)", "SELECT * FROM mine", "VALUES (1), (2)", "SELECT NULL::int[]",
]
NAMES = [b"", b"s1", b"s2", b"unknown"]


def string(text):
    return text.encode() + b"\0"


def extended(rng):
    """Messages of the extended protocol, most of them in an order that works."""
    name, portal = rng.choice(NAMES), rng.choice(NAMES)
    sql = rng.choice(STATEMENTS + ["SELECT $1::int", "SELECT $1, $2"])
    parameters = rng.choice([b"\0\0", b"\0\0", struct.pack("!hi", 1, 1) + b"7", struct.pack("!hi", 1, -1)])
    steps = [message("P", name + b"\0" + string(sql) + b"\0\0"), message("B", portal + b"\0" + name + b"\0\0\0" + parameters + b"\0\0"),
             message("D", rng.choice([b"S" + name, b"P" + portal]) + b"\0"),
             message("E", portal + b"\0" + struct.pack("!i", rng.choice([0, 0, 1, 10]))), message("C", rng.choice([b"S", b"P"]) + name + b"\0")]
    chosen = [step for step in steps if rng.random() < 0.8]
    if rng.random() < 0.1:
        rng.shuffle(chosen)
    return chosen + [rng.choice([message("S"), message("S"), message("S"), message("H"), b""])]


def copying(rng):
    rows = [message("d", rng.choice([b"1\n", b"x\n", b"\\.\n", b"", b"2\t3\n"])) for _ in range(rng.randrange(5))]
    return rows + [rng.choice([message("c"), message("f", b"given up\0"), message("S"), message("H"), query("SELECT 1"), b""])]


def odd(rng):
    return [rng.choice([
        message("F", struct.pack("!ihhh", rng.choice([1, 2 ** 30]), 0, 0, 0)), message("p", b"secret\0"), message("X"), message("z"),
        message("Q", b"no end"), message("Q", b"\0"), message("P"), message("B", b"\0"), message("E", b"\0"), message("H"), message("S"),
        b"Q\0\0\0\3", b"Q\x7f\xff\xff\xff", b"\0", bytes(rng.randrange(256) for _ in range(rng.randrange(1, 30)))])]


def sequence(rng):
    """What one client does: bursts, each with the sizes of its pieces and a
    pause; cancels between them; how it ends."""
    bursts, whole = [], True
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        whole = whole and kind < 0.95
        messages = ([query(rng.choice(STATEMENTS)) for _ in range(rng.choice([1, 1, 1, 3]))] if kind < 0.45 else
                    extended(rng) if kind < 0.8 else copying(rng) if kind < 0.95 else odd(rng))
        burst = b"".join(messages)
        if burst and rng.random() < 0.05:
            place = rng.randrange(len(burst))
            burst = burst[:place] + bytes([rng.randrange(256)]) + burst[place + 1:]
            whole = False
        if burst and rng.random() < 0.03:
            burst = burst[:rng.randrange(len(burst))]
            whole = False
        pace = rng.random()
        pieces = 1 if pace < 0.1 and len(burst) < 400 else len(burst) // 3 + 1 if pace < 0.3 else len(burst)
        bursts.append((burst, pieces, rng.choice([0, 0, 0.003, 0.01])))
    if whole and rng.random() < 0.05:
        bursts.append(("cancel", 0, 0))
    return {"tls": rng.random() < 0.3, "bursts": bursts, "end": rng.choice(["half", "half", "terminate", "abrupt"]),
            "user": rng.choice(["kasmapp"] * 20 + ["nobody here"])}


class Client:
    """One connection, whose answers are kept."""

    def __init__(self, port, tls):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port, self.received, self.tls, self.ended = port, b"", None, False
        if tls:
            self.sock.sendall(SSL_REQUEST)
            self.received = self.sock.recv(1)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.into, self.out)
            while True:
                try:
                    self.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self.sock.sendall(self.out.read())
                    self.into.write(self.sock.recv(65536))
            self.sock.sendall(self.out.read())
        self.sock.setblocking(False)

    def take(self, seconds):
        """What comes within that time; at once what is there."""
        if self.ended or not select.select([self.sock], [], [], seconds)[0]:
            return False
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return False
        if self.tls is None:
            self.received += data
            return True
        self.into.write(data)
        try:
            while plain := self.tls.read(65536):
                self.received += plain
            return True
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return True

    def send(self, data):
        if self.tls is not None:
            self.tls.write(data)
            data = self.out.read()
        while data and not self.ended:
            self.take(0)
            try:
                data = data[self.sock.send(data):]
            except BlockingIOError:
                select.select([self.sock], [self.sock], [], 1)
            except OSError:
                return

    def wait_for(self, pattern):
        until = time.monotonic() + PATIENCE
        while not re.search(pattern, self.received, re.S) and not self.ended and time.monotonic() < until:
            self.take(0.1)

    def cancel(self):
        """Cancel a query that runs, and no other: what came before is over."""
        self.send(message("f", b"enough\0") + message("S") + query("ROLLBACK") + query("SELECT 'all is ' || 'over'"))
        self.wait_for(b"all is over")
        seen = len(self.received)
        self.send(query("SELECT pg_sleep(60)"))
        found = re.search(rb"K\x00\x00\x00\x0c(.{8})", self.received, re.S)
        until = time.monotonic() + PATIENCE
        while found and not self.ended and time.monotonic() < until and b"57014" not in self.received[seen:]:
            with socket.create_connection(("127.0.0.1", self.port)) as canceller:
                canceller.sendall(struct.pack("!ii", 16, 80877102) + found.group(1))
                canceller.recv(1)
            self.take(0.02)

    def finish(self, how):
        if how == "terminate":
            self.send(message("X"))
        if how != "abrupt":
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            until = time.monotonic() + PATIENCE
            while not self.ended and time.monotonic() < until:
                self.take(0.5)
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        return self.ended or how == "abrupt"


def play(port, sequence):
    """The answers to a sequence, and whether the server ended the connection
    in time."""
    client = Client(port, sequence["tls"])
    client.send(startup(sequence["user"], DATABASE))
    client.wait_for(rb"Z\x00\x00\x00\x05I|^S?E")
    for burst, size, pause in sequence["bursts"]:
        if burst == "cancel":
            client.cancel()
            continue
        for at in range(0, len(burst), max(size, 1)):
            client.send(burst[at:at + size])
            if size < len(burst):
                client.take(0)
        if pause:
            client.take(pause)
    ended = client.finish(sequence["end"])
    return client.received, ended


def comparable(data):
    """The answers as messages, without what differs from server to server."""
    messages, at = [], 0
    if data[:1] == b"S" and data[1:2] in b"RE":
        messages, at = [b"S"], 1
    while at + 5 <= len(data):
        kind, length = struct.unpack("!ci", data[at:at + 5])
        if at + 1 + length > len(data):
            break  # cut off by an abrupt end
        body = data[at + 5:at + 1 + length]
        if kind == b"K":
            body = b""
        elif kind == b"A":
            body = body[4:]
        elif kind == b"T":
            fields, place = [], 2
            while place < len(body):
                end = body.index(b"\0", place)
                fields.append(body[place:end] + body[end + 5:end + 19])
                place = end + 19
            body = b"|".join(fields)
        messages.append(kind + body)
        at += 1 + length
    return messages


CONSISTENT = """
SELECT f.client_addr, f.round_trips, f.transactions, f.ceilings_n, f.server_n
FROM (SELECT g.*, kasm_latency_internal.count_from(g.ceilings, 0) AS ceilings_n,
             kasm_latency_internal.count_from(g.server_times, 0) AS server_n,
             kasm_latency_internal.count_from(g.bounds, 0) AS bounds_n
      FROM kasm_latency_internal.client_figures('1 hour') AS g) AS f
WHERE f.round_trips < 0 OR f.transactions > f.round_trips OR f.server_n > f.round_trips
   OR f.ceilings_n + f.other_turnarounds > f.round_trips OR f.bounds_n > f.ceilings_n
   OR kasm_latency_internal.percentile_ms(f.ceilings, 0) > 1.11 * greatest(f.turnaround_min_ms, 0.01)
   OR least(f.network_s, f.server_s, f.turnaround_s, f.in_transaction_wait_s, f.lock_wait_s, f.chain_s) < 0
   OR f.chain_round_trips > f.round_trips OR f.rtt_ms <= 0
   OR kasm_latency_internal.sum_s(f.server_times) IS DISTINCT FROM f.server_s"""


def show(sequence, bare, ours):
    for i, (theirs, mine) in enumerate(zip(bare + [b"(the end)"], ours + [b"(the end)"])):
        if theirs != mine:
            return f"message {i}: without {theirs[:80]!r}, with {mine[:80]!r}; tls {sequence['tls']}, end {sequence['end']}"
    return "no message differs"


def main(bindir, user, sequences=SEQUENCES, seed=None, first=0):
    seed = int(seed) if seed else random.SystemRandom().randrange(10 ** 9)
    servers = []
    began = time.monotonic()
    try:
        for preload in ("", "kasm_latency"):
            server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload=preload,
                                settings="autovacuum = off\nlog_min_messages = fatal\nkasm_latency.sample_locks = 10ms" if preload
                                else "autovacuum = off\nlog_min_messages = fatal")
            servers.append(server)
            server.start()
            server.psql("CREATE TABLE item AS SELECT g AS a FROM generate_series(1, 20) AS g", "CREATE TABLE sink (a int)",
                        "CREATE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
                        "CREATE TRIGGER drop_row BEFORE INSERT ON sink FOR EACH ROW EXECUTE FUNCTION drop_row()",
                        "GRANT ALL ON item, sink TO kasmapp", options=["-d", DATABASE])
        for i in range(int(first), int(first) + int(sequences)):
            what = sequence(random.Random(seed * 1000003 + i))
            (bare, ended), (ours, ours_ended) = (play(server.port, what) for server in servers)
            bare, ours = comparable(bare), comparable(ours)
            if what["end"] == "abrupt":
                shorter = min(len(bare), len(ours))
                bare, ours = bare[:shorter], ours[:shorter]
            require(bare == ours, f"sequence {i} of seed {seed}: {show(what, bare, ours)}")
            require(ended == ours_ended, f"sequence {i} of seed {seed}: the end came {ended}, {ours_ended}")
            if (i + 1) % 1000 == 0:
                print(f"  {i + 1} sequences, {time.monotonic() - began:.0f} s", flush=True)
        for server in servers:
            crash = re.search(r"PANIC|TRAP|terminated by signal|server process .* exited", server.log_text())
            require(crash is None, f"a server crashed: {crash and crash.group(0)}")
        wrong = servers[1].rows(CONSISTENT)
        require(wrong == [], f"what was counted is not consistent: {wrong}")
        (counted,) = servers[1].rows("SELECT sum(round_trips) AS n FROM kasm_latency.totals")
        require(int(counted["n"]) > int(sequences), f"only {counted['n']} exchanges were counted")
        print(f"fuzz: {sequences} sequences of seed {seed}, {counted['n']} exchanges: "
              f"{'the same bytes' if finish() == 0 else 'DIFFERENT'}, in {time.monotonic() - began:.0f} s")
        return finish()
    finally:
        for server in servers:
            server.remove()


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(main(*sys.argv[1:]))
