/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which frames are for us: exact addresses, multicast hash, broadcast, promiscuous modes, VLANs (8254x 3.2.1,
 * 82576 7.1.1).
 *
 * Context: under the port's claim. Tables are loaded relaxed, as the driver left them; while it changes an address,
 * which takes two stores, either half may be seen, as with the hardware.
 */
#include "device/intel/intel_receive.h"

static uint32_t address_low(const struct intel_nic *nic, unsigned index)
{
	return intel_load(nic, index < 16 ? RAL0 + 8 * index : RAL16 + 8 * (index - 16));
}

static uint32_t address_high(const struct intel_nic *nic, unsigned index)
{
	return intel_load(nic, (index < 16 ? RAL0 + 8 * index : RAL16 + 8 * (index - 16)) + 4);
}

static bool matches_exactly(const struct intel_nic *nic, const uint8_t *address)
{
	uint32_t low = address[0] | (uint32_t)address[1] << 8 | (uint32_t)address[2] << 16 | (uint32_t)address[3] << 24;
	uint32_t high = address[4] | (uint32_t)address[5] << 8 | RAH_AV;

	for (unsigned i = 0; i < nic->variant->addresses; i++) {
		if (address_low(nic, i) == low && (address_high(nic, i) & (RAH_AV | 0xffff)) == high)
			return true;
	}
	return false;
}

/* Twelve of the sixteen last bits of the address, which twelve is said by RCTL.MO, are an index into 4096 bits. */
static bool matches_hash(const struct intel_nic *nic, uint32_t control, const uint8_t *address)
{
	static const uint8_t shifts[4] = { 4, 3, 2, 0 };
	uint32_t hash = (uint32_t)(address[4] | address[5] << 8) >> shifts[control >> RCTL_MO_SHIFT & 3] & 0xfff;

	return intel_load(nic, MTA + 4 * (hash >> 5)) >> (hash & 31) & 1;
}

bool intel_filter_accepts(const struct intel_nic *nic, const uint8_t *destination, int vlan)
{
	uint32_t control = intel_load(nic, RCTL);

	if (unlikely(control & RCTL_VFE && vlan >= 0 &&
		     !(intel_load(nic, VFTA + 4 * ((unsigned)vlan >> 5)) >> (vlan & 31) & 1)))
		return false;
	if (likely(!(destination[0] & 1)))
		return control & RCTL_UPE || matches_exactly(nic, destination);
	if (control & RCTL_BAM && !memcmp(destination, "\xff\xff\xff\xff\xff\xff", 6))
		return true;
	return control & RCTL_MPE || matches_hash(nic, control, destination) || matches_exactly(nic, destination);
}
