#!/bin/bash
# Install what the build, the demo and the tests need and this machine lacks,
# from Debian's or Ubuntu's packages.  Says what it installs; does nothing
# where all is there.
#
#	setup.sh PURPOSE ...		demo, lab, bench, builds, source, container, or a part of run.sh's tests
#
# With PG_CONFIG set, that server is taken as it is; otherwise the
# distribution's PostgreSQL is.  No cluster is made, and no package of a server
# that runs is upgraded (that would restart it).
set -euo pipefail

purposes=${*:?demo, lab, bench, builds, or parts of the tests}
PG_CONFIG=${PG_CONFIG:-pg_config}

packages=()
want() { # PACKAGE CHECK...
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || packages+=("$package")
}
# is one of these asked for?
asked() {
	local purpose
	for purpose; do
		[[ " $purposes " != *" $purpose "* ]] || return 0
	done
	return 1
}
program() { command -v "$1"; }
server_complete() {
	local bindir
	bindir=$("$PG_CONFIG" --bindir 2>/dev/null) &&
		[ -x "$bindir/postgres" ] &&
		[ -e "$("$PG_CONFIG" --pgxs)" ] &&
		[ -e "$("$PG_CONFIG" --includedir-server)/postgres.h" ]
}
busybox_is_static() { [ -x /bin/busybox ] && ! readelf -d /bin/busybox | grep -q NEEDED; }
python_module() { /usr/bin/python3 -c "import $1"; }

# Another server's extension, of Debian's packages for ours: SERVER is its
# version, not known yet where the server is still to be installed.
major=$("$PG_CONFIG" --version 2>/dev/null | sed -E 's/^PostgreSQL ([0-9]+).*/\1/') || true
want_extension() { # NAME PACKAGE
	[ -z "$major" ] || [ -d "/usr/share/postgresql/$major" ] || return 0
	want "postgresql-${major:-SERVER}-$2" test -e "/usr/share/postgresql/$major/extension/$1.control"
}

# those of foreign/foreign.py
suites="foreign core isolation psycopg2 psycopg3 asyncpg pgjdbc node-postgres"

want gcc program gcc
want make program make
want python3 test -x /usr/bin/python3
want linux-libc-dev test -e /usr/include/linux/tcp.h
want libssl-dev test -e /usr/include/openssl/ssl.h
want libkrb5-dev test -e /usr/include/gssapi/gssapi.h
if asked demo fuzz lab answers everybody forecast loads watched monitoring bench cost soak limits abuse churn savefile watcher faults exchanges container $suites; then
	want openssl program openssl
	want iproute2 program ip
fi
if asked demo tap lab answers everybody forecast loads watched monitoring bench cost soak limits abuse churn savefile watcher faults exchanges container foreign psycopg2; then
	want python3-psycopg2 python_module psycopg2
fi
if asked tap lab answers forecast loads bench cost; then
	want python3-sqlalchemy python_module sqlalchemy
	want python3-psycopg python_module psycopg
fi
if asked lab answers forecast loads; then
	want iputils-ping program ping
	want pgbouncer test -x /usr/sbin/pgbouncer
	want socat program socat
	want haproxy test -x /usr/sbin/haproxy
	want nftables program nft
fi
if asked tap lab answers churn; then
	want libfaketime compgen -G '/usr/lib/*/faketime/libfaketime.so.1'
fi
if asked bench cost builds; then
	want valgrind program valgrind
fi
if asked bench tap; then
	want_extension pg_stat_kcache pg-stat-kcache
	want_extension pg_wait_sampling pg-wait-sampling
fi
if asked bench; then
	want strace program strace
fi
if asked tap watched; then
	want_extension pg_cron cron
fi
if asked tap lab foreign asyncpg; then
	want python3-asyncpg python_module asyncpg
fi
if asked tap; then
	want_extension pgaudit pgaudit
	want libipc-run-perl perl -MIPC::Run -e 1
fi
if asked watched; then
	want chromium program chromium
	want check-postgres program check_postgres
	want cron program cron
fi
if asked monitoring; then
	want python3-yaml python_module yaml
	want prometheus program promtool
	want prometheus-postgres-exporter program prometheus-postgres-exporter
fi
if asked lint; then
	want clang-format program clang-format
	want cppcheck program cppcheck
fi
if asked packages; then
	want zip program zip
	want unzip program unzip
	want dpkg-dev program dpkg-buildpackage
	want build-essential test -e /usr/share/build-essential
	want debhelper program dh
	want postgresql-server-dev-all program pg_buildext
	want mmdebstrap program mmdebstrap
	want debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg
	want libipc-run-perl perl -MIPC::Run -e 1
fi
if asked container; then
	want podman program podman
	want runc program runc
	want nftables program nft
	want busybox-static busybox_is_static
	want python3-yaml python_module yaml
fi
if asked source; then
	# a tree may have come without what these make
	want bison program bison
	want flex program flex
fi
if asked foreign psycopg2 psycopg3 asyncpg; then
	want python3-pytest python_module pytest
fi
if asked foreign psycopg3; then
	want python3-pytest-asyncio python_module pytest_asyncio
	want libpq5 compgen -G '/usr/lib/*/libpq.so.5'
fi
if asked foreign pgjdbc; then
	want default-jdk-headless program javac
	want libpostgresql-jdbc-java test -e /usr/share/java/postgresql.jar
	want junit4 test -e /usr/share/java/junit4.jar
	want junit5 test -e /usr/share/java/junit-platform-console.jar
	want libchecker-framework-java test -e /usr/share/java/checker-qual.jar
fi
if asked foreign node-postgres; then
	want npm program npm
fi
# shellcheck disable=SC2086 # words
if asked builds fetch $suites; then
	want dpkg-dev program dpkg-source
	want bzip2 program bzip2
fi
if asked builds; then
	want libipc-run-perl perl -MIPC::Run -e 1
	want musl-tools program musl-gcc
elif ! asked fetch; then
	server_complete || packages+=(server)
fi

# Not every release has these; the tests that need them say that they are not
# run.  Asked before anything is fetched, where the lists are there already.
drop_unknown() {
	local package kept=()
	for package in "${packages[@]}"; do
		case $package in
			python3-psycopg | python3-asyncpg | haproxy | postgresql-[0-9]*-* | prometheus*)
				if compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null &&
					! apt-cache show "$package" >/dev/null 2>&1; then
					echo "setup: this release has no $package: what needs it is not run" >&2
					continue
				fi
				;;
		esac
		kept+=("$package")
	done
	packages=("${kept[@]}")
}
drop_unknown
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
	major=$(apt-cache depends postgresql | sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p')
	packages=("${packages[@]/#server/postgresql-server-dev-SERVER}")
	packages=("${packages[@]/SERVER/$major}")
	# what is installed stays as it is: an upgrade would restart its clusters
	[ -x "/usr/lib/postgresql/$major/bin/postgres" ] || packages+=("postgresql-$major")
fi
drop_unknown
[ ${#packages[@]} -gt 0 ] || exit 0

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
$as_root apt-get -qq install -y --no-install-recommends "${packages[@]}" >&2
# nor are these to start with the machine from now on: they would watch it, or
# listen
for service in haproxy prometheus prometheus-postgres-exporter; do
	[[ " ${packages[*]} " != *" $service "* ]] || $as_root update-rc.d "$service" disable
done
if [[ " ${packages[*]} " == *" podman "* ]] && command -v systemctl >/dev/null; then
	$as_root systemctl --no-reload disable podman.socket podman.service podman-restart.service \
		podman-auto-update.service podman-auto-update.timer
fi
