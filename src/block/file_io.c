/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests of file disks.
 *
 * Theory of operation
 * -------------------
 * A request is in one *stage* at a time, and each stage is one system call that the ring makes for us: file_prepare()
 * writes it down, file_kernel_done() looks at its result and either repeats the stage with what is left, goes to the
 * next stage, or finishes.
 *
 *	read, write	TRANSFER (again after a short one)
 *	flush		SYNC
 *	discard		PUNCH
 *	write zeroes	PUNCH or ZERO_RANGE; ZEROES when the file system can do neither; SYNC after one of the first
 *			two when durable
 *
 * Durable writes carry RWF_DSYNC; no second stage.
 *
 * Reads through the page cache are tried with a plain system call first, one that does not wait (RWF_NOWAIT): what the
 * cache has is copied at once, in the turn that asks and pays for it, as by a RAM disk, and without what a ring's entry
 * and its completion cost. Otherwise that call has told the kernel to read ahead, and the ring waits for it.
 *
 * Direct I/O wants aligned memory. A request with a misaligned segment goes through a bounce buffer, chunk by chunk; it
 * keeps its buffer from its first chunk to its end.
 *
 * A read that meets the end of the file inside the disk means that somebody truncated it under us: -EIO, since zeroes
 * would be a guess about data that once was there.
 *
 * Context: sidecore.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/uio.h>

#include "block/file.h"
#include "block/worker.h"

/* EAGAIN and EINTR are tried again; a file that answers nothing else is broken. */
#define RETRIES_MAX 100

/* Bytes of a read or write that the kernel is given at a time. */
#define TRANSFER_MAX (1UL << 20)

/* A longer read is the ring's, which moves TRANSFER_MAX bytes at a time. */
#define CACHED_MAX (128U << 10)

enum stage {
	STAGE_TRANSFER,
	STAGE_PUNCH,
	STAGE_ZERO_RANGE,
	STAGE_ZEROES,
	STAGE_SYNC,
};

static struct file_disk *file_of(const struct block_request *request)
{
	return container_of(request->channel->disk, struct file_disk, disk);
}

static bool load_flag(const atomic_bool *flag)
{
	return atomic_load_explicit(flag, memory_order_relaxed);
}

static enum stage zeroing_stage(const struct file_disk *file, const struct block_request *request)
{
	if (request->may_unmap && !load_flag(&file->cannot_punch))
		return STAGE_PUNCH;
	return load_flag(&file->cannot_zero) ? STAGE_ZEROES : STAGE_ZERO_RANGE;
}

static enum stage first_stage(const struct file_disk *file, const struct block_request *request)
{
	switch ((enum block_operation)request->operation) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return STAGE_TRANSFER;
	case BLOCK_DISCARD:
		return STAGE_PUNCH;
	case BLOCK_WRITE_ZEROES:
		return zeroing_stage(file, request);
	case BLOCK_FLUSH:
		break;
	}
	return STAGE_SYNC;
}

static bool aligned(const struct file_disk *file, const struct block_request *request)
{
	uintptr_t addresses = 0;
	size_t lengths = 0;

	for (unsigned i = request->segment_first; i < request->segment_count; i++) {
		addresses |= (uintptr_t)request->segments[i].base;
		lengths |= request->segments[i].length;
	}
	return !(addresses & (file->memory_alignment - 1)) && !(lengths & (file->length_alignment - 1));
}

/* Starts a transfer that needs a bounce buffer, now or when one is free. */
static void start_bounced(struct block_worker *worker, struct block_request *request)
{
	request->bounce = block_worker_take_bounce(worker, request);
	if (request->bounce)
		block_worker_start(worker, request);
}

/* Return: true when the page cache had all of it; what it had of the rest is done. */
static bool read_cached(struct file_disk *file, struct block_request *request)
{
	ssize_t count;

	if (file->direct || request->operation != BLOCK_READ || request->length > CACHED_MAX ||
	    load_flag(&file->always_waits))
		return false;
	count = preadv2(file->fd, guest_segments_iovec(request->segments), (int)request->segment_count,
			(off_t)request->offset, RWF_NOWAIT);
	if (likely(count == (ssize_t)request->length))
		return true;
	if (count > 0)
		block_advance(request, (uint64_t)count);
	else if (count < 0 && errno == EOPNOTSUPP)
		atomic_store_explicit(&file->always_waits, true, memory_order_relaxed);
	/* Errors will come again. */
	return false;
}

void file_submit(struct block_channel *channel, struct block_request *request)
{
	struct file_disk *file = container_of(channel->disk, struct file_disk, disk);
	struct block_worker *worker = channel->worker;

	request->bounce = NULL;
	request->retries = 0;
	request->stage = (uint8_t)first_stage(file, request);
	if (unlikely(worker->ring_error))
		block_finish(request, -EIO);
	else if (read_cached(file, request))
		block_finish(request, 0);
	else if (unlikely(file->direct && request->stage == STAGE_TRANSFER && !aligned(file, request)))
		start_bounced(worker, request);
	else
		block_worker_start(worker, request);
}

void file_flush_submissions(struct block_channel *channel)
{
	block_worker_flush(channel->worker);
	block_worker_take_inline(channel->worker);
}

/*
 * As many of @segments as TRANSFER_MAX bytes reach, at least one. Whatever the request's length, the kernel copies or
 * pins so much of it at a time; what is left follows as after a short transfer. Return: their number; @bytes: out.
 */
static unsigned cut_transfer(const struct guest_segment *segments, unsigned count, uint64_t *bytes)
{
	unsigned taken = 1;

	*bytes = min(segments->length, TRANSFER_MAX);
	while (taken < count && *bytes + segments[taken].length <= TRANSFER_MAX)
		*bytes += segments[taken++].length;
	return taken;
}

static void prepare_transfer(struct block_request *request, struct io_uring_sqe *entry)
{
	uint64_t left = request->length - request->done, place = request->offset + request->done;
	struct guest_segment *segments = request->segments + request->segment_first;
	unsigned count = request->segment_count - request->segment_first;
	struct guest_segment bounce = { guest_bytes_of(request->bounce), min(left, (uint64_t)BOUNCE_SIZE) };
	bool write = request->operation == BLOCK_WRITE;
	int fd = file_of(request)->fd;
	uint64_t bytes;

	if (request->bounce) {
		if (write)
			block_gather(request, request->bounce, bounce.length);
		segments = &bounce;
		count = 1;
	}
	count = cut_transfer(segments, count, &bytes);
	request->channel->worker->queued += bytes;
	if (count == 1) {
		/* One segment needs no vector to be read by the kernel. */
		if (write)
			io_uring_prep_write(entry, fd, segments->base, (unsigned)bytes, place);
		else
			io_uring_prep_read(entry, fd, segments->base, (unsigned)bytes, place);
	} else if (write) {
		io_uring_prep_writev(entry, fd, guest_segments_iovec(segments), count, place);
	} else {
		io_uring_prep_readv(entry, fd, guest_segments_iovec(segments), count, place);
	}
	if (write && request->durable)
		entry->rw_flags = RWF_DSYNC;
}

static void prepare_zeroes(struct block_request *request, struct io_uring_sqe *entry)
{
	uint64_t left = request->length - request->done, place = request->offset + request->done;
	const struct iovec *zeroes = request->channel->worker->zeroes;
	int fd = file_of(request)->fd;

	if (left < ZEROES_SIZE)
		io_uring_prep_write(entry, fd, zeroes->iov_base, (unsigned)left, place);
	else
		io_uring_prep_writev(entry, fd, zeroes, (unsigned)min(left / ZEROES_SIZE, (uint64_t)ZEROES_COUNT),
				     place);
	if (request->durable)
		entry->rw_flags = RWF_DSYNC;
}

void file_prepare(struct block_request *request, struct io_uring_sqe *entry)
{
	int fd = file_of(request)->fd;

	switch ((enum stage)request->stage) {
	case STAGE_TRANSFER:
		prepare_transfer(request, entry);
		break;
	case STAGE_PUNCH:
		io_uring_prep_fallocate(entry, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
					(off_t)request->length);
		break;
	case STAGE_ZERO_RANGE:
		io_uring_prep_fallocate(entry, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
					(off_t)request->length);
		break;
	case STAGE_ZEROES:
		prepare_zeroes(request, entry);
		break;
	case STAGE_SYNC:
		io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC);
		break;
	}
}

static void finish(struct block_request *request, int status)
{
	void *bounce = request->bounce;
	struct block_worker *worker = request->channel->worker;

	if (bounce) {
		request->bounce = NULL;
		block_worker_give_bounce(worker, bounce);
	}
	block_finish(request, status);
}

static void start_stage(struct block_request *request, enum stage stage)
{
	request->stage = (uint8_t)stage;
	block_worker_start(request->channel->worker, request);
}

static void transfer_done(struct block_request *request, int result)
{
	const struct file_disk *file = file_of(request);

	if (result == -EINVAL && file->direct && !request->bounce) {
		/* The device is pickier about memory than the kernel said. */
		start_bounced(request->channel->worker, request);
		return;
	}
	if (result <= 0) {
		finish(request, result ? result : -EIO);
		return;
	}
	if (request->bounce && request->operation == BLOCK_READ)
		block_scatter(request, request->bounce, (size_t)result);
	block_advance(request, (uint64_t)result);
	request->retries = 0;
	if (request->done == request->length)
		finish(request, 0);
	else
		start_stage(request, STAGE_TRANSFER);
}

static void allocation_done(struct block_request *request, int result)
{
	struct file_disk *file = file_of(request);
	bool punched = request->stage == STAGE_PUNCH;

	if (result == -EOPNOTSUPP || result == -ENOSYS) {
		atomic_store_explicit(punched ? &file->cannot_punch : &file->cannot_zero, true, memory_order_relaxed);
		if (request->operation == BLOCK_WRITE_ZEROES) {
			start_stage(request, zeroing_stage(file, request));
			return;
		}
		result = -EOPNOTSUPP;
	}
	if (!result && request->durable && request->operation == BLOCK_WRITE_ZEROES)
		start_stage(request, STAGE_SYNC);
	else
		finish(request, result);
}

static void zeroes_done(struct block_request *request, int result)
{
	if (result <= 0) {
		finish(request, result ? result : -EIO);
		return;
	}
	request->done += (uint64_t)result;
	request->retries = 0;
	if (request->done == request->length)
		finish(request, 0);
	else
		start_stage(request, STAGE_ZEROES);
}

void file_kernel_done(struct block_request *request, int result)
{
	if (unlikely((result == -EAGAIN || result == -EINTR) && request->retries++ < RETRIES_MAX)) {
		start_stage(request, request->stage);
		return;
	}
	switch ((enum stage)request->stage) {
	case STAGE_TRANSFER:
		transfer_done(request, result);
		break;
	case STAGE_PUNCH:
	case STAGE_ZERO_RANGE:
		allocation_done(request, result);
		break;
	case STAGE_ZEROES:
		zeroes_done(request, result);
		break;
	case STAGE_SYNC:
		finish(request, result);
		break;
	}
}
