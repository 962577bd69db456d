"""Other people's tests, on a server without the library and on one with it:
nobody can tell the two apart.

    foreign.py BINDIR USER [SUITE ...]

Each suite is run by the two side by side: each has a copy of one installation,
and a server in namespaces of its own, with nothing but a loopback interface.
With the library its watcher looks at locks and a snapshot is taken each minute,
and servers that a suite makes for itself have the library too.  A test that
passes or fails in one of the two alone is repeated before it counts, with and
without, one after the other, up to five times until both do the same: many such
tests hold a time to a tenth of a second, and fail now and then on any server.
What the library changes differs each time.  A test that fails in both is not
our business.

PostgreSQL's tests are of the source that POSTGRESQL_SOURCE names, which may be
older or newer by a minor version than the server: what was changed between
fails in both.

The drivers' tests are taken from the trees that PSYCOPG2_SOURCE,
PSYCOPG3_SOURCE, ASYNCPG_SOURCE, PGJDBC_SOURCE and NODE_POSTGRES_SOURCE name, or
from the distribution's source packages; a suite whose source is not to be had
is named as not run.  For psycopg2, asyncpg and pgjdbc the drivers themselves are the
distribution's, and the tree should be of that version.

    foreign.py run BINDIR USER SUITE without|with WORK [TEST ...]

is one such run, which writes its results to WORK.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab")]
import lab  # noqa: E402

LIMIT = 5400  # seconds, for one run of a suite
REPEATS = 5
WAYS = ("without", "with")
LOADED = "kasm_latency.history_database = 'postgres'\nkasm_latency.history_interval = '1min'\n"
DSN = {"host": "127.0.0.1", "port": lab.PORT, "user": "postgres", "dbname": "suite"}
JARS = "/usr/share/java"


class NotRun(Exception):
    """Why a suite cannot be run here."""


def junit(pattern):
    """Results of the JUnit files of a pattern."""
    results, number = {}, Counter()
    for file in sorted(glob.glob(pattern)):
        for case in xml.etree.ElementTree.parse(file).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            # those of one name are told apart by their order
            number[name] += 1
            kinds = {child.tag for child in case}
            results[f"{name} ({number[name]})" if number[name] > 1 else name] = (
                "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed")
    return results


class Suite:
    """One suite: NAME, the driver's source, and how it is run."""
    variable = package = None  # where the source comes from
    databases = ["suite"]

    def __init__(self, bindir, user, work):
        self.bindir, self.user, self.work = bindir, user, work
        self.tree = os.path.join(work, "tree")

    def server_settings(self):
        """What its server has beside what all have."""
        return ""

    def call(self, *command, cwd=None, output="output", limit=LIMIT, **environ):
        """A command as the user, what it says to a file; its exit status."""
        with open(os.path.join(self.work, output), "a") as out:
            return subprocess.run([*lab.as_user(self.user), "timeout", "-k", "10", str(limit), *command],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                  cwd=cwd or self.work, check=False,
                                  env={"PATH": self.bindir + ":/usr/local/bin:/usr/bin:/bin", "HOME": self.work,
                                       "LC_ALL": "C.UTF-8", "TMPDIR": self.work, **environ}).returncode

    def source(self):
        """Have the source in self.tree, a copy."""
        named = os.environ.get(self.variable)
        if named:
            shutil.copytree(named, self.tree, symlinks=True)
        elif subprocess.run([os.path.join(HERE, "..", "lib", "fetch_source.sh"), self.package,
                             os.path.join(self.work, "apt"), self.tree], check=False,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            raise NotRun(f"the mirror has no source of {self.package}, and {self.variable} names none")
        lab.run("chown", "-R", self.user, self.work)

    def prepare(self):
        """What is done once for both."""

    def repeat(self, tests, server):
        """The results of these tests, alone."""
        raise NotImplementedError

    def run(self, server):
        """All results: a dictionary of passed, failed and skipped."""
        raise NotImplementedError


class Regress(Suite):
    """PostgreSQL's own, by the server's own tool that runs them."""
    tool, schedule = "regress/pg_regress", "parallel_schedule"
    modules = {"src/test/regress": ["regress"], "contrib/spi": ["autoinc", "refint"]}

    def source(self):
        """What is of use of the source that run.sh has fetched."""
        source = os.environ["POSTGRESQL_SOURCE"]
        for part in ("src/test/regress", "src/test/isolation", "contrib/spi"):
            shutil.copytree(os.path.join(source, part), os.path.join(self.tree, part))
        lab.run("chown", "-R", self.user, self.tree)
        with open(os.path.join(source, "configure"), errors="replace") as text:
            print(f"# {type(self).__name__}: tests of " + re.search(r"PACKAGE_VERSION='(.*)'", text.read()).group(1)
                  + ", server " + lab.run(os.path.join(self.bindir, "pg_config"), "--version").split()[1], flush=True)

    def prepare(self):
        headers = lab.run(os.path.join(self.bindir, "pg_config"), "--includedir-server").strip()
        for part, names in self.modules.items():
            for name in names:
                source = os.path.join(self.tree, part, name)
                if self.call("gcc", "-O2", "-fPIC", "-shared", "-w", "-I" + headers, source + ".c", "-o",
                             os.path.join(self.tree, "src/test/regress", name + ".so")) != 0:
                    raise RuntimeError(f"{name}.c does not compile")

    def run(self, server, tests=()):
        tests_dir = os.path.join(self.tree, "src/test", os.path.dirname(self.tool))
        pgxs = os.path.dirname(os.path.dirname(lab.run(os.path.join(self.bindir, "pg_config"), "--pgxs").strip()))
        out = os.path.join(self.work, "out")
        shutil.rmtree(out, ignore_errors=True)
        lab.run(*lab.as_user(self.user), "mkdir", "-p", out)
        self.call(os.path.join(pgxs, "test", self.tool), "--inputdir=" + tests_dir, "--outputdir=" + out,
                  "--bindir=" + self.bindir, "--dlpath=" + os.path.join(self.tree, "src/test/regress"),
                  "--host=" + server.dir, "--port=" + str(server.port),
                  "--user=postgres", "--max-concurrent-tests=20", "--encoding=UTF8",
                  *(tests or ["--schedule=" + os.path.join(tests_dir, self.schedule)]))
        results = {}
        with open(os.path.join(self.work, "output"), errors="replace") as output:
            for line in output:
                # "test x ... ok", "x ... FAILED"; from 16 on "ok 1 - x", "not ok 1 + x"
                old = re.match(r"^(?:test)?\s+(\S+)\s+\.\.\. (ok|FAILED|failed)", line)
                new = re.match(r"^(ok|not ok)\s+\d+\s+[-+] (\S+)", line)
                if old:
                    results[old.group(1)] = "passed" if old.group(2) == "ok" else "failed"
                elif new:
                    results[new.group(2)] = "passed" if new.group(1) == "ok" else "failed"
        return results

    def repeat(self, tests, server):
        # most need what others have made
        return self.run(server)


class Isolation(Regress):
    tool, schedule = "isolation/pg_isolation_regress", "isolation_schedule"

    def repeat(self, tests, server):
        return self.run(server, tests)


class Pytest(Suite):
    """A driver whose tests are run by pytest."""
    arguments = ["tests"]

    def environ(self):
        return {}

    def pytest(self, *arguments):
        file = os.path.join(self.work, "junit.xml")
        if os.path.exists(file):
            os.remove(file)
        self.call("/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:randomly",
                  "--junitxml=" + file, *arguments, cwd=self.cwd(), PYTHONDONTWRITEBYTECODE="1", **self.environ())
        return junit(file)

    def cwd(self):
        return self.tree

    def run(self, server):
        return self.pytest(*self.arguments)

    def repeat(self, tests, server):
        # by their files: names of parametrized tests are not always arguments
        files = sorted({self.file_of(test) for test in tests})
        return self.pytest(*files)

    def file_of(self, test):
        words = test.split("::", 1)[0].split(".")
        while words and not os.path.exists(os.path.join(self.cwd(), *words) + ".py"):
            words.pop()
        return os.path.join(*words) + ".py"


class TestsAlone:
    """The tree has the driver too, which is not built there: so that it does not hide the installed one, its tests go
    elsewhere."""

    def cwd(self):
        return os.path.join(self.work, "alone")

    def prepare(self):
        lab.run(*lab.as_user(self.user), "mkdir", self.cwd())
        lab.run(*lab.as_user(self.user), "cp", "-a", os.path.join(self.tree, "tests"), self.cwd())
        for name in ("pytest.ini", "pyproject.toml"):
            if os.path.exists(os.path.join(self.tree, name)):
                lab.run(*lab.as_user(self.user), "cp", os.path.join(self.tree, name), self.cwd())


class Psycopg2(TestsAlone, Pytest):
    variable, package = "PSYCOPG2_SOURCE", "psycopg2"

    def environ(self):
        return {"PSYCOPG2_TESTDB": DSN["dbname"], "PSYCOPG2_TESTDB_HOST": DSN["host"],
                "PSYCOPG2_TESTDB_PORT": str(DSN["port"]), "PSYCOPG2_TESTDB_USER": DSN["user"],
                "PSYCOPG2_TEST_REPL_DSN": ""}


class Psycopg3(Pytest):
    variable, package = "PSYCOPG3_SOURCE", "psycopg3"
    # its types are checked by a program, not by a server; what it leaks in its own memory takes it long to find out
    arguments = ["tests", "--ignore=tests/test_typing.py", "-k", "not leak"]

    def environ(self):
        # the tree's own driver, in Python: it needs no build
        return {"PYTHONPATH": os.path.join(self.tree, "psycopg") + ":" + os.path.join(self.tree, "psycopg_pool"),
                "PSYCOPG_IMPL": "python",
                "PSYCOPG_TEST_DSN": " ".join(f"{name}={value}" for name, value in DSN.items())}


class Asyncpg(TestsAlone, Pytest):
    """It makes servers for itself."""
    variable, package = "ASYNCPG_SOURCE", "asyncpg"

    def environ(self):
        return {"PGINSTALLATION": self.bindir}


class Pgjdbc(Suite):
    variable, package = "PGJDBC_SOURCE", "libpgjava"
    jars = ["postgresql", "junit4", "junit-jupiter-api",
            "junit-jupiter-params", "junit-jupiter-engine", "junit-vintage-engine", "junit-platform-commons",
            "junit-platform-engine", "junit-platform-launcher", "junit-platform-console", "junit-platform-reporting",
            "opentest4j-reporting-events", "opentest4j-reporting-schema", "opentest4j", "apiguardian-api",
            "univocity-parsers", "picocli", "hamcrest", "hamcrest-core", "hamcrest-library", "checker-qual"]
    # what the distribution has no package of, or needs no server
    absent = re.compile(r"uk\.org\.webcompere|se\.jiderhamn|org\.osgi|org\.ops4j")
    databases = ["test", "hostdb", "hostssldb", "hostnossldb", "certdb", "hostsslcertdb"]

    def base(self):
        """The module with the driver; Debian's source has it at the top."""
        inner = os.path.join(self.tree, "pgjdbc")
        return inner if os.path.isdir(inner) else self.tree

    def class_path(self):
        return ":".join([os.path.join(self.work, "classes"), os.path.join(self.base(), "src/test/resources")] +
                        [f"{JARS}/{name}.jar" for name in self.jars if os.path.exists(f"{JARS}/{name}.jar")])

    def prepare(self):
        tests = os.path.join(self.base(), "src/test/java")
        files, left_out = [], []
        for file in sorted(glob.glob(tests + "/**/*.java", recursive=True)):
            with open(file, errors="replace") as text:
                (left_out if self.absent.search(text.read()) else files).append(file)
        # and what uses those
        again = True
        while again:
            again = False
            names = re.compile(r"\b(" + "|".join(os.path.basename(name)[:-5] for name in left_out) + r")\b")
            for file in list(files):
                with open(file, errors="replace") as text:
                    if left_out and names.search(text.read()):
                        files.remove(file)
                        left_out.append(file)
                        again = True
        with open(os.path.join(self.work, "files"), "w") as out:
            out.write("\n".join(files))
        if left_out:
            print(f"# pgjdbc: {len(left_out)} files of tests need libraries that the distribution has not: "
                  + ", ".join(os.path.basename(name)[:-5] for name in left_out))
        if self.call("javac", "-nowarn", "-proc:none", "-encoding", "UTF-8", "-d", os.path.join(self.work, "classes"),
                     "-cp", self.class_path(), "@" + os.path.join(self.work, "files"), output="javac") != 0:
            with open(os.path.join(self.work, "javac")) as text:
                raise RuntimeError("pgjdbc's tests do not compile: " + text.read()[-3000:])

    def server_settings(self):
        certs = os.path.join(self.tree, "certdir", "server")
        if not os.path.isdir(certs):
            return ""
        for name in glob.glob(certs + "/*.key"):
            os.chmod(name, 0o600)
        return (f"hba_file = '{certs}/pg_hba.conf'\nssl_cert_file = '{certs}/server.crt'\n"
                f"ssl_key_file = '{certs}/server.key'\nssl_ca_file = '{certs}/root.crt'\n")

    def console(self, *arguments):
        reports = os.path.join(self.work, "reports")
        shutil.rmtree(reports, ignore_errors=True)
        properties = {"server": DSN["host"], "port": DSN["port"], "database": "test", "username": "test",
                      "password": "test", "privilegedUser": "postgres", "privilegedPassword": "",
                      "enable_ssl_tests": "true", "sslpassword": "sslpwd", "preparethreshold": 5, "protocolVersion": 0,
                      "certdir": os.path.join(self.tree, "certdir"), "user.timezone": "UTC",
                      "build.properties.relative.path": self.work}
        self.call("java", *(f"-D{name}={value}" for name, value in properties.items()), "-cp", self.class_path(),
                  "org.junit.platform.console.ConsoleLauncher", "--disable-banner", "--details=none",
                  "--reports-dir=" + reports, *arguments, cwd=self.base())
        return junit(reports + "/*.xml")

    def run(self, server):
        # where the tests look for what they are told by -D
        open(os.path.join(self.work, "build.properties"), "w").close()
        server.psql("CREATE ROLE test LOGIN REPLICATION PASSWORD 'test'", "ALTER DATABASE test OWNER TO test",
                    "GRANT CREATE ON DATABASE test TO test")
        server.psql("CREATE EXTENSION hstore", "ALTER SCHEMA public OWNER TO test", options=["-d", "test"])
        for database in self.databases[1:]:
            server.psql("CREATE EXTENSION sslinfo", options=["-d", database])
        return self.console("--scan-classpath=" + os.path.join(self.work, "classes"))

    def repeat(self, tests, server):
        classes = sorted({test.split("::", 1)[0] for test in tests})
        return self.console(*(f"--select-class={name}" for name in classes))


class NodePostgres(Suite):
    """Those of its packages that talk to a server."""
    variable, package = "NODE_POSTGRES_SOURCE", "node-postgres"
    mocha = ["pg-pool", "pg-cursor", "pg-query-stream"]

    def environ(self):
        return {"PGHOST": DSN["host"], "PGPORT": str(DSN["port"]), "PGUSER": DSN["user"],
                "PGDATABASE": DSN["dbname"], "PGPASSWORD": "unused", "PGTESTNOSSL": "true"}

    def prepare(self):
        for command in (["npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"],
                        ["npx", "--no-install", "tsc", "--build"]):
            if self.call(*command, cwd=self.tree, output="npm", **dict(os.environ, HOME=self.work)) != 0:
                with open(os.path.join(self.work, "npm")) as text:
                    raise NotRun("npm does not install what it needs: " + text.read().strip()[-300:])

    def run(self, server, only=None):
        results = {}
        pg = os.path.join(self.tree, "packages", "pg")
        self.call("node", "script/create-test-tables.js", cwd=pg, **self.environ())
        for file in sorted(glob.glob(pg + "/test/integration/**/*-tests.js", recursive=True)):
            name = os.path.relpath(file, pg)
            if only is None or name in only:
                output = "node." + name.replace("/", ".")
                path = os.path.join(self.work, output)
                if os.path.exists(path):
                    os.remove(path)
                status = self.call("node", name, cwd=pg, output=output, limit=60, **self.environ())
                # each test within, and whether the file as a whole ended well
                results[name] = "passed" if status == 0 else "failed"
                with open(path, errors="replace") as text:
                    for test in re.findall(r"^  (.+) ✔$", text.read(), re.M):
                        results[f"{name}::{test}"] = "passed"
        for package in self.mocha:
            if only is not None and package not in only:
                continue
            output = "mocha." + package
            arguments = ["-r", "ts-node/register", "test/**/*.ts"] if package == "pg-query-stream" else []
            file = os.path.join(self.work, output + ".xml")
            self.call("npx", "--no-install", "mocha", "--timeout", "20000", "--reporter", "xunit",
                      "--reporter-options", "output=" + file,
                      *arguments, cwd=os.path.join(self.tree, "packages", package), output=output, **self.environ())
            results.update({f"{package}::{name}": value for name, value in junit(file).items()})
        return results

    def repeat(self, tests, server):
        return self.run(server, {test.split("::", 1)[0] for test in tests})


SUITES = {"core": Regress, "isolation": Isolation, "psycopg2": Psycopg2, "psycopg3": Psycopg3, "asyncpg": Asyncpg,
          "pgjdbc": Pgjdbc, "node-postgres": NodePostgres}


# ----- one run, in namespaces of its own

def run_one(bindir, user, name, way, work, tests):
    lab.enter()
    lab.stop_on_signals()
    suite = SUITES[name](bindir, user, work)
    server = lab.Server(bindir, user, listen="127.0.0.1", preload="kasm_latency" if way == "with" else "",
                        settings="max_connections = 200\nmax_prepared_transactions = 64\nwal_level = logical\n"
                                 "max_wal_senders = 20\nmax_replication_slots = 20\nlog_min_messages = warning\n"
                                 + (LOADED if way == "with" else "") + suite.server_settings())
    try:
        server.start()
        server.psql(*(f"CREATE DATABASE {database}" for database in suite.databases))
        if "suite" in suite.databases:
            server.psql("CREATE EXTENSION hstore", options=["-d", "suite"])
        results = suite.repeat(tests, server) if tests else suite.run(server)
        answer = {"results": results}
        if way == "with":
            answer["exchanges"] = int(server.rows("SELECT sum(round_trips) AS n FROM kasm_latency.totals")[0]["n"] or 0)
        # what the library itself says, and what no server says that is well
        answer["log"] = [line for line in server.log_text().splitlines()
                         if re.search(r"(WARNING|ERROR|FATAL|PANIC):.*kasm_latency|PANIC:|was terminated by signal|TRAP:", line)]
        with open(os.path.join(work, "answer.json"), "w") as out:
            json.dump(answer, out)
    finally:
        server.remove()


# ----- all of them

def other_way(bindir, way):
    """The installation for a run: two copies, one of which has the library in what a new server's settings are made of."""
    config = os.path.join(bindir, "pg_config")
    if way == "without":
        return bindir
    sample = os.path.join(lab.run(config, "--sharedir").strip(), "postgresql.conf.sample")
    root = os.environ["STAGE"]
    copy = root + ".with"
    if not os.path.exists(copy):
        shutil.copytree(root, copy, symlinks=True)
        with open(copy + sample[len(root):], "a") as out:
            out.write("shared_preload_libraries = 'kasm_latency'\n")
        lab.run("chown", "-R", "--reference=" + root, copy)
    return copy + bindir[len(root):]


def both(bindir, user, name, work, tests=()):
    """A run each way, side by side, but some tests again each way alone; what each found."""
    runs = {}
    try:
        for way in WAYS:
            runs[way] = subprocess.Popen([lab.PYTHON, os.path.abspath(__file__), "run", other_way(bindir, way), user, name,
                                          way, os.path.join(work, way), *tests])
            if tests:
                runs[way].wait()
        for run in runs.values():
            run.wait()
    finally:
        for run in runs.values():
            if run.poll() is None:
                run.terminate()
    answers = {}
    for way in WAYS:
        try:
            with open(os.path.join(work, way, "answer.json")) as text:
                answers[way] = json.load(text)
        except FileNotFoundError:
            raise RuntimeError(f"{name}: the run {way} the library gave no answer") from None
        os.remove(os.path.join(work, way, "answer.json"))
    return answers


def unlike(answers, tests=None):
    first, second = (answers[way]["results"] for way in WAYS)
    return sorted(test for test in (tests or set(first) | set(second)) if first.get(test) != second.get(test))


def count(results):
    values = list(results.values())
    failed = values.count("failed")
    return f"{values.count('passed')}" + (f", {failed} failed" if failed else "")


def suite_row(bindir, user, name, top):
    """Run a suite; the row of the table, and the number of differences."""
    work = os.path.join(top, name)
    os.makedirs(work)
    lab.run("chown", user, work)
    once = SUITES[name](bindir, user, os.path.join(work, "source"))
    lab.run(*lab.as_user(user), "mkdir", once.work)
    once.source()
    once.prepare()
    for way in WAYS:
        lab.run("cp", "-a", once.work, os.path.join(work, way))
    answers = both(bindir, user, name, work)
    repeated = different = unlike(answers)
    if different:
        print(f"# {name}: repeated: " + ", ".join(different[:20]) + (" ..." if len(different) > 20 else ""), flush=True)
        for _ in range(REPEATS):
            again = both(bindir, user, name, work, different)
            different = unlike(again, different)
            if not different:
                break
        for test in different:
            print(f"DIFFERENT: {name}: {test}: without {again['without']['results'].get(test)}, "
                  f"with {again['with']['results'].get(test)}")
    # a process that died counts too, if none did without the library
    crashes = any("kasm_latency" not in line for line in answers["without"]["log"])
    lines = [line for line in answers["with"]["log"] if "kasm_latency" in line or not crashes]
    for line in lines:
        print(f"LOG: {name}: {line}")
    first = answers["without"]["results"]
    row = (name, len(first), count(first), count(answers["with"]["results"]), len(repeated), len(different) + len(lines),
           answers["with"]["exchanges"])
    if not first:
        print(f"NOT OK: {name}: not one test was run")
        return row, 1
    return row, len(different) + len(lines)


def main(bindir, user, *names):
    for name in names:
        if name not in SUITES:
            print(f"foreign: there is no suite {name}; there are " + ", ".join(SUITES))
            return 2
    reason = lab.why_not()
    if reason:
        print(f"foreign: not run: {reason}")
        return 77
    top = os.path.join(os.environ["TMPDIR"], "foreign")
    os.makedirs(top)
    os.chmod(top, 0o755)
    rows, not_run, wrong = [], [], 0
    for name in names or SUITES:
        try:
            row, differences = suite_row(bindir, user, name, top)
        except NotRun as reason:
            not_run.append(f"NOT RUN: {name}: {reason}")
            continue
        except RuntimeError as problem:
            print(f"NOT OK: {name}: {problem}", flush=True)
            wrong += 1
            continue
        wrong += differences
        rows.append(row)
        print(("{:<14} {:>6} tests, without: {}; with: {}; repeated {}, different {}; {} exchanges").format(*row), flush=True)
    print()
    form = "{:<14} {:>7} {:>18} {:>18} {:>9} {:>10} {:>10}"
    print(form.format("suite", "tests", "without", "with", "repeated", "different", "exchanges"))
    for row in rows:
        print(form.format(*row))
    for line in not_run:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run_one(*sys.argv[2:7], sys.argv[7:])
    else:
        sys.exit(main(*sys.argv[1:]))
