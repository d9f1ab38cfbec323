/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest for unit tests: a memfd of one or more regions and the driver's side of one virtqueue, written by hand so that
 * each field can be made wrong.
 */
#ifndef TESTS_RING_FIXTURE_H
#define TESTS_RING_FIXTURE_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "memory/guest_memory.h"
#include "ring/virtqueue.h"

#define FIXTURE_SIZE   16U
#define FIXTURE_BASE   0x100000ULL /* guest address of the first region */
#define FIXTURE_REGION 0x100000ULL /* bytes of each region; the second follows the first without a gap */
#define FIXTURE_DATA   0x10000ULL  /* offset of free memory, behind the rings */

struct ring_fixture {
	int fd;
	uint8_t *bytes; /* the driver's own mapping of the file */
	struct guest_memory *memory;
	struct virtqueue_config config;
	struct virtqueue queue;
	struct guest_segment segments[CHAIN_SEGMENTS_MAX];
	struct segment_pool pool;

	/* driver's view */
	struct vring_desc *descriptors;		/* split */
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_packed_desc *packed;	/* packed: the same memory as descriptors */
	struct vring_packed_desc_event *driver_event, *device_event;
	uint16_t next;				/* packed: position of the next descriptor to make available */
	bool wrap;
};

void ring_fixture_start(struct ring_fixture *fixture, bool packed, bool indirect, bool event_index);
void ring_fixture_stop(struct ring_fixture *fixture);

/** guest address of byte @offset of the fixture's memory, and the driver's pointer to it */
static inline uint64_t fixture_address(uint64_t offset)
{
	return FIXTURE_BASE + offset;
}

static inline void *fixture_bytes(struct ring_fixture *fixture, uint64_t offset)
{
	return fixture->bytes + offset;
}

struct fixture_buffer {
	uint64_t address;
	uint32_t length;
	bool writable;
};

/**
 * ring_fixture_offer() - make one chain available: buffers in order; split: head is @id and the following indices.
 * @indirect_at:	0: direct; else offset of the memory for the table
 */
void ring_fixture_offer(struct ring_fixture *fixture, uint16_t id, const struct fixture_buffer *buffers, unsigned count,
			uint64_t indirect_at);

#endif
