/* SPDX-License-Identifier: BSD-3-Clause */
/* Guest memory maps. Theory of operation: memory/guest_memory.h. */
#include "memory/guest_memory.h"

#include <errno.h>
#include <stdlib.h>

static struct guest_memory *allocate(unsigned region_count)
{
	struct guest_memory *memory = calloc(1, sizeof(*memory) + region_count * sizeof(struct guest_region *)); /* NOLINT */

	if (memory)
		memory->region_count = region_count;
	return memory;
}

struct guest_memory *guest_memory_create(void)
{
	return allocate(0);
}

void guest_memory_free(struct guest_memory *memory)
{
	if (!memory)
		return;
	for (unsigned i = 0; i < memory->region_count; i++)
		guest_region_put(memory->regions[i]);
	free(memory);
}

/* Index of the first region that ends after @guest_address; region_count when there is none. */
static unsigned first_ending_after(const struct guest_memory *memory, uint64_t guest_address)
{
	unsigned low = 0, high = memory->region_count;

	while (low < high) {
		unsigned middle = (low + high) / 2;
		const struct guest_region *region = memory->regions[middle];

		/* guest_address + size does not wrap: checked when the region was made. */
		if (region->guest_address + region->size <= guest_address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct guest_region *guest_memory_find(const struct guest_memory *memory, uint64_t guest_address)
{
	unsigned index = first_ending_after(memory, guest_address);

	if (index == memory->region_count || memory->regions[index]->guest_address > guest_address)
		return NULL;
	return memory->regions[index];
}

int guest_memory_with(const struct guest_memory *memory, struct guest_region *region, struct guest_memory **result)
{
	unsigned index = first_ending_after(memory, region->guest_address);
	struct guest_memory *copy;

	if (index < memory->region_count &&
	    memory->regions[index]->guest_address < region->guest_address + region->size)
		return -EINVAL;
	if (memory->region_count >= GUEST_MEMORY_REGIONS_MAX)
		return -ENOSPC;
	copy = allocate(memory->region_count + 1);
	if (!copy)
		return -ENOMEM;

	for (unsigned i = 0, from = 0; i < copy->region_count; i++) {
		copy->regions[i] = i == index ? region : memory->regions[from++];
		copy->regions[i]->references++;
	}
	*result = copy;
	return 0;
}

int guest_memory_without(const struct guest_memory *memory, uint64_t guest_address, uint64_t user_address,
			 uint64_t size, struct guest_memory **result)
{
	unsigned index = first_ending_after(memory, guest_address);
	const struct guest_region *region = index < memory->region_count ? memory->regions[index] : NULL;
	struct guest_memory *copy;

	if (!region || region->guest_address != guest_address || region->user_address != user_address ||
	    region->size != size)
		return -ENOENT;
	copy = allocate(memory->region_count - 1);
	if (!copy)
		return -ENOMEM;

	for (unsigned i = 0; i < copy->region_count; i++) {
		copy->regions[i] = memory->regions[i < index ? i : i + 1];
		copy->regions[i]->references++;
	}
	*result = copy;
	return 0;
}

guest_byte *guest_memory_user_range(const struct guest_memory *memory, uint64_t user_address, uint64_t length)
{
	for (unsigned i = 0; i < memory->region_count; i++) {
		const struct guest_region *region = memory->regions[i];
		uint64_t offset = user_address - region->user_address;

		/* Below the region, the difference wraps and is larger than any size. */
		if (offset < region->size && range_inside(offset, length, region->size))
			return region->host + offset;
	}
	return NULL;
}

int guest_memory_address_of(const struct guest_memory *memory, const guest_byte *host, uint64_t *guest_address)
{
	for (unsigned i = 0; i < memory->region_count; i++) {
		const struct guest_region *region = memory->regions[i];
		uint64_t offset = (uintptr_t)host - (uintptr_t)region->host;

		if (offset < region->size) {
			*guest_address = region->guest_address + offset;
			return 0;
		}
	}
	return -ENOENT;
}
