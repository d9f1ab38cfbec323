/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside of the block room: what a backend is to disk.c, and what disk.c and worker.c give to backends.
 */
#ifndef BLOCK_DISK_H
#define BLOCK_DISK_H

#include <stdatomic.h>

#include "base/counter.h"
#include "block/block.h"

/** Bytes of the serial number (virtio 1.3 5.2.6: VIRTIO_BLK_ID_BYTES). */
#define DISK_SERIAL_SIZE 20

struct io_uring_sqe;

/** struct disk_ops - one backend. Functions that may be NULL say so. */
struct disk_ops {
	const char *kind;
	size_t disk_size;    /* of the structure that begins with struct disk */
	bool transient;	     /* what is on it ends with the daemon */
	size_t channel_size; /* of the structure that begins with struct block_channel */

	/** @open: fill in disk->limits (zeroed) and disk->size. Return: 0 or -errno after disk_error(). */
	int (*open)(struct disk *disk, const struct disk_config *config, struct engine *engine);
	/** @close: also called after a failed open; must cope with what that left. */
	void (*close)(struct disk *disk);
	int (*resize)(struct disk *disk, uint64_t size);
	int (*acquire)(struct disk *disk); /* NULL: nothing to do. Return: 0 or -errno after disk_error() */
	void (*release)(struct disk *disk);
	const char *(*state)(const struct disk *disk); /* NULL: always "ok" */
	bool (*is_away)(const struct disk *disk);      /* NULL: never */
	/** @hurry: no request waits beyond @deadline any more, clock_nanoseconds(). NULL: they cannot be ended */
	void (*hurry)(struct disk *disk, uint64_t deadline);

	/** @channel_open: may be NULL. Return: 0 or -errno. */
	int (*channel_open)(struct block_channel *channel);
	void (*submit)(struct block_channel *channel, struct block_request *request);
	void (*flush_submissions)(struct block_channel *channel); /* may be NULL */

	/** @resume: for users of block_worker_resume(), else NULL. */
	void (*resume)(struct block_request *request);

	/* for users of block_worker_start(), else NULL */
	void (*prepare)(struct block_request *request, struct io_uring_sqe *entry);
	void (*kernel_done)(struct block_request *request, int result);
};

struct disk {
	const struct disk_ops *ops;
	char *name;
	char serial[DISK_SERIAL_SIZE + 1];
	struct disk_limits limits; /* all but the size stay as they were at open */
	_Atomic uint64_t size;	   /* written by the control thread, read by anybody */

	/* what is in flight, and for how long: see "Generations" in block/disk.c */
	atomic_uint generation;		/* 0 or 1; written by the control thread */
	uint64_t turned_ns;		/* the control thread's, and so are these: */
	struct block_channel *channels; /* linked by @next */
};

struct block_channel {
	const struct disk_ops *ops;
	struct disk *disk;
	struct sidecore *sidecore;
	struct block_worker *worker; /* the sidecore's */
	struct block_channel *next;  /* of the disk's; the control thread's */
	uint64_t in_flight[2];	     /* requests of each generation; counted by the sidecore (base/counter.h) */
};

extern const struct disk_ops ram_disk_ops, null_disk_ops, file_disk_ops, nbd_disk_ops;

/** disk_error() - keep the sentence for the operator. Return: @error, so that it can be returned at once. */
int disk_error(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** block_finish() - sidecore: the request is over; its segments are as the device model gave them. */
static inline void block_finish(struct block_request *request, int status)
{
	if (unlikely(request->segment_split)) {
		request->segments[request->segment_first] = request->segment_saved;
		request->segment_split = false;
	}
	counter_add(&request->channel->in_flight[request->generation], (uint64_t)-1);
	request->complete(request, status);
}

/** block_advance() - @length more bytes of @request's segments are transferred. */
void block_advance(struct block_request *request, uint64_t length);

/** block_gather() - copy the next @length bytes of the segments to @to; block_scatter(): the other way. No advance. */
void block_gather(const struct block_request *request, void *to, size_t length);
void block_scatter(const struct block_request *request, const void *from, size_t length);

#endif
