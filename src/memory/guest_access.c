/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads, writes and scatter lists at guest addresses that may span regions: memory/guest_access.h.
 *
 * Each function asks the translator again for what is left over, so that neighbouring regions look like one memory and
 * a hole ends the walk. Addresses cannot wrap round: the last byte of the address space is in no region
 * (guest_region_map() refuses sums that wrap), so the walk ends there at the latest.
 */
#include "memory/guest_access.h"

#include <errno.h>

bool guest_memory_read(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address, void *to,
		       size_t length)
{
	uint8_t *next = to;

	while (length) {
		uint64_t available;
		guest_byte *from = memory ? guest_memory_translate(memory, hint, address, length, &available) : NULL;

		if (unlikely(!from))
			return false;
		guest_fetch(next, from, available);
		next += available;
		address += available;
		length -= available;
	}
	return true;
}

bool guest_memory_write(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address,
			const void *from, size_t length)
{
	const uint8_t *next = from;

	while (length) {
		uint64_t available;
		guest_byte *to = memory ? guest_memory_translate(memory, hint, address, length, &available) : NULL;

		if (unlikely(!to))
			return false;
		guest_write(to, next, available);
		next += available;
		address += available;
		length -= available;
	}
	return true;
}

int guest_memory_segments(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address,
			  uint64_t length, struct guest_segment *segments, unsigned capacity, unsigned *count)
{
	unsigned used = *count;

	while (length) {
		uint64_t available;
		guest_byte *base = memory ? guest_memory_translate(memory, hint, address, length, &available) : NULL;

		if (unlikely(!base))
			return -EFAULT;
		/* Contiguous for the host: in one region, or in two that are windows of one mapping. */
		if (used && segments[used - 1].base + segments[used - 1].length == base) {
			segments[used - 1].length += available;
		} else {
			if (unlikely(used == capacity))
				return -ENOSPC;
			segments[used++] = (struct guest_segment){ .base = base, .length = available };
		}
		address += available;
		length -= available;
	}
	*count = used;
	return 0;
}

guest_byte *guest_memory_range(const struct guest_memory *memory, uint64_t address, uint64_t length)
{
	const struct guest_region *hint = NULL;
	uint64_t available;
	guest_byte *host;

	if (!memory || !length)
		return NULL;
	host = guest_memory_translate(memory, &hint, address, length, &available);
	return host && available == length ? host : NULL;
}
