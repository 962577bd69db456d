"""The watcher, for hours: 36,000 looks at lock waits while clients fight for rows,
connections come and go, and one snapshot after the other is taken: its memory
stays what it is, and there is never a second process.  Then the disk that the
history is on is full: the log says so once, everything else works, and history
goes on when there is room again.

    watcher.py BINDIR USER [LOOKS]

In namespaces of its own, for a disk that is full.
"""
import asyncio
import os
import random
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import Connection  # noqa: E402

LOOKS = 36000
WARM = 0.1  # of the looks
GROWN_KB = 128
ATTEMPTS = 12
FIGHTERS = [f"127.1.0.{i + 1}" for i in range(12)]
HOSTS = [f"127.2.0.{i + 1}" for i in range(150)]  # so many rows need pages of their own
NO_SNAPSHOT = r"LOG:  kasm_latency: (no snapshot in .*)"
SETTINGS = """
autovacuum = off
kasm_latency.sample_locks = 10ms
kasm_latency.history_database = 'history'
kasm_latency.history_interval = 1min
"""


class Watcher:
    def __init__(self, bindir, user, looks):
        self.server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", settings=SETTINGS)
        self.user, self.looks, self.over = user, looks, False
        self.disk = os.path.join(self.server.dir, "disk")

    def one(self, query, dbname="postgres"):
        (row,) = self.server.rows(query, dbname)
        return next(iter(row.values()))

    def prepare(self):
        os.mkdir(self.disk)
        lab.run("mount", "-t", "tmpfs", "-o", "size=32m", "none", self.disk)
        os.mkdir(self.disk + "/space")
        lab.shutil.chown(self.disk + "/space", self.user)
        self.server.start()
        self.server.psql(f"CREATE TABLESPACE small LOCATION '{self.disk}/space'", "CREATE DATABASE history TABLESPACE small",
                         "CREATE TABLE fought_over AS SELECT generate_series(1, 3) AS id, 0 AS n", "GRANT ALL ON fought_over TO kasmapp")
        self.server.psql("CREATE EXTENSION kasm_latency", options=["-d", "history"])
        self.pid = int(self.one("SELECT watcher_pid FROM kasm_latency.info"))

    def status(self, name):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(rf"^{name}:\s+(\d+)", status.read(), re.M)[1])

    def processes(self):
        """One watcher, the same as ever; of the other kind one at the most."""
        found = self.server.rows("SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'kasm_latency%'")
        kinds = [row["backend_type"] for row in found]
        require(kinds.count("kasm_latency watcher") == 1 and kinds.count("kasm_latency history") <= 1
                and str(self.pid) in [row["pid"] for row in found], f"processes: {found}")

    def attempt(self):
        """Have a snapshot taken, or tried: whether it was.  Should the watcher read
        two reloads as one, once more."""
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'history'"
        before, tries = self.one(query), 0
        lab.wait_until(lambda: self.one("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kasm_latency history'") == "0")
        while self.one(query) == before and tries < 5:
            tries += 1
            for name in ("", "history"):
                self.server.psql(f"ALTER SYSTEM SET kasm_latency.history_database = '{name}'", "SELECT pg_reload_conf()",
                                 options=["-o", "/dev/null"])
                time.sleep(0.1)
            lab.wait_until(lambda: self.one(query) != before, 5)
        return self.one(query) != before

    # ----- clients

    async def fight(self, addr):
        """Transactions that hold a row for a moment; a new connection now and then."""
        chance = random.Random(addr)
        while not self.over:
            conn = await Connection.open(self.server.port, addr, user="kasmapp")
            for _ in range(100):
                if self.over:
                    break
                await conn.query("BEGIN")
                await conn.query(f"UPDATE fought_over SET n = n + 1 WHERE id = {chance.randrange(1, 4)}")
                await asyncio.sleep(0.02 * chance.random())
                await conn.query("COMMIT")
                await asyncio.sleep(0.05 * chance.random())
            await conn.close()

    async def appear(self):
        """Hosts that are worth a row."""
        for addr in HOSTS:
            conn = await Connection.open(self.server.port, addr, user="kasmapp")
            await conn.query("SELECT 1")
            await conn.close()

    # ----- the looks

    def watch(self):
        """Until so many looks: a look is when the process has slept."""
        began = time.monotonic()
        first, warm, snapshots, sizes = self.status("voluntary_ctxt_switches"), None, 0, []
        while (looks := self.status("voluntary_ctxt_switches") - first) < self.looks and time.monotonic() < began + 0.05 * self.looks + 60:
            snapshots += bool(self.attempt())
            self.processes()
            sizes.append(self.status("RssAnon"))
            if warm is None and looks >= WARM * self.looks:
                warm = sizes[-1]
            time.sleep(1)
        waited = float(self.one("SELECT sum(waited_s) FROM kasm_latency.collateral"))
        print(f"{looks} looks and {snapshots} snapshots in {time.monotonic() - began:.0f} s, {waited:.0f} s of waiting seen in the last "
              f"15 minutes: {sizes[0]} kB of its own at first, {warm} kB when warm, then at most {max(sizes)} kB, {sizes[-1]} kB in the end",
              flush=True)
        require(looks >= self.looks, "too few looks")
        require(snapshots > looks / 3000 and waited > 0.05 * (time.monotonic() - began), "nothing happened")
        require(warm is not None and max(sizes) <= warm + GROWN_KB, f"the watcher grew: {sizes}")

    async def fought_over(self):
        fighters = [asyncio.create_task(self.fight(addr)) for addr in FIGHTERS]
        try:
            await asyncio.to_thread(self.watch)
        finally:
            self.over = True
            await asyncio.gather(*fighters)

    # ----- the disk

    def fill(self):
        with open(self.disk + "/filler", "wb", buffering=0) as filler:
            for size in (1 << 16, 4096):
                try:
                    while filler.write(bytes(size)):
                        pass
                except OSError:
                    pass

    def snapshots(self):
        return int(self.one("SELECT count(DISTINCT taken_at) FROM kasm_latency.history", "history"))

    def full_disk(self):
        asyncio.run(self.appear())
        before, end = self.snapshots(), len(self.server.log_text())
        self.fill()
        tried = sum(bool(self.attempt()) for _ in range(ATTEMPTS))
        self.processes()
        asyncio.run(self.appear())
        require(int(self.one("SELECT count(*) FROM kasm_latency.hosts WHERE verdict <> 'no_data'")) > len(HOSTS), "hosts do not show")
        said = re.findall(NO_SNAPSHOT, self.server.log_text()[end:])
        print(f"a full disk: {tried} snapshots were tried, and the log says: {said}", flush=True)
        require(tried == ATTEMPTS, "not every snapshot was tried")
        require(len(said) == 1 and "No space left on device" in said[0], f"said of a full disk: {said}")
        os.unlink(self.disk + "/filler")
        require(lab.wait_until(lambda: self.attempt() and self.snapshots() > before, 130), "history does not go on")
        said = re.findall(NO_SNAPSHOT, self.server.log_text()[end:])
        require(len(said) == 1, f"said of a full disk, and after it: {said}")
        print(f"with room again: {self.snapshots() - before} more", flush=True)

    def run(self):
        try:
            self.prepare()
            asyncio.run(self.fought_over())
            self.full_disk()
            bad = [line for line in self.server.log_text().splitlines() if re.search("PANIC|TRAP|kasm_latency history.*exited with exit code", line)]
            require(not bad, f"the server's log: {bad}")
        finally:
            self.server.stop()
            lab.run("umount", self.disk)
            self.server.remove()
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(Watcher(*sys.argv[1:3], int(sys.argv[3]) if len(sys.argv) > 3 else LOOKS).run())
