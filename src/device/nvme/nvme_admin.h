/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe: the admin queue, its commands and asynchronous events. Context: control thread, but for nvme_admin_poller_ops. */
#ifndef DEVICE_NVME_NVME_ADMIN_H
#define DEVICE_NVME_NVME_ADMIN_H

#include "device/nvme/nvme_internal.h"

/* ---- nvme_admin.c ---- */

/** What a command handler returns for "the completion comes later". */
#define NVME_LATER 0xfffeU

/** nvme_admin_run() - execute what the driver has submitted. */
void nvme_admin_run(struct nvme *nvme);

/** nvme_admin_complete() - post a completion of a command that was NVME_LATER. */
void nvme_admin_complete(struct nvme *nvme, uint16_t cid, uint16_t status);

extern const struct poller_ops nvme_admin_poller_ops;
void nvme_admin_work(struct engine_completion *completion);

/** nvme_admin_read(), _write() - copy @length bytes from, or to, where the data pointer of @command points. What is to be
 * written and is beyond the @available ones of @bytes, is zero. Return: status. */
uint16_t nvme_admin_read(struct nvme *nvme, const struct nvme_command *command, void *bytes, uint32_t length);
uint16_t nvme_admin_write(struct nvme *nvme, const struct nvme_command *command, const void *bytes, uint32_t available,
			  uint32_t length);

/* ---- nvme_admin_queues.c, nvme_identify.c, nvme_log.c, nvme_features.c: commands. Return: status or NVME_LATER ----
 */

uint16_t nvme_create_sq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_create_cq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_delete_sq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_delete_cq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
void nvme_finish_delete(struct nvme *nvme, struct nvme_sq *sq);
uint16_t nvme_identify(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_get_log_page(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_set_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
uint16_t nvme_get_features(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);
void nvme_features_reset(struct nvme *nvme);

/** nvme_feature_effects() - for the log page of that name. Return: 0 when there is no such feature. */
uint32_t nvme_feature_effects(const struct nvme *nvme, uint8_t id);

/** nvme_critical_warning() - as the health log has it. */
uint8_t nvme_critical_warning(const struct nvme *nvme);

/* ---- nvme_event.c ---- */

uint16_t nvme_async_event(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);

/** nvme_abort() - Base 5.1. */
uint16_t nvme_abort(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);

/** nvme_event() - something happened that the driver may want to know; nvme_event_unmask(): its log page was read. */
void nvme_event(struct nvme *nvme, enum nvme_event_type type, uint8_t info, enum nvme_log log);
void nvme_event_unmask(struct nvme *nvme, enum nvme_log log);

/** nvme_events_deliver() - complete requests for events that wait; the caller interrupts. */
void nvme_events_deliver(struct nvme *nvme);
void nvme_events_reset(struct nvme *nvme);

#endif
