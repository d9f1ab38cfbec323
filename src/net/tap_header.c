/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/tap_header.h"

/* linux/virtio_net.h of 6.2 and later. */
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

static bool parse_gso(const struct virtio_net_hdr *header, struct frame_offload *offload)
{
	switch (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		offload->gso = FRAME_GSO_TCPV4;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		offload->gso = FRAME_GSO_TCPV6;
		break;
	case VIRTIO_NET_HDR_GSO_UDP:
		offload->gso = FRAME_GSO_UDP_FRAGMENT;
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		offload->gso = FRAME_GSO_UDP_SEGMENT;
		break;
	default:
		return false;
	}
	if (!header->gso_size || !offload->checksum_partial)
		return false;
	offload->ecn = header->gso_type & VIRTIO_NET_HDR_GSO_ECN;
	offload->gso_size = header->gso_size;
	offload->header_length = header->hdr_len;
	return true;
}

bool tap_header_parse(const struct virtio_net_hdr *header, uint32_t length, struct frame_offload *offload)
{
	*offload = (struct frame_offload){ 0 };
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if ((uint32_t)header->csum_start + header->csum_offset + 2 > length)
			return false;
		offload->checksum_partial = true;
		offload->checksum_start = header->csum_start;
		offload->checksum_offset = header->csum_offset;
	} else if (header->flags & VIRTIO_NET_HDR_F_DATA_VALID) {
		offload->checksum_valid = true;
	}
	return header->gso_type == VIRTIO_NET_HDR_GSO_NONE || parse_gso(header, offload);
}

void tap_header_build(const struct frame *frame, struct virtio_net_hdr *header)
{
	static const uint8_t gso_types[] = {
		[FRAME_GSO_NONE] = VIRTIO_NET_HDR_GSO_NONE,	     [FRAME_GSO_TCPV4] = VIRTIO_NET_HDR_GSO_TCPV4,
		[FRAME_GSO_TCPV6] = VIRTIO_NET_HDR_GSO_TCPV6,	     [FRAME_GSO_UDP_FRAGMENT] = VIRTIO_NET_HDR_GSO_UDP,
		[FRAME_GSO_UDP_SEGMENT] = VIRTIO_NET_HDR_GSO_UDP_L4,
	};
	const struct frame_offload *offload = &frame->offload;
	uint32_t hint = offload->header_length;

	*header = (struct virtio_net_hdr){ 0 };
	if (offload->checksum_partial) {
		header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		header->csum_start = offload->checksum_start;
		header->csum_offset = offload->checksum_offset;
	} else if (offload->checksum_valid) {
		header->flags = VIRTIO_NET_HDR_F_DATA_VALID;
	}
	if (offload->gso == FRAME_GSO_NONE)
		return;
	header->gso_type = gso_types[offload->gso] | (offload->ecn ? VIRTIO_NET_HDR_GSO_ECN : 0);
	header->gso_size = offload->gso_size;
	/*
	 * The kernel copies hdr_len bytes into the linear part of its buffer, and refuses more than there are. A hint
	 * that is too small only costs it time.
	 */
	if (!hint)
		hint = offload->checksum_start + (offload->gso <= FRAME_GSO_TCPV6 ? 20U : 8U);
	header->hdr_len = (uint16_t)min(min(hint, frame->length), (uint32_t)UINT16_MAX);
}
