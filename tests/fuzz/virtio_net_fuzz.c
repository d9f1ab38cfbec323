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
 *
 * Other oracles: bounds of a turn, no segment outside of guest memory (guard areas), a clean stop.
 */
#include <linux/virtio_ring.h>

#include "device/virtio_net_internal.h"
#include "fuzz_engine.h"
#include "fuzz_guard.h"
#include "fuzz_guest.h"
#include "net/segment.h"
#include "net_fixture.h"

#define STEPS	    300U
#define NICS	    2U
#define VLAN	    10U
#define IPV4(n)	    ((uint8_t[4]){ 10, 0, 0, (uint8_t)(1 + (n)) })
#define HEADER_SIZE 12U

enum { RECEIVE, TRANSMIT, CONTROL, QUEUES };

struct nic {
	struct guest guest;
	struct virtio_device *device;
	struct guest_queue drivers[QUEUES];
	uint8_t form;
	bool bound, tame;
	uint32_t sent; /* length of the last frame */
	struct write_guard guard;
};

static struct fuzz_engine engine;
static struct network *network;
static struct nic nics[NICS];
static struct fake_port observer;

static const uint8_t macs[4][6] = {
	{ 2, 0, 0, 0, 0, 1 },
	{ 2, 0, 0, 0, 0, 2 },
	{ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
	{ 2, 0, 0, 0, 0, 9 },
};

static void open_once(void)
{
	fuzz_engine_open(&engine);
	for (unsigned i = 0; i < NICS; i++)
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

	fuzz_require(!memcmp(frame->bytes + 6, macs[nic < NICS ? nic : 3], 6) && nic < NICS);
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
	fuzz_require(!memcmp(frame->bytes + from, IPV4(nic), 4));
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
			fuzz_require(field(frame->bytes, 12) == 0x8100 && (field(frame->bytes, 14) & 0xfff) == VLAN);
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

/* ---- drivers ----------------------------------------------------------------------------------------------------- */

static uint32_t put(uint8_t *to, uint32_t at, const void *bytes, uint32_t length)
{
	memcpy(to + at, bytes, length);
	return at + length;
}

static uint32_t put16(uint8_t *to, uint32_t at, uint16_t value)
{
	uint8_t bytes[2] = { (uint8_t)(value >> 8), (uint8_t)value };

	return put(to, at, bytes, 2);
}

/* Network and transport headers that are right in form. Return: their end; @transport: where TCP or UDP begins. */
static uint32_t put_packet(uint8_t *frame, uint32_t at, uint8_t form, unsigned nic, uint32_t *transport)
{
	bool tcp = form & 1, ipv6 = form & 2;

	if (ipv6) {
		at = put(frame, at, "\x60\0\0\0\0\0", 6);
		frame[at++] = tcp ? 6 : 17;
		frame[at++] = 64;
		memset(frame + at, 0x20 + (int)nic, 32);
		at += 32;
	} else {
		at = put(frame, at, "\x45\0\0\0\0\1\0\0\x40", 9);
		frame[at++] = tcp ? 6 : 17;
		at = put16(frame, at, 0);
		at = put(frame, at, form & 4 ? IPV4(nic) : IPV4(nic + 1), 4);
		at = put(frame, at, IPV4(7), 4);
	}
	*transport = at;
	at = put(frame, at, "\0\x44\0\x43\0\0\0\0", 8); /* ports of DHCP; then UDP's length, or TCP's sequence number */
	if (tcp)
		at = put(frame, at, "\0\0\0\0\x50\x18\1\0\0\0\0", 12);
	return at;
}

/* A frame with its virtio-net header in front, at the start of data. Return: length of both. */
static uint32_t make_frame(struct nic *nic, struct fuzz_input *input, uint8_t form)
{
	unsigned number = (unsigned)(nic - nics);
	uint8_t *bytes = nic->guest.bytes + GUEST_DATA, offload = fuzz_u8(input), addresses = fuzz_u8(input);
	struct virtio_net_header header = { .flags = offload & 3 };
	uint32_t size = virtio_net_of(nic->device)->header_size, at, transport = 0;
	uint8_t *frame = bytes + size;

	at = put(frame, 0, macs[addresses & 3], 6);
	at = put(frame, at, macs[addresses & 4 ? number : addresses >> 3 & 3], 6);
	for (unsigned tags = addresses >> 5 & 3; tags; tags--) {
		at = put16(frame, at, addresses & 0x80 ? 0x88a8 : 0x8100);
		at = put16(frame, at, form & 8 ? VLAN : fuzz_u16(input));
	}
	if (form & 1) {
		at = put16(frame, at, form & 2 ? 0x0806 : fuzz_u16(input));
		at += 40;
	} else {
		at = put16(frame, at, form & 4 ? 0x86dd : 0x0800);
		at = put_packet(frame, at, (uint8_t)((form & 4 ? 2 : 0) | (offload >> 2 & 1) | (form & 16 ? 0 : 4)),
				number, &transport);
	}
	if (form & 32) { /* anywhere in the headers */
		uint32_t place = fuzz_u8(input) % 100U;

		fuzz_bytes(input, frame + place, fuzz_u8(input) % 16U);
	}
	at += (offload & 0x40 ? fuzz_u16(input) % (GUEST_DATA_SIZE - 512) : fuzz_u8(input));

	if (offload & 0x80) {
		fuzz_bytes(input, &header, sizeof(header));
	} else {
		header.csum_start = (uint16_t)transport;
		header.csum_offset = offload & 4 ? 16 : 6;
		header.gso_type = offload & 8 ? (offload & 4 ? (form & 4 ? 4 : 1) : (offload & 16 ? 3 : 5)) : 0;
		header.gso_size = (uint16_t)(8U + fuzz_u16(input) % 2000U);
	}
	memcpy(bytes, &header, size);
	return size + at;
}

/* Send it in one piece or in uneven ones, once or several times. */
static void send_frame(struct nic *nic, struct fuzz_input *input, unsigned times)
{
	struct guest_buffer buffers[GUEST_CHAIN_MAX];
	uint8_t form = fuzz_u8(input);
	uint32_t length = make_frame(nic, input, form), at = 0;
	unsigned count = 0, pieces = form & 0x40 ? 1 + fuzz_u8(input) % GUEST_CHAIN_MAX : 1;

	while (at < length) {
		uint32_t piece = ++count == pieces ? length - at : fuzz_u8(input) + 1U;

		piece = min(piece, length - at);
		buffers[count - 1] = (struct guest_buffer){ GUEST_LOW + GUEST_DATA + at, piece, false };
		at += piece;
	}
	nic->sent = length - virtio_net_of(nic->device)->header_size;
	/* Tables of a tame driver are its receive queue's. */
	while (times--)
		guest_queue_add(&nic->drivers[TRANSMIT], buffers, count, form & 0x80 && !nic->tame);
}

/* Buffers that hold the other one's frames just so, or not quite. */
static void offer_guarded_room(struct nic *nic, struct fuzz_input *input)
{
	uint32_t header = virtio_net_of(nic->device)->header_size, sent = nics[nic == nics].sent;
	uint8_t form = fuzz_u8(input);

	for (unsigned i = 0; i <= form % 8U; i++) {
		uint8_t shape = fuzz_u8(input);
		uint32_t length = header + (shape & 0x80 ? 1530 : sent);

		length = max(length + (shape & 31), header + 24) - 16;
		if (!guard_offer(&nic->guard, shape & 0x40 ? header + (shape & 0x20 ? shape & 7U : 0) : 0, length,
				 form & 0x20))
			break;
	}
}

/* Buffers to receive into, far from what is sent. */
static void offer_room(struct nic *nic, struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	unsigned count = 1 + form % 16U;
	/* Just enough, just too little, and plenty. */
	uint32_t length = form & 0x80 ? 40U + fuzz_u8(input) : form & 0x40 ? 0x4000 : 1530;

	for (unsigned i = 0; i < count; i++) {
		struct guest_buffer buffers[2] = {
			{ GUEST_SEAM + 0x1000 + i * 0x300U, form & 0x20 ? fuzz_u8(input) % 16U + 1U : HEADER_SIZE,
			  true },
			{ GUEST_SEAM + 0x2000, length, true },
		};

		if (form & 0x10)
			guest_queue_add(&nic->drivers[RECEIVE], buffers, 2, form & 0x20);
		else
			guest_queue_add(&nic->drivers[RECEIVE], buffers + 1, 1, form & 0x20);
	}
}

static void send_command(struct nic *nic, struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	uint32_t length = 2U + (form & 0x80 ? fuzz_u16(input) % 0x3000U : form % 20U), have = min(length, 24U);
	const struct guest_buffer buffers[3] = {
		{ GUEST_LOW + GUEST_DATA + 0x1000, 2, false },
		{ GUEST_LOW + GUEST_DATA + 0x1002, length - 1, false },
		{ GUEST_APART, 1, true },
	};

	fuzz_bytes(input, nic->guest.bytes + GUEST_DATA + 0x1000, have);
	nic->guest.bytes[GUEST_DATA + 0x1000] &= 7;
	nic->guest.bytes[GUEST_DATA + 0x1001] &= 7;
	guest_queue_add(&nic->drivers[CONTROL], buffers, 3, form & 0x40);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void start_queue(struct nic *nic, unsigned index)
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
		fuzz_require(index == CONTROL);
}

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	*(bool *)context = true;
}

static void stop_queue(struct nic *nic, unsigned index)
{
	bool stopped = false;

	virtio_queue_stop(&nic->device->queues[index], note_stopped, &stopped);
	fuzz_engine_settle(&engine);
	fuzz_require(stopped);
}

/* After the receive queue's start. Of the control queue, the device writes acknowledgements: send_command(). */
static void reset_guard(struct nic *nic)
{
	guard_reset(&nic->guard, &nic->guest, &nic->drivers[RECEIVE], nic->drivers, QUEUES);
	guard_allow(&nic->guard, GUEST_LOW_SIZE + GUEST_HIGH_SIZE, 1, true);
}

static void round_of_the_sidecore(void)
{
	for (unsigned i = 0; i < NICS; i++) {
		if (nics[i].tame)
			guard_before(&nics[i].guard);
	}
	fuzz_engine_round(&engine);
	for (unsigned i = 0; i < NICS; i++) {
		if (nics[i].tame)
			guard_after(&nics[i].guard);
	}
	observe();
}

static struct port_vlan vlan_mode(uint8_t form)
{
	struct port_vlan vlan = { .mode = form % 3U };

	if (vlan.mode == PORT_VLAN_ACCESS)
		vlan.vlan = VLAN;
	if (vlan.mode == PORT_VLAN_TRUNK)
		vlan.allowed[VLAN / 64] |= 1ULL << VLAN % 64;
	return vlan;
}

static void start_nic(unsigned number, struct fuzz_input *input)
{
	struct nic *nic = &nics[number];
	struct virtio_net_config_options options = {
		.name = "nic", .queue_pairs = 1, .sidecore = -1, .check_mac = true
	};
	uint64_t features = fuzz_u64(input);
	uint8_t ports = fuzz_u8(input);

	nic->form = fuzz_u8(input);
	nic->bound = ports & 4;
	memcpy(options.mac, macs[number], 6);
	options.vlan = vlan_mode(ports & 3);
	options.isolated = ports & 8;
	if (nic->bound) {
		options.ipv4_count = 1;
		memcpy(options.ipv4, IPV4(number), 4);
	}
	nic->tame = ports & 0x10;
	nic->sent = 0;
	guest_clear(&nic->guest);
	fuzz_require(!virtio_net_create(&options, engine.engine, network, &nic->device));
	fuzz_require(!nic->device->ops->features_acked(nic->device, nic->device->features & ~features));
	for (unsigned i = 0; i < QUEUES; i++) {
		guest_queue_init(&nic->drivers[i], &nic->guest, i, nic->form);
		start_queue(nic, i);
	}
	reset_guard(nic);
}

static void note_gone(struct engine_completion *completion)
{
	completion->next = completion;
}

static void stop_nic(struct nic *nic)
{
	struct engine_completion gone = { .done = note_gone };

	for (unsigned i = 0; i < QUEUES; i++)
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
	struct nic *nic = &nics[action >> 7];

	unsigned kind = action % 16U;

	if (nic->tame && kind >= 6 && kind <= 8) /* what a driver that keeps the rules does not do */
		kind = 0;
	switch (kind) {
	case 0:
	case 1:
	case 2:
	case 3:
		send_frame(nic, input, 1 + (action >> 4 & 3));
		break;
	case 4:
	case 5:
		if (nic->tame)
			offer_guarded_room(nic, input);
		else
			offer_room(nic, input);
		break;
	case 6:
		guest_queue_offer(&nic->drivers[fuzz_u8(input) % QUEUES], input);
		break;
	case 7:
		guest_scribble(&nic->guest, input);
		break;
	case 8:
		guest_queue_jump(&nic->drivers[fuzz_u8(input) % QUEUES], input);
		break;
	case 9:
		send_command(nic, input);
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
		nic->device->ops->announce(nic->device, macs[nic - nics]);
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
