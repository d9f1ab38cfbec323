# SPDX-License-Identifier: BSD-3-Clause
"""
vhost-user front-end: message numbers, payload layouts and one connection.

Written from the specification (QEMU's docs/interop/vhost-user.rst), never from the server's sources, so that the two
can disagree. A Connection sends what it is told to, right or wrong: flags, size and file descriptors of each message
can be overridden, and send_raw() sends bytes that are no message at all. What is received is checked strictly: a reply
must name the request that it answers, carry version 1 and the reply flag, and come in time; the error says which
request was waited for.

All numbers are in native byte order ("Message Specification"), all structures packed.
"""
import array
import enum
import os
import select
import socket
import struct
import time
from typing import NamedTuple

HEADER = struct.Struct("=III")
VERSION = 0x1
VERSION_MASK = 0x3
FLAG_REPLY = 1 << 2
FLAG_NEED_REPLY = 1 << 3

U64 = struct.Struct("=Q")
VRING_STATE = struct.Struct("=II")			# index, num
VRING_ADDRESS = struct.Struct("=IIQQQQ")		# index, flags, descriptor, used, available, log
MEMORY_HEADER = struct.Struct("=II")			# number of regions, padding
MEMORY_REGION = struct.Struct("=QQQQ")			# guest address, size, user address, mmap offset
SINGLE_REGION = struct.Struct("=QQQQQ")			# padding, then a region
LOG = struct.Struct("=QQ")				# size, offset
IOTLB = struct.Struct("=QQQBB6x")			# iova, size, user address, permissions, type (kernel: padded to 8)
CONFIG = struct.Struct("=III")				# offset, size, flags; the payload follows
INFLIGHT = struct.Struct("=QQHH")			# mmap size, mmap offset, number of queues, queue size
INFLIGHT_PADDED = struct.Struct("=QQHH4x")		# the same as C compilers without "packed" lay it out
DEVICE_STATE = struct.Struct("=II")			# direction, phase
UUID_BYTES = 16

VRING_INDEX_MASK = 0xff
VRING_NO_FD = 1 << 8
VRING_ADDRESS_F_LOG = 1 << 0
CONFIG_WRITABLE = 0
CONFIG_MIGRATION = 1
MAX_FDS = 253			# SCM_MAX_FD of Linux: what one sendmsg() may carry
MAX_REGIONS_IN_TABLE = 8	# "region0 ... region7"


class Request(enum.IntEnum):
	"""Front-end message types."""
	GET_FEATURES = 1
	SET_FEATURES = 2
	SET_OWNER = 3
	RESET_OWNER = 4
	SET_MEM_TABLE = 5
	SET_LOG_BASE = 6
	SET_LOG_FD = 7
	SET_VRING_NUM = 8
	SET_VRING_ADDR = 9
	SET_VRING_BASE = 10
	GET_VRING_BASE = 11
	SET_VRING_KICK = 12
	SET_VRING_CALL = 13
	SET_VRING_ERR = 14
	GET_PROTOCOL_FEATURES = 15
	SET_PROTOCOL_FEATURES = 16
	GET_QUEUE_NUM = 17
	SET_VRING_ENABLE = 18
	SEND_RARP = 19
	NET_SET_MTU = 20
	SET_BACKEND_REQ_FD = 21
	IOTLB_MSG = 22
	SET_VRING_ENDIAN = 23
	GET_CONFIG = 24
	SET_CONFIG = 25
	CREATE_CRYPTO_SESSION = 26
	CLOSE_CRYPTO_SESSION = 27
	POSTCOPY_ADVISE = 28
	POSTCOPY_LISTEN = 29
	POSTCOPY_END = 30
	GET_INFLIGHT_FD = 31
	SET_INFLIGHT_FD = 32
	GPU_SET_SOCKET = 33
	RESET_DEVICE = 34
	VRING_KICK = 35
	GET_MAX_MEM_SLOTS = 36
	ADD_MEM_REG = 37
	REM_MEM_REG = 38
	SET_STATUS = 39
	GET_STATUS = 40
	GET_SHARED_OBJECT = 41
	SET_DEVICE_STATE_FD = 42
	CHECK_DEVICE_STATE = 43


class BackendRequest(enum.IntEnum):
	"""Back-end message types, on the socket of SET_BACKEND_REQ_FD."""
	IOTLB_MSG = 1
	CONFIG_CHANGE_MSG = 2
	VRING_HOST_NOTIFIER_MSG = 3
	VRING_CALL = 4
	VRING_ERR = 5
	SHARED_OBJECT_ADD = 6
	SHARED_OBJECT_REMOVE = 7
	SHARED_OBJECT_LOOKUP = 8


class Protocol(enum.IntFlag):
	"""Protocol features, as masks."""
	MQ = 1 << 0
	LOG_SHMFD = 1 << 1
	RARP = 1 << 2
	REPLY_ACK = 1 << 3
	NET_MTU = 1 << 4
	BACKEND_REQ = 1 << 5
	CROSS_ENDIAN = 1 << 6
	CRYPTO_SESSION = 1 << 7
	PAGEFAULT = 1 << 8
	CONFIG = 1 << 9
	BACKEND_SEND_FD = 1 << 10
	HOST_NOTIFIER = 1 << 11
	INFLIGHT_SHMFD = 1 << 12
	RESET_DEVICE = 1 << 13
	INBAND_NOTIFICATIONS = 1 << 14
	CONFIGURE_MEM_SLOTS = 1 << 15
	STATUS = 1 << 16
	XEN_MMAP = 1 << 17
	SHARED_OBJECT = 1 << 18
	DEVICE_STATE = 1 << 19
	GET_VRING_BASE_INFLIGHT = 1 << 20


# Feature bits of every virtio device (virtio 1.3, 6) and those that vhost adds.
F_LOG_ALL = 1 << 26
F_RING_INDIRECT_DESC = 1 << 28
F_RING_EVENT_IDX = 1 << 29
F_PROTOCOL_FEATURES = 1 << 30
F_VERSION_1 = 1 << 32
F_ACCESS_PLATFORM = 1 << 33
F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35

# Device status (virtio 1.3, 2.1).
S_ACKNOWLEDGE, S_DRIVER, S_DRIVER_OK, S_FEATURES_OK, S_NEEDS_RESET, S_FAILED = 1, 2, 4, 8, 64, 128

# Requests that have a reply of their own, where REPLY_ACK adds none ("Communication").
REPLIED = frozenset({
	Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES, Request.GET_VRING_BASE, Request.GET_QUEUE_NUM,
	Request.GET_CONFIG, Request.GET_INFLIGHT_FD, Request.GET_MAX_MEM_SLOTS, Request.GET_STATUS,
	Request.POSTCOPY_ADVISE, Request.POSTCOPY_END, Request.SET_LOG_BASE, Request.GET_SHARED_OBJECT,
	Request.SET_DEVICE_STATE_FD, Request.CHECK_DEVICE_STATE, Request.CREATE_CRYPTO_SESSION, Request.IOTLB_MSG,
})

# Those of them whose payload is a value, not a result.
VALUED = REPLIED - {Request.POSTCOPY_END, Request.SET_LOG_BASE, Request.SET_DEVICE_STATE_FD, Request.CHECK_DEVICE_STATE,
		    Request.IOTLB_MSG, Request.POSTCOPY_ADVISE, Request.GET_SHARED_OBJECT, Request.CREATE_CRYPTO_SESSION}


class ProtocolError(AssertionError):
	"""The back-end answered against the specification."""


class Closed(ConnectionError):
	"""The back-end closed the connection."""


class Late(TimeoutError):
	"""Nothing came in time; the text says what was awaited."""


class Message(NamedTuple):
	request: int
	flags: int
	payload: bytes
	fds: tuple

	def u64(self):
		if len(self.payload) != U64.size:
			raise ProtocolError(f"{name_of(self.request)}: reply of {len(self.payload)} bytes, expected {U64.size}")
		return U64.unpack(self.payload)[0]

	def close(self):
		for fd in self.fds:
			os.close(fd)


def name_of(request):
	try:
		return Request(request).name
	except ValueError:
		return f"request {request}"


def pack_table(regions, count=None):
	"""Payload of SET_MEM_TABLE from (guest, size, user, offset) tuples; @count overrides the number of regions."""
	head = MEMORY_HEADER.pack(len(regions) if count is None else count, 0)
	return head + b"".join(MEMORY_REGION.pack(*region) for region in regions)


class Connection:
	"""One vhost-user connection as the front-end sees it."""

	def __init__(self, path=None, sock=None, timeout=10.0):
		self.timeout = timeout
		self.label = str(path or "accepted socket")
		self.protocol_features = Protocol(0)
		if sock is None:
			sock = connect(path, timeout)
		self.sock = sock

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.close()

	def close(self):
		self.sock.close()

	# -- messages as bytes

	def send(self, request, payload=b"", fds=(), need_reply=False, flags=None, size=None):
		"""Send one message; @flags and @size replace what the header should say, for malformed messages."""
		if flags is None:
			flags = VERSION | (FLAG_NEED_REPLY if need_reply else 0)
		header = HEADER.pack(request, flags, len(payload) if size is None else size)
		self.send_raw(header + payload, fds, what=name_of(request))

	def send_raw(self, data, fds=(), what="raw bytes"):
		"""Send @data as is. File descriptors travel with its first byte."""
		self.sock.settimeout(self.timeout)
		ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
		try:
			sent = self.sock.sendmsg([data], ancillary)
			if sent < len(data):
				self.sock.sendall(data[sent:])
		except (BrokenPipeError, ConnectionResetError) as error:
			raise Closed(f"{self.label}: closed while {what} was sent") from error
		except socket.timeout as error:
			raise Late(f"{self.label}: {what} was not taken within {self.timeout} s") from error

	def recv(self, awaiting="a message", timeout=None):
		"""Receive one message; @awaiting names it in errors."""
		deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
		fds = []
		try:
			header = self._recv_exactly(HEADER.size, fds, deadline, awaiting)
			request, flags, size = HEADER.unpack(header)
			if size > 4096:
				raise ProtocolError(f"{self.label}: reply with a payload of {size} bytes to {awaiting}")
			payload = self._recv_exactly(size, fds, deadline, awaiting) if size else b""
		except BaseException:
			for fd in fds:
				os.close(fd)
			raise
		return Message(request, flags, payload, tuple(fds))

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
					usable = len(content) - len(content) % 4
					fds += array.array("i", content[:usable])
			if not part:
				raise Closed(f"{self.label}: closed while waiting for {awaiting}")
			data += part
		return data

	def reply_to(self, request):
		"""Receive the reply to @request and check its header."""
		awaited = f"reply to {name_of(request)}"
		reply = self.recv(awaited)
		if reply.request != request:
			reply.close()
			raise ProtocolError(f"{self.label}: awaited {awaited}, got {name_of(reply.request)}")
		if reply.flags & VERSION_MASK != VERSION or not reply.flags & FLAG_REPLY:
			reply.close()
			raise ProtocolError(f"{self.label}: {awaited} has flags {reply.flags:#x}")
		return reply

	def closed(self, timeout=2.0):
		"""Whether the back-end closes the connection within @timeout; unread bytes are thrown away."""
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

	# -- request and reply

	def call(self, request, payload=b"", fds=(), need_reply=False):
		"""A request that the specification answers with a payload of its own. Return: the reply."""
		self.send(request, payload, fds, need_reply)
		return self.reply_to(request)

	def command(self, request, payload=b"", fds=()):
		"""
		A request without a reply of its own. With REPLY_ACK its result is awaited.
		Return: the u64 of the acknowledgement, 0 where none was negotiated.
		"""
		ack = bool(self.protocol_features & Protocol.REPLY_ACK)
		self.send(request, payload, fds, need_reply=ack)
		return self.reply_to(request).u64() if ack else 0

	def must(self, request, payload=b"", fds=()):
		"""command() that has to succeed."""
		result = self.command(request, payload, fds)
		if result:
			raise ProtocolError(f"{self.label}: {name_of(request)} was refused with {result}")

	def refused(self, request, payload=b"", fds=(), flags=None, size=None, timeout=5.0):
		"""
		Send what must be refused. Return: "closed" or "error" for the two ways the specification allows
		(close the connection, or a non-zero REPLY_ACK); "accepted", or "silent" if nothing came in time.
		"""
		if flags is None:
			flags = VERSION | FLAG_NEED_REPLY
		try:
			self.send(request, payload, fds, flags=flags, size=size)
			reply = self.recv(f"refusal of {name_of(request)}", timeout)
		except Closed:
			return "closed"
		except Late:
			return "silent"
		reply.close()
		if request in VALUED:
			# The reply is a value: GET_CONFIG says error by an empty payload, the others can but close.
			return "error" if not reply.payload else "accepted"
		failed = reply.request == request and len(reply.payload) == U64.size and reply.u64()
		return "error" if failed else "accepted"

	# -- one method a message, in the specification's terms

	def get_features(self):
		return self.call(Request.GET_FEATURES).u64()

	def set_features(self, features):
		self.must(Request.SET_FEATURES, U64.pack(features))

	def get_protocol_features(self):
		return Protocol(self.call(Request.GET_PROTOCOL_FEATURES).u64())

	def set_protocol_features(self, features):
		# Whether REPLY_ACK holds for the very message that negotiates it is not specified: do not ask.
		self.send(Request.SET_PROTOCOL_FEATURES, U64.pack(features))
		self.protocol_features = Protocol(features)

	def set_owner(self):
		self.must(Request.SET_OWNER)

	def reset_owner(self):
		self.must(Request.RESET_OWNER)

	def reset_device(self):
		self.must(Request.RESET_DEVICE)

	def get_queue_num(self):
		return self.call(Request.GET_QUEUE_NUM).u64()

	def set_mem_table(self, regions, fds):
		self.must(Request.SET_MEM_TABLE, pack_table(regions), fds)

	def get_max_mem_slots(self):
		return self.call(Request.GET_MAX_MEM_SLOTS).u64()

	def add_mem_reg(self, region, fd):
		self.must(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, *region), [fd])

	def rem_mem_reg(self, region):
		self.must(Request.REM_MEM_REG, SINGLE_REGION.pack(0, *region))

	def set_vring_num(self, index, num):
		self.must(Request.SET_VRING_NUM, VRING_STATE.pack(index, num))

	def set_vring_addr(self, index, descriptor, used, available, flags=0, log=0):
		self.must(Request.SET_VRING_ADDR, VRING_ADDRESS.pack(index, flags, descriptor, used, available, log))

	def set_vring_base(self, index, base):
		self.must(Request.SET_VRING_BASE, VRING_STATE.pack(index, base))

	def get_vring_base(self, index):
		reply = self.call(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0))
		if len(reply.payload) != VRING_STATE.size:
			raise ProtocolError(f"GET_VRING_BASE: reply of {len(reply.payload)} bytes")
		answered, base = VRING_STATE.unpack(reply.payload)
		if answered != index:
			raise ProtocolError(f"GET_VRING_BASE of ring {index} answered for ring {answered}")
		return base

	def set_vring_enable(self, index, enable=1):
		self.must(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, enable))

	def _set_vring_fd(self, request, index, fd):
		if fd is None:
			self.must(request, U64.pack(index | VRING_NO_FD))
		else:
			self.must(request, U64.pack(index), [fd])

	def set_vring_kick(self, index, fd):
		self._set_vring_fd(Request.SET_VRING_KICK, index, fd)

	def set_vring_call(self, index, fd):
		self._set_vring_fd(Request.SET_VRING_CALL, index, fd)

	def set_vring_err(self, index, fd):
		self._set_vring_fd(Request.SET_VRING_ERR, index, fd)

	def set_log_base(self, size, offset, fd):
		"""With LOG_SHMFD the message has a reply of its own."""
		self.call(Request.SET_LOG_BASE, LOG.pack(size, offset), [fd]).close()

	def set_log_fd(self, fd):
		self.must(Request.SET_LOG_FD, fds=[fd])

	def get_config(self, size, offset=0):
		"""Return: @size bytes of configuration space, b"" where the back-end reports an error."""
		payload = CONFIG.pack(offset, size, 0) + bytes(size)
		reply = self.call(Request.GET_CONFIG, payload).payload
		if not reply:
			return b""
		if len(reply) != len(payload):
			raise ProtocolError(f"GET_CONFIG of {size} bytes: reply of {len(reply)} bytes, expected {len(payload)}")
		return reply[CONFIG.size:]

	def set_config(self, offset, data, flags=CONFIG_WRITABLE):
		return self.command(Request.SET_CONFIG, CONFIG.pack(offset, len(data), flags) + data)

	def get_status(self):
		return self.call(Request.GET_STATUS).u64()

	def set_status(self, status):
		self.must(Request.SET_STATUS, U64.pack(status))

	def set_mtu(self, mtu):
		return self.command(Request.NET_SET_MTU, U64.pack(mtu))

	def send_rarp(self, mac):
		self.must(Request.SEND_RARP, mac + bytes(2))

	def set_backend_req_fd(self, fd):
		self.must(Request.SET_BACKEND_REQ_FD, fds=[fd])

	def get_inflight_fd(self, queues, queue_size):
		"""Return: (mmap size, mmap offset, fd)."""
		reply = self.call(Request.GET_INFLIGHT_FD, INFLIGHT_PADDED.pack(0, 0, queues, queue_size))
		if len(reply.payload) not in (INFLIGHT.size, INFLIGHT_PADDED.size) or len(reply.fds) != 1:
			reply.close()
			raise ProtocolError(f"GET_INFLIGHT_FD: {len(reply.payload)} bytes and {len(reply.fds)} descriptors")
		size, offset, _, _ = INFLIGHT.unpack(reply.payload[:INFLIGHT.size])
		return size, offset, reply.fds[0]

	def set_inflight_fd(self, size, offset, queues, queue_size, fd):
		self.must(Request.SET_INFLIGHT_FD, INFLIGHT_PADDED.pack(size, offset, queues, queue_size), [fd])


def connect(path, timeout):
	"""Connect to a unix socket; a back-end that is between two connections is given @timeout."""
	deadline = time.monotonic() + timeout
	while True:
		sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		try:
			sock.connect(str(path))
			return sock
		except (FileNotFoundError, ConnectionRefusedError) as error:
			sock.close()
			if time.monotonic() > deadline:
				raise Late(f"{path}: nobody listened within {timeout} s") from error
			time.sleep(0.02)


class Listener:
	"""The front-end as socket server, for back-ends in client mode."""

	def __init__(self, path, timeout=10.0):
		self.path, self.timeout = str(path), timeout
		self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		self.sock.bind(self.path)
		self.sock.listen(1)

	def accept(self):
		self.sock.settimeout(self.timeout)
		try:
			sock, _ = self.sock.accept()
		except socket.timeout as error:
			raise Late(f"{self.path}: no back-end connected within {self.timeout} s") from error
		return Connection(sock=sock, timeout=self.timeout)

	def close(self):
		self.sock.close()
		if os.path.exists(self.path):
			os.unlink(self.path)
