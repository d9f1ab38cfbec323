/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe admin commands that create and delete I/O queues (PCIe Transport 4.1; Base 5.4 to 5.7).
 *
 * Deleting a submission queue lets the commands that were fetched come to their end: each has its slot in the completion
 * queue. What was not fetched never is; the driver takes it as aborted. The answer comes when the queue has drained.
 *
 * Context: control thread.
 */
#include "device/nvme/nvme_admin.h"

#define PHYSICALLY_CONTIGUOUS (1U << 0)
#define INTERRUPTS_ENABLED    (1U << 1)

static bool address_is_bad(const struct nvme *nvme, uint64_t address)
{
	return address & (nvme_page_size(nvme) - 1);
}

static uint16_t check_size(const struct nvme *nvme, uint32_t size, bool entry_size_ok)
{
	/* At least two entries; entries of the only size that there is (CC.IOSQES, CC.IOCQES). */
	if (size < 2 || size > nvme->entries || !entry_size_ok)
		return NVME_INVALID_QUEUE_SIZE | NVME_DNR;
	return NVME_SUCCESS;
}

static bool vector_exists(const struct nvme *nvme, uint32_t vector)
{
	switch (pci_interrupts_kind(&nvme->device.interrupts)) {
	case PCI_INTERRUPT_PIN:
	case PCI_INTERRUPT_MSI:
		return vector == 0;
	default:
		return vector <= nvme->queues;
	}
}

uint16_t nvme_create_cq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t dw10 = le32toh(command->dw10), dw11 = le32toh(command->dw11);
	uint32_t id = dw10 & 0xffff, size = (dw10 >> 16) + 1, vector = dw11 >> 16;
	uint64_t address = le64toh(command->prp1);
	struct nvme_cq *cq;
	uint16_t status;

	if (!id || id > nvme->queues || nvme->cqs[id].present)
		return NVME_INVALID_QUEUE_ID | NVME_DNR;
	status = check_size(nvme, size, NVME_CC_IOCQES(nvme->cc) == NVME_COMPLETION_SHIFT);
	if (status)
		return status;
	if (!(dw11 & PHYSICALLY_CONTIGUOUS))
		return NVME_INVALID_FIELD | NVME_DNR;
	if (address_is_bad(nvme, address))
		return NVME_INVALID_PRP_OFFSET | NVME_DNR;
	if (!vector_exists(nvme, vector))
		return NVME_INVALID_VECTOR | NVME_DNR;
	cq = &nvme->cqs[id];
	nvme_cq_start(cq, size, address, (uint16_t)vector, dw11 & INTERRUPTS_ENABLED);
	if (!nvme_cq_map(cq)) {
		cq->present = false;
		return NVME_INVALID_FIELD | NVME_DNR;
	}
	cq->home = device_queue_place(nvme->device.engine, nvme->sidecore);
	return NVME_SUCCESS;
}

static uint16_t start_sq(struct nvme *nvme, uint16_t id, uint32_t size, uint64_t address, struct nvme_cq *cq)
{
	struct nvme_sq *sq;

	if (nvme_sq_create(nvme, id, size, address, cq))
		return NVME_INTERNAL_ERROR;
	sq = nvme->sqs[id];
	if (!nvme_sq_map(sq)) {
		nvme_sq_destroy(sq);
		return NVME_INVALID_FIELD | NVME_DNR;
	}
	if (device_queue_start(&sq->queue, cq->home)) {
		nvme_sq_destroy(sq);
		return NVME_INTERNAL_ERROR;
	}
	return NVME_SUCCESS;
}

uint16_t nvme_create_sq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t dw10 = le32toh(command->dw10), dw11 = le32toh(command->dw11);
	uint32_t id = dw10 & 0xffff, size = (dw10 >> 16) + 1, cq_id = dw11 >> 16;
	uint64_t address = le64toh(command->prp1);
	uint16_t status;

	if (!id || id > nvme->queues || nvme->sqs[id] || !cq_id || cq_id > nvme->queues)
		return NVME_INVALID_QUEUE_ID | NVME_DNR;
	if (!nvme->cqs[cq_id].present)
		return NVME_CQ_INVALID | NVME_DNR;
	status = check_size(nvme, size, NVME_CC_IOSQES(nvme->cc) == NVME_COMMAND_SHIFT);
	if (status)
		return status;
	if (!(dw11 & PHYSICALLY_CONTIGUOUS))
		return NVME_INVALID_FIELD | NVME_DNR;
	if (address_is_bad(nvme, address))
		return NVME_INVALID_PRP_OFFSET | NVME_DNR;
	return start_sq(nvme, (uint16_t)id, size, address, &nvme->cqs[cq_id]);
}

uint16_t nvme_delete_cq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t id = le32toh(command->dw10) & 0xffff;
	struct nvme_cq *cq;

	if (!id || id > nvme->queues || !nvme->cqs[id].present)
		return NVME_INVALID_QUEUE_ID | NVME_DNR;
	cq = &nvme->cqs[id];
	if (cq->users)
		return NVME_INVALID_QUEUE_DELETION | NVME_DNR;
	/* Nobody polls it any more: its bit of the pin's level is ours now. */
	cq->present = false;
	atomic_fetch_and(&nvme->unread[id / 64], ~(1ULL << id % 64));
	if (!nvme_uses_msix(nvme))
		nvme_pin_update(nvme, engine_notifier(nvme->device.engine));
	return NVME_SUCCESS;
}

uint16_t nvme_delete_sq(struct nvme *nvme, const struct nvme_command *command, uint32_t *result)
{
	uint32_t id = le32toh(command->dw10) & 0xffff;
	struct nvme_sq *sq;

	if (!id || id > nvme->queues || !nvme->sqs[id])
		return NVME_INVALID_QUEUE_ID | NVME_DNR;
	sq = nvme->sqs[id];
	sq->deleting = true;
	sq->delete_cid = command->cid;
	nvme->admin.busy = true;
	device_queue_stop(&sq->queue, nvme_queue_stopped, nvme);
	return NVME_LATER;
}

void nvme_finish_delete(struct nvme *nvme, struct nvme_sq *sq)
{
	uint16_t cid = sq->delete_cid;

	nvme_sq_destroy(sq);
	/* A controller that is being disabled has no queue to answer in, as far as its driver is concerned. */
	if (nvme->state == NVME_READY && nvme->operation != NVME_RESET)
		nvme_admin_complete(nvme, cid, NVME_SUCCESS);
}
