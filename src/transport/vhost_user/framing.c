/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user framing: bytes and file descriptors in and out of the socket, never waiting, and the checks that need no
 * handler. Context and trust boundary: transport/vhost_user/connection.c.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/disposal.h"
#include "transport/stream.h"
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
	struct stream_files files = { message->fds, &message->fd_count, VHOST_USER_FDS_MAX };
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
		got = stream_receive(connection->fd, to, wanted, files, connection->disposal);
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
	struct stream_message reply = {
		.header = &message->header,
		.header_size = sizeof(message->header),
		.payload = &message->payload,
		.payload_size = message->header.size,
		.sent = &connection->sent,
		.fd = connection->reply_fd,
	};
	int error = stream_send(connection->fd, &reply);

	if (connection->reply_fd >= 0 && reply.fd < 0) {
		close(connection->reply_fd);
		connection->reply_fd = -1;
	}

	return error;
}
