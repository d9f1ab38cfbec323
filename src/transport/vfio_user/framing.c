/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user framing: bytes and file descriptors in and out of the socket, never waiting. Context and trust boundary:
 * transport/vfio_user/connection.c.
 *
 * A system call for each message is a good part of what a trapped register costs, so bytes are read ahead: as many
 * messages as there are and the buffer takes. A message is copied out of the buffer when it is complete.
 *
 * File descriptors say only with which bytes they came: the kernel ends a read behind the piece that brought some. So they
 * belong to the last message that begins in that read; and while some are held for a message that is not complete, no more
 * is read than that message.
 */
#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "transport/stream.h"
#include "transport/vfio_user/connection.h"

/* No message needs files whose close() may wait (base/disposal.h); so many that do not let go are no accident. */
#define CLOSING_MAX 64U

#define HEADER_SIZE sizeof(struct vfio_user_header)

void vfio_user_release_fds(struct vfio_user_connection *connection)
{
	struct vfio_user_message *message = &connection->message;

	for (unsigned i = 0; i < message->fd_count; i++)
		disposal_close(connection->disposal, message->fds[i]);
	message->fd_count = 0;
}

void vfio_user_release_held_fds(struct vfio_user_connection *connection)
{
	while (connection->held_count)
		disposal_close(connection->disposal, connection->held[--connection->held_count]);
}

/* Read up to @length bytes more. Return: 0; -ECONNRESET at the end of the connection; -EAGAIN and other errors. */
static int fill(struct vfio_user_connection *connection, size_t length)
{
	struct stream_files files = { connection->held, &connection->held_count, VFIO_USER_FDS_MAX };
	unsigned held = connection->held_count;
	ssize_t got = stream_receive(connection->fd, connection->buffer + connection->buffer_end, length, files,
				     connection->disposal);

	if (got == -EMFILE)
		return vfio_user_refuse(connection, -EPROTO, "too many file descriptors");
	if (got < 0)
		return (int)got;
	connection->buffer_end += (size_t)got;
	/* Less than there was room for, and not because of files, at which a read ends, too. */
	connection->drained = got && (size_t)got < length && connection->held_count == held;
	return got ? 0 : -ECONNRESET;
}

/* Can the stream be trusted to go on after this header? Return: NULL when it can. */
static const char *check_header(const struct vfio_user_header *header)
{
	if ((header->flags & VFIO_USER_TYPE_MASK) != VFIO_USER_TYPE_COMMAND)
		return "neither a command nor a reply to one of ours";
	if (header->size < HEADER_SIZE)
		return "message smaller than its header";
	if (header->size > HEADER_SIZE + VFIO_USER_PAYLOAD_MAX)
		return "message larger than was agreed on";
	return NULL;
}

/* The message of @header is complete: copy it out of the buffer, with its files. */
static void take_message(struct vfio_user_connection *connection, const struct vfio_user_header *header)
{
	struct vfio_user_message *message = &connection->message;

	message->header = *header;
	message->size = header->size - (uint32_t)HEADER_SIZE;
	memcpy(&message->payload, connection->buffer + connection->buffer_start + HEADER_SIZE, message->size);
	connection->buffer_start += header->size;
	if (connection->buffer_start == connection->buffer_end) {
		/* It ends what has been read: the files that came with it are this message's. */
		connection->buffer_start = connection->buffer_end = 0;
		memcpy(message->fds, connection->held, connection->held_count * sizeof(int));
		message->fd_count = connection->held_count;
		connection->held_count = 0;
	}
}

int vfio_user_receive(struct vfio_user_connection *connection)
{
	struct vfio_user_header header;
	size_t have, wanted;
	int error;

	if (disposal_waiting(connection->disposal) > CLOSING_MAX)
		return vfio_user_refuse(connection, -EPROTO, "too many files that cannot be closed");

	for (;;) {
		have = connection->buffer_end - connection->buffer_start;
		wanted = HEADER_SIZE;
		if (have >= HEADER_SIZE) {
			memcpy(&header, connection->buffer + connection->buffer_start, HEADER_SIZE);
			connection->reason = check_header(&header);
			if (connection->reason)
				return -EPROTO;
			wanted = header.size;
		}
		if (have >= HEADER_SIZE && have >= wanted) {
			take_message(connection, &header);
			return 0;
		}
		/* Once: if something has come since, the event loop is back at once, and a flood is read in one piece. */
		if (connection->drained) {
			connection->drained = false;
			return -EAGAIN;
		}
		/* Make room for any message: the buffer has twice as much as the largest. */
		if (connection->buffer_start) {
			memmove(connection->buffer, connection->buffer + connection->buffer_start, have);
			connection->buffer_start = 0;
			connection->buffer_end = have;
		}
		error = fill(connection, connection->held_count ? wanted - have : sizeof(connection->buffer) - have);
		if (error == -ECONNRESET && have)
			return vfio_user_refuse(connection, -EPROTO, "connection ended within a message");
		if (error)
			return error;
	}
}

int vfio_user_send_reply(struct vfio_user_connection *connection)
{
	struct vfio_user_message *message = &connection->message;
	struct stream_message reply = {
		.header = &message->header,
		.header_size = HEADER_SIZE,
		.payload = &message->payload,
		.payload_size = message->size,
		.sent = &connection->sent,
		.fd = connection->reply_fd,
	};
	int error = stream_send(connection->fd, &reply);

	connection->reply_fd = reply.fd; /* which stays the device's */
	return error;
}
