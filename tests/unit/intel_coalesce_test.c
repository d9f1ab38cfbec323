/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Receive coalescing: TCP segments of 64 KiB come as few long frames, within the limits that drivers need, and as many
 * short ones where a driver has not shown that it takes long ones. Whatever happens, the guest gets each byte once.
 */
#include "test.h"

#include "device/intel/intel_receive.h"
#include "intel_fixture.h"

#define HEADERS	     54U
#define SEGMENT	     1448U
#define PAYLOAD	     64000U
#define LINUX_RLPML  1648U /* what Linux's igb writes at an MTU of 1500 */
#define LINUX_SRRCTL (1U << 25 | 256U << 2 | 2U)
#define SETTING	     (RCTL_EN | RCTL_BAM | RCTL_SECRC | RCTL_LPE)
#define GUARD	     0xee

static uint8_t sent[HEADERS + PAYLOAD];
static const struct frame_offload segment_offload = { .checksum_partial = true,
						      .gso = FRAME_GSO_TCPV4,
						      .gso_size = SEGMENT,
						      .checksum_start = 34,
						      .checksum_offset = 16 };

/* struct got - what the driver has found in its ring. */
static struct {
	uint8_t stream[PAYLOAD + 2 * SEGMENT];
	uint32_t length; /* of the stream */
	unsigned packets, coalesced;
	unsigned descriptors_max; /* of one packet */
	uint32_t buffer_max;	  /* bytes of one buffer */
	uint32_t status;	  /* of the last packet */
	uint16_t tag;
} got;

static void start(enum intel_nic_model model, bool coalescing, uint32_t srrctl, uint32_t control)
{
	uint32_t length = intel_frame(sent, intel_peer_mac, 17, 64);

	intel_fixture_options = (struct intel_nic_options){ .coalescing = coalescing };
	intel_fixture_start(model, false, PCI_INTERRUPT_PIN);
	intel_fixture_options = (struct intel_nic_options){ 0 };
	intel_rings(0);
	if (model == INTEL_NIC_IGB) {
		intel_write(RING_RECEIVE + RING_SRRCTL, srrctl);
		intel_write(RLPML, LINUX_RLPML);
	}
	intel_write(RCTL, control);
	intel_write(RXCSUM, RXCSUM_PCSD | RXCSUM_IPOFL | RXCSUM_TUOFL);
	/* The switch shall know the card: what is flooded waits for nobody. */
	memcpy(intel.memory + INTEL_TX_BUFFERS, sent, length);
	intel_post(0, INTEL_TX_BUFFERS, length | TXD_EOP, 0);
	intel_ring_tail(0);
	assert_int_equal(intel_round(), 1);
	memset(intel.memory + INTEL_RX_BUFFERS, GUARD, INTEL_MEMORY - INTEL_RX_BUFFERS);
	memset(&got, 0, sizeof(got));
	assert_int_equal(intel_frame(sent, intel_mac, 6, PAYLOAD), sizeof(sent));
	for (uint32_t i = 0; i < PAYLOAD; i++)
		sent[HEADERS + i] = (uint8_t)(i * 31 ^ i >> 7);
}

static uint32_t oversize(void)
{
	struct port_counters sum;

	port_read_counters(&intel.nic->port, &sum);
	return (uint32_t)sum.drops[PORT_DROP_OVERSIZE];
}

/* Read packets, of which each has to be whole and valid. @tagged: the tag is in them */
static void read_ring(bool tagged)
{
	static uint8_t packet[70000];
	uint32_t length = 0, link = tagged ? 18 : 14;
	unsigned descriptors = 0, index = intel.receive_heads[0];
	uint64_t words[2];

	while (intel_received(0, words)) {
		bool legacy = intel.nic->receive[0].form == INTEL_RECEIVE_LEGACY;
		uint32_t status = legacy ? (uint32_t)(words[1] >> 32 & 0xff) : (uint32_t)words[1];
		uint32_t size = (uint32_t)(legacy ? words[1] : words[1] >> 32) & 0xffff;
		const uint8_t *buffer = intel.memory + INTEL_RX_BUFFER(0, index);

		assert_in_range(size, 1, INTEL_BUFFER_SIZE); /* zero means "not done" to Linux's igb */
		memcpy(packet + length, buffer, size);
		length += size;
		got.buffer_max = max(got.buffer_max, size);
		for (uint32_t i = size; i < INTEL_BUFFER_SIZE; i++)
			assert_int_equal(buffer[i], GUARD);
		memset(intel.memory + INTEL_RX_BUFFER(0, index), GUARD, INTEL_BUFFER_SIZE);
		got.descriptors_max = max(got.descriptors_max, ++descriptors);
		index = (index + 1) % INTEL_RING_SIZE;
		if (!(status & RXD_EOP)) {
			assert_int_equal(status, RXD_DD);
			continue;
		}
		got.status = status;
		got.tag = (uint16_t)(words[1] >> 48);
		got.packets++;
		got.coalesced += descriptors > 1;
		assert_memory_equal(packet, sent, 12);
		assert_int_equal(packet[link + 2] << 8 | packet[link + 3], length - link);
		assert_true(naive_ipv4_good(packet + link));
		assert_true(naive_transport_good(packet + link, length - link));
		assert_true(got.length + length - link - 40 <= sizeof(got.stream));
		memcpy(got.stream + got.length, packet + link + 40, length - link - 40);
		got.length += length - link - 40;
		length = descriptors = 0;
	}
	assert_int_equal(descriptors, 0);
}

/* With buffers enough for all of it. */
static void deliver(void)
{
	intel_offer(0, 100);
	assert_int_equal(intel_send(sent, sizeof(sent), &segment_offload), 1);
	read_ring(false);
}

static void check_stream(void)
{
	assert_int_equal(got.length, PAYLOAD);
	assert_memory_equal(got.stream, sent + HEADERS, PAYLOAD);
	assert_int_equal(oversize(), 0);
	assert_null(atomic_load(&intel.device->fault));
}

static uint64_t coalesced(void)
{
	struct port_counters sum;

	port_read_counters(&intel.nic->port, &sum);
	return sum.coalesced;
}

static void test_long_frames(void **state)
{
	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	deliver();
	check_stream();
	/* 16 buffers of 1644 bytes: 18 segments; 45 in all */
	assert_int_equal(got.packets, 3);
	assert_int_equal(got.coalesced, 3);
	assert_int_equal(coalesced(), 3);
	assert_in_range(got.descriptors_max, 15, 16);
	assert_int_equal(got.buffer_max, LINUX_RLPML - 4);
	assert_int_equal(got.status & (RXD_EOP | RXD_IPCS | RXD_TCPCS), RXD_EOP | RXD_IPCS | RXD_TCPCS);
	assert_int_equal(intel_read(ROC), 0);
	intel_fixture_stop();
}

/* Jumbo frames: the driver's buffers are full then. */
static void test_larger_limits(void **state)
{
	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_write(RLPML, 0x2600);
	deliver();
	check_stream();
	assert_int_equal(got.packets, 3);
	assert_int_equal(got.buffer_max, INTEL_BUFFER_SIZE);
	intel_fixture_stop();
}

/* All that is not set up as Linux's igb does it gets what it would get without. */
static void test_cut_for_all_others(void **state)
{
	static const struct {
		enum intel_nic_model model;
		bool coalescing;
		uint32_t srrctl, control;
	} cases[] = {
		/* 0 */ { INTEL_NIC_IGB, false, LINUX_SRRCTL, SETTING },
		/* 1 */ { INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING & ~RCTL_LPE },
		/* 2 */ { INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING | RCTL_UPE },  /* a bridge; tcpdump */
		/* 3 */ { INTEL_NIC_IGB, true, 1U << 25 | 2, SETTING },		    /* DPDK, FreeBSD */
		/* 4 */ { INTEL_NIC_IGB, true, 5U << 25 | 256U << 2 | 2, SETTING }, /* header split */
		/* 5 */ { INTEL_NIC_IGB, true, 256U << 2 | 2, SETTING },	    /* legacy descriptors */
		/* 6 */ { INTEL_NIC_E1000, false, 0, SETTING },
		/* 7 */ { INTEL_NIC_E1000E, false, 0, SETTING },
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		print_message("case %u\n", i);
		start(cases[i].model, cases[i].coalescing, cases[i].srrctl, cases[i].control);
		deliver();
		check_stream();
		assert_int_equal(got.packets, 45);
		assert_int_equal(got.descriptors_max, 1);
		assert_int_equal(coalesced(), 0);
		intel_fixture_stop();
	}
}

/* A further address is of a virtual interface in the guest. */
static void test_own_address_only(void **state)
{
	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_write(RAL0, 0x07000002);
	intel_write(RAL0 + 8, intel_mac[0] | (uint32_t)intel_mac[3] << 24);
	intel_write(RAL0 + 12, (uint32_t)(intel_mac[4] | intel_mac[5] << 8) | RAH_AV);
	deliver();
	check_stream();
	assert_int_equal(got.packets, 45);
	intel_fixture_stop();
}

/* Few descriptors: shorter frames, down to one segment; a frame never waits for more than there are. */
static void test_few_descriptors(void **state)
{
	for (unsigned buffers = 1; buffers < 20; buffers++) {
		unsigned done;

		start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
		intel_offer(0, buffers);
		done = intel_send(sent, sizeof(sent), &segment_offload);
		assert_int_equal(done, 0);
		read_ring(false);
		assert_true(got.packets >= 1);
		assert_true(got.descriptors_max <= min(buffers, 16U));
		assert_memory_equal(got.stream, sent + HEADERS, got.length);
		/* As much as goes into these buffers, but for what a whole packet more would need. */
		assert_true(got.length + HEADERS * got.packets + SEGMENT > min(buffers, 16U) * (LINUX_RLPML - 4));
		intel_fixture_stop();
	}
}

/* The sender keeps the frame and how far it has come, as devices do. */
static void test_full_half_way(void **state)
{
	static struct test_frame frame;
	static const unsigned offers[] = { 3, 17, 0, 1, 1, 9, 30, 2 };

	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	memcpy(frame.bytes, sent, sizeof(sent));
	frame.length = sizeof(sent);
	test_frame_build(&frame, 4096);
	frame.frame.offload = segment_offload;
	for (unsigned turn = 0; turn < 100; turn++) {
		unsigned done;

		intel_offer(0, offers[turn % array_size(offers)]);
		/* Promiscuous from time to time: cut then. */
		intel_write(RCTL, SETTING | (turn % 3 == 2 ? RCTL_UPE : 0));
		done = network_forward(&intel.peer.port, &frame.frame, 1, &intel.net.turn);
		read_ring(false);
		if (done)
			break;
		intel.net.turn.now += 1000;
	}
	check_stream();
	assert_true(got.coalesced > 1);
	intel_fixture_stop();
}

/* A tag is taken off, or counts as part of the frame. */
static void test_tagged(void **state)
{
	for (unsigned strip = 0; strip < 2; strip++) {
		static uint8_t tagged[sizeof(sent) + 4];
		struct frame_offload offload = segment_offload;

		start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
		intel_write(CTRL, intel_read(CTRL) | (strip ? CTRL_VME : 0));
		memcpy(tagged, sent, 12);
		memcpy(tagged + 12, "\x81\0\0\7", 4);
		memcpy(tagged + 16, sent + 12, sizeof(sent) - 12);
		offload.checksum_start = 38;
		intel_offer(0, 100);
		assert_int_equal(intel_send(tagged, sizeof(tagged), &offload), 1);
		read_ring(!strip);
		check_stream();
		assert_int_equal(got.packets, 3);
		assert_int_equal(!!(got.status & RXD_VP), strip);
		assert_int_equal(got.tag, strip ? 7 : 0);
		intel_fixture_stop();
	}
}

/* The check sequence is part of the last descriptor's length, and fits in. */
static void test_check_sequence(void **state)
{
	uint64_t words[2];
	uint32_t length = 0;
	unsigned descriptors = 0;

	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING & ~RCTL_SECRC);
	intel_offer(0, 100);
	assert_int_equal(intel_send(sent, sizeof(sent), &segment_offload), 1);
	do {
		assert_true(intel_received(0, words));
		length += (uint32_t)(words[1] >> 32) & 0xffff;
		assert_true((words[1] >> 32 & 0xffff) <= LINUX_RLPML);
		descriptors++;
	} while (!(words[1] & RXD_EOP));
	assert_int_equal((length - 4 - HEADERS) % SEGMENT, 0);
	assert_true(descriptors <= 16);
	intel_fixture_stop();
}

/* What was not a TCP segment when it came keeps to the driver's limits. */
static void test_oversize_stays_oversize(void **state)
{
	uint64_t words[2];
	uint32_t length;

	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_offer(0, 100);
	length = intel_frame(sent, intel_mac, 6, 4000);
	assert_int_equal(intel_send(sent, length, NULL), 1);
	assert_false(intel_received(0, words));
	assert_int_equal(oversize(), 1);
	assert_int_equal(intel_read(ROC), 1);
	intel_fixture_stop();
}

/* Descriptors without buffers, and buffers outside of memory, in the middle of a frame. */
static void test_hostile_rings(void **state)
{
	uint64_t words[2], address = 0;

	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_offer(0, 100);
	memcpy(intel.memory + INTEL_RX_RING(0) + 16 * 5, &address, 8);
	assert_int_equal(intel_send(sent, sizeof(sent), &segment_offload), 1);
	/* The first packet was to have 16 descriptors, and one of these holds nothing: gone. */
	assert_int_equal(oversize(), 2);
	assert_null(atomic_load(&intel.device->fault));
	assert_true(intel_received(0, words));
	intel_fixture_stop();

	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_offer(0, 100);
	address = INTEL_MEMORY - 8;
	memcpy(intel.memory + INTEL_RX_RING(0) + 16 * 5, &address, 8);
	assert_int_equal(intel_send(sent, sizeof(sent), &segment_offload), 1);
	assert_string_equal(atomic_load(&intel.device->fault), "receive buffer outside of memory");
	assert_false(intel_received(0, words));
	intel_fixture_stop();

	/* A tail beyond the ring. */
	start(INTEL_NIC_IGB, true, LINUX_SRRCTL, SETTING);
	intel_write(RING_RECEIVE + RING_TAIL, INTEL_RING_SIZE);
	assert_int_equal(intel_send(sent, sizeof(sent), &segment_offload), 1);
	assert_string_equal(atomic_load(&intel.device->fault), "receive tail beyond the ring");
	intel_fixture_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_frames),
		cmocka_unit_test(test_larger_limits),
		cmocka_unit_test(test_cut_for_all_others),
		cmocka_unit_test(test_own_address_only),
		cmocka_unit_test(test_few_descriptors),
		cmocka_unit_test(test_full_half_way),
		cmocka_unit_test(test_tagged),
		cmocka_unit_test(test_check_sequence),
		cmocka_unit_test(test_oversize_stays_oversize),
		cmocka_unit_test(test_hostile_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
