# A client that speaks the raw v3 protocol, for what drivers hide: every
# message is sent as the test says, in one burst or message by message.
package RawClient;

use strict;
use warnings;

use IO::Socket::INET;
use Test::More ();

sub new
{
	my ($class, %arg) = @_;
	my $sock = IO::Socket::INET->new(
		PeerAddr => $arg{host} || '127.0.0.1',
		PeerPort => $arg{port},
		LocalAddr => $arg{from},
		Proto => 'tcp') or die "connect: $!";
	setsockopt($sock, Socket::IPPROTO_TCP(), Socket::TCP_NODELAY(), 1);
	my $self = bless { sock => $sock }, $class;
	my $startup = pack('N', 196608)
	  . join('', map { "$_\0" } 'user', $arg{user}, 'database', $arg{database})
	  . "\0";
	$sock->syswrite(pack('N', length($startup) + 4) . $startup);
	$self->{greeting} = $self->read_until('Z', 'E');
	return $self;
}

sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', length($body) + 4) . $body;
}

# messages, to be joined into bursts
sub query { return message('Q', "$_[0]\0") }
sub parse { return message('P', "$_[0]\0$_[1]\0" . pack('n', 0)) }
sub bind_portal { return message('B', "$_[0]\0$_[1]\0" . pack('nnn', 0, 0, 0)) }
sub describe { return message('D', "$_[0]$_[1]\0") }
sub execute { return message('E', "$_[0]\0" . pack('N', $_[1] || 0)) }
sub close_it { return message('C', "$_[0]$_[1]\0") }
sub sync { return message('S', '') }
sub flush { return message('H', '') }
sub copy_data { return message('d', $_[0]) }
sub copy_done { return message('c', '') }
sub copy_fail { return message('f', "$_[0]\0") }
sub terminate { return message('X', '') }

# a whole extended query
sub extended
{
	my ($sql) = @_;
	return parse('', $sql) . bind_portal('', '') . execute('') . sync();
}

sub function_call
{
	my ($oid) = @_;
	return message('F', pack('Nnnn', $oid, 0, 0, 0));
}

sub send_burst
{
	my ($self, @messages) = @_;
	my $bytes = join('', @messages);
	while (length $bytes)
	{
		my $n = $self->{sock}->syswrite($bytes) // die "send: $!";
		substr($bytes, 0, $n) = '';
	}
	return;
}

sub read_bytes
{
	my ($self, $n) = @_;
	my $bytes = '';
	local $SIG{ALRM} = sub { die "no answer within 20 s\n" };
	alarm 20;
	while (length($bytes) < $n)
	{
		my $got = $self->{sock}->sysread($bytes, $n - length($bytes), length($bytes));
		if (!$got) { alarm 0; return; }
	}
	alarm 0;
	return $bytes;
}

# Read messages up to the first of one of these types, or the end of the
# connection; returns the types read as a string.
sub read_until
{
	my ($self, @types) = @_;
	my $seen = '';
	while (1)
	{
		my $head = $self->read_bytes(5) // return $seen . '$';
		my ($type, $length) = unpack('aN', $head);
		$self->{last} = $self->read_bytes($length - 4);
		$seen .= $type;
		return $seen if grep { $_ eq $type } @types;
	}
}

# send a burst and read up to n ReadyForQuery
sub exchange
{
	my ($self, $n, @messages) = @_;
	$self->send_burst(@messages);
	my $seen = '';
	$seen .= $self->read_until('Z') for 1 .. $n;
	return $seen;
}

# Say farewell and wait for the server to close the connection.
sub leave
{
	my ($self) = @_;
	$self->send_burst(terminate());
	$self->read_until('Z');
	return;
}

# Is there a floor: does the kernel tell the round trip of a connection?  An
# emulator of Linux need not pass on what it says.  Where there is none, WHAT
# needs it is said to be left out.
sub has_floor
{
	my ($what, %arg) = @_;
	my $self = RawClient->new(%arg);
	# struct tcp_info as far as tcpi_min_rtt
	my $told = length(getsockopt($self->{sock}, Socket::IPPROTO_TCP(), Socket::TCP_INFO()) // '') >= 152;
	$self->leave;
	Test::More::diag("NOT RUN: $what: no TCP_INFO here") unless $told;
	return $told;
}

1;
