#!/bin/bash
# Fetch the newest source package that can be had, unpacked.
#
#	fetch_source.sh PACKAGE APT_DIR TARGET
#
# PACKAGE postgresql is the server that this release has, of whatever version.
# apt's own lists may lack source packages: so some are kept in APT_DIR, of
# where the machine's packages come from.
# shellcheck disable=SC2016 # of apt
set -euo pipefail

package=$1 target=$3
mkdir -p "$2/lists/partial"
dir=$(cd "$2" && pwd)
apt=(-qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=-
	-o "Dir::State::lists=$dir/lists" -o APT::Sandbox::User=root)
id=$(. /etc/os-release && echo "$ID")
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
	'Created-By: Packages' "Origin: ${id^}" | sort -u >"$dir/sources.list"
[ -s "$dir/sources.list" ] || {
	echo "fetch_source: apt knows no packages: run \"apt-get update\"" >&2
	exit 1
}
sed -i 'p; s/^deb /deb-src /' "$dir/sources.list"
apt-get "${apt[@]}" update
if [ "$package" = postgresql ]; then
	package=$(apt-cache "${apt[@]}" depends postgresql | sed -n 's/^ *Depends: \(postgresql-[0-9]*\)$/\1/p')
fi

# a mirror may list what it does not have yet, or no longer has
new=$target.new
trap 'rm -rf "$new"' EXIT
for version in $(apt-cache "${apt[@]}" showsrc "$package" | sed -n 's/^Version: //p' | sort -rV | uniq); do
	rm -rf "$new"
	mkdir -p "$new"
	if (cd "$new" && apt-get "${apt[@]}" source "$package=$version") >&2; then
		mv "$new"/*/ "$target"
		exit
	fi
	echo "fetch_source: no source of $package $version; trying the one before" >&2
done
echo "fetch_source: no source of $package is to be had" >&2
exit 1
