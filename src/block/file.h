/* SPDX-License-Identifier: BSD-3-Clause */
/* File disks: what opening (block/file.c) and requests (block/file_io.c) share. */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "block/disk.h"

struct file_disk {
	struct disk disk;
	int fd;
	bool block_device;
	bool direct;
	bool handover;		   /* locked by acquire, not by open */
	unsigned memory_alignment; /* direct: of each segment's address; a power of two */
	unsigned length_alignment; /* direct: of each segment's length, and of the offset in the file */
	const char *state;
	/* What the file system turned out not to do; found at open or by the first request, by any sidecore. */
	atomic_bool cannot_punch, cannot_zero;
	atomic_bool always_waits; /* reads have no RWF_NOWAIT */
};

void file_submit(struct block_channel *channel, struct block_request *request);
void file_flush_submissions(struct block_channel *channel);
void file_prepare(struct block_request *request, struct io_uring_sqe *entry);
void file_kernel_done(struct block_request *request, int result);

/**
 * direct_io_alignment() - what O_DIRECT on @fd needs (statx(2), STATX_DIOALIGN; Linux 6.1).
 *
 * Return: 0; -EOPNOTSUPP when the file cannot do direct I/O; -ENOSYS when nobody can tell.
 */
int direct_io_alignment(int fd, unsigned *memory, unsigned *length);

#endif
