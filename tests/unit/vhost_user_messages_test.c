/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost-user messages: a table of what must be refused, and what each kind of message does to queues. */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/disposal.h"
#include "fake_device.h"
#include "fake_engine.h"
#include "front_end.h"
#include "ring/inflight.h"
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

static unsigned count_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static void note_closed(struct vhost_user_connection *connection)
{
	fixture.closed++;
}

static void connect_front_end(void)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	front_end_start(&fixture.front_end, fixture.base, pair[0]);
	assert_int_equal(vhost_user_connection_open(&fixture.connection, pair[1]), 0);
}

static void begin(uint16_t device_id)
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
static void finish(void)
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

static struct virtio_queue *queue_of(unsigned index)
{
	return &fixture.fake.device.queues[index];
}

static bool runs(unsigned index)
{
	return queue_of(index)->state == VIRTIO_QUEUE_RUNNING;
}

/* ---- what must be refused ---------------------------------------------------------------------------------------- */

enum stage {
	FRESH,	    /* nothing negotiated */
	NEGOTIATED, /* protocol features and features */
	RUNNING,    /* memory, and queue 0 runs */
};

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

static void reach(enum stage stage)
{
	if (stage >= NEGOTIATED)
		front_end_negotiate(&fixture.front_end, FEATURES);
	if (stage >= RUNNING) {
		assert_int_equal(front_end_memory(&fixture.front_end), ACCEPTED);
		front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
		assert_true(runs(0));
	}
}

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

/* ---- what must work ---------------------------------------------------------------------------------------------- */

static void test_negotiation(void **state)
{
	uint64_t offered;

	for (int net = 0; net < 2; net++) {
		begin(net ? VIRTIO_ID_NET : VIRTIO_ID_BLOCK);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_FEATURES, NULL, 0, NULL, 0),
				 REPLIED);
		assert_int_equal(fixture.front_end.reply.payload.u64,
				 fixture.fake.device.features | VHOST_USER_LOG_ALL | VHOST_USER_PROTOCOL_FEATURES);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_PROTOCOL_FEATURES, NULL, 0, NULL, 0),
				 REPLIED);
		offered = fixture.front_end.reply.payload.u64;
		assert_int_equal(!!(offered >> VHOST_USER_PROTOCOL_INFLIGHT_SHMFD & 1), !net);
		assert_int_equal(!!(offered >> VHOST_USER_PROTOCOL_RARP & 1), net);
		assert_int_equal(!!(offered >> VHOST_USER_PROTOCOL_NET_MTU & 1), net);
		front_end_negotiate(&fixture.front_end, FEATURES);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_QUEUE_NUM, NULL, 0, NULL, 0),
				 REPLIED);
		assert_int_equal(fixture.front_end.reply.payload.u64, FAKE_DEVICE_QUEUES);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_MAX_MEM_SLOTS, NULL, 0, NULL, 0),
				 REPLIED);
		assert_int_equal(fixture.front_end.reply.payload.u64, GUEST_MEMORY_REGIONS_MAX);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_RESET_OWNER, NULL, 0, NULL, 0),
				 ACCEPTED);
		assert_int_equal(fixture.fake.acks, 1);
		assert_int_equal(fixture.fake.device.acked_features, 1ULL << VIRTIO_F_VERSION_1);
		if (net) {
			uint8_t mac[8] = { 2, 1, 2, 3, 4, 5 };

			assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_NET_SET_MTU, 1400), ACCEPTED);
			assert_int_equal(fixture.fake.mtu, 1400);
			assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_NET_SET_MTU, 67), REFUSED);
			assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_NET_SET_MTU, 9001), REFUSED);
			assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_NET_SET_MTU, 65536 + 1400),
					 REFUSED);
			assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SEND_RARP, mac, 8, NULL, 0),
					 ACCEPTED);
			assert_memory_equal(fixture.fake.announced, mac, 6);
		}
		finish();
		assert_int_equal(fixture.fake.resets, 1);
	}
}

static void test_config(void **state)
{
	struct vhost_user_config config = { .offset = 4, .size = 8 };

	begin(VIRTIO_ID_BLOCK);
	front_end_negotiate(&fixture.front_end, FEATURES);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_CONFIG, &config, 20, NULL, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.header.size, 20);
	assert_memory_equal(fixture.front_end.reply.payload.config.bytes, fixture.fake.config + 4, 8);

	/* A front-end that knows a longer structure: the rest is zero. */
	config = (struct vhost_user_config){ .offset = 0, .size = 60 };
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_CONFIG, &config, 72, NULL, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.header.size, 72);
	assert_int_equal(fixture.front_end.reply.payload.config.bytes[23], 24);
	assert_int_equal(fixture.front_end.reply.payload.config.bytes[24], 0);

	/* Wholly outside, and of no size: an error is an empty reply. */
	config = (struct vhost_user_config){ .offset = 24, .size = 1 };
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_CONFIG, &config, 13, NULL, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.header.size, 0);
	config = (struct vhost_user_config){ .offset = UINT32_MAX, .size = 256 };
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_CONFIG, &config, 268, NULL, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.header.size, 0);

	config = (struct vhost_user_config){ .offset = 16, .size = 1, .bytes = { 77 } };
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_CONFIG, &config, 13, NULL, 0), ACCEPTED);
	assert_int_equal(fixture.fake.config[16], 77);
	/* A migration sends everything; what cannot be written stays. */
	config = (struct vhost_user_config){ .offset = 0, .size = 1, .flags = 1, .bytes = { 77 } };
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_CONFIG, &config, 13, NULL, 0), ACCEPTED);
	assert_int_equal(fixture.fake.config[0], 1);
	finish();
}

/*
 * The orders in which QEMU, virtio-user and Cloud Hypervisor send what a queue needs, and others: it starts when all is
 * there.
 */
static void test_orders(void **state)
{
	enum { F, M, N, A, K, E, STEPS };
	static const uint8_t orders[][STEPS] = {
		{ F, M, N, A, K, E }, { E, F, M, N, A, K }, { M, N, A, K, E, F }, { K, E, N, A, F, M },
		{ A, K, N, E, M, F }, { E, K, A, N, M, F }, { N, A, F, E, M, K },
	};

	for (size_t i = 0; i < array_size(orders); i++) {
		int kick;

		begin(VIRTIO_ID_BLOCK);
		kick = eventfd(0, EFD_CLOEXEC);
		front_end_negotiate(&fixture.front_end, 0);
		for (unsigned j = 0; j < STEPS; j++) {
			enum outcome outcome = SILENT;

			assert_false(runs(2));
			switch (orders[i][j]) {
			case F:
				outcome = front_end_u64(&fixture.front_end, VHOST_USER_SET_FEATURES, FEATURES);
				break;
			case M:
				outcome = front_end_memory(&fixture.front_end);
				break;
			case N:
				outcome = front_end_state(&fixture.front_end, VHOST_USER_SET_VRING_NUM, 2, 16);
				break;
			case A:
				outcome = front_end_address(&fixture.front_end, 2);
				break;
			case K:
				outcome = front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_KICK, 2, kick);
				break;
			case E:
				outcome = front_end_state(&fixture.front_end, VHOST_USER_SET_VRING_ENABLE, 2, 1);
				break;
			}
			if (outcome != ACCEPTED)
				fail_msg("order %zu step %u: %d", i, j, outcome);
		}
		assert_true(runs(2));
		assert_int_equal(fake_engine.attached, 1);
		close(kick);
		finish();
	}
}

/* Without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from the start; a kick without fd means polling. */
static void test_old_front_end(void **state)
{
	uint64_t no_fd = VHOST_USER_VRING_NO_FD, features = 1ULL << VIRTIO_F_VERSION_1;
	struct vhost_user_vring_state num = { 0, 16 }, base = { 0, 5 };
	struct vhost_user_memory_table table = { 1, 0, { { FRONT_END_GUEST, FRONT_END_MEMORY, FRONT_END_USER, 0 } } };
	struct vhost_user_vring_address address = { .descriptor = FRONT_END_USER,
						    .available = FRONT_END_USER + 4096,
						    .used = FRONT_END_USER + 8192 };

	begin(VIRTIO_ID_BLOCK);
	*(uint16_t *)(void *)(fixture.front_end.memory + 8192 + 2) = 5; /* used idx */
	front_end_call(&fixture.front_end, VHOST_USER_SET_OWNER, NULL, 0, NULL, 0);
	front_end_call(&fixture.front_end, VHOST_USER_SET_FEATURES, &features, 8, NULL, 0);
	/* The table as front-ends send it that do not cut it to size. */
	front_end_call(&fixture.front_end, VHOST_USER_SET_MEM_TABLE, &table, sizeof(table),
		       &fixture.front_end.memory_fd, 1);
	front_end_call(&fixture.front_end, VHOST_USER_SET_VRING_NUM, &num, 8, NULL, 0);
	front_end_call(&fixture.front_end, VHOST_USER_SET_VRING_BASE, &base, 8, NULL, 0);
	front_end_call(&fixture.front_end, VHOST_USER_SET_VRING_ADDR, &address, sizeof(address), NULL, 0);
	front_end_call(&fixture.front_end, VHOST_USER_SET_VRING_CALL, &no_fd, 8, NULL, 0);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_VRING_KICK, &no_fd, 8, NULL, 0), SILENT);
	assert_true(runs(0));
	assert_int_equal(queue_of(0)->life.poller.wake_fd, -1);
	assert_int_equal(queue_of(0)->ring.config.avail_base, 5);
	assert_int_equal(queue_of(0)->ring.config.used_base, 5);
	assert_int_equal(front_end_state(&fixture.front_end, VHOST_USER_GET_VRING_BASE, 0, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.payload.state.num, 5);
	assert_false(runs(0));
	finish();
}

static void test_packed_bases(void **state)
{
	static const struct {
		uint32_t base;
		uint16_t avail, used;
	} cases[] = {
		/* 0 */ { 0x80008000, 0x8000, 0x8000 },
		/* 1 */ { 0x00008000, 0x8000, 0x8000 }, /* virtio-user */
		/* 2 */ { 0x00050007, 0x0007, 0x0005 },
		/* 3 */ { 0x80030003, 0x0003, 0x8003 },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		begin(VIRTIO_ID_BLOCK);
		front_end_negotiate(&fixture.front_end, FEATURES | PACKED);
		front_end_memory(&fixture.front_end);
		front_end_start_queue(&fixture.front_end, 1, NULL, NULL);
		assert_int_equal(front_end_state(&fixture.front_end, VHOST_USER_SET_VRING_BASE, 1, cases[i].base),
				 ACCEPTED);
		assert_true(runs(1));
		assert_int_equal(queue_of(1)->ring.config.avail_base, cases[i].avail);
		assert_int_equal(queue_of(1)->ring.config.used_base, cases[i].used);
		assert_int_equal(front_end_state(&fixture.front_end, VHOST_USER_GET_VRING_BASE, 1, 0), REPLIED);
		assert_int_equal(fixture.front_end.reply.payload.state.num,
				 (uint32_t)cases[i].used << 16 | cases[i].avail);
		finish();
	}
}

/* Memory changes under running queues: stopped, changed, started with the new map; what is the same stays mapped. */
static void test_memory_change(void **state)
{
	struct vhost_user_memory_region more = { 0, { 0x40000000, 0x10000, FRONT_END_USER + 0x40000000, 0x1000 } };
	struct vhost_user_memory_region first = { 0, { FRONT_END_GUEST, FRONT_END_MEMORY, FRONT_END_USER, 0 } };
	const struct guest_memory *before;
	const struct guest_region *region;
	int fd;

	begin(VIRTIO_ID_BLOCK);
	reach(RUNNING);
	fd = fixture.front_end.memory_fd;
	before = queue_of(0)->ring.config.memory;
	region = before->regions[0];
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_ADD_MEM_REG, &more, sizeof(more), &fd, 1),
			 ACCEPTED);
	assert_true(runs(0));
	assert_int_equal(fixture.connection.memory->region_count, 2);
	assert_ptr_equal(queue_of(0)->ring.config.memory, fixture.connection.memory);
	assert_ptr_equal(queue_of(0)->ring.config.memory->regions[0], region);
	assert_int_equal(fixture.connection.memory_size, FRONT_END_MEMORY + 0x10000);
	/* Without an fd, and with one as older front-ends do. */
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_REM_MEM_REG, &more, sizeof(more), NULL, 0),
			 ACCEPTED);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_ADD_MEM_REG, &more, sizeof(more), &fd, 1),
			 ACCEPTED);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_REM_MEM_REG, &more, sizeof(more), &fd, 1),
			 ACCEPTED);
	assert_true(runs(0));
	/* QEMU before 8.0 does both once for each queue pair. */
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_REM_MEM_REG, &more, sizeof(more), NULL, 0), ACCEPTED);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_ADD_MEM_REG, &first, sizeof(first), &fd, 1),
			 ACCEPTED);
	assert_ptr_equal(fixture.connection.memory->regions[0], region);
	assert_int_equal(fixture.connection.memory->region_count, 1);
	assert_int_equal(fixture.connection.memory_size, FRONT_END_MEMORY);
	assert_true(runs(0));
	/* The whole table again: the mapping is kept. */
	assert_int_equal(front_end_memory(&fixture.front_end), ACCEPTED);
	assert_ptr_equal(fixture.connection.memory->regions[0], region);
	assert_true(runs(0));
	/* The rings' own region goes away: the queue waits, and runs again when it is back. */
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_REM_MEM_REG, &first, sizeof(first), NULL, 0),
			 ACCEPTED);
	assert_false(runs(0));
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_ADD_MEM_REG, &first, sizeof(first), &fd, 1),
			 ACCEPTED);
	assert_true(runs(0));
	finish();
}

/* While a queue drains nothing is read and nothing answered; a disconnect meanwhile is noticed afterwards. */
static void test_slow_drain(void **state)
{
	begin(VIRTIO_ID_BLOCK);
	reach(RUNNING);
	queue_of(0)->life.in_flight = 1;
	assert_int_equal(front_end_state(&fixture.front_end, VHOST_USER_GET_VRING_BASE, 0, 0), SILENT);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_STATUS, NULL, 0, NULL, 0), SILENT);
	assert_int_equal(fixture.connection.state, CONNECTION_QUIESCING);
	queue_of(0)->life.in_flight = 0;
	device_queue_drained(&queue_of(0)->life);
	assert_int_equal(front_end_receive(&fixture.front_end, VHOST_USER_GET_VRING_BASE), REPLIED);
	assert_int_equal(front_end_receive(&fixture.front_end, VHOST_USER_GET_STATUS), REPLIED);

	front_end_start_queue(&fixture.front_end, 1, NULL, NULL);
	queue_of(1)->life.in_flight = 1;
	assert_int_equal(front_end_state(&fixture.front_end, VHOST_USER_GET_VRING_BASE, 1, 0), SILENT);
	vhost_user_connection_close(&fixture.connection, "test");
	front_end_pump(&fixture.front_end);
	assert_int_equal(fixture.closed, 0); /* not before the drain */
	assert_non_null(fixture.connection.memory);
	queue_of(1)->life.in_flight = 0;
	device_queue_drained(&queue_of(1)->life);
	finish();
}

/*
 * A queue that starts signals once: its predecessor may not have come to it. SET_VRING_CALL under a running queue: no stop,
 * the new fd is signalled once, notifications go to it alone.
 */
static void test_call_swap(void **state)
{
	int first, second;
	uint64_t value;

	begin(VIRTIO_ID_BLOCK);
	second = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	front_end_start_queue(&fixture.front_end, 0, NULL, &first);
	assert_true(runs(0));
	assert_int_equal(read(first, &value, 8), 8);
	assert_int_equal(value, 1);
	virtqueue_notify(&queue_of(0)->ring, sidecore_notifier(NULL));
	assert_int_equal(read(first, &value, 8), 8);
	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_CALL, 0, second), ACCEPTED);
	assert_int_equal(fake_engine.detaches, 0);
	assert_int_equal(read(second, &value, 8), 8);
	assert_int_equal(value, 1);
	virtqueue_notify(&queue_of(0)->ring, sidecore_notifier(NULL));
	assert_int_equal(read(second, &value, 8), 8);
	assert_int_equal(read(first, &value, 8), -1);
	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_CALL, VHOST_USER_VRING_NO_FD, -1),
			 ACCEPTED);
	virtqueue_notify(&queue_of(0)->ring, sidecore_notifier(NULL));
	assert_int_equal(read(second, &value, 8), -1);
	close(first);
	close(second);
	finish();
}

/* As full as an eventfd can be, and a write to it waits. */
static int full_eventfd(void)
{
	uint64_t most = UINT64_MAX - 1;
	int fd = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(write(fd, &most, sizeof(most)), sizeof(most));
	return fd;
}

/* Have the file behind @fd, which the server holds, too, full and blocking, whatever the server made of it. */
static void spoil(int fd)
{
	uint64_t most = UINT64_MAX - 1, value;

	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	if (read(fd, &value, sizeof(value)) < 0)
		assert_int_equal(errno, EAGAIN);
	assert_int_equal(write(fd, &most, sizeof(most)), sizeof(most));
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

/* Eventfds that nobody reads, with O_NONBLOCK cleared behind our back: who signals them must not wait. */
static void test_full_eventfds(void **state)
{
	struct turn turn = { 0 };
	int call, error_fd = eventfd(0, EFD_CLOEXEC), swapped = full_eventfd();
	uint64_t value;

	begin(VIRTIO_ID_BLOCK);
	fixture.fds_before -= 2; /* the two above are closed by the test's end */
	alarm(10);		 /* whoever waits, waits for ever */
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	front_end_start_queue(&fixture.front_end, 0, NULL, &call);
	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_ERR, 0, error_fd), ACCEPTED);
	spoil(call);
	spoil(error_fd);
	for (unsigned i = 0; i < 1000; i++)
		virtqueue_notify(&queue_of(0)->ring, sidecore_notifier(NULL));
	assert_int_equal(queue_of(0)->ring.counters.notifications, 1000);
	assert_int_equal(read(call, &value, 8), 8);
	assert_int_equal(value, UINT64_MAX);

	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_CALL, 0, swapped), ACCEPTED);
	virtqueue_break(&queue_of(0)->ring, VIRTQUEUE_BAD_HEAD);
	queue_of(0)->life.poller.ops->poll(&queue_of(0)->life.poller, &turn);
	front_end_pump(&fixture.front_end);
	assert_int_equal(read(error_fd, &value, 8), 8);
	assert_int_equal(value, UINT64_MAX);
	alarm(0);
	close(call);
	close(swapped);
	close(error_fd);
	finish();
}

static void *notify_often(void *context)
{
	struct virtio_queue *queue = context;

	for (unsigned i = 0; i < 20000; i++)
		virtqueue_notify(&queue->ring, sidecore_notifier(NULL));
	return NULL;
}

/* Swapped a thousand times under a thread that notifies: every notification arrives at one of the two. */
static void test_call_swap_race(void **state)
{
	uint64_t value, sum = 0, before;
	pthread_t thread;
	int calls[2];

	begin(VIRTIO_ID_BLOCK);
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	front_end_start_queue(&fixture.front_end, 0, NULL, &calls[0]);
	calls[1] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (read(calls[0], &value, 8) < 0)
		assert_int_equal(errno, EAGAIN);
	before = queue_of(0)->ring.counters.notifications;
	assert_int_equal(pthread_create(&thread, NULL, notify_often, queue_of(0)), 0);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_CALL, 0, calls[i & 1]),
				 ACCEPTED);
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < 2; i++) {
		if (read(calls[i], &value, 8) == 8)
			sum += value;
		close(calls[i]);
	}
	assert_int_equal(queue_of(0)->ring.counters.notifications - before, 20000);
	assert_int_equal(sum, 20000 + 1000);
	finish();
}

/* A queue that its guest broke: the front-end is told, and it rests until it is started anew. */
static void test_broken_queue(void **state)
{
	struct turn turn = { 0 };
	int error_fd, kick;
	uint64_t value;

	begin(VIRTIO_ID_BLOCK);
	error_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	kick = eventfd(0, EFD_CLOEXEC);
	reach(RUNNING);
	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_ERR, 0, error_fd), ACCEPTED);
	virtqueue_break(&queue_of(0)->ring, VIRTQUEUE_BAD_HEAD);
	queue_of(0)->life.poller.ops->poll(&queue_of(0)->life.poller, &turn);
	front_end_pump(&fixture.front_end);
	assert_int_equal(read(error_fd, &value, 8), 8);
	assert_int_equal(front_end_memory(&fixture.front_end), ACCEPTED); /* an unrelated stop */
	assert_false(runs(0));
	assert_int_equal(front_end_file(&fixture.front_end, VHOST_USER_SET_VRING_KICK, 0, kick), ACCEPTED);
	assert_true(runs(0));
	close(error_fd);
	close(kick);
	finish();
}

static void test_status_and_reset(void **state)
{
	begin(VIRTIO_ID_BLOCK);
	reach(RUNNING);
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_STATUS, 15), ACCEPTED);
	assert_true(runs(0));
	assert_int_equal(fake_engine.detaches, 0);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_STATUS, NULL, 0, NULL, 0), REPLIED);
	assert_int_equal(fixture.front_end.reply.payload.u64, 15);
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_STATUS, 0), ACCEPTED);
	assert_false(runs(0));
	assert_int_equal(fixture.fake.resets, 1);
	assert_int_equal(fixture.fake.device.acked_features, 0);
	assert_int_equal(fixture.connection.memory->region_count, 1); /* front-ends do not send it again */
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_FEATURES, FEATURES), ACCEPTED);
	assert_false(runs(0));
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	assert_true(runs(0));
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0), ACCEPTED);
	assert_false(runs(0));
	assert_int_equal(fixture.fake.resets, 2);
	finish();
}

/* Migration: the log comes and goes while queues run. */
static void test_log(void **state)
{
	uint64_t log[2] = { 4096, 0 };
	int fd;

	begin(VIRTIO_ID_BLOCK);
	fd = memfd_create("log", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), 0);
	reach(RUNNING);
	assert_null(queue_of(0)->ring.config.log);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_LOG_BASE, log, 16, &fd, 1), REPLIED);
	assert_true(runs(0));
	assert_null(queue_of(0)->ring.config.log);
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_FEATURES, FEATURES | VHOST_USER_LOG_ALL),
			 ACCEPTED);
	assert_true(runs(0));
	assert_non_null(queue_of(0)->ring.config.log);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_LOG_BASE, log, 16, &fd, 1), REPLIED);
	assert_ptr_equal(queue_of(0)->ring.config.log, fixture.connection.log);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_LOG_FD, NULL, 0, &fd, 1), ACCEPTED);
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_FEATURES, FEATURES), ACCEPTED);
	assert_null(queue_of(0)->ring.config.log);
	close(fd);
	finish();
}

static void test_config_change(void **state)
{
	struct vhost_user_header header;
	int pair[2];

	begin(VIRTIO_ID_BLOCK);
	front_end_negotiate(&fixture.front_end, FEATURES);
	fixture.fake.device.config_changed(&fixture.fake.device); /* nobody to tell yet */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1),
			 ACCEPTED);
	close(pair[1]);
	fixture.fake.device.config_changed(&fixture.fake.device);
	assert_int_equal(recv(pair[0], &header, sizeof(header), MSG_DONTWAIT), sizeof(header));
	assert_int_equal(header.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(header.flags, VHOST_USER_VERSION);
	assert_int_equal(header.size, 0);
	/* The other end goes away: no signal, no harm. */
	close(pair[0]);
	fixture.fake.device.config_changed(&fixture.fake.device);
	fixture.fake.device.config_changed(&fixture.fake.device);
	finish();
}

static void test_inflight(void **state)
{
	struct inflight_description description = { .num_queues = 4, .queue_size = 16 };
	uint16_t *used_index;
	int fd;

	begin(VIRTIO_ID_BLOCK);
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	/* The payload without padding, as some front-ends have it. */
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_INFLIGHT_FD, &description, 20, NULL, 0),
			 REPLIED);
	assert_int_equal(fixture.front_end.reply.header.size, 20);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_GET_INFLIGHT_FD, &description, 24, NULL, 0),
			 REPLIED);
	assert_int_equal(fixture.front_end.reply.fd_count, 1);
	description = fixture.front_end.reply.payload.inflight;
	fd = dup(fixture.front_end.reply.fds[0]);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_INFLIGHT_FD, &description, 24, &fd, 1),
			 ACCEPTED);
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	assert_true(runs(0));
	assert_non_null(queue_of(0)->ring.config.inflight);

	/* Two are taken, and "we" crash: a new connection finds them, behind the used index of the ring. */
	assert_true(virtqueue_inflight_take(queue_of(0)->ring.config.inflight, 3, 0, 1));
	assert_true(virtqueue_inflight_take(queue_of(0)->ring.config.inflight, 1, 0, 1));
	close(fixture.front_end.fd);
	front_end_pump(&fixture.front_end);
	assert_int_equal(fixture.closed, 1);
	fixture.front_end.fd = -1;
	front_end_stop(&fixture.front_end);
	fixture.closed = 0;
	connect_front_end();
	front_end_negotiate(&fixture.front_end, FEATURES);
	front_end_memory(&fixture.front_end);
	used_index = (uint16_t *)(void *)(fixture.front_end.memory + 0x8002);
	assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_INFLIGHT_FD, &description, 24, &fd, 1),
			 ACCEPTED);
	*used_index = 0;
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	assert_true(runs(0));
	assert_int_equal(virtqueue_inflight_replays(queue_of(0)->ring.config.inflight), 2);
	assert_int_equal(queue_of(0)->ring.config.avail_base, 2);

	/* A reset forgets them. */
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_STATUS, 0), ACCEPTED);
	assert_int_equal(front_end_u64(&fixture.front_end, VHOST_USER_SET_FEATURES, FEATURES), ACCEPTED);
	front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
	assert_int_equal(virtqueue_inflight_replays(queue_of(0)->ring.config.inflight), 0);
	close(fd);
	finish();
}

/* Each message that keeps something, many times over: nothing piles up (finish() counts file descriptors). */
static void test_repetition(void **state)
{
	struct inflight_description description = { .num_queues = 4, .queue_size = 16 };
	uint64_t log[2] = { 4096, 0 };
	int fd, pair[2];

	begin(VIRTIO_ID_BLOCK);
	reach(RUNNING);
	fd = fixture.front_end.memory_fd;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	for (unsigned i = 0; i < 300; i++) {
		unsigned before = count_fds();

		assert_int_equal(front_end_memory(&fixture.front_end), ACCEPTED);
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_LOG_BASE, log, 16, &fd, 1), REPLIED);
		assert_int_equal(
			front_end_call(&fixture.front_end, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &pair[0], 1),
			ACCEPTED);
		front_end_call(&fixture.front_end, VHOST_USER_GET_INFLIGHT_FD, &description, 24, NULL, 0);
		description = fixture.front_end.reply.payload.inflight;
		assert_int_equal(front_end_call(&fixture.front_end, VHOST_USER_SET_INFLIGHT_FD, &description, 24,
						fixture.front_end.reply.fds, 1),
				 ACCEPTED);
		front_end_start_queue(&fixture.front_end, 0, NULL, NULL);
		assert_true(runs(0));
		if (i > 1)
			assert_int_equal(count_fds(), before);
	}
	close(pair[0]);
	close(pair[1]);
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),	 cmocka_unit_test(test_pieces),
		cmocka_unit_test(test_negotiation),	 cmocka_unit_test(test_config),
		cmocka_unit_test(test_orders),		 cmocka_unit_test(test_old_front_end),
		cmocka_unit_test(test_packed_bases),	 cmocka_unit_test(test_memory_change),
		cmocka_unit_test(test_slow_drain),	 cmocka_unit_test(test_call_swap),
		cmocka_unit_test(test_call_swap_race),	 cmocka_unit_test(test_full_eventfds),
		cmocka_unit_test(test_broken_queue),
		cmocka_unit_test(test_status_and_reset), cmocka_unit_test(test_log),
		cmocka_unit_test(test_config_change),	 cmocka_unit_test(test_inflight),
		cmocka_unit_test(test_repetition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
