/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A network as the control thread has it: the table of its ports, and the addresses that were learned.
 *
 * Theory of operation
 * -------------------
 * Ports come and go on the control thread: the table holds atomic pointers, and a port is freed only after
 * engine_barrier(), so what a sidecore read from the table is good until its round ends. A port has the lowest number
 * that is free, and port_limit only grows: who wants all ports looks at that many places. What was learned of a port
 * goes when it does, so that its number, and its next owner, get no frames that were meant for it.
 *
 * Context: the control thread, but for network_read_addresses(), which any thread may call. What sidecores do with a
 * network: network_forward.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "net/network_internal.h"

#define AGING_SECONDS 300U
#define PATIENCE_NS   NANOSECONDS_PER_MILLISECOND

struct network *network_create(const struct network_config *config)
{
	struct network *network = calloc(1, sizeof(*network));

	if (!network)
		return NULL;
	network->patience_ns = config->patience_ns ? config->patience_ns : PATIENCE_NS;
	network->addresses = address_table_create(config->aging_seconds ? config->aging_seconds : AGING_SECONDS);
	if (!network->addresses) {
		free(network);
		return NULL;
	}
	return network;
}

void network_destroy(struct network *network)
{
	if (!network)
		return;
	address_table_destroy(network->addresses);
	free(network);
}

int network_add_port(struct network *network, struct port *port)
{
	uint16_t number = 0;

	while (number < NETWORK_PORTS_MAX && atomic_load_explicit(&network->ports[number], memory_order_relaxed))
		number++;
	if (number == NETWORK_PORTS_MAX)
		return -ENOSPC;

	port->network = network;
	port->number = number;
	port->full_since = 0;
	port->patience_spent = 0;
	atomic_store_explicit(&port->up, false, memory_order_relaxed);
	atomic_flag_clear_explicit(&port->claim, memory_order_relaxed);
	/* Release: a sidecore that finds the port finds it as it was set up. */
	atomic_store_explicit(&network->ports[number], port, memory_order_release);
	if (number >= atomic_load_explicit(&network->port_limit, memory_order_relaxed))
		atomic_store_explicit(&network->port_limit, number + 1U, memory_order_release);
	return 0;
}

void network_remove_port(struct network *network, struct port *port)
{
	atomic_store_explicit(&port->up, false, memory_order_relaxed);
	atomic_store_explicit(&network->ports[port->number], NULL, memory_order_release);
	address_table_forget_port(network->addresses, port->number);
}

void network_forget_addresses(struct port *port)
{
	address_table_forget_port(port->network->addresses, port->number);
}

unsigned network_read_addresses(const struct network *network, struct network_address *addresses, unsigned count)
{
	struct address_table_entry *entries = calloc(count ? count : 1, sizeof(*entries));

	if (!entries)
		return 0;
	count = address_table_read(network->addresses, entries, count, clock_nanoseconds());
	for (unsigned i = 0; i < count; i++) {
		addresses[i].vlan = entries[i].vlan;
		addresses[i].port = entries[i].port;
		addresses[i].age_seconds = entries[i].age_seconds;
		memcpy(addresses[i].mac, entries[i].mac, sizeof(addresses[i].mac));
	}
	free(entries);
	return count;
}

struct network_worker *network_worker_create(void)
{
	struct network_worker *worker =
		aligned_alloc(CACHE_LINE, (sizeof(*worker) + CACHE_LINE - 1) & -(size_t)CACHE_LINE);

	if (!worker)
		return NULL;
	memset(worker, 0, sizeof(*worker));
	if (getrandom(&worker->identification, sizeof(worker->identification), 0) != sizeof(worker->identification)) {
		free(worker);
		return NULL;
	}
	return worker;
}

void network_worker_destroy(struct network_worker *worker)
{
	free(worker);
}
