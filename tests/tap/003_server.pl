# What concerns the whole server: loading, the save file, a crash, the log,
# names, address families, room for clients.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RawClient;

my $node = PostgreSQL::Test::Cluster->new('server');
$node->init;
$node->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1, ::1'");
$node->start;

# ----- not loaded: CREATE EXTENSION works, every reader says what is missing

$node->safe_psql('postgres', 'CREATE EXTENSION kasm_latency');
foreach my $read (
	(map { "TABLE kasm_latency.$_" } qw(clients hosts flagged connections totals info)),
	(map { "SELECT * FROM kasm_latency.$_" }
		"client_stats('5 min')", "host_stats('5 min')", "histogram('rtt')", 'reset()', "reset('10.0.0.1')"))
{
	my ($status, $out, $err) = $node->psql('postgres', $read);
	like($err, qr/ERROR:  kasm_latency must be loaded via shared_preload_libraries\n.*HINT:  Add the line "shared_preload_libraries = 'kasm_latency'" to postgresql.conf and restart the server\./s,
		"not loaded: $read");
}
is($node->safe_psql('postgres', 'SELECT kasm_latency.path_class(3)'), 'same region',
	'not loaded: arithmetic works');
$node->safe_psql('postgres', "SELECT kasm_latency.register_host('127.0.0.1', 'by four'), kasm_latency.register_host('::1', 'by six')");

# ----- loaded: one client by TCP over IPv4, IPv6 and a socket each

$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
kasm_latency.max_clients = 3
restart_after_crash = on
));
$node->restart;
like(slurp_file($node->logfile), qr/LOG:  kasm_latency: no saved statistics; starting empty/,
	'a first start says that it starts empty');

# the prefix of our settings is reserved, where PostgreSQL knows of that (15)
if ($node->safe_psql('postgres', 'SHOW server_version_num') >= 150000)
{
	my ($status, $out, $err) = $node->psql('postgres', 'SET kasm_latency.no_such_setting = 1');
	like($err, qr/invalid configuration parameter name "kasm_latency.no_such_setting"/,
		'a setting that is not ours is refused');
}

my $port = $node->port;
sub by
{
	my ($host, $user, @commands) = @_;
	my @words = map { ('-c', $_) } @commands;
	return run_log([ 'psql', '-XqAt', '-d', "host=$host port=$port user=$user dbname=postgres", @words ],
		'>', \my $out);
}
sub settled
{
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 1 FROM kasm_latency.connections)) or die 'a connection stays';
	return;
}

$node->safe_psql('postgres', 'CREATE ROLE one LOGIN; CREATE ROLE two LOGIN; CREATE ROLE three LOGIN; CREATE ROLE four LOGIN');
my $floor = RawClient::has_floor('floors by IPv4 and IPv6, far clients in the log',
	port => $port, user => 'one', database => 'postgres');
settled();
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
by($_, 'one', ('BEGIN', ('SELECT 1') x 7, 'COMMIT') x 3) for '127.0.0.1', '::1';
settled();
is( $node->safe_psql('postgres', q(
		SELECT host, client_addr, round_trips, transactions, connections, verdict IN ('in_band', 'slow_turnaround')
		FROM kasm_latency.clients WHERE username = 'one' ORDER BY host)),
	"by four|127.0.0.1|27|3|1|t\nby six|::1|27|3|1|t",
	'IPv4 and IPv6 clients, by their registered names');
SKIP:
{
	skip 'there is no floor', 1 unless $floor;
	is( $node->safe_psql('postgres', q(
			SELECT host, rtt_ms > 0 AND rtt_ms < 5, turnaround_min_ms >= rtt_ms, path
			FROM kasm_latency.clients WHERE username = 'one' ORDER BY host)),
		"by four|t|t|same zone\nby six|t|t|same zone", 'and how far they are');
}
is( $node->safe_psql('postgres', q(
		SELECT host, client_addr, rtt_ms, path, verdict FROM kasm_latency.clients WHERE client_addr IS NULL)),
	'[local]||||floor_only', 'a client by Unix-domain socket has no address and no round trip');

# ----- saved and read back, without loss

my $sum = q(SELECT host, username, round_trips, transactions, connections_total, stats_since
	FROM kasm_latency.totals WHERE username = 'one' ORDER BY 1);
my $before = $node->safe_psql('postgres', $sum);
my $recent = q(SELECT host, round_trips, turnaround_min_ms, turnaround_p50_ms, rtt_ms, verdict
	FROM kasm_latency.clients WHERE username = 'one' ORDER BY 1);
my $recent_before = $node->safe_psql('postgres', $recent);
$node->restart;
is($node->safe_psql('postgres', $sum), $before, 'totals survive a restart');
is($node->safe_psql('postgres', $recent), $recent_before, 'recent figures survive a restart');
is($node->safe_psql('postgres', 'SELECT saved_at IS NOT NULL FROM kasm_latency.info'), 't', 'saved_at says so');
ok(!-e $node->data_dir . '/pg_stat/kasm_latency.stat', 'the file is gone once it was read');

# a file that is not ours, or not whole: a warning, and an empty start
foreach my $damage ('cut', 'flipped', 'another', 'longer')
{
	$node->stop;
	my $file = $node->data_dir . '/pg_stat/kasm_latency.stat';
	my $bytes = slurp_file($file);
	$bytes = substr($bytes, 0, length($bytes) / 2) if $damage eq 'cut';
	substr($bytes, 1000, 1) ^= "\x10" if $damage eq 'flipped';
	substr($bytes, 0, 1) ^= "\x10" if $damage eq 'another';
	$bytes .= 'x' if $damage eq 'longer';
	open my $out, '>:raw', $file or die $!;
	print $out $bytes;
	close $out;
	my $at = -s $node->logfile;
	$node->start;
	like(substr(slurp_file($node->logfile), $at), qr/WARNING:  kasm_latency: ignoring file "pg_stat\/kasm_latency.stat": it/,
		"a $damage file is ignored with a warning");
	is($node->safe_psql('postgres', "SELECT count(*) FROM kasm_latency.totals WHERE username = 'one'"),
		'0', 'and the start is empty');
	by('127.0.0.1', 'one', 'SELECT 1');
}

# after an immediate shutdown nothing is to be trusted that was not folded
by('127.0.0.1', 'one', 'SELECT 1');
my $open = $node->background_psql('postgres');
$open->query_safe('SELECT 1');
$node->stop('immediate');
ok(!-e $node->data_dir . '/pg_stat/kasm_latency.stat', 'an immediate shutdown saves nothing');
eval { $open->quit };
$node->start;
is($node->safe_psql('postgres', "SELECT count(*) FROM kasm_latency.totals WHERE username = 'one'"),
	'0', 'and the start is empty');

# not saved, and so not read
$node->append_conf('postgresql.conf', 'kasm_latency.save = off');
$node->restart;
is($node->safe_psql('postgres', "SELECT count(*) FROM kasm_latency.totals WHERE username = 'one'"),
	'0', 'save = off: nothing is kept');
$node->append_conf('postgresql.conf', 'kasm_latency.save = on');
$node->reload;

# ----- a crash: empty, with a new stats_since, and the log says so

by('127.0.0.1', 'one', 'SELECT 1');
my $at = -s $node->logfile;
my $since = $node->safe_psql('postgres', 'SELECT stats_reset FROM kasm_latency.info');
my $crash = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $crash->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $pid;
$node->poll_query_until('postgres',
	"SELECT stats_reset > '$since' FROM kasm_latency.info") or die 'no restart';
is($node->safe_psql('postgres', "SELECT count(*) FROM kasm_latency.totals WHERE username = 'one'"),
	'0', 'after a crash it starts empty');
like(substr(slurp_file($node->logfile), $at), qr/no saved statistics; starting empty/, 'and says so');
eval { $crash->quit };

# ----- room for three: the one unseen for longest makes room, and is summed

$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
foreach my $user (qw(one two three four))
{
	by('127.0.0.1', $user, 'SELECT 1', 'SELECT 2');
	settled();
}
# the observer is a client too, and here all the time
is( $node->safe_psql('postgres', q(SELECT host, username, round_trips, connections_total
		FROM kasm_latency.totals WHERE username IS DISTINCT FROM current_user ORDER BY username NULLS FIRST)),
	"(overflow)||4|2\nby four|four|2|1\nby four|three|2|1", 'the oldest two made room, and are summed');
is($node->safe_psql('postgres', 'SELECT clients, max_clients, overflowed FROM kasm_latency.info'),
	'3|3|2', 'info counts them');

# all pinned: the newcomer is accounted as overflow
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
my @sessions = map { $node->background_psql('postgres', extra_params => [ '-U', $_ ]) } qw(one two three);
my $overflow = q(SELECT round_trips FROM kasm_latency.totals WHERE host = '(overflow)');
my $overflow_before = $node->safe_psql('postgres', "SELECT coalesce(max(round_trips), 0) FROM ($overflow) AS o");
$_->query_safe('SELECT 1') for @sessions;
my $over = $node->safe_psql('postgres', $overflow);
ok($over > 0, 'who finds no room is accounted as overflow');
ok($node->safe_psql('postgres', $overflow) >= $over, 'and goes on to be');
$_->quit for @sessions;

# ----- the log line: once per address and hour

$node->append_conf('postgresql.conf', "kasm_latency.rtt_limit = '1us'\nlog_hostname = on\nkasm_latency.max_clients = 20");
$node->restart;
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
$at = -s $node->logfile;
by('127.0.0.1', $_, 'SELECT 1') for qw(one two one);
by('::1', 'one', 'SELECT 1');
$node->append_conf('postgresql.conf', 'kasm_latency.log_far_clients = off');
$node->reload;
settled();
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
by('127.0.0.1', 'four', 'SELECT 1');
# a session's own limit is its own affair
$node->append_conf('postgresql.conf', "kasm_latency.rtt_limit = '1min'\nkasm_latency.log_far_clients = on");
$node->reload;
run_log([ 'psql', '-XqAt', '-d', "host=127.0.0.1 port=$port user=four dbname=postgres options='-c kasm_latency.rtt_limit=0.001'", '-c', 'SELECT 1' ]);
my @lines = substr(slurp_file($node->logfile), $at) =~ /LOG:  (kasm_latency: client .*)/g;
SKIP:
{
	skip 'there is no floor', 2 unless $floor;
	is(scalar @lines, 2, 'one line per address');
	like($lines[0], qr/^kasm_latency: client 127\.0\.0\.1 \(\S+\) is \d\.\d\d ms away; the limit is 0\.001 ms$/,
		'a far client is logged with the name that was resolved');
}
settled();
$node->safe_psql('postgres', "SELECT kasm_latency.forget_host('127.0.0.1')");
is( $node->safe_psql('postgres', q(SELECT count(*) FROM kasm_latency.clients
		WHERE client_addr = '127.0.0.1' AND host <> '127.0.0.1' AND host <> '[local]')),
	'1', 'a name that the server resolved names the host');
my $resolved = $node->safe_psql('postgres', q(SELECT DISTINCT host FROM kasm_latency.clients WHERE client_addr = '127.0.0.1'));
$node->safe_psql('postgres', "SELECT kasm_latency.register_host('192.0.2.1', upper('$resolved'))");
is( $node->safe_psql('postgres', q(SELECT DISTINCT host FROM kasm_latency.clients WHERE client_addr = '127.0.0.1')),
	'127.0.0.1', 'but not where another host is registered by that name');
$node->safe_psql('postgres', "SELECT kasm_latency.forget_host('192.0.2.1')");

# ----- a client whose role is no more is judged by nobody, and hides nobody

$node->safe_psql('postgres', 'SELECT kasm_latency.reset(); CREATE ROLE gone LOGIN');
by('127.0.0.1', 'one', 'SELECT 1');
by('127.0.0.1', 'gone', 'BEGIN', ('SELECT 1') x 30, 'COMMIT');
settled();
$node->safe_psql('postgres', 'DROP ROLE gone');
is( $node->safe_psql('postgres', q(
		SET kasm_latency.app_roles = 'one';
		SELECT verdict FROM kasm_latency.hosts WHERE client_addrs = '{127.0.0.1}')),
	$floor ? 'floor_only' : 'no_data', 'the verdict is that of the client that is judged');

# ----- forgetting: by name, which is all addresses of a host, or by address

$node->safe_psql('postgres', "SELECT kasm_latency.reset(), kasm_latency.register_host('127.0.0.1', 'both'), kasm_latency.register_host('::1', 'both')");
sub trips
{
	return $node->safe_psql('postgres', q(SELECT client_addr, round_trips FROM kasm_latency.totals WHERE username = 'one' ORDER BY 1));
}
sub come
{
	by($_, 'one', 'SELECT 1') for '127.0.0.1', '::1', $node->host;
	settled();
	return;
}
come();
is(trips(), "127.0.0.1|1\n::1|1\n|1", 'three ways');
$node->safe_psql('postgres', q(SELECT kasm_latency.reset('::ffff:127.0.0.1')));
is(trips(), "::1|1\n|1", 'an address is forgotten alone, in whatever form it is given');
come();
$node->safe_psql('postgres', q(SELECT kasm_latency.reset('both')));
is(trips(), '|2', 'a name is forgotten with all its addresses');
come();
$node->safe_psql('postgres', q(SELECT kasm_latency.reset('[local]')));
is(trips(), "127.0.0.1|1\n::1|1", 'and so are the clients by Unix-domain socket');

# ----- Kasm's tables locked by somebody: a view neither waits for them nor asks

$node->safe_psql('postgres', q(
	CREATE TABLE managers (manager_hostname text, zone_id int);
	CREATE TABLE zones (zone_id int, zone_name text);
	INSERT INTO managers VALUES ('Both', 1);
	INSERT INTO zones VALUES (1, 'default')));
is($node->safe_psql('postgres', 'SELECT kasm_latency.import_kasm_hosts()'), '1', q(Kasm's tables are copied));
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN');
$holder->query_safe('LOCK TABLE zones');
is($node->safe_psql('postgres', "SET lock_timeout = '1s'; SELECT zone FROM kasm_latency.hosts WHERE host = 'both'"),
	'default', 'locked, they are still known');
$holder->quit;

# ----- many connections: the server starts, and the memory is what is said

$node->append_conf('postgresql.conf', 'max_connections = 5000');
$node->restart;
is( $node->safe_psql('postgres', q(
		SELECT shared_memory_bytes = (SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name LIKE 'kasm_latency%'),
		       shared_memory_bytes - 5000 * 9344 - (max_clients + 1) * 171336 - 512 * 872 BETWEEN 0 AND 8192
		FROM kasm_latency.info)),
	't|t', 'max_connections = 5000 starts, with the memory that the reference says');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'nothing went wrong');
done_testing();
