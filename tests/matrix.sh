#!/bin/bash
# Build, and run the regression and TAP tests, on every PostgreSQL version that
# a Debian release has, each in a root directory with that release.
#
#	matrix.sh [VERSION ...]		of PostgreSQL; all below by default
#
# The roots are made by mmdebstrap, and kept for the next run in MATRIX_DIR.
# All that is mounted is mounted in a namespace of its own, so nothing of it
# is left behind, however this ends.
set -euo pipefail

declare -A release=([13]=bullseye [15]=bookworm [17]=trixie [18]=forky)
# With all their suites, but for bullseye: what its security suite lists of
# PostgreSQL's development package is no longer there.
declare -A mirror=([bullseye]=http://deb.debian.org/debian)
here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
roots=${MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency/matrix}
versions=${*:-13 15 17 18}
for version in $versions; do
	[ -n "${release[$version]:-}" ] || {
		echo "matrix: no Debian release with PostgreSQL $version is known here" >&2
		exit 2
	}
done

if [ "$(id -u)" != 0 ]; then
	exec sudo env MATRIX_DIR="$roots" "$here/matrix.sh" "$@"
fi

if ! command -v mmdebstrap >/dev/null || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends mmdebstrap debian-archive-keyring >&2
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
clean_up() {
	[ -z "$job" ] || {
		kill -KILL "$job"
		wait "$job"
	} 2>/dev/null || true
	rm -rf "$roots"/*.new "$roots"/*/tmp/kasm_latency.*
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# what this machine tells apt about networks and mirrors holds for a root too
make_root() { # RELEASE
	local option options=()
	while read -r option; do
		options+=(--aptopt="$option")
	done < <(apt-config dump | grep -E '^Acquire::(https?|Retries|Check-[A-Za-z-]+)[: ]')
	echo "matrix: making $roots/$1"
	contained mmdebstrap --quiet --mode=root --variant=minbase --include=make,netbase \
		"${options[@]}" "$1" "$roots/$1.new" ${mirror[$1]:+"${mirror[$1]}"} &&
		mv "$roots/$1.new" "$roots/$1"
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
run_tests() { # ROOT
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
		inside "$1" make -s -C /kasm_latency test PARTS="regress tap"' matrix "$1"
}

failed=0
summary=()
for version in $versions; do
	name=${release[$version]}
	root=$roots/$name
	echo "===== PostgreSQL $version: Debian $name"
	if [ ! -d "$root" ] && ! make_root "$name"; then
		summary+=("$version ($name): FAILED: no root")
		failed=$((failed + 1))
		continue
	fi
	copy_tree "$root"
	output=$root/tmp/kasm_latency.out
	status=0
	exec 8> >(exec tee "$output")
	tee=$!
	run_tests "$root" >&8 2>&1 || status=$?
	exec 8>&-
	wait "$tee"
	# what run.sh says of each part, in its last lines
	parts=$(sed -n '/^-----$/,$ { /^[a-z]*: [pFN]/p }' "$output" | paste -sd '|' | sed 's/|/, /g')
	exact=$(chroot "$root" pg_config --version 2>/dev/null | cut -d ' ' -f 2) || exact=
	if [ "${exact%%.*}" != "$version" ]; then
		parts="FAILED: it has PostgreSQL ${exact:-of no version}"
		status=1
	fi
	summary+=("${exact:-$version} ($name): ${parts:-FAILED: no test was run}")
	[ "$status" = 0 ] || failed=$((failed + 1))
done
echo "====="
printf '%s\n' "${summary[@]}"
[ "$failed" = 0 ]
