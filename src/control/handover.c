/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handover.
 *
 * Theory of operation
 * -------------------
 * Each client that is left is one descriptor (a parcel: base/parcel.h, transport/vfio_user/handover.c). They reach the
 * next daemon by the protocol of systemd, numbers 3 and on, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, and on one of two
 * ways:
 *
 *  - *in place*: this process executes the new program: it keeps its number, its descriptors, and its service. Sockets
 *    on which it listens stay, too: all of them in one more parcel;
 *  - the service manager keeps them (FileDescriptorStoreMax=) while one process ends and another starts. Its store
 *    would throw out what has an error or a hang-up (a parcel's other end is closed), but for FDPOLL=0.
 *
 * *A parcel belongs to somebody at any moment.* It is stored as soon as it is made, in place, too: a daemon that is
 * killed while it still waits for the disk of one guest loses that one's device, not those that it has left already.
 * The next daemon opens parcels, which empties them, only when it has built all else and nothing can fail any more.
 * Then the manager is told to forget them. Until then they are as they were, and a start that fails passes them on: to
 * itself, a second later, by executing the program once more (cli/serve_again.c); and a process that is killed leaves
 * those in the store.
 *
 * Names and number of the descriptors are all that is taken from the environment: what they are is found out by opening
 * them.
 */
#include "control/handover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/disposal.h"
#include "base/log.h"
#include "base/parcel.h"
#include "control/notify.h"
#include "transport/listeners.h"

#define STORE_NAME     "sidecore-handover"
#define LISTENERS_NAME "sidecore-listeners"
#define LISTENERS_KIND "listeners"

#define FIRST_FD    3
#define CLIENTS_MAX 4096U

/* How long sockets that cannot be taken over may take to be closed: a second. */
#define CLOSE_LOOKS	       100U
#define CLOSE_LOOK_NANOSECONDS 10000000L

/* How long the service manager may take to note what it is to keep. */
#define STORE_MILLISECONDS 5000

/** struct waiting_client - one that is left, or was received. */
struct waiting_client {
	int fd;		      /* -1: opened */
	bool stored;	      /* the service manager has a copy */
	bool found;	      /* or could not be opened: nobody is to be told */
	struct parcel parcel; /* once it is opened */
};

struct handover {
	bool in_place, opened;
	unsigned count;
	struct waiting_client clients[CLIENTS_MAX];
	int listeners_fd;	     /* received; -1: none */
	struct listeners *listeners; /* left; NULL: none */
	struct disposal *disposal;
};

struct handover *handover_create(bool in_place)
{
	struct handover *handover = calloc(1, sizeof(*handover));

	if (!handover)
		return NULL;
	handover->in_place = in_place;
	handover->listeners_fd = -1;
	handover->disposal = disposal_create();
	if (handover->disposal)
		return handover;
	free(handover);
	return NULL;
}

static void release_client(struct handover *handover, struct waiting_client *client)
{
	if (handover->opened)
		parcel_release(&client->parcel, handover->disposal);
	/* A copy is closed without a look at what is in it: it is the next daemon's. */
	if (client->stored)
		close(client->fd);
	else
		disposal_close(handover->disposal, client->fd); /* which would wait for the files in its queue */
}

void handover_release(struct handover *handover)
{
	if (!handover)
		return;
	for (unsigned i = 0; i < handover->count; i++)
		release_client(handover, &handover->clients[i]);
	handover_drop_listeners(handover);
	disposal_destroy(handover->disposal);
	free(handover);
}

bool handover_in_place(const struct handover *handover)
{
	return handover->in_place;
}

unsigned handover_waiting(const struct handover *handover)
{
	return handover->opened ? 0 : handover->count;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

/* How many descriptors the environment says are ours. */
static unsigned announced(void)
{
	const char *process = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
	char *end;
	unsigned long number;

	if (!process || !count || strtoul(process, &end, 10) != (unsigned long)getpid() || *end)
		return 0;
	number = strtoul(count, &end, 10);
	if (*end || number > CLIENTS_MAX + 1) {
		log_warning("LISTEN_FDS is %s: clients of the daemon before this one cannot be found", count);
		return 0;
	}
	return (unsigned)number;
}

/* Is the first of these names, which are separated by colons, @name? */
static bool is_named(const char *names, const char *name)
{
	size_t length = strlen(name);

	return names && strcspn(names, ":") == length && !memcmp(names, name, length);
}

static const char *next_name(const char *names)
{
	names = names ? strchr(names, ':') : NULL;
	return names ? names + 1 : NULL;
}

int handover_receive(struct handover **received)
{
	struct handover *handover = handover_create(true);
	unsigned count = announced();
	const char *names = getenv("LISTEN_FDNAMES");

	if (!handover)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++, names = next_name(names)) {
		int fd = FIRST_FD + (int)i;

		if (fcntl(fd, F_SETFD, FD_CLOEXEC))
			log_warning("descriptor %d of the daemon before this one is not there", fd);
		else if (is_named(names, STORE_NAME) && handover->count < CLIENTS_MAX)
			handover->clients[handover->count++].fd = fd;
		else if (is_named(names, LISTENERS_NAME) && handover->listeners_fd < 0)
			handover->listeners_fd = fd;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	*received = handover;
	return 0;
}

/* While they listen still, whoever binds to their paths takes them for another program's. */
static void await_their_end(const struct handover *handover)
{
	const struct timespec pause = { .tv_nsec = CLOSE_LOOK_NANOSECONDS };

	for (unsigned i = 0; i < CLOSE_LOOKS && disposal_waiting(handover->disposal); i++)
		nanosleep(&pause, NULL);
}

void handover_take_listeners(struct handover *handover, struct listeners *listeners)
{
	struct parcel parcel = { 0 };
	int error;

	if (handover->listeners_fd < 0)
		return;
	error = parcel_open(&parcel, handover->listeners_fd);
	if (!error)
		error = listeners_load(listeners, &parcel);
	if (error)
		log_warning("sockets of the daemon before this one are made anew: %s",
			    parcel.failed ? parcel.reason : strerror(-error));
	parcel_release(&parcel, handover->disposal);
	disposal_close(handover->disposal, handover->listeners_fd);
	handover->listeners_fd = -1;
	if (error)
		await_their_end(handover);
}

void handover_drop_listeners(struct handover *handover)
{
	if (!handover->listeners)
		handover->listeners = listeners_create(-1);
	if (handover->listeners)
		handover_take_listeners(handover, handover->listeners);
	listeners_release(handover->listeners);
	handover->listeners = NULL;
}

void handover_open(struct handover *handover)
{
	handover->opened = true;
	for (unsigned i = 0; i < handover->count; i++) {
		struct waiting_client *client = &handover->clients[i];

		if (parcel_open(&client->parcel, client->fd)) {
			log_warning("%s: a client of the daemon before this one is let go: %s",
				    client->parcel.name[0] ? client->parcel.name : "handover", client->parcel.reason);
			client->found = true;
		}
		/* What could not be opened has files in its queue still. */
		disposal_close(handover->disposal, client->fd);
		client->fd = -1;
	}
}

struct parcel *handover_find(struct handover *handover, const char *kind, const char *name)
{
	for (unsigned i = 0; i < handover->count; i++) {
		struct waiting_client *client = &handover->clients[i];

		if (client->found || strcmp(client->parcel.kind, kind) || strcmp(client->parcel.name, name))
			continue;
		client->found = true;
		return &client->parcel;
	}
	return NULL;
}

void handover_disregarded(struct handover *handover)
{
	for (unsigned i = 0; i < handover->count; i++) {
		const struct waiting_client *client = &handover->clients[i];

		if (!client->found)
			log_warning("%s: its client is let go: the configuration has no such device (%s) any more",
				    client->parcel.name, client->parcel.kind);
	}
	if (handover->count)
		notify_service_manager("FDSTOREREMOVE=1\nFDNAME=" STORE_NAME);
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

/* How many the service manager keeps (FileDescriptorStoreMax=); it throws away the others without a word. */
static unsigned long store_room(void)
{
	const char *room = getenv("FDSTORE");

	return room ? strtoul(room, NULL, 10) : 0;
}

bool handover_store_offered(void)
{
	const char *socket = getenv("NOTIFY_SOCKET");

	return socket && socket[0] && store_room() > 0;
}

static void store(struct handover *handover, struct waiting_client *client)
{
	int sent;

	if (!handover_store_offered())
		return;
	if ((unsigned long)(client - handover->clients) >= store_room()) {
		log_warning("the service manager keeps %lu clients and no more (FileDescriptorStoreMax=)",
			    store_room());
		return;
	}
	sent = notify_service_manager_file("FDSTORE=1\nFDNAME=" STORE_NAME "\nFDPOLL=0", client->fd);
	if (sent < 0)
		log_warning("a client cannot be left with the service manager: %s", strerror(-sent));
	client->stored |= sent > 0;
}

void handover_add(struct handover *handover, int fd)
{
	struct waiting_client *client = &handover->clients[handover->count];

	if (handover->count == CLIENTS_MAX) {
		log_warning("more clients than can be left to the next daemon");
		disposal_close(handover->disposal, fd);
		return;
	}
	handover->count++;
	client->fd = fd;
	store(handover, client);
}

void handover_add_listeners(struct handover *handover, struct listeners *listeners)
{
	handover->listeners = listeners;
}

void handover_store(struct handover *handover)
{
	for (unsigned i = 0; i < handover_waiting(handover); i++)
		store(handover, &handover->clients[i]);
}

/* All that was sent before has been looked at when the manager closes the end of a pipe that it gets now. */
static void await_store(void)
{
	int ends[2];
	struct pollfd poll_fd = { 0 };

	if (pipe2(ends, O_CLOEXEC))
		return;
	poll_fd.fd = ends[0];
	if (notify_service_manager_file("BARRIER=1", ends[1]) <= 0) {
		close(ends[1]);
	} else {
		close(ends[1]);
		if (poll(&poll_fd, 1, STORE_MILLISECONDS) <= 0)
			log_warning("the service manager does not say that it keeps what it was given");
	}
	close(ends[0]);
}

void handover_await_store(const struct handover *handover)
{
	unsigned stored = 0;

	for (unsigned i = 0; i < handover->count; i++)
		stored += handover->clients[i].stored;
	if (!stored)
		return;
	await_store();
	log_info("%u client%s left with the service manager", stored, stored == 1 ? "" : "s");
}

/* "name:name:..." of @count clients and perhaps of the listeners. */
static char *make_names(unsigned count, bool listeners)
{
	char *names = malloc(count * sizeof(STORE_NAME) + sizeof(LISTENERS_NAME)), *end = names;

	if (!names)
		return NULL;
	*end = '\0';
	for (unsigned i = 0; i < count; i++)
		end += sprintf(end, "%s%s", i ? ":" : "", STORE_NAME);
	if (listeners)
		sprintf(end, "%s%s", count ? ":" : "", LISTENERS_NAME);
	return names;
}

static int set_environment(unsigned count, bool listeners)
{
	char number[16], process[16], *names = make_names(count, listeners);
	int error;

	if (!names)
		return -ENOMEM;
	snprintf(number, sizeof(number), "%u", count + listeners);
	snprintf(process, sizeof(process), "%d", (int)getpid());
	error = setenv("LISTEN_FDS", number, 1) || setenv("LISTEN_PID", process, 1) ||
				setenv("LISTEN_FDNAMES", names, 1)
			? -ENOMEM
			: 0;
	free(names);
	return error;
}

/* Return: a descriptor with all sockets to listen on, -1: there are none, or they cannot be left. */
static int seal_listeners(const struct handover *handover)
{
	struct parcel parcel = { .kind = LISTENERS_KIND };
	int fd;

	if (!handover->listeners || !listeners_count(handover->listeners))
		return -1;
	listeners_save(handover->listeners, &parcel);
	fd = parcel_seal(&parcel);
	if (fd < 0)
		log_warning("sockets are made anew: %s", parcel.failed ? parcel.reason : strerror(-fd));
	parcel_release(&parcel, NULL);
	return fd < 0 ? -1 : fd;
}

/* Is this thread the only one? */
static bool alone(void)
{
	DIR *tasks = opendir("/proc/self/task");
	const struct dirent *entry;
	unsigned count = 0;

	if (!tasks)
		return true; /* nobody knows */
	while ((entry = readdir(tasks)))
		count += entry->d_name[0] != '.';
	closedir(tasks);
	return count == 1;
}

/*
 * Threads that close what clients gave know it by number (base/disposal.c): until they have ended no number may become
 * another file's. One that waits for a file for ever is left to execv(), which waits for it, too.
 */
static void await_threads(void)
{
	const struct timespec pause = { .tv_nsec = CLOSE_LOOK_NANOSECONDS };

	for (unsigned i = 0; i < CLOSE_LOOKS; i++) {
		if (alone())
			return;
		nanosleep(&pause, NULL);
	}
	log_warning("files that clients gave are not let go of: the restart waits for them");
}

/* First all out of the way of each other, then to where they are expected, without the flag that closes them. */
static int place(struct handover *handover, int *listeners)
{
	int above = FIRST_FD + (int)handover->count + 1, error = 0;

	for (unsigned i = 0; i < handover->count && !error; i++)
		error = parcel_move_file(&handover->clients[i].fd, above);
	if (*listeners >= 0 && !error)
		error = parcel_move_file(listeners, above);
	if (*listeners >= 0 && !error)
		error = listeners_move_away(handover->listeners, above);
	for (unsigned i = 0; i < handover->count && !error; i++)
		error = dup2(handover->clients[i].fd, FIRST_FD + (int)i) < 0 ? -errno : 0;
	if (*listeners >= 0 && !error)
		error = dup2(*listeners, above - 1) < 0 ? -errno : 0;
	return error;
}

int handover_execute(struct handover *handover, const char *path, const char *const arguments[])
{
	int listeners = seal_listeners(handover), error = 0;

	await_threads();
	if (handover->count || listeners >= 0)
		error = set_environment(handover->count, listeners >= 0);
	if (!error)
		error = place(handover, &listeners);
	if (!error) {
		execv(path, (char *const *)(uintptr_t)arguments);
		error = -errno;
		if (listeners >= 0)
			close(FIRST_FD + (int)handover->count);
	}
	/* Who waits to be accepted is not to wait for an uncertain end: with the last copy of the parcel they are let go. */
	disposal_close(handover->disposal, listeners);
	handover_drop_listeners(handover);
	return error;
}
