/* SPDX-License-Identifier: BSD-3-Clause */
/* Dirty log. Theory of operation: memory/dirty_log.h. */
#include "memory/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/file_kind.h"
#include "memory/shrink_guard.h"

struct dirty_log {
	uint8_t *bits;
	uint64_t pages; /* that the bitmap has room for */
	void *mapping;
	size_t mapping_size;
	atomic_bool damaged;	     /* the file shrank: marks go nowhere; the migration is the front-end's to fail */
	_Atomic(uint64_t) out_of_log; /* marks past the end */
};

int dirty_log_map(int fd, uint64_t size, uint64_t offset, struct dirty_log **result)
{
	uint64_t lead = offset & 4095, end, length;
	struct dirty_log *log;
	struct stat status;
	int error;

	if (!size || !checked_add(offset, size, &end) || end > INT64_MAX - 4096)
		return -EINVAL;
	if (!file_is_memory(fd))
		return -EMEDIUMTYPE;
	if (fstat(fd, &status) < 0)
		return -errno;
	if (S_ISREG(status.st_mode) && end > (uint64_t)status.st_size)
		return -EINVAL;
	log = calloc(1, sizeof(*log));
	if (!log)
		return -ENOMEM;
	length = (lead + size + 4095) & ~4095ULL;
	log->mapping = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - lead));
	if (log->mapping == MAP_FAILED) {
		error = -errno;
		goto free_log;
	}
	log->mapping_size = length;
	error = shrink_guard_add(log->mapping, length, &log->damaged);
	if (error)
		goto unmap;
	log->bits = (uint8_t *)log->mapping + lead;
	log->pages = size < UINT64_MAX / 8 ? size * 8 : UINT64_MAX;
	*result = log;
	return 0;

unmap:
	munmap(log->mapping, length);
free_log:
	free(log);
	return error;
}

void dirty_log_unmap(struct dirty_log *log)
{
	if (!log)
		return;
	shrink_guard_remove(log->mapping);
	munmap(log->mapping, log->mapping_size);
	free(log);
}

void dirty_log_mark(struct dirty_log *log, uint64_t guest_address, uint64_t length)
{
	uint64_t page, last;

	if (!length)
		return;
	page = guest_address / DIRTY_LOG_PAGE;
	last = (guest_address + length - 1) / DIRTY_LOG_PAGE; /* inside a region: does not wrap */
	for (; page <= last; page++) {
		if (page >= log->pages) {
			atomic_fetch_add_explicit(&log->out_of_log, 1, memory_order_relaxed);
			return;
		}
		/*
		 * Release: whoever sees the bit, and clears it, sees the data written before. The front-end takes whole
		 * words with an exchange; a byte-wide OR is part of the same word and neither loses the other's change.
		 */
		__atomic_fetch_or(&log->bits[page / 8], (uint8_t)(1U << (page % 8)), __ATOMIC_RELEASE);
	}
}

void dirty_log_mark_host(struct dirty_log *log, const struct guest_memory *memory, const guest_byte *host,
			 uint64_t length)
{
	uint64_t guest_address;

	if (!guest_memory_address_of(memory, host, &guest_address))
		dirty_log_mark(log, guest_address, length);
}
