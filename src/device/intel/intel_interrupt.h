/* SPDX-License-Identifier: BSD-3-Clause */
/* What intel_interrupt.c and intel_icr.c share. */
#ifndef DEVICE_INTEL_INTEL_INTERRUPT_H
#define DEVICE_INTEL_INTEL_INTERRUPT_H

#include "device/intel/intel_internal.h"

#define CAUSES_82574 (3 * ICR_RXQ0 | 3 * ICR_TXQ0 | ICR_OTHER)

static inline uint32_t causes_of(uint64_t word)
{
	return (uint32_t)word;
}

static inline uint32_t mask_of(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint64_t word_of(uint32_t causes, uint32_t mask)
{
	return causes | (uint64_t)mask << 32;
}

/** enum intel_way - how interrupts leave the card. */
enum intel_way {
	WAY_LINE,
	WAY_82574,
	WAY_82576,
};

enum intel_way intel_way_out(const struct intel_nic *nic);

/** intel_line_update() - causes or mask have changed: assert, or not any more. @spacing: ns that the driver grants */
void intel_line_update(struct intel_nic *nic, const struct intel_when *when, uint64_t spacing);

/** intel_line_answered() - control thread: it has taken INT_ASSERTED away: the pin follows, what is left is asserted
 * again. */
void intel_line_answered(struct intel_nic *nic, const struct intel_when *when);

/** intel_vectors_fire() - of the causes in @try, send those that are pending, not masked and in time. */
void intel_vectors_fire(struct intel_nic *nic, const struct intel_when *when, enum intel_way way, uint32_t try,
			uint64_t spacing);

/** intel_vectors_raise() - causes become pending, and fire if they were not. */
void intel_vectors_raise(struct intel_nic *nic, const struct intel_when *when, enum intel_way way, uint32_t causes,
			 uint64_t spacing);

/** intel_vector_of_other() - the vector for other causes (82576: IVAR_MISC). Return: its bit of EICR; 0: none. */
uint32_t intel_vector_of_other(const struct intel_nic *nic);

#endif
