/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Split rings (virtio 1.3 2.7), device side.
 *
 *	avail (driver area):  flags 16, idx 16, ring[size] 16 each, used_event 16
 *	used (device area):   flags 16, idx 16, ring[size] { id 32, len 32 }, avail_event 16
 *
 * Barriers
 * - avail->idx is read with acquire: descriptors and ring entries that the driver wrote before its store of idx are
 * seen.
 * - used->idx is written with release: the driver that sees it sees the used entries and the data (2.7.14).
 * - After used->idx, a full fence, then used_event or avail->flags is read (2.7.7.2): either the driver wrote its wish
 *   before our read and we see it, or it wrote it after, and then its own re-check after its fence sees our idx. The
 * fence waits until idx and all stores before it are out. So it may come late (virtqueue_publish_early(),
 * virtqueue_settle()): what is read before it is believed when it says "interrupt", and read again behind it when it
 * says "none". The argument is the same for the second read; what the driver wished for in between it gets a moment
 * later.
 * - Arming is the mirror image: avail_event or used->flags is written, a full fence, then avail->idx is read.
 */
#include "ring/chain_walk.h"
#include "ring/inflight.h"
#include "ring/layout.h"

#define AVAIL_FLAGS	0U
#define AVAIL_INDEX	2U
#define AVAIL_RING	4U
#define USED_FLAGS	0U
#define USED_INDEX	2U
#define USED_RING	4U
#define USED_ENTRY_SIZE 8U

#define AVAIL_NO_INTERRUPT 1U
#define USED_NO_NOTIFY	   1U

struct used_entry {
	uint32_t id, length;
};

static inline const guest_byte *used_event(const struct virtqueue *queue)
{
	return queue->config.driver_area + AVAIL_RING + 2U * queue->config.size;
}

static inline guest_byte *avail_event(const struct virtqueue *queue)
{
	return queue->config.device_area + USED_RING + USED_ENTRY_SIZE * queue->config.size;
}

/* Chains that a crashed predecessor had taken, in their order (ring/inflight.h). */
static unsigned pop_replays(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	struct virtqueue_inflight *inflight = queue->config.inflight;
	struct inflight_replay replay;
	unsigned popped = 0;

	while (popped < count && virtqueue_inflight_next_replay(inflight, &replay)) {
		uint32_t used = pool->used;
		struct descriptor descriptor;

		if (unlikely(replay.id >= queue->config.size)) {
			virtqueue_break(queue, VIRTQUEUE_BAD_HEAD);
			break;
		}
		walk_read_descriptor(queue->config.descriptors, replay.id, &descriptor);
		if (walk_split(queue, descriptor, &chains[popped], pool) != WALK_DONE) {
			pool->used = used;
			break;
		}
		chains[popped].id = replay.id;
		walk_taken(queue, &chains[popped++], pool);
		virtqueue_inflight_take_replay(inflight);
		queue->outstanding++;
	}
	return popped;
}

/*
 * The next chain, whatever it is. @next: where in the avail ring. Return: false: it is not taken; the queue may be
 * broken.
 */
static __attribute__((noinline)) bool pop_any(struct virtqueue *queue, uint16_t next, struct chain *chain,
					      struct segment_pool *pool)
{
	uint16_t mask = (uint16_t)(queue->config.size - 1U);
	uint16_t head = guest_load16(queue->config.driver_area + AVAIL_RING + 2U * (next & mask));
	struct descriptor descriptor;
	uint32_t used = pool->used;

	if (unlikely(head > mask)) {
		virtqueue_break(queue, VIRTQUEUE_BAD_HEAD);
		return false;
	}
	walk_read_descriptor(queue->config.descriptors, head, &descriptor);
	if (unlikely(walk_split(queue, descriptor, chain, pool) != WALK_DONE)) {
		pool->used = used;
		return false;
	}
	if (unlikely(queue->config.inflight && !virtqueue_inflight_take(queue->config.inflight, head, 0, 1))) {
		virtqueue_break(queue, VIRTQUEUE_BAD_HEAD);
		pool->used = used;
		return false;
	}
	chain->id = head;
	walk_taken(queue, chain, pool);
	return true;
}

/*
 * Chains of one buffer, [@chain, @stop), which are room enough. A function of its own, for the sake of registers.
 * @table:	descriptors, @mask + 1
 * @entry:	of the avail ring @ring for the first
 * @walk:	changed
 * @writable:	what they have to be, a constant
 * @inflight:	of the queue, or the constant NULL
 *
 * Return: behind the last one; those that @inflight refuses are left to pop_any().
 */
static inline __attribute__((always_inline)) struct chain *pop_singles(const guest_byte *table, const guest_byte *ring,
								       uint32_t mask, uint32_t entry,
								       struct chain *chain, const struct chain *stop,
								       struct walk *state, bool writable,
								       struct virtqueue_inflight *inflight)
{
	const uint32_t looked_at = DESCRIPTOR_NEXT | DESCRIPTOR_INDIRECT | DESCRIPTOR_WRITE;
	struct walk walk = *state;

	for (; chain < stop; chain++, entry++) {
		uint16_t head = guest_load16(ring + 2U * (entry & mask));
		struct descriptor descriptor;

		if (unlikely(head > mask))
			break;
		walk_read_descriptor(table, head, &descriptor);
		if (unlikely((descriptor.split.flags & looked_at) != (writable ? DESCRIPTOR_WRITE : 0)))
			break;
		if (unlikely(!walk_single(&walk, chain, descriptor.address, descriptor.length, writable, head)))
			break;
		if (inflight && unlikely(!virtqueue_inflight_take(inflight, head, 0, 1))) {
			walk.next--;
			break;
		}
	}
	*state = walk;
	return chain;
}

static __attribute__((noinline)) struct chain *pop_readable(const guest_byte *table, const guest_byte *ring,
							    uint32_t mask, uint32_t entry, struct chain *chain,
							    const struct chain *stop, struct walk *walk)
{
	return pop_singles(table, ring, mask, entry, chain, stop, walk, false, NULL);
}

static __attribute__((noinline)) struct chain *pop_writable(const guest_byte *table, const guest_byte *ring,
							    uint32_t mask, uint32_t entry, struct chain *chain,
							    const struct chain *stop, struct walk *walk)
{
	return pop_singles(table, ring, mask, entry, chain, stop, walk, true, NULL);
}

static __attribute__((noinline)) struct chain *pop_tracked(struct virtqueue *queue, struct chain *chain,
							   const struct chain *stop, struct walk *walk)
{
	const guest_byte *table = queue->config.descriptors, *ring = queue->config.driver_area + AVAIL_RING;
	uint32_t mask = queue->config.size - 1U, entry = queue->avail_next;
	struct virtqueue_inflight *inflight = queue->config.inflight;

	return queue->writable ? pop_singles(table, ring, mask, entry, chain, stop, walk, true, inflight)
			       : pop_singles(table, ring, mask, entry, chain, stop, walk, false, inflight);
}

/* Chains of one buffer, up to @end of the chains or the pool. Return: behind the last one. */
static struct chain *pop_run(struct virtqueue *queue, struct chain *chain, const struct chain *end,
			     struct segment_pool *pool)
{
	const guest_byte *table = queue->config.descriptors, *ring = queue->config.driver_area + AVAIL_RING;
	uint32_t mask = queue->config.size - 1U;
	struct chain *first = chain, *stop;
	struct walk walk;

	walk_load(&walk, queue, pool);
	stop = chain + min((size_t)(end - chain), walk_room(&walk));
	if (unlikely(queue->config.inflight))
		chain = pop_tracked(queue, chain, stop, &walk);
	else if (queue->writable)
		chain = pop_writable(table, ring, mask, queue->avail_next, chain, stop, &walk);
	else
		chain = pop_readable(table, ring, mask, queue->avail_next, chain, stop, &walk);
	walk_store(&walk, pool, queue->writable);
	queue->avail_next = (uint16_t)(queue->avail_next + (chain - first));
	return chain;
}

/* Pop @count chains, which are available. */
static unsigned pop_batch(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	struct chain *chain = chains, *end = chains + count;

	for (;;) {
		if (likely(queue->single))
			chain = pop_run(queue, chain, end, pool);
		if (chain == end || !pop_any(queue, queue->avail_next, chain, pool))
			break;
		queue->avail_next++;
		chain++;
	}
	queue->outstanding += (uint32_t)(chain - chains);
	return (unsigned)(chain - chains);
}

unsigned split_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	uint32_t room = queue->config.size - queue->outstanding;
	unsigned popped;
	uint16_t available;

	if (unlikely(queue->config.inflight && virtqueue_inflight_replays(queue->config.inflight)))
		return pop_replays(queue, chains, count, pool);

	available = (uint16_t)(queue->avail_cached - queue->avail_next);
	if (available < count) {
		queue->avail_cached = guest_load16_acquire(queue->config.driver_area + AVAIL_INDEX);
		available = (uint16_t)(queue->avail_cached - queue->avail_next);
		if (unlikely(available > queue->config.size)) {
			virtqueue_break(queue, VIRTQUEUE_BAD_AVAIL_INDEX);
			return 0;
		}
		if (!available)
			return 0;
		count = min(count, (unsigned)available);
	}
	popped = pop_batch(queue, chains, min(count, room), pool);
	/* More available than it has given back: the chains before that are good. */
	if (unlikely(count > room && popped == room))
		virtqueue_break(queue, VIRTQUEUE_BAD_AVAIL_INDEX);
	return popped;
}

void split_unpop(struct virtqueue *queue, const struct chain *chain)
{
	queue->outstanding--;
	if (unlikely(queue->config.inflight && virtqueue_inflight_untake(queue->config.inflight, chain->id)))
		return;
	queue->avail_next--;
}

bool split_pending(struct virtqueue *queue)
{
	if (unlikely(queue->config.inflight && virtqueue_inflight_replays(queue->config.inflight)))
		return true;
	return guest_load16_acquire(queue->config.driver_area + AVAIL_INDEX) != queue->avail_next;
}

void split_push(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	guest_byte *ring = queue->config.device_area + USED_RING;
	uint16_t mask = (uint16_t)(queue->config.size - 1U), next = queue->used_next;
	unsigned i = 0;

	/*
	 * In order, and nothing written: one entry, at the first place, tells of the whole batch with the id of its
	 * last chain; the driver skips as far (2.7.12).
	 */
	if (queue->config.in_order && !written && count && !queue->config.inflight) {
		struct used_entry entry = { .id = chains[count - 1].id };

		guest_write(ring + USED_ENTRY_SIZE * (next & mask), &entry, sizeof(entry));
		next = (uint16_t)(next + count);
		i = count;
	}
	for (; i < count; i++, next++) {
		struct used_entry entry = { .id = chains[i].id, .length = written ? written[i] : 0 };

		guest_write(ring + USED_ENTRY_SIZE * (next & mask), &entry, sizeof(entry));
	}
	queue->used_next = next;
	queue->outstanding -= count;
	if (unlikely(queue->config.inflight)) {
		for (i = 0; i < count; i++)
			virtqueue_inflight_push(queue->config.inflight, chains[i].id);
	}
}

/* After each write to it: a page that is marked before may be copied, and its mark cleared, before the write. */
static inline void log_device_area(struct virtqueue *queue)
{
	if (unlikely(queue->config.log && queue->config.log_used))
		dirty_log_mark_host(queue->config.log, queue->config.memory, queue->config.device_area,
				    USED_RING + USED_ENTRY_SIZE * queue->config.size + 2U);
}

/* (2.7.7.2, 2.7.10) */
bool split_interrupt_wanted(const struct virtqueue *queue)
{
	uint16_t old = queue->used_settled, new = queue->used_published, event;

	if (queue->config.event_index) {
		event = guest_load16(used_event(queue));
		return (uint16_t)(new - event - 1U) < (uint16_t)(new - old);
	}
	return !(guest_load16(queue->config.driver_area + AVAIL_FLAGS) & AVAIL_NO_INTERRUPT);
}

void split_publish(struct virtqueue *queue)
{
	uint16_t new = queue->used_next;

	if (unlikely(queue->config.inflight))
		virtqueue_inflight_publishing(queue->config.inflight, new, false);
	guest_store16_release(queue->config.device_area + USED_INDEX, new);
	if (unlikely(queue->config.inflight))
		virtqueue_inflight_published(queue->config.inflight);
	log_device_area(queue);
	queue->used_published = new;
}

void split_arm(struct virtqueue *queue)
{
	if (queue->config.event_index)
		guest_store16(avail_event(queue), queue->avail_next);
	else
		guest_store16(queue->config.device_area + USED_FLAGS, 0);
	log_device_area(queue);
}

void split_disarm(struct virtqueue *queue)
{
	/*
	 * With event index there is nothing to write: avail_event stays where it is, and the driver kicks once when it
	 * passes it, that is, not again until 65,536 chains later.
	 */
	if (queue->config.event_index)
		return;
	guest_store16(queue->config.device_area + USED_FLAGS, USED_NO_NOTIFY);
	log_device_area(queue);
}
