/* SPDX-License-Identifier: BSD-3-Clause */
/* The table of vhost-user messages: transport/vhost_user/messages.c. */
#ifndef TRANSPORT_VHOST_USER_MESSAGES_H
#define TRANSPORT_VHOST_USER_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/vhost_user/message.h"

struct vhost_user_connection;

/** Which running queues are stopped before the handler runs, and started again after it where they should run. */
enum vhost_user_quiesce {
	QUIESCE_NONE,
	QUIESCE_STATE_QUEUE,   /* payload.state.index */
	QUIESCE_ADDRESS_QUEUE, /* payload.address.index */
	QUIESCE_FILE_QUEUE,    /* payload.u64, bits 0-7 */
	QUIESCE_ALL,
	QUIESCE_ALL_IF_ZERO, /* payload.u64 is 0: SET_STATUS as reset */
};

enum vhost_user_reply {
	REPLY_ACK, /* none of its own: acknowledged when REPLY_ACK has been negotiated and the message asks for it */
	REPLY_OWN, /* always: what the handler left in message->payload, message->header.size bytes */
};

#define VHOST_USER_ANY_TIME (-1)

/**
 * struct vhost_user_row - all that the dispatcher knows of a message.
 * @name:	in the specification's words, for people
 * @handler:	Return: 0, or -errno with a reason by vhost_user_refuse(). Runs with the queues of @quiesce stopped;
 *		never blocks. NULL: known by name only, refused
 * @feature:	protocol feature that must have been negotiated, or VHOST_USER_ANY_TIME
 * @size_min, @size_max: of the payload; equal for most
 * @fds_min, @fds_max: file descriptors
 */
struct vhost_user_row {
	const char *name;
	int (*handler)(struct vhost_user_connection *connection, struct vhost_user_message *message);
	int8_t feature;
	uint8_t fds_min, fds_max;
	uint16_t size_min, size_max;
	enum vhost_user_quiesce quiesce;
	enum vhost_user_reply reply;
};

/** vhost_user_row() - Return: NULL for a number that the specification does not know. */
const struct vhost_user_row *vhost_user_row(uint32_t request);

#endif
