# SPDX-License-Identifier: BSD-3-Clause
"""
virtio-net: checksums and segmentation, whole towards guests that understand it and cut for those that do not; offload
fields that lie (virtio 1.3, 5.1.6).
"""
import itertools

import pytest

from . import frames
from .devices import (GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, HDR_F_NEEDS_CSUM,
		      NET_GUEST_CSUM, NET_GUEST_TSO4, NET_GUEST_USO4, NET_HOST_USO, NET_RECEIVE_OFFLOADS,
		      NET_SEND_OFFLOADS, NetHeader)
from .lan import MAC, neighbours_work, warm

pytestmark = pytest.mark.deadline(60)

FLOWS = {
	4: frames.Flow(MAC["a"], MAC["b"], "10.0.0.1", "10.0.0.2"),
	6: frames.Flow(MAC["a"], MAC["b"], "fd00::1", "fd00::2"),
}


def offload(flow, protocol, payload, gso_type=GSO_NONE, size=0, flags=0, **changes):
	"""A frame with a partial checksum and the header that says so."""
	start = 14 + flow.network_length
	if protocol == frames.TCP:
		frame, offset, head = frames.tcp(flow, payload, partial=True, flags=frames.ACK | flags), 16, start + 20
	else:
		frame, offset, head = frames.udp(flow, payload, partial=True), 6, start + 8
	fields = {"flags": HDR_F_NEEDS_CSUM, "gso_type": gso_type, "hdr_len": head, "gso_size": size, "csum_start": start,
		  "csum_offset": offset, **changes}
	return frame, NetHeader(**fields)


def finished(header, frame):
	"""Compute the checksum that the device left to the driver, if it did."""
	if not header.flags & HDR_F_NEEDS_CSUM:
		return frame
	start, field = header.csum_start, header.csum_start + header.csum_offset
	assert field + 2 <= len(frame), "csum_offset is past the end"
	value = frames.checksum(frame[start:])
	return frame[:field] + value.to_bytes(2, "big") + frame[field + 2:]


def body(length):
	return bytes((number * 31 + number // 256) & 0xff for number in range(length))


def plug_offloads(lan, receiver, sender=NET_SEND_OFFLOADS, **choices):
	a, b = lan.plug("a", features=sender, **choices), lan.plug("b", features=receiver, **choices)
	assert a.features & sender == sender and b.features & receiver == receiver, "offloads are not all offered"
	b.fill_receive(100, size=4096, cuts=[])
	warm(a, b)
	return a, b


@pytest.mark.parametrize("version, protocol, receiver", itertools.product(
	(4, 6), (frames.TCP, frames.UDP), (0, NET_GUEST_CSUM)))
def test_partial_checksum(lan, version, protocol, receiver):
	a, b = plug_offloads(lan, receiver)
	for length in (0, 1, 100, 1001):
		frame, header = offload(FLOWS[version], protocol, body(length))
		a.send(frame, header)
		got, received = b.receive()
		if not receiver:
			assert got.flags & HDR_F_NEEDS_CSUM == 0, "GUEST_CSUM was not negotiated (5.1.6.4.1)"
		assert frames.parse(finished(got, received)).payload == body(length)


@pytest.mark.parametrize("version, packed, indirect, layout", itertools.product(
	(4, 6), (False, True), (False, True), ("separate", "scattered")))
def test_large_tcp_segment_crosses_whole(lan, version, packed, indirect, layout):
	a, b = plug_offloads(lan, NET_RECEIVE_OFFLOADS, packed=packed, indirect=indirect, layout=layout)
	payload = body(65535 - 60)
	frame, header = offload(FLOWS[version], frames.TCP, payload, GSO_TCPV4 if version == 4 else GSO_TCPV6, 1448)
	a.send(frame, header)
	got, received = b.receive()
	assert len(received) == len(frame) and got.num_buffers == 17
	assert (got.gso_type, got.gso_size) == (header.gso_type, 1448)
	assert got.flags & HDR_F_NEEDS_CSUM and (got.csum_start, got.csum_offset) == (header.csum_start, 16)
	assert received == frame


@pytest.mark.parametrize("version, receiver, size, length", itertools.product(
	(4, 6), (0, NET_GUEST_CSUM), (1448, 536), (1448, 1449, 10_000, 65535 - 60)))
def test_large_tcp_segment_is_cut_for_a_simple_receiver(lan, version, receiver, size, length):
	a, b = plug_offloads(lan, receiver)
	b.fill_receive(120, size=2048, cuts=[])
	payload = body(length)
	flags = frames.PSH | frames.FIN | frames.CWR
	frame, header = offload(FLOWS[version], frames.TCP, payload, (GSO_TCPV4 if version == 4 else GSO_TCPV6) | GSO_ECN,
				size, flags)
	a.send(frame, header)
	count, joined = -(-length // size), b""
	for number in range(count):
		got, received = b.receive()
		assert got.gso_type == GSO_NONE
		packet = frames.parse(finished(got, received))
		assert len(packet.payload) == (size if number < count - 1 else length - size * (count - 1))
		assert packet.sequence == 1000 + len(joined)
		assert bool(packet.flags & frames.CWR) == (number == 0), "CWR belongs to the first segment (RFC 3168)"
		assert bool(packet.flags & (frames.PSH | frames.FIN)) == (number == count - 1), "FIN and PSH to the last"
		if version == 4:
			assert packet.identification == 1 + number
		joined += packet.payload
	assert joined == payload
	assert b.silent(0.1)


@pytest.mark.parametrize("version, receiver", itertools.product((4, 6), (0, NET_RECEIVE_OFFLOADS)))
def test_udp_segmentation(lan, version, receiver):
	a, b = plug_offloads(lan, receiver)
	if not a.features & NET_HOST_USO:
		pytest.fail("HOST_USO is not offered")
	payload = body(5000)
	frame, header = offload(FLOWS[version], frames.UDP, payload, GSO_UDP_L4, 1200)
	a.send(frame, header)
	if receiver & NET_GUEST_USO4:
		got, received = b.receive()
		assert (got.gso_type, got.gso_size) == (GSO_UDP_L4, 1200) and received == frame
		return
	joined = b""
	for expected in (1200, 1200, 1200, 1200, 200):
		packet = frames.parse(finished(*b.receive()))
		assert len(packet.payload) == expected
		joined += packet.payload
	assert joined == payload


@pytest.mark.parametrize("length", [0, 1, 40, 0xffff])
def test_header_length_is_a_hint(lan, length):
	"""hdr_len is not to be trusted (5.1.6.2.2): the frame crosses whatever it says."""
	a, b = plug_offloads(lan, 0)
	frame, header = offload(FLOWS[4], frames.TCP, body(3000), GSO_TCPV4, 1000, hdr_len=length)
	a.send(frame, header)
	for _ in range(3):
		assert len(frames.parse(b.receive()[1]).payload) == 1000


BAD_OFFLOADS = {
	"checksum starts past the end": {"csum_start": 60000},
	"checksum lies past the end": {"csum_offset": 60000},
	"checksum lies across the end": {"csum_start": 1000, "csum_offset": 1053 - 1000},
	"start and offset overflow": {"csum_start": 65535, "csum_offset": 65535},
	"no segment size": {"gso_type": GSO_TCPV4, "gso_size": 0},
	"unknown segmentation": {"gso_type": 2, "gso_size": 500},
	"all kinds of segmentation": {"gso_type": 0x7f, "gso_size": 500},
	"IPv6 segmentation of IPv4": {"gso_type": GSO_TCPV6, "gso_size": 500},
	"UDP segmentation of TCP": {"gso_type": GSO_UDP_L4, "gso_size": 500},
	"fragmentation was not negotiated": {"gso_type": GSO_UDP, "gso_size": 500},
	"segmentation without a checksum": {"flags": 0, "gso_type": GSO_TCPV4, "gso_size": 500},
	"ECN alone": {"gso_type": GSO_ECN, "gso_size": 500},
}


@pytest.mark.parametrize("receiver", (0, NET_RECEIVE_OFFLOADS), ids=["simple", "offloads"])
@pytest.mark.parametrize("name", BAD_OFFLOADS)
def test_bad_offload_fields(lan, name, receiver):
	"""
	Nothing false may be delivered: the frame is dropped or the sender's queue broken. If one arrives after all,
	its fields fit it and its checksum is right.
	"""
	a, b = plug_offloads(lan, receiver)
	frame, header = offload(FLOWS[4], frames.TCP, body(1000), **BAD_OFFLOADS[name])
	try:
		a.send(frame, header, timeout=1)
	except TimeoutError:
		assert lan.server.wait_broken("interfaces", "a-net", 1)
	try:
		got, received = b.receive(0.3)
	except TimeoutError:
		pass
	else:
		assert got.gso_type in (GSO_NONE, GSO_TCPV4) and (got.gso_type == GSO_NONE) == (got.gso_size == 0)
		frames.parse(finished(got, received))
	neighbours_work(lan)


@pytest.mark.parametrize("length", range(0, 14 + 20 + 20, 3))
def test_segmentation_of_a_frame_cut_short(lan, length):
	a, b = plug_offloads(lan, 0)
	frame, header = offload(FLOWS[4], frames.TCP, body(3000), GSO_TCPV4, 1000)
	try:
		a.send(frame[:length], header, timeout=1)
	except TimeoutError:
		assert lan.server.wait_broken("interfaces", "a-net", 1)
	assert b.silent(0.2)
	neighbours_work(lan)


def test_offloads_that_were_not_negotiated(lan):
	"""The sender has neither CSUM nor TSO (5.1.6.2.1)."""
	a, b = plug_offloads(lan, NET_RECEIVE_OFFLOADS, sender=0)
	for gso, size in ((GSO_NONE, 0), (GSO_TCPV4, 500)):
		try:
			a.send(*offload(FLOWS[4], frames.TCP, body(1000), gso, size), timeout=1)
		except TimeoutError:
			assert lan.server.wait_broken("interfaces", "a-net", 1)
			break
	assert NET_GUEST_TSO4 & b.features
	neighbours_work(lan)
