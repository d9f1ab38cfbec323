/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Segmentation and checksums in software, at the last moment: just before delivery to a receiver that cannot take the
 * frame as it is.
 *
 * Theory of operation
 * -------------------
 * A *plan* is made first (net/segment_plan.c): the headers are copied once, parsed and checked against the offload
 * state. Nothing is parsed twice, so what the sender changes afterwards changes only payload. Then segments come out in
 * batches. Each has headers of its own (the first bytes in its frame's header copy, the rest in scratch memory) and
 * guest segments that are slices of the original payload: the payload is still copied only once, into the receiver.
 *
 *	TCPV4, TCPV6	headers repeated up to the end of the TCP header; sequence number advances, FIN and PSH only on
 *			the last segment, CWR only on the first (RFC 3168 6.1.2), IPv4 identification counts up
 *	UDP_SEGMENT	headers repeated up to the end of the UDP header: each segment a datagram of its own
 *	UDP_FRAGMENT	one datagram in IP fragments: headers repeated up to the end of the IP header (IPv6: of what RFC
 *			8200 4.5 calls per-fragment headers, and a fragment header follows); the UDP header, with the
 *			checksum over the whole datagram, is in the first fragment only
 *	none		the frame as it is, with its checksum
 *
 * Segments of TCP may go several as one packet (segment_coalesce()), which is to the receiver as if its card had put
 * them together: cut where they would have been cut, with the headers of the first, flags of first and last, and a
 * checksum of its own. Identifications count packets then, so that a receiver that goes on coalescing (GRO) finds them
 * consecutive; they stay distinct within the frame, and below its sender's next one, also when some of it was cut in
 * another way before.
 *
 * TCP and UDP checksums are computed over a segment (its payload is in the cache for the copy that follows), or left
 * partial when the receiver does that itself. What segments have in common is summed once, with the plan: all of the
 * headers but for some fields, which are added to that for each.
 *
 * Invariants
 * - Every offset that is read or written in headers[] lies below plan->first.
 * - position == offset in the frame of the next segment's payload; it only grows, by at most frame->length in all.
 *
 * Context: scratch memory of one sidecore; called while the claim of the receiver is held.
 */
#include <string.h>

#include "net/checksum.h"
#include "net/segment_internal.h"

/* Slices of the payload: @length bytes from the cursor on, which moves. Return: number of slices. */
static unsigned plan_slice(struct segment_plan *plan, uint32_t length, struct guest_segment *slices)
{
	const struct frame *frame = plan->frame;
	unsigned count = 0;

	if (plan->position < frame->header_length) {
		uint32_t piece = min(length, frame->header_length - plan->position);

		slices[count++] = (struct guest_segment){ guest_bytes_of(frame->header + plan->position), piece };
		plan->position += piece;
		length -= piece;
	}
	while (length && plan->segment < frame->segment_count) {
		const struct guest_segment *segment = &frame->segments[plan->segment];
		size_t piece = min((size_t)length, segment->length - plan->segment_offset);

		slices[count++] = (struct guest_segment){ segment->base + plan->segment_offset, piece };
		plan->position += (uint32_t)piece;
		plan->segment_offset += piece;
		length -= (uint32_t)piece;
		if (plan->segment_offset == segment->length) {
			plan->segment++;
			plan->segment_offset = 0;
		}
	}
	return count;
}

static void ipv4_header(const struct segment_plan *plan, uint8_t *headers, uint32_t length, bool last)
{
	uint8_t *ip = headers + plan->network;
	uint32_t identification = load_be16(ip + 4), fragment = load_be16(ip + 6);
	uint16_t result;

	if (plan->gso == FRAME_GSO_UDP_FRAGMENT)
		fragment = plan->index * plan->payload / 8 | (last ? 0 : IPV4_MORE_FRAGMENTS);
	else
		identification += plan->packet;
	length -= plan->network;
	store_be16(ip + 2, length);
	store_be16(ip + 4, identification);
	store_be16(ip + 6, fragment);
	result = (uint16_t)~checksum_fold((uint64_t)plan->network_sum + sum_word(length) + sum_word(identification) +
					  sum_word(fragment));
	memcpy(ip + 10, &result, sizeof(result));
}

static void ipv6_fragment_header(const struct segment_plan *plan, uint8_t *headers, bool last)
{
	uint8_t *fragment = headers + plan->repeated;

	fragment[0] = headers[plan->next_header];
	fragment[1] = 0;
	store_be16(fragment + 2, plan->index * plan->payload | (last ? 0 : 1));
	store_be32(fragment + 4, plan->identification);
	headers[plan->next_header] = PROTOCOL_FRAGMENT;
}

static void tcp_header(const struct segment_plan *plan, uint8_t *tcp, bool last)
{
	store_be32(tcp + 4, load_be32(tcp + 4) + plan->index * plan->payload);
	if (plan->index)
		tcp[13] &= (uint8_t)~TCP_CWR;
	if (!last)
		tcp[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
}

/* Sum of a segment's headers: of the plan's, and the fields that are its own. */
static uint64_t header_sum(const struct segment_plan *plan, const uint8_t *transport, uint32_t length)
{
	uint64_t sum = plan->transport_sum + sum_word(length);

	if (plan->gso == FRAME_GSO_UDP_SEGMENT)
		return sum + sum_word(length);
	return sum + sum_word(load_be16(transport + 4)) + sum_word(load_be16(transport + 6)) +
	       sum_word(load_be16(transport + 12));
}

/* Checksum of a segment that has a transport header of its own, or the seed of one that the receiver completes. */
static void transport_checksum(const struct segment_plan *plan, struct frame *out, uint8_t *headers,
			       const struct guest_segment *slices, unsigned count, uint32_t length)
{
	uint32_t offset = transport_checksum_offset(plan->gso);
	uint8_t *transport = headers + plan->transport;
	struct checksum checksum = { 0 };
	uint16_t result;

	length -= plan->transport;
	if (plan->partial) {
		result = checksum_fold((uint64_t)plan->pseudo_sum + sum_word(length));
		out->offload.checksum_partial = true;
		out->offload.checksum_start = plan->transport;
		out->offload.checksum_offset = (uint16_t)offset;
	} else {
		/* Headers have an even length. */
		checksum.sum = header_sum(plan, transport, length);
		for (unsigned i = 0; i < count; i++)
			checksum_add(&checksum, slices[i].base, slices[i].length);
		result = checksum_nonzero(checksum_finish(&checksum));
		out->offload.checksum_valid = true;
	}
	memcpy(transport + offset, &result, sizeof(result));
}

/* Whole lines, for which both have room: SEGMENT_HEADER_MAX is some of them. No call for a few bytes. */
static void copy_lines(uint8_t *to, const uint8_t *from, uint32_t length)
{
	for (uint32_t at = 0; at < length; at += CACHE_LINE)
		memcpy(to + at, from + at, CACHE_LINE);
}

/* One packet: a segment, or several. Return: guest segments used. */
static unsigned build(struct segment_plan *plan, struct frame *out, uint8_t *headers, struct guest_segment *segments)
{
	uint32_t next = min(plan->index + plan->together, plan->count);
	bool fragment = plan->gso == FRAME_GSO_UDP_FRAGMENT, last = next == plan->count;
	uint32_t own = plan->index == 0 ? plan->first : plan->repeated; /* header bytes that come from the plan */
	uint32_t inserted = fragment && plan->ipv6 && plan->count > 1 ? FRAGMENT_LENGTH : 0;
	uint32_t end = last ? plan->frame->length : plan->repeated + next * plan->payload;
	uint32_t payload = end - plan->position, length = own + inserted + payload, beyond;
	/* The first segment of the room is kept for headers beyond the frame's own copy. */
	unsigned count = plan_slice(plan, payload, segments + 1);

	copy_lines(headers, plan->headers, plan->repeated);
	if (own > plan->repeated)
		memcpy(headers + plan->repeated + inserted, plan->headers + plan->repeated, own - plan->repeated);

	frame_set_plain(out, length, (uint16_t)min(own + inserted, FRAME_HEADER_MAX));
	out->coalesced = next - plan->index > 1;
	out->vlan = plan->frame->vlan;
	out->priority = plan->frame->priority;
	out->tagged = plan->frame->tagged;
	if (plan->gso != FRAME_GSO_NONE) {
		if (inserted)
			ipv6_fragment_header(plan, headers, last);
		if (plan->ipv6)
			store_be16(headers + plan->network + 4, length - plan->network - IPV6_LENGTH);
		else
			ipv4_header(plan, headers, length, last);
	}
	switch (plan->gso) {
	case FRAME_GSO_TCPV4:
	case FRAME_GSO_TCPV6:
		tcp_header(plan, headers + plan->transport, last);
		transport_checksum(plan, out, headers, segments + 1, count, length);
		break;
	case FRAME_GSO_UDP_SEGMENT:
		store_be16(headers + plan->transport + 4, length - plan->transport);
		transport_checksum(plan, out, headers, segments + 1, count, length);
		break;
	case FRAME_GSO_NONE:
		out->offload.checksum_valid = true;
		break;
	default:
		break;
	}

	memcpy(out->header, headers, FRAME_HEADER_MAX); /* all of it: what is behind header_length means nothing */
	beyond = own + inserted - out->header_length;
	if (beyond)
		segments[0] = (struct guest_segment){ guest_bytes_of(headers + out->header_length), beyond };
	out->segments = beyond ? segments : segments + 1;
	out->segment_count = (uint16_t)(count + (beyond ? 1 : 0));
	plan->index = next;
	plan->packet++;
	return count + 1;
}

unsigned segment_next(struct segment_plan *plan, const struct segment_room *room)
{
	unsigned built = 0, used = 0;

	while (built < room->frame_count && plan->index < plan->count) {
		/* What the rest of the frame can need at most: its slices, one more for the header copy, one for headers. */
		unsigned need = plan->frame->segment_count - plan->segment + 2;

		if (room->segment_count - used < need)
			break;
		used += build(plan, &room->frames[built], room->headers[built], room->segments + used);
		built++;
	}
	return built;
}

bool segment_checksum(struct frame *frame)
{
	struct frame_offload *offload = &frame->offload;
	uint32_t field = (uint32_t)offload->checksum_start + offload->checksum_offset;
	struct checksum checksum = { 0 };
	uint16_t result;

	if (field + 2 > frame->header_length)
		return false;
	checksum_add_frame(&checksum, frame, offload->checksum_start, frame->length);
	result = checksum_nonzero(checksum_finish(&checksum));
	memcpy(frame->header + field, &result, sizeof(result));
	offload->checksum_partial = false;
	offload->checksum_valid = true;
	return true;
}
