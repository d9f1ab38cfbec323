/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vhost-user front-end for unit tests, in one thread with the server: what it sends is handled by turning the event
 * loop and the fake engine until both are idle.
 */
#ifndef TESTS_FRONT_END_H
#define TESTS_FRONT_END_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/vhost_user/message.h"

#define FRONT_END_MEMORY	    0x200000U
#define FRONT_END_GUEST		    0x100000ULL	      /* guest address of its memory */
#define FRONT_END_USER		    0x7f1200000000ULL /* its own address of it */
#define FRONT_END_RING(index, part) (FRONT_END_USER + 0x10000ULL * (index) + 0x4000ULL * (part))

enum outcome {
	SILENT,	  /* nothing came back */
	ACCEPTED, /* acknowledged with 0 */
	REFUSED,  /* acknowledged with another number */
	REPLIED,  /* a reply of its own */
	CLOSED,
};

struct front_end {
	int fd;
	struct event_base *base;
	bool hold_engine; /* steps of the fake engine are not run */
	int memory_fd;
	uint8_t *memory;
	struct vhost_user_message reply; /* the last one, with its fds */
};

/** front_end_start() - speak on @fd; makes a guest's memory. */
void front_end_start(struct front_end *front_end, struct event_base *base, int fd);
void front_end_stop(struct front_end *front_end);

/** front_end_pump() - turn loop and engine until they are idle. */
void front_end_pump(struct front_end *front_end);

/** front_end_send() - a message as told, right or wrong; nothing is waited for. */
void front_end_send(struct front_end *front_end, uint32_t request, uint32_t flags, const void *payload, uint32_t length,
		    uint32_t size, const int *fds, unsigned fd_count);

/** front_end_receive() - what came back for @request. Reply fds are closed at the next call. */
enum outcome front_end_receive(struct front_end *front_end, uint32_t request);

/** front_end_call() - a well-formed message with need_reply, and what came back. */
enum outcome front_end_call(struct front_end *front_end, uint32_t request, const void *payload, uint32_t size,
			    const int *fds, unsigned fd_count);

enum outcome front_end_u64(struct front_end *front_end, uint32_t request, uint64_t value);
enum outcome front_end_state(struct front_end *front_end, uint32_t request, uint32_t index, uint32_t num);
enum outcome front_end_file(struct front_end *front_end, uint32_t request, uint64_t value, int fd);
enum outcome front_end_address(struct front_end *front_end, uint32_t index);
enum outcome front_end_memory(struct front_end *front_end);

/** front_end_negotiate() - SET_OWNER and all protocol features; @features: for SET_FEATURES, 0: not sent. */
void front_end_negotiate(struct front_end *front_end, uint64_t features);

/**
 * front_end_start_queue() - size 16, base 0, addresses, eventfds for kick and call (returned, -1: not wanted), enable.
 */
void front_end_start_queue(struct front_end *front_end, uint32_t index, int *kick, int *call);

#endif
