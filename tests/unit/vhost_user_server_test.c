/* SPDX-License-Identifier: BSD-3-Clause */
/* The socket of a device: one front-end at a time, stale files, both modes, the end. */
#include "test.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_device.h"
#include "fake_engine.h"
#include "front_end.h"
#include "transport/vhost_user/server.h"

#define FEATURES (1ULL << VIRTIO_F_VERSION_1 | VHOST_USER_PROTOCOL_FEATURES)

struct fixture {
	struct event_base *base;
	struct fake_device fake;
	char folder[64];
	struct sockaddr_un address;
	struct vhost_user_server *server;
	bool destroyed;
	struct front_end front_end;
};

static struct fixture fixture;

static int set_up(void **state)
{
	fixture = (struct fixture){ .base = event_base_new(), .folder = "/tmp/vhost_user_server_XXXXXX" };
	fake_engine_reset();
	fake_device_init(&fixture.fake, VIRTIO_ID_BLOCK);
	assert_non_null(mkdtemp(fixture.folder));
	fixture.address.sun_family = AF_UNIX;
	snprintf(fixture.address.sun_path, sizeof(fixture.address.sun_path), "%s/socket", fixture.folder);
	return 0;
}

static int tear_down(void **state)
{
	fake_device_release(&fixture.fake);
	event_base_free(fixture.base);
	unlink(fixture.address.sun_path);
	assert_int_equal(rmdir(fixture.folder), 0);
	return 0;
}

static void note_destroyed(void *context)
{
	fixture.destroyed = true;
}

static void pump(void)
{
	for (unsigned i = 0; i < 16; i++) {
		event_base_loop(fixture.base, EVLOOP_NONBLOCK);
		fake_engine_run();
	}
}

static int create(bool client, const char **error)
{
	struct vhost_user_options options = { .path = fixture.address.sun_path, .client = client, .mode = 0640 };

	return vhost_user_server_create(&options, &fixture.fake.device, fixture.base, &fixture.server, error);
}

static void destroy(void)
{
	vhost_user_server_destroy(fixture.server, note_destroyed, NULL);
	pump();
	assert_true(fixture.destroyed);
}

static int dial(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&fixture.address, sizeof(fixture.address)), 0);
	pump();
	return fd;
}

static bool ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static struct vhost_user_status status_of(void)
{
	struct vhost_user_status status;

	vhost_user_server_read_status(fixture.server, &status);
	return status;
}

static void test_one_at_a_time(void **state)
{
	const char *error = NULL;
	struct stat file;
	int first, second;

	assert_int_equal(create(false, &error), 0);
	assert_int_equal(stat(fixture.address.sun_path, &file), 0);
	assert_int_equal(file.st_mode & 0777, 0640);
	first = dial();
	assert_true(status_of().connected);
	second = dial();
	assert_true(ended(second));
	assert_false(ended(first));
	close(second);
	assert_int_equal(status_of().connections, 1);
	close(first);
	first = dial(); /* again, at once */
	assert_false(ended(first));
	assert_true(status_of().connected);
	assert_int_equal(status_of().connections, 2);
	destroy();
	assert_true(ended(first));
	close(first);
	assert_int_equal(stat(fixture.address.sun_path, &file), -1);
}

/* Who comes while the requests of the one before are still in flight waits in the backlog, and is then served. */
static void test_newcomer_waits_for_drain(void **state)
{
	struct virtio_queue *queue = &fixture.fake.device.queues[0];
	const char *error = NULL;
	int second;

	assert_int_equal(create(false, &error), 0);
	front_end_start(&fixture.front_end, fixture.base, dial());
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	assert_int_equal(queue->state, VIRTIO_QUEUE_RUNNING);
	assert_int_equal(status_of().regions, 1);
	assert_int_equal(status_of().memory, FRONT_END_MEMORY);
	queue->life.in_flight = 1;
	front_end_stop(&fixture.front_end);
	second = dial();
	assert_false(ended(second));
	assert_false(status_of().connected);
	queue->life.in_flight = 0;
	device_queue_drained(&queue->life);
	pump();
	assert_true(status_of().connected);
	assert_int_equal(status_of().regions, 0);
	front_end_start(&fixture.front_end, fixture.base, second);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_FEATURES, NULL, 0, NULL, 0), REPLIED);
	front_end_stop(&fixture.front_end);
	destroy();
}

/* The device is removed while a request is in flight: the end waits for it. */
static void test_destroy_waits_for_drain(void **state)
{
	struct virtio_queue *queue = &fixture.fake.device.queues[0];
	const char *error = NULL;

	assert_int_equal(create(false, &error), 0);
	front_end_start(&fixture.front_end, fixture.base, dial());
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	queue->life.in_flight = 1;
	vhost_user_server_destroy(fixture.server, note_destroyed, NULL);
	pump();
	assert_false(fixture.destroyed);
	queue->life.in_flight = 0;
	device_queue_drained(&queue->life);
	pump();
	assert_true(fixture.destroyed);
	assert_int_equal(queue->state, VIRTIO_QUEUE_STOPPED);
	front_end_stop(&fixture.front_end);
}

static void test_path_in_use(void **state)
{
	const char *error = NULL;
	struct stat file;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* Somebody listens: left alone. */
	assert_int_equal(bind(fd, (struct sockaddr *)&fixture.address, sizeof(fixture.address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(create(false, &error), -EADDRINUSE);
	assert_non_null(error);
	assert_int_equal(stat(fixture.address.sun_path, &file), 0);
	/* Nobody any more: taken over. */
	close(fd);
	assert_int_equal(create(false, &error), 0);
	/* And another takes our path: at the end it is not ours to remove. */
	unlink(fixture.address.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&fixture.address, sizeof(fixture.address)), 0);
	destroy();
	assert_int_equal(stat(fixture.address.sun_path, &file), 0);
	close(fd);
}

static void test_path_that_is_no_socket(void **state)
{
	const char *error = NULL;
	FILE *file = fopen(fixture.address.sun_path, "w");
	struct vhost_user_options options = { .path = "" };
	char path[200];

	fclose(file);
	assert_int_equal(create(false, &error), -EADDRINUSE);
	assert_int_equal(access(fixture.address.sun_path, F_OK), 0);
	memset(path, 'a', sizeof(path));
	path[199] = 0;
	assert_int_equal(
		vhost_user_server_create(&options, &fixture.fake.device, fixture.base, &fixture.server, &error),
		-ENAMETOOLONG);
	options.path = path;
	assert_int_equal(
		vhost_user_server_create(&options, &fixture.fake.device, fixture.base, &fixture.server, &error),
		-ENAMETOOLONG);
	options.path = "/nonexistent/folder/socket";
	assert_int_equal(
		vhost_user_server_create(&options, &fixture.fake.device, fixture.base, &fixture.server, &error),
		-ENOENT);
}

/* Client mode: connects when the front-end is there, and again when it went away. */
static void test_client(void **state)
{
	struct timespec nap = { 0, 50 * 1000000 };
	const char *error = NULL;
	int listener, fd, connections = 0;

	assert_int_equal(create(true, &error), 0);
	pump();
	assert_false(status_of().connected); /* nobody there yet */
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&fixture.address, sizeof(fixture.address)), 0);
	assert_int_equal(listen(listener, 4), 0);
	for (unsigned i = 0; i < 100 && connections < 2; i++) { /* at most 5 s for two times one second */
		nanosleep(&nap, NULL);
		pump();
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			continue;
		connections++;
		front_end_start(&fixture.front_end, fixture.base, fd);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_FEATURES, NULL, 0, NULL, 0),
				 REPLIED);
		front_end_stop(&fixture.front_end);
	}
	assert_int_equal(connections, 2);
	destroy();
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_at_a_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_newcomer_waits_for_drain, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_destroy_waits_for_drain, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_path_in_use, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_path_that_is_no_socket, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_client, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
