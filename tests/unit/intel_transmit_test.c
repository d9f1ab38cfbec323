/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel's network cards: transmit descriptors of every form, offloads, budgets, nonsense. */
#include "test.h"

#include "device/intel/intel_transmit.h"
#include "intel_fixture.h"

#define ADVANCED (TXD_DEXT | 3U << TXD_DTYP_SHIFT)
#define EXTENDED (TXD_DEXT | 1U << TXD_DTYP_SHIFT)

static uint8_t *buffer(unsigned number)
{
	return intel.memory + INTEL_TX_BUFFERS + 0x20000 * number;
}

static uint64_t address(unsigned number)
{
	return INTEL_TX_BUFFERS + 0x20000ULL * number;
}

static uint32_t status_of(unsigned queue, unsigned index)
{
	uint32_t status;

	memcpy(&status, intel.memory + INTEL_TX_RING(queue) + 16 * index + 12, 4);
	return status;
}

static void start(enum intel_nic_model model)
{
	intel_fixture_start(model, false, PCI_INTERRUPT_PIN);
	intel_rings(0);
}

static const char *fault(void)
{
	return atomic_load(&intel.device->fault);
}

static uint64_t drops(enum port_drop reason)
{
	struct port_counters sum;

	port_read_counters(&intel.nic->port, &sum);
	return sum.drops[reason];
}

/* ---- plain frames ---- */

static void test_legacy(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		uint32_t length;

		start(models[i]);
		length = intel_frame(buffer(0), intel_peer_mac, 17, 300);
		/* One frame in three pieces, one of no bytes; then one whole. */
		intel_post(0, address(0), 10, 0);
		intel_post(0, address(0) + 10, 0, 0);
		intel_post(0, address(0) + 10, 90, 0);
		intel_post(0, address(0) + 100, (length - 100) | TXD_EOP | TXD_RS, 0);
		intel_post(0, address(0), length | TXD_EOP | TXD_RS, 0);
		intel_ring_tail(0);
		assert_int_equal(intel_round(), 2);
		assert_int_equal(intel.peer.count, 2);
		for (unsigned frame = 0; frame < 2; frame++) {
			assert_int_equal(intel.peer.frames[frame].length, length);
			assert_memory_equal(intel.peer.frames[frame].bytes, buffer(0), length);
		}
		assert_false(status_of(0, 0) & TXD_DD); /* did not ask */
		assert_true(status_of(0, 3) & TXD_DD);
		assert_true(status_of(0, 4) & TXD_DD);
		assert_int_equal(intel_read(RING_TRANSMIT + RING_HEAD), 5);
		assert_null(fault());
		intel_fixture_stop();
	}
}

static void test_legacy_checksum(void **state)
{
	uint32_t length;

	start(INTEL_NIC_E1000);
	length = intel_frame(buffer(0), intel_peer_mac, 6, 100);
	intel_post(0, address(0), length | TXD_EOP | TXD_LEGACY_IC | (34 + 16) << 16, 34 << 8);
	intel_ring_tail(0);
	intel_round();
	assert_int_equal(intel.peer.count, 1);
	assert_true(intel.peer.frames[0].offload.checksum_partial);
	assert_int_equal(intel.peer.frames[0].offload.checksum_start, 34);
	assert_int_equal(intel.peer.frames[0].offload.checksum_offset, 16);
	intel_fixture_stop();
}

/* Wraps round the end of the ring, again and again. */
static void test_wrap(void **state)
{
	start(INTEL_NIC_IGB);
	for (unsigned i = 0; i < 5 * INTEL_RING_SIZE; i += 50) {
		for (unsigned frame = 0; frame < 50; frame++) {
			uint32_t length = intel_frame(buffer(0), intel_peer_mac, 17, 64);

			intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_RS, 0);
		}
		intel_ring_tail(0);
		assert_int_equal(intel_round(), 50);
		assert_int_equal(intel.peer.count, 50);
		fake_port_clear(&intel.peer);
	}
	intel_fixture_stop();
}

/* Nobody is told of a tail that was stored into a mapped page, nor of a queue that was enabled there. */
static void test_mapped(void **state)
{
	uint32_t length, at;

	start(INTEL_NIC_IGB);
	at = intel_ring_registers(intel.nic, false, 9);
	intel_store_mapped(at + RING_BASE_LOW, INTEL_TX_RING(9));
	intel_store_mapped(at + RING_LENGTH, INTEL_RING_SIZE * 16);
	intel_store_mapped(at + RING_CONTROL, RING_CONTROL_ENABLE);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	intel_post(9, address(0), length | ADVANCED | TXD_EOP | TXD_RS, 0);
	intel_store_mapped(at + RING_TAIL, 1);
	for (unsigned i = 0; i < 128 && !intel.peer.count; i++)
		intel_round();
	assert_int_equal(intel.peer.count, 1);
	assert_true(status_of(9, 0) & TXD_DD);
	assert_int_equal(intel_load_mapped(at + RING_HEAD), 1);

	/* Disabled, and somewhere else when it is enabled. */
	intel_store_mapped(at + RING_CONTROL, 0);
	intel_store_mapped(at + RING_TAIL, 2);
	intel_round();
	assert_int_equal(intel.peer.count, 1);
	intel_store_mapped(at + RING_BASE_LOW, INTEL_TX_RING(10));
	intel_store_mapped(at + RING_HEAD, 0);
	intel_store_mapped(at + RING_TAIL, 1);
	intel_post(10, address(0), length | ADVANCED | TXD_EOP | TXD_RS, 0);
	intel_store_mapped(at + RING_CONTROL, RING_CONTROL_ENABLE);
	for (unsigned i = 0; i < 128 && intel.peer.count < 2; i++)
		intel_round();
	assert_int_equal(intel.peer.count, 2);
	intel_fixture_stop();
}

/* The head goes to memory, and descriptors stay as they are (82576 7.2.3). */
static void test_head_write_back(void **state)
{
	uint32_t length, head = 77;

	start(INTEL_NIC_IGB);
	intel_write(RING_TRANSMIT + RING_HEAD_WRITE_BACK_LOW, 0x9000 | 1);
	memcpy(intel.memory + 0x9000, &head, 4);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_RS, 0);
	intel_ring_tail(0);
	intel_round();
	memcpy(&head, intel.memory + 0x9000, 4);
	assert_int_equal(head, 1);
	assert_false(status_of(0, 0) & TXD_DD);
	intel_fixture_stop();
}

/* ---- offloads ---- */

/* A long segment as the drivers leave it: lengths and IPv4 checksum zero, a pseudo header without length. */
static uint32_t make_segment(uint8_t *to, bool ipv6, uint32_t payload)
{
	uint32_t ip = ipv6 ? 40 : 20, length = 14 + ip + 20 + payload, sum;
	uint8_t *l3 = to + 14, *l4 = l3 + ip;

	memset(to, 0, length);
	memcpy(to, intel_peer_mac, 6);
	memcpy(to + 6, intel_mac, 6);
	to[12] = ipv6 ? 0x86 : 8;
	to[13] = ipv6 ? 0xdd : 0;
	if (ipv6) {
		l3[0] = 0x60;
		l3[6] = 6;
		l3[7] = 64;
		for (unsigned i = 0; i < 32; i++)
			l3[8 + i] = (uint8_t)(0x20 + i);
		sum = naive_sum(l3 + 8, 32, 0);
	} else {
		l3[0] = 0x45;
		l3[8] = 64;
		l3[9] = 6;
		memcpy(l3 + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
		sum = naive_sum(l3 + 12, 8, 0);
	}
	sum = naive_fold(sum + 6);
	l4[16] = (uint8_t)(sum >> 8);
	l4[17] = (uint8_t)sum;
	l4[12] = 0x50;
	l4[13] = 0x90; /* CWR, ACK */
	for (uint32_t i = 0; i < payload; i++)
		l4[20 + i] = (uint8_t)(i * 13);
	return length;
}

static void advanced_context(uint32_t ip, uint32_t l4, uint32_t mss, uint16_t tag, uint32_t type)
{
	intel_post(0, 14ULL << 9 | ip | (uint64_t)tag << 16, TXD_DEXT | 2U << TXD_DTYP_SHIFT | type,
		   l4 << 8 | mss << 16);
}

static void extended_context(bool ipv6, bool segment, uint32_t mss, uint32_t payload)
{
	uint64_t ip = ipv6 ? 40 : 20, l4 = 14 + ip;

	intel_post(0, 14 | 24 << 8 | (ipv6 ? 0 : (uint64_t)(l4 - 1)) << 16 | l4 << 32 | (l4 + 16) << 40,
		   payload | TXD_DEXT | TXD_CONTEXT_TCP | (ipv6 ? 0 : TXD_CONTEXT_IPV4) | (segment ? TXD_TSE : 0),
		   (uint32_t)(l4 + 20) << 8 | mss << 16);
}

static void post_segment(enum intel_nic_model model, uint32_t length, bool ipv6, uint32_t mss)
{
	uint32_t header = 14 + (ipv6 ? 40 : 20) + 20;

	if (model == INTEL_NIC_IGB) {
		advanced_context(ipv6 ? 40 : 20, 20, mss, 0,
				 1U << TXD_ADVANCED_L4T_SHIFT | (ipv6 ? 0 : TXD_ADVANCED_IPV4));
		intel_post(0, address(0), header | ADVANCED | TXD_ADVANCED_TSE,
			   (length - header) << 14 | TXD_TXSM | TXD_IXSM);
		intel_post(0, address(0) + header, (length - header) | ADVANCED | TXD_ADVANCED_TSE | TXD_EOP | TXD_RS,
			   0);
	} else {
		extended_context(ipv6, true, mss, length - header);
		intel_post(0, address(0), header | EXTENDED | TXD_TSE, TXD_TXSM | (ipv6 ? 0 : TXD_IXSM));
		intel_post(0, address(0) + header, (length - header) | EXTENDED | TXD_TSE | TXD_EOP | TXD_RS, 0);
	}
	intel_ring_tail(0);
	intel_round();
}

static void test_segmentation(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 6; i++) {
		bool ipv6 = i & 1;
		uint32_t length;
		struct fake_frame *frame;

		start(models[i / 2]);
		length = make_segment(buffer(0), ipv6, 20000);
		post_segment(models[i / 2], length, ipv6, 1400);
		/* To whom can take it: whole. */
		assert_int_equal(intel.peer.count, 1);
		frame = &intel.peer.frames[0];
		assert_int_equal(frame->length, length);
		assert_int_equal(frame->offload.gso, ipv6 ? FRAME_GSO_TCPV6 : FRAME_GSO_TCPV4);
		assert_int_equal(frame->offload.gso_size, 1400);
		assert_true(frame->offload.checksum_partial);
		assert_true(frame->offload.ecn);
		assert_int_equal(frame->offload.checksum_start, ipv6 ? 54 : 34);
		if (!ipv6)
			assert_true(naive_ipv4_good(frame->bytes + 14));
		/* The guest's own headers stay as they were. */
		assert_int_equal(buffer(0)[14 + (ipv6 ? 4 : 2)], 0);
		fake_port_clear(&intel.peer);

		/* To whom cannot: cut, with lengths and checksums that are right. */
		intel.peer.port.abilities = (struct port_abilities){ 0 };
		post_segment(models[i / 2], length, ipv6, 1400);
		assert_int_equal(intel.peer.count, 15);
		for (unsigned n = 0; n < 15; n++) {
			frame = &intel.peer.frames[n];
			assert_int_equal(frame->length,
					 n < 14 ? 14U + (ipv6 ? 60 : 40) + 1400 : 14U + (ipv6 ? 60 : 40) + 400);
			if (!ipv6)
				assert_true(naive_ipv4_good(frame->bytes + 14));
			assert_true(naive_transport_good(frame->bytes + 14, frame->length - 14));
		}
		assert_null(fault());
		intel_fixture_stop();
	}
}

/* VXLAN as Linux' igb leaves it: the outer IPv4 header's checksum makes up for what follows it up to the inner TCP. */
static uint32_t make_tunnel(uint8_t *to, uint32_t payload)
{
	uint32_t length = 14 + 20 + 16 + 14 + 20 + 20 + payload, sum;
	uint8_t *outer = to + 14, *inner = to + 64, *tcp = to + 84;

	memset(to, 0, length);
	memcpy(to, intel_peer_mac, 6);
	memcpy(to + 6, intel_mac, 6);
	to[12] = 8;
	outer[0] = 0x45;
	outer[5] = 7; /* identification */
	outer[8] = 64;
	outer[9] = 17;
	memcpy(outer + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	memcpy(to + 34, "\x30\x39\x12\xb5\x05\xc0\0\0\x08\0\0\0\0\0\x07\0", 16);
	memcpy(to + 50, "\2\0\0\0\1\1\2\0\0\0\1\2\x08\0", 14);
	inner[0] = 0x45;
	inner[2] = 1400 / 256;
	inner[3] = 1400 % 256;
	inner[8] = 64;
	inner[9] = 6;
	memcpy(inner + 12, "\x0b\0\0\1\x0b\0\0\2", 8);
	sum = naive_fold(naive_sum(inner, 20, 0));
	inner[10] = (uint8_t)(~sum >> 8);
	inner[11] = (uint8_t)~sum;
	tcp[12] = 0x50;
	tcp[13] = 0x99; /* CWR, ACK, PSH, FIN */
	sum = naive_fold(naive_sum(inner + 12, 8, 0) + 6);
	tcp[16] = (uint8_t)(sum >> 8);
	tcp[17] = (uint8_t)sum;
	sum = naive_fold(naive_sum(to + 34, 50, 0)); /* what is summed too much */
	outer[10] = (uint8_t)(~sum >> 8);
	outer[11] = (uint8_t)~sum;
	for (uint32_t i = 0; i < payload; i++)
		tcp[20 + i] = (uint8_t)(i * 11);
	return length;
}

static void test_tunnel(void **state)
{
	const uint32_t payload = 1360 * 40;
	uint32_t length;

	start(INTEL_NIC_IGB);
	intel_offer(0, 4);
	intel_send(intel.memory + INTEL_TX_BUFFERS, intel_frame(buffer(0), intel_mac, 17, 64), NULL);
	length = make_tunnel(buffer(0), payload);
	intel.peer.room = 15; /* full half way, and again at the end of a batch */
	/* A frame before it, and one behind it: in order. */
	intel_frame(buffer(4), intel_peer_mac, 17, 64);
	intel_post(0, address(4), 106 | ADVANCED | TXD_EOP, 0);
	advanced_context(70, 20, 1360, 0, 1U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
	intel_post(0, address(0), 200 | ADVANCED | TXD_ADVANCED_TSE, TXD_TXSM | TXD_IXSM);
	intel_post(0, address(0) + 200, (length - 200) | ADVANCED | TXD_ADVANCED_TSE | TXD_EOP | TXD_RS, 0);
	intel_post(0, address(4), 106 | ADVANCED | TXD_EOP, 0);
	intel_ring_tail(0);
	intel_round();
	assert_int_equal(intel.peer.count, 15);
	assert_false(status_of(0, 3) & TXD_DD);
	intel.peer.room = 100;
	intel_round();
	assert_int_equal(intel.peer.count, 42);
	assert_true(status_of(0, 3) & TXD_DD);
	for (uint32_t i = 0; i < 40; i++) {
		const struct fake_frame *frame = &intel.peer.frames[1 + i];
		const uint8_t *outer = frame->bytes + 14, *inner = frame->bytes + 64, *tcp = frame->bytes + 84;

		assert_int_equal(frame->length, 104 + 1360);
		assert_true(naive_ipv4_good(outer));
		assert_int_equal(outer[2] << 8 | outer[3], frame->length - 14);
		assert_int_equal(outer[4] << 8 | outer[5], 7 + i);
		assert_true(naive_ipv4_good(inner));
		assert_true(naive_transport_good(inner, frame->length - 64));
		assert_int_equal((uint32_t)tcp[4] << 24 | tcp[5] << 16 | tcp[6] << 8 | tcp[7], i * 1360);
		assert_int_equal(tcp[13], 0x10 | (i ? 0 : 0x80) | (i == 39 ? 9 : 0));
		assert_memory_equal(tcp + 20, buffer(0) + 104 + 1360 * i, 1360);
	}
	assert_int_equal(intel.peer.frames[41].length, 106);
	assert_null(fault());
	intel_fixture_stop();
}

/* One byte a segment, and headers as long as they may be: a turn has its end, and the next ones go on where it was. */
static void test_tunnel_of_crumbs(void **state)
{
	const uint32_t payload = 3000;
	unsigned rounds = 0, before = 0;
	uint32_t length;

	start(INTEL_NIC_IGB);
	intel_offer(0, 4);
	intel_send(intel.memory + INTEL_TX_BUFFERS, intel_frame(buffer(0), intel_mac, 17, 64), NULL);
	length = make_tunnel(buffer(0), payload);
	intel.peer.room = UINT32_MAX;
	intel.net.turn.bytes = 64 << 10;
	advanced_context(70, 172, 1, 0, 1U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
	intel_post(0, address(0), length | ADVANCED | TXD_ADVANCED_TSE | TXD_EOP | TXD_RS, TXD_TXSM | TXD_IXSM);
	intel_ring_tail(0);
	for (uint64_t sent = 0; !(status_of(0, 1) & TXD_DD); rounds++) {
		intel_round();
		sent = intel_read(GPTC);
		assert_in_range(sent, 1, (64 << 10) / 512 + 64);
		before += (unsigned)sent;
		fake_port_clear(&intel.peer);
		assert_in_range(rounds, 0, 100);
	}
	assert_int_equal(before, payload + 84 + 20 - 256);
	assert_in_range(rounds, before / ((64 << 10) / 512 + 64), 100);
	assert_null(fault());
	intel_fixture_stop();
}

/*
 * Where the checksum goes is said by the driver, and by a type of checksum that there is not: behind the longest headers
 * lies what the segments are told from.
 */
static void test_tunnel_checksum_outside_of_headers(void **state)
{
	uint32_t length;

	start(INTEL_NIC_IGB);
	length = make_tunnel(buffer(0), 20000);
	buffer(0)[14] = 0x46;
	advanced_context(234, 8, 100, 0, 3U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
	intel_post(0, address(0), length | ADVANCED | TXD_ADVANCED_TSE | TXD_EOP | TXD_RS, TXD_TXSM | TXD_IXSM);
	intel_ring_tail(0);
	intel_round();
	assert_true(status_of(0, 1) & TXD_DD);
	assert_int_equal(intel.peer.count, 0);
	assert_int_equal(drops(PORT_DROP_BAD_OFFLOAD), 1);
	assert_null(fault());
	intel_fixture_stop();
}

/* A partial checksum, carried: what the receiver completes is right. */
static void test_checksum(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		uint32_t length, sum;
		uint8_t *l4 = NULL;

		start(models[i]);
		length = intel_frame(buffer(0), intel_peer_mac, 6, 500);
		l4 = buffer(0) + 34;
		sum = naive_fold(naive_sum(buffer(0) + 26, 8, 0) + 6 + 520);
		l4[16] = (uint8_t)(sum >> 8);
		l4[17] = (uint8_t)sum;
		if (models[i] == INTEL_NIC_IGB) {
			advanced_context(20, 20, 0, 0, 1U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
			intel_post(0, address(0), length | ADVANCED | TXD_EOP, TXD_TXSM);
		} else {
			extended_context(false, false, 0, 0);
			intel_post(0, address(0), length | EXTENDED | TXD_EOP, TXD_TXSM);
		}
		intel_ring_tail(0);
		intel_round();
		assert_int_equal(intel.peer.count, 1);
		assert_true(intel.peer.frames[0].offload.checksum_partial);
		assert_int_equal(intel.peer.frames[0].offload.checksum_offset, 16);
		fake_port_clear(&intel.peer);
		/* The context stays for the next frame. */
		intel.peer.port.abilities.checksum = false;
		intel_post(0, address(0), length | (models[i] == INTEL_NIC_IGB ? ADVANCED : EXTENDED) | TXD_EOP,
			   TXD_TXSM);
		intel_ring_tail(0);
		intel_round();
		assert_true(naive_transport_good(intel.peer.frames[0].bytes + 14, length - 14));
		intel_fixture_stop();
	}
}

static void test_tag(void **state)
{
	uint32_t length;

	start(INTEL_NIC_IGB);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 100);
	intel_write(CTRL, intel_read(CTRL) | CTRL_VME);
	advanced_context(20, 8, 0, 0x6005, 0);
	intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_VLE, TXD_TXSM);
	intel_ring_tail(0);
	intel_round();
	assert_int_equal(intel.peer.frames[0].length, length + 4);
	assert_memory_equal(intel.peer.frames[0].bytes + 12, "\x81\x00\x60\x05\x08\x00", 6);
	assert_memory_equal(intel.peer.frames[0].bytes + 18, buffer(0) + 14, length - 14);
	assert_int_equal(intel.peer.frames[0].offload.checksum_start, 38);
	fake_port_clear(&intel.peer);
	/* Without CTRL.VME the bit means nothing. */
	intel_write(CTRL, intel_read(CTRL) & ~CTRL_VME);
	intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_VLE, 0);
	intel_ring_tail(0);
	intel_round();
	assert_int_equal(intel.peer.frames[0].length, length);
	intel_fixture_stop();

	start(INTEL_NIC_E1000);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 100);
	intel_write(CTRL, intel_read(CTRL) | CTRL_VME);
	intel_post(0, address(0), length | TXD_EOP | TXD_VLE, 0x0007U << 16);
	intel_ring_tail(0);
	intel_round();
	assert_memory_equal(intel.peer.frames[0].bytes + 12, "\x81\x00\x00\x07\x08\x00", 6);
	intel_fixture_stop();
}

static void test_sctp(void **state)
{
	uint32_t crc;

	/* RFC 3720 B.4: CRC32c of 32 zeroes, and of 32 ones. */
	uint8_t bytes[32] = { 0 };

	assert_int_equal(~intel_crc32c(UINT32_MAX, bytes, 32), 0x8a9136aa);
	memset(bytes, 0xff, 32);
	assert_int_equal(~intel_crc32c(UINT32_MAX, bytes, 32), 0x62a8ab43);

	start(INTEL_NIC_IGB);
	intel_frame(buffer(0), intel_peer_mac, 17, 192);
	buffer(0)[23] = 132;
	advanced_context(20, 12, 0, 0, 2U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
	intel_post(0, address(0), 234 | ADVANCED | TXD_EOP, TXD_TXSM);
	intel_ring_tail(0);
	intel_round();
	memcpy(&crc, intel.peer.frames[0].bytes + 42, 4);
	memset(intel.peer.frames[0].bytes + 42, 0, 4);
	assert_int_equal(crc, ~intel_crc32c(UINT32_MAX, intel.peer.frames[0].bytes + 34, 200));
	intel_fixture_stop();
}

/* What we sum costs more than what is copied, and counts as more: one of the longest is a turn. */
static void test_sctp_budget(void **state)
{
	start(INTEL_NIC_IGB);
	intel_frame(buffer(0), intel_peer_mac, 17, 0);
	buffer(0)[23] = 132;
	intel.net.turn.bytes = 512 << 10;
	advanced_context(20, 12, 0, 0, 2U << TXD_ADVANCED_L4T_SHIFT | TXD_ADVANCED_IPV4);
	for (unsigned i = 0; i < 6; i++)
		intel_post(0, address(0), 0xfff0 | ADVANCED | TXD_EOP, TXD_TXSM);
	intel_ring_tail(0);
	for (unsigned i = 1; i <= 6; i++) {
		intel_round();
		assert_int_equal(intel.peer.count, i);
	}
	intel_fixture_stop();
}

/* ---- budgets and receivers that are full ---- */

static void test_full(void **state)
{
	uint32_t length;

	start(INTEL_NIC_IGB);
	/* Who is not known is flooded, and that waits for nobody. */
	intel_offer(0, 4);
	length = intel_frame(buffer(0), intel_mac, 17, 64);
	assert_int_equal(intel_send(buffer(0), length, NULL), 1);
	intel.peer.room = 3;
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	for (unsigned i = 0; i < 8; i++) {
		/* Contexts that differ: what is left goes on with the right one. */
		advanced_context(20, 8, 0, (uint16_t)(100 + i), 0);
		intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_RS | TXD_VLE, 0);
	}
	intel_write(CTRL, intel_read(CTRL) | CTRL_VME);
	intel_ring_tail(0);
	assert_int_equal(intel_round(), 3);
	assert_true(intel.nic->lanes[0].queue.poller.pending);
	assert_int_equal(intel_read(RING_TRANSMIT + RING_HEAD), 6);
	intel.peer.room = 100;
	assert_int_equal(intel_round(), 5);
	assert_int_equal(intel.peer.count, 8);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(intel.peer.frames[i].bytes[15], 100 + i);
	intel_fixture_stop();
}

static void test_turn(void **state)
{
	uint32_t length;

	start(INTEL_NIC_E1000);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	for (unsigned i = 0; i < 100; i++)
		intel_post(0, address(0), length | TXD_EOP, 0);
	intel_ring_tail(0);
	intel.net.turn.requests = 10;
	assert_int_equal(intel_round(), 10);
	intel.net.turn.requests = 64;
	intel.net.turn.bytes = 1;
	assert_int_equal(intel_round(), 1);
	intel_fixture_stop();
}

/* ---- nonsense: each stops the card by a name, until it is reset, and the next guest of the network goes on ---- */

static void reset(void)
{
	intel_write(CTRL, intel_read(CTRL) | CTRL_RST);
	assert_null(fault());
	memset(intel.transmit_tails, 0, sizeof(intel.transmit_tails));
	intel_rings(0);
}

static void expect_fault(const char *reason)
{
	uint32_t length;

	intel_round();
	assert_non_null(fault());
	assert_string_equal(fault(), reason);
	assert_int_equal(intel_round(), 0);
	reset();
	fake_port_clear(&intel.peer);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	intel_post(0, address(0), length | TXD_EOP, 0);
	intel_ring_tail(0);
	intel_round();
	assert_int_equal(intel.peer.count, 1);
	fake_port_clear(&intel.peer);
}

static void test_nonsense(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		start(models[i]);
		intel_write(RING_TRANSMIT + RING_TAIL, INTEL_RING_SIZE);
		expect_fault("transmit tail beyond the ring");

		intel_post(0, INTEL_MEMORY - 10, 20 | TXD_EOP, 0);
		intel_ring_tail(0);
		expect_fault("transmit buffer outside of memory");

		intel_post(0, UINT64_MAX, 20 | TXD_EOP, 0);
		intel_ring_tail(0);
		expect_fault("transmit buffer outside of memory");

		intel_post(0, address(0), 20 | TXD_DEXT | 9U << TXD_DTYP_SHIFT, 0);
		intel_ring_tail(0);
		expect_fault("transmit descriptor of an unknown type");

		for (unsigned n = 0; n < INTEL_RING_SIZE - 1; n++) /* CVE-2021-20257: no progress */
			intel_post(0, 0, 0, 0);
		intel_ring_tail(0);
		expect_fault("transmit frame of too many descriptors");

		intel_write(RING_TRANSMIT + RING_BASE_LOW, 0xffffff80);
		intel_ring_tail(0);
		expect_fault("descriptor ring outside of memory");
		intel_fixture_stop();
	}
}

/* A frame whose end has not come yet waits, and costs nothing meanwhile. */
static void test_unfinished(void **state)
{
	uint32_t length;

	start(INTEL_NIC_IGB);
	length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
	intel_post(0, address(0), 20 | ADVANCED, 0);
	intel_ring_tail(0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(intel_round(), 0);
	assert_true(intel.nic->transmit[0].waiting);
	assert_false(intel.nic->lanes[0].queue.poller.ops->arm(&intel.nic->lanes[0].queue.poller));
	intel_post(0, address(0) + 20, (length - 20) | ADVANCED | TXD_EOP, 0);
	intel_ring_tail(0);
	assert_int_equal(intel_round(), 1);
	assert_int_equal(intel.peer.frames[0].length, length);
	intel_fixture_stop();
}

/* Offload fields that do not fit the frame: the frame is gone, counted, and the card goes on. */
static void test_misfits(void **state)
{
	static const struct {
		uint32_t ip, l4, mss, type, payload, options;
		bool segment;
	} cases[] = {
		/* 0: headers longer than the frame */ { 20, 20, 1400, 1, 0, TXD_TXSM, true },
		/* 1: no MSS */ { 20, 20, 0, 1, 2000, TXD_TXSM, true },
		/* 2: IPv4 where IPv6 is said */ { 40, 20, 1400, 9, 2000, TXD_TXSM, true },
		/* 3: IP header shorter than any */ { 19, 20, 1400, 1, 2000, TXD_TXSM, true },
		/* 4: headers longer than any */ { 300, 20, 1400, 1, 2000, TXD_TXSM, true },
		/* 5: no L4 header at all */ { 20, 0, 1400, 1, 2000, TXD_TXSM, true },
		/* 6: no IP header at all */ { 0, 20, 1400, 1, 2000, TXD_TXSM, true },
		/* 7: SCTP cannot be segmented */ { 20, 20, 1400, 2, 2000, TXD_TXSM, true },
		/* 8: checksum behind the end */ { 511, 20, 0, 1, 0, TXD_TXSM, false },
		/* 9: IPv4 header behind the end */ { 500, 20, 0, 1, 0, TXD_IXSM, false },
		/* 10: SCTP behind the end */ { 100, 20, 0, 2, 0, TXD_TXSM, false },
		/* 11: no IPv4 header to sum */ { 0, 20, 0, 1, 0, TXD_IXSM, false },
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		uint32_t length;

		start(INTEL_NIC_IGB);
		length = make_segment(buffer(0), false, cases[i].payload);
		advanced_context(cases[i].ip, cases[i].l4, cases[i].mss, 0,
				 (cases[i].type & 3) << TXD_ADVANCED_L4T_SHIFT |
					 (cases[i].type & 8 ? 0 : TXD_ADVANCED_IPV4));
		intel_post(0, address(0),
			   length | ADVANCED | TXD_EOP | TXD_RS | (cases[i].segment ? TXD_ADVANCED_TSE : 0),
			   cases[i].options);
		intel_ring_tail(0);
		assert_int_equal(intel_round(), 1);
		assert_int_equal(intel.peer.count, 0);
		if (drops(PORT_DROP_BAD_OFFLOAD) != 1)
			fail_msg("case %u", i);
		assert_true(status_of(0, 1) & TXD_DD);
		assert_null(fault());
		intel_fixture_stop();
	}
}

static void test_sizes(void **state)
{
	start(INTEL_NIC_E1000);
	intel_post(0, address(0), 5 | TXD_EOP, 0);
	for (unsigned i = 0; i < 70; i++) /* 70 times 1 MiB: far beyond what a frame can be */
		intel_post(0, 0, TXD_LENGTH_EXTENDED | EXTENDED | (i == 69 ? TXD_EOP : 0), 0);
	intel_post(0, address(0), TXD_EOP, 0);
	intel_ring_tail(0);
	intel_round();
	intel_round();
	assert_int_equal(intel.peer.count, 0);
	assert_int_equal(drops(PORT_DROP_RUNT), 2);
	assert_int_equal(drops(PORT_DROP_OVERSIZE), 1);
	assert_null(fault());
	intel_fixture_stop();
}

/* Drivers test themselves so: what is sent comes back, and the network sees nothing. */
static void test_loopback(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		uint64_t words[2];
		uint32_t length;

		start(models[i]);
		intel_offer(0, 16);
		intel_write(MDIC, 0x4140 | 1U << 21 | 1U << 26); /* MII control: loopback */
		length = intel_frame(buffer(0), intel_mac, 17, 64);
		memset(buffer(0) + 6, 0xff, 6); /* not a source that a network would take */
		for (unsigned frame = 0; frame < 10; frame++)
			intel_post(0, address(0), length | TXD_EOP | TXD_RS, 0);
		intel_ring_tail(0);
		assert_int_equal(intel_round(), 10);
		assert_int_equal(intel.peer.count, 0);
		for (unsigned frame = 0; frame < 10; frame++)
			assert_true(intel_received(0, words));
		assert_false(intel_received(0, words));
		assert_memory_equal(intel.memory + INTEL_RX_BUFFERS, buffer(0), length);
		intel_fixture_stop();
	}
}

/* Reset with work in the ring, at every moment: it ends, and nothing of the guest is touched after it. */
static void test_reset_under_load(void **state)
{
	for (unsigned rounds = 0; rounds < 6; rounds++) {
		uint32_t length;

		start(INTEL_NIC_IGB);
		intel.peer.room = 10 * rounds;
		length = intel_frame(buffer(0), intel_peer_mac, 17, 64);
		for (unsigned i = 0; i < 100; i++)
			intel_post(0, address(0), length | ADVANCED | TXD_EOP | TXD_RS, 0);
		intel_ring_tail(0);
		for (unsigned i = 0; i < rounds; i++)
			intel_round();
		if (rounds & 1)
			intel_write(TCTL, 0);
		else
			intel_write(CTRL, intel_read(CTRL) | CTRL_RST);
		assert_false(atomic_load(&intel.nic->transmitting));
		assert_int_equal(intel_round(), 0);
		reset();
		intel_fixture_stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_legacy),
		cmocka_unit_test(test_legacy_checksum),
		cmocka_unit_test(test_wrap),
		cmocka_unit_test(test_mapped),
		cmocka_unit_test(test_head_write_back),
		cmocka_unit_test(test_segmentation),
		cmocka_unit_test(test_tunnel),
		cmocka_unit_test(test_tunnel_of_crumbs),
		cmocka_unit_test(test_tunnel_checksum_outside_of_headers),
		cmocka_unit_test(test_checksum),
		cmocka_unit_test(test_tag),
		cmocka_unit_test(test_sctp),
		cmocka_unit_test(test_sctp_budget),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_turn),
		cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_unfinished),
		cmocka_unit_test(test_misfits),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_reset_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
