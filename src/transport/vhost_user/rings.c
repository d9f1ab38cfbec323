/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rings: what the front-end tells about each, and when a queue runs.
 *
 * Theory of operation
 * -------------------
 * Front-ends send the messages of a ring in different orders (virtio-user sets the interrupt's fd first and enables
 * queues before they are known; QEMU enables before SET_FEATURES; memory may come before or after the addresses). So
 * each handler only notes what it was told, and after each message that may have changed something
 * vhost_user_rings_start() starts the queues for which everything has come together: kick, enable, size, addresses,
 * features, and memory that contains them. Ring addresses are translated anew at each start, so they are never stale. A
 * ring whose addresses are in no region waits: front-ends with memory slots remove and add regions one by one.
 *
 * A queue that its guest broke does not start again by itself when an unrelated message stopped it for a moment: only
 * when the front-end starts it anew.
 *
 * "Started" should, by the letter, wait for the first kick; like other back-ends we start when the kick's fd is
 * known, which differs only in that an empty ring is polled.
 *
 * Interrupts: call_fd is one file descriptor number for the life of the connection, known to the sidecore.
 * SET_VRING_CALL replaces the file behind it with dup3(), which is atomic for a concurrent signal: each interrupt goes
 * to the old file or to the new one. One that went to the old file just before may be seen by nobody, so the new file
 * is signalled once; a spurious interrupt is harmless (virtio 1.3 2.7.10). Where the front-end wants none, an eventfd
 * of our own takes them. A queue that starts signals once, too: whoever served the ring before may have ended between
 * used entries and their interrupt, or the front-end closed its file in between, and a driver that waits for that
 * interrupt gets no other (its used_event stays behind).
 *
 * Context: control thread. Trust boundary: transport/vhost_user/connection.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "base/log.h"
#include "base/notifier.h"
#include "transport/vhost_user/connection.h"
#include "transport/vhost_user/handlers.h"

#define HALF 16U

static bool acked(const struct vhost_user_connection *connection, unsigned feature)
{
	return connection->features >> feature & 1;
}

static void replace_fd(int *place, int fd)
{
	if (*place >= 0)
		close(*place);
	*place = fd;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void vhost_user_rings_init(struct vhost_user_connection *connection)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		connection->vrings[i] = (struct vhost_user_vring){ .kick_fd = -1, .call_fd = -1, .err_fd = -1 };
}

void vhost_user_rings_release(struct vhost_user_connection *connection)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		replace_fd(&connection->vrings[i].kick_fd, -1);
		replace_fd(&connection->vrings[i].call_fd, -1);
		replace_fd(&connection->vrings[i].err_fd, -1);
	}
}

static void stop_ring(struct vhost_user_vring *vring)
{
	vring->started = false;
	vring->broken = false;
	replace_fd(&vring->kick_fd, -1);
}

void vhost_user_rings_reset(struct vhost_user_connection *connection)
{
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		struct vhost_user_vring *vring = &connection->vrings[i];

		stop_ring(vring);
		vring->size = 0;
		vring->base = 0;
		vring->address_known = false;
	}
}

void vhost_user_ring_stopped(struct vhost_user_connection *connection, struct virtio_queue *queue, uint32_t base)
{
	struct vhost_user_vring *vring = &connection->vrings[queue->index];

	vring->base = vring->stopped_at = base;
	vring->broken = queue->ring.broken != VIRTQUEUE_INTACT;
	virtqueue_inflight_close(vring->inflight);
	vring->inflight = NULL;
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static bool complete(const struct vhost_user_connection *connection, const struct vhost_user_vring *vring)
{
	return vring->started && vring->enabled && !vring->broken && vring->size && vring->address_known &&
	       connection->features_known && connection->memory->region_count;
}

/* Translate the ring's parts. Return: false when not all of them are in guest memory. */
static bool locate(const struct vhost_user_connection *connection, const struct vhost_user_vring *vring,
		   struct virtqueue_config *config)
{
	const struct vhost_user_vring_address *address = &vring->address;
	uint64_t size = vring->size, event = config->event_index ? 2 : 0;
	uint64_t driver = config->packed ? 4 : 4 + 2 * size + event;
	uint64_t device = config->packed ? 4 : 4 + 8 * size + event;

	config->descriptors = guest_memory_user_range(connection->memory, address->descriptor, 16 * size);
	config->driver_area = guest_memory_user_range(connection->memory, address->available, driver);
	config->device_area = guest_memory_user_range(connection->memory, address->used, device);
	return config->descriptors && config->driver_area && config->device_area;
}

/*
 * Addresses that are aligned for the front-end need not be so for us: a region may begin anywhere in its file.
 * virtqueue_start() asks for the same, but the rings are looked at before it.
 */
static bool aligned(const struct virtqueue_config *config)
{
	return !((uintptr_t)config->descriptors % 16 || (uintptr_t)config->driver_area % 2 ||
		 (uintptr_t)config->device_area % 4);
}

static void set_bases(const struct vhost_user_vring *vring, struct virtqueue_config *config)
{
	config->avail_base = (uint16_t)vring->base;
	if (!config->packed) {
		/* "The device is supposed to read the next index in the Used Ring from [...] guest memory." */
		config->used_base = guest_load16(config->device_area + 2);
		return;
	}
	/*
	 * DPDK's virtio-user leaves the upper half empty, which would mean position 0 with a wrap counter of 0. Nothing
	 * is outstanding when a ring is started, so both halves are the same.
	 */
	config->used_base = vring->base >> HALF ? (uint16_t)(vring->base >> HALF) : config->avail_base;
}

/*
 * A front-end whose back-end died cannot tell where a packed ring stood, and QEMU then says what it said last: that it is
 * new, or where it was when the guest was paused long ago. For cards the ring itself tells; of a new one it says the same.
 */
static void find_lost_base(const struct vhost_user_connection *connection, struct virtqueue_config *config)
{
	if (!config->packed || !config->indirect || config->in_order || connection->inflight ||
	    connection->device->ops->device_id != VIRTIO_ID_NET || config->avail_base != config->used_base)
		return;
	if (config->avail_base == VIRTQUEUE_PACKED_BASE_NEW ||
	    packed_base_is_stale(config->descriptors, config->size, config->avail_base))
		config->avail_base = config->used_base = packed_resume(config->descriptors, config->size);
}

static int open_inflight(struct vhost_user_connection *connection, struct vhost_user_vring *vring, uint16_t index,
			 struct virtqueue_config *config)
{
	const struct inflight_ring ring = {
		.descriptors = config->descriptors,
		.size = config->size,
		.used_index = config->used_base,
		.packed = config->packed,
	};
	int error;

	if (!connection->inflight)
		return 0;
	error = virtqueue_inflight_open(connection->inflight, index, &ring, &config->avail_base, &config->used_base,
					&vring->inflight);
	if (error)
		return vhost_user_refuse(connection, error, "in-flight area that does not fit the ring, or is corrupt");
	config->inflight = vring->inflight;
	return 0;
}

static int ensure_call_fd(struct vhost_user_vring *vring)
{
	if (vring->call_fd < 0)
		vring->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return vring->call_fd < 0 ? -errno : 0;
}

static int start_ring(struct vhost_user_connection *connection, uint16_t index)
{
	struct vhost_user_vring *vring = &connection->vrings[index];
	bool logging = connection->features & VHOST_USER_LOG_ALL;
	struct virtqueue_config config = {
		.memory = connection->memory,
		.log = logging ? connection->log : NULL,
		.log_used = vring->address.flags & VHOST_USER_VRING_ADDRESS_LOG,
		.size = vring->size,
		.packed = acked(connection, VIRTIO_F_RING_PACKED),
		.indirect = acked(connection, VIRTIO_RING_F_INDIRECT_DESC),
		.event_index = acked(connection, VIRTIO_RING_F_EVENT_IDX),
		.in_order = acked(connection, VIRTIO_F_IN_ORDER),
	};
	int error;

	if (!locate(connection, vring, &config))
		return vhost_user_refuse(connection, -EFAULT, "ring addresses outside of guest memory");
	if (!aligned(&config))
		return vhost_user_refuse(connection, -EINVAL, "ring of an impossible size, alignment or base");
	set_bases(vring, &config);
	find_lost_base(connection, &config);
	error = ensure_call_fd(vring);
	if (error)
		return error;
	config.call_fd = vring->call_fd;
	error = open_inflight(connection, vring, index, &config);
	if (error)
		return error;
	error = virtio_queue_start(&connection->device->queues[index], &config, vring->kick_fd);
	if (!error) {
		notifier_signal(engine_notifier(connection->device->engine), vring->call_fd);
		return 0;
	}
	virtqueue_inflight_close(vring->inflight);
	vring->inflight = NULL;
	if (error == -EINVAL)
		return vhost_user_refuse(connection, error, "ring of an impossible size, alignment or base");
	return error;
}

int vhost_user_rings_start(struct vhost_user_connection *connection, int named)
{
	struct virtio_device *device = connection->device;
	const char *reason = connection->reason;
	int result = 0, error;

	for (uint16_t i = 0; i < device->queue_count; i++) {
		if (device->queues[i].state != VIRTIO_QUEUE_STOPPED || !complete(connection, &connection->vrings[i]))
			continue;
		connection->reason = NULL;
		error = start_ring(connection, i);
		if (!error)
			continue;
		if (i == named) {
			result = error;
			reason = connection->reason;
			continue;
		}
		log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: queue %u waits: %s", device->name, i,
			    connection->reason ? connection->reason : strerrordesc_np(-error));
	}
	connection->reason = reason;
	return result;
}

/* ---- messages; the queue that each names exists (connection.c) and is stopped ---------------------------------- */

static struct vhost_user_vring *state_vring(struct vhost_user_connection *connection,
					    const struct vhost_user_message *message)
{
	return &connection->vrings[message->payload.state.index];
}

int vhost_user_set_vring_num(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	uint32_t size = message->payload.state.num;

	if (!size || size > connection->device->queue_size_max)
		return vhost_user_refuse(connection, -EINVAL, "queue size is zero or above the device's maximum");
	if (connection->features_known && !acked(connection, VIRTIO_F_RING_PACKED) && size & (size - 1))
		return vhost_user_refuse(connection, -EINVAL, "queue size of a split ring is not a power of two");
	state_vring(connection, message)->size = (uint16_t)size;
	return 0;
}

int vhost_user_set_vring_addr(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	const struct vhost_user_vring_address *address = &message->payload.address;
	struct vhost_user_vring *vring = &connection->vrings[address->index];

	if (address->flags & ~VHOST_USER_VRING_ADDRESS_LOG)
		return vhost_user_refuse(connection, -EINVAL, "flags that a ring's addresses do not have");
	if (address->descriptor % 16 || address->available % 2 || address->used % 4)
		return vhost_user_refuse(connection, -EINVAL, "ring addresses are not aligned");
	vring->address = *address;
	vring->address_known = true;
	return 0;
}

int vhost_user_set_vring_base(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct vhost_user_vring *vring = state_vring(connection, message);

	if (connection->features_known && !acked(connection, VIRTIO_F_RING_PACKED) &&
	    message->payload.state.num > UINT16_MAX)
		return vhost_user_refuse(connection, -EINVAL, "base of a split ring has 16 bits");
	vring->base = vring->stopped_at = message->payload.state.num;
	vring->broken = false;
	return 0;
}

int vhost_user_get_vring_base(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct vhost_user_vring *vring = state_vring(connection, message);

	message->payload.state.num = vring->stopped_at;
	message->header.size = sizeof(message->payload.state);
	stop_ring(vring);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		if (connection->vrings[i].started)
			return 0;
	}
	/* Before the reply: the front-end of the other end of a migration may start its rings upon it. */
	if (connection->device->ops->rested)
		connection->device->ops->rested(connection->device);
	return 0;
}

int vhost_user_set_vring_enable(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	if (message->payload.state.num > 1)
		return vhost_user_refuse(connection, -EINVAL, "neither enabled nor disabled");
	state_vring(connection, message)->enabled = message->payload.state.num;
	return 0;
}

/* An fd that SET_VRING_KICK, _CALL or _ERR brought, taken from the message; -1 where it says that there is none. */
static int take_vring_fd(struct vhost_user_connection *connection, struct vhost_user_message *message, int *fd)
{
	uint64_t payload = message->payload.u64;
	bool none = payload & VHOST_USER_VRING_NO_FD;

	if (payload & ~(VHOST_USER_VRING_INDEX_MASK | VHOST_USER_VRING_NO_FD))
		return vhost_user_refuse(connection, -EINVAL, "bits beside index and \"no fd\"");
	if ((payload & VHOST_USER_VRING_INDEX_MASK) >= connection->device->queue_count)
		return vhost_user_refuse(connection, -EINVAL, "there is no queue of this index");
	if (message->fd_count != (none ? 0 : 1))
		return vhost_user_refuse(connection, -EINVAL, "\"no fd\" flag and file descriptors disagree");
	*fd = none ? -1 : message->fds[0];
	return 0;
}

/* The same as take_vring_fd(), for what must be an eventfd: what is signalled and waited for by sidecores. */
static int take_eventfd(struct vhost_user_connection *connection, struct vhost_user_message *message, int *fd)
{
	int error = take_vring_fd(connection, message, fd);

	if (!error && *fd >= 0 && !file_is_eventfd(*fd))
		return vhost_user_refuse(connection, -EINVAL, "not an eventfd");
	return error;
}

int vhost_user_set_vring_kick(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct vhost_user_vring *vring;
	int fd, error = take_eventfd(connection, message, &fd);

	if (error)
		return error;
	vring = &connection->vrings[message->payload.u64 & VHOST_USER_VRING_INDEX_MASK];
	replace_fd(&vring->kick_fd, fd);
	message->fd_count = 0; /* kept */
	vring->started = true;
	vring->broken = false;
	return 0;
}

int vhost_user_set_vring_call(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct vhost_user_vring *vring;
	struct virtio_queue *queue;
	int fd, own = -1, error = take_eventfd(connection, message, &fd);

	if (error)
		return error;
	vring = &connection->vrings[message->payload.u64 & VHOST_USER_VRING_INDEX_MASK];
	queue = &connection->device->queues[message->payload.u64 & VHOST_USER_VRING_INDEX_MASK];
	error = ensure_call_fd(vring);
	if (error)
		return error;
	if (fd < 0) {
		fd = own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (own < 0)
			return -errno;
	}
	if (dup3(fd, vring->call_fd, O_CLOEXEC) < 0)
		error = -errno;
	/* The interrupt that may have gone to the old file. */
	else if (queue->state == VIRTIO_QUEUE_RUNNING)
		notifier_signal(engine_notifier(connection->device->engine), vring->call_fd);
	if (own >= 0)
		close(own);
	return error;
}

int vhost_user_set_vring_err(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	int fd, error = take_eventfd(connection, message, &fd);

	if (error)
		return error;
	replace_fd(&connection->vrings[message->payload.u64 & VHOST_USER_VRING_INDEX_MASK].err_fd, fd);
	message->fd_count = 0; /* kept */
	return 0;
}
