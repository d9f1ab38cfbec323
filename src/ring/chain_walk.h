/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The chain walker: the only code that reads descriptors.
 *
 * Trust boundary: everything here comes from the guest and may change while it is read. Each descriptor is copied once
 * to a local; the copy is checked, translated and used.
 *
 * Bounds, for every chain: at most @size direct descriptors and at most CHAIN_SEGMENTS_MAX entries of one indirect
 * table, each entry consumed exactly once, so a walk ends after size + CHAIN_SEGMENTS_MAX steps whatever the guest
 * writes. (virtio 1.3 2.7.5.3.1 limits a chain to the queue size, indirect descriptors included; drivers in the field
 * with small queues and long indirect tables exist, and QEMU serves them.)
 *
 * Nearly every chain is one descriptor whose buffer lies in the region of the last one, and is readable or writable as
 * the last one. walk_single() does that case, and only that, with all that it needs in registers (struct walk);
 * whatever it finds unusual it leaves to the general walk, which begins again with a copy of its own, makes every
 * check, and alone breaks queues.
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

/**
 * struct walk - what a batch of walks needs of queue and pool, in locals: a store to guest memory may alias anything as
 * far as the compiler knows, so what stays in structures would be loaded again after each.
 * @region, @size:		the region of the last buffer (queue->hint); @size is 0 when there was none
 * @host:			what makes a guest address in it a host address
 * @next, @end:			free segments of the pool
 * @bytes:			of the chains walked
 */
struct walk {
	uint64_t region, size, host;
	struct guest_segment *next, *end;
	uint64_t bytes;
};

/** walk_load() - after anything that may have changed queue->hint or the pool. */
static inline void walk_load(struct walk *walk, const struct virtqueue *queue, const struct segment_pool *pool)
{
	const struct guest_region *hint = queue->hint;

	walk->region = hint ? hint->guest_address : 0;
	walk->size = hint ? hint->size : 0;
	walk->host = hint ? (uint64_t)(uintptr_t)hint->host - hint->guest_address : 0;
	walk->next = pool->segments + pool->used;
	walk->end = pool->segments + pool->capacity;
	walk->bytes = 0;
}

/** walk_room() - chains of one buffer that the pool has room for. */
static inline size_t walk_room(const struct walk *walk)
{
	return (size_t)(walk->end - walk->next);
}

/** walk_store() - before anything that looks at the pool. @writable: of all chains that were walked. */
static inline void walk_store(const struct walk *walk, struct segment_pool *pool, bool writable)
{
	pool->used = (uint32_t)(walk->next - pool->segments);
	if (writable)
		pool->writable_bytes += walk->bytes;
	else
		pool->readable_bytes += walk->bytes;
}

/** walk_taken() - a chain that walk_split() or walk_packed() walked is taken: its bytes, and what the next may be. */
static inline void walk_taken(struct virtqueue *queue, const struct chain *chain, struct segment_pool *pool)
{
	pool->readable_bytes += chain->readable_length;
	pool->writable_bytes += chain->writable_length;
	queue->single = chain->readable_count + chain->writable_count == 1;
	queue->writable = chain->writable_count;
}

/**
 * walk_single() - a chain of one buffer, all of which lies in the region of the last buffer. The pool has room for it.
 * @writable:	a constant
 *
 * The buffer's first line is fetched: somebody will copy from it or to it.
 *
 * Return: false: it may be anything else; nothing has been changed.
 */
static inline __attribute__((always_inline)) bool walk_single(struct walk *walk, struct chain *chain, uint64_t address,
							      uint32_t length, bool writable, uint16_t id)
{
	const uint64_t one_slot = 1ULL << CHAIN_SLOTS_SHIFT;
	uint64_t offset = address - walk->region, last = offset + length - 1U;
	guest_byte *base;

	/*
	 * Where the last byte is, from the region's beginning. Below the region, and without any byte, this carries or
	 * comes out behind the region's end, since that does not wrap.
	 */
	if (unlikely(last < offset))
		return false;
	if (unlikely(last >= walk->size))
		return false;
	base = (guest_byte *)(uintptr_t)(address + walk->host);
	walk->next->base = base;
	walk->next->length = length;
	walk->bytes += length;
	chain->segments = walk->next++;
	if (writable) {
		guest_prefetch_write(base);
		chain->lengths = (uint64_t)length << 32;
		chain->counts = CHAIN_ONE_WRITABLE | (uint64_t)id << CHAIN_ID_SHIFT | one_slot;
	} else {
		__builtin_prefetch(base);
		chain->lengths = length;
		chain->counts = CHAIN_ONE_READABLE | (uint64_t)id << CHAIN_ID_SHIFT | one_slot;
	}
	return true;
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
		segment->base = guest_memory_translate(queue->config.memory, &queue->hint, address, length, &available);
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
	table = guest_memory_translate(queue->config.memory, &hint, descriptor->address, descriptor->length,
				       &available);
	if (unlikely(!table || available != descriptor->length)) {
		virtqueue_break(queue, table ? VIRTQUEUE_INDIRECT_BAD_TABLE : VIRTQUEUE_BAD_ADDRESS);
		return NULL;
	}
	return table;
}

/** walk_read_descriptor() - copy entry @index of @table, which holds more than @index entries. */
static inline void walk_read_descriptor(const guest_byte *table, uint32_t index, struct descriptor *descriptor)
{
	uint64_t words[2];

	guest_read(words, table + (size_t)index * sizeof(*descriptor), sizeof(words));
	/* The compiler must not read guest memory again in place of the local. */
	__asm__ volatile("" : "+r"(words[0]), "+r"(words[1]));
	memcpy(descriptor, words, sizeof(*descriptor));
}

/**
 * walk_split() - a chain of a split ring, direct or with an indirect table at its end.
 * @descriptor:	local copy of the chain's first descriptor
 */
static inline enum walk_result walk_split(struct virtqueue *queue, struct descriptor descriptor, struct chain *chain,
					  struct segment_pool *pool)
{
	const guest_byte *table = queue->config.descriptors;
	uint32_t entries = queue->config.size, budget = queue->config.size - 1U, index;
	enum walk_result result;
	bool indirect = false;

	walk_begin(chain, pool);
	for (;;) {
		if (descriptor.split.flags & DESCRIPTOR_INDIRECT) {
			if (unlikely(indirect))
				return walk_break(queue, VIRTQUEUE_INDIRECT_NESTED);
			table = walk_indirect_table(queue, &descriptor, descriptor.split.flags, &entries);
			if (unlikely(!table))
				return WALK_BROKEN;
			indirect = true;
			budget = entries;
			index = 0;
		} else {
			result = walk_append(queue, chain, pool, descriptor.address, descriptor.length,
					     descriptor.split.flags & DESCRIPTOR_WRITE);
			if (unlikely(result != WALK_DONE))
				return result;
			if (likely(!(descriptor.split.flags & DESCRIPTOR_NEXT)))
				return WALK_DONE;
			index = descriptor.split.next;
		}
		if (unlikely(index >= entries))
			return walk_break(queue, VIRTQUEUE_BAD_NEXT);
		if (unlikely(!budget--))
			return walk_break(queue, VIRTQUEUE_CHAIN_TOO_LONG);
		walk_read_descriptor(table, index, &descriptor);
	}
}

/** walk_packed_table() - all entries of a packed ring's indirect table: order is position, only WRITE counts (2.8.8).
 */
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
 * @descriptor:		local copy of the one at @position
 *
 * The driver makes the whole list available with its first descriptor (2.8.6), so the others need no check of theirs.
 */
static inline enum walk_result walk_packed(struct virtqueue *queue, const guest_byte *ring, uint32_t size,
					   uint16_t position, struct descriptor descriptor, struct chain *chain,
					   struct segment_pool *pool)
{
	uint32_t slots = 1;
	enum walk_result result;

	walk_begin(chain, pool);
	for (;;) {
		if (descriptor.packed.flags & DESCRIPTOR_INDIRECT)
			result = walk_packed_table(queue, &descriptor, descriptor.packed.flags, chain, pool);
		else
			result = walk_append(queue, chain, pool, descriptor.address, descriptor.length,
					     descriptor.packed.flags & DESCRIPTOR_WRITE);
		if (unlikely(result != WALK_DONE))
			return result;
		if (likely(!(descriptor.packed.flags & DESCRIPTOR_NEXT)))
			break;
		if (unlikely(slots == size))
			return walk_break(queue, VIRTQUEUE_CHAIN_TOO_LONG);
		position = (uint16_t)(position + 1U == size ? 0 : position + 1U);
		walk_read_descriptor(ring, position, &descriptor);
		slots++;
	}
	/* The last descriptor of a list carries the buffer's id (2.8.5). */
	if (unlikely(descriptor.packed.id >= queue->config.size))
		return walk_break(queue, VIRTQUEUE_BAD_HEAD);
	chain->id = descriptor.packed.id;
	chain->slots = (uint16_t)slots;
	return WALK_DONE;
}

#endif
