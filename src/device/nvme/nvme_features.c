/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe Get Features and Set Features (Base 5.15, 5.27; NVM Command Set 4.1.3).
 *
 * Nothing can be saved: after a reset each feature has its default. All are of the controller. Which there are, and
 * whether they can be changed, is one table.
 *
 * Context: control thread, but for the write cache, which sidecores read.
 */
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "device/nvme/nvme_internal.h"

#define SAVE (1U << 31)

enum select {
	CURRENT,
	DEFAULT,
	SAVED,
	CAPABILITIES,
};

#define CAPABILITY_CHANGEABLE 4U

static const struct {
	uint8_t id;
	bool changeable;
} features[] = {
	{ NVME_FEATURE_ARBITRATION, true },  { NVME_FEATURE_POWER, true },
	{ NVME_FEATURE_TEMPERATURE, true },  { NVME_FEATURE_ERROR_RECOVERY, true },
	{ NVME_FEATURE_WRITE_CACHE, true },  { NVME_FEATURE_QUEUES, true },
	{ NVME_FEATURE_COALESCING, true },   { NVME_FEATURE_VECTOR, true },
	{ NVME_FEATURE_ATOMICITY, true },    { NVME_FEATURE_EVENTS, true },
	{ NVME_FEATURE_TIMESTAMP, true },    { NVME_FEATURE_KEEP_ALIVE, false },
	{ NVME_FEATURE_COMMAND_SETS, true }, { NVME_FEATURE_SOFTWARE_PROGRESS, true },
	{ NVME_FEATURE_HOST_ID, true },
};

/* Return: the feature's place in the table, or -1. */
static int find(const struct nvme *nvme, unsigned id)
{
	/* Without a volatile write cache there is nothing to switch (Base 5.27.1.4). */
	if (id == NVME_FEATURE_WRITE_CACHE && !nvme->has_cache)
		return -1;
	for (unsigned i = 0; i < array_size(features); i++) {
		if (features[i].id == id)
			return (int)i;
	}
	return -1;
}

uint32_t nvme_feature_effects(uint8_t id)
{
	for (unsigned i = 0; i < array_size(features); i++) {
		if (features[i].id == id)
			return 1U << 0 | 1U << 21; /* FSUPP; scope: controller (Base figure 253) */
	}
	return 0;
}

void nvme_features_reset(struct nvme *nvme)
{
	nvme->features = (struct nvme_features){
		.arbitration = 6, /* bursts of 64: RAB */
		.temperature_over = 0x157,
		.timestamp_at = clock_nanoseconds(),
	};
	/* After a reset vectors 0 to n do as coalescing says, which is off. */
	for (unsigned i = 0; i <= NVME_QUEUES_MAX; i++)
		nvme->features.vectors[i] = i;
	atomic_store(&nvme->write_cache, nvme->has_cache);
}

/* ---- features with data ------------------------------------------------------------------------------------------ */

static uint16_t get_timestamp(struct nvme *nvme, const struct nvme_command *command)
{
	const struct nvme_features *f = &nvme->features;
	uint64_t now = f->timestamp + (clock_nanoseconds() - f->timestamp_at) / NANOSECONDS_PER_MILLISECOND;
	uint64_t value = htole64((now & 0xffffffffffffULL) | (uint64_t)f->timestamp_origin << 49);

	return nvme_admin_transfer(nvme, command, &value, sizeof(value), true);
}

static uint16_t set_timestamp(struct nvme *nvme, const struct nvme_command *command)
{
	uint64_t value;
	uint16_t status = nvme_admin_transfer(nvme, command, &value, sizeof(value), false);

	if (status)
		return status;
	nvme->features.timestamp = le64toh(value) & 0xffffffffffffULL;
	nvme->features.timestamp_at = clock_nanoseconds();
	nvme->features.timestamp_origin = 1;
	return NVME_SUCCESS;
}

static uint16_t host_id(struct nvme *nvme, const struct nvme_command *command, bool get)
{
	uint32_t length = le32toh(command->dw11) & 1 ? 16 : 8;
	uint8_t id[16] = { 0 };
	uint16_t status;

	if (get)
		return nvme_admin_transfer(nvme, command, nvme->features.host_id, length, true);
	status = nvme_admin_transfer(nvme, command, id, length, false);
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
		*result = f->error_recovery;
		break;
	case NVME_FEATURE_WRITE_CACHE:
		*result = f == &nvme->features ? atomic_load(&nvme->write_cache) : 1;
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
		*result = f == &nvme->features ? f->vectors[dw11 & 0xffff] : dw11 & 0xffff;
		break;
	case NVME_FEATURE_ATOMICITY:
		*result = f->atomicity;
		break;
	case NVME_FEATURE_EVENTS:
		*result = f->events;
		break;
	case NVME_FEATURE_TIMESTAMP:
		return get_timestamp(nvme, command);
	case NVME_FEATURE_SOFTWARE_PROGRESS:
		*result = f->software_progress;
		break;
	case NVME_FEATURE_HOST_ID:
		return host_id(nvme, command, true);
	}
	return NVME_SUCCESS;
}

uint16_t nvme_get_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	static const struct nvme_features defaults = { .arbitration = 6, .temperature_over = 0x157 };
	uint32_t dw10 = le32toh(command->dw10);
	int index = find(nvme, dw10 & 0xff);

	if (index < 0)
		return NVME_INVALID_FIELD | NVME_DNR;
	switch (dw10 >> 8 & 7) {
	case CURRENT:
		return get_value(nvme, &nvme->features, command, result);
	case DEFAULT:
	case SAVED: /* what is not saveable is as its default (Base 5.15) */
		return get_value(nvme, &defaults, command, result);
	case CAPABILITIES:
		*result = features[index].changeable ? CAPABILITY_CHANGEABLE : 0;
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
		return set_temperature(f, dw11);
	case NVME_FEATURE_ERROR_RECOVERY:
		if (dw11 & 1U << 16) /* DULBE is not offered (NSFEAT) */
			return NVME_INVALID_FIELD | NVME_DNR;
		f->error_recovery = dw11;
		break;
	case NVME_FEATURE_WRITE_CACHE:
		atomic_store(&nvme->write_cache, dw11 & 1);
		break;
	case NVME_FEATURE_QUEUES:
		return set_queues(nvme, dw11, result);
	case NVME_FEATURE_COALESCING:
		/* Kept, and no more than a hint: completions are told of once a batch whatever it says. */
		f->coalescing = dw11 & 0xffff;
		break;
	case NVME_FEATURE_VECTOR:
		if ((dw11 & 0xffff) > nvme->queues)
			return NVME_INVALID_FIELD | NVME_DNR;
		f->vectors[dw11 & 0xffff] = dw11 & 0x1ffff;
		break;
	case NVME_FEATURE_ATOMICITY:
		f->atomicity = dw11 & 1;
		break;
	case NVME_FEATURE_EVENTS:
		f->events = dw11;
		break;
	case NVME_FEATURE_TIMESTAMP:
		return set_timestamp(nvme, command);
	case NVME_FEATURE_KEEP_ALIVE:
		return dw11 ? NVME_KEEP_ALIVE_INVALID | NVME_DNR : NVME_SUCCESS;
	case NVME_FEATURE_COMMAND_SETS:
		return dw11 & 0x1ff ? NVME_COMMAND_SETS_REJECTED | NVME_DNR : NVME_SUCCESS;
	case NVME_FEATURE_SOFTWARE_PROGRESS:
		f->software_progress = dw11 & 0xff;
		break;
	case NVME_FEATURE_HOST_ID:
		return host_id(nvme, command, false);
	}
	return NVME_SUCCESS;
}

uint16_t nvme_set_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t dw10 = le32toh(command->dw10);

	if (find(nvme, dw10 & 0xff) < 0)
		return NVME_INVALID_FIELD | NVME_DNR;
	if (dw10 & SAVE)
		return NVME_FEATURE_NOT_SAVEABLE | NVME_DNR;
	return set_value(nvme, command, result);
}
