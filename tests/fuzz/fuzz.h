/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all fuzz targets share: the input as a stream of small decisions, and a check that ends the run.
 *
 * A target reads numbers from the front of its input; behind the end there are zeros for ever, so that every prefix of
 * an input is an input, and mutations stay local. Targets bound their own steps. Nothing of one input may be left when
 * the next one begins.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

/** fuzz_bytes() - the next @length bytes of the input, zeros behind its end. */
static inline void fuzz_bytes(struct fuzz_input *input, void *to, size_t length)
{
	size_t have = length < input->left ? length : input->left;

	if (have)
		memcpy(to, input->at, have);
	memset((uint8_t *)to + have, 0, length - have);
	input->at += have;
	input->left -= have;
}

static inline uint8_t fuzz_u8(struct fuzz_input *input)
{
	uint8_t value;

	fuzz_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint16_t fuzz_u16(struct fuzz_input *input)
{
	uint16_t value;

	fuzz_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint32_t fuzz_u32(struct fuzz_input *input)
{
	uint32_t value;

	fuzz_bytes(input, &value, sizeof(value));
	return value;
}

static inline uint64_t fuzz_u64(struct fuzz_input *input)
{
	uint64_t value;

	fuzz_bytes(input, &value, sizeof(value));
	return value;
}

/** fuzz_require() - an oracle's claim; not assert(), because it must hold in every build. */
#define fuzz_require(condition)                                                                                        \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
