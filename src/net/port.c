/* SPDX-License-Identifier: BSD-3-Clause */
/* Ports: names and counters. */
#include "net/port.h"

static const char *const drop_names[PORT_DROPS] = {
	[PORT_DROP_RUNT] = "runt",
	[PORT_DROP_OVERSIZE] = "oversize",
	[PORT_DROP_BAD_OFFLOAD] = "bad-offload",
	[PORT_DROP_BAD_HEADER] = "bad-header",
	[PORT_DROP_SPOOFED_MAC] = "spoofed-mac",
	[PORT_DROP_SPOOFED_IPV4] = "spoofed-ipv4",
	[PORT_DROP_VLAN] = "vlan",
	[PORT_DROP_ISOLATED] = "isolated",
	[PORT_DROP_NO_DESTINATION] = "no-destination",
	[PORT_DROP_HAIRPIN] = "hairpin",
	[PORT_DROP_SOURCE_MULTICAST] = "source-multicast",
	[PORT_DROP_LINK_DOWN] = "link-down",
	[PORT_DROP_FULL] = "full",
	[PORT_DROP_BUSY] = "busy",
	[PORT_DROP_TOO_SMALL] = "too-small",
	[PORT_DROP_UPLINK_ERROR] = "uplink-error",
};

const char *port_drop_name(enum port_drop reason)
{
	return (unsigned)reason < PORT_DROPS ? drop_names[reason] : "unknown";
}

void port_read_counters(const struct port *port, struct port_counters *sum)
{
	*sum = (struct port_counters){ 0 };
	for (unsigned i = 0; i < SIDECORES_MAX; i++) {
		const uint64_t *from = (const uint64_t *)&port->counters[i];
		uint64_t *to = (uint64_t *)sum;

		for (unsigned j = 0; j < offsetof(struct port_counters, drops) / sizeof(*to) + PORT_DROPS; j++)
			to[j] += counter_read(&from[j]);
	}
}
