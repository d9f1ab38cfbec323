/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon as an object: everything that a configuration describes, built in order and taken down in order. Theory of
 * operation: control/server.c.
 *
 * Context: control thread.
 */
#ifndef CONTROL_SERVER_H
#define CONTROL_SERVER_H

#include <stddef.h>

#include "control/config.h"

struct event_base;
struct handover;
struct server;

/**
 * server_create() - build and start all that @config describes.
 * @config:	checked, and alive as long as the server
 * @base:	event loop of the control thread
 * @handover:	what the daemon before has left. After a failure clients are still in it as they were
 * @error:	out, on failure: one sentence with the remedy, to be freed
 *
 * What was built before a failure is taken down again; the event loop runs for that.
 *
 * Return: 0 or a negative errno with @error.
 */
int server_create(const struct config *config, struct event_base *base, struct handover *handover,
		  struct server **server, char **error);

/** server_stop() - begin to stop: in stages, while the event loop runs. @stopped is told at the end; harmless when
 * repeated. */
void server_stop(struct server *server, void (*stopped)(void *context), void *context);

/**
 * server_hand_over() - the same, and the clients of emulated devices go into @handover (NULL: nowhere), for the next
 * daemon; in place, sockets to listen on, too.
 */
void server_hand_over(struct server *server, struct handover *handover, void (*stopped)(void *context), void *context);

/**
 * server_on_restart() - what the control socket's command "restart" does: @restart begins it, from the event loop, after
 * the command has been answered. It returns 0, or a negative errno with a sentence in @reason.
 */
void server_on_restart(struct server *server, int (*restart)(void *context, const char **reason), void *context);

/** server_restart_obstacle() - must the daemon not be restarted now? Then @reason tells why, in @size bytes. */
bool server_restart_obstacle(const struct server *server, char *reason, size_t size);

/** server_destroy() - free what is left; it has stopped. */
void server_destroy(struct server *server);

#endif
