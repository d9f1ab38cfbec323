/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-blk with a file disk on a real sidecore: requests complete later. */
#include "test.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "block/disk.h"
#include "device/virtio_blk_internal.h"
#include "virtio_blk_fixture.h"

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
		cmocka_unit_test(file_disk_on_a_sidecore),
		cmocka_unit_test(stop_waits_for_requests),
		cmocka_unit_test(head_in_flight_breaks_the_queue),
		cmocka_unit_test(large_requests_wait_for_segments),
		cmocka_unit_test(cache_mode_is_the_drivers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
