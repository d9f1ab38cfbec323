/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Accesses to regions, one by one or several writes in a message, and the reset of the device. What a register does is its
 * model's affair (pci_device_access()), what the configuration space does is device/pci/pci_config.c's. Here they are bounded
 * and gone on with when the device has deferred a piece. Context and trust boundary: transport/vfio_user/connection.c.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/checked.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

/* ---- reset ------------------------------------------------------------------------------------------------------- */

/* Everything but what the client gave us: its memory and interrupts stay, it takes them back itself if it wants to. */
static enum pci_result begin_reset(struct pci_device *device)
{
	device->resets++;
	return device->ops->reset(device);
}

int vfio_user_reset(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	if (!connection->progress++ && begin_reset(connection->device) == PCI_DEFERRED)
		return VFIO_USER_DEFERRED;
	pci_device_config_reset(connection->device);
	return 0;
}

/* ---- one access -------------------------------------------------------------------------------------------------- */

static int check_range(struct vfio_user_connection *connection, uint32_t region, uint64_t offset, uint32_t count)
{
	const struct pci_device *device = connection->device;
	uint64_t size = 0;

	if (region < PCI_BARS)
		size = device->bars[region].size;
	else if (region == VFIO_PCI_CONFIG_REGION_INDEX)
		size = device->config.size;
	if (!size)
		return vfio_user_refuse(connection, -EINVAL, "there is no such region");
	if (!count || !range_inside(offset, count, size))
		return vfio_user_refuse(connection, -EINVAL, "access beyond the region's end");
	return 0;
}

/* A write may ask for a function level reset, which may be deferred. */
static enum pci_result write_config(struct pci_device *device, bool again, uint32_t offset, const void *data,
				    uint32_t length)
{
	if (!again && !pci_device_config_write(device, offset, data, length))
		return PCI_DONE;
	if (!again && begin_reset(device) == PCI_DEFERRED)
		return PCI_DEFERRED;
	pci_device_config_reset(device);
	return PCI_DONE;
}

/*
 * Begin an access that has been checked, or go on with it.
 * @again:	it was begun, and deferred
 */
static enum pci_result do_access(struct vfio_user_connection *connection, bool again, bool write, uint32_t region,
				 uint64_t offset, void *data, uint32_t length)
{
	struct pci_device *device = connection->device;

	if (region == VFIO_PCI_CONFIG_REGION_INDEX) {
		if (write)
			return write_config(device, again, (uint32_t)offset, data, length);
		pci_device_config_read(device, (uint32_t)offset, data, length);
		return PCI_DONE;
	}
	if (!again)
		connection->access = (struct pci_access){
			.bar = (uint8_t)region, .write = write, .length = length, .offset = offset, .data = data
		};
	return pci_device_access(device, &connection->access);
}

int vfio_user_region_read(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_region_access *access = &message->payload.access;
	int error;

	if (!connection->progress) {
		if (access->count > VFIO_USER_TRANSFER_MAX)
			return vfio_user_refuse(connection, -EINVAL, "more data than was agreed on");
		error = check_range(connection, access->region, access->offset, access->count);
		if (error)
			return error;
	}
	if (do_access(connection, connection->progress++, false, access->region, access->offset, access->data,
		      access->count) == PCI_DEFERRED)
		return VFIO_USER_DEFERRED;
	message->size = (uint32_t)sizeof(*access) + access->count;
	return 0;
}

int vfio_user_region_write(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_region_access *access = &message->payload.access;
	int error;

	if (!connection->progress) {
		if (access->count != message->size - sizeof(*access))
			return vfio_user_refuse(connection, -EINVAL, "not as much data as was announced");
		error = check_range(connection, access->region, access->offset, access->count);
		if (error)
			return error;
	}
	if (do_access(connection, connection->progress++, true, access->region, access->offset, access->data,
		      access->count) == PCI_DEFERRED)
		return VFIO_USER_DEFERRED;
	message->size = sizeof(*access);
	return 0;
}

/* ---- several writes ---------------------------------------------------------------------------------------------- */

static int check_writes(struct vfio_user_connection *connection, const struct vfio_user_write_multi *multi,
			uint32_t size)
{
	/* The row has seen to it that these are whole writes, and not too many. */
	if (multi->count != (size - offsetof(struct vfio_user_write_multi, writes)) / sizeof(multi->writes[0]))
		return vfio_user_refuse(connection, -EINVAL, "not as many writes as were announced");
	for (uint64_t i = 0; i < multi->count; i++) {
		const struct vfio_user_single_write *single = &multi->writes[i];
		int error;

		if (single->count > sizeof(single->data))
			return vfio_user_refuse(connection, -EINVAL, "more than 8 bytes in one of several writes");
		error = check_range(connection, single->region, single->offset, single->count);
		if (error)
			return error;
	}
	return 0;
}

/* connection->progress: twice the write that is due, and one more when it has been begun. */
int vfio_user_region_write_multi(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_write_multi *multi = &message->payload.multi;
	int error = connection->progress ? 0 : check_writes(connection, multi, message->size);

	if (error)
		return error;
	for (; connection->progress / 2 < multi->count; connection->progress = (connection->progress | 1) + 1) {
		struct vfio_user_single_write *single = &multi->writes[connection->progress / 2];
		bool again = connection->progress & 1;

		connection->progress |= 1;
		if (do_access(connection, again, true, single->region, single->offset, single->data, single->count) ==
		    PCI_DEFERRED)
			return VFIO_USER_DEFERRED;
	}
	message->size = sizeof(multi->count);
	return 0;
}
