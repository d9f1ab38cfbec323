# SPDX-License-Identifier: BSD-3-Clause
"""
Guests made of Python: a virtio-net and a virtio-blk driver over vhost-user, with a knob for each way to set them up.

	with NetDevice("a-net.sock", Options(packed=True, event_idx=True)) as net:
		net.fill_receive()
		net.send(frame)
		header, frame = net.receive()

A device is ready when the constructor returns. start=False stops before the first message, so that a test can take the
steps of bring_up() by itself. The order of messages is that of the specification's prose, which QEMU follows too:
features, protocol features, owner, acknowledged features, memory, then per ring num, base, addr, kick, call, err and
enable; with STATUS the device status is walked through as virtio 1.3, 3.1.1 asks.
"""
import dataclasses
import os
import struct
from typing import NamedTuple

from . import vhost_user
from .memory import GuestMemory
from .rings import make_queue
from .vhost_user import Connection, Protocol, ProtocolError

# Feature bits of virtio-net (virtio 1.3, 5.1.3).
NET_CSUM, NET_GUEST_CSUM, NET_MTU, NET_MAC = 1 << 0, 1 << 1, 1 << 3, 1 << 5
NET_GUEST_TSO4, NET_GUEST_TSO6, NET_GUEST_ECN, NET_GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
NET_HOST_TSO4, NET_HOST_TSO6, NET_HOST_ECN, NET_HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
NET_MRG_RXBUF, NET_STATUS, NET_CTRL_VQ, NET_CTRL_RX, NET_MQ = 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 22
NET_GUEST_USO4, NET_GUEST_USO6, NET_HOST_USO = 1 << 54, 1 << 55, 1 << 56
NET_SEND_OFFLOADS = NET_CSUM | NET_HOST_TSO4 | NET_HOST_TSO6 | NET_HOST_ECN | NET_HOST_USO
NET_RECEIVE_OFFLOADS = (NET_GUEST_CSUM | NET_GUEST_TSO4 | NET_GUEST_TSO6 | NET_GUEST_ECN | NET_GUEST_USO4 |
			NET_GUEST_USO6)

HDR_F_NEEDS_CSUM, HDR_F_DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
NET_HEADER = struct.Struct("<BBHHHHH")

# Feature bits, requests and answers of virtio-blk (5.2.3, 5.2.6).
BLK_SIZE_MAX, BLK_SEG_MAX, BLK_RO, BLK_BLK_SIZE = 1 << 1, 1 << 2, 1 << 5, 1 << 6
BLK_FLUSH, BLK_TOPOLOGY, BLK_CONFIG_WCE, BLK_MQ = 1 << 9, 1 << 10, 1 << 11, 1 << 12
BLK_DISCARD, BLK_WRITE_ZEROES = 1 << 13, 1 << 14
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES, T_SECURE_ERASE = 0, 1, 4, 8, 11, 13, 14
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
SECTOR = 512
BLK_HEADER = struct.Struct("<IIQ")
BLK_RANGE = struct.Struct("<QII")
BLK_CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")
UNMAP = 1


@dataclasses.dataclass
class Options:
	packed: bool = False
	indirect: bool = False
	event_idx: bool = False
	in_order: bool = False
	mergeable: bool = True			# net only
	queues: int = 1				# net: pairs
	queue_size: int = 256
	regions: int = 1
	region_size: int = 16 << 20
	region_gap: int = 1 << 20
	file_offset: int = 0
	huge_pages: bool = False
	memory_slots: bool = False		# ADD_MEM_REG instead of SET_MEM_TABLE
	inflight: bool = False
	status: bool = False
	call: bool = True			# False: the driver polls, SET_VRING_CALL says "no descriptor"
	kick: bool = True			# False: the device polls, SET_VRING_KICK says "no descriptor"
	layout: str = "separate"		# "together", "separate" or "scattered"
	features: int = 0			# further feature bits to acknowledge where offered
	without: int = 0			# feature bits not to acknowledge
	strict: bool = True			# net: insist on num_buffers = 1 without mergeable buffers (5.1.6.4.1)
	timeout: float = 10.0


class BlockConfig(NamedTuple):
	"""struct virtio_blk_config (5.2.4), without the fields of secure erase and zones."""
	capacity: int
	size_max: int
	seg_max: int
	cylinders: int
	heads: int
	sectors: int
	blk_size: int
	physical_block_exp: int
	alignment_offset: int
	min_io_size: int
	opt_io_size: int
	writeback: int
	unused: int
	num_queues: int
	max_discard_sectors: int
	max_discard_seg: int
	discard_sector_alignment: int
	max_write_zeroes_sectors: int
	max_write_zeroes_seg: int
	write_zeroes_may_unmap: int


class NetHeader(NamedTuple):
	"""struct virtio_net_hdr_v1 (5.1.6)."""
	flags: int = 0
	gso_type: int = 0
	hdr_len: int = 0
	gso_size: int = 0
	csum_start: int = 0
	csum_offset: int = 0
	num_buffers: int = 0

	def pack(self):
		return NET_HEADER.pack(*self)


class Device:
	"""Initialisation and life of a vhost-user device; what its queues carry is for the subclasses."""
	wanted_features = 0
	wanted_protocol = Protocol.MQ | Protocol.REPLY_ACK | Protocol.CONFIG | Protocol.RESET_DEVICE

	def __init__(self, socket_path=None, options=None, connection=None, start=True):
		self.options = options or Options()
		self.socket_path = socket_path
		self.connection = connection or Connection(socket_path, timeout=self.options.timeout)
		self.memory = self.make_memory()
		self.queues = []
		self.inflight_fd = None
		self.features = self.offered = 0
		self.protocol = Protocol(0)
		if start:
			try:
				self.bring_up()
			except BaseException:
				self.close()
				raise

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.close()

	def make_memory(self):
		options = self.options
		return GuestMemory(options.regions, options.region_size, options.region_gap, offset=options.file_offset,
				   huge=options.huge_pages)

	def close(self):
		self.connection.close()
		for queue in self.queues:
			queue.close()
		self.queues = []
		self.memory.close()
		if self.inflight_fd is not None:
			os.close(self.inflight_fd[2])
			self.inflight_fd = None

	# -- the steps

	def bring_up(self):
		self.negotiate()
		self.share_memory()
		self.make_queues()
		if self.options.inflight:
			self.share_inflight()
		self.start_queues()

	def queue_count(self):
		return self.options.queues

	def wanted(self):
		"""Feature bits to acknowledge, if offered."""
		options = self.options
		mask = self.wanted_features | vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES | options.features
		for wish, bit in ((options.packed, vhost_user.F_RING_PACKED),
				  (options.indirect, vhost_user.F_RING_INDIRECT_DESC),
				  (options.event_idx, vhost_user.F_RING_EVENT_IDX),
				  (options.in_order, vhost_user.F_IN_ORDER)):
			if wish:
				mask |= bit
		return mask & ~options.without

	def must_have(self):
		"""Feature bits without which the test would test something else."""
		options = self.options
		mask = vhost_user.F_VERSION_1
		for wish, bit in ((options.packed, vhost_user.F_RING_PACKED),
				  (options.indirect, vhost_user.F_RING_INDIRECT_DESC),
				  (options.event_idx, vhost_user.F_RING_EVENT_IDX),
				  (options.in_order, vhost_user.F_IN_ORDER)):
			if wish:
				mask |= bit
		return mask

	def negotiate(self):
		connection, options = self.connection, self.options
		self.offered = connection.get_features()
		missing = self.must_have() & ~self.offered
		if missing:
			raise ProtocolError(f"{self.socket_path}: features {missing:#x} are not offered")
		if self.offered & vhost_user.F_PROTOCOL_FEATURES:
			wanted = self.wanted_protocol
			for wish, bit in ((options.memory_slots, Protocol.CONFIGURE_MEM_SLOTS),
					  (options.inflight, Protocol.INFLIGHT_SHMFD), (options.status, Protocol.STATUS)):
				wanted |= bit if wish else 0
			offered = connection.get_protocol_features()
			self.protocol = offered & wanted
			for wish, bit in ((options.memory_slots, Protocol.CONFIGURE_MEM_SLOTS),
					  (options.inflight, Protocol.INFLIGHT_SHMFD), (options.status, Protocol.STATUS)):
				if wish and not offered & bit:
					raise ProtocolError(f"{self.socket_path}: protocol feature {bit.name} is not offered")
			connection.set_protocol_features(self.protocol)
			if self.protocol & Protocol.MQ:
				most = connection.get_queue_num()
				if most < self.queue_count():
					raise ProtocolError(f"{self.socket_path}: {self.queue_count()} queues wanted, {most} offered")
		connection.set_owner()
		self.features = self.offered & self.wanted()
		if options.status:
			connection.set_status(0)
			connection.set_status(vhost_user.S_ACKNOWLEDGE | vhost_user.S_DRIVER)
		connection.set_features(self.features)
		if options.status:
			status = vhost_user.S_ACKNOWLEDGE | vhost_user.S_DRIVER | vhost_user.S_FEATURES_OK
			connection.set_status(status)
			if not connection.get_status() & vhost_user.S_FEATURES_OK:
				raise ProtocolError(f"{self.socket_path}: features {self.features:#x} were not accepted")

	def share_memory(self):
		table, fds = self.memory.table()
		if self.options.memory_slots:
			if self.connection.get_max_mem_slots() < len(table):
				raise ProtocolError("fewer memory slots than the test has regions")
			for region, fd in zip(table, fds):
				self.connection.add_mem_reg(region, fd)
		else:
			self.connection.set_mem_table(table, fds)

	def make_queues(self):
		options = self.options
		self.queues = [make_queue(options.packed, self.memory, index, options.queue_size,
					  options.event_idx, options.in_order) for index in range(self.vring_count())]
		for queue in self.queues:
			queue.want_calls(options.call)

	def vring_count(self):
		return self.queue_count()

	def share_inflight(self):
		if self.inflight_fd is None:
			self.inflight_fd = self.connection.get_inflight_fd(self.vring_count(), self.options.queue_size)
		size, offset, fd = self.inflight_fd
		self.connection.set_inflight_fd(size, offset, self.vring_count(), self.options.queue_size, fd)

	def start_queues(self, bases=None):
		for number, queue in enumerate(self.queues):
			self.start_queue(queue, bases[number] if bases else None)
		if self.options.status:
			self.connection.set_status(vhost_user.S_ACKNOWLEDGE | vhost_user.S_DRIVER | vhost_user.S_FEATURES_OK |
						   vhost_user.S_DRIVER_OK)
		for queue in self.queues:
			queue.kick(force=True)	# a ring starts upon its first kick ("Ring states")

	def start_queue(self, queue, base=None):
		connection, index = self.connection, queue.index
		descriptor, used, available = (self.memory.user(address) for address in queue.addresses())
		connection.set_vring_num(index, queue.size)
		connection.set_vring_base(index, queue.base() if base is None else base)
		connection.set_vring_addr(index, descriptor, used, available)
		connection.set_vring_kick(index, queue.kick_fd if self.options.kick else None)
		connection.set_vring_call(index, queue.call_fd if self.options.call else None)
		connection.set_vring_err(index, queue.err_fd)
		if self.features & vhost_user.F_PROTOCOL_FEATURES:
			connection.set_vring_enable(index, 1)

	def stop_queues(self):
		"""Return: the bases at which the back-end stopped."""
		return [self.connection.get_vring_base(queue.index) for queue in self.queues]

	def reconnect(self, bases=None):
		"""
		A new connection with the rings, memory and inflight region of the old, as after a crash of the back-end.
		@bases: where the rings go on; by default at what the driver has seen used, as QEMU does when it was not told.
		"""
		self.connection.close()
		self.connection = Connection(self.socket_path, timeout=self.options.timeout)
		self.negotiate()
		self.share_memory()
		if self.options.inflight:
			self.share_inflight()
		self.start_queues(bases)

	# -- buffers

	def lay_out(self, data, cuts, writable):
		"""
		Place bytes (or, for an int, that many zero bytes) in guest memory, one allocation for each of @cuts.
		Return: (address, length, writable) parts.
		"""
		size = data if isinstance(data, int) else len(data)
		parts, position = [], 0
		for length in cut_sizes(size, cuts):
			address = self.memory.allocate(length, 1 if self.options.layout == "scattered" else 16)
			if not isinstance(data, int):
				self.memory.write(address, data[position:position + length])
			parts.append((address, length, writable))
			position += length
		return parts

	def gather(self, parts, length=None):
		data = b"".join(self.memory.read(address, size) for address, size, _ in parts)
		return data if length is None else data[:length]

	def release(self, parts):
		for address, _, _ in parts:
			self.memory.free(address)


def cut_sizes(size, cuts):
	"""Sizes of the parts: those of @cuts first, the rest in one."""
	sizes = []
	for cut in cuts:
		if size <= 0:
			break
		sizes.append(min(cut, size))
		size -= sizes[-1]
	return sizes + ([size] if size else [])


class NetDevice(Device):
	"""virtio-net: receive queue 2N, transmit queue 2N+1 for pair N (5.1.2)."""
	wanted_protocol = Device.wanted_protocol | Protocol.NET_MTU | Protocol.RARP

	def __init__(self, *arguments, **keywords):
		self.receive_buffers = {}	# (queue, identity) -> parts
		self.sending = {}
		self.arrived = {}		# queue -> [(parts, length)] used but not yet taken
		super().__init__(*arguments, **keywords)

	def vring_count(self):
		return 2 * self.options.queues

	def wanted(self):
		mask = super().wanted() | NET_MAC | NET_MQ
		return (mask | (NET_MRG_RXBUF if self.options.mergeable else 0)) & ~self.options.without

	def must_have(self):
		return super().must_have() | (NET_MRG_RXBUF if self.options.mergeable else 0)

	def receive_queue(self, pair=0):
		return self.queues[2 * pair]

	def transmit_queue(self, pair=0):
		return self.queues[2 * pair + 1]

	def chain(self, frame, header):
		"""Parts of a transmit buffer in the layout asked for. 5.1.6.2: any layout is fine with VERSION_1."""
		data = header.pack() + frame
		cuts = {"separate": [12], "together": [], "scattered": [1, 4, 7 + 3, 14, 1, 40, 333]}[self.options.layout]
		return self.lay_out(data, cuts, False)

	def transmit(self, frame, header=NetHeader(), pair=0, kick=True):
		"""Make a frame available, without waiting. Return: its identity."""
		queue = self.transmit_queue(pair)
		parts = self.chain(frame, header)
		identity = queue.add(parts, self.options.indirect)
		self.sending[queue.index, identity] = parts
		queue.publish()
		if kick:
			queue.kick()
		return identity

	def reap(self, pair=0):
		"""Take back transmit buffers that were used. Return: how many."""
		queue = self.transmit_queue(pair)
		done = queue.collect()
		for used in done:
			self.release(self.sending.pop((queue.index, used.identity)))
		return len(done)

	def send(self, frame, header=NetHeader(), pair=0, timeout=None):
		"""Send a frame and wait until its buffer came back."""
		queue = self.transmit_queue(pair)
		self.transmit(frame, header, pair)
		while queue.outstanding:
			for used in queue.poll(timeout=timeout or self.options.timeout, what="transmitted frame"):
				self.release(self.sending.pop((queue.index, used.identity)))

	def fill_receive(self, count=64, size=None, pair=0, cuts=None):
		"""
		Give @count receive buffers of @size bytes (default: one MTU frame with mergeable buffers, the 65562 bytes
		of 5.1.6.3.1 without).
		"""
		queue = self.receive_queue(pair)
		if size is None:
			size = 1536 if self.options.mergeable else 12 + 65550
		if cuts is None:
			cuts = {"separate": [12], "together": [], "scattered": [5, 3, 9, 100]}[self.options.layout]
		for _ in range(count):
			parts = self.lay_out(size, cuts, True)
			identity = queue.add(parts, self.options.indirect)
			self.receive_buffers[queue.index, identity] = parts
		queue.publish()
		queue.kick()

	def note_arrived(self, queue, done):
		waiting = self.arrived.setdefault(queue.index, [])
		for used in done:
			waiting.append((self.receive_buffers.pop((queue.index, used.identity)), used.length))
		return waiting

	def ready(self, pair=0):
		"""Whether something was received, without waiting."""
		queue = self.receive_queue(pair)
		return bool(self.note_arrived(queue, queue.collect()))

	def next_buffer(self, queue, timeout, by_call):
		if not self.arrived.get(queue.index):
			self.note_arrived(queue, queue.poll(timeout=timeout, by_call=by_call, what="received frame"))
		return self.arrived[queue.index].pop(0)

	def receive(self, timeout=None, pair=0, by_call=False):
		"""Return: (NetHeader, frame), merged from as many buffers as the header says."""
		queue = self.receive_queue(pair)
		timeout = timeout or self.options.timeout
		data, buffers, number = b"", 1, 0
		while number < buffers:
			parts, length = self.next_buffer(queue, timeout, by_call)
			piece = self.gather(parts, length)
			self.release(parts)
			if number == 0:
				if length < NET_HEADER.size:
					raise ProtocolError(f"receive buffer of {length} bytes has no virtio-net header")
				buffers = NetHeader(*NET_HEADER.unpack(piece[:12])).num_buffers
				if not self.features & NET_MRG_RXBUF and not self.options.strict:
					buffers = 1
				if buffers < 1 or buffers > 1 and not self.features & NET_MRG_RXBUF:
					raise ProtocolError(f"num_buffers is {buffers} (5.1.6.4.1)")
			data += piece
			number += 1
		return NetHeader(*NET_HEADER.unpack(data[:12])), data[12:]

	def silent(self, seconds=0.3, pair=0):
		"""Whether nothing is received for @seconds."""
		try:
			self.receive(seconds, pair)
		except TimeoutError:
			return True
		return False


class Request(NamedTuple):
	"""A block request on its way."""
	queue: int
	header: list
	out: list
	into: list
	status: list


class Result(NamedTuple):
	status: int
	data: bytes
	length: int		# as the used entry says


class BlockDevice(Device):
	"""virtio-blk: every queue is a request queue (5.2.2)."""
	wanted_features = (BLK_SIZE_MAX | BLK_SEG_MAX | BLK_RO | BLK_BLK_SIZE | BLK_FLUSH | BLK_TOPOLOGY | BLK_MQ |
			   BLK_DISCARD | BLK_WRITE_ZEROES | BLK_CONFIG_WCE)

	def __init__(self, *arguments, **keywords):
		self.requests = {}	# (queue, identity) -> Request
		self.config_bytes = b""
		super().__init__(*arguments, **keywords)

	def negotiate(self):
		super().negotiate()
		if self.protocol & Protocol.CONFIG:
			self.config_bytes = self.connection.get_config(BLK_CONFIG.size)

	@property
	def config(self):
		return BlockConfig(*BLK_CONFIG.unpack(self.config_bytes))

	def cuts(self, length):
		if self.options.layout != "scattered":
			return []
		# Odd parts; virtio 1.3 promises the device nothing about their alignment (2.7.4).
		return [1, 511, 700, length // 3, 5]

	def submit(self, kind, sector=0, out=b"", into=0, queue=0, header=None, kick=True, priority=0):
		"""
		Make a request available: @out bytes for the device to read, room for @into bytes to write.
		@header replaces the header's bytes. Return: key to await.
		"""
		scattered = self.options.layout == "scattered"
		head = self.lay_out(BLK_HEADER.pack(kind, priority, sector) if header is None else header,
				    [3, 6] if scattered else [], False)
		outgoing = self.lay_out(out, self.cuts(len(out)), False) if out else []
		if self.options.layout == "together" and outgoing:
			self.release(head + outgoing)
			joined = BLK_HEADER.pack(kind, priority, sector) if header is None else header
			head, outgoing = self.lay_out(joined + bytes(out), [], False), []
		incoming = self.lay_out(into, self.cuts(into), True) if into else []
		status = self.lay_out(b"\xff", [], True)
		if self.options.layout == "together" and incoming:
			self.release(incoming + status)
			# Data and status byte in one descriptor: the status is the last byte, wherever that is (5.2.6).
			whole = self.lay_out(bytes(into) + b"\xff", [], True)
			address, length, _ = whole[0]
			incoming, status = [(address, length - 1, True)], [(address + length - 1, 1, True)]
			chain = head + outgoing + whole
		else:
			chain = head + outgoing + incoming + status
		ring = self.queues[queue]
		identity = ring.add(chain, self.options.indirect)
		self.requests[queue, identity] = Request(queue, head, outgoing, incoming, status)
		if kick:
			self.publish(queue)
		return queue, identity

	def publish(self, queue=0):
		self.queues[queue].publish()
		self.queues[queue].kick()

	def finish(self, key, length):
		request = self.requests.pop(key)
		result = Result(self.memory.read(request.status[0][0], 1)[0], self.gather(request.into), length)
		for parts in (request.header, request.out, request.into, request.status):
			for address, _, _ in parts:
				if address in self.memory.allocated:	# the status byte may lie within the data's piece
					self.memory.free(address)
		return result

	def complete(self, queue=0, count=1, timeout=None, by_call=False):
		"""Return: {key: Result} of at least @count requests."""
		done = self.queues[queue].poll(count, timeout or self.options.timeout, by_call, "completed request")
		return {(queue, used.identity): self.finish((queue, used.identity), used.length) for used in done}

	def execute(self, *arguments, timeout=None, **keywords):
		"""submit() and wait. Nothing else may be in flight on the queue."""
		key = self.submit(*arguments, **keywords)
		return self.complete(key[0], timeout=timeout)[key]

	def read(self, sector, length, queue=0):
		return self.execute(T_IN, sector, into=length, queue=queue)

	def write(self, sector, data, queue=0):
		return self.execute(T_OUT, sector, out=data, queue=queue)

	def flush(self, queue=0):
		return self.execute(T_FLUSH, queue=queue)

	def get_id(self, length=20):
		return self.execute(T_GET_ID, into=length)

	def ranges(self, kind, ranges, flags=0):
		"""@ranges: (sector, count) or (sector, count, flags)."""
		packed = b"".join(BLK_RANGE.pack(item[0], item[1], item[2] if len(item) > 2 else flags) for item in ranges)
		return self.execute(kind, out=packed)

	def discard(self, *ranges):
		return self.ranges(T_DISCARD, ranges)

	def write_zeroes(self, *ranges, unmap=False):
		return self.ranges(T_WRITE_ZEROES, ranges, UNMAP if unmap else 0)
