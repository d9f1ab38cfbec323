/* SPDX-License-Identifier: BSD-3-Clause */
/* A connection between a client and a fake device, without a listening socket. */
#ifndef TESTS_VFIO_USER_FIXTURE_H
#define TESTS_VFIO_USER_FIXTURE_H

#include <dirent.h>
#include <linux/vfio.h>
#include <sys/socket.h>
#include <time.h>

#include "fake_engine.h"
#include "fake_pci_device.h"
#include "test.h"
#include "transport/vfio_user/connection.h"
#include "vfio_client.h"

#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX

struct vfio_fixture {
	struct event_base *base;
	struct fake_pci_device fake;
	struct vfio_user_connection connection;
	struct vfio_client client;
	bool closed;
	unsigned fds; /* open before the test */
};

static struct vfio_fixture fixture;
static struct vfio_client *const client = &fixture.client;

static inline unsigned open_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

/* Files that might wait are closed by a thread (base/disposal.h): soon, not at once. */
static inline bool settles(unsigned fds)
{
	struct timespec nap = { .tv_nsec = 1000000 };

	for (unsigned i = 0; i < 2000 && open_fds() != fds; i++)
		nanosleep(&nap, NULL);
	return open_fds() == fds;
}

static inline void note_closed(struct vfio_user_connection *connection)
{
	fixture.closed = true;
}

static inline void connect_client(void)
{
	int sockets[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets), 0);
	fixture.closed = false;
	vfio_client_start(&fixture.client, fixture.base, sockets[0]);
	assert_int_equal(vfio_user_connection_open(&fixture.connection, sockets[1]), 0);
}

static inline int set_up(void **state)
{
	memset(&fixture, 0, sizeof(fixture));
	fake_engine_reset();
	fixture.fds = open_fds();
	fixture.base = event_base_new();
	fake_pci_device_init(&fixture.fake, fake_engine_get());
	assert_int_equal(vfio_user_connection_init(&fixture.connection, &fixture.fake.device, fixture.base), 0);
	fixture.connection.closed = note_closed;
	connect_client();
	return 0;
}

/* A session that has a version. */
static inline int set_up_session(void **state)
{
	set_up(state);
	assert_int_equal(vfio_client_version(&fixture.client), 0);
	return 0;
}

static inline void end_session(void)
{
	vfio_client_stop(&fixture.client);
	vfio_client_pump(&fixture.client);
	assert_true(fixture.closed);
}

static inline int tear_down(void **state)
{
	if (!fixture.closed)
		end_session();
	assert_true(fixture.fake.resting);
	assert_null(fixture.fake.device.memory);
	assert_null(fixture.fake.device.host);
	vfio_client_stop(&fixture.client);
	vfio_user_connection_release(&fixture.connection);
	fake_pci_device_release(&fixture.fake);
	event_base_free(fixture.base);
	assert_true(settles(fixture.fds));
	return 0;
}

static inline int region_info(uint32_t index, uint32_t room)
{
	struct vfio_region_info info = { .argsz = room, .index = index };

	return vfio_client_call(client, VFIO_USER_DEVICE_GET_REGION_INFO, &info, sizeof(info), NULL, 0);
}

#define SESSION_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_session, tear_down)

#endif
