/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block load: one thread that plays the driver of one disk, random reads and writes at a constant depth.
 *
 * Theory of operation
 * -------------------
 * Each request is a fixed buffer of three segments: header (read by the device), data, status (written). Header and
 * status share a cache line of their own. A request that completes is sent again for another random place, so that
 * only its header changes; reads and writes differ in the direction of the data segment, which is changed when they alternate.
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

#include "client/load_histogram.h"
#include "client/vhost_user_client.h"
#include "client/virtqueue_driver.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTOR_SIZE 512u
#define SEGMENTS    3u
#define BATCH	    64u
#define IDLE_PAUSES 2
#define STATUS_NONE 0xff

/* What the device sees of a request besides the data. */
struct control_line {
	struct virtio_blk_outhdr header;
	uint8_t status;
} __attribute__((aligned(64)));

struct request {
	struct control_line *control;
	uint8_t *data;
	uint64_t block;
	uint64_t submitted;
	bool writes;
};

struct queue {
	struct virtqueue_driver ring;
	struct request *requests;
	unsigned int index;
};

struct block_load {
	const struct block_load_options *options;
	struct block_load_result *result;
	struct vhost_user_client client;
	struct queue queues[BLOCK_LOAD_QUEUES_MAX];
	struct load_histogram histogram;
	struct load_polls polls;
	uint64_t random;
	uint64_t blocks;
	uint64_t completed;
	uint64_t kicks;
	uint32_t *generations;
	uint8_t *busy;
};

__attribute__((format(printf, 3, 4))) static int fail(struct block_load *load, int error, const char *format, ...)
{
	size_t used = (size_t)snprintf(load->result->error, sizeof(load->result->error), "%s: ",
				       load->options->socket_path);
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

static void fill_content(const struct block_load *load, const struct request *request)
{
	uint64_t seed = content_seed(request->block, load->generations[request->block]);
	uint64_t *words = (uint64_t *)request->data;

	for (uint32_t i = 0; i < load->options->block_size / sizeof(*words); i++)
		words[i] = seed + i;
}

static void verify_content(struct block_load *load, const struct request *request)
{
	uint64_t seed = content_seed(request->block, load->generations[request->block]);
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

static void set_direction(struct block_load *load, struct queue *queue, unsigned int id, bool writes)
{
	struct request *request = &queue->requests[id];

	request->writes = writes;
	virtqueue_driver_set_segment(&queue->ring, id, 1, vhost_user_client_guest_address(&load->client, request->data),
				     load->options->block_size, !writes);
	request->control->header.type = htole32(writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN);
}

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

static void prepare_request(struct block_load *load, struct queue *queue, unsigned int id)
{
	struct request *request = &queue->requests[id];
	uint32_t read_percent = load->options->read_percent;
	bool writes = read_percent < 100 && random_below(load, 100) >= read_percent;

	if (writes != request->writes)
		set_direction(load, queue, id, writes);
	request->block = choose_block(load);
	request->control->header.sector = htole64(request->block * (load->options->block_size / SECTOR_SIZE));
	request->control->status = STATUS_NONE;
	if (load->generations && writes) {
		load->generations[request->block]++;
		fill_content(load, request);
	}
}

static void finish_request(struct block_load *load, struct request *request, uint64_t now)
{
	load_histogram_add(&load->histogram, now - request->submitted);
	load->completed++;
	if (request->control->status != VIRTIO_BLK_S_OK)
		load->result->errors++;
	else if (load->generations && !request->writes && load->generations[request->block])
		verify_content(load, request);
	if (load->busy)
		load->busy[request->block] = 0;
}

static void submit(struct block_load *load, struct queue *queue, const struct virtqueue_buffer *buffers,
		   unsigned int count)
{
	uint64_t now, one = 1;

	virtqueue_driver_add(&queue->ring, buffers, count);
	now = load_cycles();
	for (unsigned int i = 0; i < count; i++)
		queue->requests[buffers[i].id].submitted = now;

	if (virtqueue_driver_publish(&queue->ring) &&
	    write(load->client.queues[queue->index].kick_fd, &one, sizeof(one)) == sizeof(one))
		load->kicks++;
}

/* Collects one batch and, if @sending, sends as many. Return: requests collected, or a negative errno. */
static int turn(struct block_load *load, struct queue *queue, bool sending)
{
	struct virtqueue_buffer buffers[BATCH];
	int count = virtqueue_driver_take(&queue->ring, buffers, BATCH);
	uint64_t now;

	if (count < 0)
		return fail(load, count, "the device broke the rules of queue %u", queue->index);
	if (count == 0)
		return 0;

	now = load_cycles();
	for (int i = 0; i < count; i++) {
		finish_request(load, &queue->requests[buffers[i].id], now);
		if (sending)
			prepare_request(load, queue, buffers[i].id);
	}
	if (sending)
		submit(load, queue, buffers, (unsigned int)count);

	return count;
}

static int run_for(struct block_load *load, uint64_t cycles)
{
	uint64_t start = load_cycles();
	uint64_t now = start;

	while (now - start < cycles) {
		uint64_t then = now;
		int work = 0;

		for (unsigned int i = 0; i < load->options->queues; i++) {
			int count = turn(load, &load->queues[i], true);

			if (count < 0)
				return count;
			work += count;
		}
		if (work == 0)
			for (unsigned int i = 0; i < IDLE_PAUSES; i++)
				load_relax();
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
		while (load->queues[i].ring.in_flight > 0) {
			int count = turn(load, &load->queues[i], false);

			if (count < 0)
				return count;
			if (load_cycles() - start > cycles)
				return fail(load, -ETIMEDOUT, "%u requests of queue %u never completed",
					    load->queues[i].ring.in_flight, i);
		}
	}

	return 0;
}

/* ---- attach ---- */

static unsigned int ring_size(const struct block_load_options *options)
{
	unsigned int size = 64;

	while (size < options->depth * SEGMENTS)
		size *= 2;

	return size;
}

static int attach(struct block_load *load)
{
	const struct block_load_options *options = load->options;
	size_t queue_memory = ring_size(options) * (sizeof(struct vring_desc) * (1 + SEGMENTS) + 16) + 5 * 4096 +
			      options->depth * (sizeof(struct control_line) + options->block_size + 4096);
	struct vhost_user_client_options connection = {
		.socket_path = options->socket_path,
		.listen = options->listen,
		.huge_pages = options->huge_pages,
		.memory_size = options->queues * queue_memory,
		/*
		 * FLUSH, as every real driver takes it: without it the device must make each write durable before it
		 * answers (virtio 1.3 5.2.6.2), which no peer does in the same test.
		 */
		.features = 1ULL << VIRTIO_BLK_F_RO | 1ULL << VIRTIO_BLK_F_FLUSH,
		.features_required = 1ULL << VIRTIO_F_VERSION_1,
	};
	int error;

	if (options->packed)
		connection.features_required |= 1ULL << VIRTIO_F_RING_PACKED;
	if (options->queues > 1)
		connection.features_required |= 1ULL << VIRTIO_BLK_F_MQ;
	if (options->event_index)
		connection.features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (options->in_order)
		connection.features |= 1ULL << VIRTIO_F_IN_ORDER;
	if (options->indirect)
		connection.features |= 1ULL << VIRTIO_RING_F_INDIRECT_DESC;

	error = vhost_user_client_attach(&load->client, &connection);
	if (error)
		return fail(load, error, "%s", load->client.error);
	if (vhost_user_client_has(&load->client, VIRTIO_BLK_F_RO) && options->read_percent < 100)
		return fail(load, -EROFS, "the disk is read-only");

	return 0;
}

static int read_geometry(struct block_load *load)
{
	struct virtio_blk_config config = { 0 };
	uint64_t sectors, bytes, span = load->options->span;
	/* Up to num_queues: what every back-end with a configuration space has. */
	uint32_t size = offsetof(struct virtio_blk_config, num_queues) + sizeof(config.num_queues);
	int error = vhost_user_client_read_config(&load->client, 0, &config, size);

	if (error)
		return fail(load, error, "%s", load->client.error);
	if (load->options->queues > 1 && le16toh(config.num_queues) < load->options->queues)
		return fail(load, -EINVAL, "the disk has %u queues", le16toh(config.num_queues));

	sectors = le64toh(config.capacity);
	bytes = sectors > UINT64_MAX / SECTOR_SIZE ? UINT64_MAX : sectors * SECTOR_SIZE;
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

static int prepare_queue(struct block_load *load, struct queue *queue)
{
	const struct block_load_options *options = load->options;
	struct control_line *lines = vhost_user_client_allocate(&load->client, options->depth * sizeof(*lines), 4096);
	uint8_t *data = vhost_user_client_allocate(&load->client, (size_t)options->depth * options->block_size, 4096);

	queue->requests = calloc(options->depth, sizeof(*queue->requests));
	if (!lines || !data || !queue->requests)
		return -ENOMEM;

	for (unsigned int i = 0; i < options->depth; i++) {
		uint64_t line = vhost_user_client_guest_address(&load->client, &lines[i]);

		queue->requests[i].control = &lines[i];
		queue->requests[i].data = data + (size_t)i * options->block_size;
		virtqueue_driver_set_segment(&queue->ring, i, 0, line, sizeof(lines->header), false);
		virtqueue_driver_set_segment(&queue->ring, i, 2, line + offsetof(struct control_line, status), 1, true);
		set_direction(load, queue, i, false);
	}

	return 0;
}

static int start_queue(struct block_load *load, unsigned int index)
{
	struct queue *queue = &load->queues[index];
	const struct virtqueue_driver_options form = {
		.size = (uint16_t)ring_size(load->options),
		.segments = SEGMENTS,
		.packed = load->options->packed,
		.event_index = vhost_user_client_has(&load->client, VIRTIO_RING_F_EVENT_IDX),
		.in_order = vhost_user_client_has(&load->client, VIRTIO_F_IN_ORDER),
		.indirect = vhost_user_client_has(&load->client, VIRTIO_RING_F_INDIRECT_DESC),
	};
	void *memory = vhost_user_client_allocate(&load->client, virtqueue_driver_memory_size(&form), 4096);
	struct vhost_user_client_ring ring = { .size = form.size,
					       .base = form.packed ? VIRTQUEUE_DRIVER_PACKED_BASE : 0 };
	int error;

	queue->index = index;
	if (!memory)
		return -ENOMEM;
	error = virtqueue_driver_init(&queue->ring, &form, memory,
				      vhost_user_client_guest_address(&load->client, memory));
	if (!error)
		error = prepare_queue(load, queue);
	if (error)
		return error;

	ring.descriptors = virtqueue_driver_descriptor_area(&queue->ring);
	ring.driver = virtqueue_driver_driver_area(&queue->ring);
	ring.device = virtqueue_driver_device_area(&queue->ring);
	error = vhost_user_client_start_queue(&load->client, index, &ring);

	return error ? fail(load, error, "%s", load->client.error) : 0;
}

static void start_requests(struct block_load *load)
{
	for (unsigned int i = 0; i < load->options->queues; i++) {
		for (unsigned int id = 0; id < load->options->depth; id++) {
			struct virtqueue_buffer buffer = { .id = id };

			prepare_request(load, &load->queues[i], id);
			submit(load, &load->queues[i], &buffer, 1);
		}
	}
}

static int prepare(struct block_load *load)
{
	int error = attach(load);

	if (!error)
		error = read_geometry(load);
	for (unsigned int i = 0; !error && i < load->options->queues; i++)
		error = start_queue(load, i);
	if (!error)
		error = vhost_user_client_driver_ready(&load->client);
	if (error && !load->result->error[0])
		fail(load, error, "%s", load->client.error[0] ? load->client.error : strerror(-error));

	return error;
}

static void clean_up(struct block_load *load)
{
	for (unsigned int i = 0; i < load->options->queues; i++) {
		if (load->client.memory && load->queues[i].ring.segment)
			vhost_user_client_stop_queue(&load->client, i, NULL);
		virtqueue_driver_release(&load->queues[i].ring);
		free(load->queues[i].requests);
	}
	vhost_user_client_detach(&load->client);
	free(load->generations);
	free(load->busy);
}

static int measure(struct block_load *load, const struct load_hooks *hooks, const struct load_clock *clock)
{
	struct block_load_result *result = load->result;
	double nanoseconds = 1e9 / clock->cycles_per_second;
	uint64_t completed = load->completed, kicks = load->kicks, start;
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
	result->kicks = load->kicks - kicks;
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
	       options->queues > 0 && options->queues <= BLOCK_LOAD_QUEUES_MAX && options->block_size >= SECTOR_SIZE &&
	       options->block_size <= BLOCK_LOAD_SIZE_MAX && options->block_size % SECTOR_SIZE == 0 &&
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
	if (!error) {
		start_requests(load);
		error = run_for(load, (uint64_t)(options->warm_up * clock.cycles_per_second));
	}
	if (!error)
		error = measure(load, hooks, &clock);
	if (!error)
		error = drain(load, (uint64_t)(5 * clock.cycles_per_second));

	clean_up(load);
	free(load);

	return error;
}
