# SPDX-License-Identifier: BSD-3-Clause
"""
Holes that others had, seen from the emulated side: vfio-user, NVMe, Intel's cards. The rows are those of test_known_holes.py
and test_known_holes_running.py. After each attack: the daemon lives, what is not the guest's is untouched, neighbours on the
same sidecore are served, and the device works once its driver has reset it.
"""
import contextlib
import multiprocessing
import os
import struct
import time

import pytest

from . import frames
from .devices import S_OK, BlockDevice
from .emulated import (ABORT, AQA, ASQ, CC, COMPARE, CONTEXT, CREATE_CQ, CREATE_SQ, CSTS, DATA, DATASET, DELETE_SQ, ENABLE, EN,
		       EOP, EVENT, FATAL, GET_FEATURES, GET_LOG, HEAD, IDENTIFY, INVALID_FIELD, LENGTH, MEGABYTE, MRQC, NSSR, PAGE,
		       RCTL, READ, RECEIVE, RETA, RS, RX_RING, SEND, SET_FEATURES, SGL_DATA, SGL_LAST, SGL_SEGMENT, 
		       SUCCESS, TAIL, TCTL, TRANSFER_ERROR, TRANSMIT, TSE, TX_BUFFER, TX_RING, WRITE, ZEROES, BASE, Card, Nvme,
		       command, sgl, wait_for)
from .vfio_user import (ACCESS, CONFIG_REGION, DATA_BOOL, DATA_EVENTFD, DATA_NONE, DMA_MAP, DMA_UNMAP, INTX, IRQ_SET, MASK, MSIX, RW,
			SINGLE_WRITE, TRIGGER, U64, UNMASK, Command, Memory, Refused, eventfds)

pytestmark = pytest.mark.deadline(120)

MODELS = pytest.mark.parametrize("model", ("igb", "e1000e", "e1000"))
MACS = {name: frames.mac(f"52:54:00:00:00:0{number}") for number, name in enumerate(("a", "b", "c"), 1)}


class Field:
	"""A daemon with devices to offend, and neighbours: a disk, and two cards that talk to each other."""

	def __init__(self, serve, model="igb"):
		self.server = serve(interfaces={"a-net": f"model: {model}", "b-net": "model: igb", "c-net": "model: igb"},
				    disks={"a-disk": ("type: ram, size: 16M", "model: nvme"), "n-disk": "type: ram, size: 1M"})
		self.model, self.pid = model, self.server.pid
		self.disk = BlockDevice(self.server.path("n-disk.sock"))
		self.b, self.c = Card(self.server.path("b-net.sock"), "igb"), Card(self.server.path("c-net.sock"), "igb")
		self.open = [self.disk, self.b, self.c]

	def nvme(self, **keywords):
		self.open.append(Nvme(self.server.path("a-disk.sock"), **keywords))
		return self.open[-1]

	def card(self, **keywords):
		self.open.append(Card(self.server.path("a-net.sock"), self.model, **keywords))
		return self.open[-1]

	def leave(self, guest):
		guest.close()
		self.open.remove(guest)

	def status(self, name):
		status = self.server.status()
		return {**status["interfaces"], **status["disks"]}[name]

	def fault(self, name="a-net"):
		return self.status(name)["pci"]["fault"]

	def stopped(self, name="a-net"):
		return wait_for(lambda: self.fault(name), f"{name} goes on")

	@staticmethod
	def crosses(source, target, frame):
		"""Again until it arrives: what the attack has sent may still be in the way."""
		def arrived():
			while got := target.received():
				if got == frame:
					return True
			source.send(frame)
			return False

		wait_for(arrived, "no frame arrives")

	def neighbours_work(self):
		data = os.urandom(PAGE)
		assert self.server.alive() and self.server.pid == self.pid
		assert self.disk.write(8, data).status == S_OK and self.disk.read(8, PAGE).data == data
		self.crosses(self.b, self.c, frames.plain(MACS["c"], MACS["b"], 100, fill=data[0]))

	def card_works(self, card):
		"""After its driver has reset it: a frame each way."""
		card.reset()
		assert self.fault() is None
		self.crosses(card, self.b, frames.plain(MACS["b"], MACS["a"], 200, fill=7))
		self.crosses(self.b, card, frames.plain(MACS["a"], MACS["b"], 300, fill=9))
		assert card.untouched()

	def check(self, card=None, nvme=None):
		self.neighbours_work()
		if card:
			self.card_works(card)
		if nvme:
			nvme.works()

	def close(self):
		for thing in reversed(self.open):
			thing.close()


@pytest.fixture
def field(serve, request):
	field = Field(serve, request.node.callspec.params.get("model", "igb") if hasattr(request.node, "callspec") else "igb")
	yield field
	try:
		field.neighbours_work()
	finally:
		field.close()


# -- addresses, lengths, sums

def test_row_1_not_only_the_first_byte_is_translated_nvme(field):
	"""CVE-2018-1059: the start was checked, not the length. Rings and data that begin inside and end outside."""
	nvme = field.nvme()
	end = nvme.size
	assert nvme.admin.run(command(CREATE_CQ, prp1=end - PAGE, dw10=511 << 16 | 1, dw11=1)) == INVALID_FIELD
	assert nvme.admin.run(command(CREATE_CQ, prp1=end, dw10=1 << 16 | 1, dw11=1)) == INVALID_FIELD
	queue = nvme.create()
	assert nvme.admin.run(command(CREATE_SQ, prp1=end - PAGE, dw10=127 << 16 | 2, dw11=1 << 16 | 1)) == INVALID_FIELD
	for prp1, prp2, blocks in ((end - PAGE, end, 16), (end - 512, end, 2), (end, 0, 1), (2**64 - PAGE, 0, 8), (2**64 - 512, 0, 2),
				   (DATA, 2**64 - PAGE, 16), (DATA, end - 8, 64), (DATA, end - 16, 64)):
		nvme.poke(end - 16, struct.pack("<QQ", DATA, end))	# the next page of the list is nobody's
		status = queue.run(command(READ, 1, prp1, prp2, dw12=blocks - 1))
		assert status in (TRANSFER_ERROR, 0x13), (prp1, prp2, blocks, status)
	for address, length in ((end - 512, 1024), (end, 512), (2**64 - 512, 1024), (2**64 - 1, 1)):
		text = command(READ, 1, dw12=max(length // 512, 1) - 1, flags=0x40)
		assert queue.run(text[:24] + sgl(address, max(length, 512), SGL_DATA) + text[40:]) == TRANSFER_ERROR
	assert nvme.untouched()
	field.check(nvme=nvme)


@MODELS
def test_row_1_not_only_the_first_byte_is_translated_card(field, model):
	card = field.card()
	for address, length in ((card.size - 100, 200), (card.size, 60), (2**64 - 100, 200), (2**63, 1500)):
		card.post([(address, length | EOP | RS, 0)])
		assert "outside of memory" in field.stopped()
		field.card_works(card)
	for base, length in ((card.size - 128, 1024), (card.size, 128), (2**64 - 128, 256)):
		card.write(TRANSMIT + BASE, base)
		card.write(TRANSMIT + BASE + 4, base >> 32)
		card.write(TRANSMIT + LENGTH, length)
		card.write(TRANSMIT + TAIL, 1)
		assert "outside of memory" in field.stopped()
		field.card_works(card)
	card.poke(RX_RING, struct.pack("<QQ", card.size - 20, 0) * 8)
	field.b.send(frames.plain(MACS["a"], MACS["b"], 300))
	assert "outside of memory" in field.stopped()
	field.check(card)


def test_row_2_surplus_descriptors_and_repetitions(field):
	"""CVE-2019-14818: what came too much was kept, and each repetition allocated again."""
	nvme = field.nvme()
	connection = nvme.connection
	before = field.server.descriptors()
	events, memory = eventfds(8), Memory(PAGE)
	for number in range(100):
		count = number % 8 + 1
		set_one = IRQ_SET.pack(IRQ_SET.size, DATA_EVENTFD | TRIGGER, MSIX, 0, 1)
		if count > 1:
			assert isinstance(connection.refused(Command.DEVICE_SET_IRQS, set_one, events[:count]), int)
		connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, count, fds=events[:count])
		connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=events[:1])
		connection.set_irqs(DATA_EVENTFD | MASK, INTX, fds=events[1:2])
		place = DMA_MAP.pack(DMA_MAP.size, RW, 0, 1 << 32, PAGE)
		assert isinstance(connection.refused(Command.DMA_MAP, place, [memory.fd] * (count + 1)), int)
		assert isinstance(connection.refused(Command.REGION_READ, ACCESS.pack(0, 0, 4), events[:count]), int)
		assert isinstance(connection.refused(Command.DMA_READ, b"", events[:count]), int)
		connection.dma_map(1 << 32, PAGE, 0, memory.fd)
		assert isinstance(connection.refused(Command.DMA_MAP, place, [memory.fd]), int)
		connection.dma_unmap(1 << 32, PAGE)
	connection.set_irqs(DATA_NONE | TRIGGER, MSIX, count=0)
	# The two eventfds that (un)mask, and nothing else.
	assert field.server.settled(field.server.descriptors, before + 2) <= before + 2
	for event in events:
		os.close(event)
	memory.close()
	field.check(nvme=nvme)


TOP = 2**64 - PAGE


def test_row_3_sums_that_wrap(field):
	"""CVE-2020-10722: size and offset of 64 bits were added without a look."""
	nvme = field.nvme()
	connection, memory = nvme.connection, Memory(4 * PAGE)
	for offset, address, size in ((TOP, 1 << 40, PAGE), (TOP, 1 << 40, 2 * PAGE), (2 * PAGE, 1 << 40, TOP), (0, TOP, 2 * PAGE), (0, TOP, PAGE),
				      (0, 1 << 40, TOP), (4 * PAGE, 1 << 40, PAGE), (2**63, 1 << 40, PAGE)):
		text = DMA_MAP.pack(DMA_MAP.size, RW, offset, address, size)
		assert isinstance(connection.refused(Command.DMA_MAP, text, [memory.fd]), int), (offset, address, size)
	for address, size in ((0, TOP), (TOP, PAGE), (nvme.size - PAGE, TOP), (0, PAGE), (0, 2 * nvme.size)):
		assert isinstance(connection.refused(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, 0, address, size)), int)
	for region, offset, count in ((0, 2**64 - 4, 4), (0, 2**64 - 4, 8), (0, 0x3ffc, 8), (CONFIG_REGION, 4092, 8), (CONFIG_REGION, 2**32, 4),
				      (0, 2**32, 4), (0, 0, 2**32 - 1), (0, 4, 2**32 - 4), (CONFIG_REGION, 2**64 - 1, 2)):
		assert isinstance(connection.refused(Command.REGION_READ, ACCESS.pack(offset, region, count)), int), (region, offset, count)
		text = U64.pack(1) + SINGLE_WRITE.pack(offset, region, count, bytes(8))
		assert isinstance(connection.refused(Command.REGION_WRITE_MULTI, text), int)
	for start, count in ((0xffffffff, 2), (1, 0xffffffff), (0x80000000, 0x80000000), (17, 1), (0, 18), (16, 2)):
		text = IRQ_SET.pack(IRQ_SET.size, DATA_NONE | TRIGGER, MSIX, start, count)
		assert isinstance(connection.refused(Command.DEVICE_SET_IRQS, text), int), (start, count)
	for lba in (2**64 - 1, 2**64 - 8, 2**55, 2**63, 16 * MEGABYTE // 512, 16 * MEGABYTE // 512 - 1):
		for opcode in (READ, WRITE, COMPARE, ZEROES):
			assert nvme_io(nvme, opcode, lba, 8) == 0x80, (opcode, lba)
	memory.close()
	field.check(nvme=nvme)


def nvme_io(nvme, opcode, lba, blocks):
	if not getattr(nvme, "queue", None):
		nvme.queue = nvme.create()
	return nvme.queue.run(command(opcode, 1, DATA, dw10=lba & 0xffffffff, dw11=lba >> 32, dw12=blocks - 1))


def test_row_4_numbers_are_not_cut_before_they_are_checked(field):
	"""CVE-2020-10723: an index of 32 bits became one of 16, and then passed."""
	nvme = field.nvme()
	connection = nvme.connection
	for number in (1 << 8, 1 << 16, 1 << 24, 9, 0xffffffff):
		assert isinstance(connection.refused(Command.REGION_READ, ACCESS.pack(0, number, 4)), int), number
		assert isinstance(connection.refused(Command.DEVICE_SET_IRQS, IRQ_SET.pack(20, DATA_NONE | TRIGGER, number, 0, 1)), int)
		assert isinstance(connection.refused(Command.REGION_WRITE_MULTI, U64.pack(1 | number << 32) + SINGLE_WRITE.pack(0x14, 0, 4, bytes(8))), int)
	for number in (0, 17, 64, 65, 0x8001, 0xffff):
		assert nvme.admin.run(command(CREATE_CQ, prp1=DATA, dw10=1 << 16 | number, dw11=1)) == 0x101
		assert nvme.admin.run(command(DELETE_SQ, dw10=number)) == 0x101
	queue = nvme.create()
	# What is behind the 16 bits of a doorbell is nobody's.
	queue.add(command(FLUSH_ALL, 0xffffffff), ring=False)
	queue.ring(queue.tail | 0x10000)
	assert wait_for(queue.take, "a doorbell with more than 16 bits")[1] == SUCCESS
	queue.taken()
	queue.ring(queue.size)

	def reported():
		assert nvme.admin.run(command(GET_LOG, 0xffffffff, DATA, dw10=1 | 15 << 16)) == SUCCESS
		return struct.unpack_from("<QH", nvme.peek(DATA, 64))[1] == queue.number

	wait_for(reported, "the error log does not have it")
	field.check(nvme=nvme)


FLUSH_ALL = 0


# -- what changes while it is looked at

@contextlib.contextmanager
def mutating(guest, changes):
	"""A process that writes each of @changes, (address, [bytes, ...]), without end."""
	stop = multiprocessing.Event()

	def run():
		number = 0
		while not stop.is_set():
			for _ in range(500):
				number += 1
				for address, values in changes:
					value = values[number % len(values)]
					guest.memory.map[address:address + len(value)] = value

	process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
	process.start()
	try:
		yield
	finally:
		stop.set()
		process.join(10)
		process.kill()


def test_row_9_commands_and_lists_that_change_meanwhile(field):
	"""CVE-2020-14375: checked, then read again. Commands, PRP lists and SGL segments change as fast as they can."""
	nvme = field.nvme()
	queue = nvme.create()
	good = [struct.pack("<Q", DATA + PAGE * number) for number in range(64)]
	bad = [struct.pack("<Q", address) for address in (nvme.size, 2**64 - PAGE, 1, nvme.size - 8, 0x10008)]
	places = [(0x80000 + 8 * number, [good[number], *bad]) for number in range(0, 64, 3)]
	places += [(0x81000, [sgl(DATA, PAGE, SGL_DATA), sgl(nvme.size, PAGE, SGL_DATA), sgl(0x81000, 64, SGL_SEGMENT), sgl(DATA, 2**32 - 1, SGL_DATA)])]
	nvme.poke(0x80000, b"".join(good))
	nvme.poke(0x81000, sgl(DATA, PAGE, SGL_DATA) * 32)
	lists = command(READ, 1, DATA, 0x80000, dw12=511)
	segments = command(READ, 1, dw12=255, flags=0x40)
	segments = segments[:24] + sgl(0x81000, 512, SGL_LAST) + segments[40:]
	with mutating(nvme, places):
		for _ in range(300):
			assert queue.run(lists) in (SUCCESS, TRANSFER_ERROR, 0x13)
			assert queue.run(segments) in (SUCCESS, TRANSFER_ERROR, 0xd, 0xe, 0xf, 0x11)
	for name in range(16):
		places = [(queue.submit + 64 * slot + 4 * name, [struct.pack("<I", value) for value in (0, 0xffffffff, 1, 0x20, 0x7fffffff)])
			  for slot in range(queue.size)]
		with mutating(nvme, places):
			for _ in range(20):
				queue.add(lists)
				time.sleep(0.0005)
				while queue.take():
					pass
				queue.taken()
	assert nvme.untouched()
	field.check(nvme=nvme)


@MODELS
def test_row_9_descriptors_that_change_meanwhile(field, model):
	card = field.card()
	card.poke(TX_BUFFER, frames.plain(MACS["b"], MACS["a"], 1400))
	words = [struct.pack("<II", command, status) for command in (60 | EOP | RS, 1400 | EOP, 0xfffff | SEND[model] | TSE[model] | EOP, 60,
		 64 << 8 | CONTEXT[model] | TSE[model]) for status in (0, 0x5b40000 | 54 << 8, 0xffffffff)]
	places = [(TX_RING + 16 * slot, [struct.pack("<Q", address) for address in (TX_BUFFER, card.size - 8, 0x0e_220e_170e)]) for slot in range(64)]
	places += [(TX_RING + 16 * slot + 8, words) for slot in range(64)]
	places += [(RX_RING + 16 * slot, [struct.pack("<Q", address) for address in (0x200000, 0, card.size - 8)]) for slot in range(64)]
	with mutating(card, places):
		for number in range(150):
			card.write(TRANSMIT + TAIL, number % 64)
			field.b.send(frames.plain(MACS["a"], MACS["b"], 60 + number))
			if number % 4 == 0:
				card.reset()
	assert card.untouched()
	field.check(card)


@MODELS
def test_row_10_headers_longer_than_the_frame(field, model):
	"""CVE-2020-14378: what was left became less than nothing, and the loop had no end."""
	card = field.card()
	card.poke(TX_BUFFER, frames.plain(MACS["b"], MACS["a"], 1400))
	for header, mss, length in ((255, 1, 60), (255, 1, 254), (54, 0xffff, 54), (54, 0, 1400), (0, 1, 1400), (54, 1, 53), (255, 0xffff, 15)):
		status = mss << 16 | (header & 0xff) << 8
		card.post([(0x22_00_0022_170e | 50 << 40, CONTEXT[model] | TSE[model] | length, status),
			   (TX_BUFFER, length | SEND[model] | TSE[model] | EOP | RS, 3 << 8 | length << 14)])
		wait_for(lambda: card.sent() or field.fault(), "the descriptors are not used up")
		field.neighbours_work()
	field.check(card)


def test_row_10_sgl_lengths_that_do_not_add_up(field):
	nvme = field.nvme()
	queue = nvme.create()
	cases = [[(DATA, 0, SGL_DATA)] * 1024, [(DATA, 1, SGL_DATA)] * 511, [(DATA, 513, SGL_DATA)], [(DATA, 2**32 - 1, SGL_DATA)] * 2,
		 [(0x80000, 16, SGL_SEGMENT)], [(0x80000, 0, SGL_SEGMENT)], [(0x80000, 2**32 - 16, SGL_SEGMENT)], [(0x80000, 17, SGL_LAST)],
		 [(DATA, 0, SGL_DATA), (0x80000, 32, SGL_SEGMENT)], [(DATA, 512, 0x50)], [(DATA, 256, SGL_DATA), (DATA, 257, SGL_DATA)]]
	for case in cases:
		nvme.poke(0x80000, b"".join(sgl(*one) for one in case))
		for kind in (SGL_SEGMENT, SGL_LAST):
			text = command(READ, 1, dw12=0, flags=0x40)
			status = queue.run(text[:24] + sgl(0x80000, 16 * len(case), kind) + text[40:])
			assert status in (0xd, 0xe, 0xf, 0x11), (case[:2], kind, status)
	field.check(nvme=nvme)


# -- counts, loops

def test_row_17_counts_and_the_arrays_that_they_fill(field):
	"""CVE-2025-57275: sixteen places, filled with as many as the wire said."""
	nvme = field.nvme()
	connection = nvme.connection
	one = SINGLE_WRITE.pack(0x24, 0, 4, bytes(8))
	for said, given in ((0, 1), (2, 1), (1, 2), (2**64 - 1, 1), (2**61, 200), (201, 201), (1 << 32, 0)):
		assert connection.refused(Command.REGION_WRITE_MULTI, U64.pack(said) + one * given) not in ("accepted", "silent"), (said, given)
		if given > 200:		# larger than was agreed on: the stream is not believed any more
			field.leave(nvme)
			nvme = field.nvme()
			connection = nvme.connection
	for count in (0, 9, 0xffffffff):
		text = U64.pack(1) + SINGLE_WRITE.pack(0x24, 0, count, bytes(8))
		assert isinstance(connection.refused(Command.REGION_WRITE_MULTI, text), int)
	events = eventfds(20)
	for count in (0, 1, 19, 20):
		text = IRQ_SET.pack(IRQ_SET.size, DATA_EVENTFD | TRIGGER, MSIX, 0, 17)
		assert (connection.refused(Command.DEVICE_SET_IRQS, text, events[:count]) == "accepted") == (count == 0)
	assert isinstance(connection.refused(Command.DEVICE_SET_IRQS, IRQ_SET.pack(20, DATA_BOOL | TRIGGER, MSIX, 0, 17) + b"\1" * 16), int)
	for event in events:
		os.close(event)
	queue = nvme.create()
	nvme.poke(0x80000, struct.pack("<IIQ", 0, 1, 0) * 256)
	assert queue.run(command(DATASET, 1, 0x80000, dw10=255, dw11=4)) == SUCCESS
	for blocks in (2048, 2049, 65536):	# a transfer of 1 MiB is the largest
		assert (queue.run(command(READ, 1, DATA, 0x80000, dw12=blocks - 1)) == SUCCESS) is False
	for number in range(40):		# more than can be kept
		nvme.admin.add(command(EVENT))
		if number >= 4:
			assert wait_for(nvme.admin.take, "too many event requests are kept")[1] == 0x105
			nvme.admin.taken()
	field.check(nvme=nvme)


@MODELS
def test_row_17_frames_of_any_number_of_descriptors(field, model):
	card = field.card()
	card.write(TRANSMIT + LENGTH, 16 * 1024)
	card.count = 1024
	card.poke(TX_RING, bytes(16 * 1024))
	for count in (2, 255, 256):
		card.post([(TX_BUFFER, 1, 0)] * (count - 1) + [(TX_BUFFER, 1 | EOP | RS, 0)])
		wait_for(card.sent, f"{count} descriptors")
		assert field.fault() is None
	card.post([(TX_BUFFER, 1, 0)] * 300)
	assert "too many descriptors" in field.stopped()
	field.check(card)


@MODELS
def test_row_19_devices_do_not_reach_registers(field, model):
	"""CVE-2021-3416: DMA and loopback that ran into the device's own handlers. Registers are not memory, not even to oneself."""
	card = field.card()
	card.connection.dma_map(0xfebc0000, 0x20000)		# the BAR, as the VMM says it: without a file
	for address in (0xfebc0000, 0xfebc3818, 0xfebc0400):
		card.post([(address, 64 | EOP | RS, 0)])
		assert "outside of memory" in field.stopped()
		field.card_works(card)
	card.write(TRANSMIT + BASE, 0xfebc3800)
	card.write(TRANSMIT + TAIL, 1)
	assert "outside of memory" in field.stopped()
	card.reset()
	# Loopback: what is sent comes back through the rings, as often as it is sent, and no oftener.
	card.write(0x20, 1 << 26 | 1 << 21 | 0x5140)
	card.write(RCTL, card.read(RCTL) | 3 << 6)
	for number in range(100):
		sent = frames.plain(MACS["a"], MACS["a"], 100 + number)
		card.send(sent)
		card.expect(sent)
		assert card.received() is None
	card.write(0x20, 1 << 26 | 1 << 21 | 0x1140)
	field.check(card)


@MODELS
def test_row_20_transmit_descriptor_without_progress(field, model):
	"""CVE-2021-20257: a descriptor that made no progress kept the loop going."""
	card = field.card()
	nothing = [(0, 0, 0), (TX_BUFFER, 0, 0), (0, RS, 0), (0, SEND[model], 0), (0, CONTEXT[model], 0), (0, CONTEXT[model] | TSE[model], 1 << 16)]
	for descriptor in nothing:
		for _ in range(4):
			card.post([descriptor] * 62)
			field.neighbours_work()
		field.card_works(card)
	for descriptor in [(0, EOP | RS, 0), (TX_BUFFER, EOP | RS, 0), (0, SEND[model] | EOP | RS, 0)]:	# frames of no bytes are used up
		for _ in range(20):
			card.post([descriptor] * 62)
			wait_for(card.sent, "frames of no bytes are not used up")
		assert field.fault() is None
	for tail in (64, 100, 0xffff):
		card.write(TRANSMIT + TAIL, tail)
		assert "tail beyond" in field.stopped()
		field.card_works(card)
	for length, head in ((0, 0), (128, 8), (128, 0xffff)):
		card.write(TCTL, 0)
		card.write(TRANSMIT + LENGTH, length)
		card.write(TRANSMIT + HEAD, head)
		card.write(TCTL, EN)
		card.write(TRANSMIT + TAIL, 3)
		field.neighbours_work()
		field.card_works(card)
	field.check(card)


def test_row_20_lists_that_go_round(field):
	"""The same with NVMe: a PRP list that is its own next page, segments that name themselves."""
	nvme = field.nvme()
	queue = nvme.create()
	nvme.poke(0x80000, struct.pack("<Q", 0x80000) * 512)
	nvme.poke(0x82000, sgl(0x82000, 16, SGL_SEGMENT))
	nvme.poke(0x83000, sgl(DATA, 0, SGL_DATA) + sgl(0x83000, 32, SGL_SEGMENT))
	text = command(READ, 1, dw12=7, flags=0x40)
	for _ in range(50):
		assert queue.run(command(WRITE, 1, DATA, 0x80ff8, dw12=2047)) == SUCCESS	# each entry is a page of data, too
		assert queue.run(text[:24] + sgl(0x82000, 16, SGL_SEGMENT) + text[40:]) in (0xd, 0xe)
		assert queue.run(text[:24] + sgl(0x83000, 32, SGL_SEGMENT) + text[40:]) in (0xd, 0xe)
	field.check(nvme=nvme)


@MODELS
def test_row_21_receive_descriptors_of_address_zero(field, model):
	"""CVE-2020-28916: a null buffer kept the receiver going. Each uses up its descriptor; too many stop the card, and no sender."""
	card = field.card()
	empty = struct.pack("<QQ", 0, 0)
	card.poke(RX_RING, empty * 3)
	sent = frames.plain(MACS["a"], MACS["b"], 200)
	field.b.send(sent)
	wait_for(lambda: card.peek(RX_RING + 3 * 16 + 12, 1)[0] & 1, "the frame is not in the first buffer that there is")
	assert card.peek(0x200000 + 3 * 2048, 200) == sent
	card.reset()
	card.poke(RX_RING, empty * 64)
	for _ in range(200):
		field.b.send(sent)
	field.neighbours_work()
	card.write(RECEIVE + LENGTH, 16 * 1024)
	card.poke(RX_RING, empty * 1024)
	card.write(RECEIVE + TAIL, 1000)
	for _ in range(20):
		field.b.send(sent)
	assert "too small for a frame" in field.stopped()
	field.check(card)


# -- states

def test_row_22_nothing_that_a_guest_does_ends_the_daemon(field):
	"""CVE-2020-16092: an assertion that the guest could reach. Orders in any order, and values that nobody expects."""
	nvme = field.nvme()
	for cc in (0, ENABLE | 7 << 4, ENABLE | 15 << 7, ENABLE | 7 << 11, 0xffffffff, 1, ENABLE ^ 6 << 16, ENABLE | 1 << 14, ENABLE | 2 << 14):
		nvme.write(CC, 0)
		nvme.write(CC, cc)
		for doorbell in range(0x1000, 0x3000, 0x60):
			nvme.write(doorbell, 0xffffffff)
		field.neighbours_work()
	nvme.works()
	for asq, aqa in ((0xfffff000, 0x001f001f), (nvme.size, 0x001f001f), (nvme.size - PAGE, 0x0fff0fff), (0x1000, 0), (0x1000, 0xffffffff)):
		nvme.disable()
		nvme.write(ASQ, asq)
		nvme.write(AQA, aqa)
		nvme.write(CC, ENABLE)
		nvme.write(0x1000, 5)
		assert nvme.read(CSTS) & FATAL or not asq >> 12 != 1
		field.neighbours_work()
	nvme.works()
	for opcode in range(256):
		nvme.admin.run(command(opcode, 0xffffffff, 2**64 - 8, 2**64 - 8, 0xfffe, 0xfffffffe, 0xffffffff, 0xffffffff)) if opcode != EVENT else None
	queue = nvme.works()
	for opcode in range(256):
		for flags in (0, 0x40, 0x80, 0xc0, 0xff):
			queue.run(command(opcode, 1, 2**64 - 8, 2**64 - 8, 0xfffffff0, 0, 0xffff, 0xffffffff, flags))
	for _ in range(20):
		nvme.write(NSSR, 0x4e564d65)
		nvme.start()
	field.check(nvme=nvme)


@MODELS
def test_row_22_card(field, model):
	card = field.card()
	for unknown in range(16):
		card.post([(TX_BUFFER, 60 | EOP | RS | DEXT_ONLY | unknown << 20, 0xffffffff)])
		field.neighbours_work()
		field.card_works(card)
	for register in (*range(0, 0x200, 4), *range(0x2800, 0x2840, 4), *range(0x3800, 0x3840, 4), *range(0x1500, 0x1600, 4), 0x5818):
		for value in (0xffffffff, 0):
			card.write(register, value)
	card.connection.reset()
	card.connection.write(CONFIG_REGION, 4, b"\6\0")
	field.check(card)


DEXT_ONLY = 1 << 29


@MODELS
def test_row_23_contexts_that_change_within_a_frame(field, model):
	"""VirtualBox, 2018: descriptors were gone through twice, with another context the second time."""
	card = field.card()
	card.poke(TX_BUFFER, frames.plain(MACS["b"], MACS["a"], 4000))

	def context(header, mss, length):
		if model == "igb":
			return (14 << 9 | 20, CONTEXT[model] | 1 << 11 | 1 << 10, mss << 16 | (header - 34 & 0xff) << 8)
		return (14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40, CONTEXT[model] | TSE[model] | 3 << 24 | length, mss << 16 | header << 8)

	send = SEND[model] | TSE[model]
	for first, second in (((54, 1000), (255, 1)), ((255, 1), (54, 1000)), ((54, 1000), (54, 0)), ((54, 0), (54, 1000)), ((60, 65535), (34, 1))):
		for length in (10, 54, 100, 4000):
			card.post([context(*first, 4000), (TX_BUFFER, length | send, 0), context(*second, 1), (TX_BUFFER, 100 | send | EOP | RS, 0x300)])
			wait_for(card.sent, "the descriptors are not used up")
			card.post([context(*second, 0xfffff), (TX_BUFFER, 4000 | send | EOP | RS, 0x300 | 1 << 14)])
			wait_for(card.sent, "the descriptors are not used up")
	assert field.fault() is None
	field.check(card)


@MODELS
def test_row_24_queues_named_by_the_indirection_table(field, model):
	"""CVE-2024-6505: an entry of the table was used as the number of a queue."""
	card = field.card()
	for control in (0, 1, 2, 7 << 3 | 1, 0xffffffff, 0xff0000 | 2, 0xff0000 | 1):
		card.write(MRQC, control)
		for entry in (0xffffffff, 0x80808080, 0x10101010, 0x0f0f0f0f):
			for offset in range(0, 0x80, 4):
				card.write(RETA + offset, entry)
			for port in range(4):
				field.b.send(frames.plain(MACS["a"], MACS["b"], 100 + port))
		field.neighbours_work()
	card.write(MRQC, 0)
	field.check(card)


def test_row_27_offsets_and_numbers_out_of_bounds(field):
	"""CVE-2021-45464: configuration space and queue number without a bound."""
	nvme = field.nvme()
	connection = nvme.connection
	sizes = {region.index: region.size for region in connection.regions()}
	for index, size in sizes.items():
		for offset in (max(size, 1) - 1, size, size + 1, 2 * size, 2**31, 2**32 - 1, 2**32, 2**64 - 1):
			for count in (1, 2, 4, 4096):
				inside = offset + count <= size
				answer = connection.refused(Command.REGION_READ, ACCESS.pack(offset, index, count))
				assert (answer == "accepted") == inside, (index, offset, count)
	for vector in (17, 64, 65, 0xffff):
		assert nvme.admin.run(command(SET_FEATURES, dw10=9, dw11=vector)) == INVALID_FIELD
		assert nvme.admin.run(command(GET_FEATURES, dw10=9, dw11=vector)) == INVALID_FIELD
		assert nvme.admin.run(command(CREATE_CQ, prp1=DATA, dw10=1 << 16 | 1, dw11=vector << 16 | 3)) == 0x108
	for log, offset, words in ((2, 516, 1), (2, 2**32, 1), (2, 2**64 - 4, 1), (5, 4100, 1), (0xff, 0, 1)):
		text = command(GET_LOG, 0xffffffff, DATA, DATA + PAGE, dw10=(log | words - 1 << 16) & 0xffffffff, dw12=offset & 0xffffffff, dw13=offset >> 32)
		assert nvme.admin.run(text) in (INVALID_FIELD, 0x109), (log, offset, words)
	# More than there is of a page: that is zero, and nothing else is touched; more than a transfer may be: refused.
	nvme.poke(DATA, b"\xee" * 3 * PAGE)
	assert nvme.admin.run(command(GET_LOG, 0xffffffff, DATA, DATA + PAGE, dw10=2 | 1024 << 16, dw12=4)) == SUCCESS
	assert nvme.peek(DATA + 508, 4100 - 508) == bytes(4100 - 508) and nvme.peek(DATA + 4100, 16) == b"\xee" * 16
	assert nvme.admin.run(command(GET_LOG, 0xffffffff, DATA, DATA + PAGE, dw10=2 | 0xffff << 16, dw11=0xffff)) == INVALID_FIELD
	# Past the end of a page that is there: zeroes, and nothing of ours.
	nvme.poke(DATA, b"\xee" * PAGE)
	assert nvme.admin.run(command(GET_LOG, 0xffffffff, DATA, dw10=2 | 1023 << 16, dw12=512)) == SUCCESS
	assert nvme.peek(DATA, PAGE) == bytes(PAGE)
	for cns in range(256):
		nvme.poke(DATA, bytes(PAGE))
		nvme.admin.run(command(IDENTIFY, 1, DATA, dw10=cns))
		nvme.admin.run(command(ABORT, dw10=cns << 16 | 0xffff))
	field.check(nvme=nvme)


def test_row_28_quotas_and_lines(field):
	"""CVE-2021-3544 and others: what one guest may take of descriptors, mappings, and lines in the log."""
	nvme = field.nvme()
	connection = nvme.connection
	before, lines = field.server.descriptors(), len(field.server.log.read_text().splitlines())
	memories = [Memory(PAGE) for _ in range(80)]
	taken = 0
	for number, memory in enumerate(memories):
		with contextlib.suppress(Refused):
			connection.dma_map((1 << 32) + number * PAGE, PAGE, 0, memory.fd)
			taken += 1
	assert 0 < taken < 80
	made = 0
	for number in range(1100):
		with contextlib.suppress(Refused):
			connection.dma_map((1 << 33) + number * PAGE, PAGE)
			made += 1
	assert made < 1024
	for _ in range(2000):
		connection.refused(Command.REGION_READ, ACCESS.pack(0, 9, 4))
		nvme.write(CC, 0)
		nvme.write(CC, ENABLE | 7 << 4)
	assert len(field.server.log.read_text().splitlines()) < lines + 300
	field.leave(nvme)
	for memory in memories:
		memory.close()
	assert field.server.settled(field.server.descriptors, before) <= before
	field.check(nvme=field.nvme())


# -- clients that follow each other

@pytest.mark.parametrize("name", ("a-disk", "a-net"))
def test_windows_of_the_client_before(field, name):
	"""Who has gone may keep the page of doorbells that he was given: it must not be the next one's."""
	first = field.nvme() if name == "a-disk" else field.card()
	kept = first.open_window()
	first.window = None
	field.leave(first)
	place = 0x1040 if name == "a-disk" else 0x3800
	second = field.nvme() if name == "a-disk" else field.card()
	own = second.open_window()
	own.store(place, 0x1230)
	assert kept.load(place) != 0x1230
	kept.store(place, 0x4560)
	assert own.load(place) == 0x1230
	kept.close()
	for _ in range(30):
		second.close()
		second = field.open[-1] = Nvme(field.server.path("a-disk.sock")) if name == "a-disk" else Card(field.server.path("a-net.sock"), "igb")
		second.open_window()
	field.check(**({"nvme": second} if name == "a-disk" else {"card": second}))


def test_clients_that_leave_while_something_is_deferred(field):
	"""In the middle of a reset, of a queue that is deleted, of memory that goes: the next one finds a device."""
	for number in range(40):
		nvme = field.nvme()
		queue = nvme.create()
		for _ in range(31):
			queue.add(command(WRITE, 1, DATA, dw12=7), ring=False)
		queue.ring()
		kind = number % 5
		if kind == 0:
			nvme.connection.send(Command.DEVICE_RESET)
		elif kind == 1:
			nvme.admin.add(command(DELETE_SQ, dw10=1))
		elif kind == 2:
			nvme.connection.send(Command.DMA_UNMAP, DMA_UNMAP.pack(DMA_UNMAP.size, 0, 0, nvme.size))
		elif kind == 3:
			writes = [SINGLE_WRITE.pack(NSSR, 0, 4, struct.pack("<Q", 0x4e564d65))] * 20
			nvme.connection.send(Command.REGION_WRITE_MULTI, U64.pack(20) + b"".join(writes))
		else:
			nvme.connection.send(Command.REGION_WRITE, ACCESS.pack(CC, 0, 4) + bytes(4))
			nvme.connection.send(Command.DEVICE_RESET)
		field.leave(nvme)
		card = field.card()
		writes = [SINGLE_WRITE.pack(*((0, 0, 4, struct.pack("<Q", 1 << 26)) if number & 1 else (RCTL, 0, 4, struct.pack("<Q", EN * (i & 1)))))
			  for i in range(50)]
		card.connection.send(Command.REGION_WRITE_MULTI, U64.pack(50) + b"".join(writes))
		if number % 3:
			card.connection.send(Command.DEVICE_RESET)
		field.leave(card)
	field.check(field.card(), field.nvme())
