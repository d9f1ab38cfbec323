/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * PCI configuration space.
 *
 * Theory of operation
 * -------------------
 * The space is bytes and a mask of the bits that a guest can write, both made once from the model's description. A read
 * copies bytes; a write changes the bits of the mask. Base address registers need nothing else: their low bits are not
 * writable, so that the all-ones which a guest writes to learn a size (PCI Local Bus 3.0 6.2.5.1) read back as the
 * size.
 *
 * Three fields do something when they are written: the power state takes D0 and D3hot only (an unsupported state is
 * discarded, Power Management 1.2 3.2.4), the function level reset bit is noted for the transport and reads as zero
 * (PCI Express Base 4.0 7.5.3.4), and what the command register allows is asked for by pci_config_bus_master() and
 * others.
 *
 * Layout: type 0 header; capabilities, which guests find by their list, never by place:
 *
 *	0x40 power management, 0x50 MSI, 0x70 PCI Express, 0xb0 MSI-X; 0x100 device serial number (extended)
 */
#include "device/pci/pci_config.h"

#include <endian.h>
#include <string.h>

#include "base/byte_order.h"
#include "device/pci/pci_device.h"

/* Last: it has a macro PCI_INTERRUPT_PIN, the register, which is an enumerator in ours, the kind of interrupt. */
#include <linux/pci_regs.h>

#define POWER_MANAGEMENT 0x40U
#define MESSAGES	 0x50U /* MSI */
#define EXPRESS		 0x70U
#define MESSAGES_X	 0xb0U /* MSI-X */
#define EXTENDED	 0x100U

/* PCI Express Base 4.0 7.5.3.4: relaxed ordering and no snoop allowed, 512 byte reads: the defaults of the register. */
#define DEVICE_CONTROL_DEFAULT (PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B)
#define DEVICE_CONTROL_WRITABLE                                                                                        \
	(0xfU | PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_PAYLOAD | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ)
#define LINK_CONTROL_WRITABLE (PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_RCB | PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES)

/* ---- building ---------------------------------------------------------------------------------------------------- */

static void put_header(struct pci_config *config, const struct pci_bar *bars)
{
	const struct pci_identity *identity = &config->identity;
	uint16_t command = PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR;
	uint8_t *space = config->space;

	store_le16(space + PCI_VENDOR_ID, identity->vendor);
	store_le16(space + PCI_DEVICE_ID, identity->device);
	store_le16(space + PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor);
	store_le16(space + PCI_SUBSYSTEM_ID, identity->subsystem);
	space[PCI_REVISION_ID] = identity->revision;
	space[PCI_CLASS_PROG] = identity->programming_interface;
	space[PCI_CLASS_DEVICE] = identity->subclass;
	space[PCI_CLASS_DEVICE + 1] = identity->class_code;
	store_le16(space + PCI_STATUS, PCI_STATUS_CAP_LIST | (identity->express ? 0 : PCI_STATUS_DEVSEL_MEDIUM));

	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (bars[i].size)
			command |= bars[i].io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	}
	if (identity->pin) {
		command |= PCI_COMMAND_INTX_DISABLE;
		space[PCI_INTERRUPT_PIN] = 1; /* INTA# */
		config->writable[PCI_INTERRUPT_LINE] = 0xff;
	}
	config->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	if (!identity->express) {
		/* PCI Express has neither (7.5.1.1.3, 7.5.1.1.8). */
		command |= PCI_COMMAND_INVALIDATE;
		config->writable[PCI_LATENCY_TIMER] = 0xff;
	}
	store_le16(config->writable + PCI_COMMAND, command);
}

static void put_bar(struct pci_config *config, unsigned index, const struct pci_bar *bar)
{
	uint32_t offset = PCI_BASE_ADDRESS_0 + 4 * index;
	uint64_t mask = ~(bar->size - 1);

	if (!bar->size)
		return;
	if (bar->io) {
		store_le32(config->space + offset, PCI_BASE_ADDRESS_SPACE_IO);
		store_le32(config->writable + offset, (uint32_t)mask & (uint32_t)PCI_BASE_ADDRESS_IO_MASK);
		return;
	}
	store_le32(config->space + offset, (bar->wide ? PCI_BASE_ADDRESS_MEM_TYPE_64 : 0U) |
						   (bar->prefetchable ? PCI_BASE_ADDRESS_MEM_PREFETCH : 0U));
	store_le32(config->writable + offset, (uint32_t)mask & (uint32_t)PCI_BASE_ADDRESS_MEM_MASK);
	if (bar->wide)
		store_le32(config->writable + offset + 4, (uint32_t)(mask >> 32));
}

/* Each capability is put in front of the list. */
static void link_capability(struct pci_config *config, uint8_t offset, uint8_t id)
{
	config->space[offset + PCI_CAP_LIST_ID] = id;
	config->space[offset + PCI_CAP_LIST_NEXT] = config->space[PCI_CAPABILITY_LIST];
	config->space[PCI_CAPABILITY_LIST] = offset;
}

static void put_msix(struct pci_config *config)
{
	const struct pci_identity *identity = &config->identity;

	link_capability(config, MESSAGES_X, PCI_CAP_ID_MSIX);
	store_le16(config->space + MESSAGES_X + PCI_MSIX_FLAGS, (uint16_t)(identity->msix_count - 1));
	store_le16(config->writable + MESSAGES_X + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	store_le32(config->space + MESSAGES_X + PCI_MSIX_TABLE, identity->msix_table | identity->msix_bar);
	store_le32(config->space + MESSAGES_X + PCI_MSIX_PBA, identity->msix_pending | identity->msix_bar);
}

static void put_express(struct pci_config *config)
{
	uint8_t *space = config->space, *writable = config->writable;

	link_capability(config, EXPRESS, PCI_CAP_ID_EXP);
	store_le16(space + EXPRESS + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	store_le32(space + EXPRESS + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
	store_le16(writable + EXPRESS + PCI_EXP_DEVCTL, DEVICE_CONTROL_WRITABLE);
	/* One lane at 2.5 GT/s: what nobody's driver complains about. Nothing in here is as slow, or as fast. */
	store_le32(space + EXPRESS + PCI_EXP_LNKCAP, PCI_EXP_LNKCAP_SLS_2_5GB | 1U << 4);
	store_le16(writable + EXPRESS + PCI_EXP_LNKCTL, LINK_CONTROL_WRITABLE);
	store_le16(space + EXPRESS + PCI_EXP_LNKSTA,
		   PCI_EXP_LNKSTA_CLS_2_5GB | PCI_EXP_LNKSTA_NLW_X1 | PCI_EXP_LNKSTA_SLC);
	store_le32(space + EXPRESS + PCI_EXP_LNKCAP2, PCI_EXP_LNKCAP2_SLS_2_5GB);
	store_le16(space + EXPRESS + PCI_EXP_LNKCTL2, PCI_EXP_LNKCTL2_TLS_2_5GT);

	if (config->identity.serial_number) {
		store_le32(space + EXTENDED, PCI_EXT_CAP_ID_DSN | 1U << 16);
		store_le32(space + EXTENDED + 4, (uint32_t)config->identity.serial_number);
		store_le32(space + EXTENDED + 8, (uint32_t)(config->identity.serial_number >> 32));
	}
}

static void put_msi(struct pci_config *config)
{
	link_capability(config, MESSAGES, PCI_CAP_ID_MSI);
	store_le16(config->space + MESSAGES + PCI_MSI_FLAGS, PCI_MSI_FLAGS_64BIT);
	store_le16(config->writable + MESSAGES + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
	store_le32(config->writable + MESSAGES + PCI_MSI_ADDRESS_LO, ~3U);
	store_le32(config->writable + MESSAGES + PCI_MSI_ADDRESS_HI, ~0U);
	store_le16(config->writable + MESSAGES + PCI_MSI_DATA_64, 0xffff);
}

static void put_power_management(struct pci_config *config)
{
	link_capability(config, POWER_MANAGEMENT, PCI_CAP_ID_PM);
	store_le16(config->space + POWER_MANAGEMENT + PCI_PM_PMC, 3);
	/* Nothing is lost in D3hot, so that the way back needs no reset. */
	store_le16(config->space + POWER_MANAGEMENT + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
	store_le16(config->writable + POWER_MANAGEMENT + PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK);
}

/* Writable fields whose default is not zero. */
static void put_defaults(struct pci_config *config)
{
	if (config->identity.express)
		store_le16(config->space + EXPRESS + PCI_EXP_DEVCTL, DEVICE_CONTROL_DEFAULT);
}

void pci_config_init(struct pci_config *config, const struct pci_bar *bars)
{
	config->size = config->identity.express ? PCI_EXPRESS_CONFIG_SIZE : PCI_CONFIG_SIZE;
	config->function_reset = false;
	memset(config->space, 0, sizeof(config->space));
	memset(config->writable, 0, sizeof(config->writable));
	put_header(config, bars);
	for (unsigned i = 0; i < PCI_BARS; i++)
		put_bar(config, i, &bars[i]);
	if (config->identity.msix_count)
		put_msix(config);
	if (config->identity.express)
		put_express(config);
	if (config->identity.msi)
		put_msi(config);
	put_power_management(config);
	put_defaults(config);
}

void pci_config_reset(struct pci_config *config)
{
	for (uint32_t i = 0; i < config->size; i++)
		config->space[i] = (uint8_t)(config->space[i] & ~config->writable[i]);
	put_defaults(config);
	config->function_reset = false;
}

/* ---- access ------------------------------------------------------------------------------------------------------ */

void pci_config_read(const struct pci_config *config, uint32_t offset, void *to, uint32_t length)
{
	memcpy(to, config->space + offset, length);
}

void pci_config_write(struct pci_config *config, uint32_t offset, const void *from, uint32_t length)
{
	const uint8_t *bytes = from;
	unsigned state = pci_config_power_state(config);

	for (uint32_t i = 0; i < length; i++) {
		uint8_t mask = config->writable[offset + i];

		config->space[offset + i] = (uint8_t)((config->space[offset + i] & ~mask) | (bytes[i] & mask));
		if (config->identity.express && offset + i == EXPRESS + PCI_EXP_DEVCTL + 1 &&
		    (bytes[i] & PCI_EXP_DEVCTL_BCR_FLR >> 8))
			config->function_reset = true;
	}
	if (pci_config_power_state(config) == 1 || pci_config_power_state(config) == 2)
		config->space[POWER_MANAGEMENT + PCI_PM_CTRL] = (uint8_t)(PCI_PM_CTRL_NO_SOFT_RESET | state);
}

bool pci_config_take_function_reset(struct pci_config *config)
{
	bool asked = config->function_reset;

	config->function_reset = false;
	return asked;
}

void pci_config_set_interrupt_status(struct pci_config *config, bool asserted)
{
	uint8_t *status = &config->space[PCI_STATUS];

	*status = (uint8_t)((*status & ~PCI_STATUS_INTERRUPT) | (asserted ? PCI_STATUS_INTERRUPT : 0));
}

bool pci_config_bus_master(const struct pci_config *config)
{
	return load_le16(config->space + PCI_COMMAND) & PCI_COMMAND_MASTER;
}

bool pci_config_pin_disabled(const struct pci_config *config)
{
	return load_le16(config->space + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
}

unsigned pci_config_power_state(const struct pci_config *config)
{
	return load_le16(config->space + POWER_MANAGEMENT + PCI_PM_CTRL) & PCI_PM_CTRL_STATE_MASK;
}
