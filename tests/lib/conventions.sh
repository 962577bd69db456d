#!/bin/bash
# Conventions that no compiler checks: each function here holds one.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
complain() {
	echo "conventions: $*" >&2
	status=1
}

# every SQL object has a COMMENT
for object in $(sed -nE 's/^CREATE (FUNCTION|VIEW|TABLE|SCHEMA|AGGREGATE) ([a-z_.]+).*/\2/p' \
	extension/kasm_latency--*.sql | sort -u); do
	grep -qE "^COMMENT ON [A-Z]+ ${object//./\\.}( |\()" extension/kasm_latency--*.sql ||
		complain "$object has no COMMENT"
done

# every function but those in C pins its search_path, under its signature
awk '/^CREATE FUNCTION/ { name = $3; pinned = 0 }
	/^SET search_path = pg_catalog, pg_temp/ { pinned = 1 }
	/^(AS|\$\$;)/ && name { if (!pinned) { print name; bad = 1 } name = "" }
	/^LANGUAGE c / { pinned = 1 }
	END { exit bad }' extension/kasm_latency--*.sql ||
	complain "these functions do not pin search_path"

# every setting, and everything that reads to the outside, is in the reference
for setting in $(grep -ohE '"kasm_latency\.[a-z_]+",' extension/kasm_latency.c | tr -d '",' | sort -u); do
	grep -q "\`$setting\`" docs/reference.md || complain "$setting is not in docs/reference.md"
done
for object in $(sed -nE 's/^CREATE (FUNCTION|VIEW|TABLE|AGGREGATE) kasm_latency\.([a-z_]+).*/\2/p' \
	extension/kasm_latency--*.sql | sort -u); do
	grep -q "\`$object" docs/reference.md || complain "$object is not in docs/reference.md"
done

# settings are defined, and documented, in the same order
diff <(grep -ohE '"kasm_latency\.[a-z_]+",' extension/kasm_latency.c | tr -d '",') \
	<(grep -oE '^\| `kasm_latency\.[a-z_]+`' docs/reference.md | tr -d '|` ') >/dev/null ||
	complain "the settings' order in docs/reference.md is not that of kasm_latency.c"

# version differences stand in one place
grep -ln 'PG_VERSION_NUM [<>]' extension/*.[ch] | grep -v compat.h &&
	complain "version tests belong into compat.h"

exit $status
