/* SPDX-License-Identifier: BSD-3-Clause */
/* A session that goes from one connection to another, as from one daemon to the next: at whatever point it is. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/parcel.h"
#include "vfio_user_fixture.h"

#define PAGE  4096U
#define SCRAP 0x40U /* a register that is memory */

/* The other daemon's. */
static struct {
	struct fake_pci_device fake;
	struct vfio_user_connection connection;
	struct disposal *disposal;
	bool closed;
} next;

static void note_next_closed(struct vfio_user_connection *connection)
{
	next.closed = true;
}

static int set_up_two(void **state)
{
	set_up_session(state);
	memset(&next, 0, sizeof(next));
	next.disposal = disposal_create();
	fake_pci_device_init(&next.fake, fake_engine_get());
	assert_int_equal(vfio_user_connection_init(&next.connection, &next.fake.device, fixture.base), 0);
	next.connection.closed = note_next_closed;
	return 0;
}

static int tear_down_two(void **state)
{
	vfio_client_stop(&fixture.client);
	vfio_client_pump(&fixture.client);
	assert_int_equal(next.connection.state, CONNECTION_CLOSED);
	assert_true(next.fake.resting);
	vfio_user_connection_release(&next.connection);
	fake_pci_device_release(&next.fake);
	disposal_destroy(next.disposal);
	return tear_down(state);
}

#define HANDOVER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_two, tear_down_two)

static void hand_over(void)
{
	vfio_user_connection_hand_over(&fixture.connection);
	vfio_client_pump(&fixture.client);
}

/* Return: 0, or why it was refused. */
static int adopt(void)
{
	struct parcel parcel = { 0 };
	int error;

	assert_true(fixture.closed);
	assert_true(fixture.connection.parcel >= 0);
	assert_int_equal(parcel_open(&parcel, fixture.connection.parcel), 0);
	close(fixture.connection.parcel);
	assert_string_equal(parcel.kind, "fake");
	assert_string_equal(parcel.name, "fake");
	error = vfio_user_connection_adopt(&next.connection, &parcel);
	parcel_release(&parcel, next.disposal);
	return error;
}

static uint32_t load(uint64_t offset)
{
	uint32_t value = 0;

	assert_int_equal(vfio_client_read(&fixture.client, 0, offset, &value, 4), 0);
	return value;
}

static int memory_file(uint64_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

#define READ_WRITE (VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE)

static void test_everything_follows(void **state)
{
	int memory = memory_file(4 * PAGE), vectors[2];
	const struct guest_memory *map;

	for (unsigned i = 0; i < 2; i++)
		vectors[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(vfio_client_map(&fixture.client, 0, PAGE, 2 * PAGE, READ_WRITE, memory), 0);
	assert_int_equal(vfio_client_map(&fixture.client, 4 * PAGE, 2 * PAGE, 0, READ_WRITE, memory), 0);
	assert_int_equal(vfio_client_map(&fixture.client, 16 * PAGE, PAGE, 0, VFIO_USER_DMA_READABLE, -1), 0);
	assert_int_equal(vfio_client_irqs(&fixture.client, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 2,
					  1, 2, NULL, vectors, 2),
			 0);
	vfio_client_write32(&fixture.client, 0, SCRAP, 0x12345678);
	vfio_client_write32(&fixture.client, 0, FAKE_PCI_WINDOW + 8, 0x9abcdef0);
	vfio_client_write32(&fixture.client, VFIO_PCI_CONFIG_REGION_INDEX, 0x10, 0xfebc0000);

	hand_over();
	assert_int_equal(adopt(), 0);
	assert_true(next.fake.resting); /* until the event loop turns */
	vfio_client_pump(&fixture.client);
	assert_false(next.fake.resting);

	assert_int_equal(load(SCRAP), 0x12345678);
	assert_int_equal(load(FAKE_PCI_WINDOW + 8), 0x9abcdef0);
	map = next.fake.device.memory;
	assert_int_equal(map->region_count, 2);
	assert_int_equal(map->regions[0]->file_offset, 2 * PAGE);
	assert_ptr_equal(map->regions[0]->mapping, map->regions[1]->mapping);
	assert_int_equal(next.connection.memory.map_count, 3);
	vfio_client_write32(&fixture.client, 0, FAKE_PCI_RAISE, 1U << 2);
	assert_int_equal(eventfd_read(vectors[1], &(eventfd_t){ 0 }), 0);
	assert_int_equal(vfio_client_unmap(&fixture.client, 16 * PAGE, PAGE), 0);
	/* What the daemon before still does, it does elsewhere. */
	pci_window_store(&fixture.fake.device.bars[0], FAKE_PCI_WINDOW + 8, 1);
	assert_int_equal(load(FAKE_PCI_WINDOW + 8), 0x9abcdef0);
	for (unsigned i = 0; i < 2; i++)
		close(vectors[i]);
	close(memory);
}

/* A message that came half, with a file. */
static void test_bytes_that_were_read(void **state)
{
	struct vfio_user_irq_set set = { sizeof(set), VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, 2, 0,
					 1 };
	struct vfio_user_header header = { fixture.client.next_id, VFIO_USER_DEVICE_SET_IRQS,
					   sizeof(header) + sizeof(set), 0, 0 };
	int vector = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	vfio_client_raw(&fixture.client, &header, sizeof(header), &vector, 1);
	vfio_client_raw(&fixture.client, &set, 7, NULL, 0);
	vfio_client_pump(&fixture.client);
	assert_int_equal(fixture.connection.held_count, 1);
	hand_over();
	assert_int_equal(adopt(), 0);
	vfio_client_raw(&fixture.client, (uint8_t *)&set + 7, sizeof(set) - 7, NULL, 0);
	vfio_client_pump(&fixture.client);
	assert_int_equal(vfio_client_receive(&fixture.client), 0);
	vfio_client_write32(&fixture.client, 0, FAKE_PCI_RAISE, 1);
	assert_int_equal(eventfd_read(vector, &(eventfd_t){ 0 }), 0);
	close(vector);
}

/* The device waits for memory that was taken away: so does the next one. */
static void test_memory_that_comes_back(void **state)
{
	int memory = memory_file(2 * PAGE);

	assert_int_equal(vfio_client_map(&fixture.client, 0, 2 * PAGE, 0, READ_WRITE, memory), 0);
	assert_int_equal(vfio_client_unmap(&fixture.client, 0, 2 * PAGE), 0);
	assert_true(fixture.fake.resting);
	hand_over();
	assert_int_equal(adopt(), 0);
	vfio_client_pump(&fixture.client);
	assert_true(next.fake.resting);
	assert_int_equal(vfio_client_map(&fixture.client, 0, PAGE, 0, READ_WRITE, memory), 0);
	assert_true(next.fake.resting);
	assert_int_equal(vfio_client_map(&fixture.client, PAGE, PAGE, PAGE, READ_WRITE, memory), 0);
	assert_false(next.fake.resting);
	assert_int_equal(next.fake.resumes, 1);
	close(memory);
}

/* A message is being handled: it is answered first, by the daemon that began it. */
static void test_message_under_way(void **state)
{
	struct {
		struct vfio_user_region_access access;
		uint32_t value;
	} __attribute__((packed)) write = { { FAKE_PCI_DEFER, 0, 4 }, 5 };

	vfio_client_send(&fixture.client, VFIO_USER_REGION_WRITE, 0, &write, sizeof(write), 0, NULL, 0);
	vfio_client_pump(&fixture.client);
	assert_true(fixture.fake.waiting);
	hand_over();
	assert_false(fixture.closed);
	assert_int_equal(fixture.fake.pauses, 0);
	fixture.fake.defer_pause = true;
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(&fixture.client);
	assert_int_equal(vfio_client_receive(&fixture.client), 0);
	/* Then the device takes its time to come to rest, and what comes meanwhile stays in the socket. */
	assert_true(fixture.fake.waiting);
	write.access.offset = SCRAP;
	vfio_client_send(&fixture.client, VFIO_USER_REGION_WRITE, 0, &write, sizeof(write), 0, NULL, 0);
	vfio_client_pump(&fixture.client);
	assert_int_equal(fixture.fake.writes, 1);
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(&fixture.client);
	assert_int_equal(adopt(), 0);
	vfio_client_pump(&fixture.client);
	assert_int_equal(vfio_client_receive(&fixture.client), 0);
	assert_int_equal(next.fake.writes, 1);
	assert_int_equal(load(FAKE_PCI_DEFER), 5);
	assert_int_equal(load(SCRAP), 5);
}

/* The session ends while it is being handed over: nothing is left. */
static void test_client_goes(void **state)
{
	fixture.fake.defer_pause = true;
	hand_over();
	assert_true(fixture.fake.waiting);
	vfio_user_connection_close(&fixture.connection, "for the test");
	fixture.fake.defer_pause = false;
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(&fixture.client);
	assert_true(fixture.closed);
	assert_int_equal(fixture.connection.parcel, -1);
	assert_int_equal(vfio_client_receive(&fixture.client), VFIO_CLIENT_CLOSED);
}

/* Another device has the name: its client is let go, and the device is as after a reset. */
static void test_other_device(void **state)
{
	next.fake.device.config.space[2] ^= 1;
	vfio_client_write32(&fixture.client, 0, SCRAP, 0x12345678);
	hand_over();
	assert_int_equal(adopt(), -EBADMSG);
	vfio_client_pump(&fixture.client);
	assert_true(next.closed);
	assert_int_equal(next.fake.resets, 1);
	assert_int_equal(next.fake.registers[SCRAP], 0);
	assert_int_equal(vfio_client_receive(&fixture.client), VFIO_CLIENT_CLOSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		HANDOVER_TEST(test_everything_follows),
		HANDOVER_TEST(test_bytes_that_were_read),
		HANDOVER_TEST(test_memory_that_comes_back),
		HANDOVER_TEST(test_message_under_way),
		HANDOVER_TEST(test_client_goes),
		HANDOVER_TEST(test_other_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
