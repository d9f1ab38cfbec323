/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptor rings as their registers describe them.
 *
 * Theory of operation
 * -------------------
 * The registers of a ring lie in one cache line, most of them in pages that the driver may write without telling. So
 * nobody is told that a ring was set up: its user looks at the registers before each use (intel_ring_ready()), which
 * costs loads of a line that it needs for the tail anyhow, and takes the ring up when they have changed, and are
 * settled. A ring that
 * the driver disables (82576: RXDCTL and TXDCTL) is let alone from the next use on; what must have ended before the
 * driver goes on, is ended by trapped registers: RCTL.EN, TCTL.EN, CTRL.RST.
 *
 * Heads are ours. What is in the register is a copy for the driver, read only when a ring was disabled before.
 *
 * Context: transmit rings: their lane. Receive rings: under the port's claim. intel_rings_forget(): control thread, at
 * rest.
 */
#include "device/intel/intel_internal.h"

#define DESCRIPTOR_SIZE 16U
#define LENGTH_MASK	0xfff80U /* in units of 128 bytes */

uint32_t intel_ring_registers(const struct intel_nic *nic, bool receive, unsigned queue)
{
	if (queue < 4)
		return (receive ? RING_RECEIVE : RING_TRANSMIT) + 0x100 * queue;
	return (receive ? RING_RECEIVE_HIGH : RING_TRANSMIT_HIGH) + 0x40 * queue;
}

static bool is_enabled(const struct intel_nic *nic, const struct intel_ring *ring)
{
	return nic->variant->generation != INTEL_82576 ||
	       intel_page_load(nic, ring->registers + RING_CONTROL) & RING_CONTROL_ENABLE;
}

/* Take the ring up: @size bytes for each descriptor. Return: false: faulted. */
static __attribute__((noinline)) bool take_up(struct intel_nic *nic, struct intel_ring *ring, unsigned size)
{
	uint64_t base = (uint64_t)ring->base_high << 32 | (ring->base_low & ~(DESCRIPTOR_SIZE - 1));

	ring->size = size;
	ring->count = ring->length / size;
	ring->waiting = false;
	ring->hint = NULL;
	if (!ring->known) {
		ring->head = (intel_page_load(nic, ring->registers + RING_HEAD) & 0xffff) * DESCRIPTOR_SIZE / size;
		ring->segments_done = 0;
		ring->cut_done = 0;
		memset(&ring->contexts, 0, sizeof(ring->contexts));
	}
	if (ring->head >= ring->count) {
		pci_device_fault(&nic->device, "ring head beyond the ring");
		return false;
	}
	ring->descriptors = guest_memory_range(nic->device.memory, base, ring->length);
	/* Regions that the VMM put at odd addresses: descriptors are written with single stores. */
	if (!ring->descriptors || (uintptr_t)ring->descriptors % DESCRIPTOR_SIZE) {
		ring->descriptors = NULL;
		pci_device_fault(&nic->device, "descriptor ring outside of memory");
		return false;
	}
	ring->known = true;
	return true;
}

/* struct place - where registers say that a ring is. */
struct place {
	uint32_t low, high, length;
};

static inline struct place load_place(const struct intel_nic *nic, const struct intel_ring *ring)
{
	return (struct place){
		.low = intel_page_load(nic, ring->registers + RING_BASE_LOW),
		.high = intel_page_load(nic, ring->registers + RING_BASE_HIGH),
		.length = intel_page_load(nic, ring->registers + RING_LENGTH) & LENGTH_MASK,
	};
}

static bool is_same_place(struct place one, struct place other)
{
	return one.low == other.low && one.high == other.high && one.length == other.length;
}

/*
 * Is the place, which was loaded before, one that the driver meant? An 82576's driver may move a ring while the
 * receiver is on: it disables the ring, writes one register after the other, and enables it. If it was enabled at some
 * time after these were loaded, and they are the same after that time, they are not half written: while they are, the
 * ring is disabled, and when it is enabled again, they are whole and so different. Loads are acquires, so in this
 * order. (A driver that moves a ring several times within these few loads deceives itself only: it is checked anyway.)
 */
static bool is_settled(const struct intel_nic *nic, const struct intel_ring *ring, struct place place)
{
	return is_enabled(nic, ring) && is_same_place(load_place(nic, ring), place);
}

/*
 * Is the head as we left it? A driver that has disabled and enabled the ring between two of our looks has stored another,
 * at the same place, and nobody told us: what we know of the ring is not of this one. (One that stores a head while the
 * ring is in use moves its own ring only: take_up() looks at it.)
 */
static inline bool is_our_head(const struct intel_nic *nic, const struct intel_ring *ring)
{
	return !ring->known || (intel_page_load(nic, ring->registers + RING_HEAD) & 0xffff) ==
				       ring->head * ring->size / DESCRIPTOR_SIZE;
}

bool intel_ring_ready(struct intel_nic *nic, struct intel_ring *ring, unsigned size)
{
	struct place place, before = { ring->base_low, ring->base_high, ring->length };
	bool same;

	if (unlikely(!is_enabled(nic, ring))) {
		ring->descriptors = NULL;
		ring->known = false;
		return false;
	}
	place = load_place(nic, ring);
	same = is_same_place(place, before) && size == ring->size && is_our_head(nic, ring);
	if (likely(ring->descriptors && same))
		return true;
	ring->descriptors = NULL;
	if (!place.length || intel_faulted(nic) || !is_settled(nic, ring, place)) /* not set up, or not yet */
		return false;
	if (!same)
		ring->known = false;
	ring->base_low = place.low;
	ring->base_high = place.high;
	ring->length = place.length;
	return take_up(nic, ring, size);
}

void intel_rings_forget(struct intel_nic *nic, bool reset_transmit, bool reset_receive)
{
	for (unsigned i = 0; i < 2U * nic->variant->queues; i++) {
		bool receive = i & 1;
		struct intel_ring *ring = receive ? &nic->receive[i / 2] : &nic->transmit[i / 2];

		ring->registers = intel_ring_registers(nic, receive, i / 2);
		ring->descriptors = NULL;
		ring->hint = NULL;
		ring->waiting = false;
		ring->written_count = 0;
		ring->used = false;
		if (receive ? reset_receive : reset_transmit) {
			ring->known = false;
			ring->segments_done = 0;
			ring->cut_done = 0;
		}
	}
}
