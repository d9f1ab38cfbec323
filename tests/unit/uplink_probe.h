/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the uplinks' tests share: an engine with one sidecore, a network, the uplink that is tested, and a *probe*: a
 * port of the network in the test's hand, that sends the frames it is given and keeps what it receives.
 */
#ifndef TESTS_UNIT_UPLINK_PROBE_H
#define TESTS_UNIT_UPLINK_PROBE_H

#include "engine_channel.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "net/network.h"
#include "net/uplink.h"

#define PROBE_MAC     "\x52\x54\x00\x00\x00\x01"
#define BROADCAST_MAC "\xff\xff\xff\xff\xff\xff"

struct probe_frame {
	struct probe_frame *next;
	uint32_t length;
	struct frame_offload offload;
	uint8_t bytes[FRAME_LENGTH_MAX];
};

struct bench {
	struct engine *engine;
	struct network *network;
	struct network_worker *worker;
	struct uplink *uplink;

	/* the probe */
	struct port port;
	struct poller poller;
	pthread_mutex_t lock;
	struct probe_frame *to_send, *received, **received_end;
	unsigned received_count;
	bool full;		/* receives nothing */
	atomic_uint keep_limit; /* frames received above that are forgotten */
};

static inline unsigned probe_poll(struct poller *poller, const struct turn *turn)
{
	struct bench *bench = container_of(poller, struct bench, poller);
	struct guest_segment segment;
	struct probe_frame *sent;
	struct frame frame;
	unsigned done = 0;

	poller->pending = false;
	pthread_mutex_lock(&bench->lock);
	sent = bench->to_send;
	pthread_mutex_unlock(&bench->lock);
	if (!sent)
		return 0;
	segment = (struct guest_segment){ guest_bytes_of(sent->bytes), sent->length };
	frame_from_segments(&frame, &segment, 1, sent->length);
	frame.offload = sent->offload;
	done = network_forward(&bench->port, &frame, 1, turn);
	poller->pending = !done;
	if (done) {
		pthread_mutex_lock(&bench->lock);
		bench->to_send = sent->next;
		pthread_mutex_unlock(&bench->lock);
		free(sent);
	}
	return done;
}

static inline bool probe_arm(struct poller *poller)
{
	struct bench *bench = container_of(poller, struct bench, poller);
	bool work;

	pthread_mutex_lock(&bench->lock);
	work = bench->to_send;
	pthread_mutex_unlock(&bench->lock);
	return work;
}

static const struct poller_ops probe_poller_ops = { .kind = "probe", .poll = probe_poll, .arm = probe_arm };

static inline unsigned probe_transmit(struct port *port, const struct frame *frames, unsigned count,
				      const struct turn *turn)
{
	struct bench *bench = container_of(port, struct bench, port);
	unsigned done = 0;

	pthread_mutex_lock(&bench->lock);
	for (; done < count && !bench->full; done++) {
		struct probe_frame *kept;
		struct guest_segment to;

		bench->received_count++;
		if (bench->received_count > atomic_load(&bench->keep_limit))
			continue;
		kept = malloc(sizeof(*kept));
		kept->next = NULL;
		kept->length = frames[done].length;
		kept->offload = frames[done].offload;
		to = (struct guest_segment){ guest_bytes_of(kept->bytes), sizeof(kept->bytes) };
		frame_copy_out(&frames[done], &to, 0);
		*bench->received_end = kept;
		bench->received_end = &kept->next;
	}
	pthread_mutex_unlock(&bench->lock);
	return done;
}

static inline void probe_flush(struct port *port, const struct turn *turn)
{
}

static const struct port_ops probe_port_ops = {
	.kind = "probe",
	.transmit = probe_transmit,
	.flush = probe_flush,
};

/** bench_open() - all but the uplink, and that, too, if @config is given. */
static inline struct bench *bench_open(const struct uplink_config *config)
{
	static const struct network_config network_config = { .name = "test" };
	struct bench *bench = aligned_alloc(CACHE_LINE, (sizeof(*bench) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	const char *error = NULL;

	assert_non_null(bench);
	memset(bench, 0, sizeof(*bench));
	{
		struct engine_config engine_config = { .sidecore_count = 1, .sidecores[0].cpu = -1 };

		assert_int_equal(engine_create(&engine_config, &bench->engine), 0);
	}
	bench->network = network_create(&network_config);
	bench->worker = network_worker_create();
	assert_non_null(bench->network);
	assert_non_null(bench->worker);
	sidecore_set_slot(engine_sidecore(bench->engine, 0), SIDECORE_SLOT_NET, bench->worker);
	assert_int_equal(engine_start(bench->engine), 0);

	pthread_mutex_init(&bench->lock, NULL);
	bench->received_end = &bench->received;
	atomic_store(&bench->keep_limit, 100000);
	bench->port.ops = &probe_port_ops;
	bench->port.name = "probe";
	bench->poller = (struct poller){ .ops = &probe_poller_ops };
	bench->poller.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(network_add_port(bench->network, &bench->port), 0);
	assert_int_equal(engine_attach(bench->engine, engine_sidecore(bench->engine, 0), &bench->poller, NULL), 0);
	atomic_store(&bench->port.up, true);
	if (config && uplink_open(config, bench->engine, bench->network, &bench->uplink, &error))
		fail_msg("uplink_open: %s", error);
	return bench;
}

static inline void bench_close(struct bench *bench)
{
	struct flagged closed;
	struct probe_frame *frame;

	if (bench->uplink) {
		flagged_init(&closed);
		uplink_close(bench->uplink, &closed.completion);
		wait_for(bench->engine, &closed);
	}
	network_remove_port(bench->network, &bench->port);
	detach_and_wait(bench->engine, &bench->poller);
	stop_engine(bench->engine);
	network_destroy(bench->network);
	network_worker_destroy(bench->worker);
	close(bench->poller.wake_fd);
	while ((frame = bench->received ? bench->received : bench->to_send)) {
		if (bench->received)
			bench->received = frame->next;
		else
			bench->to_send = frame->next;
		free(frame);
	}
	free(bench);
}

/** probe_send() - a frame from the probe into the network. */
static inline void probe_send(struct bench *bench, const void *bytes, uint32_t length,
			      const struct frame_offload *offload)
{
	struct probe_frame *frame = malloc(sizeof(*frame)), **end = &bench->to_send;
	static const uint64_t one = 1;

	frame->next = NULL;
	frame->length = length;
	frame->offload = offload ? *offload : (struct frame_offload){ 0 };
	memcpy(frame->bytes, bytes, length);
	pthread_mutex_lock(&bench->lock);
	while (*end)
		end = &(*end)->next;
	*end = frame;
	pthread_mutex_unlock(&bench->lock);
	assert_int_equal(write(bench->poller.wake_fd, &one, sizeof(one)), sizeof(one));
}

static inline bool probe_sent_all(struct bench *bench)
{
	bool all;

	pthread_mutex_lock(&bench->lock);
	all = !bench->to_send;
	pthread_mutex_unlock(&bench->lock);
	return all;
}

/** probe_receive() - the next frame that came to the probe, to be freed; NULL when none came within @timeout_ms. */
static inline struct probe_frame *probe_receive(struct bench *bench, unsigned timeout_ms)
{
	for (unsigned waited = 0;; waited++) {
		struct probe_frame *frame;

		pthread_mutex_lock(&bench->lock);
		frame = bench->received;
		if (frame) {
			bench->received = frame->next;
			if (!bench->received)
				bench->received_end = &bench->received;
		}
		pthread_mutex_unlock(&bench->lock);
		if (frame || waited >= timeout_ms)
			return frame;
		usleep(1000);
	}
}

/** probe_expect() - the next frame that came is this one. */
static inline void probe_expect(struct bench *bench, const void *bytes, uint32_t length)
{
	struct probe_frame *frame = probe_receive(bench, 5000);

	assert_non_null(frame);
	assert_int_equal(frame->length, length);
	assert_memory_equal(frame->bytes, bytes, length);
	free(frame);
}

static inline void probe_set_full(struct bench *bench, bool full)
{
	pthread_mutex_lock(&bench->lock);
	bench->full = full;
	pthread_mutex_unlock(&bench->lock);
}

static inline struct port_counters uplink_counters(struct bench *bench)
{
	struct port_counters sum;

	port_read_counters(uplink_port(bench->uplink), &sum);
	return sum;
}

/** make_frame() - a broadcast frame of the experimental EtherType, with contents that tell it from others. */
static inline void make_frame(uint8_t *frame, uint32_t length, const char *source, unsigned number)
{
	memcpy(frame, BROADCAST_MAC, 6);
	memcpy(frame + 6, source, 6);
	frame[12] = 0x88;
	frame[13] = 0xb5;
	for (uint32_t i = 14; i < length; i++)
		frame[i] = (uint8_t)(number * 31 + i * 7 + i / 256);
}

/** process_cpu_time() - of all threads, ns. */
static inline uint64_t process_cpu_time(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (uint64_t)time.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)time.tv_nsec;
}

/** expect_idle() - nothing to do: nobody does anything. */
static inline void expect_idle(void)
{
	uint64_t used;

	usleep(50000);
	used = process_cpu_time();
	usleep(200000);
	used = process_cpu_time() - used;
	print_message("CPU time in 200 ms without work: %lu us\n", used / 1000);
	assert_true(used < 10 * NANOSECONDS_PER_MILLISECOND);
}

/** wait_until() - @condition, evaluated again and again, for at most 10 s. */
#define wait_until(condition)                                                                                          \
	do {                                                                                                           \
		for (unsigned wait_i_ = 0; !(condition); wait_i_++) {                                                  \
			if (wait_i_ == 10000)                                                                          \
				fail_msg("never: %s", #condition);                                                     \
			usleep(1000);                                                                                  \
		}                                                                                                      \
	} while (0)

#endif
