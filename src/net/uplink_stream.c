/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stream uplink: frames over a stream socket in QEMU's way (-netdev stream, passt, gvproxy): 4 bytes of length in
 * network order, then the frame, without offloads.
 *
 * Theory of operation
 * -------------------
 * There is one connection at a time, which comes and goes by the poller's steps (net/stream_link.c); the poller gives it
 * to the senders, and takes it from them before it is closed.
 *
 * In: bytes are received into a buffer, complete frames in it are forwarded from where they lie, and the rest moves to
 * the front when none of them is left. Nothing is received while frames wait for their receiver.
 *
 * Out: transmit copies frames into a buffer of bounded size, flush sends it. What the socket does not take stays for
 * the next flush, or for the poller, which the kernel wakes when there is room (EPOLLOUT). A buffer that stays full
 * makes the port full, and the switch drops with that reason when its patience is over.
 *
 * The peer is not trusted: a length that no frame can have closes the connection; there is no way to find the next
 * frame.
 *
 * Context: everything but transmit and flush runs on the owning sidecore. Members under "claim" belong to who holds the
 * port's claim; the poller takes it, too, to change the connection or to send the rest.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/stream_link.h"
#include "net/uplink_internal.h"

#define LENGTH_SIZE 4U
#define INPUT_SIZE  (4U * (LENGTH_SIZE + FRAME_LENGTH_MAX))
#define OUTPUT_SIZE (8U * (LENGTH_SIZE + FRAME_LENGTH_MAX))

struct stream {
	struct uplink uplink;
	struct poller poller;

	/* The sidecore's. */
	struct stream_link link;
	uint64_t next_look; /* see UPLINK_LOOK_INTERVAL_NS */
	bool closing;	    /* the connection is over; frames that came before are still to be forwarded */
	struct log_limit log_limit;
	struct uplink_batch batch;
	uint8_t *input; /* INPUT_SIZE; [head, tail) is not in the batch yet, what the batch refers to lies below head */
	uint32_t head, tail;

	/* Claim. */
	int output_fd;
	uint8_t *output; /* OUTPUT_SIZE */
	uint32_t output_head, output_tail;
	atomic_bool output_left;   /* there is something to send; a hint for the poller */
	atomic_bool output_failed; /* the connection is broken; for the poller */
};

/* --- out of the network: under the claim --- */

static void stream_send(struct stream *stream)
{
	while (stream->output_head != stream->output_tail) {
		ssize_t sent = send(stream->output_fd, stream->output + stream->output_head,
				    stream->output_tail - stream->output_head, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0) {
			if (errno == EAGAIN)
				break;
			if (errno == EINTR)
				continue;
			stream->output_fd = -1;
			stream->output_head = stream->output_tail = 0;
			atomic_store_explicit(&stream->output_failed, true, memory_order_relaxed);
			break;
		}
		stream->output_head += (uint32_t)sent;
	}
	if (stream->output_head == stream->output_tail)
		stream->output_head = stream->output_tail = 0;
	atomic_store_explicit(&stream->output_left, stream->output_tail != 0, memory_order_relaxed);
}

/* Make room for @size bytes at the tail. Moving the rest is for slow peers only: a good one leaves none. */
static bool stream_make_room(struct stream *stream, uint32_t size)
{
	if (OUTPUT_SIZE - stream->output_tail >= size)
		return true;
	stream_send(stream);
	if (stream->output_head) {
		stream->output_tail -= stream->output_head;
		memmove(stream->output, stream->output + stream->output_head, stream->output_tail);
		stream->output_head = 0;
	}
	return OUTPUT_SIZE - stream->output_tail >= size;
}

static unsigned stream_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct stream *stream = container_of(port, struct stream, uplink.port);
	unsigned done, sent = 0;
	uint64_t bytes = 0;

	for (done = 0; done < count; done++) {
		const struct frame *frame = &frames[done];
		uint32_t length = htonl(frame->length);
		struct guest_segment to;

		if (frame->length > FRAME_LENGTH_MAX) {
			port_drop(port, turn, PORT_DROP_OVERSIZE, 1);
			continue;
		}
		if (stream->output_fd >= 0 && !stream_make_room(stream, LENGTH_SIZE + frame->length))
			break;
		if (stream->output_fd < 0) { /* perhaps only now: making room sends */
			port_drop(port, turn, PORT_DROP_LINK_DOWN, 1);
			continue;
		}
		memcpy(stream->output + stream->output_tail, &length, LENGTH_SIZE);
		to.base = guest_bytes_of(stream->output + stream->output_tail + LENGTH_SIZE);
		to.length = frame->length;
		frame_copy_out(frame, &to, 0);
		stream->output_tail += LENGTH_SIZE + frame->length;
		sent++;
		bytes += frame->length;
	}
	uplink_count_out(port, turn, sent, bytes);
	return done;
}

static void stream_flush(struct port *port, const struct turn *turn)
{
	struct stream *stream = container_of(port, struct stream, uplink.port);

	if (stream->output_fd >= 0)
		stream_send(stream);
}

static const struct port_ops stream_port_ops = {
	.kind = "stream",
	.transmit = stream_transmit,
	.flush = stream_flush,
};

/* --- the connection --- */

/* Give the senders the connection, or (-1) take it from them. Return: false when the claim is not to be had: try again.
 */
static bool stream_set_output(struct stream *stream, int fd)
{
	struct port *port = &stream->uplink.port;

	if (!port_try_claim(port))
		return false;
	stream->output_fd = fd;
	stream->output_head = stream->output_tail = 0;
	atomic_store_explicit(&stream->output_left, false, memory_order_relaxed);
	atomic_store_explicit(&stream->output_failed, false, memory_order_relaxed);
	port_release(port);
	return true;
}

static void stream_connect(struct stream *stream, const struct turn *turn)
{
	if (turn->now < stream->next_look)
		return;
	stream->next_look = turn->now + UPLINK_LOOK_INTERVAL_NS;
	if (!stream_link_step(&stream->link, turn->now))
		return;
	if (!stream_set_output(stream, stream->link.fd)) {
		stream->poller.pending = true;
		return;
	}
	stream_link_taken_up(&stream->link);
	stream->next_look = 0;
	log_limited(&stream->log_limit, LOG_LEVEL_INFO, "network %s: the stream's peer is connected",
		    stream->uplink.name);
}

static void stream_disconnect(struct stream *stream, const struct turn *turn)
{
	if (!stream_set_output(stream, -1)) {
		stream->poller.pending = true;
		return;
	}
	stream->closing = false;
	stream->head = stream->tail = 0;
	log_limited(&stream->log_limit, LOG_LEVEL_WARNING, "network %s: the stream's peer is gone; waiting for it",
		    stream->uplink.name);
	stream_link_lost(&stream->link, turn->now);
}

/* --- into the network --- */

/* Is there at least a whole frame in the buffer, or a length that no frame can have? */
static bool stream_has_frame(const struct stream *stream)
{
	uint32_t length;

	if (stream->tail - stream->head < LENGTH_SIZE)
		return false;
	memcpy(&length, stream->input + stream->head, LENGTH_SIZE);
	length = ntohl(length);
	return length > FRAME_LENGTH_MAX || stream->tail - stream->head - LENGTH_SIZE >= length;
}

/* Put whole frames of the buffer into the empty batch. */
static void stream_parse(struct stream *stream, unsigned count)
{
	while (stream->batch.count < count && stream_has_frame(stream)) {
		uint32_t length;

		memcpy(&length, stream->input + stream->head, LENGTH_SIZE);
		length = ntohl(length);
		if (!length || length > FRAME_LENGTH_MAX) {
			log_limited(&stream->log_limit, LOG_LEVEL_WARNING,
				    "network %s: the stream's peer sent a frame of %u bytes; closing the connection",
				    stream->uplink.name, length);
			stream->closing = true;
			stream->head = stream->tail;
			return;
		}
		uplink_batch_add(&stream->batch, stream->input + stream->head + LENGTH_SIZE, length, NULL);
		stream->head += LENGTH_SIZE + length;
	}
}

/* Receive more behind what is there; the batch is empty. Return: false when there is nothing now. */
static bool stream_read(struct stream *stream, const struct turn *turn)
{
	ssize_t got;

	if (stream->closing || turn->now < stream->next_look)
		return false;
	/* At most one frame and a part of one's length is left, so the buffer has room after this. */
	stream->tail -= stream->head;
	memmove(stream->input, stream->input + stream->head, stream->tail);
	stream->head = 0;

	got = recv(stream->link.fd, stream->input + stream->tail, INPUT_SIZE - stream->tail, MSG_DONTWAIT);
	if (got > 0) {
		stream->tail += (uint32_t)got;
		return true;
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		stream->next_look = turn->now + UPLINK_LOOK_INTERVAL_NS;
	else
		stream->closing = true;
	return false;
}

static unsigned stream_receive(struct stream *stream, const struct turn *turn)
{
	unsigned work = 0;
	uint32_t bytes = 0;

	while (work < turn->requests && bytes < turn->bytes) {
		unsigned done;

		if (uplink_batch_empty(&stream->batch))
			stream_parse(stream, min(NETWORK_BATCH, turn->requests - work));
		if (uplink_batch_empty(&stream->batch)) {
			if (!stream_read(stream, turn))
				break;
			continue;
		}
		for (unsigned i = stream->batch.first; i < stream->batch.count; i++)
			bytes += stream->batch.frames[i].length;
		done = uplink_batch_forward(&stream->batch, &stream->uplink.port, turn);
		work += done;
		if (!uplink_batch_empty(&stream->batch)) {
			stream->poller.pending = true; /* a receiver is full */
			break;
		}
	}
	return work;
}

/* Send what the senders could not. Paced by the looks for input, for the same reason. */
static void stream_send_rest(struct stream *stream, const struct turn *turn)
{
	struct port *port = &stream->uplink.port;

	if (!atomic_load_explicit(&stream->output_left, memory_order_relaxed) || turn->now < stream->next_look)
		return;
	if (!port_try_claim(port)) {
		stream->poller.pending = true;
		return;
	}
	if (stream->output_fd >= 0)
		stream_send(stream);
	port_release(port);
}

static unsigned stream_poll(struct poller *poller, const struct turn *turn)
{
	struct stream *stream = container_of(poller, struct stream, poller);
	unsigned work;

	poller->pending = false;
	if (!stream_link_connected(&stream->link))
		stream_connect(stream, turn);
	if (!stream_link_connected(&stream->link))
		return 0;

	if (atomic_load_explicit(&stream->output_failed, memory_order_relaxed))
		stream->closing = true;
	stream_send_rest(stream, turn);
	work = stream_receive(stream, turn);
	if (stream->closing && uplink_batch_empty(&stream->batch) && !stream_has_frame(stream))
		stream_disconnect(stream, turn);
	return work;
}

/* The kernel always tells; but the next look must really be one. */
static bool stream_arm(struct poller *poller)
{
	container_of(poller, struct stream, poller)->next_look = 0;
	return false;
}

static const struct poller_ops stream_poller_ops = { .kind = "stream", .poll = stream_poll, .arm = stream_arm };

/* --- open and close --- */

static void stream_uplink_close(struct uplink *uplink)
{
	struct stream *stream = container_of(uplink, struct stream, uplink);

	stream_link_close(&stream->link);
	free(stream->input);
	free(stream->output);
}

static int stream_open(const struct uplink_config *config, struct engine *engine, struct uplink **result,
		       const char **error)
{
	struct stream *stream;
	int code;

	if (!config->address) {
		*error = "a stream needs an address: a unix path, or host:port";
		return -EINVAL;
	}
	stream = uplink_allocate(sizeof(*stream));
	if (!stream)
		return -ENOMEM;
	stream->output_fd = -1;
	code = stream_link_open(&stream->link, config, error);
	stream->input = malloc(INPUT_SIZE);
	stream->output = malloc(OUTPUT_SIZE);
	if (!code && (!stream->input || !stream->output)) {
		*error = "out of memory";
		code = -ENOMEM;
	}
	if (code) {
		stream_uplink_close(&stream->uplink);
		free(stream);
		return code;
	}
	stream->poller = (struct poller){ .ops = &stream_poller_ops, .wake_fd = stream->link.wake_fd };
	stream->uplink.pollers[0] = &stream->poller;
	stream->uplink.poller_count = 1;
	stream->uplink.port.ops = &stream_port_ops;
	*result = &stream->uplink;
	return 0;
}

static const char *stream_state(const struct uplink *uplink)
{
	return stream_link_describe(&container_of(uplink, struct stream, uplink)->link);
}

const struct uplink_type_ops uplink_stream_ops = {
	.kind = "stream",
	.open = stream_open,
	.close = stream_uplink_close,
	.state = stream_state,
};
