#!/bin/bash
# Conventions that no compiler checks: each function here holds one.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
complain() {
	echo "conventions: $*" >&2
	status=1
}

# every SQL object has a COMMENT, in the file that makes it
for file in extension/sql/*.sql; do
	for object in $(sed -nE 's/^CREATE (FUNCTION|VIEW|TABLE|SCHEMA|AGGREGATE) ([a-z_.]+).*/\2/p' "$file" | sort -u); do
		grep -qE "^COMMENT ON [A-Z]+ ${object//./\\.}( |\()" "$file" || complain "$object has no COMMENT"
	done
done

# every function but those in C pins its search_path, under its signature
awk '/^CREATE FUNCTION/ { name = $3; pinned = 0 }
	/^SET search_path = pg_catalog, pg_temp/ { pinned = 1 }
	/^(AS|\$\$;)/ && name { if (!pinned) { print name; bad = 1 } name = "" }
	/^LANGUAGE c / { pinned = 1 }
	END { exit bad }' extension/sql/*.sql ||
	complain "these functions do not pin search_path"

# the install script is made of all the files there, each with a head that tells its rules, and none too long
diff <(sed -nE '/^SQL_PARTS =/,/[^\\]$/ s/^(SQL_PARTS =)?[[:space:]]*(.*[a-z])( \\)?$/\2/p' Makefile | tr ' ' '\n' | sort) \
	<(basename -s .sql extension/sql/*.sql | sort) >/dev/null || complain "SQL_PARTS is not what is in extension/sql"
for file in extension/sql/*; do
	[ "$(wc -l <"$file")" -le 400 ] || complain "$file has more than 400 lines"
	[[ $file == *.css ]] || head -n 1 "$file" | grep -q '^/\*' || complain "$file has no head"
done

# every setting, and everything that is public, is in the reference; nothing public hides there as internal
for setting in $(grep -ohE '"kasm_latency\.[a-z_]+",' extension/kasm_latency.c | tr -d '",' | sort -u); do
	grep -q "\`$setting\`" docs/reference.md || complain "$setting is not in docs/reference.md"
done
for object in $(sed -nE 's/^CREATE (FUNCTION|VIEW|TABLE|AGGREGATE) kasm_latency\.([a-z_]+).*/\2/p' \
	extension/sql/*.sql | sort -u); do
	grep -q "\`$object" docs/reference.md || complain "$object is not in docs/reference.md"
done

# what the documents tell people to type, and what exporters and the dashboard call, is public
grep -rn 'kasm_latency_internal' README.md docs --include='*.md' --include='*.yml' --include='*.json' |
	grep -v '^docs/\(reference\|architecture\|measurement\)\.md:' && complain "this is internal"

# what runs with the owner's rights, and what that could be misused for, is in docs/SECURITY.md
for function in $(awk '/^CREATE FUNCTION/ { name = $3; sub(/\(.*/, "", name) }
	/SECURITY DEFINER/ { print name }' extension/sql/*.sql | sort -u); do
	grep -qE "^\|.*\`${function#kasm_latency.}\([a-z]*\)\`.* \| yes \|" docs/SECURITY.md ||
		complain "$function is SECURITY DEFINER, and not in docs/SECURITY.md as such"
done

# settings are defined, and documented, in the same order
diff <(grep -ohE '"kasm_latency\.[a-z_]+",' extension/kasm_latency.c | tr -d '",') \
	<(grep -oE '^\| `kasm_latency\.[a-z_]+`' docs/reference.md | tr -d '|` ') >/dev/null ||
	complain "the settings' order in docs/reference.md is not that of kasm_latency.c"

# version differences stand in one place
grep -ln 'PG_VERSION_NUM [<>]' extension/*.[ch] | grep -v compat.h &&
	complain "version tests belong into compat.h"

# a file that one reads in a sitting
for file in extension/*.[ch]; do
	[ "$(wc -l <"$file")" -le 600 ] || complain "$file has more than 600 lines"
done

# no circles: a file includes headers of the rows above its own in
# docs/architecture.md; a row for x.c is one for x.h too, unless that has its own
awk '
	FILENAME ~ /architecture/ {
		if ($0 ~ /^\| `[a-z_]+\.[ch]` \|/) { gsub("`", "", $2); row[$2] = FNR }
		next
	}
	function row_of(file) {
		return file in row ? row[file] : row[substr(file, 1, length(file) - 1) "c"]
	}
	FNR == 1 {
		file = FILENAME
		sub(/.*\//, "", file)
		ours[file] = 1
		if (!row_of(file)) { print file " is not in docs/architecture.md"; bad = 1 }
	}
	/^#include "[a-z_]+\.h"/ { header = $2; gsub("\"", "", header); includes[file "," header] = 1 }
	END {
		for (pair in includes) {
			split(pair, part, ",")
			if (part[2] in ours && row_of(part[2]) > row_of(part[1])) {
				print part[1] " includes " part[2] ", which is below it in docs/architecture.md"
				bad = 1
			}
		}
		exit bad
	}' docs/architecture.md extension/*.[ch] >&2 || complain "the order of includes"

# the library exports what PostgreSQL looks up, and nothing else
if [ -e kasm_latency.so ]; then
	exported=$(nm -D --defined-only kasm_latency.so | awk '{ print $3 }' |
		grep -vxE '_PG_init|Pg_magic_func' | sed 's/^pg_finfo_//' | sort -u)
	looked_up=$(sed -nE -e 's/^PG_FUNCTION_INFO_V1\((.*)\);/\1/p' \
		-e 's/^extern PGDLLEXPORT void ([a-z_]+_main)\(.*/\1/p' extension/*.[ch] | sort -u)
	[ "$exported" = "$looked_up" ] ||
		complain "kasm_latency.so exports" $(comm -3 <(echo "$exported") <(echo "$looked_up"))
else
	echo "conventions: exported symbols not checked: kasm_latency.so is not built"
fi

exit $status
