/* SPDX-License-Identifier: BSD-3-Clause */
#include "vfio_client.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_engine.h"

void vfio_client_start(struct vfio_client *client, struct event_base *base, int fd)
{
	memset(client, 0, sizeof(*client));
	client->fd = fd;
	client->base = base;
	client->next_id = 0xfff0; /* wraps soon */
}

static void close_reply_fds(struct vfio_client *client)
{
	while (client->reply.fd_count)
		close(client->reply.fds[--client->reply.fd_count]);
}

void vfio_client_stop(struct vfio_client *client)
{
	close_reply_fds(client);
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
}

void vfio_client_pump(struct vfio_client *client)
{
	for (unsigned i = 0; i < 16; i++) {
		event_base_loop(client->base, EVLOOP_NONBLOCK);
		fake_engine_run();
	}
}

void vfio_client_raw(struct vfio_client *client, const void *bytes, size_t length, const int *fds, unsigned fd_count)
{
	struct iovec part = { (void *)(uintptr_t)bytes, length };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * VFIO_USER_FDS_MAX)];
		struct cmsghdr alignment;
	} control = { 0 };

	if (fd_count) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		control.alignment.cmsg_level = SOL_SOCKET;
		control.alignment.cmsg_type = SCM_RIGHTS;
		control.alignment.cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(&control.alignment), fds, sizeof(int) * fd_count);
	}
	sendmsg(client->fd, &header, MSG_NOSIGNAL); /* closed: vfio_client_receive() tells */
}

void vfio_client_send(struct vfio_client *client, uint16_t command, uint32_t flags, const void *payload,
		      uint32_t length, uint32_t size, const int *fds, unsigned fd_count)
{
	struct {
		struct vfio_user_header header;
		uint8_t payload[8192];
	} wire = { .header = { .id = ++client->next_id, .command = command, .flags = flags } };

	assert(length <= sizeof(wire.payload));
	wire.header.size = size ? size : (uint32_t)sizeof(wire.header) + length;
	if (length)
		memcpy(wire.payload, payload, length);
	vfio_client_raw(client, &wire, sizeof(wire.header) + length, fds, fd_count);
}

int vfio_client_receive(struct vfio_client *client)
{
	struct vfio_user_message *reply = &client->reply;
	struct iovec part = { &reply->header, sizeof(reply->header) };
	char control[CMSG_SPACE(sizeof(int) * 8)];
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *rights;
	ssize_t got;

	close_reply_fds(client);
	vfio_client_pump(client);
	got = recvmsg(client->fd, &header, MSG_DONTWAIT);
	if (got < 0 && errno == EAGAIN)
		return VFIO_CLIENT_SILENT;
	if (got <= 0)
		return VFIO_CLIENT_CLOSED;
	assert(got == sizeof(reply->header));
	rights = CMSG_FIRSTHDR(&header);
	if (rights) {
		reply->fd_count = (unsigned)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(reply->fds, CMSG_DATA(rights), reply->fd_count * sizeof(int));
	}
	assert(reply->header.size >= sizeof(reply->header));
	reply->size = reply->header.size - (uint32_t)sizeof(reply->header);
	assert(reply->size <= sizeof(reply->payload));
	if (reply->size)
		assert(recv(client->fd, &reply->payload, reply->size, MSG_DONTWAIT) == (ssize_t)reply->size);
	assert(reply->header.id == client->next_id);
	if (reply->header.flags == (VFIO_USER_TYPE_REPLY | VFIO_USER_ERROR)) {
		assert(!reply->size && !reply->fd_count && reply->header.error && reply->header.error < 4096);
		return (int)reply->header.error;
	}
	assert(reply->header.flags == VFIO_USER_TYPE_REPLY && !reply->header.error);
	return 0;
}

int vfio_client_call(struct vfio_client *client, uint16_t command, const void *payload, uint32_t length, const int *fds,
		     unsigned fd_count)
{
	int result;

	vfio_client_send(client, command, 0, payload, length, 0, fds, fd_count);
	result = vfio_client_receive(client);
	if (result >= 0)
		assert(client->reply.header.command == command);
	return result;
}

int vfio_client_version(struct vfio_client *client)
{
	const uint16_t version[2] = { 0, 1 };

	return vfio_client_call(client, VFIO_USER_VERSION, version, sizeof(version), NULL, 0);
}

int vfio_client_map(struct vfio_client *client, uint64_t address, uint64_t size, uint64_t offset, uint32_t flags,
		    int fd)
{
	struct vfio_user_dma_map map = { sizeof(map), flags, offset, address, size };

	return vfio_client_call(client, VFIO_USER_DMA_MAP, &map, sizeof(map), &fd, fd >= 0);
}

int vfio_client_unmap(struct vfio_client *client, uint64_t address, uint64_t size)
{
	struct vfio_user_dma_unmap unmap = { sizeof(unmap), 0, address, size };

	return vfio_client_call(client, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), NULL, 0);
}

int vfio_client_read(struct vfio_client *client, uint32_t region, uint64_t offset, void *to, uint32_t count)
{
	struct vfio_user_region_access access = { offset, region, count };
	int result = vfio_client_call(client, VFIO_USER_REGION_READ, &access, sizeof(access), NULL, 0);

	if (!result) {
		assert(client->reply.size == sizeof(access) + count);
		assert(!memcmp(&client->reply.payload.access, &access, sizeof(access)));
		memcpy(to, client->reply.payload.access.data, count);
	}
	return result;
}

int vfio_client_write(struct vfio_client *client, uint32_t region, uint64_t offset, const void *from, uint32_t count)
{
	union {
		struct vfio_user_region_access access;
		uint8_t bytes[8192];
	} wire = { .access = { offset, region, count } };
	int result;

	assert(count <= sizeof(wire) - sizeof(wire.access));
	memcpy(wire.bytes + sizeof(wire.access), from, count);
	result =
		vfio_client_call(client, VFIO_USER_REGION_WRITE, &wire, (uint32_t)sizeof(wire.access) + count, NULL, 0);
	if (!result) {
		assert(client->reply.size == sizeof(wire.access));
		assert(!memcmp(&client->reply.payload.access, &wire.access, sizeof(wire.access)));
	}
	return result;
}

int vfio_client_write32(struct vfio_client *client, uint32_t region, uint64_t offset, uint32_t value)
{
	return vfio_client_write(client, region, offset, &value, sizeof(value));
}

int vfio_client_irqs(struct vfio_client *client, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
		     const uint8_t *booleans, const int *fds, unsigned fd_count)
{
	union {
		struct vfio_user_irq_set set;
		uint8_t bytes[512];
	} wire = { .set = { sizeof(wire.set), flags, index, start, count } };
	uint32_t more = booleans ? count : 0;

	assert(more <= sizeof(wire) - sizeof(wire.set));
	if (more)
		memcpy(wire.bytes + sizeof(wire.set), booleans, more);
	return vfio_client_call(client, VFIO_USER_DEVICE_SET_IRQS, &wire, (uint32_t)sizeof(wire.set) + more, fds,
				fd_count);
}
