/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One vhost-user connection: the session's state, shared by the handlers of its messages. Theory of operation:
 * transport/vhost_user/connection.c.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_VHOST_USER_CONNECTION_H
#define TRANSPORT_VHOST_USER_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "device/virtio_device.h"
#include "memory/dirty_log.h"
#include "memory/guest_memory.h"
#include "ring/inflight.h"
#include "transport/vhost_user/message.h"
#include "transport/vhost_user/messages.h"

struct disposal;
struct event;
struct event_base;

/**
 * struct vhost_user_vring - what the front-end told about one ring. Rings are started and enabled independently of each
 * other ("Ring states"); a queue runs when its ring is both and everything that it needs is known.
 * @started:	SET_VRING_KICK came, with or without an fd; until GET_VRING_BASE or a reset
 * @broken:	the guest broke the queue; it stays stopped until the front-end starts it anew
 * @address_known, @base:	SET_VRING_ADDR, SET_VRING_BASE as they came; base is kept up to date at each stop
 * @stopped_at:	what GET_VRING_BASE answers: base as it was before a reset, see vhost_user_rings_reset()
 * @call_fd:	one number for the life of the connection; SET_VRING_CALL exchanges the file behind it (rings.c)
 */
struct vhost_user_vring {
	bool started, enabled, broken, address_known;
	uint16_t size;
	uint32_t base, stopped_at;
	struct vhost_user_vring_address address;
	int kick_fd, call_fd, err_fd;
	struct virtqueue_inflight *inflight;
};

enum vhost_user_connection_state {
	CONNECTION_CLOSED,
	CONNECTION_READING,   /* a message is coming in */
	CONNECTION_QUIESCING, /* it is complete; queues are being stopped for it */
	CONNECTION_REPLYING,  /* the front-end does not take its reply yet */
	CONNECTION_CLOSING,   /* all queues are being stopped */
};

struct vhost_user_connection {
	struct virtio_device *device;
	struct event_base *base;
	uint64_t memory_max;					  /* quota, bytes; 0: 1 TiB */
	void (*closed)(struct vhost_user_connection *connection); /* from the event loop, once for each open */
	void *context;

	enum vhost_user_connection_state state;
	int fd;
	struct event *readable, *writable, *overdue, *finished;
	struct disposal *disposal; /* of what the front-end gave us; outlives the session */

	/* the message that is being received or handled */
	struct vhost_user_message message;
	size_t received; /* bytes of header and payload */
	const struct vhost_user_row *row;
	const char *reason; /* why the handler refused, for people */
	unsigned stopping;  /* queues that are being stopped, and one while they are being counted */
	int reply_fd;	    /* goes with the reply, and is closed */
	size_t sent;	    /* bytes of the reply */

	/* the session */
	uint64_t features; /* as acknowledged, vhost's own bits included */
	uint64_t protocol_features;
	bool features_known;
	uint8_t status;
	struct guest_memory *memory;
	uint64_t memory_size; /* bytes in all regions */
	struct dirty_log *log; /* of SET_LOG_BASE; in use while F_LOG_ALL is acknowledged */
	struct inflight_area *inflight;
	int backend_fd; /* SET_BACKEND_REQ_FD */
	struct event *backend_writable;
	struct vhost_user_vring vrings[VIRTIO_QUEUES_MAX];

	/* for status */
	uint64_t messages, refused;
	uint64_t log_missed; /* by dirty logs that are gone */
	const char *last_error;
	struct log_limit lives; /* lines that say that a front-end came or went */
};

/* connection.c */

/** vhost_user_connection_init() - once, before the first open. Return: 0 or -ENOMEM. */
int vhost_user_connection_init(struct vhost_user_connection *connection, struct virtio_device *device,
			       struct event_base *base);
void vhost_user_connection_release(struct vhost_user_connection *connection);

/** vhost_user_connection_open() - serve the front-end on socket @fd, which becomes the connection's. */
int vhost_user_connection_open(struct vhost_user_connection *connection, int fd);

/** vhost_user_connection_close() - stop the queues, release everything, then call @closed. Harmless when closing. */
void vhost_user_connection_close(struct vhost_user_connection *connection, const char *reason);

/**
 * vhost_user_refuse() - for handlers: remember why.
 * Return: @error, for the handler to return.
 */
static inline int vhost_user_refuse(struct vhost_user_connection *connection, int error, const char *reason)
{
	connection->reason = reason;
	return error;
}

static inline bool vhost_user_negotiated(const struct vhost_user_connection *connection,
					 enum vhost_user_protocol_feature feature)
{
	return connection->protocol_features >> feature & 1;
}

/* framing.c */

/**
 * vhost_user_receive() - read on at the message that is coming in.
 * Return: 0 when it is complete and its header and file descriptors agree with its row; -EAGAIN; -ECONNRESET at the
 * end; -EPROTO, with a reason; other errors of the socket.
 */
int vhost_user_receive(struct vhost_user_connection *connection);

/** vhost_user_send_reply() - send connection->message. Return: 0 when all of it is out; -EAGAIN; errors. */
int vhost_user_send_reply(struct vhost_user_connection *connection);

/** vhost_user_release_fds() - close what a handler did not keep of connection->message. */
void vhost_user_release_fds(struct vhost_user_connection *connection);

/* rings.c */

/** vhost_user_rings_init(), vhost_user_rings_release() - of a connection; all queues are stopped. */
void vhost_user_rings_init(struct vhost_user_connection *connection);
void vhost_user_rings_release(struct vhost_user_connection *connection);

/**
 * vhost_user_rings_reset() - the device was reset: forget that rings were started.
 *
 * But not where they were: QEMU 7.2 to 8.0 stop a network card by SET_STATUS 0 first, and then ask with GET_VRING_BASE
 * where its rings are to go on, also in a migration.
 */
void vhost_user_rings_reset(struct vhost_user_connection *connection);

/** vhost_user_ring_stopped() - the queue has come to rest at @base. */
void vhost_user_ring_stopped(struct vhost_user_connection *connection, struct virtio_queue *queue, uint32_t base);

/**
 * vhost_user_rings_start() - start every queue that should run and does not.
 * @named:	the queue that the message is about, or -1
 *
 * Return: 0; what prevented queue @named, with a reason. Other queues wait for the message that makes them possible.
 */
int vhost_user_rings_start(struct vhost_user_connection *connection, int named);

/* memory.c */
void vhost_user_memory_release(struct vhost_user_connection *connection);

/* config.c */

/** vhost_user_backend_release() - close the channel of back-end requests. */
void vhost_user_backend_release(struct vhost_user_connection *connection);

/** vhost_user_config_changed() - virtio_device.config_changed of a device that is served here. */
void vhost_user_config_changed(struct virtio_device *device);

/* features.c */
uint64_t vhost_user_features_offered(const struct virtio_device *device);
uint64_t vhost_user_protocol_features_offered(const struct virtio_device *device);

#endif
