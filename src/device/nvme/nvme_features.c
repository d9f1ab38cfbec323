/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe Get Features and Set Features (Base 5.15, 5.27; NVM Command Set 4.1.3).
 *
 * Nothing can be saved: after a reset each feature has its default. All but one are of the controller; error recovery is of
 * a namespace (NVM Command Set 4.1.3.2). Which there are, and whether they can be changed, is one table.
 *
 * Without the volatile write cache each write is durable when it completes. What was written before is flushed when the
 * cache is switched off, and the command completes after that.
 *
 * Context: control thread, but for the write cache, which sidecores read.
 */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "device/nvme/nvme_admin.h"

#define SAVE (1U << 31)

enum select {
	CURRENT,
	DEFAULT,
	SAVED,
	CAPABILITIES,
};

#define CAPABILITY_NAMESPACE  2U
#define CAPABILITY_CHANGEABLE 4U

/* All can be changed. */
static const uint8_t known[] = {
	NVME_FEATURE_ARBITRATION,	NVME_FEATURE_POWER,   NVME_FEATURE_TEMPERATURE, NVME_FEATURE_ERROR_RECOVERY,
	NVME_FEATURE_WRITE_CACHE,	NVME_FEATURE_QUEUES,  NVME_FEATURE_COALESCING,	NVME_FEATURE_VECTOR,
	NVME_FEATURE_ATOMICITY,		NVME_FEATURE_EVENTS,  NVME_FEATURE_TIMESTAMP,	NVME_FEATURE_COMMAND_SETS,
	NVME_FEATURE_SOFTWARE_PROGRESS, NVME_FEATURE_HOST_ID,
};

static bool exists(const struct nvme *nvme, unsigned id)
{
	/* Without a volatile write cache there is nothing to switch (Base 5.27.1.4). */
	return memchr(known, (int)id, sizeof(known)) && (id != NVME_FEATURE_WRITE_CACHE || nvme->has_cache);
}

static bool is_of_namespace(unsigned id)
{
	return id == NVME_FEATURE_ERROR_RECOVERY;
}

uint32_t nvme_feature_effects(const struct nvme *nvme, uint8_t id)
{
	/* FSUPP; scope: namespace or controller (Base figure 253). */
	return exists(nvme, id) ? 1U << 0 | 1U << (is_of_namespace(id) ? 20 : 21) : 0;
}

/* Vectors do as coalescing says, which is off; the time is that since now. */
static void set_defaults(struct nvme_features *features)
{
	*features = (struct nvme_features){
		.arbitration = 6, /* bursts of 64: RAB */
		.temperature_over = 0x157,
		.timestamp_at = clock_nanoseconds(),
	};
	for (unsigned i = 0; i <= NVME_QUEUES_MAX; i++)
		features->vectors[i] = i;
}

void nvme_features_reset(struct nvme *nvme)
{
	set_defaults(&nvme->features);
	for (uint32_t i = 0; i < nvme->namespace_count; i++)
		nvme->namespaces[i].error_recovery = 0;
	atomic_store(&nvme->write_cache, nvme->has_cache);
}

/* ---- features with data ------------------------------------------------------------------------------------------ */

static uint16_t get_timestamp(struct nvme *nvme, const struct nvme_features *f, const struct nvme_command *command)
{
	uint64_t now = f->timestamp + (clock_nanoseconds() - f->timestamp_at) / NANOSECONDS_PER_MILLISECOND;
	uint64_t value = htole64((now & 0xffffffffffffULL) | (uint64_t)f->timestamp_origin << 49);

	return nvme_admin_write(nvme, command, &value, sizeof(value), sizeof(value));
}

static uint16_t set_timestamp(struct nvme *nvme, const struct nvme_command *command)
{
	uint64_t value;
	uint16_t status = nvme_admin_read(nvme, command, &value, sizeof(value));

	if (status)
		return status;
	nvme->features.timestamp = le64toh(value) & 0xffffffffffffULL;
	nvme->features.timestamp_at = clock_nanoseconds();
	nvme->features.timestamp_origin = 1;
	return NVME_SUCCESS;
}

static uint16_t get_host_id(struct nvme *nvme, const struct nvme_features *f, const struct nvme_command *command)
{
	uint32_t length = le32toh(command->dw11) & 1 ? 16 : 8;

	return nvme_admin_write(nvme, command, f->host_id, length, length);
}

static uint16_t set_host_id(struct nvme *nvme, const struct nvme_command *command)
{
	uint32_t length = le32toh(command->dw11) & 1 ? 16 : 8;
	uint8_t id[16] = { 0 };
	uint16_t status = nvme_admin_read(nvme, command, id, length);

	if (!status)
		memcpy(nvme->features.host_id, id, sizeof(id));
	return status;
}

/* ---- get --------------------------------------------------------------------------------------------------------- */

static uint16_t get_temperature(const struct nvme_features *f, uint32_t dw11, uint32_t *result)
{
	/* The composite temperature, over (0) and under (1); there are no further sensors. */
	if (dw11 >> 16 & 15 || (dw11 >> 20 & 3) > 1)
		return NVME_INVALID_FIELD | NVME_DNR;
	*result = dw11 >> 20 & 1 ? f->temperature_under : f->temperature_over;
	return NVME_SUCCESS;
}

static uint16_t get_value(struct nvme *nvme, const struct nvme_features *f, const struct nvme_command *command,
			  uint32_t *result)
{
	uint32_t dw11 = le32toh(command->dw11);
	bool current = f == &nvme->features;

	switch (le32toh(command->dw10) & 0xff) {
	case NVME_FEATURE_ARBITRATION:
		*result = f->arbitration;
		break;
	case NVME_FEATURE_POWER:
		*result = f->power;
		break;
	case NVME_FEATURE_TEMPERATURE:
		return get_temperature(f, dw11, result);
	case NVME_FEATURE_ERROR_RECOVERY:
		*result = current ? nvme->namespaces[le32toh(command->nsid) - 1].error_recovery : 0;
		break;
	case NVME_FEATURE_WRITE_CACHE:
		*result = current ? atomic_load(&nvme->write_cache) : 1;
		break;
	case NVME_FEATURE_QUEUES:
		*result = (nvme->queues - 1U) << 16 | (nvme->queues - 1U);
		break;
	case NVME_FEATURE_COALESCING:
		*result = f->coalescing;
		break;
	case NVME_FEATURE_VECTOR:
		if ((dw11 & 0xffff) > nvme->queues)
			return NVME_INVALID_FIELD | NVME_DNR;
		*result = f->vectors[dw11 & 0xffff];
		break;
	case NVME_FEATURE_ATOMICITY:
		*result = f->atomicity;
		break;
	case NVME_FEATURE_EVENTS:
		*result = f->events;
		break;
	case NVME_FEATURE_TIMESTAMP:
		return get_timestamp(nvme, f, command);
	case NVME_FEATURE_SOFTWARE_PROGRESS:
		*result = f->software_progress;
		break;
	case NVME_FEATURE_HOST_ID:
		return get_host_id(nvme, f, command);
	}
	return NVME_SUCCESS;
}

uint16_t nvme_get_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	struct nvme_features defaults;
	uint32_t dw10 = le32toh(command->dw10);
	uint32_t id = dw10 & 0xff, nsid = le32toh(command->nsid);

	if (!exists(nvme, id))
		return NVME_INVALID_FIELD | NVME_DNR;
	/* Of one namespace; of all there is not one value. */
	if (is_of_namespace(id) && (!nsid || nsid > nvme->namespace_count))
		return NVME_INVALID_NAMESPACE | NVME_DNR;
	switch (dw10 >> 8 & 7) {
	case CURRENT:
		return get_value(nvme, &nvme->features, command, result);
	case DEFAULT:
	case SAVED: /* what is not saveable is as its default (Base 5.15) */
		set_defaults(&defaults);
		return get_value(nvme, &defaults, command, result);
	case CAPABILITIES:
		*result = CAPABILITY_CHANGEABLE | (is_of_namespace(id) ? CAPABILITY_NAMESPACE : 0);
		return NVME_SUCCESS;
	}
	return NVME_INVALID_FIELD | NVME_DNR;
}

/* ---- set --------------------------------------------------------------------------------------------------------- */

static uint16_t set_temperature(struct nvme_features *f, uint32_t dw11)
{
	if ((dw11 >> 16 & 15 && (dw11 >> 16 & 15) != 15) || (dw11 >> 20 & 3) > 1)
		return NVME_INVALID_FIELD | NVME_DNR;
	if (dw11 >> 20 & 1)
		f->temperature_under = (uint16_t)dw11;
	else
		f->temperature_over = (uint16_t)dw11;
	return NVME_SUCCESS;
}

/* Thresholds, or what is reported of them, have changed: the temperature never does. */
static void report_temperature(struct nvme *nvme)
{
	if (nvme_critical_warning(nvme) & nvme->features.events & NVME_EVENT_CONFIG_HEALTH)
		nvme_event(nvme, NVME_EVENT_HEALTH, NVME_EVENT_TEMPERATURE, NVME_LOG_SMART);
}

static uint16_t set_error_recovery(struct nvme *nvme, uint32_t nsid, uint32_t dw11)
{
	if (nsid != NVME_NSID_ALL && (!nsid || nsid > nvme->namespace_count))
		return NVME_INVALID_NAMESPACE | NVME_DNR;
	if (dw11 & 1U << 16) /* DULBE is not offered (NSFEAT) */
		return NVME_INVALID_FIELD | NVME_DNR;
	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		if (nsid == NVME_NSID_ALL || nsid == i + 1)
			nvme->namespaces[i].error_recovery = dw11;
	}
	return NVME_SUCCESS;
}

static void cache_flushed(struct nvme *nvme, int error)
{
	const struct nvme_error entry = { .cid = nvme->admin.flush_cid,
					  .status = NVME_INTERNAL_ERROR,
					  .opcode = NVME_ADMIN_SET_FEATURES };

	/* As for a queue that was to be deleted: a controller that is being reset has nobody to answer. */
	if (nvme->state == NVME_READY && nvme->operation != NVME_RESET)
		nvme_admin_complete(nvme, nvme->admin.flush_cid,
				    error ? nvme_log_error(nvme, 0, &entry) : NVME_SUCCESS);
	nvme_flushed(nvme);
}

static uint16_t set_write_cache(struct nvme *nvme, const struct nvme_command *command)
{
	bool on = le32toh(command->dw11) & 1;

	if (!atomic_exchange(&nvme->write_cache, on) || on)
		return NVME_SUCCESS;
	nvme->admin.busy = true;
	nvme->admin.flush_cid = command->cid;
	nvme_flush(nvme, cache_flushed);
	return NVME_LATER;
}

static void set_coalescing(struct nvme *nvme)
{
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->cqs[i].present)
			nvme_cq_set_coalescing(&nvme->cqs[i]);
	}
}

static uint16_t set_queues(struct nvme *nvme, uint32_t dw11, uint32_t *result)
{
	if ((dw11 & 0xffff) == 0xffff || dw11 >> 16 == 0xffff)
		return NVME_INVALID_FIELD | NVME_DNR;
	/* Only before there are any (Base 5.27.1.5). */
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->cqs[i].present)
			return NVME_COMMAND_SEQUENCE | NVME_DNR;
	}
	*result = (nvme->queues - 1U) << 16 | (nvme->queues - 1U);
	return NVME_SUCCESS;
}

static uint16_t set_value(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	struct nvme_features *f = &nvme->features;
	uint32_t dw11 = le32toh(command->dw11);
	uint16_t status;

	switch (le32toh(command->dw10) & 0xff) {
	case NVME_FEATURE_ARBITRATION:
		f->arbitration = dw11;
		break;
	case NVME_FEATURE_POWER:
		if (dw11 & 31)
			return NVME_INVALID_FIELD | NVME_DNR;
		f->power = dw11;
		break;
	case NVME_FEATURE_TEMPERATURE:
		status = set_temperature(f, dw11);
		if (!status)
			report_temperature(nvme);
		return status;
	case NVME_FEATURE_ERROR_RECOVERY:
		return set_error_recovery(nvme, le32toh(command->nsid), dw11);
	case NVME_FEATURE_WRITE_CACHE:
		return set_write_cache(nvme, command);
	case NVME_FEATURE_QUEUES:
		return set_queues(nvme, dw11, result);
	case NVME_FEATURE_COALESCING:
		f->coalescing = dw11 & 0xffff;
		set_coalescing(nvme);
		break;
	case NVME_FEATURE_VECTOR:
		if ((dw11 & 0xffff) > nvme->queues)
			return NVME_INVALID_FIELD | NVME_DNR;
		f->vectors[dw11 & 0xffff] = dw11 & 0x1ffff;
		set_coalescing(nvme);
		break;
	case NVME_FEATURE_ATOMICITY:
		f->atomicity = dw11 & 1;
		break;
	case NVME_FEATURE_EVENTS:
		f->events = dw11;
		report_temperature(nvme);
		break;
	case NVME_FEATURE_TIMESTAMP:
		return set_timestamp(nvme, command);
	case NVME_FEATURE_COMMAND_SETS:
		return dw11 & 0x1ff ? NVME_COMMAND_SETS_REJECTED | NVME_DNR : NVME_SUCCESS;
	case NVME_FEATURE_SOFTWARE_PROGRESS:
		f->software_progress = dw11 & 0xff;
		break;
	case NVME_FEATURE_HOST_ID:
		return set_host_id(nvme, command);
	}
	return NVME_SUCCESS;
}

uint16_t nvme_set_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t dw10 = le32toh(command->dw10), nsid = le32toh(command->nsid);

	if (!exists(nvme, dw10 & 0xff))
		return NVME_INVALID_FIELD | NVME_DNR;
	if (dw10 & SAVE)
		return NVME_FEATURE_NOT_SAVEABLE | NVME_DNR;
	/* Nobody is to believe that a feature of the controller was set for one namespace (Base 5.27). */
	if (!is_of_namespace(dw10 & 0xff) && nsid && nsid != NVME_NSID_ALL)
		return nsid > nvme->namespace_count ? NVME_INVALID_NAMESPACE | NVME_DNR
						    : NVME_FEATURE_NOT_NAMESPACE | NVME_DNR;
	return set_value(nvme, command, result);
}
