/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packed rings (virtio 1.3 2.8), device side.
 *
 *	descriptor ring:         { address 64, length 32, id 16, flags 16 } each, read and written in place
 *	driver area, device area: event suppression { position and wrap 16, flags 16 }
 *
 * Barriers
 * - A descriptor's flags are read with acquire: when they say "available", the rest of it and the other descriptors of
 * its list are seen (2.8.21.1: the driver writes the first descriptor's flags last).
 * - Used descriptors of a batch are written with their flags, except the first one's flags, which are held back and
 *   written with release by publish. The driver looks at used descriptors in ring order, so it sees none of the batch
 * before that store, and all of it after.
 * - Publish and arm each have a full fence between their own store and the look at the other side, as for split rings;
 *   that of publish may come late, as there.
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

/* A used descriptor as the device writes it, with one store (2.8.22): the address is left alone. */
struct used_element {
	uint32_t length;
	uint16_t id, flags;
};

#define USED_ELEMENT_OFFSET 8U

_Static_assert(sizeof(struct used_element) == sizeof(uint64_t) && offsetof(struct used_element, id) == 4 &&
		       offsetof(struct used_element, flags) == 6,
	       "push_batch() builds it as a word");

static inline guest_byte *slot(const struct virtqueue *queue, uint32_t position)
{
	return queue->config.descriptors + (size_t)position * sizeof(struct descriptor);
}

/* What AVAIL and USED of an available descriptor are: AVAIL equals the device's wrap counter and USED does not (2.8.1).
 */
static inline uint32_t available_flags(bool wrap)
{
	return wrap ? DESCRIPTOR_AVAIL : DESCRIPTOR_USED;
}

static inline bool slot_available(const struct virtqueue *queue, uint32_t position, uint32_t expected)
{
	uint16_t flags = guest_load16_acquire(slot(queue, position) + DESCRIPTOR_FLAGS_OFFSET);

	return (flags & (DESCRIPTOR_AVAIL | DESCRIPTOR_USED)) == expected;
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
		struct descriptor descriptor;

		walk_read_descriptor(guest_bytes_of(replay.descriptors), 0, &descriptor);
		if (walk_packed(queue, guest_bytes_of(replay.descriptors), replay.slots, 0, descriptor, chain, pool) !=
		    WALK_DONE) {
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

static inline void advance(struct virtqueue *queue, uint32_t slots)
{
	uint32_t next = queue->avail_next + slots;

	if (next >= queue->config.size) {
		next -= queue->config.size;
		queue->avail_wrap = !queue->avail_wrap;
	}
	queue->avail_next = (uint16_t)next;
	queue->outstanding += slots;
}

/* The next chain, whatever it is; it is available. Return: false: it is not taken; the queue may be broken. */
static __attribute__((noinline)) bool pop_any(struct virtqueue *queue, struct chain *chain, struct segment_pool *pool)
{
	enum virtqueue_break_reason reason = VIRTQUEUE_BAD_AVAIL_INDEX;
	const guest_byte *ring = queue->config.descriptors;
	uint16_t next = queue->avail_next;
	struct descriptor descriptor;
	uint32_t used = pool->used;

	walk_read_descriptor(ring, next, &descriptor);
	if (unlikely(walk_packed(queue, ring, queue->config.size, next, descriptor, chain, pool) != WALK_DONE))
		goto put_back;
	/* More available than the driver got back? */
	if (unlikely(chain->slots > queue->config.size - queue->outstanding))
		goto break_queue;
	reason = VIRTQUEUE_BAD_HEAD;
	if (unlikely(queue->config.inflight &&
		     !virtqueue_inflight_take(queue->config.inflight, chain->id, next, chain->slots)))
		goto break_queue;
	advance(queue, chain->slots);
	return true;

break_queue:
	virtqueue_break(queue, reason);
put_back:
	pool->used = used;
	return false;
}

/*
 * Chains of one buffer, up to @end of the chains, the pool or the ring. @tracked is a constant.
 *
 * The flags are read first, and read again with the rest of the descriptor; only that copy is used.
 *
 * Return: behind the last one.
 */
static inline __attribute__((always_inline)) struct chain *pop_singles(struct virtqueue *queue, struct chain *chain,
								       const struct chain *end,
								       struct segment_pool *pool, bool tracked)
{
	uint32_t size = queue->config.size, expected = available_flags(queue->avail_wrap);
	uint32_t room = min(size - queue->outstanding, size - queue->avail_next);
	const guest_byte *at = slot(queue, queue->avail_next);
	struct chain *first = chain, *stop;
	struct walk walk;

	walk_load(&walk, queue, pool);
	room = (uint32_t)min((size_t)room, walk_room(&walk));
	stop = chain + min((size_t)(end - chain), (size_t)room);
	for (; chain < stop; chain++, at += sizeof(struct descriptor)) {
		uint16_t flags = guest_load16_acquire(at + DESCRIPTOR_FLAGS_OFFSET);
		struct descriptor descriptor;

		if ((flags & (DESCRIPTOR_AVAIL | DESCRIPTOR_USED)) != expected)
			break;
		walk_read_descriptor(at, 0, &descriptor);
		if (unlikely(descriptor.packed.flags & (DESCRIPTOR_NEXT | DESCRIPTOR_INDIRECT)))
			break;
		if (unlikely(descriptor.packed.id >= size))
			break;
		if (unlikely(!walk_single(&walk, chain, descriptor.address, descriptor.length,
					  descriptor.packed.flags & DESCRIPTOR_WRITE, descriptor.packed.id)))
			break;
		if (tracked && unlikely(!virtqueue_inflight_take(queue->config.inflight, chain->id,
								 (uint16_t)(queue->avail_next + (chain - first)), 1))) {
			walk.next--;
			virtqueue_break(queue, VIRTQUEUE_BAD_HEAD);
			break;
		}
	}
	walk_store(&walk, pool);
	advance(queue, (uint32_t)(chain - first));
	return chain;
}

/* Pop up to @count chains. @tracked is a constant. */
static inline __attribute__((always_inline)) unsigned pop_batch(struct virtqueue *queue, struct chain *chains,
								unsigned count, struct segment_pool *pool, bool tracked)
{
	struct chain *chain = chains, *end = chains + count;

	for (;;) {
		chain = pop_singles(queue, chain, end, pool, tracked);
		if (chain == end || unlikely(queue->broken))
			break;
		if (!slot_available(queue, queue->avail_next, available_flags(queue->avail_wrap)))
			break;
		if (unlikely(!pop_any(queue, chain, pool)))
			break;
		chain++;
	}
	return (unsigned)(chain - chains);
}

/* Two functions, for the sake of registers. */
static __attribute__((noinline)) unsigned pop_tracked(struct virtqueue *queue, struct chain *chains, unsigned count,
						      struct segment_pool *pool)
{
	return pop_batch(queue, chains, count, pool, true);
}

static __attribute__((noinline)) unsigned pop_untracked(struct virtqueue *queue, struct chain *chains, unsigned count,
							struct segment_pool *pool)
{
	return pop_batch(queue, chains, count, pool, false);
}

unsigned packed_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	if (likely(!queue->config.inflight))
		return pop_untracked(queue, chains, count, pool);
	if (unlikely(virtqueue_inflight_replays(queue->config.inflight)))
		return pop_replays(queue, chains, count, pool);
	return pop_tracked(queue, chains, count, pool);
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
	return slot_available(queue, queue->avail_next, available_flags(queue->avail_wrap));
}

/* What the next used descriptor's flags are (2.8.1), but for WRITE, which says that the length counts (2.8.22). */
static inline uint16_t used_flags(bool wrap)
{
	return wrap ? DESCRIPTOR_AVAIL | DESCRIPTOR_USED : 0;
}

/* The first used descriptor of a batch waits for publish with its flags. */
static void push_first(struct virtqueue *queue, const struct chain *chain, uint32_t written)
{
	struct used_element element = { .id = chain->id, .length = written };

	guest_write(slot(queue, queue->used_next) + USED_ELEMENT_OFFSET, &element,
		    offsetof(struct used_element, flags));
	queue->first_valid = true;
	queue->first_position = queue->used_next;
	queue->first_flags = used_flags(queue->used_wrap) | (written ? DESCRIPTOR_WRITE : 0);
}

static void push_batch(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	guest_byte *ring = queue->config.descriptors;
	uint32_t size = queue->config.size, next = queue->used_next, slots = 0;
	uint16_t used = used_flags(queue->used_wrap);

	for (unsigned i = 0; i < count; i++) {
		uint32_t length = written ? written[i] : 0;
		uint64_t flags = length ? used | DESCRIPTOR_WRITE : used;
		uint64_t element = length | (uint64_t)chains[i].id << 32 | flags << 48; /* struct used_element */

		if (likely(i || queue->first_valid))
			guest_write(ring + next * sizeof(struct descriptor) + USED_ELEMENT_OFFSET, &element,
				    sizeof(element));
		else
			push_first(queue, &chains[i], length);
		slots += chains[i].slots;
		next += chains[i].slots;
		if (unlikely(next >= size)) {
			next -= size;
			used ^= DESCRIPTOR_AVAIL | DESCRIPTOR_USED;
		}
	}
	queue->used_next = (uint16_t)next;
	queue->used_wrap = used;
	queue->outstanding -= slots;
	if (unlikely(queue->config.inflight)) {
		for (unsigned i = 0; i < count; i++)
			virtqueue_inflight_push(queue->config.inflight, chains[i].id);
	}
}

/*
 * In order, and nothing written: one used descriptor, at the first place, tells of the whole batch with the id of its
 * last chain; the driver skips as far (2.8.12). The other descriptors' lines are not written, so they need not come
 * back.
 */
static void push_in_order(struct virtqueue *queue, const struct chain *chains, unsigned count)
{
	uint32_t slots = 0;

	for (unsigned i = 0; i < count; i++)
		slots += chains[i].slots;
	push_batch(queue, &(struct chain){ .id = chains[count - 1].id, .slots = (uint16_t)slots }, NULL, 1);
}

void packed_push(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	if (queue->config.in_order && !written && count && !queue->config.inflight)
		push_in_order(queue, chains, count);
	else
		push_batch(queue, chains, written, count);
}

/*
 * (2.8.10) The position that the driver names is compared on a line on which the part before the wrap has negative
 * numbers. The last used descriptor is in front of used_published, which may be where used_settled is: then the batch
 * went once around.
 */
bool packed_interrupt_wanted(const struct virtqueue *queue)
{
	uint16_t position, event, new = queue->used_published, old = queue->used_settled, flags;

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

void packed_publish(struct virtqueue *queue)
{
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_publishing(queue->config.inflight, queue->used_next, queue->used_wrap);
	guest_store16_release(slot(queue, queue->first_position) + DESCRIPTOR_FLAGS_OFFSET, queue->first_flags);
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_published(queue->config.inflight);
	log_write(queue, queue->config.descriptors, (uint64_t)queue->config.size * sizeof(struct descriptor));
	queue->first_valid = false;
	queue->used_published = queue->used_next;
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
