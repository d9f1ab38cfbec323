/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The internet checksum (RFC 1071): ones' complement sums of 16-bit words, in memory order, so that they are the same
 * whatever the byte order of the machine is; store the result as it is, with memcpy.
 */
#ifndef NET_CHECKSUM_H
#define NET_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/frame.h"

/** struct checksum - a sum in the making; zero is empty. Bytes may be added in pieces of any length, odd ones too. */
struct checksum {
	uint64_t sum; /* of at most 2^32 folded pieces */
	bool odd;     /* an odd number of bytes went in: the next one is the second of its word */
};

/** checksum_sum() - Return: the sum over @length bytes, folded to 16 bits, not complemented. */
uint16_t checksum_sum(const void *bytes, size_t length);

static inline uint16_t checksum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16); /* at most 2^17 + 2^16 */
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/** checksum_add() - add @length bytes. */
static inline void checksum_add(struct checksum *checksum, const void *bytes, size_t length)
{
	uint16_t part = checksum_sum(bytes, length);

	/* RFC 1071 2(B): a sum that starts at an odd byte is the same sum with its bytes swapped. */
	checksum->sum += checksum->odd ? __builtin_bswap16(part) : part;
	checksum->odd ^= length & 1;
}

/** checksum_add_word() - add one 16-bit word in host order; only after an even number of bytes. */
static inline void checksum_add_word(struct checksum *checksum, uint16_t word)
{
	uint8_t bytes[2] = { (uint8_t)(word >> 8), (uint8_t)word };

	checksum_add(checksum, bytes, 2);
}

/** checksum_finish() - Return: the checksum as it goes into a header. */
static inline uint16_t checksum_finish(const struct checksum *checksum)
{
	return (uint16_t)~checksum_fold(checksum->sum);
}

/** checksum_nonzero() - 0 would mean "none" in UDP, so the other zero of ones' complement is sent (RFC 768). */
static inline uint16_t checksum_nonzero(uint16_t checksum)
{
	return checksum ? checksum : 0xffff;
}

/** checksum_add_frame() - add the frame's bytes [@from, @to); @to is at most its length. */
void checksum_add_frame(struct checksum *checksum, const struct frame *frame, uint32_t from, uint32_t to);

#endif
