/* SPDX-License-Identifier: BSD-3-Clause */
#include "net_fixture.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static unsigned fake_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct fake_port *fake = container_of(port, struct fake_port, port);
	unsigned done;

	for (done = 0; done < count && fake->room && fake->count < FAKE_FRAMES_MAX; done++) {
		struct fake_frame *kept = &fake->frames[fake->count++];
		struct guest_segment to;

		kept->length = frames[done].length;
		kept->offload = frames[done].offload;
		kept->bytes = malloc(kept->length);
		to = (struct guest_segment){ guest_bytes_of(kept->bytes), kept->length };
		frame_copy_out(&frames[done], &to, 0);
		port_counters(port, turn)->out_frames++;
		port_counters(port, turn)->out_bytes += kept->length;
		fake->room--;
		fake->unflushed++;
	}
	return done;
}

static void fake_flush(struct port *port, const struct turn *turn)
{
	struct fake_port *fake = container_of(port, struct fake_port, port);

	fake->flushes++;
	fake->unflushed = 0;
}

static const struct port_ops fake_ops = { .kind = "fake", .transmit = fake_transmit, .flush = fake_flush };

void fake_port_init(struct fake_port *port, const char *name)
{
	memset(port, 0, sizeof(*port));
	port->port.ops = &fake_ops;
	port->port.name = name;
	port->port.abilities =
		(struct port_abilities){ .checksum = true, .tso4 = true, .tso6 = true, .ecn = true, .ufo = true,
					 .uso4 = true, .uso6 = true };
	port->room = UINT32_MAX;
}

void fake_port_clear(struct fake_port *port)
{
	for (unsigned i = 0; i < port->count; i++)
		free(port->frames[i].bytes);
	port->count = 0;
	port->flushes = 0;
}

void net_fixture_start(struct net_fixture *fixture, unsigned sidecores, const struct network_config *config)
{
	struct engine_config engine = { .sidecore_count = sidecores };

	for (unsigned i = 0; i < sidecores; i++)
		engine.sidecores[i].cpu = -1;
	assert(!engine_create(&engine, &fixture->engine));
	for (unsigned i = 0; i < sidecores; i++)
		sidecore_set_slot(engine_sidecore(fixture->engine, i), SIDECORE_SLOT_NET, network_worker_create());
	fixture->network = network_create(config);
	assert(fixture->network);
	fixture->turn = (struct turn){ .sidecore = engine_sidecore(fixture->engine, 0), .now = 1000000000ULL,
				       .requests = 64, .bytes = 1 << 20 };
}

void net_fixture_stop(struct net_fixture *fixture)
{
	network_destroy(fixture->network);
	for (unsigned i = 0; i < engine_sidecore_count(fixture->engine); i++)
		network_worker_destroy(sidecore_slot(engine_sidecore(fixture->engine, i), SIDECORE_SLOT_NET));
	engine_destroy(fixture->engine);
}

void net_fixture_add(struct net_fixture *fixture, struct fake_port *port)
{
	assert(!network_add_port(fixture->network, &port->port));
	atomic_store(&port->port.up, true);
}

void test_frame_build(struct test_frame *frame, uint32_t piece)
{
	unsigned count = 0;

	if (!piece)
		piece = frame->length;
	for (uint32_t at = 0; at < frame->length; at += piece) {
		assert(count < array_size(frame->segments));
		/* The last segment takes all that is left, so that any piece size fits into the array. */
		if (count + 1 == array_size(frame->segments))
			piece = frame->length - at;
		frame->segments[count++] = (struct guest_segment){ guest_bytes_of(frame->bytes + at),
								   min(piece, frame->length - at) };
	}
	frame_from_segments(&frame->frame, frame->segments, count, frame->length);
}

uint32_t naive_sum(const uint8_t *bytes, size_t length, uint32_t sum)
{
	for (size_t i = 0; i < length; i++) {
		sum += i & 1 ? bytes[i] : (uint32_t)bytes[i] << 8;
		while (sum >> 16)
			sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

uint16_t naive_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

bool naive_ipv4_good(const uint8_t *ip)
{
	return naive_fold(naive_sum(ip, (ip[0] & 15U) * 4, 0)) == 0xffff;
}

bool naive_transport_good(const uint8_t *ip, uint32_t length)
{
	uint32_t header = ip[0] >> 4 == 4 ? (ip[0] & 15U) * 4 : 40, sum;
	uint8_t protocol = ip[0] >> 4 == 4 ? ip[9] : ip[6];

	/* extension headers of IPv6 that carry options only */
	while (ip[0] >> 4 == 6 && (protocol == 0 || protocol == 60 || protocol == 43)) {
		protocol = ip[header];
		header += (ip[header + 1] + 1U) * 8;
	}
	sum = ip[0] >> 4 == 4 ? naive_sum(ip + 12, 8, 0) : naive_sum(ip + 8, 32, 0);
	sum += protocol;
	sum += length - header;
	sum = naive_sum(ip + header, length - header, naive_fold(sum));
	return naive_fold(sum) == 0xffff;
}

uint32_t test_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(*state >> 33);
}
