/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network for unit tests: an engine whose sidecores do not run (the test is the sidecore), ports that keep what they
 * are given, frames from bytes, and a checker of packets that shares no code with what it checks.
 */
#ifndef TESTS_NET_FIXTURE_H
#define TESTS_NET_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "net/network.h"
#include "net/port.h"

#define FAKE_FRAMES_MAX 2048U

struct fake_frame {
	uint8_t *bytes;
	uint32_t length;
	struct frame_offload offload;
};

/** struct fake_port - a receiver with room for @room more frames. */
struct fake_port {
	struct port port;
	unsigned room;
	unsigned count; /* frames that it has */
	unsigned flushes;
	unsigned unflushed; /* frames since the last flush */
	struct fake_frame frames[FAKE_FRAMES_MAX];
};

void fake_port_init(struct fake_port *port, const char *name);
void fake_port_clear(struct fake_port *port);

struct net_fixture {
	struct engine *engine;
	struct network *network;
	struct turn turn;
};

/** net_fixture_start() - @sidecores: how many turns can be had with net_fixture_turn(). */
void net_fixture_start(struct net_fixture *fixture, unsigned sidecores, const struct network_config *config);
void net_fixture_stop(struct net_fixture *fixture);

/** up: in the network and ready to receive */
void net_fixture_add(struct net_fixture *fixture, struct fake_port *port);

/** struct test_frame - a frame and the memory that it lies in. */
struct test_frame {
	struct frame frame;
	struct guest_segment segments[64];
	uint8_t bytes[65536 + 256];
	uint32_t length;
};

/** test_frame_build() - the frame of @frame->bytes, in pieces of @piece bytes (0: one piece). */
void test_frame_build(struct test_frame *frame, uint32_t piece);

/** naive_sum() - ones' complement sum of big-endian words, by the book; host order. */
uint32_t naive_sum(const uint8_t *bytes, size_t length, uint32_t sum);
uint16_t naive_fold(uint32_t sum);

/** naive_transport_good() - is the checksum of the TCP or UDP packet at @ip right? @length: from the IP header on. */
bool naive_transport_good(const uint8_t *ip, uint32_t length);
bool naive_ipv4_good(const uint8_t *ip);

/** deterministic pseudo-random numbers, so that a failure can be repeated */
uint32_t test_random(uint64_t *state);

#endif
