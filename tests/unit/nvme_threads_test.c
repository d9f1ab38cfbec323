/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NVMe controller with a sidecore that runs: the control thread reads and writes registers, resets, pauses and gives
 * interrupts while the sidecore executes commands. For ThreadSanitizer, and for what it cannot see: data that is lost.
 */
#include "test.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "nvme_driver.h"

#define ROUNDS 120U
#define QUEUES 3U

static struct nvme_driver driver;
static int vector;

static void offer_commands(unsigned round)
{
	static const uint8_t opcodes[] = { NVME_WRITE, NVME_READ,	  NVME_COMPARE,
					   NVME_FLUSH, NVME_WRITE_ZEROES, NVME_VERIFY };

	for (unsigned i = 0; i < 4 * QUEUES; i++) {
		struct nvme_command command = { .opcode = opcodes[(i + round) % array_size(opcodes)],
						.nsid = 1 + (i & 1),
						.prp1 = DRIVER_DATA + 0x1000 * i,
						.dw10 = 8 * i,
						.dw12 = 7 };

		driver_submit(&driver, 1 + i % QUEUES, &command);
	}
}

static void take_completions(void)
{
	struct nvme_completion completion;

	for (unsigned id = 1; id <= QUEUES; id++) {
		while (driver_take(&driver, id, &completion))
			;
	}
}

/* What a driver may ask at any moment, and what it may not. */
static void touch_registers(unsigned round)
{
	static const uint32_t offsets[] = { NVME_REG_CAP, NVME_REG_VS,	NVME_REG_INTMS, NVME_REG_CSTS,
					    NVME_REG_AQA, NVME_REG_ASQ, NVME_REG_CC,	0xe00 };

	for (unsigned i = 0; i < array_size(offsets); i++)
		driver_read(&driver, offsets[i], 4);
	driver_write(&driver, NVME_REG_INTMS, 4, round & 1);
	driver_write(&driver, NVME_REG_INTMC, 4, 1);
	driver_write(&driver, NVME_REG_AQA, 4, round);
	/* Doorbells by message: those that have been rung already, the completion queues' too. */
	for (unsigned id = 1; id <= QUEUES; id++) {
		driver_write(&driver, nvme_tail_doorbell(id), 4, driver.queues[id].tail);
		driver_write(&driver, nvme_head_doorbell(id), 4, driver.queues[id].head);
	}
}

static void change_interrupts(unsigned round)
{
	struct pci_interrupts *interrupts = &driver.device->interrupts;
	enum pci_interrupt_kind kind = round % PCI_INTERRUPT_KINDS;

	pci_interrupts_disable(interrupts, (kind + 1) % PCI_INTERRUPT_KINDS);
	assert_int_equal(pci_interrupts_set(interrupts, kind, 0, vector), 0);
	if (kind == PCI_INTERRUPT_PIN) {
		pci_interrupt_pin_mask(interrupts);
		pci_interrupt_pin_unmask(interrupts, engine_notifier(driver.engine.engine));
	}
}

static void make_queues(void)
{
	for (unsigned id = 1; id <= QUEUES; id++) {
		assert_int_equal(driver_create_cq(&driver, id, DRIVER_ENTRIES, 0), 0);
		assert_int_equal(driver_create_sq(&driver, id, DRIVER_ENTRIES, id), 0);
	}
}

static void reset(void)
{
	driver.done = false;
	if (driver.device->ops->reset(driver.device) == PCI_DEFERRED)
		fuzz_engine_settle(&driver.engine);
	assert_int_equal(driver_enable(&driver, DRIVER_ENTRIES), NVME_CSTS_RDY);
	make_queues();
}

/* Operations that have to bring the queues to rest while they are busy. */
static void operate(unsigned round)
{
	struct nvme_command delete = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 };
	struct nvme_command abort = { .opcode = NVME_ADMIN_ABORT, .dw10 = driver.cid << 16 | 2 };

	switch (round % 8) {
	case 1:
		driver_pause(&driver);
		driver.device->ops->resume(driver.device);
		break;
	case 3:
		driver_command(&driver, 0, &abort, NULL);
		driver_command(&driver, 0, &delete, NULL);
		assert_int_equal(driver_create_sq(&driver, 1, DRIVER_ENTRIES, 1), 0);
		break;
	case 5:
		reset();
		break;
	case 7: /* by register */
		assert_int_equal(driver_enable(&driver, DRIVER_ENTRIES), NVME_CSTS_RDY);
		make_queues();
		break;
	default:
		nvme_resized(driver.device, 0);
		break;
	}
}

static void data_comes_back(void)
{
	struct nvme_command io = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = DRIVER_DATA, .dw12 = 7 };

	reset();
	memset(driver_bytes(&driver, DRIVER_DATA), 0xa5, 4096);
	assert_int_equal(driver_command(&driver, 1, &io, NULL), 0);
	memset(driver_bytes(&driver, DRIVER_DATA), 0, 4096);
	io.opcode = NVME_READ;
	assert_int_equal(driver_command(&driver, 1, &io, NULL), 0);
	assert_int_equal(*(uint8_t *)driver_bytes(&driver, DRIVER_DATA + 4095), 0xa5);
}

static void registers_while_commands_run(void **state)
{
	for (unsigned posted = 0; posted < 2; posted++) {
		const struct nvme_options options = { .name = "nvme", .sidecore = -1, .queues = 4, .posted = posted };

		nvme_driver_start(&driver, &options);
		vector = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		make_queues();
		for (unsigned round = 0; round < ROUNDS; round++) {
			offer_commands(round);
			touch_registers(round);
			if (round % 3 == 0)
				change_interrupts(round / 3);
			operate(round);
			take_completions();
		}
		assert_null(atomic_load(&driver.device->fault));
		data_comes_back();
		close(vector);
		nvme_driver_stop(&driver);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_while_commands_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
