/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe queues: rings in guest memory, the slots of completion queues. Interrupts: nvme_interrupt.c.
 *
 * Trust boundary. Doorbells are memory that the guest writes whenever it likes: each is loaded once, bounded by its
 * queue's size, and compared with where we know the queue to be. Our own heads and tails are private.
 *
 * Theory of operation
 * -------------------
 * A completion queue may serve several submission queues. All of them live on the completion queue's sidecore, so that
 * nothing of it is shared between threads. Its slots are *reserved*: a command is fetched only when there is a slot for
 * its completion, so a driver that does not take completions stops its own submissions and nothing else. The head
 * doorbell is loaded when slots seem to run out, not for each command.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/nvme/nvme_admin.h"

/* ---- the poller of a submission queue ------------------------------------------------------------------------------
 */

static bool arm(struct poller *poller)
{
	struct nvme_sq *sq = container_of(poller, struct nvme_sq, queue.poller);
	uint32_t tail;

	device_queue_arm(&sq->queue);
	if (atomic_load_explicit(&sq->error, memory_order_relaxed))
		return false;
	tail = pci_window_load(&sq->nvme->device.bars[NVME_BAR], sq->doorbell) & 0xffffU;
	/*
	 * A queue that waits for its driver to take completions has nothing to do until that rings the head doorbell;
	 * one that waits for requests of its own is woken by their completions.
	 */
	return tail != sq->head && sq->free && (sq->cq->space || (nvme_cq_look(sq->cq) && sq->cq->space));
}

static void disarm(struct poller *poller)
{
	device_queue_disarm(&container_of(poller, struct nvme_sq, queue.poller)->queue);
}

static const struct poller_ops nvme_sq_poller_ops = {
	.kind = "nvme",
	.poll = nvme_sq_poll,
	.arm = arm,
	.disarm = disarm,
};

/* ---- rings ------------------------------------------------------------------------------------------------------- */

void nvme_cq_start(struct nvme_cq *cq, uint32_t size, uint64_t address, uint16_t vector, bool interrupts)
{
	pci_window_store(&cq->nvme->device.bars[NVME_BAR], nvme_head_doorbell(cq->id), 0);
	cq->size = size;
	cq->address = address;
	cq->vector = vector;
	cq->interrupts = interrupts;
	nvme_cq_set_coalescing(cq);
	cq->tail = cq->head = 0;
	cq->reserved = 0;
	cq->space = size - 1;
	cq->phase = 1;
	cq->fresh = 0;
	cq->broken = false;
	cq->users = 0;
	cq->present = true;
}

bool nvme_cq_map(struct nvme_cq *cq)
{
	const struct guest_memory *memory = cq->nvme->device.memory;

	cq->entries =
		memory ? guest_memory_range(memory, cq->address, (uint64_t)cq->size << NVME_COMPLETION_SHIFT) : NULL;
	/* A region's file may begin anywhere; entries are stored in halves that must not be torn. */
	return cq->entries && !((uintptr_t)cq->entries % sizeof(struct nvme_completion));
}

bool nvme_sq_map(struct nvme_sq *sq)
{
	const struct guest_memory *memory = sq->nvme->device.memory;

	sq->memory = memory;
	sq->hint = NULL;
	sq->entries = memory ? guest_memory_range(memory, sq->address, (uint64_t)sq->size << NVME_COMMAND_SHIFT) : NULL;
	return sq->entries;
}

static int open_channels(struct nvme_sq *sq)
{
	int rc = 0;

	for (uint32_t i = 0; i < sq->nvme->namespace_count && !rc; i++)
		rc = block_channel_open(sq->nvme->namespaces[i].disk, sq->cq->home, &sq->channels[i]);
	return rc;
}

/* The last touch of the completion queue, as far as this submission queue goes: nothing is held back any more. */
static void sq_rests(struct device_queue *queue)
{
	struct nvme_sq *sq = container_of(queue, struct nvme_sq, queue);

	nvme_cq_tell(sq->cq, sidecore_notifier(queue->home));
}

int nvme_sq_create(struct nvme *nvme, uint16_t id, uint32_t size, uint64_t address, struct nvme_cq *cq)
{
	struct nvme_sq *sq = aligned_alloc(CACHE_LINE, (sizeof(*sq) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	int rc;

	if (!sq)
		return -ENOMEM;
	memset(sq, 0, sizeof(*sq));
	sq->nvme = nvme;
	sq->cq = cq;
	sq->id = id;
	sq->size = size;
	sq->address = address;
	sq->doorbell = nvme_tail_doorbell(id);
	sq->page_shift = (uint8_t)(NVME_PAGE_SHIFT_MIN + NVME_CC_MPS(nvme->cc));
	sq->counters = &nvme->counters[id];
	rc = device_queue_init(&sq->queue, nvme->device.engine, true);
	if (rc) {
		free(sq);
		return rc;
	}
	sq->queue.poller.ops = &nvme_sq_poller_ops;
	sq->queue.resting = sq_rests;
	sq->queue.poller.silent = !nvme->posted;
	cq->users++;
	rc = nvme_requests_create(sq);
	if (!rc)
		rc = open_channels(sq);
	if (rc) {
		nvme_sq_destroy(sq);
		return rc;
	}
	pci_window_store(&nvme->device.bars[NVME_BAR], sq->doorbell, 0);
	nvme->sqs[id] = sq;
	return 0;
}

void nvme_sq_destroy(struct nvme_sq *sq)
{
	for (uint32_t i = 0; i < sq->nvme->namespace_count; i++) {
		if (sq->channels[i])
			block_channel_close(sq->channels[i], NULL);
	}
	nvme_requests_destroy(sq);
	device_queue_release(&sq->queue);
	sq->cq->users--;
	sq->nvme->sqs[sq->id] = NULL;
	free(sq);
}

/* ---- slots of completion queues ---------------------------------------------------------------------------------- */

bool nvme_cq_look(struct nvme_cq *cq)
{
	uint32_t head = pci_window_load(&cq->nvme->device.bars[NVME_BAR], nvme_head_doorbell(cq->id)) & 0xffffU;
	uint32_t used = cq->tail - cq->head + (cq->tail < cq->head ? cq->size : 0);
	uint32_t taken = head - cq->head + (head < cq->head ? cq->size : 0);

	/* The driver cannot have taken what is not there (PCIe Transport 3.1.2.2). */
	if (unlikely(cq->broken || head >= cq->size || taken > used)) {
		cq->broken = true;
		return false;
	}
	cq->head = head;
	/* Each command under way has a slot: used + reserved never passes size - 1. */
	cq->space = cq->size - 1 - (used - taken) - cq->reserved;
	return true;
}

/* ---- queues that stop by themselves --------------------------------------------------------------------------------
 */

static const char *const error_names[] = {
	[NVME_QUEUE_BAD_TAIL] = "submission queue tail beyond the queue",
	[NVME_QUEUE_BAD_HEAD] = "completion queue head beyond what there was to take",
	[NVME_QUEUE_MEMORY] = "guest memory shrank",
};

void nvme_sq_fail(struct nvme_sq *sq, enum nvme_queue_error error)
{
	struct nvme *nvme = sq->nvme;

	/* Release: pairs with the acquire in nvme_report(). Only this sidecore stores it. */
	atomic_store_explicit(&sq->error, (unsigned char)error, memory_order_release);
	if (error == NVME_QUEUE_MEMORY)
		pci_device_fault(&nvme->device, error_names[error]);
	if (!atomic_exchange(&nvme->report_posted, true))
		engine_complete(nvme->device.engine, &nvme->report);
}

void nvme_report(struct engine_completion *completion)
{
	struct nvme *nvme = container_of(completion, struct nvme, report);

	/* Cleared first: an error that is stored from here on posts again. */
	atomic_store(&nvme->report_posted, false);
	for (unsigned i = 1; i <= nvme->queues; i++) {
		struct nvme_sq *sq = nvme->sqs[i];
		unsigned char error = sq ? atomic_load_explicit(&sq->error, memory_order_acquire) : NVME_QUEUE_OK;

		if (error == NVME_QUEUE_OK || sq->error_reported)
			continue;
		sq->error_reported = true;
		log_limited(&nvme->device.log_limit, LOG_LEVEL_WARNING, "%s: queue %u stopped: %s", nvme->device.name,
			    sq->id, error_names[error]);
		if (error == NVME_QUEUE_MEMORY)
			continue; /* the controller's fault, and memory is not to be relied on */
		nvme_log_error(nvme, 0, &(struct nvme_error){ .sq_id = sq->id, .cid = 0xffff });
		nvme_event(nvme, NVME_EVENT_ERROR, NVME_EVENT_INVALID_DOORBELL_VALUE, NVME_LOG_ERROR);
	}
	/* After a fault of the controller the other queues rest, too. */
	nvme_update(nvme);
}
