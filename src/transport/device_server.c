/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The socket of one device, and its one connection at a time.
 *
 * Theory of operation
 * -------------------
 * Server mode: we listen. A second peer is refused while one is connected: its connection is accepted and closed, so that
 * it does not wait for ever. While a connection is closing (requests in flight are coming back) newcomers stay in the
 * socket's backlog: a front-end that reconnects at once, or a guest that is started again at once, is served as soon as
 * the device is at rest. A socket file that is already there is removed only when nobody listens behind it, and ours only
 * while it is still ours.
 *
 * Client mode: the peer listens; we connect, and again a second after a connection ended or could not be made.
 *
 * A peer whose files do not let go (base/disposal.h) is not let in again, nor anybody else, until they do.
 *
 * Context: control thread.
 */
#include "transport/device_server.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/disposal.h"
#include "base/log.h"

#define RETRY_SECONDS	      1
#define DISPOSAL_MICROSECONDS 20000
#define SOCKET_MODE_NORMAL    0660

static bool vacant(const struct device_server *server)
{
	int fd;

	return server->ops->place(server, &fd) == PLACE_VACANT;
}

static void serve(struct device_server *server, int fd)
{
	int error = server->ops->open(server, fd);

	if (error) {
		log_limited(server->lives, LOG_LEVEL_ERROR, "%s: %s: %s", server->name, server->ops->protocol,
			    strerrordesc_np(-error));
		return;
	}
	server->connections++;
	log_limited(server->lives, LOG_LEVEL_INFO, "%s: %s connected", server->name, server->ops->peer);
}

static void retry_later(struct device_server *server)
{
	event_add(server->retry_event, &(struct timeval){ .tv_sec = RETRY_SECONDS });
}

/* ---- server mode ------------------------------------------------------------------------------------------------- */

/* Has the peer on @fd, which we serve, gone without our having seen it yet? */
static bool hung_up(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLRDHUP };

	return poll(&poll_fd, 1, 0) == 1 && poll_fd.revents & (POLLHUP | POLLRDHUP | POLLERR);
}

static void accept_peer(evutil_socket_t listener, short what, void *context)
{
	struct device_server *server = context;
	enum device_server_place place;
	int fd;

	/* One that does not let go of its files must not bring more of them. */
	if (disposal_waiting(server->disposal)) {
		event_del(server->accept_event);
		event_add(server->retry_event, &(struct timeval){ .tv_usec = DISPOSAL_MICROSECONDS });
		return;
	}
	place = server->ops->place(server, &fd);
	if (place == PLACE_CLOSING || (place == PLACE_TAKEN && hung_up(fd))) {
		/* Leave the newcomer in the backlog until the device is at rest. */
		event_del(server->accept_event);
		server->ops->close(server, NULL);
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
	if (place == PLACE_VACANT) {
		serve(server, fd);
		return;
	}
	log_limited(server->refusals, LOG_LEVEL_WARNING, "%s: a second %s was refused: one is connected to %s",
		    server->name, server->ops->peer, server->listener.address.sun_path);
	disposal_close(server->disposal, fd);
}

int device_server_listen(struct device_server *server, uint32_t mode, const char **reason)
{
	int error = listener_open(&server->listener, mode ? mode : SOCKET_MODE_NORMAL, reason);

	if (error)
		return error;
	server->accept_event = event_new(server->base, server->listener.fd, EV_READ | EV_PERSIST, accept_peer, server);
	if (!server->accept_event || event_add(server->accept_event, NULL)) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	return 0;
}

static void stop_listening(struct device_server *server)
{
	if (server->accept_event)
		event_free(server->accept_event);
	server->accept_event = NULL;
	listener_close(&server->listener, server->disposal);
}

/* ---- client mode ------------------------------------------------------------------------------------------------- */

static void connect_to_peer(struct device_server *server)
{
	int fd = -1;

	if (!disposal_waiting(server->disposal))
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* Unix sockets connect at once or not at all: nobody there, or (EAGAIN) their backlog is full. */
	if (fd >= 0 &&
	    !connect(fd, (const struct sockaddr *)&server->listener.address, sizeof(server->listener.address))) {
		serve(server, fd);
	} else if (fd >= 0) {
		close(fd);
	}
	if (vacant(server))
		retry_later(server);
}

void device_server_connect(struct device_server *server)
{
	event_active(server->retry_event, EV_TIMEOUT, 0);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void retry(evutil_socket_t unused, short what, void *context)
{
	struct device_server *server = context;

	if (server->accept_event)
		event_add(server->accept_event, NULL);
	else
		connect_to_peer(server);
}

static void end(evutil_socket_t unused, short what, void *context)
{
	struct device_server *server = context;

	server->ops->ended(server);
}

int device_server_init(struct device_server *server, struct event_base *base, const char *path,
		       struct listeners *listeners, const char **reason)
{
	int error = listener_address(&server->listener, path, listeners, reason);

	if (error)
		return error;
	server->base = base;
	server->end_event = event_new(base, -1, 0, end, server);
	server->retry_event = event_new(base, -1, 0, retry, server);
	if (!server->end_event || !server->retry_event) {
		*reason = "out of memory";
		return -ENOMEM;
	}
	return 0;
}

void device_server_release(struct device_server *server)
{
	stop_listening(server);
	if (server->retry_event)
		event_free(server->retry_event);
	if (server->end_event)
		event_free(server->end_event);
}

void device_server_vacated(struct device_server *server)
{
	if (server->ending)
		server->ops->ended(server);
	else if (server->accept_event)
		event_add(server->accept_event, NULL);
	else
		retry_later(server);
}

bool device_server_end(struct device_server *server)
{
	server->ending = true;
	stop_listening(server);
	event_del(server->retry_event);
	if (!vacant(server))
		return true;
	event_active(server->end_event, EV_TIMEOUT, 0);
	return false;
}
