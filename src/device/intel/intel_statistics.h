/* SPDX-License-Identifier: BSD-3-Clause */
/* What the Intel network cards count of frames, and the registers that tell it. */
#ifndef DEVICE_INTEL_INTEL_STATISTICS_H
#define DEVICE_INTEL_INTEL_STATISTICS_H

#include <stdint.h>
#include <string.h>

#include "base/checked.h"

struct intel_nic;

/** struct intel_traffic - one writer. Buckets: up to 64 bytes, 127, 255, 511, 1023, more. */
struct intel_traffic {
	uint64_t frames, octets, multicast, broadcast, sizes[6];
	uint64_t segmented; /* TSO frames */
	uint64_t filtered;  /* not for us */
	uint64_t oversize;
};

/** intel_count_group() - @count frames to @destination, if that is a group. */
static inline void intel_count_group(struct intel_traffic *traffic, const uint8_t *destination, uint64_t count)
{
	if (unlikely(destination[0] & 1)) {
		bool broadcast = !memcmp(destination, "\xff\xff\xff\xff\xff\xff", 6);
		uint64_t *counter = broadcast ? &traffic->broadcast : &traffic->multicast;

		__atomic_store_n(counter, *counter + count, __ATOMIC_RELAXED);
	}
}

/** intel_count_alike() - @count frames of @length, but for intel_count_group(). */
static inline void intel_count_alike(struct intel_traffic *traffic, uint32_t length, uint64_t count)
{
	/* What is on the wire: with the frame check sequence, and padding. */
	uint32_t wire = max(length, 60U) + 4;
	unsigned bucket = wire <= 64 ? 0 : wire >= 1024 ? 5 : 26U - (unsigned)__builtin_clz(wire);

	__atomic_store_n(&traffic->frames, traffic->frames + count, __ATOMIC_RELAXED);
	__atomic_store_n(&traffic->octets, traffic->octets + wire * count, __ATOMIC_RELAXED);
	__atomic_store_n(&traffic->sizes[bucket], traffic->sizes[bucket] + count, __ATOMIC_RELAXED);
}

static inline void intel_count(struct intel_traffic *traffic, const uint8_t *destination, uint32_t length)
{
	intel_count_alike(traffic, length, 1);
	intel_count_group(traffic, destination, 1);
}

uint32_t intel_statistics_read(struct intel_nic *nic, uint32_t offset);
void intel_statistics_reset(struct intel_nic *nic);

/** intel_statistics_totals() - all that was counted so far; intel_statistics_missed(): frames that found no room. */
void intel_statistics_totals(const struct intel_nic *nic, struct intel_traffic *sent, struct intel_traffic *received);
uint64_t intel_statistics_missed(const struct intel_nic *nic);

#endif
