/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receive side scaling: the Toeplitz hash over addresses and ports with the driver's key (RSSRK), and the table that
 * makes a queue of it (RETA); 82574 7.1.11, 82576 7.1.2.8.
 *
 * The hash of a string is the exclusive-or, over its one bits, of the 32 bits of the key that begin at the bit's
 * position. So it is the exclusive-or of one table entry for each nibble: [position][value], 72 * 16 words, built when
 * the key has changed by whoever next receives under the port's claim.
 *
 * RETA's entries are the guest's: masked when they are used.
 *
 * Context: under the port's claim, where headers are the switch's own copies.
 */
#include "device/intel/intel_receive.h"

#define ETHERTYPE_IPV4 0x0800U
#define ETHERTYPE_IPV6 0x86ddU
#define PROTOCOL_TCP   6U
#define PROTOCOL_UDP   17U

#define KEY_BYTES 40U

/* MRQC: what is hashed. */
#define MRQC_TCP_IPV4	       (1U << 16)
#define MRQC_IPV4	       (1U << 17)
#define MRQC_TCP_IPV6_EXTENDED (1U << 18)
#define MRQC_IPV6_EXTENDED     (1U << 19)
#define MRQC_IPV6	       (1U << 20)
#define MRQC_TCP_IPV6	       (1U << 21)
#define MRQC_UDP_IPV4	       (1U << 22)
#define MRQC_UDP_IPV6	       (1U << 23)

void intel_flow_parse(const struct frame *frame, struct intel_flow *flow)
{
	uint32_t at = FRAME_TAG_OFFSET, type = frame_load16(frame, at);

	memset(flow, 0, sizeof(*flow));
	if (type == VET_DEFAULT && frame->header_length >= 18) {
		at += 4;
		type = frame_load16(frame, at);
	}
	at += 2;
	flow->ip_offset = (uint8_t)at;
	if (type == ETHERTYPE_IPV4 && frame->header_length >= at + 20 && frame->header[at] >> 4 == 4) {
		uint32_t length = (frame->header[at] & 15U) * 4;

		if (length < 20)
			return;
		flow->version = 4;
		flow->protocol = frame->header[at + 9];
		flow->options = length > 20;
		if (!(frame_load16(frame, at + 6) & 0x3fff)) /* more fragments, or an offset */
			flow->l4_offset = (uint8_t)(at + length);
	} else if (type == ETHERTYPE_IPV6 && frame->header_length >= at + 40 && frame->header[at] >> 4 == 6) {
		flow->version = 6;
		flow->protocol = frame->header[at + 6];
		flow->l4_offset = (uint8_t)(at + 40);
	}
	if (flow->protocol != PROTOCOL_TCP && flow->protocol != PROTOCOL_UDP) {
		flow->l4_offset = 0;
		flow->options |= flow->version == 6;
	}
}

/* Bits [@position, @position + 32) of the key. */
static uint32_t key_bits(const uint8_t *key, unsigned position)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < 5; i++)
		bits = bits << 8 | (position / 8 + i < KEY_BYTES ? key[position / 8 + i] : 0);
	return (uint32_t)(bits >> (8 - position % 8));
}

static void build_tables(struct intel_nic *nic)
{
	uint8_t key[KEY_BYTES];

	for (unsigned i = 0; i < KEY_BYTES; i++)
		key[i] = (uint8_t)(intel_load(nic, RSSRK + (i & ~3U)) >> 8 * (i & 3));
	for (unsigned nibble = 0; nibble < 72; nibble++) {
		for (unsigned value = 0; value < 16; value++) {
			uint32_t hash = 0;

			for (unsigned bit = 0; bit < 4; bit++)
				hash ^= value >> (3 - bit) & 1 ? key_bits(key, 4 * nibble + bit) : 0;
			nic->hash_nibbles[nibble][value] = hash;
		}
	}
}

static inline uint32_t toeplitz(const struct intel_nic *nic, const uint8_t *bytes, unsigned length)
{
	uint32_t hash = 0;

	for (unsigned i = 0; i < length; i++)
		hash ^= nic->hash_nibbles[2 * i][bytes[i] >> 4] ^ nic->hash_nibbles[2 * i + 1][bytes[i] & 15];
	return hash;
}

/* What of the flow is hashed. Return: RSS type (82576 7.1.5.2), 0: nothing. @ports: with those. */
static uint8_t hash_type(uint32_t control, const struct intel_flow *flow, bool *ports)
{
	bool tcp = flow->l4_offset && flow->protocol == PROTOCOL_TCP;
	bool udp = flow->l4_offset && flow->protocol == PROTOCOL_UDP;

	*ports = true;
	if (flow->version == 4) {
		if (tcp && control & MRQC_TCP_IPV4)
			return 1;
		if (udp && control & MRQC_UDP_IPV4)
			return 7;
		*ports = false;
		return control & MRQC_IPV4 ? 2 : 0;
	}
	if (flow->version != 6)
		return 0;
	if (tcp && control & (MRQC_TCP_IPV6 | MRQC_TCP_IPV6_EXTENDED))
		return control & MRQC_TCP_IPV6 ? 3 : 6;
	if (udp && control & MRQC_UDP_IPV6)
		return 8;
	*ports = false;
	if (control & MRQC_IPV6)
		return 5;
	return control & MRQC_IPV6_EXTENDED ? 4 : 0;
}

/* Is RSS switched on? 82576: MRQE 2, and 82574: 1. */
static bool enabled(const struct intel_nic *nic, uint32_t control)
{
	switch (nic->variant->generation) {
	case INTEL_82576:
		return (control & 7) == 2;
	case INTEL_82574:
		return (control & 3) == 1;
	default:
		return false;
	}
}

bool intel_rss_enabled(const struct intel_nic *nic)
{
	return enabled(nic, intel_load(nic, MRQC));
}

uint32_t intel_rss_hash(struct intel_nic *nic, const struct frame *frame, const struct intel_flow *flow, uint8_t *type)
{
	uint32_t control = intel_load(nic, MRQC);
	unsigned version = atomic_load_explicit(&nic->key_version, memory_order_acquire);
	uint8_t input[36];
	unsigned length;
	bool ports;

	*type = enabled(nic, control) ? hash_type(control, flow, &ports) : 0;
	if (!*type)
		return 0;
	if (unlikely(nic->hash_version != version)) {
		build_tables(nic);
		nic->hash_version = version;
	}
	length = flow->version == 4 ? 8 : 32;
	memcpy(input, frame->header + flow->ip_offset + (flow->version == 4 ? 12 : 8), length);
	if (ports) {
		/* In the copy, but for options: those are not hashed with ports that are out of its reach. */
		if (!frame_read(frame, flow->l4_offset, input + length, 4))
			memset(input + length, 0, 4);
		length += 4;
	}
	return toeplitz(nic, input, length);
}

unsigned intel_rss_queue(const struct intel_nic *nic, uint32_t hash, uint8_t type)
{
	uint32_t control, entry;

	if (nic->variant->generation == INTEL_82576) {
		control = intel_load(nic, MRQC);
		if ((control & 7) != 2) /* one queue for all: DEF_Q */
			return control >> 3 & 7;
	}
	if (!type)
		return 0;
	entry = intel_load(nic, RETA + (hash & 0x7c)) >> 8 * (hash & 3) & 0xff;
	return (nic->variant->generation == INTEL_82576 ? entry : entry >> 7) & (nic->variant->queues - 1U);
}
