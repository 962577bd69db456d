# Update and removal by the steps of docs/operations.md, which are run as they
# stand there: what stays, and that nothing does.
use strict;
use warnings;

use File::Copy qw(copy);
use File::Find qw(find);
use FindBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('update');
$node->init;
my $plain = slurp_file($node->data_dir . '/postgresql.conf');
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
kasm_latency.recent = 60min
));
$node->start;

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub run_client { return $node->safe_psql('postgres', 'SELECT 1', extra_params => [ '-U', 'app' ]) }
sub rows { return sql(q(SELECT coalesce(sum(round_trips), 0) FROM kasm_latency.totals WHERE username = 'app')) }

my $guide = slurp_file("$FindBin::RealBin/../../docs/operations.md");
my ($update) = $guide =~ /\n## Update\n.*?```sh\n(.*?)```/s or die 'the update is not in docs/operations.md';
my ($stop, $drop, $last) = $guide =~ /\n## Remove\n.*?```sh\n(.*?)```.*?```sh\n(.*?)```.*?```sh\n(.*?)```/s
  or die 'the removal is not in docs/operations.md';
my $aside = PostgreSQL::Test::Utils::tempdir;
sub follow
{
	my ($steps, $name) = @_;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port, PGDATA => $node->data_dir);
	my $script = "$aside/steps.sh";
	append_to_file($script, "set -e\n$steps");
	my ($out, $err);
	ok(IPC::Run::run([ 'sh', $script ], '>', \$out, '2>', \$err), $name) or diag($err);
	is($err, '', "$name: no complaints");
	unlink $script;
	return $out;
}

# ----- new files, a restart, ALTER EXTENSION UPDATE

sql(q(
	CREATE EXTENSION kasm_latency;
	CREATE ROLE app LOGIN;
	CREATE ROLE monitor LOGIN IN ROLE pg_monitor;
	GRANT EXECUTE ON FUNCTION kasm_latency.snapshot(), kasm_latency.prune(interval) TO monitor;
	SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'eu');
	INSERT INTO kasm_latency.history (taken_at, host, rtt_ms) VALUES ('2026-01-01 12:00+00', 'webapp-eu', 120.5)));
my $objects = q(SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass);
my $before = sql($objects);
my $kept = q(SELECT r::text FROM kasm_latency.host_registry AS r UNION ALL
	SELECT h.host || h.rtt_ms FROM kasm_latency.history AS h WHERE h.host = 'webapp-eu'
	UNION ALL SELECT p.proacl::text FROM pg_proc AS p WHERE p.oid = 'kasm_latency.snapshot()'::regprocedure);
my $names = sql($kept);

my ($sharedir, $libdir) = map { sql("SELECT setting FROM pg_config WHERE name = '$_'") } qw(SHAREDIR PKGLIBDIR);
my $next = "$sharedir/extension/kasm_latency--1.0--made up.sql";
my $library = "$libdir/kasm_latency.so";
END { unlink $next if defined $next }

SKIP:
{
	skip 'the installation is not ours to change', 1 unless -w "$sharedir/extension" && -w $libdir;

	# what a next version may do: a column and an index more, a function in the place of another
	open my $script, '>', $next or die "$next: $!";
	print $script <<'SQL';
\echo Use "ALTER EXTENSION kasm_latency UPDATE" to load this file. \quit
ALTER TABLE kasm_latency.history ADD COLUMN made_up integer;
CREATE INDEX history_made_up ON kasm_latency.history (made_up);
CREATE FUNCTION kasm_latency.made_up() RETURNS integer LANGUAGE sql SET search_path = pg_catalog, pg_temp AS 'SELECT 1';
CREATE OR REPLACE FUNCTION kasm_latency.launch_cost(queries integer, rtt_ms double precision, server_ms double precision DEFAULT 0)
RETURNS double precision LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS 'SELECT 42';
SQL
	close $script;

	# the library is replaced, as install does it, under a server that runs
	my $open = $node->background_psql('postgres');
	$open->query_safe('SELECT 1');
	copy($library, "$library.new") or die "$library.new: $!";
	chmod 0755, "$library.new";
	rename("$library.new", $library) or die "$library: $!";
	run_client() for 1 .. 3;
	$open->query_safe('SELECT 1');
	my $counted = rows();
	cmp_ok($counted, '>', 0, 'the server goes on with the library that it has');
	$open->quit;
	$node->restart;
	is(rows(), $counted, 'a restart: what was measured is still there');

	my $steps = $update;
	$steps =~ s/kasm_latency UPDATE/kasm_latency UPDATE TO 'made up'/ or die 'no UPDATE';
	like(follow($steps, 'ALTER EXTENSION UPDATE'), qr/^ 1\.0 +\| made up$/m, 'the versions are shown');
	is(sql('SELECT kasm_latency.made_up(), kasm_latency.launch_cost(1, 1, 1)'), '1|42', 'what is new is there');
	is(sql($objects), $before + 1, 'and belongs to the extension');
	is(sql($kept), $names, 'names, history and privileges stay');
	is(sql(q(SELECT kasm_latency.snapshot() >= 0)), 't', 'a snapshot is taken');
	is(rows(), $counted, 'and what was measured stays');
}

# ----- a save file of another version: empty, and says so

run_client();
sub start_with_version
{
	my ($change) = @_;
	my $file = $node->data_dir . '/pg_stat/kasm_latency.stat';
	$node->stop;
	open my $save, '+<:raw', $file or die "$file: $!";
	read $save, my $head, 12;
	my @words = unpack('L3', $head);
	$change->(\@words);
	seek $save, 0, 0;
	print $save pack('L3', @words);
	close $save;
	my $from = -s $node->logfile;
	$node->start;
	return substr(slurp_file($node->logfile), $from);
}
my $other = qr/WARNING:  kasm_latency: ignoring file "pg_stat\/kasm_latency\.stat": it was written by another version\n.*DETAIL:  Starting empty\./;
like(start_with_version(sub { $_[0][1]++ }), $other, 'a save file of the next version is ignored');
is(rows(), 0, 'the start is empty');
is(sql($kept), $names, 'names and history are no part of it');
run_client();
like(start_with_version(sub { $_[0][2]-- }), $other, 'so is one of another PostgreSQL');
is(rows(), 0, 'the start is empty');

# ----- removal

follow($stop, 'switched off at once');
run_client();
is(rows(), 0, 'nothing is measured');
sql('CREATE DATABASE kasm');
$node->safe_psql('kasm', 'CREATE EXTENSION kasm_latency');
sql(q(ALTER SYSTEM SET kasm_latency.history_database = 'postgres'));
sql('DROP OWNED BY monitor; DROP ROLE monitor; DROP ROLE app');
follow($drop, 'the extension is dropped');
unlink $node->data_dir . '/postgresql.conf';
append_to_file($node->data_dir . '/postgresql.conf', $plain);
$node->restart;
follow($last, 'the save file is removed');
my @ours;
find(sub { push @ours, $File::Find::name if /kasm/ }, $node->data_dir);
is(join(' ', @ours), '', 'no file of ours is left');
unlike(slurp_file($node->data_dir . '/postgresql.auto.conf'), qr/kasm_latency/, 'and no line in postgresql.auto.conf');
foreach my $database (qw(postgres kasm template1))
{
	is( $node->safe_psql($database, q(
			SELECT nspname FROM pg_namespace WHERE nspname LIKE 'kasm%'
			UNION ALL SELECT proname FROM pg_proc WHERE prosrc ~ 'kasm' OR probin ~ 'kasm'
			UNION ALL SELECT relname FROM pg_class WHERE relname LIKE '%kasm%'
			UNION ALL SELECT extname FROM pg_extension WHERE extname LIKE 'kasm%')), '', "nothing in the database $database");
}
is( sql(q(SELECT name FROM pg_settings WHERE name LIKE 'kasm%'
		UNION ALL SELECT name FROM pg_shmem_allocations WHERE name LIKE 'kasm%'
		UNION ALL SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'kasm%')),
	'', 'no setting, no shared memory, no process');
$node->stop;
done_testing();
