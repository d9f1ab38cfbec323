/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 82574L (e1000e): two queues each way, MSI-X with five vectors, MSI, pin; what is different from the others.
 *
 * Pages 2 and 3, of ring registers, are offered for mapping (unless options.posted): a packet costs no message, an
 * interrupt one, since IMS, which re-arms, shares a page with registers that must trap.
 */
#include "device/intel/intel_internal.h"

static const struct intel_register registers[] = {
	{ EIAC_82574, EIAC_82574, 0x01f00000 },
	{ IVAR_82574, IVAR_82574, UINT32_MAX },
	{ EITR_82574, EITR_82574 + 16, 0xffff },
	{ PBA, 0x10fc, UINT32_MAX },
	{ VET, VET, 0xffff },
	{ 0x8100, 0x81fc, UINT32_MAX },
	{ TIMINCA - 8, 0xb6fc, UINT32_MAX },
};

static const struct intel_default defaults[] = {
	{ CTRL, 0x00000261 },	{ VET, VET_DEFAULT }, { TIPG, 0x00602008 },
	{ LEDCTL, 0x07061302 }, { PBA, 0x00140014 },  { EEMNGCTL, EEMNGCTL_CFG_DONE },
};

static const struct intel_default words[] = {
	{ 0x03, 0x0420 }, { 0x05, 0x2010 }, { 0x08, 0xe946 }, { 0x09, 0x6903 }, { 0x0b, 0xa01f },
	{ 0x0c, 0x8086 }, { 0x0d, 0x10d3 }, { 0x0e, 0x8086 }, { 0x0f, 0x58c0 }, { 0x37, 0xffff },
};

static const struct intel_default phy[] = {
	{ 16, 0x0060 }, { 17, 0xac0c }, /* 1000 Mbit/s, full duplex, resolved, link */
};

static const struct pci_device_ops ops = INTEL_OPS("e1000e");

const struct intel_variant intel_82574 = {
	.generation = INTEL_82574,
	.ops = &ops,
	.identity = {
		.vendor = 0x8086, .device = 0x10d3, .subsystem_vendor = 0x8086, .subsystem = 0xa01f,
		.class_code = 2, .express = true, .pin = true, .msi = true,
		.msix_count = 5, .msix_bar = 3, .msix_table = 0, .msix_pending = 0x2000,
	},
	.bars = {
		[0] = { .size = INTEL_BAR_SIZE, .window_count = 1, .windows = { { 0x2000, 0x2000 } } },
		[2] = { .size = 0x20, .io = true },
		[3] = { .size = INTEL_VECTOR_BAR },
	},
	.io_bar = 2,
	.queues = 2,
	.vectors = 5,
	.addresses = 16,
	.frame_max = 16384,
	.registers = registers,
	.register_count = array_size(registers),
	.defaults = defaults,
	.default_count = array_size(defaults),
	.eecd = 0x2300, /* present, read, 1024 words */
	.eerd_start = 0, .eerd_done = 1, .eerd_shift = 2,
	.words = words,
	.word_count = array_size(words),
	.phy_id = 0x01410cb1,
	.phy = phy,
	.phy_count = array_size(phy),
};
