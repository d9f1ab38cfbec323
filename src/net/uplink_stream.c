/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stream uplink: frames over a stream socket in QEMU's way (-netdev stream, passt, gvproxy): 4 bytes of length in
 * network order, then the frame, without offloads.
 *
 * Theory of operation
 * -------------------
 * There is one connection at a time; made by us, tried once a second, or accepted. When it breaks, another is made.
 *
 *	WAITING		connect: the next try is at retry_at; listen: for a peer
 *	CONNECTING	connect() is on its way (TCP)
 *	CONNECTED	frames flow
 *
 * All of it is done by the poller, without ever blocking. What the sidecore watches while it sleeps is an epoll set of
 * the uplink's own (an epoll descriptor can itself be watched), with the timer, the listening socket and the connection
 * in it: so the poller's wake_fd stays the same while sockets come and go. It is edge-triggered through and through;
 * nobody reads its events, the poller just looks at everything.
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
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "net/stream_address.h"
#include "net/uplink_internal.h"

#define LENGTH_SIZE    4U
#define INPUT_SIZE     (4U * (LENGTH_SIZE + FRAME_LENGTH_MAX))
#define OUTPUT_SIZE    (8U * (LENGTH_SIZE + FRAME_LENGTH_MAX))
#define RETRY_INTERVAL NANOSECONDS_PER_SECOND

enum stream_state {
	STREAM_WAITING,
	STREAM_CONNECTING,
	STREAM_CONNECTED,
};

struct stream {
	struct uplink uplink;
	struct poller poller;
	bool listens;
	struct stream_address addresses[STREAM_ADDRESSES_MAX];
	unsigned address_count;

	/* The sidecore's. */
	atomic_uint state; /* enum stream_state; read by the control thread */
	unsigned address;  /* the one to try */
	int wake_fd;	   /* epoll set */
	int timer_fd;
	int listen_fd;
	int fd; /* the connection, -1: none */
	uint64_t retry_at;
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

static void set_state(struct stream *stream, enum stream_state state)
{
	atomic_store_explicit(&stream->state, state, memory_order_relaxed);
}

static enum stream_state get_state(const struct stream *stream)
{
	return atomic_load_explicit(&stream->state, memory_order_relaxed);
}

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

static void stream_watch(struct stream *stream, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events | EPOLLET };

	/* Fails for want of memory only; then the retry timer or the next kick of somebody else finds what is there. */
	epoll_ctl(stream->wake_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Wait for the next try: the next address at once, the first one again after a while. */
static void stream_retry(struct stream *stream, uint64_t now)
{
	struct itimerspec when = { 0 };

	set_state(stream, STREAM_WAITING);
	stream->address = (stream->address + 1) % stream->address_count;
	stream->retry_at = stream->address ? now : now + RETRY_INTERVAL;
	when.it_value.tv_sec = (time_t)(stream->retry_at / NANOSECONDS_PER_SECOND);
	when.it_value.tv_nsec = (long)(stream->retry_at % NANOSECONDS_PER_SECOND);
	timerfd_settime(stream->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void stream_close(struct stream *stream)
{
	if (stream->fd >= 0)
		close(stream->fd); /* leaves the epoll set by itself */
	stream->fd = -1;
	stream->closing = false;
	stream->head = stream->tail = 0;
}

static void stream_start_connect(struct stream *stream, uint64_t now)
{
	const struct stream_address *address = &stream->addresses[stream->address];

	stream->fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (stream->fd < 0) {
		stream_retry(stream, now);
		return;
	}
	stream_watch(stream, stream->fd, EPOLLIN | EPOLLOUT);
	/* A unix socket connects at once or (EAGAIN: the peer's backlog is full) not at all. */
	if (connect(stream->fd, (const struct sockaddr *)&address->storage, address->length) && errno != EINPROGRESS) {
		stream_close(stream);
		stream_retry(stream, now);
		return;
	}
	set_state(stream, STREAM_CONNECTING);
}

/* Has connect() come to an end? Return: true when connected. */
static bool stream_finish_connect(struct stream *stream, uint64_t now)
{
	struct pollfd pollfd = { .fd = stream->fd, .events = POLLOUT };
	socklen_t length = sizeof(int);
	int error = 0;

	if (poll(&pollfd, 1, 0) != 1)
		return false;
	if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &length) || error) {
		stream_close(stream);
		stream_retry(stream, now);
		return false;
	}
	return true;
}

/* One step towards a connection. Return: true when there is one, not yet known to the senders. */
static bool stream_step(struct stream *stream, uint64_t now)
{
	if (stream->listens) {
		if (stream->fd < 0) {
			stream->fd = accept4(stream->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
			if (stream->fd >= 0)
				stream_watch(stream, stream->fd, EPOLLIN | EPOLLOUT);
		}
		return stream->fd >= 0;
	}
	if (get_state(stream) == STREAM_WAITING && now >= stream->retry_at)
		stream_start_connect(stream, now);
	return get_state(stream) == STREAM_CONNECTING && stream_finish_connect(stream, now);
}

static void stream_connect(struct stream *stream, const struct turn *turn)
{
	int one = 1;

	if (turn->now < stream->next_look)
		return;
	stream->next_look = turn->now + UPLINK_LOOK_INTERVAL_NS;
	if (!stream_step(stream, turn->now))
		return;
	if (!stream_set_output(stream, stream->fd)) {
		stream->poller.pending = true;
		return;
	}
	/* Frames go out in batches already. Not for unix sockets, which fail this. */
	setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	stream->next_look = 0;
	stream->address = 0;
	set_state(stream, STREAM_CONNECTED);
	log_limited(&stream->log_limit, LOG_LEVEL_INFO, "network %s: the stream's peer is connected",
		    stream->uplink.name);
}

static void stream_disconnect(struct stream *stream, const struct turn *turn)
{
	if (!stream_set_output(stream, -1)) {
		stream->poller.pending = true;
		return;
	}
	stream_close(stream);
	log_limited(&stream->log_limit, LOG_LEVEL_WARNING, "network %s: the stream's peer is gone; waiting for it",
		    stream->uplink.name);
	if (stream->listens) {
		set_state(stream, STREAM_WAITING);
	} else {
		stream->address = stream->address_count - 1; /* so that the next one is the first, after a while */
		stream_retry(stream, turn->now);
	}
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

	got = recv(stream->fd, stream->input + stream->tail, INPUT_SIZE - stream->tail, MSG_DONTWAIT);
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
	if (get_state(stream) != STREAM_CONNECTED)
		stream_connect(stream, turn);
	if (get_state(stream) != STREAM_CONNECTED)
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
	const int fds[] = { stream->fd, stream->listen_fd, stream->timer_fd, stream->wake_fd };

	if (stream->listen_fd >= 0)
		stream_address_forget(&stream->addresses[0]);
	for (unsigned i = 0; i < array_size(fds); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	free(stream->input);
	free(stream->output);
}

static int stream_open_resources(struct stream *stream, const struct uplink_config *config, const char **error)
{
	int code = stream_address_resolve(config->address, config->listen, stream->addresses, &stream->address_count,
					  error);

	if (code)
		return code;
	stream->input = malloc(INPUT_SIZE);
	stream->output = malloc(OUTPUT_SIZE);
	if (!stream->input || !stream->output)
		return -ENOMEM;

	*error = "no file descriptors left for the stream; raise the limit (LimitNOFILE=)";
	stream->wake_fd = epoll_create1(EPOLL_CLOEXEC);
	if (stream->wake_fd < 0)
		return -errno;
	stream->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (stream->timer_fd < 0)
		return -errno;
	stream_watch(stream, stream->timer_fd, EPOLLIN);
	if (!stream->listens)
		return 0;

	stream->listen_fd = stream_address_listen(&stream->addresses[0]);
	if (stream->listen_fd < 0) {
		*error = stream->listen_fd == -EADDRINUSE
				 ? "somebody else listens on the stream's address; stop that, or choose another"
				 : "cannot listen on the stream's address; do its folder and our rights on it exist?";
		return stream->listen_fd;
	}
	stream_watch(stream, stream->listen_fd, EPOLLIN);
	return 0;
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
	stream->listens = config->listen;
	stream->fd = stream->output_fd = stream->wake_fd = stream->timer_fd = stream->listen_fd = -1;
	code = stream_open_resources(stream, config, error);
	if (code) {
		stream_uplink_close(&stream->uplink);
		free(stream);
		return code;
	}
	stream->poller = (struct poller){ .ops = &stream_poller_ops, .wake_fd = stream->wake_fd };
	stream->uplink.pollers[0] = &stream->poller;
	stream->uplink.poller_count = 1;
	stream->uplink.port.ops = &stream_port_ops;
	*result = &stream->uplink;
	return 0;
}

static const char *stream_state(const struct uplink *uplink)
{
	const struct stream *stream = container_of(uplink, struct stream, uplink);

	switch (get_state(stream)) {
	case STREAM_CONNECTED:
		return "connected";
	case STREAM_CONNECTING:
		return "connecting";
	default:
		return stream->listens ? "waiting for the peer to connect"
				       : "waiting for the peer; retries each second";
	}
}

const struct uplink_type_ops uplink_stream_ops = {
	.kind = "stream",
	.open = stream_open,
	.close = stream_uplink_close,
	.state = stream_state,
};
