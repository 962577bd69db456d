"""One host moves away, and everybody waits: webapp-eu, 1 ms from the database,
is 120 ms away for a minute, and webapp-1 beside the database fights with it for
rows.  What the view collateral and diagnose() say while it lasts is held against
what webapp-1's clients measure, and what incident() says when it is over.  The
server keeps history by itself: a snapshot a minute, each of the minute before.

    everybody.py BINDIR USER [SECONDS]

SECONDS is how long it lasts: 60, or more.
"""
import re
import sys
import time

import lab
from checks import finish, problems, require

NEAR_MS, FAR_MS = 1, 120
ROWS = ("1", "2")
LAUNCHES = ("--pause", "0.1", "--update")
SETTINGS = """
autovacuum = off
kasm_latency.app_roles = 'kasmapp'
kasm_latency.recent = 1min
kasm_latency.history_database = 'postgres'
kasm_latency.history_interval = 1min
"""
PAIR = "blocking_host = 'webapp-eu' AND waiting_host = 'webapp-1'"
# what was before it is in the first snapshot after it
OVER = "SELECT host FROM kasm_latency.history WHERE host = 'webapp-eu' AND taken_at >= '%s'"


def near(value, wanted, share):
    return abs(float(value) - wanted) <= share * wanted


class Everybody:
    def __init__(self, bindir, user, seconds=60):
        self.user, self.seconds = user, float(seconds)
        self.server = lab.Server(bindir, user, settings=SETTINGS)
        self.clients = []

    def rows(self, query):
        return self.server.rows(query)

    def show(self, query):
        print(f"postgres=# {query};\n{self.server.psql(query, options=['-x'])}", end="", flush=True)

    def now(self):
        return self.rows("SELECT clock_timestamp() AS now")[0]["now"]

    def prepare(self):
        self.near, self.eu = lab.Host("webapp-1", 0.4, self.user), lab.Host("webapp-eu", NEAR_MS, self.user)
        self.server.start()
        self.server.psql("SET ROLE kasmapp", "CREATE TABLE launched (id int, n int)",
                         *(f"INSERT INTO launched VALUES ({row}, 0)" for row in ROWS), options=["-d", "kasm"])
        for host in (self.near, self.eu):
            self.server.psql(f"SELECT kasm_latency.register_host('{host.addr}', '{host.name}')", options=["-o", "/dev/null"])

    def launch(self, seconds=900):
        """Two connections of each host.  Those of webapp-1 have each a row, so
        that they wait for webapp-eu's alone."""
        words = ("--seconds", str(seconds), *LAUNCHES)
        self.clients = [*(self.near.client(*words, row) for row in ROWS),
                        self.eu.client(*words, ",".join(ROWS), "--connections", "2")]

    def leave(self):
        for client in self.clients:
            if client.poll() is None:
                lab.stop(client)

    def collateral(self):
        """Seconds that webapp-1 waited, for webapp-eu and for its client."""
        (row,) = self.rows("SET kasm_latency.recent = '15min'; SELECT coalesce(sum(waited_s), 0) AS all_s, "
                           f"coalesce(sum(waited_s) FILTER (WHERE {PAIR}), 0) AS pair_s, "
                           f"coalesce(sum(waited_for_client_s) FILTER (WHERE {PAIR}), 0) AS client_s "
                           "FROM kasm_latency.collateral WHERE waiting_host = 'webapp-1'")
        return {name: float(value) for name, value in row.items()}

    def before(self):
        """Both are near, and a snapshot has it: so what connects from now on does
        so in another minute than these."""
        self.launch()
        both = "SELECT taken_at FROM kasm_latency.history WHERE verdict = 'in_band' GROUP BY taken_at HAVING count(*) = 2"
        require(lab.wait_until(lambda: self.rows(both), 130),
                f"history: {self.rows('SELECT * FROM kasm_latency.history')}")
        self.leave()

    def while_it_lasts(self):
        before = self.collateral()
        self.began = self.now()
        self.eu.set_path(FAR_MS)
        self.launch(self.seconds)
        said = []
        while self.clients[0].poll() is None:
            said += [row["conclusion"] for row in self.rows("SELECT conclusion FROM kasm_latency.diagnose('webapp-1')")]
            time.sleep(1)
        bounds = [words.split(":")[0] for words in said]
        require("server-bound" not in bounds, f"diagnose says of webapp-1: {said}")
        last = said[-1] if said else ""
        require(re.match(r"lock-bound.*held by webapp-eu, 12\d ms away\)", last), f"diagnose says at last: {last}")
        print(f"diagnose, once a second: {', '.join(sorted(set(bounds), key=bounds.index))}")
        self.show("SELECT host, verdict, conclusion, next_step FROM kasm_latency.diagnose()")
        self.show("SELECT * FROM kasm_latency.collateral")
        self.measured_s = sum(lab.result(client)["waited_s"] for client in self.clients[:len(ROWS)])
        lab.result(self.clients[-1])
        self.ended = self.now()

        after = self.collateral()
        waited = {name: after[name] - before[name] for name in after}
        print(f"webapp-1's clients waited {self.measured_s:.1f} s by their own clock; by collateral {waited['all_s']:.1f} s, "
              f"{waited['pair_s']:.1f} s of it for webapp-eu, {waited['client_s']:.1f} s of that for its client")
        require(self.measured_s > 0.5 * self.seconds, "they did not fight")
        require(near(waited["all_s"], self.measured_s, 0.1), "what was waited is off by more than 10 %")
        require(near(waited["pair_s"], self.measured_s, 0.1), "webapp-1 waited for others than webapp-eu")
        require(waited["client_s"] >= 0.9 * waited["pair_s"], "webapp-eu's backends did not wait for their client")

    def afterwards(self):
        self.eu.set_path(NEAR_MS)
        self.launch()
        require(lab.wait_until(lambda: self.rows(OVER % self.ended), 90), "no snapshot is taken")
        self.leave()
        query = f"SELECT * FROM kasm_latency.incident('{self.began}')"
        self.show(query)
        found = self.rows(query)
        require([row["host"] for row in found[:2]] == ["webapp-eu", "webapp-1"], f"incident: {found}")
        eu, near_one = found[:2]
        require(eu["differs"] == "t" and (eu["verdict_before"], eu["verdict"]) == ("in_band", "out_of_band"), f"webapp-eu: {eu}")
        require(near(eu["rtt_ms"], FAR_MS, 0.02) and near(eu["rtt_before_ms"], NEAR_MS, 0.5),
                f"webapp-eu was {eu['rtt_before_ms']} ms away, then {eu['rtt_ms']}")
        (inside,) = self.rows(f"SELECT '{eu['from_at']}' BETWEEN timestamptz '{self.began}' AND timestamptz '{self.ended}' + '1 min' AND "
                              f"'{eu['until_at']}' BETWEEN timestamptz '{self.began}' AND timestamptz '{self.ended}' + '1 min' AS t")
        require(inside["t"] == "t", f"from {eu['from_at']} to {eu['until_at']}; it was from {self.began} to {self.ended}")
        require("in the snapshot" in eu["says"], f"webapp-eu: {eu}")
        require(near(eu["made_others_wait_s"], self.measured_s, 0.15), f"webapp-eu made others wait: {eu}")
        require(near(near_one["lock_wait_s"], self.measured_s, 0.15), f"webapp-1 waited: {near_one}")
        require(near_one["verdict"] == "in_band" and "of it for webapp-eu" in near_one["says"], f"webapp-1: {near_one}")

    def run(self):
        try:
            self.prepare()
            self.before()
            self.while_it_lasts()
            self.afterwards()
        finally:
            self.leave()
            self.server.remove()
        if not problems:
            print("collateral, diagnose and incident: ok")
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(Everybody(*sys.argv[1:]).run())
