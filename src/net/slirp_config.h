/* SPDX-License-Identifier: BSD-3-Clause */
/* From an uplink's configuration to libslirp's. Pure text and numbers, no sockets. */
#ifndef NET_SLIRP_CONFIG_H
#define NET_SLIRP_CONFIG_H

#include <libslirp.h>

#include "net/uplink.h"

/** struct slirp_forward - "tcp:127.0.0.1:2222-10.0.2.15:22" */
struct slirp_forward {
	bool udp;
	struct in_addr host, guest;
	uint16_t host_port, guest_port;
};

/**
 * slirp_config_make() - Return: 0 or -EINVAL with @error.
 * @error:	out, on failure: for the operator; constant
 */
int slirp_config_make(const struct uplink_config *config, SlirpConfig *slirp, const char **error);

/** slirp_forward_parse() - Return: false when @text is not such a forward. */
bool slirp_forward_parse(const char *text, struct slirp_forward *forward);

#endif
