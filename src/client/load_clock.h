/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_LOAD_CLOCK_H
#define CLIENT_LOAD_CLOCK_H

#include <stdint.h>
#include <time.h>

/**
 * struct load_clock - turns processor cycles into time.
 * @cycles_per_second:	measured against CLOCK_MONOTONIC
 */
struct load_clock {
	double cycles_per_second;
};

/**
 * struct load_polls - where a polling loop's cycles went.
 * @polls:		turns of the loop
 * @busy:		turns that found work
 * @busy_cycles:	cycles of those
 */
struct load_polls {
	uint64_t polls;
	uint64_t busy;
	uint64_t busy_cycles;
};

/**
 * struct load_hooks - called at the edges of the measured time, to read a server's clocks; members may be NULL.
 * @begin:	at its begin
 * @end:	at its end
 * @context:	passed to both
 */
struct load_hooks {
	void (*begin)(void *context);
	void (*end)(void *context);
	void *context;
};

/**
 * load_cycles() - read the cycle counter.
 *
 * Return: cycles since some moment; a nanosecond clock where the processor has no counter that we know of.
 */
static inline uint64_t load_cycles(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

/**
 * load_relax() - let the other side have the line that we poll.
 */
static inline void load_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

void load_clock_measure(struct load_clock *clock);

#endif
