#!/bin/bash
# Make a directory with the root of a Debian release, by mmdebstrap.
#
#	make_root.sh RELEASE ARCHITECTURE PACKAGES TARGET [MIRROR]
#
# PACKAGES, separated by commas, are what it has beside the least.
set -euo pipefail

# what this machine tells apt about networks and mirrors holds for a root too
options=()
while read -r option; do
	options+=(--aptopt="$option")
done < <(apt-config dump | grep -E '^Acquire::(https?|Retries|Check-[A-Za-z-]+)[: ]')
rm -rf "$4.new"
mmdebstrap --quiet --mode=root --variant=minbase --architectures="$2" --include="$3" "${options[@]}" \
	"$1" "$4.new" "${@:5}" >&2
mv "$4.new" "$4"
