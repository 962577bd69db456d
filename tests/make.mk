# The targets beyond PGXS: they install what they need, and run on private
# copies of everything (see docs/development.md).

RUN = PG_CONFIG='$(PG_CONFIG)' tests/run.sh
C_FILES = $(wildcard extension/*.[ch] tests/lab/*.c tests/lib/*.c tests/long/*.c)

.PHONY: demo test test-long test-matrix test-upgrade test-assert test-asan test-memcheck test-musl test-source test-container test-foreign lab bench lint format reference dist deb

demo:
	@$(RUN) demo

test:
	@$(RUN) test $(PARTS)

# EXCHANGES=100000 for fewer
test-long:
	@SEQUENCES=10000 EXCHANGES=$(or $(EXCHANGES),10000000) $(RUN) test \
		$(or $(PARTS),soak limits abuse churn savefile watcher faults loads fuzz exchanges)

# VERSIONS="13 17", "15/arm64" or "arm64" for some
test-matrix:
	@tests/matrix.sh $(VERSIONS)

# pg_upgrade from 15 to 17
test-upgrade:
	@tests/pg_upgrade.sh

# on servers built for it
test-assert test-asan test-memcheck test-musl:
	@tests/builds.sh $(@:test-%=%) $(PARTS)

# on one built from the source tree PG_SOURCE
test-source:
	@PG_SOURCE='$(PG_SOURCE)' tests/builds.sh source $(PARTS)

# PostgreSQL's own tests and those of drivers, without and with the library;
# PARTS="core pgjdbc" for some
test-foreign:
	@$(RUN) foreign $(PARTS)

# docs/kasm, in a stand-in for Kasm's container; SHOW=show prints what its steps print
test-container:
	@tests/container.sh $(SHOW)

# SCENARIOS="1 6" for some
lab:
	@$(RUN) lab $(SCENARIOS)

# PARTS="connects readers" for some
bench:
	@$(RUN) bench $(PARTS)

# what is handed out goes to dist/
dist:
	@extension/packaging/package.sh dist

# VERSIONS="15 17" for some
deb:
	@extension/packaging/package.sh deb $(VERSIONS)

# other versions of clang-format format otherwise
lint:
	@case "$$(clang-format --version)" in \
		*" 14."*) clang-format --dry-run -Werror $(C_FILES) ;; \
		*) echo "lint: format not checked: clang-format is not version 14" ;; \
	esac
	cppcheck --quiet --std=c99 --enable=warning,performance,portability \
		--error-exitcode=1 --inline-suppr --suppress=missingIncludeSystem \
		--suppress=preprocessorErrorDirective:extension/socket_rtt.c \
		$(C_FILES)
	tests/lib/conventions.sh
	tests/lib/reference.py check

format:
	clang-format -i $(C_FILES)

# the tables of columns in docs/reference.md, of what expected/columns.out has
reference:
	tests/lib/reference.py write

# "make" builds, whatever is included first
.DEFAULT_GOAL := all
