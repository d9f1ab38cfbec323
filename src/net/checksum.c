/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The internet checksum over what may be guest memory.
 *
 * The inner loop adds 64 bytes at a time in lanes of 64 bits, low and high halves of each word apart, so that there are
 * no carries to take care of: a lane overflows after 2^32 additions, and a piece is at most 2^32 bytes. The compiler
 * makes SSE2 or NEON of it, whose registers have two lanes: with wider vectors it kept the sums in memory. Bytes may
 * change while they are read (the sender's own loss); each is read once.
 *
 * Context: pure functions.
 */
#include "net/checksum.h"

#include <string.h>

typedef uint64_t lanes __attribute__((vector_size(16)));

#define HALF 0xffffffffULL

static inline lanes load_lanes(const uint8_t *at)
{
	lanes value;

	memcpy(&value, at, sizeof(value));
	return value;
}

/* @length is a multiple of 64, and not zero. Return: a sum that does not overflow when some words are added. */
static uint64_t sum_blocks(const uint8_t *at, size_t length)
{
	lanes low = { 0 }, high = { 0 }, other_low = { 0 }, other_high = { 0 };

	for (const uint8_t *end = at + length; at < end; at += 64) {
		lanes first = load_lanes(at), second = load_lanes(at + 16);
		lanes third = load_lanes(at + 32), fourth = load_lanes(at + 48);

		low += first & HALF;
		high += first >> 32;
		other_low += second & HALF;
		other_high += second >> 32;
		low += third & HALF;
		high += third >> 32;
		other_low += fourth & HALF;
		other_high += fourth >> 32;
	}
	low = (low & HALF) + (low >> 32) + (high & HALF) + (high >> 32);
	low += (other_low & HALF) + (other_low >> 32) + (other_high & HALF) + (other_high >> 32);
	return low[0] + low[1];
}

uint16_t checksum_sum(const void *bytes, size_t length)
{
	size_t blocks = length & ~(size_t)63;
	const uint8_t *at = bytes;
	uint64_t sum = 0, word;

	if (blocks) {
		sum = sum_blocks(at, blocks);
		at += blocks;
		length -= blocks;
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
