/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight tracking (vhost-user "Inflight I/O tracking").
 *
 * Theory of operation
 * -------------------
 * A back-end may complete requests out of order, so after a crash the rings alone do not tell which of the chains
 * before the avail index were finished. The area does: one region a queue, one entry a descriptor, in a file that the
 * front-end keeps and hands to the next back-end.
 *
 *	split	entry [head].inflight is 1 from pop to publish. A batch of used chains is linked through next, from
 *		last_batch_head, before the used index moves; region.used_idx follows after the flags have been cleared.
 *		A crash in between shows as used_idx != the ring's idx, and the list tells whose flags are stale.
 *	packed	the ring's descriptors are overwritten by used ones, so each chain's descriptors are saved in entries of
 *		a free list. old_free_head, old_used_idx and old_used_wrap_counter are the committed state; their twins
 *		without "old" run ahead for the time of one publish. The flags of the descriptor at old_used_idx tell
 *		whether the driver saw the batch. If it did not, the other used descriptors of the batch may stand in
 *		the ring already; they are made available again, or the next batch would show them to the driver.
 *
 * Stores are kept in program order with compiler fences: what can be lost in a crash of this process are the stores
 * that had not been executed yet, never an earlier one.
 *
 * Trust boundary: the front-end can write the area at any time. It is read only while a queue is opened, each field
 * once, checked, and from then on only written; what decides what the data path does (free list, ids, batch) lives in
 * private memory. The area is mapped like guest memory, so that a file that shrinks costs its owner only.
 *
 * A batch is linked into the region when it is published, not when its chains are pushed: pops between two pushes then
 * always see a committed free list.
 */
#include "ring/inflight_internal.h"

bool virtqueue_inflight_next_replay(const struct virtqueue_inflight *inflight, struct inflight_replay *replay)
{
	const struct replay *next;

	if (inflight->replay_next == inflight->replay_count)
		return false;
	next = &inflight->replays[inflight->replay_next];
	replay->id = next->id;
	replay->slots = next->slots;
	replay->descriptors = inflight->packed ? &inflight->descriptors[next->first] : NULL;
	return true;
}

void virtqueue_inflight_take_replay(struct virtqueue_inflight *inflight)
{
	inflight->replay_next++;
}

unsigned virtqueue_inflight_replays(const struct virtqueue_inflight *inflight)
{
	return inflight->replay_count - inflight->replay_next;
}

static bool save_packed(struct virtqueue_inflight *inflight, uint16_t id, uint16_t position, uint16_t slots)
{
	uint16_t head = inflight->free_head, last = head, index = head;
	struct vring_packed_desc descriptor;
	struct packed_entry entry = { 0 };

	if (!slots || slots > inflight->free_count)
		return false;
	for (uint16_t i = 0; i < slots; i++) {
		/*
		 * A second look at what the walker has checked on a copy of its own: whatever the driver puts there in
		 * between is used only for a replay, by the same walker with the same checks.
		 */
		guest_read(&descriptor, inflight->ring + (position + i) % inflight->size * sizeof(descriptor),
			   sizeof(descriptor));
		entry = (struct packed_entry){
			.next = inflight->next[index],
			.addr = descriptor.addr,
			.len = descriptor.len,
			.flags = descriptor.flags,
			.id = id, /* not the ring's: checked, and the last one's holds for the chain */
		};
		guest_write(inflight->region + PACKED_ENTRY(index, inflight), &entry, sizeof(entry));
		last = index;
		index = inflight->next[index];
	}
	store16(inflight, PACKED_ENTRY(head, last), last);
	store16(inflight, PACKED_ENTRY(head, num), slots);
	store64(inflight, PACKED_ENTRY(head, counter), inflight->counter++);
	in_order();
	store_inflight(inflight, head, 1);
	in_order();
	inflight->head[id] = head;
	inflight->last[head] = last;
	inflight->free_head = index;
	inflight->free_count -= slots;
	/* Between the two a crash rolls back to old_free_head: the chain is then popped from the ring again. */
	store16(inflight, PACKED_FIELD(free_head), index);
	in_order();
	store16(inflight, PACKED_FIELD(old_free_head), index);
	return true;
}

bool virtqueue_inflight_take(struct virtqueue_inflight *inflight, uint16_t id, uint16_t position, uint16_t slots)
{
	if (id >= inflight->size || inflight->state[id] != CHAIN_IDLE)
		return false;
	if (inflight->packed) {
		if (!save_packed(inflight, id, position, slots))
			return false;
	} else {
		store64(inflight, SPLIT_ENTRY(id, counter), inflight->counter++);
		in_order();
		store_inflight(inflight, id, 1);
	}
	inflight->state[id] = CHAIN_TAKEN;
	return true;
}

/* Put chain @id's entries at the front of the free list; the region's heads are the caller's to commit. */
static void release_packed(struct virtqueue_inflight *inflight, uint16_t id)
{
	uint16_t head = inflight->head[id], last = inflight->last[head];
	uint16_t index = head;

	while (index != last) {
		inflight->free_count++;
		index = inflight->next[index];
	}
	inflight->free_count++;
	inflight->next[last] = inflight->free_head;
	store16(inflight, PACKED_ENTRY(last, next), inflight->free_head);
	inflight->free_head = head;
}

bool virtqueue_inflight_untake(struct virtqueue_inflight *inflight, uint16_t id)
{
	if (inflight->state[id] == CHAIN_REPLAYED) {
		inflight->replay_next--;
		return true;
	}
	inflight->state[id] = CHAIN_IDLE;
	if (inflight->packed)
		release_packed(inflight, id);
	in_order();
	store_inflight(inflight, inflight->packed ? inflight->head[id] : id, 0);
	in_order();
	if (inflight->packed) {
		store16(inflight, PACKED_FIELD(free_head), inflight->free_head);
		store16(inflight, PACKED_FIELD(old_free_head), inflight->free_head);
	}
	return false;
}

void virtqueue_inflight_push(struct virtqueue_inflight *inflight, uint16_t id)
{
	/* Once for each take: so a batch never passes the ring's size. */
	if (inflight->state[id] != CHAIN_TAKEN && inflight->state[id] != CHAIN_REPLAYED)
		return;
	inflight->state[id] = CHAIN_PUSHED;
	inflight->batch[inflight->batch_count++] = id;
}

void virtqueue_inflight_publishing(struct virtqueue_inflight *inflight, uint16_t used_next, bool used_wrap)
{
	inflight->used_next = used_next;
	inflight->used_wrap = used_wrap;
	for (unsigned i = 0; i < inflight->batch_count; i++) {
		uint16_t id = inflight->batch[i];

		if (inflight->packed) {
			release_packed(inflight, id);
			continue;
		}
		store16(inflight, SPLIT_ENTRY(id, next), inflight->last_batch_head);
		in_order();
		inflight->last_batch_head = id;
		store16(inflight, SPLIT_FIELD(last_batch_head), id);
	}
	in_order();
	if (inflight->packed)
		store_packed_ahead(inflight);
	in_order();
}

void virtqueue_inflight_published(struct virtqueue_inflight *inflight)
{
	in_order();
	for (unsigned i = 0; i < inflight->batch_count; i++) {
		uint16_t id = inflight->batch[i];

		store_inflight(inflight, inflight->packed ? inflight->head[id] : id, 0);
		inflight->state[id] = CHAIN_IDLE;
	}
	inflight->batch_count = 0;
	in_order();
	if (inflight->packed)
		store_packed_committed(inflight);
	else
		store16(inflight, SPLIT_FIELD(used_idx), inflight->used_next);
}
