/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/slirp_config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define NET4_DEFAULT "10.0.2.0/24"
#define MTU	     1500U

/* The last part of the addresses, as in QEMU's user network. */
#define HOST_PART	 2U
#define NAME_SERVER_PART 3U
#define DHCP_PART	 15U
#define PREFIX_MAX	 27U /* smaller networks have no such address for DHCP */

static struct in_addr address_in(uint32_t network, uint32_t part)
{
	return (struct in_addr){ htonl(network | part) };
}

static bool parse_net4(const char *text, SlirpConfig *slirp)
{
	uint32_t network, mask;
	struct in_addr address;
	unsigned prefix;
	char host[16];
	int end = 0;

	if (sscanf(text, "%15[0-9.]/%2u%n", host, &prefix, &end) != 2 || text[end] || !inet_aton(host, &address))
		return false;
	if (prefix < 8 || prefix > PREFIX_MAX)
		return false;
	network = ntohl(address.s_addr);
	mask = UINT32_MAX << (32 - prefix);
	if (network & ~mask)
		return false;
	slirp->vnetwork = address_in(network, 0);
	slirp->vnetmask.s_addr = htonl(mask);
	slirp->vhost = address_in(network, HOST_PART);
	slirp->vnameserver = address_in(network, NAME_SERVER_PART);
	slirp->vdhcp_start = address_in(network, DHCP_PART);
	return true;
}

int slirp_config_make(const struct uplink_config *config, SlirpConfig *slirp, const char **error)
{
	*slirp = (SlirpConfig){
		.version = 4,
		.restricted = config->restricted,
		.in_enabled = true,
		.in6_enabled = config->ipv6,
		.vprefix_len = 64,
		.if_mtu = MTU,
		.if_mru = MTU,
	};
	inet_pton(AF_INET6, "fec0::", &slirp->vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &slirp->vhost6);
	inet_pton(AF_INET6, "fec0::3", &slirp->vnameserver6);
	if (!parse_net4(config->net4 ? config->net4 : NET4_DEFAULT, slirp)) {
		*error = "net4 must be a network such as 10.0.2.0/24, with a prefix of 8 to 27 bits and no bits after "
			 "it";
		return -EINVAL;
	}
	for (const char *const *forward = config->forwards; forward && *forward; forward++) {
		struct slirp_forward parsed;

		if (!slirp_forward_parse(*forward, &parsed)) {
			*error =
				"a forward must look like tcp:127.0.0.1:2222-10.0.2.15:22 (tcp or udp, IPv4 addresses)";
			return -EINVAL;
		}
	}
	return 0;
}

bool slirp_forward_parse(const char *text, struct slirp_forward *forward)
{
	unsigned host_port, guest_port;
	char host[16], guest[16];
	int end = 0;

	if (!strncmp(text, "tcp:", 4))
		forward->udp = false;
	else if (!strncmp(text, "udp:", 4))
		forward->udp = true;
	else
		return false;
	text += 4;
	if (sscanf(text, "%15[0-9.]:%5u-%15[0-9.]:%5u%n", host, &host_port, guest, &guest_port, &end) != 4 || text[end])
		return false;
	if (!inet_aton(host, &forward->host) || !inet_aton(guest, &forward->guest))
		return false;
	if (!host_port || host_port > UINT16_MAX || !guest_port || guest_port > UINT16_MAX)
		return false;
	forward->host_port = (uint16_t)host_port;
	forward->guest_port = (uint16_t)guest_port;
	return true;
}
