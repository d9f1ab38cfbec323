/* SPDX-License-Identifier: BSD-3-Clause */
/* The switch: who gets which frame, in which form, and what becomes of those that nobody gets. */
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/clock.h"
#include "net/address_table.h"
#include "net_fixture.h"

#define MILLISECOND NANOSECONDS_PER_MILLISECOND

static struct net_fixture fixture;
static struct fake_port ports[4];
static struct test_frame sent[NETWORK_BATCH];

static void start(void)
{
	static const char *const names[] = { "a", "b", "c", "d" };

	net_fixture_start(&fixture, 1, &(struct network_config){ .name = "test" });
	for (unsigned i = 0; i < array_size(ports); i++)
		fake_port_init(&ports[i], names[i]);
}

static void add_ports(unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		net_fixture_add(&fixture, &ports[i]);
}

static void stop(void)
{
	for (unsigned i = 0; i < array_size(ports); i++) {
		fake_port_clear(&ports[i]);
		if (ports[i].port.network)
			network_remove_port(fixture.network, &ports[i].port);
	}
	net_fixture_stop(&fixture);
}

/* Frame @index of a batch, from MAC 2:0:0:0:0:@from to 2:0:0:0:0:@to (255: broadcast), 100 bytes. */
static void make(unsigned index, uint8_t from, uint8_t to)
{
	struct test_frame *frame = &sent[index];

	memset(frame->bytes, 0, 100);
	memcpy(frame->bytes, (uint8_t[]){ 2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, (uint8_t)index }, 15);
	if (to == 255)
		memset(frame->bytes, 0xff, 6);
	frame->length = 100;
	test_frame_build(frame, 0);
}

static unsigned forward(struct fake_port *from, unsigned count)
{
	struct frame frames[NETWORK_BATCH];
	unsigned done;

	for (unsigned i = 0; i < count; i++)
		frames[i] = sent[i].frame;
	done = network_forward(&from->port, frames, count, &fixture.turn);
	for (unsigned i = 0; i < array_size(ports); i++) {
		assert_int_equal(ports[i].unflushed, 0);
		assert_false(atomic_flag_test_and_set(&ports[i].port.claim)); /* nobody left claimed */
		atomic_flag_clear(&ports[i].port.claim);
	}
	/* What stays comes again: the same bytes. */
	for (unsigned i = done; i < count; i++) {
		uint8_t bytes[2000];

		assert_int_equal(frames[i].length, sent[i].length);
		assert_true(frame_read(&frames[i], 0, bytes, min(frames[i].length, 2000U)));
		sent[i].frame.segments_done = frames[i].segments_done;
	}
	return done;
}

static uint64_t drops(const struct fake_port *port, enum port_drop reason)
{
	struct port_counters sum;

	port_read_counters(&port->port, &sum);
	return sum.drops[reason];
}

static uint64_t all_drops(void)
{
	uint64_t all = 0;

	for (unsigned i = 0; i < array_size(ports); i++) {
		for (unsigned reason = 0; reason < PORT_DROPS; reason++)
			all += drops(&ports[i], reason);
	}
	return all;
}

/* Have port @index known for MAC @index. */
static void introduce(unsigned index)
{
	make(0, (uint8_t)index, 255);
	assert_int_equal(forward(&ports[index], 1), 1);
	for (unsigned i = 0; i < array_size(ports); i++)
		fake_port_clear(&ports[i]);
}

static void unknown_is_flooded_known_is_not(void **state)
{
	struct port_counters sum;

	start();
	add_ports(4);
	make(0, 0, 1);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[0].count, 0);
	for (unsigned i = 1; i < 4; i++) {
		assert_int_equal(ports[i].count, 1);
		assert_int_equal(ports[i].flushes, 1);
		assert_memory_equal(ports[i].frames[0].bytes, sent[0].bytes, 100);
		fake_port_clear(&ports[i]);
	}
	make(0, 1, 0);
	assert_int_equal(forward(&ports[1], 1), 1);
	assert_int_equal(ports[0].count, 1);
	assert_int_equal(ports[2].count + ports[3].count, 0);

	port_read_counters(&ports[0].port, &sum);
	assert_int_equal(sum.in_frames, 1);
	assert_int_equal(sum.in_bytes, 100);
	assert_int_equal(sum.out_frames, 1);
	assert_int_equal(sum.flooded, 1);
	assert_int_equal(all_drops(), 0);

	/* It moves: the next frame finds it elsewhere. */
	make(0, 1, 0);
	forward(&ports[2], 1);
	make(0, 0, 1);
	fake_port_clear(&ports[1]);
	forward(&ports[0], 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1);

	/* It falls silent for the aging time: flooded again. */
	fixture.turn.now += 302 * NANOSECONDS_PER_SECOND;
	fake_port_clear(&ports[2]);
	forward(&ports[0], 1);
	assert_int_equal(ports[1].count + ports[2].count + ports[3].count, 3);
	stop();
}

static void batches_are_grouped(void **state)
{
	static const uint8_t to[] = { 1, 1, 1, 2, 1, 2, 2, 255, 1 };

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	for (unsigned i = 0; i < array_size(to); i++)
		make(i, 0, to[i]);
	assert_int_equal(forward(&ports[0], array_size(to)), array_size(to));
	assert_int_equal(ports[1].count, 6);
	assert_int_equal(ports[2].count, 4);
	/* Once before the flood, once for it, once after it. */
	assert_int_equal(ports[1].flushes, 3);
	assert_int_equal(ports[2].flushes, 2);
	/* In order. */
	for (unsigned i = 1; i < ports[1].count; i++)
		assert_true(ports[1].frames[i].bytes[14] > ports[1].frames[i - 1].bytes[14]);

	for (unsigned i = 0; i < NETWORK_BATCH; i++)
		make(i, 0, 1 + (i & 1));
	fake_port_clear(&ports[1]);
	fake_port_clear(&ports[2]);
	assert_int_equal(forward(&ports[0], NETWORK_BATCH), NETWORK_BATCH);
	assert_int_equal(ports[1].flushes, 1);
	assert_int_equal(ports[2].flushes, 1);
	stop();
}

static void bad_frames_are_named(void **state)
{
	start();
	make(0, 0, 1);
	add_ports(1);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_NO_DESTINATION), 1);
	net_fixture_add(&fixture, &ports[1]);
	introduce(1);

	make(0, 0, 1);
	sent[0].length = 13;
	test_frame_build(&sent[0], 0);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_RUNT), 1);

	make(0, 0, 1);
	sent[0].frame.length = FRAME_LENGTH_MAX + 1;
	{
		struct frame frame = sent[0].frame;

		assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 1);
	}
	assert_int_equal(drops(&ports[0], PORT_DROP_OVERSIZE), 1);

	make(0, 0, 1);
	sent[0].frame.header[6] |= 1;
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_SOURCE_MULTICAST), 1);

	make(0, 0, 1);
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 13 };
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_BAD_OFFLOAD), 1);

	introduce(0);
	make(0, 5, 0);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_HAIRPIN), 1);

	make(0, 0, 1);
	atomic_store(&ports[1].port.up, false);
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_LINK_DOWN), 1);
	atomic_store(&ports[1].port.up, true);

	/* The receiver needs it cut, but it is not what it says. */
	make(0, 0, 1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
							.checksum_offset = 16, .gso = FRAME_GSO_TCPV4, .gso_size = 20 };
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_BAD_HEADER), 1);
	assert_int_equal(ports[1].count, 0);
	for (enum port_drop reason = 0; reason < PORT_DROPS; reason++)
		assert_string_not_equal(port_drop_name(reason), "unknown");
	stop();
}

static void the_isolated_see_only_others(void **state)
{
	start();
	ports[0].port.isolated = ports[1].port.isolated = true;
	add_ports(3);
	introduce(1);
	introduce(2);
	make(0, 0, 1);
	make(1, 0, 2);
	make(2, 0, 255);
	assert_int_equal(forward(&ports[0], 3), 3);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 2);
	assert_int_equal(drops(&ports[0], PORT_DROP_ISOLATED), 1);
	stop();
}

/* ---- VLANs ---- */

enum { NONE = -1, UNTAGGED = -2, DROPPED = -3 };

static void set_vlan(struct fake_port *port, uint8_t mode, uint16_t vlan, uint16_t allowed, uint16_t allowed2)
{
	port->port.vlan.mode = mode;
	port->port.vlan.vlan = vlan;
	if (allowed)
		port->port.vlan.allowed[allowed / 64] |= 1ULL << allowed % 64;
	if (allowed2)
		port->port.vlan.allowed[allowed2 / 64] |= 1ULL << allowed2 % 64;
}

/*
 * Ports: a sends; b is an access port of VLAN 10, c a trunk of 10 and 20 with native 30, d has no VLANs. Frames are
 * broadcast; columns are what b, c and d receive: a TCI, UNTAGGED or nothing (NONE).
 */
static const struct {
	uint8_t mode;
	uint16_t vlan, allowed;
	int sent; /* TCI, or UNTAGGED */
	int access, trunk, plain;
} vlan_cases[] = {
	/* 0 */ { PORT_VLAN_ACCESS, 10, 0, UNTAGGED, UNTAGGED, 10, NONE },
	/* 1 */ { PORT_VLAN_ACCESS, 20, 0, UNTAGGED, NONE, 20, NONE },
	/* 2 */ { PORT_VLAN_ACCESS, 30, 0, UNTAGGED, NONE, UNTAGGED, NONE },
	/* 3 */ { PORT_VLAN_ACCESS, 40, 0, UNTAGGED, DROPPED, NONE, NONE },
	/* 4 */ { PORT_VLAN_ACCESS, 10, 0, 10, DROPPED, NONE, NONE },
	/* 5 */ { PORT_VLAN_ACCESS, 10, 0, 0x6000, UNTAGGED, 0x600a, NONE },	/* priority tag */
	/* 6 */ { PORT_VLAN_TRUNK, 0, 10, 10, UNTAGGED, 10, NONE },
	/* 7 */ { PORT_VLAN_TRUNK, 0, 10, 0x700a, UNTAGGED, 0x700a, NONE },	/* priority is kept */
	/* 8 */ { PORT_VLAN_TRUNK, 0, 10, 20, DROPPED, NONE, NONE },
	/* 9 */ { PORT_VLAN_TRUNK, 0, 10, UNTAGGED, DROPPED, NONE, NONE },	/* no native VLAN */
	/* 10 */ { PORT_VLAN_TRUNK, 10, 20, UNTAGGED, UNTAGGED, 10, NONE },
	/* 11 */ { PORT_VLAN_TRUNK, 30, 20, UNTAGGED, NONE, UNTAGGED, NONE },
	/* 12 */ { PORT_VLAN_TRUNK, 30, 20, 30, NONE, UNTAGGED, NONE },		/* native, but tagged */
	/* 13 */ { PORT_VLAN_TRUNK, 30, 4095, 4095, DROPPED, NONE, NONE },	/* reserved */
	/* 14 */ { PORT_VLAN_NONE, 0, 0, UNTAGGED, NONE, NONE, UNTAGGED },
	/* 15 */ { PORT_VLAN_NONE, 0, 0, 10, NONE, NONE, 10 },			/* a tag is payload here */
};

static void make_tagged(int tci)
{
	make(0, 0, 255);
	if (tci != UNTAGGED) {
		memmove(sent[0].bytes + 16, sent[0].bytes + 12, 88);
		sent[0].bytes[12] = 0x81;
		sent[0].bytes[13] = 0;
		sent[0].bytes[14] = (uint8_t)(tci >> 8);
		sent[0].bytes[15] = (uint8_t)tci;
		sent[0].length = 104;
		test_frame_build(&sent[0], 0);
	}
}

static void check_tagged(const struct fake_port *port, int tci)
{
	static uint8_t payload[88];

	if (tci == NONE) {
		assert_int_equal(port->count, 0);
		return;
	}
	assert_int_equal(port->count, 1);
	const uint8_t *bytes = port->frames[0].bytes;
	if (tci != UNTAGGED) {
		assert_int_equal(port->frames[0].length, 104);
		assert_memory_equal(bytes + 12, "\x81\0", 2);
		assert_int_equal(bytes[14] << 8 | bytes[15], tci);
		bytes += 4;
	} else {
		assert_int_equal(port->frames[0].length, 100);
	}
	assert_memory_equal(bytes + 12, "\x88\xb5", 2);
	assert_memory_equal(bytes + 14, payload, 86);
}

static void vlans(void **state)
{
	for (unsigned i = 0; i < array_size(vlan_cases); i++) {
		print_message("case %u\n", i);
		start();
		set_vlan(&ports[0], vlan_cases[i].mode, vlan_cases[i].vlan, vlan_cases[i].allowed, 0);
		set_vlan(&ports[1], PORT_VLAN_ACCESS, 10, 0, 0);
		set_vlan(&ports[2], PORT_VLAN_TRUNK, 30, 10, 20);
		add_ports(4);
		make_tagged(vlan_cases[i].sent);
		assert_int_equal(forward(&ports[0], 1), 1);
		check_tagged(&ports[1], vlan_cases[i].access == DROPPED ? NONE : vlan_cases[i].access);
		check_tagged(&ports[2], vlan_cases[i].trunk);
		check_tagged(&ports[3], vlan_cases[i].plain);
		assert_int_equal(all_drops(), vlan_cases[i].access == DROPPED);
		stop();
	}
}

/* The same address in two VLANs is two addresses, and a tagged frame that stays comes back with its tag. */
static void vlans_learn_apart_and_keep_tags(void **state)
{
	start();
	set_vlan(&ports[0], PORT_VLAN_TRUNK, 0, 10, 20);
	set_vlan(&ports[1], PORT_VLAN_ACCESS, 10, 0, 0);
	set_vlan(&ports[2], PORT_VLAN_ACCESS, 20, 0, 0);
	set_vlan(&ports[3], PORT_VLAN_ACCESS, 20, 0, 0);
	add_ports(4);
	make(0, 1, 255);
	forward(&ports[1], 1);
	forward(&ports[2], 1);
	for (unsigned i = 0; i < 4; i++)
		fake_port_clear(&ports[i]);

	make_tagged(20);
	sent[0].bytes[0] = 2;
	memset(sent[0].bytes + 1, 0, 4);
	sent[0].bytes[5] = 1;
	ports[2].room = 0;
	test_frame_build(&sent[0], 0);
	assert_int_equal(forward(&ports[0], 1), 0); /* checks that it is 104 bytes long again */
	assert_int_equal(ports[1].count + ports[3].count, 0);
	ports[2].room = 1;
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[2].count, 1);
	assert_int_equal(ports[2].frames[0].length, 100);
	stop();
}

/* ---- Anti-spoofing ---- */

#define OWN_MAC	  "\2\0\0\0\0\0"
#define OTHER_MAC "\2\0\0\0\0\7"
#define TO_ALL	  "\377\377\377\377\377\377"
#define ARP(mac, ip) "\x08\x06\0\1\x08\0\6\4\0\1" mac ip "\0\0\0\0\0\0\x0a\0\0\2"
#define RARP(mac) "\x80\x35\0\1\x08\0\6\4\0\3" mac "\0\0\0\0" mac "\0\0\0\0"
#define IP(ip, protocol) "\x08\0\x45\0\0\x20\0\0\0\0\x40" protocol "\0\0" ip "\x0a\0\0\2"

#define CASE(text, mac, ip, reason) { text, sizeof(text) - 1, mac, ip, reason }

static const struct {
	const char *bytes;
	uint32_t length;
	bool check_mac, check_ip; /* 10.0.0.1 and 10.0.0.9 */
	unsigned reason;	  /* PORT_DROPS: passes */
} spoofing[] = {
	/* 0 */ CASE(TO_ALL OWN_MAC IP("\x0a\0\0\1", "\6"), true, true, PORT_DROPS),
	/* 1 */ CASE(TO_ALL OWN_MAC IP("\x0a\0\0\x9", "\6"), true, true, PORT_DROPS),
	/* 2 */ CASE(TO_ALL OTHER_MAC IP("\x0a\0\0\1", "\6"), true, true, PORT_DROP_SPOOFED_MAC),
	/* 3 */ CASE(TO_ALL OTHER_MAC IP("\x0a\0\0\1", "\6"), false, true, PORT_DROPS),
	/* 4 */ CASE(TO_ALL OWN_MAC IP("\x0a\0\0\2", "\6"), true, true, PORT_DROP_SPOOFED_IPV4),
	/* 5 */ CASE(TO_ALL OWN_MAC IP("\x0a\0\0\2", "\6"), true, false, PORT_DROPS),
	/* 6 */ CASE(TO_ALL OWN_MAC IP("\0\0\0\0", "\x11") "\0\x44\0\x43", true, true, PORT_DROPS),	/* DHCP */
	/* 7 */ CASE(TO_ALL OWN_MAC IP("\0\0\0\0", "\x11") "\0\x44\0\x35", true, true, PORT_DROP_SPOOFED_IPV4),
	/* 8 */ CASE(TO_ALL OWN_MAC IP("\0\0\0\0", "\6") "\0\x44\0\x43", true, true, PORT_DROP_SPOOFED_IPV4),
	/* 9 */ CASE(TO_ALL OWN_MAC ARP(OWN_MAC, "\x0a\0\0\1"), true, true, PORT_DROPS),
	/* 10 */ CASE(TO_ALL OWN_MAC ARP(OWN_MAC, "\0\0\0\0"), true, true, PORT_DROPS),			/* probe */
	/* 11 */ CASE(TO_ALL OWN_MAC ARP(OWN_MAC, "\x0a\0\0\2"), true, true, PORT_DROP_SPOOFED_IPV4),
	/* 12 */ CASE(TO_ALL OWN_MAC ARP(OTHER_MAC, "\x0a\0\0\1"), true, true, PORT_DROP_SPOOFED_MAC),
	/* 13 */ CASE(TO_ALL OWN_MAC ARP(OTHER_MAC, "\x0a\0\0\2"), false, false, PORT_DROPS),
	/* 14 */ CASE(TO_ALL OWN_MAC RARP(OWN_MAC), true, true, PORT_DROPS),
	/* 15 */ CASE(TO_ALL OWN_MAC RARP(OTHER_MAC), true, true, PORT_DROP_SPOOFED_MAC),
	/* 16 */ CASE(TO_ALL OWN_MAC "\x81\0\0\5" IP("\x0a\0\0\2", "\6"), true, true, PORT_DROP_SPOOFED_IPV4),
	/* 17 */ CASE(TO_ALL OWN_MAC "\x88\xa8\0\5\x81\0\0\5" ARP(OWN_MAC, "\x0a\0\0\2"), true, true,
		      PORT_DROP_SPOOFED_IPV4),
	/* 18 */ CASE(TO_ALL OWN_MAC "\x81\0\0\5\x81\0\0\5\x81\0\0\5" IP("\x0a\0\0\1", "\6"), true, true,
		      PORT_DROP_SPOOFED_IPV4),
	/* 19 */ CASE(TO_ALL OWN_MAC "\x08\x06\0\1\x08\0\6\4\0\1", true, true, PORT_DROP_SPOOFED_IPV4), /* cut short */
	/* 20 */ CASE(TO_ALL OWN_MAC "\x08\x06\0\1\x08\0\6\4\0\1", true, false, PORT_DROP_SPOOFED_MAC),
	/* 21 */ CASE(TO_ALL OWN_MAC "\x08\0\x45\0", true, true, PORT_DROP_SPOOFED_IPV4),
	/* 22 */ CASE(TO_ALL OWN_MAC "\x86\xdd\x60\0", true, true, PORT_DROPS),
	/* 23 */ CASE(TO_ALL OWN_MAC "\x81\0", true, true, PORT_DROP_SPOOFED_IPV4),
};

static void spoofing_is_named(void **state)
{
	for (unsigned i = 0; i < array_size(spoofing); i++) {
		print_message("case %u\n", i);
		start();
		memcpy(ports[0].port.mac, OWN_MAC, 6);
		ports[0].port.check_mac = spoofing[i].check_mac;
		ports[0].port.ipv4_count = spoofing[i].check_ip ? 2 : 0;
		memcpy(&ports[0].port.ipv4[0], "\x0a\0\0\1", 4);
		memcpy(&ports[0].port.ipv4[1], "\x0a\0\0\x9", 4);
		add_ports(2);
		memcpy(sent[0].bytes, spoofing[i].bytes, spoofing[i].length);
		sent[0].length = spoofing[i].length;
		test_frame_build(&sent[0], 0);
		assert_int_equal(forward(&ports[0], 1), 1);
		if (spoofing[i].reason != PORT_DROPS) {
			assert_int_equal(drops(&ports[0], spoofing[i].reason), 1);
			assert_int_equal(ports[1].count, 0);
		} else {
			assert_int_equal(ports[1].count, 1);
		}
		stop();
	}
}

/* A sender chooses what a partial checksum comes out as: it must not lie where addresses or types have been checked. */
static const struct {
	const char *bytes;
	uint32_t length;
	bool check_ip;
	uint16_t start, offset;
	unsigned reason;
} overwriting[] = {
#define OVERWRITING(text, ip, start, offset, reason) { text, sizeof(text) - 1, ip, start, offset, reason }
	/* 0 */ OVERWRITING(TO_ALL OWN_MAC IP("\x0a\0\0\1", "\6"), true, 14, 12, PORT_DROP_BAD_OFFLOAD),
	/* 1 */ OVERWRITING(TO_ALL OWN_MAC IP("\x0a\0\0\1", "\6"), true, 14, 19, PORT_DROP_BAD_OFFLOAD),
	/* 2 */ OVERWRITING(TO_ALL OWN_MAC IP("\x0a\0\0\1", "\6") "\0\0", true, 14, 20, PORT_DROPS),
	/* 3 */ OVERWRITING(TO_ALL OWN_MAC IP("\x0a\0\0\1", "\6"), false, 14, 12, PORT_DROPS), /* any address is its own */
	/* 4 */ OVERWRITING(TO_ALL OWN_MAC ARP(OWN_MAC, "\x0a\0\0\1"), true, 14, 14, PORT_DROP_BAD_OFFLOAD),
	/* 5 */ OVERWRITING(TO_ALL OWN_MAC ARP(OWN_MAC, "\x0a\0\0\1"), false, 20, 2, PORT_DROP_BAD_OFFLOAD),
	/* 6 */ OVERWRITING(TO_ALL OWN_MAC "\x81\0\0\5" IP("\x0a\0\0\1", "\6"), true, 14, 2, PORT_DROP_BAD_OFFLOAD),
	/* 7 */ OVERWRITING(TO_ALL OWN_MAC "\x81\0\0\5\x88\xb5\0\0", true, 14, 2, PORT_DROP_BAD_OFFLOAD),
};

static void checksums_do_not_overwrite_what_was_checked(void **state)
{
	for (unsigned i = 0; i < array_size(overwriting); i++) {
		print_message("case %u\n", i);
		start();
		memcpy(ports[0].port.mac, OWN_MAC, 6);
		ports[0].port.check_mac = true;
		ports[0].port.ipv4_count = overwriting[i].check_ip ? 1 : 0;
		memcpy(&ports[0].port.ipv4[0], "\x0a\0\0\1", 4);
		add_ports(2);
		memcpy(sent[0].bytes, overwriting[i].bytes, overwriting[i].length);
		sent[0].length = overwriting[i].length;
		test_frame_build(&sent[0], 0);
		sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true,
								.checksum_start = overwriting[i].start,
								.checksum_offset = overwriting[i].offset };
		assert_int_equal(forward(&ports[0], 1), 1);
		assert_int_equal(ports[1].count, overwriting[i].reason == PORT_DROPS);
		if (overwriting[i].reason != PORT_DROPS)
			assert_int_equal(drops(&ports[0], overwriting[i].reason), 1);
		stop();
	}
}

/* A tag moves the start of a partial checksum; one near 65,535 would come round to the addresses. */
static void a_tag_does_not_wrap_the_checksum(void **state)
{
	start();
	ports[0].port.vlan = (struct port_vlan){ .mode = PORT_VLAN_ACCESS, .vlan = 10 };
	ports[1].port.vlan = (struct port_vlan){ .mode = PORT_VLAN_TRUNK, .allowed = { 1 << 10 } };
	add_ports(2);
	make(0, 5, 255);
	sent[0].length = 65550;
	test_frame_build(&sent[0], 0);
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 65535,
							.checksum_offset = 6 };
	forward(&ports[0], 1);
	assert_int_equal(drops(&ports[0], PORT_DROP_BAD_OFFLOAD), 1);
	assert_int_equal(ports[1].count, 0);
	stop();
}

/* ---- Full and claimed receivers ---- */

static void a_full_receiver_holds_senders_for_a_while(void **state)
{
	struct port_counters sum;

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	for (unsigned i = 0; i < 8; i++)
		make(i, 0, i == 7 ? 2 : 1);
	ports[1].room = 3;
	assert_int_equal(forward(&ports[0], 8), 3);
	assert_int_equal(ports[2].count, 0); /* behind it, in order */
	fixture.turn.now += MILLISECOND - 1;
	assert_int_equal(forward(&ports[0], 8), 0);
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.waits, 2);
	assert_int_equal(all_drops(), 0);

	/* It takes something: that earns it some more time. */
	ports[1].room = 1;
	assert_int_equal(forward(&ports[0], 8), 1);
	fixture.turn.now += 16 * NANOSECONDS_PER_MICROSECOND;
	assert_int_equal(forward(&ports[0], 8), 0);
	assert_int_equal(all_drops(), 0);

	/* It does not: all that is for it is dropped, also later and at once, and others get theirs. */
	fixture.turn.now += 1;
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 7);
	assert_int_equal(ports[2].count, 1);
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 14);

	/* It is back. */
	ports[1].room = 2;
	fake_port_clear(&ports[1]);
	assert_int_equal(forward(&ports[0], 8), 2);
	assert_int_equal(forward(&ports[0], 8), 0);
	ports[1].room = 1000;
	assert_int_equal(forward(&ports[0], 8), 8);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 14);
	stop();
}

/*
 * A sender has one frame in two for a receiver that takes a frame of @length bytes each @interval, for a second of virtual
 * time in rounds of 5 us. Return: frames that the other receiver got.
 */
static unsigned paced(uint64_t interval, uint32_t length, uint64_t *lost)
{
	uint64_t start_ns, next;
	unsigned at = 0, others = 0;

	start();
	add_ports(3);
	introduce(1);
	introduce(2);
	make(0, 0, 1);
	make(1, 0, 2);
	sent[0].length = length;
	test_frame_build(&sent[0], 0);
	ports[1].room = 0;
	start_ns = next = fixture.turn.now;
	while (fixture.turn.now - start_ns < NANOSECONDS_PER_SECOND) {
		struct frame frames[NETWORK_BATCH];

		for (unsigned i = 0; i < 4; i++)
			frames[i] = sent[(at + i) & 1].frame;
		at += network_forward(&ports[0].port, frames, 4, &fixture.turn);
		others += ports[2].count;
		fake_port_clear(&ports[1]);
		fake_port_clear(&ports[2]);
		fixture.turn.now += 5 * NANOSECONDS_PER_MICROSECOND;
		if (fixture.turn.now >= next) {
			ports[1].room = 1;
			next += interval;
		}
	}
	*lost = drops(&ports[1], PORT_DROP_FULL);
	stop();
	return others;
}

/* Who is slow with each frame does not hold senders for long, by whatever pace it takes them. */
static void a_trickling_receiver_holds_nobody(void **state)
{
	static const uint64_t intervals_us[] = { 50, 100, 300, 900, 990, 5000 };
	uint64_t lost;

	for (unsigned i = 0; i < array_size(intervals_us); i++) {
		unsigned others = paced(intervals_us[i] * NANOSECONDS_PER_MICROSECOND, 100, &lost);

		if (others < 45000 || !lost)
			fail_msg("a frame each %lu us: others got %u", intervals_us[i], others);
	}
	/* At a pace that is good enough nothing is lost: 100,000 frames/s, and 2 Gbit/s in large ones. */
	paced(10 * NANOSECONDS_PER_MICROSECOND, 100, &lost);
	assert_int_equal(lost, 0);
	paced(250 * NANOSECONDS_PER_MICROSECOND, 62500, &lost);
	assert_int_equal(lost, 0);
}

/* A frame for all of 64 ports costs 63 copies: the sender's turn ends soon, and nothing is lost. */
static void floods_cost_their_copies(void **state)
{
	static struct fake_port many[60];
	static const struct {
		uint32_t length;
		unsigned done;
	} cases[] = {
		{ 100, 5 },    /* 5 * 63 copies are the first to pass 256 */
		{ 60000, 1 },  /* 63 * 60,000 bytes pass 1 MiB at once */
		{ 5000, 4 },
	};

	for (unsigned i = 0; i < array_size(cases); i++) {
		unsigned done = 0, turns = 0;

		start();
		add_ports(4);
		for (unsigned j = 0; j < array_size(many); j++) {
			fake_port_init(&many[j], "many");
			net_fixture_add(&fixture, &many[j]);
		}
		for (unsigned j = 0; j < NETWORK_BATCH; j++) {
			make(j, 0, 255);
			sent[j].length = cases[i].length;
			test_frame_build(&sent[j], 0);
		}
		assert_int_equal(forward(&ports[0], NETWORK_BATCH), cases[i].done);
		for (done = cases[i].done, turns = 1; done < NETWORK_BATCH; turns++)
			done += forward(&ports[0], NETWORK_BATCH - done);
		assert_int_equal(turns, (NETWORK_BATCH + cases[i].done - 1) / cases[i].done);
		assert_int_equal(ports[1].count, NETWORK_BATCH);
		assert_int_equal(all_drops(), 0);
		for (unsigned j = 0; j < array_size(many); j++) {
			assert_int_equal(many[j].count, NETWORK_BATCH);
			fake_port_clear(&many[j]);
			network_remove_port(fixture.network, &many[j].port);
		}
		stop();
	}
}

static void a_claimed_receiver_is_not_waited_for(void **state)
{
	struct frame frame;

	start();
	add_ports(3);
	introduce(1);
	make(0, 0, 1);
	assert_true(port_try_claim(&ports[1].port));
	frame = sent[0].frame;
	assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 0);
	/* A flood passes it by, and says so. */
	make(0, 0, 255);
	frame = sent[0].frame;
	assert_int_equal(network_forward(&ports[0].port, &frame, 1, &fixture.turn), 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_BUSY), 1);
	port_release(&ports[1].port);
	/* A flood does not wait for room either. */
	ports[1].room = 0;
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(drops(&ports[1], PORT_DROP_FULL), 1);
	stop();
}

/* ---- Offloads ---- */

/* A TCP segment of @payload bytes for port 1. */
static void make_gso(uint32_t payload)
{
	uint8_t *bytes = sent[0].bytes, *ip = bytes + 14, *tcp = bytes + 34;

	make(0, 0, 1);
	memset(bytes + 12, 0, 42 + payload);
	memcpy(bytes + 12, "\x08\0\x45", 3);
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	tcp[12] = 0x50;
	for (uint32_t i = 0; i < payload; i++)
		tcp[20 + i] = (uint8_t)(i * 13 >> 3);
	sent[0].length = 54 + payload;
	test_frame_build(&sent[0], 2048);
	sent[0].frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
							.checksum_offset = 16, .gso = FRAME_GSO_TCPV4, .gso_size = 1000 };
}

static void segments_cross_whole_or_cut(void **state)
{
	struct port_counters sum;

	start();
	add_ports(2);
	introduce(1);
	make_gso(64000);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 1);
	assert_int_equal(ports[1].frames[0].length, 64054);
	assert_memory_equal(ports[1].frames[0].bytes, sent[0].bytes, 64054);
	assert_int_equal(ports[1].frames[0].offload.gso_size, 1000);
	fake_port_clear(&ports[1]);

	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(64000);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 64);
	for (unsigned i = 0; i < 64; i++) {
		assert_true(naive_transport_good(ports[1].frames[i].bytes + 14, ports[1].frames[i].length - 14));
		assert_memory_equal(ports[1].frames[i].bytes + 54, sent[0].bytes + 54 + i * 1000, 1000);
	}
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.segmented, 1);
	stop();
}

static uint32_t coalesce_max_now;

static uint32_t coalesce_max(struct port *port, const struct frame *frame, const struct turn *turn)
{
	return coalesce_max_now;
}

/* A receiver of long frames that is full now and then, and whose limit changes: each byte once, in order. */
static void coalesced_segments_wait_for_room(void **state)
{
	static const uint32_t limits[] = { 8100, 0, 3100, 60000, 5000 };
	struct port_ops ops;
	struct port_counters sum;
	uint32_t at = 0;

	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	ops = *ports[1].port.ops;
	ops.coalesce_max = coalesce_max;
	ports[1].port.ops = &ops;
	make_gso(64000);
	for (unsigned turn = 0;; turn++) {
		coalesce_max_now = limits[turn % array_size(limits)];
		ports[1].room = turn % 3;
		assert_true(turn < 100);
		if (forward(&ports[0], 1))
			break;
		fixture.turn.now += MILLISECOND / 1000;
	}
	for (unsigned i = 0; i < ports[1].count; i++) {
		const struct fake_frame *frame = &ports[1].frames[i];

		assert_true(naive_transport_good(frame->bytes + 14, frame->length - 14));
		assert_true(naive_ipv4_good(frame->bytes + 14));
		assert_int_equal((frame->length - 54) % 1000, 0);
		assert_memory_equal(frame->bytes + 54, sent[0].bytes + 54 + at, frame->length - 54);
		at += frame->length - 54;
	}
	assert_int_equal(at, 64000);
	assert_int_equal(all_drops(), 0);
	port_read_counters(&ports[1].port, &sum);
	assert_int_equal(sum.segmented, 1);
	assert_in_range(sum.coalesced, 2, ports[1].count);
	stop();
}

/* Full half way: nothing is lost, nothing comes twice. */
static void cut_segments_wait_for_room(void **state)
{
	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(64000);
	for (unsigned room = 10; ports[1].count < 60; room++) {
		ports[1].room = room;
		assert_int_equal(forward(&ports[0], 1), ports[1].count == 64);
		fixture.turn.now += MILLISECOND;
	}
	ports[1].room = 100;
	if (ports[1].count < 64)
		assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 64);
	for (unsigned i = 0; i < 64; i++)
		assert_memory_equal(ports[1].frames[i].bytes + 54, sent[0].bytes + 54 + i * 1000, 1000);
	assert_int_equal(all_drops(), 0);
	stop();
}

static void plain_checksums_are_completed(void **state)
{
	start();
	add_ports(2);
	introduce(1);
	memset(&ports[1].port.abilities, 0, sizeof(ports[1].port.abilities));
	make_gso(1000);
	sent[0].frame.offload.gso = FRAME_GSO_NONE;
	/* the pseudo-header's sum, as a driver seeds the field */
	uint32_t sum = naive_fold(naive_sum(sent[0].bytes + 26, 8, 0) + 6 + 1020);
	sent[0].frame.header[50] = (uint8_t)(sum >> 8);
	sent[0].frame.header[51] = (uint8_t)sum;
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 1);
	assert_true(naive_transport_good(ports[1].frames[0].bytes + 14, 1040));
	assert_true(ports[1].frames[0].offload.checksum_valid);
	stop();
}

static void ports_come_and_go(void **state)
{
	static struct fake_port many[NETWORK_PORTS_MAX + 1];
	struct network_address addresses[8];

	start();
	for (unsigned i = 0; i < NETWORK_PORTS_MAX; i++) {
		fake_port_init(&many[i], "many");
		assert_int_equal(network_add_port(fixture.network, &many[i].port), 0);
	}
	fake_port_init(&many[NETWORK_PORTS_MAX], "one too many");
	assert_int_equal(network_add_port(fixture.network, &many[NETWORK_PORTS_MAX].port), -ENOSPC);
	network_remove_port(fixture.network, &many[500].port);
	assert_int_equal(network_add_port(fixture.network, &many[NETWORK_PORTS_MAX].port), 0);
	assert_int_equal(many[NETWORK_PORTS_MAX].port.number, 500);
	for (unsigned i = 0; i < NETWORK_PORTS_MAX; i++) {
		if (i != 500)
			network_remove_port(fixture.network, &many[i].port);
	}
	network_remove_port(fixture.network, &many[NETWORK_PORTS_MAX].port);

	/* What was behind a port goes with it. */
	add_ports(3);
	fixture.turn.now = clock_nanoseconds();
	introduce(1);
	introduce(2);
	assert_int_equal(network_read_addresses(fixture.network, addresses, 8), 2);
	network_remove_port(fixture.network, &ports[1].port);
	assert_int_equal(network_read_addresses(fixture.network, addresses, 8), 1);
	assert_memory_equal(addresses[0].mac, "\2\0\0\0\0\2", 6);
	assert_int_equal(addresses[0].port, 2);
	make(0, 0, 1);
	assert_int_equal(forward(&ports[0], 1), 1);
	assert_int_equal(ports[1].count, 0);
	assert_int_equal(ports[2].count, 1); /* flooded */
	ports[1].port.network = NULL;
	stop();
}

/*
 * Two sidecores send to the same port and flood each other, while its receiver is full every now and then. Every frame
 * that is done was delivered or is counted as dropped, by each receiver, and a receiver is used by one sidecore at a
 * time.
 */
#define STRESS_BATCHES 20000U

struct stress_port {
	struct port port;
	atomic_uint users;
	unsigned overlaps;
	uint64_t delivered, calls;
};

static unsigned stress_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	struct stress_port *stress = container_of(port, struct stress_port, port);
	unsigned taken = ++stress->calls % 7 ? count : count / 2;

	stress->overlaps += atomic_fetch_add_explicit(&stress->users, 1, memory_order_relaxed) != 0;
	stress->delivered += taken; /* plain: the claim orders it, or the thread sanitizer tells */
	atomic_fetch_sub_explicit(&stress->users, 1, memory_order_relaxed);
	return taken;
}

static void stress_flush(struct port *port, const struct turn *turn)
{
	struct stress_port *stress = container_of(port, struct stress_port, port);

	stress->overlaps += atomic_load_explicit(&stress->users, memory_order_relaxed) != 0;
}

static const struct port_ops stress_ops = { .kind = "stress", .transmit = stress_transmit, .flush = stress_flush };
static struct stress_port stress_ports[3];

struct stress_sender {
	unsigned index;
	struct turn turn;
	uint64_t done;
	struct test_frame frame;
};

static struct stress_sender senders[2];

static void *stress_run(void *argument)
{
	struct stress_sender *sender = argument;
	struct frame frames[8];

	for (unsigned batch = 0; batch < STRESS_BATCHES; batch++) {
		unsigned done = 0;

		sender->turn.now += 1000;
		for (unsigned i = 0; i < array_size(frames); i++) {
			test_frame_build(&sender->frame, 0);
			frames[i] = sender->frame.frame;
			frames[i].header[5] = i == 3 ? 77 : 2; /* one in eight is for an address that nobody has */
		}
		while (done < array_size(frames)) {
			unsigned now = network_forward(&stress_ports[sender->index].port, frames + done,
						       array_size(frames) - done, &sender->turn);

			done += now;
			sender->turn.now += now ? 0 : 1000;
		}
		sender->done += done;
	}
	return NULL;
}

static void two_sidecores_share_receivers(void **state)
{
	static struct test_frame hello;
	pthread_t threads[2];
	uint64_t in = 0, unicast = 0;

	net_fixture_start(&fixture, 2, &(struct network_config){ .name = "test" });
	for (unsigned i = 0; i < 3; i++) {
		memset(&stress_ports[i], 0, sizeof(stress_ports[i]));
		stress_ports[i].port.ops = &stress_ops;
		assert_int_equal(network_add_port(fixture.network, &stress_ports[i].port), 0);
		atomic_store(&stress_ports[i].port.up, true);
	}
	memcpy(hello.bytes, "\377\377\377\377\377\377\2\0\0\0\0\2\x88\xb5", 14);
	hello.length = 64;
	test_frame_build(&hello, 0);
	network_forward(&stress_ports[2].port, &hello.frame, 1, &fixture.turn);
	for (unsigned i = 0; i < 3; i++)
		stress_ports[i].delivered = 0;

	for (unsigned i = 0; i < 2; i++) {
		senders[i].index = i;
		senders[i].done = 0;
		senders[i].turn = fixture.turn;
		senders[i].turn.sidecore = engine_sidecore(fixture.engine, i);
		memcpy(senders[i].frame.bytes, (uint8_t[]){ 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, (uint8_t)(10 + i), 8, 0 }, 14);
		senders[i].frame.length = 64;
		assert_int_equal(pthread_create(&threads[i], NULL, stress_run, &senders[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);

	for (unsigned i = 0; i < 2; i++) {
		struct port_counters sum;

		assert_int_equal(senders[i].done, 8 * STRESS_BATCHES);
		port_read_counters(&stress_ports[i].port, &sum);
		assert_int_equal(sum.in_frames, 8 * STRESS_BATCHES);
		assert_int_equal(sum.flooded, STRESS_BATCHES);
		/* What the other one flooded came here, or is named. */
		assert_int_equal(stress_ports[i].delivered + sum.drops[PORT_DROP_FULL] + sum.drops[PORT_DROP_BUSY],
				 STRESS_BATCHES);
		in += sum.in_frames;
		unicast += 7 * STRESS_BATCHES;
	}
	struct port_counters sum;

	port_read_counters(&stress_ports[2].port, &sum);
	assert_int_equal(stress_ports[2].delivered + sum.drops[PORT_DROP_FULL] + sum.drops[PORT_DROP_BUSY], in);
	assert_true(stress_ports[2].delivered >= unicast / 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(stress_ports[i].overlaps, 0);
		network_remove_port(fixture.network, &stress_ports[i].port);
	}
	net_fixture_stop(&fixture);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_is_flooded_known_is_not),
		cmocka_unit_test(batches_are_grouped),
		cmocka_unit_test(bad_frames_are_named),
		cmocka_unit_test(the_isolated_see_only_others),
		cmocka_unit_test(vlans),
		cmocka_unit_test(vlans_learn_apart_and_keep_tags),
		cmocka_unit_test(spoofing_is_named),
		cmocka_unit_test(checksums_do_not_overwrite_what_was_checked),
		cmocka_unit_test(a_tag_does_not_wrap_the_checksum),
		cmocka_unit_test(a_full_receiver_holds_senders_for_a_while),
		cmocka_unit_test(a_trickling_receiver_holds_nobody),
		cmocka_unit_test(floods_cost_their_copies),
		cmocka_unit_test(a_claimed_receiver_is_not_waited_for),
		cmocka_unit_test(segments_cross_whole_or_cut),
		cmocka_unit_test(cut_segments_wait_for_room),
		cmocka_unit_test(coalesced_segments_wait_for_room),
		cmocka_unit_test(plain_checksums_are_completed),
		cmocka_unit_test(ports_come_and_go),
		cmocka_unit_test(two_sidecores_share_receivers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
