/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one table of vhost-user messages. Everything that can be said of a message without looking into its payload is said
 * here and checked by connection.c before a handler sees it.
 *
 * Rows without a handler are messages of protocol features that are not offered: they are refused by name.
 */
#include "transport/vhost_user/messages.h"

#include <stddef.h>

#include "base/checked.h"
#include "transport/vhost_user/handlers.h"

#define ANY VHOST_USER_ANY_TIME

#define SIZE(size)	    .size_min = (size), .size_max = (size)
#define SIZES(least, most)  .size_min = (least), .size_max = (most)
#define FDS(least, most)    .fds_min = (least), .fds_max = (most)
#define NOT_OFFERED(string) { .name = (string), .feature = ANY, .size_max = UINT16_MAX, .fds_max = VHOST_USER_FDS_MAX }

#define SIZE_U64   sizeof(uint64_t)
#define SIZE_STATE sizeof(struct vhost_user_vring_state)

static const struct vhost_user_row rows[VHOST_USER_REQUESTS] = {
	[VHOST_USER_GET_FEATURES] = { "GET_FEATURES", vhost_user_get_features, ANY, SIZE(0), .reply = REPLY_OWN },
	[VHOST_USER_SET_FEATURES] = { "SET_FEATURES", vhost_user_set_features, ANY, SIZE(SIZE_U64),
				      .quiesce = QUIESCE_ALL },
	[VHOST_USER_GET_PROTOCOL_FEATURES] = { "GET_PROTOCOL_FEATURES", vhost_user_get_protocol_features, ANY, SIZE(0),
					       .reply = REPLY_OWN },
	[VHOST_USER_SET_PROTOCOL_FEATURES] = { "SET_PROTOCOL_FEATURES", vhost_user_set_protocol_features, ANY,
					       SIZE(SIZE_U64) },
	[VHOST_USER_SET_OWNER] = { "SET_OWNER", vhost_user_set_owner, ANY, SIZE(0) },
	[VHOST_USER_RESET_OWNER] = { "RESET_OWNER", vhost_user_reset_owner, ANY, SIZE(0) },
	[VHOST_USER_GET_QUEUE_NUM] = { "GET_QUEUE_NUM", vhost_user_get_queue_num, VHOST_USER_PROTOCOL_MQ, SIZE(0),
				       .reply = REPLY_OWN },
	[VHOST_USER_RESET_DEVICE] = { "RESET_DEVICE", vhost_user_reset_device, VHOST_USER_PROTOCOL_RESET_DEVICE, SIZE(0),
				      .quiesce = QUIESCE_ALL },
	[VHOST_USER_SET_STATUS] = { "SET_STATUS", vhost_user_set_status, VHOST_USER_PROTOCOL_STATUS, SIZE(SIZE_U64),
				    .quiesce = QUIESCE_ALL_IF_ZERO },
	[VHOST_USER_GET_STATUS] = { "GET_STATUS", vhost_user_get_status, VHOST_USER_PROTOCOL_STATUS, SIZE(0),
				    .reply = REPLY_OWN },

	/* memory */
	[VHOST_USER_SET_MEM_TABLE] = { "SET_MEM_TABLE", vhost_user_set_mem_table, ANY,
				       SIZES(8, sizeof(struct vhost_user_memory_table)),
				       FDS(0, VHOST_USER_TABLE_REGIONS_MAX), .quiesce = QUIESCE_ALL },
	[VHOST_USER_GET_MAX_MEM_SLOTS] = { "GET_MAX_MEM_SLOTS", vhost_user_get_max_mem_slots,
					   VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS, SIZE(0), .reply = REPLY_OWN },
	[VHOST_USER_ADD_MEM_REG] = { "ADD_MEM_REG", vhost_user_add_mem_reg, VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS,
				     SIZE(sizeof(struct vhost_user_memory_region)), FDS(1, 1), .quiesce = QUIESCE_ALL },
	/* The specification allows for front-ends that send the file along. */
	[VHOST_USER_REM_MEM_REG] = { "REM_MEM_REG", vhost_user_rem_mem_reg, VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS,
				     SIZE(sizeof(struct vhost_user_memory_region)), FDS(0, 1), .quiesce = QUIESCE_ALL },
	[VHOST_USER_SET_LOG_BASE] = { "SET_LOG_BASE", vhost_user_set_log_base, VHOST_USER_PROTOCOL_LOG_SHMFD,
				      SIZE(sizeof(struct vhost_user_log)), FDS(1, 1), .quiesce = QUIESCE_ALL,
				      .reply = REPLY_OWN },
	[VHOST_USER_SET_LOG_FD] = { "SET_LOG_FD", vhost_user_set_log_fd, ANY, SIZE(0), FDS(1, 1) },

	/* rings */
	[VHOST_USER_SET_VRING_NUM] = { "SET_VRING_NUM", vhost_user_set_vring_num, ANY, SIZE(SIZE_STATE),
				       .quiesce = QUIESCE_STATE_QUEUE },
	[VHOST_USER_SET_VRING_ADDR] = { "SET_VRING_ADDR", vhost_user_set_vring_addr, ANY,
					SIZE(sizeof(struct vhost_user_vring_address)),
					.quiesce = QUIESCE_ADDRESS_QUEUE },
	[VHOST_USER_SET_VRING_BASE] = { "SET_VRING_BASE", vhost_user_set_vring_base, ANY, SIZE(SIZE_STATE),
					.quiesce = QUIESCE_STATE_QUEUE },
	[VHOST_USER_GET_VRING_BASE] = { "GET_VRING_BASE", vhost_user_get_vring_base, ANY, SIZE(SIZE_STATE),
					.quiesce = QUIESCE_STATE_QUEUE, .reply = REPLY_OWN },
	[VHOST_USER_SET_VRING_ENABLE] = { "SET_VRING_ENABLE", vhost_user_set_vring_enable, ANY, SIZE(SIZE_STATE),
					  .quiesce = QUIESCE_STATE_QUEUE },
	[VHOST_USER_SET_VRING_KICK] = { "SET_VRING_KICK", vhost_user_set_vring_kick, ANY, SIZE(SIZE_U64), FDS(0, 1),
					.quiesce = QUIESCE_FILE_QUEUE },
	/* Swapped under the running queue: front-ends do it whenever the guest masks an interrupt. */
	[VHOST_USER_SET_VRING_CALL] = { "SET_VRING_CALL", vhost_user_set_vring_call, ANY, SIZE(SIZE_U64), FDS(0, 1) },
	[VHOST_USER_SET_VRING_ERR] = { "SET_VRING_ERR", vhost_user_set_vring_err, ANY, SIZE(SIZE_U64), FDS(0, 1) },

	/* device */
	[VHOST_USER_GET_CONFIG] = { "GET_CONFIG", vhost_user_get_config, VHOST_USER_PROTOCOL_CONFIG,
				    SIZES(VHOST_USER_CONFIG_HEADER_SIZE, sizeof(struct vhost_user_config)),
				    .reply = REPLY_OWN },
	[VHOST_USER_SET_CONFIG] = { "SET_CONFIG", vhost_user_set_config, VHOST_USER_PROTOCOL_CONFIG,
				    SIZES(VHOST_USER_CONFIG_HEADER_SIZE, sizeof(struct vhost_user_config)) },
	[VHOST_USER_SET_BACKEND_REQ_FD] = { "SET_BACKEND_REQ_FD", vhost_user_set_backend_req_fd,
					    VHOST_USER_PROTOCOL_BACKEND_REQ, SIZE(0), FDS(1, 1) },
	[VHOST_USER_NET_SET_MTU] = { "NET_SET_MTU", vhost_user_net_set_mtu, VHOST_USER_PROTOCOL_NET_MTU,
				     SIZE(SIZE_U64) },
	[VHOST_USER_SEND_RARP] = { "SEND_RARP", vhost_user_send_rarp, VHOST_USER_PROTOCOL_RARP, SIZE(SIZE_U64) },
	[VHOST_USER_GET_INFLIGHT_FD] = { "GET_INFLIGHT_FD", vhost_user_get_inflight_fd,
					 VHOST_USER_PROTOCOL_INFLIGHT_SHMFD,
					 SIZES(VHOST_USER_INFLIGHT_SIZE_MIN, sizeof(struct inflight_description)),
					 .reply = REPLY_OWN },
	[VHOST_USER_SET_INFLIGHT_FD] = { "SET_INFLIGHT_FD", vhost_user_set_inflight_fd,
					 VHOST_USER_PROTOCOL_INFLIGHT_SHMFD,
					 SIZES(VHOST_USER_INFLIGHT_SIZE_MIN, sizeof(struct inflight_description)),
					 FDS(1, 1), .quiesce = QUIESCE_ALL },

	/* of protocol features that are not offered */
	[VHOST_USER_IOTLB_MSG] = NOT_OFFERED("IOTLB_MSG"),
	[VHOST_USER_SET_VRING_ENDIAN] = NOT_OFFERED("SET_VRING_ENDIAN"),
	[VHOST_USER_CREATE_CRYPTO_SESSION] = NOT_OFFERED("CREATE_CRYPTO_SESSION"),
	[VHOST_USER_CLOSE_CRYPTO_SESSION] = NOT_OFFERED("CLOSE_CRYPTO_SESSION"),
	[VHOST_USER_POSTCOPY_ADVISE] = NOT_OFFERED("POSTCOPY_ADVISE"),
	[VHOST_USER_POSTCOPY_LISTEN] = NOT_OFFERED("POSTCOPY_LISTEN"),
	[VHOST_USER_POSTCOPY_END] = NOT_OFFERED("POSTCOPY_END"),
	[VHOST_USER_GPU_SET_SOCKET] = NOT_OFFERED("GPU_SET_SOCKET"),
	[VHOST_USER_VRING_KICK] = NOT_OFFERED("VRING_KICK"),
	[VHOST_USER_GET_SHARED_OBJECT] = NOT_OFFERED("GET_SHARED_OBJECT"),
	[VHOST_USER_SET_DEVICE_STATE_FD] = NOT_OFFERED("SET_DEVICE_STATE_FD"),
	[VHOST_USER_CHECK_DEVICE_STATE] = NOT_OFFERED("CHECK_DEVICE_STATE"),
};

const struct vhost_user_row *vhost_user_row(uint32_t request)
{
	if (request >= array_size(rows) || !rows[request].name)
		return NULL;
	return &rows[request];
}
