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

#define DESCRIPTOR_LENGTH_OFFSET 8U /* of the word with length, id and flags */
#define DESCRIPTOR_FLAGS_OFFSET	 14U

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
	       "push_rest() builds it as a word");

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
		walk_taken(queue, chain, pool);
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
	walk_taken(queue, chain, pool);
	return true;

break_queue:
	virtqueue_break(queue, reason);
put_back:
	pool->used = used;
	return false;
}

/*
 * Chains of one buffer, [@chain, @stop), which are room enough. A function of its own, for the sake of registers.
 * @at:		the first's descriptor; none of them is behind the ring's end
 * @expected:	available_flags()
 * @size:	of the queue
 * @walk:	changed
 * @writable:	what they have to be, a constant
 * @inflight:	of the queue, or the constant NULL
 *
 * A descriptor is read as two words, each once. The one with the flags comes first, and decides: what the driver wrote
 * into the same word before the flags is seen with them, since a word is loaded at once, and the address behind them
 * because of acquire.
 *
 * Return: behind the last one; those that @inflight refuses are left to pop_any().
 */
static inline __attribute__((always_inline)) struct chain *pop_singles(
	const guest_byte *at, uint32_t expected, uint32_t size, struct chain *chain, const struct chain *stop,
	struct walk *state, bool writable, struct virtqueue_inflight *inflight, uint32_t position)
{
	const uint32_t looked_at =
		DESCRIPTOR_AVAIL | DESCRIPTOR_USED | DESCRIPTOR_NEXT | DESCRIPTOR_INDIRECT | DESCRIPTOR_WRITE;
	struct walk walk = *state;

	expected |= writable ? DESCRIPTOR_WRITE : 0;

	for (; chain < stop; chain++, at += sizeof(struct descriptor), position++) {
		uint64_t word = guest_load64_acquire(at + DESCRIPTOR_LENGTH_OFFSET);
		uint32_t id = (uint16_t)(word >> 32);

		if ((word >> 48 & looked_at) != expected)
			break;
		if (unlikely(id >= size))
			break;
		if (unlikely(!walk_single(&walk, chain, guest_load64(at), (uint32_t)word, writable, (uint16_t)id)))
			break;
		if (inflight && unlikely(!virtqueue_inflight_take(inflight, (uint16_t)id, (uint16_t)position, 1))) {
			walk.next--;
			break;
		}
	}
	*state = walk;
	return chain;
}

static __attribute__((noinline)) struct chain *pop_readable(const guest_byte *at, uint32_t expected, uint32_t size,
							    struct chain *chain, const struct chain *stop,
							    struct walk *walk)
{
	return pop_singles(at, expected, size, chain, stop, walk, false, NULL, 0);
}

static __attribute__((noinline)) struct chain *pop_writable(const guest_byte *at, uint32_t expected, uint32_t size,
							    struct chain *chain, const struct chain *stop,
							    struct walk *walk)
{
	return pop_singles(at, expected, size, chain, stop, walk, true, NULL, 0);
}

static __attribute__((noinline)) struct chain *pop_tracked(struct virtqueue *queue, const guest_byte *at,
							   uint32_t expected, struct chain *chain,
							   const struct chain *stop, struct walk *walk)
{
	struct virtqueue_inflight *inflight = queue->config.inflight;
	uint32_t size = queue->config.size, position = queue->avail_next;

	return queue->writable ? pop_singles(at, expected, size, chain, stop, walk, true, inflight, position)
			       : pop_singles(at, expected, size, chain, stop, walk, false, inflight, position);
}

/* Chains of one buffer, up to @end of the chains, the pool or the ring. Return: behind the last one. */
static struct chain *pop_run(struct virtqueue *queue, struct chain *chain, const struct chain *end,
			     struct segment_pool *pool)
{
	uint32_t size = queue->config.size, expected = available_flags(queue->avail_wrap);
	uint32_t room = min(size - queue->outstanding, size - queue->avail_next);
	const guest_byte *at = slot(queue, queue->avail_next);
	struct chain *first = chain, *stop;
	struct walk walk;

	walk_load(&walk, queue, pool);
	room = (uint32_t)min((size_t)room, walk_room(&walk));
	stop = chain + min((size_t)(end - chain), (size_t)room);
	if (unlikely(queue->config.inflight))
		chain = pop_tracked(queue, at, expected, chain, stop, &walk);
	else if (queue->writable)
		chain = pop_writable(at, expected, size, chain, stop, &walk);
	else
		chain = pop_readable(at, expected, size, chain, stop, &walk);
	walk_store(&walk, pool, queue->writable);
	advance(queue, (uint32_t)(chain - first));
	return chain;
}

unsigned packed_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	struct chain *chain = chains, *end = chains + count;

	if (unlikely(queue->config.inflight && virtqueue_inflight_replays(queue->config.inflight)))
		return pop_replays(queue, chains, count, pool);
	for (;;) {
		if (likely(queue->single))
			chain = pop_run(queue, chain, end, pool);
		if (chain == end)
			break;
		if (!slot_available(queue, queue->avail_next, available_flags(queue->avail_wrap)))
			break;
		if (unlikely(!pop_any(queue, chain, pool)))
			break;
		chain++;
	}
	return (unsigned)(chain - chains);
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
static void push_first(struct virtqueue *queue, uint16_t id, uint32_t slots, uint32_t written)
{
	struct used_element element = { .id = id, .length = written };
	uint32_t next = queue->used_next;

	guest_write(slot(queue, next) + USED_ELEMENT_OFFSET, &element, offsetof(struct used_element, flags));
	queue->first_valid = true;
	queue->first_position = (uint16_t)next;
	queue->first_flags = used_flags(queue->used_wrap) | (written ? DESCRIPTOR_WRITE : 0);
	next += slots;
	if (unlikely(next >= queue->config.size)) {
		next -= queue->config.size;
		queue->used_wrap = !queue->used_wrap;
	}
	queue->used_next = (uint16_t)next;
	queue->outstanding -= slots;
}

/* The others. @written may be the constant NULL. */
static inline __attribute__((always_inline)) void push_rest(struct virtqueue *queue, const struct chain *chain,
							    const uint32_t *written, unsigned count)
{
	const size_t stride = sizeof(struct descriptor), ring_bytes = queue->config.size * stride;
	guest_byte *first = slot(queue, 0) + USED_ELEMENT_OFFSET, *end = first + ring_bytes;
	guest_byte *begin = slot(queue, queue->used_next) + USED_ELEMENT_OFFSET, *at = begin;
	uint32_t flags = (uint32_t)used_flags(queue->used_wrap) << 16;
	size_t wrapped = 0;

	for (const struct chain *stop = chain + count; chain < stop; chain++) {
		uint32_t length = written ? *written++ : 0, high = chain->id | flags | DESCRIPTOR_WRITE << 16;
		uint64_t element; /* struct used_element */

		if (unlikely(!length)) {
			high = chain->id | flags;
			__asm__ volatile(""); /* a branch, rather than work for each of those with a length */
		}
		element = (uint64_t)high << 32 | length;
		guest_write(at, &element, sizeof(element));
		at += chain->slots * stride;
		if (unlikely(at >= end)) {
			at -= ring_bytes;
			wrapped += ring_bytes;
			flags ^= (uint32_t)(DESCRIPTOR_AVAIL | DESCRIPTOR_USED) << 16;
		}
	}
	queue->used_next = (uint16_t)((size_t)(at - first) / stride);
	queue->used_wrap = flags;
	queue->outstanding -= (uint32_t)(((size_t)(at - begin) + wrapped) / stride);
}

/* Two functions, or the compiler makes one loop of them that asks for each chain. */
static __attribute__((noinline)) void push_written(struct virtqueue *queue, const struct chain *chain,
						   const uint32_t *written, unsigned count)
{
	push_rest(queue, chain, written, count);
}

static __attribute__((noinline)) void push_unwritten(struct virtqueue *queue, const struct chain *chain, unsigned count)
{
	push_rest(queue, chain, NULL, count);
}

/*
 * In order, and nothing written: one used descriptor, at the first place, tells of the whole batch with the id of its
 * last chain; the driver skips as far (2.8.12). The other descriptors' lines are not written, so they need not come
 * back.
 */
static void push_in_order(struct virtqueue *queue, const struct chain *chains, unsigned count)
{
	struct chain all = { .id = chains[count - 1].id };
	uint32_t slots = 0;

	for (unsigned i = 0; i < count; i++)
		slots += chains[i].slots;
	all.slots = (uint16_t)slots;
	if (!queue->first_valid)
		push_first(queue, all.id, slots, 0);
	else
		push_unwritten(queue, &all, 1);
}

static void push_each(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	unsigned first = 0;

	if (!queue->first_valid) {
		push_first(queue, chains->id, chains->slots, written ? *written : 0);
		first = 1;
	}
	if (written)
		push_written(queue, chains + first, written + first, count - first);
	else
		push_unwritten(queue, chains + first, count - first);
	if (unlikely(queue->config.inflight)) {
		for (unsigned i = 0; i < count; i++)
			virtqueue_inflight_push(queue->config.inflight, chains[i].id);
	}
}

void packed_push(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	if (unlikely(!count))
		return;
	if (queue->config.in_order && !written && !queue->config.inflight)
		push_in_order(queue, chains, count);
	else
		push_each(queue, chains, written, count);
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
