/* SPDX-License-Identifier: BSD-3-Clause */
/* Parcels: what was put in comes out, and nothing else is believed. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/disposal.h"
#include "base/parcel.h"

#define FILES 300U /* more than one message brings */

static struct disposal *disposal;

static int make_disposal(void **state)
{
	disposal = disposal_create();
	return disposal ? 0 : -1;
}

static int destroy_disposal(void **state)
{
	disposal_destroy(disposal);
	return 0;
}

static ino_t inode(int fd)
{
	struct stat status;

	assert_int_equal(fstat(fd, &status), 0);
	return status.st_ino;
}

static void round_trip(void **state)
{
	struct parcel out = { .kind = "igb", .name = "web" }, in = { 0 };
	uint32_t words[] = { 1, 2, 3 }, again[4];
	int files[FILES], fd;

	for (unsigned i = 0; i < FILES; i++) {
		files[i] = memfd_create("file", MFD_CLOEXEC);
		parcel_put_file(&out, files[i]);
	}
	parcel_put(&out, 1, words, sizeof(words));
	parcel_put(&out, 2, NULL, 0);
	parcel_put(&out, 3, words, 4);
	fd = parcel_seal(&out);
	assert_true(fd >= 0);
	parcel_release(&out, NULL);

	assert_int_equal(parcel_open(&in, fd), 0);
	assert_string_equal(in.kind, "igb");
	assert_string_equal(in.name, "web");
	assert_int_equal(parcel_get_array(&in, 1, again, 4, 4), 3);
	assert_memory_equal(again, words, sizeof(words));
	assert_int_equal(parcel_get_array(&in, 2, again, 4, 4), 0);
	assert_false(in.failed);
	assert_int_equal(parcel_get(&in, 3, again, 4), 0);
	for (unsigned i = 0; i < FILES; i++) {
		int file = parcel_get_file(&in);

		assert_int_equal(inode(file), inode(files[i]));
		close(file);
		close(files[i]);
	}
	assert_false(in.failed);
	assert_int_equal(parcel_get_file(&in), -1);
	assert_true(in.failed);
	parcel_release(&in, disposal);
	/* It has been emptied. */
	assert_int_equal(parcel_open(&in, fd), -EBADMSG);
	parcel_release(&in, disposal);
	close(fd);
}

/* What is asked for is not what is there. */
static void other_sections(void **state)
{
	static const struct {
		uint32_t tag;
		size_t length;
	} wrong[] = { { 2, 8 }, { 1, 4 }, { 1, 0 }, { 1, 9 }, { 1, SIZE_MAX / 2 } };
	uint64_t value = 7, read;

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct parcel parcel = { 0 };

		parcel_put(&parcel, 1, &value, sizeof(value));
		assert_int_equal(parcel_get(&parcel, wrong[i].tag, &read, wrong[i].length), -EBADMSG);
		assert_int_equal(parcel_get(&parcel, 1, &read, 8), -EBADMSG); /* and it stays so */
		parcel_release(&parcel, NULL);
	}
	{
		struct parcel parcel = { 0 };

		parcel_put(&parcel, 1, &value, sizeof(value));
		parcel.length--; /* cut off */
		assert_int_equal(parcel_get(&parcel, 1, &read, 8), -EBADMSG);
		parcel_release(&parcel, NULL);
	}
	{
		struct parcel parcel = { 0 };

		parcel_put(&parcel, 1, &value, sizeof(value));
		assert_int_equal(parcel_get_array(&parcel, 1, &read, 3, 8), 0); /* not whole entries */
		assert_true(parcel.failed);
		parcel_release(&parcel, NULL);
	}
}

static void too_much(void **state)
{
	struct parcel parcel = { 0 };
	uint8_t *bytes = calloc(1, PARCEL_BYTES_MAX);

	parcel_put(&parcel, 1, bytes, PARCEL_BYTES_MAX);
	assert_true(parcel.failed);
	assert_int_equal(parcel_seal(&parcel), -EBADMSG);
	parcel_release(&parcel, NULL);
	for (unsigned i = 0; i <= PARCEL_FILES_MAX; i++) {
		parcel = i ? parcel : (struct parcel){ 0 };
		parcel_put_file(&parcel, 0);
	}
	assert_true(parcel.failed);
	parcel_release(&parcel, NULL);
	free(bytes);
}

static int sealed(void)
{
	struct parcel parcel = { .kind = "nvme", .name = "disk" };
	int fd = memfd_create("file", MFD_CLOEXEC), sealed;

	parcel_put(&parcel, 1, "abcdefgh", 8);
	parcel_put_file(&parcel, fd);
	sealed = parcel_seal(&parcel);
	parcel_release(&parcel, NULL);
	close(fd);
	assert_true(sealed >= 0);
	return sealed;
}

/* Sends the parcel's messages on, with one changed: its bytes, or without its files. Return: the new parcel. */
static int changed(unsigned number, size_t at, uint8_t bits, bool without_files)
{
	int from = sealed(), ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	for (unsigned i = 0;; i++) {
		union {
			char bytes[CMSG_SPACE(sizeof(int))];
			struct cmsghdr alignment;
		} control;
		uint8_t bytes[256];
		struct iovec part = { bytes, sizeof(bytes) };
		struct msghdr header = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
		};
		ssize_t got = recvmsg(from, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (got <= 0)
			break;
		part.iov_len = (size_t)got;
		if (i == number && at < (size_t)got)
			bytes[at] ^= bits;
		if (i == number && without_files)
			header.msg_controllen = 0;
		assert_int_equal(sendmsg(ends[0], &header, 0), got);
		for (struct cmsghdr *c = without_files && i == number ? NULL : CMSG_FIRSTHDR(&header); c; c = NULL) {
			int fd;

			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
			close(fd);
		}
	}
	close(from);
	close(ends[0]);
	return ends[1];
}

static void damaged(void **state)
{
	unsigned refused = 0;

	for (size_t at = 0; at < 104; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			int fd = changed(0, at, (uint8_t)(1U << bit), false);
			struct parcel parcel = { 0 };

			if (parcel_open(&parcel, fd))
				refused++;
			/* Magic, version, length: all of it matters. */
			if (at < 16)
				assert_true(parcel.failed);
			parcel_release(&parcel, disposal);
			close(fd);
		}
	}
	assert_true(refused >= 16 * 8);
	for (unsigned number = 0; number < 2; number++) {
		int fd = changed(number, 0, number ? 1 : 0, number == 0);
		struct parcel parcel = { 0 };

		assert_int_equal(parcel_open(&parcel, fd), -EBADMSG);
		parcel_release(&parcel, disposal);
		close(fd);
	}
}

static void no_parcel(void **state)
{
	int event = eventfd(0, EFD_NONBLOCK), ends[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct parcel parcel = { 0 };

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_int_equal(write(ends[0], "anything", 8), 8);
	for (unsigned i = 0; i < 4; i++) {
		int fds[] = { event, null, ends[0], ends[1] };

		assert_int_equal(parcel_open(&parcel, fds[i]), -EBADMSG);
		assert_non_null(parcel.reason);
		parcel_release(&parcel, disposal);
		parcel = (struct parcel){ 0 };
		close(fds[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(other_sections), cmocka_unit_test(too_much),
		cmocka_unit_test(damaged),    cmocka_unit_test(no_parcel),
	};

	return cmocka_run_group_tests(tests, make_disposal, destroy_disposal);
}
