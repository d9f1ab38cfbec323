/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks: every backend through the same tests of what a disk must do, and what it must not do to others. What is a
 * file's own: block_file_test.c; NBD's: nbd_test.c.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk_fixture.h"

/* ---- what every disk must do ------------------------------------------------------------------------------------- */

/* Sizes in blocks, cut into segments; shift makes the buffer's address odd. */
static const struct {
	unsigned blocks, segments, shift;
	bool durable;
} transfers[] = {
	/* 0 */ { 1, 1, 0 },
	/* 1 */ { 8, 1, 0 },
	/* 2 */ { 8, 3, 0 },
	/* 3 */ { 8, 3, 1 },
	/* 4 */ { 64, 17, 7 },
	/* 5 */ { 1, 60, 3 },
	/* 6 */ { 300, 1, 1 }, /* more than a bounce buffer, with direct I/O and blocks of 512 bytes and more */
	/* 7 */ { 300, 5, 0, .durable = true },
	/* 8 */ { 1024, 64, 13 },
	/* 9 */ { 8, 1, 0, .durable = true },
};

static void check_transfer(struct place *place, unsigned number, uint64_t offset)
{
	size_t length = (size_t)transfers[number].blocks * place->kind->block_size;
	unsigned shift = transfers[number].shift;
	uint8_t *out = aligned_alloc(4096, 8U << 20), *in = aligned_alloc(4096, 8U << 20);
	struct block_job job = {
		.io = { .operation = BLOCK_WRITE, .offset = offset, .durable = transfers[number].durable }
	};
	struct guest_segment before[64];
	sem_t done;

	sem_init(&done, 0, 0);
	fill(out, length + 16, number + 1);
	memset(in, 0xaa, length + 16);
	block_job_cut(&job, out + shift, length, transfers[number].segments);
	memcpy(before, job.segments, sizeof(before));
	block_fixture_submit(&place->fixture, place->channel, &job, 1, &done);
	block_fixture_await(1, &done);
	assert_int_equal(job.status, 0);
	assert_memory_equal(before, job.segments, sizeof(before)); /* short transfers leave no trace */

	job.io.operation = BLOCK_READ;
	block_job_cut(&job, in + shift, length, transfers[number].segments);
	block_fixture_submit(&place->fixture, place->channel, &job, 1, &done);
	block_fixture_await(1, &done);
	assert_int_equal(job.status, 0);
	assert_memory_equal(in + shift, out + shift, length);
	assert_int_equal(in[shift + length], 0xaa);
	if (shift)
		assert_int_equal(in[shift - 1], 0xaa);
	sem_destroy(&done);
	free(out);
	free(in);
}

static void check_transfers(struct place *place)
{
	uint32_t block = place->kind->block_size;

	for (unsigned i = 0; i < array_size(transfers); i++) {
		uint64_t length = (uint64_t)transfers[i].blocks * block;

		check_transfer(place, i, 0);
		check_transfer(place, i, 3 * block);
		check_transfer(place, i, DISK_SIZE - length); /* up to the very end */
	}
	assert_int_equal(io(place, BLOCK_FLUSH, 0, NULL, 0), 0);
}

static void check_zeroes(struct place *place, bool may_unmap, bool durable)
{
	struct block_job job = {
		.io = { .operation = BLOCK_WRITE_ZEROES, .may_unmap = may_unmap, .durable = durable }
	};
	uint32_t block = place->kind->block_size;
	size_t length = 64 * (size_t)block, offset = 5 * (size_t)block;
	uint8_t *bytes = malloc(length);
	sem_t done;

	sem_init(&done, 0, 0);
	memset(bytes, 0x5c, length);
	assert_int_equal(io(place, BLOCK_WRITE, offset - block, bytes, length), 0);
	job.io.offset = offset;
	job.io.length = length - 2 * block;
	block_fixture_submit(&place->fixture, place->channel, &job, 1, &done);
	block_fixture_await(1, &done);
	assert_int_equal(job.status, 0);

	assert_int_equal(io(place, BLOCK_READ, offset - block, bytes, length), 0);
	assert_int_equal(bytes[block - 1], 0x5c);
	assert_true(all_zero(bytes + block, length - 2 * block));
	assert_int_equal(bytes[length - block], 0x5c);
	sem_destroy(&done);
	free(bytes);
}

static void check_discard(struct place *place)
{
	uint32_t block = place->kind->block_size;
	uint8_t *bytes = malloc(3 * block);
	struct disk_limits limits;

	disk_read_limits(place->disk, &limits);
	memset(bytes, 0x77, 3 * block);
	assert_int_equal(io(place, BLOCK_WRITE, 0, bytes, 3 * block), 0);
	if (!limits.discard) {
		free(bytes);
		return;
	}
	assert_int_equal(io(place, BLOCK_DISCARD, block, NULL, block), 0);
	memset(bytes, 0, 3 * block);
	assert_int_equal(io(place, BLOCK_READ, 0, bytes, 3 * block), 0);
	/* The discarded block may read as anything, its neighbours only as themselves. */
	assert_int_equal(bytes[block - 1], 0x77);
	assert_int_equal(bytes[2 * block], 0x77);
	free(bytes);
}

/* Many requests at once, each block of the shadow copy verified after every round. */
static void check_depth(struct place *place, unsigned depth, unsigned rounds)
{
	uint32_t block = place->kind->block_size;
	struct block_job *jobs = calloc(depth, sizeof(*jobs));
	uint8_t *shadow = calloc(depth, block), *bytes = malloc((size_t)depth * block + 1);
	unsigned seed = 1;
	sem_t done;

	sem_init(&done, 0, 0);
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < depth; i++) {
			/* The first round writes all; blocks lie apart, so that no two requests of a round touch. */
			bool write = !round || (seed = seed * 1103515245U + 12345U) & 0x10000;

			jobs[i].io.operation = write ? BLOCK_WRITE : BLOCK_READ;
			jobs[i].io.offset = (uint64_t)i * 2 * block;
			if (write) {
				fill(shadow + i * block, block, round * depth + i + 1);
				memcpy(bytes + i * block, shadow + i * block, block);
			}
			block_job_cut(&jobs[i], bytes + i * block, block, 1 + i % 3);
		}
		block_fixture_submit(&place->fixture, place->channel, jobs, depth, &done);
		block_fixture_await(depth, &done);
		for (unsigned i = 0; i < depth; i++) {
			assert_int_equal(jobs[i].status, 0);
			assert_int_equal(jobs[i].completions, 1);
		}
		assert_memory_equal(bytes, shadow, (size_t)depth * block);
	}
	sem_destroy(&done);
	free(jobs);
	free(shadow);
	free(bytes);
}

static void every_disk(void **state)
{
	for (unsigned i = 0; i < array_size(kinds); i++) {
		struct place place;

		if (!set_up(&place, &kinds[i]))
			continue;
		print_message("disk %u: %s (%s)\n", i, kinds[i].name, disk_state(place.disk));
		check_transfers(&place);
		check_zeroes(&place, false, false);
		check_zeroes(&place, true, false);
		check_zeroes(&place, true, true);
		check_discard(&place);
		check_depth(&place, DEPTH, 20);
		assert_int_equal(disk_in_flight(place.disk), 0);
		tear_down(&place);
	}
}

/* ---- each one's own ---------------------------------------------------------------------------------------------- */

static void null_takes_everything(void **state)
{
	static const struct kind kind = { "null", DISK_NULL, .block_size = 512 };
	uint8_t bytes[4096];
	struct place place;

	assert_true(set_up(&place, &kind));
	memset(bytes, 0x11, sizeof(bytes));
	for (int operation = BLOCK_READ; operation <= BLOCK_WRITE_ZEROES; operation++)
		assert_int_equal(io(&place, operation, 0, bytes, sizeof(bytes)), 0);
	assert_int_equal(bytes[0], 0x11);
	tear_down(&place);
}

/* More requests at once than the ring has room for, and more misaligned ones than there are bounce buffers. */
static void overflow_waits_its_turn(void **state)
{
	struct place place;

	assert_true(set_up(&place, &kinds[2]));
	check_depth(&place, 6000, 2);
	tear_down(&place);
	assert_true(set_up(&place, &kinds[3]));
	check_depth(&place, 6000, 2);
	tear_down(&place);
}

/* Makes @count reads of @length bytes in one batch. Return: how many of them the kernel was given only at its end. */
static unsigned held_back(struct place *place, unsigned count, size_t length)
{
	struct block_job *jobs = calloc(count, sizeof(*jobs));
	uint8_t *bytes = aligned_alloc(4096, count * length);
	sem_t done;

	sem_init(&done, 0, 0);
	for (unsigned i = 0; i < count; i++) {
		jobs[i].io.operation = BLOCK_READ;
		jobs[i].io.offset = i * length;
		block_job_buffer(&jobs[i], bytes + i * length, length);
	}
	block_fixture_submit(&place->fixture, place->channel, jobs, count, &done);
	block_fixture_await(count, &done);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(jobs[i].status, 0);
	sem_destroy(&done);
	free(jobs);
	free(bytes);
	return place->fixture.held_back;
}

/* The same, again when it is not between @least and @most: a sidecore that loses its CPU in a batch finds others done. */
static void assert_held_back(struct place *place, unsigned count, size_t length, unsigned least, unsigned most)
{
	unsigned held = held_back(place, count, length);

	for (unsigned attempt = 0; attempt < 10 && (held < least || held > most); attempt++)
		held = held_back(place, count, length);
	assert_in_range(held, least, most);
}

/*
 * A disk does not wait for the end of a batch: the kernel is given the first request at once, and the others while the
 * batch is made. Where the page cache has what the ring is asked for (long reads) two calls do: one that finds out, and
 * one for all others.
 */
static void disks_do_not_wait_for_the_batch(void **state)
{
	const size_t size = 8 * (256 << 10);
	uint8_t *bytes = aligned_alloc(4096, size);
	struct place place;

	memset(bytes, 0x3c, size);
	for (unsigned i = 2; i <= 3; i++) {
		assert_true(set_up(&place, &kinds[i]));
		assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, size), 0);
		assert_int_equal(io(&place, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_held_back(&place, 64, 4096, 0, 8);
		if (strcmp(disk_state(place.disk), "direct I/O"))
			assert_held_back(&place, 8, 256 << 10, 7, 7);
		tear_down(&place);
	}
	free(bytes);
}

/* A poller beside the worker: how far does it see a request come? */
static struct block_job watched;
static uint64_t last_seen;
static unsigned steps_seen;

static unsigned watch(struct poller *poller, const struct turn *turn)
{
	if (watched.io.done != last_seen) {
		last_seen = watched.io.done;
		steps_seen += last_seen && last_seen < watched.io.length;
	}
	return 0;
}

static void large_requests_leave_turns_to_others(void **state)
{
	static const struct poller_ops ops = { .kind = "probe", .poll = watch };
	const size_t size = 32 << 20;
	struct disk_config config = { .name = "large", .size = size };
	uint8_t *bytes = malloc(size), *back = malloc(size);
	char path[] = "/tmp/block_test_XXXXXX";
	int fd = mkstemp(path);

	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i * 7 >> 5);
	config.path = path;
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (unsigned file = 0; file < 2; file++) {
		struct poller probe = { .ops = &ops, .wake_fd = -1 };
		struct block_fixture fixture;
		struct block_channel *channel;
		struct disk *disk;
		const char *error;
		sem_t done;

		config.type = file ? DISK_FILE : DISK_RAM;
		block_fixture_start(&fixture);
		assert_int_equal(disk_open(&config, fixture.engine, &disk, &error), 0);
		channel = block_fixture_channel(&fixture, disk);
		assert_int_equal(engine_attach(fixture.engine, fixture.sidecore, &probe, NULL), 0);
		assert_int_equal(block_fixture_io(&fixture, channel, BLOCK_WRITE, 0, bytes, size), 0);
		watched = (struct block_job){ .io.operation = BLOCK_READ };
		block_job_buffer(&watched, back, size);
		steps_seen = 0;
		sem_init(&done, 0, 0);
		block_fixture_submit(&fixture, channel, &watched, 1, &done);
		block_fixture_await(1, &done);
		assert_int_equal(watched.status, 0);
		/* Not all of them: who is first in a round changes, so the worker may have two turns between two of ours. */
		if (steps_seen < size / (file ? 2 << 20 : 512 << 10) / 4)
			fail_msg("%s disk: %u steps", file ? "file" : "RAM", steps_seen);
		assert_memory_equal(back, bytes, size);
		engine_detach(fixture.engine, &probe, NULL);
		block_fixture_close(&fixture, channel);
		disk_close(disk);
		block_fixture_stop(&fixture);
	}
	close(fd);
	unlink(path);
	free(bytes);
	free(back);
}

static void ram_resizes(void **state)
{
	uint8_t bytes[4096];
	const char *error;
	struct place place;
	struct disk_limits limits;

	assert_true(set_up(&place, &kinds[0]));
	assert_int_equal(disk_resize(place.disk, 2 * DISK_SIZE, &error), 0);
	disk_read_limits(place.disk, &limits);
	assert_int_equal(limits.size, 2 * DISK_SIZE);
	memset(bytes, 0x42, sizeof(bytes));
	assert_int_equal(io(&place, BLOCK_WRITE, 2 * DISK_SIZE - 4096, bytes, 4096), 0);
	/* What a shrink cut off is gone when the disk grows again. */
	assert_int_equal(disk_resize(place.disk, DISK_SIZE, &error), 0);
	/* A request that was checked just before the shrink, and comes late. */
	assert_int_equal(io(&place, BLOCK_WRITE, 2 * DISK_SIZE - 4096, bytes, 4096), 0);
	assert_int_equal(disk_resize(place.disk, 2 * DISK_SIZE, &error), 0);
	assert_int_equal(io(&place, BLOCK_READ, 2 * DISK_SIZE - 4096, bytes, 4096), 0);
	assert_true(all_zero(bytes, sizeof(bytes)));
	assert_int_equal(disk_resize(place.disk, 1ULL << 62, &error), -ENOSPC);
	assert_int_equal(disk_resize(place.disk, 1000, &error), -EINVAL);
	assert_int_equal(disk_resize(place.disk, 0, &error), -EINVAL);
	tear_down(&place);
}

/* A sidecore that sleeps whenever it can: each completion must wake it, by the ring's eventfd or by a message. */
static void completions_wake_a_sleeper(void **state)
{
	static const unsigned numbers[] = { 2, 3, 7 };

	for (unsigned i = 0; i < array_size(numbers); i++) {
		uint8_t *bytes = aligned_alloc(4096, 4096);
		struct sidecore_counters counters;
		struct place place;

		if (!set_up(&place, &kinds[numbers[i]])) {
			free(bytes);
			continue;
		}
		close_disk(&place);
		block_fixture_stop(&place.fixture);
		block_fixture_start_sleepy(&place.fixture, 1);
		open_disk(&place);
		for (unsigned round = 0; round < 2000; round++) {
			enum block_operation operation = round % 50 == 49 ? BLOCK_FLUSH
							 : round % 2	  ? BLOCK_READ
									  : BLOCK_WRITE;
			bool data = operation != BLOCK_FLUSH;

			memset(bytes, (int)round / 2, 4096);
			assert_int_equal(io(&place, operation, data ? round / 2 * 4096 : 0, data ? bytes : NULL,
					    data ? 4096 : 0),
					 0);
		}
		sidecore_read_counters(place.fixture.sidecore, &counters);
		print_message("%s: %lu sleeps\n", kinds[numbers[i]].name, (unsigned long)counters.sleeps);
		assert_true(counters.sleeps >= 100); /* nearly all, on a machine with nothing else to do */
		tear_down(&place);
		free(bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_disk),
		cmocka_unit_test(null_takes_everything),
		cmocka_unit_test(overflow_waits_its_turn),
		cmocka_unit_test(disks_do_not_wait_for_the_batch),
		cmocka_unit_test(completions_wake_a_sleeper),
		cmocka_unit_test(large_requests_leave_turns_to_others),
		cmocka_unit_test(ram_resizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
