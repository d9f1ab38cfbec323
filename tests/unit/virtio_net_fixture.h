/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtio network card: hand-written rings, split and packed, on one end, and a port that keeps what it gets on the
 * other.
 */
#ifndef TESTS_VIRTIO_NET_FIXTURE_H
#define TESTS_VIRTIO_NET_FIXTURE_H

#include <string.h>

#include "device/virtio_net_internal.h"
#include "net_fixture.h"
#include "ring_fixture.h"
#include "test.h"

#define BIT(feature) (1ULL << (feature))
#define MODERN	     (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_NET_F_MRG_RXBUF))
#define HOST_ALL                                                                                                       \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |                          \
	 BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_HOST_USO))
#define GUEST_ALL                                                                                                      \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |                  \
	 BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_GUEST_USO4) |                    \
	 BIT(VIRTIO_NET_F_GUEST_USO6))

#define NEEDS VIRTIO_NET_HDR_F_NEEDS_CSUM

#define RECEIVE	 0
#define TRANSMIT 1

static struct net_fixture fixture;
static struct fake_port peer;
static struct virtio_device *device;
static struct ring_fixture rings[4]; /* of queues 0 to 3 */
static bool packed;

static inline struct virtio_net *net(void)
{
	return virtio_net_of(device);
}

static inline void start_queue(unsigned index)
{
	struct virtio_queue *queue = &device->queues[index];

	ring_fixture_start(&rings[index], packed, true, false);
	assert_int_equal(virtqueue_start(&queue->ring, &rings[index].config), 0);
	assert_int_equal(device->ops->queue_start(queue), 0);
	device->ops->queue_running(queue);
}

static inline void stop_queue(unsigned index)
{
	struct virtio_queue *queue = &device->queues[index];

	device->ops->queue_unpublish(queue);
	device->ops->queue_stopped(queue);
	virtqueue_stop(&queue->ring);
	ring_fixture_stop(&rings[index]);
}

static inline void start(uint64_t features, uint16_t pairs, unsigned queues)
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

static inline void note_destroyed(struct engine_completion *completion)
{
	destroyed = true;
}

static inline void stop(unsigned queues)
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

static inline uint64_t drops(const struct port *port, enum port_drop reason)
{
	struct port_counters sum;

	port_read_counters(port, &sum);
	return sum.drops[reason];
}

/* ---- The driver's side ---- */

static inline unsigned used_count(const struct ring_fixture *ring)
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
static inline uint32_t used_length(const struct ring_fixture *ring, unsigned index)
{
	return packed ? ring->packed[index].len : ring->used->ring[index].len;
}

/* A frame of @length bytes with @header in front at @offset of the ring's memory. Broadcast; bytes from @seed. */
static inline void write_frame(struct ring_fixture *ring, uint64_t offset, const struct virtio_net_header *header,
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
static inline void offer(struct ring_fixture *ring, uint16_t id, uint64_t offset, uint32_t length, uint32_t piece,
			 bool writable, bool indirect)
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

static inline unsigned transmit_turn(void)
{
	unsigned work = device->ops->poll(&device->queues[TRANSMIT], &fixture.turn);

	assert_int_equal(peer.unflushed, 0);
	return work;
}

/* The peer sends a frame of @length bytes to everybody. Return: frames that are done. */
static inline unsigned peer_sends(uint32_t length, struct frame_offload offload)
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
static inline void introduce(void)
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
static inline void introduce_peer(void)
{
	static struct test_frame hello;

	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\2\x88\xb5", 14);
	hello.length = 60;
	test_frame_build(&hello, 0);
	network_forward(&peer.port, &hello.frame, 1, &fixture.turn);
}

static inline int use_split(void **state)
{
	packed = false;
	return 0;
}

static inline int use_packed(void **state)
{
	packed = true;
	return 0;
}

#define SPLIT_AND_PACKED(test)                                                                                         \
	{ #test " (split)", test, use_split, NULL, NULL }, { #test " (packed)", test, use_packed, NULL, NULL }

#endif
