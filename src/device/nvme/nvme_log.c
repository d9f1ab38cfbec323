/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe Get Log Page (Base 5.16).
 *
 * A page is made whole, then the part that was asked for is handed out; what is asked for past its end reads as zero.
 * Reading a page allows its asynchronous event again, unless the driver says not to (RAE).
 *
 * Context: control thread.
 */
#include <string.h>

#include "base/byte_order.h"
#include "base/clock.h"
#include "base/counter.h"
#include "device/nvme/nvme_admin.h"

#define LOG_MAX 4096U
#define RETAIN	(1U << 15)

/* Bits of the effects log (Base figure 210). */
#define EFFECT_SUPPORTED 0x01U
#define EFFECT_CONTENT	 0x02U
#define SCOPE_NAMESPACE	 (1U << 20)
#define SCOPE_CONTROLLER (1U << 21)

/* Temperature that is reported: 40 degrees, in Kelvin. Nothing here gets warm. */
#define TEMPERATURE 313U

static uint32_t fill_supported(struct nvme *nvme, uint8_t *page)
{
	static const uint8_t logs[] = {
		NVME_LOG_SUPPORTED,	     NVME_LOG_ERROR,	NVME_LOG_SMART,	   NVME_LOG_FIRMWARE,
		NVME_LOG_CHANGED_NAMESPACES, NVME_LOG_COMMANDS, NVME_LOG_FEATURES, NVME_LOG_MANAGEMENT
	};

	for (unsigned i = 0; i < array_size(logs); i++)
		store_le32(page + 4U * logs[i], 1);
	return 1024;
}

static uint32_t fill_errors(struct nvme *nvme, uint8_t *page)
{
	struct nvme_error_entry entries[NVME_ERROR_ENTRIES];

	nvme_read_errors(nvme, entries);
	memcpy(page, entries, sizeof(entries));
	return sizeof(entries);
}

/* Data units are thousands of 512 bytes, rounded up. */
static uint64_t data_units(uint64_t bytes)
{
	return bytes / 512000 + (bytes % 512000 != 0);
}

uint8_t nvme_critical_warning(const struct nvme *nvme)
{
	const struct nvme_features *f = &nvme->features;

	/* A disk that is configured to be read-only is in good health (bit 3 is about media that have failed). */
	return TEMPERATURE >= f->temperature_over || TEMPERATURE <= f->temperature_under ? NVME_WARNING_TEMPERATURE : 0;
}

static uint32_t fill_smart(struct nvme *nvme, uint8_t *page)
{
	struct nvme_counters counters;

	nvme_read_counters(&nvme->device, &counters);
	page[0] = nvme_critical_warning(nvme);
	page[1] = TEMPERATURE & 0xff;
	page[2] = TEMPERATURE >> 8;
	page[3] = 100; /* available spare, and its threshold */
	page[4] = 10;
	store_le64(page + 32, data_units(counters.read_bytes));
	store_le64(page + 48, data_units(counters.write_bytes));
	store_le64(page + 64, counters.reads + counters.compares);
	store_le64(page + 80, counters.writes);
	store_le64(page + 112, nvme->power_cycles);
	store_le64(page + 128, (clock_nanoseconds() - nvme->created) / NANOSECONDS_PER_SECOND / 3600);
	store_le64(page + 144, nvme->unsafe_shutdowns);
	store_le64(page + 160, counters.media_errors);
	store_le64(page + 176, atomic_load(&nvme->error_count));
	return 512;
}

static uint32_t fill_firmware(struct nvme *nvme, uint8_t *page)
{
	page[0] = 1; /* slot 1 is active */
	memset(page + 8, ' ', 8);
	memcpy(page + 8, SIDECORE_VERSION, min(sizeof(SIDECORE_VERSION) - 1, (size_t)8));
	return 512;
}

static uint32_t fill_changed(struct nvme *nvme, uint8_t *page)
{
	unsigned offset = 0;

	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		if (!nvme->namespaces[i].changed)
			continue;
		store_le32(page + offset, i + 1);
		offset += 4;
	}
	return 4096;
}

static uint32_t fill_commands(struct nvme *nvme, uint8_t *page)
{
	static const uint8_t admin[] = { NVME_ADMIN_DELETE_SQ,	NVME_ADMIN_CREATE_SQ,	 NVME_ADMIN_GET_LOG_PAGE,
					 NVME_ADMIN_DELETE_CQ,	NVME_ADMIN_CREATE_CQ,	 NVME_ADMIN_IDENTIFY,
					 NVME_ADMIN_ABORT,	NVME_ADMIN_SET_FEATURES, NVME_ADMIN_GET_FEATURES,
					 NVME_ADMIN_ASYNC_EVENT };
	static const uint8_t readers[] = { NVME_FLUSH, NVME_READ, NVME_COMPARE, NVME_VERIFY };
	static const uint8_t writers[] = { NVME_WRITE, NVME_WRITE_ZEROES, NVME_DATASET };

	for (unsigned i = 0; i < array_size(admin); i++)
		store_le32(page + 4U * admin[i], EFFECT_SUPPORTED | SCOPE_CONTROLLER);
	for (unsigned i = 0; i < array_size(readers); i++)
		store_le32(page + 1024 + 4U * readers[i], EFFECT_SUPPORTED | SCOPE_NAMESPACE);
	for (unsigned i = 0; i < array_size(writers); i++)
		store_le32(page + 1024 + 4U * writers[i], EFFECT_SUPPORTED | EFFECT_CONTENT | SCOPE_NAMESPACE);
	return 4096;
}

static uint32_t fill_features(struct nvme *nvme, uint8_t *page)
{
	for (unsigned id = 0; id < 256; id++)
		store_le32(page + 4 * id, nvme_feature_effects(nvme, (uint8_t)id));
	return 1024;
}

/* Return: the page's length; 0: there is no such page. */
static uint32_t fill(struct nvme *nvme, unsigned log, uint8_t *page)
{
	switch (log) {
	case NVME_LOG_SUPPORTED:
		return fill_supported(nvme, page);
	case NVME_LOG_ERROR:
		return fill_errors(nvme, page);
	case NVME_LOG_SMART:
		return fill_smart(nvme, page);
	case NVME_LOG_FIRMWARE:
		return fill_firmware(nvme, page);
	case NVME_LOG_CHANGED_NAMESPACES:
		return fill_changed(nvme, page);
	case NVME_LOG_COMMANDS:
		return fill_commands(nvme, page);
	case NVME_LOG_FEATURES:
		return fill_features(nvme, page);
	case NVME_LOG_MANAGEMENT:
		return 4096; /* none of these commands */
	}
	return 0;
}

static void was_read(struct nvme *nvme, unsigned log)
{
	if (log == NVME_LOG_CHANGED_NAMESPACES) {
		for (uint32_t i = 0; i < nvme->namespace_count; i++)
			nvme->namespaces[i].changed = false;
	}
	nvme_event_unmask(nvme, (enum nvme_log)log);
}

/* What is asked of a page of @length bytes. Return: status. */
static uint16_t check(const struct nvme_command *command, uint32_t length, uint64_t count, uint64_t offset)
{
	uint32_t nsid = le32toh(command->nsid), dw14 = le32toh(command->dw14);

	if (!length)
		return NVME_INVALID_LOG_PAGE | NVME_DNR;
	/* Logs are the controller's; none is kept for each namespace (LPA bit 0). */
	if (nsid && nsid != NVME_NSID_ALL)
		return NVME_INVALID_FIELD | NVME_DNR;
	/* Offsets are bytes, not indices: no page has any (bit 23). */
	if (offset > length || offset & 3 || dw14 & 1U << 23)
		return NVME_INVALID_FIELD | NVME_DNR;
	/* Commands are those of a command set; there is one. */
	if ((le32toh(command->dw10) & 0xff) == NVME_LOG_COMMANDS && dw14 >> 24)
		return NVME_INVALID_FIELD | NVME_DNR;
	return count * 4 > NVME_TRANSFER_MAX ? NVME_INVALID_FIELD | NVME_DNR : NVME_SUCCESS;
}

uint16_t nvme_get_log_page(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t dw10 = le32toh(command->dw10);
	uint64_t count = ((uint64_t)(le32toh(command->dw11) & 0xffff) << 16 | dw10 >> 16) + 1;
	uint64_t offset = (uint64_t)le32toh(command->dw13) << 32 | le32toh(command->dw12);
	uint8_t page[LOG_MAX] = { 0 };
	uint32_t length = fill(nvme, dw10 & 0xff, page);
	uint16_t status = check(command, length, count, offset);

	if (status)
		return status;
	status = nvme_admin_write(nvme, command, page + offset, length - (uint32_t)offset, (uint32_t)count * 4);
	if (!status && !(dw10 & RETAIN))
		was_read(nvme, dw10 & 0xff);
	return status;
}
