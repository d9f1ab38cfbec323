/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receive coalescing: several segments of TCP as one frame, longer than the driver's MTU, spread over descriptors.
 *
 * Theory of operation
 * -------------------
 * No such card does this, and no driver of it knows: what is delivered is a jumbo frame that nobody announced. It
 * saves the receiver, and us, what single packets cost, and is off unless options.coalescing says that the
 * guest's driver takes it. The switch, which has a TCP segment of 64 KiB for us, asks how much of it may go as one
 * packet (intel_coalesce_max()), and cuts it into such (net/segment.c); they are received in the general way
 * (intel_receive.c), which knows them by frame->coalesced. All other frames keep to the limits that they had.
 *
 * *Which drivers.* Those that were read (docs/receive-coalescing.md has the list): Linux's igb chains descriptors up
 * to the one with EOP whatever the MTU is. Linux's e1000e and, at its default MTU, e1000 throw such frames away, so
 * only the 82576 has this. DPDK's igb driver, unless it scatters, takes each descriptor for a packet; others set no
 * LPE at an MTU of 1500. So frames are coalesced only for a receiver that is set up as Linux's is: RCTL.LPE, advanced
 * descriptors with one buffer, and a size for header buffers (SRRCTL.BSIZEHEADER) although there are none, which no
 * other of them writes. Whoever sets it up otherwise gets frames cut, as without this.
 *
 * *How much of a buffer.* Where RLPML, the longest frame, is less than SRRCTL.BSIZEPACKET, the driver counts on the
 * rest of each buffer not being written: Linux's says 2048, and has put less than 1700 bytes there, in front of what
 * is somebody else's. So each buffer gets the smaller of the two.
 *
 * *How many descriptors.* Linux makes a fragment of each without counting; a packet has room for 17 (MAX_SKB_FRAGS).
 * INTEL_COALESCE_DESCRIPTORS is less, whatever lengths are. When the driver has given fewer, packets are shorter: they
 * never need more than there are now, so a ring that is small, or nearly empty, takes what it would take without this.
 *
 * *For whom.* A guest that passes frames on cannot do so with these: they are longer than the MTU on the other side.
 * So they are only for frames to the card's own address (RAL 0), while it is not promiscuous: a bridge makes it so,
 * further addresses are of virtual interfaces. A guest that routes is not told from others, and must not have this
 * configured.
 *
 * Invariants
 * - A coalesced frame fills at most INTEL_COALESCE_DESCRIPTORS descriptors, each with no more bytes than the longest
 *   frame that the driver has allowed.
 *
 * Context: under the claim of the port.
 */
#include "device/intel/intel_receive.h"

#define DESCRIPTOR_ONE_BUFFER 1U /* SRRCTL.DESCTYPE */

/* Is the receiver set up in the one way that is known to take such frames? */
static bool is_known(const struct intel_nic *nic, const struct intel_ring *ring)
{
	uint32_t control = intel_page_load(nic, ring->registers + RING_SRRCTL);

	return (control >> SRRCTL_DESCTYPE_SHIFT & 7) == DESCRIPTOR_ONE_BUFFER && control & SRRCTL_BSIZEHEADER;
}

static bool is_own_address(const struct intel_nic *nic, const uint8_t *address)
{
	uint32_t low = intel_load(nic, RAL0), high = intel_load(nic, RAL0 + 4);

	return high & RAH_AV &&
	       low == (address[0] | (uint32_t)address[1] << 8 | (uint32_t)address[2] << 16 |
		       (uint32_t)address[3] << 24) &&
	       (high & 0xffff) == (address[4] | (uint32_t)address[5] << 8);
}

/* The queue that packets of @frame go to, as receive_frame() will find. */
static unsigned queue_of(struct intel_nic *nic, const struct intel_terms *terms, const struct frame *frame)
{
	struct intel_report report = { 0 };
	struct frame untagged;

	if (terms->strips_tags && intel_tag_of(terms, frame) >= 0) {
		untagged = *frame;
		frame_remove_tag(&untagged);
		frame = &untagged;
	}
	return intel_describe(nic, terms, frame, &report);
}

uint32_t intel_coalesce_room(const struct intel_nic *nic, const struct intel_terms *terms,
			     const struct intel_ring *ring)
{
	if (!nic->coalescing || !(terms->control & RCTL_LPE) || ring->form != INTEL_RECEIVE_ADVANCED ||
	    !is_known(nic, ring))
		return 0;
	return min(ring->buffer_sizes[0], terms->length_max[0] + terms->check_sequence);
}

uint32_t intel_coalesce_max(struct port *port, const struct frame *frame, const struct turn *turn)
{
	struct intel_nic *nic = container_of(port, struct intel_nic, port);
	struct intel_terms terms;
	struct intel_ring *ring;
	uint32_t available, room;
	unsigned queue;

	if (likely(!nic->coalescing) || !atomic_load_explicit(&nic->receiving, memory_order_acquire) ||
	    intel_faulted(nic))
		return 0;
	intel_terms_load(nic, &terms);
	if (terms.control & RCTL_UPE || !is_own_address(nic, frame->header))
		return 0;
	queue = queue_of(nic, &terms, frame);
	ring = &nic->receive[queue];
	if (!intel_receive_available(nic, queue, INTEL_COALESCE_DESCRIPTORS, &available))
		return 0;
	room = intel_coalesce_room(nic, &terms, ring) * min(available, INTEL_COALESCE_DESCRIPTORS);
	return room > terms.check_sequence ? room - terms.check_sequence : 0;
}
