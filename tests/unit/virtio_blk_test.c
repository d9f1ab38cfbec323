/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk from the driver's side: every request type, every layout, and a table of malformed requests. Requests on
 * RAM disks complete inside a turn, so these tests drive turns by hand, without a running engine.
 */
#include "test.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "block/disk.h"
#include "device/virtio_blk_internal.h"
#include "virtio_blk_fixture.h"

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
		cmocka_unit_test(written_memory_is_logged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
