/* SPDX-License-Identifier: BSD-3-Clause */
/* The switch: who gets which frame, what becomes of those that nobody gets, and ports that come and go. */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "switch_fixture.h"

static void unknown_is_flooded_known_is_not(void **state)
{
	struct port_counters sum;

	start();
	add_ports(4);
	make(0, 0, 1);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[0].count, 0);
	for (unsigned i = 1; i < 4; i++) {
		assert_int_equal(ports[i].count, 1);
		assert_int_equal(ports[i].flushes, 1);
		assert_memory_equal(ports[i].frames[0].bytes, sent[0].bytes, 100);
		fake_port_clear(&ports[i]);
	}
	make(0, 1, 0);
	assert_int_equal(forward(&ports[1], 1), 1);
	assert_int_equal(ports[0].count, 1);
	assert_int_equal(ports[2].count + ports[3].count, 0);

	port_read_counters(&ports[0].port, &sum);
	assert_int_equal(sum.in_frames, 1);
	assert_int_equal(sum.in_bytes, 100);
	assert_int_equal(sum.out_frames, 1);
	assert_int_equal(sum.flooded, 1);
	assert_int_equal(all_drops(), 0);

	/* It moves: the next frame finds it elsewhere. */
	make(0, 1, 0);
	forward(&ports[2], 1);
	make(0, 0, 1);
	fake_port_clear(&ports[1]);
	forward(&ports[0], 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1);

	/* It falls silent for the aging time: flooded again. */
	fixture.turn.now += 302 * NANOSECONDS_PER_SECOND;
	fake_port_clear(&ports[2]);
	forward(&ports[0], 1);
	assert_int_equal(ports[1].count + ports[2].count + ports[3].count, 3);
	stop();
}

static void batches_are_grouped(void **state)
{
	static const uint8_t to[] = { 1, 1, 1, 2, 1, 2, 2, 255, 1 };

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	for (unsigned i = 0; i < array_size(to); i++)
		make(i, 0, to[i]);
	assert_int_equal(forward(&ports[0], array_size(to)), array_size(to));
	assert_int_equal(ports[1].count, 6);
	assert_int_equal(ports[2].count, 4);
	/* Once before the flood, once for it, once after it. */
	assert_int_equal(ports[1].flushes, 3);
	assert_int_equal(ports[2].flushes, 2);
	/* In order. */
	for (unsigned i = 1; i < ports[1].count; i++)
		assert_true(ports[1].frames[i].bytes[14] > ports[1].frames[i - 1].bytes[14]);

	for (unsigned i = 0; i < NETWORK_BATCH; i++)
		make(i, 0, 1 + (i & 1));
	fake_port_clear(&ports[1]);
	fake_port_clear(&ports[2]);
	assert_int_equal(forward(&ports[0], NETWORK_BATCH), NETWORK_BATCH);
	assert_int_equal(ports[1].flushes, 1);
	assert_int_equal(ports[2].flushes, 1);
	stop();
}

static void bad_frames_are_named(void **state)
{
	start();
	make(0, 0, 1);
	add_ports(1);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_NO_DESTINATION), 1);
	net_fixture_add(&fixture, &ports[1]);
	introduce(1);

	make(0, 0, 1);
	sent[0].length = 13;
	test_frame_build(&sent[0], 0);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_RUNT), 1);

	make(0, 0, 1);
	sent[0].frame.length = FRAME_LENGTH_MAX + 1;
	{
		struct frame frame = sent[0].frame;

		assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 1);
	}
	assert_int_equal(drops(&ports[0], PORT_DROP_OVERSIZE), 1);

	make(0, 0, 1);
	sent[0].frame.header[6] |= 1;
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_SOURCE_MULTICAST), 1);

	make(0, 0, 1);
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 13 };
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_BAD_OFFLOAD), 1);

	introduce(0);
	make(0, 5, 0);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_HAIRPIN), 1);

	make(0, 0, 1);
	atomic_store(&ports[1].port.up, false);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_LINK_DOWN), 1);
	atomic_store(&ports[1].port.up, true);

	/* The receiver needs it cut, but it is not what it says. */
	make(0, 0, 1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
							.checksum_offset = 16, .gso = FRAME_GSO_TCPV4, .gso_size = 20 };
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_BAD_HEADER), 1);
	assert_int_equal(ports[1].count, 0);
	for (enum port_drop reason = 0; reason < PORT_DROPS; reason++)
		assert_string_not_equal(port_drop_name(reason), "unknown");
	stop();
}

static void the_isolated_see_only_others(void **state)
{
	start();
	ports[0].port.isolated = ports[1].port.isolated = true;
	add_ports(3);
	introduce(1);
	introduce(2);
	make(0, 0, 1);
	make(1, 0, 2);
	make(2, 0, 255);
	assert_int_equal(forward(&ports[0], 3), 3);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 2);
	assert_int_equal(drops(&ports[0], PORT_DROP_ISOLATED), 1);
	stop();
}

static void ports_come_and_go(void **state)
{
	static struct fake_port many[NETWORK_PORTS_MAX + 1];
	struct network_address addresses[8];

	start();
	for (unsigned i = 0; i < NETWORK_PORTS_MAX; i++) {
		fake_port_init(&many[i], "many");
		assert_int_equal(network_add_port(fixture.network, &many[i].port), 0);
	}
	fake_port_init(&many[NETWORK_PORTS_MAX], "one too many");
	assert_int_equal(network_add_port(fixture.network, &many[NETWORK_PORTS_MAX].port), -ENOSPC);
	network_remove_port(fixture.network, &many[500].port);
	assert_int_equal(network_add_port(fixture.network, &many[NETWORK_PORTS_MAX].port), 0);
	assert_int_equal(many[NETWORK_PORTS_MAX].port.number, 500);
	for (unsigned i = 0; i < NETWORK_PORTS_MAX; i++) {
		if (i != 500)
			network_remove_port(fixture.network, &many[i].port);
	}
	network_remove_port(fixture.network, &many[NETWORK_PORTS_MAX].port);

	/* What was behind a port goes with it. */
	add_ports(3);
	fixture.turn.now = clock_nanoseconds();
	introduce(1);
	introduce(2);
	assert_int_equal(network_read_addresses(fixture.network, addresses, 8), 2);
	network_remove_port(fixture.network, &ports[1].port);
	assert_int_equal(network_read_addresses(fixture.network, addresses, 8), 1);
	assert_memory_equal(addresses[0].mac, "\2\0\0\0\0\2", 6);
	assert_int_equal(addresses[0].port, 2);
	make(0, 0, 1);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1); /* flooded */
	ports[1].port.network = NULL;
	stop();
}

/*
 * Two sidecores send to the same port and flood each other, while its receiver is full every now and then. Every frame
 * that is done was delivered or is counted as dropped, by each receiver, and a receiver is used by one sidecore at a
 * time.
 */
#define STRESS_BATCHES 20000U

struct stress_port {
	struct port port;
	atomic_uint users;
	unsigned overlaps;
	uint64_t delivered, calls;
};

static unsigned stress_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct stress_port *stress = container_of(port, struct stress_port, port);
	unsigned taken = ++stress->calls % 7 ? count : count / 2;

	stress->overlaps += atomic_fetch_add_explicit(&stress->users, 1, memory_order_relaxed) != 0;
	stress->delivered += taken; /* plain: the claim orders it, or the thread sanitizer tells */
	atomic_fetch_sub_explicit(&stress->users, 1, memory_order_relaxed);
	return taken;
}

static void stress_flush(struct port *port, const struct turn *turn)
{
	struct stress_port *stress = container_of(port, struct stress_port, port);

	stress->overlaps += atomic_load_explicit(&stress->users, memory_order_relaxed) != 0;
}

static const struct port_ops stress_ops = { .kind = "stress", .transmit = stress_transmit, .flush = stress_flush };
static struct stress_port stress_ports[3];

struct stress_sender {
	unsigned index;
	struct turn turn;
	uint64_t done;
	struct test_frame frame;
};

static struct stress_sender senders[2];

static void *stress_run(void *argument)
{
	struct stress_sender *sender = argument;
	struct frame frames[8];

	for (unsigned batch = 0; batch < STRESS_BATCHES; batch++) {
		unsigned done = 0;

		sender->turn.now += 1000;
		for (unsigned i = 0; i < array_size(frames); i++) {
			test_frame_build(&sender->frame, 0);
			frames[i] = sender->frame.frame;
			frames[i].header[5] = i == 3 ? 77 : 2; /* one in eight is for an address that nobody has */
		}
		while (done < array_size(frames)) {
			unsigned now = network_forward(&stress_ports[sender->index].port, frames + done,
						       array_size(frames) - done, &sender->turn);

			done += now;
			sender->turn.now += now ? 0 : 1000;
		}
		sender->done += done;
	}
	return NULL;
}

static void two_sidecores_share_receivers(void **state)
{
	static struct test_frame hello;
	pthread_t threads[2];
	uint64_t in = 0, unicast = 0;

	net_fixture_start(&fixture, 2, &(struct network_config){ .name = "test" });
	for (unsigned i = 0; i < 3; i++) {
		memset(&stress_ports[i], 0, sizeof(stress_ports[i]));
		stress_ports[i].port.ops = &stress_ops;
		assert_int_equal(network_add_port(fixture.network, &stress_ports[i].port), 0);
		atomic_store(&stress_ports[i].port.up, true);
	}
	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\2\x88\xb5", 14);
	hello.length = 64;
	test_frame_build(&hello, 0);
	network_forward(&stress_ports[2].port, &hello.frame, 1, &fixture.turn);
	for (unsigned i = 0; i < 3; i++)
		stress_ports[i].delivered = 0;

	for (unsigned i = 0; i < 2; i++) {
		senders[i].index = i;
		senders[i].done = 0;
		senders[i].turn = fixture.turn;
		senders[i].turn.sidecore = engine_sidecore(fixture.engine, i);
		memcpy(senders[i].frame.bytes, (uint8_t[]){ 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, (uint8_t)(10 + i), 8, 0 }, 14);
		senders[i].frame.length = 64;
		assert_int_equal(pthread_create(&threads[i], NULL, stress_run, &senders[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);

	for (unsigned i = 0; i < 2; i++) {
		struct port_counters sum;

		assert_int_equal(senders[i].done, 8 * STRESS_BATCHES);
		port_read_counters(&stress_ports[i].port, &sum);
		assert_int_equal(sum.in_frames, 8 * STRESS_BATCHES);
		assert_int_equal(sum.flooded, STRESS_BATCHES);
		/* What the other one flooded came here, or is named. */
		assert_int_equal(stress_ports[i].delivered + sum.drops[PORT_DROP_FULL] + sum.drops[PORT_DROP_BUSY],
				 STRESS_BATCHES);
		in += sum.in_frames;
		unicast += 7 * STRESS_BATCHES;
	}
	struct port_counters sum;

	port_read_counters(&stress_ports[2].port, &sum);
	assert_int_equal(stress_ports[2].delivered + sum.drops[PORT_DROP_FULL] + sum.drops[PORT_DROP_BUSY], in);
	assert_true(stress_ports[2].delivered >= unicast / 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(stress_ports[i].overlaps, 0);
		network_remove_port(fixture.network, &stress_ports[i].port);
	}
	net_fixture_stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_is_flooded_known_is_not),
		cmocka_unit_test(batches_are_grouped),
		cmocka_unit_test(bad_frames_are_named),
		cmocka_unit_test(the_isolated_see_only_others),
		cmocka_unit_test(ports_come_and_go),
		cmocka_unit_test(two_sidecores_share_receivers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
