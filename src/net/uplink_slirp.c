/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The slirp uplink: user-mode NAT by libslirp; no privileges needed. The host's loopback is the gateway's address
 * (10.0.2.2), DHCP and DNS are there.
 *
 * Theory of operation
 * -------------------
 * libslirp makes system calls for all it does, some of which may block (DNS, a full disk of log lines), so it has a
 * thread of its own, kept off the sidecores' CPUs. Frames cross between it and the network in two frame rings
 * (net/frame_ring.h):
 *
 *	to_slirp	transmit, on any sidecore under the port's claim, fills; the thread empties
 *	from_slirp	the thread fills; the poller, on the owning sidecore, empties: frames are forwarded from the
 *			slots themselves and released when the network has taken them
 *
 * Each side wakes the other through an eventfd, only when it waits. When to_slirp is full, the port is full: senders
 * wait. When from_slirp is nearly full, the thread reads from no socket until half of it is free, so that TCP's own flow
 * control reaches the far end; what must be sent all the same and finds no room is dropped and counted.
 *
 * Context: struct slirp's members say whose they are. The thread: net/slirp_thread.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "net/slirp_internal.h"

/* --- sidecores --- */

static unsigned slirp_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct slirp *slirp = container_of(port, struct slirp, uplink.port);
	unsigned done, sent = 0;
	uint64_t bytes = 0;

	for (done = 0; done < count; done++) {
		const struct frame *frame = &frames[done];
		struct guest_segment to = { .length = FRAME_RING_FRAME_MAX };
		void *slot;

		if (frame->length > FRAME_RING_FRAME_MAX) {
			port_drop(port, turn, PORT_DROP_OVERSIZE, 1);
			continue;
		}
		slot = frame_ring_reserve(&slirp->to_slirp);
		if (!slot)
			break;
		to.base = guest_bytes_of(slot);
		frame_copy_out(frame, &to, 0);
		frame_ring_commit(&slirp->to_slirp, frame->length);
		sent++;
		bytes += frame->length;
	}
	uplink_count_out(port, turn, sent, bytes);
	return done;
}

static void slirp_flush(struct port *port, const struct turn *turn)
{
	struct slirp *slirp = container_of(port, struct slirp, uplink.port);

	if (frame_ring_publish(&slirp->to_slirp))
		slirp_wake(slirp->thread_fd);
}

static const struct port_ops slirp_port_ops = {
	.kind = "slirp",
	.transmit = slirp_transmit,
	.flush = slirp_flush,
};

static void slirp_fill_batch(struct slirp *slirp, const struct turn *turn)
{
	uint32_t available = frame_ring_available(&slirp->from_slirp);
	uint32_t count = min(min(available, turn->requests), NETWORK_BATCH);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t length;
		const void *bytes = frame_ring_peek(&slirp->from_slirp, i, &length);

		uplink_batch_add(&slirp->batch, bytes, length, NULL);
	}
}

static unsigned slirp_poll(struct poller *poller, const struct turn *turn)
{
	struct slirp *slirp = container_of(poller, struct slirp, poller);
	struct port *port = &slirp->uplink.port;
	unsigned work;

	if (unlikely(atomic_load_explicit(&slirp->lost, memory_order_relaxed)))
		port_drop(port, turn, PORT_DROP_FULL, atomic_exchange_explicit(&slirp->lost, 0, memory_order_relaxed));

	poller->pending = false;
	if (uplink_batch_empty(&slirp->batch))
		slirp_fill_batch(slirp, turn);
	if (uplink_batch_empty(&slirp->batch))
		return 0;
	work = uplink_batch_forward(&slirp->batch, port, turn);
	if (work && frame_ring_release(&slirp->from_slirp, work))
		slirp_wake(slirp->thread_fd);
	poller->pending = !uplink_batch_empty(&slirp->batch);
	return work;
}

/* Frames that are held in the batch are still in the ring: with them there is always "work", and no sleep. */
static bool slirp_arm(struct poller *poller)
{
	return frame_ring_wait_for_frames(&container_of(poller, struct slirp, poller)->from_slirp);
}

static void slirp_disarm(struct poller *poller)
{
	frame_ring_stop_waiting(&container_of(poller, struct slirp, poller)->from_slirp);
}

static const struct poller_ops slirp_poller_ops = {
	.kind = "slirp",
	.poll = slirp_poll,
	.arm = slirp_arm,
	.disarm = slirp_disarm,
};

/* --- open and close --- */

static void slirp_close(struct uplink *uplink)
{
	struct slirp *slirp = container_of(uplink, struct slirp, uplink);

	slirp_thread_stop(slirp);
	if (slirp->thread_fd >= 0)
		close(slirp->thread_fd);
	if (slirp->poller.wake_fd >= 0)
		close(slirp->poller.wake_fd);
	frame_ring_fini(&slirp->to_slirp);
	frame_ring_fini(&slirp->from_slirp);
}

static int slirp_open_resources(struct slirp *slirp, const struct uplink_config *config, struct engine *engine,
				const char **error)
{
	if (frame_ring_init(&slirp->to_slirp, SLIRP_RING_SLOTS) ||
	    frame_ring_init(&slirp->from_slirp, SLIRP_RING_SLOTS))
		return -ENOMEM;
	*error = "no file descriptors left for slirp; raise the limit (LimitNOFILE=)";
	slirp->thread_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	slirp->poller.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (slirp->thread_fd < 0 || slirp->poller.wake_fd < 0)
		return -errno;

	return slirp_thread_start(slirp, config, engine, error);
}

static int slirp_open(const struct uplink_config *config, struct engine *engine, struct uplink **result,
		      const char **error)
{
	struct slirp *slirp = uplink_allocate(sizeof(*slirp));
	int code;

	if (!slirp)
		return -ENOMEM;
	slirp->thread_fd = -1;
	slirp->poller.ops = &slirp_poller_ops;
	slirp->poller.wake_fd = -1;
	slirp->uplink.pollers[0] = &slirp->poller;
	slirp->uplink.poller_count = 1;
	slirp->uplink.port.ops = &slirp_port_ops;
	code = slirp_open_resources(slirp, config, engine, error);
	if (code) {
		slirp_close(&slirp->uplink);
		free(slirp);
		return code;
	}
	*result = &slirp->uplink;
	return 0;
}

static const char *slirp_state(const struct uplink *uplink)
{
	return "running";
}

const struct uplink_type_ops uplink_slirp_ops = {
	.kind = "slirp",
	.open = slirp_open,
	.close = slirp_close,
	.state = slirp_state,
};
