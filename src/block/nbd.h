/* SPDX-License-Identifier: BSD-3-Clause */
/* NBD disks: what the sidecores' side (block/nbd.c) and the helper thread (block/nbd_thread.c) share. */
#ifndef BLOCK_NBD_H
#define BLOCK_NBD_H

#include <libnbd.h>
#include <pthread.h>
#include <semaphore.h>

#include "block/disk.h"
#include "block/worker.h"

/** Commands under way at the server at a time, for all channels together. */
#define NBD_SLOTS 64U

/** Requests of several segments go through a buffer, in chunks of this size. */
#define NBD_BOUNCE_SIZE (512U << 10)

/** struct nbd_slot - one command at the server. */
struct nbd_slot {
	struct block_request *request; /* NULL: free */
	uint64_t length;	       /* bytes of this chunk */
	void *bounce;		       /* this slot's buffer */
	bool bounced, done;
	int error; /* positive errno from the server, valid when done */
};

struct nbd_disk {
	struct disk disk;
	char *uri;
	uint64_t timeout; /* ns */
	pthread_t thread;
	bool thread_started;
	int wake_fd; /* eventfd: there are submissions, or stopping is set */
	atomic_bool stopping;
	_Atomic(struct block_request *) submitted; /* newest first */
	atomic_bool connected;
	_Atomic uint64_t hurry; /* deadline of all requests, ns; 0: each has its own */

	/* how the first connection went; the thread posts once */
	sem_t opened;
	int open_result;
	char open_text[256];

	/* the thread's own */
	struct nbd_handle *handle; /* NULL: not connected */
	bool ready;		   /* commands may be issued */
	bool ever_ready;
	uint64_t connect_deadline; /* of the attempt under way */
	uint64_t reconnect_at;
	uint64_t backoff;
	bool fua, can_flush, can_trim, can_zero;
	struct block_list waiting;
	struct nbd_slot slots[NBD_SLOTS];
	void *bounce;
};

struct nbd_channel {
	struct block_channel channel;
	struct block_request *submitted, *submitted_last; /* since the last flush; newest first */
	_Atomic(struct block_request *) completed;	  /* by the thread; newest first */
	struct sidecore_message message;		  /* posted when @completed became non-empty */
};

/** nbd_thread_run() - the helper thread of one disk; @argument is its struct nbd_disk. */
void *nbd_thread_run(void *argument);

#endif
