/* SPDX-License-Identifier: BSD-3-Clause */
/* vhost-user messages: negotiation, configuration, memory, log, in-flight region, and sessions one after the other. */
#include "test.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ring/inflight.h"
#include "transport/vhost_user/connection.h"
#include "vhost_user_fixture.h"

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
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_memory_change),
		cmocka_unit_test(test_status_and_reset),
		cmocka_unit_test(test_log),
		cmocka_unit_test(test_config_change),
		cmocka_unit_test(test_inflight),
		cmocka_unit_test(test_repetition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
