"""What kasm_latency costs, beside what DBAs accept already.

    bench.py BINDIR USER guard      instructions of an exchange, a row and a
                                    connection, held against the budget
    bench.py BINDIR USER            the same for other extensions, and all
                                    tables below but many_open
    bench.py BINDIR USER TABLE ...  some of them alone: reading, forecasting,
                                    connects, readers, many_open, looks,
                                    exchanging (system calls and wall clock)

Instructions are those that callgrind counts in one backend, user space; it
does not see clock reads, which are counted apart.  What is timed is timed in
turns: each time is held against the one of the same round, and of these ratios
the median is shown.  Exits with 77 where valgrind is missing.
"""
import asyncio
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from rawclient import Connection, query  # noqa: E402

# what an exchange, a row and a connection may add
BUDGET = {"instructions": 200, "clock reads": 2, "row": 5, "connection": 0.02, "system calls": 0.02}
# Ratios of wall clock, far enough off that other work on the machine breaks none:
# connections to those of the bare server, exchanges beside readers of our views to
# exchanges beside as many of pg_stat_activity
BUDGET |= {"connects": 0.9, "readers": 0.8}
# with 5,000 connections open: KiB that a connection adds to its backend's memory and
# page tables, microseconds of a look, and the time to read them as a multiple of that of
# pg_stat_activity, of which the view is made
BUDGET |= {"backend": 64, "look": 1000, "read": 3}
SERVERS = {
    "bare": "",
    "kasm_latency": "kasm_latency",
    "pg_stat_statements": "pg_stat_statements",
    "pg_stat_kcache": "pg_stat_statements,pg_stat_kcache",
    "pg_wait_sampling": "pg_wait_sampling",
}
SETTINGS = "autovacuum = off\njit = off\nmax_parallel_workers_per_gather = 0\nmax_wal_senders = 0"
FILL = "CREATE FUNCTION fill(int, int) RETURNS void LANGUAGE c AS 'kasm_latency', 'kasm_latency_test_fill'"
failures = []


def say(text=""):
    print(text, flush=True)


def require(condition, problem):
    if not condition:
        failures.append(problem)


class UnderCallgrind(lab.Server):
    """A server all of whose backends are counted, from their beginning on."""

    def start(self):
        self.process = subprocess.Popen(
            [*lab.as_user(self.user), "valgrind", "-q", "--tool=callgrind", "--trace-children=yes",
             "--zero-before=pq_init", f"--callgrind-out-file={self.dir}/callgrind.%p",
             "postgres", "-D", self.data],
            env=self.environ, cwd=self.dir, stdin=subprocess.DEVNULL,
            stdout=open(self.log, "w"), stderr=subprocess.STDOUT)

        def answers():
            return subprocess.run(["pg_isready", "-q"], env=self.environ).returncode == 0
        if not lab.wait_until(answers, 120):
            raise RuntimeError("the server did not start: " + self.log_text())
        self.prepare()

    def counts(self, pid):
        """Of a backend that has ended: how often it waited, minus its
        instructions, and its clock reads."""
        path = f"{self.dir}/callgrind.{pid}"
        if not lab.wait_until(lambda: os.path.exists(path) and "totals:" in open(path).read(), 60):
            raise RuntimeError(f"no counts of backend {pid}")
        text = open(path).read()
        names, reads, waits, callee = {}, 0, 0, None
        for line in text.splitlines():
            if line.startswith("cfn="):
                number, name = re.match(r"cfn=\((\d+)\)(?: (.*))?", line).groups()
                callee = names.setdefault(number, name)
            elif line.startswith("fn="):
                number, name = re.match(r"fn=\((\d+)\)(?: (.*))?", line).groups()
                names.setdefault(number, name)
            elif line.startswith("calls=") and callee and re.match(
                    r"_*(vdso_)?(gettimeofday|clock_gettime)", callee):
                reads += int(line[6:].split()[0])
            elif line.startswith("calls=") and callee == "WaitEventSetWait":
                waits += int(line[6:].split()[0])
        return waits, -int(re.search(r"^totals: (\d+)", text, re.M).group(1)), reads

    def stop(self):
        if self.process.poll() is None:
            with open(self.data + "/postmaster.pid") as pidfile:
                os.kill(int(pidfile.readline()), 2)
            self.process.wait()


def connect(server):
    import psycopg
    return psycopg.connect(lab.dsn("127.0.0.1", user="postgres", dbname="postgres", port=server.port,
                                   sslmode="disable"),
                           autocommit=True, prepare_threshold=0)


def point_selects(conn, n):
    """So many prepared point selects, each sent when the backend sleeps, so
    that it always has to wait for one: otherwise that would be chance, and a
    wait is some 400 instructions and two system calls."""
    stat = f"/proc/{conn.info.backend_pid}/stat"
    for _ in range(n):
        while open(stat).read().rsplit(") ", 1)[1][0] != "S":
            time.sleep(0.0002)
        conn.execute("SELECT relname FROM pg_class WHERE oid = %s::oid", (1259,)).fetchone()


def exchanges(server, n):
    """Point selects on a connection of its own; its backend's pid."""
    with connect(server) as conn:
        point_selects(conn, n)
        return conn.info.backend_pid


def rows(server, n):
    with connect(server) as conn:
        pid = conn.info.backend_pid
        conn.execute(f"SELECT g FROM generate_series(1, {n}) AS g").fetchall()
    return pid


def slope(server, work, short, long, key=None):
    """Per unit of work, as the difference of a long and a short run.  Of each
    the one of three that waited most often, and of such the shortest: what
    comes now and then (a fold once a minute) comes too often in a run this
    slow, and a wait that was not needed is missing."""
    (_, few, few_reads), (_, many, many_reads) = (
        max((server.counts(work(server, n)) for _ in range(3)), key=key) for n in (short, long))
    return (few - many) / (long - short), (many_reads - few_reads) / (long - short)


def count_instructions(bindir, user, preload, short, long):
    server = UnderCallgrind(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload=preload,
                            # PostgreSQL reports counts once a second, which in a
                            # run this slow is every few exchanges
                            settings=SETTINGS + "\ntrack_counts = off")
    try:
        server.start()
        exchanges(server, 10)  # the caches that backends share
        exchange, reads = slope(server, exchanges, short, long)
        row, _ = slope(server, rows, 1000, 21000, key=lambda counts: counts[1])
        connection = statistics.median(-server.counts(exchanges(server, 1))[1] for _ in range(5))
        return {"exchange": exchange, "clock reads": reads, "row": row, "connection": connection}
    finally:
        server.remove()


def table(title, lines):
    say(title)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        say("  " + "  ".join([line[0].ljust(widths[0])]
                             + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]))
    say()


def instructions(bindir, user, names, short, long):
    counted = {name: count_instructions(bindir, user, SERVERS[name], short, long) for name in names}
    bare = counted["bare"]
    lines = [["", "exchange", "added", "clock reads", "added", "row", "added", "connection", "added"]]
    for name in names:
        count, line = counted[name], [name]
        for what, form in (("exchange", "{:,.0f}"), ("clock reads", "{:.2f}"), ("row", "{:,.1f}"),
                           ("connection", "{:,.0f}")):
            added = count[what] - bare[what]
            line += [form.format(count[what]),
                     "" if count is bare else
                     f"{added / bare[what]:+.2%}" if what == "connection" else ("+" + form).format(added)]
        lines.append(line)
    table("Instructions in one backend (callgrind): per exchange of a prepared point select, per row of a\n"
          "large result, per connection with one query", lines)
    ours = counted["kasm_latency"]
    for what, budget in (("exchange", BUDGET["instructions"]), ("clock reads", BUDGET["clock reads"]),
                         ("row", BUDGET["row"])):
        added = ours[what] - bare[what]
        # the clocks are read again where a busy machine came between the two
        require(added <= budget + (0.05 if what == "clock reads" else 0), f"an exchange or row adds {added:.2f} {what}, the budget is {budget}")
    added = ours["connection"] / bare["connection"] - 1
    require(added <= BUDGET["connection"], f"a connection adds {added:.2%}")


def start_all(bindir, user):
    servers = {name: lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload=preload,
                                settings=SETTINGS + "\nmax_connections = 100\nshared_buffers = 64MB")
               for name, preload in SERVERS.items()}
    for server in servers.values():
        server.start()
        server.command("pgbench", "-i", "-q", "-s", "5", "-p", str(server.port), "postgres")
    return servers


def turns(names, rounds):
    """All names in each round, in another order each time: whoever comes behind
    another may find the machine as that one left it."""
    for number in range(rounds):
        order = list(names)
        random.Random(number).shuffle(order)
        yield from order


def ratios(rates, name, base):
    """Median of one's rate to the other's of the same round; and it with its
    quartiles in words."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(rates[name], rates[base])], n=4)
    return middle, f"{middle:.3f} ({low:.3f}-{high:.3f})"


def pgbench(server, *words):
    """Its transactions a second."""
    output = server.command("pgbench", "-n", *words, "-h", "127.0.0.1", "-p", str(server.port), "postgres")
    return float(re.search(r"tps = ([\d.]+)", output).group(1))


def script(server, name, *queries):
    path = os.path.join(server.dir, name)
    with open(path, "w") as file:
        file.writelines(query + ";\n" for query in queries)
    return path


def system_calls(servers):
    lines = [["", "per exchange", "added"]]
    per = {}
    n = 1500
    for name, server in servers.items():
        with connect(server) as conn:
            point_selects(conn, 100)
            path = os.path.join(server.dir, "strace")
            strace = subprocess.Popen(["strace", "-qq", "-c", "-p", str(conn.info.backend_pid), "-o", path],
                                      stderr=subprocess.DEVNULL)
            status = f"/proc/{conn.info.backend_pid}/status"
            lab.wait_until(lambda: f"TracerPid:\t{strace.pid}" in open(status).read())
            point_selects(conn, n)
            strace.send_signal(2)
            strace.wait()
        total = [line.split() for line in open(path) if line.rstrip().endswith("total")][-1]
        per[name] = int(total[3 if len(total) > 4 else 2]) / n
        lines.append([name, f"{per[name]:.3f}", "" if name == "bare" else f"{per[name] - per['bare']:+.3f}"])
    table("System calls of one backend (strace)", lines)
    added = per["kasm_latency"] - per["bare"]
    require(added <= BUDGET["system calls"], f"an exchange adds {added:.3f} system calls")


def wall_clock(servers, pairs=30):
    lines = [["ratio of pgbench -S to bare, median (quartiles)"] + [f"{n} clients" for n in (1, 8, 64)]]
    lines += [[name] for name in servers if name != "bare"]
    for clients in (1, 8, 64):
        rates = {name: [] for name in servers}
        for name in turns(servers, pairs):
            rates[name].append(pgbench(servers[name], "-S", "-M", "prepared", "-t", str(6400 // clients),
                                       "-c", str(clients), "-j", "1"))
        for line in lines[1:]:
            line.append(ratios(rates, line[0], "bare")[1])
    table(f"Wall clock: {pairs} interleaved slices of 6,400 queries each", lines)


def exchanging(bindir, user):
    servers = start_all(bindir, user)
    try:
        system_calls(servers)
        wall_clock(servers)
    finally:
        for server in servers.values():
            server.remove()


def connects(bindir, user, rounds=20, each=6):
    """Connections with one query each, 16 at a time, without TLS, which would hide
    what we add.  pgbench waits for each connect, so that takes 16 of its threads."""
    settings = SETTINGS + "\nmax_connections = 100\nshared_buffers = 64MB"
    history = "\nkasm_latency.history_database = 'postgres'\nkasm_latency.history_interval = 1min"
    servers = {"bare": ("", ""), "kasm_latency": ("kasm_latency", history),
               "kasm_latency, max_clients = 100000": ("kasm_latency", history + "\nkasm_latency.max_clients = 100000"),
               "pg_stat_statements": ("pg_stat_statements", ""),
               "kasm_latency and pg_stat_statements": ("kasm_latency,pg_stat_statements", history)}
    running, rates = {}, {name: [] for name in servers}
    try:
        for name, (preload, more) in servers.items():
            running[name] = server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload=preload,
                                                settings=settings + more)
            server.environ["PGSSLMODE"] = "disable"
            server.start()
            script(server, "one.sql", "SELECT 1")
        for name in turns(servers, rounds):
            rates[name].append(pgbench(running[name], "-C", "-f", "one.sql", "-c", "16", "-j", "16", "-t", str(each)))
        for name, server in running.items():
            if "kasm_latency" in name:
                # or a setting was misspelt, and nothing ran beside
                found = server.rows("SELECT watcher_pid, (SELECT count(*) FROM kasm_latency.history) AS rows FROM kasm_latency.info")[0]
                require(found["watcher_pid"] and int(found["rows"]) > 0, f"{name} had no watcher or no history: {found}")
    finally:
        for server in running.values():
            server.remove()
    lines = [["", "a second", "ratio to bare (quartiles)"]]
    for name in servers:
        middle, words = ratios(rates, name, "bare")
        lines.append([name, f"{statistics.median(rates[name]):.0f}", "" if name == "bare" else words])
        require(middle >= BUDGET["connects"], f"{name} makes {middle:.3f} times the connections of bare")
    table(f"Connections with one query each, 16 at a time: {rounds} interleaved slices of {16 * each}", lines)


def readers(bindir, user, rounds=15, clients=64, n=2, each=200):
    """Exchanges while others read in a loop: all our views, or what is read by other
    monitoring.  Of the two cores that there may be any reader takes its part; so ours
    are held against those of pg_stat_activity."""
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload="kasm_latency,pg_stat_statements",
                        settings=SETTINGS + "\nmax_connections = 100\nshared_buffers = 64MB")
    server.environ["PGSSLMODE"] = "disable"
    beside = None
    try:
        server.start()
        server.command("pgbench", "-i", "-q", "-s", "5", "postgres")
        server.psql("CREATE ROLE reader LOGIN IN ROLE pg_read_all_stats")
        views = [row["name"] for row in server.rows(
            "SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'kasm_latency'::regnamespace AND relkind = 'v' ORDER BY 1")]
        require(len(views) >= 10, f"these are not all views: {views}")
        loops = {"nobody": [], "all views of kasm_latency": views, "pg_stat_activity": ["pg_stat_activity"],
                 "pg_stat_statements": ["pg_stat_statements"]}
        for name, relations in loops.items():
            script(server, name, *(f"SELECT * FROM {relation}" for relation in relations))

        def read():
            """How often the readers have read."""
            return int(server.rows("SELECT coalesce(sum(round_trips), 0) AS n FROM kasm_latency.totals WHERE username = 'reader'")[0]["n"])

        rates, reads = {name: [] for name in loops}, {name: [] for name in loops}
        for name in turns(loops, rounds):
            before = read()
            if loops[name]:
                beside = subprocess.Popen(
                    [*lab.as_user(user), "pgbench", "-n", "-U", "reader", "-f", name, "-c", str(n), "-j", str(n), "-T", "3600",
                     "-h", "127.0.0.1", "-p", str(server.port), "postgres"],
                    env=server.environ, cwd=server.dir, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                lab.wait_until(lambda: read() >= before + 2 * n)
                before = read()
            began = time.monotonic()
            rates[name].append(pgbench(server, "-S", "-c", str(clients), "-j", "2", "-t", str(each)))
            reads[name].append((read() - before) / (time.monotonic() - began))
            if beside:
                require(beside.poll() is None and reads[name][-1] > 0, f"{name}: nobody read")
                lab.stop(beside)
                beside = None
    finally:
        if beside:
            lab.stop(beside)
        server.remove()
    lines = [["read meanwhile", "reads/s", "exchanges/s", "ratio to nobody (quartiles)", "ratio to pg_stat_activity"]]
    for name in loops:
        to_nobody, to_others = ratios(rates, name, "nobody"), ratios(rates, name, "pg_stat_activity")
        lines.append([name, f"{statistics.median(reads[name]):.0f}", f"{statistics.median(rates[name]):,.0f}",
                      "" if name == "nobody" else to_nobody[1], "" if name in ("nobody", "pg_stat_activity") else to_others[1]])
        if loops[name] == views:
            require(to_others[0] >= BUDGET["readers"], f"beside our readers there are {to_others[0]:.3f} times the exchanges of others'")
    table(f"{clients} clients of pgbench -S, and {n} readers in a loop: {rounds} interleaved slices of {clients * each:,} queries", lines)


def shortest_ms(conn, query):
    """From the query to the last row, the shortest of five times; and the rows."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        rows = conn.execute(query).fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return min(times), rows


def read_ms(conn, relation, least):
    """The same of a relation, which has so many rows at the least."""
    ms, rows = shortest_ms(conn, f"SELECT * FROM {relation}")
    require(len(rows) >= least, f"{relation} has {len(rows)} rows")
    return ms


def reading(bindir, user):
    """The views on an hour of full cells, and 500 live connections."""
    relations = ("clients", "hosts", "flagged", "totals")
    lines = [["clients"] + list(relations) + ["us per client"]]
    per_client = {}
    for clients in (200, 1000, 5000):
        server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                            settings=SETTINGS + f"\nmax_connections = 520\nkasm_latency.max_clients = {clients + 10}"
                                                "\nkasm_latency.recent = '1h'")
        live = []
        try:
            server.start()
            server.psql(FILL, f"SELECT fill({clients}, 1)")
            live = [connect(server) for _ in range(500)]
            line, took = [str(clients)], {}
            for relation in relations:
                with connect(server) as conn:
                    took[relation] = read_ms(conn, "kasm_latency." + relation, clients if relation in ("clients", "totals") else 1)
                line.append(f"{took[relation]:.1f} ms")
                if clients == 200:
                    require(took[relation] < 50, f"{relation} takes {took[relation]:.1f} ms on 200 clients")
            per_client[clients] = {r: took[r] / clients for r in relations}
            lines.append(line + [f"{1000 * max(per_client[clients].values()):.0f}"])
        finally:
            for conn in live:
                conn.close()
            server.remove()
    table("Reading, an hour of full cells, 500 live connections", lines)
    for relation in relations:
        costs = [per_client[n][relation] for n in per_client]
        require(costs[-1] <= 1.5 * costs[0], f"{relation} does not grow linearly: {costs}")


def forecasting(bindir, user, hosts=50):
    """load_forecast() where many Web Apps are: two places and five loads of
    each, simulated.  That of a pool in trouble takes more launches than that of
    one with room."""
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                        settings=SETTINGS + f"\nkasm_latency.max_clients = {hosts + 10}\nkasm_latency.recent = '15min'")
    lines = [["", "rows", "waiting", "took"]]
    try:
        server.start()
        server.psql(FILL, f"SELECT fill({hosts}, {hosts})")
        with connect(server) as conn:
            (busy,) = conn.execute("SELECT max(busy_connections) FROM kasm_latency.load_forecast(times => '{1}')").fetchone()
            for name, arguments in ((f"{hosts} hosts, as called by default", ""),
                                    ("the same, nine tenths of a pool busy at each load",
                                     f"times => array_fill(0.9 * 30 / {busy}::double precision, ARRAY[5])")):
                ms, rows = shortest_ms(conn, f"SELECT utilisation FROM kasm_latency.load_forecast({arguments})")
                lines.append([name, str(len(rows)), str(sum(0.5 <= row[0] < 1 for row in rows)), f"{ms:.0f} ms"])
                require(len(rows) == 10 * hosts, f"load_forecast has {len(rows)} rows")
                require(arguments or ms < 300, f"load_forecast of {hosts} hosts takes {ms:.0f} ms")
    finally:
        server.remove()
    table("load_forecast()", lines)


def room_for(n):
    """So many connections, or as many as this machine has room for: a socket here and
    some 3 MiB there for each."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with open("/proc/meminfo") as meminfo:
        kb = int(re.search(r"^MemAvailable:\s+(\d+)", meminfo.read(), re.M)[1])
    return min(n, files - 100, kb // 3072)


async def hold_open(held, port, n, hosts):
    """Hold that many connections from so many addresses, on which a query has run."""
    at_once = asyncio.Semaphore(8)

    async def one(number):
        async with at_once:
            connection = await Connection.open(port, local_addr=f"127.1.0.{1 + number % hosts}")
            await connection.query("SELECT relname FROM pg_class WHERE oid = 1259")
            held.append(connection)
    await asyncio.gather(*(one(number) for number in range(len(held), n)))


async def one_lock(held, n):
    """The first of the connections holds a lock that the next n wait for; what lets
    them go on."""
    await held[0].query("SELECT pg_advisory_lock(1)")
    for connection in held[1:n + 1]:
        connection.writer.write(query("SELECT pg_advisory_xact_lock(1)"))

    async def let_go():
        await held[0].query("SELECT pg_advisory_unlock(1)")
        for connection in held[1:n + 1]:
            await connection.answer()
    return let_go


def memory(pids):
    """KiB of processes in all, by what; what several share counts once."""
    total = dict.fromkeys(("Pss_Anon", "VmPTE"), 0)
    for pid in pids:
        for name in ("smaps_rollup", "status"):
            with open(f"/proc/{pid}/{name}") as file:
                for key, kb in re.findall(r"^(Pss_Anon|VmPTE):\s+(\d+)", file.read(), re.M):
                    total[key] += int(kb)
    return total


def look_us(pid, n=200):
    """Microseconds of CPU from one look of the watcher to the next: it sleeps once."""
    def so_far():
        with open(f"/proc/{pid}/status") as status, open(f"/proc/{pid}/schedstat") as schedstat:
            return (int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.M)[1]),
                    int(schedstat.read().split()[0]) / 1000)
    began, us = so_far()
    if not lab.wait_until(lambda: so_far()[0] >= began + n, 120):
        raise RuntimeError("the watcher does not look")
    ended, us_then = so_far()
    return (us_then - us) / (ended - began)


def backends_memory(server, n):
    """KiB of private memory and of page tables of one of so many backends."""
    pids = [row["pid"] for row in server.rows(
        "SELECT pid FROM pg_stat_activity WHERE client_addr << '127.1.0.0/16'")]
    require(len(pids) == n, f"{len(pids)} of {n} connections are open")
    kb = memory(pids)
    return {"private memory of a backend, KiB": kb["Pss_Anon"] / n, "page tables of a backend, KiB": kb["VmPTE"] / n}


def many_open(bindir, user, n=5000, few=500, hosts=50, waiting=100):
    """Connections that are open, and idle, from fifty hosts: what they and we take.
    With a tenth of them, to have it sooner, what they take in a server without us."""
    n = room_for(n)
    few = min(few, n)
    relations = ("kasm_latency.connections", "kasm_latency.hosts", "pg_stat_activity")
    took, used = {}, {}

    def watch_and_read(reader, watcher, what, open_now):
        look = look_us(watcher)
        require(look <= BUDGET["look"], f"a look takes {look:.0f} us, {what}")
        ms = {relation: read_ms(reader, relation, min(hosts, open_now) if relation == relations[1] else open_now)
              for relation in relations}
        took[what] = [f"{look:.0f} us"] + [f"{one:,.1f} ms" for one in ms.values()]
        if open_now > 0:
            times = ms[relations[0]] / ms[relations[2]]
            require(times <= BUDGET["read"], f"a read of {relations[0]} takes {times:.1f} times one of {relations[2]}")

    async def look_at(server, name):
        held = []
        (shared,) = server.rows("SELECT sum(allocated_size) AS bytes FROM pg_shmem_allocations")
        if name == "kasm_latency":
            (watcher,) = (row["watcher_pid"] for row in server.rows("SELECT watcher_pid FROM kasm_latency.info"))
            # before all others, as psycopg waits by select(), which knows a thousand sockets
            reader = connect(server)
            watch_and_read(reader, watcher, "none open", 0)
        await hold_open(held, server.port, few, hosts)
        used[name] = {"shared memory, MiB": int(shared["bytes"]) / 2**20, **backends_memory(server, few)}
        if name == "kasm_latency":
            await hold_open(held, server.port, n, hosts)
            used["all"] = {"shared memory, MiB": used[name]["shared memory, MiB"], **backends_memory(server, n)}
            watch_and_read(reader, watcher, f"{n:,} open", n)
            reader.close()
            let_go = await one_lock(held, waiting)
            count = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            if not lab.wait_until(lambda: server.rows(count)[0]["n"] == str(waiting), 60):
                raise RuntimeError("they do not wait for a lock")
            took[f"and {waiting} of them wait for one lock"] = [f"{look_us(watcher, 20):,.0f} us"] + [""] * len(relations)
            await let_go()
        for connection in held:
            await connection.close()

    for name in ("bare", "kasm_latency"):
        server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload="" if name == "bare" else name,
                            settings=SETTINGS + f"\nmax_connections = {n + 100}\nshared_buffers = 64MB"
                            + ("" if name == "bare" else "\nkasm_latency.sample_locks = 10ms"))
        server.environ["PGCTLTIMEOUT"] = "600"
        try:
            server.start()
            asyncio.run(look_at(server, name))
        finally:
            server.remove()

    lines = [["", f"bare, {few}", f"kasm_latency, {few}", "added", f"kasm_latency, {n:,}"]]
    added = {what: used["kasm_latency"][what] - bare for what, bare in used["bare"].items()}
    for what, bare in used["bare"].items():
        lines.append([what, f"{bare:,.1f}", f"{used['kasm_latency'][what]:,.1f}", f"{added[what]:+.1f} ({added[what] / bare:+.1%})",
                      f"{used['all'][what]:,.1f}"])
    shared, *each = added.values()
    lines.append([f"added in all by {n:,}, MiB", "", "", f"{shared + n * sum(each) / 1024:+.1f}", ""])
    table(f"Memory with max_connections = {n + 100}, so many open from {hosts} addresses, that have run a query", lines)
    table("The watcher, and readers",
          [["", "CPU time of a look"] + [f"read {relation}" for relation in relations], *([what, *cells] for what, cells in took.items())])
    require(sum(each) <= BUDGET["backend"], f"a connection adds {sum(each):.0f} KiB to its backend")


def looks(bindir, user):
    """The watcher, from one look to the next, where nobody waits: a longer run
    less a shorter one, by the number of times that its process slept.  It walks
    over the places for backends, and reads the same of each, taken or not."""
    lines = [["max_connections", "instructions per look"]]
    for connections, budget in ((300, 20_000), (5000, 300_000)):
        counted = []
        for seconds in (2, 10):
            server = UnderCallgrind(bindir, user, port=lab.free_port(), listen="127.0.0.1", preload="kasm_latency",
                                    settings=SETTINGS + f"\nmax_connections = {connections}"
                                                        "\nkasm_latency.sample_locks = 10ms")
            try:
                server.start()
                pid = int(server.rows("SELECT watcher_pid FROM kasm_latency.info")[0]["watcher_pid"])
                time.sleep(seconds)
                server.stop()
                counted.append(server.counts(pid))
            finally:
                server.remove()
        (few, short, _), (many, long, _) = counted
        require(many - few > 100, f"the watcher slept {few} and {many} times")
        per_look = (short - long) / (many - few)
        require(per_look <= budget, f"a look over {connections} backends runs {per_look:.0f} instructions")
        lines.append([str(connections), f"{per_look:,.0f}"])
    table("The watcher, where nobody waits", lines)


TABLES = (reading, forecasting, connects, readers, many_open, looks, exchanging)
# opens 5,000 connections, which takes a quarter of an hour where processes start slowly
ONLY_IF_NAMED = (many_open,)


def main(bindir, user, *wanted):
    if shutil.which("valgrind") is None:
        say("valgrind is missing")
        return 77
    unknown = set(wanted) - {"guard"} - {one.__name__ for one in TABLES}
    if unknown:
        say("there is no table " + ", ".join(sorted(unknown)))
        return 2
    if "guard" in wanted:
        instructions(bindir, user, ["bare", "kasm_latency"], 50, 450)
    elif not wanted:
        instructions(bindir, user, list(SERVERS), 50, 450)
    for one in TABLES:
        if one.__name__ in wanted or not wanted and one not in ONLY_IF_NAMED:
            one(bindir, user)
    for failure in failures:
        say("OVER BUDGET: " + failure)
    return 1 if failures else 0


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(main(*sys.argv[1:]))
