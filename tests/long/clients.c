/*
 * clients.c
 *		Clients of a PostgreSQL server, from addresses of loopback, that count
 *		what they do: as many exchanges as the server can answer, and exactly
 *		how many there were.
 *
 *	clients PORT USER DATABASE GROUP ...
 *
 * GROUP is name:address:addresses:connections:lifetime:kind.  Its connections
 * come from so many addresses, that one and those after it.  Each sends
 * request after request and waits for each answer; with a lifetime it leaves
 * after about so many exchanges, and comes again from another address of the
 * group.  Its kind is what it asks: "plain", simple queries alone, or "mix".
 *
 * Reads commands, and answers each by a line when it is done.  WHOM is a
 * group, an address, or "all".
 *
 *	run WHOM	come, or go on; done when each has been connected
 *	pause WHOM	done when none waits for an answer: connected, asking nothing
 *	leave WHOM	done when none is connected any more
 *	last WHOM	whose connection ends from now on does not come again
 *	gone WHOM	done when none is connected any more, as the server ended them
 *	counts		a line of JSON: by address, what follows
 *
 * What is counted, by docs/measurement.md, and known to the client by the
 * protocol alone:
 *
 *	exchanges		answers that were waited for, and came: up to
 *					ReadyForQuery, or CopyInResponse, or after Flush
 *	transactions	those that left no transaction open (status I)
 *	stamped			those whose request has an arrival time: all, but the data
 *					of a COPY
 *	ceilings		of these, requests that came with a transaction open, or
 *					after a Flush; all others are others
 *	bounds			blocks with a ceiling that are over
 *	connections		those that came as far as their first ReadyForQuery
 *	cut				requests that were under way when the server ended the
 *					connection: it may or may not have begun with them, which
 *					nobody can tell from here
 *
 * Anything that is not as expected ends it with an error.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_GROUPS 16
#define MAX_STEPS 8
#define MAX_EVENTS 64

/* one request, and what ends the wait for its answer */
typedef struct Step
{
	char bytes[512];
	size_t length;
	char until;	  /* the last message of the answer: Z, G or T */
	bool stamped; /* it has an arrival time */
} Step;

typedef struct Script
{
	int weight;
	bool plain;
	int n_steps;
	Step steps[MAX_STEPS];
} Script;

typedef struct Ledger
{
	uint32_t address;
	char name[INET_ADDRSTRLEN];
	uint64_t exchanges;
	uint64_t transactions;
	uint64_t stamped;
	uint64_t ceilings;
	uint64_t others;
	uint64_t bounds;
	uint64_t connections;
	uint64_t cut;
} Ledger;

typedef struct Group
{
	char name[32];
	int n_addresses;
	int n_connections;
	int lifetime; /* 0 = for ever */
	bool plain;
	Ledger *ledgers;
	int next_address;
} Group;

typedef enum State
{
	AWAY,
	CONNECTING, /* up to the first ReadyForQuery */
	READY,
	WAITING /* for an answer */
} State;

typedef struct Client
{
	Group *group;
	Ledger *ledger;
	int number; /* in its group */
	int fd;
	int life; /* a number for each connection */
	State state;

	/* what it is told */
	bool wanted;  /* comes (again) when it is away */
	bool paused;  /* asks nothing */
	bool leaving; /* closes, once it has its answer */
	bool arrived; /* has been connected since it was told to run */

	/* what it does */
	const Script *script;
	int step;
	int left;			/* exchanges of its lifetime */
	bool open;			/* its last answer left a transaction open */
	bool block_ceiling; /* there was a ceiling in this block */
	bool fatal;			/* the server ended the connection */

	/* the message that is being read */
	unsigned char head[5];
	unsigned char body[8]; /* its first bytes */
	size_t head_length;
	size_t body_length;
	size_t body_left;
} Client;

static Group groups[MAX_GROUPS];
static int n_groups = 0;
static Client *clients;
static int n_clients = 0;

static int poller;
static struct sockaddr_in server = { .sin_family = AF_INET };
static char startup[256];
static size_t startup_length;

/* the command that is not done yet */
static char command[16];
static char whom[40];

static void
die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("clients: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static uint32_t
chance(uint32_t n)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t) (state >> 32) % n;
}


/* ----------
 * What they ask
 * ----------
 */

static void
put_int32(char *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, sizeof(value));
}

/* add a message to a step */
static void
add(Step *step, char type, const char *body, size_t length)
{
	char *at = step->bytes + step->length;

	if (step->length + length + 5 > sizeof(step->bytes))
		die("a request is too long");
	at[0] = type;
	put_int32(at + 1, (uint32_t) length + 4);
	memcpy(at + 5, body, length);
	step->length += length + 5;
}

static Step *
new_step(Script *script, char until, bool stamped)
{
	Step *step = &script->steps[script->n_steps++];

	step->until = until;
	step->stamped = stamped;
	return step;
}

static void
simple(Script *script, const char *sql)
{
	add(new_step(script, 'Z', true), 'Q', sql, strlen(sql) + 1);
}

static void
add_parse(Step *step, const char *sql)
{
	char body[256] = "";
	size_t length = strlen(sql);

	/* no name, the statement, no types of parameters */
	memcpy(body + 1, sql, length);
	add(step, 'P', body, length + 4);
}

static void
add_execution(Step *step)
{
	static const char nothing[8];

	add(step, 'B', nothing, 8);
	add(step, 'E', nothing, 5);
}

/* Parse, Bind and Execute, of the latter two as many, and one Sync */
static void
extended(Script *script, const char *sql, int executions)
{
	Step *step = new_step(script, 'Z', true);

	add_parse(step, sql);
	for (int i = 0; i < executions; i++)
		add_execution(step);
	add(step, 'S', "", 0);
}

/* asked what it is first, and executed then */
static void
described(Script *script, const char *sql)
{
	Step *step = new_step(script, 'T', true);

	add_parse(step, sql);
	add(step, 'D', "S", 2);
	add(step, 'H', "", 0);
	step = new_step(script, 'Z', true);
	add_execution(step);
	add(step, 'S', "", 0);
}

static void
copied(Script *script, const char *sql, const char *rows)
{
	Step *step = new_step(script, 'G', true);

	add(step, 'Q', sql, strlen(sql) + 1);
	step = new_step(script, 'Z', false);
	add(step, 'd', rows, strlen(rows));
	add(step, 'c', "", 0);
}

#define N_SCRIPTS 12
static Script scripts[N_SCRIPTS] = {
	{ .weight = 24, .plain = true }, { .weight = 12, .plain = true },
	{ .weight = 1, .plain = true },	 { .weight = 4, .plain = true },
	{ .weight = 2, .plain = true },	 { .weight = 8, .plain = false },
	{ .weight = 4, .plain = false }, { .weight = 3, .plain = false },
	{ .weight = 1, .plain = false }, { .weight = 1, .plain = false },
	{ .weight = 2, .plain = false }, { .weight = 2, .plain = false },
};

static void
write_scripts(void)
{
	Script *script = scripts;

	simple(script++, "SELECT 1");

	simple(script, "BEGIN");
	simple(script, "SELECT 1");
	simple(script, "SELECT 2");
	simple(script++, "COMMIT");

	simple(script, "BEGIN");
	simple(script, "SELECT 1/0");
	simple(script++, "ROLLBACK");

	simple(script, "");
	simple(script++, "BEGIN; SELECT 1; COMMIT");

	/* it lasts: whatever befalls the server, somebody is in the midst of it */
	simple(script++, "SELECT pg_sleep(0.05)");

	extended(script++, "SELECT 1", 1);
	extended(script++, "SELECT 1", 5);
	described(script++, "SELECT 1");
	copied(script++, "COPY junk FROM STDIN", "1\n2\n");
	simple(script++, "SELECT generate_series(1, 200)");

	simple(script, "BEGIN");
	extended(script, "SELECT 1", 1);
	described(script, "SELECT 1");
	simple(script++, "COMMIT");

	simple(script, "BEGIN");
	simple(script, "SELECT 1");
	simple(script, "COMMIT AND CHAIN");
	extended(script, "SELECT 1", 1);
	simple(script++, "ROLLBACK");
}

static const Script *
choose_script(bool plain)
{
	static int all = 0;
	static int all_plain = 0;
	int n;

	if (all == 0)
		for (int i = 0; i < N_SCRIPTS; i++)
		{
			all += scripts[i].weight;
			all_plain += scripts[i].plain ? scripts[i].weight : 0;
		}
	n = (int) chance((uint32_t) (plain ? all_plain : all));
	for (int i = 0; i < N_SCRIPTS; i++)
	{
		if (plain && !scripts[i].plain)
			continue;
		n -= scripts[i].weight;
		if (n < 0)
			return &scripts[i];
	}
	die("no script");
	return NULL;
}


/* ----------
 * Connections
 * ----------
 */

static void
connect_client(Client *client)
{
	Group *group = client->group;
	struct sockaddr_in local = { .sin_family = AF_INET };
	struct epoll_event event = { .events = EPOLLOUT, .data.ptr = client };
	int on = 1;

	/* who stays keeps its address; who comes and goes takes the next */
	if (group->lifetime == 0)
		client->ledger = &group->ledgers[client->number % group->n_addresses];
	else
		client->ledger =
			&group->ledgers[group->next_address++ % group->n_addresses];
	local.sin_addr.s_addr = htonl(client->ledger->address);
	client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (client->fd < 0 ||
		bind(client->fd, (struct sockaddr *) &local, sizeof(local)) != 0)
		die("no socket from %s: %s", client->ledger->name, strerror(errno));
	(void) setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (connect(client->fd, (struct sockaddr *) &server, sizeof(server)) !=
			0 &&
		errno != EINPROGRESS)
		die("no connection from %s: %s", client->ledger->name,
			strerror(errno));
	if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) != 0)
		die("epoll_ctl: %s", strerror(errno));
	client->state = CONNECTING;
	client->script = NULL;
	client->left = group->lifetime / 2 + (int) chance(group->lifetime + 1);
	client->open = client->block_ceiling = client->fatal = false;
	client->head_length = client->body_length = client->body_left = 0;
}

/*
 * The connection is over.  A block that had a ceiling counts at its end, and
 * this is one.
 */
static void
disconnect(Client *client)
{
	close(client->fd);
	client->life++;
	client->state = AWAY;
	client->leaving = false;
	client->ledger->bounds += client->block_ceiling;
	if (client->wanted)
		connect_client(client);
}

/* with a farewell, or as a client does that crashes */
static void
leave(Client *client)
{
	struct linger none = { .l_onoff = 1, .l_linger = 0 };
	char farewell[5] = { 'X', 0, 0, 0, 4 };

	if (chance(3) > 0)
		(void) send(client->fd, farewell, sizeof(farewell), MSG_NOSIGNAL);
	else
		(void) setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &none,
						  sizeof(none));
	disconnect(client);
}

/* the server has ended the connection */
static void
lose(Client *client, const char *why)
{
	if (client->wanted)
		die("%s lost its connection: %s%s", client->ledger->name, why,
			client->fatal ? ", FATAL" : "");
	client->ledger->cut += client->state == WAITING;
	disconnect(client);
}

static void
next_request(Client *client)
{
	const Step *step;
	bool copying = client->script != NULL && client->step > 0 &&
				   client->script->steps[client->step - 1].until == 'G';

	/* a copy that is cut off counts otherwise: it gets its data first */
	client->state = copying ? WAITING : READY;
	if (!copying &&
		(client->leaving || (client->group->lifetime > 0 &&
							 client->left <= 0 && !client->paused)))
	{
		leave(client);
		return;
	}
	if (!copying && client->paused)
		return;
	if (client->script == NULL || client->step == client->script->n_steps)
	{
		client->script = choose_script(client->group->plain);
		client->step = 0;
	}
	step = &client->script->steps[client->step];
	client->state = WAITING;

	/* if the server is gone, that is seen when its answer is read */
	if (send(client->fd, step->bytes, step->length, MSG_NOSIGNAL) !=
			(ssize_t) step->length &&
		errno != EPIPE && errno != ECONNRESET)
		die("%s cannot send: %s", client->ledger->name, strerror(errno));
}

/*
 * The client has its answer.
 */
static void
end_exchange(Client *client)
{
	const Step *step = &client->script->steps[client->step++];
	Ledger *ledger = client->ledger;

	ledger->exchanges++;
	if (step->stamped)
	{
		ledger->stamped++;
		if (client->open)
			ledger->ceilings++;
		else
			ledger->others++;
		client->block_ceiling |= client->open;
	}
	client->open = step->until != 'Z' || client->body[0] != 'I';
	if (!client->open)
	{
		ledger->transactions++;
		ledger->bounds += client->block_ceiling;
		client->block_ceiling = false;
	}
	client->left--;
	next_request(client);
}

/*
 * A message is complete.
 */
static void
take_message(Client *client)
{
	char type = (char) client->head[0];
	char until = client->state == WAITING
					 ? client->script->steps[client->step].until
					 : 'Z';

	switch (type)
	{
		case 'R':
			if (memcmp(client->body, "\0\0\0\0", 4) != 0)
				die("%s is asked for a password", client->ledger->name);
			break;
		case 'E':
			if (memcmp(client->body, "SFATAL", 6) == 0)
				client->fatal = true;
			break;
		case 'Z':
		case 'G':
		case 'T':
			if (type != until && type != 'T')
				die("%s got %c, and waits for %c", client->ledger->name, type,
					until);
			if (type != until)
				break;
			if (client->state == WAITING)
				end_exchange(client);
			else if (client->state == CONNECTING)
			{
				client->ledger->connections++;
				client->arrived = true;
				next_request(client);
			}
			else
				die("%s got an answer to nothing", client->ledger->name);
			break;
		default:
			break;
	}
}

/*
 * Bytes of messages, until the connection ends.
 */
static void
take_bytes(Client *client, const unsigned char *bytes, size_t n)
{
	const int life = client->life;

	while (n > 0 && client->life == life)
	{
		size_t taken;

		if (client->head_length < sizeof(client->head))
		{
			client->head[client->head_length++] = *bytes++;
			n--;
			if (client->head_length < sizeof(client->head))
				continue;
			client->body_left =
				((size_t) client->head[1] << 24 |
				 (size_t) client->head[2] << 16 |
				 (size_t) client->head[3] << 8 | (size_t) client->head[4]) -
				4;
			client->body_length = 0;
		}
		taken = n < client->body_left ? n : client->body_left;
		for (size_t i = 0;
			 i < taken && client->body_length < sizeof(client->body); i++)
			client->body[client->body_length++] = bytes[i];
		bytes += taken;
		n -= taken;
		client->body_left -= taken;
		if (client->body_left == 0)
		{
			client->head_length = 0;
			take_message(client);
		}
	}
}

/*
 * Something has happened at the client's socket.
 */
static void
attend(Client *client, uint32_t events)
{
	static unsigned char buffer[65536];
	ssize_t n;

	if ((events & EPOLLOUT) != 0 && (events & (EPOLLERR | EPOLLHUP)) == 0)
	{
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = client };

		if (send(client->fd, startup, startup_length, MSG_NOSIGNAL) !=
			(ssize_t) startup_length)
			die("%s cannot send: %s", client->ledger->name, strerror(errno));
		(void) epoll_ctl(poller, EPOLL_CTL_MOD, client->fd, &event);
		return;
	}
	n = recv(client->fd, buffer, sizeof(buffer), 0);
	if (n > 0)
		take_bytes(client, buffer, (size_t) n);
	else if (n == 0)
		lose(client, "closed");
	else if (errno != EAGAIN && errno != EINTR)
		lose(client, strerror(errno));
}


/* ----------
 * Commands
 * ----------
 */

static bool
is_meant(const Client *client)
{
	return strcmp(whom, "all") == 0 ||
		   strcmp(whom, client->group->name) == 0 ||
		   (client->ledger != NULL && strcmp(whom, client->ledger->name) == 0);
}

static bool
is_done(const Client *client)
{
	if (strcmp(command, "run") == 0)
		return client->arrived;
	if (strcmp(command, "pause") == 0)
		return client->state == AWAY || client->state == READY;
	return client->state == AWAY; /* leave, gone */
}

static void
answer_if_done(void)
{
	if (command[0] == '\0')
		return;
	for (int i = 0; i < n_clients; i++)
		if (is_meant(&clients[i]) && !is_done(&clients[i]))
			return;
	command[0] = '\0';
	puts("done");
	(void) fflush(stdout);
}

static void
tell(Client *client)
{
	if (strcmp(command, "run") == 0)
	{
		client->wanted = true;
		client->paused = client->leaving = false;
		client->arrived = client->state >= READY;
		if (client->state == AWAY)
			connect_client(client);
		else if (client->state == READY)
			next_request(client);
	}
	else if (strcmp(command, "pause") == 0)
		client->paused = true;
	else if (strcmp(command, "last") == 0)
		client->wanted = false;
	else if (strcmp(command, "leave") == 0)
	{
		client->wanted = false;
		client->leaving = client->state != AWAY;
		if (client->state == READY)
			leave(client);
	}
	else if (strcmp(command, "gone") != 0)
		die("what is %s?", command);
}

static void
say_counts(void)
{
	const char *separator = "";

	putchar('{');
	for (int g = 0; g < n_groups; g++)
		for (int i = 0; i < groups[g].n_addresses; i++)
		{
			const Ledger *ledger = &groups[g].ledgers[i];

			if (ledger->connections == 0)
				continue;
			printf("%s\"%s\": [%llu, %llu, %llu, %llu, %llu, %llu, %llu, "
				   "%llu]",
				   separator, ledger->name,
				   (unsigned long long) ledger->exchanges,
				   (unsigned long long) ledger->transactions,
				   (unsigned long long) ledger->stamped,
				   (unsigned long long) ledger->ceilings,
				   (unsigned long long) ledger->others,
				   (unsigned long long) ledger->bounds,
				   (unsigned long long) ledger->connections,
				   (unsigned long long) ledger->cut);
			separator = ", ";
		}
	puts("}");
	(void) fflush(stdout);
}

/* one command; ends with the input */
static void
obey(void)
{
	char line[100] = "";
	ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);

	if (n <= 0)
		exit(0);
	if (strcmp(line, "counts\n") == 0)
	{
		say_counts();
		return;
	}
	if (command[0] != '\0' || line[n - 1] != '\n' ||
		sscanf(line, "%15s %39s", command, whom) != 2)
		die("not a command now: %s", line);
	for (int i = 0; i < n_clients; i++)
		if (is_meant(&clients[i]))
			tell(&clients[i]);
	if (strcmp(command, "last") == 0)
	{
		command[0] = '\0';
		puts("done");
		(void) fflush(stdout);
	}
}


/* ----------
 * The beginning
 * ----------
 */

static void
new_group(const char *words)
{
	Group *group = &groups[n_groups++];
	char first[40];
	char kind[16];
	struct in_addr address;

	if (n_groups > MAX_GROUPS ||
		sscanf(words, "%31[^:]:%39[^:]:%d:%d:%d:%15s", group->name, first,
			   &group->n_addresses, &group->n_connections, &group->lifetime,
			   kind) != 6 ||
		inet_pton(AF_INET, first, &address) != 1 || group->n_addresses < 1)
		die("not a group: %s", words);
	group->plain = strcmp(kind, "plain") == 0;
	group->ledgers = calloc((size_t) group->n_addresses, sizeof(Ledger));
	if (group->ledgers == NULL)
		die("no memory");
	for (int i = 0; i < group->n_addresses; i++)
	{
		Ledger *ledger = &group->ledgers[i];
		struct in_addr own;

		ledger->address = ntohl(address.s_addr) + (uint32_t) i;
		own.s_addr = htonl(ledger->address);
		(void) inet_ntop(AF_INET, &own, ledger->name, sizeof(ledger->name));
	}
	n_clients += group->n_connections;
}

static void
write_startup(const char *user, const char *database)
{
	int n = snprintf(startup + 8, sizeof(startup) - 9,
					 "user%c%s%cdatabase%c%s", 0, user, 0, 0, database);

	if (n < 0 || (size_t) n >= sizeof(startup) - 9)
		die("the names are too long");
	startup_length = 8 + (size_t) n + 2;
	put_int32(startup, (uint32_t) startup_length);
	put_int32(startup + 4, 196608);
}

int
main(int argc, char **argv)
{
	struct epoll_event input = { .events = EPOLLIN, .data.ptr = NULL };
	int n = 0;

	if (argc < 5)
		die("PORT USER DATABASE GROUP ...");
	server.sin_port = htons((uint16_t) atoi(argv[1]));
	server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	write_startup(argv[2], argv[3]);
	write_scripts();
	for (int i = 4; i < argc; i++)
		new_group(argv[i]);
	clients = calloc((size_t) n_clients, sizeof(Client));
	poller = epoll_create1(0);
	if (clients == NULL || poller < 0 ||
		epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input) != 0)
		die("no memory, or no epoll");
	for (int g = 0; g < n_groups; g++)
		for (int i = 0; i < groups[g].n_connections; i++)
		{
			clients[n].group = &groups[g];
			clients[n++].number = i;
		}

	for (;;)
	{
		struct epoll_event events[MAX_EVENTS];
		int lives[MAX_EVENTS];
		int ready = epoll_wait(poller, events, MAX_EVENTS, -1);
		bool told = false;

		if (ready < 0 && errno != EINTR)
			die("epoll_wait: %s", strerror(errno));
		for (int i = 0; i < ready; i++)
			if (events[i].data.ptr != NULL)
				lives[i] = ((Client *) events[i].data.ptr)->life;
		for (int i = 0; i < ready; i++)
		{
			Client *client = events[i].data.ptr;

			if (client == NULL)
				told = true;
			else if (client->state != AWAY && client->life == lives[i])
				attend(client, events[i].events);
		}
		if (told)
			obey();
		answer_if_done();
	}
}
