/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost-user messages: a table of what must be refused, and messages that come in pieces. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring/inflight.h"
#include "transport/vhost_user/connection.h"
#include "vhost_user_fixture.h"

/* ---- what must be refused ---------------------------------------------------------------------------------------- */

enum file {
	EVENT,
	MEMORY,
	PIPE,
	REGULAR,
	EPOLL,
	INTERNET, /* a TCP socket */
};

#define WORDS(...)                                                                                                     \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}

struct refusal {
	const char *what;
	enum stage stage;
	uint32_t request;
	uint32_t flags;	       /* 0: version and need_reply */
	uint32_t length, size; /* bytes sent; as the header says, 0: the same */
	uint64_t words[9];
	unsigned fds;
	enum file file;
	enum outcome outcome;
};

#define STATE(index, num)                                                                                              \
	{                                                                                                              \
		(uint64_t)(num) << 32 | (index)                                                                        \
	}

static const struct refusal refusals[] = {
	/* header */
	{ "version 0", FRESH, VHOST_USER_GET_FEATURES, .flags = 8, .outcome = CLOSED },
	{ "version 2", FRESH, VHOST_USER_GET_FEATURES, .flags = 2, .outcome = CLOSED },
	{ "a reply", FRESH, VHOST_USER_GET_FEATURES, .flags = 5, .outcome = CLOSED },
	{ "flag 16", FRESH, VHOST_USER_GET_FEATURES, .flags = 17, .outcome = CLOSED },
	{ "request 0", FRESH, 0, .outcome = CLOSED },
	{ "request 44", NEGOTIATED, 44, .outcome = CLOSED },
	{ "request -1", NEGOTIATED, UINT32_MAX, .outcome = CLOSED },
	{ "size -1", NEGOTIATED, VHOST_USER_SET_FEATURES, .length = 8, .size = UINT32_MAX, .outcome = CLOSED },
	{ "payload of GET_FEATURES", FRESH, VHOST_USER_GET_FEATURES, .length = 8, .outcome = CLOSED },
	{ "SET_FEATURES of 4", FRESH, VHOST_USER_SET_FEATURES, .length = 4, .outcome = CLOSED },
	{ "SET_FEATURES of 0", FRESH, VHOST_USER_SET_FEATURES, .outcome = CLOSED },
	{ "SET_VRING_NUM of 12", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 12, .outcome = CLOSED },
	{ "SET_VRING_ADDR of 36", NEGOTIATED, VHOST_USER_SET_VRING_ADDR, .length = 36, .outcome = CLOSED },
	{ "GET_CONFIG of 8", NEGOTIATED, VHOST_USER_GET_CONFIG, .length = 8, .outcome = CLOSED },
	{ "file descriptor for GET_FEATURES", FRESH, VHOST_USER_GET_FEATURES, .fds = 1, .outcome = CLOSED },
	{ "file descriptor for SET_VRING_NUM", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .fds = 1,
	  .outcome = CLOSED },
	{ "two for SET_VRING_KICK", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .fds = 2, .outcome = CLOSED },
	{ "nine for SET_MEM_TABLE", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 8, .fds = 9, .outcome = CLOSED },
	{ "sixty for SET_MEM_TABLE", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 8, .fds = 60, .outcome = CLOSED },
	{ "none for ADD_MEM_REG", NEGOTIATED, VHOST_USER_ADD_MEM_REG, .length = 40, .outcome = CLOSED },
	{ "none for SET_INFLIGHT_FD", NEGOTIATED, VHOST_USER_SET_INFLIGHT_FD, .length = 24, .outcome = CLOSED },
	{ "none for SET_BACKEND_REQ_FD", NEGOTIATED, VHOST_USER_SET_BACKEND_REQ_FD, .outcome = CLOSED },

	/* negotiation */
	{ "GET_QUEUE_NUM before MQ", FRESH, VHOST_USER_GET_QUEUE_NUM, .outcome = CLOSED },
	{ "GET_CONFIG before CONFIG", FRESH, VHOST_USER_GET_CONFIG, .length = 12, .outcome = CLOSED },
	{ "SET_STATUS before STATUS", FRESH, VHOST_USER_SET_STATUS, .length = 8, .outcome = CLOSED },
	{ "ADD_MEM_REG before its feature", FRESH, VHOST_USER_ADD_MEM_REG, .length = 40, .fds = 1, .file = MEMORY,
	  .outcome = CLOSED },
	{ "RESET_DEVICE before its feature", FRESH, VHOST_USER_RESET_DEVICE, .outcome = CLOSED },
	{ "IOTLB_MSG", NEGOTIATED, VHOST_USER_IOTLB_MSG, .length = 32, .outcome = CLOSED },
	{ "POSTCOPY_ADVISE", NEGOTIATED, VHOST_USER_POSTCOPY_ADVISE, .outcome = CLOSED },
	{ "CREATE_CRYPTO_SESSION", NEGOTIATED, VHOST_USER_CREATE_CRYPTO_SESSION, .length = 40, .outcome = CLOSED },
	{ "NET_SET_MTU for a disk", NEGOTIATED, VHOST_USER_NET_SET_MTU, .length = 8, .outcome = REFUSED },
	{ "SEND_RARP for a disk", NEGOTIATED, VHOST_USER_SEND_RARP, .length = 8, .outcome = REFUSED },
	{ "features not offered", NEGOTIATED, VHOST_USER_SET_FEATURES, .length = 8, .words = WORDS(1ULL << 33),
	  .outcome = REFUSED },
	{ "the same without acknowledgement", FRESH, VHOST_USER_SET_FEATURES, .length = 8, .words = WORDS(1ULL << 33),
	  .outcome = CLOSED },
	{ "protocol features not offered", FRESH, VHOST_USER_SET_PROTOCOL_FEATURES, .length = 8,
	  .words = WORDS(1ULL << 8), .outcome = CLOSED },
	{ "status of 9 bits", NEGOTIATED, VHOST_USER_SET_STATUS, .length = 8, .words = WORDS(256), .outcome = REFUSED },

	/* memory */
	{ "9 regions", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40, .words = WORDS(9), .fds = 1, .file = MEMORY,
	  .outcome = REFUSED },
	{ "2 regions told, 1 sent", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40, .words = WORDS(2), .fds = 1,
	  .file = MEMORY, .outcome = REFUSED },
	{ "a region without file", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, 4096, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "two files for a region", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, 4096, FRONT_END_USER, 0), .fds = 2, .file = MEMORY, .outcome = REFUSED },
	{ "an empty region", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, 0, FRONT_END_USER, 0), .fds = 1, .file = MEMORY, .outcome = REFUSED },
	{ "larger than the file", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, FRONT_END_MEMORY + 1, FRONT_END_USER, 0), .fds = 1, .file = MEMORY,
	  .outcome = REFUSED },
	{ "guest address wraps", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, UINT64_MAX - 4094, 4096, FRONT_END_USER, 0), .fds = 1, .file = MEMORY, .outcome = REFUSED },
	{ "offset wraps", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, 4096, FRONT_END_USER, UINT64_MAX - 4095), .fds = 1, .file = MEMORY,
	  .outcome = REFUSED },
	{ "regions overlap", NEGOTIATED, VHOST_USER_SET_MEM_TABLE, .length = 72,
	  .words = WORDS(2, FRONT_END_GUEST, 8192, FRONT_END_USER, 0, FRONT_END_GUEST + 4096, 4096,
			 FRONT_END_USER + 8192, 0),
	  .fds = 2, .file = MEMORY, .outcome = REFUSED },
	{ "above the quota", NEGOTIATED, VHOST_USER_ADD_MEM_REG, .length = 40,
	  .words = WORDS(0, FRONT_END_GUEST, 1ULL << 40, FRONT_END_USER, 0), .fds = 1, .file = MEMORY,
	  .outcome = REFUSED },
	{ "added where another is", RUNNING, VHOST_USER_ADD_MEM_REG, .length = 40,
	  .words = WORDS(0, FRONT_END_GUEST, FRONT_END_MEMORY, FRONT_END_USER + 4096, 0), .fds = 1, .file = MEMORY,
	  .outcome = REFUSED },
	{ "removed, of another size", RUNNING, VHOST_USER_REM_MEM_REG, .length = 40,
	  .words = WORDS(0, FRONT_END_GUEST, 4096, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "log of no bytes", NEGOTIATED, VHOST_USER_SET_LOG_BASE, .length = 16, .words = WORDS(0, 0), .fds = 1,
	  .file = MEMORY, .outcome = CLOSED },
	{ "log larger than its file", NEGOTIATED, VHOST_USER_SET_LOG_BASE, .length = 16,
	  .words = WORDS(FRONT_END_MEMORY, 4096), .fds = 1, .file = MEMORY, .outcome = CLOSED },
	{ "log size wraps", NEGOTIATED, VHOST_USER_SET_LOG_BASE, .length = 16, .words = WORDS(UINT64_MAX, 4096),
	  .fds = 1, .file = MEMORY, .outcome = CLOSED },

	/* rings */
	{ "queue 4 of 4: NUM", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(4, 16),
	  .outcome = REFUSED },
	{ "queue 65536: NUM", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(65536, 16),
	  .outcome = REFUSED },
	{ "queue -1: GET_VRING_BASE", NEGOTIATED, VHOST_USER_GET_VRING_BASE, .length = 8, .words = STATE(UINT32_MAX, 0),
	  .outcome = CLOSED },
	{ "queue 4 of 4: ENABLE", NEGOTIATED, VHOST_USER_SET_VRING_ENABLE, .length = 8, .words = STATE(4, 1),
	  .outcome = REFUSED },
	{ "queue 4 of 4: ADDR", NEGOTIATED, VHOST_USER_SET_VRING_ADDR, .length = 40, .words = WORDS(4),
	  .outcome = REFUSED },
	{ "queue 4 of 4: KICK", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(4), .fds = 1,
	  .outcome = REFUSED },
	{ "queue 4 of 4: CALL", NEGOTIATED, VHOST_USER_SET_VRING_CALL, .length = 8, .words = WORDS(4), .fds = 1,
	  .outcome = REFUSED },
	{ "queue 4 of 4: ERR", NEGOTIATED, VHOST_USER_SET_VRING_ERR, .length = 8, .words = WORDS(4), .fds = 1,
	  .outcome = REFUSED },
	{ "size 0", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(0, 0), .outcome = REFUSED },
	{ "size 512, 256 offered", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(0, 512),
	  .outcome = REFUSED },
	{ "size 65536 + 16", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(0, 65552),
	  .outcome = REFUSED },
	{ "size 24, split", NEGOTIATED, VHOST_USER_SET_VRING_NUM, .length = 8, .words = STATE(0, 24),
	  .outcome = REFUSED },
	{ "base of 17 bits, split", NEGOTIATED, VHOST_USER_SET_VRING_BASE, .length = 8, .words = STATE(0, 65536),
	  .outcome = REFUSED },
	{ "enable 2", NEGOTIATED, VHOST_USER_SET_VRING_ENABLE, .length = 8, .words = STATE(0, 2), .outcome = REFUSED },
	{ "unaligned ring", NEGOTIATED, VHOST_USER_SET_VRING_ADDR, .length = 40,
	  .words = WORDS(0, FRONT_END_USER + 8, FRONT_END_USER, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "unknown ring flag", NEGOTIATED, VHOST_USER_SET_VRING_ADDR, .length = 40,
	  .words = WORDS(2ULL << 32, FRONT_END_USER, FRONT_END_USER, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "ring outside of memory", RUNNING, VHOST_USER_SET_VRING_ADDR, .length = 40,
	  .words = WORDS(0, FRONT_END_USER + FRONT_END_MEMORY, FRONT_END_USER, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "ring half outside", RUNNING, VHOST_USER_SET_VRING_ADDR, .length = 40,
	  .words = WORDS(0, FRONT_END_USER + FRONT_END_MEMORY - 128, FRONT_END_USER, FRONT_END_USER, 0),
	  .outcome = REFUSED },
	{ "ring address that wraps", RUNNING, VHOST_USER_SET_VRING_ADDR, .length = 40,
	  .words = WORDS(0, FRONT_END_USER, UINT64_MAX - 3, FRONT_END_USER, 0), .outcome = REFUSED },
	{ "kick without fd or flag", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(0),
	  .outcome = REFUSED },
	{ "kick with fd and flag", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(0x100), .fds = 1,
	  .outcome = REFUSED },
	{ "kick with bit 9", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(0x200), .fds = 1,
	  .outcome = REFUSED },
	{ "kick through memory", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = MEMORY, .outcome = REFUSED },
	{ "call into a pipe", NEGOTIATED, VHOST_USER_SET_VRING_CALL, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = PIPE, .outcome = REFUSED },
	{ "call into a file", RUNNING, VHOST_USER_SET_VRING_CALL, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = REGULAR, .outcome = REFUSED },
	{ "kick by an epoll set", NEGOTIATED, VHOST_USER_SET_VRING_KICK, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = EPOLL, .outcome = REFUSED },
	{ "call into an epoll set", RUNNING, VHOST_USER_SET_VRING_CALL, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = EPOLL, .outcome = REFUSED },
	{ "memory on a disk", RUNNING, VHOST_USER_SET_MEM_TABLE, .length = 40,
	  .words = WORDS(1, FRONT_END_GUEST, 4096, FRONT_END_USER, 0), .fds = 1, .file = REGULAR, .outcome = REFUSED },
	{ "region on a disk", NEGOTIATED, VHOST_USER_ADD_MEM_REG, .length = 40,
	  .words = WORDS(0, FRONT_END_GUEST, 4096, FRONT_END_USER, 0), .fds = 1, .file = REGULAR, .outcome = REFUSED },
	{ "log on a disk", NEGOTIATED, VHOST_USER_SET_LOG_BASE, .length = 16, .words = WORDS(4096, 0), .fds = 1,
	  .file = REGULAR, .outcome = CLOSED },
	{ "in-flight area on a disk", NEGOTIATED, VHOST_USER_SET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(4096, 0, 16 << 16 | 4), .fds = 1, .file = REGULAR, .outcome = REFUSED },
	{ "log of 2 GiB, quota 1", NEGOTIATED, VHOST_USER_SET_LOG_BASE, .length = 16, .words = WORDS(1ULL << 31, 0),
	  .fds = 1, .file = MEMORY, .outcome = CLOSED },
	{ "err into a file", RUNNING, VHOST_USER_SET_VRING_ERR, .length = 8, .words = WORDS(0), .fds = 1,
	  .file = REGULAR, .outcome = REFUSED },

	/* device */
	{ "config size and payload differ", NEGOTIATED, VHOST_USER_GET_CONFIG, .length = 20, .words = STATE(0, 16),
	  .outcome = CLOSED },
	{ "config of 2^32 - 1", NEGOTIATED, VHOST_USER_SET_CONFIG, .length = 20, .words = STATE(0, UINT32_MAX),
	  .outcome = REFUSED },
	{ "written past the end", NEGOTIATED, VHOST_USER_SET_CONFIG, .length = 20, .words = STATE(17, 8),
	  .outcome = REFUSED },
	{ "write at 2^32 - 4", NEGOTIATED, VHOST_USER_SET_CONFIG, .length = 20, .words = STATE(UINT32_MAX - 3, 8),
	  .outcome = REFUSED },
	{ "read-only field", NEGOTIATED, VHOST_USER_SET_CONFIG, .length = 20, .words = STATE(0, 8),
	  .outcome = REFUSED },
	{ "unknown kind of write", NEGOTIATED, VHOST_USER_SET_CONFIG, .length = 20, .words = WORDS(8ULL << 32 | 16, 2),
	  .outcome = REFUSED },
	{ "back-end channel into a pipe", NEGOTIATED, VHOST_USER_SET_BACKEND_REQ_FD, .fds = 1, .file = PIPE,
	  .outcome = REFUSED },
	{ "back-end channel into the Internet", NEGOTIATED, VHOST_USER_SET_BACKEND_REQ_FD, .fds = 1, .file = INTERNET,
	  .outcome = REFUSED },
	{ "in-flight for 0 queues", NEGOTIATED, VHOST_USER_GET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(0, 0, 16 << 16), .outcome = CLOSED },
	{ "in-flight for 5 of 4 queues", NEGOTIATED, VHOST_USER_GET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(0, 0, 16 << 16 | 5), .outcome = CLOSED },
	{ "in-flight size too small", NEGOTIATED, VHOST_USER_SET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(64, 0, 16 << 16 | 4), .fds = 1, .file = MEMORY, .outcome = REFUSED },
	{ "in-flight past the file", NEGOTIATED, VHOST_USER_SET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(4096, FRONT_END_MEMORY, 16 << 16 | 4), .fds = 1, .file = MEMORY, .outcome = REFUSED },
	{ "in-flight of 22 bytes", NEGOTIATED, VHOST_USER_GET_INFLIGHT_FD, .length = 22,
	  .words = WORDS(0, 0, 16 << 16 | 4), .outcome = CLOSED },
	{ "log fd that is missing", NEGOTIATED, VHOST_USER_SET_LOG_FD, .outcome = CLOSED },
	{ "in-flight queue size 65535", NEGOTIATED, VHOST_USER_SET_INFLIGHT_FD, .length = 24,
	  .words = WORDS(1ULL << 40, 0, 65535U << 16 | 4), .fds = 1, .file = MEMORY, .outcome = REFUSED },
};

static int open_file(enum file file, int *other)
{
	char name[] = "/tmp/vhost_user_test_XXXXXX";
	int pipe_fds[2], fd;

	*other = -1;
	switch (file) {
	case EVENT:
		return eventfd(0, EFD_CLOEXEC);
	case MEMORY:
		return dup(fixture.front_end.memory_fd);
	case PIPE:
		assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
		*other = pipe_fds[0];
		return pipe_fds[1];
	case EPOLL:
		return epoll_create1(EPOLL_CLOEXEC);
	case INTERNET:
		return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	default:
		fd = mkstemp(name);
		unlink(name);
		return fd;
	}
}

static void test_refusals(void **state)
{
	for (size_t i = 0; i < array_size(refusals); i++) {
		const struct refusal *refusal = &refusals[i];
		int fds[64], other = -1, fd = -1;
		enum outcome outcome;

		begin(VIRTIO_ID_BLOCK);
		fixture.connection.memory_max = 1ULL << 30;
		reach(refusal->stage);
		if (refusal->fds)
			fd = open_file(refusal->file, &other);
		for (unsigned j = 0; j < refusal->fds; j++)
			fds[j] = fd;
		front_end_send(&fixture.front_end, refusal->request, refusal->flags ? refusal->flags : ASK,
			       refusal->words, refusal->length, refusal->size ? refusal->size : refusal->length, fds,
			       refusal->fds);
		outcome = front_end_receive(&fixture.front_end, refusal->request);
		if (outcome != refusal->outcome)
			fail_msg("%s: outcome %d, not %d", refusal->what, outcome, refusal->outcome);
		assert_non_null(fixture.connection.last_error);
		if (outcome == REFUSED) {
			/* Nothing has changed, and life goes on. */
			assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_FEATURES, NULL, 0, NULL, 0),
					 REPLIED);
			if (refusal->stage == RUNNING && refusal->request != VHOST_USER_SET_VRING_ADDR)
				assert_true(runs(0));
		} else {
			assert_int_equal(fixture.connection.refused, 1);
		}
		if (fd >= 0)
			close(fd);
		if (other >= 0)
			close(other);
		finish();
	}
}

/* A message in pieces of one byte, and one that never ends. */
static void test_pieces(void **state)
{
	struct vhost_user_header header = { VHOST_USER_GET_FEATURES, VHOST_USER_VERSION, 0 };

	begin(VIRTIO_ID_BLOCK);
	for (unsigned i = 0; i < sizeof(header); i++) {
		assert_int_equal(front_end_receive(&fixture.front_end, VHOST_USER_GET_FEATURES), SILENT);
		assert_int_equal(send(fixture.front_end.fd, (char *)&header + i, 1, 0), 1);
	}
	assert_int_equal(front_end_receive(&fixture.front_end, VHOST_USER_GET_FEATURES), REPLIED);
	assert_int_equal(send(fixture.front_end.fd, &header, 7, 0), 7);
	finish();
	assert_int_equal(fixture.connection.refused, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
