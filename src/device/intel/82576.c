/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 82576 (igb): 16 queues each way, MSI-X with a vector per queue, RSS; what is different from the others.
 *
 * Pages 1, 2, 3, 0xc and 0xe are offered for mapping: interrupt registers (EICS to EIAM, EICR, EITR, IVAR, GPIE), and
 * the registers of rings. The PHY is the one inside (IGP3), with copper; NVM words are read by EERD.
 *
 * Not there: virtual functions and VMDq (their registers remember, MRQC's modes for them mean "one queue"), header
 * splitting, timestamps of packets (SYSTIM counts), filters beyond addresses and VLANs, IPsec.
 */
#include "base/clock.h"
#include "device/intel/intel_internal.h"

/* SYSTIM (8.16): INCVALUE is added every INCPERIOD times 16 ns. Reading the lower half latches the upper one. */
static uint32_t read_time(struct intel_nic *nic, uint32_t offset)
{
	uint32_t increment = intel_load(nic, TIMINCA), period = increment >> 24;
	uint64_t now;

	if (offset == SYSTIMH)
		return intel_load(nic, SYSTIMH);
	now = (clock_nanoseconds() - nic->reset_at) / 16 / (period ? period : 1) * (increment & 0xffffff);
	intel_store(nic, SYSTIMH, (uint32_t)(now >> 32));
	return (uint32_t)now;
}

static const struct intel_register registers[] = {
	{ 0x0c00, 0x0cfc, UINT32_MAX }, /* mailboxes of virtual functions that there are not */
	{ 0x0e04, 0x0e14, UINT32_MAX }, /* MDI configuration */
	{ 0x4200, 0x42fc, UINT32_MAX }, /* PCS: not used with copper */
	{ 0x8100, 0x81fc, UINT32_MAX },
	{ 0xa000, 0xa1fc, UINT32_MAX }, /* UTA */
	{ SYSTIML, SYSTIMH, UINT32_MAX, read_time },
	{ TIMINCA, 0xb6fc, UINT32_MAX },
};

static const struct intel_default defaults[] = {
	{ CTRL, 0x00000261 },
	{ VET, VET_DEFAULT },
	{ TIPG, 0x00601008 },
	{ LEDCTL, 0x07068302 },
	{ RLPML, 0x2600 },
	{ EEMNGCTL, EEMNGCTL_CFG_DONE },
	{ 0x2404, 64 }, /* RXPBS, TXPBS: KiB */
	{ 0x3404, 40 },
	{ RING_RECEIVE + RING_CONTROL, RING_CONTROL_ENABLE },
	{ RING_TRANSMIT + RING_CONTROL, RING_CONTROL_ENABLE },
};

static const struct intel_default words[] = {
	{ 0x03, 0x0420 }, { 0x05, 0x2010 }, { 0x08, 0xe437 }, { 0x09, 0x0903 }, { 0x0b, 0xa03c },
	{ 0x0c, 0x8086 }, { 0x0d, 0x10c9 }, { 0x0e, 0x8086 }, { 0x0f, 0x70c3 }, { 0x37, 0xffff },
};

static const struct intel_default phy[] = {
	{ 17, 0xc400 }, /* port status: 1000 Mbit/s, link */
};

static const struct pci_device_ops ops = INTEL_OPS("igb");

const struct intel_variant intel_82576 = {
	.generation = INTEL_82576,
	.ops = &ops,
	.identity = {
		.vendor = 0x8086, .device = 0x10c9, .subsystem_vendor = 0x8086, .subsystem = 0xa03c, .revision = 1,
		.class_code = 2, .express = true, .pin = true, .msi = true,
		.msix_count = 10, .msix_bar = 3, .msix_table = 0, .msix_pending = 0x2000,
	},
	.bars = {
		[0] = {
			.size = INTEL_BAR_SIZE, .window_count = 3,
			.windows = { { 0x1000, 0x3000 }, { 0xc000, 0x1000 }, { 0xe000, 0x1000 } },
		},
		[2] = { .size = 0x20, .io = true },
		[3] = { .size = INTEL_VECTOR_BAR },
	},
	.io_bar = 2,
	.queues = 16,
	.vectors = INTEL_VECTORS_MAX,
	.addresses = 24,
	.frame_max = 0x2600,
	.registers = registers,
	.register_count = array_size(registers),
	.defaults = defaults,
	.default_count = array_size(defaults),
	.eecd = 0x2300, /* present, read, 1024 words */
	.eerd_start = 0, .eerd_done = 1, .eerd_shift = 2,
	.words = words,
	.word_count = array_size(words),
	.phy_id = 0x02a80391,
	.phy = phy,
	.phy_count = array_size(phy),
};
