/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the switch into the driver's receive rings.
 *
 * Theory of operation
 * -------------------
 * The port's transmit operation, called by whatever sidecore sends, filters each frame (intel_filter.c), chooses a ring
 * (intel_rss.c), collects as many descriptors as it fills, copies it into their buffers (the one copy) and notes what
 * will be written back. All or nothing: when the driver has too few descriptors, the port is full, and the switch holds
 * the sender for a while. flush writes the descriptors back, publishes the head and raises the queue's cause, once a
 * batch.
 *
 * *Runs.* Frames with the destination and type of the last one that was received, while registers stay as they are,
 * pass the same filters. Those whose buffer each lies in one region of memory and holds all of it are received in a
 * loop of their own (intel_receive_run.c). Whatever is unusual, a ring without buffers included, is left to the general
 * way (receive_frame()), which fetches the descriptor anew, makes every check, and alone stops the card. What is known
 * of the last frame (nic->habit) is forgotten when the control thread has stored a register (nic->version).
 *
 * *Coalesced frames*, longer than the driver has allowed, come only when it was asked for and intel_coalesce.c has said
 * how long they may be. They take the general way, too, with limits of their own.
 *
 * Each descriptor is fetched once, into a local copy; addresses are translated by guest_memory_segments(). A null
 * address makes a descriptor without a buffer: it is used up and holds nothing. A frame never takes more than
 * INTEL_WRITE_BACKS_MAX descriptors, so buffers that hold nothing do not keep anybody busy: the card stops, by name.
 *
 * *Forms* (82574 7.1.4 to 7.1.6, 82576 7.1.4, 7.1.5): legacy; extended, and with up to four buffers ("packet split",
 * where we never split but fill one after the other); advanced, where we never split either. All are written back as
 * words of 8 bytes: the last one holds the status (and the length), and is stored last, as a release.
 *
 * *Checksums.* The port has no ability for partial checksums: a frame whose checksum was never computed gets it before
 * it comes here (net/segment.c). It would be cheaper to pass it on as "verified", which no driver could tell from a
 * real card; but a guest that forwards frames passes them on as they are, to whom nobody ever verified anything. What
 * was computed for us, or verified by somebody, is reported as verified. IPv4 header checksums are looked at here, as
 * they are short. Of other frames the descriptor says nothing (no TCPCS), and the driver's stack sums them up.
 *
 * *Length.* Frames shorter than the minimum of Ethernet are padded: switches of our kind have none, drivers may rely on
 * it. Without RCTL.SECRC the frame check sequence is part of the length; four zeroes stand for it, as nobody computed
 * one.
 *
 * Context: under the claim of the port; flush, too. Registers that the control thread changes are loaded relaxed.
 */
#include "device/intel/intel_receive.h"
#include "base/counter.h"

#define DELAY_UNIT 1024ULL /* ns: RDTR, RADV */

enum receive_result {
	RECEIVE_DONE,
	RECEIVE_FULL,
	RECEIVE_BROKEN,
	RECEIVE_FILTERED,
	RECEIVE_OVERSIZE,
};

/* ---- rings ---- */

static uint32_t buffer_size(uint32_t control)
{
	uint32_t size = 2048U >> (control >> RCTL_BSIZE_SHIFT & 3);

	return control & RCTL_BSEX && size != 2048 ? size * 16 : size;
}

/* 82574: RCTL.DTYP 1: PSRCTL has the sizes of the four buffers. */
static void set_split(struct intel_ring *ring, uint32_t sizes)
{
	ring->form = INTEL_RECEIVE_SPLIT;
	ring->buffer_sizes[0] = (sizes & 0x7f) * 128;
	ring->buffer_sizes[1] = (sizes >> 8 & 0x3f) * 1024;
	ring->buffer_sizes[2] = (sizes >> 16 & 0x3f) * 1024;
	ring->buffer_sizes[3] = (sizes >> 24 & 0x3f) * 1024;
}

static unsigned descriptor_size(const struct intel_ring *ring)
{
	return ring->form == INTEL_RECEIVE_SPLIT ? 32 : 16;
}

/* Form and sizes as registers say now. */
static void set_form(const struct intel_nic *nic, struct intel_ring *ring)
{
	uint32_t control = intel_load(nic, RCTL), own;

	ring->buffer_sizes[0] = buffer_size(control);
	ring->form = INTEL_RECEIVE_LEGACY;
	switch (nic->variant->generation) {
	case INTEL_82576:
		own = intel_page_load(nic, ring->registers + RING_SRRCTL);
		if (own >> SRRCTL_DESCTYPE_SHIFT & 7)
			ring->form = INTEL_RECEIVE_ADVANCED;
		if (own & 0x7f)
			ring->buffer_sizes[0] = (own & 0x7f) * 1024;
		break;
	case INTEL_82574:
		if (!(intel_load(nic, RFCTL) & RFCTL_EXSTEN))
			break;
		ring->form = INTEL_RECEIVE_EXTENDED;
		if ((control >> RCTL_DTYP_SHIFT & 3) == 1)
			set_split(ring, intel_page_load(nic, PSRCTL));
		break;
	default:
		break;
	}
}

/* First use of a ring in this claim. */
static bool touch(struct intel_nic *nic, struct intel_ring *ring, unsigned queue)
{
	if (likely(nic->touched >> queue & 1))
		return ring->descriptors;
	set_form(nic, ring);
	if (unlikely(!intel_ring_ready(nic, ring, descriptor_size(ring))))
		return false;
	nic->touched |= 1U << queue;
	ring->tail = ring->head;
	return true;
}

/* The driver's tail. Return: false: nonsense. */
static bool load_tail(struct intel_nic *nic, struct intel_ring *ring)
{
	/* Head and tail count 16 bytes, however long a descriptor is (82574 7.1.6). */
	uint32_t tail = (intel_page_load(nic, ring->registers + RING_TAIL) & 0xffff) * 16 / ring->size;

	if (unlikely(tail >= ring->count)) {
		pci_device_fault(&nic->device, "receive tail beyond the ring");
		return false;
	}
	ring->tail = tail;
	return true;
}

bool intel_receive_available(struct intel_nic *nic, unsigned queue, uint32_t enough, uint32_t *available)
{
	struct intel_ring *ring = &nic->receive[queue];

	if (!touch(nic, ring, queue))
		return false;
	for (unsigned look = 0; look < 2; look++) {
		*available = ring->tail - ring->head + (ring->tail < ring->head ? ring->count : 0);
		if (*available >= enough)
			break;
		if (!look && !load_tail(nic, ring))
			return false;
	}
	return true;
}

/* ---- what is written back ---- */

/* Store @count write-backs from @at on, none of which is behind the ring's end. */
static void write_back_piece(const struct intel_ring *ring, guest_byte *at, const struct intel_write_back *write,
			     unsigned count)
{
	unsigned size = descriptor_size(ring);

	for (const struct intel_write_back *end = write + count; write < end; write++, at += size) {
		uint64_t *to = (uint64_t *)(void *)at;

		if (unlikely(ring->form == INTEL_RECEIVE_SPLIT)) {
			__atomic_store_n(&to[2], write->words[2], __ATOMIC_RELAXED);
			__atomic_store_n(&to[3], write->words[3], __ATOMIC_RELAXED);
		}
		if (likely(ring->form != INTEL_RECEIVE_LEGACY))
			__atomic_store_n(&to[0], write->words[0], __ATOMIC_RELAXED);
		/* Release: who sees the status sees the rest, and the frame's bytes. */
		__atomic_store_n(&to[1], write->words[1], __ATOMIC_RELEASE);
	}
}

/* The same for the forms of two words, which nearly all are: a function of its own, for the sake of registers. */
static __attribute__((noinline)) void write_back_words(guest_byte *at, const struct intel_write_back *write,
						       unsigned count)
{
#pragma GCC unroll 4
	for (unsigned i = 0; i < count; i++) {
		uint64_t *to = (uint64_t *)(void *)(at + (size_t)16 * i);

		__atomic_store_n(&to[0], write[i].words[0], __ATOMIC_RELAXED);
		/* Release: as above. */
		__atomic_store_n(&to[1], write[i].words[1], __ATOMIC_RELEASE);
	}
}

/* Store what was noted, in order. */
static void write_back(struct intel_nic *nic, struct intel_ring *ring, unsigned queue)
{
	const struct intel_write_back *write = nic->written[queue];
	uint32_t index = ring->written_first;

	while (ring->written_count) {
		unsigned piece = min(ring->written_count, ring->count - index);
		guest_byte *at = ring->descriptors + (size_t)index * descriptor_size(ring);

		if (likely(ring->form == INTEL_RECEIVE_EXTENDED || ring->form == INTEL_RECEIVE_ADVANCED))
			write_back_words(at, write, piece);
		else
			write_back_piece(ring, at, write, piece);
		write += piece;
		ring->written_count -= piece;
		index = 0;
	}
}

/* Note the write-back of the descriptor at the ring's head. */
static void note(struct intel_nic *nic, struct intel_ring *ring, unsigned queue, const struct intel_report *report,
		 const uint16_t lengths[4], bool last)
{
	struct intel_write_back *write = &nic->written[queue][ring->written_count];
	uint32_t status = last ? report->status | RXD_DD | RXD_EOP : RXD_DD;

	if (!ring->written_count++)
		ring->written_first = ring->head;
	write->words[0] = last ? intel_first_word(report) : 0;
	write->words[1] = intel_second_word(ring, status, last ? report->tag : 0) | (uint64_t)lengths[0]
											    << intel_length_shift(ring);
	write->words[2] = (uint64_t)lengths[1] << 16 | (uint64_t)lengths[2] << 32 | (uint64_t)lengths[3] << 48;
	write->words[3] = 0;
}

/* ---- one frame ---- */

/* struct collected - descriptors from the ring's head on, for one frame. */
struct collected {
	unsigned descriptors_max;
	uint32_t buffer_max; /* bytes of each buffer that are used */
	unsigned descriptors, segments;
	uint32_t room;
	uint32_t rooms[INTEL_WRITE_BACKS_MAX][4]; /* of each descriptor: bytes of its buffers */
};

/* Fetch a descriptor and append its buffers. */
static bool append(struct intel_nic *nic, struct intel_ring *ring, uint32_t index, struct collected *collected)
{
	unsigned size = descriptor_size(ring), buffers = size == 32 ? 4 : 1;
	uint32_t *rooms = collected->rooms[collected->descriptors++];
	uint64_t addresses[4];

	memset(rooms, 0, sizeof(collected->rooms[0]));
	guest_fetch(addresses, ring->descriptors + (size_t)index * size, 8 * buffers);
	for (unsigned i = 0; i < buffers; i++) {
		uint32_t room = min(ring->buffer_sizes[i], collected->buffer_max);

		if (unlikely(!addresses[i] || !room))
			continue;
		if (unlikely(guest_memory_segments(nic->device.memory, &ring->hint, addresses[i], room, nic->segments,
						   INTEL_SEGMENTS_MAX, &collected->segments))) {
			pci_device_fault(&nic->device, "receive buffer outside of memory");
			return false;
		}
		rooms[i] = room;
		collected->room += room;
	}
	return true;
}

/* Descriptors for @need bytes, within the limits that @collected says. */
static enum receive_result collect(struct intel_nic *nic, struct intel_ring *ring, uint32_t need,
				   struct collected *collected)
{
	uint32_t index = ring->head;

	collected->descriptors = 0;
	collected->segments = 0;
	collected->room = 0;
	while (collected->room < need) {
		if (unlikely(index == ring->tail)) {
			if (!load_tail(nic, ring))
				return RECEIVE_BROKEN;
			if (index == ring->tail)
				return RECEIVE_FULL;
		}
		if (unlikely(collected->descriptors == collected->descriptors_max)) {
			/* Of a coalesced frame: descriptors without a buffer, which nobody could foresee. */
			if (collected->descriptors_max < INTEL_WRITE_BACKS_MAX)
				return RECEIVE_OVERSIZE;
			pci_device_fault(&nic->device, "receive buffers too small for a frame");
			return RECEIVE_BROKEN;
		}
		if (unlikely(!append(nic, ring, index, collected)))
			return RECEIVE_BROKEN;
		index = index + 1 == ring->count ? 0 : index + 1;
	}
	return RECEIVE_DONE;
}

/* Zeroes behind the frame: [@from, @to) of the collected buffers. */
static void pad(const struct guest_segment *segments, uint32_t from, uint32_t to)
{
	static const uint8_t zeroes[INTEL_FRAME_MIN + INTEL_FCS_LENGTH];

	for (; from < to; segments++) {
		uint32_t piece;

		if (from >= segments->length) {
			from -= (uint32_t)segments->length;
			to -= (uint32_t)segments->length;
			continue;
		}
		piece = min(to, (uint32_t)segments->length) - from;
		guest_write(segments->base + from, zeroes, piece);
		to -= (uint32_t)min((uint64_t)to, (uint64_t)segments->length);
		from = 0;
	}
}

/* Into the ring, with padding and check sequence. @oversize: a coalesced frame */
static enum receive_result put_frame(struct intel_nic *nic, const struct intel_terms *terms, unsigned queue,
				     const struct frame *frame, bool oversize, const struct intel_report *report)
{
	uint32_t need = max(frame->length, INTEL_FRAME_MIN) + terms->check_sequence, left = need;
	struct intel_ring *ring = &nic->receive[queue];
	struct collected collected;
	enum receive_result result;

	collected.descriptors_max = INTEL_WRITE_BACKS_MAX;
	collected.buffer_max = UINT32_MAX;
	if (unlikely(oversize)) {
		collected.descriptors_max = INTEL_COALESCE_DESCRIPTORS;
		collected.buffer_max = intel_coalesce_room(nic, terms, ring);
		if (!collected.buffer_max) /* the driver has changed its mind since it was asked */
			return RECEIVE_OVERSIZE;
	}
	result = collect(nic, ring, need, &collected);
	if (unlikely(result != RECEIVE_DONE))
		return result;
	if (unlikely(ring->written_count + collected.descriptors > INTEL_WRITE_BACKS_MAX))
		write_back(nic, ring, queue);
	frame_copy_out(frame, nic->segments, 0);
	if (unlikely(need > frame->length))
		pad(nic->segments, frame->length, need);
	for (unsigned i = 0; i < collected.descriptors; i++) {
		uint16_t lengths[4];

		for (unsigned buffer = 0; buffer < 4; buffer++) {
			/* No frame is longer than length_max(). */
			lengths[buffer] = (uint16_t)min(left, collected.rooms[i][buffer]);
			left -= lengths[buffer];
		}
		note(nic, ring, queue, report, lengths, i + 1 == collected.descriptors);
		ring->head = ring->head + 1 == ring->count ? 0 : ring->head + 1;
	}
	ring->used = true;
	return RECEIVE_DONE;
}

/* ---- any frame ---- */

/* Any frame. @queue: out: where it went to; of a VLAN or coalesced, so that it may not begin a run: INTEL_QUEUES_MAX */
static enum receive_result receive_frame(struct intel_nic *nic, const struct intel_terms *terms,
					 const struct frame *frame, unsigned *run_queue)
{
	int tag = intel_tag_of(terms, frame);
	bool oversize = frame->length > terms->length_max[tag >= 0];
	struct intel_report report = { 0 };
	enum receive_result result;
	struct frame untagged;
	unsigned queue;

	*run_queue = INTEL_QUEUES_MAX;
	if (unlikely(oversize && !frame->coalesced)) {
		counter_add(&nic->received.oversize, 1);
		return RECEIVE_OVERSIZE;
	}
	if (!intel_filter_accepts(nic, frame->header, tag < 0 ? -1 : tag & 0xfff)) {
		counter_add(&nic->received.filtered, 1);
		return RECEIVE_FILTERED;
	}
	if (tag >= 0 && terms->strips_tags) {
		untagged = *frame;
		frame_remove_tag(&untagged);
		frame = &untagged;
		report.status |= RXD_VP;
		report.tag = (uint16_t)tag;
	}
	queue = intel_describe(nic, terms, frame, &report);
	if (unlikely(!touch(nic, &nic->receive[queue], queue)))
		return RECEIVE_BROKEN;
	result = put_frame(nic, terms, queue, frame, oversize, &report);
	if (unlikely(result != RECEIVE_DONE)) {
		if (result == RECEIVE_OVERSIZE)
			counter_add(&nic->received.oversize, 1);
		return result;
	}
	intel_count(&nic->received, frame->header, frame->length);
	if (tag < 0 && !oversize)
		*run_queue = queue;
	return result;
}

/* ---- port operations ---- */

/* Registers as they are now; when they have changed, nothing is as before. */
static const struct intel_terms *look_at_registers(struct intel_nic *nic)
{
	/* Acquire: these registers or newer ones; then the version will be, too. */
	uint32_t version = atomic_load_explicit(&nic->version, memory_order_acquire);

	if (unlikely(nic->habit.version != version)) {
		nic->habit.version = version;
		nic->habit.queue = INTEL_QUEUES_MAX;
		intel_terms_load(nic, &nic->habit.terms);
	}
	return &nic->habit.terms;
}

static void remember(struct intel_habit *habit, const struct frame *frame, unsigned queue)
{
	habit->queue = queue;
	habit->destination_low = intel_destination_low(frame);
	habit->destination_high = intel_destination_high(frame);
	habit->type = intel_type(frame);
	habit->last.protocol = INTEL_NO_PROTOCOL;
}

static bool is_as_before(const struct intel_habit *habit, const struct frame *frame)
{
	return likely(habit->queue != INTEL_QUEUES_MAX) &&
	       likely(intel_destination_low(frame) == habit->destination_low &&
		      intel_destination_high(frame) == habit->destination_high && intel_type(frame) == habit->type);
}

/* Frames from one on that is as before. Return: how many were received; the general way goes on. */
static unsigned receive_as_before(struct intel_nic *nic, const struct frame *frames, unsigned count, uint64_t *bytes)
{
	unsigned queue = nic->habit.queue;
	struct intel_ring *ring = &nic->receive[queue];

	if (unlikely(!touch(nic, ring, queue)))
		return 0;
	if (ring->head == ring->tail && (!load_tail(nic, ring) || ring->head == ring->tail))
		return 0;
	return intel_receive_run(nic, queue, frames, count, bytes);
}

static unsigned receive_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct intel_nic *nic = container_of(port, struct intel_nic, port);
	struct port_counters *counters = port_counters(port, turn);
	unsigned done = 0, dropped = 0, queue, run;
	const struct intel_terms *terms;
	uint64_t bytes = 0;

	if (unlikely(!atomic_load_explicit(&nic->receiving, memory_order_acquire) || intel_faulted(nic))) {
		port_drop(port, turn, PORT_DROP_LINK_DOWN, count);
		return count;
	}
	terms = look_at_registers(nic);
	while (done < count) {
		const struct frame *frame = &frames[done];
		enum receive_result result;

		run = is_as_before(&nic->habit, frame) ? receive_as_before(nic, frame, count - done, &bytes) : 0;
		done += run;
		if (likely(run))
			continue;
		result = receive_frame(nic, terms, frame, &queue);
		if (unlikely(result == RECEIVE_FULL))
			break;
		done++;
		if (unlikely(result != RECEIVE_DONE)) {
			dropped++;
			if (result != RECEIVE_FILTERED)
				port_drop(port, turn,
					  result == RECEIVE_OVERSIZE ? PORT_DROP_OVERSIZE : PORT_DROP_LINK_DOWN, 1);
			continue;
		}
		bytes += frame->length;
		if (likely(queue != INTEL_QUEUES_MAX))
			remember(&nic->habit, frame, queue);
	}
	counter_add(&counters->out_frames, done - dropped);
	counter_add(&counters->out_bytes, bytes);
	return done;
}

/* How long the driver lets the next interrupt wait (RDTR, RADV; 8254x 13.4.30). */
static uint64_t spacing(const struct intel_nic *nic)
{
	uint64_t delay, most;

	if (nic->variant->generation == INTEL_82576)
		return 0;
	delay = intel_page_load(nic, RDTR) & 0xffff;
	most = intel_page_load(nic, RADV) & 0xffff;
	return (delay && most ? most : delay) * DELAY_UNIT;
}

static void receive_flush(struct port *port, const struct turn *turn)
{
	struct intel_nic *nic = container_of(port, struct intel_nic, port);
	const struct intel_when when = { turn->sidecore, sidecore_notifier(turn->sidecore), turn->now };

	for (; nic->touched; nic->touched &= nic->touched - 1) {
		unsigned queue = (unsigned)__builtin_ctz(nic->touched);
		struct intel_ring *ring = &nic->receive[queue];

		if (!ring->used)
			continue;
		ring->used = false;
		write_back(nic, ring, queue);
		intel_page_store(nic, ring->registers + RING_HEAD, ring->head * ring->size / 16);
		intel_raise_queue(nic, &when, true, queue, spacing(nic));
	}
}

const struct port_ops intel_port_ops = {
	.kind = "intel",
	.transmit = receive_transmit,
	.coalesce_max = intel_coalesce_max,
	.flush = receive_flush,
};
