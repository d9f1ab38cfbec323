/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disposal.
 *
 * Theory of operation
 * -------------------
 * close() may wait: for the program behind a FUSE file system, for a server of files, for the peer of a TCP socket with
 * SO_LINGER (up to hours, set by whoever sent the socket and closed his own descriptor). And a unix socket that is
 * closed with messages in its queue closes the files in those.
 *
 * So what came from a front-end is closed at once only where that is known not to wait: eventfds, memory, and unix
 * sockets that are shut down (nothing can come in any more) and empty. Everything else is handed to a thread that is
 * made for it and ends when it has closed all that it was given.
 *
 * The thread and the owner share the structure; the last one frees it. Where no thread can be made the file stays open:
 * a descriptor lost is better than a daemon that waits.
 *
 * Context: see base/disposal.h.
 */
#include "base/disposal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file_kind.h"
#include "base/log.h"

/* More than one message can bring (253), and what its connection is made of. */
#define FILES_MAX  1024U
#define STACK_SIZE (64U << 10)

struct disposal {
	pthread_mutex_t lock;
	atomic_uint waiting; /* handed over, not closed yet */

	/* under the lock */
	int files[FILES_MAX];
	unsigned count;
	bool running;  /* the thread */
	bool orphaned; /* the owner is gone: the thread frees */
};

struct disposal *disposal_create(void)
{
	struct disposal *disposal = calloc(1, sizeof(*disposal));

	if (disposal)
		pthread_mutex_init(&disposal->lock, NULL);
	return disposal;
}

static void free_disposal(struct disposal *disposal)
{
	pthread_mutex_destroy(&disposal->lock);
	free(disposal);
}

void disposal_destroy(struct disposal *disposal)
{
	bool running;

	if (!disposal)
		return;
	pthread_mutex_lock(&disposal->lock);
	disposal->orphaned = true;
	running = disposal->running;
	pthread_mutex_unlock(&disposal->lock);
	if (!running)
		free_disposal(disposal);
}

unsigned disposal_waiting(const struct disposal *disposal)
{
	return atomic_load(&disposal->waiting);
}

static void *close_files(void *argument)
{
	struct disposal *disposal = argument;
	bool orphaned;

	pthread_setname_np(pthread_self(), "disposal");
	pthread_mutex_lock(&disposal->lock);
	while (disposal->count) {
		int fd = disposal->files[--disposal->count];

		pthread_mutex_unlock(&disposal->lock);
		close(fd);
		atomic_fetch_sub(&disposal->waiting, 1);
		pthread_mutex_lock(&disposal->lock);
	}
	disposal->running = false;
	orphaned = disposal->orphaned;
	pthread_mutex_unlock(&disposal->lock);
	if (orphaned)
		free_disposal(disposal);
	return NULL;
}

static int start_thread(struct disposal *disposal)
{
	sigset_t all, before;
	pthread_attr_t attributes;
	pthread_t thread;
	int error;

	error = pthread_attr_init(&attributes);
	if (error)
		return -error;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, STACK_SIZE);
	sigfillset(&all); /* signals are the control thread's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, close_files, disposal);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -error;
}

static void hand_over(struct disposal *disposal, int fd)
{
	int error = 0;

	pthread_mutex_lock(&disposal->lock);
	if (disposal->count == FILES_MAX) {
		error = -ENOSPC;
	} else {
		atomic_fetch_add(&disposal->waiting, 1);
		disposal->files[disposal->count++] = fd;
		if (!disposal->running) {
			error = start_thread(disposal);
			disposal->running = !error;
		}
	}
	pthread_mutex_unlock(&disposal->lock);
	if (error)
		log_error("a file that a front-end gave us stays open: no thread to close it: %s", strerror(-error));
}

/* Nothing in its queue, and nothing can come in. */
static bool shut_and_empty(int fd)
{
	char byte;

	if (shutdown(fd, SHUT_RDWR) && errno != ENOTCONN)
		return false;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void disposal_close(struct disposal *disposal, int fd)
{
	if (fd < 0)
		return;
	if (file_is_eventfd(fd) || file_is_memory(fd) || (file_is_unix_socket(fd) && shut_and_empty(fd)))
		close(fd);
	else
		hand_over(disposal, fd);
}
