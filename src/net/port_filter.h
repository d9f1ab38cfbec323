/* SPDX-License-Identifier: BSD-3-Clause */
/* What a port may send and receive: VLANs, anti-spoofing. Theory of operation: net/port_filter.c. */
#ifndef NET_PORT_FILTER_H
#define NET_PORT_FILTER_H

#include "net/frame.h"
#include "net/port.h"

/** What port_filter_in() returns for a frame that may pass. */
#define PORT_PASS PORT_DROPS

/**
 * port_filter_in() - may @frame, which came from @port, enter the network? Sets its vlan, priority and tagged.
 *
 * A tag that means nothing on the port (priority tag, VLAN 0) is removed from the frame.
 *
 * Return: PORT_PASS or the reason why not.
 */
enum port_drop port_filter_in(const struct port *port, struct frame *frame);

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
