/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net from the driver's side: control queue, configuration space, and queues that come and go under load. */
#include "test.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "device/virtio_net_internal.h"
#include "virtio_net_fixture.h"

/* ---- Control ---- */

#define CONTROL_FEATURES                                                                                               \
	(MODERN | GUEST_ALL | BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) |    \
	 BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |        \
	 BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))

#define COMMAND(text, status) { text, sizeof(text) - 1, status }

static const struct {
	const char *bytes;
	uint32_t length;
	uint8_t status;
} commands[] = {
	/* 0 */ COMMAND("\0\0\1", 0),				/* promiscuous */
	/* 1 */ COMMAND("\0\5\1", 0),
	/* 2 */ COMMAND("\0\6\1", 1),				/* no such mode */
	/* 3 */ COMMAND("\0\0", 1),				/* no data */
	/* 4 */ COMMAND("\0\0\1\1", 1),				/* too much */
	/* 5 */ COMMAND("\1\1\2\0\0\0\0\x55", 0),		/* address */
	/* 6 */ COMMAND("\1\1\3\0\0\0\0\x55", 1),		/* a group address */
	/* 7 */ COMMAND("\1\1\2\0\0\0\0", 1),
	/* 8 */ COMMAND("\1\0\1\0\0\0\2\0\0\0\0\1\0\0\0\0", 0),	/* table */
	/* 9 */ COMMAND("\1\0\2\0\0\0\2\0\0\0\0\1\0\0\0\0", 1),	/* table that is longer than the command */
	/* 10 */ COMMAND("\1\0\377\377\377\377\0\0\0\0", 1),
	/* 11 */ COMMAND("\1\0\0\0\0\0", 1),
	/* 12 */ COMMAND("\1\2", 1),
	/* 13 */ COMMAND("\2\0\xff\x0f", 0),			/* VLAN */
	/* 14 */ COMMAND("\2\1\1\0", 0),
	/* 15 */ COMMAND("\2\0\0\x10", 1),			/* 4096 */
	/* 16 */ COMMAND("\2\2\1\0", 1),
	/* 17 */ COMMAND("\3\0", 0),				/* announcement seen */
	/* 18 */ COMMAND("\3\1", 1),
	/* 19 */ COMMAND("\4\0\1\0", 1),			/* pairs, but VIRTIO_NET_F_MQ is not negotiated */
	/* 20 */ COMMAND("\5\0\2\0\0\0\0\0\0\0", 0),		/* offloads: GUEST_CSUM only */
	/* 21 */ COMMAND("\5\0\1\0\0\0\0\0\0\0", 1),		/* not a guest's offload */
	/* 22 */ COMMAND("\5\0\2\0\0\0", 1),
	/* 23 */ COMMAND("\6\0\0", 1),				/* no such class */
	/* 24 */ COMMAND("\377\377", 1),
};

static uint8_t control(unsigned queue, uint16_t id, const char *bytes, uint32_t length)
{
	struct fixture_buffer buffers[] = { { fixture_address(FIXTURE_DATA), 1, false },
					    { fixture_address(FIXTURE_DATA + 1), length - 1, false },
					    { fixture_address(FIXTURE_DATA + 0x8000), 1, true } };
	uint8_t *status = fixture_bytes(&rings[queue], FIXTURE_DATA + 0x8000);

	*status = 0xee;
	memcpy(fixture_bytes(&rings[queue], FIXTURE_DATA), bytes, length);
	ring_fixture_offer(&rings[queue], id, buffers, 3, FIXTURE_DATA + 0x9000);
	assert_int_equal(device->ops->poll(&device->queues[queue], &fixture.turn), 1);
	return *status;
}

static void control_commands(void **state)
{
	uint8_t mac[6];

	start(CONTROL_FEATURES, 2, 3);
	assert_true(device->ops->queue_polled(&device->queues[2]));
	assert_true(device->ops->queue_polled(&device->queues[1]));
	assert_false(device->ops->queue_polled(&device->queues[0]));
	for (unsigned i = 0; i < array_size(commands); i++) {
		print_message("case %u\n", i);
		assert_int_equal(control(2, (uint16_t)(i % FIXTURE_SIZE), commands[i].bytes, commands[i].length),
				 commands[i].status);
	}
	device->ops->config_read(device, 0, mac, 6);
	assert_memory_equal(mac, "\2\0\0\0\0\x55", 6);
	assert_true(net()->port.abilities.checksum);
	assert_false(net()->port.abilities.tso4);

	/* One without room for the acknowledgement breaks the queue. */
	offer(&rings[2], 9, FIXTURE_DATA, 3, 4, false, false);
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 0);
	assert_int_equal(device->queues[2].ring.broken, VIRTQUEUE_BAD_DIRECTION);
	stop(3);
}

static void control_waits_for_the_claim(void **state)
{
	struct fixture_buffer buffers[] = { { fixture_address(FIXTURE_DATA), 3, false },
					    { fixture_address(FIXTURE_DATA + 0x8000), 1, true } };
	uint8_t *status;

	start(CONTROL_FEATURES, 1, 3);
	status = fixture_bytes(&rings[2], FIXTURE_DATA + 0x8000);
	memcpy(fixture_bytes(&rings[2], FIXTURE_DATA), "\0\0\1", 3);
	*status = 0xee;
	ring_fixture_offer(&rings[2], 0, buffers, 2, 0);
	assert_true(port_try_claim(&net()->port));
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 0);
	assert_true(device->queues[2].life.poller.pending);
	assert_int_equal(*status, 0xee);
	port_release(&net()->port);
	assert_int_equal(device->ops->poll(&device->queues[2], &fixture.turn), 1);
	assert_false(device->queues[2].life.poller.pending);
	assert_int_equal(*status, 0);
	stop(3);
}

static void pairs_are_enabled_by_command(void **state)
{
	start(CONTROL_FEATURES | BIT(VIRTIO_NET_F_MQ), 1, 3);
	assert_int_equal(control(2, 0, "\4\0\0\0", 4), 1);
	assert_int_equal(control(2, 1, "\4\0\2\0", 4), 1);
	assert_int_equal(control(2, 2, "\4\0\1\0", 4), 0);
	assert_int_equal(atomic_load(&net()->pairs_enabled), 1);
	stop(3);
}

/* ---- The device ---- */

static unsigned config_changes;

static void note_config_change(struct virtio_device *changed)
{
	config_changes++;
}

static void configuration_space(void **state)
{
	struct {
		uint8_t mac[6];
		uint16_t status, pairs, mtu;
	} config;

	start(MODERN, 4, 0);
	device->ops->config_read(device, 0, &config, sizeof(config));
	assert_memory_equal(config.mac, "\2\0\0\0\0\1", 6);
	assert_int_equal(config.status, 1);
	assert_int_equal(config.pairs, 4);
	assert_int_equal(config.mtu, 9000);
	assert_int_equal(device->queue_count, 9);
	assert_int_equal(device->ops->set_mtu(device, 1400), 0);
	assert_int_equal(device->ops->set_mtu(device, 67), -EINVAL);
	device->ops->config_read(device, 10, &config.mtu, 2);
	assert_int_equal(config.mtu, 1400);
	assert_int_equal(device->ops->config_write(device, 0, "\2\2", 2), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, 0), 0);
	assert_int_equal(device->ops->config_write(device, 0, "\2\2", 2), 0);
	assert_int_equal(device->ops->config_write(device, 6, "\0\0", 2), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, 1ULL << 63), -EINVAL);
	/* After the last pair there is only a control queue, and only where it was negotiated. */
	assert_int_equal(device->ops->queue_start(&device->queues[8]), -EINVAL);
	assert_int_equal(device->ops->features_acked(device, CONTROL_FEATURES), 0);
	assert_int_equal(device->ops->queue_start(&device->queues[3]), -EINVAL);
	stop(0);
}

static void announcements(void **state)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };

	start(MODERN, 1, 2);
	assert_int_equal(device->ops->announce(device, mac), 0);
	assert_int_equal(device->ops->announce(device, mac), 0); /* one is under way */
	engine_stop(fixture.engine);
	assert_int_equal(peer.count, 1);
	assert_int_equal(peer.frames[0].length, 60);
	assert_memory_equal(peer.frames[0].bytes,
			    "\377\377\377\377\377\377\2\0\0\0\0\1\x80\x35\0\1\x08\0\6\4\0\3\2\0\0\0\0\1\0\0\0\0\2\0\0\0\0\1", 38);
	stop(2);

	/* A driver that can do it is asked to. */
	start(CONTROL_FEATURES, 1, 3);
	device->config_changed = note_config_change;
	config_changes = 0;
	assert_int_equal(device->ops->announce(device, mac), 0);
	assert_int_equal(config_changes, 1);
	assert_int_equal(atomic_load(&net()->status), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(control(2, 0, "\3\0", 2), 0);
	assert_int_equal(atomic_load(&net()->status), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(peer.count, 0);
	stop(3);
}

/*
 * With sidecores that run: two guests, each on a sidecore of its own, send to a third without a pause, while its
 * receive queue is stopped and started again; at the end everything is destroyed. Every frame is accounted for.
 */
#define RUNNING_ROUNDS 40U
#define RUNNING_FRAMES 400U

static unsigned stops;
static uint32_t stopped_base;

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	stopped_base = base;
	stops++;
}

static void stop_running(struct virtio_queue *queue)
{
	unsigned before = stops;

	virtio_queue_stop(queue, note_stopped, NULL);
	while (stops == before)
		engine_run_completions(fixture.engine);
}

/* Keep eight buffers of @length bytes available. Return: how many were offered. */
static unsigned keep_offering(struct ring_fixture *ring, uint32_t length, bool writable)
{
	uint16_t used = __atomic_load_n(&ring->used->idx, __ATOMIC_ACQUIRE);
	unsigned offered = 0;

	for (; (uint16_t)(ring->avail->idx - used) < 8; offered++) {
		uint16_t id = ring->avail->idx % 8;

		offer(ring, id, FIXTURE_DATA + id * 0x1000U, length, 4096, writable, false);
	}
	return offered;
}

static uint64_t all_drops_of(struct virtio_device *of)
{
	struct port_counters sum;
	uint64_t all = 0;

	port_read_counters(virtio_net_port(of), &sum);
	for (unsigned i = 0; i < PORT_DROPS; i++)
		all += sum.drops[i];
	return all;
}

/* Devices 0 and 1 send, on sidecores 0 and 1; device 2 receives, and is known by its address. */
static void start_three(struct virtio_device *devices[3])
{
	static struct test_frame hello;

	packed = false;
	net_fixture_start(&fixture, 2, &(struct network_config){ .name = "test", .patience_ns = 100000 });
	for (unsigned i = 0; i < 3; i++) {
		const struct virtio_net_config_options options = { .name = "nic", .mac = { 2, 0, 0, 0, 0, (uint8_t)(i + 1) },
								   .queue_pairs = 1, .sidecore = i == 1 };

		assert_int_equal(virtio_net_create(&options, fixture.engine, fixture.network, &devices[i]), 0);
		assert_int_equal(devices[i]->ops->features_acked(devices[i], MODERN), 0);
		ring_fixture_start(&rings[i], false, true, false);
		for (unsigned j = 0; j < 8; j++)
			memcpy((uint8_t *)fixture_bytes(&rings[i], FIXTURE_DATA + j * 0x1000U) + 12,
			       (uint8_t[]){ 2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, (uint8_t)(i + 1) }, 12);
	}
	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\3\x88\xb5", 14);
	hello.length = 60;
	test_frame_build(&hello, 0);
	fixture.turn.now = clock_nanoseconds();
	network_forward(virtio_net_port(devices[2]), &hello.frame, 1, &fixture.turn);

	assert_int_equal(engine_start(fixture.engine), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(virtio_queue_start(&devices[i]->queues[TRANSMIT], &rings[i].config, -1), 0);
}

static void queues_stop_and_start_under_load(void **state)
{
	struct engine_completion completion = { .done = note_destroyed };
	struct virtio_device *devices[3];
	struct port_counters sum;
	unsigned sent = 0;

	start_three(devices);
	for (unsigned round = 0; round < RUNNING_ROUNDS; round++) {
		unsigned until = sent + RUNNING_FRAMES;

		assert_int_equal(virtio_queue_start(&devices[2]->queues[RECEIVE], &rings[2].config, -1), 0);
		while (sent < until) {
			sent += keep_offering(&rings[0], 76, false) + keep_offering(&rings[1], 76, false);
			/* Every third round its driver is asleep. */
			if (round % 3 != 2)
				keep_offering(&rings[2], 2048, true);
			engine_run_completions(fixture.engine);
		}
		stop_running(&devices[2]->queues[RECEIVE]);
		/* What was popped was used or given back: the ring can go on from here. */
		assert_int_equal(stopped_base, rings[2].used->idx);
		rings[2].config.avail_base = (uint16_t)stopped_base;
		rings[2].config.used_base = (uint16_t)stopped_base;
	}
	for (unsigned i = 0; i < 2; i++) {
		while (__atomic_load_n(&rings[i].used->idx, __ATOMIC_ACQUIRE) != rings[i].avail->idx)
			engine_run_completions(fixture.engine);
		stop_running(&devices[i]->queues[TRANSMIT]);
	}

	port_read_counters(virtio_net_port(devices[2]), &sum);
	assert_int_equal((uint16_t)sum.out_frames, rings[2].used->idx);
	assert_true(sum.out_frames > RUNNING_FRAMES);
	/* One drop is its own first frame, which had nowhere to go. */
	assert_int_equal(sum.drops[PORT_DROP_NO_DESTINATION], 1);
	assert_int_equal(sum.out_frames + all_drops_of(devices[2]), sent + 1);
	assert_int_equal(all_drops_of(devices[0]) + all_drops_of(devices[1]), 0);

	for (unsigned i = 0; i < 3; i++) {
		destroyed = false;
		virtio_net_destroy(devices[i], &completion);
		while (!destroyed)
			engine_run_completions(fixture.engine);
		ring_fixture_stop(&rings[i]);
	}
	engine_stop(fixture.engine);
	net_fixture_stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SPLIT_AND_PACKED(control_commands),
		SPLIT_AND_PACKED(control_waits_for_the_claim),
		SPLIT_AND_PACKED(pairs_are_enabled_by_command),
		cmocka_unit_test(configuration_space),
		cmocka_unit_test(announcements),
		cmocka_unit_test(queues_stop_and_start_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
