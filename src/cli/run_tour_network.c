/* SPDX-License-Identifier: BSD-3-Clause */
/* The tour's network steps: uplink (DHCP, TCP to the host's loopback, DNS), then guest to guest. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/run_tour.h"

#define UPLINK_BYTES (8U << 20)
#define RR_PORT	     7000

/* --- an echo server on the host's loopback, reached by guests as 10.0.2.2 --- */

struct echo_server {
	int listener;
	int stop[2]; /* a pipe: closing it ends the thread */
	uint16_t port;
	pthread_t thread;
};

static void echo(int connection)
{
	char buffer[65536];
	ssize_t size;

	while ((size = recv(connection, buffer, sizeof(buffer), 0)) > 0) {
		for (ssize_t sent = 0, part; sent < size; sent += part) {
			part = send(connection, buffer + sent, (size_t)(size - sent), MSG_NOSIGNAL);
			if (part < 0)
				return;
		}
	}
}

static void *serve_echo(void *argument)
{
	struct echo_server *server = argument;
	struct pollfd wait[2] = { { .fd = server->listener, .events = POLLIN }, { .fd = server->stop[0] } };

	while (poll(wait, 2, -1) >= 0 && !wait[1].revents) {
		int connection = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
		struct timeval limit = { .tv_sec = 20 };

		if (connection < 0)
			continue;
		setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		echo(connection);
		close(connection);
	}
	return NULL;
}

static int start_echo(struct echo_server *server)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int error;

	server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server->listener < 0)
		return -errno;
	if (bind(server->listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(server->listener, 4) < 0 || getsockname(server->listener, (struct sockaddr *)&address, &size) < 0 ||
	    pipe(server->stop) < 0) {
		error = -errno;
		close(server->listener);
		return error;
	}
	server->port = ntohs(address.sin_port);
	error = -pthread_create(&server->thread, NULL, serve_echo, server);
	if (error) {
		close(server->listener);
		close(server->stop[0]);
		close(server->stop[1]);
	}
	return error;
}

static void stop_echo(struct echo_server *server)
{
	close(server->stop[1]);
	pthread_join(server->thread, NULL);
	close(server->stop[0]);
	close(server->listener);
}

/* --- uplink --- */

static bool dhcp_step(struct tour *tour, unsigned index)
{
	struct run_guest *guest = &tour->run->guests[index];
	char *output;

	tour_step(tour, "%s: address by DHCP", guest->name);
	output = tour_guest(tour, index, 20,
			    "ip link set eth0 up && udhcpc -i eth0 -n -q -t 10 -T 1 >/dev/null 2>&1 && "
			    "ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'");
	if (!output)
		return false;
	snprintf(guest->address, sizeof(guest->address), "%.*s", (int)strcspn(output, "\n"), output);
	free(output);
	if (inet_addr(guest->address) == INADDR_NONE)
		return tour_fail(tour, "no address: '%s'", guest->address);
	snprintf(tour->row->detail, sizeof(tour->row->detail), "%s", guest->address);
	return tour_pass(tour);
}

/* Random bytes go out and come back; the guest compares. */
static void uplink_tcp_step(struct tour *tour)
{
	struct tour_sample difference;
	struct echo_server server;
	char *output;
	int error;

	tour_step(tour, "TCP to the host's loopback and back");
	error = start_echo(&server);
	if (error) {
		tour_fail(tour, "no server on the host's loopback: %s", strerror(-error));
		return;
	}
	output = tour_guest(
		tour, 0, 60,
		"head -c %u /dev/urandom >/tmp/sent && socat -t 20 - TCP:10.0.2.2:%u </tmp/sent >/tmp/back && "
		"cmp /tmp/sent /tmp/back && rm /tmp/sent /tmp/back",
		UPLINK_BYTES, server.port);
	stop_echo(&server);
	if (!output)
		return;
	free(output);
	tour_measure(tour, false, &difference);
	tour->row->throughput = UPLINK_BYTES / difference.clock;
	snprintf(tour->row->detail, sizeof(tour->row->detail), "%u MiB each way, unchanged", UPLINK_BYTES >> 20);
	tour_pass(tour);
}

static void dns_step(struct tour *tour)
{
	static const char name[] = "deb.debian.org";
	struct addrinfo *found = NULL;
	char *output;

	tour_step(tour, "DNS through the uplink");
	if (getaddrinfo(name, NULL, NULL, &found)) {
		tour_skip(tour, "the host itself resolves no names");
		return;
	}
	freeaddrinfo(found);
	output = tour_guest(tour, 0, 20, "nslookup %s", name);
	if (!output)
		return;
	free(output);
	tour_pass(tour);
}

/* --- guest to guest --- */

static bool ping_step(struct tour *tour, unsigned from, unsigned to)
{
	const struct run_guest *guests = tour->run->guests;
	double minimum, average, maximum;
	struct tour_sample difference;
	char *output;
	const char *figures;

	tour_step(tour, "ping %s -> %s", guests[from].name, guests[to].name);
	output = tour_guest(tour, from, 20, "ping -c 50 -i 0.02 -q -W 2 %s", guests[to].address);
	if (!output)
		return false;
	tour_measure(tour, false, &difference);
	figures = strstr(output, "min/avg/max/mdev = ");
	if (!strstr(output, " 0% packet loss") || !figures ||
	    sscanf(figures + 19, "%lf/%lf/%lf", &minimum, &average, &maximum) != 3) {
		tour_fail(tour, "%.100s", output);
		free(output);
		return false;
	}
	free(output);
	snprintf(tour->row->detail, sizeof(tour->row->detail), "50 of 50, %.0f us on average", 1000 * average);
	return tour_pass(tour);
}

static void latency_step(struct tour *tour, const char *protocol)
{
	const struct run_guest *guests = tour->run->guests;
	struct tour_sample difference;
	char command[128];
	char *output;
	json_t *json;

	tour_step(tour, "request/response by %s", protocol);
	output = tour_guest(tour, 1, 10, "setsid rr server %u %s >/dev/null 2>&1 </dev/null & sleep 0.3", RR_PORT,
			    protocol);
	if (!output)
		return;
	free(output);
	snprintf(command, sizeof(command), "rr client %s %u %s 2s", guests[1].address, RR_PORT, protocol);
	json = tour_guest_json(tour, 0, 20, command);
	if (!json)
		return;
	tour_measure(tour, false, &difference);
	tour->row->p50_us = tour_number(json, "p50_us");
	tour->row->p99_us = tour_number(json, "p99_us");
	tour->row->throughput = tour_number(json, "transactions") / tour_number(json, "seconds");
	tour->row->unit = UNIT_REQUESTS;
	if (tour_number(json, "lost") > 0)
		tour_fail(tour, "%.0f requests without an answer", tour_number(json, "lost"));
	else
		tour_pass(tour);
	json_decref(json);
	output = tour_guest(tour, 1, 10, "pkill -x rr || true");
	free(output);
}

/*
 * The sender's and the receiver's frames together, as long as this on average, tell that segments crossed whole. Half of
 * them are acknowledgements, so any average above an MTU's frame does; virtio guests have few of these, because they receive
 * whole segments, too. A slow sender makes small segments (TCP's pacing), so no more is asked of the others.
 */
static double whole_segments(const struct tour *tour)
{
	const struct run_guest *guests = tour->run->guests;

	return guests[0].nic == CONFIG_NIC_VIRTIO && guests[1].nic == CONFIG_NIC_VIRTIO ? 4000 : 1514;
}

/* TCP streams; @segments: 64 KiB segments must cross whole, or else no frame may be longer than the MTU allows. */
static void stream_step(struct tour *tour, bool segments, bool reverse)
{
	const struct run_guest *guests = tour->run->guests;
	struct tour_sample difference;
	double bits, frame;
	char command[128];
	json_t *json;

	tour_step(tour, "TCP stream %s -> %s, %s", guests[reverse].name, guests[!reverse].name,
		  segments ? "64 KiB segments" : "no offload");
	snprintf(command, sizeof(command), "iperf3 -c %s -t 3 -J%s", guests[1].address, reverse ? " -R" : "");
	json = tour_guest_json(tour, 0, 30, command);
	if (!json)
		return;
	tour_measure(tour, false, &difference);
	bits = tour_number(json, "end/sum_received/bits_per_second");
	json_decref(json);
	tour->row->throughput = bits / 8;
	/* Half of the frames are acknowledgements; what the sender's frames have on average shows what crossed. */
	frame = difference.sent_frames > 0 ? difference.sent_bytes / difference.sent_frames : 0;
	snprintf(tour->row->detail, sizeof(tour->row->detail), "%.0f B a frame, acknowledgements included", frame);
	if (bits <= 0)
		tour_fail(tour, "iperf3 received nothing");
	else if (segments ? frame <= whole_segments(tour) : frame > 1514)
		tour_fail(tour, "%.0f bytes a frame: segments did not %s", frame,
			  segments ? "cross whole" : "stay small");
	else
		tour_pass(tour);
}

static bool set_offloads(struct tour *tour, const char *state)
{
	for (unsigned i = 0; i < 2; i++) {
		char *output = tour_guest(tour, i, 10,
					  "ethtool -K eth0 gro %s; ethtool -K eth0 sg %s tx %s tso %s gso %s 2>&1; "
					  "ethtool -k eth0 | grep -q '^tcp-segmentation-offload: %s'",
					  state, state, state, state, state, state);

		if (!output)
			return false;
		free(output);
	}
	return true;
}

static void streams(struct tour *tour)
{
	char *output;

	tour_step(tour, "iperf3 server in %s", tour->run->guests[1].name);
	output = tour_guest(tour, 1, 10, "iperf3 -s -D && sleep 0.5");
	if (!output)
		return;
	free(output);
	tour_pass(tour);
	stream_step(tour, true, false);
	stream_step(tour, true, true);

	tour_step(tour, "offloads off in both guests");
	if (!set_offloads(tour, "off"))
		return;
	tour_pass(tour);
	stream_step(tour, false, false);
	stream_step(tour, false, true);
}

bool tour_network(struct tour *tour)
{
	tour->section = SECTION_UPLINK;
	for (unsigned i = 0; i < tour->run->options.guests; i++) {
		if (!dhcp_step(tour, i))
			return false;
	}
	uplink_tcp_step(tour);
	dns_step(tour);
	if (tour->run->options.guests < 2)
		return true;
	tour->section = SECTION_GUESTS;
	if (!ping_step(tour, 0, 1) || !ping_step(tour, 1, 0))
		return true;
	latency_step(tour, "udp");
	latency_step(tour, "tcp");
	streams(tour);
	return true;
}
