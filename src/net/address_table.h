/* SPDX-License-Identifier: BSD-3-Clause */
/* Which port is a MAC address behind? Theory of operation: net/address_table.c. */
#ifndef NET_ADDRESS_TABLE_H
#define NET_ADDRESS_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/checked.h"

/** What a lookup yields when the address is not known. */
#define ADDRESS_TABLE_UNKNOWN UINT16_MAX

struct address_table;

/** struct address_table_entry - for status. */
struct address_table_entry {
	uint8_t mac[6];
	uint16_t vlan;
	uint16_t port;
	uint32_t age_seconds;
};

/** address_key() - an address in a VLAN as one number below 2^60. */
static inline uint64_t address_key(const uint8_t mac[6], uint16_t vlan)
{
	return ((uint64_t)mac[0] << 40 | (uint64_t)mac[1] << 32 | (uint64_t)mac[2] << 24 | (uint64_t)mac[3] << 16 |
		(uint64_t)mac[4] << 8 | mac[5]) << 12 | (vlan & 0xfff);
}

/**
 * address_table_create() - an empty table.
 * @aging_seconds:	addresses that sent nothing for so long are forgotten
 *
 * Return: NULL when there is no memory.
 */
struct address_table *address_table_create(uint32_t aging_seconds);
void address_table_destroy(struct address_table *table);

/**
 * address_table_hash() - first step of a lookup, apart from the second so that a batch can do all first steps first: it
 * also asks the cache for the line that the second will read.
 */
uint64_t address_table_hash(const struct address_table *table, uint64_t key);

/** address_table_lookup() - any sidecore. @hash: from address_table_hash(). Return: port, or ADDRESS_TABLE_UNKNOWN. */
uint16_t address_table_lookup(const struct address_table *table, uint64_t hash, uint64_t now);

/** address_table_learn() - any sidecore: the address of @hash has just sent something from @port. */
void address_table_learn(struct address_table *table, uint64_t hash, uint16_t port, uint64_t now);

/** address_table_forget_port() - forget what is behind @port; nothing is being learned from it any more. */
void address_table_forget_port(struct address_table *table, uint16_t port);

/** address_table_read() - any thread: up to @count entries. Return: number of entries. */
unsigned address_table_read(const struct address_table *table, struct address_table_entry *entries, unsigned count,
			    uint64_t now);

#endif
