/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Time. Two clocks: nanoseconds of CLOCK_MONOTONIC for everything with a meaning, and raw cycles for accounting, which
 * are only ever subtracted from each other on one core.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NANOSECONDS_PER_SECOND	    1000000000ULL
#define NANOSECONDS_PER_MILLISECOND 1000000ULL
#define NANOSECONDS_PER_MICROSECOND 1000ULL

/** clock_nanoseconds() - CLOCK_MONOTONIC in nanoseconds; never goes back. About 20 ns a call: once a turn, not a packet. */
static inline uint64_t clock_nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)now.tv_nsec;
}

/** clock_cycles() - the core's cycle (x86: time stamp) counter. Not serialising: an account, not a benchmark. */
static inline uint64_t clock_cycles(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t cycles;

	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(cycles));
	return cycles;
#else
	return clock_nanoseconds();
#endif
}

/** cpu_relax() - tells the core that this is a spin loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#endif
