/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_device.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "fake_engine.h"

static struct fake_device *fake_of(struct virtio_device *device)
{
	return container_of(device, struct fake_device, device);
}

static void read_config(struct virtio_device *device, uint32_t offset, void *to, uint32_t length)
{
	assert(range_inside(offset, length, FAKE_DEVICE_CONFIG));
	memcpy(to, fake_of(device)->config + offset, length);
}

static int write_config(struct virtio_device *device, uint32_t offset, const void *from, uint32_t length)
{
	assert(range_inside(offset, length, FAKE_DEVICE_CONFIG));
	if (offset < FAKE_DEVICE_CONFIG - 8)
		return -EINVAL;
	memcpy(fake_of(device)->config + offset, from, length);
	return 0;
}

static int ack(struct virtio_device *device, uint64_t features)
{
	for (unsigned i = 0; i < device->queue_count; i++)
		assert(device->queues[i].state == VIRTIO_QUEUE_STOPPED);
	fake_of(device)->acks++;
	return 0;
}

static int start(struct virtio_queue *queue)
{
	struct fake_device *fake = fake_of(queue->device);
	int error = fake->start_error;

	fake->start_error = 0;
	if (error)
		return error;
	fake->started++;
	fake->memory = queue->ring.config.memory;
	return 0;
}

static void run(struct virtio_queue *queue)
{
	fake_of(queue->device)->running++;
}

static void unpublish(struct virtio_queue *queue)
{
	fake_of(queue->device)->unpublished++;
}

static void stop(struct virtio_queue *queue)
{
	fake_of(queue->device)->stopped++;
}

static bool polled(const struct virtio_queue *queue)
{
	return !(fake_of(queue->device)->unpolled && queue->index & 1);
}

static unsigned poll(struct virtio_queue *queue, const struct turn *turn)
{
	fake_of(queue->device)->polls++;
	return 0;
}

static int set_mtu(struct virtio_device *device, uint16_t mtu)
{
	if (mtu > 9000)
		return -EINVAL;
	fake_of(device)->mtu = mtu;
	return 0;
}

static int announce(struct virtio_device *device, const uint8_t mac[6])
{
	memcpy(fake_of(device)->announced, mac, 6);
	return 0;
}

static void reset(struct virtio_device *device)
{
	fake_of(device)->resets++;
}

void fake_device_init(struct fake_device *fake, uint16_t device_id)
{
	*fake = (struct fake_device){
		.ops = {
			.type = "fake",
			.device_id = device_id,
			.config_read = read_config,
			.config_write = write_config,
			.features_acked = ack,
			.queue_start = start,
			.queue_running = run,
			.queue_unpublish = unpublish,
			.queue_stopped = stop,
			.queue_polled = polled,
			.poll = poll,
			.set_mtu = device_id == VIRTIO_ID_NET ? set_mtu : NULL,
			.announce = device_id == VIRTIO_ID_NET ? announce : NULL,
			.reset = reset,
		},
		.device = {
			.name = "fake",
			.engine = fake_engine_get(),
			.features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_RING_PACKED |
				    1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << VIRTIO_RING_F_INDIRECT_DESC,
			.config_size = FAKE_DEVICE_CONFIG,
			.queue_count = FAKE_DEVICE_QUEUES,
			.queue_size_max = 256,
		},
	};
	for (unsigned i = 0; i < FAKE_DEVICE_CONFIG; i++)
		fake->config[i] = (uint8_t)(i + 1);
	fake->device.ops = &fake->ops;
	assert(!virtio_device_init(&fake->device));
}

void fake_device_release(struct fake_device *fake)
{
	virtio_device_release(&fake->device);
}
