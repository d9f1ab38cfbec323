/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-blk for a block load. Each request is a fixed buffer of three segments: header (read by the device), data, status
 * (written). Header and status share a cache line of their own, so that only that line changes from request to request; reads
 * and writes differ in the direction of the data segment, which is changed when they alternate.
 */
#include "client/block_driver.h"
#include "client/vhost_user_client.h"
#include "client/virtqueue_driver.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <unistd.h>

#define SEGMENTS    3u
#define STATUS_NONE 0xff

/* What the device sees of a request besides the data. */
struct control_line {
	struct virtio_blk_outhdr header;
	uint8_t status;
	bool writes; /* ours: the direction of the data segment */
} __attribute__((aligned(64)));

struct virtio_queue {
	struct virtqueue_driver ring;
	struct block_request *requests;
	struct control_line *lines;
};

struct block_virtio {
	struct block_driver driver;
	struct vhost_user_client client;
	struct virtio_queue queues[BLOCK_LOAD_QUEUES_MAX];
};

static struct block_virtio *virtio_of(struct block_driver *driver)
{
	return (struct block_virtio *)((char *)driver - offsetof(struct block_virtio, driver));
}

static unsigned int ring_size(const struct block_load_options *options)
{
	unsigned int size = 64;

	while (size < options->depth * SEGMENTS)
		size *= 2;

	return size;
}

static int read_geometry(struct block_virtio *virtio)
{
	struct block_driver *driver = &virtio->driver;
	struct virtio_blk_config config = { 0 };
	/* Up to num_queues: what every back-end with a configuration space has. */
	uint32_t size = offsetof(struct virtio_blk_config, num_queues) + sizeof(config.num_queues);
	int error = vhost_user_client_read_config(&virtio->client, 0, &config, size);
	uint64_t sectors;

	if (error)
		return error;
	sectors = le64toh(config.capacity);
	driver->bytes = sectors > UINT64_MAX / BLOCK_SECTOR ? UINT64_MAX : sectors * BLOCK_SECTOR;
	driver->read_only = vhost_user_client_has(&virtio->client, VIRTIO_BLK_F_RO);
	driver->queues_max = driver->options->queues > 1 ? le16toh(config.num_queues) : 1;

	return 0;
}

static int virtio_attach(struct block_driver *driver)
{
	const struct block_load_options *options = driver->options;
	struct block_virtio *virtio = virtio_of(driver);
	size_t queue_memory = ring_size(options) * (sizeof(struct vring_desc) * (1 + SEGMENTS) + 16) + 5 * 4096 +
			      options->depth * (sizeof(struct control_line) + options->block_size + 4096);
	struct vhost_user_client_options connection = {
		.socket_path = options->socket_path,
		.listen = options->listen,
		.huge_pages = options->huge_pages,
		.memory_size = options->queues * queue_memory,
		/*
		 * FLUSH, as every real driver takes it: without it the device must make each write durable before it
		 * answers (virtio 1.3 5.2.6.2), which no peer does in the same test.
		 */
		.features = 1ULL << VIRTIO_BLK_F_RO | 1ULL << VIRTIO_BLK_F_FLUSH,
		.features_required = 1ULL << VIRTIO_F_VERSION_1,
	};
	int error;

	if (options->packed)
		connection.features_required |= 1ULL << VIRTIO_F_RING_PACKED;
	if (options->queues > 1)
		connection.features_required |= 1ULL << VIRTIO_BLK_F_MQ;
	if (options->event_index)
		connection.features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (options->in_order)
		connection.features |= 1ULL << VIRTIO_F_IN_ORDER;
	if (options->indirect)
		connection.features |= 1ULL << VIRTIO_RING_F_INDIRECT_DESC;

	error = vhost_user_client_attach(&virtio->client, &connection);
	if (!error)
		error = read_geometry(virtio);

	return error;
}

static void set_direction(struct block_virtio *virtio, struct virtio_queue *queue, unsigned int id, bool writes)
{
	struct control_line *line = &queue->lines[id];

	line->writes = writes;
	line->header.type = htole32(writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
	virtqueue_driver_set_segment(&queue->ring, id, 1,
				     client_memory_address(&virtio->client.memory, queue->requests[id].data),
				     virtio->driver.options->block_size, !writes);
}

static int prepare_queue(struct block_virtio *virtio, struct virtio_queue *queue)
{
	struct client_memory *memory = &virtio->client.memory;
	unsigned int depth = virtio->driver.options->depth;

	queue->lines = client_memory_allocate(memory, depth * sizeof(*queue->lines), 4096);
	if (!queue->lines)
		return -ENOMEM;

	for (unsigned int i = 0; i < depth; i++) {
		uint64_t line = client_memory_address(memory, &queue->lines[i]);

		virtqueue_driver_set_segment(&queue->ring, i, 0, line, sizeof(queue->lines->header), false);
		virtqueue_driver_set_segment(&queue->ring, i, 2, line + offsetof(struct control_line, status), 1, true);
		set_direction(virtio, queue, i, false);
	}

	return 0;
}

static int virtio_start_queue(struct block_driver *driver, unsigned int index, struct block_request *requests)
{
	struct block_virtio *virtio = virtio_of(driver);
	struct virtio_queue *queue = &virtio->queues[index];
	struct vhost_user_client *client = &virtio->client;
	const struct virtqueue_driver_options form = {
		.size = (uint16_t)ring_size(driver->options),
		.segments = SEGMENTS,
		.packed = driver->options->packed,
		.event_index = vhost_user_client_has(client, VIRTIO_RING_F_EVENT_IDX),
		.in_order = vhost_user_client_has(client, VIRTIO_F_IN_ORDER),
		.indirect = vhost_user_client_has(client, VIRTIO_RING_F_INDIRECT_DESC),
	};
	void *memory = client_memory_allocate(&client->memory, virtqueue_driver_memory_size(&form), 4096);
	struct vhost_user_client_ring ring = { .size = form.size,
					       .base = form.packed ? VIRTQUEUE_DRIVER_PACKED_BASE : 0 };
	int error;

	queue->requests = requests;
	if (!memory)
		return -ENOMEM;
	error = virtqueue_driver_init(&queue->ring, &form, memory, client_memory_address(&client->memory, memory));
	if (!error)
		error = prepare_queue(virtio, queue);
	if (error)
		return error;

	ring.descriptors = virtqueue_driver_descriptor_area(&queue->ring);
	ring.driver = virtqueue_driver_driver_area(&queue->ring);
	ring.device = virtqueue_driver_device_area(&queue->ring);
	error = vhost_user_client_start_queue(client, index, &ring);
	driver->events[index] = client->queues[index].call_fd;

	return error;
}

static int virtio_ready(struct block_driver *driver)
{
	return vhost_user_client_driver_ready(&virtio_of(driver)->client);
}

static int virtio_submit(struct block_driver *driver, unsigned int index, const struct driver_buffer *buffers,
			 unsigned int count)
{
	struct block_virtio *virtio = virtio_of(driver);
	struct virtio_queue *queue = &virtio->queues[index];
	uint64_t one = 1;

	for (unsigned int i = 0; i < count; i++) {
		const struct block_request *request = &queue->requests[buffers[i].id];
		struct control_line *line = &queue->lines[buffers[i].id];

		if (request->writes != line->writes)
			set_direction(virtio, queue, buffers[i].id, request->writes);
		line->header.sector = htole64(request->offset / BLOCK_SECTOR);
		line->status = STATUS_NONE;
	}
	virtqueue_driver_add(&queue->ring, buffers, count);
	if (virtqueue_driver_publish(&queue->ring) &&
	    write(virtio->client.queues[index].kick_fd, &one, sizeof(one)) == sizeof(one))
		driver->kicks++;

	return 0;
}

static int virtio_take(struct block_driver *driver, unsigned int index, struct driver_buffer *buffers,
		       unsigned int count)
{
	struct virtio_queue *queue = &virtio_of(driver)->queues[index];
	int taken = virtqueue_driver_take(&queue->ring, buffers, count);

	for (int i = 0; i < taken; i++)
		queue->requests[buffers[i].id].failed = queue->lines[buffers[i].id].status != VIRTIO_BLK_S_OK;

	return taken;
}

static bool virtio_arm(struct block_driver *driver, unsigned int index)
{
	return virtqueue_driver_enable_calls(&virtio_of(driver)->queues[index].ring);
}

static void virtio_disarm(struct block_driver *driver, unsigned int index)
{
	virtqueue_driver_disable_calls(&virtio_of(driver)->queues[index].ring);
}

static void virtio_detach(struct block_driver *driver)
{
	struct block_virtio *virtio = virtio_of(driver);

	for (unsigned int i = 0; i < driver->options->queues; i++) {
		if (virtio->client.memory.base && virtio->queues[i].ring.segment)
			vhost_user_client_stop_queue(&virtio->client, i, NULL);
		virtqueue_driver_release(&virtio->queues[i].ring);
	}
	vhost_user_client_detach(&virtio->client);
	free(virtio);
}

static const struct block_driver_ops virtio_ops = {
	.attach = virtio_attach,
	.start_queue = virtio_start_queue,
	.ready = virtio_ready,
	.submit = virtio_submit,
	.take = virtio_take,
	.arm = virtio_arm,
	.disarm = virtio_disarm,
	.detach = virtio_detach,
};

/**
 * block_virtio_create() - a driver of virtio-blk, not attached yet.
 * @options:	of the load; outlive it
 *
 * Return: the driver, or NULL without memory.
 */
struct block_driver *block_virtio_create(const struct block_load_options *options)
{
	struct block_virtio *virtio = calloc(1, sizeof(*virtio));

	if (!virtio)
		return NULL;
	virtio->driver = (struct block_driver){ .ops = &virtio_ops,
						.options = options,
						.memory = &virtio->client.memory,
						.error = virtio->client.connection.error };
	virtio->client.connection.socket = -1;
	virtio->client.memory.fd = -1;

	return &virtio->driver;
}
