/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/frame_ring.h"

#include <errno.h>
#include <stdlib.h>

int frame_ring_init(struct frame_ring *ring, uint32_t count)
{
	*ring = (struct frame_ring){ .count = count };
	ring->slots = calloc(count, sizeof(ring->slots[0]));
	return ring->slots ? 0 : -ENOMEM;
}

void frame_ring_fini(struct frame_ring *ring)
{
	free(ring->slots);
	ring->slots = NULL;
}

uint32_t frame_ring_room(struct frame_ring *ring)
{
	ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
	return ring->count - (ring->filled - ring->head_seen);
}

bool frame_ring_publish(struct frame_ring *ring)
{
	atomic_store_explicit(&ring->tail, ring->filled, memory_order_seq_cst);
	return atomic_load_explicit(&ring->consumer_waits, memory_order_seq_cst) &&
	       atomic_exchange_explicit(&ring->consumer_waits, false, memory_order_relaxed);
}

bool frame_ring_wait_for_room(struct frame_ring *ring)
{
	atomic_store_explicit(&ring->producer_waits, true, memory_order_seq_cst);
	ring->head_seen = atomic_load_explicit(&ring->head, memory_order_seq_cst);
	if (ring->count - (ring->filled - ring->head_seen) < ring->count / 2)
		return false;
	atomic_store_explicit(&ring->producer_waits, false, memory_order_relaxed);
	return true;
}

bool frame_ring_release(struct frame_ring *ring, uint32_t count)
{
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed) + count;

	atomic_store_explicit(&ring->head, head, memory_order_seq_cst);
	if (!atomic_load_explicit(&ring->producer_waits, memory_order_seq_cst))
		return false;
	/*
	 * Tail is not older than what the producer had published when it began to wait (it published, then set the flag
	 * that we have just read), so this errs only towards waiting for one more release. Such a release comes: frames
	 * are left while more than half of the ring is taken. And what it committed without publishing is not among
	 * them: it must publish before it waits.
	 */
	if (ring->count - (atomic_load_explicit(&ring->tail, memory_order_acquire) - head) < ring->count / 2)
		return false;
	return atomic_exchange_explicit(&ring->producer_waits, false, memory_order_relaxed);
}

bool frame_ring_wait_for_frames(struct frame_ring *ring)
{
	atomic_store_explicit(&ring->consumer_waits, true, memory_order_seq_cst);
	if (atomic_load_explicit(&ring->tail, memory_order_seq_cst) ==
	    atomic_load_explicit(&ring->head, memory_order_relaxed))
		return false;
	atomic_store_explicit(&ring->consumer_waits, false, memory_order_relaxed);
	return true;
}
