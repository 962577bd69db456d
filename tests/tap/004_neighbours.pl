# Beside other extensions that hook in where we do, in both orders; parallel
# query; and what each counts.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# in the order in which they can be loaded: pg_stat_kcache wants pg_stat_statements first
my @neighbours = qw(pg_stat_statements pg_stat_kcache pg_wait_sampling auto_explain pgaudit pg_cron);
my ($libdir) = run_command([ 'pg_config', '--pkglibdir' ]);
my @here = grep { -e "$libdir/$_.so" } @neighbours;
my @missing = grep { !-e "$libdir/$_.so" } @neighbours;
diag("NOT RUN: beside $_") for @missing;
ok(scalar(grep { $_ eq 'pg_stat_statements' } @here), 'there are neighbours to try');

# Twenty exchanges by a client of its own; what we counted of it.
sub counted
{
	my ($node) = @_;
	my $me = $node->background_psql('postgres', extra_params => [ '-U', 'probe' ]);
	$me->query_safe('SELECT 1') for 1 .. 20;
	my $counts = $node->safe_psql('postgres',
		q(SELECT round_trips, transactions FROM kasm_latency.totals WHERE username = 'probe'));
	$me->quit;
	return $counts;
}

my $node = PostgreSQL::Test::Cluster->new('neighbours');
$node->init;
$node->append_conf('postgresql.conf', qq(
cron.database_name = 'postgres'
auto_explain.log_min_duration = 0
pgaudit.log = 'all'
));
for my $order ([ 'kasm_latency', @here ], [ @here, 'kasm_latency' ])
{
	my $libraries = join(', ', @$order);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libraries'");
	$order->[0] eq 'kasm_latency' ? $node->start : $node->restart;
	$node->safe_psql('postgres', join(';', map { "DROP EXTENSION IF EXISTS $_" } reverse(@$order))
		  . '; DROP ROLE IF EXISTS probe');
	$node->safe_psql('postgres', join(';', map { "CREATE EXTENSION $_" } grep { $_ ne 'auto_explain' } @$order)
		  . '; CREATE ROLE probe LOGIN');
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset(), pg_stat_statements_reset()');

	# psql begins with none of its own; background_psql asks for a banner after each query
	my ($exchanges) = split(/\|/, counted($node));
	cmp_ok($exchanges, '>=', 20, "$libraries: exchanges are counted");
	is( $node->safe_psql('postgres', q(
			SELECT calls FROM pg_stat_statements WHERE query = 'SELECT $1' AND userid = 'probe'::regrole)),
		'20', "$libraries: and statements by pg_stat_statements");
}
my $log = slurp_file($node->logfile);
like($log, qr/duration: .* plan:/, 'auto_explain explains') if grep { $_ eq 'auto_explain' } @here;
like($log, qr/AUDIT: SESSION/, 'pgaudit audits') if grep { $_ eq 'pgaudit' } @here;
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'nothing crashed');

# a parallel query is one exchange of its leader
$node->safe_psql('postgres', 'CREATE TABLE big AS SELECT generate_series(1, 200000) AS n; ANALYZE big');
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
my $parallel = $node->background_psql('postgres', extra_params => [ '-U', 'probe' ]);
$node->safe_psql('postgres', 'GRANT SELECT ON big TO probe');
$parallel->query_safe($_) for 'SET parallel_setup_cost = 0', 'SET parallel_tuple_cost = 0', 'SET min_parallel_table_scan_size = 0';
my $before = $node->safe_psql('postgres', q(SELECT round_trips FROM kasm_latency.connections WHERE username = 'probe'));
like($parallel->query_safe('EXPLAIN (ANALYZE, COSTS OFF) SELECT sum(n) FROM big'), qr/Workers Launched: [1-9]/, 'a parallel query runs');
my $after = $node->safe_psql('postgres', q(SELECT round_trips FROM kasm_latency.connections WHERE username = 'probe'));
my $plain = $parallel->query_safe('SELECT 1');
my $later = $node->safe_psql('postgres', q(SELECT round_trips FROM kasm_latency.connections WHERE username = 'probe'));
is($after - $before, $later - $after, 'and counts as much as a plain one');
$parallel->quit;

$node->stop;
done_testing();
