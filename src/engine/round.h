/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A round of a sidecore: what the loop (sidecore.c) and its sleep (sidecore_sleep.c) do alike. Nobody else includes this.
 */
#ifndef ENGINE_ROUND_H
#define ENGINE_ROUND_H

#include "base/clock.h"
#include "base/counter.h"
#include "engine/sidecore.h"

/** The first nap after work, and so the shortest. */
#define NAP_MIN_NS (20 * NANOSECONDS_PER_MICROSECOND)

/** struct round - what happened in one round, or in the look before a sleep. */
struct round {
	uint64_t cycles; /* clock_cycles() at the end of what was accounted last */
	uint64_t busy, empty;
	bool worked;
	bool pending;
};

/** run_turn() - @poller's turn, accounted. @cycles: out, those that it took. Return: what it did. */
static inline unsigned run_turn(struct poller *poller, const struct turn *turn, struct round *round, uint64_t *cycles)
{
	unsigned work = poller->ops->poll(poller, turn);
	uint64_t end = clock_cycles();

	*cycles = end - round->cycles;
	round->cycles = end;
	round->pending |= poller->pending;
	counter_add(&poller->counters.turns, 1);
	if (work) {
		round->worked = true;
		round->busy += *cycles;
		counter_add(&poller->counters.work, work);
		counter_add(&poller->counters.cycles, *cycles);
	} else {
		round->empty += *cycles;
		counter_add(&poller->counters.empty_turns, 1);
	}
	return work;
}

/* sidecore_sleep.c */

/** sidecore_sleep_init() - @busy_poll_ns: how long to spin; 0: learn it. */
void sidecore_sleep_init(struct sidecore *sidecore, uint64_t busy_poll_ns);

/** sidecore_sleep() - there was no work for long enough: sleep until there is some, or a message, or a timer is due. */
void sidecore_sleep(struct sidecore *sidecore, struct round *round);

/** sidecore_learn_spin() - work was found at @sidecore->now, after a sleep: what does that say about how long to spin? */
void sidecore_learn_spin(struct sidecore *sidecore);

#endif
