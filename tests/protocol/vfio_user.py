# SPDX-License-Identifier: BSD-3-Clause
"""
vfio-user client: commands, payload layouts and one connection.

Written from the specification (QEMU's docs/interop/vfio-user.rst) and linux/vfio.h, never from the server's sources, so
that the two can disagree. A Connection sends what it is told to, right or wrong: flags, size and file descriptors of each
message can be overridden, and send_raw() sends bytes that are no message at all. What is received is checked strictly: a
reply has the identifier and the command of its message, the reply flag, an error only with the error flag and then no
payload, and comes in time.

All numbers are little-endian, all structures packed. Regions and interrupts have the numbers of VFIO's PCI devices.
"""
import array
import enum
import errno
import json
import mmap
import os
import select
import socket
import struct
import time
from typing import NamedTuple

from .vhost_user import Closed, Late, ProtocolError, connect

HEADER = struct.Struct("<HHIII")		# identifier, command, size with the header, flags, error
VERSION_HEADER = struct.Struct("<HH")		# major, minor; JSON follows
DMA_MAP = struct.Struct("<IIQQQ")		# argsz, flags, file offset, address, size
DMA_UNMAP = struct.Struct("<IIQQ")		# argsz, flags, address, size
BITMAP = struct.Struct("<QQ")			# page size, bytes
DEVICE_INFO = struct.Struct("<IIII")		# argsz, flags, regions, interrupt indices
REGION_INFO = struct.Struct("<IIIIQQ")		# argsz, flags, index, capability offset, size, file offset
CAPABILITY = struct.Struct("<HHI")		# identifier, version, next
SPARSE = struct.Struct("<II")			# areas, reserved
AREA = struct.Struct("<QQ")			# offset, size
REGION_IO_FDS = struct.Struct("<IIII")		# argsz, flags, index, count
IRQ_INFO = struct.Struct("<IIII")		# argsz, flags, index, count
IRQ_SET = struct.Struct("<IIIII")		# argsz, flags, index, start, count; booleans follow
ACCESS = struct.Struct("<QII")			# offset, region, count; data follows
SINGLE_WRITE = struct.Struct("<QII8s")		# the same with eight bytes of data
U64 = struct.Struct("<Q")

TYPE_COMMAND, TYPE_REPLY, TYPE_MASK = 0, 1, 0xF
NO_REPLY, ERROR = 1 << 4, 1 << 5

READABLE, WRITEABLE = 1, 2
RW = READABLE | WRITEABLE
UNMAP_DIRTY_BITMAP, UNMAP_ALL = 1, 2

REGION_READ_FLAG, REGION_WRITE_FLAG, REGION_MMAP_FLAG, REGION_CAPS_FLAG = 1, 2, 4, 8
CAP_SPARSE_MMAP = 1
ROM_REGION, CONFIG_REGION, VGA_REGION, REGIONS = 6, 7, 8, 9

INTX, MSI, MSIX, ERR, REQ, IRQS = range(6)
IRQ_EVENTFD, IRQ_MASKABLE, IRQ_AUTOMASKED, IRQ_NORESIZE = 1, 2, 4, 8
DATA_NONE, DATA_BOOL, DATA_EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 16, 32

PAGE = 4096


class Command(enum.IntEnum):
	VERSION = 1
	DMA_MAP = 2
	DMA_UNMAP = 3
	DEVICE_GET_INFO = 4
	DEVICE_GET_REGION_INFO = 5
	DEVICE_GET_REGION_IO_FDS = 6
	DEVICE_GET_IRQ_INFO = 7
	DEVICE_SET_IRQS = 8
	REGION_READ = 9
	REGION_WRITE = 10
	DMA_READ = 11
	DMA_WRITE = 12
	DEVICE_RESET = 13
	DIRTY_PAGES = 14
	REGION_WRITE_MULTI = 15
	DEVICE_FEATURE = 16
	MIG_DATA_READ = 17
	MIG_DATA_WRITE = 18


class Refused(Exception):
	"""The server answered with an error; .errno says which."""

	def __init__(self, command, number):
		self.errno = number
		super().__init__(f"{name_of(command)}: {errno.errorcode.get(number, number)}")


class Message(NamedTuple):
	identifier: int
	command: int
	flags: int
	error: int
	payload: bytes
	fds: tuple

	def close(self):
		for fd in self.fds:
			os.close(fd)


class Region(NamedTuple):
	index: int
	flags: int
	size: int
	offset: int
	areas: tuple		# (offset, size) of what can be mapped
	fd: int			# for that; None


def name_of(command):
	try:
		return Command(command).name
	except ValueError:
		return f"command {command}"


class Connection:
	"""One vfio-user connection as the client sees it."""

	def __init__(self, path=None, sock=None, timeout=10.0, version=True):
		self.timeout, self.label = timeout, str(path or "socket")
		self.identifier = 0xfff0		# wraps soon
		self.capabilities = {}
		self.sock = sock or connect(path, timeout)
		if version:
			self.version()

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.close()

	def close(self):
		self.sock.close()

	# -- messages as bytes

	def send_raw(self, data, fds=()):
		"""Send @data as is. File descriptors travel with its first byte."""
		self.sock.settimeout(self.timeout)
		ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
		try:
			sent = self.sock.sendmsg([data], ancillary)
			if sent < len(data):
				self.sock.sendall(data[sent:])
		except (BrokenPipeError, ConnectionResetError) as error:
			raise Closed(f"{self.label}: closed while it was sent to") from error
		except socket.timeout as error:
			raise Late(f"{self.label}: not taken within {self.timeout} s") from error

	def pack(self, command, payload=b"", flags=TYPE_COMMAND, size=None, error=0):
		"""A message with an identifier of its own; @size replaces the truth."""
		self.identifier = self.identifier + 1 & 0xffff
		total = HEADER.size + len(payload) if size is None else size
		return HEADER.pack(self.identifier, command, total, flags, error) + payload

	def send(self, command, payload=b"", fds=(), flags=TYPE_COMMAND, size=None):
		"""Return: the message's identifier."""
		self.send_raw(self.pack(command, payload, flags, size), fds)
		return self.identifier

	def post(self, command, payload=b"", fds=()):
		"""A message that wants no reply."""
		self.send(command, payload, fds, NO_REPLY)

	def recv(self, timeout=None, awaiting="a reply"):
		deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
		fds = []
		try:
			header = self._recv_exactly(HEADER.size, fds, deadline, awaiting)
			identifier, command, size, flags, error = HEADER.unpack(header)
			if not HEADER.size <= size <= 1 << 20:
				raise ProtocolError(f"{self.label}: message of {size} bytes as {awaiting}")
			payload = self._recv_exactly(size - HEADER.size, fds, deadline, awaiting)
		except BaseException:
			for fd in fds:
				os.close(fd)
			raise
		return Message(identifier, command, flags, error, payload, tuple(fds))

	def _recv_exactly(self, length, fds, deadline, awaiting):
		data = b""
		while len(data) < length:
			left = deadline - time.monotonic()
			if left <= 0 or not select.select([self.sock], [], [], left)[0]:
				raise Late(f"{self.label}: no {awaiting} in time ({len(data)} of {length} bytes came)")
			try:
				part, ancillary, _, _ = self.sock.recvmsg(length - len(data), socket.CMSG_SPACE(16 * 4))
			except ConnectionResetError as error:
				raise Closed(f"{self.label}: reset while waiting for {awaiting}") from error
			for level, kind, content in ancillary:
				if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
					fds += array.array("i", content[:len(content) - len(content) % 4])
			if not part:
				raise Closed(f"{self.label}: closed while waiting for {awaiting}")
			data += part
		return data

	def reply_to(self, command, identifier=None):
		"""The reply to the message that was sent last, or to @identifier. Raises Refused for an error."""
		awaited = f"reply to {name_of(command)}"
		reply = self.recv(awaiting=awaited)
		expected = self.identifier if identifier is None else identifier
		wrong = ((reply.identifier, reply.command) != (expected, command) or reply.flags & ~ERROR != TYPE_REPLY or
			 bool(reply.flags & ERROR) != bool(reply.error) or reply.flags & ERROR and (reply.payload or reply.fds))
		if wrong:
			reply.close()
			raise ProtocolError(f"{self.label}: as {awaited} ({expected}) came {reply}")
		if reply.flags & ERROR:
			raise Refused(command, reply.error)
		return reply

	def call(self, command, payload=b"", fds=()):
		self.send(command, payload, fds)
		return self.reply_to(command)

	def refused(self, command, payload=b"", fds=(), flags=TYPE_COMMAND, size=None):
		"""Send what must be refused. Return: the errno; "closed", "accepted" or "silent"."""
		try:
			self.send(command, payload, fds, flags, size)
			self.reply_to(command).close()
		except Refused as refusal:
			return refusal.errno
		except Closed:
			return "closed"
		except Late:
			return "silent"
		return "accepted"

	def silent(self, timeout=0.2):
		"""Whether nothing comes within @timeout."""
		return not select.select([self.sock], [], [], timeout)[0]

	def closed(self, timeout=5.0):
		"""Whether the server ends the connection within @timeout; unread bytes are thrown away."""
		deadline = time.monotonic() + timeout
		while True:
			left = deadline - time.monotonic()
			if left <= 0 or not select.select([self.sock], [], [], left)[0]:
				return False
			try:
				if not self.sock.recv(4096):
					return True
			except ConnectionResetError:
				return True

	# -- one method a message, in the specification's terms

	def version(self, major=0, minor=1, data=None):
		"""Return: (major, minor), and the server's capabilities are in .capabilities."""
		if data is None:
			data = {"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1 << 20, "pgsizes": 4096,
						 "write_multiple": True}}
		text = data if isinstance(data, bytes) else json.dumps(data).encode() + b"\0"
		reply = self.call(Command.VERSION, VERSION_HEADER.pack(major, minor) + text)
		answered = VERSION_HEADER.unpack(reply.payload[:VERSION_HEADER.size])
		rest = reply.payload[VERSION_HEADER.size:]
		if rest.count(b"\0") != 1 or rest[-1:] != b"\0":
			raise ProtocolError(f"{self.label}: version data {rest!r}")
		if answered[0] != major or answered[1] > minor:
			raise ProtocolError(f"{self.label}: version {answered} for {major}.{minor}")
		self.capabilities = json.loads(rest[:-1])["capabilities"]
		return answered

	def dma_map(self, address, size, offset=0, fd=None, flags=RW):
		self.must_be_empty(self.call(Command.DMA_MAP, DMA_MAP.pack(DMA_MAP.size, flags, offset, address, size),
					     [] if fd is None else [fd]))

	def dma_unmap(self, address, size, flags=0):
		request = DMA_UNMAP.pack(DMA_UNMAP.size, flags, address, size)
		if self.call(Command.DMA_UNMAP, request).payload != request:
			raise ProtocolError("DMA_UNMAP: the reply is not the request")

	def info(self):
		"""Return: (flags, regions, interrupt indices)."""
		reply = self.call(Command.DEVICE_GET_INFO, DEVICE_INFO.pack(DEVICE_INFO.size, 0, 0, 0))
		size, *rest = DEVICE_INFO.unpack(reply.payload)
		if size != DEVICE_INFO.size:
			raise ProtocolError(f"DEVICE_GET_INFO: argsz {size}")
		return tuple(rest)

	def region_info(self, index, room=None):
		"""Return: a Region, asked for once more with room for its capabilities unless @room is given."""
		reply = self.call(Command.DEVICE_GET_REGION_INFO, REGION_INFO.pack(room or REGION_INFO.size, 0, index, 0, 0, 0))
		needed, flags, answered, capability, size, offset = REGION_INFO.unpack(reply.payload[:REGION_INFO.size])
		if answered != index or needed < REGION_INFO.size:
			raise ProtocolError(f"DEVICE_GET_REGION_INFO of {index}: index {answered}, argsz {needed}")
		if needed > (room or REGION_INFO.size):
			if len(reply.payload) != REGION_INFO.size or reply.fds:
				raise ProtocolError(f"DEVICE_GET_REGION_INFO of {index}: more than there is room for")
			if room is None:
				return self.region_info(index, needed)
		elif len(reply.payload) != needed:
			raise ProtocolError(f"DEVICE_GET_REGION_INFO of {index}: {len(reply.payload)} bytes, argsz {needed}")
		areas = ()
		if flags & REGION_CAPS_FLAG:
			areas = self._areas(reply.payload, capability)
		if len(reply.fds) > 1 or bool(reply.fds) and not flags & REGION_MMAP_FLAG:
			reply.close()
			raise ProtocolError(f"DEVICE_GET_REGION_INFO of {index}: {len(reply.fds)} descriptors")
		return Region(index, flags, size, offset, areas, reply.fds[0] if reply.fds else None)

	@staticmethod
	def _areas(payload, at):
		"""The areas of the sparse mmap capability in the list that begins at @at."""
		while at:
			identifier, version, following = CAPABILITY.unpack_from(payload, at)
			if identifier == CAP_SPARSE_MMAP and version == 1:
				count, _ = SPARSE.unpack_from(payload, at + CAPABILITY.size)
				begin = at + CAPABILITY.size + SPARSE.size
				return tuple(AREA.unpack_from(payload, begin + i * AREA.size) for i in range(count))
			at = following
		return ()

	def regions(self):
		return [self.region_info(index) for index in range(self.info()[1])]

	def irq_info(self, index):
		"""Return: (flags, count)."""
		reply = self.call(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.pack(IRQ_INFO.size, 0, index, 0))
		size, flags, answered, count = IRQ_INFO.unpack(reply.payload)
		if (size, answered) != (IRQ_INFO.size, index):
			raise ProtocolError(f"DEVICE_GET_IRQ_INFO of {index}: index {answered}, argsz {size}")
		return flags, count

	def set_irqs(self, flags, index, start=0, count=1, booleans=b"", fds=()):
		payload = IRQ_SET.pack(IRQ_SET.size + len(booleans), flags, index, start, count) + booleans
		self.must_be_empty(self.call(Command.DEVICE_SET_IRQS, payload, fds))

	def read(self, region, offset, count):
		request = ACCESS.pack(offset, region, count)
		reply = self.call(Command.REGION_READ, request)
		if reply.payload[:ACCESS.size] != request or len(reply.payload) != ACCESS.size + count:
			raise ProtocolError(f"REGION_READ of {count} bytes at {region}:{offset:#x}: {reply}")
		return reply.payload[ACCESS.size:]

	def write(self, region, offset, data):
		request = ACCESS.pack(offset, region, len(data))
		if self.call(Command.REGION_WRITE, request + data).payload != request:
			raise ProtocolError(f"REGION_WRITE of {len(data)} bytes at {region}:{offset:#x}: not echoed")

	def post_write(self, region, offset, data):
		self.post(Command.REGION_WRITE, ACCESS.pack(offset, region, len(data)) + data)

	def write_multi(self, writes):
		"""@writes: (region, offset, data) with up to eight bytes each."""
		payload = U64.pack(len(writes)) + b"".join(SINGLE_WRITE.pack(offset, region, len(data), data)
							    for region, offset, data in writes)
		reply = self.call(Command.REGION_WRITE_MULTI, payload)
		if reply.payload != U64.pack(len(writes)):
			raise ProtocolError(f"REGION_WRITE_MULTI of {len(writes)}: {reply}")

	def read32(self, region, offset):
		return int.from_bytes(self.read(region, offset, 4), "little")

	def write32(self, region, offset, value):
		self.write(region, offset, value.to_bytes(4, "little"))

	def reset(self):
		self.must_be_empty(self.call(Command.DEVICE_RESET))

	@staticmethod
	def must_be_empty(reply):
		if reply.payload or reply.fds:
			reply.close()
			raise ProtocolError(f"{name_of(reply.command)}: a reply with a payload of {len(reply.payload)} bytes")


class Window:
	"""A region's areas as the guest would have them: mapped, each for itself, at the region's offsets."""

	def __init__(self, region):
		self.areas = [(offset, size, mmap.mmap(region.fd, size, offset=region.offset + offset))
			      for offset, size in region.areas]
		os.close(region.fd)

	def _find(self, offset):
		for begin, size, area in self.areas:
			if begin <= offset < begin + size:
				return area, offset - begin
		raise KeyError(f"{offset:#x} is in no area")

	def load(self, offset):
		area, at = self._find(offset)
		return memoryview(area).cast("I")[at // 4]

	def store(self, offset, value):
		area, at = self._find(offset)
		memoryview(area).cast("I")[at // 4] = value

	def close(self):
		for _, _, area in self.areas:
			area.close()


class Memory:
	"""Guest memory: one memfd, of which pieces can be mapped wherever a test likes."""

	def __init__(self, size):
		self.size = size
		self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
		os.ftruncate(self.fd, size)
		self.map = mmap.mmap(self.fd, size)

	def close(self):
		self.map.close()
		os.close(self.fd)


def eventfds(count):
	return [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(count)]


def signalled(event, timeout=0.0):
	"""How often the eventfd was signalled since the last look; waits up to @timeout for the first time."""
	if not select.select([event], [], [], timeout)[0]:
		return 0
	return os.eventfd_read(event)


def capabilities(connection):
	"""The PCI capabilities of a device: {identifier: offset}."""
	space = connection.read(CONFIG_REGION, 0, 256)
	found, at = {}, space[0x34]
	while at and space[at] not in found:
		found[space[at]] = at
		at = space[at + 1]
	return found
