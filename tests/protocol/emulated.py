# SPDX-License-Identifier: BSD-3-Clause
"""
Drivers of emulated devices that can be told to do wrong: NVMe (NVM Express Base 2.0, PCIe Transport 1.0) and Intel's Gigabit
cards (8254x manual; 82574 and 82576 data sheets), on the vfio-user client. Written from the specifications.

Doorbells are written by message, so that each is done when the call returns, or into the mapped window (.window).
"""
import os
import struct
import time

from .vfio_user import CONFIG_REGION, Connection, Memory, Window

PAGE = 4096
MEGABYTE = 1 << 20


def wait_for(predicate, what, timeout=10.0):
	deadline = time.monotonic() + timeout
	while True:
		value = predicate()
		if value:
			return value
		assert time.monotonic() < deadline, what
		time.sleep(0.001)


class Guest:
	"""A connection, and memory from address 0 on: @size bytes, and a page of the same file behind it that is not the guest's."""

	def __init__(self, path, size=4 * MEGABYTE):
		self.connection = Connection(path)
		self.size = size
		self.memory = Memory(size + PAGE)
		self.canary = os.urandom(PAGE)
		self.memory.map[size:] = self.canary
		self.map()
		self.window = None

	def map(self):
		self.connection.dma_map(0, self.size, 0, self.memory.fd)
		self.connection.write(CONFIG_REGION, 4, b"\6\0")

	def open_window(self):
		self.window = Window(self.connection.region_info(0))
		return self.window

	def read(self, offset):
		return self.connection.read32(0, offset)

	def write(self, offset, value):
		self.connection.write32(0, offset, value & 0xffffffff)

	def poke(self, address, data):
		self.memory.map[address:address + len(data)] = data

	def peek(self, address, length):
		return bytes(self.memory.map[address:address + length])

	def untouched(self):
		return bytes(self.memory.map[self.size:]) == self.canary

	def close(self):
		if self.window:
			self.window.close()
		self.connection.close()
		self.memory.close()


# -- NVMe

CC, CSTS, NSSR, AQA, ASQ, ACQ = 0x14, 0x1c, 0x20, 0x24, 0x28, 0x30
READY, FATAL = 1, 2
ENABLE = 1 | 6 << 16 | 4 << 20		# entries of 64 and 16 bytes
SUCCESS, INVALID_OPCODE, INVALID_FIELD, TRANSFER_ERROR, LBA_RANGE = 0, 1, 2, 4, 0x80
DELETE_SQ, CREATE_SQ, GET_LOG, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT, SET_FEATURES, GET_FEATURES, EVENT = 0, 1, 2, 4, 5, 6, 8, 9, 10, 12
FLUSH, WRITE, READ, COMPARE, ZEROES, DATASET = 0, 1, 2, 5, 8, 9
ADMIN_SUBMIT, ADMIN_COMPLETE, DATA = 0x1000, 0x2000, 0x100000
SGL_DATA, SGL_SEGMENT, SGL_LAST = 0x00, 0x20, 0x30


def command(opcode, nsid=0, prp1=0, prp2=0, dw10=0, dw11=0, dw12=0, dw13=0, flags=0):
	return struct.pack("<BBHIQQQQ6I", opcode, flags, 0, nsid, 0, 0, prp1, prp2, dw10, dw11, dw12, dw13, 0, 0)


def sgl(address, length, kind):
	return struct.pack("<QI3xB", address, length, kind)


class Pair:
	"""A submission and a completion queue of one number."""

	def __init__(self, guest, number, submit, complete, size):
		self.guest, self.number, self.submit, self.complete, self.size = guest, number, submit, complete, size
		self.tail = self.head = self.identifier = 0
		self.phase = 1

	def ring(self, value=None):
		self.guest.write(0x1000 + 64 * self.number, self.tail if value is None else value)

	def add(self, text, ring=True):
		"""Return: its identifier."""
		self.identifier = self.identifier + 1 & 0x7fff
		self.guest.poke(self.submit + 64 * self.tail, text[:2] + struct.pack("<H", self.identifier) + text[4:])
		self.tail = (self.tail + 1) % self.size
		if ring:
			self.ring()
		return self.identifier

	def take(self):
		"""Return: (identifier, status, result) of the next completion; None."""
		result, _, _, _, identifier, status = struct.unpack("<IIHHHH", self.guest.peek(self.complete + 16 * self.head, 16))
		if status & 1 != self.phase:
			return None
		self.head = (self.head + 1) % self.size
		self.phase ^= self.head == 0
		return identifier, status >> 1 & 0x7ff, result

	def taken(self):
		self.guest.write(0x1020 + 64 * self.number, self.head)

	def run(self, text, timeout=10.0):
		"""Return: the status."""
		identifier = self.add(text)
		done = wait_for(self.take, f"no completion of {text[:1].hex()}", timeout)
		self.taken()
		assert done[0] == identifier
		return done[1]


class Nvme(Guest):
	def __init__(self, path, **keywords):
		super().__init__(path, **keywords)
		self.start()

	def start(self, entries=32):
		self.poke(0, bytes(0x10000))
		self.write(AQA, (entries - 1) << 16 | (entries - 1))
		self.write(ASQ, ADMIN_SUBMIT)
		self.write(ASQ + 4, 0)
		self.write(ACQ, ADMIN_COMPLETE)
		self.write(ACQ + 4, 0)
		self.write(CC, ENABLE)
		self.admin = Pair(self, 0, ADMIN_SUBMIT, ADMIN_COMPLETE, entries)
		wait_for(lambda: self.read(CSTS) & READY, "the controller does not become ready")

	def disable(self):
		self.write(CC, 0)
		wait_for(lambda: not self.read(CSTS) & READY, "the controller does not stop")

	def create(self, number=1, size=32):
		submit, complete = 0x4000 + 0x8000 * number, 0x8000 + 0x8000 * number
		self.poke(submit, bytes(0x8000))
		assert self.admin.run(command(CREATE_CQ, prp1=complete, dw10=(size - 1) << 16 | number, dw11=1)) == SUCCESS
		assert self.admin.run(command(CREATE_SQ, prp1=submit, dw10=(size - 1) << 16 | number, dw11=number << 16 | 1)) == SUCCESS
		return Pair(self, number, submit, complete, size)

	def works(self):
		"""After its driver has reset it: data comes back."""
		self.disable()
		self.start()
		queue, data = self.create(), os.urandom(PAGE)
		self.poke(DATA, data)
		assert queue.run(command(WRITE, 1, DATA, dw10=8, dw12=7)) == SUCCESS
		self.poke(DATA, bytes(PAGE))
		assert queue.run(command(READ, 1, DATA, dw10=8, dw12=7)) == SUCCESS
		assert self.peek(DATA, PAGE) == data and self.untouched()
		return queue


# -- Intel's cards

CTRL, STATUS, RCTL, TCTL, RECEIVE, TRANSMIT, MRQC, RETA = 0, 8, 0x100, 0x400, 0x2800, 0x3800, 0x5818, 0x5c00
BASE, LENGTH, SRRCTL, HEAD, TAIL, CONTROL = 0, 8, 0xc, 0x10, 0x18, 0x28
RST, EN = 1 << 26, 2
PROMISCUOUS, BROADCAST, STRIP_CRC = 1 << 3, 1 << 15, 1 << 26
EOP, RS, DEXT = 1 << 24, 1 << 27, 1 << 29
CONTEXT = {"igb": DEXT | 2 << 20, "e1000e": DEXT, "e1000": DEXT}
SEND = {"igb": DEXT | 3 << 20, "e1000e": DEXT | 1 << 20, "e1000": DEXT | 1 << 20}
TSE = {"igb": 1 << 31, "e1000e": 1 << 26, "e1000": 1 << 26}
TX_RING, RX_RING, TX_BUFFER, RX_BUFFER, BUFFER = 0x10000, 0x20000, DATA, 0x200000, 2048


class Card(Guest):
	def __init__(self, path, model, **keywords):
		super().__init__(path, **keywords)
		self.model = model
		self.start()

	def start(self, count=64):
		self.count, self.transmit_tail, self.receive_head = count, 0, 0
		self.write(CTRL, self.read(CTRL) | 1 << 6)
		for ring, registers in ((TX_RING, TRANSMIT), (RX_RING, RECEIVE)):
			self.poke(ring, bytes(16 * count))
			for offset, value in ((BASE, ring), (BASE + 4, 0), (LENGTH, 16 * count), (HEAD, 0), (TAIL, 0)):
				self.write(registers + offset, value)
			if self.model == "igb":
				self.write(registers + CONTROL, 1 << 25)
		for number in range(count):
			self.poke(RX_RING + 16 * number, struct.pack("<QQ", RX_BUFFER + BUFFER * number, 0))
		self.write(RCTL, EN | PROMISCUOUS | BROADCAST | STRIP_CRC)
		self.write(TCTL, EN)
		self.write(RECEIVE + TAIL, count - 1)

	def post(self, descriptors, tail=None):
		"""@descriptors: (address, command, status) each."""
		for descriptor in descriptors:
			self.poke(TX_RING + 16 * self.transmit_tail, struct.pack("<QII", *descriptor))
			self.transmit_tail = (self.transmit_tail + 1) % self.count
		self.write(TRANSMIT + TAIL, self.transmit_tail if tail is None else tail)

	def sent(self):
		return self.read(TRANSMIT + HEAD) == self.transmit_tail

	def send(self, frame):
		self.poke(TX_BUFFER, frame)
		self.post([(TX_BUFFER, len(frame) | EOP | RS, 0)])
		wait_for(self.sent, "a frame is not sent")

	def received(self):
		"""Return: the next frame; None."""
		address, word = struct.unpack("<QQ", self.peek(RX_RING + 16 * self.receive_head, 16))
		if not word >> 32 & 1:
			return None
		frame = self.peek(RX_BUFFER + BUFFER * self.receive_head, word & 0xffff)
		self.poke(RX_RING + 16 * self.receive_head, struct.pack("<QQ", RX_BUFFER + BUFFER * self.receive_head, 0))
		self.write(RECEIVE + TAIL, self.receive_head)
		self.receive_head = (self.receive_head + 1) % self.count
		return frame

	def expect(self, frame):
		"""Receive @frame; others may come before it."""
		wait_for(lambda: self.received() == frame, "a frame does not arrive")

	def reset(self):
		self.write(CTRL, self.read(CTRL) | RST)
		self.start()
