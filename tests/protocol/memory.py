# SPDX-License-Identifier: BSD-3-Clause
"""
Guest memory as the front-end owns it: memfds with chosen guest addresses, gaps and file offsets.

Guest addresses, user addresses and file offsets of a region differ on purpose, so that a back-end which takes one for
the other finds nothing there. User addresses are numbers only; the protocol never asks that they be real.

Ring fields that the back-end reads concurrently are read and written through 16-bit views: the native conversion of
struct and memoryview is one load or store, that of struct with "<" goes byte by byte.
"""
import fcntl
import mmap
import os
import threading

PAGE = 4096
HUGE_PAGE = 2 << 20
USER_BASE = 0x7000_0000_0000
MFD_HUGETLB = getattr(os, "MFD_HUGETLB", 4)
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2

_fence = threading.Lock()


def fence():
	"""
	Full memory barrier: earlier stores are visible before later loads. Python has none, but an uncontended lock is
	taken with a locked instruction, which is one on x86 (and acquire/release with a dmb on Arm's outline atomics).
	"""
	with _fence:
		pass


def free_huge_pages():
	"""Free huge pages of 2 MiB; 0 where the default size is another."""
	with open("/proc/meminfo", encoding="ascii") as file:
		values = {line.split(":")[0]: int(line.split()[1]) for line in file}
	return values.get("HugePages_Free", 0) if values.get("Hugepagesize") == 2048 else 0


class Region:
	def __init__(self, guest_address, size, user_address, offset=0, huge=False, seal=False):
		self.guest_address, self.size, self.user_address, self.offset = guest_address, size, user_address, offset
		flags = os.MFD_CLOEXEC | (MFD_HUGETLB if huge else 0) | (os.MFD_ALLOW_SEALING if seal else 0)
		self.fd = os.memfd_create(f"guest-{guest_address:#x}", flags)
		unit = HUGE_PAGE if huge else PAGE
		os.ftruncate(self.fd, -(-(offset + size) // unit) * unit)
		if seal:
			fcntl.fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK)
		# From the beginning of the file: an offset need not be a multiple of the huge page that backs it.
		self.map = mmap.mmap(self.fd, os.fstat(self.fd).st_size, mmap.MAP_SHARED)
		self.whole = memoryview(self.map)
		self.bytes = self.whole[offset:offset + size]
		self.words = self.bytes.cast("H")
		self.free = [(0, size)]

	@property
	def end(self):
		return self.guest_address + self.size

	def entry(self):
		"""The region as the messages describe it."""
		return (self.guest_address, self.size, self.user_address, self.offset)

	def take(self, size, alignment):
		"""First fit. Return: offset, or None."""
		for position, (start, length) in enumerate(self.free):
			begin = -(-(self.guest_address + start) // alignment) * alignment - self.guest_address
			if begin + size <= start + length:
				rest = [(start, begin - start), (begin + size, start + length - begin - size)]
				self.free[position:position + 1] = [piece for piece in rest if piece[1]]
				return begin
		return None

	def give(self, offset, size):
		pieces = sorted(self.free + [(offset, size)])
		merged = [pieces[0]]
		for start, length in pieces[1:]:
			if merged[-1][0] + merged[-1][1] == start:
				merged[-1] = (merged[-1][0], merged[-1][1] + length)
			else:
				merged.append((start, length))
		self.free = merged

	def close(self):
		self.words.release()
		self.bytes.release()
		self.whole.release()
		self.map.close()
		os.close(self.fd)


class GuestMemory:
	"""
	@count regions of @size bytes, @gap bytes apart (0: adjacent, so that a buffer can cross), first at @base.
	@offset is where each region starts in its file.
	"""

	def __init__(self, count=1, size=16 << 20, gap=1 << 20, base=0x10_0000, offset=0, huge=False):
		if size % PAGE or offset % PAGE:
			raise ValueError("size and offset must be multiples of the page size")
		self.regions = []
		for number in range(count):
			guest = base + number * (size + gap)
			# Adjacent guest regions are far apart in user space and in reverse order: nothing may rely on either.
			user = USER_BASE + (count - number) * (4 << 30)
			self.regions.append(Region(guest, size, user, offset, huge))
		self.allocated = {}
		self.turn = 0

	def close(self):
		for region in self.regions:
			region.close()
		self.regions = []

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.close()

	def find(self, address):
		for region in self.regions:
			if region.guest_address <= address < region.end:
				return region
		raise IndexError(f"guest address {address:#x} is in no region")

	def user(self, address):
		region = self.find(address)
		return region.user_address + address - region.guest_address

	def table(self):
		"""Return: ([(guest, size, user, offset)], [fd])."""
		return [region.entry() for region in self.regions], [region.fd for region in self.regions]

	def hole(self):
		"""A guest address that no region covers, next to the last one."""
		return max(region.end for region in self.regions) + PAGE

	# -- bytes

	def write(self, address, data):
		view = memoryview(data).cast("B")
		while len(view):
			region = self.find(address)
			start = address - region.guest_address
			part = min(len(view), region.size - start)
			region.bytes[start:start + part] = view[:part]
			address, view = address + part, view[part:]

	def read(self, address, length):
		data = bytearray()
		while length:
			region = self.find(address)
			start = address - region.guest_address
			part = min(length, region.size - start)
			data += region.bytes[start:start + part]
			address, length = address + part, length - part
		return bytes(data)

	# -- shared 16-bit fields; addresses are even

	def load16(self, address):
		region = self.find(address)
		return region.words[(address - region.guest_address) >> 1]

	def store16(self, address, value):
		region = self.find(address)
		region.words[(address - region.guest_address) >> 1] = value & 0xffff

	# -- allocation

	def allocate(self, size, alignment=16, region=None):
		"""
		Return: guest address of @size free zeroed bytes. Without @region the regions take turns, so that rings
		and buffers of one test lie in different ones.
		"""
		if region is None:
			self.turn += 1
			order = [self.regions[(self.turn + step) % len(self.regions)] for step in range(len(self.regions))]
		else:
			order = [self.regions[region]]
		for candidate in order:
			offset = candidate.take(max(size, 1), alignment)
			if offset is not None:
				address = candidate.guest_address + offset
				self.allocated[address] = (candidate, offset, max(size, 1))
				self.write(address, bytes(size))
				return address
		raise MemoryError(f"no {size} bytes of guest memory left")

	def free(self, address):
		region, offset, size = self.allocated.pop(address)
		region.give(offset, size)
