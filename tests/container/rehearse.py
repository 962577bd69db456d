"""The steps of docs/kasm/README.md, taken from there and run as they stand in a
stand-in for a Kasm installation: its compose file, its configuration, its start
and stop, and `docker`, which is podman.  In front of its database, a container
hardened as Kasm's script for that does it, are two Web Apps at real distances.

    rehearse.py SERVER WORK TREE [show]

SERVER is a PostgreSQL built with musl, WORK a directory that the caller removes,
TREE the source.  With "show" what the steps print is printed.
"""
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import time

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lab"))
import lab  # noqa: E402
from checks import finish, problems, require  # noqa: E402

IMAGE = "docker.io/library/postgres:16-alpine"
CONF = "/opt/kasm/current/conf/database/postgresql.conf"
COMPOSE = "/opt/kasm/current/docker/docker-compose.yaml"
FILES = "/opt/kasm_latency"
ADDRESS, GATEWAY = "172.18.0.2", "172.18.0.1"
PASSWORD = "rehearsed"
HOSTS = {"webapp-1": 0.3, "webapp-eu": 120}
PIDS_LIMIT = 100
STEP_SECONDS = 240

# as Kasm has it: the libraries are a comment
KASM_CONF = """listen_addresses = '*'
unix_socket_directories = '/var/run/postgresql'
max_connections = 200
log_hostname = on
#shared_preload_libraries = ''\t# (change requires restart)
"""
KASM_TABLES = """
CREATE TABLE zones (zone_id int PRIMARY KEY, zone_name text);
CREATE TABLE managers (manager_id int PRIMARY KEY, manager_hostname text, zone_id int REFERENCES zones);
INSERT INTO zones VALUES (1, 'default'), (2, 'it''s "eu", \\ and more');
INSERT INTO managers VALUES (1, 'webapp-1', 1), (2, 'webapp-eu', 2)
"""
ENTRYPOINT = """#!/bin/sh
# what the official image's does with an empty volume
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	echo "$POSTGRES_PASSWORD" >/tmp/password
	initdb -D "$PGDATA" -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=/tmp/password -E UTF8 --locale=C >/tmp/initdb.log
	rm /tmp/password
	printf 'local all all trust\\nhost all all all scram-sha-256\\n' >"$PGDATA/pg_hba.conf"
	echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres >/tmp/single.log
fi
exec "$@"
"""
# a client that connects as often as it may, says how often that was, and stays
CROWD = """
import sys, psycopg2
connected, refused, last = [], 0, ''
for _ in range(int(sys.argv[2])):
    try:
        connected.append(psycopg2.connect(sys.argv[1]))
    except psycopg2.OperationalError as error:
        refused, last = refused + 1, str(error).split('failed: ')[-1].strip()
print(len(connected), refused, last, flush=True)
sys.stdin.readline()
"""
SHOW = False


def say(text):
    print(text, flush=True)


# ----- the image

def make_root(server, root):
    """What the official image is to these steps: a shell, and PostgreSQL with musl
    below /usr/local.  The server finds its files relative to its own program."""
    local = root + "/usr/local"
    for directory in ("bin", "etc", "lib", "proc", "sys", "dev", "tmp", "run", "var/run/postgresql",
                      "var/lib/postgresql/data", "usr/bin", "usr/lib", "usr/lib64", "usr/include", "usr/local/bin",
                      "usr/local/lib", "usr/local/share", "usr/local/include", "usr/local/pgsql"):
        os.makedirs(f"{root}/{directory}", exist_ok=True)
    os.chmod(root + "/tmp", 0o1777)
    os.symlink("usr/lib64", root + "/lib64")
    shutil.copy("/bin/busybox", root + "/bin/busybox")
    for name in lab.run("/bin/busybox", "--list").split():
        if name != "busybox":
            os.symlink("busybox", f"{root}/bin/{name}")
    shutil.copy("/lib/ld-musl-x86_64.so.1", root + "/lib/ld-musl-x86_64.so.1")
    shutil.copytree(server + "/bin", local + "/pgsql/bin", symlinks=True)
    for name in ("lib", "share", "include"):
        shutil.copytree(f"{server}/{name}", f"{local}/{name}/postgresql", symlinks=True)
        os.symlink(f"../{name}/postgresql", f"{local}/pgsql/{name}")
    for name in os.listdir(local + "/pgsql/bin"):
        os.symlink(f"../pgsql/bin/{name}", f"{local}/bin/{name}")
    # the compiler is the host's, and its headers of the kernel are all it needs beside musl's
    headers = local + "/kernel-headers"
    os.mkdir(headers)
    triplet = lab.run("gcc", "-print-multiarch").strip()
    os.symlink("../usr/lib/" + triplet, f"{root}/lib/{triplet}")
    for name, target in (("linux", "linux"), ("asm-generic", "asm-generic"), ("asm", triplet + "/asm")):
        os.symlink(f"/usr/include/{target}", f"{headers}/{name}")
    for path, text in ((local + "/bin/docker-entrypoint.sh", ENTRYPOINT),
                       (local + "/bin/apk", "#!/bin/sh\necho \"stand-in: not fetched: apk $*\"\n")):
        with open(path, "w") as script:
            script.write(text)
        os.chmod(path, 0o755)
    with open(root + "/etc/passwd", "w") as passwd:
        passwd.write("root:x:0:0:root:/root:/bin/sh\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n")
    with open(root + "/etc/group", "w") as group:
        group.write("root:x:0:\npostgres:x:70:\n")
    for directory in ("/var/lib/postgresql/data", "/var/run/postgresql"):
        os.chown(root + directory, 70, 70)
    os.chmod(root + "/var/lib/postgresql/data", 0o700)
    os.chmod(root + "/var/run/postgresql", 0o3777)


def make_image(server, work):
    root = work + "/root"
    make_root(server, root)
    lab.run("tar", "-C", root, "-cf", work + "/root.tar", ".")
    lab.run("docker", "import", "-q", *(word for change in (
        "ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV PGDATA=/var/lib/postgresql/data",
        "ENV PGHOST=/var/run/postgresql", "ENV C_INCLUDE_PATH=/usr/local/kernel-headers",
        'ENTRYPOINT ["docker-entrypoint.sh"]', 'CMD ["postgres"]')
        for word in ("--change", change)), work + "/root.tar", IMAGE)
    os.unlink(work + "/root.tar")
    shutil.rmtree(root)


# ----- the host

def make_docker(work, cgroup):
    """`docker` is podman with a storage of its own; what it builds has the host's compiler."""
    os.makedirs(work + "/bin")
    os.makedirs(work + "/tmp")
    with open(work + "/bin/docker", "w") as docker:
        docker.write(f"""#!/bin/bash
unset C_INCLUDE_PATH
export TMPDIR={work}/tmp
podman=(podman --root {work}/storage --runroot {work}/runroot --tmpdir {work}/runtime --cgroup-manager=cgroupfs
	--runtime runc --storage-driver=vfs --events-backend=file --log-level=error)
what=$1
shift
case $what in
	build)
		exec "${{podman[@]}}" build --network host --pull=never --isolation chroot \\
			-v /usr/bin:/usr/bin:ro -v /usr/lib:/usr/lib:ro -v /usr/lib64:/usr/lib64:ro \\
			-v /usr/include:/usr/include:ro "$@"
		;;
	create)
		exec "${{podman[@]}}" create --cgroup-parent {cgroup} \\
			--ulimit nofile=1024:1024 --ulimit nproc=1024:1024 "$@"
		;;
	*) exec "${{podman[@]}}" "$what" "$@" ;;
esac
""")
    os.chmod(work + "/bin/docker", 0o755)
    os.environ["PATH"] = work + "/bin:" + os.environ["PATH"]


def compose(version):
    """The service db as Kasm has it, hardened."""
    return {"services": {"db": {
        "container_name": "kasm_db",
        "image": IMAGE,
        "user": "70:70",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": PIDS_LIMIT,
        "tmpfs": ["/tmp:mode=1777", "/var/run/postgresql:mode=1777"],  # podman knows no uid=70 there
        "environment": {"POSTGRES_USER": "kasmapp", "POSTGRES_DB": "kasm", "POSTGRES_PASSWORD": PASSWORD},
        "extra_hosts": [f"{name}:10.77.{number}.2" for number, name in enumerate(HOSTS, 1)],
        "volumes": [f"/opt/kasm/{version}/conf/database/postgresql.conf:/etc/postgresql.conf",
                    f"kasm_db_{version}:/var/lib/postgresql/data"],
        "command": ["postgres", "-c", "config_file=/etc/postgresql.conf"],
    }}}


def write_compose(content):
    with open(COMPOSE, "w") as file:
        yaml.safe_dump(content, file)


def read_compose():
    with open(COMPOSE) as file:
        return yaml.safe_load(file)


def install_kasm(version):
    """What Kasm's installer leaves behind: directories of this version, and nothing of the one before."""
    base = f"/opt/kasm/{version}"
    os.makedirs(base + "/conf/database")
    os.makedirs(base + "/docker")
    if os.path.lexists("/opt/kasm/current"):
        os.unlink("/opt/kasm/current")
    os.symlink(base, "/opt/kasm/current")
    write_compose(compose(version))
    with open(CONF, "w") as conf:
        conf.write(KASM_CONF)
    os.chown(CONF, 70, 70)
    os.chmod(CONF, 0o600)


def make_kasm(netns):
    """Kasm's start and stop: a container whose compose file has changed is made anew."""
    os.makedirs("/opt/kasm/bin")
    for name, text in (("start", f"exec {lab.PYTHON} {os.path.abspath(__file__)} --start {netns}"),
                       ("stop", "docker stop -t 30 kasm_db >/dev/null")):
        with open("/opt/kasm/bin/" + name, "w") as script:
            script.write("#!/bin/sh\n" + text + "\n")
        os.chmod("/opt/kasm/bin/" + name, 0o755)


def start_kasm(netns):
    service = read_compose()["services"]["db"]
    words = ["--name", service["container_name"], "--network", "ns:" + netns, "--user", service["user"],
             "--pids-limit", str(service["pids_limit"])]
    words += ["--read-only", "--read-only-tmpfs=false"] if service["read_only"] else []
    for option, key in (("--cap-drop", "cap_drop"), ("--security-opt", "security_opt"), ("--tmpfs", "tmpfs"),
                        ("--add-host", "extra_hosts"), ("--volume", "volumes")):
        words += [word for value in service[key] for word in (option, value)]
    words += [word for name, value in service["environment"].items() for word in ("--env", f"{name}={value}")]
    words += [service["image"]] + service["command"]
    made = "/opt/kasm/made"
    if not os.path.exists(made) or open(made).read() != repr(words):
        subprocess.run(["docker", "rm", "-f", "-i", "kasm_db"], check=True, stdout=subprocess.DEVNULL)
        lab.run("docker", "create", *words)
        with open(made, "w") as file:
            file.write(repr(words))
    lab.run("docker", "start", "kasm_db")


def make_network():
    """As Docker publishes a port: the container has a network of its own, and
    the host passes what comes to its port 5432 on, under the client's address."""
    lab.run("ip", "netns", "add", "kasm_db")
    lab.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", "kasm_db")
    lab.run("ip", "addr", "add", GATEWAY + "/16", "dev", "docker0")
    lab.run("ip", "link", "set", "docker0", "up")
    inside = ["nsenter", f"--net={lab.NETNS_DIR}/kasm_db"]
    lab.run(*inside, "ip", "addr", "add", ADDRESS + "/16", "dev", "eth0")
    lab.run(*inside, "ip", "link", "set", "eth0", "up")
    lab.run(*inside, "ip", "link", "set", "lo", "up")
    lab.run(*inside, "ip", "route", "add", "default", "via", GATEWAY)
    lab.run("nft", "add table ip nat; add chain ip nat in { type nat hook prerouting priority -100; }; "
            f"add rule ip nat in tcp dport {lab.PORT} dnat to {ADDRESS}")
    return f"{lab.NETNS_DIR}/kasm_db"


# ----- the steps

class Guide:
    """The blocks of the document: of each section a list of (language, text)."""

    def __init__(self, path):
        self.checked = set()
        self.sections, self.tree, section, block = {}, os.path.join(os.path.dirname(path), "..", ".."), [], None
        for line in open(path):
            if block is not None:
                if line.startswith("```"):
                    section.append((language, "".join(block)))
                    block = None
                else:
                    block.append(line)
            elif line.startswith("```"):
                language, block = line[3:].strip(), []
            elif line.startswith("#"):
                section = self.sections.setdefault(line.replace("`", "").strip("# \n"), [])

    def follow(self, section, database="postgres"):
        """Do what a section says, block by block; what it said is held against
        what it printed the first time, but for the figures."""
        printed = None
        for language, text in self.sections[section]:
            if language == "sh":
                # what the document says in words of an extension in the database kasm
                if database == "kasm":
                    text = text.replace("history_database = 'postgres'", "history_database = 'kasm'")
                    text = text.replace("-d postgres -c 'CREATE", "-d kasm -c 'CREATE")
                printed = self.shell(text, section)
            elif language == "yaml":
                self.mount(text)
            elif section not in self.checked:
                require(masked(text) == masked(printed),
                        f"{section}: the document shows\n{text}and it printed\n{printed}")
        self.checked.add(section)

    def block(self, section, number, language="sh"):
        return [text for kind, text in self.sections[section] if kind == language][number]

    def shell(self, text, section):
        # who waits for a server that does not start would wait for ever
        done = subprocess.run(["timeout", str(STEP_SECONDS), "sh", "-euc", text], cwd=self.tree, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        if SHOW:
            say("".join(f"# {line}\n" for line in text.splitlines()) + done.stdout)
        if done.returncode != 0:
            logs = subprocess.run(["docker", "logs", "--tail", "40", "kasm_db"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True).stdout
            raise RuntimeError(f"{section}: status {done.returncode} from\n{text}{done.stdout}\nkasm_db:\n{logs}")
        return done.stdout

    def mount(self, text):
        """What the document has somebody do by hand: add these lines to the compose file."""
        content = read_compose()
        for name, service in yaml.safe_load(text)["services"].items():
            require(set(service) == {"volumes"}, "the lines for the compose file add more than volumes")
            content["services"][name]["volumes"] += service["volumes"]
        write_compose(content)

    def unmount(self):
        content = read_compose()
        volumes = content["services"]["db"]["volumes"]
        volumes[:] = [volume for volume in volumes if "kasm_latency" not in volume]
        write_compose(content)


def masked(text):
    """Without figures, and without the widths that go with them."""
    lines = (re.sub(r"[\s|+-]+", " ", re.sub(r"\d[\d.]*", "N", line)).strip() for line in text.splitlines())
    return [line for line in lines if line]


def in_container(*command, **options):
    """Run something in kasm_db; it may fail."""
    return subprocess.run(["docker", "exec", "-i", "kasm_db", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **options)


def psql(*commands, dbname="postgres", options=()):
    words = [word for command in commands for word in ("-c", command)]
    return lab.run("docker", "exec", "kasm_db", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "kasmapp", "-d", dbname,
                   *options, *words).strip()


def rows(query, dbname="postgres"):
    text = psql(query, dbname=dbname, options=["--csv", "-P", "tuples_only=off"])
    return list(csv.DictReader(io.StringIO(text)))


def kept(dbname):
    """All that has to survive an upgrade."""
    return psql("SELECT r::text FROM kasm_latency.host_registry AS r "
                "UNION ALL SELECT k::text FROM kasm_latency.kasm_hosts AS k "
                "UNION ALL SELECT h::text FROM kasm_latency.history AS h ORDER BY 1", dbname=dbname)


def traces():
    """What there is of us in the database server: of schemas, settings, libraries."""
    found = [dbname for dbname in ("postgres", "kasm", "template1") if
             psql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kasm\\_latency%'", dbname=dbname) != "0"]
    settings = psql("SELECT count(*) FROM pg_settings WHERE name LIKE 'kasm\\_latency%'")
    libraries = psql("SHOW shared_preload_libraries")
    return found + [f"{settings} settings"] * (settings != "0") + [libraries] * ("kasm_latency" in libraries)


class Rehearsal:
    def __init__(self, tree):
        self.guide = Guide(tree + "/docs/kasm/README.md")
        self.hosts = [lab.Host(name, rtt_ms, "nobody") for name, rtt_ms in HOSTS.items()]

    def dsn(self, host):
        return host.dsn(sslmode="disable") + f" password={PASSWORD}"

    def launch(self):
        """Both Web Apps do what Kasm does, over their distances."""
        clients = [host.client("--launches", str(count), "--pause", "0.05", dsn=self.dsn(host))
                   for host, count in zip(self.hosts, (40, 4))]
        for client in clients:
            lab.result(client)

    def started(self):
        ready = ("pg_isready", "-q", "-U", "kasmapp", "-d", "kasm")
        if not lab.wait_until(lambda: in_container(*ready).returncode == 0):
            raise RuntimeError("kasm_db does not start:\n" + lab.run("docker", "logs", "--tail", "40", "kasm_db"))

    def measured(self, where, database="postgres"):
        self.launch()
        hosts = {row["host"]: row for row in rows("SELECT * FROM kasm_latency.hosts", dbname=database)}
        for name, rtt_ms in HOSTS.items():
            if name not in hosts:
                problems.append(f"{where}: {name} is not seen, only {list(hosts)}")
                continue
            rtt = float(hosts[name]["rtt_ms"])
            require(rtt_ms <= rtt <= rtt_ms + 3, f"{where}: {name} is {rtt_ms} ms away, and said to be {rtt}")
            verdict = "out_of_band" if rtt_ms > 10 else "in_band"
            require(hosts[name]["verdict"] == verdict, f"{where}: {name} is {hosts[name]['verdict']}, not {verdict}")
        say(f"{where}: " + ", ".join(f"{name} {hosts[name]['verdict']} {hosts[name]['rtt_ms']} ms"
                                     for name in HOSTS if name in hosts))

    def hardened(self):
        """The container is what it is said to be."""
        of_server = in_container("cat", "/proc/1/status", text=True).stdout
        status = dict(line.split(":\t", 1) for line in of_server.splitlines() if ":\t" in line)
        require(status["Uid"].split() == ["70"] * 4, f"the server runs as {status['Uid']}")
        require(int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0, f"capabilities: {status['CapBnd']}")
        require(status["NoNewPrivs"] == "1", "there are new privileges")
        pid = lab.run("docker", "inspect", "--format", "{{.State.Pid}}", "kasm_db").strip()
        with open(f"/proc/{pid}/cgroup") as file:
            groups = [line.strip().split(":", 2) for line in file]
        path = {**{"": "/sys/fs/cgroup" + group for _, names, group in groups if not names},
                **{names: f"/sys/fs/cgroup/{names}{group}" for _, names, group in groups if names}}
        path = path.get("pids", path[""])
        self.pids = path
        limit = open(path + "/pids.max").read().strip()
        require(limit == str(PIDS_LIMIT), f"the limit of processes is {limit}")
        written = in_container("touch", "/usr/local/lib/postgresql/x", text=True)
        require("Read-only file system" in written.stderr, "the root can be written")
        mounts = [line.split() for line in lab.run("docker", "exec", "kasm_db", "cat", "/proc/mounts").splitlines()]
        ours = [mount for mount in mounts if "kasm_latency" in mount[1]]
        require(len(ours) == 3 and all("ro" in mount[3].split(",") for mount in ours), f"our mounts: {ours}")
        say(f"hardened: uid 70, no capabilities, no new privileges, read-only root and mounts, "
            f"{open(path + '/pids.current').read().strip()} of {limit} processes")

    def crowded(self):
        """At the limit of processes the server turns connections away, and ours
        too: a snapshot that is due finds no room.  Afterwards it is as before."""
        psql("ALTER SYSTEM SET kasm_latency.history_interval = '1min'", "SELECT pg_reload_conf()")
        snapshots = "SELECT count(DISTINCT taken_at) FROM kasm_latency.history"
        watcher = psql("SELECT watcher_pid FROM kasm_latency.info")
        require(lab.wait_until(lambda: int(psql(snapshots))), "there is no snapshot")
        crowd = self.hosts[0].popen(lab.PYTHON, "-c", CROWD, self.dsn(self.hosts[0]), str(PIDS_LIMIT),
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        connected, refused, error = crowd.stdout.readline().strip().split(" ", 2)
        with open(self.pids + "/pids.current") as current:
            at_limit = current.read().strip()
        require(int(refused) > 0 and int(at_limit) == PIDS_LIMIT, f"the limit is not reached: {at_limit} processes")
        time.sleep(70)
        crowd.stdin.close()
        crowd.wait()
        self.started()
        log = self.log()
        told = [line for line in log if "fork worker process" in line or "kasm_latency: no snapshot" in line]
        require(told, "the log has nothing of the snapshot that found no room")
        require(psql("SELECT watcher_pid FROM kasm_latency.info") == watcher, "the watcher is another after the crowd")
        require(not any("terminated by signal" in line for line in log), "a process of the server died")
        taken = int(psql(snapshots))
        require(lab.wait_until(lambda: int(psql(snapshots)) > taken, 130), "no snapshot is taken after the crowd")
        psql("ALTER SYSTEM RESET kasm_latency.history_interval", "SELECT pg_reload_conf()")
        say(f"crowded: {at_limit} of {PIDS_LIMIT} processes, {connected} connected, {refused} refused ({error}); "
            f"{told[:1]}; then it serves, watches and takes snapshots as before")

    @staticmethod
    def log():
        return subprocess.run(["docker", "logs", "kasm_db"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True).stdout.splitlines()

    def upgrade_kasm(self, version, dump):
        """Kasm's part: the dump of kasm alone was taken; a new container, with a new volume."""
        lab.run("/opt/kasm/bin/stop")
        lab.run("docker", "rm", "kasm_db")
        # the new container is without our files even if it were to name them
        for name in ("kasm_latency.so", "kasm_latency.control", "kasm_latency--1.0.sql"):
            os.unlink(f"{FILES}/{name}")
        install_kasm(version)
        lab.run("/opt/kasm/bin/start")
        self.started()
        require(not traces(), f"{version}: of us there is {traces()} before anything is restored")
        return self.restore(dump)

    @staticmethod
    def dump():
        return in_container("pg_dump", "-U", "kasmapp", "-F", "t", "kasm", check=True).stdout

    @staticmethod
    def restore(dump):
        return in_container("pg_restore", "-U", "kasmapp", "-d", "kasm", input=dump)

    def survived(self, where, restored, names, database):
        require(restored.returncode == 0 and not restored.stderr,
                f"{where}: the restore says {restored.stderr.decode()}")
        require(not traces(), f"{where}: of us there is {traces()} in the new container")
        managers = psql("SELECT count(*) FROM managers JOIN zones USING (zone_id)", dbname="kasm")
        require(managers == "2", f"{where}: Kasm's data: {managers} managers")
        say(f"{where}: kasm restored without an error; the new container has nothing of us")
        self.guide.follow("Build")
        self.guide.follow("Install", database)
        section = "A Kasm upgrade" if database == "postgres" else "With the extension in the database kasm"
        self.guide.shell(self.guide.sections[section][-1][1], section)
        lines, now = names.splitlines(), kept(database).splitlines()
        require(set(lines) <= set(now), f"{where}: lost: {set(lines) - set(now)}")
        say(f"{where}: {len(lines)} rows of names and history are back")
        self.measured(where, database)

    def run(self):
        guide = self.guide
        install_kasm("1.18.0")
        lab.run("/opt/kasm/bin/start")
        self.started()
        psql(*(line for line in KASM_TABLES.split(";")), dbname="kasm")
        # something is loaded already
        with open(CONF) as conf:
            text = conf.read()
        loaded = "pg_stat_statements"
        with open(CONF, "w") as conf:
            conf.write(text.replace("#shared_preload_libraries = ''", f"shared_preload_libraries = '{loaded}'"))
        guide.follow("Build")
        require(sorted(os.listdir(FILES)) == ["kasm_latency--1.0.sql", "kasm_latency.control", "kasm_latency.so"],
                f"built: {os.listdir(FILES)}")
        guide.follow("Install")
        require(psql("SHOW shared_preload_libraries") == loaded + ",kasm_latency", "what was loaded before")
        self.measured("installed")
        guide.follow("Verify")
        self.hardened()
        self.crowded()

        # a newer version: all but its last block, in the order that it says
        newer = [text for kind, text in guide.sections["A newer version of kasm_latency"] if kind == "sh"]
        require(len(newer) == 2, "the steps of a newer version are others")
        build = [text for kind, text in guide.sections["Build"] if kind == "sh"]
        for text in build[1:-1] + newer[:1] + build[-1:] + newer[1:]:
            guide.shell(text, "A newer version of kasm_latency")
        self.measured("a newer version")

        # an upgrade, of what is in postgres
        psql("SELECT kasm_latency.register_host('10.77.2.2', 'webapp-eu', zone => 'it''s \"eu\", \\ and more')",
             "INSERT INTO kasm_latency.kasm_hosts SELECT 'webapp-1', 'default'", "SELECT kasm_latency.snapshot()",
             "INSERT INTO kasm_latency.history (taken_at, host, rtt_ms, verdict) "
             "VALUES ('2026-01-01 12:00+00', 'webapp-eu', 120.5, 'out_of_band')")
        names = kept("postgres")
        guide.shell(guide.block("A Kasm upgrade", 0), "A Kasm upgrade")
        restored = self.upgrade_kasm("1.18.1", self.dump())
        self.survived("upgraded", restored, names, "postgres")
        require(psql("SHOW shared_preload_libraries") == "kasm_latency", "where nothing is loaded")

        # and of what is in kasm
        psql("DROP EXTENSION kasm_latency")
        psql("CREATE EXTENSION kasm_latency", "SELECT kasm_latency.import_kasm_hosts()",
             "SELECT kasm_latency.register_host('10.77.2.0/24', 'webapp-eu')", "SELECT kasm_latency.snapshot()",
             dbname="kasm")
        names = kept("kasm")
        forgotten = self.dump()
        section = "With the extension in the database kasm"
        guide.shell(guide.block(section, 0), section)
        restored = self.upgrade_kasm("1.18.2", self.dump())
        self.survived("upgraded, in kasm", restored, names, "kasm")

        # who forgets to take it out first: what then?
        psql("DROP EXTENSION kasm_latency", dbname="kasm")
        restored = self.upgrade_kasm("1.18.3", forgotten)
        require(restored.returncode != 0 and b"kasm_latency" in restored.stderr,
                "a dump with us in it restores without our files")
        require(psql("SELECT count(*) FROM managers", dbname="kasm") == "2", "it takes Kasm's data with it")
        told = restored.stderr.decode().splitlines()
        say(f"a dump with the extension in it: {told[0]} ... {told[-1]}; Kasm's tables are there")

        # the setting without the files, and what the document says of that
        settings, removal = guide.block("Install", 0), guide.block("Remove", 0).splitlines()
        guide.shell(settings, "Install")
        lab.run("/opt/kasm/bin/stop")
        lab.run("/opt/kasm/bin/start")
        fatal = 'FATAL:  could not access file "kasm_latency": No such file or directory'
        require(lab.wait_until(lambda: any(fatal in line for line in self.log())), f"not in the log: {fatal}")
        lab.run("docker", "wait", "kasm_db")
        guide.shell("\n".join(line for line in removal if line.startswith(("conf=", "sed"))), "Remove")
        lab.run("/opt/kasm/bin/start")
        self.started()
        say("without the files it does not start, says so, and does when the setting is taken out")

        # removed
        guide.follow("Build")
        guide.follow("Install")
        self.measured("installed again")
        guide.shell(guide.block("Remove", 0), "Remove")
        guide.unmount()
        guide.shell(guide.block("Remove", 1), "Remove")
        require(not traces(), f"removed: there is {traces()}")
        with open(CONF) as conf:
            left = conf.read()
        require("kasm_latency" not in left + open(COMPOSE).read(), f"removed: left in the files: {left}")
        found = in_container("sh", "-c", "find / $PGDATA -xdev -name '*kasm_latency*'; ls $PGDATA/pg_stat", text=True)
        require(found.stdout + found.stderr == "", f"removed: there is {found.stdout}{found.stderr}")
        require(not os.path.exists(FILES), "removed: the files are there")
        self.launch()
        say("removed: nothing is left, and the server serves")


def why_not():
    """Why podman cannot run a container here, or None; it takes the image."""
    def docker(*words):
        return subprocess.run(["docker", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    done = docker("create", "--name", "probe", "--network", "none", "--read-only", "--entrypoint", "true", IMAGE)
    if done.returncode == 0:
        done = docker("start", "-a", "probe")
        docker("rm", "-f", "probe")
    return None if done.returncode == 0 else "podman cannot run a container here: " + done.stdout.strip()


def main():
    global SHOW
    server, work, tree = sys.argv[1:4]
    SHOW = sys.argv[4:] == ["show"]
    lab.enter()
    lab.stop_on_signals()
    # podman keeps there what it knows of images, and runc its containers, whatever they are told
    for private in ("/opt", "/var/lib/containers", "/run/runc"):
        os.makedirs(private, exist_ok=True)
        lab.run("mount", "-t", "tmpfs", "none", private)
    make_docker(work, os.environ["CGROUP"])
    try:
        make_image(server, work)
        reason = why_not()
    except RuntimeError as error:
        reason = f"podman makes no image here: {error}"
    if reason:
        say("container: NOT RUN: " + reason.replace("\n", " "))
        return 77
    make_kasm(make_network())
    try:
        Rehearsal(tree).run()
    except RuntimeError as error:
        problems.append(str(error))
    return finish()


if __name__ == "__main__":
    if sys.argv[1] == "--start":
        start_kasm(sys.argv[2])
    else:
        sys.exit(main())
