#!/bin/bash
# Make what is handed out: an archive of the source, and Debian packages.
#
#	package.sh dist			kasm_latency-VERSION.zip, as PGXN wants it
#	package.sh deb [VERSION ...]	a source package, and one for each of these
#					versions of PostgreSQL: all whose development
#					package is installed, by default
#
# They go to DIST (dist/ in the tree), with SHA256SUMS of all that is there.
# The same tree gives the same bytes: names are sorted, and no file has a time,
# a mode or an owner of its own.  (But for Debian's .buildinfo and .changes,
# which tell when they were made.)
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

packaging=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$packaging/../.." && pwd)
dist=${DIST:-$top/dist}
what=${1:?dist or deb}
shift
version=$(sed -n 's/^   "version": "\(.*\)",$/\1/p' "$packaging/META.json")
when='2026-01-01 00:00:00' # of every file

work=$(mktemp -d "${TMPDIR:-/tmp}/kasm_latency_package.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

need() { # PROGRAM PACKAGE
	command -v "$1" >/dev/null || {
		echo "package: there is no program $1; install the package $2" >&2
		exit 1
	}
}

# ----- the source: what git has, or where there is no git, what is no product

list_files() {
	if [ -e "$top/.git" ] && git -C "$top" ls-files 2>/dev/null | grep -q .; then
		git -C "$top" ls-files --cached --others --exclude-standard
	else
		(cd "$top" && find . -type f \
			! -path './dist/*' ! -path './.git/*' ! -path './results/*' ! -path './log/*' ! -path './tmp_check/*' \
			! -path '*/__pycache__/*' ! -path './regression.*' ! -path './META.json' \
			! -name '*.o' ! -name '*.so' ! -name '*.bc' ! -name 'kasm_latency--*.sql' ! -name '*.sql.new' \
			! -path './tests/lab/relay' -printf '%P\n')
	fi | grep -v '^\.ci/' | sort
}

# DIRECTORY
copy_source() {
	mkdir "$1"
	list_files | tar -C "$top" -cf - -T - | tar -C "$1" --no-same-owner --no-same-permissions -xf -
	cp "$packaging/META.json" "$1/META.json"
	chmod -R u=rwX,go=rX "$1"
	find "$1" -exec touch -h -d "$when" {} +
}

check_sums() {
	rm -f "$dist/SHA256SUMS"
	(cd "$dist" && find . -type f -printf '%P\n' | sort | xargs -d '\n' sha256sum) >"$work/SHA256SUMS"
	cp "$work/SHA256SUMS" "$dist/SHA256SUMS"
}

make_dist() {
	local name=kasm_latency-$version
	need zip zip
	copy_source "$work/$name"
	(cd "$work" && find "$name" -type f | sort | zip -q -9 -X -@ "$name.zip")
	cp "$work/$name.zip" "$dist/"
	check_sums
	echo "$dist/$name.zip"
}

# ----- Debian's packages

# whose development package is there
installed_versions() {
	local pg_config
	for pg_config in /usr/lib/postgresql/*/bin/pg_config; do
		if [ -e "$("$pg_config" --pgxs 2>/dev/null)" ] && [ -e "$("$pg_config" --includedir-server)/postgres.h" ]; then
			basename "$(dirname "$(dirname "$pg_config")")"
		fi
	done | sort -V
}

make_deb() {
	local name=kasm-latency versions=${*:-$(installed_versions | paste -sd ' ')} source=$work/kasm-latency-$version pg
	need dpkg-buildpackage dpkg-dev
	need dh debhelper
	need pg_buildext postgresql-server-dev-all
	[ -n "$versions" ] || {
		echo "package: there is no /usr/lib/postgresql/*/ with the server's development package" >&2
		exit 1
	}
	copy_source "$source"
	tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="$when" -cf - "$(basename "$source")" |
		gzip -9n >"$work/${name}_$version.orig.tar.gz"

	cp -r "$packaging/debian" "$source/debian"
	echo "$versions" | tr ' ' '\n' >"$source/debian/pgversions"
	pg=$(for pg in $versions; do printf 'postgresql-server-dev-%s, ' "$pg"; done)
	sed -i "s/@SERVER_DEV@/${pg%, }/" "$source/debian/control.in"
	(cd "$source" && PG_SUPPORTED_VERSIONS=$versions pg_buildext updatecontrol && rm debian/control.in &&
		DEB_BUILD_OPTIONS="noautodbgsym ${DEB_BUILD_OPTIONS:-}" dpkg-buildpackage --no-sign) >"$work/log" 2>&1 || {
		tail -n 40 "$work/log" >&2
		exit 1
	}
	find "$work" -maxdepth 1 -type f ! -name log ! -name SHA256SUMS -exec cp -t "$dist" {} +
	check_sums
	find "$work" -maxdepth 1 -name '*.deb' -printf "$dist/%P\n" | sort
}

mkdir -p "$dist"
case $what in
	dist) make_dist ;;
	deb) make_deb "$@" ;;
	*)
		echo "package: dist or deb, not $what" >&2
		exit 2
		;;
esac
