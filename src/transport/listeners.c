/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening sockets that outlive their daemon.
 *
 * Theory of operation
 * -------------------
 * In a restart in place (control/handover.h) nobody listens for some tenths of a second. A virtual machine monitor that
 * connects in that time would be refused, and one that starts a machine does not try again. So the daemon that goes
 * leaves its listening sockets to the next one as they are, files and all: who connects meanwhile waits in their queue,
 * and what he sends waits with him.
 *
 * Each has the path, and the identity of the file there. The next daemon takes the one whose path its configuration
 * names, while that file is still this socket: somebody else may have put his own there. All others are closed, and
 * their files removed.
 *
 * They are kept for a daemon that starts, not for one that cannot: who waits in the queue of a socket that nobody
 * serves is worse off than who is refused, because virtual machine monitors wait for the answer with the whole machine.
 * So a start that fails closes what it was left, as an end does.
 *
 * Context: control thread.
 */
#include "transport/listeners.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/disposal.h"
#include "base/file_kind.h"
#include "base/parcel.h"

#define TAG_LISTENERS 0x50000U
#define TAG_GROUP     0x50001U

/* As many as a parcel has files. */
#define LISTENERS_MAX PARCEL_FILES_MAX

struct saved_listener {
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	uint32_t reserved;
	uint64_t device, inode;
};

_Static_assert(sizeof(struct saved_listener) == 108 + 4 + 16, "no holes");

struct listeners {
	int group;
	bool keeping;
	struct disposal *disposal; /* who waits in a queue may have sent files */
	unsigned count;
	struct listener entries[LISTENERS_MAX];
};

struct listeners *listeners_create(int group)
{
	struct listeners *listeners = calloc(1, sizeof(*listeners));

	if (!listeners)
		return NULL;
	listeners->group = group;
	listeners->disposal = disposal_create();
	if (listeners->disposal)
		return listeners;
	free(listeners);
	return NULL;
}

void listeners_release(struct listeners *listeners)
{
	if (!listeners)
		return;
	listeners_settle(listeners);
	disposal_destroy(listeners->disposal);
	free(listeners);
}

unsigned listeners_count(const struct listeners *listeners)
{
	return listeners->count;
}

void listeners_settle(struct listeners *listeners)
{
	for (unsigned i = 0; i < listeners->count; i++)
		listener_close(&listeners->entries[i], listeners->disposal);
	listeners->count = 0;
}

/* ---- here -------------------------------------------------------------------------------------------------------- */

static bool file_is_there(const struct listener *listener)
{
	struct stat status;

	return !lstat(listener->address.sun_path, &status) && status.st_dev == listener->device &&
	       status.st_ino == listener->inode;
}

bool listeners_take(struct listeners *listeners, struct listener *listener)
{
	struct listener *entry = listeners->entries, *end = entry + listeners->count;

	while (entry < end && strcmp(entry->address.sun_path, listener->address.sun_path))
		entry++;
	if (listeners->keeping || entry == end || !file_is_there(entry))
		return false;
	listener->fd = entry->fd;
	listener->device = entry->device;
	listener->inode = entry->inode;
	*entry = listeners->entries[--listeners->count];
	return true;
}

void listeners_begin_keeping(struct listeners *listeners)
{
	listeners_settle(listeners);
	listeners->keeping = true;
}

bool listeners_keep(struct listeners *listeners, struct listener *listener)
{
	struct listener *entry = &listeners->entries[listeners->count];

	if (!listeners->keeping || listeners->count == LISTENERS_MAX || !file_is_there(listener))
		return false;
	*entry = *listener;
	entry->listeners = NULL; /* it ends here, should nobody want it */
	listener->fd = -1;
	listeners->count++;
	return true;
}

/* ---- from one daemon to the next --------------------------------------------------------------------------------- */

int listeners_move_away(struct listeners *listeners, int above)
{
	int error = 0;

	for (unsigned i = 0; i < listeners->count && !error; i++)
		error = parcel_move_file(&listeners->entries[i].fd, above);
	return error;
}

void listeners_save(const struct listeners *listeners, struct parcel *parcel)
{
	struct saved_listener *saved = calloc(listeners->count + 1, sizeof(*saved));
	int32_t group = listeners->group;

	if (!saved) {
		parcel_fail(parcel, "out of memory");
		return;
	}
	for (unsigned i = 0; i < listeners->count; i++) {
		const struct listener *listener = &listeners->entries[i];

		memcpy(saved[i].path, listener->address.sun_path, sizeof(saved[i].path));
		saved[i].device = listener->device;
		saved[i].inode = listener->inode;
		parcel_put_file(parcel, listener->fd);
	}
	parcel_put(parcel, TAG_GROUP, &group, sizeof(group));
	parcel_put(parcel, TAG_LISTENERS, saved, listeners->count * sizeof(*saved));
	free(saved);
}

static bool listens(int fd)
{
	socklen_t length = sizeof(int);
	int listening = 0;

	return file_is_unix_socket(fd) && !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) && listening;
}

static void load(struct listeners *listeners, const struct saved_listener *saved, int fd)
{
	struct listener *listener = &listeners->entries[listeners->count];
	const char *reason;

	if (saved->path[sizeof(saved->path) - 1] || listener_address(listener, saved->path, NULL, &reason) ||
	    !listens(fd)) {
		disposal_close(listeners->disposal, fd);
		return;
	}
	listener->fd = fd;
	listener->device = saved->device;
	listener->inode = saved->inode;
	listeners->count++;
}

int listeners_load(struct listeners *listeners, struct parcel *parcel)
{
	struct saved_listener *saved = calloc(LISTENERS_MAX, sizeof(*saved));
	size_t count = 0;
	int32_t group;

	if (!saved)
		return -ENOMEM;
	if (!parcel_get(parcel, TAG_GROUP, &group, sizeof(group)))
		count = parcel_get_array(parcel, TAG_LISTENERS, saved, sizeof(*saved), LISTENERS_MAX);
	for (size_t i = 0; i < count && !parcel->failed; i++) {
		int fd = parcel_get_file(parcel);

		if (fd >= 0)
			load(listeners, &saved[i], fd);
	}
	free(saved);
	if (parcel->failed)
		return -EBADMSG;
	/* Files of another group are made anew, as the configuration says it now. */
	if (group != listeners->group)
		listeners_settle(listeners);
	return 0;
}
