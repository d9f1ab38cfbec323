/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The thread that runs libslirp for an uplink.
 *
 * Theory of operation
 * -------------------
 * In each round the thread waits for libslirp's sockets, frames in to_slirp, room in from_slirp, and libslirp's timers, and
 * then serves them all: sockets and frames when there is room for what comes of them, timers in any case. Frames that
 * libslirp sends are published some at a time, and at the end of the round.
 *
 * Context: libslirp is called by the thread only, and before and after its life by the control thread. libslirp keeps some
 * state in globals (the time, the name server), hence the lock around it: contended by the threads of several such uplinks
 * at most, never by a sidecore.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/slirp_config.h"
#include "net/slirp_internal.h"

#define ROOM_RESERVE  (SLIRP_RING_SLOTS / 4) /* with less room than that sockets are not read */
#define PUBLISH_EVERY 32U		     /* frames */
#define INPUT_BATCH   256U		     /* frames given to libslirp before its sockets have their turn */
#define POLL_MAX      4096U		     /* sockets that libslirp may have; more are left out of a round */

/** struct slirp_timer - one of libslirp's timers (router advertisements). */
struct slirp_timer {
	struct slirp_timer *next;
	SlirpTimerCb call;
	void *opaque;
	int64_t deadline_ms; /* INT64_MAX: not armed */
};

/* See "Context" above: guards libslirp's globals, which it shares between instances. */
static pthread_mutex_t libslirp_lock = PTHREAD_MUTEX_INITIALIZER;

/* --- libslirp's calls to us --- */

static void slirp_publish(struct slirp *slirp)
{
	if (frame_ring_publish(&slirp->from_slirp))
		slirp_wake(slirp->poller.wake_fd);
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

/* --- start and stop --- */

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

int slirp_thread_start(struct slirp *slirp, const struct uplink_config *config, struct engine *engine,
		       const char **error)
{
	SlirpConfig library_config;
	int code = slirp_config_make(config, &library_config, error);

	if (code)
		return code;
	*error = "out of memory";
	slirp->fds = calloc(POLL_MAX, sizeof(slirp->fds[0]));
	if (!slirp->fds)
		return -ENOMEM;
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

void slirp_thread_stop(struct slirp *slirp)
{
	if (slirp->running) {
		atomic_store_explicit(&slirp->stop, true, memory_order_release);
		slirp_wake(slirp->thread_fd);
		pthread_join(slirp->thread, NULL);
	}
	if (slirp->library) {
		pthread_mutex_lock(&libslirp_lock);
		slirp_cleanup(slirp->library);
		pthread_mutex_unlock(&libslirp_lock);
	}
	free(slirp->fds);
}
