/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user messages, good and bad: versions, descriptions, framing. Others: vfio_user_access_test.c,
 * vfio_user_interrupts_test.c, vfio_user_memory_test.c.
 */
#include "test.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "vfio_user_fixture.h"

/* ---- version ----------------------------------------------------------------------------------------------------- */

static int propose(uint16_t major, uint16_t minor, const char *data, size_t length)
{
	struct vfio_user_version version = { .major = major, .minor = minor };

	memcpy(version.data, data, length);
	return vfio_client_call(client, VFIO_USER_VERSION, &version, (uint32_t)(4 + length), NULL, 0);
}

static void test_versions(void **state)
{
#define JSON(text) text, sizeof(text)
	static const struct {
		uint16_t major, minor;
		const char *data;
		size_t length; /* with the NUL */
		int result;
		bool multiple;
	} cases[] = {
		/* 0 */ { 0, 0, "", 0, 0, false },
		/* 1 */ { 0, 1, JSON("{}"), 0, false },
		/* 2 */ { 0, 7, JSON("{\"capabilities\":{}}"), 0, false },
		/* 3 */
		{ 0, 0,
		  JSON("{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,\"pgsizes\":4096,"
		       "\"max_dma_maps\":65535,\"migration\":{\"pgsize\":4096,\"max_bitmap_size\":268435456},"
		       "\"write_multiple\":true}}"),
		  0, true },
		/* 4 */ { 0, 1, JSON("{\"capabilities\":{\"write_multiple\":false}}"), 0, false },
		/* 5 */ { 1, 0, "", 0, EINVAL, false },
		/* 6 */ { 0, 1, JSON("{\"capabilities\":{\"write_multiple\":1}}"), EINVAL, false },
		/* 7 */ { 0, 1, JSON("{\"capabilities\":[]}"), EINVAL, false },
		/* 8 */ { 0, 1, JSON("[]"), EINVAL, false },
		/* 9 */ { 0, 1, JSON("{\"capabilities\":{\"max_msg_fds\":\"1\"}}"), EINVAL, false },
		/* 10 */ { 0, 1, JSON("{\"capabilities\":{\"max_msg_fds\":-1}}"), EINVAL, false },
		/* 11 */ { 0, 1, JSON("{\"capabilities\":{\"max_msg_fds\":1,\"max_msg_fds\":2}}"), EINVAL, false },
		/* 12 */ { 0, 1, JSON("{\"capabilities\":{\"pgsizes\":2097152}}"), EINVAL, false },
		/* 13 */ { 0, 1, JSON("{\"capabilities\":{"), EINVAL, false },
		/* 14 */ { 0, 1, "{}", 2, EINVAL, false },	  /* no NUL */
		/* 15 */ { 0, 1, JSON("{}\0{}"), EINVAL, false }, /* two */
		/* 16 */ { 0, 1, JSON("\xff\xfe"), EINVAL, false },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		const struct vfio_user_version *version = &client->reply.payload.version;
		json_t *root, *all;

		if (propose(cases[i].major, cases[i].minor, cases[i].data, cases[i].length) != cases[i].result)
			fail_msg("case %zu", i);
		if (cases[i].result) {
			assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), EPROTO);
			continue;
		}
		assert_int_equal(version->major, 0);
		assert_int_equal(version->minor, cases[i].minor ? 1 : 0);
		assert_int_equal(version->data[client->reply.size - 5], 0);
		all = json_loads(version->data, 0, NULL);
		root = json_object_get(all, "capabilities");
		assert_int_equal(json_integer_value(json_object_get(root, "max_msg_fds")), 16);
		assert_int_equal(json_integer_value(json_object_get(root, "max_data_xfer_size")), 4096);
		assert_int_equal(json_integer_value(json_object_get(root, "pgsizes")), 4096);
		if (json_is_true(json_object_get(root, "write_multiple")) != cases[i].multiple)
			fail_msg("case %zu: write_multiple", i);
		assert_null(json_object_get(root, "migration"));
		json_decref(all);
		assert_int_equal(propose(0, 0, "", 0), EINVAL); /* a second one */
		end_session();
		connect_client();
	}
}

/* 2 KiB of brackets: what a parser that recurses would not survive for long. */
static void test_deep_version(void **state)
{
	char data[VFIO_USER_VERSION_BYTES];

	memset(data, '[', sizeof(data));
	data[sizeof(data) - 1] = '\0';
	assert_int_equal(propose(0, 1, data, sizeof(data)), EINVAL);
	assert_int_equal(vfio_client_version(client), 0);
}

/* ---- description ------------------------------------------------------------------------------------------------- */

static void test_device_info(void **state)
{
	struct vfio_user_device_info info = { .argsz = 32 }; /* as Cloud Hypervisor says it */

	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), NULL, 0), 0);
	assert_int_equal(client->reply.size, 16);
	assert_int_equal(client->reply.payload.device.argsz, 16);
	assert_int_equal(client->reply.payload.device.flags, VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI);
	assert_int_equal(client->reply.payload.device.num_regions, 9);
	assert_int_equal(client->reply.payload.device.num_irqs, 5);
	info.argsz = 15;
	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), NULL, 0), EINVAL);
}

static void test_region_info(void **state)
{
	static const uint64_t sizes[9] = { FAKE_PCI_BAR, 0, FAKE_PCI_PORTS, 0, 0x1000, 0, 0, 4096, 0 };
	const struct vfio_user_region_info *region = &client->reply.payload.region;
	uint32_t *window, value = 0;

	for (uint32_t i = 0; i < 9; i++) {
		assert_int_equal(region_info(i, 32), 0);
		assert_int_equal(client->reply.size, 32);
		assert_int_equal(client->reply.fd_count, 0);
		assert_int_equal(region->info.index, i);
		assert_int_equal(region->info.size, sizes[i]);
		assert_int_equal(region->info.flags, (sizes[i] ? 3 : 0) | (i == 0 ? VFIO_REGION_INFO_FLAG_MMAP : 0));
		assert_int_equal(region->info.argsz, i == 0 ? 64 : 32);
	}
	assert_int_equal(region_info(9, 32), EINVAL);
	assert_int_equal(region_info(UINT32_MAX, 32), EINVAL);
	assert_int_equal(region_info(0, 31), EINVAL);

	assert_int_equal(region_info(0, 64), 0);
	assert_int_equal(client->reply.size, 64);
	assert_int_equal(client->reply.fd_count, 1);
	assert_int_equal(region->info.cap_offset, 32);
	assert_true(region->info.flags & VFIO_REGION_INFO_FLAG_CAPS);
	assert_int_equal(region->capability.id, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
	assert_int_equal(region->capability.version, 1);
	assert_int_equal(region->capability.next, 0);
	assert_int_equal(region->area_count, 1);
	assert_int_equal(region->areas[0].offset, FAKE_PCI_WINDOW);
	assert_int_equal(region->areas[0].size, 0x1000);

	/* A store through the client's mapping, a load by message, and the other way round. */
	window = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, client->reply.fds[0], FAKE_PCI_WINDOW);
	assert_true(window != MAP_FAILED);
	window[3] = 0x11223344;
	assert_int_equal(vfio_client_read(client, 0, FAKE_PCI_WINDOW + 12, &value, 4), 0);
	assert_int_equal(value, 0x11223344);
	assert_int_equal(vfio_client_write32(client, 0, FAKE_PCI_WINDOW + 16, 5), 0);
	assert_int_equal(window[4], 5);
	assert_int_equal(fixture.fake.doorbells, 1);
	assert_int_equal(fixture.fake.last_doorbell, 5);
	munmap(window, 0x1000);

	fixture.connection.trap_windows = true;
	assert_int_equal(region_info(0, 64), 0);
	assert_int_equal(region->info.flags, 3);
	assert_int_equal(region->info.argsz, 32);
	assert_int_equal(client->reply.fd_count, 0);
}

static void test_region_io_fds(void **state)
{
	struct vfio_user_region_io_fds fds = { .argsz = 16, .index = 0 };

	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &fds, 16, NULL, 0), 0);
	assert_int_equal(client->reply.size, 16);
	assert_int_equal(client->reply.payload.region_io_fds.count, 0);
	fds.flags = 1;
	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &fds, 16, NULL, 0), EINVAL);
	fds = (struct vfio_user_region_io_fds){ .argsz = 16, .index = 9 };
	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &fds, 16, NULL, 0), EINVAL);
}

static void test_irq_info(void **state)
{
	static const uint32_t counts[5] = { 1, 1, FAKE_PCI_VECTORS, 1, 1 };

	for (uint32_t i = 0; i < 6; i++) {
		struct vfio_irq_info info = { .argsz = 16, .index = i };
		int result = vfio_client_call(client, VFIO_USER_DEVICE_GET_IRQ_INFO, &info, sizeof(info), NULL, 0);

		assert_int_equal(result, i < 5 ? 0 : EINVAL);
		if (result)
			continue;
		assert_int_equal(client->reply.size, 16);
		assert_int_equal(client->reply.payload.irq.count, counts[i]);
		assert_int_equal(client->reply.payload.irq.flags, i == 0 ? 7 : 1);
	}
}

/* ---- framing ----------------------------------------------------------------------------------------------------- */

/* Payloads of the wrong size, descriptors too many: an error each, and the session goes on. */
static void test_wrong_sizes(void **state)
{
	static const struct {
		uint16_t command;
		uint16_t size; /* a right one */
		uint8_t fds;   /* the most */
	} cases[] = {
		{ VFIO_USER_DMA_MAP, 32, 1 },
		{ VFIO_USER_DMA_UNMAP, 24, 0 },
		{ VFIO_USER_DEVICE_GET_INFO, 16, 0 },
		{ VFIO_USER_DEVICE_GET_REGION_INFO, 32, 0 },
		{ VFIO_USER_DEVICE_GET_REGION_IO_FDS, 16, 0 },
		{ VFIO_USER_DEVICE_GET_IRQ_INFO, 16, 0 },
		{ VFIO_USER_DEVICE_SET_IRQS, 20, VFIO_USER_FDS_MAX },
		{ VFIO_USER_REGION_READ, 16, 0 },
		{ VFIO_USER_REGION_WRITE, 17, 0 },
		{ VFIO_USER_REGION_WRITE_MULTI, 32, 0 },
		{ VFIO_USER_DEVICE_RESET, 0, 0 },
	};
	int files[VFIO_USER_FDS_MAX], event = eventfd(0, EFD_CLOEXEC);
	uint8_t payload[5000] = { 0 };
	unsigned before;

	for (unsigned i = 0; i < VFIO_USER_FDS_MAX; i++)
		files[i] = event;
	before = open_fds();
	for (size_t i = 0; i < array_size(cases); i++) {
		const uint32_t wrong[] = { cases[i].size - 1U, cases[i].size + 1U, cases[i].size / 2U, 0, 4808 };

		for (unsigned j = cases[i].size ? 0 : 1; j < array_size(wrong); j++) {
			if (wrong[j] == cases[i].size)
				continue;
			if (vfio_client_call(client, cases[i].command, payload, wrong[j], NULL, 0) != EINVAL)
				fail_msg("command %u with %u bytes", cases[i].command, wrong[j]);
		}
		for (unsigned count = cases[i].fds + 1U; count < VFIO_USER_FDS_MAX; count += 63) {
			if (vfio_client_call(client, cases[i].command, payload, cases[i].size, files, count) != EINVAL)
				fail_msg("command %u with %u files", cases[i].command, count);
		}
	}
	vfio_client_pump(client);
	assert_true(settles(before));
	assert_int_equal(fixture.fake.resets, 1); /* the connection's own */
	assert_int_equal(fixture.connection.refused, 0);
	close(event);
}

static void test_commands_not_served(void **state)
{
	static const struct {
		uint16_t command;
		int result;
	} cases[] = {
		{ 0, EINVAL },
		{ VFIO_USER_DMA_READ, ENOTTY },
		{ VFIO_USER_DMA_WRITE, ENOTTY },
		{ VFIO_USER_DIRTY_PAGES, ENOTTY },
		{ VFIO_USER_DEVICE_FEATURE, ENOTTY },
		{ VFIO_USER_MIG_DATA_READ, ENOTTY },
		{ VFIO_USER_MIG_DATA_WRITE, ENOTTY },
		{ 19, EINVAL },
		{ 0xffff, EINVAL },
	};
	uint8_t payload[64] = { 0 };

	for (size_t i = 0; i < array_size(cases); i++)
		assert_int_equal(vfio_client_call(client, cases[i].command, payload, sizeof(payload), NULL, 0),
				 cases[i].result);
	assert_int_equal(fixture.connection.errors, 3); /* what was merely asked for is no mistake */
}

/* After these the next message's beginning is anybody's guess. */
static void test_broken_framing(void **state)
{
	static const struct vfio_user_header headers[] = {
		{ .command = VFIO_USER_DEVICE_RESET, .size = 15 },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 0 },
		{ .command = VFIO_USER_REGION_WRITE, .size = 16 + VFIO_USER_PAYLOAD_MAX + 1 },
		{ .command = VFIO_USER_REGION_WRITE, .size = UINT32_MAX },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 16, .flags = VFIO_USER_TYPE_REPLY },
		{ .command = VFIO_USER_DEVICE_RESET, .size = 16, .flags = 2 },
	};

	for (size_t i = 0; i < array_size(headers); i++) {
		vfio_client_raw(client, &headers[i], sizeof(headers[i]), NULL, 0);
		if (vfio_client_receive(client) != VFIO_CLIENT_CLOSED)
			fail_msg("header %zu", i);
		assert_true(fixture.closed);
		assert_int_equal(fixture.connection.refused, i + 1);
		vfio_client_stop(client);
		connect_client();
		assert_int_equal(vfio_client_version(client), 0);
	}
}

static void test_flags(void **state)
{
	vfio_client_send(client, VFIO_USER_DEVICE_RESET, VFIO_USER_ERROR, NULL, 0, 0, NULL, 0);
	assert_int_equal(vfio_client_receive(client), EINVAL);
	vfio_client_send(client, VFIO_USER_DEVICE_RESET, 1U << 31, NULL, 0, 0, NULL, 0);
	assert_int_equal(vfio_client_receive(client), EINVAL);
	vfio_client_send(client, VFIO_USER_DEVICE_RESET, VFIO_USER_NO_REPLY, NULL, 0, 0, NULL, 0);
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.fake.resets, 2);
}

/* A byte at a time, and several messages at a time: the same. Files come with any byte of their message. */
static void test_pieces(void **state)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_irq_set set;
	} wire = { { 7, VFIO_USER_DEVICE_SET_IRQS, sizeof(wire), 0, 0 },
		   { sizeof(wire.set), VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 1, 1 } };
	struct {
		struct vfio_user_header header;
		struct vfio_user_device_info info;
	} many[100];
	int event = eventfd(0, EFD_CLOEXEC);

	for (size_t with = 0; with < sizeof(wire); with++) {
		client->next_id = wire.header.id;
		for (size_t i = 0; i < sizeof(wire); i++) {
			vfio_client_raw(client, (const char *)&wire + i, 1, &event, i == with);
			if (i + 1 < sizeof(wire))
				assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
		}
		assert_int_equal(vfio_client_receive(client), 0);
		assert_true(fixture.fake.device.interrupts.given[PCI_INTERRUPT_MSIX][1]);
	}
	close(event);
	for (size_t i = 0; i < array_size(many); i++) {
		memset(&many[i], 0, sizeof(many[i]));
		many[i].header =
			(struct vfio_user_header){ (uint16_t)i, VFIO_USER_DEVICE_GET_INFO, sizeof(many[i]), 0, 0 };
		many[i].info.argsz = 16;
	}
	vfio_client_raw(client, many, sizeof(many), NULL, 0);
	for (size_t i = 0; i < array_size(many); i++) {
		client->next_id = (uint16_t)i;
		assert_int_equal(vfio_client_receive(client), 0);
	}
}

/* Files that come while messages before theirs are read ahead are not those messages' files. */
static void test_files_of_the_right_message(void **state)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_device_info info;
	} plain = { { 1, VFIO_USER_DEVICE_GET_INFO, sizeof(plain), 0, 0 }, { .argsz = 16 } };
	struct {
		struct vfio_user_header header;
		struct vfio_user_irq_set set;
	} filed = { { 2, VFIO_USER_DEVICE_SET_IRQS, sizeof(filed), 0, 0 },
		    { sizeof(filed.set), VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 1, 1 } };
	int event = eventfd(0, EFD_CLOEXEC);

	for (unsigned i = 0; i < 3; i++)
		vfio_client_raw(client, &plain, sizeof(plain), NULL, 0);
	vfio_client_raw(client, &filed, sizeof(filed), &event, 1);
	vfio_client_raw(client, &plain, sizeof(plain), NULL, 0);
	vfio_client_raw(client, &filed, sizeof(filed), &event, 1);
	for (unsigned i = 0; i < 6; i++) {
		client->next_id = i == 3 || i == 5 ? 2 : 1;
		assert_int_equal(vfio_client_receive(client), 0);
	}
	assert_true(fixture.fake.device.interrupts.given[PCI_INTERRUPT_MSIX][1]);
	close(event);
}

/* A flood of posted writes: a bounded number is done in a turn of the loop, all of them in the end. */
static void test_fairness(void **state)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_region_access access;
		uint32_t value;
	} __attribute__((packed)) wire[100];
	uint64_t before = fixture.connection.messages, most = 0;

	for (uint32_t i = 0; i < array_size(wire); i++) {
		wire[i].header = (struct vfio_user_header){ (uint16_t)i, VFIO_USER_REGION_WRITE, sizeof(wire[i]),
							    VFIO_USER_NO_REPLY, 0 };
		wire[i].access = (struct vfio_user_region_access){ 0x40, 0, 4 };
		wire[i].value = i;
	}
	for (unsigned i = 0; i < 5; i++)
		vfio_client_raw(client, wire, sizeof(wire), NULL, 0);
	while (fixture.connection.messages < before + 5 * array_size(wire)) {
		uint64_t now = fixture.connection.messages;

		event_base_loop(fixture.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		most = max(most, fixture.connection.messages - now);
	}
	assert_in_range(most, 1, 64); /* the socket and what was read ahead may each have a turn */
	assert_int_equal(fixture.fake.writes, 500);
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(fixture.fake.order[i], i);
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.connection.posted, 500);
}

/* Who does not read its replies is not read from either. */
static void test_reader_that_never_reads(void **state)
{
	struct {
		struct vfio_user_header header;
		struct vfio_user_region_access access;
	} wire = { { 1, VFIO_USER_REGION_READ, sizeof(wire), 0, 0 }, { 0, CONFIG, 4096 } };
	uint64_t handled;

	for (unsigned i = 0; i < 500; i++) {
		send(client->fd, &wire, sizeof(wire), MSG_DONTWAIT | MSG_NOSIGNAL);
		vfio_client_pump(client);
	}
	assert_int_equal(fixture.connection.state, CONNECTION_REPLYING);
	handled = fixture.connection.messages;
	vfio_client_pump(client);
	assert_int_equal(fixture.connection.messages, handled);
	client->next_id = 1;
	for (uint64_t i = 0; i + 1 < handled; i++)
		assert_int_equal(vfio_client_receive(client), 0);
	assert_true(fixture.connection.messages > handled);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_versions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_deep_version, set_up, tear_down),
		SESSION_TEST(test_device_info),
		SESSION_TEST(test_region_info),
		SESSION_TEST(test_region_io_fds),
		SESSION_TEST(test_irq_info),
		SESSION_TEST(test_wrong_sizes),
		SESSION_TEST(test_commands_not_served),
		SESSION_TEST(test_broken_framing),
		SESSION_TEST(test_flags),
		SESSION_TEST(test_pieces),
		SESSION_TEST(test_files_of_the_right_message),
		SESSION_TEST(test_fairness),
		SESSION_TEST(test_reader_that_never_reads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
