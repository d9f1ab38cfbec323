/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks: what all backends have in common.
 *
 * Theory of operation
 * -------------------
 * A backend is a table of functions (struct disk_ops) and two structures that begin with struct disk and struct
 * block_channel. This file makes and frees them, answers for limits and names, and hands requests through; it does
 * nothing else for a request than one indirect call.
 *
 * A request that a backend cannot finish in one go carries its own progress: bytes done, the first segment that is not
 * wholly transferred, and that segment's original when the transfer ended inside it. block_advance() moves on and
 * block_finish() puts the original back, so that the device model sees (and logs as dirty) what it gave.
 *
 * *Generations.* Before a daemon is restarted it must know whether a disk answers at all, and a clock read for each
 * request would be too much for that. So each request in flight is counted in one of two generations, in a counter that
 * belongs to its channel and is written by its sidecore only. Once a second the control thread looks: when the older
 * generation has gone, the present one becomes the older, and new requests are counted in the other, which is empty.
 * Whatever is left of the older generation has been in flight since that turn, at least. (A sidecore may count one in
 * the generation that was present a moment ago. It seems older than it is then, by less than the time between two of
 * its instructions.)
 *
 * Context: see block.h. Only disk->size and the generation change after open.
 */
#include "block/disk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/worker.h"

/* The sentence outlives the disk that could not be opened; one for each thread, as errno is. */
static _Thread_local char error_text[512];

int disk_error(int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error_text, sizeof(error_text), format, arguments);
	va_end(arguments);
	return error;
}

static const struct disk_ops *find_ops(const struct disk_config *config)
{
	switch (config->type) {
	case DISK_FILE:
		return &file_disk_ops;
	case DISK_RAM:
		return &ram_disk_ops;
	case DISK_NULL:
		return &null_disk_ops;
	case DISK_NBD:
		return &nbd_disk_ops;
	}
	return NULL;
}

/* What is the same for all backends, before the backend is asked. */
static int set_up(struct disk *disk, const struct disk_config *config)
{
	const char *serial = config->serial ? config->serial : config->name;
	struct disk_limits *limits = &disk->limits;

	limits->block_size = config->block_size ? config->block_size : 512;
	limits->physical_block_size = limits->block_size;
	limits->read_only = config->read_only;
	if (limits->block_size != 512 && limits->block_size != 4096)
		return disk_error(-EINVAL, "disk %s: block size %u; use 512 or 4096", config->name, limits->block_size);

	snprintf(disk->serial, sizeof(disk->serial), "%.*s", DISK_SERIAL_SIZE, serial);
	disk->name = strdup(config->name);
	return disk->name ? 0 : disk_error(-ENOMEM, "disk %s: out of memory", config->name);
}

static int open_backend(struct disk *disk, const struct disk_config *config, struct engine *engine)
{
	uint64_t size;
	int rc = disk->ops->open(disk, config, engine);

	if (rc)
		return rc;
	size = atomic_load(&disk->size);
	size -= size % disk->limits.block_size;
	if (!size)
		return disk_error(-EINVAL, "disk %s: it is empty; give it a size of at least one block (%u bytes)",
				  disk->name, disk->limits.block_size);
	atomic_store(&disk->size, size);
	return 0;
}

int disk_open(const struct disk_config *config, struct engine *engine, struct disk **disk, const char **error)
{
	const struct disk_ops *ops = find_ops(config);
	struct disk *opened;
	int rc;

	*error = error_text;
	if (!ops)
		return disk_error(-EINVAL, "disk %s: no such type", config->name);
	opened = calloc(1, ops->disk_size);
	if (!opened)
		return disk_error(-ENOMEM, "disk %s: out of memory", config->name);
	opened->ops = ops;
	rc = set_up(opened, config);
	if (rc) {
		free(opened);
		return rc;
	}
	rc = open_backend(opened, config, engine);
	if (rc) {
		disk_close(opened);
		return rc;
	}
	*disk = opened;
	return 0;
}

void disk_close(struct disk *disk)
{
	disk->ops->close(disk);
	free(disk->name);
	free(disk);
}

int disk_acquire(struct disk *disk, const char **error)
{
	*error = error_text;
	return disk->ops->acquire ? disk->ops->acquire(disk) : 0;
}

void disk_release(struct disk *disk)
{
	if (disk->ops->release)
		disk->ops->release(disk);
}

void disk_read_limits(const struct disk *disk, struct disk_limits *limits)
{
	*limits = disk->limits;
	limits->size = atomic_load_explicit(&disk->size, memory_order_relaxed);
}

const char *disk_serial(const struct disk *disk)
{
	return disk->serial;
}

const char *disk_kind(const struct disk *disk)
{
	return disk->ops->kind;
}

bool disk_is_transient(const struct disk *disk)
{
	return disk->ops->transient;
}

const char *disk_state(const struct disk *disk)
{
	return disk->ops->state ? disk->ops->state(disk) : "ok";
}

static unsigned count_generation(const struct disk *disk, unsigned generation)
{
	uint64_t count = 0;

	for (const struct block_channel *channel = disk->channels; channel; channel = channel->next)
		count += counter_read(&channel->in_flight[generation]);
	return (unsigned)count;
}

void disk_observe(struct disk *disk, uint64_t now)
{
	unsigned older = 1 - atomic_load(&disk->generation);

	if (count_generation(disk, older))
		return;
	atomic_store(&disk->generation, older);
	disk->turned_ns = now;
}

uint64_t disk_waited(const struct disk *disk, uint64_t now)
{
	return count_generation(disk, 1 - atomic_load(&disk->generation)) ? now - disk->turned_ns : 0;
}

unsigned disk_in_flight(const struct disk *disk)
{
	return count_generation(disk, 0) + count_generation(disk, 1);
}

bool disk_is_away(const struct disk *disk)
{
	return disk->ops->is_away && disk->ops->is_away(disk);
}

bool disk_hurry(struct disk *disk, uint64_t deadline)
{
	if (!disk->ops->hurry)
		return false;
	disk->ops->hurry(disk, deadline);
	return true;
}

int disk_resize(struct disk *disk, uint64_t size, const char **error)
{
	*error = error_text;
	if (size % disk->limits.block_size)
		return disk_error(-EINVAL, "disk %s: the size is not a multiple of its block size, %u", disk->name,
				  disk->limits.block_size);
	return disk->ops->resize(disk, size);
}

int block_channel_open(struct disk *disk, struct sidecore *sidecore, struct block_channel **channel)
{
	struct block_channel *opened;
	int rc;

	opened = calloc(1, disk->ops->channel_size);
	if (!opened)
		return -ENOMEM;
	opened->ops = disk->ops;
	opened->disk = disk;
	opened->sidecore = sidecore;
	opened->worker = sidecore_slot(sidecore, SIDECORE_SLOT_BLOCK);
	opened->next = disk->channels;
	rc = opened->worker ? 0 : -EINVAL;
	if (!rc && disk->ops->channel_open)
		rc = disk->ops->channel_open(opened);
	if (rc) {
		free(opened);
		return rc;
	}
	disk->channels = opened;
	*channel = opened;
	return 0;
}

void block_channel_close(struct block_channel *channel, struct engine_completion *completion)
{
	struct engine *engine = sidecore_engine(channel->sidecore);
	struct block_channel **link = &channel->disk->channels;

	while (*link != channel)
		link = &(*link)->next;
	*link = channel->next;
	/* An idle channel is referred to by its requests' owner only, who has let go of it: nothing to wait for. */
	free(channel);
	if (completion)
		engine_complete(engine, completion);
}

void block_submit(struct block_channel *channel, struct block_request *request)
{
	request->channel = channel;
	request->done = 0;
	request->segment_first = 0;
	request->segment_split = false;
	request->generation = (uint8_t)atomic_load_explicit(&channel->disk->generation, memory_order_relaxed);
	counter_add(&channel->in_flight[request->generation], 1);
	channel->ops->submit(channel, request);
}

void block_flush_submissions(struct block_channel *channel)
{
	if (channel->ops->flush_submissions)
		channel->ops->flush_submissions(channel);
}

void block_at_batch_end(struct block_channel *channel, struct block_batch_end *end)
{
	block_worker_at_batch_end(channel->worker, end);
}

void block_advance(struct block_request *request, uint64_t length)
{
	request->done += length;
	while (length) {
		struct guest_segment *segment = &request->segments[request->segment_first];

		if (length < segment->length) {
			if (!request->segment_split) {
				request->segment_saved = *segment;
				request->segment_split = true;
			}
			segment->base += length;
			segment->length -= length;
			return;
		}
		length -= segment->length;
		if (request->segment_split) {
			*segment = request->segment_saved;
			request->segment_split = false;
		}
		request->segment_first++;
	}
}

void block_gather(const struct block_request *request, void *to, size_t length)
{
	const struct guest_segment *segment = request->segments + request->segment_first;

	for (char *place = to; length; segment++) {
		size_t piece = min(length, segment->length);

		guest_read(place, segment->base, piece);
		place += piece;
		length -= piece;
	}
}

void block_scatter(const struct block_request *request, const void *from, size_t length)
{
	const struct guest_segment *segment = request->segments + request->segment_first;

	for (const char *place = from; length; segment++) {
		size_t piece = min(length, segment->length);

		guest_write(segment->base, place, piece);
		place += piece;
		length -= piece;
	}
}
