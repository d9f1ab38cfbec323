/* SPDX-License-Identifier: BSD-3-Clause */
/* In-flight tracking: layouts, areas that lie, crashes at every step, regions full of nonsense. */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring/inflight.h"
#include "ring_fixture.h"

struct fixture {
	struct ring_fixture ring;
	int fd;
	uint8_t *bytes; /* the area */
	struct inflight_description description;
	struct inflight_area *area;
	struct virtqueue_inflight *inflight;
	uint16_t avail_base, used_base;
	bool packed;
};

static void map_area(struct fixture *fixture)
{
	assert_int_equal(inflight_area_map(fixture->fd, &fixture->description, fixture->packed, &fixture->area), 0);
}

static void start(struct fixture *fixture, bool packed)
{
	memset(fixture, 0, sizeof(*fixture));
	ring_fixture_start(&fixture->ring, packed, false, false);
	fixture->packed = packed;
	fixture->description = (struct inflight_description){ .num_queues = 2, .queue_size = FIXTURE_SIZE };
	fixture->fd = inflight_area_create_fd(&fixture->description, packed);
	assert_true(fixture->fd >= 0);
	fixture->bytes = mmap(NULL, fixture->description.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fixture->fd, 0);
	assert_true(fixture->bytes != MAP_FAILED);
	map_area(fixture);
	fixture->used_base = fixture->avail_base = packed ? 0x8000 : 0;
}

/* Open queue 1's region, as a back-end does that starts (again). */
static int open_region(struct fixture *fixture)
{
	struct inflight_ring ring = {
		.descriptors = fixture->ring.config.descriptors,
		.size = FIXTURE_SIZE,
		.used_index = fixture->packed ? fixture->used_base : fixture->ring.used->idx,
		.packed = fixture->packed,
	};

	return virtqueue_inflight_open(fixture->area, 1, &ring, &fixture->avail_base, &fixture->used_base,
				       &fixture->inflight);
}

static void start_queue(struct fixture *fixture)
{
	assert_int_equal(open_region(fixture), 0);
	fixture->ring.config.inflight = fixture->inflight;
	fixture->ring.config.avail_base = fixture->avail_base;
	fixture->ring.config.used_base = fixture->used_base;
	assert_int_equal(virtqueue_start(&fixture->ring.queue, &fixture->ring.config), 0);
	fixture->ring.pool.used = 0;
}

/* Everything private is lost; the area and the guest's memory stay. The front-end tells a stale base. */
static void crash(struct fixture *fixture)
{
	virtqueue_inflight_close(fixture->inflight);
	inflight_area_unmap(fixture->area);
	map_area(fixture);
	fixture->used_base = fixture->avail_base = fixture->packed ? 0x8000 : 0;
}

static void stop(struct fixture *fixture)
{
	virtqueue_inflight_close(fixture->inflight);
	inflight_area_unmap(fixture->area);
	munmap(fixture->bytes, fixture->description.mmap_size);
	close(fixture->fd);
	ring_fixture_stop(&fixture->ring);
}

/* One buffer of @length bytes with @id as its mark. */
static void offer(struct fixture *fixture, uint16_t id, uint32_t length)
{
	struct fixture_buffer buffer = { fixture_address(FIXTURE_DATA + id * 0x100), length, false };

	ring_fixture_offer(&fixture->ring, id, &buffer, 1, 0);
}

static void test_sizes(void **state)
{
	static const struct {
		uint16_t queues, size;
		bool packed;
		uint64_t bytes;
	} cases[] = {
		/* 0 */ { 1, 128, false, 2112 }, /* 16 + 128 * 16 = 2064, to 64 */
		/* 1 */ { 2, 128, false, 4224 },
		/* 2 */ { 1, 128, true, 4160 }, /* 32 + 128 * 32 = 4128 */
		/* 3 */ { 0, 128, false, 0 },
		/* 4 */ { 1, 0, true, 0 },
		/* 5 */ { 1, 32769, true, 0 },
		/* 6 */ { UINT16_MAX, 32768, true, 65535ULL * 1048640 },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		if (inflight_area_size(cases[i].queues, cases[i].size, cases[i].packed) != cases[i].bytes)
			fail_msg("case %zu", i);
	}
}

/* What SET_INFLIGHT_FD may claim. The file has room for exactly 2 queues of 128, split. */
static void test_areas_that_lie(void **state)
{
	static const struct {
		uint64_t size, offset;
		uint16_t queues, queue_size;
		bool packed;
		int result;
	} cases[] = {
		/* 0 */ { 4224, 0, 2, 128, false, 0 },
		/* 1 */ { 4224, 0, 3, 128, false, -EINVAL }, /* more queues than bytes */
		/* 2 */ { 4224, 0, 2, 256, false, -EINVAL },
		/* 3 */ { 4224, 0, 2, 128, true, -EINVAL },	  /* packed entries are larger */
		/* 4 */ { 1 << 20, 0, 200, 128, false, -EINVAL }, /* more than the file has */
		/* 5 */ { 4224, 64, 2, 128, false, -EINVAL },	  /* past the end by the offset */
		/* 6 */ { 2112, 2112, 1, 128, false, 0 },
		/* 7 */ { 2112, 4, 1, 128, false, -EINVAL }, /* fields would not be aligned */
		/* 8 */ { 4225, 0, 2, 128, false, -EINVAL }, /* a byte more than the file has */
		/* 9 */ { 4224, UINT64_MAX - 7, 2, 128, false, -EINVAL },
		/* 10 */ { 4224, 0, 0, 128, false, -EINVAL },
		/* 11 */ { 4224, 0, 2, 0, false, -EINVAL },
	};
	struct inflight_description made = { .num_queues = 2, .queue_size = 128 };
	int fd = inflight_area_create_fd(&made, false);

	assert_true(fd >= 0);
	assert_int_equal(made.mmap_size, 4224);
	assert_int_equal(ftruncate(fd, 64), -1); /* sealed */
	for (size_t i = 0; i < array_size(cases); i++) {
		struct inflight_description claim = {
			cases[i].size, cases[i].offset, cases[i].queues, cases[i].queue_size, { 0 }
		};
		struct inflight_area *area = NULL;
		int result = inflight_area_map(fd, &claim, cases[i].packed, &area);

		if (result != cases[i].result)
			fail_msg("case %zu: %d", i, result);
		if (area)
			inflight_area_unmap(area);
	}
	close(fd);
}

/* The bytes where other implementations look for them. */
static void test_layout(void **state)
{
	struct fixture fixture;
	uint8_t *region;

	start(&fixture, false);
	region = fixture.bytes + 320; /* 16 + 16 * 16 = 272, to 64 */
	start_queue(&fixture);
	offer(&fixture, 3, 7);
	struct chain chain;
	assert_int_equal(virtqueue_pop(&fixture.ring.queue, &chain, 1, &fixture.ring.pool), 1);
	assert_int_equal(*(uint64_t *)(region + 0), 0); /* features */
	assert_int_equal(*(uint16_t *)(region + 8), 1); /* version */
	assert_int_equal(*(uint16_t *)(region + 10), FIXTURE_SIZE);
	assert_int_equal(region[16 + 3 * 16], 1);		      /* inflight */
	assert_int_equal(*(uint64_t *)(region + 16 + 3 * 16 + 8), 1); /* counter */
	virtqueue_push(&fixture.ring.queue, chain.id, chain.slots, 0);
	virtqueue_publish(&fixture.ring.queue);
	assert_int_equal(region[16 + 3 * 16], 0);
	assert_int_equal(*(uint16_t *)(region + 12), 3); /* last_batch_head */
	assert_int_equal(*(uint16_t *)(region + 14), 1); /* used_idx */
	stop(&fixture);

	start(&fixture, true);
	region = fixture.bytes + 576; /* 32 + 16 * 32 = 544, to 64 */
	start_queue(&fixture);
	offer(&fixture, 3, 7);
	assert_int_equal(virtqueue_pop(&fixture.ring.queue, &chain, 1, &fixture.ring.pool), 1);
	assert_int_equal(*(uint16_t *)(region + 12), 1);      /* free_head */
	assert_int_equal(*(uint16_t *)(region + 14), 1);      /* old_free_head */
	assert_int_equal(region[32], 1);		      /* entry 0: inflight */
	assert_int_equal(*(uint16_t *)(region + 32 + 6), 1);  /* num */
	assert_int_equal(*(uint16_t *)(region + 32 + 16), 3); /* id */
	assert_int_equal(*(uint32_t *)(region + 32 + 20), 7); /* len */
	virtqueue_push(&fixture.ring.queue, chain.id, chain.slots, 0);
	virtqueue_publish(&fixture.ring.queue);
	assert_int_equal(region[32], 0);
	assert_int_equal(*(uint16_t *)(region + 12), 0);
	assert_int_equal(*(uint16_t *)(region + 16), 1); /* used_idx */
	assert_int_equal(*(uint16_t *)(region + 18), 1); /* old_used_idx */
	assert_int_equal(region[20], 1);
	assert_int_equal(region[21], 1);
	stop(&fixture);
}

/* Five taken, the second and fourth used; crash; the other three come again, in order, from saved descriptors. */
static void replay_in_order(bool packed)
{
	static const uint16_t ids[] = { 4, 1, 9, 2, 7 };
	struct fixture fixture;
	struct chain chains[8];

	start(&fixture, packed);
	start_queue(&fixture);
	for (unsigned i = 0; i < 5; i++)
		offer(&fixture, ids[i], 10 + i);
	assert_int_equal(virtqueue_pop(&fixture.ring.queue, chains, 8, &fixture.ring.pool), 5);
	virtqueue_push(&fixture.ring.queue, chains[3].id, chains[3].slots, 0);
	virtqueue_push(&fixture.ring.queue, chains[1].id, chains[1].slots, 0);
	virtqueue_publish(&fixture.ring.queue);
	offer(&fixture, 1, 99); /* the driver goes on: for packed rings into slots that chain 0 came from or not */
	crash(&fixture);

	start_queue(&fixture);
	assert_int_equal(virtqueue_inflight_replays(fixture.inflight), 3);
	assert_true(virtqueue_pending(&fixture.ring.queue));
	unsigned count = virtqueue_pop(&fixture.ring.queue, chains, 2, &fixture.ring.pool);
	assert_int_equal(count, 2);
	/* Giving one back makes it come again. */
	virtqueue_unpop(&fixture.ring.queue, &chains[1]);
	count = 1 + virtqueue_pop(&fixture.ring.queue, chains + 1, 7, &fixture.ring.pool);
	count += virtqueue_pop(&fixture.ring.queue, chains + count, 8 - count, &fixture.ring.pool);
	assert_int_equal(count, 4);
	assert_int_equal(chains[0].id, 4);
	assert_int_equal(chains[0].readable_length, 10);
	assert_int_equal(chains[1].id, 9);
	assert_int_equal(chains[1].readable_length, 12);
	assert_int_equal(chains[2].id, 7);
	assert_int_equal(chains[2].readable_length, 14);
	assert_int_equal(chains[3].id, 1);
	assert_int_equal(chains[3].readable_length, 99);
	for (unsigned i = 0; i < count; i++)
		virtqueue_push(&fixture.ring.queue, chains[i].id, chains[i].slots, 0);
	virtqueue_publish(&fixture.ring.queue);
	crash(&fixture);
	start_queue(&fixture);
	assert_int_equal(virtqueue_inflight_replays(fixture.inflight), 0);
	assert_int_equal(fixture.avail_base, fixture.used_base);
	assert_int_equal(fixture.used_base, packed ? 0x8006 : 6);
	stop(&fixture);
}

static void test_replay_split(void **state)
{
	replay_in_order(false);
}

static void test_replay_packed(void **state)
{
	replay_in_order(true);
}

enum point {
	PUSHED,	    /* nothing published */
	PUBLISHING, /* linked, the driver has not seen it */
	VISIBLE,    /* the driver has seen it, flags not cleared */
	PUBLISHED,
};

/* A crash at each step of a publish: what the driver saw is done, what it did not see comes again. */
static void crash_while_publishing(bool packed)
{
	static const struct {
		enum point point;
		unsigned replays;
	} cases[] = {
		/* 0 */ { PUSHED, 3 },
		/* 1 */ { PUBLISHING, 3 },
		/* 2 */ { VISIBLE, 1 },
		/* 3 */ { PUBLISHED, 1 },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		struct fixture fixture;
		struct chain chains[4];

		start(&fixture, packed);
		start_queue(&fixture);
		for (uint16_t id = 0; id < 3; id++)
			offer(&fixture, id, 8);
		assert_int_equal(virtqueue_pop(&fixture.ring.queue, chains, 4, &fixture.ring.pool), 3);
		virtqueue_inflight_push(fixture.inflight, 2);
		virtqueue_inflight_push(fixture.inflight, 0);
		if (cases[i].point >= PUBLISHING)
			virtqueue_inflight_publishing(fixture.inflight, 2, true);
		if (cases[i].point >= VISIBLE) {
			if (packed)
				fixture.ring.packed[0].flags = 1U << 7 | 1U << 15;
			else
				fixture.ring.used->idx = 2;
		}
		if (cases[i].point >= PUBLISHED)
			virtqueue_inflight_published(fixture.inflight);
		crash(&fixture);
		assert_int_equal(open_region(&fixture), 0);
		if (virtqueue_inflight_replays(fixture.inflight) != cases[i].replays)
			fail_msg("case %zu: %u replays", i, virtqueue_inflight_replays(fixture.inflight));
		if ((fixture.used_base & 0x7fff) != (cases[i].replays == 3 ? 0 : 2))
			fail_msg("case %zu: used base %x", i, fixture.used_base);
		if ((fixture.avail_base & 0x7fff) != 3)
			fail_msg("case %zu: avail base %x", i, fixture.avail_base);
		stop(&fixture);
	}
}

static void test_crash_split(void **state)
{
	crash_while_publishing(false);
}

static void test_crash_packed(void **state)
{
	crash_while_publishing(true);
}

/* What an unpublished batch has left in a packed ring must not come to light with the first batch after the crash. */
static void test_unpublished_stays_hidden(void **state)
{
	struct chain chains[FIXTURE_SIZE];
	struct fixture fixture;
	uint16_t first = 0;

	(void)state;
	start(&fixture, true);
	start_queue(&fixture);
	/* From a place where the batch crosses the end of the ring. */
	for (uint16_t done = 0; done < FIXTURE_SIZE - 2; done++) {
		offer(&fixture, done, 8);
		assert_int_equal(virtqueue_pop(&fixture.ring.queue, chains, 1, &fixture.ring.pool), 1);
		virtqueue_push(&fixture.ring.queue, chains[0].id, chains[0].slots, 0);
		virtqueue_publish(&fixture.ring.queue);
		fixture.ring.pool.used = 0;
		first = (uint16_t)(done + 1);
	}
	for (uint16_t id = 0; id < 5; id++)
		offer(&fixture, id, 8);
	assert_int_equal(virtqueue_pop(&fixture.ring.queue, chains, FIXTURE_SIZE, &fixture.ring.pool), 5);
	for (unsigned i = 0; i < 4; i++)
		virtqueue_push(&fixture.ring.queue, chains[i].id, chains[i].slots, 0);
	crash(&fixture);

	start_queue(&fixture);
	assert_int_equal(virtqueue_pop(&fixture.ring.queue, chains, FIXTURE_SIZE, &fixture.ring.pool), 5);
	virtqueue_push(&fixture.ring.queue, chains[2].id, chains[2].slots, 0);
	virtqueue_publish(&fixture.ring.queue);
	for (unsigned i = 0; i < 5; i++) {
		unsigned position = (first + i) % FIXTURE_SIZE;
		uint16_t flags = fixture.ring.packed[position].flags;
		bool wrap = first + i < FIXTURE_SIZE;

		if ((!!(flags & 1U << 15) == wrap && !!(flags & 1U << 7) == wrap) != (i == 0))
			fail_msg("descriptor %u of the batch has flags %x", i, flags);
	}
	assert_int_equal(fixture.ring.packed[first].id, 2);
	stop(&fixture);
}

/* A driver that makes an id available that it has not got back, even one in the batch that is about to be published. */
static void test_id_twice(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct fixture fixture;

		start(&fixture, packed);
		assert_int_equal(open_region(&fixture), 0);
		assert_true(virtqueue_inflight_take(fixture.inflight, 5, 0, 1));
		assert_false(virtqueue_inflight_take(fixture.inflight, 5, 1, 1));
		assert_false(virtqueue_inflight_take(fixture.inflight, FIXTURE_SIZE, 1, 1));
		virtqueue_inflight_push(fixture.inflight, 5);
		assert_false(virtqueue_inflight_take(fixture.inflight, 5, 1, 1));
		virtqueue_inflight_push(fixture.inflight, 5); /* once counts */
		virtqueue_inflight_publishing(fixture.inflight, 1, true);
		virtqueue_inflight_published(fixture.inflight);
		assert_true(virtqueue_inflight_take(fixture.inflight, 5, 1, 1));
		assert_false(virtqueue_inflight_untake(fixture.inflight, 5));
		assert_true(virtqueue_inflight_take(fixture.inflight, 5, 1, 1));
		stop(&fixture);
	}
}

/* Random work with crashes at random places, against a model: the set of ids in flight and their order. */
static void run_random(bool packed, unsigned seed)
{
	struct fixture fixture;
	uint16_t order[FIXTURE_SIZE], slots[FIXTURE_SIZE] = { 0 };
	unsigned count = 0, outstanding = 0;

	srand(seed);
	start(&fixture, packed);
	assert_int_equal(open_region(&fixture), 0);
	for (unsigned step = 0; step < 400; step++) {
		unsigned action = (unsigned)rand() % 8;
		uint16_t id = (uint16_t)(rand() % FIXTURE_SIZE);
		struct inflight_replay replay;

		if (action < 4) { /* pop */
			uint16_t chain = (uint16_t)(packed ? 1 + rand() % 3 : 1);

			if (slots[id] || outstanding + chain > FIXTURE_SIZE)
				continue;
			assert_true(virtqueue_inflight_take(fixture.inflight, id, (uint16_t)((step * 3) % FIXTURE_SIZE),
							    chain));
			slots[id] = chain;
			outstanding += chain;
			if (action == 0) { /* and give it back */
				assert_false(virtqueue_inflight_untake(fixture.inflight, id));
				slots[id] = 0;
				outstanding -= chain;
			} else {
				order[count++] = id;
			}
		} else if (action < 7) { /* push up to three, publish */
			uint32_t position = fixture.used_base & 0x7fff;
			uint16_t first = (uint16_t)position, published = 0;
			bool wrap = fixture.used_base >> 15;

			for (unsigned i = 0; i < 3 && count; i++) {
				unsigned which = (unsigned)rand() % count;

				id = order[which];
				memmove(order + which, order + which + 1, (count - which - 1) * sizeof(*order));
				count--;
				virtqueue_inflight_push(fixture.inflight, id);
				position += slots[id];
				outstanding -= slots[id];
				published++;
				slots[id] = 0;
			}
			if (!published)
				continue;
			if (!packed) {
				fixture.used_base = (uint16_t)(fixture.used_base + published);
				virtqueue_inflight_publishing(fixture.inflight, fixture.used_base, false);
				fixture.ring.used->idx = fixture.used_base;
			} else {
				if (position >= FIXTURE_SIZE) {
					position -= FIXTURE_SIZE;
					wrap = !wrap;
				}
				virtqueue_inflight_publishing(fixture.inflight, (uint16_t)position, wrap);
				/* used: both flags as the wrap counter of the first slot */
				fixture.ring.packed[first].flags = (uint16_t)(fixture.used_base & 0x8000 ? 0x8080 : 0);
				fixture.used_base = (uint16_t)(position | (uint32_t)wrap << 15);
			}
			if (action == 6) /* crash before the flags are cleared */
				goto crash;
			virtqueue_inflight_published(fixture.inflight);
		} else {
			uint16_t expected;
		crash:
			expected = fixture.used_base;
			crash(&fixture);
			assert_int_equal(open_region(&fixture), 0);
			if (fixture.used_base != expected)
				fail_msg("seed %u step %u: used base %x, not %x", seed, step, fixture.used_base,
					 expected);
			for (unsigned i = 0; i < count; i++) {
				assert_true(virtqueue_inflight_next_replay(fixture.inflight, &replay));
				if (replay.id != order[i] || replay.slots != slots[order[i]])
					fail_msg("seed %u step %u: replay %u is %u of %u, not %u of %u", seed, step, i,
						 replay.id, replay.slots, order[i], slots[order[i]]);
				virtqueue_inflight_take_replay(fixture.inflight);
			}
			assert_false(virtqueue_inflight_next_replay(fixture.inflight, &replay));
		}
	}
	stop(&fixture);
}

static void test_random(void **state)
{
	for (unsigned seed = 0; seed < 200; seed++) {
		run_random(false, seed);
		run_random(true, seed);
	}
}

/* A front-end may write anything into the area: it is taken or refused, and never followed out of bounds. */
static void test_nonsense(void **state)
{
	unsigned refused = 0, taken = 0;

	for (unsigned seed = 0; seed < 400; seed++) {
		bool packed = seed & 1;
		struct fixture fixture;
		struct inflight_replay replay;
		size_t region = packed ? 576 : 320;

		srand(seed);
		start(&fixture, packed);
		assert_int_equal(open_region(&fixture), 0); /* a good one first, so that part of it survives */
		crash(&fixture);
		for (unsigned i = 0; i < 60; i++) {
			size_t at = region + (size_t)rand() % region;

			if (at >= region + 8 && at < region + 12)
				continue; /* version and size: else everything would stop there */
			fixture.bytes[at] = (uint8_t)(rand() % 3 ? rand() % 20 : rand());
		}
		memset(fixture.bytes + region, 0, 8);
		if (open_region(&fixture)) {
			refused++;
			fixture.inflight = NULL;
		} else {
			taken++;
			while (virtqueue_inflight_next_replay(fixture.inflight, &replay)) {
				assert_true(replay.id < FIXTURE_SIZE && replay.slots <= FIXTURE_SIZE);
				virtqueue_inflight_take_replay(fixture.inflight);
				virtqueue_inflight_push(fixture.inflight, replay.id);
			}
			virtqueue_inflight_publishing(fixture.inflight, 3, true);
			virtqueue_inflight_published(fixture.inflight);
			for (uint16_t id = 0; id < FIXTURE_SIZE; id++)
				virtqueue_inflight_take(fixture.inflight, id, id, 1);
		}
		stop(&fixture);
	}
	assert_true(refused > 10 && taken > 10); /* both paths were met */
}

/* A crash between two stores may leave an entry in no list: it comes back, or the region would run dry some day. */
static void test_lost_entry(void **state)
{
	struct fixture fixture;
	uint8_t *region;

	start(&fixture, true);
	assert_int_equal(open_region(&fixture), 0);
	region = fixture.bytes + 576;
	*(uint16_t *)(void *)(region + 12) =
		1; /* free_head and old_free_head: entry 0 is in no list, and not in flight */
	*(uint16_t *)(void *)(region + 14) = 1;
	crash(&fixture);
	assert_int_equal(open_region(&fixture), 0);
	assert_int_equal(virtqueue_inflight_replays(fixture.inflight), 0);
	for (uint16_t id = 0; id < FIXTURE_SIZE; id++)
		assert_true(virtqueue_inflight_take(fixture.inflight, id, id, 1));
	stop(&fixture);
}

static void test_misfits(void **state)
{
	struct fixture fixture;
	struct inflight_ring ring = { .size = FIXTURE_SIZE, .packed = false };
	struct virtqueue_inflight *inflight;
	uint16_t avail = 0, used = 0;

	start(&fixture, false);
	ring.descriptors = fixture.ring.config.descriptors;
	assert_int_equal(virtqueue_inflight_open(fixture.area, 2, &ring, &avail, &used, &inflight), -EINVAL);
	ring.size = FIXTURE_SIZE * 2;
	assert_int_equal(virtqueue_inflight_open(fixture.area, 0, &ring, &avail, &used, &inflight), -EINVAL);
	ring.size = FIXTURE_SIZE;
	ring.packed = true;
	assert_int_equal(virtqueue_inflight_open(fixture.area, 0, &ring, &avail, &used, &inflight), -EINVAL);
	ring.packed = false;
	fixture.bytes[8] = 2; /* a version to come */
	assert_int_equal(virtqueue_inflight_open(fixture.area, 0, &ring, &avail, &used, &inflight), -EINVAL);
	inflight_area_forget(fixture.area);
	assert_int_equal(virtqueue_inflight_open(fixture.area, 0, &ring, &avail, &used, &inflight), 0);
	virtqueue_inflight_close(inflight);
	fixture.inflight = NULL;
	stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),	      cmocka_unit_test(test_areas_that_lie),
		cmocka_unit_test(test_layout),	      cmocka_unit_test(test_replay_split),
		cmocka_unit_test(test_replay_packed), cmocka_unit_test(test_crash_split),
		cmocka_unit_test(test_crash_packed),  cmocka_unit_test(test_unpublished_stays_hidden),
		cmocka_unit_test(test_id_twice),      cmocka_unit_test(test_random),
		cmocka_unit_test(test_nonsense),      cmocka_unit_test(test_lost_entry),
		cmocka_unit_test(test_misfits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
