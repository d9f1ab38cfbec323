/* SPDX-License-Identifier: BSD-3-Clause */
/* A network of four ports that keep what they are given, and batches of frames between numbered addresses. */
#ifndef TESTS_SWITCH_FIXTURE_H
#define TESTS_SWITCH_FIXTURE_H

#include <string.h>

#include "base/clock.h"
#include "net_fixture.h"
#include "test.h"

#define MILLISECOND NANOSECONDS_PER_MILLISECOND

static struct net_fixture fixture;
static struct fake_port ports[4];
static struct test_frame sent[NETWORK_BATCH];

static inline void start(void)
{
	static const char *const names[] = { "a", "b", "c", "d" };

	net_fixture_start(&fixture, 1, &(struct network_config){ .name = "test" });
	for (unsigned i = 0; i < array_size(ports); i++)
		fake_port_init(&ports[i], names[i]);
}

static inline void add_ports(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		net_fixture_add(&fixture, &ports[i]);
}

static inline void stop(void)
{
	for (unsigned i = 0; i < array_size(ports); i++) {
		fake_port_clear(&ports[i]);
		if (ports[i].port.network)
			network_remove_port(fixture.network, &ports[i].port);
	}
	net_fixture_stop(&fixture);
}

/* Frame @index of a batch, from MAC 2:0:0:0:0:@from to 2:0:0:0:0:@to (255: broadcast), 100 bytes. */
static inline void make(unsigned index, uint8_t from, uint8_t to)
{
	struct test_frame *frame = &sent[index];

	memset(frame->bytes, 0, 100);
	memcpy(frame->bytes, (uint8_t[]){ 2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, (uint8_t)index }, 15);
	if (to == 255)
		memset(frame->bytes, 0xff, 6);
	frame->length = 100;
	test_frame_build(frame, 0);
}

static inline unsigned forward(struct fake_port *from, unsigned count)
{
	struct frame frames[NETWORK_BATCH];
	unsigned done;

	for (unsigned i = 0; i < count; i++)
		frames[i] = sent[i].frame;
	done = network_forward(&from->port, frames, count, &fixture.turn);
	for (unsigned i = 0; i < array_size(ports); i++) {
		assert_int_equal(ports[i].unflushed, 0);
		assert_false(atomic_flag_test_and_set(&ports[i].port.claim)); /* nobody left claimed */
		atomic_flag_clear(&ports[i].port.claim);
	}
	/* What stays comes again: the same bytes. */
	for (unsigned i = done; i < count; i++) {
		uint8_t bytes[2000];

		assert_int_equal(frames[i].length, sent[i].length);
		assert_true(frame_read(&frames[i], 0, bytes, min(frames[i].length, 2000U)));
		sent[i].frame.segments_done = frames[i].segments_done;
	}
	return done;
}

static inline uint64_t drops(const struct fake_port *port, enum port_drop reason)
{
	struct port_counters sum;

	port_read_counters(&port->port, &sum);
	return sum.drops[reason];
}

static inline uint64_t all_drops(void)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < array_size(ports); i++) {
		for (unsigned reason = 0; reason < PORT_DROPS; reason++)
			all += drops(&ports[i], reason);
	}
	return all;
}

/* Have port @index known for MAC @index. */
static inline void introduce(unsigned index)
{
	make(0, (uint8_t)index, 255);
	assert_int_equal(forward(&ports[index], 1), 1);
	for (unsigned i = 0; i < array_size(ports); i++)
		fake_port_clear(&ports[i]);
}

#endif
