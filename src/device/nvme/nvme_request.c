/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe requests: from the first submission to the disk to the completion entry.
 *
 * Theory of operation
 * -------------------
 * Requests and blocks of segments are made with the queue, in fixed number. When there is none the queue's turn ends
 * before that command; completions bring some back, and since none can be missing unless commands are under way,
 * nothing is stuck.
 *
 * Most commands are one block request. Others are *plans*: a sequence of block requests, each begun when the one before
 * is complete, which ends with the first failure. While one is being submitted its completion only sets a flag, so that
 * a disk that completes at once makes a loop here and not a recursion. Such a loop could be long (a deallocation of
 * terabytes in pieces that the disk takes): after some pieces it goes on in the sidecore's next round, by a message of
 * the queue's own. A message, and not a turn, because a queue that drains has no turns any more.
 *
 * Completion entries are written one by one and the driver interrupted once for many: at the end of the turn for
 * commands that completed inside it, else at the end of the batch in which the backend delivers completions
 * (block_at_batch_end()).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/nvme/nvme_io.h"

/* Pieces of a plan that are done at once: of 2 MiB of a RAM disk, or 64 KiB to compare, some 100 us. */
#define PIECES_PER_ROUND 8U

static const struct {
	unsigned segments, blocks;
} classes[] = {
	[NVME_SEGMENTS_MEDIUM] = { NVME_MEDIUM_SEGMENTS, NVME_MEDIUM_BLOCKS },
	[NVME_SEGMENTS_LARGE] = { NVME_LARGE_SEGMENTS, NVME_LARGE_BLOCKS },
};

static void request_complete(struct block_request *io, int status);
static void run_batch_end(struct block_batch_end *end);
static void resume_requests(struct sidecore *sidecore, struct sidecore_message *message);

/* ---- the store --------------------------------------------------------------------------------------------------- */

static void **free_list(struct nvme_sq *sq, unsigned segment_class)
{
	return segment_class == NVME_SEGMENTS_MEDIUM ? &sq->medium_free : &sq->large_free;
}

static void give_block(struct nvme_sq *sq, unsigned segment_class, void *block)
{
	void **list = free_list(sq, segment_class);

	*(void **)block = *list;
	*list = block;
}

static struct guest_segment *make_blocks(struct nvme_sq *sq, unsigned segment_class, struct guest_segment *memory)
{
	for (unsigned i = 0; i < classes[segment_class].blocks; i++, memory += classes[segment_class].segments)
		give_block(sq, segment_class, memory);
	return memory;
}

int nvme_requests_create(struct nvme_sq *sq)
{
	sq->batch_end.run = run_batch_end;
	sq->resume.run = resume_requests;
	sq->requests = calloc(sq->size, sizeof(*sq->requests));
	sq->blocks = calloc(NVME_MEDIUM_BLOCKS * NVME_MEDIUM_SEGMENTS + NVME_LARGE_BLOCKS * NVME_LARGE_SEGMENTS,
			    sizeof(*sq->blocks));
	sq->compare_buffer = malloc(NVME_COMPARE_SIZE);
	if (!sq->requests || !sq->blocks || !sq->compare_buffer)
		return -ENOMEM;
	make_blocks(sq, NVME_SEGMENTS_LARGE, make_blocks(sq, NVME_SEGMENTS_MEDIUM, sq->blocks));
	/* The first one is the first to be taken: a queue that is not deep stays in a small part of it. */
	for (uint32_t i = sq->size; i-- > 0;) {
		sq->requests[i].sq = sq;
		sq->requests[i].io.complete = request_complete;
		sq->requests[i].next = sq->free;
		sq->free = &sq->requests[i];
	}
	return 0;
}

void nvme_requests_destroy(struct nvme_sq *sq)
{
	free(sq->compare_buffer);
	free(sq->blocks);
	free(sq->requests);
}

struct nvme_request *nvme_request_get(struct nvme_sq *sq, unsigned segments)
{
	struct nvme_request *request = sq->free;
	unsigned segment_class = segments <= NVME_INLINE_SEGMENTS   ? NVME_SEGMENTS_INLINE
				 : segments <= NVME_MEDIUM_SEGMENTS ? NVME_SEGMENTS_MEDIUM
								    : NVME_SEGMENTS_LARGE;
	void **list;

	if (unlikely(!request))
		return NULL;
	request->segments = request->inline_segments;
	if (segment_class != NVME_SEGMENTS_INLINE) {
		list = free_list(sq, segment_class);
		if (segment_class == NVME_SEGMENTS_MEDIUM && !*list) {
			segment_class = NVME_SEGMENTS_LARGE;
			list = free_list(sq, segment_class);
		}
		if (!*list)
			return NULL;
		request->segments = *list;
		*list = *(void **)*list;
	}
	request->segment_class = (uint8_t)segment_class;
	sq->free = request->next;
	return request;
}

void nvme_request_put(struct nvme_request *request)
{
	struct nvme_sq *sq = request->sq;

	if (request->segment_class != NVME_SEGMENTS_INLINE)
		give_block(sq, request->segment_class, request->segments);
	request->next = sq->free;
	sq->free = request;
}

/* ---- the end of a request ---------------------------------------------------------------------------------------- */

static void count_success(const struct nvme_request *request)
{
	struct nvme_counters *counters = request->sq->counters;

	switch (request->opcode) {
	case NVME_READ:
		counter_add(&counters->reads, 1);
		counter_add(&counters->read_bytes, request->io.length);
		break;
	case NVME_WRITE:
		counter_add(&counters->writes, 1);
		counter_add(&counters->write_bytes, request->io.length);
		break;
	case NVME_FLUSH:
		counter_add(&counters->flushes, 1);
		break;
	case NVME_DATASET:
		counter_add(&counters->discards, 1);
		break;
	case NVME_WRITE_ZEROES:
		counter_add(&counters->write_zeroes, 1);
		break;
	case NVME_COMPARE:
		counter_add(&counters->compares, 1);
		break;
	}
}

static uint16_t status_of(const struct nvme_request *request, int error)
{
	if (likely(!error))
		return NVME_SUCCESS;
	if (error == -ENOSPC)
		return NVME_CAPACITY_EXCEEDED;
	switch (request->opcode) {
	case NVME_READ:
	case NVME_COMPARE:
	case NVME_VERIFY:
		return NVME_READ_ERROR;
	case NVME_DATASET:
		/* A hint that the disk cannot take: nothing is lost. */
		return error == -EOPNOTSUPP ? NVME_SUCCESS : NVME_WRITE_FAULT;
	case NVME_WRITE_ZEROES:
		return error == -EOPNOTSUPP ? NVME_INVALID_OPCODE | NVME_DNR : NVME_WRITE_FAULT;
	}
	return NVME_WRITE_FAULT;
}

uint16_t nvme_sq_error(struct nvme_sq *sq, struct nvme_error *error)
{
	unsigned code = error->status & ~NVME_DNR;

	counter_add(&sq->counters->errors, 1);
	if (code == NVME_READ_ERROR || code == NVME_WRITE_FAULT)
		counter_add(&sq->counters->media_errors, 1);
	/* Failures are not held back (Base 5.27.1.6). */
	sq->cq->fresh += NVME_FRESH_URGENT;
	error->sq_id = sq->id;
	return nvme_log_error(sq->nvme, sq->id, error);
}

/* Not inlined: what goes well is not to make room for it. Return: the status to complete @request with. */
static __attribute__((noinline)) uint16_t fail(const struct nvme_request *request, uint16_t status)
{
	const struct nvme_namespace *namespace = &request->sq->nvme->namespaces[request->namespace];
	struct nvme_error error = {
		.cid = request->cid,
		.status = status,
		.opcode = request->opcode,
		.nsid = request->namespace + 1U,
		/* Of commands in several steps: where the one begins that went wrong. */
		.lba = request->opcode == NVME_FLUSH ? 0 : request->io.offset >> namespace->shift,
	};

	return nvme_sq_error(request->sq, &error);
}

/* Answers, and gives everything back. The interrupt is up to the caller. */
static void finish(struct nvme_request *request, uint16_t status)
{
	struct nvme_sq *sq = request->sq;

	if (likely(!status))
		count_success(request);
	else
		status = fail(request, status);
	if (unlikely(request->plan >= NVME_PLAN_COMPARE))
		sq->comparing = false;
	nvme_cq_post(sq->cq, 0, sq->head, sq->id, request->cid, status);
	nvme_request_put(request);
	sq->queue.in_flight--;
	if (!sq->in_turn)
		block_at_batch_end(request->io.channel, &sq->batch_end);
}

static void run_batch_end(struct block_batch_end *end)
{
	struct nvme_sq *sq = container_of(end, struct nvme_sq, batch_end);

	nvme_cq_interrupt(sq->cq, sidecore_notifier(sq->queue.home));
	/* A plan may have gone on in a completion of this batch. */
	nvme_sq_flush_submissions(sq);
	if (unlikely(sq->queue.draining && !sq->queue.in_flight))
		device_queue_drained(&sq->queue); /* the last touch */
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static bool next_of_ranges(struct nvme_request *request)
{
	const struct nvme_range *ranges = (const struct nvme_range *)(const void *)request->segments;

	while (request->step < request->range_count && request->position == ranges[request->step].length) {
		request->step++;
		request->position = 0;
	}
	if (request->step == request->range_count)
		return false;
	request->io.offset = ranges[request->step].offset + request->position;
	request->io.length = min(ranges[request->step].length - request->position, request->limit);
	request->position += request->io.length;
	return true;
}

static bool next_flush(struct nvme_request *request)
{
	const struct nvme *nvme = request->sq->nvme;

	while (request->step < nvme->namespace_count && !nvme->namespaces[request->step].limits.flush_needed)
		request->step++;
	if (request->step == nvme->namespace_count)
		return false;
	request->namespace = (uint8_t)request->step++;
	return true;
}

static bool next_of_flush_read(struct nvme_request *request)
{
	request->io.operation = request->step ? BLOCK_READ : BLOCK_FLUSH;
	return request->step++ < 2;
}

static bool next_to_compare(struct nvme_request *request)
{
	if (request->position == request->limit)
		return false;
	request->io.length = min(request->limit - request->position, (uint64_t)NVME_COMPARE_SIZE);
	request->inline_segments[0] =
		(struct guest_segment){ guest_bytes_of(request->sq->compare_buffer), request->io.length };
	request->io.segments = request->inline_segments;
	request->io.segment_count = 1;
	return true;
}

/* Prepares the next block request of the plan. Return: false when all is done. */
static bool next_step(struct nvme_request *request)
{
	switch (request->plan) {
	case NVME_PLAN_RANGES:
		return next_of_ranges(request);
	case NVME_PLAN_FLUSH_ALL:
		return next_flush(request);
	case NVME_PLAN_FLUSH_READ:
		return next_of_flush_read(request);
	case NVME_PLAN_COMPARE:
	case NVME_PLAN_VERIFY:
		return next_to_compare(request);
	}
	return false;
}

/* Compares what was read with the guest's next bytes; the guest may change them meanwhile, and is told what we saw. */
static bool piece_is_equal(struct nvme_request *request)
{
	const uint8_t *expected = request->sq->compare_buffer;
	uint64_t left = request->io.length;
	uint8_t bytes[1024];

	while (left) {
		size_t piece;

		if (!request->cursor.length)
			request->cursor = request->segments[request->step++];
		piece = min(min(left, request->cursor.length), sizeof(bytes));
		guest_read(bytes, request->cursor.base, piece);
		if (memcmp(bytes, expected, piece))
			return false;
		request->cursor.base += piece;
		request->cursor.length -= piece;
		expected += piece;
		left -= piece;
	}
	return true;
}

/* What follows a block request that went well. Return: status. */
static uint16_t step_done(struct nvme_request *request)
{
	if (request->plan < NVME_PLAN_COMPARE)
		return NVME_SUCCESS;
	if (request->plan == NVME_PLAN_COMPARE && !piece_is_equal(request))
		return NVME_COMPARE_FAILURE | NVME_DNR;
	request->position += request->io.length;
	request->io.offset += request->io.length;
	return NVME_SUCCESS;
}

static void postpone(struct nvme_request *request)
{
	struct nvme_sq *sq = request->sq;

	request->next = sq->resumed;
	sq->resumed = request;
	if (sq->resume_posted)
		return;
	sq->resume_posted = true;
	sidecore_post(sq->queue.home, &sq->resume);
}

void nvme_request_run(struct nvme_request *request)
{
	uint16_t status = NVME_SUCCESS;

	for (unsigned pieces = 0; !status; pieces++) {
		if (pieces == PIECES_PER_ROUND) {
			postpone(request);
			return;
		}
		if (!next_step(request))
			break;
		request->completed_inline = false;
		request->submitting = true;
		nvme_request_submit(request);
		request->submitting = false;
		if (!request->completed_inline)
			return;
		status = request->io.status ? status_of(request, request->io.status) : step_done(request);
	}
	finish(request, status);
}

static void resume_requests(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct nvme_sq *sq = container_of(message, struct nvme_sq, resume);
	struct nvme_request *request = sq->resumed;

	sq->resumed = NULL;
	sq->resume_posted = false;
	sq->in_turn = true;
	while (request) {
		struct nvme_request *next = request->next;

		nvme_request_run(request);
		request = next;
	}
	nvme_sq_flush_submissions(sq);
	sq->in_turn = false;
	nvme_cq_interrupt(sq->cq, sidecore_notifier(sidecore));
	if (sq->queue.draining && !sq->queue.in_flight)
		device_queue_drained(&sq->queue); /* the last touch */
}

static void request_complete(struct block_request *io, int error)
{
	struct nvme_request *request = container_of(io, struct nvme_request, io);
	struct nvme_sq *sq = request->sq;
	uint16_t status;

	if (likely(request->plan == NVME_PLAN_ONE)) {
		finish(request, status_of(request, error));
		return;
	}
	if (request->submitting) {
		io->status = error;
		request->completed_inline = true;
		return;
	}
	status = error ? status_of(request, error) : step_done(request);
	if (status) {
		finish(request, status);
		return;
	}
	nvme_request_run(request);
	/* The next step must not wait for the queue's next turn, which may not come while the queue drains. */
	if (!sq->in_turn)
		block_at_batch_end(io->channel, &sq->batch_end);
}
