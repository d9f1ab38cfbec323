/* SPDX-License-Identifier: BSD-3-Clause */
/* Listening sockets that outlive their daemon: who waits is served by the next one, and nobody's file is touched. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/parcel.h"
#include "transport/listeners.h"

#define MODE 0660

static char folder[] = "/tmp/listeners-XXXXXX";
static char paths[2][64];
static struct disposal *disposal;

static int set_up(void **state)
{
	disposal = disposal_create();
	for (unsigned i = 0; i < array_size(paths); i++)
		snprintf(paths[i], sizeof(paths[i]), "%s/%u.sock", folder, i);
	return disposal ? 0 : -1;
}

static int tear_down(void **state)
{
	disposal_destroy(disposal);
	return 0;
}

static void open_at(struct listener *listener, const char *path, struct listeners *listeners)
{
	const char *reason;

	assert_int_equal(listener_address(listener, path, listeners, &reason), 0);
	assert_int_equal(listener_open(listener, MODE, &reason), 0);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(address.sun_path, path);
	if (!connect(fd, (const struct sockaddr *)&address, sizeof(address)))
		return fd;
	close(fd);
	return -errno;
}

static bool is_there(const char *path)
{
	struct stat status;

	return !lstat(path, &status);
}

/* As execv() does: no descriptor of the daemon is left, and no file is removed. */
static void go(struct listeners *listeners, const int *fds, unsigned count)
{
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char away[160];

	for (unsigned i = 0; i < count; i++) {
		dup2(nothing, fds[i]);
		snprintf(away, sizeof(away), "%s.away", paths[i]);
		rename(paths[i], away);
	}
	close(nothing);
	listeners_release(listeners);
	for (unsigned i = 0; i < count; i++) {
		snprintf(away, sizeof(away), "%s.away", paths[i]);
		rename(away, paths[i]);
	}
}

/* What a daemon with @count sockets leaves, in a parcel that was sealed and opened. */
static void leave(unsigned count, int group, struct parcel *parcel)
{
	struct listeners *listeners = listeners_create(group);
	struct listener opened[array_size(paths)];
	struct parcel sealed = { 0 };
	int fds[array_size(paths)], fd;

	for (unsigned i = 0; i < count; i++)
		open_at(&opened[i], paths[i], listeners);
	assert_int_equal(listeners_count(listeners), 0);
	listeners_begin_keeping(listeners);
	for (unsigned i = 0; i < count; i++) {
		fds[i] = opened[i].fd;
		listener_close(&opened[i], disposal);
		assert_int_equal(opened[i].fd, -1);
	}
	assert_int_equal(listeners_count(listeners), count);
	listeners_save(listeners, &sealed);
	fd = parcel_seal(&sealed);
	assert_true(fd >= 0);
	parcel_release(&sealed, NULL);
	go(listeners, fds, count);
	*parcel = (struct parcel){ 0 };
	assert_int_equal(parcel_open(parcel, fd), 0);
	close(fd);
	for (unsigned i = 0; i < count; i++)
		assert_true(is_there(paths[i]));
}

static void who_waits_is_served(void **state)
{
	struct listeners *listeners = listeners_create(7);
	struct listener next;
	struct parcel parcel;
	int client, accepted;

	leave(2, 7, &parcel);
	client = connect_to(paths[0]);
	assert_true(client >= 0);
	assert_int_equal(write(client, "?", 1), 1);
	assert_int_equal(listeners_load(listeners, &parcel), 0);
	assert_int_equal(listeners_count(listeners), 2);
	open_at(&next, paths[0], listeners);
	assert_int_equal(listeners_count(listeners), 1);
	accepted = accept(next.fd, NULL, NULL);
	assert_true(accepted >= 0);
	assert_int_equal(write(accepted, "!", 1), 1);
	listeners_settle(listeners);
	assert_false(is_there(paths[1])); /* nobody has wanted it */
	listener_close(&next, disposal);
	assert_false(is_there(paths[0]));
	close(client);
	close(accepted);
	parcel_release(&parcel, disposal);
	listeners_release(listeners);
}

/* Somebody else's file is at the path now: it stays, and is no socket of ours. */
static void another_file(void **state)
{
	struct listeners *listeners = listeners_create(-1);
	struct listener next;
	struct parcel parcel;
	const char *reason;
	int fd;

	leave(1, -1, &parcel);
	unlink(paths[0]);
	fd = open(paths[0], O_CREAT | O_CLOEXEC | O_WRONLY, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(listeners_load(listeners, &parcel), 0);
	assert_int_equal(listener_address(&next, paths[0], listeners, &reason), 0);
	assert_int_equal(listener_open(&next, MODE, &reason), -EADDRINUSE);
	listener_close(&next, disposal);
	parcel_release(&parcel, disposal);
	listeners_release(listeners);
	assert_true(is_there(paths[0]));
	unlink(paths[0]);
}

static void another_group(void **state)
{
	struct listeners *listeners = listeners_create(8);
	struct listener next;
	struct parcel parcel;

	leave(1, 7, &parcel);
	assert_int_equal(listeners_load(listeners, &parcel), 0);
	assert_int_equal(listeners_count(listeners), 0);
	assert_false(is_there(paths[0]));
	open_at(&next, paths[0], listeners);
	listener_close(&next, disposal);
	parcel_release(&parcel, disposal);
	listeners_release(listeners);
}

/* A start that failed, and an end: nobody is kept waiting. */
static void released_ones_refuse(void **state)
{
	struct listeners *listeners = listeners_create(-1);
	struct parcel parcel;
	char byte;
	int client;

	leave(2, -1, &parcel);
	client = connect_to(paths[1]);
	assert_true(client >= 0);
	assert_int_equal(listeners_load(listeners, &parcel), 0);
	parcel_release(&parcel, disposal);
	listeners_release(listeners);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(connect_to(paths[i]), -ENOENT);
	fcntl(client, F_SETFL, 0);
	assert_true(read(client, &byte, 1) <= 0);
	close(client);
}

/* What is not believed: files that are no listening sockets, paths without an end, bytes that are missing. */
static void damaged(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		struct listeners *listeners = listeners_create(-1);
		struct parcel parcel;
		int ends[2];

		leave(1, -1, &parcel);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		if (i < 2) {
			close(parcel.files[0]);
			parcel.files[0] = i ? ends[0] : open("/dev/null", O_RDONLY | O_CLOEXEC);
		} else if (i == 2) {
			/* tag, length, group, tag, length, then the path */
			memset(parcel.bytes + 20, 'x', sizeof(((struct sockaddr_un *)NULL)->sun_path));
		} else {
			parcel.length -= 8;
		}
		assert_int_equal(listeners_load(listeners, &parcel), i < 3 ? 0 : -EBADMSG);
		assert_int_equal(listeners_count(listeners), 0);
		parcel_release(&parcel, disposal);
		listeners_release(listeners);
		if (i != 1)
			close(ends[0]);
		close(ends[1]);
		assert_true(is_there(paths[0]));
		assert_int_equal(connect_to(paths[0]), -ECONNREFUSED);
		unlink(paths[0]);
	}
}

/* Numbers that will be other files': what is kept is elsewhere then, still listens, and is what ends in the end. */
static void out_of_the_way(void **state)
{
	struct listeners *listeners = listeners_create(-1);
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC), before[2], waiting;
	struct listener opened[2];

	for (unsigned i = 0; i < 2; i++)
		open_at(&opened[i], paths[i], listeners);
	listeners_begin_keeping(listeners);
	for (unsigned i = 0; i < 2; i++) {
		before[i] = opened[i].fd;
		listener_close(&opened[i], disposal);
	}
	assert_int_equal(listeners_move_away(listeners, 200), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fcntl(before[i], F_GETFD), -1);
		assert_int_equal(dup2(nothing, before[i]), before[i]); /* somebody else's now */
		waiting = connect_to(paths[i]);
		assert_true(waiting >= 0);
		close(waiting);
	}
	listeners_release(listeners);
	for (unsigned i = 0; i < 2; i++) {
		assert_false(is_there(paths[i]));
		assert_true(fcntl(before[i], F_GETFD) >= 0);
		close(before[i]);
	}
	close(nothing);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_waits_is_served),
		cmocka_unit_test(another_file),
		cmocka_unit_test(another_group),
		cmocka_unit_test(released_ones_refuse),
		cmocka_unit_test(damaged),
		cmocka_unit_test(out_of_the_way),
	};
	int failed;

	if (!mkdtemp(folder))
		return 1;
	failed = cmocka_run_group_tests(tests, set_up, tear_down);
	rmdir(folder);
	return failed;
}
