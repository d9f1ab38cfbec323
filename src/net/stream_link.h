/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The connection of a stream uplink: made by us, or accepted, and made again when it breaks. Theory of operation:
 * net/stream_link.c.
 *
 * Context: opened and closed on the control thread, else the owning sidecore's; the state is read by any thread.
 */
#ifndef NET_STREAM_LINK_H
#define NET_STREAM_LINK_H

#include <stdatomic.h>
#include <stdint.h>

#include "net/stream_address.h"
#include "net/uplink.h"

enum stream_link_state {
	STREAM_WAITING,
	STREAM_CONNECTING,
	STREAM_CONNECTED,
};

struct stream_link {
	bool listens;
	struct stream_address addresses[STREAM_ADDRESSES_MAX];
	unsigned address_count;

	atomic_uint state; /* enum stream_link_state; read by the control thread */
	unsigned address;  /* the one to try */
	int wake_fd;	   /* epoll set */
	int timer_fd;
	int listen_fd;
	int fd; /* the connection, -1: none */
	uint64_t retry_at;
};

/** stream_link_open() - Return: 0; negative errno with a sentence in @error. stream_link_close() is harmless after either. */
int stream_link_open(struct stream_link *link, const struct uplink_config *config, const char **error);
void stream_link_close(struct stream_link *link);

/** stream_link_step() - one step towards a connection. Return: true when there is one, which nobody has taken up yet. */
bool stream_link_step(struct stream_link *link, uint64_t now);

/** stream_link_taken_up() - frames flow. */
void stream_link_taken_up(struct stream_link *link);

/** stream_link_lost() - the connection is over: close it, and wait for another. */
void stream_link_lost(struct stream_link *link, uint64_t now);

/** stream_link_describe() - any thread: its state, for people; constant. */
const char *stream_link_describe(const struct stream_link *link);

static inline bool stream_link_connected(const struct stream_link *link)
{
	return atomic_load_explicit(&link->state, memory_order_relaxed) == STREAM_CONNECTED;
}

#endif
