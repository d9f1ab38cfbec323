/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The socket of a client: connected, then messages and file descriptors in and out, each bounded by a timeout; and, for
 * whatever fails, the reason in words.
 *
 * Context: one thread for each client, which waits.
 */
#ifndef CLIENT_CLIENT_CONNECTION_H
#define CLIENT_CLIENT_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>

/**
 * struct client_connection - a client's socket.
 * @socket:	connected socket, -1 when detached
 * @timeout_ms:	bound of every wait
 * @error:	what failed, in words, after a negative return
 */
struct client_connection {
	int socket;
	int timeout_ms;
	char error[160];
};

/**
 * struct client_endpoint - where the server is, and how long to wait for it.
 * @path:	path of the unix socket
 * @listen:	bind and wait for the server to connect, instead of connecting to it
 * @timeout_ms:	for the connection and for each reply; 0 means 5 s
 */
struct client_endpoint {
	const char *path;
	bool listen;
	int timeout_ms;
};

int client_connection_open(struct client_connection *connection, const struct client_endpoint *endpoint);
void client_connection_close(struct client_connection *connection);

int client_connection_send(struct client_connection *connection, const void *message, size_t size, int fd,
			   const char *name);
int client_connection_receive(struct client_connection *connection, void *data, size_t size, const char *name, int *fd);

int client_connection_fail(struct client_connection *connection, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
