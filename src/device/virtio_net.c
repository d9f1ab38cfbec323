/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net (virtio 1.3 5.1): the device model.
 *
 * Theory of operation
 * -------------------
 * A device is a port of a network. Its transmit queues are polled, each by the sidecore it belongs to, and lead into
 * network_forward() (virtio_net_transmit.c). Its receive queues are nobody's: whoever sends to the port uses them,
 * under the port's claim (virtio_net_receive.c), and they are neither polled nor kicked. The control queue exists only
 * where the front-end passes it on (virtio_net_control.c).
 *
 * Queue numbers (5.1.2): 2n receive, 2n + 1 transmit, and the control queue after the last pair: after the first one
 * when VIRTIO_NET_F_MQ was not negotiated. A front-end that keeps the control queue does not negotiate
 * VIRTIO_NET_F_CTRL_VQ with us, though it may negotiate VIRTIO_NET_F_MQ; then there is none, and all pairs that are
 * started are in use.
 *
 * Life of the port: it is up while at least one receive queue is published in @receivers. Stopping a receive queue
 * withdraws it first; after the engine's barrier no sidecore uses it, and its scratch memory is freed.
 *
 * Invariants
 * - Features, header size and mergeable change only while no queue runs.
 * - @receivers has a bit for exactly the receive queues between queue_running and queue_unpublish.
 *
 * Context: this file is the control thread's, apart from the announcement, which a sidecore sends.
 */
#include "device/virtio_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/virtio_net_internal.h"

#define QUEUE_SIZE_MAX 1024U
#define MTU_MIN	       68U /* virtio 1.3 5.1.4.1 */
#define MTU_DEFAULT    1500U

#define BIT(feature) (1ULL << (feature))

#define FEATURES                                                                                                       \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |               \
	 BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |                         \
	 BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_HOST_TSO4) |                     \
	 BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_HOST_UFO) |                       \
	 BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_CTRL_VQ) |                          \
	 BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |                   \
	 BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |                   \
	 BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VIRTIO_F_RING_INDIRECT_DESC) | BIT(VIRTIO_F_RING_EVENT_IDX) |                  \
	 BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_IN_ORDER) | BIT(VIRTIO_NET_F_GUEST_USO4) | \
	 BIT(VIRTIO_NET_F_GUEST_USO6) | BIT(VIRTIO_NET_F_HOST_USO))

/** struct net_config - configuration space (virtio 1.3 5.1.4), as far as the fields that our features make valid. */
struct net_config {
	uint8_t mac[6];
	uint16_t status;
	uint16_t max_virtqueue_pairs;
	uint16_t mtu;
} __attribute__((packed));

static enum virtio_net_queue_kind queue_kind(const struct virtio_net *net, uint16_t index)
{
	uint64_t features = net->device.acked_features;
	uint16_t pairs = virtio_net_has(features, VIRTIO_NET_F_MQ) ? net->queue_pairs : 1;

	if (virtio_net_has(features, VIRTIO_NET_F_CTRL_VQ)) {
		if (index == 2 * pairs)
			return VIRTIO_NET_QUEUE_CONTROL;
		if (index > 2 * pairs)
			return VIRTIO_NET_QUEUE_NONE;
	}
	if (index >= 2 * net->queue_pairs)
		return VIRTIO_NET_QUEUE_NONE;
	return index & 1 ? VIRTIO_NET_QUEUE_TRANSMIT : VIRTIO_NET_QUEUE_RECEIVE;
}

/* ---- Configuration space and features ---- */

static void config_read(struct virtio_device *device, uint32_t offset, void *to, uint32_t length)
{
	struct virtio_net *net = virtio_net_of(device);
	struct net_config config = {
		.status = atomic_load_explicit(&net->status, memory_order_relaxed),
		.max_virtqueue_pairs = net->queue_pairs,
		.mtu = net->mtu,
	};

	if (!range_inside(offset, length, sizeof(config)))
		return;
	for (unsigned i = 0; i < sizeof(config.mac); i++)
		config.mac[i] = __atomic_load_n(&net->mac[i], __ATOMIC_RELAXED);
	memcpy(to, (const uint8_t *)&config + offset, length);
}

/* Only legacy drivers may write here, and only the address (virtio 1.3 5.1.4). */
static int config_write(struct virtio_device *device, uint32_t offset, const void *from, uint32_t length)
{
	struct virtio_net *net = virtio_net_of(device);
	uint8_t mac[6];

	if (virtio_net_has(device->acked_features, VIRTIO_F_VERSION_1) || !range_inside(offset, length, sizeof(mac)))
		return -EINVAL;
	memcpy(mac, net->mac, sizeof(mac));
	memcpy(mac + offset, from, length);
	if (net->port.check_mac && memcmp(mac, net->port.mac, sizeof(mac)) != 0)
		return -EINVAL;
	memcpy(net->mac, mac, sizeof(mac));
	return 0;
}

void virtio_net_set_abilities(struct virtio_net *net, uint64_t features)
{
	/* All of them are of no use without GUEST_CSUM (5.1.3.1). */
	bool checksum = virtio_net_has(features, VIRTIO_NET_F_GUEST_CSUM);

	net->port.abilities = (struct port_abilities){
		.checksum = checksum,
		.tso4 = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_TSO4),
		.tso6 = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_TSO6),
		.ecn = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_ECN),
		.ufo = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_UFO),
		.uso4 = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_USO4),
		.uso6 = checksum && virtio_net_has(features, VIRTIO_NET_F_GUEST_USO6),
	};
}

static void use_features(struct virtio_net *net, uint64_t features)
{
	bool control = virtio_net_has(features, VIRTIO_NET_F_CTRL_VQ);

	net->device.acked_features = features;
	net->header_size = virtio_net_header_size(features);
	net->mergeable = virtio_net_has(features, VIRTIO_NET_F_MRG_RXBUF);
	virtio_net_set_abilities(net, features);
	/* A driver with a control queue begins with one pair, until it asks for more (5.1.5). */
	atomic_store_explicit(&net->pairs_enabled, control ? 1U : net->queue_pairs, memory_order_relaxed);
	for (unsigned i = 0; i < VIRTIO_NET_FLOWS; i++)
		atomic_store_explicit(&net->flows[i], VIRTIO_NET_FLOW_UNKNOWN, memory_order_relaxed);
}

static int features_acked(struct virtio_device *device, uint64_t features)
{
	if (features & ~device->features)
		return -EINVAL;
	/* Front-ends repeat them, also while queues run (to switch dirty logging), and that changes nothing here. */
	if (features != device->acked_features)
		use_features(virtio_net_of(device), features);
	return 0;
}

/*
 * The link is down, as for a cable that is pulled: the guest may turn up somewhere else (migration). Its addresses are
 * flooded until it does, else they would lead nowhere until it sends, or they age.
 */
static void rested(struct virtio_device *device)
{
	network_forget_addresses(&virtio_net_of(device)->port);
}

static void reset(struct virtio_device *device)
{
	struct virtio_net *net = virtio_net_of(device);

	rested(device);
	memcpy(net->mac, net->port.mac, sizeof(net->mac));
	atomic_store_explicit(&net->status, VIRTIO_NET_S_LINK_UP, memory_order_relaxed);
	use_features(net, 0);
}

static int set_mtu(struct virtio_device *device, uint16_t mtu)
{
	if (mtu < MTU_MIN)
		return -EINVAL;
	virtio_net_of(device)->mtu = mtu;
	return 0;
}

/* ---- Queues ---- */

static int queue_start(struct virtio_queue *queue)
{
	switch (queue_kind(virtio_net_of(queue->device), queue->index)) {
	case VIRTIO_NET_QUEUE_RECEIVE:
		return virtio_net_receive_start(queue);
	case VIRTIO_NET_QUEUE_TRANSMIT:
		return virtio_net_transmit_start(queue);
	case VIRTIO_NET_QUEUE_CONTROL:
		return virtio_net_control_start(queue);
	default:
		return -EINVAL;
	}
}

static bool queue_receives(const struct virtio_queue *queue)
{
	return queue_kind(virtio_net_of(queue->device), queue->index) == VIRTIO_NET_QUEUE_RECEIVE;
}

static void queue_running(struct virtio_queue *queue)
{
	struct virtio_net *net = virtio_net_of(queue->device);

	if (!queue_receives(queue))
		return;
	/* Release: who finds the bit finds the queue as it was started. */
	atomic_fetch_or_explicit(&net->receivers, 1U << queue->index / 2, memory_order_release);
	atomic_store_explicit(&net->port.up, true, memory_order_release);
}

static void queue_unpublish(struct virtio_queue *queue)
{
	struct virtio_net *net = virtio_net_of(queue->device);
	unsigned bit = 1U << queue->index / 2;

	if (!queue_receives(queue))
		return;
	if (!(atomic_fetch_and_explicit(&net->receivers, ~bit, memory_order_relaxed) & ~bit))
		atomic_store_explicit(&net->port.up, false, memory_order_relaxed);
}

static void queue_stopped(struct virtio_queue *queue)
{
	free(queue->model);
	queue->model = NULL;
}

static bool queue_polled(const struct virtio_queue *queue)
{
	return !queue_receives(queue);
}

static unsigned poll(struct virtio_queue *queue, const struct turn *turn)
{
	return likely(queue->index & 1) ? virtio_net_transmit_poll(queue, turn) : virtio_net_control_poll(queue, turn);
}

/* ---- Announcement after a migration ---- */

/* A RARP request from the guest's address teaches switches where it is now; what QEMU itself sends. */
static void announce_send(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct virtio_net *net = container_of(message, struct virtio_net, announce_message);
	const struct turn turn = { .sidecore = sidecore, .now = clock_nanoseconds(), .requests = 1, .bytes = 60 };
	uint8_t bytes[60] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0x80, 0x35, /* Ethernet: to all, RARP */
		0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03,			   /* of Ethernet for IPv4, request */
	};
	struct guest_segment segment = { guest_bytes_of(bytes), sizeof(bytes) };
	struct frame frame;

	memcpy(bytes + 6, net->announce_mac, 6);
	memcpy(bytes + 22, net->announce_mac, 6);
	memcpy(bytes + 32, net->announce_mac, 6);
	frame_from_segments(&frame, &segment, 1, sizeof(bytes));
	network_forward(&net->port, &frame, 1, &turn); /* broadcast: never left over */
	atomic_store_explicit(&net->announce_pending, false, memory_order_release);
}

static int announce(struct virtio_device *device, const uint8_t mac[6])
{
	struct virtio_net *net = virtio_net_of(device);
	uint64_t features = device->acked_features;

	/* A driver that announces itself does it better: it knows its addresses (5.1.6.5.4). */
	if (virtio_net_has(features, VIRTIO_NET_F_GUEST_ANNOUNCE) && virtio_net_has(features, VIRTIO_NET_F_CTRL_VQ) &&
	    device->config_changed) {
		atomic_fetch_or_explicit(&net->status, VIRTIO_NET_S_ANNOUNCE, memory_order_relaxed);
		device->config_changed(device);
		return 0;
	}
	/* One that is under way says the same. */
	if (atomic_exchange_explicit(&net->announce_pending, true, memory_order_acquire))
		return 0;
	memcpy(net->announce_mac, mac, 6);
	sidecore_post(engine_sidecore(device->engine, 0), &net->announce_message);
	return 0;
}

/* ---- Device ---- */

static const struct virtio_device_ops ops = {
	.type = "virtio-net",
	.device_id = 1,
	.config_read = config_read,
	.config_write = config_write,
	.features_acked = features_acked,
	.queue_start = queue_start,
	.queue_running = queue_running,
	.queue_unpublish = queue_unpublish,
	.queue_stopped = queue_stopped,
	.rested = rested,
	.queue_polled = queue_polled,
	.poll = poll,
	.set_mtu = set_mtu,
	.announce = announce,
	.reset = reset,
};

static void set_up_port(struct virtio_net *net, const struct virtio_net_config_options *options)
{
	struct port *port = &net->port;

	port->ops = &virtio_net_port_ops;
	port->name = options->name;
	port->isolated = options->isolated;
	port->check_mac = options->check_mac;
	memcpy(port->mac, options->mac, sizeof(port->mac));
	port->ipv4_count = options->ipv4_count < PORT_IPV4_MAX ? options->ipv4_count : PORT_IPV4_MAX;
	memcpy(port->ipv4, options->ipv4, sizeof(port->ipv4));
	port->vlan = options->vlan;
}

int virtio_net_create(const struct virtio_net_config_options *options, struct engine *engine, struct network *network,
		      struct virtio_device **device)
{
	struct virtio_net *net;
	int error;

	if (options->queue_pairs > VIRTIO_NET_PAIRS_MAX)
		return -EINVAL;
	net = aligned_alloc(CACHE_LINE, (sizeof(*net) + CACHE_LINE - 1) & -(size_t)CACHE_LINE);
	if (!net)
		return -ENOMEM;
	memset(net, 0, sizeof(*net));
	net->network = network;
	net->queue_pairs = options->queue_pairs ? options->queue_pairs : 1;
	net->mtu = options->mtu ? options->mtu : MTU_DEFAULT;
	net->announce_message.run = announce_send;
	set_up_port(net, options);

	net->device.ops = &ops;
	net->device.name = options->name;
	net->device.engine = engine;
	net->device.features = (FEATURES | (options->mtu ? BIT(VIRTIO_NET_F_MTU) : 0)) & ~options->features_off;
	net->device.config_size = sizeof(struct net_config);
	net->device.queue_count = (uint16_t)(2 * net->queue_pairs + 1);
	net->device.queue_size_max = options->queue_size_max ? options->queue_size_max : QUEUE_SIZE_MAX;
	error = virtio_device_init(&net->device);
	if (error)
		goto free_net;
	for (unsigned i = 0; i < net->device.queue_count; i++)
		net->device.queues[i].sidecore = options->sidecore;
	error = network_add_port(network, &net->port);
	if (error)
		goto release_device;
	reset(&net->device);
	*device = &net->device;
	return 0;

release_device:
	virtio_device_release(&net->device);
free_net:
	free(net);
	return error;
}

/* Every sidecore has passed between two rounds: none has the port any more. */
static void removed(struct engine_completion *completion)
{
	struct virtio_net *net = container_of(completion, struct virtio_net, removal);
	struct engine_completion *told = net->removed;

	/* An announcement was posted before, and has run by now, unless its sidecore is late: then once more. */
	if (atomic_load_explicit(&net->announce_pending, memory_order_acquire)) {
		engine_barrier(net->device.engine, &net->removal);
		return;
	}
	virtio_device_release(&net->device);
	free(net);
	told->done(told);
}

void virtio_net_destroy(struct virtio_device *device, struct engine_completion *completion)
{
	struct virtio_net *net = virtio_net_of(device);

	network_remove_port(net->network, &net->port);
	net->removed = completion;
	net->removal.done = removed;
	engine_barrier(device->engine, &net->removal);
}

struct port *virtio_net_port(struct virtio_device *device)
{
	return &virtio_net_of(device)->port;
}
