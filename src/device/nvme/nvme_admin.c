/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe admin queue: how commands get to the control thread, and what all of them have in common.
 *
 * Theory of operation
 * -------------------
 * The admin doorbells lie in the window with all others, so a sidecore watches them; it does not touch the queue but
 * hands over to the control thread, which creates and stops queues anyway. A hand-over is posted once until it has run.
 * Doorbells that come as messages are the control thread's already.
 *
 * Commands are executed in order. One that has to wait (a queue that drains before it is deleted) holds back those
 * after it; asynchronous event requests do not: they are kept aside until there is an event (nvme_event.c).
 *
 * A completion needs a slot of the completion queue: a command is taken only when there is one, which it keeps. A guest
 * that floods the queue is served RUN_MAX commands at a time, between which the control thread does other things.
 *
 * Context: control thread, but for the watching poller.
 */
#include <string.h>

#include "base/counter.h"
#include "device/nvme/nvme_admin.h"

#define RUN_MAX 32U

/* ---- on the sidecore ----------------------------------------------------------------------------------------------
 */

static uint32_t doorbells(const struct nvme *nvme)
{
	const struct pci_bar *bar = &nvme->device.bars[NVME_BAR];

	return (pci_window_load(bar, nvme_tail_doorbell(0)) & 0xffffU) | pci_window_load(bar, nvme_head_doorbell(0))
										 << 16;
}

static void post_work(struct nvme *nvme)
{
	if (!atomic_exchange(&nvme->admin.work_posted, true))
		engine_complete(nvme->device.engine, &nvme->admin.work);
}

static unsigned watch(struct poller *poller, const struct turn *turn)
{
	struct nvme *nvme = container_of(poller, struct nvme, admin.queue.poller);

	if (likely(doorbells(nvme) == atomic_load_explicit(&nvme->admin.seen, memory_order_relaxed)) ||
	    atomic_load_explicit(&nvme->admin.work_posted, memory_order_relaxed))
		return 0;
	post_work(nvme);
	return 1;
}

static bool arm(struct poller *poller)
{
	struct nvme *nvme = container_of(poller, struct nvme, admin.queue.poller);

	device_queue_arm(&nvme->admin.queue);
	return doorbells(nvme) != atomic_load_explicit(&nvme->admin.seen, memory_order_relaxed) &&
	       !atomic_load_explicit(&nvme->admin.work_posted, memory_order_relaxed);
}

static void disarm(struct poller *poller)
{
	device_queue_disarm(&container_of(poller, struct nvme, admin.queue.poller)->admin.queue);
}

const struct poller_ops nvme_admin_poller_ops = {
	.kind = "nvme admin",
	.poll = watch,
	.arm = arm,
	.disarm = disarm,
};

/* ---- on the control thread ----------------------------------------------------------------------------------------
 */

typedef uint16_t admin_handler(struct nvme *nvme, const struct nvme_command *command, uint32_t *result);

static admin_handler *const handlers[] = {
	[NVME_ADMIN_DELETE_SQ] = nvme_delete_sq,
	[NVME_ADMIN_CREATE_SQ] = nvme_create_sq,
	[NVME_ADMIN_GET_LOG_PAGE] = nvme_get_log_page,
	[NVME_ADMIN_DELETE_CQ] = nvme_delete_cq,
	[NVME_ADMIN_CREATE_CQ] = nvme_create_cq,
	[NVME_ADMIN_IDENTIFY] = nvme_identify,
	[NVME_ADMIN_ABORT] = nvme_abort,
	[NVME_ADMIN_SET_FEATURES] = nvme_set_features,
	[NVME_ADMIN_GET_FEATURES] = nvme_get_features,
	[NVME_ADMIN_ASYNC_EVENT] = nvme_async_event,
};

/* The segments of an admin command's data: any transfer that is allowed, in pages of any size. Return: status. */
static uint16_t map_data(struct nvme *nvme, const struct nvme_command *command, uint32_t length, struct nvme_dma *dma)
{
	uint16_t status;

	dma->memory = nvme->device.memory;
	dma->hint = &nvme->admin.hint;
	dma->page_shift = (uint8_t)(NVME_PAGE_SHIFT_MIN + NVME_CC_MPS(nvme->cc));
	status = nvme_dma_map(dma, command, length);
	return status == NVME_DMA_FULL ? NVME_DATA_TRANSFER_ERROR | NVME_DNR : status;
}

uint16_t nvme_admin_read(struct nvme *nvme, const struct nvme_command *command, void *bytes, uint32_t length)
{
	struct guest_segment segments[NVME_SEGMENTS_MAX];
	struct nvme_dma dma = { .segments = segments, .capacity = array_size(segments) };
	uint16_t status = map_data(nvme, command, length, &dma);
	uint8_t *to = bytes;

	for (unsigned i = 0; i < dma.count && !status; i++) {
		guest_fetch(to, segments[i].base, segments[i].length);
		to += segments[i].length;
	}
	return status;
}

uint16_t nvme_admin_write(struct nvme *nvme, const struct nvme_command *command, const void *bytes, uint32_t available,
			  uint32_t length)
{
	struct guest_segment segments[NVME_SEGMENTS_MAX];
	struct nvme_dma dma = { .segments = segments, .capacity = array_size(segments) };
	uint16_t status = map_data(nvme, command, length, &dma);
	const uint8_t *from = bytes;

	for (unsigned i = 0; i < dma.count && !status; i++) {
		uint32_t piece = (uint32_t)min(segments[i].length, (uint64_t)available);

		guest_write(segments[i].base, from, piece);
		guest_zero(segments[i].base + piece, segments[i].length - piece);
		from += piece;
		available -= piece;
	}
	return status;
}

static uint16_t execute(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	/* Admin commands have PRPs, no SGLs (PCIe Transport 2.2); nothing is fused. */
	if (command->flags)
		return NVME_INVALID_FIELD | NVME_DNR;
	if (command->opcode >= array_size(handlers) || !handlers[command->opcode])
		return NVME_INVALID_OPCODE | NVME_DNR;
	return handlers[command->opcode](nvme, command, result);
}

static void post(struct nvme *nvme, uint16_t cid, uint16_t status, uint32_t result)
{
	nvme_cq_post(nvme->admin.cq, htole32(result), nvme->admin.head, 0, cid, status);
}

void nvme_admin_complete(struct nvme *nvme, uint16_t cid, uint16_t status)
{
	nvme->admin.busy = false;
	post(nvme, cid, status, 0);
	nvme_cq_interrupt(nvme->admin.cq, engine_notifier(nvme->device.engine));
	/* What waited behind it goes on, but not from within a queue's end. */
	post_work(nvme);
}

/* Return: the status with which the driver learns that there is an entry in the log. */
static uint16_t log_failure(struct nvme *nvme, const struct nvme_command *command, uint16_t status)
{
	const struct nvme_error error = {
		.cid = command->cid, .status = status, .opcode = command->opcode, .nsid = le32toh(command->nsid)
	};

	return nvme_log_error(nvme, 0, &error);
}

static void take_command(struct nvme *nvme)
{
	struct nvme_admin *admin = &nvme->admin;
	struct nvme_command command;
	uint32_t result = 0;
	uint16_t status;

	guest_fetch(&command, admin->entries + ((size_t)admin->head << NVME_COMMAND_SHIFT), sizeof(command));
	admin->head = admin->head + 1 == admin->size ? 0 : admin->head + 1;
	counter_add(&nvme->admin_commands, 1);
	status = execute(nvme, &command, &result);
	if (status == NVME_LATER)
		return;
	if (status)
		status = log_failure(nvme, &command, status);
	post(nvme, command.cid, status, result);
}

/* An invalid doorbell stops the queue; only a reset of the controller helps (PCIe Transport 3.1.2.1). */
static void break_admin(struct nvme *nvme, const char *reason)
{
	if (nvme->admin.broken)
		return;
	nvme->admin.broken = true;
	pci_device_fault(&nvme->device, reason);
	nvme_update(nvme);
}

/* Is there a command that can be taken now? */
static bool command_waits(struct nvme *nvme)
{
	struct nvme_admin *admin = &nvme->admin;
	uint32_t seen = atomic_load_explicit(&admin->seen, memory_order_relaxed), tail = seen & 0xffffU;

	if (tail >= admin->size) {
		break_admin(nvme, "admin submission queue tail beyond the queue");
		return false;
	}
	return tail != admin->head && admin->cq->space;
}

void nvme_admin_run(struct nvme *nvme)
{
	struct nvme_admin *admin = &nvme->admin;
	unsigned count = 0;

	if (!nvme->running || admin->broken)
		return;
	/* Before the heads and tails are used: what changes from here on differs from it, and is handed over again. */
	atomic_store_explicit(&admin->seen, doorbells(nvme), memory_order_relaxed);
	if (!nvme_cq_look(admin->cq)) {
		break_admin(nvme, "admin completion queue head beyond what there was to take");
		return;
	}
	if (!nvme_uses_msix(nvme))
		nvme_cq_level(admin->cq, engine_notifier(nvme->device.engine));
	nvme_events_deliver(nvme);
	while (!nvme->resting && !admin->busy && count < RUN_MAX && command_waits(nvme)) {
		/* An asynchronous event request gives its slot back, and takes one when it ends. */
		nvme_cq_reserve(admin->cq, 1);
		take_command(nvme);
		count++;
	}
	nvme_cq_interrupt(admin->cq, engine_notifier(nvme->device.engine));
	if (count == RUN_MAX)
		post_work(nvme);
}

void nvme_admin_work(struct engine_completion *completion)
{
	struct nvme *nvme = container_of(completion, struct nvme, admin.work);

	/* Cleared first: a doorbell that changes from here on is handed over again. */
	atomic_store(&nvme->admin.work_posted, false);
	nvme_admin_run(nvme);
}
