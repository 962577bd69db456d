#!/bin/bash
# Make a private copy of a PostgreSQL installation with kasm_latency in it, so
# that neither tests nor the demo ever touch the machine's own installation.
#
#	stage.sh PG_CONFIG TARGET [make variable ...]
#
# The copy keeps the installation's layout below TARGET: PostgreSQL's programs
# find their files relative to themselves, so it works from there.  Prints the
# pg_config of the copy.
set -euo pipefail

pg_config=$1 target=$2
shift 2
source_dir=$(cd "$(dirname "$0")/../.." && pwd)

# Debian's /usr/bin/pg_config is a script; the real one is beside the server
bindir=$("$pg_config" --bindir)
pg_config=$bindir/pg_config

copy() {
	local from=$1
	[ -d "$from" ] || return 0
	mkdir -p "$target$from"
	cp -a "$from/." "$target$from/"
}

link() {
	local from=$1
	[ -e "$from" ] && [ ! -e "$target$from" ] || return 0
	mkdir -p "$target$(dirname "$from")"
	ln -s "$from" "$target$from"
}

if [ ! -x "$target$bindir/postgres" ]; then
	copy "$bindir"
	copy "$("$pg_config" --pkglibdir)"
	copy "$("$pg_config" --sharedir)"
	link "$("$pg_config" --includedir-server)"
	link "$("$pg_config" --pkgincludedir)"
	link "$("$pg_config" --includedir)"
fi
# by DESTDIR, as Debian's pg_config of 13 does not know that it was moved
make -C "$source_dir" --no-print-directory -s "$@" PG_CONFIG="$pg_config" DESTDIR="$target" install >&2
echo "$target$bindir/pg_config"
