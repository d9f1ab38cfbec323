/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost-user messages about rings: when queues start and stop, where they go on, and their notifications. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/vhost_user/connection.h"
#include "vhost_user_fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_orders),
		cmocka_unit_test(test_old_front_end),
		cmocka_unit_test(test_packed_bases),
		cmocka_unit_test(test_slow_drain),
		cmocka_unit_test(test_call_swap),
		cmocka_unit_test(test_call_swap_race),
		cmocka_unit_test(test_full_eventfds),
		cmocka_unit_test(test_broken_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
