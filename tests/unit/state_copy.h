/* SPDX-License-Identifier: BSD-3-Clause */
/* Parcels for tests of what devices save and load: copies that own their files, and damage. */
#ifndef TESTS_STATE_COPY_H
#define TESTS_STATE_COPY_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/parcel.h"

/** state_copy() - as parcel_open() would make it of parcel_seal(@from). */
static inline void state_copy(const struct parcel *from, struct parcel *to)
{
	*to = (struct parcel){ .length = from->length, .capacity = from->length, .file_count = from->file_count };
	to->bytes = malloc(from->length);
	to->files = calloc(from->file_count + 1, sizeof(int));
	assert_true(to->bytes && to->files);
	memcpy(to->bytes, from->bytes, from->length);
	for (unsigned i = 0; i < from->file_count; i++)
		to->files[i] = fcntl(from->files[i], F_DUPFD_CLOEXEC, 0);
}

/** state_damage() - change some bits, most of them in the first @often bytes; now and then a whole byte or word. */
static inline void state_damage(struct parcel *parcel, unsigned *seed, size_t often)
{
	unsigned count = 1U << rand_r(seed) % 6;

	while (count--) {
		size_t range = rand_r(seed) % 4 ? often : parcel->length;
		size_t at = (size_t)rand_r(seed) % (range < parcel->length ? range : parcel->length);

		switch (rand_r(seed) % 4) {
		case 0:
			parcel->bytes[at] = 0xff;
			break;
		case 1:
			parcel->bytes[at] = 0;
			break;
		default:
			parcel->bytes[at] ^= (uint8_t)(1U << rand_r(seed) % 8);
			break;
		}
	}
}

#endif
