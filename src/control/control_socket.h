/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control socket: one JSON object a line in, one a line out. docs/sidecore.1.scd documents the commands; theory of
 * operation: control/control_socket.c.
 */
#ifndef CONTROL_CONTROL_SOCKET_H
#define CONTROL_CONTROL_SOCKET_H

struct control_socket;
struct server;

/**
 * control_socket_create() - listen at @path (mode 0660, and group @group_id unless it is -1).
 *
 * A socket that a dead daemon left behind is replaced; one that somebody listens on is an error.
 *
 * Return: 0 or a negative errno with a sentence in @error, to be freed.
 */
int control_socket_create(const char *path, int group_id, struct server *server, struct control_socket **control,
			  char **error);

/**
 * control_make_default_folder() - make /run/sidecore if @path is in it: where a person starts the daemon without systemd,
 * which otherwise makes it. A failure shows when the socket is made.
 */
void control_make_default_folder(const char *path);

/** control_socket_destroy() - drop all clients and unlink the socket; NULL is harmless. */
void control_socket_destroy(struct control_socket *control);

#endif
