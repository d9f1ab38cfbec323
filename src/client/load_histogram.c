/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load_histogram.h"

/**
 * load_histogram_quantile() - the value below which a share of all values lies.
 * @histogram:	histogram
 * @quantile:	0 to 1, e.g. 0.99
 *
 * Return: the upper edge of the step that holds it, at most the largest value seen; 0 if nothing was counted.
 */
uint64_t load_histogram_quantile(const struct load_histogram *histogram, double quantile)
{
	uint64_t wanted = (uint64_t)(quantile * (double)histogram->total);
	uint64_t seen = 0;

	if (wanted >= histogram->total)
		return histogram->maximum;

	for (unsigned int i = 0; i < LOAD_HISTOGRAM_OCTAVES * LOAD_HISTOGRAM_STEPS; i++) {
		unsigned int octave = i / LOAD_HISTOGRAM_STEPS;
		uint64_t step = i % LOAD_HISTOGRAM_STEPS;
		uint64_t edge = octave == 0 ? step : ((LOAD_HISTOGRAM_STEPS + step + 1) << (octave - 1)) - 1;

		seen += histogram->counts[i];
		if (seen > wanted)
			return edge < histogram->maximum ? edge : histogram->maximum;
	}

	return histogram->maximum;
}
