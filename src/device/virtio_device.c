/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a virtio queue. Theory of operation and states: device/virtio_device.h.
 *
 * A stop is a chain of completions on the control thread, each started by the one before:
 *
 *	unpublish, detach -> barrier -> message to the home sidecore (drain) -> last request in flight -> stopped
 *
 * Queues that are not polled (receive queues) have neither home nor requests in flight: unpublish, barrier, stopped.
 *
 * The drain has to be asked for on the home sidecore, because in_flight is counted there; it is asked for after the
 * barrier, because until then another turn may still submit.
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
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);
	unsigned work;

	virtio_queue_check_memory(queue);
	work = queue->device->ops->poll(queue, turn);
	if (unlikely(queue->ring.broken))
		virtio_queue_report_break(queue);
	return work;
}

static bool arm_queue(struct poller *poller)
{
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);

	/* The front-end gave no kick: it relies on being polled, so whoever polls it must not sleep. */
	if (poller->wake_fd < 0)
		return !queue->ring.broken;
	return virtqueue_arm(&queue->ring);
}

static void disarm_queue(struct poller *poller)
{
	struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);

	counter_add(&queue->ring.counters.kicks, counter_read(&poller->counters.wakes) - queue->ring.counters.kicks);
	virtqueue_disarm(&queue->ring);
}

static const struct poller_ops queue_poller_ops = {
	.kind = "virtqueue",
	.poll = poll_queue,
	.arm = arm_queue,
	.disarm = disarm_queue,
};

static void drain(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct virtio_queue *queue = container_of(message, struct virtio_queue, message);

	queue->draining = true;
	if (!queue->in_flight)
		virtio_queue_drained(queue);
}

void virtio_queue_drained(struct virtio_queue *queue)
{
	queue->draining = false;
	engine_complete(queue->device->engine, &queue->completion);
}

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

static struct sidecore *place(const struct virtio_queue *queue)
{
	struct engine *engine = queue->device->engine;

	if (queue->sidecore >= 0 && (unsigned)queue->sidecore < engine_sidecore_count(engine))
		return engine_sidecore(engine, (unsigned)queue->sidecore);
	return engine_pick_sidecore(engine);
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
	queue->home = is_polled(queue) ? place(queue) : NULL;
	error = ops->queue_start(queue);
	if (error)
		goto stop_ring;

	atomic_store(&queue->break_report, VIRTIO_QUEUE_NOT_REPORTED);
	queue->turns = 0;
	queue->draining = false;
	if (queue->home) {
		queue->poller.ops = &queue_poller_ops;
		queue->poller.wake_fd = kick_fd;
		queue->poller.pending = false;
		error = engine_attach(queue->device->engine, queue->home, &queue->poller, NULL);
		if (error)
			goto stop_model;
	}
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

static void after_drain(struct engine_completion *completion)
{
	finish_stop(container_of(completion, struct virtio_queue, completion));
}

static void after_barrier(struct engine_completion *completion)
{
	struct virtio_queue *queue = container_of(completion, struct virtio_queue, completion);

	if (!queue->home) {
		finish_stop(queue);
		return;
	}
	queue->completion.done = after_drain;
	queue->message.run = drain;
	sidecore_post(queue->home, &queue->message);
}

static void after_detach(struct engine_completion *completion)
{
	struct virtio_queue *queue = container_of(completion, struct virtio_queue, completion);

	queue->completion.done = after_barrier;
	engine_barrier(queue->device->engine, &queue->completion);
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
	if (queue->home) {
		queue->completion.done = after_detach;
		engine_detach(queue->device->engine, &queue->poller, &queue->completion);
	} else {
		after_detach(&queue->completion);
	}
}
