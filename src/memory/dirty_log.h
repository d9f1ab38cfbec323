/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty log: the bitmap, shared with the front-end, in which a device marks each 4 KiB page of guest memory that it
 * writes while the guest is being migrated (vhost-user "Migration"). Bits are set with an atomic OR, since the front-end
 * clears them at the same time; a bit is set after the write that it tells of, and before the used entry is published.
 *
 * Context: made by the control thread while the queues are quiesced; marked by sidecores.
 */
#ifndef MEMORY_DIRTY_LOG_H
#define MEMORY_DIRTY_LOG_H

#include <stdint.h>

#include "memory/guest_memory.h"

#define DIRTY_LOG_PAGE 4096U

struct dirty_log;

/**
 * dirty_log_map() - map @size bytes of @fd from @offset.
 *
 * Return: 0; -EMEDIUMTYPE (the file is not memory, base/file_kind.h), -EINVAL (file too small, sums wrap), mmap's errno.
 */
int dirty_log_map(int fd, uint64_t size, uint64_t offset, struct dirty_log **log);
void dirty_log_unmap(struct dirty_log *log);

/** dirty_log_missed() - marks that fell past the log's end: pages that the front-end does not learn of. Any thread. */
uint64_t dirty_log_missed(const struct dirty_log *log);

/** dirty_log_mark() - mark the pages of [@guest_address, +@length). Pages past the log's end are counted, not written. */
void dirty_log_mark(struct dirty_log *log, uint64_t guest_address, uint64_t length);

/** dirty_log_mark_host() - the same for a host address that was translated with @memory. */
void dirty_log_mark_host(struct dirty_log *log, const struct guest_memory *memory, const guest_byte *host,
			 uint64_t length);

#endif
