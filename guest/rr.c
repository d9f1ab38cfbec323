/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rr: request/response latency over UDP or TCP, as seen by two ordinary sockets.
 *
 *	rr server PORT [udp|tcp]			echoes on that port; both protocols unless one is named
 *	rr client HOST PORT [udp|tcp] LIMIT [busy]	LIMIT: "1000" transactions or "5s" seconds; HOST is an address
 *
 * The client keeps one request of 16 bytes in flight and times it from send() to the end of the answer. "busy" polls
 * the socket instead of sleeping in the kernel, which takes the guest's own wake-up out of the figure. UDP requests
 * without an answer within a second count as lost; late answers are known by their sequence number and dropped. The
 * result is one JSON line; percentiles come from a histogram with 128 steps per power of two (error below 0.8 %).
 *
 * Exit status of the client: 0 if at least one transaction succeeded and, over TCP, the connection held.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAGIC	     0x72722d6563686f31ULL /* "rr-echo1" */
#define NANO	     1000000000LL
#define CLIENTS_MAX  64
#define STEPS	     128 /* of the histogram, per power of two */
#define STEPS_SHIFT  7
#define BUCKETS	     (STEPS * (64 - STEPS_SHIFT + 1))
#define LOST_TIMEOUT NANO

struct message {
	uint64_t magic;
	uint64_t sequence;
};

struct result {
	uint64_t count, lost;
	int64_t sum, min, max; /* ns */
	uint64_t histogram[BUCKETS];
};

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NANO + now.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "rr: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static socklen_t parse_address(const char *host, const char *port, struct sockaddr_storage *address)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	unsigned long number = strtoul(port, NULL, 10);

	memset(address, 0, sizeof(*address));
	if (number == 0 || number > UINT16_MAX) {
		fprintf(stderr, "rr: %s is not a port\n", port);
		exit(EXIT_FAILURE);
	}
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)number);
		return sizeof(*v4);
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)number);
		return sizeof(*v6);
	}
	fprintf(stderr, "rr: %s is not an address (names are not resolved)\n", host);
	exit(EXIT_FAILURE);
}

/* Server */

static int server_socket(const char *port, int type)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address("::", port, &address); /* takes IPv4 too */
	int yes = 1, no = 0;
	int fd = socket(AF_INET6, type, 0);

	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
	if (bind(fd, (struct sockaddr *)&address, length))
		fail("bind");
	if (type == SOCK_STREAM && listen(fd, CLIENTS_MAX))
		fail("listen");
	return fd;
}

static void server_echo_datagram(int fd)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof(from);
	char buffer[2048];
	ssize_t count = recvfrom(fd, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &length);

	if (count > 0)
		sendto(fd, buffer, (size_t)count, 0, (struct sockaddr *)&from, length);
}

static void server_accept(int listener, struct pollfd *clients)
{
	int yes = 1;
	int fd = accept(listener, NULL, NULL);

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	for (int i = 0; i < CLIENTS_MAX; i++) {
		if (clients[i].fd < 0) {
			clients[i] = (struct pollfd){ .fd = fd, .events = POLLIN };
			return;
		}
	}
	close(fd);
}

static void server_echo_stream(struct pollfd *client)
{
	char buffer[2048];
	ssize_t count = recv(client->fd, buffer, sizeof(buffer), 0);

	if (count > 0 && send(client->fd, buffer, (size_t)count, 0) == count)
		return;
	close(client->fd);
	client->fd = -1;
}

__attribute__((noreturn)) static void server(const char *port, const char *protocol)
{
	struct pollfd polls[2 + CLIENTS_MAX];

	for (int i = 0; i < 2 + CLIENTS_MAX; i++)
		polls[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	if (!protocol || !strcmp(protocol, "udp"))
		polls[0].fd = server_socket(port, SOCK_DGRAM);
	if (!protocol || !strcmp(protocol, "tcp"))
		polls[1].fd = server_socket(port, SOCK_STREAM);
	puts("ready");
	fflush(stdout);

	for (;;) {
		if (poll(polls, 2 + CLIENTS_MAX, -1) < 0)
			fail("poll");
		if (polls[0].revents)
			server_echo_datagram(polls[0].fd);
		for (int i = 2; i < 2 + CLIENTS_MAX; i++)
			if (polls[i].fd >= 0 && polls[i].revents)
				server_echo_stream(&polls[i]);
		if (polls[1].revents)
			server_accept(polls[1].fd, polls + 2);
	}
}

/* Client */

/* Values below STEPS have a bucket each; above, the STEPS_SHIFT bits after the leading one choose a step. */
static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < STEPS)
		return (unsigned)value;
	shift = 63 - (unsigned)__builtin_clzll(value) - STEPS_SHIFT;
	return (shift + 1) * STEPS + (unsigned)((value >> shift) - STEPS);
}

static double bucket_middle(unsigned bucket)
{
	unsigned shift;

	if (bucket < STEPS)
		return bucket;
	shift = bucket / STEPS - 1;
	return ((double)(bucket % STEPS + STEPS) + 0.5) * (double)(1ULL << shift);
}

static double percentile_us(const struct result *result, double fraction)
{
	uint64_t rank = (uint64_t)(fraction * (double)result->count);
	uint64_t seen = 0;

	for (unsigned i = 0; i < BUCKETS; i++) {
		seen += result->histogram[i];
		if (seen > rank)
			return bucket_middle(i) / 1e3;
	}
	return (double)result->max / 1e3;
}

static void result_add(struct result *result, int64_t ns)
{
	result->sum += ns;
	if (!result->count || ns < result->min)
		result->min = ns;
	if (ns > result->max)
		result->max = ns;
	result->histogram[bucket_of((uint64_t)ns)]++;
	result->count++;
}

/* Wait for a whole answer to @sequence. Return: 0, or -1 with errno (ETIMEDOUT: lost). */
static int receive_answer(int fd, bool stream, bool busy, uint64_t sequence, int64_t deadline)
{
	struct message answer;
	size_t have = 0;

	for (;;) {
		ssize_t count = recv(fd, (char *)&answer + have, sizeof(answer) - have, busy ? MSG_DONTWAIT : 0);

		if (count == 0 && stream) {
			errno = ECONNRESET;
			return -1;
		}
		if (count < 0 && errno != EAGAIN && errno != EINTR)
			return -1;
		if (count > 0)
			have += (size_t)count;
		if (have == sizeof(answer) && answer.magic == MAGIC && answer.sequence == sequence)
			return 0;
		if (have == sizeof(answer) || (have && !stream))
			have = 0; /* a late answer */
		if (count < 0 && now_ns() >= deadline) {
			errno = ETIMEDOUT;
			return -1;
		}
	}
}

static int client_socket(const char *host, const char *port, bool stream)
{
	struct sockaddr_storage address;
	socklen_t length = parse_address(host, port, &address);
	struct timeval timeout = { .tv_usec = 100000 }; /* so that a sleeping recv() looks at its deadline */
	int yes = 1;
	int fd = socket(address.ss_family, stream ? SOCK_STREAM : SOCK_DGRAM, 0);

	if (fd < 0)
		fail("socket");
	if (connect(fd, (struct sockaddr *)&address, length))
		fail("connect");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (stream)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fd;
}

static int client(const char *host, const char *port, const char *protocol, const char *limit, bool busy)
{
	static struct result result;
	bool stream = !strcmp(protocol, "tcp");
	char *suffix;
	uint64_t number = strtoull(limit, &suffix, 10);
	uint64_t count_max = *suffix == 's' ? UINT64_MAX : number;
	int fd = client_socket(host, port, stream);
	int64_t start = now_ns();
	int64_t end = *suffix == 's' ? start + (int64_t)number * NANO : INT64_MAX;
	int64_t now = start;
	const char *error = NULL;

	for (uint64_t i = 0; i < count_max && now < end; i++) {
		struct message request = { .magic = MAGIC, .sequence = i };
		int64_t sent = now_ns();

		if (send(fd, &request, sizeof(request), 0) != sizeof(request) ||
		    receive_answer(fd, stream, busy, i, sent + LOST_TIMEOUT * (stream ? 30 : 1))) {
			if (stream) {
				error = strerror(errno);
				break;
			}
			result.lost++;
			/* A refusal comes back at once: do not spin through the whole count before the server is up. */
			if (errno == ECONNREFUSED)
				usleep(10000);
			now = now_ns();
			continue;
		}
		now = now_ns();
		result_add(&result, now - sent);
	}

	printf("{\"protocol\": \"%s\", \"transactions\": %llu, \"lost\": %llu, \"seconds\": %.3f, \"mean_us\": %.1f, "
	       "\"min_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"error\": %s%s%s}\n",
	       protocol, (unsigned long long)result.count, (unsigned long long)result.lost, (double)(now - start) / 1e9,
	       result.count ? (double)result.sum / (double)result.count / 1e3 : 0, (double)result.min / 1e3,
	       percentile_us(&result, 0.50), percentile_us(&result, 0.99), (double)result.max / 1e3, error ? "\"" : "",
	       error ? error : "null", error ? "\"" : "");
	return result.count && !error ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int usage(void)
{
	fprintf(stderr, "usage: rr server PORT [udp|tcp]\n"
			"       rr client ADDRESS PORT [udp|tcp] COUNT|SECONDSs [busy]\n");
	return 2;
}

static bool is_protocol(const char *word)
{
	return !strcmp(word, "udp") || !strcmp(word, "tcp");
}

int main(int argc, char **argv)
{
	bool busy = argc > 2 && !strcmp(argv[argc - 1], "busy");

	signal(SIGPIPE, SIG_IGN);
	if (busy)
		argc--;
	if ((argc == 3 || (argc == 4 && is_protocol(argv[3]))) && !strcmp(argv[1], "server"))
		server(argv[2], argc == 4 ? argv[3] : NULL);
	if (argc == 5 && !strcmp(argv[1], "client") && !is_protocol(argv[4]))
		return client(argv[2], argv[3], "udp", argv[4], busy);
	if (argc == 6 && !strcmp(argv[1], "client") && is_protocol(argv[4]))
		return client(argv[2], argv[3], argv[4], argv[5], busy);
	return usage();
}
