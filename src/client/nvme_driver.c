/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of an NVMe controller (NVM Express base specification 2.0, here "base").
 *
 * Theory of operation
 * -------------------
 * Bring-up as in base 3.5.1: disable, wait for CSTS.RDY to fall, admin queues, enable, wait for RDY; Identify controller
 * and namespace 1; Number of Queues; then pairs of I/O queues, each of the same size with one completion queue for each
 * submission queue.
 *
 * Commands are prebuilt, one for each command identifier; submitting one copies its 64 bytes into the next entry. A batch is
 * one store to the tail's doorbell, and one to the head's for what was taken. The doorbell is stored with release order: the
 * entries are visible before it. A completion is looked at by its phase bit, with acquire order, before the rest of it.
 *
 * The pairs know nothing of the driver, so that a test can play the controller. Context: one thread owns a driver.
 */
#include "client/nvme_driver.h"

#include <endian.h>
#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* base 3.1.3 "Controller properties" */
#define REGISTER_CAP  0x00u
#define REGISTER_CC   0x14u
#define REGISTER_CSTS 0x1cu
#define REGISTER_AQA  0x24u
#define REGISTER_ASQ  0x28u
#define REGISTER_ACQ  0x30u
#define DOORBELLS     0x1000u

#define CC_ENABLE  1u
#define CC_ENTRIES (6u << 16 | 4u << 20) /* of 64 and 16 bytes */
#define CSTS_READY 1u
#define CSTS_FATAL 2u

/* base 5 "Admin command set" */
#define ADMIN_CREATE_SQ	   0x01u
#define ADMIN_CREATE_CQ	   0x05u
#define ADMIN_IDENTIFY	   0x06u
#define ADMIN_SET_FEATURES 0x09u
#define FEATURE_QUEUES	   0x07u

#define ADMIN_ENTRIES 32u
#define PAGE_SIZE     4096u
#define LBADS_MAX     16u

static int fail(struct nvme_driver *driver, int error, const char *what, unsigned long long value)
{
	return client_connection_fail(&driver->client.connection, error, "NVMe: %s 0x%llx", what, value);
}

/* ---- a pair of queues ---- */

/**
 * nvme_pair_init() - set up an empty pair, whose doorbells the caller fills in.
 * @pair:	written from scratch; release it whatever this returns
 * @index:	0: admin
 * @entries:	of each queue, 2 at least
 * @memory:	where the queues go
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
int nvme_pair_init(struct nvme_pair *pair, uint16_t index, uint16_t entries, struct client_memory *memory)
{
	*pair = (struct nvme_pair){ .index = index, .entries = entries, .phase = 1 };
	if (entries < 2)
		return -EINVAL;
	pair->sq = client_memory_allocate(memory, entries * sizeof(*pair->sq), PAGE_SIZE);
	pair->cq = client_memory_allocate(memory, entries * sizeof(*pair->cq), PAGE_SIZE);
	pair->prepared = aligned_alloc(64, entries * sizeof(*pair->prepared));
	pair->outstanding = calloc(entries, sizeof(*pair->outstanding));
	if (!pair->sq || !pair->cq || !pair->prepared || !pair->outstanding)
		return -ENOMEM;

	memset(pair->prepared, 0, entries * sizeof(*pair->prepared));
	for (unsigned int i = 0; i < entries; i++)
		pair->prepared[i].id = htole16((uint16_t)i);

	return 0;
}

/**
 * nvme_pair_release() - give back the private memory.
 * @pair:	what nvme_pair_init() has seen
 */
void nvme_pair_release(struct nvme_pair *pair)
{
	free(pair->prepared);
	free(pair->outstanding);
	pair->prepared = NULL;
	pair->outstanding = NULL;
}

/**
 * nvme_pair_submit() - submit prepared commands with one doorbell.
 * @pair:	queues
 * @buffers:	their identifiers; none of them in flight
 * @count:	how many; with what is in flight less than the queue has entries
 *
 * Return: 0, or a negative errno of the doorbell's message.
 */
int nvme_pair_submit(struct nvme_pair *pair, const struct driver_buffer *buffers, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		pair->outstanding[buffers[i].id] = true;
		pair->sq[pair->sq_tail] = pair->prepared[buffers[i].id];
		if (++pair->sq_tail == pair->entries)
			pair->sq_tail = 0;
	}
	pair->in_flight = (uint16_t)(pair->in_flight + count);

	return vfio_user_register_store(&pair->sq_doorbell, pair->sq_tail);
}

/**
 * nvme_pair_is_ready() - is there a completion?
 * @pair:	queues
 *
 * Return: true if nvme_pair_take() will find one.
 */
bool nvme_pair_is_ready(const struct nvme_pair *pair)
{
	return (le16toh(__atomic_load_n(&pair->cq[pair->cq_head].status, __ATOMIC_ACQUIRE)) & 1) == pair->phase;
}

/**
 * nvme_pair_take() - collect completions.
 * @pair:	queues
 * @buffers:	receives identifiers; the length is the status field, 0 if all went well
 * @count:	how many at most
 *
 * Return: how many; -EPROTO if the controller completes a command that it does not have; errors of the doorbell's
 * message.
 */
int nvme_pair_take(struct nvme_pair *pair, struct driver_buffer *buffers, unsigned int count)
{
	unsigned int taken = 0;
	int error;

	while (taken < count && nvme_pair_is_ready(pair)) {
		const struct nvme_completion *completion = &pair->cq[pair->cq_head];
		uint16_t id = le16toh(completion->id);

		if (id >= pair->entries || !pair->outstanding[id])
			return -EPROTO;
		pair->outstanding[id] = false;
		buffers[taken++] = (struct driver_buffer){ .id = id, .length = le16toh(completion->status) >> 1u };
		if (++pair->cq_head == pair->entries) {
			pair->cq_head = 0;
			pair->phase ^= 1;
		}
	}
	if (taken == 0)
		return 0;

	pair->in_flight = (uint16_t)(pair->in_flight - taken);
	error = vfio_user_register_store(&pair->cq_doorbell, pair->cq_head);

	return error ? error : (int)taken;
}

/* ---- the controller ---- */

static int write64(struct nvme_driver *driver, uint32_t offset, uint64_t value)
{
	int error = vfio_user_client_write32(&driver->client, offset, (uint32_t)value);

	return error ? error : vfio_user_client_write32(&driver->client, offset + 4, (uint32_t)(value >> 32));
}

static int wait_ready(struct nvme_driver *driver, uint32_t ready)
{
	struct timespec pause = { .tv_nsec = 1000000 };

	for (int waited = 0; waited <= driver->timeout_ms; waited++) {
		uint32_t status;
		int error = vfio_user_client_read32(&driver->client, REGISTER_CSTS, &status);

		if (error)
			return error;
		if (status & CSTS_FATAL)
			return fail(driver, -EIO, "fatal status", status);
		if ((status & CSTS_READY) == ready)
			return 0;
		nanosleep(&pause, NULL);
	}

	return fail(driver, -ETIMEDOUT, "never ready", ready);
}

static void place_doorbells(struct nvme_driver *driver, struct nvme_pair *pair)
{
	uint32_t offset = DOORBELLS + 2u * pair->index * driver->stride;

	pair->sq_doorbell = vfio_user_client_register(&driver->client, offset);
	pair->cq_doorbell = vfio_user_client_register(&driver->client, offset + driver->stride);
}

static int enable(struct nvme_driver *driver)
{
	struct vfio_user_client *client = &driver->client;
	struct nvme_pair *admin = &driver->pairs[0];
	uint32_t low, high;
	int error = vfio_user_client_read32(client, REGISTER_CAP, &low);

	if (!error)
		error = vfio_user_client_read32(client, REGISTER_CAP + 4, &high);
	if (error)
		return error;
	driver->entries_max = (low & 0xffff) + 1;
	driver->timeout_ms = (int)(low >> 24) * 500 + 500;
	driver->stride = 4u << (high & 0xf);
	place_doorbells(driver, admin);

	error = vfio_user_client_write32(client, REGISTER_CC, 0);
	if (!error)
		error = wait_ready(driver, 0);
	if (!error)
		error = vfio_user_client_write32(client, REGISTER_AQA, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
	if (!error)
		error = write64(driver, REGISTER_ASQ, client_memory_address(&client->memory, admin->sq));
	if (!error)
		error = write64(driver, REGISTER_ACQ, client_memory_address(&client->memory, admin->cq));
	if (!error)
		error = vfio_user_client_write32(client, REGISTER_CC, CC_ENTRIES | CC_ENABLE);
	if (!error)
		error = wait_ready(driver, CSTS_READY);

	return error;
}

/**
 * nvme_driver_admin() - one admin command, waited for.
 * @driver:	attached driver
 * @command:	its identifier is chosen here
 * @result:	receives dword 0 of the completion; may be NULL
 *
 * Return: 0, -EREMOTEIO if the controller refuses it, or another negative errno, with the reason in
 * @driver->client.connection.error.
 */
int nvme_driver_admin(struct nvme_driver *driver, const struct nvme_command *command, uint32_t *result)
{
	struct nvme_pair *admin = &driver->pairs[0];
	struct driver_buffer buffer = { .id = 0 };
	struct timespec pause = { .tv_nsec = 100000 };
	uint16_t head = admin->cq_head;
	int taken = 0, error;

	admin->prepared[0] = *command;
	error = nvme_pair_submit(admin, &buffer, 1);
	for (int waited = 0; !error && taken == 0; waited++) {
		taken = nvme_pair_take(admin, &buffer, 1);
		if (taken < 0)
			error = taken;
		else if (taken == 0 && waited == 50000)
			error = fail(driver, -ETIMEDOUT, "no completion of admin command", command->opcode);
		else if (taken == 0)
			nanosleep(&pause, NULL);
	}
	if (error)
		return error;
	if (buffer.length)
		return fail(driver, -EREMOTEIO, "admin command refused, status", buffer.length);
	if (result)
		*result = le32toh(admin->cq[head].result);

	return 0;
}

static int identify(struct nvme_driver *driver, uint32_t nsid, uint32_t structure)
{
	struct nvme_command command = { .opcode = ADMIN_IDENTIFY,
					.nsid = htole32(nsid),
					.prp1 = htole64(client_memory_address(&driver->client.memory, driver->page)),
					.cdw10[0] = htole32(structure) };

	return nvme_driver_admin(driver, &command, NULL);
}

/* Size and format of namespace 1: NVM command set 4.1.5.1, base figure "Identify". */
static int read_namespace(struct nvme_driver *driver)
{
	uint64_t blocks;
	uint32_t format;
	int error = identify(driver, 1, 0);

	if (error)
		return error;
	memcpy(&blocks, driver->page, sizeof(blocks));
	driver->blocks = le64toh(blocks);
	memcpy(&format, driver->page + 128 + 4u * (driver->page[26] & 0xfu), sizeof(format));
	format = le32toh(format) >> 16 & 0xff;
	if (format < 9 || format > LBADS_MAX)
		return fail(driver, -EPROTO, "block size of 2 to the power of", format);
	driver->block_size = 1u << format;

	return 0;
}

static int ask_for_queues(struct nvme_driver *driver)
{
	uint32_t wanted = NVME_DRIVER_PAIRS_MAX - 1, granted;
	struct nvme_command command = { .opcode = ADMIN_SET_FEATURES,
					.cdw10 = { htole32(FEATURE_QUEUES), htole32(wanted << 16 | wanted) } };
	int error = nvme_driver_admin(driver, &command, &granted);

	if (error)
		return error;
	driver->pairs_max = 1 + ((granted & 0xffff) < granted >> 16 ? granted & 0xffff : granted >> 16);
	if (driver->pairs_max > NVME_DRIVER_PAIRS_MAX)
		driver->pairs_max = NVME_DRIVER_PAIRS_MAX;

	return 0;
}

/**
 * nvme_driver_memory_size() - guest memory that a driver takes for itself.
 * @pairs:	I/O queues
 * @entries:	of each
 *
 * Return: bytes.
 */
size_t nvme_driver_memory_size(unsigned int pairs, unsigned int entries)
{
	size_t pair = entries * (sizeof(struct nvme_command) + sizeof(struct nvme_completion)) + 2 * PAGE_SIZE;

	return pairs * pair + 8 * PAGE_SIZE;
}

/**
 * nvme_driver_attach() - connect and bring the controller up.
 * @driver:	written from scratch; detach it whatever this returns
 * @options:	how; guest memory includes nvme_driver_memory_size()
 * @interrupts:	MSI-X is enabled: vector 0 for the admin queue, one for each I/O queue (its index)
 *
 * Return: 0, or a negative errno with the reason in @driver->client.connection.error.
 */
int nvme_driver_attach(struct nvme_driver *driver, const struct vfio_user_client_options *options, bool interrupts)
{
	int error;

	memset(driver, 0, sizeof(*driver));
	error = vfio_user_client_attach(&driver->client, options);
	if (error)
		return error;
	driver->page = client_memory_allocate(&driver->client.memory, PAGE_SIZE, PAGE_SIZE);
	if (!driver->page)
		return -ENOMEM;
	driver->pair_count = 1;
	error = nvme_pair_init(&driver->pairs[0], 0, ADMIN_ENTRIES, &driver->client.memory);
	if (!error)
		error = enable(driver);
	if (!error)
		error = identify(driver, 0, 1);
	if (!error)
		error = read_namespace(driver);
	if (!error)
		error = ask_for_queues(driver);
	if (!error && interrupts)
		error = vfio_user_client_enable_interrupts(&driver->client, VFIO_PCI_MSIX_IRQ_INDEX,
							   driver->pairs_max + 1);

	return error;
}

/**
 * nvme_driver_detach() - disable the controller and disconnect.
 * @driver:	what nvme_driver_attach() has seen
 */
void nvme_driver_detach(struct nvme_driver *driver)
{
	if (driver->pair_count)
		vfio_user_client_write32(&driver->client, REGISTER_CC, 0);
	for (unsigned int i = 0; i < driver->pair_count; i++)
		nvme_pair_release(&driver->pairs[i]);
	driver->pair_count = 0;
	vfio_user_client_detach(&driver->client);
}

/**
 * nvme_driver_create_pair() - create the next pair of I/O queues.
 * @driver:	attached driver
 * @entries:	of each queue
 *
 * It interrupts if the driver was attached with interrupts.
 *
 * Return: 0, or a negative errno with the reason in @driver->client.connection.error.
 */
int nvme_driver_create_pair(struct nvme_driver *driver, uint16_t entries)
{
	struct client_memory *memory = &driver->client.memory;
	uint16_t index = (uint16_t)driver->pair_count;
	struct nvme_pair *pair = &driver->pairs[index];
	bool interrupts = driver->client.event_count > index;
	uint32_t form = (uint32_t)(entries - 1) << 16 | index;
	/* Physically contiguous; completion queue: vector and interrupts enabled; submission queue: its completion
	 * queue. */
	struct nvme_command create = { .opcode = ADMIN_CREATE_CQ,
				       .cdw10 = { htole32(form),
						  htole32((uint32_t)index << 16 | interrupts << 1 | 1u) } };
	int error;

	if (index > driver->pairs_max)
		return fail(driver, -EINVAL, "I/O queues granted:", driver->pairs_max);
	if (entries > driver->entries_max)
		return fail(driver, -EINVAL, "entries of a queue at most:", driver->entries_max);
	driver->pair_count++;
	error = nvme_pair_init(pair, index, entries, memory);
	if (error)
		return error;
	place_doorbells(driver, pair);

	create.prp1 = htole64(client_memory_address(memory, pair->cq));
	error = nvme_driver_admin(driver, &create, NULL);
	if (error)
		return error;
	create.opcode = ADMIN_CREATE_SQ;
	create.prp1 = htole64(client_memory_address(memory, pair->sq));
	create.cdw10[1] = htole32((uint32_t)index << 16 | 1u);

	return nvme_driver_admin(driver, &create, NULL);
}
