/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Segmentation: each kind of frame is cut and every byte of what comes out is checked against what went in, with
 * checksums and header fields worked out by code of the test's own.
 */
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/checksum.h"
#include "net/segment.h"
#include "net_fixture.h"

#define BATCH	 8U
#define SEGMENTS 200U

static struct test_frame input;
static struct frame frames[BATCH];
static uint8_t headers[BATCH][SEGMENT_HEADER_MAX + 8];
static struct guest_segment segments[SEGMENTS];
static const struct segment_room room = { frames, BATCH, headers, segments, SEGMENTS };

struct output {
	uint8_t bytes[70000];
	uint32_t length;
	struct frame_offload offload;
};

static struct output *outputs; /* SEGMENT_COUNT_MAX of them */
static unsigned output_count;

/** struct recipe - an input frame. */
struct recipe {
	uint8_t gso;
	bool ipv6;
	uint8_t tags, options; /* VLAN tags; bytes of IPv4 options or of IPv6 extension headers (8: destination options,
				* 16: hop by hop and destination options) */
	uint8_t tcp_options;
	uint8_t flags; /* TCP */
	uint32_t payload;
	uint16_t gso_size;
	unsigned segments; /* expected */
};

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

static bool is_tcp(const struct recipe *recipe)
{
	return recipe->gso == FRAME_GSO_TCPV4 || recipe->gso == FRAME_GSO_TCPV6;
}

static uint32_t network_of(const struct recipe *recipe)
{
	return 14 + 4U * recipe->tags;
}

static uint32_t transport_of(const struct recipe *recipe)
{
	return network_of(recipe) + (recipe->ipv6 ? 40 : 20) + recipe->options;
}

static uint32_t payload_of(const struct recipe *recipe)
{
	return transport_of(recipe) + (is_tcp(recipe) ? 20U + recipe->tcp_options : 8);
}

static void build_ip(const struct recipe *recipe)
{
	uint8_t *ip = input.bytes + network_of(recipe), protocol = is_tcp(recipe) ? 6 : 17;

	put16(ip - 2, recipe->ipv6 ? 0x86dd : 0x0800);
	if (recipe->ipv6) {
		ip[0] = 0x60;
		put16(ip + 4, recipe->options + input.length - transport_of(recipe));
		ip[6] = recipe->options == 16 ? 0 : recipe->options ? 60 : protocol;
		ip[7] = 64;
		for (unsigned i = 0; i < 32; i++)
			ip[8 + i] = (uint8_t)(i * 7 + 1);
		if (recipe->options == 16)
			memcpy(ip + 40, "\x3c\0\1\4\0\0\0\0", 8);
		if (recipe->options)
			memcpy(ip + 40 + recipe->options - 8, (uint8_t[]){ protocol, 0, 1, 4, 0, 0, 0, 0 }, 8);
	} else {
		memset(ip, 0, 20 + recipe->options);
		ip[0] = (uint8_t)(0x45 + recipe->options / 4);
		put16(ip + 2, input.length - network_of(recipe));
		put16(ip + 4, 0xfffe); /* the identification wraps on the way */
		put16(ip + 6, 0x4000);
		ip[8] = 64;
		ip[9] = protocol;
		memcpy(ip + 12, "\x0a\1\2\3\x0a\1\2\4", 8);
		memset(ip + 20, 1, recipe->options);
		put16(ip + 10, (uint16_t)~naive_fold(naive_sum(ip, 20U + recipe->options, 0)));
	}
}

/* As a driver with offloads would send it: the field holds the sum of the pseudo-header. */
static void build(const struct recipe *recipe, uint32_t piece)
{
	uint8_t *transport = input.bytes + transport_of(recipe), *ip = input.bytes + network_of(recipe);
	uint64_t random = recipe->payload + 1;
	uint32_t sum, length;

	input.length = payload_of(recipe) + recipe->payload;
	assert_true(input.length <= sizeof(input.bytes));
	for (uint32_t i = 0; i < input.length; i++)
		input.bytes[i] = (uint8_t)test_random(&random);
	for (unsigned i = 0; i < recipe->tags; i++)
		put16(input.bytes + 12 + 4 * i, recipe->tags == 2 && i == 0 ? 0x88a8 : 0x8100);
	build_ip(recipe);

	length = input.length - transport_of(recipe);
	sum = recipe->ipv6 ? naive_sum(ip + 8, 32, 0) : naive_sum(ip + 12, 8, 0);
	sum = naive_fold(sum + (is_tcp(recipe) ? 6 : 17) + length);
	if (is_tcp(recipe)) {
		put32(transport + 4, 0xfffffff0); /* the sequence number wraps on the way */
		transport[12] = (uint8_t)((5 + recipe->tcp_options / 4) << 4);
		transport[13] = recipe->flags;
		put16(transport + 16, sum);
	} else {
		put16(transport + 4, length);
		put16(transport + 6, sum);
	}
	test_frame_build(&input, piece);
	input.frame.offload = (struct frame_offload){
		.checksum_partial = true,
		.gso = recipe->gso,
		.gso_size = recipe->gso_size,
		.checksum_start = (uint16_t)transport_of(recipe),
		.checksum_offset = is_tcp(recipe) ? 16 : 6,
	};
}

static void collect(struct segment_plan *plan)
{
	unsigned built;

	output_count = 0;
	while ((built = segment_next(plan, &room)) > 0) {
		for (unsigned i = 0; i < built; i++) {
			struct output *output = &outputs[output_count++];

			output->length = frames[i].length;
			output->offload = frames[i].offload;
			assert_true(output->length <= sizeof(output->bytes));
			assert_true(frame_read(&frames[i], 0, output->bytes, output->length));
			assert_false(frame_read(&frames[i], output->length, &built, 1));
		}
	}
}

static void check_ip(const struct recipe *recipe, const struct output *output, unsigned index)
{
	const uint8_t *ip = output->bytes + network_of(recipe), *was = input.bytes + network_of(recipe);
	uint32_t length = output->length - network_of(recipe);

	assert_memory_equal(output->bytes, input.bytes, network_of(recipe));
	if (recipe->ipv6) {
		assert_int_equal(get16(ip + 4), length - 40);
		assert_memory_equal(ip, was, 4);
		assert_memory_equal(ip + 7, was + 7, 33);
		return;
	}
	assert_int_equal(get16(ip + 2), length);
	assert_true(naive_ipv4_good(ip));
	assert_memory_equal(ip, was, 2);
	assert_memory_equal(ip + 8, was + 8, 2);
	assert_memory_equal(ip + 12, was + 12, 8U + recipe->options);
	assert_int_equal(get16(ip + 4), recipe->gso == FRAME_GSO_UDP_FRAGMENT ? 0xfffe : (0xfffe + index) & 0xffff);
	if (recipe->gso != FRAME_GSO_UDP_FRAGMENT)
		assert_int_equal(get16(ip + 6), 0x4000);
}

static void check_tcp(const struct recipe *recipe, const struct output *output, unsigned index, uint32_t at)
{
	const uint8_t *tcp = output->bytes + transport_of(recipe), *was = input.bytes + transport_of(recipe);
	uint8_t flags = recipe->flags;

	if (index)
		flags &= (uint8_t)~0x80;
	if (index + 1 < output_count)
		flags &= (uint8_t)~0x09;
	assert_memory_equal(tcp, was, 4);
	assert_int_equal(get32(tcp + 4), 0xfffffff0 + at);
	assert_memory_equal(tcp + 8, was + 8, 5);
	assert_int_equal(tcp[13], flags);
	assert_memory_equal(tcp + 14, was + 14, 2);
	assert_memory_equal(tcp + 18, was + 18, 2U + recipe->tcp_options);
}

/* TCP and USO: every segment is a packet of its own, or @together segments are one. */
static void check_packets(const struct recipe *recipe, bool partial, uint32_t together)
{
	uint32_t at = 0;

	for (unsigned i = 0; i < output_count; i++) {
		struct output *output = &outputs[i];
		uint32_t payload = output->length - payload_of(recipe), length;
		uint8_t *transport = output->bytes + transport_of(recipe);

		check_ip(recipe, output, i);
		if (is_tcp(recipe))
			check_tcp(recipe, output, i, at);
		else
			assert_int_equal(get16(transport + 4), payload + 8);
		assert_int_equal(output->offload.gso, FRAME_GSO_NONE);
		assert_int_equal(output->offload.checksum_partial, partial);
		assert_int_equal(output->offload.checksum_valid, !partial);
		if (partial) {
			/* Do what the receiver would do. */
			length = output->length - output->offload.checksum_start;
			assert_int_equal(output->offload.checksum_start, transport_of(recipe));
			put16(transport + output->offload.checksum_offset,
			      (uint16_t)~naive_fold(naive_sum(transport, length, 0)));
		}
		assert_true(naive_transport_good(output->bytes + network_of(recipe), output->length - network_of(recipe)));
		if (i + 1 < output_count)
			assert_int_equal(payload, recipe->gso_size * together);
		assert_memory_equal(output->bytes + payload_of(recipe), input.bytes + payload_of(recipe) + at, payload);
		at += payload;
	}
	assert_int_equal(at, recipe->payload);
}

/* UFO: put the fragments together and check the datagram. */
static void check_fragments(const struct recipe *recipe)
{
	static uint8_t whole[70000];
	uint32_t network = network_of(recipe), unfragmentable = network + (recipe->ipv6 ? 40 : 20U + recipe->options);
	uint32_t at, identification = 0;

	if (recipe->ipv6 && recipe->options == 16)
		unfragmentable += 8; /* the hop-by-hop header */
	at = unfragmentable;
	memcpy(whole, input.bytes, unfragmentable);
	for (unsigned i = 0; i < output_count; i++) {
		const uint8_t *ip = outputs[i].bytes + network;
		bool last = i + 1 == output_count, fragment = recipe->ipv6 && output_count > 1;
		uint32_t from = unfragmentable + (fragment ? 8 : 0), field;

		assert_int_equal(outputs[i].offload.checksum_partial, false);
		if (fragment) {
			const uint8_t *header = outputs[i].bytes + unfragmentable;

			assert_int_equal(recipe->options == 16 ? ip[40] : ip[6], 44);
			assert_int_equal(header[0], recipe->options ? 60 : 17);
			if (!i)
				identification = get32(header + 4);
			assert_int_equal(get32(header + 4), identification);
			field = get16(header + 2);
			assert_int_equal(field & 7, last ? 0 : 1);
			assert_int_equal(field & 0xfff8, at - unfragmentable);
			assert_int_equal(get16(ip + 4), outputs[i].length - network - 40);
		} else if (!recipe->ipv6) {
			check_ip(recipe, &outputs[i], i);
			field = get16(ip + 6);
			assert_int_equal(field >> 13, last ? 0 : 1);
			assert_int_equal((field & 0x1fff) * 8, at - unfragmentable);
		}
		if (!last)
			assert_int_equal(outputs[i].length - from, recipe->gso_size & ~7U);
		memcpy(whole + at, outputs[i].bytes + from, outputs[i].length - from);
		at += outputs[i].length - from;
	}
	assert_int_equal(at, input.length);
	assert_int_equal(get16(whole + transport_of(recipe) + 4), at - transport_of(recipe));
	assert_true(naive_transport_good(whole + network, at - network));
	assert_memory_equal(whole + payload_of(recipe), input.bytes + payload_of(recipe), recipe->payload);
}

#define FIN_PSH_CWR_ACK 0x99

static const struct recipe recipes[] = {
	/* 0 */ { FRAME_GSO_TCPV4, false, 0, 0, 0, FIN_PSH_CWR_ACK, 65000, 1460, 45 },
	/* 1 */ { FRAME_GSO_TCPV4, false, 0, 0, 12, 0x10, 2896, 1448, 2 },	/* exact multiple */
	/* 2 */ { FRAME_GSO_TCPV4, false, 1, 0, 12, FIN_PSH_CWR_ACK, 2897, 1448, 3 }, /* a last byte */
	/* 3 */ { FRAME_GSO_TCPV4, false, 2, 40, 40, FIN_PSH_CWR_ACK, 9999, 999, 11 },	/* longest headers: 142 bytes */
	/* 4 */ { FRAME_GSO_TCPV4, false, 0, 0, 0, FIN_PSH_CWR_ACK, 100, 1460, 1 },	/* smaller than a segment */
	/* 5 */ { FRAME_GSO_TCPV4, false, 0, 0, 0, FIN_PSH_CWR_ACK, 0, 1460, 1 },	/* no payload */
	/* 6 */ { FRAME_GSO_TCPV4, false, 0, 0, 0, 0x10, SEGMENT_COUNT_MAX, 1, SEGMENT_COUNT_MAX },
	/* 7 */ { FRAME_GSO_TCPV6, true, 0, 0, 0, FIN_PSH_CWR_ACK, 65000, 1440, 46 },
	/* 8 */ { FRAME_GSO_TCPV6, true, 1, 8, 12, FIN_PSH_CWR_ACK, 10001, 1428, 8 },
	/* 9 */ { FRAME_GSO_TCPV6, true, 2, 16, 40, FIN_PSH_CWR_ACK, 10001, 501, 20 },
	/* 10 */ { FRAME_GSO_UDP_SEGMENT, false, 0, 0, 0, 0, 12000, 1200, 10 },
	/* 11 */ { FRAME_GSO_UDP_SEGMENT, false, 1, 8, 0, 0, 12001, 1200, 11 },
	/* 12 */ { FRAME_GSO_UDP_SEGMENT, true, 0, 0, 0, 0, 65000, 1452, 45 },
	/* 13 */ { FRAME_GSO_UDP_SEGMENT, true, 1, 16, 0, 0, 333, 7, 48 },
	/* 14 */ { FRAME_GSO_UDP_FRAGMENT, false, 0, 0, 0, 0, 9000, 1480, 7 },
	/* 15 */ { FRAME_GSO_UDP_FRAGMENT, false, 1, 12, 0, 0, 9000, 1466, 7 },	/* rounded down to 1464 */
	/* 16 */ { FRAME_GSO_UDP_FRAGMENT, true, 0, 0, 0, 0, 9000, 1448, 7 },
	/* 17 */ { FRAME_GSO_UDP_FRAGMENT, true, 1, 8, 0, 0, 9000, 1448, 7 },
	/* 18 */ { FRAME_GSO_UDP_FRAGMENT, true, 0, 16, 0, 0, 9000, 16, 564 },
	/* 19 */ { FRAME_GSO_UDP_FRAGMENT, false, 0, 0, 0, 0, 800, 1480, 1 },
	/* 20 */ { FRAME_GSO_UDP_FRAGMENT, true, 0, 0, 0, 0, 800, 1448, 1 },	/* no atomic fragments */
};

static void every_kind_is_cut(void **state)
{
	static const uint32_t pieces[] = { 0, 1024, 2047, 4096 };
	struct segment_plan plan;

	for (unsigned i = 0; i < array_size(recipes); i++) {
		for (unsigned j = 0; j < array_size(pieces) * 2; j++) {
			const struct recipe *recipe = &recipes[i];
			bool partial = j & 1;

			print_message("case %u, pieces of %u, %s\n", i, pieces[j / 2], partial ? "partial" : "complete");
			build(recipe, pieces[j / 2]);
			assert_int_equal(segment_plan(&plan, &input.frame, partial, 0x1234567), 0);
			assert_int_equal(plan.count, recipe->segments);
			collect(&plan);
			assert_int_equal(output_count, recipe->segments);
			if (recipe->gso == FRAME_GSO_UDP_FRAGMENT)
				check_fragments(recipe);
			else
				check_packets(recipe, partial, 1);
		}
	}
}

/* What comes after a skip is what would have come at that place. */
static void skipping_leaves_the_rest_alike(void **state)
{
	struct output *all = calloc(SEGMENT_COUNT_MAX, sizeof(*all));
	struct segment_plan plan;

	for (unsigned i = 0; i < array_size(recipes); i++) {
		unsigned count;

		build(&recipes[i], 1500);
		assert_int_equal(segment_plan(&plan, &input.frame, false, 1), 0);
		collect(&plan);
		count = output_count;
		memcpy(all, outputs, count * sizeof(*all));
		for (unsigned skip = 0; skip <= count; skip += 1 + count / 7) {
			assert_int_equal(segment_plan(&plan, &input.frame, false, 1), 0);
			segment_skip(&plan, skip);
			collect(&plan);
			assert_int_equal(output_count, count - skip);
			for (unsigned j = 0; j < output_count; j++) {
				assert_int_equal(outputs[j].length, all[skip + j].length);
				assert_memory_equal(outputs[j].bytes, all[skip + j].bytes, outputs[j].length);
			}
		}
		assert_int_equal(segment_plan(&plan, &input.frame, false, 1), 0);
		segment_skip(&plan, UINT32_MAX);
		assert_int_equal(segment_next(&plan, &room), 0);
	}
	free(all);
}

/* Packets of TCP carry as many segments as are allowed to, and all others one. */
static void several_go_as_one(void **state)
{
	static const uint32_t longest[] = { 0, 100, 3000, 9000, 26304, 65535, UINT32_MAX };
	struct segment_plan plan;

	for (unsigned i = 0; i < array_size(recipes) * array_size(longest); i++) {
		const struct recipe *recipe = &recipes[i / array_size(longest)];
		uint32_t length = longest[i % array_size(longest)], headers_length = payload_of(recipe), together = 1;

		print_message("case %zu, frames of %u\n", i / array_size(longest), length);
		build(recipe, 1024);
		assert_int_equal(segment_plan(&plan, &input.frame, false, 1), 0);
		segment_coalesce(&plan, length);
		collect(&plan);
		if (recipe->gso == FRAME_GSO_UDP_FRAGMENT) {
			check_fragments(recipe);
			continue;
		}
		/* A packet has 65535 bytes at most. */
		if (length > network_of(recipe) + 65535)
			length = network_of(recipe) + 65535;
		if (is_tcp(recipe) && length >= headers_length + recipe->gso_size)
			together = (length - headers_length) / recipe->gso_size;
		assert_int_equal(output_count, (recipe->segments + together - 1) / together);
		check_packets(recipe, false, together);
		for (unsigned j = 0; j < output_count; j++)
			assert_true(together == 1 || outputs[j].length <= length);
	}
}

/* Left half way and taken up again with another limit: each byte once, and no identification twice. */
static void limits_may_change_between(void **state)
{
	static const uint32_t limits[] = { 26304, 0, 9000, 3000, 65535 };
	const struct recipe *recipe = &recipes[0];
	uint32_t at = 0, done = 0, identification = 0;
	struct segment_plan plan;

	build(recipe, 2000);
	for (unsigned turn = 0; at < recipe->payload; turn++) {
		const struct segment_room one = { frames, 1, headers, segments, SEGMENTS };
		struct output *output = &outputs[turn];
		uint32_t payload, here;

		assert_int_equal(segment_plan(&plan, &input.frame, false, 1), 0);
		segment_skip(&plan, done);
		segment_coalesce(&plan, limits[turn % array_size(limits)]);
		assert_int_equal(segment_next(&plan, &one), 1);
		done = plan.index;
		output->length = frames[0].length;
		assert_int_equal(frames[0].coalesced, output->length > payload_of(recipe) + recipe->gso_size);
		assert_true(frame_read(&frames[0], 0, output->bytes, output->length));
		payload = output->length - payload_of(recipe);
		assert_memory_equal(output->bytes + payload_of(recipe), input.bytes + payload_of(recipe) + at, payload);
		assert_int_equal(get32(output->bytes + transport_of(recipe) + 4), 0xfffffff0 + at);
		here = (uint16_t)(get16(output->bytes + network_of(recipe) + 4) - 0xfffe);
		assert_true(!turn || here > identification);
		assert_true(here < recipe->segments);
		identification = here;
		at += payload;
	}
	assert_int_equal(at, recipe->payload);
	assert_int_equal(done, recipe->segments);
}

/* Plain frames: in place when the field is in the copy, else by a plan of one. */
static void checksum_alone(void **state)
{
	static const struct recipe plain[] = {
		{ FRAME_GSO_TCPV4, false, 0, 0, 12, 0x18, 1400, 0, 1 },	 { FRAME_GSO_TCPV4, false, 2, 40, 0, 0x18, 1399, 0, 1 },
		{ FRAME_GSO_TCPV6, true, 1, 16, 12, 0x18, 777, 0, 1 },	 { FRAME_GSO_UDP_SEGMENT, false, 0, 0, 0, 0, 5, 0, 1 },
		{ FRAME_GSO_UDP_SEGMENT, true, 2, 16, 0, 0, 1001, 0, 1 },
	};
	struct segment_plan plan;

	for (unsigned i = 0; i < array_size(plain); i++) {
		const struct recipe *recipe = &plain[i];
		uint32_t network = network_of(recipe);
		bool inside;

		build(recipe, 333);
		input.frame.offload.gso = FRAME_GSO_NONE;
		inside = transport_of(recipe) + input.frame.offload.checksum_offset + 2 <= FRAME_HEADER_MAX;
		assert_int_equal(segment_plan(&plan, &input.frame, false, 0), 0);
		collect(&plan);
		assert_int_equal(output_count, 1);
		assert_true(naive_transport_good(outputs[0].bytes + network, outputs[0].length - network));
		assert_true(outputs[0].offload.checksum_valid && !outputs[0].offload.checksum_partial);

		assert_int_equal(segment_checksum(&input.frame), inside);
		if (inside) {
			assert_true(frame_read(&input.frame, 0, outputs[0].bytes, input.length));
			assert_true(naive_transport_good(outputs[0].bytes + network, input.length - network));
		}
	}
}

/* A sum of zero must not look like "no checksum" (RFC 768). */
static void zero_is_sent_as_ones(void **state)
{
	const struct recipe recipe = { FRAME_GSO_UDP_SEGMENT, false, 0, 0, 0, 0, 2, 0, 1 };
	uint8_t *payload = input.bytes + payload_of(&recipe);

	for (uint32_t value = 0; value <= 0xffff; value++) {
		build(&recipe, 0);
		put16(payload, value);
		test_frame_build(&input, 0);
		input.frame.offload = (struct frame_offload){ .checksum_partial = true, .checksum_start = 34,
							      .checksum_offset = 6 };
		assert_true(segment_checksum(&input.frame));
		assert_int_not_equal(frame_load16(&input.frame, 40), 0);
	}
}

/** struct damage - one change to a good frame that must be refused. */
struct damage {
	const char *what;
	uint8_t recipe; /* index of recipes */
	int at;		/* relative to the IP header; transport with @transport set */
	bool transport;
	uint8_t value;
};

static const struct damage damages[] = {
	{ "not IPv4", 0, 0, false, 0x65 },
	{ "header length below 5 words", 0, 0, false, 0x44 },
	{ "options that are not there", 0, 0, false, 0x4f },
	{ "more fragments", 0, 6, false, 0x20 },
	{ "fragment offset", 0, 7, false, 1 },
	{ "UDP where TCP is due", 0, 9, false, 17 },
	{ "tunnel: IPv4 in IPv4", 0, 9, false, 4 },
	{ "tunnel: GRE", 0, 9, false, 47 },
	{ "TCP header below 5 words", 0, 12, true, 0x40 },
	{ "ethertype ARP", 0, -1, false, 6 },
	{ "third tag", 3, -2, false, 0x81 },
	{ "not IPv6", 7, 0, false, 0x45 },
	{ "fragment header", 7, 6, false, 44 },
	{ "authentication header", 7, 6, false, 51 },
	{ "tunnel: IPv6 in IPv6", 7, 6, false, 41 },
	{ "extension header past the copy", 8, 41, false, 255 },
	{ "routing header in use", 8, 6, false, 43 },
	{ "TCP where UDP is due", 10, 9, false, 6 },
};

static void bad_headers_are_refused(void **state)
{
	struct segment_plan plan;

	for (unsigned i = 0; i < array_size(damages); i++) {
		const struct recipe *recipe = &recipes[damages[i].recipe];
		uint32_t base = damages[i].transport ? transport_of(recipe) : network_of(recipe);

		print_message("%s\n", damages[i].what);
		build(recipe, 0);
		assert_int_equal(segment_plan(&plan, &input.frame, false, 0), 0);
		input.bytes[base + (uint32_t)damages[i].at] = damages[i].value;
		struct frame_offload offload = input.frame.offload;
		if (damages[i].recipe == 8 && damages[i].value == 43)
			input.bytes[base + 43] = 1; /* segments left */
		if (damages[i].recipe == 3)
			input.bytes[base - 1] = 0;
		test_frame_build(&input, 0);
		input.frame.offload = offload;
		assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	}
}

static void bad_offloads_are_refused(void **state)
{
	struct segment_plan plan;

	build(&recipes[0], 0);
	input.frame.offload.checksum_start++;
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[0], 0);
	input.frame.offload.checksum_offset = 6;
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[0], 0);
	input.frame.offload.gso = FRAME_GSO_TCPV6;
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[0], 0);
	input.frame.offload.gso_size = 0;
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[0], 0);
	input.frame.offload.gso_size = 65000 / SEGMENT_COUNT_MAX; /* a few segments too many */
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[14], 0);
	input.frame.offload.gso_size = 7; /* rounds down to nothing */
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
	build(&recipes[17], 0);
	input.frame.offload.gso_size = 8; /* the first fragment cannot hold the UDP header */
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);

	/* A checksum beyond what is copied of a frame. */
	build(&recipes[0], 0);
	input.frame.offload.gso = FRAME_GSO_NONE;
	input.frame.offload.checksum_start = 300;
	assert_int_equal(segment_plan(&plan, &input.frame, false, 0), -EINVAL);
}

/* Frames cut short anywhere, and random headers: refused or cut, but never read or written outside (the sanitizers watch). */
static void truncated_and_random(void **state)
{
	struct segment_plan plan;
	uint64_t random = 5;

	for (unsigned i = 0; i < array_size(recipes); i++) {
		for (uint32_t length = 1; length < 200; length++) {
			struct frame_offload offload;

			build(&recipes[i], 0);
			offload = input.frame.offload;
			input.length = length;
			test_frame_build(&input, 1 + length % 70);
			input.frame.offload = offload;
			if (!segment_plan(&plan, &input.frame, length & 1, 0))
				collect(&plan);
			else
				assert_true(length < payload_of(&recipes[i]) || recipes[i].gso == FRAME_GSO_UDP_FRAGMENT);
		}
	}
	for (unsigned i = 0; i < 20000; i++) {
		struct frame_offload offload;

		build(&recipes[i % array_size(recipes)], 0);
		offload = input.frame.offload;
		for (unsigned j = 0; j < 3; j++)
			input.bytes[12 + test_random(&random) % 120] = (uint8_t)test_random(&random);
		input.length = min(input.length, 2000U);
		test_frame_build(&input, 100);
		input.frame.offload = offload;
		if (!segment_plan(&plan, &input.frame, false, 0))
			collect(&plan);
	}
}

static int allocate(void **state)
{
	outputs = calloc(SEGMENT_COUNT_MAX, sizeof(*outputs));
	return outputs ? 0 : -1;
}

static int release(void **state)
{
	free(outputs);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_is_cut),	   cmocka_unit_test(skipping_leaves_the_rest_alike),
		cmocka_unit_test(several_go_as_one),	   cmocka_unit_test(limits_may_change_between),
		cmocka_unit_test(checksum_alone),	   cmocka_unit_test(zero_is_sent_as_ones),
		cmocka_unit_test(bad_headers_are_refused), cmocka_unit_test(bad_offloads_are_refused),
		cmocka_unit_test(truncated_and_random),
	};

	return cmocka_run_group_tests(tests, allocate, release);
}
