/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel's network cards: receive descriptors of every form, filters, tags, checksums, RSS, nonsense. */
#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "intel_fixture.h"

static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

static uint8_t bytes[20000];

static void start(enum intel_nic_model model)
{
	uint32_t length = intel_frame(bytes, intel_peer_mac, 17, 64);

	intel_fixture_start(model, false, PCI_INTERRUPT_PIN);
	intel_rings(0);
	/* The switch shall know the card: what is flooded waits for nobody. */
	memcpy(intel.memory + INTEL_TX_BUFFERS, bytes, length);
	intel_post(0, INTEL_TX_BUFFERS, length | TXD_EOP, 0);
	intel_ring_tail(0);
	assert_int_equal(intel_round(), 1);
}

static const char *fault(void)
{
	return atomic_load(&intel.device->fault);
}

static uint32_t status_of(const uint64_t words[2])
{
	if (intel.nic->receive[0].form == INTEL_RECEIVE_LEGACY)
		return (uint32_t)(words[1] >> 32 & 0xff);
	return (uint32_t)words[1] & 0xff;
}

static uint32_t length_of(const uint64_t words[2])
{
	return (uint32_t)(intel.nic->receive[0].form == INTEL_RECEIVE_LEGACY ? words[1] : words[1] >> 32) & 0xffff;
}

static uint8_t *buffer(unsigned queue, unsigned index)
{
	return intel.memory + INTEL_RX_BUFFER(queue, index);
}

/* ---- one frame ---- */

static void test_plain(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t words[2];
		uint32_t length;

		start(models[i]);
		length = intel_frame(bytes, intel_mac, 17, 500);
		intel_offer(0, 4);
		for (unsigned n = 0; n < 3; n++)
			assert_int_equal(intel_send(bytes, length, NULL), 1);
		for (unsigned n = 0; n < 3; n++) {
			assert_true(intel_received(0, words));
			assert_int_equal(length_of(words), length);
			assert_int_equal(status_of(words) & (RXD_DD | RXD_EOP), RXD_DD | RXD_EOP);
			assert_memory_equal(buffer(0, n), bytes, length);
		}
		assert_false(intel_received(0, words));
		assert_int_equal(intel_read(RING_RECEIVE + RING_HEAD), 3);
		intel_fixture_stop();
	}
}

static void test_short(void **state)
{
	uint64_t words[2];

	start(INTEL_NIC_E1000);
	intel_frame(bytes, intel_mac, 17, 1);
	intel_offer(0, 4);
	memset(buffer(0, 0), 0xee, 100);
	assert_int_equal(intel_send(bytes, 43, NULL), 1);
	assert_true(intel_received(0, words));
	assert_int_equal(length_of(words), 60); /* padded */
	for (unsigned i = 43; i < 60; i++)
		assert_int_equal(buffer(0, 0)[i], 0);
	assert_int_equal(buffer(0, 0)[60], 0xee);
	/* Without SECRC the frame check sequence is part of the length. */
	intel_write(RCTL, intel_read(RCTL) & ~RCTL_SECRC);
	assert_int_equal(intel_send(bytes, 43, NULL), 1);
	assert_true(intel_received(0, words));
	assert_int_equal(length_of(words), 64);
	intel_fixture_stop();
}

/* A frame over several descriptors, and buffers over two regions of guest memory. */
static void test_jumbo(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t words[2];
		uint32_t length, got = 0;

		start(models[i]);
		length = intel_frame(bytes, intel_mac, 17, 8000);
		intel_offer(0, 8);
		assert_int_equal(intel_send(bytes, length, NULL), 1); /* too long: counted, gone */
		assert_false(intel_received(0, words));
		assert_int_equal(intel_read(ROC), 1);
		intel_write(RCTL, intel_read(RCTL) | RCTL_LPE);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		for (unsigned n = 0; n < 4; n++) {
			assert_true(intel_received(0, words));
			assert_int_equal(!!(status_of(words) & RXD_EOP), n == 3);
			assert_memory_equal(buffer(0, n), bytes + got, length_of(words));
			got += length_of(words);
		}
		assert_int_equal(got, length);
		/* Five of eight needed and four are left: the port is full, and nothing is half done. */
		length = intel_frame(bytes, intel_mac, 17, 9000);
		assert_int_equal(intel_send(bytes, length, NULL), 0);
		assert_false(intel_received(0, words));
		intel_offer(0, 4);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		intel_fixture_stop();
	}
}

/* 82574: four buffers for each descriptor; tails count twice. */
static void test_split(void **state)
{
	uint64_t descriptor[4];
	uint32_t length;

	start(INTEL_NIC_E1000E);
	intel_write(RCTL, 0);
	intel_write(RFCTL, RFCTL_EXSTEN);
	intel_write(PSRCTL, 2 | 4 << 8 | 4 << 16 | 4 << 24); /* 256 bytes, 4 KiB each */
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned n = 0; n < 4; n++)
			descriptor[n] = INTEL_RX_BUFFERS + 0x10000 * i + 0x2000 * n;
		memcpy(intel.memory + INTEL_RX_RING(0) + 32 * i, descriptor, 32);
	}
	intel_write(RING_RECEIVE + RING_HEAD, 0);
	intel_write(RING_RECEIVE + RING_TAIL, 2 * 3);
	intel_write(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC | RCTL_LPE | 1U << RCTL_DTYP_SHIFT);
	length = intel_frame(bytes, intel_mac, 17, 5000);
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	memcpy(descriptor, intel.memory + INTEL_RX_RING(0), 32);
	assert_int_equal(descriptor[1] & 3, RXD_DD | RXD_EOP);
	assert_int_equal(descriptor[1] >> 32 & 0xffff, 256);
	assert_int_equal(descriptor[2] >> 16 & 0xffff, 4096);
	assert_int_equal(descriptor[2] >> 32 & 0xffff, length - 256 - 4096);
	assert_int_equal(descriptor[2] >> 48, 0);
	assert_memory_equal(intel.memory + INTEL_RX_BUFFERS, bytes, 256);
	assert_memory_equal(intel.memory + INTEL_RX_BUFFERS + 0x2000, bytes + 256, 4096);
	assert_memory_equal(intel.memory + INTEL_RX_BUFFERS + 0x4000, bytes + 4352, length - 4352);
	assert_int_equal(intel_read(RING_RECEIVE + RING_HEAD), 2);
	/* Two more, then it is full: the fourth is the driver's. */
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	assert_int_equal(intel_send(bytes, length, NULL), 0);
	/* The form changes under the ring: it is taken up anew, within its length. */
	intel_write(RFCTL, 0);
	intel_write(RING_RECEIVE + RING_TAIL, 100);
	assert_int_equal(intel_send(bytes, length, NULL), 0); /* most of it are null addresses */
	assert_int_equal(intel.nic->receive[0].count, INTEL_RING_SIZE);
	assert_null(fault());
	intel_fixture_stop();
}

/* ---- filters ---- */

static bool passes(const uint8_t destination[6], int vlan)
{
	uint32_t length = intel_frame(bytes, intel_mac, 17, 64);
	uint64_t words[2];

	memcpy(bytes, destination, 6);
	if (vlan >= 0) {
		memmove(bytes + 16, bytes + 12, length - 12);
		bytes[12] = 0x81;
		bytes[13] = 0;
		bytes[14] = (uint8_t)(vlan >> 8);
		bytes[15] = (uint8_t)vlan;
		length += 4;
	}
	intel_offer(0, 1);
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	if (intel_received(0, words))
		return true;
	intel.receive_tails[0] = intel.receive_heads[0]; /* the buffer is still there: offer the same again */
	return false;
}

static void test_addresses(void **state)
{
	static const uint8_t other[6] = { 2, 0, 0, 0, 0, 7 }, broadcast[6] = { 255, 255, 255, 255, 255, 255 };
	static const uint8_t group[6] = { 1, 0, 0x5e, 0, 0, 0xfb };

	for (unsigned i = 0; i < 3; i++) {
		uint32_t control;

		start(models[i]);
		control = RCTL_EN | RCTL_SECRC;
		intel_write(RCTL, control);
		assert_true(passes(intel_mac, -1));
		assert_false(passes(other, -1));
		assert_false(passes(broadcast, -1));
		assert_false(passes(group, -1));
		intel_write(RCTL, control | RCTL_BAM);
		assert_true(passes(broadcast, -1));
		assert_false(passes(group, -1));
		intel_write(RCTL, control | RCTL_UPE);
		assert_true(passes(other, -1));
		assert_false(passes(group, -1));
		intel_write(RCTL, control | RCTL_MPE);
		assert_true(passes(group, -1));
		assert_false(passes(other, -1));
		/* A second exact address, the last that there is. */
		intel_write(RCTL, control);
		intel_write(i == 2 ? RAL16 + 0x38 : RAL0 + 0x78, 2);
		intel_write((i == 2 ? RAL16 + 0x38 : RAL0 + 0x78) + 4, 0x0700);
		assert_false(passes(other, -1)); /* not valid yet */
		intel_write((i == 2 ? RAL16 + 0x38 : RAL0 + 0x78) + 4, RAH_AV | 0x0700);
		assert_true(passes(other, -1));
		intel_fixture_stop();
	}
}

/* Each of the four ways to take 12 bits of the last 16. */
static void test_multicast_hash(void **state)
{
	static const uint8_t group[6] = { 1, 0, 0x5e, 0, 0x3a, 0xfb };
	static const uint8_t shifts[4] = { 4, 3, 2, 0 };

	start(INTEL_NIC_IGB);
	for (unsigned offset = 0; offset < 4; offset++) {
		uint32_t hash = 0xfb3aU >> shifts[offset] & 0xfff;

		intel_write(RCTL, RCTL_EN | RCTL_SECRC | offset << RCTL_MO_SHIFT);
		assert_false(passes(group, -1));
		intel_write(MTA + hash / 32 * 4, 1U << hash % 32);
		assert_true(passes(group, -1));
		intel_write(MTA + hash / 32 * 4, ~(1U << hash % 32));
		assert_false(passes(group, -1));
		intel_write(MTA + hash / 32 * 4, 0);
	}
	intel_fixture_stop();
}

static void test_vlan_filter(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		start(models[i]);
		assert_true(passes(intel_mac, 77));
		intel_write(RCTL, intel_read(RCTL) | RCTL_VFE);
		assert_false(passes(intel_mac, 77));
		assert_true(passes(intel_mac, -1));
		intel_write(VFTA + 77 / 32 * 4, 1U << 77 % 32);
		assert_true(passes(intel_mac, 77));
		assert_true(passes(intel_mac, 0x6000 | 77)); /* priority is no part of it */
		assert_false(passes(intel_mac, 78));
		assert_false(passes(intel_mac, 4095));
		intel_fixture_stop();
	}
}

static void test_strip(void **state)
{
	uint64_t words[2];

	for (unsigned i = 0; i < 3; i++) {
		start(models[i]);
		intel_write(CTRL, intel_read(CTRL) | CTRL_VME);
		assert_true(passes(intel_mac, 0x6000 | 77));
		memcpy(words, intel.memory + INTEL_RX_RING(0), 16);
		assert_true(status_of(words) & RXD_VP);
		assert_int_equal(words[1] >> 48, 0x6000 | 77);
		assert_int_equal(length_of(words), 14 + 20 + 8 + 64);
		assert_memory_equal(buffer(0, 0) + 12, "\x08\x00\x45", 3);
		intel_fixture_stop();
	}
}

/* ---- checksums ---- */

static uint32_t received_status(const struct frame_offload *offload, uint8_t protocol)
{
	uint32_t length = intel_frame(bytes, intel_mac, protocol, 64);
	uint64_t words[2];

	intel_offer(0, 1);
	assert_int_equal(intel_send(bytes, length, offload), 1);
	assert_true(intel_received(0, words));
	return status_of(words);
}

static void test_checksums(void **state)
{
	const struct frame_offload none = { 0 }, valid = { .checksum_valid = true };
	const struct frame_offload partial = { .checksum_partial = true, .checksum_start = 34, .checksum_offset = 16 };

	for (unsigned i = 0; i < 3; i++) {
		start(models[i]);
		intel_write(RXCSUM, 0);
		assert_int_equal(received_status(&valid, 6) & (RXD_IXSM | RXD_IPCS | RXD_TCPCS), RXD_IXSM);
		intel_write(RXCSUM, RXCSUM_IPOFL | RXCSUM_TUOFL);
		/* Nobody verified it: nothing is said. */
		assert_int_equal(received_status(&none, 6) & (RXD_IXSM | RXD_IPCS | RXD_TCPCS), RXD_IPCS);
		assert_int_equal(received_status(&valid, 6) & (RXD_IXSM | RXD_IPCS | RXD_TCPCS), RXD_IPCS | RXD_TCPCS);
		assert_true(received_status(&valid, 17) & RXD_TCPCS);
		/* Never computed: computed for us, and said so. A guest may pass it on. */
		assert_true(received_status(&partial, 6) & RXD_TCPCS);
		assert_false(intel.nic->port.abilities.checksum);
		intel_fixture_stop();
	}
}

static void test_bad_ip_checksum(void **state)
{
	uint64_t words[2];
	uint32_t length;

	start(INTEL_NIC_IGB);
	intel_write(RXCSUM, RXCSUM_IPOFL);
	length = intel_frame(bytes, intel_mac, 6, 64);
	bytes[24] ^= 1;
	intel_offer(0, 1);
	intel_send(bytes, length, NULL);
	assert_true(intel_received(0, words));
	assert_true(words[1] & RXD_EXTENDED_IPE);
	intel_fixture_stop();
}

/* ---- RSS ---- */

/* Microsoft's verification suite for RSS: IPv4 and IPv6 with and without TCP ports. */
static const uint8_t key[40] = { 0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
				 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
				 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa };

static const struct {
	uint8_t source[16], destination[16];
	uint16_t source_port, destination_port;
	uint32_t plain, tcp;
	bool ipv6;
} vectors[] = {
	/* 0 */ { { 66, 9, 149, 187 }, { 161, 142, 100, 80 }, 2794, 1766, 0x323e8fc2, 0x51ccc178, false },
	/* 1 */ { { 199, 92, 111, 2 }, { 65, 69, 140, 83 }, 14230, 4739, 0xd718262a, 0xc626b0ea, false },
	/* 2 */ { { 24, 19, 198, 95 }, { 12, 22, 207, 184 }, 12898, 38024, 0xd2d0a5de, 0x5c2b394a, false },
	/* 3 */ { { 38, 27, 205, 30 }, { 209, 142, 163, 6 }, 48228, 2217, 0x82989176, 0xafc7327f, false },
	/* 4 */ { { 153, 39, 163, 191 }, { 202, 188, 127, 2 }, 44251, 1303, 0x5d1809c5, 0x10e828a2, false },
	/* 5 */
	{ { 0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7 },
	  { 0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0, 0x03, 0, 0, 0, 0, 0, 0, 0, 1 },
	  2794,
	  1766,
	  0x2cc18cd5,
	  0x40207d3d,
	  true },
	/* 6 */
	{ { 0x3f, 0xfe, 0x05, 0x01, 0, 8, 0, 0, 0x02, 0x60, 0x97, 0xff, 0xfe, 0x40, 0xef, 0xab },
	  { 0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 },
	  14230,
	  4739,
	  0x0f0c461c,
	  0xdde51bbf,
	  true },
};

static void write_rss(uint32_t mode)
{
	for (unsigned i = 0; i < 10; i++) {
		uint32_t word;

		memcpy(&word, key + 4 * i, 4);
		intel_write(RSSRK + 4 * i, word);
	}
	intel_write(RXCSUM, RXCSUM_PCSD);
	intel_write(MRQC, mode);
}

static uint32_t vector_frame(unsigned i, uint8_t protocol)
{
	uint32_t length = 14 + (vectors[i].ipv6 ? 40 : 20) + 20 + 100, at = 14 + (vectors[i].ipv6 ? 40 : 20);

	memset(bytes, 0, length);
	memcpy(bytes, intel_mac, 6);
	memcpy(bytes + 6, intel_peer_mac, 6);
	if (vectors[i].ipv6) {
		memcpy(bytes + 12, "\x86\xdd\x60", 3);
		bytes[20] = protocol;
		memcpy(bytes + 22, vectors[i].source, 16);
		memcpy(bytes + 38, vectors[i].destination, 16);
	} else {
		memcpy(bytes + 12, "\x08\x00\x45", 3);
		bytes[23] = protocol;
		memcpy(bytes + 26, vectors[i].source, 4);
		memcpy(bytes + 30, vectors[i].destination, 4);
	}
	bytes[at] = (uint8_t)(vectors[i].source_port >> 8);
	bytes[at + 1] = (uint8_t)vectors[i].source_port;
	bytes[at + 2] = (uint8_t)(vectors[i].destination_port >> 8);
	bytes[at + 3] = (uint8_t)vectors[i].destination_port;
	return length;
}

static void test_hash(void **state)
{
	uint64_t words[2];

	start(INTEL_NIC_IGB);
	write_rss(0x00330000 | 2); /* TCP and IP, both versions */
	intel_offer(0, 20);
	for (unsigned i = 0; i < array_size(vectors); i++) {
		assert_int_equal(intel_send(bytes, vector_frame(i, 6), NULL), 1);
		assert_true(intel_received(0, words));
		assert_int_equal(words[0] >> 32, vectors[i].tcp);
		assert_int_equal(words[0] & 15, vectors[i].ipv6 ? 3 : 1);
		assert_int_equal(intel_send(bytes, vector_frame(i, 50), NULL), 1);
		assert_true(intel_received(0, words));
		assert_int_equal(words[0] >> 32, vectors[i].plain);
		assert_int_equal(words[0] & 15, vectors[i].ipv6 ? 5 : 2);
	}
	intel_fixture_stop();
}

static void test_steering(void **state)
{
	uint64_t words[2];

	start(INTEL_NIC_IGB);
	for (unsigned queue = 1; queue < 16; queue++) {
		uint32_t at = intel_ring_registers(intel.nic, true, queue);

		intel_write(at + RING_BASE_LOW, INTEL_RX_RING(0) + 0x2000 * queue);
		intel_write(at + RING_LENGTH, INTEL_RING_SIZE * 16);
		intel_write(at + RING_SRRCTL, 1U << 25 | 2);
		intel_write(at + RING_CONTROL, RING_CONTROL_ENABLE);
	}
	write_rss(0x00330000 | 2);
	intel_offer(0, 20);
	for (unsigned i = 0; i < array_size(vectors); i++) {
		uint32_t entry = vectors[i].tcp & 0x7f;
		unsigned queue = 3 + i;

		/* Entries are masked when they are used: 0xf0 means nothing. */
		intel_write(RETA + (entry & ~3U), (0xf0U | queue) << 8 * (entry & 3));
		intel_offer(queue, 2);
		assert_int_equal(intel_send(bytes, vector_frame(i, 6), NULL), 1);
		assert_true(intel_received(queue, words));
		intel_write(RETA + (entry & ~3U), 0);
	}
	/* To a queue that is not enabled: gone, and counted. */
	intel_write(intel_ring_registers(intel.nic, true, 9) + RING_CONTROL, 0);
	for (unsigned i = 0; i < 32; i++)
		intel_write(RETA + 4 * i, 0x09090909);
	assert_int_equal(intel_send(bytes, vector_frame(0, 6), NULL), 1);
	assert_null(fault());
	/* What is no IP goes to queue 0. */
	memcpy(bytes + 12, "\x88\xb5", 2);
	assert_int_equal(intel_send(bytes, 100, NULL), 1);
	assert_true(intel_received(0, words));
	/* No RSS: the default queue. */
	intel_write(MRQC, 5 << 3);
	intel_offer(5, 2);
	assert_int_equal(intel_send(bytes, 100, NULL), 1);
	assert_true(intel_received(5, words));
	intel_fixture_stop();
}

/* ---- nonsense ---- */

static void expect_fault(const char *reason)
{
	uint32_t length = intel_frame(bytes, intel_mac, 17, 64);

	assert_int_equal(intel_send(bytes, length, NULL), 1); /* and the sender is not held */
	assert_non_null(fault());
	assert_string_equal(fault(), reason);
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	intel_write(CTRL, intel_read(CTRL) | CTRL_RST);
	assert_null(fault());
	memset(intel.memory + INTEL_RX_RING(0), 0, 0x2000);
	intel.receive_tails[0] = intel.receive_heads[0] = 0;
	intel_rings(0);
}

static void set_address(unsigned index, uint64_t address)
{
	memcpy(intel.memory + INTEL_RX_RING(0) + 16 * index, &address, 8);
}

static void test_nonsense(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t words[2];
		uint32_t length;

		start(models[i]);
		intel_write(RING_RECEIVE + RING_TAIL, INTEL_RING_SIZE);
		expect_fault("receive tail beyond the ring");
		intel_write(RING_RECEIVE + RING_TAIL, 0xffff);
		expect_fault("receive tail beyond the ring");
		intel_offer(0, 4);
		set_address(0, INTEL_MEMORY - 100);
		expect_fault("receive buffer outside of memory");
		intel_offer(0, 4);
		set_address(0, UINT64_MAX - 100);
		expect_fault("receive buffer outside of memory");
		intel_write(RING_RECEIVE + RING_BASE_HIGH, 0x80000000);
		expect_fault("descriptor ring outside of memory");

		/* CVE-2020-28916: null addresses are used up, and the frame goes on behind them. */
		intel_offer(0, 4);
		set_address(0, 0);
		set_address(1, 0);
		length = intel_frame(bytes, intel_mac, 17, 64);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		assert_int_equal(length_of(words), 0);
		assert_false(status_of(words) & RXD_EOP);
		assert_true(intel_received(0, words));
		assert_true(intel_received(0, words));
		assert_int_equal(length_of(words), length);
		assert_true(status_of(words) & RXD_EOP);
		/* A ring of nothing else: full, and no loop. */
		memset(intel.memory + INTEL_RX_RING(0), 0, 0x2000);
		intel_write(RING_RECEIVE + RING_TAIL, 2);
		assert_int_equal(intel_send(bytes, length, NULL), 0);
		assert_null(fault());
		intel_fixture_stop();
	}
}

/* Paused in the middle of traffic with another memory behind it: goes on where it was. */
static void test_pause(void **state)
{
	uint64_t words[2];
	uint32_t length;

	start(INTEL_NIC_IGB);
	length = intel_frame(bytes, intel_mac, 17, 64);
	intel_offer(0, 10);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		intel.done = false;
		assert_int_equal(intel.device->ops->pause(intel.device), PCI_DEFERRED);
		intel_round();
		assert_true(intel.done);
		assert_false(atomic_load(&intel.nic->port.up));
		intel.device->ops->resume(intel.device);
		assert_true(atomic_load(&intel.nic->port.up));
	}
	assert_int_equal(intel_read(RING_RECEIVE + RING_HEAD), 5);
	intel_fixture_stop();
}

/* ---- a ring that moves ---- */

#define MOVES 100000U

struct mover {
	atomic_bool stop;
	atomic_uint looks;
};

/*
 * As Linux's igb does it with the receiver on: disabled, one register after the other, enabled; and no more than one
 * move in a look.
 */
static void *move_ring(void *context)
{
	static const uint32_t bases[2] = { INTEL_MEMORY - 128, 0x1000 }, lengths[2] = { 128, 0x80000 };
	struct mover *mover = context;

	for (unsigned i = 0; i < MOVES; i++) {
		unsigned looks = atomic_load(&mover->looks);

		while (atomic_load(&mover->looks) - looks < 2)
			sched_yield();
		intel_store_mapped(RING_RECEIVE + RING_CONTROL, 0);
		intel_store_mapped(RING_RECEIVE + RING_BASE_LOW, bases[i & 1]);
		intel_store_mapped(RING_RECEIVE + RING_BASE_HIGH, 0);
		intel_store_mapped(RING_RECEIVE + RING_LENGTH, lengths[i & 1]);
		intel_store_mapped(RING_RECEIVE + RING_CONTROL, RING_CONTROL_ENABLE);
	}
	atomic_store(&mover->stop, true);
	return NULL;
}

/* An 82576's driver stops a ring and starts it where it was (AF_XDP); all of that is mapped, and no frame comes meanwhile. */
static void test_ring_starts_again(void **state)
{
	uint64_t words[2];
	uint32_t length;

	start(INTEL_NIC_IGB);
	length = intel_frame(bytes, intel_mac, 17, 500);
	intel_offer(0, 6);
	for (unsigned n = 0; n < 5; n++)
		assert_int_equal(intel_send(bytes, length, NULL), 1);
	intel_store_mapped(RING_RECEIVE + RING_CONTROL, 0);
	intel_store_mapped(RING_RECEIVE + RING_HEAD, 0);
	intel_store_mapped(RING_RECEIVE + RING_TAIL, 0);
	intel.receive_tails[0] = intel.receive_heads[0] = 0;
	for (unsigned n = 0; n < 3; n++) {
		words[0] = INTEL_RX_BUFFER(0, 10 + n);
		words[1] = 0;
		memcpy(intel.memory + INTEL_RX_RING(0) + 16 * n, words, sizeof(words));
	}
	intel_store_mapped(RING_RECEIVE + RING_TAIL, 3);
	intel_store_mapped(RING_RECEIVE + RING_CONTROL, RING_CONTROL_ENABLE);
	intel.receive_tails[0] = 3;
	memset(buffer(0, 5), 0, length);
	assert_int_equal(intel_send(bytes, length, NULL), 1);
	assert_true(intel_received(0, words));
	assert_memory_equal(buffer(0, 10), bytes, length);
	assert_int_equal(*(uint8_t *)buffer(0, 5), 0); /* a buffer that the driver has taken back */
	assert_int_equal(intel_read(RING_RECEIVE + RING_HEAD), 1);
	intel_fixture_stop();
}

/* Somebody who looks at the registers meanwhile takes up the one ring or the other, never a half of each. */
static void test_ring_moves(void **state)
{
	struct mover mover = { 0 };
	struct intel_ring *ring;
	pthread_t driver;

	start(INTEL_NIC_IGB);
	ring = &intel.nic->receive[0];
	assert_int_equal(pthread_create(&driver, NULL, move_ring, &mover), 0);
	for (; !atomic_load(&mover.stop); atomic_fetch_add(&mover.looks, 1)) {
		if (intel_ring_ready(intel.nic, ring, 16))
			assert_true(ring->count == 8 || ring->count == 0x8000 || ring->count == INTEL_RING_SIZE);
	}
	pthread_join(driver, NULL);
	assert_null(atomic_load(&intel.device->fault));
	assert_true(intel_ring_ready(intel.nic, ring, 16));
	assert_int_equal(ring->count, 0x8000);
	intel_fixture_stop();
}

/* What was accepted before is filtered, described and measured anew as soon as a register says so. */
static void test_habit(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		uint32_t length, high, control;
		uint64_t words[2];

		start(models[i]);
		intel_offer(0, 100);
		length = intel_frame(bytes, intel_mac, 17, 1000);
		for (unsigned n = 0; n < 3; n++) {
			assert_int_equal(intel_send(bytes, length, NULL), 1);
			assert_true(intel_received(0, words));
		}
		/* Another address. */
		high = intel_read(RAL0 + 4);
		intel_write(RAL0 + 4, high ^ 0x100);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_false(intel_received(0, words));
		intel_write(RAL0 + 4, high);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		/* With the check sequence. */
		control = intel_read(RCTL);
		intel_write(RCTL, control & ~RCTL_SECRC);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		assert_int_equal(length_of(words), length + 4);
		intel_write(RCTL, control);
		/* Longer than it may be: 1514 bytes, unless long ones are wanted. */
		length = intel_frame(bytes, intel_mac, 17, 1514 - 42);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		length = intel_frame(bytes, intel_mac, 17, 1515 - 42);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_false(intel_received(0, words));
		/* A type that becomes that of tags. */
		intel_write(VET, 0x0800);
		length = intel_frame(bytes, intel_mac, 17, 1000);
		intel_write(CTRL, intel_read(CTRL) | CTRL_VME);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		assert_true(intel_received(0, words));
		assert_int_equal(length_of(words), length - 4);
		intel_fixture_stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),	    cmocka_unit_test(test_short),
		cmocka_unit_test(test_jumbo),	    cmocka_unit_test(test_split),
		cmocka_unit_test(test_addresses),   cmocka_unit_test(test_multicast_hash),
		cmocka_unit_test(test_vlan_filter), cmocka_unit_test(test_strip),
		cmocka_unit_test(test_checksums),   cmocka_unit_test(test_bad_ip_checksum),
		cmocka_unit_test(test_hash),	    cmocka_unit_test(test_steering),
		cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_pause),
		cmocka_unit_test(test_ring_starts_again), cmocka_unit_test(test_ring_moves),  cmocka_unit_test(test_habit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
