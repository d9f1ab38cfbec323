/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe Identify (Base 5.17; NVM Command Set 4.1.5). All structures are 4 KiB, made when they are asked for, and zero where
 * nothing is said.
 *
 * Context: control thread.
 */
#include <stdio.h>
#include <string.h>

#include "base/byte_order.h"
#include "base/clock.h"
#include "device/nvme/nvme_admin.h"

/* Text fields are padded with blanks and have no end mark (Base 1.4.2). */
static void put_text(uint8_t *page, unsigned offset, unsigned size, const char *text)
{
	memset(page + offset, ' ', size);
	memcpy(page + offset, text, strnlen(text, size));
}

/* ---- controller -------------------------------------------------------------------------------------------------- */

static bool all_disks(const struct nvme *nvme, bool (*has)(const struct disk_limits *limits))
{
	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		const struct disk_limits *limits = &nvme->namespaces[i].limits;

		if (!limits->read_only && !has(limits))
			return false;
	}
	return true;
}

static bool discards(const struct disk_limits *limits)
{
	return limits->discard;
}

static bool zeroes(const struct disk_limits *limits)
{
	return limits->write_zeroes;
}

/* ONCS (Base figure 275): compare, dataset management, write zeroes, save and select, timestamp, verify. */
static uint16_t optional_commands(const struct nvme *nvme)
{
	uint16_t oncs = 1U << 0 | 1U << 4 | 1U << 6 | 1U << 7;

	if (all_disks(nvme, discards))
		oncs |= 1U << 2;
	if (all_disks(nvme, zeroes))
		oncs |= 1U << 3;
	return oncs;
}

static void put_name(const struct nvme *nvme, uint8_t *page)
{
	const uint8_t *u = nvme->namespaces[0].uuid;

	/* The controller's own name: its first namespace's with another variant of the last byte. */
	snprintf((char *)page + 768, 256,
		 "nqn.2014-08.org.nvmexpress:uuid:%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15] ^ 0xffU);
}

static uint64_t total_capacity(const struct nvme *nvme)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < nvme->namespace_count; i++)
		bytes += atomic_load(&nvme->namespaces[i].blocks) << nvme->namespaces[i].shift;
	return bytes;
}

static void identify_controller(const struct nvme *nvme, uint8_t *page)
{
	const struct pci_identity *identity = &nvme->device.config.identity;

	store_le16(page + 0, identity->vendor);
	store_le16(page + 2, identity->subsystem_vendor);
	put_text(page, 4, 20, nvme->serial);
	put_text(page, 24, 40, "sidecore NVMe");
	put_text(page, 64, 8, SIDECORE_VERSION);
	page[72] = 6; /* RAB: bursts of 64 commands */
	/* IEEE: 52:54:00, a locally administered identifier, least significant byte first */
	page[73] = 0x00;
	page[74] = 0x54;
	page[75] = 0x52;
	page[77] = NVME_MDTS;
	store_le32(page + 80, NVME_VERSION);
	store_le32(page + 84, 1000000);	 /* RTD3R, in microseconds: a disk may have to be found again */
	store_le32(page + 88, 30000000); /* RTD3E: a shutdown waits for all disks to be flushed */
	store_le32(page + 92, NVME_EVENT_CONFIG_NAMESPACE); /* OAES */
	store_le32(page + 96, 1U << 0);			    /* CTRATT: host identifiers of 128 bits */
	page[111] = 1;					    /* CNTRLTYPE: I/O controller */
	page[253] = 1;					    /* NVMSR: part of a storage device */
	page[258] = 3;					    /* ACL */
	page[259] = NVME_EVENT_LIMIT - 1;
	page[260] = 1U << 1 | 1U << 0; /* FRMW: one slot, read only */
	page[261] =
		1U << 5 | 1U << 2 | 1U << 1; /* LPA: supported logs, features and scopes; offsets; commands' effects */
	page[262] = NVME_ERROR_ENTRIES - 1;
	store_le16(page + 266, 0x157); /* WCTEMP, CCTEMP: 70 and 90 degrees, in Kelvin */
	store_le16(page + 268, 0x16b);
	store_le64(page + 280, total_capacity(nvme));
	page[512] = NVME_COMMAND_SHIFT << 4 | NVME_COMMAND_SHIFT;
	page[513] = NVME_COMPLETION_SHIFT << 4 | NVME_COMPLETION_SHIFT;
	store_le32(page + 516, nvme->namespace_count);
	store_le16(page + 520, optional_commands(nvme));
	page[525] = 3U << 1 | (nvme->has_cache ? 1 : 0); /* VWC: flush takes the broadcast namespace */
	store_le32(page + 536, 1U << 0);		 /* SGLS: without alignment */
	put_name(nvme, page);
	/* Power state 0, the only one: 25 W, entered and left at once. */
	store_le16(page + 2048, 2500);
}

/* ---- namespaces -------------------------------------------------------------------------------------------------- */

static void identify_namespace(const struct nvme_namespace *namespace, uint8_t *page)
{
	const struct disk_limits *limits = &namespace->limits;
	uint64_t blocks = atomic_load(&namespace->blocks);
	uint32_t block = limits->block_size, physical = max(limits->physical_block_size, block);
	uint32_t granularity = limits->discard_alignment > block ? limits->discard_alignment / block : 1;

	store_le64(page + 0, blocks);
	store_le64(page + 8, blocks);
	store_le64(page + 16, blocks);
	page[24] = 1U << 4;						/* NSFEAT: the preferred sizes below */
	page[33] = (uint8_t)(limits->write_zeroes_unmap ? 1U << 3 : 0); /* DLFEAT: write zeroes may deallocate */
	if (limits->io_optimal / block)
		store_le16(page + 46, (uint16_t)min(limits->io_optimal / block, (uint32_t)UINT16_MAX));
	store_le64(page + 48, blocks << namespace->shift);
	store_le16(page + 64, (uint16_t)(physical / block - 1)); /* NPWG, NPWA: zero-based, as NPDG and NPDA */
	store_le16(page + 66, (uint16_t)(physical / block - 1));
	store_le16(page + 68, (uint16_t)min(granularity - 1, (uint32_t)UINT16_MAX));
	store_le16(page + 70, (uint16_t)min(granularity - 1, (uint32_t)UINT16_MAX));
	page[99] = limits->read_only;		 /* NSATTR */
	memcpy(page + 104, namespace->uuid, 16); /* NGUID */
	page[128 + 2] = namespace->shift;	 /* LBAF0 */
}

/* Base figure 280 */
static void independent_namespace(const struct nvme_namespace *namespace, uint8_t *page)
{
	page[4] = namespace->limits.read_only; /* NSATTR */
	page[14] = 1U << 0;		       /* NSTAT: ready */
}

/* A list of identifiers: type, length, two bytes reserved, value (Base figure 277). */
static uint8_t *put_descriptor(uint8_t *at, uint8_t type, uint8_t length, const void *value)
{
	at[0] = type;
	at[1] = length;
	memcpy(at + 4, value, length);
	return at + 4 + length;
}

static void namespace_descriptors(const struct nvme_namespace *namespace, uint8_t *page)
{
	static const uint8_t nvm_command_set;

	page = put_descriptor(page, 2, 16, namespace->uuid);
	page = put_descriptor(page, 3, 16, namespace->uuid);
	put_descriptor(page, 4, 1, &nvm_command_set);
}

static uint16_t active_list(const struct nvme *nvme, uint32_t after, uint8_t *page)
{
	unsigned offset = 0;

	/* Base 5.17.2.3 */
	if (after >= NVME_NSID_ALL - 1)
		return NVME_INVALID_NAMESPACE | NVME_DNR;
	for (uint32_t id = after + 1; id <= nvme->namespace_count && offset < NVME_IDENTIFY_SIZE; id++, offset += 4)
		store_le32(page + offset, id);
	return NVME_SUCCESS;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

/* Structures about one namespace, which has to be there; those that are not there, but could be, are all zero. */
static uint16_t about_namespace(const struct nvme *nvme, uint32_t nsid, unsigned cns, uint8_t *page)
{
	const struct nvme_namespace *namespace;

	/* The broadcast value asks for what all have in common (Base 5.17.2.1): the format. */
	if (nsid == NVME_NSID_ALL && cns == NVME_CNS_NAMESPACE) {
		page[128 + 2] = nvme->namespaces[0].shift;
		return NVME_SUCCESS;
	}
	if (!nsid || nsid > nvme->namespace_count)
		return NVME_INVALID_NAMESPACE | NVME_DNR;
	namespace = &nvme->namespaces[nsid - 1];
	switch (cns) {
	case NVME_CNS_NAMESPACE:
		identify_namespace(namespace, page);
		break;
	case NVME_CNS_DESCRIPTORS:
		namespace_descriptors(namespace, page);
		break;
	case NVME_CNS_INDEPENDENT_NAMESPACE:
		independent_namespace(namespace, page);
		break;
	case NVME_CNS_SET_NAMESPACE:
		break; /* NVM Command Set 4.1.5.3: about protection information, which is not offered */
	}
	return NVME_SUCCESS;
}

static uint16_t fill(const struct nvme *nvme, const struct nvme_command *command, uint8_t *page)
{
	uint32_t nsid = le32toh(command->nsid);
	unsigned cns = le32toh(command->dw10) & 0xff, command_set = le32toh(command->dw11) >> 24;

	switch (cns) {
	case NVME_CNS_SET_NAMESPACE:
	case NVME_CNS_SET_CONTROLLER:
	case NVME_CNS_SET_ACTIVE_LIST:
		/* Of the NVM command set, the only one. */
		if (command_set)
			return NVME_INVALID_FIELD | NVME_DNR;
		break;
	}
	switch (cns) {
	case NVME_CNS_NAMESPACE:
	case NVME_CNS_DESCRIPTORS:
	case NVME_CNS_SET_NAMESPACE:
	case NVME_CNS_INDEPENDENT_NAMESPACE:
		return about_namespace(nvme, nsid, cns, page);
	case NVME_CNS_CONTROLLER:
		identify_controller(nvme, page);
		return NVME_SUCCESS;
	case NVME_CNS_SET_CONTROLLER:
		/* NVM Command Set 4.1.5.4: verify, write zeroes and deallocation have no limits of their own. */
		return NVME_SUCCESS;
	case NVME_CNS_ACTIVE_LIST:
	case NVME_CNS_SET_ACTIVE_LIST:
		return active_list(nvme, nsid, page);
	case NVME_CNS_COMMAND_SETS:
		/* One combination: the NVM command set. Controllers but this one (and FFFFh: this one) are not there.
		 */
		if (le32toh(command->dw10) >> 16 && le32toh(command->dw10) >> 16 != 0xffff)
			return NVME_INVALID_FIELD | NVME_DNR;
		store_le64(page + 0, 1);
		return NVME_SUCCESS;
	}
	return NVME_INVALID_FIELD | NVME_DNR;
}

uint16_t nvme_identify(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint8_t page[NVME_IDENTIFY_SIZE] = { 0 };
	uint16_t status = fill(nvme, command, page);

	return status ? status : nvme_admin_write(nvme, command, page, sizeof(page), sizeof(page));
}
