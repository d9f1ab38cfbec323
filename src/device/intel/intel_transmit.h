/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the transmit side share: from descriptors to frames. Theory of operation:
 * device/intel/intel_transmit.c.
 */
#ifndef DEVICE_INTEL_INTEL_TRANSMIT_H
#define DEVICE_INTEL_INTEL_TRANSMIT_H

#include "device/intel/intel_internal.h"

/* intel_offload.c */

/** struct intel_packet - a frame of the plan before it is one. */
struct intel_packet {
	struct guest_segment *segments; /* one free place before the first */
	unsigned segment_count;
	uint32_t length;
	uint32_t command, options; /* of its first descriptor: TXD_... and POPTS at TXD_IXSM */
	bool extended, checksum;   /* not a legacy descriptor; a legacy one with IC */
	bool segmented, tagged;
	uint16_t tag;
	struct intel_context context; /* legacy: made of CSS and CSO */
};

/** What intel_offload_build() returns for a frame that the switch cannot be told of: cut it. */
#define INTEL_OFFLOAD_CUT (PORT_DROPS + 1)

/**
 * intel_offload_build() - make a frame of @packet.
 * @headers:	room for what has to be changed; INTEL_OFFLOAD_CUT: has the headers, and @packet the payload
 *
 * Return: PORT_DROPS, or why not, or INTEL_OFFLOAD_CUT.
 */
uint8_t intel_offload_build(const struct intel_nic *nic, struct intel_packet *packet, struct frame *frame,
			    uint8_t headers[INTEL_HEADERS_MAX + 8]);

/** intel_crc32c() - SCTP's checksum, of @length @bytes more. @crc: of those before; all ones at first. */
uint32_t intel_crc32c(uint32_t crc, const uint8_t *bytes, uint32_t length);

/* intel_transmit_run.c */

/**
 * struct intel_run - frames of one plain descriptor each, from the ring's head on: the first of lane->frames.
 * @command, @status:	of all of them, but for the length
 * @length:		of the first frame
 * @alike:		of all of them, and none is for a group
 */
struct intel_run {
	unsigned count;
	uint32_t command, length;
	uint8_t status;
	bool alike;
	uint64_t bytes;
};

/**
 * intel_run_build() - as many frames as make a run, in lane->frames and lane->segments.
 * @count:	descriptors in the ring, at least one; as many as there is room for frames, at most
 * @bytes_max:	no frame is begun behind that many
 */
void intel_run_build(struct intel_lane *lane, struct intel_ring *ring, unsigned count, uint64_t bytes_max,
		     struct intel_run *run);

/** intel_run_write_back() - the first @count descriptors from the ring's head on are done. */
void intel_run_write_back(const struct intel_ring *ring, const struct intel_run *run, unsigned count);

/* intel_plan.c */

/** struct intel_planner - a plan in the making, see intel_plan.c. */
struct intel_planner {
	struct intel_nic *nic;
	struct intel_lane *lane;
	struct intel_ring *ring;
	struct intel_run run; /* in front of the first unit: not among units and descriptors, but among frames */
	unsigned want;	      /* units, and frames of the run */
	unsigned descriptors; /* fetched */
	unsigned position;    /* next one to be looked at */
	unsigned plans, frames, contexts;
	unsigned segments; /* in use */
	uint64_t bytes;
	bool broken;
	bool cut;		    /* what is left is the beginning of a frame */
	bool alone;		    /* the last unit is one for intel_cut() */
	struct intel_packet packet; /* this one */
};

/** intel_plan_make() - plan @available descriptors, as far as @planner->want and @turn's bytes go. */
void intel_plan_make(struct intel_planner *planner, uint32_t available, const struct turn *turn);

/* intel_cut.c */

/** intel_cut_count() - segments that @packet is cut into; at least one. */
uint32_t intel_cut_count(const struct intel_packet *packet);

/** intel_cut() - build segments from number @first on, as many as there is room for. Return: frames in lane->frames. */
unsigned intel_cut(const struct intel_nic *nic, struct intel_lane *lane, const struct intel_packet *packet,
		   uint32_t first);

#endif
