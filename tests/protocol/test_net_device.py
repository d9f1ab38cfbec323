# SPDX-License-Identifier: BSD-3-Clause
"""
virtio-net on one network: the switch, every form of ring, offloads, and guests that mean harm. All expectations are of
virtio 1.3, 5.1 (paragraphs are given where they are not obvious).
"""
import itertools
import os
import random
import time

import pytest

from . import frames, vhost_user
from .devices import (GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, HDR_F_NEEDS_CSUM, NET_GUEST_CSUM,
		      NET_GUEST_TSO4, NET_GUEST_USO4, NET_HOST_USO, NET_RECEIVE_OFFLOADS, NET_SEND_OFFLOADS, NetDevice,
		      NetHeader, Options)
from .rings import F_INDIRECT, F_NEXT, F_WRITE, DESCRIPTOR, Raw

pytestmark = pytest.mark.deadline(60)

MAC = {name: frames.mac(f"52:54:00:00:00:0{number}") for number, name in enumerate("abc", 1)}


class Lan:
	"""A daemon with three interfaces on one network, and the devices that a test plugs in."""

	def __init__(self, server):
		self.server = server
		self.devices = []

	def plug(self, name, options=None, **choices):
		device = NetDevice(self.server.path(f"{name}-net.sock"), options or Options(**choices))
		self.devices.append(device)
		return device

	def pair(self, options):
		a, b = self.plug("a", options), self.plug("b", options)
		for device in (a, b):
			device.fill_receive(32 if options.queue_size >= 128 else 24)
		warm(a, b)
		warm(b, a)
		return a, b

	def close(self):
		for device in self.devices:
			device.close()


def warm(source, *targets):
	"""
	A ring starts upon a kick, that is some time after it: send until the first frame arrives, and throw away what
	was sent for that. Needs a few receive buffers.
	"""
	probe = frames.ethernet(frames.BROADCAST, frames.mac("02:00:00:00:00:99"), 0x88b6, bytes(50))
	for target in targets:
		deadline = time.monotonic() + 10
		while True:
			source.send(probe)
			if any(not target.silent(0.03, pair) for pair in range(target.options.queues)):
				break
			assert time.monotonic() < deadline, "no frame arrives"
	for target in targets:
		while any(not target.silent(0.02, pair) for pair in range(target.options.queues)):
			pass


@pytest.fixture
def lan(serve):
	lan = Lan(serve(interfaces={f"{name}-net": "queue_pairs: 4" for name in "abc"}))
	yield lan
	try:
		assert lan.server.alive()
	finally:
		lan.close()


def pass_frames(source, target, destination, count=8, size=200, refill=True):
	"""Send @count different frames one by one and see each arrive, unchanged and alone."""
	for number in range(count):
		sent = frames.plain(destination, MAC["a"], size + number * 13 % 1000, fill=number)
		source.send(sent)
		header, frame = target.receive()
		assert frame == sent
		assert header.gso_type == GSO_NONE and header.num_buffers == 1
		if refill:
			target.fill_receive(1)


# -- the switch


@pytest.fixture
def three(lan):
	devices = {name: lan.plug(name) for name in "abc"}
	for device in devices.values():
		device.fill_receive(64)
	warm(devices["a"], devices["b"], devices["c"])
	warm(devices["b"], devices["a"])
	while not devices["c"].silent(0.02):
		pass
	return devices


def test_broadcast_and_flood_reach_all_but_the_sender(three):
	for destination in (frames.BROADCAST, frames.mac("01:00:5e:00:00:01"), frames.mac("52:54:00:99:99:99")):
		sent = frames.plain(destination, MAC["a"], 100)
		three["a"].send(sent)
		assert three["b"].receive()[1] == sent and three["c"].receive()[1] == sent
		assert three["a"].silent(0.1)


def test_learned_address_is_not_flooded(three):
	three["b"].send(frames.plain(frames.BROADCAST, MAC["b"], 64))
	three["a"].receive()
	three["c"].receive()
	sent = frames.plain(MAC["b"], MAC["a"], 100)
	three["a"].send(sent)
	assert three["b"].receive()[1] == sent
	assert three["c"].silent()


def test_address_moves(three):
	"""The address is learned anew where it speaks last, as after a migration."""
	wanderer = frames.mac("52:54:00:00:77:77")
	for home, other in (("b", "c"), ("c", "b"), ("b", "c")):
		three[home].send(frames.plain(frames.BROADCAST, wanderer, 64))
		three["a"].receive()
		three[other].receive()
		sent = frames.plain(wanderer, MAC["a"], 100)
		three["a"].send(sent)
		assert three[home].receive()[1] == sent
		assert three[other].silent(0.2)


def test_unplugged_device_holds_nobody_up(three):
	three["b"].send(frames.plain(frames.BROADCAST, MAC["b"], 64))
	three["a"].receive()
	three["c"].receive()
	three["b"].close()
	time.sleep(0.2)
	for _ in range(20):
		three["a"].send(frames.plain(frames.BROADCAST, MAC["a"], 64))
		assert three["c"].receive()


def test_arp_crosses(three):
	sent = frames.arp_request(MAC["a"], "10.0.0.1", "10.0.0.2")
	three["a"].send(sent)
	assert frames.parse(three["b"].receive()[1][:42]).ethertype == frames.ETHERTYPE_ARP


@pytest.mark.parametrize("size", [14, 15, 59, 60, 1514, 1518])
def test_frame_sizes(three, size):
	sent = frames.plain(frames.BROADCAST, MAC["a"], size)
	three["a"].send(sent)
	received = three["b"].receive()[1]
	assert received[:size] == sent and not any(received[size:]), "only padding may be added"


# -- every form of ring


@pytest.mark.parametrize("packed, indirect, event_idx, in_order, mergeable", itertools.product((False, True), repeat=5))
def test_matrix(lan, packed, indirect, event_idx, in_order, mergeable):
	"""More than twice around rings of 64, both ways, one by one and in batches."""
	a, b = lan.pair(Options(packed=packed, indirect=indirect, event_idx=event_idx, in_order=in_order,
				mergeable=mergeable, queue_size=64, region_size=32 << 20))
	pass_frames(a, b, frames.BROADCAST, 80)
	pass_frames(b, a, frames.BROADCAST, 20)
	for batch in range(10):
		sent = [frames.plain(frames.BROADCAST, MAC["a"], 60 + number, fill=batch) for number in range(12)]
		for frame in sent:
			a.transmit(frame, kick=False)
		a.transmit_queue().kick()
		assert [b.receive(by_call=True)[1] for _ in sent] == sent
		b.fill_receive(len(sent))
		deadline = time.monotonic() + 5
		while a.transmit_queue().outstanding:
			a.reap()
			assert time.monotonic() < deadline, "transmit buffers do not come back"


@pytest.mark.parametrize("left, right", [
	(Options(), Options(packed=True)), (Options(packed=True, in_order=True), Options(event_idx=True)),
	(Options(mergeable=False), Options(packed=True)), (Options(regions=4, region_size=4 << 20), Options(regions=2)),
	(Options(memory_slots=True, status=True), Options(kick=False, call=False)),
	(Options(queue_size=256), Options(queue_size=16, packed=True)),
], ids=["packed", "in-order", "mergeable", "regions", "start", "sizes"])
def test_unlike_guests(lan, left, right):
	a, b = lan.plug("a", left), lan.plug("b", right)
	a.fill_receive(8)
	b.fill_receive(8)
	warm(a, b)
	warm(b, a)
	pass_frames(a, b, frames.BROADCAST, 40)
	pass_frames(b, a, frames.BROADCAST, 40)


@pytest.mark.parametrize("layout, packed, indirect", itertools.product(
	("together", "scattered"), (False, True), (False, True)))
def test_any_layout(lan, layout, packed, indirect):
	"""The header may lie anyhow across descriptors (2.7.4, 5.1.6.2)."""
	a, b = lan.pair(Options(layout=layout, packed=packed, indirect=indirect))
	pass_frames(a, b, frames.BROADCAST, 40)


@pytest.mark.parametrize("packed, event_idx", itertools.product((False, True), repeat=2))
def test_calls_can_be_suppressed(lan, packed, event_idx):
	a, b = lan.pair(Options(packed=packed, event_idx=event_idx))
	queue = b.receive_queue()
	pass_frames(a, b, frames.BROADCAST, 2)
	queue.want_calls(False)
	time.sleep(0.05)
	queue.take_call()
	pass_frames(a, b, frames.BROADCAST, 20)
	assert queue.take_call() == 0, "called though the driver asked for silence"
	queue.want_calls(True)
	a.send(frames.plain(frames.BROADCAST, MAC["a"], 64))
	assert b.receive(by_call=True)


@pytest.mark.parametrize("packed, event_idx", itertools.product((False, True), repeat=2))
def test_idle_device_wakes_by_its_kick(lan, packed, event_idx):
	a, b = lan.pair(Options(packed=packed, event_idx=event_idx))
	for pause in (0, 0.001, 0.01, 0.3, 1.0):
		time.sleep(pause)
		pass_frames(a, b, frames.BROADCAST, 1)


@pytest.mark.parametrize("packed", (False, True))
def test_queue_pairs(lan, packed):
	a, b = (lan.plug(name, packed=packed, queues=4) for name in "ab")
	for pair in range(4):
		b.fill_receive(40, pair=pair)
	warm(a, b)
	for pair, number in itertools.product(range(4), range(8)):
		sent = frames.plain(frames.BROADCAST, MAC["a"], 100 + number, fill=pair)
		a.send(sent, pair=pair)
		deadline = time.monotonic() + 5
		while True:	# where it arrives is the device's choice (5.1.6.5.6)
			found = [queue for queue in range(4) if b.ready(queue)]
			if found:
				assert b.receive(pair=found[0])[1] == sent
				break
			assert time.monotonic() < deadline, f"frame {number} of pair {pair} did not arrive"


# -- receive buffers


@pytest.mark.parametrize("packed, size", itertools.product((False, True), (64, 100, 256, 1024, 4096, 65536)))
def test_mergeable_buffers(lan, packed, size):
	a, b = (lan.plug(name, packed=packed) for name in "ab")
	b.fill_receive(min(120, (1 << 23) // size), size=size, cuts=[])
	warm(a, b)
	for length in (60, size - 12, size - 11, 1400):
		sent = frames.plain(frames.BROADCAST, MAC["a"], max(60, min(length, 1514)))
		a.send(sent)
		header, frame = b.receive()
		assert frame == sent
		assert header.num_buffers == -(-(len(sent) + 12) // size), "no more buffers than needed, all but the last full"


def test_frame_too_big_for_the_buffer_is_lost_alone(lan):
	a, b = lan.plug("a"), lan.plug("b", mergeable=False)
	b.fill_receive(16, size=512)
	warm(a, b)
	a.send(frames.plain(frames.BROADCAST, MAC["a"], 1000))
	sent = frames.plain(frames.BROADCAST, MAC["a"], 400)
	a.send(sent)
	assert b.receive()[1] == sent


def test_receiver_without_buffers_holds_nobody_up(three):
	drained = three["b"].receive_queue()
	for number in range(200):
		three["a"].send(frames.plain(frames.BROADCAST, MAC["a"], 100 + number))
		three["c"].receive()
		three["c"].fill_receive(1)
	assert len(drained.outstanding) <= 64
	while not three["b"].silent(0.2):
		pass
	three["b"].fill_receive(8)
	sent = frames.plain(frames.BROADCAST, MAC["a"], 99)
	three["a"].send(sent)
	received = three["b"].receive()[1]
	while received != sent:
		received = three["b"].receive()[1]


# -- checksums and segmentation

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


# -- malformed rings

HEADER = 12
END = "end"			# stands for an address 32 bytes before the end of a region
HOLE = "hole"			# stands for an address that no region covers
GOOD = "good"			# stands for 4 KiB of zeroes
TABLE = "table"			# stands for a table of two indirect descriptors

# name: (formats, needs indirect, descriptors)
BAD_CHAINS = {
	"address in a hole": ("sp", 0, [Raw(HOLE, 100)]),
	"address in a hole, second": ("sp", 0, [Raw(GOOD, HEADER, F_NEXT), Raw(HOLE, 100)]),
	"address 0": ("sp", 0, [Raw(0, 100)]),
	"past the end of a region": ("sp", 0, [Raw(END, 100)]),
	"address wraps": ("sp", 0, [Raw((1 << 64) - 16, 100)]),
	"length of all ones": ("sp", 0, [Raw(GOOD, 0xffffffff)]),
	"user address": ("sp", 0, [Raw("user", 100)]),
	"no bytes": ("sp", 0, [Raw(GOOD, 0)]),
	"no bytes at its end": ("sp", 0, [Raw(GOOD, 100, F_NEXT), Raw(GOOD, 0)]),
	"no bytes in the middle": ("sp", 0, [Raw(GOOD, HEADER, F_NEXT), Raw(GOOD, 0, F_NEXT), Raw(GOOD, 100)]),
	"shorter than its header": ("sp", 0, [Raw(GOOD, HEADER - 1)]),
	"loop of one": ("s", 0, [Raw(GOOD, 100, F_NEXT, 0)]),
	"loop of two": ("s", 0, [Raw(GOOD, 100, F_NEXT), Raw(GOOD, 100, F_NEXT, 0)]),
	"next out of range": ("s", 0, [Raw(GOOD, 100, F_NEXT, 256)]),
	"next far out of range": ("s", 0, [Raw(GOOD, 100, F_NEXT, 0xffff)]),
	"chain without end": ("p", 0, [Raw(GOOD, 100, F_NEXT)] * 256),
	"wrong direction": ("sp", 0, [Raw(GOOD, 100, "wrong")]),
	"indirect not negotiated": ("sp", -1, [Raw(TABLE, 32, F_INDIRECT)]),
	"indirect table in a hole": ("sp", 1, [Raw(HOLE, 32, F_INDIRECT)]),
	"indirect table past the end": ("sp", 1, [Raw(END, 64, F_INDIRECT)]),
	"indirect table of no bytes": ("sp", 1, [Raw(TABLE, 0, F_INDIRECT)]),
	"indirect table of odd length": ("sp", 1, [Raw(TABLE, 31, F_INDIRECT)]),
	"indirect table shorter than an entry": ("sp", 1, [Raw(TABLE, 15, F_INDIRECT)]),
	"indirect table enormous": ("sp", 1, [Raw(TABLE, 0xfffffff0, F_INDIRECT)]),
	"indirect with next": ("sp", 1, [Raw(TABLE, 32, F_INDIRECT | F_NEXT), Raw(GOOD, 100)]),
	"nested indirect": ("sp", 1, [Raw("nested", 32, F_INDIRECT)]),
	"indirect next beyond the table": ("s", 1, [Raw("beyond", 32, F_INDIRECT)]),
	"indirect loop": ("s", 1, [Raw("loop", 32, F_INDIRECT)]),
	"indirect entry in a hole": ("sp", 1, [Raw("stray", 32, F_INDIRECT)]),
}
CASES = [(name, letter == "p") for name, (formats, _, _) in BAD_CHAINS.items() for letter in formats]


def make_bad(device, name, writable):
	"""The descriptors of a case, for a receive (@writable) or a transmit queue."""
	memory = device.memory
	write = F_WRITE if writable else 0
	good = memory.allocate(4096)
	table = memory.allocate(32)
	entries = {		# second entry of the table: address, length, flags, next
		TABLE: (good, 100, write, 0), "nested": (table, 32, F_INDIRECT, 0), "beyond": (good, 100, write | F_NEXT, 2),
		"loop": (good, 100, write | F_NEXT, 0), "stray": (memory.hole(), 100, write, 0),
	}
	addresses = {GOOD: good, HOLE: memory.hole(), END: memory.regions[0].end - 32, "user": memory.user(good)}
	parts = []
	for part in BAD_CHAINS[name][2]:
		if part.address in entries:
			address, length, flags, following = entries[part.address]
			packed = device.options.packed
			first = (good, HEADER, 0, write) if packed else (good, HEADER, write | F_NEXT, 1)
			second = (address, length, 0, flags & ~F_NEXT) if packed else (address, length, flags, following)
			memory.write(table, DESCRIPTOR.pack(*first) + DESCRIPTOR.pack(*second))
		address = table if part.address in entries else addresses.get(part.address, part.address)
		if part.flags == "wrong":
			flags = write ^ F_WRITE
		else:
			flags = part.flags | (0 if part.flags & F_INDIRECT else write)
		parts.append(part._replace(address=address, flags=flags))
	return parts


def bad_guest(lan, name, packed):
	needs = BAD_CHAINS[name][1]
	return lan.plug("a", Options(packed=packed, indirect=needs > 0, without=vhost_user.F_RING_INDIRECT_DESC if needs < 0 else 0))


def neighbours_work(lan):
	"""Two more interfaces, plugged in anew: frames cross between them."""
	for device in lan.devices[1:]:
		device.close()
	del lan.devices[1:]
	b, c = lan.plug("b"), lan.plug("c")
	c.fill_receive(32)
	warm(b, c)
	pass_frames(b, c, frames.BROADCAST, 4)


@pytest.mark.parametrize("name, packed", CASES, ids=[f"{name}-{'packed' if packed else 'split'}" for name, packed in CASES])
def test_malformed_transmit_chain(lan, name, packed):
	a, b = bad_guest(lan, name, packed), lan.plug("b")
	b.fill_receive(8)
	queue = a.transmit_queue()
	queue.add_raw(make_bad(a, name, False))
	queue.publish()
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	assert lan.server.broken("interfaces", "a-net", 0) is None, "the receive queue did nothing wrong"
	assert b.silent(0.1)
	neighbours_work(lan)


@pytest.mark.parametrize("name, packed", CASES, ids=[f"{name}-{'packed' if packed else 'split'}" for name, packed in CASES])
def test_malformed_receive_chain(lan, name, packed):
	a, b = bad_guest(lan, name, packed), lan.plug("b", mergeable=False)
	queue = a.receive_queue()
	queue.add_raw(make_bad(a, name, True))
	queue.publish()
	queue.kick(force=True)
	deadline = time.monotonic() + 10
	while not lan.server.broken("interfaces", "a-net", 0):	# buffers are looked at when a frame comes
		b.send(frames.plain(frames.BROADCAST, MAC["b"], 64))
		assert time.monotonic() < deadline, "the receive queue is not broken"
		time.sleep(0.02)
	neighbours_work(lan)


@pytest.mark.parametrize("head", [256, 257, 0xffff])
def test_head_out_of_range(lan, head):
	a = lan.plug("a")
	queue = a.transmit_queue()
	queue.write_avail(0, head)
	queue.write_avail_idx(1)
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	neighbours_work(lan)


@pytest.mark.parametrize("idx", [257, 0x8000, 0xffff])
def test_available_index_runs_ahead(lan, idx):
	a = lan.plug("a")
	queue = a.transmit_queue()
	queue.write_avail_idx(idx)
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	neighbours_work(lan)


@pytest.mark.parametrize("packed", (False, True))
def test_enormous_frame(lan, packed):
	"""More than any frame can be: dropped or broken, never delivered in part."""
	a, b = lan.plug("a", packed=packed), lan.plug("b")
	b.fill_receive(200, size=4096, cuts=[])
	queue = a.transmit_queue()
	identity = queue.add([(a.memory.allocate(400_000), 400_000, False)])
	queue.publish()
	queue.kick(force=True)
	try:
		queue.wait_for(identity, 1)
	except TimeoutError:
		assert lan.server.wait_broken("interfaces", "a-net", 1)
	assert b.silent(0.2)
	neighbours_work(lan)


@pytest.mark.parametrize("packed", (False, True))
def test_broken_queue_is_named_and_signalled_and_mended(lan, packed):
	a = lan.plug("a", packed=packed)
	queue = a.transmit_queue()
	queue.add_raw([Raw(a.memory.hole(), 100)])
	queue.publish()
	queue.kick(force=True)
	reason = lan.server.wait_broken("interfaces", "a-net", 1)
	assert isinstance(reason, str) and "address" in reason.lower()
	deadline = time.monotonic() + 2
	while True:
		try:
			assert os.eventfd_read(queue.err_fd)
			break
		except BlockingIOError:
			assert time.monotonic() < deadline, "SET_VRING_ERR's descriptor was not signalled"
			time.sleep(0.02)
	a.close()
	again, b = lan.pair(Options(packed=packed))
	pass_frames(again, b, frames.BROADCAST, 4)
	assert lan.server.broken("interfaces", "a-net", 1) is None


def test_guest_that_rewrites_its_ring_all_the_time(lan):
	"""A storm of random descriptors and indices on one interface, frames between two others meanwhile."""
	generator = random.Random(4)
	b, c = lan.plug("b"), lan.plug("c")
	c.fill_receive(64)
	warm(b, c)
	for _ in range(12):
		with NetDevice(lan.server.path("a-net.sock"), Options(packed=generator.random() < 0.5)) as a:
			queue = a.transmit_queue()
			for _ in range(300):
				position = generator.randrange(queue.size)
				address = generator.choice([a.memory.regions[0].guest_address, a.memory.hole(), 0, generator.getrandbits(64)])
				queue.write_descriptor(position, address, generator.choice([0, 11, 64, 4096, 0xffffffff]),
						       generator.getrandbits(16), generator.getrandbits(16))
				if not queue.packed:
					queue.write_avail(position, generator.randrange(queue.size + 2))
					queue.write_avail_idx(generator.choice([1, position, queue.size, generator.getrandbits(16)]))
				queue.kick(force=True)
			sent = frames.plain(MAC["c"], MAC["b"], 777)
			b.send(sent)
			while c.receive()[1] != sent:	# what the storm sends may be valid by chance
				c.fill_receive(1)
		while not c.silent(0.1):
			pass
		c.fill_receive(64 - len(c.receive_queue().outstanding) // 2)
