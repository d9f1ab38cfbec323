/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * VERSION: what client and server agree on ("VFIO_USER_VERSION"). Context and trust boundary:
 * transport/vfio_user/connection.c.
 *
 * What the client proposes is JSON, which jansson parses in bounded memory and depth out of at most
 * VFIO_USER_VERSION_BYTES. Of what it may say only write_multiple matters to us; the rest are limits for messages that we
 * never send. But a value of the wrong kind is a mistake that is better told than passed over.
 */
#include <errno.h>
#include <jansson.h>
#include <stddef.h>
#include <string.h>

#include "base/checked.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

/* Return: NULL or what is wrong with the client's capabilities. */
static const char *check_capabilities(const json_t *root, bool *write_multiple)
{
	static const char *const numbers[] = { "max_msg_fds", "max_data_xfer_size", "pgsizes", "max_dma_maps" };
	const json_t *capabilities, *value;

	if (!json_is_object(root))
		return "version data that is no JSON object";
	capabilities = json_object_get(root, "capabilities");
	if (!capabilities)
		return NULL;
	if (!json_is_object(capabilities))
		return "capabilities that are no JSON object";
	for (unsigned i = 0; i < array_size(numbers); i++) {
		value = json_object_get(capabilities, numbers[i]);
		if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
			return "a capability that is no number";
	}
	value = json_object_get(capabilities, "pgsizes");
	if (value && !(json_integer_value(value) & VFIO_USER_PAGE_SIZE))
		return "client without pages of 4 KiB";
	value = json_object_get(capabilities, "write_multiple");
	if (value && !json_is_boolean(value))
		return "a capability that is no boolean";
	*write_multiple = json_is_true(value);
	return NULL;
}

static const char *parse_data(const struct vfio_user_version *version, size_t length, bool *write_multiple)
{
	const char *reason;
	json_t *root;

	*write_multiple = false;
	if (!length)
		return NULL;
	if (memchr(version->data, '\0', length) != version->data + length - 1)
		return "version data that does not end with its only NUL";
	root = json_loadb(version->data, length - 1, JSON_REJECT_DUPLICATES, NULL);
	reason = check_capabilities(root, write_multiple);
	json_decref(root);
	return reason;
}

/* What we take; write_multiple only if the client knows it ("must be a subset of those proposed"). */
static int write_data(struct vfio_user_message *message, bool write_multiple)
{
	struct vfio_user_version *version = &message->payload.version;
	json_t *root = json_pack("{s:{s:i,s:i,s:i,s:i}}", "capabilities", "max_msg_fds", (int)VFIO_USER_FDS_OFFERED,
				 "max_data_xfer_size", (int)VFIO_USER_TRANSFER_MAX, "pgsizes", (int)VFIO_USER_PAGE_SIZE,
				 "max_dma_maps", (int)GUEST_MEMORY_REGIONS_MAX);
	size_t length;

	if (!root)
		return -ENOMEM;
	if (write_multiple &&
	    json_object_set_new(json_object_get(root, "capabilities"), "write_multiple", json_true())) {
		json_decref(root);
		return -ENOMEM;
	}
	length = json_dumpb(root, version->data, sizeof(version->data) - 1, JSON_COMPACT);
	json_decref(root);
	if (!length || length >= sizeof(version->data))
		return -ENOMEM;
	version->data[length] = '\0';
	message->size = (uint32_t)(offsetof(struct vfio_user_version, data) + length + 1);
	return 0;
}

int vfio_user_version(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_version *version = &message->payload.version;
	bool write_multiple;
	int error;

	if (connection->agreed)
		return vfio_user_refuse(connection, -EINVAL, "a version has been agreed on");
	if (version->major != VFIO_USER_MAJOR)
		return vfio_user_refuse(connection, -EINVAL, "major version is not 0");
	connection->reason =
		parse_data(version, message->size - offsetof(struct vfio_user_version, data), &write_multiple);
	if (connection->reason)
		return -EINVAL;
	error = write_data(message, write_multiple);
	if (error)
		return error;
	if (version->minor > VFIO_USER_MINOR)
		version->minor = VFIO_USER_MINOR;
	connection->agreed = true;
	return 0;
}
