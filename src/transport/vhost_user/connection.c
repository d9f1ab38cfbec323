/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user connection: dispatch, quiescing, life. Framing is in transport/vhost_user/framing.c.
 *
 * Theory of operation
 * -------------------
 * Messages are taken one at a time:
 *
 *	READING    bytes come in as they come, never waiting; the header is checked against its row of the message table
 *	           (messages.c) before the payload is read, and the number of file descriptors after it
 *	QUIESCING  the running queues that the row names are stopped (virtio_queue_stop()), which may take as long as a
 *	           disk takes; the connection reads nothing meanwhile, everybody else goes on
 *	           then, in one go: the handler, a plain function that finds its queues at rest; the queues that should
 *	           run now are started, with whatever memory and addresses there are now; the reply
 *	REPLYING   only when the front-end's socket is full
 *	CLOSING    all queues are being stopped; then everything of the session is released
 *
 * So handlers need no lock and no second half, and a slow drain delays its own connection only. One message is handled
 * for each call from the event loop, so that a front-end that floods us does not starve the others'.
 *
 * Trust boundary: everything that arrives here is hostile: header, payload, file descriptors and their number, order
 * and repetition of messages. A payload has been copied out of the socket once and cannot change. File descriptors are
 * taken with whatever bytes bring them and owned by the message; those that a handler did not keep are closed in one
 * place, vhost_user_release_fds(). What is refused is counted, named in the status, logged through the device's limit,
 * and answered with an error where the front-end asked for an acknowledgement (REPLY_ACK), else by closing the
 * connection.
 *
 * Context: control thread.
 */
#include "transport/vhost_user/connection.h"

#include <errno.h>
#include <event2/event.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/notifier.h"

/* After so long the operator is told whom a message waits for. */
#define OVERDUE_SECONDS 10

static void handle_message(struct vhost_user_connection *connection);
static void finish_closing(struct vhost_user_connection *connection);

static void expect_message(struct vhost_user_connection *connection)
{
	connection->state = CONNECTION_READING;
	connection->received = 0;
	connection->sent = 0;
	connection->row = NULL;
	connection->reason = NULL;
	event_add(connection->readable, NULL);
}

static const char *message_name(const struct vhost_user_connection *connection)
{
	return connection->row ? connection->row->name : "message";
}

/* Tell the operator why a message was not done, once or, under a flood, a few times. */
static void record_refusal(struct vhost_user_connection *connection, int error)
{
	struct virtio_device *device = connection->device;

	if (!connection->reason)
		connection->reason = strerrordesc_np(-error);
	connection->last_error = connection->reason;
	if (connection->row)
		log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: vhost-user %s refused: %s", device->name,
			    connection->row->name, connection->reason);
	else
		log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: vhost-user message %u refused: %s",
			    device->name, connection->message.header.request, connection->reason);
}

static void close_because_of_message(struct vhost_user_connection *connection, int error)
{
	record_refusal(connection, error);
	connection->refused++;
	vhost_user_connection_close(connection, connection->reason);
}

/* ---- replying ---------------------------------------------------------------------------------------------------- */

static void push_reply(struct vhost_user_connection *connection)
{
	int error = vhost_user_send_reply(connection);

	if (!error) {
		expect_message(connection);
	} else if (error == -EAGAIN) {
		connection->state = CONNECTION_REPLYING;
		event_add(connection->writable, NULL);
	} else {
		vhost_user_connection_close(connection, "front-end went away");
	}
}

static void socket_writable(evutil_socket_t fd, short what, void *context)
{
	push_reply(context);
}

static void start_reply(struct vhost_user_connection *connection)
{
	connection->message.header.flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	connection->sent = 0;
	push_reply(connection);
}

/* The handler said @error: answer in the way of the row. */
static void answer(struct vhost_user_connection *connection, int error)
{
	struct vhost_user_message *message = &connection->message;
	bool wanted = message->header.flags & VHOST_USER_NEED_REPLY &&
		      vhost_user_negotiated(connection, VHOST_USER_PROTOCOL_REPLY_ACK);

	if (connection->row->reply == REPLY_OWN) {
		if (error)
			close_because_of_message(connection, error);
		else
			start_reply(connection);
		return;
	}
	if (error && !wanted) {
		close_because_of_message(connection, error);
		return;
	}
	if (error)
		record_refusal(connection, error);
	if (!wanted) {
		expect_message(connection);
		return;
	}
	message->payload.u64 = error ? 1 : 0;
	message->header.size = sizeof(message->payload.u64);
	start_reply(connection);
}

/* ---- dispatch ---------------------------------------------------------------------------------------------------- */

static void quiesced(struct vhost_user_connection *connection)
{
	if (--connection->stopping)
		return;
	event_del(connection->overdue);
	if (connection->state == CONNECTION_CLOSING)
		finish_closing(connection);
	else
		handle_message(connection);
}

static void queue_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	struct vhost_user_connection *connection = context;

	vhost_user_ring_stopped(connection, queue, base);
	quiesced(connection);
}

/* Stop queue @named, or all for -1; then quiesced() goes on. */
static void quiesce(struct vhost_user_connection *connection, int named)
{
	struct virtio_device *device = connection->device;

	connection->stopping = 1;
	for (uint16_t i = 0; i < device->queue_count; i++) {
		if ((named >= 0 && i != named) || device->queues[i].state != VIRTIO_QUEUE_RUNNING)
			continue;
		connection->stopping++;
		virtio_queue_stop(&device->queues[i], queue_stopped, connection);
	}
	if (connection->stopping > 1)
		event_add(connection->overdue, &(struct timeval){ .tv_sec = OVERDUE_SECONDS });
	quiesced(connection);
}

static void quiesce_overdue(evutil_socket_t fd, short what, void *context)
{
	struct vhost_user_connection *connection = context;
	struct virtio_device *device = connection->device;

	for (uint16_t i = 0; i < device->queue_count; i++) {
		if (device->queues[i].state == VIRTIO_QUEUE_STOPPING)
			log_warning("%s: %s has waited %u s for the requests in flight of queue %u", device->name,
				    connection->state == CONNECTION_CLOSING ? "closing" : message_name(connection),
				    OVERDUE_SECONDS, i);
	}
}

/* The queue that the message is about; -1: none, or it is about all. Return: -EINVAL when there is no such queue. */
static int named_queue(struct vhost_user_connection *connection, int *named)
{
	const union vhost_user_payload *payload = &connection->message.payload;
	uint64_t index;

	*named = -1;
	switch (connection->row->quiesce) {
	case QUIESCE_STATE_QUEUE:
		index = payload->state.index;
		break;
	case QUIESCE_ADDRESS_QUEUE:
		index = payload->address.index;
		break;
	case QUIESCE_FILE_QUEUE:
		index = payload->u64 & VHOST_USER_VRING_INDEX_MASK;
		break;
	default:
		return 0;
	}
	if (index >= connection->device->queue_count)
		return vhost_user_refuse(connection, -EINVAL, "there is no queue of this index");
	*named = (int)index;
	return 0;
}

static bool quiesce_needed(const struct vhost_user_connection *connection)
{
	if (connection->row->quiesce == QUIESCE_ALL_IF_ZERO)
		return !connection->message.payload.u64;
	return connection->row->quiesce != QUIESCE_NONE;
}

/* The message is complete and well formed. */
static void dispatch(struct vhost_user_connection *connection)
{
	int8_t feature = connection->row->feature;
	int named, error;

	connection->messages++;
	event_del(connection->readable);
	if (feature != VHOST_USER_ANY_TIME &&
	    !vhost_user_negotiated(connection, (enum vhost_user_protocol_feature)feature))
		error = vhost_user_refuse(connection, -EPROTO, "its protocol feature has not been negotiated");
	else
		error = named_queue(connection, &named);
	if (error) {
		vhost_user_release_fds(&connection->message);
		answer(connection, error);
		return;
	}
	connection->state = CONNECTION_QUIESCING;
	if (quiesce_needed(connection)) {
		quiesce(connection, named);
	} else {
		handle_message(connection);
	}
}

static void handle_message(struct vhost_user_connection *connection)
{
	int error, named, start_error;

	error = connection->row->handler(connection, &connection->message);
	vhost_user_release_fds(&connection->message);
	if (connection->row->reply == REPLY_ACK && quiesce_needed(connection)) {
		/* Also after a refusal: what was stopped for the message goes on as it was. */
		named_queue(connection, &named);
		start_error = vhost_user_rings_start(connection, error ? -1 : named);
		error = error ? error : start_error;
	} else if (connection->row->quiesce == QUIESCE_ALL) {
		vhost_user_rings_start(connection, -1);
	}
	answer(connection, error);
}

static void socket_readable(evutil_socket_t fd, short what, void *context)
{
	struct vhost_user_connection *connection = context;
	int error = vhost_user_receive(connection);

	if (!error)
		dispatch(connection);
	else if (error == -EPROTO)
		close_because_of_message(connection, error);
	else if (error != -EAGAIN)
		vhost_user_connection_close(connection, NULL);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void connection_finished(evutil_socket_t fd, short what, void *context)
{
	struct vhost_user_connection *connection = context;

	connection->state = CONNECTION_CLOSED;
	connection->closed(connection);
}

static void ring_broken(struct virtio_queue *queue)
{
	struct vhost_user_connection *connection = queue->device->transport;
	int err_fd = connection->vrings[queue->index].err_fd;

	if (err_fd >= 0)
		notifier_signal(engine_notifier(queue->device->engine), err_fd);
}

int vhost_user_connection_init(struct vhost_user_connection *connection, struct virtio_device *device,
			       struct event_base *base)
{
	*connection = (struct vhost_user_connection){
		.device = device, .base = base, .fd = -1, .reply_fd = -1, .backend_fd = -1
	};
	connection->overdue = event_new(base, -1, 0, quiesce_overdue, connection);
	connection->finished = event_new(base, -1, 0, connection_finished, connection);
	if (connection->overdue && connection->finished)
		return 0;
	vhost_user_connection_release(connection);
	return -ENOMEM;
}

void vhost_user_connection_release(struct vhost_user_connection *connection)
{
	if (connection->overdue)
		event_free(connection->overdue);
	if (connection->finished)
		event_free(connection->finished);
	connection->overdue = connection->finished = NULL;
}

int vhost_user_connection_open(struct vhost_user_connection *connection, int fd)
{
	struct virtio_device *device = connection->device;

	connection->memory = guest_memory_create();
	connection->readable = event_new(connection->base, fd, EV_READ | EV_PERSIST, socket_readable, connection);
	connection->writable = event_new(connection->base, fd, EV_WRITE, socket_writable, connection);
	if (!connection->memory || !connection->readable || !connection->writable) {
		if (connection->readable)
			event_free(connection->readable);
		if (connection->writable)
			event_free(connection->writable);
		guest_memory_free(connection->memory);
		connection->memory = NULL;
		close(fd);
		return -ENOMEM;
	}
	connection->fd = fd;
	connection->features = 0;
	connection->features_known = false;
	connection->protocol_features = 0;
	connection->status = 0;
	connection->message.fd_count = 0;
	vhost_user_rings_init(connection);
	device->transport = connection;
	device->config_changed = vhost_user_config_changed;
	device->queue_broken = ring_broken;
	expect_message(connection);
	return 0;
}

void vhost_user_connection_close(struct vhost_user_connection *connection, const char *reason)
{
	bool stopping = connection->state == CONNECTION_QUIESCING && connection->stopping;

	if (connection->state == CONNECTION_CLOSED || connection->state == CONNECTION_CLOSING)
		return;
	log_limited(&connection->device->log_limit, LOG_LEVEL_INFO, "%s: front-end disconnected%s%s",
		    connection->device->name, reason ? ": " : "", reason ? reason : "");
	connection->state = CONNECTION_CLOSING;
	event_del(connection->readable);
	event_del(connection->writable);
	vhost_user_release_fds(&connection->message);
	/* Now, not when the queues have stopped: who waits for a reply sees the end at once. */
	shutdown(connection->fd, SHUT_RDWR);
	/* A message's own quiesce that is under way ends in finish_closing(), which looks again for running queues. */
	if (!stopping)
		quiesce(connection, -1);
}

static void finish_closing(struct vhost_user_connection *connection)
{
	struct virtio_device *device = connection->device;

	for (uint16_t i = 0; i < device->queue_count; i++) {
		if (device->queues[i].state == VIRTIO_QUEUE_RUNNING) {
			quiesce(connection, -1);
			return;
		}
	}
	event_free(connection->readable);
	event_free(connection->writable);
	close(connection->fd);
	connection->fd = -1;
	if (connection->reply_fd >= 0)
		close(connection->reply_fd);
	connection->reply_fd = -1;
	device->config_changed = NULL;
	device->queue_broken = NULL;
	device->transport = NULL;
	vhost_user_backend_release(connection);
	vhost_user_rings_release(connection);
	vhost_user_memory_release(connection);
	inflight_area_unmap(connection->inflight);
	connection->inflight = NULL;
	device->acked_features = 0;
	if (device->ops->reset)
		device->ops->reset(device);
	/* From the loop, so that whoever is told may free the connection. */
	event_active(connection->finished, EV_TIMEOUT, 0);
}
