/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files of the vfio-user client share: its messages. Nobody else includes this. */
#ifndef CLIENT_VFIO_USER_CLIENT_INTERNAL_H
#define CLIENT_VFIO_USER_CLIENT_INTERNAL_H

#include "client/vfio_user_client.h"

#define PAYLOAD_MAX 512

/* vfio-user "Command Specification" */
enum {
	VERSION = 1,
	DMA_MAP = 2,
	DEVICE_GET_INFO = 4,
	DEVICE_GET_REGION_INFO = 5,
	DEVICE_SET_IRQS = 8,
	REGION_READ = 9,
	REGION_WRITE = 10,
	DEVICE_RESET = 13,
};

/* vfio-user "Message Format": type in bits 0-3 */
#define FLAGS_REPLY	1u
#define FLAGS_TYPE_MASK 0xfu
#define FLAGS_NO_REPLY	(1u << 4)
#define FLAGS_ERROR	(1u << 5)

struct vfio_user_client_header {
	uint16_t id;
	uint16_t command;
	uint32_t size;
	uint32_t flags;
	uint32_t error;
};

struct vfio_user_client_message {
	struct vfio_user_client_header header;
	uint8_t payload[PAYLOAD_MAX];
};

/* vfio_user_client.c */

/** vfio_user_client_begin() - make @message of @payload. */
void vfio_user_client_begin(struct vfio_user_client *client, struct vfio_user_client_message *message, uint16_t command,
			    const void *payload, size_t size);

/** vfio_user_client_send() - send it. @fd: goes with it, unless -1. Return: 0; negative errno, with the reason. */
int vfio_user_client_send(struct vfio_user_client *client, const struct vfio_user_client_message *message, int fd);

/** vfio_user_client_receive() - the reply to @message, in its place. @fd: as for client_connection_receive(). */
int vfio_user_client_receive(struct vfio_user_client *client, struct vfio_user_client_message *message, int *fd);

/**
 * vfio_user_client_ask() - send @payload and wait for the answer.
 * @message:		has the answer then
 * @fd:			sent along, unless -1
 * @answer_size:	bytes that its payload has at least
 * @got:		NULL, or: receives a descriptor of the answer, -1: none came
 */
int vfio_user_client_ask(struct vfio_user_client *client, struct vfio_user_client_message *message, uint16_t command,
			 const void *payload, size_t size, int fd, size_t answer_size, int *got);

/* vfio_user_client_regions.c */

/** vfio_user_client_learn_regions() - what the device has; mapped where it offers that, unless @trapped. */
int vfio_user_client_learn_regions(struct vfio_user_client *client, bool trapped);
void vfio_user_client_unmap_regions(struct vfio_user_client *client);

#endif
