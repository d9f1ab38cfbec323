/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The transmit plan: from descriptors that were copied out of the ring to frames, in one pass (see intel_transmit.c).
 * What a run has taken (intel_transmit_run.c) lies in front of it, and has the first frames and segments.
 *
 * Every descriptor is looked at once, in order, with the offload contexts as they are there; whatever comes later is
 * told from the plan. A unit of the plan is a frame with the context descriptors before it. When the pass ends in the
 * middle of one, that is taken back: contexts and position are those of the last whole unit.
 *
 * Context: the lane.
 */
#include <errno.h>

#include "device/intel/intel_transmit.h"

/** SCTP's CRC takes some 4 ns a byte, and copying, which a turn's bytes stand for, a tenth of one: what a byte counts. */
#define CRC_COST 16U

enum descriptor_kind {
	DESCRIPTOR_LEGACY,
	DESCRIPTOR_CONTEXT,
	DESCRIPTOR_DATA,
	DESCRIPTOR_ADVANCED_CONTEXT,
	DESCRIPTOR_ADVANCED_DATA,
	DESCRIPTOR_UNKNOWN,
};

/* ---- fetch ---- */

static enum descriptor_kind kind_of(const struct intel_nic *nic, const struct intel_descriptor *descriptor)
{
	uint32_t type = descriptor->command >> TXD_DTYP_SHIFT & 15;

	if (!(descriptor->command & TXD_DEXT))
		return DESCRIPTOR_LEGACY;
	if (nic->variant->generation == INTEL_82576)
		return type == 2   ? DESCRIPTOR_ADVANCED_CONTEXT
		       : type == 3 ? DESCRIPTOR_ADVANCED_DATA
				   : DESCRIPTOR_UNKNOWN;
	return type == 0 ? DESCRIPTOR_CONTEXT : type == 1 ? DESCRIPTOR_DATA : DESCRIPTOR_UNKNOWN;
}

/* Copy what is between the run's end and the tail, @available in all from the head on. Return: how many. */
static unsigned fetch(struct intel_lane *lane, const struct intel_ring *ring, const struct intel_run *run,
		      uint32_t available)
{
	uint32_t from = (ring->head + run->count) % ring->count, count, first;

	count = min(available - run->count, INTEL_DESCRIPTORS_MAX);
	first = min(count, ring->count - from);
	guest_fetch(lane->descriptors, ring->descriptors + 16ULL * from, 16ULL * first);
	if (unlikely(first < count))
		guest_fetch(lane->descriptors + first, ring->descriptors, 16ULL * (count - first));
	return count;
}

/* ---- contexts ---- */

static void parse_context(const struct intel_descriptor *descriptor, struct intel_contexts *contexts)
{
	uint64_t offsets = descriptor->address;
	struct intel_context *context = &contexts->context[descriptor->command & TXD_TSE ? 1 : 0];

	*context = (struct intel_context){
		.ip_start = (uint16_t)(offsets & 0xff),
		.ip_field = (uint16_t)(offsets >> 8 & 0xff),
		.ip_end = (uint16_t)(offsets >> 16),
		.l4_start = (uint16_t)(offsets >> 32 & 0xff),
		.l4_field = (uint16_t)(offsets >> 40 & 0xff),
		.l4_end = (uint16_t)(offsets >> 48),
		.header_length = (uint16_t)(descriptor->status >> 8 & 0xff),
		.mss = (uint16_t)(descriptor->status >> 16),
		.ipv4 = descriptor->command & TXD_CONTEXT_IPV4,
		.tcp = descriptor->command & TXD_CONTEXT_TCP,
	};
}

static void parse_advanced_context(const struct intel_descriptor *descriptor, struct intel_contexts *contexts)
{
	static const uint8_t fields[4] = { 6, 16, 8, 16 }; /* by L4T: UDP, TCP, SCTP */
	uint32_t link = (uint32_t)(descriptor->address >> 9 & 0x7f), network = (uint32_t)(descriptor->address & 0x1ff);
	unsigned type = descriptor->command >> TXD_ADVANCED_L4T_SHIFT & 3;
	struct intel_context *context = &contexts->context[descriptor->status >> 4 & (INTEL_CONTEXTS - 1)];

	*context = (struct intel_context){
		.ip_start = (uint16_t)link,
		.ip_field = (uint16_t)(link + 10),
		.ip_end = (uint16_t)(link + network - 1),
		.l4_start = (uint16_t)(link + network),
		.l4_field = (uint16_t)(link + network + fields[type]),
		.header_length = (uint16_t)(link + network + (descriptor->status >> 8 & 0xff)),
		.mss = (uint16_t)(descriptor->status >> 16),
		.tag = (uint16_t)(descriptor->address >> 16),
		.ipv4 = descriptor->command & TXD_ADVANCED_IPV4,
		.tcp = type == 1,
		.sctp = type == 2,
	};
}

/* ---- frames ---- */

/* What the first descriptor of a frame says about all of it. */
static void begin_packet(const struct intel_planner *planner, const struct intel_descriptor *descriptor,
			 enum descriptor_kind kind, struct intel_packet *packet)
{
	const struct intel_contexts *contexts = &planner->ring->contexts;

	*packet = (struct intel_packet){
		.segments = planner->lane->segments + planner->segments + 1,
		.command = descriptor->command,
	};
	switch (kind) {
	case DESCRIPTOR_ADVANCED_DATA:
		packet->options = descriptor->status & (TXD_IXSM | TXD_TXSM);
		packet->segmented = descriptor->command & TXD_ADVANCED_TSE;
		packet->context = contexts->context[descriptor->status >> 4 & (INTEL_CONTEXTS - 1)];
		packet->tag = packet->context.tag;
		break;
	case DESCRIPTOR_DATA:
		packet->options = descriptor->status & (TXD_IXSM | TXD_TXSM);
		packet->segmented = descriptor->command & TXD_TSE;
		packet->context = contexts->context[packet->segmented];
		break;
	default:
		break;
	}
}

/* What the last one says. */
static void end_packet(const struct intel_planner *planner, const struct intel_descriptor *descriptor,
		       enum descriptor_kind kind, struct intel_packet *packet)
{
	uint32_t command = packet->command | descriptor->command;

	packet->tagged = command & TXD_VLE && intel_load(planner->nic, CTRL) & CTRL_VME;
	if (kind != DESCRIPTOR_ADVANCED_DATA)
		packet->tag = (uint16_t)(descriptor->status >> 16);
	if (kind == DESCRIPTOR_LEGACY && packet->command & TXD_LEGACY_IC) {
		packet->options |= TXD_TXSM;
		packet->context.l4_start = (uint16_t)(descriptor->status >> 8 & 0xff);	 /* CSS */
		packet->context.l4_field = (uint16_t)(descriptor->command >> 16 & 0xff); /* CSO */
	}
}

/* Append a descriptor's buffer. Return: false: the card has faulted, or there is no room (planner->cut). */
static bool append(struct intel_planner *planner, const struct intel_descriptor *descriptor, enum descriptor_kind kind,
		   struct intel_packet *packet)
{
	uint32_t mask = kind == DESCRIPTOR_DATA ? TXD_LENGTH_EXTENDED : TXD_LENGTH, length = descriptor->command & mask;
	struct intel_lane *lane = planner->lane;
	unsigned room = INTEL_SEGMENTS_MAX - (unsigned)(packet->segments - lane->segments);
	int error;

	packet->length += length;			  /* at most 256 times 2^20 */
	if (!length || packet->length > FRAME_LENGTH_MAX) /* too long: will be dropped, so nothing needs its bytes */
		return true;
	error = guest_memory_segments(planner->nic->device.memory, &planner->ring->hint, descriptor->address, length,
				      packet->segments, room, &packet->segment_count);
	if (likely(!error))
		return true;
	if (error == -ENOSPC && planner->plans + planner->run.count) {
		planner->cut = true;
		return false;
	}
	pci_device_fault(&planner->nic->device,
			 error == -ENOSPC ? "transmit frame of too many pieces" : "transmit buffer outside of memory");
	planner->broken = true;
	return false;
}

static bool is_summed_here(const struct intel_packet *packet)
{
	return unlikely(packet->options & TXD_TXSM && packet->context.sctp);
}

static struct intel_plan *add_plan(struct intel_planner *planner)
{
	struct intel_plan *plan = &planner->lane->plans[planner->plans++];

	*plan = (struct intel_plan){
		.end = (uint16_t)planner->position,
		.drop = PORT_DROPS,
		.frame = (uint8_t)planner->frames,
		.contexts = (uint8_t)planner->contexts,
	};
	return plan;
}

/* Contexts changed: keep them, for whoever has to go on from here. */
static void keep_contexts(struct intel_planner *planner)
{
	planner->lane->contexts[++planner->contexts] = planner->ring->contexts;
}

/* A unit for intel_cut() is a plan by itself: if it is not the first, it is left for the next one. */
static bool plan_alone(struct intel_planner *planner, struct intel_plan *plan, const struct intel_packet *packet,
		       unsigned start, unsigned contexts)
{
	planner->alone = planner->plans + planner->run.count == 1;
	if (planner->alone) {
		plan->cut = true;
		plan->drop = PORT_DROPS;
		planner->packet = *packet;
		planner->bytes += packet->length;
		return false;
	}
	planner->plans--;
	planner->ring->contexts = planner->lane->contexts[contexts];
	planner->contexts = contexts;
	planner->position = start;
	return false;
}

/*
 * One unit: context descriptors, then the descriptors of a frame.
 * Return: false: there is none; what is left is the beginning of one, or the card has faulted.
 */
static bool plan_next(struct intel_planner *planner)
{
	struct intel_lane *lane = planner->lane;
	unsigned start = planner->position, before = planner->contexts;
	struct intel_packet packet = { 0 };
	struct intel_plan *plan;
	bool begun = false, changed = false;

	for (; planner->position < planner->descriptors; planner->position++) {
		const struct intel_descriptor *descriptor = &lane->descriptors[planner->position];
		enum descriptor_kind kind = kind_of(planner->nic, descriptor);

		if (kind == DESCRIPTOR_CONTEXT || kind == DESCRIPTOR_ADVANCED_CONTEXT) {
			if (kind == DESCRIPTOR_CONTEXT)
				parse_context(descriptor, &planner->ring->contexts);
			else
				parse_advanced_context(descriptor, &planner->ring->contexts);
			changed = true;
			continue;
		}
		if (kind == DESCRIPTOR_UNKNOWN) {
			pci_device_fault(&planner->nic->device, "transmit descriptor of an unknown type");
			planner->broken = true;
			break;
		}
		if (!begun)
			begin_packet(planner, descriptor, kind, &packet);
		begun = true;
		if (!append(planner, descriptor, kind, &packet))
			break;
		if (!(descriptor->command & TXD_EOP))
			continue;

		planner->position++;
		end_packet(planner, descriptor, kind, &packet);
		if (changed)
			keep_contexts(planner);
		plan = add_plan(planner);
		plan->segmented = packet.segmented;
		planner->segments = (unsigned)(packet.segments - lane->segments) + packet.segment_count;
		plan->drop = intel_offload_build(planner->nic, &packet, &lane->frames[planner->frames],
						 lane->headers[planner->frames]);
		if (unlikely(plan->drop == INTEL_OFFLOAD_CUT))
			return plan_alone(planner, plan, &packet, start, before);
		planner->frames += plan->drop == PORT_DROPS;
		planner->bytes += (uint64_t)packet.length * (is_summed_here(&packet) ? CRC_COST : 1);
		return true;
	}
	if (!planner->broken && !begun && changed) { /* contexts, and nothing behind them yet */
		keep_contexts(planner);
		add_plan(planner)->empty = true;
		return true;
	}
	/* As if nothing of it had been looked at. */
	planner->cut = true;
	planner->ring->contexts = lane->contexts[before];
	planner->position = start;
	return false;
}

void intel_plan_make(struct intel_planner *planner, uint32_t available, const struct turn *turn)
{
	struct intel_run *run = &planner->run;

	intel_run_build(planner->lane, planner->ring, min(available, planner->want), turn->bytes, run);
	planner->frames = run->count;
	planner->segments = run->count;
	planner->bytes = run->bytes;
	if (likely(run->count == available || run->count == planner->want || run->bytes >= turn->bytes))
		return;
	planner->descriptors = fetch(planner->lane, planner->ring, run, available);
	planner->lane->contexts[0] = planner->ring->contexts;
	while (planner->position < planner->descriptors && planner->plans + run->count < planner->want &&
	       planner->bytes < turn->bytes && planner->segments + 2 < INTEL_SEGMENTS_MAX) {
		if (!plan_next(planner))
			break;
	}
}
