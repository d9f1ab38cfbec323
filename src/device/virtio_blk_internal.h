/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk: what the device (virtio_blk.c) and its requests (virtio_blk_request.c, virtio_blk_ranges.c) share.
 */
#ifndef DEVICE_VIRTIO_BLK_INTERNAL_H
#define DEVICE_VIRTIO_BLK_INTERNAL_H

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdatomic.h>

#include "base/checked.h"
#include "device/virtio_blk.h"

/** All sizes on the wire are in these, whatever the block size (virtio 1.3 5.2.4). */
#define SECTOR_SIZE 512U

/** The most ranges of one discard or write zeroes request. */
#define DISCARD_RANGES_MAX	16U
#define WRITE_ZEROES_RANGES_MAX 8U

/** Segments that a request holds by itself: 4 KiB and 16 KiB requests need no more. */
#define INLINE_SEGMENTS 4U

/** The most chains taken from the ring at once. */
#define BATCH 32U

/**
 * Where requests with more segments keep them: blocks of two sizes in fixed number for each queue. The large ones hold
 * whatever the ring lets through, so that every legal chain can be served; the medium ones what drivers do that honour
 * seg_max.
 */
enum segment_class {
	SEGMENTS_INLINE,
	SEGMENTS_MEDIUM,
	SEGMENTS_LARGE,
};

#define MEDIUM_SEGMENTS 128U
#define MEDIUM_BLOCKS	64U
#define LARGE_SEGMENTS	CHAIN_SEGMENTS_MAX
#define LARGE_BLOCKS	4U

/** struct blk_range - one range of a discard or write zeroes request, checked. Kept where segments would be. */
struct blk_range {
	uint64_t offset, length;
};

_Static_assert(sizeof(struct blk_range) == sizeof(struct guest_segment), "ranges lie where segments do");
_Static_assert(WRITE_ZEROES_RANGES_MAX <= DISCARD_RANGES_MAX, "room is made for the larger of both");
_Static_assert(DISCARD_RANGES_MAX <= MEDIUM_SEGMENTS, "one medium block holds all ranges of a request");

/** struct blk_request - one chain under way. There is one for each chain id, so a request needs no search. */
struct blk_request {
	struct block_request io;
	struct blk_queue *queue;
	guest_byte *status;
	uint32_t type;	  /* VIRTIO_BLK_T_* */
	uint32_t written; /* used length when all goes well */
	uint64_t cost;	  /* bytes that it takes of its turn */
	uint16_t id, slots;
	bool busy;
	bool submitting, completed_inline; /* see virtio_blk_ranges.c */
	uint8_t segment_class;		   /* enum segment_class */
	uint8_t range_next, range_count;
	struct blk_range *ranges;
	struct guest_segment inline_segments[INLINE_SEGMENTS];
};

/** struct blk_queue - a running queue. Made by queue_start, freed by queue_stopped; in between its sidecore's. */
struct blk_queue {
	struct virtio_queue *queue;
	struct virtio_blk *blk;
	struct block_channel *channel;
	struct virtio_blk_counters *counters;
	struct block_batch_end batch_end;
	bool in_turn;			/* the turn publishes by itself when it ends */
	uint64_t turn_began;		/* clock_cycles() */
	void *medium_free, *large_free; /* blocks, each beginning with a pointer to the next */
	struct guest_segment *blocks;
	struct segment_pool pool;
	struct chain chains[BATCH];
	struct blk_request *requests; /* by chain id */
};

struct virtio_blk {
	struct virtio_device device;
	struct disk *disk;
	bool acquired;		   /* disk_acquire(); control thread */
	struct disk_limits limits; /* as at creation; the size is below */
	_Atomic uint64_t size;	   /* bytes that the guest may address */
	atomic_bool writeback;	   /* the driver's choice (virtio 1.3 5.2.5: writeback field) */
	uint64_t cache_features;   /* FLUSH and CONFIG_WCE as last acknowledged */
	atomic_bool durable;	   /* what follows from it and from the features: writes are write-through */
	char name_storage[64];
	struct virtio_blk_counters counters[VIRTIO_BLK_QUEUES_MAX]; /* by queue; outlive it */
};

static inline struct virtio_blk *virtio_blk_of(const struct virtio_device *device)
{
	return container_of(device, struct virtio_blk, device);
}

/* virtio_blk_request.c */

/** blk_queue_create() - make all that requests of @queue need. Return: 0 or -ENOMEM. */
int blk_queue_create(struct virtio_queue *queue, struct block_channel *channel, struct blk_queue **made);
void blk_queue_destroy(struct blk_queue *blk_queue);

/** blk_queue_poll() - one turn. Return: requests taken. */
unsigned blk_queue_poll(struct virtio_queue *queue, const struct turn *turn);

/** blk_request_finish() - the end of a request: answer and give everything back. Publishing is up to the caller. */
void blk_request_finish(struct blk_request *request, uint8_t status);

/** blk_status_of() - VIRTIO_BLK_S_* for what a backend says. */
static inline uint8_t blk_status_of(int error)
{
	if (likely(!error))
		return VIRTIO_BLK_S_OK;
	return error == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/** blk_check_range() - is [@sector, +@length) one that the guest may address, in whole blocks? @offset: out, in bytes. */
static inline bool blk_check_range(const struct virtio_blk *blk, uint64_t sector, uint64_t length, uint64_t *offset)
{
	uint64_t mask = blk->limits.block_size - 1U;

	if (unlikely(!checked_multiply(sector, SECTOR_SIZE, offset)))
		return false;
	return likely(range_inside(*offset, length, atomic_load_explicit(&blk->size, memory_order_relaxed)) &&
		      !((*offset | length) & mask));
}

/* virtio_blk_ranges.c */

/** blk_ranges_start() - begin a discard or write zeroes request. */
void blk_ranges_start(struct blk_request *request, const struct chain *chain);

/** blk_ranges_complete() - the disk is done with one range, and says @status. */
void blk_ranges_complete(struct blk_request *request, int status);

#endif
