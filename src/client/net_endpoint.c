/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network card and its driver, as a load needs them: frames are prebuilt, sent by reference and received unread.
 *
 * Theory of operation
 * -------------------
 * Transmit: each buffer of the ring holds a whole frame, behind a header if the card has one, written once. A buffer
 * that comes back goes to the end of a FIFO of idle ones and is sent again from its head; nothing in it changes, except
 * for one buffer in PROBE_EVERY, which gets a fresh sequence number each time.
 *
 * Receive: buffers are counted by the length that the card reports and given back at once. By sample, the content is
 * checked: the receiver looks at frames until it meets one with a sequence number (one in PROBE_EVERY has one),
 * compares all of it, and then lets CHECK_PAUSE frames pass unread. The sequence must rise, by at least as many as were
 * received since; that finds duplicates and reordering, and counting finds losses. Frames of a length that was not sent
 * are counted apart, as "unexpected".
 *
 * Long frames (TCP segments of up to 64 KiB) cross whole between virtio cards. Intel's cards take them whole, and
 * deliver them cut to the MTU; PSH, which the sender sets, is left by segmentation in the last one only and so ends a
 * frame.
 *
 * Buffers lie as close as cache lines allow, so that the client's footprint is small and what is measured is the server
 * rather than the client's cache misses. A real guest's is larger; it is the same for every server under test.
 *
 * Context: one thread owns an endpoint.
 */
#include "client/net_endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "base/byte_order.h"

#define CACHE_LINE  64u
#define PROBE_EVERY 32u
#define CHECK_PAUSE 1000u
#define PROBE_MAGIC 0x65646973u
#define ETHER_LEN   14u
#define IPV4_LEN    20u
#define TCP_LEN	    20u
#define HEADERS_LEN (ETHER_LEN + IPV4_LEN + TCP_LEN)
#define TCP_FLAGS   (ETHER_LEN + IPV4_LEN + 13)
#define TCP_PSH	    8u
#define TCP_ACK	    16u

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

/* One TCP segment of up to 64 KiB: lengths, IPv4 checksum, and TCP's field with the pseudo-header sum (5.1.6.2). */
static void build_tcp(const struct net_endpoint *endpoint, uint8_t *frame)
{
	uint32_t ip_length = endpoint->options.frame_size - ETHER_LEN;
	uint8_t *ip = frame + ETHER_LEN;
	uint8_t *tcp = ip + IPV4_LEN;

	ip[0] = 0x45;
	store_be16(ip + 2, ip_length);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, (const uint8_t[]){ 192, 0, 2, 1, 192, 0, 2, 2 }, 8);
	store_be16(ip + 10, (uint16_t)~fold(sum_words(ip, IPV4_LEN, 0)));

	store_be16(tcp, 5001);
	store_be16(tcp + 2, 5001);
	tcp[12] = 5 << 4;
	tcp[13] = TCP_ACK | TCP_PSH;
	store_be16(tcp + 14, 0xffff);
	store_be16(tcp + 16, fold(sum_words(ip + 12, 8, 6 + ip_length - IPV4_LEN)));
}

/* What virtio-net's header says of a frame (virtio 1.3 5.1.6.2). */
static void build_header(const struct net_endpoint *endpoint, struct virtio_net_hdr_v1 *header)
{
	memset(header, 0, sizeof(*header));
	if (!endpoint->options.gso)
		return;
	header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	header->gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	header->hdr_len = HEADERS_LEN;
	header->gso_size = NET_ENDPOINT_SEGMENT;
	header->csum_start = ETHER_LEN + IPV4_LEN;
	header->csum_offset = 16;
}

/*
 * What Intel's cards want of a frame that they will segment: no IPv4 length and checksum, and the pseudo-header's sum
 * without the length (82576 7.2.4.5).
 */
static void prepare_segmentation(uint8_t *frame)
{
	uint8_t *ip = frame + ETHER_LEN;

	store_be16(ip + 2, 0);
	store_be16(ip + 10, 0);
	store_be16(ip + IPV4_LEN + 16, fold(sum_words(ip + 12, 8, 6)));
}

static void build_frame(const struct net_endpoint *endpoint, uint8_t *frame)
{
	struct probe probe = { .magic = PROBE_MAGIC, .length = endpoint->options.frame_size };

	for (uint32_t i = 0; i < endpoint->options.frame_size; i++)
		frame[i] = (uint8_t)(i * 7 + i / 256);
	memcpy(frame, endpoint->options.destination, NET_ENDPOINT_ADDRESS_LEN);
	memcpy(frame + NET_ENDPOINT_ADDRESS_LEN, endpoint->options.source, NET_ENDPOINT_ADDRESS_LEN);
	store_be16(frame + 12, endpoint->options.gso ? ETHERTYPE_IPV4 : ETHERTYPE_EXPERIMENT);

	if (endpoint->options.gso) {
		memset(frame + ETHER_LEN, 0, IPV4_LEN + TCP_LEN);
		build_tcp(endpoint, frame);
	}
	memcpy(frame + endpoint->probe_offset, &probe, sizeof(probe));
}

static int prepare_transmit(struct net_endpoint *endpoint)
{
	struct net_driver *driver = endpoint->driver;
	uint32_t header = driver->ops->header;

	endpoint->tx_stride = align_line(header + endpoint->options.frame_size);
	endpoint->tx_buffers =
		client_memory_allocate(driver->memory, (size_t)driver->tx_count * endpoint->tx_stride, 4096);
	endpoint->idle = calloc(driver->tx_count, sizeof(*endpoint->idle));
	if (!endpoint->tx_buffers || !endpoint->idle)
		return -ENOMEM;

	for (unsigned int i = 0; i < driver->tx_count; i++) {
		uint8_t *buffer = endpoint->tx_buffers + (size_t)i * endpoint->tx_stride;

		build_frame(endpoint, buffer + header);
		if (header)
			build_header(endpoint, (void *)buffer);
		if (driver->ops->segments && endpoint->options.gso)
			prepare_segmentation(buffer + header);
		endpoint->idle[i].id = i;
	}
	endpoint->idle_count = driver->tx_count;

	return 0;
}

static int prepare_receive(struct net_endpoint *endpoint)
{
	struct net_driver *driver = endpoint->driver;

	endpoint->rx_stride = align_line(driver->rx_size);
	/* A line more: strides that are a power of two put the heads of all frames in a few sets of the cache. */
	if ((endpoint->rx_stride & (endpoint->rx_stride - 1)) == 0)
		endpoint->rx_stride += CACHE_LINE;
	endpoint->rx_buffers =
		client_memory_allocate(driver->memory, (size_t)driver->rx_count * endpoint->rx_stride, 4096);
	endpoint->expected = malloc(endpoint->options.frame_size);
	if (!endpoint->rx_buffers || !endpoint->expected)
		return -ENOMEM;

	build_frame(endpoint, endpoint->expected);
	endpoint->check_in = 1;

	return 0;
}

/* ---- attach ---- */

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
 * Return: 0, or a negative errno with the reason in net_endpoint_error() if that is not empty.
 */
int net_endpoint_attach(struct net_endpoint *endpoint, const struct net_endpoint_options *options)
{
	struct net_buffers buffers;
	int error;

	memset(endpoint, 0, sizeof(*endpoint));
	endpoint->options = *options;
	if (!options_are_valid(options))
		return -EINVAL;

	endpoint->probe_offset = options->gso ? HEADERS_LEN : ETHER_LEN;
	endpoint->driver = options->device == NET_ENDPOINT_VIRTIO ? net_virtio_create(&endpoint->options)
								  : net_intel_create(&endpoint->options);
	if (!endpoint->driver)
		return -ENOMEM;
	error = endpoint->driver->ops->attach(endpoint->driver);
	if (!error)
		error = prepare_receive(endpoint);
	if (!error)
		error = prepare_transmit(endpoint);
	if (error)
		return error;

	buffers = (struct net_buffers){ .tx = endpoint->tx_buffers,
					.tx_stride = endpoint->tx_stride,
					.tx_size = endpoint->driver->ops->header + options->frame_size,
					.rx = endpoint->rx_buffers,
					.rx_stride = endpoint->rx_stride };

	return endpoint->driver->ops->start(endpoint->driver, &buffers);
}

/**
 * net_endpoint_detach() - unplug.
 * @endpoint:	an endpoint that net_endpoint_attach() has seen
 */
void net_endpoint_detach(struct net_endpoint *endpoint)
{
	if (endpoint->driver)
		endpoint->driver->ops->detach(endpoint->driver);
	free(endpoint->idle);
	free(endpoint->expected);
	endpoint->driver = NULL;
	endpoint->idle = NULL;
	endpoint->expected = NULL;
}

/**
 * net_endpoint_error() - why the last call failed.
 * @endpoint:	an endpoint that net_endpoint_attach() has seen
 *
 * Return: words, or an empty string where the errno says it all.
 */
const char *net_endpoint_error(const struct net_endpoint *endpoint)
{
	return endpoint->driver ? endpoint->driver->error : "";
}

/**
 * net_endpoint_buffers() - how many receive buffers a frame takes.
 * @endpoint:	attached endpoint
 *
 * Return: 1 or more.
 */
uint32_t net_endpoint_buffers(const struct net_endpoint *endpoint)
{
	const struct net_driver *driver = endpoint->driver;
	uint32_t size = endpoint->options.frame_size;

	if (endpoint->options.gso && driver->ops->segments)
		return (size - HEADERS_LEN + NET_ENDPOINT_SEGMENT - 1) / NET_ENDPOINT_SEGMENT;

	return (driver->ops->header + size + driver->rx_size - 1) / driver->rx_size;
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
	uint32_t count = endpoint->driver->tx_count;
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

	taken = endpoint->driver->ops->reap(endpoint->driver, &endpoint->idle[tail], room);
	if (taken > 0) {
		endpoint->idle_count += (uint32_t)taken;
		endpoint->counters.completed += (uint64_t)taken;
	}

	return taken;
}

static void stamp(struct net_endpoint *endpoint, uint32_t buffer, uint64_t sequence)
{
	uint8_t *frame = endpoint->tx_buffers + (size_t)buffer * endpoint->tx_stride + endpoint->driver->ops->header;

	memcpy(frame + endpoint->probe_offset + offsetof(struct probe, sequence), &sequence, sizeof(sequence));
}

/**
 * net_endpoint_send() - send one batch from what is idle.
 * @endpoint:	attached endpoint
 * @budget:	frames at most, besides the batch and what is idle
 *
 * Return: frames sent, or a negative errno.
 */
int net_endpoint_send(struct net_endpoint *endpoint, uint64_t budget)
{
	const struct driver_buffer *first = &endpoint->idle[endpoint->idle_head];
	uint32_t contiguous = endpoint->driver->tx_count - endpoint->idle_head;
	uint32_t count = endpoint->options.batch;
	int error;

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
	error = endpoint->driver->ops->send(endpoint->driver, first, count);
	if (error)
		return error;

	endpoint->counters.sent += count;
	endpoint->idle_count -= count;
	endpoint->idle_head += count;
	if (endpoint->idle_head == endpoint->driver->tx_count)
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
	uint32_t behind = endpoint->probe_offset + (uint32_t)sizeof(struct probe);
	const uint8_t *frame = buffer + endpoint->driver->ops->header;
	const struct virtio_net_hdr_v1 *header = (const void *)buffer;
	const uint8_t *expected = endpoint->expected;
	/* A segment's IPv4 and TCP headers are its own. */
	uint32_t same = endpoint->driver->ops->segments ? 14 : endpoint->probe_offset;
	struct probe probe;
	bool good;

	memcpy(&probe, frame + endpoint->probe_offset, sizeof(probe));
	if (probe.magic == PROBE_MAGIC && probe.sequence == 0)
		return 1;

	/* From the other side: addresses are swapped, so the comparison begins behind them. */
	good = probe.magic == PROBE_MAGIC && probe.length == endpoint->options.frame_size &&
	       memcmp(frame + 12, expected + 12, same - 12) == 0 &&
	       memcmp(frame + behind, expected + behind, length - behind) == 0 &&
	       memcmp(frame, endpoint->options.source, NET_ENDPOINT_ADDRESS_LEN) == 0 &&
	       (!endpoint->options.gso || endpoint->driver->ops->segments ||
		header->gso_type == VIRTIO_NET_HDR_GSO_TCPV4);
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

static inline void receive_frame(struct net_endpoint *endpoint, const struct driver_buffer *buffer)
{
	uint32_t length = buffer->length - endpoint->driver->ops->header;

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

/*
 * One buffer of a frame that lies in several, or of a packet with segments of it: only the first is looked at. Counted
 * when the last one is there.
 */
static void receive_part(struct net_endpoint *endpoint, const struct driver_buffer *buffer)
{
	const uint8_t *data = receive_buffer(endpoint, buffer->id);
	uint32_t length = buffer->length & ~DRIVER_BUFFER_MORE;
	bool segment = endpoint->options.gso && endpoint->driver->ops->segments;
	bool more = buffer->length & DRIVER_BUFFER_MORE, begins = segment && !endpoint->continued;

	endpoint->continued = more;
	if (begins) {
		if (length <= HEADERS_LEN) {
			endpoint->counters.unexpected++;
			return;
		}
		endpoint->last_packet = data[TCP_FLAGS] & TCP_PSH;
	}
	if (!endpoint->partial) {
		endpoint->partial = true;
		endpoint->partial_length = 0;
		length -= endpoint->driver->ops->header;
		if (endpoint->options.check && length > endpoint->probe_offset + sizeof(struct probe) &&
		    length <= endpoint->options.frame_size && --endpoint->check_in == 0)
			endpoint->check_in = check_frame(endpoint, data, length);
	} else if (begins) {
		length -= HEADERS_LEN;
	}
	endpoint->partial_length += length;
	if (more || (segment && !endpoint->last_packet))
		return;

	endpoint->partial = false;
	if (endpoint->options.check && endpoint->partial_length != endpoint->options.frame_size) {
		endpoint->counters.unexpected++;
	} else {
		endpoint->counters.received++;
		endpoint->counters.received_bytes += endpoint->partial_length;
	}
}

/**
 * net_endpoint_receive() - take one batch of received frames and give the buffers back.
 * @endpoint:	attached endpoint
 *
 * Return: buffers taken, -EPROTO if the device broke the ring's rules, or another negative errno.
 */
int net_endpoint_receive(struct net_endpoint *endpoint)
{
	struct driver_buffer buffers[NET_ENDPOINT_BATCH_MAX];
	struct net_driver *driver = endpoint->driver;
	bool segments = endpoint->options.gso && driver->ops->segments;
	int taken = driver->ops->receive(driver, buffers, endpoint->options.batch);
	int error;

	if (taken <= 0)
		return taken;

	for (int i = 0; i < taken; i++) {
		if (buffers[i].length < driver->ops->header)
			return -EPROTO;
		if (segments || endpoint->partial || buffers[i].length & DRIVER_BUFFER_MORE)
			receive_part(endpoint, &buffers[i]);
		else
			receive_frame(endpoint, &buffers[i]);
	}
	error = driver->ops->refill(driver, buffers, (unsigned int)taken);

	return error ? error : taken;
}
