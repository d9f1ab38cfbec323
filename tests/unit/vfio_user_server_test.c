/* SPDX-License-Identifier: BSD-3-Clause */
/* The socket of an emulated device: one client at a time, stale files, the end. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_engine.h"
#include "fake_pci_device.h"
#include "transport/vfio_user/server.h"
#include "vfio_client.h"

struct fixture {
	struct event_base *base;
	struct fake_pci_device fake;
	char folder[64];
	struct sockaddr_un address;
	struct vfio_user_server *server;
	bool destroyed;
	struct vfio_client client;
};

static struct fixture fixture;

static int set_up(void **state)
{
	memset(&fixture, 0, sizeof(fixture));
	snprintf(fixture.folder, sizeof(fixture.folder), "/tmp/vfio_user_server_XXXXXX");
	fixture.base = event_base_new();
	fake_engine_reset();
	fake_pci_device_init(&fixture.fake, fake_engine_get());
	assert_non_null(mkdtemp(fixture.folder));
	fixture.address.sun_family = AF_UNIX;
	snprintf(fixture.address.sun_path, sizeof(fixture.address.sun_path), "%s/socket", fixture.folder);
	vfio_client_start(&fixture.client, fixture.base, -1);
	return 0;
}

static int tear_down(void **state)
{
	vfio_client_stop(&fixture.client);
	fake_pci_device_release(&fixture.fake);
	event_base_free(fixture.base);
	unlink(fixture.address.sun_path);
	assert_int_equal(rmdir(fixture.folder), 0);
	return 0;
}

static void pump(void)
{
	vfio_client_pump(&fixture.client);
}

static void note_destroyed(void *context)
{
	fixture.destroyed = true;
}

static int create(const char **error)
{
	struct vfio_user_options options = { .path = fixture.address.sun_path, .mode = 0640 };

	return vfio_user_server_create(&options, &fixture.fake.device, fixture.base, &fixture.server, error);
}

static void destroy(void)
{
	vfio_user_server_destroy(fixture.server, note_destroyed, NULL);
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

static struct vfio_user_status status_of(void)
{
	struct vfio_user_status status;

	vfio_user_server_read_status(fixture.server, &status);
	return status;
}

static void test_one_at_a_time(void **state)
{
	const char *error = NULL;
	struct stat file;
	int first, second;

	assert_int_equal(create(&error), 0);
	assert_int_equal(stat(fixture.address.sun_path, &file), 0);
	assert_int_equal(file.st_mode & 0777, 0640);
	assert_true(fixture.fake.resting);
	first = dial();
	assert_true(status_of().connected);
	assert_false(fixture.fake.resting);
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
	assert_int_equal(fixture.fake.resets, 3); /* at each beginning and end */
	destroy();
	assert_true(ended(first));
	close(first);
	assert_int_equal(access(fixture.address.sun_path, F_OK), -1);
}

/* The next client waits until the device has come to rest for the one before. */
static void test_newcomer_waits(void **state)
{
	const char *error = NULL;
	int second;

	assert_int_equal(create(&error), 0);
	fixture.client.fd = dial();
	assert_int_equal(vfio_client_version(&fixture.client), 0);
	fixture.fake.defer_pause = true;
	vfio_client_stop(&fixture.client);
	second = dial();
	assert_false(ended(second));
	assert_int_equal(status_of().connections, 1);
	fixture.fake.defer_pause = false;
	fake_pci_device_finish(&fixture.fake);
	pump();
	assert_int_equal(status_of().connections, 2);
	fixture.client.fd = second;
	assert_int_equal(vfio_client_version(&fixture.client), 0);
	destroy();
}

static void test_destroy_waits(void **state)
{
	const char *error = NULL;

	assert_int_equal(create(&error), 0);
	fixture.client.fd = dial();
	fixture.fake.defer_pause = fixture.fake.defer_reset = true;
	vfio_user_server_destroy(fixture.server, note_destroyed, NULL);
	pump();
	assert_true(ended(fixture.client.fd));
	assert_false(fixture.destroyed);
	fake_pci_device_finish(&fixture.fake);
	pump();
	assert_false(fixture.destroyed);
	fake_pci_device_finish(&fixture.fake);
	pump();
	assert_true(fixture.destroyed);
	assert_null(fixture.fake.device.host);
}

static void test_status(void **state)
{
	const char *error = NULL;
	uint32_t value;

	assert_int_equal(create(&error), 0);
	fixture.client.fd = dial();
	assert_int_equal(vfio_client_version(&fixture.client), 0);
	assert_int_equal(vfio_client_read(&fixture.client, 2, 0, &value, 4), 0);
	assert_int_equal(vfio_client_read(&fixture.client, 2, 4, &value, 4), 0);
	assert_int_equal(vfio_client_write32(&fixture.client, 2, 0, 0), 0);
	assert_int_equal(vfio_client_map(&fixture.client, 0, 4096, 0, 3, -1), 0);
	assert_int_equal(vfio_client_irqs(&fixture.client, 0x24, 2, 0, 1, NULL, NULL, 0), 0);
	assert_int_equal(vfio_client_read(&fixture.client, 1, 0, &value, 4), EINVAL);
	assert_int_equal(status_of().messages, 7);
	assert_int_equal(status_of().region_reads, 3);
	assert_int_equal(status_of().region_writes, 1);
	assert_int_equal(status_of().memory_messages, 1);
	assert_int_equal(status_of().interrupt_messages, 1);
	assert_int_equal(status_of().errors, 1);
	assert_int_equal(status_of().refused, 0);
	assert_string_equal(status_of().last_error, "there is no such region");
	assert_int_equal(status_of().regions, 0);
	destroy();
}

static void test_bad_paths(void **state)
{
	char path[200];
	struct vfio_user_options options = { .path = path };
	struct vfio_user_server *other;
	const char *error = NULL;

	memset(path, 'x', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(vfio_user_server_create(&options, &fixture.fake.device, fixture.base, &other, &error),
			 -ENAMETOOLONG);
	assert_non_null(error);
	assert_int_equal(create(&error), 0);
	options.path = fixture.address.sun_path;
	assert_int_equal(vfio_user_server_create(&options, &fixture.fake.device, fixture.base, &other, &error),
			 -EADDRINUSE);
	destroy();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_one_at_a_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_newcomer_waits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_destroy_waits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_status, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_bad_paths, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
