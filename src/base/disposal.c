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
 * sockets that are shut down (nothing can come in any more) and whose queue has been emptied. Everything else is handed
 * to a thread that is made for it and ends when it has closed all that it was given.
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

/* What is read from a queue to empty it: more than queues hold that nobody has enlarged. */
#define READS_MAX 256U

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

unsigned disposal_would_wait(const int *files, unsigned count)
{
	unsigned waiting = 0;

	for (unsigned i = 0; i < count; i++)
		waiting += files[i] >= 0 && !file_is_eventfd(files[i]) && !file_is_memory(files[i]);
	return waiting;
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

/* What came with some bytes: closed where that is known not to wait; a unix socket has a queue of its own, so not here.
 */
static void close_rights(struct disposal *disposal, struct msghdr *header)
{
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
		size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
			if (disposal_would_wait(&fd, 1))
				hand_over(disposal, fd);
			else
				close(fd);
		}
	}
}

/* See to it that nothing comes into the queue any more, and empty it. Return: false when it was too much. */
static bool shut_and_empty(struct disposal *disposal, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * RIGHTS_MAX)];
		struct cmsghdr alignment;
	} control;
	char bytes[4096];

	if (shutdown(fd, SHUT_RDWR) && errno != ENOTCONN)
		return false;
	for (unsigned i = 0; i < READS_MAX; i++) {
		struct iovec part = { bytes, sizeof(bytes) };
		struct msghdr header = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
		};
		ssize_t got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (got <= 0)
			return !got;
		close_rights(disposal, &header);
	}
	return false;
}

void disposal_close(struct disposal *disposal, int fd)
{
	if (fd < 0)
		return;
	if (!disposal_would_wait(&fd, 1) || (file_is_unix_socket(fd) && shut_and_empty(disposal, fd)))
		close(fd);
	else
		hand_over(disposal, fd);
}
