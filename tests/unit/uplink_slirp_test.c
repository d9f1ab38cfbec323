/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * User-mode NAT, spoken to with frames made by hand: DHCP, ARP, TCP to a listener on the host's loopback and back, a
 * forwarded port, and what restricted means.
 */
#include "uplink_probe.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>

#include "net/checksum.h"

#define GUEST	0x0a00020fU /* 10.0.2.15 */
#define GATEWAY 0x0a000202U /* 10.0.2.2, the host's loopback */
#define IP	14
#define L4	(IP + 20)

static uint8_t gateway_mac[6];

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static unsigned get16(const uint8_t *at)
{
	return (unsigned)(at[0] << 8 | at[1]);
}

/* Ethernet and IPv4 headers in front of @l4_length bytes that are there already; and the checksum at @checksum of them.
 */
static uint32_t finish_packet(uint8_t *frame, const void *to_mac, uint8_t protocol, uint32_t from, uint32_t to,
			      unsigned l4_length, unsigned checksum_at)
{
	struct checksum header = { 0 }, l4 = { 0 };
	uint16_t checksum;

	memcpy(frame, to_mac, 6);
	memcpy(frame + 6, PROBE_MAC, 6);
	put16(frame + 12, 0x0800);
	memset(frame + IP, 0, 20);
	frame[IP] = 0x45;
	put16(frame + IP + 2, 20 + l4_length);
	frame[IP + 8] = 64;
	frame[IP + 9] = protocol;
	put32(frame + IP + 12, from);
	put32(frame + IP + 16, to);
	checksum_add(&header, frame + IP, 20);
	checksum = checksum_finish(&header);
	memcpy(frame + IP + 10, &checksum, 2);

	checksum_add(&l4, frame + IP + 12, 8);
	checksum_add_word(&l4, protocol);
	checksum_add_word(&l4, (uint16_t)l4_length);
	checksum_add(&l4, frame + L4, l4_length);
	checksum = checksum_finish(&l4);
	memcpy(frame + L4 + checksum_at, &checksum, 2);
	return max(L4 + l4_length, 60U);
}

static struct bench *open_slirp(struct uplink_config config)
{
	config.type = UPLINK_SLIRP;
	config.name = "test";
	return bench_open(&config);
}

/* The next frame of this protocol (0: ARP) for the probe, within 5 s; others are passed over. */
static struct probe_frame *receive_protocol(struct bench *bench, unsigned protocol, unsigned timeout_ms)
{
	struct probe_frame *frame;

	while ((frame = probe_receive(bench, timeout_ms))) {
		unsigned type = get16(frame->bytes + 12);

		if (protocol ? type == 0x0800 && frame->bytes[IP + 9] == protocol : type == 0x0806)
			return frame;
		free(frame);
	}
	return NULL;
}

/* Who has 10.0.2.2? This also tells slirp who we are. */
static void resolve_gateway(struct bench *bench)
{
	uint8_t arp[60] = { 0 };
	struct probe_frame *reply = NULL;

	memcpy(arp, BROADCAST_MAC, 6);
	memcpy(arp + 6, PROBE_MAC, 6);
	put16(arp + 12, 0x0806);
	put16(arp + 14, 1);
	put16(arp + 16, 0x0800);
	arp[18] = 6;
	arp[19] = 4;
	put16(arp + 20, 1);
	memcpy(arp + 22, PROBE_MAC, 6);
	put32(arp + 28, GUEST);
	put32(arp + 38, GATEWAY);
	/* Asked again as ARP does: a broadcast waits for nobody, and slirp may be behind. */
	for (unsigned tries = 0; tries < 20; tries++) {
		probe_send(bench, arp, sizeof(arp), NULL);
		while ((reply = receive_protocol(bench, 0, 500)) && get16(reply->bytes + 20) != 2)
			free(reply);
		if (reply)
			break;
	}
	assert_non_null(reply);
	assert_int_equal(get32(reply->bytes + 28), GATEWAY);
	assert_memory_equal(reply->bytes, PROBE_MAC, 6);
	memcpy(gateway_mac, reply->bytes + 22, 6);
	free(reply);
}

static void test_dhcp(void **state)
{
	struct bench *bench = open_slirp((struct uplink_config){ 0 });
	uint8_t frame[L4 + 8 + 300] = { 0 }, *udp = frame + L4, *bootp = udp + 8;
	static const uint8_t options[] = { 0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255 }; /* DHCPDISCOVER */
	struct probe_frame *offer;

	put16(udp, 68);
	put16(udp + 2, 67);
	put16(udp + 4, 8 + 300);
	bootp[0] = 1;
	bootp[1] = 1;
	bootp[2] = 6;
	put32(bootp + 4, 0x12345678);
	memcpy(bootp + 28, PROBE_MAC, 6);
	memcpy(bootp + 236, options, sizeof(options));
	probe_send(bench, frame, finish_packet(frame, BROADCAST_MAC, IPPROTO_UDP, 0, 0xffffffff, 308, 6), NULL);

	offer = receive_protocol(bench, IPPROTO_UDP, 5000);
	assert_non_null(offer);
	bootp = offer->bytes + L4 + 8;
	assert_int_equal(get16(offer->bytes + L4 + 2), 68);
	assert_int_equal(bootp[0], 2);
	assert_int_equal(get32(bootp + 4), 0x12345678);
	assert_int_equal(get32(bootp + 16), GUEST);
	assert_int_equal(bootp[240], 53);
	assert_int_equal(bootp[242], 2); /* DHCPOFFER */
	free(offer);
	expect_idle();
	bench_close(bench);
}

static int listen_on_loopback(uint16_t *port)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	*port = ntohs(address.sin_port);
	return fd;
}

static void send_tcp(struct bench *bench, uint16_t port, uint32_t sequence, uint32_t acknowledge, unsigned flags,
		     const char *data)
{
	uint8_t frame[200] = { 0 }, *tcp = frame + L4;
	unsigned length = 20 + (unsigned)strlen(data);

	put16(tcp, 40000);
	put16(tcp + 2, port);
	put32(tcp + 4, sequence);
	put32(tcp + 8, acknowledge);
	tcp[12] = 5 << 4;
	tcp[13] = (uint8_t)flags;
	put16(tcp + 14, 60000);
	memcpy(tcp + 20, data, strlen(data));
	probe_send(bench, frame, finish_packet(frame, gateway_mac, IPPROTO_TCP, GUEST, GATEWAY, length, 16), NULL);
}

#define FLAG_SYN 2U
#define FLAG_ACK 16U

static void test_tcp_to_loopback(void **state)
{
	struct bench *bench = open_slirp((struct uplink_config){ 0 });
	struct pollfd listener = { .events = POLLIN };
	struct probe_frame *frame;
	char text[16] = "";
	uint32_t theirs;
	uint16_t port;
	int peer;

	listener.fd = listen_on_loopback(&port);
	resolve_gateway(bench);
	send_tcp(bench, port, 1000, 0, FLAG_SYN, "");
	assert_int_equal(poll(&listener, 1, 5000), 1);
	peer = accept(listener.fd, NULL, NULL);
	frame = receive_protocol(bench, IPPROTO_TCP, 5000);
	assert_non_null(frame);
	assert_int_equal(frame->bytes[L4 + 13] & (FLAG_SYN | FLAG_ACK), FLAG_SYN | FLAG_ACK);
	assert_int_equal(get32(frame->bytes + L4 + 8), 1001);
	theirs = get32(frame->bytes + L4 + 4);
	free(frame);

	send_tcp(bench, port, 1001, theirs + 1, FLAG_ACK, "");
	send_tcp(bench, port, 1001, theirs + 1, FLAG_ACK, "hello");
	assert_int_equal(recv(peer, text, sizeof(text), 0), 5);
	assert_string_equal(text, "hello");
	assert_int_equal(send(peer, "world", 5, 0), 5);
	do {
		unsigned header;

		frame = receive_protocol(bench, IPPROTO_TCP, 5000);
		assert_non_null(frame);
		header = frame->bytes[L4 + 12] / 16 * 4U;
		memset(text, 0, sizeof(text));
		if (get16(frame->bytes + IP + 2) == 20 + header + 5)
			memcpy(text, frame->bytes + L4 + header, 5);
		free(frame);
	} while (strcmp(text, "world"));
	close(peer);
	close(listener.fd);
	bench_close(bench);
}

static void test_restricted(void **state)
{
	struct bench *bench = open_slirp((struct uplink_config){ .restricted = true });
	struct pollfd listener = { .events = POLLIN };
	uint16_t port;

	listener.fd = listen_on_loopback(&port);
	resolve_gateway(bench);
	send_tcp(bench, port, 1000, 0, FLAG_SYN, "");
	assert_int_equal(poll(&listener, 1, 500), 0);
	close(listener.fd);
	bench_close(bench);
}

static void test_forward(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const char *forwards[2] = { NULL };
	struct probe_frame *frame;
	struct bench *bench;
	char forward[64];
	uint16_t port;
	int fd;

	close(listen_on_loopback(&port)); /* a port that is free */
	snprintf(forward, sizeof(forward), "tcp:127.0.0.1:%u-10.0.2.15:22", port);
	forwards[0] = forward;
	bench = open_slirp((struct uplink_config){ .forwards = forwards });
	resolve_gateway(bench);

	/* In use, by the uplink that we have just opened. */
	{
		struct uplink_config config = { .type = UPLINK_SLIRP, .forwards = forwards };
		struct uplink *second;
		const char *error;

		assert_int_equal(uplink_open(&config, bench->engine, bench->network, &second, &error), -EADDRINUSE);
		assert_non_null(strstr(error, "in use"));
	}

	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	address.sin_port = htons(port);
	assert_true(!connect(fd, (struct sockaddr *)&address, sizeof(address)) || errno == EINPROGRESS);
	frame = receive_protocol(bench, IPPROTO_TCP, 5000);
	assert_non_null(frame);
	assert_int_equal(get32(frame->bytes + IP + 16), GUEST);
	assert_int_equal(get16(frame->bytes + L4 + 2), 22);
	assert_int_equal(frame->bytes[L4 + 13] & (FLAG_SYN | FLAG_ACK), FLAG_SYN);
	free(frame);
	close(fd);
	bench_close(bench);
}

/* Frames that mean nothing, too long or too short ones, and many of them: slirp shrugs, and goes on. */
static void test_nonsense(void **state)
{
	struct bench *bench = open_slirp((struct uplink_config){ .ipv6 = true });
	uint8_t frame[3000];
	unsigned seed = 1;

	for (unsigned i = 0; i < 5000; i++) {
		uint32_t length = 14 + (uint32_t)rand_r(&seed) % (i % 100 == 0 ? 2900 : 200);

		for (uint32_t j = 0; j < length; j++)
			frame[j] = (uint8_t)rand_r(&seed);
		memcpy(frame, BROADCAST_MAC, 6);
		memcpy(frame + 6, PROBE_MAC, 6);
		if (i % 3)
			put16(frame + 12, i % 3 == 1 ? 0x0800 : 0x86dd);
		if (i % 3 && length > IP)
			frame[IP] = i % 3 == 1 ? 0x45 : 0x60;
		probe_send(bench, frame, length, NULL);
	}
	wait_until(probe_sent_all(bench));
	assert_true(uplink_counters(bench).drops[PORT_DROP_OVERSIZE] > 0);
	resolve_gateway(bench);
	bench_close(bench);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dhcp),	   cmocka_unit_test(test_tcp_to_loopback),
		cmocka_unit_test(test_restricted), cmocka_unit_test(test_forward),
		cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
