/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handlers of the message table (messages.c), by the file that they are in. Each validates everything, then changes
 * state. Contract: struct vfio_user_row.
 */
#ifndef TRANSPORT_VFIO_USER_HANDLERS_H
#define TRANSPORT_VFIO_USER_HANDLERS_H

#include <stdbool.h>

#include "transport/vfio_user/message.h"

struct vfio_user_connection;

#define VFIO_USER_HANDLER(name) int name(struct vfio_user_connection *connection, struct vfio_user_message *message)

/* version.c */
VFIO_USER_HANDLER(vfio_user_version);

/* memory.c */
VFIO_USER_HANDLER(vfio_user_dma_map);
VFIO_USER_HANDLER(vfio_user_dma_unmap);
bool vfio_user_map_needs_rest(const struct vfio_user_connection *connection, const struct vfio_user_message *message);
bool vfio_user_unmap_needs_rest(const struct vfio_user_connection *connection, const struct vfio_user_message *message);

/* describe.c */
VFIO_USER_HANDLER(vfio_user_get_info);
VFIO_USER_HANDLER(vfio_user_get_region_info);
VFIO_USER_HANDLER(vfio_user_get_region_io_fds);
VFIO_USER_HANDLER(vfio_user_get_irq_info);

/* interrupts.c */
VFIO_USER_HANDLER(vfio_user_set_irqs);

/* access.c */
VFIO_USER_HANDLER(vfio_user_region_read);
VFIO_USER_HANDLER(vfio_user_region_write);
VFIO_USER_HANDLER(vfio_user_region_write_multi);
VFIO_USER_HANDLER(vfio_user_reset);

#endif
