/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics registers: cleared by a read. What sidecores count goes on for ever; a register is what was counted since
 * it was read last, so a base is kept for each. A counter of 64 bits is two registers, and clears when its upper half
 * is read (8254x 13.7): the lower half that was read before belongs to it.
 *
 * Context: control thread; counters are loaded relaxed.
 */
#include "base/counter.h"
#include "device/intel/intel_internal.h"

static void read_traffic(const struct intel_traffic *from, struct intel_traffic *sum)
{
	const uint64_t *source = (const uint64_t *)from;
	uint64_t *to = (uint64_t *)sum;

	for (unsigned i = 0; i < sizeof(*from) / sizeof(*source); i++)
		to[i] += counter_read(&source[i]);
}

static void sent(const struct intel_nic *nic, struct intel_traffic *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (unsigned i = 0; i < nic->lane_count; i++)
		read_traffic(&nic->lanes[i].traffic, sum);
}

static void received(const struct intel_nic *nic, struct intel_traffic *sum)
{
	memset(sum, 0, sizeof(*sum));
	read_traffic(&nic->received, sum);
}

uint64_t intel_statistics_missed(const struct intel_nic *nic)
{
	struct port_counters counters;

	port_read_counters(&nic->port, &counters);
	return counters.drops[PORT_DROP_FULL] + counters.drops[PORT_DROP_BUSY];
}

/* What was counted since the last read, as far as 32 bits go. */
static uint32_t clear_on_read(uint64_t now, uint64_t *base)
{
	uint64_t value = now - *base;

	*base = now;
	return (uint32_t)min(value, (uint64_t)UINT32_MAX);
}

/* GORCL and the like: the lower half latches, the upper half clears. */
static uint32_t octets_low(uint64_t now, uint64_t base, uint64_t *latch)
{
	*latch = now;
	return (uint32_t)(now - base);
}

static uint32_t octets_high(uint64_t now, uint64_t *base, uint64_t *latch)
{
	uint64_t until = *latch > *base ? *latch : now;
	uint32_t high = (uint32_t)((until - *base) >> 32);

	*base = until;
	*latch = until;
	return high;
}

static uint32_t read_received(struct intel_nic *nic, uint32_t offset)
{
	struct intel_traffic now, *base = &nic->received_base;

	received(nic, &now);
	switch (offset) {
	case GPRC:
		return clear_on_read(now.frames, &base->frames);
	case TPR: /* its own base: the one that TSO does not use here */
		return clear_on_read(now.frames, &base->segmented);
	case BPRC:
		return clear_on_read(now.broadcast, &base->broadcast);
	case MPRC:
		return clear_on_read(now.multicast, &base->multicast);
	case ROC:
		return clear_on_read(now.oversize, &base->oversize);
	case GORCL:
		return octets_low(now.octets, base->octets, &nic->received_latch.octets);
	case GORCH:
		return octets_high(now.octets, &base->octets, &nic->received_latch.octets);
	case TORL: /* as with TPR */
		return octets_low(now.octets, base->filtered, &nic->received_latch.filtered);
	case TORH:
		return octets_high(now.octets, &base->filtered, &nic->received_latch.filtered);
	default:
		return clear_on_read(now.sizes[(offset - PRC64) / 4], &base->sizes[(offset - PRC64) / 4]);
	}
}

static uint32_t read_sent(struct intel_nic *nic, uint32_t offset)
{
	struct intel_traffic now, *base = &nic->sent_base;

	sent(nic, &now);
	switch (offset) {
	case GPTC:
		return clear_on_read(now.frames, &base->frames);
	case TPT: /* its own base: nothing that is sent is oversize */
		return clear_on_read(now.frames, &base->oversize);
	case BPTC:
		return clear_on_read(now.broadcast, &base->broadcast);
	case MPTC:
		return clear_on_read(now.multicast, &base->multicast);
	case TSCTC:
		return clear_on_read(now.segmented, &base->segmented);
	case GOTCL:
		return octets_low(now.octets, base->octets, &nic->sent_latch.octets);
	case GOTCH:
		return octets_high(now.octets, &base->octets, &nic->sent_latch.octets);
	case TOTL:
		return octets_low(now.octets, base->filtered, &nic->sent_latch.filtered);
	case TOTH:
		return octets_high(now.octets, &base->filtered, &nic->sent_latch.filtered);
	default:
		return clear_on_read(now.sizes[(offset - PTC64) / 4], &base->sizes[(offset - PTC64) / 4]);
	}
}

uint32_t intel_statistics_read(struct intel_nic *nic, uint32_t offset)
{
	switch (offset) {
	case MPC:
		return clear_on_read(intel_statistics_missed(nic), &nic->missed_base);
	case IAC:
		return clear_on_read(atomic_load(&nic->interrupts.assertions), &nic->assertions_base);
	case GPRC:
	case TPR:
	case BPRC:
	case MPRC:
	case ROC:
	case GORCL:
	case GORCH:
	case TORL:
	case TORH:
	case PRC64 ... PRC64 + 20:
		return read_received(nic, offset);
	case GPTC:
	case TPT:
	case BPTC:
	case MPTC:
	case TSCTC:
	case GOTCL:
	case GOTCH:
	case TOTL:
	case TOTH:
	case PTC64 ... PTC64 + 20:
		return read_sent(nic, offset);
	default: /* errors of a wire that there is not: CRC, symbols, collisions, pause frames ... */
		return 0;
	}
}

void intel_statistics_reset(struct intel_nic *nic)
{
	struct intel_traffic *bases[2] = { &nic->received_base, &nic->sent_base };

	received(nic, bases[0]);
	sent(nic, bases[1]);
	for (unsigned i = 0; i < 2; i++)
		bases[i]->filtered = bases[i]->octets;
	nic->received_base.segmented = nic->received_base.frames;
	nic->sent_base.oversize = nic->sent_base.frames;
	nic->received_latch = nic->received_base;
	nic->sent_latch = nic->sent_base;
	nic->missed_base = intel_statistics_missed(nic);
	nic->assertions_base = atomic_load(&nic->interrupts.assertions);
}

void intel_statistics_totals(const struct intel_nic *nic, struct intel_traffic *sent_total,
			     struct intel_traffic *received_total)
{
	sent(nic, sent_total);
	received(nic, received_total);
}
