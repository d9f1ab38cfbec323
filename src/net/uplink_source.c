/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The source sends one and the same frame without end: the start of a receive benchmark.
 *
 * It sends to the station that it last heard, and to all until it has heard one. Up to the size of an ordinary Ethernet
 * frame it sends UDP datagrams, above that TCP segments as a sender with segmentation offload makes them: checksum not
 * computed, to be cut into pieces of MSS by whoever needs that. It swallows what it is sent.
 *
 * Context: poll on the owning sidecore; transmit on any, under the port's claim; they share the peer's address, one
 * atomic word.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/byte_order.h"
#include "net/checksum.h"
#include "net/uplink_internal.h"

#define SIZE_DEFAULT  64U
#define SIZE_MIN      60U
#define SIZE_ETHERNET 1522U /* an MTU of 1500, with two tags; more is a GSO segment */
#define SIZE_MAX_GSO  (65535U + ETHERNET_LENGTH)
#define MSS	      1448U

#define ETHERNET_LENGTH 14U
#define IPV4_LENGTH	20U
#define TCP_LENGTH	20U
#define UDP_LENGTH	8U

#define BROADCAST 0xffffffffffffULL /* a MAC address in the low 48 bits, first octet lowest */

struct source {
	struct uplink uplink;
	struct poller poller;
	_Atomic uint64_t peer;
	struct frame_offload offload;
	struct uplink_batch batch;
	unsigned built; /* frames of the batch that were made before, for @built_peer */
	uint64_t built_peer;
	uint32_t size;
	uint8_t bytes[SIZE_MAX_GSO];
};

/* All frames are alike, and what was sent can be sent again, unless a checksum was put into it, or a tag. */
static void source_fill(struct source *source, unsigned count)
{
	uint64_t peer = atomic_load_explicit(&source->peer, memory_order_relaxed);
	struct uplink_batch *batch = &source->batch;

	if (unlikely(peer != source->built_peer || source->offload.checksum_partial)) {
		memcpy(source->bytes, &peer, 6); /* little-endian: the first octet is the lowest */
		source->built_peer = peer;
		source->built = 0;
	}
	while (batch->count < min(source->built, count) && !batch->frames[batch->count].tagged)
		batch->count++;
	while (batch->count < count)
		uplink_batch_add(batch, source->bytes, source->size, &source->offload);
	source->built = max(source->built, count);
}

static unsigned source_poll(struct poller *poller, const struct turn *turn)
{
	struct source *source = container_of(poller, struct source, poller);
	unsigned count = min(NETWORK_BATCH, turn->requests), room = max(turn->bytes / source->size, 1U), done;

	if (uplink_batch_empty(&source->batch))
		source_fill(source, min(count, room));
	done = uplink_batch_forward(&source->batch, &source->uplink.port, turn);
	poller->pending = true; /* there is always more */
	return done;
}

static const struct poller_ops source_poller_ops = { .kind = "source", .poll = source_poll };

static unsigned source_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct source *source = container_of(port, struct source, uplink.port);
	uint64_t bytes = 0, peer = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += frames[i].length;
	memcpy(&peer, frames[count - 1].header + 6, 6);
	/* Relaxed: the word is all there is. The switch lets no group address through as a source. */
	atomic_store_explicit(&source->peer, peer, memory_order_relaxed);
	uplink_count_out(port, turn, count, bytes);
	return count;
}

static void source_flush(struct port *port, const struct turn *turn)
{
}

static const struct port_ops source_port_ops = {
	.kind = "source",
	.transmit = source_transmit,
	.flush = source_flush,
};

/* Addresses of TEST-NET-1 (RFC 5737) and a locally administered MAC address: nobody's. */
static void source_build(struct source *source)
{
	static const uint8_t ethernet[ETHERNET_LENGTH] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x73, 0x6f, 0x75, 0x72, 0x63, 0x08, 0x00,
	};
	static const uint8_t ipv4[IPV4_LENGTH] = {
		[0] = 0x45, [6] = 0x40, [8] = 64, [12] = 192, 0, 2, 1, 192, 0, 2, 2,
	};
	uint8_t *ip = source->bytes + ETHERNET_LENGTH, *l4 = ip + IPV4_LENGTH;
	unsigned ip_length = source->size - ETHERNET_LENGTH, l4_length = ip_length - IPV4_LENGTH;
	bool tcp = source->size > SIZE_ETHERNET;
	struct checksum header = { 0 }, pseudo = { 0 };
	uint16_t checksum;

	memcpy(source->bytes, ethernet, sizeof(ethernet));
	memcpy(ip, ipv4, sizeof(ipv4));
	store_be16(ip + 2, ip_length);
	ip[9] = tcp ? IPPROTO_TCP : IPPROTO_UDP;
	checksum_add(&header, ip, IPV4_LENGTH);
	checksum = checksum_finish(&header);
	memcpy(ip + 10, &checksum, sizeof(checksum));

	store_be16(l4, 9); /* discard */
	store_be16(l4 + 2, 9);
	if (!tcp) {
		store_be16(l4 + 4, l4_length); /* checksum 0: none (RFC 768) */
		return;
	}
	l4[12] = TCP_LENGTH / 4 << 4;
	l4[13] = 0x10; /* ACK */
	store_be16(l4 + 14, 65535);
	/* virtio 1.3 5.1.6.2: the field holds the sum of the pseudo header. */
	checksum_add(&pseudo, ip + 12, 8);
	checksum_add_word(&pseudo, IPPROTO_TCP);
	checksum_add_word(&pseudo, (uint16_t)l4_length);
	checksum = (uint16_t)~checksum_finish(&pseudo);
	memcpy(l4 + 16, &checksum, sizeof(checksum));
	source->offload = (struct frame_offload){
		.checksum_partial = true,
		.gso = FRAME_GSO_TCPV4,
		.gso_size = MSS,
		.header_length = ETHERNET_LENGTH + IPV4_LENGTH + TCP_LENGTH,
		.checksum_start = ETHERNET_LENGTH + IPV4_LENGTH,
		.checksum_offset = 16,
	};
}

static int source_open(const struct uplink_config *config, struct engine *engine, struct uplink **result,
		       const char **error)
{
	uint32_t size = config->size ? config->size : SIZE_DEFAULT;
	struct source *source;

	if (size < SIZE_MIN || size > SIZE_MAX_GSO) {
		*error = "the size of a source's frames must be 60 to 65549 bytes";
		return -EINVAL;
	}
	source = uplink_allocate(sizeof(*source));
	if (!source)
		return -ENOMEM;
	source->size = size;
	atomic_store_explicit(&source->peer, BROADCAST, memory_order_relaxed);
	source_build(source);
	source->poller = (struct poller){ .ops = &source_poller_ops, .wake_fd = -1, .pending = true };
	source->uplink.pollers[0] = &source->poller;
	source->uplink.poller_count = 1;
	source->uplink.port.ops = &source_port_ops;
	source->uplink.port.abilities = (struct port_abilities){ true, true, true, true, true, true, true };
	*result = &source->uplink;
	return 0;
}

static void source_close(struct uplink *uplink)
{
}

static const char *source_state(const struct uplink *uplink)
{
	const struct source *source = container_of(uplink, struct source, uplink);

	return atomic_load_explicit(&source->peer, memory_order_relaxed) == BROADCAST ? "sends to all"
										      : "sends to the last heard";
}

const struct uplink_type_ops uplink_source_ops = {
	.kind = "source",
	.open = source_open,
	.close = source_close,
	.state = source_state,
};
