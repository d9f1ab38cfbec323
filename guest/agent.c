/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The agent: lets a program on the host run commands inside a test guest.
 *
 * Theory of operation
 * -------------------
 * The guest's second serial port (ttyS1, an isa-serial device: built into the kernel, independent of everything under
 * test) is bridged by QEMU to a unix socket. Both directions carry lines; a line holds one whole message, so that after
 * garbage, a lost byte or a new connection either side is in step again at the next newline. Any byte outside printable
 * ASCII travels as an escape (\\ \n \r \t \xHH), the port itself is raw.
 *
 * Host to guest:
 *	hello TOKEN			answered by "hello TOKEN ..."; a host that connects sends "\nhello TOKEN\n" and drops
 *					what arrives before the answer
 *	run ID TIMEOUT LENGTH COMMAND	run COMMAND (LENGTH bytes once unescaped) by /bin/sh -c in a session and process
 *					group of its own; TIMEOUT in ms, 0 for none; ID is a number chosen by the host
 *	kill ID				kill the process group of a running command
 *	poweroff			answered by "bye"; the guest goes down
 *
 * Guest to host:
 *	hello TOKEN sidecore-agent VERSION HOSTNAME UPTIME_MS	also sent unasked, with the token "-", when ready
 *	out ID DATA			a piece of the command's standard output and error, in the order written
 *	exit ID KIND VALUE BYTES	the end. KIND is "exited" (VALUE = status), "signal" (VALUE = number), "timeout" or
 *					"killed" (group killed by us); BYTES = sum of all DATA, so that a loss is noticed
 *	error ID REASON			the message with that id (or "-", if it had none) was refused
 *
 * A command ends with its shell. Background jobs that it leaves behind live on; what they still write to the inherited
 * pipe is read and dropped (never a SIGPIPE or a full pipe for them): redirect it to keep it.
 *
 * Invariants
 * - Every accepted "run" gets exactly one "exit", after all its "out".
 * - The agent never blocks on the port: messages wait in @out; commands are read only while it has room, and a shell is
 *   reaped only when all that its pipe can hold fits.
 *
 * Context: one thread. When it ends, for whatever reason, init powers the guest off.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define VERSION	      1
#define LINE_MAX_SIZE 65536 /* longest line from the host */
#define JOBS_MAX      64    /* commands running, or ended with background jobs that still hold the pipe */
#define CHUNK_SIZE    4096  /* most bytes of output in one message, before escaping */
#define PIPE_SIZE     65536 /* what a Linux pipe holds */
#define ESCAPED_MAX   4	    /* bytes on the wire for one byte of output, at worst */
#define OUT_SIZE      (512 * 1024)
#define OUT_READ_MAX  16384 /* commands are read only while less than this waits for the port */
#define OUT_ROOM_READ (ESCAPED_MAX * CHUNK_SIZE + 64)
#define OUT_ROOM_REAP (ESCAPED_MAX * PIPE_SIZE + (PIPE_SIZE / CHUNK_SIZE + 2) * 64)

enum job_state {
	JOB_FREE,
	JOB_RUNNING,
	JOB_LINGERING, /* shell gone and reported; background jobs may still write */
};

struct job {
	enum job_state state;
	uint64_t id;
	pid_t pid; /* of the shell, and its process group */
	int pipe;
	int64_t deadline;   /* ms, monotonic; 0: none */
	uint64_t bytes;	    /* forwarded so far */
	const char *killed; /* why we killed it, NULL if we did not */
};

struct agent {
	int port;
	int signals;
	bool stopping;
	struct job jobs[JOBS_MAX];
	char line[LINE_MAX_SIZE]; /* being received */
	size_t line_length;
	bool line_overlong; /* drop up to the next newline */
	char out[OUT_SIZE]; /* waiting for the port */
	size_t out_length;
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static size_t out_room(const struct agent *agent)
{
	return OUT_SIZE - agent->out_length;
}

static bool out_accepts(const struct agent *agent)
{
	return agent->out_length < OUT_READ_MAX && out_room(agent) >= OUT_ROOM_READ;
}

/* The buffer is full for a reply only if the host sends without reading: the line is then dropped whole. */
__attribute__((format(printf, 2, 3))) static void send_line(struct agent *agent, const char *format, ...)
{
	char line[256];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line) - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';

	if ((size_t)length > out_room(agent))
		return;
	memcpy(agent->out + agent->out_length, line, (size_t)length);
	agent->out_length += (size_t)length;
}

static size_t escape(char *to, const unsigned char *from, size_t length)
{
	static const char hex[] = "0123456789abcdef";
	char *start = to;

	for (size_t i = 0; i < length; i++) {
		unsigned char byte = from[i];
		char letter = byte == '\n' ? 'n' : byte == '\r' ? 'r' : byte == '\t' ? 't' : byte == '\\' ? '\\' : 0;

		if (letter) {
			*to++ = '\\';
			*to++ = letter;
		} else if (byte >= 0x20 && byte < 0x7f) {
			*to++ = (char)byte;
		} else {
			*to++ = '\\';
			*to++ = 'x';
			*to++ = hex[byte >> 4];
			*to++ = hex[byte & 15];
		}
	}
	return (size_t)(to - start);
}

static int hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	return -1;
}

/* In place. Return: length, or -1 if it is not what escape() makes. */
static ssize_t unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (*from != '\\') {
			*to++ = *from;
			continue;
		}
		from++;
		if (*from == 'x') {
			int high = hex_value(from[1]);
			int low = high < 0 ? -1 : hex_value(from[2]);

			if (low < 0)
				return -1;
			*to++ = (char)(high << 4 | low);
			from += 2;
		} else if (*from == 'n') {
			*to++ = '\n';
		} else if (*from == 'r') {
			*to++ = '\r';
		} else if (*from == 't') {
			*to++ = '\t';
		} else if (*from == '\\') {
			*to++ = '\\';
		} else {
			return -1;
		}
	}
	*to = '\0';
	return to - text;
}

static void send_output(struct agent *agent, struct job *job, const unsigned char *data, size_t length)
{
	char *to = agent->out + agent->out_length;
	size_t written;

	written = (size_t)sprintf(to, "out %llu ", (unsigned long long)job->id);
	written += escape(to + written, data, length);
	to[written++] = '\n';
	agent->out_length += written;
	job->bytes += length;
}

static void send_hello(struct agent *agent, const char *token)
{
	char name[65] = "";

	if (gethostname(name, sizeof(name) - 1) || !name[0])
		strcpy(name, "guest");
	send_line(agent, "hello %.64s sidecore-agent %d %s %lld", token, VERSION, name, (long long)now_ms());
}

static struct job *job_find(struct agent *agent, uint64_t id)
{
	for (struct job *job = agent->jobs; job < agent->jobs + JOBS_MAX; job++)
		if (job->state == JOB_RUNNING && job->id == id)
			return job;
	return NULL;
}

static struct job *job_find_free(struct agent *agent)
{
	for (struct job *job = agent->jobs; job < agent->jobs + JOBS_MAX; job++)
		if (job->state == JOB_FREE)
			return job;
	return NULL;
}

static void job_free(struct job *job)
{
	close(job->pipe);
	*job = (struct job){ .state = JOB_FREE, .pipe = -1 };
}

static void job_kill(struct job *job, const char *why)
{
	/* The shell is ours and not reaped, so its number cannot have passed to another group. */
	job->killed = why;
	job->deadline = 0;
	kill(-job->pid, SIGKILL);
}

__attribute__((noreturn)) static void child_run(int output, const char *command)
{
	sigset_t none;
	int input = open("/dev/null", O_RDONLY);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setsid();
	if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
		_exit(126);
	if (input > 2)
		close(input);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static int job_start(struct job *job, uint64_t id, int64_t timeout, const char *command)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid < 0) {
		int error = -errno;

		close(ends[0]);
		close(ends[1]);
		return error;
	}
	if (!pid)
		child_run(ends[1], command);

	close(ends[1]);
	fcntl(ends[0], F_SETFL, O_NONBLOCK); /* our end only: the file description of the other end is another */
	*job = (struct job){
		.state = JOB_RUNNING,
		.id = id,
		.pid = pid,
		.pipe = ends[0],
		.deadline = timeout ? now_ms() + timeout : 0,
	};
	return 0;
}

/* "run ID TIMEOUT LENGTH COMMAND", @rest starts at ID. */
static void handle_run(struct agent *agent, char *rest)
{
	unsigned long long id, timeout, length;
	struct job *job;
	char *command;
	int start = 0;
	int error;

	if (sscanf(rest, "%llu %llu %llu%n", &id, &timeout, &length, &start) != 3 || rest[start] != ' ' ||
	    timeout > INT32_MAX) {
		send_line(agent, "error - malformed run");
		return;
	}
	command = rest + start + 1;
	if (unescape(command) != (ssize_t)length || strlen(command) != length) {
		send_line(agent, "error %llu command damaged on the way", id);
		return;
	}
	if (job_find(agent, id)) {
		send_line(agent, "error %llu already running", id);
		return;
	}
	job = job_find_free(agent);
	if (!job) {
		send_line(agent, "error %llu too many commands", id);
		return;
	}
	error = job_start(job, id, (int64_t)timeout, command);
	if (error)
		send_line(agent, "error %llu cannot start: %s", id, strerror(-error));
}

static void handle_line(struct agent *agent, char *line)
{
	char *rest = strchr(line, ' ');

	if (rest)
		*rest++ = '\0';
	if (!*line)
		return;
	if (!strcmp(line, "hello")) {
		send_hello(agent, rest && *rest ? rest : "-");
	} else if (!strcmp(line, "run") && rest) {
		handle_run(agent, rest);
	} else if (!strcmp(line, "kill") && rest) {
		struct job *job = job_find(agent, strtoull(rest, NULL, 10));

		if (job)
			job_kill(job, "killed");
		else
			send_line(agent, "error - no such command");
	} else if (!strcmp(line, "poweroff")) {
		send_line(agent, "bye");
		agent->stopping = true;
	} else {
		send_line(agent, "error - unknown message");
	}
}

/* Return: 0, or -1 when the port is gone. */
static int port_read(struct agent *agent)
{
	char bytes[4096];
	ssize_t count = read(agent->port, bytes, sizeof(bytes));

	if (count <= 0)
		return count < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;

	for (ssize_t i = 0; i < count; i++) {
		if (bytes[i] != '\n') {
			/* A NUL would end the line early for everything below; it is garbage in any case. */
			if (agent->line_length == LINE_MAX_SIZE - 1 || !bytes[i])
				agent->line_overlong = true;
			else
				agent->line[agent->line_length++] = bytes[i];
			continue;
		}
		agent->line[agent->line_length] = '\0';
		if (agent->line_overlong)
			send_line(agent, "error - line too long or damaged");
		else
			handle_line(agent, agent->line);
		agent->line_length = 0;
		agent->line_overlong = false;
	}
	return 0;
}

static int port_write(struct agent *agent)
{
	ssize_t count = write(agent->port, agent->out, agent->out_length);

	if (count < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	agent->out_length -= (size_t)count;
	memmove(agent->out, agent->out + count, agent->out_length);
	return 0;
}

static void job_read(struct agent *agent, struct job *job)
{
	unsigned char data[CHUNK_SIZE];
	ssize_t count = read(job->pipe, data, sizeof(data));

	if (count > 0 && job->state == JOB_RUNNING) {
		send_output(agent, job, data, (size_t)count);
	} else if (count == 0 && job->state == JOB_LINGERING) {
		job_free(job);
	} else if (count == 0) {
		/* All writers closed their end though the shell lives: nothing left but to wait for it. */
		close(job->pipe);
		job->pipe = -1;
	}
}

/* What was in the pipe when the shell ended belongs to the command; a background job's later output does not. */
static void job_drain(struct agent *agent, struct job *job)
{
	unsigned char data[CHUNK_SIZE];
	int left = 0;

	if (job->pipe < 0 || ioctl(job->pipe, FIONREAD, &left))
		return;
	if (left > PIPE_SIZE)
		left = PIPE_SIZE;
	while (left > 0) {
		ssize_t count = read(job->pipe, data, left < CHUNK_SIZE ? (size_t)left : CHUNK_SIZE);

		if (count <= 0)
			return;
		send_output(agent, job, data, (size_t)count);
		left -= (int)count;
	}
}

static void jobs_reap(struct agent *agent)
{
	for (struct job *job = agent->jobs; job < agent->jobs + JOBS_MAX; job++) {
		const char *kind;
		int status;

		if (job->state != JOB_RUNNING)
			continue;
		if (out_room(agent) < OUT_ROOM_REAP)
			return;
		if (waitpid(job->pid, &status, WNOHANG) != job->pid)
			continue;

		job_drain(agent, job);
		kind = !WIFSIGNALED(status) ? "exited" : job->killed ? job->killed : "signal";
		send_line(agent, "exit %llu %s %d %llu", (unsigned long long)job->id, kind,
			  WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), (unsigned long long)job->bytes);
		job->state = JOB_LINGERING;
		job->deadline = 0;
		if (job->pipe < 0)
			*job = (struct job){ .state = JOB_FREE, .pipe = -1 };
	}
}

/* Return: ms until the next deadline, -1 for none. */
static int jobs_expire(struct agent *agent)
{
	int64_t next = -1;
	int64_t now = now_ms();

	for (struct job *job = agent->jobs; job < agent->jobs + JOBS_MAX; job++) {
		if (job->state != JOB_RUNNING || !job->deadline)
			continue;
		if (job->deadline <= now)
			job_kill(job, "timeout");
		else if (next < 0 || job->deadline - now < next)
			next = job->deadline - now;
	}
	return (int)next;
}

/* One turn: wait for anything, serve it. Return: 0, or -1 when the port is gone. */
static int agent_turn(struct agent *agent)
{
	struct pollfd polls[JOBS_MAX + 2];
	int timeout = jobs_expire(agent);
	bool readable = out_accepts(agent);

	polls[0] = (struct pollfd){ .fd = agent->port, .events = POLLIN };
	if (agent->out_length)
		polls[0].events |= POLLOUT;
	polls[1] = (struct pollfd){ .fd = agent->signals, .events = POLLIN };
	for (int i = 0; i < JOBS_MAX; i++) {
		struct job *job = &agent->jobs[i];
		bool wanted = job->state == JOB_LINGERING || (job->state == JOB_RUNNING && readable);

		polls[i + 2] = (struct pollfd){ .fd = wanted ? job->pipe : -1, .events = POLLIN };
	}

	if (poll(polls, JOBS_MAX + 2, timeout) < 0)
		return errno == EINTR ? 0 : -1;

	if (polls[1].revents) {
		struct signalfd_siginfo info;

		while (read(agent->signals, &info, sizeof(info)) > 0)
			;
	}
	for (int i = 0; i < JOBS_MAX; i++) {
		struct job *job = &agent->jobs[i];

		if (polls[i + 2].revents && (job->state == JOB_LINGERING || out_accepts(agent)))
			job_read(agent, job);
	}
	jobs_reap(agent); /* each turn, not only on a signal: room may have kept an earlier turn from it */

	if ((polls[0].revents & (POLLERR | POLLHUP | POLLNVAL)) || ((polls[0].revents & POLLIN) && port_read(agent)))
		return -1;
	return agent->out_length ? port_write(agent) : 0;
}

static int port_open(const char *path)
{
	struct termios raw;
	int port = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (port < 0)
		return -errno;
	if (isatty(port)) {
		if (tcgetattr(port, &raw))
			return -errno;
		cfmakeraw(&raw);
		raw.c_cflag |= CLOCAL | CREAD;
		raw.c_cflag &= ~(tcflag_t)CRTSCTS;
		cfsetspeed(&raw, B115200);
		if (tcsetattr(port, TCSANOW, &raw))
			return -errno;
	}
	return port;
}

int main(int argc, char **argv)
{
	static struct agent agent;
	const char *path = argc > 1 ? argv[1] : "/dev/ttyS1";
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	agent.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	agent.port = port_open(path);
	if (agent.signals < 0 || agent.port < 0) {
		fprintf(stderr, "agent: cannot use %s: %s\n", path, strerror(agent.port < 0 ? -agent.port : errno));
		return EXIT_FAILURE;
	}

	send_hello(&agent, "-");
	while (!agent.stopping) {
		if (agent_turn(&agent)) {
			fprintf(stderr, "agent: lost %s: %s\n", path, strerror(errno));
			return EXIT_FAILURE;
		}
	}
	fcntl(agent.port, F_SETFL, 0);
	while (agent.out_length && !port_write(&agent))
		;
	tcdrain(agent.port);
	return EXIT_SUCCESS;
}
