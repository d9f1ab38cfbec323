/* SPDX-License-Identifier: BSD-3-Clause */
/* In-flight tracking: the area of a device. Theory of operation and trust boundary: ring/inflight.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "ring/inflight_internal.h"
#include "ring/virtqueue.h"

/* What other back-ends align queue regions to; an area may come from one of them. */
#define REGION_ALIGNMENT 64U

static uint64_t region_size(uint16_t queue_size, bool packed)
{
	/* At most 32 + 32768 * 32: no overflow. */
	uint64_t size = packed ? sizeof(struct packed_region) + (uint64_t)queue_size * sizeof(struct packed_entry)
			       : sizeof(struct split_region) + (uint64_t)queue_size * sizeof(struct split_entry);

	return (size + REGION_ALIGNMENT - 1) & ~(uint64_t)(REGION_ALIGNMENT - 1);
}

uint64_t inflight_area_size(uint16_t queues, uint16_t queue_size, bool packed)
{
	if (!queues || !queue_size || queue_size > VIRTQUEUE_SIZE_MAX)
		return 0;
	return queues * region_size(queue_size, packed);
}

int inflight_area_create_fd(struct inflight_description *description, bool packed)
{
	uint64_t size = inflight_area_size(description->num_queues, description->queue_size, packed);
	int fd, error;

	if (!size)
		return -EINVAL;
	fd = memfd_create("sidecore-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	/* Zero bytes are an empty area: version 0. Sealed, so that nobody can shrink it under those who mapped it. */
	if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
		error = -errno;
		close(fd);
		return error;
	}
	description->mmap_size = size;
	description->mmap_offset = 0;
	return fd;
}

int inflight_area_map(int fd, const struct inflight_description *description, bool packed,
		      struct inflight_area **result)
{
	uint64_t size = inflight_area_size(description->num_queues, description->queue_size, packed), end;
	struct inflight_area *area;
	struct stat status;
	int error;

	if (!size || description->mmap_size < size)
		return -EINVAL;
	if (!file_is_memory(fd))
		return -EMEDIUMTYPE;
	/* Only what is needed is mapped, but a front-end that tells more than there is has lost its way. */
	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode) || !checked_add(description->mmap_offset, description->mmap_size, &end) ||
	    end > (uint64_t)status.st_size)
		return -EINVAL;
	/* The fields of the region are accessed as what they are. */
	if (description->mmap_offset % sizeof(uint64_t))
		return -EINVAL;
	area = calloc(1, sizeof(*area));
	if (!area)
		return -ENOMEM;
	error = guest_region_map(fd, description->mmap_offset, 0, size, 0, &area->mapping);
	if (error) {
		free(area);
		return error;
	}
	area->region_size = region_size(description->queue_size, packed);
	area->queues = description->num_queues;
	area->queue_size = description->queue_size;
	area->packed = packed;
	*result = area;
	return 0;
}

void inflight_area_unmap(struct inflight_area *area)
{
	if (!area)
		return;
	guest_region_put(area->mapping);
	free(area);
}

void inflight_area_forget(struct inflight_area *area)
{
	for (uint16_t i = 0; i < area->queues; i++)
		guest_store16(area->mapping->host + i * area->region_size + SPLIT_FIELD(version), 0);
}
