/* SPDX-License-Identifier: BSD-3-Clause */
/* vfio-user messages that read and write regions: bounds, widths, posted and deferred ones; configuration space and reset. */
#include "test.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "vfio_user_fixture.h"

/* ---- accesses ---------------------------------------------------------------------------------------------------- */

static void test_access_bounds(void **state)
{
	static const struct {
		uint32_t region;
		uint64_t offset;
		uint32_t count;
		int result;
	} cases[] = {
		{ 0, 0, 1, 0 },
		{ 0, 0, 0, EINVAL },
		{ 0, FAKE_PCI_BAR - 1, 1, 0 },
		{ 0, FAKE_PCI_BAR - 1, 2, EINVAL },
		{ 0, FAKE_PCI_BAR, 1, EINVAL },
		{ 0, UINT64_MAX, 1, EINVAL },
		{ 0, UINT64_MAX - 3, 4, EINVAL },
		{ 0, 1ULL << 32, 4, EINVAL },
		{ 0, 0x40, 4032, 0 },
		{ 0, 0xffe, 4, 0 }, /* from registers into a window */
		{ 0, 0, 4097, EINVAL },
		{ 0, 0, UINT32_MAX, EINVAL },
		{ 1, 0, 4, EINVAL },
		{ 2, 28, 4, 0 },
		{ 2, 29, 4, EINVAL },
		{ 3, 0, 4, EINVAL },
		{ 4, 0, 16, 0 },
		{ 5, 0, 4, EINVAL },
		{ 6, 0, 4, EINVAL },
		{ CONFIG, 0, 4096, 0 },
		{ CONFIG, 4095, 1, 0 },
		{ CONFIG, 4093, 4, EINVAL },
		{ CONFIG, 4096, 1, EINVAL },
		{ CONFIG, UINT64_MAX, 2, EINVAL },
		{ 8, 0, 1, EINVAL },
		{ 9, 0, 1, EINVAL },
		{ UINT32_MAX, 0, 1, EINVAL },
	};
	uint8_t data[4096] = { 0 };

	for (size_t i = 0; i < array_size(cases); i++) {
		if (vfio_client_read(client, cases[i].region, cases[i].offset, data, cases[i].count) != cases[i].result)
			fail_msg("read %zu", i);
		if (cases[i].count <= sizeof(data) && vfio_client_write(client, cases[i].region, cases[i].offset, data,
									cases[i].count) != cases[i].result)
			fail_msg("write %zu", i);
	}
}

/* Every offset and length within a few registers: what was written is read, also across the window's borders. */
static void test_every_width(void **state)
{
	static const uint32_t places[] = { 0x80, FAKE_PCI_WINDOW - 8, FAKE_PCI_WINDOW + 0x1000 - 8 };
	uint8_t expected[16], data[16], next = 1;

	for (unsigned place = 0; place < array_size(places); place++) {
		assert_int_equal(vfio_client_read(client, 0, places[place], expected, 16), 0);
		for (unsigned offset = 0; offset < 16; offset++) {
			for (unsigned length = 1; offset + length <= 16; length++) {
				for (unsigned i = 0; i < length; i++)
					expected[offset + i] = next++;
				assert_int_equal(
					vfio_client_write(client, 0, places[place] + offset, expected + offset, length),
					0);
				assert_int_equal(vfio_client_read(client, 0, places[place] + offset, data, length), 0);
				assert_memory_equal(data, expected + offset, length);
			}
		}
		assert_int_equal(vfio_client_read(client, 0, places[place], data, 16), 0);
		assert_memory_equal(data, expected, 16);
	}
}

static void test_deferred_write(void **state)
{
	uint32_t value = 0x77;
	uint8_t data[12] = { 1, 0, 0, 0, 2, 0, 0, 0, 3 };

	vfio_client_send(client, VFIO_USER_REGION_WRITE, 0, &(struct {
				 struct vfio_user_region_access access;
				 uint32_t value;
			 }){ { FAKE_PCI_DEFER, 0, 4 }, value },
			 20, 0, NULL, 0);
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	/* What comes next waits for it. */
	vfio_client_send(client, VFIO_USER_DEVICE_RESET, 0, NULL, 0, 0, NULL, 0);
	client->next_id--;
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.fake.resets, 1);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	client->next_id++;
	assert_int_equal(vfio_client_receive(client), 0);
	assert_int_equal(fixture.fake.resets, 2);

	/* In the middle of a longer one: it is gone on with. */
	assert_int_equal(vfio_client_write(client, 0, FAKE_PCI_DEFER - 4, data, sizeof(data)), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.fake.writes, 3);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	assert_int_equal(fixture.fake.writes, 4);
	assert_int_equal(fixture.fake.registers[FAKE_PCI_DEFER + 4], 3);

	/* Its client goes meanwhile. */
	assert_int_equal(vfio_client_write32(client, 0, FAKE_PCI_DEFER, 1), VFIO_CLIENT_SILENT);
	vfio_client_stop(client);
	vfio_client_pump(client);
	assert_false(fixture.closed);
	vfio_user_connection_close(&fixture.connection, "gone");
	vfio_client_pump(client);
	assert_false(fixture.closed);
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(client);
	assert_true(fixture.closed);
}

static void test_write_multi(void **state)
{
	struct vfio_user_write_multi multi = { .count = 5 };
	const struct vfio_user_single_write writes[] = {
		{ 0x40, 0, 4, { 1 } },		 { FAKE_PCI_DEFER, 0, 4, { 2 } }, { 0x48, 0, 8, { 3, 0, 0, 0, 4 } },
		{ FAKE_PCI_DEFER, 0, 4, { 5 } }, { 0x44, 2, 1, { 6 } },
	};
	static const struct {
		uint64_t count, offset;
		uint32_t region, length;
	} bad[] = {
		{ 4, 0, 2, 1 }, { 6, 0, 2, 1 }, { UINT64_MAX, 0, 2, 1 }, { 5, 32, 2, 1 },
		{ 5, 0, 2, 9 }, { 5, 0, 2, 0 }, { 5, 0, 1, 1 },		 { 5, UINT64_MAX, 2, 8 },
	};

	memcpy(multi.writes, writes, sizeof(writes));
	for (size_t i = 0; i < array_size(bad); i++) {
		multi.count = bad[i].count;
		multi.writes[4].offset = bad[i].offset;
		multi.writes[4].region = bad[i].region;
		multi.writes[4].count = bad[i].length;
		if (vfio_client_call(client, VFIO_USER_REGION_WRITE_MULTI, &multi, 8 + 5 * 24, NULL, 0) != EINVAL)
			fail_msg("case %zu", i);
		assert_int_equal(fixture.fake.writes, 0); /* none of them */
	}
	multi.count = 5;
	multi.writes[4] = (struct vfio_user_single_write){ 4, 2, 1, { 6 } };
	assert_int_equal(vfio_client_call(client, VFIO_USER_REGION_WRITE_MULTI, &multi, 8 + 5 * 24, NULL, 0),
			 VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.fake.writes, 2);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.fake.writes, 5);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	assert_int_equal(client->reply.size, 8);
	assert_int_equal(client->reply.payload.multi.count, 5);
	for (uint32_t i = 0; i < 6; i++)
		assert_int_equal(fixture.fake.order[i], i + 1);

	/* None at all, and as many as there may be. */
	multi.count = 0;
	assert_int_equal(vfio_client_call(client, VFIO_USER_REGION_WRITE_MULTI, &multi, 8, NULL, 0), 0);
	multi.count = VFIO_USER_WRITES_MAX;
	for (unsigned i = 0; i < VFIO_USER_WRITES_MAX; i++)
		multi.writes[i] = (struct vfio_user_single_write){ 0x40, 0, 4, { 1 } };
	assert_int_equal(vfio_client_call(client, VFIO_USER_REGION_WRITE_MULTI, &multi, sizeof(multi), NULL, 0), 0);
	assert_int_equal(fixture.fake.writes, 6 + VFIO_USER_WRITES_MAX);
}

/* Posted messages are never answered, not even with an error. */
static void test_posted(void **state)
{
	struct vfio_user_region_access bad = { 0, 9, 4 };

	vfio_client_send(client, VFIO_USER_REGION_WRITE, VFIO_USER_NO_REPLY, &bad, sizeof(bad), 0, NULL, 0);
	vfio_client_send(client, VFIO_USER_REGION_READ, VFIO_USER_NO_REPLY, &bad, sizeof(bad), 0, NULL, 0);
	vfio_client_send(client, 77, VFIO_USER_NO_REPLY, &bad, sizeof(bad), 0, NULL, 0);
	vfio_client_send(client, VFIO_USER_DEVICE_GET_REGION_INFO, VFIO_USER_NO_REPLY,
			 &(struct vfio_region_info){ .argsz = 64 }, 32, 0, NULL, 0);
	assert_int_equal(vfio_client_receive(client), VFIO_CLIENT_SILENT);
	assert_int_equal(fixture.connection.errors, 3);
	/* The file that the last one did not get is not sent with another reply. */
	assert_int_equal(region_info(2, 64), 0);
	assert_int_equal(client->reply.fd_count, 0);
}

/* ---- configuration space and reset ------------------------------------------------------------------------------- */

static void test_config(void **state)
{
	uint16_t command = 0x0406;
	uint32_t bar = UINT32_MAX, id = 0;

	assert_int_equal(vfio_client_read(client, CONFIG, 0, &id, 4), 0);
	assert_int_equal(id, 0x56781234);
	assert_int_equal(vfio_client_write32(client, CONFIG, 0x10, UINT32_MAX), 0);
	assert_int_equal(vfio_client_read(client, CONFIG, 0x10, &bar, 4), 0);
	assert_int_equal(bar & ~15U, ~(FAKE_PCI_BAR - 1));
	assert_int_equal(vfio_client_write(client, CONFIG, 4, &command, 2), 0);
	assert_int_equal(fixture.fake.commands, 1);
	assert_true(pci_config_bus_master(&fixture.fake.device.config));

	fixture.fake.registers[0x40] = 9;
	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), 0);
	assert_int_equal(client->reply.size, 0);
	assert_false(pci_config_bus_master(&fixture.fake.device.config));
	assert_int_equal(fixture.fake.registers[0x40], 0);
	assert_int_equal(fixture.fake.device.resets, 1);
}

/* Function level reset, by the guest's write to the device control register; also when the model takes its time. */
static void test_function_level_reset(void **state)
{
	uint8_t space[4096], at;
	uint16_t control = 0x8000, command = 4;

	assert_int_equal(vfio_client_read(client, CONFIG, 0, space, sizeof(space)), 0);
	for (at = space[0x34]; at && space[at] != 0x10; at = space[at + 1])
		;
	assert_int_not_equal(at, 0);
	for (unsigned i = 0; i < 2; i++) {
		fixture.fake.defer_reset = i;
		assert_int_equal(vfio_client_write(client, CONFIG, 4, &command, 2), 0);
		assert_int_equal(vfio_client_write(client, CONFIG, at + 8U, &control, 2), i ? VFIO_CLIENT_SILENT : 0);
		if (i) {
			fake_pci_device_finish(&fixture.fake);
			assert_int_equal(vfio_client_receive(client), 0);
		}
		fixture.fake.defer_reset = false;
		assert_int_equal(fixture.fake.resets, 2 + i);
		assert_false(pci_config_bus_master(&fixture.fake.device.config));
		assert_int_equal(vfio_client_read(client, CONFIG, 0, space, sizeof(space)), 0);
		assert_int_equal(space[at + 9] & 0x80, 0);
	}
}

static void test_deferred_reset(void **state)
{
	fixture.fake.defer_reset = true;
	assert_int_equal(vfio_client_call(client, VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0), VFIO_CLIENT_SILENT);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	assert_int_equal(fixture.fake.resets, 2);

	/* The one at the end, and that of the next connection. */
	vfio_client_stop(client);
	vfio_client_pump(client);
	assert_false(fixture.closed);
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(client);
	assert_true(fixture.closed);
	connect_client();
	assert_int_equal(vfio_client_version(client), VFIO_CLIENT_SILENT);
	fixture.fake.defer_reset = false;
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	assert_int_equal(fixture.fake.resets, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SESSION_TEST(test_access_bounds),
		SESSION_TEST(test_every_width),
		SESSION_TEST(test_deferred_write),
		SESSION_TEST(test_write_multi),
		SESSION_TEST(test_posted),
		SESSION_TEST(test_config),
		SESSION_TEST(test_function_level_reset),
		SESSION_TEST(test_deferred_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
