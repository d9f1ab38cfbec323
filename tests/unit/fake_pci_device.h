/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A PCI device that does little but remember what it was asked. Runs on the fake engine.
 *
 * BAR 0: 16 KiB; registers are memory, but for those below; the second page is a window. BAR 2: 32 bytes of ports.
 * BAR 4: 4 KiB for the MSI-X table, 64-bit.
 */
#ifndef TESTS_FAKE_PCI_DEVICE_H
#define TESTS_FAKE_PCI_DEVICE_H

#include "device/pci/pci_device.h"

#define FAKE_PCI_BAR	 0x4000U
#define FAKE_PCI_PORTS	 32U
#define FAKE_PCI_WINDOW	 0x1000U
#define FAKE_PCI_VECTORS 4U

/* Registers of BAR 0. */
#define FAKE_PCI_DEFER 0x20U /* a write is deferred: until fake_pci_device_finish() */
#define FAKE_PCI_RAISE 0x24U /* raises vectors 0 to 31, a bit each */
#define FAKE_PCI_PIN   0x28U /* sets the pin's level */

struct fake_pci_device {
	struct pci_device device;
	struct pci_device_ops ops;
	uint8_t registers[FAKE_PCI_BAR], ports[FAKE_PCI_PORTS];
	bool defer_pause, defer_reset; /* operations wait for fake_pci_device_finish() */
	bool resting, waiting;	       /* paused; an operation has been deferred and not finished */
	unsigned pauses, resumes, resets, commands, doorbells, reads, writes;
	uint32_t last_doorbell;
	uint32_t order[64];		   /* values of writes, the first ones */
	const struct guest_memory *memory; /* at the last resume */
};

/** fake_pci_device_init() - @engine: the fake one, or another for programs that have one. */
void fake_pci_device_init(struct fake_pci_device *fake, struct engine *engine);
void fake_pci_device_release(struct fake_pci_device *fake);

/** fake_pci_device_finish() - what was deferred is done. */
void fake_pci_device_finish(struct fake_pci_device *fake);

#endif
