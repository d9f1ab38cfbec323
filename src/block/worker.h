/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A sidecore's block worker, for the backends of this room. Theory of operation: block/worker.c.
 */
#ifndef BLOCK_WORKER_H
#define BLOCK_WORKER_H

#include <liburing.h>
#include <sched.h>

#include "block/block.h"

/** One bounce buffer: the largest chunk in which a misaligned request is transferred. */
#define BOUNCE_SIZE (128U << 10)

/** Zeroes to write where the file system cannot make them: so many times the same page-aligned buffer. */
#define ZEROES_SIZE  (64U << 10)
#define ZEROES_COUNT 16U

/** struct block_list - requests in order of arrival, linked by their own @next. */
struct block_list {
	struct block_request *first, *last;
};

static inline void block_list_append(struct block_list *list, struct block_request *request)
{
	request->next = NULL;
	if (list->first)
		list->last->next = request;
	else
		list->first = request;
	list->last = request;
}

static inline struct block_request *block_list_take(struct block_list *list)
{
	struct block_request *request = list->first;

	if (request)
		list->first = request->next;
	return request;
}

struct block_worker {
	struct poller poller;
	struct io_uring ring;
	int ring_error;			  /* 0, or why there is no ring: a negative errno */
	unsigned in_kernel;		  /* requests that occupy a submission entry or are the kernel's */
	struct block_list overflow;	  /* wait for room in the ring */
	struct block_list bounce_waiting; /* wait for a bounce buffer */
	struct block_list resumed;	  /* in pieces: wait for the turn of their next one */
	uint64_t queued;		  /* bytes that the kernel was asked to move since the last flush */
	void *bounce_free;		  /* each free buffer begins with a pointer to the next */
	void *memory;			  /* bounce buffers, then zeroes */
	struct iovec zeroes[ZEROES_COUNT];
	struct block_batch_end *ends;
	bool prompt;	       /* submit before the end of the batch, where a disk would wait for it */
	bool ending;	       /* inside block_worker_run_batch_ends() */
	cpu_set_t helper_cpus; /* where the kernel's own threads may work for us */
	struct engine *engine;
	struct sidecore_message enable;
};

/**
 * block_worker_start() - sidecore: give @request to the kernel: its backend's @prepare fills in a submission entry, now
 * or when there is room. When the kernel is done the backend's @kernel_done gets the result.
 */
void block_worker_start(struct block_worker *worker, struct block_request *request);

/**
 * block_worker_resume() - sidecore: @request is too large for one turn; have its backend's @resume go on with it in a
 * turn of the worker's.
 */
void block_worker_resume(struct block_worker *worker, struct block_request *request);

/** block_worker_flush() - sidecore, at the end of a batch: submit what was started. One system call, or none. */
void block_worker_flush(struct block_worker *worker);

/**
 * block_worker_take_inline() - sidecore, at the end of a queue's turn: take what is complete already, batch ends
 * included. Does nothing inside a batch end.
 */
void block_worker_take_inline(struct block_worker *worker);

/**
 * block_worker_take_bounce() - sidecore: a bounce buffer, or NULL; then @request waits, and is given to
 * block_worker_start() with a buffer in @request->bounce later.
 */
void *block_worker_take_bounce(struct block_worker *worker, struct block_request *request);
void block_worker_give_bounce(struct block_worker *worker, void *buffer);

void block_worker_at_batch_end(struct block_worker *worker, struct block_batch_end *end);

/** block_worker_run_batch_ends() - sidecore: a batch of completions is through. */
void block_worker_run_batch_ends(struct block_worker *worker);

#endif
