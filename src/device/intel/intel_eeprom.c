/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The EEPROM of the Intel network cards: words with the MAC address and a checksum, read in one of two ways.
 *
 * Theory of operation
 * -------------------
 * 82574 and 82576: EERD takes an address and has the word at once. 82540EM: the driver moves a Microwire part's lines
 * by EECD (8254x 5.3, 13.4.3; 93C46): it selects the chip, clocks in a start bit, an opcode of two bits and an address
 * of six, and clocks the word out, most significant bit first. Writing is done likewise, and is remembered until the
 * client goes: the next one's guest finds the part as it was made. The words of the 82574 and 82576 cannot be changed by the guest.
 *
 * EECD's request is granted at once: nobody else has the part.
 *
 * Context: control thread.
 */
#include "device/intel/intel_internal.h"

#define EECD_SK	 (1U << 0)
#define EECD_CS	 (1U << 1)
#define EECD_DI	 (1U << 2)
#define EECD_DO	 (1U << 3)
#define EECD_REQ (1U << 6)
#define EECD_GNT (1U << 7)
#define EECD_OWN (EECD_SK | EECD_CS | EECD_DI | EECD_REQ)

#define WORD_CHECKSUM 0x3fU
#define CHECKSUM      0xbabaU

#define MICROWIRE_WORDS	  64U
#define MICROWIRE_COMMAND 9U /* bits: start, opcode, address */

void intel_eeprom_fill(struct intel_nic *nic)
{
	struct intel_eeprom *eeprom = &nic->eeprom;
	uint16_t sum = 0;

	memset(eeprom, 0, sizeof(*eeprom));
	for (unsigned i = 0; i < nic->variant->word_count; i++)
		eeprom->words[nic->variant->words[i].offset] = (uint16_t)nic->variant->words[i].value;
	for (unsigned i = 0; i < 3; i++)
		eeprom->words[i] = (uint16_t)(nic->mac[2 * i] | nic->mac[2 * i + 1] << 8);
	for (unsigned i = 0; i < WORD_CHECKSUM; i++)
		sum = (uint16_t)(sum + eeprom->words[i]);
	eeprom->words[WORD_CHECKSUM] = (uint16_t)(CHECKSUM - sum);
	eeprom->output = true;
}

enum pci_result intel_eerd_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	const struct intel_variant *variant = nic->variant;
	uint32_t address = (value & 0xffff) >> variant->eerd_shift;

	if (!(value & 1U << variant->eerd_start)) {
		intel_store(nic, offset, value & 0xffff);
		return PCI_DONE;
	}
	value = (value & 0xffff & ~(1U << variant->eerd_start)) | 1U << variant->eerd_done;
	if (address < INTEL_EEPROM_WORDS)
		value |= (uint32_t)nic->eeprom.words[address] << 16;
	intel_store(nic, offset, value);
	return PCI_DONE;
}

/* All bits of a command are in. */
static void microwire_command(struct intel_eeprom *eeprom)
{
	uint32_t address = eeprom->shift_in & (MICROWIRE_WORDS - 1), opcode = eeprom->shift_in >> 6 & 3;

	switch (opcode) {
	case 2: /* read: a zero bit, then the word */
		eeprom->shift_out = eeprom->words[address];
		eeprom->bits_out = 16;
		eeprom->reading = true;
		eeprom->output = false;
		break;
	case 0: /* by the upper two bits of the address: 3: write enable, 0: write disable */
		if (address >> 4 == 3 || address >> 4 == 0)
			eeprom->write_enabled = address >> 4 == 3;
		break;
	case 3: /* erase */
		if (eeprom->write_enabled)
			eeprom->words[address] = 0xffff;
		break;
	default: /* write: 16 bits of data follow */
		break;
	}
}

/* The clock rises with a bit on the data line. */
static void microwire_clock(struct intel_eeprom *eeprom, bool bit)
{
	if (eeprom->reading) {
		if (eeprom->bits_out) {
			eeprom->output = eeprom->shift_out >> --eeprom->bits_out & 1;
			return;
		}
		/* The part goes on with the next word. */
		eeprom->shift_in = (eeprom->shift_in + 1) & (MICROWIRE_WORDS - 1);
		eeprom->shift_out = eeprom->words[eeprom->shift_in];
		eeprom->bits_out = 15;
		eeprom->output = eeprom->shift_out >> 15;
		return;
	}
	if (!eeprom->bits_in && !bit) /* before the start bit */
		return;
	if (eeprom->bits_in >= MICROWIRE_COMMAND + 16)
		return;
	eeprom->shift_in = eeprom->shift_in << 1 | bit;
	eeprom->bits_in++;
	if (eeprom->bits_in == MICROWIRE_COMMAND)
		microwire_command(eeprom);
	if (eeprom->bits_in == MICROWIRE_COMMAND + 16 && (eeprom->shift_in >> 22 & 3) == 1 && eeprom->write_enabled)
		eeprom->words[eeprom->shift_in >> 16 & (MICROWIRE_WORDS - 1)] = (uint16_t)eeprom->shift_in;
}

uint32_t intel_eecd_read(struct intel_nic *nic, uint32_t offset)
{
	uint32_t value = intel_load(nic, offset) & ~(EECD_GNT | EECD_DO);

	if (value & EECD_REQ)
		value |= EECD_GNT;
	/* Idle, the part holds the line high: ready. */
	if (nic->variant->microwire && nic->eeprom.output)
		value |= EECD_DO;
	return value;
}

enum pci_result intel_eecd_write(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	struct intel_eeprom *eeprom = &nic->eeprom;
	bool clock = value & EECD_SK;

	intel_store(nic, offset, (intel_load(nic, offset) & ~EECD_OWN) | (value & EECD_OWN));
	if (!nic->variant->microwire)
		return PCI_DONE;
	if (!(value & EECD_CS)) {
		eeprom->shift_in = 0;
		eeprom->bits_in = 0;
		eeprom->bits_out = 0;
		eeprom->reading = false;
		eeprom->output = true;
	} else if (clock && !eeprom->clock) {
		microwire_clock(eeprom, value & EECD_DI);
	}
	eeprom->clock = clock;
	return PCI_DONE;
}
