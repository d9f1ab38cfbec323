/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ICR, IMS, IMC and ICS: the interrupt registers that trap, on all models. Theory of operation: intel_interrupt.c.
 *
 * Context: control thread.
 */
#include "device/intel/intel_interrupt.h"

/*
 * ICR is cleared by a read when the mask is empty or the interrupt was asserted (or GPIE.NSICR says so), else it stays
 * as it is (82574 10.2.4.1, 82576 8.8.9): a driver that shares the pin and asks in vain must not lose what comes next.
 * The 8254x clears always. With the interrupt asserted, IAM masks.
 */
uint32_t intel_icr_read(struct intel_nic *nic, uint32_t offset)
{
	struct intel_when when = intel_when_control(nic);
	enum intel_generation generation = nic->variant->generation;
	bool always =
		generation == INTEL_8254X || (generation == INTEL_82576 && intel_page_load(nic, GPIE) & GPIE_NSICR);
	bool masks =
		generation == INTEL_82576 || (generation == INTEL_82574 && intel_load(nic, CTRL_EXT) & CTRL_EXT_IAME);
	uint64_t word = atomic_load(&nic->interrupts.legacy);
	uint32_t causes, mask;

	do {
		causes = causes_of(word);
		mask = mask_of(word);
		if (masks && (causes & ICR_INT_ASSERTED || always))
			mask &= ~intel_load(nic, IAM);
		if (always || !mask_of(word) || causes & ICR_INT_ASSERTED)
			causes = 0;
	} while (!atomic_compare_exchange_weak(&nic->interrupts.legacy, &word, word_of(causes, mask)));
	intel_line_answered(nic, &when);
	return causes_of(word);
}

enum pci_result intel_icr_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_when when = intel_when_control(nic);

	/* What is left is asserted anew: a message for it has gone, and was answered with this write. */
	atomic_fetch_and(&nic->interrupts.legacy, ~word_of(value | ICR_INT_ASSERTED, 0));
	intel_line_answered(nic, &when);
	return PCI_DONE;
}

uint32_t intel_ims_read(struct intel_nic *nic, uint32_t offset)
{
	return mask_of(atomic_load(&nic->interrupts.legacy));
}

enum pci_result intel_ims_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_when when = intel_when_control(nic);
	enum intel_way way = intel_way_out(nic);
	uint64_t word = atomic_fetch_or(&nic->interrupts.legacy, word_of(0, value & ~ICR_INT_ASSERTED));

	switch (way) {
	case WAY_LINE:
		intel_line_update(nic, &when, 0);
		break;
	case WAY_82574:
		if (causes_of(word) & value & ~CAUSES_82574 & ~ICR_INT_ASSERTED)
			intel_vectors_raise(nic, &when, way, ICR_OTHER, 0);
		intel_vectors_fire(nic, &when, way, value & CAUSES_82574, 0);
		break;
	case WAY_82576:
		if (causes_of(word) & value & ~ICR_INT_ASSERTED)
			intel_vectors_raise(nic, &when, way, intel_vector_of_other(nic), 0);
		break;
	}
	return PCI_DONE;
}

enum pci_result intel_imc_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_when when = intel_when_control(nic);

	atomic_fetch_and(&nic->interrupts.legacy, ~word_of(0, value));
	if (intel_way_out(nic) == WAY_LINE)
		intel_line_update(nic, &when, 0);
	return PCI_DONE;
}

enum pci_result intel_ics_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_when when = intel_when_control(nic);

	intel_raise(nic, &when, value);
	return PCI_DONE;
}
