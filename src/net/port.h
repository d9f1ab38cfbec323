/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A port of a network: a guest's NIC, or an uplink (tap, user-mode NAT, stream socket). Frames enter a network with
 * network_forward() and leave it through a port's @transmit, on the sidecore of the sender.
 *
 * A receiver may therefore be used by several sidecores. Each port that is not made for that is guarded by a *claim*: a
 * test-and-set that a sender takes for a batch and never waits for; who does not get it keeps its frames in its own
 * ring and goes on with other work. With one sidecore the claim is never contended.
 *
 * Counters are per sidecore, so that no cache line is shared; status adds them up.
 */
#ifndef NET_PORT_H
#define NET_PORT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/counter.h"
#include "engine/engine.h"
#include "net/frame.h"

struct network;
struct port;

/** Why a frame was lost. Names for people: port_drop_name(). Receiver-side reasons are counted at the receiver. */
enum port_drop {
	PORT_DROP_RUNT,		  /* shorter than an Ethernet header */
	PORT_DROP_OVERSIZE,	  /* longer than FRAME_LENGTH_MAX, or than the receiver can take */
	PORT_DROP_BAD_OFFLOAD,	  /* offload fields that do not fit the frame */
	PORT_DROP_BAD_HEADER,	  /* cannot be segmented: headers are not what the offload fields say */
	PORT_DROP_SPOOFED_MAC,	  /* anti-spoofing: source MAC is not the port's */
	PORT_DROP_SPOOFED_IPV4,	  /* anti-spoofing: source IPv4 address (or ARP sender) is not the port's */
	PORT_DROP_VLAN,		  /* VLAN not allowed on the port */
	PORT_DROP_ISOLATED,	  /* both ports are isolated */
	PORT_DROP_NO_DESTINATION, /* network has no other port */
	PORT_DROP_HAIRPIN,	  /* destination is behind the port it came from */
	PORT_DROP_SOURCE_MULTICAST, /* source address is a group address */
	PORT_DROP_LINK_DOWN,	  /* receiver not started */
	PORT_DROP_FULL,		  /* receiver had no room for longer than the patience allows */
	PORT_DROP_BUSY,		  /* flood: receiver was claimed by another sidecore all the time */
	PORT_DROP_TOO_SMALL,	  /* receive buffers cannot hold the frame */
	PORT_DROP_UPLINK_ERROR,	  /* the uplink's system call failed */
	PORT_DROPS,
};

const char *port_drop_name(enum port_drop reason);

/** struct port_counters - one sidecore's view. "in": into the network (sent by the guest), "out": delivered to the port. */
struct port_counters {
	uint64_t in_frames, in_bytes;
	uint64_t out_frames, out_bytes;
	uint64_t flooded;	 /* frames from this port that were flooded */
	uint64_t segmented;	 /* GSO frames that had to be cut for this receiver */
	uint64_t coalesced;	 /* frames that came of these with several segments each (coalesce_max) */
	uint64_t checksummed;	 /* checksums computed for this receiver */
	uint64_t waits;		 /* times that a sender was held back because this receiver was full */
	uint64_t drops[PORT_DROPS];
} __attribute__((aligned(CACHE_LINE)));

/** What a receiver takes as it is; the rest is finished before. */
struct port_abilities {
	bool checksum; /* partial checksums (virtio GUEST_CSUM) */
	bool tso4, tso6, ecn, ufo, uso4, uso6;
};

struct port_ops {
	const char *kind; /* "virtio-net", "tap", ... */

	/**
	 * @transmit: deliver frames to the port, in order, as far as it has room. The caller holds the claim. Frames
	 * and what they refer to are the caller's, valid during the call only. What is delivered is counted here, as
	 * out_frames and out_bytes of port_counters(port, turn).
	 * @turn:	of the sender: sidecore and clock
	 *
	 * Return: frames dealt with (delivered, or dropped and counted by the port); fewer than @count when the port is
	 * full.
	 */
	unsigned (*transmit)(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn);

	/**
	 * @coalesce_max: NULL, or: how long frames may be that carry several segments of @frame, a TCP segment larger
	 * than the port's frames, as one packet; 0: it is to be cut as its sender said. The caller holds the claim, and
	 * delivers under the same one.
	 */
	uint32_t (*coalesce_max)(struct port *port, const struct frame *frame, const struct turn *turn);

	/** @flush: make the batch visible to the receiver and notify it once. The caller holds the claim. */
	void (*flush)(struct port *port, const struct turn *turn);
};

enum port_vlan_mode {
	PORT_VLAN_NONE,	  /* tags are not looked at: the port is on the untagged network, tags pass as payload */
	PORT_VLAN_ACCESS, /* frames in and out are untagged, inside they are in @vlan */
	PORT_VLAN_TRUNK,  /* tagged frames of the VLANs in @vlan_allowed; untagged ones are in the native @vlan (0: dropped) */
};

struct port_vlan {
	uint8_t mode; /* enum port_vlan_mode */
	uint16_t vlan;
	uint64_t allowed[64]; /* bitmap of 4096 */
};

#define PORT_IPV4_MAX 8

/** struct port - embedded in a NIC or an uplink. Configuration fields are set before network_add_port() and constant. */
struct port {
	const struct port_ops *ops;
	const char *name; /* the interface's or the network's name: live as long as the port */
	struct network *network;
	uint16_t number; /* in the network; set by network_add_port() */

	bool isolated;	     /* frames between two isolated ports are dropped */
	bool check_mac;	     /* anti-spoofing */
	uint8_t mac[6];	     /* the NIC's own; all zero for uplinks */
	uint8_t ipv4_count;  /* anti-spoofing when not 0 */
	uint32_t ipv4[PORT_IPV4_MAX]; /* network byte order */
	struct port_vlan vlan;

	struct port_abilities abilities; /* read and changed under the claim, or while the port is not up */
	atomic_bool up;			 /* frames may be delivered; cleared, then engine_barrier(), before anything is freed */
	atomic_flag claim;
	/* under the claim; how they are used: net/network_forward.c */
	uint64_t full_since;		 /* clock when it was last found full, and senders wait for it; 0: none does */
	uint64_t patience_spent;	 /* ns for which they waited, less what was earned by taking frames */

	struct port_counters counters[SIDECORES_MAX];
};

/** port_try_claim() - Return: true: the caller alone may use the port's receive side until port_release(). */
static inline bool port_try_claim(struct port *port)
{
	/* Acquire pairs with the release below: all that the last holder wrote to the receive side is seen. */
	return !atomic_flag_test_and_set_explicit(&port->claim, memory_order_acquire);
}

static inline void port_release(struct port *port)
{
	atomic_flag_clear_explicit(&port->claim, memory_order_release);
}

static inline struct port_counters *port_counters(struct port *port, const struct turn *turn)
{
	return &port->counters[sidecore_index(turn->sidecore)];
}

static inline void port_drop(struct port *port, const struct turn *turn, enum port_drop reason, unsigned count)
{
	counter_add(&port_counters(port, turn)->drops[reason], count);
}

/** port_read_counters() - any thread: the sum over all sidecores. */
void port_read_counters(const struct port *port, struct port_counters *sum);

#endif
