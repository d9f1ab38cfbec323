/* SPDX-License-Identifier: BSD-3-Clause */
/* Dirty log. Theory of operation: memory/dirty_log.h. */
#include "memory/dirty_log.h"

#include <errno.h>
#include <stdlib.h>

struct dirty_log {
	/* Mapped as guest memory is, huge pages and guard areas included: whatever file the front-end took for it. */
	struct guest_region *region;
	uint64_t pages;		      /* that the bitmap has room for */
	_Atomic(uint64_t) out_of_log; /* marks past the end */
};

int dirty_log_map(int fd, uint64_t size, uint64_t offset, struct dirty_log **result)
{
	struct dirty_log *log = calloc(1, sizeof(*log));
	int error;

	if (!log)
		return -ENOMEM;
	error = guest_region_map(fd, offset, 0, size, 0, &log->region);
	if (error) {
		free(log);
		return error;
	}
	log->pages = size < UINT64_MAX / 8 ? size * 8 : UINT64_MAX;
	*result = log;
	return 0;
}

void dirty_log_unmap(struct dirty_log *log)
{
	if (!log)
		return;
	guest_region_put(log->region);
	free(log);
}

uint64_t dirty_log_missed(const struct dirty_log *log)
{
	return atomic_load_explicit(&log->out_of_log, memory_order_relaxed);
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
		if (page % 8 == 0 && last - page >= 7 && log->pages - page >= 8) {
			/* Eight at a time: a disk may read gigabytes in one request. */
			__atomic_fetch_or(&log->region->host[page / 8].untrusted, UINT8_MAX, __ATOMIC_RELEASE);
			page += 7;
			continue;
		}
		__atomic_fetch_or(&log->region->host[page / 8].untrusted, (uint8_t)(1U << (page % 8)),
				  __ATOMIC_RELEASE);
	}
}

void dirty_log_mark_host(struct dirty_log *log, const struct guest_memory *memory, const guest_byte *host,
			 uint64_t length)
{
	uint64_t guest_address;

	if (!guest_memory_address_of(memory, host, &guest_address))
		dirty_log_mark(log, guest_address, length);
}
