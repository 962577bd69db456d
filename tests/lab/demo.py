"""Four Web Apps at 0.3, 3, 25 and 120 ms from a throwaway server, launching
for 20 seconds; then what a DBA sees in psql.

    demo.py BINDIR USER
"""
import os
import sys
import tempfile
import time

import lab

SECONDS = 20
HOSTS = [("webapp-1", 0.3), ("webapp-2", 3), ("webapp-3", 25), ("webapp-eu", 120)]

HOSTS_QUERY = """SELECT host, verdict, path, rtt_ms, turnaround_p10_ms AS p10_ms, turnaround_p50_ms AS p50_ms,
       client_addrs, round_trips, server_p50_ms
FROM kasm_latency.hosts"""
FLAGGED_QUERY = """SELECT severity, host, verdict, rtt_ms, limit_ms, round_trips, reason, remedy
FROM kasm_latency.flagged"""


def say(text=""):
    print(text, flush=True)


def show(server, query, *options):
    say(f"postgres=# {query};".replace("\n", "\npostgres-# "))
    say(server.psql(query, options=options))


def launch(server, clients):
    end = time.monotonic() + SECONDS
    again = "\r" if sys.stdout.isatty() else "\n"
    while (left := end - time.monotonic()) > 0:
        if any(client.poll() for client in clients):
            break  # one failed: say so now
        done = server.rows("SELECT coalesce(sum(round_trips), 0) AS n FROM kasm_latency.totals "
                           "WHERE username = 'kasmapp'")[0]["n"]
        print(f"  {SECONDS - left:2.0f} of {SECONDS} s, {done} round trips", end=again, flush=True)
        time.sleep(min(1, left))
    counted = sum(lab.result(client)["launches"] for client in clients)
    say(f"  {SECONDS} of {SECONDS} s, {counted} launches of BEGIN, ten queries, COMMIT\n")


def with_lab(bindir, user):
    say("Starting a throwaway server, and four Web Apps at 0.3, 3, 25 and 120 ms from it ...")
    server = lab.Server(bindir, user)
    try:
        server.start()
        hosts = [lab.Host(name, rtt_ms, user) for name, rtt_ms in HOSTS]
        server.psql(*(f"SELECT kasm_latency.register_host('{host.addr}', '{host.name}')"
                      for host in hosts), options=["-o", "/dev/null"])
        launch(server, [host.client("--seconds", str(SECONDS), "--pause", "0.2") for host in hosts])
        report(server, hosts[-1].name)
        say("The server's log, as each distant client connected:")
        say("".join(line + "\n" for line in server.log_text().splitlines()
                    if "ms away" in line))
    finally:
        server.remove()


def on_loopback(bindir, user, reason):
    say(f"No lab here, as {reason}: one Web App on loopback instead, at no distance.")
    server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1")
    try:
        server.start()
        client = lab.client(user, "launches", lab.dsn("127.0.0.1", port=server.port),
                            "--seconds", str(SECONDS))
        launch(server, [client])
        report(server, "127.0.0.1")
    finally:
        server.remove()


def write_report(server):
    """The one thing that the demo leaves behind."""
    with tempfile.NamedTemporaryFile("w", dir="/tmp", prefix="kasm_latency_report.", suffix=".html", delete=False) as page:
        page.write(server.psql("SELECT kasm_latency.report()", options=["-At"]))
        os.chmod(page.name, 0o644)
    say(f"The same as a page to hand over: {page.name}")


def report(server, worst):
    show(server, "SELECT kasm_latency.summary()", "-t")
    show(server, HOSTS_QUERY)
    show(server, FLAGGED_QUERY, "-x")
    show(server, "SELECT host, conclusion, next_step FROM kasm_latency.diagnose()", "-x")
    show(server, f"SELECT * FROM kasm_latency.histogram('turnaround', '{worst}')")
    write_report(server)


if __name__ == "__main__":
    lab.stop_on_signals()
    reason_against = None if lab.os.environ.get(lab.MARK) == "inside" else lab.why_not()
    if reason_against is None:
        lab.enter()
        with_lab(*sys.argv[1:3])
    else:
        on_loopback(*sys.argv[1:3], reason_against)
