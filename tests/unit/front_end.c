/* SPDX-License-Identifier: BSD-3-Clause */
#include "front_end.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_engine.h"

void front_end_start(struct front_end *front_end, struct event_base *base, int fd)
{
	*front_end = (struct front_end){ .fd = fd, .base = base };
	front_end->memory_fd = memfd_create("guest", MFD_CLOEXEC);
	assert(front_end->memory_fd >= 0 && !ftruncate(front_end->memory_fd, FRONT_END_MEMORY));
	front_end->memory = mmap(NULL, FRONT_END_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, front_end->memory_fd, 0);
	assert(front_end->memory != MAP_FAILED);
}

static void close_reply_fds(struct front_end *front_end)
{
	while (front_end->reply.fd_count)
		close(front_end->reply.fds[--front_end->reply.fd_count]);
}

void front_end_stop(struct front_end *front_end)
{
	close_reply_fds(front_end);
	munmap(front_end->memory, FRONT_END_MEMORY);
	close(front_end->memory_fd);
	if (front_end->fd >= 0)
		close(front_end->fd);
	front_end->fd = -1;
}

void front_end_pump(struct front_end *front_end)
{
	for (unsigned i = 0; i < 16; i++) {
		event_base_loop(front_end->base, EVLOOP_NONBLOCK);
		if (!front_end->hold_engine)
			fake_engine_run();
	}
}

void front_end_send(struct front_end *front_end, uint32_t request, uint32_t flags, const void *payload, uint32_t length,
		    uint32_t size, const int *fds, unsigned fd_count)
{
	struct vhost_user_header wire = { request, flags, size };
	struct iovec parts[2] = { { &wire, sizeof(wire) }, { (void *)(uintptr_t)payload, length } };
	char control[CMSG_SPACE(sizeof(int) * 64)] = { 0 };
	struct msghdr header = { .msg_iov = parts, .msg_iovlen = 2 };

	if (fd_count) {
		struct cmsghdr *rights = (struct cmsghdr *)(void *)control;

		assert(fd_count <= 64);
		header.msg_control = control;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(rights), fds, sizeof(int) * fd_count);
	}
	sendmsg(front_end->fd, &header, MSG_NOSIGNAL); /* closed: front_end_receive() tells */
}

enum outcome front_end_receive(struct front_end *front_end, uint32_t request)
{
	struct vhost_user_message *reply = &front_end->reply;
	struct iovec part = { &reply->header, sizeof(reply->header) };
	char control[CMSG_SPACE(sizeof(int) * 8)];
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *rights;
	ssize_t got;

	close_reply_fds(front_end);
	front_end_pump(front_end);
	got = recvmsg(front_end->fd, &header, MSG_DONTWAIT);
	if (got < 0 && errno == EAGAIN)
		return SILENT;
	if (got <= 0)
		return CLOSED;
	assert(got == sizeof(reply->header));
	rights = CMSG_FIRSTHDR(&header);
	if (rights) {
		reply->fd_count = (unsigned)((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(reply->fds, CMSG_DATA(rights), reply->fd_count * sizeof(int));
	}
	assert(reply->header.request == request);
	assert(reply->header.flags == (VHOST_USER_VERSION | VHOST_USER_REPLY));
	assert(reply->header.size <= sizeof(reply->payload));
	if (reply->header.size)
		assert(recv(front_end->fd, &reply->payload, reply->header.size, MSG_DONTWAIT) ==
		       (ssize_t)reply->header.size);
	switch (request) {
	case VHOST_USER_GET_FEATURES:
	case VHOST_USER_GET_PROTOCOL_FEATURES:
	case VHOST_USER_GET_QUEUE_NUM:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_GET_CONFIG:
	case VHOST_USER_GET_INFLIGHT_FD:
	case VHOST_USER_GET_MAX_MEM_SLOTS:
	case VHOST_USER_GET_STATUS:
	case VHOST_USER_SET_LOG_BASE:
		return REPLIED;
	default:
		assert(reply->header.size == sizeof(uint64_t));
		return reply->payload.u64 ? REFUSED : ACCEPTED;
	}
}

enum outcome front_end_call(struct front_end *front_end, uint32_t request, const void *payload, uint32_t size,
			    const int *fds, unsigned fd_count)
{
	front_end_send(front_end, request, VHOST_USER_VERSION | VHOST_USER_NEED_REPLY, payload, size, size, fds,
		       fd_count);
	return front_end_receive(front_end, request);
}

enum outcome front_end_u64(struct front_end *front_end, uint32_t request, uint64_t value)
{
	return front_end_call(front_end, request, &value, sizeof(value), NULL, 0);
}

enum outcome front_end_state(struct front_end *front_end, uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state state = { index, num };

	return front_end_call(front_end, request, &state, sizeof(state), NULL, 0);
}

enum outcome front_end_file(struct front_end *front_end, uint32_t request, uint64_t value, int fd)
{
	return front_end_call(front_end, request, &value, sizeof(value), &fd, fd >= 0 ? 1 : 0);
}

enum outcome front_end_address(struct front_end *front_end, uint32_t index)
{
	struct vhost_user_vring_address address = {
		.index = index,
		.descriptor = FRONT_END_RING(index, 0),
		.available = FRONT_END_RING(index, 1),
		.used = FRONT_END_RING(index, 2),
	};

	return front_end_call(front_end, VHOST_USER_SET_VRING_ADDR, &address, sizeof(address), NULL, 0);
}

enum outcome front_end_memory(struct front_end *front_end)
{
	struct vhost_user_memory_table table = {
		.count = 1,
		.regions = { { FRONT_END_GUEST, FRONT_END_MEMORY, FRONT_END_USER, 0 } },
	};

	return front_end_call(front_end, VHOST_USER_SET_MEM_TABLE, &table, 8 + 32, &front_end->memory_fd, 1);
}

void front_end_negotiate(struct front_end *front_end, uint64_t features)
{
	assert(front_end_call(front_end, VHOST_USER_SET_OWNER, NULL, 0, NULL, 0) == SILENT);
	assert(front_end_call(front_end, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0, NULL, 0) == REPLIED);
	assert(front_end_u64(front_end, VHOST_USER_SET_PROTOCOL_FEATURES, front_end->reply.payload.u64) == ACCEPTED);
	if (features)
		assert(front_end_u64(front_end, VHOST_USER_SET_FEATURES, features) == ACCEPTED);
}

void front_end_start_queue(struct front_end *front_end, uint32_t index, int *kick, int *call)
{
	int kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	assert(front_end_state(front_end, VHOST_USER_SET_VRING_NUM, index, 16) == ACCEPTED);
	assert(front_end_state(front_end, VHOST_USER_SET_VRING_BASE, index, 0) == ACCEPTED);
	assert(front_end_address(front_end, index) == ACCEPTED);
	assert(front_end_file(front_end, VHOST_USER_SET_VRING_KICK, index, kick_fd) == ACCEPTED);
	assert(front_end_file(front_end, VHOST_USER_SET_VRING_CALL, index, call_fd) == ACCEPTED);
	assert(front_end_state(front_end, VHOST_USER_SET_VRING_ENABLE, index, 1) == ACCEPTED);
	if (kick)
		*kick = kick_fd;
	else
		close(kick_fd);
	if (call)
		*call = call_fd;
	else
		close(call_fd);
}
