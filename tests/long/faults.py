"""What befalls a server, and what is promised then: the server is up again, or
says why it cannot start and starts once the cause is gone; what is measured
from then on is right; and the log has a line of ours for what was lost, and
none where nothing was.

    faults.py BINDIR USER

In namespaces of its own, for disks and shared memory that are full.

The promises.  A process that is killed takes the shared memory with it: the
server ends all connections and starts anew, with empty statistics, which it
says (docs/SECURITY.md, "How it fails"; docs/reference.md, stats_since).  Names
and history are tables, and stay.  A save that fails is told, and costs that
run's statistics.  Who cannot start loses nothing: the save file is there until
the first client is (savefile.c).  Where a process cannot be forked the server
says so itself, and tries again.

A set of exchanges that is known, from an address of its own, before each fault
and after it, shows what was lost and that what comes is right.
"""
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psycopg2

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import Connection, Failed, query  # noqa: E402

EMPTY = "no saved statistics; starting empty"
NOT_SAVED = 'could not write file "pg_stat/kasm_latency.stat.tmp": No space left on device'
UNREAD_S = 60
PATIENCE_S = 60
SHMALL = "/proc/sys/kernel/shmall"
SCRIPT = "BEGIN;\nSELECT 1;\nUPDATE loaded SET n = n + 1 WHERE id = :client_id;\nCOMMIT;\n"
SETTINGS = """
max_connections = 60
autovacuum = off
restart_after_crash = on
kasm_latency.history_database = 'postgres'
"""


class Faults:
    def __init__(self, bindir, user):
        self.server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", settings=SETTINGS)
        self.user, self.data = user, self.server.data
        self.saved = os.path.join(self.data, "pg_stat/kasm_latency.stat")
        self.load, self.known_sets = None, 0

    def one(self, sql):
        (row,) = self.server.rows(sql)
        return next(iter(row.values()))

    def try_one(self, sql):
        """None while the server cannot say."""
        try:
            return self.one(sql)
        except RuntimeError:
            return None

    def log(self):
        return self.server.log_text()[self.mark:]

    # ----- the server's processes

    def start(self):
        self.server.command("pg_ctl", "-D", self.data, "-l", self.server.log, "-w", "-s", "start")

    def start_fails(self, pattern):
        """A start that cannot be, and says why."""
        end = len(self.server.log_text())
        try:
            self.start()
            require(False, "it started")
        except RuntimeError:
            pass
        said = self.server.log_text()[end:]
        require(re.search(pattern, said), f"it does not say {pattern}: {said[-500:]}")

    def postmaster(self):
        with open(self.data + "/postmaster.pid") as file:
            return int(file.readline())

    def left(self):
        """Processes of the server: in our namespace there is no other."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as words:
                    if words.read().startswith(b"postgres: "):
                        found.append(int(pid))
            except OSError:
                pass
        return found

    # ----- clients

    def begin_load(self):
        script = os.path.join(self.server.dir, "script")
        with open(script, "w") as file:
            file.write(SCRIPT)
        self.load = lab.popen(self.user, os.path.join(self.server.bindir, "pgbench"), "-n", "-h", "127.0.0.1", "-p",
                              str(self.server.port), "-U", "kasmapp", "-c", "8", "-T", "600", "-f", script, "kasm",
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sql = "SELECT sum(round_trips) > 1000 FROM kasm_latency.connections WHERE client_addr = '127.0.0.1'"
        require(lab.wait_until(lambda: self.one(sql) == "t", PATIENCE_S), "there is no load")

    def end_load(self):
        if self.load:
            lab.stop(self.load)
        self.load = None

    async def exchanges(self, addr, n=10):
        """So many transactions of three exchanges, and one that fails."""
        conn = await Connection.open(self.server.port, addr, user="kasmapp", database="kasm")
        for sql in ("BEGIN", "SELECT 1", "COMMIT") * n + ("SELECT 1/0",):
            try:
                await conn.query(sql)
            except Failed:
                pass
        await conn.close()
        return conn

    def figures(self, addr):
        rows = self.server.rows(f"SELECT t.*, c.round_trips AS recent, c.blocks FROM kasm_latency.totals AS t "
                                f"LEFT JOIN kasm_latency.clients AS c USING (client_addr) WHERE client_addr = '{addr}'")
        return rows[0] if rows else None

    def gone(self, addr):
        sql = f"SELECT count(*) FROM kasm_latency.connections WHERE client_addr = '{addr}'"
        return lab.wait_until(lambda: self.one(sql) == "0", PATIENCE_S)

    def known(self):
        """A set of exchanges that is known: its address."""
        self.known_sets += 1
        addr = f"127.9.0.{self.known_sets}"
        conn = asyncio.run(self.exchanges(addr))
        require(self.gone(addr), f"{addr} is not gone")
        row = self.figures(addr)
        require(row is not None and int(row["round_trips"]) == int(row["recent"]) == conn.exchanges
                and int(row["transactions"]) == conn.transactions and row["connections_total"] == "1" and row["blocks"] == "10",
                f"{conn.exchanges} exchanges, {conn.transactions} transactions in one connection: {row}")
        return addr

    # ----- before and after

    def before(self, load=False):
        self.mark = len(self.server.log_text())
        self.addr = self.known()
        self.was = self.figures(self.addr)
        self.names = self.one("SELECT count(*) FROM kasm_latency.host_registry")
        self.server.psql("SELECT kasm_latency.snapshot()", options=["-o", "/dev/null"])
        self.history = int(self.one("SELECT count(*) FROM kasm_latency.history"))
        if load:
            self.begin_load()

    def after(self, name, said, lost):
        """It is up; what was lost is, and nothing else; what is said of that."""
        sql = "SELECT count(*) FROM kasm_latency.info WHERE watcher_pid IS NOT NULL"
        require(lab.wait_until(lambda: self.try_one(sql) == "1", PATIENCE_S), f"{name}: it is not up, with its watcher")
        self.end_load()
        now = self.figures(self.addr)
        if lost:
            require(now is None, f"{name}: not empty: {now}")
        else:
            require(now is not None and all(now[key] == self.was[key] for key in now if key not in ("recent", "blocks")),
                    f"{name}: was {self.was}, is {now}")
        require(self.one("SELECT count(*) FROM kasm_latency.host_registry") == self.names, f"{name}: names are lost")
        require(int(self.one("SELECT count(*) FROM kasm_latency.history")) >= self.history, f"{name}: history is lost")
        self.known()
        ours = re.findall(r"[A-Z]+:  kasm_latency: (.*)", self.log())
        require(ours == said, f"{name}: the log has {ours}, not {said}")
        bad = re.findall(r"PANIC|TRAP|signal 11.*", self.log())
        require(not bad, f"{name}: {bad}")
        print(f"{name}: {'started empty' if lost else 'nothing lost'}, counts right since; "
              f"our lines in the log: {'; '.join(ours) or 'none'}", flush=True)

    # ----- kill -9

    def backend_killed(self):
        self.before(load=True)
        os.kill(int(self.one("SELECT pid FROM pg_stat_activity WHERE usename = 'kasmapp' LIMIT 1")), signal.SIGKILL)
        require(lab.wait_until(lambda: "all server processes terminated" in self.log(), PATIENCE_S), "nothing happened")
        self.after("a backend killed", [EMPTY], lost=True)

    def watcher_killed(self):
        self.before(load=True)
        os.kill(int(self.one("SELECT watcher_pid FROM kasm_latency.info")), signal.SIGKILL)
        require(lab.wait_until(lambda: "all server processes terminated" in self.log(), PATIENCE_S), "nothing happened")
        self.after("the watcher killed", [EMPTY], lost=True)

    def kill_postmaster(self):
        pid = self.postmaster()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # pg_ctl left it to the namespace's first process, which we are
        require(lab.wait_until(lambda: not self.left(), PATIENCE_S), f"without a postmaster there are {self.left()}")

    def postmaster_killed(self):
        self.before(load=True)
        self.kill_postmaster()
        require(not os.path.exists(self.saved), "there is a save file from before")
        self.start()
        self.after("the postmaster killed", [EMPTY], lost=True)

    def postmaster_killed_early(self):
        self.before()
        self.server.stop()
        self.start()
        self.kill_postmaster()
        self.start()
        self.after("the postmaster killed before there was a client", [], lost=False)

    # ----- no room

    def full_disk(self):
        self.before(load=True)
        directory = os.path.dirname(self.saved)
        lab.run("mount", "-t", "tmpfs", "-o", "size=16k", "none", directory)
        shutil.chown(directory, self.user)
        self.server.stop()
        self.start()
        self.after("the disk full at the save", [NOT_SAVED, EMPTY], lost=True)
        self.before()
        self.server.stop()
        lab.run("umount", directory)
        self.start()
        self.after("the disk full once more, and room at the start", [NOT_SAVED, EMPTY], lost=True)
        self.before()
        self.server.stop()
        self.start()
        self.after("a restart with room", [], lost=False)

    def set_shmall(self, pages):
        with open(SHMALL, "w") as file:
            file.write(str(pages))

    def no_shared_memory(self):
        """Too little for it and us, and enough without: System V's, which has a limit
        of its own here."""
        self.before()
        with open(self.data + "/postgresql.conf", "a") as conf:
            conf.write("shared_memory_type = sysv\n")
        with open(SHMALL) as file:
            most = file.read()
        pages = int(self.one("SELECT (SELECT sum(allocated_size) FROM pg_shmem_allocations) - shared_memory_bytes / 2 "
                             "FROM kasm_latency.info").split(".")[0]) // os.sysconf("SC_PAGE_SIZE")
        self.server.stop()
        self.set_shmall(pages)
        self.start_fails("could not create shared memory segment: No space left on device")
        require(os.path.exists(self.saved), "the save file is gone")
        self.server.command("pg_ctl", "-D", self.data, "-l", self.server.log, "-w", "-s", "-o", "-c shared_preload_libraries=", "start")
        self.server.stop()
        self.set_shmall(most)
        self.start()
        self.after("too little shared memory at a start, and then enough", [], lost=False)

    def no_dynamic_shared_memory(self):
        self.before()
        self.server.stop()
        lab.run("mount", "-t", "tmpfs", "-o", "size=4k", "none", "/dev/shm")
        self.start_fails("could not resize shared memory segment .*: No space left on device")
        lab.run("umount", "/dev/shm")
        self.start()
        self.after("/dev/shm full at a start, and then not", [], lost=False)

    # ----- no processes

    def let_fork(self, most):
        # as the server's user, who may set his own processes' lower limit
        self.server.command("prlimit", "--pid", str(self.postmaster()), f"--nproc={most}:")

    def no_forks(self):
        """The watcher ends and cannot come back, new clients cannot come: those that
        are there go on."""
        self.before(load=True)
        own = psycopg2.connect(host=self.server.dir, port=self.server.port, user="postgres", dbname="postgres")
        own.autocommit = True
        addr = "127.8.0.1"

        async def go_on():
            conn = await Connection.open(self.server.port, addr, user="kasmapp", database="kasm")
            with open(f"/proc/{self.postmaster()}/limits") as limits:
                most = re.search(r"Max processes +(\w+)", limits.read())[1]
            self.let_fork(1)
            try:
                with own.cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(watcher_pid) FROM kasm_latency.info")
                    require(self.try_one("SELECT 1") is None, "a new client came")
                    end = time.monotonic() + PATIENCE_S
                    while "could not fork worker process" not in self.log() and time.monotonic() < end:
                        for sql in ("BEGIN", "SELECT 1", "COMMIT"):
                            await conn.query(sql)
                        await asyncio.sleep(0.05)
                    cursor.execute("SELECT watcher_pid FROM kasm_latency.info")
                    require(cursor.fetchone() == (None,), "there is a watcher")
            finally:
                self.let_fork(most)
            await conn.query("SELECT 1")
            await conn.close()
            return conn
        try:
            conn = asyncio.run(go_on())
        finally:
            own.close()
        for line in ("could not fork new process for connection", "could not fork worker process"):
            require(line in self.log(), f"the server does not say: {line}")
        require(self.gone(addr), f"{addr} is not gone")
        row = self.figures(addr)
        require(int(row["round_trips"]) == conn.exchanges > 10 and int(row["transactions"]) == conn.transactions,
                f"{conn.exchanges} exchanges: {row}")
        self.after(f"no process to be had ({conn.exchanges} exchanges meanwhile)", [], lost=False)

    def no_fork_at_start(self):
        self.before()
        self.server.stop()
        done = subprocess.run([*lab.as_user(self.user), "prlimit", "--nproc=1", os.path.join(self.server.bindir, "postgres"),
                               "-D", self.data], env=self.server.environ, cwd=self.server.dir, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S)
        require(done.returncode == 1 and "could not fork startup process" in done.stdout,
                f"it ended with {done.returncode}: {done.stdout[-500:]}")
        require("kasm_latency: " not in done.stdout, f"it says {done.stdout[-500:]}")
        self.start()
        self.after("no process to be had at a start, and then some", [], lost=False)

    # ----- a client that does not read

    async def not_reading(self, addr, blocker):
        """A transaction that holds a row and asks for more than the kernels buffer."""
        conn = await Connection.open(self.server.port, addr, user="kasmapp", database="kasm")
        pid = (await conn.query("SELECT pg_backend_pid()"))[0][0]
        await conn.query("BEGIN")
        await conn.query(f"UPDATE loaded SET n = n + 1 WHERE id = {blocker}")
        conn.writer.write(query("SELECT repeat('x', 1000) FROM generate_series(1, 40000)"))
        sql = f"SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = {pid}"
        require(await asyncio.to_thread(lab.wait_until, lambda: self.one(sql) == "t", PATIENCE_S),
                "the server does not wait for it")
        return conn, pid

    async def minute(self):
        first = time.monotonic()
        reader, _ = await self.not_reading("127.7.0.1", 1)
        victim = await Connection.open(self.server.port, "127.7.0.2", user="kasmapp", database="kasm")
        wait = asyncio.create_task(victim.query("UPDATE loaded SET n = n + 1 WHERE id = 1"))
        other = await Connection.open(self.server.port, "127.7.0.3", user="kasmapp", database="kasm")
        sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        require(await asyncio.to_thread(lab.wait_until, lambda: self.one(sql) == "1", PATIENCE_S), "nobody waits for its lock")
        began = time.monotonic()
        while time.monotonic() < began + UNREAD_S:
            for sql in ("BEGIN", "SELECT 1", "COMMIT"):
                await other.query(sql)
            await asyncio.sleep(0.02)
        require(not wait.done(), "nobody waited")
        rows = await reader.answer()
        require(len(rows) == 40000, f"{len(rows)} rows")
        reader.exchanges += 1
        await reader.query("COMMIT")
        await wait
        self.took = time.monotonic() - first
        for conn in (reader, victim, other):
            await conn.close()
        return {"127.7.0.1": reader, "127.7.0.2": victim, "127.7.0.3": other}

    def unread(self):
        self.before()
        conns = asyncio.run(self.minute())
        rows = {}
        for addr, conn in conns.items():
            require(self.gone(addr), f"{addr} is not gone")
            row = rows[addr] = self.figures(addr)
            require(int(row["round_trips"]) == int(row["recent"]) == conn.exchanges and int(row["transactions"]) == conn.transactions,
                    f"{addr}: {conn.exchanges} exchanges, {conn.transactions} transactions: {row}")
        reader, victim, other = rows.values()
        # a look stands for the time since the one before, so sums are right to one: 0.1 s, or late
        for what, seconds in (("server time of who does not read", reader["server_s"]), ("waited", victim["lock_wait_s"]),
                              ("made others wait", reader["made_others_wait_s"]),
                              ("of that, while the server waited for it", reader["made_others_wait_for_client_s"])):
            require(UNREAD_S - 2 <= float(seconds) <= self.took + 2, f"{what}: {seconds} s of {self.took:.1f}")
        require(float(other["server_s"]) < UNREAD_S / 2 and float(other["lock_wait_s"]) == 0, f"others had to wait: {other}")
        self.after(f"a client that did not read for {UNREAD_S} s ({conns['127.7.0.3'].exchanges} exchanges of another meanwhile; "
                   f"server time {float(reader['server_s']):.1f} s, made others wait {float(reader['made_others_wait_s']):.1f} s, "
                   f"of that for the client {float(reader['made_others_wait_for_client_s']):.1f} s)", [], lost=False)

    def unread_and_ended(self):
        """Its answer never came, and no error either: that is no exchange."""
        self.before()
        addr = "127.7.0.4"

        async def end():
            conn, pid = await self.not_reading(addr, 2)
            await asyncio.to_thread(self.one, f"SELECT pg_terminate_backend({pid})")
            require(await asyncio.to_thread(self.gone, addr), "it is not gone")
            conn.writer.transport.abort()
            return conn
        conn = asyncio.run(end())
        row = self.figures(addr)
        require(int(row["round_trips"]) == conn.exchanges == 3 and row["transactions"] == "1", f"{conn.exchanges} exchanges: {row}")
        self.after("a client that did not read, ended", [], lost=False)

    def run(self):
        try:
            self.server.start()
            self.server.psql("CREATE TABLE loaded AS SELECT id, 0 AS n FROM generate_series(0, 10) AS id", "GRANT ALL ON loaded TO kasmapp",
                             options=["-d", "kasm"])
            self.server.psql("SELECT kasm_latency.register_host('127.9.0.1', 'known')", options=["-o", "/dev/null"])
            for fault in (self.backend_killed, self.watcher_killed, self.postmaster_killed, self.postmaster_killed_early, self.full_disk,
                          self.no_shared_memory, self.no_dynamic_shared_memory, self.no_forks, self.no_fork_at_start, self.unread,
                          self.unread_and_ended):
                fault()
        finally:
            self.end_load()
            self.server.remove()
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(Faults(*sys.argv[1:3]).run())
