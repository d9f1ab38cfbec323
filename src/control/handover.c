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
 *  - this process executes the new program in its own place: it keeps its number, its descriptors, and its service;
 *  - the service manager keeps them (FileDescriptorStoreMax=) while one process ends and another starts. Its store keeps
 *    what it has been given until it is told otherwise, so the new daemon, which empties the parcels, tells it. It would
 *    also throw out what has an error or a hang-up (a parcel's other end is closed), but for FDPOLL=0.
 *
 * Names and number of the descriptors are all that is taken from the environment: what they are is found out by opening
 * them.
 */
#include "control/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/disposal.h"
#include "base/log.h"
#include "base/parcel.h"
#include "control/notify.h"

#define STORE_NAME  "sidecore-handover"
#define FIRST_FD    3
#define CLIENTS_MAX 4096U

/* How long the service manager may take to note what it is to keep. */
#define STORE_MILLISECONDS 5000

struct handover {
	unsigned count;
	int fds[CLIENTS_MAX];	/* to be left */
	struct parcel *parcels; /* received */
	bool *found;
	struct disposal *disposal;
};

struct handover *handover_create(void)
{
	struct handover *handover = calloc(1, sizeof(*handover));

	if (handover)
		handover->disposal = disposal_create();
	if (handover && handover->disposal)
		return handover;
	free(handover);
	return NULL;
}

void handover_release(struct handover *handover)
{
	if (!handover)
		return;
	for (unsigned i = 0; i < handover->count; i++) {
		if (handover->parcels)
			parcel_release(&handover->parcels[i], handover->disposal);
		/* A socket: whoever closes it waits for the files in its queue. */
		disposal_close(handover->disposal, handover->fds[i]);
	}
	disposal_destroy(handover->disposal);
	free(handover->parcels);
	free(handover->found);
	free(handover);
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
	return *end || number > CLIENTS_MAX ? 0 : (unsigned)number;
}

/* Is this name, of those that are separated by colons, the one of our descriptors? */
static bool is_ours(const char **names)
{
	size_t length = strcspn(*names, ":");
	bool ours = length == sizeof(STORE_NAME) - 1 && !memcmp(*names, STORE_NAME, length);

	*names += length + ((*names)[length] == ':');
	return ours;
}

static void receive(struct handover *handover, int fd)
{
	struct parcel *parcel = &handover->parcels[handover->count];

	if (parcel_open(parcel, fd)) {
		log_warning("%s: a client of the daemon before this one is let go: %s",
			    parcel->name[0] ? parcel->name : "handover", parcel->reason);
		parcel_release(parcel, handover->disposal);
	} else {
		handover->fds[handover->count++] = -1;
	}
	disposal_close(handover->disposal, fd); /* what could not be opened has files in its queue still */
}

int handover_receive(struct handover **received)
{
	struct handover *handover = handover_create();
	unsigned count = announced();
	const char *names = getenv("LISTEN_FDNAMES");
	bool stored = false;

	if (!handover)
		return -ENOMEM;
	handover->parcels = calloc(count + 1, sizeof(*handover->parcels));
	handover->found = calloc(count + 1, sizeof(*handover->found));
	if (!handover->parcels || !handover->found) {
		handover_release(handover);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < count; i++) {
		int fd = FIRST_FD + (int)i;
		bool ours = names && is_ours(&names);

		if (fcntl(fd, F_SETFD, FD_CLOEXEC) || !ours)
			continue;
		stored = true;
		receive(handover, fd);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (stored)
		notify_service_manager("FDSTOREREMOVE=1\nFDNAME=" STORE_NAME);
	*received = handover;
	return 0;
}

struct parcel *handover_find(struct handover *handover, const char *kind, const char *name)
{
	for (unsigned i = 0; handover && i < handover->count; i++) {
		if (handover->found[i] || strcmp(handover->parcels[i].kind, kind) ||
		    strcmp(handover->parcels[i].name, name))
			continue;
		handover->found[i] = true;
		return &handover->parcels[i];
	}
	return NULL;
}

void handover_disregarded(struct handover *handover)
{
	for (unsigned i = 0; handover && i < handover->count; i++) {
		if (!handover->found[i])
			log_warning("%s: its client is let go: the configuration has no such device (%s) any more",
				    handover->parcels[i].name, handover->parcels[i].kind);
	}
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

void handover_add(struct handover *handover, int fd)
{
	if (handover->count < CLIENTS_MAX) {
		handover->fds[handover->count++] = fd;
		return;
	}
	log_warning("more clients than can be left to the next daemon");
	disposal_close(handover->disposal, fd);
}

bool handover_store_offered(void)
{
	const char *socket = getenv("NOTIFY_SOCKET"), *room = getenv("FDSTORE");

	return socket && socket[0] && room && strtoul(room, NULL, 10) > 0;
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

void handover_store(struct handover *handover)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < handover->count; i++) {
		int sent = notify_service_manager_file("FDSTORE=1\nFDNAME=" STORE_NAME "\nFDPOLL=0", handover->fds[i]);

		if (sent < 0)
			log_warning("a client cannot be left with the service manager: %s", strerror(-sent));
		kept += sent > 0;
	}
	if (!kept)
		return;
	await_store();
	log_info("%u client%s left with the service manager", kept, kept == 1 ? "" : "s");
	/* They are in its store now: ours are copies, to be closed without a look at what is in them. */
	for (unsigned i = 0; i < handover->count; i++)
		close(handover->fds[i]);
	handover->count = 0;
}

/* "name:name:..." of @count names. */
static char *make_names(unsigned count)
{
	char *names = malloc(count * sizeof(STORE_NAME) + 1), *end = names;

	if (!names)
		return NULL;
	*end = '\0';
	for (unsigned i = 0; i < count; i++)
		end += sprintf(end, "%s%s", i ? ":" : "", STORE_NAME);
	return names;
}

static int set_environment(unsigned count)
{
	char number[16], process[16], *names = make_names(count);
	int error;

	if (!names)
		return -ENOMEM;
	snprintf(number, sizeof(number), "%u", count);
	snprintf(process, sizeof(process), "%d", (int)getpid());
	error = setenv("LISTEN_FDS", number, 1) || setenv("LISTEN_PID", process, 1) ||
				setenv("LISTEN_FDNAMES", names, 1)
			? -ENOMEM
			: 0;
	free(names);
	return error;
}

int handover_execute(struct handover *handover, const char *path, const char *const arguments[])
{
	int above = FIRST_FD + (int)handover->count;
	int error = handover->count ? set_environment(handover->count) : 0;

	/* First out of the way of each other, then to where they are expected, without the flag that closes them. */
	for (unsigned i = 0; i < handover->count && !error; i++) {
		int fd = fcntl(handover->fds[i], F_DUPFD_CLOEXEC, above);

		if (fd < 0)
			error = -errno;
		else
			handover->fds[i] = fd;
	}
	for (unsigned i = 0; i < handover->count && !error; i++)
		error = dup2(handover->fds[i], FIRST_FD + (int)i) < 0 ? -errno : 0;
	if (error)
		return error;
	execv(path, (char *const *)(uintptr_t)arguments);
	return -errno;
}
