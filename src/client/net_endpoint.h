/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_NET_ENDPOINT_H
#define CLIENT_NET_ENDPOINT_H

#include "client/net_driver.h"

#include <stdbool.h>
#include <stdint.h>

#define NET_ENDPOINT_BATCH_MAX	256
#define NET_ENDPOINT_FRAME_MIN	64
#define NET_ENDPOINT_FRAME_MAX	65000
#define NET_ENDPOINT_ADDRESS_LEN 6
#define NET_ENDPOINT_SEGMENT	1448u /* what TCP segmentation cuts long frames to, without headers */

/** enum net_endpoint_device - what the card is: virtio-net over vhost-user, or Intel's over vfio-user. */
enum net_endpoint_device {
	NET_ENDPOINT_VIRTIO,
	NET_ENDPOINT_IGB,
	NET_ENDPOINT_E1000E,
	NET_ENDPOINT_E1000,
};

/**
 * struct net_endpoint_options - one network card and its driver.
 * @device:		what the card is; what follows about rings' form is for virtio only
 * @socket_path:	its socket
 * @listen:		bind it and wait for the back-end
 * @packed:		packed rings (required then; split otherwise)
 * @event_index:	take VIRTIO_RING_F_EVENT_IDX if offered
 * @in_order:		take VIRTIO_F_IN_ORDER if offered
 * @mergeable:		take VIRTIO_NET_F_MRG_RXBUF if offered, with receive buffers of 2 KiB
 * @gso:		frames are TCPv4 segments larger than the MTU, crossing whole (TSO4 and checksum, required)
 * @trapped:		Intel: doorbells are messages even where they can be mapped
 * @interrupts:		the card may be armed
 * @huge_pages:		guest memory in 2 MiB pages
 * @touch:		read the first line of each received frame, as a guest's driver would
 * @transmit:		use the transmit queue
 * @receive:		use the receive queue
 * @check:		frames come from another endpoint: check them by sample
 * @frame_size:		bytes of each frame, without virtio-net header and without FCS
 * @ring_size:		descriptors of each queue
 * @batch:		frames moved at once
 * @source:		MAC address of this card
 * @destination:	MAC address that frames go to
 */
struct net_endpoint_options {
	enum net_endpoint_device device;
	const char *socket_path;
	bool listen;
	bool packed;
	bool event_index;
	bool in_order;
	bool mergeable;
	bool gso;
	bool trapped;
	bool interrupts;
	bool huge_pages;
	bool touch;
	bool transmit;
	bool receive;
	bool check;
	uint32_t frame_size;
	uint16_t ring_size;
	uint16_t batch;
	uint8_t source[NET_ENDPOINT_ADDRESS_LEN];
	uint8_t destination[NET_ENDPOINT_ADDRESS_LEN];
};

/**
 * struct net_endpoint_counters - what passed.
 * @sent:		frames given to the device
 * @completed:		of those, frames that the device is done with
 * @received:		frames received, of the expected length where that is checked
 * @received_bytes:	their bytes
 * @unexpected:		frames received that nobody sent that way: wrong length, or segmented on the way
 * @checked:		received frames whose content was compared
 * @corrupt:		of those, how many were wrong
 * @reordered:		sampled frames that came twice, or after a later one
 */
struct net_endpoint_counters {
	uint64_t sent;
	uint64_t completed;
	uint64_t received;
	uint64_t received_bytes;
	uint64_t unexpected;
	uint64_t checked;
	uint64_t corrupt;
	uint64_t reordered;
};

/**
 * struct net_endpoint - one attached network card.
 * @options:		how it was asked for
 * @driver:		its driver
 * @rx_buffers:		receive buffers
 * @rx_stride:		distance of two of them
 * @tx_buffers:		transmit buffers, header and frame
 * @tx_stride:		distance of two of them
 * @idle:		transmit buffers that we hold, a FIFO
 * @idle_head:		next to send
 * @idle_count:		how many
 * @probe_offset:	where the probe lies in a frame
 * @partial:		a frame has begun and not ended
 * @continued:		so does the last packet that was received of it, which is a segment or several
 * @last_packet:	that is the frame's last one
 * @partial_length:	its bytes so far; of all segments, headers once
 * @check_in:		frames until the next one is looked at
 * @next_sequence:	the lowest sequence number that may come next
 * @expected:		content of a frame behind the probe
 * @touched:		sink for what @options.touch reads
 * @counters:		what passed
 */
struct net_endpoint {
	struct net_endpoint_options options;
	struct net_driver *driver;
	uint8_t *rx_buffers;
	uint32_t rx_stride;
	uint8_t *tx_buffers;
	uint32_t tx_stride;
	struct driver_buffer *idle;
	uint32_t idle_head;
	uint32_t idle_count;
	uint32_t probe_offset;
	bool partial;
	bool continued;
	bool last_packet;
	uint32_t partial_length;
	uint32_t check_in;
	uint64_t next_sequence;
	uint8_t *expected;
	uint64_t touched;
	struct net_endpoint_counters counters;
};

int net_endpoint_attach(struct net_endpoint *endpoint, const struct net_endpoint_options *options);
void net_endpoint_detach(struct net_endpoint *endpoint);

int net_endpoint_send(struct net_endpoint *endpoint, uint64_t budget);
int net_endpoint_reap(struct net_endpoint *endpoint);
int net_endpoint_receive(struct net_endpoint *endpoint);
uint32_t net_endpoint_buffers(const struct net_endpoint *endpoint);
const char *net_endpoint_error(const struct net_endpoint *endpoint);

#endif
