/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The slirp uplink: user-mode NAT by libslirp; no privileges needed. The host's loopback is the gateway's address
 * (10.0.2.2), DHCP and DNS are there.
 *
 * Theory of operation
 * -------------------
 * libslirp makes system calls for all it does, some of which may block (DNS, a full disk of log lines), so it has a
 * thread of its own, kept off the sidecores' CPUs. Frames cross between it and the network in two frame rings
 *(net/frame_ring.h):
 *
 *	to_slirp	transmit, on any sidecore under the port's claim, fills; the thread empties
 *	from_slirp	the thread fills; the poller, on the owning sidecore, empties: frames are forwarded from the
 * slots themselves and released when the network has taken them
 *
 * Each side wakes the other through an eventfd, only when it waits. When to_slirp is full, the port is full: senders
 * wait. When from_slirp is nearly full, the thread reads from no socket until half of it is free, so that TCP's own flow
 * control reaches the far end; what must be sent all the same and finds no room is dropped and counted.
 *
 * Context: struct slirp's members say whose they are. libslirp is called by the thread only, and before and after its
 * life by the control thread. libslirp keeps some state in globals (the time, the name server), hence the lock around
 * it: contended by the threads of several such uplinks at most, never by a sidecore.
 */
#include <errno.h>
#include <libslirp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/frame_ring.h"
#include "net/slirp_config.h"
#include "net/uplink_internal.h"

#define RING_SLOTS    1024U
#define ROOM_RESERVE  (RING_SLOTS / 4) /* with less room than that sockets are not read */
#define PUBLISH_EVERY 32U	       /* frames */
#define INPUT_BATCH   256U	       /* frames given to libslirp before its sockets have their turn */
#define POLL_MAX      4096U	       /* sockets that libslirp may have; more are left out of a round */

/** struct slirp_timer - one of libslirp's timers (router advertisements). */
struct slirp_timer {
	struct slirp_timer *next;
	SlirpTimerCb call;
	void *opaque;
	int64_t deadline_ms; /* INT64_MAX: not armed */
};

struct slirp {
	struct uplink uplink;
	struct poller poller; /* wake_fd: written by the thread */

	struct frame_ring to_slirp, from_slirp;
	atomic_uint lost; /* frames of libslirp that found no room; counted by the thread, taken by the poller */
	atomic_bool stop; /* for the thread */
	int thread_fd;	  /* eventfd: wakes the thread */

	/* The sidecore's. */
	struct uplink_batch batch;

	/* The thread's. */
	Slirp *library;
	struct slirp_timer *timers;
	struct pollfd *fds; /* POLL_MAX; the first one is thread_fd */
	unsigned fd_count;
	struct log_limit log_limit;

	/* The control thread's. */
	pthread_t thread;
	bool running;
};

/* See "Context" above: guards libslirp's globals, which it shares between instances. */
static pthread_mutex_t libslirp_lock = PTHREAD_MUTEX_INITIALIZER;

static void wake(int fd)
{
	static const uint64_t one = 1;
	ssize_t written = write(fd, &one, sizeof(one));

	(void)written; /* cannot fail: the counter never comes near its end */
}

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
		wake(slirp->thread_fd);
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
		wake(slirp->thread_fd);
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

/* --- the thread: libslirp's calls to us --- */

static void slirp_publish(struct slirp *slirp)
{
	if (frame_ring_publish(&slirp->from_slirp))
		wake(slirp->poller.wake_fd);
}

static ssize_t call_send_packet(const void *bytes, size_t length, void *opaque)
{
	struct slirp *slirp = opaque;
	void *slot = length && length <= FRAME_RING_FRAME_MAX ? frame_ring_reserve(&slirp->from_slirp) : NULL;

	if (!slot) {
		atomic_fetch_add_explicit(&slirp->lost, 1, memory_order_relaxed);
		return (ssize_t)length; /* TCP sends it again */
	}
	memcpy(slot, bytes, length);
	frame_ring_commit(&slirp->from_slirp, (uint32_t)length);
	if (frame_ring_unpublished(&slirp->from_slirp) >= PUBLISH_EVERY)
		slirp_publish(slirp);
	return (ssize_t)length;
}

static void call_guest_error(const char *message, void *opaque)
{
	struct slirp *slirp = opaque;

	log_limited(&slirp->log_limit, LOG_LEVEL_WARNING, "network %s: slirp: %s", slirp->uplink.name, message);
}

static int64_t call_clock_get_ns(void *opaque)
{
	return (int64_t)clock_nanoseconds();
}

static int64_t clock_ms(void)
{
	return (int64_t)(clock_nanoseconds() / NANOSECONDS_PER_MILLISECOND);
}

static void *call_timer_new(SlirpTimerCb call, void *call_opaque, void *opaque)
{
	struct slirp *slirp = opaque;
	struct slirp_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		abort(); /* while the program starts; libslirp has no way to hear of it */
	timer->call = call;
	timer->opaque = call_opaque;
	timer->deadline_ms = INT64_MAX;
	timer->next = slirp->timers;
	slirp->timers = timer;
	return timer;
}

static void call_timer_free(void *timer, void *opaque)
{
	struct slirp *slirp = opaque;
	struct slirp_timer **link = &slirp->timers;

	while (*link && *link != timer)
		link = &(*link)->next;
	if (*link)
		*link = (*link)->next;
	free(timer);
}

static void call_timer_mod(void *timer, int64_t deadline_ms, void *opaque)
{
	((struct slirp_timer *)timer)->deadline_ms = deadline_ms;
}

/* Sockets are asked for anew each round; and libslirp runs on the thread that waits, so there is nobody to notify. */
static void call_nothing_fd(int fd, void *opaque)
{
}

static void call_nothing(void *opaque)
{
}

static const SlirpCb calls = {
	.send_packet = call_send_packet,
	.guest_error = call_guest_error,
	.clock_get_ns = call_clock_get_ns,
	.timer_new = call_timer_new,
	.timer_free = call_timer_free,
	.timer_mod = call_timer_mod,
	.register_poll_fd = call_nothing_fd,
	.unregister_poll_fd = call_nothing_fd,
	.notify = call_nothing,
};

static const struct {
	int slirp;
	short poll;
} poll_events[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static int call_add_poll(int fd, int events, void *opaque)
{
	struct slirp *slirp = opaque;
	struct pollfd *pollfd = &slirp->fds[slirp->fd_count];

	if (slirp->fd_count == POLL_MAX)
		return -1;
	*pollfd = (struct pollfd){ .fd = fd };
	for (unsigned i = 0; i < array_size(poll_events); i++) {
		if (events & poll_events[i].slirp)
			pollfd->events |= poll_events[i].poll;
	}
	return (int)slirp->fd_count++;
}

static int call_get_revents(int index, void *opaque)
{
	struct slirp *slirp = opaque;
	int events = 0;

	if (index < 0)
		return 0;
	for (unsigned i = 0; i < array_size(poll_events); i++) {
		if (slirp->fds[index].revents & poll_events[i].poll)
			events |= poll_events[i].slirp;
	}
	return events;
}

/* --- the thread --- */

static void run_slirp_timers(struct slirp *slirp)
{
	struct slirp_timer *next;

	for (struct slirp_timer *timer = slirp->timers; timer; timer = next) {
		next = timer->next;
		if (timer->deadline_ms > clock_ms())
			continue;
		timer->deadline_ms = INT64_MAX;
		timer->call(timer->opaque);
	}
}

static int next_timeout(const struct slirp *slirp, uint32_t limit_ms)
{
	int64_t timeout = min((int64_t)limit_ms, (int64_t)INT32_MAX), now = clock_ms();

	for (const struct slirp_timer *timer = slirp->timers; timer; timer = timer->next) {
		if (timer->deadline_ms != INT64_MAX)
			timeout = min(timeout, max(timer->deadline_ms - now, (int64_t)0));
	}
	return limit_ms == UINT32_MAX && timeout == INT32_MAX ? -1 : (int)timeout;
}

/* Guest's frames to libslirp. */
static void run_slirp_input(struct slirp *slirp)
{
	uint32_t count = min(frame_ring_available(&slirp->to_slirp), INPUT_BATCH);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t length;
		const void *bytes = frame_ring_peek(&slirp->to_slirp, i, &length);

		slirp_input(slirp->library, bytes, (int)length);
	}
	if (count)
		frame_ring_release(&slirp->to_slirp, count); /* nobody waits for room: a full port is polled */
}

/* One round: wait for sockets, frames, room or timers, and serve them. */
static void slirp_round(struct slirp *slirp)
{
	bool full = frame_ring_room(&slirp->from_slirp) < ROOM_RESERVE && !frame_ring_wait_for_room(&slirp->from_slirp);
	uint32_t limit_ms = UINT32_MAX;
	uint64_t count;
	int timeout, ready;

	slirp->fds[0] = (struct pollfd){ .fd = slirp->thread_fd, .events = POLLIN };
	slirp->fd_count = 1;
	if (!full) {
		pthread_mutex_lock(&libslirp_lock);
		slirp_pollfds_fill(slirp->library, &limit_ms, call_add_poll, slirp);
		pthread_mutex_unlock(&libslirp_lock);
	}
	timeout = next_timeout(slirp, limit_ms);
	if (!full && frame_ring_wait_for_frames(&slirp->to_slirp))
		timeout = 0;
	ready = poll(slirp->fds, slirp->fd_count, timeout);
	frame_ring_stop_waiting(&slirp->to_slirp);
	if (ready > 0 && slirp->fds[0].revents) {
		ssize_t got = read(slirp->thread_fd, &count, sizeof(count));

		(void)got; /* what it says is found in the rings */
	}

	pthread_mutex_lock(&libslirp_lock);
	if (!full) {
		slirp_pollfds_poll(slirp->library, ready < 0, call_get_revents, slirp);
		run_slirp_input(slirp);
	}
	run_slirp_timers(slirp);
	pthread_mutex_unlock(&libslirp_lock);
	if (frame_ring_unpublished(&slirp->from_slirp))
		slirp_publish(slirp);
}

static void *slirp_main(void *argument)
{
	struct slirp *slirp = argument;

	while (!atomic_load_explicit(&slirp->stop, memory_order_acquire))
		slirp_round(slirp);
	return NULL;
}

/* --- open and close --- */

/* CPUs that are not sidecores', if there are any: a sidecore does not like company. */
static void choose_cpus(struct engine *engine, cpu_set_t *cpus)
{
	cpu_set_t allowed;

	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		CPU_ZERO(&allowed);
	*cpus = allowed;
	for (unsigned i = 0; i < engine_sidecore_count(engine); i++)
		CPU_CLR(sidecore_cpu(engine_sidecore(engine, i)), cpus);
	if (!CPU_COUNT(cpus))
		*cpus = allowed;
}

static int start_thread(struct slirp *slirp, struct engine *engine)
{
	sigset_t blocked, before;
	cpu_set_t cpus;
	int error;

	choose_cpus(engine, &cpus);
	sigfillset(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	error = pthread_create(&slirp->thread, NULL, slirp_main, slirp);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return -error;
	slirp->running = true;
	pthread_setname_np(slirp->thread, "slirp");
	pthread_setaffinity_np(slirp->thread, sizeof(cpus), &cpus);
	return 0;
}

static void slirp_close(struct uplink *uplink)
{
	struct slirp *slirp = container_of(uplink, struct slirp, uplink);

	if (slirp->running) {
		atomic_store_explicit(&slirp->stop, true, memory_order_release);
		wake(slirp->thread_fd);
		pthread_join(slirp->thread, NULL);
	}
	if (slirp->library) {
		pthread_mutex_lock(&libslirp_lock);
		slirp_cleanup(slirp->library);
		pthread_mutex_unlock(&libslirp_lock);
	}
	if (slirp->thread_fd >= 0)
		close(slirp->thread_fd);
	if (slirp->poller.wake_fd >= 0)
		close(slirp->poller.wake_fd);
	frame_ring_fini(&slirp->to_slirp);
	frame_ring_fini(&slirp->from_slirp);
	free(slirp->fds);
}

static int add_forwards(struct slirp *slirp, const struct uplink_config *config, const char **error)
{
	for (const char *const *text = config->forwards; text && *text; text++) {
		struct slirp_forward forward;

		if (!slirp_forward_parse(*text, &forward)) /* slirp_config_make() has complained */
			return -EINVAL;
		if (slirp_add_hostfwd(slirp->library, forward.udp, forward.host, forward.host_port, forward.guest,
				      forward.guest_port)) {
			int code = errno ? -errno : -EADDRINUSE;

			*error = code == -EACCES
					 ? "a forward's port on the host is below 1024 and not ours to use; choose "
					   "a higher one"
					 : "a forward's port on the host is in use, or its address is not the "
					   "host's; choose another";
			return code;
		}
	}
	return 0;
}

static int slirp_open_resources(struct slirp *slirp, const struct uplink_config *config, struct engine *engine,
				const char **error)
{
	SlirpConfig library_config;
	int code = slirp_config_make(config, &library_config, error);

	if (code)
		return code;
	slirp->fds = calloc(POLL_MAX, sizeof(slirp->fds[0]));
	if (!slirp->fds || frame_ring_init(&slirp->to_slirp, RING_SLOTS) ||
	    frame_ring_init(&slirp->from_slirp, RING_SLOTS))
		return -ENOMEM;
	*error = "no file descriptors left for slirp; raise the limit (LimitNOFILE=)";
	slirp->thread_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	slirp->poller.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (slirp->thread_fd < 0 || slirp->poller.wake_fd < 0)
		return -errno;

	*error = "libslirp refuses its configuration";
	pthread_mutex_lock(&libslirp_lock);
	slirp->library = slirp_new(&library_config, &calls, slirp);
	code = slirp->library ? add_forwards(slirp, config, error) : -EINVAL;
	pthread_mutex_unlock(&libslirp_lock);
	if (code)
		return code;
	*error = "cannot start a thread for slirp";
	return start_thread(slirp, engine);
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
