/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_VIRTQUEUE_DRIVER_H
#define CLIENT_VIRTQUEUE_DRIVER_H

#include "client/driver_buffer.h"

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VIRTQUEUE_DRIVER_SIZE_MAX     32768
#define VIRTQUEUE_DRIVER_SEGMENTS_MAX 16

/* SET_VRING_BASE of a packed ring that starts at 0: both wrap counters begin at 1 (virtio 1.3 2.8.1). */
#define VIRTQUEUE_DRIVER_PACKED_BASE 0x80008000u

/**
 * struct virtqueue_driver_options - the form of a virtqueue.
 * @size:	descriptors; a power of two for a split ring
 * @segments:	segments of each buffer
 * @packed:	VIRTIO_F_RING_PACKED is in force
 * @event_index: VIRTIO_RING_F_EVENT_IDX is in force
 * @in_order:	VIRTIO_F_IN_ORDER is in force
 * @indirect:	put each buffer's segments in a table of its own (VIRTIO_RING_F_INDIRECT_DESC is in force)
 */
struct virtqueue_driver_options {
	uint16_t size;
	uint16_t segments;
	bool packed;
	bool event_index;
	bool in_order;
	bool indirect;
};

/**
 * struct virtqueue_segment - one prebuilt descriptor; private, so that a look at it never touches shared lines.
 * @address:	guest physical address
 * @length:	bytes
 * @flags:	VRING_DESC_F_NEXT, _WRITE, _INDIRECT
 */
struct virtqueue_segment {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
};

/**
 * struct virtqueue_outstanding - a buffer that the device has; kept in the order of availability.
 * @buffer:	its number
 * @id:		how the device will name it: first descriptor (split) or buffer id (packed)
 */
struct virtqueue_outstanding {
	uint16_t buffer;
	uint16_t id;
};

/**
 * struct virtqueue_driver - driver's side of one virtqueue.
 * @options:		its form
 * @buffers:		how many buffers it holds
 * @descriptors:	ring descriptors that each buffer takes: its segments, or 1 when indirect
 * @reads_lengths:	some segment is written by the device, so lengths in used entries matter
 * @desc:		split: descriptor table
 * @avail:		split: driver area
 * @used:		split: device area
 * @used_event:		split: our wish to be called, VIRTIO_RING_F_EVENT_IDX
 * @avail_event:	split: the device's wish to be kicked, VIRTIO_RING_F_EVENT_IDX
 * @ring:		packed: descriptor ring
 * @driver_event:	packed: driver event suppression
 * @device_event:	packed: device event suppression
 * @tables:		indirect tables, one of options.segments entries for each buffer
 * @tables_address:	their guest physical address
 * @segment:		prebuilt descriptors, [buffer * descriptors + n]
 * @writable:		bytes that the device may write, by buffer
 * @owner:		by id as the device names it: buffer number + 1 while outstanding, else 0
 * @outstanding:	in-order: ring of what the device has, oldest first
 * @outstanding_head:	in-order: where the next buffer made available goes
 * @outstanding_tail:	in-order: the oldest buffer that the device has
 * @batch_left:		in-order: buffers that the last used entry released and that were not yet returned
 * @batch_length:	in-order: length of the last of them
 * @position:		next descriptor to write: in-order split and packed
 * @wrap:		packed: driver's wrap counter
 * @avail_index:	split: free-running count of chains, published or staged
 * @published:		split: avail_index as the device sees it; packed: position at the last publish
 * @staged:		descriptors (packed) or chains (split) written since the last publish
 * @staged_position:	packed: where the staged batch begins
 * @staged_flags:	packed: flags that make it available; written last
 * @last_used:		split: free-running count of chains taken back; packed: position
 * @used_index:		split: used->idx when it was last looked at
 * @used_wrap:		packed: device's wrap counter as we expect it
 * @in_flight:		buffers that the device has
 * @calls_enabled:	we asked to be called
 */
struct virtqueue_driver {
	struct virtqueue_driver_options options;
	uint16_t buffers;
	uint16_t descriptors;
	bool reads_lengths;

	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t *used_event;
	uint16_t *avail_event;

	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event;
	struct vring_packed_desc_event *device_event;

	void *tables;
	uint64_t tables_address;

	struct virtqueue_segment *segment;
	uint32_t *writable;
	uint16_t *owner;
	struct virtqueue_outstanding *outstanding;
	uint16_t outstanding_head;
	uint16_t outstanding_tail;
	uint16_t batch_left;
	uint32_t batch_length;

	uint16_t position;
	bool wrap;
	uint16_t avail_index;
	uint16_t published;
	uint16_t staged;
	uint16_t staged_position;
	uint16_t staged_flags;
	uint16_t last_used;
	uint16_t used_index;
	bool used_wrap;
	uint16_t in_flight;
	bool calls_enabled;
};

size_t virtqueue_driver_memory_size(const struct virtqueue_driver_options *options);
int virtqueue_driver_init(struct virtqueue_driver *queue, const struct virtqueue_driver_options *options, void *memory,
			  uint64_t guest_address);
void virtqueue_driver_release(struct virtqueue_driver *queue);

void virtqueue_driver_set_segment(struct virtqueue_driver *queue, unsigned int buffer, unsigned int segment,
				  uint64_t address, uint32_t length, bool device_writes);

void virtqueue_driver_add(struct virtqueue_driver *queue, const struct driver_buffer *buffers, unsigned int count);
bool virtqueue_driver_publish(struct virtqueue_driver *queue);
int virtqueue_driver_take(struct virtqueue_driver *queue, struct driver_buffer *buffers, unsigned int count);

bool virtqueue_driver_enable_calls(struct virtqueue_driver *queue);
void virtqueue_driver_disable_calls(struct virtqueue_driver *queue);

const void *virtqueue_driver_descriptor_area(const struct virtqueue_driver *queue);
const void *virtqueue_driver_driver_area(const struct virtqueue_driver *queue);
const void *virtqueue_driver_device_area(const struct virtqueue_driver *queue);

#endif
