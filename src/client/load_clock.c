/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load_clock.h"

static double monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/**
 * load_clock_measure() - find out how fast the cycle counter runs; takes 50 ms.
 * @clock:	written
 */
void load_clock_measure(struct load_clock *clock)
{
	const double window = 0.05;
	uint64_t first_cycles = load_cycles();
	double first = monotonic();
	double last;

	do {
		last = monotonic();
	} while (last - first < window);

	clock->cycles_per_second = (double)(load_cycles() - first_cycles) / (last - first);
}
