/* SPDX-License-Identifier: BSD-3-Clause */
/* The internet checksum against one that is done by the book, over random bytes, lengths, alignments and splits. */
#include "test.h"

#include <string.h>

#include "net/checksum.h"
#include "net_fixture.h"

static uint16_t host(uint16_t memory_order)
{
	return __builtin_bswap16(memory_order);
}

static void any_length_and_alignment(void **state)
{
	static uint8_t bytes[4096 + 64];
	uint64_t random = 1;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)test_random(&random);
	for (unsigned i = 0; i < 20000; i++) {
		size_t length = i < 300 ? i : test_random(&random) % 4096, at = test_random(&random) % 64;

		assert_int_equal(host(checksum_sum(bytes + at, length)), naive_fold(naive_sum(bytes + at, length, 0)));
	}
}

/* All ones: the sums with the most carries. */
static void largest_sums(void **state)
{
	static uint8_t bytes[1 << 17];

	memset(bytes, 0xff, sizeof(bytes));
	for (size_t length = sizeof(bytes) - 40; length <= sizeof(bytes); length++)
		assert_int_equal(host(checksum_sum(bytes, length)), naive_fold(naive_sum(bytes, length, 0)));
}

static void pieces_of_odd_lengths(void **state)
{
	static uint8_t bytes[3000];
	uint64_t random = 2;

	for (unsigned i = 0; i < 2000; i++) {
		size_t length = test_random(&random) % sizeof(bytes), at = 0;
		struct checksum checksum = { 0 };

		for (size_t j = 0; j < length; j++)
			bytes[j] = (uint8_t)test_random(&random);
		while (at < length) {
			size_t piece = min((size_t)test_random(&random) % 100, length - at);

			checksum_add(&checksum, bytes + at, piece);
			at += piece;
		}
		assert_int_equal(host(checksum_finish(&checksum)), (uint16_t)~naive_fold(naive_sum(bytes, length, 0)));
	}
}

static void ranges_of_a_frame(void **state)
{
	static struct test_frame frame;
	uint64_t random = 3;

	frame.length = 1999;
	for (uint32_t i = 0; i < frame.length; i++)
		frame.bytes[i] = (uint8_t)test_random(&random);
	for (unsigned i = 0; i < 3000; i++) {
		uint32_t from = test_random(&random) % frame.length, to = from + test_random(&random) % (frame.length - from + 1);
		struct checksum checksum = { 0 };

		test_frame_build(&frame, 1 + test_random(&random) % 150);
		checksum_add_frame(&checksum, &frame.frame, from, to);
		assert_int_equal(host(checksum_finish(&checksum)),
				 (uint16_t)~naive_fold(naive_sum(frame.bytes + from, to - from, 0)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_length_and_alignment),
		cmocka_unit_test(largest_sums),
		cmocka_unit_test(pieces_of_odd_lengths),
		cmocka_unit_test(ranges_of_a_frame),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
