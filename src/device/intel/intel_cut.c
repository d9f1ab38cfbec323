/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Segmentation of frames that the switch cannot be told of: TSO behind a tunnel's headers.
 *
 * Theory of operation
 * -------------------
 * The network of a guest may be a tunnel (VXLAN, GRE, IP in IP), and its driver gives the card segments to cut whose
 * "IP header" (IPLEN) is the outer one and everything up to the inner TCP or UDP header (Linux: GSO_PARTIAL). Intel's
 * cards know nothing of tunnels, and need not: of what they take for the IP header they set the length, the
 * identification and the checksum, the last over all of it, together with what the driver put into the field to make
 * that right. Frames with offload state of the switch have IP, then TCP or UDP. So these are the ones that are cut
 * here, as the card would (8254x 3.5, 82576 7.2.4.4), and leave with their checksums in them.
 *
 * A frame is cut into batches of the switch's, of which a full receiver may leave some: the ring remembers how many
 * segments of its first frame are sent, and the next turn goes on there.
 *
 * Each segment is a copy of the headers with its own fields, in the lane's scratch, and slices of the payload, which
 * stays where it is. Offsets were checked by context_fits() (intel_offload.c): everything lies inside the headers that
 * were copied.
 *
 * Context: the lane.
 */
#include "base/byte_order.h"
#include "device/intel/intel_transmit.h"
#include "net/checksum.h"

#define IP_LENGTH	  2U
#define IP_IDENTIFICATION 4U
#define IP_CHECKSUM	  10U
#define IPV6_LENGTH	  4U
#define IPV6_HEADER	  40U
#define TCP_SEQUENCE	  4U
#define TCP_FLAGS	  13U
#define TCP_FIN_PSH	  0x09U
#define TCP_CWR		  0x80U
#define UDP_LENGTH	  4U

/* struct payload - where the next segment's begins. */
struct payload {
	const struct guest_segment *segment;
	size_t offset;
};

static void skip(struct payload *payload, uint64_t length)
{
	while (length) {
		size_t piece = (size_t)min(length, (uint64_t)(payload->segment->length - payload->offset));

		payload->offset += piece;
		length -= piece;
		if (payload->offset == payload->segment->length) {
			payload->segment++;
			payload->offset = 0;
		}
	}
}

/* Slices of @length bytes. Return: how many; 0: they do not fit into @room. */
static unsigned slice(struct payload *payload, uint32_t length, struct guest_segment *slices, unsigned room)
{
	unsigned count = 0;

	while (length) {
		size_t piece = min((size_t)length, payload->segment->length - payload->offset);

		if (count == room)
			return 0;
		slices[count++] = (struct guest_segment){ payload->segment->base + payload->offset, piece };
		length -= (uint32_t)piece;
		skip(payload, piece);
	}
	return count;
}

/* The "IP header" of segment @number: all of [ip_start, l4_start). */
static void set_network(const struct intel_context *context, uint8_t *headers, uint32_t number, uint32_t length)
{
	uint8_t *ip = headers + context->ip_start;
	uint16_t sum;

	if (!context->ipv4) {
		store_be16(ip + IPV6_LENGTH, length - context->ip_start - IPV6_HEADER);
		return;
	}
	store_be16(ip + IP_LENGTH, length - context->ip_start);
	store_be16(ip + IP_IDENTIFICATION, load_be16(ip + IP_IDENTIFICATION) + number);
	sum = (uint16_t)~checksum_sum(ip, context->l4_start - context->ip_start);
	memcpy(ip + IP_CHECKSUM, &sum, sizeof(sum));
}

/* TCP or UDP of segment @number, and its checksum, which begins with what the driver left in the field. */
static void set_transport(const struct intel_context *context, uint8_t *headers, uint32_t number, bool last,
			  uint32_t length, const struct guest_segment *slices, unsigned count)
{
	uint8_t *l4 = headers + context->l4_start;
	struct checksum checksum = { 0 };
	uint16_t sum;

	if (context->tcp) {
		uint32_t sequence = load_be16(l4 + TCP_SEQUENCE) << 16 | load_be16(l4 + TCP_SEQUENCE + 2);

		store_be32(l4 + TCP_SEQUENCE, sequence + number * context->mss);
		if (number)
			l4[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
		if (!last)
			l4[TCP_FLAGS] &= (uint8_t)~TCP_FIN_PSH;
	} else {
		store_be16(l4 + UDP_LENGTH, length - context->l4_start);
	}
	checksum_add_word(&checksum, (uint16_t)(length - context->l4_start)); /* of the pseudo header */
	checksum_add(&checksum, l4, context->header_length - context->l4_start);
	for (unsigned i = 0; i < count; i++)
		checksum_add(&checksum, slices[i].base, slices[i].length);
	sum = checksum_nonzero(checksum_finish(&checksum));
	memcpy(headers + context->l4_field, &sum, sizeof(sum));
}

static void add_tag(const struct intel_nic *nic, const struct intel_packet *packet, uint8_t *headers)
{
	uint8_t *tag = headers + FRAME_TAG_OFFSET;

	memmove(tag + FRAME_TAG_LENGTH, tag, packet->context.header_length - FRAME_TAG_OFFSET);
	store_be16(tag, intel_load(nic, VET) & 0xffff);
	store_be16(tag + 2, packet->tag);
}

uint32_t intel_cut_count(const struct intel_packet *packet)
{
	uint32_t payload = packet->length - packet->context.header_length;

	return (payload + packet->context.mss - 1) / packet->context.mss;
}

unsigned intel_cut(const struct intel_nic *nic, struct intel_lane *lane, const struct intel_packet *packet,
		   uint32_t first)
{
	const struct intel_context *context = &packet->context;
	uint32_t total = intel_cut_count(packet), payload_length = packet->length - context->header_length;
	struct payload payload = { packet->segments, 0 };
	unsigned built = 0, used = 0;

	skip(&payload, (uint64_t)first * context->mss);
	for (; built < array_size(lane->frames) - 1 && first + built < total; built++) {
		struct guest_segment *segments = lane->cut_segments + used;
		unsigned room = (unsigned)array_size(lane->cut_segments) - used, count;
		uint8_t *headers = lane->headers[built + 1]; /* the first is the original */
		uint32_t number = first + built, header = context->header_length, length;
		struct payload before = payload;

		length = min((uint32_t)context->mss, payload_length - number * context->mss);
		count = room > 1 ? slice(&payload, length, segments + 1, room - 1) : 0;
		if (!count) {
			payload = before;
			break;
		}
		memcpy(headers, lane->headers[0], header);
		set_network(context, headers, number, header + length);
		set_transport(context, headers, number, number + 1 == total, header + length, segments + 1, count);
		if (packet->tagged) {
			add_tag(nic, packet, headers);
			header += FRAME_TAG_LENGTH;
		}
		segments[0] = (struct guest_segment){ guest_bytes_of(headers), header };
		used += count + 1;
		frame_from_segments(&lane->frames[built], segments, count + 1, header + length);
	}
	return built;
}
