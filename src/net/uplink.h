/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Uplinks: ports that lead out of the network. One file each: tap, slirp (user-mode NAT), stream (QEMU's stream socket
 * protocol: 4 bytes length in network order, then the frame), null (swallows all), source (sends without end; bench).
 */
#ifndef NET_UPLINK_H
#define NET_UPLINK_H

#include <stdint.h>

#include "engine/engine.h"
#include "net/network.h"

enum uplink_type {
	UPLINK_NONE,
	UPLINK_SLIRP,
	UPLINK_TAP,
	UPLINK_STREAM,
	UPLINK_NULL,
	UPLINK_SOURCE,
};

struct uplink_config {
	enum uplink_type type;
	const char *name; /* of the network, for messages */

	/* tap */
	const char *interface; /* existing or to be made */
	unsigned queues;       /* multi-queue; 0: 1 */

	/* stream */
	const char *address; /* unix path, or host:port */
	bool listen;	     /* wait for the peer rather than connect; reconnects in both cases */

	/* slirp */
	const char *net4;      /* "10.0.2.0/24" by default; host .2, DHCP from .15, DNS .3 */
	bool restricted;       /* no way out, only to the host's services below */
	bool ipv6;
	const char *const *forwards; /* "tcp:127.0.0.1:2222-10.0.2.15:22", NULL terminated; may be NULL */

	/* source */
	uint32_t size; /* bytes of each frame; 0: 64 */
};

struct uplink;

/**
 * uplink_open() - make the uplink, add its port to @network, and attach its pollers. Control thread.
 * @error:	out, on failure: a sentence for the operator with the remedy; static or owned by the uplink code
 *
 * Return: 0 or a negative errno; -EPERM and such for taps come with their remedy in @error.
 */
int uplink_open(const struct uplink_config *config, struct engine *engine, struct network *network,
		struct uplink **uplink, const char **error);

/** uplink_close() - detach, remove, and free after the barrier; @completion is told at the end. */
void uplink_close(struct uplink *uplink, struct engine_completion *completion);

struct port *uplink_port(struct uplink *uplink);

/** uplink_state() - for status: "connected", "waiting for the peer", ... */
const char *uplink_state(const struct uplink *uplink);

#endif
