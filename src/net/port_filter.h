/* SPDX-License-Identifier: BSD-3-Clause */
/* What a port may send and receive: VLANs, anti-spoofing. Theory of operation: net/port_filter.c. */
#ifndef NET_PORT_FILTER_H
#define NET_PORT_FILTER_H

#include "net/frame.h"
#include "net/port.h"

/** What port_filter_in() returns for a frame that may pass. */
#define PORT_PASS PORT_DROPS

/** port_filter_open() - no VLAN, no anti-spoofing: port_filter_link() is all that there is to check. */
static inline bool port_filter_open(const struct port *port)
{
	return port->vlan.mode == PORT_VLAN_NONE && !port->check_mac && !port->ipv4_count;
}

/** port_filter_link() - what no port may send. Return: PORT_PASS or the reason why not. */
static inline enum port_drop port_filter_link(const struct frame *frame)
{
	if (unlikely(frame->length < FRAME_LENGTH_MIN))
		return PORT_DROP_RUNT;
	if (unlikely(frame->length > FRAME_LENGTH_MAX))
		return PORT_DROP_OVERSIZE;
	if (unlikely(frame->header[FRAME_SOURCE_OFFSET] & 1))
		return PORT_DROP_SOURCE_MULTICAST;
	/* Nothing to be summed begins inside the link header, nor so far behind it that a tag makes it wrap. */
	if (unlikely(frame->offload.checksum_partial &&
		     (frame->offload.checksum_start < FRAME_LENGTH_MIN ||
		      frame->offload.checksum_start > UINT16_MAX - FRAME_TAG_LENGTH)))
		return PORT_DROP_BAD_OFFLOAD;
	return PORT_PASS;
}

/**
 * port_filter_bound() - VLAN and anti-spoofing, for a frame that port_filter_link() lets pass. Sets its vlan, priority
 * and tagged.
 *
 * A tag that means nothing on the port (priority tag, VLAN 0) is removed from the frame.
 *
 * Return: PORT_PASS or the reason why not.
 */
enum port_drop port_filter_bound(const struct port *port, struct frame *frame);

/**
 * port_filter_in() - may @frame, which came from @port, enter the network? Sets its vlan, priority and tagged.
 * @open:	port_filter_open(), once for a batch
 *
 * Return: PORT_PASS or the reason why not.
 */
static inline enum port_drop port_filter_in(const struct port *port, bool open, struct frame *frame)
{
	enum port_drop reason = port_filter_link(frame);

	if (unlikely(reason != PORT_PASS))
		return reason;
	if (unlikely(!open))
		return port_filter_bound(port, frame);
	frame->vlan = 0;
	frame->priority = 0;
	frame->tagged = false;
	return PORT_PASS;
}

/** port_vlan_member() - do frames of @vlan go to this port at all? */
static inline bool port_vlan_member(const struct port *port, uint16_t vlan)
{
	switch (port->vlan.mode) {
	case PORT_VLAN_NONE:
		return vlan == 0;
	case PORT_VLAN_ACCESS:
		return vlan == port->vlan.vlan;
	default:
		return vlan && (vlan == port->vlan.vlan || (port->vlan.allowed[vlan / 64] >> vlan % 64 & 1));
	}
}

/** port_vlan_tag() - give @frame the tag, or take the tag away, that a member port sends it with. */
static inline void port_vlan_tag(const struct port *port, struct frame *frame)
{
	bool tagged = port->vlan.mode == PORT_VLAN_TRUNK && frame->vlan != port->vlan.vlan;

	if (likely(tagged == frame->tagged))
		return;
	if (tagged)
		frame_insert_tag(frame, frame->priority | frame->vlan);
	else
		frame_remove_tag(frame);
	frame->tagged = tagged;
}

#endif
