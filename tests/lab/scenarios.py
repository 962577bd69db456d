"""The lab's scenarios: each states the truth, runs real clients, and reads
what kasm_latency says of them.

    scenarios.py BINDIR USER [NUMBER ...]

Prints a row per scenario, truth beside report, and ends with three counts:
false flags   a host inside the band called out_of_band
misses        one outside called in_band, or not flagged though its ceilings
              are known
warnings      a host inside the band in "flagged", where the scenario does not
              say that this cannot be known better
Fails if one of them is not 0, or a row is not ok.  Exits with 77, after saying
why, where there can be no lab.

"true RTT" is the distance of the application; rtt_ms is that of whoever ends
TCP, which is another where something stands between; hidden_ms is what is
said of the distance behind that.  "far blocks" are so many of so many.  Where
two verdicts are expected, either is true: a path is near the limit, or a busy
machine takes time of its own.
"""
import os
import re
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import lab

LIMIT_MS = 10
SIDE_BY_SIDE = 8
COLUMNS = ["scenario", "true RTT", "rtt_ms", "turnaround_min_ms", "turnaround_p50_ms", "far blocks",
           "block_p50_ms", "hidden_ms", "verdict", "expected", "ok"]
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
HAPROXY = "/usr/sbin/haproxy"


class Row:
    """One line of the report: the truth, what was said, what is wrong with it.
    expected is a verdict, or several of which each is true."""

    def __init__(self, name, rtt_ms, expected, said):
        self.name, self.rtt_ms, self.said = name, rtt_ms, said or {}
        self.expected = (expected,) if isinstance(expected, str) else expected
        self.problems = []
        if said is None:
            self.problems.append("nothing was said of it")
        elif said["verdict"] not in self.expected:
            self.problems.append(f"the verdict is {said['verdict']}" + self.because())

    def number(self, column):
        value = self.said.get(column)
        return None if value is None else float(value)

    def flagged(self):
        return self.said.get("severity") is not None

    def because(self):
        return f": {self.said['reason']}" if self.flagged() else ""

    def false_flag(self):
        return self.rtt_ms < LIMIT_MS and self.said.get("verdict") == "out_of_band"

    def miss(self):
        """Where nothing but the floor is known, nothing hidden can be."""
        return self.rtt_ms >= LIMIT_MS and not self.flagged() and "floor_only" not in self.expected

    def warning(self):
        return self.rtt_ms < LIMIT_MS and self.flagged() and "unproven" not in self.expected

    def require(self, condition, problem):
        if not condition:
            self.problems.append(problem)
        return self

    def require_hidden(self, rtt_ms, cycle_ms=None):
        """The distance behind what ends TCP is said, and is this; what the
        client's own clock saw, where that is more: the programs between take
        their time too, on a busy machine milliseconds.  Where half of what
        that clock saw is more than an eighth and 1 ms off, nothing is steady
        there, and nothing need be said."""
        hidden = self.number("hidden_ms")
        most_ms = max(rtt_ms, cycle_ms or 0)
        if hidden is None and most_ms > 1.125 * rtt_ms + 1:
            return self
        return self.require(hidden is not None and 0.95 * rtt_ms - 1 <= hidden <= 1.05 * most_ms + 1,
                            f"hidden_ms is {hidden}, not {rtt_ms:g}"
                            + (f" (by the client's clock {cycle_ms:.1f})" if cycle_ms else "")
                            + " within 5 % + 1 ms" + self.because())

    def require_nothing_hidden(self):
        return self.require(self.number("hidden_ms") is None,
                            f"hidden_ms is {self.number('hidden_ms')}" + self.because())

    def require_blocks(self, blocks):
        return self.require(int(self.said["blocks"]) == blocks,
                            f"{self.said['blocks']} blocks, but the clients counted {blocks}")

    def cells(self):
        said = {column: self.said.get(column) or "" for column in COLUMNS[2:-2]}
        if "blocks" in self.said:
            said["far blocks"] = f"{self.said['far_blocks']} of {self.said['blocks']}"
        return [self.name, f"{self.rtt_ms:g}", *said.values(), " or ".join(self.expected),
                "NOT OK" if self.problems else "ok"]


class Scenario:
    """What all scenarios share.  prepare() makes hosts, one scenario after the
    other; run() drives them, side by side with other scenarios."""
    slow = False  # takes minutes, in which it mostly waits: is started first

    def __init__(self, number, name):
        self.number, self.name, self.rows = number, name, []

    def lacks(self):
        """What it needs that this machine does not have, or None."""
        return None

    def prepare(self, bindir, user):
        self.bindir, self.user = bindir, user

    def said(self, server, addr, role="kasmapp", recent=None):
        """The row of kasm_latency.clients on an address, and what flagged says
        of that host; None is the server's own Unix-domain sockets."""
        span = f"SET kasm_latency.recent = '{recent}'; " if recent else ""
        rows = server.rows(span + "SELECT c.*, f.severity, f.hidden_ms, f.reason FROM kasm_latency.clients AS c "
                           "LEFT JOIN kasm_latency.flagged AS f ON f.host = c.host "
                           f"WHERE c.username = '{role}' AND c.client_addr "
                           + (f"= '{addr}'" if addr else "IS NULL"))
        return rows[0] if rows else None

    def judge(self, rtt_ms, expected, said, name=None, floor_ms=None, host=None, slack_ms=0.5, one_path=True):
        """Add a row; floor_ms is what rtt_ms ought to be, and host is at that
        distance now.  On one path no turnaround of the span is shorter."""
        row = Row(name or self.name, rtt_ms, expected, said)
        self.rows.append(row)
        if said is None:
            return row
        floor_ms = rtt_ms if floor_ms is None else floor_ms
        rtt, turnaround = row.number("rtt_ms"), row.number("turnaround_min_ms")
        if rtt is not None:
            row.require(lab.is_distance(rtt, floor_ms, 0.1, slack_ms, host),
                        f"rtt_ms is {rtt}, not {floor_ms} within 10 % + {slack_ms} ms")
            row.require(not one_path or turnaround is None or turnaround >= rtt - 0.002,
                        "a turnaround is shorter than the round trip")
        return row


class Launches(Scenario):
    """One host, one distance, launches."""

    def __init__(self, number, name, rtt_ms, expected, *arguments, path={}, mode="launches",
                 check=lambda row: None, slack_ms=0.5, dsn={}, module=None):
        super().__init__(number, name)
        self.rtt_ms, self.expected, self.arguments, self.path = rtt_ms, expected, arguments, path
        self.mode, self.check, self.slack_ms, self.dsn, self.module = mode, check, slack_ms, dsn, module

    def lacks(self):
        if self.module and lab.subprocess.run([lab.PYTHON, "-c", f"import {self.module}"],
                                              stderr=lab.subprocess.DEVNULL).returncode != 0:
            return f"there is no Python module {self.module}"
        return None

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, self.rtt_ms, user, **self.path)

    def dsn_text(self):
        return self.host.dsn(**self.dsn)

    def drive(self):
        """Run the client; what it counted."""
        return lab.result(self.host.client(*self.arguments, mode=self.mode, dsn=self.dsn_text()))

    def run(self, server):
        counted = self.drive()
        row = self.judge(self.rtt_ms, self.expected,
                         self.said(server, self.reported_addr(), role=self.dsn.get("user", "kasmapp")),
                         host=self.host, slack_ms=self.slack_ms)
        if counted["exchanges"] is not None:
            row.require(int(row.said["round_trips"]) == counted["exchanges"],
                        f"{row.said['round_trips']} round trips, but the client counted "
                        f"{counted['exchanges']}")
        if counted["blocks"] is not None:
            row.require_blocks(counted["blocks"])
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


class Stopped(Launches):
    """Its client is stopped for 200 ms of every second."""

    def drive(self):
        client = self.host.client(*self.arguments, mode=self.mode, dsn=self.dsn_text())
        while client.poll() is None:
            time.sleep(0.8)
            client.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            client.send_signal(signal.SIGCONT)
        return lab.result(client)


class Crowded(Launches):
    """Its client shares a processor with four busy loops."""
    LOOPS = 4

    def drive(self):
        there = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
        loops = [lab.popen(self.user, *there, "sh", "-c", "while :; do :; done") for _ in range(self.LOOPS)]
        try:
            return lab.result(lab.client(self.user, self.mode, self.dsn_text(), *self.arguments,
                                         inside=self.host.inside + there))
        finally:
            for loop in loops:
                lab.stop(loop)


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
    at another, under its own address; and maybe those of an application that
    is beside it, or farther.  hidden: the distance of the first one has to be
    told, or that of the farther, where it has more clients."""

    def __init__(self, number, name, near_ms, far_ms, expected, clients, near_clients=(), mode="launches", words="",
                 hidden=False, farther_ms=None, farther_clients=()):
        super().__init__(number, name)
        self.near_ms, self.far_ms, self.expected = near_ms, far_ms, expected
        self.clients, self.near_clients = clients, near_clients
        self.farther_ms, self.farther_clients = farther_ms, farther_clients
        self.mode, self.words, self.hidden = mode, words, hidden

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.middle = lab.Host(self.name, self.near_ms, user)
        self.app = self.middle  # or where the distance is
        if self.far_ms > self.near_ms:
            self.app = lab.Host(self.name + " app", self.far_ms - self.near_ms, user)
        if self.farther_clients:
            self.farther = lab.Host(self.name + " farther", self.farther_ms - self.near_ms, user)

    def start(self, server):
        raise NotImplementedError

    def file_in(self, server, text):
        """A file for the program between."""
        path = os.path.join(server.dir, f"{type(self).__name__}{id(self)}")
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path

    def run(self, server):
        process = self.start(server)
        try:
            address = lab.dsn(self.middle.addr, port=6432, sslmode="disable")
            assert lab.wait_until(lambda: lab.run(*self.middle.inside, "ss", "-Hltn", "sport = 6432")), \
                "nothing listens"
            running, near = ([host.client(*arguments, mode=self.mode, dsn=address) for arguments in clients]
                             for host, clients in ((self.app, self.clients), (self.middle, self.near_clients)))
            running += [self.farther.client(*arguments, mode=self.mode, dsn=address) for arguments in self.farther_clients]
            counted = [lab.result(client) for client in running]
            near_counted = [lab.result(client) for client in near]
            row = self.judge(self.far_ms, self.expected, self.said(server, self.middle.addr),
                             floor_ms=self.near_ms, host=self.middle)
            self.check_blocks(row, [one["blocks"] for one in counted], [one["blocks"] for one in near_counted])
            least_ms = self.near_ms if near else self.far_ms - 0.5
            row.require(row.number("turnaround_min_ms") is None or row.number("turnaround_min_ms") >= least_ms,
                        "a turnaround is shorter than the application's distance")
            if self.hidden:
                farther = len(self.farther_clients) > len(self.clients)
                hiding = counted[len(self.clients):] if farther else counted[:len(self.clients)]
                cycles = [one["cycle_ms"] for one in hiding if one["cycle_ms"]]
                row.require_hidden(self.farther_ms if farther else self.far_ms, max(cycles, default=None))
            if self.words:
                row.require(row.flagged() and self.words in row.said["reason"],
                            f"the reason does not say {self.words}" + row.because())
        finally:
            lab.stop(process)

    def check_blocks(self, row, blocks, near_blocks):
        """Those of the far application are far, whatever the machine does."""
        if None in blocks:
            return
        row.require_blocks(sum(blocks) + sum(near_blocks))
        if self.far_ms >= LIMIT_MS:
            row.require(int(row.said["far_blocks"]) >= sum(blocks),
                        f"{row.said['far_blocks']} far blocks of {sum(blocks)}")


class Pgbouncer(Between):
    def start(self, server):
        ini = self.file_in(server, f"""[databases]
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
        return self.middle.popen("/usr/sbin/pgbouncer", "-q", ini, stderr=lab.subprocess.DEVNULL)


class Haproxy(Between):
    def lacks(self):
        return None if os.path.exists(HAPROXY) else "there is no haproxy"

    def start(self, server):
        config = self.file_in(server, f"""defaults
    mode tcp
    timeout connect 20s
    timeout client 10m
    timeout server 10m
listen postgres
    bind :6432
    server database {self.middle.server_addr}:{lab.PORT}
""")
        return self.middle.popen(HAPROXY, "-db", "-q", "-f", config)


class Socat(Between):
    def start(self, server):
        return self.middle.popen("socat", "TCP-LISTEN:6432,fork,reuseaddr,nodelay",
                                 f"TCP:{self.middle.server_addr}:{lab.PORT},nodelay")


class Optimist(Scenario):
    """A far client whose TCP acknowledges too early, so that the kernel takes
    it for near."""

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, 120, user)
        # its kernel knows nothing of the connection, and would reset it
        lab.run(*self.host.inside, "nft", "add table ip quiet; "
                "add chain ip quiet out { type filter hook output priority 0; }; "
                "add rule ip quiet out tcp flags & rst == rst drop")

    def run(self, server):
        answered = int(lab.run(*self.host.inside, lab.PYTHON, os.path.join(lab.HERE, "optimist.py"),
                               self.host.server_addr, str(lab.PORT), "kasmapp", "kasm"))
        said = self.said(server, self.host.addr)
        row = self.judge(120, "unproven", said, floor_ms=0.5, slack_ms=4)
        row.require(int(said["round_trips"]) == answered, f"{said['round_trips']} round trips of {answered}")
        row.require_hidden(120)


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
        row = self.judge(60, "unproven", self.said(server, self.gateway.addr), floor_ms=0.4, host=self.near)
        row.require(row.flagged() and "different distances" in row.said["reason"],
                    "the reason does not say that distances are mixed" + row.because())


class PathChange(Scenario):
    """The path becomes longer under an open connection, and short again: each
    step is a distance, a verdict and what else is to be said of it.  By the
    figures of a minute, so that a step need not wait for a quarter of an hour."""
    slow = True

    def __init__(self, number, name, *steps):
        super().__init__(number, name)
        self.steps = steps

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, self.steps[0]["rtt_ms"], user)

    def until(self, server, verdict, hidden, seconds):
        def look():
            self.last = self.said(server, self.host.addr, recent="1min")
            return (self.last and self.last["verdict"] == verdict
                    and (self.last["hidden_ms"] is not None or not hidden))
        lab.wait_until(look, seconds)
        return self.last

    def run(self, server):
        clients = []
        try:
            for step in self.steps:
                self.host.set_path(step["rtt_ms"])
                if step.get("connects"):
                    clients.append(self.host.client("--seconds", "900", "--pause", "0.2"))
                hidden, floor_ms = step.get("hidden", False), step.get("floor_ms", step["rtt_ms"])
                row = self.judge(step["rtt_ms"], step["verdict"],
                                 self.until(server, step["verdict"], hidden, step["seconds"]),
                                 f"{self.name} {step['name']}", floor_ms=floor_ms,
                                 host=self.host if floor_ms == step["rtt_ms"] else None,
                                 # rtt_ms is that of the newest connection, turnarounds are of all
                                 one_path=len(clients) == 1)
                if hidden:
                    row.require_hidden(step["rtt_ms"])
                if step["verdict"] == "out_of_band":
                    row.require(self.said(server, self.host.addr)["verdict"] == "out_of_band",
                                "it is not out of band over 15 minutes")
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
        row = self.judge(self.rtt_ms, self.expected, self.said(server, self.host.addr), host=self.host)
        self.check(row, int(done.group(1)))


class SteppedClock(Scenario):
    """A server of its own, whose wall clock is set while clients launch: by
    steps that no busy machine's pauses look like, and that never take each
    other back, as two within one exchange would not be seen."""
    STEPS = (1, -0.4)

    def prepare(self, bindir, user):
        super().prepare(bindir, user)
        self.host = lab.Host(self.name, 3, user)

    def ahead(self, server):
        """How far the server's clock is ahead of ours: at least and at most,
        as asking takes its time."""
        before = time.time()
        now = float(server.rows("SELECT extract(epoch FROM clock_timestamp()) AS now")[0]["now"])
        return now - time.time(), now - before

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
            least, most = self.ahead(server)
            client = self.host.client("--seconds", "15", "--pause", "0", dsn=self.host.dsn(port=5433))
            at, n = 0, 0
            while client.poll() is None:
                step = self.STEPS[n % len(self.STEPS)]
                at, n = at + step, n + 1
                offset.seek(0)
                offset.write(f"{at:+.3f}   \n")
                offset.flush()
                if n == 1:
                    now_least, now_most = self.ahead(server)
                time.sleep(0.15)
            counted = lab.result(client)
            row = self.judge(3, "in_band", self.said(server, self.host.addr), host=self.host)
            row.require(now_least - most < 1.05 and now_most - least > 0.95,
                        f"the clock did not step: it was {least} to {most} s ahead, then {now_least} to {now_most}")
            row.require(n > 40, f"only {n} steps")
            row.require(int(row.said["round_trips"]) == counted["exchanges"], "not every exchange counted")
            # a step would be a sample of at least that
            for metric in ("turnaround", "server"):
                worst = server.rows(f"SELECT max(from_ms) AS ms FROM kasm_latency.histogram('{metric}', "
                                    f"'{self.host.addr}')")[0]["ms"]
                row.require(float(worst) < 1000 * min(map(abs, self.STEPS)), f"a {metric} sample of {worst} ms")
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


def named_first(cause, other):
    """If it is flagged, the reason names one cause before the other."""
    def check(row):
        reason = row.said.get("reason") or cause
        row.require(cause in reason and other not in reason[:reason.index(cause)],
                    f"the reason does not name {cause} first" + row.because())
    return check


def works(queries, ms):
    """Launches of so many queries, with so much work before each, or a third
    more: for some seconds, in which there are 20 ceilings at least."""
    launches = min(40, max(3, round(7000 / (queries * ms * 1.17 + 50))))
    return ["--queries", str(queries), "--launches", str(launches), "--pause", "0.03",
            "--think", str(ms / 1000), "--vary", "0.35"]


def two_behind(more):
    """Through one pgbouncer: near ones, some from 25 and some from 120 ms, of
    one more than of the other."""
    some = [("--launches", "10", "--queries", "4")]
    return Pgbouncer(18, f"18 one pgbouncer for near, 25 ms and 120 ms, more from {more}", 0.4, 25, "unproven",
                     some * (1 if more == 120 else 2), farther_ms=120, farther_clients=some * (2 if more == 120 else 1),
                     near_clients=[("--launches", "50", "--pause", "0.1")], words="pooler or proxy", hidden=True)


def shared(rtt_ms, share, near, far):
    """Of the blocks that come through one pgbouncer so many are near, three
    times so many far.  Each of the latter is of 6 exchanges."""
    return Pgbouncer(18, f"18 one pgbouncer for near and far, {share} % of blocks from {rtt_ms} ms", 0.4, rtt_ms, "unproven",
                     [("--launches", str(far), "--connections", "3", "--queries", "4")],
                     near_clients=[("--launches", str(near), "--pause", "0.1")], words="pooler or proxy", hidden=True)


FEW = ("--launches", "5", "--pause", "0.05")
MANY = ("--launches", "40", "--pause", "0.02")
FAR = ("--launches", "4", "--connections", "3", "--queries", "4")
NEAR = ("--launches", "20", "--pause", "0.02")
DISTURBED = ("--seconds", "10", "--pause", "0.05")
# a path that is near, whatever its client does
FINE = ("in_band", "slow_turnaround")
THINK = [(5, "in_band"), (20, "slow_turnaround"), (35, "slow_turnaround"), (60, "slow_turnaround")]
WORK = [(queries, ms) for queries in (3, 10, 20, 40) for ms in (5, 12, 20, 35, 60)]
SHARES = [(50, 30, 10), (28, 54, 7), (10, 54, 2), (5, 57, 1)]
PIPELINE = "\\startpipeline\n" + "SELECT 1;\n" * 10 + "\\endpipeline\n"
NOISE = {"jitter_ms": 5, "loss": 0.02, "reorder": 0.02}

SCENARIOS = [
    *[Launches(1, f"1 thinks {ms} ms, in transactions", 0.4, verdict, *FEW, "--think", str(ms / 1000))
      for ms, verdict in THINK],
    *[Launches(1, f"1 thinks {ms} ms, in autocommit", 0.4, "floor_only", *FEW, "--think", str(ms / 1000),
               "--autocommit") for ms, _ in THINK],
    Pooled(2, "2 a pooled connection, a query every 3 s", 0.4, FINE,
           "--seconds", "120", "--queries", "1", "--pause", "3"),
    *[Launches(3, f"3 at {ms:g} ms", ms, verdict, *FEW)
      for ms, verdict in ((0.5, "in_band"), (2, "in_band"), (8.5, FINE), (11.5, "out_of_band"), (25, "out_of_band"),
                          (150, "out_of_band"))],
    Pgbouncer(4, "4 pgbouncer beside the server, SQLAlchemy and 20 in autocommit", 0.3, 120, "unproven",
              [("--launches", "4", "--sqlalchemy"),
               ("--launches", "4", "--autocommit", "--connections", "20")], words="pooler or proxy", hidden=True),
    Pgbouncer(4, "4 pgbouncer beside the server, 20 in autocommit", 0.3, 120, "floor_only",
              [("--launches", "4", "--autocommit", "--connections", "20")]),
    Pgbouncer(4, "4 pgbouncer beside the application", 120, 120, "out_of_band",
              [("--launches", "3", "--sqlalchemy")]),
    Socat(5, "5 a TCP proxy beside the server", 0.3, 60, "unproven", [("--launches", "5")],
          words="pooler or proxy", hidden=True),
    Nat(5, "5 near and far behind one address"),
    Optimist(22, "22 acknowledges what it has not received"),
    PathChange(6, "6 a path",
               {"name": "of 1 ms ...", "rtt_ms": 1, "connects": True, "verdict": "in_band", "seconds": 20},
               {"name": "becomes 25 ms under an open connection ...", "rtt_ms": 25, "verdict": "unproven",
                "hidden": True, "floor_ms": 1, "seconds": 150},
               {"name": "and one client reconnects ...", "rtt_ms": 25, "connects": True, "verdict": "out_of_band",
                "seconds": 75},
               {"name": "and back, and one reconnects", "rtt_ms": 1, "connects": True, "verdict": "in_band",
                "seconds": 200}),
    PathChange(6, "6 under open connections a path",
               {"name": "of 1 ms ...", "rtt_ms": 1, "connects": True, "verdict": "in_band", "seconds": 20},
               {"name": "becomes 25 ms ...", "rtt_ms": 25, "verdict": "unproven", "hidden": True, "floor_ms": 1,
                "seconds": 150},
               {"name": "and 1 ms again", "rtt_ms": 1, "verdict": "in_band", "seconds": 200}),
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
    # half of what is near has gone to jitter, a busy client may use up the rest: that is slow, not far
    Launches(9, "9 loss, jitter and reordering, near", 3, FINE, *MANY, path=NOISE, slack_ms=3,
             check=at_least("retransmits", 1)),
    Launches(9, "9 loss, jitter and reordering, far", 25, "out_of_band", *MANY, path=NOISE, slack_ms=3,
             check=at_least("retransmits", 1)),
    # what the server takes is no part of a turnaround
    Launches(10, "10 bulk", 2, FINE, mode="bulk",
             check=both(at_most("turnaround_p50_ms", 50), at_least("server_p99_ms", 1000))),
    Launches(11, "11 a slow server", 0.5, FINE, mode="slow",
             check=both(at_least("server_p50_ms", 190), at_least("server_p99_ms", 285),
                        at_most("turnaround_p50_ms", 50))),
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
    *[Launches(16, f"16 SQLAlchemy, {queries} queries, works {ms} ms before each", 0.4, FINE, *works(queries, ms),
               "--sqlalchemy", check=Row.require_nothing_hidden) for queries, ms in WORK],
    # what a pause before every query and COMMIT hides cannot be seen from the server
    *[Launches(17, f"17 BEGIN by itself, {queries} queries, works {ms} ms before each", 0.4,
               FINE if ms < LIMIT_MS / 1.35 else (*FINE, "unproven"), *works(queries, ms), "--begin",
               check=named_first("pauses", "pooler")) for queries, ms in WORK],
    *[Launches(17, f"17 asyncpg, {queries} queries, works {ms} ms before each", 0.4,
               FINE if ms < LIMIT_MS / 1.35 else (*FINE, "unproven"), *works(queries, ms), mode="asyncpg",
               module="asyncpg", dsn={"sslmode": "disable"}, check=named_first("pauses", "pooler"))
      for queries, ms in ((3, 12), (10, 5), (10, 20), (20, 35), (40, 12), (3, 60))],
    *[two_behind(more) for more in (25, 120)],
    *[shared(rtt_ms, *share) for rtt_ms in (120, 25) for share in SHARES],
    *[between(19, f"19 {name}, only from {rtt_ms} ms", 0.4, rtt_ms, "unproven", [FAR], words="pooler or proxy",
              hidden=True)
      for between, name in ((Pgbouncer, "pgbouncer"), (Haproxy, "haproxy"), (Socat, "socat")) for rtt_ms in (120, 25)],
    *[Pgbouncer(19, f"19 pgbouncer, only from {rtt_ms} ms, SQLAlchemy works 12 ms before each query", 0.4, rtt_ms,
                "unproven", [("--launches", "5", "--connections", "2", "--think", "0.012", "--vary", "0.35", "--sqlalchemy")],
                words="pooler or proxy", hidden=True) for rtt_ms in (120, 25)],
    *[between(20, f"20 {name}, only from nearby", 0.4, 0.4, "in_band", [NEAR])
      for between, name in ((Pgbouncer, "pgbouncer"), (Haproxy, "haproxy"))],
    # whatever else is said of these, it is no distance
    *[Stopped(21, f"21 stopped for 200 ms every second, {queries} queries", 0.4, (*FINE, "unproven"), *DISTURBED,
              "--queries", str(queries), check=Row.require_nothing_hidden) for queries in (10, 1)],
    *[Crowded(21, f"21 shares its processor with four busy loops, works {ms} ms before each query", 0.4,
              (*FINE, "unproven"), *DISTURBED, "--think", str(ms / 1000), "--busy", check=Row.require_nothing_hidden)
      for ms in (0, 0.5, 3)],
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


def chosen_here(numbers):
    """Those of these numbers, or all, without what cannot run on this machine."""
    chosen = []
    for scenario in SCENARIOS:
        if not numbers or str(scenario.number) in numbers:
            lacks = scenario.lacks()
            if lacks is None:
                chosen.append(scenario)
            else:
                print(f"# NOT RUN: {scenario.name} ({lacks})")
    return chosen


def main(bindir, user, *numbers):
    chosen = chosen_here(numbers)
    server = lab.Server(bindir, user, settings="max_connections = 300\nautovacuum = off")
    try:
        server.start()
        server.psql("CREATE ROLE scram LOGIN PASSWORD 'secret'")
        for scenario in chosen:
            scenario.prepare(bindir, user)
        with ThreadPoolExecutor(SIDE_BY_SIDE + sum(scenario.slow for scenario in chosen)) as pool:
            list(pool.map(lambda scenario: run(scenario, server),
                          sorted(chosen, key=lambda s: not s.slow)))
    finally:
        server.remove()

    rows = [row for s in chosen for row in s.rows]
    table(rows)
    for row in rows:
        for problem in row.problems:
            print(f"NOT OK: {row.name}: {problem}")
    wrong = {"false flags": sum(row.false_flag() for row in rows), "misses": sum(row.miss() for row in rows),
             "warnings": sum(row.warning() for row in rows)}
    for what, n in wrong.items():
        print(f"{what}: {n}")
    return 1 if any(wrong.values()) or any(row.problems for row in rows) else 0


if __name__ == "__main__":
    lab.stop_on_signals()
    if os.environ.get(lab.MARK) != "inside":
        reason = lab.why_not()
        if reason is not None:
            print(f"no lab here: {reason}")
            sys.exit(77)
    lab.enter()
    sys.exit(main(*sys.argv[1:]))
