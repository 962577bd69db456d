# Exact counting of a known unit of work (BEGIN, ten queries, COMMIT) through
# the drivers that people use; Kasm's own is SQLAlchemy over psycopg2.
use strict;
use warnings;

use FindBin;
use IPC::Run qw(start pump finish timeout);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('drivers');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
listen_addresses = '127.0.0.1'
));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION kasm_latency; CREATE ROLE probe LOGIN');

my $dsn = 'host=127.0.0.1 port=' . $node->port . ' user=probe dbname=postgres';
my $figures = q(
	SELECT sum(round_trips), sum(transactions), sum(kasm_latency_internal.count_from(ceilings, 0))
	FROM kasm_latency_internal.client_figures(NULL) WHERE role_oid = 'probe'::regrole);

# what one unit of work is: exchanges, transactions, ceilings
my %unit = (
	sqlalchemy_psycopg2 => '12|1|11',
	psycopg2 => '12|1|11',
	# the same query for the sixth time is prepared first, which is an exchange
	# of its own (a Parse and Sync)
	psycopg3 => '13|1|12',
	# the first query is parsed and described with Flush, and then known
	asyncpg => '13|1|12',
	# every query is: two exchanges each
	asyncpg_uncached => '22|1|21',
);

foreach my $driver (sort keys %unit)
{
	# not every release has a package of each
	my ($module) = $driver =~ /^(sqlalchemy|psycopg2|psycopg|asyncpg)/;
	if (system("/usr/bin/python3 -c 'import $module' 2>/dev/null") != 0)
	{
		diag("NOT RUN: $driver");
	  SKIP: { skip "$driver: there is no Python module $module", 2; }
		next;
	}
	my ($in, $out, $err) = ('', '', '');
	my $run = start [ '/usr/bin/python3', "$FindBin::RealBin/../lib/drivers.py", $driver, $dsn ],
	  '<', \$in, '>', \$out, '2>', \$err, timeout(60);
	my $wait_for = sub {
		my $word = shift;
		pump $run until $out =~ s/^$word\n// || !$run->pumpable;
	};
	$wait_for->('connected');
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$in .= "go\n";
	$wait_for->('done');
	is($node->safe_psql('postgres', $figures), $unit{$driver},
		"$driver: exchanges, transactions, ceilings of one unit of work");
	finish $run;
	is($err, '', "$driver: no complaint");
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 0 FROM kasm_latency.connections WHERE username = 'probe'));
}

# psql: one exchange for every -c, none for connecting
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
$node->command_ok(
	[ 'psql', '-XqAt', '-d', $dsn, '-c', 'BEGIN', map({ ('-c', "SELECT $_") } 1 .. 10), '-c', 'COMMIT' ],
	'psql runs');
$node->poll_query_until('postgres',
	q(SELECT count(*) = 0 FROM kasm_latency.connections WHERE username = 'probe'));
is($node->safe_psql('postgres', $figures), '12|1|11', 'psql: the same');

# pgbench: TPC-B is BEGIN, five statements, COMMIT; prepared, simple, extended
$node->safe_psql('postgres', 'CREATE DATABASE bench');
$node->command_ok([ 'pgbench', '-i', '-q', $node->connstr('bench') ], 'pgbench made its tables');
$node->safe_psql('bench', 'GRANT ALL ON ALL TABLES IN SCHEMA public TO probe');
(my $bench = $dsn) =~ s/dbname=postgres/dbname=bench/;
my %per_client = (
	simple => 0,
	extended => 0,
	# six of them are prepared first (COMMIT and BEGIN too): seven Parses
	prepared => 7,
);
foreach my $mode (sort keys %per_client)
{
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$node->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '25', '-M', $mode, $bench ], "pgbench -M $mode");
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 0 FROM kasm_latency.connections WHERE username = 'probe'));
	# two queries about its tables come first, on a connection of their own
	is( $node->safe_psql('postgres', q(SELECT sum(round_trips)
		FROM kasm_latency_internal.client_figures(NULL) WHERE role_oid = 'probe'::regrole)),
		4 * 25 * 7 + 4 * $per_client{$mode} + 2, "pgbench -M $mode: every exchange");
}

$node->stop;
done_testing();
