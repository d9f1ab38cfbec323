/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Counters with one writer and any readers: the writer's plain add becomes a relaxed store, so that a reader on another
 * thread sees an old or a new value and never half of one. No lock prefix: on x86 it is the same instruction as a plain add.
 */
#ifndef BASE_COUNTER_H
#define BASE_COUNTER_H

#include <stdint.h>

static inline void counter_add(uint64_t *counter, uint64_t amount)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + amount, __ATOMIC_RELAXED);
}

/** counter_set() - for gauges; the writer only, too. */
static inline void counter_set(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static inline uint64_t counter_read(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

#endif
