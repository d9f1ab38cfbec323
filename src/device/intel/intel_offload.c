/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From what transmit descriptors ask for to a frame with offload state (net/frame.h).
 *
 * Theory of operation
 * -------------------
 * A frame that is to be sent as it is, or with a checksum that the receiver may complete, is not touched: its offload
 * state says it. Everything else changes headers, and the headers are the guest's memory. So they are copied, once,
 * into @headers of the lane's scratch, changed there, and become the frame's first segment: VLAN tags (8254x 3.4,
 * 82576 7.4.5), IPv4 header checksums, and what segmentation needs.
 *
 * *Segmentation* (TSO) is carried, never done here. Intel's form of it differs from the switch's (virtio's): the driver
 * leaves lengths and IPv4 checksum empty and sums a pseudo header without length, as the hardware fills these in for
 * each segment. The switch wants a frame that would be right if it were sent whole: so lengths, IPv4 checksum and the
 * sum of the pseudo header are set from what the headers and the descriptors' sum of lengths say. PAYLEN is not needed,
 * and not looked at: two lengths for one thing are what overflowed elsewhere.
 *
 * SCTP's CRC32c (82576) cannot be left to anybody, and is computed here.
 *
 * All offsets are the guest's. Each is checked against the bytes that were copied or the frame's length, on local
 * copies.
 *
 * Context: the lane.
 */
#include <endian.h>

#include "base/byte_order.h"
#include "device/intel/intel_transmit.h"
#include "net/checksum.h"

#define IPV4_LENGTH   2U /* offsets of fields */
#define IPV4_CHECKSUM 10U
#define IPV4_PROTOCOL 9U
#define IPV4_SOURCE   12U
#define IPV6_LENGTH   4U
#define IPV6_SOURCE   8U
#define IPV6_HEADER   40U
#define TCP_FLAGS     13U
#define TCP_FLAG_CWR  0x80U
#define TCP_CHECKSUM  16U
#define UDP_LENGTH    4U
#define UDP_CHECKSUM  6U
#define SCTP_CHECKSUM 8U
#define PROTOCOL_TCP  6U
#define PROTOCOL_UDP  17U

/** Headers that are copied when no segmentation says how long they are: Ethernet, IPv4 with options, ports. */
#define HEADERS_COPIED 128U

/* Copy the first @length bytes of the packet, and cut them off its segments. */
static void gather(struct intel_packet *packet, uint8_t *headers, uint32_t length)
{
	while (length) {
		struct guest_segment *segment = packet->segments;
		uint32_t piece = (uint32_t)min(segment->length, (size_t)length);

		guest_fetch(headers, segment->base, piece);
		headers += piece;
		length -= piece;
		segment->base += piece;
		segment->length -= piece;
		if (!segment->length) {
			packet->segments++;
			packet->segment_count--;
		}
	}
}

/* The IPv4 header's checksum (IXSM), over what the context says. @copied: bytes of @headers */
static bool insert_ip_checksum(const struct intel_context *context, uint8_t *headers, uint32_t copied)
{
	uint32_t end = context->ip_end + 1U;
	uint16_t sum;

	if (context->ip_start >= end || end > copied || context->ip_field + 2U > copied)
		return false;
	sum = (uint16_t)~checksum_sum(headers + context->ip_start, end - context->ip_start);
	memcpy(headers + context->ip_field, &sum, sizeof(sum));
	return true;
}

/* ---- segmentation ---- */

/* The sum of the pseudo header, with @length, into the checksum field at @field. */
static void put_pseudo_sum(uint8_t *headers, uint32_t addresses, uint32_t count, uint8_t protocol, uint32_t length,
			   uint32_t field)
{
	struct checksum checksum = { 0 };
	uint16_t sum;

	checksum_add(&checksum, headers + addresses, count);
	checksum_add_word(&checksum, protocol);
	checksum_add_word(&checksum, (uint16_t)(length >> 16));
	checksum_add_word(&checksum, (uint16_t)length);
	sum = checksum_fold(checksum.sum);
	memcpy(headers + field, &sum, sizeof(sum));
}

static bool set_ipv4(const struct intel_context *context, uint8_t *headers, uint32_t length)
{
	uint8_t *ip = headers + context->ip_start;
	uint32_t header = (ip[0] & 15U) * 4;
	uint16_t sum;

	if (ip[0] >> 4 != 4 || header < 20 || context->ip_start + header != context->l4_start ||
	    length - context->ip_start > UINT16_MAX)
		return false;
	store_be16(ip + IPV4_LENGTH, length - context->ip_start);
	store_be16(ip + IPV4_CHECKSUM, 0);
	sum = (uint16_t)~checksum_sum(ip, header);
	memcpy(ip + IPV4_CHECKSUM, &sum, sizeof(sum));
	return true;
}

static bool set_ipv6(const struct intel_context *context, uint8_t *headers, uint32_t length)
{
	uint8_t *ip = headers + context->ip_start;

	if (ip[0] >> 4 != 6 || context->l4_start < context->ip_start + IPV6_HEADER ||
	    length - context->ip_start - IPV6_HEADER > UINT16_MAX)
		return false;
	store_be16(ip + IPV6_LENGTH, length - context->ip_start - IPV6_HEADER);
	return true;
}

/* Do the offsets of a context lie inside the headers, one behind the other? */
static bool context_fits(const struct intel_context *context, uint32_t length)
{
	uint32_t l4 = context->tcp ? 20 : 8;

	return context->mss && context->header_length <= INTEL_HEADERS_MAX && context->header_length < length &&
	       context->ip_start >= FRAME_LENGTH_MIN && context->ip_start + 20U <= context->l4_start &&
	       context->l4_start + l4 <= context->header_length && context->l4_field + 2U <= context->header_length &&
	       !context->sctp;
}

/*
 * Is what is between IP and transport header more than the switch can be told of? A tunnel, or for IPv6 extension
 * headers as well, which need not be told apart.
 */
static bool is_tunnel(const struct intel_context *context, const uint8_t *headers)
{
	const uint8_t *ip = headers + context->ip_start;
	uint32_t between = (uint32_t)context->l4_start - context->ip_start;

	if (context->ipv4)
		return ip[0] >> 4 == 4 && (ip[0] & 15U) * 4 >= 20 && (ip[0] & 15U) * 4 < between;
	return ip[0] >> 4 == 6 && between > IPV6_HEADER;
}

/* Make the headers those of one long segment, and say how to cut it. Return: false: they are not what the context says.
 */
static bool prepare_segmentation(const struct intel_context *context, uint8_t *headers, uint32_t length,
				 struct frame_offload *offload)
{
	uint32_t l4 = context->l4_start, l4_length = length - l4;
	uint8_t protocol = context->tcp ? PROTOCOL_TCP : PROTOCOL_UDP;
	uint32_t field = context->tcp ? TCP_CHECKSUM : UDP_CHECKSUM;

	if (!(context->ipv4 ? set_ipv4(context, headers, length) : set_ipv6(context, headers, length)))
		return false;
	if (!context->tcp)
		store_be16(headers + l4 + UDP_LENGTH, l4_length);
	put_pseudo_sum(headers, context->ip_start + (context->ipv4 ? IPV4_SOURCE : IPV6_SOURCE), context->ipv4 ? 8 : 32,
		       protocol, l4_length, l4 + field);

	offload->checksum_partial = true;
	offload->checksum_start = (uint16_t)l4;
	offload->checksum_offset = (uint16_t)field;
	if (length - context->header_length <= context->mss) /* one segment: nothing to cut */
		return true;
	offload->gso = FRAME_GSO_UDP_SEGMENT;
	if (context->tcp)
		offload->gso = context->ipv4 ? FRAME_GSO_TCPV4 : FRAME_GSO_TCPV6;
	offload->ecn = context->tcp && headers[l4 + TCP_FLAGS] & TCP_FLAG_CWR;
	offload->gso_size = context->mss;
	offload->header_length = context->header_length;
	return true;
}

/* ---- checksums ---- */

uint32_t intel_crc32c(uint32_t crc, const uint8_t *bytes, uint32_t length)
{
	static const uint32_t nibbles[16] = {
		0x00000000U, 0x105ec76fU, 0x20bd8edeU, 0x30e349b1U, 0x417b1dbcU, 0x5125dad3U, 0x61c69362U, 0x7198540dU,
		0x82f63b78U, 0x92a8fc17U, 0xa24bb5a6U, 0xb21572c9U, 0xc38d26c4U, 0xd3d3e1abU, 0xe330a81aU, 0xf36e6f75U,
	};

	while (length--) {
		crc ^= *bytes++;
		crc = crc >> 4 ^ nibbles[crc & 15];
		crc = crc >> 4 ^ nibbles[crc & 15];
	}
	return crc;
}

/* SCTP (RFC 9260 appendix A), over the frame from l4_start on; the field counts as zero. */
static bool insert_crc(const struct intel_context *context, const struct intel_packet *packet, uint8_t *headers,
		       uint32_t copied)
{
	uint32_t crc = UINT32_MAX, field = context->l4_start + SCTP_CHECKSUM;

	if (field + 4 > copied)
		return false;
	memset(headers + field, 0, 4);
	crc = intel_crc32c(crc, headers + context->l4_start, copied - context->l4_start);
	for (unsigned i = 0; i < packet->segment_count; i++) {
		const struct guest_segment *segment = &packet->segments[i];
		uint8_t piece[256];

		for (size_t at = 0; at < segment->length; at += sizeof(piece)) {
			size_t length = min(sizeof(piece), segment->length - at);

			guest_fetch(piece, segment->base + at, length);
			crc = intel_crc32c(crc, piece, (uint32_t)length);
		}
	}
	crc = htole32(~crc);
	memcpy(headers + field, &crc, sizeof(crc));
	return true;
}

/* A checksum over a part of the frame only (TUCSE): nobody else can complete it. */
static bool insert_part(const struct intel_context *context, const struct intel_packet *packet, uint8_t *headers,
			uint32_t copied)
{
	uint32_t end = context->l4_end + 1U;
	struct checksum checksum = { 0 };
	struct frame rest = { .length = packet->length - copied,
			      .segments = packet->segments,
			      .segment_count = (uint16_t)packet->segment_count };
	uint16_t sum;

	if (context->l4_start >= end || end > packet->length || context->l4_field + 2U > copied ||
	    context->l4_start > copied)
		return false;
	checksum_add(&checksum, headers + context->l4_start, min(end, copied) - context->l4_start);
	if (end > copied)
		checksum_add_frame(&checksum, &rest, 0, end - copied);
	sum = checksum_nonzero(checksum_finish(&checksum));
	memcpy(headers + context->l4_field, &sum, sizeof(sum));
	return true;
}

/* Is the checksum one that the switch knows: from a start to the end of the frame, into a field behind the start? */
static bool is_plain_checksum(const struct intel_packet *packet)
{
	const struct intel_context *context = &packet->context;

	return !context->l4_end || context->l4_end + 1U >= packet->length;
}

static bool set_partial(const struct intel_packet *packet, struct frame_offload *offload)
{
	const struct intel_context *context = &packet->context;

	if (context->l4_field < context->l4_start || context->l4_field + 2U > packet->length)
		return false;
	offload->checksum_partial = true;
	offload->checksum_start = context->l4_start;
	offload->checksum_offset = (uint16_t)(context->l4_field - context->l4_start);
	return true;
}

/* ---- tags ---- */

/* Put a tag behind the addresses; offsets move along. @headers has room for it. */
static void insert_tag(const struct intel_nic *nic, struct intel_packet *packet, uint8_t *headers, uint32_t *copied,
		       struct frame_offload *offload)
{
	uint8_t *tag = headers + FRAME_TAG_OFFSET;

	memmove(tag + FRAME_TAG_LENGTH, tag, *copied - FRAME_TAG_OFFSET);
	store_be16(tag, intel_load(nic, VET) & 0xffff);
	store_be16(tag + 2, packet->tag);
	*copied += FRAME_TAG_LENGTH;
	packet->length += FRAME_TAG_LENGTH;
	if (offload->checksum_partial)
		offload->checksum_start = (uint16_t)(offload->checksum_start + FRAME_TAG_LENGTH);
	if (offload->header_length)
		offload->header_length = (uint16_t)(offload->header_length + FRAME_TAG_LENGTH);
}

/* ---- the frame ---- */

/* Everything that changes headers: in the copy. */
static uint8_t change_headers(const struct intel_nic *nic, struct intel_packet *packet, uint8_t *headers,
			      struct frame_offload *offload)
{
	const struct intel_context *context = &packet->context;
	uint32_t copied = min(packet->length, packet->segmented ? context->header_length : HEADERS_COPIED);
	bool l4 = packet->options & TXD_TXSM;

	gather(packet, headers, copied);
	if (packet->segmented && is_tunnel(context, headers) && packet->length - context->ip_start <= UINT16_MAX)
		return INTEL_OFFLOAD_CUT;
	if (packet->segmented) {
		if (!prepare_segmentation(context, headers, packet->length, offload))
			return PORT_DROP_BAD_OFFLOAD;
	} else {
		if (packet->options & TXD_IXSM && !insert_ip_checksum(context, headers, copied))
			return PORT_DROP_BAD_OFFLOAD;
		if (l4 && context->sctp && !insert_crc(context, packet, headers, copied))
			return PORT_DROP_BAD_OFFLOAD;
		if (l4 && !context->sctp && !is_plain_checksum(packet) &&
		    !insert_part(context, packet, headers, copied))
			return PORT_DROP_BAD_OFFLOAD;
		if (l4 && !context->sctp && is_plain_checksum(packet) && !set_partial(packet, offload))
			return PORT_DROP_BAD_OFFLOAD;
	}
	if (packet->tagged)
		insert_tag(nic, packet, headers, &copied, offload);
	packet->segments--;
	packet->segment_count++;
	*packet->segments = (struct guest_segment){ guest_bytes_of(headers), copied };
	return PORT_DROPS;
}

uint8_t intel_offload_build(const struct intel_nic *nic, struct intel_packet *packet, struct frame *frame,
			    uint8_t headers[INTEL_HEADERS_MAX + 8])
{
	bool l4 = packet->options & TXD_TXSM;
	struct frame_offload offload = { 0 };
	uint8_t drop;

	if (unlikely(packet->length < FRAME_LENGTH_MIN))
		return PORT_DROP_RUNT;
	if (unlikely(packet->length > FRAME_LENGTH_MAX - FRAME_TAG_LENGTH))
		return PORT_DROP_OVERSIZE;
	if (packet->segmented && !context_fits(&packet->context, packet->length))
		return PORT_DROP_BAD_OFFLOAD;
	if (packet->segmented || packet->tagged || packet->options & TXD_IXSM ||
	    (l4 && (packet->context.sctp || !is_plain_checksum(packet)))) {
		drop = change_headers(nic, packet, headers, &offload);
		if (unlikely(drop != PORT_DROPS))
			return drop;
	} else if (l4 && !set_partial(packet, &offload)) {
		return PORT_DROP_BAD_OFFLOAD;
	}
	frame_from_segments(frame, packet->segments, packet->segment_count, packet->length);
	frame->offload = offload;
	return PORT_DROPS;
}
