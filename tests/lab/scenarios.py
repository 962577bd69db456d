"""The lab's scenarios: each states the truth, runs real clients, and reads
what kasm_latency says of them.

    scenarios.py BINDIR USER [NUMBER ...]

Prints a row per scenario, truth beside report, and ends with the count of
false flags (a host inside the band called out_of_band) and misses (one
outside called in_band); fails if a row is not ok.  Exits with 77, after
saying why, where there can be no lab.

"true RTT" is the distance of the application; rtt_ms is that of whoever ends
TCP, which is another where something stands between.
"""
import os
import re
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import lab

LIMIT_MS = 10
SIDE_BY_SIDE = 8
COLUMNS = ["scenario", "true RTT", "rtt_ms", "turnaround_min_ms", "turnaround_p50_ms",
           "verdict", "expected", "ok"]
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


class Row:
    """One line of the report: the truth, what was said, what is wrong with it."""

    def __init__(self, name, rtt_ms, expected, said):
        self.name, self.rtt_ms, self.expected, self.said = name, rtt_ms, expected, said or {}
        self.problems = []
        if said is None:
            self.problems.append("nothing was said of it")
        elif said["verdict"] != expected:
            self.problems.append(f"the verdict is {said['verdict']}")

    def number(self, column):
        value = self.said.get(column)
        return None if value is None else float(value)

    def require(self, condition, problem):
        if not condition:
            self.problems.append(problem)
        return self

    def cells(self):
        return ([self.name, f"{self.rtt_ms:g}"] + [self.said.get(c) or "" for c in COLUMNS[2:6]]
                + [self.expected, "NOT OK" if self.problems else "ok"])


class Scenario:
    """What all scenarios share.  prepare() makes hosts, one scenario after the
    other; run() drives them, side by side with other scenarios."""
    slow = False  # takes minutes: is started first

    def __init__(self, number, name):
        self.number, self.name, self.rows = number, name, []

    def prepare(self, bindir, user):
        self.bindir, self.user = bindir, user

    def said(self, server, addr, role="kasmapp", since=None):
        """The row of kasm_latency.clients on an address; None is the server's
        own Unix-domain sockets."""
        since = f"interval '{since}'" if since else "NULL"
        rows = server.rows(f"SELECT * FROM kasm_latency.client_stats({since}) "
                           f"WHERE username = '{role}' AND client_addr "
                           + (f"= '{addr}'" if addr else "IS NULL"))
        return rows[0] if rows else None

    def reason(self, server, addr):
        """What kasm_latency.flagged says of an address."""
        rows = server.rows(f"SELECT reason FROM kasm_latency.flagged WHERE client_addrs = '{{{addr}}}'")
        return rows[0]["reason"] if rows else "it is not flagged"

    def judge(self, rtt_ms, expected, said, name=None, floor_ms=None, slack_ms=0.5, one_path=True):
        """Add a row; floor_ms is what rtt_ms ought to be.  On one path no
        turnaround of the span is shorter than that."""
        row = Row(name or self.name, rtt_ms, expected, said)
        self.rows.append(row)
        if said is None:
            return row
        floor_ms = rtt_ms if floor_ms is None else floor_ms
        rtt, turnaround = row.number("rtt_ms"), row.number("turnaround_min_ms")
        if rtt is not None:
            row.require(abs(rtt - floor_ms) <= 0.1 * floor_ms + slack_ms,
                        f"rtt_ms is not {floor_ms} within 10 % + {slack_ms} ms")
            row.require(not one_path or turnaround is None or turnaround >= rtt - 0.002,
                        "a turnaround is shorter than the round trip")
        return row


class Launches(Scenario):
    """One host, one distance, launches."""

    def __init__(self, number, name, rtt_ms, expected, *arguments, path={}, mode="launches",
                 check=lambda row: None, slack_ms=0.5, dsn={}):
        super().__init__(number, name)
        self.rtt_ms, self.expected, self.arguments, self.path = rtt_ms, expected, arguments, path
        self.mode, self.check, self.slack_ms, self.dsn = mode, check, slack_ms, dsn

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, self.rtt_ms, user, **self.path)

    def dsn_text(self):
        return self.host.dsn(**self.dsn)

    def run(self, server):
        counted = lab.result(self.host.client(*self.arguments, mode=self.mode, dsn=self.dsn_text()))
        row = self.judge(self.rtt_ms, self.expected,
                         self.said(server, self.reported_addr(), role=self.dsn.get("user", "kasmapp")),
                         slack_ms=self.slack_ms)
        if counted["exchanges"] is not None:
            row.require(int(row.said["round_trips"]) == counted["exchanges"],
                        f"{row.said['round_trips']} round trips, but the client counted "
                        f"{counted['exchanges']}")
        self.check(row)

    def reported_addr(self):
        return self.host.addr


class Pooled(Launches):
    slow = True


class Scram(Launches):
    def dsn_text(self):
        return super().dsn_text() + " password=secret"


class Ipv6(Launches):
    def dsn_text(self):
        return self.host.dsn(addr=self.host.server_addr6)

    def reported_addr(self):
        return self.host.addr6


class MappedIpv4(Launches):
    def dsn_text(self):
        return self.host.dsn(addr="::ffff:" + self.host.server_addr)


class BesideServer(Scenario):
    """A client on the server's own machine."""

    def __init__(self, number, name, addr, expected):
        super().__init__(number, name)
        self.addr, self.expected = addr, expected

    def run(self, server):
        lab.result(lab.client(self.user, "launches", lab.dsn(self.addr or server.dir, sslmode="prefer"),
                              "--launches", "10", "--pause", "0.01"))
        self.judge(0, self.expected, self.said(server, self.addr))


class Between(Scenario):
    """Something at one distance that passes on the queries of an application
    at another, under its own address."""

    def __init__(self, number, name, near_ms, far_ms, expected, clients, mode="launches", words=""):
        super().__init__(number, name)
        self.near_ms, self.far_ms, self.expected, self.clients = near_ms, far_ms, expected, clients
        self.mode, self.words = mode, words

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.middle = lab.Host(self.name, self.near_ms, user)
        self.app = self.middle  # or where the distance is
        if self.far_ms > self.near_ms:
            self.app = lab.Host(self.name + " app", self.far_ms - self.near_ms, user)

    def start(self, server):
        raise NotImplementedError

    def run(self, server):
        process = self.start(server)
        try:
            address = lab.dsn(self.middle.addr, port=6432, sslmode="disable")
            assert lab.wait_until(lambda: lab.run(*self.middle.inside, "ss", "-Hltn", "sport = 6432")), \
                "nothing listens"
            running = [self.app.client(*arguments, mode=self.mode, dsn=address)
                       for arguments in self.clients]
            for client in running:
                lab.result(client)
            row = self.judge(self.far_ms, self.expected, self.said(server, self.middle.addr),
                             floor_ms=self.near_ms)
            row.require(row.number("turnaround_min_ms") is None
                        or row.number("turnaround_min_ms") >= self.far_ms - 0.5,
                        "a turnaround is shorter than the application's distance")
            if self.words:
                reason = self.reason(server, self.middle.addr)
                row.require(self.words in reason, f"the reason does not say {self.words}: {reason}")
        finally:
            lab.stop(process)


class Pgbouncer(Between):
    def start(self, server):
        ini = os.path.join(server.dir, f"pgbouncer{id(self)}.ini")
        with open(ini, "w") as conf:
            conf.write(f"""[databases]
kasm = host={self.middle.server_addr} port={lab.PORT} dbname=kasm user=kasmapp
[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
server_tls_sslmode = disable
""")
        os.chmod(ini, 0o644)
        return self.middle.popen("/usr/sbin/pgbouncer", "-q", ini, stderr=lab.subprocess.DEVNULL)


class Socat(Between):
    def start(self, server):
        return self.middle.popen("socat", "TCP-LISTEN:6432,fork,reuseaddr,nodelay",
                                 f"TCP:{self.middle.server_addr}:{lab.PORT},nodelay")


class Nat(Scenario):
    """Two hosts behind one address."""

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.gateway = lab.Host(self.name, 0.2, user)
        self.gateway.be_gateway()
        self.near = lab.Host(self.name + " near", 0.2, user, behind=self.gateway)
        self.far = lab.Host(self.name + " far", 60, user, behind=self.gateway)

    def run(self, server):
        running = [host.client("--seconds", "12", "--pause", "0.2") for host in (self.near, self.far)]
        for client in running:
            lab.result(client)
        row = self.judge(60, "unproven", self.said(server, self.gateway.addr), floor_ms=0.4)
        reason = self.reason(server, self.gateway.addr)
        row.require("different distances" in reason,
                    f"the reason does not say that distances are mixed: {reason}")


class PathChange(Scenario):
    """The path becomes longer under an open connection, and short again."""
    slow = True

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, 1, user)

    def until(self, server, wanted, seconds):
        def look():
            self.last = self.said(server, self.host.addr, since="1 minute")
            return self.last and wanted(self.last["verdict"])
        lab.wait_until(look, seconds)
        return self.last

    def run(self, server):
        clients = [self.host.client("--seconds", "600", "--pause", "0.2")]
        try:
            self.judge(1, "in_band", self.until(server, lambda v: v == "in_band", 20),
                       "6 a path of 1 ms ...", floor_ms=1)
            self.host.set_path(25)
            self.judge(25, "unproven", self.until(server, lambda v: v == "unproven", 150),
                       "6 ... becomes 25 ms under an open connection", floor_ms=1)
            clients.append(self.host.client("--seconds", "600", "--pause", "0.2"))
            row = self.judge(25, "out_of_band", self.until(server, lambda v: v == "out_of_band", 75),
                       "6 ... and one client reconnects", one_path=False)
            row.require(self.said(server, self.host.addr)["verdict"] == "out_of_band",
                        "it is not out of band over 15 minutes")
            self.host.set_path(1)
            clients.append(self.host.client("--seconds", "600", "--pause", "0.2"))
            self.judge(1, "in_band", self.until(server, lambda v: v == "in_band", 200),
                       "6 ... and back, and one reconnects", floor_ms=1)
        finally:
            for client in clients:
                lab.stop(client)


class Pgbench(Scenario):
    """pgbench from a host: a script of its own, so many transactions."""

    def __init__(self, number, name, rtt_ms, expected, script, *arguments, check=lambda row, n: None):
        super().__init__(number, name)
        self.rtt_ms, self.expected, self.script, self.arguments, self.check = (
            rtt_ms, expected, script, arguments, check)

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, self.rtt_ms, user)

    def run(self, server):
        path = os.path.join(server.dir, f"pgbench{id(self)}.sql")
        with open(path, "w") as script:
            script.write(self.script)
        os.chmod(path, 0o644)
        pgbench = self.host.popen(os.path.join(self.bindir, "pgbench"), "-n", "-f", path, *self.arguments,
                                  self.host.dsn(sslmode="disable"),
                                  stdout=lab.subprocess.PIPE, stderr=lab.subprocess.STDOUT)
        output, _ = pgbench.communicate()
        done = re.search(r"actually processed: (\d+)", output)
        assert done, output
        row = self.judge(self.rtt_ms, self.expected, self.said(server, self.host.addr))
        self.check(row, int(done.group(1)))


class SteppedClock(Scenario):
    """A server of its own, whose wall clock is set while clients launch."""
    STEPS = (1, -1, 0.1, -0.1)

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, 3, user)

    def run(self, _server):
        offset = lab.tempfile.NamedTemporaryFile("w", prefix="kasm_latency_clock.")
        os.chmod(offset.name, 0o644)
        offset.write("+0\n")
        offset.flush()
        server = lab.Server(self.bindir, self.user, port=5433, LD_PRELOAD=FAKETIME,
                            FAKETIME_TIMESTAMP_FILE=offset.name, FAKETIME_NO_CACHE="1",
                            FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1",
                            FAKETIME_DONT_RESET="1")
        try:
            server.start()
            clock = "SELECT extract(epoch FROM clock_timestamp()) AS now"
            before = float(server.rows(clock)[0]["now"]) - time.time()
            client = self.host.client("--seconds", "15", "--pause", "0", dsn=self.host.dsn(port=5433))
            at, n = 0, 0
            while client.poll() is None:
                step = self.STEPS[n % len(self.STEPS)]
                at, n = at + step, n + 1
                offset.seek(0)
                offset.write(f"{at:+.3f}   \n")
                offset.flush()
                if n == 1:
                    moved = float(server.rows(clock)[0]["now"]) - time.time() - before
                time.sleep(0.15)
            counted = lab.result(client)
            row = self.judge(3, "in_band", self.said(server, self.host.addr))
            row.require(abs(moved - 1) < 0.2, f"the clock did not step: {moved}")
            row.require(n > 40, f"only {n} steps")
            row.require(int(row.said["round_trips"]) == counted["exchanges"], "not every exchange counted")
            # a step of 100 ms or 1 s would be a sample of about that
            for metric in ("turnaround", "server"):
                worst = server.rows(f"SELECT max(from_ms) AS ms FROM kasm_latency.histogram('{metric}', "
                                    f"'{self.host.addr}')")[0]["ms"]
                row.require(float(worst) < 90, f"a {metric} sample of {worst} ms")
        finally:
            server.remove()
            offset.close()


def at_least(column, value):
    def check(row):
        row.require(row.number(column) >= value, f"{column} is below {value}")
    return check


def at_most(column, value):
    def check(row):
        row.require(row.number(column) is None or row.number(column) <= value, f"{column} is above {value}")
    return check


def both(*checks):
    def check(row):
        for each in checks:
            each(row)
    return check


def no_ceiling_below(ms):
    return lambda row, *_: row.require(
        row.number("turnaround_min_ms") is None or row.number("turnaround_min_ms") >= ms,
        f"a pipelined command was taken for a ceiling: {row.said['turnaround_min_ms']} ms")


def every_connection(row, transactions):
    # pgbench looks at its tables first, on a connection of its own
    row.require(int(row.said["round_trips"]) == transactions,
                f"{row.said['round_trips']} round trips of {transactions}")
    row.require(transactions - 1 <= int(row.said["connections"]) <= transactions + 1,
                f"{row.said['connections']} connections of {transactions}")


FEW = ("--launches", "5", "--pause", "0.05")
MANY = ("--launches", "40", "--pause", "0.02")
THINK = [(5, "in_band"), (20, "unproven"), (35, "unproven"), (60, "unproven")]
PIPELINE = "\\startpipeline\n" + "SELECT 1;\n" * 10 + "\\endpipeline\n"
NOISE = {"jitter_ms": 5, "loss": 0.02, "reorder": 0.02}

SCENARIOS = [
    *[Launches(1, f"1 thinks {ms} ms, in transactions", 0.4, verdict, *FEW, "--think", str(ms / 1000))
      for ms, verdict in THINK],
    *[Launches(1, f"1 thinks {ms} ms, in autocommit", 0.4, "floor_only", *FEW, "--think", str(ms / 1000),
               "--autocommit") for ms, _ in THINK],
    Pooled(2, "2 a pooled connection, a query every 3 s", 0.4, "in_band",
           "--seconds", "120", "--queries", "1", "--pause", "3"),
    *[Launches(3, f"3 at {ms:g} ms", ms, "in_band" if ms < LIMIT_MS else "out_of_band", *FEW)
      for ms in (0.5, 2, 8.5, 11.5, 25, 150)],
    Pgbouncer(4, "4 pgbouncer beside the server, SQLAlchemy and 20 in autocommit", 0.3, 120, "unproven",
              [("--launches", "4", "--sqlalchemy"),
               ("--launches", "4", "--autocommit", "--connections", "20")], words="pooler or proxy"),
    Pgbouncer(4, "4 pgbouncer beside the server, 20 in autocommit", 0.3, 120, "floor_only",
              [("--launches", "4", "--autocommit", "--connections", "20")]),
    Pgbouncer(4, "4 pgbouncer beside the application", 120, 120, "out_of_band",
              [("--launches", "3", "--sqlalchemy")]),
    Socat(5, "5 a TCP proxy beside the server", 0.3, 60, "unproven", [("--launches", "5")],
          words="pooler or proxy"),
    Nat(5, "5 near and far behind one address"),
    PathChange(6, "6 path change"),
    Launches(7, "7 psycopg 3 in pipeline mode", 120, "out_of_band", "--launches", "6", mode="pipeline",
             check=no_ceiling_below(119)),
    Pgbench(7, "7 pgbench in pipeline mode", 120, "out_of_band", PIPELINE, "-M", "extended", "-t", "8",
            check=no_ceiling_below(119)),
    Pgbouncer(7, "7 psycopg 3 in pipeline mode, by pgbouncer", 0.3, 120, "floor_only",
              [("--launches", "4", "--connections", "4", "--autocommit")], mode="pipeline"),
    Scram(8, "8 SCRAM and TLS, near", 3, "in_band", *FEW, dsn={"user": "scram"}),
    Scram(8, "8 SCRAM and TLS, far", 25, "out_of_band", *FEW, dsn={"user": "scram"}),
    Launches(8, "8 neither, near", 3, "in_band", *FEW, dsn={"sslmode": "disable"}),
    Launches(8, "8 neither, far", 25, "out_of_band", *FEW, dsn={"sslmode": "disable"}),
    Launches(9, "9 loss, jitter and reordering, near", 3, "in_band", *MANY, path=NOISE, slack_ms=3,
             check=at_least("retransmits", 1)),
    Launches(9, "9 loss, jitter and reordering, far", 25, "out_of_band", *MANY, path=NOISE, slack_ms=3,
             check=at_least("retransmits", 1)),
    Launches(10, "10 bulk", 2, "in_band", mode="bulk",
             check=both(at_most("turnaround_p50_ms", 5), at_least("server_p99_ms", 1000))),
    Launches(11, "11 a slow server", 0.5, "in_band", mode="slow",
             check=both(at_least("server_p50_ms", 190), at_least("server_p99_ms", 285),
                        at_most("turnaround_p50_ms", 5))),
    SteppedClock(12, "12 the wall clock is set"),
    Launches(13, "13 commotion", 3, "in_band", mode="commotion",
             check=at_most("turnaround_p95_ms", 200)),
    Ipv6(14, "14 IPv6", 3, "in_band", *FEW),
    MappedIpv4(14, "14 IPv4 mapped into IPv6", 3, "in_band", *FEW),
    BesideServer(14, "14 loopback", "127.0.0.1", "in_band"),
    BesideServer(14, "14 loopback, IPv6", "::1", "in_band"),
    BesideServer(14, "14 Unix-domain socket", None, "in_band"),
    *[Pgbench(15, f"15 200 short connections a second, at {ms:g} ms", ms, verdict, "SELECT 1;\n",
              "-C", "-c", str(clients), "-R", "200", "-T", "6", check=every_connection)
      for ms, clients, verdict in ((0.5, 4, "floor_only"), (25, 40, "out_of_band"))],
]


def run(scenario, server):
    began = time.monotonic()
    try:
        scenario.run(server)
    except Exception as error:  # a scenario that breaks is a row that is not ok
        traceback.print_exc()
        scenario.rows.append(Row(scenario.name, float("nan"), "", None)
                             .require(False, repr(error)))
    scenario.seconds = time.monotonic() - began


def table(rows):
    lines = [COLUMNS] + [row.cells() for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def main(bindir, user, *numbers):
    chosen = [s for s in SCENARIOS if not numbers or str(s.number) in numbers]
    server = lab.Server(bindir, user, settings="max_connections = 300\nautovacuum = off")
    try:
        server.start()
        server.psql("CREATE ROLE scram LOGIN PASSWORD 'secret'")
        for scenario in chosen:
            scenario.prepare(bindir, user)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            list(pool.map(lambda scenario: run(scenario, server),
                          sorted(chosen, key=lambda s: not s.slow)))
    finally:
        server.remove()

    rows = [row for s in chosen for row in s.rows]
    table(rows)
    for row in rows:
        for problem in row.problems:
            print(f"{row.name}: {problem}")
    said = [(row.rtt_ms < LIMIT_MS, row.said.get("verdict")) for row in rows]
    print(f"false flags: {said.count((True, 'out_of_band'))}")
    print(f"misses: {said.count((False, 'in_band'))}")
    return 1 if any(row.problems for row in rows) else 0


if __name__ == "__main__":
    lab.stop_on_signals()
    if os.environ.get(lab.MARK) != "inside":
        reason = lab.why_not()
        if reason is not None:
            print(f"no lab here: {reason}")
            sys.exit(77)
    lab.enter()
    sys.exit(main(*sys.argv[1:]))
