/* SPDX-License-Identifier: BSD-3-Clause */
/* In-flight tracking: layout of the region, and what its parts share. Theory of operation: ring/inflight.c. */
#ifndef RING_INFLIGHT_INTERNAL_H
#define RING_INFLIGHT_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>

#include "ring/inflight.h"

#define REGION_VERSION 1U

struct split_entry {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct split_region {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct split_entry entries[];
};

struct packed_entry {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

struct packed_region {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct packed_entry entries[];
};

_Static_assert(sizeof(struct split_region) == 16 && sizeof(struct split_entry) == 16, "layout of the specification");
_Static_assert(sizeof(struct packed_region) == 32 && sizeof(struct packed_entry) == 32, "layout of the specification");
_Static_assert(sizeof(struct inflight_description) == 24, "layout of the specification");

struct inflight_area {
	struct guest_region *mapping;
	uint64_t region_size;
	uint16_t queues, queue_size;
	bool packed;
};

enum chain_state {
	CHAIN_IDLE,
	CHAIN_TAKEN,
	CHAIN_REPLAYED, /* in flight since before the start */
	CHAIN_PUSHED,	/* in the batch; a driver that makes it available again before it sees it used is lying */
};

struct replay {
	uint64_t counter;
	uint16_t id, slots;
	uint16_t head;	/* packed: entry */
	uint32_t first; /* packed: index into descriptors */
};

struct virtqueue_inflight {
	const struct guest_region *mapping;
	guest_byte *region;
	guest_byte *ring; /* packed: the descriptor ring */
	uint16_t size;	  /* of the ring */
	uint16_t entries; /* of the region; at least size */
	bool packed;
	uint64_t counter;

	struct replay *replays; /* in order of their counters */
	unsigned replay_count, replay_next;
	struct vring_packed_desc *descriptors; /* packed: of the replays */

	uint8_t *state;	 /* by id: enum chain_state */
	uint16_t *batch; /* ids pushed and not published */
	unsigned batch_count;
	uint16_t last_batch_head; /* split */

	/* packed */
	uint16_t *head; /* by id: first entry */
	uint16_t *last; /* by first entry: last entry of the chain */
	uint16_t *next; /* the region's next fields */
	uint16_t free_head;
	uint32_t free_count;
	uint16_t used_next;
	bool used_wrap;
};

/* Stores before it are executed before stores behind it; see the theory of operation. */
static inline void in_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

#define SPLIT_FIELD(field)  offsetof(struct split_region, field)
#define PACKED_FIELD(field) offsetof(struct packed_region, field)
#define SPLIT_ENTRY(index, field)                                                                                      \
	(sizeof(struct split_region) + (size_t)(index) * sizeof(struct split_entry) +                                  \
	 offsetof(struct split_entry, field))
#define PACKED_ENTRY(index, field)                                                                                     \
	(sizeof(struct packed_region) + (size_t)(index) * sizeof(struct packed_entry) +                                \
	 offsetof(struct packed_entry, field))

static inline void store8(struct virtqueue_inflight *inflight, size_t offset, uint8_t value)
{
	guest_write(inflight->region + offset, &value, sizeof(value));
}

static inline void store16(struct virtqueue_inflight *inflight, size_t offset, uint16_t value)
{
	guest_store16(inflight->region + offset, value);
}

static inline void store64(struct virtqueue_inflight *inflight, size_t offset, uint64_t value)
{
	guest_write(inflight->region + offset, &value, sizeof(value));
}

static inline void store_inflight(struct virtqueue_inflight *inflight, uint16_t entry, uint8_t value)
{
	store8(inflight, inflight->packed ? PACKED_ENTRY(entry, inflight) : SPLIT_ENTRY(entry, inflight), value);
}

_Static_assert(SPLIT_FIELD(version) == PACKED_FIELD(version) && SPLIT_FIELD(desc_num) == PACKED_FIELD(desc_num),
	       "the common head of both layouts");

static inline void store_packed_committed(struct virtqueue_inflight *inflight)
{
	store16(inflight, PACKED_FIELD(old_free_head), inflight->free_head);
	store16(inflight, PACKED_FIELD(old_used_idx), inflight->used_next);
	store8(inflight, PACKED_FIELD(old_used_wrap_counter), inflight->used_wrap);
}

static inline void store_packed_ahead(struct virtqueue_inflight *inflight)
{
	store16(inflight, PACKED_FIELD(free_head), inflight->free_head);
	store16(inflight, PACKED_FIELD(used_idx), inflight->used_next);
	store8(inflight, PACKED_FIELD(used_wrap_counter), inflight->used_wrap);
}

#endif
