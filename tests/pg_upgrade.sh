#!/bin/bash
# pg_upgrade from PostgreSQL 15 to 17, with the extension in two databases, as
# on a Debian that went from bookworm to trixie.
#
# In what is laid over the root with trixie that tests/matrix.sh has made (and
# is made by it here, where there is none): bookworm's server is installed
# there beside trixie's own.  It is mounted in a namespace, and removed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
roots=${MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency/matrix}
root=$roots/trixie
[ "$(id -u)" = 0 ] || exec sudo env MATRIX_DIR="$roots" "$here/pg_upgrade.sh"
[ -x "$root/usr/lib/postgresql/17/bin/postgres" ] || "$here/matrix.sh" 17
work=$(mktemp -d /tmp/kasm_latency_upgrade.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
exec 9>"$roots/lock"
flock -n 9 || {
	echo "pg_upgrade: another run uses $roots" >&2
	exit 1
}

in_root() {
	cat <<'END'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
complain() { echo "pg_upgrade: $*" >&2; exit 1; }
quiet() { "$@" >/tmp/log 2>&1 || { tail -n 40 /tmp/log; complain "$*"; }; }

mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/no.conf
sed 's/trixie/bookworm/g' /etc/apt/sources.list >/etc/apt/sources.list.d/bookworm.list
quiet apt-get -qq update
quiet apt-get -qq install -y --no-install-recommends postgresql-15
# its headers alone: the package wants a compiler of its own beside
cd /tmp
quiet apt-get -qq download postgresql-server-dev-15
dpkg -x postgresql-server-dev-15_*.deb /

bin() { echo "/usr/lib/postgresql/$1/bin"; }
for version in 15 17; do
	mkdir "/tmp/build-$version"
	quiet make -s -C "/tmp/build-$version" -f /kasm_latency/Makefile PG_CONFIG="$(bin $version)/pg_config"
done
quiet make -s -C /tmp/build-15 -f /kasm_latency/Makefile PG_CONFIG="$(bin 15)/pg_config" install

mkdir /tmp/upgrade
chown postgres /tmp/upgrade
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env -C /tmp/upgrade PGHOST=/tmp/upgrade "$@"; }
server() { as_postgres "$(bin "$1")/pg_ctl" -D "/tmp/upgrade/$1" -l "/tmp/upgrade/$1.log" -w "$2" >/dev/null; }
ask() { as_postgres psql -XqAt -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }
for version in 15 17; do
	quiet as_postgres "$(bin $version)/initdb" -N -A trust -D "/tmp/upgrade/$version"
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '/tmp/upgrade'" >>"/tmp/upgrade/$version/postgresql.conf"
done
load() { echo "shared_preload_libraries = 'kasm_latency'" >>"/tmp/upgrade/$1/postgresql.conf"; }

load 15
server 15 start
ask postgres 'CREATE DATABASE kasm'
for database in postgres kasm; do
	ask $database "CREATE EXTENSION kasm_latency"
	ask $database "SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'eu')" >/dev/null
	ask $database "INSERT INTO kasm_latency.history (taken_at, host, rtt_ms) VALUES ('2026-01-01 12:00+00', 'webapp-eu', 120.5)"
done
ask postgres "CREATE ROLE monitor IN ROLE pg_monitor; GRANT EXECUTE ON FUNCTION kasm_latency.snapshot() TO monitor"
kept="SELECT r::text FROM kasm_latency.host_registry AS r UNION ALL SELECT h::text FROM kasm_latency.history AS h
	UNION ALL SELECT p.proacl::text FROM pg_proc AS p WHERE p.oid = 'kasm_latency.snapshot()'::regprocedure"
ask postgres 'CREATE ROLE app LOGIN'
as_postgres psql -XqAt -U app -d postgres -c 'SELECT 1' >/dev/null
measured="SELECT count(*) FROM kasm_latency.totals WHERE username = 'app'"
[ "$(ask postgres "$measured")" = 1 ] || complain "the old server has not measured"
before=$(ask postgres "$kept")$(ask kasm "$kept")
server 15 stop

upgrade() {
	as_postgres "$(bin 17)/pg_upgrade" -b "$(bin 15)" -B "$(bin 17)" -d /tmp/upgrade/15 -D /tmp/upgrade/17 "$@" >/tmp/upgrade.log 2>&1
}
! upgrade --check || complain "it is not missed in the new server"
grep -q 'loadable libraries' /tmp/upgrade.log || { cat /tmp/upgrade.log; complain "the library is missed otherwise"; }
echo "pg_upgrade: without the library in the new server: refused"
quiet make -s -C /tmp/build-17 -f /kasm_latency/Makefile PG_CONFIG="$(bin 17)/pg_config" install
upgrade --check || { cat /tmp/upgrade.log; complain "it is wanted in shared_preload_libraries"; }
load 17
upgrade || { cat /tmp/upgrade.log; complain "pg_upgrade failed"; }
! grep -q 'kasm_latency.*exited\|PANIC' /tmp/upgrade/17/pg_upgrade_output.d/*/log/* 2>/dev/null || complain "its servers complain"

server 17 start
[ "$(ask postgres "$kept")$(ask kasm "$kept")" = "$before" ] || complain "names, history or privileges are others"
for database in postgres kasm; do
	ask $database 'ALTER EXTENSION kasm_latency UPDATE' 2>/dev/null
	[ "$(ask $database 'SELECT count(*) >= 1 FROM kasm_latency.hosts')" = t ] || complain "it does not measure"
	[ "$(ask $database 'SELECT kasm_latency.snapshot() >= 0')" = t ] || complain "it takes no snapshot"
done
[ "$(ask postgres "$measured")" = 0 ] || complain "figures of the old server came along"
! grep -E 'WARNING|ERROR|FATAL' /tmp/upgrade/17.log || complain "the new server complains"
echo "pg_upgrade: $(ask postgres "SELECT format('to %s; the watcher runs: %s', current_setting('server_version'), watcher_pid IS NOT NULL) FROM kasm_latency.info")"
server 17 stop
echo "pg_upgrade: names, history and privileges came along, in both databases; it measures: ok"
END
}

mkdir "$work/upper" "$work/work" "$work/root"
in_root >"$work/script"
# shellcheck disable=SC2016 # expanded in there
unshare --mount --pid --mount-proc --ipc --fork --kill-child /bin/bash -euc '
	root=$1 work=$2 top=$3 merged=$2/root
	mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$merged"
	rm -rf "$merged/kasm_latency"
	mkdir "$merged/kasm_latency"
	tar -C "$top" --exclude=.git --exclude=./dist --exclude="*.o" --exclude="*.so" -cf - . |
		tar -C "$merged/kasm_latency" --no-same-owner -xf -
	cp "$work/script" "$merged/kasm_latency/script"
	cp /etc/resolv.conf "$merged/etc/resolv.conf"
	printf "127.0.0.1\tlocalhost\n" >"$merged/etc/hosts"
	mount -t proc proc "$merged/proc"
	mount --bind /dev "$merged/dev"
	mount -t tmpfs -o mode=1777 tmpfs "$merged/dev/shm"
	chroot "$merged" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		${http_proxy:+"http_proxy=$http_proxy"} /bin/bash /kasm_latency/script' \
	pg_upgrade "$root" "$work" "$top" </dev/null 9>&-
