/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_NET_LOAD_H
#define CLIENT_NET_LOAD_H

#include "client/load_clock.h"
#include "client/net_endpoint.h"

#define NET_LOAD_WINDOW_RING UINT32_MAX

/**
 * enum net_load_mode - which way frames go.
 * @NET_LOAD_TX:	guest to host: send on the first card
 * @NET_LOAD_RX:	host to guest: receive on the first card
 * @NET_LOAD_FORWARD:	guest to guest: send on the first card, receive on the second; both ways if asked
 */
enum net_load_mode {
	NET_LOAD_TX,
	NET_LOAD_RX,
	NET_LOAD_FORWARD,
};

/**
 * struct net_load_options - a load.
 * @mode:	which way
 * @endpoint:	both cards alike: device, socket, addresses and the use of queues come from the fields below
 * @devices:	what the cards are
 * @sockets:	their sockets; the second one for forwarding only
 * @addresses:	MAC addresses of the cards
 * @both_ways:	forwarding: also from the second card to the first
 * @window:	forwarding: frames under way at most in each direction; 0 sends as fast as the server takes;
 *		NET_LOAD_WINDOW_RING: as many as the receiver has buffers for
 * @seconds:	measured time
 * @warm_up:	time before that
 */
struct net_load_options {
	enum net_load_mode mode;
	struct net_endpoint_options endpoint;
	enum net_endpoint_device devices[2];
	const char *sockets[2];
	uint8_t addresses[2][NET_ENDPOINT_ADDRESS_LEN];
	bool both_ways;
	uint32_t window;
	double seconds;
	double warm_up;
};

/**
 * struct net_load_result - what came of it; counters are of the measured time, except for the last six.
 * @seconds:		measured time
 * @frames:		frames that arrived: taken by the host, or received by us
 * @bytes:		their bytes
 * @polls:		what our loop did
 * @cycles_per_frame:	our own work, cycles
 * @busy_share:		fraction of our turns that found work
 * @kicks:		kicks asked for, and doorbells that were messages
 * @waits:		interrupts that we slept for
 * @sent:		frames sent, whole run
 * @lost:		forwarding: frames that never arrived, of those sent after each path first worked
 * @unexpected:		forwarding: frames of a length that nobody sent
 * @checked:		frames whose content was compared
 * @corrupt:		of those, frames that were wrong
 * @reordered:		sampled frames out of order, or doubled
 * @error:		the reason in words after a negative return
 */
struct net_load_result {
	double seconds;
	uint64_t frames;
	uint64_t bytes;
	struct load_polls polls;
	double cycles_per_frame;
	double busy_share;
	uint64_t kicks;
	uint64_t waits;
	uint64_t sent;
	uint64_t lost;
	uint64_t unexpected;
	uint64_t checked;
	uint64_t corrupt;
	uint64_t reordered;
	char error[192];
};

int net_load_run(const struct net_load_options *options, const struct load_hooks *hooks,
		 struct net_load_result *result);

#endif
