/* SPDX-License-Identifier: BSD-3-Clause */
/* The registers of one of Intel's network cards for fuzz targets: reached as by a client of vfio-user, and what drivers do with them. */
#ifndef TESTS_FUZZ_INTEL_H
#define TESTS_FUZZ_INTEL_H

#include "device/intel/intel_internal.h"
#include "fuzz_engine.h"

struct fuzz_intel {
	struct fuzz_engine engine;
	struct pci_device *device;
	struct intel_nic *nic;
	bool done; /* the operation has ended */
};

extern struct fuzz_intel card;
extern const struct pci_device_host fuzz_intel_host;

/** fuzz_intel_wait() - until an operation with that @result has ended; card.done was cleared before it. */
void fuzz_intel_wait(enum pci_result result);

/** Accesses as messages: of any form, or of a whole register of BAR 0. */
void fuzz_intel_access(uint8_t bar, uint64_t offset, void *data, uint32_t length, bool write);
void fuzz_intel_write(uint32_t offset, uint32_t value);
uint32_t fuzz_intel_read(uint32_t offset);

/** Steps: any access; a store into a mapped page; a register that does something, with a value that may mean something. */
void fuzz_intel_any_access(struct fuzz_input *input);
void fuzz_intel_store(struct fuzz_input *input);
void fuzz_intel_write_interesting(struct fuzz_input *input);

/** Steps: what drivers set up. Vectors, moderation and masks; RSS; filters, the PHY, the EEPROM; files for vectors, and the pin. */
void fuzz_intel_set_interrupts(struct fuzz_input *input);
void fuzz_intel_set_hash(struct fuzz_input *input);
void fuzz_intel_set_filters(struct fuzz_input *input);
void fuzz_intel_set_vectors(struct fuzz_input *input);

#endif
