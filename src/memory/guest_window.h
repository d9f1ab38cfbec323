/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A window on guest memory: the region of the last hit, in locals, for loops over many buffers.
 *
 * A store to guest memory may alias anything as far as the compiler knows, so what stays in a region would be loaded
 * again after each. It is the translator's hint in another form, and translates what lies inside of that region only:
 * all else is left to guest_memory_translate(), which alone says that there is no such address.
 *
 * Context: whoever may use the map.
 */
#ifndef MEMORY_GUEST_WINDOW_H
#define MEMORY_GUEST_WINDOW_H

#include "memory/guest_memory.h"

/**
 * struct guest_window - see above.
 * @start, @size:	of the region; @size is 0: there is none
 * @host:		what makes a guest address in it a host address
 */
struct guest_window {
	uint64_t start, size, host;
};

static inline struct guest_window guest_window_of(const struct guest_region *region)
{
	if (unlikely(!region))
		return (struct guest_window){ 0 };
	return (struct guest_window){ region->guest_address, region->size,
				      (uint64_t)(uintptr_t)region->host - region->guest_address };
}

/**
 * guest_window_translate() - host address of [@address, +@length); @length is not zero.
 *
 * Return: NULL when not all of it is in the window, wherever it may be.
 */
static inline guest_byte *guest_window_translate(const struct guest_window *window, uint64_t address, uint32_t length)
{
	uint64_t offset = address - window->start, last = offset + length - 1U;

	/*
	 * Where the last byte is, from the region's beginning. Below the region this carries or comes out behind the
	 * region's end, since that does not wrap.
	 */
	if (unlikely(last < offset))
		return NULL;
	if (unlikely(last >= window->size))
		return NULL;
	return (guest_byte *)(uintptr_t)(address + window->host);
}

/**
 * guest_window_places() - for loops over pieces of the same @length, which is not zero: those at @address for which
 * @address - start is less than this lie in the window, and are at guest_window_place().
 */
static inline uint64_t guest_window_places(const struct guest_window *window, uint32_t length)
{
	return window->size >= length ? window->size - length + 1 : 0;
}

static inline guest_byte *guest_window_place(const struct guest_window *window, uint64_t address)
{
	return (guest_byte *)(uintptr_t)(address + window->host);
}

/**
 * guest_window_move() - to the region that holds @address, and the translator's hint with it.
 *
 * Return: as guest_window_translate(); then the window is where it was, or not.
 */
static inline guest_byte *guest_window_move(struct guest_window *window, const struct guest_memory *memory,
					    const struct guest_region **hint, uint64_t address, uint32_t length)
{
	uint64_t available;

	if (!guest_memory_translate(memory, hint, address, length, &available))
		return NULL;
	*window = guest_window_of(*hint);
	return guest_window_translate(window, address, length);
}

#endif
