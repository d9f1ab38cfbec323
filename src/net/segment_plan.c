/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The plan of a frame that is to be cut, or whose checksum is to be completed.
 *
 * Theory of operation
 * -------------------
 * The headers, at most SEGMENT_HEADER_MAX bytes, are copied once, parsed and checked against the offload state: link and
 * tags, IP with its options or extension headers, TCP or UDP. From then on only the copy is looked at. What all segments
 * have in common is settled here: where they are cut, which header bytes are repeated, and the sums of those.
 *
 * What is refused (-EINVAL): other protocols than the offload state says, tunnels, fragments, authentication headers,
 * routing headers that are not used up (their pseudo-header has another destination), headers above the limit, a
 * checksum elsewhere than in the transport header, more than SEGMENT_COUNT_MAX segments.
 *
 * Invariants
 * - repeated <= first <= SEGMENT_HEADER_MAX, and first <= frame->length.
 * - Every offset that is read or written in headers[] lies below @first.
 *
 * Context: scratch memory of one sidecore; called while the claim of the receiver is held.
 */
#include <errno.h>
#include <string.h>

#include "net/checksum.h"
#include "net/segment_internal.h"

/* Position the payload cursor at @offset of the frame, at or after where it is. */
static void plan_seek(struct segment_plan *plan, uint32_t offset)
{
	const struct frame *frame = plan->frame;
	uint32_t distance = offset - plan->position;

	plan->position = offset;
	/* Bytes that are still in the header copy come before the first segment; see plan_slice() in segment.c. */
	if (offset <= frame->header_length)
		return;
	if (offset - distance < frame->header_length)
		distance = offset - frame->header_length;
	plan->segment_offset += distance;
	while (plan->segment < frame->segment_count && plan->segment_offset >= frame->segments[plan->segment].length) {
		plan->segment_offset -= frame->segments[plan->segment].length;
		plan->segment++;
	}
}

/* Find the IP header behind at most two tags. Return: 0, or -EINVAL. */
static int plan_link(struct segment_plan *plan, uint32_t have)
{
	uint32_t at = FRAME_TAG_OFFSET;
	uint16_t type;

	for (unsigned tags = 0;; tags++) {
		if (at + 2 > have)
			return -EINVAL;
		type = load_be16(plan->headers + at);
		at += 2;
		if (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ)
			break;
		if (tags == 2)
			return -EINVAL;
		at += 2;
	}
	if (type != ETHERTYPE_IPV4 && type != ETHERTYPE_IPV6)
		return -EINVAL;
	plan->ipv6 = type == ETHERTYPE_IPV6;
	plan->network = (uint16_t)at;
	return 0;
}

static int plan_ipv4(struct segment_plan *plan, uint32_t have, uint8_t *protocol)
{
	const uint8_t *ip = plan->headers + plan->network;
	uint32_t length;

	if (have < (uint32_t)plan->network + IPV4_LENGTH || ip[0] >> 4 != 4)
		return -EINVAL;
	length = (ip[0] & 15U) * 4;
	if (length < IPV4_LENGTH || plan->network + length > have)
		return -EINVAL;
	if (load_be16(ip + 6) & 0x3fff) /* more fragments, or not the first one */
		return -EINVAL;
	*protocol = ip[9];
	plan->transport = (uint16_t)(plan->network + length);
	return 0;
}

/* Walk the extension headers; plan->repeated becomes the end of the per-fragment headers. */
static int plan_ipv6(struct segment_plan *plan, uint32_t have, uint8_t *protocol)
{
	const uint8_t *headers = plan->headers;
	uint32_t at = plan->network, field;
	uint8_t next;

	if (at + IPV6_LENGTH > have || headers[at] >> 4 != 6)
		return -EINVAL;
	field = at + 6;
	next = headers[field];
	at += IPV6_LENGTH;
	plan->next_header = (uint16_t)field;
	plan->repeated = (uint16_t)at;

	/* Each turn moves on by at least 8 bytes, and stops at the end of what was copied. */
	while (next == PROTOCOL_HOP_BY_HOP || next == PROTOCOL_ROUTING || next == PROTOCOL_DESTINATION) {
		uint32_t length;

		if (at + 8 > have)
			return -EINVAL;
		length = (headers[at + 1] + 1U) * 8;
		if (at + length > have)
			return -EINVAL;
		if (next == PROTOCOL_ROUTING && headers[at + 3] != 0)
			return -EINVAL;
		field = at;
		at += length;
		if (next != PROTOCOL_DESTINATION) {
			plan->next_header = (uint16_t)field;
			plan->repeated = (uint16_t)at;
		}
		next = headers[field];
	}
	*protocol = next;
	plan->transport = (uint16_t)at;
	return 0;
}

/* The transport header, and what the offload state says of it. */
static int plan_transport(struct segment_plan *plan, uint32_t have, uint8_t protocol)
{
	const struct frame_offload *offload = &plan->frame->offload;
	bool tcp = plan->gso == FRAME_GSO_TCPV4 || plan->gso == FRAME_GSO_TCPV6;
	uint32_t length = UDP_LENGTH;

	if (protocol != (tcp ? PROTOCOL_TCP : PROTOCOL_UDP))
		return -EINVAL;
	if ((plan->gso == FRAME_GSO_TCPV4 && plan->ipv6) || (plan->gso == FRAME_GSO_TCPV6 && !plan->ipv6))
		return -EINVAL;
	if (tcp) {
		if (have < (uint32_t)plan->transport + TCP_LENGTH)
			return -EINVAL;
		length = (plan->headers[plan->transport + 12] >> 4) * 4U;
		if (length < TCP_LENGTH)
			return -EINVAL;
	}
	if (plan->transport + length > have)
		return -EINVAL;
	if (offload->checksum_start != plan->transport ||
	    offload->checksum_offset != transport_checksum_offset(plan->gso))
		return -EINVAL;
	plan->first = (uint16_t)(plan->transport + length);
	return 0;
}

/* Sum of the pseudo-header (RFC 793 3.1, RFC 8200 8.1) for @length bytes of transport header and payload. */
static void pseudo_header(const struct segment_plan *plan, struct checksum *checksum, uint32_t length)
{
	const uint8_t *ip = plan->headers + plan->network;
	uint8_t rest[8] = { 0 };

	checksum_add(checksum, ip + (plan->ipv6 ? 8 : 12), plan->ipv6 ? 32 : 8);
	store_be32(rest, length);
	rest[7] = plan->gso == FRAME_GSO_TCPV4 || plan->gso == FRAME_GSO_TCPV6 ? PROTOCOL_TCP : PROTOCOL_UDP;
	checksum_add(checksum, rest, sizeof(rest));
}

/*
 * Sums of the headers with zeroes in the fields that segments do not have in common: of IPv4, lengths, identification,
 * fragmentation; of the pseudo-header, the length; of TCP, sequence number and the word with the flags; of UDP, the
 * length; and the checksums themselves.
 */
static void plan_sums(struct segment_plan *plan)
{
	bool tcp = plan->gso == FRAME_GSO_TCPV4 || plan->gso == FRAME_GSO_TCPV6;
	uint8_t copy[SEGMENT_HEADER_MAX], *transport = copy + plan->transport;
	struct checksum pseudo = { 0 };

	memcpy(copy, plan->headers, plan->first);
	if (!plan->ipv6) {
		uint8_t *ip = copy + plan->network;

		memset(ip + 2, 0, 6);
		memset(ip + 10, 0, 2);
		plan->network_sum = checksum_sum(ip, (ip[0] & 15U) * 4);
	}
	pseudo_header(plan, &pseudo, 0);
	plan->pseudo_sum = checksum_fold(pseudo.sum);
	if (tcp) {
		memset(transport + 4, 0, 4);
		memset(transport + 12, 0, 2);
	} else {
		memset(transport + 4, 0, 2);
	}
	memset(transport + transport_checksum_offset(plan->gso), 0, 2);
	plan->transport_sum = plan->pseudo_sum + checksum_sum(transport, (size_t)(plan->first - plan->transport));
}

/* UDP fragments: the datagram's checksum goes into the header that the first fragment takes along. */
static int plan_fragments(struct segment_plan *plan)
{
	const struct frame *frame = plan->frame;
	uint32_t length = frame->length - plan->transport;
	uint8_t *udp = plan->headers + plan->transport;
	struct checksum checksum = { 0 };
	uint32_t shared;
	uint16_t result;

	if (!plan->ipv6)
		plan->repeated = plan->transport;
	shared = (uint32_t)plan->first - plan->repeated;
	plan->payload = frame->offload.gso_size & ~7U; /* offsets of fragments are in units of 8 bytes */
	if (plan->payload < shared || length > UINT16_MAX)
		return -EINVAL;

	store_be16(udp + 4, length);
	store_be16(udp + UDP_CHECKSUM, 0);
	pseudo_header(plan, &checksum, length);
	checksum_add(&checksum, udp, UDP_LENGTH);
	checksum_add_frame(&checksum, frame, plan->first, frame->length);
	result = checksum_nonzero(checksum_finish(&checksum));
	memcpy(udp + UDP_CHECKSUM, &result, sizeof(result));
	plan->partial = false;
	return 0;
}

/* No GSO: one "segment", whose checksum is summed as the offload state says and as the sender seeded it. */
static int plan_checksum(struct segment_plan *plan, uint32_t have)
{
	const struct frame_offload *offload = &plan->frame->offload;
	uint32_t field = (uint32_t)offload->checksum_start + offload->checksum_offset;
	struct checksum checksum = { 0 };
	uint16_t result;

	if (field + 2 > have)
		return -EINVAL;
	plan->repeated = plan->first = (uint16_t)(field + 2);
	/* From the copy as far as it reaches, so that what is summed is what is sent. */
	if (offload->checksum_start < plan->first)
		checksum_add(&checksum, plan->headers + offload->checksum_start, plan->first - offload->checksum_start);
	checksum_add_frame(&checksum, plan->frame, plan->first, plan->frame->length);
	result = checksum_nonzero(checksum_finish(&checksum));
	memcpy(plan->headers + field, &result, sizeof(result));
	plan->payload = plan->frame->length;
	plan->count = 1;
	plan_seek(plan, plan->first);
	return 0;
}

int segment_plan(struct segment_plan *plan, const struct frame *frame, bool partial, uint32_t identification)
{
	uint32_t have = min(frame->length, SEGMENT_HEADER_MAX), largest;
	uint8_t protocol;
	int error;

	*plan = (struct segment_plan){ .frame = frame,
				       .partial = partial,
				       .gso = frame->offload.gso,
				       .identification = identification,
				       .together = 1 };
	if (!frame_read(frame, 0, plan->headers, have))
		return -EINVAL;
	if (plan->gso == FRAME_GSO_NONE)
		return plan_checksum(plan, have);

	error = plan_link(plan, have);
	if (!error)
		error = plan->ipv6 ? plan_ipv6(plan, have, &protocol) : plan_ipv4(plan, have, &protocol);
	if (!error)
		error = plan_transport(plan, have, protocol);
	if (error)
		return error;

	if (plan->gso == FRAME_GSO_UDP_FRAGMENT) {
		error = plan_fragments(plan);
		if (error)
			return error;
	} else {
		plan->repeated = plan->first;
		plan->payload = frame->offload.gso_size;
	}
	if (!plan->payload)
		return -EINVAL;
	plan->count = max((frame->length - plan->repeated + plan->payload - 1) / plan->payload, 1U);
	/* Length fields have 16 bits: the largest segment, from its IP header on, must fit. */
	largest = min(frame->length, plan->repeated + plan->payload + FRAGMENT_LENGTH);
	if (plan->count > SEGMENT_COUNT_MAX || largest - plan->network > UINT16_MAX)
		return -EINVAL;
	plan_sums(plan);
	plan_seek(plan, plan->first);
	return 0;
}

void segment_coalesce(struct segment_plan *plan, uint32_t longest)
{
	if (plan->gso != FRAME_GSO_TCPV4 && plan->gso != FRAME_GSO_TCPV6)
		return;
	/* Length fields have 16 bits. */
	longest = min(longest, (uint32_t)UINT16_MAX + plan->network);
	if (longest > plan->repeated)
		plan->together = max((longest - plan->repeated) / plan->payload, 1U);
}

void segment_skip(struct segment_plan *plan, uint32_t count)
{
	count = min(count, plan->count);
	if (count <= plan->index)
		return;
	plan->index = count;
	plan->packet = count;
	plan_seek(plan, min(plan->repeated + count * plan->payload, plan->frame->length));
}
