/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tap uplink in a network namespace of its own, against the kernel: packet sockets on the tap's other side, and UDP
 * with checksums left to the other end. Skipped, with the reason, where no namespace or tap is to be had.
 */
#include "uplink_probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "net/checksum.h"
#include "net/tap_header.h"

#define TYPE	 0x88b5 /* of make_frame() */
#define HOST_MAC "\x52\x54\x00\x00\x00\x03"

static const char *no_tap; /* why not */

/* --- the header --- */

static const struct {
	struct virtio_net_hdr header;
	uint32_t length;
	bool good;
	struct frame_offload offload;
} headers[] = {
	/* 0 */ { { 0 }, 60, true, { 0 } },
	/* 1 */ { { .flags = 2 }, 60, true, { .checksum_valid = true } },
	/* 2 */
	{ { .flags = 1, .csum_start = 34, .csum_offset = 6 },
	  60,
	  true,
	  { .checksum_partial = true, .checksum_start = 34, .checksum_offset = 6 } },
	/* 3 */
	{ { .flags = 1, .csum_start = 34, .csum_offset = 6 },
	  42,
	  true,
	  { .checksum_partial = true, .checksum_start = 34, .checksum_offset = 6 } },
	/* 4 */ { { .flags = 1, .csum_start = 34, .csum_offset = 6 }, 41, false, { 0 } },
	/* 5 */ { { .flags = 1, .csum_start = 65535, .csum_offset = 65535 }, 60, false, { 0 } },
	/* 6 */
	{ { .flags = 1, .gso_type = 1, .hdr_len = 54, .gso_size = 1448, .csum_start = 34, .csum_offset = 16 },
	  9000,
	  true,
	  { .checksum_partial = true,
	    .gso = FRAME_GSO_TCPV4,
	    .gso_size = 1448,
	    .header_length = 54,
	    .checksum_start = 34,
	    .checksum_offset = 16 } },
	/* 7 */
	{ { .flags = 1, .gso_type = 0x84, .hdr_len = 74, .gso_size = 1428, .csum_start = 54, .csum_offset = 16 },
	  9000,
	  true,
	  { .checksum_partial = true,
	    .ecn = true,
	    .gso = FRAME_GSO_TCPV6,
	    .gso_size = 1428,
	    .header_length = 74,
	    .checksum_start = 54,
	    .checksum_offset = 16 } },
	/* 8 */
	{ { .flags = 1, .gso_type = 5, .hdr_len = 42, .gso_size = 1000, .csum_start = 34, .csum_offset = 6 },
	  9000,
	  true,
	  { .checksum_partial = true,
	    .gso = FRAME_GSO_UDP_SEGMENT,
	    .gso_size = 1000,
	    .header_length = 42,
	    .checksum_start = 34,
	    .checksum_offset = 6 } },
	/* 9 */ { { .gso_type = 1, .gso_size = 1448 }, 9000, false, { 0 } }, /* no partial checksum */
	/* 10 */ { { .flags = 1, .gso_type = 1, .csum_start = 34, .csum_offset = 16 }, 9000, false, { 0 } }, /* no size
													      */
	/* 11 */ { { .flags = 1, .gso_type = 2, .gso_size = 9, .csum_start = 34 }, 9000, false, { 0 } }, /* no such type
													  */
};

static void test_header(void **state)
{
	for (size_t i = 0; i < array_size(headers); i++) {
		struct frame_offload offload;
		struct virtio_net_hdr built;
		struct frame frame = { .length = headers[i].length };

		if (tap_header_parse(&headers[i].header, headers[i].length, &offload) != headers[i].good)
			fail_msg("case %zu: %s", i, headers[i].good ? "refused" : "taken");
		if (!headers[i].good)
			continue;
		if (memcmp(&offload, &headers[i].offload, sizeof(offload)))
			fail_msg("case %zu: another offload state", i);
		frame.offload = offload;
		tap_header_build(&frame, &built);
		if (memcmp(&built, &headers[i].header, sizeof(built)))
			fail_msg("case %zu: comes back as something else", i);
	}
}

/* --- with the kernel --- */

static int packet_socket(const char *interface)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(TYPE) };
	struct timeval timeout = { .tv_sec = 5 };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(TYPE));

	address.sll_ifindex = (int)if_nametoindex(interface);
	assert_true(fd >= 0);
	assert_true(address.sll_ifindex > 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return fd;
}

/* The next frame of this EtherType; the kernel has things of its own to say (IPv6). */
static struct probe_frame *receive_type(struct bench *bench, unsigned type)
{
	struct probe_frame *frame;

	while ((frame = probe_receive(bench, 5000))) {
		if ((unsigned)(frame->bytes[12] << 8 | frame->bytes[13]) == type)
			return frame;
		free(frame);
	}
	fail_msg("no frame of type %x came", type);
	return NULL;
}

static void frames_both_ways(struct bench *bench, const char *interface)
{
	static const uint32_t lengths[] = { 60, 64, 65, 1000, 1514 };
	int fd = packet_socket(interface);
	uint8_t frame[1514], got[2000];

	for (unsigned i = 0; i < 500; i++) {
		uint32_t length = lengths[i % array_size(lengths)];
		struct probe_frame *received;

		make_frame(frame, length, HOST_MAC, i);
		assert_int_equal(send(fd, frame, length, 0), length);
		received = receive_type(bench, TYPE);
		assert_int_equal(received->length, length);
		assert_memory_equal(received->bytes, frame, length);
		free(received);
		make_frame(frame, length, PROBE_MAC, i);
		probe_send(bench, frame, length, NULL);
		assert_int_equal(recv(fd, got, sizeof(got), 0), length);
		assert_memory_equal(got, frame, length);
	}
	close(fd);
}

static void test_one_queue(void **state)
{
	struct uplink_config config = { .type = UPLINK_TAP, .name = "test", .interface = "sctest0" };
	struct uplink *second = NULL;
	struct bench *bench;
	const char *error;

	if (no_tap) {
		print_message("skipped: %s\n", no_tap);
		skip();
	}
	bench = bench_open(&config);
	frames_both_ways(bench, "sctest0"); /* that it is up is our doing */
	expect_idle();
	frames_both_ways(bench, "sctest0");
	assert_string_equal(uplink_state(bench->uplink), "open");

	assert_int_equal(uplink_open(&config, bench->engine, bench->network, &second, &error), -EBUSY);
	assert_non_null(strstr(error, "in use"));
	config.interface = "lo";
	assert_true(uplink_open(&config, bench->engine, bench->network, &second, &error) < 0);
	assert_null(second);
	bench_close(bench);
	assert_int_equal(if_nametoindex("sctest0"), 0);
}

static void test_queues(void **state)
{
	struct bench *bench;

	if (no_tap)
		skip();
	bench = bench_open(
		&(struct uplink_config){ .type = UPLINK_TAP, .name = "test", .interface = "sctest1", .queues = 4 });
	frames_both_ways(bench, "sctest1");
	expect_idle();
	bench_close(bench);
}

/* An interface that goes down: frames are lost by name; up again: they pass. */
static void set_up(const char *interface, bool up)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(request.ifr_name, interface);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &request), 0);
	if (up)
		request.ifr_flags |= IFF_UP;
	else
		request.ifr_flags &= ~IFF_UP;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
	close(fd);
}

static void test_interface_down(void **state)
{
	uint8_t frame[60];
	struct bench *bench;

	if (no_tap)
		skip();
	bench = bench_open(&(struct uplink_config){ .type = UPLINK_TAP, .name = "test", .interface = "sctest2" });
	set_up("sctest2", false);
	make_frame(frame, sizeof(frame), PROBE_MAC, 1);
	probe_send(bench, frame, sizeof(frame), NULL);
	wait_until(uplink_counters(bench).drops[PORT_DROP_UPLINK_ERROR] == 1);
	set_up("sctest2", true);
	frames_both_ways(bench, "sctest2");
	bench_close(bench);
}

/* --- checksums left to the other end --- */

static void set_address(const char *interface, const char *address)
{
	struct ifreq request = { 0 };
	struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(request.ifr_name, interface);
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = inet_addr(address);
	assert_int_equal(ioctl(fd, SIOCSIFADDR, &request), 0);
	close(fd);
}

/* Is the UDP checksum of this frame right? */
static bool udp_checksum_right(const uint8_t *frame)
{
	uint16_t length = (uint16_t)(frame[38] << 8 | frame[39]);
	struct checksum sum = { 0 };

	checksum_add(&sum, frame + 26, 8);
	checksum_add_word(&sum, IPPROTO_UDP);
	checksum_add_word(&sum, length);
	checksum_add(&sum, frame + 34, length);
	return checksum_finish(&sum) == 0;
}

static void answer_arp(struct bench *bench)
{
	struct probe_frame *request = receive_type(bench, 0x0806);
	uint8_t reply[60] = { 0 };

	memcpy(reply, request->bytes + 6, 6);
	memcpy(reply + 6, PROBE_MAC, 6);
	memcpy(reply + 12, request->bytes + 12, 8);
	reply[21] = 2;
	memcpy(reply + 22, PROBE_MAC, 6);
	memcpy(reply + 28, request->bytes + 38, 4);
	memcpy(reply + 32, request->bytes + 22, 10);
	probe_send(bench, reply, sizeof(reply), NULL);
	free(request);
}

static void test_checksums(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(7777) };
	struct timeval timeout = { .tv_sec = 5 };
	socklen_t length = sizeof(address);
	struct probe_frame *received;
	struct frame_offload offload;
	uint8_t reply[14 + 20 + 8 + 100];
	struct checksum sum = { 0 };
	char data[100], got[200];
	struct bench *bench;
	uint16_t checksum;
	int fd;

	if (no_tap)
		skip();
	memset(data, 'x', sizeof(data));
	bench = bench_open(&(struct uplink_config){ .type = UPLINK_TAP, .name = "test", .interface = "sctest3" });
	set_address("sctest3", "10.9.8.1");
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	address.sin_addr.s_addr = inet_addr("10.9.8.2");
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	assert_int_equal(send(fd, data, sizeof(data), 0), sizeof(data));
	answer_arp(bench);

	/* The kernel left the checksum to us; the probe cannot compute any, so the network did. */
	received = receive_type(bench, 0x0800);
	assert_int_equal(received->length, sizeof(reply));
	assert_false(received->offload.checksum_partial);
	assert_true(udp_checksum_right(received->bytes));
	assert_true(uplink_counters(bench).in_frames > 0);

	/* Back with the checksum left to the kernel: the pseudo header's sum only. Were that not said, it would be
	 * wrong. */
	memcpy(reply, received->bytes, sizeof(reply));
	memcpy(reply, received->bytes + 6, 6);
	memcpy(reply + 6, PROBE_MAC, 6);
	memcpy(reply + 26, received->bytes + 30, 4);
	memcpy(reply + 30, received->bytes + 26, 4);
	memcpy(reply + 34, received->bytes + 36, 2);
	memcpy(reply + 36, received->bytes + 34, 2);
	free(received);
	checksum_add(&sum, reply + 26, 8);
	checksum_add_word(&sum, IPPROTO_UDP);
	checksum_add_word(&sum, 8 + sizeof(data));
	checksum = (uint16_t)~checksum_finish(&sum);
	memcpy(reply + 40, &checksum, 2);
	offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34, .checksum_offset = 6 };
	probe_send(bench, reply, sizeof(reply), NULL); /* wrong checksum: the kernel drops it */
	reply[42] = 'y';
	probe_send(bench, reply, sizeof(reply), &offload);
	assert_int_equal(recv(fd, got, sizeof(got), 0), sizeof(data));
	assert_int_equal(got[0], 'y');
	close(fd);
	bench_close(bench);
}

/* Ours alone, for the whole program: what is made in it goes with it. */
static void enter_namespace(void)
{
	int fd;

	if (unshare(CLONE_NEWNET)) {
		no_tap = "no network namespace of our own (needs CAP_SYS_ADMIN)";
		return;
	}
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		no_tap = "the kernel has no /dev/net/tun";
	else
		close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header),	       cmocka_unit_test(test_one_queue), cmocka_unit_test(test_queues),
		cmocka_unit_test(test_interface_down), cmocka_unit_test(test_checksums),
	};
	int failed;

	enter_namespace();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	return !failed && no_tap ? 77 : failed; /* 77: skipped, as far as meson counts */
}
