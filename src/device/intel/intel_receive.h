/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the receive side share; theory of operation: device/intel/intel_receive.c. */
#ifndef DEVICE_INTEL_INTEL_RECEIVE_H
#define DEVICE_INTEL_INTEL_RECEIVE_H

#include "device/intel/intel_internal.h"

#define INTEL_FRAME_MIN	 60U /* shorter ones are padded */
#define INTEL_FCS_LENGTH 4U

/** Descriptors of a coalesced frame at most; see intel_coalesce.c. */
#define INTEL_COALESCE_DESCRIPTORS 16U

/** struct intel_report - what a frame's last descriptor says of it. */
struct intel_report {
	uint32_t status; /* RXD_..., with the errors of the extended forms */
	uint32_t hash;
	uint16_t info; /* RSS type and packet type (82576) */
	uint16_t tag;
};

/** intel_second_word() - of a write-back, without a length: that goes to intel_length_shift(). */
static inline uint64_t intel_second_word(const struct intel_ring *ring, uint32_t status, uint64_t tag)
{
	uint64_t errors = status & RXD_EXTENDED_IPE ? RXD_LEGACY_IPE : 0;

	if (ring->form == INTEL_RECEIVE_LEGACY)
		return ((status & 0xff) | errors) << 32 | tag << 48;
	return status | tag << 48;
}

static inline unsigned intel_length_shift(const struct intel_ring *ring)
{
	return ring->form == INTEL_RECEIVE_LEGACY ? 0 : 32;
}

static inline uint64_t intel_first_word(const struct intel_report *report)
{
	return report->info | (uint64_t)report->hash << 32;
}

/** intel_tag_of() - the tag of a frame as VET says. Return: -1: none. */
static inline int intel_tag_of(const struct intel_terms *terms, const struct frame *frame)
{
	if (likely(frame_load16(frame, FRAME_TAG_OFFSET) != terms->tag_type) ||
	    frame->header_length < FRAME_LENGTH_MIN + FRAME_TAG_LENGTH)
		return -1;
	return frame_load16(frame, FRAME_TAG_OFFSET + 2);
}

/** intel_destination_low(), _high(), intel_type() - of a frame, as in memory. */
static inline uint32_t intel_destination_low(const struct frame *frame)
{
	uint32_t word;

	memcpy(&word, frame->header, sizeof(word));
	return word;
}

static inline uint16_t intel_destination_high(const struct frame *frame)
{
	uint16_t word;

	memcpy(&word, frame->header + 4, sizeof(word));
	return word;
}

static inline uint16_t intel_type(const struct frame *frame)
{
	uint16_t type;

	memcpy(&type, frame->header + FRAME_TAG_OFFSET, sizeof(type));
	return type;
}

/* intel_receive.c */

/**
 * intel_receive_available() - how many descriptors the driver has given for @queue.
 * @enough:	if there are as many, the tail need not be looked at again
 *
 * Return: false: the ring is not in use, or nonsense.
 */
bool intel_receive_available(struct intel_nic *nic, unsigned queue, uint32_t enough, uint32_t *available);

/* intel_filter.c */

/** intel_filter_accepts() - is a frame with this destination for us? @vlan: of its tag, -1: none */
bool intel_filter_accepts(const struct intel_nic *nic, const uint8_t *destination, int vlan);

/* intel_rss.c */

/** struct intel_flow - what the headers of a received frame say. */
struct intel_flow {
	uint8_t ip_offset;
	uint8_t version; /* 4, 6; 0: not IP */
	uint8_t protocol;
	uint8_t l4_offset; /* 0: none, or a fragment */
	bool options;	   /* IP options or extension headers */
};

void intel_flow_parse(const struct frame *frame, struct intel_flow *flow);

/** intel_rss_enabled() - does MRQC ask for hashes? If not, all frames go to intel_rss_queue(nic, 0, 0). */
bool intel_rss_enabled(const struct intel_nic *nic);

/** intel_rss_hash() - the hash that MRQC asks for. @type: RSS type of the descriptor, 0: none. Under the claim. */
uint32_t intel_rss_hash(struct intel_nic *nic, const struct frame *frame, const struct intel_flow *flow, uint8_t *type);

/** intel_rss_queue() - of a hash. @type: 0: it has none */
unsigned intel_rss_queue(const struct intel_nic *nic, uint32_t hash, uint8_t type);

/* intel_receive_report.c */

void intel_terms_load(const struct intel_nic *nic, struct intel_terms *terms);

/** intel_describe() - what there is to say of a frame without a tag; @report->status is added to. Return: its queue. */
unsigned intel_describe(struct intel_nic *nic, const struct intel_terms *terms, const struct frame *frame,
			struct intel_report *report);

/* intel_receive_run.c */

/**
 * intel_receive_run() - frames, as far as they are like the first, and as a run of them is received.
 * @queue:	of the first; its ring is ready, and has a tail
 * @frames:	the first has no tag, and passes the filters
 * @count:	of frames, at least one
 * @bytes:	those of frames that were received are added
 *
 * Return: how many were received.
 */
unsigned intel_receive_run(struct intel_nic *nic, unsigned queue, const struct frame *frames, unsigned count,
			   uint64_t *bytes);

/* intel_coalesce.c */

/** intel_coalesce_max() - struct port_ops */
uint32_t intel_coalesce_max(struct port *port, const struct frame *frame, const struct turn *turn);

/** intel_coalesce_room() - bytes of each buffer that a coalesced frame may fill. Return: 0: there may be none. */
uint32_t intel_coalesce_room(const struct intel_nic *nic, const struct intel_terms *terms,
			     const struct intel_ring *ring);

#endif
