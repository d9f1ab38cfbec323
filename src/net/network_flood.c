/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames for everybody: broadcasts, groups, and addresses that nobody has been heard from.
 *
 * Theory of operation
 * -------------------
 * A frame for everybody costs as much as all its copies. When those of a batch have used up the sender's turn, or come
 * to FLOOD_COPIES, the rest of the batch stays for its next turn.
 *
 * Flooded frames wait for nobody: FLOOD_TRIES attempts at the claim, then they are dropped for this receiver, by name;
 * and so they are when it is full. The sender holds no other claim meanwhile, so that attempts at one cannot deadlock.
 *
 * Context: any sidecore.
 */
#include "base/clock.h"
#include "base/counter.h"
#include "net/network_internal.h"
#include "net/port_filter.h"

/** Copies of flooded frames in one batch, after which no other is begun. */
#define FLOOD_COPIES 256U

/** Attempts at a claim for a flooded frame. A claim is held for a batch, so this is a few of those. */
#define FLOOD_TRIES 256U

/* Is @to to have what is flooded from @from? */
static bool floods_to(const struct port *from, const struct port *to, uint16_t vlan)
{
	return to != from && port_vlan_member(to, vlan) && !(from->isolated && to->isolated) &&
	       atomic_load_explicit(&to->up, memory_order_acquire);
}

static void flood_to(struct batch *batch, struct port *to, struct frame *frames, unsigned count, bool plain)
{
	unsigned tries = 0, done;

	while (!port_try_claim(to)) {
		if (++tries == FLOOD_TRIES) {
			port_drop(to, batch->turn, PORT_DROP_BUSY, count);
			return;
		}
		cpu_relax();
	}
	for (unsigned i = 0; i < count; i++)
		frames[i].segments_done = 0;
	done = network_deliver(batch, to, frames, count, plain);
	if (unlikely(done < count))
		port_drop(to, batch->turn, PORT_DROP_FULL, count - done);
	to->ops->flush(to, batch->turn);
	port_release(to);
}

/* Have flooded frames cost the sender its turn? */
static bool flooded_enough(const struct batch *batch)
{
	return batch->flood_copies >= FLOOD_COPIES || batch->flood_bytes >= batch->turn->bytes;
}

/* Count the next of @run's frames as flooded to @receivers, up to the one that makes it enough. Return: how many. */
static unsigned flood_charge(struct batch *batch, const struct frame *frames, const struct run *run, unsigned receivers)
{
	unsigned count;

	/* Nearly always there is but one run, for few receivers: no need to look at each frame. */
	if (likely(batch->run_count == 1 && run->count * receivers < FLOOD_COPIES &&
		   batch->bytes * receivers < batch->turn->bytes))
		return run->count;
	for (count = 0; count < run->count && !flooded_enough(batch); count++) {
		batch->flood_copies += receivers;
		batch->flood_bytes += (uint64_t)frames[count].length * receivers;
	}
	return count;
}

unsigned network_flood(struct batch *batch, struct frame *frames, const struct run *run)
{
	uint32_t limit = atomic_load_explicit(&batch->network->port_limit, memory_order_acquire);
	struct port *receivers[NETWORK_PORTS_MAX];
	unsigned receiver_count = 0, count;

	for (uint32_t number = 0; number < limit; number++) {
		struct port *to = atomic_load_explicit(&batch->network->ports[number], memory_order_acquire);

		if (to && floods_to(batch->from, to, run->vlan))
			receivers[receiver_count++] = to;
	}
	count = flood_charge(batch, frames, run, receiver_count);
	for (unsigned i = 0; i < receiver_count && count; i++)
		flood_to(batch, receivers[i], frames, count, run->plain);
	if (receiver_count)
		counter_add(&port_counters(batch->from, batch->turn)->flooded, count);
	else
		port_drop(batch->from, batch->turn, PORT_DROP_NO_DESTINATION, count);
	return count;
}
