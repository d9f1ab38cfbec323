/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of a virtqueue, split (virtio 1.3 2.7) and packed (2.8), made to cost next to nothing.
 *
 * Theory of operation
 * -------------------
 * A queue has a fixed set of buffers, each of the same number of segments, whose descriptors are prebuilt. Giving a
 * buffer to the device and taking it back then moves no more than the ring itself:
 *
 *	set_segment() ...	once
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
#include <stdlib.h>
#include <string.h>

#define RING_ALIGNMENT	 4096u
#define PACKED_AVAIL	 (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED	 (1u << VRING_PACKED_DESC_F_USED)
#define PACKED_WRAP_FLAG (1u << VRING_PACKED_EVENT_F_WRAP_CTR)
#define QUIET_DISTANCE	 0x4000u

static size_t align_up(size_t value, size_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

/* Where things lie inside the memory of a queue: descriptors | driver area | device area | indirect tables. */
struct layout {
	size_t driver;
	size_t device;
	size_t tables;
	size_t end;
};

static struct layout layout_of(const struct virtqueue_driver_options *options)
{
	size_t size = options->size;
	struct layout layout;

	layout.driver = align_up(size * sizeof(struct vring_desc), RING_ALIGNMENT);
	if (options->packed) {
		layout.device = layout.driver + RING_ALIGNMENT;
		layout.tables = layout.device + RING_ALIGNMENT;
	} else {
		layout.device = align_up(layout.driver + (3 + size) * sizeof(uint16_t), RING_ALIGNMENT);
		layout.tables = align_up(layout.device + 3 * sizeof(uint16_t) + size * sizeof(struct vring_used_elem),
					 RING_ALIGNMENT);
	}
	layout.end = layout.tables;
	if (options->indirect)
		layout.end += align_up(size * options->segments * sizeof(struct vring_desc), RING_ALIGNMENT);

	return layout;
}

/**
 * virtqueue_driver_memory_size() - memory that a queue needs.
 * @options:	its form
 *
 * Return: bytes, to be aligned to 4096.
 */
size_t virtqueue_driver_memory_size(const struct virtqueue_driver_options *options)
{
	return layout_of(options).end;
}

static int allocate_private(struct virtqueue_driver *queue)
{
	size_t descriptors = (size_t)queue->buffers * queue->descriptors;

	queue->segment = calloc(descriptors, sizeof(*queue->segment));
	queue->writable = calloc(queue->buffers, sizeof(*queue->writable));
	queue->owner = calloc(queue->options.size, sizeof(*queue->owner));
	queue->outstanding = calloc(queue->options.size, sizeof(*queue->outstanding));
	if (!queue->segment || !queue->writable || !queue->owner || !queue->outstanding)
		return -ENOMEM;

	return 0;
}

/* Links and indirect pointers never change after this; addresses and lengths come with set_segment(). */
static void prebuild(struct virtqueue_driver *queue)
{
	const struct virtqueue_driver_options *options = &queue->options;
	size_t table_size = options->segments * sizeof(struct vring_desc);

	for (unsigned int buffer = 0; buffer < queue->buffers; buffer++) {
		for (unsigned int i = 0; i < queue->descriptors; i++) {
			struct virtqueue_segment *segment = &queue->segment[buffer * queue->descriptors + i];

			if (options->indirect)
				*segment = (struct virtqueue_segment){ queue->tables_address + buffer * table_size,
								       (uint32_t)table_size, VRING_DESC_F_INDIRECT };
			else if (i + 1u < queue->descriptors)
				segment->flags = VRING_DESC_F_NEXT;
		}
	}

	if (options->packed)
		return;
	for (unsigned int i = 0; i < options->size; i++) {
		unsigned int buffer = i / queue->descriptors;

		queue->desc[i].next = (uint16_t)((i + 1) & (options->size - 1u));
		if (buffer < queue->buffers) {
			queue->desc[i].addr = queue->segment[i].address;
			queue->desc[i].len = queue->segment[i].length;
			queue->desc[i].flags = queue->segment[i].flags;
		}
	}
}

/**
 * virtqueue_driver_init() - set up an empty queue that polls.
 * @queue:		written from scratch; release it whatever this returns
 * @options:		its form
 * @memory:		virtqueue_driver_memory_size() zeroed bytes of guest memory, aligned to 4096
 * @guest_address:	its guest physical address
 *
 * Return: 0, -EINVAL for a form that the standard does not allow, -ENOMEM.
 */
int virtqueue_driver_init(struct virtqueue_driver *queue, const struct virtqueue_driver_options *options, void *memory,
			  uint64_t guest_address)
{
	struct layout layout;
	uint8_t *base = memory;
	int error;

	*queue = (struct virtqueue_driver){ .options = *options };
	if (options->segments == 0 || options->segments > VIRTQUEUE_DRIVER_SEGMENTS_MAX)
		return -EINVAL;
	if (options->size == 0 || options->size > VIRTQUEUE_DRIVER_SIZE_MAX ||
	    (!options->packed && (options->size & (options->size - 1))))
		return -EINVAL;

	queue->descriptors = options->indirect ? 1 : options->segments;
	queue->buffers = options->size / queue->descriptors;
	if (queue->buffers == 0)
		return -EINVAL;

	layout = layout_of(options);
	if (options->packed) {
		queue->ring = memory;
		queue->driver_event = (void *)(base + layout.driver);
		queue->device_event = (void *)(base + layout.device);
	} else {
		queue->desc = memory;
		queue->avail = (void *)(base + layout.driver);
		queue->used = (void *)(base + layout.device);
		queue->used_event = &queue->avail->ring[options->size];
		queue->avail_event = (uint16_t *)&queue->used->ring[options->size];
	}
	queue->tables = base + layout.tables;
	queue->tables_address = guest_address + layout.tables;
	queue->wrap = true;
	queue->used_wrap = true;

	error = allocate_private(queue);
	if (error)
		return error;
	prebuild(queue);
	virtqueue_driver_disable_calls(queue);

	return 0;
}

/**
 * virtqueue_driver_release() - give back the private memory.
 * @queue:	a queue that virtqueue_driver_init() has seen
 */
void virtqueue_driver_release(struct virtqueue_driver *queue)
{
	free(queue->segment);
	free(queue->writable);
	free(queue->owner);
	free(queue->outstanding);
	queue->segment = NULL;
	queue->writable = NULL;
	queue->owner = NULL;
	queue->outstanding = NULL;
}

/* Return: bytes of this segment that the device could write before. */
static uint32_t write_table_entry(struct virtqueue_driver *queue, unsigned int buffer, unsigned int segment,
				  const struct virtqueue_segment *value)
{
	size_t index = (size_t)buffer * queue->options.segments + segment;
	uint32_t writable;

	if (queue->options.packed) {
		/* 2.8.7: no NEXT in a table of a packed ring, its length says it all; ids are reserved. */
		struct vring_packed_desc *entry = (struct vring_packed_desc *)queue->tables + index;

		writable = entry->flags & VRING_DESC_F_WRITE ? entry->len : 0;
		entry->addr = value->address;
		entry->len = value->length;
		entry->flags = value->flags & VRING_DESC_F_WRITE;
	} else {
		struct vring_desc *entry = (struct vring_desc *)queue->tables + index;

		writable = entry->flags & VRING_DESC_F_WRITE ? entry->len : 0;
		entry->addr = value->address;
		entry->len = value->length;
		entry->flags = value->flags;
		entry->next = (uint16_t)(segment + 1);
	}

	return writable;
}

/**
 * virtqueue_driver_set_segment() - say where a buffer's segment lies.
 * @queue:		queue
 * @buffer:		buffer number, not in flight
 * @segment:		0 to options.segments - 1; those that the device writes come last (2.7.4.2)
 * @address:		guest physical address
 * @length:		bytes
 * @device_writes:	the device writes it, and does not read it
 */
void virtqueue_driver_set_segment(struct virtqueue_driver *queue, unsigned int buffer, unsigned int segment,
				  uint64_t address, uint32_t length, bool device_writes)
{
	bool last = segment + 1u == queue->options.segments;
	struct virtqueue_segment value = {
		.address = address,
		.length = length,
		.flags = (uint16_t)((last ? 0 : VRING_DESC_F_NEXT) | (device_writes ? VRING_DESC_F_WRITE : 0)),
	};
	size_t index = (size_t)buffer * queue->descriptors + segment;

	if (device_writes) {
		queue->reads_lengths = true;
		queue->writable[buffer] += length;
	}
	if (queue->options.indirect) {
		queue->writable[buffer] -= write_table_entry(queue, buffer, segment, &value);
		return;
	}

	if (queue->segment[index].flags & VRING_DESC_F_WRITE)
		queue->writable[buffer] -= queue->segment[index].length;
	queue->segment[index] = value;
	if (!queue->options.packed) {
		queue->desc[index].addr = value.address;
		queue->desc[index].len = value.length;
		queue->desc[index].flags = value.flags;
	}
}

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
		uint16_t head = queue->options.in_order ? place_in_order(queue, buffer) :
							  (uint16_t)(buffer * queue->descriptors);

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

static inline int take_one(struct virtqueue_driver *queue, uint32_t id, uint32_t length,
			   struct driver_buffer *buffer)
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
				 (uint16_t)(queue->options.event_index ? VRING_PACKED_EVENT_FLAG_DESC :
									 VRING_PACKED_EVENT_FLAG_ENABLE),
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

/**
 * virtqueue_driver_descriptor_area() - for SET_VRING_ADDR.
 * @queue:	queue
 *
 * Return: descriptor table or ring.
 */
const void *virtqueue_driver_descriptor_area(const struct virtqueue_driver *queue)
{
	return queue->options.packed ? (const void *)queue->ring : (const void *)queue->desc;
}

/**
 * virtqueue_driver_driver_area() - for SET_VRING_ADDR.
 * @queue:	queue
 *
 * Return: avail ring or driver event suppression.
 */
const void *virtqueue_driver_driver_area(const struct virtqueue_driver *queue)
{
	return queue->options.packed ? (const void *)queue->driver_event : (const void *)queue->avail;
}

/**
 * virtqueue_driver_device_area() - for SET_VRING_ADDR.
 * @queue:	queue
 *
 * Return: used ring or device event suppression.
 */
const void *virtqueue_driver_device_area(const struct virtqueue_driver *queue)
{
	return queue->options.packed ? (const void *)queue->device_event : (const void *)queue->used;
}
