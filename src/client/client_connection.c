/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/client_connection.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT 5000

/* Room for one descriptor: no message of either protocol brings a client more. */
union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

/**
 * client_connection_fail() - remember why.
 * @connection:	whose client failed
 * @error:	negative errno
 * @format:	as for printf()
 *
 * Return: @error.
 */
int client_connection_fail(struct client_connection *connection, int error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(connection->error, sizeof(connection->error), format, arguments);
	va_end(arguments);

	return error;
}

static int wait_for(struct client_connection *connection, int fd, const char *what)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int ready;

	do {
		ready = poll(&pollfd, 1, connection->timeout_ms);
	} while (ready < 0 && errno == EINTR);

	if (ready < 0)
		return client_connection_fail(connection, -errno, "%s: poll: %s", what, strerror(errno));
	if (ready == 0)
		return client_connection_fail(connection, -ETIMEDOUT, "%s: no answer in %d ms", what,
					      connection->timeout_ms);

	return 0;
}

/* ---- opening ---- */

static int connect_to(struct client_connection *connection, const struct sockaddr_un *address)
{
	struct timespec pause = { .tv_nsec = 20000000 };
	int tries = connection->timeout_ms / 20 + 1;

	connection->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection->socket < 0)
		return client_connection_fail(connection, -errno, "socket: %s", strerror(errno));

	/* A server that is just starting has no socket yet, or has bound it and does not listen. */
	while (connect(connection->socket, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if ((errno != ENOENT && errno != ECONNREFUSED) || --tries <= 0)
			return client_connection_fail(connection, -errno, "connect to %s: %s", address->sun_path,
						      strerror(errno));
		nanosleep(&pause, NULL);
	}

	return 0;
}

static int accept_from(struct client_connection *connection, const struct sockaddr_un *address)
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = 0;

	if (listener < 0)
		return client_connection_fail(connection, -errno, "socket: %s", strerror(errno));

	unlink(address->sun_path);
	if (bind(listener, (const struct sockaddr *)address, sizeof(*address)) < 0 || listen(listener, 1) < 0)
		error = client_connection_fail(connection, -errno, "listen on %s: %s", address->sun_path,
					       strerror(errno));
	if (!error)
		error = wait_for(connection, listener, "waiting for the server to connect");
	if (!error) {
		connection->socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (connection->socket < 0)
			error = client_connection_fail(connection, -errno, "accept: %s", strerror(errno));
	}
	close(listener);
	unlink(address->sun_path);

	return error;
}

/**
 * client_connection_open() - connect, or wait for the server to do so.
 * @connection:	close it whatever this returns; its timeout is set, too
 * @endpoint:	where
 *
 * Return: 0, or a negative errno with the reason in @connection->error.
 */
int client_connection_open(struct client_connection *connection, const struct client_endpoint *endpoint)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	*connection = (struct client_connection){ .socket = -1,
						  .timeout_ms = endpoint->timeout_ms ? endpoint->timeout_ms
										     : DEFAULT_TIMEOUT };
	if (strlen(endpoint->path) >= sizeof(address.sun_path))
		return client_connection_fail(connection, -ENAMETOOLONG, "socket path longer than %zu bytes",
					      sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, endpoint->path, strlen(endpoint->path));

	return endpoint->listen ? accept_from(connection, &address) : connect_to(connection, &address);
}

/**
 * client_connection_close() - harmless when it is closed.
 * @connection:	the connection
 */
void client_connection_close(struct client_connection *connection)
{
	if (connection->socket >= 0)
		close(connection->socket);
	connection->socket = -1;
}

/* ---- messages ---- */

/**
 * client_connection_send() - send a message, all of it.
 * @connection:	open connection
 * @message:	header and payload
 * @size:	bytes of both
 * @fd:		a file to go with it; -1: none
 * @name:	of the message, for people
 *
 * Return: 0, or a negative errno with the reason in @connection->error.
 */
int client_connection_send(struct client_connection *connection, const void *message, size_t size, int fd,
			   const char *name)
{
	union control control = { 0 };
	struct iovec iovec = { .iov_base = (void *)(uintptr_t)message, .iov_len = size };
	struct msghdr header = { .msg_iov = &iovec, .msg_iovlen = 1 };
	ssize_t sent;

	if (fd >= 0) {
		header.msg_control = control.space;
		header.msg_controllen = sizeof(control.space);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	do {
		sent = sendmsg(connection->socket, &header, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);

	if (sent < 0)
		return client_connection_fail(connection, -errno, "%s: send: %s", name, strerror(errno));
	if ((size_t)sent != size)
		return client_connection_fail(connection, -EIO, "%s: sent %zd of %zu bytes", name, sent, size);

	return 0;
}

/* A descriptor that came with bytes: the first becomes @fd, others are closed. */
static void take_file(struct msghdr *header, int *fd)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(header);
	int got;

	if (!control || control->cmsg_type != SCM_RIGHTS)
		return;
	memcpy(&got, CMSG_DATA(control), sizeof(got));
	if (fd && *fd < 0)
		*fd = got;
	else
		close(got);
}

/**
 * client_connection_receive() - receive exactly so many bytes.
 * @connection:	open connection
 * @data:	receives them
 * @size:	how many
 * @name:	of the message that they belong to, for people
 * @fd:		-1, and receives a descriptor that came along; NULL: it is closed
 *
 * Return: 0, or a negative errno with the reason in @connection->error.
 */
int client_connection_receive(struct client_connection *connection, void *data, size_t size, const char *name, int *fd)
{
	union control control;
	size_t done = 0;

	while (done < size) {
		struct iovec iovec = { .iov_base = (uint8_t *)data + done, .iov_len = size - done };
		struct msghdr header = { .msg_iov = &iovec,
					 .msg_iovlen = 1,
					 .msg_control = control.space,
					 .msg_controllen = sizeof(control.space) };
		int error = wait_for(connection, connection->socket, name);
		ssize_t received;

		if (error)
			return error;
		received = recvmsg(connection->socket, &header, MSG_CMSG_CLOEXEC);
		if (received < 0 && errno == EINTR)
			continue;
		if (received < 0)
			return client_connection_fail(connection, -errno, "%s: receive: %s", name, strerror(errno));
		if (received == 0)
			return client_connection_fail(connection, -ECONNRESET, "%s: the server closed the connection",
						      name);
		done += (size_t)received;
		take_file(&header, fd);
	}

	return 0;
}
