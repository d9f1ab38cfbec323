/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user messages as they are on the wire ("Message Specification"): native byte order, no padding but what is named
 * here. Which of them are served, and how: transport/vhost_user/messages.c.
 */
#ifndef TRANSPORT_VHOST_USER_MESSAGE_H
#define TRANSPORT_VHOST_USER_MESSAGE_H

#include <stdint.h>

#include "ring/inflight.h"

#define VHOST_USER_VERSION	1U
#define VHOST_USER_VERSION_MASK 3U
#define VHOST_USER_REPLY	(1U << 2)
#define VHOST_USER_NEED_REPLY	(1U << 3)

/** Vhost's own bits among the virtio features. */
#define VHOST_USER_LOG_ALL	     (1ULL << 26)
#define VHOST_USER_PROTOCOL_FEATURES (1ULL << 30)

enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_MQ = 0,
	VHOST_USER_PROTOCOL_LOG_SHMFD = 1,
	VHOST_USER_PROTOCOL_RARP = 2,
	VHOST_USER_PROTOCOL_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_NET_MTU = 4,
	VHOST_USER_PROTOCOL_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_CONFIG = 9,
	VHOST_USER_PROTOCOL_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_STATUS = 16,
};

enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_LOG_BASE = 6,
	VHOST_USER_SET_LOG_FD = 7,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SEND_RARP = 19,
	VHOST_USER_NET_SET_MTU = 20,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_IOTLB_MSG = 22,
	VHOST_USER_SET_VRING_ENDIAN = 23,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_CREATE_CRYPTO_SESSION = 26,
	VHOST_USER_CLOSE_CRYPTO_SESSION = 27,
	VHOST_USER_POSTCOPY_ADVISE = 28,
	VHOST_USER_POSTCOPY_LISTEN = 29,
	VHOST_USER_POSTCOPY_END = 30,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_GPU_SET_SOCKET = 33,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_VRING_KICK = 35,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
	VHOST_USER_GET_SHARED_OBJECT = 41,
	VHOST_USER_SET_DEVICE_STATE_FD = 42,
	VHOST_USER_CHECK_DEVICE_STATE = 43,
	VHOST_USER_REQUESTS,
};

/** Back-end requests, on the socket of SET_BACKEND_REQ_FD. */
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG 2U

struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
};

struct vhost_user_vring_state {
	uint32_t index;
	uint32_t num;
};

struct vhost_user_vring_address {
	uint32_t index;
	uint32_t flags;
	uint64_t descriptor;
	uint64_t used;
	uint64_t available;
	uint64_t log;
};

#define VHOST_USER_VRING_ADDRESS_LOG 1U /* VHOST_VRING_F_LOG */

/** Payload of SET_VRING_KICK, _CALL and _ERR. */
#define VHOST_USER_VRING_INDEX_MASK 0xffULL
#define VHOST_USER_VRING_NO_FD	    (1ULL << 8)

struct vhost_user_region {
	uint64_t guest_address;
	uint64_t size;
	uint64_t user_address;
	uint64_t mmap_offset;
};

#define VHOST_USER_TABLE_REGIONS_MAX 8U

struct vhost_user_memory_table {
	uint32_t count;
	uint32_t padding;
	struct vhost_user_region regions[VHOST_USER_TABLE_REGIONS_MAX];
};

struct vhost_user_memory_region {
	uint64_t padding;
	struct vhost_user_region region;
};

struct vhost_user_log {
	uint64_t size;
	uint64_t offset;
};

#define VHOST_USER_CONFIG_SIZE_MAX 256U

struct vhost_user_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags; /* SET_CONFIG: 0 by the driver, 1 by a migration */
	uint8_t bytes[VHOST_USER_CONFIG_SIZE_MAX];
};

#define VHOST_USER_CONFIG_HEADER_SIZE	  12U
#define VHOST_USER_CONFIG_FLAGS_WRITABLE  0U
#define VHOST_USER_CONFIG_FLAGS_MIGRATION 1U

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_address address;
	struct vhost_user_memory_table table;
	struct vhost_user_memory_region region;
	struct vhost_user_log log;
	struct vhost_user_config config;
	struct inflight_description inflight;
	uint8_t mac[6];
};

_Static_assert(sizeof(struct vhost_user_header) == 12, "wire format");
_Static_assert(sizeof(struct vhost_user_vring_state) == 8, "wire format");
_Static_assert(sizeof(struct vhost_user_vring_address) == 40, "wire format");
_Static_assert(sizeof(struct vhost_user_memory_table) == 8 + 8 * 32, "wire format");
_Static_assert(sizeof(struct vhost_user_memory_region) == 40, "wire format");
_Static_assert(sizeof(struct vhost_user_config) == 12 + 256, "wire format");

/** The wire format of struct inflight_description without its trailing padding; front-ends send either. */
#define VHOST_USER_INFLIGHT_SIZE_MIN 20U

/** The most file descriptors of one message: a full memory table. */
#define VHOST_USER_FDS_MAX VHOST_USER_TABLE_REGIONS_MAX

/** struct vhost_user_message - a message that has been received, checked against its row, or a reply. */
struct vhost_user_message {
	struct vhost_user_header header;
	union vhost_user_payload payload;
	int fds[VHOST_USER_FDS_MAX]; /* a handler that keeps one puts -1 there; the rest is closed after it */
	unsigned fd_count;
};

#endif
