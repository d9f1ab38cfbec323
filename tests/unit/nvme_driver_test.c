/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of NVMe queues against a controller of a few lines, written here from the specification alone (NVM
 * Express base 2.0, 3.3.1 and 4.2.4.1): thousands of commands in uneven batches, completed out of order, around the ends of
 * queues of several sizes; then controllers that lie.
 */
#include "client/nvme_driver.h"

#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ROUNDS	    5000
#define ENTRIES_MAX 256

struct controller {
	struct client_memory memory;
	struct nvme_pair pair;
	uint32_t sq_tail, cq_head; /* doorbells */
	uint16_t sq_head, cq_tail, phase;
	uint16_t pending[ENTRIES_MAX];
	unsigned int pending_count;
	uint64_t seen;
};

static void set_up(struct controller *controller, uint16_t entries)
{
	char error[160];

	memset(controller, 0, sizeof(*controller));
	assert_int_equal(client_memory_create(&controller->memory, 1, false, error, sizeof(error)), 0);
	assert_int_equal(nvme_pair_init(&controller->pair, 1, entries, &controller->memory), 0);
	controller->pair.sq_doorbell.mapped = &controller->sq_tail;
	controller->pair.cq_doorbell.mapped = &controller->cq_head;
	controller->phase = 1;
	for (unsigned int i = 0; i < entries; i++)
		controller->pair.prepared[i].prp1 = htole64(0x1000u * i);
}

static void tear_down(struct controller *controller)
{
	nvme_pair_release(&controller->pair);
	client_memory_release(&controller->memory);
}

/* Fetches what the tail shows; each command must be the one that was prepared, and be there once. */
static void fetch(struct controller *controller)
{
	while (controller->sq_head != controller->sq_tail) {
		const struct nvme_command *command = &controller->pair.sq[controller->sq_head];
		uint16_t id = le16toh(command->id);

		assert_true(id < controller->pair.entries);
		assert_int_equal(le64toh(command->prp1), 0x1000u * id);
		for (unsigned int i = 0; i < controller->pending_count; i++)
			assert_int_not_equal(controller->pending[i], id);
		controller->pending[controller->pending_count++] = id;
		controller->seen++;
		if (++controller->sq_head == controller->pair.entries)
			controller->sq_head = 0;
	}
}

static bool cq_is_full(const struct controller *controller)
{
	return (controller->cq_tail + 1u) % controller->pair.entries == controller->cq_head;
}

static void post(struct controller *controller, uint16_t id, uint16_t status)
{
	struct nvme_completion *completion = &controller->pair.cq[controller->cq_tail];

	completion->sq_head = htole16(controller->sq_head);
	completion->sq_id = htole16(1);
	completion->id = htole16(id);
	completion->status = htole16((uint16_t)(status << 1 | controller->phase));
	if (++controller->cq_tail == controller->pair.entries) {
		controller->cq_tail = 0;
		controller->phase ^= 1;
	}
}

/* Completes some of what is pending, from any place, each with its identifier's low bits as its status. */
static void complete_some(struct controller *controller)
{
	unsigned int count = controller->pending_count ? (unsigned int)rand() % (controller->pending_count + 1) : 0;

	while (count-- > 0 && !cq_is_full(controller)) {
		unsigned int index = (unsigned int)rand() % controller->pending_count;
		uint16_t id = controller->pending[index];

		controller->pending[index] = controller->pending[--controller->pending_count];
		post(controller, id, id & 3);
	}
}

static void check_traffic(uint16_t entries)
{
	struct driver_buffer idle[ENTRIES_MAX], taken[ENTRIES_MAX];
	unsigned int idle_count = entries - 1u;
	uint64_t sent = 0, done = 0;
	struct controller controller;

	set_up(&controller, entries);
	for (unsigned int i = 0; i < idle_count; i++)
		idle[i] = (struct driver_buffer){ .id = i };
	for (unsigned int round = 0; round < ROUNDS; round++) {
		unsigned int count = (unsigned int)rand() % (idle_count + 1);
		int got;

		if (count) {
			idle_count -= count;
			assert_int_equal(nvme_pair_submit(&controller.pair, &idle[idle_count], count), 0);
			sent += count;
		}
		fetch(&controller);
		complete_some(&controller);
		got = nvme_pair_take(&controller.pair, taken, 1 + (unsigned int)rand() % entries);
		assert_true(got >= 0);
		for (int i = 0; i < got; i++) {
			assert_int_equal(taken[i].length, taken[i].id & 3);
			idle[idle_count++] = taken[i];
		}
		done += (uint64_t)got;
		assert_int_equal(controller.pair.in_flight, sent - done);
		assert_int_equal(idle_count + controller.pair.in_flight, entries - 1u);
		assert_int_equal(controller.cq_head, controller.pair.cq_head);
	}
	assert_int_equal(controller.seen, sent);
	assert_true(done > ROUNDS / 4);
	tear_down(&controller);
}

static void moves_commands(void **state)
{
	static const uint16_t sizes[] = { 2, 3, 7, 64, ENTRIES_MAX };

	srand(1);
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		check_traffic(sizes[i]);
}

static void old_phase_is_not_a_completion(void **state)
{
	struct driver_buffer buffer = { .id = 0 };
	struct controller controller;

	set_up(&controller, 4);
	assert_int_equal(nvme_pair_take(&controller.pair, &buffer, 1), 0);
	assert_int_equal(nvme_pair_submit(&controller.pair, &buffer, 1), 0);
	assert_false(nvme_pair_is_ready(&controller.pair));
	controller.phase = 0;
	post(&controller, 0, 0);
	assert_false(nvme_pair_is_ready(&controller.pair));
	assert_int_equal(nvme_pair_take(&controller.pair, &buffer, 1), 0);
	assert_int_equal(controller.pair.in_flight, 1);
	tear_down(&controller);
}

static void finds_lies(void **state)
{
	static const uint16_t lies[] = { 2, 4, 0xffff }; /* not outstanding; there is none */
	struct driver_buffer buffer = { .id = 1 };

	for (unsigned int i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		struct controller controller;

		set_up(&controller, 4);
		assert_int_equal(nvme_pair_submit(&controller.pair, &buffer, 1), 0);
		post(&controller, lies[i], 0);
		assert_int_equal(nvme_pair_take(&controller.pair, &(struct driver_buffer){ 0 }, 1), -EPROTO);
		tear_down(&controller);
	}
}

static void finds_doubles(void **state)
{
	struct driver_buffer buffers[2] = { { .id = 1 } };
	struct controller controller;

	set_up(&controller, 8);
	assert_int_equal(nvme_pair_submit(&controller.pair, buffers, 1), 0);
	post(&controller, 1, 0);
	post(&controller, 1, 0);
	assert_int_equal(nvme_pair_take(&controller.pair, buffers, 2), -EPROTO);
	tear_down(&controller);
}

static void refuses_queues_of_one(void **state)
{
	struct client_memory memory;
	struct nvme_pair pair;
	char error[160];

	assert_int_equal(client_memory_create(&memory, 1, false, error, sizeof(error)), 0);
	assert_int_equal(nvme_pair_init(&pair, 1, 1, &memory), -EINVAL);
	nvme_pair_release(&pair);
	assert_int_equal(nvme_pair_init(&pair, 1, 60000, &memory), -ENOMEM); /* more than there is memory for */
	nvme_pair_release(&pair);
	client_memory_release(&memory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(moves_commands),
		cmocka_unit_test(old_phase_is_not_a_completion),
		cmocka_unit_test(finds_lies),
		cmocka_unit_test(finds_doubles),
		cmocka_unit_test(refuses_queues_of_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
