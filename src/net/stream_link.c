/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The connection of a stream uplink.
 *
 * Theory of operation
 * -------------------
 * There is one connection at a time; made by us, tried once a second, or accepted. When it breaks, another is made.
 *
 *	WAITING		connect: the next try is at retry_at; listen: for a peer
 *	CONNECTING	connect() is on its way (TCP)
 *	CONNECTED	frames flow
 *
 * All of it is done in steps, without ever blocking. What the sidecore watches while it sleeps is an epoll set of the
 * link's own (an epoll descriptor can itself be watched), with the timer, the listening socket and the connection in it:
 * so wake_fd stays the same while sockets come and go. It is edge-triggered through and through; nobody reads its events,
 * a step just looks at everything.
 */
#include "net/stream_link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"

#define RETRY_INTERVAL NANOSECONDS_PER_SECOND

static void set_state(struct stream_link *link, enum stream_link_state state)
{
	atomic_store_explicit(&link->state, state, memory_order_relaxed);
}

static enum stream_link_state get_state(const struct stream_link *link)
{
	return atomic_load_explicit(&link->state, memory_order_relaxed);
}

static void watch(struct stream_link *link, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events | EPOLLET };

	/* Fails for want of memory only; then the retry timer or the next kick of somebody else finds what is there. */
	epoll_ctl(link->wake_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Wait for the next try: the next address at once, the first one again after a while. */
static void retry(struct stream_link *link, uint64_t now)
{
	struct itimerspec when = { 0 };

	set_state(link, STREAM_WAITING);
	link->address = (link->address + 1) % link->address_count;
	link->retry_at = link->address ? now : now + RETRY_INTERVAL;
	when.it_value.tv_sec = (time_t)(link->retry_at / NANOSECONDS_PER_SECOND);
	when.it_value.tv_nsec = (long)(link->retry_at % NANOSECONDS_PER_SECOND);
	timerfd_settime(link->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void close_connection(struct stream_link *link)
{
	if (link->fd >= 0)
		close(link->fd); /* leaves the epoll set by itself */
	link->fd = -1;
}

static void start_connect(struct stream_link *link, uint64_t now)
{
	const struct stream_address *address = &link->addresses[link->address];

	link->fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (link->fd < 0) {
		retry(link, now);
		return;
	}
	watch(link, link->fd, EPOLLIN | EPOLLOUT);
	/* A unix socket connects at once or (EAGAIN: the peer's backlog is full) not at all. */
	if (connect(link->fd, (const struct sockaddr *)&address->storage, address->length) && errno != EINPROGRESS) {
		close_connection(link);
		retry(link, now);
		return;
	}
	set_state(link, STREAM_CONNECTING);
}

/* Has connect() come to an end? Return: true when connected. */
static bool finish_connect(struct stream_link *link, uint64_t now)
{
	struct pollfd pollfd = { .fd = link->fd, .events = POLLOUT };
	socklen_t length = sizeof(int);
	int error = 0;

	if (poll(&pollfd, 1, 0) != 1)
		return false;
	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &length) || error) {
		close_connection(link);
		retry(link, now);
		return false;
	}
	return true;
}

bool stream_link_step(struct stream_link *link, uint64_t now)
{
	if (link->listens) {
		if (link->fd < 0) {
			link->fd = accept4(link->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
			if (link->fd >= 0)
				watch(link, link->fd, EPOLLIN | EPOLLOUT);
		}
		return link->fd >= 0;
	}
	if (get_state(link) == STREAM_WAITING && now >= link->retry_at)
		start_connect(link, now);
	return get_state(link) == STREAM_CONNECTING && finish_connect(link, now);
}

void stream_link_taken_up(struct stream_link *link)
{
	int one = 1;

	/* Frames go out in batches already. Not for unix sockets, which fail this. */
	setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	link->address = 0;
	set_state(link, STREAM_CONNECTED);
}

void stream_link_lost(struct stream_link *link, uint64_t now)
{
	close_connection(link);
	if (link->listens) {
		set_state(link, STREAM_WAITING);
	} else {
		link->address = link->address_count - 1; /* so that the next one is the first, after a while */
		retry(link, now);
	}
}

void stream_link_close(struct stream_link *link)
{
	const int fds[] = { link->fd, link->listen_fd, link->timer_fd, link->wake_fd };

	if (link->listen_fd >= 0)
		stream_address_forget(&link->addresses[0]);
	for (unsigned i = 0; i < array_size(fds); i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
}

int stream_link_open(struct stream_link *link, const struct uplink_config *config, const char **error)
{
	int code;

	link->listens = config->listen;
	link->fd = link->wake_fd = link->timer_fd = link->listen_fd = -1;
	code = stream_address_resolve(config->address, config->listen, link->addresses, &link->address_count, error);
	if (code)
		return code;
	*error = "no file descriptors left for the stream; raise the limit (LimitNOFILE=)";
	link->wake_fd = epoll_create1(EPOLL_CLOEXEC);
	if (link->wake_fd < 0)
		return -errno;
	link->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (link->timer_fd < 0)
		return -errno;
	watch(link, link->timer_fd, EPOLLIN);
	if (!link->listens)
		return 0;

	link->listen_fd = stream_address_listen(&link->addresses[0]);
	if (link->listen_fd < 0) {
		*error = link->listen_fd == -EADDRINUSE
				 ? "somebody else listens on the stream's address; stop that, or choose another"
				 : "cannot listen on the stream's address; do its folder and our rights on it exist?";
		return link->listen_fd;
	}
	watch(link, link->listen_fd, EPOLLIN);
	return 0;
}

const char *stream_link_describe(const struct stream_link *link)
{
	switch (get_state(link)) {
	case STREAM_CONNECTED:
		return "connected";
	case STREAM_CONNECTING:
		return "connecting";
	default:
		return link->listens ? "waiting for the peer to connect" : "waiting for the peer; retries each second";
	}
}
