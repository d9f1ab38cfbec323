/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * virtio-net, control queue (virtio 1.3 5.1.6.5), for front-ends that pass it on (crosvm does; QEMU, Cloud Hypervisor
 * and DPDK's virtio-user keep it to themselves and tell the outcome by enabling and disabling queues).
 *
 * Theory of operation
 * -------------------
 * A command is one chain: class, command and data readable, one byte of acknowledgement writable. All readable bytes
 * are copied into a buffer of ours first; a command that is longer than any valid one gets VIRTIO_NET_ERR.
 *
 * Receive modes, the MAC table and the VLAN table are checked and accepted without being used: filtering is best effort
 * (5.1.6.5.1 to 5.1.6.5.3, "unwanted packets could arrive"), and the switch already delivers only what is for the
 * device or for everybody. A driver cannot make itself see its neighbours' traffic with a receive mode.
 *
 * Commands that change what other sidecores read: the number of pairs is an atomic; offloads change under the port's
 * claim, and when that is taken the command stays in the ring for the next turn.
 *
 * Context: the sidecore of the queue.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/byte_order.h"
#include "base/counter.h"
#include "device/virtio_net_internal.h"

/** Commands in one turn: they are rare, and none is urgent. */
#define CONTROL_BUDGET 16U

/** The longest command: a MAC table of what Linux and Windows send at most, many times over. */
#define CONTROL_LENGTH_MAX 8192U

enum {
	VIRTIO_NET_CTRL_RX = 0,
	VIRTIO_NET_CTRL_RX_ALLMULTI = 1,
	VIRTIO_NET_CTRL_RX_NOBCAST = 5,

	VIRTIO_NET_CTRL_MAC = 1,
	VIRTIO_NET_CTRL_MAC_TABLE_SET = 0,
	VIRTIO_NET_CTRL_MAC_ADDR_SET = 1,

	VIRTIO_NET_CTRL_VLAN = 2,
	VIRTIO_NET_CTRL_VLAN_ADD = 0,
	VIRTIO_NET_CTRL_VLAN_DEL = 1,

	VIRTIO_NET_CTRL_ANNOUNCE = 3,
	VIRTIO_NET_CTRL_ANNOUNCE_ACK = 0,

	VIRTIO_NET_CTRL_MQ = 4,
	VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0,

	VIRTIO_NET_CTRL_GUEST_OFFLOADS = 5,
	VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET = 0,

	VIRTIO_NET_OK = 0,
	VIRTIO_NET_ERR = 1,
};

#define GUEST_OFFLOADS                                                                                                 \
	(1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_GUEST_TSO4 | 1ULL << VIRTIO_NET_F_GUEST_TSO6 |         \
	 1ULL << VIRTIO_NET_F_GUEST_ECN | 1ULL << VIRTIO_NET_F_GUEST_UFO | 1ULL << VIRTIO_NET_F_GUEST_USO4 |           \
	 1ULL << VIRTIO_NET_F_GUEST_USO6)

struct control_queue {
	struct segment_pool pool;
	struct guest_segment segments[CHAIN_SEGMENTS_MAX];
	uint8_t command[CONTROL_LENGTH_MAX];
};

/** struct command - a command in our buffer. */
struct command {
	uint8_t class, number;
	const uint8_t *data;
	uint32_t length; /* of the data */
};

int virtio_net_control_start(struct virtio_queue *queue)
{
	struct control_queue *control = calloc(1, sizeof(*control));

	if (!control)
		return -ENOMEM;
	control->pool = (struct segment_pool){ .segments = control->segments, .capacity = CHAIN_SEGMENTS_MAX };
	queue->model = control;
	return 0;
}

static bool has(const struct virtio_net *net, enum virtio_net_feature feature)
{
	return virtio_net_has(net->device.acked_features, feature);
}

static bool receive_mode(const struct virtio_net *net, const struct command *command)
{
	if (command->length != 1 || command->number > VIRTIO_NET_CTRL_RX_NOBCAST)
		return false;
	return has(net,
		   command->number <= VIRTIO_NET_CTRL_RX_ALLMULTI ? VIRTIO_NET_F_CTRL_RX : VIRTIO_NET_F_CTRL_RX_EXTRA);
}

/* Two tables, unicast and multicast: a 32-bit count and as many addresses each (5.1.6.5.2). */
static bool mac_table(const struct command *command)
{
	uint32_t left = command->length, count, bytes;
	const uint8_t *at = command->data;

	for (unsigned table = 0; table < 2; table++) {
		if (left < 4)
			return false;
		memcpy(&count, at, 4);
		at += 4;
		left -= 4;
		if (__builtin_mul_overflow(count, 6U, &bytes) || bytes > left)
			return false;
		at += bytes;
		left -= bytes;
	}
	return left == 0;
}

/* Anti-spoofing stays with the address of the configuration: another one would only have its frames dropped. */
static bool set_mac(struct virtio_net *net, const struct command *command)
{
	if (!has(net, VIRTIO_NET_F_CTRL_MAC_ADDR) || command->length != 6 || (command->data[0] & 1))
		return false;
	if (net->port.check_mac && memcmp(command->data, net->port.mac, 6) != 0)
		return false;
	/* Byte by byte: the control thread may read them meanwhile, and a mixture is what real hardware shows, too. */
	for (unsigned i = 0; i < 6; i++)
		__atomic_store_n(&net->mac[i], command->data[i], __ATOMIC_RELAXED);
	return true;
}

static bool mac(struct virtio_net *net, const struct command *command)
{
	if (command->number == VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return has(net, VIRTIO_NET_F_CTRL_RX) && mac_table(command);
	return command->number == VIRTIO_NET_CTRL_MAC_ADDR_SET && set_mac(net, command);
}

static bool vlan(const struct virtio_net *net, const struct command *command)
{
	return has(net, VIRTIO_NET_F_CTRL_VLAN) && command->number <= VIRTIO_NET_CTRL_VLAN_DEL &&
	       command->length == 2 && load_le16(command->data) < 4096;
}

static bool announce(struct virtio_net *net, const struct command *command)
{
	if (!has(net, VIRTIO_NET_F_GUEST_ANNOUNCE) || command->number != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
		return false;
	atomic_fetch_and_explicit(&net->status, (unsigned short)~VIRTIO_NET_S_ANNOUNCE, memory_order_relaxed);
	return true;
}

static bool queue_pairs(struct virtio_net *net, const struct command *command)
{
	uint16_t pairs;

	if (!has(net, VIRTIO_NET_F_MQ) || command->number != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || command->length != 2)
		return false;
	pairs = load_le16(command->data);
	if (pairs < 1 || pairs > net->queue_pairs)
		return false;
	atomic_store_explicit(&net->pairs_enabled, pairs, memory_order_relaxed);
	return true;
}

/* With the port's claim held. */
static bool guest_offloads(struct virtio_net *net, const struct command *command)
{
	uint64_t offloads, negotiated = net->device.acked_features & GUEST_OFFLOADS;

	if (!has(net, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || command->number != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    command->length != 8)
		return false;
	memcpy(&offloads, command->data, 8);
	if (offloads & ~negotiated)
		return false;
	virtio_net_set_abilities(net, offloads);
	return true;
}

static bool execute(struct virtio_net *net, const struct command *command)
{
	switch (command->class) {
	case VIRTIO_NET_CTRL_RX:
		return receive_mode(net, command);
	case VIRTIO_NET_CTRL_MAC:
		return mac(net, command);
	case VIRTIO_NET_CTRL_VLAN:
		return vlan(net, command);
	case VIRTIO_NET_CTRL_ANNOUNCE:
		return announce(net, command);
	case VIRTIO_NET_CTRL_MQ:
		return queue_pairs(net, command);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
		return guest_offloads(net, command);
	default:
		return false;
	}
}

static void copy_command(struct control_queue *control, const struct chain *chain)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < chain->readable_count; i++) {
		guest_read(control->command + at, chain->segments[i].base, chain->segments[i].length);
		at += (uint32_t)chain->segments[i].length;
	}
	__asm__ volatile("" : : : "memory");
}

static void acknowledge(struct virtio_queue *queue, const struct chain *chain, bool good)
{
	const struct guest_segment *segment = chain_writable(chain);
	uint8_t status = good ? VIRTIO_NET_OK : VIRTIO_NET_ERR;

	guest_write(segment->base, &status, 1);
	virtqueue_log_write(&queue->ring, segment->base, 1);
	virtqueue_push(&queue->ring, chain->id, chain->slots, 1);
	counter_add(&queue->ring.counters.bytes, chain->readable_length + 1);
}

unsigned virtio_net_control_poll(struct virtio_queue *queue, const struct turn *turn)
{
	struct virtio_net *net = virtio_net_of(queue->device);
	struct control_queue *control = queue->model;
	struct command command;
	struct chain chain;
	unsigned work = 0;
	bool good;

	queue->life.poller.pending = false;
	while (work < min(turn->requests, CONTROL_BUDGET)) {
		control->pool.used = 0;
		if (!virtqueue_pop(&queue->ring, &chain, 1, &control->pool))
			break;
		if (chain.readable_length < 2 || !chain.writable_count) {
			virtqueue_break(&queue->ring,
					chain.writable_count ? VIRTQUEUE_HEADER_TOO_SHORT : VIRTQUEUE_BAD_DIRECTION);
			break;
		}
		if (!port_try_claim(&net->port)) {
			virtqueue_unpop(&queue->ring, &chain);
			queue->life.poller.pending = true;
			break;
		}
		good = false;
		if (chain.readable_length <= CONTROL_LENGTH_MAX) {
			copy_command(control, &chain);
			command = (struct command){ control->command[0], control->command[1], control->command + 2,
						    chain.readable_length - 2 };
			good = execute(net, &command);
		}
		port_release(&net->port);
		acknowledge(queue, &chain, good);
		work++;
	}
	if (virtqueue_publish(&queue->ring))
		virtqueue_notify(&queue->ring, sidecore_notifier(turn->sidecore));
	return work;
}
