/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tap uplink: an interface of the host's kernel.
 *
 * Theory of operation
 * -------------------
 * Each queue of the tap is a file descriptor, polled by one sidecore. Frames cross in both directions with their
 * offload state in front (IFF_VNET_HDR), so that a TCP segment of 64 KiB goes from a guest to the host's stack in one
 * piece.
 *
 * In: frames are read one by one (a tap has no call for several) into an arena of the queue's own, close to each other,
 * up to a batch, and forwarded. What the network does not take stays in the arena; nothing is read until it is gone, so
 * the kernel's queue fills and the kernel drops, which it counts.
 *
 * Out: frames are written by the sender's sidecore straight from guest memory, one call each, which cannot block. The
 * queue is chosen by the flow; the kernel notes it and sends the answers to the same queue.
 *
 * Context: a queue's poll on its sidecore; transmit on any sidecore under the port's claim; they share no data but the
 * descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/tap_header.h"
#include "net/uplink_internal.h"

/* linux/if_tun.h of 6.2 and later. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define HEADER_LENGTH ((uint32_t)sizeof(struct virtio_net_hdr))
#define READ_MAX      (HEADER_LENGTH + FRAME_LENGTH_MAX + 1) /* one more than is allowed: a longer frame shows */
#define ARENA_SIZE    (8U * READ_MAX)

struct tap;

struct tap_queue {
	struct poller poller;
	struct tap *tap;
	int fd;
	uint64_t next_look; /* clock; see UPLINK_LOOK_INTERVAL_NS */
	struct uplink_batch batch;
	uint8_t *arena; /* ARENA_SIZE bytes: what the batch's frames are in */
};

struct tap {
	struct uplink uplink;
	uint8_t *bounce; /* FRAME_LENGTH_MAX bytes, under the claim: for frames of too many segments */
	unsigned queue_count;
	struct tap_queue queues[];
};

/* --- into the network --- */

/* Fill the empty batch. Return: frames read, those that were dropped included; 0: there was nothing. */
static unsigned tap_fill(struct tap_queue *queue, unsigned count, uint32_t room, const struct turn *turn)
{
	struct port *port = &queue->tap->uplink.port;
	uint32_t used = 0;
	unsigned got;

	for (got = 0; got < count && used <= ARENA_SIZE - READ_MAX && used < room; got++) {
		uint8_t *at = queue->arena + used;
		struct frame_offload offload;
		struct virtio_net_hdr header;
		ssize_t length = read(queue->fd, at, READ_MAX);

		if (length < 0) {
			/* EBADFD: the interface is gone. Nothing comes any more, in either case. */
			queue->next_look = turn->now + UPLINK_LOOK_INTERVAL_NS;
			break;
		}
		if (length <= (ssize_t)HEADER_LENGTH) {
			port_drop(port, turn, PORT_DROP_RUNT, 1);
			continue;
		}
		length -= (ssize_t)HEADER_LENGTH;
		memcpy(&header, at, sizeof(header));
		if (length > (ssize_t)FRAME_LENGTH_MAX)
			port_drop(port, turn, PORT_DROP_OVERSIZE, 1);
		else if (!tap_header_parse(&header, (uint32_t)length, &offload))
			port_drop(port, turn, PORT_DROP_BAD_OFFLOAD, 1);
		else
			uplink_batch_add(&queue->batch, at + HEADER_LENGTH, (uint32_t)length, &offload);
		used += HEADER_LENGTH + (uint32_t)length;
	}
	return got;
}

static uint32_t batch_bytes(const struct uplink_batch *batch)
{
	uint32_t bytes = 0;

	for (unsigned i = batch->first; i < batch->count; i++)
		bytes += batch->frames[i].length;
	return bytes;
}

static unsigned tap_poll(struct poller *poller, const struct turn *turn)
{
	struct tap_queue *queue = container_of(poller, struct tap_queue, poller);
	unsigned work = 0, got = 0;
	uint32_t bytes = 0;

	poller->pending = false;
	do {
		if (uplink_batch_empty(&queue->batch)) {
			if (turn->now < queue->next_look)
				break;
			got = tap_fill(queue, min(NETWORK_BATCH, turn->requests - work), turn->bytes - bytes, turn);
			if (!got)
				break;
			work += got - queue->batch.count; /* those that were dropped */
		}
		bytes += batch_bytes(&queue->batch);
		if (!uplink_batch_empty(&queue->batch))
			work += uplink_batch_forward(&queue->batch, &queue->tap->uplink.port, turn);
		if (!uplink_batch_empty(&queue->batch)) {
			poller->pending = true; /* a receiver is full */
			break;
		}
	} while (work < turn->requests && bytes < turn->bytes);
	return work;
}

/* The kernel always tells; but the next look must really be one. */
static bool tap_arm(struct poller *poller)
{
	container_of(poller, struct tap_queue, poller)->next_look = 0;
	return false;
}

static const struct poller_ops tap_poller_ops = { .kind = "tap", .poll = tap_poll, .arm = tap_arm };

/* --- out of the network --- */

static ssize_t tap_write(struct tap *tap, int fd, const struct frame *frame)
{
	struct virtio_net_hdr header;
	struct iovec pieces[IOV_MAX];
	int count = 2;

	tap_header_build(frame, &header);
	pieces[0] = (struct iovec){ &header, sizeof(header) };
	if (frame->segment_count > array_size(pieces) - 2) {
		struct guest_segment whole = { guest_bytes_of(tap->bounce), FRAME_LENGTH_MAX };

		frame_copy_out(frame, &whole, 0);
		pieces[1] = (struct iovec){ tap->bounce, frame->length };
		return writev(fd, pieces, count);
	}
	pieces[1] = (struct iovec){ (void *)(uintptr_t)frame->header, frame->header_length };
	for (unsigned i = 0; i < frame->segment_count; i++)
		pieces[count++] = (struct iovec){ frame->segments[i].base, frame->segments[i].length };
	return writev(fd, pieces, count);
}

static unsigned tap_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct tap *tap = container_of(port, struct tap, uplink.port);
	uint64_t bytes = 0;
	unsigned done, sent = 0;

	for (done = 0; done < count; done++) {
		const struct frame *frame = &frames[done];
		unsigned queue = tap->queue_count > 1 ? frame_flow_hash(frame) % tap->queue_count : 0;

		if (frame->length > FRAME_LENGTH_MAX) {
			port_drop(port, turn, PORT_DROP_OVERSIZE, 1);
			continue;
		}
		if (tap_write(tap, tap->queues[queue].fd, frame) >= 0) {
			sent++;
			bytes += frame->length;
			continue;
		}
		if (errno == EAGAIN)
			break;
		/* EINVAL: the offload fields are not what the headers say. Else: interface down (EIO), gone, no memory.
		 */
		port_drop(port, turn, errno == EINVAL ? PORT_DROP_BAD_OFFLOAD : PORT_DROP_UPLINK_ERROR, 1);
	}
	uplink_count_out(port, turn, sent, bytes);
	return done;
}

/* Each write was seen by the kernel at once. */
static void tap_flush(struct port *port, const struct turn *turn)
{
}

static const struct port_ops tap_port_ops = {
	.kind = "tap",
	.transmit = tap_transmit,
	.flush = tap_flush,
};

/* --- open and close --- */

static const char *open_error(int code, bool existed)
{
	switch (code) {
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return "/dev/net/tun: the kernel has no taps; load the module (modprobe tun)";
	case -EACCES:
	case -EPERM:
		return existed ? "this tap is not ours: it needs CAP_NET_ADMIN, or must be made for our user (ip "
				 "tuntap "
				 "add dev NAME mode tap user USER vnet_hdr)"
			       : "there is no such interface, and to make a tap needs CAP_NET_ADMIN; or make one for "
				 "our "
				 "user (ip tuntap add dev NAME mode tap user USER vnet_hdr)";
	case -EBUSY:
		return "this tap is in use by another program, or has fewer queues (multi_queue) than are wanted";
	case -EINVAL:
		return existed ? "this interface is not a tap, or is with multi_queue and one queue is wanted, or the "
				 "reverse; make it anew (ip tuntap add dev NAME mode tap vnet_hdr [multi_queue])"
			       : "this is not a name for an interface";
	default:
		return strerrordesc_np(-code);
	}
}

static int tap_open_queue(struct tap_queue *queue, const char *name, bool multi_queue)
{
	struct ifreq request = { .ifr_flags =
					 IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (multi_queue ? IFF_MULTI_QUEUE : 0) };
	int header_length = (int)HEADER_LENGTH;

	queue->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (queue->fd < 0)
		return -errno;
	strcpy(request.ifr_name, name); /* tap_open() has checked the length */
	if (ioctl(queue->fd, TUNSETIFF, &request) || ioctl(queue->fd, TUNSETVNETHDRSZ, &header_length))
		return -errno;
	queue->arena = malloc(ARENA_SIZE);
	return queue->arena ? 0 : -ENOMEM;
}

/* What the kernel may hand to us: all there is, the network finishes it for who cannot take it. A property of the
 * device. */
static void tap_set_offloads(struct tap *tap)
{
	const unsigned basic = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, uso = TUN_F_USO4 | TUN_F_USO6;
	struct port_abilities *abilities = &tap->uplink.port.abilities;
	bool all = !ioctl(tap->queues[0].fd, TUNSETOFFLOAD, basic | uso); /* Linux 6.2 */

	if (!all && ioctl(tap->queues[0].fd, TUNSETOFFLOAD, basic))
		ioctl(tap->queues[0].fd, TUNSETOFFLOAD, 0);
	/* What we hand to the kernel is another matter: it has always taken these. */
	*abilities = (struct port_abilities){
		.checksum = true,
		.tso4 = true,
		.tso6 = true,
		.ecn = true,
		.ufo = true,
		.uso4 = all,
		.uso6 = all,
	};
}

/* An interface that nobody knew before us nobody else could have brought up. */
static int tap_bring_up(const char *name)
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), code = 0;

	if (fd < 0)
		return -errno;
	strcpy(request.ifr_name, name);
	if (ioctl(fd, SIOCGIFFLAGS, &request))
		code = -errno;
	request.ifr_flags |= IFF_UP;
	if (!code && ioctl(fd, SIOCSIFFLAGS, &request))
		code = -errno;
	close(fd);
	return code;
}

static void tap_close(struct uplink *uplink)
{
	struct tap *tap = container_of(uplink, struct tap, uplink);

	for (unsigned i = 0; i < tap->queue_count; i++) {
		if (tap->queues[i].fd >= 0)
			close(tap->queues[i].fd);
		free(tap->queues[i].arena);
	}
	free(tap->bounce);
}

static int tap_open(const struct uplink_config *config, struct engine *engine, struct uplink **result,
		    const char **error)
{
	unsigned queues = config->queues ? config->queues : 1;
	bool existed;
	struct tap *tap;
	int code = 0;

	if (!config->interface || !*config->interface || strlen(config->interface) >= IFNAMSIZ ||
	    strchr(config->interface, '%')) {
		*error = "a tap needs the name of an interface: 1 to 15 characters, without %";
		return -EINVAL;
	}
	if (queues > UPLINK_POLLERS_MAX) {
		*error = "a tap can have at most 16 queues";
		return -EINVAL;
	}
	tap = uplink_allocate(sizeof(*tap) + queues * sizeof(tap->queues[0]));
	if (!tap)
		return -ENOMEM;
	tap->queue_count = queues;
	for (unsigned i = 0; i < queues; i++)
		tap->queues[i].fd = -1;
	existed = if_nametoindex(config->interface);

	tap->bounce = malloc(FRAME_LENGTH_MAX);
	if (!tap->bounce)
		code = -ENOMEM;
	for (unsigned i = 0; i < queues && !code; i++) {
		struct tap_queue *queue = &tap->queues[i];

		code = tap_open_queue(queue, config->interface, queues > 1);
		queue->tap = tap;
		queue->poller = (struct poller){ .ops = &tap_poller_ops, .wake_fd = queue->fd };
		tap->uplink.pollers[i] = &queue->poller;
	}
	if (!code && !existed)
		code = tap_bring_up(config->interface);
	if (code) {
		*error = open_error(code, existed);
		tap_close(&tap->uplink);
		free(tap);
		return code;
	}
	tap_set_offloads(tap);
	tap->uplink.poller_count = queues;
	tap->uplink.port.ops = &tap_port_ops;
	*result = &tap->uplink;
	return 0;
}

static const char *tap_state(const struct uplink *uplink)
{
	const struct tap *tap = container_of(uplink, struct tap, uplink);
	struct pollfd pollfd = { .fd = tap->queues[0].fd };

	/* The kernel reports an error on a tap whose interface was deleted, and only then. */
	if (poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLERR)
		return "the interface is gone";
	return "open";
}

const struct uplink_type_ops uplink_tap_ops = {
	.kind = "tap",
	.open = tap_open,
	.close = tap_close,
	.state = tap_state,
};
