#!/bin/bash
# A build elsewhere than in the tree (VPATH), which it leaves alone: what it
# installs, and that uninstall leaves nothing of it.
#
#	install.sh PG_CONFIG
set -euo pipefail

pg_config=$1
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
complain() {
	echo "install: $*" >&2
	exit 1
}

# as it is checked out: nothing built, and nothing to be written there
mkdir "$work/src" "$work/build"
tar -C "$top" --exclude=.git --exclude='*.o' --exclude='*.so' --exclude='kasm_latency--1.0.sql' -cf - \
	Makefile extension sql expected tests | tar -C "$work/src" -xf -
chmod -R a-w "$work/src"
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
run_make() {
	make -s -C "$work/build" -f "$work/src/Makefile" PG_CONFIG="$pg_config" DESTDIR="$work/out" "$@"
}

run_make EXTRA_CFLAGS=-Werror
run_make install
extension=$("$pg_config" --sharedir)/extension
diff <(cd "$work/out" && find . -type f -printf '/%P\n' | sort) \
	<(printf '%s\n' "$("$pg_config" --pkglibdir)/kasm_latency.so" \
		"$extension/kasm_latency.control" "$extension/kasm_latency--1.0.sql" | sort) ||
	complain "this is not what is to be installed"
script=$work/out$extension/kasm_latency--1.0.sql
head -n 1 "$script" | grep -q '^\\echo Use "CREATE EXTENSION kasm_latency" to load this file\. \\quit$' ||
	complain "the script does not refuse to be run by psql"
grep -q '@report' "$script" && complain "the report's style sheet is not in the script"
grep -qxF "$(tail -n 1 "$top/extension/sql/report.css")" "$script" || complain "nor is its last line"

run_make uninstall
left=$(find "$work/out" -type f)
[ -z "$left" ] || complain "uninstall leaves $left"
run_make clean
left=$(find "$work/build" -type f)
[ -z "$left" ] || complain "clean leaves $left"
echo "install: built elsewhere, installed, uninstalled, cleaned: ok"
