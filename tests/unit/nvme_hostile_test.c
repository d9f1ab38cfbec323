/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe under a guest that changes its memory while it is read.
 *
 * A thread flips bits and words of rings, lists, data and doorbells as fast as it can, while this one submits commands
 * of all kinds and has the sidecore and the control thread take turns. Whatever is read twice is read differently
 * sooner or later, under the sanitizers. Each time queues have stopped, or the controller has failed, its driver resets
 * it; in the end, with the memory at peace, it works as new.
 */
#include "test.h"

#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "nvme_driver.h"

#define DURATION (3 * NANOSECONDS_PER_SECOND)
#define QUEUES	 3U

static struct nvme_driver driver;
static atomic_bool stop;

static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(*state >> 33);
}

/* Rings of the queues, lists, and what little data matters; sometimes a doorbell. */
static uint8_t *any_place(uint64_t *state)
{
	uint32_t random = next_random(state), at = next_random(state);

	switch (random % 8) {
	case 0:
	case 1:
		return driver_bytes(&driver, DRIVER_LISTS + at % 0x2000);
	case 2:
		return driver_bytes(&driver, DRIVER_DATA + at % 0x2000);
	case 3:
		if (random >> 8 & 0xff)
			break;
		return (uint8_t *)driver.device->bars[0].shared + NVME_DOORBELLS + at % 0x100;
	}
	return driver_bytes(&driver, DRIVER_SQ(random / 8 % (QUEUES + 1)) + at % 0x400);
}

static void *mutate(void *context)
{
	uint64_t state = 42;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint8_t *byte = any_place(&state);
		uint32_t random = next_random(&state);

		if (random & 1) {
			__atomic_fetch_xor(byte, (uint8_t)(1U << (random >> 4 & 7)), __ATOMIC_RELAXED);
			continue;
		}
		/* And back at once, so that most is good most of the time. */
		byte -= (uintptr_t)byte % 4;
		__atomic_fetch_xor((uint32_t *)(void *)byte, random, __ATOMIC_RELAXED);
		__atomic_fetch_xor((uint32_t *)(void *)byte, random, __ATOMIC_RELAXED);
	}
	return NULL;
}

static uint64_t any_pointer(uint64_t *state)
{
	uint32_t random = next_random(state);

	return (random & 1 ? DRIVER_DATA : DRIVER_LISTS) + (random >> 8 & 0xf) * 0x1000 +
	       (random & 2 ? random >> 16 & 0xffc : 0);
}

static void submit_any(unsigned id, uint64_t *state)
{
	static const uint8_t admin[] = { NVME_ADMIN_IDENTIFY, NVME_ADMIN_GET_LOG_PAGE, NVME_ADMIN_ABORT,
					 NVME_ADMIN_ASYNC_EVENT, NVME_ADMIN_GET_FEATURES };
	static const uint8_t io[] = { NVME_READ,	 NVME_WRITE, NVME_COMPARE, NVME_DATASET,
				      NVME_WRITE_ZEROES, NVME_FLUSH, NVME_VERIFY };
	uint32_t random = next_random(state);
	struct nvme_command command = { .nsid = 1 + (random >> 8 & 1),
					.opcode = id ? io[random % array_size(io)] : admin[random % array_size(admin)],
					.prp1 = any_pointer(state),
					.prp2 = any_pointer(state),
					.dw10 = random >> 16 & 0xff,
					.dw12 = next_random(state) & 0x3f };

	if (command.opcode == NVME_DATASET && id)
		command.dw11 = NVME_DATASET_AD;
	if (id && random >> 10 & 1) {
		command.flags = NVME_PSDT_SGL_BUFFER;
		command.sgl =
			(struct nvme_sgl){ DRIVER_LISTS, 16 * (1 + (random >> 12 & 15)), { 0 }, NVME_SGL_LAST_SEGMENT };
	}
	driver_submit(&driver, id, &command);
}

static void write_lists(uint64_t *state)
{
	struct nvme_sgl *sgl = driver_bytes(&driver, DRIVER_LISTS);
	uint64_t *prp = driver_bytes(&driver, DRIVER_LISTS + 0x1000);

	for (unsigned i = 0; i < 16; i++)
		sgl[i] = (struct nvme_sgl){ any_pointer(state), 512, { 0 }, NVME_SGL_DATA };
	for (unsigned i = 0; i < 512; i++)
		prp[i] = DRIVER_DATA + 0x1000 * (next_random(state) & 0xf);
}

/* With the mutator at work even creating queues may fail; then it is tried again. */
static void bring_up(void)
{
	driver_enable(&driver, DRIVER_ENTRIES);
	for (unsigned id = 1; id <= QUEUES; id++) {
		struct nvme_command cq = {
			.opcode = NVME_ADMIN_CREATE_CQ, .prp1 = DRIVER_CQ(id), .dw10 = 15 << 16 | id, .dw11 = 1
		};
		struct nvme_command sq = { .opcode = NVME_ADMIN_CREATE_SQ,
					   .prp1 = DRIVER_SQ(id),
					   .dw10 = 15 << 16 | id,
					   .dw11 = id << 16 | 1 };

		driver.queues[id] =
			(struct driver_queue){ .sq_size = DRIVER_ENTRIES, .cq_size = DRIVER_ENTRIES, .phase = 1 };
		driver_submit(&driver, 0, &cq);
		driver_submit(&driver, 0, &sq);
		fuzz_engine_round(&driver.engine);
		fuzz_engine_round(&driver.engine);
	}
}

static bool has_stopped(void)
{
	for (unsigned id = 1; id <= QUEUES; id++) {
		if (!driver.nvme->sqs[id] || atomic_load(&driver.nvme->sqs[id]->error))
			return true;
	}
	return driver_read(&driver, NVME_REG_CSTS, 4) != NVME_CSTS_RDY;
}

static void memory_that_changes(void **state)
{
	uint64_t seed = 1, until, rounds = 0, restarts = 0;
	struct nvme_command read = { .opcode = NVME_READ, .nsid = 1, .prp1 = DRIVER_DATA, .dw12 = 7 };
	struct nvme_counters counters;
	pthread_t mutator;

	nvme_driver_start(&driver, NULL);
	assert_int_equal(pthread_create(&mutator, NULL, mutate, NULL), 0);
	for (until = clock_nanoseconds() + DURATION; clock_nanoseconds() < until; rounds++) {
		if (!(rounds % 64) || has_stopped()) {
			bring_up();
			write_lists(&seed);
			restarts++;
		}
		for (unsigned i = 0; i < 12; i++)
			submit_any(next_random(&seed) % (QUEUES + 1), &seed);
		fuzz_engine_round(&driver.engine);
		for (unsigned id = 0; id <= QUEUES; id++) {
			struct nvme_completion completion;

			for (unsigned i = 0; i < 16 && driver_take(&driver, id, &completion); i++)
				;
		}
	}
	atomic_store(&stop, true);
	pthread_join(mutator, NULL);

	assert_int_equal(driver_enable(&driver, DRIVER_ENTRIES), NVME_CSTS_RDY);
	driver_queue(&driver, 1, DRIVER_ENTRIES);
	assert_int_equal(driver_command(&driver, 1, &read, NULL), 0);
	nvme_read_counters(driver.device, &counters);
	print_message("%lu rounds, %lu resets; %lu reads, %lu writes, %lu errors\n", rounds, restarts, counters.reads,
		      counters.writes, counters.errors);
	/* It was not all in vain, and not all well. */
	assert_true(counters.reads > 10 && counters.writes > 10 && counters.errors > 10 && restarts > 1);
	nvme_driver_stop(&driver);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(memory_that_changes) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
