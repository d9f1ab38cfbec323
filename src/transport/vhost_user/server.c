/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user server: one device behind one socket, where we listen or (client mode) the front-end does. Whom it serves,
 * and when: transport/device_server.c.
 *
 * Context: control thread.
 */
#include "transport/vhost_user/server.h"

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "transport/device_server.h"
#include "transport/vhost_user/connection.h"

struct vhost_user_server {
	struct device_server common;
	void (*destroyed)(void *context);
	void *destroyed_context;
	struct vhost_user_connection connection;
};

static enum device_server_place place(const struct device_server *common, int *fd)
{
	const struct vhost_user_server *server = container_of(common, struct vhost_user_server, common);

	*fd = server->connection.fd;
	switch (server->connection.state) {
	case CONNECTION_CLOSED:
		return PLACE_VACANT;
	case CONNECTION_CLOSING:
		return PLACE_CLOSING;
	default:
		return PLACE_TAKEN;
	}
}

static int open_connection(struct device_server *common, int fd)
{
	return vhost_user_connection_open(&container_of(common, struct vhost_user_server, common)->connection, fd);
}

static void close_connection(struct device_server *common, const char *reason)
{
	vhost_user_connection_close(&container_of(common, struct vhost_user_server, common)->connection, reason);
}

static void connection_closed(struct vhost_user_connection *connection)
{
	device_server_vacated(connection->context);
}

static void free_server(struct vhost_user_server *server)
{
	device_server_release(&server->common);
	vhost_user_connection_release(&server->connection);
	free(server);
}

static void ended(struct device_server *common)
{
	struct vhost_user_server *server = container_of(common, struct vhost_user_server, common);
	void (*destroyed)(void *) = server->destroyed;
	void *destroyed_context = server->destroyed_context;

	free_server(server);
	if (destroyed)
		destroyed(destroyed_context);
}

static const struct device_server_ops server_ops = {
	.protocol = "vhost-user",
	.peer = "front-end",
	.place = place,
	.open = open_connection,
	.close = close_connection,
	.ended = ended,
};

int vhost_user_server_create(const struct vhost_user_options *options, struct virtio_device *device,
			     struct event_base *base, struct vhost_user_server **result, const char **reason)
{
	struct vhost_user_server *server;
	int error;

	if (device->queue_count > VIRTIO_QUEUES_MAX) {
		*reason = "the device has more queues than a vhost-user device can have";
		return -EINVAL;
	}
	server = calloc(1, sizeof(*server));
	*reason = "out of memory";
	if (!server)
		return -ENOMEM;
	server->common = (struct device_server){ .ops = &server_ops,
						 .name = device->name,
						 .refusals = &device->log_limit,
						 .lives = &server->connection.lives };
	error = device_server_init(&server->common, base, options->path, options->listeners, reason);
	if (!error)
		error = vhost_user_connection_init(&server->connection, device, base);
	server->common.disposal = server->connection.disposal;
	server->connection.context = &server->common;
	server->connection.closed = connection_closed;
	server->connection.memory_max = options->memory_max;
	if (!error && options->client)
		device_server_connect(&server->common);
	else if (!error)
		error = device_server_listen(&server->common, options->mode, reason);
	if (error) {
		free_server(server);
		return error;
	}
	*result = server;
	return 0;
}

void vhost_user_server_destroy(struct vhost_user_server *server, void (*done)(void *context), void *context)
{
	server->destroyed = done;
	server->destroyed_context = context;
	if (device_server_end(&server->common))
		vhost_user_connection_close(&server->connection, "the device is being removed");
}

void vhost_user_server_read_status(const struct vhost_user_server *server, struct vhost_user_status *status)
{
	const struct vhost_user_connection *connection = &server->connection;

	*status = (struct vhost_user_status){
		.connected = connection->state != CONNECTION_CLOSED && connection->state != CONNECTION_CLOSING,
		.connections = server->common.connections,
		.messages = connection->messages,
		.refused = connection->refused,
		.last_error = connection->last_error,
		.regions = connection->memory ? connection->memory->region_count : 0,
		.memory = connection->memory_size,
		.log_missed = connection->log_missed + (connection->log ? dirty_log_missed(connection->log) : 0),
		.features = connection->features,
		.protocol_features = connection->protocol_features,
		.unclosed = disposal_waiting(connection->disposal),
		.unread = disposal_would_wait(connection->message.fds, connection->message.fd_count),
	};
}
