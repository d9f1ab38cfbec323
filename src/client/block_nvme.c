/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe for a block load: namespace 1 of a controller. The identifier of a request is its command identifier, and its
 * command is prebuilt; PRP entries never change, only the starting block and the opcode do.
 */
#include "client/block_driver.h"
#include "client/nvme_driver.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>

#define PAGE_SIZE 4096u

struct block_nvme {
	struct block_driver driver;
	struct nvme_driver nvme;
	struct block_request *requests[BLOCK_LOAD_QUEUES_MAX];
	unsigned int shift; /* of a block */
};

static struct block_nvme *nvme_of(struct block_driver *driver)
{
	return (struct block_nvme *)((char *)driver - offsetof(struct block_nvme, driver));
}

static uint16_t entries_of(const struct block_load_options *options)
{
	unsigned int entries = 64;

	while (entries <= options->depth)
		entries *= 2;

	return (uint16_t)entries;
}

static uint32_t pages_of(const struct block_load_options *options)
{
	return (options->block_size + PAGE_SIZE - 1) / PAGE_SIZE;
}

static int nvme_attach(struct block_driver *driver)
{
	const struct block_load_options *options = driver->options;
	struct block_nvme *nvme = nvme_of(driver);
	size_t request_memory = (size_t)pages_of(options) * PAGE_SIZE + (pages_of(options) > 2 ? PAGE_SIZE : 0);
	const struct vfio_user_client_options connection = {
		.socket_path = options->socket_path,
		.trapped = options->trapped,
		.huge_pages = options->huge_pages,
		.memory_size = nvme_driver_memory_size(options->queues, entries_of(options)) +
			       options->queues * options->depth * request_memory,
	};
	int error = nvme_driver_attach(&nvme->nvme, &connection, options->interrupts);

	if (error)
		return error;
	if (options->block_size % nvme->nvme.block_size) {
		driver->error = "the namespace's blocks are larger than the requests";
		return -EINVAL;
	}
	nvme->shift = (unsigned int)__builtin_ctz(nvme->nvme.block_size);
	driver->bytes = nvme->nvme.blocks << nvme->shift;
	driver->queues_max = nvme->nvme.pairs_max;

	return 0;
}

/* PRP entries: the first page, and the second or a list of the others (base 4.1.1). Data begin at a page. */
static int prepare_command(struct block_nvme *nvme, struct nvme_command *command, const uint8_t *data)
{
	struct client_memory *memory = &nvme->nvme.client.memory;
	const struct block_load_options *options = nvme->driver.options;
	uint64_t address = client_memory_address(memory, data);
	uint32_t pages = pages_of(options);
	uint64_t *list;

	command->nsid = htole32(1);
	command->cdw10[2] = htole32((options->block_size >> nvme->shift) - 1);
	command->prp1 = htole64(address);
	if (pages == 1)
		return 0;
	if (pages == 2) {
		command->prp2 = htole64(address + PAGE_SIZE);
		return 0;
	}
	list = client_memory_allocate(memory, PAGE_SIZE, PAGE_SIZE);
	if (!list)
		return -ENOMEM;
	for (uint32_t i = 1; i < pages; i++)
		list[i - 1] = htole64(address + (uint64_t)i * PAGE_SIZE);
	command->prp2 = htole64(client_memory_address(memory, list));

	return 0;
}

static int nvme_start_queue(struct block_driver *driver, unsigned int index, struct block_request *requests)
{
	struct block_nvme *nvme = nvme_of(driver);
	int error = nvme_driver_create_pair(&nvme->nvme, entries_of(driver->options));

	nvme->requests[index] = requests;
	for (unsigned int i = 0; !error && i < driver->options->depth; i++)
		error = prepare_command(nvme, &nvme->nvme.pairs[index + 1].prepared[i], requests[i].data);
	driver->events[index] = nvme->nvme.client.event_count > index + 1 ? nvme->nvme.client.events[index + 1] : -1;

	return error;
}

static int nvme_ready(struct block_driver *driver)
{
	return 0;
}

static int nvme_submit(struct block_driver *driver, unsigned int index, const struct driver_buffer *buffers,
		       unsigned int count)
{
	struct block_nvme *nvme = nvme_of(driver);
	struct nvme_pair *pair = &nvme->nvme.pairs[index + 1];

	for (unsigned int i = 0; i < count; i++) {
		const struct block_request *request = &nvme->requests[index][buffers[i].id];
		struct nvme_command *command = &pair->prepared[buffers[i].id];
		uint64_t block = request->offset >> nvme->shift;

		command->opcode = request->writes ? NVME_DRIVER_WRITE : NVME_DRIVER_READ;
		command->cdw10[0] = htole32((uint32_t)block);
		command->cdw10[1] = htole32((uint32_t)(block >> 32));
	}
	driver->kicks += !pair->sq_doorbell.mapped;

	return nvme_pair_submit(pair, buffers, count);
}

static int nvme_take(struct block_driver *driver, unsigned int index, struct driver_buffer *buffers, unsigned int count)
{
	struct block_nvme *nvme = nvme_of(driver);
	int taken = nvme_pair_take(&nvme->nvme.pairs[index + 1], buffers, count);

	if (taken > 0)
		driver->kicks += !nvme->nvme.pairs[index + 1].cq_doorbell.mapped;
	for (int i = 0; i < taken; i++)
		nvme->requests[index][buffers[i].id].failed = buffers[i].length != 0;

	return taken;
}

/* Interrupts need no asking: one comes with whatever was posted since the last. */
static bool nvme_arm(struct block_driver *driver, unsigned int index)
{
	return nvme_pair_is_ready(&nvme_of(driver)->nvme.pairs[index + 1]);
}

static void nvme_disarm(struct block_driver *driver, unsigned int index)
{
}

static void nvme_detach(struct block_driver *driver)
{
	struct block_nvme *nvme = nvme_of(driver);

	nvme_driver_detach(&nvme->nvme);
	free(nvme);
}

static const struct block_driver_ops nvme_ops = {
	.attach = nvme_attach,
	.start_queue = nvme_start_queue,
	.ready = nvme_ready,
	.submit = nvme_submit,
	.take = nvme_take,
	.arm = nvme_arm,
	.disarm = nvme_disarm,
	.detach = nvme_detach,
};

/**
 * block_nvme_create() - a driver of NVMe, not attached yet.
 * @options:	of the load; outlive it
 *
 * Return: the driver, or NULL without memory.
 */
struct block_driver *block_nvme_create(const struct block_load_options *options)
{
	struct block_nvme *nvme = calloc(1, sizeof(*nvme));

	if (!nvme)
		return NULL;
	nvme->driver = (struct block_driver){ .ops = &nvme_ops,
					      .options = options,
					      .memory = &nvme->nvme.client.memory,
					      .error = nvme->nvme.client.connection.error };
	nvme->nvme.client.connection.socket = -1;
	nvme->nvme.client.memory.fd = -1;

	return &nvme->driver;
}
