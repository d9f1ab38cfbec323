/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PCI configuration space: made from a description, with a mask of what a guest can write (PCI Local Bus 3.0 6,
 * PCI Express Base 7). Access is (offset, length) against one table of sizes; nothing else interprets it.
 *
 * Context: control thread.
 */
#ifndef DEVICE_PCI_PCI_CONFIG_H
#define DEVICE_PCI_PCI_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define PCI_CONFIG_SIZE		256U
#define PCI_EXPRESS_CONFIG_SIZE 4096U

struct pci_bar;

/** struct pci_identity - what the model is; constant. */
struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint8_t class_code, subclass, programming_interface;
	bool express;	    /* PCI Express endpoint capability, with function level reset */
	bool pin;	    /* INTA# */
	bool msi;	    /* one vector, 64-bit address */
	uint16_t msix_count; /* vectors; 0: no MSI-X */
	uint8_t msix_bar;    /* table and pending bits lie in a BAR of their own, which the VMM serves or we do as memory */
	uint32_t msix_table, msix_pending; /* offsets in it */
	uint64_t serial_number; /* PCI Express device serial number capability; 0: none */
};

struct pci_config {
	struct pci_identity identity;
	uint32_t size; /* PCI_CONFIG_SIZE or PCI_EXPRESS_CONFIG_SIZE */
	uint8_t space[PCI_EXPRESS_CONFIG_SIZE];
	uint8_t writable[PCI_EXPRESS_CONFIG_SIZE]; /* mask */
	bool function_reset;			   /* asked for by the guest, and not taken yet */
};

/** pci_config_init() - build the space from identity and BARs. pci_config_reset(): every writable bit to its default. */
void pci_config_init(struct pci_config *config, const struct pci_bar *bars);
void pci_config_reset(struct pci_config *config);

/** pci_config_read(), pci_config_write() - [@offset, +@length) is inside config->size: checked by the caller. */
void pci_config_read(const struct pci_config *config, uint32_t offset, void *to, uint32_t length);
void pci_config_write(struct pci_config *config, uint32_t offset, const void *from, uint32_t length);

/** pci_config_take_function_reset() - has the guest asked for a function level reset since the last call? */
bool pci_config_take_function_reset(struct pci_config *config);

/** pci_config_set_interrupt_status() - the status register shows the level of the pin. */
void pci_config_set_interrupt_status(struct pci_config *config, bool asserted);

/** What the command register allows now. */
bool pci_config_bus_master(const struct pci_config *config);
bool pci_config_pin_disabled(const struct pci_config *config);
/** pci_config_power_state() - 0 to 3: D0 to D3hot (PCI Power Management 3.2.4). */
unsigned pci_config_power_state(const struct pci_config *config);

#endif
