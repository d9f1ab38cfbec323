/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net from the driver's side: hand-written rings, split and packed, on one end, and a port that keeps what it
 * gets on the other.
 */
#include "test.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "device/virtio_net_internal.h"
#include "net_fixture.h"
#include "ring_fixture.h"

#define BIT(feature) (1ULL << (feature))
#define MODERN	     (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF))
#define HOST_ALL                                                                                                       \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |                          \
	 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_HOST_USO))
#define GUEST_ALL                                                                                                      \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |                  \
	 BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_GUEST_USO4) |                    \
	 BIT(VIRTIO_NET_F_GUEST_USO6))

#define RECEIVE	 0
#define TRANSMIT 1

static struct net_fixture fixture;
static struct fake_port peer;
static struct virtio_device *device;
static struct ring_fixture rings[4]; /* of queues 0 to 3 */
static bool packed;

static struct virtio_net *net(void)
{
	return virtio_net_of(device);
}

static void start_queue(unsigned index)
{
	struct virtio_queue *queue = &device->queues[index];

	ring_fixture_start(&rings[index], packed, true, false);
	assert_int_equal(virtqueue_start(&queue->ring, &rings[index].config), 0);
	assert_int_equal(device->ops->queue_start(queue), 0);
	device->ops->queue_running(queue);
}

static void stop_queue(unsigned index)
{
	struct virtio_queue *queue = &device->queues[index];

	device->ops->queue_unpublish(queue);
	device->ops->queue_stopped(queue);
	virtqueue_stop(&queue->ring);
	ring_fixture_stop(&rings[index]);
}

static void start(uint64_t features, uint16_t pairs, unsigned queues)
{
	const struct virtio_net_config_options options = { .name = "nic", .mac = { 2, 0, 0, 0, 0, 1 },
							   .queue_pairs = pairs, .mtu = 9000, .sidecore = -1 };

	net_fixture_start(&fixture, 1, &(struct network_config){ .name = "test" });
	assert_int_equal(virtio_net_create(&options, fixture.engine, fixture.network, &device), 0);
	assert_int_equal(device->ops->features_acked(device, features), 0);
	fake_port_init(&peer, "peer");
	net_fixture_add(&fixture, &peer);
	for (unsigned i = 0; i < queues; i++)
		start_queue(i);
}

static bool destroyed;

static void note_destroyed(struct engine_completion *completion)
{
	destroyed = true;
}

static void stop(unsigned queues)
{
	struct engine_completion completion = { .done = note_destroyed };

	for (unsigned i = 0; i < queues; i++)
		stop_queue(i);
	fake_port_clear(&peer);
	network_remove_port(fixture.network, &peer.port);
	destroyed = false;
	virtio_net_destroy(device, &completion);
	/* The test is the sidecore: what was posted is run by the stop. */
	engine_stop(fixture.engine);
	assert_true(destroyed);
	net_fixture_stop(&fixture);
}

static uint64_t drops(const struct port *port, enum port_drop reason)
{
	struct port_counters sum;

	port_read_counters(port, &sum);
	return sum.drops[reason];
}

/* ---- The driver's side ---- */

static unsigned used_count(const struct ring_fixture *ring)
{
	unsigned count = 0;

	if (!packed)
		return ring->used->idx;
	for (unsigned i = 0; i < FIXTURE_SIZE; i++) {
		uint16_t flags = ring->packed[i].flags;

		count += (flags >> 7 & 1) == 1 && (flags >> 15) == 1;
	}
	return count;
}

/* Length of the used entry @index; packed: chains of one slot in the ring's first round. */
static uint32_t used_length(const struct ring_fixture *ring, unsigned index)
{
	return packed ? ring->packed[index].len : ring->used->ring[index].len;
}

/* A frame of @length bytes with @header in front at @offset of the ring's memory. Broadcast; bytes from @seed. */
static void write_frame(struct ring_fixture *ring, uint64_t offset, const struct virtio_net_header *header,
			uint32_t header_size, uint32_t length, uint8_t seed)
{
	uint8_t *at = fixture_bytes(ring, offset);

	memcpy(at, header, header_size);
	at += header_size;
	for (uint32_t i = 0; i < length; i++)
		at[i] = (uint8_t)(seed + i);
	memcpy(at, "\377\377\377\377\377\377\2\0\0\0\0\1\x88\xb5", min(length, 14U));
}

/* Offer [offset, +length) as one chain, in pieces. */
static void offer(struct ring_fixture *ring, uint16_t id, uint64_t offset, uint32_t length, uint32_t piece, bool writable,
		  bool indirect)
{
	struct fixture_buffer buffers[FIXTURE_SIZE];
	unsigned count = 0;

	for (uint32_t at = 0; at < length; at += piece) {
		if (count + 1 == FIXTURE_SIZE)
			piece = length - at;
		buffers[count++] = (struct fixture_buffer){ fixture_address(offset + at), min(piece, length - at), writable };
	}
	ring_fixture_offer(ring, id, buffers, count, indirect ? FIXTURE_DATA + 0x80000 + id * 0x400ULL : 0);
}

static unsigned transmit_turn(void)
{
	unsigned work = device->ops->poll(&device->queues[TRANSMIT], &fixture.turn);

	assert_int_equal(peer.unflushed, 0);
	return work;
}

/* The peer sends a frame of @length bytes to everybody. Return: frames that are done. */
static unsigned peer_sends(uint32_t length, struct frame_offload offload)
{
	static struct test_frame frame;
	unsigned done;

	for (uint32_t i = 0; i < length; i++)
		frame.bytes[i] = (uint8_t)(i * 7 >> 2);
	memcpy(frame.bytes, "\2\0\0\0\0\1\2\0\0\0\0\2\x88\xb5", min(length, 14U));
	frame.length = length;
	test_frame_build(&frame, 1500);
	frame.frame.offload = offload;
	done = network_forward(&peer.port, &frame.frame, 1, &fixture.turn);
	/* Nothing is held between claims. */
	assert_int_equal(net()->touched, 0);
	return done;
}

/* Have the network know that 2:0:0:0:0:1 is the device, so that frames to it are not flooded. */
static void introduce(void)
{
	static struct test_frame frame;

	memset(frame.bytes, 0xff, 64);
	memcpy(frame.bytes + 6, "\2\0\0\0\0\1", 6);
	frame.length = 64;
	test_frame_build(&frame, 0);
	network_forward(&net()->port, &frame.frame, 1, &fixture.turn);
	fake_port_clear(&peer);
}

/* Have the network know that 2:0:0:0:0:2 is the peer, so that frames to it wait. */
static void introduce_peer(void)
{
	static struct test_frame hello;

	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\2\x88\xb5", 14);
	hello.length = 60;
	test_frame_build(&hello, 0);
	network_forward(&peer.port, &hello.frame, 1, &fixture.turn);
}

/* ---- Headers ---- */

#define NEEDS VIRTIO_NET_HDR_F_NEEDS_CSUM
#define CSUM  BIT(VIRTIO_NET_F_CSUM)

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

/* ---- Receive ---- */

static void frames_fill_as_many_buffers_as_they_need(void **state)
{
	struct virtio_net_header header;
	const uint8_t *first;

	start(MODERN, 1, 2);
	introduce();
	for (uint16_t i = 0; i < 2; i++)
		offer(&rings[RECEIVE], i, FIXTURE_DATA + i * 0x1000U, 2048, 2048, true, false);
	/* 5,012 bytes do not fit into 2 x 2,048: all or nothing. */
	assert_int_equal(peer_sends(5000, (struct frame_offload){ 0 }), 0);
	assert_int_equal(used_count(&rings[RECEIVE]), 0);
	for (uint16_t i = 2; i < 6; i++)
		offer(&rings[RECEIVE], i, FIXTURE_DATA + i * 0x1000U, 2048, 2048, true, false);
	assert_int_equal(peer_sends(5000, (struct frame_offload){ 0 }), 1);
	assert_int_equal(used_count(&rings[RECEIVE]), 3);
	assert_int_equal(used_length(&rings[RECEIVE], 0), 2048);
	assert_int_equal(used_length(&rings[RECEIVE], 1), 2048);
	assert_int_equal(used_length(&rings[RECEIVE], 2), 916);
	first = fixture_bytes(&rings[RECEIVE], FIXTURE_DATA);
	memcpy(&header, first, 12);
	assert_int_equal(header.num_buffers, 3);
	for (uint32_t i = 14; i < 5000; i++) {
		uint32_t at = i + 12;

		assert_int_equal(first[at / 2048 * 0x1000 + at % 2048], (uint8_t)(i * 7 >> 2));
	}
	/* Exactly one buffer, and one byte more. */
	assert_int_equal(peer_sends(2036, (struct frame_offload){ 0 }), 1);
	assert_int_equal(used_count(&rings[RECEIVE]), 4);
	assert_int_equal(peer_sends(2037, (struct frame_offload){ 0 }), 1);
	assert_int_equal(used_count(&rings[RECEIVE]), 6);
	assert_int_equal(used_length(&rings[RECEIVE], 5), 1);
	stop(2);
}

/*
 * A batch of frames, three buffers each, the buffers of 200 segments each: more than the pool holds at a time, so
 * chains that wait have to be moved to its front in between.
 */
static void batches_fill_buffers_of_many_segments(void **state)
{
	static struct test_frame sent[6];
	struct fixture_buffer buffers[200];
	struct frame frames[6];
	uint8_t *bytes;

	start(MODERN, 1, 2);
	introduce();
	for (uint16_t i = 0; i < FIXTURE_SIZE; i++) {
		for (unsigned j = 0; j < 200; j++)
			buffers[j] = (struct fixture_buffer){ fixture_address(FIXTURE_DATA + i * 0x1000U + j * 5), 5, true };
		ring_fixture_offer(&rings[RECEIVE], i, buffers, 200, FIXTURE_DATA + 0x80000 + i * 0x1000U);
	}
	for (unsigned i = 0; i < 6; i++) {
		memset(sent[i].bytes, (int)(0x40 + i), 2500);
		memcpy(sent[i].bytes, "\2\0\0\0\0\1\2\0\0\0\0\2\x88\xb5", 14);
		sent[i].length = 2500;
		test_frame_build(&sent[i], 0);
		frames[i] = sent[i].frame;
	}
	/* 16 buffers hold five frames of three buffers; the sixth stays. */
	assert_int_equal(network_forward(&peer.port, frames, 6, &fixture.turn), 5);
	assert_int_equal(used_count(&rings[RECEIVE]), 15);
	for (unsigned i = 0; i < 15; i++) {
		assert_int_equal(used_length(&rings[RECEIVE], i), i % 3 == 2 ? 512 : 1000);
		bytes = fixture_bytes(&rings[RECEIVE], FIXTURE_DATA + i * 0x1000U);
		if (i % 3 == 0)
			assert_memory_equal(bytes, "\0\0\0\0\0\0\0\0\0\0\3\0\2\0\0\0\0\1", 18);
		for (unsigned j = i % 3 ? 0 : 26; j < (i % 3 == 2 ? 512 : 1000); j++)
			assert_int_equal(bytes[j], 0x40 + i / 3);
	}
	stop(2);
}

static void headers_may_lie_over_buffers(void **state)
{
	uint8_t *bytes;

	start(MODERN, 1, 2);
	introduce();
	offer(&rings[RECEIVE], 0, FIXTURE_DATA, 200, 5, true, true);
	bytes = fixture_bytes(&rings[RECEIVE], FIXTURE_DATA);
	memset(bytes, 0xee, 200);
	assert_int_equal(peer_sends(100, (struct frame_offload){ 0 }), 1);
	assert_int_equal(used_length(&rings[RECEIVE], 0), 112);
	assert_memory_equal(bytes, "\0\0\0\0\0\0\0\0\0\0\1\0\2\0\0\0\0\1", 18);
	assert_int_equal(bytes[111], (uint8_t)(99 * 7 >> 2));
	assert_int_equal(bytes[112], 0xee);
	stop(2);
}

/* Without mergeable buffers: legacy header, one chain for each frame, too small ones are not used up. */
static void without_mergeable_buffers(void **state)
{
	start(0, 1, 2);
	introduce();
	offer(&rings[RECEIVE], 0, FIXTURE_DATA, 1524, 1524, true, false);
	assert_int_equal(peer_sends(1515, (struct frame_offload){ 0 }), 1);
	assert_int_equal(drops(&net()->port, PORT_DROP_TOO_SMALL), 1);
	assert_int_equal(used_count(&rings[RECEIVE]), 0);
	assert_int_equal(peer_sends(1514, (struct frame_offload){ 0 }), 1);
	assert_int_equal(used_count(&rings[RECEIVE]), 1);
	assert_int_equal(used_length(&rings[RECEIVE], 0), 1524);
	assert_memory_equal(fixture_bytes(&rings[RECEIVE], FIXTURE_DATA), "\0\0\0\0\0\0\0\0\0\0\2\0\0\0\0\1", 16);
	assert_int_equal(peer_sends(60, (struct frame_offload){ 0 }), 0);
	stop(2);
}

static void bad_receive_chains_break_the_queue(void **state)
{
	static const struct {
		uint32_t length;
		bool writable;
		enum virtqueue_break_reason reason;
	} cases[] = { { 11, true, VIRTQUEUE_HEADER_TOO_SHORT }, { 2048, false, VIRTQUEUE_BAD_DIRECTION } };

	for (unsigned i = 0; i < array_size(cases); i++) {
		start(MODERN, 1, 2);
		introduce();
		offer(&rings[RECEIVE], 0, FIXTURE_DATA, 2048, 2048, true, false);
		offer(&rings[RECEIVE], 1, FIXTURE_DATA + 0x1000, cases[i].length, 4096, cases[i].writable, false);
		assert_int_equal(peer_sends(60, (struct frame_offload){ 0 }), 1);
		assert_int_equal(used_count(&rings[RECEIVE]), 1);
		/* The next one meets the bad chain: it is lost, and so are all later ones, at once. */
		assert_int_equal(peer_sends(60, (struct frame_offload){ 0 }), 1);
		assert_int_equal(device->queues[RECEIVE].ring.broken, cases[i].reason);
		assert_int_equal(peer_sends(60, (struct frame_offload){ 0 }), 1);
		assert_int_equal(drops(&net()->port, PORT_DROP_LINK_DOWN), 2);
		/* Have the report of the break come in before the device goes. */
		engine_run_completions(fixture.engine);
		stop(2);
	}
}

/* Offload state reaches a driver that can take it, and is finished for one that cannot. */
static void offloads_reach_the_driver(void **state)
{
	const struct frame_offload tcp = { .checksum_partial = true, .checksum_start = 34, .checksum_offset = 16,
					   .gso = FRAME_GSO_TCPV4, .gso_size = 1448, .header_length = 54 };
	struct virtio_net_header header;

	start(MODERN | GUEST_ALL, 1, 2);
	introduce();
	offer(&rings[RECEIVE], 0, FIXTURE_DATA, 66000, 66000, true, false);
	assert_int_equal(peer_sends(65000, tcp), 1);
	assert_int_equal(used_length(&rings[RECEIVE], 0), 65012);
	memcpy(&header, fixture_bytes(&rings[RECEIVE], FIXTURE_DATA), 12);
	assert_int_equal(header.flags, NEEDS);
	assert_int_equal(header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_int_equal(header.gso_size, 1448);
	assert_int_equal(header.csum_start, 34);
	assert_int_equal(header.csum_offset, 16);
	assert_int_equal(header.hdr_len, 54);
	stop(2);

	start(MODERN, 1, 2);
	introduce();
	offer(&rings[RECEIVE], 0, FIXTURE_DATA, 2048, 2048, true, false);
	assert_int_equal(peer_sends(100, (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
								 .checksum_offset = 16 }), 1);
	memcpy(&header, fixture_bytes(&rings[RECEIVE], FIXTURE_DATA), 12);
	assert_int_equal(header.flags, 0);
	assert_int_equal(header.csum_start, 0);
	stop(2);
}

static void writes_are_logged(void **state)
{
	struct virtqueue_config config;
	struct dirty_log *log;
	uint8_t *bits;
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	bits = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_int_equal(dirty_log_map(fd, 4096, 0, &log), 0);

	start(MODERN, 1, 2);
	introduce();
	config = rings[RECEIVE].config;
	config.log = log;
	assert_int_equal(virtqueue_start(&device->queues[RECEIVE].ring, &config), 0);
	offer(&rings[RECEIVE], 0, FIXTURE_DATA + 0xff0, 0x1800, 0x800, true, false);
	assert_int_equal(peer_sends(4000, (struct frame_offload){ 0 }), 1);
	/* From 0x10ff0 of region 0x100000, 4,012 bytes: pages 0x110 and 0x111. */
	assert_int_equal(bits[0x110 / 8], 3);
	assert_int_equal(bits[0x112 / 8] & 4, 0);
	stop(2);
	dirty_log_unmap(log);
	munmap(bits, 4096);
	close(fd);
}

/* ---- Several pairs ---- */

/* A TCP packet from 10.0.0.@from to 10.0.0.@to, ports likewise, as bytes of @at. */
static void tcp_packet(uint8_t *at, uint8_t from, uint8_t to)
{
	memset(at, 0, 60);
	memcpy(at, (uint8_t[]){ 2, 0, 0, 0, 0, to == 2 ? 2 : 1, 2, 0, 0, 0, 0, from == 2 ? 2 : 1, 8, 0, 0x45 }, 15);
	at[23] = 6;
	memcpy(at + 26, (uint8_t[]){ 10, 0, 0, from, 10, 0, 0, to, 0, from, 0, to }, 12);
}

static void flows_return_where_they_came_from(void **state)
{
	static struct test_frame answer;
	unsigned used[2];

	start(MODERN | BIT(VIRTIO_NET_F_MQ), 2, 4);
	for (unsigned flow = 10; flow < 20; flow++) {
		unsigned pair = flow & 1, transmit = 2 * pair + 1;
		uint16_t id = (uint16_t)(flow / 2 - 5);
		uint8_t *at = fixture_bytes(&rings[transmit], FIXTURE_DATA);

		memset(at, 0, 12);
		tcp_packet(at + 12, (uint8_t)flow, 2);
		offer(&rings[transmit], id, FIXTURE_DATA, 72, 4096, false, false);
		assert_int_equal(device->ops->poll(&device->queues[transmit], &fixture.turn), 1);

		for (unsigned i = 0; i < 2; i++) {
			used[i] = used_count(&rings[2 * i]);
			offer(&rings[2 * i], (uint16_t)(flow - 10), FIXTURE_DATA, 2048, 2048, true, false);
		}
		tcp_packet(answer.bytes, 2, (uint8_t)flow);
		answer.length = 60;
		test_frame_build(&answer, 0);
		assert_int_equal(network_forward(&peer.port, &answer.frame, 1, &fixture.turn), 1);
		assert_int_equal(used_count(&rings[2 * pair]), used[pair] + 1);
		assert_int_equal(used_count(&rings[2 * !pair]), used[!pair]);
	}
	/* A pair that stops is not used any more. */
	device->ops->queue_unpublish(&device->queues[2]);
	used[0] = used_count(&rings[0]);
	test_frame_build(&answer, 0);
	assert_int_equal(network_forward(&peer.port, &answer.frame, 1, &fixture.turn), 1);
	assert_int_equal(used_count(&rings[0]), used[0] + 1);
	assert_true(atomic_load(&net()->port.up));
	device->ops->queue_unpublish(&device->queues[0]);
	assert_false(atomic_load(&net()->port.up));
	stop(4);
}

/* ---- Control ---- */

#define CONTROL_FEATURES                                                                                               \
	(MODERN | GUEST_ALL | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) |    \
	 BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |        \
	 BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))

#define COMMAND(text, status) { text, sizeof(text) - 1, status }

static const struct {
	const char *bytes;
	uint32_t length;
	uint8_t status;
} commands[] = {
	/* 0 */ COMMAND("\0\0\1", 0),				/* promiscuous */
	/* 1 */ COMMAND("\0\5\1", 0),
	/* 2 */ COMMAND("\0\6\1", 1),				/* no such mode */
	/* 3 */ COMMAND("\0\0", 1),				/* no data */
	/* 4 */ COMMAND("\0\0\1\1", 1),				/* too much */
	/* 5 */ COMMAND("\1\1\2\0\0\0\0\x55", 0),		/* address */
	/* 6 */ COMMAND("\1\1\3\0\0\0\0\x55", 1),		/* a group address */
	/* 7 */ COMMAND("\1\1\2\0\0\0\0", 1),
	/* 8 */ COMMAND("\1\0\1\0\0\0\2\0\0\0\0\1\0\0\0\0", 0),	/* table */
	/* 9 */ COMMAND("\1\0\2\0\0\0\2\0\0\0\0\1\0\0\0\0", 1),	/* table that is longer than the command */
	/* 10 */ COMMAND("\1\0\377\377\377\377\0\0\0\0", 1),
	/* 11 */ COMMAND("\1\0\0\0\0\0", 1),
	/* 12 */ COMMAND("\1\2", 1),
	/* 13 */ COMMAND("\2\0\xff\x0f", 0),			/* VLAN */
	/* 14 */ COMMAND("\2\1\1\0", 0),
	/* 15 */ COMMAND("\2\0\0\x10", 1),			/* 4096 */
	/* 16 */ COMMAND("\2\2\1\0", 1),
	/* 17 */ COMMAND("\3\0", 0),				/* announcement seen */
	/* 18 */ COMMAND("\3\1", 1),
	/* 19 */ COMMAND("\4\0\1\0", 1),			/* pairs, but VIRTIO_NET_F_MQ is not negotiated */
	/* 20 */ COMMAND("\5\0\2\0\0\0\0\0\0\0", 0),		/* offloads: GUEST_CSUM only */
	/* 21 */ COMMAND("\5\0\1\0\0\0\0\0\0\0", 1),		/* not a guest's offload */
	/* 22 */ COMMAND("\5\0\2\0\0\0", 1),
	/* 23 */ COMMAND("\6\0\0", 1),				/* no such class */
	/* 24 */ COMMAND("\377\377", 1),
};

static uint8_t control(unsigned queue, uint16_t id, const char *bytes, uint32_t length)
{
	struct fixture_buffer buffers[] = { { fixture_address(FIXTURE_DATA), 1, false },
					    { fixture_address(FIXTURE_DATA + 1), length - 1, false },
					    { fixture_address(FIXTURE_DATA + 0x8000), 1, true } };
	uint8_t *status = fixture_bytes(&rings[queue], FIXTURE_DATA + 0x8000);

	*status = 0xee;
	memcpy(fixture_bytes(&rings[queue], FIXTURE_DATA), bytes, length);
	ring_fixture_offer(&rings[queue], id, buffers, 3, FIXTURE_DATA + 0x9000);
	assert_int_equal(device->ops->poll(&device->queues[queue], &fixture.turn), 1);
	return *status;
}

static void control_commands(void **state)
{
	uint8_t mac[6];

	start(CONTROL_FEATURES, 2, 3);
	assert_true(device->ops->queue_polled(&device->queues[2]));
	assert_true(device->ops->queue_polled(&device->queues[1]));
	assert_false(device->ops->queue_polled(&device->queues[0]));
	for (unsigned i = 0; i < array_size(commands); i++) {
		print_message("case %u\n", i);
		assert_int_equal(control(2, (uint16_t)(i % FIXTURE_SIZE), commands[i].bytes, commands[i].length),
				 commands[i].status);
	}
	device->ops->config_read(device, 0, mac, 6);
	assert_memory_equal(mac, "\2\0\0\0\0\x55", 6);
	assert_true(net()->port.abilities.checksum);
	assert_false(net()->port.abilities.tso4);

	/* One without room for the acknowledgement breaks the queue. */
	offer(&rings[2], 9, FIXTURE_DATA, 3, 4, false, false);
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 0);
	assert_int_equal(device->queues[2].ring.broken, VIRTQUEUE_BAD_DIRECTION);
	stop(3);
}

static void control_waits_for_the_claim(void **state)
{
	struct fixture_buffer buffers[] = { { fixture_address(FIXTURE_DATA), 3, false },
					    { fixture_address(FIXTURE_DATA + 0x8000), 1, true } };
	uint8_t *status;

	start(CONTROL_FEATURES, 1, 3);
	status = fixture_bytes(&rings[2], FIXTURE_DATA + 0x8000);
	memcpy(fixture_bytes(&rings[2], FIXTURE_DATA), "\0\0\1", 3);
	*status = 0xee;
	ring_fixture_offer(&rings[2], 0, buffers, 2, 0);
	assert_true(port_try_claim(&net()->port));
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 0);
	assert_true(device->queues[2].life.poller.pending);
	assert_int_equal(*status, 0xee);
	port_release(&net()->port);
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 1);
	assert_false(device->queues[2].life.poller.pending);
	assert_int_equal(*status, 0);
	stop(3);
}

static void pairs_are_enabled_by_command(void **state)
{
	start(CONTROL_FEATURES | BIT(VIRTIO_NET_F_MQ), 1, 3);
	assert_int_equal(control(2, 0, "\4\0\0\0", 4), 1);
	assert_int_equal(control(2, 1, "\4\0\2\0", 4), 1);
	assert_int_equal(control(2, 2, "\4\0\1\0", 4), 0);
	assert_int_equal(atomic_load(&net()->pairs_enabled), 1);
	stop(3);
}

/* ---- The device ---- */

static unsigned config_changes;

static void note_config_change(struct virtio_device *changed)
{
	config_changes++;
}

static void configuration_space(void **state)
{
	struct {
		uint8_t mac[6];
		uint16_t status, pairs, mtu;
	} config;

	start(MODERN, 4, 0);
	device->ops->config_read(device, 0, &config, sizeof(config));
	assert_memory_equal(config.mac, "\2\0\0\0\0\1", 6);
	assert_int_equal(config.status, 1);
	assert_int_equal(config.pairs, 4);
	assert_int_equal(config.mtu, 9000);
	assert_int_equal(device->queue_count, 9);
	assert_int_equal(device->ops->set_mtu(device, 1400), 0);
	assert_int_equal(device->ops->set_mtu(device, 67), -EINVAL);
	device->ops->config_read(device, 10, &config.mtu, 2);
	assert_int_equal(config.mtu, 1400);
	assert_int_equal(device->ops->config_write(device, 0, "\2\2", 2), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, 0), 0);
	assert_int_equal(device->ops->config_write(device, 0, "\2\2", 2), 0);
	assert_int_equal(device->ops->config_write(device, 6, "\0\0", 2), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, 1ULL << 63), -EINVAL);
	/* After the last pair there is only a control queue, and only where it was negotiated. */
	assert_int_equal(device->ops->queue_start(&device->queues[8]), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, CONTROL_FEATURES), 0);
	assert_int_equal(device->ops->queue_start(&device->queues[3]), -EINVAL);
	stop(0);
}

static void announcements(void **state)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };

	start(MODERN, 1, 2);
	assert_int_equal(device->ops->announce(device, mac), 0);
	assert_int_equal(device->ops->announce(device, mac), 0); /* one is under way */
	engine_stop(fixture.engine);
	assert_int_equal(peer.count, 1);
	assert_int_equal(peer.frames[0].length, 60);
	assert_memory_equal(peer.frames[0].bytes,
			    "\377\377\377\377\377\377\2\0\0\0\0\1\x80\x35\0\1\x08\0\6\4\0\3\2\0\0\0\0\1\0\0\0\0\2\0\0\0\0\1", 38);
	stop(2);

	/* A driver that can do it is asked to. */
	start(CONTROL_FEATURES, 1, 3);
	device->config_changed = note_config_change;
	config_changes = 0;
	assert_int_equal(device->ops->announce(device, mac), 0);
	assert_int_equal(config_changes, 1);
	assert_int_equal(atomic_load(&net()->status), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(control(2, 0, "\3\0", 2), 0);
	assert_int_equal(atomic_load(&net()->status), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(peer.count, 0);
	stop(3);
}

/*
 * With sidecores that run: two guests, each on a sidecore of its own, send to a third without a pause, while its
 * receive queue is stopped and started again; at the end everything is destroyed. Every frame is accounted for.
 */
#define RUNNING_ROUNDS 40U
#define RUNNING_FRAMES 400U

static unsigned stops;
static uint32_t stopped_base;

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	stopped_base = base;
	stops++;
}

static void stop_running(struct virtio_queue *queue)
{
	unsigned before = stops;

	virtio_queue_stop(queue, note_stopped, NULL);
	while (stops == before)
		engine_run_completions(fixture.engine);
}

/* Keep eight buffers of @length bytes available. Return: how many were offered. */
static unsigned keep_offering(struct ring_fixture *ring, uint32_t length, bool writable)
{
	uint16_t used = __atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE);
	unsigned offered = 0;

	for (; (uint16_t)(ring->avail->idx - used) < 8; offered++) {
		uint16_t id = ring->avail->idx % 8;

		offer(ring, id, FIXTURE_DATA + id * 0x1000U, length, 4096, writable, false);
	}
	return offered;
}

static uint64_t all_drops_of(struct virtio_device *of)
{
	struct port_counters sum;
	uint64_t all = 0;

	port_read_counters(virtio_net_port(of), &sum);
	for (unsigned i = 0; i < PORT_DROPS; i++)
		all += sum.drops[i];
	return all;
}

/* Devices 0 and 1 send, on sidecores 0 and 1; device 2 receives, and is known by its address. */
static void start_three(struct virtio_device *devices[3])
{
	static struct test_frame hello;

	packed = false;
	net_fixture_start(&fixture, 2, &(struct network_config){ .name = "test", .patience_ns = 100000 });
	for (unsigned i = 0; i < 3; i++) {
		const struct virtio_net_config_options options = { .name = "nic", .mac = { 2, 0, 0, 0, 0, (uint8_t)(i + 1) },
								   .queue_pairs = 1, .sidecore = i == 1 };

		assert_int_equal(virtio_net_create(&options, fixture.engine, fixture.network, &devices[i]), 0);
		assert_int_equal(devices[i]->ops->features_acked(devices[i], MODERN), 0);
		ring_fixture_start(&rings[i], false, true, false);
		for (unsigned j = 0; j < 8; j++)
			memcpy((uint8_t *)fixture_bytes(&rings[i], FIXTURE_DATA + j * 0x1000U) + 12,
			       (uint8_t[]){ 2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, (uint8_t)(i + 1) }, 12);
	}
	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\3\x88\xb5", 14);
	hello.length = 60;
	test_frame_build(&hello, 0);
	fixture.turn.now = clock_nanoseconds();
	network_forward(virtio_net_port(devices[2]), &hello.frame, 1, &fixture.turn);

	assert_int_equal(engine_start(fixture.engine), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(virtio_queue_start(&devices[i]->queues[TRANSMIT], &rings[i].config, -1), 0);
}

static void queues_stop_and_start_under_load(void **state)
{
	struct engine_completion completion = { .done = note_destroyed };
	struct virtio_device *devices[3];
	struct port_counters sum;
	unsigned sent = 0;

	start_three(devices);
	for (unsigned round = 0; round < RUNNING_ROUNDS; round++) {
		unsigned until = sent + RUNNING_FRAMES;

		assert_int_equal(virtio_queue_start(&devices[2]->queues[RECEIVE], &rings[2].config, -1), 0);
		while (sent < until) {
			sent += keep_offering(&rings[0], 76, false) + keep_offering(&rings[1], 76, false);
			/* Every third round its driver is asleep. */
			if (round % 3 != 2)
				keep_offering(&rings[2], 2048, true);
			engine_run_completions(fixture.engine);
		}
		stop_running(&devices[2]->queues[RECEIVE]);
		/* What was popped was used or given back: the ring can go on from here. */
		assert_int_equal(stopped_base, rings[2].used->idx);
		rings[2].config.avail_base = (uint16_t)stopped_base;
		rings[2].config.used_base = (uint16_t)stopped_base;
	}
	for (unsigned i = 0; i < 2; i++) {
		while (__atomic_load_n(&rings[i].used->idx, __ATOMIC_ACQUIRE) != rings[i].avail->idx)
			engine_run_completions(fixture.engine);
		stop_running(&devices[i]->queues[TRANSMIT]);
	}

	port_read_counters(virtio_net_port(devices[2]), &sum);
	assert_int_equal((uint16_t)sum.out_frames, rings[2].used->idx);
	assert_true(sum.out_frames > RUNNING_FRAMES);
	/* One drop is its own first frame, which had nowhere to go. */
	assert_int_equal(sum.drops[PORT_DROP_NO_DESTINATION], 1);
	assert_int_equal(sum.out_frames + all_drops_of(devices[2]), sent + 1);
	assert_int_equal(all_drops_of(devices[0]) + all_drops_of(devices[1]), 0);

	for (unsigned i = 0; i < 3; i++) {
		destroyed = false;
		virtio_net_destroy(devices[i], &completion);
		while (!destroyed)
			engine_run_completions(fixture.engine);
		ring_fixture_stop(&rings[i]);
	}
	engine_stop(fixture.engine);
	net_fixture_stop(&fixture);
}

static int use_split(void **state)
{
	packed = false;
	return 0;
}

static int use_packed(void **state)
{
	packed = true;
	return 0;
}

#define SPLIT_AND_PACKED(test)                                                                                         \
	{ #test " (split)", test, use_split, NULL, NULL }, { #test " (packed)", test, use_packed, NULL, NULL }

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
		SPLIT_AND_PACKED(frames_fill_as_many_buffers_as_they_need),
		SPLIT_AND_PACKED(batches_fill_buffers_of_many_segments),
		SPLIT_AND_PACKED(headers_may_lie_over_buffers),
		SPLIT_AND_PACKED(without_mergeable_buffers),
		SPLIT_AND_PACKED(bad_receive_chains_break_the_queue),
		SPLIT_AND_PACKED(offloads_reach_the_driver),
		SPLIT_AND_PACKED(writes_are_logged),
		SPLIT_AND_PACKED(flows_return_where_they_came_from),
		SPLIT_AND_PACKED(control_commands),
		SPLIT_AND_PACKED(control_waits_for_the_claim),
		SPLIT_AND_PACKED(pairs_are_enabled_by_command),
		cmocka_unit_test(configuration_space),
		cmocka_unit_test(announcements),
		cmocka_unit_test(queues_stop_and_start_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
