/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block: requests, and the disks that serve them.
 *
 * A device model (virtio-blk, later NVMe) fills in a struct block_request that it owns, whose segments point straight
 * into guest memory, and submits it to a *channel*: the way to one disk from one sidecore. The request comes back
 * through its @complete on that same sidecore, possibly before block_submit() returns. Nothing is allocated or locked
 * on the way.
 *
 * A disk may be resized, fail or stall; none of that concerns other disks.
 *
 * Context: disks are opened and closed by the control thread; a channel is used by its sidecore only.
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/engine.h"
#include "memory/guest_memory.h"

enum block_operation {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,	    /* all completed writes are durable when it completes */
	BLOCK_DISCARD,	    /* contents become undefined */
	BLOCK_WRITE_ZEROES, /* contents become zero; may deallocate when @may_unmap */
};

struct block_request {
	uint8_t operation; /* enum block_operation */
	bool may_unmap;
	bool durable;	 /* write, write zeroes: on stable storage before it completes (write-through) */
	uint64_t offset; /* bytes; inside the disk: checked by the device model against its own copy of the size */
	uint64_t length; /* bytes; for reads and writes the sum of the segments */
	struct guest_segment *segments; /* a backend may change them until it completes the request */
	unsigned segment_count;

	/** @complete: on the channel's sidecore. @status: 0 or a negative errno (-EIO, -ENOSPC, -EOPNOTSUPP...). */
	void (*complete)(struct block_request *request, int status);

	/* the backend's own, from block_submit() to @complete */
	struct block_channel *channel;
	struct block_request *next;
	uint64_t done;			    /* bytes transferred so far: short reads and writes go on from here */
	uint64_t deadline;		    /* clock_nanoseconds() */
	void *bounce;			    /* aligned copy of a misaligned buffer, while a chunk is under way */
	unsigned segment_first;		    /* the first segment that is not wholly transferred ... */
	struct guest_segment segment_saved; /* ... and what it was before a short transfer ended inside it */
	int status;
	uint8_t stage, retries;
	uint8_t generation; /* block/disk.c */
	bool segment_split;
};

struct disk;
struct block_channel;

struct disk_config {
	const char *name;
	enum { DISK_FILE, DISK_RAM, DISK_NULL, DISK_NBD } type;
	const char *path;    /* file, block device */
	const char *uri;     /* nbd:// nbd+unix:// */
	uint64_t size;	     /* ram and null; a file that does not exist is created with it when not 0. Rounded down */
	uint32_t block_size; /* 512 or 4096; 0: 512 */
	bool read_only;
	bool direct;	    /* try O_DIRECT, fall back when the file system cannot (disk_state() says so) */
	uint32_t timeout;   /* nbd: milliseconds that a request may take, reconnects included; 0: 30000 */
	bool handover;	    /* file that is written: locked from disk_acquire() to disk_release(), not while it is open */
	const char *serial; /* get-id; at most 20 bytes; NULL: the name */
};

/** struct disk_limits - what the disk is; size may change at run time (disk_resize). */
struct disk_limits {
	uint64_t size;
	uint32_t block_size; /* logical */
	uint32_t physical_block_size;
	uint32_t io_minimum, io_optimal; /* bytes; 0: not known */
	bool read_only;
	bool discard, write_zeroes, write_zeroes_unmap;
	bool flush_needed;			/* has a volatile cache */
	uint32_t discard_alignment;		/* bytes */
	uint64_t discard_max, write_zeroes_max; /* bytes in one segment */
	/* Backends take any alignment of memory (they bounce by themselves) and offsets in multiples of @block_size. */
};

/**
 * disk_open() - open a disk.
 * @engine:	not started yet or running; its sidecores' SIDECORE_SLOT_BLOCK are set
 * @error:	on failure: a sentence for the operator, with a remedy; valid until the thread's next call
 *
 * The size is rounded down to a multiple of the block size: a file's ragged end is never served nor written.
 * An image that is written is locked against other programs (an OFD lock on all of it), here or by disk_acquire().
 *
 * Return: 0 or a negative errno.
 */
int disk_open(const struct disk_config *config, struct engine *engine, struct disk **disk, const char **error);
void disk_close(struct disk *disk); /* all channels must be closed */

/**
 * disk_acquire() - a guest is going to use the disk: lock it, and look again how large it is, where it may have been
 * handed over. Control thread; once until disk_release().
 *
 * Return: 0; -EBUSY when another program has it, with a sentence in @error.
 */
int disk_acquire(struct disk *disk, const char **error);

/** disk_release() - no guest uses the disk any more, and all its requests are done: others may have it. */
void disk_release(struct disk *disk);
void disk_read_limits(const struct disk *disk, struct disk_limits *limits);
const char *disk_serial(const struct disk *disk);
const char *disk_kind(const struct disk *disk);	 /* "file", "ram", "null", "nbd" */
bool disk_is_transient(const struct disk *disk); /* what is on it ends with the daemon */
const char *disk_state(const struct disk *disk); /* for status: "ok", "direct I/O", "reconnecting" ... */

/**
 * disk_observe() - control thread, once a second: take note of what is in flight. disk_waited(): for how long, at
 * least, has a request been in flight, in ns? 0: none that was there at the observation before the last.
 * disk_in_flight(): how many are.
 */
void disk_observe(struct disk *disk, uint64_t now);
uint64_t disk_waited(const struct disk *disk, uint64_t now);
unsigned disk_in_flight(const struct disk *disk);

/** disk_is_away() - is it known that requests wait until somebody comes back (a server)? */
bool disk_is_away(const struct disk *disk);

/**
 * disk_hurry() - control thread: requests that are not answered by @deadline (clock_nanoseconds()) fail then.
 * Return: false: this kind of disk cannot end what the kernel has begun.
 */
bool disk_hurry(struct disk *disk, uint64_t deadline);

/**
 * disk_resize() - ram, null: take the new @size. File: grow to @size, or look at the file again (@size 0). Control
 * thread.
 *
 * When a disk shrinks, virtio_blk_resized() follows, and the guest learns it then.
 *
 * Return: 0; -EINVAL, -EOPNOTSUPP (nbd) or another negative errno with a sentence in @error.
 */
int disk_resize(struct disk *disk, uint64_t size, const char **error);

/**
 * block_channel_open() - control thread, for use by @sidecore.
 * block_channel_close() - control thread; the channel is idle and its users are detached; @completion (may be NULL)
 * runs when the sidecore has let go of it.
 */
int block_channel_open(struct disk *disk, struct sidecore *sidecore, struct block_channel **channel);
void block_channel_close(struct block_channel *channel, struct engine_completion *completion);

/** block_submit() - sidecore: take @request. It may complete at once, or others of its batch may. */
void block_submit(struct block_channel *channel, struct block_request *request);

/**
 * block_flush_submissions() - sidecore: the batch is over, hand it to the kernel (one io_uring_enter). What is done
 * then completes at once.
 */
void block_flush_submissions(struct block_channel *channel);

/**
 * struct block_batch_end - work that is done once for a batch of completions instead of for each: publish a used ring,
 * interrupt a guest. Embedded by the device model, zeroed.
 */
struct block_batch_end {
	struct block_batch_end *next;
	void (*run)(struct block_batch_end *end);
	bool queued;
};

/**
 * block_at_batch_end() - sidecore, from a request's @complete: have @end->run called once when all the completions that
 * this turn has brought are through.
 *
 * Not needed for requests that complete inside block_submit() or block_flush_submissions(): there the caller itself
 * knows where its batch ends.
 */
void block_at_batch_end(struct block_channel *channel, struct block_batch_end *end);

/**
 * struct block_worker - one sidecore's share of this room: its io_uring, the poller of its completions, the batch ends.
 *
 * block_worker_create() makes it, and the caller puts it into SIDECORE_SLOT_BLOCK before engine_start(). Where the
 * kernel refuses an io_uring it still serves ram, null and nbd disks, and disk_open() tells why a file cannot be
 * served.
 *
 * block_worker_attach(): after engine_start(); the sidecore starts to poll for completions.
 * block_worker_detach(): no request is under way; @completion (not NULL) runs when the sidecore has let go.
 *
 * Return: 0, -ENOMEM, or the negative errno of eventfd().
 */
struct block_worker;
int block_worker_create(struct block_worker **worker);
int block_worker_attach(struct block_worker *worker, struct engine *engine, struct sidecore *sidecore);
void block_worker_detach(struct block_worker *worker, struct engine_completion *completion);
void block_worker_destroy(struct block_worker *worker);

#endif
