/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe registers: page 0 of the BAR (Base 3.1.3), and doorbells that come as messages (PCIe Transport 3.1.2).
 *
 * Any width: the value of a register's double word is made, and the bytes that were asked for are cut out of it; writes
 * of less than a double word change its bytes. The specification leaves those undefined; here they are harmless.
 *
 * Context: control thread.
 */
#include "device/nvme/nvme_admin.h"

/* CAP.TO: how long a driver has to wait for CSTS.RDY. A disk behind a network may need its time to let go of requests.
 */
#define TIMEOUT_UNITS 60U /* of 500 ms */

static uint64_t capabilities(const struct nvme *nvme)
{
	return (uint64_t)(nvme->entries - 1U) | NVME_CAP_CQR | (uint64_t)TIMEOUT_UNITS << NVME_CAP_TO_SHIFT |
	       (uint64_t)NVME_STRIDE << NVME_CAP_DSTRD | NVME_CAP_NSSRS | NVME_CAP_CSS_NVM | NVME_CAP_CSS_IOCSS |
	       (uint64_t)NVME_MPSMAX << NVME_CAP_MPSMAX | NVME_CAP_CRWMS;
}

static uint32_t status(const struct nvme *nvme)
{
	uint32_t csts = nvme->shutdown;

	if (nvme->state == NVME_READY || nvme->state == NVME_DISABLING)
		csts |= NVME_CSTS_RDY;
	if (nvme->state == NVME_FAILED || nvme->unmapped || atomic_load(&nvme->device.fault))
		csts |= NVME_CSTS_CFS;
	if (nvme->subsystem_reset)
		csts |= NVME_CSTS_NSSRO;
	return csts;
}

static uint32_t read_register(const struct nvme *nvme, uint32_t offset)
{
	switch (offset) {
	case NVME_REG_CAP:
		return (uint32_t)capabilities(nvme);
	case NVME_REG_CAP + 4:
		return (uint32_t)(capabilities(nvme) >> 32);
	case NVME_REG_VS:
		return NVME_VERSION;
	case NVME_REG_INTMS:
	case NVME_REG_INTMC:
		return atomic_load(&nvme->masked);
	case NVME_REG_CC:
		return nvme->cc;
	case NVME_REG_CSTS:
		return status(nvme);
	case NVME_REG_AQA:
		return nvme->aqa;
	case NVME_REG_ASQ:
		return (uint32_t)nvme->asq;
	case NVME_REG_ASQ + 4:
		return (uint32_t)(nvme->asq >> 32);
	case NVME_REG_ACQ:
		return (uint32_t)nvme->acq;
	case NVME_REG_ACQ + 4:
		return (uint32_t)(nvme->acq >> 32);
	case NVME_REG_CRTO:
		return TIMEOUT_UNITS;
	}
	return 0;
}

uint32_t nvme_read(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	uint32_t value;

	if (bar != NVME_BAR)
		return 0;
	value = read_register(nvme_of(device), offset & ~3U) >> 8 * (offset & 3);
	return size == 4 ? value : value & ((1U << 8 * size) - 1);
}

/* Interrupts that came while they were masked are told now. */
static void unmasked(struct nvme *nvme)
{
	struct notifier *notifier = engine_notifier(nvme->device.engine);
	bool unread = atomic_load(&nvme->unread[0]) | atomic_load(&nvme->unread[1]);

	if (pci_interrupts_kind(&nvme->device.interrupts) == PCI_INTERRUPT_MSI) {
		if (unread && !(atomic_load(&nvme->masked) & 1))
			pci_interrupt_message(&nvme->device.interrupts, 0, notifier);
		return;
	}
	if (!nvme_uses_msix(nvme))
		nvme_pin_update(nvme, notifier);
}

static void set_half(uint64_t *to, uint32_t offset, uint32_t value)
{
	unsigned shift = offset & 4 ? 32 : 0;

	*to = (*to & ~(0xffffffffULL << shift)) | (uint64_t)value << shift;
}

/* Admin queues are set up before the controller is enabled; later writes would be without effect (Base 3.1.3.8). */
static void set_admin_queue(struct nvme *nvme, uint32_t offset, uint32_t value)
{
	if (nvme->state != NVME_DISABLED && nvme->state != NVME_FAILED)
		return;
	switch (offset) {
	case NVME_REG_AQA:
		nvme->aqa = value & 0x0fff0fffU;
		break;
	case NVME_REG_ASQ:
	case NVME_REG_ASQ + 4:
		set_half(&nvme->asq, offset, offset & 4 ? value : value & ~0xfffU);
		break;
	case NVME_REG_ACQ:
	case NVME_REG_ACQ + 4:
		set_half(&nvme->acq, offset, offset & 4 ? value : value & ~0xfffU);
		break;
	}
}

static enum pci_result reset_subsystem(struct nvme *nvme, uint32_t value)
{
	enum pci_result result;

	if (value != NVME_NSSR_RESET)
		return PCI_DONE;
	result = nvme_reset(&nvme->device);
	nvme->subsystem_reset = true;
	return result;
}

static enum pci_result write_register(struct nvme *nvme, uint32_t offset, uint32_t value)
{
	switch (offset) {
	case NVME_REG_INTMS:
		atomic_fetch_or(&nvme->masked, value);
		if (!nvme_uses_msix(nvme))
			nvme_pin_update(nvme, engine_notifier(nvme->device.engine));
		break;
	case NVME_REG_INTMC:
		atomic_fetch_and(&nvme->masked, ~value);
		unmasked(nvme);
		break;
	case NVME_REG_CC:
		nvme_configure(nvme, value);
		break;
	case NVME_REG_CSTS:
		if (value & NVME_CSTS_NSSRO)
			nvme->subsystem_reset = false;
		break;
	case NVME_REG_NSSR:
		return reset_subsystem(nvme, value);
	case NVME_REG_AQA:
	case NVME_REG_ASQ:
	case NVME_REG_ASQ + 4:
	case NVME_REG_ACQ:
	case NVME_REG_ACQ + 4:
		set_admin_queue(nvme, offset, value);
		break;
	}
	return PCI_DONE;
}

enum pci_result nvme_write(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size, uint32_t value)
{
	struct nvme *nvme = nvme_of(device);
	unsigned shift = 8 * (offset & 3);
	uint32_t mask = size == 4 ? 0xffffffffU : ((1U << 8 * size) - 1) << shift, old;

	if (bar != NVME_BAR)
		return PCI_DONE;
	offset &= ~3U;
	/* Registers of bits that are set or cleared by ones have nothing to keep. */
	old = offset == NVME_REG_INTMS || offset == NVME_REG_INTMC || offset == NVME_REG_CSTS
		      ? 0
		      : read_register(nvme, offset);
	return write_register(nvme, offset, (old & ~mask) | (value << shift & mask));
}

static void kick_users(struct nvme *nvme, const struct nvme_cq *cq)
{
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->sqs[i] && nvme->sqs[i]->cq == cq && nvme->sqs[i]->queue.state == DEVICE_QUEUE_RUNNING)
			device_queue_kick(&nvme->sqs[i]->queue);
	}
}

void nvme_doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	struct nvme *nvme = nvme_of(device);
	uint32_t number = (offset - NVME_DOORBELLS) >> (2 + NVME_STRIDE), id = number / 2;

	if (bar != NVME_BAR || nvme->state != NVME_READY)
		return;
	if (!id) {
		nvme_admin_run(nvme);
		return;
	}
	/* Only what comes as a message can be seen here: a mapped doorbell of a queue that is not there tells nobody.
	 */
	if (offset & ((4U << NVME_STRIDE) - 1) || id > nvme->queues ||
	    (number & 1 ? !nvme->cqs[id].present : !nvme->sqs[id])) {
		nvme_log_error(nvme, 0, &(struct nvme_error){ .sq_id = 0xffff, .cid = 0xffff });
		nvme_event(nvme, NVME_EVENT_ERROR, NVME_EVENT_INVALID_DOORBELL_REGISTER, NVME_LOG_ERROR);
		return;
	}
	if (number & 1) {
		nvme_cq_taken(&nvme->cqs[id]);
		kick_users(nvme, &nvme->cqs[id]);
	} else if (nvme->sqs[id]->queue.state == DEVICE_QUEUE_RUNNING) {
		device_queue_kick(&nvme->sqs[id]->queue);
	}
}
