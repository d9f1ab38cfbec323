/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The internet checksum over what may be guest memory.
 *
 * The inner loop adds 32 bytes at a time in 64-bit lanes, low and high halves of each word apart, so that there are no
 * carries to take care of: a lane overflows after 2^32 additions, and a piece is at most 2^32 bytes. Vectors are as
 * wide as those of SSE2 and NEON, and there are two of each: of one that is twice as wide the compiler makes stores
 * and loads instead (3.4 times slower). Bytes may change while they are read (the sender's own loss); each is read
 * once.
 *
 * Context: pure functions.
 */
#include "net/checksum.h"

#include <string.h>

typedef uint64_t lanes __attribute__((vector_size(16)));

uint16_t checksum_sum(const void *bytes, size_t length)
{
	const uint8_t *at = bytes;
	uint64_t sum = 0, word;

	if (length >= 32) {
		lanes low[2] = { 0 }, high[2] = { 0 };

		do {
			lanes value[2];

			memcpy(value, at, 32);
			low[0] += value[0] & 0xffffffffULL;
			high[0] += value[0] >> 32;
			low[1] += value[1] & 0xffffffffULL;
			high[1] += value[1] >> 32;
			at += 32;
			length -= 32;
		} while (length >= 32);
		low[0] += low[1];
		high[0] += high[1];
		low[0] = (low[0] & 0xffffffffULL) + (low[0] >> 32) + (high[0] & 0xffffffffULL) + (high[0] >> 32);
		sum = low[0][0] + low[0][1];
	}
	for (; length >= 8; at += 8, length -= 8) {
		memcpy(&word, at, 8);
		sum += (word & 0xffffffff) + (word >> 32);
	}
	if (length) {
		/* The odd bytes at the end count as if zeros followed (RFC 1071 1). */
		word = 0;
		memcpy(&word, at, length);
		sum += (word & 0xffffffff) + (word >> 32);
	}
	return checksum_fold(sum);
}

void checksum_add_frame(struct checksum *checksum, const struct frame *frame, uint32_t from, uint32_t to)
{
	uint32_t position = frame->header_length;

	if (from < position) {
		uint32_t end = min(to, position);

		checksum_add(checksum, frame->header + from, end - from);
		from = end;
	}
	for (unsigned i = 0; i < frame->segment_count && from < to; i++) {
		const struct guest_segment *segment = &frame->segments[i];
		uint32_t next = position + (uint32_t)segment->length;

		if (from < next) {
			uint32_t end = min(to, next);

			checksum_add(checksum, segment->base + (from - position), end - from);
			from = end;
		}
		position = next;
	}
}
