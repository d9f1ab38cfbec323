/* SPDX-License-Identifier: BSD-3-Clause */
/* A virtio disk from the driver's side: rings written by hand, and turns that the test drives. */
#ifndef TESTS_VIRTIO_BLK_FIXTURE_H
#define TESTS_VIRTIO_BLK_FIXTURE_H

#include <linux/virtio_blk.h>
#include <string.h>

#include "block/disk.h"
#include "block_fixture.h"
#include "device/virtio_blk_internal.h"
#include "ring_fixture.h"
#include "test.h"

#define DISK_SIZE (4ULL << 20)
#define SECTORS	  (DISK_SIZE / 512)

/* Places in the fixture's memory. */
#define HEADER_AT(slot) (FIXTURE_DATA + 64ULL * (slot))
#define STATUS_AT(slot) (FIXTURE_DATA + 0x1000ULL + (slot))
#define DATA_AT(slot)	(FIXTURE_DATA + 0x10000ULL + 0x10000ULL * (slot))
#define INDIRECT_AT	(FIXTURE_DATA + 0x8000ULL)
#define NOT_ANSWERED	0xee

#define feature(bit) (1ULL << (bit))

struct driver {
	struct ring_fixture ring;
	struct engine *engine;
	struct block_worker *worker;
	struct disk *disk;
	struct virtio_device *device;
	struct virtio_queue *queue;
	uint16_t used_seen; /* split; packed: position */
	bool used_wrap;
};

struct setting {
	bool packed, indirect, read_only;
	uint32_t block_size;
	int type;
	uint64_t features_off;
};

static inline void driver_start(struct driver *driver, const struct setting *setting)
{
	struct engine_config engine = { .sidecore_count = 1, .sidecores = { { .cpu = -1 } } };
	struct disk_config config = { .name = "disk",
				      .type = setting->type,
				      .size = DISK_SIZE,
				      .serial = "serial-1",
				      .block_size = setting->block_size,
				      .read_only = setting->read_only };
	struct virtio_blk_options options = { .name = "disk", .sidecore = -1, .features_off = setting->features_off };
	const char *error;

	memset(driver, 0, sizeof(*driver));
	ring_fixture_start(&driver->ring, setting->packed, setting->indirect, false);
	assert_int_equal(engine_create(&engine, &driver->engine), 0);
	assert_int_equal(block_worker_create(&driver->worker), 0);
	sidecore_set_slot(engine_sidecore(driver->engine, 0), SIDECORE_SLOT_BLOCK, driver->worker);
	assert_int_equal(disk_open(&config, driver->engine, &driver->disk, &error), 0);
	assert_int_equal(virtio_blk_create(&options, driver->engine, driver->disk, &driver->device), 0);
	assert_int_equal(driver->device->ops->features_acked(driver->device, driver->device->features), 0);
	driver->queue = &driver->device->queues[0];
	driver->queue->life.home = engine_sidecore(driver->engine, 0);
	assert_int_equal(virtqueue_start(&driver->queue->ring, &driver->ring.config), 0);
	assert_int_equal(driver->device->ops->queue_start(driver->queue), 0);
	driver->used_wrap = true;
}

static inline void driver_stop(struct driver *driver)
{
	assert_int_equal(driver->queue->life.in_flight, 0);
	driver->device->ops->queue_stopped(driver->queue);
	virtqueue_stop(&driver->queue->ring);
	virtio_blk_destroy(driver->device, NULL);
	disk_close(driver->disk);
	block_worker_destroy(driver->worker);
	engine_destroy(driver->engine);
	ring_fixture_stop(&driver->ring);
}

static inline unsigned turn(struct driver *driver, uint32_t requests, uint32_t bytes)
{
	struct turn limits = { .sidecore = driver->queue->life.home, .requests = requests, .bytes = bytes };

	return driver->device->ops->poll(driver->queue, &limits);
}

/* Takes one used entry. Return: its length, or -1 when there is none. */
static inline int64_t take_used(struct driver *driver, uint16_t *id)
{
	struct ring_fixture *ring = &driver->ring;

	if (ring->config.packed) {
		struct vring_packed_desc *slot = &ring->packed[driver->used_seen];
		uint16_t flags = __atomic_load_n(&slot->flags, __ATOMIC_ACQUIRE);

		/* virtio 1.3 2.8.1: used when both bits are equal to the driver's wrap counter */
		if (!!(flags & 1U << 7) != driver->used_wrap || !!(flags & 1U << 15) != driver->used_wrap)
			return -1;
		*id = slot->id;
		return slot->len;
	}
	if (__atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE) == driver->used_seen)
		return -1;
	*id = (uint16_t)ring->used->ring[driver->used_seen % FIXTURE_SIZE].id;
	return ring->used->ring[driver->used_seen++ % FIXTURE_SIZE].len;
}

/* Packed: the driver must know how many slots the chain had. */
static inline void pass_used(struct driver *driver, unsigned slots)
{
	if (!driver->ring.config.packed)
		return;
	driver->used_seen = (uint16_t)(driver->used_seen + slots);
	if (driver->used_seen >= FIXTURE_SIZE) {
		driver->used_seen = (uint16_t)(driver->used_seen - FIXTURE_SIZE);
		driver->used_wrap = !driver->used_wrap;
	}
}

static inline uint8_t *status_of(struct driver *driver, unsigned slot)
{
	return fixture_bytes(&driver->ring, STATUS_AT(slot));
}

static inline void write_header(struct driver *driver, unsigned slot, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *header = fixture_bytes(&driver->ring, HEADER_AT(slot));

	*header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*status_of(driver, slot) = NOT_ANSWERED;
}

/* A request in the usual layout: header, data, status. */
static inline void offer(struct driver *driver, unsigned slot, uint32_t type, uint64_t sector, uint32_t length)
{
	struct fixture_buffer buffers[3] = {
		{ fixture_address(HEADER_AT(slot)), 16, false },
		{ fixture_address(DATA_AT(slot)), length, type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID },
		{ fixture_address(STATUS_AT(slot)), 1, true },
	};

	write_header(driver, slot, type, sector);
	if (!length)
		buffers[1] = buffers[2];
	ring_fixture_offer(&driver->ring, (uint16_t)(slot * 3), buffers, length ? 3 : 2, 0);
}

/* One request from offer to used entry. Return: its status; @written: its used length. */
static inline unsigned request(struct driver *driver, uint32_t type, uint64_t sector, uint32_t length, int64_t *written)
{
	uint16_t id = UINT16_MAX;
	int64_t used;

	offer(driver, 0, type, sector, length);
	assert_int_equal(turn(driver, 32, 1 << 20), 1);
	used = take_used(driver, &id);
	assert_true(used >= 0);
	assert_int_equal(id, 0);
	pass_used(driver, length ? 3 : 2);
	if (written)
		*written = used;
	return *status_of(driver, 0);
}

static inline void *data(struct driver *driver, unsigned slot)
{
	return fixture_bytes(&driver->ring, DATA_AT(slot));
}

static inline void write_zone(struct driver *driver, unsigned number, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *zones = data(driver, 0);

	zones[number] = (struct virtio_blk_discard_write_zeroes){ sector, sectors, flags };
}

static inline void config_read(struct driver *driver, struct virtio_blk_config *config)
{
	assert_in_range(driver->device->config_size, sizeof(*config), 256);
	driver->device->ops->config_read(driver->device, 0, config, sizeof(*config));
}

#endif
