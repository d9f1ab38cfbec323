/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: registers, enabling, and the admin queue, from the driver's side. Expected values are the specification's.
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

/* ---- registers --------------------------------------------------------------------------------------------------- */

static void registers(void **state)
{
	uint64_t cap = driver_read(&driver, NVME_REG_CAP, 8);

	assert_int_equal(cap & 0xffff, 1023);
	assert_int_equal(cap >> 16 & 1, 1);  /* CQR */
	assert_int_equal(cap >> 32 & 15, 3); /* DSTRD: a cache line for each pair */
	assert_int_equal(cap >> 37 & 0xff, 1 << 6 | 1);
	assert_int_equal(cap >> 48 & 15, 0); /* MPSMIN */
	assert_int_equal(cap >> 52 & 15, 4); /* MPSMAX */
	assert_int_equal(driver_read(&driver, NVME_REG_VS, 4), 0x20000);
	assert_true(driver_read(&driver, NVME_REG_CRTO, 2) > 0);
	assert_int_equal(driver_read(&driver, 0x38, 4), 0); /* CMBLOC: none */
	assert_int_equal(driver_read(&driver, 0xffc, 4), 0);
	/* Any width, any alignment. */
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(driver_read(&driver, i, 1), cap >> 8 * i & 0xff);
	assert_int_equal(driver_read(&driver, 1, 2), cap >> 8 & 0xffff);
	assert_int_equal(driver_read(&driver, 3, 4), cap >> 24 & 0xffffffff);

	driver_write(&driver, NVME_REG_INTMS, 4, 5);
	assert_int_equal(driver_read(&driver, NVME_REG_INTMC, 4), 5);
	driver_write(&driver, NVME_REG_INTMC, 4, 4);
	assert_int_equal(driver_read(&driver, NVME_REG_INTMS, 4), 1);
	driver_write(&driver, NVME_REG_INTMC, 1, 1);
	assert_int_equal(driver_read(&driver, NVME_REG_INTMS, 4), 0);

	/* Read only, and not there. */
	driver_write(&driver, NVME_REG_CAP, 8, 0);
	driver_write(&driver, NVME_REG_VS, 4, 0);
	driver_write(&driver, 0x5c, 4, ~0U);
	assert_int_equal(driver_read(&driver, NVME_REG_CAP, 8), cap);
	/* The admin queue of an enabled controller stays where it is. */
	driver_write(&driver, NVME_REG_ASQ, 8, 0x1234000);
	assert_int_equal(driver_read(&driver, NVME_REG_ASQ, 8), DRIVER_SQ(0));
}

#define CC(mps, css, ams) (4U << 20 | 6U << 16 | (ams) << 11 | (mps) << 7 | (css) << 4 | 1U)

static const struct {
	uint32_t cc, aqa;
	uint64_t asq, acq;
	uint32_t csts;
} setups[] = {
	/* 0 */ { CC(0, 0, 0), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_RDY },
	/* 1 */ { CC(0, 6, 0), 0x00010001, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_RDY },
	/* 2 */ { CC(4, 0, 0), 0x000f000f, DRIVER_MEMORY, DRIVER_MEMORY + 0x10000, NVME_CSTS_RDY },
	/* 3 */ { CC(5, 0, 0), 0x000f000f, DRIVER_MEMORY, DRIVER_MEMORY + 0x10000, NVME_CSTS_CFS },
	/* 4 */ { CC(4, 0, 0), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS }, /* not at 64 KiB */
	/* 5 */ { CC(0, 1, 0), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS },
	/* 6 */ { CC(0, 7, 0), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS },
	/* 7 */ { CC(0, 0, 1), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS },
	/* 8 */ { CC(0, 0, 0), 0x0000000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS },
	/* 9 */ { CC(0, 0, 0), 0x000f0000, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_CFS },
	/* 10 */ { CC(0, 0, 0), 0x000f000f, 0, DRIVER_CQ(0), NVME_CSTS_RDY | NVME_CSTS_CFS }, /* no memory there */
	/* 11 */ { CC(0, 0, 0), 0x000f000f, DRIVER_SQ(0), UINT64_MAX & ~0xfffULL, NVME_CSTS_RDY | NVME_CSTS_CFS },
	/* 12 */ { CC(0, 0, 0), 0x0fff0fff, DRIVER_SEAM - 0x1000, DRIVER_CQ(0), NVME_CSTS_RDY | NVME_CSTS_CFS },
	/* 13 */ { CC(0, 0, 0), 0x000f000f, DRIVER_SQ(0), DRIVER_CQ(0), NVME_CSTS_RDY },
};

static void enabling(void **state)
{
	for (unsigned i = 0; i < array_size(setups); i++) {
		driver_write(&driver, NVME_REG_CC, 4, 0);
		fuzz_engine_settle(&driver.engine);
		assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), 0);
		driver_write(&driver, NVME_REG_AQA, 4, setups[i].aqa);
		driver_write(&driver, NVME_REG_ASQ, 8, setups[i].asq);
		driver_write(&driver, NVME_REG_ACQ, 8, setups[i].acq);
		driver_write(&driver, NVME_REG_CC, 4, setups[i].cc);
		nvme_driver_run(&driver);
		if (driver_read(&driver, NVME_REG_CSTS, 4) != setups[i].csts)
			fail_msg("setup %u: CSTS %lx, not %x", i, driver_read(&driver, NVME_REG_CSTS, 4),
				 setups[i].csts);
	}
}

static void shutdown_and_resets(void **state)
{
	uint32_t cc = (uint32_t)driver_read(&driver, NVME_REG_CC, 4);
	struct nvme_command identify = { .opcode = NVME_ADMIN_IDENTIFY,
					 .prp1 = DRIVER_DATA,
					 .dw10 = NVME_CNS_CONTROLLER };
	struct nvme_completion completion;

	driver_write(&driver, NVME_REG_CC, 4, cc | 1U << 14);
	nvme_driver_run(&driver);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY | NVME_CSTS_SHST_DONE);
	/* Nothing is executed any more. */
	driver_submit(&driver, 0, &identify);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	assert_int_equal(driver_enable(&driver, 8), NVME_CSTS_RDY);
	assert_int_equal(admin(&identify, NULL), 0);

	/* Subsystem reset: everything is as after power-on, and CSTS says why. */
	driver_queue(&driver, 1, 4);
	driver_write(&driver, NVME_REG_NSSR, 4, 0x12345678);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY);
	driver_write(&driver, NVME_REG_NSSR, 4, 0x4e564d65);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_NSSRO);
	assert_int_equal(driver_read(&driver, NVME_REG_ASQ, 8), 0);
	driver_write(&driver, NVME_REG_CSTS, 4, NVME_CSTS_NSSRO);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), 0);
	assert_int_equal(driver_enable(&driver, 2), NVME_CSTS_RDY);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(admin(&identify, NULL), 0);

	/* Not a bus master, or asleep: it waits. */
	pci_device_config_write(driver.device, 4, (uint8_t[]){ 2, 0 }, 2);
	driver_submit(&driver, 0, &identify);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	pci_device_config_write(driver.device, 4, (uint8_t[]){ 6, 0 }, 2);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
}

/* ---- admin commands: what they answer ------------------------------------------------------------------------------
 */

#define D DRIVER_DATA

static const struct {
	struct nvme_command command;
	uint16_t status;
} commands[] = {
	/* 0 */ { { .opcode = 0x03 }, NVME_INVALID_OPCODE | DNR },
	/* 1 */ { { .opcode = 0x0d, .nsid = 1 }, NVME_INVALID_OPCODE | DNR },		 /* namespace management */
	/* 2 */ { { .opcode = 0x80, .nsid = 1 }, NVME_INVALID_OPCODE | DNR },		 /* format */
	/* 3 */ { { .opcode = 0x7c, .prp1 = D, .prp2 = D }, NVME_INVALID_OPCODE | DNR }, /* doorbell buffers */
	/* 4 */ { { .opcode = 0xff }, NVME_INVALID_OPCODE | DNR },
	/* 5 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 1, .flags = 0x40 }, NVME_INVALID_FIELD | DNR },
	/* 6 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 1, .flags = 0x01 }, NVME_INVALID_FIELD | DNR },
	/* 7 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 0x7f }, NVME_INVALID_FIELD | DNR },
	/* 8 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 0 }, NVME_INVALID_NAMESPACE | DNR },
	/* 9 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 0, .nsid = 3 }, NVME_INVALID_NAMESPACE | DNR },
	/* 10 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 0, .nsid = NVME_NSID_ALL }, NVME_SUCCESS },
	/* 11 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 2, .nsid = NVME_NSID_ALL },
	  NVME_INVALID_NAMESPACE | DNR },
	/* 12 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 3, .nsid = NVME_NSID_ALL },
	  NVME_INVALID_NAMESPACE | DNR },
	/* 13 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 5, .nsid = 1 }, NVME_SUCCESS },
	/* 14 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 5, .nsid = 1, .dw11 = 2U << 24 },
	  NVME_INVALID_FIELD | DNR },
	/* 15 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 6 }, NVME_SUCCESS },
	/* 16 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 7 }, NVME_SUCCESS },
	/* 17 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 8, .nsid = 2 }, NVME_SUCCESS },
	/* 18 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 0xffff001c }, NVME_SUCCESS },
	/* 19 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = 0x1000, .dw10 = 1 }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 20 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D + 8, .prp2 = 0x1000, .dw10 = 1 }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 21 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D + 8, .prp2 = D + 8, .dw10 = 1 }, NVME_INVALID_PRP_OFFSET | DNR },
	/* 22 */
	{ { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D + 2, .prp2 = D, .dw10 = 1 }, NVME_INVALID_PRP_OFFSET | DNR },
	/* 23 */ { { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D + 0xff0, .prp2 = D + 0x1000, .dw10 = 1 }, NVME_SUCCESS },
	/* 24 */ { { .opcode = 0x18 }, NVME_INVALID_OPCODE | DNR }, /* keep alive: KAS is 0 */
	/* 25 */ { { .opcode = NVME_ADMIN_ABORT, .dw10 = 1 }, NVME_INVALID_FIELD | DNR },
	/* 26 */ { { .opcode = NVME_ADMIN_ABORT, .dw10 = 0xffff0000 }, NVME_SUCCESS },
	/* 27 */ { { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f00f0 }, NVME_INVALID_LOG_PAGE | DNR },
	/* 28 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .nsid = 1 }, NVME_INVALID_FIELD | DNR },
	/* 29 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .dw12 = 513 }, NVME_INVALID_FIELD | DNR },
	/* 30 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .dw12 = 516 }, NVME_INVALID_FIELD | DNR },
	/* 31 */ { { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .dw12 = 512 }, NVME_SUCCESS },
	/* 32 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .dw13 = 1 }, NVME_INVALID_FIELD | DNR },
	/* 33 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0xffff0002, .dw11 = 0xffff },
	  NVME_INVALID_FIELD | DNR },
	/* 34 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x03 }, NVME_INVALID_FIELD | DNR },
	/* 35 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0xc0 }, NVME_INVALID_FIELD | DNR },
	/* 36 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x407 }, NVME_INVALID_FIELD | DNR },
	/* 37 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x09, .dw11 = 16 }, NVME_INVALID_FIELD | DNR },
	/* 38 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x0e, .prp1 = 0 }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 39 */
	{ { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x80000006, .dw11 = 1 }, NVME_FEATURE_NOT_SAVEABLE | DNR },
	/* 40 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x07, .dw11 = 0xffff }, NVME_INVALID_FIELD | DNR },
	/* 41 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x02, .dw11 = 1 }, NVME_INVALID_FIELD | DNR },
	/* 42 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x0f, .dw11 = 1 }, NVME_INVALID_FIELD | DNR },
	/* 43 */
	{ { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = 1, .dw10 = 0x05, .dw11 = 1U << 16 }, NVME_INVALID_FIELD | DNR },
	/* 44 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x19, .dw11 = 1 }, NVME_COMMAND_SETS_REJECTED | DNR },
	/* 45 */ { { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 0 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 46 */ { { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 47 */ { { .opcode = NVME_ADMIN_DELETE_CQ, .dw10 = 0 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 48 */ { { .opcode = NVME_ADMIN_DELETE_CQ, .dw10 = 0xffff }, NVME_INVALID_QUEUE_ID | DNR },
	/* 49 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x000f0000, .dw11 = 1 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 50 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x000f0010, .dw11 = 1 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 51 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x00000001, .dw11 = 1 }, NVME_INVALID_QUEUE_SIZE | DNR },
	/* 52 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x04000001, .dw11 = 1 }, NVME_INVALID_QUEUE_SIZE | DNR },
	/* 53 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0xffff0001, .dw11 = 1 }, NVME_INVALID_QUEUE_SIZE | DNR },
	/* 54 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x000f0001, .dw11 = 0 }, NVME_INVALID_FIELD | DNR },
	/* 55 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D + 16, .dw10 = 0x000f0001, .dw11 = 1 },
	  NVME_INVALID_PRP_OFFSET | DNR },
	/* 56 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = D, .dw10 = 0x000f0001, .dw11 = 16U << 16 | 3 },
	  NVME_INVALID_VECTOR | DNR },
	/* 57 */
	{ { .opcode = NVME_ADMIN_CREATE_CQ, .prp1 = 0, .dw10 = 0x000f0001, .dw11 = 1 }, NVME_INVALID_FIELD | DNR },
	/* 58 */
	{ { .opcode = NVME_ADMIN_CREATE_SQ, .prp1 = D, .dw10 = 0x000f0001, .dw11 = 1 }, NVME_INVALID_QUEUE_ID | DNR },
	/* 59 */
	{ { .opcode = NVME_ADMIN_CREATE_SQ, .prp1 = D, .dw10 = 0x000f0001, .dw11 = 16U << 16 | 1 },
	  NVME_INVALID_QUEUE_ID | DNR },
	/* 60 */
	{ { .opcode = NVME_ADMIN_CREATE_SQ, .prp1 = D, .dw10 = 0x000f0001, .dw11 = 2U << 16 | 1 },
	  NVME_CQ_INVALID | DNR },
	/* 61 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x0f }, NVME_INVALID_FIELD | DNR },
	/* 62 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = 1, .dw10 = 0x02 }, NVME_FEATURE_NOT_NAMESPACE | DNR },
	/* 63 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = 9, .dw10 = 0x02 }, NVME_INVALID_NAMESPACE | DNR },
	/* 64 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = NVME_NSID_ALL, .dw10 = 0x02 }, NVME_SUCCESS },
	/* 65 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .dw10 = 0x05 }, NVME_INVALID_NAMESPACE | DNR },
	/* 66 */ { { .opcode = NVME_ADMIN_GET_FEATURES, .nsid = 3, .dw10 = 0x05 }, NVME_INVALID_NAMESPACE | DNR },
	/* 67 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = 3, .dw10 = 0x05 }, NVME_INVALID_NAMESPACE | DNR },
	/* 68 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .nsid = NVME_NSID_ALL, .dw10 = 0x05 }, NVME_SUCCESS },
	/* 69 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0005, .dw14 = 2U << 24 },
	  NVME_INVALID_FIELD | DNR },
	/* 70 */
	{ { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x007f0002, .dw14 = 1U << 23 },
	  NVME_INVALID_FIELD | DNR },
	/* 71 */ { { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 0x09, .dw11 = 16 }, NVME_INVALID_FIELD | DNR },
	/* 72 */ { { .opcode = 0x84 }, NVME_INVALID_OPCODE | DNR }, /* sanitize: SANICAP is 0 */
	/* 73 */ { { .opcode = 0x10 }, NVME_INVALID_OPCODE | DNR }, /* firmware commit: OACS is 0 */
};

static void admin_commands(void **state)
{
	for (unsigned i = 0; i < array_size(commands); i++) {
		uint16_t status = admin(&commands[i].command, NULL);

		if (status != commands[i].status)
			fail_msg("command %u: status %03x, not %03x", i, status, commands[i].status);
	}
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY);
}

/* ---- queues ------------------------------------------------------------------------------------------------------ */

static void queues_are_created_and_deleted(void **state)
{
	struct nvme_command delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 };
	struct nvme_command delete_cq = { .opcode = NVME_ADMIN_DELETE_CQ, .dw10 = 1 };
	struct nvme_command queues = { .opcode = NVME_ADMIN_SET_FEATURES, .dw10 = 7, .dw11 = 0x00030003 };
	uint32_t result;

	assert_int_equal(admin(&queues, &result), 0);
	assert_int_equal(result, 0x000e000e);
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(driver_create_cq(&driver, 1, 8, 1), 0);
		assert_int_equal(driver_create_cq(&driver, 1, 8, 1), NVME_INVALID_QUEUE_ID | DNR);
		assert_int_equal(driver_create_sq(&driver, 1, 1024, 1), 0);
		assert_int_equal(driver_create_sq(&driver, 1, 8, 1), NVME_INVALID_QUEUE_ID | DNR);
		assert_int_equal(driver_create_sq(&driver, 2, 2, 1), 0);
		assert_int_equal(admin(&queues, NULL), NVME_COMMAND_SEQUENCE | DNR);
		assert_int_equal(admin(&delete_cq, NULL), NVME_INVALID_QUEUE_DELETION | DNR);
		assert_int_equal(admin(&delete_sq, NULL), 0);
		assert_int_equal(admin(&delete_sq, NULL), NVME_INVALID_QUEUE_ID | DNR);
		assert_int_equal(admin(&delete_cq, NULL), NVME_INVALID_QUEUE_DELETION | DNR);
		delete_sq.dw10 = 2;
		assert_int_equal(admin(&delete_sq, NULL), 0);
		delete_sq.dw10 = 1;
		assert_int_equal(admin(&delete_cq, NULL), 0);
		assert_int_equal(admin(&delete_cq, NULL), NVME_INVALID_QUEUE_ID | DNR);
	}
	/* Entries of another size than the driver has set. */
	driver_write(&driver, NVME_REG_CC, 4, 0);
	fuzz_engine_settle(&driver.engine);
	driver.queues[0] = (struct driver_queue){ .sq_size = 16, .cq_size = 16, .phase = 1 };
	memset(driver.bytes, 0, 0x10000);
	driver_write(&driver, NVME_REG_CC, 4, 1);
	assert_int_equal(driver_create_cq(&driver, 1, 8, 1), NVME_INVALID_QUEUE_SIZE | DNR);
}

/* ---- floods ------------------------------------------------------------------------------------------------------- */

static void floods_of_admin_commands(void **state)
{
	struct nvme_command identify_command = { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = DRIVER_DATA, .dw10 = 1 };
	struct nvme_completion completion;
	unsigned taken = 0;

	/* The completion queue is full after 15; the rest waits until the driver takes some. */
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 15; i++)
			driver_submit(&driver, 0, &identify_command);
		nvme_driver_run(&driver);
		while (driver_take(&driver, 0, &completion))
			taken++;
	}
	nvme_driver_run(&driver);
	assert_int_equal(taken, 300);

	/* A tail that is no place in the queue is the end of this controller, until it is reset. */
	driver_ring_tail(&driver, 0, 16);
	nvme_driver_run(&driver);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4) & NVME_CSTS_CFS, NVME_CSTS_CFS);
	assert_non_null(atomic_load(&driver.device->fault));
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	assert_int_equal(admin(&identify_command, NULL), 0);
	driver_ring_head(&driver, 0, 5);
	nvme_driver_run(&driver);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4) & NVME_CSTS_CFS, NVME_CSTS_CFS);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
	assert_int_equal(admin(&identify_command, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(registers, start, stop),
		cmocka_unit_test_setup_teardown(enabling, start, stop),
		cmocka_unit_test_setup_teardown(shutdown_and_resets, start, stop),
		cmocka_unit_test_setup_teardown(admin_commands, start, stop),
		cmocka_unit_test_setup_teardown(queues_are_created_and_deleted, start, stop),
		cmocka_unit_test_setup_teardown(floods_of_admin_commands, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
