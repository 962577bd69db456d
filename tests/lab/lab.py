"""The lab: hosts at real distances from a private PostgreSQL server.

A host is a network namespace, joined to the server's by a pair of TUN devices
and a relay that delays IP packets (relay.c).  Everything lives in namespaces
of the lab's own (network, mounts, processes, System V's shared memory), entered
by enter(): when the lab's first process ends, however it ends, the kernel ends all others and
removes every namespace, device and mount with it.
"""
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
NETNS_DIR = "/run/netns"
MARK = "KASM_LATENCY_LAB"
PORT = 5432


def why_not():
    """Why there can be no lab on this machine, or None."""
    if os.geteuid() != 0:
        return "it needs root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    for command in ("unshare", "ip", "setpriv"):
        if shutil.which(command) is None:
            return f"there is no program {command}"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "tuntap",
         "add", "dev", "probe", "mode", "tun"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if probe.returncode != 0:
        return "namespaces or TUN devices are not to be had: " + probe.stderr.strip()
    return None


def enter():
    """Go on in namespaces of our own; returns in there, as their first
    process but one."""
    if os.environ.get(MARK) != "inside":
        os.environ[MARK] = "inside"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork",
                              "--kill-child", "--mount-proc", PYTHON] + sys.argv)
    os.makedirs(NETNS_DIR, exist_ok=True)
    for private in (NETNS_DIR, "/dev/shm"):
        run("mount", "-t", "tmpfs", "none", private)
    run("ip", "link", "set", "lo", "up")
    forward_packets()


def name_hosts(names):
    """Let the server resolve addresses to these names, by /etc/hosts."""
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write(open("/etc/hosts").read())
        hosts.writelines(f"{addr} {name}\n" for addr, name in names.items())
        hosts.flush()
        os.chmod(hosts.name, 0o644)
        run("mount", "--bind", hosts.name, "/etc/hosts")


def forward_packets(*inside):
    """Make a namespace a router: the server's, or that of the words."""
    run(*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def as_user(user):
    """The words before a command that make it run as that user."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={user}", "--regid=" + run("id", "-g", user).strip(),
            "--clear-groups"]


class Server:
    """A throwaway PostgreSQL server with kasm_latency, over TLS."""

    def __init__(self, bindir, user, port=PORT, listen="*", settings="", preload="kasm_latency",
                 **environ):
        self.bindir, self.user, self.port = bindir, user, port
        self.start_environ = environ  # the server's own, beyond what its clients get
        self.extensions = preload.split(",") if preload else []
        self.dir = tempfile.mkdtemp(prefix="kasm_latency_lab.")
        self.data = os.path.join(self.dir, "data")
        self.log = os.path.join(self.dir, "log")
        self.environ = dict(os.environ, HOME=self.dir, PGUSER="postgres",
                            PGHOST=self.dir, PGPORT=str(port), PGDATABASE="postgres",
                            PATH=bindir + ":/usr/bin:/bin", LC_ALL="C.UTF-8",
                            PGCONNECT_TIMEOUT="20")
        if os.geteuid() == 0:
            shutil.chown(self.dir, user)
        os.chmod(self.dir, 0o711)
        self.command("initdb", "-N", "-D", self.data, "-U", "postgres", "-A", "trust",
                     "-E", "UTF8", "--locale=C.UTF-8")
        self.command("openssl", "req", "-new", "-x509", "-days", "3650", "-nodes",
                     "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                     "-subj", "/CN=lab", "-keyout", self.data + "/server.key",
                     "-out", self.data + "/server.crt")
        with open(self.data + "/postgresql.conf", "a") as conf:
            conf.write(f"""
shared_preload_libraries = '{preload}'
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = '{self.dir}'
ssl = on
fsync = off
{settings}
""")
        with open(self.data + "/pg_hba.conf", "w") as hba:
            hba.write("local all all trust\n"
                      "host all scram all scram-sha-256\n"
                      "host all all all trust\n")

    def command(self, *command):
        return run(*as_user(self.user), *command, env=self.environ, cwd=self.dir)

    def start(self):
        # pg_ctl leaves the server's output open, so it must not go to a pipe
        environ = [f"{name}={value}" for name, value in self.start_environ.items()]
        done = subprocess.run([*as_user(self.user), "env", *environ, "pg_ctl", "-D", self.data,
                               "-l", self.log, "-w", "-s", "start"],
                              env=self.environ, cwd=self.dir,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode != 0:
            log = self.log_text() if os.path.exists(self.log) else "it left no log"
            raise RuntimeError("the server did not start: " + log)
        self.prepare()

    def prepare(self):
        self.psql(*(f"CREATE EXTENSION {name}" for name in self.extensions),
                  "CREATE ROLE kasmapp LOGIN", "CREATE DATABASE kasm OWNER kasmapp")

    def stop(self):
        if os.path.exists(self.data + "/postmaster.pid"):
            self.command("pg_ctl", "-D", self.data, "-m", "fast", "-w", "-s", "stop")

    def remove(self):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def log_text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def psql(self, *commands, options=()):
        """What psql prints for these commands."""
        words = [word for command in commands for word in ("-c", command)]
        return self.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, *words)

    def rows(self, query, dbname="postgres"):
        """A query's rows, as dictionaries of strings; NULL is None."""
        text = self.psql(query, options=["--csv", "-P", "null=\\N", "-d", dbname])
        return [{name: None if value == "\\N" else value for name, value in row.items()}
                for row in csv.DictReader(io.StringIO(text))]


class Host:
    """A host at a distance.  Its address is .2 of a network of its own, .1 is
    the server's; or, for a host behind another, that one's: a gateway, which
    passes its packets on under its own address (NAT)."""
    count = 0

    def __init__(self, name, rtt_ms, user, behind=None, **path):
        Host.count += 1
        number = Host.count
        self.name, self.user, self.netns = name, user, f"{NETNS_DIR}/host{number}"
        self.addr, gateway = f"10.77.{number}.2", f"10.77.{number}.1"
        self.addr6, gateway6 = f"fd77:{number}::2", f"fd77:{number}::1"
        self.server_addr = behind.server_addr if behind else gateway
        self.server_addr6 = gateway6
        self.inside = ["nsenter", "--net=" + self.netns]
        outside = behind.inside if behind else []
        run("ip", "netns", "add", f"host{number}")
        self.relay = subprocess.Popen(
            [os.path.join(HERE, "relay"), behind.netns if behind else "/proc/self/ns/net",
             f"lab{number}", self.netns, "eth0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("ready")
        self.set_path(rtt_ms, **path)
        for words, device, addr, addr6 in ((outside, f"lab{number}", gateway, gateway6),
                                           (self.inside, "eth0", self.addr, self.addr6)):
            run(*words, "ip", "addr", "add", f"{addr}/24", "dev", device)
            run(*words, "ip", "addr", "add", f"{addr6}/64", "dev", device, "nodad")
            run(*words, "ip", "link", "set", device, "up", "mtu", "1500")
        run(*self.inside, "ip", "link", "set", "lo", "up")
        run(*self.inside, "ip", "route", "add", "default", "via", gateway)

    def be_gateway(self):
        forward_packets(*self.inside)
        run(*self.inside, "nft", "add table ip nat; "
            "add chain ip nat out { type nat hook postrouting priority 100; }; "
            "add rule ip nat out oif eth0 masquerade")

    def expect(self, word):
        answer = self.relay.stdout.readline().strip()
        if answer != word:
            raise RuntimeError(f"the relay of {self.name} says {answer!r}, not {word!r}")

    def set_path(self, rtt_ms, jitter_ms=0, loss=0, reorder=0):
        """Distance and jitter of the round trip; loss and reordering as a
        share of the packets of each direction."""
        self.rtt_ms = rtt_ms
        self.relay.stdin.write(f"{round(rtt_ms * 500)} {round(jitter_ms * 500)} "
                               f"{round(loss * 1000)} {round(reorder * 1000)}\n")
        self.relay.stdin.flush()
        self.expect("set")

    def ping_ms(self):
        """What the way to the server and back takes now, at the least."""
        said = run(*self.inside, "ping", "-q", "-c", "25", "-i", "0.02", self.server_addr)
        return float(said.split(" = ")[-1].split("/")[0])

    def popen(self, *command, **options):
        """Start a command on this host."""
        return popen(self.user, *command, inside=self.inside, **options)

    def dsn(self, addr=None, **parts):
        return dsn(addr or self.server_addr, **parts)

    def client(self, *arguments, mode="launches", dsn=None):
        """Start client.py on this host; see there for what it does."""
        return client(self.user, mode, dsn or self.dsn(), *arguments, inside=self.inside)


def is_distance(said_ms, rtt_ms, share, slack_ms, host=None):
    """Whether what is said of a distance is that, within so much.  What a busy
    machine adds to that of a host is known by ping."""
    if host and said_ms > (1 + share) * rtt_ms + slack_ms:
        rtt_ms = max(rtt_ms, host.ping_ms())
    return abs(said_ms - rtt_ms) <= share * rtt_ms + slack_ms


def popen(user, *command, inside=(), **options):
    """Start a command as a user, in a host or beside the server."""
    # libpq looks for certificates at home, and home would be root's; an
    # interrupt at the terminal is the lab's to handle, not its clients'
    return subprocess.Popen([*inside, *as_user(user), *command], text=True,
                            env=dict(os.environ, HOME="/nonexistent"),
                            start_new_session=True, **options)


def dsn(addr, user="kasmapp", dbname="kasm", port=PORT, sslmode="require"):
    return (f"host={addr} port={port} user={user} dbname={dbname} sslmode={sslmode} "
            "gssencmode=disable connect_timeout=20")


def client(user, mode, dsn, *arguments, inside=()):
    return popen(user, PYTHON, os.path.join(HERE, "client.py"), mode, dsn, *arguments,
                 inside=inside, stdout=subprocess.PIPE)


def result(client):
    """Wait for a client and return what it counted."""
    output, _ = client.communicate()
    if client.returncode != 0:
        raise RuntimeError(f"a client failed with status {client.returncode}")
    return json.loads(output)


def free_port():
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stop(process):
    """End a process that runs until told otherwise."""
    process.terminate()
    process.wait()


def stop_on_signals():
    """Let an interrupted lab clean up as one that fails does."""
    def leave(number, _frame):
        raise SystemExit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def wait_until(condition, seconds=20):
    """Wait for a condition; its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return value
