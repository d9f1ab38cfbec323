/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory: the only way to a byte that a guest can change.
 *
 * Theory of operation
 * -------------------
 * A front-end shares its guest's memory as files (memfd, hugetlbfs, shm). Part of a file, or all of it, is mapped between
 * two inaccessible guard areas (struct guest_mapping); a *region* is a window of such a mapping at a guest address. Regions
 * that come and go without their file changing (firmware that switches shadow memory, a reboot) share one mapping and cost
 * no system call. A *map* (struct guest_memory) is an immutable, sorted array of regions with which guest addresses are
 * translated. A change of the guest's memory makes a new map out of the old one's regions (they are reference counted) and
 * the new ones, while the device's queues are quiesced; so translation needs no lock, no generation and no check for
 * staleness.
 *
 * Guest memory is hostile: it changes while we read it. Its host address therefore has a type of its own, guest_byte,
 * which C will not dereference into anything by accident. Bytes are copied out once (guest_read), checked, and the copy
 * is used. There is one translator, guest_memory_translate(), for rings, descriptors, buffers and logs alike.
 *
 * A file that shrinks under us would kill the process with SIGBUS. memory/shrink_guard.c catches the signal, puts
 * anonymous memory where the file was and marks the mapping; its owner's queues break at their next turn (see
 * guest_memory_damaged()), everybody else goes on.
 *
 * Context: maps are made and freed by the control thread; sidecores translate.
 */
#ifndef MEMORY_GUEST_MEMORY_H
#define MEMORY_GUEST_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/checked.h"

/** A byte of guest memory. Never dereferenced: use guest_read(), guest_write(), guest_copy() or the loads and stores. */
typedef struct guest_byte {
	uint8_t untrusted;
} guest_byte;

/**
 * struct guest_segment - bytes of guest memory that are contiguous for the host.
 *
 * Laid out as struct iovec, so that an array of segments can be given to the kernel as it is.
 */
struct guest_segment {
	guest_byte *base;
	size_t length;
};

_Static_assert(sizeof(struct guest_segment) == sizeof(struct iovec) &&
		       offsetof(struct guest_segment, base) == offsetof(struct iovec, iov_base) &&
		       offsetof(struct guest_segment, length) == offsetof(struct iovec, iov_len),
	       "guest_segments_iovec() relies on this");

/** guest_segments_iovec() - the same segments for a system call; the kernel reports EFAULT itself where a file shrank. */
static inline struct iovec *guest_segments_iovec(struct guest_segment *segments)
{
	return (struct iovec *)segments;
}

/** guest_bytes_of() - memory of our own as a segment's base (buffers of uplinks, headers that we made). */
static inline guest_byte *guest_bytes_of(const void *own)
{
	return (guest_byte *)(uintptr_t)own;
}

static inline void guest_read(void *to, const guest_byte *from, size_t length)
{
	memcpy(to, from, length);
}

/**
 * guest_fetch() - guest_read() of what will be checked and then used: headers, indices, sizes.
 *
 * For the compiler a copy of memory that nobody writes meanwhile is as good as the original, so it might check the one and
 * use the other. It must not here.
 */
static inline void guest_fetch(void *to, const guest_byte *from, size_t length)
{
	guest_read(to, from, length);
	__asm__ volatile("" : : "r"(to) : "memory");
}

static inline void guest_write(guest_byte *to, const void *from, size_t length)
{
	memcpy(to, from, length);
}

static inline void guest_zero(guest_byte *to, size_t length)
{
	memset(to, 0, length);
}

/** guest_copy() - guest to guest; source and destination may be the same guest's memory, even overlap (memmove). */
static inline void guest_copy(guest_byte *to, const guest_byte *from, size_t length)
{
	memmove(to, from, length);
}

/** guest_prefetch_write() - a hint: the line at @at will be written soon. */
static inline void guest_prefetch_write(const guest_byte *at)
{
	/* What the compiler makes of __builtin_prefetch() for x86-64 as such fetches the line for reading. */
#ifdef __x86_64__
	__asm__ volatile("prefetchw %0" : : "m"(*at));
#else
	__builtin_prefetch(at, 1);
#endif
}

/*
 * Single loads and stores of naturally aligned fields, each exactly one access. x86 and aarch64 do not tear them. The
 * callers have checked alignment when the ring was set up.
 */
static inline uint16_t guest_load16(const guest_byte *from)
{
	return __atomic_load_n((const uint16_t *)(const void *)from, __ATOMIC_RELAXED);
}

static inline uint16_t guest_load16_acquire(const guest_byte *from)
{
	return __atomic_load_n((const uint16_t *)(const void *)from, __ATOMIC_ACQUIRE);
}

static inline uint64_t guest_load64(const guest_byte *from)
{
	return __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_RELAXED);
}

static inline uint64_t guest_load64_acquire(const guest_byte *from)
{
	return __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_ACQUIRE);
}

static inline void guest_store16(guest_byte *to, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)to, value, __ATOMIC_RELAXED);
}

static inline void guest_store16_release(guest_byte *to, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)to, value, __ATOMIC_RELEASE);
}

/** The most regions that one map may have; what QEMU uses for hot-plugged memory (GET_MAX_MEM_SLOTS reports it). */
#define GUEST_MEMORY_REGIONS_MAX 509

/**
 * struct guest_mapping - part of a file, mapped. Reference counted by the regions that are windows of it, and by whoever
 * keeps it for regions to come; the count and the mapping belong to the control thread.
 */
struct guest_mapping {
	dev_t file_device; /* identity of the file */
	ino_t file_inode;
	uint64_t file_offset; /* of the first byte in the file; a multiple of the file's page size */
	uint64_t size;	      /* bytes, in whole pages of the file */
	guest_byte *host;     /* our address of the first byte */
	void *reserved;	      /* with the guard areas and alignment slack: what munmap() takes */
	size_t reserved_size;
	atomic_bool damaged; /* the file shrank; set by the signal handler */
	unsigned references;
};

/**
 * struct guest_region - a piece of a guest's memory: a window of a mapping. Reference counted by the maps that contain it;
 * the count belongs to the control thread.
 */
struct guest_region {
	uint64_t guest_address; /* guest physical address of the first byte */
	uint64_t size;		/* bytes; never zero, guest_address + size does not wrap */
	uint64_t user_address;	/* the front-end's own address of the first byte: ring addresses come in these */
	guest_byte *host;	/* our address of the first byte */
	uint64_t file_offset;	/* of the first byte in the file; with the mapping's file, what the same region has again */
	struct guest_mapping *mapping;
	unsigned references;
};

/** guest_region_damaged() - has the file of the region shrunk under us? */
static inline bool guest_region_damaged(const struct guest_region *region)
{
	return atomic_load_explicit(&region->mapping->damaged, memory_order_relaxed);
}

/** struct guest_memory - an immutable map from guest addresses to host memory, regions sorted by guest address. */
struct guest_memory {
	unsigned region_count;
	struct guest_region *regions[];
};

/**
 * guest_mapping_create() - map [@offset, +@size) of a file, in whole pages of it.
 * @fd:		the file; stays the caller's
 * @mapping:	the result, with one reference
 *
 * Return: 0; -EMEDIUMTYPE when the file is not memory (base/file_kind.h): a page fault must not make a sidecore wait for
 * a disk, a network or another program; -EINVAL when sizes or sums are impossible or the file is too small for the range
 * (checked with fstat, so that a lie is found here and not by a fault); the negative errno of mmap.
 */
int guest_mapping_create(int fd, uint64_t offset, uint64_t size, struct guest_mapping **mapping);

void guest_mapping_put(struct guest_mapping *mapping);

/**
 * guest_region_window() - a region that is a window of @mapping, of which it takes a reference.
 * @file_offset:	of the region's first byte in the file; need not be page aligned
 * @guest_address, @size, @user_address:	as in struct guest_region
 * @region:		the result, with one reference
 *
 * Return: 0; -EINVAL when sums are impossible or the window does not lie in the mapping; -ENOMEM.
 */
int guest_region_window(struct guest_mapping *mapping, uint64_t file_offset, uint64_t guest_address, uint64_t size,
			uint64_t user_address, struct guest_region **region);

/**
 * guest_region_map() - map part of a file as one region with a mapping of its own: guest_mapping_create() and
 * guest_region_window(). Return: as these.
 */
int guest_region_map(int fd, uint64_t file_offset, uint64_t guest_address, uint64_t size, uint64_t user_address,
		     struct guest_region **region);

void guest_region_put(struct guest_region *region);

/** guest_memory_create() - an empty map. Return: NULL when there is no memory. */
struct guest_memory *guest_memory_create(void);

/**
 * guest_memory_with() - a new map: @memory's regions and @region; @memory stays as it was, and valid.
 * @region:	the new map takes a reference of its own
 *
 * Return: 0; -EINVAL when guest addresses overlap with a region that is there (user addresses may: one piece of the
 * front-end's memory can appear at two guest addresses); -ENOSPC above GUEST_MEMORY_REGIONS_MAX; -ENOMEM.
 */
int guest_memory_with(const struct guest_memory *memory, struct guest_region *region, struct guest_memory **result);

/**
 * guest_memory_without() - a new map without the region that has exactly this @guest_address, @user_address and @size.
 *
 * Return: 0; -ENOENT; -ENOMEM.
 */
int guest_memory_without(const struct guest_memory *memory, uint64_t guest_address, uint64_t user_address,
			 uint64_t size, struct guest_memory **result);

/** guest_memory_free() - drops the map and its references; NULL is allowed. No sidecore may still use it. */
void guest_memory_free(struct guest_memory *memory);

/** guest_memory_damaged() - has any file of the map shrunk under us? Checked once a turn by whoever polls the guest. */
static inline bool guest_memory_damaged(const struct guest_memory *memory)
{
	for (unsigned i = 0; i < memory->region_count; i++) {
		if (unlikely(guest_region_damaged(memory->regions[i])))
			return true;
	}
	return false;
}

/** guest_memory_find() - the region that holds @guest_address, or NULL. Slow path of the translator: binary search. */
const struct guest_region *guest_memory_find(const struct guest_memory *memory, uint64_t guest_address);

/**
 * guest_memory_translate() - the one translator.
 * @memory:		map
 * @hint:		in and out: the region of the last hit; NULL at first. A private, per-queue cache
 * @guest_address:	first byte
 * @length:		bytes wanted; not zero
 * @available:		out: bytes from there on that are contiguous in host memory, 1 to @length. When fewer than @length,
 *			the caller asks again for the rest: a buffer may span regions
 *
 * Return: host address, or NULL when the first byte is in no region.
 */
static inline guest_byte *guest_memory_translate(const struct guest_memory *memory, const struct guest_region **hint,
						 uint64_t guest_address, uint64_t length, uint64_t *available)
{
	const struct guest_region *region = *hint;
	uint64_t offset;

	/* Unsigned wrap makes the one comparison cover "below the region" as well. */
	if (unlikely(!region || guest_address - region->guest_address >= region->size)) {
		region = guest_memory_find(memory, guest_address);
		if (!region)
			return NULL;
		*hint = region;
	}
	offset = guest_address - region->guest_address;
	*available = min(length, region->size - offset);
	return region->host + offset;
}

/**
 * guest_memory_user_range() - host address of [@user_address, @user_address + @length), all in one region.
 *
 * For ring addresses, which the front-end gives in its own address space (vhost-user SET_VRING_ADDR).
 *
 * Return: NULL when it is not inside one region.
 */
guest_byte *guest_memory_user_range(const struct guest_memory *memory, uint64_t user_address, uint64_t length);

/**
 * guest_memory_address_of() - the guest address of a host address inside the map (dirty logging).
 *
 * Return: 0; -ENOENT when @host is in no region.
 */
int guest_memory_address_of(const struct guest_memory *memory, const guest_byte *host, uint64_t *guest_address);

#endif
