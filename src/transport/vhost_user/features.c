/* SPDX-License-Identifier: BSD-3-Clause */
/* Feature negotiation, ownership, status and reset. Context and trust boundary: transport/vhost_user/connection.c. */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "transport/vhost_user/connection.h"
#include "transport/vhost_user/handlers.h"

#define BIT(number) (1ULL << (number))

uint64_t vhost_user_features_offered(const struct virtio_device *device)
{
	return device->features | VHOST_USER_LOG_ALL | VHOST_USER_PROTOCOL_FEATURES;
}

uint64_t vhost_user_protocol_features_offered(const struct virtio_device *device)
{
	uint64_t offered = BIT(VHOST_USER_PROTOCOL_MQ) | BIT(VHOST_USER_PROTOCOL_LOG_SHMFD) |
			   BIT(VHOST_USER_PROTOCOL_REPLY_ACK) | BIT(VHOST_USER_PROTOCOL_BACKEND_REQ) |
			   BIT(VHOST_USER_PROTOCOL_CONFIG) | BIT(VHOST_USER_PROTOCOL_RESET_DEVICE) |
			   BIT(VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS) | BIT(VHOST_USER_PROTOCOL_STATUS);

	if (device->ops->set_mtu)
		offered |= BIT(VHOST_USER_PROTOCOL_NET_MTU);
	if (device->ops->announce)
		offered |= BIT(VHOST_USER_PROTOCOL_RARP);
	/* A network card has nothing to resubmit: a packet that is in flight in a crash is a packet lost. */
	if (device->ops->device_id == VIRTIO_ID_BLOCK)
		offered |= BIT(VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);
	return offered;
}

static int reply_u64(struct vhost_user_message *message, uint64_t value)
{
	message->payload.u64 = value;
	message->header.size = sizeof(value);
	return 0;
}

int vhost_user_get_features(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return reply_u64(message, vhost_user_features_offered(connection->device));
}

int vhost_user_set_features(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct virtio_device *device = connection->device;
	uint64_t features = message->payload.u64, driver;
	int error;

	if (features & ~vhost_user_features_offered(device))
		return vhost_user_refuse(connection, -EINVAL, "features that were not offered");
	driver = features & ~(VHOST_USER_LOG_ALL | VHOST_USER_PROTOCOL_FEATURES);
	error = device->ops->features_acked(device, driver);
	if (error)
		return vhost_user_refuse(connection, error, "features that contradict each other");
	device->acked_features = driver;
	connection->features = features;
	connection->features_known = true;
	/* "Ring states": without the bit there is no SET_VRING_ENABLE, so all rings are enabled. */
	if (!(features & VHOST_USER_PROTOCOL_FEATURES)) {
		for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
			connection->vrings[i].enabled = true;
	}
	return 0;
}

int vhost_user_get_protocol_features(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return reply_u64(message, vhost_user_protocol_features_offered(connection->device));
}

int vhost_user_set_protocol_features(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	if (message->payload.u64 & ~vhost_user_protocol_features_offered(connection->device))
		return vhost_user_refuse(connection, -EINVAL, "protocol features that were not offered");
	connection->protocol_features = message->payload.u64;
	return 0;
}

int vhost_user_set_owner(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return 0; /* whoever is connected owns the device; a second connection is refused by the server */
}

int vhost_user_reset_owner(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return 0; /* deprecated; the specification recommends to ignore it */
}

int vhost_user_get_queue_num(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	/*
	 * Of a network card, QEMU compares this with its number of queue pairs, Cloud Hypervisor with its number of
	 * queues: the number of queues is right for both. (A QEMU that asks for too many pairs is refused at their
	 * rings.)
	 */
	return reply_u64(message, connection->device->queue_count);
}

/*
 * The driver starts over. Memory and files of the front-end stay: it does not send them again. All queues are stopped.
 */
static void reset_device(struct vhost_user_connection *connection)
{
	struct virtio_device *device = connection->device;

	connection->status = 0;
	connection->features = 0;
	connection->features_known = false; /* a driver negotiates again (virtio 1.3 3.1.1) */
	device->acked_features = 0;
	vhost_user_rings_reset(connection);
	if (connection->inflight)
		inflight_area_forget(connection->inflight);
	if (device->ops->reset)
		device->ops->reset(device);
}

int vhost_user_reset_device(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	reset_device(connection);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		connection->vrings[i].enabled = false;
	return 0;
}

int vhost_user_set_status(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	if (message->payload.u64 > UINT8_MAX)
		return vhost_user_refuse(connection, -EINVAL, "status has 8 bits");
	if (!message->payload.u64)
		reset_device(connection);
	connection->status = (uint8_t)message->payload.u64;
	return 0;
}

int vhost_user_get_status(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return reply_u64(message, connection->status);
}
