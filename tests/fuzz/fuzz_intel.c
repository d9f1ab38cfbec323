/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_intel.h"

#include "fuzz_guest.h"

struct fuzz_intel card;

static void note_done(struct pci_device *from)
{
	fuzz_require(!card.done);
	card.done = true;
}

const struct pci_device_host fuzz_intel_host = { .done = note_done };

void fuzz_intel_wait(enum pci_result result)
{
	if (result == PCI_DONE)
		return;
	fuzz_engine_settle(&card.engine);
	fuzz_require(card.done);
}

void fuzz_intel_access(uint8_t bar, uint64_t offset, void *data, uint32_t length, bool write)
{
	struct pci_access access = { .bar = bar, .write = write, .offset = offset, .length = length, .data = data };
	enum pci_result result;

	if (!range_inside(offset, length, card.device->bars[bar].size))
		return;
	do {
		card.done = false;
		result = pci_device_access(card.device, &access);
		fuzz_intel_wait(result);
	} while (result == PCI_DEFERRED);
}

void fuzz_intel_write(uint32_t offset, uint32_t value)
{
	fuzz_intel_access(0, offset, &value, 4, true);
}

uint32_t fuzz_intel_read(uint32_t offset)
{
	uint32_t value = 0;

	fuzz_intel_access(0, offset, &value, 4, false);
	return value;
}

static const uint16_t interesting[] = {
	CTRL,	STATUS, EECD,  EERD,	   CTRL_EXT,   MDIC,	   VET,	      ICR,     ITR,	ICS,
	IMS,	IMC,	IAM,   EIAC_82574, IVAR_82574, EITR_82574, GPIE,      EICS,    EIMS,	EIMC,
	EIAC,	EIAM,	EICR,  EITR,	   EITR + 4,   IVAR,	   IVAR_MISC, RCTL,    TCTL,	PSRCTL,
	RXCSUM, RLPML,	RFCTL, MTA,	   RAL0,       RAL0 + 4,   VFTA,      MRQC,    RETA,	RSSRK,
	RDTR,	RADV,	TIDV,  TADV,	   SWSM,       GPRC,	   GORCH,     SYSTIML, TIMINCA,
};

static uint32_t some_register(struct fuzz_input *input)
{
	uint8_t choice = fuzz_u8(input);

	if (choice < array_size(interesting))
		return interesting[choice];
	if (choice < 192)
		return intel_ring_registers(card.nic, choice & 1, choice >> 1 & 3) + (fuzz_u8(input) & 0x3c);
	return fuzz_u32(input) % INTEL_BAR_SIZE;
}

void fuzz_intel_any_access(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input), bytes[8];
	uint32_t offset = some_register(input);

	fuzz_bytes(input, bytes, sizeof(bytes));
	fuzz_intel_access(form & 0x40 ? form & 3 : 0, form & 0x20 ? fuzz_u16(input) : offset, bytes,
			  1U << (form >> 2 & 3), form & 0x10);
}

void fuzz_intel_store(struct fuzz_input *input)
{
	uint32_t offset = some_register(input) & ~3U, value = fuzz_u32(input);

	if (card.device->bars[0].window_count && intel_in_window(card.nic->variant, offset))
		pci_window_store(&card.device->bars[0], offset, value);
}

/* One register that does something, with a value that may mean something. */
void fuzz_intel_write_interesting(struct fuzz_input *input)
{
	uint32_t offset = interesting[fuzz_u8(input) % array_size(interesting)];
	uint8_t form = fuzz_u8(input);

	fuzz_intel_write(offset, form < 32     ? 1U << form
				 : form == 32  ? UINT32_MAX
				 : form == 33  ? 0
				 : form & 0x80 ? fuzz_u32(input)
					       : form & 0x7fU);
}

/* Vectors, moderation and automatic clearing, as the models' drivers set them up, or nearly so. */
void fuzz_intel_set_interrupts(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input), interval = fuzz_u8(input);

	for (unsigned i = 0; i < 4; i++) {
		fuzz_intel_write(IVAR + 4 * i, 0x80808080U | (form & 1 ? 0x03020100U : 0));
		fuzz_intel_write(EITR + 4 * i, interval * 8U);
		fuzz_intel_write(EITR_82574 + 4 * i, interval);
	}
	fuzz_intel_write(IVAR_MISC, 0x8000U | (form & 2 ? 0x400U : 0));
	fuzz_intel_write(IVAR_82574, 0x000ba908U | (form & 4 ? 0xf0000U : 0x80000U));
	fuzz_intel_write(GPIE, form & 8 ? 0x40000010U : 0);
	fuzz_intel_write(EIAC, form & 0x10 ? 0 : 0x1f);
	fuzz_intel_write(EIAM, form & 0x20 ? 0 : 0x1f);
	fuzz_intel_write(EIAC_82574, form & 0x10 ? 0 : 0x01f00000U);
	fuzz_intel_write(CTRL_EXT, form & 0x40 ? 0x09000000U : 0);
	fuzz_intel_write(IAM, form);
	fuzz_intel_write(ITR, interval);
	fuzz_intel_write(EIMS, 0x1f);
	fuzz_intel_write(IMS, UINT32_MAX);
}

void fuzz_intel_set_hash(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	bool igb = card.nic->variant->generation == INTEL_82576;

	fuzz_intel_write(MRQC, (uint32_t)fuzz_u8(input) << 16 | (form & 1 ? 0U : igb ? 2U : 1U));
	fuzz_intel_write(RSSRK + (form & 0x24), fuzz_u32(input));
	fuzz_intel_write(RETA + (form & 0x7c), fuzz_u32(input));
	fuzz_intel_write(RXCSUM, form & 0x80 ? 0x2300 : 0x300);
}

/* Addresses that pass, or loops: RCTL, or the PHY's control register. */
void fuzz_intel_set_filters(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);

	switch (form & 3) {
	case 0:
		fuzz_intel_write(RCTL, RCTL_EN | RCTL_BAM | (form & 4 ? RCTL_LBM : 0) | (form & 8 ? RCTL_VFE : 0) |
					       (uint32_t)(form & 0x30) << 8);
		break;
	case 1:
		fuzz_intel_write(MTA + (form & 0x7cU), fuzz_u32(input));
		break;
	case 2:
		fuzz_intel_write(MDIC, (form & 4 ? 1U : 2U) << 26 | 1U << 21 | (form >> 3) << 16 | fuzz_u16(input));
		break;
	case 3: /* bits in and out of the EEPROM */
		for (unsigned i = 0, bits = fuzz_u32(input); i < 27; i++, bits >>= 1) {
			uint32_t value = 0x40U | (form & 4 ? 2U : 0) | (bits & 1 ? 4U : 0);

			fuzz_intel_write(EECD, value);
			fuzz_intel_write(EECD, value | 1);
		}
		break;
	}
}

void fuzz_intel_set_vectors(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	struct pci_interrupts *interrupts = &card.device->interrupts;
	enum pci_interrupt_kind kind = (form >> 4) % PCI_INTERRUPT_KINDS;

	if (form & 8)
		pci_interrupts_disable(interrupts, kind);
	else if (interrupts->counts[kind])
		fuzz_require(
			!pci_interrupts_set(interrupts, kind, form % interrupts->counts[kind], interrupts->nobody));
	if (form & 4)
		pci_interrupt_pin_mask(interrupts);
	else
		pci_interrupt_pin_unmask(interrupts, engine_notifier(card.engine.engine));
}
