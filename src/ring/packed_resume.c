/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packed virtqueues: where the device stands, read from the ring itself.
 *
 * Theory of operation
 * -------------------
 * A split ring tells in shared memory how far the device has come; a packed one does not, and a front-end whose
 * back-end died cannot tell either (QEMU then says 0, as for a new ring). But each descriptor says of which lap it is:
 * AVAIL equals the wrap counter of who wrote it, and USED is the same once the device has given it back
 * (virtio 1.3 2.8.1).
 *
 *	      used  available       used (or never written)
 *	0 .......... U ---------- D ............................ size
 *	 this lap     this lap      the lap before
 *
 * D, where the driver writes next, is where AVAIL changes; the device goes on at U, the oldest descriptor that is not
 * used. What it had begun and not given back it does again. If U lies behind D, it is of the lap before.
 *
 * A batch that was being pushed when the back-end died shows as used descriptors behind U: the first one's flags, which
 * hide them from the driver, were to be stored last (2.8.22). What they could hold is gone, so they cannot be done
 * again; that store gives them back. A lone one shows by its length, where that was 0. What was written to them is
 * given back with a length of 0, which a driver drops: a frame in several buffers may have been pushed in part, and
 * the driver would take the next frame's for the rest of it, without looking at its checksum.
 *
 * While a card has no back-end, QEMU drops what its driver sends, from where it believes that the ring stands: a position
 * from long ago. So used descriptors may stand behind others that are not; all up to the last of them are given back.
 * And when it says later where the ring stands, it means that position: what the ring contradicts is not believed
 * (packed_base_is_stale()).
 *
 * This holds where each chain is one descriptor (the device overwrites but the first of a longer one, so the others
 * look available for ever) and where chains are used one by one in the order in which they came; so it is for cards with
 * indirect descriptors, and not for disks, which have an in-flight area instead.
 *
 * The driver may add descriptors while we look. They are of a later lap than those that we expect, and are passed over.
 * A ring full of nonsense gives some position within the ring; its owner's queue will break, or idle.
 *
 * Context: while a queue is started; no state.
 */
#include <linux/virtio_ring.h>
#include <stddef.h>

#include "base/checked.h"
#include "ring/virtqueue.h"

#define AVAILABLE (1U << VRING_PACKED_DESC_F_AVAIL)
#define USED	  (1U << VRING_PACKED_DESC_F_USED)

#define POSITION_WRAP (1U << 15)

/* The ring from the driver's next descriptor on, oldest first. */
struct laps {
	guest_byte *ring;
	uint16_t size, next;
	bool lap; /* of what lies before next */
};

/* At most twice around: next and @age are at most the size, which is not 0. */
static uint32_t position_of(const struct laps *laps, uint32_t age)
{
	uint32_t position = laps->next + age;

	while (position >= laps->size)
		position -= laps->size;
	return position;
}

static guest_byte *descriptor(const struct laps *laps, uint32_t age)
{
	return laps->ring + position_of(laps, age) * sizeof(struct vring_packed_desc);
}

static uint16_t flags_of(const struct laps *laps, uint32_t age)
{
	return guest_load16(descriptor(laps, age) + offsetof(struct vring_packed_desc, flags));
}

static bool lap_of(const struct laps *laps, uint32_t age)
{
	return laps->next + age < laps->size ? !laps->lap : laps->lap;
}

/* Position and, in bit 15, wrap counter, as in SET_VRING_BASE; @age may be the size: the driver's next descriptor. */
static uint16_t base_of(const struct laps *laps, uint32_t age)
{
	bool wrap = age < laps->size ? lap_of(laps, age) : laps->next < laps->size ? laps->lap : !laps->lap;

	return (uint16_t)(position_of(laps, age) | (uint32_t)wrap << 15);
}

static void find_next(struct laps *laps)
{
	laps->next = laps->size;
	laps->lap = flags_of(laps, 0) & AVAILABLE; /* of position 0 */
	for (uint16_t i = 0; i < laps->size; i++) {
		if (!!(flags_of(laps, i) & AVAILABLE) != laps->lap) {
			laps->next = i;
			return;
		}
	}
}

static bool has_length(const struct laps *laps, uint32_t age)
{
	return guest_load16(descriptor(laps, age) + offsetof(struct vring_packed_desc, len)) ||
	       guest_load16(descriptor(laps, age) + offsetof(struct vring_packed_desc, len) + 2);
}

/* As used, with nothing written. */
static void give_back(const struct laps *laps, uint32_t age)
{
	static const uint32_t none = 0;
	uint16_t flags = flags_of(laps, age) & VRING_DESC_F_WRITE;

	if (lap_of(laps, age))
		flags |= AVAILABLE | USED;
	guest_write(descriptor(laps, age) + offsetof(struct vring_packed_desc, len), &none, sizeof(none));
	guest_store16_release(descriptor(laps, age) + offsetof(struct vring_packed_desc, flags), flags);
}

uint16_t packed_resume(guest_byte *ring, uint16_t size)
{
	struct laps laps = { .ring = ring, .size = size };
	uint32_t first = size, resume = size;

	find_next(&laps);
	for (uint32_t age = 0; age < size; age++) {
		bool lap = lap_of(&laps, age), used;
		uint16_t flags = flags_of(&laps, age);

		if (!!(flags & AVAILABLE) != lap)
			continue;
		used = !!(flags & USED) == lap;
		if (!used && first == size)
			first = resume = age;
		if (used && first < size)
			resume = age + 1;
	}
	if (first < size && (resume > first || !has_length(&laps, first))) {
		resume = max(resume, first + 1);
		/* The first one last: the driver sees none of them before that. */
		for (uint32_t age = resume; age-- > first;)
			give_back(&laps, age);
	}
	return base_of(&laps, resume);
}

bool packed_base_is_stale(guest_byte *ring, uint16_t size, uint16_t base)
{
	struct laps laps = { .ring = ring, .size = size };
	uint16_t position = base & (uint16_t)~POSITION_WRAP;
	uint32_t age;

	if (position >= size)
		return false; /* refused elsewhere */
	find_next(&laps);
	if (base == base_of(&laps, size))
		return false;
	age = (uint32_t)position + (position < laps.next ? size : 0U) - laps.next;
	if (base != base_of(&laps, age))
		return true;
	for (; age < size; age++) {
		bool lap = lap_of(&laps, age);
		uint16_t flags = flags_of(&laps, age);

		if (!!(flags & AVAILABLE) == lap && !!(flags & USED) == lap)
			return true;
	}
	return false;
}
