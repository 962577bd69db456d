"""What is said before it happens, against what happens then: probe() from hosts
at known distances, and load_forecast() against a pool under load.

    forecast.py BINDIR USER         short: two loads of 12 s, wide bounds
    forecast.py BINDIR USER full    three loads of 30 s
    forecast.py BINDIR USER show    print what docs/operations.md shows

The forecast is made once, at the first load.  Then the load grows, and then the
host is moved beside the database, and the same loads come again: the table has
what was forecast, what the clients measured, and by how much it was off.
"""
import json
import os
import sys

import psycopg2
from psycopg2.extras import RealDictCursor

import lab
from checks import finish, require

POOL = 10
FAR_MS, BESIDE_MS = 25, 0.5
# share of the pool's capacity, at FAR_MS
# Beside the database: beyond its floor an exchange at 25 ms took up to 0.4 ms longer than one at 0.5 (see
# docs/performance.md), and the forecast keeps that; a launch has 14 of them, 18 at the 95th percentile.
FULL = {"loads": (0.3, 0.6, 0.85), "seconds": 30, "p50": 0.10, "p95": 0.20, "beside": 0.20, "beside_ms": 7.5}
# beside other tests, on whatever machine
SHORT = {"loads": (0.3, 0.6), "seconds": 12, "p50": 0.15, "p95": 0.25, "beside": 0.40, "beside_ms": 8}
# Of a perfect forecast one run of 30 s in ten at 0.85 would be off by more than 20 % at the 95th percentile, by the
# luck of its arrivals.  So the dice are these, with which an ideal queue comes out within 6 % of an endless run.
DICE = int(os.environ.get("LAB_DICE", "22"))
PROBED = {0.3: "floor_only", 8.5: "floor_only", 11.5: "out_of_band", 25: "out_of_band", 120: "out_of_band"}
PROBE = "SELECT * FROM kasm_latency.probe()"


class Psql:
    """psql on a host, as a role that may probe and nothing else, by TLS and SCRAM."""

    def __init__(self, bindir, host, dsn):
        self.bindir, self.host, self.dsn = bindir, host, dsn

    def run(self, *commands, options=("--csv",)):
        words = [word for command in commands for word in ("-c", command)]
        psql = self.host.popen(os.path.join(self.bindir, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *options,
                               *words, self.dsn, stdout=lab.subprocess.PIPE, stderr=lab.subprocess.PIPE)
        output, errors = psql.communicate(timeout=120)
        return psql.returncode, output, errors

    def probe(self, *before):
        status, output, errors = self.run(*before, PROBE)
        require(status == 0, f"probe() fails: {errors}")
        rows = list(lab.csv.reader(lab.io.StringIO(output)))
        return dict(zip(*rows[-2:])) if status == 0 else {}


class Forecast:
    def __init__(self, bindir, user, bounds):
        self.bindir, self.user, self.bounds = bindir, user, bounds
        self.server = lab.Server(bindir, user, settings="max_connections = 100\nautovacuum = off\n"
                                                        "kasm_latency.app_roles = 'kasmapp'")

    # ----- probe()

    def prepare(self):
        self.server.start()
        self.server.psql("CREATE ROLE scram LOGIN PASSWORD 'secret'",
                         "GRANT USAGE ON SCHEMA kasm_latency TO scram; "
                         "GRANT EXECUTE ON FUNCTION kasm_latency.probe(integer), kasm_latency.assert_here() TO scram")
        self.probed = {rtt_ms: lab.Host(f"at {rtt_ms} ms", rtt_ms, self.user) for rtt_ms in PROBED}
        self.pooler = lab.Host("pooler", 0.3, self.user)
        self.behind = lab.Host("behind the pooler", 120 - 0.3, self.user)
        self.app = lab.Host("webapp-eu", FAR_MS, self.user)
        self.server.psql(f"SELECT kasm_latency.register_host('{self.app.addr}', 'webapp-eu')", options=["-o", "/dev/null"])

    def check_probes(self):
        lines = [["true RTT", "rtt_ms", "verdict", "in a transaction", "launch_ms", "assert_here()"]]
        for rtt_ms, expected in PROBED.items():
            host = self.probed[rtt_ms]
            psql = Psql(self.bindir, host, host.dsn(user="scram", dbname="postgres") + " password=secret")
            alone, inside = psql.probe(), psql.probe("BEGIN", "SELECT 1")
            status, output, errors = psql.run("SELECT kasm_latency.assert_here()", options=("-A", "-t"))
            near = rtt_ms < 10
            for said, verdict in ((alone, expected), (inside, "in_band" if near else expected)):
                rtt = float(said.get("rtt_ms") or "nan")
                require(lab.is_distance(rtt, rtt_ms, 0.05, 0.3, host), f"from {rtt_ms} ms probe() says {rtt} ms")
                # 8.5 ms and what a busy machine adds may be the limit
                require(said.get("verdict") in ((verdict, "unproven") if rtt_ms == 8.5 and said is inside else (verdict,)),
                        f"from {rtt_ms} ms probe() says {said}")
                require(said.get("client_addr") == host.addr, f"probe() came from {said.get('client_addr')}, not {host.addr}")
                require(("zone" in said.get("says", "")) == (1 <= rtt_ms < 10 and said.get("verdict") != "unproven"),
                        f"from {rtt_ms} ms the gain in the database's zone: {said.get('says')}")
            require((status == 0 and output.startswith("OK: Near" if "near enough" in output else "OK: What")) if near
                    else status != 0 and "ERROR:  Too far for a Web App" in errors and output == "",
                    f"from {rtt_ms} ms assert_here() ends with {status}: {output}{errors}")
            lines.append([f"{rtt_ms:g}", alone["rtt_ms"], alone["verdict"], inside["verdict"], alone["launch_ms"],
                          "OK" if status == 0 else f"exit {status}"])
        lines += self.check_pooler()
        self.table("probe(), by psql over TLS and SCRAM", lines)
        # the candidate's and the role's own traffic never counts, however far
        flagged = self.server.rows("SELECT * FROM kasm_latency.flagged")
        require(flagged == [], f"flagged by probing: {flagged}")
        status, _, errors = Psql(self.bindir, host, host.dsn(user="scram", dbname="postgres") + " password=secret").run(
            "SELECT * FROM kasm_latency.hosts")
        require(status != 0 and "permission denied" in errors, f"who may probe may see more: {errors}")

    def check_pooler(self):
        """From 120 ms by way of a pgbouncer near the server: nothing is claimed
        of what is behind, and inside a transaction it is not called near."""
        ini = os.path.join(self.server.dir, "pgbouncer.ini")
        with open(ini, "w") as file:
            file.write(f"[databases]\npostgres = host={self.pooler.server_addr} port={lab.PORT} dbname=postgres "
                       "user=scram password=secret\n[pgbouncer]\nlisten_addr = *\nlisten_port = 6432\nunix_socket_dir =\n"
                       "auth_type = any\npool_mode = transaction\nserver_tls_sslmode = require\n"
                       "ignore_startup_parameters = extra_float_digits\n")
        os.chmod(ini, 0o644)
        pgbouncer = self.pooler.popen("/usr/sbin/pgbouncer", "-q", ini, stderr=lab.subprocess.DEVNULL)
        try:
            require(lab.wait_until(lambda: lab.run(*self.pooler.inside, "ss", "-Hltn", "sport = 6432")), "nothing listens")
            psql = Psql(self.bindir, self.behind, lab.dsn(self.pooler.addr, port=6432, dbname="postgres", sslmode="disable"))
            alone, inside = psql.probe(), psql.probe("BEGIN", "SELECT 1")
            status, _, errors = psql.run("BEGIN", "SELECT 1", "SELECT kasm_latency.assert_here()")
        finally:
            lab.stop(pgbouncer)
        require(alone.get("verdict") == "floor_only" and "this is the distance to that one" in alone["says"],
                f"behind a pooler probe() says {alone}")
        require(inside.get("verdict") == "unproven" and "hides the distance" in inside["says"],
                f"behind a pooler, in a transaction, probe() says {inside}")
        require(status != 0 and "hides the distance" in errors, f"behind a pooler assert_here() ends with {status}: {errors}")
        return [["120, by pgbouncer at 0.3", alone["rtt_ms"], alone["verdict"], inside["verdict"], alone["launch_ms"], ""]]

    def check_candidate(self):
        """A place that is tried out as the Web Apps' own role, once registered
        as a candidate, is never flagged."""
        host = self.probed[120]
        self.server.psql(f"SELECT kasm_latency.register_host('{host.addr}', 'new-site', 'candidate')", options=["-o", "/dev/null"])
        lab.result(host.client("--launches", "5"))
        seen = self.server.rows("SELECT host_role, verdict FROM kasm_latency.hosts WHERE host = 'new-site'")
        flagged = self.server.rows("SELECT * FROM kasm_latency.flagged")
        said = self.server.psql("SELECT kasm_latency.assert_in_band()", options=["-A", "-t"])
        require([row["host_role"] for row in seen] == ["candidate"] and flagged == [] and said.startswith("OK"),
                f"of a candidate at 120 ms: {seen}, {flagged}, {said}")

    def check_advice(self):
        """Between 1 and 10 ms the database's zone is advised, as information
        and with the gain: 12 exchanges of 8 ms each."""
        host = self.probed[8.5]
        lab.result(host.client("--launches", "5"))
        plan = self.server.rows(f"SELECT option, launch_ms, says FROM kasm_latency.placement_plan('{host.addr}')")
        said = {row["option"]: row for row in plan}
        moved = said.get("moved beside the database", {"says": "nothing", "launch_ms": "nan"})
        require("near enough; in the database's own zone each launch would take" in moved["says"], f"at 8.5 ms: {moved}")
        gain = float(said["today"]["launch_ms"]) - float(moved["launch_ms"])
        require(abs(gain - 12 * 8) < 0.05 * 12 * 8 + 1, f"at 8.5 ms the zone gains {gain} ms")

    # ----- load_forecast()

    def start_app(self):
        """The Web App.  It and the server go before whatever else this machine
        does, as the relay's packets do: else it would be the others' load that
        is measured here."""
        self.running = self.app.popen(lab.PYTHON, os.path.join(lab.HERE, "load.py"), self.app.dsn(), str(POOL),
                                      stdin=lab.subprocess.PIPE, stdout=lab.subprocess.PIPE)
        with open(self.server.data + "/postmaster.pid") as pidfile:
            postmaster = int(pidfile.readline())
        for pid in (self.running.pid, postmaster):
            try:
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(5))
            except PermissionError:
                pass  # then the bounds may be missed where the machine is busy

    def ask(self, *words):
        self.running.stdin.write(" ".join(map(str, words)) + "\n")
        self.running.stdin.flush()
        answer = self.running.stdout.readline()
        if not answer:
            raise RuntimeError("the Web App failed")
        return json.loads(answer)

    def stop_app(self):
        self.running.stdin.close()
        self.running.wait()

    def loads(self, rates, after_first=None):
        """What the clients measure at each of these loads."""
        measured = []
        for number, rate in enumerate(rates):
            measured.append({**self.ask("load", rate, self.bounds["seconds"], DICE), "machine": os.getloadavg()[0]})
            if number == 0 and after_first:
                after_first()
        return measured

    def open_session(self):
        """A session that is there when it is needed: launches per second are of
        the time from the reset to the forecast, and a psql that starts on a
        busy machine would be part of it."""
        self.session = psycopg2.connect(host=self.server.dir, port=self.server.port, user="postgres", dbname="postgres",
                                        cursor_factory=RealDictCursor)
        self.session.autocommit = True
        self.make_forecast()  # planned, and with what it needs of catalogs

    def rows(self, query):
        with self.session.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def make_forecast(self):
        times = ",".join(str(load / self.bounds["loads"][0]) for load in self.bounds["loads"])
        rows = self.rows(f"SELECT * FROM kasm_latency.load_forecast('webapp-eu', {POOL}, '{{{times}}}')")
        self.forecast = {place: [row for row in rows if row["place"] == place] for place in ("today", "beside the database")}

    def check_loads(self):
        self.start_app()
        # connections are made, and what an engine asks at its first is asked
        held_ms = self.ask("warm", 5)["held_ms"]
        capacity = 1000 * POOL / held_ms
        rates = [load * capacity for load in self.bounds["loads"]]
        print(f"a pool of {POOL} at {FAR_MS} ms; a launch holds a connection for {held_ms:.1f} ms: capacity {capacity:.1f}/s", flush=True)
        self.open_session()
        self.rows("SELECT kasm_latency.reset('webapp-eu')")
        far = self.loads(rates, self.make_forecast)
        self.session.close()
        self.stop_app()
        self.app.set_path(BESIDE_MS)
        self.start_app()
        self.ask("warm", 5)
        near = self.loads(rates)
        self.stop_app()
        lines = [["place", "load", "launches/s", "forecast p50", "measured", "error", "forecast p95", "measured", "error",
                  "late", "cpu", "machine"]]
        for place, measured in (("today", far), ("beside the database", near)):
            for load, rate, said, was in zip(self.bounds["loads"], rates, self.forecast[place], measured):
                lines.append(self.compare(place, load, rate, said, was))
        self.table("launches: forecast at the first load, measured by the clients (ms)", lines)

    def compare(self, place, load, rate, said, was):
        line = [place, f"{load:g}", f"{rate:.1f}"]
        for what in ("p50", "p95"):
            forecast, measured = float(said[f"launch_{what}_ms"] or "nan"), was[f"{what}_ms"]
            error = forecast / measured - 1
            line += [f"{forecast:.1f}", f"{measured:.1f}", f"{error:+.1%}"]
            bound, slack = (self.bounds[what], 0) if place == "today" else (self.bounds["beside"], self.bounds["beside_ms"])
            require(abs(forecast - measured) <= max(bound * measured, slack),
                    f"{place}, at {load} of capacity: {what} was forecast as {forecast:.1f} ms, and was {measured:.1f}")
        require(abs(float(said["launches_per_s"]) / rate - 1) < 0.05,
                f"at {load} of capacity {said['launches_per_s']} launches/s are forecast, and {rate} were offered")
        return line + [f"{was['late_ms']:.1f}", f"{was['cpu']:.0%}", f"{was['machine']:.1f}"]

    # ----- what the guide shows

    def show_on(self, host, command, status=0):
        """Print what a shell on that host does."""
        print(f"{host.name}$ {command}", flush=True)
        shell = host.popen("env", f"PATH={self.bindir}:/usr/bin:/bin", "PGPASSWORD=secret", f"PGHOST={host.server_addr}",
                           f"PGPORT={lab.PORT}", "PGUSER=scram", "PGDATABASE=postgres", "PSQLRC=/dev/null", "sh", "-c", command,
                           stdout=lab.subprocess.PIPE, stderr=lab.subprocess.STDOUT)
        print(shell.communicate()[0], flush=True)
        require(shell.returncode == status, f"{command} ends with {shell.returncode}")

    def show(self):
        near, far = self.probed[0.3], self.probed[120]
        near.name, far.name = "zone-a", "new-site"
        inside = "psql -xq -c BEGIN -c 'SELECT 1' -c 'SELECT * FROM kasm_latency.probe()'"
        self.show_on(far, "psql -x -c 'SELECT * FROM kasm_latency.probe()'")
        self.show_on(near, inside)
        self.show_on(far, "psql -qAt -c 'SELECT kasm_latency.assert_here()' && echo deployed", 1)
        self.show_on(near, "psql -qAt -c 'SELECT kasm_latency.assert_here()' && echo deployed")
        self.show_on(far, "echo 'SELECT 1;' | pgbench -n -t 20 -f -")
        self.start_app()
        self.ask("warm", 2)
        self.server.psql("SELECT kasm_latency.reset('webapp-eu')", options=["-o", "/dev/null"])
        self.ask("load", 14, 20, DICE)
        for query in ("""SELECT place, times, launches_per_s AS per_s, busy_connections AS busy, utilisation,
       launch_p50_ms AS p50_ms, launch_p95_ms AS p95_ms
FROM kasm_latency.load_forecast('webapp-eu')""",
                      "SELECT says FROM kasm_latency.load_forecast('webapp-eu', times => '{8}') WHERE place = 'today'"):
            print("postgres=# " + query.replace("\n", "\npostgres-# ") + ";")
            print(self.server.psql(query))
        if os.environ.get("REPORT"):
            with open(os.environ["REPORT"], "w") as file:
                file.write(self.server.psql("SELECT kasm_latency.report()", options=["-At"]))
        self.stop_app()

    @staticmethod
    def table(title, lines):
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        print(title)
        for line in lines:
            print("  " + "  ".join([line[0].ljust(widths[0])]
                                   + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]).rstrip())
        print(flush=True)

    def run(self):
        try:
            self.prepare()
            if self.bounds is None:
                self.show()
            else:
                self.check_probes()
                self.check_candidate()
                self.check_advice()
                self.check_loads()
        finally:
            if hasattr(self, "running") and self.running.poll() is None:
                lab.stop(self.running)
            self.server.remove()
        return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    how = sys.argv[3] if len(sys.argv) > 3 else "short"
    sys.exit(Forecast(*sys.argv[1:3], {"short": SHORT, "full": FULL, "show": None}[how]).run())
