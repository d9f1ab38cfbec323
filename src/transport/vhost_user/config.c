/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration space, the network card's own messages, and the channel on which we tell of a change. Context and trust
 * boundary: transport/vhost_user/connection.c.
 */
#include <errno.h>
#include <event2/event.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "transport/vhost_user/connection.h"
#include "transport/vhost_user/handlers.h"

/* ---- configuration space ----------------------------------------------------------------------------------------- */

static bool config_size_agrees(const struct vhost_user_message *message)
{
	return message->payload.config.size <= VHOST_USER_CONFIG_SIZE_MAX &&
	       message->header.size == VHOST_USER_CONFIG_HEADER_SIZE + message->payload.config.size;
}

/*
 * The part of [@offset, +@size) that the device has. Front-ends of another age know a shorter or longer structure than
 * we (virtio-blk's has grown several times): what lies behind ours reads as zeroes, which is what features that were
 * not offered look like.
 */
static uint32_t readable_part(const struct virtio_device *device, uint32_t offset, uint32_t size)
{
	return offset >= device->config_size ? 0 : min(size, device->config_size - offset);
}

int vhost_user_get_config(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct virtio_device *device = connection->device;
	struct vhost_user_config *config = &message->payload.config;
	uint32_t part;

	if (!config_size_agrees(message))
		return vhost_user_refuse(connection, -EINVAL, "payload has not the size that it tells");
	part = readable_part(device, config->offset, config->size);
	if (!part || !range_inside(config->offset, config->size, VHOST_USER_CONFIG_SIZE_MAX)) {
		message->header.size = 0; /* how the specification says "error" here */
		return 0;
	}
	memset(config->bytes, 0, config->size);
	device->ops->config_read(device, config->offset, config->bytes, part);
	return 0;
}

int vhost_user_set_config(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct virtio_device *device = connection->device;
	const struct vhost_user_config *config = &message->payload.config;
	int error;

	if (!config_size_agrees(message))
		return vhost_user_refuse(connection, -EINVAL, "payload has not the size that it tells");
	if (!config->size || !range_inside(config->offset, config->size, device->config_size))
		return vhost_user_refuse(connection, -EINVAL, "outside of the configuration space");
	if (config->flags > VHOST_USER_CONFIG_FLAGS_MIGRATION)
		return vhost_user_refuse(connection, -EINVAL, "unknown kind of write to the configuration space");
	error = device->ops->config_write
			? device->ops->config_write(device, config->offset, config->bytes, config->size)
			: -EINVAL;
	/* A migration may send fields that a driver cannot write; they are this end's configuration and stay so. */
	if (error && config->flags != VHOST_USER_CONFIG_FLAGS_MIGRATION)
		return vhost_user_refuse(connection, error, "field of the configuration space that is read-only");
	return 0;
}

/* ---- network card ------------------------------------------------------------------------------------------------ */

int vhost_user_net_set_mtu(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct virtio_device *device = connection->device;

	/* Least MTU: virtio 1.3 5.1.4.1. */
	if (message->payload.u64 < 68 || message->payload.u64 > UINT16_MAX)
		return vhost_user_refuse(connection, -EINVAL, "MTU outside of 68 to 65535");
	if (device->ops->set_mtu(device, (uint16_t)message->payload.u64))
		return vhost_user_refuse(connection, -EINVAL, "MTU that the device does not take");
	return 0;
}

int vhost_user_send_rarp(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct virtio_device *device = connection->device;

	return device->ops->announce(device, message->payload.mac);
}

/* ---- back-end requests ------------------------------------------------------------------------------------------- */

void vhost_user_backend_release(struct vhost_user_connection *connection)
{
	if (connection->backend_writable)
		event_free(connection->backend_writable);
	connection->backend_writable = NULL;
	if (connection->backend_fd >= 0)
		close(connection->backend_fd);
	connection->backend_fd = -1;
}

/* Without need_reply, so that nothing ever has to be read from the channel. */
static void send_config_change(struct vhost_user_connection *connection)
{
	const struct vhost_user_header header = { .request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
						  .flags = VHOST_USER_VERSION };
	ssize_t sent;

	do {
		sent = send(connection->backend_fd, &header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	if (sent == sizeof(header))
		return;
	/* Full: again when there is room. Several changes may become one message; it carries no data. */
	if (sent < 0 && errno == EAGAIN)
		event_add(connection->backend_writable, NULL);
	else
		vhost_user_backend_release(connection);
}

static void backend_writable(evutil_socket_t fd, short what, void *context)
{
	send_config_change(context);
}

void vhost_user_config_changed(struct virtio_device *device)
{
	struct vhost_user_connection *connection = device->transport;

	if (connection->backend_fd >= 0 && vhost_user_negotiated(connection, VHOST_USER_PROTOCOL_CONFIG))
		send_config_change(connection);
}

int vhost_user_set_backend_req_fd(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct event *writable;

	if (!file_is_unix_socket(message->fds[0]))
		return vhost_user_refuse(connection, -EINVAL, "channel for back-end requests that is not a unix socket");
	writable = event_new(connection->base, message->fds[0], EV_WRITE, backend_writable, connection);
	if (!writable)
		return -ENOMEM;
	vhost_user_backend_release(connection);
	connection->backend_writable = writable;
	connection->backend_fd = message->fds[0];
	message->fds[0] = -1;
	return 0;
}
