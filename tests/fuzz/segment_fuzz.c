/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: segmentation and checksums.
 *
 * Theory of operation
 * -------------------
 * Input: what a frame is made of (tags, IP version, options or extension headers, transport, payload, offload state),
 * bytes to change in it, how it is cut into segments of memory, and how much room there is for the result. The offload
 * state is what virtio-net's header check lets through, as in the program.
 *
 * Whatever comes out is read with frame_read() and checked by code that shares nothing with what made it:
 * - of TCP and UDP segments: IP and transport checksums are right (completed first where they were left to the
 * receiver), lengths are those of the frame, sequence numbers are without gap, each but the last has gso_size bytes;
 * - of UDP fragments: offsets are without gap, and the datagram that they make has the right checksum;
 * - together they are the payload that went in, byte for byte;
 * - of a frame without GSO: the checksum is the sum that the offload state asks for, and no other byte has changed;
 * - starting again in the middle (segment_skip) yields the same rest.
 */
#include "device/virtio_net_header.h"
#include "fuzz.h"
#include "net/segment.h"
#include "net_fixture.h"

#define FRAMES	   4U
#define SLICES_MAX 80U
#define CUTS_MAX   32U

struct original {
	uint8_t bytes[FRAME_LENGTH_MAX];
	uint32_t length, network, transport;
	bool ipv6;
	struct frame_offload offload;
};

/* What the segments have told so far. */
struct collected {
	uint8_t bytes[FRAME_LENGTH_MAX];
	uint32_t length; /* payload, or of fragments: bytes after the per-fragment headers */
	uint32_t frames;
};

static uint8_t out[FRAME_LENGTH_MAX + 64];

static uint16_t get16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static uint32_t get32(const uint8_t *from)
{
	return (uint32_t)get16(from) << 16 | get16(from + 2);
}

static void set16(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

/* ---- making a frame ---------------------------------------------------------------------------------------------- */

static void make_network(struct original *frame, struct fuzz_input *input, uint8_t form, uint8_t protocol)
{
	uint8_t *ip = frame->bytes + frame->network;
	unsigned extra = form >> 5 & 3;

	if (!frame->ipv6) {
		ip[0] = (uint8_t)(0x45 + extra);
		ip[8] = 64;
		ip[9] = protocol;
		fuzz_bytes(input, ip + 4, 2);
		fuzz_bytes(input, ip + 12, 8);
		frame->transport = frame->network + 20 + extra * 4;
		return;
	}
	ip[0] = 0x60;
	fuzz_bytes(input, ip + 8, 2);
	fuzz_bytes(input, ip + 38, 2);
	frame->transport = frame->network + 40;
	ip += 6;
	for (; extra; extra--) {
		static const uint8_t kinds[] = { 0, 43, 60, 60 };

		*ip = kinds[extra];
		ip = frame->bytes + frame->transport;
		ip[1] = (uint8_t)(form >> 7);
		frame->transport += 8U + ip[1] * 8U;
	}
	*ip = protocol;
}

static void make_frame(struct original *frame, struct fuzz_input *input, struct virtio_net_header *header)
{
	uint8_t form = fuzz_u8(input), kind = fuzz_u8(input) % 6, options = fuzz_u8(input) % 11U;
	bool tcp = kind < 2;
	uint32_t at = 12, payload;

	memset(frame->bytes, 0, SEGMENT_HEADER_MAX + 64);
	for (unsigned tags = form % 3U; tags; tags--, at += 4)
		set16(frame->bytes + at, form & 4 ? 0x88a8 : 0x8100);
	frame->ipv6 = kind == 1 || (kind > 1 && form & 8);
	set16(frame->bytes + at, frame->ipv6 ? 0x86dd : 0x0800);
	frame->network = at + 2;
	make_network(frame, input, form, tcp ? 6 : 17);
	at = frame->transport;
	fuzz_bytes(input, frame->bytes + at, 4);
	if (tcp) {
		fuzz_bytes(input, frame->bytes + at + 4, 4);
		frame->bytes[at + 12] = (uint8_t)((5U + options) << 4);
		frame->bytes[at + 13] = fuzz_u8(input);
		at += 20 + options * 4;
	} else {
		at += 8;
	}
	payload = fuzz_u16(input);
	frame->length = min(at + payload, FRAME_LENGTH_MAX);
	for (uint32_t i = at, seed = payload; i < frame->length; i++, seed = seed * 1664525 + 1013904223)
		frame->bytes[i] = (uint8_t)(seed >> 24);

	*header = (struct virtio_net_header){ .flags = 1, .csum_start = (uint16_t)frame->transport };
	header->csum_offset = tcp ? 16 : 6;
	header->gso_type = ((uint8_t[]){ 1, 4, 3, 5, 0, 0 })[kind];
	if (form & 0x10 && tcp)
		header->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	header->gso_size = fuzz_u16(input);
	/* A few bytes anywhere in the headers, or in the offload state. */
	for (unsigned changes = fuzz_u8(input) % 4U; changes; changes--) {
		at = fuzz_u8(input);
		if (at >= 240)
			((uint8_t *)header)[at % 10] = fuzz_u8(input);
		else
			frame->bytes[at % min(frame->length, 240U)] = fuzz_u8(input);
	}
}

/* Cut at places that the input tells. Return: number of segments. */
static unsigned cut(uint8_t *bytes, uint32_t length, struct fuzz_input *input, struct guest_segment *segments)
{
	unsigned wanted = 1 + fuzz_u8(input) % CUTS_MAX, count = 0;

	while (length) {
		uint32_t piece = ++count == wanted ? length : min(1U + fuzz_u8(input), length);

		segments[count - 1] = (struct guest_segment){ guest_bytes_of(bytes), piece };
		bytes += piece;
		length -= piece;
	}
	return count;
}

/* ---- checking what came out -------------------------------------------------------------------------------------- */

static void keep(struct collected *collected, const uint8_t *bytes, uint32_t length)
{
	fuzz_require(length <= sizeof(collected->bytes) - collected->length);
	memcpy(collected->bytes + collected->length, bytes, length);
	collected->length += length;
}

static void check_lengths(const struct original *frame, uint32_t length)
{
	const uint8_t *ip = out + frame->network;

	fuzz_require(!memcmp(out, frame->bytes, frame->network));
	if (frame->ipv6) {
		fuzz_require(get16(ip + 4) == length - frame->network - 40);
	} else {
		fuzz_require(get16(ip + 2) == length - frame->network);
		fuzz_require(naive_ipv4_good(ip));
	}
}

static void check_segment(const struct original *frame, const struct frame *segment, struct collected *collected)
{
	bool tcp = frame->offload.gso <= FRAME_GSO_TCPV6;
	const uint8_t *original = frame->bytes + frame->transport;
	uint8_t *transport = out + frame->transport;
	uint32_t headers = frame->transport + (tcp ? (original[12] >> 4) * 4U : 8U), field;

	check_lengths(frame, segment->length);
	fuzz_require(segment->length >= headers && segment->length - headers <= frame->offload.gso_size);
	if (segment->offload.checksum_partial) {
		field = segment->offload.checksum_start + segment->offload.checksum_offset;
		fuzz_require(segment->offload.checksum_start == frame->transport && field + 2 <= segment->length);
		set16(out + field, (uint16_t)~naive_fold(naive_sum(transport, segment->length - frame->transport, 0)));
	}
	fuzz_require(naive_transport_good(out + frame->network, segment->length - frame->network));
	if (tcp) {
		fuzz_require(get32(transport + 4) == get32(original + 4) + collected->length);
		fuzz_require(!memcmp(transport + 8, original + 8, 5));
	} else {
		fuzz_require(get16(transport + 4) == segment->length - frame->transport);
	}
	/* Only the last one may be short. */
	fuzz_require(collected->length == collected->frames * frame->offload.gso_size);
	keep(collected, out + headers, segment->length - headers);
}

static void check_fragment(const struct original *frame, const struct frame *segment, struct collected *collected,
			   uint32_t repeated, bool single)
{
	uint32_t position = collected->length, place;
	bool more;

	check_lengths(frame, segment->length);
	fuzz_require(!segment->offload.checksum_partial);
	if (frame->ipv6 && !single) {
		place = get16(out + repeated + 2) & 0xfff8;
		more = out[repeated + 3] & 1;
		repeated += 8;
	} else {
		place = frame->ipv6 ? 0 : (get16(out + frame->network + 6) & 0x1fffU) * 8;
		more = !frame->ipv6 && get16(out + frame->network + 6) & 0x2000;
	}
	fuzz_require(place == position && segment->length > repeated);
	keep(collected, out + repeated, segment->length - repeated);
	fuzz_require(more == (collected->length < frame->length - (repeated - (frame->ipv6 && !single ? 8 : 0))));
}

/* The datagram that the fragments make has a checksum of its own. */
static void check_datagram(const struct original *frame, const struct collected *collected, uint32_t repeated)
{
	static uint8_t whole[FRAME_LENGTH_MAX];
	uint8_t *ip = whole;
	uint32_t head = repeated - frame->network;

	memcpy(whole, frame->bytes + frame->network, head);
	memcpy(whole + head, collected->bytes, collected->length);
	fuzz_require(naive_transport_good(ip, head + collected->length));
}

static void check_plain(const struct original *frame, const uint8_t *got, uint32_t length)
{
	uint32_t field = frame->offload.checksum_start + frame->offload.checksum_offset;
	uint16_t sum;

	fuzz_require(length == frame->length);
	sum = (uint16_t)~naive_fold(naive_sum(frame->bytes + frame->offload.checksum_start,
					      frame->length - frame->offload.checksum_start, 0));
	fuzz_require(get16(got + field) == (sum ? sum : 0xffff));
	fuzz_require(!memcmp(got, frame->bytes, field));
	fuzz_require(!memcmp(got + field + 2, frame->bytes + field + 2, length - field - 2));
}

static void check_result(const struct original *frame, struct segment_plan *plan, const struct segment_room *room)
{
	static struct collected collected;
	unsigned built;

	collected.length = collected.frames = 0;
	while ((built = segment_next(plan, room)) > 0) {
		for (unsigned i = 0; i < built; i++) {
			const struct frame *segment = &room->frames[i];

			fuzz_require(segment->length <= sizeof(out) && frame_read(segment, 0, out, segment->length));
			if (plan->gso == FRAME_GSO_NONE)
				check_plain(frame, out, segment->length);
			else if (plan->gso == FRAME_GSO_UDP_FRAGMENT)
				check_fragment(frame, segment, &collected, plan->repeated, plan->count == 1);
			else
				check_segment(frame, segment, &collected);
			collected.frames++;
		}
	}
	fuzz_require(collected.frames == plan->count);
	if (plan->gso == FRAME_GSO_NONE)
		return;
	if (plan->gso == FRAME_GSO_UDP_FRAGMENT)
		check_datagram(frame, &collected, plan->repeated);
	fuzz_require(collected.length == frame->length - plan->repeated);
	built = plan->gso == FRAME_GSO_UDP_FRAGMENT ? plan->first - plan->repeated : 0;
	fuzz_require(!memcmp(collected.bytes + built, frame->bytes + plan->repeated + built, collected.length - built));
}

/* The rest, when the first segments went out in an earlier turn: the same as if all had gone in one. */
static void check_skip(const struct frame *frame, bool partial, uint32_t skip, const struct segment_room *room)
{
	static uint8_t first[FRAME_LENGTH_MAX + 64];
	struct segment_plan whole, rest;
	uint32_t length;

	if (segment_plan(&whole, frame, partial, 1) || segment_plan(&rest, frame, partial, 1))
		return;
	skip %= whole.count;
	for (uint32_t i = 0; i <= skip; i++) {
		struct segment_room one = *room;

		one.frame_count = 1;
		fuzz_require(segment_next(&whole, &one) == 1);
	}
	length = room->frames[0].length;
	fuzz_require(frame_read(&room->frames[0], 0, first, length));
	segment_skip(&rest, skip);
	fuzz_require(segment_next(&rest, room) >= 1 && room->frames[0].length == length);
	fuzz_require(frame_read(&room->frames[0], 0, out, length) && !memcmp(first, out, length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct original original;
	static struct frame frames[FRAMES];
	static uint8_t headers[FRAMES][SEGMENT_HEADER_MAX + 8];
	static struct guest_segment slices[SLICES_MAX];
	struct segment_room room = { frames, FRAMES, headers, slices, SLICES_MAX };
	struct fuzz_input input = { data, size };
	struct guest_segment segments[CUTS_MAX];
	struct virtio_net_header header;
	struct segment_plan plan;
	struct frame frame;
	uint8_t *bytes, form;
	unsigned count;

	make_frame(&original, &input, &header);
	form = fuzz_u8(&input);
	if (!virtio_net_header_parse(&header, UINT64_MAX, original.length, &original.offload))
		return 0;
	/* On the heap and of its exact size, so that the sanitizer sees each byte too many. */
	bytes = malloc(original.length);
	fuzz_require(bytes);
	memcpy(bytes, original.bytes, original.length);
	count = cut(bytes, original.length, &input, segments);
	frame_from_segments(&frame, segments, count, original.length);
	frame.offload = original.offload;
	room.frame_count = 1 + form % FRAMES;

	if (original.offload.checksum_partial || original.offload.gso) {
		if (!segment_plan(&plan, &frame, form & 0x80, 0x12345678)) {
			/* What was changed may have moved the headers; the plan says where it found them. */
			original.network = plan.network;
			original.transport = plan.transport;
			original.ipv6 = plan.ipv6;
			check_result(&original, &plan, &room);
			check_skip(&frame, form & 0x80, fuzz_u16(&input), &room);
		}
	}
	frame_flow_hash(&frame);
	if (original.offload.checksum_partial && !original.offload.gso && segment_checksum(&frame)) {
		fuzz_require(frame_read(&frame, 0, out, frame.length));
		check_plain(&original, out, frame.length);
	}
	free(bytes);
	return 0;
}
