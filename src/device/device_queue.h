/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of something that a sidecore serves for a device: polled by one sidecore, with requests in flight, and brought to
 * rest in steps. Virtio queues, NVMe submission queues and the rings of network cards are each one of these.
 *
 *   stopped -> running    device_queue_start(): poller attached
 *   running -> stopping   device_queue_stop(): poller detached, then engine_barrier(): no sidecore starts anything new
 *   stopping -> draining  requests in flight come back; the last one ends this state
 *   draining -> stopped   completion on the control thread
 *
 * *Kicks.* The peer may notify by @wake_fd (its kick), or by the control thread, on which its doorbell arrived as a message:
 * device_queue_kick(). A peer that only writes to memory that it shares with us can do neither: such a queue is
 * poller.silent, and while one is attached an idle sidecore naps for a bounded time instead of sleeping (engine/sidecore_sleep.c).
 *
 * *Queues that nobody polls.* A receive side is filled by whoever has frames for it. Such a queue starts without a home:
 * no poller, nothing in flight, and its stop is only the barrier (its owner unpublishes it first).
 *
 * Context: control thread, but for device_queue_drained() and what runs in the poller.
 */
#ifndef DEVICE_DEVICE_QUEUE_H
#define DEVICE_DEVICE_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

enum device_queue_state {
	DEVICE_QUEUE_STOPPED,
	DEVICE_QUEUE_RUNNING,
	DEVICE_QUEUE_STOPPING,
};

struct device_queue {
	struct poller poller; /* ops and silent are the owner's; wake_fd too, unless device_queue_kick() is used */
	struct engine *engine;
	struct sidecore *home; /* polls the queue while it is not stopped; NULL: nobody does */
	uint8_t state;	       /* enum device_queue_state; control thread */
	bool draining;	       /* sidecore: call device_queue_drained() when in_flight becomes 0 */
	uint32_t in_flight;    /* sidecore: requests that a backend holds; of virtio, status reads it */
	atomic_bool armed;     /* for device_queue_kick() */
	int kick_fd;	       /* our own eventfd for it; -1: device_queue_init() was told that there is no need */

	/** @resting: sidecore, may be NULL: the stop's last step there: nothing is in flight, and nobody has been told yet. */
	void (*resting)(struct device_queue *queue);

	/* the stop that is under way; control thread */
	struct engine_completion completion;
	struct sidecore_message message;
	void (*stopped)(struct device_queue *queue, void *context);
	void *context;
};

/**
 * device_queue_init() - once, on zeroed memory. @kicked: device_queue_kick() will be used; else poller.wake_fd is set to
 * -1 and the owner's from here on. Return: 0 or errno of eventfd().
 */
int device_queue_init(struct device_queue *queue, struct engine *engine, bool kicked);
void device_queue_release(struct device_queue *queue);

/**
 * device_queue_place() - the sidecore for a queue: number @wanted, or where the fewest pollers are (-1).
 */
struct sidecore *device_queue_place(struct engine *engine, int wanted);

/** device_queue_start() - stopped -> running on @home (NULL: not polled). Return: 0; -EBUSY; errors of engine_attach(). */
int device_queue_start(struct device_queue *queue, struct sidecore *home);

/** device_queue_stop() - running -> stopped. @stopped: at once when the queue was stopped already. Not while one is under way. */
void device_queue_stop(struct device_queue *queue, void (*stopped)(struct device_queue *queue, void *context), void *context);

/** device_queue_count() - sidecore: @change requests more in flight, with one store, since others read the number. */
static inline void device_queue_count(struct device_queue *queue, int change)
{
	__atomic_store_n(&queue->in_flight, queue->in_flight + (uint32_t)change, __ATOMIC_RELAXED);
}

/** device_queue_drained() - sidecore: in_flight became 0 while queue->draining. */
void device_queue_drained(struct device_queue *queue);

/**
 * device_queue_kick() - control thread: there may be work: wake the sidecore if it sleeps. What the queue will look at was
 * stored before.
 *
 * device_queue_arm(), device_queue_disarm(): for the owner's poller ops of kicked queues; arm is a full barrier, so that
 * either the look for work that follows it sees what was stored before the kick, or the kick sees that the queue is armed.
 */
void device_queue_kick(struct device_queue *queue);
void device_queue_arm(struct device_queue *queue);
void device_queue_disarm(struct device_queue *queue);

#endif
