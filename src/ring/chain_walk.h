/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The chain walker: the only code that reads descriptors.
 *
 * Trust boundary: everything here comes from the guest and may change while it is read. Each descriptor is copied once to
 * a local; the copy is checked, translated and used.
 *
 * Bounds, for every chain: at most @size direct descriptors and at most CHAIN_SEGMENTS_MAX entries of one indirect table,
 * each entry consumed exactly once, so a walk ends after size + CHAIN_SEGMENTS_MAX steps whatever the guest writes. (virtio
 * 1.3 2.7.5.3.1 limits a chain to the queue size, indirect descriptors included; drivers in the field with small queues
 * and long indirect tables exist, and QEMU serves them.)
 *
 * The functions are inlined into the two layouts (split.c, packed.c); there is no copy of them.
 */
#ifndef RING_CHAIN_WALK_H
#define RING_CHAIN_WALK_H

#include "ring/virtqueue.h"

/** struct descriptor - a local copy; little-endian like every host that we run on (virtio 1.3 2.7.5, 2.8.13). */
struct descriptor {
	uint64_t address;
	uint32_t length;
	union {
		struct {
			uint16_t flags, next;
		} split;
		struct {
			uint16_t id, flags;
		} packed;
	};
};

_Static_assert(sizeof(struct descriptor) == 16, "virtio 1.3 2.7.5");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are read without byte swapping");

#define DESCRIPTOR_NEXT	    (1U << 0)
#define DESCRIPTOR_WRITE    (1U << 1)
#define DESCRIPTOR_INDIRECT (1U << 2)
#define DESCRIPTOR_AVAIL    (1U << 7)  /* packed */
#define DESCRIPTOR_USED	    (1U << 15) /* packed */

enum walk_result {
	WALK_DONE,
	WALK_BROKEN,  /* the queue has been broken */
	WALK_NO_ROOM, /* the pool is full: try again with an empty one */
};

static inline enum walk_result walk_break(struct virtqueue *queue, enum virtqueue_break_reason reason)
{
	virtqueue_break(queue, reason);
	return WALK_BROKEN;
}

/** walk_begin() - an empty chain at the pool's end. */
static inline void walk_begin(struct chain *chain, const struct segment_pool *pool)
{
	chain->segments = pool->segments + pool->used;
	chain->readable_length = 0;
	chain->writable_length = 0;
	chain->readable_count = 0;
	chain->writable_count = 0;
	chain->slots = 1;
}

/**
 * walk_append() - check one buffer, translate it, and add its segments to @chain.
 *
 * A buffer that spans regions of memory becomes several segments.
 */
static inline __attribute__((always_inline)) enum walk_result walk_append(struct virtqueue *queue, struct chain *chain,
									  struct segment_pool *pool, uint64_t address,
									  uint32_t length, bool writable)
{
	uint32_t *total = writable ? &chain->writable_length : &chain->readable_length;
	uint64_t available;

	if (unlikely(!length))
		return walk_break(queue, VIRTQUEUE_ZERO_LENGTH);
	if (unlikely(!writable && chain->writable_count))
		return walk_break(queue, VIRTQUEUE_READABLE_AFTER_WRITABLE);
	if (unlikely(__builtin_add_overflow(*total, length, total)))
		return walk_break(queue, VIRTQUEUE_LENGTH_OVERFLOW);

	do {
		struct guest_segment *segment = pool->segments + pool->used;

		if (unlikely((unsigned)chain->readable_count + chain->writable_count >= CHAIN_SEGMENTS_MAX))
			return walk_break(queue, VIRTQUEUE_TOO_MANY_SEGMENTS);
		if (unlikely(pool->used == pool->capacity))
			return WALK_NO_ROOM;
		segment->base =
			guest_memory_translate(queue->config.memory, &queue->hint, address, length, &available);
		if (unlikely(!segment->base))
			return walk_break(queue, VIRTQUEUE_BAD_ADDRESS);
		segment->length = available;
		pool->used++;
		if (writable)
			chain->writable_count++;
		else
			chain->readable_count++;
		/* Cannot wrap into a valid address: region ends do not wrap, so a wrapped one is refused above. */
		address += available;
		length -= (uint32_t)available;
	} while (unlikely(length));

	return WALK_DONE;
}

/**
 * walk_indirect_table() - find an indirect table (virtio 1.3 2.7.5.3, 2.8.8).
 * @descriptor:	local copy of the descriptor that refers to it
 * @count:	out: entries in the table, 1 to CHAIN_SEGMENTS_MAX
 *
 * The table must be contiguous in host memory; drivers allocate it in one piece.
 *
 * Return: the table, or NULL and the queue is broken.
 */
static inline const guest_byte *walk_indirect_table(struct virtqueue *queue, const struct descriptor *descriptor,
						    uint16_t flags, uint32_t *count)
{
	const struct guest_region *hint = queue->hint;
	const guest_byte *table;
	uint64_t available;

	if (unlikely(!queue->config.indirect)) {
		virtqueue_break(queue, VIRTQUEUE_INDIRECT_NOT_NEGOTIATED);
		return NULL;
	}
	if (unlikely(flags & DESCRIPTOR_NEXT)) {
		virtqueue_break(queue, VIRTQUEUE_INDIRECT_NESTED);
		return NULL;
	}
	*count = descriptor->length / (uint32_t)sizeof(struct descriptor);
	if (unlikely(!*count || *count > CHAIN_SEGMENTS_MAX || descriptor->length % sizeof(struct descriptor))) {
		virtqueue_break(queue, VIRTQUEUE_INDIRECT_BAD_TABLE);
		return NULL;
	}
	table = guest_memory_translate(queue->config.memory, &hint, descriptor->address, descriptor->length, &available);
	if (unlikely(!table || available != descriptor->length)) {
		virtqueue_break(queue, table ? VIRTQUEUE_INDIRECT_BAD_TABLE : VIRTQUEUE_BAD_ADDRESS);
		return NULL;
	}
	return table;
}

/** walk_read_descriptor() - copy entry @index of @table, which holds more than @index entries. */
static inline void walk_read_descriptor(const guest_byte *table, uint32_t index, struct descriptor *descriptor)
{
	guest_read(descriptor, table + (size_t)index * sizeof(*descriptor), sizeof(*descriptor));
	/* The compiler must not read guest memory again in place of the local. */
	__asm__ volatile("" : "+m"(*descriptor));
}

/** walk_split() - the chain that starts at @head of a split ring's table, direct or with an indirect table at its end. */
static inline __attribute__((always_inline)) enum walk_result
walk_split(struct virtqueue *queue, uint16_t head, struct chain *chain, struct segment_pool *pool)
{
	const guest_byte *table = queue->config.descriptors;
	uint32_t entries = queue->config.size, budget = queue->config.size, index = head;
	struct descriptor descriptor;
	enum walk_result result;
	bool indirect = false;

	walk_begin(chain, pool);
	for (;;) {
		if (unlikely(index >= entries))
			return walk_break(queue, VIRTQUEUE_BAD_NEXT);
		if (unlikely(!budget--))
			return walk_break(queue, VIRTQUEUE_CHAIN_TOO_LONG);
		walk_read_descriptor(table, index, &descriptor);

		if (descriptor.split.flags & DESCRIPTOR_INDIRECT) {
			if (unlikely(indirect))
				return walk_break(queue, VIRTQUEUE_INDIRECT_NESTED);
			table = walk_indirect_table(queue, &descriptor, descriptor.split.flags, &entries);
			if (unlikely(!table))
				return WALK_BROKEN;
			indirect = true;
			budget = entries;
			index = 0;
			continue;
		}
		result = walk_append(queue, chain, pool, descriptor.address, descriptor.length,
				     descriptor.split.flags & DESCRIPTOR_WRITE);
		if (unlikely(result != WALK_DONE))
			return result;
		if (likely(!(descriptor.split.flags & DESCRIPTOR_NEXT)))
			return WALK_DONE;
		index = descriptor.split.next;
	}
}

/** walk_packed_table() - all entries of a packed ring's indirect table: order is position, only WRITE counts (2.8.8). */
static inline enum walk_result walk_packed_table(struct virtqueue *queue, const struct descriptor *reference,
						 uint16_t flags, struct chain *chain, struct segment_pool *pool)
{
	struct descriptor descriptor;
	enum walk_result result;
	const guest_byte *table;
	uint32_t entries;

	table = walk_indirect_table(queue, reference, flags, &entries);
	if (unlikely(!table))
		return WALK_BROKEN;
	for (uint32_t index = 0; index < entries; index++) {
		walk_read_descriptor(table, index, &descriptor);
		if (unlikely(descriptor.packed.flags & DESCRIPTOR_INDIRECT))
			return walk_break(queue, VIRTQUEUE_INDIRECT_NESTED);
		result = walk_append(queue, chain, pool, descriptor.address, descriptor.length,
				     descriptor.packed.flags & DESCRIPTOR_WRITE);
		if (unlikely(result != WALK_DONE))
			return result;
	}
	return WALK_DONE;
}

/**
 * walk_packed() - the chain at @position of a packed ring; the caller has seen (with acquire) that it is available.
 * @ring, @size:	the ring, or the saved descriptors of one chain that is resubmitted
 *
 * The driver makes the whole list available with its first descriptor (2.8.6), so the others need no check of theirs.
 */
static inline __attribute__((always_inline)) enum walk_result walk_packed(struct virtqueue *queue,
									  const guest_byte *ring, uint32_t size,
									  uint16_t position, struct chain *chain,
									  struct segment_pool *pool)
{
	uint32_t slots = 0;
	struct descriptor descriptor;
	enum walk_result result;

	walk_begin(chain, pool);
	for (;;) {
		if (unlikely(slots == size))
			return walk_break(queue, VIRTQUEUE_CHAIN_TOO_LONG);
		walk_read_descriptor(ring, position, &descriptor);
		slots++;
		if (descriptor.packed.flags & DESCRIPTOR_INDIRECT)
			result = walk_packed_table(queue, &descriptor, descriptor.packed.flags, chain, pool);
		else
			result = walk_append(queue, chain, pool, descriptor.address, descriptor.length,
					     descriptor.packed.flags & DESCRIPTOR_WRITE);
		if (unlikely(result != WALK_DONE))
			return result;
		if (likely(!(descriptor.packed.flags & DESCRIPTOR_NEXT)))
			break;
		position = (uint16_t)(position + 1U == size ? 0 : position + 1U);
	}
	/* The last descriptor of a list carries the buffer's id (2.8.5). */
	if (unlikely(descriptor.packed.id >= queue->config.size))
		return walk_break(queue, VIRTQUEUE_BAD_HEAD);
	chain->id = descriptor.packed.id;
	chain->slots = (uint16_t)slots;
	return WALK_DONE;
}

#endif
