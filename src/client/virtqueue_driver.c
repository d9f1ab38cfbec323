/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of a virtqueue, split (virtio 1.3 2.7) and packed (2.8), made to cost next to nothing.
 *
 * Theory of operation
 * -------------------
 * A queue has a fixed set of buffers, each of the same number of segments, whose descriptors are prebuilt. Giving a
 * buffer to the device and taking it back then moves no more than the ring itself:
 *
 *	set_segment() ...	once (client/virtqueue_driver_setup.c)
 *	add() ...		stage a batch: the device does not see it
 *	publish()		one store makes the whole batch visible; says whether the device wants a kick
 *	take()			collect a batch of what the device is done with
 *
 * What makes it light:
 * - Split: a store to a shared line is left out when the line already says so. Buffers that come back in the order they
 *   went out land in the same place, so neither descriptors nor avail entries are ever written in steady state, and
 *   the device's copies of those lines stay valid in its cache. Only avail->idx changes.
 * - Split, in-order, device only reads: completions are counted from used->idx; used entries are not even read.
 * - Packed: descriptors must be rewritten each time (the device overwrites them), the first one's flags last, so that a
 *   polling device sees whole batches and not single descriptors trickling in.
 *
 * In-order (2.7.12, 2.8.12): descriptors of a split ring are used in ring order, so a buffer takes whatever place comes
 * next; the device may write one used entry for a batch, and what it skipped counts as completely used. Outstanding
 * buffers are kept in a FIFO to tell which.
 *
 * The device is checked, since a test client must notice a bad one: an id that names no outstanding buffer makes take()
 * return -EPROTO. Memory ordering: acquire on the device's index or flags, release on ours, one full fence before
 * looking whether a kick is wanted (2.7.13.4.1).
 *
 * Invariants
 * - in_flight <= buffers; the caller adds only buffers that it holds.
 * - owner[id] != 0 exactly while the buffer that the device calls id is in flight.
 *
 * Context: one thread owns a queue; no locks.
 */
#include "client/virtqueue_driver.h"

#include <errno.h>

#define PACKED_AVAIL	 (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED	 (1u << VRING_PACKED_DESC_F_USED)
#define PACKED_WRAP_FLAG (1u << VRING_PACKED_EVENT_F_WRAP_CTR)
#define QUIET_DISTANCE	 0x4000u

/* ---- add and publish ---- */

/* Note who has the buffer; the FIFO is needed only where the device may complete several with one entry. */
static inline void note_outstanding(struct virtqueue_driver *queue, uint16_t id, uint16_t buffer)
{
	queue->owner[id] = (uint16_t)(buffer + 1);
	if (queue->options.in_order) {
		queue->outstanding[queue->outstanding_head++] =
			(struct virtqueue_outstanding){ .buffer = buffer, .id = id };
		if (queue->outstanding_head == queue->options.size)
			queue->outstanding_head = 0;
	}
}

/* In-order, split: the chain goes to the next free descriptors (2.7.12.1); stores that change nothing are left out. */
static uint16_t place_in_order(struct virtqueue_driver *queue, uint16_t buffer)
{
	const struct virtqueue_segment *segment = &queue->segment[(size_t)buffer * queue->descriptors];
	uint16_t mask = (uint16_t)(queue->options.size - 1);
	uint16_t head = queue->position;

	for (unsigned int i = 0; i < queue->descriptors; i++, segment++) {
		struct vring_desc *desc = &queue->desc[queue->position];

		if (desc->addr != segment->address)
			desc->addr = segment->address;
		if (desc->len != segment->length)
			desc->len = segment->length;
		if (desc->flags != segment->flags)
			desc->flags = segment->flags;
		queue->position = (queue->position + 1) & mask;
	}

	return head;
}

static void add_split(struct virtqueue_driver *queue, const struct driver_buffer *buffers, unsigned int count)
{
	uint16_t mask = (uint16_t)(queue->options.size - 1);

	for (unsigned int i = 0; i < count; i++) {
		uint16_t buffer = (uint16_t)buffers[i].id;
		uint16_t *entry = &queue->avail->ring[queue->avail_index & mask];
		uint16_t head = queue->options.in_order ? place_in_order(queue, buffer)
							: (uint16_t)(buffer * queue->descriptors);

		note_outstanding(queue, head, buffer);
		if (*entry != head)
			*entry = head;
		queue->avail_index++;
	}
	queue->staged = (uint16_t)(queue->staged + count);
}

static void add_packed(struct virtqueue_driver *queue, const struct driver_buffer *buffers, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		uint16_t buffer = (uint16_t)buffers[i].id;
		const struct virtqueue_segment *segment = &queue->segment[(size_t)buffer * queue->descriptors];

		note_outstanding(queue, buffer, buffer);
		for (unsigned int n = 0; n < queue->descriptors; n++, segment++) {
			struct vring_packed_desc *desc = &queue->ring[queue->position];
			uint16_t flags = (uint16_t)(segment->flags | (queue->wrap ? PACKED_AVAIL : PACKED_USED));

			desc->addr = segment->address;
			desc->len = segment->length;
			desc->id = buffer;
			if (queue->staged == 0) {
				queue->staged_position = queue->position;
				queue->staged_flags = flags;
			} else {
				desc->flags = flags;
			}
			queue->staged++;
			if (++queue->position == queue->options.size) {
				queue->position = 0;
				queue->wrap = !queue->wrap;
			}
		}
	}
}

/**
 * virtqueue_driver_add() - stage buffers; the device does not see them before virtqueue_driver_publish().
 * @queue:	queue
 * @buffers:	which; none of them in flight
 * @count:	how many
 */
void virtqueue_driver_add(struct virtqueue_driver *queue, const struct driver_buffer *buffers, unsigned int count)
{
	queue->in_flight = (uint16_t)(queue->in_flight + count);
	if (queue->options.packed)
		add_packed(queue, buffers, count);
	else
		add_split(queue, buffers, count);
}

static bool split_wants_kick(struct virtqueue_driver *queue, uint16_t before)
{
	if (queue->options.event_index) {
		uint16_t event = __atomic_load_n(queue->avail_event, __ATOMIC_RELAXED);

		return vring_need_event(event, queue->published, before);
	}

	return !(__atomic_load_n(&queue->used->flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY);
}

/* 2.8.10: the device names a descriptor by offset and wrap counter; the batch is [before, before + staged). */
static bool packed_wants_kick(struct virtqueue_driver *queue, uint16_t staged)
{
	uint16_t flags = __atomic_load_n(&queue->device_event->flags, __ATOMIC_RELAXED);
	uint16_t event, position = queue->position;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;

	event = __atomic_load_n(&queue->device_event->off_wrap, __ATOMIC_RELAXED);
	if (!!(event & PACKED_WRAP_FLAG) != queue->wrap)
		event = (uint16_t)((event & ~PACKED_WRAP_FLAG) - queue->options.size);
	else
		event = (uint16_t)(event & ~PACKED_WRAP_FLAG);

	return vring_need_event(event, position, (uint16_t)(position - staged));
}

/**
 * virtqueue_driver_publish() - make what was staged visible, at once.
 * @queue:	queue
 *
 * Return: true if the device wants to be kicked.
 */
bool virtqueue_driver_publish(struct virtqueue_driver *queue)
{
	uint16_t before = queue->published;
	uint16_t staged = queue->staged;

	if (staged == 0)
		return false;
	queue->staged = 0;

	if (queue->options.packed) {
		__atomic_store_n(&queue->ring[queue->staged_position].flags, queue->staged_flags, __ATOMIC_RELEASE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		return packed_wants_kick(queue, staged);
	}

	queue->published = queue->avail_index;
	__atomic_store_n(&queue->avail->idx, queue->avail_index, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return split_wants_kick(queue, before);
}

/* ---- take ---- */

static inline int take_one(struct virtqueue_driver *queue, uint32_t id, uint32_t length, struct driver_buffer *buffer)
{
	uint16_t owner;

	if (id >= queue->options.size)
		return -EPROTO;
	owner = queue->owner[id];
	if (owner == 0 || length > queue->writable[owner - 1])
		return -EPROTO;

	queue->owner[id] = 0;
	*buffer = (struct driver_buffer){ .id = owner - 1u, .length = length };

	return 0;
}

/*
 * How many used entries are known to be there. used->idx is looked at only when those seen before are used up: it lies
 * on a line that the device keeps writing.
 */
static inline int split_ready(struct virtqueue_driver *queue)
{
	uint16_t ready;

	if (queue->used_index == queue->last_used)
		queue->used_index = __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE);
	ready = (uint16_t)(queue->used_index - queue->last_used);

	return ready > queue->in_flight ? -EPROTO : ready;
}

static int take_split(struct virtqueue_driver *queue, struct driver_buffer *buffers, unsigned int count)
{
	uint16_t mask = (uint16_t)(queue->options.size - 1);
	int ready = split_ready(queue);

	if (ready <= 0)
		return ready;
	if (count > (unsigned int)ready)
		count = (unsigned int)ready;

	for (unsigned int i = 0; i < count; i++) {
		const struct vring_used_elem *entry = &queue->used->ring[(queue->last_used + i) & mask];

		if (take_one(queue, entry->id, entry->len, &buffers[i]))
			return -EPROTO;
	}
	queue->last_used = (uint16_t)(queue->last_used + count);

	return (int)count;
}

static inline bool packed_is_used(const struct virtqueue_driver *queue)
{
	uint16_t flags = __atomic_load_n(&queue->ring[queue->last_used].flags, __ATOMIC_ACQUIRE);

	return !!(flags & PACKED_AVAIL) == queue->used_wrap && !!(flags & PACKED_USED) == queue->used_wrap;
}

/* Used descriptors are written where the chain began, so the next one is a chain further on (2.8.8). */
static inline void packed_skip(struct virtqueue_driver *queue)
{
	uint32_t next = (uint32_t)queue->last_used + queue->descriptors;

	if (next >= queue->options.size) {
		next -= queue->options.size;
		queue->used_wrap = !queue->used_wrap;
	}
	queue->last_used = (uint16_t)next;
}

/* 2.8.6: the length of a used descriptor means nothing unless the device says that it wrote. */
static inline uint32_t packed_length(const struct vring_packed_desc *desc)
{
	return desc->flags & VRING_DESC_F_WRITE ? desc->len : 0;
}

static int take_packed(struct virtqueue_driver *queue, struct driver_buffer *buffers, unsigned int count)
{
	unsigned int taken = 0;

	while (taken < count && packed_is_used(queue)) {
		const struct vring_packed_desc *desc = &queue->ring[queue->last_used];

		if (take_one(queue, desc->id, packed_length(desc), &buffers[taken++]))
			return -EPROTO;
		packed_skip(queue);
	}

	return (int)taken;
}

static int outstanding_up_to(const struct virtqueue_driver *queue, uint32_t id)
{
	uint32_t at = queue->outstanding_tail;

	for (uint16_t n = 0; n < queue->in_flight; n++) {
		if (queue->outstanding[at].id == id)
			return n + 1;
		if (++at == queue->options.size)
			at = 0;
	}

	return -EPROTO;
}

/*
 * In-order: learn how many buffers the next used entry releases. Buffers that the device only reads need no entry at
 * all in a split ring, since used->idx moves by the size of the batch.
 */
static int next_batch(struct virtqueue_driver *queue)
{
	int batch;

	if (queue->options.packed) {
		const struct vring_packed_desc *desc = &queue->ring[queue->last_used];

		if (!packed_is_used(queue))
			return 0;
		batch = outstanding_up_to(queue, desc->id);
		queue->batch_length = packed_length(desc);
	} else {
		const struct vring_used_elem *entry = &queue->used->ring[queue->last_used & (queue->options.size - 1u)];
		int ready = split_ready(queue);

		if (ready <= 0)
			return ready;
		batch = queue->reads_lengths ? outstanding_up_to(queue, entry->id) : ready;
		queue->batch_length = queue->reads_lengths ? entry->len : 0;
		if (batch > ready)
			return -EPROTO;
		if (batch > 0)
			queue->last_used = (uint16_t)(queue->last_used + batch);
	}
	if (batch > 0)
		queue->batch_left = (uint16_t)batch;

	return batch;
}

static int take_in_order(struct virtqueue_driver *queue, struct driver_buffer *buffers, unsigned int count)
{
	unsigned int taken = 0;

	while (taken < count) {
		const struct virtqueue_outstanding *oldest = &queue->outstanding[queue->outstanding_tail];
		uint32_t length;

		if (queue->batch_left == 0) {
			int batch = next_batch(queue);

			if (batch < 0)
				return batch;
			if (batch == 0)
				break;
		}
		/* What the device skipped is used "completely" (2.7.12); only the last one has a length. */
		length = --queue->batch_left ? queue->writable[oldest->buffer] : queue->batch_length;
		if (take_one(queue, oldest->id, length, &buffers[taken++]))
			return -EPROTO;
		if (++queue->outstanding_tail == queue->options.size)
			queue->outstanding_tail = 0;
		if (queue->options.packed)
			packed_skip(queue);
		queue->in_flight--;
	}

	return (int)taken;
}

/* With VIRTIO_RING_F_EVENT_IDX flags are ignored: silence means keeping used_event behind the device (2.7.7). */
static void stay_quiet(struct virtqueue_driver *queue)
{
	uint16_t behind = (uint16_t)(queue->last_used - 1);

	if ((uint16_t)(behind - *queue->used_event) >= QUIET_DISTANCE)
		__atomic_store_n(queue->used_event, behind, __ATOMIC_RELAXED);
}

/**
 * virtqueue_driver_take() - collect buffers that the device is done with.
 * @queue:	queue
 * @buffers:	receives them
 * @count:	how many at most
 *
 * Return: how many; -EPROTO if the device names a buffer that it does not have, or writes more than there is room for.
 */
int virtqueue_driver_take(struct virtqueue_driver *queue, struct driver_buffer *buffers, unsigned int count)
{
	int taken;

	if (queue->options.in_order) {
		taken = take_in_order(queue, buffers, count);
	} else {
		taken = queue->options.packed ? take_packed(queue, buffers, count) : take_split(queue, buffers, count);
		if (taken > 0)
			queue->in_flight = (uint16_t)(queue->in_flight - taken);
	}
	if (taken > 0 && queue->options.event_index && !queue->options.packed && !queue->calls_enabled)
		stay_quiet(queue);

	return taken;
}

/* ---- calls ---- */

/**
 * virtqueue_driver_enable_calls() - ask to be called when the device uses the next buffer.
 * @queue:	queue
 *
 * Return: true if something is already there, so that no call may come for it: take it before sleeping.
 */
bool virtqueue_driver_enable_calls(struct virtqueue_driver *queue)
{
	queue->calls_enabled = true;
	if (queue->options.packed) {
		uint16_t wrap = queue->used_wrap ? (uint16_t)PACKED_WRAP_FLAG : 0;

		queue->driver_event->off_wrap = (uint16_t)(queue->last_used | wrap);
		__atomic_store_n(&queue->driver_event->flags,
				 (uint16_t)(queue->options.event_index ? VRING_PACKED_EVENT_FLAG_DESC
								       : VRING_PACKED_EVENT_FLAG_ENABLE),
				 __ATOMIC_RELEASE);
	} else if (queue->options.event_index) {
		__atomic_store_n(queue->used_event, queue->last_used, __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(&queue->avail->flags, (uint16_t)0, __ATOMIC_RELAXED);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);

	if (queue->batch_left)
		return true;
	if (queue->options.packed)
		return packed_is_used(queue);
	return __atomic_load_n(&queue->used->idx, __ATOMIC_ACQUIRE) != queue->last_used;
}

/**
 * virtqueue_driver_disable_calls() - ask not to be called: we poll.
 * @queue:	queue
 */
void virtqueue_driver_disable_calls(struct virtqueue_driver *queue)
{
	queue->calls_enabled = false;
	if (queue->options.packed)
		__atomic_store_n(&queue->driver_event->flags, (uint16_t)VRING_PACKED_EVENT_FLAG_DISABLE,
				 __ATOMIC_RELAXED);
	else if (queue->options.event_index)
		__atomic_store_n(queue->used_event, (uint16_t)(queue->last_used - 1), __ATOMIC_RELAXED);
	else
		__atomic_store_n(&queue->avail->flags, (uint16_t)VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
}
