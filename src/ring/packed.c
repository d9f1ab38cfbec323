/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packed rings (virtio 1.3 2.8), device side.
 *
 *	descriptor ring:         { address 64, length 32, id 16, flags 16 } each, read and written in place
 *	driver area, device area: event suppression { position and wrap 16, flags 16 }
 *
 * Barriers
 * - A descriptor's flags are read with acquire: when they say "available", the rest of it and the other descriptors of its
 *   list are seen (2.8.21.1: the driver writes the first descriptor's flags last).
 * - Used descriptors of a batch are written with their flags, except the first one's flags, which are held back and
 *   written with release by publish. The driver looks at used descriptors in ring order, so it sees none of the batch before
 *   that store, and all of it after.
 * - Publish and arm each have a full fence between their own store and the look at the other side, as for split rings.
 */
#include "ring/chain_walk.h"
#include "ring/inflight.h"
#include "ring/layout.h"

#define DESCRIPTOR_FLAGS_OFFSET 14U

#define EVENT_POSITION 0U
#define EVENT_FLAGS    2U

#define EVENT_ENABLE	 0U
#define EVENT_DISABLE	 1U
#define EVENT_DESCRIPTOR 2U

#define POSITION_WRAP (1U << 15)

/* A used descriptor as the device writes it (2.8.22): the address is left alone. */
struct used_element {
	uint32_t length;
	uint16_t id;
};

static inline guest_byte *slot(const struct virtqueue *queue, uint16_t position)
{
	return queue->config.descriptors + (size_t)position * sizeof(struct descriptor);
}

/* Available: AVAIL equals the device's wrap counter and USED does not (2.8.1). */
static inline bool slot_available(const struct virtqueue *queue, uint16_t position, bool wrap)
{
	uint16_t flags = guest_load16_acquire(slot(queue, position) + DESCRIPTOR_FLAGS_OFFSET);

	return !!(flags & DESCRIPTOR_AVAIL) == wrap && !!(flags & DESCRIPTOR_USED) != wrap;
}

static inline void advance(const struct virtqueue *queue, uint16_t *position, bool *wrap, uint16_t slots)
{
	uint32_t next = (uint32_t)*position + slots;

	if (next >= queue->config.size) {
		next -= queue->config.size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)next;
}

/* After each write to the rings: a page that is marked before may be copied, and its mark cleared, before the write. */
static inline void log_write(struct virtqueue *queue, const guest_byte *host, uint64_t length)
{
	if (unlikely(queue->config.log && queue->config.log_used))
		dirty_log_mark_host(queue->config.log, queue->config.memory, host, length);
}

/* Chains that a crashed predecessor had taken: walked over their saved descriptors (ring/inflight.h). */
static unsigned pop_replays(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	struct virtqueue_inflight *inflight = queue->config.inflight;
	struct inflight_replay replay;
	unsigned popped = 0;

	while (popped < count && virtqueue_inflight_next_replay(inflight, &replay)) {
		struct chain *chain = &chains[popped];
		uint32_t used = pool->used;

		if (walk_packed(queue, guest_bytes_of(replay.descriptors), replay.slots, 0, chain, pool) != WALK_DONE) {
			pool->used = used;
			break;
		}
		chain->id = replay.id;
		chain->slots = replay.slots;
		virtqueue_inflight_take_replay(inflight);
		queue->outstanding += replay.slots;
		popped++;
	}
	return popped;
}

/* Take a walked chain into account. Return: false: the queue is broken. */
static inline bool take(struct virtqueue *queue, const struct chain *chain)
{
	if (unlikely(queue->outstanding + chain->slots > queue->config.size)) {
		virtqueue_break(queue, VIRTQUEUE_BAD_AVAIL_INDEX);
		return false;
	}
	if (unlikely(queue->config.inflight && !virtqueue_inflight_take(queue->config.inflight, chain->id,
									queue->avail_next, chain->slots))) {
		virtqueue_break(queue, VIRTQUEUE_BAD_HEAD);
		return false;
	}
	queue->outstanding += chain->slots;
	advance(queue, &queue->avail_next, &queue->avail_wrap, chain->slots);
	return true;
}

unsigned packed_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	unsigned popped = 0;

	if (unlikely(queue->config.inflight && virtqueue_inflight_replays(queue->config.inflight)))
		return pop_replays(queue, chains, count, pool);

	while (popped < count && slot_available(queue, queue->avail_next, queue->avail_wrap)) {
		struct chain *chain = &chains[popped];
		uint32_t used = pool->used;

		if (unlikely(walk_packed(queue, queue->config.descriptors, queue->config.size, queue->avail_next, chain,
					 pool) != WALK_DONE ||
			     !take(queue, chain))) {
			pool->used = used;
			break;
		}
		popped++;
	}
	return popped;
}

void packed_unpop(struct virtqueue *queue, const struct chain *chain)
{
	queue->outstanding -= chain->slots;
	if (unlikely(queue->config.inflight && virtqueue_inflight_untake(queue->config.inflight, chain->id)))
		return;
	if (queue->avail_next < chain->slots) {
		queue->avail_next = (uint16_t)(queue->avail_next + queue->config.size);
		queue->avail_wrap = !queue->avail_wrap;
	}
	queue->avail_next = (uint16_t)(queue->avail_next - chain->slots);
}

bool packed_pending(struct virtqueue *queue)
{
	if (unlikely(queue->config.inflight && virtqueue_inflight_replays(queue->config.inflight)))
		return true;
	return slot_available(queue, queue->avail_next, queue->avail_wrap);
}

void packed_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written)
{
	struct used_element element = { .length = written, .id = id };
	guest_byte *to = slot(queue, queue->used_next);
	uint16_t flags = queue->used_wrap ? DESCRIPTOR_AVAIL | DESCRIPTOR_USED : 0;

	if (written)
		flags |= DESCRIPTOR_WRITE; /* the length counts (2.8.22) */
	guest_write(to + 8, &element, 6);
	if (queue->first_valid) {
		guest_store16(to + DESCRIPTOR_FLAGS_OFFSET, flags);
	} else {
		queue->first_valid = true;
		queue->first_position = queue->used_next;
		queue->first_flags = flags;
	}
	advance(queue, &queue->used_next, &queue->used_wrap, slots);
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_push(queue->config.inflight, id);
}

/*
 * Does the driver want an interrupt for the used descriptors from @old up to used_next? (2.8.10) The position that it
 * names is compared on a line on which the part before the wrap has negative numbers.
 */
static bool interrupt_wanted(struct virtqueue *queue, uint16_t old)
{
	uint16_t position, event, new = queue->used_next, flags;

	atomic_thread_fence(memory_order_seq_cst);
	flags = guest_load16(queue->config.driver_area + EVENT_FLAGS);
	if (flags == EVENT_DISABLE)
		return false;
	if (flags != EVENT_DESCRIPTOR || !queue->config.event_index)
		return true;

	position = guest_load16(queue->config.driver_area + EVENT_POSITION);
	event = position & (uint16_t)~POSITION_WRAP;
	if (!!(position & POSITION_WRAP) != queue->used_wrap)
		event = (uint16_t)(event - queue->config.size);
	if (new <= old)
		old = (uint16_t)(old - queue->config.size);
	return (uint16_t)(new - event - 1U) < (uint16_t)(new - old);
}

bool packed_publish(struct virtqueue *queue)
{
	uint16_t old = queue->used_published;

	if (!queue->first_valid)
		return false;
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_publishing(queue->config.inflight, queue->used_next, queue->used_wrap);
	guest_store16_release(slot(queue, queue->first_position) + DESCRIPTOR_FLAGS_OFFSET, queue->first_flags);
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_published(queue->config.inflight);
	log_write(queue, queue->config.descriptors, (uint64_t)queue->config.size * sizeof(struct descriptor));
	queue->first_valid = false;
	queue->used_published = queue->used_next;
	return interrupt_wanted(queue, old);
}

void packed_arm(struct virtqueue *queue)
{
	uint16_t flags = EVENT_ENABLE;

	if (queue->config.event_index) {
		uint16_t wrap = queue->avail_wrap ? POSITION_WRAP : 0;

		guest_store16(queue->config.device_area + EVENT_POSITION, queue->avail_next | wrap);
		flags = EVENT_DESCRIPTOR;
	}
	/* Release: whoever sees the flags sees the position. */
	guest_store16_release(queue->config.device_area + EVENT_FLAGS, flags);
	log_write(queue, queue->config.device_area, 4);
}

void packed_disarm(struct virtqueue *queue)
{
	guest_store16(queue->config.device_area + EVENT_FLAGS, EVENT_DISABLE);
	log_write(queue, queue->config.device_area, 4);
}
