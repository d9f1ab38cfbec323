/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_guest.h"

#include <linux/virtio_ring.h>
#include <sys/mman.h>
#include <unistd.h>

static void add_region(struct guest *guest, uint64_t offset, uint64_t address, uint64_t size)
{
	struct guest_memory *memory;
	struct guest_region *region;

	fuzz_require(!guest_region_map(guest->fd, offset, address, size, address, &region));
	fuzz_require(!guest_memory_with(guest->memory, region, &memory));
	guest_region_put(region);
	guest_memory_free(guest->memory);
	guest->memory = memory;
}

void guest_open(struct guest *guest)
{
	guest->fd = memfd_create("guest", MFD_CLOEXEC);
	fuzz_require(guest->fd >= 0 && !ftruncate(guest->fd, GUEST_FILE_SIZE));
	guest->bytes = mmap(NULL, GUEST_FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, guest->fd, 0);
	fuzz_require(guest->bytes != MAP_FAILED);
	guest->memory = guest_memory_create();
	fuzz_require(guest->memory);
	add_region(guest, 0, GUEST_LOW, GUEST_LOW_SIZE);
	add_region(guest, GUEST_LOW_SIZE, GUEST_SEAM, GUEST_HIGH_SIZE);
	add_region(guest, GUEST_LOW_SIZE + GUEST_HIGH_SIZE, GUEST_APART, GUEST_APART_SIZE);
}

void guest_clear(struct guest *guest)
{
	memset(guest->bytes, 0, GUEST_FILE_SIZE);
}

void guest_queue_init(struct guest_queue *queue, struct guest *guest, unsigned number, uint8_t form)
{
	static const uint16_t split_sizes[8] = { 16, 1, 2, 4, 8, 32, 64, 64 };
	static const uint16_t packed_sizes[8] = { 16, 1, 2, 3, 7, 33, 64, 63 };
	bool packed = form & 1;

	*queue = (struct guest_queue){
		.guest = guest,
		.place = GUEST_QUEUE(number),
		.size = packed ? packed_sizes[form >> 4 & 7] : split_sizes[form >> 4 & 7],
		.packed = packed,
		.indirect = form & 2,
		.event_index = form & 4,
		.wrap = true,
	};
}

void guest_queue_config(const struct guest_queue *queue, struct virtqueue_config *config)
{
	guest_byte *base = queue->guest->memory->regions[0]->host + queue->place;

	*config = (struct virtqueue_config){
		.memory = queue->guest->memory,
		.descriptors = base,
		.driver_area = base + GUEST_DRIVER_AREA,
		.device_area = base + GUEST_DEVICE_AREA,
		.size = queue->size,
		.avail_base = queue->packed ? 0x8000 : 0,
		.used_base = queue->packed ? 0x8000 : 0,
		.packed = queue->packed,
		.indirect = queue->indirect,
		.event_index = queue->event_index,
		.call_fd = -1,
	};
}

static void *at(const struct guest_queue *queue, uint32_t offset)
{
	return queue->guest->bytes + queue->place + offset;
}

/* A table of split or packed form: order is all that a packed one has. Return: its guest address. */
static uint64_t write_table(struct guest_queue *queue, const struct guest_buffer *buffers, unsigned count)
{
	uint32_t offset = GUEST_TABLES + queue->next % 2U * GUEST_CHAIN_MAX * 16U;
	struct vring_desc *table = (struct vring_desc *)(void *)(queue->guest->bytes + offset);

	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = buffers[i].writable ? VRING_DESC_F_WRITE : 0;

		if (queue->packed)
			table[i] = (struct vring_desc){ buffers[i].address, buffers[i].length, 0, flags };
		else
			table[i] = (struct vring_desc){ buffers[i].address, buffers[i].length,
							i + 1 < count ? flags | VRING_DESC_F_NEXT : flags,
							(uint16_t)(i + 1) };
	}
	return GUEST_LOW + offset;
}

static void add_split(struct guest_queue *queue, const struct guest_buffer *buffers, unsigned count, uint64_t table)
{
	struct vring_desc *descriptors = at(queue, 0);
	struct vring_avail *avail = at(queue, GUEST_DRIVER_AREA);
	uint16_t head = queue->next;

	if (table) {
		descriptors[head] = (struct vring_desc){ table, count * 16, VRING_DESC_F_INDIRECT, 0 };
		queue->next = (uint16_t)((head + 1U) % queue->size);
	} else {
		for (unsigned i = 0; i < count; i++) {
			uint16_t next = (uint16_t)((queue->next + 1U) % queue->size);
			uint16_t flags = buffers[i].writable ? VRING_DESC_F_WRITE : 0;

			descriptors[queue->next] =
				(struct vring_desc){ buffers[i].address, buffers[i].length,
						     i + 1 < count ? flags | VRING_DESC_F_NEXT : flags, next };
			queue->next = next;
		}
	}
	avail->ring[queue->avail % queue->size] = head;
	avail->idx = ++queue->avail;
}

static void add_packed(struct guest_queue *queue, const struct guest_buffer *buffers, unsigned count, uint64_t table)
{
	struct vring_packed_desc *ring = at(queue, 0);
	uint16_t id = queue->next;

	for (unsigned i = 0; i < (table ? 1 : count); i++) {
		struct vring_packed_desc *slot = &ring[queue->next];
		uint16_t flags = queue->wrap ? 1U << VRING_PACKED_DESC_F_AVAIL : 1U << VRING_PACKED_DESC_F_USED;

		if (table)
			*slot = (struct vring_packed_desc){ table, count * 16, id, flags | VRING_DESC_F_INDIRECT };
		else
			*slot = (struct vring_packed_desc){ buffers[i].address, buffers[i].length, id,
							    (uint16_t)(flags |
								       (buffers[i].writable ? VRING_DESC_F_WRITE : 0) |
								       (i + 1 < count ? VRING_DESC_F_NEXT : 0)) };
		if (++queue->next == queue->size) {
			queue->next = 0;
			queue->wrap = !queue->wrap;
		}
	}
}

void guest_queue_add(struct guest_queue *queue, const struct guest_buffer *buffers, unsigned count, bool indirect)
{
	uint64_t table = indirect ? write_table(queue, buffers, count) : 0;

	if (queue->packed)
		add_packed(queue, buffers, count, table);
	else
		add_split(queue, buffers, count, table);
}

/* One byte says where and how long; what it does not say is read behind it. */
static void read_buffer(struct fuzz_input *input, struct guest_buffer *buffer)
{
	uint8_t form = fuzz_u8(input);

	switch (form & 3) {
	case 0:
		buffer->address = GUEST_LOW + GUEST_DATA + fuzz_u16(input) % GUEST_DATA_SIZE;
		break;
	case 1:
		buffer->address = GUEST_SEAM - fuzz_u8(input);
		break;
	case 2:
		buffer->address = GUEST_APART + GUEST_APART_SIZE - fuzz_u8(input);
		break;
	default:
		buffer->address = form & 0x40 ? fuzz_u64(input) : GUEST_LOW + fuzz_u32(input) % 0x200000;
		break;
	}
	buffer->writable = form & 4;
	switch (form >> 3 & 3) {
	case 0:
		buffer->length = 1U + fuzz_u8(input);
		break;
	case 1:
		buffer->length = fuzz_u16(input);
		break;
	case 2:
		buffer->length = 512U << (fuzz_u8(input) & 7);
		break;
	default:
		buffer->length = fuzz_u32(input);
		break;
	}
}

void guest_queue_offer(struct guest_queue *queue, struct fuzz_input *input)
{
	struct guest_buffer buffers[GUEST_CHAIN_MAX];
	uint8_t form = fuzz_u8(input);
	unsigned count = 1 + form % GUEST_CHAIN_MAX, distinct = 1 + (form >> 5) % 4U;

	/* Long chains repeat their last buffer, so that they cost few bytes of input. */
	for (unsigned i = 0; i < count; i++) {
		if (i < distinct)
			read_buffer(input, &buffers[i]);
		else
			buffers[i] = buffers[distinct - 1];
	}
	guest_queue_add(queue, buffers, count, form & 0x80);
}

void guest_scribble(struct guest *guest, struct fuzz_input *input)
{
	uint32_t offset = fuzz_u16(input), length = 1U + fuzz_u8(input) % 32;

	/* Rings and tables are where it hurts. */
	offset %= offset & 0x8000 ? GUEST_FILE_SIZE - 32U : GUEST_DATA;
	fuzz_bytes(input, guest->bytes + offset, length);
}

void guest_queue_jump(struct guest_queue *queue, struct fuzz_input *input)
{
	uint16_t value = fuzz_u16(input);

	if (queue->packed) {
		struct vring_packed_desc *ring = at(queue, 0);

		ring[value % queue->size].flags = fuzz_u16(input);
	} else {
		struct vring_avail *avail = at(queue, GUEST_DRIVER_AREA);

		avail->idx = queue->avail = value & 0x8000 ? value : (uint16_t)(queue->avail + value % 4U);
	}
}

static bool in_region(const struct guest *guest, const struct guest_segment *segment)
{
	for (unsigned i = 0; i < guest->memory->region_count; i++) {
		const struct guest_region *region = guest->memory->regions[i];
		uintptr_t offset = (uintptr_t)segment->base - (uintptr_t)region->host;

		if (offset < region->size && segment->length <= region->size - offset)
			return true;
	}
	return false;
}

void guest_check_chain(const struct guest *guest, const struct chain *chain, uint16_t size)
{
	uint64_t readable = 0, writable = 0;
	uint8_t byte;

	fuzz_require(chain->id < size && chain->slots >= 1 && chain->slots <= size);
	fuzz_require((unsigned)chain->readable_count + chain->writable_count <= CHAIN_SEGMENTS_MAX);
	fuzz_require(chain->readable_count || chain->writable_count);
	for (unsigned i = 0; i < (unsigned)chain->readable_count + chain->writable_count; i++) {
		const struct guest_segment *segment = &chain->segments[i];

		fuzz_require(segment->length && in_region(guest, segment));
		*(i < chain->readable_count ? &readable : &writable) += segment->length;
		guest_read(&byte, segment->base + segment->length - 1, 1);
		if (i >= chain->readable_count)
			guest_write(segment->base, &byte, 1);
	}
	fuzz_require(readable == chain->readable_length && writable == chain->writable_length);
}
