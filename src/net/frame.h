/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A frame: one Ethernet frame on its way through the switch, without being copied.
 *
 * Its first bytes are copied once into @header when it enters, and from then on *the copy* is looked at, decided upon
 * and delivered; the rest stays in the sender's memory and is copied once, into the receiver's. A sender that changes
 * its memory in the meantime changes only payload, never what was checked.
 *
 * Offload state travels with it, in virtio's terms (virtio 1.3 5.1.6): a frame may be a TCP segment of 64 KiB whose
 * checksum was never computed. Whoever cannot take that gets it finished by net/segment.c, at the last moment.
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/checked.h"
#include "memory/guest_memory.h"

/** Bytes copied on entry: Ethernet + 2 VLAN tags + IPv6, or a whole minimal frame. A cache line. */
#define FRAME_HEADER_MAX 64U

/** Where the source address is; the destination is at 0. */
#define FRAME_SOURCE_OFFSET 6U

/** An IEEE 802.1Q tag: what frame_insert_tag() may add to the header copy. */
#define FRAME_TAG_LENGTH 4U
#define FRAME_TAG_OFFSET 12U

/** Ethernet header. Shorter frames are dropped ("runt"). */
#define FRAME_LENGTH_MIN 14U

/** The largest frame of all: a GSO segment of 64 KiB with its headers (QEMU's and Linux's own limit). */
#define FRAME_LENGTH_MAX (65536U + 256U)

enum frame_gso {
	FRAME_GSO_NONE,
	FRAME_GSO_TCPV4,
	FRAME_GSO_TCPV6,
	FRAME_GSO_UDP_FRAGMENT, /* UFO: IP fragments of one datagram */
	FRAME_GSO_UDP_SEGMENT,	/* USO: several datagrams */
};

/** struct frame_offload - checked: every offset lies inside the frame. All zero: a plain frame, checksum in it. */
struct frame_offload {
	bool checksum_partial;	/* checksum at start + offset still to be computed over [start, end) */
	bool checksum_valid;	/* somebody has verified it (or it never left the machine) */
	bool ecn;		/* the GSO segment has CWR set: first segment only */
	uint8_t gso;		/* enum frame_gso */
	uint16_t gso_size;	/* payload bytes of each segment */
	uint16_t header_length; /* of the headers that each segment repeats; a hint, recomputed where it matters */
	uint16_t checksum_start;
	uint16_t checksum_offset;
};

/**
 * struct frame - see above. Two cache lines; the first is the header.
 * @header:		the frame's first bytes, the switch's own copy
 * @header_length:	how many: min(length, FRAME_HEADER_MAX) on entry, FRAME_TAG_LENGTH more or less after a change
 *			of tag
 * @segments:		the bytes after those
 * @vlan:		set by the switch: VLAN that the frame is in, 0: none
 * @priority:		set by the switch: PCP and DEI bits of the tag that came with the frame, for the one it leaves
 *			with
 * @coalesced:		set by the switch: several segments of TCP as one, longer than the link's frames are, for a port
 *			that asked for it (port_ops.coalesce_max)
 * @tagged:		set by the switch: @header has the tag of @vlan at FRAME_TAG_OFFSET
 * @segments_done:	a GSO frame that was cut for its receiver, and left at its sender half way because the receiver
 *			was full: segments that are delivered already. The sender keeps it with the frame and gives it
 *			back
 */
struct frame {
	uint8_t header[FRAME_HEADER_MAX + FRAME_TAG_LENGTH] __attribute__((aligned(CACHE_LINE)));
	uint32_t length; /* the whole frame, header included */
	const struct guest_segment *segments;
	uint16_t segment_count;
	uint16_t header_length;
	uint16_t vlan;
	uint16_t priority;
	struct frame_offload offload;
	uint16_t segments_done;
	bool coalesced;
	bool tagged;
};

/** frame_copy_short() - a few bytes without a call: two overlapping halves for the lengths that matter. */
static inline void frame_copy_short(void *to, const void *from, uint32_t length)
{
	if (likely(length >= 32 && length <= 64)) {
		memcpy(to, from, 32);
		memcpy((uint8_t *)to + length - 32, (const uint8_t *)from + length - 32, 32);
	} else {
		memcpy(to, from, length);
	}
}

/** frame_copy_header() - copy the first bytes out of guest memory; from here on the copy is read, not guest memory
 * again. */
static inline void frame_copy_header(struct frame *frame, const guest_byte *from, uint32_t length)
{
	frame_copy_short(frame->header, from, length);
	__asm__ volatile("" : "+m"(frame->header));
}

/** frame_offload_word() - checksum_partial, checksum_valid, ecn and gso, to be looked at all at once. */
static inline uint32_t frame_offload_word(const struct frame *frame)
{
	uint32_t word;

	memcpy(&word, &frame->offload, sizeof(word));
	return word;
}

/** Of that word: checksum_partial and gso. */
#define FRAME_OFFLOAD_WORK 0xff0000ffU

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && offsetof(struct frame_offload, checksum_partial) == 0 &&
		       offsetof(struct frame_offload, gso) == 3,
	       "FRAME_OFFLOAD_WORK");

/** frame_is_plain() - nothing of it is left to do: no checksum, no segmentation. */
static inline bool frame_is_plain(const struct frame *frame)
{
	return !(frame_offload_word(frame) & FRAME_OFFLOAD_WORK);
}

/** frame_is_bare() - plain, and nothing is known of its checksum either: a header for it is all zero. */
static inline bool frame_is_bare(const struct frame *frame)
{
	return !frame_offload_word(frame);
}

/** frame_set_plain() - all fields but header and segments. */
static inline void frame_set_plain(struct frame *frame, uint32_t length, uint16_t header_length)
{
	const size_t first = offsetof(struct frame, vlan), end = offsetof(struct frame, tagged) + sizeof(frame->tagged);

	frame->length = length;
	frame->header_length = header_length;
	/* vlan, priority, offload, segments_done, coalesced and tagged, with fewer stores than fields */
	memset((uint8_t *)frame + first, 0, end - first);
}

/** frame_gather() - the way for headers that are spread over several segments; use frame_from_segments(). */
void frame_gather(struct frame *frame, struct guest_segment *segments, unsigned count);

/**
 * frame_from_segments() - build a frame out of bytes: copies the header and notes the rest. All other fields are
 * zeroed.
 * @segments:	the frame's bytes; the array is modified (the header's bytes are cut off) and stays referenced
 * @count:	segments; none is empty
 * @length:	sum of the segments' lengths, as already checked by the chain walker
 */
static inline void frame_from_segments(struct frame *frame, struct guest_segment *segments, unsigned count,
				       uint32_t length)
{
	uint16_t header_length = (uint16_t)min(length, FRAME_HEADER_MAX);

	frame_set_plain(frame, length, header_length);
	if (unlikely(!count || segments->length < header_length)) {
		frame_gather(frame, segments, count);
		return;
	}
	frame_copy_header(frame, segments->base, header_length);
	segments->base += header_length;
	segments->length -= header_length;
	if (!segments->length) {
		segments++;
		count--;
	}
	frame->segments = segments;
	frame->segment_count = (uint16_t)count;
}

/** frame_read() - copy @length bytes from @offset into @to. Return: false when the frame is shorter. */
bool frame_read(const struct frame *frame, uint32_t offset, void *to, uint32_t length);

/** frame_scatter() - the way for frames that are spread over several destination segments; use frame_copy_out(). */
void frame_scatter(const struct frame *frame, const struct guest_segment *to, uint32_t offset);

/** frame_copy_inside() - frame_copy_out() to where there is room for all of it in one piece. */
static inline void frame_copy_inside(const struct frame *frame, guest_byte *at)
{
	if (likely(frame->header_length == FRAME_HEADER_MAX))
		memcpy(at, frame->header, FRAME_HEADER_MAX);
	else
		frame_copy_short(at, frame->header, frame->header_length);
	if (likely(!frame->segment_count))
		return;
	at += frame->header_length;
	for (unsigned i = 0; i < frame->segment_count; i++) {
		guest_copy(at, frame->segments[i].base, frame->segments[i].length);
		at += frame->segments[i].length;
	}
}

/**
 * frame_copy_out() - copy the whole frame into writable guest segments, from byte @offset of them; the one copy. The
 * caller has checked that they hold offset + frame->length bytes.
 */
static inline void frame_copy_out(const struct frame *frame, const struct guest_segment *to, uint32_t offset)
{
	if (unlikely(to->length < (uint64_t)offset + frame->length))
		frame_scatter(frame, to, offset);
	else
		frame_copy_inside(frame, to->base + offset);
}

/**
 * frame_insert_tag() - put an 802.1Q tag with @tci behind the addresses; offload offsets move along.
 *
 * The local copy grows by the tag, so that nothing of the sender's memory is touched and the one copy stays one.
 */
void frame_insert_tag(struct frame *frame, uint16_t tci);

/** frame_remove_tag() - take away the tag that is there (so the frame has FRAME_LENGTH_MIN + FRAME_TAG_LENGTH bytes).
 */
void frame_remove_tag(struct frame *frame);

/** frame_load16() - big-endian field of the header copy; @offset + 2 is at most header_length. */
static inline uint16_t frame_load16(const struct frame *frame, unsigned offset)
{
	return (uint16_t)(frame->header[offset] << 8 | frame->header[offset + 1]);
}

/**
 * frame_flow_hash() - a hash of addresses and ports that is the same for both directions of a flow (RSS-like steering).
 *
 * Return: 0 for what has no IP addresses.
 */
uint32_t frame_flow_hash(const struct frame *frame);

#endif
