/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user server: the socket of one device, and its one connection at a time.
 *
 * Server mode: we listen. A second front-end is refused while one is connected: its connection is accepted and closed, so
 * that it does not wait for ever. While a connection is closing (requests in flight are coming back) newcomers stay in the
 * socket's backlog: a front-end that reconnects at once is served as soon as the device is at rest. A socket file that is
 * already there is removed only when nobody listens behind it, and ours only while it is still ours.
 *
 * Client mode: the front-end listens; we connect, and again a second after a connection ended or could not be made.
 *
 * Context: control thread.
 */
#include "transport/vhost_user/server.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/log.h"
#include "transport/listener.h"
#include "transport/vhost_user/connection.h"

#define RETRY_SECONDS	      1
#define DISPOSAL_MICROSECONDS 20000
#define SOCKET_MODE_NORMAL    0660

struct vhost_user_server {
	struct virtio_device *device;
	struct event_base *base;
	struct listener listener; /* in client mode: closed, and its address is the front-end's */
	bool client;
	struct event *accept_event; /* server mode */
	struct event *retry_event;  /* time to connect (client mode), or to accept again */
	struct event *destroy_event;
	bool destroying;
	void (*destroyed)(void *context);
	void *destroyed_context;
	uint64_t connections;
	struct vhost_user_connection connection;
};

static bool idle(const struct vhost_user_server *server)
{
	return server->connection.state == CONNECTION_CLOSED;
}

static void serve(struct vhost_user_server *server, int fd)
{
	int error = vhost_user_connection_open(&server->connection, fd);

	if (error) {
		log_limited(&server->connection.lives, LOG_LEVEL_ERROR, "%s: vhost-user: %s", server->device->name,
			    strerrordesc_np(-error));
		return;
	}
	server->connections++;
	log_limited(&server->connection.lives, LOG_LEVEL_INFO, "%s: front-end connected", server->device->name);
}

static void retry_later(struct vhost_user_server *server)
{
	event_add(server->retry_event, &(struct timeval){ .tv_sec = RETRY_SECONDS });
}

/* ---- server mode ------------------------------------------------------------------------------------------------- */

/* Has the front-end that we serve gone, without our having seen it yet? */
static bool hung_up(const struct vhost_user_server *server)
{
	struct pollfd poll_fd = { .fd = server->connection.fd, .events = POLLRDHUP };

	return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

static void accept_front_end(evutil_socket_t listener, short what, void *context)
{
	struct vhost_user_server *server = context;
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
		vhost_user_connection_close(&server->connection, NULL);
		return;
	}
	fd = accept4(server->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		/* No file descriptors, say: it stays readable, and must not keep the loop busy. */
		if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
			event_del(server->accept_event);
			retry_later(server);
		}
		return;
	}
	if (idle(server)) {
		serve(server, fd);
		return;
	}
	log_limited(&server->device->log_limit, LOG_LEVEL_WARNING,
		    "%s: a second front-end was refused: one is connected to %s", server->device->name,
		    server->listener.address.sun_path);
	disposal_close(server->connection.disposal, fd);
}

static int listen_on(struct vhost_user_server *server, uint32_t mode, const char **reason)
{
	int error = listener_open(&server->listener, mode, reason);

	if (error)
		return error;
	server->accept_event =
		event_new(server->base, server->listener.fd, EV_READ | EV_PERSIST, accept_front_end, server);
	if (!server->accept_event || event_add(server->accept_event, NULL)) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	return 0;
}

static void stop_listening(struct vhost_user_server *server)
{
	if (server->accept_event)
		event_free(server->accept_event);
	server->accept_event = NULL;
	listener_close(&server->listener, server->connection.disposal);
}

/* ---- client mode ------------------------------------------------------------------------------------------------- */

static void connect_to_front_end(struct vhost_user_server *server)
{
	int fd = -1;

	if (!disposal_waiting(server->connection.disposal))
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Unix sockets connect at once or not at all: nobody there, or (EAGAIN) their backlog is full. */
	if (fd >= 0 && !connect(fd, (const struct sockaddr *)&server->listener.address, sizeof(server->listener.address))) {
		serve(server, fd);
	} else if (fd >= 0) {
		close(fd);
	}
	if (idle(server))
		retry_later(server);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void retry(evutil_socket_t unused, short what, void *context)
{
	struct vhost_user_server *server = context;

	if (server->client)
		connect_to_front_end(server);
	else
		event_add(server->accept_event, NULL);
}

static void free_server(struct vhost_user_server *server)
{
	stop_listening(server);
	if (server->retry_event)
		event_free(server->retry_event);
	if (server->destroy_event)
		event_free(server->destroy_event);
	vhost_user_connection_release(&server->connection);
	free(server);
}

static void finish_destroy(evutil_socket_t unused, short what, void *context)
{
	struct vhost_user_server *server = context;
	void (*destroyed)(void *) = server->destroyed;
	void *destroyed_context = server->destroyed_context;

	free_server(server);
	if (destroyed)
		destroyed(destroyed_context);
}

static void connection_closed(struct vhost_user_connection *connection)
{
	struct vhost_user_server *server = connection->context;

	if (server->destroying)
		finish_destroy(-1, 0, server);
	else if (server->client)
		retry_later(server);
	else
		event_add(server->accept_event, NULL);
}

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
	if (!server) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	server->device = device;
	server->base = base;
	server->client = options->client;
	error = listener_address(&server->listener, options->path, options->listeners, reason);
	if (error) {
		free(server);
		return error;
	}
	server->destroy_event = event_new(base, -1, 0, finish_destroy, server);
	server->retry_event = event_new(base, -1, 0, retry, server);
	error = vhost_user_connection_init(&server->connection, device, base);
	server->connection.context = server;
	server->connection.closed = connection_closed;
	server->connection.memory_max = options->memory_max;
	if (!server->destroy_event || !server->retry_event || error) {
		*reason = "out of memory";
		error = -ENOMEM;
	} else if (server->client) {
		event_active(server->retry_event, EV_TIMEOUT, 0);
	} else {
		error = listen_on(server, options->mode ? options->mode : SOCKET_MODE_NORMAL, reason);
	}
	if (error) {
		free_server(server);
		return error;
	}
	*result = server;
	return 0;
}

void vhost_user_server_destroy(struct vhost_user_server *server, void (*done)(void *context), void *context)
{
	server->destroying = true;
	server->destroyed = done;
	server->destroyed_context = context;
	stop_listening(server);
	event_del(server->retry_event);
	if (idle(server))
		event_active(server->destroy_event, EV_TIMEOUT, 0);
	else
		vhost_user_connection_close(&server->connection, "the device is being removed");
}

void vhost_user_server_read_status(const struct vhost_user_server *server, struct vhost_user_status *status)
{
	const struct vhost_user_connection *connection = &server->connection;

	*status = (struct vhost_user_status){
		.connected = connection->state != CONNECTION_CLOSED && connection->state != CONNECTION_CLOSING,
		.connections = server->connections,
		.messages = connection->messages,
		.refused = connection->refused,
		.last_error = connection->last_error,
		.regions = connection->memory ? connection->memory->region_count : 0,
		.memory = connection->memory_size,
		.log_missed = connection->log_missed + (connection->log ? dirty_log_missed(connection->log) : 0),
		.features = connection->features,
		.protocol_features = connection->protocol_features,
		.unclosed = disposal_waiting(connection->disposal),
	};
}
