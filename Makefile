# kasm_latency: build with PGXS; the further targets are in tests/make.mk.
#
#	make                build (PG_CONFIG=... names the server's pg_config)
#	make install        into that server's directories
#	make installcheck   regression and TAP tests against that installation
#	make demo           see it at work, on a throwaway server
#	make lab            every scenario of distance and noise
#	make test           everything, on throwaway servers
#	make test-matrix    on other versions of PostgreSQL
#	make bench          what it costs, beside other extensions
#	make lint           style and static checks
#	make dist           an archive of the source, with checksums
#	make deb            Debian packages, for each server that is installed

MODULE_big = kasm_latency
OBJS = \
	extension/chain.o \
	extension/client_mine.o \
	extension/client_read.o \
	extension/client_table.o \
	extension/clock.o \
	extension/collateral.o \
	extension/exchange.o \
	extension/histogram.o \
	extension/history_worker.o \
	extension/kasm_latency.o \
	extension/minutes.o \
	extension/my_socket.o \
	extension/queue.o \
	extension/savefile.o \
	extension/slot.o \
	extension/socket_rtt.o \
	extension/sql_functions.o \
	extension/sql_histogram.o \
	extension/watcher.o \
	extension/workers.o \
	$(EXTRA_OBJS)

# where this file is: elsewhere than the build in a VPATH build, which needs the
# objects' directory
top := $(patsubst %/,%,$(dir $(firstword $(MAKEFILE_LIST))))
ifneq ($(top),.)
$(shell mkdir -p extension)
endif

# a changed header rebuilds everything: PGXS tracks none
$(OBJS): $(wildcard $(top)/extension/*.h)

# The install script, layer by layer: each file uses only those before it, and
# its head says what belongs there.
SQL_PARTS = schemas figures histograms settings arithmetic names rules clients hosts \
	relations collateral impact probe forecast history incident monitoring report_parts report_forecast report privileges

EXTENSION = extension/kasm_latency
DATA_built = extension/kasm_latency--1.0.sql
EXTRA_CLEAN = extension/kasm_latency--1.0.sql.new

PG_CONFIG ?= pg_config

# -isystem: the server's own headers are not clean under -Wextra
PG_CFLAGS = -std=c99 -Wextra -Werror=implicit-function-declaration $(EXTRA_CFLAGS)
PG_CPPFLAGS = -D_GNU_SOURCE \
	-isystem $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)

REGRESS = $(patsubst $(top)/sql/%.sql,%,$(sort $(wildcard $(top)/sql/*.sql)))
REGRESS_OPTS = --encoding=UTF8
TAP_TESTS = 1
PROVE_TESTS = tests/tap/*.pl

# bitcode is for inlining SQL functions into queries: nothing of ours gains
override with_llvm := no

include $(top)/tests/make.mk

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)

# the line @report.css@ of a part stands for that file
SQL_FILES = $(SQL_PARTS:%=$(top)/extension/sql/%.sql)
extension/kasm_latency--1.0.sql: $(SQL_FILES) $(top)/extension/sql/report.css $(top)/Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION kasm_latency" to load this file. \quit' \
		'/* Made by make from extension/sql/: to change it, change what is there. */'; \
	for file in $(SQL_FILES); do echo && sed -e '/^@report\.css@$$/{' \
		-e 'r $(top)/extension/sql/report.css' -e 'd' -e '}' $$file || exit 1; done; } >$@.new
	mv $@.new $@

# the path of every exchange: together 16 instructions of 194
extension/exchange.o: override CFLAGS += -fomit-frame-pointer -fno-plt -fno-tree-slp-vectorize
else
all install installcheck clean:
	@echo "make: $(PG_CONFIG) not found; install the server's development" \
		"package, name it with PG_CONFIG=, or run \"make demo\"" >&2; exit 1
endif
