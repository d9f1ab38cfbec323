/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lanes: transmit rings of the driver, into the switch.
 *
 * Theory of operation
 * -------------------
 * A lane is a poller with some of the card's transmit queues. A turn looks at the tail of each active queue (at the
 * others now and then), and goes by batches:
 *
 *  1. run: frames of one plain descriptor each, which is nearly all of them, are made in a loop of their own
 *     (intel_transmit_run.c) as far as they go. The rest of the batch:
 *  2. fetch: descriptors between there and the tail are copied, once, INTEL_DESCRIPTORS_MAX at most.
 *  3. plan (intel_plan.c): the copies are gone through once, in order. Context descriptors set the offload context as
 * it is from there on; data descriptors are translated and appended, up to the end of the frame; then
 *     intel_offload_build() makes a frame of it, or a reason to drop it. The plan says for each frame where its
 *     descriptors end and what the contexts are behind it. Nothing is looked at a second time: what follows is told
 * from the plan.
 *  4. forward: the switch takes frames in order, and may leave some with us when a receiver is full.
 *  5. write back: descriptors of what is done, that asked for it (RS); the head moves to where the plan says, and
 *     contexts become what they were there. What the switch left is fetched anew next time.
 *
 * *Budgets.* A turn ends after turn->requests frames (or runs of context descriptors without one), or turn->bytes,
 * towards which each descriptor counts, too. A frame of more than INTEL_DESCRIPTORS_MAX descriptors stops the card, by
 * name; so does a tail beyond the ring and a buffer outside of memory. A frame whose end the driver has not rung for
 * yet waits for a new tail, and is not looked at again before. Descriptors of no bytes are used up like others.
 *
 * *Loopback* (MII control, RCTL.LBM; drivers test themselves with it) gives frames to our own port's receive side,
 * under its claim, as if they had come from the switch. No register is ever touched from here, so nothing is
 * re-entered.
 *
 * Context: the lane's sidecore.
 */
#include "base/clock.h"
#include "base/counter.h"
#include "device/intel/intel_transmit.h"

#define DELAY_UNIT 1024ULL /* ns: TIDV, TADV */

/** Turns after which queues that were not active are looked at again. A power of two. */
#define TURNS_PER_LOOK 64U

/** Bytes of descriptor that one counts as, towards the bytes of a turn. */
#define DESCRIPTOR_COST 64U

/** The same for a segment that is cut here: its headers are made and summed, and the switch has one more frame. */
#define SEGMENT_COST 512U

/* ---- what is done ---- */

/*
 * Tell the driver of @run_done frames of the run, and the descriptors up to @end behind it.
 * Return: whether one wants an interrupt; @delayed: none wants it at once.
 */
static bool write_back(struct intel_nic *nic, const struct intel_lane *lane, struct intel_ring *ring,
		       const struct intel_run *run, unsigned run_done, unsigned end, bool *delayed)
{
	uint32_t index = (ring->head + run_done) % ring->count, low = 0;
	bool asked = false;

	*delayed = true;
	if (nic->variant->generation == INTEL_82576)
		low = intel_page_load(nic, ring->registers + RING_HEAD_WRITE_BACK_LOW);
	if (likely(run_done && run->command & TXD_RS)) {
		asked = true;
		*delayed = run->command >> 31;
		if (likely(!(low & 1)))
			intel_run_write_back(ring, run, run_done);
	}
	for (unsigned i = 0; i < end; i++) {
		const struct intel_descriptor *descriptor = &lane->descriptors[i];
		uint32_t *status = (uint32_t *)(void *)(ring->descriptors + 16ULL * index + 12);

		index = index + 1 == ring->count ? 0 : index + 1;
		if (!(descriptor->command & TXD_RS))
			continue;
		asked = true;
		*delayed &= descriptor->command >> 31; /* IDE; the bit is another one in advanced descriptors */
		if (unlikely(low & 1))		       /* the head is written instead */
			continue;
		/* Release: the frame was read before its buffer is given back. */
		__atomic_store_n(status, (descriptor->status & ~15U) | TXD_DD, __ATOMIC_RELEASE);
	}
	ring->head = index;
	intel_page_store(nic, ring->registers + RING_HEAD, index);
	if (unlikely(low & 1 && asked)) {
		uint64_t high = intel_page_load(nic, ring->registers + RING_HEAD_WRITE_BACK_HIGH);

		if (!guest_memory_write(nic->device.memory, &ring->hint, high << 32 | (low & ~3U), &index,
					sizeof(index)))
			pci_device_fault(&nic->device, "head write-back outside of memory");
	}
	return asked;
}

/* How long the driver lets the interrupt for a transmission wait (TIDV, TADV; 8254x 13.4.44). */
static uint64_t spacing(const struct intel_nic *nic, bool delayed)
{
	uint64_t delay, most;

	if (nic->variant->generation == INTEL_82576 || !delayed)
		return 0;
	delay = intel_page_load(nic, TIDV) & 0xffff;
	most = intel_page_load(nic, TADV) & 0xffff;
	return (delay && most ? most : delay) * DELAY_UNIT;
}

static void count_run(struct intel_lane *lane, const struct intel_run *run, unsigned done)
{
	if (likely(run->alike)) {
		intel_count_alike(&lane->traffic, run->length, done);
		return;
	}
	for (unsigned i = 0; i < done; i++)
		intel_count(&lane->traffic, lane->frames[i].header, lane->frames[i].length);
}

/* The plan is done up to @plans, and @run_done frames of the run in front of it. */
static void finish(const struct intel_planner *planner, unsigned queue, unsigned run_done, unsigned plans,
		   const struct turn *turn)
{
	const struct intel_when when = { turn->sidecore, sidecore_notifier(turn->sidecore), turn->now };
	struct intel_lane *lane = planner->lane;
	bool delayed;

	count_run(lane, &planner->run, run_done);
	for (unsigned i = 0; i < plans; i++) {
		const struct intel_plan *plan = &lane->plans[i];

		if (unlikely(plan->drop != PORT_DROPS)) {
			port_drop(&planner->nic->port, turn, plan->drop, 1);
		} else if (!plan->empty && !plan->cut) {
			intel_count(&lane->traffic, lane->frames[plan->frame].header, lane->frames[plan->frame].length);
			if (plan->segmented)
				counter_add(&lane->traffic.segmented, 1);
		}
	}
	if (planner->plans) /* else they are as they were */
		planner->ring->contexts = lane->contexts[plans ? lane->plans[plans - 1].contexts : 0];
	if (!(run_done + plans))
		return;
	if (write_back(planner->nic, lane, planner->ring, &planner->run, run_done,
		       plans ? lane->plans[plans - 1].end : 0, &delayed))
		intel_raise_queue(planner->nic, &when, false, queue, spacing(planner->nic, delayed));
}

/* ---- forward ---- */

/* Give frames to our own receive side. What it has no room for is gone, as on a wire. */
static unsigned loop_back(struct intel_nic *nic, struct frame *frames, unsigned count, const struct turn *turn)
{
	struct port *port = &nic->port;
	unsigned plain = 0, done = 0;

	if (!port_try_claim(port))
		return 0;
	while (plain < count && frame_is_plain(&frames[plain]) && frames[plain].length >= FRAME_LENGTH_MIN)
		plain++;
	if (plain)
		done = port->ops->transmit(port, frames, plain, turn);
	port->ops->flush(port, turn);
	port_release(port);
	port_drop(port, turn, PORT_DROP_FULL, count - done);
	return count;
}

/* Frames that the switch took: up to which unit is the plan done? */
static unsigned plans_done(const struct intel_planner *planner, unsigned frames)
{
	unsigned plans = 0;

	if (likely(frames == planner->frames))
		return planner->plans;
	if (frames < planner->run.count)
		return 0;
	while (planner->lane->plans[plans].frame < frames || planner->lane->plans[plans].drop != PORT_DROPS ||
	       planner->lane->plans[plans].empty)
		plans++;
	return plans;
}

static unsigned forward(struct intel_nic *nic, struct frame *frames, unsigned count, const struct turn *turn)
{
	if (!count)
		return 0;
	if (unlikely(atomic_load_explicit(&nic->loopback, memory_order_relaxed)))
		return loop_back(nic, frames, count, turn);
	return network_forward(&nic->port, frames, count, turn);
}

/*
 * The plan is one frame that has to be cut. How many segments it makes is the driver's affair, one byte each if it
 * likes, so each counts with its headers towards the bytes of the turn, and what is left is for the next one.
 *
 * @bytes: of the turn, until now
 * Return: true when all of it is sent.
 */
static bool forward_cut(struct intel_planner *planner, uint64_t bytes, const struct turn *turn)
{
	uint32_t total = intel_cut_count(&planner->packet);
	struct intel_lane *lane = planner->lane;
	struct intel_ring *ring = planner->ring;
	unsigned built, done;

	/* The driver may have changed what it asked for before: then there may be fewer. */
	while (ring->cut_done < total) {
		built = intel_cut(planner->nic, lane, &planner->packet, ring->cut_done);
		done = forward(planner->nic, lane->frames, built, turn);
		for (unsigned i = 0; i < done; i++)
			intel_count(&lane->traffic, lane->frames[i].header, lane->frames[i].length);
		ring->cut_done += done;
		planner->bytes += (uint64_t)done * (planner->packet.context.header_length + SEGMENT_COST);
		if (done < built || !built || (ring->cut_done < total && bytes + planner->bytes >= turn->bytes)) {
			lane->queue.poller.pending = true;
			return false;
		}
	}
	counter_add(&lane->traffic.segmented, 1);
	ring->cut_done = 0;
	return true;
}

/* One batch of a queue, of @requests units at most. Return: units that are done; @more: come again in this turn. */
static unsigned transmit_batch(struct intel_lane *lane, unsigned queue, const struct turn *turn, uint64_t *bytes,
			       unsigned requests, bool *more)
{
	struct intel_nic *nic = lane->nic;
	struct intel_ring *ring = &nic->transmit[queue];
	struct intel_planner planner = {
		.nic = nic, .lane = lane, .ring = ring, .want = min(requests, (unsigned)array_size(lane->plans))
	};
	uint32_t tail = intel_page_load(nic, ring->registers + RING_TAIL) & 0xffff;
	unsigned frames, plans, run_done;

	*more = false;
	if (unlikely(tail >= ring->count)) {
		pci_device_fault(&nic->device, "transmit tail beyond the ring");
		return 0;
	}
	if (tail == ring->head || (unlikely(ring->waiting) && tail == ring->waiting_tail))
		return 0;
	ring->waiting = false;
	intel_plan_make(&planner, tail > ring->head ? tail - ring->head : ring->count - ring->head + tail, turn);
	if (unlikely(planner.cut && !planner.plans && !planner.run.count && !planner.broken)) {
		if (planner.descriptors == INTEL_DESCRIPTORS_MAX || planner.descriptors + 1 == ring->count) {
			pci_device_fault(&nic->device, "transmit frame of too many descriptors");
			return 0;
		}
		ring->waiting = true;
		ring->waiting_tail = tail;
		return 0;
	}

	if (unlikely(planner.alone)) {
		frames = 0;
		plans = forward_cut(&planner, *bytes, turn);
	} else {
		lane->frames[0].segments_done = ring->segments_done;
		ring->segments_done = 0;
		ring->cut_done = 0;
		frames = forward(nic, lane->frames, planner.frames, turn);
		plans = plans_done(&planner, frames);
	}
	if (unlikely(frames < planner.frames)) {
		ring->segments_done = lane->frames[frames].segments_done;
		lane->queue.poller.pending = true;
	}
	run_done = min(frames, planner.run.count);
	finish(&planner, queue, run_done, plans, turn);
	*bytes += planner.bytes + (uint64_t)(planner.run.count + planner.position) * DESCRIPTOR_COST;
	*more = run_done + plans == planner.run.count + planner.plans && !planner.broken;
	return run_done + plans;
}

static unsigned transmit_queue(struct intel_lane *lane, unsigned queue, const struct turn *turn, uint64_t *bytes,
			       unsigned requests)
{
	unsigned work = 0;
	bool more = true;

	while (more && work < requests && *bytes < turn->bytes)
		work += transmit_batch(lane, queue, turn, bytes, requests - work, &more);
	return work;
}

/* ---- the poller ---- */

/* Queues of lanes that are not attached may have been enabled, which nobody was told: the control thread attaches them.
 */
static void look_for_lanes(struct intel_nic *nic)
{
	if (intel_nic_lanes_wanted(nic) & ~atomic_load_explicit(&nic->lanes_attached, memory_order_relaxed) &&
	    !atomic_exchange(&nic->attach_posted, true))
		engine_complete(nic->device.engine, &nic->attach);
}

/* Which queues of this lane are set up? */
static void look_for_queues(struct intel_lane *lane)
{
	struct intel_nic *nic = lane->nic;
	uint32_t active = 0;

	for (unsigned queue = lane->index; queue < nic->variant->queues; queue += nic->lane_count) {
		if (intel_ring_ready(nic, &nic->transmit[queue], 16))
			active |= 1U << queue;
	}
	lane->active = active;
	if (!lane->index && nic->lane_count > 1)
		look_for_lanes(nic);
}

static unsigned lane_poll(struct poller *poller, const struct turn *turn)
{
	struct intel_lane *lane =
		container_of(container_of(poller, struct device_queue, poller), struct intel_lane, queue);
	struct intel_nic *nic = lane->nic;
	const struct intel_when when = { turn->sidecore, sidecore_notifier(turn->sidecore), turn->now };
	unsigned work = 0, passes;
	uint64_t bytes = 0;

	poller->pending = false;
	if (!lane->index)
		intel_interrupts_look(nic, &when);
	if (unlikely(!atomic_load_explicit(&nic->transmitting, memory_order_acquire) || intel_faulted(nic)))
		return 0;
	if (unlikely(!(lane->looks++ & (TURNS_PER_LOOK - 1)))) {
		look_for_queues(lane);
		if (unlikely(guest_memory_damaged(nic->device.memory)))
			pci_device_fault(&nic->device, "guest memory damaged");
	}
	/* Each turn begins with another queue, so that none lives at the expense of those behind it. */
	passes = (unsigned)__builtin_popcount(lane->active);
	for (; passes && work < turn->requests && bytes < turn->bytes; passes--) {
		uint32_t rest = lane->active & ~((1U << lane->next) - 1);
		unsigned queue = (unsigned)__builtin_ctz(rest ? rest : lane->active);

		lane->next = (queue + 1) % INTEL_QUEUES_MAX;
		if (likely(intel_ring_ready(nic, &nic->transmit[queue], 16)))
			work += transmit_queue(lane, queue, turn, &bytes, turn->requests - work);
	}
	return work;
}

static bool lane_arm(struct poller *poller)
{
	struct intel_lane *lane =
		container_of(container_of(poller, struct device_queue, poller), struct intel_lane, queue);
	struct intel_nic *nic = lane->nic;

	device_queue_arm(&lane->queue);
	if (!lane->index && intel_interrupts_waiting(nic, lane->queue.home))
		return true;
	if (!atomic_load(&nic->transmitting) || intel_faulted(nic))
		return false;
	look_for_queues(lane);
	for (uint32_t active = lane->active; active; active &= active - 1) {
		const struct intel_ring *ring = &nic->transmit[__builtin_ctz(active)];
		uint32_t tail = intel_page_load(nic, ring->registers + RING_TAIL) & 0xffff;

		if (tail != ring->head && !(ring->waiting && tail == ring->waiting_tail))
			return true;
	}
	return false;
}

static void lane_disarm(struct poller *poller)
{
	struct intel_lane *lane =
		container_of(container_of(poller, struct device_queue, poller), struct intel_lane, queue);

	device_queue_disarm(&lane->queue);
	lane->looks = 0;
}

const struct poller_ops intel_lane_ops = {
	.kind = "intel transmit",
	.poll = lane_poll,
	.arm = lane_arm,
	.disarm = lane_disarm,
};
