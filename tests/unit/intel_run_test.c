/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intel's network cards: what is done in a loop of its own (intel_transmit_run.c, intel_receive_run.c) comes to the
 * same as the general way. Each random case is played twice, from the same seed: as it is, and with both loops switched
 * off (the linker puts the functions below before them); then all that a driver, a peer or an operator could see must
 * be equal.
 */
#include "test.h"

#include <stdlib.h>

#include "device/intel/intel_receive.h"
#include "device/intel/intel_transmit.h"
#include "intel_fixture.h"

#define CASES	    30U
#define ROUNDS	    16U
#define FRAMES	    64U
#define FRAME_BYTES 2048U

static bool general;
static uint64_t ran[2]; /* frames that came by way of the loops: transmit, receive */

/* The linker compares no types: these are the functions' own. */
__typeof__(intel_run_build) __real_intel_run_build, __wrap_intel_run_build;
__typeof__(intel_receive_run) __real_intel_receive_run, __wrap_intel_receive_run;

void __wrap_intel_run_build(struct intel_lane *lane, struct intel_ring *ring, unsigned count, uint64_t bytes_max,
			    struct intel_run *run)
{
	if (general)
		*run = (struct intel_run){ 0 };
	else
		__real_intel_run_build(lane, ring, count, bytes_max, run);
	ran[0] += run->count;
}

unsigned __wrap_intel_receive_run(struct intel_nic *nic, unsigned queue, const struct frame *frames, unsigned count,
				  uint64_t *bytes)
{
	unsigned done = general ? 0 : __real_intel_receive_run(nic, queue, frames, count, bytes);

	ran[1] += done;
	return done;
}

/* ---- what can be seen ---- */

/* struct outcome - of one case. */
struct outcome {
	uint8_t *memory;
	uint8_t *seen; /* what the peer got: lengths, offload state, bytes */
	size_t seen_length;
	uint32_t statistics[(STATISTICS_END - STATISTICS) / 4];
	uint32_t heads[2][4];
	struct port_counters counters, peer_counters;
	unsigned work[ROUNDS], done[ROUNDS];
	const char *fault;
	struct intel_contexts contexts;
};

static void keep(struct outcome *outcome, const void *bytes, size_t length)
{
	outcome->seen = realloc(outcome->seen, outcome->seen_length + length);
	assert_non_null(outcome->seen);
	memcpy(outcome->seen + outcome->seen_length, bytes, length);
	outcome->seen_length += length;
}

static void look(struct outcome *outcome)
{
	for (unsigned i = 0; i < intel.peer.count; i++) {
		const struct fake_frame *frame = &intel.peer.frames[i];

		keep(outcome, &frame->length, sizeof(frame->length));
		keep(outcome, &frame->offload, sizeof(frame->offload));
		keep(outcome, frame->bytes, frame->length);
	}
	fake_port_clear(&intel.peer);
}

static void look_at_the_end(struct outcome *outcome)
{
	unsigned queues = min(intel.nic->variant->queues, 4U);

	outcome->memory = malloc(INTEL_MEMORY);
	assert_non_null(outcome->memory);
	memcpy(outcome->memory, intel.memory, INTEL_MEMORY);
	for (unsigned i = 0; i < array_size(outcome->statistics); i++)
		outcome->statistics[i] = intel_read(STATISTICS + 4 * i);
	for (unsigned i = 0; i < queues; i++) {
		outcome->heads[0][i] = intel_read(intel_ring_registers(intel.nic, false, i) + RING_HEAD);
		outcome->heads[1][i] = intel_read(intel_ring_registers(intel.nic, true, i) + RING_HEAD);
	}
	port_read_counters(&intel.nic->port, &outcome->counters);
	port_read_counters(&intel.peer.port, &outcome->peer_counters);
	outcome->fault = atomic_load(&intel.device->fault);
	outcome->contexts = intel.nic->transmit[0].contexts;
}

static void compare(struct outcome *fast, struct outcome *slow)
{
	assert_ptr_equal(fast->fault, slow->fault); /* one string for each reason */
	assert_memory_equal(fast->work, slow->work, sizeof(fast->work));
	assert_memory_equal(fast->done, slow->done, sizeof(fast->done));
	assert_int_equal(fast->seen_length, slow->seen_length);
	if (fast->seen_length)
		assert_memory_equal(fast->seen, slow->seen, fast->seen_length);
	assert_memory_equal(fast->heads, slow->heads, sizeof(fast->heads));
	assert_true(!memcmp(fast->memory, slow->memory, INTEL_MEMORY));
	assert_memory_equal(fast->statistics, slow->statistics, sizeof(fast->statistics));
	assert_memory_equal(&fast->counters, &slow->counters, sizeof(fast->counters));
	assert_memory_equal(&fast->peer_counters, &slow->peer_counters, sizeof(fast->peer_counters));
	assert_memory_equal(&fast->contexts, &slow->contexts, sizeof(fast->contexts));
	free(fast->memory);
	free(slow->memory);
	free(fast->seen);
	free(slow->seen);
}

static void play_both(void (*play)(uint64_t seed, struct outcome *outcome), unsigned loop)
{
	ran[loop] = 0;
	for (uint64_t seed = 1; seed <= CASES; seed++) {
		struct outcome fast = { 0 }, slow = { 0 };
		uint64_t by_loop;

		general = false;
		play(seed, &fast);
		by_loop = ran[loop];
		general = true;
		play(seed, &slow);
		assert_int_equal(ran[loop], by_loop);
		compare(&fast, &slow);
	}
	assert_true(ran[loop] > 20 * CASES); /* or nothing was compared */
}

/* ---- transmit ---- */

static bool one_in(uint64_t *random, unsigned count)
{
	return test_random(random) % count == 0;
}

static uint64_t some_address(uint64_t *random, uint32_t length, bool hostile)
{
	if (hostile && one_in(random, 400))
		return INTEL_MEMORY - test_random(random) % 4096; /* its end may be outside */
	if (hostile && one_in(random, 2000))
		return (uint64_t)test_random(random) << 32 | test_random(random);
	if (one_in(random, 20))
		return INTEL_MEMORY / 2 - test_random(random) % (length + 1); /* over two regions */
	if (one_in(random, 20))						      /* from and to anybody */
		return INTEL_TX_BUFFERS + test_random(random) % 0x80000;
	return INTEL_TX_BUFFERS + test_random(random) % 0x2000 * 64;
}

/* Bits that differ from those of the frames before, now and then. */
static void spoil(uint64_t *random, uint32_t *command, uint32_t *status)
{
	static const uint32_t bits[] = { TXD_EOP,	TXD_RS,	  TXD_DEXT, TXD_VLE,  TXD_IDE,
					 TXD_LEGACY_IC, 1U << 25, 1U << 28, 1U << 20, 1U << 21 };

	if (one_in(random, 2))
		*command ^= bits[test_random(random) % array_size(bits)];
	else
		*status ^= 1U << test_random(random) % 32;
}

/* One descriptor; nearly all are whole frames, and like the one before. */
static void post(uint64_t *random, enum intel_nic_model model, uint32_t command, uint32_t reserved, bool hostile)
{
	uint32_t length = one_in(random, 3) ? 14 + test_random(random) % 3000 : 60, status = 0;
	bool igb = model == INTEL_NIC_IGB;

	if (one_in(random, 60))
		length = test_random(random) % 20;
	if (one_in(random, 100))
		length = test_random(random) & (command & TXD_DEXT && !igb ? TXD_LENGTH_EXTENDED : TXD_LENGTH);
	if (igb)
		status = length << 14;
	else if (one_in(random, 4))
		status = test_random(random) << 16; /* the special field */
	status |= reserved;
	if (one_in(random, 25))
		spoil(random, &command, &status);
	if (!hostile && command & TXD_DEXT && igb != ((command >> TXD_DTYP_SHIFT & 15) > 1))
		command &= ~TXD_DEXT; /* of no known type */
	intel_post(0, some_address(random, length, hostile), command | length, status);
}

/* Random bytes, with the beginning of a frame to the peer every 64. */
static void fill_memory(uint64_t *random)
{
	for (uint32_t i = INTEL_TX_BUFFERS; i < INTEL_MEMORY; i += 4) {
		uint32_t word = test_random(random);

		memcpy(intel.memory + i, &word, 4);
	}
	for (uint32_t i = INTEL_TX_BUFFERS; i < INTEL_MEMORY; i += 64) {
		memcpy(intel.memory + i, intel_peer_mac, 6);
		memcpy(intel.memory + i + 6, intel_mac, 6);
	}
}

static void play_transmit(uint64_t seed, struct outcome *outcome)
{
	uint64_t random = seed * 7919;
	enum intel_nic_model model = seed % 3;
	bool hostile = one_in(&random, 3);
	uint32_t command = TXD_EOP | (one_in(&random, 4) ? 0 : TXD_RS), posted = 0;
	uint32_t reserved = one_in(&random, 3) ? test_random(&random) & 15 : 0;
	uint8_t hello[60] = { 0 };

	intel_fixture_start(model, false, PCI_INTERRUPT_PIN);
	fill_memory(&random);
	intel_rings(0);
	memcpy(hello, intel_mac, 6); /* the switch learns where the peer is */
	memcpy(hello + 6, intel_peer_mac, 6);
	intel_send(hello, sizeof(hello), NULL);
	if (one_in(&random, 2)) /* runs that wrap at once */
		intel.nic->transmit[0].head = intel.transmit_tails[0] = INTEL_RING_SIZE - 20;
	if (one_in(&random, 2))
		command |= TXD_DEXT | (model == INTEL_NIC_IGB ? 3U : 1U) << TXD_DTYP_SHIFT;
	if (model == INTEL_NIC_IGB && one_in(&random, 4))
		intel_write(RING_TRANSMIT + RING_HEAD_WRITE_BACK_LOW, 0x9000 | 1);
	if (one_in(&random, 4))
		intel_write(CTRL, CTRL_SLU | CTRL_VME);
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint32_t head = intel.nic->transmit[0].head;
		uint32_t used = (intel.transmit_tails[0] - head + INTEL_RING_SIZE) % INTEL_RING_SIZE;

		for (posted = test_random(&random) % 100; posted && used + 1 < INTEL_RING_SIZE; posted--, used++)
			post(&random, model, command, reserved, hostile);
		if (hostile && one_in(&random, 200))
			intel.transmit_tails[0] = INTEL_RING_SIZE + 5;
		intel_ring_tail(0);
		intel.net.turn.requests = 1 + test_random(&random) % 80;
		intel.net.turn.bytes = one_in(&random, 3) ? 64 + test_random(&random) % 20000 : 1U << 20;
		intel.peer.room = one_in(&random, 3) ? test_random(&random) % 40 : UINT32_MAX;
		outcome->work[round] = intel_round();
		look(outcome);
	}
	look_at_the_end(outcome);
	intel_fixture_stop();
}

static void test_transmit(void **state)
{
	play_both(play_transmit, 0);
}

/* ---- receive ---- */

struct sent {
	struct frame frames[FRAMES];
	struct guest_segment segments[FRAMES][2];
	uint8_t bytes[FRAMES][FRAME_BYTES];
};

static void set_addresses(uint64_t *random, uint8_t *bytes)
{
	static const uint8_t others[4][6] = { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
					      { 1, 0, 0x5e, 0, 0, 1 },
					      { 2, 0, 0, 0, 0, 7 },
					      { 2, 0, 0, 0, 0, 1 } };

	memcpy(bytes, intel_mac, 6);
	if (one_in(random, 25))
		memcpy(bytes, others[test_random(random) % 4], 6);
	memcpy(bytes + 6, intel_peer_mac, 6);
}

/* Another flow, or a fragment; the header stays a good one. */
static void vary_header(uint64_t *random, uint8_t *bytes)
{
	uint8_t *ip = bytes + 14;
	uint16_t sum;

	if (one_in(random, 6))
		ip[15] = (uint8_t)test_random(random);
	if (one_in(random, 6))
		ip[21] = (uint8_t)test_random(random); /* a port */
	if (one_in(random, 6))
		ip[6] = (uint8_t)(1U << test_random(random) % 8);
	if (one_in(random, 20))
		ip[9] = (uint8_t)test_random(random);
	ip[8] = (uint8_t)test_random(random);
	memset(ip + 10, 0, 2);
	sum = (uint16_t)~naive_fold(naive_sum(ip, 20, 0));
	ip[10] = (uint8_t)(sum >> 8);
	ip[11] = (uint8_t)sum;
}

static void make_frame(uint64_t *random, struct sent *sent, unsigned i, uint32_t kind)
{
	uint8_t *bytes = sent->bytes[i];
	uint32_t payload = one_in(random, 3) ? test_random(random) % 1400 : 10, length;
	uint32_t piece;

	length = intel_frame(bytes, intel_mac, kind & 1 ? 6 : 17, payload);
	set_addresses(random, bytes);
	vary_header(random, bytes);
	if (kind % 5 == 1)
		bytes[12] = 0x88; /* not IP */
	if (kind % 5 == 2)
		memcpy(bytes + 12, "\x86\xdd\x60", 3);
	if (kind % 5 == 3)
		memcpy(bytes + 12, "\x81\0\0\x05\x08\0\x45", 7);
	if (one_in(random, 40))
		memcpy(bytes + 12, "\x81\0\0\x05\x08", 5);
	if (one_in(random, 40))
		bytes[12 + test_random(random) % 24] = (uint8_t)test_random(random);
	if (one_in(random, 40))
		length = 14 + test_random(random) % 60;
	piece = one_in(random, 4) ? 1 + test_random(random) % length : length;
	sent->segments[i][0] = (struct guest_segment){ guest_bytes_of(bytes), piece };
	sent->segments[i][1] = (struct guest_segment){ guest_bytes_of(bytes + piece), length - piece };
	frame_from_segments(&sent->frames[i], sent->segments[i], 1 + (piece < length), length);
	sent->frames[i].offload.checksum_valid = one_in(random, 3);
}

static void offer(uint64_t *random, unsigned queue, bool hostile)
{
	unsigned space =
		(intel.nic->receive[queue].head + INTEL_RING_SIZE - intel.receive_tails[queue] - 1) % INTEL_RING_SIZE;

	for (unsigned count = min(test_random(random) % 90, space); count; count--) {
		uint64_t words[2] = { INTEL_RX_BUFFER(0, test_random(random) % 128), test_random(random) };

		if (intel_read(RCTL) >> RCTL_DTYP_SHIFT & 3) /* four buffers in each */
			words[1] = INTEL_RX_BUFFER(0, test_random(random) % 128);
		if (one_in(random, 60))
			words[0] = 0;
		if (one_in(random, 60))
			words[0] = INTEL_MEMORY / 2 - test_random(random) % 3000;
		if (hostile && one_in(random, 300))
			words[0] = INTEL_MEMORY - test_random(random) % 4096;
		memcpy(intel.memory + INTEL_RX_RING(queue) + 16 * intel.receive_tails[queue], words, 16);
		intel.receive_tails[queue] = (intel.receive_tails[queue] + 1) % INTEL_RING_SIZE;
	}
	intel_write(intel_ring_registers(intel.nic, true, queue) + RING_TAIL,
		    hostile && one_in(random, 100) ? test_random(random) & 0xff : intel.receive_tails[queue]);
}

static void set_receiver(uint64_t *random, enum intel_nic_model model)
{
	uint32_t control = RCTL_EN | RCTL_BAM | (one_in(random, 2) ? RCTL_SECRC : 0) |
			   (one_in(random, 2) ? RCTL_LPE : 0) | (one_in(random, 4) ? RCTL_UPE : 0) |
			   (test_random(random) & 3) << RCTL_BSIZE_SHIFT;

	intel_rings(0);
	if (model != INTEL_NIC_E1000)
		intel_rings(1);
	if (model == INTEL_NIC_E1000E && one_in(random, 3))
		control |= 1U << RCTL_DTYP_SHIFT;
	intel_write(RCTL, control);
	intel_write(RXCSUM, test_random(random) & (RXCSUM_IPOFL | RXCSUM_TUOFL | RXCSUM_PCSD));
	intel_write(VET, one_in(random, 6) ? 0x88a8 : VET_DEFAULT);
	intel_write(RAL0, 2); /* ours: 02:00:00:00:00:01 */
	intel_write(RAL0 + 4, 0x0100 | RAH_AV);
	if (one_in(random, 2))
		intel_write(CTRL, CTRL_SLU | CTRL_VME);
	if (one_in(random, 2)) {
		intel_write(MRQC, (model == INTEL_NIC_IGB ? 2 : 1) | 0x3f0000);
		for (uint32_t i = 0; i < 40; i += 4)
			intel_write(RSSRK + i, test_random(random));
		for (uint32_t i = 0; i < 128; i += 4)
			intel_write(RETA + i, one_in(random, 2) ? 0 : test_random(random) & 0x81818181);
	}
	if (model == INTEL_NIC_E1000E) {
		intel_write(RFCTL, one_in(random, 4) ? 0 : RFCTL_EXSTEN);
		intel_write(PSRCTL, 2 | 1 << 8 | 1 << 16 | 1 << 24);
	}
	for (unsigned queue = 0; model == INTEL_NIC_IGB && queue < 2; queue++)
		intel_write(intel_ring_registers(intel.nic, true, queue) + RING_SRRCTL,
			    (one_in(random, 4) ? 0 : 1U << 25) | test_random(random) % 3);
}

static void play_receive(uint64_t seed, struct outcome *outcome)
{
	struct sent *sent = aligned_alloc(CACHE_LINE, sizeof(*sent));
	uint64_t random = seed * 104729;
	enum intel_nic_model model = seed % 3;
	bool hostile = one_in(&random, 3);

	assert_non_null(sent);
	memset(sent, 0, sizeof(*sent));
	intel_fixture_start(model, false, PCI_INTERRUPT_PIN);
	set_receiver(&random, model);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned count = 1 + test_random(&random) % FRAMES;
		uint32_t kind = test_random(&random);

		offer(&random, 0, hostile);
		if (model != INTEL_NIC_E1000)
			offer(&random, 1, hostile);
		for (unsigned i = 0; i < count; i++)
			make_frame(&random, sent, i, one_in(&random, 10) ? test_random(&random) : kind);
		outcome->done[round] = network_forward(&intel.peer.port, sent->frames, count, &intel.net.turn);
		outcome->work[round] = intel_round();
		look(outcome);
	}
	look_at_the_end(outcome);
	intel_fixture_stop();
	free(sent);
}

static void test_receive(void **state)
{
	play_both(play_receive, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_transmit),
		cmocka_unit_test(test_receive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
