/* SPDX-License-Identifier: BSD-3-Clause */
/* A connection between a front-end and a fake device, without a listening socket. */
#ifndef TESTS_VHOST_USER_FIXTURE_H
#define TESTS_VHOST_USER_FIXTURE_H

#include <dirent.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <sched.h>
#include <sys/socket.h>

#include "base/disposal.h"
#include "fake_device.h"
#include "fake_engine.h"
#include "front_end.h"
#include "test.h"
#include "transport/vhost_user/connection.h"

#define FEATURES (1ULL << VIRTIO_F_VERSION_1 | VHOST_USER_PROTOCOL_FEATURES)
#define PACKED	 (1ULL << VIRTIO_F_RING_PACKED)
#define ASK	 (VHOST_USER_VERSION | VHOST_USER_NEED_REPLY)

struct fixture {
	struct event_base *base;
	struct fake_device fake;
	struct vhost_user_connection connection;
	struct front_end front_end;
	unsigned closed;
	unsigned fds_before;
};

static struct fixture fixture;

static inline unsigned count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static inline void note_closed(struct vhost_user_connection *connection)
{
	fixture.closed++;
}

static inline void connect_front_end(void)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	front_end_start(&fixture.front_end, fixture.base, pair[0]);
	assert_int_equal(vhost_user_connection_open(&fixture.connection, pair[1]), 0);
}

static inline void begin(uint16_t device_id)
{
	fixture = (struct fixture){ .base = event_base_new() };
	fake_engine_reset();
	fake_device_init(&fixture.fake, device_id);
	assert_int_equal(vhost_user_connection_init(&fixture.connection, &fixture.fake.device, fixture.base), 0);
	fixture.connection.closed = note_closed;
	fixture.fds_before = count_fds();
	connect_front_end();
}

/* Disconnect, and nothing is left: no queue, no fd, no map. */
static inline void finish(void)
{
	front_end_stop(&fixture.front_end);
	front_end_pump(&fixture.front_end);
	assert_int_equal(fixture.closed, 1);
	assert_int_equal(fixture.connection.state, CONNECTION_CLOSED);
	assert_int_equal(fake_engine.attached, 0);
	assert_null(fixture.connection.memory);
	while (disposal_waiting(fixture.connection.disposal)) /* another thread closes them: at once, if it runs */
		sched_yield();
	assert_int_equal(count_fds(), fixture.fds_before);
	vhost_user_connection_release(&fixture.connection);
	fake_device_release(&fixture.fake);
	event_base_free(fixture.base);
}

static inline struct virtio_queue *queue_of(unsigned index)
{
	return &fixture.fake.device.queues[index];
}

static inline bool runs(unsigned index)
{
	return queue_of(index)->state == VIRTIO_QUEUE_RUNNING;
}

enum stage {
	FRESH,	    /* nothing negotiated */
	NEGOTIATED, /* protocol features and features */
	RUNNING,    /* memory, and queue 0 runs */
};

static inline void reach(enum stage stage)
{
	if (stage >= NEGOTIATED)
		front_end_negotiate(&fixture.front_end, FEATURES);
	if (stage >= RUNNING) {
		assert_int_equal(front_end_memory(&fixture.front_end), ACCEPTED);
		front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
		assert_true(runs(0));
	}
}

#endif
