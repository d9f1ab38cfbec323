/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A listening unix socket with a path: stale files of servers that are gone are replaced, and ours is removed at the end
 * while it is still ours. It can outlive its daemon: transport/listeners.h.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_LISTENER_H
#define TRANSPORT_LISTENER_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

struct disposal;
struct listeners;

struct listener {
	struct sockaddr_un address;
	int fd;	      /* -1: closed */
	dev_t device; /* identity of our socket file */
	ino_t inode;
	struct listeners *listeners; /* NULL: it begins and ends here */
};

/**
 * listener_address() - @listener is closed and will have @path.
 * @listeners:	where listener_open() looks for one that is there, and listener_close() may leave it; NULL: nowhere
 *
 * Return: 0; -ENAMETOOLONG with a sentence in @reason.
 */
int listener_address(struct listener *listener, const char *path, struct listeners *listeners, const char **reason);

/**
 * listener_open() - listen at the address.
 * @mode:	permissions of the file
 *
 * Return: 0; errno of bind and the like with a sentence in @reason. listener_close() is harmless after either.
 */
int listener_open(struct listener *listener, uint32_t mode, const char **reason);

/** listener_close() - with those that nobody has accepted yet, and what they sent; unless it is kept. */
void listener_close(struct listener *listener, struct disposal *disposal);

#endif
