# SPDX-License-Identifier: BSD-3-Clause
"""
Guests of emulated devices that ring, reset, write registers and send nonsense without end: what that costs the neighbours
that share the sidecore (latency of a virtio disk's requests) and the control thread (latency of a trapped register of another
guest), before and meanwhile.
"""
import struct
import time

import pytest

from . import frames
from .devices import BlockDevice
from .emulated import (ASQ, CC, CONTEXT, CTRL, DATA, ENABLE, EN, EOP, NSSR, RCTL, RS, RST, SEND, STATUS, TAIL, TCTL, TRANSMIT, TSE, TX_BUFFER,
		       Card, Nvme, command)
from .test_hostile_floods import attackers, latencies, quantile
from .vfio_user import (ACCESS, CONFIG_REGION, DATA_EVENTFD, DATA_NONE, HEADER, MSIX, NO_REPLY, SINGLE_WRITE, TRIGGER,
			U64, Command, Connection)

# Latencies are compared: nothing else of ours should want the CPUs.
pytestmark = [pytest.mark.deadline(120), pytest.mark.alone]


@pytest.fixture
def field(serve):
	return serve(interfaces={f"{name}-net": "model: igb" for name in "abc"},
		     disks={"a-disk": ("type: ram, size: 16M", "model: nvme"), "n-disk": "type: ram, size: 1M"})


def accesses(connection, seconds):
	taken, end = [], time.monotonic() + seconds
	while time.monotonic() < end:
		begin = time.monotonic()
		connection.read32(0, STATUS)
		taken.append(time.monotonic() - begin)
	return sorted(taken)


def measure(disk, card, seconds):
	return latencies(disk, seconds / 2), accesses(card, seconds / 2)


def unmoved(server, *attacks, seconds=1.2, most=0.02):
	"""
	The neighbours' latencies stay bounded. @most: what the worst per cent of them may take longer, beside a multiple of what it
	took before. Return: rounds of the attacks.
	"""
	disk, card = BlockDevice(server.path("n-disk.sock")), Connection(server.path("b-net.sock"))
	measure(disk, card, 0.2)
	before = measure(disk, card, 0.8)
	with attackers(*attacks) as rounds:
		time.sleep(0.3)
		begun = rounds()
		during = measure(disk, card, seconds)
		done = rounds() - begun
	for name, quiet, loud in zip(("requests", "registers"), before, during):
		print(f"{name}: p50 {quantile(quiet, .5) * 1e6:.0f} -> {quantile(loud, .5) * 1e6:.0f} us, "
		      f"p99 {quantile(quiet, .99) * 1e6:.0f} -> {quantile(loud, .99) * 1e6:.0f} us, "
		      f"most {quiet[-1] * 1e6:.0f} -> {loud[-1] * 1e6:.0f} us, {done} rounds")
	for quiet, loud in zip(before, during):
		assert quantile(loud, .5) < 5 * quantile(quiet, .5) + 0.005
		assert quantile(loud, .99) < 5 * quantile(quiet, .99) + most
		# One long stop among thousands of requests shows nowhere else.
		assert loud[-1] < 5 * quiet[-1] + 0.25
	assert server.alive()
	disk.close()
	card.close()
	return done


def posted(writes):
	"""A REGION_WRITE_MULTI that wants no reply; @writes: (region, offset, value)."""
	payload = U64.pack(len(writes)) + b"".join(SINGLE_WRITE.pack(offset, region, 4, struct.pack("<Q", value)) for region, offset, value in writes)
	return HEADER.pack(1, Command.REGION_WRITE_MULTI, HEADER.size + len(payload), NO_REPLY, 0) + payload


def flood(kind, path, writes, stop):
	"""200 register writes a message, as many messages as are taken."""
	guest = kind(path)
	text = posted((writes * 200)[:200]) * 8
	while not stop.is_set():
		guest.connection.send_raw(text)
	guest.close()


def igb(path):
	return Card(path, "igb")


FLOODS = {
	"doorbells": (Nvme, "a-disk", [(0, 0x1000, 3), (0, 0x1000, 3), (0, 0x1040, 1)]),
	"enable and disable": (Nvme, "a-disk", [(0, CC, 0), (0, CC, ENABLE)]),
	"enable what cannot be": (Nvme, "a-disk", [(0, CC, 0), (0, ASQ, 0), (0, CC, ENABLE | 7 << 4)]),
	"subsystem resets": (Nvme, "a-disk", [(0, NSSR, 0x4e564d65)]),
	"bus master": (Nvme, "a-disk", [(CONFIG_REGION, 4, 6), (CONFIG_REGION, 4, 2)]),
	"tails": (igb, "a-net", [(0, TRANSMIT + TAIL, 0), (0, 0x2818, 0)]),
	"resets of the card": (igb, "a-net", [(0, CTRL, RST)]),
	"receive and transmit switched": (igb, "a-net", [(0, RCTL, 0), (0, RCTL, EN), (0, TCTL, 0), (0, TCTL, EN)]),
	"causes": (igb, "a-net", [(0, 0xc8, 4), (0, 0xd0, 4), (0, 0x1520, 0xffffffff), (0, 0x1524, 0xffffffff)]),
	"PHY and EEPROM": (igb, "a-net", [(0, 0x20, 1 << 26 | 1 << 21 | 0x5140), (0, 0x20, 1 << 26 | 1 << 21 | 0x1140), (0, 0x14, 1)]),
}


@pytest.mark.parametrize("name", FLOODS)
def test_registers_without_end(field, name):
	kind, socket, writes = FLOODS[name]
	unmoved(field, (flood, (kind, field.path(f"{socket}.sock"), writes)))


def read_all(path, stop):
	"""A thousand registers a message, and answers that are read late."""
	with Connection(path) as connection:
		text = HEADER.pack(1, Command.REGION_READ, HEADER.size + ACCESS.size, 0, 0) + ACCESS.pack(0x4000, 0, 4096)
		while not stop.is_set():
			connection.send_raw(text * 32)
			for _ in range(32):
				connection.recv()


def interrupts_about(path, stop):
	"""All vectors given and taken away."""
	with Connection(path) as connection:
		def text(flags, count):
			return HEADER.pack(1, Command.DEVICE_SET_IRQS, HEADER.size + 20, NO_REPLY, 0) + struct.pack("<IIIII", 20, flags, MSIX, 0, count)

		while not stop.is_set():
			connection.send_raw((text(DATA_EVENTFD | TRIGGER, 10) + text(DATA_NONE | TRIGGER, 0)) * 32)


def memory_about(path, stop):
	guest = igb(path)
	while not stop.is_set():
		guest.connection.dma_unmap(0, guest.size)
		guest.connection.read32(0, STATUS)
		guest.connection.dma_map(0, guest.size, 0, guest.memory.fd)
	guest.close()


def come_and_go(path, stop):
	guest = igb(path)
	guest.close()


@pytest.mark.parametrize("attack", (read_all, interrupts_about, memory_about, come_and_go), ids=lambda attack: attack.__name__)
def test_messages_without_end(field, attack):
	unmoved(field, (attack, (field.path("a-net.sock"),)))


def windows(path, kind, stop):
	"""Doorbells rung in the mapped page as fast as memory is: of queues that are there, and with nonsense now and then."""
	guest = kind(path)
	window = guest.open_window()
	if kind is Nvme:
		guest.create()
	places = (0x1000, 0x1020, 0x1040, 0x1060) if kind is Nvme else (TRANSMIT + TAIL, 0x2818, 0x1520, 0x1524, 0x1528)
	for number in range(200000):
		if stop.is_set():
			break
		for place in places:
			window.store(place, number & 31)
		if number % 20000 == 0:
			window.store(places[number // 20000 % len(places)], 0xffffffff)
	guest.close()


@pytest.mark.parametrize("kind", (Nvme, igb), ids=("nvme", "igb"))
def test_windows_without_end(field, kind):
	unmoved(field, (windows, (field.path("a-disk.sock" if kind is Nvme else "a-net.sock"), kind)))


def crumbs(path, friend, tunnel, stop):
	"""
	Frames of 64 KiB that are cut to segments of a byte; behind a tunnel by the card itself, which nobody limits to some number.
	They go to somebody who is known and does not receive: nothing slows the sender down.
	"""
	guest, other = igb(path), igb(friend)
	mac = frames.mac("52:54:00:00:00:03")
	other.send(frames.plain(frames.BROADCAST, mac, 60))
	other.write(RCTL, 0)
	guest.write(TRANSMIT + 8, 16 * 256)
	guest.count = 256
	network = 50 if tunnel else 20
	header = 14 + network + 20
	context = (14 << 9 | network, CONTEXT["igb"] | 1 << 11 | 1 << 10, (1 if tunnel else 43) << 16 | 20 << 8)
	frame = frames.ethernet(mac, frames.mac("52:54:00:00:00:01"), 0x0800, b"\x45" + bytes(8) + b"\6" + bytes(header))
	guest.poke(TX_BUFFER, frame)
	while not stop.is_set():
		guest.post([context, (TX_BUFFER, 65000 | SEND["igb"] | TSE["igb"] | EOP | RS, 0x300)] * 40)
		while not stop.is_set() and not guest.sent():
			time.sleep(0.001)
	guest.close()
	other.close()


@pytest.mark.parametrize("tunnel", (False, True), ids=("plain", "tunnel"))
def test_segments_without_end(field, tunnel):
	unmoved(field, (crumbs, (field.path("a-net.sock"), field.path("c-net.sock"), tunnel)))


def sctp(path, stop):
	guest = igb(path)
	context = (14 << 9 | 20, CONTEXT["igb"] | 2 << 11 | 1 << 10, 0)
	guest.poke(TX_BUFFER, frames.plain(frames.BROADCAST, frames.mac("52:54:00:00:00:01"), 1500))
	while not stop.is_set():
		guest.post([context] + [(TX_BUFFER, 65000 | SEND["igb"] | EOP | RS, 0x200)] * 60)
		while not stop.is_set() and not guest.sent():
			time.sleep(0.001)
	guest.close()


def test_sums_without_end(field):
	unmoved(field, (sctp, (field.path("a-net.sock"),)))


def bad_commands(path, stop):
	"""The dearest commands: lists of a megabyte in pieces, that end in an error."""
	guest = Nvme(path)
	queue = guest.create(size=32)
	guest.poke(0x80000, b"".join(struct.pack("<QI3xB", DATA, 0, 0) for _ in range(1023)) + struct.pack("<QI3xB", DATA, 1, 0))
	text = command(2, 1, dw12=7, flags=0x40)
	text = text[:24] + struct.pack("<QI3xB", 0x80000, 16 * 1024, 0x30) + text[40:]
	while not stop.is_set():
		for _ in range(31):
			queue.add(text, ring=False)
		queue.ring()
		while not stop.is_set() and queue.head != queue.tail:
			if not queue.take():
				time.sleep(0.0005)
		queue.taken()
	guest.close()


def test_commands_without_end(field):
	unmoved(field, (bad_commands, (field.path("a-disk.sock"),)))
