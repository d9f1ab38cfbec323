/* SPDX-License-Identifier: BSD-3-Clause */
/* The address table: learning, moving, aging, floods, and two threads at once. */
#include "test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/address_table.h"
#include "net_fixture.h"

#define SECOND NANOSECONDS_PER_SECOND
#define AGING  300U

static const uint8_t a[6] = { 0x52, 0x54, 0, 0, 0, 1 }, b[6] = { 0x52, 0x54, 0, 0, 0, 2 };

static void learn(struct address_table *table, const uint8_t mac[6], uint16_t vlan, uint16_t port, uint64_t now)
{
	address_table_learn(table, address_table_hash(table, address_key(mac, vlan)), port, now);
}

static uint16_t lookup(const struct address_table *table, const uint8_t mac[6], uint16_t vlan, uint64_t now)
{
	return address_table_lookup(table, address_table_hash(table, address_key(mac, vlan)), now);
}

static void learns_by_address_and_vlan(void **state)
{
	struct address_table *table = address_table_create(AGING);

	assert_int_equal(lookup(table, a, 0, SECOND), ADDRESS_TABLE_UNKNOWN);
	learn(table, a, 0, 7, SECOND);
	learn(table, b, 0, 1023, SECOND);
	learn(table, a, 5, 9, SECOND);
	assert_int_equal(lookup(table, a, 0, SECOND), 7);
	assert_int_equal(lookup(table, b, 0, SECOND), 1023);
	assert_int_equal(lookup(table, a, 5, SECOND), 9);
	assert_int_equal(lookup(table, b, 5, SECOND), ADDRESS_TABLE_UNKNOWN);
	/* moves */
	learn(table, a, 0, 8, SECOND);
	assert_int_equal(lookup(table, a, 0, SECOND), 8);
	assert_int_equal(lookup(table, a, 5, SECOND), 9);
	/* goes with its port */
	address_table_forget_port(table, 8);
	assert_int_equal(lookup(table, a, 0, SECOND), ADDRESS_TABLE_UNKNOWN);
	assert_int_equal(lookup(table, b, 0, SECOND), 1023);
	address_table_destroy(table);
}

static void forgets_who_is_silent(void **state)
{
	struct address_table *table = address_table_create(AGING);
	uint64_t now = 1000 * SECOND;

	learn(table, a, 0, 1, now);
	learn(table, b, 0, 2, now);
	now += (AGING - 2) * SECOND;
	assert_int_equal(lookup(table, a, 0, now), 1);
	learn(table, b, 0, 2, now);
	now += 5 * SECOND;
	assert_int_equal(lookup(table, a, 0, now), ADDRESS_TABLE_UNKNOWN);
	assert_int_equal(lookup(table, b, 0, now), 2);
	/* A clock of another sidecore that is a little behind does not age anything. */
	assert_int_equal(lookup(table, b, 0, now - 4 * SECOND), 2);
	address_table_destroy(table);
}

static void reads_back_what_was_learned(void **state)
{
	struct address_table *table = address_table_create(AGING);
	struct address_table_entry *entries = calloc(4096, sizeof(*entries));
	unsigned count, known = 0;

	for (uint16_t i = 0; i < 1000; i++) {
		uint8_t mac[6] = { 0x02, (uint8_t)i, 0xff, 0, (uint8_t)(i >> 8), 0xaa };

		learn(table, mac, (uint16_t)(i % 4096), i, 10 * SECOND);
	}
	count = address_table_read(table, entries, 4096, 15 * SECOND);
	for (unsigned i = 0; i < count; i++) {
		uint16_t port = entries[i].port;
		uint8_t mac[6] = { 0x02, (uint8_t)port, 0xff, 0, (uint8_t)(port >> 8), 0xaa };

		assert_memory_equal(entries[i].mac, mac, 6);
		assert_int_equal(entries[i].vlan, port);
		assert_in_range(entries[i].age_seconds, 3, 6);
		known++;
	}
	assert_in_range(known, 995, 1000); /* 1000 in 4096 sets of 5: a set overflows hardly ever */
	assert_int_equal(address_table_read(table, entries, 10, 15 * SECOND), 10);
	assert_int_equal(address_table_read(table, entries, 4096, 15 * SECOND + 2 * AGING * SECOND), 0);
	free(entries);
	address_table_destroy(table);
}

static unsigned flood(struct address_table *table, uint16_t port, unsigned count, uint64_t *random)
{
	for (unsigned i = 0; i < count; i++) {
		uint32_t low = test_random(random);
		uint8_t mac[6] = { 0x02, (uint8_t)port, (uint8_t)(low >> 24), (uint8_t)(low >> 16), (uint8_t)(low >> 8),
				   (uint8_t)low };

		learn(table, mac, 0, port, 20 * SECOND);
	}
	return count;
}

/* One port alone gets its share and no more. */
static void a_flood_has_its_share(void **state)
{
	struct address_table *table = address_table_create(AGING);
	struct address_table_entry *entries = calloc(32768, sizeof(*entries));
	uint64_t random = 6;

	flood(table, 1, 200000, &random);
	assert_in_range(address_table_read(table, entries, 32768, 20 * SECOND), 5000, 4096 * 5 / 4);
	free(entries);
	address_table_destroy(table);
}

/* Neighbours that were there keep their entries, and new ones still find a place, while four ports flood. */
static void floods_displace_only_floods(void **state)
{
	struct address_table *table = address_table_create(AGING);
	struct address_table_entry *entries = calloc(32768, sizeof(*entries));
	unsigned count, kept = 0, late = 0, still = 0, of_flood = 0;
	uint64_t random = 4;

	for (uint16_t i = 0; i < 100; i++) {
		uint8_t mac[6] = { 0x52, 0x54, 0, 1, 0, (uint8_t)i };

		learn(table, mac, 0, (uint16_t)(100 + i), 19 * SECOND);
	}
	for (uint16_t port = 1; port <= 6; port++)
		flood(table, port, 100000, &random);
	for (uint16_t i = 0; i < 100; i++) {
		uint8_t mac[6] = { 0x52, 0x54, 0, 1, 0, (uint8_t)i }, new[6] = { 0x52, 0x54, 0, 2, 0, (uint8_t)i };

		kept += lookup(table, mac, 0, 20 * SECOND) == 100 + i;
		learn(table, new, 0, (uint16_t)(100 + i), 20 * SECOND);
		late += lookup(table, new, 0, 20 * SECOND) == 100 + i;
	}
	assert_int_equal(kept, 100);
	assert_int_equal(late, 100);
	/* Into a table that is full, and still there after more of the same. */
	for (uint16_t port = 1; port <= 6; port++)
		flood(table, port, 100000, &random);
	for (uint16_t i = 0; i < 100; i++) {
		uint8_t new[6] = { 0x52, 0x54, 0, 2, 0, (uint8_t)i };

		still += lookup(table, new, 0, 20 * SECOND) == 100 + i;
	}
	assert_int_equal(still, 100);
	count = address_table_read(table, entries, 32768, 20 * SECOND);
	for (unsigned i = 0; i < count; i++)
		of_flood += entries[i].port == 1;
	assert_in_range(of_flood, 1, 4096 * 5 / 4);
	free(entries);
	address_table_destroy(table);
}

/*
 * Two threads learn the same 64 addresses, each from the port that is its own for that address, and look them up: an
 * answer must be one of the two ports of that very address, never another's.
 */
struct stress {
	struct address_table *table;
	unsigned thread;
	unsigned wrong, found;
};

static void *stress_run(void *argument)
{
	struct stress *stress = argument;
	uint64_t random = stress->thread;

	for (unsigned i = 0; i < 300000; i++) {
		uint32_t pick = test_random(&random);
		uint8_t mac[6] = { 0x52, 0x54, 0, 0, 1, (uint8_t)(pick % 64) };
		uint16_t port;

		if (pick & 64)
			learn(stress->table, mac, 0, (uint16_t)(pick % 64 * 2 + stress->thread), i * 100000ULL);
		else if (pick & 128)
			flood(stress->table, (uint16_t)(500 + stress->thread), 1, &random);
		port = lookup(stress->table, mac, 0, i * 100000ULL);
		if (port != ADDRESS_TABLE_UNKNOWN) {
			stress->found++;
			stress->wrong += port / 2 != pick % 64;
		}
		if (!(pick % 5000))
			address_table_forget_port(stress->table, (uint16_t)(pick % 64 * 2 + stress->thread));
	}
	return NULL;
}

static void two_threads_never_mix_addresses_up(void **state)
{
	struct address_table *table = address_table_create(AGING);
	struct stress stress[2] = { { table, 0, 0, 0 }, { table, 1, 0, 0 } };
	pthread_t threads[2];

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, stress_run, &stress[i]), 0);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(stress[i].wrong, 0);
		assert_in_range(stress[i].found, 1000, 300000);
	}
	address_table_destroy(table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(learns_by_address_and_vlan),  cmocka_unit_test(forgets_who_is_silent),
		cmocka_unit_test(reads_back_what_was_learned), cmocka_unit_test(floods_displace_only_floods),
		cmocka_unit_test(a_flood_has_its_share),       		cmocka_unit_test(two_threads_never_mix_addresses_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
