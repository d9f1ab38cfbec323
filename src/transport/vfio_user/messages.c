/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one table of vfio-user messages. Everything that can be said of a message without looking into its payload is said
 * here and checked (vfio_user_check_message()) before a handler sees it.
 *
 * Rows without a handler are messages that are known and not served: migration, and those that only a server sends. They
 * are answered with ENOTTY, as the kernel's VFIO answers features that a device has not: clients ask, and go on.
 */
#include "transport/vfio_user/messages.h"

#include <errno.h>
#include <stddef.h>

#include "base/checked.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

#define SIZE(size)		   .size_min = (size)
#define ENTRIES(least, size, most) .size_min = (least), .entry = (size), .entries = (most)
#define NOT_SERVED(string)                                                                                             \
	{                                                                                                              \
		.name = (string), ENTRIES(0, 1, VFIO_USER_PAYLOAD_MAX), .fds_max = VFIO_USER_FDS_MAX                   \
	}

static const struct vfio_user_row rows[VFIO_USER_COMMANDS] = {
	[VFIO_USER_VERSION] = { "VERSION", vfio_user_version,
				ENTRIES(offsetof(struct vfio_user_version, data), 1, VFIO_USER_VERSION_BYTES) },

	[VFIO_USER_DMA_MAP] = { "DMA_MAP", vfio_user_dma_map, vfio_user_map_needs_rest,
				SIZE(sizeof(struct vfio_user_dma_map)), .fds_max = 1, .kind = KIND_MEMORY },
	/* One entry: the description of a bitmap, which is refused, but in so many words. */
	[VFIO_USER_DMA_UNMAP] = { "DMA_UNMAP", vfio_user_dma_unmap, vfio_user_unmap_needs_rest,
				  ENTRIES(sizeof(struct vfio_user_dma_unmap), VFIO_USER_BITMAP_SIZE, 1),
				  .kind = KIND_MEMORY },

	[VFIO_USER_DEVICE_GET_INFO] = { "DEVICE_GET_INFO", vfio_user_get_info, NULL,
					SIZE(sizeof(struct vfio_user_device_info)) },
	[VFIO_USER_DEVICE_GET_REGION_INFO] = { "DEVICE_GET_REGION_INFO", vfio_user_get_region_info, NULL,
					       SIZE(sizeof(struct vfio_region_info)) },
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = { "DEVICE_GET_REGION_IO_FDS", vfio_user_get_region_io_fds, NULL,
						 SIZE(sizeof(struct vfio_user_region_io_fds)) },
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = { "DEVICE_GET_IRQ_INFO", vfio_user_get_irq_info, NULL,
					    SIZE(sizeof(struct vfio_irq_info)) },
	[VFIO_USER_DEVICE_SET_IRQS] = { "DEVICE_SET_IRQS", vfio_user_set_irqs, NULL,
					ENTRIES(sizeof(struct vfio_user_irq_set), 1, VFIO_USER_TRANSFER_MAX),
					.fds_max = VFIO_USER_FDS_MAX, .kind = KIND_INTERRUPT },

	[VFIO_USER_REGION_READ] = { "REGION_READ", vfio_user_region_read, NULL,
				    SIZE(sizeof(struct vfio_user_region_access)), .kind = KIND_REGION_READ },
	[VFIO_USER_REGION_WRITE] = { "REGION_WRITE", vfio_user_region_write, NULL,
				     ENTRIES(sizeof(struct vfio_user_region_access), 1, VFIO_USER_TRANSFER_MAX),
				     .kind = KIND_REGION_WRITE },
	[VFIO_USER_REGION_WRITE_MULTI] = { "REGION_WRITE_MULTI", vfio_user_region_write_multi, NULL,
					   ENTRIES(offsetof(struct vfio_user_write_multi, writes),
						   sizeof(struct vfio_user_single_write), VFIO_USER_WRITES_MAX),
					   .kind = KIND_REGION_WRITE },
	/* Not at rest: a model comes to rest by itself for a reset. */
	[VFIO_USER_DEVICE_RESET] = { "DEVICE_RESET", vfio_user_reset, NULL, SIZE(0) },

	[VFIO_USER_DMA_READ] = NOT_SERVED("DMA_READ"),
	[VFIO_USER_DMA_WRITE] = NOT_SERVED("DMA_WRITE"),
	[VFIO_USER_DIRTY_PAGES] = NOT_SERVED("DIRTY_PAGES"),
	[VFIO_USER_DEVICE_FEATURE] = NOT_SERVED("DEVICE_FEATURE"),
	[VFIO_USER_MIG_DATA_READ] = NOT_SERVED("MIG_DATA_READ"),
	[VFIO_USER_MIG_DATA_WRITE] = NOT_SERVED("MIG_DATA_WRITE"),
};

const struct vfio_user_row *vfio_user_row(uint16_t command)
{
	if (command >= array_size(rows) || !rows[command].name)
		return NULL;
	return &rows[command];
}

static bool size_fits(const struct vfio_user_row *row, uint32_t size)
{
	uint32_t entries;

	if (size < row->size_min)
		return false;
	entries = size - row->size_min;
	if (!row->entry)
		return !entries;
	return entries % row->entry == 0 && entries / row->entry <= row->entries;
}

int vfio_user_check_message(struct vfio_user_connection *connection)
{
	const struct vfio_user_message *message = &connection->message;
	const struct vfio_user_row *row = connection->row;

	if (!row)
		return vfio_user_refuse(connection, -EINVAL, "unknown command");
	if (message->header.flags & ~(VFIO_USER_TYPE_MASK | VFIO_USER_NO_REPLY))
		return vfio_user_refuse(connection, -EINVAL, "flags that a command does not have");
	if (!connection->agreed && message->header.command != VFIO_USER_VERSION)
		return vfio_user_refuse(connection, -EPROTO, "no version has been agreed on");
	if (!row->handler)
		return -ENOTTY;
	if (!size_fits(row, message->size))
		return vfio_user_refuse(connection, -EINVAL, "payload has the wrong size");
	if (message->fd_count > row->fds_max)
		return vfio_user_refuse(connection, -EINVAL, "too many file descriptors");
	return 0;
}
