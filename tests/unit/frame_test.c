/* SPDX-License-Identifier: BSD-3-Clause */
/* Frames: whatever the layout on both sides, the bytes are the same; tags come and go; flows hash alike both ways. */
#include "test.h"

#include <string.h>

#include "net_fixture.h"

static struct test_frame frame;

static void fill(uint32_t length)
{
	uint64_t random = length;

	frame.length = length;
	for (uint32_t i = 0; i < length; i++)
		frame.bytes[i] = (uint8_t)test_random(&random);
}

/* Copy out into segments of @piece bytes behind @offset bytes; compare; nothing else may have changed. */
static void check_copy(uint32_t piece, uint32_t offset)
{
	static uint8_t out[70000];
	struct guest_segment to[1200];
	uint32_t total = offset + frame.frame.length, at = 0;
	unsigned count = 0;

	memset(out, 0xa5, total + 1);
	for (; at < total; at += piece) {
		if (count + 1 == array_size(to))
			piece = total - at;
		to[count++] = (struct guest_segment){ guest_bytes_of(out + at), min(piece, total - at) };
	}
	frame_copy_out(&frame.frame, to, offset);
	for (uint32_t i = 0; i < offset; i++)
		assert_int_equal(out[i], 0xa5);
	assert_memory_equal(out + offset, frame.bytes, frame.length);
	assert_int_equal(out[total], 0xa5);
}

static void bytes_survive_every_layout(void **state)
{
	static const uint32_t lengths[] = { 1, 13, 14, 31, 32, 33, 60, 63, 64, 65, 128, 1514, 65792 };
	static const uint32_t from[] = { 0, 1, 3, 12, 14, 63, 64, 65, 1000 }, to[] = { 1, 5, 12, 64, 76, 1514, 70000 };
	static uint8_t read[70000];

	for (unsigned i = 0; i < array_size(lengths); i++) {
		for (unsigned j = 0; j < array_size(from); j++) {
			fill(lengths[i]);
			test_frame_build(&frame, from[j]);
			assert_int_equal(frame.frame.header_length, min(lengths[i], FRAME_HEADER_MAX));
			assert_true(frame_read(&frame.frame, 0, read, lengths[i]));
			assert_memory_equal(read, frame.bytes, lengths[i]);
			for (unsigned k = 0; k < array_size(to); k++) {
				check_copy(to[k], 0);
				check_copy(to[k], 12);
			}
		}
	}
}

static void reads_stay_inside(void **state)
{
	uint8_t byte[4];

	fill(100);
	test_frame_build(&frame, 7);
	assert_true(frame_read(&frame.frame, 96, byte, 4));
	assert_memory_equal(byte, frame.bytes + 96, 4);
	assert_true(frame_read(&frame.frame, 62, byte, 4));
	assert_memory_equal(byte, frame.bytes + 62, 4);
	assert_true(frame_read(&frame.frame, 100, byte, 0));
	assert_false(frame_read(&frame.frame, 97, byte, 4));
	assert_false(frame_read(&frame.frame, 101, byte, 0));
	assert_false(frame_read(&frame.frame, UINT32_MAX, byte, 2));
}

static void tags_come_and_go(void **state)
{
	static const uint32_t lengths[] = { 14, 60, 61, 64, 65, 1514 };
	static uint8_t before[2000], with[2000];

	for (unsigned i = 0; i < array_size(lengths); i++) {
		fill(lengths[i]);
		memcpy(before, frame.bytes, lengths[i]);
		test_frame_build(&frame, 0);
		frame.frame.offload.checksum_partial = true;
		frame.frame.offload.checksum_start = 34;
		frame.frame.offload.header_length = 54;

		frame_insert_tag(&frame.frame, 0x6005);
		assert_int_equal(frame.frame.length, lengths[i] + 4);
		assert_int_equal(frame.frame.offload.checksum_start, 38);
		assert_int_equal(frame.frame.offload.header_length, 58);
		assert_true(frame_read(&frame.frame, 0, with, lengths[i] + 4));
		assert_memory_equal(with, before, 12);
		assert_memory_equal(with + 12, "\x81\x00\x60\x05", 4);
		assert_memory_equal(with + 16, before + 12, lengths[i] - 12);

		frame_remove_tag(&frame.frame);
		assert_int_equal(frame.frame.length, lengths[i]);
		assert_int_equal(frame.frame.offload.checksum_start, 34);
		assert_int_equal(frame.frame.offload.header_length, 54);
		assert_true(frame_read(&frame.frame, 0, with, lengths[i]));
		assert_memory_equal(with, before, lengths[i]);
	}
}

static uint32_t hash_of(const char *bytes, uint32_t length)
{
	memset(frame.bytes, 0, 80);
	memcpy(frame.bytes, bytes, length);
	frame.length = 80;
	test_frame_build(&frame, 0);
	return frame_flow_hash(&frame.frame);
}

#define MACS "\1\2\3\4\5\6\7\10\11\12\13\14"
#define IPV4(protocol, fragment, from, to, ports)                                                                      \
	"\x08\x00\x45\0\0\x28\0\0" fragment "\x40" protocol "\0\0\x0a\0\0" from "\x0a\0\0" to ports
#define HASH(text) hash_of(text, sizeof(text) - 1)

static void flows_hash_alike_both_ways(void **state)
{
	uint32_t flow = HASH(MACS IPV4("\6", "\0\0", "\1", "\2", "\x12\x34\0\x50"));

	assert_int_not_equal(flow, 0);
	assert_int_equal(flow, HASH(MACS IPV4("\6", "\0\0", "\2", "\1", "\0\x50\x12\x34")));
	assert_int_equal(flow, HASH(MACS "\x81\0\0\5" IPV4("\6", "\0\0", "\2", "\1", "\0\x50\x12\x34")));
	assert_int_not_equal(flow, HASH(MACS IPV4("\6", "\0\0", "\1", "\2", "\x12\x35\0\x50")));
	assert_int_not_equal(flow, HASH(MACS IPV4("\6", "\0\0", "\1", "\3", "\x12\x34\0\x50")));
	assert_int_not_equal(flow, HASH(MACS IPV4("\x11", "\0\0", "\1", "\2", "\x12\x34\0\x50")));
	/* Fragments: what lies where the ports would be does not count. */
	assert_int_equal(HASH(MACS IPV4("\6", "\x20\0", "\1", "\2", "\x12\x34\0\x50")),
			 HASH(MACS IPV4("\6", "\0\x10", "\2", "\1", "\x55\x55\x55\x55")));
	assert_int_equal(HASH(MACS "\x08\x06"), 0);
}

static void short_frames_do_not_hash(void **state)
{
	for (uint32_t length = 1; length <= 64; length++) {
		memset(frame.bytes, 0, 64);
		memcpy(frame.bytes + 12, "\x81\0\0\1\x81\0\0\1\x08\0\x4f", 11);
		frame.length = length;
		test_frame_build(&frame, 0);
		/* Only that it reads no further than the copy: the sanitizers and valgrind watch. */
		frame_flow_hash(&frame.frame);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_survive_every_layout), cmocka_unit_test(reads_stay_inside),
		cmocka_unit_test(tags_come_and_go),	      cmocka_unit_test(flows_hash_alike_both_ways),
		cmocka_unit_test(short_frames_do_not_hash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
