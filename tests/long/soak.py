"""Hundreds of connections from many addresses come and go while readers poll
every view and some addresses are reset: not one exchange is lost, no counter
goes down, and nothing recent exceeds its total; the same across restarts.
After kill -9 of a backend the server comes back empty, and says so.

    soak.py BINDIR USER [SECONDS]

On a slow machine it takes longer than SECONDS, until enough was read.
"""
import asyncio
import os
import random
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402
from rawclient import Connection, Failed  # noqa: E402

LIMIT = 900  # seconds
WORKERS = 250
ADDRESSES = [f"127.1.{i // 100}.{i % 100 + 1}" for i in range(300)]
RESET_ADDRESSES = [f"127.2.0.{i + 1}" for i in range(20)]
VIEWS = ["clients", "hosts", "flagged", "totals", "connections", "impact", "blocking", "collateral", "info", "diagnose()",
         "placement_plan()", "histogram('turnaround')", "histogram('server')", "histogram('block')"]
COUNTERS = ["round_trips", "transactions", "network_s", "server_s", "turnaround_s", "retransmits", "connections_total"]
TOTALS = ("SELECT host(client_addr), username, database, stats_since, " + ", ".join(COUNTERS)
          + " FROM kasm_latency.totals WHERE client_addr IS NOT NULL")

class Soak:
    def __init__(self, bindir, user, seconds):
        self.server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                                 settings="max_connections = 400\nkasm_latency.max_clients = 1000\n"
                                          "autovacuum = off\nrestart_after_crash = on")
        self.seconds, self.counted, self.random = seconds, {}, random.Random(1)

    def open(self, addr):
        return Connection.open(self.server.port, addr, user="kasmapp", database="kasm")

    async def work(self, addresses):
        """One client after the other, from changing addresses."""
        while not self.over():
            addr = self.random.choice(addresses)
            conn = await self.open(addr)
            for _ in range(self.random.randrange(6)):
                match self.random.randrange(5):
                    case 0:
                        for sql in ("BEGIN", "SELECT 1", "SELECT 2", "COMMIT"):
                            await conn.query(sql)
                    case 1:
                        try:
                            await conn.query("SELECT 1/0")
                        except Failed:
                            pass
                    case 2:
                        await asyncio.sleep(self.random.random() / 5)
                        await conn.query("SELECT generate_series(1, 500)")
                    case 3:
                        await conn.query("BEGIN; SELECT 1; COMMIT")
                    case 4:
                        await conn.query("")
            await conn.close(farewell=self.random.random() < 0.7)
            self.counted[addr] = self.counted.get(addr, 0) + conn.exchanges

    async def read(self):
        """Every view; counters against what they were, recent against total."""
        conn = await Connection.open(self.server.port, "127.3.0.1")
        before = {}
        while not self.over():
            for view in VIEWS:
                await conn.query(f"SELECT * FROM kasm_latency.{view}")
                self.reads += 1
            recent = await conn.query("SELECT host(client_addr), username, database, round_trips "
                                      "FROM kasm_latency.clients WHERE client_addr <<= '127.1.0.0/16'")
            totals = {tuple(row[:3]): row[3:] for row in await conn.query(TOTALS)}
            for addr, username, database, round_trips in recent:
                total = totals.get((addr, username, database))
                require(total and int(round_trips) <= int(total[1]),
                        f"{addr}: {round_trips} recent, but {total} in all")
            for key, row in totals.items():
                if key in before and before[key][0] == row[0]:
                    for name, was, now in zip(COUNTERS, before[key][1:], row[1:]):
                        require(float(now) >= float(was), f"{key}: {name} went from {was} to {now}")
                    self.compared += 1
            before = totals
        await conn.close()

    async def reset(self):
        conn = await Connection.open(self.server.port, "127.3.0.2")
        while not self.over():
            await conn.query(f"SELECT kasm_latency.reset('{self.random.choice(RESET_ADDRESSES)}')")
            self.resets += 1
            await asyncio.sleep(0.01)
        await conn.close()

    def enough(self):
        return self.reads > 20 and self.compared > 100 and self.resets > 10

    def over(self):
        took = time.monotonic() - self.began
        return took > LIMIT or took > self.seconds and self.enough()

    async def soak(self):
        self.began = time.monotonic()
        self.reads = self.compared = self.resets = 0
        await asyncio.gather(*(self.work(ADDRESSES) for _ in range(WORKERS)),
                             *(self.work(RESET_ADDRESSES) for _ in range(20)),
                             *(self.read() for _ in range(2)), self.reset())

    def totals(self):
        return {row["addr"]: int(row["n"]) for row in self.server.rows(
            "SELECT host(client_addr) AS addr, sum(round_trips) AS n FROM kasm_latency.totals "
            "WHERE client_addr IS NOT NULL GROUP BY 1")}

    def compare(self, when):
        said = self.totals()
        wrong = {addr: (self.counted.get(addr, 0), said.get(addr, 0)) for addr in ADDRESSES
                 if self.counted.get(addr, 0) != said.get(addr, 0)}
        require(not wrong, f"{when}: counted by the clients, and by the server: {wrong}")
        for addr in RESET_ADDRESSES:
            require(said.get(addr, 0) <= self.counted.get(addr, 0), f"{when}: {addr} has more than its clients counted")
        print(f"{when}: {sum(self.counted.get(a, 0) for a in ADDRESSES)} exchanges counted by the clients, "
              f"{sum(said.get(a, 0) for a in ADDRESSES)} by the server", flush=True)

    async def idle(self, conns):
        """Connections that are open when the server stops."""
        for addr in ADDRESSES[:50]:
            conn = await self.open(addr)
            await conn.query("BEGIN")
            await conn.query("SELECT 1")
            self.counted[addr] = self.counted.get(addr, 0) + conn.exchanges
            conns.append(conn)

    def gone(self):
        return lab.wait_until(lambda: self.server.rows(
            "SELECT count(*) AS n FROM kasm_latency.connections WHERE username = 'kasmapp'")[0]["n"] == "0")

    def start(self):
        self.server.command("pg_ctl", "-D", self.server.data, "-l", self.server.log, "-w", "-s", "start")

    def crash(self):
        """kill -9 of a backend; stats_since before and after."""
        before = self.server.rows("SELECT stats_reset AS at FROM kasm_latency.info")[0]["at"]

        async def kill():
            conn = await self.open(ADDRESSES[0])
            os.kill(int((await conn.query("SELECT pg_backend_pid()"))[0][0]), signal.SIGKILL)
        asyncio.run(kill())

        def back():
            try:
                return self.server.rows("SELECT stats_reset AS at, saved_at, (SELECT count(*) FROM kasm_latency.totals "
                                        "WHERE username = 'kasmapp') AS n FROM kasm_latency.info "
                                        f"WHERE stats_reset <> '{before}'")
            except RuntimeError:
                return None
        after = lab.wait_until(back)
        require(after and after[0]["n"] == "0" and after[0]["saved_at"] is None, f"after a crash: {after}")
        require("no saved statistics; starting empty" in self.server.log_text().split("all server processes terminated")[-1],
                "the log does not say that it starts empty")
        print("after kill -9: started empty, and said so", flush=True)

    def run(self):
        try:
            self.server.start()
            asyncio.run(self.soak())
            self.gone()
            self.compare(f"after {time.monotonic() - self.began:.0f} s with {self.reads} readings, {self.compared} rows compared "
                         f"and {self.resets} resets")
            require(self.enough(), "too little was read")
            self.server.stop()
            self.start()
            self.compare("after a clean restart")

            async def stop_under_load():
                conns = []
                await self.idle(conns)
                await asyncio.to_thread(self.server.stop)
            asyncio.run(stop_under_load())
            self.start()
            self.compare("after a fast shutdown with 50 open transactions")
            self.crash()
            bad = [line for line in self.server.log_text().splitlines() if "PANIC" in line or "TRAP" in line]
            require(not bad, f"the server's log: {bad}")
        finally:
            self.server.remove()
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(Soak(*sys.argv[1:3], float(sys.argv[3]) if len(sys.argv) > 3 else 60).run())
