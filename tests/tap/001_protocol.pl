# Exact counting: every path of the v3 protocol, spoken raw.  Each case is a
# connection of its own after a reset; what it must have counted is known.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use RawClient;

my $node = PostgreSQL::Test::Cluster->new('protocol');
$node->init;
$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kasm_latency'
listen_addresses = '127.0.0.1'
# on a slow machine a client that waits for another is not idle yet
kasm_latency.idle_after = 1min
));
$node->start;
$node->safe_psql('postgres', q(
	CREATE EXTENSION kasm_latency;
	CREATE ROLE probe LOGIN;
	CREATE TABLE item (id int PRIMARY KEY);
	GRANT ALL ON item TO probe;
));

my $figures = q(
	SELECT coalesce(sum(round_trips), 0), coalesce(sum(transactions), 0),
	       coalesce(sum(kasm_latency_internal.count_from(ceilings, 0)), 0),
	       coalesce(sum(other_turnarounds), 0),
	       coalesce(sum(kasm_latency_internal.count_from(server_times, 0)), 0),
	       coalesce(sum(kasm_latency_internal.count_from(bounds, 0)), 0)
	FROM kasm_latency_internal.client_figures(NULL)
	WHERE role_oid = 'probe'::regrole);

sub gone
{
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 0 FROM kasm_latency.connections WHERE username = 'probe'))
	  or die 'the connection stays';
	return;
}

# Run a case on a new connection and compare all six counts, once while the
# connection lives (read beside its slot) and once after it has left (folded).
# A case is one block, if it has ceilings: unless it says how many there are.
sub counts
{
	my ($name, $expected, $work, %option) = @_;
	gone();
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	my $client = RawClient->new(port => $node->port, user => 'probe', database => 'postgres');
	$work->($client);
	my $wanted = join('|', @$expected, $option{blocks} // ($expected->[2] > 0 ? 1 : 0));
	if (!$option{leaves})
	{
		is($node->safe_psql('postgres', $figures), $wanted,
			"$name: exchanges, transactions, ceilings, other turnarounds, server times, blocks");
		$client->leave;
	}
	gone();
	is($node->safe_psql('postgres', $figures), $wanted, "$name: the same after it left");
	return;
}

sub q1 { return RawClient::query($_[0]) }

# name, what it must count, what it does
counts('connecting alone', [ 0, 0, 0, 0, 0 ], sub { });

counts('simple query', [ 1, 1, 0, 1, 1 ], sub { $_[0]->exchange(1, q1('SELECT 1')) });

counts('simple query of two statements', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(1, q1('SELECT 1; SELECT 2')) });

counts('empty query', [ 1, 1, 0, 1, 1 ], sub { $_[0]->exchange(1, q1('')) });

counts('BEGIN, query, COMMIT', [ 3, 1, 2, 1, 3 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1', 'COMMIT' });

counts('BEGIN, query, ROLLBACK', [ 3, 1, 2, 1, 3 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1', 'ROLLBACK' });

counts('failed simple query', [ 1, 1, 0, 1, 1 ], sub { $_[0]->exchange(1, q1('SELECT 1/0')) });

counts('error inside a transaction block', [ 4, 1, 3, 1, 4 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1/0', 'SELECT 1', 'ROLLBACK' });

counts('extended query with Sync', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(1, RawClient::extended('SELECT 1')) });

counts('failed extended query', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(1, RawClient::extended('SELECT 1/0')) });

counts('prepared once, executed three times', [ 4, 4, 0, 4, 4 ], sub {
	my $c = shift;
	$c->exchange(1, RawClient::parse('s', 'SELECT 1'), RawClient::sync());
	$c->exchange(1, RawClient::bind_portal('', 's'), RawClient::execute(''), RawClient::sync())
	  for 1 .. 3;
});

counts('Parse, Describe, Flush; Bind, Execute, Sync', [ 2, 1, 1, 1, 2 ], sub {
	my $c = shift;
	$c->send_burst(RawClient::parse('s', 'SELECT 1'), RawClient::describe('S', 's'), RawClient::flush());
	is($c->read_until('T'), '1tT', 'the description came');
	$c->exchange(1, RawClient::bind_portal('', 's'), RawClient::execute(''), RawClient::sync());
});

# documented, not fought: the client waits twice, for the error and for Z
counts('failed extended query with Flush', [ 1, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(RawClient::parse('', 'SELEKT'), RawClient::flush());
	is($c->read_until('E'), 'E', 'the error came');
	$c->exchange(1, RawClient::sync());
});

counts('portal suspended and resumed', [ 6, 1, 5, 1, 6 ], sub {
	my $c = shift;
	$c->exchange(1, q1('BEGIN'));
	$c->send_burst(RawClient::parse('', 'SELECT generate_series(1, 5)'),
		RawClient::bind_portal('p', ''), RawClient::execute('p', 2), RawClient::flush());
	is($c->read_until('s'), '12DDs', 'two rows, suspended');
	$c->send_burst(RawClient::execute('p', 2), RawClient::flush());
	is($c->read_until('s'), 'DDs', 'two more');
	$c->send_burst(RawClient::execute('p', 2), RawClient::flush());
	is($c->read_until('C'), 'DC', 'the last');
	# a Sync has no statement start, but an Execute had one
	$c->exchange(1, RawClient::execute('p', 1), RawClient::sync());
	$c->exchange(1, q1('COMMIT'));
});

counts('Sync alone', [ 1, 1, 0, 0, 0 ], sub { $_[0]->exchange(1, RawClient::sync()) });

counts('Close first', [ 1, 1, 0, 1, 1 ], sub {
	$_[0]->exchange(1, RawClient::close_it('S', 'none'), RawClient::extended('SELECT 1'));
});

counts('Flush of nothing', [ 1, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(RawClient::flush());
	$c->exchange(1, q1('SELECT 1'));
});

counts('notices', [ 1, 1, 0, 1, 1 ], sub {
	is( $_[0]->exchange(1, q1(q(DO $$ BEGIN RAISE NOTICE 'a'; RAISE NOTICE 'b'; END $$))),
		'NNCZ', 'two notices came');
});

# the Sync has no statement start, so the wait before it is not timed
counts('notices with Flush', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(
		RawClient::parse('', q(DO $$ BEGIN RAISE NOTICE 'a'; RAISE NOTICE 'b'; END $$)),
		RawClient::bind_portal('', ''), RawClient::execute(''), RawClient::flush());
	is($c->read_until('C'), '12NNC', 'two notices came');
	$c->exchange(1, RawClient::sync());
});

counts('a batch of five in one burst', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(5, map { RawClient::extended("SELECT $_") } 1 .. 5) });

counts('a batch larger than the receive buffer', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(400, map { RawClient::extended("SELECT $_") } 1 .. 400) });

counts('simple queries in one burst', [ 1, 1, 0, 1, 1 ],
	sub { $_[0]->exchange(3, map { q1("SELECT $_") } 1 .. 3) });

counts('a batch in a transaction, then one by one: no more ceilings', [ 4, 2, 0, 4, 4 ], sub {
	my $c = shift;
	$c->exchange(4, map { q1($_) } 'BEGIN', 'SELECT 1', 'SELECT 2', 'COMMIT');
	$c->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1', 'COMMIT';
});

counts('query and farewell in one burst', [ 1, 1, 0, 0, 0 ], sub {
	$_[0]->send_burst(q1('SELECT 1'), RawClient::terminate());
	$_[0]->read_until('?');
}, leaves => 1);

counts('COPY in', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(q1('COPY item FROM STDIN'));
	is($c->read_until('G'), 'G', 'the server waits for data');
	$c->send_burst(RawClient::copy_data("$_\n")) for 1 .. 3;
	$c->exchange(1, RawClient::copy_done());
});

counts('COPY in, extended, as libpq sends it', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(RawClient::extended('COPY item FROM STDIN'));
	is($c->read_until('G'), '12G', 'the server waits for data');
	$c->send_burst(RawClient::copy_data("7\n"));
	$c->exchange(1, RawClient::copy_done(), RawClient::sync());
});

counts('COPY in, given up by the client', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(q1('COPY item FROM STDIN'));
	$c->read_until('G');
	is($c->exchange(1, RawClient::copy_fail('no')), 'EZ', 'given up');
});

# its error and a FATAL, and no ReadyForQuery: that transaction has no status (13 answers, and waits for more)
if ($node->safe_psql('postgres', 'SHOW server_version_num') >= 140000)
{
	counts('COPY in, ended by Terminate, as drivers that close do it', [ 2, 0, 0, 1, 1 ], sub {
		my $c = shift;
		$c->send_burst(q1('COPY item FROM STDIN'));
		$c->read_until('G');
		$c->send_burst(RawClient::copy_data("1\n"), RawClient::terminate());
		is($c->read_until('?'), 'EE$', 'the server says both');
	}, leaves => 1);

	counts('COPY in, and the client is gone', [ 2, 0, 0, 1, 1 ], sub {
		my $c = shift;
		$c->send_burst(q1('COPY item FROM STDIN'));
		$c->read_until('G');
		$c->send_burst(RawClient::copy_data("1\n"));
		close($c->{sock});
	}, leaves => 1);
}

counts('COPY in, refused by the server while data still comes', [ 3, 2, 0, 2, 2 ], sub {
	my $c = shift;
	$c->send_burst(q1('COPY item FROM STDIN'));
	$c->read_until('G');
	is( $c->exchange(1, RawClient::copy_data("x\n"), (RawClient::copy_data("8\n")) x 100, RawClient::copy_done()),
		'EZ', 'refused');
	$c->exchange(1, q1('SELECT 1'));
});

counts('COPY in, extended, refused by the server', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(RawClient::extended('COPY item FROM STDIN'));
	$c->read_until('G');
	$c->send_burst(RawClient::copy_data("x\n"));
	is($c->read_until('E'), 'E', 'refused');
	$c->exchange(1, RawClient::copy_done(), RawClient::sync());
});

counts('COPY out', [ 1, 1, 0, 1, 1 ], sub {
	like($_[0]->exchange(1, q1('COPY (SELECT generate_series(1, 20000)) TO STDOUT')),
		qr/^Hd{20000}cCZ$/, 'twenty thousand rows');
});

counts('a big result', [ 1, 1, 0, 1, 1 ], sub {
	$_[0]->exchange(1, q1('SELECT generate_series(1, 20000)'));
});

counts('FunctionCall', [ 1, 1, 0, 1, 1 ], sub {
	is($_[0]->exchange(1, RawClient::function_call(2026)), 'VZ', 'pg_backend_pid() answered');
});

counts('cursor with FETCH 1', [ 7, 1, 6, 1, 7 ], sub {
	my $c = shift;
	$c->exchange(1, q1($_))
	  for 'BEGIN', 'DECLARE c CURSOR FOR SELECT generate_series(1, 9)',
	  ('FETCH 1 FROM c') x 3, 'CLOSE c', 'COMMIT';
});

counts('a notification to an idle client', [ 2, 2, 0, 2, 2 ], sub {
	my $c = shift;
	$c->exchange(1, q1('LISTEN news'));
	for (1 .. 3)
	{
		$node->safe_psql('postgres', q(NOTIFY news, 'extra'));
		is($c->read_until('A'), 'A', 'the notification came');
	}
	$c->exchange(1, q1('SELECT 1'));
});

counts('a cancelled query', [ 1, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->send_burst(q1('SELECT pg_sleep(60)'));
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 1 FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		  WHERE usename = 'probe' AND wait_event = 'PgSleep') AS x));
	is($c->read_until('Z'), 'TEZ', 'cancelled');
});

counts('statement_timeout', [ 2, 2, 0, 2, 2 ], sub {
	my $c = shift;
	$c->exchange(1, q1('SET statement_timeout = 20'));
	# on a slow machine before the row's description is put
	like($c->exchange(1, q1('SELECT pg_sleep(60)')), qr/^T?EZ$/, 'timed out');
});

counts('terminated while idle', [ 1, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->exchange(1, q1('SELECT 1'));
	$node->safe_psql('postgres',
		q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'probe'));
	is($c->read_until('Z'), 'E$', 'terminated');
}, leaves => 1);

counts('terminated while a query runs', [ 2, 1, 0, 1, 1 ], sub {
	my $c = shift;
	$c->exchange(1, q1('SELECT 1'));
	$c->send_burst(q1('SELECT pg_sleep(60)'));
	$node->poll_query_until('postgres',
		q(SELECT count(*) = 1 FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		  WHERE usename = 'probe' AND wait_event = 'PgSleep') AS x));
	is($c->read_until('Z'), 'TE$', 'terminated');
}, leaves => 1);

counts('switched off and on', [ 3, 3, 0, 3, 3 ], sub {
	my $c = shift;
	my $switch = sub {
		$node->append_conf('postgresql.conf', "kasm_latency.enabled = $_[0]");
		$node->reload;
		$node->poll_query_until('postgres', "SELECT current_setting('kasm_latency.enabled') = '$_[0]'");
	};
	$c->exchange(1, q1('SELECT 1'));
	$switch->('off');
	$c->exchange(1, q1("SELECT pg_sleep(0.01)")) for 1 .. 4;
	$switch->('on');
	# the first command after opens anew, as the first Z of a connection does
	$c->exchange(1, q1('SELECT 1')) for 1 .. 2;
	$c->exchange(1, q1('SELECT 1'));
});

# ----- blocks: what lies between two ReadyForQuery with status I, if a ceiling lies in it

counts('two blocks', [ 7, 2, 5, 2, 7 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1', 'COMMIT', 'BEGIN', 'SELECT 1', 'SELECT 2', 'COMMIT' },
	blocks => 2);
counts('a block in one query has no bound', [ 2, 2, 0, 2, 2 ],
	sub { $_[0]->exchange(1, q1('BEGIN; SELECT 1; COMMIT')) for 1 .. 2 });
counts('savepoints are of their block', [ 7, 1, 6, 1, 7 ],
	sub { $_[0]->exchange(1, q1($_))
		for 'BEGIN', 'SAVEPOINT a', 'SELECT 1/0', 'ROLLBACK TO a', 'SELECT 1', 'RELEASE a', 'COMMIT' });
counts('a failed block', [ 3, 1, 2, 1, 3 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1/0', 'COMMIT' });
counts('COMMIT AND CHAIN is no end of one', [ 5, 1, 4, 1, 5 ],
	sub { $_[0]->exchange(1, q1($_)) for 'BEGIN', 'SELECT 1', 'COMMIT AND CHAIN', 'SELECT 1', 'COMMIT' });
counts('a driver that flushes makes one of each query', [ 4, 2, 2, 2, 4 ], sub {
	my $c = shift;
	for (1 .. 2)
	{
		$c->send_burst(RawClient::parse('', 'SELECT 1'), RawClient::flush());
		$c->read_until('1');
		$c->exchange(1, RawClient::bind_portal('', ''), RawClient::execute(''), RawClient::sync());
	}
}, blocks => 2);
# data has no stamp, so the wait for it is no turnaround
counts('COPY in inside of one', [ 4, 1, 2, 1, 3 ], sub {
	my $c = shift;
	$c->exchange(1, q1('BEGIN'));
	$c->send_burst(q1('COPY item FROM STDIN'));
	$c->read_until('G');
	$c->exchange(1, RawClient::copy_data("99\n"), RawClient::copy_done());
	$c->exchange(1, q1('ROLLBACK'));
});

# The bound is the shortest of the pauses, and a block left open ends with its connection.
sub bound
{
	my ($name, $low, $high, @pauses) = @_;
	gone();
	$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
	my $c = RawClient->new(port => $node->port, user => 'probe', database => 'postgres');
	$c->exchange(1, q1('BEGIN'));
	for my $pause (@pauses) { usleep(1000 * $pause); $c->exchange(1, q1('SELECT 1')); }
	is($node->safe_psql('postgres', $figures) =~ s/.*\|//r, '0', "$name: not while it lasts");
	$c->leave;
	gone();
	is($node->safe_psql('postgres', qq(
			SELECT kasm_latency_internal.count_from(bounds, 0),
			       kasm_latency_internal.percentile_ms(bounds, 0.5) BETWEEN $low AND $high,
			       kasm_latency_internal.percentile_ms(bounds, 0.5) BETWEEN turnaround_min_ms - 0.001 AND turnaround_min_ms + 0.001,
			       round(kasm_latency_internal.sum_s(bounds)::numeric * 1000, 3) = round(turnaround_min_ms::numeric, 3)
			FROM kasm_latency_internal.client_figures('1 hour') WHERE role_oid = 'probe'::regrole)),
		'1|t|t|t', "$name: its shortest turnaround, to the microsecond");
	return;
}
bound('pauses of 30, 12 and 50 ms', 12, 10000, 30, 12, 50);
bound('a pause of 25 ms', 25, 10000, 25);

# ----- chains: their lengths, of a connection that has left

# Outside of a block 10 ms end a chain, which a busy machine may take between
# two queries too: "attempts" allows for that.
sub chains
{
	my ($name, $expected, $work, %option) = @_;
	my $counted;
	for (1 .. $option{attempts} // 1)
	{
		gone();
		$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
		my $client = RawClient->new(port => $node->port, user => 'probe', database => 'postgres');
		$work->($client);
		$client->leave unless $option{leaves};
		gone();
		$counted = $node->safe_psql('postgres', q(
			SELECT string_agg(repeat(round(c.from_ms * 1000) || ' ', c.count::int), '' ORDER BY c.from_ms)
			FROM kasm_latency_internal.client_figures(NULL) AS f,
			     kasm_latency_internal.histogram_cells(f.chain_lengths) AS c
			WHERE f.role_oid = 'probe'::regrole));
		last if $counted eq $expected;
	}
	is($counted, $expected, "chains: $name");
	return;
}

sub run_all { my $c = shift; $c->exchange(1, q1($_)) for @_; return }

chains('BEGIN, ten, COMMIT', '12 ', sub { run_all($_[0], 'BEGIN', ('SELECT 1') x 10, 'COMMIT') });
chains('autocommit, one after the other', '4 ', sub { run_all($_[0], ('SELECT 1') x 4) }, attempts => 20);
chains('autocommit before and after a block', '1 2 3 ',
	sub { run_all($_[0], ('SELECT 1') x 2, 'BEGIN', 'SELECT 1', 'COMMIT', 'SELECT 1') }, attempts => 20);
chains('two blocks in a row', '3 4 ',
	sub { run_all($_[0], 'BEGIN', 'SELECT 1', 'COMMIT', 'BEGIN', ('SELECT 1') x 2, 'COMMIT') });
chains('blocks and autocommit by turns', '1 ' x 10 . '3 ' x 10,
	sub { run_all($_[0], ('BEGIN', 'SELECT 1', 'COMMIT', 'SELECT 1') x 10) });
chains('a block in one query', '2 ', sub { run_all($_[0], 'BEGIN; SELECT 1; COMMIT', 'SELECT 1') },
	attempts => 20);
chains('a failed block', '3 ', sub { run_all($_[0], 'BEGIN', 'SELECT 1/0', 'ROLLBACK') });
chains('a block left open', '2 ', sub { run_all($_[0], 'BEGIN', 'SELECT 1') });
chains('longer than the scale', '280 ', sub { run_all($_[0], 'BEGIN', ('SELECT 1') x 300, 'COMMIT') });
chains('autocommit with a pause', '2 3 ', sub {
	run_all($_[0], ('SELECT 1') x 2);
	usleep(20_000);
	run_all($_[0], ('SELECT 1') x 3);
}, attempts => 20);
chains('a pause before a request that has no stamp', '1 1 ', sub {
	run_all($_[0], 'SELECT 1');
	usleep(20_000);
	$_[0]->exchange(1, RawClient::sync());
});
chains('a pause before a query that ends the connection', '1 1 ', sub {
	my $c = shift;
	run_all($c, 'SELECT 1');
	usleep(20_000);
	$c->send_burst(q1('SELECT pg_terminate_backend(pg_backend_pid())'));
	$c->read_until('$');
}, leaves => 1);
chains('a block with a pause', '3 ', sub {
	run_all($_[0], 'BEGIN', 'SELECT 1');
	usleep(20_000);
	run_all($_[0], 'COMMIT');
});
chains('COPY in with a pause', '3 ', sub {
	my $c = shift;
	$c->exchange(1, q1('TRUNCATE item'));
	$c->send_burst(q1('COPY item FROM STDIN'));
	$c->read_until('G');
	usleep(20_000);
	$c->exchange(1, RawClient::copy_data("1\n"), RawClient::copy_done());
}, attempts => 20);
chains('a driver that flushes, outside of a block', '4 ', sub {
	my $c = shift;
	for (1 .. 2)
	{
		$c->send_burst(RawClient::parse('', 'SELECT 1'), RawClient::flush());
		$c->read_until('1');
		$c->exchange(1, RawClient::bind_portal('', ''), RawClient::execute(''), RawClient::sync());
	}
}, attempts => 20);
chains('a batch in one burst', '1 ', sub { $_[0]->exchange(5, map { RawClient::extended("SELECT $_") } 1 .. 5) });

# what a chain took, and what a transaction stood open for
$node->append_conf('postgresql.conf', 'kasm_latency.idle_after = 200ms');
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('kasm_latency.idle_after') = '200ms'");
chains('a block with server time, short and long pauses', '5 ', sub {
	my $c = shift;
	run_all($c, 'BEGIN', 'SELECT pg_sleep(0.2)');
	usleep(30_000);
	run_all($c, 'SELECT 1');
	usleep(300_000);
	run_all($c, 'SELECT 1');
	run_all($c, 'COMMIT');
});
is( $node->safe_psql('postgres', q(
		SELECT chains, server_s >= 0.2, chain_server_s = server_s, chain_network_s = network_s,
		       in_transaction_wait_s >= 0.33,
		       -- the long pause is neither turnaround nor chain; a busy machine may make the short one long too
		       turnaround_s >= 0.03 OR in_transaction_wait_s > 0.5,
		       chain_s - server_s BETWEEN 0 AND turnaround_s + 0.001
		         AND in_transaction_wait_s - (chain_s - server_s) >= 0.3,
		       abs(kasm_latency_internal.percentile_ms(chain_durations, 0.5) / 1000 / chain_s - 1) < 0.1
		FROM kasm_latency_internal.client_figures(NULL) WHERE role_oid = 'probe'::regrole)),
	'1|t|t|t|t|t|t|t', 'how long it took, and of what');

# a login that fails makes no entry
$node->safe_psql('postgres', 'SELECT kasm_latency.reset()');
is( RawClient->new(port => $node->port, user => 'probe', database => 'nowhere')->{greeting},
	'RE', 'a login to no database fails after authentication');
is($node->safe_psql('postgres', "SELECT count(*) FROM kasm_latency.totals WHERE username = 'probe'"),
	'0', 'and makes no entry');

# the client reads its own exchange: none of it is counted before it ends
is( $node->safe_psql('postgres',
		q(SELECT connections_total, round_trips FROM kasm_latency.totals WHERE username = 'probe'
		  UNION ALL SELECT -1, -1)),
	'-1|-1', 'still none');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|signal 11/, 'nothing crashed');

done_testing();
