/* SPDX-License-Identifier: BSD-3-Clause */
#include "control/control_client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* The daemon's control thread answers within milliseconds; a disk that is being opened may hold it for longer. */
#define ANSWER_SECONDS 10

static int complain(char **error, int result, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int complain(char **error, int result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (vasprintf(error, format, arguments) < 0)
		*error = NULL;
	va_end(arguments);
	return result;
}

static int connect_to(const char *path, char **error)
{
	struct timeval patience = { .tv_sec = ANSWER_SECONDS };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, result;

	if (strlen(path) >= sizeof(address.sun_path))
		return complain(error, -ENAMETOOLONG, "%s: too long for the name of a socket; 107 bytes fit", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return complain(error, -errno, "cannot make a socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return fd;
	result = -errno;
	close(fd);
	if (result == -ENOENT)
		return complain(error, result,
				"no daemon at %s; start it with \"sidecore serve CONFIGURATION\", or name its "
				"socket with --control",
				path);
	if (result == -ECONNREFUSED)
		return complain(error, result,
				"the daemon that made %s is gone; start it again with \"sidecore serve "
				"CONFIGURATION\"",
				path);
	if (result == -EACCES || result == -EPERM)
		return complain(error, result, "not allowed to use %s; run this as root, or as a member of its group",
				path);
	return complain(error, result, "cannot connect to %s: %s", path, strerror(-result));
}

static int send_line(int fd, const char *request)
{
	struct iovec parts[] = { { (void *)request, strlen(request) }, { (void *)"\n", 1 } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);

	if (sent < 0)
		return -errno;
	return (size_t)sent == parts[0].iov_len + 1 ? 0 : -EIO;
}

int control_ask(const char *path, const char *request, json_t **answer, char **error)
{
	const char *sentence, *remedy;
	char *line = NULL;
	size_t size = 0;
	ssize_t length;
	FILE *stream;
	int fd, result;

	*answer = NULL;
	*error = NULL;
	fd = connect_to(path, error);
	if (fd < 0)
		return fd;
	stream = fdopen(fd, "r");
	if (!stream) {
		close(fd);
		return complain(error, -ENOMEM, "out of memory");
	}
	result = send_line(fd, request);
	errno = 0;
	length = result ? -1 : getline(&line, &size, stream);
	if (length > 0)
		*answer = json_loadb(line, (size_t)length, 0, NULL);
	else if (!result)
		result = errno ? -errno : -ECONNRESET;
	free(line);
	fclose(stream);
	if (!*answer)
		return complain(error, result ? result : -EPROTO, "%s: no answer from the daemon: %s", path,
				result == -EAGAIN ? "it did not reply in 10 seconds; is it stopped?"
				: result	  ? strerror(-result)
						  : "what came is not JSON");
	sentence = json_string_value(json_object_get(*answer, "error"));
	remedy = json_string_value(json_object_get(*answer, "remedy"));
	if (sentence)
		return complain(error, -EINVAL, "%s%s%s", sentence, remedy ? "; " : "", remedy ? remedy : "");
	return 0;
}
