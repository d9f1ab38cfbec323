/* SPDX-License-Identifier: BSD-3-Clause */
/* "Did you mean": optimal string alignment distance, three rows of a table on the stack. */
#include "control/suggest.h"

#include <limits.h>
#include <string.h>

#include "base/checked.h"

unsigned suggest_distance(const char *a, const char *b)
{
	unsigned rows[3][SUGGEST_WORD_MAX + 1];
	unsigned *before = rows[0], *last = rows[1], *now = rows[2], *oldest;
	size_t a_length = strnlen(a, SUGGEST_WORD_MAX), b_length = strnlen(b, SUGGEST_WORD_MAX);

	for (size_t j = 0; j <= b_length; j++)
		last[j] = (unsigned)j;
	for (size_t i = 1; i <= a_length; i++) {
		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b_length; j++) {
			unsigned replaced = last[j - 1] + (a[i - 1] != b[j - 1]);
			unsigned longer = min(last[j], now[j - 1]) + 1;

			now[j] = min(replaced, longer);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = min(now[j], before[j - 2] + 1);
		}
		oldest = before;
		before = last;
		last = now;
		now = oldest;
	}
	return last[b_length];
}

const char *suggest(const char *word, const char *const *candidates, size_t count)
{
	unsigned best = UINT_MAX, close_enough;
	const char *found = NULL;

	for (size_t i = 0; i < count; i++) {
		unsigned distance = suggest_distance(word, candidates[i]);

		if (distance < best) {
			best = distance;
			found = candidates[i];
		}
	}
	/* One edit in three letters: "vlna" suggests "vlan", "cpu" does not suggest "mtu". */
	close_enough = (unsigned)max(strnlen(word, SUGGEST_WORD_MAX) / 3, (size_t)1);
	return best <= close_enough ? found : NULL;
}
