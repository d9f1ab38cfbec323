/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The helper thread of an NBD disk: connection, commands, reconnects, timeouts.
 *
 * Theory of operation
 * -------------------
 * One loop: take what sidecores submitted, issue as many commands as there are slots, wait in poll() for the server,
 * for submissions or for the next deadline, retire what is done, hand it back.
 *
 * A request is one command, or several chunks one after the other. What is left of it and lies in one segment goes
 * straight between socket and guest memory; several segments go through the slot's buffer (a command for each page
 * would cost more than the copy). A durable write carries FUA, or is followed by a flush where the server has no FUA.
 *
 * When the connection is lost, what was under way waits for the next one, first. Repeating is safe: none of it has been
 * answered. A request that loses its connection ATTEMPTS_MAX times fails with -EIO; perhaps it is the cause. The pause
 * before each new connection doubles until a server has answered a command: one that only accepts connections, or
 * answers nonsense, costs neither time nor log lines without end.
 *
 * A server that does not answer: libnbd cannot take a command back, and its buffer is guest memory. So when a deadline
 * passes the connection is closed first, and only then does the request fail; the others under way are repeated.
 *
 * The completion callback runs inside libnbd, which is locked then: it only notes the result.
 *
 * Context: the thread, alone with its part of struct nbd_disk.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "block/nbd.h"

#define CONNECT_TIMEOUT (5 * NANOSECONDS_PER_SECOND)
#define BACKOFF_FIRST	(50 * NANOSECONDS_PER_MILLISECOND)
#define BACKOFF_LAST	(2 * NANOSECONDS_PER_SECOND)
#define IDLE_WAIT	(10 * NANOSECONDS_PER_SECOND)
#define DIRECT_MAX	(4U << 20)
#define ATTEMPTS_MAX	5

enum stage {
	STAGE_COMMAND,
	STAGE_SYNC, /* the flush after a durable write, for servers without FUA */
};

static void opened(struct nbd_disk *nbd, int result, const char *text)
{
	if (nbd->ever_ready || nbd->open_result)
		return;
	nbd->open_result = result;
	snprintf(nbd->open_text, sizeof(nbd->open_text), "%s%s", text,
		 result == -ENOENT || result == -ECONNREFUSED || result == -ETIMEDOUT ? "; is the server there?" : "");
	sem_post(&nbd->opened);
}

/* Hands @request back to its sidecore. */
static void complete(struct block_request *request, int status)
{
	struct nbd_channel *channel = container_of(request->channel, struct nbd_channel, channel);
	struct sidecore *sidecore = channel->channel.sidecore;
	struct block_request *head = atomic_load_explicit(&channel->completed, memory_order_relaxed);

	/* Acquire, too: pairs with the release of take_completed(), for the message that is posted again. */
	request->status = status;
	do {
		request->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&channel->completed, &head, request, memory_order_acq_rel,
							memory_order_relaxed));
	if (!head)
		sidecore_post(sidecore, &channel->message);
}

static void wait_first(struct nbd_disk *nbd, struct block_request *request)
{
	if (!nbd->waiting.first)
		nbd->waiting.last = request;
	request->next = nbd->waiting.first;
	nbd->waiting.first = request;
}

static void free_slot(struct nbd_slot *slot)
{
	slot->request = NULL;
	slot->done = false;
}

/* Closes the connection; what was under way waits for the next one. */
static void disconnect(struct nbd_disk *nbd, uint64_t now)
{
	if (nbd->ready)
		log_warning("disk %s: connection to %s lost; connecting again", nbd->disk.name, nbd->uri);
	nbd_close(nbd->handle); /* after this libnbd touches no buffer any more */
	nbd->handle = NULL;
	nbd->ready = false;
	atomic_store(&nbd->connected, false);
	nbd->reconnect_at = now + nbd->backoff;
	nbd->backoff = min(nbd->backoff * 2, BACKOFF_LAST);

	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		struct block_request *request = nbd->slots[i].request;

		if (!request)
			continue;
		free_slot(&nbd->slots[i]);
		if (++request->retries >= ATTEMPTS_MAX)
			complete(request, -EIO);
		else
			wait_first(nbd, request);
	}
}

static void begin_connect(struct nbd_disk *nbd, uint64_t now)
{
	nbd->connect_deadline = now + CONNECT_TIMEOUT;
	nbd->handle = nbd_create();
	if (!nbd->handle) {
		opened(nbd, -ENOMEM, nbd_get_error());
		nbd->reconnect_at = now + BACKOFF_LAST;
		return;
	}
	/* Keys for TLS are in files that the address names; it comes from the operator, as all configuration does. */
	nbd_set_uri_allow_local_file(nbd->handle, true);
	if (nbd_aio_connect_uri(nbd->handle, nbd->uri) < 0) {
		int error = nbd_get_errno();

		opened(nbd, error ? -error : -EINVAL, nbd_get_error());
		disconnect(nbd, now);
	}
}

/* Learns what the export is. Return: 0 or -errno with a sentence in @text. */
static int look_at_export(struct nbd_disk *nbd, const char **text)
{
	struct disk_limits *limits = &nbd->disk.limits;
	int64_t size = nbd_get_size(nbd->handle);
	int64_t minimum = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MINIMUM);
	bool server_read_only = nbd_is_read_only(nbd->handle) > 0;

	if (size < 0) {
		*text = "the server tells no size";
		return -EINVAL;
	}
	if (minimum > limits->block_size) {
		*text = "the server wants larger blocks; use block_size: 4096";
		return -EINVAL;
	}
	if (server_read_only && !limits->read_only) {
		*text = "the export is read-only; make the disk read_only, too";
		return -EROFS;
	}
	nbd->can_flush = nbd_can_flush(nbd->handle) > 0;
	nbd->fua = nbd_can_fua(nbd->handle) > 0;
	nbd->can_trim = nbd_can_trim(nbd->handle) > 0;
	nbd->can_zero = nbd_can_zero(nbd->handle) > 0;
	if (nbd->ever_ready) {
		if ((uint64_t)size >= atomic_load(&nbd->disk.size))
			return 0;
		*text = "the export is smaller than it was";
		return -EINVAL;
	}
	atomic_store(&nbd->disk.size, (uint64_t)size);
	limits->flush_needed = nbd->can_flush;
	limits->discard = nbd->can_trim && !limits->read_only;
	limits->write_zeroes = nbd->can_zero && !limits->read_only;
	limits->write_zeroes_unmap = limits->write_zeroes;
	return 0;
}

static void check_connection(struct nbd_disk *nbd, uint64_t now)
{
	const char *text;
	int rc;

	if (!nbd->handle)
		return;
	if (nbd_aio_is_dead(nbd->handle) || nbd_aio_is_closed(nbd->handle)) {
		opened(nbd, -ECONNREFUSED, nbd_get_error() ? nbd_get_error() : "the connection failed");
		disconnect(nbd, now);
		return;
	}
	if (nbd->ready)
		return;
	if (!nbd_aio_is_ready(nbd->handle)) {
		if (now >= nbd->connect_deadline) {
			opened(nbd, -ETIMEDOUT, "no answer");
			disconnect(nbd, now);
		}
		return;
	}
	rc = look_at_export(nbd, &text);
	if (rc) {
		if (nbd->ever_ready)
			log_error("disk %s: %s: %s", nbd->disk.name, nbd->uri, text);
		opened(nbd, rc, text);
		disconnect(nbd, now);
		return;
	}
	if (nbd->ever_ready)
		log_info("disk %s: connected to %s again", nbd->disk.name, nbd->uri);
	nbd->ready = true;
	atomic_store(&nbd->connected, true);
	opened(nbd, 0, "");
	nbd->ever_ready = true;
}

/* libnbd's callback; 1: the command is retired. */
static int command_done(void *user_data, int *error)
{
	struct nbd_slot *slot = user_data;

	slot->error = *error;
	slot->done = true;
	return 1;
}

static int64_t issue_transfer(struct nbd_disk *nbd, struct nbd_slot *slot, nbd_completion_callback callback)
{
	struct block_request *request = slot->request;
	uint64_t left = request->length - request->done, place = request->offset + request->done;
	const struct guest_segment *segment = &request->segments[request->segment_first];
	bool write = request->operation == BLOCK_WRITE;
	uint32_t flags = write && request->durable && nbd->fua ? LIBNBD_CMD_FLAG_FUA : 0;
	void *buffer = segment->base;

	slot->bounced = segment->length < left;
	slot->length = min(left, (uint64_t)(slot->bounced ? NBD_BOUNCE_SIZE : DIRECT_MAX));
	if (slot->bounced) {
		buffer = slot->bounce;
		if (write)
			block_gather(request, buffer, slot->length);
	}
	if (write)
		return nbd_aio_pwrite(nbd->handle, buffer, slot->length, place, callback, flags);
	return nbd_aio_pread(nbd->handle, buffer, slot->length, place, callback, 0);
}

static int64_t issue_command(struct nbd_disk *nbd, struct nbd_slot *slot)
{
	nbd_completion_callback callback = { .callback = command_done, .user_data = slot };
	struct block_request *request = slot->request;
	uint32_t flags = request->durable && nbd->fua ? LIBNBD_CMD_FLAG_FUA : 0;

	if (request->stage == STAGE_SYNC)
		return nbd_aio_flush(nbd->handle, callback, 0);
	switch ((enum block_operation)request->operation) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return issue_transfer(nbd, slot, callback);
	case BLOCK_FLUSH:
		return nbd_aio_flush(nbd->handle, callback, 0);
	case BLOCK_DISCARD:
		return nbd_aio_trim(nbd->handle, request->length, request->offset, callback, 0);
	case BLOCK_WRITE_ZEROES:
		break;
	}
	if (!request->may_unmap)
		flags |= LIBNBD_CMD_FLAG_NO_HOLE;
	return nbd_aio_zero(nbd->handle, request->length, request->offset, callback, flags);
}

/* After a reconnect the server may offer less than at first. */
static bool server_can(const struct nbd_disk *nbd, const struct block_request *request)
{
	switch ((enum block_operation)request->operation) {
	case BLOCK_FLUSH:
		return nbd->can_flush;
	case BLOCK_DISCARD:
		return nbd->can_trim;
	case BLOCK_WRITE_ZEROES:
		return nbd->can_zero;
	case BLOCK_READ:
	case BLOCK_WRITE:
		break;
	}
	return true;
}

/* Puts waiting requests into free slots. */
static void issue(struct nbd_disk *nbd)
{
	for (unsigned i = 0; i < NBD_SLOTS && nbd->waiting.first && nbd->ready; i++) {
		struct nbd_slot *slot = &nbd->slots[i];

		if (slot->request)
			continue;
		slot->request = block_list_take(&nbd->waiting);
		if (!server_can(nbd, slot->request)) {
			complete(slot->request, -EOPNOTSUPP);
			free_slot(slot);
		} else if (issue_command(nbd, slot) < 0) {
			int error = nbd_get_errno();

			/* Refused before it was sent; a dead connection is found by check_connection(). */
			if (nbd_aio_is_dead(nbd->handle) || nbd_aio_is_closed(nbd->handle))
				return;
			complete(slot->request, error ? -error : -EIO);
			free_slot(slot);
		}
	}
}

/* A chunk went well. Return: true when the whole request is done. */
static bool advance(struct nbd_disk *nbd, struct nbd_slot *slot)
{
	struct block_request *request = slot->request;

	if (request->operation == BLOCK_READ && slot->bounced)
		block_scatter(request, slot->bounce, slot->length);
	if (request->operation == BLOCK_READ ||
	    (request->operation == BLOCK_WRITE && request->stage == STAGE_COMMAND)) {
		block_advance(request, slot->length);
		if (request->done < request->length)
			return false;
	}
	if (request->durable && !nbd->fua && nbd->can_flush && request->stage == STAGE_COMMAND &&
	    (request->operation == BLOCK_WRITE || request->operation == BLOCK_WRITE_ZEROES)) {
		request->stage = STAGE_SYNC;
		return false;
	}
	return true;
}

/* Takes the results that callbacks noted. Return: false when the server goes away. */
static bool retire(struct nbd_disk *nbd)
{
	bool stays = true;

	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		struct nbd_slot *slot = &nbd->slots[i];
		struct block_request *request = slot->request;

		if (!request || !slot->done)
			continue;
		if (slot->error == ENOTCONN || slot->error == ESHUTDOWN) {
			stays = false; /* disconnect() has it repeated */
			continue;
		}
		nbd->backoff = BACKOFF_FIRST;
		request->status = -slot->error;
		if (slot->error || advance(nbd, slot))
			complete(request, request->status);
		else
			wait_first(nbd, request);
		free_slot(slot);
	}
	return stays;
}

static void take_submissions(struct nbd_disk *nbd, uint64_t now)
{
	struct block_request *newest = atomic_exchange_explicit(&nbd->submitted, NULL, memory_order_acquire);
	struct block_request *oldest = NULL;

	while (newest) {
		struct block_request *older = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = older;
	}
	while (oldest) {
		struct block_request *request = oldest;

		oldest = request->next;
		request->deadline = now + nbd->timeout;
		request->stage = STAGE_COMMAND;
		request->retries = 0;
		block_list_append(&nbd->waiting, request);
	}
}

/* When @request has waited or been under way too long. */
static uint64_t deadline(const struct block_request *request, uint64_t hurry)
{
	return hurry ? min(request->deadline, hurry) : request->deadline;
}

/* Fails what has waited or been under way too long. Return: the next deadline. */
static uint64_t expire(struct nbd_disk *nbd, uint64_t now)
{
	uint64_t next = now + IDLE_WAIT, hurry = atomic_load(&nbd->hurry);
	struct block_list kept = { 0 };
	struct block_request *request;

	for (unsigned i = 0; i < NBD_SLOTS && nbd->handle; i++) {
		if (nbd->slots[i].request && deadline(nbd->slots[i].request, hurry) <= now)
			disconnect(nbd, now); /* now it waits, and expires below */
	}
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		if (nbd->slots[i].request)
			next = min(next, deadline(nbd->slots[i].request, hurry));
	}
	while ((request = block_list_take(&nbd->waiting))) {
		if (deadline(request, hurry) <= now) {
			complete(request, -ETIMEDOUT);
			continue;
		}
		next = min(next, deadline(request, hurry));
		block_list_append(&kept, request);
	}
	nbd->waiting = kept;
	if (!nbd->handle)
		next = min(next, nbd->reconnect_at);
	else if (!nbd->ready)
		next = min(next, nbd->connect_deadline);
	return next;
}

/* Waits for the server, for submissions, or until @until, and lets libnbd have what came. */
static void wait_for_events(struct nbd_disk *nbd, uint64_t until, uint64_t now)
{
	struct pollfd watched[2] = { { .fd = nbd->wake_fd, .events = POLLIN }, { .fd = -1 } };
	int timeout = until > now ? (int)((until - now) / NANOSECONDS_PER_MILLISECOND) + 1 : 0;
	unsigned direction = 0;
	uint64_t count;

	if (nbd->handle) {
		direction = nbd_aio_get_direction(nbd->handle);
		watched[1].fd = nbd_aio_get_fd(nbd->handle);
		watched[1].events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
					    (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	}
	if (poll(watched, 2, timeout) <= 0)
		return;
	if (watched[0].revents && read(nbd->wake_fd, &count, sizeof(count)) < 0)
		return;
	/* One event for each poll(): the first may change what libnbd waits for. Errors are found by reading. */
	if (watched[1].revents & (POLLIN | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(nbd->handle);
	else if (watched[1].revents & (POLLOUT | POLLHUP | POLLERR) && direction & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(nbd->handle);
}

void *nbd_thread_run(void *argument)
{
	struct nbd_disk *nbd = argument;
	uint64_t now = clock_nanoseconds();

	nbd->backoff = BACKOFF_FIRST;
	while (!atomic_load(&nbd->stopping)) {
		uint64_t until;

		take_submissions(nbd, now);
		if (!nbd->handle && now >= nbd->reconnect_at)
			begin_connect(nbd, now);
		check_connection(nbd, now);
		issue(nbd);
		check_connection(nbd, now); /* sending may have found it dead */
		until = expire(nbd, now);
		wait_for_events(nbd, until, now);
		now = clock_nanoseconds();
		if (!retire(nbd) && nbd->handle)
			disconnect(nbd, now);
	}
	if (nbd->handle) {
		/* Tells the server that this end is meant. */
		if (nbd->ready)
			nbd_aio_disconnect(nbd->handle, 0);
		nbd_close(nbd->handle);
	}
	return NULL;
}
