/* SPDX-License-Identifier: BSD-3-Clause */
#include "net/stream_address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/checked.h"

static int resolve_path(const char *path, struct stream_address *address, const char **error)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;

	if (strlen(path) >= sizeof(un->sun_path)) {
		*error = "the path of a unix socket can have at most 107 bytes; choose a shorter one";
		return -ENAMETOOLONG;
	}
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path, path);
	address->length = sizeof(*un);
	return 0;
}

int stream_address_resolve(const char *text, bool listen, struct stream_address *addresses, unsigned *count,
			   const char **error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = listen ? AI_PASSIVE : 0 }, *list;
	const char *colon, *port;
	char host[256];
	size_t length;

	memset(addresses, 0, STREAM_ADDRESSES_MAX * sizeof(*addresses));
	*count = 0;
	if (strchr(text, '/')) {
		*count = 1;
		return resolve_path(text, addresses, error);
	}
	colon = strrchr(text, ':');
	length = colon ? (size_t)(colon - text) : 0;
	if (!colon || !colon[1] || length >= sizeof(host)) {
		*error = "the address of a stream must be a path with a slash in it, or host:port";
		return -EINVAL;
	}
	port = colon + 1;
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	if (getaddrinfo(length ? host : NULL, port, &hints, &list)) {
		*error = "the host of the stream's address cannot be resolved; check its name, or give its IP address";
		return -EHOSTUNREACH;
	}
	for (struct addrinfo *info = list; info && *count < STREAM_ADDRESSES_MAX; info = info->ai_next) {
		memcpy(&addresses[*count].storage, info->ai_addr, info->ai_addrlen);
		addresses[*count].length = info->ai_addrlen;
		++*count;
	}
	freeaddrinfo(list);
	return 0;
}

/* Nobody listens on this unix socket any more? */
static bool is_left_behind(const struct stream_address *address)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
	struct stat status;
	bool refused;
	int fd;

	if (lstat(un->sun_path, &status) || !S_ISSOCK(status.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)un, address->length) && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

int stream_address_listen(const struct stream_address *address)
{
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, code;

	if (fd < 0)
		return -errno;
	if (address->storage.ss_family == AF_UNIX) {
		if (is_left_behind(address))
			stream_address_forget(address);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	}
	if (bind(fd, (const struct sockaddr *)&address->storage, address->length) || listen(fd, 1)) {
		code = -errno;
		close(fd);
		return code;
	}
	return fd;
}

void stream_address_forget(const struct stream_address *address)
{
	if (address->storage.ss_family == AF_UNIX)
		unlink(((const struct sockaddr_un *)&address->storage)->sun_path);
}
