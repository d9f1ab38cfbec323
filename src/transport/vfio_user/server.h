/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user server: one emulated PCI device behind one socket. Theory of operation: transport/vfio_user/connection.c.
 *
 * Context: control thread, in its libevent loop.
 */
#ifndef TRANSPORT_VFIO_USER_SERVER_H
#define TRANSPORT_VFIO_USER_SERVER_H

#include "device/pci/pci_device.h"

struct event_base;
struct listeners;
struct parcel;
struct vfio_user_server;

struct vfio_user_options {
	const char *path;
	uint32_t mode;	     /* permissions of the socket; 0: 0660 */
	uint64_t memory_max; /* quota: bytes of guest memory mapped at a time; 0: 1 TiB */
	bool trap_windows;   /* let the client map none of the device's windows: doorbells come as messages, posted by
				QEMU */
	struct listeners *listeners; /* that outlive their daemon (transport/listeners.h); NULL: none */
};

struct vfio_user_status {
	bool connected;
	uint64_t connections; /* since the start */
	uint64_t messages;    /* received on all of them; of these: */
	uint64_t region_reads, region_writes, interrupt_messages, memory_messages;
	uint64_t posted;	/* of all messages: those that wanted no reply */
	uint64_t errors;	/* messages that were refused, and the connection went on */
	uint64_t refused;	/* connections ended because of a bad message */
	bool adopted;		/* the client was handed over by another daemon */
	const char *last_error; /* the last reason; NULL: none */
	unsigned regions;	/* of guest memory */
	uint64_t memory;	/* bytes */
	unsigned unclosed;	/* files of clients that do not let go */
	unsigned unread;	/* files of messages that are not done, which perhaps would not let go */
};

/** vfio_user_server_create() - Return: 0; errno of bind and the like with a sentence in @error. */
int vfio_user_server_create(const struct vfio_user_options *options, struct pci_device *device, struct event_base *base,
			    struct vfio_user_server **server, const char **error);

/**
 * vfio_user_server_adopt() - go on with the client that another daemon has handed over, right after the creation and
 * before the event loop runs. One that cannot be served is let go, with the reason in the log, and another may come.
 */
void vfio_user_server_adopt(struct vfio_user_server *server, struct parcel *parcel);

/** vfio_user_server_destroy() - pause the device, close, unlink the socket; @done at the end. */
void vfio_user_server_destroy(struct vfio_user_server *server, void (*done)(void *context), void *context);

/**
 * vfio_user_server_hand_over() - as vfio_user_server_destroy(), but the client that is connected stays, for another daemon.
 * @done:	at the end; @parcel is the caller's: -1 when there is no client, or it could not be handed over
 */
void vfio_user_server_hand_over(struct vfio_user_server *server, void (*done)(void *context, int parcel),
				void *context);

void vfio_user_server_read_status(const struct vfio_user_server *server, struct vfio_user_status *status);

#endif
