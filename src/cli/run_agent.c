/* SPDX-License-Identifier: BSD-3-Clause */
/* The host's end of the guest agent. The protocol is described at the head of guest/agent.c. */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "cli/run.h"

#define INPUT_MAX	      (1U << 20) /* longest line from a guest */
#define MEANWHILE_INTERVAL_MS 200

static uint64_t deadline_in(unsigned timeout_ms)
{
	return clock_nanoseconds() + timeout_ms * NANOSECONDS_PER_MILLISECOND;
}

static int milliseconds_left(uint64_t deadline)
{
	uint64_t now = clock_nanoseconds();

	return now >= deadline ? 0 : (int)((deadline - now) / NANOSECONDS_PER_MILLISECOND + 1);
}

static int send_all(struct agent *agent, const char *text, size_t size)
{
	while (size) {
		ssize_t sent = send(agent->fd, text, size, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		text += sent;
		size -= (size_t)sent;
	}
	return 0;
}

/* More bytes into agent->input. Return: 0; -ETIMEDOUT, -EPIPE (end of file), -EINTR (the user), -EMSGSIZE. */
static int receive_more(struct agent *agent, uint64_t deadline)
{
	struct pollfd wait = { .fd = agent->fd, .events = POLLIN };
	ssize_t received;
	int ready;

	if (agent->input_size == agent->input_capacity) {
		size_t capacity = agent->input_capacity ? 2 * agent->input_capacity : 65536;
		char *input = capacity > INPUT_MAX ? NULL : realloc(agent->input, capacity);

		if (!input)
			return -EMSGSIZE;
		agent->input = input;
		agent->input_capacity = capacity;
	}
	do {
		int patience = milliseconds_left(deadline);

		if (run_stopped())
			return -EINTR;
		if (agent->meanwhile)
			agent->meanwhile(agent->context);
		ready = poll(&wait, 1, agent->meanwhile ? min(patience, MEANWHILE_INTERVAL_MS) : patience);
	} while ((ready < 0 && errno == EINTR) || (!ready && milliseconds_left(deadline)));
	if (ready <= 0)
		return ready ? -errno : -ETIMEDOUT;
	received = recv(agent->fd, agent->input + agent->input_size, agent->input_capacity - agent->input_size, 0);
	if (received <= 0)
		return received ? -errno : -EPIPE;
	agent->input_size += (size_t)received;
	return 0;
}

/* One line, without its end, to be freed. */
static int receive_line(struct agent *agent, uint64_t deadline, char **line)
{
	char *end;
	size_t size;
	int error;

	while (!(end = agent->input_size ? memchr(agent->input, '\n', agent->input_size) : NULL)) {
		error = receive_more(agent, deadline);
		if (error)
			return error;
	}
	size = (size_t)(end - agent->input);
	*line = strndup(agent->input, size);
	agent->input_size -= size + 1;
	memmove(agent->input, end + 1, agent->input_size);
	return *line ? 0 : -ENOMEM;
}

static int connect_socket(const char *path, struct process *qemu, uint64_t deadline)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		bool running = process_running(qemu);

		if (!running || !milliseconds_left(deadline) || run_stopped()) {
			close(fd);
			return running ? -ETIMEDOUT : -ECHILD;
		}
		usleep(20000);
	}
	return fd;
}

/* A booting agent reports by itself; we ask as well, in case it did so before we listened. */
static int wait_ready(struct agent *agent, uint64_t deadline)
{
	char token[32], *line, answer[48];
	uint64_t ask = 0;
	int error;

	snprintf(token, sizeof(token), "t%llu", (unsigned long long)clock_nanoseconds());
	snprintf(answer, sizeof(answer), "hello %s ", token);
	for (;;) {
		if (clock_nanoseconds() > ask) {
			char hello[64];
			int size = snprintf(hello, sizeof(hello), "\nhello %s\n", token);

			error = send_all(agent, hello, (size_t)size);
			if (error)
				return error;
			ask = deadline_in(1000);
		}
		error = receive_line(agent, ask < deadline ? ask : deadline, &line);
		if (error == -ETIMEDOUT && milliseconds_left(deadline))
			continue;
		if (error)
			return error;
		error = strncmp(line, answer, strlen(answer));
		free(line);
		if (!error)
			return 0;
	}
}

int agent_connect(struct agent *agent, const char *path, struct process *qemu, unsigned timeout_ms)
{
	uint64_t deadline = deadline_in(timeout_ms);
	int error;

	*agent = (struct agent){ .next_id = 1, .meanwhile = agent->meanwhile, .context = agent->context };
	agent->fd = connect_socket(path, qemu, deadline);
	if (agent->fd < 0)
		return agent->fd;
	error = wait_ready(agent, deadline);
	if (error)
		agent_close(agent);
	return error;
}

void agent_close(struct agent *agent)
{
	if (agent->fd > 0)
		close(agent->fd);
	free(agent->input);
	*agent = (struct agent){ .fd = -1 };
}

static int hex_digit(char digit)
{
	return isdigit((unsigned char)digit) ? digit - '0' : digit - 'a' + 10;
}

/* Append the bytes that @text stands for. */
static int append_unescaped(struct agent_result *result, const char *text)
{
	char *output = realloc(result->output, result->size + strlen(text) + 1);

	if (!output)
		return -ENOMEM;
	result->output = output;
	while (*text) {
		char byte = *text++;

		if (byte == '\\' && *text) {
			byte = *text++;
			if (byte == 'n')
				byte = '\n';
			else if (byte == 'r')
				byte = '\r';
			else if (byte == 't')
				byte = '\t';
			else if (byte == 'x' && isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1])) {
				byte = (char)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
				text += 2;
			}
		}
		output[result->size++] = byte;
	}
	output[result->size] = '\0';
	return 0;
}

static int send_command(struct agent *agent, uint64_t id, const char *command, unsigned timeout_ms)
{
	size_t length = strlen(command), size;
	char *line = malloc(4 * length + 96), *to;
	int error;

	if (!line)
		return -ENOMEM;
	to = line + sprintf(line, "run %llu %u %zu ", (unsigned long long)id, timeout_ms, length);
	for (const char *from = command; *from; from++) {
		if (*from == '\\')
			to += sprintf(to, "\\\\");
		else if (isprint((unsigned char)*from))
			*to++ = *from;
		else
			to += sprintf(to, "\\x%02x", (unsigned char)*from);
	}
	*to++ = '\n';
	size = (size_t)(to - line);
	error = send_all(agent, line, size);
	free(line);
	return error;
}

/* One line of the guest: ours, or of an older command. Return: 1: the end; 0: go on; -errno. */
static int take_line(struct agent_result *result, uint64_t id, const char *line)
{
	unsigned long long number, bytes;
	char *end;

	if (!strncmp(line, "out ", 4)) {
		/* One blank before the data: more of them are data. */
		number = strtoull(line + 4, &end, 10);
		return number == id && *end == ' ' ? append_unescaped(result, end + 1) : 0;
	}
	if (sscanf(line, "exit %llu %15s %d %llu", &number, result->kind, &result->status, &bytes) == 4 &&
	    number == id) {
		if (strcmp(result->kind, "exited"))
			result->status = -1;
		return bytes == result->size ? 1 : -EBADMSG;
	}
	if (sscanf(line, "error %llu", &number) == 1 && number == id)
		return -EPROTO;
	return 0;
}

int agent_run(struct agent *agent, const char *command, unsigned timeout_ms, struct agent_result *result)
{
	/* The guest ends the command at its timeout; a second later we give up on the guest. */
	uint64_t deadline = deadline_in(timeout_ms + 5000), id = agent->next_id++;
	char *line;
	int error;

	*result = (struct agent_result){ .output = calloc(1, 1), .status = -1 };
	if (!result->output)
		return -ENOMEM;
	error = send_command(agent, id, command, timeout_ms);
	while (!error) {
		error = receive_line(agent, deadline, &line);
		if (error)
			break;
		error = take_line(result, id, line);
		free(line);
	}
	return error < 0 ? error : 0;
}

void agent_poweroff(struct agent *agent)
{
	send_all(agent, "poweroff\n", 9);
}
