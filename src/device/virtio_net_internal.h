/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-net's own parts: transmit, receive and control queues. Theory of operation: device/virtio_net.c. */
#ifndef DEVICE_VIRTIO_NET_INTERNAL_H
#define DEVICE_VIRTIO_NET_INTERNAL_H

#include "device/virtio_net.h"
#include "device/virtio_net_header.h"

#define VIRTIO_NET_PAIRS_MAX 8U

/** Flows that receive steering tells apart. */
#define VIRTIO_NET_FLOWS 1024U
#define VIRTIO_NET_FLOW_UNKNOWN UINT8_MAX

#define VIRTIO_NET_S_LINK_UP  1U
#define VIRTIO_NET_S_ANNOUNCE 2U

enum virtio_net_queue_kind {
	VIRTIO_NET_QUEUE_RECEIVE,
	VIRTIO_NET_QUEUE_TRANSMIT,
	VIRTIO_NET_QUEUE_CONTROL,
	VIRTIO_NET_QUEUE_NONE,
};

/**
 * struct virtio_net - the device.
 * @header_size, @mergeable:	of what was negotiated; constant while queues run
 * @receivers:			bitmap of the pairs whose receive queue may be used; changed by the control thread
 * @pairs_enabled:		by the driver through our control queue; else all
 * @touched:			under the port's claim: pairs used since the last flush
 * @flows:			pair on which the driver last sent each flow; a hint, relaxed
 * @status:			of the configuration space
 */
struct virtio_net {
	struct virtio_device device;
	struct network *network;
	uint16_t header_size;
	bool mergeable;
	uint16_t queue_pairs;
	atomic_uint receivers;
	atomic_uint pairs_enabled;
	uint32_t touched;
	atomic_uchar flows[VIRTIO_NET_FLOWS];

	uint8_t mac[6]; /* as the driver set it; the port's own is what anti-spoofing checks */
	uint16_t mtu;
	atomic_ushort status;

	struct sidecore_message announce_message;
	atomic_bool announce_pending;
	uint8_t announce_mac[6];

	struct engine_completion removal;
	struct engine_completion *removed;

	struct port port;
};

static inline struct virtio_net *virtio_net_of(const struct virtio_device *device)
{
	return container_of(device, struct virtio_net, device);
}

/* device/virtio_net_transmit.c */
int virtio_net_transmit_start(struct virtio_queue *queue);
unsigned virtio_net_transmit_poll(struct virtio_queue *queue, const struct turn *turn);

/* device/virtio_net_receive.c */
extern const struct port_ops virtio_net_port_ops;
int virtio_net_receive_start(struct virtio_queue *queue);

/* device/virtio_net_control.c */
int virtio_net_control_start(struct virtio_queue *queue);
unsigned virtio_net_control_poll(struct virtio_queue *queue, const struct turn *turn);

/* device/virtio_net.c */

/** virtio_net_set_abilities() - what the driver takes, of @features; under the claim or while the port is not up. */
void virtio_net_set_abilities(struct virtio_net *net, uint64_t features);

#endif
