/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: what the controller says of itself: identify structures, features, log pages, asynchronous events. Expected values
 * are the specification's.
 */
#include "test.h"

#include <string.h>

#include "nvme_driver.h"

#define DNR NVME_DNR

static struct nvme_driver driver;

static int start(void **state)
{
	nvme_driver_start(&driver, NULL);
	return 0;
}

static int stop(void **state)
{
	nvme_driver_stop(&driver);
	return 0;
}

static uint16_t admin(const struct nvme_command *command, uint32_t *result)
{
	return driver_command(&driver, 0, command, result);
}

/* ---- identify, features, logs ------------------------------------------------------------------------------------ */

static uint8_t *identify(unsigned cns, uint32_t nsid)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_IDENTIFY, .nsid = nsid, .prp1 = DRIVER_DATA, .dw10 = cns };

	memset(driver_bytes(&driver, DRIVER_DATA), 0xff, 4096);
	assert_int_equal(admin(&command, NULL), 0);
	return driver_bytes(&driver, DRIVER_DATA);
}

static uint32_t get32(const uint8_t *page, unsigned offset)
{
	uint32_t value;

	memcpy(&value, page + offset, sizeof(value));
	return value;
}

static void identification(void **state)
{
	uint8_t *page = identify(NVME_CNS_CONTROLLER, 0), uuid[16];

	assert_memory_equal(page + 4, "nvme                ", 20);
	assert_memory_equal(page + 24, "sidecore NVMe ", 14);
	assert_int_equal(page[77], 8);
	assert_int_equal(get32(page, 80), 0x20000);
	assert_true(get32(page, 88) >= 10000000); /* RTD3E: a shutdown may take as long as a flush does */
	assert_int_equal(page[111], 1);
	assert_int_equal(page[256], 0);	       /* OACS: no format, no firmware */
	assert_int_equal(page[261], 0x26);     /* LPA */
	assert_int_equal(page[320], 0);	       /* KAS */
	assert_int_equal(get32(page, 328), 0); /* SANICAP */
	assert_int_equal(page[512], 0x66);
	assert_int_equal(page[513], 0x44);
	assert_int_equal(get32(page, 516), 2);
	assert_int_equal(page[520], 0xdd);
	assert_int_equal(page[525], 7);
	assert_int_equal(page[536] & 3, 1);
	assert_memory_equal(page + 768, "nqn.2014-08.org.nvmexpress:uuid:", 32);

	page = identify(NVME_CNS_NAMESPACE, 2);
	assert_int_equal(get32(page, 0), SLOW_SIZE / 512);
	assert_int_equal(get32(page, 8), SLOW_SIZE / 512);
	assert_int_equal(page[25], 0);
	assert_int_equal(page[130], 9);
	memcpy(uuid, page + 104, sizeof(uuid));
	page = identify(NVME_CNS_DESCRIPTORS, 2);
	assert_int_equal(page[0], 2);
	assert_memory_equal(page + 4, uuid, 16);
	assert_int_equal(page[20], 3);
	assert_int_equal(get32(page, 40), 0x0104); /* command set: NVM */
	assert_int_equal(get32(page, 45), 0);
	assert_memory_not_equal(identify(NVME_CNS_NAMESPACE, 1) + 104, uuid, 16);

	page = identify(NVME_CNS_ACTIVE_LIST, 0);
	assert_int_equal(get32(page, 0), 1);
	assert_int_equal(get32(page, 4), 2);
	assert_int_equal(get32(page, 8), 0);
	assert_int_equal(get32(identify(NVME_CNS_ACTIVE_LIST, 1), 0), 2);
	assert_int_equal(get32(identify(NVME_CNS_SET_ACTIVE_LIST, 2), 0), 0);
	assert_int_equal(identify(NVME_CNS_INDEPENDENT_NAMESPACE, 1)[14], 1);
}

static const struct {
	uint8_t id;
	uint32_t dw11, value, initial;
} values[] = {
	/* 0 */ { NVME_FEATURE_ARBITRATION, 0x01020303, 0x01020303, 6 },
	/* 1 */ { NVME_FEATURE_POWER, 0, 0, 0 },
	/* 2 */ { NVME_FEATURE_ERROR_RECOVERY, 0x1234, 0x1234, 0 },
	/* 3 */ { NVME_FEATURE_WRITE_CACHE, 0, 0, 1 },
	/* 4 */ { NVME_FEATURE_COALESCING, 0x0a05, 0x0a05, 0 },
	/* 5 */ { NVME_FEATURE_ATOMICITY, 1, 1, 0 },
	/* 6 */ { NVME_FEATURE_EVENTS, 0x100, 0x100, 0 },
	/* 7 */ { NVME_FEATURE_SOFTWARE_PROGRESS, 3, 3, 0 },
	/* 8 */ { NVME_FEATURE_TEMPERATURE, 0x0150, 0x0150, 0x157 },
	/* 9 */ { NVME_FEATURE_VECTOR, 0x10003, 0x10003, 0 },
};

static void features(void **state)
{
	for (unsigned i = 0; i < array_size(values); i++) {
		struct nvme_command get = { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = values[i].id };
		struct nvme_command set = { .opcode = NVME_ADMIN_SET_FEATURES,
					    .dw10 = values[i].id,
					    .dw11 = values[i].dw11 };
		uint32_t result;

		get.nsid = set.nsid = values[i].id == NVME_FEATURE_ERROR_RECOVERY;
		assert_int_equal(admin(&get, &result), 0);
		assert_int_equal(result, values[i].initial);
		assert_int_equal(admin(&set, NULL), 0);
		get.dw11 = values[i].id == NVME_FEATURE_VECTOR ? 3 : 0;
		assert_int_equal(admin(&get, &result), 0);
		if (result != values[i].value)
			fail_msg("feature %u: %x", i, result);
		get.dw10 |= 0x100;
		get.dw11 = 0;
		assert_int_equal(admin(&get, &result), 0);
		assert_int_equal(result, values[i].initial);
		get.dw10 = values[i].id | 0x300;
		assert_int_equal(admin(&get, &result), 0);
		assert_int_equal(result, values[i].id == NVME_FEATURE_ERROR_RECOVERY ? 6 : 4);
	}
	/* With data. */
	struct nvme_command time = { .opcode = NVME_ADMIN_SET_FEATURES,
				     .dw10 = NVME_FEATURE_TIMESTAMP,
				     .prp1 = DRIVER_DATA };
	uint64_t *stamp = driver_bytes(&driver, DRIVER_DATA);

	*stamp = 0x123456789a;
	assert_int_equal(admin(&time, NULL), 0);
	*stamp = 0;
	time.opcode = NVME_ADMIN_GET_FEATURES;
	assert_int_equal(admin(&time, NULL), 0);
	assert_true((*stamp & 0xffffffffffff) - 0x123456789a < 60000);
	assert_int_equal(*stamp >> 48, 2);
	time.dw10 |= 0x100; /* default: not set by anybody */
	assert_int_equal(admin(&time, NULL), 0);
	assert_true(*stamp < 1000);
}

static uint8_t *get_log(unsigned log, uint32_t length, uint32_t offset, bool retain)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_GET_LOG_PAGE,
					.nsid = NVME_NSID_ALL,
					.prp1 = DRIVER_DATA,
					.dw10 = (length / 4 - 1) << 16 | (uint32_t)retain << 15 | log,
					.dw12 = offset };

	memset(driver_bytes(&driver, DRIVER_DATA), 0xee, 8192);
	assert_int_equal(admin(&command, NULL), 0);
	return driver_bytes(&driver, DRIVER_DATA);
}

static void logs(void **state)
{
	struct nvme_command bad = { .opcode = 0x7b, .nsid = 7 };
	const struct nvme_error_entry *error;

	assert_int_equal(get_log(NVME_LOG_ERROR, 64, 0, false)[0], 0);
	assert_int_equal(admin(&bad, NULL), NVME_INVALID_OPCODE | DNR);
	error = (const struct nvme_error_entry *)(const void *)get_log(NVME_LOG_ERROR, 64, 0, false);
	assert_int_equal(error->count, 1);
	assert_int_equal(error->opcode, 0x7b);
	assert_int_equal(error->nsid, 7);
	assert_int_equal(error->status >> 1, NVME_INVALID_OPCODE | DNR | NVME_MORE);
	assert_int_equal(get_log(NVME_LOG_SMART, 512, 0, false)[3], 100);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 176, false)[0], 1); /* errors logged */
	assert_int_equal(get_log(NVME_LOG_SMART, 8, 512, false)[7], 0); /* past its end */
	assert_int_equal(get_log(NVME_LOG_FIRMWARE, 512, 0, false)[0], 1);
	assert_int_equal(get_log(NVME_LOG_COMMANDS, 4096, 0, false)[4 * NVME_ADMIN_IDENTIFY], 1);
	assert_int_equal(get_log(NVME_LOG_COMMANDS, 4096, 0, false)[4 * NVME_ADMIN_IDENTIFY + 2], 0x20); /* scope */
	assert_int_equal(get_log(NVME_LOG_COMMANDS, 4096, 0, false)[1024 + 4 * NVME_WRITE], 3);
	assert_int_equal(get_log(NVME_LOG_COMMANDS, 4096, 0, false)[4 * 0x80], 0);
	assert_int_equal(get_log(NVME_LOG_SUPPORTED, 1024, 0, false)[4 * NVME_LOG_SMART], 1);
	assert_int_equal(get_log(NVME_LOG_FEATURES, 1024, 0, false)[4 * NVME_FEATURE_QUEUES], 1);
	assert_int_equal(get_log(NVME_LOG_FEATURES, 1024, 0, false)[4 * NVME_FEATURE_ERROR_RECOVERY + 2], 0x10);
	assert_int_equal(get_log(NVME_LOG_FEATURES, 1024, 0, false)[4 * 0x0f], 0);
	assert_int_equal(get_log(NVME_LOG_SUPPORTED, 1024, 0, false)[4 * NVME_LOG_MANAGEMENT], 1);
	assert_int_equal(get32(get_log(NVME_LOG_MANAGEMENT, 1024, 0, false), 0), 0);
	get_log(NVME_LOG_FEATURES, 1024, 0, false);
	assert_int_equal(driver.bytes[DRIVER_DATA - DRIVER_MEMORY + 1024], 0xee);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void resize(unsigned index, uint64_t size)
{
	const char *error;

	assert_int_equal(disk_resize(&driver.slow[index].disk, size, &error), 0);
	nvme_resized(driver.device, index);
}

static void events(void **state)
{
	struct nvme_command request = { .opcode = NVME_ADMIN_ASYNC_EVENT };
	struct nvme_command enable = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_EVENTS, .dw11 = 0x100 };
	struct nvme_completion completion;
	uint8_t *list;

	/* Not asked for: only the list knows. */
	resize(1, SLOW_SIZE / 2);
	for (unsigned i = 0; i < NVME_EVENT_LIMIT; i++)
		driver_submit(&driver, 0, &request);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	assert_int_equal(get32(identify(NVME_CNS_NAMESPACE, 2), 0), SLOW_SIZE / 1024);
	assert_int_equal(get32(get_log(NVME_LOG_CHANGED_NAMESPACES, 4096, 0, false), 0), 2);
	assert_int_equal(get32(get_log(NVME_LOG_CHANGED_NAMESPACES, 4096, 0, false), 0), 0);
	assert_int_equal(admin(&request, NULL), NVME_ASYNC_EVENT_LIMIT | DNR);

	assert_int_equal(admin(&enable, NULL), 0);
	resize(1, SLOW_SIZE / 2); /* as it was */
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	resize(0, SLOW_SIZE / 4);
	resize(1, SLOW_SIZE / 4); /* held back until the list is read */
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x040002);
	assert_false(driver_take(&driver, 0, &completion));
	nvme_driver_run(&driver);
	list = get_log(NVME_LOG_CHANGED_NAMESPACES, 8, 0, true);
	assert_int_equal(get32(list, 0), 1);
	assert_int_equal(get32(list, 4), 2);
	assert_false(driver_take(&driver, 0, &completion));

	/* Reading it without "retain" lets the next one through, which waited: ahead of the command's own completion.
	 */
	struct nvme_command log = { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = DRIVER_DATA, .dw10 = 0x00010004 };

	driver_submit(&driver, 0, &log);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x040002);
	assert_true(driver_take(&driver, 0, &completion));
	nvme_driver_run(&driver);

	/* Aborting one of the two that are left. */
	struct nvme_command abort_command = { .opcode = NVME_ADMIN_ABORT, .dw10 = (uint32_t)1 << 16 };

	driver_submit(&driver, 0, &abort_command);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.cid, 1);
	assert_int_equal(completion.status, NVME_ABORT_REQUESTED);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0);
}

/* Base 5.16.1.3, 5.27.1.3: the temperature is 313 K, and thresholds pass it. */
static void temperature_thresholds(void **state)
{
	struct nvme_command request = { .opcode = NVME_ADMIN_ASYNC_EVENT };
	struct nvme_command over = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_TEMPERATURE, .dw11 = 313 };
	struct nvme_command under = { .opcode = NVME_ADMIN_SET_FEATURES,
				      .dw10 = NVME_FEATURE_TEMPERATURE,
				      .dw11 = 1U << 20 | 314 };
	struct nvme_command enable = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_EVENTS, .dw11 = 2 };
	struct nvme_completion completion;

	driver_submit(&driver, 0, &request);
	driver_submit(&driver, 0, &request);
	nvme_driver_run(&driver);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 0, false)[0], 0);
	assert_int_equal(admin(&over, NULL), 0);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 0, false)[0], 2);
	/* Reported when the driver wants it. */
	driver_submit(&driver, 0, &enable);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x020101);
	assert_true(driver_take(&driver, 0, &completion));
	over.dw11 = 400;
	assert_int_equal(admin(&over, NULL), 0);
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 0, false)[0], 0);
	driver_submit(&driver, 0, &under);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x020101);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(get_log(NVME_LOG_SMART, 4, 0, false)[0], 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(identification, start, stop),
		cmocka_unit_test_setup_teardown(features, start, stop),
		cmocka_unit_test_setup_teardown(logs, start, stop),
		cmocka_unit_test_setup_teardown(events, start, stop),
		cmocka_unit_test_setup_teardown(temperature_thresholds, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
