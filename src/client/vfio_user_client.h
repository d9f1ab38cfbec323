/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_VFIO_USER_CLIENT_H
#define CLIENT_VFIO_USER_CLIENT_H

#include "client/client_connection.h"
#include "client/client_memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VFIO_USER_CLIENT_REGIONS 9 /* VFIO_PCI_NUM_REGIONS: six BARs, ROM, configuration space, VGA */
#define VFIO_USER_CLIENT_AREAS	 8
#define VFIO_USER_CLIENT_EVENTS	 65

/**
 * struct vfio_user_client_options - how to attach.
 * @socket_path:	path of the unix socket
 * @trapped:		do not map what the device offers: every access is a message, posted where it can be
 * @huge_pages:		guest memory in 2 MiB pages; plain pages otherwise
 * @memory_size:	bytes of guest memory
 * @timeout_ms:		how long to wait for the connection and for each reply; 0 means 5 s
 */
struct vfio_user_client_options {
	const char *socket_path;
	bool trapped;
	bool huge_pages;
	size_t memory_size;
	int timeout_ms;
};

/**
 * struct vfio_user_client_area - part of a region that is mapped.
 * @offset:	in the region
 * @size:	bytes
 * @base:	where we see it
 */
struct vfio_user_client_area {
	uint64_t offset;
	uint64_t size;
	uint8_t *base;
};

/**
 * struct vfio_user_client_region - a BAR or the configuration space.
 * @size:	bytes; 0: there is none
 * @flags:	VFIO_REGION_INFO_FLAG_*
 * @area_count:	areas that are mapped
 * @areas:	them
 */
struct vfio_user_client_region {
	uint64_t size;
	uint32_t flags;
	unsigned int area_count;
	struct vfio_user_client_area areas[VFIO_USER_CLIENT_AREAS];
};

/**
 * struct vfio_user_client - one attached device, seen from the VMM and the guest's driver.
 * @connection:	to the server; has the reason of what failed
 * @posted:	writes want no reply: nothing is mapped, as QEMU decides it
 * @next_id:	of the next message
 * @messages:	messages sent
 * @memory:	guest memory
 * @regions:	what the device has
 * @event_count: interrupt vectors that have an eventfd
 * @events:	them, non-blocking
 */
struct vfio_user_client {
	struct client_connection connection;
	bool posted;
	uint16_t next_id;
	uint64_t messages;
	struct client_memory memory;
	struct vfio_user_client_region regions[VFIO_USER_CLIENT_REGIONS];
	unsigned int event_count;
	int events[VFIO_USER_CLIENT_EVENTS];
};

/**
 * struct vfio_user_register - a 32-bit register that is written again and again.
 * @mapped:	where it lies, if it can be reached without a message
 * @client:	whose it is
 * @offset:	in BAR 0
 */
struct vfio_user_register {
	uint32_t *mapped;
	struct vfio_user_client *client;
	uint32_t offset;
};

int vfio_user_client_attach(struct vfio_user_client *client, const struct vfio_user_client_options *options);
void vfio_user_client_detach(struct vfio_user_client *client);
int vfio_user_client_reset(struct vfio_user_client *client);

int vfio_user_client_read(struct vfio_user_client *client, unsigned int region, uint64_t offset, void *data,
			  uint32_t size);
int vfio_user_client_write(struct vfio_user_client *client, unsigned int region, uint64_t offset, const void *data,
			   uint32_t size);
int vfio_user_client_read32(struct vfio_user_client *client, uint32_t offset, uint32_t *value);
int vfio_user_client_write32(struct vfio_user_client *client, uint32_t offset, uint32_t value);
struct vfio_user_register vfio_user_client_register(struct vfio_user_client *client, uint32_t offset);

int vfio_user_client_enable_interrupts(struct vfio_user_client *client, unsigned int index, unsigned int count);
int vfio_user_client_unmask_pin(struct vfio_user_client *client);

/**
 * vfio_user_register_store() - write a register: a plain store where it is mapped, else a message.
 * @target:	the register
 * @value:	to be written
 *
 * What was stored to guest memory before is visible before the register's value is: release order.
 *
 * Return: 0, or a negative errno of the message.
 */
static inline int vfio_user_register_store(const struct vfio_user_register *target, uint32_t value)
{
	if (__builtin_expect(target->mapped != NULL, 1)) {
		__atomic_store_n(target->mapped, value, __ATOMIC_RELEASE);
		return 0;
	}

	return vfio_user_client_write32(target->client, target->offset, value);
}

#endif
