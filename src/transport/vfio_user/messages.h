/* SPDX-License-Identifier: BSD-3-Clause */
/* The table of vfio-user messages: transport/vfio_user/messages.c. */
#ifndef TRANSPORT_VFIO_USER_MESSAGES_H
#define TRANSPORT_VFIO_USER_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/vfio_user/message.h"

struct vfio_user_connection;

/** What vfio_user_status counts messages as. */
enum vfio_user_kind {
	KIND_OTHER,
	KIND_REGION_READ,
	KIND_REGION_WRITE,
	KIND_INTERRUPT,
	KIND_MEMORY,
	VFIO_USER_KINDS,
};

/** A handler's answer beside 0 and -errno: the device has deferred something; call again when it is done. */
#define VFIO_USER_DEFERRED 1

/**
 * struct vfio_user_row - all that the dispatcher knows of a message.
 * @name:	in the specification's words, for people
 * @handler:	Return: 0, with the reply's payload in message->payload and its size in message->size; -errno with a
 *		reason by vfio_user_refuse(), before anything was changed; VFIO_USER_DEFERRED. Never blocks.
 *		NULL: known by name only, answered with -ENOTTY
 * @rest:	must the device be at rest for it? NULL: never
 * @size_min:	of the payload, without entries
 * @entry, @entries: bytes of one entry, and the most that may follow; 0: none
 * @fds_max:	file descriptors; none is ever required by the table, since each has a meaning when it is absent
 */
struct vfio_user_row {
	const char *name;
	int (*handler)(struct vfio_user_connection *connection, struct vfio_user_message *message);
	bool (*rest)(const struct vfio_user_connection *connection, const struct vfio_user_message *message);
	uint16_t size_min, entry, entries;
	uint8_t fds_max;
	enum vfio_user_kind kind;
};

/** vfio_user_check_message() - all that can be said of connection->message without its handler. Return: 0 or the error of the
 * answer. */
int vfio_user_check_message(struct vfio_user_connection *connection);

/** vfio_user_row() - Return: NULL for a number that the specification does not know. */
const struct vfio_user_row *vfio_user_row(uint16_t command);

#endif
