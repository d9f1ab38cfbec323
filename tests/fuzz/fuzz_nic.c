/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_nic.h"

#include "device/virtio_net_internal.h"

#define HEADER_SIZE 12U

const uint8_t fuzz_macs[4][6] = {
	{ 2, 0, 0, 0, 0, 1 },
	{ 2, 0, 0, 0, 0, 2 },
	{ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
	{ 2, 0, 0, 0, 0, 9 },
};

static uint32_t put(uint8_t *to, uint32_t at, const void *bytes, uint32_t length)
{
	memcpy(to + at, bytes, length);
	return at + length;
}

static uint32_t put16(uint8_t *to, uint32_t at, uint16_t value)
{
	uint8_t bytes[2] = { (uint8_t)(value >> 8), (uint8_t)value };

	return put(to, at, bytes, 2);
}

/* Network and transport headers that are right in form. Return: their end; @transport: where TCP or UDP begins. */
static uint32_t put_packet(uint8_t *frame, uint32_t at, uint8_t form, unsigned nic, uint32_t *transport)
{
	bool tcp = form & 1, ipv6 = form & 2;

	if (ipv6) {
		at = put(frame, at, "\x60\0\0\0\0\0", 6);
		frame[at++] = tcp ? 6 : 17;
		frame[at++] = 64;
		memset(frame + at, 0x20 + (int)nic, 32);
		at += 32;
	} else {
		at = put(frame, at, "\x45\0\0\0\0\1\0\0\x40", 9);
		frame[at++] = tcp ? 6 : 17;
		at = put16(frame, at, 0);
		at = put(frame, at, form & 4 ? FUZZ_IPV4(nic) : FUZZ_IPV4(nic + 1), 4);
		at = put(frame, at, FUZZ_IPV4(7), 4);
	}
	*transport = at;
	at = put(frame, at, "\0\x44\0\x43\0\0\0\0", 8); /* ports of DHCP; then UDP's length, or TCP's sequence number */
	if (tcp)
		at = put(frame, at, "\0\0\0\0\x50\x18\1\0\0\0\0", 12);
	return at;
}

/* A frame with its virtio-net header in front, at the start of data. Return: length of both. */
static uint32_t make_frame(struct fuzz_nic *nic, struct fuzz_input *input, uint8_t form)
{
	uint8_t *bytes = nic->guest.bytes + GUEST_DATA, offload = fuzz_u8(input), addresses = fuzz_u8(input);
	struct virtio_net_header header = { .flags = offload & 3 };
	uint32_t size = virtio_net_of(nic->device)->header_size, at, transport = 0;
	uint8_t *frame = bytes + size;

	at = put(frame, 0, fuzz_macs[addresses & 3], 6);
	at = put(frame, at, fuzz_macs[addresses & 4 ? nic->number : addresses >> 3 & 3], 6);
	for (unsigned tags = addresses >> 5 & 3; tags; tags--) {
		at = put16(frame, at, addresses & 0x80 ? 0x88a8 : 0x8100);
		at = put16(frame, at, form & 8 ? FUZZ_VLAN : fuzz_u16(input));
	}
	if (form & 1) {
		at = put16(frame, at, form & 2 ? 0x0806 : fuzz_u16(input));
		at += 40;
	} else {
		at = put16(frame, at, form & 4 ? 0x86dd : 0x0800);
		at = put_packet(frame, at, (uint8_t)((form & 4 ? 2 : 0) | (offload >> 2 & 1) | (form & 16 ? 0 : 4)),
				nic->number, &transport);
	}
	if (form & 32) { /* anywhere in the headers */
		uint32_t place = fuzz_u8(input) % 100U;

		fuzz_bytes(input, frame + place, fuzz_u8(input) % 16U);
	}
	at += (offload & 0x40 ? fuzz_u16(input) % (GUEST_DATA_SIZE - 512) : fuzz_u8(input));

	if (offload & 0x80) {
		fuzz_bytes(input, &header, sizeof(header));
	} else {
		header.csum_start = (uint16_t)transport;
		header.csum_offset = offload & 4 ? 16 : 6;
		header.gso_type = offload & 8 ? (offload & 4 ? (form & 4 ? 4 : 1) : (offload & 16 ? 3 : 5)) : 0;
		header.gso_size = (uint16_t)(8U + fuzz_u16(input) % 2000U);
	}
	memcpy(bytes, &header, size);
	return size + at;
}

/* Send it in one piece or in uneven ones, once or several times. */
void fuzz_nic_send_frame(struct fuzz_nic *nic, struct fuzz_input *input, unsigned times)
{
	struct guest_buffer buffers[GUEST_CHAIN_MAX];
	uint8_t form = fuzz_u8(input);
	uint32_t length = make_frame(nic, input, form), at = 0;
	unsigned count = 0, pieces = form & 0x40 ? 1 + fuzz_u8(input) % GUEST_CHAIN_MAX : 1;

	while (at < length) {
		uint32_t piece = ++count == pieces ? length - at : fuzz_u8(input) + 1U;

		piece = min(piece, length - at);
		buffers[count - 1] = (struct guest_buffer){ GUEST_LOW + GUEST_DATA + at, piece, false };
		at += piece;
	}
	nic->sent = length - virtio_net_of(nic->device)->header_size;
	/* Tables of a tame driver are its receive queue's. */
	while (times--)
		guest_queue_add(&nic->drivers[FUZZ_TRANSMIT], buffers, count, form & 0x80 && !nic->tame);
}

/* Buffers that hold the other one's frames just so, or not quite. */
void fuzz_nic_offer_guarded_room(struct fuzz_nic *nic, struct fuzz_input *input)
{
	uint32_t header = virtio_net_of(nic->device)->header_size, sent = nic->other->sent;
	uint8_t form = fuzz_u8(input);

	for (unsigned i = 0; i <= form % 8U; i++) {
		uint8_t shape = fuzz_u8(input);
		uint32_t length = header + (shape & 0x80 ? 1530 : sent);

		length = max(length + (shape & 31), header + 24) - 16;
		if (!guard_offer(&nic->guard, shape & 0x40 ? header + (shape & 0x20 ? shape & 7U : 0) : 0, length,
				 form & 0x20))
			break;
	}
}

/* Buffers to receive into, far from what is sent. */
void fuzz_nic_offer_room(struct fuzz_nic *nic, struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	unsigned count = 1 + form % 16U;
	/* Just enough, just too little, and plenty. */
	uint32_t length = form & 0x80 ? 40U + fuzz_u8(input) : form & 0x40 ? 0x4000 : 1530;

	for (unsigned i = 0; i < count; i++) {
		struct guest_buffer buffers[2] = {
			{ GUEST_SEAM + 0x1000 + i * 0x300U, form & 0x20 ? fuzz_u8(input) % 16U + 1U : HEADER_SIZE,
			  true },
			{ GUEST_SEAM + 0x2000, length, true },
		};

		if (form & 0x10)
			guest_queue_add(&nic->drivers[FUZZ_RECEIVE], buffers, 2, form & 0x20);
		else
			guest_queue_add(&nic->drivers[FUZZ_RECEIVE], buffers + 1, 1, form & 0x20);
	}
}

void fuzz_nic_send_command(struct fuzz_nic *nic, struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	uint32_t length = 2U + (form & 0x80 ? fuzz_u16(input) % 0x3000U : form % 20U), have = min(length, 24U);
	const struct guest_buffer buffers[3] = {
		{ GUEST_LOW + GUEST_DATA + 0x1000, 2, false },
		{ GUEST_LOW + GUEST_DATA + 0x1002, length - 1, false },
		{ GUEST_APART, 1, true },
	};

	fuzz_bytes(input, nic->guest.bytes + GUEST_DATA + 0x1000, have);
	nic->guest.bytes[GUEST_DATA + 0x1000] &= 7;
	nic->guest.bytes[GUEST_DATA + 0x1001] &= 7;
	guest_queue_add(&nic->drivers[FUZZ_CONTROL], buffers, 3, form & 0x40);
}
