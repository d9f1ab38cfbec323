/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net from the driver's side: what is sent, its headers and offloads, chains that are wrong, turns. */
#include "test.h"

#include <errno.h>
#include <string.h>

#include "device/virtio_net_internal.h"
#include "virtio_net_fixture.h"

/* ---- Headers ---- */

#define CSUM BIT(VIRTIO_NET_F_CSUM)

static const struct {
	struct virtio_net_header header; /* flags, type, hdr_len, gso_size, start, offset */
	uint64_t features;
	uint32_t length;
	bool good;
	uint8_t gso;
} headers[] = {
	/* 0 */ { { 0 }, 0, 60, true, FRAME_GSO_NONE },
	/* 1 */ { { 0 }, 0, 0, true, FRAME_GSO_NONE },
	/* 2 */ { { NEEDS, 0, 0, 0, 34, 16 }, CSUM, 60, true, FRAME_GSO_NONE },
	/* 3 */ { { NEEDS, 0, 0, 0, 34, 16 }, 0, 60, false, 0 },		/* not negotiated */
	/* 4 */ { { NEEDS, 0, 0, 0, 34, 16 }, CSUM, 52, true, FRAME_GSO_NONE },	/* exactly */
	/* 5 */ { { NEEDS, 0, 0, 0, 34, 16 }, CSUM, 51, false, 0 },		/* one byte past the end */
	/* 6 */ { { NEEDS, 0, 0, 0, 65535, 65535 }, CSUM, 65535, false, 0 },	/* would wrap in 16 bits */
	/* 7 */ { { NEEDS, 0, 0, 0, 65535, 0 }, CSUM, 60, false, 0 },
	/* 8 */ { { NEEDS, 0, 0, 0, 0, 0 }, CSUM, 1, false, 0 },
	/* 9 */ { { VIRTIO_NET_HDR_F_DATA_VALID }, 0, 60, true, FRAME_GSO_NONE }, /* ignored */
	/* 10 */ { { 0xfe }, 0, 60, true, FRAME_GSO_NONE },			/* ignored */
	/* 11 */ { { NEEDS, 1, 54, 1448, 34, 16 }, HOST_ALL, 65000, true, FRAME_GSO_TCPV4 },
	/* 12 */ { { NEEDS, 4, 54, 1448, 34, 16 }, HOST_ALL, 65000, true, FRAME_GSO_TCPV6 },
	/* 13 */ { { NEEDS, 3, 54, 1448, 34, 6 }, HOST_ALL, 65000, true, FRAME_GSO_UDP_FRAGMENT },
	/* 14 */ { { NEEDS, 5, 54, 1448, 34, 6 }, HOST_ALL, 65000, true, FRAME_GSO_UDP_SEGMENT },
	/* 15 */ { { NEEDS, 1, 54, 1448, 34, 16 }, HOST_ALL & ~BIT(VIRTIO_NET_F_HOST_TSO4), 65000, false, 0 },
	/* 16 */ { { NEEDS, 4, 54, 1448, 34, 16 }, HOST_ALL & ~BIT(VIRTIO_NET_F_HOST_TSO6), 65000, false, 0 },
	/* 17 */ { { NEEDS, 3, 54, 1448, 34, 6 }, HOST_ALL & ~BIT(VIRTIO_NET_F_HOST_UFO), 65000, false, 0 },
	/* 18 */ { { NEEDS, 5, 54, 1448, 34, 6 }, HOST_ALL & ~BIT(VIRTIO_NET_F_HOST_USO), 65000, false, 0 },
	/* 19 */ { { 0, 1, 54, 1448, 34, 16 }, HOST_ALL, 65000, false, 0 },	/* GSO without checksum */
	/* 20 */ { { NEEDS, 1, 54, 0, 34, 16 }, HOST_ALL, 65000, false, 0 },	/* segments of nothing */
	/* 21 */ { { NEEDS, 0x81, 54, 1448, 34, 16 }, HOST_ALL, 65000, true, FRAME_GSO_TCPV4 },
	/* 22 */ { { NEEDS, 0x81, 54, 1448, 34, 16 }, HOST_ALL & ~BIT(VIRTIO_NET_F_HOST_ECN), 65000, false, 0 },
	/* 23 */ { { NEEDS, 0x83, 54, 1448, 34, 6 }, HOST_ALL, 65000, false, 0 }, /* ECN of UDP */
	/* 24 */ { { NEEDS, 0x80, 54, 1448, 34, 16 }, HOST_ALL, 65000, false, 0 }, /* ECN of nothing */
	/* 25 */ { { NEEDS, 2, 54, 1448, 34, 16 }, HOST_ALL, 65000, false, 0 },	/* no such type */
	/* 26 */ { { NEEDS, 0x7f, 54, 1448, 34, 16 }, HOST_ALL, 65000, false, 0 },
	/* 27 */ { { 0, 0, 54, 1448, 34, 16 }, HOST_ALL, 60, true, FRAME_GSO_NONE }, /* leftovers without meaning */
};

static void headers_are_checked(void **state)
{
	struct frame_offload offload;

	for (unsigned i = 0; i < array_size(headers); i++) {
		print_message("case %u\n", i);
		assert_int_equal(virtio_net_header_parse(&headers[i].header, headers[i].features, headers[i].length, &offload),
				 headers[i].good);
		if (headers[i].good)
			assert_int_equal(offload.gso, headers[i].gso);
	}
	assert_int_equal(virtio_net_header_size(0), 10);
	assert_int_equal(virtio_net_header_size(BIT(VIRTIO_NET_F_MRG_RXBUF)), 12);
	assert_int_equal(virtio_net_header_size(BIT(VIRTIO_F_VERSION_1)), 12);
}

/* Parsed and built again, a header says the same. */
static void headers_survive_the_way(void **state)
{
	for (unsigned i = 0; i < array_size(headers); i++) {
		struct virtio_net_header out;
		struct frame frame = { .length = headers[i].length };

		if (!headers[i].good || !headers[i].header.gso_type)
			continue;
		assert_true(virtio_net_header_parse(&headers[i].header, headers[i].features, frame.length, &frame.offload));
		virtio_net_header_build(&frame, true, 0, &out);
		assert_memory_equal(&out, &headers[i].header, sizeof(out));
	}
	struct virtio_net_header out;
	struct frame frame = { .length = 60, .offload = { .checksum_valid = true } };

	virtio_net_header_build(&frame, true, 3, &out);
	assert_int_equal(out.flags, VIRTIO_NET_HDR_F_DATA_VALID);
	assert_int_equal(out.num_buffers, 3);
	virtio_net_header_build(&frame, false, 3, &out);
	assert_int_equal(out.flags, 0);
}

/* ---- Transmit ---- */

static void any_layout_is_sent(void **state)
{
	static const uint32_t lengths[] = { 14, 60, 64, 65, 1514, 9014 }, pieces[] = { 1, 5, 10, 12, 13, 76, 4096, 70000 };
	const struct virtio_net_header header = { 0 };

	for (unsigned legacy = 0; legacy < 2; legacy++) {
		uint32_t size = legacy ? 10 : 12;

		start(legacy ? 0 : MODERN, 1, 2);
		for (unsigned i = 0; i < array_size(lengths) * array_size(pieces) * 2; i++) {
			uint32_t length = lengths[i / 2 % array_size(lengths)];
			struct ring_fixture *ring = &rings[TRANSMIT];

			write_frame(ring, FIXTURE_DATA, &header, size, length, (uint8_t)i);
			offer(ring, 0, FIXTURE_DATA, size + length, pieces[i / 2 / array_size(lengths)], false, i & 1);
			assert_int_equal(transmit_turn(), 1);
			assert_int_equal(peer.count, 1);
			assert_int_equal(peer.frames[0].length, length);
			assert_memory_equal(peer.frames[0].bytes, (uint8_t *)fixture_bytes(ring, FIXTURE_DATA) + size, length);
			fake_port_clear(&peer);
		}
		assert_int_equal(device->queues[TRANSMIT].ring.broken, VIRTQUEUE_INTACT);
		stop(2);
	}
}

static const struct {
	uint32_t readable, writable;
	enum virtqueue_break_reason reason;
} broken_chains[] = {
	{ 11, 0, VIRTQUEUE_HEADER_TOO_SHORT },
	{ 1, 0, VIRTQUEUE_HEADER_TOO_SHORT },
	{ 72, 16, VIRTQUEUE_BAD_DIRECTION },
	{ 0, 72, VIRTQUEUE_BAD_DIRECTION },
};

static void bad_chains_break_their_queue(void **state)
{
	const struct virtio_net_header header = { 0 };

	for (unsigned i = 0; i < array_size(broken_chains); i++) {
		struct fixture_buffer buffers[2];
		unsigned count = 0;

		start(MODERN, 1, 2);
		write_frame(&rings[TRANSMIT], FIXTURE_DATA, &header, 12, 60, 0);
		if (broken_chains[i].readable)
			buffers[count++] = (struct fixture_buffer){ fixture_address(FIXTURE_DATA),
								    broken_chains[i].readable, false };
		if (broken_chains[i].writable)
			buffers[count++] = (struct fixture_buffer){ fixture_address(FIXTURE_DATA + 4096),
								    broken_chains[i].writable, true };
		ring_fixture_offer(&rings[TRANSMIT], 0, buffers, count, 0);
		assert_int_equal(transmit_turn(), 0);
		assert_int_equal(device->queues[TRANSMIT].ring.broken, broken_chains[i].reason);
		assert_false(device->queues[TRANSMIT].life.poller.pending);
		assert_int_equal(used_count(&rings[TRANSMIT]), 0);
		/* It stays broken; the other queue and the port are not touched by it. */
		assert_int_equal(transmit_turn(), 0);
		introduce();
		offer(&rings[RECEIVE], 0, FIXTURE_DATA, 2048, 2048, true, false);
		assert_int_equal(peer_sends(60, (struct frame_offload){ 0 }), 1);
		assert_int_equal(used_count(&rings[RECEIVE]), 1);
		stop(2);
	}
}

/* What was sent before a chain that breaks the queue arrives, also when the receiver makes it wait; what comes behind does not. */
static void bad_chains_cost_no_frame_before_them(void **state)
{
	const struct virtio_net_header good = { 0 }, bad = { .flags = NEEDS, .csum_start = 59, .csum_offset = 0 };

	for (unsigned room = 1; room < 5; room += 3) {
		start(MODERN | HOST_ALL, 1, 2);
		introduce_peer();
		for (uint16_t i = 0; i < 6; i++) {
			write_frame(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U, i == 1 ? &bad : &good, 12, 60, (uint8_t)i);
			memcpy((uint8_t *)fixture_bytes(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U) + 12, "\2\0\0\0\0\2", 6);
			offer(&rings[TRANSMIT], i, FIXTURE_DATA + i * 0x1000U, 72, 4096, i == 3, false);
		}
		peer.room = room;
		/* With room for one, chains 0 and 1 are done: 1 is dropped. Else all before 3. */
		assert_int_equal(transmit_turn(), room == 1 ? 2 : 3);
		assert_int_equal(peer.count, room == 1 ? 1 : 2);
		assert_int_equal(device->queues[TRANSMIT].life.poller.pending, room == 1);
		assert_int_equal(device->queues[TRANSMIT].ring.broken, room == 1 ? VIRTQUEUE_INTACT : VIRTQUEUE_BAD_DIRECTION);
		peer.room = 4;
		assert_int_equal(transmit_turn(), room == 1 ? 1 : 0);
		assert_int_equal(device->queues[TRANSMIT].ring.broken, VIRTQUEUE_BAD_DIRECTION);
		assert_false(device->queues[TRANSMIT].life.poller.pending);
		assert_int_equal(used_count(&rings[TRANSMIT]), 3); /* and the driver is told */
		assert_int_equal(peer.count, 2);
		assert_int_equal(peer.frames[0].bytes[20], 20);
		assert_int_equal(peer.frames[1].bytes[20], 22);
		assert_int_equal(drops(&net()->port, PORT_DROP_BAD_OFFLOAD), 1);
		stop(2);
	}
}

/* A bad header costs its frame only; an empty frame is a runt. */
static void bad_offloads_cost_their_frame(void **state)
{
	const struct virtio_net_header good = { 0 }, bad = { .flags = NEEDS, .csum_start = 59, .csum_offset = 0 };

	start(MODERN | HOST_ALL, 1, 2);
	for (uint16_t i = 0; i < 6; i++) {
		write_frame(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U, i & 1 ? &bad : &good, 12, 60, (uint8_t)i);
		offer(&rings[TRANSMIT], i, FIXTURE_DATA + i * 0x1000U, i == 4 ? 12 : 72, 4096, false, false);
	}
	assert_int_equal(transmit_turn(), 6);
	assert_int_equal(used_count(&rings[TRANSMIT]), 6);
	assert_int_equal(peer.count, 2);
	assert_int_equal(drops(&net()->port, PORT_DROP_BAD_OFFLOAD), 3);
	assert_int_equal(drops(&net()->port, PORT_DROP_RUNT), 1);
	stop(2);
}

/* What a full receiver does not take stays in the ring, bad headers among it are counted once, and order is kept. */
static void a_full_receiver_leaves_chains_in_the_ring(void **state)
{
	const struct virtio_net_header good = { 0 }, bad = { .gso_type = 77 };

	start(MODERN, 1, 2);
	introduce_peer();
	for (uint16_t i = 0; i < 8; i++) {
		write_frame(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U, i == 1 || i == 5 ? &bad : &good, 12, 60, (uint8_t)i);
		memcpy((uint8_t *)fixture_bytes(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U) + 12, "\2\0\0\0\0\2", 6);
		offer(&rings[TRANSMIT], i, FIXTURE_DATA + i * 0x1000U, 72, 4096, false, false);
	}
	peer.room = 2;
	assert_int_equal(transmit_turn(), 3);
	assert_true(device->queues[TRANSMIT].life.poller.pending);
	assert_int_equal(used_count(&rings[TRANSMIT]), 3);
	assert_int_equal(drops(&net()->port, PORT_DROP_BAD_OFFLOAD), 1);
	peer.room = 1;
	assert_int_equal(transmit_turn(), 1);
	peer.room = 0;
	assert_int_equal(transmit_turn(), 0);
	assert_true(device->queues[TRANSMIT].life.poller.pending);
	peer.room = 10;
	assert_int_equal(transmit_turn(), 4);
	assert_false(device->queues[TRANSMIT].life.poller.pending);
	assert_int_equal(drops(&net()->port, PORT_DROP_BAD_OFFLOAD), 2);
	assert_int_equal(used_count(&rings[TRANSMIT]), 8);
	assert_int_equal(peer.count, 6);
	for (unsigned i = 1; i < 6; i++)
		assert_true(peer.frames[i].bytes[20] > peer.frames[i - 1].bytes[20]);
	stop(2);
}

/* A segment that is cut for a receiver which becomes full half way goes on where it stopped. */
static void cut_segments_go_on_where_they_stopped(void **state)
{
	const struct virtio_net_header header = { .flags = NEEDS, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1000,
						  .csum_start = 34, .csum_offset = 16 };
	static struct test_frame hello;
	uint8_t *frame;

	start(MODERN | HOST_ALL, 1, 2);
	memset(&peer.port.abilities, 0, sizeof(peer.port.abilities));
	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\2\x88\xb5", 14);
	hello.length = 60;
	test_frame_build(&hello, 0);
	network_forward(&peer.port, &hello.frame, 1, &fixture.turn);

	write_frame(&rings[TRANSMIT], FIXTURE_DATA, &header, 12, 54 + 20000, 1);
	frame = (uint8_t *)fixture_bytes(&rings[TRANSMIT], FIXTURE_DATA) + 12;
	memset(frame + 14, 0, 40);
	memcpy(frame, (uint8_t[]){ 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45 }, 15);
	frame[14 + 9] = 6;
	frame[34 + 12] = 0x50;
	offer(&rings[TRANSMIT], 0, FIXTURE_DATA, 12 + 54 + 20000, 4096, false, false);
	for (unsigned i = 0; i < 4; i++) {
		peer.room = 5;
		assert_int_equal(transmit_turn(), i == 3);
		assert_int_equal(peer.count, 5 * (i + 1));
	}
	for (unsigned i = 0; i < 20; i++)
		assert_memory_equal(peer.frames[i].bytes + 54, frame + 54 + i * 1000, 1000);
	assert_int_equal(used_count(&rings[TRANSMIT]), 1);
	stop(2);
}

/* A turn ends with the chain that reaches its bytes, and after its requests. */
static void turns_are_bounded(void **state)
{
	const struct virtio_net_header header = { 0 };

	start(MODERN, 1, 2);
	for (uint16_t i = 0; i < 10; i++) {
		write_frame(&rings[TRANSMIT], FIXTURE_DATA + i * 0x1000U, &header, 12, 1000, (uint8_t)i);
		offer(&rings[TRANSMIT], i, FIXTURE_DATA + i * 0x1000U, 1012, 4096, false, false);
	}
	fixture.turn.requests = 2;
	assert_int_equal(transmit_turn(), 2);
	fixture.turn.requests = 64;
	fixture.turn.bytes = 2025;
	assert_int_equal(transmit_turn(), 3);
	fixture.turn.bytes = 1;
	assert_int_equal(transmit_turn(), 1);
	fixture.turn.bytes = 1 << 20;
	assert_int_equal(transmit_turn(), 4);
	assert_int_equal(peer.count, 10);
	stop(2);
}

/* A chain of many buffers costs more of a turn than its bytes. */
static void buffers_cost_their_turn(void **state)
{
	static struct fixture_buffer buffers[512];
	const struct virtio_net_header header = { 0 };

	start(MODERN, 1, 2);
	write_frame(&rings[TRANSMIT], FIXTURE_DATA, &header, 12, array_size(buffers) - 12, 1);
	for (unsigned i = 0; i < array_size(buffers); i++)
		buffers[i] = (struct fixture_buffer){ fixture_address(FIXTURE_DATA + i), 1, false };
	for (uint16_t id = 0; id < 8; id++)
		ring_fixture_offer(&rings[TRANSMIT], id, buffers, array_size(buffers), FIXTURE_DATA + 0x10000 + id * 0x2000ULL);
	fixture.turn.bytes = 128 << 10;
	assert_int_equal(transmit_turn(), 2);
	assert_int_equal(transmit_turn(), 2);
	fixture.turn.bytes = 1 << 20;
	assert_int_equal(transmit_turn(), 4);
	assert_int_equal(peer.count, 8);
	stop(2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_are_checked),
		cmocka_unit_test(headers_survive_the_way),
		SPLIT_AND_PACKED(any_layout_is_sent),
		SPLIT_AND_PACKED(bad_chains_break_their_queue),
		SPLIT_AND_PACKED(bad_chains_cost_no_frame_before_them),
		SPLIT_AND_PACKED(bad_offloads_cost_their_frame),
		SPLIT_AND_PACKED(a_full_receiver_leaves_chains_in_the_ring),
		SPLIT_AND_PACKED(cut_segments_go_on_where_they_stopped),
		SPLIT_AND_PACKED(turns_are_bounded),
		SPLIT_AND_PACKED(buffers_cost_their_turn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
