/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory and the dirty log. Every change makes a new map beside the old one; only when it is complete does it take its
 * place. All queues are stopped, so nobody else holds the old one. Context and trust boundary:
 * transport/vhost_user/connection.c.
 */
#include <errno.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "transport/vhost_user/connection.h"
#include "transport/vhost_user/handlers.h"

/*
 * Where the configuration sets no quota. Files may be as large as they like without a byte in them, and address space
 * is everybody's: 2^47 bytes, so that it takes more than a hundred hostile front-ends to use it up.
 */
#define MEMORY_MAX_DEFAULT (1ULL << 40)

#define NOT_MEMORY "file that is not memory: it must be a memfd or in tmpfs or hugetlbfs"

static int memory_refuse(struct vhost_user_connection *connection, int error)
{
	switch (error) {
	case -EINVAL:
		return vhost_user_refuse(connection, error,
					 "memory region that wraps, overlaps another or is larger than its file");
	case -EMEDIUMTYPE:
		return vhost_user_refuse(connection, error, NOT_MEMORY);
	case -ENOSPC:
		return vhost_user_refuse(connection, error, "too many memory regions");
	case -ENOENT:
		return vhost_user_refuse(connection, error, "there is no such memory region");
	default:
		return error; /* named by errno: mmap's reasons are the host's */
	}
}

static uint64_t size_of(const struct guest_memory *memory)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < memory->region_count; i++)
		size += memory->regions[i]->size; /* mapped, so the sum is below the address space's size */
	return size;
}

static bool within_quota(struct vhost_user_connection *connection, uint64_t size)
{
	return size <= (connection->memory_max ? connection->memory_max : MEMORY_MAX_DEFAULT);
}

/* Have @map take the place of the present one. */
static int install(struct vhost_user_connection *connection, struct guest_memory *map)
{
	uint64_t size = size_of(map);

	if (!within_quota(connection, size)) {
		guest_memory_free(map);
		return vhost_user_refuse(connection, -EDQUOT, "more guest memory than this device may map");
	}
	guest_memory_free(connection->memory);
	connection->memory = map;
	connection->memory_size = size;
	return 0;
}

/*
 * The very region that is wanted, mapped already: front-ends send the whole table again for a small change, and QEMU before
 * 8.0 adds and removes each region once for each queue pair of a network card.
 */
static struct guest_region *find_same(const struct guest_memory *memory, const struct vhost_user_region *wanted, int fd)
{
	struct stat status;

	if (!file_is_memory(fd) || fstat(fd, &status))
		return NULL;
	for (unsigned i = 0; i < memory->region_count; i++) {
		struct guest_region *region = memory->regions[i];

		if (region->guest_address == wanted->guest_address && region->size == wanted->size &&
		    region->user_address == wanted->user_address && region->file_offset == wanted->mmap_offset &&
		    region->mapping->file_device == status.st_dev && region->mapping->file_inode == status.st_ino &&
		    !guest_region_damaged(region))
			return region;
	}
	return NULL;
}

/* @map and one region more, in place of @map. On failure @map stays. */
static int add_region(struct vhost_user_connection *connection, struct guest_memory **map,
		      const struct vhost_user_region *wanted, int fd)
{
	struct guest_region *same = find_same(connection->memory, wanted, fd), *region = same;
	struct guest_memory *next;
	uint64_t size;
	int error;

	/* Before mapping: a table must not exhaust the address space first and be refused then. */
	if (!checked_add(size_of(*map), wanted->size, &size) || !within_quota(connection, size))
		return vhost_user_refuse(connection, -EDQUOT, "more guest memory than this device may map");
	if (!region) {
		error = guest_region_map(fd, wanted->mmap_offset, wanted->guest_address, wanted->size,
					 wanted->user_address, &region);
		if (error)
			return memory_refuse(connection, error);
	}
	error = guest_memory_with(*map, region, &next);
	if (!same)
		guest_region_put(region); /* the map has its own reference */
	if (error)
		return memory_refuse(connection, error);
	guest_memory_free(*map);
	*map = next;
	return 0;
}

int vhost_user_set_mem_table(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	const struct vhost_user_memory_table *table = &message->payload.table;
	uint32_t size = message->header.size, region_size = sizeof(table->regions[0]);
	struct guest_memory *map;

	if (table->count > VHOST_USER_TABLE_REGIONS_MAX)
		return vhost_user_refuse(connection, -EINVAL, "more than 8 memory regions in a table");
	/* Some front-ends send the regions that there are, others always 8. */
	if (size != 8 + table->count * region_size && size != sizeof(*table))
		return vhost_user_refuse(connection, -EINVAL, "payload has not the size of its memory regions");
	if (message->fd_count != table->count)
		return vhost_user_refuse(connection, -EINVAL, "not one file descriptor for each memory region");
	map = guest_memory_create();
	if (!map)
		return -ENOMEM;
	for (uint32_t i = 0; i < table->count; i++) {
		int error = add_region(connection, &map, &table->regions[i], message->fds[i]);

		if (error) {
			guest_memory_free(map);
			return error;
		}
	}
	return install(connection, map);
}

int vhost_user_get_max_mem_slots(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	message->payload.u64 = GUEST_MEMORY_REGIONS_MAX;
	message->header.size = sizeof(message->payload.u64);
	return 0;
}

int vhost_user_add_mem_reg(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	const struct vhost_user_region *wanted = &message->payload.region.region;
	struct guest_region *region;
	struct guest_memory *map;
	uint64_t size;
	int error;

	if (find_same(connection->memory, wanted, message->fds[0]))
		return 0;
	if (!checked_add(connection->memory_size, wanted->size, &size) || !within_quota(connection, size))
		return vhost_user_refuse(connection, -EDQUOT, "more guest memory than this device may map");
	error = guest_region_map(message->fds[0], wanted->mmap_offset, wanted->guest_address, wanted->size,
				 wanted->user_address, &region);
	if (error)
		return memory_refuse(connection, error);
	error = guest_memory_with(connection->memory, region, &map);
	guest_region_put(region);
	if (error)
		return memory_refuse(connection, error);
	return install(connection, map);
}

int vhost_user_rem_mem_reg(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	const struct vhost_user_region *wanted = &message->payload.region.region;
	struct guest_memory *map;
	int error;

	/* Removed already, for another queue pair. What lies there with another size or user address is a mistake. */
	if (!guest_memory_find(connection->memory, wanted->guest_address))
		return 0;
	error = guest_memory_without(connection->memory, wanted->guest_address, wanted->user_address, wanted->size,
				     &map);
	if (error)
		return memory_refuse(connection, error);
	return install(connection, map);
}

static void release_log(struct vhost_user_connection *connection)
{
	if (!connection->log)
		return;
	connection->log_missed += dirty_log_missed(connection->log);
	dirty_log_unmap(connection->log);
	connection->log = NULL;
}

int vhost_user_set_log_base(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	struct dirty_log *log;
	int error;

	if (!within_quota(connection, message->payload.log.size))
		return vhost_user_refuse(connection, -EDQUOT, "dirty log larger than the memory that this device may map");
	error = dirty_log_map(message->fds[0], message->payload.log.size, message->payload.log.offset, &log);
	if (error)
		return vhost_user_refuse(connection, error,
					 error == -EMEDIUMTYPE
						 ? NOT_MEMORY
						 : "dirty log that is empty, wraps or is larger than its file");
	release_log(connection);
	connection->log = log;
	/* Front-ends wait for a reply of any payload. */
	message->payload.u64 = 0;
	message->header.size = sizeof(message->payload.u64);
	return 0;
}

int vhost_user_set_log_fd(struct vhost_user_connection *connection, struct vhost_user_message *message)
{
	return 0; /* to be told of changes is optional ("Migration"), and no front-end listens: the fd is closed */
}

void vhost_user_memory_release(struct vhost_user_connection *connection)
{
	guest_memory_free(connection->memory);
	connection->memory = NULL;
	connection->memory_size = 0;
	release_log(connection);
}
