/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Timers of one sidecore, soonest first: a pairing heap, threaded through the timers themselves, so that setting one
 * never needs memory. Insert is constant; removal is logarithmic on the average.
 *
 * Context: owned by one sidecore; no locks.
 */
#ifndef ENGINE_TIMER_HEAP_H
#define ENGINE_TIMER_HEAP_H

#include <stdint.h>

#include "engine/engine.h"

struct timer_heap {
	struct engine_timer *root; /* the soonest; NULL: none */
};

/** timer_heap_insert() - @timer must be idle, with its deadline set. */
void timer_heap_insert(struct timer_heap *heap, struct engine_timer *timer);

/** timer_heap_remove() - @timer must be in @heap. */
void timer_heap_remove(struct timer_heap *heap, struct engine_timer *timer);

/** timer_heap_deadline() - of the soonest timer; UINT64_MAX when there is none. */
static inline uint64_t timer_heap_deadline(const struct timer_heap *heap)
{
	return heap->root ? heap->root->deadline : UINT64_MAX;
}

#endif
