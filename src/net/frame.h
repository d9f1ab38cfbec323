/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A frame: one Ethernet frame on its way through the switch, without being copied.
 *
 * Its first bytes are copied once into @header when it enters, and from then on *the copy* is looked at, decided upon and
 * delivered; the rest stays in the sender's memory and is copied once, into the receiver's. A sender that changes its
 * memory in the meantime changes only payload, never what was checked.
 *
 * Offload state travels with it, in virtio's terms (virtio 1.3 5.1.6): a frame may be a TCP segment of 64 KiB whose
 * checksum was never computed. Whoever cannot take that gets it finished by net/segment.c, at the last moment.
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "memory/guest_memory.h"

/** Bytes copied on entry: Ethernet + 2 VLAN tags + IPv6, or a whole minimal frame. A cache line. */
#define FRAME_HEADER_MAX 64U

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

struct frame {
	const struct guest_segment *segments; /* the bytes after the first @header_length */
	uint32_t length;		      /* the whole frame, header included */
	uint16_t segment_count;
	uint16_t header_length; /* min(length, FRAME_HEADER_MAX) */
	uint16_t vlan;		/* set by the switch: VLAN that the frame is in, 0: none */
	struct frame_offload offload;
	uint8_t header[FRAME_HEADER_MAX] __attribute__((aligned(16)));
};

/** frame_from_segments() - build a frame out of bytes: copies the header and notes the rest.
 * @segments:	the frame's bytes; the array is modified (the header's bytes are cut off) and stays referenced
 * @length:	sum of the segments' lengths, as already checked by the chain walker
 */
void frame_from_segments(struct frame *frame, struct guest_segment *segments, unsigned count, uint32_t length);

/** frame_read() - copy @length bytes from @offset into @to. Return: false when the frame is shorter. */
bool frame_read(const struct frame *frame, uint32_t offset, void *to, uint32_t length);

/** frame_copy_out() - copy the whole frame into writable guest segments, from byte @offset of them; the one copy. The
 * caller has checked that they hold offset + frame->length bytes. */
void frame_copy_out(const struct frame *frame, const struct guest_segment *to, uint32_t offset);

#endif
