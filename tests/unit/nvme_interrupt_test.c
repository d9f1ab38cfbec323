/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe interrupts from the driver's side: MSI-X, MSI, the pin, and interrupts that are held back (coalescing, features 08h and
 * 09h).
 */
#include "test.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/sidecore.h"
#include "nvme_driver.h"

#define READ                                                                                                           \
	{                                                                                                              \
		.opcode = NVME_READ, .nsid = 1, .prp1 = DRIVER_DATA                                                    \
	}

static struct nvme_driver driver;
static int fds[3]; /* of vectors 0 to 2 */

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

static int start_msix(void **state)
{
	start(state);
	for (unsigned i = 0; i < array_size(fds); i++) {
		fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		assert_int_equal(pci_interrupts_set(&driver.device->interrupts, PCI_INTERRUPT_MSIX, i, fds[i]), 0);
	}
	return 0;
}

static int stop_msix(void **state)
{
	for (unsigned i = 0; i < array_size(fds); i++)
		close(fds[i]);
	return stop(state);
}

static uint16_t io(const struct nvme_command *command)
{
	return driver_command(&driver, 1, command, NULL);
}

/* ---- interrupts -------------------------------------------------------------------------------------------------- */

static uint64_t count_of(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void interrupts(void **state)
{
	struct nvme_command reads = READ;
	struct pci_interrupts *lines = &driver.device->interrupts;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	struct nvme_completion completion;

	/* MSI-X: one for the batch, on the queue's vector. */
	assert_int_equal(pci_interrupts_set(lines, PCI_INTERRUPT_MSIX, 1, fd), 0);
	for (unsigned i = 0; i < 10; i++)
		driver_submit(&driver, 1, &reads);
	nvme_driver_run(&driver);
	assert_int_equal(count_of(fd), 1);
	for (unsigned i = 0; i < 10; i++)
		assert_true(driver_take(&driver, 1, &completion));
	/* The mask registers do not concern MSI-X. */
	driver_write(&driver, NVME_REG_INTMS, 4, 1);
	assert_int_equal(io(&reads), 0);
	assert_int_equal(count_of(fd), 1);
	driver_write(&driver, NVME_REG_INTMC, 4, 1);
	pci_interrupts_disable(lines, PCI_INTERRUPT_MSIX);

	/* The pin: asserted until all is taken. */
	assert_int_equal(pci_interrupts_set(lines, PCI_INTERRUPT_PIN, 0, fd), 0);
	nvme_driver_run(&driver);
	driver_submit(&driver, 1, &reads);
	driver_submit(&driver, 1, &reads);
	nvme_driver_run(&driver);
	assert_int_equal(count_of(fd), 1);
	assert_true(pci_interrupt_pin_asserted(lines));
	assert_true(driver_take(&driver, 1, &completion));
	nvme_driver_run(&driver);
	assert_true(pci_interrupt_pin_asserted(lines));
	driver_write(&driver, NVME_REG_INTMS, 4, 1);
	assert_false(pci_interrupt_pin_asserted(lines));
	driver_write(&driver, NVME_REG_INTMC, 4, 1);
	assert_true(pci_interrupt_pin_asserted(lines));
	assert_true(driver_take(&driver, 1, &completion));
	nvme_driver_run(&driver);
	assert_false(pci_interrupt_pin_asserted(lines));
	/* As a message, the head doorbell lowers it at once: the VMM's unmask comes next. */
	driver_submit(&driver, 1, &reads);
	nvme_driver_run(&driver);
	assert_true(pci_interrupt_pin_asserted(lines));
	assert_true(driver_take(&driver, 1, &completion));
	driver_write(&driver, nvme_head_doorbell(1), 4, driver.queues[1].head);
	assert_false(pci_interrupt_pin_asserted(lines));
	nvme_driver_run(&driver);
	pci_interrupts_disable(lines, PCI_INTERRUPT_PIN);

	/* MSI: a message for each batch; one that was masked comes when the mask goes. */
	count_of(fd);
	assert_int_equal(pci_interrupts_set(lines, PCI_INTERRUPT_MSI, 0, fd), 0);
	assert_int_equal(io(&reads), 0);
	assert_int_equal(count_of(fd), 1);
	driver_write(&driver, NVME_REG_INTMS, 4, 1);
	driver_submit(&driver, 1, &reads);
	nvme_driver_run(&driver);
	assert_int_equal(count_of(fd), 0);
	driver_write(&driver, NVME_REG_INTMC, 4, 1);
	assert_int_equal(count_of(fd), 1);
	assert_true(driver_take(&driver, 1, &completion));
	close(fd);
}

/* ---- coalescing -------------------------------------------------------------------------------------------------- */

static void set_feature(unsigned feature, uint32_t value)
{
	struct nvme_command set = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = feature, .dw11 = value };

	assert_int_equal(driver_command(&driver, 0, &set, NULL), 0);
}

/* @count reads on queue 1. Return: interrupts on its vector. */
static uint64_t reads_tell(unsigned count)
{
	struct nvme_command command = READ;
	struct nvme_completion completion;

	for (unsigned i = 0; i < count; i++)
		driver_submit(&driver, 1, &command);
	nvme_driver_run(&driver);
	for (unsigned i = 0; i < count; i++)
		assert_true(driver_take(&driver, 1, &completion));
	return count_of(fds[1]);
}

/* The deadline of what is held back; 0: nothing is. */
static uint64_t deadline(void)
{
	const struct engine_timer *timer = driver.engine.sidecore->timers.root;

	return timer ? timer->deadline : 0;
}

static void time_passes(void)
{
	struct engine_timer *timer = driver.engine.sidecore->timers.root;

	assert_non_null(timer);
	timer_heap_remove(&driver.engine.sidecore->timers, timer);
	timer->expire(driver.engine.sidecore, timer);
}

#define THRESHOLD(entries, hundreds_of_us) (((entries)-1U) | (hundreds_of_us) << 8)

static void interrupts_are_held_back(void **state)
{
	struct nvme_command wrong = { .opcode = NVME_READ, .nsid = 7, .prp1 = DRIVER_DATA };
	uint64_t before;

	/* By default there is no delay. */
	assert_int_equal(reads_tell(1), 1);
	assert_int_equal(deadline(), 0);
	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(4, 50));
	count_of(fds[0]);

	/* Told when there are four, counted over several turns. */
	before = clock_nanoseconds();
	assert_int_equal(reads_tell(2), 0);
	assert_true(deadline() >= before + 5000000 && deadline() <= clock_nanoseconds() + 5000000);
	before = deadline();
	assert_int_equal(reads_tell(1), 0);
	assert_int_equal(deadline(), before); /* since the first one */
	assert_int_equal(reads_tell(1), 1);
	assert_int_equal(deadline(), 0);
	assert_int_equal(reads_tell(6), 1);
	/* Or after the time. */
	assert_int_equal(reads_tell(3), 0);
	time_passes();
	assert_int_equal(count_of(fds[1]), 1);
	assert_int_equal(deadline(), 0);
	/* Failures at once; admin commands at once. */
	assert_int_equal(io(&wrong), NVME_INVALID_NAMESPACE | NVME_DNR);
	assert_int_equal(count_of(fds[1]), 1);
	count_of(fds[0]);
	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(4, 50));
	assert_int_equal(count_of(fds[0]), 1);
}

static void vectors_are_set_one_by_one(void **state)
{
	driver_queue(&driver, 2, DRIVER_ENTRIES);
	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(4, 50));
	set_feature(NVME_FEATURE_VECTOR, 1U << 16 | 1);
	assert_int_equal(reads_tell(1), 1);
	assert_int_equal(driver_command(&driver, 2, &(struct nvme_command)READ, NULL), 0);
	assert_int_equal(count_of(fds[2]), 0);
	time_passes();
	assert_int_equal(count_of(fds[2]), 1);
	set_feature(NVME_FEATURE_VECTOR, 1);
	assert_int_equal(reads_tell(1), 0);
	/* What is set while entries are held back is so from the next one on. */
	set_feature(NVME_FEATURE_VECTOR, 1U << 16 | 1);
	assert_int_equal(reads_tell(1), 1);
	time_passes();
	assert_int_equal(count_of(fds[1]), 0);
	/* Without time, or without entries to wait for, there is nothing to wait for. */
	set_feature(NVME_FEATURE_VECTOR, 1);
	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(4, 0));
	assert_int_equal(reads_tell(1), 1);
	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(1, 50));
	assert_int_equal(reads_tell(1), 1);
	assert_int_equal(deadline(), 0);
}

/* Whatever stops a queue, the driver is told of what it has not been told of, and no timer is left. */
static void queues_that_stop_hold_nothing_back(void **state)
{
	struct nvme_command delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 };
	struct nvme_command delete_cq = { .opcode = NVME_ADMIN_DELETE_CQ, .dw10 = 1 };

	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(256, 255));
	assert_int_equal(reads_tell(1), 0);
	driver_pause(&driver);
	assert_int_equal(count_of(fds[1]), 1);
	assert_int_equal(deadline(), 0);
	driver.device->ops->resume(driver.device);
	assert_int_equal(reads_tell(1), 0);
	assert_int_equal(driver_command(&driver, 0, &delete_sq, NULL), 0);
	assert_int_equal(count_of(fds[1]), 1);
	assert_int_equal(deadline(), 0);
	assert_int_equal(driver_command(&driver, 0, &delete_cq, NULL), 0);
	driver_queue(&driver, 1, DRIVER_ENTRIES);
	assert_int_equal(reads_tell(5), 0);
	/* A reset ends the setting as well. */
	assert_int_equal(driver_enable(&driver, DRIVER_ENTRIES), NVME_CSTS_RDY);
	assert_int_equal(deadline(), 0);
	count_of(fds[1]);
	driver_queue(&driver, 1, DRIVER_ENTRIES);
	assert_int_equal(reads_tell(1), 1);
}

/* With the pin and MSI there is one vector, which is the admin queue's as well: nothing is held back. */
static void one_vector_for_all_is_not_held_back(void **state)
{
	struct pci_interrupts *lines = &driver.device->interrupts;
	struct nvme_command read_command = READ;

	set_feature(NVME_FEATURE_COALESCING, THRESHOLD(256, 255));
	assert_int_equal(reads_tell(1), 0);
	pci_interrupts_disable(lines, PCI_INTERRUPT_MSIX);
	assert_int_equal(pci_interrupts_set(lines, PCI_INTERRUPT_MSI, 0, fds[0]), 0);
	nvme_driver_run(&driver);
	count_of(fds[0]);
	assert_int_equal(io(&read_command), 0);
	assert_int_equal(count_of(fds[0]), 1);
	assert_int_equal(deadline(), 0); /* of what was held back before, too */
	pci_interrupts_disable(lines, PCI_INTERRUPT_MSI);
	assert_int_equal(pci_interrupts_set(lines, PCI_INTERRUPT_PIN, 0, fds[0]), 0);
	nvme_driver_run(&driver);
	count_of(fds[0]);
	assert_int_equal(io(&read_command), 0);
	assert_int_equal(count_of(fds[0]), 1);
	assert_int_equal(deadline(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(interrupts, start, stop),
		cmocka_unit_test_setup_teardown(interrupts_are_held_back, start_msix, stop_msix),
		cmocka_unit_test_setup_teardown(vectors_are_set_one_by_one, start_msix, stop_msix),
		cmocka_unit_test_setup_teardown(one_vector_for_all_is_not_held_back, start_msix, stop_msix),
		cmocka_unit_test_setup_teardown(queues_that_stop_hold_nothing_back, start_msix, stop_msix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
