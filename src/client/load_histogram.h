/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_LOAD_HISTOGRAM_H
#define CLIENT_LOAD_HISTOGRAM_H

#include <stdint.h>

#define LOAD_HISTOGRAM_STEPS  32u
#define LOAD_HISTOGRAM_SHIFT  5u
#define LOAD_HISTOGRAM_OCTAVES 60u

/**
 * struct load_histogram - counts of durations, exact to 1/32 (3 %).
 * @counts:	by octave and step within it
 * @total:	sum of counts
 * @maximum:	largest value seen
 */
struct load_histogram {
	uint64_t counts[LOAD_HISTOGRAM_OCTAVES * LOAD_HISTOGRAM_STEPS];
	uint64_t total;
	uint64_t maximum;
};

/**
 * load_histogram_add() - count one value.
 * @histogram:	histogram
 * @value:	any unit
 */
static inline void load_histogram_add(struct load_histogram *histogram, uint64_t value)
{
	unsigned int octave = 0;
	uint64_t step = value;

	if (value >= LOAD_HISTOGRAM_STEPS) {
		octave = 63u - (unsigned int)__builtin_clzll(value) - LOAD_HISTOGRAM_SHIFT + 1;
		step = (value >> (octave - 1)) & (LOAD_HISTOGRAM_STEPS - 1);
	}
	histogram->counts[octave * LOAD_HISTOGRAM_STEPS + step]++;
	histogram->total++;
	if (value > histogram->maximum)
		histogram->maximum = value;
}

uint64_t load_histogram_quantile(const struct load_histogram *histogram, double quantile);

#endif
