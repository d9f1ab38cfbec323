/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net, transmit queues: from the driver's ring into the switch (virtio 1.3 5.1.6.2).
 *
 * Theory of operation
 * -------------------
 * A turn goes by batches of at most NETWORK_BATCH chains: pop; copy and check each chain's header, which makes a frame
 * or a reason to drop it; hand the frames to network_forward(); push the chains that are done, unpop the others (their
 * receiver is full; they stay in the driver's ring and come again); publish. The driver is notified once a turn, and
 * whether it wants to be is settled at the next look at the ring, since there always is one
 * (virtqueue_publish_early()): a sidecore that goes to sleep looks once more before.
 *
 * Which chains are done: all before the first frame that the switch left. Chains that are dropped for their header lie
 * among them, and are counted only when they are done, since the ones behind are looked at again.
 *
 * A chain is an error of the driver's queue, not of a frame, and breaks the queue, when it is shorter than the header
 * or has writable buffers: when all before it are done, and not earlier, so that what a driver sent is not lost by what it
 * sent next.
 *
 * Context: the sidecore of the queue.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/counter.h"
#include "device/virtio_net_internal.h"

#define TRANSMIT_SEGMENTS (2 * CHAIN_SEGMENTS_MAX)

/** struct transmit_queue - scratch of one queue. */
struct transmit_queue {
	struct frame frames[NETWORK_BATCH];
	struct chain chains[NETWORK_BATCH];
	/* only when not all chains are plain: */
	uint8_t drops[NETWORK_BATCH];	     /* of each chain: enum port_drop, or PORT_DROPS: it is a frame */
	uint8_t frame_chains[NETWORK_BATCH]; /* of each frame: its chain */

	uint32_t average;	/* cost of a chain, lately: how many chains a turn's bytes are good for */
	uint16_t segments_done; /* of the first chain in the ring, which the switch left half way */
	struct segment_pool pool;
	struct guest_segment segments[TRANSMIT_SEGMENTS];
};

int virtio_net_transmit_start(struct virtio_queue *queue)
{
	size_t size = (sizeof(struct transmit_queue) + CACHE_LINE - 1) & -(size_t)CACHE_LINE;
	struct transmit_queue *transmit = aligned_alloc(CACHE_LINE, size);

	if (!transmit)
		return -ENOMEM;
	memset(transmit, 0, size);
	transmit->average = 64;
	transmit->pool = (struct segment_pool){ .segments = transmit->segments, .capacity = TRANSMIT_SEGMENTS };
	queue->model = transmit;
	virtqueue_disarm(&queue->ring);
	return 0;
}

/* The header of the chain's first bytes, in pieces. Return: the first segment that has bytes left. */
static struct guest_segment *gather_header(struct chain *chain, struct virtio_net_header *header, uint32_t size)
{
	struct guest_segment *segment = chain->segments;
	uint8_t *out = (uint8_t *)header;

	while (size) {
		uint32_t piece = (uint32_t)min(segment->length, (size_t)size);

		guest_read(out, segment->base, piece);
		out += piece;
		size -= piece;
		segment->base += piece;
		segment->length -= piece;
		if (!segment->length)
			segment++;
	}
	return segment;
}

/* Cut the header off the front of the chain's segments. Return: the first segment that has bytes left. */
static inline struct guest_segment *take_header(struct chain *chain, struct virtio_net_header *header, uint32_t size)
{
	struct guest_segment *segment = chain->segments;

	/* In one piece, and with its size a constant, in nearly all cases. */
	if (likely(segment->length > size && size == sizeof(*header))) {
		guest_read(header, segment->base, sizeof(*header));
		segment->base += size;
		segment->length -= size;
	} else {
		segment = gather_header(chain, header, size);
	}
	/* The copy is what is looked at from here on: the compiler must not read guest memory again instead. */
	__asm__ volatile("" : : : "memory");
	return segment;
}

/* When neither flags nor segmentation are there, nothing else in the header has a meaning (virtio 1.3 5.1.6.2). */
static inline bool header_asks_nothing(const guest_byte *header)
{
	uint16_t flags_and_type;

	guest_read(&flags_and_type, header, sizeof(flags_and_type));
	__asm__ volatile("" : "+r"(flags_and_type)); /* the copy is looked at, not guest memory again */
	return !flags_and_type;
}

/*
 * Nearly every chain: header and the first bytes of the frame are in one segment, and the header asks for nothing.
 *
 * Return: false: it may be anything else; nothing has been changed.
 */
static inline __attribute__((always_inline)) bool parse_plain(const struct chain *chain, struct frame *frame)
{
	struct guest_segment *segment = chain->segments;
	uint32_t length = chain->readable_length - (uint32_t)sizeof(struct virtio_net_header);
	uint32_t header_length = min(length, FRAME_HEADER_MAX);
	uint32_t cut = (uint32_t)sizeof(struct virtio_net_header) + header_length;

	/* A frame that is all header: nothing refers to the segment any more. */
	if (likely((uint32_t)chain->counts == CHAIN_ONE_READABLE &&
		   length - FRAME_LENGTH_MIN <= FRAME_HEADER_MAX - FRAME_LENGTH_MIN)) {
		if (unlikely(!header_asks_nothing(segment->base)))
			return false;
		frame_copy_header(frame, segment->base + sizeof(struct virtio_net_header), length);
		frame_set_plain(frame, length, (uint16_t)length);
		frame->segments = segment;
		frame->segment_count = 0;
		return true;
	}
	/* A chain that is too short has a length that wraps, and a first segment that is too short, too. */
	if (unlikely(chain->writable_count || segment->length < cut || length < FRAME_LENGTH_MIN))
		return false;
	if (unlikely(!header_asks_nothing(segment->base)))
		return false;
	frame_copy_header(frame, segment->base + sizeof(struct virtio_net_header), header_length);
	frame_set_plain(frame, length, (uint16_t)header_length);
	segment->base += cut;
	segment->length -= cut;
	frame->segments = segment + !segment->length;
	frame->segment_count = (uint16_t)(chain->readable_count - !segment->length);
	return true;
}

/* What is wrong with a chain whatever its header says. */
static enum virtqueue_break_reason chain_error(const struct virtio_net *net, const struct chain *chain)
{
	if (unlikely(chain->writable_count))
		return VIRTQUEUE_BAD_DIRECTION;
	return unlikely(chain->readable_length < net->header_size) ? VIRTQUEUE_HEADER_TOO_SHORT : VIRTQUEUE_INTACT;
}

/* One chain, without an error of the queue's. Return: why it is dropped; PORT_DROPS: it is a frame. */
static __attribute__((noinline)) uint8_t parse_chain(struct virtio_net *net, struct chain *chain, struct frame *frame)
{
	struct virtio_net_header header;
	struct guest_segment *segments;
	struct frame_offload offload;
	uint32_t length;

	header.num_buffers = 0;
	segments = take_header(chain, &header, net->header_size);
	length = chain->readable_length - net->header_size;
	if (unlikely(!virtio_net_header_parse(&header, net->device.acked_features, length, &offload)))
		return PORT_DROP_BAD_OFFLOAD;
	frame_from_segments(frame, segments, (unsigned)(chain->segments + chain->readable_count - segments), length);
	frame->offload = offload;
	if (unlikely(offload.gso != FRAME_GSO_NONE && !virtio_net_gso_fits(frame)))
		return PORT_DROP_BAD_OFFLOAD;
	return PORT_DROPS;
}

/* Remember on which pair the driver sends a flow: its answers come back there (virtio 1.3 5.1.6.5.6.1). */
static void note_flows(struct virtio_net *net, const struct virtio_queue *queue, const struct frame *frames,
		       unsigned count)
{
	unsigned char pair = (unsigned char)(queue->index / 2);

	for (unsigned i = 0; i < count; i++) {
		atomic_uchar *flow = &net->flows[frame_flow_hash(&frames[i]) % VIRTIO_NET_FLOWS];

		if (atomic_load_explicit(flow, memory_order_relaxed) != pair)
			atomic_store_explicit(flow, pair, memory_order_relaxed);
	}
}

/** struct parsed - of a batch. */
struct parsed {
	unsigned chains; /* those before the first that is an error of the queue's */
	unsigned frames; /* made of them */
};

/* The chains [@plain, @count), of which the first is not plain; those before are frames one for one. */
static __attribute__((noinline)) struct parsed parse_rest(struct virtio_net *net, struct virtio_queue *queue,
							  unsigned plain, unsigned count)
{
	struct transmit_queue *transmit = queue->model;
	unsigned frames = plain, chain;

	for (unsigned i = 0; i < count; i++)
		transmit->drops[i] = PORT_DROPS;
	for (unsigned i = 0; i < plain; i++)
		transmit->frame_chains[i] = (uint8_t)i;
	for (chain = plain; chain < count; chain++) {
		if (unlikely(chain_error(net, &transmit->chains[chain]) != VIRTQUEUE_INTACT))
			break;
		transmit->drops[chain] = parse_chain(net, &transmit->chains[chain], &transmit->frames[frames]);
		transmit->frame_chains[frames] = (uint8_t)chain;
		frames += transmit->drops[chain] == PORT_DROPS;
	}
	return (struct parsed){ chain, frames };
}

/* The first @done chains are done, of @count that were not all plain: count drops. Return: what is wrong with the next. */
static __attribute__((noinline)) enum virtqueue_break_reason finish_rest(struct virtio_net *net,
									 struct virtio_queue *queue, unsigned done,
									 unsigned count, const struct turn *turn)
{
	const struct transmit_queue *transmit = queue->model;

	for (unsigned i = 0; i < done; i++) {
		if (unlikely(transmit->drops[i] != PORT_DROPS))
			port_drop(&net->port, turn, transmit->drops[i], 1);
	}
	return done < count ? chain_error(net, &transmit->chains[done]) : VIRTQUEUE_INTACT;
}

/* A broken queue publishes nothing: what has been sent is given back first. */
static __attribute__((noinline)) void publish_and_break(struct virtio_queue *queue, enum virtqueue_break_reason error,
							const struct turn *turn)
{
	if (virtqueue_publish(&queue->ring))
		virtqueue_notify(&queue->ring, sidecore_notifier(turn->sidecore));
	virtqueue_break(&queue->ring, error);
}

/* Push what is done, unpop the rest. @bytes: of all. */
static void give_back(struct virtio_queue *queue, unsigned done, unsigned count, uint64_t bytes)
{
	struct transmit_queue *transmit = queue->model;

	virtqueue_push_chains(&queue->ring, transmit->chains, NULL, done);
	while (unlikely(count > done)) {
		bytes -= transmit->chains[--count].readable_length;
		virtqueue_unpop(&queue->ring, &transmit->chains[count]);
	}
	counter_add(&queue->ring.counters.bytes, bytes);
}

/* Chains that are popped, @bytes in all. Return: how many of them are done. */
static unsigned transmit_batch(struct virtio_net *net, struct virtio_queue *queue, unsigned count, uint64_t bytes,
			       const struct turn *turn)
{
	struct transmit_queue *transmit = queue->model;
	unsigned receivers = atomic_load_explicit(&net->receivers, memory_order_relaxed);
	enum virtqueue_break_reason error = VIRTQUEUE_INTACT;
	struct parsed parsed = { count, count };
	unsigned plain = 0, done, forwarded;

	if (likely(net->header_size == sizeof(struct virtio_net_header))) {
		while (plain < count && parse_plain(&transmit->chains[plain], &transmit->frames[plain]))
			plain++;
	}
	if (unlikely(plain != count))
		parsed = parse_rest(net, queue, plain, count);
	transmit->frames[0].segments_done = transmit->segments_done;
	transmit->segments_done = 0;
	if (receivers & (receivers - 1))
		note_flows(net, queue, transmit->frames, parsed.frames);

	forwarded = network_forward(&net->port, transmit->frames, parsed.frames, turn);
	done = parsed.chains;
	if (unlikely(forwarded < parsed.frames)) {
		done = plain == count ? forwarded : transmit->frame_chains[forwarded];
		transmit->segments_done = transmit->frames[forwarded].segments_done;
	}
	if (unlikely(plain != count))
		error = finish_rest(net, queue, done, count, turn);
	give_back(queue, done, count, bytes);
	if (unlikely(error != VIRTQUEUE_INTACT))
		publish_and_break(queue, error, turn);
	return done;
}

/* How many of @count chains are within @cost_left: the one that reaches it is the last. @cost: out, of these. */
static unsigned affordable(const struct chain *chains, unsigned count, uint64_t cost_left, uint64_t *cost)
{
	unsigned keep = 0;

	for (*cost = 0; keep < count && (!keep || *cost < cost_left); keep++)
		*cost += chain_cost(&chains[keep]);
	return keep;
}

/* Pop what the rest of the turn is good for. @cost, @bytes: out, of what was popped. Return: number of chains. */
static unsigned pop_batch(struct virtio_queue *queue, uint32_t requests, uint64_t cost_left, uint64_t *cost,
			  uint64_t *bytes)
{
	struct transmit_queue *transmit = queue->model;
	unsigned want = min(requests, NETWORK_BATCH), count, keep;
	uint64_t sum;

	want = (unsigned)min((uint64_t)want, cost_left / transmit->average + 1);
	transmit->pool.used = 0;
	transmit->pool.readable_bytes = 0;
	count = virtqueue_pop(&queue->ring, transmit->chains, want, &transmit->pool);
	if (!count)
		return 0;
	sum = transmit->pool.readable_bytes;
	/* Chains of one segment, all readable or the queue breaks, cost what they move: no need to look at each. */
	*cost = sum;
	if (unlikely(sum >= cost_left || transmit->pool.used != count)) {
		keep = affordable(transmit->chains, count, cost_left, cost);
		while (count > keep) {
			sum -= transmit->chains[--count].readable_length;
			virtqueue_unpop(&queue->ring, &transmit->chains[count]);
		}
	}
	*bytes = sum;
	transmit->average = (uint32_t)max(*cost / count, 64ULL);
	return count;
}

unsigned virtio_net_transmit_poll(struct virtio_queue *queue, const struct turn *turn)
{
	struct virtio_net *net = virtio_net_of(queue->device);
	uint64_t cost_left = turn->bytes, cost, bytes;
	unsigned work = 0, count, done;
	bool notify = false;

	queue->life.poller.pending = false;
	while (work < turn->requests) {
		count = pop_batch(queue, turn->requests - work, cost_left, &cost, &bytes);
		/* After the look for work, which gave the last batch's stores time to get out. */
		if (virtqueue_unsettled(&queue->ring))
			notify |= virtqueue_settle(&queue->ring);
		if (!count)
			break;
		done = transmit_batch(net, queue, count, bytes, turn);
		notify |= virtqueue_publish_early(&queue->ring);
		work += done;
		if (unlikely(done < count)) {
			queue->life.poller.pending = !queue->ring.broken;
			break;
		}
		if (cost >= cost_left || count < NETWORK_BATCH)
			break;
		cost_left -= cost;
	}
	if (notify)
		virtqueue_notify(&queue->ring, sidecore_notifier(turn->sidecore));
	return work;
}
