/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The address table of a network: fixed size, set-associative, read and written by all sidecores without locks.
 *
 * Theory of operation
 * -------------------
 * A key (48 bits of MAC, 12 of VLAN) is mixed by a bijection of 60-bit numbers, keyed with random numbers so that
 * nobody can aim at a neighbour's set. The low SET_BITS of the result choose a set, one cache line of WAYS entries; the
 * other 48 bits are the entry's *tag*. Since the mixing can be undone, set and tag together are the whole key, and an
 * entry is one word: tag, port, valid. The time at which it was last seen lies beside it in a word of its own, in ticks
 * of 1.07 s.
 *
 * Why no lock is needed
 * - An entry is read with one load and changed with one compare-and-swap. So a reader sees either the old entry or the
 *   new one, each of which tells the truth about one key: it can never take the port of one address for another's.
 * - The time is separate. Whoever replaces an entry stores the new time first; a reader that combines an entry with
 *   another's time merely takes it for older or younger than it is: it floods a frame that it could have aimed, or
 *   uses an entry that has just run out. Both are what a switch does around these moments anyway.
 * - Two sidecores may learn the same new address at once into two ways of the set. Learning looks at all ways and
 *   updates each that has the tag, so both say the same from the next frame on; the spare one ages out or is replaced.
 * - A failed compare-and-swap is not tried again: the address will send another frame.
 *
 * Who may displace whom
 * Entries are counted per port. A new address takes a free or aged way; else, when its port already has its share of
 * the table or has a way in this set, it replaces the port's own oldest one there; else the way of the port with the
 * most entries, if that has more than twice as many as its own. So a flood of source addresses displaces itself and
 * other floods, at most SHARE entries in all, and never the few addresses of a quiet neighbour.
 *
 * The counts are kept by whoever wins a compare-and-swap, so they are exact up to changes under way.
 *
 * Context: created and destroyed by the control thread; all else by any thread. Time comes with the calls.
 */
#include "net/address_table.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "net/network.h"

#define SET_BITS 12U
#define SETS	 (1U << SET_BITS)
#define WAYS	 5U
#define KEY_BITS 60U
#define KEY_MASK ((1ULL << KEY_BITS) - 1)

/** The most entries of one port. */
#define SHARE (SETS * WAYS / 4)

/** A tick is 2^30 ns: 1.07 s. 2^32 of them are a century. */
#define TICK_SHIFT 30U

/* An entry: tag 63..16, valid 15, port 9..0. */
#define ENTRY_VALID (1ULL << 15)
#define ENTRY_PORT  (NETWORK_PORTS_MAX - 1ULL)

_Static_assert((NETWORK_PORTS_MAX & (NETWORK_PORTS_MAX - 1)) == 0 && NETWORK_PORTS_MAX <= 1U << 15, "ENTRY_PORT");
_Static_assert(KEY_BITS - SET_BITS == 48, "the tag has 48 bits");

struct address_set {
	_Atomic uint64_t entries[WAYS];
	_Atomic uint32_t seen[WAYS]; /* tick */
} __attribute__((aligned(CACHE_LINE)));

_Static_assert(sizeof(struct address_set) == CACHE_LINE, "one line for each set");

struct address_table {
	uint64_t add[2], multiply[2]; /* keys of the mixing; the latter odd */
	uint64_t undo[2];	      /* inverse of multiply modulo 2^60 */
	uint32_t aging_ticks;
	_Atomic uint32_t port_entries[NETWORK_PORTS_MAX];
	struct address_set sets[SETS];
};

static uint64_t entry_of(uint64_t hash, uint16_t port)
{
	return (hash >> SET_BITS) << 16 | ENTRY_VALID | port;
}

static bool entry_is(uint64_t entry, uint64_t hash)
{
	return (entry & ENTRY_VALID) && entry >> 16 == hash >> SET_BITS;
}

static uint16_t entry_port(uint64_t entry)
{
	return (uint16_t)(entry & ENTRY_PORT);
}

static uint32_t tick_of(uint64_t now)
{
	return (uint32_t)(now >> TICK_SHIFT);
}

/* Multiplication by an odd number, addition and a shift by half the width are bijections; alternating, they mix. */
static uint64_t mix(const struct address_table *table, uint64_t key)
{
	for (unsigned i = 0; i < 2; i++) {
		key = (key + table->add[i]) * table->multiply[i] & KEY_MASK;
		key ^= key >> (KEY_BITS / 2);
	}
	return key;
}

static uint64_t unmix(const struct address_table *table, uint64_t hash)
{
	for (unsigned i = 2; i-- > 0;) {
		hash ^= hash >> (KEY_BITS / 2);
		hash = (hash * table->undo[i] - table->add[i]) & KEY_MASK;
	}
	return hash;
}

/* Inverse modulo 2^64 by Newton's method: each step doubles the number of right bits, the first has 3. */
static uint64_t inverse(uint64_t odd)
{
	uint64_t result = odd;

	for (unsigned i = 0; i < 5; i++)
		result *= 2 - odd * result;
	return result;
}

struct address_table *address_table_create(uint32_t aging_seconds)
{
	struct address_table *table = aligned_alloc(CACHE_LINE, sizeof(*table));
	uint64_t keys[4];

	if (!table)
		return NULL;
	memset(table, 0, sizeof(*table));
	if (getrandom(keys, sizeof(keys), 0) != sizeof(keys)) {
		free(table);
		return NULL;
	}
	for (unsigned i = 0; i < 2; i++) {
		table->add[i] = keys[i] & KEY_MASK;
		table->multiply[i] = keys[2 + i] | 1;
		table->undo[i] = inverse(table->multiply[i]);
	}
	table->aging_ticks = (uint32_t)max((uint64_t)aging_seconds * NANOSECONDS_PER_SECOND >> TICK_SHIFT, 1ULL);
	return table;
}

void address_table_destroy(struct address_table *table)
{
	free(table);
}

uint64_t address_table_hash(const struct address_table *table, uint64_t key)
{
	uint64_t hash = mix(table, key);

	__builtin_prefetch(&table->sets[hash & (SETS - 1)]);
	return hash;
}

static bool aged(const struct address_table *table, const struct address_set *set, unsigned way, uint32_t tick)
{
	/* Signed: another sidecore's clock of this round may be ahead of ours by a tick. */
	return (int32_t)(tick - atomic_load_explicit(&set->seen[way], memory_order_relaxed)) >
	       (int32_t)table->aging_ticks;
}

uint16_t address_table_lookup(const struct address_table *table, uint64_t hash, uint64_t now)
{
	const struct address_set *set = &table->sets[hash & (SETS - 1)];

	for (unsigned way = 0; way < WAYS; way++) {
		uint64_t entry = atomic_load_explicit(&set->entries[way], memory_order_relaxed);

		if (entry_is(entry, hash) && !aged(table, set, way, tick_of(now)))
			return entry_port(entry);
	}
	return ADDRESS_TABLE_UNKNOWN;
}

/* The winner of an exchange keeps the counts. */
static void replace(struct address_table *table, struct address_set *set, unsigned way, uint64_t old, uint64_t entry)
{
	if (!atomic_compare_exchange_strong_explicit(&set->entries[way], &old, entry, memory_order_relaxed,
						     memory_order_relaxed))
		return;
	if (old & ENTRY_VALID)
		atomic_fetch_sub_explicit(&table->port_entries[entry_port(old)], 1, memory_order_relaxed);
	if (entry & ENTRY_VALID)
		atomic_fetch_add_explicit(&table->port_entries[entry_port(entry)], 1, memory_order_relaxed);
}

/* The way that a new address of @port may take. Return: WAYS when there is none for it. */
static unsigned pick_way(const struct address_table *table, const struct address_set *set, uint16_t port, uint32_t tick)
{
	uint32_t mine = atomic_load_explicit(&table->port_entries[port], memory_order_relaxed);
	unsigned free_way = WAYS, own_way = WAYS, heavy_way = WAYS;
	uint32_t own_age = 0, heavy_entries = 2 * mine;

	for (unsigned way = 0; way < WAYS; way++) {
		uint64_t entry = atomic_load_explicit(&set->entries[way], memory_order_relaxed);
		uint32_t age = tick - atomic_load_explicit(&set->seen[way], memory_order_relaxed);
		uint32_t entries;

		if (!(entry & ENTRY_VALID) || aged(table, set, way, tick)) {
			free_way = way;
			continue;
		}
		if (entry_port(entry) == port) {
			if (own_way == WAYS || age > own_age) {
				own_way = way;
				own_age = age;
			}
			continue;
		}
		entries = atomic_load_explicit(&table->port_entries[entry_port(entry)], memory_order_relaxed);
		if (entries > heavy_entries) {
			heavy_way = way;
			heavy_entries = entries;
		}
	}
	if (mine >= SHARE)
		return own_way;
	if (free_way != WAYS)
		return free_way;
	return own_way != WAYS ? own_way : heavy_way;
}

void address_table_learn(struct address_table *table, uint64_t hash, uint16_t port, uint64_t now)
{
	struct address_set *set = &table->sets[hash & (SETS - 1)];
	uint32_t tick = tick_of(now);
	bool known = false;
	unsigned way;

	for (way = 0; way < WAYS; way++) {
		uint64_t entry = atomic_load_explicit(&set->entries[way], memory_order_relaxed);

		if (!entry_is(entry, hash))
			continue;
		known = true;
		/* Stores only where something changes, so that the line stays shared between sidecores. */
		if (atomic_load_explicit(&set->seen[way], memory_order_relaxed) != tick)
			atomic_store_explicit(&set->seen[way], tick, memory_order_relaxed);
		if (entry_port(entry) != port)
			replace(table, set, way, entry, entry_of(hash, port));
	}
	if (known)
		return;

	way = pick_way(table, set, port, tick);
	if (way == WAYS)
		return;
	uint64_t old = atomic_load_explicit(&set->entries[way], memory_order_relaxed);
	atomic_store_explicit(&set->seen[way], tick, memory_order_relaxed);
	replace(table, set, way, old, entry_of(hash, port));
}

void address_table_forget_port(struct address_table *table, uint16_t port)
{
	for (unsigned i = 0; i < SETS; i++) {
		for (unsigned way = 0; way < WAYS; way++) {
			uint64_t entry = atomic_load_explicit(&table->sets[i].entries[way], memory_order_relaxed);

			if ((entry & ENTRY_VALID) && entry_port(entry) == port)
				replace(table, &table->sets[i], way, entry, 0);
		}
	}
}

unsigned address_table_read(const struct address_table *table, struct address_table_entry *entries, unsigned count,
			    uint64_t now)
{
	unsigned found = 0;

	for (unsigned i = 0; i < SETS; i++) {
		for (unsigned way = 0; way < WAYS; way++) {
			const struct address_set *set = &table->sets[i];
			uint64_t entry = atomic_load_explicit(&set->entries[way], memory_order_relaxed);
			uint64_t key;

			if (!(entry & ENTRY_VALID) || aged(table, set, way, tick_of(now)))
				continue;
			if (found == count)
				return found;
			key = unmix(table, (entry >> 16) << SET_BITS | i);
			for (unsigned byte = 0; byte < 6; byte++)
				entries[found].mac[byte] = (uint8_t)(key >> (52 - 8 * byte));
			entries[found].vlan = (uint16_t)(key & 0xfff);
			entries[found].port = entry_port(entry);
			int32_t ticks =
				(int32_t)(tick_of(now) - atomic_load_explicit(&set->seen[way], memory_order_relaxed));
			entries[found].age_seconds =
				(uint32_t)(((uint64_t)max(ticks, 0) << TICK_SHIFT) / NANOSECONDS_PER_SECOND);
			found++;
		}
	}
	return found;
}
