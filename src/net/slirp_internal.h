/* SPDX-License-Identifier: BSD-3-Clause */
/* What the slirp uplink (uplink_slirp.c) and the thread of its library (slirp_thread.c) share. */
#ifndef NET_SLIRP_INTERNAL_H
#define NET_SLIRP_INTERNAL_H

#include <libslirp.h>
#include <pthread.h>
#include <unistd.h>

#include "base/log.h"
#include "net/frame_ring.h"
#include "net/uplink_internal.h"

#define SLIRP_RING_SLOTS 1024U

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
	struct pollfd *fds; /* as many as it may poll; the first one is thread_fd */
	unsigned fd_count;
	struct log_limit log_limit;

	/* The control thread's. */
	pthread_t thread;
	bool running;
};

static inline void slirp_wake(int fd)
{
	static const uint64_t one = 1;
	ssize_t written = write(fd, &one, sizeof(one));

	(void)written; /* cannot fail: the counter never comes near its end */
}

/**
 * slirp_thread_start() - make libslirp's instance and its thread; the rings are there.
 * Return: 0; negative errno with a sentence in @error. slirp_thread_stop() is harmless after either.
 */
int slirp_thread_start(struct slirp *slirp, const struct uplink_config *config, struct engine *engine,
		       const char **error);
void slirp_thread_stop(struct slirp *slirp);

#endif
