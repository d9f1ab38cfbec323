/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: the controller's life (Base 3.1.3.5 and 3.1.3.6, 3.5 to 3.7), and how its queues come to rest.
 *
 * Theory of operation
 * -------------------
 * Two questions are kept apart: what the driver has asked for (state: disabled, ready...), and whether queues are
 * polled at this moment (running). nvme_update() brings the second in line with the first and with what else has a say:
 * the transport's pause, bus mastering, the power state, a shutdown, memory that is not there.
 *
 *	nvme_update():	queues should run and do not	-> resolve rings, start pollers
 *			queues run and should not	-> begin_rest() ... last queue stopped -> rested()
 *
 * A normal shutdown goes on with a flush of the disks (nvme_flush.c) before it is complete; an abrupt one does not.
 *
 * rested() is where everything ends that needs queues at rest: disabling (queues are freed, CSTS.RDY goes), shutdown,
 * the transport's pause or reset; then nvme_update() is asked again.
 *
 * Writing 0 to CC.EN does not hold up the vCPU that writes: the specification has the driver wait for CSTS.RDY to
 * become 0, and until then memory and queues remain ours. Writing 1 before that is remembered. A reset of the function,
 * and a pause, cannot be waited for in a register, and are PCI_DEFERRED.
 *
 * Rings that are not in guest memory when queues should run: the controller waits for them, and says so (CSTS.CFS).
 * VMMs exchange memory in two steps, away and back, while a guest runs; what is gone for good is the driver's to find
 * out, and its reset to end.
 *
 * Context: control thread.
 */
#include "base/clock.h"
#include "device/nvme/nvme_admin.h"

/* ---- disks ------------------------------------------------------------------------------------------------------- */

static void release_disks(struct nvme *nvme)
{
	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		if (nvme->namespaces[i].acquired)
			disk_release(nvme->namespaces[i].disk);
		nvme->namespaces[i].acquired = false;
	}
}

const char *nvme_acquire_disks(struct nvme *nvme)
{
	const char *reason;

	for (uint32_t i = 0; i < nvme->namespace_count; i++) {
		if (nvme->namespaces[i].acquired)
			continue;
		if (disk_acquire(nvme->namespaces[i].disk, &reason)) {
			log_limited(&nvme->device.log_limit, LOG_LEVEL_WARNING, "%s", reason);
			return "a disk is in use by another program";
		}
		nvme->namespaces[i].acquired = true;
		nvme_resized(&nvme->device, i);
	}
	return NULL;
}

/* ---- rest and run ------------------------------------------------------------------------------------------------ */

static bool all_stopped(const struct nvme *nvme)
{
	if (nvme->admin.queue.state != DEVICE_QUEUE_STOPPED || nvme->flush.active)
		return false;
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->sqs[i] && nvme->sqs[i]->queue.state != DEVICE_QUEUE_STOPPED)
			return false;
	}
	return true;
}

static void stop(struct nvme *nvme, struct device_queue *queue)
{
	if (queue->state == DEVICE_QUEUE_RUNNING)
		device_queue_stop(queue, nvme_queue_stopped, nvme);
}

/* All interrupts that are level by nature fall silent with the queues that asserted them. */
static void drop_queues(struct nvme *nvme)
{
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->sqs[i])
			nvme_sq_destroy(nvme->sqs[i]);
	}
	for (unsigned i = 0; i <= nvme->queues; i++)
		nvme->cqs[i].present = false;
	atomic_store(&nvme->unread[0], 0);
	atomic_store(&nvme->unread[1], 0);
	pci_interrupt_pin(&nvme->device.interrupts, false, engine_notifier(nvme->device.engine));
	nvme_events_reset(nvme);
	nvme->admin.busy = false;
	nvme->admin.entries = NULL;
}

/* The controller is as the reset leaves it. */
static void forget(struct nvme *nvme, enum nvme_reset_level level)
{
	/* Power went while the driver had not said that it would (Base 5.16.1.3, unsafe shutdowns). */
	if (level == NVME_RESET_POWER && nvme->state == NVME_READY && nvme->shutdown != NVME_CSTS_SHST_DONE)
		nvme->unsafe_shutdowns++;
	drop_queues(nvme);
	release_disks(nvme);
	nvme_set_defaults(nvme, level);
	pci_device_clear_fault(&nvme->device);
	nvme->state = NVME_DISABLED;
	nvme->shutdown = 0;
	nvme->flush_wanted = false;
	nvme->unmapped = false;
}

static void clear_doorbells(struct nvme *nvme)
{
	for (uint32_t offset = 0; offset < NVME_DOORBELL_SIZE; offset += sizeof(uint32_t))
		pci_window_store(&nvme->device.bars[NVME_BAR], NVME_DOORBELLS + offset, 0);
}

/* Nothing is polled and nothing in flight. Return: whether an operation of the transport's has ended. */
static bool at_rest(struct nvme *nvme)
{
	enum nvme_operation operation = nvme->operation;

	nvme->running = nvme->resting = false;
	nvme->operation = NVME_NOTHING;
	if (nvme->shutdown == NVME_CSTS_SHST_ACTIVE)
		nvme->shutdown = NVME_CSTS_SHST_DONE;
	if (nvme->state == NVME_DISABLING)
		forget(nvme, NVME_RESET_CONTROLLER);
	if (operation == NVME_RESET) {
		/* Who resets a controller that it has paused, comes or goes: the power is switched (pci_device.h, States). */
		forget(nvme, nvme->paused ? NVME_RESET_POWER : NVME_RESET_FUNCTION);
		clear_doorbells(nvme);
	}
	return operation != NVME_NOTHING;
}

static void shutdown_flushed(struct nvme *nvme, int error)
{
	nvme_flushed(nvme);
}

static void rested(struct nvme *nvme)
{
	bool done;

	/* What the driver has written is on stable storage before a normal shutdown is complete (Base 3.6.1). */
	if (nvme->flush_wanted && nvme->has_cache) {
		nvme->flush_wanted = false;
		nvme->resting = true;
		nvme_flush(nvme, shutdown_flushed);
		return;
	}
	done = at_rest(nvme);
	nvme_update(nvme);
	if (done)
		pci_device_done(&nvme->device);
}

void nvme_flushed(struct nvme *nvme)
{
	if (nvme->resting && all_stopped(nvme))
		rested(nvme);
}

void nvme_queue_stopped(struct device_queue *queue, void *context)
{
	struct nvme *nvme = context;

	if (queue != &nvme->admin.queue) {
		struct nvme_sq *sq = container_of(queue, struct nvme_sq, queue);

		if (sq->deleting)
			nvme_finish_delete(nvme, sq);
	}
	if (nvme->resting && all_stopped(nvme))
		rested(nvme);
}

static void begin_rest(struct nvme *nvme)
{
	nvme->resting = true;
	for (unsigned i = 1; i <= nvme->queues; i++) {
		if (nvme->sqs[i])
			stop(nvme, &nvme->sqs[i]->queue);
	}
	stop(nvme, &nvme->admin.queue);
}

/* Where the rings are in the memory of today. */
static bool map_rings(struct nvme *nvme)
{
	const struct guest_memory *memory = nvme->device.memory;
	bool mapped = true;

	nvme->admin.hint = NULL;
	nvme->admin.entries =
		memory ? guest_memory_range(memory, nvme->asq, (uint64_t)nvme->admin.size << NVME_COMMAND_SHIFT) : NULL;
	if (!nvme->admin.entries)
		mapped = false;
	for (unsigned i = 0; i <= nvme->queues; i++) {
		if (nvme->cqs[i].present)
			mapped &= nvme_cq_map(&nvme->cqs[i]);
		if (nvme->sqs[i])
			mapped &= nvme_sq_map(nvme->sqs[i]);
	}
	return mapped;
}

static int start_pollers(struct nvme *nvme)
{
	int rc = 0;

	if (!nvme->posted)
		rc = device_queue_start(&nvme->admin.queue, nvme->admin.home);
	for (unsigned i = 1; i <= nvme->queues && !rc; i++) {
		if (nvme->sqs[i])
			rc = device_queue_start(&nvme->sqs[i]->queue, nvme->sqs[i]->cq->home);
	}
	return rc;
}

static void run(struct nvme *nvme)
{
	nvme->unmapped = !map_rings(nvme);
	if (nvme->unmapped)
		return;
	nvme->running = true;
	if (start_pollers(nvme)) {
		pci_device_fault(&nvme->device, "no memory for a queue's poller");
		begin_rest(nvme);
		if (all_stopped(nvme))
			rested(nvme);
		return;
	}
	/* What the driver submitted meanwhile. */
	nvme_admin_run(nvme);
}

/* ---- enabling ---------------------------------------------------------------------------------------------------- */

const char *nvme_check_setup(const struct nvme *nvme)
{
	uint32_t cc = nvme->cc;

	if (NVME_CC_CSS(cc) != NVME_CSS_NVM && NVME_CC_CSS(cc) != NVME_CSS_ALL)
		return "CC.CSS: no such command set";
	if (NVME_CC_MPS(cc) > NVME_MPSMAX)
		return "CC.MPS: page size not supported";
	if (NVME_CC_AMS(cc))
		return "CC.AMS: arbitration not supported";
	if (!(nvme->aqa & 0xfff) || !(nvme->aqa >> 16 & 0xfff))
		return "AQA: admin queues have at least two entries";
	if ((nvme->asq | nvme->acq) & (nvme_page_size(nvme) - 1))
		return "ASQ, ACQ: not at the beginning of a page";
	return NULL;
}

static void enable(struct nvme *nvme)
{
	const char *wrong = nvme_check_setup(nvme);

	if (!wrong)
		wrong = nvme_acquire_disks(nvme);
	if (wrong) {
		nvme->state = NVME_FAILED;
		pci_device_fault(&nvme->device, wrong);
		return;
	}
	nvme->admin.size = (nvme->aqa & 0xfff) + 1;
	nvme->admin.head = 0;
	nvme->admin.broken = nvme->admin.busy = false;
	nvme->admin.cq = &nvme->cqs[0];
	nvme->admin.home = device_queue_place(nvme->device.engine, nvme->sidecore);
	atomic_store(&nvme->admin.seen, 0);
	pci_window_store(&nvme->device.bars[NVME_BAR], nvme_tail_doorbell(0), 0);
	nvme_cq_start(&nvme->cqs[0], (nvme->aqa >> 16 & 0xfff) + 1, nvme->acq, 0, true);
	nvme->used = true;
	nvme->state = NVME_READY;
}

static bool should_run(const struct nvme *nvme)
{
	return nvme->state == NVME_READY && !nvme->paused && nvme->operation == NVME_NOTHING && !nvme->shutdown &&
	       !atomic_load(&nvme->device.fault) && pci_config_bus_master(&nvme->device.config) &&
	       !pci_config_power_state(&nvme->device.config);
}

void nvme_update(struct nvme *nvme)
{
	if (nvme->resting)
		return;
	if (nvme->state == NVME_DISABLED && nvme->cc & NVME_CC_EN && !nvme->operation)
		enable(nvme);
	if (should_run(nvme) && !nvme->running) {
		run(nvme);
		return;
	}
	if (should_run(nvme) || !nvme->running) {
		/* Nothing to be stopped: what waited for it is done. Operations have their answer from whoever asked.
		 */
		if (!nvme->running && (nvme->state == NVME_DISABLING || nvme->shutdown == NVME_CSTS_SHST_ACTIVE))
			rested(nvme);
		return;
	}
	begin_rest(nvme);
	if (all_stopped(nvme))
		rested(nvme);
}

void nvme_configure(struct nvme *nvme, uint32_t cc)
{
	uint32_t old = nvme->cc;

	/* What the queues were made by stays as long as they are used (Base 3.1.3.5). */
	if (nvme->state == NVME_READY && cc & NVME_CC_EN)
		cc = (cc & ~NVME_CC_WHILE_OFF) | (old & NVME_CC_WHILE_OFF);
	nvme->cc = cc & NVME_CC_IMPLEMENTED;
	if (old & NVME_CC_EN && !(cc & NVME_CC_EN) && nvme->state != NVME_DISABLED)
		nvme->state = NVME_DISABLING;
	/* A notice is taken once; it is over when the controller is reset (Base 3.6.1). */
	if (NVME_CC_SHN(cc) && !NVME_CC_SHN(old) && !nvme->shutdown) {
		nvme->shutdown = NVME_CSTS_SHST_ACTIVE;
		nvme->flush_wanted = NVME_CC_SHN(cc) == NVME_SHN_NORMAL;
	}
	if (!NVME_CC_SHN(cc) && nvme->state == NVME_DISABLED)
		nvme->shutdown = 0;
	nvme_update(nvme);
}

/* ---- the transport's operations -----------------------------------------------------------------------------------
 */

static enum pci_result operate(struct nvme *nvme, enum nvme_operation operation)
{
	nvme->operation = (uint8_t)operation;
	if (nvme->running && !nvme->resting)
		begin_rest(nvme);
	if (nvme->resting && !all_stopped(nvme))
		return PCI_DEFERRED;
	at_rest(nvme);
	nvme_update(nvme);
	return PCI_DONE;
}

enum pci_result nvme_pause(struct pci_device *device)
{
	struct nvme *nvme = nvme_of(device);

	nvme->paused = true;
	return operate(nvme, NVME_PAUSE);
}

void nvme_resume(struct pci_device *device)
{
	struct nvme *nvme = nvme_of(device);

	nvme->paused = false;
	nvme_update(nvme);
}

enum pci_result nvme_reset(struct pci_device *device)
{
	return operate(nvme_of(device), NVME_RESET);
}

void nvme_command_changed(struct pci_device *device)
{
	nvme_update(nvme_of(device));
}

void nvme_set_defaults(struct nvme *nvme, enum nvme_reset_level level)
{
	if (level >= NVME_RESET_FUNCTION) {
		nvme->cc = nvme->aqa = 0;
		nvme->asq = nvme->acq = 0;
	}
	if (level == NVME_RESET_POWER) {
		nvme->subsystem_reset = false;
		/* Each client counts once, whether it is reset as it comes or as it goes. */
		nvme->power_cycles += nvme->used;
		nvme->used = false;
	}
	atomic_store(&nvme->masked, 0);
	nvme_features_reset(nvme);
}
