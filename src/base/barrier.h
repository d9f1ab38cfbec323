/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The full memory barrier: stores before it are visible before loads after it are made. Needed where two sides each
 * write a flag and then look at the other's (ask for a notification, then look for work), which acquire and release do
 * not order.
 */
#ifndef BASE_BARRIER_H
#define BASE_BARRIER_H

#include <stdatomic.h>

static inline void memory_barrier(void)
{
	/*
	 * ThreadSanitizer does not model fences and gcc says so; the fence itself is still made. What needs the
	 * sanitizer's blessing uses acquire and release (or seq_cst accesses) on the data itself.
	 */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
	atomic_thread_fence(memory_order_seq_cst);
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

#endif
