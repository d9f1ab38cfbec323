/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load_histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Every value is found again within 1/32, whatever its size. */
static void test_precision(void **state)
{
	for (uint64_t value = 0; value < 1ULL << 62; value = value + value / 7 + 1) {
		struct load_histogram histogram = { 0 };
		uint64_t found;

		load_histogram_add(&histogram, value);
		load_histogram_add(&histogram, UINT64_MAX >> 1);
		found = load_histogram_quantile(&histogram, 0.25);
		assert_true(found >= value);
		assert_true(found - value <= value / 32);
	}
}

static void test_quantiles(void **state)
{
	static const struct {
		double quantile;
		uint64_t least, most;
	} cases[] = {
		/* 0 */ { 0.0, 0, 0 },	   /* the smallest */
		/* 1 */ { 0.5, 500, 516 }, /* of 0..999 */
		/* 2 */ { 0.99, 990, 999 },
		/* 3 */ { 1.0, 999, 999 },
	};
	static struct load_histogram histogram;

	assert_int_equal(load_histogram_quantile(&histogram, 0.5), 0);
	for (uint64_t value = 0; value < 1000; value++)
		load_histogram_add(&histogram, value);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		print_message("case %u\n", i);
		assert_in_range(load_histogram_quantile(&histogram, cases[i].quantile), cases[i].least, cases[i].most);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_precision),
		cmocka_unit_test(test_quantiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
