/* SPDX-License-Identifier: BSD-3-Clause */
/* Listening unix sockets. Context: transport/listener.h. */
#include "transport/listener.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/disposal.h"
#include "transport/listeners.h"

#define BACKLOG 4

int listener_address(struct listener *listener, const char *path, struct listeners *listeners, const char **reason)
{
	size_t length = strlen(path);

	*listener = (struct listener){ .fd = -1, .listeners = listeners };
	if (!length || length >= sizeof(listener->address.sun_path)) {
		*reason = "the socket's path is empty or longer than 107 characters; choose a shorter one";
		return -ENAMETOOLONG;
	}
	listener->address.sun_family = AF_UNIX;
	memcpy(listener->address.sun_path, path, length);
	return 0;
}

/* The file is there: is it a socket that nobody listens to any more? Then remove it. */
static bool remove_stale_socket(const struct sockaddr_un *address)
{
	struct stat status;
	bool stale;
	int fd;

	if (lstat(address->sun_path, &status) || !S_ISSOCK(status.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	stale = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return stale && !unlink(address->sun_path);
}

int listener_open(struct listener *listener, uint32_t mode, const char **reason)
{
	const struct sockaddr *address = (const struct sockaddr *)&listener->address;
	struct stat status;
	int error;

	if (listener->listeners && listeners_take(listener->listeners, listener))
		return 0;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0) {
		*reason = "cannot make a socket";
		return -errno;
	}
	/*
	 * The mode that bind() gives the file; chmod() afterwards undoes what the umask took, never the other way
	 * round.
	 */
	fchmod(listener->fd, mode);
	if (bind(listener->fd, address, sizeof(listener->address)) &&
	    (errno != EADDRINUSE || !remove_stale_socket(&listener->address) ||
	     bind(listener->fd, address, sizeof(listener->address)))) {
		error = -errno;
		*reason = error == -EADDRINUSE
				  ? "another program listens there, or it is no socket; stop it, or choose another "
				    "path"
				  : "check that the folder exists and may be written";
		return error;
	}
	if (!lstat(listener->address.sun_path, &status)) {
		listener->device = status.st_dev;
		listener->inode = status.st_ino;
	}
	if (chmod(listener->address.sun_path, mode) || listen(listener->fd, BACKLOG)) {
		*reason = "cannot listen on the socket";
		return -errno;
	}
	return 0;
}

void listener_close(struct listener *listener, struct disposal *disposal)
{
	struct stat status;

	if (listener->fd < 0 || (listener->listeners && listeners_keep(listener->listeners, listener)))
		return;
	disposal_close(disposal, listener->fd);
	listener->fd = -1;
	/* Somebody may have put another socket there since. */
	if (listener->inode && !lstat(listener->address.sun_path, &status) && status.st_dev == listener->device &&
	    status.st_ino == listener->inode)
		unlink(listener->address.sun_path);
}
