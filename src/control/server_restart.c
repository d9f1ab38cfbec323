/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A restart: whether it may begin, and its stop.
 *
 * Theory of operation
 * -------------------
 * It is the stop of server_stop.c, but clients of emulated devices go into a handover (control/handover.c), and so do
 * sockets to listen on where this process goes on as the next daemon.
 *
 * *Disks that do not answer.* A guest's device is at rest when its requests are back, and all others wait for that.
 * Where this is known beforehand a restart is refused (server_restart_obstacle()). A disk can begin to hang later: then
 * an NBD disk's requests fail after HURRY_SECONDS. What the kernel has begun (a file, over NFS say) cannot be ended: it
 * has guest memory to write into, and even execv() or an end would wait for it.
 *
 * Context: control thread.
 */
#include <stdio.h>

#include "base/clock.h"
#include "control/handover.h"
#include "control/server.h"
#include "control/server_state.h"
#include "transport/listeners.h"

/* What is in flight when clients are to be left may take as long as QEMU waits for an answer (x-msg-timeout). */
#define HURRY_SECONDS 5ULL

/* A request that has waited for so long holds up a restart: who knows for how long it will? */
#define WAITED_SECONDS 2ULL

/* Guests of other disks wait for the slowest, and their virtual machine monitors not for ever. */
static void hurry(struct server *server)
{
	uint64_t deadline = clock_nanoseconds() + HURRY_SECONDS * NANOSECONDS_PER_SECOND;

	for (unsigned i = 0; i < server->disk_count; i++)
		disk_hurry(server->disks[i].disk, deadline);
}

void server_hand_over(struct server *server, struct handover *handover, void (*stopped)(void *context), void *context)
{
	if (!server->stopped) {
		server->left = handover;
		if (handover)
			hurry(server);
		if (handover && handover_in_place(handover))
			listeners_begin_keeping(server->listeners);
	}
	server_stop(server, stopped, context);
}

void server_on_restart(struct server *server, int (*restart)(void *context, const char **reason), void *context)
{
	server->restart = restart;
	server->restart_context = context;
}

/* struct client - what a front-end's status says of it. */
struct client {
	bool connected;
	bool holds; /* files that do not let go, or may not when they are closed */
};

static struct client look_at(const struct server_frontend *frontend)
{
	struct vhost_user_status vhost_user = { 0 };
	struct vfio_user_status vfio_user = { 0 };

	if (frontend->vhost_user)
		vhost_user_server_read_status(frontend->vhost_user, &vhost_user);
	if (frontend->vfio_user)
		vfio_user_server_read_status(frontend->vfio_user, &vfio_user);
	return (struct client){ .connected = vhost_user.connected || vfio_user.connected,
				.holds = vhost_user.unclosed || vfio_user.unclosed || vhost_user.unread ||
					 vfio_user.unread };
}

/* Return: false: nothing is to be said against this disk's end in a restart. */
static bool describe_obstacle(const struct server_disk *disk, char *reason, size_t size)
{
	const struct server_disk *owner = disk->controller ? disk->controller : disk;
	const char *name = disk->config->name;
	uint64_t waited;

	if (!disk->disk || !look_at(&owner->frontend).connected)
		return false;
	waited = disk_waited(disk->disk, clock_nanoseconds());
	if (disk_is_transient(disk->disk))
		snprintf(reason, size, "a guest uses disk %s of type ram, whose content would be lost", name);
	else if (disk_is_away(disk->disk))
		snprintf(reason, size, "a guest uses disk %s, whose server is not connected (%s)", name,
			 disk_state(disk->disk));
	else if (waited >= WAITED_SECONDS * NANOSECONDS_PER_SECOND)
		snprintf(reason, size, "disk %s has not answered one of a guest's requests for %.0f s", name,
			 (double)waited / (double)NANOSECONDS_PER_SECOND);
	else
		return false;
	return true;
}

bool server_restart_obstacle(const struct server *server, char *reason, size_t size)
{
	const char *holds = NULL;

	for (unsigned i = 0; i < server->interface_count; i++)
		holds = look_at(&server->interfaces[i].frontend).holds ? server->interfaces[i].config->name : holds;
	for (unsigned i = 0; i < server->disk_count; i++)
		holds = look_at(&server->disks[i].frontend).holds ? server->disks[i].config->name : holds;
	/* The thread that closes them cannot be ended, not even by execv(), which would wait for it. */
	if (holds) {
		snprintf(reason, size,
			 "a file that the client of %s gave is not let go of (FUSE?): end that client first", holds);
		return true;
	}
	for (unsigned i = 0; i < server->disk_count; i++) {
		if (describe_obstacle(&server->disks[i], reason, size))
			return true;
	}
	return false;
}
