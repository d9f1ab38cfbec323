/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What engine.c (control thread), sidecore.c (the loop) and sidecore_sleep.c share. Nobody outside of src/engine includes this.
 */
#ifndef ENGINE_SIDECORE_H
#define ENGINE_SIDECORE_H

#include <pthread.h>

#include "engine/engine.h"
#include "engine/mailbox.h"
#include "engine/scheduler.h"
#include "engine/timer_heap.h"

/** struct attachment - a poller's place on a sidecore; made by engine_attach(), freed when the detach has come back. */
struct attachment {
	struct engine *engine;
	struct sidecore *sidecore;
	struct poller *poller;

	/* sidecore's */
	struct sidecore_message attach, detach;
	struct engine_completion *attached; /* the caller's, may be NULL */
	struct attachment *next;	    /* in sidecore->attachments */
	struct attachment **link;	    /* what points to this one */

	/* control thread's */
	struct engine_completion detached;
	struct engine_completion *detach_done; /* the caller's, may be NULL */
	bool detaching;
	struct attachment *engine_next, **engine_link; /* in engine->attachments */
};

struct sidecore {
	/* Constant once the thread runs. */
	struct engine *engine;
	const struct scheduler_ops *scheduler_ops;
	struct scheduler *scheduler;
	unsigned index;
	int cpu;
	int epoll_fd;
	int message_fd; /* eventfd; written by posters when @asleep, never read */
	struct notifier *notifier;
	bool adaptive;	/* spin_ns follows the load */
	void *slots[SIDECORE_SLOTS];

	/* The sidecore's own. */
	struct attachment *attachments;
	struct timer_heap timers;
	bool stopping;
	bool slept;	     /* since the last work */
	unsigned silent;     /* pollers whose peers cannot notify */
	uint64_t now;	     /* clock at the start of the round, or at the end of a nap */
	uint64_t idle_since; /* clock at the end of the last round with work */

	/* Written by the sidecore, read by anybody (base/counter.h). */
	uint64_t spin_ns __attribute__((aligned(CACHE_LINE))); /* rounds without work go on for this long */
	uint64_t nap_ns; /* length of the next nap, while there are silent pollers */
	struct sidecore_counters counters;
	uint64_t asleep_since; /* clock; 0: awake */

	/* Written by anybody. */
	struct mailbox mailbox __attribute__((aligned(CACHE_LINE)));
	atomic_bool asleep; /* the message_fd must be written after a post */

	/* The control thread's. */
	pthread_t thread __attribute__((aligned(CACHE_LINE)));
	bool running;
	unsigned poller_count;
	struct sidecore_message stop_message, barrier_message;
};

/** sidecore_init() - everything but the thread. Return: 0 or a negative errno; nothing is left behind then. */
int sidecore_init(struct sidecore *sidecore, struct engine *engine, unsigned index, int cpu,
		  const struct scheduler_ops *scheduler_ops, uint64_t busy_poll_ns);
void sidecore_fini(struct sidecore *sidecore);

/** sidecore_main() - body of the thread. */
void *sidecore_main(void *sidecore);

/** sidecore_run_messages() - run what is in the mailbox. On the sidecore, or on the control thread while there is none.
 */
bool sidecore_run_messages(struct sidecore *sidecore);

/** Messages of engine_attach() and engine_detach(). */
void sidecore_attach(struct sidecore *sidecore, struct sidecore_message *message);
void sidecore_detach(struct sidecore *sidecore, struct sidecore_message *message);

#endif
