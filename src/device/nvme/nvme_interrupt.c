/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe interrupts: from a completion queue with new entries to the driver.
 *
 * Theory of operation
 * -------------------
 * Interrupts are edges with MSI-X: one for each batch of entries. The pin is a level: asserted as long as any queue
 * that may interrupt has entries that the driver has not taken (PCIe Transport 3.5.1). Several threads work on that:
 * each queue's owner keeps a bit of nvme->unread, and whoever changes a bit sets the pin. See nvme_pin_update() for why
 * the last word is right. A head doorbell that comes as a message lowers the pin before it is answered
 * (nvme_cq_taken()): what follows it is the VMM's unmask, and a pin that is still up then interrupts a driver for
 * nothing; it does not touch the device, and no VMM learns that the interrupt is over.
 *
 * *Coalescing* (Base 5.27.1.6, features 08h and 09h). The driver may ask that interrupts be held back until so many
 * entries are there, or so much time has passed since the first of them. By default there is none of it. It is done for
 * each completion queue of its own, by a timer of its sidecore, so several queues on one vector may interrupt more
 * often than once in that time, never later. What is told at once whatever is set: the admin queue; commands that
 * failed; and the pin and MSI, where there is one vector for all, which is the admin queue's, too.
 *
 * Nothing is held back from a driver for longer than it has asked for because a queue stops: the last act of each
 * submission queue that comes to rest is nvme_cq_tell(). So a timer is idle when no queue runs that could set it, and
 * the control thread may forget the completion queue.
 *
 * Context: said at each function in nvme_internal.h.
 */
#include "base/barrier.h"
#include "base/clock.h"
#include "device/nvme/nvme_internal.h"

/* TIME's unit. */
#define COALESCING_NANOSECONDS 100000ULL

void nvme_pin_update(struct nvme *nvme, struct notifier *notifier)
{
	bool level, again;

	/*
	 * Two threads that change two bits may come here in any order, and the one with the older view may set the pin
	 * last. It then looks again, after its call: the accesses are seq_cst, so either it sees the other's bit now,
	 * and sets the pin once more, or the other changed its bit later, and will set the pin itself after that.
	 */
	do {
		level = (atomic_load(&nvme->unread[0]) | atomic_load(&nvme->unread[1])) &&
			!(atomic_load(&nvme->masked) & 1);
		pci_interrupt_pin(&nvme->device.interrupts, level, notifier);
		again = level != ((atomic_load(&nvme->unread[0]) | atomic_load(&nvme->unread[1])) &&
				  !(atomic_load(&nvme->masked) & 1));
	} while (again);
}

static void set_unread(struct nvme_cq *cq, bool unread)
{
	uint64_t bit = 1ULL << cq->id % 64;
	_Atomic uint64_t *word = &cq->nvme->unread[cq->id / 64];

	if (unread)
		atomic_fetch_or(word, bit);
	else
		atomic_fetch_and(word, ~bit);
}

static bool is_unread(const struct nvme_cq *cq)
{
	return atomic_load(&cq->nvme->unread[cq->id / 64]) >> cq->id % 64 & 1;
}

/*
 * A pin that is up with nothing to be taken is worse than a needless interrupt: the driver finds nothing, touches
 * nothing, and a VMM that learns of an interrupt's end by an access to the device (QEMU, without KVM) interrupts it for
 * ever. So both sides look again after they have changed the bit: here, whether the driver has taken everything
 * meanwhile; in nvme_cq_taken(), whether there is more.
 */
void nvme_cq_level(struct nvme_cq *cq, struct notifier *notifier)
{
	bool unread;

	if (!nvme_cq_look(cq))
		return;
	unread = cq->interrupts && cq->head != cq->tail;
	if (unread == is_unread(cq))
		return;
	set_unread(cq, unread);
	if (unread) {
		/* Pairs with the one in nvme_cq_taken(): its clearing the bit comes after this, or we see its head. */
		memory_barrier();
		if (nvme_cq_look(cq) && cq->head == cq->tail)
			set_unread(cq, false);
	}
	if (pci_interrupts_kind(&cq->nvme->device.interrupts) != PCI_INTERRUPT_MSI)
		nvme_pin_update(cq->nvme, notifier);
}

void nvme_cq_taken(struct nvme_cq *cq)
{
	struct nvme *nvme = cq->nvme;
	uint32_t head = pci_window_load(&nvme->device.bars[NVME_BAR], nvme_head_doorbell(cq->id)) & 0xffffU;

	/* The tail is stored before an entry can be seen, so it is never behind what the driver has taken. */
	if (nvme_uses_msix(nvme) || !cq->interrupts || head != __atomic_load_n(&cq->tail, __ATOMIC_ACQUIRE))
		return;
	set_unread(cq, false);
	/* The owner stores the tail and sets the bit: either we see the tail now, or it sets the bit after us. */
	memory_barrier();
	if (head != __atomic_load_n(&cq->tail, __ATOMIC_ACQUIRE))
		set_unread(cq, true);
	nvme_pin_update(nvme, engine_notifier(nvme->device.engine));
}

/* ---- MSI-X, MSI, and coalescing ----------------------------------------------------------------------------------- */

static void tell(struct nvme_cq *cq, struct notifier *notifier)
{
	struct nvme *nvme = cq->nvme;

	cq->fresh = 0;
	if (!cq->interrupts)
		return;
	if (nvme_uses_msix(nvme)) {
		pci_interrupt_message(&nvme->device.interrupts, cq->vector, notifier);
		return;
	}
	nvme_cq_level(cq, notifier);
	/* One message for each batch; what comes while it is masked is told when the mask goes: nvme_registers.c. */
	if (pci_interrupts_kind(&nvme->device.interrupts) == PCI_INTERRUPT_MSI && !(atomic_load(&nvme->masked) & 1))
		pci_interrupt_message(&nvme->device.interrupts, 0, notifier);
}

static void held_back_for_long(struct sidecore *sidecore, struct engine_timer *timer)
{
	struct nvme_cq *cq = container_of(timer, struct nvme_cq, held);

	if (cq->fresh)
		tell(cq, sidecore_notifier(sidecore));
}

/* Return: whether the driver is to be told later. */
static bool hold_back(struct nvme_cq *cq, uint32_t coalescing)
{
	uint32_t threshold = coalescing & 0xff, time = coalescing >> 8;

	/* The threshold is zero-based: it is reached with one entry more. */
	if (cq->fresh > threshold || !cq->interrupts || !nvme_uses_msix(cq->nvme)) {
		sidecore_timer_cancel(cq->home, &cq->held);
		return false;
	}
	if (cq->held.position == ENGINE_TIMER_IDLE) {
		cq->held.expire = held_back_for_long;
		sidecore_timer_set(cq->home, &cq->held, clock_nanoseconds() + time * COALESCING_NANOSECONDS);
	}
	return true;
}

void nvme_cq_interrupt(struct nvme_cq *cq, struct notifier *notifier)
{
	uint32_t coalescing;

	if (!cq->fresh)
		return;
	coalescing = atomic_load_explicit(&cq->coalescing, memory_order_relaxed);
	if (unlikely(coalescing) && hold_back(cq, coalescing))
		return;
	tell(cq, notifier);
}

void nvme_cq_tell(struct nvme_cq *cq, struct notifier *notifier)
{
	sidecore_timer_cancel(cq->home, &cq->held);
	if (cq->fresh)
		tell(cq, notifier);
}

void nvme_cq_set_coalescing(struct nvme_cq *cq)
{
	const struct nvme_features *features = &cq->nvme->features;
	uint32_t setting = features->coalescing;

	/* No time, or no more than one entry: nothing to wait for. */
	if (!cq->id || features->vectors[cq->vector] & NVME_VECTOR_ALONE || !(setting & 0xff) || !(setting >> 8))
		setting = 0;
	atomic_store_explicit(&cq->coalescing, setting, memory_order_relaxed);
}
