/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vfio-user session that outlives its daemon: how one daemon leaves it, and how the next one goes on with it.
 *
 * Theory of operation
 * -------------------
 * No client connects again to a vfio-user server that has gone. So a daemon that makes room for another one (a restart,
 * an upgrade) leaves the client's socket open, together with all that the session is made of. The client notices
 * nothing: what it sends meanwhile waits in the socket, what its guest stores into windows waits in their memory, and a
 * vCPU that waits for an answer gets it from the new daemon. (QEMU gives up after five seconds, x-msg-timeout.)
 *
 * *Leaving* begins between two messages. One that is being handled is finished and answered first. A client that does
 * not take an answer within LEAVE_SECONDS is let go: there is nobody whom half an answer could be left to. Then the
 * device is paused: every request in flight has come back, each exactly once. Then all goes into a parcel
 * (base/parcel.h): bytes that were read ahead and are no message yet, with files that came with them; DMA mappings with
 * the files behind them; pin masks; the device itself (device/pci/pci_state.c). From here on the session is the next
 * daemon's: our device gets other windows before it is reset, and our end of the socket is closed without a shutdown.
 *
 * *Adopting* makes the session anew, by the same functions that serve a client's messages, which believe nothing: each
 * DMA mapping is the message DMA_MAP once more. A device that waited for its memory to come back (connection.c,
 * "Memory") waits on. If anything fails the client is disconnected, as it would have been without all this, with the
 * reason in the log; nobody else is concerned.
 *
 * *What cannot be had:* a daemon that dies (kill -9, a crash) saves nothing. Its clients' sockets die with it, and
 * requests in flight would be in nobody's hands: each may have been done, or not. Keeping the sockets alive elsewhere
 * would need a log of all state and requests outside of the process, kept at every change of it.
 *
 * Context: control thread.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/file_kind.h"
#include "base/log.h"
#include "base/parcel.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

#define LEAVE_SECONDS 1

#define TAG_SESSION 0x40000U
#define TAG_BYTES   0x40001U
#define TAG_MAPS    0x40002U

#define NO_FILE UINT32_MAX

struct saved_session {
	uint64_t expected, messages, kinds[VFIO_USER_KINDS], posted, refused, errors;
	uint32_t agreed, await_memory, trap_windows;
	uint32_t file_count, held_count;
	uint32_t mask_watched, unmask_watched, reserved;
};

struct saved_map {
	uint64_t address, size, offset;
	uint32_t file, reserved; /* number of the file; NO_FILE: it cannot be translated */
};

_Static_assert(sizeof(struct saved_session) == (5 + VFIO_USER_KINDS) * 8 + 8 * 4, "no holes");
_Static_assert(sizeof(struct saved_map) == 32, "no holes");

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* The file behind a mapping, and where in it. */
static void find_file(const struct vfio_user_memory *memory, const struct vfio_user_map *map, struct saved_map *saved)
{
	for (unsigned i = 0; i < memory->map->region_count; i++) {
		const struct guest_region *region = memory->map->regions[i];

		if (region->guest_address != map->address || region->size != map->size)
			continue;
		saved->offset = region->file_offset;
		for (unsigned j = 0; j < memory->file_count; j++) {
			if (memory->files[j].mapping == region->mapping)
				saved->file = j;
		}
	}
}

static void save_memory(const struct vfio_user_memory *memory, struct parcel *parcel)
{
	static const struct saved_map nothing;
	struct saved_map saved[VFIO_USER_MAPS_MAX];

	for (unsigned i = 0; i < memory->map_count; i++) {
		saved[i] = nothing;
		saved[i].address = memory->maps[i].address;
		saved[i].size = memory->maps[i].size;
		saved[i].file = NO_FILE;
		if (memory->maps[i].translatable)
			find_file(memory, &memory->maps[i], &saved[i]);
	}
	parcel_put(parcel, TAG_MAPS, saved, memory->map_count * sizeof(saved[0]));
}

static void save(struct vfio_user_connection *connection, struct parcel *parcel)
{
	struct vfio_user_memory *memory = &connection->memory;
	struct saved_session saved = {
		.expected = connection->expected,
		.messages = connection->messages,
		.posted = connection->posted,
		.refused = connection->refused,
		.errors = connection->errors,
		.agreed = connection->agreed,
		.await_memory = connection->await_memory,
		.trap_windows = connection->trap_windows,
		.held_count = connection->held_count,
		.mask_watched = connection->mask_watch.fd >= 0,
		.unmask_watched = connection->unmask_watch.fd >= 0,
	};

	vfio_user_memory_settle(memory);
	saved.file_count = memory->file_count;
	memcpy(saved.kinds, connection->kinds, sizeof(saved.kinds));
	parcel_put(parcel, TAG_SESSION, &saved, sizeof(saved));
	parcel_put(parcel, TAG_BYTES, connection->buffer + connection->buffer_start,
		   connection->buffer_end - connection->buffer_start);
	save_memory(memory, parcel);

	parcel_put_file(parcel, connection->fd);
	for (unsigned i = 0; i < memory->file_count; i++)
		parcel_put_file(parcel, memory->files[i].fd);
	for (unsigned i = 0; i < connection->held_count; i++)
		parcel_put_file(parcel, connection->held[i]);
	if (saved.mask_watched)
		parcel_put_file(parcel, connection->mask_watch.fd);
	if (saved.unmask_watched)
		parcel_put_file(parcel, connection->unmask_watch.fd);
	pci_device_save(connection->device, parcel);
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

void vfio_user_connection_hand_over(struct vfio_user_connection *connection)
{
	connection->leaving = true;
	switch (connection->state) {
	case CONNECTION_READING:
		vfio_user_leave(connection);
		break;
	case CONNECTION_REPLYING:
		event_add(connection->leave_due, &(struct timeval){ .tv_sec = LEAVE_SECONDS });
		break;
	default: /* the message that is under way comes to its end, or the session does */
		break;
	}
}

void vfio_user_leave_overdue(int fd, short what, void *context)
{
	vfio_user_connection_close(context, "it does not take an answer, and the daemon is about to be restarted");
}

void vfio_user_leave(struct vfio_user_connection *connection)
{
	struct pci_device *device = connection->device;

	vfio_user_leave_reading(connection, CONNECTION_LEAVING);
	event_del(connection->leave_due);
	event_del(connection->memory_due);
	connection->await_memory = connection->paused;
	if (!connection->paused) {
		if (vfio_user_deferred(connection, OPERATION_LEAVE_PAUSE, device->ops->pause(device)))
			return;
		connection->paused = true;
	}
	vfio_user_leave_paused(connection);
}

/* Return: the parcel's descriptor, or a negative errno with @reason. */
static int make_parcel(struct vfio_user_connection *connection, const char **reason)
{
	struct pci_device *device = connection->device;
	struct parcel parcel = { 0 };
	int fd, error;

	snprintf(parcel.kind, sizeof(parcel.kind), "%s", device->ops->type);
	snprintf(parcel.name, sizeof(parcel.name), "%s", device->name);
	save(connection, &parcel);
	fd = parcel_seal(&parcel);
	*reason = parcel.failed ? parcel.reason : fd < 0 ? strerrordesc_np(-fd) : NULL;
	parcel_release(&parcel, NULL);
	if (fd < 0)
		return fd;
	/* What our device does until it is gone, it does in memory of its own. */
	error = pci_device_renew_windows(device);
	if (!error)
		return fd;
	close(fd);
	*reason = strerrordesc_np(-error);
	return error;
}

void vfio_user_leave_paused(struct vfio_user_connection *connection)
{
	const char *reason = NULL;
	int fd = make_parcel(connection, &reason);

	if (fd < 0) {
		log_warning("%s: its client cannot be handed over to the next daemon: %s", connection->device->name,
			    reason);
		vfio_user_connection_close(connection, "it cannot be handed over");
		return;
	}
	log_info("%s: client left to the next daemon", connection->device->name);
	connection->parcel = fd;
	connection->state = CONNECTION_CLOSING;
	vfio_user_release_held_fds(connection);
	vfio_user_close_next(connection);
}

/* ---- adopting ---------------------------------------------------------------------------------------------------- */

static int adopt_map(struct vfio_user_connection *connection, const struct saved_map *saved, const int *files,
		     unsigned file_count, struct parcel *parcel)
{
	struct vfio_user_message *message = &connection->message;
	int error;

	if (saved->file != NO_FILE && saved->file >= file_count)
		return parcel_fail(parcel, "a mapping without its file");
	message->payload.map = (struct vfio_user_dma_map){
		.argsz = sizeof(message->payload.map),
		.flags = VFIO_USER_DMA_READABLE,
		.offset = saved->offset,
		.address = saved->address,
		.size = saved->size,
	};
	message->fd_count = 0;
	if (saved->file != NO_FILE) {
		message->payload.map.flags |= VFIO_USER_DMA_WRITEABLE;
		message->fds[0] = files[saved->file]; /* the handler does not keep it, nor does anybody close it */
		message->fd_count = 1;
	}
	error = vfio_user_dma_map(connection, message);
	message->fd_count = 0;
	if (error)
		return parcel_fail(parcel, connection->reason ? connection->reason : strerrordesc_np(-error));
	return 0;
}

static int adopt_memory(struct vfio_user_connection *connection, unsigned file_count, struct parcel *parcel)
{
	struct saved_map maps[VFIO_USER_MAPS_MAX];
	int files[VFIO_USER_FILES_MAX], error = 0;
	size_t count = parcel_get_array(parcel, TAG_MAPS, maps, sizeof(maps[0]), VFIO_USER_MAPS_MAX);

	if (file_count > VFIO_USER_FILES_MAX)
		return parcel_fail(parcel, "more files of memory than there can be");
	for (unsigned i = 0; i < file_count; i++)
		files[i] = parcel_get_file(parcel);
	if (parcel->failed)
		error = -EBADMSG;
	for (size_t i = 0; i < count && !error; i++)
		error = adopt_map(connection, &maps[i], files, file_count, parcel);
	for (unsigned i = 0; i < file_count; i++)
		disposal_close(connection->disposal, files[i]);
	return error;
}

static int adopt_held(struct vfio_user_connection *connection, unsigned count, struct parcel *parcel)
{
	if (count > VFIO_USER_FDS_MAX)
		return parcel_fail(parcel, "more files of a message than there can be");
	for (unsigned i = 0; i < count && !parcel->failed; i++) {
		int fd = parcel_get_file(parcel);

		if (fd >= 0)
			connection->held[connection->held_count++] = fd;
	}
	return parcel->failed ? -EBADMSG : 0;
}

static int adopt_watch(struct vfio_user_connection *connection, bool unmask, struct parcel *parcel)
{
	int fd = parcel_get_file(parcel);

	if (fd < 0)
		return -EBADMSG;
	if (!file_is_eventfd(fd) || vfio_user_watch_pin(connection, unmask, fd)) {
		disposal_close(connection->disposal, fd);
		return parcel_fail(parcel, "what masks its pin cannot be watched");
	}
	return 0;
}

static int load(struct vfio_user_connection *connection, const struct saved_session *saved, struct parcel *parcel)
{
	int error;

	connection->buffer_end = parcel_get_array(parcel, TAG_BYTES, connection->buffer, 1, sizeof(connection->buffer));
	error = adopt_memory(connection, saved->file_count, parcel);
	if (!error)
		error = adopt_held(connection, saved->held_count, parcel);
	if (!error && saved->mask_watched)
		error = adopt_watch(connection, false, parcel);
	if (!error && saved->unmask_watched)
		error = adopt_watch(connection, true, parcel);
	if (!error)
		error = pci_device_load(connection->device, parcel);
	if (!error && (parcel->position != parcel->length || parcel->file_position != parcel->file_count))
		error = parcel_fail(parcel, "there is more in it than there should be");
	return error;
}

/* Everything but what the device says. */
static void restore_session(struct vfio_user_connection *connection, const struct saved_session *saved)
{
	connection->agreed = saved->agreed & 1;
	connection->expected = saved->expected;
	connection->messages = saved->messages;
	memcpy(connection->kinds, saved->kinds, sizeof(connection->kinds));
	connection->posted = saved->posted;
	connection->refused = saved->refused;
	connection->errors = saved->errors;
}

int vfio_user_connection_adopt(struct vfio_user_connection *connection, struct parcel *parcel)
{
	struct saved_session saved;
	int error = parcel_get(parcel, TAG_SESSION, &saved, sizeof(saved));
	int fd = parcel_get_file(parcel);

	if (!error && (fd < 0 || !file_is_unix_socket(fd)))
		error = parcel_fail(parcel, "there is no client in it");
	if (!error && saved.trap_windows != connection->trap_windows)
		error = parcel_fail(parcel, "its doorbells are offered in another way now");
	if (error) {
		disposal_close(connection->disposal, fd);
		return error;
	}
	/* Its client has the windows that the device is about to get. */
	connection->windows_given = true;
	error = vfio_user_connection_begin(connection, fd);
	if (error)
		return error;
	error = load(connection, &saved, parcel);
	if (error) {
		vfio_user_connection_close(connection, parcel->reason);
		return error;
	}
	restore_session(connection, &saved);
	vfio_user_connection_go_on(connection, saved.await_memory);
	return 0;
}
