/* SPDX-License-Identifier: BSD-3-Clause */
/* Delivery: receivers that are full or claimed, floods, and what a receiver cannot take as it is. */
#include "test.h"

#include <string.h>

#include "base/clock.h"
#include "switch_fixture.h"

/* ---- Full and claimed receivers ---- */

static void a_full_receiver_holds_senders_for_a_while(void **state)
{
	struct port_counters sum;

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	for (unsigned i = 0; i < 8; i++)
		make(i, 0, i == 7 ? 2 : 1);
	ports[1].room = 3;
	assert_int_equal(forward(&ports[0], 8), 3);
	assert_int_equal(ports[2].count, 0); /* behind it, in order */
	fixture.turn.now += MILLISECOND - 1;
	assert_int_equal(forward(&ports[0], 8), 0);
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.waits, 2);
	assert_int_equal(all_drops(), 0);

	/* It takes something: that earns it some more time. */
	ports[1].room = 1;
	assert_int_equal(forward(&ports[0], 8), 1);
	fixture.turn.now += 16 * NANOSECONDS_PER_MICROSECOND;
	assert_int_equal(forward(&ports[0], 8), 0);
	assert_int_equal(all_drops(), 0);

	/* It does not: all that is for it is dropped, also later and at once, and others get theirs. */
	fixture.turn.now += 1;
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 7);
	assert_int_equal(ports[2].count, 1);
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 14);

	/* It is back. */
	ports[1].room = 2;
	fake_port_clear(&ports[1]);
	assert_int_equal(forward(&ports[0], 8), 2);
	assert_int_equal(forward(&ports[0], 8), 0);
	ports[1].room = 1000;
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 14);
	stop();
}

/*
 * A sender has one frame in two for a receiver that takes a frame of @length bytes each @interval, for a second of virtual
 * time in rounds of 5 us. Return: frames that the other receiver got.
 */
static unsigned paced(uint64_t interval, uint32_t length, uint64_t *lost)
{
	uint64_t start_ns, next;
	unsigned at = 0, others = 0;

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	make(0, 0, 1);
	make(1, 0, 2);
	sent[0].length = length;
	test_frame_build(&sent[0], 0);
	ports[1].room = 0;
	start_ns = next = fixture.turn.now;
	while (fixture.turn.now - start_ns < NANOSECONDS_PER_SECOND) {
		struct frame frames[NETWORK_BATCH];

		for (unsigned i = 0; i < 4; i++)
			frames[i] = sent[(at + i) & 1].frame;
		at += network_forward(&ports[0].port, frames, 4, &fixture.turn);
		others += ports[2].count;
		fake_port_clear(&ports[1]);
		fake_port_clear(&ports[2]);
		fixture.turn.now += 5 * NANOSECONDS_PER_MICROSECOND;
		if (fixture.turn.now >= next) {
			ports[1].room = 1;
			next += interval;
		}
	}
	*lost = drops(&ports[1], PORT_DROP_FULL);
	stop();
	return others;
}

/* Who is slow with each frame does not hold senders for long, by whatever pace it takes them. */
static void a_trickling_receiver_holds_nobody(void **state)
{
	static const uint64_t intervals_us[] = { 50, 100, 300, 900, 990, 5000 };
	uint64_t lost;

	for (unsigned i = 0; i < array_size(intervals_us); i++) {
		unsigned others = paced(intervals_us[i] * NANOSECONDS_PER_MICROSECOND, 100, &lost);

		if (others < 45000 || !lost)
			fail_msg("a frame each %lu us: others got %u", intervals_us[i], others);
	}
	/* At a pace that is good enough nothing is lost: 100,000 frames/s, and 2 Gbit/s in large ones. */
	paced(10 * NANOSECONDS_PER_MICROSECOND, 100, &lost);
	assert_int_equal(lost, 0);
	paced(250 * NANOSECONDS_PER_MICROSECOND, 62500, &lost);
	assert_int_equal(lost, 0);
}

/* A frame for all of 64 ports costs 63 copies: the sender's turn ends soon, and nothing is lost. */
static void floods_cost_their_copies(void **state)
{
	static struct fake_port many[60];
	static const struct {
		uint32_t length;
		unsigned done;
	} cases[] = {
		{ 100, 5 },    /* 5 * 63 copies are the first to pass 256 */
		{ 60000, 1 },  /* 63 * 60,000 bytes pass 1 MiB at once */
		{ 5000, 4 },
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		unsigned done = 0, turns = 0;

		start();
		add_ports(4);
		for (unsigned j = 0; j < array_size(many); j++) {
			fake_port_init(&many[j], "many");
			net_fixture_add(&fixture, &many[j]);
		}
		for (unsigned j = 0; j < NETWORK_BATCH; j++) {
			make(j, 0, 255);
			sent[j].length = cases[i].length;
			test_frame_build(&sent[j], 0);
		}
		assert_int_equal(forward(&ports[0], NETWORK_BATCH), cases[i].done);
		for (done = cases[i].done, turns = 1; done < NETWORK_BATCH; turns++)
			done += forward(&ports[0], NETWORK_BATCH - done);
		assert_int_equal(turns, (NETWORK_BATCH + cases[i].done - 1) / cases[i].done);
		assert_int_equal(ports[1].count, NETWORK_BATCH);
		assert_int_equal(all_drops(), 0);
		for (unsigned j = 0; j < array_size(many); j++) {
			assert_int_equal(many[j].count, NETWORK_BATCH);
			fake_port_clear(&many[j]);
			network_remove_port(fixture.network, &many[j].port);
		}
		stop();
	}
}

static void a_claimed_receiver_is_not_waited_for(void **state)
{
	struct frame frame;

	start();
	add_ports(3);
	introduce(1);
	make(0, 0, 1);
	assert_true(port_try_claim(&ports[1].port));
	frame = sent[0].frame;
	assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 0);
	/* A flood passes it by, and says so. */
	make(0, 0, 255);
	frame = sent[0].frame;
	assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_BUSY), 1);
	port_release(&ports[1].port);
	/* A flood does not wait for room either. */
	ports[1].room = 0;
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 1);
	stop();
}

/* ---- Offloads ---- */

/* A TCP segment of @payload bytes for port 1. */
static void make_gso(uint32_t payload)
{
	uint8_t *bytes = sent[0].bytes, *ip = bytes + 14, *tcp = bytes + 34;

	make(0, 0, 1);
	memset(bytes + 12, 0, 42 + payload);
	memcpy(bytes + 12, "\x08\0\x45", 3);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	tcp[12] = 0x50;
	for (uint32_t i = 0; i < payload; i++)
		tcp[20 + i] = (uint8_t)(i * 13 >> 3);
	sent[0].length = 54 + payload;
	test_frame_build(&sent[0], 2048);
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
							.checksum_offset = 16, .gso = FRAME_GSO_TCPV4, .gso_size = 1000 };
}

static void segments_cross_whole_or_cut(void **state)
{
	struct port_counters sum;

	start();
	add_ports(2);
	introduce(1);
	make_gso(64000);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 1);
	assert_int_equal(ports[1].frames[0].length, 64054);
	assert_memory_equal(ports[1].frames[0].bytes, sent[0].bytes, 64054);
	assert_int_equal(ports[1].frames[0].offload.gso_size, 1000);
	fake_port_clear(&ports[1]);

	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(64000);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 64);
	for (unsigned i = 0; i < 64; i++) {
		assert_true(naive_transport_good(ports[1].frames[i].bytes + 14, ports[1].frames[i].length - 14));
		assert_memory_equal(ports[1].frames[i].bytes + 54, sent[0].bytes + 54 + i * 1000, 1000);
	}
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.segmented, 1);
	stop();
}

static uint32_t coalesce_max_now;

static uint32_t coalesce_max(struct port *port, const struct frame *frame, const struct turn *turn)
{
	return coalesce_max_now;
}

/* A receiver of long frames that is full now and then, and whose limit changes: each byte once, in order. */
static void coalesced_segments_wait_for_room(void **state)
{
	static const uint32_t limits[] = { 8100, 0, 3100, 60000, 5000 };
	struct port_ops ops;
	struct port_counters sum;
	uint32_t at = 0;

	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	ops = *ports[1].port.ops;
	ops.coalesce_max = coalesce_max;
	ports[1].port.ops = &ops;
	make_gso(64000);
	for (unsigned turn = 0;; turn++) {
		coalesce_max_now = limits[turn % array_size(limits)];
		ports[1].room = turn % 3;
		assert_true(turn < 100);
		if (forward(&ports[0], 1))
			break;
		fixture.turn.now += MILLISECOND / 1000;
	}
	for (unsigned i = 0; i < ports[1].count; i++) {
		const struct fake_frame *frame = &ports[1].frames[i];

		assert_true(naive_transport_good(frame->bytes + 14, frame->length - 14));
		assert_true(naive_ipv4_good(frame->bytes + 14));
		assert_int_equal((frame->length - 54) % 1000, 0);
		assert_memory_equal(frame->bytes + 54, sent[0].bytes + 54 + at, frame->length - 54);
		at += frame->length - 54;
	}
	assert_int_equal(at, 64000);
	assert_int_equal(all_drops(), 0);
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.segmented, 1);
	assert_in_range(sum.coalesced, 2, ports[1].count);
	stop();
}

/* Full half way: nothing is lost, nothing comes twice. */
static void cut_segments_wait_for_room(void **state)
{
	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(64000);
	for (unsigned room = 10; ports[1].count < 60; room++) {
		ports[1].room = room;
		assert_int_equal(forward(&ports[0], 1), ports[1].count == 64);
		fixture.turn.now += MILLISECOND;
	}
	ports[1].room = 100;
	if (ports[1].count < 64)
		assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 64);
	for (unsigned i = 0; i < 64; i++)
		assert_memory_equal(ports[1].frames[i].bytes + 54, sent[0].bytes + 54 + i * 1000, 1000);
	assert_int_equal(all_drops(), 0);
	stop();
}

static void plain_checksums_are_completed(void **state)
{
	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(1000);
	sent[0].frame.offload.gso = FRAME_GSO_NONE;
	/* the pseudo-header's sum, as a driver seeds the field */
	uint32_t sum = naive_fold(naive_sum(sent[0].bytes + 26, 8, 0) + 6 + 1020);
	sent[0].frame.header[50] = (uint8_t)(sum >> 8);
	sent[0].frame.header[51] = (uint8_t)sum;
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 1);
	assert_true(naive_transport_good(ports[1].frames[0].bytes + 14, 1040));
	assert_true(ports[1].frames[0].offload.checksum_valid);
	stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_receiver_holds_senders_for_a_while),
		cmocka_unit_test(a_trickling_receiver_holds_nobody),
		cmocka_unit_test(floods_cost_their_copies),
		cmocka_unit_test(a_claimed_receiver_is_not_waited_for),
		cmocka_unit_test(segments_cross_whole_or_cut),
		cmocka_unit_test(cut_segments_wait_for_room),
		cmocka_unit_test(coalesced_segments_wait_for_room),
		cmocka_unit_test(plain_checksums_are_completed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
