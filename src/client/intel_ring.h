/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptor rings of Intel's Gigabit cards, the driver's side: legacy (82540EM), extended (82574) and advanced (82576) ones.
 * They differ in how a descriptor is filled in and where its write-back has what; nothing else here tells them apart.
 */
#ifndef CLIENT_INTEL_RING_H
#define CLIENT_INTEL_RING_H

#include "client/driver_buffer.h"
#include "client/vfio_user_client.h"

#include <stdbool.h>
#include <stdint.h>

/** struct intel_descriptor - 16 bytes, little-endian. */
struct intel_descriptor {
	uint64_t low;
	uint64_t high;
};

/**
 * struct intel_ring - a transmit or receive ring.
 * @ring:	descriptors, shared
 * @prepared:	by buffer, @step descriptors each: what is copied into the ring; ours alone
 * @ids:	by descriptor: the buffer that begins there
 * @tail:	its register
 * @size:	descriptors, a multiple of 8
 * @step:	descriptors of each buffer
 * @buffers:	how many the ring holds: one descriptor always stays free
 * @next:	where the next buffer goes
 * @oldest:	the buffer that the card has had longest
 * @in_flight:	buffers that the card has
 * @done_shift:	in a descriptor's upper half: the bit that says that it is done; end of packet is the next one
 * @length_shift: there: a received length
 */
struct intel_ring {
	struct intel_descriptor *ring;
	struct intel_descriptor *prepared;
	uint16_t *ids;
	struct vfio_user_register tail;
	uint16_t size;
	uint16_t step;
	uint16_t buffers;
	uint16_t next;
	uint16_t oldest;
	uint16_t in_flight;
	uint8_t done_shift;
	uint8_t length_shift;
};

int intel_ring_init(struct intel_ring *ring, uint16_t size, uint16_t step, struct client_memory *memory);
void intel_ring_release(struct intel_ring *ring);
int intel_ring_give(struct intel_ring *ring, const struct driver_buffer *buffers, unsigned int count);
int intel_ring_reap(struct intel_ring *ring, struct driver_buffer *buffers, unsigned int count);
int intel_ring_receive(struct intel_ring *ring, struct driver_buffer *buffers, unsigned int count);
bool intel_ring_is_ready(const struct intel_ring *ring);

#endif
