/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * In-flight tracking (vhost-user "Inflight I/O tracking").
 *
 * Theory of operation
 * -------------------
 * A back-end may complete requests out of order, so after a crash the rings alone do not tell which of the chains before
 * the avail index were finished. The area does: one region a queue, one entry a descriptor, in a file that the front-end
 * keeps and hands to the next back-end.
 *
 *	split	entry [head].inflight is 1 from pop to publish. A batch of used chains is linked through next, from
 *		last_batch_head, before the used index moves; region.used_idx follows after the flags have been cleared. A
 *		crash in between shows as used_idx != the ring's idx, and the list tells whose flags are stale.
 *	packed	the ring's descriptors are overwritten by used ones, so each chain's descriptors are saved in entries of a
 *		free list. old_free_head, old_used_idx and old_used_wrap_counter are the committed state; their twins without
 *		"old" run ahead for the time of one publish. The flags of the descriptor at old_used_idx tell whether the
 *		driver saw the batch.
 *
 * Stores are kept in program order with compiler fences: what can be lost in a crash of this process are the stores
 * that had not been executed yet, never an earlier one.
 *
 * Trust boundary: the front-end can write the area at any time. It is read only while a queue is opened, each field once,
 * checked, and from then on only written; what decides what the data path does (free list, ids, batch) lives in
 * private memory. The area is mapped like guest memory, so that a file that shrinks costs its owner only.
 *
 * A batch is linked into the region when it is published, not when its chains are pushed: pops between two pushes then
 * always see a committed free list.
 */
#include "ring/inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "ring/virtqueue.h"

/* What other back-ends align queue regions to; an area may come from one of them. */
#define REGION_ALIGNMENT 64U
#define REGION_VERSION	 1U

struct split_entry {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct split_region {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct split_entry entries[];
};

struct packed_entry {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

struct packed_region {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct packed_entry entries[];
};

_Static_assert(sizeof(struct split_region) == 16 && sizeof(struct split_entry) == 16, "layout of the specification");
_Static_assert(sizeof(struct packed_region) == 32 && sizeof(struct packed_entry) == 32, "layout of the specification");
_Static_assert(sizeof(struct inflight_description) == 24, "layout of the specification");

struct inflight_area {
	struct guest_region *mapping;
	uint64_t region_size;
	uint16_t queues, queue_size;
	bool packed;
};

enum chain_state {
	CHAIN_IDLE,
	CHAIN_TAKEN,
	CHAIN_REPLAYED, /* in flight since before the start */
	CHAIN_PUSHED,	/* in the batch; a driver that makes it available again before it sees it used is lying */
};

struct replay {
	uint64_t counter;
	uint16_t id, slots;
	uint16_t head;	/* packed: entry */
	uint32_t first; /* packed: index into descriptors */
};

struct virtqueue_inflight {
	const struct guest_region *mapping;
	guest_byte *region;
	const guest_byte *ring; /* packed: the descriptor ring */
	uint16_t size;		/* of the ring */
	uint16_t entries;	/* of the region; at least size */
	bool packed;
	uint64_t counter;

	struct replay *replays; /* in order of their counters */
	unsigned replay_count, replay_next;
	struct vring_packed_desc *descriptors; /* packed: of the replays */

	uint8_t *state;	 /* by id: enum chain_state */
	uint16_t *batch; /* ids pushed and not published */
	unsigned batch_count;
	uint16_t last_batch_head; /* split */

	/* packed */
	uint16_t *head;		 /* by id: first entry */
	uint16_t *last;		 /* by first entry: last entry of the chain */
	uint16_t *next;		 /* the region's next fields */
	uint16_t free_head;
	uint32_t free_count;
	uint16_t used_next;
	bool used_wrap;
};

/* ---- the area ---------------------------------------------------------------------------------------------------- */

static uint64_t region_size(uint16_t queue_size, bool packed)
{
	/* At most 32 + 32768 * 32: no overflow. */
	uint64_t size = packed ? sizeof(struct packed_region) + (uint64_t)queue_size * sizeof(struct packed_entry) :
				 sizeof(struct split_region) + (uint64_t)queue_size * sizeof(struct split_entry);

	return (size + REGION_ALIGNMENT - 1) & ~(uint64_t)(REGION_ALIGNMENT - 1);
}

uint64_t inflight_area_size(uint16_t queues, uint16_t queue_size, bool packed)
{
	if (!queues || !queue_size || queue_size > VIRTQUEUE_SIZE_MAX)
		return 0;
	return queues * region_size(queue_size, packed);
}

int inflight_area_create_fd(struct inflight_description *description, bool packed)
{
	uint64_t size = inflight_area_size(description->num_queues, description->queue_size, packed);
	int fd, error;

	if (!size)
		return -EINVAL;
	fd = memfd_create("sidecore-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	/* Zero bytes are an empty area: version 0. Sealed, so that nobody can shrink it under those who mapped it. */
	if (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)) {
		error = -errno;
		close(fd);
		return error;
	}
	description->mmap_size = size;
	description->mmap_offset = 0;
	return fd;
}

int inflight_area_map(int fd, const struct inflight_description *description, bool packed, struct inflight_area **result)
{
	uint64_t size = inflight_area_size(description->num_queues, description->queue_size, packed), end;
	struct inflight_area *area;
	struct stat status;
	int error;

	if (!size || description->mmap_size < size)
		return -EINVAL;
	/* Only what is needed is mapped, but a front-end that tells more than there is has lost its way. */
	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode) || !checked_add(description->mmap_offset, description->mmap_size, &end) ||
	    end > (uint64_t)status.st_size)
		return -EINVAL;
	/* The fields of the region are accessed as what they are. */
	if (description->mmap_offset % sizeof(uint64_t))
		return -EINVAL;
	area = calloc(1, sizeof(*area));
	if (!area)
		return -ENOMEM;
	error = guest_region_map(fd, description->mmap_offset, 0, size, 0, &area->mapping);
	if (error) {
		free(area);
		return error;
	}
	area->region_size = region_size(description->queue_size, packed);
	area->queues = description->num_queues;
	area->queue_size = description->queue_size;
	area->packed = packed;
	*result = area;
	return 0;
}

void inflight_area_unmap(struct inflight_area *area)
{
	if (!area)
		return;
	guest_region_put(area->mapping);
	free(area);
}

/* ---- access to the region ---------------------------------------------------------------------------------------- */

/* Stores before it are executed before stores behind it; see the theory of operation. */
static inline void in_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

#define SPLIT_FIELD(field)	    offsetof(struct split_region, field)
#define PACKED_FIELD(field)	    offsetof(struct packed_region, field)
#define SPLIT_ENTRY(index, field)   (sizeof(struct split_region) + (size_t)(index) * sizeof(struct split_entry) + \
				     offsetof(struct split_entry, field))
#define PACKED_ENTRY(index, field)  (sizeof(struct packed_region) + (size_t)(index) * sizeof(struct packed_entry) + \
				     offsetof(struct packed_entry, field))

static void store8(struct virtqueue_inflight *inflight, size_t offset, uint8_t value)
{
	guest_write(inflight->region + offset, &value, sizeof(value));
}

static void store16(struct virtqueue_inflight *inflight, size_t offset, uint16_t value)
{
	guest_store16(inflight->region + offset, value);
}

static void store64(struct virtqueue_inflight *inflight, size_t offset, uint64_t value)
{
	guest_write(inflight->region + offset, &value, sizeof(value));
}

static void store_inflight(struct virtqueue_inflight *inflight, uint16_t entry, uint8_t value)
{
	store8(inflight, inflight->packed ? PACKED_ENTRY(entry, inflight) : SPLIT_ENTRY(entry, inflight), value);
}

void inflight_area_forget(struct inflight_area *area)
{
	for (uint16_t i = 0; i < area->queues; i++)
		guest_store16(area->mapping->host + i * area->region_size + SPLIT_FIELD(version), 0);
}

_Static_assert(SPLIT_FIELD(version) == PACKED_FIELD(version) && SPLIT_FIELD(desc_num) == PACKED_FIELD(desc_num),
	       "the common head of both layouts");

/* ---- opening: an empty region ------------------------------------------------------------------------------------ */

static void initialise_split(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	const struct split_entry empty = { 0 };

	for (uint16_t i = 0; i < inflight->entries; i++)
		guest_write(inflight->region + SPLIT_ENTRY(i, inflight), &empty, sizeof(empty));
	store16(inflight, SPLIT_FIELD(last_batch_head), 0);
	store16(inflight, SPLIT_FIELD(used_idx), ring->used_index);
}

static void store_packed_committed(struct virtqueue_inflight *inflight)
{
	store16(inflight, PACKED_FIELD(old_free_head), inflight->free_head);
	store16(inflight, PACKED_FIELD(old_used_idx), inflight->used_next);
	store8(inflight, PACKED_FIELD(old_used_wrap_counter), inflight->used_wrap);
}

static void store_packed_ahead(struct virtqueue_inflight *inflight)
{
	store16(inflight, PACKED_FIELD(free_head), inflight->free_head);
	store16(inflight, PACKED_FIELD(used_idx), inflight->used_next);
	store8(inflight, PACKED_FIELD(used_wrap_counter), inflight->used_wrap);
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

	guest_read(&header, inflight->region, sizeof(header));
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
		guest_read(&entry, inflight->region + SPLIT_ENTRY(i, inflight), sizeof(entry));
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
 * Finish or take back a publish that a crash interrupted: the flags of the first descriptor of the batch, stored last, tell
 * whether the driver saw it.
 */
static int settle_packed(struct virtqueue_inflight *inflight, const struct packed_region *header)
{
	bool committed = false;
	uint16_t available, flags;

	if (header->old_used_idx >= inflight->size || header->used_idx >= inflight->size ||
	    header->used_wrap_counter > 1 || header->old_used_wrap_counter > 1)
		return -EINVAL;
	if (header->used_idx != header->old_used_idx || header->used_wrap_counter != header->old_used_wrap_counter) {
		available = header->old_used_wrap_counter ? 1 << VRING_PACKED_DESC_F_AVAIL :
							    1 << VRING_PACKED_DESC_F_USED;
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

	guest_read(&first, inflight->region + PACKED_ENTRY(head, inflight), sizeof(first));
	if (!first.num || first.num > inflight->size - *saved)
		return -EINVAL;
	replay->first = *saved;
	for (uint16_t i = 0; i < first.num; i++) {
		if (index >= inflight->entries || owned[index])
			return -EINVAL;
		owned[index] = true;
		guest_read(&entry, inflight->region + PACKED_ENTRY(index, inflight), sizeof(entry));
		inflight->descriptors[(*saved)++] = (struct vring_packed_desc){
			.addr = entry.addr, .len = entry.len, .id = entry.id, .flags = entry.flags };
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

static int recover_packed(struct virtqueue_inflight *inflight)
{
	struct packed_region header;
	uint32_t saved = 0;
	uint8_t flag;
	bool *owned;
	int error;

	guest_read(&header, inflight->region, sizeof(header));
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
		guest_read(&flag, inflight->region + PACKED_ENTRY(i, inflight), sizeof(flag));
		if (flag)
			error = recover_packed_chain(inflight, i, owned, &saved);
	}
	if (!error) {
		reclaim_entries(inflight, owned);
		order_replays(inflight);
	}
	free(owned);
	return error;
}

static int recover(struct virtqueue_inflight *inflight, const struct inflight_ring *ring)
{
	uint16_t entries = guest_load16(inflight->region + SPLIT_FIELD(desc_num));
	uint64_t features;

	guest_read(&features, inflight->region, sizeof(features));
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
	return atomic_load_explicit(&inflight->mapping->damaged, memory_order_relaxed);
}

/* ---- data path --------------------------------------------------------------------------------------------------- */

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
		 * A second look at what the walker has checked on a copy of its own: whatever the driver puts there in between
		 * is used only for a replay, by the same walker with the same checks.
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
