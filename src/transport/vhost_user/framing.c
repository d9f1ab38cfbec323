/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user framing: bytes and file descriptors in and out of the socket, never waiting, and the checks that need no
 * handler. Context and trust boundary: transport/vhost_user/connection.c.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/disposal.h"
#include "transport/vhost_user/connection.h"

/* No message needs files whose close() may wait (base/disposal.h); so many that do not let go are no accident. */
#define CLOSING_MAX 64U

void vhost_user_release_fds(struct vhost_user_connection *connection)
{
	struct vhost_user_message *message = &connection->message;

	for (unsigned i = 0; i < message->fd_count; i++)
		disposal_close(connection->disposal, message->fds[i]);
	message->fd_count = 0;
}

/*
 * Own the file descriptors that came with some bytes; those for which the message has no room are closed.
 * Return: false when there were too many.
 */
static bool take_fds(struct vhost_user_connection *connection, struct msghdr *header)
{
	struct vhost_user_message *message = &connection->message;
	bool fit = !(header->msg_flags & MSG_CTRUNC); /* we have no room for descriptors: the kernel closed some */
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
		size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
			if (message->fd_count < VHOST_USER_FDS_MAX) {
				message->fds[message->fd_count++] = fd;
			} else {
				disposal_close(connection->disposal, fd);
				fit = false;
			}
		}
	}
	return fit;
}

/* Read up to @length bytes. Return: bytes; 0 at the end of the connection; -EAGAIN and other errors. */
static ssize_t receive(struct vhost_user_connection *connection, void *to, size_t length)
{
	/* Room for all that can come: those beyond it the kernel would close for us, and wait for them. */
	union {
		char bytes[CMSG_SPACE(sizeof(int) * RIGHTS_MAX)];
		struct cmsghdr alignment;
	} control;
	struct iovec part = { .iov_base = to, .iov_len = length };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t got;

	do {
		got = recvmsg(connection->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	if (!take_fds(connection, &header))
		return -EMFILE;
	return got;
}

/* The header is there: what can be said before the payload. Return: NULL when all is well. */
static const char *check_header(struct vhost_user_connection *connection)
{
	const struct vhost_user_header *header = &connection->message.header;
	const struct vhost_user_row *row = vhost_user_row(header->request);

	if ((header->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return "protocol version is not 1";
	if (header->flags & ~(VHOST_USER_VERSION_MASK | VHOST_USER_NEED_REPLY))
		return "flags that a request does not have";
	if (!row)
		return "unknown request";
	connection->row = row;
	if (!row->handler)
		return "of a protocol feature that is not offered";
	if (header->size < row->size_min || header->size > row->size_max)
		return "payload has the wrong size";
	return NULL;
}

/* The message is complete. Return: NULL when all is well. */
static const char *check_message(const struct vhost_user_connection *connection)
{
	const struct vhost_user_message *message = &connection->message;
	const struct vhost_user_row *row = connection->row;

	if (message->fd_count < row->fds_min || message->fd_count > row->fds_max)
		return "wrong number of file descriptors";
	return NULL;
}

int vhost_user_receive(struct vhost_user_connection *connection)
{
	struct vhost_user_message *message = &connection->message;
	size_t header_size = sizeof(message->header), wanted;
	ssize_t got;

	if (disposal_waiting(connection->disposal) > CLOSING_MAX)
		return vhost_user_refuse(connection, -EPROTO, "too many files that cannot be closed");

	for (;;) {
		bool in_header = connection->received < header_size;
		char *to;

		/* Header and payload are read apart: the payload's size is checked before a byte of it is read. */
		wanted = in_header ? header_size - connection->received
				   : header_size + message->header.size - connection->received;
		if (!wanted)
			break;
		to = in_header ? (char *)&message->header + connection->received
			       : (char *)&message->payload + (connection->received - header_size);
		got = receive(connection, to, wanted);
		if (got == 0) {
			if (!connection->received)
				return -ECONNRESET;
			return vhost_user_refuse(connection, -EPROTO, "connection ended within a message");
		}
		if (got == -EMFILE)
			return vhost_user_refuse(connection, -EPROTO, "too many file descriptors");
		if (got < 0)
			return (int)got;
		connection->received += (size_t)got;
		if (connection->received == header_size) {
			memset(&message->payload, 0, sizeof(message->payload));
			connection->reason = check_header(connection);
			if (connection->reason)
				return -EPROTO;
		}
	}
	connection->reason = check_message(connection);
	return connection->reason ? -EPROTO : 0;
}

int vhost_user_send_reply(struct vhost_user_connection *connection)
{
	struct vhost_user_message *message = &connection->message;
	size_t total = sizeof(message->header) + message->header.size;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control = { 0 };

	_Static_assert(offsetof(struct vhost_user_message, payload) >= sizeof(message->header), "sent in two parts");
	while (connection->sent < total) {
		bool in_header = connection->sent < sizeof(message->header);
		struct iovec parts[2] = {
			{ (char *)&message->header + connection->sent,
			  in_header ? sizeof(message->header) - connection->sent : 0 },
			{ (char *)&message->payload + (in_header ? 0 : connection->sent - sizeof(message->header)),
			  in_header ? message->header.size : total - connection->sent },
		};
		struct msghdr header = { .msg_iov = in_header ? parts : parts + 1, .msg_iovlen = in_header ? 2 : 1 };
		ssize_t sent;

		if (connection->reply_fd >= 0) {
			header.msg_control = &control;
			header.msg_controllen = sizeof(control);
			control.alignment.cmsg_level = SOL_SOCKET;
			control.alignment.cmsg_type = SCM_RIGHTS;
			control.alignment.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.alignment), &connection->reply_fd, sizeof(int));
		}
		sent = sendmsg(connection->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		connection->sent += (size_t)sent;
		if (connection->reply_fd >= 0) { /* went with the first byte */
			close(connection->reply_fd);
			connection->reply_fd = -1;
		}
	}
	return 0;
}
