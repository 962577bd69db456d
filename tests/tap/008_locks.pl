# Who made whom wait for a lock, and for how long: every kind of wait at once,
# between clients from addresses of their own, against what they measured.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Select;
use Time::HiRes qw(time);

use FindBin;
use lib "$FindBin::RealBin/../lib";
use RawClient;

my $node = PostgreSQL::Test::Cluster->new('locks');
$node->init;
$node->append_conf('postgresql.conf', qq(
listen_addresses = '127.0.0.1'
shared_preload_libraries = 'kasm_latency'
kasm_latency.sample_locks = 20ms
max_prepared_transactions = 2
deadlock_timeout = 1s
));
$node->append_conf('pg_hba.conf', 'host all all 127.0.0.0/8 trust');
$node->start;
$node->safe_psql('postgres', q(
	CREATE EXTENSION kasm_latency;
	CREATE ROLE app LOGIN;
	CREATE TABLE rows (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
	INSERT INTO rows SELECT generate_series(1, 20);
	GRANT ALL ON rows TO app;
	SELECT kasm_latency.reset()));

is($node->safe_psql('postgres', q(SELECT a.backend_type, a.datid FROM pg_stat_activity AS a, kasm_latency.info AS i
	WHERE a.pid = i.watcher_pid)), 'kasm_latency watcher|', 'info has the watcher, which has no database');

# a client from an address of its own, by whose last part it is called here
sub client
{
	my ($n) = @_;
	return RawClient->new(port => $node->port, user => 'app', database => 'postgres', from => "127.0.0.$n");
}
sub holds
{
	my ($n, @sql) = @_;
	my $client = client($n);
	$client->exchange(1, RawClient::query($_)) foreach 'BEGIN', @sql;
	return $client;
}

my @waiters;
sub waits
{
	my ($n, $sql) = @_;
	my $client = client($n);
	$client->exchange(1, RawClient::query('BEGIN'));
	push @waiters, { n => $n, client => $client };
	$client->send_burst(RawClient::query($sql));
	return $client;
}
sub row { return "UPDATE rows SET n = n + 1 WHERE id = $_[0]" }

# one blocks one
my $idle = holds(3, row(1));
waits(2, row(1));
# two block one
my $left = holds(4, 'SELECT pg_advisory_xact_lock_shared(7)');
my $right = holds(5, 'SELECT pg_advisory_xact_lock_shared(7)');
waits(6, 'SELECT pg_advisory_xact_lock(7)');
# an advisory lock, held outside of a transaction
my $advisory = client(13);
$advisory->exchange(1, RawClient::query('SELECT pg_advisory_lock(42)'));
waits(14, 'SELECT pg_advisory_xact_lock(42)');
# a prepared transaction
my $prepared = holds(18, row(6), q(PREPARE TRANSACTION 'held'));
waits(15, row(6));
# one that is at work itself
my $busy = holds(16, row(7));
$busy->send_burst(RawClient::query('SELECT pg_sleep(60)'));
waits(17, row(7));
# one connection of a client for another of the same
my $self = holds(19, row(8));
waits(19, row(8));
# a queue: the second waits for the first, that for the root; when the root is
# gone, they wait for each other
my $root = holds(7, row(3));
my %in_queue;
foreach my $n (8, 9, 10)
{
	waits($n, row(3));
	$node->poll_query_until('postgres', q(SELECT count(*) = ) . ($n - 7) . qq( FROM pg_stat_activity
		WHERE wait_event_type = 'Lock' AND query = '@{[row(3)]}')) or die 'no queue';
	$in_queue{$n} = time;
}
# a deadlock
my $one = holds(11, row(4));
my $other = holds(12, row(5));
push @waiters, { n => 11, client => $one };
$one->send_burst(RawClient::query(row(5)));
push @waiters, { n => 12, client => $other };
$other->send_burst(RawClient::query(row(4)));

$node->poll_query_until('postgres', q(SELECT waited_s >= 2 FROM kasm_latency.collateral
	WHERE blocking_host = '127.0.0.3')) or die 'nothing is seen';

# everybody gets his lock, one after the other
my %part;
$part{"127.0.0.7>$_"} = time - $in_queue{$_} foreach keys %in_queue;
$_->exchange(1, RawClient::query('COMMIT')) foreach $root, $idle, $left, $right, $self;
$advisory->exchange(1, RawClient::query('SELECT pg_advisory_unlock(42)'));
$prepared->exchange(1, RawClient::query(q(ROLLBACK PREPARED 'held')));
$node->safe_psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'));
$busy->read_until('Z');
$busy->exchange(1, RawClient::query('ROLLBACK'));
my $select = IO::Select->new(map { $_->{client}{sock} } @waiters);
while ($select->count)
{
	my @ready = $select->can_read(20) or die 'somebody waits for ever';
	foreach my $waiter (grep { my $sock = $_->{client}{sock}; grep { $_ == $sock } @ready } @waiters)
	{
		$waiter->{client}->read_until('Z');
		$waiter->{client}->exchange(1, RawClient::query('COMMIT'));
		$select->remove($waiter->{client}{sock});
	}
}
$_->leave foreach $idle, $left, $right, $root, $self, $advisory, $prepared, $busy, map { $_->{client} } @waiters;
$node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM kasm_latency.connections)) or die 'somebody stays';

# The truth: who waits has a query that takes as long, which is exact, and others
# that take next to nothing.  The busy one slept.
# (Where every query is slow, a second or two more.)
my $slack = $ENV{SLOW_SERVER} ? 3 : 0.05;
sub last_parts { return map { split /\|/, $_, 2 } split /\n/, $node->safe_psql('postgres', $_[0]) }
my %truth = last_parts(q(SELECT split_part(host(client_addr), '.', 4), server_s FROM kasm_latency.totals
	WHERE username = 'app' AND client_addr <> '127.0.0.16'));
my %said = last_parts(q(SELECT split_part(host(client_addr), '.', 4), lock_wait_s FROM kasm_latency.totals WHERE username = 'app'));
foreach my $n (map { $_->{n} } @waiters)
{
	cmp_ok(abs($said{$n} - $truth{$n}), '<=', 0.1 * $truth{$n} + $slack, "client $n waited $truth{$n} s for locks: $said{$n}");
}
is(join(' ', grep { !$said{$_} } sort { $a <=> $b } keys %said), '3 4 5 7 13 16 18', 'nobody else waited');

# for whom: each share of what its client waited
my %pair = last_parts(q(SELECT blocking_host || '>' || split_part(waiting_host, '.', 4), waited_s FROM kasm_latency.collateral));
my %share = ('127.0.0.3>2' => 1, '127.0.0.4>6' => 0.5, '127.0.0.5>6' => 0.5, '127.0.0.13>14' => 1,
	'(prepared transaction)>15' => 1, '127.0.0.16>17' => 1, '127.0.0.12>11' => 1, '127.0.0.11>12' => 1);
foreach my $pair (keys %share)
{
	my ($waiting) = $pair =~ />(\d+)/;
	$part{$pair} = $share{$pair} * $truth{$waiting};
}
foreach my $pair (sort keys %part)
{
	my $least = $part{$pair} * 0.9 - $slack;
	cmp_ok($pair{$pair} // 0, '>=', $least, "$pair: at least $least s");
}
is( $node->safe_psql('postgres', q(
		SELECT abs(sum(p.waited_s) - (SELECT sum(t.lock_wait_s) FROM kasm_latency.totals AS t)) < 0.01
		FROM kasm_latency.collateral AS p)),
	't', 'pairs add up to what was waited');
is( $node->safe_psql('postgres', q(
		SELECT string_agg(split_part(blocking_host, '.', 4), ' ' ORDER BY blocking_host) FROM kasm_latency.collateral
		WHERE waited_for_client_s < 0.9 * waited_s AND waited_s > 0.5)),
	' 11 12 16', 'all blockers waited for their clients, but the prepared, the deadlocked and the busy one');
is( $node->safe_psql('postgres', q(
		SELECT count(*) FROM kasm_latency.collateral WHERE waited_for_client_s > waited_s)), 0, 'a part is no more than the whole');

# the same by the blockers' own counters; who keeps himself waiting makes no others wait
is( $node->safe_psql('postgres', q(
		SELECT string_agg(split_part(host(t.client_addr), '.', 4), ' ' ORDER BY t.client_addr) FROM kasm_latency.totals AS t
		LEFT JOIN (SELECT blocking_host, sum(waited_s) AS waited_s, sum(waited_for_client_s) AS waited_for_client_s
		           FROM kasm_latency.collateral WHERE waiting_host <> blocking_host GROUP BY blocking_host) AS p
			ON p.blocking_host = host(t.client_addr)
		WHERE abs(t.made_others_wait_s - coalesce(p.waited_s, 0)) > 0.01
		   OR abs(t.made_others_wait_for_client_s - coalesce(p.waited_for_client_s, 0)) > 0.01)),
	'', 'made_others_wait_s is the sum of its pairs');
is($node->safe_psql('postgres', q(SELECT waiting_host FROM kasm_latency.collateral WHERE blocking_host = '127.0.0.19')),
	'127.0.0.19', 'a client that waits for itself');
is( $node->safe_psql('postgres', q(
		SELECT i.lock_wait_s = round(t.lock_wait_s::numeric, 3), i.made_others_wait_s
		FROM kasm_latency.impact AS i JOIN kasm_latency.totals AS t ON host(t.client_addr) = i.host WHERE i.host = '127.0.0.19')),
	't|0', 'impact has the same');
my $floor = RawClient::has_floor('how far they are who held locks',
	port => $node->port, user => 'app', database => 'postgres', from => '127.0.0.3');
my $away = $floor ? ', 0\.\d+ ms away' : '';
like($node->safe_psql('postgres', q(SELECT conclusion FROM kasm_latency.diagnose('127.0.0.2'))),
	qr/^lock-bound: .* waits for locks \d+ % \(100 % of it held by 127\.0\.0\.3$away\)/, 'diagnose says who held it');

# the page and the summary say so too; of a host that is far, and here everybody is
my $distance = $floor ? '\S+ ms' : '&ndash;';
like($node->safe_psql('postgres', 'SELECT kasm_latency.report()'),
	qr{Who made whom wait.*<tr><th scope="row">127\.0\.0\.3<td>[a-z ]+<td>$distance<td class="words">127\.0\.0\.2<td>\d+\.\d s<td>\d+\.\d s</tr>},
	'the report has who made whom wait');
like($node->safe_psql('postgres', q(SELECT kasm_latency.report())),
	qr{<tr><th scope="row">127\.0\.0\.19<td>[a-z ]+<td>$distance<td class="words">itself<td>}, 'itself too');
SKIP:
{
	skip 'without a floor nobody is far', 1 unless $floor;
	like($node->safe_psql('postgres', q(SET kasm_latency.rtt_limit = 0.001; SELECT kasm_latency.summary())),
		qr/; (it|127\.0\.0\.\d+) made others wait [1-9]\d*\.\d s for its locks/, 'so does the summary, of a far host');
}

# a clean restart keeps the pairs, and reset forgets them: of one host, of all
my $pairs = q(SELECT count(*), sum(waited_s) FROM kasm_latency.collateral);
my $before = $node->safe_psql('postgres', $pairs);
$node->restart;
is($node->safe_psql('postgres', $pairs), $before, 'pairs survive a restart');
$node->safe_psql('postgres', q(SELECT kasm_latency.reset('127.0.0.7')));
is($node->safe_psql('postgres', q(SELECT count(*) FROM kasm_latency.collateral WHERE '127.0.0.7' IN (blocking_host, waiting_host))),
	0, 'reset of a host');
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
is($node->safe_psql('postgres', $pairs), '0|', 'reset of all');
unlike($node->safe_psql('postgres', 'SELECT kasm_latency.report()'), qr/Who made whom wait/, 'nobody waited: no part of the report');
unlike($node->safe_psql('postgres', q(SET kasm_latency.rtt_limit = 0.001; SELECT kasm_latency.summary())), qr/made others/, 'nor of the summary');

done_testing();
