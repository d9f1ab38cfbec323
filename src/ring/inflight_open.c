/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight tracking: a queue's region is opened, and what a crash left in it put in order. Theory of operation and
 * trust boundary: ring/inflight.c. This is the only place where the region is read.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/checked.h"
#include "ring/inflight_internal.h"

/* ---- opening: an empty region ------------------------------------------------------------------------------------ */

static void initialise_split(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	const struct split_entry empty = { 0 };

	for (uint16_t i = 0; i < inflight->entries; i++)
		guest_write(inflight->region + SPLIT_ENTRY(i, inflight), &empty, sizeof(empty));
	store16(inflight, SPLIT_FIELD(last_batch_head), 0);
	store16(inflight, SPLIT_FIELD(used_idx), ring->used_index);
}

static void initialise_packed(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	struct packed_entry empty = { 0 };

	for (uint16_t i = 0; i < inflight->entries; i++) {
		empty.next = (uint16_t)(i + 1); /* the last one's is past the end: end of the list */
		inflight->next[i] = empty.next;
		guest_write(inflight->region + PACKED_ENTRY(i, inflight), &empty, sizeof(empty));
	}
	inflight->free_head = 0;
	inflight->free_count = inflight->entries;
	inflight->used_next = ring->used_index & 0x7fff;
	inflight->used_wrap = ring->used_index >> 15;
	store_packed_ahead(inflight);
	store_packed_committed(inflight);
}

static int initialise(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	if (inflight->packed)
		initialise_packed(inflight, ring);
	else
		initialise_split(inflight, ring);
	store64(inflight, SPLIT_FIELD(features), 0);
	store16(inflight, SPLIT_FIELD(desc_num), inflight->entries);
	in_order();
	store16(inflight, SPLIT_FIELD(version), REGION_VERSION); /* last: from here on the region counts */
	return 0;
}

/* ---- opening: recovery ------------------------------------------------------------------------------------------- */

static int compare_counters(const void *left, const void *right)
{
	const struct replay *a = left, *b = right;

	return a->counter < b->counter ? -1 : a->counter > b->counter;
}

static void order_replays(struct virtqueue_inflight *inflight)
{
	if (!inflight->replay_count)
		return;
	qsort(inflight->replays, inflight->replay_count, sizeof(*inflight->replays), compare_counters);
	inflight->counter = inflight->replays[inflight->replay_count - 1].counter + 1;
}

/* Steps of the specification's "When reconnecting" for split virtqueues. */
static int recover_split(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	struct split_region header;
	struct split_entry entry;
	uint16_t stale, index;

	guest_fetch(&header, inflight->region, sizeof(header));
	stale = (uint16_t)(ring->used_index - header.used_idx);
	index = header.last_batch_head;
	for (unsigned i = 0; i < min(stale, inflight->entries) && index < inflight->entries; i++) {
		store_inflight(inflight, index, 0);
		index = guest_load16(inflight->region + SPLIT_ENTRY(index, next));
	}
	in_order();
	store16(inflight, SPLIT_FIELD(used_idx), ring->used_index);
	inflight->last_batch_head = header.last_batch_head < inflight->entries ? header.last_batch_head : 0;

	for (uint16_t i = 0; i < inflight->entries; i++) {
		guest_fetch(&entry, inflight->region + SPLIT_ENTRY(i, inflight), sizeof(entry));
		if (!entry.inflight)
			continue;
		if (i >= inflight->size)
			return -EINVAL;
		inflight->replays[inflight->replay_count++] =
			(struct replay){ .counter = entry.counter, .id = i, .slots = 1 };
	}
	order_replays(inflight);
	return 0;
}

/*
 * Finish or take back a publish that a crash interrupted: the flags of the first descriptor of the batch, stored last,
 * tell whether the driver saw it.
 */
static int settle_packed(struct virtqueue_inflight *inflight, const struct packed_region *header)
{
	bool committed = false;
	uint16_t available, flags;

	if (header->old_used_idx >= inflight->size || header->used_idx >= inflight->size ||
	    header->used_wrap_counter > 1 || header->old_used_wrap_counter > 1)
		return -EINVAL;
	if (header->used_idx != header->old_used_idx || header->used_wrap_counter != header->old_used_wrap_counter) {
		available =
			header->old_used_wrap_counter ? 1 << VRING_PACKED_DESC_F_AVAIL : 1 << VRING_PACKED_DESC_F_USED;
		flags = guest_load16(inflight->ring + header->old_used_idx * sizeof(struct vring_packed_desc) +
				     offsetof(struct vring_packed_desc, flags));
		flags &= 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;
		committed = flags != available;
	}
	inflight->free_head = committed ? header->free_head : header->old_free_head;
	inflight->used_next = committed ? header->used_idx : header->old_used_idx;
	inflight->used_wrap = committed ? header->used_wrap_counter : header->old_used_wrap_counter;
	store_packed_committed(inflight);
	in_order();
	store_packed_ahead(inflight);
	return 0;
}

/* The entries of the free list are not in flight, whatever they say. @owned: which entries have been accounted for. */
static void walk_free_list(struct virtqueue_inflight *inflight, bool *owned)
{
	uint16_t index = inflight->free_head;

	/* A list that leaves the region or bites its tail ends there; reclaim_entries() finds the rest. */
	while (index < inflight->entries && !owned[index]) {
		owned[index] = true;
		inflight->free_count++;
		store_inflight(inflight, index, 0);
		index = inflight->next[index];
	}
}

/* One chain in flight, from its first entry: check it and copy its descriptors. */
static int recover_packed_chain(struct virtqueue_inflight *inflight, uint16_t head, bool *owned, uint32_t *saved)
{
	struct replay *replay = &inflight->replays[inflight->replay_count];
	struct packed_entry entry, first;
	uint16_t index = head, last = head, id = 0;

	guest_fetch(&first, inflight->region + PACKED_ENTRY(head, inflight), sizeof(first));
	if (!first.num || first.num > inflight->size - *saved)
		return -EINVAL;
	replay->first = *saved;
	for (uint16_t i = 0; i < first.num; i++) {
		if (index >= inflight->entries || owned[index])
			return -EINVAL;
		owned[index] = true;
		guest_fetch(&entry, inflight->region + PACKED_ENTRY(index, inflight), sizeof(entry));
		inflight->descriptors[(*saved)++] = (struct vring_packed_desc){
			.addr = entry.addr, .len = entry.len, .id = entry.id, .flags = entry.flags
		};
		id = entry.id; /* the last descriptor has the buffer id (virtio 1.3 2.8.6) */
		last = index;
		index = inflight->next[index];
	}
	if (id >= inflight->size || inflight->state[id] != CHAIN_IDLE)
		return -EINVAL;
	replay->counter = first.counter;
	replay->id = id;
	replay->slots = first.num;
	replay->head = head;
	inflight->head[id] = head;
	inflight->last[head] = last;
	inflight->state[id] = CHAIN_REPLAYED;
	inflight->replay_count++;
	return 0;
}

/* Entries that are neither free nor in flight (a crash between two stores) go back to the free list, one by one. */
static void reclaim_entries(struct virtqueue_inflight *inflight, const bool *owned)
{
	for (uint16_t i = 0; i < inflight->entries; i++) {
		if (owned[i])
			continue;
		inflight->next[i] = inflight->free_head;
		store16(inflight, PACKED_ENTRY(i, next), inflight->free_head);
		in_order();
		inflight->free_head = i;
		inflight->free_count++;
		store16(inflight, PACKED_FIELD(old_free_head), i);
		store16(inflight, PACKED_FIELD(free_head), i);
	}
}

/*
 * A batch that was not published has left used descriptors in the ring: all but its first, which is what hides them
 * from the driver (virtio 1.3 2.8.22). The first that is published now would show them, and the driver would take as
 * done what is yet to be done again. They lie among the slots of what is in flight, which the driver has not got back:
 * all of these become what they were, available.
 */
static void hide_unpublished(struct virtqueue_inflight *inflight)
{
	uint16_t position = inflight->used_next;
	bool wrap = inflight->used_wrap;
	uint32_t slots = 0;

	for (unsigned i = 0; i < inflight->replay_count; i++)
		slots += inflight->replays[i].slots;
	for (uint32_t i = 0; i < slots; i++) {
		guest_store16(inflight->ring + position * sizeof(struct vring_packed_desc) +
				      offsetof(struct vring_packed_desc, flags),
			      wrap ? 1 << VRING_PACKED_DESC_F_AVAIL : 1 << VRING_PACKED_DESC_F_USED);
		if (++position == inflight->size) {
			position = 0;
			wrap = !wrap;
		}
	}
}

static int recover_packed(struct virtqueue_inflight *inflight)
{
	struct packed_region header;
	uint32_t saved = 0;
	uint8_t flag;
	bool *owned;
	int error;

	guest_fetch(&header, inflight->region, sizeof(header));
	error = settle_packed(inflight, &header);
	if (error)
		return error;
	owned = calloc(inflight->entries, sizeof(*owned));
	if (!owned)
		return -ENOMEM;
	for (uint16_t i = 0; i < inflight->entries; i++)
		inflight->next[i] = guest_load16(inflight->region + PACKED_ENTRY(i, next));
	walk_free_list(inflight, owned);
	for (uint16_t i = 0; i < inflight->entries && !error; i++) {
		if (owned[i])
			continue;
		guest_fetch(&flag, inflight->region + PACKED_ENTRY(i, inflight), sizeof(flag));
		if (flag)
			error = recover_packed_chain(inflight, i, owned, &saved);
	}
	if (!error) {
		reclaim_entries(inflight, owned);
		order_replays(inflight);
		hide_unpublished(inflight);
	}
	free(owned);
	return error;
}

static int recover(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	uint16_t entries = guest_load16(inflight->region + SPLIT_FIELD(desc_num));
	uint64_t features;

	guest_fetch(&features, inflight->region, sizeof(features));
	if (features || entries != inflight->entries)
		return -EINVAL;
	if (inflight->packed)
		return recover_packed(inflight);
	return recover_split(inflight, ring);
}

/* Where the queue goes on: behind what was used, and behind what is in flight. */
static void tell_bases(const struct virtqueue_inflight *inflight, const struct inflight_ring *ring,
		       uint16_t *avail_base, uint16_t *used_base)
{
	uint32_t position, slots = 0;
	bool wrap;

	for (unsigned i = 0; i < inflight->replay_count; i++)
		slots += inflight->replays[i].slots;
	if (!inflight->packed) {
		*used_base = ring->used_index;
		*avail_base = (uint16_t)(ring->used_index + slots);
		return;
	}
	position = inflight->used_next + slots; /* slots <= size: wraps at most once */
	wrap = inflight->used_wrap;
	if (position >= inflight->size) {
		position -= inflight->size;
		wrap = !wrap;
	}
	*used_base = (uint16_t)(inflight->used_next | inflight->used_wrap << 15);
	*avail_base = (uint16_t)(position | (uint32_t)wrap << 15);
}

static int allocate(struct virtqueue_inflight *inflight)
{
	/* A hostile region may claim every entry, so replays has room for all of them. */
	inflight->replays = calloc(inflight->entries, sizeof(*inflight->replays));
	inflight->state = calloc(inflight->size, sizeof(*inflight->state));
	inflight->batch = calloc(inflight->size, sizeof(*inflight->batch));
	if (!inflight->replays || !inflight->state || !inflight->batch)
		return -ENOMEM;
	if (!inflight->packed)
		return 0;
	inflight->descriptors = calloc(inflight->size, sizeof(*inflight->descriptors));
	inflight->head = calloc(inflight->size, sizeof(*inflight->head));
	inflight->last = calloc(inflight->entries, sizeof(*inflight->last));
	inflight->next = calloc(inflight->entries, sizeof(*inflight->next));
	return inflight->descriptors && inflight->head && inflight->last && inflight->next ? 0 : -ENOMEM;
}

int virtqueue_inflight_open(struct inflight_area *area, uint16_t index, const struct inflight_ring *ring,
			    uint16_t *avail_base, uint16_t *used_base, struct virtqueue_inflight **result)
{
	struct virtqueue_inflight *inflight;
	uint16_t version;
	int error;

	if (index >= area->queues || !ring->size || ring->size > area->queue_size || ring->packed != area->packed)
		return -EINVAL;
	if (ring->packed && (ring->used_index & 0x7fff) >= ring->size)
		return -EINVAL;
	inflight = calloc(1, sizeof(*inflight));
	if (!inflight)
		return -ENOMEM;
	inflight->mapping = area->mapping;
	inflight->region = area->mapping->host + index * area->region_size;
	inflight->ring = ring->descriptors;
	inflight->size = ring->size;
	inflight->entries = area->queue_size;
	inflight->packed = area->packed;
	inflight->counter = 1;

	error = allocate(inflight);
	if (!error) {
		version = guest_load16(inflight->region + SPLIT_FIELD(version));
		if (version == 0)
			error = initialise(inflight, ring);
		else if (version == REGION_VERSION)
			error = recover(inflight, ring);
		else
			error = -EINVAL;
	}
	if (error) {
		virtqueue_inflight_close(inflight);
		return error;
	}
	for (unsigned i = 0; i < inflight->replay_count; i++)
		inflight->state[inflight->replays[i].id] = CHAIN_REPLAYED;
	tell_bases(inflight, ring, avail_base, used_base);
	*result = inflight;
	return 0;
}

void virtqueue_inflight_close(struct virtqueue_inflight *inflight)
{
	if (!inflight)
		return;
	free(inflight->replays);
	free(inflight->descriptors);
	free(inflight->state);
	free(inflight->batch);
	free(inflight->head);
	free(inflight->last);
	free(inflight->next);
	free(inflight);
}

bool virtqueue_inflight_damaged(const struct virtqueue_inflight *inflight)
{
	return guest_region_damaged(inflight->mapping);
}
