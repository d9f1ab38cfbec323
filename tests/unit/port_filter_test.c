/* SPDX-License-Identifier: BSD-3-Clause */
/* What a port lets in and out: VLANs and anti-spoofing. */
#include "test.h"

#include <string.h>

#include "switch_fixture.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vlans),
		cmocka_unit_test(vlans_learn_apart_and_keep_tags),
		cmocka_unit_test(spoofing_is_named),
		cmocka_unit_test(checksums_do_not_overwrite_what_was_checked),
		cmocka_unit_test(a_tag_does_not_wrap_the_checksum),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
