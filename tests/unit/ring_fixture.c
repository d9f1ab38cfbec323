/* SPDX-License-Identifier: BSD-3-Clause */
#include "ring_fixture.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void add_region(struct ring_fixture *fixture, uint64_t offset)
{
	struct guest_memory *memory;
	struct guest_region *region;

	assert(!guest_region_map(fixture->fd, offset, FIXTURE_BASE + offset, FIXTURE_REGION, 0x7f0000000000 + offset,
				 &region));
	assert(!guest_memory_with(fixture->memory, region, &memory));
	guest_region_put(region);
	guest_memory_free(fixture->memory);
	fixture->memory = memory;
}

void ring_fixture_start(struct ring_fixture *fixture, bool packed, bool indirect, bool event_index)
{
	memset(fixture, 0, sizeof(*fixture));
	fixture->fd = memfd_create("guest", MFD_CLOEXEC);
	assert(fixture->fd >= 0 && !ftruncate(fixture->fd, 2 * FIXTURE_REGION));
	fixture->bytes = mmap(NULL, 2 * FIXTURE_REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->fd, 0);
	assert(fixture->bytes != MAP_FAILED);
	fixture->memory = guest_memory_create();
	add_region(fixture, 0);
	add_region(fixture, FIXTURE_REGION);

	fixture->descriptors = fixture_bytes(fixture, 0);
	fixture->packed = fixture_bytes(fixture, 0);
	fixture->avail = fixture_bytes(fixture, 0x1000);
	fixture->driver_event = fixture_bytes(fixture, 0x1000);
	fixture->used = fixture_bytes(fixture, 0x2000);
	fixture->device_event = fixture_bytes(fixture, 0x2000);
	fixture->wrap = true;

	fixture->config = (struct virtqueue_config){
		.memory = fixture->memory,
		.descriptors = fixture->memory->regions[0]->host,
		.driver_area = fixture->memory->regions[0]->host + 0x1000,
		.device_area = fixture->memory->regions[0]->host + 0x2000,
		.size = FIXTURE_SIZE,
		.packed = packed,
		.indirect = indirect,
		.event_index = event_index,
		.avail_base = packed ? 0x8000 : 0,
		.used_base = packed ? 0x8000 : 0,
		.call_fd = -1,
	};
	fixture->pool = (struct segment_pool){ .segments = fixture->segments, .capacity = CHAIN_SEGMENTS_MAX };
	assert(!virtqueue_start(&fixture->queue, &fixture->config));
}

void ring_fixture_stop(struct ring_fixture *fixture)
{
	virtqueue_stop(&fixture->queue);
	guest_memory_free(fixture->memory);
	munmap(fixture->bytes, 2 * FIXTURE_REGION);
	close(fixture->fd);
}

static void offer_split(struct ring_fixture *fixture, uint16_t id, const struct fixture_buffer *buffers, unsigned count,
			uint64_t indirect_at)
{
	struct vring_desc *table = indirect_at ? fixture_bytes(fixture, indirect_at) : fixture->descriptors;
	uint16_t first = indirect_at ? 0 : id;

	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = buffers[i].writable ? VRING_DESC_F_WRITE : 0;

		if (i + 1 < count)
			flags |= VRING_DESC_F_NEXT;
		table[first + i] = (struct vring_desc){ buffers[i].address, buffers[i].length, flags,
							(uint16_t)(first + i + 1) };
	}
	if (indirect_at)
		fixture->descriptors[id] = (struct vring_desc){ fixture_address(indirect_at),
								count * (uint32_t)sizeof(*table), VRING_DESC_F_INDIRECT, 0 };
	fixture->avail->ring[fixture->avail->idx % FIXTURE_SIZE] = id;
	__atomic_store_n(&fixture->avail->idx, fixture->avail->idx + 1, __ATOMIC_RELEASE);
}

static void offer_packed(struct ring_fixture *fixture, uint16_t id, const struct fixture_buffer *buffers, unsigned count,
			 uint64_t indirect_at)
{
	struct vring_packed_desc *table = fixture_bytes(fixture, indirect_at);
	unsigned slots = indirect_at ? 1 : count;
	uint16_t first = fixture->next, first_flags = 0;

	for (unsigned i = 0; indirect_at && i < count; i++)
		table[i] = (struct vring_packed_desc){ buffers[i].address, buffers[i].length, 0,
						       buffers[i].writable ? VRING_DESC_F_WRITE : 0 };
	for (unsigned i = 0; i < slots; i++) {
		uint16_t flags = (uint16_t)(fixture->wrap ? 1U << 7 : 1U << 15);
		struct vring_packed_desc *slot = &fixture->packed[fixture->next];

		if (indirect_at) {
			flags |= VRING_DESC_F_INDIRECT;
			*slot = (struct vring_packed_desc){ fixture_address(indirect_at), count * 16, id, slot->flags };
		} else {
			flags |= (uint16_t)((buffers[i].writable ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < count ? VRING_DESC_F_NEXT : 0));
			*slot = (struct vring_packed_desc){ buffers[i].address, buffers[i].length, id, slot->flags };
		}
		if (i)
			slot->flags = flags;
		else
			first_flags = flags;
		if (++fixture->next == FIXTURE_SIZE) {
			fixture->next = 0;
			fixture->wrap = !fixture->wrap;
		}
	}
	__atomic_store_n(&fixture->packed[first].flags, first_flags, __ATOMIC_RELEASE);
}

void ring_fixture_offer(struct ring_fixture *fixture, uint16_t id, const struct fixture_buffer *buffers, unsigned count,
			uint64_t indirect_at)
{
	if (fixture->config.packed)
		offer_packed(fixture, id, buffers, count, indirect_at);
	else
		offer_split(fixture, id, buffers, count, indirect_at);
}
