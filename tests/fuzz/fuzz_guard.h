/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An oracle for what a device writes into a guest whose driver keeps the rules: nothing but what it was given to write,
 * and of a buffer no more than the used length says. AddressSanitizer cannot tell: guest memory is one mapping, and
 * eight bytes too many lie in the next buffer.
 *
 * Guards only work for a driver that is tame: with descriptors that the input makes anything may be written, and
 * rightly.
 */
#ifndef TESTS_FUZZ_GUARD_H
#define TESTS_FUZZ_GUARD_H

#include "fuzz_guest.h"

/** Chains that are guarded at a time; each has a slot of guest memory of its own, with bytes before and behind it. */
#define GUARD_ROOMS 16U

/** struct guard_room - a chain of buffers to write into, from when it is made available until it is used. */
struct guard_room {
	uint32_t offset[2], length[2]; /* of its buffers, in the guest's file; a length of 0: there is none */
	uint16_t place;		       /* split: avail index; packed: position in the ring */
	uint16_t slots;		       /* descriptors of the ring that it takes */
	bool wrap, indirect;
};

struct write_guard {
	struct guest *guest;
	struct guest_queue *queue; /* of the rooms */
	struct guard_room rooms[GUARD_ROOMS];
	unsigned first, count, slot;
	uint8_t before[GUEST_FILE_SIZE];
	bool allowed[GUEST_FILE_SIZE];
};

/** guard_reset() - no rooms. @queues: of the guest, @count; what the device writes of them is allowed. */
void guard_reset(struct write_guard *guard, struct guest *guest, struct guest_queue *rooms,
		 const struct guest_queue *queues, unsigned count);

/** guard_allow() - the device may write [@offset, +@length) of the guest's file, or may not. */
void guard_allow(struct write_guard *guard, uint32_t offset, uint32_t length, bool allowed);

/**
 * guard_offer() - make a chain of one or two buffers available.
 * @head:	bytes of the first of two; 0: there is one
 * @length:	bytes of all
 *
 * Return: false when ring or slots are full.
 */
bool guard_offer(struct write_guard *guard, uint32_t head, uint32_t length, bool indirect);

/** guard_before() - the device is about to run. guard_after() - it has: look at every byte of the guest. */
void guard_before(struct write_guard *guard);
void guard_after(struct write_guard *guard);

#endif
