/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The PHY of the Intel network cards, behind MDIC: IEEE 802.3 clause 22 registers 0 to 15, and of the vendor's those
 * that tell of a link (what each variant's table says). 1000 Mbit/s, full duplex, negotiated as soon as it is asked
 * for.
 *
 * Registers above 15 come in pages on these parts (82574: Marvell, 82576: Intel's IGP3). Only page 0 is remembered; on
 * other pages writes are accepted and registers read as on page 0, which is what drivers that tune the analogue side
 * need.
 *
 * Context: control thread.
 */
#include "device/intel/intel_internal.h"

#define MDIC_REGISTER(value) ((value) >> 16 & 31U)
#define MDIC_ADDRESS(value)  ((value) >> 21 & 31U)
#define MDIC_OPCODE(value)   ((value) >> 26 & 3U)
#define MDIC_WRITE	     1U
#define MDIC_READ	     2U
#define MDIC_READY	     (1U << 28)
#define MDIC_INTERRUPT	     (1U << 29)
#define MDIC_ERROR	     (1U << 30)
#define ICR_MDAC	     (1U << 9)

#define PHY_ADDRESS 1U

/* IEEE 802.3 22.2.4, 40.5 */
#define PHY_CONTROL	    0U
#define CONTROL_RESTART	    (1U << 9)
#define CONTROL_LOOPBACK    (1U << 14)
#define CONTROL_RESET	    (1U << 15)
#define PHY_STATUS	    1U
#define STATUS_LINK	    (1U << 2)
#define STATUS_NEGOTIATED   (1U << 5)
#define PHY_IDENTIFIER_1    2U
#define PHY_IDENTIFIER_2    3U
#define PHY_PARTNER	    5U
#define PHY_EXPANSION	    6U
#define PHY_1000T_STATUS    10U
#define PHY_EXTENDED_STATUS 15U
#define PHY_SPECIFIC_STATUS 17U

void intel_phy_reset(struct intel_nic *nic)
{
	memset(nic->phy, 0, sizeof(nic->phy));
	nic->phy[PHY_CONTROL] = 0x1140; /* negotiation, 1000 Mbit/s, full duplex */
	nic->phy[PHY_STATUS] = 0x7949;	/* all of 10 and 100, extended status, can negotiate */
	nic->phy[PHY_IDENTIFIER_1] = (uint16_t)(nic->variant->phy_id >> 16);
	nic->phy[PHY_IDENTIFIER_2] = (uint16_t)nic->variant->phy_id;
	nic->phy[4] = 0x0de1;			/* advertised: 10, 100, pause */
	nic->phy[9] = 0x0e00;			/* and 1000 */
	nic->phy[PHY_EXTENDED_STATUS] = 0x3000; /* 1000BASE-T */
	for (unsigned i = 0; i < nic->variant->phy_count; i++)
		nic->phy[nic->variant->phy[i].offset] = (uint16_t)nic->variant->phy[i].value;
}

bool intel_phy_loopback(const struct intel_nic *nic)
{
	return nic->phy[PHY_CONTROL] & CONTROL_LOOPBACK;
}

uint16_t intel_phy_read(struct intel_nic *nic, unsigned number)
{
	bool link = nic->link || intel_phy_loopback(nic);

	switch (number) {
	case PHY_STATUS:
		return (uint16_t)(nic->phy[number] | (link ? STATUS_LINK | STATUS_NEGOTIATED : 0));
	case PHY_PARTNER: /* has all, and acknowledges */
		return link ? 0xcde1 : 0;
	case PHY_EXPANSION:
		return link ? 0x000f : 0;
	case PHY_1000T_STATUS:
		return link ? 0x7c00 : 0;
	case PHY_SPECIFIC_STATUS: /* speed, duplex, resolved: meaningless without a link, and drivers look at these bits
				   */
		return link ? nic->phy[number] : 0;
	default:
		return nic->phy[number];
	}
}

static void write_control(struct intel_nic *nic, uint16_t value)
{
	struct intel_when when = intel_when_control(nic);
	bool restarted = value & (CONTROL_RESTART | CONTROL_RESET);

	nic->phy[PHY_CONTROL] = (uint16_t)(value & ~(CONTROL_RESTART | CONTROL_RESET));
	atomic_store(&nic->loopback, intel_phy_loopback(nic) || intel_load(nic, RCTL) & RCTL_LBM);
	intel_nic_start(nic);
	if (restarted && nic->link)
		intel_raise(nic, &when, ICR_LSC);
}

enum pci_result intel_mdic_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_when when = intel_when_control(nic);
	unsigned number = MDIC_REGISTER(value);

	value &= ~(MDIC_READY | MDIC_ERROR);
	if (MDIC_ADDRESS(value) != PHY_ADDRESS) {
		value |= MDIC_ERROR;
	} else if (MDIC_OPCODE(value) == MDIC_READ) {
		value = (value & 0xffff0000) | intel_phy_read(nic, number);
	} else if (MDIC_OPCODE(value) == MDIC_WRITE) {
		if (number == PHY_CONTROL)
			write_control(nic, (uint16_t)value);
		else if (number != PHY_STATUS && number != PHY_IDENTIFIER_1 && number != PHY_IDENTIFIER_2 &&
			 number != PHY_PARTNER && number != PHY_1000T_STATUS && number != PHY_SPECIFIC_STATUS)
			nic->phy[number] = (uint16_t)value;
	}
	intel_store(nic, offset, value | MDIC_READY);
	if (value & MDIC_INTERRUPT)
		intel_raise(nic, &when, ICR_MDAC);
	return PCI_DONE;
}
