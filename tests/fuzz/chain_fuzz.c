/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: virtqueues against a hostile driver.
 *
 * Theory of operation
 * -------------------
 * Input: the queue's form, its bases, then steps. A step is the driver's (offer a chain, scribble into memory, jump
 * with the index), the device's (pop, push in any order, unpop, publish, arm, disarm), or a crash: the queue is
 * forgotten as it stands and started again, with an in-flight area whose bytes the driver may have changed meanwhile.
 *
 * Oracles, beside the sanitizers and the guard areas around the regions
 * - a popped chain lies in guest memory, and its counts, lengths and ids keep the promises of struct chain;
 * - what is outstanding never passes the queue's size;
 * - a broken queue pops nothing and says why, and pops nothing else until it is started again;
 * - an area that cannot be recovered can be forgotten, and then always opened.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_guest.h"
#include "ring/inflight.h"

#define STEPS	     400U
#define AREA_SIZE    8192U
#define AREA_ENTRIES GUEST_QUEUE_SIZE_MAX
#define BATCH	     32U

struct popped {
	struct chain chain;
	bool pushed;
};

struct state {
	struct fuzz_input input;
	struct guest_queue driver;
	struct virtqueue queue;
	struct virtqueue_config config;
	struct inflight_area *area;
	struct virtqueue_inflight *inflight;
	struct popped popped[2 * GUEST_QUEUE_SIZE_MAX]; /* in the order of the pops */
	unsigned popped_count;
	unsigned unpop_floor; /* chains before it are no longer the last ones popped */
	struct guest_segment segments[CHAIN_SEGMENTS_MAX];
	struct segment_pool pool;
};

static struct guest guest;
static int area_fd, log_fd;
static uint8_t *area_bytes;

static void open_files(void)
{
	guest_open(&guest);
	area_fd = memfd_create("area", MFD_CLOEXEC);
	log_fd = memfd_create("log", MFD_CLOEXEC);
	fuzz_require(area_fd >= 0 && log_fd >= 0 && !ftruncate(area_fd, AREA_SIZE) && !ftruncate(log_fd, 4096));
	area_bytes = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, area_fd, 0);
	fuzz_require(area_bytes != MAP_FAILED);
}

static int open_inflight(struct state *state)
{
	const struct inflight_ring ring = {
		.descriptors = state->config.descriptors,
		.size = state->config.size,
		.used_index =
			state->config.packed ? state->config.used_base : guest_load16(state->config.device_area + 2),
		.packed = state->config.packed,
	};

	return virtqueue_inflight_open(state->area, 0, &ring, &state->config.avail_base, &state->config.used_base,
				       &state->inflight);
}

static bool start(struct state *state)
{
	state->popped_count = 0;
	state->unpop_floor = 0;
	state->config.inflight = NULL;
	if (!state->config.packed)
		state->config.used_base = guest_load16(state->config.device_area + 2);
	if (state->area) {
		if (open_inflight(state)) {
			inflight_area_forget(state->area);
			/* The bases are the front-end's word: a wrong one is refused whatever the area says. */
			if (state->config.packed && (state->config.used_base & 0x7fff) >= state->config.size)
				return false;
			fuzz_require(!open_inflight(state));
		}
		state->config.inflight = state->inflight;
	}
	if (virtqueue_start(&state->queue, &state->config)) {
		virtqueue_inflight_close(state->inflight);
		state->inflight = NULL;
		return false;
	}
	return true;
}

static void begin(struct state *state)
{
	uint8_t form = fuzz_u8(&state->input), more = fuzz_u8(&state->input);
	struct inflight_description description = { .mmap_size = AREA_SIZE,
						    .num_queues = 1,
						    .queue_size = AREA_ENTRIES };

	guest_queue_init(&state->driver, &guest, 0, form);
	guest_queue_config(&state->driver, &state->config);
	if (more & 1) {
		state->config.avail_base = fuzz_u16(&state->input);
		state->config.used_base = fuzz_u16(&state->input);
		state->driver.avail = state->config.avail_base;
	}
	if (more & 2) {
		fuzz_require(!inflight_area_map(area_fd, &description, state->config.packed, &state->area));
	}
	if (more & 4) {
		fuzz_require(!dirty_log_map(log_fd, 1 + (more >> 4), 0, &state->config.log));
		state->config.log_used = more & 8;
	}
	state->pool = (struct segment_pool){ .segments = state->segments, .capacity = CHAIN_SEGMENTS_MAX };
}

static unsigned outstanding(const struct state *state)
{
	unsigned slots = 0;

	for (unsigned i = 0; i < state->popped_count; i++)
		slots += state->popped[i].pushed ? 0 : state->popped[i].chain.slots;
	return slots;
}

static void pop(struct state *state)
{
	struct chain chains[BATCH];
	unsigned want = 1 + fuzz_u8(&state->input) % BATCH, count;

	/* Chains that are no longer of interest make room. */
	while (state->popped_count && state->popped[state->popped_count - 1].pushed)
		state->unpop_floor = --state->popped_count;
	if (state->popped_count + want > array_size(state->popped))
		return;
	state->pool.used = 0;
	count = virtqueue_pop(&state->queue, chains, want, &state->pool);
	fuzz_require(count <= want && state->pool.used <= state->pool.capacity);
	for (unsigned i = 0; i < count; i++) {
		guest_check_chain(&guest, &chains[i], state->config.size);
		state->popped[state->popped_count++] = (struct popped){ .chain = chains[i] };
	}
	fuzz_require(outstanding(state) <= state->config.size);
	if (state->queue.broken) {
		fuzz_require(state->queue.broken < VIRTQUEUE_BREAK_REASONS);
		fuzz_require(!virtqueue_pop(&state->queue, chains, BATCH, &state->pool));
	}
}

static void push(struct state *state)
{
	struct popped *popped;

	if (!state->popped_count)
		return;
	popped = &state->popped[fuzz_u8(&state->input) % state->popped_count];
	if (popped->pushed)
		return;
	popped->pushed = true;
	virtqueue_push(&state->queue, popped->chain.id, popped->chain.slots, popped->chain.writable_length);
}

static void unpop(struct state *state)
{
	/* Only the last one popped, and only while it is nobody's: that is the contract. */
	if (state->popped_count <= state->unpop_floor || state->popped[state->popped_count - 1].pushed)
		return;
	virtqueue_unpop(&state->queue, &state->popped[--state->popped_count].chain);
}

static void end(struct state *state)
{
	virtqueue_stop(&state->queue);
	virtqueue_inflight_close(state->inflight);
	state->inflight = NULL;
}

/* The front-end may write to the area at any time. */
static void scribble_area(struct fuzz_input *input)
{
	uint32_t place = fuzz_u16(input) % (AREA_SIZE - 16);

	fuzz_bytes(input, area_bytes + place, fuzz_u8(input) % 16U);
}

static bool step(struct state *state)
{
	switch (fuzz_u8(&state->input) % 14) {
	case 0:
	case 1:
		guest_queue_offer(&state->driver, &state->input);
		break;
	case 2:
		guest_scribble(&guest, &state->input);
		break;
	case 3:
		guest_queue_jump(&state->driver, &state->input);
		break;
	case 4:
	case 5:
		pop(state);
		break;
	case 6:
	case 7:
		push(state);
		break;
	case 8:
		unpop(state);
		break;
	case 9:
		virtqueue_publish(&state->queue);
		break;
	case 10:
		if (virtqueue_arm(&state->queue))
			virtqueue_disarm(&state->queue);
		break;
	case 11:
		scribble_area(&state->input);
		break;
	case 12: /* the process dies, and another takes over where the rings are */
		end(state);
		return start(state);
	case 13: /* a stop and a start, as a front-end does it */
		state->config.avail_base = (uint16_t)virtqueue_stop(&state->queue);
		end(state);
		return start(state);
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct state state;

	if (!guest.bytes)
		open_files();
	guest_clear(&guest);
	memset(area_bytes, 0, AREA_SIZE);
	memset(&state, 0, sizeof(state));
	state.input = (struct fuzz_input){ data, size };

	begin(&state);
	if (start(&state)) {
		for (unsigned i = 0; i < STEPS && state.input.left; i++) {
			if (!step(&state))
				break;
		}
		end(&state);
	}
	inflight_area_unmap(state.area);
	dirty_log_unmap(state.config.log);
	return 0;
}
