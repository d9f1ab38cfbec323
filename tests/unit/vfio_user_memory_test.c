/* SPDX-License-Identifier: BSD-3-Clause */
/* DMA_MAP and DMA_UNMAP: what is remembered, what can be translated, and the device's rest meanwhile. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "vfio_user_fixture.h"

#define MIB 0x100000ULL
#define RW  (VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE)

static int make_file(uint64_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* Mappings of guest memory in this process. */
static unsigned mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned count = 0;

	while (fgets(line, sizeof(line), maps))
		count += !!strstr(line, "/memfd:guest");
	fclose(maps);
	return count;
}

/* What the device reads at @address; -1: nothing is there. */
static int byte_at(uint64_t address)
{
	const struct guest_region *hint = NULL;
	uint64_t available;
	guest_byte *at = guest_memory_translate(fixture.fake.device.memory, &hint, address, 1, &available);
	uint8_t byte;

	if (!at)
		return -1;
	guest_read(&byte, at, 1);
	return byte;
}

static void put_byte(int fd, uint64_t offset, uint8_t byte)
{
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

static void test_map_and_unmap(void **state)
{
	int fd = make_file(4 * MIB);

	put_byte(fd, 0, 1);
	put_byte(fd, 2 * MIB, 2);
	assert_int_equal(byte_at(0), -1);
	assert_int_equal(vfio_client_map(client, 0, MIB, 2 * MIB, RW, fd), 0);
	assert_int_equal(client->reply.size, 0);
	assert_int_equal(byte_at(0), 2);
	assert_int_equal(vfio_client_map(client, 8 * MIB, 2 * MIB, 0, RW, fd), 0);
	assert_int_equal(byte_at(8 * MIB), 1);
	assert_int_equal(byte_at(10 * MIB), -1);
	assert_ptr_equal(fixture.fake.memory, fixture.fake.device.memory);
	assert_int_equal(mappings(), 1); /* one file, one mapping */

	/* Only what was mapped. */
	assert_int_equal(vfio_client_unmap(client, 8 * MIB, MIB), ENOENT);
	assert_int_equal(vfio_client_unmap(client, 9 * MIB, MIB), ENOENT);
	assert_int_equal(vfio_client_unmap(client, 0, 10 * MIB), ENOENT);
	assert_int_equal(vfio_client_unmap(client, 5 * MIB, MIB), ENOENT);
	assert_int_equal(vfio_client_unmap(client, 0, MIB), 0);
	assert_int_equal(client->reply.size, 24);
	assert_int_equal(client->reply.payload.unmap.address, 0);
	assert_int_equal(client->reply.payload.unmap.size, MIB);
	assert_int_equal(byte_at(0), -1);
	assert_int_equal(vfio_client_unmap(client, 0, MIB), ENOENT);
	assert_int_equal(byte_at(8 * MIB), 1);
	close(fd);
	end_session();
	assert_int_equal(mappings(), 0);
}

static void test_bad_maps(void **state)
{
	static const struct {
		uint64_t address, size, offset;
		uint32_t flags;
		int result;
	} cases[] = {
		/* 0 */ { 0, 0, 0, RW, EINVAL },
		/* 1 */ { 0, 5 * MIB, 0, RW, EINVAL }, /* larger than the file */
		/* 2 */ { 0, MIB, 4 * MIB, RW, EINVAL },
		/* 3 */ { 0, MIB, UINT64_MAX & ~4095ULL, RW, EINVAL },
		/* 4 */ { UINT64_MAX & ~4095ULL, 8192, 0, RW, EINVAL },
		/* 5 */ { 0, UINT64_MAX & ~4095ULL, 0, RW, EEXIST },
		/* 6 */ { 1, 4096, 0, RW, EINVAL },
		/* 7 */ { 0, 4097, 0, RW, EINVAL },
		/* 8 */ { 0, 4096, 512, RW, EINVAL },
		/* 9 */ { 0, 4096, 0, 0, EINVAL },
		/* 10 */ { 0, 4096, 0, RW | 4, EINVAL },
		/* 11 */ { 16 * MIB, MIB, 0, RW, EEXIST },
		/* 12 */ { 15 * MIB, 2 * MIB, 0, RW, EEXIST },
		/* 13 */ { 15 * MIB, 4 * MIB, 0, RW, EEXIST },
		/* 14 */ { 16 * MIB + 4096, 4096, 0, RW, EEXIST },
		/* 15 */ { 20 * MIB, 4096, 0, RW, EEXIST }, /* over one without a file */
		/* 16 */ { 15 * MIB, MIB, 0, RW, 0 },	    /* before it: no overlap */
		/* 17 */ { 17 * MIB, 3 * MIB, 0, RW, 0 },   /* between them */
	};
	struct vfio_user_dma_map small = { .argsz = 31, .flags = RW, .size = 4096 };
	int fd = make_file(4 * MIB), other = open("/proc/self/status", O_RDONLY | O_CLOEXEC), sealed;

	assert_int_equal(vfio_client_map(client, 16 * MIB, MIB, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, 20 * MIB, MIB, 0, RW, -1), 0);
	for (size_t i = 0; i < array_size(cases); i++) {
		int result =
			vfio_client_map(client, cases[i].address, cases[i].size, cases[i].offset, cases[i].flags, fd);

		if (result != cases[i].result)
			fail_msg("case %zu: %d", i, result);
	}
	assert_int_equal(vfio_client_call(client, VFIO_USER_DMA_MAP, &small, sizeof(small), &fd, 1), EINVAL);
	/* Files that are not memory, or that cannot be written. */
	assert_int_equal(vfio_client_map(client, 0, 4096, 0, RW, other), EMEDIUMTYPE);
	close(other);
	sealed = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(sealed, 4096), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
	assert_int_equal(vfio_client_map(client, 0, 4096, 0, RW, sealed), EPERM);
	close(sealed);
	assert_false(fixture.fake.resting);
	assert_int_equal(fixture.connection.memory.map_count, 4);
	close(fd);
}

static int unmap_with(uint32_t argsz, uint32_t flags, uint64_t address, uint64_t size, uint32_t length)
{
	struct {
		struct vfio_user_dma_unmap unmap;
		uint64_t bitmap[2];
	} wire = { { argsz, flags, address, size }, { 4096, 64 } };

	return vfio_client_call(client, VFIO_USER_DMA_UNMAP, &wire, length, NULL, 0);
}

static void test_unmap_flags(void **state)
{
	int fd = make_file(4 * MIB);

	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(vfio_client_map(client, i * MIB, MIB, i * MIB, RW, i == 1 ? -1 : fd), 0);
	assert_int_equal(unmap_with(24, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, 0, MIB, 24), EINVAL);
	assert_int_equal(unmap_with(104, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, 0, MIB, 40), EINVAL);
	assert_int_equal(unmap_with(24, 0, 0, MIB, 40), EINVAL);
	assert_int_equal(unmap_with(24, 4, 0, MIB, 24), EINVAL);
	assert_int_equal(unmap_with(23, 0, 0, MIB, 24), EINVAL);
	assert_int_equal(unmap_with(24, VFIO_DMA_UNMAP_FLAG_ALL, 0, MIB, 24), EINVAL);
	assert_int_equal(byte_at(0), 0);
	assert_int_equal(unmap_with(24, VFIO_DMA_UNMAP_FLAG_ALL, 0, 0, 24), 0);
	assert_int_equal(byte_at(0), -1);
	assert_int_equal(byte_at(2 * MIB), -1);
	assert_int_equal(fixture.connection.memory.map_count, 0);
	/* And once more, of nothing. */
	assert_int_equal(unmap_with(24, VFIO_DMA_UNMAP_FLAG_ALL, 0, 0, 24), 0);
	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, fd), 0);
	close(fd);
}

/* Without a file, or not for reading and writing: remembered, and nothing is there for the device. */
static void test_untranslatable(void **state)
{
	static const struct {
		uint32_t flags;
		bool file;
	} cases[] = { { RW, false },
		      { VFIO_USER_DMA_READABLE, false },
		      { VFIO_USER_DMA_READABLE, true },
		      { VFIO_USER_DMA_WRITEABLE, true } };
	int fd = make_file(MIB);
	unsigned before = open_fds();

	for (uint64_t i = 0; i < array_size(cases); i++) {
		assert_int_equal(vfio_client_map(client, i * MIB, MIB, 0, cases[i].flags, cases[i].file ? fd : -1), 0);
		assert_int_equal(byte_at(i * MIB), -1);
		assert_int_equal(vfio_client_map(client, i * MIB, MIB, 0, RW, fd), EEXIST);
	}
	assert_int_equal(fixture.fake.pauses, 4); /* for those that were refused */
	assert_true(settles(before));
	for (uint64_t i = 0; i < array_size(cases); i++)
		assert_int_equal(vfio_client_unmap(client, i * MIB, MIB), 0);
	assert_int_equal(fixture.fake.pauses, 4);
	assert_int_equal(mappings(), 0);
	close(fd);
}

/* The file behind the memory changes its size. */
static void test_file_grows_and_shrinks(void **state)
{
	int fd = make_file(MIB);

	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, MIB, MIB, MIB, RW, fd), EINVAL);
	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	assert_int_equal(vfio_client_map(client, MIB, MIB, MIB, RW, fd), 0);
	put_byte(fd, MIB, 7);
	assert_int_equal(byte_at(MIB), 7);
	assert_int_equal(mappings(), 2);
	/* A new window of what both contain: the old mapping is used as long as it lives. */
	assert_int_equal(vfio_client_unmap(client, 0, MIB), 0);
	vfio_client_read(client, 2, 0, &(uint32_t){ 0 }, 4); /* the burst is over */
	assert_int_equal(mappings(), 1);

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(byte_at(MIB), 0);
	assert_true(guest_memory_damaged(fixture.fake.device.memory));
	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	put_byte(fd, 0, 9);
	assert_int_equal(vfio_client_map(client, 4 * MIB, MIB, 0, RW, fd), 0);
	assert_int_equal(byte_at(4 * MIB), 9); /* of a mapping that is not damaged */
	close(fd);
}

static void test_quota(void **state)
{
	int small = make_file(MIB), large = make_file(64 * MIB), other = make_file(2 * MIB);

	fixture.connection.memory_max = 4 * MIB;
	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, small), 0);
	assert_int_equal(vfio_client_map(client, MIB, 2 * MIB, 32 * MIB, RW, large), 0); /* only this piece */
	put_byte(large, 33 * MIB, 3);
	assert_int_equal(byte_at(2 * MIB), 3);
	assert_int_equal(vfio_client_map(client, 4 * MIB, 2 * MIB, 0, RW, large), EDQUOT);
	assert_int_equal(vfio_client_map(client, 4 * MIB, 2 * MIB, 0, RW, other), EDQUOT);
	assert_int_equal(vfio_client_map(client, 4 * MIB, MIB, MIB, RW, other), 0);
	assert_int_equal(fixture.connection.memory.translatable, 4 * MIB);
	/* What nothing is a window of makes room within the same burst. */
	assert_int_equal(vfio_client_unmap(client, MIB, 2 * MIB), 0);
	assert_int_equal(vfio_client_map(client, MIB, 2 * MIB, 0, RW, large), 0);
	close(small);
	close(large);
	close(other);
}

static void test_limits(void **state)
{
	int fd = make_file(MIB), files[VFIO_USER_FILES_MAX + 1];

	for (uint64_t i = 0; i < GUEST_MEMORY_REGIONS_MAX; i++)
		assert_int_equal(vfio_client_map(client, i * MIB, 4096, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, 1ULL << 40, 4096, 0, RW, fd), ENOSPC);
	for (uint64_t i = GUEST_MEMORY_REGIONS_MAX; i < VFIO_USER_MAPS_MAX; i++)
		assert_int_equal(vfio_client_map(client, i * MIB, 4096, 0, RW, -1), 0);
	assert_int_equal(vfio_client_map(client, 1ULL << 40, 4096, 0, RW, -1), ENOSPC);
	/* Backwards, forwards and from the middle: all are found. */
	for (uint64_t i = 0; i < VFIO_USER_MAPS_MAX; i++) {
		uint64_t index = i * 389 % VFIO_USER_MAPS_MAX;

		assert_int_equal(vfio_client_unmap(client, index * MIB, 4096), 0);
	}
	assert_int_equal(fixture.connection.memory.map_count, 0);
	assert_int_equal(fixture.connection.memory.shared, 0);

	for (unsigned i = 0; i < array_size(files); i++) {
		files[i] = make_file(4096);
		assert_int_equal(vfio_client_map(client, i * MIB, 4096, 0, RW, files[i]),
				 i < VFIO_USER_FILES_MAX ? 0 : ENOSPC);
		close(files[i]);
	}
	close(fd);
}

/* ---- rest -------------------------------------------------------------------------------------------------------- */

/* The answer comes when the device is at rest and has the new memory, and no earlier. */
static void test_pause_is_waited_for(void **state)
{
	const struct guest_memory *before = fixture.fake.device.memory;
	int fd = make_file(MIB);

	fixture.fake.defer_pause = true;
	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, fd), VFIO_CLIENT_SILENT);
	assert_ptr_equal(fixture.fake.device.memory, before);
	fake_pci_device_finish(&fixture.fake);
	assert_int_equal(vfio_client_receive(client), 0);
	assert_false(fixture.fake.resting);
	assert_int_equal(byte_at(0), 0);

	/* A client that goes meanwhile takes its memory with it, but not before the device is at rest. */
	assert_int_equal(vfio_client_unmap(client, 0, MIB), VFIO_CLIENT_SILENT);
	vfio_user_connection_close(&fixture.connection, "gone");
	vfio_client_pump(client);
	assert_false(fixture.closed);
	assert_int_equal(byte_at(0), 0);
	fake_pci_device_finish(&fixture.fake);
	vfio_client_pump(client);
	assert_true(fixture.closed);
	close(fd);
}

/* Memory is taken away and given back in other pieces: the device does not see the gap. */
static void test_burst(void **state)
{
	int fd = make_file(4 * MIB);
	unsigned resumes, base;

	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, MIB, 3 * MIB, MIB, RW, fd), 0);
	resumes = fixture.fake.resumes;
	base = mappings();
	assert_int_equal(vfio_client_unmap(client, 0, MIB), 0);
	assert_true(fixture.fake.resting);
	assert_int_equal(byte_at(0), -1);
	assert_int_equal(vfio_client_unmap(client, MIB, 3 * MIB), 0);
	assert_int_equal(mappings(), base); /* the file stays mapped: it comes back */
	assert_int_equal(vfio_client_map(client, 0, 2 * MIB, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, 2 * MIB, MIB, 2 * MIB, VFIO_USER_DMA_READABLE, -1), 0); /* now ROM */
	assert_true(fixture.fake.resting);
	assert_int_equal(vfio_client_map(client, 3 * MIB, MIB, 3 * MIB, RW, fd), 0);
	assert_false(fixture.fake.resting);
	assert_int_equal(fixture.fake.resumes, resumes + 1);
	assert_int_equal(mappings(), base);
	close(fd);
}

/* Memory that does not come back: another message, or time, ends the wait; the file is let go. */
static void test_unplugged(void **state)
{
	struct timespec nap = { .tv_nsec = 20000000 };
	int fd = make_file(4 * MIB), other = make_file(MIB);
	uint32_t value;

	assert_int_equal(vfio_client_map(client, 0, MIB, 0, RW, fd), 0);
	assert_int_equal(vfio_client_map(client, MIB, MIB, 0, RW, other), 0);
	assert_int_equal(vfio_client_unmap(client, MIB, MIB), 0);
	assert_true(fixture.fake.resting);
	assert_int_equal(mappings(), 2);
	assert_int_equal(vfio_client_read(client, 2, 0, &value, 4), 0);
	assert_false(fixture.fake.resting);
	assert_int_equal(mappings(), 1);

	assert_int_equal(vfio_client_unmap(client, 0, MIB), 0);
	assert_true(fixture.fake.resting);
	for (unsigned i = 0; i < 100 && fixture.fake.resting; i++) { /* at most 2 s for a tenth of one */
		nanosleep(&nap, NULL);
		vfio_client_pump(client);
	}
	assert_false(fixture.fake.resting);
	assert_int_equal(mappings(), 0);
	close(fd);
	close(other);
}

/* What firmware and reboots do, ten thousand times: nothing grows. */
static void test_repetition(void **state)
{
	int fd = make_file(4 * MIB);
	unsigned files, count;

	assert_int_equal(vfio_client_map(client, 0, 4 * MIB, 0, RW, fd), 0);
	files = open_fds();
	count = mappings();
	for (unsigned i = 0; i < 10000; i++) {
		assert_int_equal(vfio_client_unmap(client, 0, 4 * MIB), 0);
		if (i % 3 == 0)
			assert_int_equal(vfio_client_map(client, 0, 4 * MIB, MIB, RW, fd), EINVAL);
		assert_int_equal(vfio_client_map(client, 0, 4 * MIB, 0, RW, fd), 0);
	}
	assert_true(settles(files));
	assert_int_equal(mappings(), count);
	assert_int_equal(fixture.connection.memory.file_count, 1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SESSION_TEST(test_map_and_unmap),
		SESSION_TEST(test_bad_maps),
		SESSION_TEST(test_unmap_flags),
		SESSION_TEST(test_untranslatable),
		SESSION_TEST(test_file_grows_and_shrinks),
		SESSION_TEST(test_quota),
		SESSION_TEST(test_limits),
		SESSION_TEST(test_pause_is_waited_for),
		SESSION_TEST(test_burst),
		SESSION_TEST(test_unplugged),
		SESSION_TEST(test_repetition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
