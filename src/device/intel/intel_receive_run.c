/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Received frames that are like the one before: nearly all.
 *
 * Theory of operation
 * -------------------
 * The switch delivers runs of frames with the same addresses. When one of them was received in the general way
 * (intel_receive.c), those that follow it with the same destination and type, none of them tagged, pass the same
 * filters for as long as the same registers are looked at, which is for one call. Two loops: the first translates as
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
#define IPV4_PLAIN     0x45U	   /* version, and length of a header without options */
#define NO_KEY	       0x00ff0000U /* ipv4_key() is something else */

/** Buffers that are taken at first, and how many times more the next time: frames may go elsewhere from any on. */
#define TAKEN_FIRST  4U
#define TAKEN_FACTOR 8U

/* What a run needs: in locals, since stores to guest memory may alias anything. */
struct run {
	struct intel_nic *nic;
	const struct intel_terms *terms;
	struct intel_ring *ring;
	unsigned queue;
	uint32_t length_max;
	bool described; /* frames have to be looked into */
	bool ipv4;
	/* The last frame that was described, and what all frames are told by which have the same: */
	uint32_t key, ports;
	uint64_t addresses;
	uint64_t first_word, second_word;
	uint64_t destination;	 /* in the first six bytes */
	uint16_t type;		 /* as in memory */
	uint32_t length, unlike; /* of the first frame; bits in which others differ */
	uint64_t bytes;
};

#define DESTINATION_BYTES 0x0000ffffffffffffULL

static inline uint64_t load_destination(const struct frame *frame)
{
	uint64_t word;

	memcpy(&word, frame->header, sizeof(word));
	return word & DESTINATION_BYTES;
}

static inline uint16_t load_type(const struct frame *frame)
{
	uint16_t type;

	memcpy(&type, frame->header + FRAME_TAG_OFFSET, sizeof(type));
	return type;
}

/*
 * What intel_describe() looks at in a header of IPv4 without options whose checksum is good, but for addresses and
 * ports: fragmentation, protocol, and whether the checksum behind it was verified, in the place of the time to live.
 */
static inline uint32_t ipv4_key(const struct frame *frame)
{
	uint32_t word;

	memcpy(&word, frame->header + IPV4 + 6, sizeof(word));
	return (word & 0xff00ff3f) | (uint32_t)frame->offload.checksum_valid << 16;
}

/* Is it such a header, with ports or the like behind it? A sum is that of a good one if it is a multiple of 0xffff. */
static inline bool is_plain_ipv4(const struct frame *frame)
{
	uint32_t words[5];

	if (unlikely(frame->header[IPV4] != IPV4_PLAIN || frame->header_length < IPV4 + 24))
		return false;
	for (unsigned i = 0; i < 5; i++)
		memcpy(&words[i], frame->header + IPV4 + 4 * i, sizeof(words[i]));
	return likely(((uint64_t)words[0] + words[1] + words[2] + words[3] + words[4]) % 0xffff == 0);
}

/* Addresses and ports, or what is in their place. */
static inline bool is_same_flow(const struct run *run, const struct frame *frame)
{
	return !memcmp(&run->addresses, frame->header + IPV4 + 12, 8) &&
	       !memcmp(&run->ports, frame->header + IPV4 + 20, 4);
}

static inline bool is_remembered(const struct run *run, const struct frame *frame)
{
	return ipv4_key(frame) == run->key && is_plain_ipv4(frame) && (!run->terms->hashes || is_same_flow(run, frame));
}

/* Words of a write-back by intel_describe(); remembered, if others may be told by them. Return: false: another queue.
 */
static __attribute__((noinline)) bool describe(struct run *run, const struct frame *frame)
{
	struct intel_report report = { 0 };

	run->key = NO_KEY;
	if (intel_describe(run->nic, run->terms, frame, &report) != run->queue)
		return false;
	run->first_word = intel_first_word(&report);
	run->second_word = intel_second_word(run->ring, report.status | RXD_DD | RXD_EOP, 0);
	if (run->ipv4 && is_plain_ipv4(frame)) {
		run->key = ipv4_key(frame);
		memcpy(&run->addresses, frame->header + IPV4 + 12, 8);
		memcpy(&run->ports, frame->header + IPV4 + 20, 4);
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

	for (; segment < end; segment++, at += 16) {
		uint64_t address = guest_load64(at);
		guest_byte *base = guest_window_translate(&window, address, size);

		if (unlikely(!base))
			base = guest_window_move(&window, nic->device.memory, &ring->hint, address, size);
		/* A null address is no buffer, wherever it may lie. */
		if (unlikely(!base || !address))
			break;
		guest_prefetch_write(base);
		segment->base = base;
	}
	return (unsigned)(segment - nic->segments);
}

/* Into buffers that are taken, @count at most. @described: as in @state, a constant. */
static inline __attribute__((always_inline)) unsigned fill_buffers(struct run *state, const struct frame *frames,
								   unsigned count, bool described)
{
	struct run run = *state;
	struct intel_write_back *write = &run.nic->written[run.queue][run.ring->written_count];
	const unsigned shift = intel_length_shift(run.ring);
	const uint32_t check_sequence = run.terms->check_sequence;
	const struct guest_segment *segment = run.nic->segments;
	unsigned done;

	for (done = 0; done < count; done++, segment++, write++) {
		const struct frame *frame = &frames[done];
		uint32_t length = frame->length, need = max(length, INTEL_FRAME_MIN) + check_sequence;

		if (unlikely(load_destination(frame) != run.destination || load_type(frame) != run.type))
			break;
		if (unlikely(length > run.length_max))
			break;
		if (described && unlikely(!is_remembered(&run, frame))) {
			if (unlikely(!describe(state, frame)))
				break;
			run.key = state->key;
			run.ports = state->ports;
			run.addresses = state->addresses;
			run.first_word = state->first_word;
			run.second_word = state->second_word;
		}
		frame_copy_inside(frame, segment->base);
		if (unlikely(need > length))
			memset(segment->base + length, 0, need - length);
		write->words[0] = run.first_word;
		write->words[1] = run.second_word | (uint64_t)need << shift;
		run.bytes += length;
		run.unlike |= length ^ run.length;
	}
	state->bytes = run.bytes;
	state->unlike = run.unlike;
	return done;
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

unsigned intel_receive_run(struct intel_nic *nic, const struct intel_terms *terms, unsigned queue,
			   const struct frame *first, unsigned count, uint64_t *bytes)
{
	const struct frame *frames = first + 1;
	struct intel_ring *ring = &nic->receive[queue];
	struct run run = {
		.nic = nic,
		.terms = terms,
		.ring = ring,
		.queue = queue,
		.destination = load_destination(first),
		.type = load_type(first),
		.length = first->length,
		.key = NO_KEY,
		.second_word = intel_second_word(ring, RXD_DD | RXD_EOP | RXD_IXSM, 0), /* not described */
	};
	uint32_t type = frame_load16(first, FRAME_TAG_OFFSET), end = ring->tail < ring->head ? ring->count : ring->tail;
	unsigned done = 0;

	if (unlikely(ring->form == INTEL_RECEIVE_SPLIT || ring->buffer_sizes[0] < INTEL_FRAME_MIN + INTEL_FCS_LENGTH ||
		     type == terms->tag_type || type == VET_DEFAULT))
		return 0;
	run.ipv4 = type == ETHERTYPE_IPV4;
	run.described = type == ETHERTYPE_IPV4 || type == ETHERTYPE_IPV6;
	run.length_max = min(terms->length_max[0], ring->buffer_sizes[0] - terms->check_sequence);
	count = min(count, end - ring->head);
	count = min(count, INTEL_WRITE_BACKS_MAX - ring->written_count);
	if (!ring->written_count)
		ring->written_first = ring->head;
	for (unsigned want = TAKEN_FIRST; done < count; want *= TAKEN_FACTOR) {
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
	count_run(nic, &run, frames, done);
	*bytes += run.bytes;
	return done;
}
