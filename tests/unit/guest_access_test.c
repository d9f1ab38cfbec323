/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads, writes and scatter lists across regions: what adjoins, holes, and the end of the address space. */
#include "test.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/guest_access.h"

#define PAGE 4096ULL
/* The last region that guest_region_map() takes: its last byte is the last but one of all addresses. */
#define TOP (UINT64_MAX - PAGE + 1)

static struct guest_memory *memory;
static int fd;

static void add(uint64_t offset, uint64_t address, uint64_t size)
{
	struct guest_memory *next;
	struct guest_region *region;

	assert_int_equal(guest_region_map(fd, offset, address, size, 0, &region), 0);
	assert_int_equal(guest_memory_with(memory, region, &next), 0);
	guest_region_put(region);
	guest_memory_free(memory);
	memory = next;
}

/* Two regions that adjoin for the guest (0x1000, 0x2000), a hole, a third one (0x8000), and the end of all addresses.
 */
static int set_up(void **state)
{
	fd = memfd_create("memory", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 16 * PAGE), 0);
	memory = guest_memory_create();
	add(4 * PAGE, PAGE, PAGE);
	add(0, 2 * PAGE, PAGE);
	add(8 * PAGE, 8 * PAGE, 2 * PAGE);
	add(12 * PAGE, TOP - 1, PAGE);
	add(14 * PAGE, 0, PAGE); /* where an address that wraps would arrive */
	return 0;
}

static int tear_down(void **state)
{
	guest_memory_free(memory);
	close(fd);
	return 0;
}

/* What the file holds at @offset. */
static void file_read(uint64_t offset, void *to, size_t length)
{
	assert_int_equal(pread(fd, to, length, (off_t)offset), length);
}

static void test_read_and_write(void **state)
{
	static const struct {
		uint64_t address, length;
		bool there;
	} cases[] = {
		/* 0 */ { PAGE, 2 * PAGE, true },      /* two regions */
		/* 1 */ { 2 * PAGE - 3, 7, true },     /* across the border */
		/* 2 */ { 2 * PAGE, PAGE + 1, false }, /* into the hole */
		/* 3 */ { 4 * PAGE, 1, false },
		/* 4 */ { 8 * PAGE - 1, 2, false }, /* out of the hole */
		/* 5 */ { 9 * PAGE, PAGE, true },
		/* 6 */ { UINT64_MAX - 8, 8, true }, /* up to the last byte that there can be */
		/* 7 */ { UINT64_MAX - 8, 9, false },
		/* 8 */ { UINT64_MAX - 8, 64, false }, /* wraps */
		/* 9 */ { UINT64_MAX, 2, false },
		/* 10 */ { 4 * PAGE, 0, true }, /* nothing is everywhere */
		/* 11 */ { 0, 3 * PAGE, true },
	};
	uint8_t out[3 * PAGE], in[3 * PAGE];

	for (size_t i = 0; i < array_size(cases); i++) {
		const struct guest_region *hint = NULL;

		for (size_t k = 0; k < sizeof(out); k++)
			out[k] = (uint8_t)(k * 7 + i);
		if (guest_memory_write(memory, &hint, cases[i].address, out, cases[i].length) != cases[i].there)
			fail_msg("case %zu: write", i);
		memset(in, 0, sizeof(in));
		if (guest_memory_read(memory, &hint, cases[i].address, in, cases[i].length) != cases[i].there)
			fail_msg("case %zu: read", i);
		if (cases[i].there)
			assert_memory_equal(in, out, cases[i].length);
	}
	/* It went where the regions say, not only where reads look for it. */
	assert_true(guest_memory_write(memory, &(const struct guest_region *){ NULL }, 2 * PAGE - 2, "abcd", 4));
	file_read(5 * PAGE - 2, in, 2);
	file_read(0, in + 2, 2);
	assert_memory_equal(in, "abcd", 4);
	assert_false(guest_memory_read(NULL, &(const struct guest_region *){ NULL }, PAGE, in, 1));
	assert_false(guest_memory_write(NULL, &(const struct guest_region *){ NULL }, PAGE, in, 1));
}

static void test_segments(void **state)
{
	const struct guest_region *hint = NULL;
	struct guest_segment segments[4];
	unsigned count = 0;

	assert_int_equal(guest_memory_segments(memory, &hint, 8 * PAGE, 100, segments, 4, &count), 0);
	assert_int_equal(count, 1);
	/* Goes on where the last one ended: it grows; even when there is no room for another. */
	assert_int_equal(guest_memory_segments(memory, &hint, 8 * PAGE + 100, PAGE, segments, 1, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(segments[0].length, PAGE + 100);
	assert_ptr_equal(segments[0].base, memory->regions[3]->host);
	/* A gap of one byte: a new one. */
	assert_int_equal(guest_memory_segments(memory, &hint, 9 * PAGE + 101, 1, segments, 4, &count), 0);
	assert_int_equal(count, 2);
	/* Adjoining for the guest, not for the host. */
	assert_int_equal(guest_memory_segments(memory, &hint, PAGE, 2 * PAGE, segments, 4, &count), 0);
	assert_int_equal(count, 4);
	assert_int_equal(segments[2].length, PAGE);
	assert_int_equal(segments[3].length, PAGE);
	assert_ptr_equal(segments[3].base, memory->regions[2]->host);
	/* Full. */
	assert_int_equal(guest_memory_segments(memory, &hint, 8 * PAGE, 1, segments, 4, &count), -ENOSPC);
	assert_int_equal(count, 4);
	/* Nothing. */
	assert_int_equal(guest_memory_segments(memory, &hint, 5 * PAGE, 0, segments, 4, &count), 0);
	assert_int_equal(count, 4);

	count = 1;
	assert_int_equal(guest_memory_segments(memory, &hint, 2 * PAGE, PAGE + 1, segments, 4, &count), -EFAULT);
	assert_int_equal(guest_memory_segments(memory, &hint, UINT64_MAX - 8, 64, segments, 4, &count), -EFAULT);
	assert_int_equal(guest_memory_segments(memory, &hint, UINT64_MAX - 8, UINT64_MAX, segments, 4, &count),
			 -EFAULT);
	assert_int_equal(guest_memory_segments(NULL, &hint, PAGE, 1, segments, 4, &count), -EFAULT);
	assert_int_equal(count, 1);
}

static void test_range(void **state)
{
	assert_ptr_equal(guest_memory_range(memory, 8 * PAGE, 2 * PAGE), memory->regions[3]->host);
	assert_null(guest_memory_range(memory, 8 * PAGE, 2 * PAGE + 1));
	assert_null(guest_memory_range(memory, PAGE, PAGE + 1)); /* two regions */
	assert_null(guest_memory_range(memory, PAGE, 0));
	assert_null(guest_memory_range(memory, 5 * PAGE, 1));
	assert_null(guest_memory_range(memory, UINT64_MAX - 8, 16));
	assert_null(guest_memory_range(memory, 8 * PAGE, UINT64_MAX));
	assert_null(guest_memory_range(NULL, PAGE, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_read_and_write, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_segments, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_range, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
