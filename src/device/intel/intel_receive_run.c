/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Received frames that are like the one before: nearly all.
 *
 * Theory of operation
 * -------------------
 * The switch delivers runs of frames with the same addresses. When one of them was received in the general way
 * (intel_receive.c), those that follow it with the same destination and type, none of them tagged, pass the same
 * filters for as long as registers stay as they are (struct intel_habit). Two loops: the first translates as
 * many buffers as may be needed, and fetches their first lines; the second copies frames into them and notes what will
 * be written back. A descriptor is read once, by one load, as only its address counts; if its buffer is not used in the
 * end, it is as if it had not been looked at.
 *
 * What is unusual ends the run, and is left to the general way, which makes every check, and alone stops the card: a
 * buffer at a null address, or not in one region; buffers of less than the shortest frame; frames that need more than
 * one of them; forms with several buffers for each descriptor; another queue; a ring that is at its end, or has no more
 * buffers.
 *
 * Context: under the claim of the port.
 */
#include "device/intel/intel_receive.h"
#include "memory/guest_window.h"

#define ETHERTYPE_IPV4 0x0800U
#define ETHERTYPE_IPV6 0x86ddU
#define IPV4	       FRAME_LENGTH_MIN
#define IPV4_PLAIN     0x45U   /* version, and length of a header without options */
#define IPV4_FRAGMENT  0xff3fU /* more fragments, or an offset: of the field as it is in memory */
#define IPV4_END       24U     /* of header and ports */

/**
 * Buffers that are taken at first, unless the last run was longer, and how many times more the next time: frames may go
 * elsewhere from any on.
 */
#define TAKEN_FIRST  4U
#define TAKEN_FACTOR 8U

/* What a run needs: in locals, since stores to guest memory may alias anything. */
struct run {
	struct intel_nic *nic;
	struct intel_ring *ring;
	unsigned queue;
	uint32_t length_max;
	bool described; /* frames have to be looked into */
	bool ipv4;
	bool hashed;
	struct intel_described last;
	uint64_t first_word, second_word; /* those, or of frames that are not looked into */
	uint64_t length_unit;		  /* of the second word */
	uint32_t padded;		  /* frames shorter than that have something behind them */
	uint32_t destination_low;	  /* all three as in memory */
	uint16_t destination_high, type;
	uint32_t length, unlike; /* of the first frame; bits in which others differ */
	uint64_t bytes;
};

/* Is it right? A sum of words is if it is a multiple of 0xffff; so is 2^64 - 1, and carries come back. */
static inline bool has_good_checksum(const struct frame *frame)
{
	uint64_t first, second, sum;
	uint32_t third;
	bool carry;

	memcpy(&first, frame->header + IPV4, sizeof(first));
	memcpy(&second, frame->header + IPV4 + 8, sizeof(second));
	memcpy(&third, frame->header + IPV4 + 16, sizeof(third));
	carry = __builtin_add_overflow(first, second, &sum);
	sum += carry; /* which cannot carry again */
	carry = __builtin_add_overflow(sum, third, &sum);
	sum += carry;
	return sum % 0xffff == 0;
}

/* Is it a header of IPv4 without options, whole, and with what may be ports behind it? */
static inline bool is_plain_ipv4(const struct frame *frame)
{
	uint16_t fragment;

	memcpy(&fragment, frame->header + IPV4 + 6, sizeof(fragment));
	return likely(frame->header[IPV4] == IPV4_PLAIN) && likely(!(fragment & IPV4_FRAGMENT)) &&
	       likely(frame->header_length >= IPV4 + IPV4_END) && likely(has_good_checksum(frame));
}

static inline bool is_same_flow(const struct run *run, const struct frame *frame)
{
	return !memcmp(&run->last.addresses, frame->header + IPV4 + 12, 8) &&
	       !memcmp(&run->last.ports, frame->header + IPV4 + 20, 4);
}

/* Does intel_describe() say of this frame what it said of the last one? It looks at nothing else. */
static inline bool is_remembered(const struct run *run, const struct frame *frame)
{
	return likely(frame->header[IPV4 + 9] == run->last.protocol) &&
	       likely(frame->offload.checksum_valid == run->last.verified) && is_plain_ipv4(frame) &&
	       (likely(!run->hashed) || likely(is_same_flow(run, frame)));
}

/* Words of a write-back by intel_describe(); remembered, if others may be told by them. Return: false: another queue.
 */
static __attribute__((noinline)) bool describe(struct run *run, const struct frame *frame)
{
	struct intel_report report = { 0 };

	run->last.protocol = INTEL_NO_PROTOCOL;
	if (intel_describe(run->nic, &run->nic->habit.terms, frame, &report) != run->queue)
		return false;
	run->first_word = run->last.first_word = intel_first_word(&report);
	run->second_word = run->last.second_word = intel_second_word(run->ring, report.status | RXD_DD | RXD_EOP, 0);
	if (run->ipv4 && is_plain_ipv4(frame)) {
		run->last.protocol = frame->header[IPV4 + 9];
		run->last.verified = frame->offload.checksum_valid;
		memcpy(&run->last.addresses, frame->header + IPV4 + 12, 8);
		memcpy(&run->last.ports, frame->header + IPV4 + 20, 4);
	}
	return true;
}

/*
 * Buffers of up to @count descriptors from the ring's head on into nic->segments, each in one region. Their first lines
 * are fetched, for somebody will write there.
 * Return: how many.
 */
static __attribute__((noinline)) unsigned take_buffers(struct intel_nic *nic, struct intel_ring *ring, unsigned count)
{
	struct guest_window window = guest_window_of(ring->hint);
	const guest_byte *at = ring->descriptors + (size_t)16 * ring->head;
	struct guest_segment *segment = nic->segments, *end = segment + count;
	uint32_t size = ring->buffer_sizes[0];
	uint64_t places = guest_window_places(&window, size);

	for (; segment < end; segment++, at += 16) {
		uint64_t address = guest_load64(at);
		guest_byte *base;

		/* A null address is no buffer, wherever it may lie. */
		if (unlikely(!address))
			break;
		if (likely(address - window.start < places)) {
			base = guest_window_place(&window, address);
		} else {
			base = guest_window_move(&window, nic->device.memory, &ring->hint, address, size);
			if (!base)
				break;
			places = guest_window_places(&window, size);
		}
		guest_prefetch_write(base);
		segment->base = base;
	}
	return (unsigned)(segment - nic->segments);
}

/* Zeroes behind a frame at @base: padding, and in the place of a check sequence. Return: bytes with them. */
static __attribute__((noinline)) uint32_t pad(const struct run *run, guest_byte *base, uint32_t length)
{
	uint32_t need = max(length, INTEL_FRAME_MIN) + run->nic->habit.terms.check_sequence;

	memset(base + length, 0, need - length);
	return need;
}

/* Into buffers that are taken, @count at most. @described: as in @state, a constant. */
static inline __attribute__((always_inline)) unsigned fill_buffers(struct run *state, const struct frame *frames,
								   unsigned count, bool described)
{
	struct run run = *state;
	struct intel_write_back *write = &run.nic->written[run.queue][run.ring->written_count];
	const struct guest_segment *segment = run.nic->segments;
	const struct frame *frame = frames;

	for (const struct frame *end = frames + count; frame < end; frame++, segment++, write++) {
		uint32_t length = frame->length, need = length;

		if (unlikely(intel_destination_low(frame) != run.destination_low ||
			     intel_destination_high(frame) != run.destination_high || intel_type(frame) != run.type))
			break;
		if (unlikely(length > run.length_max))
			break;
		if (described && unlikely(!is_remembered(&run, frame))) {
			if (unlikely(!describe(state, frame)))
				break;
			run.last = state->last;
			run.first_word = state->first_word;
			run.second_word = state->second_word;
		}
		frame_copy_inside(frame, segment->base);
		if (unlikely(length < run.padded))
			need = pad(state, segment->base, length);
		write->words[0] = run.first_word;
		write->words[1] = run.second_word + need * run.length_unit;
		run.bytes += length;
		run.unlike |= length ^ run.length;
	}
	state->bytes = run.bytes;
	state->unlike = run.unlike;
	return (unsigned)(frame - frames);
}

/* Two functions, or the compiler makes one loop of them that asks for each frame. */
static __attribute__((noinline)) unsigned fill_described(struct run *run, const struct frame *frames, unsigned count)
{
	return fill_buffers(run, frames, count, true);
}

static __attribute__((noinline)) unsigned fill_plain(struct run *run, const struct frame *frames, unsigned count)
{
	return fill_buffers(run, frames, count, false);
}

static unsigned fill(struct run *run, const struct frame *frames, unsigned count)
{
	return run->described ? fill_described(run, frames, count) : fill_plain(run, frames, count);
}

static void count_run(struct intel_nic *nic, const struct run *run, const struct frame *frames, unsigned count)
{
	if (likely(!run->unlike)) {
		intel_count_alike(&nic->received, run->length, count);
		intel_count_group(&nic->received, frames->header, count);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		intel_count(&nic->received, frames[i].header, frames[i].length);
}

unsigned intel_receive_run(struct intel_nic *nic, unsigned queue, const struct frame *frames, unsigned count,
			   uint64_t *bytes)
{
	const struct intel_terms *terms = &nic->habit.terms;
	struct intel_ring *ring = &nic->receive[queue];
	struct run run = {
		.nic = nic,
		.ring = ring,
		.queue = queue,
		.destination_low = intel_destination_low(frames),
		.destination_high = intel_destination_high(frames),
		.type = intel_type(frames),
		.length = frames->length,
		.hashed = terms->hashes,
		.last = nic->habit.last,
		.length_unit = 1ULL << intel_length_shift(ring),
		.padded = terms->check_sequence ? UINT32_MAX : INTEL_FRAME_MIN,
		.second_word = intel_second_word(ring, RXD_DD | RXD_EOP | RXD_IXSM, 0), /* not described */
	};
	uint32_t end = ring->tail < ring->head ? ring->count : ring->tail;
	uint16_t type = frame_load16(frames, FRAME_TAG_OFFSET);
	unsigned done = 0;

	if (unlikely(ring->form == INTEL_RECEIVE_SPLIT || ring->buffer_sizes[0] < INTEL_FRAME_MIN + INTEL_FCS_LENGTH ||
		     type == terms->tag_type || type == VET_DEFAULT))
		return 0;
	run.ipv4 = type == ETHERTYPE_IPV4;
	run.described = type == ETHERTYPE_IPV4 || type == ETHERTYPE_IPV6;
	if (run.last.form != ring->form)
		run.last.protocol = INTEL_NO_PROTOCOL;
	run.last.form = ring->form;
	if (run.described) {
		run.first_word = run.last.first_word;
		run.second_word = run.last.second_word;
	}
	run.length_max = min(terms->length_max[0], ring->buffer_sizes[0] - terms->check_sequence);
	count = min(count, end - ring->head);
	count = min(count, INTEL_WRITE_BACKS_MAX - ring->written_count);
	if (!ring->written_count)
		ring->written_first = ring->head;
	for (unsigned want = max(ring->run_length, TAKEN_FIRST); done < count; want *= TAKEN_FACTOR) {
		unsigned taken = take_buffers(nic, ring, min(want, count - done)), filled = 0;

		if (taken)
			filled = fill(&run, frames + done, taken);
		ring->written_count += filled;
		ring->head += filled;
		done += filled;
		if (!taken || filled < taken)
			break;
	}
	if (ring->head == ring->count)
		ring->head = 0;
	nic->habit.last = run.last;
	ring->run_length = done;
	if (!done)
		return 0;
	ring->used = true;
	count_run(nic, &run, frames, done);
	*bytes += run.bytes;
	return done;
}
