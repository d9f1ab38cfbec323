/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vfio-user client for unit tests, in one thread with the server: what it sends is handled by turning the event loop
 * until it is idle.
 */
#ifndef TESTS_VFIO_CLIENT_H
#define TESTS_VFIO_CLIENT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/vfio_user/message.h"

/** What came back, beside 0 (a reply without an error) and an errno (a reply with that error). */
#define VFIO_CLIENT_SILENT (-1)
#define VFIO_CLIENT_CLOSED (-2)

struct vfio_client {
	int fd;
	struct event_base *base;
	uint16_t next_id;
	struct vfio_user_message reply; /* the last one, with its fds */
};

/** vfio_client_start() - speak on @fd, which becomes the client's. */
void vfio_client_start(struct vfio_client *client, struct event_base *base, int fd);
void vfio_client_stop(struct vfio_client *client);

void vfio_client_pump(struct vfio_client *client);

/** vfio_client_raw() - bytes as they are; nothing is waited for. */
void vfio_client_raw(struct vfio_client *client, const void *bytes, size_t length, const int *fds, unsigned fd_count);

/** vfio_client_send() - a message as told, right or wrong; @size: what the header says, 0: the truth. */
void vfio_client_send(struct vfio_client *client, uint16_t command, uint32_t flags, const void *payload,
		      uint32_t length, uint32_t size, const int *fds, unsigned fd_count);

/** vfio_client_receive() - what came back for the last message. Reply fds are closed at the next call. */
int vfio_client_receive(struct vfio_client *client);

/** vfio_client_call() - a well-formed message, and what came back. */
int vfio_client_call(struct vfio_client *client, uint16_t command, const void *payload, uint32_t length, const int *fds,
		     unsigned fd_count);

/** vfio_client_version() - agree on version 0.1. */
int vfio_client_version(struct vfio_client *client);

/** @fd: -1: none. @flags: of the mapping. */
int vfio_client_map(struct vfio_client *client, uint64_t address, uint64_t size, uint64_t offset, uint32_t flags,
		    int fd);
int vfio_client_unmap(struct vfio_client *client, uint64_t address, uint64_t size);

int vfio_client_read(struct vfio_client *client, uint32_t region, uint64_t offset, void *to, uint32_t count);
int vfio_client_write(struct vfio_client *client, uint32_t region, uint64_t offset, const void *from, uint32_t count);
int vfio_client_write32(struct vfio_client *client, uint32_t region, uint64_t offset, uint32_t value);

/** @booleans: NULL: none */
int vfio_client_irqs(struct vfio_client *client, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
		     const uint8_t *booleans, const int *fds, unsigned fd_count);

#endif
