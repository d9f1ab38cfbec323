/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CONTROL_SUGGEST_H
#define CONTROL_SUGGEST_H

#include <stddef.h>

/** suggest_distance() - edits (insert, delete, replace, swap neighbours) between two words; at most SUGGEST_WORD_MAX
 * bytes of each are looked at. */
unsigned suggest_distance(const char *a, const char *b);

/**
 * suggest() - the candidate that @word was probably meant to be.
 *
 * Return: the closest of @candidates when it is close enough to be worth naming; else NULL.
 */
const char *suggest(const char *word, const char *const *candidates, size_t count);

#define SUGGEST_WORD_MAX 63U

#endif
