/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the uplink types share: life of an uplink, and the batch of frames on its way into the network.
 */
#ifndef NET_UPLINK_INTERNAL_H
#define NET_UPLINK_INTERNAL_H

#include "net/uplink.h"

/** Queues of a multi-queue tap; other types have one poller or none. */
#define UPLINK_POLLERS_MAX 16U

/**
 * Looking for input costs a system call where the other end is a file descriptor. After a look in vain the next one is
 * made that much later, so that a busy sidecore does not spend its rounds on quiet uplinks. Before it sleeps it always
 * looks.
 */
#define UPLINK_LOOK_INTERVAL_NS (5 * 1000ULL)

/** struct uplink_type_ops - one row of the table in uplink.c. */
struct uplink_type_ops {
	const char *kind;

	/**
	 * @open: allocate the type's own structure, which starts with struct uplink, by uplink_allocate(); set
	 * port.ops, port.abilities and the pollers. Nothing runs yet.
	 */
	int (*open)(const struct uplink_config *config, struct engine *engine, struct uplink **uplink,
		    const char **error);

	/** @close: release what open made, but for the structure itself. No sidecore knows the uplink any more. */
	void (*close)(struct uplink *uplink);

	/** @state: for people. */
	const char *(*state)(const struct uplink *uplink);
};

/** struct uplink - first member of each type's structure. */
struct uplink {
	struct port port;
	const struct uplink_type_ops *ops;
	struct engine *engine;
	struct network *network;
	char *name;
	struct poller *pollers[UPLINK_POLLERS_MAX];
	unsigned poller_count;
	struct engine_completion closed;
	struct engine_completion *completion; /* the caller's of uplink_close() */
};

extern const struct uplink_type_ops uplink_null_ops, uplink_source_ops, uplink_tap_ops, uplink_stream_ops,
	uplink_slirp_ops;

/** uplink_allocate() - @size zeroed bytes, aligned as struct port needs it; freed by uplink.c. Return: NULL: no memory.
 */
void *uplink_allocate(size_t size);

/** uplink_count_out() - frames that left the network through @port. */
static inline void uplink_count_out(struct port *port, const struct turn *turn, uint64_t frames, uint64_t bytes)
{
	struct port_counters *counters = port_counters(port, turn);

	counter_add(&counters->out_frames, frames);
	counter_add(&counters->out_bytes, bytes);
}

/**
 * struct uplink_batch - frames that came in and are not forwarded yet. Their bytes are the uplink's and stay put until
 * the batch is empty. What the network does not take at once (a receiver is full) is offered again at the next turn.
 */
struct uplink_batch {
	struct frame frames[NETWORK_BATCH];
	struct guest_segment segments[NETWORK_BATCH];
	unsigned first, count; /* [first, count) are still to be forwarded */
};

static inline bool uplink_batch_empty(const struct uplink_batch *batch)
{
	return batch->first == batch->count;
}

/** uplink_batch_add() - @batch must be empty or just being filled, with room. @length is not zero. */
static inline void uplink_batch_add(struct uplink_batch *batch, const void *bytes, uint32_t length,
				    const struct frame_offload *offload)
{
	struct frame *frame = &batch->frames[batch->count];
	struct guest_segment *segment = &batch->segments[batch->count];

	segment->base = guest_bytes_of(bytes);
	segment->length = length;
	frame_from_segments(frame, segment, 1, length);
	if (offload)
		frame->offload = *offload;
	batch->count++;
}

/** uplink_batch_forward() - into the network, as far as it goes. Return: frames that are done with. */
static inline unsigned uplink_batch_forward(struct uplink_batch *batch, struct port *port, const struct turn *turn)
{
	unsigned done = network_forward(port, batch->frames + batch->first, batch->count - batch->first, turn);

	batch->first += done;
	if (uplink_batch_empty(batch))
		batch->first = batch->count = 0;
	return done;
}

#endif
