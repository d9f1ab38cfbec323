/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network card and its driver, as a load needs them: frames are prebuilt, sent by reference and received unread.
 *
 * Theory of operation
 * -------------------
 * Transmit: each buffer of the ring holds a virtio-net header and a whole frame, written once. A buffer that comes back
 * goes to the end of a FIFO of idle ones and is sent again from its head; nothing in it changes, except for one buffer
 * in PROBE_EVERY, which gets a fresh sequence number each time.
 *
 * Receive: buffers are counted by their used length and given back at once. By sample, the content is checked: the
 * receiver looks at frames until it meets one with a sequence number (one in PROBE_EVERY has one), compares all of it,
 * and then lets CHECK_PAUSE frames pass unread. The sequence must rise, by at least as many as were received since;
 * that finds duplicates and reordering, and counting finds losses. Frames of a length that was not sent are
 * counted apart, as "unexpected".
 *
 * Buffers lie as close as cache lines allow, so that the client's footprint is small and what is measured is the server
 * rather than the client's cache misses. A real guest's is larger; it is the same for every server under test.
 *
 * Context: one thread owns an endpoint.
 */
#include "client/net_endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RX_QUEUE     0
#define TX_QUEUE     1
#define HEADER_SIZE  sizeof(struct virtio_net_hdr_v1)
#define CACHE_LINE   64u
#define PROBE_EVERY  32u
#define CHECK_PAUSE  1000u
#define PROBE_MAGIC  0x65646973u
#define ETHER_LEN    14u
#define IPV4_LEN     20u
#define TCP_LEN	     20u
#define SEGMENT_SIZE 1448u
#define MERGE_BUFFER 2048u
#define FRAME_ROOM   1526u

/* IEEE 802 "Local Experimental Ethertype 1": never meant for anyone else */
#define ETHERTYPE_EXPERIMENT 0x88b5u
#define ETHERTYPE_IPV4	     0x0800u

/* At the head of a frame's payload; @sequence 0 means that this frame has none. */
struct probe {
	uint32_t magic;
	uint32_t length;
	uint64_t sequence;
} __attribute__((packed));

static uint32_t align_line(uint32_t value)
{
	return (value + CACHE_LINE - 1) & ~(CACHE_LINE - 1);
}

/* ---- frames ---- */

static uint32_t sum_words(const uint8_t *data, uint32_t length, uint32_t sum)
{
	for (uint32_t i = 0; i + 1 < length; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];

	return sum;
}

static uint16_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);

	return (uint16_t)sum;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* One TCP segment of up to 64 KiB: lengths, IPv4 checksum, and TCP's field with the pseudo-header sum (5.1.6.2). */
static void build_tcp(const struct net_endpoint *endpoint, uint8_t *frame)
{
	uint32_t ip_length = endpoint->options.frame_size - ETHER_LEN;
	uint8_t *ip = frame + ETHER_LEN;
	uint8_t *tcp = ip + IPV4_LEN;

	ip[0] = 0x45;
	put16(ip + 2, ip_length);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, (const uint8_t[]){ 192, 0, 2, 1, 192, 0, 2, 2 }, 8);
	put16(ip + 10, (uint16_t)~fold(sum_words(ip, IPV4_LEN, 0)));

	put16(tcp, 5001);
	put16(tcp + 2, 5001);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10;
	put16(tcp + 14, 0xffff);
	put16(tcp + 16, fold(sum_words(ip + 12, 8, 6 + ip_length - IPV4_LEN)));
}

static void build_frame(const struct net_endpoint *endpoint, uint8_t *buffer)
{
	struct virtio_net_hdr_v1 *header = (void *)buffer;
	uint8_t *frame = buffer + HEADER_SIZE;
	struct probe probe = { .magic = PROBE_MAGIC, .length = endpoint->options.frame_size };

	for (uint32_t i = 0; i < endpoint->options.frame_size; i++)
		frame[i] = (uint8_t)(i * 7 + i / 256);
	memcpy(frame, endpoint->options.destination, NET_ENDPOINT_ADDRESS_LEN);
	memcpy(frame + NET_ENDPOINT_ADDRESS_LEN, endpoint->options.source, NET_ENDPOINT_ADDRESS_LEN);
	put16(frame + 12, endpoint->options.gso ? ETHERTYPE_IPV4 : ETHERTYPE_EXPERIMENT);

	memset(header, 0, HEADER_SIZE);
	if (endpoint->options.gso) {
		memset(frame + ETHER_LEN, 0, IPV4_LEN + TCP_LEN);
		build_tcp(endpoint, frame);
		header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		header->gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		header->hdr_len = ETHER_LEN + IPV4_LEN + TCP_LEN;
		header->gso_size = SEGMENT_SIZE;
		header->csum_start = ETHER_LEN + IPV4_LEN;
		header->csum_offset = 16;
	}
	memcpy(frame + endpoint->probe_offset, &probe, sizeof(probe));
}

static int prepare_transmit(struct net_endpoint *endpoint)
{
	uint32_t size = (uint32_t)HEADER_SIZE + endpoint->options.frame_size;
	uint16_t count = endpoint->tx.buffers;

	endpoint->tx_stride = align_line(size);
	endpoint->tx_buffers = vhost_user_client_allocate(&endpoint->client, (size_t)count * endpoint->tx_stride, 4096);
	endpoint->idle = calloc(count, sizeof(*endpoint->idle));
	if (!endpoint->tx_buffers || !endpoint->idle)
		return -ENOMEM;

	for (unsigned int i = 0; i < count; i++) {
		uint8_t *buffer = endpoint->tx_buffers + (size_t)i * endpoint->tx_stride;

		build_frame(endpoint, buffer);
		virtqueue_driver_set_segment(&endpoint->tx, i, 0,
					     vhost_user_client_guest_address(&endpoint->client, buffer), size, false);
		endpoint->idle[i].id = i;
	}
	endpoint->idle_count = count;

	return 0;
}

static uint32_t receive_size(const struct net_endpoint_options *options, bool mergeable)
{
	uint32_t frame = options->frame_size > FRAME_ROOM ? options->frame_size : FRAME_ROOM;

	return mergeable ? MERGE_BUFFER : (uint32_t)HEADER_SIZE + frame;
}

static int prepare_receive(struct net_endpoint *endpoint)
{
	uint32_t size = receive_size(&endpoint->options, endpoint->mergeable);

	/* One line more than needed: strides that are a power of two put all headers in a few sets of the cache. */
	endpoint->rx_stride = align_line(size) + (endpoint->mergeable ? CACHE_LINE : 0);
	endpoint->rx_buffers = vhost_user_client_allocate(&endpoint->client,
							  (size_t)endpoint->rx.buffers * endpoint->rx_stride, 4096);
	endpoint->expected = malloc(HEADER_SIZE + endpoint->options.frame_size);
	if (!endpoint->rx_buffers || !endpoint->expected)
		return -ENOMEM;

	build_frame(endpoint, endpoint->expected);
	endpoint->check_in = 1;
	for (unsigned int i = 0; i < endpoint->rx.buffers; i++) {
		uint8_t *buffer = endpoint->rx_buffers + (size_t)i * endpoint->rx_stride;

		virtqueue_driver_set_segment(&endpoint->rx, i, 0,
					     vhost_user_client_guest_address(&endpoint->client, buffer), size, true);
	}

	return 0;
}

/* ---- attach ---- */

static void kick(struct net_endpoint *endpoint, unsigned int queue)
{
	uint64_t one = 1;

	/* A full counter (EAGAIN) is as good as a kick. */
	if (write(endpoint->client.queues[queue].kick_fd, &one, sizeof(one)) == sizeof(one))
		endpoint->counters.kicks++;
}

static void connect_options(const struct net_endpoint_options *options, struct vhost_user_client_options *connection)
{
	const uint64_t offloads = 1ULL << VIRTIO_NET_F_CSUM | 1ULL << VIRTIO_NET_F_GUEST_CSUM |
				  1ULL << VIRTIO_NET_F_HOST_TSO4 | 1ULL << VIRTIO_NET_F_GUEST_TSO4;
	size_t buffer = HEADER_SIZE + FRAME_ROOM + options->frame_size + MERGE_BUFFER;

	*connection = (struct vhost_user_client_options){
		.socket_path = options->socket_path,
		.listen = options->listen,
		.huge_pages = options->huge_pages,
		.memory_size = 2 * options->ring_size * (buffer + 64) + (1 << 20),
		.features_required = 1ULL << VIRTIO_F_VERSION_1,
	};
	if (options->packed)
		connection->features_required |= 1ULL << VIRTIO_F_RING_PACKED;
	if (options->gso)
		connection->features_required |= offloads;
	if (options->event_index)
		connection->features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (options->in_order)
		connection->features |= 1ULL << VIRTIO_F_IN_ORDER;
	if (options->mergeable)
		connection->features |= 1ULL << VIRTIO_NET_F_MRG_RXBUF;
}

static int create_queue(struct net_endpoint *endpoint, struct virtqueue_driver *queue)
{
	const struct virtqueue_driver_options form = {
		.size = endpoint->options.ring_size,
		.segments = 1,
		.packed = endpoint->options.packed,
		.event_index = vhost_user_client_has(&endpoint->client, VIRTIO_RING_F_EVENT_IDX),
		.in_order = vhost_user_client_has(&endpoint->client, VIRTIO_F_IN_ORDER),
	};
	void *memory = vhost_user_client_allocate(&endpoint->client, virtqueue_driver_memory_size(&form), 4096);

	if (!memory)
		return -ENOMEM;

	return virtqueue_driver_init(queue, &form, memory, vhost_user_client_guest_address(&endpoint->client, memory));
}

static int start_queue(struct net_endpoint *endpoint, struct virtqueue_driver *queue, unsigned int index)
{
	const struct vhost_user_client_ring ring = {
		.size = queue->options.size,
		.base = queue->options.packed ? VIRTQUEUE_DRIVER_PACKED_BASE : 0,
		.descriptors = virtqueue_driver_descriptor_area(queue),
		.driver = virtqueue_driver_driver_area(queue),
		.device = virtqueue_driver_device_area(queue),
	};

	return vhost_user_client_start_queue(&endpoint->client, index, &ring);
}

static void fill_receive_ring(struct net_endpoint *endpoint)
{
	for (unsigned int i = 0; i < endpoint->rx.buffers; i++) {
		struct virtqueue_buffer buffer = { .id = i };

		virtqueue_driver_add(&endpoint->rx, &buffer, 1);
	}
	if (virtqueue_driver_publish(&endpoint->rx))
		kick(endpoint, RX_QUEUE);
}

static bool options_are_valid(const struct net_endpoint_options *options)
{
	return options->socket_path && options->batch > 0 && options->batch <= NET_ENDPOINT_BATCH_MAX &&
	       options->frame_size >= NET_ENDPOINT_FRAME_MIN && options->frame_size <= NET_ENDPOINT_FRAME_MAX &&
	       (!options->gso || options->frame_size >= 128);
}

/**
 * net_endpoint_attach() - plug in a network card.
 * @endpoint:	written from scratch; detach it whatever this returns
 * @options:	how
 *
 * Both queues are started, since back-ends wait for a whole pair; the receive ring is filled only if it is wanted.
 *
 * Return: 0, or a negative errno with the reason in @endpoint->client.error if that is not empty.
 */
int net_endpoint_attach(struct net_endpoint *endpoint, const struct net_endpoint_options *options)
{
	struct vhost_user_client_options connection;
	int error;

	memset(endpoint, 0, sizeof(*endpoint));
	endpoint->options = *options;
	endpoint->client.socket = -1;
	endpoint->client.memory_fd = -1;
	if (!options_are_valid(options))
		return -EINVAL;

	connect_options(options, &connection);
	endpoint->probe_offset = options->gso ? ETHER_LEN + IPV4_LEN + TCP_LEN : ETHER_LEN;
	error = vhost_user_client_attach(&endpoint->client, &connection);
	if (error)
		return error;
	endpoint->mergeable = vhost_user_client_has(&endpoint->client, VIRTIO_NET_F_MRG_RXBUF);

	error = create_queue(endpoint, &endpoint->rx);
	if (!error)
		error = create_queue(endpoint, &endpoint->tx);
	if (!error)
		error = prepare_receive(endpoint);
	if (!error)
		error = prepare_transmit(endpoint);
	if (!error)
		error = start_queue(endpoint, &endpoint->rx, RX_QUEUE);
	if (!error)
		error = start_queue(endpoint, &endpoint->tx, TX_QUEUE);
	if (!error)
		error = vhost_user_client_driver_ready(&endpoint->client);
	if (!error && options->receive)
		fill_receive_ring(endpoint);

	return error;
}

/**
 * net_endpoint_detach() - unplug.
 * @endpoint:	an endpoint that net_endpoint_attach() has seen
 */
void net_endpoint_detach(struct net_endpoint *endpoint)
{
	if (endpoint->client.memory) {
		/* Ask for the queues back first, so that the server is not surprised in the middle of a frame. */
		vhost_user_client_stop_queue(&endpoint->client, RX_QUEUE, NULL);
		vhost_user_client_stop_queue(&endpoint->client, TX_QUEUE, NULL);
		vhost_user_client_detach(&endpoint->client);
	}
	virtqueue_driver_release(&endpoint->rx);
	virtqueue_driver_release(&endpoint->tx);
	free(endpoint->idle);
	free(endpoint->expected);
	endpoint->idle = NULL;
	endpoint->expected = NULL;
}

/* ---- transmit ---- */

/**
 * net_endpoint_reap() - collect transmit buffers that the device is done with.
 * @endpoint:	attached endpoint
 *
 * Return: how many, or -EPROTO if the device broke the ring's rules.
 */
int net_endpoint_reap(struct net_endpoint *endpoint)
{
	uint32_t count = endpoint->tx.buffers;
	uint32_t tail, room;
	int taken;

	if (endpoint->idle_count == 0)
		endpoint->idle_head = 0;
	tail = endpoint->idle_head + endpoint->idle_count;
	if (tail >= count)
		tail -= count;

	/* Straight into the FIFO, up to its end; what is left comes with the next call. */
	room = endpoint->idle_count == 0 || tail > endpoint->idle_head ? count - tail : endpoint->idle_head - tail;
	if (room == 0)
		return 0;

	taken = virtqueue_driver_take(&endpoint->tx, &endpoint->idle[tail], room);
	if (taken > 0) {
		endpoint->idle_count += (uint32_t)taken;
		endpoint->counters.completed += (uint64_t)taken;
	}

	return taken;
}

static void stamp(struct net_endpoint *endpoint, uint32_t buffer, uint64_t sequence)
{
	uint8_t *frame = endpoint->tx_buffers + (size_t)buffer * endpoint->tx_stride + HEADER_SIZE;

	memcpy(frame + endpoint->probe_offset + offsetof(struct probe, sequence), &sequence, sizeof(sequence));
}

/**
 * net_endpoint_send() - send one batch from what is idle.
 * @endpoint:	attached endpoint
 * @budget:	frames at most, besides the batch and what is idle
 *
 * Return: frames sent.
 */
int net_endpoint_send(struct net_endpoint *endpoint, uint64_t budget)
{
	const struct virtqueue_buffer *first = &endpoint->idle[endpoint->idle_head];
	uint32_t contiguous = endpoint->tx.buffers - endpoint->idle_head;
	uint32_t count = endpoint->options.batch;

	if (count > endpoint->idle_count)
		count = endpoint->idle_count;
	if (count > contiguous)
		count = contiguous;
	if (count > budget)
		count = (uint32_t)budget;
	if (count == 0)
		return 0;

	for (uint32_t i = 0; i < count; i++) {
		if (first[i].id % PROBE_EVERY == 0)
			stamp(endpoint, first[i].id, endpoint->counters.sent + i + 1);
	}
	virtqueue_driver_add(&endpoint->tx, first, count);
	if (virtqueue_driver_publish(&endpoint->tx))
		kick(endpoint, TX_QUEUE);

	endpoint->counters.sent += count;
	endpoint->idle_count -= count;
	endpoint->idle_head += count;
	if (endpoint->idle_head == endpoint->tx.buffers)
		endpoint->idle_head = 0;

	return (int)count;
}

/* ---- receive ---- */

/*
 * Look at one frame, of which @length bytes lie in its first buffer.
 * Return: frames until the next look.
 */
static uint32_t check_frame(struct net_endpoint *endpoint, const uint8_t *buffer, uint32_t length)
{
	const struct virtio_net_hdr_v1 *header = (const void *)buffer;
	uint32_t behind = endpoint->probe_offset + (uint32_t)sizeof(struct probe);
	const uint8_t *expected = endpoint->expected + HEADER_SIZE;
	const uint8_t *frame = buffer + HEADER_SIZE;
	struct probe probe;
	bool good;

	memcpy(&probe, frame + endpoint->probe_offset, sizeof(probe));
	if (probe.magic == PROBE_MAGIC && probe.sequence == 0)
		return 1;

	/* From the other side: addresses are swapped, so the comparison begins behind them. */
	good = probe.magic == PROBE_MAGIC && probe.length == endpoint->options.frame_size &&
	       memcmp(frame + 12, expected + 12, endpoint->probe_offset - 12) == 0 &&
	       memcmp(frame + behind, expected + behind, length - behind) == 0 &&
	       memcmp(frame, endpoint->options.source, NET_ENDPOINT_ADDRESS_LEN) == 0 &&
	       (!endpoint->options.gso || header->gso_type == VIRTIO_NET_HDR_GSO_TCPV4);
	endpoint->counters.checked++;
	if (!good)
		endpoint->counters.corrupt++;
	else if (probe.sequence < endpoint->next_sequence)
		endpoint->counters.reordered++;
	else
		endpoint->next_sequence = probe.sequence + 1;

	return CHECK_PAUSE;
}

static inline uint8_t *receive_buffer(const struct net_endpoint *endpoint, uint32_t id)
{
	return endpoint->rx_buffers + (size_t)id * endpoint->rx_stride;
}

static inline void receive_frame(struct net_endpoint *endpoint, const struct virtqueue_buffer *buffer)
{
	uint32_t length = buffer->length - (uint32_t)HEADER_SIZE;

	if (endpoint->options.check && length != endpoint->options.frame_size) {
		endpoint->counters.unexpected++;
		return;
	}
	if (endpoint->options.touch)
		endpoint->touched += *(const uint64_t *)receive_buffer(endpoint, buffer->id);

	endpoint->counters.received++;
	endpoint->counters.received_bytes += length;
	if (endpoint->options.check && --endpoint->check_in == 0)
		endpoint->check_in = check_frame(endpoint, receive_buffer(endpoint, buffer->id), length);
}

/* A frame in several buffers: the header of the first tells how many (5.1.6.3.1); only the first is looked at. */
static void receive_merged(struct net_endpoint *endpoint, const struct virtqueue_buffer *buffer)
{
	const uint8_t *data = receive_buffer(endpoint, buffer->id);
	uint32_t length = buffer->length;

	if (endpoint->merge_left == 0) {
		endpoint->merge_left = ((const struct virtio_net_hdr_v1 *)data)->num_buffers;
		endpoint->merge_length = 0;
		if (endpoint->merge_left == 0)
			endpoint->merge_left = 1;
		length -= (uint32_t)HEADER_SIZE;
		if (endpoint->options.check && length > endpoint->probe_offset + sizeof(struct probe) &&
		    length <= endpoint->options.frame_size && --endpoint->check_in == 0)
			endpoint->check_in = check_frame(endpoint, data, length);
	}
	endpoint->merge_length += length;
	if (--endpoint->merge_left > 0)
		return;

	if (endpoint->options.check && endpoint->merge_length != endpoint->options.frame_size) {
		endpoint->counters.unexpected++;
	} else {
		endpoint->counters.received++;
		endpoint->counters.received_bytes += endpoint->merge_length;
	}
}

/**
 * net_endpoint_receive() - take one batch of received frames and give the buffers back.
 * @endpoint:	attached endpoint
 *
 * Return: buffers taken, or -EPROTO if the device broke the ring's rules.
 */
int net_endpoint_receive(struct net_endpoint *endpoint)
{
	struct virtqueue_buffer buffers[NET_ENDPOINT_BATCH_MAX];
	int taken = virtqueue_driver_take(&endpoint->rx, buffers, endpoint->options.batch);

	if (taken <= 0)
		return taken;

	for (int i = 0; i < taken; i++) {
		if (buffers[i].length < HEADER_SIZE)
			return -EPROTO;
		if (endpoint->mergeable)
			receive_merged(endpoint, &buffers[i]);
		else
			receive_frame(endpoint, &buffers[i]);
	}

	virtqueue_driver_add(&endpoint->rx, buffers, (unsigned int)taken);
	if (virtqueue_driver_publish(&endpoint->rx))
		kick(endpoint, RX_QUEUE);

	return taken;
}
