/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the switch share: network.c (networks and their ports), network_forward.c (the way of a batch),
 * network_flood.c and network_finish.c (what most frames do not need). Nobody else includes this.
 */
#ifndef NET_NETWORK_INTERNAL_H
#define NET_NETWORK_INTERNAL_H

#include "net/address_table.h"
#include "net/network.h"
#include "net/segment.h"

/** Guest segments of a batch of cut segments; at least those of one frame (CHAIN_SEGMENTS_MAX) and some. */
#define WORKER_SEGMENTS 2048U

_Static_assert(NETWORK_BATCH <= 64, "batch.tagged has a bit for each frame");

struct network {
	uint64_t patience_ns;
	struct address_table *addresses;
	_Atomic uint32_t port_limit; /* no port has this number or a higher one */
	_Atomic(struct port *) ports[NETWORK_PORTS_MAX];
};

/** struct network_worker - scratch memory of one sidecore: what is cut and completed in software. */
struct network_worker {
	struct frame frames[NETWORK_BATCH];
	struct guest_segment segments[WORKER_SEGMENTS];
	uint8_t headers[NETWORK_BATCH][SEGMENT_HEADER_MAX + 8];
	struct segment_plan plan;
	uint32_t identification;
};

/**
 * struct run - frames, one behind the other, with the same addresses and VLAN, or with the same reason to be dropped.
 * @to:		where they go; NULL: dropped, or everybody
 * @drop:	enum port_drop, or PORT_PASS
 * @plain:	nothing has to be finished, and none has a tag
 * @source, @destination:	hashes of the addresses
 */
struct run {
	struct port *to;
	uint64_t source, destination;
	uint16_t vlan;
	uint8_t drop;
	bool plain;
	unsigned count;
};

/** struct batch - a call of network_forward(). */
struct batch {
	struct network *network;
	struct port *from;
	struct frame *frames;
	const struct turn *turn;
	struct network_worker *worker;
	uint64_t bytes;	 /* of all frames */
	uint64_t tagged; /* bit i: frame i came with the tag of its VLAN */
	unsigned run_count;
	struct run runs[NETWORK_BATCH];
	struct port *claimed[NETWORK_BATCH];
	unsigned claimed_count;
	unsigned flood_copies; /* frames flooded so far, times their receivers; and likewise their bytes */
	uint64_t flood_bytes;
};

/* network_finish.c */

/** network_finish() - as network_deliver(), with all that has to be done to the frames before. */
unsigned network_finish(struct batch *batch, struct port *to, struct frame *frames, unsigned count);

/**
 * network_deliver() - frames for @to, in order, under its claim.
 * @plain:	of all of them
 *
 * Return: frames that are done with; fewer than @count when the port is full.
 */
static inline unsigned network_deliver(struct batch *batch, struct port *to, struct frame *frames, unsigned count,
				       bool plain)
{
	if (likely(plain && to->vlan.mode != PORT_VLAN_TRUNK))
		return to->ops->transmit(to, frames, count, batch->turn);
	return network_finish(batch, to, frames, count);
}

/* network_flood.c */

/** network_flood() - the frames of @run to everybody; no claim is held. Return: frames that are done with. */
unsigned network_flood(struct batch *batch, struct frame *frames, const struct run *run);

#endif
