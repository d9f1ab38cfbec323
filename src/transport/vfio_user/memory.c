/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DMA_MAP and DMA_UNMAP: the guest's memory. Context and trust boundary: transport/vfio_user/connection.c.
 *
 * Theory of operation
 * -------------------
 * What the client maps is remembered exactly, since it can only be unmapped as it was mapped. Of these mappings some
 * can be translated, and make up the device's guest_memory: those with a file that may be read and written. The others
 * are memory that we cannot reach (no file: ROM of the machine, windows of this or another device) or must not write
 * to: for the device they are as absent as an address that nobody answers to.
 *
 * *Files.* A VMM maps one file in many pieces, and again and again: firmware switches shadow memory on and off, each
 * reboot maps everything anew. So each file, known by its device and inode, is mapped once and whole, and the mappings
 * are windows of that (memory/guest_memory.h). What no window is left of stays until the client's burst of changes is
 * over, and is let go then (vfio_user_memory_settle()): memory that was unplugged must not be kept. A file that has
 * grown past what is mapped of it is mapped once more, beside the old mapping, which goes with its windows; so is one
 * that had shrunk and damaged its mapping. A file that is larger than the quota allows is mapped in the pieces that are
 * asked for. The file's descriptor is kept beside its mapping, for the daemon after this one (handover.c).
 *
 * Every change makes a new map beside the old one; only when it is complete does it take its place. The device is
 * paused, so nobody else holds the old one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

/*
 * Where the configuration sets no quota. Files may be as large as they like without a byte in them, and address space
 * is everybody's: 2^47 bytes, so that it takes more than a hundred hostile clients to use it up.
 */
#define MEMORY_MAX_DEFAULT (1ULL << 40)

#define READ_WRITE (VFIO_USER_DMA_READABLE | VFIO_USER_DMA_WRITEABLE)

int vfio_user_memory_init(struct vfio_user_memory *memory)
{
	*memory = (struct vfio_user_memory){
		.maps = calloc(VFIO_USER_MAPS_MAX, sizeof(*memory->maps)),
		.map = guest_memory_create(),
	};
	return memory->maps && memory->map ? 0 : -ENOMEM;
}

/* Neither waits: it is memory (guest_mapping_create() has seen to that). */
static void release_file(struct vfio_user_file *file)
{
	guest_mapping_put(file->mapping);
	close(file->fd);
}

void vfio_user_memory_settle(struct vfio_user_memory *memory)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < memory->file_count; i++) {
		if (memory->files[i].mapping->references > 1)
			memory->files[kept++] = memory->files[i];
		else
			release_file(&memory->files[i]);
	}
	memory->file_count = kept;
}

void vfio_user_memory_release(struct vfio_user_memory *memory)
{
	guest_memory_free(memory->map);
	for (unsigned i = 0; i < memory->file_count; i++)
		release_file(&memory->files[i]);
	free(memory->maps);
	*memory = (struct vfio_user_memory){ 0 };
}

/* Index of the first mapping that ends after @address; map_count when there is none. */
static unsigned first_ending_after(const struct vfio_user_memory *memory, uint64_t address)
{
	unsigned low = 0, high = memory->map_count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		/* address + size does not wrap: checked when it was mapped. */
		if (memory->maps[middle].address + memory->maps[middle].size <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The mapping that is exactly this one. Return: NULL when there is none. */
static struct vfio_user_map *find_map(const struct vfio_user_memory *memory, uint64_t address, uint64_t size)
{
	unsigned index = first_ending_after(memory, address);

	if (index == memory->map_count || memory->maps[index].address != address || memory->maps[index].size != size)
		return NULL;
	return &memory->maps[index];
}

static void install(struct vfio_user_connection *connection, struct guest_memory *map)
{
	guest_memory_free(connection->memory.map);
	connection->memory.map = map;
	connection->device->memory = map;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static bool within_quota(const struct vfio_user_connection *connection, uint64_t more)
{
	const struct vfio_user_memory *memory = &connection->memory;
	uint64_t sum = more;

	for (unsigned i = 0; i < memory->file_count; i++) {
		if (!checked_add(sum, memory->files[i].mapping->size, &sum))
			return false;
	}
	return sum <= (connection->memory_max ? connection->memory_max : MEMORY_MAX_DEFAULT);
}

static int file_refuse(struct vfio_user_connection *connection, int error)
{
	switch (error) {
	case -EMEDIUMTYPE:
		return vfio_user_refuse(connection, error,
					"file that is not memory: it must be a memfd or in tmpfs or hugetlbfs");
	case -EINVAL:
		return vfio_user_refuse(connection, error, "mapping that is larger than its file");
	default:
		return error; /* named by errno: mmap's reasons are the host's */
	}
}

/* A mapping for [@offset, +@size) of a file that has none yet; whole, if that is allowed. */
static int map_file(struct vfio_user_connection *connection, int fd, const struct stat *status, uint64_t offset,
		    uint64_t size, struct guest_mapping **result)
{
	struct vfio_user_memory *memory = &connection->memory;
	uint64_t whole = (uint64_t)status->st_size;
	int error, own;

	/* What nothing is a window of makes room first. */
	if (memory->file_count == VFIO_USER_FILES_MAX || !within_quota(connection, whole))
		vfio_user_memory_settle(memory);
	if (memory->file_count == VFIO_USER_FILES_MAX)
		return vfio_user_refuse(connection, -ENOSPC, "memory in too many files");
	if (within_quota(connection, whole))
		error = guest_mapping_create(fd, 0, whole, result);
	else if (within_quota(connection, size))
		error = guest_mapping_create(fd, offset, size, result);
	else
		return vfio_user_refuse(connection, -EDQUOT, "more guest memory than this device may map");
	if (error)
		return file_refuse(connection, error);
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0) {
		error = -errno;
		guest_mapping_put(*result);
		return error;
	}
	memory->files[memory->file_count++] = (struct vfio_user_file){ .mapping = *result, .fd = own };
	return 0;
}

/* The region that @wanted is of its file. The files that it needed stay, also after a failure, until they are settled.
 */
static int make_region(struct vfio_user_connection *connection, const struct vfio_user_dma_map *wanted, int fd,
		       struct guest_region **region)
{
	struct vfio_user_memory *memory = &connection->memory;
	struct guest_mapping *mapping = NULL;
	struct stat status;
	uint64_t end;
	int error;

	/* Before any other look at it: fstat() itself may wait for ever in a file system that is not the kernel's own.
	 */
	if (!file_is_memory(fd))
		return file_refuse(connection, -EMEDIUMTYPE);
	if (fstat(fd, &status))
		return -errno;
	if (!checked_add(wanted->offset, wanted->size, &end) || status.st_size < 0 || end > (uint64_t)status.st_size)
		return file_refuse(connection, -EINVAL);
	for (unsigned i = 0; i < memory->file_count && !mapping; i++) {
		struct guest_mapping *file = memory->files[i].mapping;

		if (file->file_device == status.st_dev && file->file_inode == status.st_ino &&
		    range_inside(wanted->offset - file->file_offset, wanted->size, file->size) &&
		    !atomic_load_explicit(&file->damaged, memory_order_relaxed))
			mapping = file;
	}
	if (!mapping) {
		error = map_file(connection, fd, &status, wanted->offset, wanted->size, &mapping);
		if (error)
			return error;
	}
	return guest_region_window(mapping, wanted->offset, wanted->address, wanted->size, wanted->address, region);
}

/* ---- DMA_MAP ----------------------------------------------------------------------------------------------------- */

static bool translatable(const struct vfio_user_message *message)
{
	return message->fd_count && message->payload.map.flags == READ_WRITE;
}

bool vfio_user_map_needs_rest(const struct vfio_user_connection *connection, const struct vfio_user_message *message)
{
	return translatable(message);
}

static int check_map(struct vfio_user_connection *connection, const struct vfio_user_dma_map *wanted)
{
	const struct vfio_user_memory *memory = &connection->memory;
	uint64_t end;
	unsigned index;

	if (wanted->argsz < sizeof(*wanted))
		return vfio_user_refuse(connection, -EINVAL, "size that is too small");
	if (!wanted->flags || wanted->flags & ~READ_WRITE)
		return vfio_user_refuse(connection, -EINVAL, "flags other than readable and writeable, or none");
	if (!wanted->size || !checked_add(wanted->address, wanted->size, &end))
		return vfio_user_refuse(connection, -EINVAL, "mapping that is empty or wraps");
	if ((wanted->address | wanted->size | wanted->offset) & (VFIO_USER_PAGE_SIZE - 1))
		return vfio_user_refuse(connection, -EINVAL, "mapping that is not in whole pages");
	index = first_ending_after(memory, wanted->address);
	if (index < memory->map_count && memory->maps[index].address < end)
		return vfio_user_refuse(connection, -EEXIST, "mapping over one that is there");
	if (memory->map_count == VFIO_USER_MAPS_MAX)
		return vfio_user_refuse(connection, -ENOSPC, "too many mappings");
	return 0;
}

static int add_region(struct vfio_user_connection *connection, const struct vfio_user_dma_map *wanted, int fd)
{
	struct guest_region *region;
	struct guest_memory *next;
	int error = make_region(connection, wanted, fd, &region);

	if (error)
		return error;
	error = guest_memory_with(connection->memory.map, region, &next);
	guest_region_put(region); /* the map has its own reference */
	if (error == -ENOSPC)
		return vfio_user_refuse(connection, error, "too many memory regions");
	if (error)
		return error;
	install(connection, next);
	return 0;
}

int vfio_user_dma_map(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	const struct vfio_user_dma_map *wanted = &message->payload.map;
	struct vfio_user_memory *memory = &connection->memory;
	bool has_region = translatable(message);
	unsigned index;
	int error = check_map(connection, wanted);

	if (!error && has_region)
		error = add_region(connection, wanted, message->fds[0]);
	if (error)
		return error;
	index = first_ending_after(memory, wanted->address);
	memmove(&memory->maps[index + 1], &memory->maps[index], (memory->map_count - index) * sizeof(memory->maps[0]));
	memory->maps[index] =
		(struct vfio_user_map){ .address = wanted->address, .size = wanted->size, .translatable = has_region };
	memory->map_count++;
	/* Ranges that do not overlap: the sum is below 2^64. */
	memory->shared += wanted->size;
	memory->translatable += has_region ? wanted->size : 0;
	message->size = 0;
	return 0;
}

/* ---- DMA_UNMAP --------------------------------------------------------------------------------------------------- */

bool vfio_user_unmap_needs_rest(const struct vfio_user_connection *connection, const struct vfio_user_message *message)
{
	const struct vfio_user_dma_unmap *wanted = &message->payload.unmap;
	const struct vfio_user_map *map;

	if (wanted->flags == VFIO_DMA_UNMAP_FLAG_ALL)
		return connection->memory.translatable;
	map = find_map(&connection->memory, wanted->address, wanted->size);
	return map && map->translatable;
}

static int unmap_all(struct vfio_user_connection *connection)
{
	struct vfio_user_memory *memory = &connection->memory;
	struct guest_memory *next = guest_memory_create();

	if (!next)
		return -ENOMEM;
	install(connection, next);
	memory->map_count = 0;
	memory->shared = memory->translatable = 0;
	return 0;
}

static int unmap_one(struct vfio_user_connection *connection, const struct vfio_user_dma_unmap *wanted)
{
	struct vfio_user_memory *memory = &connection->memory;
	struct vfio_user_map *map = find_map(memory, wanted->address, wanted->size);
	struct guest_memory *next;
	int error;

	if (!map)
		return vfio_user_refuse(connection, -ENOENT, "there is no such mapping");
	if (map->translatable) {
		error = guest_memory_without(memory->map, wanted->address, wanted->address, wanted->size, &next);
		if (error)
			return error;
		install(connection, next);
		memory->translatable -= wanted->size;
	}
	memory->shared -= wanted->size;
	memory->map_count--;
	memmove(map, map + 1, (size_t)(&memory->maps[memory->map_count] - map) * sizeof(*map));
	return 0;
}

int vfio_user_dma_unmap(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	const struct vfio_user_dma_unmap *wanted = &message->payload.unmap;
	bool all = wanted->flags == VFIO_DMA_UNMAP_FLAG_ALL;

	if (wanted->argsz < sizeof(*wanted))
		return vfio_user_refuse(connection, -EINVAL, "no room for the answer");
	if (wanted->flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP)
		return vfio_user_refuse(connection, -EINVAL, "dirty pages are not recorded");
	if (wanted->flags && !all)
		return vfio_user_refuse(connection, -EINVAL, "unknown flags");
	if (message->size != sizeof(*wanted))
		return vfio_user_refuse(connection, -EINVAL, "payload has the wrong size");
	if (all && (wanted->address || wanted->size))
		return vfio_user_refuse(connection, -EINVAL, "all mappings, and one of them");
	/* The reply is the request. */
	return all ? unmap_all(connection) : unmap_one(connection, wanted);
}
