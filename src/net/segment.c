/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Segmentation and checksums in software, at the last moment: just before delivery to a receiver that cannot take the
 * frame as it is.
 *
 * Theory of operation
 * -------------------
 * A *plan* is made first: the headers, at most SEGMENT_HEADER_MAX bytes, are copied once, parsed and checked against
 * the offload state. Nothing is parsed twice, so what the sender changes afterwards changes only payload. Then segments
 * come out in batches. Each has headers of its own (the first bytes in its frame's header copy, the rest in scratch
 * memory) and guest segments that are slices of the original payload: the payload is still copied only once, into the
 * receiver.
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
 * What is refused (-EINVAL): other protocols than the offload state says, tunnels, fragments, authentication headers,
 * routing headers that are not used up (their pseudo-header has another destination), headers above the limit, a
 * checksum elsewhere than in the transport header, more than SEGMENT_COUNT_MAX segments.
 *
 * Invariants
 * - repeated <= first <= SEGMENT_HEADER_MAX, and first <= frame->length.
 * - Every offset that is read or written in headers[] lies below @first.
 * - position == offset in the frame of the next segment's payload; it only grows, by at most frame->length in all.
 *
 * Context: scratch memory of one sidecore; called while the claim of the receiver is held.
 */
#include "net/segment.h"

#include <endian.h>
#include <errno.h>

#include "net/checksum.h"

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,

	PROTOCOL_HOP_BY_HOP = 0,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_DESTINATION = 60,

	IPV4_LENGTH = 20,
	IPV6_LENGTH = 40,
	TCP_LENGTH = 20,
	UDP_LENGTH = 8,
	FRAGMENT_LENGTH = 8,

	TCP_CHECKSUM = 16,
	UDP_CHECKSUM = 6,

	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_CWR = 0x80,

	IPV4_MORE_FRAGMENTS = 0x2000,
};

static uint16_t load16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static void store16(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static uint32_t load32(const uint8_t *from)
{
	return (uint32_t)load16(from) << 16 | load16(from + 2);
}

static void store32(uint8_t *to, uint32_t value)
{
	store16(to, value >> 16);
	store16(to + 2, value & 0xffff);
}

static uint32_t transport_checksum_offset(uint8_t gso)
{
	return gso == FRAME_GSO_TCPV4 || gso == FRAME_GSO_TCPV6 ? TCP_CHECKSUM : UDP_CHECKSUM;
}

/* Position the payload cursor at @offset of the frame, at or after where it is. */
static void plan_seek(struct segment_plan *plan, uint32_t offset)
{
	const struct frame *frame = plan->frame;
	uint32_t distance = offset - plan->position;

	plan->position = offset;
	/* Bytes that are still in the header copy come before the first segment; see slice(). */
	if (offset <= frame->header_length)
		return;
	if (offset - distance < frame->header_length)
		distance = offset - frame->header_length;
	plan->segment_offset += distance;
	while (plan->segment < frame->segment_count &&
	       plan->segment_offset >= frame->segments[plan->segment].length) {
		plan->segment_offset -= frame->segments[plan->segment].length;
		plan->segment++;
	}
}

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

/* Find the IP header behind at most two tags. Return: 0, or -EINVAL. */
static int plan_link(struct segment_plan *plan, uint32_t have)
{
	uint32_t at = FRAME_TAG_OFFSET;
	uint16_t type;

	for (unsigned tags = 0;; tags++) {
		if (at + 2 > have)
			return -EINVAL;
		type = load16(plan->headers + at);
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
	if (load16(ip + 6) & 0x3fff) /* more fragments, or not the first one */
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
	store32(rest, length);
	rest[7] = plan->gso == FRAME_GSO_TCPV4 || plan->gso == FRAME_GSO_TCPV6 ? PROTOCOL_TCP : PROTOCOL_UDP;
	checksum_add(checksum, rest, sizeof(rest));
}

/* A word of a header as sums have it. */
static uint32_t sum_word(uint32_t value)
{
	return htobe16((uint16_t)value);
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

	store16(udp + 4, length);
	store16(udp + UDP_CHECKSUM, 0);
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

	*plan = (struct segment_plan){
		.frame = frame, .partial = partial, .gso = frame->offload.gso, .identification = identification,
		.together = 1
	};
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

static void ipv4_header(const struct segment_plan *plan, uint8_t *headers, uint32_t length, bool last)
{
	uint8_t *ip = headers + plan->network;
	uint32_t identification = load16(ip + 4), fragment = load16(ip + 6);
	uint16_t result;

	if (plan->gso == FRAME_GSO_UDP_FRAGMENT)
		fragment = plan->index * plan->payload / 8 | (last ? 0 : IPV4_MORE_FRAGMENTS);
	else
		identification += plan->packet;
	length -= plan->network;
	store16(ip + 2, length);
	store16(ip + 4, identification);
	store16(ip + 6, fragment);
	result = (uint16_t)~checksum_fold((uint64_t)plan->network_sum + sum_word(length) + sum_word(identification) +
					  sum_word(fragment));
	memcpy(ip + 10, &result, sizeof(result));
}

static void ipv6_fragment_header(const struct segment_plan *plan, uint8_t *headers, bool last)
{
	uint8_t *fragment = headers + plan->repeated;

	fragment[0] = headers[plan->next_header];
	fragment[1] = 0;
	store16(fragment + 2, plan->index * plan->payload | (last ? 0 : 1));
	store32(fragment + 4, plan->identification);
	headers[plan->next_header] = PROTOCOL_FRAGMENT;
}

static void tcp_header(const struct segment_plan *plan, uint8_t *tcp, bool last)
{
	store32(tcp + 4, load32(tcp + 4) + plan->index * plan->payload);
	if (plan->index)
		tcp[13] &= (uint8_t)~TCP_CWR;
	if (!last)
		tcp[13] &= (uint8_t)~(TCP_FIN | TCP_PSH);
}

/* Sum of a segment's headers: of the plan's, and the fields that are its own. */
static uint64_t header_sum(const struct segment_plan *plan, const uint8_t *transport, uint32_t length)
{
	uint64_t sum = plan->transport_sum + sum_word(length);

	if (plan->gso == FRAME_GSO_UDP_SEGMENT)
		return sum + sum_word(length);
	return sum + sum_word(load16(transport + 4)) + sum_word(load16(transport + 6)) +
	       sum_word(load16(transport + 12));
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
			store16(headers + plan->network + 4, length - plan->network - IPV6_LENGTH);
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
		store16(headers + plan->transport + 4, length - plan->transport);
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
