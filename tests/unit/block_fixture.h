/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A sidecore with a block worker for tests of disks: the test thread is the control thread, requests are submitted on
 * the sidecore and their results awaited here.
 */
#ifndef TESTS_BLOCK_FIXTURE_H
#define TESTS_BLOCK_FIXTURE_H

#include <semaphore.h>
#include <stdbool.h>

#include "block/block.h"

struct block_fixture {
	struct engine *engine;
	struct sidecore *sidecore;
	struct block_worker *worker;
	unsigned held_back; /* of the last batch submitted: requests that the kernel was given only at its end */
};

/** struct block_job - one request of a test, with its own copy of what it must leave untouched. */
struct block_job {
	struct block_request io;
	struct guest_segment segments[64];
	int status; /* 1: not complete */
	unsigned completions;
	sem_t *done;
};

void block_fixture_start(struct block_fixture *fixture);

/** block_fixture_start_sleepy() - with a sidecore that sleeps @busy_poll ns after its last work. */
void block_fixture_start_sleepy(struct block_fixture *fixture, uint64_t busy_poll);
void block_fixture_stop(struct block_fixture *fixture);

/** block_fixture_wait_flag() - what the control thread's event loop does, until @flag is set. */
void block_fixture_wait_flag(struct block_fixture *fixture, const bool *flag);

struct block_channel *block_fixture_channel(struct block_fixture *fixture, struct disk *disk);
void block_fixture_close(struct block_fixture *fixture, struct block_channel *channel);

/** block_job_buffer() - use [@buffer, +@length) as the job's only segment; block_job_cut(): in @count uneven pieces. */
void block_job_buffer(struct block_job *job, void *buffer, size_t length);
void block_job_cut(struct block_job *job, void *buffer, size_t length, unsigned count);

/** block_fixture_submit() - submit @count jobs in one batch; block_fixture_await(): until they are back. */
void block_fixture_submit(struct block_fixture *fixture, struct block_channel *channel, struct block_job *jobs,
			  unsigned count, sem_t *done);
void block_fixture_await(unsigned count, sem_t *done);

/** One request, start to end. Return: its status. */
int block_fixture_io(struct block_fixture *fixture, struct block_channel *channel, enum block_operation operation,
		     uint64_t offset, void *buffer, size_t length);

#endif
