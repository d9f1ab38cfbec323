/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * 82540EM (e1000): one queue each way and the pin; what is different from the others.
 *
 * Unless the operator wants it, nothing is offered for mapping (options.posted): with the pin, a VMM that handles it
 * itself takes mappings away at the first interrupt, and never posts a write again. One whose kernel handles the pin
 * (KVM) keeps them. I/O ports are there, since drivers reset the card by these.
 */
#include "device/intel/intel_internal.h"

static const struct intel_register registers[] = {
	{ PBA, 0x10fc, UINT32_MAX },
	{ VET, VET, 0xffff },
};

static const struct intel_default defaults[] = {
	{ CTRL, 0x00000261 }, { VET, VET_DEFAULT }, { TIPG, 0x00602006 }, { LEDCTL, 0x07061302 }, { PBA, 0x00100030 },
};

static const struct intel_default words[] = {
	{ 0x03, 0x0200 }, { 0x05, 0x1080 }, { 0x08, 0xa786 }, { 0x09, 0x2703 }, { 0x0a, 0x604b }, { 0x0b, 0x001e },
	{ 0x0c, 0x8086 }, { 0x0d, 0x100e }, { 0x0e, 0x8086 }, { 0x0f, 0xb040 }, { 0x10, 0x0008 },
};

static const struct intel_default phy[] = {
	{ 16, 0x0060 }, { 17, 0xac0c }, /* 1000 Mbit/s, full duplex, resolved, link */
};

static const struct pci_device_ops ops = INTEL_OPS("e1000");

const struct intel_variant intel_82540 = {
	.generation = INTEL_8254X,
	.ops = &ops,
	.identity = {
		.vendor = 0x8086, .device = 0x100e, .subsystem_vendor = 0x8086, .subsystem = 0x001e, .revision = 2,
		.class_code = 2, .pin = true,
	},
	.bars = {
		[0] = { .size = INTEL_BAR_SIZE, .window_count = 1, .windows = { { 0x2000, 0x2000 } } },
		[1] = { .size = 0x40, .io = true },
	},
	.io_bar = 1,
	.queues = 1,
	.addresses = 16,
	.frame_max = 16384,
	.registers = registers,
	.register_count = array_size(registers),
	.defaults = defaults,
	.default_count = array_size(defaults),
	.eecd = 0x0100, /* present, 64 words */
	.eerd_start = 0, .eerd_done = 4, .eerd_shift = 8,
	.microwire = true,
	.words = words,
	.word_count = array_size(words),
	.phy_id = 0x01410c20,
	.phy = phy,
	.phy_count = array_size(phy),
};
