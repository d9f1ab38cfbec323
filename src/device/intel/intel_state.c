/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intel network cards: the state of one, for the daemon that comes after this one. Theory of operation:
 * device/pci/pci_state.c.
 *
 * Most of a card is its registers: those that trap are remembered in one array, the others lie in the windows, whose
 * memory the guest keeps. Beside them: where each ring goes on (heads are ours, and a frame may be half way through a
 * receiver that was full), causes and masks of interrupts with the times at which vectors fired, since moderation
 * counts from there (CLOCK_MONOTONIC is the host's, not the daemon's), EEPROM, PHY, statistics.
 *
 * Statistics are counters that go on for ever, and for each register what they were at its last read; the counters of
 * one lane, or of the port, take on what all of the other daemon's had come to.
 *
 * Nothing read here can lead outside of anything: registers are the guest's own anyway, rings are checked when they are
 * taken up (intel_ring.c), numbers of the serial EEPROM are bounded here.
 *
 * Context: control thread; the card is paused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/parcel.h"
#include "device/intel/intel_interrupt.h"

#define TAG_CARD      0x30000U
#define TAG_REGISTERS 0x30001U
#define TAG_VECTORS   0x30002U
#define TAG_RINGS     0x30003U

/* The most bits that the serial EEPROM's state machine counts to: a command and its data; a word. */
#define EEPROM_BITS_IN_MAX  32U
#define EEPROM_BITS_OUT_MAX 16U

struct saved_traffic {
	uint64_t frames, octets, multicast, broadcast, sizes[6], segmented, filtered, oversize;
};

_Static_assert(sizeof(struct saved_traffic) == sizeof(struct intel_traffic), "they are copied as a whole");

struct saved_statistics {
	struct saved_traffic sent, received;
	struct saved_traffic sent_base, received_base, sent_latch, received_latch;
	uint64_t missed; /* since the register was read */
	uint64_t assertions, assertions_base;
};

struct saved_interrupts {
	uint64_t legacy, extended, suspects_since;
	uint64_t fired[INTEL_VECTORS_MAX];
	uint32_t deferred, line_deferred, resting, suspects, shown_mask, reserved;
};

struct saved_eeprom {
	uint32_t shift_in;
	uint16_t shift_out;
	uint8_t bits_in, bits_out;
	uint8_t clock, reading, write_enabled, output;
	uint16_t words[INTEL_EEPROM_WORDS];
};

struct saved_card {
	uint64_t reset_at;
	uint32_t generation, posted;
	uint32_t io_address;
	uint8_t link, loopback, reserved[2];
	struct saved_statistics statistics;
	struct saved_interrupts interrupts;
	struct saved_eeprom eeprom;
	uint16_t phy[32];
	uint32_t padding;
};

struct saved_context {
	uint16_t ip_start, ip_field, ip_end, l4_start, l4_field, l4_end, header_length, mss, tag;
	uint8_t ipv4, tcp, sctp, reserved;
};

struct saved_ring {
	uint32_t base_low, base_high, length, size, count, head, cut_done;
	uint16_t segments_done;
	uint8_t known, reserved;
	struct saved_context contexts[INTEL_CONTEXTS];
};

_Static_assert(sizeof(struct saved_statistics) == 6 * 13 * 8 + 3 * 8, "no holes");
_Static_assert(sizeof(struct saved_interrupts) == 3 * 8 + 8 * INTEL_VECTORS_MAX + 6 * 4, "no holes");
_Static_assert(sizeof(struct saved_eeprom) == 12 + 2 * INTEL_EEPROM_WORDS, "no holes");
_Static_assert(sizeof(struct saved_card) == 24 + sizeof(struct saved_statistics) + sizeof(struct saved_interrupts) +
						    sizeof(struct saved_eeprom) + 64 + 4,
	       "no holes");
_Static_assert(sizeof(struct saved_ring) == 32 + 22 * INTEL_CONTEXTS, "no holes");

#define RINGS_MAX (2 * INTEL_QUEUES_MAX)

/* Transmit and receive ring of each queue, one after the other. */
static struct intel_ring *ring_of(struct intel_nic *nic, unsigned number)
{
	return number & 1 ? &nic->receive[number / 2] : &nic->transmit[number / 2];
}

static bool is_posted(const struct intel_nic *nic)
{
	return nic->pages == (const uint8_t *)nic->registers;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static void save_statistics(const struct intel_nic *nic, struct saved_statistics *saved)
{
	struct intel_traffic totals[2];

	intel_statistics_totals(nic, &totals[0], &totals[1]);
	memcpy(&saved->sent, &totals[0], sizeof(saved->sent));
	memcpy(&saved->received, &totals[1], sizeof(saved->received));
	memcpy(&saved->sent_base, &nic->sent_base, sizeof(saved->sent_base));
	memcpy(&saved->received_base, &nic->received_base, sizeof(saved->received_base));
	memcpy(&saved->sent_latch, &nic->sent_latch, sizeof(saved->sent_latch));
	memcpy(&saved->received_latch, &nic->received_latch, sizeof(saved->received_latch));
	saved->missed = intel_statistics_missed(nic) - nic->missed_base;
	saved->assertions = atomic_load(&nic->interrupts.assertions);
	saved->assertions_base = nic->assertions_base;
}

static void save_interrupts(const struct intel_interrupts *interrupts, struct saved_interrupts *saved)
{
	saved->legacy = atomic_load(&interrupts->legacy);
	saved->extended = atomic_load(&interrupts->extended);
	saved->suspects_since = atomic_load(&interrupts->suspects_since);
	for (unsigned i = 0; i < INTEL_VECTORS_MAX; i++)
		saved->fired[i] = atomic_load(&interrupts->fired[i]);
	saved->deferred = atomic_load(&interrupts->deferred);
	saved->line_deferred = atomic_load(&interrupts->line_deferred);
	saved->resting = atomic_load(&interrupts->resting);
	saved->suspects = atomic_load(&interrupts->suspects);
	saved->shown_mask = atomic_load(&interrupts->shown_mask);
}

static void save_eeprom(const struct intel_eeprom *eeprom, struct saved_eeprom *saved)
{
	saved->shift_in = eeprom->shift_in;
	saved->shift_out = eeprom->shift_out;
	saved->bits_in = eeprom->bits_in;
	saved->bits_out = eeprom->bits_out;
	saved->clock = eeprom->clock;
	saved->reading = eeprom->reading;
	saved->write_enabled = eeprom->write_enabled;
	saved->output = eeprom->output;
	memcpy(saved->words, eeprom->words, sizeof(saved->words));
}

static void save_context(const struct intel_context *context, struct saved_context *saved)
{
	*saved = (struct saved_context){
		.ip_start = context->ip_start,
		.ip_field = context->ip_field,
		.ip_end = context->ip_end,
		.l4_start = context->l4_start,
		.l4_field = context->l4_field,
		.l4_end = context->l4_end,
		.header_length = context->header_length,
		.mss = context->mss,
		.tag = context->tag,
		.ipv4 = context->ipv4,
		.tcp = context->tcp,
		.sctp = context->sctp,
	};
}

static void save_rings(struct intel_nic *nic, struct parcel *parcel)
{
	struct saved_ring saved[RINGS_MAX] = { 0 };
	unsigned count = 2U * nic->variant->queues;

	for (unsigned i = 0; i < count; i++) {
		const struct intel_ring *ring = ring_of(nic, i);

		saved[i] = (struct saved_ring){
			.base_low = ring->base_low,
			.base_high = ring->base_high,
			.length = ring->length,
			.size = ring->size,
			.count = ring->count,
			.head = ring->head,
			.cut_done = ring->cut_done,
			.segments_done = ring->segments_done,
			.known = ring->known,
		};
		for (unsigned j = 0; j < INTEL_CONTEXTS; j++)
			save_context(&ring->contexts.context[j], &saved[i].contexts[j]);
	}
	parcel_put(parcel, TAG_RINGS, saved, count * sizeof(saved[0]));
}

void intel_save_state(struct pci_device *device, struct parcel *parcel)
{
	struct intel_nic *nic = intel_nic_of(device);
	struct saved_card *saved = calloc(1, sizeof(*saved));

	if (!saved) {
		parcel_fail(parcel, "out of memory");
		return;
	}
	saved->reset_at = nic->reset_at;
	saved->generation = nic->variant->generation;
	saved->posted = is_posted(nic);
	saved->io_address = nic->io_address;
	saved->link = nic->link;
	saved->loopback = atomic_load(&nic->loopback);
	save_statistics(nic, &saved->statistics);
	save_interrupts(&nic->interrupts, &saved->interrupts);
	save_eeprom(&nic->eeprom, &saved->eeprom);
	memcpy(saved->phy, nic->phy, sizeof(saved->phy));
	parcel_put(parcel, TAG_CARD, saved, sizeof(*saved));
	free(saved);
	parcel_put(parcel, TAG_REGISTERS, nic->registers, INTEL_BAR_SIZE);
	parcel_put(parcel, TAG_VECTORS, nic->vectors, nic->vectors ? INTEL_VECTOR_BAR : 0);
	save_rings(nic, parcel);
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static void load_statistics(struct intel_nic *nic, const struct saved_statistics *saved)
{
	/* Lanes are at rest, and this daemon's have counted nothing yet. */
	memcpy(&nic->lanes[0].traffic, &saved->sent, sizeof(saved->sent));
	memcpy(&nic->received, &saved->received, sizeof(saved->received));
	memcpy(&nic->sent_base, &saved->sent_base, sizeof(saved->sent_base));
	memcpy(&nic->received_base, &saved->received_base, sizeof(saved->received_base));
	memcpy(&nic->sent_latch, &saved->sent_latch, sizeof(saved->sent_latch));
	memcpy(&nic->received_latch, &saved->received_latch, sizeof(saved->received_latch));
	/* The port counts from zero: the base is as far below, and differences are what they should be. */
	nic->missed_base = intel_statistics_missed(nic) - saved->missed;
	nic->assertions_base = saved->assertions_base;
}

static void load_interrupts(struct intel_nic *nic, const struct saved_interrupts *saved, uint64_t assertions)
{
	struct intel_interrupts *interrupts = &nic->interrupts;
	const uint32_t vectors = (1U << INTEL_VECTORS_MAX) - 1;
	/* Bits that lead to a vector: of EICR, or of ICR. */
	uint32_t deferred = nic->variant->generation == INTEL_82574 ? CAUSES_82574 : vectors;

	atomic_store(&interrupts->legacy, saved->legacy);
	atomic_store(&interrupts->extended, saved->extended & (vectors | (uint64_t)vectors << 32));
	atomic_store(&interrupts->suspects_since, saved->suspects_since);
	for (unsigned i = 0; i < INTEL_VECTORS_MAX; i++)
		atomic_store(&interrupts->fired[i], saved->fired[i]);
	/* Their timers were cancelled with the rest: lane 0 looks again (left_over() in intel_interrupt.c). */
	atomic_store(&interrupts->deferred, saved->deferred & deferred);
	atomic_store(&interrupts->line_deferred, saved->line_deferred & 1);
	atomic_store(&interrupts->resting, saved->resting & vectors);
	atomic_store(&interrupts->suspects, saved->suspects & vectors);
	atomic_store(&interrupts->shown_mask, saved->shown_mask);
	atomic_store(&interrupts->assertions, assertions);
}

static void load_eeprom(struct intel_eeprom *eeprom, const struct saved_eeprom *saved)
{
	eeprom->shift_in = saved->shift_in;
	eeprom->shift_out = saved->shift_out;
	eeprom->bits_in = (uint8_t)min(saved->bits_in, EEPROM_BITS_IN_MAX);
	eeprom->bits_out = (uint8_t)min(saved->bits_out, EEPROM_BITS_OUT_MAX);
	eeprom->clock = saved->clock & 1;
	eeprom->reading = saved->reading & 1;
	eeprom->write_enabled = saved->write_enabled & 1;
	eeprom->output = saved->output & 1;
	memcpy(eeprom->words, saved->words, sizeof(saved->words));
}

static void load_context(struct intel_context *context, const struct saved_context *saved)
{
	*context = (struct intel_context){
		.ip_start = saved->ip_start,
		.ip_field = saved->ip_field,
		.ip_end = saved->ip_end,
		.l4_start = saved->l4_start,
		.l4_field = saved->l4_field,
		.l4_end = saved->l4_end,
		.header_length = saved->header_length,
		.mss = saved->mss,
		.tag = saved->tag,
		.ipv4 = saved->ipv4 & 1,
		.tcp = saved->tcp & 1,
		.sctp = saved->sctp & 1,
	};
}

static int load_rings(struct intel_nic *nic, struct parcel *parcel)
{
	struct saved_ring saved[RINGS_MAX];
	unsigned count = 2U * nic->variant->queues;

	if (parcel_get_array(parcel, TAG_RINGS, saved, sizeof(saved[0]), count) != count)
		return parcel_fail(parcel, "its rings are not all there");
	for (unsigned i = 0; i < count; i++) {
		struct intel_ring *ring = ring_of(nic, i);

		/* Not mapped: whoever uses it takes it up, and checks it against its registers then. */
		ring->base_low = saved[i].base_low;
		ring->base_high = saved[i].base_high;
		ring->length = saved[i].length;
		ring->size = saved[i].size;
		ring->count = saved[i].count;
		ring->head = saved[i].head;
		ring->cut_done = saved[i].cut_done;
		ring->segments_done = saved[i].segments_done;
		ring->known = saved[i].known & 1;
		for (unsigned j = 0; j < INTEL_CONTEXTS; j++)
			load_context(&ring->contexts.context[j], &saved[i].contexts[j]);
	}
	return 0;
}

static int load_card(struct intel_nic *nic, struct saved_card *saved, struct parcel *parcel)
{
	int error = parcel_get(parcel, TAG_CARD, saved, sizeof(*saved));

	if (!error && (saved->generation != (uint32_t)nic->variant->generation || saved->posted != is_posted(nic)))
		error = parcel_fail(parcel, "it is a card of another kind now");
	if (!error)
		error = parcel_get(parcel, TAG_REGISTERS, nic->registers, INTEL_BAR_SIZE);
	if (!error)
		error = parcel_get(parcel, TAG_VECTORS, nic->vectors, nic->vectors ? INTEL_VECTOR_BAR : 0);
	return error ? error : load_rings(nic, parcel);
}

int intel_load_state(struct pci_device *device, struct parcel *parcel)
{
	struct intel_nic *nic = intel_nic_of(device);
	struct saved_card *saved = calloc(1, sizeof(*saved));
	int error;

	if (!saved)
		return parcel_fail(parcel, "out of memory");
	error = load_card(nic, saved, parcel);
	if (!error) {
		nic->reset_at = saved->reset_at;
		nic->io_address = saved->io_address;
		nic->link = saved->link & 1;
		atomic_store(&nic->loopback, saved->loopback & 1);
		load_statistics(nic, &saved->statistics);
		load_interrupts(nic, &saved->interrupts, saved->statistics.assertions);
		load_eeprom(&nic->eeprom, &saved->eeprom);
		memcpy(nic->phy, saved->phy, sizeof(nic->phy));
		/* A store, and another key: whoever remembers what he made of registers makes it anew. */
		intel_store(nic, CTRL, intel_load(nic, CTRL));
		atomic_fetch_add_explicit(&nic->key_version, 1, memory_order_release);
	}
	free(saved);
	return error;
}
