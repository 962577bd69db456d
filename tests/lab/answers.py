"""What a DBA is told of four hosts: a Web App nearby, a proxy that has no
business here, a Web App at 25 ms whose zone only Kasm's own tables know, and
one at 120 ms; and of two more nearby, one of which runs slow queries, the other
thinks between its queries.  In the end the distant one keeps the nearest waiting
for a lock: now, and as it is told when that is past.

    answers.py BINDIR USER          hold all that is said against the truth
    answers.py BINDIR USER show     print it, as psql does
"""
import os
import re
import sys
import time

import lab
from checks import finish, problems, require

WIDTH = 120
GUIDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "operations.md")
HOSTS = {"webapp-1": 0.3, "proxy-1": 3, "webapp-3.example.com": 25, "webapp-eu": 120}
BUSY = {"webapp-slow": 0.3, "webapp-thinks": 0.3}
LAUNCHES = {"webapp-1": 60, "proxy-1": 30, "webapp-3.example.com": 20, "webapp-eu": 8, "webapp-thinks": 5}
KASM_TABLES = """
CREATE TABLE zones (zone_id uuid PRIMARY KEY, zone_name varchar(255));
CREATE TABLE managers (manager_id uuid PRIMARY KEY, manager_hostname varchar(255), zone_id uuid REFERENCES zones);
INSERT INTO zones VALUES ('00000000-0000-0000-0000-00000000000a', 'default'), ('00000000-0000-0000-0000-00000000000b', 'west');
INSERT INTO managers VALUES ('00000000-0000-0000-0000-000000000001', 'webapp-1', '00000000-0000-0000-0000-00000000000a'),
                            ('00000000-0000-0000-0000-000000000003', 'WebApp-3', '00000000-0000-0000-0000-00000000000b')
"""
# what the documentation shows: psql prints no line of these wider than WIDTH
QUERIES = [
    """SELECT host, verdict, network_share AS network, server_share AS server, lock_share AS locks,
       client_share AS client, chain_p50, chain_p50_ms
FROM kasm_latency.diagnose()""",
    "SELECT kasm_latency.summary()",
    "SELECT host, conclusion, next_step FROM kasm_latency.diagnose()",
    """SELECT host, verdict, path, rtt_ms, turnaround_p50_ms AS p50_ms, zone, client_addrs, round_trips
FROM kasm_latency.hosts""",
    """SELECT severity, host, verdict, rtt_ms, turnaround_p50_ms AS p50_ms, limit_ms, host_role, round_trips
FROM kasm_latency.flagged""",
    """SELECT host, rtt_ms, round_trips, network_s, in_transaction_wait_s AS in_trans_s, network_share AS share,
       chain_p50, launch_ms, launch_ms_colocated AS colocated_ms
FROM kasm_latency.impact""",
    """SELECT option, queries, rtt_ms, launch_ms, max_launches_per_s, web_apps
FROM kasm_latency.placement_plan('webapp-eu')""",
    """SELECT waiting_host, blocking_pid, blocking_host, blocking_verdict, waited_ms,
       blocker_waits_for_client AS waits_for_client
FROM kasm_latency.blocking""",
]
LOCKED = [
    """SELECT blocking_host, blocking_verdict AS verdict, blocking_rtt_ms AS rtt_ms, waiting_host, waited_s,
       waited_for_client_s AS for_client_s
FROM kasm_latency.collateral""",
    """SELECT host, lock_wait_s, made_others_wait_s FROM kasm_latency.impact""",
]
TOLD = [
    "SELECT host, conclusion, next_step FROM kasm_latency.diagnose('webapp-1')",
    "SELECT kasm_latency.summary()",
]
INCIDENT = """SELECT host, says, compared_with
FROM kasm_latency.incident(now() - interval '1 hour', now())
WHERE differs AND host <> '[local]'"""

def near(value, wanted, share):
    return abs(float(value) - wanted) <= share * wanted


class Answers:
    def __init__(self, bindir, user, show):
        self.user, self.showing = user, show
        self.names = dict(HOSTS) if show else {**HOSTS, **BUSY}
        self.server = lab.Server(bindir, user, settings="autovacuum = off\nlog_hostname = on")

    def rows(self, query):
        return self.server.rows(query)

    def by_host(self, relation):
        return {row["host"]: row for row in self.rows(f"SELECT * FROM {relation}")}

    def show(self, query, *options):
        if self.showing:
            print("postgres=# " + query.replace("\n", "\npostgres-# ") + ";")
        text = self.server.psql(query, options=options)
        if self.showing:
            print(text, end="")
        if "-x" not in options:
            for line in text.splitlines():
                require(len(line) <= WIDTH or "summary" in query, f"wider than {WIDTH}: {line}")

    def prepare(self):
        self.hosts = {name: lab.Host(name, rtt_ms, self.user) for name, rtt_ms in self.names.items()}
        kasm = self.hosts["webapp-3.example.com"]
        lab.name_hosts({kasm.addr: kasm.name})
        self.server.start()
        self.server.psql("SET ROLE kasmapp", KASM_TABLES, "CREATE TABLE launched (id int, n int)",
                         "INSERT INTO launched VALUES (1, 0)", options=["-d", "kasm"])
        # as the guide has it
        with open(GUIDE) as guide:
            (steps,) = re.findall(r"## Kasm's names.*?```sh\n(.*?)```", guide.read(), re.S)
        self.server.command("sh", "-ec", steps)
        for name, host in self.hosts.items():
            if host is not kasm:
                role, zone = ("proxy", "'west'") if name == "proxy-1" else ("webapp", "NULL")
                self.server.psql(f"SELECT kasm_latency.register_host('{host.addr}', '{name}', '{role}', {zone})",
                                 options=["-o", "/dev/null"])

    def launch(self):
        """Launches of all hosts; what the clients counted themselves."""
        running = {name: self.hosts[name].client("--launches", str(launches), "--pause", "0.02",
                                                 "--think", "0.06" if name == "webapp-thinks" else "0")
                   for name, launches in LAUNCHES.items() if name in self.hosts}
        if not self.showing:
            lab.result(self.hosts["webapp-slow"].client(mode="slow"))
        self.counted = {name: lab.result(client)["exchanges"] for name, client in running.items()}

    def block(self):
        """The distant Web App and the near one update the same row, until most of
        the near one's time is waits; what "blocking" says meanwhile."""
        # as it was before, a week ago: what follows is to be compared with it
        self.server.psql("SELECT kasm_latency.snapshot()", "UPDATE kasm_latency.history SET taken_at = taken_at - interval '7 days'",
                         options=["-o", "/dev/null"])
        clients = [self.hosts[name].client("--seconds", "600", "--pause", pause, "--update", "1")
                   for name, pause in (("webapp-eu", "0.01"), ("webapp-1", "0.3"))]
        try:
            query = ("SELECT * FROM kasm_latency.blocking WHERE waiting_host = 'webapp-1' "
                     "AND blocking_host = 'webapp-eu' AND blocker_waits_for_client AND waited_ms > 100")
            require(lab.wait_until(lambda: self.rows(query)), "blocking does not say that webapp-1 waits for webapp-eu")
            self.show(QUERIES[-1])
            bound = ("SELECT conclusion FROM kasm_latency.diagnose('webapp-1') WHERE conclusion LIKE 'lock-bound:%' "
                     "AND (SELECT sum(waited_s) FROM kasm_latency.collateral WHERE blocking_host = 'webapp-eu') > 5")
            require(lab.wait_until(lambda: self.rows(bound), 60), "waits do not make webapp-1 lock-bound")
            if self.showing:
                time.sleep(15)
        finally:
            for client in clients:
                lab.stop(client)
        self.server.psql("SELECT kasm_latency.snapshot()", options=["-o", "/dev/null"])

    def show_locked(self):
        for query in LOCKED:
            self.show(query)
        for query in [*TOLD, INCIDENT]:
            self.show(query, *([] if "summary" in query else ["-x"]))

    def check_locked(self):
        """What is said when it is past: by the views, and by what was kept of it."""
        (pair,) = self.rows("SELECT * FROM kasm_latency.collateral WHERE blocking_host = 'webapp-eu' AND waiting_host = 'webapp-1'")
        waited = float(pair["waited_s"])
        impact = self.by_host("kasm_latency.impact")
        require(near(impact["webapp-1"]["lock_wait_s"], waited, 0.01) and near(impact["webapp-eu"]["made_others_wait_s"], waited, 0.01),
                f"collateral says {waited} s, impact {impact['webapp-1']} {impact['webapp-eu']}")
        # of its turns the holder spends all but nothing on the way
        require(float(pair["waited_for_client_s"]) > 0.9 * waited, f"not for the client: {pair}")
        (row,) = self.rows(TOLD[0])
        require(re.match(r"lock-bound: .*waits for locks \d+ % \((9\d|100) % of it held by webapp-eu, 12\d ms away\)", row["conclusion"])
                and "kasm_latency.collateral" in row["next_step"], f"diagnose says {row}")
        (row,) = self.rows(TOLD[1])
        require(f"; it made others wait {waited:.1f} s for its locks; " in row["summary"], f"the summary of {waited} s: {row['summary']}")
        said = {row["host"]: row["says"] for row in self.rows(INCIDENT)}
        require(list(said)[0] == "webapp-eu" and "made others wait" in said["webapp-eu"], f"incident says {said}")
        require(re.search(r"waited [\d.]+ s for locks \(before: 0.0 s\), \d+ % of it for webapp-eu", said.get("webapp-1", "")),
                f"incident says {said}")
        for page in ("report()", "report(now() - interval '1 hour', now())"):
            page = self.server.psql("SELECT kasm_latency." + page, options=["-At"])
            require(page.isascii() and f"<td>{waited:.1f} s" in page, f"{waited:.1f} s are not in {page}")

    def check_hosts(self):
        hosts = self.by_host("kasm_latency.hosts")
        for name, role, zone, verdict in (("webapp-1", "webapp", "default", "in_band"),
                                          ("proxy-1", "proxy", "west", "unexpected_client"),
                                          ("webapp-3.example.com", "webapp", "west", "out_of_band"),
                                          ("webapp-eu", "webapp", None, "out_of_band")):
            row = hosts.get(name)
            said = row and (row["host_role"], row["zone"], row["verdict"])
            require(said == (role, zone, verdict), f"hosts says of {name}: {said}")
        # neither slow queries nor a client's own pauses are a distance
        flagged = self.rows("SELECT * FROM kasm_latency.flagged")
        require([(row["severity"], row["host"]) for row in flagged]
                == [("critical", "webapp-eu"), ("critical", "webapp-3.example.com"), ("warning", "proxy-1")],
                f"flagged: {flagged}")
        proxy = [row for row in flagged if row["host"] == "proxy-1"]
        require(proxy and "need no database connection" in proxy[0]["remedy"], f"no remedy for the proxy: {proxy}")
        # the clients and this script's own connections by Unix-domain socket
        for name, counted in self.counted.items():
            require(int(hosts[name]["round_trips"]) == counted,
                    f"{name}: {hosts[name]['round_trips']} round trips, but its clients counted {counted}")

    def check_impact(self):
        impact = self.by_host("kasm_latency.impact")
        for name, rtt_ms in HOSTS.items():
            row, exchanges = impact[name], self.counted[name]
            if rtt_ms >= 25:
                require(near(row["network_s"], exchanges * rtt_ms / 1000, 0.05),
                        f"{name}: {exchanges} exchanges of {rtt_ms} ms took {row['network_s']} s")
                require(near(row["launch_ms"], 12 * rtt_ms, 0.05), f"{name}: launch_ms is {row['launch_ms']}")
                # what follows has the client's own time in it, which on a busy machine is more
                require(float(row["network_share"]) > 0.7, f"{name}: the network's share is {row['network_share']}")
                require(0.95 < float(row["chain_p50_ms"]) / (12 * rtt_ms) < 1.4,
                        f"{name}: chain_p50_ms is {row['chain_p50_ms']}")
                # of twelve exchanges eleven are followed by a wait with the transaction open
                require(0.98 < float(row["in_transaction_wait_s"]) / (exchanges * 11 / 12 * rtt_ms / 1000) < 1.4,
                        f"{name}: in_transaction_wait_s is {row['in_transaction_wait_s']}")
            require(6 <= float(row["launch_ms_colocated"]) < 12, f"{name}: colocated {row['launch_ms_colocated']}")
            said = row["chain_p50"], row["chain_p95"], row["round_trips_per_transaction"]
            require(said == ("12", "12", "12"), f"{name}: chains of {said}, not of 12")

    def check_diagnosis(self):
        said = {row["host"]: row["conclusion"].split(":")[0]
                for row in self.rows("SELECT host, conclusion FROM kasm_latency.diagnose()")}
        wanted = {"webapp-eu": "network-bound", "webapp-3.example.com": "network-bound",
                  "webapp-slow": "server-bound", "webapp-thinks": "client-bound",
                  "proxy-1": "healthy", "webapp-1": "healthy"}
        require([name for name in said if name in wanted] == list(wanted), f"the order of diagnose: {list(said)}")
        for name, conclusion in wanted.items():
            require(said.get(name) == conclusion, f"diagnose says of {name}: {said.get(name)}")
        # what is said in one sentence is one statistic: queries times what each takes is what all take
        for row in self.rows("SELECT host, conclusion FROM kasm_latency.diagnose()"):
            found = re.search(r"on average ([0-9.]+) queries in a row take ([0-9.]+) ms, ([0-9.]+) ms each;", row["conclusion"])
            if row["host"] in HOSTS:
                require(found and found[1] == "12", f"diagnose says of {row['host']}: {row['conclusion']}")
            if found:
                n, took, each = map(float, found.groups())
                require(near(n * each, took, 0.02 + 0.05 / n), f"{n} times {each} ms is not {took} ms: {row['conclusion']}")
        step = {row["host"]: row["next_step"] for row in self.rows("SELECT * FROM kasm_latency.diagnose()")}
        for name, part in (("webapp-eu", "kasm_latency.flagged WHERE host = 'webapp-eu'"), ("proxy-1", "kasm_latency.flagged"),
                           ("webapp-slow", "pg_stat_statements"), ("webapp-thinks", "host = 'webapp-thinks'"),
                           ("webapp-1", "None here")):
            require(part in step[name], f"the next step with {name}: {step[name]}")
        # what is there to be pasted answers: of a host that pauses, while it is connected
        client = self.hosts["webapp-thinks"].client("--seconds", "600", "--think", "0.06")
        try:
            for name in ("webapp-eu", "webapp-thinks"):
                require(lab.wait_until(lambda: self.rows(step[name].split(";")[0])), f"nothing answers to: {step[name]}")
        finally:
            lab.stop(client)

    def check_summary(self):
        (row,) = self.rows("SELECT kasm_latency.summary()")
        said = row["summary"]
        for part in ("2 of 7 hosts are too far from the database: webapp-eu (120 ms), webapp-3.example.com (25",
                     "to be looked at as well:",
                     "proxy-1 (unexpected client)", "first: SELECT reason, remedy FROM kasm_latency.flagged WHERE host = 'webapp-eu'."):
            require(part in said, f"the summary does not say {part}: {said}")
        # twelve times the path, and no more than 5 ms each time by the client
        takes = re.search(r"; a launch of 12 queries in a row takes (\d+) ms from webapp-eu, and would take", said)
        require(takes and 1440 <= int(takes.group(1)) <= 1500, f"of a launch from webapp-eu the summary says: {said}")
        require("others" not in said, f"nobody waited yet, but {said}")
        (row,) = self.rows("SET kasm_latency.rtt_limit = '1s'; SELECT kasm_latency.summary()")
        require("1 needs a look: proxy-1 (unexpected client); first:" in row["summary"], f"with a far limit: {row['summary']}")

    def check_plan(self):
        plan = self.rows("SELECT * FROM kasm_latency.placement_plan('webapp-eu', 10)")
        require([row["option"] for row in plan] == ["today", "moved beside the database",
                                                    "one more Web App where it is", "a faster database"], f"options: {plan}")
        today, moved, more, faster = (float(row["launch_ms"]) for row in plan)
        own = 10 * (float(plan[0]["server_ms"]) + float(plan[0]["client_ms"]))
        require(near(today, 1200 + own, 0.02), f"a launch of ten today: {today} ms")
        require(near(moved, 10 * 0.5 + 120 + own, 0.02), f"moved: {moved} ms")
        require(faster >= 1200 and faster <= today, f"with a faster database {faster} ms, not {today}")
        require(more == today, f"with one more Web App {more} ms, not {today}")
        hosts = {row["host"] for row in self.rows("SELECT host FROM kasm_latency.placement_plan()")}
        require({"webapp-1", "webapp-eu"} <= hosts and "proxy-1" not in hosts, f"planned for {hosts}")

    def run(self):
        try:
            self.prepare()
            self.launch()
            for query in QUERIES[:-1]:
                self.show(query, *(["-x"] if "conclusion" in query else []))
            self.show("SELECT host, reason, remedy FROM kasm_latency.flagged WHERE host = 'webapp-eu'", "-x")
            self.show("SELECT option, says FROM kasm_latency.placement_plan('webapp-eu')", "-x")
            if not self.showing:
                self.check_hosts()
                self.check_impact()
                self.check_diagnosis()
                self.check_summary()
                self.check_plan()
            self.block()
            self.show_locked()
            if not self.showing:
                self.check_locked()
        finally:
            self.server.remove()
        if not problems and not self.showing:
            print("hosts, flagged, impact, diagnose, summary, placement_plan, blocking, collateral, incident and report: ok")
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(Answers(*sys.argv[1:3], show=sys.argv[3:] == ["show"]).run())
