/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: one of Intel's network cards with a hostile driver, and an observer on the same switch.
 *
 * Theory of operation
 * -------------------
 * Input: model, whether pages are offered for mapping, kind of interrupt, what the observer takes; then steps. A step is a
 * register access by message (of any width, anywhere, with any value), a store into a mapped page, rings that are set up
 * well or badly, interrupts, hashes, filters and the PHY as a driver sets them up, transmit descriptors of every form
 * (well-formed with offsets from the input, or any bytes), receive buffers at good or bad addresses, frames from the observer,
 * scribbling, a turn, the clock, a pause, a reset, the link.
 *
 * Of what the observer gets
 * - the length is at most FRAME_LENGTH_MAX, and offload state is only what it said that it takes;
 * - offsets of a partial checksum lie inside the frame; the source address is the card's.
 * Other oracles: bounds of a turn; no byte outside of guest memory and rings is touched (guard areas); a faulted card does
 * nothing, and works after CTRL.RST; every operation ends; a clean stop, with no descriptor of ours left open.
 */
#include "base/clock.h"
#include "engine/sidecore.h"
#include "fuzz_guest.h"
#include "fuzz_intel.h"
#include "net/segment.h"
#include "net_fixture.h"

#define STEPS 300U

static struct network *network;
static struct guest guest;
static struct fake_port observer;
static uint32_t tails[2][INTEL_QUEUES_MAX];

static const uint8_t macs[4][6] = {
	{ 2, 0, 0, 0, 0, 1 }, /* the card's */
	{ 2, 0, 0, 0, 0, 9 },
	{ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
	{ 1, 0, 0x5e, 0, 0, 1 },
};

/* ---- what the observer sees ---- */

static void observe(void)
{
	for (unsigned i = 0; i < observer.count; i++) {
		const struct fake_frame *frame = &observer.frames[i];

		fuzz_require(frame->length >= FRAME_LENGTH_MIN && frame->length <= FRAME_LENGTH_MAX + FRAME_TAG_LENGTH);
		fuzz_require(!segment_needed(&frame->offload, &observer.port.abilities));
		if (frame->offload.checksum_partial)
			fuzz_require(frame->offload.checksum_start + frame->offload.checksum_offset + 2U <=
				     frame->length);
		fuzz_require(!memcmp(frame->bytes + 6, macs[0], 6));
	}
	fake_port_clear(&observer);
}

/* ---- the driver ---- */

static void set_ring(bool receive, struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	unsigned queue = form % card.nic->variant->queues & 3;
	uint32_t at = intel_ring_registers(card.nic, receive, queue);

	fuzz_intel_write(at + RING_CONTROL, 0);
	fuzz_intel_write(at + RING_BASE_LOW,
			 form & 0x80 ? fuzz_u32(input) : (uint32_t)GUEST_LOW + (receive ? 0x1000U : 0));
	fuzz_intel_write(at + RING_BASE_HIGH, form & 0x80 ? fuzz_u8(input) & 1 : 0);
	fuzz_intel_write(at + RING_LENGTH, form & 0x40 ? fuzz_u16(input) : 512);
	fuzz_intel_write(at + RING_HEAD, form & 0x20 ? fuzz_u8(input) : 0);
	fuzz_intel_write(at + RING_TAIL, 0);
	tails[receive][queue] = 0;
	if (receive && card.nic->variant->generation == INTEL_82576)
		fuzz_intel_write(at + RING_SRRCTL, form & 0x10 ? fuzz_u32(input) : 1U << 25 | 4U << 8 | 1);
	fuzz_intel_write(at + RING_CONTROL, RING_CONTROL_ENABLE);
	fuzz_intel_write(receive ? RCTL : TCTL,
			 receive ? RCTL_EN | (form & 4 ? 0 : RCTL_UPE) | RCTL_MPE | RCTL_BAM | (form & 8 ? RCTL_LPE : 0)
				 : TCTL_EN);
}

static uint32_t put16(uint8_t *to, uint32_t at, uint16_t value)
{
	to[at] = (uint8_t)(value >> 8);
	to[at + 1] = (uint8_t)value;
	return at + 2;
}

/* A frame at the start of data. Return: length. */
static uint32_t make_frame(struct fuzz_input *input, uint8_t *frame, uint8_t form)
{
	uint32_t at;

	memcpy(frame, macs[form & 3], 6);
	memcpy(frame + 6, macs[form & 0x80 ? 1 : 0], 6);
	at = put16(frame, 12, form & 4 ? 0x86dd : form & 8 ? fuzz_u16(input) : 0x0800);
	memset(frame + at, 0, 80);
	frame[at] = form & 4 ? 0x60 : 0x45;
	frame[at + (form & 4 ? 6 : 9)] = form & 16 ? 17 : 6;
	if (form & 32)
		fuzz_bytes(input, frame + at + fuzz_u8(input) % 64, fuzz_u8(input) % 16U);
	return at + 60 + (form & 64 ? fuzz_u16(input) % 0x6000 : fuzz_u8(input));
}

static void put_descriptor(const struct intel_descriptor *descriptor, unsigned queue)
{
	memcpy(guest.bytes + 16 * (tails[0][queue] % 32), descriptor, 16);
	tails[0][queue] = (tails[0][queue] + 1) % 32;
}

static void put_context(struct fuzz_input *input, uint8_t form, unsigned queue)
{
	uint32_t ip = form & 4 ? 40 : 20, l4 = 14 + ip, mss = 8 + fuzz_u16(input) % 2000U;
	struct intel_descriptor context = { 0 };

	if (card.nic->variant->generation == INTEL_82576) {
		context.address = 14ULL << 9 | ip | (uint64_t)fuzz_u16(input) << 16;
		context.command = TXD_DEXT | 2U << TXD_DTYP_SHIFT | (form & 4 ? 0 : TXD_ADVANCED_IPV4) |
				  (form & 16 ? 0 : 1U) << TXD_ADVANCED_L4T_SHIFT;
		context.status = (form & 16 ? 8U : 20U) << 8 | mss << 16;
	} else {
		context.address =
			14 | 24 << 8 | (uint64_t)(l4 - 1) << 16 | (uint64_t)l4 << 32 | (uint64_t)(l4 + 16) << 40;
		context.command = TXD_DEXT | (form & 16 ? 0 : TXD_CONTEXT_TCP) | (form & 4 ? 0 : TXD_CONTEXT_IPV4) |
				  (form & 1 ? TXD_TSE : 0);
		context.status = (l4 + (form & 16 ? 8 : 20)) << 8 | mss << 16;
	}
	if (form & 0x80) { /* one field is not what it should be */
		uint8_t place = fuzz_u8(input) % 16;

		((uint8_t *)&context)[place] ^= fuzz_u8(input);
	}
	put_descriptor(&context, queue);
}

static void send_frames(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input), kind = fuzz_u8(input), pieces = kind >> 5;
	unsigned queue = kind % card.nic->variant->queues & 1;
	uint32_t length = make_frame(input, guest.bytes + GUEST_DATA, form), at = 0;
	bool advanced = card.nic->variant->generation == INTEL_82576;

	if (kind & 2)
		put_context(input, (uint8_t)(form ^ (kind << 5 & 0x80)), queue);
	while (at < length) {
		uint32_t piece = pieces-- ? min(length - at, fuzz_u8(input) + 0U) : length - at;
		struct intel_descriptor descriptor = {
			.address = GUEST_LOW + GUEST_DATA + at,
			.command = piece | TXD_RS | (kind & 8 ? TXD_VLE : 0),
			.status = kind & 16 ? TXD_TXSM | TXD_IXSM : 0,
		};

		if (!pieces)
			piece = length - at;
		at += piece;
		if (kind & 2)
			descriptor.command |= TXD_DEXT | (advanced ? 3U : 1U) << TXD_DTYP_SHIFT |
					      (kind & 4 ? advanced ? TXD_ADVANCED_TSE : TXD_TSE : 0);
		if (at >= length)
			descriptor.command |= TXD_EOP;
		put_descriptor(&descriptor, queue);
		if (!pieces)
			break;
	}
	fuzz_intel_write(intel_ring_registers(card.nic, false, queue) + RING_TAIL, tails[0][queue]);
}

static void any_descriptors(struct fuzz_input *input)
{
	uint8_t count = fuzz_u8(input) % 8;

	for (unsigned i = 0; i < count; i++) {
		struct intel_descriptor descriptor;

		fuzz_bytes(input, &descriptor, sizeof(descriptor));
		if (descriptor.status & 1)
			descriptor.address = GUEST_LOW + (descriptor.address & 0xffff);
		put_descriptor(&descriptor, 0);
	}
	fuzz_intel_write(RING_TRANSMIT + RING_TAIL, tails[0][0]);
}

static void offer_buffers(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);

	for (unsigned i = 0; i <= form % 16U; i++) {
		uint64_t words[2] = { GUEST_SEAM + 0x1000 + 0x400 * (i % 4), 0 };

		if (form & 0x80)
			words[0] = fuzz_u8(input) & 1 ? 0 : fuzz_u64(input);
		memcpy(guest.bytes + 0x1000 + 16 * tails[1][0], words, 16);
		tails[1][0] = (tails[1][0] + 1) % 32;
	}
	fuzz_intel_write(RING_RECEIVE + RING_TAIL, form & 0x40 ? fuzz_u8(input) : tails[1][0]);
}

static void send_to_card(struct fuzz_input *input)
{
	static struct test_frame frames;
	struct frame batch[12];
	uint8_t first = fuzz_u8(input), form = first | 0x80;
	unsigned count = first & 0x80 ? array_size(batch) : 1;

	frames.length = make_frame(input, frames.bytes, form);
	test_frame_build(&frames, form & 0x40 ? 100 : 0);
	frames.frame.offload.checksum_valid = form & 8;
	if (form & 16) {
		frames.frame.offload.checksum_partial = true;
		frames.frame.offload.checksum_start = form & 4 ? 54 : 34;
		frames.frame.offload.checksum_offset = 6;
	} else if (!(form & 8)) { /* a TCP segment that is to be cut, or comes coalesced */
		uint32_t tcp = form & 4 ? 54 : 34;

		frames.bytes[tcp + 12] |= 0x50;
		test_frame_build(&frames, form & 0x40 ? 1000 : 0);
		frames.frame.offload = (struct frame_offload){
			.checksum_partial = true,
			.gso = form & 4 ? FRAME_GSO_TCPV6 : FRAME_GSO_TCPV4,
			.gso_size = (uint16_t)(64 + frames.length / 20),
			.checksum_start = (uint16_t)tcp,
			.checksum_offset = 16,
		};
	}
	for (unsigned i = 0; i < count; i++)
		batch[i] = frames.frame;
	network_forward(&observer.port, batch, count, &card.engine.turn);
}

/* ---- life ---- */

static void start_card(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	struct intel_nic_options options = {
		.name = "nic",
		.model = form % 3,
		.posted = form & 4,
		.coalescing = form & 0x80,
		.check_mac = true,
		.sidecore = -1,
	};
	const uint16_t master = 6;
	enum pci_interrupt_kind kind = (form >> 3) % PCI_INTERRUPT_KINDS;

	memcpy(options.mac, macs[0], 6);
	memset(tails, 0, sizeof(tails));
	guest_clear(&guest);
	fuzz_require(!intel_nic_create(&options, card.engine.engine, network, &card.device));
	card.nic = intel_nic_of(card.device);
	card.device->host = &fuzz_intel_host;
	card.device->memory = guest.memory;
	card.device->ops->resume(card.device);
	pci_device_config_write(card.device, 4, &master, 2);
	if (card.device->interrupts.counts[kind])
		fuzz_require(!pci_interrupts_set(&card.device->interrupts, kind, 0, card.device->interrupts.nobody));
}

static void note_gone(struct engine_completion *completion)
{
	completion->next = completion;
}

static void stop_card(void)
{
	struct engine_completion gone = { .done = note_gone };

	card.done = false;
	fuzz_intel_wait(card.device->ops->pause(card.device));
	card.device->memory = NULL;
	card.device->host = NULL;
	intel_nic_destroy(card.device, &gone);
	fuzz_engine_settle(&card.engine);
	fuzz_require(gone.next == &gone);
}

static void run_timers(void)
{
	struct engine_timer *timer;

	while ((timer = card.engine.sidecore->timers.root) != NULL && timer->deadline <= card.engine.turn.now) {
		timer_heap_remove(&card.engine.sidecore->timers, timer);
		timer->expire(card.engine.sidecore, timer);
	}
}

static void turn(struct fuzz_input *input)
{
	bool faulted = atomic_load(&card.device->fault);

	card.engine.turn.requests = 1 + fuzz_u8(input) % 64U;
	card.engine.turn.bytes = 64U + fuzz_u16(input) * 8U;
	observer.room = fuzz_u8(input);
	fuzz_require(!fuzz_engine_round(&card.engine) || !faulted);
	observe();
}

/* A card that stopped goes on after a reset. */
static void check_reset(void)
{
	fuzz_intel_write(CTRL, CTRL_RST | CTRL_SLU);
	fuzz_require(!atomic_load(&card.device->fault));
	fuzz_require(!fuzz_intel_read(TCTL) && !fuzz_intel_read(RCTL));
	memset(tails, 0, sizeof(tails));
}

static void life(struct fuzz_input *input)
{
	switch (fuzz_u8(input) % 6) {
	case 0:
		card.done = false;
		fuzz_intel_wait(card.device->ops->pause(card.device));
		guest_scribble(&guest, input);
		card.device->ops->resume(card.device);
		break;
	case 1:
		card.done = false;
		fuzz_intel_wait(card.device->ops->reset(card.device));
		memset(tails, 0, sizeof(tails));
		break;
	case 2:
		intel_nic_set_link(card.device, fuzz_u8(input) & 1);
		break;
	case 3:
		fuzz_engine_arm(&card.engine);
		break;
	default:
		check_reset();
		break;
	}
}

static void step(struct fuzz_input *input)
{
	switch (fuzz_u8(input) % 24) {
	default:
		fuzz_intel_write_interesting(input);
		break;
	case 16:
		fuzz_intel_set_interrupts(input);
		break;
	case 17:
		fuzz_intel_set_hash(input);
		break;
	case 18:
		fuzz_intel_set_filters(input);
		break;
	case 19:
		fuzz_intel_set_vectors(input);
		break;
	case 0:
	case 1:
		fuzz_intel_any_access(input);
		break;
	case 2:
		fuzz_intel_store(input);
		break;
	case 3:
		set_ring(false, input);
		break;
	case 4:
		set_ring(true, input);
		break;
	case 5:
	case 6:
	case 7:
		send_frames(input);
		break;
	case 8:
		any_descriptors(input);
		break;
	case 9:
		offer_buffers(input);
		break;
	case 10:
		send_to_card(input);
		break;
	case 11:
		guest_scribble(&guest, input);
		break;
	case 12:
	case 13:
		turn(input);
		break;
	case 14:
		card.engine.turn.now += 1000ULL << fuzz_u8(input) % 12;
		run_timers();
		break;
	case 15:
		life(input);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct fuzz_fds fds;

	if (!guest.bytes) {
		fuzz_engine_open(&card.engine);
		guest_open(&guest);
	}
	fds = fuzz_open_fds();
	/* The control thread's clock and that of rounds are one: intervals are measured from the one to the other. */
	card.engine.turn.now = clock_nanoseconds();
	network = network_create(&(struct network_config){ .name = "net" });
	fuzz_require(network);
	fake_port_init(&observer, "observer");
	observer.port.abilities = (struct port_abilities){ .checksum = fuzz_u8(&input) & 1 };
	if (observer.port.abilities.checksum && fuzz_u8(&input) & 1)
		observer.port.abilities.tso4 = observer.port.abilities.tso6 = observer.port.abilities.ecn = true;
	fuzz_require(!network_add_port(network, &observer.port));
	atomic_store(&observer.port.up, true);
	start_card(&input);
	for (unsigned i = 0; i < STEPS && input.left; i++)
		step(&input);
	observer.room = FAKE_FRAMES_MAX;
	fuzz_engine_round(&card.engine);
	observe();
	check_reset();
	network_remove_port(network, &observer.port);
	stop_card();
	run_timers();
	network_destroy(network);
	fuzz_require(
		!memcmp(&fds, &(struct fuzz_fds){ fuzz_open_fds().bits[0], fuzz_open_fds().bits[1] }, sizeof(fds)));
	return 0;
}
