/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_guard.h"

#include <linux/virtio_ring.h>

#include "base/checked.h"

/* Slots lie in the high region; their buffers begin 64 bytes behind their start, so that bytes before them are seen,
 * too. */
#define SLOTS	     (GUEST_LOW_SIZE + 0x400U)
#define SLOT_SIZE    0x780U
#define SLOT_GAP     64U
#define SLOT_ADDRESS (GUEST_SEAM + 0x400U)

_Static_assert(SLOTS + GUARD_ROOMS * SLOT_SIZE <= GUEST_LOW_SIZE + GUEST_HIGH_SIZE, "slots are in the high region");

void guard_allow(struct write_guard *guard, uint32_t offset, uint32_t length, bool allowed)
{
	fuzz_require(offset + length <= GUEST_FILE_SIZE);
	memset(guard->allowed + offset, allowed, length);
}

void guard_reset(struct write_guard *guard, struct guest *guest, struct guest_queue *rooms,
		 const struct guest_queue *queues, unsigned count)
{
	guard->guest = guest;
	guard->queue = rooms;
	guard->first = guard->count = guard->slot = 0;
	memset(guard->allowed, 0, sizeof(guard->allowed));
	for (unsigned i = 0; i < count; i++) {
		const struct guest_queue *queue = &queues[i];

		/* virtio 1.3 2.7.8: flags, idx, elements, avail_event; 2.8.14: event suppression, and the ring itself.
		 */
		guard_allow(guard, queue->place + GUEST_DEVICE_AREA, queue->packed ? 4 : 6 + 8U * queue->size, true);
		if (queue->packed)
			guard_allow(guard, queue->place, 16U * queue->size, true);
	}
}

bool guard_offer(struct write_guard *guard, uint32_t head, uint32_t length, bool indirect)
{
	struct guest_queue *queue = guard->queue;
	unsigned buffers = head && head < length ? 2 : 1, busy = 0;
	uint32_t offset = SLOTS + guard->slot * SLOT_SIZE + SLOT_GAP;
	struct guest_buffer chain[2];
	struct guard_room room = { .slots = (uint16_t)(indirect ? 1 : buffers),
				   .place = queue->packed ? queue->next : queue->avail,
				   .wrap = queue->wrap,
				   .indirect = indirect };

	for (unsigned i = 0; i < guard->count; i++) {
		const struct guard_room *other = &guard->rooms[(guard->first + i) % GUARD_ROOMS];

		busy += other->slots;
		if (indirect && other->indirect) /* it may have the same table */
			return false;
	}
	if (guard->count == GUARD_ROOMS || busy + room.slots > queue->size)
		return false;
	length = min(length, SLOT_SIZE - 2 * SLOT_GAP);
	room.offset[0] = offset;
	room.length[0] = buffers == 2 ? head : length;
	if (buffers == 2) {
		/* The gap between the two is guarded as well. */
		room.offset[1] = offset + head + 8;
		room.length[1] = min(length - head, SLOT_SIZE - 2 * SLOT_GAP - head - 8);
	}
	for (unsigned i = 0; i < buffers; i++) {
		chain[i] = (struct guest_buffer){ SLOT_ADDRESS + room.offset[i] - SLOTS, room.length[i], true };
		guard_allow(guard, room.offset[i], room.length[i], true);
	}
	guard->rooms[(guard->first + guard->count++) % GUARD_ROOMS] = room;
	guard->slot = (guard->slot + 1) % GUARD_ROOMS;
	guest_queue_add(queue, chain, buffers, indirect);
	return true;
}

void guard_before(struct write_guard *guard)
{
	memcpy(guard->before, guard->guest->bytes, sizeof(guard->before));
}

/* Has the device used @room, the oldest? @length: what it says that it wrote. */
static bool is_used(const struct write_guard *guard, const struct guard_room *room, uint32_t *length)
{
	const struct guest_queue *queue = guard->queue;
	const uint8_t *base = guard->guest->bytes + queue->place;

	if (queue->packed) {
		const struct vring_packed_desc *slot = (const void *)(base + 16U * room->place);
		bool avail = slot->flags >> VRING_PACKED_DESC_F_AVAIL & 1,
		     used = slot->flags >> VRING_PACKED_DESC_F_USED & 1;

		*length = slot->len;
		return avail == room->wrap && used == room->wrap;
	}
	const struct vring_used *ring = (const void *)(base + GUEST_DEVICE_AREA);

	*length = ring->ring[room->place % queue->size].len;
	return (uint16_t)(ring->idx - room->place - 1) < 0x8000;
}

/* Bytes behind those that were written are as they were. From now on the device has nothing to write there. */
static void close_room(struct write_guard *guard, const struct guard_room *room, uint32_t length)
{
	const uint8_t *now = guard->guest->bytes;

	fuzz_require(length <= room->length[0] + room->length[1]);
	for (unsigned i = 0; i < 2; i++) {
		uint32_t written = min(length, room->length[i]), at = room->offset[i];

		fuzz_require(!memcmp(now + at + written, guard->before + at + written, room->length[i] - written));
		guard_allow(guard, at, room->length[i], false);
		length -= written;
	}
}

void guard_after(struct write_guard *guard)
{
	const uint8_t *now = guard->guest->bytes;
	uint32_t length;

	for (uint32_t block = 0; block < GUEST_FILE_SIZE; block += 256) {
		if (!memcmp(now + block, guard->before + block, 256))
			continue;
		for (uint32_t at = block; at < block + 256; at++)
			fuzz_require(guard->allowed[at] || now[at] == guard->before[at]);
	}
	while (guard->count && is_used(guard, &guard->rooms[guard->first], &length)) {
		close_room(guard, &guard->rooms[guard->first], length);
		guard->first = (guard->first + 1) % GUARD_ROOMS;
		guard->count--;
	}
}
