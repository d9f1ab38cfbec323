/* SPDX-License-Identifier: BSD-3-Clause */
/* sd_notify(3) without libsystemd: a datagram to an address that the environment names. */
#include "control/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int notify(const char *state, int file)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)state, .iov_len = strlen(state) };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length;
	ssize_t sent;
	int fd, result;

	if (!path || !path[0])
		return 0;
	length = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || length >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, length);
	if (path[0] == '@')
		address.sun_path[0] = '\0'; /* an abstract address: its length counts, not a terminator */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	header.msg_name = &address;
	header.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	if (file >= 0) {
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		control.alignment.cmsg_level = SOL_SOCKET;
		control.alignment.cmsg_type = SCM_RIGHTS;
		control.alignment.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.alignment), &file, sizeof(int));
	}
	sent = sendmsg(fd, &header, MSG_NOSIGNAL);
	result = sent < 0 ? -errno : 1;
	close(fd);
	return result;
}

int notify_service_manager(const char *state)
{
	return notify(state, -1);
}

int notify_service_manager_file(const char *state, int file)
{
	return notify(state, file);
}
