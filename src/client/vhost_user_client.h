/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_VHOST_USER_CLIENT_H
#define CLIENT_VHOST_USER_CLIENT_H

#include "client/client_connection.h"
#include "client/client_memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VHOST_USER_CLIENT_QUEUES_MAX 64

/* vhost-user "Feature bits"; this one tells that SET_PROTOCOL_FEATURES and SET_VRING_ENABLE may be used. */
#define VHOST_USER_CLIENT_F_PROTOCOL_FEATURES 30

/* vhost-user "Protocol features" that this client knows how to use. */
#define VHOST_USER_CLIENT_PROTOCOL_F_MQ	       0
#define VHOST_USER_CLIENT_PROTOCOL_F_REPLY_ACK 3
#define VHOST_USER_CLIENT_PROTOCOL_F_CONFIG    9
#define VHOST_USER_CLIENT_PROTOCOL_F_STATUS    16

/**
 * struct vhost_user_client_options - how to attach.
 * @socket_path:	path of the unix socket
 * @listen:		bind and wait for the back-end to connect, instead of connecting to it
 * @huge_pages:		back guest memory with 2 MiB pages (memfd, MFD_HUGETLB); plain pages otherwise
 * @memory_size:	bytes of guest memory; rounded up to 2 MiB
 * @features:		virtio features wanted; what the back-end does not offer is dropped
 * @features_required:	virtio features without which attaching fails
 * @timeout_ms:		how long to wait for the connection and for each reply; 0 means 5 s
 */
struct vhost_user_client_options {
	const char *socket_path;
	bool listen;
	bool huge_pages;
	size_t memory_size;
	uint64_t features;
	uint64_t features_required;
	int timeout_ms;
};

/**
 * struct vhost_user_client_queue - the event file descriptors of one virtqueue.
 * @kick_fd:	written by us when the back-end wants a notification; -1 if not set up
 * @call_fd:	written by the back-end when it notifies us; -1 if not set up
 */
struct vhost_user_client_queue {
	int kick_fd;
	int call_fd;
};

/**
 * struct vhost_user_client - one attached device, seen from the front-end.
 * @connection:		to the back-end; has the reason of what failed
 * @features:		virtio features in force
 * @protocol_features:	vhost-user protocol features in force
 * @backend_features:	virtio features that the back-end offers
 * @memory:		guest memory
 * @queues:		event fds by queue index
 */
struct vhost_user_client {
	struct client_connection connection;
	uint64_t features;
	uint64_t protocol_features;
	uint64_t backend_features;
	struct client_memory memory;
	struct vhost_user_client_queue queues[VHOST_USER_CLIENT_QUEUES_MAX];
};

/**
 * struct vhost_user_client_ring - where a virtqueue lies and how it starts.
 * @size:		descriptors
 * @base:		first avail index (split), or wrap counters and indices as SET_VRING_BASE wants them (packed)
 * @descriptors:	descriptor area
 * @driver:		driver area: avail ring, or driver event suppression
 * @device:		device area: used ring, or device event suppression
 */
struct vhost_user_client_ring {
	uint16_t size;
	uint32_t base;
	const void *descriptors;
	const void *driver;
	const void *device;
};

int vhost_user_client_attach(struct vhost_user_client *client, const struct vhost_user_client_options *options);
void vhost_user_client_detach(struct vhost_user_client *client);

int vhost_user_client_start_queue(struct vhost_user_client *client, unsigned int index,
				  const struct vhost_user_client_ring *ring);
int vhost_user_client_stop_queue(struct vhost_user_client *client, unsigned int index, uint32_t *base);
int vhost_user_client_driver_ready(struct vhost_user_client *client);
int vhost_user_client_queue_limit(struct vhost_user_client *client, unsigned int *limit);
int vhost_user_client_read_config(struct vhost_user_client *client, uint32_t offset, void *data, uint32_t size);

/**
 * vhost_user_client_has() - is a virtio feature in force?
 * @client:	attached client
 * @bit:	feature bit number
 *
 * Return: true if it was negotiated.
 */
static inline bool vhost_user_client_has(const struct vhost_user_client *client, unsigned int bit)
{
	return client->features >> bit & 1;
}

#endif
