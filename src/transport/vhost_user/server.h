/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user server: one device behind one socket. Theory of operation: transport/vhost_user/connection.c.
 *
 * Context: control thread, in its libevent loop.
 */
#ifndef TRANSPORT_VHOST_USER_SERVER_H
#define TRANSPORT_VHOST_USER_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "device/virtio_device.h"

struct event_base;
struct listeners;
struct vhost_user_server;

struct vhost_user_options {
	const char *path;
	bool client;		     /* connect to a listening front-end, and again when it goes away (1 s) */
	uint32_t mode;		     /* permissions of a listening socket; 0: 0660 */
	uint64_t memory_max;	     /* quota: bytes of guest memory mapped at a time; 0: 1 TiB */
	struct listeners *listeners; /* that outlive their daemon (transport/listeners.h); NULL: none */
};

struct vhost_user_status {
	bool connected;
	uint64_t connections;		      /* since the start */
	uint64_t messages;		      /* received on all of them */
	uint64_t refused;		      /* connections ended because of a bad message */
	const char *last_error;		      /* name of the last reason; NULL: none */
	unsigned regions;		      /* of guest memory */
	uint64_t memory;		      /* bytes */
	uint64_t log_missed;		      /* pages not marked because the front-end's dirty log was too small */
	uint64_t features, protocol_features; /* negotiated */
	unsigned unclosed;		      /* files of front-ends that do not let go */
	unsigned unread;		      /* files of a message that is not done, which perhaps would not let go */
};

/** vhost_user_server_create() - Return: 0; errno of bind and the like with a sentence in @error. */
int vhost_user_server_create(const struct vhost_user_options *options, struct virtio_device *device,
			     struct event_base *base, struct vhost_user_server **server, const char **error);

/** vhost_user_server_destroy() - stop the device's queues, close, unlink the socket; @done at the end. */
void vhost_user_server_destroy(struct vhost_user_server *server, void (*done)(void *context), void *context);

void vhost_user_server_read_status(const struct vhost_user_server *server, struct vhost_user_status *status);

#endif
