# Physical standby and logical replication: walsenders are no clients; a hot
# standby measures and shows its own, and watches who waits for whom; history it
# keeps from when it is promoted.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical');
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'kasm_latency'");
$primary->start;
$primary->safe_psql('postgres', q(
	CREATE EXTENSION kasm_latency;
	CREATE ROLE probe LOGIN;
	CREATE TABLE item (n int);
	CREATE PUBLICATION items FOR TABLE item;
	SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu')));

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "kasm_latency.sample_locks = 0\nkasm_latency.history_interval = 1min\n");
$standby->start;
$primary->wait_for_catchup($standby);

my $client = $standby->background_psql('postgres', extra_params => [ '-U', 'probe' ]);
$client->query_safe('SELECT 1') for 1 .. 5;
cmp_ok(
	$standby->safe_psql('postgres', q(SELECT round_trips FROM kasm_latency.clients WHERE username = 'probe')),
	'>=', 5, 'a standby measures its own clients');
is( $standby->safe_psql('postgres', 'SELECT host FROM kasm_latency.host_registry'),
	'webapp-eu', 'and has the names of the primary');
for my $relation (qw(hosts flagged impact connections totals info blocking diagnose() placement_plan()), "histogram('server')")
{
	my ($status) = $standby->psql('postgres', "SELECT * FROM kasm_latency.$relation");
	is($status, 0, "a standby shows $relation");
}
my ($status, $out, $error) = $standby->psql('postgres', q(SELECT kasm_latency.register_host('10.0.0.1', 'x')));
like($error, qr/cannot execute INSERT in a read-only transaction/, 'names are given on the primary');
($status, $out, $error) = $standby->psql('postgres', 'SELECT kasm_latency.snapshot()');
like($error, qr/a standby cannot keep history/, 'history is kept on the primary');
is($standby->safe_psql('postgres', 'SELECT kasm_latency.assert_in_band()') =~ /^OK/, 1, 'checks work');
like($standby->safe_psql('postgres', 'SELECT kasm_latency.report()'), qr{</html>}, 'and so does the report');
($status) = $standby->psql('postgres', 'SELECT kasm_latency.reset()');
is($status, 0, 'its own figures can be forgotten');
$client->quit;

# one reload says that lock waits are watched, and history is kept: what comes of the
# first shows that the second was read too
$standby->append_conf('postgresql.conf', "kasm_latency.sample_locks = 20ms\nkasm_latency.history_database = 'postgres'\n");
$standby->reload;
my $holder = $standby->background_psql('postgres', extra_params => [ '-U', 'probe' ]);
$holder->query_safe('SELECT pg_advisory_lock(1)');
my $waiter = $standby->background_psql('postgres', extra_params => [ '-U', 'probe' ]);
$waiter->query_until(qr/waits/, "\\echo waits\nSELECT pg_advisory_lock(1);\n");
ok( $standby->poll_query_until('postgres', q(
		SELECT waited_s > 0.5 AND waited_for_client_s > 0.9 * waited_s FROM kasm_latency.collateral
		WHERE blocking_host = '[local]' AND waiting_host = '[local]')),
	'a standby watches who waits for whom');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$_->quit foreach $holder, $waiter;
is($standby->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kasm_latency history')),
	0, 'it keeps no history of its own');

my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', "shared_preload_libraries = 'kasm_latency'");
$subscriber->start;
$subscriber->safe_psql('postgres', 'CREATE TABLE item (n int)');
$subscriber->safe_psql('postgres',
	q(CREATE SUBSCRIPTION items CONNECTION ') . $primary->connstr . q( dbname=postgres' PUBLICATION items));
$primary->safe_psql('postgres', 'INSERT INTO item SELECT generate_series(1, 1000)');
ok($subscriber->poll_query_until('postgres', 'SELECT count(*) = 1000 FROM item'), 'logical replication works');

is( $primary->safe_psql('postgres', q(
		SELECT count(*) FROM kasm_latency.connections AS c JOIN pg_stat_activity AS a USING (pid)
		WHERE a.backend_type = 'walsender')),
	'0', 'walsenders are no clients');
is($primary->safe_psql('postgres', q(SELECT count(*) > 1 FROM pg_stat_replication)), 't', 'though there are some');

$standby->promote;
is( $standby->safe_psql('postgres', q(SELECT kasm_latency.register_host('10.0.0.1', 'x'))),
	'', 'promoted, it takes names');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM kasm_latency.history'), 0, 'until then no history was written');
# at the next full minute
ok($standby->poll_query_until('postgres', 'SELECT count(*) > 0 FROM kasm_latency.history'), 'and keeps history');
unlike(slurp_file($standby->logfile), qr/kasm_latency: no (history|snapshot)|background worker/, 'and no line was logged of it');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|terminated by signal/, $_->name . ': nothing crashed')
  for $primary, $standby, $subscriber;
done_testing();
