/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_driver.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/worker.h"

#define require fuzz_require

/* Requests that one command can lead to: 256 ranges of 4 MiB, in pieces of 64 KiB. */
#define PIECES_MAX 16384U

/* ---- the disk ---------------------------------------------------------------------------------------------------- */

static struct slow_disk *slow_of(struct disk *disk)
{
	return container_of(disk, struct slow_disk, disk);
}

/* What a device model promises to every backend. */
static void check_request(const struct slow_disk *slow, const struct block_request *request)
{
	uint32_t block = slow->disk.limits.block_size;
	uint64_t length = 0;

	if (request->operation == BLOCK_FLUSH)
		return;
	require(request->length && request->offset % block == 0 && request->length % block == 0);
	require(range_inside(request->offset, request->length, SLOW_SIZE));
	require(!slow->disk.limits.read_only || request->operation == BLOCK_READ);
	if (request->operation == BLOCK_DISCARD)
		require(request->length <= slow->disk.limits.discard_max);
	if (request->operation == BLOCK_WRITE_ZEROES)
		require(request->length <= slow->disk.limits.write_zeroes_max);
	if (request->operation > BLOCK_WRITE)
		return;
	for (unsigned i = 0; i < request->segment_count; i++) {
		require(request->segments[i].length);
		length += request->segments[i].length;
	}
	require(length == request->length);
}

static void serve(struct slow_disk *slow, struct block_request *request)
{
	uint8_t *at = slow->bytes + request->offset;

	slow->durables +=
		request->durable && (request->operation == BLOCK_WRITE || request->operation == BLOCK_WRITE_ZEROES);
	if (request->operation != BLOCK_FLUSH)
		slow->largest_piece = max(slow->largest_piece, request->length);
	switch ((enum block_operation)request->operation) {
	case BLOCK_READ:
		block_scatter(request, at, request->length);
		break;
	case BLOCK_WRITE:
		block_gather(request, at, request->length);
		break;
	case BLOCK_FLUSH:
		slow->flushes++;
		break;
	case BLOCK_DISCARD:
		slow->discards++;
		memset(at, 0xdd, request->length);
		break;
	case BLOCK_WRITE_ZEROES:
		slow->zeroes++;
		memset(at, 0, request->length);
		break;
	}
	block_finish(request, slow->error);
}

static void slow_submit(struct block_channel *channel, struct block_request *request)
{
	struct slow_disk *slow = slow_of(channel->disk);

	check_request(slow, request);
	if (!slow->hold || slow->held_count == SLOW_HELD) {
		serve(slow, request);
		return;
	}
	slow->held[slow->held_count++] = request;
}

void slow_release(struct nvme_driver *driver, struct slow_disk *slow, unsigned count)
{
	/* Nothing of the worker's may be touched from here while a sidecore runs (threaded_engine.c), which holds nothing. */
	if (!slow->held_count)
		return;
	if (!count)
		count = slow->held_count;
	while (count-- && slow->held_count) {
		struct block_request *request = slow->held[0];

		memmove(slow->held, slow->held + 1, --slow->held_count * sizeof(slow->held[0]));
		serve(slow, request);
	}
	block_worker_run_batch_ends(sidecore_slot(driver->engine.sidecore, SIDECORE_SLOT_BLOCK));
}

static int slow_resize(struct disk *disk, uint64_t size)
{
	atomic_store(&disk->size, size);
	return 0;
}

static const struct disk_ops slow_ops = {
	.kind = "slow",
	.disk_size = sizeof(struct slow_disk),
	.channel_size = sizeof(struct block_channel),
	.submit = slow_submit,
	.resize = slow_resize,
};

static void slow_open(struct slow_disk *slow, const char *name)
{
	struct disk_limits *limits = &slow->disk.limits;

	memset(slow, 0, sizeof(*slow));
	slow->disk.ops = &slow_ops;
	slow->disk.name = (char *)(uintptr_t)name;
	snprintf(slow->disk.serial, sizeof(slow->disk.serial), "%s", name);
	atomic_store(&slow->disk.size, SLOW_SIZE);
	limits->block_size = limits->physical_block_size = 512;
	limits->discard = limits->write_zeroes = limits->write_zeroes_unmap = limits->flush_needed = true;
	limits->discard_max = 64U << 10;
	limits->write_zeroes_max = 32U << 10;
	slow->bytes = malloc(SLOW_SIZE);
	require(slow->bytes);
	memset(slow->bytes, 0x55, SLOW_SIZE);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void add_region(struct nvme_driver *driver, uint64_t address)
{
	struct guest_memory *memory;
	struct guest_region *region;

	require(!guest_region_map(driver->memory_fd, address - DRIVER_MEMORY, address, DRIVER_MEMORY_SIZE / 2, address,
				  &region));
	require(!guest_memory_with(driver->memory, region, &memory));
	guest_region_put(region);
	guest_memory_free(driver->memory);
	driver->memory = memory;
}

static void open_memory(struct nvme_driver *driver)
{
	driver->memory_fd = memfd_create("guest", MFD_CLOEXEC);
	require(driver->memory_fd >= 0 && !ftruncate(driver->memory_fd, DRIVER_MEMORY_SIZE));
	driver->bytes = mmap(NULL, DRIVER_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, driver->memory_fd, 0);
	require(driver->bytes != MAP_FAILED);
	driver->memory = guest_memory_create();
	require(driver->memory);
	add_region(driver, DRIVER_MEMORY);
	add_region(driver, DRIVER_SEAM);
}

void *driver_bytes(struct nvme_driver *driver, uint64_t address)
{
	require(range_inside(address - DRIVER_MEMORY, 1, DRIVER_MEMORY_SIZE));
	return driver->bytes + (address - DRIVER_MEMORY);
}

/* ---- start and stop ---------------------------------------------------------------------------------------------- */

static void note_done(struct pci_device *device)
{
	((struct nvme_driver *)device->transport)->done = true;
}

static const struct pci_device_host host = { .done = note_done };

/* The engine stays for all tests: it has no end without threads. */
static struct fuzz_engine *the_engine(void)
{
	static struct fuzz_engine engine;

	if (!engine.engine)
		fuzz_engine_open(&engine);
	return &engine;
}

static void set_master(struct nvme_driver *driver)
{
	static const uint8_t command[2] = { 0x06, 0 }; /* memory space, bus master */

	pci_device_config_write(driver->device, 4, command, sizeof(command));
}

void nvme_driver_start(struct nvme_driver *driver, const struct nvme_options *options)
{
	struct nvme_options defaults = { .name = "nvme", .sidecore = -1, .queues = DRIVER_QUEUES - 1 };

	memset(driver, 0, sizeof(*driver));
	driver->engine = *the_engine();
	open_memory(driver);
	slow_open(&driver->slow[0], "first");
	slow_open(&driver->slow[1], "second");
	if (options)
		defaults = *options;
	if (!defaults.disk_count) {
		defaults.disk_count = 2;
		defaults.disks[0] = &driver->slow[0].disk;
		defaults.disks[1] = &driver->slow[1].disk;
	}
	require(!nvme_create(&defaults, driver->engine.engine, &driver->device));
	driver->nvme = nvme_of(driver->device);
	driver->device->transport = driver;
	driver->device->host = &host;
	driver->device->memory = driver->memory;
	require(driver->device->ops->reset(driver->device) == PCI_DONE);
	driver->device->ops->resume(driver->device);
	set_master(driver);
	require(driver_enable(driver, DRIVER_ENTRIES) == NVME_CSTS_RDY);
}

static void note_gone(struct engine_completion *completion)
{
	completion->done = NULL;
}

void nvme_driver_stop(struct nvme_driver *driver)
{
	struct engine_completion gone = { .done = note_gone };

	for (unsigned i = 0; i < 2; i++) {
		driver->slow[i].hold = false;
		slow_release(driver, &driver->slow[i], 0);
	}
	driver_pause(driver);
	driver->device->host = NULL;
	driver->device->memory = NULL;
	nvme_destroy(driver->device, &gone);
	fuzz_engine_settle(&driver->engine);
	require(!gone.done);
	guest_memory_free(driver->memory);
	munmap(driver->bytes, DRIVER_MEMORY_SIZE);
	close(driver->memory_fd);
	free(driver->slow[0].bytes);
	free(driver->slow[1].bytes);
}

void nvme_driver_run(struct nvme_driver *driver)
{
	for (unsigned quiet = 0; quiet < 3;)
		quiet = fuzz_engine_round(&driver->engine) ? 0 : quiet + 1;
}

void driver_pause(struct nvme_driver *driver)
{
	driver->done = false;
	if (driver->device->ops->pause(driver->device) == PCI_DONE)
		return;
	fuzz_engine_settle(&driver->engine);
	require(driver->done);
}

/* ---- registers --------------------------------------------------------------------------------------------------- */

static void access_register(struct nvme_driver *driver, uint32_t offset, unsigned size, void *data, bool write)
{
	struct pci_access access = { .bar = 0, .write = write, .length = size, .offset = offset, .data = data };

	driver->done = false;
	while (pci_device_access(driver->device, &access) == PCI_DEFERRED) {
		/* Again and again: a command may have several requests, one after the other. */
		for (unsigned pieces = 0; !driver->done; pieces++) {
			require(pieces < PIECES_MAX);
			for (unsigned i = 0; i < 2; i++)
				slow_release(driver, &driver->slow[i], 0);
			fuzz_engine_settle(&driver->engine);
		}
	}
}

uint64_t driver_read(struct nvme_driver *driver, uint32_t offset, unsigned size)
{
	uint64_t value = 0;

	access_register(driver, offset, size, &value, false);
	return value;
}

void driver_write(struct nvme_driver *driver, uint32_t offset, unsigned size, uint64_t value)
{
	access_register(driver, offset, size, &value, true);
}

uint32_t driver_enable(struct nvme_driver *driver, uint32_t entries)
{
	driver_write(driver, NVME_REG_CC, 4, 0);
	fuzz_engine_settle(&driver->engine);
	memset(driver->bytes, 0, 0x100000);
	memset(driver->queues, 0, sizeof(driver->queues));
	driver->queues[0] = (struct driver_queue){ .sq_size = entries, .cq_size = entries, .phase = 1 };
	driver_write(driver, NVME_REG_AQA, 4, (entries - 1) << 16 | (entries - 1));
	driver_write(driver, NVME_REG_ASQ, 8, DRIVER_SQ(0));
	driver_write(driver, NVME_REG_ACQ, 8, DRIVER_CQ(0));
	driver_write(driver, NVME_REG_CC, 4, 4U << 20 | 6U << 16 | NVME_CC_EN);
	return (uint32_t)driver_read(driver, NVME_REG_CSTS, 4);
}

/* ---- queues ------------------------------------------------------------------------------------------------------ */

/* As the driver of a guest does, which knows nothing of it: a store, or a message where the page was not offered. */
static void ring(struct nvme_driver *driver, uint32_t doorbell, uint32_t value)
{
	if (driver->nvme->posted)
		driver_write(driver, doorbell, 4, value);
	else
		pci_window_store(&driver->device->bars[0], doorbell, value);
}

void driver_ring_tail(struct nvme_driver *driver, unsigned id, uint32_t value)
{
	ring(driver, nvme_tail_doorbell(id), value);
}

void driver_ring_head(struct nvme_driver *driver, unsigned cq, uint32_t value)
{
	ring(driver, nvme_head_doorbell(cq), value);
}

uint16_t driver_submit(struct nvme_driver *driver, unsigned id, const struct nvme_command *command)
{
	struct driver_queue *queue = &driver->queues[id];
	struct nvme_command *slot = driver_bytes(driver, DRIVER_SQ(id) + sizeof(*slot) * queue->tail);

	*slot = *command;
	slot->cid = ++driver->cid;
	queue->tail = queue->tail + 1 == queue->sq_size ? 0 : queue->tail + 1;
	driver_ring_tail(driver, id, queue->tail);
	return driver->cid;
}

bool driver_take(struct nvme_driver *driver, unsigned cq, struct nvme_completion *completion)
{
	struct driver_queue *queue = &driver->queues[cq];
	struct nvme_completion *slot = driver_bytes(driver, DRIVER_CQ(cq) + sizeof(*slot) * queue->head);

	if ((__atomic_load_n(&slot->status, __ATOMIC_ACQUIRE) & 1) != queue->phase)
		return false;
	*completion = *slot;
	completion->status >>= 1;
	driver->more = completion->status & NVME_MORE;
	completion->status &= (uint16_t)~NVME_MORE;
	if (++queue->head == queue->cq_size) {
		queue->head = 0;
		queue->phase ^= 1;
	}
	driver_ring_head(driver, cq, queue->head);
	return true;
}

uint16_t driver_command(struct nvme_driver *driver, unsigned id, const struct nvme_command *command, uint32_t *result)
{
	uint16_t cid = driver_submit(driver, id, command);
	struct nvme_completion completion;

	nvme_driver_run(driver);
	require(driver_take(driver, driver->queues[id].cq, &completion));
	require(completion.cid == cid && completion.sq_id == id && completion.sq_head == driver->queues[id].tail);
	if (result)
		*result = completion.result;
	/* The head of the admin completion queue is looked at, too. */
	nvme_driver_run(driver);
	return completion.status;
}

uint16_t driver_create_cq(struct nvme_driver *driver, unsigned id, uint32_t size, uint16_t vector)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_CREATE_CQ,
					.prp1 = DRIVER_CQ(id),
					.dw10 = (size - 1) << 16 | id,
					.dw11 = (uint32_t)vector << 16 | 3 };
	uint16_t status = driver_command(driver, 0, &command, NULL);

	if (status)
		return status;
	memset(driver_bytes(driver, DRIVER_CQ(id)), 0, 16UL * size);
	driver->queues[id].cq_size = size;
	driver->queues[id].head = 0;
	driver->queues[id].phase = 1;
	return 0;
}

uint16_t driver_create_sq(struct nvme_driver *driver, unsigned id, uint32_t size, unsigned cq)
{
	struct nvme_command command = { .opcode = NVME_ADMIN_CREATE_SQ,
					.prp1 = DRIVER_SQ(id),
					.dw10 = (size - 1) << 16 | id,
					.dw11 = cq << 16 | 1 };
	uint16_t status = driver_command(driver, 0, &command, NULL);

	if (status)
		return status;
	driver->queues[id].sq_size = size;
	driver->queues[id].tail = 0;
	driver->queues[id].cq = (uint16_t)cq;
	return 0;
}

void driver_queue(struct nvme_driver *driver, unsigned id, uint32_t size)
{
	require(!driver_create_cq(driver, id, size, (uint16_t)id));
	require(!driver_create_sq(driver, id, size, id));
}
