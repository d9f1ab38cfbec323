/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The header in front of each frame of a virtio-net queue (virtio 1.3 5.1.6), to and from what the switch knows as
 * offload state. Pure functions on local copies, so that they can be fuzzed alone.
 */
#ifndef DEVICE_VIRTIO_NET_HEADER_H
#define DEVICE_VIRTIO_NET_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#include "net/frame.h"

/* Feature bits (virtio 1.3 5.1.3, 6), the ones that this device knows. */
enum virtio_net_feature {
	VIRTIO_NET_F_CSUM = 0,
	VIRTIO_NET_F_GUEST_CSUM = 1,
	VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 2,
	VIRTIO_NET_F_MTU = 3,
	VIRTIO_NET_F_MAC = 5,
	VIRTIO_NET_F_GUEST_TSO4 = 7,
	VIRTIO_NET_F_GUEST_TSO6 = 8,
	VIRTIO_NET_F_GUEST_ECN = 9,
	VIRTIO_NET_F_GUEST_UFO = 10,
	VIRTIO_NET_F_HOST_TSO4 = 11,
	VIRTIO_NET_F_HOST_TSO6 = 12,
	VIRTIO_NET_F_HOST_ECN = 13,
	VIRTIO_NET_F_HOST_UFO = 14,
	VIRTIO_NET_F_MRG_RXBUF = 15,
	VIRTIO_NET_F_STATUS = 16,
	VIRTIO_NET_F_CTRL_VQ = 17,
	VIRTIO_NET_F_CTRL_RX = 18,
	VIRTIO_NET_F_CTRL_VLAN = 19,
	VIRTIO_NET_F_CTRL_RX_EXTRA = 20,
	VIRTIO_NET_F_GUEST_ANNOUNCE = 21,
	VIRTIO_NET_F_MQ = 22,
	VIRTIO_NET_F_CTRL_MAC_ADDR = 23,
	VIRTIO_F_ANY_LAYOUT = 27,
	VIRTIO_F_RING_INDIRECT_DESC = 28,
	VIRTIO_F_RING_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
	VIRTIO_F_RING_PACKED = 34,
	VIRTIO_F_IN_ORDER = 35,
	VIRTIO_NET_F_GUEST_USO4 = 54,
	VIRTIO_NET_F_GUEST_USO6 = 55,
	VIRTIO_NET_F_HOST_USO = 56,
};

static inline bool virtio_net_has(uint64_t features, enum virtio_net_feature feature)
{
	return features >> feature & 1;
}

enum {
	VIRTIO_NET_HDR_F_NEEDS_CSUM = 1,
	VIRTIO_NET_HDR_F_DATA_VALID = 2,

	VIRTIO_NET_HDR_GSO_NONE = 0,
	VIRTIO_NET_HDR_GSO_TCPV4 = 1,
	VIRTIO_NET_HDR_GSO_UDP = 3,
	VIRTIO_NET_HDR_GSO_TCPV6 = 4,
	VIRTIO_NET_HDR_GSO_UDP_L4 = 5,
	VIRTIO_NET_HDR_GSO_ECN = 0x80,
};

/**
 * struct virtio_net_header - as it lies in guest memory: little-endian, and for legacy drivers in the guest's own
 * order, which is little-endian, too, on all hosts that rings are read on (ring/chain_walk.h asserts it).
 * @num_buffers:	not there for legacy drivers without VIRTIO_NET_F_MRG_RXBUF
 */
struct virtio_net_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

#define VIRTIO_NET_HEADER_LEGACY 10U

_Static_assert(sizeof(struct virtio_net_header) == 12, "virtio 1.3 5.1.6");

/** virtio_net_header_size() - bytes in front of each frame (virtio 1.3 5.1.6.1). */
static inline uint16_t virtio_net_header_size(uint64_t features)
{
	return virtio_net_has(features, VIRTIO_F_VERSION_1) || virtio_net_has(features, VIRTIO_NET_F_MRG_RXBUF) ?
		       (uint16_t)sizeof(struct virtio_net_header) :
		       VIRTIO_NET_HEADER_LEGACY;
}

/**
 * virtio_net_header_parse() - what the driver wants done with a frame that it sends (virtio 1.3 5.1.6.2).
 * @header:	local copy
 * @features:	negotiated
 * @length:	of the frame, without the header
 * @offload:	out: all offsets lie inside the frame
 *
 * Return: false when a field does not fit the frame, another field or what was negotiated.
 */
bool virtio_net_header_parse(const struct virtio_net_header *header, uint64_t features, uint32_t length,
			     struct frame_offload *offload);

/**
 * virtio_net_gso_fits() - is a frame with segmentation state of the protocol that its state says?
 * @frame:	with its offload state, and the header that was copied
 */
bool virtio_net_gso_fits(const struct frame *frame);

/**
 * virtio_net_header_build() - the header of a frame for a driver (virtio 1.3 5.1.6.4).
 * @frame:	one that the driver can take as it is
 * @checksum:	the driver has VIRTIO_NET_F_GUEST_CSUM, and did not switch it off
 * @buffers:	descriptor chains that the frame fills
 */
void virtio_net_header_build(const struct frame *frame, bool checksum, uint16_t buffers,
			     struct virtio_net_header *header);

#endif
