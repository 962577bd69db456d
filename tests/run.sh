#!/bin/bash
# Run the demo, or tests, on a private copy of everything: the tree is built
# and installed into a copy of the server's installation, by an unprivileged
# user, and all of it is removed at the end.
#
#	run.sh demo
#	run.sh lab [NUMBER ...]		the scenarios of these numbers, or all
#	run.sh bench [TABLE ...]	what it costs: see tests/bench/bench.py
#	run.sh foreign [SUITE ...]	other people's tests, without and with the library
#	run.sh test [PART ...]		parts: see below; all by default
#
# PG_CONFIG names the server to copy; TEST_USER the user when run by root.
# SLOW_SERVER says that the server is emulated, by whatever it is: all that has
# time gets more of it, and nothing short is timed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$here")
what=${1:?demo, lab, bench, foreign or test}
shift

case $what in
	test) parts=${*:-lint regress tap fuzz lab answers everybody forecast watched monitoring packages cost} needs=$parts ;;
	foreign) needs=${*:-foreign} ;;
	*) needs=$what ;;
esac
# shellcheck disable=SC2086 # words
"$here/setup.sh" $needs

user=$(id -un)
[ "$user" != root ] || user=${TEST_USER:-nobody}
export PG_CONFIG=${PG_CONFIG:-pg_config}
if [ -n "${SLOW_SERVER:-}" ]; then
	export PGCTLTIMEOUT=600 PG_TEST_TIMEOUT_DEFAULT=1200
	export FAKETIME_SPEED=10 # a reading of the clocks takes longer, too
fi
work=$(mktemp -d /tmp/kasm_latency.XXXXXX)
work_jobs=()
# the processes that are in the directory, or have it for an argument
of_work() {
	{
		grep -lsF -f <(echo "$work") /proc/[0-9]*/cmdline || true
		find /proc/[0-9]*/cwd -maxdepth 0 -lname "$work*" 2>/dev/null
	} | cut -d / -f 3 | sort -u
}
clean_up() {
	local job tries
	local -a pids
	# timeout and make both send a signal, and a second shall not cut this short
	trap '' INT TERM HUP
	for job in "${work_jobs[@]:-}"; do
		[ -z "$job" ] || kill "$job" 2>/dev/null || true
	done
	wait
	# Tests that were interrupted end their servers themselves, for which they
	# need what is in the directory.
	for ((tries = 0; tries < 300; tries++)); do
		mapfile -t pids < <(of_work)
		[ ${#pids[@]} != 0 ] || break
		case $tries in
			50) as_root kill -TERM "${pids[@]}" ;;
			150) as_root kill -QUIT "${pids[@]}" ;;
			250) as_root kill -KILL "${pids[@]}" ;;
		esac 2>/dev/null || true
		sleep 0.1
	done
	# of whom was just ended a file may come yet
	rm -rf "$work" 2>/dev/null || as_root rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

as_user() {
	if [ "$(id -un)" = "$user" ]; then
		"$@"
	else
		setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups \
			env HOME="$work" "$@"
	fi
}
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -E "$@"; fi
}

# ----- the copy

tar -C "$top" --exclude=.git --exclude=./dist --exclude='*.o' --exclude='*.so' --exclude=tmp_check -cf - . |
	(mkdir "$work/tree" && tar -C "$work/tree" -xf -)
[ "$(id -u)" != 0 ] || chown -R "$user:$(id -g "$user")" "$work"
chmod 755 "$work"
tree=$work/tree
compile() { # of tests/
	gcc -O2 -Wall -Wextra -Werror -std=c99 -D_GNU_SOURCE "$tree/tests/$1.c" -o "$tree/tests/$1"
}
compile lab/relay
export TMPDIR=$work
flags=(EXTRA_CFLAGS=-Werror)
[ "$what" != bench ] || flags+=(EXTRA_OBJS=tests/bench/fill.o)
staged=$(as_user "$tree/tests/lib/stage.sh" "$PG_CONFIG" "$work/stage" "${flags[@]}")
bindir=$(dirname "$staged")
pgxs=$(dirname "$(dirname "$("$staged" --pgxs)")")

in_lab() {
	(cd "$tree/tests/lab" && as_root /usr/bin/python3 "$1" "$bindir" "$user" "${@:2}")
}
case $what in
	demo) in_lab demo.py; exit ;;
	lab) in_lab scenarios.py "$@"; exit ;;
	foreign)
		for suite in ${*:-core}; do
			case $suite in
				core | isolation) POSTGRESQL_SOURCE=${POSTGRESQL_SOURCE:-$("$here/builds.sh" fetch)} ;;
			esac
		done
		export POSTGRESQL_SOURCE
		STAGE=$work/stage as_root /usr/bin/python3 "$tree/tests/foreign/foreign.py" "$bindir" "$user" "$@"
		exit
		;;
	bench) as_user /usr/bin/python3 "$tree/tests/bench/bench.py" "$bindir" "$user" "$@"; exit ;;
esac

# ----- the parts: each prints what it does, and fails if a test fails

# style and static checks, of what is in the tree; what is installed
part_lint() {
	as_user make -s -C "$tree" lint && as_user "$tree/tests/lib/install.sh" "$staged"
}

# the SQL surface, under pg_regress
part_regress() {
	local config=$work/regress.conf
	echo "shared_preload_libraries = 'kasm_latency'" >"$config"
	chmod 644 "$config"
	(cd "$tree" && as_user "$pgxs/test/regress/pg_regress" --bindir="$bindir" --inputdir=. \
		--outputdir="$work" --temp-instance="$work/regress" --temp-config="$config" \
		--encoding=UTF8 --dlpath=. $(ls sql | sed -n 's/\.sql$//p')) ||
		{ cat "$work/regression.diffs" 2>/dev/null; return 1; }
}

# servers and clients, under prove
part_tap() {
	(cd "$tree" && as_user env PATH="$bindir:$PATH" PG_REGRESS="$pgxs/test/regress/pg_regress" \
		TESTDATADIR="$work/tmp_check" TESTLOGDIR="$work/tmp_check/log" \
		prove -j 2 --timer -I "$pgxs/test/perl" tests/tap/*.pl)
}

# real clients over real distances
part_lab() {
	in_lab scenarios.py
}

# what a DBA is told of hosts whose distance, load and locks are known
part_answers() {
	in_lab answers.py
}

# a host moves away for a minute: who waits for it, by its clients' clocks and ours
part_everybody() {
	in_lab everybody.py
}

# what is said before it happens, against what happens then
part_forecast() {
	in_lab forecast.py
}

# a far host comes and goes: pg_cron, cron, Nagios' check, the report in a browser
part_watched() {
	in_lab watched.py
}

# what is in docs/monitoring: rules by the minute, the dashboard's queries on 90
# days of history, and Prometheus' programs at work
part_monitoring() {
	local program
	for program in promtool prometheus-postgres-exporter; do
		command -v $program >/dev/null || { echo "there is no program $program"; return 77; }
	done
	as_user promtool test rules "$tree"/tests/monitoring/*_test.yml &&
		as_user /usr/bin/python3 "$tree/tests/monitoring/grafana.py" "$bindir" "$user" &&
		in_lab ../monitoring/prometheus.py
}

# what is handed out: the archive, and Debian's packages in a fresh root
part_packages() {
	local dist=$work/dist status=0
	as_user mkdir "$dist" && as_user "$tree/tests/packages.sh" archive "$PG_CONFIG" "$dist" || return 1
	{ as_user "$tree/tests/packages.sh" deb "$dist" && as_root "$tree/tests/packages.sh" root "$dist"; } >"$work/deb.out" 2>&1 ||
		status=$?
	if [ "$status" = 77 ]; then
		sed -i '$ s/^/# NOT RUN: /' "$work/deb.out"
		status=0
	fi
	cat "$work/deb.out"
	return "$status"
}

# what takes minutes: make test-long
long() {
	(cd "$tree/tests/long" && as_root /usr/bin/python3 "$1" "$bindir" "$user" "${@:2}")
}
part_soak() { long soak.py; }
part_limits() { long limits.py; }
part_abuse() { long abuse.py; }
part_churn() { long churn.py; }
part_savefile() { long savefile.py; }
# a hundred in make test, ten thousand in test-long
part_fuzz() { long fuzz.py "${SEQUENCES:-100}"; }
part_watcher() { long watcher.py; }
part_faults() { long faults.py; }
part_exchanges() { compile long/clients && long exchanges.py "${EXCHANGES:-100000}"; }

# the same with 30 s of each load, and tight bounds: test-long
part_loads() {
	in_lab forecast.py full
}

# instructions of an exchange, a row and a connection, against the budget
part_cost() {
	as_user /usr/bin/python3 "$tree/tests/bench/bench.py" "$bindir" "$user" guard
}

# ----- all of them, side by side; what they say one after the other

passed=0 failed=0 skipped=0
declare -A job
# what counts or times best when it is alone: in its turn, and heard as it goes
alone() { [ "$1" = cost ] || [ "$1" = loads ] || [ "$1" = exchanges ]; }
# what times nothing goes behind what does
can_wait() { [ "$1" = lint ] || [ "$1" = regress ] || [ "$1" = fuzz ] || [ "$1" = packages ]; }
run_part() { # in a process of its own; and note how long it took
	local began=$SECONDS
	! can_wait "$1" || renice -n 10 -p "$BASHPID" >/dev/null
	trap "echo \"\$((SECONDS - $began)) s\" >'$work/$1.took'" EXIT
	"part_$1" 2>&1
}
for part in $parts; do
	! alone "$part" || continue
	run_part "$part" >"$work/$part.out" &
	job[$part]=$!
	work_jobs+=($!)
done
# of what a part said, the lines that tell why it failed
why() {
	grep -hE '^(NOT OK|OVER BUDGET)|^#   Failed test|^# +(got|expected): |\.\.\. FAILED|^[A-Za-z.]*Error: ' "$1" ||
		tail -n 3 "$1"
}
summary=() reasons=()
for part in $parts; do
	status=0
	echo "----- $part"
	if alone "$part"; then
		run_part "$part" | tee "$work/$part.out" || status=$?
	else
		wait "${job[$part]}" || status=$?
		cat "$work/$part.out"
	fi
	# what a test says that it left out
	left_out=$(sed -n 's/^# NOT RUN: //p' "$work/$part.out" | paste -sd ',' | sed 's/,/, /g')
	took=$(cat "$work/$part.took" 2>/dev/null || echo "?")
	case $status in
		0) passed=$((passed + 1)); summary+=("$part: passed in $took${left_out:+; NOT RUN: $left_out}") ;;
		77) skipped=$((skipped + 1)); summary+=("$part: NOT RUN: $(tail -n 1 "$work/$part.out")") ;;
		*)
			failed=$((failed + 1))
			summary+=("$part: FAILED after $took")
			while read -r line; do reasons+=("$part: $line"); done < <(why "$work/$part.out" | head -n 5)
			;;
	esac
done
work_jobs=()
echo "-----"
printf '%s\n' "${summary[@]}" ${reasons:+"${reasons[@]}"}
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
