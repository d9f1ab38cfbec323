/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net for an endpoint: one pair of queues, buffers of one segment, each with its header in front. */
#include "client/net_driver.h"
#include "client/net_endpoint.h"
#include "client/vhost_user_client.h"
#include "client/virtqueue_driver.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <unistd.h>

#define RX_QUEUE     0
#define TX_QUEUE     1
#define HEADER_SIZE  sizeof(struct virtio_net_hdr_v1)
#define MERGE_BUFFER 2048u

struct net_virtio {
	struct net_driver driver;
	struct vhost_user_client client;
	struct virtqueue_driver rx;
	struct virtqueue_driver tx;
	const uint8_t *rx_buffers;
	uint32_t rx_stride;
	bool mergeable;
	uint32_t merge_left; /* buffers of the current frame that are still to come */
};

static struct net_virtio *virtio_of(struct net_driver *driver)
{
	return (struct net_virtio *)((char *)driver - offsetof(struct net_virtio, driver));
}

static void kick(struct net_virtio *virtio, unsigned int queue)
{
	uint64_t one = 1;

	/* A full counter (EAGAIN) is as good as a kick. */
	if (write(virtio->client.queues[queue].kick_fd, &one, sizeof(one)) == sizeof(one))
		virtio->driver.kicks++;
}

static void connect_options(const struct net_endpoint_options *options, struct vhost_user_client_options *connection)
{
	const uint64_t offloads = 1ULL << VIRTIO_NET_F_CSUM | 1ULL << VIRTIO_NET_F_GUEST_CSUM |
				  1ULL << VIRTIO_NET_F_HOST_TSO4 | 1ULL << VIRTIO_NET_F_GUEST_TSO4;
	size_t buffer = HEADER_SIZE + NET_DRIVER_MTU_ROOM + options->frame_size + MERGE_BUFFER;

	*connection = (struct vhost_user_client_options){
		.socket_path = options->socket_path,
		.listen = options->listen,
		.huge_pages = options->huge_pages,
		.memory_size = 2 * options->ring_size * (buffer + 64) + (1 << 20),
		.features_required = 1ULL << VIRTIO_F_VERSION_1,
	};
	if (options->packed)
		connection->features_required |= 1ULL << VIRTIO_F_RING_PACKED;
	if (options->gso)
		connection->features_required |= offloads;
	if (options->event_index)
		connection->features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (options->in_order)
		connection->features |= 1ULL << VIRTIO_F_IN_ORDER;
	if (options->mergeable)
		connection->features |= 1ULL << VIRTIO_NET_F_MRG_RXBUF;
}

static int create_queue(struct net_virtio *virtio, struct virtqueue_driver *queue)
{
	const struct net_endpoint_options *options = virtio->driver.options;
	const struct virtqueue_driver_options form = {
		.size = options->ring_size,
		.segments = 1,
		.packed = options->packed,
		.event_index = vhost_user_client_has(&virtio->client, VIRTIO_RING_F_EVENT_IDX),
		.in_order = vhost_user_client_has(&virtio->client, VIRTIO_F_IN_ORDER),
	};
	void *memory = client_memory_allocate(&virtio->client.memory, virtqueue_driver_memory_size(&form), 4096);

	if (!memory)
		return -ENOMEM;

	return virtqueue_driver_init(queue, &form, memory, client_memory_address(&virtio->client.memory, memory));
}

static int virtio_attach(struct net_driver *driver)
{
	const struct net_endpoint_options *options = driver->options;
	struct net_virtio *virtio = virtio_of(driver);
	uint32_t frame = options->frame_size > NET_DRIVER_MTU_ROOM ? options->frame_size : NET_DRIVER_MTU_ROOM;
	struct vhost_user_client_options connection;
	int error;

	connect_options(options, &connection);
	error = vhost_user_client_attach(&virtio->client, &connection);
	if (error)
		return error;
	virtio->mergeable = vhost_user_client_has(&virtio->client, VIRTIO_NET_F_MRG_RXBUF);

	error = create_queue(virtio, &virtio->rx);
	if (!error)
		error = create_queue(virtio, &virtio->tx);
	driver->tx_count = virtio->tx.buffers;
	driver->rx_count = virtio->rx.buffers;
	driver->rx_size = virtio->mergeable ? MERGE_BUFFER : (uint32_t)HEADER_SIZE + frame;

	return error;
}

static int start_queue(struct net_virtio *virtio, struct virtqueue_driver *queue, unsigned int index)
{
	const struct vhost_user_client_ring ring = {
		.size = queue->options.size,
		.base = queue->options.packed ? VIRTQUEUE_DRIVER_PACKED_BASE : 0,
		.descriptors = virtqueue_driver_descriptor_area(queue),
		.driver = virtqueue_driver_driver_area(queue),
		.device = virtqueue_driver_device_area(queue),
	};
	int error = vhost_user_client_start_queue(&virtio->client, index, &ring);

	virtio->driver.events[index] = virtio->client.queues[index].call_fd;

	return error;
}

/* Both queues are started, since back-ends wait for a whole pair; the receive ring is filled only if it is wanted. */
static int virtio_start(struct net_driver *driver, const struct net_buffers *buffers)
{
	struct net_virtio *virtio = virtio_of(driver);
	const struct client_memory *memory = &virtio->client.memory;
	int error;

	virtio->rx_buffers = buffers->rx;
	virtio->rx_stride = buffers->rx_stride;
	for (unsigned int i = 0; i < driver->tx_count; i++)
		virtqueue_driver_set_segment(
			&virtio->tx, i, 0, client_memory_address(memory, buffers->tx + (size_t)i * buffers->tx_stride),
			buffers->tx_size, false);
	for (unsigned int i = 0; i < driver->rx_count; i++)
		virtqueue_driver_set_segment(
			&virtio->rx, i, 0, client_memory_address(memory, buffers->rx + (size_t)i * buffers->rx_stride),
			driver->rx_size, true);

	error = start_queue(virtio, &virtio->rx, RX_QUEUE);
	if (!error)
		error = start_queue(virtio, &virtio->tx, TX_QUEUE);
	if (!error)
		error = vhost_user_client_driver_ready(&virtio->client);
	if (error || !driver->options->receive)
		return error;

	for (unsigned int i = 0; i < driver->rx_count; i++) {
		struct driver_buffer buffer = { .id = i };

		virtqueue_driver_add(&virtio->rx, &buffer, 1);
	}
	if (virtqueue_driver_publish(&virtio->rx))
		kick(virtio, RX_QUEUE);

	return 0;
}

static int virtio_send(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count)
{
	struct net_virtio *virtio = virtio_of(driver);

	virtqueue_driver_add(&virtio->tx, buffers, count);
	if (virtqueue_driver_publish(&virtio->tx))
		kick(virtio, TX_QUEUE);

	return 0;
}

static int virtio_reap(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count)
{
	return virtqueue_driver_take(&virtio_of(driver)->tx, buffers, count);
}

/* A frame in several buffers: the header of the first tells how many (5.1.6.3.1). */
static void mark_merged(struct net_virtio *virtio, struct driver_buffer *buffers, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		if (virtio->merge_left == 0) {
			const struct virtio_net_hdr_v1 *header =
				(const void *)(virtio->rx_buffers + (size_t)buffers[i].id * virtio->rx_stride);

			virtio->merge_left = header->num_buffers ? header->num_buffers : 1;
		}
		if (--virtio->merge_left > 0)
			buffers[i].length |= DRIVER_BUFFER_MORE;
	}
}

static int virtio_receive(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count)
{
	struct net_virtio *virtio = virtio_of(driver);
	int taken = virtqueue_driver_take(&virtio->rx, buffers, count);

	if (taken > 0 && virtio->mergeable)
		mark_merged(virtio, buffers, (unsigned int)taken);

	return taken;
}

static int virtio_refill(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count)
{
	struct net_virtio *virtio = virtio_of(driver);

	virtqueue_driver_add(&virtio->rx, buffers, count);
	if (virtqueue_driver_publish(&virtio->rx))
		kick(virtio, RX_QUEUE);

	return 0;
}

static int virtio_arm(struct net_driver *driver)
{
	struct net_virtio *virtio = virtio_of(driver);
	bool pending = false;

	if (driver->options->receive)
		pending |= virtqueue_driver_enable_calls(&virtio->rx);
	/* Buffers that were sent are reaped when others are sent, as a guest's driver does: no need to be told. */
	if (driver->options->transmit && !driver->options->receive)
		pending |= virtqueue_driver_enable_calls(&virtio->tx);

	return pending;
}

static int virtio_disarm(struct net_driver *driver, uint64_t signalled)
{
	struct net_virtio *virtio = virtio_of(driver);

	virtqueue_driver_disable_calls(&virtio->rx);
	virtqueue_driver_disable_calls(&virtio->tx);

	return 0;
}

static void virtio_detach(struct net_driver *driver)
{
	struct net_virtio *virtio = virtio_of(driver);

	if (virtio->client.memory.base) {
		/* Ask for the queues back first, so that the server is not surprised in the middle of a frame. */
		vhost_user_client_stop_queue(&virtio->client, RX_QUEUE, NULL);
		vhost_user_client_stop_queue(&virtio->client, TX_QUEUE, NULL);
	}
	vhost_user_client_detach(&virtio->client);
	virtqueue_driver_release(&virtio->rx);
	virtqueue_driver_release(&virtio->tx);
	free(virtio);
}

static const struct net_driver_ops virtio_ops = {
	.header = HEADER_SIZE,
	.attach = virtio_attach,
	.start = virtio_start,
	.send = virtio_send,
	.reap = virtio_reap,
	.receive = virtio_receive,
	.refill = virtio_refill,
	.arm = virtio_arm,
	.disarm = virtio_disarm,
	.detach = virtio_detach,
};

/**
 * net_virtio_create() - a driver of virtio-net, not attached yet.
 * @options:	of the endpoint; outlive it
 *
 * Return: the driver, or NULL without memory.
 */
struct net_driver *net_virtio_create(const struct net_endpoint_options *options)
{
	struct net_virtio *virtio = calloc(1, sizeof(*virtio));

	if (!virtio)
		return NULL;
	virtio->driver = (struct net_driver){ .ops = &virtio_ops,
					      .options = options,
					      .memory = &virtio->client.memory,
					      .events = { -1, -1 },
					      .error = virtio->client.connection.error };
	virtio->client.connection.socket = -1;
	virtio->client.memory.fd = -1;

	return &virtio->driver;
}
