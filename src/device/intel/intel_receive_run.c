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
#include "net/checksum.h"

#define ETHERTYPE_IPV4 0x0800U
#define ETHERTYPE_IPV6 0x86ddU
#define IPV4_PLAIN     0x45U /* version, and length of a header without options */
#define IPV4_LENGTH    20U
#define PROTOCOL_TCP   6U
#define PROTOCOL_UDP   17U

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
	bool described;		 /* frames have to be looked into */
	bool plain_ipv4;	 /* describe_plain() may be tried */
	uint32_t udp_status;	 /* of an UDP checksum that was verified */
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
 * intel_describe() for IPv4 without options, when nothing is hashed.
 * Return: false: it is something else; nothing has been changed.
 */
static inline bool describe_plain(const struct run *run, const struct frame *frame, struct intel_report *report)
{
	const uint8_t *ip = frame->header + FRAME_LENGTH_MIN;
	uint32_t words[IPV4_LENGTH / 4], control = run->terms->checksums, status = 0;
	bool udp = ip[9] == PROTOCOL_UDP, transport = udp || ip[9] == PROTOCOL_TCP;
	uint16_t type = 1;

	if (unlikely(ip[0] != IPV4_PLAIN || frame->header_length < FRAME_LENGTH_MIN + IPV4_LENGTH))
		return false;
	if (likely(control & RXCSUM_IPOFL)) {
		memcpy(words, ip, sizeof(words));
		status = RXD_IPCS;
		if (unlikely(checksum_fold((uint64_t)words[0] + words[1] + words[2] + words[3] + words[4]) != 0xffff))
			status |= RXD_EXTENDED_IPE;
	}
	if (transport && !(frame_load16(frame, FRAME_LENGTH_MIN + 6) & 0x3fff)) { /* not a fragment */
		type |= udp ? 0x20 : 0x10;
		if (frame->offload.checksum_valid && control & RXCSUM_TUOFL)
			status |= RXD_TCPCS | (udp ? run->udp_status : 0);
	}
	report->info = run->terms->packet_types ? (uint16_t)(type << 4) : 0;
	report->status = status ? status : RXD_IXSM;
	return true;
}

static inline __attribute__((always_inline)) unsigned describe(const struct run *run, const struct frame *frame,
							       struct intel_report *report)
{
	if (likely(run->plain_ipv4) && likely(describe_plain(run, frame, report)))
		return run->queue;
	return intel_describe(run->nic, run->terms, frame, report);
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
	const uint64_t plain = intel_second_word(run.ring, RXD_DD | RXD_EOP | RXD_IXSM, 0);
	const uint64_t unit = 1ULL << intel_length_shift(run.ring);
	const uint32_t check_sequence = run.terms->check_sequence;
	const struct guest_segment *segment = run.nic->segments;
	unsigned done;

	for (done = 0; done < count; done++, segment++, write++) {
		const struct frame *frame = &frames[done];
		uint32_t length = frame->length, need = max(length, INTEL_FRAME_MIN) + check_sequence;
		struct intel_report report = { 0 };

		if (unlikely(load_destination(frame) != run.destination || load_type(frame) != run.type))
			break;
		if (unlikely(length > run.length_max))
			break;
		if (described && unlikely(describe(&run, frame, &report) != run.queue))
			break;
		frame_copy_inside(frame, segment->base);
		if (unlikely(need > length))
			memset(segment->base + length, 0, need - length);
		write->words[0] = described ? intel_first_word(&report) : 0;
		write->words[1] =
			need * unit |
			(described ? intel_second_word(run.ring, report.status | RXD_DD | RXD_EOP, 0) : plain);
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
	};
	uint32_t type = frame_load16(first, FRAME_TAG_OFFSET), end = ring->tail < ring->head ? ring->count : ring->tail;
	unsigned done = 0;

	if (unlikely(ring->form == INTEL_RECEIVE_SPLIT || ring->buffer_sizes[0] < INTEL_FRAME_MIN + INTEL_FCS_LENGTH ||
		     type == terms->tag_type || type == VET_DEFAULT))
		return 0;
	run.plain_ipv4 = type == ETHERTYPE_IPV4 && !terms->hashes;
	run.udp_status = nic->variant->generation == INTEL_8254X ? 0 : RXD_UDPCS;
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
