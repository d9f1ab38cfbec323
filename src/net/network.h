/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network: a learning Ethernet switch between ports (IEEE 802.1D/Q as far as it concerns one host).
 *
 * Ports come and go on the control thread; sidecores forward. The table of ports is an array of atomic pointers, the
 * address table is of fixed size and read and written without locks (net/address_table.c has the argument).
 */
#ifndef NET_NETWORK_H
#define NET_NETWORK_H

#include <stdint.h>

#include "engine/engine.h"
#include "net/port.h"

#define NETWORK_PORTS_MAX 1024U

/** Frames that are forwarded at once; pollers use batches of this size. */
#define NETWORK_BATCH 64U

struct network_config {
	const char *name;
	uint32_t aging_seconds; /* of learned addresses; 0: 300 */
	uint64_t patience_ns;	/* how long a full receiver holds its senders back before frames are dropped; 0: 1 ms */
};

/** network_create() - Return: NULL when there is no memory. */
struct network *network_create(const struct network_config *config);
void network_destroy(struct network *network); /* all ports must be gone */

/** network_add_port() - Return: 0; -ENOSPC. The port is not up yet. */
int network_add_port(struct network *network, struct port *port);

/** network_remove_port() - unpublish; the caller then waits for engine_barrier() before it frees the port. */
void network_remove_port(struct network *network, struct port *port);

/**
 * network_forward() - the way through the switch for a batch.
 * @from:	port that the frames came from
 * @frames:	at most NETWORK_BATCH
 * @turn:	of the caller
 *
 * Frames are forwarded in order. A frame whose receiver is full or claimed ends the batch: it and those after it stay
 * the caller's (left in its ring, pending), until the network's patience with that receiver is over. So do those after
 * flooded frames that have cost the whole of @turn.
 *
 * Return: frames that are done with (delivered, or dropped with a counted reason).
 */
unsigned network_forward(struct port *from, struct frame *frames, unsigned count, const struct turn *turn);

/** network_forget_addresses() - forget what was learned from @port; nothing more is being sent from it. Control thread. */
void network_forget_addresses(struct port *port);

/** network_worker_create() - scratch memory of one sidecore (segmentation); goes into SIDECORE_SLOT_NET. */
struct network_worker *network_worker_create(void);
void network_worker_destroy(struct network_worker *worker);

/** struct network_address - one learned address, for status. */
struct network_address {
	uint8_t mac[6];
	uint16_t vlan;
	uint16_t port;
	uint32_t age_seconds;
};

/** network_read_addresses() - any thread: up to @count entries. Return: number of entries. */
unsigned network_read_addresses(const struct network *network, struct network_address *addresses, unsigned count);

#endif
