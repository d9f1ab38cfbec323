/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Segmentation and checksums in software, for receivers that cannot take a frame as it is. Theory of operation:
 * net/segment.c.
 */
#ifndef NET_SEGMENT_H
#define NET_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "net/frame.h"
#include "net/port.h"

/** The most header bytes (link, tags, IP with options or extension headers, TCP or UDP) that can be worked on. */
#define SEGMENT_HEADER_MAX 256U

/** The most segments of one frame: a bound on the work that a few bytes of gso_size can ask for. */
#define SEGMENT_COUNT_MAX 1536U

/** struct segment_plan - a frame's headers, copied and checked, and how it will be cut. */
struct segment_plan {
	const struct frame *frame;
	uint8_t headers[SEGMENT_HEADER_MAX]; /* the copy: the only one that is looked at */
	uint16_t network;    /* offset of the IP header */
	uint16_t transport;  /* offset of the TCP or UDP header */
	uint16_t repeated;   /* header bytes that each segment starts with */
	uint16_t first;	     /* header bytes of the first segment; of UDP fragments only it has the UDP header */
	uint16_t next_header; /* IPv6 fragments: offset of the field that will say "fragment" */
	bool ipv6;
	bool partial;	     /* leave the checksums of the segments to the receiver */
	uint8_t gso;	     /* enum frame_gso */
	uint32_t payload;    /* bytes of each segment after @repeated */
	uint32_t count;	     /* segments */
	uint32_t index;	     /* of the next one */
	uint32_t together;   /* segments that go as one packet; 1 but for segment_coalesce() */
	uint32_t packet;     /* number of the next packet, for its IPv4 identification */
	uint32_t identification; /* IPv6 fragments */
	/* sums of what is the same in all segments, so that a segment adds what is its own; see plan_sums() */
	uint32_t network_sum, pseudo_sum, transport_sum;

	/* where the payload of the next segment begins */
	uint32_t segment;	/* in frame->segments */
	size_t segment_offset;
	uint32_t position;	/* the same as an offset into the frame */
};

/** segment_room - where segments are built; all of them live until the caller is done with the batch. */
struct segment_room {
	struct frame *frames; /* room for @frame_count */
	unsigned frame_count;
	uint8_t (*headers)[SEGMENT_HEADER_MAX + 8]; /* of the same count */
	struct guest_segment *segments;
	unsigned segment_count; /* at least the frame's own segments + 2 */
};

/** segment_needed() - can a receiver with @abilities not take @offload as it is? */
static inline bool segment_needed(const struct frame_offload *offload, const struct port_abilities *abilities)
{
	if (likely(!offload->checksum_partial && offload->gso == FRAME_GSO_NONE))
		return false;
	if (!abilities->checksum)
		return true;
	switch (offload->gso) {
	case FRAME_GSO_NONE:
		return false;
	case FRAME_GSO_TCPV4:
		return !abilities->tso4 || (offload->ecn && !abilities->ecn);
	case FRAME_GSO_TCPV6:
		return !abilities->tso6 || (offload->ecn && !abilities->ecn);
	case FRAME_GSO_UDP_FRAGMENT:
		return !abilities->ufo;
	default:
		/* The offload state does not tell the IP version: a receiver has to take both. */
		return !abilities->uso4 || !abilities->uso6;
	}
}

/**
 * segment_plan() - look at a frame and decide how to cut it. A frame without GSO yields one segment, with its checksum.
 * @plan:		out; refers to @frame
 * @partial:		the receiver completes checksums itself
 * @identification:	for IPv6 fragments: different for each datagram
 *
 * Return: 0; -EINVAL when the headers are not what the offload state says, tunnels and fragments included.
 */
int segment_plan(struct segment_plan *plan, const struct frame *frame, bool partial, uint32_t identification);

/**
 * segment_coalesce() - let packets of TCP carry as many segments as go into frames of @longest bytes, one at least.
 *
 * They begin and end where segments do. What is counted (segment_skip(), plan->index) remains segments.
 */
void segment_coalesce(struct segment_plan *plan, uint32_t longest);

/**
 * segment_next() - build the next segments, as many as there is room for.
 *
 * Payload is not copied: the segments point into the frame's own. Return: number of frames in @room; 0 at the end.
 */
unsigned segment_next(struct segment_plan *plan, const struct segment_room *room);

/** segment_skip() - leave out the first @count segments (they are delivered already). */
void segment_skip(struct segment_plan *plan, uint32_t count);

/**
 * segment_checksum() - complete the partial checksum of a frame in its own header copy.
 *
 * Return: false when the field is not in the copy: then it takes a plan.
 */
bool segment_checksum(struct frame *frame);

#endif
