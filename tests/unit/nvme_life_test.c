/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: how a controller ends and begins again: shutdowns and what they make durable, resets of each kind and what each
 * leaves.
 */
#include "test.h"

#include <errno.h>

#include "nvme_driver.h"

#define NORMAL	 (1U << 14)
#define ABRUPT	 (2U << 14)
#define SHUTTING (NVME_CSTS_RDY | NVME_CSTS_SHST_ACTIVE)
#define SHUT	 (NVME_CSTS_RDY | NVME_CSTS_SHST_DONE)

static struct nvme_driver driver;

static int start(void **state)
{
	nvme_driver_start(&driver, NULL);
	driver_queue(&driver, 1, DRIVER_ENTRIES);
	return 0;
}

static int stop(void **state)
{
	nvme_driver_stop(&driver);
	return 0;
}

static uint32_t csts(void)
{
	return (uint32_t)driver_read(&driver, NVME_REG_CSTS, 4);
}

static void set_cc(uint32_t clear, uint32_t set)
{
	driver_write(&driver, NVME_REG_CC, 4, (driver_read(&driver, NVME_REG_CC, 4) & ~clear) | set);
}

static void hold(bool on)
{
	for (unsigned i = 0; i < 2; i++) {
		driver.slow[i].hold = on;
		if (!on)
			slow_release(&driver, &driver.slow[i], 0);
	}
	nvme_driver_run(&driver);
}

/* ---- shutdown ---------------------------------------------------------------------------------------------------- */

static void a_normal_shutdown_flushes(void **state)
{
	struct nvme_counters counters;

	hold(true);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUTTING);
	assert_int_equal(driver.slow[0].held_count, 1);
	assert_int_equal(driver.slow[1].held_count, 1);
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUTTING); /* every one of them */
	hold(false);
	assert_int_equal(csts(), SHUT);
	assert_int_equal(driver.slow[0].flushes, 1);
	assert_int_equal(driver.slow[1].flushes, 1);
	nvme_read_counters(driver.device, &counters);
	assert_int_equal(counters.flushes, 2);

	/* Once is enough, until the next reset; and without any queue it works as well. */
	set_cc(ABRUPT | NORMAL, 0);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].flushes, 1);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUT);
	assert_int_equal(driver.slow[0].flushes, 2);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);

	/* Of a controller that is off already. */
	set_cc(NVME_CC_EN, 0);
	nvme_driver_run(&driver);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), NVME_CSTS_SHST_DONE);
	assert_int_equal(driver.slow[1].flushes, 3);
}

static void an_abrupt_shutdown_does_not(void **state)
{
	set_cc(0, ABRUPT);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUT);
	assert_int_equal(driver.slow[0].flushes + driver.slow[1].flushes, 0);
}

/* Requests under way come first: what they write is to be flushed, too. */
static void a_shutdown_waits_for_requests(void **state)
{
	struct nvme_command write = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = DRIVER_DATA };

	hold(true);
	driver_submit(&driver, 1, &write);
	nvme_driver_run(&driver);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 1);
	assert_int_equal(driver.slow[0].held[0]->operation, BLOCK_WRITE);
	slow_release(&driver, &driver.slow[0], 1);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held[0]->operation, BLOCK_FLUSH);
	assert_int_equal(csts(), SHUTTING);
	hold(false);
	assert_int_equal(csts(), SHUT);
}

static void a_shutdown_that_is_interrupted(void **state)
{
	/* By a reset of the controller: it waits for the disks. */
	hold(true);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	set_cc(NVME_CC_EN | NORMAL, 0);
	nvme_driver_run(&driver);
	assert_true(csts() & NVME_CSTS_RDY);
	hold(false);
	assert_int_equal(csts(), 0);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	/* Of the function. */
	hold(true);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	driver.done = false;
	assert_int_equal(driver.device->ops->reset(driver.device), PCI_DEFERRED);
	nvme_driver_run(&driver);
	assert_false(driver.done);
	hold(false);
	assert_true(driver.done);
	assert_int_equal(csts(), 0);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	/* By a change of memory, and it goes on after that. */
	hold(true);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	driver.done = false;
	assert_int_equal(driver.device->ops->pause(driver.device), PCI_DEFERRED);
	hold(false);
	assert_true(driver.done);
	driver.device->ops->resume(driver.device);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUT);
	/* Disks that fail hold up nobody. */
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	driver.slow[1].error = -EIO;
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUT);
}

/* Base 5.27.1.4: without the cache everything is durable that is complete, also what was written before. */
static void the_end_of_the_write_cache(void **state)
{
	struct nvme_command off = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_WRITE_CACHE };
	struct nvme_command on = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_WRITE_CACHE, .dw11 = 1 };
	struct nvme_command write = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = DRIVER_DATA };
	struct nvme_completion completion;

	hold(true);
	driver_submit(&driver, 0, &off);
	driver_submit(&driver, 0, &on);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	/* Queues go on meanwhile, and write through. */
	driver_submit(&driver, 1, &write);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 2);
	assert_true(driver.slow[0].held[1]->durable);
	hold(false);
	assert_true(driver_take(&driver, 0, &completion) && !completion.status);
	assert_true(driver_take(&driver, 0, &completion) && !completion.status);
	assert_int_equal(driver.slow[0].flushes, 1);
	assert_int_equal(driver.slow[1].flushes, 1);
	assert_int_equal(driver_command(&driver, 0, &on, NULL), 0);
	assert_int_equal(driver.slow[0].flushes, 1);
	driver.slow[1].error = -EIO;
	assert_int_equal(driver_command(&driver, 0, &off, NULL), NVME_INTERNAL_ERROR);
	assert_true(driver.more);
	driver.slow[1].error = 0;
	/* A shutdown in the middle of it. */
	assert_int_equal(driver_command(&driver, 0, &on, NULL), 0);
	hold(true);
	driver_submit(&driver, 0, &off);
	nvme_driver_run(&driver);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	slow_release(&driver, &driver.slow[0], 1);
	slow_release(&driver, &driver.slow[1], 1);
	nvme_driver_run(&driver);
	assert_int_equal(csts(), SHUTTING);
	hold(false);
	assert_int_equal(csts(), SHUT);
}

/* ---- resets ------------------------------------------------------------------------------------------------------ */

static uint64_t smart(unsigned offset)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_GET_LOG_PAGE,
					.prp1 = DRIVER_DATA,
					.dw10 = 127U << 16 | NVME_LOG_SMART };

	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	assert_int_equal(driver_command(&driver, 0, &command, NULL), 0);
	return *(uint64_t *)driver_bytes(&driver, DRIVER_DATA + offset);
}

#define POWER_CYCLES	 112U
#define UNSAFE_SHUTDOWNS 144U

/* As the transport does when a client goes and another one comes. */
static void switch_power(void)
{
	driver_pause(&driver);
	assert_int_equal(driver.device->ops->reset(driver.device), PCI_DONE);
	assert_int_equal(driver.device->ops->reset(driver.device), PCI_DONE);
	driver.device->ops->resume(driver.device);
}

static void resets_and_what_they_leave(void **state)
{
	assert_int_equal(smart(POWER_CYCLES), 1);
	assert_int_equal(smart(UNSAFE_SHUTDOWNS), 0);
	driver_write(&driver, NVME_REG_NSSR, 4, NVME_NSSR_RESET);
	assert_int_equal(csts(), NVME_CSTS_NSSRO);
	/* Neither a reset of the function nor of the controller lets the driver forget it. */
	assert_int_equal(driver.device->ops->reset(driver.device), PCI_DONE);
	assert_int_equal(csts(), NVME_CSTS_NSSRO);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY | NVME_CSTS_NSSRO);
	driver_write(&driver, NVME_REG_CSTS, 4, NVME_CSTS_NSSRO);
	assert_int_equal(csts(), NVME_CSTS_RDY);
	/* None of them was the power, and none unsafe. */
	assert_int_equal(smart(POWER_CYCLES), 1);
	assert_int_equal(smart(UNSAFE_SHUTDOWNS), 0);
	/* That goes without a word; then after a shutdown; then with nobody who had come. */
	driver_write(&driver, NVME_REG_NSSR, 4, NVME_NSSR_RESET);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY | NVME_CSTS_NSSRO);
	switch_power();
	assert_int_equal(csts(), 0);
	assert_int_equal(smart(UNSAFE_SHUTDOWNS), 1);
	assert_int_equal(smart(POWER_CYCLES), 2);
	set_cc(0, NORMAL);
	nvme_driver_run(&driver);
	switch_power();
	switch_power();
	assert_int_equal(smart(UNSAFE_SHUTDOWNS), 1);
	assert_int_equal(smart(POWER_CYCLES), 3);
}

static void what_an_enabled_controller_keeps(void **state)
{
	struct nvme_command read = { .opcode = NVME_READ, .nsid = 1, .prp1 = DRIVER_DATA };
	uint32_t cc = (uint32_t)driver_read(&driver, NVME_REG_CC, 4);

	driver_write(&driver, NVME_REG_CC, 4, cc | NVME_CC_WHILE_OFF);
	assert_int_equal(driver_read(&driver, NVME_REG_CC, 4), cc);
	assert_int_equal(csts(), NVME_CSTS_RDY);
	assert_int_equal(driver_command(&driver, 1, &read, NULL), 0);
	assert_int_equal(driver_create_cq(&driver, 2, 16, 2), 0); /* at 4 KiB, no more */
	driver_write(&driver, NVME_REG_CC, 4, 0);
	nvme_driver_run(&driver);
	driver_write(&driver, NVME_REG_CC, 4, 3U << 7);
	assert_int_equal(driver_read(&driver, NVME_REG_CC, 4), 3U << 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_normal_shutdown_flushes, start, stop),
		cmocka_unit_test_setup_teardown(an_abrupt_shutdown_does_not, start, stop),
		cmocka_unit_test_setup_teardown(a_shutdown_waits_for_requests, start, stop),
		cmocka_unit_test_setup_teardown(a_shutdown_that_is_interrupted, start, stop),
		cmocka_unit_test_setup_teardown(the_end_of_the_write_cache, start, stop),
		cmocka_unit_test_setup_teardown(resets_and_what_they_leave, start, stop),
		cmocka_unit_test_setup_teardown(what_an_enabled_controller_keeps, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
