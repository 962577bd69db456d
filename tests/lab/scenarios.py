"""The lab's scenarios: each states the truth, runs real clients, and reads
what kasm_latency says of them.

    scenarios.py BINDIR USER [NAME ...]

Prints a row per scenario, truth beside report, and ends with the count of
false flags (a host inside the band called out_of_band) and misses (one
outside called in_band); fails if a row is not ok.  Exits with 77, after
saying why, where there can be no lab.
"""
import sys
from concurrent.futures import ThreadPoolExecutor

import lab

LIMIT_MS = 10


class Scenario:
    """One host at one distance, and what is to be said of it."""

    def __init__(self, name, rtt_ms, expected, *client, **path):
        self.name, self.rtt_ms, self.expected, self.client, self.path = (
            name, rtt_ms, expected, client, path)
        self.problems = []

    def prepare(self, user):
        self.host = lab.Host(self.name, self.rtt_ms, user, **self.path)

    def require(self, condition, problem):
        if not condition:
            self.problems.append(problem)

    def run(self, server):
        try:
            counted = lab.result(self.host.client(*self.client))
            row = server.rows("SELECT * FROM kasm_latency.clients "
                              f"WHERE client_addr = '{self.host.addr}'")[0]
            self.judge(row, counted)
        except Exception as error:  # a scenario that breaks is a row that is not ok
            self.report = {}
            self.problems.append(repr(error))

    def judge(self, row, counted):
        self.report = row
        rtt_ms, turnaround_min_ms = float(row["rtt_ms"]), row["turnaround_min_ms"]
        self.require(row["verdict"] == self.expected, "another verdict")
        self.require(abs(rtt_ms - self.rtt_ms) <= 0.1 * self.rtt_ms + 0.5,
                     "rtt_ms is not the distance, within 10 % + 0.5 ms")
        self.require(turnaround_min_ms is None or float(turnaround_min_ms) >= rtt_ms - 0.002,
                     "a turnaround is shorter than the round trip")
        self.require(int(row["round_trips"]) == counted["exchanges"],
                     f"{row['round_trips']} round trips, but the client counted "
                     f"{counted['exchanges']}")


SCENARIOS = [
    Scenario("same zone", 0.3, "in_band", "--launches", "40", "--pause", "0.05"),
    Scenario("same region", 3, "in_band", "--launches", "40", "--pause", "0.05"),
    Scenario("other region", 25, "out_of_band", "--launches", "10", "--pause", "0.05"),
    Scenario("other continent", 120, "out_of_band", "--launches", "4", "--pause", "0.05"),
]


def main(bindir, user, *names):
    chosen = [s for s in SCENARIOS if not names or s.name in names]
    server = lab.Server(bindir, user, settings="max_connections = 300")
    try:
        server.start()
        server.psql("CREATE ROLE kasmapp LOGIN", "CREATE DATABASE kasm OWNER kasmapp")
        for scenario in chosen:
            scenario.prepare(user)
        with ThreadPoolExecutor(len(chosen)) as pool:
            list(pool.map(lambda scenario: scenario.run(server), chosen))
    finally:
        server.remove()

    columns = ["scenario", "true RTT", "rtt_ms", "turnaround_min_ms", "turnaround_p50_ms",
               "verdict", "expected", "ok"]
    rows = [[s.name, f"{s.rtt_ms:g}"]
            + [str(s.report.get(column) or "") for column in columns[2:6]]
            + [s.expected, "ok" if not s.problems else "NOT OK"] for s in chosen]
    widths = [max(len(row[i]) for row in [columns] + rows) for i in range(len(columns))]
    for row in [columns] + rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    for s in chosen:
        for problem in s.problems:
            print(f"{s.name}: {problem}")

    verdicts = [(s.rtt_ms < LIMIT_MS, s.report.get("verdict")) for s in chosen]
    print(f"false flags: {verdicts.count((True, 'out_of_band'))}")
    print(f"misses: {verdicts.count((False, 'in_band'))}")
    return 1 if any(s.problems for s in chosen) else 0


if __name__ == "__main__":
    lab.stop_on_signals()
    if lab.os.environ.get(lab.MARK) != "inside":
        reason = lab.why_not()
        if reason is not None:
            print(f"no lab here: {reason}")
            sys.exit(77)
    lab.enter()
    sys.exit(main(*sys.argv[1:]))
