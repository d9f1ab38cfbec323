/* SPDX-License-Identifier: BSD-3-Clause */
/* NBD servers (nbdkit) that fail, and come back. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "disk_fixture.h"

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
	/* Long enough to connect on a busy machine. */
	assert_int_equal(nbd_open_disk(&nbd, 2000, false), 0);
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
		cmocka_unit_test(nbd_without_server),
		cmocka_unit_test(nbd_read_only_export),
		cmocka_unit_test(nbd_errors_come_through),
		cmocka_unit_test(nbd_slow_server_times_out),
		cmocka_unit_test(nbd_tells_how_long_it_waits),
		cmocka_unit_test(nbd_server_dies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
