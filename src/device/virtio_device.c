/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a virtio queue: what device_queue.c does not know of, which is the ring, the device model and the report of
 * a break. Theory of operation and states: device/virtio_device.h.
 */
#include "device/virtio_device.h"

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/counter.h"
#include "ring/inflight.h"

/* Turns between two looks at the guest's memory for a file that shrank: cheap, and soon enough. A power of two. */
#define TURNS_PER_LOOK 64U

static void tell_broken(struct engine_completion *completion);

int virtio_device_init(struct virtio_device *device)
{
	device->queues = calloc(device->queue_count, sizeof(*device->queues));
	if (!device->queues)
		return -ENOMEM;
	for (uint16_t i = 0; i < device->queue_count; i++) {
		struct virtio_queue *queue = &device->queues[i];

		queue->device = device;
		queue->index = i;
		queue->sidecore = -1;
		queue->ring.config.call_fd = -1;
		device_queue_init(&queue->life, device->engine, false); /* kicked by the front-end's own: cannot fail */
		queue->break_completion.done = tell_broken;
	}
	return 0;
}

void virtio_device_release(struct virtio_device *device)
{
	free(device->queues);
	device->queues = NULL;
}

/* ---- on the sidecore --------------------------------------------------------------------------------------------- */

static bool memory_damaged(const struct virtqueue_config *config)
{
	return guest_memory_damaged(config->memory) ||
	       (config->inflight && virtqueue_inflight_damaged(config->inflight));
}

void virtio_queue_check_memory(struct virtio_queue *queue)
{
	if (unlikely(!(queue->turns++ & (TURNS_PER_LOOK - 1)) && memory_damaged(&queue->ring.config)))
		virtqueue_break(&queue->ring, VIRTQUEUE_MEMORY_DAMAGED);
}

static unsigned poll_queue(struct poller *poller, const struct turn *turn)
{
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, life.poller);
	unsigned work;

	virtio_queue_check_memory(queue);
	work = queue->device->ops->poll(queue, turn);
	if (unlikely(queue->ring.broken))
		virtio_queue_report_break(queue);
	return work;
}

static bool arm_queue(struct poller *poller)
{
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, life.poller);

	/* The front-end gave no kick: it relies on being polled, so whoever polls it must not sleep. */
	if (poller->wake_fd < 0)
		return !queue->ring.broken;
	return virtqueue_arm(&queue->ring);
}

static void disarm_queue(struct poller *poller)
{
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, life.poller);

	counter_add(&queue->ring.counters.kicks, counter_read(&poller->counters.wakes) - queue->ring.counters.kicks);
	virtqueue_disarm(&queue->ring);
}

static const struct poller_ops queue_poller_ops = {
	.kind = "virtqueue",
	.poll = poll_queue,
	.arm = arm_queue,
	.disarm = disarm_queue,
};

void virtio_queue_report_break(struct virtio_queue *queue)
{
	unsigned char expected = VIRTIO_QUEUE_NOT_REPORTED;

	/* Receive queues are used by several sidecores, one after the other: one of them tells. */
	if (atomic_load_explicit(&queue->break_report, memory_order_relaxed) == VIRTIO_QUEUE_NOT_REPORTED &&
	    atomic_compare_exchange_strong(&queue->break_report, &expected, VIRTIO_QUEUE_REPORT_POSTED))
		engine_complete(queue->device->engine, &queue->break_completion);
}

/* ---- on the control thread --------------------------------------------------------------------------------------- */

static void finish_stop(struct virtio_queue *queue);

static void tell_broken(struct engine_completion *completion)
{
	struct virtio_queue *queue = container_of(completion, struct virtio_queue, break_completion);
	struct virtio_device *device = queue->device;

	atomic_store(&queue->break_report, VIRTIO_QUEUE_REPORTED);
	log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: queue %u broken by the guest: %s", device->name,
		    queue->index, virtqueue_break_reason_name(queue->ring.broken));
	if (device->queue_broken)
		device->queue_broken(queue);
	if (queue->stop_awaits_report)
		finish_stop(queue);
}

static bool is_polled(const struct virtio_queue *queue)
{
	const struct virtio_device_ops *ops = queue->device->ops;

	return ops->poll && (!ops->queue_polled || ops->queue_polled(queue));
}

int virtio_queue_start(struct virtio_queue *queue, const struct virtqueue_config *config, int kick_fd)
{
	const struct virtio_device_ops *ops = queue->device->ops;
	int error;

	if (queue->state != VIRTIO_QUEUE_STOPPED)
		return -EBUSY;
	error = virtqueue_start(&queue->ring, config);
	if (error)
		return error;
	queue->life.home = is_polled(queue) ? device_queue_place(queue->device->engine, queue->sidecore) : NULL;
	error = ops->queue_start(queue);
	if (error)
		goto stop_ring;

	atomic_store(&queue->break_report, VIRTIO_QUEUE_NOT_REPORTED);
	queue->turns = 0;
	queue->life.poller.ops = &queue_poller_ops;
	queue->life.poller.wake_fd = kick_fd;
	error = device_queue_start(&queue->life, queue->life.home);
	if (error)
		goto stop_model;
	queue->state = VIRTIO_QUEUE_RUNNING;
	if (ops->queue_running)
		ops->queue_running(queue);
	return 0;

stop_model:
	ops->queue_stopped(queue);
stop_ring:
	virtqueue_stop(&queue->ring);
	return error;
}

static void finish_stop(struct virtio_queue *queue)
{
	uint32_t base;

	/* The report's completion is a member of the queue: let it come in before the queue may be freed. */
	queue->stop_awaits_report = atomic_load(&queue->break_report) == VIRTIO_QUEUE_REPORT_POSTED;
	if (queue->stop_awaits_report)
		return;
	queue->device->ops->queue_stopped(queue);
	if (virtqueue_settle(&queue->ring))
		virtqueue_notify(&queue->ring, engine_notifier(queue->device->engine));
	base = virtqueue_stop(&queue->ring);
	queue->state = VIRTIO_QUEUE_STOPPED;
	queue->stopped(queue, base, queue->stopped_context);
}

static void after_stop(struct device_queue *life, void *context)
{
	finish_stop(container_of(life, struct virtio_queue, life));
}

void virtio_queue_stop(struct virtio_queue *queue,
		       void (*stopped)(struct virtio_queue *queue, uint32_t base, void *context), void *context)
{
	const struct virtio_device_ops *ops = queue->device->ops;

	if (queue->state == VIRTIO_QUEUE_STOPPED) {
		stopped(queue, 0, context);
		return;
	}
	queue->state = VIRTIO_QUEUE_STOPPING;
	queue->stopped = stopped;
	queue->stopped_context = context;
	if (ops->queue_unpublish)
		ops->queue_unpublish(queue);
	device_queue_stop(&queue->life, after_stop, NULL);
}
