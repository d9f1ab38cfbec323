/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads, writes and scatter lists at guest addresses that may span regions: for devices whose descriptors hold plain
 * addresses (PRP, receive buffers). All go through guest_memory_translate(). @memory may be NULL: no byte is anywhere.
 *
 * Context: whoever may use the map.
 */
#ifndef MEMORY_GUEST_ACCESS_H
#define MEMORY_GUEST_ACCESS_H

#include "memory/guest_memory.h"

/** guest_memory_read() - guest_fetch() from [@address, +@length). Return: false when any byte is in no region. */
bool guest_memory_read(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address, void *to,
		       size_t length);

/** guest_memory_write() - Return: false when any byte is in no region; bytes before it may have been written. */
bool guest_memory_write(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address,
			const void *from, size_t length);

/**
 * guest_memory_segments() - append [@address, +@length) to @segments; contiguous with the last one: that one grows.
 * @count:	in and out: segments in use
 *
 * Return: 0; -EFAULT: a byte is in no region; -ENOSPC: more than @capacity segments. After an error @count is as it was,
 * but the last segment may have grown: the list is of no use any more.
 */
int guest_memory_segments(const struct guest_memory *memory, const struct guest_region **hint, uint64_t address,
			  uint64_t length, struct guest_segment *segments, unsigned capacity, unsigned *count);

/** guest_memory_range() - host address of all of [@address, +@length), for rings. Return: NULL when it is empty or not in
 * one region. */
guest_byte *guest_memory_range(const struct guest_memory *memory, uint64_t address, uint64_t length);

#endif
