# SPDX-License-Identifier: BSD-3-Clause
"""
virtio-net: the switch, every form of ring and of receive buffer (virtio 1.3, 5.1).
"""
import itertools
import time

import pytest

from . import frames
from .devices import Options
from .lan import MAC, pass_frames, warm

pytestmark = pytest.mark.deadline(60)


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
