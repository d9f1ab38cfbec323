/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net device model (virtio 1.3 5.1). Theory of operation: device/virtio_net.c. */
#ifndef DEVICE_VIRTIO_NET_H
#define DEVICE_VIRTIO_NET_H

#include "device/virtio_device.h"
#include "net/network.h"

struct virtio_net_config_options {
	const char *name;
	uint8_t mac[6];
	uint16_t queue_pairs; /* 1 to 8 */
	uint16_t mtu;	      /* 0: 1500 and not announced */
	uint16_t queue_size_max; /* 0: 1024 */
	bool isolated, check_mac;
	uint8_t ipv4_count;
	uint32_t ipv4[PORT_IPV4_MAX];
	struct port_vlan vlan;
	uint64_t features_off; /* virtio feature bits not to offer (tests, comparisons) */
	int sidecore; /* -1: any */
};

/** virtio_net_create() - make the device and its port on @network. Return: 0, -ENOMEM, -ENOSPC. */
int virtio_net_create(const struct virtio_net_config_options *options, struct engine *engine, struct network *network,
		      struct virtio_device **device);

/** virtio_net_destroy() - all queues are stopped; @completion runs when it is freed. */
void virtio_net_destroy(struct virtio_device *device, struct engine_completion *completion);

struct port *virtio_net_port(struct virtio_device *device);

#endif
