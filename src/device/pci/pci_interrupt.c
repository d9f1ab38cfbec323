/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interrupts of a PCI device. Theory of operation: device/pci/pci_interrupt.h; here are the proofs.
 *
 * A signal never reaches a stranger
 * ---------------------------------
 * A sidecore signals a descriptor *number* (notifier_signal()), and the kernel looks up its file once, inside that
 * system call. dup3() exchanges the file behind a number that is open without ever leaving it closed, so that no other
 * file of the process can take the number in between: the look-up finds the old file or the new one. Numbers are closed
 * by pci_interrupts_release() only, when nobody signals any more. The old file is an eventfd: closing it waits for
 * nobody.
 *
 * The pin
 * -------
 * One word of three bits: ASSERTED by the device, MASKED by the VMM or by a signal that it has not answered yet,
 * DISABLED by the guest's command register (PCI Local Bus 3.0 6.2.2). Each change is a compare-and-swap whose new value
 * is settled: asserted, and neither masked nor disabled, becomes masked, and whoever made that change signals. So
 *
 *  - between two unmaskings there is one signal at most, whatever many threads do: only one compare-and-swap sets
 * MASKED;
 *  - no level is lost: the word's changes have one order, and after each of them it holds that an asserted pin is
 * masked or disabled. Who takes that away (unmask, enable) settles the word again, and signals because it is asserted.
 * A change is made even when it changes nothing: a plain load might return the value before another thread's change,
 * and the read-modify-write cannot.
 *
 * The signal follows its change. Lowering the pin meanwhile makes it a needless one, which drivers of level interrupts
 * expect.
 *
 * Orders: the compare-and-swaps are seq_cst, so that what a thread stored before it raised the pin is seen by the
 * thread that finds it raised. @kind: the control thread stores it before it settles the word (pci_interrupts_set()); a
 * sidecore changes the word before it loads @kind. If the sidecore's change comes first, the control thread finds the
 * pin asserted, and signals; else the sidecore's read-modify-write has read what the control thread wrote after it had
 * stored @kind, and loads it. Signals of messages need no such order: a guest that changes the kind of its interrupts
 * polls its device afterwards, or the driver is broken on hardware, too.
 */
#include "device/pci/pci_interrupt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/notifier.h"

#define PIN_ASSERTED 1U
#define PIN_MASKED   2U
#define PIN_DISABLED 4U

/* ---- making and freeing ------------------------------------------------------------------------------------------ */

static int init_kind(struct pci_interrupts *interrupts, unsigned kind)
{
	unsigned count = interrupts->counts[kind];

	if (!count)
		return 0;
	interrupts->fds[kind] = malloc(count * sizeof(*interrupts->fds[kind]));
	interrupts->given[kind] = calloc(count, sizeof(*interrupts->given[kind]));
	if (!interrupts->fds[kind] || !interrupts->given[kind])
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++)
		interrupts->fds[kind][i] = -1;
	for (unsigned i = 0; i < count; i++) {
		interrupts->fds[kind][i] = fcntl(interrupts->nobody, F_DUPFD_CLOEXEC, 0);
		if (interrupts->fds[kind][i] < 0)
			return -errno;
	}
	return 0;
}

int pci_interrupts_init(struct pci_interrupts *interrupts, const uint16_t counts[PCI_INTERRUPT_KINDS])
{
	int error = 0;

	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++) {
		interrupts->counts[kind] = counts[kind];
		interrupts->fds[kind] = NULL;
		interrupts->given[kind] = NULL;
	}
	atomic_store(&interrupts->kind, PCI_INTERRUPT_NONE);
	atomic_store(&interrupts->pin, 0);
	atomic_store(&interrupts->signals, 0);
	interrupts->nobody = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (interrupts->nobody < 0)
		error = -errno;
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS && !error; kind++)
		error = init_kind(interrupts, kind);
	if (error)
		pci_interrupts_release(interrupts);
	return error;
}

void pci_interrupts_release(struct pci_interrupts *interrupts)
{
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++) {
		for (unsigned i = 0; interrupts->fds[kind] && i < interrupts->counts[kind]; i++) {
			if (interrupts->fds[kind][i] >= 0)
				close(interrupts->fds[kind][i]);
		}
		free(interrupts->fds[kind]);
		free(interrupts->given[kind]);
		interrupts->fds[kind] = NULL;
		interrupts->given[kind] = NULL;
	}
	if (interrupts->nobody >= 0)
		close(interrupts->nobody);
	interrupts->nobody = -1;
}

/* ---- signals ----------------------------------------------------------------------------------------------------- */

static void signal_vector(struct pci_interrupts *interrupts, unsigned kind, unsigned vector, struct notifier *notifier)
{
	if (likely(!notifier_signal(notifier, interrupts->fds[kind][vector])))
		atomic_fetch_add_explicit(&interrupts->signals, 1, memory_order_relaxed);
}

void pci_interrupt_message(struct pci_interrupts *interrupts, unsigned vector, struct notifier *notifier)
{
	enum pci_interrupt_kind kind = pci_interrupts_kind(interrupts);

	if (kind != PCI_INTERRUPT_MSIX && kind != PCI_INTERRUPT_MSI)
		return;
	if (likely(vector < interrupts->counts[kind]))
		signal_vector(interrupts, kind, vector, notifier);
}

/* The one way in which the pin's word changes; see "The pin". */
static void change_pin(struct pci_interrupts *interrupts, unsigned set, unsigned clear, struct notifier *notifier)
{
	unsigned before = atomic_load_explicit(&interrupts->pin, memory_order_relaxed), after;
	bool raise;

	do {
		after = (before & ~clear) | set;
		raise = after == PIN_ASSERTED;
		if (raise)
			after |= PIN_MASKED;
	} while (!atomic_compare_exchange_weak(&interrupts->pin, &before, after));

	if (raise && pci_interrupts_kind(interrupts) == PCI_INTERRUPT_PIN)
		signal_vector(interrupts, PCI_INTERRUPT_PIN, 0, notifier);
}

void pci_interrupt_pin(struct pci_interrupts *interrupts, bool asserted, struct notifier *notifier)
{
	change_pin(interrupts, asserted ? PIN_ASSERTED : 0, asserted ? 0 : PIN_ASSERTED, notifier);
}

void pci_interrupt_pin_mask(struct pci_interrupts *interrupts)
{
	change_pin(interrupts, PIN_MASKED, 0, NULL);
}

void pci_interrupt_pin_unmask(struct pci_interrupts *interrupts, struct notifier *notifier)
{
	change_pin(interrupts, 0, PIN_MASKED, notifier);
}

void pci_interrupt_pin_disable(struct pci_interrupts *interrupts, bool disabled, struct notifier *notifier)
{
	change_pin(interrupts, disabled ? PIN_DISABLED : 0, disabled ? 0 : PIN_DISABLED, notifier);
}

bool pci_interrupt_pin_asserted(const struct pci_interrupts *interrupts)
{
	return atomic_load_explicit(&interrupts->pin, memory_order_relaxed) & PIN_ASSERTED;
}

/* ---- the VMM's files --------------------------------------------------------------------------------------------- */

static bool any_given(const struct pci_interrupts *interrupts, unsigned kind)
{
	for (unsigned i = 0; i < interrupts->counts[kind]; i++) {
		if (interrupts->given[kind][i])
			return true;
	}
	return false;
}

int pci_interrupts_set(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind, unsigned vector, int fd)
{
	int from = fd >= 0 ? fd : interrupts->nobody;

	if (dup3(from, interrupts->fds[kind][vector], O_CLOEXEC) < 0)
		return -errno;
	interrupts->given[kind][vector] = fd >= 0;
	/* Vectors are enabled one by one, and the first message may bring none: it enables the kind nevertheless. */
	if (fd >= 0 || pci_interrupts_kind(interrupts) == PCI_INTERRUPT_NONE)
		atomic_store_explicit(&interrupts->kind, (unsigned char)kind, memory_order_relaxed);
	/* After the store of the kind; see "Orders". */
	if (kind == PCI_INTERRUPT_PIN && fd >= 0)
		pci_interrupt_pin_unmask(interrupts, interrupts->notifier);
	return 0;
}

void pci_interrupts_disable(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind)
{
	enum pci_interrupt_kind left = PCI_INTERRUPT_NONE;

	for (unsigned i = 0; i < interrupts->counts[kind]; i++) {
		/* Cannot fail: both are open. */
		dup3(interrupts->nobody, interrupts->fds[kind][i], O_CLOEXEC);
		interrupts->given[kind][i] = false;
	}
	if (pci_interrupts_kind(interrupts) != kind)
		return;
	for (unsigned other = 0; other < PCI_INTERRUPT_KINDS; other++) {
		if (any_given(interrupts, other))
			left = (enum pci_interrupt_kind)other;
	}
	atomic_store_explicit(&interrupts->kind, (unsigned char)left, memory_order_relaxed);
	if (left == PCI_INTERRUPT_PIN)
		pci_interrupt_pin_unmask(interrupts, interrupts->notifier);
}

void pci_interrupts_restore(struct pci_interrupts *interrupts, enum pci_interrupt_kind kind, unsigned pin)
{
	atomic_store(&interrupts->kind, (unsigned char)kind);
	atomic_store(&interrupts->pin, pin & (PIN_ASSERTED | PIN_MASKED | PIN_DISABLED));
}

unsigned pci_interrupts_pin_word(const struct pci_interrupts *interrupts)
{
	return atomic_load(&interrupts->pin);
}
