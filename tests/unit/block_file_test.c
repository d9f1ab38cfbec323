/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks that are files or block devices: sizes, locks, limits, errors. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "disk_fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(half_cached_reads_are_whole),
		cmocka_unit_test(file_resizes),
		cmocka_unit_test(truncated_file_fails_requests),
		cmocka_unit_test(shrunk_block_device_fails_requests),
		cmocka_unit_test(bad_images_are_refused),
		cmocka_unit_test(image_in_use_is_waited_for),
		cmocka_unit_test(real_errors_come_through),
		cmocka_unit_test(full_file_system_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
