# SPDX-License-Identifier: BSD-3-Clause
"""
The front-end's side of dirty logging ("Migration"): guest memory that knows what its driver wrote, the log, and a
copier that migrates the memory while device and driver write to it.

What the device wrote is what differs from the *shadow*: a second copy of the memory that gets the driver's writes only.
"""
import ctypes
import mmap
import os
import subprocess
import tempfile
import threading
from pathlib import Path

from . import vhost_user
from .memory import PAGE, GuestMemory
from .vhost_user import Protocol

HELPER = Path(__file__).with_name("dirty_copy.c")


class TrackedMemory(GuestMemory):
	"""Guest memory that repeats each write of the driver in a shadow, and then notes the page."""

	def __init__(self, *arguments, **keywords):
		super().__init__(*arguments, **keywords)
		for region in self.regions:
			region.shadow = bytearray(region.bytes)
			region.driver = bytearray(region.size // PAGE)

	def write(self, address, data):
		super().write(address, data)
		view = memoryview(data).cast("B")
		while len(view):
			region = self.find(address)
			start = address - region.guest_address
			part = min(len(view), region.size - start)
			region.shadow[start:start + part] = view[:part]
			for page in range(start // PAGE, (start + part - 1) // PAGE + 1):
				region.driver[page] = 1
			address, view = address + part, view[part:]

	def store16(self, address, value):
		super().store16(address, value)
		region = self.find(address)
		start = address - region.guest_address
		region.shadow[start:start + 2] = region.bytes[start:start + 2]
		region.driver[start // PAGE] = 1

	def device_wrote(self):
		"""Pages (guest address / PAGE) that the device wrote to since the last call; they join the shadow."""
		pages = set()
		for region in self.regions:
			now = bytes(region.bytes)
			if now == region.shadow:
				continue
			for start in range(0, region.size, PAGE):
				if now[start:start + PAGE] != region.shadow[start:start + PAGE]:
					pages.add((region.guest_address + start) // PAGE)
			region.shadow[:] = now
		return pages


class DirtyLog:
	"""A bitmap in shared memory, a bit for each page from address 0, as large as @memory needs or @size bytes."""

	def __init__(self, memory, size=None, offset=0):
		pages = max(region.end for region in memory.regions) // PAGE
		self.size = -(-pages // 64) * 8 if size is None else size
		self.offset = offset
		self.fd = os.memfd_create("dirty-log", os.MFD_CLOEXEC)
		os.ftruncate(self.fd, -(-(offset + self.size) // PAGE) * PAGE)
		self.map = mmap.mmap(self.fd, 0)
		self.bits = memoryview(self.map)[offset:]

	def pages(self):
		"""Which pages are marked, those past the end of the log included, which must never be."""
		return {8 * number + bit for number, byte in enumerate(bytes(self.bits)) if byte
			for bit in range(8) if byte >> bit & 1}

	def take(self):
		"""pages(), and clear them; nobody else may write."""
		pages = self.pages()
		self.bits[:] = bytes(len(self.bits))
		return pages

	def close(self):
		self.bits.release()
		self.map.close()
		os.close(self.fd)


class Logged:
	"""Mixed into a device of devices.py: tracked memory, and switches for logging."""
	extra_protocol = Protocol.LOG_SHMFD

	def make_memory(self):
		options = self.options
		return TrackedMemory(options.regions, options.region_size, options.region_gap,
				     offset=options.file_offset)

	def negotiate(self):
		self.wanted_protocol = type(self).wanted_protocol | self.extra_protocol
		super().negotiate()

	def log_to(self, log):
		self.connection.set_log_base(log.size, log.offset, log.fd)

	def log_features(self, on):
		self.connection.set_features(self.features | (vhost_user.F_LOG_ALL if on else 0))

	def log_ring(self, queue, on):
		descriptor, used, available = (self.memory.user(address) for address in queue.addresses())
		self.connection.set_vring_addr(queue.index, descriptor, used, available,
					       flags=vhost_user.VRING_ADDRESS_F_LOG if on else 0,
					       log=queue.addresses()[1])

	def start_logging(self, log):
		"""In the order that front-ends have: where, that, and then for each ring."""
		self.log_to(log)
		self.log_features(True)
		for queue in self.queues:
			self.log_ring(queue, True)

	def stop_logging(self):
		self.log_features(False)
		for queue in self.queues:
			self.log_ring(queue, False)

	def pause(self):
		"""All queues at rest: when this returns, all that the device writes is written, and marked."""
		for queue in self.queues:
			self.connection.set_vring_enable(queue.index, 0)

	def resume(self):
		for queue in self.queues:
			self.connection.set_vring_enable(queue.index, 1)

	def ring_pages(self, queues=None):
		"""Pages of the parts of the rings that a device writes."""
		pages = set()
		for queue in self.queues if queues is None else queues:
			parts = [(queue.ring, 16 * queue.size), (queue.device, 4)] if queue.packed else \
				[(queue.used, 6 + 8 * queue.size)]
			for address, size in parts:
				pages |= set(range(address // PAGE, (address + size - 1) // PAGE + 1))
		return pages


class CopiedRegion(ctypes.Structure):
	_fields_ = [("first_page", ctypes.c_uint64), ("pages", ctypes.c_uint64), ("source", ctypes.c_void_p),
		    ("target", ctypes.c_void_p), ("driver", ctypes.c_void_p)]


def load_helper():
	with tempfile.TemporaryDirectory(prefix="sidecore-test-") as folder:
		library = Path(folder) / "dirty_copy.so"
		subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, HELPER],
			       check=True)
		helper = ctypes.CDLL(str(library))
	helper.dirty_copy_run.restype = ctypes.c_uint64
	helper.dirty_copy_run.argtypes = [ctypes.POINTER(ctypes.c_uint32), ctypes.c_void_p, ctypes.c_size_t,
					  ctypes.POINTER(CopiedRegion), ctypes.c_size_t,
					  ctypes.POINTER(ctypes.c_uint64)]
	return helper


class Copier:
	"""
	Copies the memory of @device while it is written to, as a migration does. Logging is on.

		with Copier(device, log, helper) as copier:
			... traffic ...
			device.pause()
			assert not copier.differing()
	"""

	def __init__(self, device, log, helper):
		memory = device.memory
		self.helper, self.memory = helper, memory
		self.copies = [bytearray(region.size) for region in memory.regions]
		self.borrowed = []
		self.regions = (CopiedRegion * len(memory.regions))()
		for entry, region, copy in zip(self.regions, memory.regions, self.copies):
			region.driver[:] = b"\1" * len(region.driver)	# the first pass takes everything
			entry.first_page, entry.pages = region.guest_address // PAGE, region.size // PAGE
			entry.source = self.address(region.bytes)
			entry.target = self.address(copy)
			entry.driver = self.address(region.driver)
		self.log_address, self.words = self.address(log.bits), len(log.bits) // 8
		self.passes, self.copied = 0, ctypes.c_uint64()
		self.stop = ctypes.c_uint32()
		self.thread = None

	def __enter__(self):
		self.start()
		return self

	def __exit__(self, *_):
		self.join()
		self.borrowed.clear()

	def address(self, buffer):
		view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
		self.borrowed.append(view)
		return ctypes.addressof(view)

	def run(self):
		self.passes += self.helper.dirty_copy_run(self.stop, self.log_address, self.words, self.regions,
							  len(self.regions), self.copied)

	def start(self):
		self.stop.value = 0
		self.thread = threading.Thread(target=self.run, daemon=True)
		self.thread.start()

	def join(self):
		self.stop.value = 1
		self.thread.join()

	def differing(self):
		"""The queues are at rest: copy the last pages. Return: addresses of pages that differ all the same."""
		self.join()
		self.run()
		differing = []
		for region, copy in zip(self.memory.regions, self.copies):
			if region.bytes == copy:
				continue
			differing += [hex(region.guest_address + start) for start in range(0, region.size, PAGE)
				      if region.bytes[start:start + PAGE] != copy[start:start + PAGE]]
		self.start()
		return differing
