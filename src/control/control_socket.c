/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control socket.
 *
 * Theory of operation
 * -------------------
 * Clients send lines and get a line for each, in order. They are trusted to ask (mode 0660), not to behave: a line is
 * at most 64 KiB; no more clients than CLIENTS_MAX at a time; one that does not read its answers is not read from
 * either, and one that is silent for five minutes, or takes nothing for 30 seconds, is let go. All of it is
 * non-blocking on the control thread's event loop; the sidecores never notice.
 *
 * Backpressure: a client's next line is executed only when what was answered before has left for the kernel, so that
 * memory per client is bounded by one line and one answer.
 */
#include "control/control_socket.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "control/control_command.h"
#include "control/server_state.h"

#define CLIENTS_MAX	    64U
#define IDLE_SECONDS	    300
#define UNREAD_SECONDS	    30
#define LISTEN_BACKLOG	    128
#define CONTROL_PERMISSIONS 0660

struct control_client {
	LIST_ENTRY(control_client) link;
	struct control_socket *control;
	struct bufferevent *stream;
	bool ended;   /* it sends no more: close when all it asked is answered */
	bool closing; /* close when the last answer is out */
};

struct control_socket {
	struct server *server;
	struct evconnlistener *listener;
	char *path;
	unsigned client_count;
	LIST_HEAD(, control_client) clients;
	struct log_limit log_limit;
};

static void drop_client(struct control_client *client)
{
	LIST_REMOVE(client, link);
	client->control->client_count--;
	bufferevent_free(client->stream); /* closes */
	free(client);
}

static void answer(struct control_client *client, json_t *object)
{
	struct evbuffer *output = bufferevent_get_output(client->stream);
	char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

	/* Out of memory: the client sees the connection end rather than half an answer. */
	if (!text || evbuffer_add_printf(output, "%s\n", text) < 0)
		client->closing = true;
	free(text);
	json_decref(object);
}

/* Execute the next line when the last answer has left. The client may be gone afterwards. */
static void serve_lines(struct control_client *client)
{
	struct evbuffer *input = bufferevent_get_input(client->stream);
	struct evbuffer *output = bufferevent_get_output(client->stream);
	char *line;
	size_t length;

	while (!client->closing && evbuffer_get_length(output) == 0) {
		line = evbuffer_readln(input, &length, EVBUFFER_EOL_LF);
		if (!line) {
			client->closing = client->ended;
			break;
		}
		answer(client, control_execute(client->control->server, line, length));
		free(line);
	}
	if (!client->closing && evbuffer_get_length(output) == 0 && evbuffer_get_length(input) >= CONTROL_LINE_MAX) {
		answer(client, control_error("send one JSON object a line", "a line is longer than 64 KiB"));
		client->closing = true;
	}
	if (client->closing && evbuffer_get_length(output) == 0)
		drop_client(client);
}

static void readable(struct bufferevent *stream, void *context)
{
	serve_lines(context);
}

/* All answers have left: there may be lines waiting, or the client was only waiting to be closed. */
static void drained(struct bufferevent *stream, void *context)
{
	serve_lines(context);
}

static void ended(struct bufferevent *stream, short what, void *context)
{
	struct control_client *client = context;

	/* A client may close its sending side after the last question and still want the answers. */
	if (what & BEV_EVENT_EOF && what & BEV_EVENT_READING) {
		client->ended = true;
		serve_lines(client);
		return;
	}
	drop_client(client);
}

static void accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
		     void *context)
{
	static const char busy[] =
		"{\"error\":\"too many clients\",\"remedy\":\"close some; 64 are possible at a time\"}\n";
	struct timeval idle = { .tv_sec = IDLE_SECONDS }, unread = { .tv_sec = UNREAD_SECONDS };
	struct control_socket *control = context;
	struct control_client *client = NULL;

	if (control->client_count < CLIENTS_MAX)
		client = calloc(1, sizeof(*client));
	else if (write(fd, busy, sizeof(busy) - 1) < 0)
		log_limited(&control->log_limit, LOG_LEVEL_DEBUG, "control socket: a client left before its refusal");
	if (client)
		client->stream = bufferevent_socket_new(control->server->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!client || !client->stream) {
		free(client);
		close(fd);
		return;
	}
	client->control = control;
	control->client_count++;
	LIST_INSERT_HEAD(&control->clients, client, link);
	bufferevent_setcb(client->stream, readable, drained, ended, client);
	bufferevent_setwatermark(client->stream, EV_READ, 0, CONTROL_LINE_MAX);
	bufferevent_set_timeouts(client->stream, &idle, &unread);
	bufferevent_enable(client->stream, EV_READ | EV_WRITE);
}

static void accept_failed(struct evconnlistener *listener, void *context)
{
	struct control_socket *control = context;

	log_limited(&control->log_limit, LOG_LEVEL_WARNING, "control socket: cannot accept a client: %s",
		    strerror(errno));
}

/* Is somebody listening there? A refused connection tells of a socket that outlived its daemon. */
static bool is_stale(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool stale;

	stale = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) && errno == ECONNREFUSED;
	if (fd >= 0)
		close(fd);
	return stale;
}

void control_make_default_folder(const char *path)
{
	static const char folder[] = "/run/sidecore/";

	if (!strncmp(path, folder, sizeof(folder) - 1))
		mkdir("/run/sidecore", 0755);
}

static int listen_at(const char *path, int group_id, char **error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *remedy = "check that its folder exists and can be written, or set \"control\" in the configuration";
	int fd, result = 0;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	control_make_default_folder(path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		result = -errno;
	} else if (bind(fd, (struct sockaddr *)&address, sizeof(address))) {
		result = -errno;
		if (result == -EADDRINUSE && is_stale(&address) && !unlink(path))
			result = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
		else if (result == -EADDRINUSE)
			remedy = "another sidecore serves there: stop it, or set \"control\" in the configuration";
	}
	/* Permissions before listen(): until then a connection is refused, whatever the umask left open. */
	if (!result &&
	    (chmod(path, CONTROL_PERMISSIONS) || (group_id >= 0 && lchown(path, (uid_t)-1, (gid_t)group_id))))
		result = -errno;
	if (!result && listen(fd, LISTEN_BACKLOG))
		result = -errno;
	if (!result)
		return fd;
	if (asprintf(error, "control socket %s: %s; %s", path, strerror(-result), remedy) < 0)
		*error = NULL;
	if (fd >= 0)
		close(fd);
	return result;
}

int control_socket_create(const char *path, int group_id, struct server *server, struct control_socket **created,
			  char **error)
{
	struct control_socket *control;
	int fd = listen_at(path, group_id, error);

	if (fd < 0)
		return fd;
	control = calloc(1, sizeof(*control));
	if (control) {
		control->server = server;
		control->path = strdup(path);
		LIST_INIT(&control->clients);
		control->listener = evconnlistener_new(server->base, accepted, control,
						       LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	}
	if (!control || !control->path || !control->listener) {
		if (!control || !control->listener)
			close(fd);
		control_socket_destroy(control);
		if (asprintf(error, "control socket %s: out of memory", path) < 0)
			*error = NULL;
		return -ENOMEM;
	}
	evconnlistener_set_error_cb(control->listener, accept_failed);
	*created = control;
	return 0;
}

void control_socket_destroy(struct control_socket *control)
{
	if (!control)
		return;
	while (!LIST_EMPTY(&control->clients))
		drop_client(LIST_FIRST(&control->clients));
	if (control->listener)
		evconnlistener_free(control->listener);
	if (control->path)
		unlink(control->path);
	free(control->path);
	free(control);
}
