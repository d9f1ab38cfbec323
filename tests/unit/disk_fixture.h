/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk of each kind on a sidecore: RAM, files on several file systems, loop devices, and NBD with servers of nbdkit. */
#ifndef TESTS_DISK_FIXTURE_H
#define TESTS_DISK_FIXTURE_H

#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block_fixture.h"
#include "test.h"

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

static inline pid_t start_nbdkit(const char *socket, const char *const *arguments)
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

static inline void stop_server(pid_t server)
{
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
}

static inline bool have_nbdkit(void)
{
	return !system("command -v nbdkit >/dev/null 2>&1");
}

static inline void make_folder(struct place *place, bool on_tmpfs)
{
	const char *base = on_tmpfs ? "/dev/shm" : getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";

	snprintf(place->folder, sizeof(place->folder), "%s/sidecore-test-XXXXXX", base);
	assert_non_null(mkdtemp(place->folder));
	snprintf(place->path, sizeof(place->path), "%s/image", place->folder);
	snprintf(place->uri, sizeof(place->uri), "nbd+unix:///?socket=%s/nbd", place->folder);
}

static inline void remove_folder(struct place *place)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s", place->folder);
	assert_int_equal(system(command), 0);
}

/* Makes a loop device of place->path and puts its name there. Return: false when the machine has none to give. */
static inline bool make_loop(struct place *place)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file;

	if (control < 0)
		return false;
	file = open(place->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(file >= 0 && !ftruncate(file, DISK_SIZE));
	/* Another test may take the one that is free before we do. */
	for (unsigned tries = 0; tries < 16 && place->loop < 0; tries++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0)
			break;
		snprintf(place->path, sizeof(place->path), "/dev/loop%d", number);
		place->loop = open(place->path, O_RDWR | O_CLOEXEC);
		if (place->loop >= 0 && ioctl(place->loop, LOOP_SET_FD, file)) {
			close(place->loop);
			place->loop = -1;
		}
	}
	close(control);
	close(file);
	return place->loop >= 0;
}

static inline void open_disk(struct place *place)
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
static inline bool set_up(struct place *place, const struct kind *kind)
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

static inline void close_disk(struct place *place)
{
	block_fixture_close(&place->fixture, place->channel);
	disk_close(place->disk);
}

static inline void tear_down(struct place *place)
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

static inline int io(struct place *place, enum block_operation operation, uint64_t offset, void *buffer, size_t length)
{
	return block_fixture_io(&place->fixture, place->channel, operation, offset, buffer, length);
}

static inline void fill(uint8_t *bytes, size_t length, unsigned seed)
{
	uint32_t state = seed * 2654435761U + 1;

	for (size_t i = 0; i < length; i++) {
		state = state * 1664525U + 1013904223U;
		bytes[i] = (uint8_t)(state >> 24);
	}
}

static inline bool all_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i])
			return false;
	return true;
}

#endif
