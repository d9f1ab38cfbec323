/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a migrating front-end does with a dirty log, and Python cannot: take and clear whole words of it with one atomic
 * exchange, and copy the pages that they name. Loaded by tests/protocol/dirty_log.py; ctypes calls it without Python's
 * lock, so that a thread there races with the driver and with the device.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PAGE_SIZE 4096U
#define WORD_BITS 64U

struct copied_region {
	uint64_t first_page; /* guest address / PAGE_SIZE */
	uint64_t pages;
	const uint8_t *from;
	uint8_t *to;
	uint8_t *driver; /* one byte for each page: the driver wrote to it; pages are a multiple of 8 */
};

static void copy_page(struct copied_region *region, uint64_t page)
{
	memcpy(region->to + page * PAGE_SIZE, region->from + page * PAGE_SIZE, PAGE_SIZE);
}

static size_t copy_named(struct copied_region *regions, size_t count, uint64_t page)
{
	for (size_t i = 0; i < count; i++) {
		if (page - regions[i].first_page < regions[i].pages) {
			copy_page(&regions[i], page - regions[i].first_page);
			return 1;
		}
	}
	return 0;
}

static void copy_pass(uint64_t *log, size_t words, struct copied_region *regions, size_t count, uint64_t *copied)
{
	for (size_t word = 0; word < words; word++) {
		uint64_t bits;

		if (!__atomic_load_n(&log[word], __ATOMIC_RELAXED))
			continue;
		for (bits = __atomic_exchange_n(&log[word], 0, __ATOMIC_SEQ_CST); bits; bits &= bits - 1)
			*copied += copy_named(regions, count, word * WORD_BITS + (uint64_t)__builtin_ctzll(bits));
	}
	for (size_t i = 0; i < count; i++) {
		const uint64_t *eight = (const uint64_t *)(const void *)regions[i].driver;

		for (uint64_t page = 0; page < regions[i].pages; page++) {
			if (page % 8 == 0 && !__atomic_load_n(&eight[page / 8], __ATOMIC_RELAXED)) {
				page += 7;
				continue;
			}
			if (!__atomic_exchange_n(&regions[i].driver[page], 0, __ATOMIC_SEQ_CST))
				continue;
			copy_page(&regions[i], page);
			++*copied;
		}
	}
}

/* Copies until @stop, but at least once. @copied: pages, added to. Return: how often. */
uint64_t dirty_copy_run(const uint32_t *stop, uint64_t *log, size_t words, struct copied_region *regions, size_t count,
			uint64_t *copied)
{
	uint64_t passes = 0;

	do {
		copy_pass(log, words, regions, count, copied);
		passes++;
	} while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE));
	return passes;
}
