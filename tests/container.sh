#!/bin/bash
# Rehearse docs/kasm/README.md in a stand-in for Kasm's kasm_db: an image made of
# busybox and PostgreSQL built with musl, run by podman.
#
#	container.sh			hold what the steps do against what they shall do
#	container.sh show		print what they print
#
# Containers, images and volumes are in a directory of our own, and processes,
# mounts and networks in namespaces of our own, which end with us.  Exits with 77,
# after saying why, where there can be none.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
cannot() {
	echo "container: NOT RUN: $*"
	exit 77
}
[ "$(id -u)" = 0 ] || cannot "it needs root"
"$here/setup.sh" container builds || cannot "this machine lacks what it takes"
command -v podman >/dev/null || cannot "there is no program podman"

work=$(mktemp -d /tmp/kasm_latency_container.XXXXXX)
export CGROUP=/${work#/tmp/}
job=
# shellcheck disable=SC2317 # by the trap
clean_up() {
	local path
	[ -z "$job" ] || { kill "$job" && wait "$job"; } 2>/dev/null || true
	for path in /sys/fs/cgroup"$CGROUP" /sys/fs/cgroup/*"$CGROUP"; do
		[ ! -d "$path" ] || find "$path" -depth -type d -exec rmdir {} + || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$here/builds.sh" musl server
cp -a "${BUILDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kasm_latency}/musl/pgsql" "$work/server"
mkdir "$work/tree"
tar -C "$top" --exclude=.git --exclude=./dist --exclude='*.o' --exclude='*.so' --exclude=tmp_check -cf - . | tar -C "$work/tree" -xf -
chmod 755 "$work" "$work/tree"
gcc -O2 -Wall -Wextra -Werror -std=c99 -D_GNU_SOURCE "$work/tree/tests/lab/relay.c" -o "$work/tree/tests/lab/relay"

status=0
timeout -k 60 1800 /usr/bin/python3 -u "$work/tree/tests/container/rehearse.py" "$work/server" "$work" "$work/tree" "$@" &
job=$!
wait "$job" || status=$?
job=
case $status in
	0) echo "container: passed" ;;
	77) ;;
	*) echo "container: FAILED" ;;
esac
exit "$status"
