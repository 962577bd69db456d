"""Debian's postgres_exporter and Prometheus, with the files of docs/monitoring,
watch hosts at real distances: alerts fire for who is far, in doubt, has no
business here or makes others wait, and clear when that is mended; histogram_quantile agrees with
"hosts", as far as its buckets go, few or fine; sql_exporter.yml says the same as postgres_exporter.yml; and it is
noticed when nothing is seen any more.

    prometheus.py BINDIR USER          hold all that against the truth
    prometheus.py BINDIR USER show     print what docs/monitoring/README.md shows

Exits with 77, after saying why, where there can be no lab or no Prometheus.
"""
import json
import os
import re
import shutil
import sys
import time
import urllib.parse
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(HERE, "..", "..", "docs", "monitoring")
sys.path.insert(0, os.path.join(HERE, "..", "lab"))
import lab  # noqa: E402

EXPORTER, PROMETHEUS = "prometheus-postgres-exporter", "prometheus"
# in a network namespace of our own every port is free
EXPORTER_AT, PROMETHEUS_AT = "127.0.0.1:9187", "127.0.0.1:9090"
LABELS = {"__name__", "host", "host_role", "zone", "blocking_host", "waiting_host", "le", "server", "job", "instance"}
FAR, PROXY, THINKS = "webapp-eu", "proxy-1", "webapp-2"
HOSTS = {"webapp-1": 0.3, THINKS: 0.3, PROXY: 3, FAR: 25}
LAUNCHES = {"webapp-1": 40, THINKS: 4, PROXY: 10, FAR: 8}
CONNECTIONS = 3  # of each host: its series must not be more
VERDICTS = {("KasmWebAppFar", "critical", FAR), ("KasmProxyAtDatabase", "warning", PROXY),
            ("KasmWebAppUnproven", "warning", THINKS)}
WANTED = VERDICTS | {("KasmHostMakesOthersWait", "warning", FAR)}
UPDATING = ("webapp-1", FAR)  # the same row
# buckets of a histogram, the last one without a bound: of the few that are exported, and of the fine ones
FEW, FINE = 20, 212
SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
problems = []


def require(condition, problem):
    if not condition:
        problems.append(problem)


def get(at, path):
    with urllib.request.urlopen(f"http://{at}{path}", timeout=60) as answer:
        return answer.read().decode()


def answers(at, path):
    try:
        return get(at, path)
    except OSError:
        return None


class Monitoring:
    def __init__(self, bindir, user, show):
        self.user, self.show = user, show
        self.server = lab.Server(bindir, user, settings="autovacuum = off")
        self.dir = self.server.dir
        self.running = []

    def say(self, *lines):
        if self.show:
            print("\n".join(lines))

    # ----- the programs

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path

    def program(self, *command):
        """Start one as the user, to be stopped at the end; its output is kept."""
        with open(os.path.join(self.dir, os.path.basename(command[0]) + ".log"), "a") as log:
            process = lab.popen(self.user, "env",
                                f"DATA_SOURCE_NAME=user=monitor host={self.dir} dbname=postgres",
                                *command, cwd=self.dir, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def queries(self):
        """postgres_exporter.yml, and its turnarounds once more in fine buckets."""
        with open(os.path.join(DOCS, "postgres_exporter.yml")) as file:
            queries = file.read()
        histogram = re.search(r"^kasm_latency_turnaround:\n(?: .*\n)+", queries, re.M)[0]
        fine = histogram.replace("kasm_latency_turnaround:", "kasm_latency_fine_turnaround:")
        fine, chosen = re.subn(r"host_buckets\('turnaround'\)", "host_buckets('turnaround', fine => true)", fine)
        require(chosen == 1, "postgres_exporter.yml: where are the buckets chosen?")
        return self.write("postgres_exporter.yml", queries + "\n" + fine)

    def start(self):
        self.hosts = {name: lab.Host(name, rtt_ms, self.user) for name, rtt_ms in HOSTS.items()}
        self.server.start()
        self.server.psql("CREATE ROLE monitor LOGIN IN ROLE pg_monitor", "CREATE TABLE launched (id int, n int)",
                         "INSERT INTO launched VALUES (1, 0)", "GRANT ALL ON launched TO kasmapp")
        for name, host in self.hosts.items():
            role = "proxy" if name == PROXY else "webapp"
            self.server.psql(f"SELECT kasm_latency.register_host('{host.addr}', '{name}', '{role}', 'lab')",
                             options=["-o", "/dev/null"])
        self.exporter = self.program(shutil.which(EXPORTER), f"--web.listen-address={EXPORTER_AT}",
                                     "--extend.query-path=" + self.queries())
        # the rules as they are, but that they wait no minutes (promtool counts these), and look back on none
        with open(os.path.join(DOCS, "alerts.yml")) as rules:
            rules, shortened = re.subn(r"\bfor: \w+", "for: 1s", rules.read())
        require(shortened >= 5, f"only {shortened} rules wait")
        require("[10m]" in rules, "no rule looks back on ten minutes")
        rules = rules.replace("[10m]", "[20s]")
        rules = self.write("alerts.yml", rules)
        config = self.write("prometheus.yml", f"""
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ['{rules}']
scrape_configs:
  - job_name: kasm_latency
    static_configs: [{{targets: ['{EXPORTER_AT}']}}]
""")
        lab.run(*lab.as_user(self.user), "mkdir", os.path.join(self.dir, "tsdb"))
        self.program(shutil.which(PROMETHEUS), f"--config.file={config}", f"--web.listen-address={PROMETHEUS_AT}",
                     "--storage.tsdb.path=" + os.path.join(self.dir, "tsdb"))
        require(lab.wait_until(lambda: answers(PROMETHEUS_AT, "/-/ready")), "Prometheus does not get ready")
        require(lab.wait_until(lambda: self.query("kasm_latency_info_measuring == 1")),
                "Prometheus sees no exporter: " + self.log(EXPORTER))

    def log(self, program):
        with open(os.path.join(self.dir, program + ".log")) as log:
            return log.read()[-2000:]

    # ----- what they say

    def query(self, expression):
        """An instant query's samples: labels and value."""
        answer = json.loads(get(PROMETHEUS_AT, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        return [(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"]]

    def by_host(self, expression):
        return {labels["host"]: value for labels, value in self.query(expression)}

    def alerts(self):
        """Alerts that fire: name, severity, host."""
        alerts = json.loads(get(PROMETHEUS_AT, "/api/v1/alerts"))["data"]["alerts"]
        return {(alert["labels"]["alertname"], alert["labels"]["severity"], alert["labels"].get("host"))
                for alert in alerts if alert["state"] == "firing"}

    def hidden_ms(self):
        (row,) = self.server.rows(f"SELECT hidden_ms FROM kasm_latency.flagged WHERE host = '{THINKS}'")
        return float(row["hidden_ms"])

    def check_summary(self):
        """The alert of who is in doubt names the distance, in the unit that Prometheus chooses."""
        alerts = json.loads(get(PROMETHEUS_AT, "/api/v1/alerts"))["data"]["alerts"]
        (said,) = [alert["annotations"]["summary"] for alert in alerts if alert["labels"]["alertname"] == "KasmWebAppUnproven"]
        found = re.fullmatch(THINKS + r" looks near, and what is behind it may be about ([0-9.]+)ms away", said)
        require(found and abs(float(found[1]) - self.hidden_ms()) < 0.02, f"the alert says {said}, flagged {self.hidden_ms()} ms")

    def wait_for_alerts(self, wanted, after):
        """Until these fire, and no others."""
        if not lab.wait_until(lambda: self.alerts() == wanted, 60):
            require(False, f"after {after} {self.alerts()} fire, not {wanted}; " + self.log(EXPORTER))

    def exported(self):
        """What the exporter says of the extension: values by name and labels."""
        samples = {}
        for line in get(EXPORTER_AT, "/metrics").splitlines():
            if line.startswith("kasm_latency"):
                name, labels, value = SAMPLE.match(line).groups()
                samples[name, frozenset(LABEL.findall(labels or ""))] = float(value)
        return samples

    # ----- the story

    def launch(self, think):
        # one that works after its BEGIN too cannot be told from a distance
        clients = [host.client("--launches", str(LAUNCHES[name]), "--pause", "0", "--connections", str(CONNECTIONS),
                               *(["--begin", "--think", str(think)] if name == THINKS else []),
                               *(["--update", "1"] if name in UPDATING and think else []),
                               dsn=host.dsn(dbname="postgres"))
                   for name, host in self.hosts.items() if name != PROXY or think]
        for client in clients:
            lab.result(client)

    def check_figures(self):
        """What Prometheus has of hosts, all of whose clients are gone."""
        host_rows = {row["host"]: row for row in self.server.rows("SELECT * FROM kasm_latency.hosts")
                     if row["host"] in HOSTS}
        counts = {row["host"]: float(row["count"]) for row in self.server.rows(
            "SELECT host, count FROM kasm_latency.host_buckets('turnaround')") if row["host"] in HOSTS}
        require(set(counts) == set(HOSTS), f"turnarounds were counted of {set(counts)}")
        few, fine = "kasm_latency_turnaround_seconds", "kasm_latency_fine_turnaround_seconds"
        for histogram in (few, fine):
            scraped = lab.wait_until(
                lambda: {h: n for h, n in self.by_host(histogram + "_count").items() if h in HOSTS} == counts)
            require(scraped, f"Prometheus counts {self.by_host(histogram + '_count')}, not {counts}")
        bounds = sorted(float(labels["le"]) * 1000 for labels, _ in self.query(f'{few}_bucket{{host="{FAR}"}}'))
        for fraction, column in ((0.5, "turnaround_p50"), (0.95, "turnaround_p95")):
            quantiles, narrow = (self.by_host(f"histogram_quantile({fraction}, {histogram}_bucket)") for histogram in (few, fine))
            gauges = self.by_host(f"kasm_latency_host_{column}_seconds")
            for name in HOSTS:
                said = float(host_rows[name][column + "_ms"])
                quantile, close, gauge = quantiles[name] * 1000, narrow[name] * 1000, gauges[name] * 1000
                self.say(f"{name:10} {column} hosts {said:9.3f} ms  histogram_quantile {quantile:9.3f} ms  fine {close:9.3f} ms")
                # as far as buckets go: it is in the right one
                require(any(low * 0.999 <= min(said, quantile) and max(said, quantile) <= high * 1.001
                            for low, high in zip(bounds, bounds[1:])), f"{name}: {column} is {said}, histogram_quantile {quantile}")
                require(abs(close - said) <= 0.1 * said, f"{name}: {column} is {said}, histogram_quantile of fine buckets {close}")
                require(abs(gauge - said) < 1e-6 * said, f"{name}: {column} is {said}, the gauge {gauge}")
        for name, rtt in self.by_host('kasm_latency_host_rtt_seconds{host!="[local]"}').items():
            require(abs(rtt * 1000 - float(host_rows[name]["rtt_ms"])) < 1e-6, f"{name}: a round trip of {rtt} s")
        for column in ("blocks", "far_blocks"):
            gauges = self.by_host("kasm_latency_host_" + column)
            for name in HOSTS:
                require(gauges[name] == float(host_rows[name][column]), f"{name}: {gauges[name]} {column}")
        # who waited, and for whom
        totals = {row["host"]: row for row in self.server.rows("SELECT host, sum(lock_wait_s) AS lock_wait_s, sum(made_others_wait_s) "
                  "AS made_others_wait_s, sum(made_others_wait_for_client_s) AS made_others_wait_for_client_s "
                  "FROM kasm_latency.totals GROUP BY host")}
        for column in ("lock_wait", "made_others_wait", "made_others_wait_for_client"):
            counters = self.by_host(f"kasm_latency_{column}_seconds_total")
            for name in HOSTS:
                require(abs(counters[name] - float(totals[name][column + "_s"])) < 1e-6, f"{name}: {column} is {counters[name]} s")
        require(float(totals[FAR]["made_others_wait_for_client_s"]) > 1, f"{FAR} made nobody wait: {totals[FAR]}")
        for column in ("waited", "waited_for_client"):
            pairs = {(labels["blocking_host"], labels["waiting_host"]): value
                     for labels, value in self.query(f"kasm_latency_collateral_{column}_seconds")}
            said = {(row["blocking_host"], row["waiting_host"]): float(row[column + "_s"])
                    for row in self.server.rows("SELECT * FROM kasm_latency.collateral")}
            require(pairs == said and (FAR, "webapp-1") in pairs, f"{column}: {pairs}, collateral {said}")
        require(self.query("kasm_latency_info_watcher == 1"), "the watcher does not run")
        # only who is in doubt has one, and the alert names it
        hidden = self.by_host("kasm_latency_host_hidden_seconds > 0")
        said = self.hidden_ms()
        require(set(hidden) == {THINKS} and abs(hidden[THINKS] * 1000 - said) < 1e-6, f"hidden: {hidden}, flagged says {said} ms")

    def check_series(self):
        """A series per host, whatever its connections; no labels but those."""
        for name, per_host in (("kasm_latency_exchanges_total", 1), ("kasm_latency_host_rtt_seconds", 1),
                               ("kasm_latency_turnaround_seconds_bucket", FEW), ("kasm_latency_server_time_seconds_bucket", FEW),
                               ("kasm_latency_fine_turnaround_seconds_bucket", FINE)):
            for host in HOSTS:
                found = len(self.query(f'{name}{{host="{host}"}}'))
                require(found == per_host, f"{name} of {host} has {found} series")
        # what the rules record is named with a colon, and comes with its own labels within the minute
        for labels, _ in self.query('{__name__=~"kasm_latency_.*"}'):
            require(set(labels) <= LABELS, f"labels: {labels}")
        require(self.query('kasm_latency_host_rtt_seconds{host="proxy-1", host_role="proxy", zone="lab"}'),
                "no role or zone: " + str(self.query("kasm_latency_host_rtt_seconds")))

    def check_sql_exporter(self):
        """What sql_exporter would say is what postgres_exporter says, of hosts
        whose clients are gone."""
        import yaml
        with open(os.path.join(DOCS, "sql_exporter.yml")) as file:
            config = yaml.safe_load(file)
        (collector,) = config["collectors"]
        require(config["target"]["collectors"] == [collector["collector_name"]], "sql_exporter.yml: target")
        results = {query["query_name"]: self.server.rows("SET ROLE monitor; " + query["query"])
                   for query in collector["queries"]}
        said = {}
        for metric in collector["metrics"]:
            require(metric["type"] in ("gauge", "counter") and metric["help"], f"sql_exporter.yml: {metric}")
            (column,) = metric["values"]
            for row in results[metric["query_ref"]]:
                labels = frozenset((label, row[label] or "") for label in metric.get("key_labels", []))
                if row[column] is not None:
                    said[metric["metric_name"], labels] = float(row[column])
        exported = {(name, frozenset(label for label in labels if label[0] != "server")): value
                    for (name, labels), value in self.exported().items() if value == value and "_fine_" not in name}

        def quiet(samples):
            return {key: value for key, value in samples.items()
                    if ("host", "[local]") not in key[1] and key[0] != "kasm_latency_info_clients"}
        said, exported = quiet(said), quiet(exported)
        require(set(said) == set(exported), "one of the exporters alone says "
                + str(sorted(str(key) for key in set(said) ^ set(exported))[:3]))
        for key in set(said) & set(exported):
            require(abs(said[key] - exported[key]) <= 1e-6 * abs(said[key]),
                    f"sql_exporter.yml: {key} is {said[key]}, not {exported[key]}")

    def check_severities(self):
        severity = {row["verdict"]: row["severity"]
                    for row in self.server.rows("SELECT * FROM kasm_latency.verdicts")}
        verdict = {row["host"]: row["verdict"] for row in self.server.rows("SELECT * FROM kasm_latency.flagged")}
        for alert, said, host in VERDICTS:
            require(severity.get(verdict.get(host)) == said, f"{alert} is {said}, but {host} is {verdict.get(host)}")

    def mend(self):
        """The far host moves, the proxy goes, the third one stops to think."""
        self.hosts[FAR].set_path(0.3)
        for name in (FAR, PROXY, THINKS):
            self.server.psql(f"SELECT kasm_latency.reset('{name}')", options=["-o", "/dev/null"])
        self.launch(think=0)

    def run(self):
        began = time.monotonic()
        try:
            self.start()
            self.wait_for_alerts(set(), "the start")
            self.launch(think=0.012)
            self.wait_for_alerts(WANTED, "the launches")
            if self.show:
                self.show_series()
            self.check_severities()
            self.check_summary()
            self.check_figures()
            self.check_series()
            self.check_sql_exporter()
            self.mend()
            self.wait_for_alerts(set(), "all was mended")
            blind = {("KasmLatencyBlind", "warning", None)}
            self.switch("off")
            self.wait_for_alerts(blind, "measuring was switched off")
            self.switch("on")
            self.wait_for_alerts(set(), "measuring was switched on")
            lab.stop(self.exporter)
            self.wait_for_alerts(blind, "the exporter's end")
        finally:
            for process in self.running:
                lab.stop(process)
            self.server.remove()
        for problem in problems:
            print("NOT OK: " + problem)
        if not problems and not self.show:
            print(f"prometheus: alerts, all clear, histogram_quantile, both exporters: ok, {time.monotonic() - began:.0f} s")
        return 1 if problems else 0

    def switch(self, value):
        self.server.psql(f"ALTER SYSTEM SET kasm_latency.enabled = {value}", "SELECT pg_reload_conf()",
                         options=["-o", "/dev/null"])

    def show_series(self):
        for line in get(EXPORTER_AT, "/metrics").splitlines():
            if f'host="{FAR}"' in line and "_bucket" not in line and "_fine_" not in line:
                print(re.sub(r'server="[^"]*",', "", line))
        for alert in json.loads(get(PROMETHEUS_AT, "/api/v1/alerts"))["data"]["alerts"]:
            print(alert["state"], alert["labels"]["severity"], alert["annotations"]["summary"])


if __name__ == "__main__":
    lab.stop_on_signals()
    if os.environ.get(lab.MARK) != "inside":
        reason = lab.why_not() or next((f"there is no program {program}" for program in (EXPORTER, PROMETHEUS)
                                        if shutil.which(program) is None), None)
        if reason is not None:
            print(f"no alerts of real hosts: {reason}")
            sys.exit(77)
    lab.enter()
    sys.exit(Monitoring(*sys.argv[1:3], show=sys.argv[3:] == ["show"]).run())
