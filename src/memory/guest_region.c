/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest regions and the mappings of files that they are windows of. Theory of operation: memory/guest_memory.h.
 *
 * The whole of guard + file + guard is first reserved without access and the file then mapped into its middle, aligned to
 * 2 MiB relative to the file, so that transparent huge pages can be used. A stray access of ours past a mapping's end
 * faults instead of reaching a neighbour guest's memory; between the windows of one mapping lies nothing but the same
 * guest's memory.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/file_kind.h"
#include "memory/guest_memory.h"
#include "memory/shrink_guard.h"

#define HUGE_PAGE  (2UL << 20)
#define GUARD_SIZE HUGE_PAGE

/* Page size that the file's mappings must be aligned to. */
static int file_page_size(int fd, uint64_t *page)
{
	struct statfs file_system;

	if (fstatfs(fd, &file_system) < 0)
		return -errno;
	*page = file_system.f_type == HUGETLBFS_MAGIC ? (uint64_t)file_system.f_bsize : 4096;
	return 0;
}

struct placement {
	uint64_t file_start;  /* mapped from here, aligned down */
	uint64_t file_length; /* mapped bytes, aligned up */
	uint64_t alignment;
};

/* All sums of what the client claims about its file, checked in one place. */
static int place(const struct stat *status, uint64_t page, uint64_t offset, uint64_t size, struct placement *placement)
{
	uint64_t end, lead, length;

	if (!size || !checked_add(offset, size, &end) || end > INT64_MAX ||
	    (S_ISREG(status->st_mode) && end > (uint64_t)status->st_size))
		return -EINVAL;

	lead = offset & (page - 1);
	length = lead + size;
	if (!checked_add(length, page - 1, &length))
		return -EINVAL;
	placement->file_start = offset - lead;
	placement->file_length = length & ~(page - 1);
	placement->alignment = max(page, HUGE_PAGE);
	return 0;
}

/* Reserve, then map. On success mapping->reserved, reserved_size and host are set. */
static int map_between_guards(int fd, const struct placement *placement, struct guest_mapping *mapping)
{
	uint64_t reserve;
	uintptr_t start;
	void *file;
	int error;

	if (!checked_add(placement->file_length, 2 * GUARD_SIZE + 2 * placement->alignment, &reserve))
		return -EINVAL;
	mapping->reserved = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mapping->reserved == MAP_FAILED)
		return -errno;
	mapping->reserved_size = reserve;

	/* The same offset from an alignment boundary in the file and in memory: congruent, as huge pages want it. */
	start = (uintptr_t)mapping->reserved + GUARD_SIZE + placement->alignment - 1;
	start &= ~(placement->alignment - 1);
	start += placement->file_start & (placement->alignment - 1);
	file = mmap((void *)start, placement->file_length, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, (off_t)placement->file_start);
	if (file == MAP_FAILED) {
		error = -errno;
		goto unmap;
	}
	/* A guest's secrets do not belong into our core files. */
	madvise(file, placement->file_length, MADV_DONTDUMP);
	error = shrink_guard_add(file, placement->file_length, &mapping->damaged);
	if (error)
		goto unmap;
	mapping->host = guest_bytes_of(file);
	return 0;

unmap:
	munmap(mapping->reserved, mapping->reserved_size);
	return error;
}

int guest_mapping_create(int fd, uint64_t offset, uint64_t size, struct guest_mapping **result)
{
	struct guest_mapping *mapping;
	struct placement placement;
	struct stat status;
	uint64_t page = 4096;
	int error;

	/* Before any other look at it: fstat() itself may wait for ever in a file system that is not the kernel's own.
	 */
	if (!file_is_memory(fd))
		return -EMEDIUMTYPE;
	if (fstat(fd, &status) < 0)
		return -errno;
	error = file_page_size(fd, &page);
	if (error)
		return error;
	error = place(&status, page, offset, size, &placement);
	if (error)
		return error;

	mapping = calloc(1, sizeof(*mapping));
	if (!mapping)
		return -ENOMEM;
	*mapping = (struct guest_mapping){
		.file_device = status.st_dev,
		.file_inode = status.st_ino,
		.file_offset = placement.file_start,
		.size = placement.file_length,
		.references = 1,
	};
	error = map_between_guards(fd, &placement, mapping);
	if (error) {
		free(mapping);
		return error;
	}
	*result = mapping;
	return 0;
}

void guest_mapping_put(struct guest_mapping *mapping)
{
	if (--mapping->references)
		return;
	shrink_guard_remove(mapping->host);
	munmap(mapping->reserved, mapping->reserved_size);
	free(mapping);
}

int guest_region_window(struct guest_mapping *mapping, uint64_t file_offset, uint64_t guest_address, uint64_t size,
			uint64_t user_address, struct guest_region **result)
{
	uint64_t offset = file_offset - mapping->file_offset, end;
	struct guest_region *region;

	/* Below the mapping, the difference wraps and is larger than any size. */
	if (!size || !checked_add(guest_address, size, &end) || !checked_add(user_address, size, &end) ||
	    !range_inside(offset, size, mapping->size))
		return -EINVAL;
	region = calloc(1, sizeof(*region));
	if (!region)
		return -ENOMEM;
	*region = (struct guest_region){
		.guest_address = guest_address,
		.size = size,
		.user_address = user_address,
		.host = mapping->host + offset,
		.file_offset = file_offset,
		.mapping = mapping,
		.references = 1,
	};
	mapping->references++;
	*result = region;
	return 0;
}

int guest_region_map(int fd, uint64_t file_offset, uint64_t guest_address, uint64_t size, uint64_t user_address,
		     struct guest_region **result)
{
	struct guest_mapping *mapping;
	int error = guest_mapping_create(fd, file_offset, size, &mapping);

	if (error)
		return error;
	error = guest_region_window(mapping, file_offset, guest_address, size, user_address, result);
	guest_mapping_put(mapping); /* the region has its own reference */
	return error;
}

void guest_region_put(struct guest_region *region)
{
	if (--region->references)
		return;
	guest_mapping_put(region->mapping);
	free(region);
}
