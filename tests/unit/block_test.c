/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks: every backend through the same tests of what a disk must do, then each backend's own: errors, limits, locks,
 * sizes. NBD servers are nbdkit's.
 */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "block_fixture.h"

#define DISK_SIZE (16U << 20)
#define DEPTH	  128U

enum server {
	SERVER_NONE,
	SERVER_PLAIN,
	SERVER_NO_FUA,
};

/* One disk that all common tests run on. */
struct kind {
	const char *name;
	int type;
	bool on_tmpfs, direct, loop;
	uint32_t block_size;
	enum server server;
};

static const struct kind kinds[] = {
	/* 0 */ { "ram", DISK_RAM, .block_size = 512 },
	/* 1 */ { "ram 4096", DISK_RAM, .block_size = 4096 },
	/* 2 */ { "file", DISK_FILE, .block_size = 512 },
	/* 3 */ { "file direct", DISK_FILE, .direct = true, .block_size = 512 },
	/* 4 */ { "file direct 4096", DISK_FILE, .direct = true, .block_size = 4096 },
	/* 5 */ { "file tmpfs", DISK_FILE, .on_tmpfs = true, .block_size = 512 },
	/* 6 */ { "file tmpfs direct", DISK_FILE, .on_tmpfs = true, .direct = true, .block_size = 512 },
	/* 7 */ { "nbd", DISK_NBD, .server = SERVER_PLAIN, .block_size = 512 },
	/* 8 */ { "nbd without FUA", DISK_NBD, .server = SERVER_NO_FUA, .block_size = 512 },
	/* 9 */ { "block device direct", DISK_FILE, .direct = true, .loop = true, .block_size = 512 },
};

struct place {
	struct block_fixture fixture;
	const struct kind *kind;
	struct disk *disk;
	struct block_channel *channel;
	char folder[128], path[192], uri[256];
	pid_t server;
	int loop; /* -1: none */
};

static pid_t start_nbdkit(const char *socket, const char *const *arguments)
{
	const char *line[24] = { "nbdkit", "-f", "--exit-with-parent", "-U", socket };
	unsigned count = 5;
	pid_t child;

	while (*arguments)
		line[count++] = *arguments++;
	child = fork();
	if (!child) {
		execvp(line[0], (char *const *)line);
		_exit(127);
	}
	for (unsigned i = 0; i < 500 && access(socket, F_OK); i++)
		usleep(20000);
	return child;
}

static void stop_server(pid_t server)
{
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
}

static bool have_nbdkit(void)
{
	return !system("command -v nbdkit >/dev/null 2>&1");
}

static void make_folder(struct place *place, bool on_tmpfs)
{
	const char *base = on_tmpfs ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";

	snprintf(place->folder, sizeof(place->folder), "%s/sidecore-test-XXXXXX", base);
	assert_non_null(mkdtemp(place->folder));
	snprintf(place->path, sizeof(place->path), "%s/image", place->folder);
	snprintf(place->uri, sizeof(place->uri), "nbd+unix:///?socket=%s/nbd", place->folder);
}

static void remove_folder(struct place *place)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s", place->folder);
	assert_int_equal(system(command), 0);
}

/* Makes a loop device of place->path and puts its name there. Return: false when the machine has none to give. */
static bool make_loop(struct place *place)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file, number;

	if (control < 0)
		return false;
	number = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0)
		return false;
	file = open(place->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(file >= 0 && !ftruncate(file, DISK_SIZE));
	snprintf(place->path, sizeof(place->path), "/dev/loop%d", number);
	place->loop = open(place->path, O_RDWR | O_CLOEXEC);
	if (place->loop >= 0 && ioctl(place->loop, LOOP_SET_FD, file)) {
		close(place->loop);
		place->loop = -1;
	}
	close(file);
	return place->loop >= 0;
}

static void open_disk(struct place *place)
{
	struct disk_config config = {
		.name = place->kind->name,
		.type = place->kind->type,
		.path = place->path,
		.uri = place->uri,
		.size = DISK_SIZE,
		.block_size = place->kind->block_size,
		.direct = place->kind->direct,
	};
	const char *error = NULL;

	if (disk_open(&config, place->fixture.engine, &place->disk, &error))
		fail_msg("%s", error);
	place->channel = block_fixture_channel(&place->fixture, place->disk);
}

/* Return: false when the machine cannot; says why. */
static bool set_up(struct place *place, const struct kind *kind)
{
	static const char *const plain[] = { "memory", "16M", NULL };
	static const char *const no_fua[] = { "--filter=fua", "memory", "16M", NULL };
	char socket[160];

	*place = (struct place){ .kind = kind, .loop = -1 };
	if (kind->server && !have_nbdkit()) {
		print_message("SKIPPED %s: no nbdkit on this machine\n", kind->name);
		return false;
	}
	make_folder(place, kind->on_tmpfs);
	if (kind->loop && !make_loop(place)) {
		print_message("SKIPPED %s: no loop device to be had\n", kind->name);
		remove_folder(place);
		return false;
	}
	if (kind->server) {
		snprintf(socket, sizeof(socket), "%s/nbd", place->folder);
		place->server = start_nbdkit(socket, kind->server == SERVER_PLAIN ? plain : no_fua);
	}
	block_fixture_start(&place->fixture);
	open_disk(place);
	return true;
}

static void close_disk(struct place *place)
{
	block_fixture_close(&place->fixture, place->channel);
	disk_close(place->disk);
}

static void tear_down(struct place *place)
{
	close_disk(place);
	block_fixture_stop(&place->fixture);
	stop_server(place->server);
	if (place->loop >= 0) {
		ioctl(place->loop, LOOP_CLR_FD);
		close(place->loop);
	}
	remove_folder(place);
}

static int io(struct place *place, enum block_operation operation, uint64_t offset, void *buffer, size_t length)
{
	return block_fixture_io(&place->fixture, place->channel, operation, offset, buffer, length);
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
	uint32_t state = seed * 2654435761U + 1;

	for (size_t i = 0; i < length; i++) {
		state = state * 1664525U + 1013904223U;
		bytes[i] = (uint8_t)(state >> 24);
	}
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i])
			return false;
	return true;
}

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
		assert_in_range(held_back(&place, 64, 4096), 0, 8);
		if (strcmp(disk_state(place.disk), "direct I/O"))
			assert_int_equal(held_back(&place, 8, 256 << 10), 7);
		tear_down(&place);
	}
	free(bytes);
}

/* Reads of which the page cache has a part, or nothing. */
static void half_cached_reads_are_whole(void **state)
{
	const size_t size = 128 << 10, cuts[] = { 0, 4096, 20480, 65536, 126976, 131072 };
	uint8_t *bytes = malloc(size), *back = malloc(size);
	struct place place;
	int fd;

	assert_true(set_up(&place, &kinds[2]));
	fill(bytes, size, 1);
	assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, size), 0);
	fd = open(place.path, O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < array_size(cuts); i++) {
		struct block_job job = { .io.operation = BLOCK_READ };
		sem_t done;

		assert_int_equal(io(&place, BLOCK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(posix_fadvise(fd, (off_t)cuts[i], 0, POSIX_FADV_DONTNEED), 0);
		memset(back, 0, size);
		block_job_cut(&job, back, size, 1 + 7 * i);
		sem_init(&done, 0, 0);
		block_fixture_submit(&place.fixture, place.channel, &job, 1, &done);
		block_fixture_await(1, &done);
		sem_destroy(&done);
		assert_int_equal(job.status, 0);
		assert_memory_equal(back, bytes, size);
	}
	close(fd);
	tear_down(&place);
	free(bytes);
	free(back);
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

static void file_resizes(void **state)
{
	uint8_t bytes[512] = { 0x31 };
	struct disk_limits limits;
	const char *error;
	struct place place;

	assert_true(set_up(&place, &kinds[2]));
	assert_int_equal(disk_resize(place.disk, DISK_SIZE + 4096, &error), 0);
	assert_int_equal(io(&place, BLOCK_WRITE, DISK_SIZE + 4096 - 512, bytes, 512), 0);
	assert_int_equal(disk_resize(place.disk, DISK_SIZE, &error), -EINVAL); /* never cuts data off by itself */
	assert_int_equal(truncate(place.path, DISK_SIZE + 8192 + 100), 0);
	assert_int_equal(disk_resize(place.disk, 0, &error), 0);
	disk_read_limits(place.disk, &limits);
	assert_int_equal(limits.size, DISK_SIZE + 8192); /* the ragged end is left out */
	tear_down(&place);
}

/* The file is cut under the disk: errors for the requests that meet the end, and nothing else. */
static void truncated_file_fails_requests(void **state)
{
	for (unsigned i = 2; i <= 3; i++) {
		uint8_t *bytes = aligned_alloc(4096, 65536);
		struct place place;

		assert_true(set_up(&place, &kinds[i]));
		memset(bytes, 0x2f, 65536);
		assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, 65536), 0);
		assert_int_equal(truncate(place.path, 32768), 0);
		assert_int_equal(io(&place, BLOCK_READ, 65536, bytes, 4096), -EIO);
		assert_int_equal(io(&place, BLOCK_READ, 16384, bytes, 32768), -EIO); /* half of it is there */
		assert_int_equal(io(&place, BLOCK_READ, 0, bytes, 32768), 0);
		assert_int_equal(io(&place, BLOCK_WRITE, 65536, bytes, 4096), 0);
		tear_down(&place);
		free(bytes);
	}
}

/* What lies below a block device goes: an error for the requests that meet it, with or without the page cache. */
static void shrunk_block_device_fails_requests(void **state)
{
	static const struct kind devices[] = {
		{ "block device", DISK_FILE, .loop = true, .block_size = 512 },
		{ "block device direct", DISK_FILE, .direct = true, .loop = true, .block_size = 512 },
	};

	for (unsigned i = 0; i < array_size(devices); i++) {
		uint8_t *bytes = aligned_alloc(4096, 65536);
		char image[192];
		struct place place;

		if (!set_up(&place, &devices[i])) {
			free(bytes);
			skip();
		}
		memset(bytes, 0x2f, 65536);
		assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, 65536), 0);
		assert_int_equal(io(&place, BLOCK_FLUSH, 0, NULL, 0), 0);
		snprintf(image, sizeof(image), "%s/image", place.folder);
		assert_int_equal(truncate(image, 1 << 20), 0);
		assert_int_equal(io(&place, BLOCK_READ, DISK_SIZE / 2, bytes, 4096), -EIO);
		assert_int_equal(io(&place, BLOCK_READ, 0, bytes, 65536), 0);
		assert_int_equal(bytes[65535], 0x2f);
		tear_down(&place);
		free(bytes);
	}
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
		assert_true(counters.sleeps >= 1000);
		tear_down(&place);
		free(bytes);
	}
}

static int try_open(struct block_fixture *fixture, const struct disk_config *config, const char **error)
{
	struct disk *disk;
	int rc = disk_open(config, fixture->engine, &disk, error);

	if (!rc)
		disk_close(disk);
	return rc;
}

static void bad_images_are_refused(void **state)
{
	static const struct kind none = { "none" };
	struct disk_config config = { .name = "d", .type = DISK_FILE };
	struct place place = { .kind = &none };
	struct disk *first, *second;
	const char *error;
	char path[256];
	int file;

	block_fixture_start(&place.fixture);
	make_folder(&place, false);
	config.path = place.path;

	assert_int_equal(try_open(&place.fixture, &config, &error), -ENOENT);
	assert_non_null(strstr(error, "give the disk a size"));
	config.size = 1 << 20;
	config.read_only = true; /* nothing is made for a reader */
	assert_int_equal(try_open(&place.fixture, &config, &error), -ENOENT);
	config.read_only = false;
	config.block_size = 1000;
	assert_int_equal(try_open(&place.fixture, &config, &error), -EINVAL);
	config.block_size = 0;
	assert_int_equal(try_open(&place.fixture, &config, &error), 0); /* made */

	/* Two writers, a writer and a reader: no. Two readers: yes. */
	assert_int_equal(disk_open(&config, place.fixture.engine, &first, &error), 0);
	assert_int_equal(try_open(&place.fixture, &config, &error), -EBUSY);
	assert_non_null(strstr(error, "locked"));
	config.read_only = true;
	assert_int_equal(try_open(&place.fixture, &config, &error), -EBUSY);
	disk_close(first);
	assert_int_equal(disk_open(&config, place.fixture.engine, &first, &error), 0);
	assert_int_equal(disk_open(&config, place.fixture.engine, &second, &error), 0);
	disk_close(first);
	disk_close(second);
	config.read_only = false;

	config.path = place.folder;
	assert_int_equal(try_open(&place.fixture, &config, &error), -EISDIR);
	config.path = "/dev/full";
	assert_int_equal(try_open(&place.fixture, &config, &error), -EINVAL);
	snprintf(path, sizeof(path), "%s/fifo", place.folder);
	assert_int_equal(mkfifo(path, 0600), 0);
	config.path = path;
	assert_true(try_open(&place.fixture, &config, &error) < 0);
	snprintf(path, sizeof(path), "%s/small", place.folder);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(file, 511), 0);
	close(file);
	assert_int_equal(try_open(&place.fixture, &config, &error), -EINVAL);
	assert_non_null(strstr(error, "empty"));

	block_fixture_stop(&place.fixture);
	remove_folder(&place);
}

/* What a killed daemon has left in the kernel keeps the image open, and locked, until it has ended. */
static void image_in_use_is_waited_for(void **state)
{
	static const struct kind none = { "none" };
	struct disk_config config = { .name = "d", .type = DISK_FILE, .size = 1 << 20 };
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct place place = { .kind = &none };
	const char *error;
	int file, status;
	pid_t child;

	(void)state;
	block_fixture_start(&place.fixture);
	make_folder(&place, false);
	config.path = place.path;
	file = open(place.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(file, 1 << 20), 0);
	assert_int_equal(fcntl(file, F_OFD_SETLK, &lock), 0);
	child = fork();
	if (!child) {
		usleep(100000);
		_exit(0);
	}
	close(file);
	assert_int_equal(try_open(&place.fixture, &config, &error), 0);
	assert_int_equal(waitpid(child, &status, 0), child);

	block_fixture_stop(&place.fixture);
	remove_folder(&place);
}

/* A file that is open read-only below the device model's check: the kernel's own error comes through. */
static void real_errors_come_through(void **state)
{
	struct disk_config config = { .name = "d", .type = DISK_FILE, .read_only = true };
	struct block_channel *channel;
	uint8_t bytes[4096] = { 0 };
	const char *error;
	struct place place;
	struct disk *disk;

	assert_true(set_up(&place, &kinds[2]));
	close_disk(&place);
	config.path = place.path;
	assert_int_equal(disk_open(&config, place.fixture.engine, &disk, &error), 0);
	channel = block_fixture_channel(&place.fixture, disk);
	assert_int_equal(block_fixture_io(&place.fixture, channel, BLOCK_WRITE, 0, bytes, 4096), -EBADF);
	assert_int_equal(block_fixture_io(&place.fixture, channel, BLOCK_READ, 0, (void *)8, 4096), -EFAULT);
	assert_int_equal(block_fixture_io(&place.fixture, channel, BLOCK_READ, 0, bytes, 4096), 0);
	block_fixture_close(&place.fixture, channel);
	disk_close(disk);
	open_disk(&place);
	tear_down(&place);
}

static void full_file_system_is_told(void **state)
{
	static const struct kind kind = { "tiny tmpfs", DISK_FILE, .block_size = 512 };
	uint8_t *bytes = calloc(1, 1 << 20);
	struct place place = { .kind = &kind, .loop = -1 };

	make_folder(&place, true);
	if (mount("none", place.folder, "tmpfs", 0, "size=256k")) {
		remove_folder(&place);
		free(bytes);
		print_message("SKIPPED: may not mount a tmpfs (%s)\n", strerror(errno));
		skip();
	}
	block_fixture_start(&place.fixture);
	open_disk(&place);
	memset(bytes, 1, 1 << 20);
	/* The first write gets a part in, goes on, and then hears the truth. */
	assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, 1 << 20), -ENOSPC);
	assert_int_equal(io(&place, BLOCK_READ, 0, bytes, 1 << 20), 0);
	assert_int_equal(io(&place, BLOCK_DISCARD, 0, NULL, 1 << 20), 0);
	assert_int_equal(io(&place, BLOCK_WRITE, 0, bytes, 4096), 0); /* room again */
	close_disk(&place);
	block_fixture_stop(&place.fixture);
	assert_int_equal(umount(place.folder), 0);
	remove_folder(&place);
	free(bytes);
}

/* ---- NBD servers that fail --------------------------------------------------------------------------------------- */

struct nbd_place {
	struct place place;
	char socket[160];
};

static void nbd_start(struct nbd_place *nbd, const char *const *arguments)
{
	static const struct kind kind = { "nbd", DISK_NBD, .block_size = 512 };

	*nbd = (struct nbd_place){ .place = { .kind = &kind, .loop = -1 } };
	if (!have_nbdkit()) {
		print_message("SKIPPED: no nbdkit on this machine\n");
		skip();
	}
	make_folder(&nbd->place, false);
	snprintf(nbd->socket, sizeof(nbd->socket), "%s/nbd", nbd->place.folder);
	block_fixture_start(&nbd->place.fixture);
	if (arguments)
		nbd->place.server = start_nbdkit(nbd->socket, arguments);
}

static int nbd_open_disk(struct nbd_place *nbd, uint32_t timeout, bool read_only)
{
	struct disk_config config = {
		.name = "nbd", .type = DISK_NBD, .uri = nbd->place.uri, .timeout = timeout, .read_only = read_only
	};
	const char *error;
	int rc = disk_open(&config, nbd->place.fixture.engine, &nbd->place.disk, &error);

	if (rc)
		print_message("%s\n", error);
	else
		nbd->place.channel = block_fixture_channel(&nbd->place.fixture, nbd->place.disk);
	return rc;
}

static void nbd_end(struct nbd_place *nbd, bool opened)
{
	if (opened)
		close_disk(&nbd->place);
	block_fixture_stop(&nbd->place.fixture);
	stop_server(nbd->place.server);
	remove_folder(&nbd->place);
}

static void nbd_without_server(void **state)
{
	struct nbd_place nbd;

	nbd_start(&nbd, NULL);
	assert_true(nbd_open_disk(&nbd, 0, false) < 0);
	nbd_end(&nbd, false);
}

static void nbd_read_only_export(void **state)
{
	static const char *const arguments[] = { "-r", "memory", "1M", NULL };
	struct nbd_place nbd;

	nbd_start(&nbd, arguments);
	assert_int_equal(nbd_open_disk(&nbd, 0, false), -EROFS);
	assert_int_equal(nbd_open_disk(&nbd, 0, true), 0);
	nbd_end(&nbd, true);
}

static void nbd_errors_come_through(void **state)
{
	static const char *const arguments[] = { "--filter=error",	"memory",	   "1M", "error-pread=EIO",
						 "error-pwrite=ENOSPC", "error-rate=100%", NULL };
	uint8_t bytes[8192] = { 0 };
	struct block_job job = { .io = { .operation = BLOCK_READ } };
	struct nbd_place nbd;
	sem_t done;

	nbd_start(&nbd, arguments);
	assert_int_equal(nbd_open_disk(&nbd, 0, false), 0);
	assert_int_equal(io(&nbd.place, BLOCK_READ, 0, bytes, 512), -EIO);
	assert_int_equal(io(&nbd.place, BLOCK_WRITE, 0, bytes, 512), -ENOSPC);
	sem_init(&done, 0, 0);
	block_job_cut(&job, bytes, sizeof(bytes), 5);
	block_fixture_submit(&nbd.place.fixture, nbd.place.channel, &job, 1, &done);
	block_fixture_await(1, &done);
	assert_int_equal(job.status, -EIO);
	sem_destroy(&done);
	nbd_end(&nbd, true);
}

static void nbd_slow_server_times_out(void **state)
{
	static const char *const arguments[] = { "--filter=delay", "memory", "1M", "delay-read=20", NULL };
	uint8_t bytes[4096] = { 0 };
	struct nbd_place nbd;
	struct timespec before, after;

	nbd_start(&nbd, arguments);
	assert_int_equal(nbd_open_disk(&nbd, 500, false), 0);
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_int_equal(io(&nbd.place, BLOCK_READ, 0, bytes, 4096), -ETIMEDOUT);
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(after.tv_sec - before.tv_sec < 10);
	nbd_end(&nbd, true);
}

/* What is in flight is known, and for how long at least; and it can be hurried. */
static void nbd_tells_how_long_it_waits(void **state)
{
	static const char *const arguments[] = { "--filter=delay", "memory", "1M", "delay-read=20", NULL };
	static uint8_t bytes[2][4096];
	static struct block_job jobs[2];
	struct timespec before, after;
	struct nbd_place nbd;
	struct disk *disk;
	sem_t done;

	nbd_start(&nbd, arguments);
	assert_int_equal(nbd_open_disk(&nbd, 20000, false), 0);
	disk = nbd.place.disk;
	sem_init(&done, 0, 0);
	for (unsigned i = 0; i < 2; i++)
		block_job_buffer(&jobs[i], bytes[i], sizeof(bytes[i]));
	assert_int_equal(disk_in_flight(disk), 0);
	disk_observe(disk, 100);
	disk_observe(disk, 200);
	assert_int_equal(disk_waited(disk, 300), 0);
	block_fixture_submit(&nbd.place.fixture, nbd.place.channel, &jobs[0], 1, &done);
	while (!disk_in_flight(disk))
		usleep(1000);
	assert_int_equal(disk_waited(disk, 300), 0); /* it has come since */
	disk_observe(disk, 300);
	assert_int_equal(disk_waited(disk, 350), 50);
	block_fixture_submit(&nbd.place.fixture, nbd.place.channel, &jobs[1], 1, &done);
	while (disk_in_flight(disk) < 2)
		usleep(1000);
	disk_observe(disk, 400); /* others come and go: this one waits on */
	assert_int_equal(disk_waited(disk, 500), 200);

	assert_false(disk_is_away(disk));
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_true(disk_hurry(disk, clock_nanoseconds() + 100 * NANOSECONDS_PER_MILLISECOND));
	block_fixture_await(2, &done);
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(after.tv_sec - before.tv_sec < 10);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(jobs[i].status, -ETIMEDOUT);
	assert_int_equal(disk_in_flight(disk), 0);
	assert_int_equal(disk_waited(disk, 600), 0);
	assert_int_equal(io(&nbd.place, BLOCK_READ, 0, bytes, 512), -ETIMEDOUT); /* it is over with this disk */
	sem_destroy(&done);
	nbd_end(&nbd, true);
}

/* The server dies with requests under way and comes back: they are served. It dies for good: they fail in time. */
static void nbd_server_dies(void **state)
{
	static const char *const slow[] = { "--filter=delay", "memory", "1M", "delay-read=20", NULL };
	static const char *const quick[] = { "pattern", "1M", NULL };
	static uint8_t bytes[DEPTH][512];
	static struct block_job jobs[DEPTH];
	struct nbd_place nbd;
	sem_t done;

	nbd_start(&nbd, slow);
	assert_int_equal(nbd_open_disk(&nbd, 10000, true), 0);
	sem_init(&done, 0, 0);
	for (unsigned i = 0; i < DEPTH; i++) {
		jobs[i].io.operation = BLOCK_READ;
		jobs[i].io.offset = i * 512;
		block_job_buffer(&jobs[i], bytes[i], 512);
	}
	block_fixture_submit(&nbd.place.fixture, nbd.place.channel, jobs, DEPTH, &done);
	usleep(200000);
	stop_server(nbd.place.server);
	usleep(300000);
	assert_string_equal(disk_state(nbd.place.disk), "reconnecting");
	unlink(nbd.socket);
	nbd.place.server = start_nbdkit(nbd.socket, quick);
	block_fixture_await(DEPTH, &done);
	for (unsigned i = 0; i < DEPTH; i++) {
		assert_int_equal(jobs[i].status, 0);
		assert_int_equal(jobs[i].completions, 1);
		assert_int_equal(bytes[i][6], (i * 512) >> 8); /* the pattern is each position, big endian, 64 bits */
	}
	assert_string_equal(disk_state(nbd.place.disk), "connected");

	close_disk(&nbd.place);
	assert_int_equal(nbd_open_disk(&nbd, 500, true), 0);
	stop_server(nbd.place.server);
	nbd.place.server = 0;
	assert_int_equal(io(&nbd.place, BLOCK_READ, 0, bytes, 512), -ETIMEDOUT);
	sem_destroy(&done);
	nbd_end(&nbd, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_disk),
		cmocka_unit_test(null_takes_everything),
		cmocka_unit_test(overflow_waits_its_turn),
		cmocka_unit_test(disks_do_not_wait_for_the_batch),
		cmocka_unit_test(half_cached_reads_are_whole),
		cmocka_unit_test(completions_wake_a_sleeper),
		cmocka_unit_test(large_requests_leave_turns_to_others),
		cmocka_unit_test(ram_resizes),
		cmocka_unit_test(file_resizes),
		cmocka_unit_test(truncated_file_fails_requests),
		cmocka_unit_test(shrunk_block_device_fails_requests),
		cmocka_unit_test(bad_images_are_refused),
		cmocka_unit_test(image_in_use_is_waited_for),
		cmocka_unit_test(real_errors_come_through),
		cmocka_unit_test(full_file_system_is_told),
		cmocka_unit_test(nbd_without_server),
		cmocka_unit_test(nbd_read_only_export),
		cmocka_unit_test(nbd_errors_come_through),
		cmocka_unit_test(nbd_slow_server_times_out),
		cmocka_unit_test(nbd_tells_how_long_it_waits),
		cmocka_unit_test(nbd_server_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
