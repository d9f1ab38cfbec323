/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net, receive queues: from the switch into the driver's buffers (virtio 1.3 5.1.6.3, 5.1.6.4).
 *
 * Theory of operation
 * -------------------
 * The port's transmit operation, called by whatever sidecore sends, pops receive chains as frames come and fills them;
 * flush pushes them, unpops the chains that were not needed, and publishes. Between two claims nothing is held: all
 * that the queue remembers is in the ring.
 *
 * Popped chains wait in @chains from @head to @count; those before @head are filled, and are pushed all at once when
 * the port is flushed or their place is needed. The chains' segments lie one behind the other in the pool, in the order
 * of the chains (pop appends), so a frame that fills several chains is copied into one array of segments. When array or
 * pool run full of chains that were used, the waiting ones move to the front.
 *
 * With VIRTIO_NET_F_MRG_RXBUF a frame fills as many chains as it needs, all or nothing: when there are too few, the
 * port is full. Without, a frame goes into one chain; a chain that is too small for it is left for another frame.
 *
 * Steering: a flow goes to the pair on which the driver last sent it (virtio 1.3 5.1.6.5.6.1), when that can receive;
 * an unknown flow to one by its hash.
 *
 * Context: under the claim of the port. Which queues may be used is published by the control thread in net->receivers;
 * after it withdraws one, a barrier sees to it that no batch uses it any more.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/counter.h"
#include "device/virtio_net_internal.h"

/** The most chains of one frame; 64 KiB in buffers of 257 bytes. */
#define RECEIVE_CHAINS	 256U
#define RECEIVE_SEGMENTS (2 * CHAIN_SEGMENTS_MAX)

struct receive_queue {
	uint32_t head, count;
	uint64_t bytes; /* writable, in the chains that wait; of interest to mergeable ones only */
	struct segment_pool pool;
	struct chain chains[RECEIVE_CHAINS];
	uint32_t written[RECEIVE_CHAINS]; /* of the chains before @head */
	struct guest_segment segments[RECEIVE_SEGMENTS];
};

enum receive_result {
	RECEIVE_DONE,
	RECEIVE_FULL,
	RECEIVE_TOO_SMALL,
	RECEIVE_BROKEN,
};

int virtio_net_receive_start(struct virtio_queue *queue)
{
	struct receive_queue *receive = calloc(1, sizeof(*receive));

	if (!receive)
		return -ENOMEM;
	receive->pool = (struct segment_pool){ .segments = receive->segments, .capacity = RECEIVE_SEGMENTS };
	queue->model = receive;
	/* New buffers need no kick: they are found when there is something to put into them. */
	virtqueue_disarm(&queue->ring);
	return 0;
}

/* Hand the chains that are filled back as used. Chains and segments stay where they are. */
static void push_filled(struct virtio_queue *queue)
{
	struct receive_queue *receive = queue->model;

	virtqueue_push_chains(&queue->ring, receive->chains, receive->written, receive->head);
}

/* Push the chains that are filled; move those that wait, and their segments, to the front. */
static void make_room(struct virtio_queue *queue)
{
	struct receive_queue *receive = queue->model;
	uint32_t waiting = receive->count - receive->head;
	size_t gone = receive->pool.used;

	push_filled(queue);
	if (waiting)
		gone = (size_t)(receive->chains[receive->head].segments - receive->segments);
	memmove(receive->segments, receive->segments + gone,
		(receive->pool.used - gone) * sizeof(receive->segments[0]));
	memmove(receive->chains, receive->chains + receive->head, waiting * sizeof(receive->chains[0]));
	receive->pool.used -= (uint32_t)gone;
	receive->head = 0;
	receive->count = waiting;
	for (uint32_t i = 0; i < waiting; i++)
		receive->chains[i].segments -= gone;
}

/* Pop up to @want more chains. Return: how many; 0 also when the queue broke. */
static unsigned pop_more(struct virtio_queue *queue, unsigned want)
{
	struct receive_queue *receive = queue->model;
	unsigned count;

	if (receive->head && (receive->head == receive->count || receive->count + want > RECEIVE_CHAINS ||
			      receive->pool.used + CHAIN_SEGMENTS_MAX > RECEIVE_SEGMENTS))
		make_room(queue);
	want = min(want, RECEIVE_CHAINS - receive->count);
	receive->pool.writable_bytes = 0;
	count = virtqueue_pop(&queue->ring, receive->chains + receive->count, want, &receive->pool);
	if (unlikely(receive->pool.readable_bytes)) {
		virtqueue_break(&queue->ring, VIRTQUEUE_BAD_DIRECTION);
		return 0;
	}
	receive->bytes += receive->pool.writable_bytes;
	receive->count += count;
	return count;
}

/* A frame does not fit into the chains that wait, if any. Return: @result, unless the first is shorter than a header.
 */
static enum receive_result no_room(struct virtio_net *net, struct virtio_queue *queue, enum receive_result result)
{
	struct receive_queue *receive = queue->model;

	if (receive->head < receive->count && receive->chains[receive->head].writable_length < net->header_size)
		virtqueue_break(&queue->ring, VIRTQUEUE_HEADER_TOO_SHORT);
	return queue->ring.broken ? RECEIVE_BROKEN : result;
}

/*
 * See to it that the chains that wait can hold @need bytes.
 * @frames:	that are still to come in this batch: chains are popped for all of them at once
 */
static enum receive_result collect(struct virtio_net *net, struct virtio_queue *queue, uint32_t need, unsigned frames)
{
	struct receive_queue *receive = queue->model;

	if (!net->mergeable) {
		if (receive->head == receive->count && !pop_more(queue, min(frames, RECEIVE_CHAINS)))
			return no_room(net, queue, RECEIVE_FULL);
		if (likely(receive->chains[receive->head].writable_length >= need))
			return RECEIVE_DONE;
		return no_room(net, queue, RECEIVE_TOO_SMALL);
	}
	while (unlikely(receive->bytes < need)) {
		/* More than what waits can never hold it: the driver's buffers are too small for this frame. */
		if (unlikely(receive->count - receive->head == RECEIVE_CHAINS))
			return no_room(net, queue, RECEIVE_TOO_SMALL);
		if (!pop_more(queue, max(min(frames, RECEIVE_CHAINS), need / 2048)))
			return no_room(net, queue, RECEIVE_FULL);
	}
	return RECEIVE_DONE;
}

/* The header may lie over several segments: no layout is promised (virtio 1.3 2.7.4). */
static void scatter_header(const struct guest_segment *to, const struct virtio_net_header *header, uint32_t size)
{
	const uint8_t *from = (const uint8_t *)header;

	for (; size; to++) {
		uint32_t piece = (uint32_t)min(to->length, (size_t)size);

		guest_write(to->base, from, piece);
		from += piece;
		size -= piece;
	}
}

static inline void write_header(const struct guest_segment *to, const struct virtio_net_header *header, uint32_t size)
{
	if (likely(to->length >= size && size == sizeof(*header)))
		guest_write(to->base, header, sizeof(*header));
	else
		scatter_header(to, header, size);
}

static void log_chain(struct virtio_queue *queue, const struct chain *chain, uint32_t written)
{
	const struct guest_segment *segment = chain_writable(chain);

	for (; written; segment++) {
		uint32_t piece = (uint32_t)min(segment->length, (size_t)written);

		virtqueue_log_write(&queue->ring, segment->base, piece);
		written -= piece;
	}
}

/* Chains that @length bytes fill, from the first that waits. Return: 0: one is shorter than a header. */
static uint16_t chains_for(const struct receive_queue *receive, uint32_t length, uint32_t header_size)
{
	const struct chain *chain = &receive->chains[receive->head];
	uint16_t count = 1;

	while (unlikely(length > chain->writable_length)) {
		if (unlikely(chain->writable_length < header_size))
			return 0;
		length -= chain->writable_length;
		chain++;
		count++;
	}
	return likely(chain->writable_length >= header_size) ? count : 0;
}

static __attribute__((noinline)) enum receive_result receive_frame(struct virtio_net *net, struct virtio_queue *queue,
								   const struct frame *frame, unsigned frames)
{
	struct receive_queue *receive = queue->model;
	uint32_t need = net->header_size + frame->length, left = need;
	struct virtio_net_header header;
	enum receive_result result;
	const struct chain *chain;
	uint16_t buffers;

	result = collect(net, queue, need, frames);
	if (unlikely(result != RECEIVE_DONE))
		return result;
	buffers = chains_for(receive, need, net->header_size);
	if (unlikely(!buffers)) {
		virtqueue_break(&queue->ring, VIRTQUEUE_HEADER_TOO_SHORT);
		return RECEIVE_BROKEN;
	}
	chain = &receive->chains[receive->head];
	virtio_net_header_build(frame, net->port.abilities.checksum, buffers, &header);
	write_header(chain_writable(chain), &header, net->header_size);
	frame_copy_out(frame, chain_writable(chain), net->header_size);

	for (uint16_t i = 0; i < buffers; i++, chain++) {
		uint32_t written = min(left, chain->writable_length);

		if (unlikely(queue->ring.config.log))
			log_chain(queue, chain, written);
		receive->written[receive->head++] = written;
		left -= written;
		receive->bytes -= chain->writable_length;
	}
	return RECEIVE_DONE;
}

/*
 * Plain frames into chains that wait, each of which holds its frame in one segment, as far as they go: nearly all.
 * @bytes:	of these frames are added
 *
 * Return: how many; what stopped it is left to receive_frame().
 */
static unsigned receive_plain(struct virtio_net *net, struct virtio_queue *queue, const struct frame *frames,
			      unsigned count, uint64_t *bytes)
{
	static const struct virtio_net_header header = { .num_buffers = 1 };
	struct receive_queue *receive = queue->model;
	const struct chain *chain = receive->chains + receive->head;
	uint32_t *written = receive->written + receive->head;
	uint64_t sum = 0;
	unsigned done;

	if (unlikely(net->header_size != sizeof(header) || queue->ring.config.log))
		return 0;
	count = min(count, receive->count - receive->head);
	for (done = 0; done < count; done++, chain++) {
		const struct guest_segment *to = chain->segments; /* readable ones there are none: pop_more() */
		const struct frame *frame = &frames[done];
		uint32_t need = (uint32_t)sizeof(header) + frame->length;
		guest_byte *base = to->base;

		if (unlikely(to->length < need || !frame_is_bare(frame)))
			break;
		guest_write(base, &header, sizeof(header));
		frame_copy_inside(frame, base + sizeof(header));
		*written++ = need;
		sum += need;
	}
	*bytes += sum - done * sizeof(header);
	if (net->mergeable) {
		for (unsigned i = 0; i < done; i++)
			receive->bytes -= receive->chains[receive->head + i].writable_length;
	}
	receive->head += done;
	return done;
}

/* Pairs that may receive: those that run, of those that the driver has enabled, if any. */
static unsigned usable_pairs(const struct virtio_net *net)
{
	unsigned receivers = atomic_load_explicit(&net->receivers, memory_order_acquire);
	unsigned enabled = receivers & ((1U << atomic_load_explicit(&net->pairs_enabled, memory_order_relaxed)) - 1U);

	return enabled ? enabled : receivers;
}

/* The pair of @pairs, which are at least one, for a frame. */
static unsigned steer(const struct virtio_net *net, unsigned pairs, const struct frame *frame)
{
	uint32_t hash, nth;
	unsigned pair;

	if (likely(!(pairs & (pairs - 1))))
		return (unsigned)__builtin_ctz(pairs);
	hash = frame_flow_hash(frame);
	pair = atomic_load_explicit(&net->flows[hash % VIRTIO_NET_FLOWS], memory_order_relaxed);
	if (pair < VIRTIO_NET_PAIRS_MAX && (pairs >> pair & 1))
		return pair;
	for (nth = (hash >> 16) % (unsigned)__builtin_popcount(pairs); nth; nth--)
		pairs &= pairs - 1;
	return (unsigned)__builtin_ctz(pairs);
}

/* First use of a queue in this claim. */
static void touch(struct virtio_net *net, struct virtio_queue *queue)
{
	uint32_t bit = 1U << queue->index / 2;

	if (likely(net->touched & bit))
		return;
	net->touched |= bit;
	virtio_queue_check_memory(queue);
}

static unsigned receive_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct virtio_net *net = container_of(port, struct virtio_net, port);
	struct port_counters *counters = port_counters(port, turn);
	unsigned pairs = usable_pairs(net), done = 0, dropped = 0;
	bool single = !(pairs & (pairs - 1));
	uint64_t bytes = 0;

	if (unlikely(!pairs)) { /* the last one has just been withdrawn */
		port_drop(port, turn, PORT_DROP_LINK_DOWN, count);
		return count;
	}
	while (done < count) {
		struct virtio_queue *queue = &net->device.queues[2 * steer(net, pairs, &frames[done])];
		enum receive_result result = RECEIVE_BROKEN;
		uint64_t received = frames[done].length;
		unsigned more = 0;

		touch(net, queue);
		if (likely(!queue->ring.broken))
			result = receive_frame(net, queue, &frames[done], count - done);
		if (unlikely(result == RECEIVE_FULL))
			break;
		done++;
		if (unlikely(result != RECEIVE_DONE)) {
			port_drop(port, turn, result == RECEIVE_TOO_SMALL ? PORT_DROP_TOO_SMALL : PORT_DROP_LINK_DOWN,
				  1);
			dropped++;
			continue;
		}
		if (likely(single))
			more = receive_plain(net, queue, &frames[done], count - done, &received);
		counter_add(&queue->ring.counters.bytes, received + (more + 1ULL) * net->header_size);
		bytes += received;
		done += more;
	}
	counter_add(&counters->out_frames, done - dropped);
	counter_add(&counters->out_bytes, bytes);
	return done;
}

static void receive_flush(struct port *port, const struct turn *turn)
{
	struct virtio_net *net = container_of(port, struct virtio_net, port);

	for (; net->touched; net->touched &= net->touched - 1) {
		struct virtio_queue *queue = &net->device.queues[2 * (unsigned)__builtin_ctz(net->touched)];
		struct receive_queue *receive = queue->model;

		push_filled(queue);
		while (receive->count > receive->head)
			virtqueue_unpop(&queue->ring, &receive->chains[--receive->count]);
		receive->head = 0;
		receive->count = 0;
		receive->bytes = 0;
		receive->pool.used = 0;
		if (unlikely(queue->ring.broken))
			virtio_queue_report_break(queue);
		if (virtqueue_publish(&queue->ring))
			virtqueue_notify(&queue->ring, sidecore_notifier(turn->sidecore));
	}
}

const struct port_ops virtio_net_port_ops = {
	.kind = "virtio-net",
	.transmit = receive_transmit,
	.flush = receive_flush,
};
