/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handlers of the message table (messages.c), by the file that they are in. Each validates everything, then changes state.
 * Contract: struct vhost_user_row.
 */
#ifndef TRANSPORT_VHOST_USER_HANDLERS_H
#define TRANSPORT_VHOST_USER_HANDLERS_H

#include "transport/vhost_user/message.h"

struct vhost_user_connection;

#define VHOST_USER_HANDLER(name) int name(struct vhost_user_connection *connection, struct vhost_user_message *message)

/* features.c */
VHOST_USER_HANDLER(vhost_user_get_features);
VHOST_USER_HANDLER(vhost_user_set_features);
VHOST_USER_HANDLER(vhost_user_get_protocol_features);
VHOST_USER_HANDLER(vhost_user_set_protocol_features);
VHOST_USER_HANDLER(vhost_user_set_owner);
VHOST_USER_HANDLER(vhost_user_reset_owner);
VHOST_USER_HANDLER(vhost_user_get_queue_num);
VHOST_USER_HANDLER(vhost_user_reset_device);
VHOST_USER_HANDLER(vhost_user_set_status);
VHOST_USER_HANDLER(vhost_user_get_status);

/* memory.c */
VHOST_USER_HANDLER(vhost_user_set_mem_table);
VHOST_USER_HANDLER(vhost_user_get_max_mem_slots);
VHOST_USER_HANDLER(vhost_user_add_mem_reg);
VHOST_USER_HANDLER(vhost_user_rem_mem_reg);
VHOST_USER_HANDLER(vhost_user_set_log_base);
VHOST_USER_HANDLER(vhost_user_set_log_fd);

/* rings.c */
VHOST_USER_HANDLER(vhost_user_set_vring_num);
VHOST_USER_HANDLER(vhost_user_set_vring_addr);
VHOST_USER_HANDLER(vhost_user_set_vring_base);
VHOST_USER_HANDLER(vhost_user_get_vring_base);
VHOST_USER_HANDLER(vhost_user_set_vring_enable);
VHOST_USER_HANDLER(vhost_user_set_vring_kick);
VHOST_USER_HANDLER(vhost_user_set_vring_call);
VHOST_USER_HANDLER(vhost_user_set_vring_err);

/* config.c */
VHOST_USER_HANDLER(vhost_user_get_config);
VHOST_USER_HANDLER(vhost_user_set_config);
VHOST_USER_HANDLER(vhost_user_set_backend_req_fd);
VHOST_USER_HANDLER(vhost_user_net_set_mtu);
VHOST_USER_HANDLER(vhost_user_send_rarp);

/* inflight_messages.c */
VHOST_USER_HANDLER(vhost_user_get_inflight_fd);
VHOST_USER_HANDLER(vhost_user_set_inflight_fd);

#endif
