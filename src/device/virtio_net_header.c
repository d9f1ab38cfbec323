/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net's frame header, checked on the way in, made on the way out. See device/virtio_net_header.h.
 *
 * Segmentation is checked against the frame's own headers as well: a receiver that takes the frame whole trusts the
 * type that it is told. Where the segment's payload begins is looked at by whoever cuts it (net/segment.c, or the
 * receiver).
 */
#include "device/virtio_net_header.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>

static bool parse_gso(const struct virtio_net_header *header, uint64_t features, struct frame_offload *offload)
{
	bool ecn = header->gso_type & VIRTIO_NET_HDR_GSO_ECN;
	enum virtio_net_feature needed;

	switch (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
		needed = VIRTIO_NET_F_HOST_TSO4;
		offload->gso = FRAME_GSO_TCPV4;
		break;
	case VIRTIO_NET_HDR_GSO_TCPV6:
		needed = VIRTIO_NET_F_HOST_TSO6;
		offload->gso = FRAME_GSO_TCPV6;
		break;
	case VIRTIO_NET_HDR_GSO_UDP:
		needed = VIRTIO_NET_F_HOST_UFO;
		offload->gso = FRAME_GSO_UDP_FRAGMENT;
		break;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		needed = VIRTIO_NET_F_HOST_USO;
		offload->gso = FRAME_GSO_UDP_SEGMENT;
		break;
	default:
		return false;
	}
	if (!virtio_net_has(features, needed))
		return false;
	if (ecn && (needed == VIRTIO_NET_F_HOST_UFO || needed == VIRTIO_NET_F_HOST_USO ||
		    !virtio_net_has(features, VIRTIO_NET_F_HOST_ECN)))
		return false;
	/* Segments need new checksums, so the driver leaves them to us (5.1.6.2.1); and they are of some size. */
	if (!offload->checksum_partial || !header->gso_size)
		return false;
	offload->ecn = ecn;
	offload->gso_size = header->gso_size;
	offload->header_length = header->hdr_len;
	return true;
}

bool virtio_net_header_parse(const struct virtio_net_header *header, uint64_t features, uint32_t length,
			     struct frame_offload *offload)
{
	*offload = (struct frame_offload){ 0 };
	/* Other flags mean something towards the driver only; the device ignores them (5.1.6.2.2). */
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		if (!virtio_net_has(features, VIRTIO_NET_F_CSUM) ||
		    (uint32_t)header->csum_start + header->csum_offset + 2 > length)
			return false;
		offload->checksum_partial = true;
		offload->checksum_start = header->csum_start;
		offload->checksum_offset = header->csum_offset;
	}
	if (likely(header->gso_type == VIRTIO_NET_HDR_GSO_NONE))
		return true;
	return parse_gso(header, features, offload);
}

static uint16_t field16(const struct frame *frame, uint32_t offset)
{
	uint16_t field;

	memcpy(&field, frame->header + offset, sizeof(field));
	return ntohs(field);
}

/* The protocol above IP as the first header names it; IPv6 extension headers are not followed. */
static bool protocol_possible(uint16_t ether_type, uint8_t protocol, uint8_t wanted)
{
	if (ether_type == ETH_P_IP)
		return protocol == wanted;
	return protocol != (wanted == IPPROTO_TCP ? IPPROTO_UDP : IPPROTO_TCP);
}

bool virtio_net_gso_fits(const struct frame *frame)
{
	const struct frame_offload *offload = &frame->offload;
	bool tcp = offload->gso == FRAME_GSO_TCPV4 || offload->gso == FRAME_GSO_TCPV6;
	uint16_t ether_type, checksum = tcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check);
	uint32_t network = ETH_HLEN;

	if (frame->header_length < ETH_HLEN + 2 * 4 + 20)
		return false; /* two tags and an IPv4 header: no segment is shorter */
	ether_type = field16(frame, 12);
	for (unsigned tags = 0; tags < 2 && (ether_type == ETH_P_8021Q || ether_type == ETH_P_8021AD); tags++) {
		ether_type = field16(frame, network + 2);
		network += 4;
	}
	if ((ether_type != ETH_P_IP && ether_type != ETH_P_IPV6) || offload->checksum_offset != checksum)
		return false;
	if ((offload->gso == FRAME_GSO_TCPV4 && ether_type != ETH_P_IP) ||
	    (offload->gso == FRAME_GSO_TCPV6 && ether_type != ETH_P_IPV6))
		return false;
	return protocol_possible(ether_type, frame->header[network + (ether_type == ETH_P_IP ? 9U : 6U)],
				 tcp ? IPPROTO_TCP : IPPROTO_UDP);
}

void virtio_net_header_build(const struct frame *frame, bool checksum, uint16_t buffers,
			     struct virtio_net_header *header)
{
	static const uint8_t gso_types[] = {
		[FRAME_GSO_NONE] = VIRTIO_NET_HDR_GSO_NONE,
		[FRAME_GSO_TCPV4] = VIRTIO_NET_HDR_GSO_TCPV4,
		[FRAME_GSO_TCPV6] = VIRTIO_NET_HDR_GSO_TCPV6,
		[FRAME_GSO_UDP_FRAGMENT] = VIRTIO_NET_HDR_GSO_UDP,
		[FRAME_GSO_UDP_SEGMENT] = VIRTIO_NET_HDR_GSO_UDP_L4,
	};
	const struct frame_offload *offload = &frame->offload;
	uint32_t hint = offload->header_length;

	*header = (struct virtio_net_header){ .num_buffers = buffers };
	if (offload->checksum_partial) {
		header->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		header->csum_start = offload->checksum_start;
		header->csum_offset = offload->checksum_offset;
	} else if (offload->checksum_valid && checksum) {
		header->flags = VIRTIO_NET_HDR_F_DATA_VALID;
	}
	if (likely(offload->gso == FRAME_GSO_NONE))
		return;

	header->gso_type = gso_types[offload->gso] | (offload->ecn ? VIRTIO_NET_HDR_GSO_ECN : 0);
	header->gso_size = offload->gso_size;
	/* A hint (5.1.6.4.1), as the sender gave it or the least that the headers can have; never past the frame. */
	if (!hint)
		hint = offload->checksum_start + (offload->gso <= FRAME_GSO_TCPV6 ? 20U : 8U);
	header->hdr_len = (uint16_t)min(min(hint, frame->length), (uint32_t)UINT16_MAX);
}
