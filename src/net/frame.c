/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Frames: the ways that are not worth inlining. See net/frame.h for what a frame is.
 *
 * A frame's bytes are header[0, header_length) followed by its segments. Every function here keeps that, and keeps
 * length == header_length + sum of the segments' lengths.
 *
 * Context: a frame belongs to the sidecore that forwards it.
 */
#include "net/frame.h"

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8

void frame_gather(struct frame *frame, struct guest_segment *segments, unsigned count)
{
	uint32_t have = 0;

	while (count && have < frame->header_length) {
		uint32_t piece = (uint32_t)min(segments->length, (size_t)(frame->header_length - have));

		guest_read(frame->header + have, segments->base, piece);
		have += piece;
		segments->base += piece;
		segments->length -= piece;
		if (!segments->length) {
			segments++;
			count--;
		}
	}
	frame->segments = segments;
	frame->segment_count = (uint16_t)count;
}

bool frame_read(const struct frame *frame, uint32_t offset, void *to, uint32_t length)
{
	const struct guest_segment *segment = frame->segments;
	uint8_t *out = to;

	if (!range_inside(offset, length, frame->length))
		return false;

	if (offset < frame->header_length) {
		uint32_t piece = min(length, frame->header_length - offset);

		memcpy(out, frame->header + offset, piece);
		out += piece;
		length -= piece;
		offset = 0;
	} else {
		offset -= frame->header_length;
	}

	for (unsigned i = 0; length && i < frame->segment_count; i++, segment++) {
		if (offset >= segment->length) {
			offset -= (uint32_t)segment->length;
			continue;
		}
		uint32_t piece = (uint32_t)min((size_t)length, segment->length - offset);

		guest_read(out, segment->base + offset, piece);
		out += piece;
		length -= piece;
		offset = 0;
	}

	return length == 0;
}

/* A position in the destination of frame_scatter(). */
struct scatter {
	const struct guest_segment *to;
	size_t offset;
};

static void scatter_bytes(struct scatter *scatter, const guest_byte *from, size_t length)
{
	while (length) {
		size_t piece;

		while (scatter->offset >= scatter->to->length) {
			scatter->offset -= scatter->to->length;
			scatter->to++;
		}
		piece = min(length, scatter->to->length - scatter->offset);
		guest_copy(scatter->to->base + scatter->offset, from, piece);
		scatter->offset += piece;
		from += piece;
		length -= piece;
	}
}

void frame_scatter(const struct frame *frame, const struct guest_segment *to, uint32_t offset)
{
	struct scatter scatter = { .to = to, .offset = offset };

	scatter_bytes(&scatter, guest_bytes_of(frame->header), frame->header_length);
	for (unsigned i = 0; i < frame->segment_count; i++)
		scatter_bytes(&scatter, frame->segments[i].base, frame->segments[i].length);
}

void frame_insert_tag(struct frame *frame, uint16_t tci)
{
	uint8_t *tag = frame->header + FRAME_TAG_OFFSET;

	/* header_length is at most FRAME_HEADER_MAX while the frame has no tag of ours: there is room for one. */
	memmove(tag + FRAME_TAG_LENGTH, tag, frame->header_length - FRAME_TAG_OFFSET);
	tag[0] = ETHERTYPE_VLAN >> 8;
	tag[1] = ETHERTYPE_VLAN & 0xff;
	tag[2] = (uint8_t)(tci >> 8);
	tag[3] = (uint8_t)tci;
	frame->header_length = (uint16_t)(frame->header_length + FRAME_TAG_LENGTH);
	frame->length += FRAME_TAG_LENGTH;
	if (frame->offload.checksum_partial)
		frame->offload.checksum_start = (uint16_t)(frame->offload.checksum_start + FRAME_TAG_LENGTH);
	if (frame->offload.header_length)
		frame->offload.header_length = (uint16_t)(frame->offload.header_length + FRAME_TAG_LENGTH);
}

void frame_remove_tag(struct frame *frame)
{
	uint8_t *tag = frame->header + FRAME_TAG_OFFSET;

	memmove(tag, tag + FRAME_TAG_LENGTH, frame->header_length - FRAME_TAG_OFFSET - FRAME_TAG_LENGTH);
	frame->header_length = (uint16_t)(frame->header_length - FRAME_TAG_LENGTH);
	frame->length -= FRAME_TAG_LENGTH;
	/* At least the length of the link header with its tag: the switch sees to that on entry. */
	if (frame->offload.checksum_partial)
		frame->offload.checksum_start = (uint16_t)(frame->offload.checksum_start - FRAME_TAG_LENGTH);
	/* This one is a hint that nobody has checked. */
	if (frame->offload.header_length)
		frame->offload.header_length =
			(uint16_t)(frame->offload.header_length - min(frame->offload.header_length, FRAME_TAG_LENGTH));
}

static uint64_t load64(const uint8_t *from)
{
	uint64_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static uint32_t load32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

uint32_t frame_flow_hash(const struct frame *frame)
{
	unsigned at = FRAME_TAG_OFFSET, ports;
	uint64_t mixed;
	uint8_t protocol;
	uint16_t type;

	if (frame->header_length < 14 + 20)
		return 0;
	type = frame_load16(frame, at);
	for (unsigned tags = 0; tags < 2 && (type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ); tags++) {
		at += FRAME_TAG_LENGTH;
		type = frame_load16(frame, at);
	}
	at += 2;

	/* Sums and exclusive ors of both ends: the same whichever of them is the source. */
	if (type == ETHERTYPE_IPV4 && at + 20 <= frame->header_length) {
		const uint8_t *ip = frame->header + at;

		protocol = ip[9];
		mixed = (uint64_t)(load32(ip + 12) ^ load32(ip + 16)) << 32 | (load32(ip + 12) + load32(ip + 16));
		/* Fragments carry no ports after the first: hash none of them by port, or they part ways. */
		ports = (ip[6] & 0x3f) || ip[7] ? UINT32_MAX : at + (ip[0] & 15U) * 4;
	} else if (type == ETHERTYPE_IPV6 && at + 40 <= frame->header_length) {
		const uint8_t *ip = frame->header + at;

		protocol = ip[6];
		mixed = (load64(ip + 8) ^ load64(ip + 24)) * 31 + (load64(ip + 16) ^ load64(ip + 32));
		ports = at + 40;
	} else {
		return 0;
	}
	if ((protocol == 6 || protocol == 17) && ports < FRAME_HEADER_MAX && ports + 4 <= frame->header_length) {
		uint16_t source = frame_load16(frame, ports), destination = frame_load16(frame, ports + 2);

		mixed += (uint64_t)(source ^ destination) << 16 | (uint16_t)(source + destination);
	}
	mixed = (mixed ^ protocol) * 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(mixed >> 32);
}
