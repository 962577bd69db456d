"""A far host appears, and all that watches says so: pg_cron's job fails, cron's
command fails and says why, or says so without an error in the log, check_postgres
is critical, the report names it.  It is moved near: all clear.

    watched.py BINDIR USER [REPORT]

With REPORT a file to write the report of the far host to, and its screenshots
beside it.
"""
import os
import re
import subprocess
import sys
import tempfile
import time

import lab
from checks import finish, require

FAR = "<b>webapp</b> \"1\" & 'co' \u00fc %s"
SCRIPT_OF_TEST = ("<script>document.title = 'scroll ' + document.documentElement.scrollWidth + ' inner ' "
                  "+ window.innerWidth + ' bold ' + document.querySelectorAll('b b').length</script></body>")
CHECK = ("SELECT coalesce(max(CASE severity WHEN 'critical' THEN 2 ELSE 1 END), 0) AS result, "
         "string_agg(host, ', ') AS hosts FROM kasm_latency.flagged")
QUIET_CHECK = "SELECT kasm_latency.assert_in_band(raise => false)"
WEEK = """INSERT INTO kasm_latency.history (taken_at, host, host_role, rtt_ms, turnaround_p50_ms, verdict)
SELECT date_trunc('minute', now()) - n * interval '5 min', host, 'webapp', rtt_ms * (1 + 0.1 * sin(n / 50.0)), rtt_ms * 1.1,
       CASE WHEN rtt_ms < 10 THEN 'in_band' ELSE 'out_of_band' END
FROM generate_series(1, 2016) AS n,
     LATERAL (VALUES ('webapp-2', 0.4), (%s, CASE WHEN n > 300 THEN 0.6 ELSE 25 END)) AS h (host, rtt_ms)"""

def quoted(text):
    return "'" + text.replace("'", "''") + "'"


class Watched:
    def __init__(self, bindir, user, keep=None):
        self.bindir, self.user, self.keep = bindir, user, keep
        self.server = lab.Server(bindir, user, preload="kasm_latency,pg_cron", settings="autovacuum = off")
        with open(self.server.data + "/postgresql.conf", "a") as conf:
            conf.write(f"cron.host = '{self.server.dir}'\nkasm_latency.app_roles = 'kasmapp'\n")
        self.dir = tempfile.mkdtemp(prefix="kasm_latency_watched.")
        lab.shutil.chown(self.dir, user)

    def psql(self, *commands):
        return self.server.psql(*commands, options=["-A", "-t"])

    def rows(self, query):
        return self.server.rows(query)

    def prepare(self):
        self.far, self.near = lab.Host("far", 60, self.user), lab.Host("near", 0.4, self.user)
        self.server.start()
        self.psql(f"SELECT kasm_latency.register_host('{self.far.addr}', {quoted(FAR)})",
                  f"SELECT kasm_latency.register_host('{self.near.addr}', 'webapp-2')",
                  WEEK % quoted(FAR), "CREATE ROLE monitor LOGIN IN ROLE pg_monitor")
        self.start_cron()

    def start_cron(self):
        """Debian's cron, with this as its only table."""
        for directory in ("/etc/cron.d", "/var/spool/cron/crontabs", "/run/lock"):
            os.makedirs(directory, exist_ok=True)
            lab.run("mount", "-t", "tmpfs", "none", directory)
        for file in ("/etc/crontab", "/run/crond.pid"):
            empty = os.path.join(self.dir, os.path.basename(file))
            open(empty, "w").close()
            if not os.path.exists(file):
                open(file, "w").close()
            lab.run("mount", "--bind", empty, file)
        with open("/etc/cron.d/kasm_latency", "w") as table:
            # as in docs/operations.md, but that the output goes to a file, not by mail
            psql = f"psql -XqAt -h {self.server.dir} -p {self.server.port} -U monitor -d postgres"
            table.write(f"PATH={self.bindir}:/usr/bin:/bin\n")
            for file, command in (("said", f"{psql} -v VERBOSITY=terse -c \"SELECT kasm_latency.assert_in_band()\""),
                                  ("mailed", f"{psql} -c \"{QUIET_CHECK}\" | grep -v ^OK")):
                said = f"{self.dir}/{file}"
                table.write(f"* * * * * {self.user} ({command}) > {said}.new 2>&1; echo $? >> {said}.new; mv {said}.new {said}\n")
        self.cron = lab.subprocess.Popen(["cron", "-f"], stdin=subprocess.DEVNULL)
        self.psql("SELECT cron.schedule('check', '* * * * *', 'SELECT kasm_latency.assert_in_band()')",
                  "SELECT cron.schedule('snapshot', '* * * * *', 'SELECT kasm_latency.snapshot()')")

    def cron_said(self, file="said"):
        try:
            with open(os.path.join(self.dir, file)) as said:
                return said.read()
        except OSError:
            return ""

    def forget_cron(self):
        self.psql("DELETE FROM cron.job_run_details")
        for file in ("said", "mailed"):
            if os.path.exists(os.path.join(self.dir, file)):
                os.unlink(os.path.join(self.dir, file))

    def job(self, name):
        """pg_cron's newest finished run of a job: status and message."""
        rows = self.rows("SELECT d.status, d.return_message FROM cron.job_run_details AS d JOIN cron.job AS j USING (jobid) "
                         f"WHERE j.jobname = '{name}' AND d.status IN ('failed', 'succeeded') ORDER BY d.runid DESC LIMIT 1")
        return (rows[0]["status"], rows[0]["return_message"]) if rows else None

    def nagios(self):
        done = subprocess.run([*lab.as_user(self.user), "check_postgres", "--action=custom_query", "--valtype=integer",
                               "--host=" + self.server.dir, f"--port={self.server.port}", "--dbuser=monitor", "--dbname=postgres",
                               "--warning=1", "--critical=2", "--query=" + CHECK],
                              env=dict(self.server.environ, HOME=self.dir), cwd=self.dir,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout.strip()

    def report(self, arguments=""):
        page = self.server.command("psql", "-qAtX", "-d", "postgres", "-U", "monitor", "-c",
                                   f"SELECT kasm_latency.report({arguments})")
        require(page.isascii() and page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n"), "the report is cut")
        require(not re.search(r"(src|href)=|url\(|@import|<script|<link", page), "the report is not self-contained")
        return page

    def browse(self, page, name, width, dark=False):
        """The page in a browser of that width: what its title says of it."""
        path = os.path.join(self.dir, f"{name}.html")
        with open(path, "w") as file:
            file.write(page.replace("</body>", SCRIPT_OF_TEST))
        # headless windows are at least 500 px wide, frames are not
        frame = os.path.join(self.dir, f"{name}_frame.html")
        with open(frame, "w") as file:
            file.write(f"<body style='margin:0'><iframe src='{name}.html' style='border:0;width:{width}px;height:3000px'></iframe>"
                       f"<script>window.onload = () => {{ document.title = frames[0].document.title }}</script></body>")
        shot = os.path.join(self.dir, f"{name}.png")
        done = subprocess.run([*lab.as_user(self.user), "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                               "--disable-dev-shm-usage", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
                               f"--user-data-dir={self.dir}/{name}.profile", f"--window-size={max(width, 500)},3000",
                               *(["--blink-settings=preferredColorScheme=0", "--force-dark-mode"] if dark else []),
                               "--hide-scrollbars", "--virtual-time-budget=2000", f"--screenshot={shot}", "--dump-dom",
                               "file://" + frame],
                              env=dict(os.environ, HOME=self.dir), cwd=self.dir, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = re.search(r"<title>scroll (\d+) inner (\d+) bold (\d+)</title>", done.stdout)
        require(said, f"the browser did not render {name}: {done.stderr[-500:]}")
        if said:
            scroll, inner, bold = (int(n) for n in said.groups())
            require(inner == width and scroll <= inner, f"{name}: {scroll} px wide in a window of {inner}")
            require(bold == 0, f"{name}: markup in a name became markup")
        require("CONSOLE" not in done.stderr, f"{name}: the browser's console says {done.stderr}")
        return shot

    def print_out(self, name):
        """The page on paper: A4, and few sheets of it."""
        paper = os.path.join(self.dir, f"{name}.pdf")
        subprocess.run([*lab.as_user(self.user), "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
                        "--disable-dev-shm-usage", f"--user-data-dir={self.dir}/paper.profile", f"--print-to-pdf={paper}",
                        f"file://{self.dir}/{name}.html"],
                       env=dict(os.environ, HOME=self.dir), cwd=self.dir, timeout=300,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(paper, "rb") as file:
            sheets = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", file.read())
        require(1 <= len(sheets) <= 4 and all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in sheets),
                f"printed on {sheets}")

    def wait_for(self, far):
        """The verdict, then everything that watches; waits for a full minute."""
        query = "SELECT count(*) AS n FROM kasm_latency.hosts WHERE verdict = '%s' AND round_trips > 200"
        wanted = {"out_of_band": 1, "in_band": 1} if far else {"out_of_band": 0, "in_band": 2}
        require(lab.wait_until(lambda: all(int(self.rows(query % v)[0]["n"]) == n for v, n in wanted.items()), 60),
                f"hosts: {self.rows('SELECT host, verdict, round_trips FROM kasm_latency.hosts')}")
        self.forget_cron()

        status, said = self.nagios()
        require(status == (2 if far else 0) and ("CRITICAL" if far else "OK") in said, f"check_postgres: {status} {said}")
        print(said, flush=True)
        page = self.report()
        if far:
            require("1 of 2 hosts is too far from the database" in page, "the report does not conclude")
            require("&lt;b&gt;webapp&lt;/b&gt; &quot;1&quot; &amp; &#39;co&#39; &#252; %s" in page, "the name is not there as text")
            for name, width, dark in (("wide", 1280, False), ("narrow", 400, False), ("dark", 800, True)):
                shot = self.browse(page, name, width, dark)
                if self.keep:
                    lab.shutil.copy(shot, f"{self.keep}.{name}.png")
            self.print_out("wide")
            # the last hour, as if it were past: the made-up week was different
            self.psql("SELECT kasm_latency.snapshot()")
            past = self.report("now() - interval '1 hour', now()")
            said = re.search('<p class="conclusion">(.*?)</p>', past)[1]
            require("compared with the same hours of the week before" in past
                    and re.match("1 of 3 hosts was different; most of all &lt;b&gt;.*round trip up to", said),
                    f"the report of the last hour concludes: {said}")
            shot = self.browse(past, "incident", 400)
            self.print_out("incident")
            if self.keep:
                lab.shutil.copy(shot, f"{self.keep}.incident.png")
            if self.keep:
                with open(self.keep, "w") as file:
                    file.write(page)
        else:
            require("All 2 hosts are within 10 ms of the database" in page, "the report does not conclude")

        # each runs at the full minute
        lab.wait_until(lambda: self.job("check") and self.job("snapshot") and self.cron_said() and self.cron_said("mailed"), 120)
        job, snapshot, said, mailed = self.job("check"), self.job("snapshot"), self.cron_said(), self.cron_said("mailed")
        require(job and job[0] == ("failed" if far else "succeeded"), f"pg_cron's job: {job}")
        if far:
            require(job and FAR + " is out_of_band" in job[1], f"pg_cron's message: {job}")
            require(FAR + " is out_of_band" in said and said.endswith("\n1\n"), f"cron: {said}")
            require(mailed.startswith(f"CRITICAL: 1 host is flagged: {FAR} is out_of_band"), f"cron mails: {mailed}")
            # the one that raises is in the server's log, the other one is not
            failed = {line.split("STATEMENT:")[1].strip() for line in self.server.log_text().splitlines() if "STATEMENT:" in line}
            require("SELECT kasm_latency.assert_in_band()" in failed and QUIET_CHECK not in failed, f"the log has errors of {failed}")
        else:
            require(said == "OK: 2 hosts measured, none of them out of band\n0\n", f"cron: {said}")
            require(mailed == "1\n", f"cron mails: {mailed}")  # nothing, and so grep says
        require(snapshot and snapshot[0] == "succeeded", f"pg_cron's snapshot: {snapshot}")
        print(f"pg_cron: {job}\ncron: {said!r}\ncron, without an error: {mailed!r}", flush=True)

    def launch(self):
        self.clients = [host.client("--seconds", "600", "--pause", "0.1") for host in (self.far, self.near)]

    def leave(self):
        for client in self.clients:
            lab.stop(client)
        lab.wait_until(lambda: self.rows("SELECT count(*) AS n FROM kasm_latency.connections "
                                         "WHERE username = 'kasmapp'")[0]["n"] == "0")

    def run(self):
        self.clients = []
        try:
            self.prepare()
            self.launch()
            self.wait_for(far=True)
            self.leave()
            self.far.set_path(0.4)
            self.psql("SELECT kasm_latency.reset()")
            self.launch()
            self.wait_for(far=False)
            changed = self.rows(f"SELECT from_verdict, to_verdict FROM kasm_latency.verdict_changes WHERE host = {quoted(FAR)} "
                                "LIMIT 1")
            require(changed == [{"from_verdict": "out_of_band", "to_verdict": "in_band"}], f"verdict_changes: {changed}")
            # a proxy that connects is worth a warning
            self.psql(f"SELECT kasm_latency.register_host('{self.near.addr}', 'proxy-2', 'proxy')")
            status, said = self.nagios()
            require(status == 1 and "WARNING" in said, f"check_postgres: {status} {said}")
        finally:
            for client in self.clients:
                if client.poll() is None:
                    lab.stop(client)
            if hasattr(self, "cron"):
                lab.stop(self.cron)
            self.server.remove()
            lab.shutil.rmtree(self.dir, ignore_errors=True)
        return finish()


if __name__ == "__main__":
    for program in ("cron", "check_postgres", "chromium"):
        if lab.shutil.which(program) is None:
            print(f"there is no program {program}")
            sys.exit(77)
    lab.stop_on_signals()
    lab.enter()
    sys.exit(Watched(*sys.argv[1:]).run())
