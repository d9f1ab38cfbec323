/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight tracking: which chains a disk has taken and not given back yet, kept in memory that outlives us (vhost-user
 * "Inflight I/O tracking"), so that a back-end that crashed resubmits them, in order, when it comes back.
 * Theory of operation: ring/inflight.c.
 *
 * An *area* is the shared file of one device; the front-end keeps it. A virtqueue_inflight is one queue's region of it,
 * from virtqueue_inflight_open() to virtqueue_inflight_close(); it goes into virtqueue_config.inflight.
 *
 * What the ring calls when config.inflight is not NULL (same sidecore as the queue):
 *
 *	pop	while virtqueue_inflight_next_replay() says yes: walk that chain (split: from head replay.id; packed:
 *		over replay.descriptors, none of it read from the ring), then virtqueue_inflight_take_replay().
 *		avail_next does not move: it already stands behind these chains (virtqueue_inflight_open() told the
 *		bases). After that, for each chain of the ring, when it has been walked: virtqueue_inflight_take();
 *		false: break the queue with VIRTQUEUE_BAD_HEAD (the driver made an id available that it has not got
 *		back).
 *	pending, arm	virtqueue_inflight_replays() > 0 is work, too.
 *	unpop	virtqueue_inflight_untake(); true: it was a replay, leave avail_next alone.
 *	push	virtqueue_inflight_push().
 *	publish	virtqueue_inflight_publishing() just before the store that shows the batch to the driver (split: used
 *		idx; packed: flags of the first descriptor, which must be a release store or stand behind one), then
 *		virtqueue_inflight_published() right after it. Nothing in between.
 *
 * Context: open and close on the control thread while the queue is stopped; the rest on the queue's sidecore.
 */
#ifndef RING_INFLIGHT_H
#define RING_INFLIGHT_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "memory/guest_memory.h"

struct inflight_area;
struct virtqueue_inflight;

/** struct inflight_description - payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD, as on the wire. */
struct inflight_description {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint8_t padding[4];
};

/**
 * inflight_area_size() - bytes of an area.
 *
 * Return: 0 when the counts are impossible (zero, queue size above VIRTQUEUE_SIZE_MAX).
 */
uint64_t inflight_area_size(uint16_t queues, uint16_t queue_size, bool packed);

/**
 * inflight_area_create_fd() - a new, empty area as a sealed memfd, for GET_INFLIGHT_FD.
 * @description:	in: counts; out: size and offset
 *
 * Return: the fd, the caller's; -EINVAL; errno of memfd_create and the like.
 */
int inflight_area_create_fd(struct inflight_description *description, bool packed);

/**
 * inflight_area_map() - use the area that SET_INFLIGHT_FD brought.
 * @fd:		stays the caller's
 *
 * Return: 0; -EMEDIUMTYPE when the file is not memory (base/file_kind.h); -EINVAL when counts and sizes do not fit each
 * other or the file; mmap's errno.
 */
int inflight_area_map(int fd, const struct inflight_description *description, bool packed, struct inflight_area **area);

/** inflight_area_unmap() - every queue's region has been closed. NULL is allowed. */
void inflight_area_unmap(struct inflight_area *area);

/** inflight_area_forget() - the device was reset: nothing is in flight any more. All regions are closed. */
void inflight_area_forget(struct inflight_area *area);

/** struct inflight_ring - what virtqueue_inflight_open() must know of the queue's ring. */
struct inflight_ring {
	guest_byte *descriptors; /* split: table; packed: ring */
	uint16_t size;
	uint16_t used_index; /* split: idx of the used ring in guest memory; packed: used base as configured */
	bool packed;
};

/**
 * virtqueue_inflight_open() - recover queue @index's region, or make it ready when it is empty.
 * @avail_base, @used_base:	in: as the front-end told; out: where the queue must start, in the encoding of struct
 *				virtqueue_config
 *
 * Return: 0; -EINVAL when area and ring do not fit each other or the region's contents are impossible; -ENOMEM.
 */
int virtqueue_inflight_open(struct inflight_area *area, uint16_t index, const struct inflight_ring *ring,
			    uint16_t *avail_base, uint16_t *used_base, struct virtqueue_inflight **inflight);

/** virtqueue_inflight_close() - what is still in flight stays so in the region. NULL is allowed. */
void virtqueue_inflight_close(struct virtqueue_inflight *inflight);

/** virtqueue_inflight_damaged() - the file behind the area shrank. */
bool virtqueue_inflight_damaged(const struct virtqueue_inflight *inflight);

/**
 * struct inflight_replay - a chain that was in flight when the back-end went away.
 * @id:			split: head; packed: buffer id
 * @slots:		packed: descriptors of the chain; split: 1
 * @descriptors:	packed: private copies of the chain's @slots ring descriptors (AVAIL and USED bits mean
 *			nothing); split: NULL. As hostile as those in the ring
 */
struct inflight_replay {
	uint16_t id;
	uint16_t slots;
	const struct vring_packed_desc *descriptors;
};

/** virtqueue_inflight_next_replay() - look at the next chain to resubmit. Return: false when there is none. */
bool virtqueue_inflight_next_replay(const struct virtqueue_inflight *inflight, struct inflight_replay *replay);

/** virtqueue_inflight_take_replay() - the chain that virtqueue_inflight_next_replay() showed has been popped. */
void virtqueue_inflight_take_replay(struct virtqueue_inflight *inflight);

/** virtqueue_inflight_replays() - chains still to resubmit. */
unsigned virtqueue_inflight_replays(const struct virtqueue_inflight *inflight);

/**
 * virtqueue_inflight_take() - a chain has been popped from the ring.
 * @id:			below the ring's size
 * @position, @slots:	packed: where its descriptors lie in the ring (they are saved from there); split: 0, 1
 *
 * Return: false when @id is in flight already.
 */
bool virtqueue_inflight_take(struct virtqueue_inflight *inflight, uint16_t id, uint16_t position, uint16_t slots);

/** virtqueue_inflight_untake() - undo the last take, or take_replay. Return: true when it was a replay. */
bool virtqueue_inflight_untake(struct virtqueue_inflight *inflight, uint16_t id);

/** virtqueue_inflight_push() - chain @id goes into the batch that is published next. */
void virtqueue_inflight_push(struct virtqueue_inflight *inflight, uint16_t id);

/**
 * virtqueue_inflight_publishing() - the batch is about to be shown.
 * @used_next, @used_wrap:	where the device will write used entries after the batch (split: used idx, wrap ignored)
 */
void virtqueue_inflight_publishing(struct virtqueue_inflight *inflight, uint16_t used_next, bool used_wrap);

/** virtqueue_inflight_published() - the driver sees the batch: its chains are no longer in flight. */
void virtqueue_inflight_published(struct virtqueue_inflight *inflight);

#endif
