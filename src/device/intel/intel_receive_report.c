/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the card says of a received frame, by what registers ask for: hash, packet type, checksums.
 *
 * Context: under the claim of the port.
 */
#include "device/intel/intel_receive.h"
#include "net/checksum.h"

#define PROTOCOL_UDP 17U

void intel_terms_load(const struct intel_nic *nic, struct intel_terms *terms)
{
	uint32_t control = intel_load(nic, RCTL), frame_max = nic->variant->frame_max;

	terms->control = control;
	terms->checksums = intel_load(nic, RXCSUM);
	terms->tag_type = intel_load(nic, VET) & 0xffff;
	terms->check_sequence = control & RCTL_SECRC ? 0 : INTEL_FCS_LENGTH;
	terms->strips_tags = intel_load(nic, CTRL) & CTRL_VME;
	terms->hashes = intel_rss_enabled(nic);
	/* Else the place of the hash is that of a fragment's checksum. */
	terms->hash_reported = terms->checksums & RXCSUM_PCSD;
	terms->packet_types = nic->variant->generation == INTEL_82576;
	terms->queue = intel_rss_queue(nic, 0, 0);

	terms->length_max[0] = frame_max;
	terms->length_max[1] = frame_max;
	if (!(control & RCTL_LPE)) {
		terms->length_max[0] = 1514;
		terms->length_max[1] = 1518;
	} else if (nic->variant->generation == INTEL_82576) {
		terms->length_max[0] = min(max(intel_load(nic, RLPML) & 0x3fff, 64U), frame_max) - INTEL_FCS_LENGTH;
		terms->length_max[1] = terms->length_max[0] + FRAME_TAG_LENGTH;
	}
}

/* 82576 7.1.5.2: packet type. */
static uint16_t packet_type(const struct intel_flow *flow)
{
	uint16_t type = 0;

	if (flow->version == 4)
		type = flow->options ? 3 : 1;
	else if (flow->version == 6)
		type = flow->options ? 0xc : 4;
	if (flow->l4_offset)
		type |= flow->protocol == PROTOCOL_UDP ? 0x20 : 0x10;
	return type;
}

static uint32_t checksum_status(const struct intel_nic *nic, uint32_t control, const struct frame *frame,
				const struct intel_flow *flow)
{
	uint32_t status = 0, length;

	if (flow->version == 4 && control & RXCSUM_IPOFL) {
		length = (frame->header[flow->ip_offset] & 15U) * 4;
		if (flow->ip_offset + length <= frame->header_length) {
			status |= RXD_IPCS;
			if (unlikely(checksum_sum(frame->header + flow->ip_offset, length) != 0xffff))
				status |= RXD_EXTENDED_IPE;
		}
	}
	if (flow->l4_offset && frame->offload.checksum_valid && control & RXCSUM_TUOFL) {
		status |= RXD_TCPCS;
		if (flow->protocol == PROTOCOL_UDP && nic->variant->generation != INTEL_8254X)
			status |= RXD_UDPCS;
	}
	return status ? status : RXD_IXSM;
}

/* What there is to say of a frame, without its tag. Return: its queue. */
unsigned intel_describe(struct intel_nic *nic, const struct intel_terms *terms, const struct frame *frame,
			struct intel_report *report)
{
	unsigned queue = terms->queue;
	struct intel_flow flow;
	uint8_t type = 0;

	intel_flow_parse(frame, &flow);
	report->hash = 0;
	if (terms->hashes) {
		report->hash = intel_rss_hash(nic, frame, &flow, &type);
		queue = intel_rss_queue(nic, report->hash, type);
	}
	if (!terms->hash_reported)
		report->hash = 0;
	report->info = (uint16_t)(terms->packet_types ? type | packet_type(&flow) << 4 : type);
	report->status |= checksum_status(nic, terms->checksums, frame, &flow);
	return queue;
}
