/* SPDX-License-Identifier: BSD-3-Clause */
/* Children of the launcher: started with a log, ended with us. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/run.h"

/* In the child: never returns. exec's errno goes to the parent through @report, which exec closes. */
static void become(const char *const argv[], const char *log, const cpu_set_t *cpus, pid_t parent, int report)
{
	int error, fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	if (cpus)
		sched_setaffinity(0, sizeof(*cpus), cpus);
	if (log) {
		/* A group of its own: Ctrl-C reaches the launcher only, which ends its children in order. */
		setpgid(0, 0);
		fd = open("/dev/null", O_RDONLY);
		if (fd >= 0)
			dup2(fd, STDIN_FILENO);
		fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (fd >= 0) {
			dup2(fd, STDOUT_FILENO);
			dup2(fd, STDERR_FILENO);
		}
	}
	execvp(argv[0], (char *const *)argv); /* exec does not change them; its prototype predates const */
	error = errno;
	if (write(report, &error, sizeof(error)) < 0)
		_exit(126);
	_exit(127);
}

int process_start(struct process *process, const char *name, const char *const argv[], const char *log,
		  const cpu_set_t *cpus)
{
	pid_t parent = getpid();
	int report[2], error = 0;

	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;
	process->name = name;
	snprintf(process->log, sizeof(process->log), "%s", log ? log : "");
	process->pid = fork();
	if (process->pid < 0) {
		error = errno;
		process->pid = 0;
		close(report[0]);
		close(report[1]);
		return -error;
	}
	if (!process->pid)
		become(argv, log, cpus, parent, report[1]);
	close(report[1]);
	if (read(report[0], &error, sizeof(error)) != sizeof(error))
		error = 0;
	close(report[0]);
	if (error) {
		waitpid(process->pid, NULL, 0);
		process->pid = 0;
	}
	return -error;
}

bool process_running(struct process *process)
{
	if (!process->pid)
		return false;
	if (waitpid(process->pid, &process->status, WNOHANG) != process->pid)
		return true;
	process->pid = 0;
	return false;
}

int process_stop(struct process *process, unsigned patience_ms)
{
	uint64_t deadline = clock_nanoseconds() + patience_ms * NANOSECONDS_PER_MILLISECOND;

	if (!process_running(process))
		return process->status;
	kill(process->pid, SIGTERM);
	while (process_running(process)) {
		if (clock_nanoseconds() > deadline)
			kill(process->pid, SIGKILL);
		usleep(5000);
	}
	return process->status;
}

void process_print_log(const struct process *process, unsigned lines)
{
	char *text = NULL, *start;
	size_t size = 0;
	FILE *file = fopen(process->log, "r");

	if (!file)
		return;
	if (getdelim(&text, &size, '\0', file) < 0) {
		fclose(file);
		free(text);
		return;
	}
	fclose(file);
	start = text + strlen(text);
	while (start > text && lines) {
		start--;
		if (*start == '\n' && start[1] && !--lines)
			start++;
	}
	fprintf(stderr, "--- end of the log of %s (%s) ---\n%s\n", process->name, process->log, start);
	free(text);
}
