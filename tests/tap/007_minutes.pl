# What depends on minutes, on clocks and on how a connection ends.  The minutes
# pass in seconds: the server's clocks are made to run faster by libfaketime.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use RawClient;

# (which is for glibc, and so of no use to a server with another library)
our ($faketime) = glob '/usr/lib/*/faketime/libfaketime.so.1';
if ($faketime)
{
	local $ENV{LD_PRELOAD} = $faketime;
	my ($out, $err) = run_command([ 'postgres', '-V' ]);
	undef $faketime unless $out =~ /PostgreSQL/ && !$err;
}
# how fast; slower, where a reading of the clocks takes long
my $speed = $ENV{FAKETIME_SPEED} // 40;
my $new = 0;
my $floor;

# a server of its own; with a time, its clocks are faked
sub server
{
	my ($conf, $time) = @_;
	my $node = PostgreSQL::Test::Cluster->new('minutes' . ++$new);
	$node->init;
	$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
listen_addresses = '127.0.0.1'
autovacuum = off
$conf
));
	start($node, $time);
	$node->safe_psql('postgres', 'CREATE EXTENSION kasm_latency; CREATE ROLE probe LOGIN; CREATE ROLE other LOGIN; CREATE ROLE third LOGIN');
	return $node;
}

sub start
{
	my ($node, $time) = @_;
	local $ENV{LD_PRELOAD} = $time ? $faketime : '';
	local $ENV{FAKETIME} = $time // '';
	# all of its clocks: on arm64 Debian's library leaves the monotonic ones alone else
	local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 0;
	$node->start;
	return;
}

sub client
{
	my ($node, $user) = @_;
	return RawClient->new(port => $node->port, user => $user // 'probe', database => 'postgres');
}

sub query { my ($c, @sql) = @_; $c->exchange(1, RawClient::query($_)) for @sql; return }

sub gone
{
	my ($node) = @_;
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 0 FROM kasm_latency.connections WHERE username IN ('probe', 'other')))
	  or die 'the connection stays';
	return;
}

sub figure
{
	my ($node, $what, $span) = @_;
	$span = $span ? "'$span'" : 'NULL';
	return $node->safe_psql('postgres',
		"SELECT $what FROM kasm_latency_internal.client_figures($span) WHERE role_oid = 'probe'::regrole");
}

# Build a library of tests/lib; undefined where there is no compiler, or nothing
# to compile with.
sub build
{
	my ($name, $lacks, @flags) = @_;
	my $library = abs_path(PostgreSQL::Test::Utils::tempdir()) . "/$name.so"; # the server is elsewhere
	my ($cc) = run_command([ 'pg_config', '--cc' ]);
	my $command = "$cc @flags -fPIC -shared -o '$library' '$FindBin::RealBin/../lib/$name.c'";
	my ($out, $err) = run_command([ 'sh', '-c', $command ]);
	return $library if -e $library;
	note("$command: $err");
	diag("NOT RUN: $lacks: tests/lib/$name.c cannot be built");
	return;
}

# one that has functions for this server
sub build_module
{
	my ($includes, @flags) = map { (run_command([ 'pg_config', $_ ]))[0] } qw(--includedir-server --cppflags --cflags --cflags_sl);
	return build(@_, @flags, "-I'$includes'");
}

# ----- a wait for the client that ends the connection, with a transaction open

{
	# on a slow machine a client that waits for another is not idle yet
	my $node = server('kasm_latency.idle_after = 1min');
	my %ends = (
		'the server gives up' => sub { $_[0]->read_until('$') },
		'terminated' => sub {
			usleep(400_000);
			$node->safe_psql('postgres',
				q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'probe'));
			$_[0]->read_until('$');
		},
		'the client vanishes' => sub { usleep(400_000); close $_[0]->{sock} },
		'the client says farewell' => sub { usleep(400_000); $_[0]->leave });
	for my $end (sort keys %ends)
	{
		$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
		$node->safe_psql('postgres', 'ALTER ROLE probe SET idle_in_transaction_session_timeout = '
			  . ($end eq 'the server gives up' ? '400' : '0'));
		my $c = client($node);
		query($c, 'BEGIN', 'SELECT 1');
		$ends{$end}->($c);
		gone($node);
		is( figure($node, q(round_trips, in_transaction_wait_s BETWEEN 0.39 AND 20, chain_s < 0.39,
				kasm_latency_internal.count_from(bounds, 0), kasm_latency_internal.count_from(chain_lengths, 0))),
			'2|t|t|1|1', "$end: the wait counts, so do block and chain");
	}

	# not the time of a query that was at work when the connection ended
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$node->safe_psql('postgres', 'ALTER ROLE probe RESET idle_in_transaction_session_timeout');
	my $c = client($node);
	query($c, 'BEGIN', 'SELECT 1');
	$c->send_burst(RawClient::query('SELECT pg_sleep(60)'));
	$node->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'));
	usleep(400_000);
	$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'probe'));
	$c->read_until('$');
	gone($node);
	is(figure($node, 'round_trips, in_transaction_wait_s < 0.39'), '3|t', 'terminated at work: that was no wait');

	# COPY data has no stamp: nobody knows which of it was waited for
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$node->safe_psql('postgres', 'CREATE TABLE item (id int); GRANT ALL ON item TO probe');
	$c = client($node);
	$c->send_burst(RawClient::query('COPY item FROM STDIN'));
	$c->read_until('G');
	for (1 .. 5) { $c->send_burst(RawClient::copy_data("1\n")); usleep(100_000); }
	$node->safe_psql('postgres', q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'probe'));
	$c->send_burst(RawClient::copy_data("1\n"));
	$c->read_until('$');
	gone($node);
	is(figure($node, 'round_trips, in_transaction_wait_s'), '2|0', 'COPY that is cut off: the data counts, and was no wait');

	# a reset in the middle of a block: what was before counts no more
	$c = client($node);
	query($c, 'BEGIN', ('SELECT 1') x 20);
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	is($node->safe_psql('postgres', q(SELECT turnaround_min_ms IS NULL FROM kasm_latency.connections WHERE username = 'probe')),
		't', 'reset: no turnaround');
	usleep(30_000);
	query($c, 'SELECT 1', 'COMMIT');
	is( figure($node, q(round_trips, chain_round_trips, kasm_latency_internal.count_from(bounds, 0),
			kasm_latency_internal.count_from(ceilings, 0))),
		'2|2|1|2', 'and then what came after it: exchanges, of a chain, in a block, ceilings');
	$c->leave;
	$node->stop;
}

# ----- the save file waits until the server is there

{
	my $node = server('');
	query(client($node), 'SELECT 1');
	$node->stop;
	my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
	append_to_file($node->data_dir . '/pg_hba.conf', "what is this\n");
	ok(!$node->start(fail_ok => 1), 'a typo in pg_hba.conf: the server does not start');
	unlink $node->data_dir . '/pg_hba.conf';
	append_to_file($node->data_dir . '/pg_hba.conf', $hba);
	start($node);
	is(figure($node, 'round_trips'), '1', 'mended, it has its statistics still');
	ok(!-e $node->data_dir . '/pg_stat/kasm_latency.stat', 'and the file is gone, as a client is there');
	$node->stop;
}

# ----- the limit is the server's: neither a session's, nor the file's where the command line says otherwise

{
	my $node = server('kasm_latency.rtt_limit = 1min');
	$node->stop;
	system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile,
		'-o', '-c kasm_latency.rtt_limit=0.001', 'start');
	$node->_update_pid(1) if $node->can('_update_pid');
	my $loaded = $node->safe_psql('postgres', 'SELECT pg_conf_load_time()');
	my $at = -s $node->logfile;
	$node->append_conf('postgresql.conf', 'kasm_latency.rtt_limit = 30s');
	$node->reload;
	$node->poll_query_until('postgres', "SELECT pg_conf_load_time() > '$loaded'");
	is($node->safe_psql('postgres', 'SHOW kasm_latency.rtt_limit'), '1us',
		'the command line is stronger than the file, also after a reload');
	query(client($node), 'SELECT 1');
	$floor = RawClient::has_floor('clients logged by the limit of the command line, a floor that comes late',
		port => $node->port, user => 'probe', database => 'postgres');
	gone($node);
	my $log = substr(slurp_file($node->logfile), $at);
  SKIP:
	{
		skip 'there is no floor', 1 unless $floor;
		like($log, qr/client 127\.0\.0\.1.* is \S+ ms away; the limit is 0\.001 ms/, 'and new connections are logged by it');
	}
	unlike($log, qr/contains errors/, 'the file was taken');
	system_or_bail('pg_ctl', '-w', '-D', $node->data_dir, '-m', 'fast', 'stop');
	$node->_update_pid(0) if $node->can('_update_pid');
}

SKIP:
{
	skip 'there is no libfaketime for this server', 10 unless $faketime;

	# ----- an exchange that a Flush ends belongs to the minute in which it ends

	my $node = server('kasm_latency.max_clients = 2', "+0 x$speed");
	my $minute = q(SELECT floor(extract(epoch FROM clock_timestamp()) / 60));
	my $c = client($node);
	query($c, 'SELECT 1');
	my $began = $node->safe_psql('postgres', $minute);
	$node->poll_query_until('postgres', "$minute >= $began + 3");
	$c->send_burst(RawClient::parse('s', 'SELECT 1'), RawClient::describe('S', 's'), RawClient::flush());
	$c->read_until('T');
	$c->exchange(1, RawClient::bind_portal('', 's'), RawClient::execute(''), RawClient::sync());
	is(figure($node, 'round_trips', '1 minute'), '2', 'Parse, Flush; Execute, Sync after a pause: both are recent');
	is(figure($node, 'round_trips'), '3', 'and all are counted');

	# ----- a wait that ends the connection is of now, not of when it began

	$c->leave;
	gone($node);
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$c = client($node);
	query($c, 'BEGIN', 'SELECT 1');
	$began = $node->safe_psql('postgres', $minute);
	$node->poll_query_until('postgres', "$minute >= $began + 4");
	$c->leave;
	gone($node);
	is(figure($node, 'in_transaction_wait_s > 180', '1 minute') . '|' . figure($node, 'chains', '1 minute'), 't|0',
		'idle in transaction for minutes, then gone: the wait is recent, the chain is not');

	# ----- requests without a stamp, minutes apart, are no chains of nothing

	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$c = client($node);
	query($c, 'SELECT 1');
	for (1 .. 2)
	{
		$began = $node->safe_psql('postgres', $minute);
		$node->poll_query_until('postgres', "$minute >= $began + 2");
		$c->exchange(1, RawClient::sync());
	}
	$c->leave;
	gone($node);
	is(figure($node, q(kasm_latency_internal.count_from(chain_lengths, 0), kasm_latency_internal.percentile_whole(chain_lengths, 0.01))),
		'3|1', 'a Sync now and then: a chain each, of one exchange');

	# ----- always a byte ahead, as a pipeline that streams: counted once a minute

	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	$c = client($node);
	my $message = RawClient::query('SELECT 1');
	my ($first, $rest) = (substr($message, 0, 1), substr($message, 1));
	$c->send_burst($first);
	my $answered = 0;
	$began = $node->safe_psql('postgres', $minute);
	do { $c->exchange(1, $rest, $first) for 1 .. 100; $answered += 100 }
	  while $node->safe_psql('postgres', $minute) < $began + 2;
	my $times = figure($node, 'round_trips', '1 minute');
	ok($times >= 1 && $times < $answered / 10, "a byte ahead for two minutes: $answered answers, $times exchanges, and recent");
	$c->exchange(1, $rest);
	$c->leave;
	gone($node);
	$c = client($node);
	query($c, 'SELECT 1');

	# ----- no room: one that found none gets an entry when there is

	# the other entry is another's; whoever looks has none of his own either
	my $third = client($node, 'third');
	query($third, 'SELECT 1');
	my $late = client($node, 'other');
	query($late, 'SELECT 1');
	my $overflow = q(SELECT connections BETWEEN 1 AND 2, round_trips > 0 FROM kasm_latency_internal.client_figures('1 minute') WHERE overflow);
	is($node->safe_psql('postgres', $overflow), 't|t', 'who finds no room is in the overflow');
	like($node->safe_psql('postgres', 'SELECT kasm_latency.assert_in_band()'),
		qr/; not looked at: \d connections?, for which kasm_latency\.max_clients left no room$/,
		'and the check says that it was not looked at');
	$c->leave;
	my $own = q(SELECT count(*) FROM kasm_latency_internal.client_figures('1 hour') WHERE role_oid = 'other'::regrole);
	for (1 .. 600)
	{
		query($late, 'SELECT 1');
		last if $node->safe_psql('postgres', $own);
		usleep(100_000);
	}
	is($node->safe_psql('postgres', $own), '1', 'there is room: it gets an entry of its own, at the end of a minute');
	my $trips = $own =~ s/count\(\*\)/sum(round_trips)/r;
	my $before = $node->safe_psql('postgres', $trips);
	query($late, ('SELECT 1') x 3);
	is($node->safe_psql('postgres', $trips), $before + 3, 'and there its exchanges are counted');
	$late->leave;
	$third->leave;
	$node->stop;

	# ----- a wall clock that is wrong: minutes that pass zero, if they are those since 2000

	skip 'a query takes longer here than is left of a minute', 1 if $ENV{SLOW_SERVER};
	$node = server('', "\@1999-12-31 23:58:00 x$speed");
	query(client($node), 'SELECT 1') for 1 .. 2;
	gone($node);
	$c = client($node);
	query($c, 'SELECT 1');
	$node->poll_query_until('postgres', q(SELECT clock_timestamp() >= '2000-01-01 00:02'));
	query($c, 'SELECT 1');
	is(join('|', map { figure($node, 'round_trips', $_) } '1 minute', '15 minutes', undef), '1|4|4',
		'a clock before 2000: minutes end, and are in their order');
	$c->leave;
	$node->stop;
}

# ----- a minute is over, and somebody has the lock: what came before keeps its minute

SKIP:
{
	skip 'there is no libfaketime for this server', 14 unless $faketime;
	my $library = build_module('hold_lock', 'a fold that finds its lock taken') // skip 'nothing that keeps a lock can be built', 14;

	my $node = server('', "+0 x$speed");
	$node->safe_psql('postgres', "CREATE FUNCTION hold_lock(int) RETURNS void LANGUAGE c STRICT AS '$library'");
	my ($superuser) = $node->safe_psql('postgres', 'SELECT current_user');
	my $pause = sub {
		my $began = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
		$node->poll_query_until('postgres', "SELECT clock_timestamp() >= timestamptz '$began' + interval '3 min'");
	};
	my $recent = sub { return figure($node, $_[0] . ', turnaround_min_ms IS NULL', '2 minutes') };

	# A block; and when its minute is over, and the lock is held, two exchanges
	# outside of blocks.  Then the lock is free again.
	my $work = sub {
		my ($c) = @_;
		query($c, 'BEGIN', 'SELECT 1', 'COMMIT');
		# two locks precede those of the entries, which are read in their order
		my $number = $node->safe_psql('postgres',
			q(SELECT 1 + ordinality FROM kasm_latency_internal.client_figures(NULL) WITH ORDINALITY WHERE role_oid = 'probe'::regrole));
		my $holder = client($node, $superuser);
		$holder->send_burst(RawClient::query("SELECT hold_lock($number)"));
		is($holder->read_until('N', 'Z'), 'TN', 'somebody has the lock');
		$pause->();
		query($c, ('SELECT 1') x 2);
		is($recent->('round_trips > 2'), 't|t', 'nothing can be folded: of all exchanges the newest minute is shown, and of minima its own');
		$node->safe_psql('postgres', q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT hold_lock%'));
		is($holder->read_until('Z'), 'EZ', 'the lock is free');
		$holder->leave;
		return;
	};

	my $c = client($node);
	$work->($c);
	query($c, 'SELECT 1');
	is($recent->('round_trips'), '3|t', 'the next exchange folds: what came before is of its own minute');
	is(figure($node, 'round_trips, turnaround_min_ms IS NULL', '1 hour'), '6|f', 'and nothing is lost');
	$c->leave;
	gone($node);

	$c = client($node);
	$work->($c);
	$c->leave;
	gone($node);
	is($recent->('round_trips'), '2|t', 'the exit folds: the same');
	is(figure($node, 'round_trips'), '11', 'and nothing is lost');

	$c = client($node);
	$work->($c);
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	query($c, 'SELECT 1');
	is($recent->('round_trips') . '|' . figure($node, 'round_trips'), '1|t|1', 'a reset before the fold: what came before is forgotten');
	$c->leave;
	$node->stop;
}

# ----- a floor that is known only after the connect

SKIP:
{
	skip 'there is no libfaketime for this server', 2 unless $faketime;
	skip 'there is no floor', 2 unless $floor;
	skip 'a query takes longer here than a second of the clock', 2 if $ENV{SLOW_SERVER};
	my $library = build('no_floor', 'a floor that comes late', '-D_GNU_SOURCE') // skip 'no floor can be hidden', 2;

	local $ENV{NO_FLOOR} = "$library.wanted";
	local $faketime = "$faketime $library";
	my $node = server('', "+0 x$speed");
	my $pause = sub {
		my $began = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
		$node->poll_query_until('postgres', "SELECT clock_timestamp() >= timestamptz '$began' + interval '2 min'");
	};
	my $old = client($node);
	query($old, 'SELECT 1');
	$pause->();
	query($old, 'BEGIN', ('SELECT 1') x 5, 'COMMIT');
	$pause->();
	query($old, 'SELECT 1');
	append_to_file($ENV{NO_FLOOR}, '');
	my $new = client($node);
	query($new, 'SELECT 1');
	my $since = 'rtt_age_minutes < 3, kasm_latency_internal.count_from(ceilings_since_rtt, 0)';
	is(figure($node, $since), 'f|6', 'the floor is of the first connection, and there were ceilings since');
	unlink $ENV{NO_FLOOR};
	usleep(4_000_000 / $speed); # a floor is asked for again after a second
	query($new, 'SELECT 1');
	is(figure($node, $since), 't|0', 'it is of the new one: since that there was none');
	$_->leave for $old, $new;
	$node->stop;
}

# ----- a wall clock that was in the future for a while

SKIP:
{
	skip 'there is no libfaketime for this server', 2 unless $faketime;

	my $offset = abs_path(PostgreSQL::Test::Utils::tempdir()) . '/offset'; # the server is elsewhere
	my $set = sub { unlink $offset; append_to_file($offset, "$_[0]\n"); return };
	$set->('+0');
	local $ENV{FAKETIME_TIMESTAMP_FILE} = $offset;
	local $ENV{FAKETIME_NO_CACHE} = 1;
	local $ENV{DONT_FAKE_MONOTONIC} = 1;
	local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
	my $node = server('', '');
	$node->stop;
	{
		local $ENV{LD_PRELOAD} = $faketime;
		$node->start;
	}
	my $c = client($node);
	query($c, 'SELECT 1', 'BEGIN', 'SELECT 1');
	$set->('+10y');
	is($node->safe_psql('postgres', "SELECT clock_timestamp() > '2036-01-01'"), 't', 'the clock is ten years ahead');
	$c->leave;
	gone($node);
	$set->('+0');
	$c = client($node);
	query($c, 'SELECT 1');
	is(figure($node, q(round_trips, last_seen BETWEEN clock_timestamp() - interval '5 min' AND clock_timestamp(), in_transaction_wait_s < 100)), '4|t|t',
		'the client was seen when it was, not then, and nobody waited for ten years');
	$c->leave;
	$node->stop;
}

done_testing();
