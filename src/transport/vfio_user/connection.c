/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user connection: dispatch, rest, life. Framing is in transport/vfio_user/framing.c.
 *
 * Theory of operation
 * -------------------
 * Messages are taken one at a time and in their order, as the protocol wants it ("Command Concurrency"):
 *
 *	READING    bytes come in as they come, never waiting, and ahead of the message that is due. Size, file descriptors
 *	           and flags of a complete message are checked against its row of the message table (messages.c)
 *	WORKING    the device needs time: it is being brought to rest for a change of its memory, or resets, or a register
 *	           ends a queue. It is asked for one thing at a time, and says when it is done (pci_device_done()). The
 *	           connection reads nothing meanwhile, everybody else goes on: a vCPU that waits for an answer waits for
 *	           its own guest's requests and for nobody else's
 *	           then: the handler, a plain function; the reply
 *	REPLYING   only when the client's socket is full; nothing is read, so that what a client can make us hold is one
 *	           buffer and one reply
 *	CLOSING    the device is paused and reset, and everything of the session released
 *
 * A turn of the event loop takes a bounded number of messages (TURN_MESSAGES) from a connection, and begins none when it
 * has taken TURN_NANOSECONDS: a guest that floods us with posted writes does not starve the others. Messages differ by
 * three orders of magnitude in what they cost (one may read a thousand registers, or write 200 that each do something),
 * which a number alone does not bound.
 *
 * *Errors.* What is refused is answered with an errno, counted, named in the status and logged through the device's limit;
 * the session goes on, because a client that loses its server loses its device for ever. Only a stream whose framing cannot
 * be believed any more (a size that is impossible, a reply) ends the connection. Posted messages (No_reply) are never
 * answered, also not with an error.
 *
 * *Memory.* VMMs change a guest's memory in bursts: all that changes is unmapped, then mapped again in other pieces, while
 * the guest stands still. A device that went on in between would find that its rings are nowhere. So it stays paused, after
 * a message that changed its memory, until as much memory is shared as before the pause; or until a message about something
 * else comes; or for MEMORY_PATIENCE (memory that was unplugged does not come back). Each message is answered as soon as the
 * device uses the new map. Files stay mapped meanwhile (memory.c), so that such a burst costs no mmap().
 *
 * *Server restart.* When the connection ends, the device is reset: a new client finds it as after power-on. QEMU (11.1 and
 * before) never connects again, its device is dead until its machine ends. So a daemon that makes room for another one
 * leaves connections and devices to it: transport/vfio_user/handover.c.
 *
 * Trust boundary: everything that arrives here is hostile: header, payload, file descriptors and their number, order and
 * repetition of messages. A payload has been copied out of the socket once and cannot change. File descriptors that a
 * handler did not keep are closed in one place, vfio_user_release_fds(), and never waited for (base/disposal.h).
 *
 * Context: control thread.
 */
#include "transport/vfio_user/connection.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/disposal.h"
#include "base/log.h"

/* For each connection in a turn of the event loop. */
#define TURN_MESSAGES	 32U
#define TURN_NANOSECONDS (200 * NANOSECONDS_PER_MICROSECOND)

/* After so long the operator is told whom a message waits for. */
#define OVERDUE_SECONDS 10

/* How long memory that was taken away may take to come back. QEMU's bursts last microseconds, but QEMU can be
 * preempted. */
#define MEMORY_PATIENCE_MICROSECONDS 100000

static void handle_message(struct vfio_user_connection *connection);
static void device_done(struct pci_device *device);

static void expect_message(struct vfio_user_connection *connection)
{
	connection->row = NULL;
	connection->reason = NULL;
	if (connection->state == CONNECTION_READING)
		return; /* within a turn: it goes on by itself */
	if (connection->leaving) {
		vfio_user_leave(connection);
		return;
	}
	connection->state = CONNECTION_READING;
	event_add(connection->readable, NULL);
	event_add(connection->more, &(struct timeval){ 0 }); /* for what has been read ahead */
}

void vfio_user_leave_reading(struct vfio_user_connection *connection, enum vfio_user_connection_state state)
{
	connection->state = state;
	event_del(connection->readable);
	event_del(connection->more);
}

/* Tell the operator why a message was not done, once or, under a flood, a few times. */
static void record_refusal(struct vfio_user_connection *connection, int error)
{
	struct pci_device *device = connection->device;

	if (!connection->reason)
		connection->reason = strerrordesc_np(-error);
	connection->last_error = connection->reason;
	if (connection->row)
		log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: vfio-user %s refused: %s", device->name,
			    connection->row->name, connection->reason);
	else
		log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: vfio-user message refused: %s", device->name,
			    connection->reason);
}

static void close_because_of_message(struct vfio_user_connection *connection, int error)
{
	connection->row = NULL;
	record_refusal(connection, error);
	connection->refused++;
	vfio_user_connection_close(connection, connection->reason);
}

/* ---- replying ---------------------------------------------------------------------------------------------------- */

static void push_reply(struct vfio_user_connection *connection)
{
	int error = vfio_user_send_reply(connection);

	if (!error) {
		expect_message(connection);
	} else if (error == -EAGAIN) {
		vfio_user_leave_reading(connection, CONNECTION_REPLYING);
		event_add(connection->writable, NULL);
		if (connection->leaving)
			vfio_user_connection_hand_over(connection); /* which does not wait for ever */
	} else {
		vfio_user_connection_close(connection, "client went away");
	}
}

static void socket_writable(evutil_socket_t fd, short what, void *context)
{
	push_reply(context);
}

/* The message has been done, or refused with @error. */
static void answer(struct vfio_user_connection *connection, int error)
{
	struct vfio_user_message *message = &connection->message;

	/* A question whose answer is no (messages.c) is not worth a line. */
	if (error && !(connection->row && !connection->row->handler)) {
		connection->errors++;
		record_refusal(connection, error);
	}
	if (message->header.flags & VFIO_USER_NO_REPLY) {
		connection->reply_fd = -1;
		expect_message(connection);
		return;
	}
	if (error) {
		connection->reply_fd = -1;
		message->size = 0;
	}
	message->header.flags = VFIO_USER_TYPE_REPLY | (error ? VFIO_USER_ERROR : 0);
	message->header.error = (uint32_t)-error;
	message->header.size = (uint32_t)sizeof(message->header) + message->size;
	connection->sent = 0;
	push_reply(connection);
}

/* ---- rest -------------------------------------------------------------------------------------------------------- */

bool vfio_user_deferred(struct vfio_user_connection *connection, enum vfio_user_operation operation,
			enum pci_result result)
{
	if (result != PCI_DEFERRED)
		return false;
	connection->operation = operation;
	event_add(connection->overdue, &(struct timeval){ .tv_sec = OVERDUE_SECONDS });
	return true;
}

static void operation_overdue(evutil_socket_t fd, short what, void *context)
{
	struct vfio_user_connection *connection = context;

	log_warning("%s: %s has waited %u s for the device's requests in flight", connection->device->name,
		    connection->state == CONNECTION_CLOSING ? "closing"
		    : connection->row			    ? connection->row->name
							    : "connecting",
		    OVERDUE_SECONDS);
}

static void resume(struct vfio_user_connection *connection)
{
	if (!connection->paused)
		return;
	connection->paused = false;
	event_del(connection->memory_due);
	vfio_user_memory_settle(&connection->memory);
	connection->device->ops->resume(connection->device);
}

/* A message may have changed the memory: does the device go on, or is more to come? See the theory of operation. */
static void resume_if_settled(struct vfio_user_connection *connection)
{
	if (!connection->paused)
		return;
	if (connection->memory.shared >= connection->expected)
		resume(connection);
	else
		event_add(connection->memory_due, &(struct timeval){ .tv_usec = MEMORY_PATIENCE_MICROSECONDS });
}

static void memory_overdue(evutil_socket_t fd, short what, void *context)
{
	struct vfio_user_connection *connection = context;

	/* Not while a message is being handled: it decides itself. */
	if (connection->state == CONNECTION_READING || connection->state == CONNECTION_REPLYING)
		resume(connection);
}

/* ---- dispatch ---------------------------------------------------------------------------------------------------- */

/* A message is complete. */
static void dispatch(struct vfio_user_connection *connection)
{
	struct vfio_user_message *message = &connection->message;
	struct pci_device *device = connection->device;
	int error;

	connection->row = vfio_user_row(message->header.command);
	connection->messages++;
	connection->kinds[connection->row ? connection->row->kind : KIND_OTHER]++;
	connection->posted += !!(message->header.flags & VFIO_USER_NO_REPLY);
	connection->progress = 0;
	error = vfio_user_check_message(connection);
	if (error) {
		vfio_user_release_fds(connection);
		answer(connection, error);
		return;
	}
	if (!connection->row->rest) {
		resume(connection);
	} else if (!connection->paused && connection->row->rest(connection, message)) {
		connection->expected = connection->memory.shared;
		if (vfio_user_deferred(connection, OPERATION_PAUSE, device->ops->pause(device))) {
			vfio_user_leave_reading(connection, CONNECTION_WORKING);
			return;
		}
		connection->paused = true;
	}
	handle_message(connection);
}

static void handle_message(struct vfio_user_connection *connection)
{
	int error = connection->row->handler(connection, &connection->message);

	if (error == VFIO_USER_DEFERRED) {
		vfio_user_deferred(connection, OPERATION_HANDLER, PCI_DEFERRED);
		vfio_user_leave_reading(connection, CONNECTION_WORKING);
		return;
	}
	vfio_user_release_fds(connection);
	if (connection->row->rest)
		resume_if_settled(connection);
	answer(connection, error);
}

static void take_turn(struct vfio_user_connection *connection)
{
	uint64_t end = clock_nanoseconds() + TURN_NANOSECONDS;

	for (unsigned i = 0; i < TURN_MESSAGES && (!i || clock_nanoseconds() < end); i++) {
		int error = vfio_user_receive(connection);

		if (error == -EAGAIN)
			return;
		if (error == -EPROTO) {
			close_because_of_message(connection, error);
			return;
		}
		if (error) {
			vfio_user_connection_close(connection, NULL);
			return;
		}
		dispatch(connection);
		if (connection->state != CONNECTION_READING)
			return;
	}
	/* The socket tells by itself of what is in it, the buffer does not. */
	if (connection->buffer_start != connection->buffer_end)
		event_add(connection->more, &(struct timeval){ 0 });
}

static void socket_readable(evutil_socket_t fd, short what, void *context)
{
	take_turn(context);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* The model has been reset; what the guest has told it before is forgotten. */
static void opened(struct vfio_user_connection *connection)
{
	pci_device_config_reset(connection->device);
	resume(connection);
	expect_message(connection);
}

static void finish_closing(struct vfio_user_connection *connection)
{
	struct pci_device *device = connection->device;

	pci_device_config_reset(device);
	event_free(connection->readable);
	event_free(connection->writable);
	/* A socket that another daemon has now is neither shut down nor emptied. */
	if (connection->parcel >= 0)
		close(connection->fd);
	else
		disposal_close(connection->disposal, connection->fd);
	connection->fd = -1;
	connection->reply_fd = -1;
	device->host = NULL;
	device->transport = NULL;
	device->memory = NULL;
	vfio_user_memory_release(&connection->memory);
	/* From the loop, so that whoever is told may free the connection. */
	event_active(connection->finished, EV_TIMEOUT, 0);
}

void vfio_user_close_next(struct vfio_user_connection *connection)
{
	struct pci_device *device = connection->device;

	if (!connection->paused) {
		if (vfio_user_deferred(connection, OPERATION_CLOSE_PAUSE, device->ops->pause(device)))
			return;
		connection->paused = true;
	}
	vfio_user_interrupts_release(connection);
	if (!vfio_user_deferred(connection, OPERATION_CLOSE_RESET, device->ops->reset(device)))
		finish_closing(connection);
}

static void device_done(struct pci_device *device)
{
	struct vfio_user_connection *connection = device->transport;
	enum vfio_user_operation operation = connection->operation;

	connection->operation = OPERATION_NONE;
	event_del(connection->overdue);
	if (operation == OPERATION_PAUSE || operation == OPERATION_CLOSE_PAUSE || operation == OPERATION_LEAVE_PAUSE)
		connection->paused = true;

	if (operation == OPERATION_CLOSE_RESET)
		finish_closing(connection);
	else if (connection->state == CONNECTION_CLOSING)
		vfio_user_close_next(connection);
	else if (operation == OPERATION_OPEN_RESET)
		opened(connection);
	else if (operation == OPERATION_LEAVE_PAUSE)
		vfio_user_leave_paused(connection);
	else if (operation != OPERATION_NONE)
		handle_message(connection);
}

static void connection_finished(evutil_socket_t fd, short what, void *context)
{
	struct vfio_user_connection *connection = context;

	connection->state = CONNECTION_CLOSED;
	connection->closed(connection);
}

int vfio_user_connection_init(struct vfio_user_connection *connection, struct pci_device *device,
			      struct event_base *base)
{
	memset(connection, 0, sizeof(*connection));
	connection->device = device;
	connection->base = base;
	connection->fd = connection->reply_fd = connection->parcel = -1;
	connection->mask_watch.fd = connection->unmask_watch.fd = -1;
	connection->overdue = event_new(base, -1, 0, operation_overdue, connection);
	connection->finished = event_new(base, -1, 0, connection_finished, connection);
	connection->more = event_new(base, -1, 0, socket_readable, connection);
	connection->memory_due = event_new(base, -1, 0, memory_overdue, connection);
	connection->leave_due = event_new(base, -1, 0, vfio_user_leave_overdue, connection);
	connection->disposal = disposal_create();
	if (connection->overdue && connection->finished && connection->more && connection->memory_due &&
	    connection->leave_due && connection->disposal)
		return 0;
	vfio_user_connection_release(connection);
	return -ENOMEM;
}

void vfio_user_connection_release(struct vfio_user_connection *connection)
{
	struct event **events[] = { &connection->overdue, &connection->finished, &connection->more,
				    &connection->memory_due, &connection->leave_due };

	for (unsigned i = 0; i < array_size(events); i++) {
		if (*events[i])
			event_free(*events[i]);
		*events[i] = NULL;
	}
	disposal_destroy(connection->disposal);
	connection->disposal = NULL;
}

static const struct pci_device_host host = { .done = device_done };

int vfio_user_connection_begin(struct vfio_user_connection *connection, int fd)
{
	struct pci_device *device = connection->device;
	int error = vfio_user_memory_init(&connection->memory);

	connection->readable = event_new(connection->base, fd, EV_READ | EV_PERSIST, socket_readable, connection);
	connection->writable = event_new(connection->base, fd, EV_WRITE, socket_writable, connection);
	if (error || !connection->readable || !connection->writable) {
		if (connection->readable)
			event_free(connection->readable);
		if (connection->writable)
			event_free(connection->writable);
		vfio_user_memory_release(&connection->memory);
		disposal_close(connection->disposal, fd);
		return -ENOMEM;
	}
	connection->fd = fd;
	connection->agreed = false;
	connection->leaving = false;
	connection->drained = false;
	connection->buffer_start = connection->buffer_end = 0;
	connection->message.fd_count = 0;
	connection->row = NULL;
	connection->paused = true; /* as every device without a client */
	connection->state = CONNECTION_WORKING;
	device->host = &host;
	device->transport = connection;
	device->memory = connection->memory.map;
	return 0;
}

void vfio_user_connection_go_on(struct vfio_user_connection *connection, bool await_memory)
{
	/* From the event loop in any case, when all other devices are there to be sent to. */
	event_add(connection->memory_due,
		  &(struct timeval){ .tv_usec = await_memory ? MEMORY_PATIENCE_MICROSECONDS : 0 });
	expect_message(connection);
}

int vfio_user_connection_open(struct vfio_user_connection *connection, int fd)
{
	struct pci_device *device = connection->device;
	int error = 0;

	/* The client before may have kept what it was given: this one must not share it. */
	if (connection->windows_given)
		error = pci_device_renew_windows(device);
	if (error) {
		disposal_close(connection->disposal, fd);
		return error;
	}
	connection->windows_given = false;
	error = vfio_user_connection_begin(connection, fd);
	if (!error && !vfio_user_deferred(connection, OPERATION_OPEN_RESET, device->ops->reset(device)))
		opened(connection);
	return error;
}

void vfio_user_connection_close(struct vfio_user_connection *connection, const char *reason)
{
	if (connection->state == CONNECTION_CLOSED || connection->state == CONNECTION_CLOSING)
		return;
	log_limited(&connection->lives, LOG_LEVEL_INFO, "%s: client disconnected%s%s", connection->device->name,
		    reason ? ": " : "", reason ? reason : "");
	vfio_user_leave_reading(connection, CONNECTION_CLOSING);
	event_del(connection->writable);
	event_del(connection->memory_due);
	event_del(connection->leave_due);
	vfio_user_release_fds(connection);
	vfio_user_release_held_fds(connection);
	/* Now, not when the device has come to rest: who waits for a reply sees the end at once. Not what is another's
	 * now. */
	if (connection->parcel < 0)
		shutdown(connection->fd, SHUT_RDWR);
	/* Something that the device is doing for a message ends first; device_done() goes on. */
	if (connection->operation == OPERATION_NONE)
		vfio_user_close_next(connection);
}
