/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Numbers in memory that has no alignment and an order of its own: headers of packets (big endian), configuration spaces
 * and tables of devices (little endian). The memory is ours: for a guest's, memory/guest_access.h.
 */
#ifndef BASE_BYTE_ORDER_H
#define BASE_BYTE_ORDER_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t load_be16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t load_be32(const uint8_t *from)
{
	return (uint32_t)load_be16(from) << 16 | load_be16(from + 2);
}

/** store_be16() - the lower half of @value; store_be32(): all of it. */
static inline void store_be16(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static inline void store_be32(uint8_t *to, uint32_t value)
{
	store_be16(to, value >> 16);
	store_be16(to + 2, value);
}

static inline uint16_t load_le16(const uint8_t *from)
{
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return le16toh(value);
}

static inline void store_le16(uint8_t *to, uint16_t value)
{
	value = htole16(value);
	memcpy(to, &value, sizeof(value));
}

static inline void store_le32(uint8_t *to, uint32_t value)
{
	value = htole32(value);
	memcpy(to, &value, sizeof(value));
}

static inline void store_le64(uint8_t *to, uint64_t value)
{
	value = htole64(value);
	memcpy(to, &value, sizeof(value));
}

#endif
