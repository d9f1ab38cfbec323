/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The socket of one device, and its one connection at a time: what servers of both protocols do alike. Theory of
 * operation: transport/device_server.c.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_DEVICE_SERVER_H
#define TRANSPORT_DEVICE_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/listener.h"

struct device_server;
struct disposal;
struct event;
struct event_base;
struct log_limit;

/** enum device_server_place - the one place for a connection. */
enum device_server_place {
	PLACE_VACANT,
	PLACE_TAKEN,
	PLACE_CLOSING, /* the device is being brought to rest; device_server_vacated() will be called */
};

/** struct device_server_ops - what a protocol does. */
struct device_server_ops {
	const char *protocol; /* names for people: of the protocol, and of who is at the other end */
	const char *peer;

	/** @place: what there is now. @fd: out, of a connection that there is */
	enum device_server_place (*place)(const struct device_server *server, int *fd);

	/** @open: serve the peer on socket @fd, which becomes the connection's in any case. Return: 0; negative errno. */
	int (*open)(struct device_server *server, int fd);

	/** @close: end the connection; harmless when it is closing. @reason: NULL: the peer has gone */
	void (*close)(struct device_server *server, const char *reason);

	/** @ended: after device_server_end(): there is no connection; from the event loop. Frees the server. */
	void (*ended)(struct device_server *server);
};

/**
 * struct device_server - embedded in the protocol's server, which fills in the first five.
 * @name:	the device's
 * @refusals, @lives:	limits of log lines: of peers that were refused, and of those that came
 * @listener:	in client mode closed, and its address is the peer's
 * @accept_event:	NULL in client mode
 * @retry_event:	time to connect (client mode), or to accept again
 */
struct device_server {
	const struct device_server_ops *ops;
	const char *name;
	struct log_limit *refusals, *lives;
	struct disposal *disposal; /* the connection's */

	struct event_base *base;
	struct listener listener;
	struct event *accept_event, *retry_event, *end_event;
	bool ending;
	uint64_t connections;
};

/**
 * device_server_init() - neither listening nor connecting yet.
 * @path:	of the socket
 * @listeners:	that outlive their daemon (transport/listeners.h); NULL: none
 *
 * Return: 0; -ENAMETOOLONG, -ENOMEM with a sentence in @reason. device_server_release() is harmless after either.
 */
int device_server_init(struct device_server *server, struct event_base *base, const char *path,
		       struct listeners *listeners, const char **reason);
void device_server_release(struct device_server *server);

/** device_server_listen() - @mode: of the socket file; 0: 0660. Return: 0; negative errno with a sentence in @reason. */
int device_server_listen(struct device_server *server, uint32_t mode, const char **reason);

/** device_server_connect() - client mode: connect as soon as the event loop runs, and again whenever there is no peer. */
void device_server_connect(struct device_server *server);

/** device_server_vacated() - the connection that was closed is over: another may come, or the server ends. */
void device_server_vacated(struct device_server *server);

/**
 * device_server_end() - no other connection, and ops->ended when there is none.
 * Return: true: there is one; the caller closes it.
 */
bool device_server_end(struct device_server *server);

#endif
