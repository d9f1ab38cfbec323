/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What an endpoint asks of its network card's driver, whatever the card is: virtio-net over vhost-user, or one of Intel's
 * over vfio-user. The functions are chosen once and move batches, so that they cost next to nothing for a frame.
 */
#ifndef CLIENT_NET_DRIVER_H
#define CLIENT_NET_DRIVER_H

#include "client/client_memory.h"
#include "client/driver_buffer.h"

#include <stdbool.h>
#include <stdint.h>

#define NET_DRIVER_EVENTS   2
#define NET_DRIVER_MTU_ROOM 1526u /* an Ethernet frame with a VLAN tag, and some */

struct net_endpoint_options;
struct net_driver;

/**
 * struct net_buffers - where the endpoint has put its buffers, in guest memory.
 * @tx:		the first transmit buffer: header and frame
 * @tx_stride:	distance of two of them
 * @tx_size:	bytes to send of each
 * @rx:		the first receive buffer
 * @rx_stride:	distance of two of them
 */
struct net_buffers {
	uint8_t *tx;
	uint32_t tx_stride;
	uint32_t tx_size;
	uint8_t *rx;
	uint32_t rx_stride;
};

/**
 * struct net_driver_ops - a kind of card.
 * @header:	bytes in front of each frame
 * @segments:	frames longer than the MTU arrive cut into TCP segments
 * @attach:	connect; the numbers of buffers and their size are known after that
 * @start:	take the buffers, start the queues, give all receive buffers to the card if that is wanted
 * @send:	send buffers, at once. Return: 0, or a negative errno
 * @reap:	collect buffers that were sent. Return: how many; a negative errno
 * @receive:	collect what was received; DRIVER_BUFFER_MORE in a length: the frame goes on. Return: how many; a
 * negative errno
 * @refill:	give receive buffers back, in the order in which they were collected. Return: 0, or a negative errno
 * @arm:	ask to be told by an eventfd. Return: 1 if something is there already, 0, or a negative errno
 * @disarm:	go on by polling; @signalled has a bit for each eventfd that was signalled. Return: 0, or a negative
 * errno
 * @detach:	what attach has seen, and free the driver
 */
struct net_driver_ops {
	uint32_t header;
	bool segments;
	int (*attach)(struct net_driver *driver);
	int (*start)(struct net_driver *driver, const struct net_buffers *buffers);
	int (*send)(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count);
	int (*reap)(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count);
	int (*receive)(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count);
	int (*refill)(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count);
	int (*arm)(struct net_driver *driver);
	int (*disarm)(struct net_driver *driver, uint64_t signalled);
	void (*detach)(struct net_driver *driver);
};

/**
 * struct net_driver - a card and its driver.
 * @ops:	its kind
 * @options:	of the endpoint
 * @memory:	guest memory, after attach
 * @tx_count:	transmit buffers, after attach
 * @rx_count:	receive buffers, after attach
 * @rx_size:	bytes of a receive buffer, after attach
 * @events:	after start: signalled when armed; -1: none
 * @kicks:	notifications that were messages or system calls
 * @error:	the reason of a negative return, never NULL
 */
struct net_driver {
	const struct net_driver_ops *ops;
	const struct net_endpoint_options *options;
	struct client_memory *memory;
	uint16_t tx_count;
	uint16_t rx_count;
	uint32_t rx_size;
	int events[NET_DRIVER_EVENTS];
	uint64_t kicks;
	const char *error;
};

struct net_driver *net_virtio_create(const struct net_endpoint_options *options);
struct net_driver *net_intel_create(const struct net_endpoint_options *options);

#endif
