/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: virtio-blk against a hostile driver and a disk that answers when and how the input says.
 *
 * Theory of operation
 * -------------------
 * Input: features, the queue's form, what the disk can do, then steps. A step is the driver's (a request of any type,
 * sector, length and layout; any chain; scribbling; an index that jumps), a turn, a completion of a request that the
 * disk holds, or a stop and start of the queue.
 *
 * The disk is one of two. The *strict* one is of this file: an array of the disk's exact size on the heap, and before
 * it touches a byte it checks all that the device model promises to backends. It completes requests at once or keeps
 * them, and fails them as the input says. The *RAM* disk is the program's own; it is twice as large as the device was
 * told, and the half that the guest may not address is filled with a pattern that has to be there in the end. A
 * read-only device leaves all of it alone.
 *
 * Other oracles: the queue drains when the disk has answered, requests in flight are counted right, and a queue that
 * broke is as good as new after a stop and a start.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "block/disk.h"
#include "block/worker.h"
#include "device/virtio_blk.h"
#include "fuzz_engine.h"
#include "fuzz_guest.h"

#define STEPS	  300U
#define DISK_SIZE 0x10000U
#define HELD_MAX  256U
#define PATTERN	  0xa5

struct strict_disk {
	struct disk disk;
	uint8_t *bytes;
	struct block_request *held[HELD_MAX];
	unsigned held_count;
	uint8_t hold; /* requests to keep: 0 none, else all but each @hold-th */
};

static struct guest guest;
static struct fuzz_engine engine;
static struct disk *ram;
static struct block_channel *ram_channel;
static struct strict_disk strict;

/* ---- the strict disk --------------------------------------------------------------------------------------------- */

static void check_request(const struct block_request *request)
{
	uint32_t block = strict.disk.limits.block_size;
	uint64_t length = 0;

	fuzz_require(request->offset <= DISK_SIZE && request->length <= DISK_SIZE - request->offset);
	fuzz_require(request->offset % block == 0 && request->length % block == 0);
	fuzz_require(request->operation <= BLOCK_WRITE_ZEROES);
	fuzz_require(!strict.disk.limits.read_only || request->operation == BLOCK_READ ||
		     request->operation == BLOCK_FLUSH);
	if (request->operation == BLOCK_FLUSH)
		return;
	fuzz_require(request->length);
	if (request->operation == BLOCK_DISCARD || request->operation == BLOCK_WRITE_ZEROES)
		return;
	for (unsigned i = 0; i < request->segment_count; i++) {
		fuzz_require(request->segments[i].length);
		length += request->segments[i].length;
	}
	fuzz_require(length == request->length);
}

static void transfer(struct block_request *request)
{
	uint8_t *at = strict.bytes + request->offset;

	check_request(request);
	switch (request->operation) {
	case BLOCK_READ:
		block_scatter(request, at, request->length);
		break;
	case BLOCK_WRITE:
		block_gather(request, at, request->length);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
		memset(at, 0, request->length);
		break;
	}
}

static void strict_submit(struct block_channel *channel, struct block_request *request)
{
	check_request(request);
	if (strict.hold && strict.held_count < HELD_MAX && request->offset / 512 % strict.hold) {
		strict.held[strict.held_count++] = request;
		return;
	}
	transfer(request);
	block_finish(request, 0);
}

static void complete_held(struct fuzz_input *input)
{
	static const int errors[] = { 0, 0, -EIO, -EOPNOTSUPP, -ENOSPC };
	uint8_t which = fuzz_u8(input);
	struct block_request *request;
	unsigned index;

	if (!strict.held_count)
		return;
	index = which % strict.held_count;
	request = strict.held[index];
	strict.held[index] = strict.held[--strict.held_count];
	transfer(request);
	block_finish(request, errors[which / 64 % array_size(errors)]);
	block_worker_run_batch_ends(sidecore_slot(engine.sidecore, SIDECORE_SLOT_BLOCK));
}

static const struct disk_ops strict_ops = {
	.kind = "strict",
	.disk_size = sizeof(struct strict_disk),
	.channel_size = sizeof(struct block_channel),
	.submit = strict_submit,
};

static struct disk *strict_open(uint8_t form)
{
	struct disk_limits *limits = &strict.disk.limits;

	memset(&strict, 0, sizeof(strict));
	strict.disk.ops = &strict_ops;
	strict.disk.name = (char *)"strict";
	memcpy(strict.disk.serial, "serial", 7);
	atomic_store(&strict.disk.size, DISK_SIZE);
	limits->block_size = limits->physical_block_size = form & 1 ? 4096 : 512;
	limits->read_only = form & 2;
	limits->discard = limits->write_zeroes = !limits->read_only && !(form & 4);
	limits->write_zeroes_unmap = form & 8;
	limits->flush_needed = form & 16;
	limits->discard_max = DISK_SIZE;
	limits->write_zeroes_max = DISK_SIZE / 2;
	strict.hold = form >> 5;
	strict.bytes = calloc(1, DISK_SIZE);
	return strict.bytes ? &strict.disk : NULL;
}

/* ---- the RAM disk ------------------------------------------------------------------------------------------------ */

static void note_status(struct block_request *request, int status)
{
	request->status = status;
}

static void ram_io(enum block_operation operation, uint64_t offset, void *bytes, uint64_t length)
{
	struct guest_segment segment = { guest_bytes_of(bytes), length };
	struct block_request request = { .operation = (uint8_t)operation,
					 .offset = offset,
					 .length = length,
					 .segments = &segment,
					 .segment_count = bytes ? 1 : 0,
					 .status = 1,
					 .complete = note_status };

	block_submit(ram_channel, &request);
	block_flush_submissions(ram_channel);
	fuzz_require(request.status == 0);
}

static struct disk *ram_prepare(bool read_only)
{
	static uint8_t pattern[DISK_SIZE];
	const char *error;

	memset(pattern, PATTERN, sizeof(pattern));
	ram->limits.read_only = read_only;
	fuzz_require(!disk_resize(ram, DISK_SIZE, &error));
	ram_io(BLOCK_WRITE, 0, pattern, sizeof(pattern));
	return ram;
}

/* The device's queue has started, and with it the device knows a size; now there is more. */
static void ram_grow(void)
{
	static uint8_t pattern[DISK_SIZE];
	const char *error;

	memset(pattern, PATTERN, sizeof(pattern));
	fuzz_require(!disk_resize(ram, 2 * DISK_SIZE, &error));
	ram_io(BLOCK_WRITE, DISK_SIZE, pattern, sizeof(pattern));
}

static void ram_check(bool read_only)
{
	static uint8_t bytes[2 * DISK_SIZE];

	ram_io(BLOCK_READ, 0, bytes, sizeof(bytes));
	for (unsigned i = read_only ? 0 : DISK_SIZE; i < sizeof(bytes); i++)
		fuzz_require(bytes[i] == PATTERN);
}

static void open_once(void)
{
	const struct disk_config config = { .name = "ram", .type = DISK_RAM, .size = DISK_SIZE };
	const char *error;

	guest_open(&guest);
	fuzz_engine_open(&engine);
	fuzz_require(!disk_open(&config, engine.engine, &ram, &error));
	fuzz_require(!block_channel_open(ram, engine.sidecore, &ram_channel));
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

/* A request that is right in form: header, data in pieces, status; what it asks for is the input's. */
static void offer_request(struct guest_queue *driver, struct fuzz_input *input)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,
					  VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };
	uint8_t form = fuzz_u8(input), shape = fuzz_u8(input);
	uint32_t slot = fuzz_u8(input) % 64U;
	struct virtio_blk_outhdr header = { .type = form % 8 < array_size(types) ? types[form % 8] : fuzz_u32(input),
					    .sector = form & 8 ? fuzz_u64(input) : fuzz_u8(input) };
	uint32_t header_at = GUEST_DATA + slot * 512U, data_at = header_at + 32;
	unsigned pieces = shape % 6U, count = 1;
	struct guest_buffer buffers[GUEST_CHAIN_MAX];

	memcpy(guest.bytes + header_at, &header, sizeof(header));
	buffers[0] = (struct guest_buffer){ GUEST_LOW + header_at, sizeof(header), false };
	if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
		for (unsigned i = 0; i < pieces; i++) {
			struct virtio_blk_discard_write_zeroes zone = { .sector = fuzz_u8(input) };

			zone.num_sectors = form & 16 ? fuzz_u32(input) : fuzz_u8(input);
			zone.flags = form & 32 ? fuzz_u8(input) : 0;
			memcpy(guest.bytes + data_at + i * sizeof(zone), &zone, sizeof(zone));
		}
		if (pieces)
			buffers[count++] =
				(struct guest_buffer){ GUEST_LOW + data_at, pieces * 16U * (1U + (shape >> 6)), false };
	} else {
		bool writable = header.type != VIRTIO_BLK_T_OUT;

		for (unsigned i = 0; i < pieces; i++) {
			uint8_t length = fuzz_u8(input);

			buffers[count++] =
				(struct guest_buffer){ GUEST_LOW + GUEST_DATA +
							       (data_at + 512U * i) % (GUEST_DATA_SIZE / 2),
						       form & 64 ? length + 1U : 512U * (1U + length % 16), writable };
		}
	}
	buffers[count++] = (struct guest_buffer){ GUEST_LOW + header_at + 16, 1U + (shape >> 5 & 1), true };
	guest_queue_add(driver, buffers, count, form & 0x80);
}

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	*(bool *)context = true;
}

static void stop_queue(struct virtio_queue *queue, struct fuzz_input *input)
{
	bool stopped = false;

	virtio_queue_stop(queue, note_stopped, &stopped);
	fuzz_engine_settle(&engine);
	while (strict.held_count) {
		fuzz_require(!stopped);
		complete_held(input);
		fuzz_engine_settle(&engine);
	}
	fuzz_require(stopped && !queue->life.in_flight && !queue->model);
}

static bool start_queue(struct virtio_queue *queue, struct guest_queue *driver)
{
	struct virtqueue_config config;

	guest_queue_config(driver, &config);
	if (!driver->packed)
		config.used_base = config.avail_base = guest_load16(config.device_area + 2);
	driver->avail = config.avail_base;
	if (driver->packed) {
		driver->next = 0;
		driver->wrap = true;
	}
	return !virtio_queue_start(queue, &config, -1);
}

static bool step(struct virtio_device *device, struct guest_queue *driver, struct fuzz_input *input)
{
	struct virtio_queue *queue = &device->queues[0];
	uint8_t writeback;

	switch (fuzz_u8(input) % 12) {
	case 0:
	case 1:
	case 2:
		offer_request(driver, input);
		break;
	case 3:
		guest_queue_offer(driver, input);
		break;
	case 4:
		guest_scribble(&guest, input);
		break;
	case 5:
		guest_queue_jump(driver, input);
		break;
	case 6:
	case 7:
		engine.turn.requests = 1 + fuzz_u8(input) % 64U;
		engine.turn.bytes = fuzz_u16(input) * 8U;
		fuzz_engine_round(&engine);
		break;
	case 8:
		complete_held(input);
		fuzz_engine_settle(&engine);
		break;
	case 9:
		fuzz_engine_arm(&engine);
		break;
	case 10:
		writeback = fuzz_u8(input);
		device->ops->config_write(device, 32, &writeback, 1);
		break;
	case 11:
		stop_queue(queue, input);
		return start_queue(queue, driver);
	}
	fuzz_require(queue->life.in_flight <= queue->ring.config.size);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct virtio_blk_options options = { .name = "disk", .sidecore = -1 };
	struct fuzz_input input = { data, size };
	struct virtio_device *device;
	struct guest_queue driver;
	uint8_t form, disk_form;
	struct disk *disk;
	bool use_ram;

	if (!guest.bytes)
		open_once();
	guest_clear(&guest);
	form = fuzz_u8(&input);
	disk_form = fuzz_u8(&input);
	use_ram = form & 8;
	strict.held_count = 0;
	disk = use_ram ? ram_prepare(disk_form & 2) : strict_open(disk_form);
	fuzz_require(disk && !virtio_blk_create(&options, engine.engine, disk, &device));

	guest_queue_init(&driver, &guest, 0, form & 0x77);
	device->ops->features_acked(device, device->features & ~(fuzz_u64(&input) & 0xffff));
	fuzz_require(start_queue(&device->queues[0], &driver));
	if (use_ram)
		ram_grow();
	for (unsigned i = 0; i < STEPS && input.left && step(device, &driver, &input); i++)
		;
	stop_queue(&device->queues[0], &input);
	/* Whatever happened, the device serves the next driver. */
	guest_clear(&guest);
	fuzz_require(start_queue(&device->queues[0], &driver));
	guest.bytes[GUEST_DATA] = VIRTIO_BLK_T_GET_ID;
	guest.bytes[GUEST_DATA + 64 + 20] = 0xff;
	if (driver.size >= 2) {
		const struct guest_buffer buffers[2] = { { GUEST_LOW + GUEST_DATA, 16, false },
							 { GUEST_LOW + GUEST_DATA + 64, 21, true } };

		guest_queue_add(&driver, buffers, 2, false);
		engine.turn.requests = 64;
		engine.turn.bytes = 1 << 20;
		fuzz_require(fuzz_engine_round(&engine) == 1);
		fuzz_require(guest.bytes[GUEST_DATA + 64 + 20] == VIRTIO_BLK_S_OK);
	}
	stop_queue(&device->queues[0], &input);
	virtio_blk_destroy(device, NULL);
	if (use_ram)
		ram_check(disk_form & 2);
	else
		free(strict.bytes);
	return 0;
}
