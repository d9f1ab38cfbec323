/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Accesses to the BARs of the Intel network cards.
 *
 * Theory of operation
 * -------------------
 * A trapped register is found in the variant's table, then in the common one: tables of ranges with a mask of writable
 * bits and, where a register does more than to remember, a function. What is in neither reads as zero and takes no
 * writes. Whole words only are written, as the data sheets demand; parts of words can be read.
 *
 * Registers of the pages that can be mapped ("windows") are memory: ring registers, for the 82576 also those of
 * interrupts. Their values are looked at by whoever uses them. When nothing is offered for mapping (options.posted),
 * the same memory is @registers, and a write arrives here, which does what a mapped page cannot: it wakes the
 * lane.
 *
 * IOADDR and IODATA (8254x 13.2.2) are another way to all of it. The MSI-X table's BAR is the VMM's affair; here it is
 * memory for whoever looks.
 *
 * Context: control thread.
 */
#include "base/clock.h"
#include "device/intel/intel_internal.h"

#define IOADDR	  0x00U
#define IODATA	  0x04U
#define REGISTERS (INTEL_BAR_SIZE / 4)

static bool is_tail_or_control(uint32_t offset)
{
	uint32_t in_ring = offset >= RING_RECEIVE_HIGH ? offset & 0x3f : offset & 0xff;

	return in_ring == RING_TAIL || in_ring == RING_CONTROL;
}

bool intel_in_window(const struct intel_variant *variant, uint32_t offset)
{
	const struct pci_bar *bar = &variant->bars[0];

	for (unsigned i = 0; i < bar->window_count; i++) {
		if (offset - bar->windows[i].offset < bar->windows[i].length)
			return true;
	}
	return offset >= 0x2000 && offset < 0x4000; /* ring registers of the 82540EM */
}

/* Bits that a register on a page has. Of one that is really mapped, the guest sees the others, too: nobody is asked. */
static uint32_t page_mask(uint32_t offset)
{
	uint32_t in_ring = offset >= RING_RECEIVE_HIGH ? offset & 0x3f : offset & 0xff;

	if (offset == FCRTL || offset == FCRTH)
		return 0x8000fff8;
	if ((offset & 0xf800) != RING_RECEIVE && (offset & 0xf800) != RING_TRANSMIT && offset < RING_RECEIVE_HIGH)
		return UINT32_MAX;
	switch (in_ring) {
	case RING_BASE_LOW:
		return 0xfffffff0;
	case RING_LENGTH:
		return 0x000fff80;
	case RING_HEAD:
	case RING_TAIL:
		return 0xffff;
	default:
		if (offset == RDTR || offset == RADV || offset == TIDV || offset == TADV)
			return 0xffff;
		return UINT32_MAX;
	}
}

void intel_bar_doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	struct intel_nic *nic = intel_nic_of(device);
	struct intel_when when;
	uint32_t mask;

	if (bar || size != 4)
		return;
	/* The 82576 has TXDCTL where the others have TADV; all of its masks are left to the pages. */
	mask = nic->variant->generation == INTEL_82576 ? UINT32_MAX : page_mask(offset);
	if (mask != UINT32_MAX)
		intel_page_store(nic, offset, intel_page_load(nic, offset) & mask);
	if (offset >= EICS && offset <= EIMC && nic->variant->generation == INTEL_82576) {
		when = intel_when_control(nic);
		intel_interrupts_take(nic, &when);
	} else if (offset >= 0x2000 && is_tail_or_control(offset)) {
		intel_nic_kick(nic);
	}
}

/* ---- registers that do something ---- */

static uint32_t read_status(struct intel_nic *nic, uint32_t offset)
{
	uint32_t value = intel_load(nic, STATUS) | STATUS_FD | STATUS_SPEED_1000;

	if (intel_nic_link_up(nic))
		value |= STATUS_LU;
	if (nic->variant->identity.express && !(intel_load(nic, CTRL) & CTRL_GIO_MASTER_DISABLE))
		value |= STATUS_GIO_MASTER_ENABLE;
	return value;
}

/* PHY reset asserted: a bit that software clears (82576 8.2.2). */
static enum pci_result write_status(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	intel_store(nic, STATUS, intel_load(nic, STATUS) & ~(~value & STATUS_PHYRA));
	return PCI_DONE;
}

static void reset_softly(struct intel_nic *nic)
{
	intel_nic_reset(nic, true);
	pci_device_clear_fault(&nic->device);
	intel_nic_start(nic);
	pci_device_done(&nic->device);
}

static enum pci_result write_control(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	if (value & CTRL_RST)
		return intel_nic_rest(nic, reset_softly);
	if (value & CTRL_PHY_RST) {
		intel_phy_reset(nic);
		if (nic->variant->identity.express)
			intel_store(nic, STATUS, intel_load(nic, STATUS) | STATUS_PHYRA);
	}
	intel_store(nic, CTRL, value & ~CTRL_PHY_RST);
	return PCI_DONE;
}

static uint32_t read_control(struct intel_nic *nic, uint32_t offset)
{
	return intel_load(nic, CTRL);
}

/* The EEPROM is read again at once, and that is all that there is to a reload. */
static enum pci_result write_control_extended(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	intel_store(nic, offset, value & ~CTRL_EXT_EE_RST);
	return PCI_DONE;
}

/* A direction has been switched off: at rest. */
static void switch_off(struct intel_nic *nic)
{
	struct intel_rest *rest = &nic->rest;

	intel_store(nic, rest->offset, rest->value);
	intel_rings_forget(nic, rest->offset == TCTL, rest->offset == RCTL);
	intel_nic_start(nic);
	pci_device_done(&nic->device);
}

static enum pci_result write_direction(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	uint32_t before = intel_load(nic, offset);

	if (offset == RCTL)
		atomic_store(&nic->loopback, intel_phy_loopback(nic) || value & RCTL_LBM);
	/* EN is bit 1 of both. What is switched off must have ended when the driver goes on. */
	if (before & ~value & RCTL_EN) {
		nic->rest.offset = offset;
		nic->rest.value = value;
		return intel_nic_rest(nic, switch_off);
	}
	intel_store(nic, offset, value);
	intel_nic_start(nic);
	return PCI_DONE;
}

static enum pci_result write_key(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	intel_store(nic, offset, value);
	/* Release: who sees the version sees the key. */
	atomic_fetch_add_explicit(&nic->key_version, 1, memory_order_release);
	/* Once more, which counts nic->version up: what was remembered since the first store may be of the old key. */
	intel_store(nic, offset, value);
	return PCI_DONE;
}

/* The upper halves have fewer bits: address, what it is compared with, 82576: pools, and valid. */
static enum pci_result write_address(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	if (offset & 4)
		value &= nic->variant->generation == INTEL_82576 ? 0x83ffffff : 0x8003ffff;
	intel_store(nic, offset, value);
	return PCI_DONE;
}

/* The semaphore between drivers: whoever reads it as clear has it. */
static uint32_t read_semaphore(struct intel_nic *nic, uint32_t offset)
{
	uint32_t value = intel_load(nic, offset);

	intel_store(nic, offset, value | SWSM_SMBI);
	return value;
}

static const struct intel_register registers_of_all[] = {
	{ CTRL, CTRL, UINT32_MAX, NULL, write_control },
	{ STATUS, STATUS, UINT32_MAX, read_status, write_status },
	{ EECD, EECD, UINT32_MAX, intel_eecd_read, intel_eecd_write },
	{ EERD, EERD, UINT32_MAX, NULL, intel_eerd_write },
	{ CTRL_EXT, CTRL_EXT, UINT32_MAX, NULL, write_control_extended },
	{ FLA, FLA, UINT32_MAX },
	{ MDIC, MDIC, UINT32_MAX, NULL, intel_mdic_write },
	{ SCTL, SCTL, UINT32_MAX },
	{ FCAL, FCAL, UINT32_MAX },
	{ FCAH, FCT, 0xffff },
	{ CONNSW, CONNSW, UINT32_MAX },
	{ VET, VET, UINT32_MAX },
	{ ICR, ICR, UINT32_MAX, intel_icr_read, intel_icr_write },
	{ ITR, ITR, 0xffff },
	{ ICS, ICS, UINT32_MAX, NULL, intel_ics_write },
	{ IMS, IMS, UINT32_MAX, intel_ims_read, intel_ims_write },
	{ IMC, IMC, UINT32_MAX, NULL, intel_imc_write },
	{ IAM, IAM, UINT32_MAX },
	{ RCTL, RCTL, UINT32_MAX, NULL, write_direction },
	{ FCTTV, FCTTV, 0xffff },
	{ TXCW, TXCW, UINT32_MAX },
	{ RXCW, RXCW, 0 },
	{ TCTL, TCTL, UINT32_MAX, NULL, write_direction },
	{ TCTL_EXT, TCTL_EXT, UINT32_MAX },
	{ TIPG, TIPG, 0x3fffffff },
	{ AIT, AIT, 0xffff },
	{ LEDCTL, LEDCTL, UINT32_MAX },
	{ EXTCNF_CTRL, PHY_CTRL, UINT32_MAX },
	{ STATISTICS, STATISTICS_END - 4, 0, intel_statistics_read },
	{ RXCSUM, RFCTL, UINT32_MAX },
	{ MTA, MTA + 0x1fc, UINT32_MAX },
	{ RAL0, RAL0 + 0x11c, UINT32_MAX, NULL, write_address }, /* 82576: with RAL16 and on */
	{ VFTA, VFTA + 0x1fc, UINT32_MAX },
	{ SWSM, SWSM, UINT32_MAX, read_semaphore },
	{ FWSM, FWSM, 0 },
	{ WUC, 0x5bfc, UINT32_MAX }, /* wake-up, management, bus: remembered, and nothing comes of it */
	{ RETA, RETA + 0x7c, UINT32_MAX },
	{ RSSRK, RSSRK + 0x24, UINT32_MAX, NULL, write_key },
	{ 0x5cb0, 0x5ffc, UINT32_MAX }, /* other filters, host interface */
};

/* 8254x: the control register a second time. */
static const struct intel_register control_duplicate = { CTRL_DUP, CTRL_DUP, UINT32_MAX, read_control, write_control };

static const struct intel_register *find_in(const struct intel_register *registers, unsigned count, uint32_t offset)
{
	for (unsigned i = 0; i < count; i++) {
		if (offset >= registers[i].first && offset <= registers[i].last)
			return &registers[i];
	}
	return NULL;
}

static const struct intel_register *find_register(const struct intel_nic *nic, uint32_t offset)
{
	const struct intel_variant *variant = nic->variant;
	const struct intel_register *found = find_in(variant->registers, variant->register_count, offset);

	if (!found && offset == CTRL_DUP && variant->generation == INTEL_8254X)
		found = &control_duplicate;
	return found ? found : find_in(registers_of_all, array_size(registers_of_all), offset);
}

/* ---- accesses ---- */

/* A driver that flushes what it wrote to mapped pages does it with a read of a trapped register. */
static void flush_pages(struct intel_nic *nic)
{
	struct intel_when when;

	if (nic->variant->generation != INTEL_82576)
		return;
	when = intel_when_control(nic);
	intel_interrupts_take(nic, &when);
}

static uint32_t read_register(struct intel_nic *nic, uint32_t offset)
{
	const struct intel_register *entry;

	if (offset >= INTEL_BAR_SIZE)
		return 0;
	if (intel_in_window(nic->variant, offset))
		return intel_page_load(nic, offset);
	flush_pages(nic);
	entry = find_register(nic, offset);
	if (!entry)
		return 0;
	return entry->read ? entry->read(nic, offset) : intel_load(nic, offset);
}

static enum pci_result write_register(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	const struct intel_register *entry;

	if (offset >= INTEL_BAR_SIZE)
		return PCI_DONE;
	if (intel_in_window(nic->variant, offset)) {
		intel_page_store(nic, offset, value);
		intel_bar_doorbell(&nic->device, 0, offset, 4);
		return PCI_DONE;
	}
	flush_pages(nic);
	entry = find_register(nic, offset);
	if (!entry)
		return PCI_DONE;
	value &= entry->writable;
	if (entry->write)
		return entry->write(nic, offset, value);
	intel_store(nic, offset, value | (intel_load(nic, offset) & ~entry->writable));
	return PCI_DONE;
}

uint32_t intel_bar_read(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	struct intel_nic *nic = intel_nic_of(device);
	uint32_t value = 0, whole = offset & ~3U;

	if (!bar)
		value = read_register(nic, whole);
	else if (bar == nic->variant->io_bar)
		value = whole == IOADDR	  ? nic->io_address
			: whole == IODATA ? read_register(nic, nic->io_address & ~3U)
					  : 0;
	else if (nic->vectors && whole / 4 < INTEL_VECTOR_BAR / 4)
		value = nic->vectors[whole / 4];
	value >>= 8 * (offset & 3);
	return size < 4 ? value & ((1U << 8 * size) - 1) : value;
}

enum pci_result intel_bar_write(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size, uint32_t value)
{
	struct intel_nic *nic = intel_nic_of(device);

	if (size != 4)
		return PCI_DONE;
	if (!bar)
		return write_register(nic, offset, value);
	if (bar != nic->variant->io_bar) {
		if (nic->vectors && offset / 4 < INTEL_VECTOR_BAR / 4)
			nic->vectors[offset / 4] = value;
		return PCI_DONE;
	}
	if (offset == IOADDR)
		nic->io_address = value;
	else if (offset == IODATA)
		return write_register(nic, nic->io_address & ~3U, value);
	return PCI_DONE;
}
