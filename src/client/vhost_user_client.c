/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vhost-user front-end: what QEMU is to a back-end, without a machine around it.
 *
 * Theory of operation
 * -------------------
 * The client owns a piece of "guest" memory (one memfd, one region), tells the back-end about it, and places rings
 * and buffers in it (client/client_memory.h).
 *
 * Order of attaching, as the vhost-user specification wants it and as QEMU does it:
 *
 *	GET_FEATURES, [GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES,] SET_OWNER, SET_FEATURES, SET_MEM_TABLE,
 *	then per queue SET_VRING_NUM, _BASE, _ADDR, _CALL, _KICK, _ENABLE, and at last [SET_STATUS DRIVER_OK].
 *
 * Where the back-end has REPLY_ACK each setting is acknowledged before the next one is sent, so that a refusal has a
 * name. Without it the order of the socket is all there is, and the next message with an answer is the check.
 *
 * Everything here waits on the socket and belongs to set-up and tear-down; no data path calls into this file.
 * Context: one thread for each client.
 */
#include "client/vhost_user_client.h"

#include <errno.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CONFIG_MAX 256 /* VHOST_USER_MAX_CONFIG_SIZE of the specification */

/* vhost-user "Front-end message types" */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	GET_VRING_BASE = 11,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	GET_QUEUE_NUM = 17,
	SET_VRING_ENABLE = 18,
	GET_CONFIG = 24,
	SET_STATUS = 39,
};

/* vhost-user "Header": version 1 in bits 0-1, reply in bit 2, need_reply in bit 3 */
#define FLAGS_VERSION	   1u
#define FLAGS_VERSION_MASK 3u
#define FLAGS_REPLY	   (1u << 2)
#define FLAGS_NEED_REPLY   (1u << 3)

struct memory_region {
	uint64_t guest_address;
	uint64_t size;
	uint64_t user_address;
	uint64_t mmap_offset;
};

struct memory_table {
	uint32_t count;
	uint32_t padding;
	struct memory_region regions[1];
};

struct config_space {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[CONFIG_MAX];
};

struct message {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
	union {
		uint64_t u64;
		struct vhost_vring_state state;
		struct vhost_vring_addr address;
		struct memory_table memory;
		struct config_space config;
	} payload;
} __attribute__((packed));

#define HEADER_SIZE offsetof(struct message, payload)

static const char *request_name(uint32_t request)
{
	static const char *const names[] = {
		[GET_FEATURES] = "GET_FEATURES",
		[SET_FEATURES] = "SET_FEATURES",
		[SET_OWNER] = "SET_OWNER",
		[SET_MEM_TABLE] = "SET_MEM_TABLE",
		[SET_VRING_NUM] = "SET_VRING_NUM",
		[SET_VRING_ADDR] = "SET_VRING_ADDR",
		[SET_VRING_BASE] = "SET_VRING_BASE",
		[GET_VRING_BASE] = "GET_VRING_BASE",
		[SET_VRING_KICK] = "SET_VRING_KICK",
		[SET_VRING_CALL] = "SET_VRING_CALL",
		[GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
		[SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
		[GET_QUEUE_NUM] = "GET_QUEUE_NUM",
		[SET_VRING_ENABLE] = "SET_VRING_ENABLE",
		[GET_CONFIG] = "GET_CONFIG",
		[SET_STATUS] = "SET_STATUS",
	};

	return request < sizeof(names) / sizeof(names[0]) && names[request] ? names[request] : "message";
}

static bool has_protocol_feature(const struct vhost_user_client *client, unsigned int bit)
{
	return client->protocol_features >> bit & 1;
}

/* ---- messages ---- */

static int send_message(struct vhost_user_client *client, const struct message *message, int fd)
{
	return client_connection_send(&client->connection, message, HEADER_SIZE + message->size, fd,
				      request_name(message->request));
}

static int receive_reply(struct vhost_user_client *client, uint32_t request, struct message *reply)
{
	const char *name = request_name(request);
	int error = client_connection_receive(&client->connection, reply, HEADER_SIZE, name, NULL);

	if (error)
		return error;
	if (reply->request != request)
		return client_connection_fail(&client->connection, -EPROTO, "%s: answered with message type %u", name,
					      reply->request);
	if ((reply->flags & FLAGS_VERSION_MASK) != FLAGS_VERSION || !(reply->flags & FLAGS_REPLY))
		return client_connection_fail(&client->connection, -EPROTO, "%s: reply has flags 0x%x", name,
					      reply->flags);
	if (reply->size > sizeof(reply->payload))
		return client_connection_fail(&client->connection, -EPROTO, "%s: reply of %u bytes", name, reply->size);

	return client_connection_receive(&client->connection, &reply->payload, reply->size, name, NULL);
}

/* Sends a setting and, where the back-end can tell, learns whether it was accepted. */
static int set(struct vhost_user_client *client, struct message *message, int fd)
{
	bool acknowledged = has_protocol_feature(client, VHOST_USER_CLIENT_PROTOCOL_F_REPLY_ACK);
	struct message reply = { 0 };
	int error;

	message->flags = FLAGS_VERSION | (acknowledged ? FLAGS_NEED_REPLY : 0);
	error = send_message(client, message, fd);
	if (error || !acknowledged)
		return error;

	error = receive_reply(client, message->request, &reply);
	if (error)
		return error;
	if (reply.size != sizeof(uint64_t) || reply.payload.u64 != 0)
		return client_connection_fail(&client->connection, -EREMOTEIO, "%s: refused by the back-end",
					      request_name(message->request));

	return 0;
}

static int set_u64(struct vhost_user_client *client, uint32_t request, uint64_t value, int fd)
{
	struct message message = { .request = request, .size = sizeof(uint64_t), .payload.u64 = value };

	return set(client, &message, fd);
}

static int set_state(struct vhost_user_client *client, uint32_t request, unsigned int index, unsigned int value)
{
	struct message message = { .request = request,
				   .size = sizeof(struct vhost_vring_state),
				   .payload.state = { .index = index, .num = value } };

	return set(client, &message, -1);
}

/* Sends @message, whose answer carries exactly @size bytes, and returns the answer in its place. */
static int get(struct vhost_user_client *client, struct message *message, uint32_t size)
{
	uint32_t request = message->request;
	int error;

	message->flags = FLAGS_VERSION;
	error = send_message(client, message, -1);
	if (error)
		return error;

	error = receive_reply(client, request, message);
	if (error)
		return error;
	if (message->size != size)
		return client_connection_fail(&client->connection, -EPROTO, "%s: reply of %u bytes, not %u",
					      request_name(request), message->size, size);

	return 0;
}

static int get_u64(struct vhost_user_client *client, uint32_t request, uint64_t *value)
{
	struct message message = { .request = request };
	int error = get(client, &message, sizeof(uint64_t));

	if (!error)
		*value = message.payload.u64;

	return error;
}

/* ---- memory ---- */

static int share_memory(struct vhost_user_client *client)
{
	struct message message = { .request = SET_MEM_TABLE, .size = sizeof(struct memory_table) };

	message.payload.memory.count = 1;
	message.payload.memory.regions[0] = (struct memory_region){
		.guest_address = CLIENT_MEMORY_BASE,
		.size = client->memory.size,
		.user_address = (uintptr_t)client->memory.base,
		.mmap_offset = 0,
	};

	return set(client, &message, client->memory.fd);
}

/* ---- attach and detach ---- */

static int negotiate_protocol(struct vhost_user_client *client)
{
	const uint64_t known =
		1ULL << VHOST_USER_CLIENT_PROTOCOL_F_MQ | 1ULL << VHOST_USER_CLIENT_PROTOCOL_F_REPLY_ACK |
		1ULL << VHOST_USER_CLIENT_PROTOCOL_F_CONFIG | 1ULL << VHOST_USER_CLIENT_PROTOCOL_F_STATUS;
	uint64_t offered, wanted;
	int error = get_u64(client, GET_PROTOCOL_FEATURES, &offered);

	if (error)
		return error;

	/* The acknowledgement is in force only after this message, so it cannot be asked for here. */
	wanted = offered & known;
	error = set_u64(client, SET_PROTOCOL_FEATURES, wanted, -1);
	if (!error)
		client->protocol_features = wanted;

	return error;
}

static int negotiate(struct vhost_user_client *client, const struct vhost_user_client_options *options)
{
	const uint64_t protocol = 1ULL << VHOST_USER_CLIENT_F_PROTOCOL_FEATURES;
	struct message owner = { .request = SET_OWNER };
	uint64_t missing;
	int error = get_u64(client, GET_FEATURES, &client->backend_features);

	if (error)
		return error;
	missing = options->features_required & ~client->backend_features;
	if (missing)
		return client_connection_fail(&client->connection, -ENOTSUP,
					      "the back-end lacks virtio feature %d (it offers 0x%llx)",
					      __builtin_ctzll(missing), (unsigned long long)client->backend_features);

	client->features = client->backend_features & (options->features | options->features_required | protocol);
	if (client->features & protocol)
		error = negotiate_protocol(client);
	if (!error)
		error = set(client, &owner, -1);
	if (!error)
		error = set_u64(client, SET_FEATURES, client->features, -1);

	return error;
}

/**
 * vhost_user_client_attach() - connect, negotiate, share memory.
 * @client:	written from scratch; detach it whatever this returns
 * @options:	how
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vhost_user_client_attach(struct vhost_user_client *client, const struct vhost_user_client_options *options)
{
	const struct client_endpoint endpoint = { .path = options->socket_path,
						  .listen = options->listen,
						  .timeout_ms = options->timeout_ms };
	int error;

	*client = (struct vhost_user_client){ .connection.socket = -1, .memory.fd = -1 };
	for (unsigned int i = 0; i < VHOST_USER_CLIENT_QUEUES_MAX; i++)
		client->queues[i] = (struct vhost_user_client_queue){ .kick_fd = -1, .call_fd = -1 };

	error = client_memory_create(&client->memory, options->memory_size, options->huge_pages,
				     client->connection.error, sizeof(client->connection.error));
	if (!error)
		error = client_connection_open(&client->connection, &endpoint);
	if (!error)
		error = negotiate(client, options);
	if (!error)
		error = share_memory(client);

	return error;
}

/**
 * vhost_user_client_detach() - close the connection and give everything back.
 * @client:	attached, or half attached by a failed vhost_user_client_attach()
 */
void vhost_user_client_detach(struct vhost_user_client *client)
{
	client_connection_close(&client->connection);
	for (unsigned int i = 0; i < VHOST_USER_CLIENT_QUEUES_MAX; i++) {
		if (client->queues[i].kick_fd >= 0)
			close(client->queues[i].kick_fd);
		if (client->queues[i].call_fd >= 0)
			close(client->queues[i].call_fd);
		client->queues[i] = (struct vhost_user_client_queue){ .kick_fd = -1, .call_fd = -1 };
	}
	client_memory_release(&client->memory);
}

/* ---- queues ---- */

static int create_events(struct vhost_user_client *client, unsigned int index)
{
	struct vhost_user_client_queue *queue = &client->queues[index];

	if (queue->kick_fd < 0)
		queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->call_fd < 0)
		queue->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->kick_fd < 0 || queue->call_fd < 0)
		return client_connection_fail(&client->connection, -errno, "eventfd: %s", strerror(errno));

	return 0;
}

/**
 * vhost_user_client_start_queue() - hand a virtqueue to the back-end and enable it.
 * @client:	attached client
 * @index:	queue index
 * @ring:	where it lies; all of it in guest memory of @client
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vhost_user_client_start_queue(struct vhost_user_client *client, unsigned int index,
				  const struct vhost_user_client_ring *ring)
{
	struct message address = { .request = SET_VRING_ADDR, .size = sizeof(struct vhost_vring_addr) };
	int error;

	if (index >= VHOST_USER_CLIENT_QUEUES_MAX)
		return client_connection_fail(&client->connection, -EINVAL, "queue index %u", index);

	/* Ring addresses are user addresses (ours), unlike those in descriptors: "Vring address description". */
	address.payload.address = (struct vhost_vring_addr){
		.index = index,
		.desc_user_addr = (uintptr_t)ring->descriptors,
		.avail_user_addr = (uintptr_t)ring->driver,
		.used_user_addr = (uintptr_t)ring->device,
	};

	error = create_events(client, index);
	if (!error)
		error = set_state(client, SET_VRING_NUM, index, ring->size);
	if (!error)
		error = set_state(client, SET_VRING_BASE, index, ring->base);
	if (!error)
		error = set(client, &address, -1);
	if (!error)
		error = set_u64(client, SET_VRING_CALL, index, client->queues[index].call_fd);
	if (!error)
		error = set_u64(client, SET_VRING_KICK, index, client->queues[index].kick_fd);
	if (!error && vhost_user_client_has(client, VHOST_USER_CLIENT_F_PROTOCOL_FEATURES))
		error = set_state(client, SET_VRING_ENABLE, index, 1);

	return error;
}

/**
 * vhost_user_client_stop_queue() - take a virtqueue back.
 * @client:	attached client
 * @index:	queue index
 * @base:	receives where the back-end stopped; may be NULL
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vhost_user_client_stop_queue(struct vhost_user_client *client, unsigned int index, uint32_t *base)
{
	struct message message = { .request = GET_VRING_BASE,
				   .size = sizeof(struct vhost_vring_state),
				   .payload.state.index = index };
	int error = 0;

	if (vhost_user_client_has(client, VHOST_USER_CLIENT_F_PROTOCOL_FEATURES))
		error = set_state(client, SET_VRING_ENABLE, index, 0);
	if (!error)
		error = get(client, &message, sizeof(struct vhost_vring_state));
	if (!error && message.payload.state.index != index)
		error = client_connection_fail(&client->connection, -EPROTO, "GET_VRING_BASE: answered for queue %u",
					       message.payload.state.index);
	if (!error && base)
		*base = message.payload.state.num;

	return error;
}

/**
 * vhost_user_client_driver_ready() - tell that the driver is up, where the back-end wants to know.
 * @client:	attached client with its queues started
 *
 * Return: 0 (also when the protocol has no status), or a negative errno.
 */
int vhost_user_client_driver_ready(struct vhost_user_client *client)
{
	const uint64_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
				VIRTIO_CONFIG_S_DRIVER_OK;

	if (!has_protocol_feature(client, VHOST_USER_CLIENT_PROTOCOL_F_STATUS))
		return 0;

	return set_u64(client, SET_STATUS, status, -1);
}

/**
 * vhost_user_client_queue_limit() - how many queues the back-end can serve.
 * @client:	attached client
 * @limit:	receives the number
 *
 * Return: 0, -ENOTSUP if the back-end has no such message, or another negative errno.
 */
int vhost_user_client_queue_limit(struct vhost_user_client *client, unsigned int *limit)
{
	uint64_t value;
	int error;

	if (!has_protocol_feature(client, VHOST_USER_CLIENT_PROTOCOL_F_MQ))
		return client_connection_fail(&client->connection, -ENOTSUP, "the back-end lacks protocol feature MQ");

	error = get_u64(client, GET_QUEUE_NUM, &value);
	if (!error)
		*limit = value > UINT32_MAX ? UINT32_MAX : (unsigned int)value;

	return error;
}

/**
 * vhost_user_client_read_config() - read the device's configuration space.
 * @client:	attached client
 * @offset:	first byte
 * @data:	receives the bytes
 * @size:	how many, at most 256
 *
 * Return: 0, -ENOTSUP if the back-end leaves the configuration space to us, or another negative errno.
 */
int vhost_user_client_read_config(struct vhost_user_client *client, uint32_t offset, void *data, uint32_t size)
{
	struct message message = { .request = GET_CONFIG, .payload.config = { .offset = offset, .size = size } };
	int error;

	if (!has_protocol_feature(client, VHOST_USER_CLIENT_PROTOCOL_F_CONFIG))
		return client_connection_fail(&client->connection, -ENOTSUP,
					      "the back-end lacks protocol feature CONFIG");
	if (size > CONFIG_MAX)
		return client_connection_fail(&client->connection, -EINVAL, "GET_CONFIG of %u bytes", size);

	message.size = (uint32_t)offsetof(struct config_space, data) + size;
	error = get(client, &message, message.size);
	if (!error)
		memcpy(data, message.payload.config.data, size);

	return error;
}
