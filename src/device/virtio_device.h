/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtio device as a transport sees it, and a queue as the engine sees it.
 *
 * Theory of operation
 * -------------------
 * A transport (vhost-user) owns a connection, guest memory and negotiation. It knows nothing of packets or blocks: it talks
 * to a *device model* through struct virtio_device_ops. A device model knows queues and configuration space, not
 * sockets.
 *
 * Life of a queue (control thread drives; device/device_queue.h has the steps of the middle lines):
 *
 *   stopped -> running    virtio_queue_start(): virtqueue_start(), ops->queue_start(), device_queue_start(),
 *                         ops->queue_running()
 *   running -> stopping   virtio_queue_stop(): ops->queue_unpublish() (a receive queue), device_queue_stop(): detached,
 *                         barrier, drained
 *   stopping -> stopped   ops->queue_stopped(), virtqueue_stop() with the base to continue from
 *
 * In every state but running no sidecore starts anything; in stopped nothing of the guest's memory is referenced.
 */
#ifndef DEVICE_VIRTIO_DEVICE_H
#define DEVICE_VIRTIO_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "device/device_queue.h"
#include "engine/engine.h"
#include "ring/virtqueue.h"

/** The most queues of one device: 8 pairs and a control queue, or as many request queues. */
#define VIRTIO_QUEUES_MAX 32U

struct virtio_device;
struct virtio_queue;

enum virtio_queue_state {
	VIRTIO_QUEUE_STOPPED,
	VIRTIO_QUEUE_RUNNING,
	VIRTIO_QUEUE_STOPPING,
};

struct virtio_device_ops {
	const char *type;   /* "virtio-net" */
	uint16_t device_id; /* virtio 1.3 5 */

	/** @config_read: configuration space (virtio 1.3 4.1.4.6 and 5.x.4). @offset and @length are inside config_size. */
	void (*config_read)(struct virtio_device *device, uint32_t offset, void *to, uint32_t length);
	/** @config_write: Return: 0; -EINVAL when the field is not writable. */
	int (*config_write)(struct virtio_device *device, uint32_t offset, const void *from, uint32_t length);

	/** @features_acked: the driver's features are known; queues are stopped. Return: 0; -EINVAL for an impossible set. */
	int (*features_acked)(struct virtio_device *device, uint64_t features);

	/**
	 * @queue_start: prepare for queue->ring, which has been started, on queue->life.home; allocate. Control thread.
	 * Return: 0 or -errno.
	 */
	int (*queue_start)(struct virtio_queue *queue);
	/** @queue_running: all is set: publish to other sidecores (receive queues). May be NULL. */
	void (*queue_running)(struct virtio_queue *queue);
	/** @queue_unpublish: first step of a stop. May be NULL. */
	void (*queue_unpublish)(struct virtio_queue *queue);
	/** @queue_stopped: free what queue_start made; nobody uses the queue. */
	void (*queue_stopped)(struct virtio_queue *queue);

	/**
	 * @rested: the front-end has stopped the last queue that it had started, and knows where each goes on: perhaps
	 * somewhere else. All queues are stopped. May be NULL.
	 */
	void (*rested)(struct virtio_device *device);

	/** @poll: one turn of a queue; NULL-returning @queue_polled says which queues are polled at all. */
	bool (*queue_polled)(const struct virtio_queue *queue);
	unsigned (*poll)(struct virtio_queue *queue, const struct turn *turn);

	/** @set_mtu: NET_SET_MTU. @announce: SEND_RARP with this MAC. Network devices only, else NULL. */
	int (*set_mtu)(struct virtio_device *device, uint16_t mtu);
	int (*announce)(struct virtio_device *device, const uint8_t mac[6]);

	/** @reset: the driver reset the device (or its front-end went away); all queues are stopped. May be NULL. */
	void (*reset)(struct virtio_device *device);
};

struct virtio_queue {
	struct virtqueue ring;
	struct device_queue life; /* poller, home (set before ops->queue_start), requests in flight and their drain */
	struct virtio_device *device;
	uint16_t index;
	uint8_t state;	/* enum virtio_queue_state, of ring, model and life together; control thread */
	int sidecore;	/* configured place: index, or -1: any */
	void *model;	/* the device model's own, from queue_start to queue_stopped */
	uint32_t turns; /* sidecore: since the start; now and then the memory is looked at */

	/* the stop that is under way; control thread */
	void (*stopped)(struct virtio_queue *queue, uint32_t base, void *context);
	void *stopped_context;

	/* that the queue broke is told once for each start */
	atomic_uchar break_report; /* enum virtio_queue_break_report */
	struct engine_completion break_completion;
	bool stop_awaits_report; /* control thread: the stop ends when the report has been made */
};

enum virtio_queue_break_report {
	VIRTIO_QUEUE_NOT_REPORTED,
	VIRTIO_QUEUE_REPORT_POSTED,
	VIRTIO_QUEUE_REPORTED,
};

struct virtio_device {
	const struct virtio_device_ops *ops;
	const char *name; /* from the configuration */
	struct engine *engine;
	uint64_t features;	 /* offered; VIRTIO_F_* and device bits, without vhost-user's own */
	uint64_t acked_features; /* by the driver */
	uint32_t config_size;	 /* bytes of configuration space */
	uint16_t queue_count;	 /* offered, control queue included */
	uint16_t queue_size_max;
	struct virtio_queue *queues;
	struct log_limit log_limit;
	/** @config_changed: set by the transport while connected: tell the front-end (CONFIG_CHANGE_MSG). May be NULL. */
	void (*config_changed)(struct virtio_device *device);
	/** @queue_broken: set by the transport while connected: tell the front-end (SET_VRING_ERR). May be NULL. */
	void (*queue_broken)(struct virtio_queue *queue);
	void *transport;
};

/** virtio_device_init() - make the queues. Return: 0 or -ENOMEM. The rest of the fields are the caller's. */
int virtio_device_init(struct virtio_device *device);
void virtio_device_release(struct virtio_device *device);

/**
 * virtio_queue_start() - stopped -> running.
 *
 * Return: 0; -EINVAL (virtqueue_start), -ENOMEM; the queue is then still stopped.
 */
int virtio_queue_start(struct virtio_queue *queue, const struct virtqueue_config *config, int kick_fd);

/**
 * virtio_queue_stop() - running -> stopped; not while another stop of the queue is under way.
 * @stopped:	called on the control thread: at once when the queue was stopped (base 0), else when nothing of it is used
 */
void virtio_queue_stop(struct virtio_queue *queue,
		       void (*stopped)(struct virtio_queue *queue, uint32_t base, void *context), void *context);

/**
 * virtio_queue_check_memory() - sidecore, each time that it comes to the queue: break it when a file behind the guest's
 * memory shrank. Looks only now and then: a guest may have hundreds of regions, and who sends to it must not pay for that.
 * Queues that are polled are looked after.
 */
void virtio_queue_check_memory(struct virtio_queue *queue);

/**
 * virtio_queue_report_break() - sidecore: queue->ring has broken; have the operator and the front-end told, once for each
 * start. Queues that are polled are looked after; whoever uses one that is not (receive queues) calls this.
 */
void virtio_queue_report_break(struct virtio_queue *queue);

#endif
