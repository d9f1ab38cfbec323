/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block load: one thread that plays the driver of one disk, random reads and writes at a constant depth.
 *
 * Theory of operation
 * -------------------
 * A request that completes is sent again for another random place. What the disk's rings look like is its driver's affair
 * (client/block_driver.h).
 *
 * Time is taken once for each batch, when it is published and when it is collected; latency is therefore what a
 * polling guest would see, the batch's own length included.
 *
 * Verification: each block has a generation, counted up by every write of it; a write fills the block with words
 * derived from block number and generation, and a read is compared if the block was ever written. No two requests
 * touch the same block at once, so the generation that a read must find is known.
 *
 * Context: one thread owns a load.
 */
#include "client/block_load.h"

#include "client/block_driver.h"
#include "client/load_events.h"
#include "client/load_histogram.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH	    64u
#define IDLE_PAUSES 2
#define WAIT_MS	    10

struct queue {
	struct block_request *requests;
	uint32_t in_flight;
};

struct block_load {
	const struct block_load_options *options;
	struct block_load_result *result;
	struct block_driver *driver;
	struct queue queues[BLOCK_LOAD_QUEUES_MAX];
	struct load_histogram histogram;
	struct load_polls polls;
	uint64_t random;
	uint64_t blocks;
	uint64_t completed;
	uint64_t waits;
	uint32_t *generations;
	uint8_t *busy;
};

__attribute__((format(printf, 3, 4))) static int fail(struct block_load *load, int error, const char *format, ...)
{
	size_t used =
		(size_t)snprintf(load->result->error, sizeof(load->result->error), "%s: ", load->options->socket_path);
	va_list arguments;

	if (used < sizeof(load->result->error)) {
		va_start(arguments, format);
		vsnprintf(load->result->error + used, sizeof(load->result->error) - used, format, arguments);
		va_end(arguments);
	}

	return error;
}

/* xorshift64* (Vigna): cheap, and good enough to spread requests. */
static uint64_t next_random(struct block_load *load)
{
	load->random ^= load->random >> 12;
	load->random ^= load->random << 25;
	load->random ^= load->random >> 27;

	return load->random * 0x2545f4914f6cdd1dULL;
}

/* A place below @bound without division: the high half of the product. */
static uint64_t random_below(struct block_load *load, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)next_random(load) * bound) >> 64);
}

/* ---- content ---- */

static uint64_t content_seed(uint64_t block, uint32_t generation)
{
	return (block << 32 | generation) * 0x9e3779b97f4a7c15ULL;
}

static uint64_t block_of(const struct block_load *load, const struct block_request *request)
{
	return request->offset / load->options->block_size;
}

static void fill_content(const struct block_load *load, const struct block_request *request)
{
	uint64_t block = block_of(load, request), seed = content_seed(block, load->generations[block]);
	uint64_t *words = (uint64_t *)request->data;

	for (uint32_t i = 0; i < load->options->block_size / sizeof(*words); i++)
		words[i] = seed + i;
}

static void verify_content(struct block_load *load, const struct block_request *request)
{
	uint64_t block = block_of(load, request), seed = content_seed(block, load->generations[block]);
	const uint64_t *words = (const uint64_t *)request->data;

	load->result->verified++;
	for (uint32_t i = 0; i < load->options->block_size / sizeof(*words); i++) {
		if (words[i] != seed + i) {
			load->result->mismatches++;
			return;
		}
	}
}

/* ---- requests ---- */

static uint64_t choose_block(struct block_load *load)
{
	uint64_t block = random_below(load, load->blocks);

	if (load->busy) {
		while (load->busy[block])
			block = block + 1 == load->blocks ? 0 : block + 1;
		load->busy[block] = 1;
	}

	return block;
}

static void prepare_request(struct block_load *load, struct block_request *request)
{
	uint32_t read_percent = load->options->read_percent;
	uint64_t block = choose_block(load);

	request->writes = read_percent < 100 && random_below(load, 100) >= read_percent;
	request->offset = block * load->options->block_size;
	if (load->generations && request->writes) {
		load->generations[block]++;
		fill_content(load, request);
	}
}

static void finish_request(struct block_load *load, struct block_request *request, uint64_t now)
{
	load_histogram_add(&load->histogram, now - request->submitted);
	load->completed++;
	if (request->failed)
		load->result->errors++;
	else if (load->generations && !request->writes && load->generations[block_of(load, request)])
		verify_content(load, request);
	if (load->busy)
		load->busy[block_of(load, request)] = 0;
}

static int submit(struct block_load *load, unsigned int index, const struct driver_buffer *buffers, unsigned int count)
{
	struct queue *queue = &load->queues[index];
	uint64_t now = load_cycles();
	int error;

	for (unsigned int i = 0; i < count; i++)
		queue->requests[buffers[i].id].submitted = now;
	queue->in_flight += count;
	error = load->driver->ops->submit(load->driver, index, buffers, count);

	return error ? fail(load, error, "%s", load->driver->error) : 0;
}

/* Collects one batch and, if @sending, sends as many. Return: requests collected, or a negative errno. */
static int turn(struct block_load *load, unsigned int index, bool sending)
{
	struct queue *queue = &load->queues[index];
	struct driver_buffer buffers[BATCH];
	int count = load->driver->ops->take(load->driver, index, buffers, BATCH);
	int error = 0;
	uint64_t now;

	if (count < 0)
		return fail(load, count, "the device broke the rules of queue %u", index);
	if (count == 0)
		return 0;

	now = load_cycles();
	queue->in_flight -= (uint32_t)count;
	for (int i = 0; i < count; i++) {
		finish_request(load, &queue->requests[buffers[i].id], now);
		if (sending)
			prepare_request(load, &queue->requests[buffers[i].id]);
	}
	if (sending)
		error = submit(load, index, buffers, (unsigned int)count);

	return error ? error : count;
}

/* Nothing to do: sleep until an interrupt comes, or let the other side have the lines for a moment. */
static void rest(struct block_load *load)
{
	struct block_driver *driver = load->driver;
	bool pending = false;
	uint64_t signalled;

	if (!load->options->interrupts) {
		for (unsigned int i = 0; i < IDLE_PAUSES; i++)
			load_relax();
		return;
	}

	for (unsigned int i = 0; i < load->options->queues; i++)
		pending |= driver->ops->arm(driver, i);
	if (!pending)
		load->waits += load_events_wait(driver->events, load->options->queues, WAIT_MS, &signalled);
	for (unsigned int i = 0; i < load->options->queues; i++)
		driver->ops->disarm(driver, i);
}

static int run_for(struct block_load *load, uint64_t cycles)
{
	uint64_t start = load_cycles();
	uint64_t now = start;

	while (now - start < cycles) {
		uint64_t then = now;
		int work = 0;

		for (unsigned int i = 0; i < load->options->queues; i++) {
			int count = turn(load, i, true);

			if (count < 0)
				return count;
			work += count;
		}
		if (work == 0)
			rest(load);
		now = load_cycles();
		load->polls.polls++;
		if (work > 0) {
			load->polls.busy++;
			load->polls.busy_cycles += now - then;
		}
	}

	return 0;
}

/* Collects what is in flight; -ETIMEDOUT if it does not come back in @cycles. */
static int drain(struct block_load *load, uint64_t cycles)
{
	uint64_t start = load_cycles();

	for (unsigned int i = 0; i < load->options->queues; i++) {
		while (load->queues[i].in_flight > 0) {
			int count = turn(load, i, false);

			if (count < 0)
				return count;
			if (load_cycles() - start > cycles)
				return fail(load, -ETIMEDOUT, "%u requests of queue %u never completed",
					    load->queues[i].in_flight, i);
		}
	}

	return 0;
}

/* ---- attach ---- */

static int choose_blocks(struct block_load *load)
{
	uint64_t bytes = load->driver->bytes, span = load->options->span;

	load->blocks = (span && span < bytes ? span : bytes) / load->options->block_size;
	if (load->blocks == 0)
		return fail(load, -EINVAL, "the disk has only %llu bytes", (unsigned long long)bytes);
	if (!load->options->verify)
		return 0;

	if (load->blocks <= (uint64_t)load->options->depth * load->options->queues || load->blocks > UINT32_MAX)
		return fail(load, -EINVAL, "cannot verify %llu blocks with this depth; choose another span",
			    (unsigned long long)load->blocks);
	load->generations = calloc(load->blocks, sizeof(*load->generations));
	load->busy = calloc(load->blocks, sizeof(*load->busy));

	return load->generations && load->busy ? 0 : -ENOMEM;
}

static int attach(struct block_load *load)
{
	const struct block_load_options *options = load->options;
	struct block_driver *driver =
		options->device == BLOCK_LOAD_NVME ? block_nvme_create(options) : block_virtio_create(options);
	int error;

	load->driver = driver;
	if (!driver)
		return -ENOMEM;
	error = driver->ops->attach(driver);
	if (error)
		return fail(load, error, "%s", driver->error[0] ? driver->error : strerror(-error));
	if (driver->read_only && options->read_percent < 100)
		return fail(load, -EROFS, "the disk is read-only");
	if (options->queues > driver->queues_max)
		return fail(load, -EINVAL, "the disk has %u queues", driver->queues_max);

	return choose_blocks(load);
}

/* NVMe's data begin at a page where they are longer than one, and do not cross into the next where they are shorter. */
static size_t data_stride(uint32_t block_size)
{
	size_t stride = BLOCK_SECTOR;

	while (stride < block_size && stride < 4096)
		stride *= 2;

	return stride < block_size ? (block_size + 4095u) & ~4095u : stride;
}

static int start_queue(struct block_load *load, unsigned int index)
{
	const struct block_load_options *options = load->options;
	struct queue *queue = &load->queues[index];
	size_t stride = data_stride(options->block_size);
	uint8_t *data = client_memory_allocate(load->driver->memory, options->depth * stride, 4096);

	queue->requests = calloc(options->depth, sizeof(*queue->requests));
	if (!data || !queue->requests)
		return -ENOMEM;
	for (unsigned int i = 0; i < options->depth; i++)
		queue->requests[i].data = data + i * stride;

	return load->driver->ops->start_queue(load->driver, index, queue->requests);
}

static int start_requests(struct block_load *load)
{
	int error = 0;

	for (unsigned int i = 0; i < load->options->queues; i++) {
		for (unsigned int id = 0; !error && id < load->options->depth; id++) {
			struct driver_buffer buffer = { .id = id };

			prepare_request(load, &load->queues[i].requests[id]);
			error = submit(load, i, &buffer, 1);
		}
	}

	return error;
}

static int prepare(struct block_load *load)
{
	int error = attach(load);

	for (unsigned int i = 0; !error && i < load->options->queues; i++)
		error = start_queue(load, i);
	if (!error)
		error = load->driver->ops->ready(load->driver);
	if (!error)
		error = start_requests(load);
	if (error && !load->result->error[0])
		fail(load, error, "%s",
		     load->driver && load->driver->error[0] ? load->driver->error : strerror(-error));

	return error;
}

static void clean_up(struct block_load *load)
{
	if (load->driver)
		load->driver->ops->detach(load->driver);
	for (unsigned int i = 0; i < load->options->queues; i++)
		free(load->queues[i].requests);
	free(load->generations);
	free(load->busy);
}

static int measure(struct block_load *load, const struct load_hooks *hooks, const struct load_clock *clock)
{
	struct block_load_result *result = load->result;
	double nanoseconds = 1e9 / clock->cycles_per_second;
	uint64_t completed = load->completed, kicks = load->driver->kicks, waits = load->waits, start;
	int error;

	memset(&load->histogram, 0, sizeof(load->histogram));
	load->polls = (struct load_polls){ 0 };
	if (hooks && hooks->begin)
		hooks->begin(hooks->context);
	start = load_cycles();

	error = run_for(load, (uint64_t)(load->options->seconds * clock->cycles_per_second));

	result->seconds = (double)(load_cycles() - start) / clock->cycles_per_second;
	if (hooks && hooks->end)
		hooks->end(hooks->context);
	result->requests = load->completed - completed;
	result->kicks = load->driver->kicks - kicks;
	result->waits = load->waits - waits;
	result->bytes = result->requests * load->options->block_size;
	result->p50_ns = (uint64_t)((double)load_histogram_quantile(&load->histogram, 0.5) * nanoseconds);
	result->p99_ns = (uint64_t)((double)load_histogram_quantile(&load->histogram, 0.99) * nanoseconds);
	result->maximum_ns = (uint64_t)((double)load->histogram.maximum * nanoseconds);
	result->polls = load->polls;
	if (result->requests)
		result->cycles_per_request = (double)load->polls.busy_cycles / (double)result->requests;
	if (load->polls.polls)
		result->busy_share = (double)load->polls.busy / (double)load->polls.polls;

	return error;
}

static bool options_are_valid(const struct block_load_options *options)
{
	return options->socket_path && options->depth > 0 && options->depth <= BLOCK_LOAD_DEPTH_MAX &&
	       options->queues > 0 && options->queues <= BLOCK_LOAD_QUEUES_MAX && options->block_size >= BLOCK_SECTOR &&
	       options->block_size <= BLOCK_LOAD_SIZE_MAX && options->block_size % BLOCK_SECTOR == 0 &&
	       options->read_percent <= 100;
}

/**
 * block_load_run() - attach, load, measure, drain, detach.
 * @options:	what to do
 * @hooks:	called around the measured time; may be NULL
 * @result:	what came of it
 *
 * Return: 0, or a negative errno with the reason in @result->error. Failed requests and mismatches are a result.
 */
int block_load_run(const struct block_load_options *options, const struct load_hooks *hooks,
		   struct block_load_result *result)
{
	struct block_load *load;
	struct load_clock clock;
	int error;

	memset(result, 0, sizeof(*result));
	if (!options_are_valid(options))
		return -EINVAL;
	load = calloc(1, sizeof(*load));
	if (!load)
		return -ENOMEM;
	load->options = options;
	load->result = result;
	load->random = options->seed ? options->seed : 0x853c49e6748fea9bULL;
	load_clock_measure(&clock);

	error = prepare(load);
	if (!error)
		error = run_for(load, (uint64_t)(options->warm_up * clock.cycles_per_second));
	if (!error)
		error = measure(load, hooks, &clock);
	if (!error)
		error = drain(load, (uint64_t)(5 * clock.cycles_per_second));

	clean_up(load);
	free(load);

	return error;
}
