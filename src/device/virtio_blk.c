/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk: a disk as a guest sees it (virtio 1.3 5.2).
 *
 * Theory of operation
 * -------------------
 * This file is the device: features, configuration space, life of its queues. What happens to requests is in
 * device/virtio_blk_request.c.
 *
 * Configuration space is computed from the disk's limits when it is read; nothing of it is stored but the driver's
 * choice of the cache mode and the size. The size is a copy of the disk's: requests are checked against the copy, and
 * virtio_blk_resized() takes a new one and has the guest told.
 *
 * Cache mode (virtio 1.3 5.2.5, 5.2.6.2). A disk with a volatile cache offers FLUSH and CONFIG_WCE. A driver that did
 * not take FLUSH cannot ask for durability, so all its writes are durable (write-through); one that took CONFIG_WCE
 * chooses, by the field "writeback", at any time; else write-back is in force. A disk without a cache offers neither,
 * and every completed write is as durable as it gets.
 *
 * Each queue has its own channel to the disk from its own sidecore, and shares nothing with the other queues but the
 * disk itself, the size and the cache mode (one relaxed load each).
 *
 * Context: control thread, but for what blk_queue_poll() does on the sidecore.
 */
#include "device/virtio_blk.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/counter.h"
#include "device/virtio_blk_internal.h"

/** Bytes of the configuration space of virtio 1.3, secure erase and zoned fields included (which read as zero). */
#define CONFIG_SIZE 96U

#define QUEUE_SIZE_DEFAULT 1024U
#define SIZE_MAX_OFFERED   (1U << 20)

/*
 * Segments offered: with header and status in two descriptors of their own a chain then fits queues of 128 entries,
 * which front-ends make by default; drivers must not make chains longer than their queue even when they use indirect
 * tables (virtio 1.3 2.7.5.3.1), and the device cannot know the size before it offers.
 */
#define SEGMENTS_OFFERED 126U

#define feature(bit) (1ULL << (bit))

static uint64_t offered_features(const struct disk_limits *limits, const struct virtio_blk_options *options)
{
	uint64_t features = feature(VIRTIO_F_VERSION_1) | feature(VIRTIO_F_ANY_LAYOUT) | feature(VIRTIO_F_RING_PACKED) |
			    feature(VIRTIO_RING_F_INDIRECT_DESC) | feature(VIRTIO_RING_F_EVENT_IDX) |
			    feature(VIRTIO_BLK_F_SIZE_MAX) | feature(VIRTIO_BLK_F_SEG_MAX) |
			    feature(VIRTIO_BLK_F_BLK_SIZE) | feature(VIRTIO_BLK_F_TOPOLOGY);

	if (options->queues > 1)
		features |= feature(VIRTIO_BLK_F_MQ);
	if (limits->flush_needed)
		features |= feature(VIRTIO_BLK_F_FLUSH) | feature(VIRTIO_BLK_F_CONFIG_WCE);
	if (limits->discard)
		features |= feature(VIRTIO_BLK_F_DISCARD);
	if (limits->write_zeroes)
		features |= feature(VIRTIO_BLK_F_WRITE_ZEROES);
	if (limits->read_only)
		features |= feature(VIRTIO_BLK_F_RO);
	return features & ~options->features_off;
}

static uint32_t to_sectors(uint64_t bytes)
{
	return (uint32_t)min(bytes / SECTOR_SIZE, (uint64_t)UINT32_MAX);
}

static void fill_topology(const struct disk_limits *limits, struct virtio_blk_config *config)
{
	uint32_t block = limits->block_size, physical = max(limits->physical_block_size, block);

	config->blk_size = htole32(block);
	config->physical_block_exp = (uint8_t)__builtin_ctz(physical / block);
	config->min_io_size = htole16((uint16_t)min(limits->io_minimum / block, (uint32_t)UINT16_MAX));
	config->opt_io_size = htole32(limits->io_optimal / block);
}

static void fill_config(const struct virtio_blk *blk, struct virtio_blk_config *config)
{
	const struct disk_limits *limits = &blk->limits;
	uint32_t segments = min(SEGMENTS_OFFERED, max(blk->device.queue_size_max, 3U) - 2U);

	memset(config, 0, sizeof(*config));
	config->capacity = htole64(atomic_load_explicit(&blk->size, memory_order_relaxed) / SECTOR_SIZE);
	config->size_max = htole32(SIZE_MAX_OFFERED);
	config->seg_max = htole32(segments);
	fill_topology(limits, config);
	config->wce = atomic_load_explicit(&blk->writeback, memory_order_relaxed);
	config->num_queues = htole16(blk->device.queue_count);
	if (limits->discard) {
		config->max_discard_sectors = htole32(to_sectors(limits->discard_max));
		config->max_discard_seg = htole32(DISCARD_RANGES_MAX);
		config->discard_sector_alignment = htole32(to_sectors(limits->discard_alignment));
	}
	if (limits->write_zeroes) {
		config->max_write_zeroes_sectors = htole32(to_sectors(limits->write_zeroes_max));
		config->max_write_zeroes_seg = htole32(WRITE_ZEROES_RANGES_MAX);
		config->write_zeroes_may_unmap = limits->write_zeroes_unmap;
	}
}

static void blk_config_read(struct virtio_device *device, uint32_t offset, void *to, uint32_t length)
{
	uint8_t space[CONFIG_SIZE] = { 0 };

	_Static_assert(sizeof(struct virtio_blk_config) <= CONFIG_SIZE, "the kernel's header knows later fields");
	fill_config(virtio_blk_of(device), (struct virtio_blk_config *)space);
	if (range_inside(offset, length, sizeof(space)))
		memcpy(to, space + offset, length);
}

/* The cache mode that is in force (virtio 1.3 5.2.6.2). */
static void update_durability(struct virtio_blk *blk)
{
	uint64_t features = blk->device.acked_features;
	bool writeback = features & feature(VIRTIO_BLK_F_FLUSH);

	if (features & feature(VIRTIO_BLK_F_CONFIG_WCE))
		writeback = atomic_load(&blk->writeback);
	atomic_store(&blk->durable, blk->limits.flush_needed && !writeback);
}

static int blk_config_write(struct virtio_device *device, uint32_t offset, const void *from, uint32_t length)
{
	struct virtio_blk *blk = virtio_blk_of(device);
	const uint8_t *writeback = from;

	/* The one field that a driver writes (virtio 1.3 5.2.5). */
	if (offset != offsetof(struct virtio_blk_config, wce) || length != 1 || *writeback > 1)
		return -EINVAL;
	if (!(device->acked_features & feature(VIRTIO_BLK_F_CONFIG_WCE)))
		return -EINVAL;
	atomic_store(&blk->writeback, *writeback);
	update_durability(blk);
	return 0;
}

static int blk_features_acked(struct virtio_device *device, uint64_t features)
{
	struct virtio_blk *blk = virtio_blk_of(device);
	uint64_t cache = features & (feature(VIRTIO_BLK_F_FLUSH) | feature(VIRTIO_BLK_F_CONFIG_WCE));

	device->acked_features = features;
	/*
	 * Without a FLUSH to ask with, the field starts in write-through (virtio 1.3 5.2.5.2). Front-ends repeat the
	 * features while the driver runs (migration); that must not undo the driver's choice.
	 */
	if (cache != blk->cache_features)
		atomic_store(&blk->writeback, blk->limits.flush_needed && (features & feature(VIRTIO_BLK_F_FLUSH)));
	blk->cache_features = cache;
	update_durability(blk);
	return 0;
}

/* From the first queue's start until the front-end has let go of the last one, not for each pause in between. */
static int acquire_disk(struct virtio_blk *blk)
{
	const char *reason;
	int rc;

	if (blk->acquired)
		return 0;
	rc = disk_acquire(blk->disk, &reason);
	if (rc) {
		log_limited(&blk->device.log_limit, LOG_LEVEL_WARNING, "%s", reason);
		return rc;
	}
	blk->acquired = true;
	virtio_blk_resized(&blk->device);
	return 0;
}

static void blk_rested(struct virtio_device *device)
{
	struct virtio_blk *blk = virtio_blk_of(device);

	if (blk->acquired)
		disk_release(blk->disk);
	blk->acquired = false;
}

static void blk_reset(struct virtio_device *device)
{
	struct virtio_blk *blk = virtio_blk_of(device);

	blk_rested(device);
	device->acked_features = 0;
	blk->cache_features = 0;
	atomic_store(&blk->writeback, blk->limits.flush_needed);
	update_durability(blk);
}

static int blk_queue_start(struct virtio_queue *queue)
{
	struct virtio_blk *blk = virtio_blk_of(queue->device);
	struct block_channel *channel;
	struct blk_queue *made;
	int rc;

	rc = acquire_disk(blk);
	if (rc)
		return rc;
	rc = block_channel_open(blk->disk, queue->life.home, &channel);
	if (rc)
		return rc;
	rc = blk_queue_create(queue, channel, &made);
	if (rc) {
		block_channel_close(channel, NULL);
		return rc;
	}
	queue->model = made;
	return 0;
}

static void blk_queue_stopped(struct virtio_queue *queue)
{
	struct blk_queue *blk_queue = queue->model;

	queue->model = NULL;
	block_channel_close(blk_queue->channel, NULL);
	blk_queue_destroy(blk_queue);
}

static bool blk_queue_polled(const struct virtio_queue *queue)
{
	return true;
}

static const struct virtio_device_ops virtio_blk_ops = {
	.type = "virtio-blk",
	.device_id = VIRTIO_ID_BLOCK,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.features_acked = blk_features_acked,
	.queue_start = blk_queue_start,
	.queue_stopped = blk_queue_stopped,
	.queue_polled = blk_queue_polled,
	.rested = blk_rested,
	.poll = blk_queue_poll,
	.reset = blk_reset,
};

int virtio_blk_create(const struct virtio_blk_options *options, struct engine *engine, struct disk *disk,
		      struct virtio_device **device)
{
	uint16_t queues = options->queues ? options->queues : 1;
	struct virtio_blk *blk;
	int rc;

	if (queues > VIRTIO_BLK_QUEUES_MAX)
		return -EINVAL;
	blk = aligned_alloc(CACHE_LINE, (sizeof(*blk) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!blk)
		return -ENOMEM;
	memset(blk, 0, sizeof(*blk));
	blk->disk = disk;
	disk_read_limits(disk, &blk->limits);
	atomic_store(&blk->size, blk->limits.size);
	snprintf(blk->name_storage, sizeof(blk->name_storage), "%s", options->name);
	blk->device = (struct virtio_device){
		.ops = &virtio_blk_ops,
		.name = blk->name_storage,
		.engine = engine,
		.features = offered_features(&blk->limits, options),
		.config_size = CONFIG_SIZE,
		.queue_count = queues,
		.queue_size_max = options->queue_size_max ? options->queue_size_max : QUEUE_SIZE_DEFAULT,
	};
	rc = virtio_device_init(&blk->device);
	if (rc) {
		free(blk);
		return rc;
	}
	for (unsigned i = 0; i < queues; i++)
		blk->device.queues[i].sidecore = options->sidecore;
	blk_reset(&blk->device);
	*device = &blk->device;
	return 0;
}

void virtio_blk_destroy(struct virtio_device *device, struct engine_completion *completion)
{
	struct engine *engine = device->engine;

	virtio_device_release(device);
	free(virtio_blk_of(device));
	if (completion)
		engine_complete(engine, completion);
}

void virtio_blk_resized(struct virtio_device *device)
{
	struct virtio_blk *blk = virtio_blk_of(device);
	struct disk_limits limits;

	disk_read_limits(blk->disk, &limits);
	if (atomic_exchange(&blk->size, limits.size) != limits.size && device->config_changed)
		device->config_changed(device);
}

void virtio_blk_read_counters(const struct virtio_device *device, struct virtio_blk_counters *counters)
{
	const struct virtio_blk *blk = virtio_blk_of(device);
	uint64_t *sums = (uint64_t *)counters;

	_Static_assert(sizeof(*counters) % sizeof(uint64_t) == 0, "counters are all uint64_t");
	memset(counters, 0, sizeof(*counters));
	for (unsigned i = 0; i < device->queue_count; i++) {
		const uint64_t *queue = (const uint64_t *)&blk->counters[i];

		for (unsigned j = 0; j < sizeof(*counters) / sizeof(uint64_t); j++)
			sums[j] += counter_read(&queue[j]);
	}
}
