/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A frame ring: frames from one thread to one other, copied into slots of fixed size, without locks.
 *
 * Theory of operation
 * -------------------
 * @head and @tail count frames for ever (they wrap with 32 bits; the number of slots is a power of two). The producer
 * fills slots from tail on and then publishes them at once by storing tail; the consumer reads slots from head on, in
 * place, and gives them back by storing head.
 *
 * Either side may wait for the other in its own way (an epoll set, poll); a flag says that it does, so that the other
 * one makes a system call for it only then:
 *
 *	consumer: waits = true; look for frames; none: sleep	producer: store tail; waits? clear it and wake
 *	producer: waits = true; look for room; none: sleep	consumer: store head; waits? clear it and wake
 *
 * Why each order is what it is
 * - tail: the store releases the slots' contents, the consumer's load acquires them.
 * - head: the store releases the consumer's reads of the slots, the producer's load acquires that: it overwrites
 * nothing that is still being read.
 * - No wake-up is lost: the store of tail (head) and the load of the flag, the store of the flag and the load of tail
 *(head) are all seq_cst, so in their single total order either the waiting side's look follows the other's store and
 * finds what it waits for, or the other's load of the flag follows its store and finds it set.
 * - Who clears a flag always wakes after it. So when the waiting side had stopped waiting and begun anew in between, it
 * is woken in vain, never forgotten.
 *
 * Context: functions say whose they are. Nothing here blocks or makes a system call.
 */
#ifndef NET_FRAME_RING_H
#define NET_FRAME_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/checked.h"

/** Bytes of a slot: an Ethernet frame with VLAN tag at the usual MTU of 1500, and some more. */
#define FRAME_RING_FRAME_MAX 2044U

struct frame_ring_slot {
	uint32_t length;
	uint8_t bytes[FRAME_RING_FRAME_MAX];
};

struct frame_ring {
	/* Constant. */
	struct frame_ring_slot *slots;
	uint32_t count; /* power of two */

	/* Written by the producer. */
	atomic_uint tail __attribute__((aligned(CACHE_LINE)));
	uint32_t filled;    /* tail to be, once published */
	uint32_t head_seen; /* head as last read: saves the other side's cache line */

	/* Written by the consumer. */
	atomic_uint head __attribute__((aligned(CACHE_LINE)));

	/* Written by both, rarely. */
	atomic_bool consumer_waits __attribute__((aligned(CACHE_LINE)));
	atomic_bool producer_waits;
};

/** frame_ring_init() - @count is a power of two. Return: 0 or -ENOMEM. */
int frame_ring_init(struct frame_ring *ring, uint32_t count);
void frame_ring_fini(struct frame_ring *ring);

/* --- the producer's --- */

/** frame_ring_room() - slots that may be filled now. */
uint32_t frame_ring_room(struct frame_ring *ring);

/** frame_ring_reserve() - the next slot to fill, FRAME_RING_FRAME_MAX bytes. Return: NULL when the ring is full. */
static inline void *frame_ring_reserve(struct frame_ring *ring)
{
	if (unlikely(ring->filled - ring->head_seen == ring->count) && !frame_ring_room(ring))
		return NULL;
	return ring->slots[ring->filled & (ring->count - 1)].bytes;
}

/** frame_ring_commit() - the reserved slot has a frame of @length bytes; not visible before frame_ring_publish(). */
static inline void frame_ring_commit(struct frame_ring *ring, uint32_t length)
{
	ring->slots[ring->filled & (ring->count - 1)].length = length;
	ring->filled++;
}

/** frame_ring_unpublished() - frames committed and not published. */
static inline uint32_t frame_ring_unpublished(const struct frame_ring *ring)
{
	return ring->filled - atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

/** frame_ring_publish() - make all that was committed visible. Return: true when the consumer must be woken. */
bool frame_ring_publish(struct frame_ring *ring);

/**
 * frame_ring_wait_for_room() - from now on frame_ring_release() will say when half of the ring is free.
 * Return: true when it is already: do not sleep.
 */
bool frame_ring_wait_for_room(struct frame_ring *ring);

/* --- the consumer's --- */

/** frame_ring_available() - frames that may be looked at. */
static inline uint32_t frame_ring_available(const struct frame_ring *ring)
{
	return atomic_load_explicit(&ring->tail, memory_order_acquire) -
	       atomic_load_explicit(&ring->head, memory_order_relaxed);
}

/** frame_ring_peek() - the frame at @index, below frame_ring_available(); good until it is released. */
static inline const void *frame_ring_peek(const struct frame_ring *ring, uint32_t index, uint32_t *length)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	const struct frame_ring_slot *slot = &ring->slots[(head + index) & (ring->count - 1)];

	*length = slot->length;
	return slot->bytes;
}

/** frame_ring_release() - give back the oldest @count frames. Return: true when the producer must be woken. */
bool frame_ring_release(struct frame_ring *ring, uint32_t count);

/** frame_ring_wait_for_frames() - from now on publish will say so. Return: true when there are some: do not sleep. */
bool frame_ring_wait_for_frames(struct frame_ring *ring);

/** frame_ring_stop_waiting() - frames are looked for anyway. */
static inline void frame_ring_stop_waiting(struct frame_ring *ring)
{
	atomic_store_explicit(&ring->consumer_waits, false, memory_order_relaxed);
}

#endif
