/* SPDX-License-Identifier: BSD-3-Clause */
/* Headers of a frame, as its plan (segment_plan.c) and its segments (segment.c) look at them. */
#ifndef NET_SEGMENT_INTERNAL_H
#define NET_SEGMENT_INTERNAL_H

#include <endian.h>

#include "base/byte_order.h"
#include "net/segment.h"

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_IPV6 = 0x86dd,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,

	PROTOCOL_HOP_BY_HOP = 0,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_DESTINATION = 60,

	IPV4_LENGTH = 20,
	IPV6_LENGTH = 40,
	TCP_LENGTH = 20,
	UDP_LENGTH = 8,
	FRAGMENT_LENGTH = 8,

	TCP_CHECKSUM = 16,
	UDP_CHECKSUM = 6,

	TCP_FIN = 0x01,
	TCP_PSH = 0x08,
	TCP_CWR = 0x80,

	IPV4_MORE_FRAGMENTS = 0x2000,
};

static inline uint32_t transport_checksum_offset(uint8_t gso)
{
	return gso == FRAME_GSO_TCPV4 || gso == FRAME_GSO_TCPV6 ? TCP_CHECKSUM : UDP_CHECKSUM;
}

/* A word of a header as sums have it. */
static inline uint32_t sum_word(uint32_t value)
{
	return htobe16((uint16_t)value);
}

#endif
