"""The save file, spoilt in every way: the server starts all the same, empty,
after one WARNING; and takes a good file as it is.

    savefile.py BINDIR USER [MUTATIONS]

In namespaces of its own, for a disk that is full.  The server is started in
single-user mode, which loads the file as any start does.
"""
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lab")]
import lab  # noqa: E402
from checks import finish, require  # noqa: E402

MUTATIONS = 2000
WORKERS = 2
NAME = "pg_stat/kasm_latency.stat"
QUERY = "SELECT count(*) AS n FROM kasm_latency.totals WHERE username IN ('kasmapp', 'second')\n"

def crc32c(data, table=[]):
    if not table:
        for n in range(256):
            for _ in range(8):
                n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
            table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


class DataDirectory:
    """A server's data, stopped, with a save file of two clients."""

    def __init__(self, bindir, user):
        self.server = lab.Server(bindir, user, port=lab.free_port(), listen="127.0.0.1", settings="autovacuum = off")
        self.path = os.path.join(self.server.data, NAME)

    def fill(self):
        self.server.start()
        self.server.psql("CREATE ROLE second LOGIN")
        for role in ("kasmapp", "second"):
            self.server.command("psql", "-X", "-q", "-U", role, "-d", "kasm", "-o", "/dev/null", "-c", "SELECT 1")
        self.server.stop()
        with open(self.path, "rb") as saved:
            return saved.read()

    def start(self):
        """Start and stop; how many clients it knows, and its log."""
        done = subprocess.run([*lab.as_user(self.server.user), "postgres", "--single", "-D", self.server.data, "postgres"],
                              input=QUERY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                              env=self.server.environ, cwd=self.server.dir, timeout=60)
        said = re.search(r'n = "(\d+)"', done.stdout)
        return done.returncode, int(said.group(1)) if said else None, done.stderr

    def put(self, content):
        with open(self.path, "wb") as saved:
            saved.write(content)
        os.chmod(self.path, 0o600)
        if os.geteuid() == 0:
            shutil.chown(self.path, self.server.user)

    def check(self, name, clients, warning):
        """What a start must say; "warning" is a pattern, or None for none."""
        status, n, log = self.start()
        warnings = [line for line in log.splitlines() if "WARNING:  kasm_latency" in line]
        require(status == 0, f"{name}: postgres ended with {status}: {log[-300:]}")
        require(n == clients, f"{name}: {n} clients, not {clients}")
        require(len(warnings) == (warning is not None) and all(re.search(warning, w) for w in warnings),
                f"{name}: warned {warnings}, not {warning}")


def mutations(good, n):
    """Every way to spoil a file, with what is to be said of it."""
    chance = random.Random(1)
    yield "nothing", good, 2, None
    for size in [0, 1, 50, len(good) // 2, len(good) - 5, len(good) - 4, len(good) - 1]:
        yield f"cut off at {size}", good[:size], 0, "too short"
    yield "a byte too many", good + b"\0", 0, "too long"
    yield "twice", good + good, 0, "too long"
    yield "all zeros", bytes(len(good)), 0, "another version"
    yield "all ones", b"\xff" * len(good), 0, "another version"
    # the header's words, the checksum made right again
    for word, name in ((0, "magic"), (1, "version"), (2, "major version"), (3, "padding"), (4, "size of an identity"),
                       (6, "size of a history"), (8, "size of a pair"), (10, "clients"), (12, "pairs")):
        for value in (0, 1, 0xFFFFFFFF, 12345):
            body = bytearray(good[:-4])
            if struct.unpack_from("=I", body, 4 * word)[0] == value:
                continue
            struct.pack_into("=I", body, 4 * word, value)
            yield (f"{name} {value}", bytes(body) + struct.pack("=I", crc32c(body)), 0,
                   "another version" if word < 10 else "too short|too many pairs|checksum")
    while n > 0:
        body = bytearray(good)
        at = chance.randrange(64) if n % 4 == 0 else chance.randrange(len(good))
        kind = chance.randrange(3)
        if kind == 0:
            body[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            length = chance.randrange(1, 64)
            body[at:at + length] = chance.randbytes(len(body[at:at + length]))
        else:
            del body[at:at + chance.randrange(1, 64)]
        if bytes(body) != good:
            n -= 1
            yield f"mutation {n} ({kind} at {at})", bytes(body), 0, "ignoring file"


def main(bindir, user, n=MUTATIONS):
    directories = [DataDirectory(bindir, user) for _ in range(WORKERS)]
    try:
        goods = [directory.fill() for directory in directories]

        def work(worker):
            done = 0
            for i, (name, content, clients, warning) in enumerate(mutations(goods[worker], int(n))):
                if i % WORKERS == worker:
                    directories[worker].put(content)
                    directories[worker].check(name, clients, warning)
                    done += 1
            return done
        with ThreadPoolExecutor(WORKERS) as pool:
            print(f"{sum(pool.map(work, range(WORKERS)))} files, good and spoilt", flush=True)

        directory, good = directories[0], goods[0]
        directory.put(good)
        os.chmod(directory.path, 0)
        directory.check("unreadable", 0, "could not open file.*Permission denied")
        if os.path.exists(directory.path):
            os.unlink(directory.path)
        os.mkdir(directory.path)
        directory.check("a directory", 0, "ignoring file|could not (open|rename) file")
        os.rmdir(directory.path)
        # no room for it: told at shutdown, which is none the worse, and the next start is empty
        directory.put(good)
        directory.server.command("pg_ctl", "-D", directory.server.data, "-l", directory.server.log, "-w", "-s", "start")
        lab.run("mount", "-t", "tmpfs", "-o", "size=16k", "none", os.path.dirname(directory.path))
        shutil.chown(os.path.dirname(directory.path), user)
        directory.server.stop()
        require("could not write file \"pg_stat/kasm_latency.stat.tmp\": No space left on device"
                in directory.server.log_text(), "a full disk is not told of")
        directory.check("after a full disk", 0, None)
        lab.run("umount", os.path.dirname(directory.path))
        print("unreadable, a directory in its place, a full disk", flush=True)
    finally:
        for directory in directories:
            directory.server.remove()
    return finish()


if __name__ == "__main__":
    lab.stop_on_signals()
    lab.enter()
    sys.exit(main(*sys.argv[1:]))
