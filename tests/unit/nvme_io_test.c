/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe I/O from the driver's side: commands, every layout of data, malformed ones, rings, interrupts, and queues that are
 * deleted, paused and reset with commands under way.
 */
#include "test.h"

#include <errno.h>
#include <string.h>

#include "nvme_driver.h"

#define DNR    NVME_DNR
#define D      DRIVER_DATA
#define L      DRIVER_LISTS
#define BLOCKS (SLOW_SIZE / 512)

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

static uint16_t io(const struct nvme_command *command)
{
	return driver_command(&driver, 1, command, NULL);
}

static void fill(uint64_t address, size_t length, unsigned seed)
{
	uint8_t *bytes = driver_bytes(&driver, address);

	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(i * 13 + (i >> 8) * 7 + seed);
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static void commands_do_what_they_say(void **state)
{
	struct nvme_command write = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = D, .dw10 = 8, .dw12 = 7 };
	struct nvme_command other = { .nsid = 1, .prp1 = D, .dw10 = 8, .dw12 = 7 };
	struct nvme_counters counters;

	fill(D, 4096, 1);
	assert_int_equal(io(&write), 0);
	assert_memory_equal(driver.slow[0].bytes + 4096, driver_bytes(&driver, D), 4096);
	assert_int_equal(driver.slow[0].durables, 0);
	write.dw12 |= NVME_RW_FUA;
	assert_int_equal(io(&write), 0);
	assert_int_equal(driver.slow[0].durables, 1);

	other.opcode = NVME_READ;
	other.prp1 = D + 0x2000;
	assert_int_equal(io(&other), 0);
	assert_memory_equal(driver_bytes(&driver, D + 0x2000), driver_bytes(&driver, D), 4096);
	other.dw12 |= NVME_RW_FUA; /* what is cached is made durable first */
	assert_int_equal(io(&other), 0);
	assert_int_equal(driver.slow[0].flushes, 1);
	other.dw12 = 7;

	other.opcode = NVME_COMPARE;
	assert_int_equal(io(&other), 0);
	driver.slow[0].bytes[8191] ^= 1;
	assert_int_equal(io(&other), NVME_COMPARE_FAILURE | DNR);
	other.opcode = NVME_VERIFY;
	other.dw12 = 0xfff;
	assert_int_equal(io(&other), 0);

	other.opcode = NVME_FLUSH;
	assert_int_equal(io(&other), 0);
	assert_int_equal(driver.slow[0].flushes, 2);
	other.nsid = NVME_NSID_ALL;
	assert_int_equal(io(&other), 0);
	assert_int_equal(driver.slow[0].flushes, 3);
	assert_int_equal(driver.slow[1].flushes, 1);

	/* 1 MiB of zeroes, in pieces that the disk takes; the neighbours of the range stay. */
	struct nvme_command zeroes = { .opcode = NVME_WRITE_ZEROES, .nsid = 2, .dw10 = 1, .dw12 = 2047 };

	assert_int_equal(io(&zeroes), 0);
	assert_int_equal(driver.slow[1].zeroes, 32);
	assert_int_equal(driver.slow[1].bytes[511], 0x55);
	assert_int_equal(driver.slow[1].bytes[512], 0);
	assert_int_equal(driver.slow[1].bytes[512 + (1 << 20) - 1], 0);
	assert_int_equal(driver.slow[1].bytes[512 + (1 << 20)], 0x55);

	nvme_read_counters(driver.device, &counters);
	assert_int_equal(counters.writes, 2);
	assert_int_equal(counters.write_bytes, 8192);
	assert_int_equal(counters.reads, 2);
	assert_int_equal(counters.compares, 1);
	assert_int_equal(counters.flushes, 2);
	assert_int_equal(counters.write_zeroes, 1);
	assert_int_equal(counters.errors, 1);
}

static void large_compare(void **state)
{
	struct nvme_command write = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = D + 512, .prp2 = L, .dw12 = 511 };
	uint64_t *list = driver_bytes(&driver, L);

	for (unsigned i = 0; i < 64; i++)
		list[i] = D + 0x1000 * (i + 1);
	fill(D, 0x50000, 3);
	assert_int_equal(io(&write), 0);
	write.opcode = NVME_COMPARE;
	assert_int_equal(io(&write), 0);
	assert_int_equal(driver.slow[0].largest_piece, 256U << 10);
	driver.slow[0].bytes[(256U << 10) - 1] ^= 0x80;
	assert_int_equal(io(&write), NVME_COMPARE_FAILURE | DNR);
	/* Two at once: the second waits for the buffer. */
	driver.slow[0].bytes[(256U << 10) - 1] ^= 0x80;
	driver.slow[0].hold = true;
	driver_submit(&driver, 1, &write);
	driver_submit(&driver, 1, &write);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 1);
	driver.slow[0].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);

	struct nvme_completion completion;

	for (unsigned i = 0; i < 2; i++) {
		assert_true(driver_take(&driver, 1, &completion));
		assert_int_equal(completion.status, 0);
	}
}

static void deallocation(void **state)
{
	struct nvme_command dataset = {
		.opcode = NVME_DATASET, .nsid = 1, .prp1 = D + 0xff0, .prp2 = D + 0x1000, .dw10 = 255, .dw11 = 4
	};
	struct nvme_dataset_range *ranges = driver_bytes(&driver, D + 0xff0);

	/* 256 ranges across a page; one of them 1 MiB. */
	for (unsigned i = 0; i < 256; i++)
		ranges[i] = (struct nvme_dataset_range){ 0, 1, 2 * i };
	ranges[17] = (struct nvme_dataset_range){ 0, 2048, 4096 };
	ranges[18].blocks = 0;
	assert_int_equal(io(&dataset), 0);
	assert_int_equal(driver.slow[0].discards, 254 + 16);
	assert_int_equal(driver.slow[0].bytes[2 * 512 * 16], 0xdd);
	assert_int_equal(driver.slow[0].bytes[2 * 512 * 16 + 512], 0x55);
	assert_int_equal(driver.slow[0].bytes[2 * 512 * 18], 0x55);
	assert_int_equal(driver.slow[0].bytes[4096 * 512 + (1 << 20) - 1], 0xdd);
	/* The last one is wrong: none is done. */
	ranges[255].lba = BLOCKS;
	driver.slow[0].discards = 0;
	assert_int_equal(io(&dataset), NVME_LBA_OUT_OF_RANGE | DNR);
	assert_int_equal(driver.slow[0].discards, 0);
	/* Only a hint: accepted, nothing done. */
	ranges[255].lba = 0;
	dataset.dw11 = 3;
	assert_int_equal(io(&dataset), 0);
	assert_int_equal(driver.slow[0].discards, 0);
}

#define RW(op, lba, blocks, p1, p2)                                                                                    \
	.opcode = op, .nsid = 1, .dw10 = (uint32_t)(lba), .dw12 = (blocks)-1, .prp1 = p1, .prp2 = p2

static const struct {
	struct nvme_command command;
	uint16_t status;
	bool read_only;
	int error;
} refused[] = {
	/* 0 */ { { RW(NVME_READ, BLOCKS - 1, 2, D, 0) }, NVME_LBA_OUT_OF_RANGE | DNR },
	/* 1 */ { { RW(NVME_READ, 0, 8, D, 0), .dw11 = 0x80000000 }, NVME_LBA_OUT_OF_RANGE | DNR },
	/* 2 */ { { RW(NVME_WRITE, ~0U, 8, D, 0), .dw11 = ~0U }, NVME_LBA_OUT_OF_RANGE | DNR },
	/* 3 */ { { RW(NVME_READ, 0, 2049, D, L) }, NVME_INVALID_FIELD | DNR }, /* MDTS */
	/* 4 */ { { .opcode = NVME_READ, .nsid = 0, .prp1 = D }, NVME_INVALID_NAMESPACE | DNR },
	/* 5 */ { { .opcode = NVME_READ, .nsid = 3, .prp1 = D }, NVME_INVALID_NAMESPACE | DNR },
	/* 6 */ { { .opcode = NVME_WRITE, .nsid = NVME_NSID_ALL, .prp1 = D }, NVME_INVALID_NAMESPACE | DNR },
	/* 7 */ { { .opcode = NVME_FLUSH, .nsid = 3 }, NVME_INVALID_NAMESPACE | DNR },
	/* 8 */ { { .opcode = NVME_FLUSH, .nsid = 0 }, NVME_INVALID_NAMESPACE | DNR },
	/* 9 */ { { .opcode = 0x04, .nsid = 1 }, NVME_INVALID_OPCODE | DNR },  /* write uncorrectable */
	/* 10 */ { { .opcode = 0x19, .nsid = 1 }, NVME_INVALID_OPCODE | DNR }, /* copy */
	/* 11 */ { { .opcode = 0xff, .nsid = 9 }, NVME_INVALID_OPCODE | DNR },
	/* 12 */ { { RW(NVME_READ, 0, 8, D, 0), .flags = 1 }, NVME_INVALID_FIELD | DNR },
	/* 13 */ { { RW(NVME_READ, 0, 8, D, 0), .flags = 0x10 }, NVME_INVALID_FIELD | DNR },
	/* 14 */ { { RW(NVME_READ, 0, 8, D, 0), .flags = 0xc0 }, NVME_INVALID_FIELD | DNR },
	/* 15 */ { { RW(NVME_READ, 0, 8, 0, 0) }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 16 */ { { RW(NVME_READ, 0, 8, UINT64_MAX & ~3ULL, 0) }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 17 */ { { RW(NVME_READ, 0, 8, D + 1, D) }, NVME_INVALID_PRP_OFFSET | DNR },
	/* 18 */ { { RW(NVME_READ, 0, 16, D, D + 8) }, NVME_INVALID_PRP_OFFSET | DNR },
	/* 19 */ { { RW(NVME_READ, 0, 16, D, 0) }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 20 */ { { RW(NVME_READ, 0, 24, D, L + 4) }, NVME_INVALID_PRP_OFFSET | DNR },
	/* 21 */ { { RW(NVME_READ, 0, 24, D, 0x1000) }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 22 */ { { RW(NVME_READ, 0, 24, D, L) }, NVME_INVALID_PRP_OFFSET | DNR }, /* entries of 0x123 */
	/* 23 */ { { RW(NVME_WRITE, 0, 8, D, 0) }, NVME_WRITE_PROTECTED | DNR, .read_only = true },
	/* 24 */ { { .opcode = NVME_WRITE_ZEROES, .nsid = 1 }, NVME_WRITE_PROTECTED | DNR, .read_only = true },
	/* 25 */
	{ { .opcode = NVME_DATASET, .nsid = 1, .dw11 = 4, .prp1 = D }, NVME_WRITE_PROTECTED | DNR, .read_only = true },
	/* 26 */ { { .opcode = NVME_DATASET, .nsid = 1, .dw11 = 4, .prp1 = 0 }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 27 */ { { .opcode = NVME_WRITE_ZEROES, .nsid = 1, .dw10 = BLOCKS }, NVME_LBA_OUT_OF_RANGE | DNR },
	/* 28 */ { { RW(NVME_READ, 0, 8, D, 0) }, NVME_READ_ERROR, .error = -EIO },
	/* 29 */ { { RW(NVME_WRITE, 0, 8, D, 0) }, NVME_WRITE_FAULT, .error = -EIO },
	/* 30 */ { { RW(NVME_WRITE, 0, 8, D, 0) }, NVME_CAPACITY_EXCEEDED, .error = -ENOSPC },
	/* 31 */ { { .opcode = NVME_FLUSH, .nsid = 1 }, NVME_WRITE_FAULT, .error = -EIO },
	/* 32 */ { { RW(NVME_COMPARE, 0, 8, D, 0) }, NVME_READ_ERROR, .error = -EIO },
	/* 33 */ { { .opcode = NVME_VERIFY, .nsid = 1, .dw10 = BLOCKS }, NVME_LBA_OUT_OF_RANGE | DNR },
	/* 34 */ { { RW(NVME_COMPARE, 0, 2049, D, L) }, NVME_INVALID_FIELD | DNR },
};

static void impossible_commands_are_refused(void **state)
{
	uint64_t *list = driver_bytes(&driver, L);
	struct nvme_command good = { RW(NVME_READ, 0, 8, D, 0) };

	for (unsigned i = 0; i < array_size(refused); i++) {
		uint16_t status;

		for (unsigned j = 0; j < 600; j++)
			list[j] = 0x123;
		driver.nvme->namespaces[0].limits.read_only = refused[i].read_only;
		driver.slow[0].error = refused[i].error;
		status = io(&refused[i].command);
		if (status != refused[i].status)
			fail_msg("case %u: status %03x, not %03x", i, status, refused[i].status);
		driver.slow[0].error = 0;
		assert_int_equal(io(&good), 0);
		assert_int_equal(driver.nvme->sqs[1]->queue.in_flight, 0);
	}
}

/* ---- layouts of data --------------------------------------------------------------------------------------------- */

/* PRP: offset of the data in its first page, bytes, where in its page the list begins. */
static const struct {
	uint32_t offset, blocks, list_at;
} prp_layouts[] = {
	/* 0 */ { 0, 1, 0 },
	/* 1 */ { 0xe00, 1, 0 },
	/* 2 */ { 0xe04, 1, 0 }, /* crosses */
	/* 3 */ { 0xffc, 8, 0 },
	/* 4 */ { 0, 16, 0 },
	/* 5 */ { 4, 16, 0 },	  /* three pages: a list of two */
	/* 6 */ { 0, 17, 0xff0 }, /* the two last entries of a page, no chain */
	/* 7 */ { 0, 24, 0xff0 },
	/* 8 */ { 0, 25, 0xff0 }, /* three entries: the second names the rest */
	/* 9 */ { 0, 25, 0xff8 }, /* the very last place names the list */
	/* 10 */ { 0x800, 2048, 0 },
	/* 11 */ { 0x800, 2048, 0xff8 },
	/* 12 */ { 0xffc, 2048, 0xd00 },
};

/* Pages in a scattered order, so that none follows the other. */
static uint64_t page_at(unsigned number)
{
	return D + 0x1000ULL * ((number * 37) % 512);
}

/* The list of @count pages from number 1 on, beginning at @at of a page, chained as the specification wants it. */
static void write_list(uint32_t at, unsigned count)
{
	uint64_t place = L + at, next_page = L + 0x1000;

	for (unsigned i = 0; i < count; i++) {
		if ((place & 0xfff) == 0xff8 && count - i > 1) {
			*(uint64_t *)driver_bytes(&driver, place) = next_page;
			place = next_page;
			next_page += 0x1000;
		}
		*(uint64_t *)driver_bytes(&driver, place) = page_at(i + 1);
		place += 8;
	}
}

static uint8_t *prp_byte(uint32_t offset, uint32_t position)
{
	uint32_t at = offset + position;

	return driver_bytes(&driver, page_at(at / 4096) + at % 4096);
}

static void prp_lists(void **state)
{
	for (unsigned i = 0; i < array_size(prp_layouts); i++) {
		uint32_t offset = prp_layouts[i].offset, length = prp_layouts[i].blocks * 512;
		unsigned pages = (offset + length + 4095) / 4096;
		struct nvme_command command = { .opcode = NVME_WRITE,
						.nsid = 1,
						.prp1 = page_at(0) + offset,
						.prp2 = pages == 2 ? page_at(1) : L + prp_layouts[i].list_at,
						.dw12 = prp_layouts[i].blocks - 1 };

		write_list(prp_layouts[i].list_at, pages - 1);
		fill(D, 0x200000, i);
		assert_int_equal(io(&command), 0);
		for (uint32_t j = 0; j < length; j++) {
			if (driver.slow[0].bytes[j] != *prp_byte(offset, j))
				fail_msg("layout %u: byte %u", i, j);
		}
		memset(driver_bytes(&driver, D), 0, 0x200000);
		command.opcode = NVME_READ;
		assert_int_equal(io(&command), 0);
		for (uint32_t j = 0; j < length; j++) {
			if (driver.slow[0].bytes[j] != *prp_byte(offset, j))
				fail_msg("layout %u: byte %u, read", i, j);
		}
	}
}

static void prp_lists_that_go_nowhere(void **state)
{
	struct nvme_command command = { RW(NVME_READ, 0, 2048, D, L) };
	uint64_t *list = driver_bytes(&driver, L);

	/* A list that is its own next page: it has as many entries as it needs, and ends. */
	for (unsigned i = 0; i < 512; i++)
		list[i] = L;
	assert_int_equal(io(&command), 0);
	for (unsigned i = 0; i < 512; i++)
		list[i] = L;
	command.prp2 = L + 0xff8;
	assert_int_equal(io(&command), 0);
	/* It becomes data, then; so it is what the disk has now. */
	assert_int_equal(list[0], 0x5555555555555555);
	assert_int_equal(io(&command), NVME_INVALID_PRP_OFFSET | DNR);
	/* The next page of the list is in no memory. */
	list[511] = 0x7000000000;
	assert_int_equal(io(&command), NVME_DATA_TRANSFER_ERROR | DNR);
	/* A page that spans the seam of two regions is two pieces for the host, if they are not adjacent there. */
	command = (struct nvme_command){ RW(NVME_READ, 0, 8, DRIVER_SEAM - 0x800, DRIVER_SEAM) };
	assert_int_equal(io(&command), 0);
	assert_int_equal(*(uint8_t *)driver_bytes(&driver, DRIVER_SEAM + 0x7ff), 0x55);
	/* The end of memory. */
	command = (struct nvme_command){ RW(NVME_READ, 0, 8, DRIVER_MEMORY + DRIVER_MEMORY_SIZE - 0x800,
					    DRIVER_MEMORY + DRIVER_MEMORY_SIZE) };
	assert_int_equal(io(&command), NVME_DATA_TRANSFER_ERROR | DNR);
}

#define DATA(address, length)                                                                                          \
	{                                                                                                              \
		address, length, { 0 }, NVME_SGL_DATA                                                                  \
	}
#define SEGMENT(address, count)                                                                                        \
	{                                                                                                              \
		address, (count)*16, { 0 }, NVME_SGL_SEGMENT                                                           \
	}
#define LAST(address, count)                                                                                           \
	{                                                                                                              \
		address, (count)*16, { 0 }, NVME_SGL_LAST_SEGMENT                                                      \
	}

/* SGL1 of a command for 4 KiB, and what lies at the lists' place. */
static const struct {
	struct nvme_sgl first;
	struct nvme_sgl list[6];
	uint16_t status;
} sgls[] = {
	/* 0 */ { DATA(D + 3, 4096), { { 0 } }, 0 },
	/* 1 */ { LAST(L, 2), { DATA(D, 1), DATA(D + 7, 4095) }, 0 },
	/* 2 */ { SEGMENT(L, 2), { DATA(D, 4000), LAST(L + 48, 2), { 0 }, DATA(D + 4000, 90), DATA(D + 8000, 6) }, 0 },
	/* 3 */ { LAST(L, 3), { DATA(D, 0), DATA(D, 4096), DATA(0, 0) }, 0 }, /* nothing is no transfer */
	/* 4 */ { DATA(D, 4095), { { 0 } }, NVME_SGL_INVALID_LENGTH | DNR },
	/* 5 */ { DATA(D, 4097), { { 0 } }, NVME_SGL_INVALID_LENGTH | DNR },
	/* 6 */ { DATA(D, 0xffffffff), { { 0 } }, NVME_SGL_INVALID_LENGTH | DNR },
	/* 7 */ { LAST(L, 2), { DATA(D, 4096), DATA(D, 4096) }, NVME_SGL_INVALID_LENGTH | DNR },
	/* 8 */ { LAST(L, 1), { DATA(D, 512) }, NVME_SGL_INVALID_LENGTH | DNR },
	/* 9 */ { DATA(0x10, 4096), { { 0 } }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 10 */ { LAST(0x10, 1), { { 0 } }, NVME_DATA_TRANSFER_ERROR | DNR },
	/* 11 */ { { D, 4096, { 0 }, 0x10 }, { { 0 } }, NVME_SGL_INVALID_TYPE | DNR }, /* bit bucket: not offered */
	/* 12 */ { { D, 4096, { 0 }, 0x40 }, { { 0 } }, NVME_SGL_INVALID_TYPE | DNR },
	/* 13 */ { { D, 4096, { 0 }, 0x01 }, { { 0 } }, NVME_SGL_INVALID_TYPE | DNR }, /* offset into nothing */
	/* 14 */ { LAST(L, 1), { { D, 4096, { 0 }, 0xf0 } }, NVME_SGL_INVALID_TYPE | DNR },
	/* 15 */ { LAST(L, 0), { { 0 } }, NVME_SGL_INVALID_SEGMENT | DNR },
	/* 16 */ { { L, 17, { 0 }, NVME_SGL_LAST_SEGMENT }, { DATA(D, 4096) }, NVME_SGL_INVALID_SEGMENT | DNR },
	/* 17 */ { LAST(L, 2), { DATA(D, 4096), LAST(L, 1) }, NVME_SGL_INVALID_SEGMENT | DNR },
	/* 18 */ { SEGMENT(L, 1), { DATA(D, 4096) }, NVME_SGL_INVALID_SEGMENT | DNR }, /* names no next one */
	/* 19 */ { SEGMENT(L, 2), { SEGMENT(L, 2), DATA(D, 4096) }, NVME_SGL_INVALID_SEGMENT | DNR },
	/* 20 */ { SEGMENT(L, 1), { SEGMENT(L, 1) }, NVME_SGL_INVALID_SEGMENT | DNR }, /* a circle of nothing */
	/* 21 */ { SEGMENT(L, 2), { DATA(D, 0), SEGMENT(L, 2) }, NVME_SGL_INVALID_SEGMENT | DNR },
	/* 22 */ { LAST(L, 0x1000), { { 0 } }, NVME_SGL_INVALID_COUNT | DNR },
	/* 23 */ { LAST(L, 0x0fffffffU), { { 0 } }, NVME_SGL_INVALID_COUNT | DNR },
};

static void sgl_lists(void **state)
{
	for (unsigned i = 0; i < array_size(sgls); i++) {
		struct nvme_command command = {
			.opcode = NVME_WRITE, .flags = i & 1 ? 0x40 : 0x80, .nsid = 1, .sgl = sgls[i].first, .dw12 = 7
		};
		uint16_t status;

		fill(D, 0x4000, i);
		memcpy(driver_bytes(&driver, L), sgls[i].list, sizeof(sgls[i].list));
		status = io(&command);
		if (status != sgls[i].status)
			fail_msg("SGL %u: status %03x, not %03x", i, status, sgls[i].status);
		if (i == 2) {
			assert_memory_equal(driver.slow[0].bytes, driver_bytes(&driver, D), 4090);
			assert_memory_equal(driver.slow[0].bytes + 4090, driver_bytes(&driver, D + 8000), 6);
		}
	}
	/* As many pieces as there is room for, and one more. */
	for (unsigned count = NVME_SEGMENTS_MAX; count <= NVME_SEGMENTS_MAX + 1; count++) {
		struct nvme_command command = {
			.opcode = NVME_READ, .flags = 0x40, .nsid = 1, .sgl = LAST(L, count), .dw12 = 7
		};
		struct nvme_sgl *list = driver_bytes(&driver, L);

		for (unsigned i = 0; i < count; i++)
			list[i] = (struct nvme_sgl)DATA(D + 64 * i, i ? 8 : 4096 - 8 * (count - 1));
		assert_int_equal(io(&command), count > NVME_SEGMENTS_MAX ? NVME_SGL_INVALID_COUNT | DNR : 0);
	}
}

/* ---- rings ------------------------------------------------------------------------------------------------------- */

static void rings_wrap_and_fill(void **state)
{
	struct nvme_command read = { RW(NVME_READ, 0, 1, D, 0) };
	struct nvme_completion completion;
	unsigned taken = 0;
	uint16_t expected = 0;

	/* Three submission queues of different sizes share one completion queue of 4. */
	assert_int_equal(driver_create_cq(&driver, 2, 4, 2), 0);
	assert_int_equal(driver_create_sq(&driver, 2, 2, 2), 0);
	assert_int_equal(driver_create_sq(&driver, 3, 7, 2), 0);
	assert_int_equal(driver_create_sq(&driver, 4, 16, 2), 0);
	for (unsigned round = 0; round < 50; round++) {
		driver_submit(&driver, 2, &read);
		for (unsigned i = 0; i < 5; i++)
			driver_submit(&driver, 3, &read);
		for (unsigned i = 0; i < 9; i++)
			driver_submit(&driver, 4, &read);
		for (unsigned i = 0; i < 5; i++) {
			unsigned before = taken;

			nvme_driver_run(&driver);
			/* Three slots of four: never more than that at once. */
			while (driver_take(&driver, 2, &completion)) {
				assert_int_equal(completion.status, 0);
				assert_true(completion.sq_id >= 2 && completion.sq_id <= 4);
				taken++;
			}
			assert_int_equal(taken - before, 3);
		}
		assert_int_equal(taken, 15 * (round + 1));
	}
	/* In order, one by one, through many wraps of a queue of 16. */
	for (unsigned i = 0; i < 100; i++) {
		expected = driver_submit(&driver, 1, &read);
		nvme_driver_run(&driver);
		assert_true(driver_take(&driver, 1, &completion));
		assert_int_equal(completion.cid, expected);
		assert_int_equal(completion.sq_head, driver.queues[1].tail);
	}
}

static void full_completion_queue(void **state)
{
	struct nvme_command read = { RW(NVME_READ, 0, 1, D, 0) };
	struct nvme_completion completion;

	/* Commands under way keep their slots: no more are fetched than could be answered. */
	assert_int_equal(driver_create_cq(&driver, 2, 3, 2), 0);
	assert_int_equal(driver_create_sq(&driver, 2, 16, 2), 0);
	driver.slow[0].hold = true;
	for (unsigned i = 0; i < 6; i++)
		driver_submit(&driver, 2, &read);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 2);
	fuzz_engine_arm(&driver.engine);
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 0);
	assert_true(driver_take(&driver, 2, &completion));
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 1);
	assert_true(driver_take(&driver, 2, &completion));
	assert_false(driver_take(&driver, 2, &completion));
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, 2);
}

static void invalid_doorbells(void **state)
{
	struct nvme_command read = { RW(NVME_READ, 0, 1, D, 0) }, event = { .opcode = NVME_ADMIN_ASYNC_EVENT };
	struct nvme_command delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 };
	struct nvme_command log = { .opcode = NVME_ADMIN_GET_LOG_PAGE, .prp1 = D, .dw10 = 0x000f0001 };
	struct nvme_completion completion;

	driver_queue(&driver, 2, 8);
	driver_submit(&driver, 0, &event);
	driver_submit(&driver, 0, &event);
	nvme_driver_run(&driver);
	driver_ring_tail(&driver, 1, 16);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x010100); /* invalid doorbell value, error log */
	/* The queue has stopped, whatever comes; the other one goes on; it can be deleted and made again. */
	driver_submit(&driver, 1, &read);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 1, &completion));
	assert_int_equal(driver_command(&driver, 2, &read, NULL), 0);
	assert_int_equal(driver_command(&driver, 0, &log, NULL), 0);
	assert_int_equal(((struct nvme_error_entry *)driver_bytes(&driver, D))->sq_id, 1);
	assert_int_equal(driver_command(&driver, 0, &delete_sq, NULL), 0);
	assert_int_equal(driver_create_sq(&driver, 1, 16, 1), 0);
	assert_int_equal(io(&read), 0);

	/* A head beyond what there was to take: found when slots are short. */
	driver_ring_head(&driver, 2, 7);
	for (unsigned i = 0; i < 14; i++) {
		driver_submit(&driver, 2, &read);
		nvme_driver_run(&driver);
	}
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x010100);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY);
	assert_int_equal(io(&read), 0);

	/* As a message, the doorbell of a queue that is not there is seen, too. */
	driver_submit(&driver, 0, &event);
	nvme_driver_run(&driver);
	assert_int_equal(driver_command(&driver, 0, &log, NULL), 0);
	driver_write(&driver, nvme_tail_doorbell(9), 4, 1);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.result, 0x010000);
}

/* ---- life with commands under way -------------------------------------------------------------------------------- */

static void submit_held(unsigned count)
{
	struct nvme_command read = { RW(NVME_READ, 0, 8, D, 0) };

	driver.slow[0].hold = true;
	for (unsigned i = 0; i < count; i++)
		driver_submit(&driver, 1, &read);
	nvme_driver_run(&driver);
	assert_int_equal(driver.slow[0].held_count, count);
}

static void deleted_while_busy(void **state)
{
	struct nvme_command delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 },
			    identify = { .opcode = NVME_ADMIN_IDENTIFY, .prp1 = D, .dw10 = 1 };
	struct nvme_command zeroes = { .opcode = NVME_WRITE_ZEROES, .nsid = 2, .dw12 = 8191 };
	struct nvme_completion completion;

	submit_held(5);
	/* One in many pieces as well, which goes on while the queue drains. */
	driver.slow[1].hold = true;
	driver_submit(&driver, 1, &zeroes);
	nvme_driver_run(&driver);
	driver_submit(&driver, 0, &delete_sq);
	driver_submit(&driver, 0, &delete_sq);
	driver_submit(&driver, 0, &identify);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	driver.slow[0].hold = driver.slow[1].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_false(driver_take(&driver, 0, &completion));
	slow_release(&driver, &driver.slow[1], 0);
	nvme_driver_run(&driver);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(driver_take(&driver, 1, &completion));
		assert_int_equal(completion.status, 0);
	}
	assert_int_equal(driver.slow[1].bytes[(4U << 20) - 1], 0);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.status, 0);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.status, NVME_INVALID_QUEUE_ID | DNR);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.status, 0);
}

static void disabled_while_busy(void **state)
{
	struct nvme_command read = { RW(NVME_READ, 0, 8, D, 0) };

	for (unsigned round = 0; round < 3; round++) {
		submit_held(7);
		driver_write(&driver, NVME_REG_CC, 4, 0);
		nvme_driver_run(&driver);
		/* Until the disk has let go, the memory is ours, and RDY says so. Enabled again meanwhile, it waits. */
		assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY);
		if (round == 2)
			driver_write(&driver, NVME_REG_CC, 4, 4U << 20 | 6U << 16 | 1);
		driver.slow[0].hold = false;
		slow_release(&driver, &driver.slow[0], 0);
		nvme_driver_run(&driver);
		assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), round == 2 ? NVME_CSTS_RDY : 0);
		assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
		driver_queue(&driver, 1, 16);
		assert_int_equal(io(&read), 0);
	}
}

static void paused_and_reset_while_busy(void **state)
{
	struct nvme_command read = { RW(NVME_READ, 0, 8, D, 0) },
			    delete_sq = { .opcode = NVME_ADMIN_DELETE_SQ, .dw10 = 1 };
	struct nvme_completion completion;

	submit_held(3);
	driver.done = false;
	assert_int_equal(driver.device->ops->pause(driver.device), PCI_DEFERRED);
	nvme_driver_run(&driver);
	assert_false(driver.done);
	driver.slow[0].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_true(driver.done);
	/* What comes while it is paused waits; memory may be another one afterwards. */
	driver_submit(&driver, 1, &read);
	nvme_driver_run(&driver);
	assert_int_equal(driver.nvme->sqs[1]->queue.state, DEVICE_QUEUE_STOPPED);
	driver.device->ops->resume(driver.device);
	nvme_driver_run(&driver);
	for (unsigned i = 0; i < 4; i++)
		assert_true(driver_take(&driver, 1, &completion));
	assert_int_equal(completion.cid, driver.cid);

	/* Memory goes for a while: the controller says that it cannot work, and goes on when it is back. */
	driver_pause(&driver);
	driver.device->memory = NULL;
	driver.device->ops->resume(driver.device);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY | NVME_CSTS_CFS);
	driver_submit(&driver, 1, &read);
	nvme_driver_run(&driver);
	driver_pause(&driver);
	driver.device->memory = driver.memory;
	driver.device->ops->resume(driver.device);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), NVME_CSTS_RDY);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 1, &completion));

	/* A pause while a queue drains to be deleted. */
	submit_held(2);
	driver_submit(&driver, 0, &delete_sq);
	nvme_driver_run(&driver);
	driver.done = false;
	assert_int_equal(driver.device->ops->pause(driver.device), PCI_DEFERRED);
	driver.slow[0].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_true(driver.done);
	driver.device->ops->resume(driver.device);
	nvme_driver_run(&driver);
	assert_true(driver_take(&driver, 0, &completion));
	assert_int_equal(completion.status, 0);
	assert_true(driver_take(&driver, 1, &completion) && driver_take(&driver, 1, &completion));

	/* A reset of the function waits for the disk, and leaves nothing. */
	assert_int_equal(driver_create_sq(&driver, 1, 16, 1), 0);
	submit_held(4);
	driver.done = false;
	assert_int_equal(driver.device->ops->reset(driver.device), PCI_DEFERRED);
	driver.slow[0].hold = false;
	slow_release(&driver, &driver.slow[0], 0);
	nvme_driver_run(&driver);
	assert_true(driver.done);
	assert_int_equal(driver_read(&driver, NVME_REG_CSTS, 4), 0);
	assert_int_equal(driver_read(&driver, NVME_REG_CC, 4), 0);
	assert_int_equal(driver_read(&driver, nvme_tail_doorbell(1), 4), 0);
	assert_int_equal(driver_enable(&driver, 16), NVME_CSTS_RDY);
}

/* ---- sizes that change ------------------------------------------------------------------------------------------- */

static void resized_under_load(void **state)
{
	struct nvme_command last = { RW(NVME_WRITE, BLOCKS - 1, 1, D, 0) };
	const char *error;

	for (unsigned round = 0; round < 4; round++) {
		uint64_t size = round & 1 ? SLOW_SIZE : SLOW_SIZE / 2;

		submit_held(3);
		assert_int_equal(disk_resize(&driver.slow[0].disk, size, &error), 0);
		nvme_resized(driver.device, 0);
		driver.slow[0].hold = false;
		slow_release(&driver, &driver.slow[0], 0);
		nvme_driver_run(&driver);
		for (unsigned i = 0; i < 3; i++) {
			struct nvme_completion completion;

			assert_true(driver_take(&driver, 1, &completion));
			assert_int_equal(completion.status, 0);
		}
		assert_int_equal(io(&last), round & 1 ? 0 : NVME_LBA_OUT_OF_RANGE | DNR);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(commands_do_what_they_say, start, stop),
		cmocka_unit_test_setup_teardown(large_compare, start, stop),
		cmocka_unit_test_setup_teardown(deallocation, start, stop),
		cmocka_unit_test_setup_teardown(impossible_commands_are_refused, start, stop),
		cmocka_unit_test_setup_teardown(prp_lists, start, stop),
		cmocka_unit_test_setup_teardown(prp_lists_that_go_nowhere, start, stop),
		cmocka_unit_test_setup_teardown(sgl_lists, start, stop),
		cmocka_unit_test_setup_teardown(rings_wrap_and_fill, start, stop),
		cmocka_unit_test_setup_teardown(full_completion_queue, start, stop),
		cmocka_unit_test_setup_teardown(invalid_doorbells, start, stop),
		cmocka_unit_test_setup_teardown(deleted_while_busy, start, stop),
		cmocka_unit_test_setup_teardown(disabled_while_busy, start, stop),
		cmocka_unit_test_setup_teardown(paused_and_reset_while_busy, start, stop),
		cmocka_unit_test_setup_teardown(resized_under_load, start, stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
