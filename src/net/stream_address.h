/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a stream uplink's peer is: a unix path, or host:port ("[::1]:port" for IPv6). Resolved once, when the uplink is
 * opened, on the control thread: name servers may take their time, and a sidecore has none.
 */
#ifndef NET_STREAM_ADDRESS_H
#define NET_STREAM_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

#define STREAM_ADDRESSES_MAX 8U

struct stream_address {
	struct sockaddr_storage storage;
	socklen_t length;
};

/**
 * stream_address_resolve() - all addresses that @text stands for.
 * @text:	what has a slash is a unix path, else host:port; an empty host is the loopback, or "any" to listen on
 * @addresses:	out
 * @count:	out: at least 1
 * @error:	out, on failure: for the operator; constant
 *
 * Return: 0 or -EINVAL, -ENAMETOOLONG, -EHOSTUNREACH.
 */
int stream_address_resolve(const char *text, bool listen, struct stream_address *addresses, unsigned *count,
			   const char **error);

/**
 * stream_address_listen() - a non-blocking socket that listens there. A unix socket that was left behind by a program
 * that is gone is replaced.
 *
 * Return: descriptor or a negative errno.
 */
int stream_address_listen(const struct stream_address *address);

/** stream_address_forget() - remove the unix socket that was listened on. */
void stream_address_forget(const struct stream_address *address);

#endif
