/* SPDX-License-Identifier: BSD-3-Clause */
/* Kinds of files. Why, and why in this way: base/file_kind.h. */
#include "base/file_kind.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

bool file_is_memory(int fd)
{
	/* Only files that the kernel keeps in memory have seals, if only the one that says "none"; others: EINVAL. */
	return fcntl(fd, F_GET_SEALS) >= 0;
}

bool file_is_eventfd(int fd)
{
	static const char name[] = "anon_inode:[eventfd]";
	char path[32], target[sizeof(name)];
	ssize_t length;

	/* The link is made of names that the kernel has; one byte more than the name is room enough to see a longer one. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof(target));
	return length == (ssize_t)sizeof(name) - 1 && !memcmp(target, name, sizeof(name) - 1);
}

static bool socket_option(int fd, int option, int *value)
{
	socklen_t length = sizeof(*value);

	return !getsockopt(fd, SOL_SOCKET, option, value, &length);
}

bool file_is_unix_socket(int fd)
{
	int domain, type;

	return socket_option(fd, SO_DOMAIN, &domain) && socket_option(fd, SO_TYPE, &type) && domain == AF_UNIX &&
	       type == SOCK_STREAM;
}
