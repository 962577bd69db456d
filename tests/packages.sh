#!/bin/bash
# What is handed out (extension/packaging/package.sh), as somebody gets it.
#
#	packages.sh archive PG_CONFIG DIST	make the archive, twice: the same bytes; build, install and
#						test from it alone
#	packages.sh deb DIST			make Debian's packages
#	packages.sh root DIST			as root: lintian, and all of them installed, used and
#						purged in a fresh root with this machine's release
#
# The root with lintian is made by mmdebstrap, and kept for the next run in
# PACKAGES_DIR; each run works on what is laid over it, and removes that.  What
# is mounted is mounted in a namespace of its own.  Exits with 77, after a
# reason, where something cannot be had.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
what=${1:?archive, deb or root}
shift
work=$(mktemp -d "${TMPDIR:-/tmp}/kasm_latency_packages.XXXXXX")
running=
clean_up() {
	[ -z "$running" ] || "$running/pg_ctl" -D "$work/data" -m immediate -w stop >/dev/null || true
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

complain() {
	echo "packages: $*" >&2
	exit 1
}
cannot() {
	echo "$*"
	exit 77
}
package() { # DIST WHAT
	DIST=$1 "$top/extension/packaging/package.sh" "$2"
}

# ----- the archive

test_archive() { # PG_CONFIG DIST
	local pg_config=$1 dist=$2 archive staged bindir
	archive=$(package "$dist" dist)
	package "$work/again" dist >/dev/null
	cmp "$archive" "$work/again/$(basename "$archive")" || complain "made twice, the archive is not the same"
	(cd "$dist" && sha256sum --quiet --check SHA256SUMS && cat SHA256SUMS)

	unzip -q "$archive" -d "$work"
	cd "$work/$(basename "$archive" .zip)"
	python3 -c '
import json, os, sys
meta = json.load(open("META.json"))
version = meta["version"]
control = open("extension/kasm_latency.control").read()
assert "default_version = \x27%s\x27" % version.rsplit(".", 1)[0] in control, "the version of the control file is another"
for provided in meta["provides"].values():
    assert provided["version"] == version
    for key in ("file", "docfile"):
        assert os.path.exists(provided[key]), provided[key]' || complain "META.json"

	# a copy of the server to install into, and one server of it
	make -s PG_CONFIG="$pg_config" EXTRA_CFLAGS=-Werror
	staged=$(tests/lib/stage.sh "$pg_config" "$work/stage")
	bindir=$(dirname "$staged")
	"$bindir/initdb" -A trust -N -D "$work/data" >/dev/null
	mkdir "$work/socket"
	printf '%s\n' "shared_preload_libraries = 'kasm_latency'" "listen_addresses = ''" \
		"unix_socket_directories = '$work/socket'" >>"$work/data/postgresql.conf"
	"$bindir/pg_ctl" -D "$work/data" -l "$work/log" -w start >/dev/null || { cat "$work/log"; return 1; }
	running=$bindir
	# one of the TAP tests: all of them run as a part of their own
	PGHOST=$work/socket PGUSER=$(id -un) PATH="$bindir:$PATH" \
		make -s PG_CONFIG="$staged" PROVE_TESTS=tests/tap/001_protocol.pl installcheck >"$work/installcheck" 2>&1 ||
		{ cat "$work/installcheck" regression.diffs 2>/dev/null; complain "installcheck from the archive"; }
	grep -E '^(All |.*tests? passed|Result)' "$work/installcheck"
	echo "packages: built, installed and tested from the archive alone: ok"
}

# ----- Debian's packages

make_deb() { # DIST
	local program
	for program in dh dpkg-buildpackage pg_buildext; do
		command -v $program >/dev/null || cannot "there is no program $program"
	done
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || cannot "no server here is one of Debian's packages"
	package "$1" deb
}

# Run something in namespaces of its own: its mounts and processes end with it.
contained() {
	unshare --mount --pid --mount-proc --ipc --fork --kill-child "$@" </dev/null 9>&-
}

make_root() { # RELEASE ROOT
	contained "$here/lib/make_root.sh" "$1" "$(dpkg --print-architecture)" lintian,netbase "$2"
}

# in a root with the packages in /packages
in_root() {
	cat <<'END'
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
say() { echo "packages: $*"; }
complain() { echo "packages: $*" >&2; exit 1; }
nobody_left() {
	local left
	left=$(find / -xdev \( -path /packages -o -path /proc -o -path /var/cache/apt/archives \) -prune -o -iname '*kasm*latency*' -print)
	[ -z "$left" ] || complain "$1: there is $left"
	! grep -rl kasm_latency /etc /usr || complain "$1: that speaks of it"
}

# it is no upload to Debian, whose first one closes a request for it
lintian --allow-root --suppress-tags initial-upload-closes-no-bugs --fail-on error /packages/*.changes
say "lintian: no errors"

nobody_left before
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -qq update
for deb in /packages/*.deb; do
	package=$(dpkg-deb -f "$deb" Package)
	major=${package#postgresql-}
	major=${major%%-*}
	if ! apt-cache show "postgresql-$major" >/dev/null 2>&1; then
		echo "# NOT RUN: $package installed: the release has no postgresql-$major"
		continue
	fi
	apt-get -qq install -y --no-install-recommends "$deb" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
	say "installed: $(dpkg-query -W -f '${Package} ${Version} ${Status}' "$package")"
	as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env -C / "$@"; }
	ask() { as_postgres psql -XqAt -v ON_ERROR_STOP=1 -c "$1"; }
	server() { as_postgres pg_ctlcluster --skip-systemctl-redirect "$major" main "$1"; }
	loaded=/etc/postgresql/$major/main/conf.d/kasm_latency.conf
	cat >"$loaded" <<-'CONF'
		shared_preload_libraries = 'kasm_latency'
		kasm_latency.history_database = 'postgres'
	CONF
	server start
	ask 'CREATE EXTENSION kasm_latency'
	say "measures: $(ask 'SELECT version, clients, watcher_pid > 0 FROM kasm_latency.info')," \
		"$(ask 'SELECT host, verdict FROM kasm_latency.hosts')"

	# by the steps of "Remove" in docs/operations.md
	ask 'DROP EXTENSION kasm_latency'
	rm "$loaded"
	server restart
	rm "/var/lib/postgresql/$major/main/pg_stat/kasm_latency.stat"
	apt-get -qq purge -y "$package" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
	server restart
	[ "$(ask "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'kasm%'")" = 0 ] || complain "something is left in the database"
	server stop
	nobody_left "$package is purged"
	say "purged: nothing is left, and the server runs"
done
END
}

test_root() { # DIST
	local dist=$1 roots release root
	roots=${PACKAGES_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency/packages}
	compgen -G "$dist/*.deb" >/dev/null || cannot "no packages were made"
	release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	[ -n "$release" ] || cannot "no fresh root: this is no release"
	command -v mmdebstrap >/dev/null || cannot "no fresh root: there is no program mmdebstrap"
	unshare --mount --pid --fork true 2>/dev/null || cannot "no fresh root: no namespaces are to be had here"
	mkdir -p "$roots/archives/partial"
	exec 9>"$roots/lock"
	flock 9
	root=$roots/$release
	[ -d "$root" ] || make_root "$release" "$root" || cannot "no fresh root: mmdebstrap could not make one of $release"
	flock -u 9

	mkdir "$work/upper" "$work/work" "$work/root"
	in_root >"$work/script"
	# shellcheck disable=SC2016 # expanded in there
	contained /bin/bash -euc '
		root=$1 work=$2 dist=$3 archives=$4 merged=$2/root
		mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" "$merged" 2>/dev/null ||
			cp -a "$root/." "$merged/"
		mkdir "$merged/packages"
		cp "$dist"/*.{deb,dsc,changes,buildinfo,orig.tar.gz,debian.tar.xz} "$work/script" "$merged/packages/"
		cp /etc/resolv.conf "$merged/etc/resolv.conf"
		printf "127.0.0.1\tlocalhost\n" >"$merged/etc/hosts"
		mount --bind "$archives" "$merged/var/cache/apt/archives"
		mount -t proc proc "$merged/proc"
		mount --bind /dev "$merged/dev"
		mount -t devpts -o newinstance,ptmxmode=666 devpts "$merged/dev/pts"
		mount -t tmpfs -o mode=1777 tmpfs "$merged/dev/shm"
		chroot "$merged" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			${http_proxy:+"http_proxy=$http_proxy"} /bin/bash /packages/script' \
		packages "$root" "$work" "$dist" "$roots/archives"
}

case $what in
	archive) test_archive "$@" ;;
	deb) make_deb "$@" ;;
	root) test_root "$@" ;;
	*) complain "archive, deb or root, not $what" ;;
esac
