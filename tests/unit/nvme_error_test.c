/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe error log: what commands leave there that fail, in whichever queue, and that readers never see half of an entry.
 */
#include "test.h"

#include <errno.h>
#include <pthread.h>

#include "base/clock.h"
#include "nvme_driver.h"

#define DNR NVME_DNR

static struct nvme_driver driver;

static int start(void **state)
{
	nvme_driver_start(&driver, NULL);
	driver_queue(&driver, 1, DRIVER_ENTRIES);
	driver_queue(&driver, 2, DRIVER_ENTRIES);
	return 0;
}

static int stop(void **state)
{
	nvme_driver_stop(&driver);
	return 0;
}

static void get_log(unsigned log, void *to, uint32_t length)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_GET_LOG_PAGE,
					.prp1 = DRIVER_LISTS,
					.dw10 = (length / 4 - 1) << 16 | log };

	assert_int_equal(driver_command(&driver, 0, &command, NULL), 0);
	assert_false(driver.more);
	memcpy(to, driver_bytes(&driver, DRIVER_LISTS), length);
}

static void check(const struct nvme_error_entry *entry, uint64_t count, uint16_t sq, uint16_t status, uint32_t nsid,
		  uint64_t lba, uint8_t opcode)
{
	assert_int_equal(entry->count, count);
	assert_int_equal(entry->sq_id, sq);
	assert_int_equal(entry->status >> 1, status | NVME_MORE);
	assert_int_equal(entry->nsid, nsid);
	assert_int_equal(entry->lba, lba);
	assert_int_equal(entry->opcode, opcode);
}

static void failures_are_logged(void **state)
{
	struct nvme_command read = { .opcode = NVME_READ, .nsid = 1, .prp1 = DRIVER_DATA, .dw10 = 0x123 };
	struct nvme_command beyond = { .opcode = NVME_WRITE, .nsid = 2, .prp1 = DRIVER_DATA, .dw11 = 5, .dw10 = 6 };
	struct nvme_command zeroes = { .opcode = NVME_WRITE_ZEROES, .nsid = 1, .dw10 = 64, .dw12 = 127 };
	struct nvme_command event = { .opcode = NVME_ADMIN_ASYNC_EVENT };
	struct nvme_error_entry log[16];
	struct nvme_completion completion;
	uint8_t smart[512];
	uint64_t *fields = (uint64_t *)(void *)smart;

	driver_submit(&driver, 0, &event);
	nvme_driver_run(&driver);
	assert_int_equal(driver_command(&driver, 1, &read, NULL), 0);
	assert_false(driver.more);
	driver.slow[0].error = -EIO;
	assert_int_equal(driver_command(&driver, 1, &read, NULL), NVME_READ_ERROR);
	assert_true(driver.more);
	assert_int_equal(driver_command(&driver, 2, &beyond, NULL), NVME_LBA_OUT_OF_RANGE | DNR);
	assert_true(driver.more);
	/* In steps: the second of two pieces fails. */
	driver.slow[0].error = 0;
	driver.slow[0].hold = true;
	driver_submit(&driver, 1, &zeroes);
	nvme_driver_run(&driver);
	slow_release(&driver, &driver.slow[0], 1);
	driver.slow[0].error = -EIO;
	driver.slow[0].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 1, &completion));
	assert_int_equal(completion.status, NVME_WRITE_FAULT);
	driver.slow[0].error = 0;

	get_log(NVME_LOG_ERROR, log, sizeof(log));
	check(&log[0], 3, 1, NVME_WRITE_FAULT, 1, 64 + 64, NVME_WRITE_ZEROES);
	check(&log[1], 2, 2, NVME_LBA_OUT_OF_RANGE | DNR, 2, 5ULL << 32 | 6, NVME_WRITE);
	check(&log[2], 1, 1, NVME_READ_ERROR, 1, 0x123, NVME_READ);
	assert_int_equal(log[0].cid, completion.cid);
	assert_int_equal(log[3].count, 0);
	get_log(NVME_LOG_SMART, smart, sizeof(smart));
	assert_int_equal(fields[160 / 8], 2); /* media errors */
	assert_int_equal(fields[176 / 8], 3); /* entries ever */
	/* Events are for what no command tells of (Base 5.2.1). */
	assert_false(driver_take(&driver, 0, &completion));
}

static void the_newest_are_kept(void **state)
{
	struct nvme_command wrong = { .opcode = NVME_READ, .nsid = 1, .prp1 = 0 };
	struct nvme_command delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 2 };
	struct nvme_error_entry log[16];

	/* 41 errors: twenty of each queue in turn, one of the admin queue. */
	for (unsigned i = 0; i < 40; i++) {
		wrong.dw10 = i;
		assert_int_equal(driver_command(&driver, 1 + i % 2, &wrong, NULL), NVME_DATA_TRANSFER_ERROR | DNR);
	}
	assert_int_equal(driver_command(&driver, 0, &(struct nvme_command){ .opcode = 0x7f }, NULL),
			 NVME_INVALID_OPCODE | DNR);
	/* They outlive their queue, and a reset of the controller. */
	assert_int_equal(driver_command(&driver, 0, &delete_sq, NULL), 0);
	assert_int_equal(driver_enable(&driver, DRIVER_ENTRIES), NVME_CSTS_RDY);
	get_log(NVME_LOG_ERROR, log, sizeof(log));
	check(&log[0], 41, 0, NVME_INVALID_OPCODE | DNR, 0, 0, 0x7f);
	for (unsigned i = 1; i < 16; i++)
		check(&log[i], 41 - i, (uint16_t)(1 + i % 2), NVME_DATA_TRANSFER_ERROR | DNR, 1, 40 - i, NVME_READ);
	/* A part of the page, and more than there is of it. */
	get_log(NVME_LOG_ERROR, log, 64);
	assert_int_equal(log[0].count, 41);
	struct nvme_command large = { .opcode = NVME_ADMIN_GET_LOG_PAGE,
				      .prp1 = DRIVER_DATA + 0x800,
				      .prp2 = DRIVER_LISTS,
				      .dw10 = (0x10000 / 4 - 1) << 16 | NVME_LOG_ERROR };
	uint64_t *list = driver_bytes(&driver, DRIVER_LISTS);
	uint8_t *bytes = driver_bytes(&driver, DRIVER_DATA);

	for (unsigned i = 0; i < 16; i++)
		list[i] = DRIVER_DATA + 0x1000 * (i + 1);
	memset(bytes, 0xee, 0x12000);
	assert_int_equal(driver_command(&driver, 0, &large, NULL), 0);
	assert_int_equal(bytes[0x800], 41);
	for (unsigned i = 0x800 + 1024; i < 0x10800; i++)
		assert_int_equal(bytes[i], 0);
	assert_int_equal(bytes[0x10800], 0xee);
}

/* ---- read while it is written ------------------------------------------------------------------------------------ */

static atomic_bool enough;

static void *log_errors(void *context)
{
	for (uint32_t i = 1; !atomic_load_explicit(&enough, memory_order_relaxed); i++) {
		struct nvme_error error = { .sq_id = 1,
					    .cid = (uint16_t)i,
					    .opcode = (uint8_t)i,
					    .status = NVME_READ_ERROR,
					    .nsid = i,
					    .lba = ~(uint64_t)i };

		nvme_log_error(driver.nvme, (unsigned)(uintptr_t)context, &error);
	}
	return NULL;
}

static void entries_are_whole(void **state)
{
	uint64_t until = clock_nanoseconds() + NANOSECONDS_PER_SECOND / 2, seen = 0;
	struct nvme_error_entry log[16];
	pthread_t threads[2];

	for (uintptr_t i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, log_errors, (void *)(i + 1)), 0);
	while (clock_nanoseconds() < until) {
		nvme_read_errors(driver.nvme, log);
		for (unsigned i = 0; i < 16 && log[i].count; i++, seen++) {
			assert_true(log[i].lba == ~(uint64_t)log[i].nsid && log[i].cid == (uint16_t)log[i].nsid &&
				    log[i].opcode == (uint8_t)log[i].nsid);
			assert_true(!i || log[i].count < log[i - 1].count);
		}
	}
	atomic_store(&enough, true);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(seen > 100);
	nvme_read_errors(driver.nvme, log);
	assert_int_equal(log[0].count, atomic_load(&driver.nvme->error_count));
	assert_int_equal(log[15].count, log[0].count - 15);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(failures_are_logged, start, stop),
		cmocka_unit_test_setup_teardown(the_newest_are_kept, start, stop),
		cmocka_unit_test_setup_teardown(entries_are_whole, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
