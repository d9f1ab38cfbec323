/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device's interrupts: MSI-X vectors, one MSI vector, or the pin.
 *
 * Theory of operation
 * -------------------
 * The VMM gives an eventfd for each vector and takes it away again, on the control thread; sidecores signal them meanwhile.
 * So each vector has one descriptor *number* for the life of the device, and the control thread exchanges the file behind
 * it (dup3): a signal goes to the old file or to the new one, never to a stranger's. A vector without a file of the VMM's has
 * one that nobody reads.
 *
 * Masks of MSI-X vectors are the VMM's affair: it holds back a masked vector, and we never learn of it.
 *
 * The pin is a level. Its state is one word, {asserted, masked, disabled}, changed by compare-and-swap: raising an unmasked
 * pin masks it and signals, once; unmasking one that is still raised signals again. The VMM unmasks by message, or by an
 * eventfd of its own that the control thread watches. The guest disables it by its command register (pci_device_config_write()).
 *
 * Which of the three is in use: whichever the VMM has enabled last; when that is disabled, another one that still has files,
 * else none. A pin that gets a file is unmasked by that.
 */
#ifndef DEVICE_PCI_PCI_INTERRUPT_H
#define DEVICE_PCI_PCI_INTERRUPT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PCI_VECTORS_MAX 257U

struct notifier;

enum pci_interrupt_kind {
	PCI_INTERRUPT_PIN, /* in the order of vfio's indices: VFIO_PCI_INTX_IRQ_INDEX ... */
	PCI_INTERRUPT_MSI,
	PCI_INTERRUPT_MSIX,
	PCI_INTERRUPT_KINDS,
	PCI_INTERRUPT_NONE = PCI_INTERRUPT_KINDS,
};

struct pci_interrupts {
	uint16_t counts[PCI_INTERRUPT_KINDS]; /* vectors of each kind that the device has */
	int *fds[PCI_INTERRUPT_KINDS];	      /* constant numbers; see above */
	bool *given[PCI_INTERRUPT_KINDS];     /* control thread: the VMM has given a file */
	int nobody;			      /* what stands in for files that were not given */
	struct notifier *notifier;	      /* the control thread's; set before files are given (pci_device_init()) */
	atomic_uchar kind;		      /* enum pci_interrupt_kind in use */
	atomic_uint pin;		      /* see pci_interrupt.c */
	_Atomic uint64_t signals;	      /* eventfds signalled, for status */
};

/** pci_interrupts_init() - Return: 0; -ENOMEM; errno of eventfd(), fcntl(); nothing is left behind then. */
int pci_interrupts_init(struct pci_interrupts *interrupts, const uint16_t counts[PCI_INTERRUPT_KINDS]);
void pci_interrupts_release(struct pci_interrupts *interrupts);

/**
 * pci_interrupts_set() - control thread: the VMM gives @fd for a vector, or takes it away (-1). @fd stays the caller's, and is
 * an eventfd (file_is_eventfd()); @vector is one that there is: both checked by the caller. -1 while no kind is in use
 * enables the kind, too. Return: 0 or errno of dup3().
 */
int pci_interrupts_set(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind, unsigned vector, int fd);

/** pci_interrupts_disable() - control thread: take away all files of a kind. */
void pci_interrupts_disable(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind);

static inline enum pci_interrupt_kind pci_interrupts_kind(const struct pci_interrupts *interrupts)
{
	return (enum pci_interrupt_kind)atomic_load_explicit(&interrupts->kind, memory_order_relaxed);
}

/**
 * pci_interrupt_message() - any thread: signal an MSI-X vector, or MSI when that is in use. Vectors that are not there are
 * passed over. @notifier: the calling thread's own (sidecore_notifier(), engine_notifier()).
 */
void pci_interrupt_message(struct pci_interrupts *interrupts, unsigned vector, struct notifier *notifier);

/** pci_interrupt_pin() - any thread: set the level of the pin. Several threads must agree among themselves on the level. */
void pci_interrupt_pin(struct pci_interrupts *interrupts, bool asserted, struct notifier *notifier);

/** pci_interrupt_pin_mask(), _unmask() - control thread, for the VMM. */
void pci_interrupt_pin_mask(struct pci_interrupts *interrupts);
void pci_interrupt_pin_unmask(struct pci_interrupts *interrupts, struct notifier *notifier);

/** pci_interrupt_pin_disable() - control thread: the guest's command register says so. */
void pci_interrupt_pin_disable(struct pci_interrupts *interrupts, bool disabled, struct notifier *notifier);

/**
 * pci_interrupts_restore() - control thread, while nobody raises anything: go on where another device's interrupts were:
 * @kind in use, @pin as pci_interrupts_pin_word() said. The files have been given. Signals nothing.
 */
void pci_interrupts_restore(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind, unsigned pin);
unsigned pci_interrupts_pin_word(const struct pci_interrupts *interrupts);
bool pci_interrupt_pin_asserted(const struct pci_interrupts *interrupts);

#endif
