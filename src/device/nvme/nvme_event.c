/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe asynchronous events (Base 5.2), and the Abort command (Base 5.1).
 *
 * One event of each type can wait. Once a request was completed with a type, further events of the type are held back until
 * the driver has read the log page that belongs to it (and did not ask, by RAE, to keep the event).
 *
 * Context: control thread.
 */
#include "device/nvme/nvme_admin.h"

void nvme_events_reset(struct nvme *nvme)
{
	nvme->admin.event_count = 0;
	for (unsigned i = 0; i < NVME_EVENT_TYPES; i++)
		nvme->admin.events[i].pending = nvme->admin.events[i].masked = false;
}

uint16_t nvme_async_event(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	struct nvme_admin *admin = &nvme->admin;

	if (admin->event_count == NVME_EVENT_LIMIT)
		return NVME_ASYNC_EVENT_LIMIT | NVME_DNR;
	admin->event_cids[admin->event_count++] = command->cid;
	nvme_cq_unreserve(admin->cq, 1);
	nvme_events_deliver(nvme);
	return NVME_LATER;
}

void nvme_events_deliver(struct nvme *nvme)
{
	struct nvme_admin *admin = &nvme->admin;

	if (!nvme->running || admin->broken)
		return;
	/* Commands that are being executed have their slots. */
	for (unsigned type = 0; type < NVME_EVENT_TYPES && admin->event_count && admin->cq->space; type++) {
		uint32_t result =
			type | (uint32_t)admin->events[type].info << 8 | (uint32_t)admin->events[type].log << 16;

		if (!admin->events[type].pending || admin->events[type].masked)
			continue;
		admin->events[type].pending = false;
		admin->events[type].masked = true;
		nvme_cq_reserve(admin->cq, 1);
		nvme_cq_post(admin->cq, result, admin->head, 0, admin->event_cids[--admin->event_count], NVME_SUCCESS);
	}
}

void nvme_event(struct nvme *nvme, enum nvme_event_type type, uint8_t info, enum nvme_log log)
{
	if (nvme->state != NVME_READY)
		return;
	nvme->admin.events[type].pending = true;
	nvme->admin.events[type].info = info;
	nvme->admin.events[type].log = (uint8_t)log;
	nvme_events_deliver(nvme);
	if (nvme->running)
		nvme_cq_interrupt(nvme->admin.cq, engine_notifier(nvme->device.engine));
}

void nvme_event_unmask(struct nvme *nvme, enum nvme_log log)
{
	for (unsigned type = 0; type < NVME_EVENT_TYPES; type++) {
		if (nvme->admin.events[type].masked && nvme->admin.events[type].log == log)
			nvme->admin.events[type].masked = false;
	}
	nvme_events_deliver(nvme);
}

uint16_t nvme_abort(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	struct nvme_admin *admin = &nvme->admin;
	uint32_t dw10 = le32toh(command->dw10);
	uint16_t sq_id = (uint16_t)dw10, cid = (uint16_t)(dw10 >> 16);

	/* Not aborted, unless we say otherwise: what the disk has cannot be taken back. */
	*result = 1;
	if (sq_id > nvme->queues || (sq_id && !nvme->sqs[sq_id]))
		return NVME_INVALID_FIELD | NVME_DNR;
	for (unsigned i = 0; !sq_id && i < admin->event_count && admin->cq->space; i++) {
		if (admin->event_cids[i] != cid)
			continue;
		admin->event_cids[i] = admin->event_cids[--admin->event_count];
		nvme_cq_reserve(admin->cq, 1);
		nvme_cq_post(admin->cq, 0, admin->head, 0, cid, NVME_ABORT_REQUESTED);
		*result = 0;
		break;
	}
	return NVME_SUCCESS;
}
