/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of what a sidecore serves for a device. States: device/device_queue.h.
 *
 * A stop is a chain of completions on the control thread, each started by the one before:
 *
 *	detach -> barrier -> message to the home sidecore (drain) -> last request in flight -> stopped
 *
 * Queues that are not polled (receive sides, which other queues' sidecores fill) have neither home nor requests in
 * flight: barrier, stopped.
 *
 * The drain has to be asked for on the home sidecore, because in_flight is counted there; it is asked for after the
 * barrier, because until then another turn may still submit.
 *
 * Why no kick is lost
 * -------------------
 * Two variables: the work (a doorbell's value, or whatever the owner looks at) and @armed. The control thread stores
 * the work and then, after a full barrier, loads @armed. The sidecore stores @armed and then, after a full barrier,
 * loads the work. Two full barriers are in one order or the other: if the control thread's comes first, the sidecore's
 * look sees the work; else the control thread sees @armed and writes kick_fd, which is in the sidecore's epoll set as
 * long as the poller is attached, and whose edges wait there (engine/sidecore_sleep.c).
 */
#include "device/device_queue.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/barrier.h"

int device_queue_init(struct device_queue *queue, struct engine *engine, bool kicked)
{
	queue->engine = engine;
	queue->state = DEVICE_QUEUE_STOPPED;
	queue->kick_fd = -1;
	if (kicked) {
		queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (queue->kick_fd < 0)
			return -errno;
	}
	queue->poller.wake_fd = queue->kick_fd;
	return 0;
}

void device_queue_release(struct device_queue *queue)
{
	if (queue->kick_fd >= 0)
		close(queue->kick_fd);
	queue->kick_fd = -1;
	queue->poller.wake_fd = -1;
}

struct sidecore *device_queue_place(struct engine *engine, int wanted)
{
	if (wanted >= 0 && (unsigned)wanted < engine_sidecore_count(engine))
		return engine_sidecore(engine, (unsigned)wanted);
	return engine_pick_sidecore(engine);
}

int device_queue_start(struct device_queue *queue, struct sidecore *home)
{
	int error;

	if (queue->state != DEVICE_QUEUE_STOPPED)
		return -EBUSY;
	/* Nobody else knows the queue until engine_attach() has posted it. */
	queue->home = home;
	queue->draining = false;
	queue->poller.pending = false;
	atomic_store_explicit(&queue->armed, false, memory_order_relaxed);
	if (home) {
		error = engine_attach(queue->engine, home, &queue->poller, NULL);
		if (error)
			return error;
	}
	queue->state = DEVICE_QUEUE_RUNNING;
	return 0;
}

/* ---- stop -------------------------------------------------------------------------------------------------------- */

static void finish_stop(struct device_queue *queue)
{
	queue->state = DEVICE_QUEUE_STOPPED;
	queue->stopped(queue, queue->context);
}

static void after_drain(struct engine_completion *completion)
{
	finish_stop(container_of(completion, struct device_queue, completion));
}

static void drain(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct device_queue *queue = container_of(message, struct device_queue, message);

	queue->draining = true;
	if (!queue->in_flight)
		device_queue_drained(queue);
}

void device_queue_drained(struct device_queue *queue)
{
	queue->draining = false;
	if (queue->resting)
		queue->resting(queue);
	engine_complete(queue->engine, &queue->completion);
}

static void after_barrier(struct engine_completion *completion)
{
	struct device_queue *queue = container_of(completion, struct device_queue, completion);

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
	struct device_queue *queue = container_of(completion, struct device_queue, completion);

	queue->completion.done = after_barrier;
	engine_barrier(queue->engine, &queue->completion);
}

void device_queue_stop(struct device_queue *queue, void (*stopped)(struct device_queue *queue, void *context),
		       void *context)
{
	if (queue->state == DEVICE_QUEUE_STOPPED) {
		stopped(queue, context);
		return;
	}
	queue->state = DEVICE_QUEUE_STOPPING;
	queue->stopped = stopped;
	queue->context = context;
	if (queue->home) {
		queue->completion.done = after_detach;
		engine_detach(queue->engine, &queue->poller, &queue->completion);
	} else {
		after_detach(&queue->completion);
	}
}

/* ---- kicks ------------------------------------------------------------------------------------------------------- */

void device_queue_kick(struct device_queue *queue)
{
	static const uint64_t one = 1;

	/* Orders the caller's store of the work before the load of @armed; see "Why no kick is lost". */
	memory_barrier();
	if (atomic_load_explicit(&queue->armed, memory_order_seq_cst)) {
		/* Our own eventfd, which nobody reads: the counter never comes near its end. */
		ssize_t written = write(queue->kick_fd, &one, sizeof(one));

		(void)written;
	}
}

void device_queue_arm(struct device_queue *queue)
{
	atomic_store_explicit(&queue->armed, true, memory_order_seq_cst);
	/* Orders the store before the caller's look for work; see "Why no kick is lost". */
	memory_barrier();
}

void device_queue_disarm(struct device_queue *queue)
{
	/* Relaxed: a kick that still sees it set wakes a sidecore that is awake, once and in vain. */
	atomic_store_explicit(&queue->armed, false, memory_order_relaxed);
}
