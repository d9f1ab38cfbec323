/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of descriptor rings against a card of a few lines, written here from the data sheets: buffers of one and
 * several descriptors, rings whose size is no multiple of that, uneven batches, both forms of receive write-back.
 */
#include "client/intel_ring.h"

#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROUNDS	    5000
#define BUFFERS_MAX 512

struct card {
	struct client_memory memory;
	struct intel_ring ring;
	uint32_t tail;
	uint16_t head;
	uint64_t descriptors;
};

static void set_up(struct card *card, uint16_t size, uint16_t step)
{
	char error[160];

	memset(card, 0, sizeof(*card));
	assert_int_equal(client_memory_create(&card->memory, 1, false, error, sizeof(error)), 0);
	assert_int_equal(intel_ring_init(&card->ring, size, step, &card->memory), 0);
	assert_int_equal(card->ring.buffers, (size - 1) / step);
	card->ring.tail.mapped = &card->tail;
	for (unsigned int i = 0; i < card->ring.buffers * step; i++)
		card->ring.prepared[i] = (struct intel_descriptor){ .low = htole64(0x1000u + i) };
}

static void tear_down(struct card *card)
{
	intel_ring_release(&card->ring);
	client_memory_release(&card->memory);
}

/* Does up to @count descriptors; @high is the write-back's upper half. Return: how many it did. */
static unsigned int work(struct card *card, unsigned int count, uint64_t high)
{
	unsigned int done = 0;

	while (done < count && card->head != card->tail) {
		struct intel_descriptor *descriptor = &card->ring.ring[card->head];

		assert_int_equal(le64toh(descriptor->high), 0); /* written again, the done bit of last time is gone */
		assert_in_range(le64toh(descriptor->low), 0x1000, 0x1000 + card->ring.buffers * card->ring.step - 1u);
		assert_int_equal((le64toh(descriptor->low) - 0x1000) % card->ring.step,
				 card->descriptors % card->ring.step);
		descriptor->high = htole64(high);
		card->descriptors++;
		done++;
		if (++card->head == card->ring.size)
			card->head = 0;
	}

	return done;
}

static void check_transmit(uint16_t size, uint16_t step)
{
	struct driver_buffer idle[BUFFERS_MAX];
	unsigned int first = 0, idle_count, buffers;
	uint64_t given = 0, reaped = 0;
	struct card card;

	set_up(&card, size, step);
	buffers = idle_count = card.ring.buffers;
	for (unsigned int i = 0; i < buffers; i++)
		idle[i] = (struct driver_buffer){ .id = i };
	for (unsigned int round = 0; round < ROUNDS; round++) {
		unsigned int count = (unsigned int)rand() % (idle_count + 1);
		struct driver_buffer back[BUFFERS_MAX];
		int got;

		for (unsigned int i = 0; i < count; i++, given++) {
			assert_int_equal(intel_ring_give(&card.ring, &idle[first], 1), 0);
			first = (first + 1) % buffers;
		}
		idle_count -= count;
		work(&card, (unsigned int)rand() % size, 1ULL << 32);
		got = intel_ring_reap(&card.ring, back, 1 + (unsigned int)rand() % buffers);
		for (int i = 0; i < got; i++, reaped++, idle_count++) {
			/* In the order in which they were given, and only when all of it is done. */
			assert_int_equal(back[i].id, reaped % buffers);
			assert_true((reaped + 1) * step <= card.descriptors);
		}
		assert_int_equal(card.ring.in_flight, given - reaped);
	}
	assert_true(reaped > ROUNDS / 4);
	tear_down(&card);
}

static void transmits(void **state)
{
	srand(1);
	check_transmit(8, 1);
	check_transmit(256, 1);
	check_transmit(256, 3);
	check_transmit(24, 17);
	check_transmit(64, 63);
}

static void check_receive(uint8_t done_shift, uint8_t length_shift)
{
	struct driver_buffer buffers[64];
	uint64_t received = 0;
	struct card card;

	set_up(&card, 64, 1);
	card.ring.done_shift = done_shift;
	card.ring.length_shift = length_shift;
	for (unsigned int i = 0; i < card.ring.buffers; i++)
		assert_int_equal(intel_ring_give(&card.ring, &(struct driver_buffer){ .id = i }, 1), 0);
	for (unsigned int round = 0; round < ROUNDS; round++) {
		uint16_t length = (uint16_t)rand();
		bool more = rand() & 1;
		unsigned int count = work(&card, 1 + (unsigned int)rand() % 63,
					  (more ? 1ULL : 3ULL) << done_shift | (uint64_t)length << length_shift);

		assert_true(count > 0);
		while (count > 0) {
			int got = intel_ring_receive(&card.ring, buffers, 1 + (unsigned int)rand() % 16);

			assert_in_range(got, 1, count);
			for (int i = 0; i < got; i++, received++) {
				assert_int_equal(buffers[i].id, received % card.ring.buffers);
				assert_int_equal(buffers[i].length, more ? length | DRIVER_BUFFER_MORE : length);
			}
			assert_int_equal(intel_ring_give(&card.ring, buffers, (unsigned int)got), 0);
			count -= (unsigned int)got;
		}
		assert_int_equal(intel_ring_receive(&card.ring, buffers, 64), 0);
		assert_false(intel_ring_is_ready(&card.ring));
	}
	tear_down(&card);
}

static void receives(void **state)
{
	check_receive(0, 32); /* advanced, extended */
	check_receive(32, 0); /* legacy */
}

/* A card that says "done" of everything has no more than what it was given. */
static void believes_only_what_was_given(void **state)
{
	struct driver_buffer buffers[8];
	struct card card;

	set_up(&card, 8, 1);
	for (unsigned int i = 0; i < 8; i++)
		card.ring.ring[i].high = UINT64_MAX;
	assert_false(intel_ring_is_ready(&card.ring));
	assert_int_equal(intel_ring_reap(&card.ring, buffers, 8), 0);
	assert_int_equal(intel_ring_receive(&card.ring, buffers, 8), 0);
	assert_int_equal(intel_ring_give(&card.ring, &(struct driver_buffer){ .id = 3 }, 1), 0);
	card.ring.ring[0].high = UINT64_MAX;
	assert_int_equal(intel_ring_reap(&card.ring, buffers, 8), 1);
	assert_int_equal(buffers[0].id, 3);
	tear_down(&card);
}

static void refuses_bad_forms(void **state)
{
	static const struct {
		uint16_t size, step;
		int error;
	} forms[] = {
		{ 0, 1, -EINVAL }, { 12, 1, -EINVAL }, { 8, 0, -EINVAL },
		{ 8, 8, -EINVAL }, { 8, 7, 0 },	       { 4096, 1, 0 },
	};
	struct client_memory memory;
	char error[160];

	assert_int_equal(client_memory_create(&memory, 1, false, error, sizeof(error)), 0);
	for (unsigned int i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		struct intel_ring ring;

		assert_int_equal(intel_ring_init(&ring, forms[i].size, forms[i].step, &memory), forms[i].error);
		intel_ring_release(&ring);
	}
	client_memory_release(&memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transmits),
		cmocka_unit_test(receives),
		cmocka_unit_test(believes_only_what_was_given),
		cmocka_unit_test(refuses_bad_forms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
