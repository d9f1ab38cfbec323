/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver's side of virtqueues against a device of a few lines, written here from the standard alone: each form of
 * ring moves thousands of buffers in uneven batches, in the orders that a device may choose; then devices that lie.
 */
#include "client/virtqueue_driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GUEST_BASE    0x700000000ULL
#define BUFFER_BASE   0x123000000ULL
#define BUFFER_STRIDE 0x10000u
#define READ_LENGTH   96u
#define WRITE_LENGTH  1500u
#define ROUNDS	      4000
#define PENDING_MAX   1024

#define PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED  (1u << VRING_PACKED_DESC_F_USED)

enum completion { FIFO, SHUFFLED, SKIPPING };

struct form {
	const char *name;
	struct virtqueue_driver_options options;
	unsigned int readable; /* of the segments, those that the device reads; they come first */
	enum completion completion;
};

static const struct form forms[] = {
	/* name			  size  segments			readable  completion */
	{ "split",		  { 256, 1 },				1, FIFO },
	{ "split, writable",	  { 256, 1 },				0, FIFO },
	{ "split, shuffled",	  { 64, 1 },				0, SHUFFLED },
	{ "split, chains of 3",	  { 128, 3 },				1, SHUFFLED },
	{ "split, indirect",	  { 64, 4, .indirect = true },		2, SHUFFLED },
	{ "split, in order",	  { 128, 1, .in_order = true },		1, FIFO },
	{ "split, skipping",	  { 128, 1, .in_order = true },		1, SKIPPING },
	{ "split, skipping, w",	  { 128, 1, .in_order = true },		0, SKIPPING },
	{ "split, skipping, 3",	  { 64, 3, .in_order = true },		1, SKIPPING },
	{ "split, of one",	  { 1, 1 },				1, FIFO },
	{ "packed",		  { 256, 1, .packed = true },		1, FIFO },
	{ "packed, writable",	  { 256, 1, .packed = true },		0, FIFO },
	{ "packed, odd size",	  { 77, 1, .packed = true },		0, SHUFFLED },
	{ "packed, chains of 3",  { 64, 3, .packed = true },		1, SHUFFLED },
	{ "packed, indirect",	  { 32, 4, .packed = true, .indirect = true }, 1, SHUFFLED },
	{ "packed, in order",	  { 128, 1, .packed = true, .in_order = true }, 0, FIFO },
	{ "packed, skipping",	  { 128, 1, .packed = true, .in_order = true }, 0, SKIPPING },
	{ "packed, skipping, 3",  { 100, 3, .packed = true, .in_order = true }, 1, SKIPPING },
	{ "packed, of one",	  { 1, 1, .packed = true },		1, FIFO },
};

struct segment {
	uint64_t address;
	uint32_t length;
	bool writable;
};

/* A chain as the device sees it. */
struct chain {
	uint16_t id;
	uint16_t descriptors;
	unsigned int count;
	struct segment segments[VIRTQUEUE_DRIVER_SEGMENTS_MAX];
};

struct device {
	const struct form *form;
	uint8_t *memory;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_packed_desc *ring;
	struct vring_packed_desc_event *driver_event;
	uint16_t next_avail, next_used;
	bool avail_wrap, used_wrap;
	struct chain pending[PENDING_MAX];
	unsigned int pending_count;
	unsigned int calls;
};

struct fixture {
	struct device device;
	struct virtqueue_driver queue;
	unsigned int random;
};

static unsigned int pick(struct fixture *fixture, unsigned int bound)
{
	fixture->random = fixture->random * 1103515245u + 12345u;
	return (fixture->random >> 16) % bound;
}

static uint64_t segment_address(unsigned int buffer, unsigned int segment)
{
	return BUFFER_BASE + (uint64_t)(buffer * 16 + segment) * BUFFER_STRIDE;
}

static uint32_t segment_length(const struct form *form, unsigned int segment)
{
	return segment < form->readable ? READ_LENGTH + segment : WRITE_LENGTH + segment;
}

static uint32_t writable_length(const struct form *form)
{
	uint32_t length = 0;

	for (unsigned int i = form->readable; i < form->options.segments; i++)
		length += segment_length(form, i);

	return length;
}

static void set_up(struct fixture *fixture, const struct form *form)
{
	struct virtqueue_driver *queue = &fixture->queue;
	struct device *device = &fixture->device;

	memset(fixture, 0, sizeof(*fixture));
	device->form = form;
	device->avail_wrap = device->used_wrap = true;
	device->memory = aligned_alloc(4096, virtqueue_driver_memory_size(&form->options));
	assert_non_null(device->memory);
	memset(device->memory, 0, virtqueue_driver_memory_size(&form->options));
	assert_int_equal(virtqueue_driver_init(queue, &form->options, device->memory, GUEST_BASE), 0);

	device->desc = (void *)(uintptr_t)virtqueue_driver_descriptor_area(queue);
	device->ring = (void *)device->desc;
	device->avail = (void *)(uintptr_t)virtqueue_driver_driver_area(queue);
	device->driver_event = (void *)device->avail;
	device->used = (void *)(uintptr_t)virtqueue_driver_device_area(queue);

	for (unsigned int buffer = 0; buffer < queue->buffers; buffer++)
		for (unsigned int i = 0; i < form->options.segments; i++)
			virtqueue_driver_set_segment(queue, buffer, i, segment_address(buffer, i),
						     segment_length(form, i), i >= form->readable);
}

static void tear_down(struct fixture *fixture)
{
	virtqueue_driver_release(&fixture->queue);
	free(fixture->device.memory);
}

/* ---- the device ---- */

static void *at(struct device *device, uint64_t address)
{
	return device->memory + (address - GUEST_BASE);
}

static void append(struct chain *chain, uint64_t address, uint32_t length, uint16_t flags)
{
	assert_in_range(chain->count, 0, VIRTQUEUE_DRIVER_SEGMENTS_MAX - 1);
	chain->segments[chain->count++] = (struct segment){ address, length, flags & VRING_DESC_F_WRITE };
}

static bool pop_split(struct device *device, struct chain *chain)
{
	uint16_t mask = (uint16_t)(device->form->options.size - 1), flags, at_index;

	if (device->avail->idx == device->next_avail)
		return false;
	at_index = device->avail->ring[device->next_avail++ & mask];
	*chain = (struct chain){ .id = at_index };
	if (device->desc[at_index].flags & VRING_DESC_F_INDIRECT) {
		struct vring_desc *table = at(device, device->desc[at_index].addr);

		for (unsigned int i = 0; i < device->desc[at_index].len / sizeof(*table); i++)
			append(chain, table[i].addr, table[i].len, table[i].flags);
		return true;
	}
	do {
		flags = device->desc[at_index].flags;
		append(chain, device->desc[at_index].addr, device->desc[at_index].len, flags);
		at_index = device->desc[at_index].next;
	} while (flags & VRING_DESC_F_NEXT);

	return true;
}

static void advance(const struct device *device, uint16_t *position, bool *wrap, unsigned int count)
{
	unsigned int next = *position + count;

	if (next >= device->form->options.size) {
		next -= device->form->options.size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)next;
}

static bool pop_packed(struct device *device, struct chain *chain)
{
	struct vring_packed_desc *desc = &device->ring[device->next_avail];
	uint16_t flags = desc->flags;

	if (!!(flags & PACKED_AVAIL) != device->avail_wrap || !!(flags & PACKED_USED) == device->avail_wrap)
		return false;
	*chain = (struct chain){ 0 };
	do {
		desc = &device->ring[device->next_avail];
		flags = desc->flags;
		chain->id = desc->id;
		if (flags & VRING_DESC_F_INDIRECT) {
			struct vring_packed_desc *table = at(device, desc->addr);

			for (unsigned int i = 0; i < desc->len / sizeof(*table); i++)
				append(chain, table[i].addr, table[i].len, table[i].flags);
		} else {
			append(chain, desc->addr, desc->len, flags);
		}
		chain->descriptors++;
		advance(device, &device->next_avail, &device->avail_wrap, 1);
	} while (flags & VRING_DESC_F_NEXT);

	return true;
}

/* Writes one used entry for @chain, and passes over @skipped chains of @descriptors in all. */
static void push(struct device *device, const struct chain *chain, uint32_t length, unsigned int chains,
		 unsigned int descriptors)
{
	uint16_t before = device->next_used;

	if (device->form->options.packed) {
		struct vring_packed_desc *desc = &device->ring[device->next_used];

		desc->id = chain->id;
		desc->len = length;
		desc->addr = 0xdeadbeef; /* the device may write the whole descriptor */
		desc->flags = (uint16_t)((device->used_wrap ? PACKED_AVAIL | PACKED_USED : 0) |
					 (length ? VRING_DESC_F_WRITE : 0));
		advance(device, &device->next_used, &device->used_wrap, descriptors);
		device->calls += device->driver_event->flags != VRING_PACKED_EVENT_FLAG_DISABLE;
		return;
	}

	device->used->ring[device->next_used & (device->form->options.size - 1)] =
		(struct vring_used_elem){ .id = chain->id, .len = length };
	device->next_used = (uint16_t)(device->next_used + chains);
	device->used->idx = device->next_used;
	if (device->form->options.event_index)
		device->calls += vring_need_event(device->avail->ring[device->form->options.size], device->next_used,
						  before);
	else
		device->calls += !(device->avail->flags & VRING_AVAIL_F_NO_INTERRUPT);
}

static unsigned int buffer_of(const struct chain *chain)
{
	return (unsigned int)((chain->segments[0].address - BUFFER_BASE) / BUFFER_STRIDE / 16);
}

/* Takes all there is and checks that each chain is what the driver was told to build. */
static unsigned int device_collect(struct device *device)
{
	const struct form *form = device->form;
	unsigned int collected = 0;
	struct chain *chain = &device->pending[device->pending_count];

	while (form->options.packed ? pop_packed(device, chain) : pop_split(device, chain)) {
		unsigned int buffer = buffer_of(chain);

		assert_int_equal(chain->count, form->options.segments);
		for (unsigned int i = 0; i < chain->count; i++) {
			assert_int_equal(chain->segments[i].address, segment_address(buffer, i));
			assert_int_equal(chain->segments[i].length, segment_length(form, i));
			assert_int_equal(chain->segments[i].writable, i >= form->readable);
		}
		collected++;
		assert_in_range(++device->pending_count, 1, PENDING_MAX - 1);
		chain = &device->pending[device->pending_count];
	}

	return collected;
}

static uint32_t used_length(const struct form *form, unsigned int buffer)
{
	return writable_length(form) ? 1 + buffer % writable_length(form) : 0;
}

static void forget(struct device *device, unsigned int index, unsigned int count)
{
	memmove(&device->pending[index], &device->pending[index + count],
		(device->pending_count - index - count) * sizeof(device->pending[0]));
	device->pending_count -= count;
}

/* Completes up to @count buffers in the manner of the form. */
static void device_complete(struct fixture *fixture, unsigned int count)
{
	struct device *device = &fixture->device;
	enum completion completion = device->form->completion;

	while (count > 0 && device->pending_count > 0) {
		unsigned int index = completion == SHUFFLED ? pick(fixture, device->pending_count) : 0;
		unsigned int chains = 1, descriptors = 0;
		struct chain *last;

		if (completion == SKIPPING)
			chains = 1 + pick(fixture, device->pending_count < count ? device->pending_count : count);
		for (unsigned int i = 0; i < chains; i++)
			descriptors += device->pending[index + i].descriptors;
		last = &device->pending[index + chains - 1];
		push(device, last, used_length(device->form, buffer_of(last)), chains, descriptors);
		forget(device, index, chains);
		count -= chains;
	}
}

/* ---- well-behaved devices ---- */

static void run_form(const struct form *form)
{
	uint32_t whole = writable_length(form);
	struct driver_buffer *held, taken[64];
	unsigned int held_count, back = 0, skipped = 0;
	struct fixture fixture;

	set_up(&fixture, form);
	held_count = fixture.queue.buffers;
	held = calloc(held_count, sizeof(*held));
	assert_non_null(held);
	for (unsigned int i = 0; i < held_count; i++)
		held[i].id = i;

	for (unsigned int round = 0; round < ROUNDS || fixture.queue.in_flight; round++) {
		unsigned int send = round < ROUNDS && held_count ? pick(&fixture, held_count + 1) : 0;
		int count;

		assert_in_range(round, 0, 2 * ROUNDS); /* what is in flight comes back */
		held_count -= send;
		virtqueue_driver_add(&fixture.queue, &held[held_count], send);
		assert_int_equal(device_collect(&fixture.device), 0);	/* nothing before publish */
		virtqueue_driver_publish(&fixture.queue);
		assert_int_equal(device_collect(&fixture.device), send);	/* then all of it */
		device_complete(&fixture, round < ROUNDS ? pick(&fixture, 40) : 40);

		count = virtqueue_driver_take(&fixture.queue, taken, 1 + pick(&fixture, 64));
		assert_true(count >= 0);
		for (int i = 0; i < count; i++, back++) {
			if (taken[i].length != used_length(form, taken[i].id)) {
				assert_int_equal(form->completion, SKIPPING);
				assert_int_equal(taken[i].length, whole);
				skipped++;
			}
			held[held_count++] = taken[i];
		}
		assert_int_equal(held_count + fixture.queue.in_flight, fixture.queue.buffers);
	}

	/* Each buffer is back exactly once, and nothing asked to be called. */
	assert_int_equal(held_count, fixture.queue.buffers);
	for (unsigned int i = 0; i < held_count; i++)
		for (unsigned int n = 0; n < i; n++)
			assert_int_not_equal(held[i].id, held[n].id);
	assert_int_equal(fixture.device.calls, 0);
	assert_true(back > ROUNDS / 3);
	if (form->completion == SKIPPING && whole)
		assert_true(skipped > 0);

	free(held);
	tear_down(&fixture);
}

static void test_forms(void **state)
{
	for (unsigned int i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		for (unsigned int event_index = 0; event_index < 2; event_index++) {
			struct form form = forms[i];

			form.options.event_index = event_index;
			print_message("form %u: %s%s\n", i, form.name, event_index ? ", event index" : "");
			run_form(&form);
		}
	}
}

/* In steady state a split ring whose buffers come back in order is not written, except for its index. */
static void test_split_lines_stay_shared(void **state)
{
	static const struct form form = { "", { 16, 1, .in_order = true }, 1, FIFO };
	struct driver_buffer buffers[16];
	struct vring_desc before[16];
	struct fixture fixture;

	set_up(&fixture, &form);
	for (unsigned int i = 0; i < 16; i++)
		buffers[i].id = i;
	for (unsigned int round = 0; round < 5; round++) {
		virtqueue_driver_add(&fixture.queue, buffers, 16);
		virtqueue_driver_publish(&fixture.queue);
		assert_int_equal(device_collect(&fixture.device), 16);
		device_complete(&fixture, 16);
		assert_int_equal(virtqueue_driver_take(&fixture.queue, buffers, 16), 16);
		for (unsigned int i = 0; i < 16; i++) {
			assert_int_equal(buffers[i].id, i);
			assert_int_equal(fixture.device.avail->ring[i], i);
		}
		if (round > 0)
			assert_memory_equal(before, fixture.device.desc, sizeof(before));
		memcpy(before, fixture.device.desc, sizeof(before));
	}
	tear_down(&fixture);
}

/* ---- notifications ---- */

static bool send_some(struct fixture *fixture, unsigned int first, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		struct driver_buffer buffer = { .id = first + i };

		virtqueue_driver_add(&fixture->queue, &buffer, 1);
	}

	return virtqueue_driver_publish(&fixture->queue);
}

static void test_kicks(void **state)
{
	static const struct {
		bool packed, event_index;
		uint16_t flags; /* of used ring, or of device event suppression */
		uint16_t event; /* index, or offset and wrap counter */
		bool kick;	/* wanted for the first 4 of 8 */
	} cases[] = {
		/* 0 */ { false, false, 0, 0, true },
		/* 1 */ { false, false, VRING_USED_F_NO_NOTIFY, 0, false },
		/* 2 */ { false, true, VRING_USED_F_NO_NOTIFY, 0, true }, /* flags mean nothing with event index */
		/* 3 */ { false, true, 0, 3, true },
		/* 4 */ { false, true, 0, 4, false },
		/* 5 */ { false, true, 0, 0xffff, false },
		/* 6 */ { true, false, VRING_PACKED_EVENT_FLAG_ENABLE, 0, true },
		/* 7 */ { true, false, VRING_PACKED_EVENT_FLAG_DISABLE, 0, false },
		/* 8 */ { true, true, VRING_PACKED_EVENT_FLAG_DESC, 0x8000 | 0, true },
		/* 9 */ { true, true, VRING_PACKED_EVENT_FLAG_DESC, 0x8000 | 3, true },
		/* 10 */ { true, true, VRING_PACKED_EVENT_FLAG_DESC, 0x8000 | 4, false },
		/* 11 */ { true, true, VRING_PACKED_EVENT_FLAG_DESC, 2, false }, /* next round */
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct form form = { "", { 8, 1, .packed = cases[i].packed }, 1, FIFO };
		struct fixture fixture;

		print_message("case %u\n", i);
		form.options.event_index = cases[i].event_index;
		set_up(&fixture, &form);
		if (cases[i].packed) {
			fixture.queue.device_event->flags = cases[i].flags;
			fixture.queue.device_event->off_wrap = cases[i].event;
		} else {
			fixture.device.used->flags = cases[i].flags;
			*fixture.queue.avail_event = cases[i].event;
		}
		assert_int_equal(send_some(&fixture, 0, 4), cases[i].kick);
		assert_false(virtqueue_driver_publish(&fixture.queue)); /* nothing staged, nothing to tell */
		tear_down(&fixture);
	}
}

/* A batch that goes round the end of a packed ring: the event lies before or behind the wrap. */
static void test_kick_across_wrap(void **state)
{
	static const struct {
		uint16_t event;
		bool kick;
	} cases[] = {
		{ 0x8000 | 5, false }, { 0x8000 | 6, true }, { 0x8000 | 7, true },
		{ 0, true },	       { 1, true },	     { 2, false },
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		static const struct form form = { "", { 8, 1, .packed = true, .event_index = true }, 1, FIFO };
		struct driver_buffer taken[8];
		struct fixture fixture;

		print_message("case %u\n", i);
		set_up(&fixture, &form);
		send_some(&fixture, 0, 6);
		device_collect(&fixture.device);
		device_complete(&fixture, 6);
		assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), 6);
		fixture.queue.device_event->flags = VRING_PACKED_EVENT_FLAG_DESC;
		fixture.queue.device_event->off_wrap = cases[i].event;
		assert_int_equal(send_some(&fixture, 0, 4), cases[i].kick);
		tear_down(&fixture);
	}
}

static void test_calls(void **state)
{
	for (unsigned int i = 0; i < 4; i++) {
		struct form form = { "", { 8, 1, .packed = i & 1, .event_index = i & 2 }, 1, FIFO };
		struct driver_buffer taken[8];
		struct fixture fixture;

		print_message("case %u\n", i);
		set_up(&fixture, &form);
		send_some(&fixture, 0, 8);
		device_collect(&fixture.device);

		device_complete(&fixture, 1);
		assert_int_equal(fixture.device.calls, 0);
		assert_true(virtqueue_driver_enable_calls(&fixture.queue)); /* it came before we asked */
		assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), 1);
		assert_false(virtqueue_driver_enable_calls(&fixture.queue));
		device_complete(&fixture, 1);
		assert_int_equal(fixture.device.calls, 1);
		virtqueue_driver_disable_calls(&fixture.queue);
		assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), 1);
		device_complete(&fixture, 6);
		assert_int_equal(fixture.device.calls, 1);
		tear_down(&fixture);
	}
}

/* ---- devices that lie ---- */

static void test_lies(void **state)
{
	static const struct {
		const char *lie;
		uint16_t id;
		uint32_t length;
		unsigned int chains;
	} lies[] = {
		/* 0 */ { "an id beyond the ring", 64, 1, 1 },
		/* 1 */ { "an id that is not outstanding", 5, 1, 1 },
		/* 2 */ { "more written than there is room for", 0, WRITE_LENGTH + 1, 1 },
		/* 3 */ { "an index beyond what is outstanding", 0, 1, 5 },
		/* 4 */ { "an index that goes back", 0, 1, 0xffff },
	};

	for (unsigned int layout = 0; layout < 4; layout++) {
		for (unsigned int i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
			struct form form = { "", { 16, 1, .packed = layout & 1, .in_order = layout & 2 }, 0, FIFO };
			struct chain chain = { .id = lies[i].id };
			struct driver_buffer taken[8];
			struct fixture fixture;

			if (form.options.packed && lies[i].chains != 1)
				continue; /* there is no index to lie about */
			print_message("layout %u, lie %u: %s\n", layout, i, lies[i].lie);
			set_up(&fixture, &form);
			send_some(&fixture, 0, 4);
			push(&fixture.device, &chain, lies[i].length, lies[i].chains, 1);
			assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), -EPROTO);
			tear_down(&fixture);
		}
	}
}

static void test_completed_twice(void **state)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct form form = { "", { 16, 1, .packed = packed }, 0, FIFO };
		struct chain chain = { .id = 2 };
		struct driver_buffer taken[8];
		struct fixture fixture;

		set_up(&fixture, &form);
		send_some(&fixture, 0, 4);
		push(&fixture.device, &chain, 1, 1, 1);
		assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), 1);
		assert_int_equal(taken[0].id, 2);
		push(&fixture.device, &chain, 1, 1, 1);
		assert_int_equal(virtqueue_driver_take(&fixture.queue, taken, 8), -EPROTO);
		tear_down(&fixture);
	}
}

static void test_bad_forms(void **state)
{
	static const struct virtqueue_driver_options bad[] = {
		/* 0 */ { .size = 0, .segments = 1 },
		/* 1 */ { .size = 24, .segments = 1 },
		/* 2 */ { .size = 32769, .segments = 1, .packed = true },
		/* 3 */ { .size = 16, .segments = 0 },
		/* 4 */ { .size = 16, .segments = VIRTQUEUE_DRIVER_SEGMENTS_MAX + 1 },
		/* 5 */ { .size = 2, .segments = 3 },
	};
	static uint8_t memory[4096];

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct virtqueue_driver queue;

		print_message("case %u\n", i);
		assert_int_equal(virtqueue_driver_init(&queue, &bad[i], memory, GUEST_BASE), -EINVAL);
		virtqueue_driver_release(&queue);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forms),
		cmocka_unit_test(test_split_lines_stay_shared),
		cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_kick_across_wrap),
		cmocka_unit_test(test_calls),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_completed_twice),
		cmocka_unit_test(test_bad_forms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
