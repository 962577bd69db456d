# The extension's update, a dump and restore with its names, and a Kasm upgrade
# by the steps of docs/operations.md, which are run as they stand there.
use strict;
use warnings;

use FindBin;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $objects = q(
	SELECT pg_describe_object(classid, objid, 0) || coalesce(' ' || md5(pg_get_functiondef(p.oid)), '')
	  || coalesce(' ' || md5(pg_get_viewdef(c.oid)), '')
	FROM pg_depend
	LEFT JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid AND p.prokind = 'f'
	LEFT JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid AND c.relkind = 'v'
	WHERE deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kasm_latency') ORDER BY 1);

sub cluster
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	return $node;
}

my $old = cluster('old');
$old->append_conf('postgresql.conf', "shared_preload_libraries = 'kasm_latency'");
$old->start;

# ----- from each version that there is to the current one

$old->safe_psql('postgres', 'CREATE EXTENSION kasm_latency');
my $fresh = $old->safe_psql('postgres', $objects);
for my $version (split /\n/, $old->safe_psql('postgres',
		# but for one that 010_update makes up
		q(SELECT version FROM pg_available_extension_versions WHERE name = 'kasm_latency' AND version <> 'made up')))
{
	$old->safe_psql('postgres', 'DROP EXTENSION kasm_latency');
	$old->safe_psql('postgres', "CREATE EXTENSION kasm_latency VERSION '$version'");
	$old->safe_psql('postgres', q(SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'eu')));
	$old->safe_psql('postgres', 'ALTER EXTENSION kasm_latency UPDATE');
	is($old->safe_psql('postgres', $objects), $fresh, "updated from $version it is as if made anew");
	is($old->safe_psql('postgres', 'SELECT host FROM kasm_latency.host_registry'), 'webapp-eu', 'and keeps its names');
}
is( $old->safe_psql('postgres', q(SELECT extversion = (SELECT version FROM kasm_latency.info) FROM pg_extension
		WHERE extname = 'kasm_latency')), 't', 'the library and the script are of one version');

# ----- dump and restore, extension and all

$old->safe_psql('postgres', 'CREATE DATABASE kasm');
$old->safe_psql('kasm', q(
	CREATE EXTENSION kasm_latency;
	CREATE TABLE managers (manager_id int, manager_hostname text, zone_id int);
	CREATE TABLE zones (zone_id int, zone_name text);
	INSERT INTO managers VALUES (1, 'webapp-1', 1), (2, 'webapp-eu', 2), (3, 'homeless', NULL), (4, NULL, 1);
	INSERT INTO zones VALUES (1, 'default'), (2, 'it''s "eu", \ and more');
	SELECT kasm_latency.import_kasm_hosts();
	SELECT kasm_latency.register_host('10.8.0.0/16', 'region-eu', 'proxy');
	SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'it''s "eu", \ and more');
	INSERT INTO kasm_latency.history (taken_at, host, zone, rtt_ms, verdict)
	VALUES ('2026-01-01 12:00+00', 'webapp-eu', 'it''s "eu", \ and more', 120.5, 'out_of_band')));
my $kept = q(SELECT r::text FROM kasm_latency.host_registry AS r UNION ALL SELECT k::text FROM kasm_latency.kasm_hosts AS k
	UNION ALL SELECT h::text FROM kasm_latency.history AS h ORDER BY 1);
my $registry = $old->safe_psql('kasm', $kept);
my $dump = $old->backup_dir . '/kasm.sql';
$old->command_ok([ 'pg_dump', '-f', $dump, 'kasm' ], 'a dump');
$old->safe_psql('postgres', 'CREATE DATABASE restored');
$old->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', $dump . '.out', '-f', $dump, 'restored' ], 'restored');
is($old->safe_psql('restored', $kept), $registry, 'with its names and history');

# ----- the steps of the guide, as they stand there

my $guide = slurp_file("$FindBin::RealBin/../../docs/operations.md");
my ($copy) = $guide =~ /## Kasm's names.*?```sh\n(.*?)```/s or die 'the copying is not in docs/operations.md';
my ($before, $after, $drop) = $guide =~ /## Before and after a Kasm upgrade.*?```sh\n(.*?)```.*?```sh\n(.*?)```.*?```sh\n(.*?)```/s
  or die 'the steps are not in docs/operations.md';
my $aside = PostgreSQL::Test::Utils::tempdir;
sub follow
{
	my ($node, $steps, $name) = @_;
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
	my $script = "$aside/steps.sh";
	append_to_file($script, "cd $aside && set -e\n$steps");
	my ($out, $err);
	ok(IPC::Run::run([ 'sh', $script ], '>', \$out, '2>', \$err), $name) or diag($err);
	is($err, '', "$name: no complaints");
	unlink $script;
	return;
}

# names from Kasm's database into ours, twice: the second in the place of the first
for (1, 2)
{
	follow($old, $copy, q(Kasm's names are copied));
	is($old->safe_psql('postgres', 'SELECT host, zone FROM kasm_latency.kasm_hosts ORDER BY host'),
		"homeless|\nwebapp-1|default\nwebapp-eu|it's \"eu\", \\ and more", 'all of them, once');
}

# ----- a Kasm upgrade: the database kasm is dumped, and restored in a server that does not have the extension

$old->safe_psql('kasm', 'DROP EXTENSION kasm_latency');
$old->safe_psql('postgres', q(
	SELECT kasm_latency.register_host('10.8.0.7', 'webapp-eu', zone => 'it''s "eu", \ and more');
	INSERT INTO kasm_latency.history (taken_at, host, zone, rtt_ms, verdict)
	VALUES ('2026-01-01 12:00+00', 'webapp-eu', 'it''s "eu", \ and more', 120.5, 'out_of_band')));
sub upgrade
{
	my ($database, $name, @before) = @_;
	my ($registry) = $old->safe_psql($database, $kept);
	my $steps = $after;
	for (@before, $steps) { s/-d postgres/-d $database/g; }
	follow($old, $_, "$database: the steps before") for @before;
	$old->command_ok([ 'pg_dump', '-f', $dump, 'kasm' ], "$database: a dump");
	my $new = cluster($name);
	$new->start;
	$new->safe_psql('postgres', 'CREATE DATABASE kasm');
	$new->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', $dump . '.out', '-f', $dump, 'kasm' ],
		"$database: restores where the extension is not loaded");
	$new->append_conf('postgresql.conf', "shared_preload_libraries = 'kasm_latency'");
	$new->restart;
	follow($new, $steps, "$database: the steps after");
	is($new->safe_psql($database, $kept), $registry, "$database: the names and the history are back");
	is($new->safe_psql('kasm', 'SELECT count(*) FROM managers'), '4', qq($database: and so is Kasm's data));
	is($new->safe_psql($database, 'SELECT count(*) >= 1 FROM kasm_latency.hosts'), 't', "$database: and it measures");
	$new->stop;
	return;
}
upgrade('postgres', 'new', $before);
$old->safe_psql('kasm', q(
	CREATE EXTENSION kasm_latency;
	SELECT kasm_latency.import_kasm_hosts(), kasm_latency.register_host('10.8.0.0/16', 'region-eu', 'proxy')));
upgrade('kasm', 'newer', $before, $drop);
done_testing();
