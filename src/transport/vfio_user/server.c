/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user server: one device behind one socket. Whom it serves, and when: transport/device_server.c. At first that may
 * be a client which the daemon before this one has left to us; and at the end we may leave it to the next.
 *
 * Context: control thread.
 */
#include "transport/vfio_user/server.h"

#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/log.h"
#include "base/parcel.h"
#include "transport/device_server.h"
#include "transport/vfio_user/connection.h"

struct vfio_user_server {
	struct device_server common;
	bool adopted;
	void (*destroyed)(void *context);
	void (*handed_over)(void *context, int parcel); /* instead */
	void *destroyed_context;
	struct vfio_user_connection connection;
};

static enum device_server_place place(const struct device_server *common, int *fd)
{
	const struct vfio_user_server *server = container_of(common, struct vfio_user_server, common);

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
	return vfio_user_connection_open(&container_of(common, struct vfio_user_server, common)->connection, fd);
}

static void close_connection(struct device_server *common, const char *reason)
{
	vfio_user_connection_close(&container_of(common, struct vfio_user_server, common)->connection, reason);
}

static void connection_closed(struct vfio_user_connection *connection)
{
	device_server_vacated(connection->context);
}

static void free_server(struct vfio_user_server *server)
{
	device_server_release(&server->common);
	vfio_user_connection_release(&server->connection);
	free(server);
}

static void ended(struct device_server *common)
{
	struct vfio_user_server *server = container_of(common, struct vfio_user_server, common);
	void (*destroyed)(void *) = server->destroyed;
	void (*handed_over)(void *, int) = server->handed_over;
	void *destroyed_context = server->destroyed_context;
	int parcel = server->connection.parcel;

	free_server(server);
	if (handed_over)
		handed_over(destroyed_context, parcel);
	else if (destroyed)
		destroyed(destroyed_context);
}

static const struct device_server_ops server_ops = {
	.protocol = "vfio-user",
	.peer = "client",
	.place = place,
	.open = open_connection,
	.close = close_connection,
	.ended = ended,
};

int vfio_user_server_create(const struct vfio_user_options *options, struct pci_device *device, struct event_base *base,
			    struct vfio_user_server **result, const char **reason)
{
	struct vfio_user_server *server = calloc(1, sizeof(*server));
	int error;

	*reason = "out of memory";
	if (!server)
		return -ENOMEM;
	server->common = (struct device_server){ .ops = &server_ops,
						 .name = device->name,
						 .refusals = &device->log_limit,
						 .lives = &server->connection.lives };
	error = device_server_init(&server->common, base, options->path, options->listeners, reason);
	if (!error)
		error = vfio_user_connection_init(&server->connection, device, base);
	server->common.disposal = server->connection.disposal;
	server->connection.context = &server->common;
	server->connection.closed = connection_closed;
	server->connection.memory_max = options->memory_max;
	server->connection.trap_windows = options->trap_windows;
	if (!error)
		error = device_server_listen(&server->common, options->mode, reason);
	if (error) {
		free_server(server);
		return error;
	}
	*result = server;
	return 0;
}

void vfio_user_server_adopt(struct vfio_user_server *server, struct parcel *parcel)
{
	if (vfio_user_connection_adopt(&server->connection, parcel)) {
		log_warning("%s: the client of the daemon before this one cannot be served: %s", server->common.name,
			    parcel->reason);
		return;
	}
	server->common.connections++;
	server->adopted = true;
	log_info("%s: client taken over from the daemon before this one", server->common.name);
}

void vfio_user_server_destroy(struct vfio_user_server *server, void (*done)(void *context), void *context)
{
	server->destroyed = done;
	server->destroyed_context = context;
	if (device_server_end(&server->common))
		vfio_user_connection_close(&server->connection, "the device is being removed");
}

void vfio_user_server_hand_over(struct vfio_user_server *server, void (*done)(void *context, int parcel), void *context)
{
	server->handed_over = done;
	server->destroyed_context = context;
	if (device_server_end(&server->common))
		vfio_user_connection_hand_over(&server->connection);
}

void vfio_user_server_read_status(const struct vfio_user_server *server, struct vfio_user_status *status)
{
	const struct vfio_user_connection *connection = &server->connection;

	*status = (struct vfio_user_status){
		.connected = connection->state != CONNECTION_CLOSED && connection->state != CONNECTION_CLOSING,
		.connections = server->common.connections,
		.adopted = server->adopted,
		.messages = connection->messages,
		.region_reads = connection->kinds[KIND_REGION_READ],
		.region_writes = connection->kinds[KIND_REGION_WRITE],
		.interrupt_messages = connection->kinds[KIND_INTERRUPT],
		.memory_messages = connection->kinds[KIND_MEMORY],
		.posted = connection->posted,
		.errors = connection->errors,
		.refused = connection->refused,
		.last_error = connection->last_error,
		.regions = connection->memory.map ? connection->memory.map->region_count : 0,
		.memory = connection->memory.translatable,
		.unclosed = disposal_waiting(connection->disposal),
		.unread = disposal_would_wait(connection->held, connection->held_count) +
			  disposal_would_wait(connection->message.fds, connection->message.fd_count),
	};
}
