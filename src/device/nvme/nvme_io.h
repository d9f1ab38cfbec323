/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe I/O: what commands (nvme_io.c) and requests (nvme_request.c) share. Context: sidecore. */
#ifndef DEVICE_NVME_NVME_IO_H
#define DEVICE_NVME_NVME_IO_H

#include "base/counter.h"
#include "device/nvme/nvme_internal.h"

/** Segments that a request holds by itself: transfers of up to 3 whole pages anywhere need no more. */
#define NVME_INLINE_SEGMENTS 4U

/** Blocks of segments for the others, of two sizes in fixed number for each queue. */
#define NVME_MEDIUM_SEGMENTS 34U /* 128 KiB of pages of 4 KiB, and one for the offset */
#define NVME_MEDIUM_BLOCKS   64U
#define NVME_LARGE_SEGMENTS  NVME_SEGMENTS_MAX
#define NVME_LARGE_BLOCKS    16U

/** What compare and verify read at a time. */
#define NVME_COMPARE_SIZE (64U << 10)

enum nvme_segment_class {
	NVME_SEGMENTS_INLINE,
	NVME_SEGMENTS_MEDIUM,
	NVME_SEGMENTS_LARGE,
};

/** How many block requests a command makes, one after the other. */
enum nvme_plan {
	NVME_PLAN_ONE,
	NVME_PLAN_RANGES,     /* deallocate, write zeroes: pieces of ranges */
	NVME_PLAN_FLUSH_ALL,  /* namespace after namespace */
	NVME_PLAN_FLUSH_READ, /* read with FUA: what is cached is made durable first */
	NVME_PLAN_COMPARE,    /* pieces are read into the queue's buffer, and compared */
	NVME_PLAN_VERIFY,     /* read only */
};

/** struct nvme_range - part of a namespace in bytes, checked. Kept where segments would be. */
struct nvme_range {
	uint64_t offset, length;
};

_Static_assert(sizeof(struct nvme_range) == sizeof(struct guest_segment), "ranges lie where segments do");
_Static_assert(NVME_DATASET_RANGES <= NVME_LARGE_SEGMENTS, "one block holds all ranges of a command");

/** struct nvme_request - a command under way. */
struct nvme_request {
	struct block_request io;
	struct nvme_sq *sq;
	struct nvme_request *next; /* free, or resumed */
	uint16_t cid;
	uint8_t opcode, plan, segment_class, namespace;

	/* plans of several steps */
	bool submitting, completed_inline; /* see nvme_request_run() */
	uint16_t step, range_count;
	uint64_t position; /* bytes of the range, or of the data, that are done */
	uint64_t limit;	   /* bytes of a piece; compare: of the whole */
	struct guest_segment *segments;
	struct guest_segment cursor; /* compare: what is left of segments[step] */

	struct guest_segment inline_segments[NVME_INLINE_SEGMENTS];
};

/** nvme_sq_error() - a command ends with @error->status: count it, log it, tell the driver soon. Return: the status for it. */
uint16_t nvme_sq_error(struct nvme_sq *sq, struct nvme_error *error);

/**
 * nvme_request_get() - a request with room for @segments. Return: NULL when there is none at the moment; those under
 * way come back on this sidecore.
 */
struct nvme_request *nvme_request_get(struct nvme_sq *sq, unsigned segments);

/** nvme_request_put() - give back a request that was not started. */
void nvme_request_put(struct nvme_request *request);

/** nvme_request_submit() - start the one block request of NVME_PLAN_ONE. */
static inline void nvme_request_submit(struct nvme_request *request)
{
	struct nvme_sq *sq = request->sq;

	sq->submitted |= 1ULL << request->namespace;
	block_submit(sq->channels[request->namespace], &request->io);
}

/** nvme_request_run() - start, or go on with, a plan of several steps. */
void nvme_request_run(struct nvme_request *request);

/** nvme_sq_flush_submissions() - hand over what was submitted. */
static inline void nvme_sq_flush_submissions(struct nvme_sq *sq)
{
	while (sq->submitted) {
		unsigned namespace = (unsigned)__builtin_ctzll(sq->submitted);

		sq->submitted &= sq->submitted - 1;
		block_flush_submissions(sq->channels[namespace]);
	}
}

#endif
