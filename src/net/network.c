/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The switch: from a port's batch of frames to the ports that they are for.
 *
 * Theory of operation
 * -------------------
 * network_forward() goes over a batch twice. First each frame is *routed*: filtered by what its port may send, its
 * source learned, its destination looked up (once for a run of equal ones). Nothing is counted or delivered yet, so
 * that frames which stay with their sender can be routed again later. Then runs of frames with the same destination are
 * *delivered*, in order, until one has to stay.
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
 * - A frame for everybody costs as much as all its copies. When those of a batch have used up the sender's turn, or
 *   come to FLOOD_COPIES, the rest of the batch stays for its next turn.
 * - Flooded frames wait for nobody: FLOOD_TRIES attempts at the claim, then they are dropped for this receiver, by
 *   name.
 *
 * What a receiver cannot take (net/segment.c) is finished just before delivery, in scratch memory of the sidecore. When
 * the receiver becomes full half way through the segments of a frame, the frame stays, and remembers how many it has
 * sent.
 *
 * Ports come and go on the control thread: the table holds atomic pointers, and a port is freed only after
 * engine_barrier(), so what a sidecore read from the table is good until its round ends.
 *
 * Invariants
 * - A frame that stays with its sender means the same as when it came: it has the tag it had (a priority tag apart),
 *   and what was changed in its header copy is a checksum that is complete now.
 * - Every frame that is done was either handed to a port's transmit or counted in a drop reason, for each receiver.
 *
 * Context: network_forward() on any sidecore, the rest on the control thread.
 */
#include "net/network.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/counter.h"
#include "net/address_table.h"
#include "net/port_filter.h"
#include "net/segment.h"

#define AGING_SECONDS 300U
#define PATIENCE_NS   NANOSECONDS_PER_MILLISECOND

/** What a receiver that holds senders earns for a frame: the larger of both. */
#define FRAME_EARNS_NS (16 * NANOSECONDS_PER_MICROSECOND)
#define BYTE_EARNS_NS  8ULL

/** Copies of flooded frames in one batch, after which no other is begun. */
#define FLOOD_COPIES 256U

/** Attempts at a claim for a flooded frame. A claim is held for a batch, so this is a few of those. */
#define FLOOD_TRIES 256U

/** Guest segments of a batch of cut segments; at least those of one frame (CHAIN_SEGMENTS_MAX) and some. */
#define WORKER_SEGMENTS 2048U

struct network {
	uint64_t patience_ns;
	struct address_table *addresses;
	_Atomic uint32_t port_limit; /* no port has this number or a higher one */
	_Atomic(struct port *) ports[NETWORK_PORTS_MAX];
};

struct network_worker {
	struct frame frames[NETWORK_BATCH];
	struct guest_segment segments[WORKER_SEGMENTS];
	uint8_t headers[NETWORK_BATCH][SEGMENT_HEADER_MAX + 8];
	struct segment_plan plan;
	uint32_t identification;
};

/** struct route - where a frame goes: a drop reason, or a port, or (neither) everybody. */
struct route {
	struct port *to;
	uint8_t drop; /* enum port_drop, or PORT_PASS */
};

/** struct batch - a call of network_forward(). */
struct batch {
	struct network *network;
	struct port *from;
	struct frame *frames;
	const struct turn *turn;
	struct network_worker *worker;
	struct route routes[NETWORK_BATCH];
	struct port *claimed[NETWORK_BATCH];
	unsigned claimed_count;
	unsigned flood_copies; /* frames flooded so far, times their receivers; and likewise their bytes */
	uint64_t flood_bytes;
};

/* ---- Control thread ---- */

struct network *network_create(const struct network_config *config)
{
	struct network *network = calloc(1, sizeof(*network));

	if (!network)
		return NULL;
	network->patience_ns = config->patience_ns ? config->patience_ns : PATIENCE_NS;
	network->addresses = address_table_create(config->aging_seconds ? config->aging_seconds : AGING_SECONDS);
	if (!network->addresses) {
		free(network);
		return NULL;
	}
	return network;
}

void network_destroy(struct network *network)
{
	if (!network)
		return;
	address_table_destroy(network->addresses);
	free(network);
}

int network_add_port(struct network *network, struct port *port)
{
	uint16_t number = 0;

	while (number < NETWORK_PORTS_MAX && atomic_load_explicit(&network->ports[number], memory_order_relaxed))
		number++;
	if (number == NETWORK_PORTS_MAX)
		return -ENOSPC;

	port->network = network;
	port->number = number;
	port->full_since = 0;
	port->patience_spent = 0;
	atomic_store_explicit(&port->up, false, memory_order_relaxed);
	atomic_flag_clear_explicit(&port->claim, memory_order_relaxed);
	/* Release: a sidecore that finds the port finds it as it was set up. */
	atomic_store_explicit(&network->ports[number], port, memory_order_release);
	if (number >= atomic_load_explicit(&network->port_limit, memory_order_relaxed))
		atomic_store_explicit(&network->port_limit, number + 1U, memory_order_release);
	return 0;
}

void network_remove_port(struct network *network, struct port *port)
{
	atomic_store_explicit(&port->up, false, memory_order_relaxed);
	atomic_store_explicit(&network->ports[port->number], NULL, memory_order_release);
	address_table_forget_port(network->addresses, port->number);
}

unsigned network_read_addresses(const struct network *network, struct network_address *addresses, unsigned count)
{
	struct address_table_entry *entries = calloc(count ? count : 1, sizeof(*entries));

	if (!entries)
		return 0;
	count = address_table_read(network->addresses, entries, count, clock_nanoseconds());
	for (unsigned i = 0; i < count; i++) {
		addresses[i].vlan = entries[i].vlan;
		addresses[i].port = entries[i].port;
		addresses[i].age_seconds = entries[i].age_seconds;
		memcpy(addresses[i].mac, entries[i].mac, sizeof(addresses[i].mac));
	}
	free(entries);
	return count;
}

struct network_worker *network_worker_create(void)
{
	struct network_worker *worker = aligned_alloc(CACHE_LINE, (sizeof(*worker) + CACHE_LINE - 1) & -(size_t)CACHE_LINE);

	if (!worker)
		return NULL;
	memset(worker, 0, sizeof(*worker));
	if (getrandom(&worker->identification, sizeof(worker->identification), 0) !=
	    sizeof(worker->identification)) {
		free(worker);
		return NULL;
	}
	return worker;
}

void network_worker_destroy(struct network_worker *worker)
{
	free(worker);
}

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

/* ---- Delivery to one port, under its claim ---- */

/*
 * Cut @frame, and complete checksums, for @to. Return: true when the frame is done with; false when the port is full,
 * with frame->segments_done telling how far it came.
 */
static bool deliver_finished(struct batch *batch, struct port *to, struct frame *frame)
{
	struct network_worker *worker = batch->worker;
	struct port_counters *counters = port_counters(to, batch->turn);
	struct segment_plan *plan = &worker->plan;
	struct frame *pointers[NETWORK_BATCH];
	struct segment_room room = { worker->frames, NETWORK_BATCH, worker->headers, worker->segments, WORKER_SEGMENTS };
	unsigned built, taken;

	if (segment_plan(plan, frame, to->abilities.checksum, worker->identification++)) {
		port_drop(batch->from, batch->turn, PORT_DROP_BAD_HEADER, 1);
		return true;
	}
	segment_skip(plan, frame->segments_done);
	for (unsigned i = 0; i < NETWORK_BATCH; i++)
		pointers[i] = &worker->frames[i];

	while ((built = segment_next(plan, &room)) > 0) {
		taken = to->ops->transmit(to, pointers, built, batch->turn);
		frame->segments_done = (uint16_t)(frame->segments_done + taken);
		if (taken < built)
			return false;
	}
	counter_add(frame->offload.gso == FRAME_GSO_NONE ? &counters->checksummed : &counters->segmented, 1);
	frame->segments_done = 0;
	return true;
}

/* The frames [0, count) as one call of transmit. Return: frames that were taken. */
static unsigned deliver_whole(struct batch *batch, struct port *to, struct frame *frames, unsigned count)
{
	struct frame *pointers[NETWORK_BATCH];

	for (unsigned i = 0; i < count; i++)
		pointers[i] = &frames[i];
	return to->ops->transmit(to, pointers, count, batch->turn);
}

/* Frames for @to, in order. Return: frames that are done with; fewer than @count when the port is full. */
static unsigned deliver(struct batch *batch, struct port *to, struct frame *frames, unsigned count)
{
	unsigned done = 0;

	while (done < count) {
		unsigned whole = done, taken;

		/* As many as the port takes as they are. */
		for (; whole < count; whole++) {
			struct frame *frame = &frames[whole];

			port_vlan_tag(to, frame);
			if (!segment_needed(&frame->offload, &to->abilities))
				continue;
			if (frame->offload.gso == FRAME_GSO_NONE && segment_checksum(frame)) {
				counter_add(&port_counters(to, batch->turn)->checksummed, 1);
				continue;
			}
			break;
		}
		if (whole > done) {
			taken = deliver_whole(batch, to, frames + done, whole - done);
			done += taken;
			if (done < whole)
				return done;
		}
		if (done < count) {
			if (!deliver_finished(batch, to, &frames[done]))
				return done;
			done++;
		}
	}
	return done;
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
static unsigned forward_unicast(struct batch *batch, struct port *to, struct frame *frames, unsigned count)
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

	done = deliver(batch, to, frames, count);
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

/* ---- Flood ---- */

/* Is @to to have what is flooded from @from? */
static bool floods_to(const struct port *from, const struct port *to, uint16_t vlan)
{
	return to != from && port_vlan_member(to, vlan) && !(from->isolated && to->isolated) &&
	       atomic_load_explicit(&to->up, memory_order_acquire);
}

static void flood_to(struct batch *batch, struct port *to, struct frame *frame)
{
	unsigned tries = 0;

	while (!port_try_claim(to)) {
		if (++tries == FLOOD_TRIES) {
			port_drop(to, batch->turn, PORT_DROP_BUSY, 1);
			return;
		}
		cpu_relax();
	}
	frame->segments_done = 0;
	if (!deliver(batch, to, frame, 1))
		port_drop(to, batch->turn, PORT_DROP_FULL, 1);
	to->ops->flush(to, batch->turn);
	port_release(to);
}

static void forward_flood(struct batch *batch, struct frame *frame)
{
	uint32_t limit = atomic_load_explicit(&batch->network->port_limit, memory_order_acquire);
	bool anybody = false;

	batch_release(batch);
	for (uint32_t number = 0; number < limit; number++) {
		struct port *to = atomic_load_explicit(&batch->network->ports[number], memory_order_acquire);

		if (!to || !floods_to(batch->from, to, frame->vlan))
			continue;
		anybody = true;
		flood_to(batch, to, frame);
		batch->flood_copies++;
		batch->flood_bytes += frame->length;
	}
	if (anybody)
		counter_add(&port_counters(batch->from, batch->turn)->flooded, 1);
	else
		port_drop(batch->from, batch->turn, PORT_DROP_NO_DESTINATION, 1);
}

/* ---- Routing ---- */

static struct route route_to(const struct batch *batch, const struct frame *frame, uint16_t number)
{
	struct port *from = batch->from, *to = NULL;

	if (number != ADDRESS_TABLE_UNKNOWN)
		to = atomic_load_explicit(&batch->network->ports[number], memory_order_acquire);
	if (!to) /* not known, or just removed */
		return (struct route){ NULL, PORT_PASS };
	if (to == from)
		return (struct route){ NULL, PORT_DROP_HAIRPIN };
	if (unlikely(from->isolated && to->isolated))
		return (struct route){ NULL, PORT_DROP_ISOLATED };
	if (unlikely(!port_vlan_member(to, frame->vlan)))
		return (struct route){ NULL, PORT_DROP_VLAN };
	return (struct route){ to, PORT_PASS };
}

/* Same addresses, same VLAN: same route, and the source is learned already. */
static bool same_addresses(const struct frame *a, const struct frame *b)
{
	return a->vlan == b->vlan && memcmp(a->header, b->header, 12) == 0;
}

static void route_batch(struct batch *batch, unsigned count)
{
	struct address_table *addresses = batch->network->addresses;
	uint64_t now = batch->turn->now, destinations[NETWORK_BATCH], sources[NETWORK_BATCH];
	const struct frame *previous = NULL;

	for (unsigned i = 0; i < count; i++) {
		struct frame *frame = &batch->frames[i];

		batch->routes[i] = (struct route){ NULL, (uint8_t)port_filter_in(batch->from, frame) };
		if (unlikely(batch->routes[i].drop != PORT_PASS))
			continue;
		if (!previous || !same_addresses(previous, frame)) {
			sources[i] = address_table_hash(addresses, address_key(frame->header + 6, frame->vlan));
			destinations[i] = address_table_hash(addresses, address_key(frame->header, frame->vlan));
		}
		previous = frame;
	}

	previous = NULL;
	for (unsigned i = 0; i < count; i++) {
		struct frame *frame = &batch->frames[i];

		if (unlikely(batch->routes[i].drop != PORT_PASS))
			continue;
		if (previous && same_addresses(previous, frame)) {
			batch->routes[i] = batch->routes[previous - batch->frames];
		} else {
			address_table_learn(addresses, sources[i], batch->from->number, now);
			if (!(frame->header[0] & 1))
				batch->routes[i] =
					route_to(batch, frame, address_table_lookup(addresses, destinations[i], now));
		}
		previous = frame;
	}
}

static bool same_route(const struct route *a, const struct route *b)
{
	return a->to == b->to && a->drop == b->drop;
}

/* Have flooded frames cost the sender its turn? */
static bool flooded_enough(const struct batch *batch)
{
	return batch->flood_copies >= FLOOD_COPIES || batch->flood_bytes >= batch->turn->bytes;
}

/* The frames [0, count), one after the other, to everybody. Return: frames that are done with. */
static unsigned forward_floods(struct batch *batch, struct frame *frames, unsigned count)
{
	unsigned done = 0;

	while (done < count && !flooded_enough(batch))
		forward_flood(batch, &frames[done++]);
	return done;
}

/* Frames that stay get back the tag that they came with: they will be routed again. */
static void restore_tags(struct frame *frames, const bool *tagged, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (likely(frames[i].tagged == tagged[i]))
			continue;
		if (tagged[i])
			frame_insert_tag(&frames[i], frames[i].priority | frames[i].vlan);
		else
			frame_remove_tag(&frames[i]);
		frames[i].tagged = tagged[i];
	}
}

unsigned network_forward(struct port *from, struct frame *frames, unsigned count, const struct turn *turn)
{
	struct port_counters *counters = port_counters(from, turn);
	bool tagged[NETWORK_BATCH];
	uint64_t bytes = 0;
	unsigned done = 0, run;
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

	route_batch(&batch, count);
	for (unsigned i = 0; i < count; i++) {
		tagged[i] = frames[i].tagged;
		bytes += frames[i].length;
	}

	for (; done < count; done += run) {
		const struct route *route = &batch.routes[done];
		unsigned taken;

		for (run = 1; done + run < count && same_route(route, &batch.routes[done + run]); run++)
			;
		if (likely(route->to)) {
			taken = forward_unicast(&batch, route->to, frames + done, run);
			if (unlikely(taken < run)) {
				done += taken;
				break;
			}
		} else if (route->drop != PORT_PASS) {
			port_drop(from, turn, route->drop, run);
		} else {
			taken = forward_floods(&batch, frames + done, run);
			if (unlikely(taken < run)) {
				done += taken;
				break;
			}
		}
	}
	batch_release(&batch);

	if (unlikely(done < count)) {
		restore_tags(frames + done, tagged + done, count - done);
		for (unsigned i = done; i < count; i++)
			bytes -= frames[i].length;
	}
	counter_add(&counters->in_frames, done);
	counter_add(&counters->in_bytes, bytes);
	return done;
}
