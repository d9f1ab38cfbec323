/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * RAM disk: anonymous memory, in huge pages where the kernel gives them. A request is one memcpy() for each segment and
 * completes inside block_submit() or block_flush_submissions(), unless it is large.
 *
 * Theory of operation
 * -------------------
 * Any number of sidecores serve one RAM disk without locks: two requests that overlap in time and place may leave any
 * mix of their bytes, as on every disk; everything else touches different memory.
 *
 * What a random read costs is waiting for memory. So transfers wait in a short window of their channel: when one is
 * submitted its first cache lines are asked for, and the oldest in the window, whose lines have come meanwhile, is
 * copied; of a long one the processor's own prefetcher sees to the rest. The end of the batch empties the window.
 *
 * The address range is reserved larger than the disk, so that growing needs no move: sidecores never see the base
 * change. A request that was checked against the size before a shrink still hits memory of ours. What lies past the
 * size is given back to the kernel when the disk shrinks, and again when it grows, so that a late write to it never
 * shows.
 *
 * A request may be as large as the guest's memory: a turn's worth of it is copied at once, the rest slice by slice in
 * turns of the worker's.
 *
 * Discard and write zeroes with "may unmap" give whole pages back, which then read as zeroes; their limits are such
 * that one request does not hold the sidecore for long (a MiB of memset is some 100 us).
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "block/disk.h"
#include "block/worker.h"

#define RESERVED_SIZE	 (256ULL << 30)
#define HUGE_PAGE	 (2ULL << 20)
#define PAGE		 4096ULL
#define DISCARD_MAX	 HUGE_PAGE
#define WRITE_ZEROES_MAX (256ULL << 10)
#define SLICE		 (512ULL << 10)

/**
 * Transfers that wait, and how much of each is asked for. Measured at depth 128: all of a read's 4 KiB is better than a
 * part of it, more than four of them in the window no better. Stores do not wait for memory, so a write needs only the
 * start; more would cost a lone write (depth 1) a third of its speed.
 */
#define WINDOW	       4U
#define PREFETCH_READ  4096U
#define PREFETCH_WRITE 512U

struct ram_channel {
	struct block_channel channel;
	struct block_request *window[WINDOW]; /* the transfer that was submitted as number n is at n % WINDOW */
	unsigned first, next;		      /* numbers of the oldest in the window, and of the next to come */
};

struct ram_disk {
	struct disk disk;
	uint8_t *mapping; /* what munmap() takes */
	uint8_t *memory;  /* huge page aligned */
	uint64_t mapping_size;
	uint64_t capacity; /* bytes from @memory on that the disk may grow to */
};

static uint8_t *reserve(uint64_t size)
{
	uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static int ram_open(struct disk *disk, const struct disk_config *config, struct engine *engine)
{
	struct ram_disk *ram = container_of(disk, struct ram_disk, disk);
	struct disk_limits *limits = &disk->limits;
	uint64_t size;

	if (!checked_add(config->size, HUGE_PAGE, &size))
		return disk_error(-EINVAL, "disk %s: impossible size", disk->name);

	/* A system that does not overcommit refuses the large reservation; the disk then cannot grow. */
	ram->mapping_size = max(size, RESERVED_SIZE);
	ram->mapping = reserve(ram->mapping_size);
	if (!ram->mapping) {
		ram->mapping_size = size;
		ram->mapping = reserve(size);
	}
	if (!ram->mapping)
		return disk_error(-errno, "disk %s: no %llu MiB of memory (%s); make it smaller", disk->name,
				  (unsigned long long)(config->size >> 20), strerror(errno));
	ram->memory = ram->mapping + (-(uintptr_t)ram->mapping & (HUGE_PAGE - 1));
	ram->capacity = ram->mapping_size - (uint64_t)(ram->memory - ram->mapping);
	/* Advice: without huge pages the disk is slower, not wrong. Guest data has no place in a core dump. */
	madvise(ram->memory, ram->capacity, MADV_HUGEPAGE);
	madvise(ram->memory, ram->capacity, MADV_DONTDUMP);

	atomic_store(&disk->size, config->size);
	limits->discard = !limits->read_only;
	limits->write_zeroes = !limits->read_only;
	limits->write_zeroes_unmap = limits->write_zeroes;
	limits->discard_alignment = PAGE;
	limits->discard_max = DISCARD_MAX;
	limits->write_zeroes_max = WRITE_ZEROES_MAX;
	return 0;
}

static void ram_close(struct disk *disk)
{
	struct ram_disk *ram = container_of(disk, struct ram_disk, disk);

	if (ram->mapping)
		munmap(ram->mapping, ram->mapping_size);
}

/* Zeroes [offset, offset + length), giving whole pages back to the kernel. */
static void ram_release(struct ram_disk *ram, uint64_t offset, uint64_t length)
{
	uint64_t first = (offset + PAGE - 1) & ~(PAGE - 1);
	uint64_t last = (offset + length) & ~(PAGE - 1);

	if (first >= last || madvise(ram->memory + first, last - first, MADV_DONTNEED)) {
		memset(ram->memory + offset, 0, length);
		return;
	}
	memset(ram->memory + offset, 0, first - offset);
	memset(ram->memory + last, 0, offset + length - last);
}

static int ram_resize(struct disk *disk, uint64_t size)
{
	struct ram_disk *ram = container_of(disk, struct ram_disk, disk);
	uint64_t old = atomic_load(&disk->size);

	if (!size)
		return disk_error(-EINVAL, "disk %s: a RAM disk needs a size", disk->name);
	if (size > ram->capacity)
		return disk_error(-ENOSPC, "disk %s: it cannot grow past %llu MiB; restart with the new size",
				  disk->name, (unsigned long long)(ram->capacity >> 20));
	if (size > old)
		ram_release(ram, old, size - old);
	atomic_store(&disk->size, size);
	if (size < old)
		ram_release(ram, size, old - size);
	return 0;
}

static void ram_read(const uint8_t *from, const struct block_request *request)
{
	for (unsigned i = 0; i < request->segment_count; i++) {
		guest_write(request->segments[i].base, from, request->segments[i].length);
		from += request->segments[i].length;
	}
}

static void ram_write(uint8_t *to, const struct block_request *request)
{
	for (unsigned i = 0; i < request->segment_count; i++) {
		guest_read(to, request->segments[i].base, request->segments[i].length);
		to += request->segments[i].length;
	}
}

/* Copies for the oldest transfer in the window. */
static void transfer_oldest(struct ram_channel *ram_channel)
{
	struct block_request *request = ram_channel->window[ram_channel->first++ % WINDOW];
	uint8_t *place = container_of(ram_channel->channel.disk, struct ram_disk, disk)->memory + request->offset;

	if (request->operation == BLOCK_READ)
		ram_read(place, request);
	else
		ram_write(place, request);
	block_finish(request, 0);
}

static void take_transfer(struct ram_channel *ram_channel, struct block_request *request, const uint8_t *place)
{
	if (ram_channel->next - ram_channel->first == WINDOW)
		transfer_oldest(ram_channel);
	if (request->operation == BLOCK_READ) {
		for (size_t i = 0; i < min(request->length, (uint64_t)PREFETCH_READ); i += CACHE_LINE)
			__builtin_prefetch(place + i, 0);
	} else {
		for (size_t i = 0; i < min(request->length, (uint64_t)PREFETCH_WRITE); i += CACHE_LINE)
			__builtin_prefetch(place + i, 1);
	}
	ram_channel->window[ram_channel->next++ % WINDOW] = request;
}

/* One slice of a read or write that is too large for a turn. Memory is copied at some GB/s, so a slice takes 0.1 ms. */
static void ram_resume(struct block_request *request)
{
	struct ram_disk *ram = container_of(request->channel->disk, struct ram_disk, disk);
	uint64_t length = min(request->length - request->done, SLICE);
	uint8_t *place = ram->memory + request->offset + request->done;

	if (request->operation == BLOCK_READ)
		block_scatter(request, place, length);
	else
		block_gather(request, place, length);
	block_advance(request, length);
	if (request->done < request->length)
		block_worker_resume(request->channel->worker, request);
	else
		block_finish(request, 0);
}

static void ram_submit(struct block_channel *channel, struct block_request *request)
{
	struct ram_disk *ram = container_of(channel->disk, struct ram_disk, disk);
	uint8_t *place = ram->memory + request->offset;

	/* The device model checks against the size; this is the last line between a mistake there and our memory. */
	if (unlikely(!range_inside(request->offset, request->length, ram->capacity))) {
		block_finish(request, -EIO);
		return;
	}
	if (unlikely(request->length > SLICE && request->operation <= BLOCK_WRITE)) {
		ram_resume(request);
		return;
	}
	switch ((enum block_operation)request->operation) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		take_transfer(container_of(channel, struct ram_channel, channel), request, place);
		return;
	case BLOCK_FLUSH:
		break;
	case BLOCK_DISCARD:
		ram_release(ram, request->offset, request->length);
		break;
	case BLOCK_WRITE_ZEROES:
		if (request->may_unmap)
			ram_release(ram, request->offset, request->length);
		else
			memset(place, 0, request->length);
		break;
	}
	block_finish(request, 0);
}

static void ram_flush_submissions(struct block_channel *channel)
{
	struct ram_channel *ram_channel = container_of(channel, struct ram_channel, channel);

	while (ram_channel->first != ram_channel->next)
		transfer_oldest(ram_channel);
}

const struct disk_ops ram_disk_ops = {
	.kind = "ram",
	.transient = true,
	.disk_size = sizeof(struct ram_disk),
	.channel_size = sizeof(struct ram_channel),
	.open = ram_open,
	.close = ram_close,
	.resize = ram_resize,
	.submit = ram_submit,
	.flush_submissions = ram_flush_submissions,
	.resume = ram_resume,
};
