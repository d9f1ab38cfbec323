/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transmit descriptors that are alike: nearly all, and what a batch begins with.
 *
 * Theory of operation
 * -------------------
 * A *run* are frames of one descriptor each, each in one region of memory, for which nothing has to be done: no
 * checksum, no tag, no segmentation. The first descriptor says what the others must be equal to, bit by bit but for
 * lengths and the bits that nobody looks at, so that kinds, options and contexts are looked at once. A run ends at the
 * first descriptor that is anything else; that one, and what follows in the batch, is left to the general walk
 *(intel_transmit.c), which fetches it anew, makes every check, and alone stops the card.
 *
 * Two loops: the first validates and translates, and fetches lines of the frames; the second copies the headers, when
 * the lines have had time to arrive. A descriptor is read as two words, each once, and only locals are looked at.
 *
 * The fields that make a frame plain, by kind (82576 7.2.2.3, 8254x 3.3.3 and 3.3.7):
 *
 *	legacy		EOP; not IC, VLE. CSO, CSS and the special field then mean nothing
 *	extended data	EOP; not TSE, VLE, IXSM, TXSM; a length of 20 bits
 *	advanced data	EOP; not TSE, VLE, IXSM, TXSM; PAYLEN is not looked at, here nor in the general walk
 *
 * Context: the lane's sidecore.
 */
#include "device/intel/intel_transmit.h"
#include "memory/guest_window.h"

#define DESCRIPTOR_SIZE	  16U
#define DESCRIPTOR_HIGH	  8U  /* offset of the word with command and status */
#define DESCRIPTOR_STATUS 12U /* of the byte that the done bit is in */

/** What must be equal in that word: all but the length, and PAYLEN and the special field, which differ from frame to
 * frame. */
#define ALIKE	       0x00003fffffff0000ULL
#define ALIKE_EXTENDED 0x00003ffffff00000ULL

#define LENGTH_LAST (FRAME_LENGTH_MAX - FRAME_TAG_LENGTH) /* as intel_offload_build() has it */

/* What makes a run: in locals, since stores to guest memory may alias anything. */
struct walk {
	const struct guest_memory *memory;
	const struct guest_region **hint;
	struct guest_window window;
	uint64_t alike;	   /* mask */
	uint64_t expected; /* under it */
	uint32_t length_mask;
	uint32_t length, unlike; /* of the first frame; bits in which others differ */
	uint64_t bytes, bytes_max;
};

/* Is this the second word of a descriptor that makes a frame by itself, and a plain one? @alike: what must be as here.
 */
static bool is_plain(const struct intel_nic *nic, uint64_t high, uint64_t *alike)
{
	uint32_t command = (uint32_t)high, type = command >> TXD_DTYP_SHIFT & 15, must_not = TXD_VLE;

	*alike = ALIKE;
	if (!(command & TXD_DEXT)) {
		must_not |= TXD_LEGACY_IC;
	} else if (nic->variant->generation == INTEL_82576) {
		if (type != 3)
			return false;
		must_not |= TXD_ADVANCED_TSE;
	} else {
		if (type != 1)
			return false;
		must_not |= TXD_TSE;
		*alike = ALIKE_EXTENDED;
	}
	if (command & TXD_DEXT && (uint32_t)(high >> 32) & (TXD_IXSM | TXD_TXSM))
		return false;
	return command & TXD_EOP && !(command & must_not);
}

/*
 * @count descriptors from @at on, which are not behind the ring's end. A function of its own, for the sake of
 * registers. Return: how many belong to the run.
 */
static __attribute__((noinline)) unsigned walk_piece(struct walk *state, const guest_byte *at, unsigned count,
						     struct guest_segment *segments)
{
	const guest_byte *begin = at, *end = at + (size_t)DESCRIPTOR_SIZE * count;
	struct walk walk = *state;

	for (; at < end && walk.bytes < walk.bytes_max; at += DESCRIPTOR_SIZE, segments++) {
		uint64_t unlike = guest_load64(at + DESCRIPTOR_HIGH) ^ walk.expected;
		uint32_t length = (uint32_t)unlike & walk.length_mask;
		uint64_t address;
		guest_byte *base;

		if (unlikely(unlike & walk.alike || length - FRAME_LENGTH_MIN > LENGTH_LAST - FRAME_LENGTH_MIN))
			break;
		address = guest_load64(at);
		base = guest_window_translate(&walk.window, address, length);
		if (unlikely(!base)) {
			base = guest_window_move(&walk.window, walk.memory, walk.hint, address, length);
			if (!base)
				break;
		}
		__builtin_prefetch(base);
		segments->base = base;
		segments->length = length;
		walk.bytes += length;
		walk.unlike |= length ^ walk.length;
	}
	state->window = walk.window;
	state->bytes = walk.bytes;
	state->unlike = walk.unlike;
	return (unsigned)((size_t)(at - begin) / DESCRIPTOR_SIZE);
}

/* Return: bits of the destinations' first bytes. */
static __attribute__((noinline)) uint8_t make_frames(struct frame *frame, struct guest_segment *segment, unsigned count)
{
	uint8_t destinations = 0;

	for (const struct frame *end = frame + count; frame < end; frame++, segment++) {
		uint32_t length = (uint32_t)segment->length;

		frame->segments = segment;
		if (likely(length <= FRAME_HEADER_MAX)) {
			frame_copy_header(frame, segment->base, length);
			frame_set_plain(frame, length, (uint16_t)length);
			frame->segment_count = 0;
		} else {
			frame_copy_header(frame, segment->base, FRAME_HEADER_MAX);
			frame_set_plain(frame, length, FRAME_HEADER_MAX);
			frame->segment_count = 1;
			segment->base += FRAME_HEADER_MAX;
			segment->length -= FRAME_HEADER_MAX;
		}
		destinations |= frame->header[0];
	}
	return destinations;
}

void intel_run_build(struct intel_lane *lane, struct intel_ring *ring, unsigned count, uint64_t bytes_max,
		     struct intel_run *run)
{
	const guest_byte *first = ring->descriptors + (size_t)DESCRIPTOR_SIZE * ring->head;
	const struct intel_nic *nic = lane->nic;
	uint64_t high = guest_load64(first + DESCRIPTOR_HIGH);
	struct walk walk = {
		.memory = nic->device.memory,
		.hint = &ring->hint,
		.window = guest_window_of(ring->hint),
		.bytes_max = bytes_max,
	};
	unsigned piece = min(count, ring->count - ring->head);

	/* What is looked at here is only what others are compared with: the walk reads the first one as it does the
	 * others. */
	__asm__ volatile("" : "+r"(high));
	*run = (struct intel_run){ 0 };
	if (!is_plain(nic, high, &walk.alike))
		return;
	walk.expected = high & walk.alike;
	walk.length_mask = walk.alike == ALIKE ? TXD_LENGTH : TXD_LENGTH_EXTENDED;
	walk.length = (uint32_t)high & walk.length_mask;

	run->count = walk_piece(&walk, first, piece, lane->segments);
	if (unlikely(run->count == piece && piece < count))
		run->count += walk_piece(&walk, ring->descriptors, count - piece, lane->segments + piece);
	run->command = (uint32_t)high;
	run->status = (uint8_t)(high >> 32);
	run->length = walk.length;
	run->bytes = walk.bytes;
	run->alike = !walk.unlike;
	if (make_frames(lane->frames, lane->segments, run->count) & 1)
		run->alike = false;
}

void intel_run_write_back(const struct intel_ring *ring, const struct intel_run *run, unsigned count)
{
	/* The others of these four bits are reserved, and are written as zeroes (82576 7.2.2.4, 8254x 3.3.3.2). */
	uint8_t done = (uint8_t)((run->status & ~15U) | TXD_DD);
	uint32_t index = ring->head;

	/* Release: the frames were read before their buffers are given back. */
	atomic_thread_fence(memory_order_release);
	while (count) {
		unsigned piece = min(count, ring->count - index);
		uint8_t *at =
			(uint8_t *)(void *)(ring->descriptors + (size_t)DESCRIPTOR_SIZE * index + DESCRIPTOR_STATUS);

		for (const uint8_t *end = at + (size_t)DESCRIPTOR_SIZE * piece; at < end; at += DESCRIPTOR_SIZE)
			__atomic_store_n(at, done, __ATOMIC_RELAXED);
		count -= piece;
		index = 0;
	}
}
