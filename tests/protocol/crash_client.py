# SPDX-License-Identifier: BSD-3-Clause
"""
A disk's front-end that outlives its back-end: it keeps reads and writes in flight while the daemon is killed and comes
back, and knows at each moment what every sector of the image may hold.

The oracle: each write of a block has a number, and each of its sectors carries block and number. Time is the count of
events that the client saw (submissions, completions). A write may be found as long as no other one, acknowledged by now,
was submitted after it had been acknowledged itself: so the last acknowledged write or one that was in flight beside it
or later. Anything older was lost or came back from the dead, anything else is damage. While the daemon is dead the image
file itself is held against that: what was acknowledged must be there.

Completions are counted by the ring's driver, which refuses one for a buffer that is not outstanding. A request that was
in flight when the daemon died must complete after the reconnect, without being submitted again.
"""
import dataclasses
import os
import random
import select
import struct
import time

from .devices import BLK_HEADER, S_OK, SECTOR, T_IN, T_OUT, BlockDevice, Options

STAMP = struct.Struct("<QQ")	# block, number of the write
PENDING = 0xff


class IntegrityError(AssertionError):
	"""The disk holds what it must not."""


@dataclasses.dataclass
class Write:
	number: int
	submitted: int
	acknowledged: int = None


@dataclasses.dataclass
class Slot:
	"""A request's buffers, used again and again."""
	header: int
	data: int
	status: int
	block: int = 0
	submitted: int = 0
	write: Write = None		# None: a read


def sector_of(block, number):
	return STAMP.pack(block, number) * (SECTOR // STAMP.size)


class CrashClient(BlockDevice):
	"""@image: the file behind the disk. @blocks of @block_size are used from its start."""

	def __init__(self, socket_path, image, options=None, blocks=64, block_size=8192, depth=32, seed=0):
		self.image, self.blocks, self.block_size, self.depth = image, blocks, block_size, depth
		self.random = random.Random(seed)
		self.clock = 0
		self.numbers = [0] * blocks
		self.writes = [[Write(0, 0, 0)] for _ in range(blocks)]
		self.reading = [0] * blocks
		self.busy = {}			# (queue, identity) -> Slot
		self.submitted = self.completed = self.replayed = self.verified = 0	# requests; the last one: bytes
		options = options or Options()
		options.inflight = True
		options.queue_size = max(options.queue_size, 1 << (3 * depth - 1).bit_length())
		super().__init__(socket_path, options)
		self.free = [[Slot(self.memory.allocate(16), self.memory.allocate(block_size), self.memory.allocate(1))
			      for _ in range(depth)] for _ in self.queues]
		with open(image, "r+b") as file:
			for block in range(blocks):
				file.write(sector_of(block, 0) * (block_size // SECTOR))

	# -- the oracle

	def tick(self):
		self.clock += 1
		return self.clock

	def allowed(self, block, when):
		"""Numbers of the writes that may be found by one who looked at @when or later."""
		newest = max((write.submitted for write in self.writes[block]
			      if write.acknowledged is not None and write.acknowledged <= when), default=0)
		return {write.number for write in self.writes[block]
			if write.acknowledged is None or write.acknowledged >= newest}

	def check(self, block, data, when, where):
		allowed = self.allowed(block, when)
		for offset in range(0, self.block_size, SECTOR):
			sector = data[offset:offset + SECTOR]
			found, number = STAMP.unpack_from(sector)
			if found != block or number not in allowed or sector != sector_of(block, number):
				raise IntegrityError(f"{where}: block {block}, sector {offset // SECTOR}: write {number} of block"
						     f" {found}; allowed were {sorted(allowed)} of {self.numbers[block]}")
		self.verified += self.block_size

	def check_image(self, where):
		with open(self.image, "rb") as file:
			for block in range(self.blocks):
				self.check(block, file.read(self.block_size), self.clock, where)

	def prune(self, block):
		if not self.reading[block]:
			allowed = self.allowed(block, self.clock)
			self.writes[block] = [write for write in self.writes[block] if write.number in allowed]

	# -- requests

	def submit_one(self, queue):
		slot = self.free[queue].pop()
		slot.block = self.random.randrange(self.blocks)
		slot.submitted = self.tick()
		writes = self.random.random() < 0.8
		if writes:
			self.numbers[slot.block] += 1
			slot.write = Write(self.numbers[slot.block], slot.submitted)
			self.writes[slot.block].append(slot.write)
			content = sector_of(slot.block, slot.write.number) * (self.block_size // SECTOR)
			self.memory.write(slot.data, content)
		else:
			slot.write = None
			self.reading[slot.block] += 1
			self.memory.write(slot.data, b"\xee" * self.block_size)
		sector = slot.block * (self.block_size // SECTOR)
		self.memory.write(slot.header, BLK_HEADER.pack(T_OUT if writes else T_IN, 0, sector))
		self.memory.write(slot.status, bytes([PENDING]))
		identity = self.queues[queue].add([(slot.header, 16, False), (slot.data, self.block_size, not writes),
						   (slot.status, 1, True)], self.options.indirect)
		self.busy[queue, identity] = slot
		self.submitted += 1

	def fill(self):
		"""Bring every queue to its full depth, in one batch each."""
		for queue, slots in enumerate(self.free):
			while slots:
				self.submit_one(queue)
			self.publish(queue)

	def finish_one(self, key):
		slot = self.busy.pop(key)
		status = self.memory.read(slot.status, 1)[0]
		if status != S_OK:
			raise IntegrityError(f"a request of block {slot.block} was used with status {status:#x}")
		now = self.tick()
		if slot.write:
			slot.write.acknowledged = now
		else:
			self.reading[slot.block] -= 1
			self.check(slot.block, self.memory.read(slot.data, self.block_size), slot.submitted, "read")
		self.prune(slot.block)
		self.free[key[0]].append(slot)
		self.completed += 1

	def gather_used(self):
		"""Return: how many requests have completed since the last look."""
		done = [(queue.index, used.identity) for queue in self.queues for used in queue.collect()]
		for key in done:
			self.finish_one(key)
		return len(done)

	def drain(self, timeout=20.0):
		"""Wait for everything in flight, by calls alone."""
		for queue in self.queues:
			while queue.outstanding:
				for used in queue.poll(1, timeout, by_call=True, what="requests in flight"):
					self.finish_one((queue.index, used.identity))

	def work(self, seconds):
		"""Keep the queues full for a time."""
		deadline = time.monotonic() + seconds
		while time.monotonic() < deadline:
			if self.gather_used():
				self.fill()

	# -- crashes

	def choose_moment(self):
		"""Return at a moment to kill the daemon: anywhere in a batch, or when its first completions are seen."""
		self.drain()
		self.fill()
		if self.random.random() < 0.5:
			end = time.perf_counter() + self.random.random() * 0.002
			while time.perf_counter() < end:
				pass
			return
		deadline = time.monotonic() + 1
		skip = self.random.randrange(self.depth // 2)
		while time.monotonic() < deadline:
			# Only looked at: what is collected here would be an acknowledgement that the daemon outlived.
			if any(self.used_up_to(queue) > skip for queue in self.queues):
				return

	def used_up_to(self, queue):
		"""How many ring entries the device has given back and we have not yet taken."""
		if not queue.packed:
			return (self.memory.load16(queue.used + 2) - queue.used_idx) & 0xffff
		_, length, _, flags = struct.unpack("<QIHH", self.memory.read(queue.ring + 16 * queue.next_used, 16))
		return self.depth if bool(flags & 0x80) == bool(flags & 0x8000) == bool(queue.used_wrap) else 0

	def expect_calls(self):
		for queue in self.queues:
			if self.used_up_to(queue) and not select.select([queue.call_fd], [], [], 5)[0]:
				raise IntegrityError(f"queue {queue.index}: requests were used, and nobody was told")

	def survive(self, server):
		"""
		One death of the daemon @server at a random moment, and what follows. Return: how many requests were in
		flight when it died.
		"""
		self.work(self.random.random() * 0.02)
		self.choose_moment()
		server.process.kill()
		server.process.wait()
		# A driver that sleeps sees what was used only when it is woken, by the daemon that comes next if need be.
		asleep = self.random.random() < 0.3
		if not asleep:
			self.gather_used()
		in_flight = len(self.busy)
		self.check_image("image of the dead daemon")
		server.crash()
		server.start()
		self.reconnect()
		self.replayed += in_flight
		if asleep:
			self.expect_calls()
		if self.random.random() < 0.5:
			self.drain()
			self.check_image("image after the replay")
		return in_flight

	def settle(self):
		"""At the end: everything has completed exactly once, and reads agree with the image."""
		self.drain()
		if self.submitted != self.completed or self.busy:
			raise IntegrityError(f"{self.submitted} requests were submitted, {self.completed} completed")
		self.check_image("image at the end")
		sectors = self.block_size // SECTOR
		for block in range(self.blocks):
			self.check(block, self.read(block * sectors, self.block_size).data, self.clock, "read at the end")


def create_image(path, size=1 << 20):
	with open(path, "wb") as file:
		os.truncate(file.fileno(), size)
	return path
