# SPDX-License-Identifier: BSD-3-Clause
"""
Driver side of virtqueues: split (virtio 1.3, 2.7) and packed (2.8) behind one interface.

	identity = queue.add([(address, length, writable), ...], indirect=False)
	queue.publish()			# now the device may see what was added
	queue.kick()			# signals only if the device asks for it
	for used in queue.poll():	# Used(identity, length)

The driver is strict: a used entry for a buffer that is not outstanding, a length that exceeds what was writable, or
an index that ran past what was made available is a ProtocolError. It is also wary in what it makes available:
descriptor indices are handed out in reverse, buffer ids of packed chains are garbage but in the last descriptor,
where alone they count.

With in_order (VIRTIO_F_IN_ORDER) one used entry may stand for a batch: it names the last buffer of the batch and the
device skips the others (2.7.13, 2.8.12); these count as used in full.

Malformed rings: add_raw(), and the write_*() methods, which put any value into any field.
"""
import os
import select
import struct
import time
from typing import NamedTuple, Optional

from .memory import fence
from .vhost_user import Late, ProtocolError

F_NEXT, F_WRITE, F_INDIRECT = 1, 2, 4
F_AVAIL, F_USED = 1 << 7, 1 << 15
DESCRIPTOR = struct.Struct("<QIHH")		# split: address, length, flags, next; packed: address, length, id, flags

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2


class Used(NamedTuple):
	identity: int
	length: int


class Raw(NamedTuple):
	"""A descriptor as it shall stand in the ring. @next is relative to the first of the list; None: the following."""
	address: int
	length: int
	flags: int = 0
	next: Optional[int] = None


class Outstanding(NamedTuple):
	descriptors: list	# split: their indices; packed: as many items as ring entries taken
	writable: int
	table: Optional[int]	# guest address of an indirect table


def need_event(event, new, old):
	"""vring_need_event() of 2.7.10.1: was @event passed between @old and @new?"""
	return (new - event - 1) & 0xffff < (new - old) & 0xffff


class Queue:
	"""What both formats share: bookkeeping, notifications, polling."""
	packed = False

	def __init__(self, memory, index=0, size=256, event_idx=False, in_order=False):
		self.memory, self.index, self.size = memory, index, size
		self.event_idx, self.in_order = event_idx, in_order
		self.kick_fd, self.call_fd, self.err_fd = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3))
		self.outstanding = {}		# identity -> Outstanding, oldest first
		self.kicks = self.calls = 0
		self.calls_wanted = True
		self.place()

	def close(self):
		for fd in (self.kick_fd, self.call_fd, self.err_fd):
			os.close(fd)

	# -- adding

	def add(self, chain, indirect=False):
		"""Add one buffer of (address, length, writable) parts. Return: its identity, until it is used."""
		parts = [Raw(address, length, F_WRITE if writable else 0) for address, length, writable in chain]
		writable = sum(length for _, length, writable in chain if writable)
		table = None
		if indirect:
			table = self.memory.allocate(16 * len(parts))
			for number, part in enumerate(parts):
				self.memory.write(table + 16 * number, self.indirect_entry(number, part, len(parts)))
			parts = [Raw(table, 16 * len(parts), F_INDIRECT)]
		else:
			parts = [part._replace(flags=part.flags | F_NEXT) for part in parts[:-1]] + parts[-1:]
		return self.enqueue(parts, writable, table)

	def add_raw(self, parts):
		"""Add descriptors with flags as given, whatever they mean. The device may claim any writable length."""
		return self.enqueue(list(parts), 1 << 32, None)

	def room(self):
		"""Descriptors that are free."""
		return self.size - sum(len(item.descriptors) for item in self.outstanding.values())

	def retire(self, identity, length):
		item = self.outstanding.pop(identity)
		if length > item.writable:
			raise ProtocolError(f"queue {self.index}: used length {length}, but only {item.writable} bytes were writable")
		if item.table is not None:
			self.memory.free(item.table)
		self.release(item)
		return Used(identity, length)

	def retire_through(self, identity, length):
		"""Everything up to @identity is used. Return: ([Used], ring entries taken by them)."""
		if identity not in self.outstanding:
			raise ProtocolError(f"queue {self.index}: used identity {identity} was not outstanding")
		done, entries = [], 0
		for current in list(self.outstanding) if self.in_order else [identity]:
			item = self.outstanding[current]
			entries += len(item.descriptors)
			done.append(self.retire(current, length if current == identity else item.writable))
			if current == identity:
				break
		return done, entries

	# -- notifications

	def kick(self, force=False):
		"""Signal the device if it asked for it. Return: whether it was signalled."""
		fence()		# our index is visible before the device's wish is read (2.7.13.4.1, 2.8.21.3.1)
		wanted = self.kick_wanted()
		if wanted or force:
			os.eventfd_write(self.kick_fd, 1)
			self.kicks += 1
		return wanted

	def take_call(self):
		"""Return: how often the device signalled since the last time."""
		try:
			count = os.eventfd_read(self.call_fd)
		except BlockingIOError:
			return 0
		self.calls += count
		return count

	def poll(self, count=1, timeout=10.0, by_call=False, what="used buffers"):
		"""
		Wait for at least @count used buffers. @by_call trusts the device's call alone, so that a lost one shows.
		Return: list of Used, which may be longer.
		"""
		deadline = time.monotonic() + timeout
		done = self.collect()
		while len(done) < count:
			if self.calls_wanted:
				self.arm()
				fence()
				more = self.collect()
				if more:
					done += more
					continue
			left = deadline - time.monotonic()
			if left <= 0:
				raise Late(f"queue {self.index}: {what}: {len(done)} of {count} within {timeout} s"
					   f" ({len(self.outstanding)} outstanding)")
			if self.calls_wanted:
				select.select([self.call_fd], [], [], left if by_call else min(left, 0.005))
				self.take_call()
			else:
				time.sleep(min(left, 0.0002))
			done += self.collect()
		return done

	def wait_for(self, identity, timeout=10.0, what="buffer", by_call=False):
		"""Poll until @identity is used. Return: its Used; others that were used are dropped."""
		deadline = time.monotonic() + timeout
		while True:
			for used in self.poll(1, max(deadline - time.monotonic(), 0), by_call, what):
				if used.identity == identity:
					return used


class SplitQueue(Queue):
	"""Descriptor table, available ring, used ring (2.7.5, 2.7.6, 2.7.8)."""

	def place(self):
		self.table = self.memory.allocate(16 * self.size, 16)
		self.avail = self.memory.allocate(6 + 2 * self.size, 2)
		self.used = self.memory.allocate(6 + 8 * self.size, 4)
		self.free = list(range(self.size))	# handed out from the end
		self.next_descriptor = 0		# in order: from the beginning of the table, round and round
		self.avail_idx = self.published = self.kicked = self.used_idx = 0

	def addresses(self):
		return self.table, self.used, self.avail

	def base(self):
		return self.used_idx

	@staticmethod
	def indirect_entry(number, part, count):
		last = number == count - 1
		return DESCRIPTOR.pack(part.address, part.length, part.flags | (0 if last else F_NEXT), 0 if last else number + 1)

	def enqueue(self, parts, writable, table):
		if len(parts) > self.room():
			raise MemoryError(f"queue {self.index}: {len(parts)} descriptors wanted, {self.room()} free")
		if self.in_order:
			indices = [(self.next_descriptor + step) % self.size for step in range(len(parts))]
			self.next_descriptor = (self.next_descriptor + len(parts)) % self.size
		else:
			indices = [self.free.pop() for _ in parts]
		for number, part in enumerate(parts):
			follower = number + 1 if part.next is None else part.next
			if 0 <= follower < len(indices):
				follower = indices[follower]
			self.write_descriptor(indices[number], part.address, part.length, part.flags, follower)
		self.write_avail(self.avail_idx, indices[0])
		self.avail_idx = (self.avail_idx + 1) & 0xffff
		self.outstanding[indices[0]] = Outstanding(indices, writable, table)
		return indices[0]

	def release(self, item):
		if not self.in_order:
			self.free += reversed(item.descriptors)

	def publish(self):
		self.write_avail_idx(self.avail_idx)
		self.published = self.avail_idx

	def kick_wanted(self):
		old, self.kicked = self.kicked, self.published
		if self.event_idx:
			event = self.memory.load16(self.used + 4 + 8 * self.size)
			return need_event(event, self.published, old)
		return not self.memory.load16(self.used) & USED_F_NO_NOTIFY

	def arm(self):
		"""Ask for a call at the next used buffer."""
		if self.event_idx:
			self.memory.store16(self.avail + 4 + 2 * self.size, self.used_idx)
		else:
			self.write_avail_flags(0)

	def want_calls(self, wanted):
		self.calls_wanted = wanted
		if self.event_idx:
			# Half the number space away is as far as "not now" can be said.
			self.memory.store16(self.avail + 4 + 2 * self.size, self.used_idx + (0 if wanted else 0x8000))
		else:
			self.write_avail_flags(0 if wanted else AVAIL_F_NO_INTERRUPT)

	def collect(self):
		done = []
		idx = self.memory.load16(self.used + 2)
		if (idx - self.used_idx) & 0xffff > len(self.outstanding):
			raise ProtocolError(f"queue {self.index}: used idx {idx} ran ahead of {self.used_idx} +"
					    f" {len(self.outstanding)} outstanding")
		while self.used_idx != idx:
			slot = self.used + 4 + 8 * (self.used_idx % self.size)
			identity, length = struct.unpack("<II", self.memory.read(slot, 8))
			retired, _ = self.retire_through(identity, length)
			done += retired
			if len(retired) > (idx - self.used_idx) & 0xffff:
				raise ProtocolError(f"queue {self.index}: used entry names a batch of {len(retired)}, idx does not")
			self.used_idx = (self.used_idx + len(retired)) & 0xffff
		return done

	# -- raw access

	def write_descriptor(self, position, address, length, flags, following=0):
		self.memory.write(self.table + 16 * position, DESCRIPTOR.pack(address, length, flags, following & 0xffff))

	def write_avail(self, position, head):
		self.memory.store16(self.avail + 4 + 2 * (position % self.size), head)

	def write_avail_idx(self, idx):
		self.memory.store16(self.avail + 2, idx)

	def write_avail_flags(self, flags):
		self.memory.store16(self.avail, flags)


class PackedQueue(Queue):
	"""Descriptor ring, driver and device event suppression areas (2.8.13, 2.8.14)."""
	packed = True

	def place(self):
		self.ring = self.memory.allocate(16 * self.size, 16)
		self.driver = self.memory.allocate(4, 4)
		self.device = self.memory.allocate(4, 4)
		self.next_avail = self.next_used = 0
		self.avail_wrap = self.used_wrap = 1
		self.identities = list(range(self.size))
		self.pending = None		# (position, flags) of the first head since publish()
		self.added = 0			# ring entries since the last kick
		self.unpublished = 0

	def addresses(self):
		return self.ring, self.device, self.driver

	def base(self):
		"""Bits 0-15 next available and its wrap counter, 16-31 next used ("Vring descriptor indices")."""
		half = self.next_used | self.used_wrap << 15
		return half | half << 16

	@staticmethod
	def indirect_entry(number, part, count):
		# Only WRITE is valid here; the table's length says how many (2.8.7).
		return DESCRIPTOR.pack(part.address, part.length, 0x5a5a, part.flags)

	def enqueue(self, parts, writable, table):
		if len(parts) > self.room() or not self.identities:
			raise MemoryError(f"queue {self.index}: {len(parts)} descriptors wanted, {self.room()} free")
		identity = self.identities.pop()
		head = None
		for number, part in enumerate(parts):
			flags = part.flags | (F_AVAIL if self.avail_wrap else F_USED)
			shown = identity if number == len(parts) - 1 else 0xa5a5
			position = self.next_avail
			self.memory.write(self.ring + 16 * position, struct.pack("<QIH", part.address, part.length, shown))
			if number == 0:
				head = (position, flags)
			else:
				self.write_flags(position, flags)
			self.next_avail += 1
			if self.next_avail == self.size:
				self.next_avail, self.avail_wrap = 0, self.avail_wrap ^ 1
		if self.pending is None:
			self.pending = head	# the device stops here until publish()
		else:
			self.write_flags(*head)
		self.unpublished += len(parts)
		self.outstanding[identity] = Outstanding([None] * len(parts), writable, table)
		return identity

	def release(self, item):
		pass

	def retire(self, identity, length):
		used = super().retire(identity, length)
		self.identities.insert(0, identity)
		return used

	def publish(self):
		if self.pending is not None:
			self.write_flags(*self.pending)
		self.pending = None
		self.added, self.unpublished = self.added + self.unpublished, 0

	def kick_wanted(self):
		added, self.added = self.added, 0
		offset, flags = self.memory.load16(self.device), self.memory.load16(self.device + 2) & 3
		if flags != EVENT_DESC:
			return flags == EVENT_ENABLE
		event, wrap = offset & 0x7fff, offset >> 15
		if wrap != self.avail_wrap:
			event -= self.size
		return need_event(event, self.next_avail, self.next_avail - added)

	def arm(self):
		if self.event_idx:
			self.memory.store16(self.driver, self.next_used | self.used_wrap << 15)
			self.memory.store16(self.driver + 2, EVENT_DESC)
		else:
			self.memory.store16(self.driver + 2, EVENT_ENABLE)

	def want_calls(self, wanted):
		self.calls_wanted = wanted
		if wanted:
			self.arm()
		else:
			self.memory.store16(self.driver + 2, EVENT_DISABLE)

	def collect(self):
		done = []
		while True:
			flags = self.memory.load16(self.ring + 16 * self.next_used + 14)
			if not bool(flags & F_AVAIL) == bool(flags & F_USED) == bool(self.used_wrap):
				return done
			_, length, identity, _ = DESCRIPTOR.unpack(self.memory.read(self.ring + 16 * self.next_used, 16))
			# Length is specified only where the device may have written (2.8.6: reserved if WRITE is clear).
			length = length if flags & F_WRITE else 0
			retired, entries = self.retire_through(identity, length)
			done += retired
			self.next_used += entries
			if self.next_used >= self.size:
				self.next_used, self.used_wrap = self.next_used - self.size, self.used_wrap ^ 1

	# -- raw access

	def write_descriptor(self, position, address, length, flags, identity=0):
		self.memory.write(self.ring + 16 * position, struct.pack("<QIH", address, length, identity & 0xffff))
		self.write_flags(position, flags)

	def write_flags(self, position, flags):
		self.memory.store16(self.ring + 16 * position + 14, flags)


def make_queue(packed, *arguments, **keywords):
	return (PackedQueue if packed else SplitQueue)(*arguments, **keywords)
