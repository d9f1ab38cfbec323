/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a port may send: VLAN membership (IEEE 802.1Q as far as it concerns access and trunk ports) and anti-spoofing.
 *
 * Theory of operation
 * -------------------
 * Inside the network a frame is in a VLAN, a number; whether its header copy carries the tag at the moment is a
 * property of the copy (frame->tagged), and changes on the way out to what the receiver takes.
 *
 *	mode	in, untagged		in, tagged v			out, for VLAN v
 *	NONE	VLAN 0, as it is	VLAN 0, tag is payload		VLAN 0 only, as it is
 *	ACCESS	its VLAN		dropped; v = 0: its VLAN	its VLAN only, untagged
 *	TRUNK	native; none: dropped	v when allowed; v = 0: native	allowed: tagged; native: untagged
 *
 * Only 0x8100 is a tag in this sense; service tags (0x88a8) are payload. VLAN 4095 is reserved and dropped.
 *
 * Anti-spoofing looks through up to two tags of either kind, since a NONE port carries them as payload and the receiver
 * may strip them; a port that is bound to IPv4 addresses may not send more than two. Checked are the Ethernet source,
 * the IPv4 source, and in ARP and RARP both sender addresses. Unspecified addresses pass where protocols need them: ARP
 * probes (RFC 5227 2.1.1), RARP, and DHCP requests, which are UDP from port 68 to port 67 (RFC 2131 4.1).
 *
 * All of it is decided upon the header copy, which is what will be delivered. A partial checksum is the one thing that is
 * written into it later, here or by the receiver, and its value is the sender's choice: so its field must lie behind
 * whatever has been checked.
 *
 * Context: pure functions of a frame and of configuration that is constant while the port is in the network.
 */
#include "net/port_filter.h"

enum {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_RARP = 0x8035,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_QINQ = 0x88a8,

	VLAN_RESERVED = 4095,
	PROTOCOL_UDP = 17,
	DHCP_SERVER = 67,
	DHCP_CLIENT = 68,
};

/* May a checksum be written into the first @length bytes of the frame? */
static bool checksum_within(const struct frame *frame, unsigned length)
{
	const struct frame_offload *offload = &frame->offload;

	return offload->checksum_partial && (uint32_t)offload->checksum_start + offload->checksum_offset < length;
}

/* Only while @frame has not been looked at by anybody else: sets where the frame is. */
static enum port_drop filter_vlan(const struct port *port, struct frame *frame)
{
	uint16_t tci, vlan;

	frame->vlan = 0;
	frame->priority = 0;
	frame->tagged = false;
	if (port->vlan.mode == PORT_VLAN_NONE)
		return PORT_PASS;

	if (frame_load16(frame, FRAME_TAG_OFFSET) == ETHERTYPE_VLAN) {
		if (frame->header_length < FRAME_LENGTH_MIN + FRAME_TAG_LENGTH)
			return PORT_DROP_RUNT;
		/* Nothing to be summed begins inside the link header, nor may it when the tag is taken away. */
		if (frame->offload.checksum_partial &&
		    frame->offload.checksum_start < FRAME_LENGTH_MIN + FRAME_TAG_LENGTH)
			return PORT_DROP_BAD_OFFLOAD;
		tci = frame_load16(frame, FRAME_LENGTH_MIN);
		vlan = tci & 0xfff;
		frame->priority = tci & 0xf000;
		if (vlan) {
			if (port->vlan.mode == PORT_VLAN_ACCESS || vlan == VLAN_RESERVED ||
			    !port_vlan_member(port, vlan))
				return PORT_DROP_VLAN;
			frame->vlan = vlan;
			frame->tagged = true;
			return PORT_PASS;
		}
		frame_remove_tag(frame);
	}
	if (port->vlan.mode == PORT_VLAN_TRUNK && !port->vlan.vlan)
		return PORT_DROP_VLAN;
	frame->vlan = port->vlan.vlan;
	return PORT_PASS;
}

static bool ipv4_allowed(const struct port *port, const uint8_t *address)
{
	uint32_t value;

	memcpy(&value, address, sizeof(value));
	for (unsigned i = 0; i < port->ipv4_count; i++) {
		if (port->ipv4[i] == value)
			return true;
	}
	return false;
}

static bool unspecified(const uint8_t *address)
{
	return !(address[0] | address[1] | address[2] | address[3]);
}

static enum port_drop filter_arp(const struct port *port, const struct frame *frame, unsigned at)
{
	const uint8_t *arp = frame->header + at;

	/* Ethernet and IPv4 (RFC 826): 8 bytes, then sender's and target's addresses. */
	if (at + 28 > frame->header_length || arp[4] != 6 || arp[5] != 4)
		return port->ipv4_count ? PORT_DROP_SPOOFED_IPV4 : PORT_DROP_SPOOFED_MAC;
	if (port->check_mac && memcmp(arp + 8, port->mac, 6) != 0)
		return PORT_DROP_SPOOFED_MAC;
	if (port->ipv4_count && !unspecified(arp + 14) && !ipv4_allowed(port, arp + 14))
		return PORT_DROP_SPOOFED_IPV4;
	return checksum_within(frame, at + 28) ? PORT_DROP_BAD_OFFLOAD : PORT_PASS;
}

static enum port_drop filter_ipv4(const struct port *port, const struct frame *frame, unsigned at)
{
	const uint8_t *ip = frame->header + at;
	unsigned ports;

	if (at + 20 > frame->header_length)
		return PORT_DROP_SPOOFED_IPV4;
	if (checksum_within(frame, at + 20))
		return PORT_DROP_BAD_OFFLOAD;
	if (ipv4_allowed(port, ip + 12))
		return PORT_PASS;
	ports = at + (ip[0] & 15U) * 4;
	if (unspecified(ip + 12) && ip[9] == PROTOCOL_UDP && ports + 4 <= frame->header_length &&
	    frame_load16(frame, ports) == DHCP_CLIENT && frame_load16(frame, ports + 2) == DHCP_SERVER)
		return PORT_PASS;
	return PORT_DROP_SPOOFED_IPV4;
}

static enum port_drop filter_spoofed(const struct port *port, const struct frame *frame)
{
	unsigned at = FRAME_TAG_OFFSET;
	uint16_t type;

	if (port->check_mac && memcmp(frame->header + FRAME_SOURCE_OFFSET, port->mac, 6) != 0)
		return PORT_DROP_SPOOFED_MAC;

	type = frame_load16(frame, at);
	for (unsigned tags = 0; type == ETHERTYPE_VLAN || type == ETHERTYPE_QINQ; tags++) {
		at += FRAME_TAG_LENGTH;
		if (tags == 2 || at + 2 > frame->header_length)
			return port->ipv4_count ? PORT_DROP_SPOOFED_IPV4 : PORT_PASS;
		type = frame_load16(frame, at);
	}
	at += 2;

	/* What was a harmless type until now must not become IPv4 or ARP. */
	if (checksum_within(frame, at))
		return PORT_DROP_BAD_OFFLOAD;
	if (type == ETHERTYPE_ARP || type == ETHERTYPE_RARP)
		return filter_arp(port, frame, at);
	if (type == ETHERTYPE_IPV4 && port->ipv4_count)
		return filter_ipv4(port, frame, at);
	return PORT_PASS;
}

enum port_drop port_filter_bound(const struct port *port, struct frame *frame)
{
	enum port_drop reason = filter_vlan(port, frame);

	if (unlikely(reason != PORT_PASS))
		return reason;
	if (port->check_mac || port->ipv4_count)
		return filter_spoofed(port, frame);
	return PORT_PASS;
}
