/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net from the driver's side: what is received, in one buffer or many, and by which pair. */
#include "test.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/virtio_net_internal.h"
#include "virtio_net_fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLIT_AND_PACKED(frames_fill_as_many_buffers_as_they_need),
		SPLIT_AND_PACKED(batches_fill_buffers_of_many_segments),
		SPLIT_AND_PACKED(headers_may_lie_over_buffers),
		SPLIT_AND_PACKED(without_mergeable_buffers),
		SPLIT_AND_PACKED(bad_receive_chains_break_the_queue),
		SPLIT_AND_PACKED(offloads_reach_the_driver),
		SPLIT_AND_PACKED(writes_are_logged),
		SPLIT_AND_PACKED(flows_return_where_they_came_from),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
