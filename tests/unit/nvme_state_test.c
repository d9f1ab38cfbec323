/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe: what is saved is loaded, is the same again, and goes on; what was damaged stops nobody. */
#include "test.h"

#include <string.h>

#include "base/disposal.h"
#include "nvme_driver.h"
#include "state_copy.h"

#define ROUNDS 4000U

static struct nvme_driver driver;
static struct disposal *disposal;

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

static void reset(void)
{
	driver.done = false;
	if (driver.device->ops->reset(driver.device) == PCI_DEFERRED) {
		fuzz_engine_settle(&driver.engine);
		assert_true(driver.done);
	}
	pci_device_config_reset(driver.device);
}

static uint16_t write_block(uint64_t lba)
{
	struct nvme_command command = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = DRIVER_DATA, .dw10 = (uint32_t)lba };

	return driver_command(&driver, 1, &command, NULL);
}

/* A controller at work: queues, an event request, an entry of the error log, another feature. */
static void set_up(void)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_ASYNC_EVENT };

	driver_queue(&driver, 1, 8);
	driver_queue(&driver, 3, 16);
	for (unsigned i = 0; i < 11; i++)
		assert_int_equal(write_block(i), 0);
	driver_submit(&driver, 0, &command);
	command = (struct nvme_command){ .opcode = 0x7f };
	assert_int_not_equal(driver_command(&driver, 0, &command, NULL), 0);
	command =
		(struct nvme_command){ .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = NVME_FEATURE_EVENTS, .dw11 = 0x100 };
	assert_int_equal(driver_command(&driver, 0, &command, NULL), 0);
	driver_pause(&driver);
}

static void same_again(void **state)
{
	struct parcel saved = { 0 }, copy, again = { 0 };

	set_up();
	pci_device_save(driver.device, &saved);
	assert_false(saved.failed);
	state_copy(&saved, &copy);
	reset();
	assert_int_equal(pci_device_load(driver.device, &copy), 0);
	assert_int_equal(copy.position, copy.length);
	pci_device_save(driver.device, &again);
	assert_int_equal(again.length, saved.length);
	assert_memory_equal(again.bytes, saved.bytes, saved.length);
	/* Windows were cleared by the reset, and their memory is the same: the driver's doorbells are stored once more. */
	driver_ring_tail(&driver, 0, driver.queues[0].tail);
	driver_ring_head(&driver, 0, driver.queues[0].head);
	driver_ring_tail(&driver, 1, driver.queues[1].tail);
	driver_ring_head(&driver, 1, driver.queues[1].head);
	driver.device->ops->resume(driver.device);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(write_block(i), 0);
	parcel_release(&saved, NULL);
	parcel_release(&copy, disposal);
	parcel_release(&again, NULL);
}

static void damaged(void **state)
{
	unsigned seed = 1, loaded = 0;
	struct parcel saved = { 0 }, copy;

	set_up();
	pci_device_save(driver.device, &saved);
	for (unsigned i = 0; i < ROUNDS; i++) {
		reset();
		state_copy(&saved, &copy);
		/* Behind the configuration space is what the controller believes. */
		state_damage(&copy, &seed, copy.length);
		if (!pci_device_load(driver.device, &copy)) {
			loaded++;
			driver.device->ops->resume(driver.device);
			nvme_driver_run(&driver);
			driver_read(&driver, NVME_REG_CSTS, 4);
			driver_pause(&driver);
		}
		parcel_release(&copy, disposal);
	}
	assert_true(loaded > ROUNDS / 20 && loaded < ROUNDS);
	/* And nothing of it stays. */
	reset();
	state_copy(&saved, &copy);
	assert_int_equal(pci_device_load(driver.device, &copy), 0);
	parcel_release(&copy, disposal);
	reset();
	driver.device->ops->resume(driver.device);
	parcel_release(&saved, NULL);
}

static int make_disposal(void **state)
{
	disposal = disposal_create();
	return disposal ? 0 : -1;
}

static int destroy_disposal(void **state)
{
	disposal_destroy(disposal);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(same_again, start, stop),
		cmocka_unit_test_setup_teardown(damaged, start, stop),
	};

	return cmocka_run_group_tests(tests, make_disposal, destroy_disposal);
}
