#!/bin/bash
# Build, and run the regression and TAP tests, on every PostgreSQL version that
# a Debian release has, each in a root directory with that release.
#
#	matrix.sh [VERSION[/ARCHITECTURE] | ARCHITECTURE ...]
#
# VERSION is PostgreSQL's, the architecture Debian's: the machine's own, if none
# is named.  An architecture alone is 15 on it.  All versions by default, and
# 15/arm64 where this machine can run it.
#
# The roots are made by mmdebstrap, and kept for the next run in MATRIX_DIR.
# All that is mounted in them is mounted in a namespace of its own, so nothing of
# it is left behind, however this ends.  What another architecture takes is the
# kernel's, and is put back: see can_run.
set -euo pipefail

declare -A release=([13]=bullseye [15]=bookworm [17]=trixie [18]=forky)
# what else than the machine's own can be run, and qemu's name for it
declare -A emulated=([arm64]=aarch64)
# With all their suites, but for bullseye: what its security suite lists of
# PostgreSQL's development package is no longer there.
declare -A mirror=([bullseye]=http://deb.debian.org/debian)
here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
roots=${MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency/matrix}
native=$(dpkg --print-architecture)

systems=() # VERSION/ARCHITECTURE
# shellcheck disable=SC2048 # words
for word in ${*:-13 15 17 18 15/arm64}; do
	[ -z "${emulated[$word]:-}" ] || word=15/$word
	version=${word%%/*} arch=${word#"$version"}
	arch=${arch#/}
	arch=${arch:-$native}
	if [ -z "${release[$version]:-}" ]; then
		echo "matrix: no Debian release with PostgreSQL $version is known here" >&2
		exit 2
	elif [ "$arch" != "$native" ] && [ -z "${emulated[$arch]:-}" ]; then
		echo "matrix: $arch is neither this machine's architecture ($native) nor one of: ${!emulated[*]}" >&2
		exit 2
	fi
	# by default 15/arm64 is 15, where that is the machine's own
	[[ " ${systems[*]} " == *" $version/$arch "* ]] || systems+=("$version/$arch")
done

if [ "$(id -u)" != 0 ]; then
	exec sudo env MATRIX_DIR="$roots" "$here/matrix.sh" "$@"
fi

add_packages() { # PACKAGE ...
	apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@" >&2
}
if ! command -v mmdebstrap >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
	add_packages mmdebstrap debian-archive-keyring
fi
mkdir -p "$roots"
exec 9>"$roots/lock"
flock -n 9 || {
	echo "matrix: another run uses $roots" >&2
	exit 1
}

# Run something in namespaces of its own: its mounts and processes end with it.
# As a job in the background, so that a signal is served at once.
job=
contained() {
	local status=0
	set -m
	unshare --mount --pid --mount-proc --ipc --fork --kill-child "$@" </dev/null 9>&- &
	job=$!
	set +m
	wait "$job" || status=$?
	job=
	return $status
}
binfmt=/proc/sys/fs/binfmt_misc
registered=()
mounted=
clean_up() {
	local entry
	# timeout and make both send one, and a second shall not cut this short
	trap '' INT TERM HUP
	[ -z "$job" ] || {
		kill -KILL "$job"
		wait "$job"
	} 2>/dev/null || true
	for entry in "${registered[@]}"; do
		[ ! -e "$entry" ] || echo -1 >"$entry"
	done
	[ -z "$mounted" ] || umount "$binfmt"
	rm -rf "$roots"/*.new "$roots"/*/tmp/kasm_latency.*
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Let the kernel run programs of another architecture.  Where it does not yet, it
# is told to run them by qemu, in the words of qemu's package: with the flag F, so
# that a root needs no qemu of its own.  A machine with systemd is told by the
# package; on others we do it, until we end.
can_run() { # ARCHITECTURE
	local name
	[ "$1" != "$native" ] || return 0
	name=qemu-${emulated[$1]}
	command -v arch-test >/dev/null || add_packages arch-test || return 1
	! arch-test "$1" >/dev/null || return 0
	[ -e "/usr/lib/binfmt.d/$name.conf" ] || add_packages qemu-user-static || return 1
	! arch-test "$1" >/dev/null || return 0
	if [ ! -e "$binfmt/register" ]; then
		mount -t binfmt_misc binfmt_misc "$binfmt" || return 1
		mounted=yes
	fi
	if [ ! -e "$binfmt/$name" ]; then
		registered+=("$binfmt/$name")
		cat "/usr/lib/binfmt.d/$name.conf" >"$binfmt/register" || return 1
	fi
	arch-test "$1" >/dev/null
}

make_root() { # RELEASE ARCHITECTURE ROOT
	echo "matrix: making $3"
	contained "$here/lib/make_root.sh" "$1" "$2" make,netbase "$3" ${mirror[$1]:+"${mirror[$1]}"}
}

# a fresh copy of the tree
copy_tree() { # ROOT
	rm -rf "$1/kasm_latency" "$1"/tmp/kasm_latency.*
	mkdir "$1/kasm_latency"
	tar -C "$top" --exclude=.git --exclude=./dist --exclude='*.o' --exclude='*.so' --exclude=tmp_check -cf - . |
		tar -C "$1/kasm_latency" --no-same-owner -xf -
	cp /etc/resolv.conf "$1/etc/resolv.conf"
	printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$1/etc/hosts"
}

# dpkg first finishes what an interrupted run has left
run_tests() { # ROOT [VARIABLE=VALUE ...]
	# shellcheck disable=SC2016 # expanded in there
	contained /bin/bash -euc '
		mount -t proc proc "$1/proc"
		mount -t sysfs -o ro sysfs "$1/sys"
		mount --bind /dev "$1/dev"
		mount -t devpts -o newinstance,ptmxmode=666 devpts "$1/dev/pts"
		mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
		inside() {
			chroot "$1" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
				PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
				${http_proxy:+"http_proxy=$http_proxy"} "${@:2}"
		}
		inside "$1" dpkg --configure -a
		inside "$@" make -s -C /kasm_latency test PARTS="regress tap"' matrix "$@"
}

failed=0
summary=()
for system in "${systems[@]}"; do
	version=${system%/*} arch=${system#*/}
	name=${release[$version]}
	root=$roots/$name
	settings=()
	if [ "$arch" != "$native" ]; then
		root+=-$arch
		settings=(SLOW_SERVER=1)
	fi
	echo "===== PostgreSQL $version: Debian $name, $arch"
	if ! can_run "$arch"; then
		summary+=("$version ($name, $arch): NOT RUN: this machine cannot run $arch")
		# which is a failure, where it was asked for
		[ $# = 0 ] || failed=$((failed + 1))
		continue
	fi
	if [ ! -d "$root" ] && ! make_root "$name" "$arch" "$root"; then
		summary+=("$version ($name, $arch): FAILED: no root")
		failed=$((failed + 1))
		continue
	fi
	copy_tree "$root"
	output=$root/tmp/kasm_latency.out
	status=0
	exec 8> >(exec tee "$output")
	tee=$!
	run_tests "$root" "${settings[@]}" >&8 2>&1 || status=$?
	exec 8>&-
	wait "$tee"
	# what run.sh says of each part, in its last lines
	parts=$(sed -n '/^-----$/,$ { /^[a-z]*: [pFN]/p }' "$output" | paste -sd '|' | sed 's/|/, /g')
	exact=$(chroot "$root" pg_config --version 2>/dev/null | cut -d ' ' -f 2) || exact=
	if [ "${exact%%.*}" != "$version" ]; then
		parts="FAILED: it has PostgreSQL ${exact:-of no version}"
		status=1
	fi
	summary+=("${exact:-$version} ($name, $arch): ${parts:-FAILED: no test was run}")
	[ "$status" = 0 ] || failed=$((failed + 1))
done
echo "====="
printf '%s\n' "${summary[@]}"
[ "$failed" = 0 ]
