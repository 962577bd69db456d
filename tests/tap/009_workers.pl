# The watcher and the worker that keeps history: what they do by themselves,
# whom they must not stand in the way of, what they live through.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use POSIX ();
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use RawClient;

my $node = PostgreSQL::Test::Cluster->new('workers');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
listen_addresses = '127.0.0.1'
autovacuum = off
restart_after_crash = on
kasm_latency.sample_locks = 10ms
kasm_latency.recent = 1min
kasm_latency.history_interval = 1min
));

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub until_true { my ($sql, $what) = @_; return ok($node->poll_query_until('postgres', $sql), $what) }
sub set
{
	my ($setting, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET kasm_latency.$setting = $value");
	$node->reload;
	return;
}
sub lines
{
	my ($pattern, $from) = @_;
	my @lines = slurp_file($node->logfile, $from // 0) =~ /$pattern/g;
	return scalar @lines;
}
sub log_end { return -s $node->logfile }
my $watcher = 'SELECT watcher_pid FROM kasm_latency.info';

$node->start;
sql('CREATE EXTENSION kasm_latency; CREATE ROLE app LOGIN');

# ----- one process; ended, it comes back

my $pid = sql($watcher);
is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kasm_latency%')), 1, 'one process');
kill 'TERM', $pid;
until_true("SELECT watcher_pid <> $pid FROM kasm_latency.info", 'SIGTERM: it comes back');

# ----- history without cron

# a reload that names the database brings a snapshot at once; nothing shows that
# the watcher has read its settings, but it takes no longer than that
sub name_database
{
	my ($database) = @_;
	set('history_database', $database);
	usleep(100_000);
	return;
}
sub snapshot_in
{
	my ($database) = @_;
	name_database(q(''));
	$node->poll_query_until('postgres', q(SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'kasm_latency history'));
	name_database($database);
	return;
}

my $client = RawClient->new(port => $node->port, user => 'app', database => 'postgres');
$client->exchange(1, RawClient::query($_)) foreach (('BEGIN', ('SELECT 1') x 10, 'COMMIT') x 4);
snapshot_in('postgres');
until_true(q(SELECT count(*) > 0 FROM kasm_latency.history WHERE host = '127.0.0.1'), 'a snapshot is taken');

# a verdict that is another than that of the snapshot before is in the log
sub after
{
	my ($past) = @_;
	sql(q{TRUNCATE kasm_latency.history; INSERT INTO kasm_latency.history (taken_at, host, host_role, verdict, rtt_ms)
		VALUES (now() - interval '5 min', '127.0.0.1', 'webapp', } . "$past)");
	my $from = log_end();
	snapshot_in('postgres');
	until_true(q(SELECT count(*) = 2 FROM kasm_latency.history WHERE host = '127.0.0.1'), "a snapshot after $past");
	return $from;
}
my $from;
SKIP:
{
	skip 'there is no floor', 7
	  unless RawClient::has_floor('verdicts that change', port => $node->port, user => 'app', database => 'postgres');
	$from = after("'out_of_band', 25.2");
	ok($node->wait_for_log(qr/LOG:  kasm_latency: 127\.0\.0\.1 is in_band now \(was out_of_band\): round trip 0\.0\S* ms, was 25\.2 ms\n/, $from),
		'a verdict that changed is logged');
	$from = after("'floor_only', 0.02");
	set('rtt_limit', '0.001');
	ok($node->wait_for_log(qr/parameter "kasm_latency.rtt_limit" changed/, $from), 'reloaded');
	is(lines(qr/127\.0\.0\.1 is/, $from), 0, 'it is not, where a host had little to do');
	$from = after("'in_band', 0.02");
	ok($node->wait_for_log(qr/127\.0\.0\.1 is out_of_band now \(was in_band\)/, $from), 'by the limit that the server has');
	set('rtt_limit', '10');
}
$client->leave;

# what is older than history_keep goes
my $old = q(INSERT INTO kasm_latency.history (taken_at, host) VALUES (now() - interval '100 days', 'old'));
sql($old);
snapshot_in('postgres');
until_true(q(SELECT count(*) = 0 FROM kasm_latency.history WHERE host = 'old'), 'history_keep');
set('history_keep', 0);
sql("TRUNCATE kasm_latency.history; $old");
snapshot_in('postgres');
until_true(q(SELECT count(*) > 0 FROM kasm_latency.history WHERE host <> 'old'), 'another snapshot');
is(sql(q(SELECT count(*) FROM kasm_latency.history WHERE host = 'old')), 1, 'history_keep = 0: for ever');

# ----- what keeps it from that is said once an hour, by cause

sub refused
{
	my ($database, $what, $pattern) = @_;
	my $since = log_end();
	snapshot_in($database);
	ok($node->wait_for_log($pattern, $since), "$what: said");
	snapshot_in($database) for 1 .. 3;
	is(lines($pattern, $since), 1, "$what: said once");
	is(lines(qr/exited with exit code/, $since), 0, "$what: and the server says nothing");
	return;
}
refused('nowhere', 'no such database', qr/LOG:  kasm_latency: no history: there is no database "nowhere"/);
sql('CREATE DATABASE other');
refused('other', 'no extension', qr/LOG:  kasm_latency: no history: extension kasm_latency is not in database "other"/);
# as an older version of it would be
$node->safe_psql('other', q(CREATE EXTENSION kasm_latency;
	ALTER EXTENSION kasm_latency DROP FUNCTION kasm_latency_internal.keep_history();
	DROP FUNCTION kasm_latency_internal.keep_history()));
refused('other', 'an older version',
	qr/LOG:  kasm_latency: no snapshot in database "other": function kasm_latency_internal.keep_history\(\) does not exist/);
$node->safe_psql('other', 'DROP EXTENSION kasm_latency; CREATE EXTENSION kasm_latency');
# as the name of a temporary file is, with the process in it
$node->safe_psql('other', q(CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RAISE EXCEPTION USING ERRCODE = ''disk_full'', MESSAGE = format(''no space for %s'', pg_backend_pid()); END';
	CREATE TRIGGER fail BEFORE INSERT ON kasm_latency.history FOR EACH STATEMENT EXECUTE FUNCTION fail()));
refused('other', 'worded anew each time', qr/LOG:  kasm_latency: no snapshot in database "other": no space for \d+/);
$node->safe_psql('other', 'DROP FUNCTION fail() CASCADE');
sql('ALTER DATABASE other ALLOW_CONNECTIONS false');
refused('other', 'closed', qr/LOG:  kasm_latency: no history: database "other" does not accept connections/);
sql('ALTER DATABASE other ALLOW_CONNECTIONS true');

# somebody has the table: one waits, not for ever, and no second meanwhile
$from = log_end();
my $locker = $node->background_psql('other');
$locker->query_safe('BEGIN; LOCK TABLE kasm_latency.history');
snapshot_in('other');
ok($node->wait_for_log(qr/LOG:  kasm_latency: no snapshot in database "other": canceling statement due to lock timeout/, $from),
	'a snapshot does not wait for ever');
# but here until a second was due, however long a slow machine takes to ask for one
$node->safe_psql('other', 'ALTER FUNCTION kasm_latency.snapshot() SET lock_timeout = 0');
snapshot_in('other');
until_true(q(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'kasm_latency history' AND wait_event_type = 'Lock'),
	'one waits for a lock');
set('history_database', 'postgres');
# said once an hour: a slow machine had cause to say it before
ok($node->wait_for_log(qr/LOG:  kasm_latency: no snapshot: the one before has not ended/), 'and there are never two: said');
is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kasm_latency history')), 1, 'and there are never two');
$locker->query_safe('COMMIT');
$locker->quit;
ok($node->poll_query_until('other', 'SELECT count(*) > 0 FROM kasm_latency.history'), 'then it goes on');

# ----- nobody who wants a database, or all of them, for himself waits

my $began = time();
my $longest = 0;
my $tablespace = abs_path($node->basedir) . '/tablespace';
mkdir $tablespace;
foreach my $i (1 .. 20)
{
	foreach my $statement ('CREATE DATABASE history', "CREATE TABLESPACE aside LOCATION '$tablespace'", 'CREATE DATABASE copy TEMPLATE history',
		'ALTER DATABASE copy RENAME TO renamed', 'DROP DATABASE renamed', 'DROP TABLESPACE aside', 'DROP DATABASE history')
	{
		my $since = time();
		sql($statement);
		$longest = time() - $since if time() - $since > $longest;
		next if $statement ne 'CREATE DATABASE history';
		$node->safe_psql('history', 'CREATE EXTENSION kasm_latency');
		# a snapshot in it begins, or is under way
		set('history_database', $i % 2 ? 'history' : 'postgres');
	}
}
# (none was refused, as the server does after 5 s: that is what counts where all is slow)
cmp_ok($longest, '<', $ENV{SLOW_SERVER} ? 15 : 5, sprintf('databases and tablespaces come and go twenty times: the longest in %.2f s', $longest));
set('history_database', q(''));

# ----- everything off and on by a reload

set('sample_locks', 0);
my $holder = RawClient->new(port => $node->port, user => 'app', database => 'postgres');
my $waiter = RawClient->new(port => $node->port, user => 'app', database => 'postgres');
$holder->exchange(1, RawClient::query('SELECT pg_advisory_lock(1)'));
$waiter->send_burst(RawClient::query('SELECT pg_advisory_lock(1)'));
until_true(q(SELECT count(*) = 1 FROM kasm_latency.blocking), 'somebody waits');
usleep(200_000);
is(sql('SELECT count(*) FROM kasm_latency.collateral'), 0, 'sample_locks = 0: not looked at');
set('sample_locks', q('10ms'));
until_true(q(SELECT count(*) = 1 FROM kasm_latency.collateral), 'on again: looked at');
set('enabled', 'off');
sql('SELECT kasm_latency.reset()');
usleep(200_000);
is(sql('SELECT count(*) FROM kasm_latency.collateral'), 0, 'enabled = off: not looked at');
set('enabled', 'on');
until_true(q(SELECT count(*) = 1 FROM kasm_latency.collateral), 'on again: looked at');
$holder->leave;
$waiter->leave;

# ----- a crash of the watcher is one of the server, which comes back

$pid = sql($watcher);
kill 'KILL', $pid;
ok($node->poll_query_until('postgres', "SELECT coalesce(watcher_pid <> $pid, false) FROM kasm_latency.info"),
	'kill -9: the server comes back, and the watcher');

# ----- stops under load

sql('CREATE TABLE fought_over AS SELECT 1 AS id, 0 AS n; GRANT ALL ON fought_over TO app');
my $script = abs_path($node->basedir) . '/fight.sql';
append_to_file($script, "BEGIN;\nUPDATE fought_over SET n = n + 1;\nEND;\n");
foreach my $mode (qw(fast immediate smart))
{
	my $load = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 8, '-T', 600, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>', \my $out, '2>', \my $err);
	until_true('SELECT count(*) > 0 FROM kasm_latency.collateral', "$mode: they fight");
	my $since = time();

	# a smart stop waits until the clients go by themselves
	my $goes = $mode eq 'smart' ? fork() // die "no fork: $!" : undef;
	if (defined $goes && $goes == 0)
	{
		usleep(500_000);
		$load->signal('KILL');
		POSIX::_exit(0);
	}
	$node->stop($mode);
	cmp_ok(time() - $since, '<', 20, "pg_ctl stop -m $mode under load");
	waitpid($goes, 0) if $goes;
	$load->kill_kill;
	$node->start;
	until_true('SELECT watcher_pid > 0 FROM kasm_latency.info', "$mode: the watcher is there again");
	sql('SELECT kasm_latency.reset()');
}

# ----- no room for it, or not for history (the replication launcher comes first): a
# line, and everything else works

$node->stop;
$from = log_end();
$node->append_conf('postgresql.conf', "max_worker_processes = 0\n");
$node->start;
is(lines(qr/LOG:  too many background workers/, $from) > 0, 1, 'no room: the server says so');
is(sql('SELECT watcher_pid IS NULL FROM kasm_latency.info'), 't', 'and so does info');
cmp_ok(sql('SELECT sum(round_trips) FROM kasm_latency.totals'), '>', 0, 'everything else works');
$node->stop;
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->start;
refused('postgres', 'no room for history', qr/LOG:  kasm_latency: no history: there is no room for a background worker/);
$node->stop;

unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing went wrong');
done_testing();
