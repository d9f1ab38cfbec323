/* SPDX-License-Identifier: BSD-3-Clause */
#include "block_fixture.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/worker.h"

/* Not assert(): these must hold in every build. */
#define require(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

#define PATIENCE 60 /* seconds; sanitizers and busy machines are slow */

struct flagged {
	struct engine_completion completion;
	bool done;
};

struct submission {
	struct sidecore_message message;
	struct block_fixture *fixture;
	struct block_channel *channel;
	struct block_job *jobs;
	unsigned count;
	sem_t submitted;
};

static void set_flag(struct engine_completion *completion)
{
	container_of(completion, struct flagged, completion)->done = true;
}

void block_fixture_wait_flag(struct block_fixture *fixture, const bool *flag)
{
	while (!*flag) {
		struct pollfd watched = { .fd = engine_completion_fd(fixture->engine), .events = POLLIN };

		require(poll(&watched, 1, PATIENCE * 1000) == 1);
		engine_run_completions(fixture->engine);
	}
}

void block_fixture_start(struct block_fixture *fixture)
{
	block_fixture_start_sleepy(fixture, 0);
}

void block_fixture_start_sleepy(struct block_fixture *fixture, uint64_t busy_poll)
{
	struct engine_config config = { .sidecore_count = 1,
					.sidecores = { { .cpu = -1 } },
					.busy_poll_ns = busy_poll };

	require(!engine_create(&config, &fixture->engine));
	fixture->sidecore = engine_sidecore(fixture->engine, 0);
	require(!block_worker_create(&fixture->worker));
	sidecore_set_slot(fixture->sidecore, SIDECORE_SLOT_BLOCK, fixture->worker);
	require(!engine_start(fixture->engine));
	require(!block_worker_attach(fixture->worker, fixture->engine, fixture->sidecore));
}

void block_fixture_stop(struct block_fixture *fixture)
{
	struct flagged detached = { .completion.done = set_flag };

	block_worker_detach(fixture->worker, &detached.completion);
	block_fixture_wait_flag(fixture, &detached.done);
	engine_stop(fixture->engine);
	block_worker_destroy(fixture->worker);
	engine_destroy(fixture->engine);
}

struct block_channel *block_fixture_channel(struct block_fixture *fixture, struct disk *disk)
{
	struct block_channel *channel;

	require(!block_channel_open(disk, fixture->sidecore, &channel));
	return channel;
}

void block_fixture_close(struct block_fixture *fixture, struct block_channel *channel)
{
	struct flagged barrier = { .completion.done = set_flag }, closed = { .completion.done = set_flag };

	/* As the life of a queue does: nobody on the sidecore is inside the channel any more. */
	engine_barrier(fixture->engine, &barrier.completion);
	block_fixture_wait_flag(fixture, &barrier.done);
	block_channel_close(channel, &closed.completion);
	block_fixture_wait_flag(fixture, &closed.done);
}

void block_job_buffer(struct block_job *job, void *buffer, size_t length)
{
	block_job_cut(job, buffer, length, 1);
}

void block_job_cut(struct block_job *job, void *buffer, size_t length, unsigned count)
{
	char *place = buffer;

	job->io.segments = job->segments;
	job->io.segment_count = count;
	job->io.length = length;
	for (unsigned i = 0; i < count; i++) {
		/* Odd lengths on purpose: no boundary of the disk or of memory is respected. */
		size_t piece = i + 1 == count ? length : min(length - (count - i - 1), length / (count - i) | 1U);

		job->segments[i] = (struct guest_segment){ guest_bytes_of(place), piece };
		place += piece;
		length -= piece;
	}
}

static void job_complete(struct block_request *io, int status)
{
	struct block_job *job = container_of(io, struct block_job, io);

	job->status = status;
	job->completions++;
	sem_post(job->done);
}

static void submit_jobs(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct submission *submission = container_of(message, struct submission, message);

	for (unsigned i = 0; i < submission->count; i++)
		block_submit(submission->channel, &submission->jobs[i].io);
	submission->fixture->held_back = io_uring_sq_ready(&submission->fixture->worker->ring);
	block_flush_submissions(submission->channel);
	sem_post(&submission->submitted);
}

static void await(sem_t *semaphore)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE;
	while (sem_timedwait(semaphore, &until))
		require(errno == EINTR);
}

void block_fixture_submit(struct block_fixture *fixture, struct block_channel *channel, struct block_job *jobs,
			  unsigned count, sem_t *done)
{
	struct submission submission = {
		.message.run = submit_jobs, .fixture = fixture, .channel = channel, .jobs = jobs, .count = count
	};

	for (unsigned i = 0; i < count; i++) {
		jobs[i].io.complete = job_complete;
		jobs[i].status = 1;
		jobs[i].completions = 0;
		jobs[i].done = done;
	}
	sem_init(&submission.submitted, 0, 0);
	sidecore_post(fixture->sidecore, &submission.message);
	await(&submission.submitted);
	sem_destroy(&submission.submitted);
}

void block_fixture_await(unsigned count, sem_t *done)
{
	while (count--)
		await(done);
}

int block_fixture_io(struct block_fixture *fixture, struct block_channel *channel, enum block_operation operation,
		     uint64_t offset, void *buffer, size_t length)
{
	struct block_job job = { .io = { .operation = (uint8_t)operation, .offset = offset } };
	sem_t done;

	if (buffer)
		block_job_buffer(&job, buffer, length);
	job.io.length = length;
	sem_init(&done, 0, 0);
	block_fixture_submit(fixture, channel, &job, 1, &done);
	block_fixture_await(1, &done);
	sem_destroy(&done);
	require(job.completions == 1);
	return job.status;
}
