/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Small arithmetic that cannot go wrong silently. Every sum or product of values that came from a guest or a client goes
 * through one of these.
 */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(condition)   __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define array_size(array) (sizeof(array) / sizeof((array)[0]))

#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#define min(a, b)                                                                                                      \
	({                                                                                                             \
		__auto_type min_a_ = (a);                                                                              \
		__auto_type min_b_ = (b);                                                                              \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                                     \
	})

#define max(a, b)                                                                                                      \
	({                                                                                                             \
		__auto_type max_a_ = (a);                                                                              \
		__auto_type max_b_ = (b);                                                                              \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                                     \
	})

/** cache line size that hot structures are laid out for; x86-64 and most of aarch64 */
#define CACHE_LINE 64

/**
 * checked_add() - @sum = @a + @b.
 *
 * Return: false when the sum does not fit; @sum is then not to be used.
 */
static inline __attribute__((warn_unused_result)) bool checked_add(uint64_t a, uint64_t b, uint64_t *sum)
{
	return !__builtin_add_overflow(a, b, sum);
}

/** checked_multiply() - @product = @a * @b; false when it does not fit. */
static inline __attribute__((warn_unused_result)) bool checked_multiply(uint64_t a, uint64_t b, uint64_t *product)
{
	return !__builtin_mul_overflow(a, b, product);
}

/**
 * range_inside() - does [@offset, @offset + @length) lie inside [0, @size)?
 *
 * An empty range lies inside as long as its offset does not pass @size.
 */
static inline bool range_inside(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}

#endif
