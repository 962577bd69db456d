#!/bin/bash
# Install what the build, the demo and the tests need and this machine lacks,
# from Debian's or Ubuntu's packages.  Says what it installs; does nothing
# where all is there.
#
#	setup.sh demo|lab|bench|test
#
# With PG_CONFIG set, that server is taken as it is; otherwise the
# distribution's PostgreSQL is.  No cluster is made, and no package of a server
# that runs is upgraded (that would restart it).
set -euo pipefail

purpose=${1:?demo, lab, bench or test}
PG_CONFIG=${PG_CONFIG:-pg_config}

packages=()
want() { # PACKAGE CHECK...
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
program() { command -v "$1"; }
server_complete() {
	local bindir
	bindir=$("$PG_CONFIG" --bindir) &&
		[ -x "$bindir/postgres" ] &&
		[ -e "$("$PG_CONFIG" --pgxs)" ] &&
		[ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]
}
python_module() { /usr/bin/python3 -c "import $1"; }

want gcc program gcc
want make program make
want openssl program openssl
want iproute2 program ip
want python3 test -x /usr/bin/python3
want python3-psycopg2 python_module psycopg2
want linux-libc-dev test -e /usr/include/linux/tcp.h
want libkrb5-dev test -e /usr/include/gssapi/gssapi.h
if [ "$purpose" != demo ]; then
	want python3-sqlalchemy python_module sqlalchemy
	want python3-psycopg python_module psycopg
	want pgbouncer test -x /usr/sbin/pgbouncer
	want socat program socat
	want nftables program nft
	want libfaketime compgen -G '/usr/lib/*/faketime/libfaketime.so.1'
fi
if [ "$purpose" != demo ] && [ "$purpose" != lab ]; then
	want valgrind program valgrind
fi
major=$("$PG_CONFIG" --version 2>/dev/null | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
want_extension() { # NAME PACKAGE
	want "postgresql-${major:=15}-$2" test -e "/usr/share/postgresql/$major/extension/$1.control"
}
if [ "$purpose" = bench ] || [ "$purpose" = test ]; then
	want_extension pg_stat_kcache pg-stat-kcache
	want_extension pg_wait_sampling pg-wait-sampling
fi
if [ "$purpose" = bench ]; then
	want strace program strace
fi
if [ "$purpose" = test ]; then
	want_extension pgaudit pgaudit
	want_extension pg_cron cron
	want chromium program chromium
	want check-postgres program check_postgres
	want cron program cron
	want libipc-run-perl perl -MIPC::Run -e 1
	want python3-asyncpg python_module asyncpg
	want clang-format program clang-format
	want cppcheck program cppcheck
fi
server_complete || packages+=(server)
[ ${#packages[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || {
	echo "setup: this machine lacks ${packages[*]} and has no apt-get to install it" >&2
	exit 1
}
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get -qq update

if [[ " ${packages[*]} " == *" server "* ]]; then
	version=$(apt-cache depends postgresql | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p')
	packages=("${packages[@]/server/}")
	packages+=("postgresql-server-dev-$version")
	# what is installed stays as it is: an upgrade would restart its clusters
	[ -x "/usr/lib/postgresql/$version/bin/postgres" ] || packages+=("postgresql-$version")
fi

echo "setup: installing ${packages[*]}" >&2
# Debian makes a cluster when it installs a server, and starts services, unless
# told not to
no_cluster=/etc/postgresql-common/createcluster.d/kasm_latency_setup.conf
no_start=/usr/sbin/policy-rc.d
made=("$no_cluster")
$as_root mkdir -p "$(dirname "$no_cluster")"
echo 'create_main_cluster = false' | $as_root tee "$no_cluster" >/dev/null
if [ ! -e "$no_start" ]; then
	made+=("$no_start")
	printf '#!/bin/sh\nexit 101\n' | $as_root tee "$no_start" >/dev/null
	$as_root chmod 755 "$no_start"
fi
trap '$as_root rm -f "${made[@]}"' EXIT
# shellcheck disable=SC2068 # an emptied element must vanish
$as_root apt-get -qq install -y --no-install-recommends ${packages[@]} >&2
