/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk requests: from chains to the disk and back (virtio 1.3 5.2.6).
 *
 * Trust boundary. A chain comes from the guest. The ring has checked its framing; what its bytes say is read here once,
 * into locals, checked, and only the locals are used. A chain that is no request at all (shorter than a header, no
 * place for a status) breaks its queue; a request that asks for something impossible is answered with an error status.
 *
 * Theory of operation
 * -------------------
 * A request may have any layout: device/virtio_blk_chain.h.
 *
 * A turn pops batches of chains within its bounds, makes requests of them and submits them. Requests are preallocated,
 * one for each chain id. A chain whose id is still under way breaks the queue: the driver made available what it had
 * not got back. Segments live in the ring's pool only during the turn, so each request has a copy: a few inside the
 * request, more in a block from the queue's fixed store. When the store is empty the turn stops before that chain;
 * completions refill it, and since they happen only if something is under way, the chain cannot be stuck.
 *
 * A completion writes the status, marks written memory in the dirty log, and pushes the used entry. Publishing and the
 * interrupt are done once for many: at the end of the turn for requests that completed inside it, else at the end of
 * the batch in which the backend delivers completions (block_at_batch_end()).
 *
 * Discard and write zeroes, which may have several ranges, continue in device/virtio_blk_ranges.c.
 *
 * Used length: a successful read tells its data and the status byte, the others the one byte of status (2.7.8).
 *
 * Context: sidecore; creation and destruction on the control thread while the queue is stopped.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/counter.h"
#include "device/virtio_blk_chain.h"

/*
 * Bytes say how long a request takes only as long as memory is there. One that touches a huge page for the first time
 * has the kernel clear 2 MiB for its 512 bytes. So now and then a turn looks at the clock, too: 0.3 to 0.5 ms on x86.
 */
#define TURN_CYCLES	  (1ULL << 20)
#define REQUESTS_PER_LOOK 4U

static const struct {
	unsigned segments, blocks;
} classes[] = {
	[SEGMENTS_MEDIUM] = { MEDIUM_SEGMENTS, MEDIUM_BLOCKS },
	[SEGMENTS_LARGE] = { LARGE_SEGMENTS, LARGE_BLOCKS },
};

static void **free_list(struct blk_queue *blk_queue, enum segment_class kind)
{
	return kind == SEGMENTS_MEDIUM ? &blk_queue->medium_free : &blk_queue->large_free;
}

static void give_block(struct blk_queue *blk_queue, enum segment_class kind, void *block)
{
	void **list = free_list(blk_queue, kind);

	*(void **)block = *list;
	*list = block;
}

static struct guest_segment *make_blocks(struct blk_queue *blk_queue, enum segment_class kind,
					 struct guest_segment *memory)
{
	for (unsigned i = 0; i < classes[kind].blocks; i++, memory += classes[kind].segments)
		give_block(blk_queue, kind, memory);
	return memory;
}

static void request_complete(struct block_request *io, int status);
static void run_batch_end(struct block_batch_end *end);

int blk_queue_create(struct virtio_queue *queue, struct block_channel *channel, struct blk_queue **made)
{
	uint16_t size = queue->ring.config.size;
	struct blk_queue *blk_queue = calloc(1, sizeof(*blk_queue));

	if (!blk_queue)
		return -ENOMEM;
	blk_queue->queue = queue;
	blk_queue->blk = virtio_blk_of(queue->device);
	blk_queue->channel = channel;
	blk_queue->counters = &blk_queue->blk->counters[queue->index];
	blk_queue->batch_end.run = run_batch_end;
	blk_queue->requests = calloc(size, sizeof(*blk_queue->requests));
	blk_queue->blocks =
		calloc(MEDIUM_BLOCKS * MEDIUM_SEGMENTS + LARGE_BLOCKS * LARGE_SEGMENTS, sizeof(*blk_queue->blocks));
	blk_queue->pool.capacity = CHAIN_SEGMENTS_MAX;
	blk_queue->pool.segments = calloc(CHAIN_SEGMENTS_MAX, sizeof(*blk_queue->pool.segments));
	if (!blk_queue->requests || !blk_queue->blocks || !blk_queue->pool.segments) {
		blk_queue_destroy(blk_queue);
		return -ENOMEM;
	}
	make_blocks(blk_queue, SEGMENTS_LARGE, make_blocks(blk_queue, SEGMENTS_MEDIUM, blk_queue->blocks));
	for (unsigned i = 0; i < size; i++) {
		blk_queue->requests[i].queue = blk_queue;
		blk_queue->requests[i].io.complete = request_complete;
	}
	*made = blk_queue;
	return 0;
}

void blk_queue_destroy(struct blk_queue *blk_queue)
{
	free(blk_queue->pool.segments);
	free(blk_queue->blocks);
	free(blk_queue->requests);
	free(blk_queue);
}

/* Gives @request room for @count segments. Return: false when the store has none at the moment. */
static bool take_segments(struct blk_request *request, unsigned count)
{
	enum segment_class kind = count <= INLINE_SEGMENTS   ? SEGMENTS_INLINE
				  : count <= MEDIUM_SEGMENTS ? SEGMENTS_MEDIUM
							     : SEGMENTS_LARGE;
	void **list;

	request->io.segments = request->inline_segments;
	if (kind != SEGMENTS_INLINE) {
		list = free_list(request->queue, kind);
		if (kind == SEGMENTS_MEDIUM && !*list) {
			kind = SEGMENTS_LARGE;
			list = free_list(request->queue, kind);
		}
		if (!*list)
			return false;
		request->io.segments = *list;
		*list = *(void **)*list;
	}
	request->segment_class = (uint8_t)kind;
	return true;
}

static void give_segments(struct blk_request *request)
{
	if (request->segment_class != SEGMENTS_INLINE)
		give_block(request->queue, request->segment_class, request->io.segments);
}

static void count_success(const struct blk_request *request)
{
	struct virtio_blk_counters *counters = request->queue->counters;

	switch (request->type) {
	case VIRTIO_BLK_T_IN:
		counter_add(&counters->reads, 1);
		counter_add(&counters->read_bytes, request->io.length);
		break;
	case VIRTIO_BLK_T_OUT:
		counter_add(&counters->writes, 1);
		counter_add(&counters->write_bytes, request->io.length);
		break;
	case VIRTIO_BLK_T_FLUSH:
		counter_add(&counters->flushes, 1);
		break;
	case VIRTIO_BLK_T_DISCARD:
		counter_add(&counters->discards, 1);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		counter_add(&counters->write_zeroes, 1);
		break;
	}
}

/* Marks what the guest's memory got. Also after a failed read, which may have written a part. */
static void log_data(struct blk_request *request)
{
	struct virtqueue *ring = &request->queue->queue->ring;

	if (likely(!ring->config.log) || request->type != VIRTIO_BLK_T_IN)
		return;
	for (unsigned i = 0; i < request->io.segment_count; i++)
		virtqueue_log_write(ring, request->io.segments[i].base, request->io.segments[i].length);
}

void blk_request_finish(struct blk_request *request, uint8_t status)
{
	struct blk_queue *blk_queue = request->queue;
	struct virtqueue *ring = &blk_queue->queue->ring;
	uint32_t written = 1;

	if (likely(status == VIRTIO_BLK_S_OK)) {
		written = request->written;
		count_success(request);
	} else if (status == VIRTIO_BLK_S_UNSUPP) {
		counter_add(&blk_queue->counters->unsupported, 1);
	} else {
		counter_add(&blk_queue->counters->errors, 1);
	}
	log_data(request);
	guest_write(request->status, &status, sizeof(status));
	virtqueue_log_write(ring, request->status, sizeof(status));
	virtqueue_push(ring, request->id, request->slots, written);
	if (request->io.segment_count)
		counter_add(&ring->counters.bytes, request->io.length);
	give_segments(request);
	request->busy = false;
	device_queue_count(&blk_queue->queue->life, -1);
	if (!blk_queue->in_turn)
		block_at_batch_end(blk_queue->channel, &blk_queue->batch_end);
}

static void publish(struct blk_queue *blk_queue)
{
	struct virtqueue *ring = &blk_queue->queue->ring;

	if (virtqueue_publish(ring))
		virtqueue_notify(ring, sidecore_notifier(blk_queue->queue->life.home));
}

static void run_batch_end(struct block_batch_end *end)
{
	struct blk_queue *blk_queue = container_of(end, struct blk_queue, batch_end);
	struct virtio_queue *queue = blk_queue->queue;

	publish(blk_queue);
	/* A request with several ranges may have been continued by a completion of this batch. */
	block_flush_submissions(blk_queue->channel);
	if (queue->life.draining && !queue->life.in_flight)
		device_queue_drained(&queue->life);
}

static void request_complete(struct block_request *io, int status)
{
	struct blk_request *request = container_of(io, struct blk_request, io);

	if (likely(!request->range_count))
		blk_request_finish(request, blk_status_of(status));
	else
		blk_ranges_complete(request, status);
}

static void start_transfer(struct blk_request *request, const struct chain *chain, uint64_t sector)
{
	const struct virtio_blk *blk = request->queue->blk;
	bool write = request->type == VIRTIO_BLK_T_OUT;
	struct block_request *io = &request->io;
	size_t length = write ? chain->readable_length - sizeof(struct virtio_blk_outhdr) : chain->writable_length - 1;

	if (unlikely(!blk_check_range(blk, sector, length, &io->offset) || (write && blk->limits.read_only))) {
		blk_request_finish(request, VIRTIO_BLK_S_IOERR);
		return;
	}
	io->length = length;
	if (write) {
		io->operation = BLOCK_WRITE;
		io->durable = atomic_load_explicit(&blk->durable, memory_order_relaxed);
	} else {
		io->operation = BLOCK_READ;
		request->written = (uint32_t)length + 1;
	}
	if (unlikely(!length)) {
		blk_request_finish(request, VIRTIO_BLK_S_OK);
		return;
	}
	io->segment_count = blk_data_segments(chain, write, length, io->segments);
	block_submit(request->queue->channel, io);
}

static void start_flush(struct blk_request *request)
{
	if (!request->queue->blk->limits.flush_needed) {
		/* Not offered; harmless all the same: nothing is ever cached. */
		blk_request_finish(request, VIRTIO_BLK_S_OK);
		return;
	}
	request->io.operation = BLOCK_FLUSH;
	block_submit(request->queue->channel, &request->io);
}

/* VIRTIO_BLK_T_GET_ID: 20 bytes without a terminator; a shorter buffer gets the start (virtio 1.3 5.2.6). */
static void answer_id(struct blk_request *request, const struct chain *chain)
{
	char serial[VIRTIO_BLK_ID_BYTES] = { 0 };
	size_t length = min((size_t)chain->writable_length - 1, sizeof(serial));
	struct virtqueue *ring = &request->queue->queue->ring;
	const char *from = serial;

	memcpy(serial, disk_serial(request->queue->blk->disk),
	       strnlen(disk_serial(request->queue->blk->disk), sizeof(serial)));
	for (struct guest_segment *segment = chain_writable(chain); length; segment++) {
		size_t piece = min(length, segment->length);

		guest_write(segment->base, from, piece);
		virtqueue_log_write(ring, segment->base, piece);
		from += piece;
		length -= piece;
	}
	request->written = (uint32_t)(from - serial) + 1;
	blk_request_finish(request, VIRTIO_BLK_S_OK);
}

enum taken {
	TAKEN,
	NO_ROOM, /* not now; the chain is still the caller's */
	BROKEN,
};

/* The most segments, or ranges, that a request of @type can turn @chain into. */
static unsigned room_needed(const struct chain *chain, uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		return chain->writable_count;
	case VIRTIO_BLK_T_OUT:
		return chain->readable_count;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return DISCARD_RANGES_MAX;
	}
	return 0;
}

static enum taken take_chain(struct blk_queue *blk_queue, const struct chain *chain)
{
	struct virtqueue *ring = &blk_queue->queue->ring;
	struct blk_request *request = &blk_queue->requests[chain->id];
	const struct guest_segment *last = &chain->segments[chain->readable_count + chain->writable_count - 1];
	struct virtio_blk_outhdr header;

	if (unlikely(chain->readable_length < sizeof(header) || !chain->writable_length || request->busy)) {
		virtqueue_break(ring, chain->readable_length < sizeof(header) ? VIRTQUEUE_HEADER_TOO_SHORT
				      : !chain->writable_length		      ? VIRTQUEUE_NO_STATUS_BYTE
									      : VIRTQUEUE_BAD_HEAD);
		return BROKEN;
	}
	blk_read_header(chain, &header);
	request->type = le32toh(header.type);
	if (unlikely(!take_segments(request, room_needed(chain, request->type))))
		return NO_ROOM;

	request->status = last->base + last->length - 1;
	request->id = chain->id;
	request->slots = chain->slots;
	request->written = 1;
	request->cost = chain_cost(chain);
	request->busy = true;
	request->range_next = 0;
	request->range_count = 0;
	request->io.length = 0;
	request->io.offset = 0;
	request->io.segment_count = 0;
	device_queue_count(&blk_queue->queue->life, 1);

	switch (request->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		start_transfer(request, chain, le64toh(header.sector));
		break;
	case VIRTIO_BLK_T_FLUSH:
		start_flush(request);
		break;
	case VIRTIO_BLK_T_GET_ID:
		answer_id(request, chain);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		blk_ranges_start(request, chain);
		break;
	default:
		blk_request_finish(request, VIRTIO_BLK_S_UNSUPP);
		break;
	}
	return TAKEN;
}

static bool turn_is_late(const struct blk_queue *blk_queue)
{
	return unlikely(clock_cycles() - blk_queue->turn_began > TURN_CYCLES);
}

/*
 * Takes the @count chains popped until the turn's @bytes are used up; the rest goes back, last one first.
 * @bytes:	in and out: bytes that the turn may still do
 * Return: chains taken; @on: whether the turn may go on.
 */
static unsigned take_batch(struct blk_queue *blk_queue, unsigned count, int64_t *bytes, bool *on)
{
	struct virtqueue *ring = &blk_queue->queue->ring;
	enum taken taken = TAKEN;
	unsigned done = 0;

	while (*bytes > 0 && done < count) {
		const struct chain *chain = &blk_queue->chains[done];

		/* Never before the first of the batch: each turn gets on. */
		if (done % REQUESTS_PER_LOOK == REQUESTS_PER_LOOK - 1 && turn_is_late(blk_queue))
			break;

		taken = take_chain(blk_queue, chain);
		if (unlikely(taken != TAKEN))
			break;
		/* Nobody has touched the request since, even when it is complete: its id was not popped again. */
		*bytes -= (int64_t)blk_queue->requests[chain->id].cost;
		done++;
	}
	*on = done == count && *bytes > 0;
	if (taken == BROKEN)
		return done;
	if (taken == NO_ROOM)
		counter_add(&blk_queue->counters->starved, 1);
	while (count > done)
		virtqueue_unpop(ring, &blk_queue->chains[--count]);
	return done;
}

unsigned blk_queue_poll(struct virtio_queue *queue, const struct turn *turn)
{
	struct blk_queue *blk_queue = queue->model;
	struct virtqueue *ring = &queue->ring;
	int64_t bytes = max(turn->bytes, 1U);
	unsigned done = 0;
	bool on = true;

	if (!virtqueue_pending(ring))
		return 0;
	blk_queue->in_turn = true;
	blk_queue->turn_began = clock_cycles();
	while (on && done < turn->requests) {
		unsigned count;

		blk_queue->pool.used = 0;
		count = virtqueue_pop(ring, blk_queue->chains, min(turn->requests - done, BATCH), &blk_queue->pool);
		if (!count)
			break;
		done += take_batch(blk_queue, count, &bytes, &on);
		on = on && !turn_is_late(blk_queue);
	}
	/* What completes in here is published with the rest. */
	block_flush_submissions(blk_queue->channel);
	blk_queue->in_turn = false;
	publish(blk_queue);
	return done;
}
