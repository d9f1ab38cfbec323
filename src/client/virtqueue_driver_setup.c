/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is done once for a driver's virtqueue: where its parts lie in guest memory, and descriptors that are built in
 * advance. Theory of operation: client/virtqueue_driver.c.
 */
#include "client/virtqueue_driver.h"

#include <errno.h>
#include <stdlib.h>

#define RING_ALIGNMENT 4096u

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
