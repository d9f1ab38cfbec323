/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk from the driver's side: every request type, every layout, and a table of malformed requests. Requests on
 * RAM disks complete inside a turn, so most tests drive turns by hand, without a running engine; the last ones run a
 * file disk on a real sidecore.
 */
#include "test.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "block/disk.h"
#include "block_fixture.h"
#include "device/virtio_blk_internal.h"
#include "ring_fixture.h"

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

static void driver_start(struct driver *driver, const struct setting *setting)
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

static void driver_stop(struct driver *driver)
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

static unsigned turn(struct driver *driver, uint32_t requests, uint32_t bytes)
{
	struct turn limits = { .sidecore = driver->queue->life.home, .requests = requests, .bytes = bytes };

	return driver->device->ops->poll(driver->queue, &limits);
}

/* Takes one used entry. Return: its length, or -1 when there is none. */
static int64_t take_used(struct driver *driver, uint16_t *id)
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
static void pass_used(struct driver *driver, unsigned slots)
{
	if (!driver->ring.config.packed)
		return;
	driver->used_seen = (uint16_t)(driver->used_seen + slots);
	if (driver->used_seen >= FIXTURE_SIZE) {
		driver->used_seen = (uint16_t)(driver->used_seen - FIXTURE_SIZE);
		driver->used_wrap = !driver->used_wrap;
	}
}

static uint8_t *status_of(struct driver *driver, unsigned slot)
{
	return fixture_bytes(&driver->ring, STATUS_AT(slot));
}

static void write_header(struct driver *driver, unsigned slot, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *header = fixture_bytes(&driver->ring, HEADER_AT(slot));

	*header = (struct virtio_blk_outhdr){ .type = type, .sector = sector };
	*status_of(driver, slot) = NOT_ANSWERED;
}

/* A request in the usual layout: header, data, status. */
static void offer(struct driver *driver, unsigned slot, uint32_t type, uint64_t sector, uint32_t length)
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
static unsigned request(struct driver *driver, uint32_t type, uint64_t sector, uint32_t length, int64_t *written)
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

static void *data(struct driver *driver, unsigned slot)
{
	return fixture_bytes(&driver->ring, DATA_AT(slot));
}

static void write_zone(struct driver *driver, unsigned number, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *zones = data(driver, 0);

	zones[number] = (struct virtio_blk_discard_write_zeroes){ sector, sectors, flags };
}

static const struct setting settings[] = {
	{ .block_size = 512, .type = DISK_RAM },
	{ .block_size = 512, .type = DISK_RAM, .packed = true },
	{ .block_size = 4096, .type = DISK_RAM },
};

static void requests_do_what_they_say(void **state)
{
	for (unsigned i = 0; i < array_size(settings); i++) {
		struct driver driver;
		int64_t written;

		driver_start(&driver, &settings[i]);
		for (unsigned j = 0; j < 4096; j++)
			((uint8_t *)data(&driver, 0))[j] = (uint8_t)(j * 7);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_OUT, 8, 4096, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 1);
		memset(data(&driver, 0), 0, 4096);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 8, 4096, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 4097);
		for (unsigned j = 0; j < 4096; j++)
			assert_int_equal(((uint8_t *)data(&driver, 0))[j], (uint8_t)(j * 7));

		/* The last block, and the one behind it. */
		assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, SECTORS - 8, 4096, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, SECTORS, 4096, &written), VIRTIO_BLK_S_IOERR);
		assert_int_equal(written, 1);

		assert_int_equal(request(&driver, VIRTIO_BLK_T_FLUSH, 0, 0, NULL), VIRTIO_BLK_S_OK);

		memset(data(&driver, 0), 0xff, 32);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_GET_ID, 0, 20, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 21);
		assert_memory_equal(data(&driver, 0), "serial-1\0\0\0\0\0\0\0\0\0\0\0\0\xff", 21);
		memset(data(&driver, 0), 0xff, 32);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_GET_ID, 0, 4, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 5);
		assert_memory_equal(data(&driver, 0), "seri\xff", 5);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_GET_ID, 0, 32, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 21);

		/* Two ranges of zeroes, one with permission to unmap. */
		write_zone(&driver, 0, 8, 8, 0);
		write_zone(&driver, 1, 32, 16, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, &written), VIRTIO_BLK_S_OK);
		assert_int_equal(written, 1);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 8, 4096, NULL), VIRTIO_BLK_S_OK);
		for (unsigned j = 0; j < 4096; j++)
			assert_int_equal(((uint8_t *)data(&driver, 0))[j], 0);
		for (unsigned j = 0; j < 16; j++)
			write_zone(&driver, j, 8 * j, 8, 0);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_DISCARD, 0, 16 * 16, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(driver.queue->ring.broken, VIRTQUEUE_INTACT);
		driver_stop(&driver);
	}
}

/* What a driver may ask and must be refused; the queue lives on. */
static const struct {
	uint32_t type;
	uint64_t sector;
	uint32_t length;
	struct virtio_blk_discard_write_zeroes zone;
	unsigned status;
	bool read_only;
	uint32_t block_size;
} refused[] = {
	/* 0 */ { VIRTIO_BLK_T_IN, SECTORS - 7, 4096, .status = VIRTIO_BLK_S_IOERR },
	/* 1 */ { VIRTIO_BLK_T_IN, UINT64_MAX, 512, .status = VIRTIO_BLK_S_IOERR },
	/* 2 */ { VIRTIO_BLK_T_OUT, UINT64_MAX / 512 + 1, 512, .status = VIRTIO_BLK_S_IOERR }, /* wraps to 0 */
	/* 3 */ { VIRTIO_BLK_T_OUT, UINT64_MAX / 512, 1024, .status = VIRTIO_BLK_S_IOERR },    /* the sum wraps */
	/* 4 */ { VIRTIO_BLK_T_IN, 0, 513, .status = VIRTIO_BLK_S_IOERR },
	/* 5 */ { VIRTIO_BLK_T_OUT, 0, 511, .status = VIRTIO_BLK_S_IOERR },
	/* 6 */ { VIRTIO_BLK_T_OUT, 0, 512, .status = VIRTIO_BLK_S_IOERR, .read_only = true },
	/* 7 */ { VIRTIO_BLK_T_IN, 1, 4096, .status = VIRTIO_BLK_S_IOERR, .block_size = 4096 },
	/* 8 */ { VIRTIO_BLK_T_IN, 0, 512, .status = VIRTIO_BLK_S_IOERR, .block_size = 4096 },
	/* 9 */ { 3, 0, 512, .status = VIRTIO_BLK_S_UNSUPP },
	/* 10 */ { UINT32_MAX, 0, 512, .status = VIRTIO_BLK_S_UNSUPP },
	/* 11 */ { VIRTIO_BLK_T_DISCARD, 0, 15, .status = VIRTIO_BLK_S_IOERR },
	/* 12 */ { VIRTIO_BLK_T_DISCARD, 0, 17, { 0, 8, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 13 */ { VIRTIO_BLK_T_DISCARD, 0, 0, .status = VIRTIO_BLK_S_IOERR },
	/* 14 */ { VIRTIO_BLK_T_DISCARD, 0, 17 * 16, { 0, 8, 0 }, .status = VIRTIO_BLK_S_IOERR }, /* too many */
	/* 15 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { SECTORS, 1, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 16 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { UINT64_MAX, 1, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 17 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { 0, UINT32_MAX, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 18 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { 0, 0, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 19 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { 0, 8, 1 }, .status = VIRTIO_BLK_S_UNSUPP },
	/* 20 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { 0, 8, 2 }, .status = VIRTIO_BLK_S_UNSUPP },
	/* 21 */ { VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, { 0, 8, 2 }, .status = VIRTIO_BLK_S_UNSUPP },
	/* 22 */ { VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, { 0, 8, 0 }, .status = VIRTIO_BLK_S_IOERR, .read_only = true },
	/* 23 */ { VIRTIO_BLK_T_WRITE_ZEROES, 0, 9 * 16, { 0, 8, 0 }, .status = VIRTIO_BLK_S_IOERR },
	/* 24 */ { VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, { 0, 0x00800000, 0 }, .status = VIRTIO_BLK_S_IOERR }, /* 4 GiB */
	/* 25 */ { VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, { 0, 513, 0 }, .status = VIRTIO_BLK_S_IOERR }, /* above the limit
												     */
	/* 26 */ { VIRTIO_BLK_T_DISCARD, 0, 16, { 1, 8, 0 }, .status = VIRTIO_BLK_S_IOERR, .block_size = 4096 },
};

static void impossible_requests_are_refused(void **state)
{
	for (unsigned i = 0; i < array_size(refused); i++) {
		struct setting setting = { .type = DISK_RAM,
					   .read_only = refused[i].read_only,
					   .block_size = refused[i].block_size };
		struct virtio_blk_counters counters;
		struct driver driver;
		unsigned status;

		driver_start(&driver, &setting);
		memset(data(&driver, 0), 0, 8192);
		for (unsigned j = 0; j < 17; j++)
			write_zone(&driver, j, refused[i].zone.sector, refused[i].zone.num_sectors,
				   refused[i].zone.flags);
		status = request(&driver, refused[i].type, refused[i].sector, refused[i].length, NULL);
		if (status != refused[i].status)
			fail_msg("case %u: status %u, not %u", i, status, refused[i].status);
		virtio_blk_read_counters(driver.device, &counters);
		assert_int_equal(counters.errors + counters.unsupported, 1);
		assert_int_equal(driver.queue->ring.broken, VIRTQUEUE_INTACT);
		assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 0, 4096, NULL), VIRTIO_BLK_S_OK);
		driver_stop(&driver);
	}
}

/* What is no request at all breaks the queue, by name, and touches nothing. */
static const struct {
	unsigned count;
	struct fixture_buffer buffers[4]; /* address: offset in the fixture's memory */
	enum virtqueue_break_reason reason;
} broken[] = {
	/* 0 */ { 1, { { HEADER_AT(0), 16, false } }, VIRTQUEUE_NO_STATUS_BYTE },
	/* 1 */ { 2, { { HEADER_AT(0), 15, false }, { STATUS_AT(0), 1, true } }, VIRTQUEUE_HEADER_TOO_SHORT },
	/* 2 */ { 1, { { STATUS_AT(0), 1, true } }, VIRTQUEUE_HEADER_TOO_SHORT },
	/* 3 */
	{ 3,
	  { { HEADER_AT(0), 8, false }, { DATA_AT(0), 4, false }, { STATUS_AT(0), 1, true } },
	  VIRTQUEUE_HEADER_TOO_SHORT },
	/* 4 */ { 2, { { HEADER_AT(0), 16, false }, { 0x40000000, 1, true } }, VIRTQUEUE_BAD_ADDRESS },
	/* 5 */ { 2, { { STATUS_AT(0), 1, true }, { HEADER_AT(0), 16, false } }, VIRTQUEUE_READABLE_AFTER_WRITABLE },
	/* 6 */
	{ 3,
	  { { HEADER_AT(0), 16, false }, { DATA_AT(0), 0, false }, { STATUS_AT(0), 1, true } },
	  VIRTQUEUE_ZERO_LENGTH },
};

static void nonsense_breaks_the_queue(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		for (unsigned i = 0; i < array_size(broken); i++) {
			struct setting setting = { .type = DISK_RAM, .packed = packed };
			struct fixture_buffer buffers[4];
			struct driver driver;
			uint16_t id;

			driver_start(&driver, &setting);
			memcpy(buffers, broken[i].buffers, sizeof(buffers));
			for (unsigned j = 0; j < 4; j++)
				buffers[j].address = fixture_address(buffers[j].address);
			write_header(&driver, 0, VIRTIO_BLK_T_IN, 0);
			ring_fixture_offer(&driver.ring, 0, buffers, broken[i].count, 0);
			assert_int_equal(turn(&driver, 32, 1 << 20), 0);
			if (driver.queue->ring.broken != broken[i].reason)
				fail_msg("case %u: broken by %s", i,
					 virtqueue_break_reason_name(driver.queue->ring.broken));
			assert_int_equal(*status_of(&driver, 0), NOT_ANSWERED);
			assert_int_equal(take_used(&driver, &id), -1);
			driver_stop(&driver);
		}
	}
}

/* Header and status cut and joined in every way; the data must not care (virtio 1.3 2.7.4). */
static const struct {
	unsigned count;
	struct {
		uint64_t offset;
		uint32_t length;
		bool writable;
	} buffers[8];
	uint32_t type;
} layouts[] = {
	/* header in three pieces, status apart */
	/* 0 */ { 6,
		  { { HEADER_AT(0), 1, false },
		    { HEADER_AT(0) + 1, 9, false },
		    { HEADER_AT(0) + 10, 6, false },
		    { DATA_AT(0), 100, true },
		    { DATA_AT(0) + 100, 924, true },
		    { STATUS_AT(0), 1, true } },
		  VIRTIO_BLK_T_IN },
	/* data and status in one */
	/* 1 */ { 2, { { HEADER_AT(0), 16, false }, { DATA_AT(0), 1025, true } }, VIRTIO_BLK_T_IN },
	/* header and data in one */
	/* 2 */ { 2, { { DATA_AT(0) - 16, 1040, false }, { STATUS_AT(0), 1, true } }, VIRTIO_BLK_T_OUT },
	/* the end of the header with the start of the data, the end of the data with the status */
	/* 3 */
	{ 3,
	  { { HEADER_AT(0), 7, false }, { DATA_AT(0) - 9, 9 + 1024, false }, { STATUS_AT(0), 1, true } },
	  VIRTIO_BLK_T_OUT },
	/* more segments than a request holds by itself */
	/* 4 */
	{ 8,
	  { { HEADER_AT(0), 16, false },
	    { DATA_AT(0), 1, true },
	    { DATA_AT(0) + 1, 511, true },
	    { DATA_AT(0) + 512, 3, true },
	    { DATA_AT(0) + 515, 5, true },
	    { DATA_AT(0) + 520, 4, true },
	    { DATA_AT(0) + 524, 499, true },
	    { DATA_AT(0) + 1023, 2, true } },
	  VIRTIO_BLK_T_IN },
};

static void lay_out(struct driver *driver, unsigned number, struct fixture_buffer *buffers)
{
	struct virtio_blk_outhdr header = { .type = layouts[number].type, .sector = 2 };
	size_t done = 0;

	for (unsigned i = 0; i < layouts[number].count; i++) {
		size_t piece = min((size_t)layouts[number].buffers[i].length, sizeof(header) - done);

		buffers[i].address = fixture_address(layouts[number].buffers[i].offset);
		buffers[i].length = layouts[number].buffers[i].length;
		buffers[i].writable = layouts[number].buffers[i].writable;
		memcpy(fixture_bytes(&driver->ring, layouts[number].buffers[i].offset), (char *)&header + done, piece);
		done += piece;
	}
}

static void any_layout_is_understood(void **state)
{
	for (unsigned i = 0; i < 4 * array_size(layouts); i++) {
		unsigned number = i / 4, last = layouts[number].count - 1;
		bool indirect = i & 2, read = layouts[number].type == VIRTIO_BLK_T_IN;
		struct setting setting = { .type = DISK_RAM, .packed = i & 1, .indirect = indirect };
		const uint8_t *status;
		struct fixture_buffer buffers[8];
		struct driver driver;
		uint8_t expected[1024];
		uint16_t id;

		driver_start(&driver, &setting);
		for (unsigned j = 0; j < sizeof(expected); j++)
			expected[j] = (uint8_t)(j ^ (j >> 3) ^ number);
		if (read) {
			memcpy(data(&driver, 0), expected, sizeof(expected));
			assert_int_equal(request(&driver, VIRTIO_BLK_T_OUT, 2, sizeof(expected), NULL),
					 VIRTIO_BLK_S_OK);
			memset(data(&driver, 0), 0, 2048);
		} else {
			memcpy(data(&driver, 0), expected, sizeof(expected));
		}
		lay_out(&driver, number, buffers);
		status = fixture_bytes(&driver.ring,
				       layouts[number].buffers[last].offset + layouts[number].buffers[last].length - 1);
		*(uint8_t *)(uintptr_t)status = NOT_ANSWERED;
		ring_fixture_offer(&driver.ring, 0, buffers, layouts[number].count, indirect ? INDIRECT_AT : 0);
		assert_int_equal(turn(&driver, 32, 1 << 20), 1);
		assert_int_equal(take_used(&driver, &id), read ? 1025 : 1);
		pass_used(&driver, indirect ? 1 : layouts[number].count);
		assert_int_equal(*status, VIRTIO_BLK_S_OK);
		if (read) {
			assert_memory_equal(data(&driver, 0), expected, sizeof(expected));
		} else {
			memset(data(&driver, 0), 0, sizeof(expected));
			assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 2, sizeof(expected), NULL), VIRTIO_BLK_S_OK);
			assert_memory_equal(data(&driver, 0), expected, sizeof(expected));
		}
		driver_stop(&driver);
	}
}

static void turns_are_bounded(void **state)
{
	struct setting setting = { .type = DISK_RAM };
	struct driver driver;
	uint16_t id;

	for (unsigned packed = 0; packed < 2; packed++) {
		setting.packed = packed;
		driver_start(&driver, &setting);
		for (unsigned slot = 0; slot < 5; slot++)
			offer(&driver, slot, VIRTIO_BLK_T_IN, 0, 4096);
		assert_int_equal(turn(&driver, 1, 1 << 20), 1);
		assert_int_equal(turn(&driver, 32, 1), 1);    /* always lets one through */
		assert_int_equal(turn(&driver, 32, 5000), 2); /* stops after the one that reaches it */
		assert_int_equal(turn(&driver, 32, 1 << 20), 1);
		assert_int_equal(turn(&driver, 32, 1 << 20), 0);
		for (unsigned slot = 0; slot < 5; slot++) {
			assert_int_equal(take_used(&driver, &id), 4097);
			assert_int_equal(id, slot * 3);
			pass_used(&driver, 3);
		}
		/* Zeroing is paid by the range: the second one waits for the next turn. */
		for (unsigned slot = 0; slot < 2; slot++) {
			*(struct virtio_blk_discard_write_zeroes *)data(&driver, slot) =
				(struct virtio_blk_discard_write_zeroes){ 0, 64, 0 };
			offer(&driver, slot, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16);
		}
		assert_int_equal(turn(&driver, 32, 32768), 1);
		assert_int_equal(turn(&driver, 32, 32768), 1);
		driver_stop(&driver);
	}
}

static const struct disk_ops *quick_ops;

static void submit_slowly(struct block_channel *channel, struct block_request *request)
{
	for (uint64_t end = clock_nanoseconds() + NANOSECONDS_PER_MILLISECOND; clock_nanoseconds() < end;)
		;
	quick_ops->submit(channel, request);
}

/* Requests that take a millisecond each, whatever their bytes say: the turn notices. */
static void turns_are_bounded_in_time(void **state)
{
	struct setting setting = { .type = DISK_RAM };
	struct disk_ops slow_ops;
	struct driver driver;

	driver_start(&driver, &setting);
	quick_ops = ((struct blk_queue *)driver.queue->model)->channel->ops;
	slow_ops = *quick_ops;
	slow_ops.submit = submit_slowly;
	((struct blk_queue *)driver.queue->model)->channel->ops = &slow_ops;
	for (unsigned slot = 0; slot < 5; slot++)
		offer(&driver, slot, VIRTIO_BLK_T_IN, 0, 512);
	assert_int_equal(turn(&driver, 32, 1 << 20), 3);
	assert_int_equal(turn(&driver, 32, 1 << 20), 2);
	driver_stop(&driver);
}

static void config_read(struct driver *driver, struct virtio_blk_config *config)
{
	assert_in_range(driver->device->config_size, sizeof(*config), 256);
	driver->device->ops->config_read(driver->device, 0, config, sizeof(*config));
}

static void configuration_space(void **state)
{
	struct setting setting = { .type = DISK_RAM, .block_size = 4096 };
	struct virtio_blk_config config;
	struct driver driver;
	uint8_t bytes[2];

	driver_start(&driver, &setting);
	config_read(&driver, &config);
	assert_int_equal(config.capacity, SECTORS); /* in 512 bytes, whatever the block size */
	assert_int_equal(config.blk_size, 4096);
	assert_int_equal(config.seg_max, 126);
	assert_int_equal(config.num_queues, 1);
	assert_int_equal(config.max_discard_seg, 16);
	assert_int_equal(config.max_write_zeroes_seg, 8);
	assert_int_equal(config.discard_sector_alignment, 8);
	assert_int_equal(config.write_zeroes_may_unmap, 1);
	/* Any cut of it reads the same. */
	driver.device->ops->config_read(driver.device, 20, bytes, 2);
	assert_memory_equal(bytes, (uint8_t *)&config + 20, 2);
	/* Not the field that a driver may write, and a RAM disk has no cache to switch either. */
	assert_int_equal(driver.device->ops->config_write(driver.device, 0, bytes, 1), -EINVAL);
	assert_int_equal(driver.device->ops->config_write(driver.device, 32, bytes, 1), -EINVAL);
	assert_false(driver.device->features & feature(VIRTIO_BLK_F_FLUSH));
	assert_true(driver.device->features & feature(VIRTIO_BLK_F_DISCARD));
	driver_stop(&driver);

	setting.read_only = true;
	setting.features_off = feature(34);
	driver_start(&driver, &setting);
	assert_true(driver.device->features & feature(VIRTIO_BLK_F_RO));
	assert_false(driver.device->features & (feature(VIRTIO_BLK_F_DISCARD) | feature(34)));
	driver_stop(&driver);
}

static void count_change(struct virtio_device *device)
{
	++*(unsigned *)device->transport;
}

static void size_change_is_shown(void **state)
{
	struct setting setting = { .type = DISK_RAM };
	struct virtio_blk_config config;
	unsigned changes = 0;
	struct driver driver;
	const char *error;

	driver_start(&driver, &setting);
	driver.device->transport = &changes;
	driver.device->config_changed = count_change;
	assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, SECTORS, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_resize(driver.disk, DISK_SIZE * 2, &error), 0);
	virtio_blk_resized(driver.device);
	virtio_blk_resized(driver.device); /* nothing new: nothing told */
	assert_int_equal(changes, 1);
	config_read(&driver, &config);
	assert_int_equal(config.capacity, 2 * SECTORS);
	assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, SECTORS, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(disk_resize(driver.disk, DISK_SIZE, &error), 0);
	virtio_blk_resized(driver.device);
	assert_int_equal(changes, 2);
	assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, SECTORS, 512, NULL), VIRTIO_BLK_S_IOERR);
	driver_stop(&driver);
}

/* ---- on a sidecore, with a file: requests complete later --------------------------------------------------------- */

struct live {
	struct block_fixture block;
	struct driver driver; /* without an engine of its own */
	char path[64];
	int kick_fd, call_fd;
	bool stopped;
	uint32_t base;
};

static void live_start(struct live *live, bool packed)
{
	struct disk_config config = { .name = "disk", .type = DISK_FILE, .size = DISK_SIZE, .path = live->path };
	struct virtio_blk_options options = { .name = "disk", .sidecore = -1 };
	struct driver *driver = &live->driver;
	const char *error;
	int file;

	memset(live, 0, sizeof(*live));
	snprintf(live->path, sizeof(live->path), "/var/tmp/sidecore-test-XXXXXX");
	file = mkstemp(live->path);
	assert_true(file >= 0 && !ftruncate(file, DISK_SIZE));
	close(file);
	block_fixture_start(&live->block);
	ring_fixture_start(&driver->ring, packed, true, false);
	live->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	live->call_fd = eventfd(0, EFD_CLOEXEC);
	driver->ring.config.call_fd = live->call_fd;
	assert_int_equal(disk_open(&config, live->block.engine, &driver->disk, &error), 0);
	assert_int_equal(virtio_blk_create(&options, live->block.engine, driver->disk, &driver->device), 0);
	assert_int_equal(driver->device->ops->features_acked(driver->device, driver->device->features), 0);
	driver->queue = &driver->device->queues[0];
	driver->used_wrap = true;
	assert_int_equal(virtio_queue_start(driver->queue, &driver->ring.config, live->kick_fd), 0);
}

static void queue_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	struct live *live = context;

	live->base = base;
	live->stopped = true;
}

static void live_stop_queue(struct live *live)
{
	virtio_queue_stop(live->driver.queue, queue_stopped, live);
	block_fixture_wait_flag(&live->block, &live->stopped);
}

static void live_end(struct live *live)
{
	virtio_blk_destroy(live->driver.device, NULL);
	disk_close(live->driver.disk);
	block_fixture_stop(&live->block);
	ring_fixture_stop(&live->driver.ring);
	close(live->kick_fd);
	close(live->call_fd);
	unlink(live->path);
}

static void kick(struct live *live)
{
	uint64_t one = 1;

	assert_int_equal(write(live->kick_fd, &one, sizeof(one)), sizeof(one));
}

/* Waits for the interrupt, then takes one used entry. */
static void await_used(struct live *live, uint16_t *id)
{
	struct timespec pause = { .tv_nsec = 100000 };

	for (unsigned i = 0; i < 200000; i++) {
		if (take_used(&live->driver, id) >= 0)
			return;
		nanosleep(&pause, NULL);
	}
	fail_msg("no used entry");
}

static void file_disk_on_a_sidecore(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		struct virtio_blk_counters counters;
		struct live live;
		uint16_t id;
		uint8_t off = 0;

		live_start(&live, packed);
		assert_true(live.driver.device->features & feature(VIRTIO_BLK_F_FLUSH));
		for (unsigned round = 0; round < 200; round++) {
			bool write = !(round & 1);

			if (round == 100) /* from now on write-through */
				assert_int_equal(live.driver.device->ops->config_write(live.driver.device, 32, &off, 1),
						 0);
			for (unsigned slot = 0; slot < 5; slot++) {
				memset(data(&live.driver, slot), write ? (int)(round + slot) : 0, 4096);
				offer(&live.driver, slot, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, slot * 16, 4096);
			}
			kick(&live);
			for (unsigned slot = 0; slot < 5; slot++) {
				await_used(&live, &id);
				pass_used(&live.driver, 3);
			}
			for (unsigned slot = 0; slot < 5; slot++) {
				assert_int_equal(*status_of(&live.driver, slot), VIRTIO_BLK_S_OK);
				assert_int_equal(((uint8_t *)data(&live.driver, slot))[4095],
						 (uint8_t)(write ? round + slot : round - 1 + slot));
			}
		}
		offer(&live.driver, 0, VIRTIO_BLK_T_FLUSH, 0, 0);
		kick(&live);
		await_used(&live, &id);
		pass_used(&live.driver, 2);
		/* Several ranges, each an operation of its own on the file. */
		for (unsigned i = 0; i < 8; i++)
			write_zone(&live.driver, i, 16 * i, 8, i & 1);
		offer(&live.driver, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8 * 16);
		kick(&live);
		await_used(&live, &id);
		pass_used(&live.driver, 3);
		assert_int_equal(*status_of(&live.driver, 0), VIRTIO_BLK_S_OK);
		virtio_blk_read_counters(live.driver.device, &counters);
		assert_int_equal(counters.reads, 500);
		assert_int_equal(counters.writes, 500);
		assert_int_equal(counters.read_bytes, 500 * 4096);
		assert_int_equal(counters.flushes, 1);
		assert_int_equal(counters.write_zeroes, 1);
		live_stop_queue(&live);
		live_end(&live);
	}
}

/* A stop with requests under way waits for them: all that were taken are used when it is through. */
static void stop_waits_for_requests(void **state)
{
	for (unsigned round = 0; round < 50; round++) {
		unsigned used = 0;
		struct live live;
		uint16_t id;

		live_start(&live, false);
		for (unsigned slot = 0; slot < 5; slot++) {
			for (unsigned i = 0; i < 8 && !slot; i++)
				write_zone(&live.driver, i, 16 * i, 8, 0);
			offer(&live.driver, slot, slot ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_WRITE_ZEROES, slot * 16,
			      slot ? 4096 : 8 * 16);
		}
		kick(&live);
		if (round & 1)
			usleep(round * 10);
		live_stop_queue(&live);
		while (take_used(&live.driver, &id) >= 0)
			used++;
		assert_int_equal(used, live.base); /* nothing taken and not answered, nothing twice */
		for (unsigned slot = 0; slot < used; slot++)
			assert_int_equal(*status_of(&live.driver, slot), VIRTIO_BLK_S_OK);
		live_end(&live);
	}
}

/* A head that is offered again while its request is under way. */
static void head_in_flight_breaks_the_queue(void **state)
{
	struct ring_fixture *ring;
	struct live live;

	live_start(&live, false);
	ring = &live.driver.ring;
	write_header(&live.driver, 0, VIRTIO_BLK_T_FLUSH, 0);
	ring->descriptors[0] = (struct vring_desc){ fixture_address(HEADER_AT(0)), 16, VRING_DESC_F_NEXT, 1 };
	ring->descriptors[1] = (struct vring_desc){ fixture_address(STATUS_AT(0)), 1, VRING_DESC_F_WRITE, 0 };
	ring->avail->ring[0] = ring->avail->ring[1] = 0;
	/* Both at once: one turn takes both, and hands the first to the kernel only at its end. */
	__atomic_store_n(&ring->avail->idx, 2, __ATOMIC_RELEASE);
	kick(&live);
	for (unsigned i = 0; i < 20000 && !__atomic_load_n(&live.driver.queue->ring.broken, __ATOMIC_RELAXED); i++)
		usleep(100);
	assert_int_equal(live.driver.queue->ring.broken, VIRTQUEUE_BAD_HEAD);
	live_stop_queue(&live);
	live_end(&live);
}

/* More large requests than there are blocks for their segments: the last one waits, and is served. */
static void large_requests_wait_for_segments(void **state)
{
	enum { PIECES = 200, PIECE = 128 };
	struct virtio_blk_counters counters;
	struct live live;
	uint16_t id;

	live_start(&live, false);
	for (unsigned slot = 0; slot < 5; slot++) {
		struct vring_desc *table = fixture_bytes(&live.driver.ring, INDIRECT_AT + slot * 0x1000);

		write_header(&live.driver, slot, VIRTIO_BLK_T_OUT, slot * 64);
		memset(data(&live.driver, slot), (int)slot + 1, PIECES * PIECE);
		table[0] = (struct vring_desc){ fixture_address(HEADER_AT(slot)), 16, VRING_DESC_F_NEXT, 1 };
		for (uint16_t i = 0; i < PIECES; i++)
			table[i + 1] = (struct vring_desc){ fixture_address(DATA_AT(slot)) + i * PIECE, PIECE,
							    VRING_DESC_F_NEXT, (uint16_t)(i + 2) };
		table[PIECES + 1] = (struct vring_desc){ fixture_address(STATUS_AT(slot)), 1, VRING_DESC_F_WRITE, 0 };
		live.driver.ring.descriptors[slot] = (struct vring_desc){ fixture_address(INDIRECT_AT + slot * 0x1000),
									  (PIECES + 2) * 16, VRING_DESC_F_INDIRECT, 0 };
		live.driver.ring.avail->ring[slot] = (uint16_t)slot;
	}
	__atomic_store_n(&live.driver.ring.avail->idx, 5, __ATOMIC_RELEASE);
	kick(&live);
	for (unsigned slot = 0; slot < 5; slot++)
		await_used(&live, &id);
	virtio_blk_read_counters(live.driver.device, &counters);
	assert_int_equal(counters.writes, 5);
	assert_true(counters.starved >= 1);
	for (unsigned slot = 0; slot < 5; slot++) {
		assert_int_equal(*status_of(&live.driver, slot), VIRTIO_BLK_S_OK);
		memset(data(&live.driver, slot), 0, PIECES * PIECE);
		offer(&live.driver, slot, VIRTIO_BLK_T_IN, slot * 64, PIECES * PIECE);
		kick(&live);
		await_used(&live, &id);
		for (unsigned i = 0; i < PIECES * PIECE; i++)
			assert_int_equal(((uint8_t *)data(&live.driver, slot))[i], slot + 1);
	}
	live_stop_queue(&live);
	live_end(&live);
}

static bool page_is_dirty(const uint8_t *bitmap, uint64_t offset)
{
	uint64_t page = fixture_address(offset) / DIRTY_LOG_PAGE;

	return bitmap[page / 8] & 1U << page % 8;
}

static void written_memory_is_logged(void **state)
{
	struct setting setting = { .type = DISK_RAM };
	size_t size = 4096;
	struct driver driver;
	uint8_t *bitmap;
	int fd;

	driver_start(&driver, &setting);
	fd = memfd_create("log", MFD_CLOEXEC);
	assert_true(fd >= 0 && !ftruncate(fd, (off_t)size));
	bitmap = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(bitmap != MAP_FAILED);
	assert_int_equal(dirty_log_map(fd, size, 0, &driver.queue->ring.config.log), 0);

	assert_int_equal(request(&driver, VIRTIO_BLK_T_OUT, 0, 8192, NULL), VIRTIO_BLK_S_OK);
	assert_true(page_is_dirty(bitmap, STATUS_AT(0)));
	assert_false(page_is_dirty(bitmap, DATA_AT(0)));
	memset(bitmap, 0, size);
	assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 0, 8192, NULL), VIRTIO_BLK_S_OK);
	assert_true(page_is_dirty(bitmap, STATUS_AT(0)));
	assert_true(page_is_dirty(bitmap, DATA_AT(0)));
	assert_true(page_is_dirty(bitmap, DATA_AT(0) + 4096));
	assert_false(page_is_dirty(bitmap, DATA_AT(0) + 8192));
	memset(bitmap, 0, size);
	assert_int_equal(request(&driver, VIRTIO_BLK_T_GET_ID, 0, 20, NULL), VIRTIO_BLK_S_OK);
	assert_true(page_is_dirty(bitmap, DATA_AT(0)));

	dirty_log_unmap(driver.queue->ring.config.log);
	driver.queue->ring.config.log = NULL;
	munmap(bitmap, size);
	close(fd);
	driver_stop(&driver);
}

/* Cache mode: what the features and the field "writeback" make of a write is seen in what they allow. */
static void cache_mode_is_the_drivers(void **state)
{
	uint64_t cache = feature(VIRTIO_BLK_F_FLUSH) | feature(VIRTIO_BLK_F_CONFIG_WCE), all;
	struct virtio_device *device;
	struct virtio_blk_config config;
	uint8_t off = 0, two = 2;
	struct live live;

	live_start(&live, false);
	device = live.driver.device;
	all = device->features;
	config_read(&live.driver, &config);
	assert_int_equal(config.wce, 1);
	assert_int_equal(device->ops->config_write(device, 32, &two, 1), -EINVAL);
	assert_int_equal(device->ops->config_write(device, 32, &off, 1), 0);
	config_read(&live.driver, &config);
	assert_int_equal(config.wce, 0);
	/* The same features again, as front-ends do when a migration starts: the choice stays. */
	assert_int_equal(device->ops->features_acked(device, all), 0);
	config_read(&live.driver, &config);
	assert_int_equal(config.wce, 0);
	/* Without FLUSH it is write-through from the start (virtio 1.3 5.2.5.2). */
	assert_int_equal(device->ops->features_acked(device, all & ~feature(VIRTIO_BLK_F_FLUSH)), 0);
	config_read(&live.driver, &config);
	assert_int_equal(config.wce, 0);
	assert_int_equal(device->ops->features_acked(device, all & ~cache), 0);
	assert_int_equal(device->ops->config_write(device, 32, &off, 1), -EINVAL);
	device->ops->reset(device);
	config_read(&live.driver, &config);
	assert_int_equal(config.wce, 1);
	live_stop_queue(&live);
	live_end(&live);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_do_what_they_say),
		cmocka_unit_test(impossible_requests_are_refused),
		cmocka_unit_test(nonsense_breaks_the_queue),
		cmocka_unit_test(any_layout_is_understood),
		cmocka_unit_test(turns_are_bounded),
		cmocka_unit_test(turns_are_bounded_in_time),
		cmocka_unit_test(configuration_space),
		cmocka_unit_test(size_change_is_shown),
		cmocka_unit_test(file_disk_on_a_sidecore),
		cmocka_unit_test(stop_waits_for_requests),
		cmocka_unit_test(head_in_flight_breaks_the_queue),
		cmocka_unit_test(large_requests_wait_for_segments),
		cmocka_unit_test(written_memory_is_logged),
		cmocka_unit_test(cache_mode_is_the_drivers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
