/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The switch: from a port's batch of frames to the ports that they are for.
 *
 * Theory of operation
 * -------------------
 * network_forward() looks at each frame once: it is filtered by what its port may send, and joins a *run* of frames
 * with the same addresses. Then each run is *routed*: its source learned, its destination looked up. Nothing is counted
 * or delivered yet, so that frames which stay with their sender can be routed again later. Then the runs are
 * *delivered*, in order, those for the same port together, until a frame has to stay. So what a batch costs grows with
 * its runs rather than with its frames, apart from the look at each.
 *
 * Delivery to a port needs its claim (net/port.h). Claims are taken when a batch first comes to a port and kept until
 * the batch is over, at most NETWORK_BATCH of them; then each port is flushed (made visible, notified) once and
 * released. Claims are only ever tried for, so holding several cannot deadlock; none is held while a flood tries for
 * others.
 *
 * Who waits, and for how long
 * - The receiver of a unicast frame is claimed by another sidecore: the frame and those after it stay with the sender,
 *   which is polled again. A claim lasts for a batch, microseconds.
 * - It is full: likewise, for as long as the network's patience (1 ms) lasts. Time for which it held senders is spent;
 *   what it takes earns some back, as much as that would take at a pace that nobody may stay below for long
 *   (FRAME_EARNS_NS, BYTE_EARNS_NS: 62,500 frames or 1 Gbit/s). So a guest that is slow for a moment loses nothing and
 *   slows its senders down instead. One that stopped for good holds nobody: its frames are dropped at once, until it
 *   takes some. And one that takes a frame now and then, just in time, cannot hold its senders, and what they have for
 *   others, to a crawl: they wait for it at most the patience, plus what it earned, in all.
 * - Frames for everybody wait for nobody, but cost the sender's turn: net/network_flood.c.
 *
 * What a receiver cannot take as it is is finished just before delivery: net/network_finish.c. What a sidecore reads
 * from the table of ports is good until its round ends: net/network.c.
 *
 * Invariants
 * - A frame that stays with its sender means the same as when it came: it has the tag it had (a priority tag apart),
 *   and what was changed in its header copy is a checksum that is complete now.
 * - Every frame that is done was either handed to a port's transmit or counted in a drop reason, for each receiver.
 *
 * Context: any sidecore.
 */
#include <string.h>

#include "base/clock.h"
#include "base/counter.h"
#include "net/network_internal.h"
#include "net/port_filter.h"

/** What a receiver that holds senders earns for a frame: the larger of both. */
#define FRAME_EARNS_NS (16 * NANOSECONDS_PER_MICROSECOND)
#define BYTE_EARNS_NS  8ULL

/* ---- Claims ---- */

/* Claim @port for the rest of the batch. Each run of frames claims at most one, so there is always room. */
static bool batch_claim(struct batch *batch, struct port *port)
{
	for (unsigned i = batch->claimed_count; i-- > 0;) {
		if (batch->claimed[i] == port)
			return true;
	}
	if (!port_try_claim(port))
		return false;
	batch->claimed[batch->claimed_count++] = port;
	return true;
}

static void batch_release(struct batch *batch)
{
	for (unsigned i = 0; i < batch->claimed_count; i++) {
		batch->claimed[i]->ops->flush(batch->claimed[i], batch->turn);
		port_release(batch->claimed[i]);
	}
	batch->claimed_count = 0;
}

/* ---- Unicast ---- */

/* What @to earned by taking @done of @frames, and of the next one the segments after the first @before. */
static uint64_t earned(const struct frame *frames, unsigned count, unsigned done, uint16_t before)
{
	uint64_t sum = 0, rest;

	for (unsigned i = 0; i < done; i++)
		sum += max(frames[i].length * BYTE_EARNS_NS, FRAME_EARNS_NS);
	if (done < count) {
		rest = (uint64_t)(frames[done].segments_done - (done ? 0 : before)) * frames[done].offload.gso_size;
		sum += rest * BYTE_EARNS_NS;
	}
	return sum;
}

/*
 * @to has just taken @done of @count frames: account for its time.
 * Return: true when the patience with it is over.
 */
static bool patience_over(struct batch *batch, struct port *to, const struct frame *frames, unsigned count,
			  unsigned done, uint16_t segments_done)
{
	uint64_t now = batch->turn->now, patience = batch->network->patience_ns, income;

	/* Another sidecore's round may have begun a little later than ours. */
	if (to->full_since && now > to->full_since)
		to->patience_spent += now - to->full_since;
	to->full_since = done < count ? max(now, to->full_since) : 0;
	/* Never more than the patience: who is back need not pay for all the time that it was away. */
	to->patience_spent = min(to->patience_spent, patience);
	income = earned(frames, count, done, segments_done);
	to->patience_spent -= min(to->patience_spent, income);
	return done < count && to->patience_spent >= patience;
}

/* Frames with one receiver. Return: frames that are done with. */
static unsigned forward_unicast(struct batch *batch, struct port *to, struct frame *frames, unsigned count, bool plain)
{
	uint16_t segments_done = frames->segments_done;
	unsigned done;

	if (unlikely(!atomic_load_explicit(&to->up, memory_order_acquire))) {
		port_drop(to, batch->turn, PORT_DROP_LINK_DOWN, count);
		return count;
	}
	if (unlikely(!batch_claim(batch, to))) {
		counter_add(&port_counters(to, batch->turn)->waits, 1);
		return 0;
	}

	done = network_deliver(batch, to, frames, count, plain);
	if (likely(done == count && !to->patience_spent && !to->full_since))
		return count;
	if (patience_over(batch, to, frames, count, done, segments_done)) {
		port_drop(to, batch->turn, PORT_DROP_FULL, count - done);
		return count;
	}
	if (done == count)
		return count;
	counter_add(&port_counters(to, batch->turn)->waits, 1);
	return done;
}

/* ---- Routing ---- */

static void route_to(const struct batch *batch, struct run *run, uint16_t number)
{
	struct port *from = batch->from, *to = NULL;

	if (number != ADDRESS_TABLE_UNKNOWN)
		to = atomic_load_explicit(&batch->network->ports[number], memory_order_acquire);
	if (!to) /* not known, or just removed: to all */
		return;
	if (to == from)
		run->drop = PORT_DROP_HAIRPIN;
	else if (unlikely(from->isolated && to->isolated))
		run->drop = PORT_DROP_ISOLATED;
	else if (unlikely(!port_vlan_member(to, run->vlan)))
		run->drop = PORT_DROP_VLAN;
	else
		run->to = to;
}

static struct run *begin_run(struct batch *batch, const struct frame *frame, uint8_t drop)
{
	struct address_table *addresses = batch->network->addresses;
	struct run *run = &batch->runs[batch->run_count++];

	run->to = NULL;
	run->vlan = frame->vlan;
	run->drop = drop;
	run->plain = true;
	run->count = 0;
	if (likely(drop == PORT_PASS)) {
		run->source =
			address_table_hash(addresses, address_key(frame->header + FRAME_SOURCE_OFFSET, run->vlan));
		run->destination = address_table_hash(addresses, address_key(frame->header, run->vlan));
	}
	return run;
}

/* Both addresses; meaningless, and not looked at, in a frame that is too short for them. */
struct addresses {
	uint64_t low;
	uint32_t high;
};

static inline struct addresses addresses_of(const struct frame *frame)
{
	struct addresses addresses;

	memcpy(&addresses.low, frame->header, sizeof(addresses.low));
	memcpy(&addresses.high, frame->header + sizeof(addresses.low), sizeof(addresses.high));
	return addresses;
}

static inline bool addresses_equal(struct addresses one, struct addresses other)
{
	return one.low == other.low && one.high == other.high;
}

/* How many of @frames, which came from an open port, are plain, may pass and have these addresses. @bytes: added to. */
static inline unsigned run_goes_on(const struct port *from, struct frame *frames, unsigned count,
				   struct addresses addresses, uint64_t *bytes)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < count; i++) {
		struct frame *frame = &frames[i];

		if (unlikely(!addresses_equal(addresses_of(frame), addresses) || !frame_is_plain(frame) ||
			     port_filter_in(from, true, frame) != PORT_PASS))
			break;
		sum += frame->length;
	}
	*bytes += sum;
	return i;
}

/*
 * Filter the frames, and part them into runs. The hashes of all runs are begun before the first is looked up, so that
 * the table's lines are on their way.
 *
 * @open: port_filter_open(), a constant.
 */
static inline __attribute__((always_inline)) void part_batch(struct batch *batch, unsigned count, bool open)
{
	struct addresses addresses = { 0 };
	uint64_t bytes = 0, tagged = 0;
	struct run *run = NULL;

	batch->run_count = 0;
	for (unsigned i = 0; i < count; i++) {
		struct frame *frame = &batch->frames[i];
		uint8_t drop = (uint8_t)port_filter_in(batch->from, open, frame);
		struct addresses own = addresses_of(frame);

		bytes += frame->length;
		if (!open)
			tagged |= (uint64_t)frame->tagged << i;
		if (unlikely(!run || run->drop != drop ||
			     (drop == PORT_PASS &&
			      (!addresses_equal(own, addresses) || (!open && frame->vlan != run->vlan))))) {
			addresses = own;
			run = begin_run(batch, frame, drop);
		}
		run->count++;
		if (unlikely(!frame_is_plain(frame) || (!open && frame->tagged)))
			run->plain = false;
		if (open && likely(drop == PORT_PASS)) {
			unsigned more = run_goes_on(batch->from, frame + 1, count - i - 1, addresses, &bytes);

			run->count += more;
			i += more;
		}
	}
	batch->bytes = bytes;
	batch->tagged = tagged;
}

/* Learn the sources, look up the destinations. */
static void route_batch(struct batch *batch)
{
	struct address_table *addresses = batch->network->addresses;
	const struct frame *frame = batch->frames;
	uint64_t now = batch->turn->now;

	for (unsigned i = 0; i < batch->run_count; frame += batch->runs[i++].count) {
		struct run *run = &batch->runs[i];

		if (unlikely(run->drop != PORT_PASS))
			continue;
		address_table_learn(addresses, run->source, batch->from->number, now);
		if (!(frame->header[0] & 1))
			route_to(batch, run, address_table_lookup(addresses, run->destination, now));
	}
}

/* Frames that stay get back the tag that they came with: they will be routed again. */
static void restore_tags(struct frame *frames, uint64_t tagged, unsigned first, unsigned count)
{
	for (unsigned i = first; i < count; i++) {
		bool was = tagged >> i & 1;

		if (likely(frames[i].tagged == was))
			continue;
		if (was)
			frame_insert_tag(&frames[i], frames[i].priority | frames[i].vlan);
		else
			frame_remove_tag(&frames[i]);
		frames[i].tagged = was;
	}
}

/* Runs [*next, ...) that go to the same port as the first, as one. Return: frames. */
static unsigned join_runs(const struct batch *batch, unsigned *next, bool *plain)
{
	const struct run *run = &batch->runs[*next];
	struct port *to = run->to;
	unsigned count = 0;

	*plain = true;
	for (; *next < batch->run_count && run->to == to; run++, ++*next) {
		count += run->count;
		*plain &= run->plain;
	}
	return count;
}

unsigned network_forward(struct port *from, struct frame *frames, unsigned count, const struct turn *turn)
{
	struct port_counters *counters = port_counters(from, turn);
	unsigned done = 0, next = 0;
	struct batch batch;

	batch.network = from->network;
	batch.from = from;
	batch.frames = frames;
	batch.turn = turn;
	batch.worker = sidecore_slot(turn->sidecore, SIDECORE_SLOT_NET);
	batch.claimed_count = 0;
	batch.flood_copies = 0;
	batch.flood_bytes = 0;
	count = min(count, NETWORK_BATCH);

	if (likely(port_filter_open(from)))
		part_batch(&batch, count, true);
	else
		part_batch(&batch, count, false);
	route_batch(&batch);
	while (done < count) {
		const struct run *run = &batch.runs[next];
		unsigned wanted = run->count, taken = wanted;

		if (likely(run->to)) {
			bool plain;

			wanted = join_runs(&batch, &next, &plain);
			taken = forward_unicast(&batch, run->to, frames + done, wanted, plain);
		} else {
			if (run->drop != PORT_PASS) {
				port_drop(from, turn, run->drop, run->count);
			} else {
				batch_release(&batch);
				taken = network_flood(&batch, frames + done, run);
			}
			next++;
		}
		done += taken;
		if (unlikely(taken < wanted))
			break;
	}
	batch_release(&batch);

	if (unlikely(done < count)) {
		restore_tags(frames, batch.tagged, done, count);
		for (unsigned i = done; i < count; i++)
			batch.bytes -= frames[i].length;
	}
	counter_add(&counters->in_frames, done);
	counter_add(&counters->in_bytes, batch.bytes);
	return done;
}
