/* SPDX-License-Identifier: BSD-3-Clause */
/* Virtqueues: what well-formed rings yield, and by what name malformed ones break. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring_fixture.h"

#define DATA (FIXTURE_BASE + FIXTURE_DATA)
#define TABLE (FIXTURE_DATA + 0x8000)
#define END (FIXTURE_BASE + 2 * FIXTURE_REGION)
#define SEAM (FIXTURE_BASE + FIXTURE_REGION)

/* Split rings whose descriptors are written as they stand; head 0 is offered. */
static void test_split_malformed(void **state)
{
	static const struct {
		struct vring_desc descriptors[3];
		struct vring_desc table[3]; /* at TABLE */
		uint16_t head;
		bool no_indirect;
		enum virtqueue_break_reason reason; /* 0: a good chain */
		unsigned segments;
	} cases[] = {
		/* 0 */ { { { DATA, 10, 0, 0 } }, .segments = 1 },
		/* 1 */ { { { DATA, 10, 0, 0 } }, .head = 16, .reason = VIRTQUEUE_BAD_HEAD },
		/* 2 */ { { { DATA, 10, 0, 0 } }, .head = 65535, .reason = VIRTQUEUE_BAD_HEAD },
		/* 3 */ { { { DATA, 10, 1, 16 } }, .reason = VIRTQUEUE_BAD_NEXT },
		/* 4 */ { { { DATA, 10, 1, 0 } }, .reason = VIRTQUEUE_CHAIN_TOO_LONG },		/* next is itself */
		/* 5 */ { { { DATA, 10, 1, 1 }, { DATA, 10, 1, 0 } }, .reason = VIRTQUEUE_CHAIN_TOO_LONG },
		/* 6 */ { { { DATA, 0, 0, 0 } }, .reason = VIRTQUEUE_ZERO_LENGTH },
		/* 7 */ { { { 0, 10, 0, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 8 */ { { { END - 9, 10, 0, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 9 */ { { { END - 10, 10, 0, 0 } }, .segments = 1 },
		/* 10 */ { { { UINT64_MAX, 10, 0, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 11 */ { { { FIXTURE_BASE - 1, 10, 0, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 12 */ { { { SEAM - 4, 10, 0, 0 } }, .segments = 2 },				/* spans two regions */
		/* 13 */ { { { FIXTURE_BASE, UINT32_MAX, 0, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 14 */ { { { DATA, 10, 3, 1 }, { DATA, 10, 0, 0 } }, .reason = VIRTQUEUE_READABLE_AFTER_WRITABLE },
		/* 15 */ { { { DATA, 10, 1, 1 }, { DATA, 10, 2, 0 } }, .segments = 2 },
		/* 16 */ { { { DATA, 16, 4, 0 } }, .no_indirect = true, .reason = VIRTQUEUE_INDIRECT_NOT_NEGOTIATED },
		/* 17 */ { { { DATA - 16 + 0x8000, 15, 4, 0 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },
		/* 18 */ { { { DATA + 0x8000, 0, 4, 0 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },
		/* 19 */ { { { DATA + 0x8000, 1025 * 16, 4, 0 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },
		/* 20 */ { { { 0, 16, 4, 0 } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 21 */ { { { SEAM - 16, 32, 4, 0 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },	/* not contiguous */
		/* 22 */ { { { DATA + 0x8000, 16, 5, 0 } }, .reason = VIRTQUEUE_INDIRECT_NESTED },	/* with NEXT */
		/* 23 */ { { { DATA + 0x8000, 16, 4, 0 } }, { { DATA, 16, 4, 0 } }, .reason = VIRTQUEUE_INDIRECT_NESTED },
		/* 24 */ { { { DATA + 0x8000, 16, 4, 0 } }, { { DATA, 16, 1, 0 } }, .reason = VIRTQUEUE_CHAIN_TOO_LONG },
		/* 25 */ { { { DATA + 0x8000, 16, 4, 0 } }, { { DATA, 16, 1, 1 } }, .reason = VIRTQUEUE_BAD_NEXT },
		/* 26 */ { { { DATA + 0x8000, 32, 4, 0 } }, { { DATA, 16, 1, 1 }, { DATA, 4, 2, 0 } }, .segments = 2 },
		/* 27 */ { { { DATA, 8, 1, 1 }, { DATA + 0x8000, 32, 4, 0 } },
			   { { DATA, 16, 1, 1 }, { DATA, 4, 2, 0 } }, .segments = 3 },		/* direct, then indirect */
		/* 28 */ { { { DATA + 0x8000, 48, 4, 0 } }, { { DATA, 8, 1, 2 }, { 0 }, { DATA, 4, 2, 0 } }, .segments = 2 },
	};
	struct ring_fixture fixture;
	struct chain chain;

	for (size_t i = 0; i < array_size(cases); i++) {
		unsigned popped;

		ring_fixture_start(&fixture, false, !cases[i].no_indirect, false);
		memcpy(fixture.descriptors, cases[i].descriptors, sizeof(cases[i].descriptors));
		memcpy(fixture_bytes(&fixture, TABLE), cases[i].table, sizeof(cases[i].table));
		fixture.avail->ring[0] = cases[i].head;
		fixture.avail->idx = 1;
		popped = virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool);
		if (fixture.queue.broken != cases[i].reason || popped != !cases[i].reason)
			fail_msg("case %zu: popped %u, %s", i, popped, virtqueue_break_reason_name(fixture.queue.broken));
		if (popped && (unsigned)chain.readable_count + chain.writable_count != cases[i].segments)
			fail_msg("case %zu: %u+%u segments", i, chain.readable_count, chain.writable_count);
		if (!popped) { /* sticky, nothing is used, nothing is kept */
			assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 0);
			assert_false(virtqueue_publish(&fixture.queue));
			assert_int_equal(fixture.pool.used, 0);
			assert_int_equal(fixture.queue.counters.breaks, 1);
			assert_int_equal(fixture.used->idx, 0);
		}
		ring_fixture_stop(&fixture);
	}
}

static void test_split_bad_avail_index(void **state)
{
	struct ring_fixture fixture;
	struct chain chains[32];

	/* one more than the queue has */
	ring_fixture_start(&fixture, false, false, false);
	fixture.avail->idx = FIXTURE_SIZE + 1;
	assert_int_equal(virtqueue_pop(&fixture.queue, chains, 1, &fixture.pool), 0);
	assert_int_equal(fixture.queue.broken, VIRTQUEUE_BAD_AVAIL_INDEX);
	ring_fixture_stop(&fixture);

	/* chains that are out already are offered again: more outstanding than the queue holds */
	ring_fixture_start(&fixture, false, false, false);
	for (uint16_t i = 0; i < FIXTURE_SIZE; i++)
		ring_fixture_offer(&fixture, i, &(struct fixture_buffer){ DATA, 8, false }, 1, 0);
	assert_int_equal(virtqueue_pop(&fixture.queue, chains, 32, &fixture.pool), FIXTURE_SIZE);
	ring_fixture_offer(&fixture, 3, &(struct fixture_buffer){ DATA, 8, false }, 1, 0);
	assert_int_equal(virtqueue_pop(&fixture.queue, chains, 32, &fixture.pool), 0);
	assert_int_equal(fixture.queue.broken, VIRTQUEUE_BAD_AVAIL_INDEX);
	ring_fixture_stop(&fixture);
}

#define A (1U << 7) /* available in the first lap */

static void test_packed_malformed(void **state)
{
	static const struct {
		struct vring_packed_desc descriptors[FIXTURE_SIZE];
		struct vring_packed_desc table[3];
		enum virtqueue_break_reason reason;
		unsigned segments, slots;
	} cases[] = {
		/* 0 */ { { { DATA, 10, 5, A } }, .segments = 1, .slots = 1 },
		/* 1 */ { { { DATA, 10, 16, A } }, .reason = VIRTQUEUE_BAD_HEAD },
		/* 2 */ { { { DATA, 10, 65535, A | 1 }, { DATA, 9, 3, A } }, .segments = 2, .slots = 2 }, /* id: last's */
		/* 3 */ { { { DATA, 0, 0, A } }, .reason = VIRTQUEUE_ZERO_LENGTH },
		/* 4 */ { { { 1, 10, 0, A } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 5 */ { { { DATA, 10, 0, A | 3 }, { DATA, 10, 0, A } }, .reason = VIRTQUEUE_READABLE_AFTER_WRITABLE },
		/* 6 */ { { [0 ... FIXTURE_SIZE - 1] = { DATA, 10, 0, A | 1 } }, .reason = VIRTQUEUE_CHAIN_TOO_LONG },
		/* 7 */ { { { DATA + 0x8000, 32, 2, A | 4 } }, { { DATA, 8, 0, 0 }, { DATA, 8, 0, 2 } },
			  .segments = 2, .slots = 1 },
		/* 8 */ { { { DATA + 0x8000, 31, 2, A | 4 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },
		/* 9 */ { { { DATA + 0x8000, 32, 2, A | 5 } }, .reason = VIRTQUEUE_INDIRECT_NESTED },
		/* 10 */ { { { DATA + 0x8000, 16, 2, A | 4 } }, { { DATA, 16, 0, 4 } }, .reason = VIRTQUEUE_INDIRECT_NESTED },
		/* 11 */ { { { DATA + 0x8000, 16, 2, A | 4 } }, { { DATA, 0, 0, 0 } }, .reason = VIRTQUEUE_ZERO_LENGTH },
		/* 12 */ { { { SEAM - 4, 10, 0, A } }, .segments = 2, .slots = 1 },
		/* 13 */ { { { END - 4, 10, 0, A } }, .reason = VIRTQUEUE_BAD_ADDRESS },
		/* 14 */ { { { DATA + 0x8000, 1025 * 16, 2, A | 4 } }, .reason = VIRTQUEUE_INDIRECT_BAD_TABLE },
	};
	struct ring_fixture fixture;
	struct chain chain;

	for (size_t i = 0; i < array_size(cases); i++) {
		unsigned popped;

		ring_fixture_start(&fixture, true, true, false);
		memcpy(fixture.packed, cases[i].descriptors, sizeof(cases[i].descriptors));
		memcpy(fixture_bytes(&fixture, TABLE), cases[i].table, sizeof(cases[i].table));
		popped = virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool);
		if (fixture.queue.broken != cases[i].reason || popped != !cases[i].reason)
			fail_msg("case %zu: popped %u, %s", i, popped, virtqueue_break_reason_name(fixture.queue.broken));
		if (popped) {
			assert_int_equal(chain.readable_count + chain.writable_count, cases[i].segments);
			assert_int_equal(chain.slots, cases[i].slots);
		} else {
			assert_int_equal(fixture.pool.used, 0);
		}
		ring_fixture_stop(&fixture);
	}
}

/* Chains of changing shapes for many laps, unpopped and popped again, used out of order. */
static void round_trips(bool packed, bool indirect, bool event_index)
{
	static struct ring_fixture fixture;
	uint16_t used_seen = 0, used_position = 0;
	bool used_wrap = true;

	ring_fixture_start(&fixture, packed, indirect, event_index);
	for (unsigned round = 0; round < 5000; round++) {
		struct chain chains[2];
		unsigned buffers = 1 + round % 5;
		struct fixture_buffer buffer[5];

		fixture.pool.used = 0;
		for (unsigned i = 0; i < buffers; i++)
			buffer[i] = (struct fixture_buffer){ DATA + i * 4096, 100 + i, i >= buffers / 2 };
		ring_fixture_offer(&fixture, 1, buffer, buffers, indirect ? TABLE : 0);
		ring_fixture_offer(&fixture, 9, buffer, buffers, indirect ? TABLE + 256 : 0);

		assert_true(virtqueue_pending(&fixture.queue));
		assert_int_equal(virtqueue_pop(&fixture.queue, chains, 2, &fixture.pool), 2);
		assert_int_equal(fixture.queue.broken, VIRTQUEUE_INTACT);
		virtqueue_unpop(&fixture.queue, &chains[1]);
		if (round % 3 == 0) {
			virtqueue_unpop(&fixture.queue, &chains[0]);
			assert_int_equal(virtqueue_pop(&fixture.queue, &chains[0], 1, &fixture.pool), 1);
		}
		assert_int_equal(virtqueue_pop(&fixture.queue, &chains[1], 2, &fixture.pool), 1);
		assert_false(virtqueue_pending(&fixture.queue));
		assert_int_equal(chains[0].id, 1);
		assert_int_equal(chains[1].id, 9);
		assert_int_equal(chains[0].readable_count, buffers / 2);
		assert_int_equal(chains[0].writable_count, buffers - buffers / 2);
		assert_int_equal(chain_writable(&chains[0])->length, 100 + buffers / 2);

		virtqueue_push(&fixture.queue, chains[1].id, chains[1].slots, round);
		virtqueue_push(&fixture.queue, chains[0].id, chains[0].slots, 0);
		if (!packed) {
			assert_int_equal(fixture.used->idx, used_seen);
			virtqueue_publish(&fixture.queue);
			assert_int_equal(fixture.used->idx, (uint16_t)(used_seen + 2));
			assert_int_equal(fixture.used->ring[used_seen % FIXTURE_SIZE].id, 9);
			assert_int_equal(fixture.used->ring[used_seen % FIXTURE_SIZE].len, round);
			assert_int_equal(fixture.used->ring[(used_seen + 1) % FIXTURE_SIZE].id, 1);
			used_seen = (uint16_t)(used_seen + 2);
			continue;
		}
		for (unsigned i = 0; i < 2; i++) {
			struct vring_packed_desc *slot = &fixture.packed[used_position];

			if (!i) { /* hidden until published */
				assert_false(!!(slot->flags & 1U << 15) == used_wrap &&
					     !!(slot->flags & 1U << 7) == used_wrap);
				virtqueue_publish(&fixture.queue);
			}
			assert_true(!!(slot->flags & 1U << 15) == used_wrap && !!(slot->flags & 1U << 7) == used_wrap);
			assert_int_equal(slot->id, i ? 1 : 9);
			assert_int_equal(slot->len, i ? 0 : round);
			used_position = (uint16_t)(used_position + (indirect ? 1 : buffers));
			if (used_position >= FIXTURE_SIZE) {
				used_position = (uint16_t)(used_position - FIXTURE_SIZE);
				used_wrap = !used_wrap;
			}
		}
	}
	assert_int_equal(fixture.queue.counters.chains, 10000);
	ring_fixture_stop(&fixture);
}

static void test_round_trips(void **state)
{
	for (unsigned i = 0; i < 8; i++)
		round_trips(i & 1, i & 2, i & 4);
}

/* A pool too small for the batch ends it early and harmlessly. */
static void test_pool_is_full(void **state)
{
	struct ring_fixture fixture;
	struct fixture_buffer buffers[3] = { { DATA, 8, false }, { DATA, 8, false }, { DATA, 8, true } };
	struct chain chains[4];

	for (unsigned packed = 0; packed < 2; packed++) {
		ring_fixture_start(&fixture, packed, false, false);
		for (uint16_t i = 0; i < 4; i++)
			ring_fixture_offer(&fixture, (uint16_t)(i * 3), buffers, 3, 0);
		fixture.pool.capacity = 8;
		assert_int_equal(virtqueue_pop(&fixture.queue, chains, 4, &fixture.pool), 2);
		assert_int_equal(fixture.pool.used, 6);
		fixture.pool.used = 0;
		assert_int_equal(virtqueue_pop(&fixture.queue, chains, 4, &fixture.pool), 2);
		assert_int_equal(chains[1].id, 9);
		assert_int_equal(fixture.queue.broken, VIRTQUEUE_INTACT);
		ring_fixture_stop(&fixture);
	}
}

/* When does the driver want an interrupt? Compared with the definition, entry by entry. */
static void test_interrupts(void **state)
{
	struct ring_fixture fixture;
	struct fixture_buffer buffer = { DATA, 8, true };
	struct chain chains[8];

	srand(1);
	for (unsigned packed = 0; packed < 2; packed++) {
		uint32_t position = 0; /* used entries ever */

		ring_fixture_start(&fixture, packed, false, true);
		for (unsigned round = 0; round < 20000; round++) {
			unsigned batch = 1U + (unsigned)rand() % 8;
			uint32_t event = position + (uint32_t)rand() % FIXTURE_SIZE;
			bool expected = event >= position && event < position + batch, wanted;

			fixture.pool.used = 0;
			for (uint16_t i = 0; i < batch; i++)
				ring_fixture_offer(&fixture, i, &buffer, 1, 0);
			assert_int_equal(virtqueue_pop(&fixture.queue, chains, 8, &fixture.pool), batch);
			for (unsigned i = 0; i < batch; i++)
				virtqueue_push(&fixture.queue, chains[i].id, chains[i].slots, 1);
			if (packed) {
				fixture.driver_event->off_wrap =
					(uint16_t)(event % FIXTURE_SIZE | (event / FIXTURE_SIZE % 2 ? 0U : 0x8000U));
				fixture.driver_event->flags = 2;
			} else {
				fixture.avail->ring[FIXTURE_SIZE] = (uint16_t)event;
			}
			wanted = virtqueue_publish(&fixture.queue);
			if (wanted != expected)
				fail_msg("packed %u round %u: position %u batch %u event %u: %d", packed, round, position,
					 batch, event, wanted);
			position += batch;
		}
		ring_fixture_stop(&fixture);
	}
}

/* A wish that comes after an early publish, before it is settled, is heard; and each publish is told of once. */
static void test_settle(void **state)
{
	struct fixture_buffer buffer = { DATA, 8, true };
	struct ring_fixture fixture;
	struct chain chain;

	for (unsigned i = 0; i < 16; i++) {
		bool packed = i & 1, event_index = i & 2, before = i & 4, after = i & 8;

		ring_fixture_start(&fixture, packed, false, event_index);
		for (uint16_t round = 0; round < 40; round++) {
			uint16_t position = round % FIXTURE_SIZE | (round / FIXTURE_SIZE % 2 ? 0U : 0x8000U);
			uint16_t elsewhere = (uint16_t)(position ^ (1U << 3));

			ring_fixture_offer(&fixture, 3, &buffer, 1, 0);
			fixture.pool.used = 0;
			assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 1);
			assert_false(virtqueue_settle(&fixture.queue));
			virtqueue_push(&fixture.queue, chain.id, chain.slots, 1);
			for (unsigned look = 0; look < 2; look++) {
				bool wish = look ? after : before;
				bool heard = wish && (!look || !before);

				if (packed) {
					fixture.driver_event->off_wrap = wish ? position : elsewhere;
					fixture.driver_event->flags = event_index ? 2 : !wish;
				} else {
					fixture.avail->ring[FIXTURE_SIZE] = (uint16_t)(wish ? round : round + 3);
					fixture.avail->flags = !wish;
				}
				if (look)
					assert_int_equal(virtqueue_settle(&fixture.queue), heard);
				else
					assert_int_equal(virtqueue_publish_early(&fixture.queue), heard);
				assert_int_equal(virtqueue_unsettled(&fixture.queue), !look && !heard);
			}
			assert_false(virtqueue_settle(&fixture.queue));
			assert_false(virtqueue_publish_early(&fixture.queue));
		}
		ring_fixture_stop(&fixture);
	}
}

static void test_arm_and_disarm(void **state)
{
	struct fixture_buffer buffer = { DATA, 8, false };
	struct ring_fixture fixture;
	struct chain chain;

	for (unsigned i = 0; i < 4; i++) {
		bool packed = i & 1, event_index = i & 2;

		ring_fixture_start(&fixture, packed, false, event_index);
		virtqueue_disarm(&fixture.queue);
		if (packed)
			assert_int_equal(fixture.device_event->flags, 1);
		else if (!event_index)
			assert_int_equal(fixture.used->flags, 1);
		assert_false(virtqueue_arm(&fixture.queue));
		if (packed) {
			assert_int_equal(fixture.device_event->flags, event_index ? 2 : 0);
			if (event_index)
				assert_int_equal(fixture.device_event->off_wrap, 0x8000);
		} else {
			assert_int_equal(fixture.used->flags, 0);
		}
		ring_fixture_offer(&fixture, 0, &buffer, 1, 0);
		assert_true(virtqueue_arm(&fixture.queue)); /* work is there: do not sleep */
		assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 1);
		assert_false(virtqueue_arm(&fixture.queue));
		if (packed && event_index)
			assert_int_equal(fixture.device_event->off_wrap, 0x8001);
		if (!packed && event_index)
			assert_int_equal(*(uint16_t *)(void *)&fixture.used->ring[FIXTURE_SIZE], 1);
		ring_fixture_stop(&fixture);
	}
}

static void test_start_refuses(void **state)
{
	struct ring_fixture fixture;
	struct virtqueue_config good, config;
	struct virtqueue queue = { 0 };

	ring_fixture_start(&fixture, false, false, false);
	good = fixture.config;
#define REFUSED(change)                                                                                                \
	do {                                                                                                           \
		config = good;                                                                                         \
		change;                                                                                                \
		assert_int_equal(virtqueue_start(&queue, &config), -EINVAL);                                           \
	} while (0)
	REFUSED(config.size = 0);
	REFUSED(config.size = 15);
	REFUSED(config.size = 65535);
	REFUSED(config.descriptors = NULL);
	REFUSED(config.descriptors += 8);
	REFUSED(config.driver_area += 1);
	REFUSED(config.device_area += 2);
	REFUSED((config.packed = true, config.avail_base = 16));
	REFUSED((config.packed = true, config.used_base = 0x8010));
	config = good;
	config.packed = true;
	config.size = 15;
	assert_int_equal(virtqueue_start(&queue, &config), 0);
	ring_fixture_stop(&fixture);
}

/* Stop tells where to go on, and starting from there goes on. */
static void test_base(void **state)
{
	struct fixture_buffer buffer = { DATA, 8, false };
	struct ring_fixture fixture;
	struct chain chain;

	for (unsigned packed = 0; packed < 2; packed++) {
		ring_fixture_start(&fixture, packed, false, false);
		for (unsigned i = 0; i < 21; i++) {
			uint32_t base;

			ring_fixture_offer(&fixture, 2, &buffer, 1, 0);
			fixture.pool.used = 0;
			assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 1);
			virtqueue_push(&fixture.queue, chain.id, chain.slots, 0);
			virtqueue_publish(&fixture.queue);
			base = virtqueue_stop(&fixture.queue);
			assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 0);
			fixture.config.avail_base = (uint16_t)base;
			fixture.config.used_base = packed ? (uint16_t)(base >> 16) : fixture.used->idx;
			assert_int_equal(virtqueue_start(&fixture.queue, &fixture.config), 0);
		}
		assert_int_equal(fixture.queue.counters.chains, 21);
		ring_fixture_stop(&fixture);
	}
}

/* The log bit of a ring's page must be set after the write: whatever the front-end copies before is stale. */
static void test_ring_writes_are_logged(void **state)
{
	struct fixture_buffer buffer = { DATA, 8, false };
	struct ring_fixture fixture;
	struct chain chain;
	uint8_t *bits;
	int log_fd;

	for (unsigned packed = 0; packed < 2; packed++) {
		uint64_t page = (FIXTURE_BASE + (packed ? 0 : 0x2000)) / DIRTY_LOG_PAGE;
		uint64_t event_page = (FIXTURE_BASE + 0x2000) / DIRTY_LOG_PAGE;

		ring_fixture_start(&fixture, packed, false, true);
		log_fd = memfd_create("log", MFD_CLOEXEC);
		assert_int_equal(ftruncate(log_fd, 4096), 0);
		bits = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);
		assert_int_equal(dirty_log_map(log_fd, 4096, 0, &fixture.config.log), 0);
		fixture.config.log_used = true;
		assert_int_equal(virtqueue_start(&fixture.queue, &fixture.config), 0);

		ring_fixture_offer(&fixture, 2, &buffer, 1, 0);
		assert_int_equal(virtqueue_pop(&fixture.queue, &chain, 1, &fixture.pool), 1);
		virtqueue_push(&fixture.queue, chain.id, chain.slots, 0);
		memset(bits, 0, 4096); /* the front-end takes what is marked so far */
		virtqueue_publish(&fixture.queue);
		assert_true(bits[page / 8] & 1U << page % 8);
		memset(bits, 0, 4096);
		virtqueue_arm(&fixture.queue);
		assert_true(bits[event_page / 8] & 1U << event_page % 8);

		dirty_log_unmap(fixture.config.log);
		munmap(bits, 4096);
		close(log_fd);
		ring_fixture_stop(&fixture);
	}
}

/* With a warm hint, chains of one buffer go a way of their own; what is wrong with one is found all the same. */
static void test_one_buffer(void **state)
{
	const uint64_t end = FIXTURE_BASE + FIXTURE_REGION, last = FIXTURE_BASE + 2 * FIXTURE_REGION;
	struct fixture_buffer good = { FIXTURE_BASE + FIXTURE_DATA, 8, false };
	const struct {
		struct fixture_buffer buffer;
		enum virtqueue_break_reason reason;
		unsigned segments;
	} cases[] = {
		/*  0 */ { { FIXTURE_BASE, 1, false }, VIRTQUEUE_INTACT, 1 },
		/*  1 */ { { end - 1, 1, true }, VIRTQUEUE_INTACT, 1 },
		/*  2 */ { { end - 1, 2, false }, VIRTQUEUE_INTACT, 2 },
		/*  3 */ { { end - 8, 4096, true }, VIRTQUEUE_INTACT, 2 },
		/*  4 */ { { end, 16, false }, VIRTQUEUE_INTACT, 1 },
		/*  5 */ { { last - 16, 16, false }, VIRTQUEUE_INTACT, 1 },
		/*  6 */ { { last - 16, 17, false }, VIRTQUEUE_BAD_ADDRESS, 0 },
		/*  7 */ { { FIXTURE_BASE - 1, 16, false }, VIRTQUEUE_BAD_ADDRESS, 0 },
		/*  8 */ { { last, 1, false }, VIRTQUEUE_BAD_ADDRESS, 0 },
		/*  9 */ { { FIXTURE_BASE, 0, false }, VIRTQUEUE_ZERO_LENGTH, 0 },
		/* 10 */ { { FIXTURE_BASE, UINT32_MAX, false }, VIRTQUEUE_BAD_ADDRESS, 0 },
		/* 11 */ { { UINT64_MAX, 1, false }, VIRTQUEUE_BAD_ADDRESS, 0 },
		/* 12 */ { { UINT64_MAX - 1, UINT32_MAX, true }, VIRTQUEUE_BAD_ADDRESS, 0 },
	};

	/* Each with both layouts, behind a chain of the same direction and of the other one. */
	for (unsigned i = 0; i < 4 * array_size(cases); i++) {
		unsigned number = i / 4, expected = cases[number].reason == VIRTQUEUE_INTACT ? 3 : 1;
		struct ring_fixture fixture;

		good.writable = i & 2;
		struct chain chains[4];

		ring_fixture_start(&fixture, i & 1, false, false);
		ring_fixture_offer(&fixture, 3, &good, 1, 0);
		ring_fixture_offer(&fixture, 5, &cases[number].buffer, 1, 0);
		ring_fixture_offer(&fixture, 7, &good, 1, 0);
		if (virtqueue_pop(&fixture.queue, chains, 4, &fixture.pool) != expected ||
		    fixture.queue.broken != cases[number].reason)
			fail_msg("case %u packed %u: %s", number, i & 1,
				 virtqueue_break_reason_name(fixture.queue.broken));
		assert_int_equal(chains[0].id, 3);
		assert_int_equal(fixture.pool.used, expected == 3 ? 2 + cases[number].segments : 1);
		if (expected == 3) {
			const struct fixture_buffer *buffer = &cases[number].buffer;

			assert_int_equal(chains[1].id, 5);
			assert_int_equal(chains[1].readable_count, buffer->writable ? 0 : cases[number].segments);
			assert_int_equal(chains[1].writable_count, buffer->writable ? cases[number].segments : 0);
			assert_int_equal(chains[1].readable_length, buffer->writable ? 0 : buffer->length);
			assert_int_equal(chains[1].writable_length, buffer->writable ? buffer->length : 0);
			assert_ptr_equal(chains[1].segments->base, buffer->address >= end ?
					 fixture.memory->regions[1]->host + (buffer->address - end) :
					 fixture.memory->regions[0]->host + (buffer->address - FIXTURE_BASE));
			assert_int_equal(chains[2].id, 7);
			assert_ptr_equal(chains[2].segments->base, fixture.memory->regions[0]->host + FIXTURE_DATA);
			assert_int_equal(chains[2].segments->length, 8);
			assert_int_equal(chains[2].writable_length, good.writable ? 8 : 0);
		}
		ring_fixture_stop(&fixture);
	}
}

/* Directions change from chain to chain, around the ring's end too; the pool's sums are those of what was popped. */
static void test_directions(void **state)
{
	for (unsigned packed = 0; packed < 2; packed++) {
		uint64_t expected[2] = { 0 };
		struct ring_fixture fixture;
		struct chain chains[FIXTURE_SIZE];

		ring_fixture_start(&fixture, packed, false, false);
		for (unsigned round = 0; round < 40; round++) {
			const unsigned count = 1 + round % 7;
			uint32_t written[FIXTURE_SIZE];

			for (unsigned i = 0; i < count; i++) {
				bool writable = (round * 5 + i * i) % 3 == 0;
				uint32_t length = 1 + round + i;

				ring_fixture_offer(&fixture, (uint16_t)i,
						   &(struct fixture_buffer){ DATA, length, writable }, 1, 0);
				expected[writable] += length;
				written[i] = writable ? length : 0;
			}
			fixture.pool.used = 0;
			assert_int_equal(virtqueue_pop(&fixture.queue, chains, FIXTURE_SIZE, &fixture.pool), count);
			for (unsigned i = 0; i < count; i++) {
				assert_int_equal(chains[i].id, i);
				assert_int_equal(chains[i].slots, 1);
				assert_int_equal(chains[i].writable_length, written[i]);
				assert_int_equal(chains[i].readable_length, written[i] ? 0 : 1 + round + i);
				assert_int_equal(chains[i].readable_count + chains[i].writable_count, 1);
			}
			assert_int_equal(fixture.pool.readable_bytes, expected[0]);
			assert_int_equal(fixture.pool.writable_bytes, expected[1]);
			virtqueue_push_chains(&fixture.queue, chains, written, count);
			virtqueue_publish(&fixture.queue);
		}
		assert_int_equal(fixture.queue.outstanding, 0);
		ring_fixture_stop(&fixture);
	}
}

/* A driver that makes more available than it has got back breaks its queue; the chains that fit are good. */
static void test_more_than_the_queue_holds(void **state)
{
	struct fixture_buffer buffer = { DATA, 8, false };
	struct chain chains[2 * FIXTURE_SIZE];
	struct ring_fixture fixture;

	for (unsigned i = 0; i < 4; i++) {
		bool packed = i & 1, at_once = i & 2;
		unsigned popped;

		ring_fixture_start(&fixture, packed, false, false);
		for (uint16_t id = 0; id < 10; id++)
			ring_fixture_offer(&fixture, id, &buffer, 1, 0);
		assert_int_equal(virtqueue_pop(&fixture.queue, chains, 10, &fixture.pool), 10);
		for (uint16_t id = 0; id < 10; id++)
			ring_fixture_offer(&fixture, id, &buffer, 1, 0);
		popped = virtqueue_pop(&fixture.queue, chains, at_once ? 10 : 6, &fixture.pool);
		assert_int_equal(popped, 6);
		if (!at_once) {
			assert_int_equal(fixture.queue.broken, VIRTQUEUE_INTACT);
			assert_int_equal(virtqueue_pop(&fixture.queue, chains, 1, &fixture.pool), 0);
		}
		assert_int_equal(fixture.queue.broken, VIRTQUEUE_BAD_AVAIL_INDEX);
		ring_fixture_stop(&fixture);
	}
}

/* In order: a batch of which nothing was written is told of by one used entry, with the id of its last chain. */
static void test_in_order(void **state)
{
	struct fixture_buffer buffers[2] = { { DATA, 8, false }, { DATA, 8, false } };
	struct ring_fixture fixture;
	struct chain chains[4];

	for (unsigned i = 0; i < 4; i++) {
		bool packed = i & 1;
		unsigned length = i & 2 ? 2 : 1;
		uint32_t written[2] = { 5, 6 };

		ring_fixture_start(&fixture, packed, false, false);
		fixture.config.in_order = true;
		assert_int_equal(virtqueue_start(&fixture.queue, &fixture.config), 0);
		for (unsigned round = 0; round < 100; round++) {
			unsigned used = round * 5, slot = used * length % FIXTURE_SIZE, second;
			bool wrap = used * length / FIXTURE_SIZE % 2;

			fixture.pool.used = 0;
			for (uint16_t id = 0; id < 5; id++)
				ring_fixture_offer(&fixture, (uint16_t)(id * 2), buffers, length, 0);
			assert_int_equal(virtqueue_pop(&fixture.queue, chains, 3, &fixture.pool), 3);
			virtqueue_push_chains(&fixture.queue, chains, NULL, 3);
			assert_int_equal(virtqueue_pop(&fixture.queue, chains, 2, &fixture.pool), 2);
			virtqueue_push_chains(&fixture.queue, chains, written, 2); /* lengths: each tells its own */
			virtqueue_push_chains(&fixture.queue, chains, NULL, 0);
			virtqueue_publish(&fixture.queue);
			if (!packed) {
				assert_int_equal(fixture.used->idx, (uint16_t)(used + 5));
				assert_int_equal(fixture.used->ring[used % FIXTURE_SIZE].id, 4);
				assert_int_equal(fixture.used->ring[(used + 3) % FIXTURE_SIZE].id, 6);
				assert_int_equal(fixture.used->ring[(used + 4) % FIXTURE_SIZE].len, 6);
				continue;
			}
			assert_int_equal(fixture.packed[slot].id, 4);
			assert_int_equal(fixture.packed[slot].flags, wrap ? 0 : 0x8080);
			second = (slot + 3 * length) % FIXTURE_SIZE;
			wrap ^= slot + 3 * length >= FIXTURE_SIZE;
			assert_int_equal(fixture.packed[second].id, 6);
			assert_int_equal(fixture.packed[second].len, 5);
			assert_int_equal(fixture.packed[second].flags, wrap ? 2 : 0x8082);
		}
		assert_int_equal(fixture.queue.outstanding, 0);
		ring_fixture_stop(&fixture);
	}
}

/* See test_packed_resume(). */
static void fill_packed(struct vring_packed_desc ring[8], const char *letters)
{
	memset(ring, 0, 8 * sizeof(ring[0]));
	for (unsigned j = 0; j < 8; j++) {
		ring[j].flags = letters[j] == 'A' || letters[j] == '0' ? 0x80 : letters[j] == 'U' ? 0x8080 : 0;
		if (letters[j] == 'a')
			ring[j].flags = 0x8000;
		ring[j].flags |= j % 2 ? VRING_DESC_F_WRITE : 0;
		ring[j].len = letters[j] == '0' ? 0 : 0x10000;
	}
}

/*
 * Rings as a crash left them, a letter for each descriptor: A available, U used in the laps with wrap counter 1; a, u
 * the same with 0 (u also: never written). 0: available with a length of 0, which only the device stores. What was not
 * quite published is dropped by the driver: it may be a part of a frame.
 */
static void test_packed_resume(void **state)
{
	static const struct {
		const char *before, *after;
		uint16_t position;
		bool wrap;
		uint8_t dropped; /* bit i: descriptor i has a length of 0 */
	} cases[] = {
		/* 0 */ { "uuuuuuuu", "uuuuuuuu", 0, true }, /* new */
		/* 1 */ { "AAAuuuuu", "AAAuuuuu", 0, true },
		/* 2 */ { "AAAAAAAA", "AAAAAAAA", 0, true },
		/* 3 */ { "UUAAuuuu", "UUAAuuuu", 2, true },
		/* 4 */ { "UUUUuuuu", "UUUUuuuu", 4, true }, /* idle */
		/* 5 */ { "UUUUUUUU", "UUUUUUUU", 0, false },
		/* 6 */ { "uuuuUUUU", "uuuuUUUU", 4, false },
		/* 7 */ { "aaUUUUAA", "aaUUUUAA", 6, true }, /* across the end */
		/* 8 */ { "uuaaUUUU", "uuaaUUUU", 2, false },
		/* 9 */ { "aaaaAAAA", "aaaaAAAA", 4, true },
		/* 10 */ { "UAUUAuuu", "UUUUAuuu", 4, true, 0x0e }, /* a batch that was not quite published */
		/* 11 */ { "uaaUUUAU", "uaaUUUUU", 1, false, 0xc1 }, /* across the end */
		/* 12 */ { "UU0Auuuu", "UUUAuuuu", 3, true, 0x04 },
		/* 13 */ { "AAUAuuuu", "UUUAuuuu", 3, true, 0x07 }, /* used from somewhere else */
		/* 14 */ { "uaUUUUAA", "uaUUUUUU", 1, false, 0xc1 }, /* the same across the end */
	};

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		struct vring_packed_desc ring[8];
		uint16_t base;

		fill_packed(ring, cases[i].before);
		base = packed_resume((guest_byte *)ring, 8);
		if (base != (cases[i].position | cases[i].wrap << 15))
			fail_msg("case %zu: base %x", i, base);
		for (unsigned j = 0; j < 8; j++) {
			char letter = cases[i].after[j];
			unsigned flags = letter == 'A' ? 0x80 : letter == 'U' ? 0x8080 : letter == 'a' ? 0x8000 : 0;

			if (ring[j].flags != (flags | (j % 2 ? VRING_DESC_F_WRITE : 0)))
				fail_msg("case %zu: flags of descriptor %u are %x", i, j, ring[j].flags);
			if (!ring[j].len != !!(cases[i].dropped & 1U << j))
				fail_msg("case %zu: length of descriptor %u is %x", i, j, ring[j].len);
		}
	}
}

/* Letters as above; the one position that is right, and others, which QEMU kept from an earlier stop. */
static void test_packed_base_is_stale(void **state)
{
	static const struct {
		const char *ring;
		uint16_t base;
		bool stale;
	} cases[] = {
		/* 0 */ { "uuuuuuuu", 0x8000, false },
		/* 1 */ { "UUAAuuuu", 0x8002, false },
		/* 2 */ { "UUAAuuuu", 0x8001, true },
		/* 3 */ { "UUAAuuuu", 0x8000, true },
		/* 4 */ { "UUUUuuuu", 0x8004, false }, /* idle */
		/* 5 */ { "UUUUuuuu", 0x8001, true },
		/* 6 */ { "UUUUuuuu", 0x8005, true }, /* the driver has not been there */
		/* 7 */ { "UUUUuuuu", 0x0004, true },
		/* 8 */ { "UUUUUUUU", 0x0000, false },
		/* 9 */ { "uuuuUUUU", 0x8003, true }, /* a lap ago */
		/* 10 */ { "uuuuUUUU", 0x0004, false },
		/* 11 */ { "aaUUUUAA", 0x8006, false }, /* across the end */
		/* 12 */ { "aaUUUUAA", 0x8002, true },
		/* 13 */ { "AAAAAAAA", 0x8000, false }, /* full */
		/* 14 */ { "aaaaAAAA", 0x8004, false },
		/* 15 */ { "UAUAAuuu", 0x8003, false }, /* a chain of two was at 0: its second looks available for ever */
	};

	(void)state;
	for (size_t i = 0; i < array_size(cases); i++) {
		struct vring_packed_desc ring[8];

		fill_packed(ring, cases[i].ring);
		if (packed_base_is_stale((guest_byte *)ring, 8, cases[i].base) != cases[i].stale)
			fail_msg("case %zu", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_malformed),	 cmocka_unit_test(test_split_bad_avail_index),
		cmocka_unit_test(test_packed_malformed), cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_pool_is_full),	 cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_arm_and_disarm),	 cmocka_unit_test(test_start_refuses),
		cmocka_unit_test(test_base),		 cmocka_unit_test(test_ring_writes_are_logged),
		cmocka_unit_test(test_one_buffer),	 cmocka_unit_test(test_more_than_the_queue_holds),
		cmocka_unit_test(test_in_order),	 cmocka_unit_test(test_settle),
		cmocka_unit_test(test_packed_resume),	 cmocka_unit_test(test_directions),
		cmocka_unit_test(test_packed_base_is_stale),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
