/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/client_memory.h"

#include <errno.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE_SIZE (2UL << 20)

static int fail(char *error, size_t error_size, const char *what, size_t size, bool huge_pages)
{
	int number = -errno;

	snprintf(error, error_size, "%s guest memory of %zu bytes%s: %s", what, size,
		 huge_pages ? " in huge pages (are enough reserved in vm.nr_hugepages?)" : "", strerror(-number));

	return number;
}

/**
 * client_memory_create() - make guest memory, all of it present.
 * @memory:	written from scratch; release it whatever this returns
 * @size:	bytes; rounded up to 2 MiB
 * @huge_pages:	of 2 MiB pages; plain pages otherwise
 * @error:	receives the reason of a failure
 * @error_size:	its room
 *
 * Return: 0 or a negative errno.
 */
int client_memory_create(struct client_memory *memory, size_t size, bool huge_pages, char *error, size_t error_size)
{
	unsigned int flags = MFD_CLOEXEC | (huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	void *base;

	*memory = (struct client_memory){ .fd = -1 };
	size = (size + HUGE_PAGE_SIZE - 1) & ~(HUGE_PAGE_SIZE - 1);
	memory->fd = memfd_create("guest memory", flags);
	if (memory->fd < 0 || ftruncate(memory->fd, (off_t)size) < 0)
		return fail(error, error_size, "make", size, huge_pages);

	/* Populated now: a page fault in the measured time would be counted as the server's cost. */
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory->fd, 0);
	if (base == MAP_FAILED)
		return fail(error, error_size, "map", size, huge_pages);
	memory->base = base;
	memory->size = size;

	return 0;
}

/**
 * client_memory_release() - give it back.
 * @memory:	what client_memory_create() has seen
 */
void client_memory_release(struct client_memory *memory)
{
	if (memory->base)
		munmap(memory->base, memory->size);
	if (memory->fd >= 0)
		close(memory->fd);
	*memory = (struct client_memory){ .fd = -1 };
}

/**
 * client_memory_allocate() - take a piece.
 * @memory:	guest memory
 * @size:	bytes
 * @alignment:	a power of two
 *
 * Pieces are never given back; they go with the whole.
 *
 * Return: zeroed memory, or NULL when it is used up.
 */
void *client_memory_allocate(struct client_memory *memory, size_t size, size_t alignment)
{
	size_t start = (memory->used + alignment - 1) & ~(alignment - 1);

	if (start > memory->size || size > memory->size - start)
		return NULL;
	memory->used = start + size;

	return memory->base + start;
}
