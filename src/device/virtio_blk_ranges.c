/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Discard and write zeroes: virtio-blk requests of several ranges (virtio 1.3 5.2.6.2).
 *
 * Theory of operation
 * -------------------
 * All ranges are read and checked before the first is started; they are then done one after the other, and the first
 * failure ends the request. While a range is being submitted its completion only sets a flag, so that a disk that
 * completes at once makes a loop here and not a recursion. The checked ranges lie where other requests have segments.
 *
 * Context: sidecore.
 */
#include <endian.h>

#include "device/virtio_blk_chain.h"

/* Does range after range until one is under way, fails, or all are done. */
static void submit_ranges(struct blk_request *request)
{
	struct block_request *io = &request->io;

	while (request->range_next < request->range_count) {
		const struct blk_range *range = &request->ranges[request->range_next++];

		io->offset = range->offset;
		io->length = range->length;
		io->segment_count = 0;
		request->completed_inline = false;
		request->submitting = true;
		block_submit(request->queue->channel, io);
		request->submitting = false;
		if (!request->completed_inline)
			return;
		if (io->status) {
			blk_request_finish(request, blk_status_of(io->status));
			return;
		}
	}
	blk_request_finish(request, VIRTIO_BLK_S_OK);
}

void blk_ranges_complete(struct blk_request *request, int status)
{
	if (request->submitting) {
		request->io.status = status;
		request->completed_inline = true;
		return;
	}
	if (status) {
		blk_request_finish(request, blk_status_of(status));
		return;
	}
	submit_ranges(request);
	/* The next range must not wait for the queue's next turn, which may not come while the queue drains. */
	block_at_batch_end(request->queue->channel, &request->queue->batch_end);
}

/* Checks one range on its local copy. Return: VIRTIO_BLK_S_*. */
static uint8_t check_zone(struct blk_request *request, const struct virtio_blk_discard_write_zeroes *zone,
			  struct blk_range *range)
{
	const struct virtio_blk *blk = request->queue->blk;
	bool discard = request->type == VIRTIO_BLK_T_DISCARD;
	uint64_t limit = discard ? blk->limits.discard_max : blk->limits.write_zeroes_max;
	uint32_t flags = le32toh(zone->flags);

	/* virtio 1.3 5.2.6.2: unknown flags, and unmap in a discard, are unsupported. */
	if (flags & ~(discard ? 0U : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	range->length = (uint64_t)le32toh(zone->num_sectors) * SECTOR_SIZE;
	if (!range->length || range->length > limit ||
	    !blk_check_range(blk, le64toh(zone->sector), range->length, &range->offset))
		return VIRTIO_BLK_S_IOERR;
	/* One request, one kind of zeroing: unmapping is only a permission, so it needs every range's consent. */
	request->io.may_unmap = request->io.may_unmap && (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	return VIRTIO_BLK_S_OK;
}

void blk_ranges_start(struct blk_request *request, const struct chain *chain)
{
	const struct virtio_blk *blk = request->queue->blk;
	bool discard = request->type == VIRTIO_BLK_T_DISCARD;
	struct virtio_blk_discard_write_zeroes zones[DISCARD_RANGES_MAX];
	size_t length = chain->readable_length - sizeof(struct virtio_blk_outhdr);
	size_t count = length / sizeof(zones[0]);
	uint8_t status = VIRTIO_BLK_S_OK;

	if (!(discard ? blk->limits.discard : blk->limits.write_zeroes) && !blk->limits.read_only) {
		blk_request_finish(request, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (blk->limits.read_only || !count || length % sizeof(zones[0]) ||
	    count > (discard ? DISCARD_RANGES_MAX : WRITE_ZEROES_RANGES_MAX)) {
		blk_request_finish(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	blk_read_segments(chain->segments, sizeof(struct virtio_blk_outhdr), zones, length);

	request->io.operation = discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
	request->io.may_unmap = blk->limits.write_zeroes_unmap;
	request->io.durable = atomic_load_explicit(&blk->durable, memory_order_relaxed);
	request->ranges = (struct blk_range *)(void *)request->io.segments;
	for (size_t i = 0; i < count && status == VIRTIO_BLK_S_OK; i++)
		status = check_zone(request, &zones[i], &request->ranges[i]);
	if (status != VIRTIO_BLK_S_OK) {
		blk_request_finish(request, status);
		return;
	}
	/* The disk may do it at once, in memory: the turn pays for the ranges, not for the few bytes that name them. */
	for (size_t i = 0; i < count; i++)
		request->cost += request->ranges[i].length;
	request->range_count = (uint8_t)count;
	submit_ranges(request);
}
