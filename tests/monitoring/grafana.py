"""The queries of docs/monitoring/grafana.json, each run as Grafana would send it
by a role with pg_monitor, on 50 live hosts and 90 days of their history at 5
minutes: each answers with rows within 200 ms, for the last six hours and for
all 90 days; and incident() within 300 ms over an hour of them.

    grafana.py BINDIR USER

Time is that of the server's processor (a query of these needs one process), as
other tests may run beside this one; the best of several runs counts.
"""
import asyncio
import datetime
import json
import os
import re
import sys
import time

import psycopg2

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab"), os.path.join(HERE, "..", "lib")]
import lab  # noqa: E402
from rawclient import Connection  # noqa: E402

DASHBOARD = os.path.join(HERE, "..", "..", "docs", "monitoring", "grafana.json")
BUDGET_MS, RUNS = 200, 8
DAYS, HOSTS, POINTS = 90, 50, 1000
INCIDENT_BUDGET_MS = 300
INCIDENTS = {"an hour": "now() - interval '1 hour'",
             "an hour long ago": "now() - interval '60 days', now() - interval '60 days' + interval '1 hour'",
             "a week": "now() - interval '7 days'"}
RANGES = {"6 hours": datetime.timedelta(hours=6), f"{DAYS} days": datetime.timedelta(days=DAYS)}
# an interval of up to so many seconds is rounded to that by Grafana
ROUNDED = [(1.5, 1), (3.5, 2), (7.5, 5), (12.5, 10), (17.5, 15), (25, 20), (45, 30), (90, 60), (210, 120), (450, 300),
           (750, 600), (1050, 900), (1500, 1200), (2700, 1800), (5400, 3600), (9000, 7200), (16200, 10800), (32400, 21600)]
UNITS = [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)]
# a snapshot appends all hosts at once, so that its rows lie side by side
FILL = f"""
INSERT INTO kasm_latency.history (taken_at, host, host_role, zone, verdict, round_trips, transactions, rtt_ms, hidden_ms,
                                  turnaround_p10_ms, turnaround_p50_ms, turnaround_p95_ms, server_p50_ms, server_p95_ms,
                                  blocks, far_blocks, network_s, in_transaction_wait_s, lock_wait_s, waited_for, made_others_wait_s,
                                  network_share, server_share, lock_share, client_share, chain_p50, chain_p50_ms, span)
SELECT t, 'webapp-' || n, 'webapp', 'zone-' || n % 3,
       CASE WHEN f.rtt_ms >= 10 THEN 'out_of_band' WHEN f.hidden_ms IS NOT NULL THEN 'unproven' ELSE 'in_band' END,
       3000, 250, f.rtt_ms, f.hidden_ms,
       f.rtt_ms + 0.1, f.rtt_ms + 0.2, f.rtt_ms + 2, 0.1, 1,
       250, CASE WHEN n % 10 < 2 THEN 25 ELSE 0 END, 3 * f.rtt_ms, 2.75 * f.rtt_ms,
       -- each waits for the far ones, and for itself
       60, (SELECT jsonb_object_agg('webapp-' || m, 10) FROM unnest(ARRAY[n, 10, 20, 30, 40, 50]) AS m), CASE n % 10 WHEN 0 THEN 490 ELSE 0 END,
       0.9, 0.02, 0.03, 0.05, 12, 13 * f.rtt_ms, '15 min'
FROM (SELECT t, generate_series(1, {HOSTS}) AS n
      FROM generate_series(date_trunc('minute', now()) - interval '{DAYS} days', now(), '5 min') AS t) AS s
CROSS JOIN LATERAL (SELECT CASE n % 10 WHEN 0 THEN 120 ELSE 0.3 + n % 5 END + random() AS rtt_ms,
                           CASE n % 10 WHEN 1 THEN 120 + random() END AS hidden_ms) AS f"""
LIVE = {"Hosts, now": HOSTS, "Flagged, now": HOSTS // 10, "Who made whom wait": 100, "Who makes whom wait, now": 1}  # rows
problems = []


def require(condition, problem):
    if not condition:
        problems.append(problem)


def seconds(text):
    return int(text[:-1]) * dict(UNITS)[text[-1]]


def interval_of(span, least, points):
    """The $__interval of a panel so many points wide, in seconds."""
    wanted = span.total_seconds() / min(points, POINTS)
    return max(next(rounded for limit, rounded in ROUNDED if wanted < limit), least)


def interval_text(length):
    unit, of = next((unit, of) for unit, of in UNITS if length % of == 0)
    return f"{length // of}{unit}"


def expand(sql, begin, end, interval, hosts):
    """A query with Grafana's macros and the dashboard's variables filled in."""
    def moment(value):
        return value.strftime("'%Y-%m-%dT%H:%M:%SZ'")

    def group(match):
        step = seconds(match[2].strip().strip("'"))
        return f"floor(extract(epoch from {match[1]})/{step})*{step}"

    sql = sql.replace("$__interval_ms", str(interval * 1000)).replace("$__interval", interval_text(interval))
    sql = sql.replace("${host:sqlstring}", ",".join("'" + host.replace("'", "''") + "'" for host in hosts))
    for pattern, by in ((r"\$__timeFilter\(([^)]*)\)", lambda m: f"{m[1]} BETWEEN {moment(begin)} AND {moment(end)}"),
                        (r"\$__timeFrom\(\)", lambda m: moment(begin)), (r"\$__timeTo\(\)", lambda m: moment(end)),
                        (r"\$__timeGroupAlias\(([^,)]*),([^,)]*)\)", lambda m: group(m) + ' AS "time"'),
                        (r"\$__timeGroup\(([^,)]*),([^,)]*)\)", group),
                        (r"\$__time\(([^)]*)\)", lambda m: f'{m[1]} AS "time"')):
        sql = re.sub(pattern, by, sql)
    require("$" not in sql, f"not expanded: {sql}")
    return sql


class Reader:
    """Who reads for Grafana, and how long the server works for it."""

    def __init__(self, server):
        self.conn = psycopg2.connect(f"host={server.dir} port={server.port} dbname=postgres user=monitor "
                                     "options='-c max_parallel_workers_per_gather=0'")
        self.conn.autocommit = True
        self.schedstat = f"/proc/{self.conn.get_backend_pid()}/schedstat"

    def worked_ms(self):
        """Time on a processor, or by the clock where the kernel does not tell."""
        try:
            with open(self.schedstat) as file:
                return int(file.read().split()[0]) / 1e6
        except OSError:
            return time.monotonic() * 1000

    def run(self, sql):
        """Column names, rows, and the milliseconds of one run."""
        with self.conn.cursor() as cursor:
            before = self.worked_ms()
            cursor.execute(sql)
            took = self.worked_ms() - before
            return [column.name for column in cursor.description], cursor.fetchall(), took

    def best(self, sql, budget_ms=BUDGET_MS):
        """The same, of the best run: the first that is well within the budget,
        or of all."""
        best = None
        for _ in range(RUNS):
            columns, rows, took = self.run(sql)
            best = took if best is None else min(best, took)
            if best < 0.75 * budget_ms:
                break
        return columns, rows, best


async def live_hosts(server):
    """As many hosts, by their addresses, a tenth of them proxies."""
    async def host(number):
        conn = await Connection.open(server.port, local_addr=f"127.0.1.{number}", user="kasmapp")
        for sql in ["BEGIN"] + 30 * ["SELECT 1"] + ["COMMIT"]:
            await conn.query(sql)
        await conn.close()

    server.psql("SELECT kasm_latency.register_host(('127.0.1.' || n)::inet, 'webapp-' || n, "
                f"CASE n % 10 WHEN 0 THEN 'proxy' ELSE 'webapp' END) FROM generate_series(1, {HOSTS}) AS n",
                options=["-o", "/dev/null"])
    await asyncio.gather(*(host(number + 1) for number in range(HOSTS)))
    # one makes another wait
    holder, waiter = [await Connection.open(server.port, local_addr=f"127.0.1.{number}", user="kasmapp") for number in (10, 11)]
    await holder.query("SELECT pg_advisory_lock(1)")
    waiting = asyncio.ensure_future(waiter.query("SELECT pg_advisory_xact_lock(1)"))
    require(await asyncio.get_running_loop().run_in_executor(None, lab.wait_until, lambda: server.rows("SELECT 1 AS n FROM kasm_latency.collateral")),
            "nobody waits")
    await holder.query("SELECT pg_advisory_unlock(1)")
    await waiting
    for conn in (holder, waiter):
        await conn.close()


def check_structure(dashboard):
    """What Grafana 10 and later need to load it."""
    for key, kind in (("uid", str), ("title", str), ("schemaVersion", int), ("panels", list), ("templating", dict), ("time", dict)):
        require(isinstance(dashboard.get(key), kind), f"{key} is {dashboard.get(key)!r}")
    require(dashboard["schemaVersion"] >= 39, "a schema older than Grafana 10's")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    require(variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "postgres", "no data source to choose")
    source = {"type": "postgres", "uid": "${datasource}"}
    taken, ids = set(), set()
    for panel in dashboard["panels"]:
        title, at = panel["title"], panel["gridPos"]
        ids.add(panel["id"])
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        require(at["x"] + at["w"] <= 24 and not cells & taken, f"{title}: over another panel, or the edge")
        taken |= cells
        require(panel["description"], f"{title}: no description")
        for holder in (panel, *panel["targets"]):
            require(holder["datasource"] == source, f"{title}: another data source")
        require(all(target["rawSql"] and target["format"] in ("table", "time_series") for target in panel["targets"]),
                f"{title}: no query")
    require(len(ids) == len(dashboard["panels"]), "panels share an id")
    with_lines = {panel["title"] for panel in dashboard["panels"]
                  if panel["fieldConfig"]["defaults"].get("custom", {}).get("thresholdsStyle", {}).get("mode") == "line"
                  and [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, 1, 5, 10]}
    require(with_lines == {"Round trip", "Turnaround"}, f"lines at 1, 5 and 10 ms: {with_lines}")


def check_answer(title, target, columns, rows, span):
    if target["format"] == "table":
        require(len(rows) >= LIVE.get(title, 0), f"{title}: {len(rows)} rows")
        return
    require(columns == ["time", "metric", "value"], f"{title}: columns {columns}")
    times = {row[0] for row in rows}
    require(70 <= len(times) <= POINTS * 1.2, f"{title}: {len(times)} points")
    require(max(times) - min(times) >= 0.99 * span - datetime.timedelta(minutes=5), f"{title}: {min(times)} to {max(times)}")
    require([row[0] for row in rows] == sorted(row[0] for row in rows), f"{title}: not in order of time")
    hidden = {row[1] for row in rows if row[1].endswith(" (hidden)")}
    require(len(hidden) == (HOSTS // 10 if title == "Round trip" else 0), f"{title}: hidden distances of {hidden}")


def main(bindir, user):
    with open(DASHBOARD) as file:
        dashboard = json.load(file)
    check_structure(dashboard)
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1",
                        settings="autovacuum = off\nwal_level = minimal\nmax_wal_senders = 0\nmax_wal_size = 4GB")
    try:
        server.start()
        server.psql("CREATE ROLE monitor LOGIN IN ROLE pg_monitor", FILL, "VACUUM ANALYZE kasm_latency.history")
        (size,) = server.rows("SELECT count(*) AS n FROM kasm_latency.history")
        require(int(size["n"]) >= 1.29e6, f"history has {size['n']} rows")
        asyncio.run(live_hosts(server))
        reader = Reader(server)
        end = datetime.datetime.now(datetime.timezone.utc)
        (names,) = (variable for variable in dashboard["templating"]["list"] if variable["type"] == "query")
        _, rows, took = reader.best(names["query"])
        hosts = [row[0] for row in rows]
        require(len(hosts) == HOSTS, f"the variable host has {len(hosts)} values")
        require(took < BUDGET_MS, f"the variable host takes {took:.0f} ms")
        worst = {}
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                for name, span in RANGES.items():
                    interval = interval_of(span, seconds(panel.get("interval", "1s")), panel.get("maxDataPoints", POINTS))
                    columns, rows, took = reader.best(expand(target["rawSql"], end - span, end, interval, hosts))
                    print(f"{panel['title']:22} {name:8} step {interval_text(interval):>3} {len(rows):6} rows {took:6.1f} ms")
                    worst[name] = max(worst.get(name, 0), took)
                    require(took < BUDGET_MS, f"{panel['title']} over {name} takes {took:.0f} ms")
                    require(rows, f"{panel['title']} over {name}: no rows")
                    check_answer(panel["title"], target, columns, rows, span)
        for name, at in INCIDENTS.items():
            _, rows, took = reader.best(f"SELECT * FROM kasm_latency.incident({at})", INCIDENT_BUDGET_MS)
            print(f"{'incident()':22} {name:16} {len(rows):6} rows {took:6.1f} ms")
            require(len(rows) == HOSTS, f"incident() over {name}: {len(rows)} rows")
            # a week is shown only: it is read twice, with all that is in it
            require(took < INCIDENT_BUDGET_MS or name == "a week", f"incident() over {name} takes {took:.0f} ms")
        reader.conn.close()
    finally:
        server.remove()
    for problem in problems:
        print("NOT OK: " + problem)
    if not problems:
        print(f"grafana: {len(dashboard['panels'])} panels on {size['n']} rows of history, at most "
              + ", ".join(f"{took:.0f} ms over {name}" for name, took in worst.items()))
    return 1 if problems else 0


if __name__ == "__main__":
    lab.stop_on_signals()
    sys.exit(main(*sys.argv[1:3]))
