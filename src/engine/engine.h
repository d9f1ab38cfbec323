/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine: sidecores that poll, and how the control thread talks to them.
 *
 * Theory of operation
 * -------------------
 * A *sidecore* is a thread pinned to a CPU that runs one loop: mailbox, timers, then turns of its *pollers* (a virtqueue,
 * an uplink, an io_uring) as the scheduler picks them. A poller belongs to exactly one sidecore at a time; moving it is a
 * message. A turn is bounded in bytes and requests (struct turn), so that no guest holds the core.
 *
 * When nothing had work for a while (busy_poll), the sidecore *arms* all its pollers (asks each peer to notify), polls
 * each of them once more, and only then sleeps in epoll; a kick, a message or a deadline wakes it, it disarms and polls
 * again. See engine/sidecore_sleep.c for the argument that no wake-up is ever lost.
 *
 * Configuration never locks the data path: the control thread posts messages, a sidecore runs them between two rounds,
 * and the answer comes back as a completion on the control thread. engine_barrier() completes when every sidecore has
 * passed between two rounds: whatever was unpublished before it is then unused (quiescent state).
 *
 * Context: functions are called on the control thread unless they say otherwise.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/checked.h"

#define SIDECORES_MAX 64

struct engine;
struct notifier;
struct sidecore;
struct poller;

/** struct turn - what a poller may do in one turn; made by the scheduler, read by the poller. */
struct turn {
	struct sidecore *sidecore;
	uint64_t now;	   /* clock_nanoseconds() at the start of the round */
	uint32_t requests; /* at most this many packets or requests */
	uint32_t bytes;	   /* stop after the chain that reaches this; always lets one chain through */
};

/** struct poller_ops - what the engine knows of a poller. All run on the owning sidecore. */
struct poller_ops {
	const char *kind; /* for status: "virtio-net transmit", "tap", ... */

	/**
	 * @poll: serve the peer within @turn.
	 * Return: units of work done (packets, requests, completions); 0 tells that there was nothing to do. A poller that holds
	 * work back (a receiver is full) returns 0 but sets poller->pending, and is then polled on, not slept on.
	 */
	unsigned (*poll)(struct poller *poller, const struct turn *turn);

	/**
	 * @arm: from now on the peer must make poller->wake_fd readable when it has work. May be NULL (the fd tells by itself).
	 * Whatever asks the peer for notifications must be ordered before the look for work by a full barrier.
	 * Return: true when work is already there.
	 */
	bool (*arm)(struct poller *poller);

	/** @disarm: the peer need not notify any more. May be NULL. */
	void (*disarm)(struct poller *poller);
};

struct poller_counters {
	uint64_t turns;	      /* times polled */
	uint64_t empty_turns; /* of these, without work */
	uint64_t work;	      /* units of work */
	uint64_t cycles;      /* spent in turns with work */
	uint64_t wakes;	      /* wake-ups of the sidecore by this poller's fd */
};

/** struct poller - embedded in whatever is polled. Zeroed, then ops and wake_fd set by its owner before it is attached. */
struct poller {
	const struct poller_ops *ops;
	int wake_fd;   /* watched edge-triggered while the sidecore sleeps; -1: none. Never read by the engine */
	bool pending;  /* set by poll: work is held back, do not sleep */
	bool silent;   /* the peer cannot notify: while this is attached, an idle sidecore naps instead of sleeping. Constant then */
	struct poller_counters counters; /* written by the sidecore; read relaxed by others */

	/* the engine's own */
	struct sidecore *sidecore;     /* control thread's: NULL while not attached */
	struct attachment *attachment; /* control thread's: NULL while not attached */
	void *schedule;		       /* the scheduler's own data */
};

/** struct engine_completion - a call that comes back to the control thread. Embedded; live until @done has run. */
struct engine_completion {
	struct engine_completion *next;
	void (*done)(struct engine_completion *completion);
};

/** struct sidecore_message - a function to be run by a sidecore between two rounds. Embedded; live until it ran. */
struct sidecore_message {
	struct sidecore_message *next;
	void (*run)(struct sidecore *sidecore, struct sidecore_message *message);
};

/** struct engine_timer - a deadline on one sidecore; run between two rounds, at or after @deadline. */
struct engine_timer {
	uint64_t deadline; /* clock_nanoseconds() */
	void (*expire)(struct sidecore *sidecore, struct engine_timer *timer);
	/* the engine's own */
	unsigned position; /* ENGINE_TIMER_IDLE: not armed */
	struct engine_timer *child, *sibling, *previous;
};

/** A timer that was zeroed is idle. */
#define ENGINE_TIMER_IDLE 0U

struct sidecore_config {
	int cpu; /* -1: the last allowed CPU that no other sidecore has */
};

struct engine_config {
	unsigned sidecore_count; /* 1 to SIDECORES_MAX */
	struct sidecore_config sidecores[SIDECORES_MAX];
	uint64_t busy_poll_ns;	 /* rounds without work go on for this long before the sidecore sleeps; 0: default, adaptive */
	const char *scheduler;	 /* name; NULL: default */
};

/**
 * engine_create() - build sidecores, start no thread. Affinity is that of the calling thread.
 *
 * Return: 0; -EINVAL (unusable CPU, count or scheduler; logged), -ENOMEM, -ENOSYS (Linux before 5.11), errno of eventfd.
 */
int engine_create(const struct engine_config *config, struct engine **engine);

/** engine_start() - start the threads, each pinned to its CPU. Return: 0 or the negative errno of pthread_create. */
int engine_start(struct engine *engine);

/**
 * engine_stop() - stop and join the threads; every poller must have been detached (those that are not are logged and let
 * go). Messages and completions that were on their way are run by the control thread. Then engine_destroy().
 */
void engine_stop(struct engine *engine);
void engine_destroy(struct engine *engine);

unsigned engine_sidecore_count(const struct engine *engine);
struct sidecore *engine_sidecore(struct engine *engine, unsigned index);

/** engine_pick_sidecore() - the sidecore with the fewest pollers: where a new queue goes. */
struct sidecore *engine_pick_sidecore(struct engine *engine);

/**
 * engine_attach() - @sidecore polls @poller from one of its next rounds on.
 * @completion:	NULL, or told when it has happened. Until the first poll, ops->disarm is called once.
 *
 * Return: 0; -ENOMEM (room for the poller is made here, not by the sidecore); -EBUSY when it is attached already; the
 * negative errno of epoll_ctl for a wake_fd that cannot be watched (-EPERM: a plain file, -EEXIST: watched already).
 */
int engine_attach(struct engine *engine, struct sidecore *sidecore, struct poller *poller,
		  struct engine_completion *completion);

/**
 * engine_detach() - after @completion the poller is not polled, its fd not watched, and its memory the caller's.
 * @completion:	NULL is allowed. A poller that is not attached, or is being detached, completes in its turn
 */
void engine_detach(struct engine *engine, struct poller *poller, struct engine_completion *completion);

/** engine_barrier() - @completion runs when every sidecore has passed between two rounds. */
void engine_barrier(struct engine *engine, struct engine_completion *completion);

/**
 * engine_completion_fd() - becomes readable when completions wait; put it into the control thread's event loop and call
 * engine_run_completions() then.
 */
int engine_completion_fd(const struct engine *engine);
void engine_run_completions(struct engine *engine);

/** engine_complete() - any thread: have @completion run on the control thread. Lock-free. */
void engine_complete(struct engine *engine, struct engine_completion *completion);

/** sidecore_post() - any thread: have @message run on @sidecore. Wakes it. Lock-free. */
void sidecore_post(struct sidecore *sidecore, struct sidecore_message *message);

/**
 * sidecore_notifier() - sidecore thread: for eventfds that front-ends hold, too. engine_notifier(): the control thread's.
 * Nobody else's eventfd is ever written to (base/notifier.h).
 */
struct notifier *sidecore_notifier(const struct sidecore *sidecore);
struct notifier *engine_notifier(const struct engine *engine);

unsigned sidecore_index(const struct sidecore *sidecore);
int sidecore_cpu(const struct sidecore *sidecore);
struct engine *sidecore_engine(const struct sidecore *sidecore);

/** sidecore_timer_set() - sidecore thread: (re)arm @timer. sidecore_timer_cancel(): disarm; harmless when idle. */
void sidecore_timer_set(struct sidecore *sidecore, struct engine_timer *timer, uint64_t deadline);
void sidecore_timer_cancel(struct sidecore *sidecore, struct engine_timer *timer);

/**
 * Rooms keep state of their own for each sidecore (scratch buffers, an io_uring): one pointer each, set before
 * engine_start().
 */
enum sidecore_slot {
	SIDECORE_SLOT_NET,
	SIDECORE_SLOT_BLOCK,
	SIDECORE_SLOTS,
};

void sidecore_set_slot(struct sidecore *sidecore, enum sidecore_slot slot, void *value);
void *sidecore_slot(const struct sidecore *sidecore, enum sidecore_slot slot);

/** struct sidecore_counters - a snapshot for status; cycles are of the CPU's time stamp counter. */
struct sidecore_counters {
	int cpu;
	unsigned pollers;
	uint64_t rounds, empty_rounds;
	uint64_t busy_cycles;  /* in turns that found work, messages and timers */
	uint64_t empty_cycles; /* polling in vain */
	uint64_t sleep_ns;     /* asleep */
	uint64_t sleeps;       /* times gone to sleep */
	uint64_t wakes_kick, wakes_message, wakes_timer;
	uint64_t wakes_nap;    /* naps that ran their length; see poller.silent */
	uint64_t aborted_sleeps; /* armed, then found work */
	uint64_t since_ns;     /* clock at which the sidecore started */
};

/** sidecore_read_counters() - any thread; relaxed loads. */
void sidecore_read_counters(const struct sidecore *sidecore, struct sidecore_counters *counters);

/** engine_for_each_poller() - control thread: visit the pollers as the control thread knows them. */
void engine_for_each_poller(struct engine *engine, void (*visit)(struct poller *poller, void *context), void *context);

#endif
