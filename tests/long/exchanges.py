"""Ten million exchanges, counted by the clients that make them and by us: in
the end not one is lost or counted twice.

    exchanges.py BINDIR USER [EXCHANGES]

Meanwhile some clients are reset, and all; views are read, snapshots taken,
minutes folded; clients make room for others, and find none; pools come and
go; the server is restarted, and stopped by a fast shutdown under load.

Who counts what.  Most exchanges are those of clients.c, which knows by the
protocol alone what each of its requests is; the rest is pgbench's, libpq over
TLS, whose -t says how many transactions of a known script it makes.  Equal
have to be, in all and for each client that never made room: exchanges,
transactions and connections; the sums of the histograms of server times, of
turnarounds inside transactions and of blocks; the other turnarounds; and, once
all have left, the exchanges in chains.

Why that can be exact:
* An exchange is counted before its answer leaves, so when each client has
  its answer, and none asks, both sides have the same.  A reset is made then:
  what there was is read before it, and added to what there is in the end.  For
  one address its own clients pause alone, all others go on.  (Four more
  addresses are reset all the time and do not pause: nobody can know what was
  lost between reading and reset.  They may only have less than they did, and
  must not disturb the others.)
* In between, what we count of an address is at least what its clients had
  counted before the question, and at most what they have after it and one
  request under way on each connection.
* Who makes room is summed in "(overflow)", with others: so the sums are
  exact, and the clients by themselves where they are connected all the time.
  Our own questions come from one client that is.
* At the fast shutdown clients with simple queries are at work, and the others
  idle, some with their transactions open.  A request that was under way has
  begun or has not, and counts if it has: that says the server's log, where the
  FATAL of a connection has a STATEMENT if there was one.  It is the only word
  that is not the client's.
* No time is asserted, only how many there are; idle_after is so long that none
  is left out.
"""
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import psycopg2

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab")]
import lab  # noqa: E402
from checks import finish, problems, require  # noqa: E402
from soak import VIEWS  # noqa: E402

EXCHANGES = 10_000_000
SAY_EVERY_S = 10
MAX_CLIENTS = 40

# first address, addresses, connections, exchanges of a connection (0: it stays), what they ask
GROUPS = {
    "pool": ("127.1.0.1", 8, 16, 0, "mix"),
    "plain": ("127.1.1.1", 4, 8, 0, "plain"),
    "reset": ("127.1.2.1", 4, 4, 0, "mix"),
    "churn": ("127.2.0.1", 400, 6, 500, "mix"),
    "crowd": ("127.3.0.1", 48, 48, 0, "mix"),  # more than there is room for
}
STAYING = ["pool", "plain", "reset"]
ALWAYS_RESET = re.compile(r"127\.1\.2\.")
PINNED = re.compile(r"127\.1\.[01]\.")
AT_ONE_ADDRESS = 2  # connections, of those pinned

COUNTS = ["exchanges", "transactions", "stamped", "ceilings", "others", "bounds", "connections"]
SAID = """
SELECT host(f.client_addr) AS addr, f.round_trips AS exchanges, f.transactions,
       coalesce(kasm_latency_internal.count_from(f.server_times, 0), 0) AS stamped,
       coalesce(kasm_latency_internal.count_from(f.ceilings, 0), 0) AS ceilings, f.other_turnarounds AS others,
       coalesce(kasm_latency_internal.count_from(f.bounds, 0), 0) AS bounds, f.connections_made AS connections,
       f.chain_round_trips AS chained
FROM kasm_latency_internal.client_figures({since}) AS f LEFT JOIN pg_roles AS r ON r.oid = f.role_oid
WHERE f.overflow OR r.rolname = 'kasmapp'"""

# libpq's clients: each transaction of the script makes these
SCRIPT = """BEGIN;
SELECT 1;
SELECT 2;
COMMIT;
\\startpipeline
SELECT 1;
SELECT 2;
\\endpipeline
SELECT 3;
"""
OF_A_SCRIPT = {"exchanges": 6, "transactions": 3, "stamped": 6, "ceilings": 3, "others": 3, "bounds": 1}
BENCH_CLIENTS, BENCH_TIMES = 4, 250

SETTINGS = f"""
max_connections = 150
autovacuum = off
log_line_prefix = '%h '
kasm_latency.max_clients = {MAX_CLIENTS}
kasm_latency.idle_after = 1h
kasm_latency.sample_locks = 10ms
kasm_latency.history_database = 'postgres'
kasm_latency.history_interval = 1min
"""


def add(to, counts):
    for name in COUNTS:
        to[name] = to.get(name, 0) + counts.get(name, 0)


class Clients:
    """clients.c: commands, and what it has counted."""

    def __init__(self, server):
        words = [":".join(map(str, (name, *group))) for name, group in GROUPS.items()]
        self.had_begun = {}
        self.process = lab.popen(server.user, os.path.join(HERE, "clients"), str(server.port), "kasmapp", "kasm", *words,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the clients have ended, asked to {line}")
        return answer

    def tell(self, *lines):
        for line in lines:
            answer = self.ask(line)
            if answer != "done\n":
                raise RuntimeError(f"{line}: {answer}")

    def counts(self):
        """By address, with what the server's log says of those that were cut off."""
        said = {addr: dict(zip([*COUNTS, "cut"], counts)) for addr, counts in json.loads(self.ask("counts")).items()}
        for addr, n in self.had_begun.items():
            said[addr]["exchanges"] += n
        return said

    def end(self):
        self.process.stdin.close()
        self.process.wait(10)


class Beside(threading.Thread):
    """Something that is done over and over beside the load, and can be held."""

    def __init__(self, work, rest):
        super().__init__(daemon=True)
        self.rest = rest  # for so many times as long as the work took
        self.work, self.lock, self.over, self.times, self.problem = work, threading.Lock(), False, 0, None

    def run(self):
        while not self.over:
            with self.lock:
                began = time.monotonic()
                try:
                    self.work()
                    self.times += 1
                except Exception as error:  # told in the end, by the main thread
                    self.problem = self.problem or repr(error)
                    return
            time.sleep(0.05 + self.rest * (time.monotonic() - began))


class Exchanges:
    def __init__(self, bindir, user, exchanges):
        self.server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", settings=SETTINGS)
        self.exchanges, self.chance = exchanges, random.Random(1)
        self.kept = {}       # by address (None: all that have made room): counted before resets
        self.bench = {}      # of pgbench
        self.own = self.clients = None
        self.happened = dict.fromkeys(["resets of one", "resets of all", "looks", "crowds", "overflowed"], 0)
        self.crowd = False

    # ----- our own client, which is connected as long as anybody

    def connect(self):
        conn = psycopg2.connect(host=self.server.dir, port=self.server.port, user="postgres", dbname="postgres")
        conn.autocommit = True
        return conn

    def query(self, sql):
        with self.own.cursor() as cursor:
            cursor.execute(sql)
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    def prepare(self):
        self.server.start()
        self.own = self.connect()
        self.server.psql("CREATE UNLOGGED TABLE junk (a int)", "GRANT ALL ON junk TO kasmapp", options=["-d", "kasm"])
        # the log is for what we have to say; and a division by zero is what was asked for
        self.query("ALTER ROLE kasmapp SET log_min_messages = fatal; SELECT 1 AS one")
        # whoever was here only to prepare would be among those that make room
        self.query("SELECT kasm_latency.reset()")
        self.script = os.path.join(self.server.dir, "script")
        with open(self.script, "w") as script:
            script.write(SCRIPT)
        self.clients = Clients(self.server)
        self.beside = {"views": Beside(self.read_views, 4), "resets": Beside(self.reset_others, 9), "pgbench": Beside(self.run_bench, 0)}

    # ----- beside the load

    def read_views(self):
        with self.connect() as conn, conn.cursor() as cursor:
            for view in VIEWS:
                cursor.execute(f"SELECT * FROM kasm_latency.{view}")
                cursor.fetchall()
        conn.close()

    def reset_others(self):
        conn = self.connect()
        with conn.cursor() as cursor:
            for i in range(1, 5):
                cursor.execute(f"SELECT kasm_latency.reset('127.1.2.{i}')")
        conn.close()

    def run_bench(self):
        self.server.command("pgbench", "-n", "-h", "127.0.0.1", "-U", "kasmapp", "-M", "extended", "-c", str(BENCH_CLIENTS),
                            "-t", str(BENCH_TIMES), "-f", self.script, "kasm")
        n = BENCH_CLIENTS * BENCH_TIMES
        add(self.bench, {name: n * times for name, times in OF_A_SCRIPT.items()})
        add(self.bench, {"connections": BENCH_CLIENTS + 1})  # one to look whether it can

    def hold(self, *names):
        """Let these not begin anything, and wait until they have ended."""
        for name in names:
            self.beside[name].lock.acquire()

    def release(self, *names):
        for name in names:
            self.beside[name].lock.release()

    # ----- both counts

    def said(self, since="NULL"):
        """By address; those that made room under None."""
        return {row["addr"]: row for row in self.query(SAID.format(since=since))
                if row["addr"] is None or not ALWAYS_RESET.match(row["addr"])}

    def keep(self, said):
        for addr, row in said.items():
            add(self.kept.setdefault(addr, {}), row)

    def gone(self):
        return lab.wait_until(lambda: self.query("SELECT count(*) AS n FROM kasm_latency.connections "
                                                 "WHERE username = 'kasmapp'")[0]["n"] == 0, 60)

    def compare(self, when, all_left=False):
        """While nobody asks: ours, with what was kept at resets, and theirs."""
        if all_left:
            require(self.gone(), f"{when}: connections are left")
        theirs, said = self.clients.counts(), self.said()
        ours = {}
        for counts in [*said.values(), *self.kept.values()]:
            add(ours, counts)
        counted = dict(self.bench)
        for addr, counts in theirs.items():
            if not ALWAYS_RESET.match(addr):
                add(counted, counts)
            if PINNED.match(addr):
                mine = {}
                add(mine, said.get(addr, {}))
                add(mine, self.kept.get(addr, {}))
                require(mine == {name: counts[name] for name in COUNTS}, f"{when}, {addr}: {mine}, its clients {counts}")
        require(ours == counted, f"{when}: {ours}, the clients {counted}")
        if all_left:
            # in all, as a chain counts where it ends: who leaves the overflow may take one along
            chained, recorded = (sum(row[name] for row in said.values()) for name in ("chained", "exchanges"))
            require(chained == recorded, f"{when}: {recorded} exchanges since the last reset, {chained} in chains: {said}")
        for addr, row in self.resets().items():
            require(row["exchanges"] <= theirs.get(addr, {}).get("exchanges", 0), f"{when}: {addr} has more than its clients: {row}")
        print(f"{when}: {counted['exchanges']:,} exchanges by the clients, {ours['exchanges']:,} by us; "
              f"{ours['transactions']:,} transactions, {ours['stamped']:,} server times, {ours['ceilings'] + ours['others']:,} turnarounds, "
              f"{ours['bounds']:,} blocks, {ours['connections']:,} connections", flush=True)
        return counted["exchanges"]

    def resets(self):
        return {row["addr"]: row for row in self.query(SAID.format(since="NULL")) if row["addr"] and ALWAYS_RESET.match(row["addr"])}

    # ----- what happens

    def pause_all(self):
        self.hold("pgbench", "resets")
        self.clients.tell("pause all")

    def go_on(self):
        self.clients.tell(*(f"run {group}" for group in STAYING), "run churn")
        if self.crowd:
            self.clients.tell("run crowd")
        self.release("pgbench", "resets")

    def leave_all(self):
        # first those who could have others make room
        self.clients.tell("leave churn", "leave crowd", "leave all")

    def look(self):
        """In the midst of it: between what they had before and have after."""
        before, said, after = self.clients.counts(), self.said(), self.clients.counts()
        for addr in filter(PINNED.match, before):
            n = said[addr]["exchanges"] + self.kept.get(addr, {}).get("exchanges", 0)
            require(before[addr]["exchanges"] <= n <= after[addr]["exchanges"] + AT_ONE_ADDRESS,
                    f"{addr}: {n}, its clients had {before[addr]['exchanges']} before and have {after[addr]['exchanges']}")
        self.happened["looks"] += 1

    def reset_one(self):
        addr = f"127.1.{self.chance.choice(['0', '1'])}.{self.chance.randrange(1, 5)}"
        self.clients.tell(f"pause {addr}")
        self.keep({addr: self.said()[addr]})
        self.query(f"SELECT kasm_latency.reset('{addr}')")
        self.clients.tell(f"run {addr}")
        self.happened["resets of one"] += 1

    def note_overflow(self):
        self.happened["overflowed"] += self.query("SELECT overflowed FROM kasm_latency.info")[0]["overflowed"]

    def reset_all(self):
        self.pause_all()
        self.compare("before a reset of all")
        self.note_overflow()
        self.keep(self.said())
        self.query("SELECT kasm_latency.reset()")
        self.happened["resets of all"] += 1
        self.compare("and after it")
        self.go_on()

    def come_or_go(self):
        self.crowd = not self.crowd
        self.happened["crowds"] += self.crowd
        self.clients.tell("run crowd" if self.crowd else "leave crowd")

    def start_again(self):
        self.server.command("pg_ctl", "-D", self.server.data, "-l", self.server.log, "-w", "-s", "start")
        self.own = self.connect()
        saved = self.query("SELECT saved_at IS NOT NULL AS saved FROM kasm_latency.info")[0]["saved"]
        require(saved, "there are no saved statistics")

    def restart(self):
        """Everybody has left."""
        self.hold("views", "pgbench", "resets")
        self.leave_all()
        self.compare("before a restart", all_left=True)
        self.own.close()
        self.server.stop()
        self.start_again()
        self.compare("and after it", all_left=True)
        self.go_on()
        self.release("views")

    def fast_shutdown(self):
        """Some idle, and the others at work."""
        self.hold("views", "pgbench", "resets")
        self.clients.tell("pause pool", "pause churn", "pause crowd", "pause reset", "last all")
        end = len(self.server.log_text())
        self.server.stop()
        self.clients.tell("gone all")
        log = self.server.log_text()[end:].splitlines()
        self.own.close()
        self.start_again()
        # whose FATAL came in the middle of a statement
        died = [line for line in log if re.match(r"127\.\S+ FATAL:  terminating connection due to administrator command", line)]
        begun = Counter(re.findall(r"^(127\S+) STATEMENT:", "\n".join(log), re.M))
        counts = self.clients.counts()
        cut = sum(counts[addr]["cut"] for addr in counts)
        require(all(n <= counts[addr]["cut"] for addr, n in begun.items()), f"the log has {begun} statements, {counts}")
        self.clients.had_begun = begun
        print(f"a fast shutdown of {len(died)} connections, {cut} with a request under way, of which {begun.total()} had begun",
              flush=True)
        require(len(died) > 20 and begun, "nobody was there")
        self.compare("after a fast shutdown", all_left=True)
        self.go_on()
        self.release("views")

    def schedule(self):
        """At which part of all exchanges what happens: in order."""
        events = [(0.002 + i / 40, self.look) for i in range(40)]
        events += [(0.013 + i / 20, self.reset_one) for i in range(20)]
        events += [(0.02 + i / 16, self.come_or_go) for i in range(15)]
        events += [(0.22, self.reset_all), (0.56, self.reset_all), (0.36, self.restart), (0.72, self.fast_shutdown)]
        return sorted(events, key=lambda event: event[0])

    def work(self):
        began = said = time.monotonic()
        events, total = self.schedule(), 0
        self.clients.tell(*(f"run {group}" for group in STAYING), "run churn")
        for beside in self.beside.values():
            beside.start()
        while total < self.exchanges:
            time.sleep(0.2)
            total = self.bench.get("exchanges", 0) + sum(
                counts["exchanges"] for addr, counts in self.clients.counts().items() if not ALWAYS_RESET.match(addr))
            while events and total >= events[0][0] * self.exchanges:
                events.pop(0)[1]()
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                rate = total / (said - began)
                print(f"  {total:,} of {self.exchanges:,} exchanges, {rate:,.0f} per second, "
                      f"{max(self.exchanges - total, 0) / rate:.0f} s to go", flush=True)
        for action in (action for _, action in events):
            action()
        self.hold("views", "pgbench", "resets")
        self.leave_all()
        return time.monotonic() - began

    def end(self, seconds):
        total = self.compare("in the end", all_left=True)
        # folded into the cells of minutes as into the totals
        hour, said = self.said("'1 hour'"), self.said()
        for addr in filter(lambda addr: addr and PINNED.match(addr), said):
            require(hour[addr] == said[addr], f"{addr}: {hour[addr]} in the hour, {said[addr]} in all")
        self.note_overflow()
        snapshots = self.query("SELECT count(DISTINCT taken_at) AS n FROM kasm_latency.history")[0]["n"]
        self.own.close()
        self.server.stop()
        self.start_again()
        self.compare("after the last restart", all_left=True)
        for name, beside in self.beside.items():
            require(beside.problem is None, f"{name}: {beside.problem}")
            require(beside.times > 0, f"{name}: {beside.times} times")
        # but at the first start; and of a machine that is busy it may say that the verdict is another
        ours = [line for line in self.server.log_text().splitlines() if "kasm_latency: " in line
                and not re.search(r"no saved statistics|is \w+ now \(was", line)]
        require(not ours, f"the log has {ours[:3]}")
        require(self.server.log_text().count("no saved statistics") == 1, "it started empty again")
        bad = re.findall("PANIC|TRAP|terminated by signal", self.server.log_text())
        require(not bad, f"the log has {bad}")
        require(self.happened["overflowed"] > 100, "nobody made room")
        print(f"{total:,} exchanges in {seconds:.0f} s ({total / seconds:,.0f} per second), {self.bench['exchanges']:,} of them by libpq: "
              f"{'NOT OK' if problems else 'not one lost or counted twice'}; "
              + ", ".join(f"{n} {name}" for name, n in self.happened.items())
              + f", {snapshots} snapshots, " + ", ".join(f"{b.times} x {name}" for name, b in self.beside.items()), flush=True)

    def run(self):
        try:
            self.prepare()
            self.end(self.work())
        finally:
            if self.clients:
                self.clients.end()
            self.server.remove()
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(Exchanges(*sys.argv[1:3], int(sys.argv[3]) if len(sys.argv) > 3 else EXCHANGES).run())
