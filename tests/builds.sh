#!/bin/bash
# Build PostgreSQL from the distribution's source package in a way that shows
# what an ordinary build hides, or from a source tree that somebody has, then
# the extension alike, and run the tests on the two:
#
#	builds.sh assert [PART ...]	with assertions
#	builds.sh asan [PART ...]	with AddressSanitizer and UBSan
#	builds.sh memcheck [PART ...]	the server under valgrind
#	builds.sh musl [PART ...]	with musl instead of glibc, as on Alpine
#	builds.sh source [PART ...]	from the tree PG_SOURCE, of any version
#	builds.sh fetch			the source alone; prints where it is
#
# Parts are those of run.sh; what is the default: see below.  With "server" for
# a part the server is built, and nothing is run.  Source and
# servers are kept in BUILDS_DIR, and built anew where the way to build them
# or the tree PG_SOURCE has changed.  Remove what is in there to get a newer
# PostgreSQL.
# shellcheck disable=SC2016 # of apt and make
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=${1:?assert, asan, memcheck, musl, source or fetch}
shift
cache=${BUILDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency}

# the make that called us is none of PostgreSQL's or the extension's business
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CFLAGS CPPFLAGS LDFLAGS COPT PROFILE

case $build in
	fetch) "$here/setup.sh" fetch ;;
	*) "$here/setup.sh" builds "$build" ;;
esac
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# Let musl-gcc find the kernel's headers, which it has none of: these alone,
# as beside them are those of glibc.
add_kernel_headers() { # DIRECTORY
	mkdir -p "$1"
	ln -sfn /usr/include/linux "$1/linux"
	ln -sfn /usr/include/asm-generic "$1/asm-generic"
	ln -sfn "/usr/include/$(gcc -print-multiarch)/asm" "$1/asm"
	export C_INCLUDE_PATH=$1
}

# ----- what the builds are

cc=gcc
configure=(--enable-tap-tests --enable-debug --without-readline --without-zlib --without-icu)
parts="regress tap"
limit=3600 # seconds, for the tests
name=$build source=$cache/source
case $build in
	assert)
		cflags="-Og"
		configure+=(--enable-cassert --with-openssl --with-gssapi)
		;;
	asan)
		cflags="-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
		configure+=(--with-openssl --with-gssapi)
		parts="regress tap lab answers"
		export ASAN_OPTIONS=detect_leaks=0 # of what runs during the build
		;;
	memcheck)
		# palloc tells valgrind what it does, and checks its own memory
		cflags="-O1 -fno-omit-frame-pointer -DUSE_VALGRIND"
		configure+=(--with-openssl --with-gssapi)
		;;
	musl)
		# Debian has no other library for musl
		cc=musl-gcc
		cflags="-O2"
		add_kernel_headers "$cache/kernel-headers"
		;;
	source)
		cflags="-O2"
		configure+=(--with-openssl --with-gssapi)
		tree=$(cd "${PG_SOURCE:?names a PostgreSQL source tree}" && pwd)
		[ -x "$tree/configure" ] || {
			echo "builds: $tree is no source tree of PostgreSQL: it has no configure" >&2
			exit 2
		}
		# a server for each tree; what is built is a copy, so nothing is written there
		name=source-$(echo "$tree" | cksum | cut -d ' ' -f 1)
		source=$cache/$name.tree
		;;
	fetch) ;;
	*)
		echo "builds: no such build: $build" >&2
		exit 2
		;;
esac

# ----- the source

# one at a time
exec 9>"$cache/lock"
flock 9
if [ "$build" != source ] && [ ! -x "$cache/source/configure" ]; then
	rm -rf "$cache/source"
	"$here/lib/fetch_source.sh" postgresql "$cache/apt" "$cache/source"
fi
if [ "$build" = fetch ]; then
	echo "$cache/source"
	exit 0
fi

# A copy of PG_SOURCE, without what was built in it.
copy_source() {
	rm -rf "$source"
	mkdir "$source"
	tar -C "$tree" --exclude=./.git -cf - . | tar -C "$source" --no-same-owner -xf -
	if [ -e "$source/config.status" ]; then
		make -s -C "$source" distclean >&2
	fi
}

# ----- the server

server=$cache/$name

build_server() {
	local objects=$cache/$name.objects
	rm -rf "$server" "$objects"
	mkdir "$objects"
	# The prefix names pgsql: so Debian's patches leave its layout alone.  The
	# server will run from a copy: so its programs look for libpq beside them.
	(
		cd "$objects" &&
			"$source/configure" --prefix="$server/pgsql" "${configure[@]}" CC="$cc" CFLAGS="$cflags" &&
			make -s -j "$(nproc)" rpathdir='$$ORIGIN/../lib' &&
			make -s rpathdir='$$ORIGIN/../lib' install &&
			make -s -C contrib/pg_stat_statements install &&
			make -s -C contrib/auto_explain install
	) >"$cache/$name.log" 2>&1 || {
		tail -n 40 "$cache/$name.log" >&2
		echo "builds: the server was not built: see $cache/$name.log" >&2
		return 1
	}
	rm -rf "$objects"
}

exec 9>"$cache/$name.lock"
flock 9
recipe="$("$cc" --version | head -n 1); ${configure[*]}; $cflags"
if [ "$build" = source ]; then
	# names, sizes and times of all files: git and editors change them with what is in there
	recipe+="; $tree $(find "$tree" -name .git -prune -o -type f -printf '%P %s %T@\n' | sort | sha256sum)"
fi
if [ "$(cat "$server/recipe" 2>/dev/null)" != "$recipe" ]; then
	echo "builds: building PostgreSQL for $build"
	[ "$build" != source ] || copy_source
	build_server
	[ "$build" != source ] || rm -rf "$source"
	echo "$recipe" >"$server/recipe"
fi

[ "$*" != server ] || exit 0

# ----- the tests

# the user who runs them may not look into our home
work=$(mktemp -d /tmp/kasm_latency_builds.XXXXXX)
job=
clean_up() {
	[ -z "$job" ] || { kill "$job" && wait "$job"; } 2>/dev/null || true
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
chmod 755 "$work"
cp -a "$server/pgsql" "$work/"
exec 9>&-
export PG_CONFIG=$work/pgsql/bin/pg_config

# What is found is written here, by any process and at any time, and fails the
# run: a backend that dies at its exit fails no test.
found=$work/found
mkdir -m 1777 "$found"

case $build in
	asan)
		# PostgreSQL leaves its memory to the end of the process; and the lab
		# preloads a library into a server
		ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:halt_on_error=1:abort_on_error=1
		export ASAN_OPTIONS+=:handle_sigill=1:print_stacktrace=1:log_path=$found/report
		# Of the extension more is asked.  UBSan itself reads its options when
		# it first finds something, when PostgreSQL has long written its title
		# over them: so what it finds in the extension traps, and
		# AddressSanitizer reports that.  In PostgreSQL it ends the process.
		export COPT="-fsanitize=float-cast-overflow,bounds-strict -fsanitize-undefined-trap-on-error"
		;;
	musl)
		add_kernel_headers "$work/kernel-headers"
		;;
	memcheck)
		# servers that serve, and not those of initdb
		cp "$cache/source/src/tools/valgrind.supp" "$work/"
		# the dynamic linker compares what may be $ORIGIN by words
		cat >>"$work/valgrind.supp" <<-END

			{
			   ld.so
			   Memcheck:Addr8
			   fun:strncmp
			   fun:is_dst
			}
		END
		mv "$work/pgsql/bin/postgres" "$work/pgsql/bin/postgres.bin"
		cat >"$work/pgsql/bin/postgres" <<-END
			#!/bin/sh
			case \$1 in
				-V | --version | -C | --boot | --check | --single | --describe-config) exec "\$0.bin" "\$@" ;;
			esac
			exec valgrind --quiet --leak-check=no --vgdb=no --gen-suppressions=all \\
				--num-callers=30 --error-markers=FOUND,END --log-file=$found/%p \\
				--suppressions=$work/valgrind.supp "\$0.bin" "\$@"
		END
		chmod 755 "$work/pgsql/bin/postgres"
		export SLOW_SERVER=1
		;;
esac

status=0
# shellcheck disable=SC2048,SC2086 # several words
timeout -k 60 "$limit" "$here/run.sh" test ${*:-$parts} &
job=$!
wait "$job" || status=$?
job=
if [ -n "$(find "$found" -type f -size +0 -print -quit)" ]; then
	echo "----- found by $build"
	find "$found" -type f -size +0 -exec tail -n +1 {} +
	status=1
fi
echo "builds: $build, $("$PG_CONFIG" --version): $([ "$status" = 0 ] && echo passed || echo FAILED)"
exit "$status"
