/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user server: the socket of one device, and its one connection at a time.
 *
 * A second client is refused while one is connected: its connection is accepted and closed, so that it does not wait for
 * ever. While a connection is closing (requests in flight are coming back) newcomers stay in the socket's backlog: a guest
 * that is started again at once finds its device as soon as that is at rest.
 *
 * Context: control thread.
 */
#include "transport/vfio_user/server.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/disposal.h"
#include "base/log.h"
#include "base/parcel.h"
#include "transport/listener.h"
#include "transport/vfio_user/connection.h"

#define RETRY_SECONDS	      1
#define DISPOSAL_MICROSECONDS 20000
#define SOCKET_MODE_NORMAL    0660

struct vfio_user_server {
	struct pci_device *device;
	struct event_base *base;
	struct listener listener;
	struct event *accept_event;
	struct event *retry_event; /* time to accept again */
	struct event *destroy_event;
	bool destroying, adopted;
	void (*destroyed)(void *context);
	void (*handed_over)(void *context, int parcel); /* instead */
	void *destroyed_context;
	uint64_t connections;
	struct vfio_user_connection connection;
};

static bool idle(const struct vfio_user_server *server)
{
	return server->connection.state == CONNECTION_CLOSED;
}

static void serve(struct vfio_user_server *server, int fd)
{
	int error = vfio_user_connection_open(&server->connection, fd);

	if (error) {
		log_limited(&server->connection.lives, LOG_LEVEL_ERROR, "%s: vfio-user: %s", server->device->name,
			    strerrordesc_np(-error));
		return;
	}
	server->connections++;
	log_limited(&server->connection.lives, LOG_LEVEL_INFO, "%s: client connected", server->device->name);
}

/* Has the client that we serve gone, without our having seen it yet? */
static bool hung_up(const struct vfio_user_server *server)
{
	struct pollfd poll_fd = { .fd = server->connection.fd, .events = POLLRDHUP };

	return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

static void accept_client(evutil_socket_t listener, short what, void *context)
{
	struct vfio_user_server *server = context;
	int fd;

	/* One that does not let go of its files must not bring more of them. */
	if (disposal_waiting(server->connection.disposal)) {
		event_del(server->accept_event);
		event_add(server->retry_event, &(struct timeval){ .tv_usec = DISPOSAL_MICROSECONDS });
		return;
	}
	if (!idle(server) && (server->connection.state == CONNECTION_CLOSING || hung_up(server))) {
		/* Leave the newcomer in the backlog until the device is at rest. */
		event_del(server->accept_event);
		vfio_user_connection_close(&server->connection, NULL);
		return;
	}
	fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		/* No file descriptors, say: it stays readable, and must not keep the loop busy. */
		if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
			event_del(server->accept_event);
			event_add(server->retry_event, &(struct timeval){ .tv_sec = RETRY_SECONDS });
		}
		return;
	}
	if (idle(server)) {
		serve(server, fd);
		return;
	}
	log_limited(&server->device->log_limit, LOG_LEVEL_WARNING,
		    "%s: a second client was refused: one is connected to %s", server->device->name,
		    server->listener.address.sun_path);
	disposal_close(server->connection.disposal, fd);
}

static void accept_again(evutil_socket_t unused, short what, void *context)
{
	struct vfio_user_server *server = context;

	event_add(server->accept_event, NULL);
}

static int listen_on(struct vfio_user_server *server, uint32_t mode, const char **reason)
{
	int error = listener_open(&server->listener, mode, reason);

	if (error)
		return error;
	server->accept_event =
		event_new(server->base, server->listener.fd, EV_READ | EV_PERSIST, accept_client, server);
	if (!server->accept_event || event_add(server->accept_event, NULL)) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	return 0;
}

static void stop_listening(struct vfio_user_server *server)
{
	if (server->accept_event)
		event_free(server->accept_event);
	server->accept_event = NULL;
	listener_close(&server->listener, server->connection.disposal);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void free_server(struct vfio_user_server *server)
{
	stop_listening(server);
	if (server->retry_event)
		event_free(server->retry_event);
	if (server->destroy_event)
		event_free(server->destroy_event);
	vfio_user_connection_release(&server->connection);
	free(server);
}

static void finish_destroy(evutil_socket_t unused, short what, void *context)
{
	struct vfio_user_server *server = context;
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

static void connection_closed(struct vfio_user_connection *connection)
{
	struct vfio_user_server *server = connection->context;

	if (server->destroying)
		finish_destroy(-1, 0, server);
	else
		event_add(server->accept_event, NULL);
}

int vfio_user_server_create(const struct vfio_user_options *options, struct pci_device *device, struct event_base *base,
			    struct vfio_user_server **result, const char **reason)
{
	struct vfio_user_server *server = calloc(1, sizeof(*server));
	int error;

	*reason = "out of memory";
	if (!server)
		return -ENOMEM;
	server->device = device;
	server->base = base;
	error = listener_address(&server->listener, options->path, options->listeners, reason);
	if (error) {
		free(server);
		return error;
	}
	error = vfio_user_connection_init(&server->connection, device, base);
	server->connection.context = server;
	server->connection.closed = connection_closed;
	server->connection.memory_max = options->memory_max;
	server->connection.trap_windows = options->trap_windows;
	server->destroy_event = event_new(base, -1, 0, finish_destroy, server);
	server->retry_event = event_new(base, -1, 0, accept_again, server);
	if (!server->destroy_event || !server->retry_event)
		error = -ENOMEM;
	if (!error)
		error = listen_on(server, options->mode ? options->mode : SOCKET_MODE_NORMAL, reason);
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
		log_warning("%s: the client of the daemon before this one cannot be served: %s", server->device->name,
			    parcel->reason);
		return;
	}
	server->connections++;
	server->adopted = true;
	log_info("%s: client taken over from the daemon before this one", server->device->name);
}

void vfio_user_server_destroy(struct vfio_user_server *server, void (*done)(void *context), void *context)
{
	server->destroying = true;
	server->destroyed = done;
	server->destroyed_context = context;
	stop_listening(server);
	event_del(server->retry_event);
	if (idle(server))
		event_active(server->destroy_event, EV_TIMEOUT, 0);
	else
		vfio_user_connection_close(&server->connection, "the device is being removed");
}

void vfio_user_server_hand_over(struct vfio_user_server *server, void (*done)(void *context, int parcel), void *context)
{
	server->destroying = true;
	server->handed_over = done;
	server->destroyed_context = context;
	stop_listening(server);
	event_del(server->retry_event);
	if (idle(server))
		event_active(server->destroy_event, EV_TIMEOUT, 0);
	else
		vfio_user_connection_hand_over(&server->connection);
}

void vfio_user_server_read_status(const struct vfio_user_server *server, struct vfio_user_status *status)
{
	const struct vfio_user_connection *connection = &server->connection;

	*status = (struct vfio_user_status){
		.connected = connection->state != CONNECTION_CLOSED && connection->state != CONNECTION_CLOSING,
		.connections = server->connections,
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
	};
}
