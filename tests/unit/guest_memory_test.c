/* SPDX-License-Identifier: BSD-3-Clause */
/* Guest memory: mapping, translation at every edge, files that shrink, dirty log. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/dirty_log.h"
#include "memory/guest_memory.h"

#define MIB (1ULL << 20)

static int make_file(uint64_t size)
{
	int fd = memfd_create("memory", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void add(struct guest_memory **memory, int fd, uint64_t offset, uint64_t address, uint64_t size)
{
	struct guest_memory *next;
	struct guest_region *region;

	assert_int_equal(guest_region_map(fd, offset, address, size, address + (1ULL << 40), &region), 0);
	assert_int_equal(guest_memory_with(*memory, region, &next), 0);
	guest_region_put(region);
	guest_memory_free(*memory);
	*memory = next;
}

/* Claims of a client that must be refused. The file has 4 MiB. */
static void test_impossible_regions(void **state)
{
	static const struct {
		uint64_t offset, address, size, user;
	} cases[] = {
		/* 0 */ { 0, 0, 0, 0 },				/* empty */
		/* 1 */ { 0, 0, 4 * MIB + 1, 0 },		/* one byte more than the file has */
		/* 2 */ { 4 * MIB, 0, 1, 0 },			/* starts at the end */
		/* 3 */ { UINT64_MAX, 0, 2, 0 },		/* offset + size wraps */
		/* 4 */ { 0, UINT64_MAX, 2, 0 },		/* guest address wraps */
		/* 5 */ { 0, 0, 2, UINT64_MAX },		/* user address wraps */
		/* 6 */ { 1ULL << 63, 0, 1, 0 },		/* not an off_t */
		/* 7 */ { 4096, 0, 4 * MIB, 0 },		/* past the end by the offset */
		/* 8 */ { 0, 0, UINT64_MAX, 0 },
	};
	struct guest_region *region = NULL;
	int fd = make_file(4 * MIB);

	for (size_t i = 0; i < array_size(cases); i++) {
		if (guest_region_map(fd, cases[i].offset, cases[i].address, cases[i].size, cases[i].user, &region) !=
		    -EINVAL)
			fail_msg("case %zu was accepted", i);
	}
	assert_int_equal(guest_region_map(-1, 0, 0, 4096, 0, &region), -EMEDIUMTYPE);
	close(fd);

	/* Files that a page fault or fstat() may wait for; this one is in nobody's memory. */
	fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	assert_int_equal(guest_region_map(fd, 0, 0, 4096, 0, &region), -EMEDIUMTYPE);
	close(fd);
}

static void test_translation(void **state)
{
	/* Three regions: [1 MiB, 2 MiB) [2 MiB, 3 MiB) adjacent, and [8 MiB + 512, 9 MiB + 512) from an odd offset. */
	static const struct {
		uint64_t address, length;
		int region;
		uint64_t available;
	} cases[] = {
		/* 0 */ { 1 * MIB, 1, 0, 1 },
		/* 1 */ { 1 * MIB - 1, 1, -1, 0 },
		/* 2 */ { 2 * MIB - 1, 1, 0, 1 },
		/* 3 */ { 2 * MIB - 1, 2, 0, 1 },		/* spans: the first piece */
		/* 4 */ { 2 * MIB, MIB, 1, MIB },
		/* 5 */ { 2 * MIB, UINT64_MAX, 1, MIB },	/* no sum that could wrap */
		/* 6 */ { 3 * MIB, 1, -1, 0 },
		/* 7 */ { 8 * MIB + 511, 1, -1, 0 },
		/* 8 */ { 8 * MIB + 512, 8, 2, 8 },
		/* 9 */ { 9 * MIB + 511, 8, 2, 1 },
		/* 10 */ { 9 * MIB + 512, 1, -1, 0 },
		/* 11 */ { UINT64_MAX, 1, -1, 0 },
		/* 12 */ { 0, 1, -1, 0 },
	};
	struct guest_memory *memory = guest_memory_create();
	int fd = make_file(4 * MIB);

	add(&memory, fd, 0, 1 * MIB, MIB);
	add(&memory, fd, 2 * MIB + 100, 8 * MIB + 512, MIB);
	add(&memory, fd, MIB, 2 * MIB, MIB);
	for (unsigned warm = 0; warm < 2; warm++) {
		const struct guest_region *hint = NULL;

		for (size_t i = 0; i < array_size(cases); i++) {
			static const unsigned order[] = { 0, 1, 2 };
			uint64_t available = 0;
			guest_byte *host;

			if (!warm)
				hint = NULL;
			host = guest_memory_translate(memory, &hint, cases[i].address, cases[i].length, &available);
			if (cases[i].region < 0) {
				if (host)
					fail_msg("case %zu: translated", i);
				continue;
			}
			const struct guest_region *region = memory->regions[order[cases[i].region]];

			if (host != region->host + (cases[i].address - region->guest_address))
				fail_msg("case %zu: wrong place", i);
			if (available != cases[i].available)
				fail_msg("case %zu: %llu available", i, (unsigned long long)available);
		}
	}

	/* The bytes are those of the file at the odd offset. */
	uint64_t value = 0;

	assert_int_equal(pwrite(fd, "sidecore", 8, 2 * MIB + 100), 8);
	guest_read(&value, memory->regions[2]->host, 8);
	assert_memory_equal(&value, "sidecore", 8);

	assert_null(guest_memory_user_range(memory, 1 * MIB + (1ULL << 40), MIB + 1));
	assert_null(guest_memory_user_range(memory, UINT64_MAX, 2));
	assert_ptr_equal(guest_memory_user_range(memory, 1 * MIB + (1ULL << 40), MIB), memory->regions[0]->host);
	guest_memory_free(memory);
	close(fd);
}

static void test_overlap_and_removal(void **state)
{
	struct guest_memory *memory = guest_memory_create(), *next;
	struct guest_region *region;
	int fd = make_file(4 * MIB);

	add(&memory, fd, 0, 4 * MIB, MIB);
	for (uint64_t address = 3 * MIB + 4096; address < 5 * MIB; address += MIB / 2) {
		assert_int_equal(guest_region_map(fd, 0, address, MIB, 0, &region), 0);
		assert_int_equal(guest_memory_with(memory, region, &next), -EINVAL);
		guest_region_put(region);
	}
	assert_int_equal(guest_memory_without(memory, 4 * MIB, 4 * MIB + (1ULL << 40), MIB - 1, &next), -ENOENT);
	assert_int_equal(guest_memory_without(memory, 4 * MIB, 0, MIB, &next), -ENOENT);
	assert_int_equal(guest_memory_without(memory, 4 * MIB, 4 * MIB + (1ULL << 40), MIB, &next), 0);
	assert_int_equal(next->region_count, 0);
	guest_memory_free(memory);
	guest_memory_free(next);
	close(fd);
}

static void test_guards_and_shrinking(void **state)
{
	struct guest_memory *memory = guest_memory_create(), *neighbour = guest_memory_create();
	int fd = make_file(2 * MIB), other = make_file(MIB);
	uint32_t value = 7;

	add(&memory, fd, 0, 0, 2 * MIB);
	add(&neighbour, other, 0, 0, MIB);
	guest_write(memory->regions[0]->host + MIB, &value, sizeof(value));
	assert_false(guest_memory_damaged(memory));

	/* The file shrinks; an access beyond its new end must neither kill us nor touch anybody else. */
	assert_int_equal(ftruncate(fd, MIB / 2), 0);
	guest_read(&value, memory->regions[0]->host + MIB, sizeof(value));
	assert_int_equal(value, 0);
	assert_true(guest_memory_damaged(memory));
	assert_false(guest_memory_damaged(neighbour));
	guest_write(memory->regions[0]->host + 2 * MIB - 4, &value, sizeof(value));

	/* What is on both sides of the mapping must not be accessible: the kernel says EFAULT. */
	int pipes[2];

	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(write(pipes[1], neighbour->regions[0]->host + MIB, 1), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(write(pipes[1], neighbour->regions[0]->host - 1, 1), -1);
	assert_int_equal(write(pipes[1], neighbour->regions[0]->host, 1), 1);

	guest_memory_free(memory);
	guest_memory_free(neighbour);
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
	close(other);
}

static void test_many_guards(void **state)
{
	struct guest_memory *memory = guest_memory_create();
	struct guest_region *region;
	struct guest_memory *next;
	int fd = make_file(MIB);

	for (unsigned i = 0; i < GUEST_MEMORY_REGIONS_MAX; i++)
		add(&memory, fd, 0, i * MIB, MIB);
	assert_int_equal(guest_region_map(fd, 0, 1ULL << 50, MIB, 0, &region), 0);
	assert_int_equal(guest_memory_with(memory, region, &next), -ENOSPC);
	guest_region_put(region);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned i = 0; i < memory->region_count; i++) {
		uint8_t byte = 1;

		guest_write(memory->regions[i]->host, &byte, 1);
		assert_true(guest_region_damaged(memory->regions[i]));
	}
	guest_memory_free(memory);
	close(fd);
}

/* Regions that share one mapping: the same bytes, one damage, and the mapping lives as long as the last of them. */
static void test_windows(void **state)
{
	static const struct {
		uint64_t offset, address, size;
		int error;
	} cases[] = {
		/* 0 */ { MIB, 0, MIB, 0 },		    /* the mapping's first */
		/* 1 */ { 2 * MIB + 4096, MIB, 4096, 0 },
		/* 2 */ { 0, MIB, MIB, -EINVAL },	    /* in the file, but before the mapping */
		/* 3 */ { 3 * MIB, MIB, MIB + 1, -EINVAL }, /* past its end */
		/* 4 */ { 4 * MIB, MIB, 1, -EINVAL },
		/* 5 */ { MIB, MIB, 0, -EINVAL },
		/* 6 */ { MIB, UINT64_MAX, 2, -EINVAL },
		/* 7 */ { 2 * MIB, MIB, UINT64_MAX, -EINVAL },
	};
	struct guest_region *regions[array_size(cases)] = { NULL };
	struct guest_mapping *mapping;
	int fd = make_file(4 * MIB);
	uint32_t value = 0x12345678, back = 0;

	assert_int_equal(guest_mapping_create(fd, MIB, 3 * MIB, &mapping), 0);
	for (size_t i = 0; i < array_size(cases); i++) {
		if (guest_region_window(mapping, cases[i].offset, cases[i].address, cases[i].size, 0, &regions[i]) !=
		    cases[i].error)
			fail_msg("case %zu", i);
	}
	assert_int_equal(mapping->references, 3);
	guest_write(regions[1]->host, &value, sizeof(value));
	assert_int_equal(pread(fd, &back, sizeof(back), 2 * MIB + 4096), sizeof(back));
	assert_int_equal(back, value);
	assert_ptr_equal(regions[1]->host, regions[0]->host + MIB + 4096);
	guest_mapping_put(mapping);
	guest_region_put(regions[0]);

	assert_int_equal(ftruncate(fd, 0), 0);
	guest_write(regions[1]->host, &value, sizeof(value));
	assert_true(guest_region_damaged(regions[1]));
	guest_region_put(regions[1]);
	close(fd);
}

static void test_dirty_log(void **state)
{
	struct guest_memory *memory = guest_memory_create();
	int fd = make_file(4 * MIB), log_fd = make_file(4096);
	struct dirty_log *log;
	uint8_t bits[64] = { 0 };

	add(&memory, fd, 0, MIB, 4 * MIB);
	assert_int_equal(dirty_log_map(log_fd, 4097, 0, &log), -EINVAL);
	assert_int_equal(dirty_log_map(log_fd, UINT64_MAX, 1, &log), -EINVAL);
	assert_int_equal(dirty_log_map(log_fd, 40, 4, &log), 0);

	dirty_log_mark_host(log, memory, memory->regions[0]->host + 4095, 2); /* pages 256 and 257 of the guest */
	dirty_log_mark(log, 0, 1);
	dirty_log_mark(log, 40 * 8 * 4096ULL - 1, 2); /* the last page, and one past the log */
	dirty_log_mark(log, UINT64_MAX, 1);
	assert_int_equal(pread(log_fd, bits, sizeof(bits), 0), sizeof(bits));
	for (unsigned i = 0; i < sizeof(bits) * 8; i++) {
		bool expected = i == 4 * 8 + 256 || i == 4 * 8 + 257 || i == 4 * 8 || i == 4 * 8 + 40 * 8 - 1;

		if (!!(bits[i / 8] & 1U << i % 8) != expected)
			fail_msg("bit %u", i);
	}
	dirty_log_unmap(log);
	guest_memory_free(memory);
	close(fd);
	close(log_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_impossible_regions), cmocka_unit_test(test_translation),
		cmocka_unit_test(test_overlap_and_removal), cmocka_unit_test(test_guards_and_shrinking),
		cmocka_unit_test(test_many_guards),	    cmocka_unit_test(test_windows),
		cmocka_unit_test(test_dirty_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
