/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: two virtio-net devices with hostile drivers and an observer, on one switch.
 *
 * Theory of operation
 * -------------------
 * Input: features and VLAN mode of both devices, what the observer takes, then steps. A step is a driver's (a frame
 * whose headers and offload state are made of the input, any chain, buffers to receive into, scribbling, an index that
 * jumps, a command), a turn of the sidecore, the clock that moves on, or a stop and start of a queue.
 *
 * The observer is a port that keeps what it gets. Both devices are bound to their MAC address and, when the input says
 * so, to one IPv4 address, so of each frame that it gets, completed as a receiver would complete it,
 * - the length is at most FRAME_LENGTH_MAX, and offload state is only what the observer said that it takes;
 * - offsets of a partial checksum lie inside the frame;
 * - the source address is one of the two devices', and a sender's IPv4 address in IP or ARP is its own;
 * - tags are those of the observer's VLAN mode.
 *
 * A driver may be tame: it keeps the rules, whatever the input says, and its buffers are about as long as the frames
 * that the other one sent last. Then each byte of its memory is held against what the device may write (fuzz_guard.h).
 * What drivers do is in fuzz_nic.c.
 *
 * Other oracles: bounds of a turn, no segment outside of guest memory (guard areas), a clean stop.
 */
#include <linux/virtio_ring.h>

#include "device/virtio_net_internal.h"
#include "fuzz_engine.h"
#include "fuzz_guest.h"
#include "fuzz_nic.h"
#include "net/segment.h"
#include "net_fixture.h"

#define STEPS 300U

static struct fuzz_engine engine;
static struct network *network;
static struct fuzz_nic nics[FUZZ_NICS];
static struct fake_port observer;

static void open_once(void)
{
	fuzz_engine_open(&engine);
	for (unsigned i = 0; i < FUZZ_NICS; i++)
		guest_open(&nics[i].guest);
}

/* ---- what the observer sees -------------------------------------------------------------------------------------- */

static uint16_t field(const uint8_t *bytes, uint32_t at)
{
	return (uint16_t)(bytes[at] << 8 | bytes[at + 1]);
}

/* What a receiver of a partial checksum does (virtio 1.3 5.1.6.4). */
static void complete_checksum(struct fake_frame *frame)
{
	uint32_t start = frame->offload.checksum_start, at = start + frame->offload.checksum_offset;
	uint16_t sum;

	fuzz_require(at + 2 <= frame->length);
	sum = (uint16_t)~naive_fold(naive_sum(frame->bytes + start, frame->length - start, 0));
	frame->bytes[at] = (uint8_t)(sum >> 8);
	frame->bytes[at + 1] = (uint8_t)sum;
}

static void check_source(const struct fake_frame *frame, uint32_t at)
{
	uint16_t type = field(frame->bytes, at);
	uint8_t nic = (uint8_t)(frame->bytes[11] - 1);
	uint32_t from;

	fuzz_require(!memcmp(frame->bytes + 6, fuzz_macs[nic < FUZZ_NICS ? nic : 3], 6) && nic < FUZZ_NICS);
	if (!nics[nic].bound)
		return;
	at += 2;
	if (type == 0x0800 && frame->length >= at + 20) {
		from = at + 12;
		/* DHCP requests have no address yet. */
		if (!memcmp(frame->bytes + from, "\0\0\0\0", 4) && frame->bytes[at + 9] == 17)
			return;
	} else if (type == 0x0806 && frame->length >= at + 28) {
		from = at + 14;
		if (!memcmp(frame->bytes + from, "\0\0\0\0", 4))
			return;
	} else {
		return;
	}
	fuzz_require(!memcmp(frame->bytes + from, FUZZ_IPV4(nic), 4));
}

static void observe(void)
{
	const struct port_abilities *abilities = &observer.port.abilities;

	for (unsigned i = 0; i < observer.count; i++) {
		struct fake_frame *frame = &observer.frames[i];
		uint32_t at = 12;

		fuzz_require(frame->length >= FRAME_LENGTH_MIN && frame->length <= FRAME_LENGTH_MAX + FRAME_TAG_LENGTH);
		fuzz_require(!segment_needed(&frame->offload, abilities));
		if (frame->offload.checksum_partial)
			complete_checksum(frame);
		if (observer.port.vlan.mode == PORT_VLAN_TRUNK) {
			fuzz_require(field(frame->bytes, 12) == 0x8100 &&
				     (field(frame->bytes, 14) & 0xfff) == FUZZ_VLAN);
			at = 16;
		}
		for (unsigned tags = 0; tags < 3 && at + 6 <= frame->length &&
					(field(frame->bytes, at) == 0x8100 || field(frame->bytes, at) == 0x88a8);
		     tags++)
			at += 4;
		if (at + 2 <= frame->length)
			check_source(frame, at);
	}
	fake_port_clear(&observer);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void start_queue(struct fuzz_nic *nic, unsigned index)
{
	struct guest_queue *driver = &nic->drivers[index];
	struct virtqueue_config config;

	guest_queue_config(driver, &config);
	config.event_index = nic->device->acked_features >> VIRTIO_RING_F_EVENT_IDX & 1;
	config.indirect = nic->device->acked_features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
	if (driver->packed) {
		driver->next = 0;
		driver->wrap = true;
		if (nic->tame) /* what is left of the last time is not available again */
			memset(nic->guest.bytes + driver->place, 0, 16U * driver->size);
	} else {
		config.used_base = guest_load16(config.device_area + 2);
		config.avail_base = driver->avail = config.used_base;
		if (nic->tame)
			memcpy(nic->guest.bytes + driver->place + GUEST_DRIVER_AREA + 2, &driver->avail, 2);
	}
	/* There is no control queue unless it was negotiated. */
	if (virtio_queue_start(&nic->device->queues[index], &config, -1))
		fuzz_require(index == FUZZ_CONTROL);
}

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	*(bool *)context = true;
}

static void stop_queue(struct fuzz_nic *nic, unsigned index)
{
	bool stopped = false;

	virtio_queue_stop(&nic->device->queues[index], note_stopped, &stopped);
	fuzz_engine_settle(&engine);
	fuzz_require(stopped);
}

/* After the receive queue's start. Of the control queue, the device writes acknowledgements: send_command(). */
static void reset_guard(struct fuzz_nic *nic)
{
	guard_reset(&nic->guard, &nic->guest, &nic->drivers[FUZZ_RECEIVE], nic->drivers, FUZZ_QUEUES);
	guard_allow(&nic->guard, GUEST_LOW_SIZE + GUEST_HIGH_SIZE, 1, true);
}

static void round_of_the_sidecore(void)
{
	for (unsigned i = 0; i < FUZZ_NICS; i++) {
		if (nics[i].tame)
			guard_before(&nics[i].guard);
	}
	fuzz_engine_round(&engine);
	for (unsigned i = 0; i < FUZZ_NICS; i++) {
		if (nics[i].tame)
			guard_after(&nics[i].guard);
	}
	observe();
}

static struct port_vlan vlan_mode(uint8_t form)
{
	struct port_vlan vlan = { .mode = form % 3U };

	if (vlan.mode == PORT_VLAN_ACCESS)
		vlan.vlan = FUZZ_VLAN;
	if (vlan.mode == PORT_VLAN_TRUNK)
		vlan.allowed[FUZZ_VLAN / 64] |= 1ULL << FUZZ_VLAN % 64;
	return vlan;
}

static void start_nic(unsigned number, struct fuzz_input *input)
{
	struct fuzz_nic *nic = &nics[number];
	struct virtio_net_config_options options = {
		.name = "nic", .queue_pairs = 1, .sidecore = -1, .check_mac = true
	};
	uint64_t features = fuzz_u64(input);
	uint8_t ports = fuzz_u8(input);

	nic->form = fuzz_u8(input);
	nic->number = number;
	nic->other = &nics[!number];
	nic->bound = ports & 4;
	memcpy(options.mac, fuzz_macs[number], 6);
	options.vlan = vlan_mode(ports & 3);
	options.isolated = ports & 8;
	if (nic->bound) {
		options.ipv4_count = 1;
		memcpy(options.ipv4, FUZZ_IPV4(number), 4);
	}
	nic->tame = ports & 0x10;
	nic->sent = 0;
	guest_clear(&nic->guest);
	fuzz_require(!virtio_net_create(&options, engine.engine, network, &nic->device));
	fuzz_require(!nic->device->ops->features_acked(nic->device, nic->device->features & ~features));
	for (unsigned i = 0; i < FUZZ_QUEUES; i++) {
		guest_queue_init(&nic->drivers[i], &nic->guest, i, nic->form);
		start_queue(nic, i);
	}
	reset_guard(nic);
}

static void note_gone(struct engine_completion *completion)
{
	completion->next = completion;
}

static void stop_nic(struct fuzz_nic *nic)
{
	struct engine_completion gone = { .done = note_gone };

	for (unsigned i = 0; i < FUZZ_QUEUES; i++)
		stop_queue(nic, i);
	virtio_net_destroy(nic->device, &gone);
	fuzz_engine_settle(&engine);
	fuzz_require(gone.next == &gone);
}

static void start_observer(struct fuzz_input *input)
{
	uint8_t takes = fuzz_u8(input), form = fuzz_u8(input);

	fake_port_init(&observer, "observer");
	observer.port.abilities = (struct port_abilities){ takes & 1,  takes & 2,  takes & 4, takes & 8,
							   takes & 16, takes & 32, takes & 64 };
	observer.port.vlan = vlan_mode(form & 3);
	observer.port.isolated = form & 8;
	fuzz_require(!network_add_port(network, &observer.port));
	atomic_store(&observer.port.up, true);
}

static void step(struct fuzz_input *input)
{
	uint8_t action = fuzz_u8(input);
	struct fuzz_nic *nic = &nics[action >> 7];

	unsigned kind = action % 16U;

	if (nic->tame && kind >= 6 && kind <= 8) /* what a driver that keeps the rules does not do */
		kind = 0;
	switch (kind) {
	case 0:
	case 1:
	case 2:
	case 3:
		fuzz_nic_send_frame(nic, input, 1 + (action >> 4 & 3));
		break;
	case 4:
	case 5:
		if (nic->tame)
			fuzz_nic_offer_guarded_room(nic, input);
		else
			fuzz_nic_offer_room(nic, input);
		break;
	case 6:
		guest_queue_offer(&nic->drivers[fuzz_u8(input) % FUZZ_QUEUES], input);
		break;
	case 7:
		guest_scribble(&nic->guest, input);
		break;
	case 8:
		guest_queue_jump(&nic->drivers[fuzz_u8(input) % FUZZ_QUEUES], input);
		break;
	case 9:
		fuzz_nic_send_command(nic, input);
		break;
	case 10:
	case 11:
	case 12:
		engine.turn.requests = 1 + fuzz_u8(input) % 64U;
		engine.turn.bytes = 64U + fuzz_u16(input) * 8U;
		observer.room = fuzz_u8(input);
		round_of_the_sidecore();
		break;
	case 13:
		engine.turn.now += 600000; /* the network's patience is over after two of these */
		break;
	case 14:
		fuzz_engine_arm(&engine);
		nic->device->ops->announce(nic->device, fuzz_macs[nic->number]);
		break;
	case 15:
		stop_queue(nic, action >> 4 & 1);
		start_queue(nic, action >> 4 & 1);
		if (!(action >> 4 & 1))
			reset_guard(nic);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };

	if (!nics[0].guest.bytes)
		open_once();
	engine.turn.now = 1000000000;
	network = network_create(&(struct network_config){ .name = "net" });
	fuzz_require(network);
	start_nic(0, &input);
	start_nic(1, &input);
	start_observer(&input);
	for (unsigned i = 0; i < STEPS && input.left; i++)
		step(&input);
	observer.room = FAKE_FRAMES_MAX;
	round_of_the_sidecore();
	network_remove_port(network, &observer.port);
	stop_nic(&nics[0]);
	stop_nic(&nics[1]);
	network_destroy(network);
	return 0;
}
