# SPDX-License-Identifier: BSD-3-Clause
"""
Dirty logging: whatever the device writes to guest memory while a migration is on lies in a page that is marked after
the write: data, used rings, status bytes, event suppression. And nothing else is marked.
"""
import os
import time

import pytest

from . import frames
from .devices import (NET_CTRL_RX, NET_CTRL_VQ, NET_MQ, S_IOERR, S_OK, SECTOR, T_GET_ID, T_IN, T_OUT, BlockDevice,
		      NetDevice, Options, cut_sizes)
from .dirty_log import Copier, DirtyLog, Logged, load_helper
from .lan import MAC, warm
from .memory import PAGE

RACE_SECONDS = 1.5
REGIONS = {"regions": 2, "region_size": 2 << 20}
RINGS = [pytest.param(packed, event_idx, id=("packed" if packed else "split") + ("-event" if event_idx else ""))
	 for packed in (False, True) for event_idx in (False, True)]


class LoggedNet(Logged, NetDevice):
	pass


class ControlledNet(LoggedNet):
	"""With a control queue, after the only pair (virtio 1.3, 5.1.2)."""

	def vring_count(self):
		return 3

	def wanted(self):
		return super().wanted() & ~NET_MQ | NET_CTRL_VQ | NET_CTRL_RX


class LoggedDisk(Logged, BlockDevice):
	apart = False	# what the device writes lies in pages of its own, so that no other mark can stand in

	def lay_out(self, data, cuts, writable):
		if not self.apart or not writable:
			return super().lay_out(data, cuts, writable)
		data = bytes(data)
		parts = []
		for length in cut_sizes(len(data), cuts):
			parts.append((self.memory.allocate(-(-length // PAGE) * PAGE, PAGE), length, True))
			self.memory.write(parts[-1][0], data[:length])
			data = data[length:]
		return parts


@pytest.fixture(scope="module")
def helper():
	return load_helper()


@pytest.fixture
def things():
	"""What is to be closed after the test, in reverse."""
	opened = []
	yield opened
	for thing in reversed(opened):
		thing.close()


@pytest.fixture
def disk(serve, things):
	def plug(**options):
		server = serve(networks=(), disks={"d": ("type: ram, size: 4M",
							 "queues: 2, serial: twenty-letter-serial")})
		device = LoggedDisk(server.path("d.sock"), Options(queues=2, **REGIONS, **options))
		things.append(device)
		return server, device
	return plug


@pytest.fixture
def net(serve, things):
	"""The card under test and its partner, on one network."""
	def plug(pairs=1, **options):
		server = serve(interfaces={name: f"queue_pairs: {pairs}, mac: {MAC[name[0]].hex(':')}"
					   for name in ("a-net", "b-net")})
		device = LoggedNet(server.path("a-net.sock"), Options(queues=pairs, **REGIONS, **options))
		things.append(device)
		partner = NetDevice(server.path("b-net.sock"))
		things.append(partner)
		device.fill_receive(24)
		partner.fill_receive(64)
		warm(device, partner)
		warm(partner, device)
		return server, device, partner
	return plug


def new_log(device, things, **keywords):
	log = DirtyLog(device.memory, **keywords)
	things.append(log)
	return log


def begin(device, log):
	"""Logging on, everything before it forgotten."""
	device.start_logging(log)
	device.pause()
	device.memory.device_wrote()
	log.take()
	device.resume()


def check(device, log, allowed=frozenset(), more=True):
	"""@allowed: pages of buffers that the device may have written since. Return: pages that it did write."""
	device.pause()
	wrote, marked = device.memory.device_wrote(), log.take()
	assert wrote <= marked, f"written, but not marked: {[hex(page * PAGE) for page in sorted(wrote - marked)]}"
	extra = marked - device.ring_pages() - allowed
	assert not extra, f"marked, but not to be written: {[hex(page * PAGE) for page in sorted(extra)]}"
	if more:
		device.resume()
	return wrote


def pages_of(parts):
	return {page for address, length, writable in parts if writable
		for page in range(address // PAGE, (address + length - 1) // PAGE + 1)}


def all_writable(device):
	"""Pages of the buffers of all requests under way."""
	return {page for request in device.requests.values()
		for parts in (request.into, request.status) for page in pages_of(parts)}


def receive_pages(device):
	return {page for parts in device.receive_buffers.values() for page in pages_of(parts)}


# ---- every byte ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("packed, event_idx", RINGS)
def test_disk_marks_all_that_it_writes(disk, things, packed, event_idx, indirect):
	_, device = disk(packed=packed, event_idx=event_idx, indirect=indirect, layout="scattered")
	device.apart = True
	log = new_log(device, things)
	begin(device, log)
	data = os.urandom(3 * PAGE)

	for queue in range(2):
		# (kind, keywords, what must have been written beside the ring)
		for kind, keywords, status in [
			(T_OUT, {"sector": 8, "out": data}, S_OK),
			(T_IN, {"sector": 8, "into": len(data)}, S_OK),
			(T_GET_ID, {"into": 20}, S_OK),
			(T_IN, {"sector": (4 << 20) // SECTOR, "into": SECTOR}, S_IOERR),
		]:
			key = device.submit(kind, queue=queue, **keywords)
			request, allowed = device.requests[key], all_writable(device)
			result = device.complete(queue)[key]
			assert result.status == status
			wrote = check(device, log, allowed)
			assert pages_of(request.status) <= wrote
			if request.into and status == S_OK:
				assert pages_of(request.into) <= wrote
			if kind == T_IN and status == S_OK:
				assert result.data == data


@pytest.mark.parametrize("mergeable", [True, False], ids=["mergeable", "whole"])
@pytest.mark.parametrize("packed, event_idx", RINGS)
def test_net_marks_all_that_it_writes(net, things, packed, event_idx, mergeable):
	_, device, partner = net(packed=packed, event_idx=event_idx, mergeable=mergeable, layout="scattered")
	log = new_log(device, things)
	begin(device, log)

	for number, size in enumerate((60, 1514, 700)):
		frame = frames.plain(MAC["a"], MAC["b"], size, fill=number)
		allowed = receive_pages(device)
		partner.send(frame)
		assert device.receive()[1] == frame
		assert check(device, log, allowed), "a frame came, and nothing was written"

		device.send(frames.plain(MAC["b"], MAC["a"], size, fill=number))
		check(device, log)


def test_merged_buffers_are_all_marked(net, things):
	"""One frame over many receive buffers, each in pages of its own."""
	_, device, partner = net(packed=False)
	while not device.silent(0.05):
		pass
	while device.receive_queue().outstanding:
		partner.send(frames.plain(MAC["a"], MAC["b"], 60))
		device.receive()
	log = new_log(device, things)
	begin(device, log)
	queue = device.receive_queue()
	for _ in range(20):
		parts = [(device.memory.allocate(100, PAGE), 100, True)]
		device.receive_buffers[queue.index, queue.add(parts)] = parts
	queue.publish()
	queue.kick()
	buffers = receive_pages(device)
	frame = frames.plain(MAC["a"], MAC["b"], 1514, fill=7)
	partner.send(frame)
	header, received = device.receive()
	assert received == frame and header.num_buffers == 16
	assert len(check(device, log, buffers) & buffers) == 16


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_acknowledgement_of_a_control_command_is_marked(serve, things, packed):
	device = ControlledNet(serve(interfaces=["a-net"]).path("a-net.sock"), Options(packed=packed, **REGIONS))
	things.append(device)
	log = new_log(device, things)
	begin(device, log)
	promiscuous = [(device.memory.allocate(3), 3, False), (device.memory.allocate(1, PAGE), 1, True)]
	device.memory.write(promiscuous[0][0], bytes([0, 0, 1]))	# VIRTIO_NET_CTRL_RX, _PROMISC, on (5.1.6.5.1)
	device.memory.write(promiscuous[1][0], b"\xff")
	queue = device.queues[2]
	identity = queue.add(promiscuous)
	queue.publish()
	queue.kick()
	queue.wait_for(identity)
	assert device.memory.read(promiscuous[1][0], 1) == b"\0"
	assert pages_of(promiscuous) <= check(device, log, pages_of(promiscuous))


# ---- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_logging_is_switched_on_and_off_while_running(disk, things, packed):
	_, device = disk(packed=packed)
	log = new_log(device, things)
	data = os.urandom(PAGE)

	device.log_to(log)
	assert device.write(0, data).status == S_OK and device.read(0, PAGE).data == data
	assert not log.pages(), "marked before F_LOG_ALL"

	begin(device, log)
	key = device.submit(T_IN, 0, into=PAGE)
	allowed = all_writable(device)
	assert device.complete()[key].data == data
	assert check(device, log, allowed)

	device.stop_logging()
	log.take()
	assert device.read(0, PAGE).data == data
	device.pause()
	assert device.memory.device_wrote()
	assert not log.pages(), "marked without F_LOG_ALL"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_rings_are_logged_by_their_own_flag(disk, things, packed):
	"""VHOST_VRING_F_LOG is each ring's own; data and status are logged whatever it says."""
	_, device = disk(packed=packed, queue_size=1024)	# rings of more than a page
	log = new_log(device, things)
	begin(device, log)
	device.log_ring(device.queues[1], False)
	for number, queue in enumerate(device.queues):
		device.pause()
		device.memory.device_wrote()
		log.take()
		device.resume()
		device.submit(T_IN, 0, into=PAGE, queue=number)
		buffers = all_writable(device)
		device.complete(number)
		device.pause()
		wrote, marked = device.memory.device_wrote(), log.take()
		own = device.ring_pages([queue])
		assert buffers <= marked and wrote & own
		if number == 0:
			assert wrote & own <= marked
		else:
			assert not marked & own - buffers - device.ring_pages(device.queues[:1])
		device.resume()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_log_takes_the_place_of_another(net, things, packed):
	"""As when memory is plugged during a migration. Not a mark is made in the old one after the reply."""
	_, device, partner = net(packed=packed)
	old, new = new_log(device, things), new_log(device, things, offset=512)
	begin(device, old)
	for number in range(4):
		partner.send(frames.plain(MAC["a"], MAC["b"], 60, fill=number))
	device.log_to(new)
	device.pause()
	old.take()
	new.take()
	device.memory.device_wrote()
	device.resume()
	allowed = receive_pages(device)
	for number in range(8):
		partner.send(frames.plain(MAC["a"], MAC["b"], 60, fill=number))
	assert check(device, new, allowed)
	assert not old.pages()
	# The file's bytes before the offset are not the log.
	assert not any(new.map[:new.offset])


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_log_smaller_than_memory_is_not_overrun(disk, things, packed):
	server, device = disk(packed=packed)
	assert server.status()["disks"]["d"]["log_missed"] == 0
	data = os.urandom(PAGE)
	first = device.memory.regions[0].guest_address // PAGE
	log = new_log(device, things, size=first // 8 + 2)	# 16 pages of the first region, none of the second
	begin(device, log)
	for number in range(16):
		assert device.write(8 * number, data).status == S_OK
		assert device.read(8 * number, PAGE).data == data
	device.pause()
	wrote, marked = device.memory.device_wrote(), log.pages()
	assert {page for page in wrote if page < first + 16} <= marked
	assert max(marked, default=0) < first + 16, "marked past the end of the log"
	missed = server.status()["disks"]["d"]["log_missed"]
	assert missed > 0
	# A log that is large enough misses nothing more; what was missed stays counted.
	device.log_to(new_log(device, things))
	device.resume()
	assert device.read(0, PAGE).data == data
	device.pause()
	assert server.status()["disks"]["d"]["log_missed"] == missed


# ---- races -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed, event_idx", RINGS)
def test_disk_is_copied_while_it_writes(disk, things, helper, packed, event_idx):
	"""
	A page that is marked before it is written is lost when the copier comes in between and nobody writes to the
	page later: so there are many ends.
	"""
	_, device = disk(packed=packed, event_idx=event_idx)
	log = new_log(device, things)
	assert device.write(0, os.urandom(1 << 20)).status == S_OK
	device.start_logging(log)
	deadline, rounds = time.monotonic() + RACE_SECONDS, 0
	with Copier(device, log, helper) as copier:
		while time.monotonic() < deadline or rounds <= 20:
			count = 1 + rounds % 8
			for number in range(count):
				device.submit(T_IN, 8 * ((rounds * 37 + number * 5) % 200), into=PAGE, kick=False)
			device.publish()
			assert all(result.status == S_OK for result in device.complete(0, count).values())
			device.pause()
			differing = copier.differing()
			assert not differing, f"pages lost by the migration in round {rounds}: {differing}"
			device.resume()
			rounds += 1
	assert copier.passes > 10 * rounds


@pytest.mark.parametrize("packed, event_idx", RINGS)
def test_net_is_copied_while_it_writes(net, things, helper, packed, event_idx):
	_, device, partner = net(packed=packed, event_idx=event_idx)
	log = new_log(device, things)
	device.start_logging(log)
	deadline, rounds = time.monotonic() + RACE_SECONDS, 0
	with Copier(device, log, helper) as copier:
		while time.monotonic() < deadline or rounds <= 20:
			count = 1 + rounds % 4
			sent = [frames.plain(MAC["a"], MAC["b"], 1514, fill=rounds + number) for number in range(count)]
			for frame in sent:
				partner.transmit(frame, kick=frame is sent[-1])
			device.send(frames.plain(MAC["b"], MAC["a"], 200, fill=rounds))
			assert [device.receive()[1] for _ in sent] == sent
			device.fill_receive(count)
			partner.reap()
			partner.receive()
			partner.fill_receive(1)
			device.pause()
			differing = copier.differing()
			assert not differing, f"pages lost by the migration in round {rounds}: {differing}"
			device.resume()
			rounds += 1
	assert copier.passes > 10 * rounds


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_nothing_is_received_after_get_vring_base(net, packed):
	"""Frames keep coming; memory stays as it was when the last GET_VRING_BASE was answered."""
	_, device, partner = net(packed=packed)
	for number in range(32):
		partner.transmit(frames.plain(MAC["a"], MAC["b"], 200, fill=number))
	device.stop_queues()
	device.memory.device_wrote()
	deadline = time.monotonic() + 0.5
	while time.monotonic() < deadline:
		partner.reap()
		if partner.transmit_queue().room() > 8:
			partner.transmit(frames.plain(frames.BROADCAST, MAC["b"], 200))
	assert not device.memory.device_wrote()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_a_stopped_card_goes_on_where_it_was(net, packed):
	_, device, partner = net(packed=packed)
	device.start_queues(device.stop_queues())
	device.fill_receive(16)
	warm(partner, device)
	for number in range(8):
		frame = frames.plain(MAC["a"], MAC["b"], 200, fill=number)
		partner.send(frame)
		assert device.receive()[1] == frame
