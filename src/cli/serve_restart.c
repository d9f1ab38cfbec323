/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The successor in a restart.
 *
 * A daemon that has stopped cannot be asked back, so before it stops, the program that is to take its place is asked:
 * it is started with --check, by its own rules for the configuration as it is on disk now. What it says against it is
 * in the log. Guests wait meanwhile, so it has a few seconds only, less than any VMM's patience. It does not open
 * anything, which the daemon still has, but looks whether it is there: that can hang, where a file system does. What goes
 * wrong later is cli/serve_again.c's.
 */
#include "cli/serve_restart.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"

#define CHECK_MILLISECONDS 3000
#define KILL_MILLISECONDS  500

extern char **environ;

void successor_note(struct successor *successor, int argc, char **argv)
{
	const char *name = (const char *)getauxval(AT_EXECFN);
	ssize_t length;

	/* By the name that we were started by: a link may lead to another version by then. */
	if (name && name[0] == '/' && strlen(name) < sizeof(successor->path)) {
		strcpy(successor->path, name);
		length = (ssize_t)strlen(name);
	} else {
		length = readlink("/proc/self/exe", successor->path, sizeof(successor->path) - 1);
	}

	memset(successor->arguments, 0, sizeof(successor->arguments));
	successor->path[length < 0 || argc + 1 >= SERVE_ARGUMENTS_MAX ? 0 : length] = '\0';
	if (!successor->path[0])
		return;
	successor->arguments[0] = successor->path;
	successor->arguments[1] = "serve";
	for (int i = 1; i < argc; i++)
		successor->arguments[i + 1] = argv[i];
}

/* Has the process of the pidfd @fd ended, before @milliseconds are over? */
static bool ends_within(int fd, uint64_t milliseconds)
{
	uint64_t now = clock_nanoseconds(), end = now + milliseconds * NANOSECONDS_PER_MILLISECOND;
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	int ready;

	do {
		ready = poll(&poll_fd, 1, (int)((end - now) / NANOSECONDS_PER_MILLISECOND));
		now = min(clock_nanoseconds(), end);
	} while (ready < 0 && errno == EINTR); /* a signal is not its end */
	return ready > 0;
}

/*
 * Wait for @process, and no longer than that. One that waits in a file system that does not answer may not even be killed:
 * it is left to its fate then, and to a later call.
 * Return: its status; -ETIMEDOUT; another negative errno: it was ended by a signal.
 */
static int await(struct successor *successor, pid_t process)
{
	int fd = (int)syscall(SYS_pidfd_open, process, 0), status = 0;
	bool in_time = fd >= 0 && ends_within(fd, CHECK_MILLISECONDS), ended = in_time;

	if (!in_time) {
		kill(process, SIGKILL);
		ended = fd < 0 || ends_within(fd, KILL_MILLISECONDS);
	}
	if (fd >= 0)
		close(fd);
	if (!ended)
		successor->stuck = process;
	while (ended && waitpid(process, &status, 0) < 0 && errno == EINTR)
		;
	if (!in_time)
		return -ETIMEDOUT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

int successor_check(struct successor *successor, const char **reason)
{
	const char *arguments[SERVE_ARGUMENTS_MAX + 1] = { successor->path, "serve", "--check" };
	posix_spawn_file_actions_t actions;
	pid_t process;
	int error;

	*reason = "the last one that was asked hangs still, and cannot be ended; does a disk hang?";
	if (successor->stuck && !waitpid(successor->stuck, NULL, WNOHANG))
		return -EBUSY;
	successor->stuck = 0;
	*reason = "the program that this is is not known, or was given too many options";
	if (!successor->path[0])
		return -ENOENT;
	for (unsigned i = 2; successor->arguments[i]; i++)
		arguments[i + 1] = successor->arguments[i];
	error = posix_spawn_file_actions_init(&actions);
	if (!error)
		error = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	if (!error)
		error = posix_spawn(&process, successor->path, &actions, NULL, (char *const *)(uintptr_t)arguments,
				    environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error) {
		*reason = "the program cannot be started";
		log_warning("restart: %s: %s", successor->path, strerror(error));
		return -error;
	}
	error = await(successor, process);
	if (!error)
		return 0;
	*reason = error == -ETIMEDOUT
			  ? "the program does not say in time whether it takes the configuration; does a disk hang?"
			  : "the program does not take the configuration as it is now";
	return -EINVAL;
}
