/* SPDX-License-Identifier: BSD-3-Clause */
/* In-flight area: ring/inflight.h. Context and trust boundary: transport/vhost_user/connection.c. */
#include <errno.h>
#include <linux/virtio_config.h>

#include "transport/vhost_user/connection.h"
#include "transport/vhost_user/handlers.h"

/* Front-ends send SET_FEATURES before they ask for an area, so the layout is known. */
static bool packed(const struct vhost_user_connection *connection)
{
	return connection->features >> VIRTIO_F_RING_PACKED & 1;
}

static int check_counts(struct vhost_user_connection *connection, const struct vhost_user_message *message)
{
	const struct inflight_description *inflight = &message->payload.inflight;

	if (message->header.size != VHOST_USER_INFLIGHT_SIZE_MIN && message->header.size != sizeof(*inflight))
		return vhost_user_refuse(connection, -EINVAL, "payload has neither size of an in-flight description");
	if (!inflight->num_queues || inflight->num_queues > connection->device->queue_count)
		return vhost_user_refuse(connection, -EINVAL, "in-flight area for queues that there are not");
	if (!inflight->queue_size || inflight->queue_size > VIRTQUEUE_SIZE_MAX)
		return vhost_user_refuse(connection, -EINVAL, "in-flight area for an impossible queue size");
	return 0;
}

int vhost_user_get_inflight_fd(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	int error = check_counts(connection, message), fd;

	if (error)
		return error;
	/* It is used when, and as, the front-end sends it back. The size of the payload stays as it came. */
	fd = inflight_area_create_fd(&message->payload.inflight, packed(connection));
	if (fd < 0)
		return fd;
	connection->reply_fd = fd;
	return 0;
}

int vhost_user_set_inflight_fd(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct inflight_area *area;
	int error = check_counts(connection, message);

	if (error)
		return error;
	error = inflight_area_map(message->fds[0], &message->payload.inflight, packed(connection), &area);
	if (error)
		return vhost_user_refuse(connection, error, "in-flight area whose counts, sizes and file do not agree");
	/* All queues are stopped, so no region of the old one is open. */
	inflight_area_unmap(connection->inflight);
	connection->inflight = area;
	return 0;
}
