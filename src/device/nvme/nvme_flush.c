/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: making durable what the disks have in their caches, when it is the controller that has to: a normal shutdown (Base
 * 3.6.1), and the end of the volatile write cache (Base 5.27.1.4).
 *
 * Theory of operation
 * -------------------
 * The control thread opens a channel to each disk that has a cache, on one sidecore; a message has that submit a flush to
 * each; after the last one has come back, and a barrier, the channels are closed. Nobody waits: other guests go on, and a
 * disk that takes long holds up its own controller alone. Channels are of the flush's own, since a driver deletes its
 * queues before it shuts down.
 *
 * At a shutdown nothing is in flight. The end of the write cache covers what was complete when it was asked for, and what
 * is begun afterwards; a write that was in flight is as durable as one with a cache.
 *
 * One flush at a time. It counts as a request in flight: the controller is not at rest, and no disk is let go of, before
 * it is over (nvme_life.c). A disk that cannot be flushed is logged; a driver that shuts down has nobody to tell.
 *
 * Context: control thread, but for what is marked.
 */
#include <string.h>

#include "base/counter.h"
#include "device/nvme/nvme_internal.h"

/* Sidecore. */
static void one_done(struct nvme_flush *flush)
{
	if (!--flush->pending)
		engine_complete(flush->nvme->device.engine, &flush->completion); /* the last touch */
}

/* Sidecore. */
static void request_complete(struct block_request *io, int status)
{
	struct nvme_flush_request *request = container_of(io, struct nvme_flush_request, io);

	request->error = status;
	one_done(request->flush);
}

/* Sidecore. Requests may complete as they are submitted; the one that is counted beforehand keeps the end away. */
static void submit(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct nvme_flush *flush = container_of(message, struct nvme_flush, message);

	flush->pending = 1;
	for (uint32_t i = 0; i < flush->nvme->namespace_count; i++) {
		struct nvme_flush_request *request = &flush->requests[i];

		if (!request->channel)
			continue;
		request->io = (struct block_request){ .operation = BLOCK_FLUSH, .complete = request_complete };
		flush->pending++;
		block_submit(request->channel, &request->io);
	}
	for (uint32_t i = 0; i < flush->nvme->namespace_count; i++) {
		if (flush->requests[i].channel)
			block_flush_submissions(flush->requests[i].channel);
	}
	one_done(flush);
}

/* The sidecore has left whatever it was in when the last request came back: channels can be closed. */
static void finish(struct engine_completion *completion)
{
	struct nvme_flush *flush = container_of(completion, struct nvme_flush, completion);
	struct nvme *nvme = flush->nvme;
	int error = 0;

	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		struct nvme_flush_request *request = &flush->requests[i];

		if (request->channel) {
			block_channel_close(request->channel, NULL);
			counter_add(&nvme->counters[0].flushes, !request->error);
		}
		request->channel = NULL;
		if (!request->error)
			continue;
		error = request->error;
		log_limited(&nvme->device.log_limit, LOG_LEVEL_WARNING, "%s: namespace %u could not be flushed: %s",
			    nvme->device.name, i + 1, strerror(-error));
	}
	flush->active = false;
	flush->done(nvme, error);
}

static void flushed(struct engine_completion *completion)
{
	struct nvme_flush *flush = container_of(completion, struct nvme_flush, completion);

	flush->completion.done = finish;
	engine_barrier(flush->nvme->device.engine, &flush->completion);
}

void nvme_flush(struct nvme *nvme, void (*done)(struct nvme *nvme, int error))
{
	struct sidecore *home = device_queue_place(nvme->device.engine, nvme->sidecore);
	struct nvme_flush *flush = &nvme->flush;

	flush->active = true;
	flush->nvme = nvme;
	flush->done = done;
	flush->completion.done = flushed;
	flush->message.run = submit;
	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		const struct nvme_namespace *namespace = &nvme->namespaces[i];
		struct nvme_flush_request *request = &flush->requests[i];

		request->flush = flush;
		request->error = 0;
		if (namespace->limits.flush_needed)
			request->error = block_channel_open(namespace->disk, home, &request->channel);
	}
	sidecore_post(home, &flush->message);
}
