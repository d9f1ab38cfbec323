/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Scheduler: which poller has the next turn, and how much of it.
 *
 * The sidecore asks for a turn, runs it and accounts for it; the scheduler decides order and size. One scheduler object per
 * sidecore; it runs on the sidecore only and allocates only in attach (called between rounds with memory made ready by
 * the control thread). It never reads a clock: time comes with the calls, so that a simulation can drive it.
 */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdint.h>

#include "engine/engine.h"

struct scheduler;

struct scheduler_ops {
	const char *name;
	struct scheduler *(*create)(void);
	void (*destroy)(struct scheduler *scheduler);
	void (*attach)(struct scheduler *scheduler, struct poller *poller);
	void (*detach)(struct scheduler *scheduler, struct poller *poller);

	/**
	 * @next: the poller that has the next turn of this round.
	 * @turn:	in: sidecore and now; out: requests and bytes
	 * Return: NULL when the round is over.
	 */
	struct poller *(*next)(struct scheduler *scheduler, struct turn *turn);

	/** @account: the turn is over; @work units were done in @cycles. May be NULL. */
	void (*account)(struct scheduler *scheduler, struct poller *poller, unsigned work, uint64_t cycles);
};

/** scheduler_find() - by name; NULL is the default, "round-robin". Return: NULL when there is none of that name. */
const struct scheduler_ops *scheduler_find(const char *name);

#endif
