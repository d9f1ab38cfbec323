# SPDX-License-Identifier: BSD-3-Clause
"""
Every message that the daemon knows, 10,000 times over, good and bad, to a device that runs: what the daemon holds is
afterwards what it held before. Descriptors and mappings of files are counted exactly; of memory, so little is allowed
that 10,000 forgotten allocations would not fit in.

Messages go in batches that are one write where they carry no descriptor, so that one core is done with all of them in
less than a minute, with AddressSanitizer.
"""
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from . import server as daemon
from .devices import S_OK, BlockDevice, NetDevice, Options
from .lab import REFUSED, close_all, eventfds, region
from .memory import PAGE, GuestMemory
from .server import Server, configuration
from .vhost_user import (CONFIG, FLAG_NEED_REPLY, HEADER, INFLIGHT_PADDED, LOG, MAX_FDS, REPLIED, SINGLE_REGION, U64, VERSION,
			 VRING_ADDRESS, VRING_STATE, Connection, Protocol, Request, pack_table)

pytestmark = pytest.mark.deadline(120)

TIMES = 10_000
WARM = 200
CONNECTS = 500
BATCH = 50			# a socket's buffer holds as many messages, and the kernel's limit of descriptors in flight
MEMORY_ALLOWANCE = 640 << 10	# 10,000 times the least that an allocation takes with AddressSanitizer
ANONYMOUS_ALLOWANCE = 20	# mappings: the allocator's own


class World:
	"""What messages are made of: a daemon, a running disk or card, and things to pass."""

	def __init__(self):
		self.server = Server(configuration(interfaces={"net": "queue_pairs: 2"},
						   disks={"disk": "type: file, path: disk.img, size: 1M", "neighbour": "type: ram, size: 1M"}))
		self.neighbour = BlockDevice(self.server.path("neighbour.sock"))
		self.memory = GuestMemory(2, 1 << 20, base=0x8000_0000)
		[self.event] = eventfds(1)
		self.channel = socket.socketpair()
		self.inflight = None
		self.device = None
		self.idle = self.server.settled(self.measure, None, 0.3)[:2]

	def plug(self, name):
		"""A device whose queues run, with every protocol feature."""
		self.unplug()	# what a test that failed has left
		kind = NetDevice if name == "net" else BlockDevice
		kind = type(f"Every{kind.__name__}", (kind,), {"wanted_protocol": ~Protocol.INBAND_NOTIFICATIONS})
		self.device = kind(self.server.path(f"{name}.sock"), Options(region_size=1 << 20, inflight=name == "disk"))
		return self.device

	def unplug(self):
		if self.device:
			self.device.close()
		self.device = None
		# The end of a connection takes a moment.
		assert self.server.settled(lambda: self.measure()[:2], self.idle) == self.idle, "(descriptors, mappings) of nobody"

	def ring(self):
		queue = self.device.queues[0]
		descriptor, used, available = (self.device.memory.user(address) for address in queue.addresses())
		return VRING_ADDRESS.pack(0, 0, descriptor, used, available, 0)

	def table(self, moved=0):
		"""The device's own memory, so that its rings go on, and a region more, here or there."""
		guest, size, user, offset = region(self.memory)
		return pack_table([self.device.memory.regions[0].entry(), (guest + moved, size, user + moved, offset)])

	def own_fd(self):
		return self.device.memory.regions[0].fd

	def other_fd(self):
		return self.memory.regions[0].fd

	def close(self):
		self.unplug()
		self.neighbour.close()
		self.memory.close()
		for sock in self.channel:
			sock.close()
		os.close(self.event)

	def measure(self):
		maps = Path(f"/proc/{self.server.pid}/maps").read_text().splitlines()
		files = sum(len(line.split(None, 5)) > 5 and line.split(None, 5)[5].startswith("/") for line in maps)
		resident = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.server.pid}/status").read_text())[1]) << 10
		return self.server.descriptors(), files, len(maps) - files, resident

	def unchanged(self, before):
		"""Descriptors and mappings may need a moment: closing is left to another thread where it could wait."""
		self.server.settled(lambda: self.measure()[:2], before[:2])
		descriptors, files, anonymous, resident = self.measure()
		assert descriptors == before[0], "descriptors"
		assert files == before[1], "mappings of files"
		assert anonymous <= before[2] + ANONYMOUS_ALLOWANCE, "anonymous mappings"
		assert resident <= before[3] + MEMORY_ALLOWANCE, f"{(resident - before[3]) / TIMES:.0f} bytes a message"

	def check(self):
		assert self.server.alive()
		data = os.urandom(512)
		assert self.neighbour.write(1, data).status == S_OK and self.neighbour.read(1, 512).data == data


@pytest.fixture(scope="module")
def world():
	reason = daemon.why_missing()
	if reason:
		pytest.skip(reason)
	with daemon.without_quarantine():
		world = World()
	yield world
	world.close()
	world.server.stop()


# Request: (device, [(payload, descriptors), ...] to be sent in turn); payload and descriptors are made by a World.
NOTHING = [(lambda w: b"", ())]


def plain(payload, *fds):
	return [(lambda w: payload, fds)]


EVENT, OWN, OTHER = (lambda w: w.event), World.own_fd, World.other_fd
STATE = VRING_STATE.pack
GOOD = {
	Request.GET_FEATURES: ("net", NOTHING),
	Request.SET_FEATURES: ("net", [(lambda w: U64.pack(w.device.features), ())]),
	Request.SET_OWNER: ("net", NOTHING),
	Request.RESET_OWNER: ("net", NOTHING),
	Request.SET_MEM_TABLE: ("disk", [(World.table, (OWN, OTHER)), (lambda w: w.table(1 << 30), (OWN, OTHER))]),
	Request.SET_LOG_BASE: ("disk", plain(LOG.pack(1 << 20, 0), OTHER)),
	Request.SET_LOG_FD: ("net", plain(b"", EVENT)),
	Request.SET_VRING_NUM: ("disk", plain(STATE(0, 256))),
	Request.SET_VRING_ADDR: ("disk", [(World.ring, ())]),
	Request.SET_VRING_BASE: ("disk", plain(STATE(0, 0))),
	Request.GET_VRING_BASE: ("disk", plain(STATE(0, 0))),
	Request.SET_VRING_KICK: ("disk", plain(U64.pack(0), EVENT)),
	Request.SET_VRING_CALL: ("disk", plain(U64.pack(0), EVENT)),
	Request.SET_VRING_ERR: ("disk", plain(U64.pack(0), EVENT)),
	Request.GET_PROTOCOL_FEATURES: ("net", NOTHING),
	Request.SET_PROTOCOL_FEATURES: ("net", [(lambda w: U64.pack(w.device.protocol), ())]),
	Request.GET_QUEUE_NUM: ("net", NOTHING),
	Request.SET_VRING_ENABLE: ("net", [*plain(STATE(0, 0)), *plain(STATE(0, 1))]),
	Request.SEND_RARP: ("net", plain(bytes.fromhex("525400000001") + bytes(2))),
	Request.NET_SET_MTU: ("net", plain(U64.pack(1500))),
	Request.SET_BACKEND_REQ_FD: ("disk", plain(b"", lambda w: w.channel[1].fileno())),
	Request.GET_CONFIG: ("disk", plain(CONFIG.pack(0, 60, 0) + bytes(60))),
	Request.SET_CONFIG: ("disk", plain(CONFIG.pack(32, 1, 0) + b"\1")),	# writeback
	Request.GET_INFLIGHT_FD: ("disk", plain(INFLIGHT_PADDED.pack(0, 0, 1, 256))),
	Request.SET_INFLIGHT_FD: ("disk", [(lambda w: INFLIGHT_PADDED.pack(*w.device.inflight_fd[:2], 1, 256),
					     (lambda w: w.device.inflight_fd[2],))]),
	Request.RESET_DEVICE: ("disk", NOTHING),
	Request.GET_MAX_MEM_SLOTS: ("net", NOTHING),
	Request.ADD_MEM_REG: ("disk", [(lambda w: SINGLE_REGION.pack(0, *region(w.memory)), (OTHER,))]),
	Request.REM_MEM_REG: ("disk", [(lambda w: SINGLE_REGION.pack(0, *region(w.memory)), ())]),
	Request.SET_STATUS: ("disk", [*plain(U64.pack(15)), *plain(U64.pack(0))]),
	Request.GET_STATUS: ("disk", NOTHING),
}
# Sent in turn with another one, without which it would do something only once.
PAIRED = {Request.ADD_MEM_REG: Request.REM_MEM_REG}
# Good in form, refused for what it says.
REFUSED_PAYLOAD = {
	Request.SET_FEATURES: U64.pack(1 << 63), Request.SET_PROTOCOL_FEATURES: U64.pack(1 << 63),
	Request.SET_VRING_NUM: STATE(0, 3), Request.SET_VRING_ENABLE: STATE(99, 1), Request.SET_VRING_BASE: STATE(99, 0),
	Request.SET_VRING_ADDR: VRING_ADDRESS.pack(0, 0, 1, 1, 1, 0), Request.SET_VRING_KICK: U64.pack(99),
	Request.SET_VRING_CALL: U64.pack(99), Request.SET_VRING_ERR: U64.pack(99),
	Request.NET_SET_MTU: U64.pack(0), Request.SET_CONFIG: CONFIG.pack(0, 1, 0) + b"\1", Request.SET_STATUS: U64.pack(256),
	Request.SET_INFLIGHT_FD: INFLIGHT_PADDED.pack(1, 0, 1, 256),
	Request.ADD_MEM_REG: SINGLE_REGION.pack(0, 0x1_0000_0000, 1 << 40, 0, 0),
	Request.REM_MEM_REG: None,	# of another size; made below
	Request.SET_MEM_TABLE: None,	# the second region is larger than its file: the first one has been mapped by then
}
IDS = {"ids": lambda request: request.name}


def variants(world, request):
	"""[(request, payload, descriptors)] to send in turn."""
	requests = [request, PAIRED[request]] if request in PAIRED else [request]
	return [(one, make(world), [fd(world) for fd in fds]) for one in requests for make, fds in GOOD[one][1]]


def refused_payload(world, request):
	if request == Request.REM_MEM_REG:
		return SINGLE_REGION.pack(0, *region(world.device.memory, size=PAGE))
	if request == Request.SET_MEM_TABLE:
		return pack_table([region(world.memory), region(world.memory, 1, size=1 << 30)])
	return REFUSED_PAYLOAD[request]


def flood(connection, messages, times, expected):
	"""Send @messages in turn, @times, and take the answers: acknowledgements must be @expected."""
	flags = VERSION | FLAG_NEED_REPLY
	round_ = [(HEADER.pack(request, flags, len(payload)) + payload, fds) for request, payload, fds in messages]
	rounds = max(BATCH // len(messages), 1)
	for done in range(0, times, rounds):
		now = min(rounds, times - done)
		if any(fds for _, fds in round_):
			for _ in range(now):
				for data, fds in round_:
					connection.send_raw(data, fds)
		else:
			connection.send_raw(b"".join(data for data, _ in round_) * now)
		for _ in range(now):
			for request, _, _ in messages:
				answer = connection.reply_to(request)
				answer.close()
				if request not in REPLIED:
					assert answer.u64() == expected, f"{request.name} is not answered with {expected}"


def test_every_message_is_here(world):
	"""One that is added to the daemon's table is added here, too: whatever is not listed is refused by name."""
	world.plug("disk")
	unknown = [request for request in Request if request not in GOOD]
	world.unplug()
	for request in unknown:
		with Connection(world.server.path("net.sock")) as connection:
			connection.set_protocol_features(connection.get_protocol_features())
			assert connection.refused(request, bytes(8)) in REFUSED, request.name
	source = (daemon.ROOT / "src/transport/vhost_user/messages.c").read_text()
	served = set(re.findall(r"\{ \"(\w+)\", vhost_user_", source))
	assert served == {request.name for request in GOOD}


@pytest.mark.parametrize("request_id", [request for request in GOOD if request not in PAIRED.values()], **IDS)
def test_ten_thousand_times(world, request_id):
	device = world.plug(GOOD[request_id][0])
	messages = variants(world, request_id)
	flood(device.connection, messages, WARM, 0)
	before = world.measure()
	flood(device.connection, messages, TIMES // sum(one == request_id for one, _, _ in messages), 0)
	world.unchanged(before)
	world.unplug()
	world.check()


@pytest.mark.parametrize("request_id", REFUSED_PAYLOAD, **IDS)
def test_thousands_of_times_refused(world, request_id):
	"""What a refused message brought is let go; what was there before it stays."""
	device = world.plug(GOOD[request_id][0])
	fds = next(fds for one, _, fds in variants(world, request_id) if one == request_id)
	messages = [(request_id, refused_payload(world, request_id), fds)]
	flood(device.connection, messages, WARM, 1)
	before = world.measure()
	flood(device.connection, messages, TIMES // 4, 1)
	world.unchanged(before)
	world.unplug()
	world.check()


def broken(payload, fds, spare):
	"""Forms in which a message ends its connection: (payload, descriptors, header's size or None, flags)."""
	if payload:
		yield payload[:-1], fds, None, VERSION
		yield b"", fds, None, VERSION
	yield payload + bytes(300), fds, None, VERSION
	yield payload, fds + [spare], None, VERSION
	yield payload, [spare] * MAX_FDS, None, VERSION
	if fds:
		yield payload, [], None, VERSION
	yield payload, fds, None, VERSION + 1
	yield payload, fds, 1 << 31, VERSION
	yield payload[:1], fds, max(len(payload), 2), VERSION	# and then nothing more
	yield b"\xff" * len(payload), fds, None, VERSION + 2	# of no version


@pytest.mark.parametrize("request_id", GOOD, **IDS)
def test_hundreds_of_broken_connections(world, request_id):
	"""A connection that ends within or because of a message, in each of the ways, in turn."""
	name = GOOD[request_id][0]
	path = world.server.path(f"{name}.sock")
	world.plug(name)
	[(payload, fds)] = [(payload, fds) for one, payload, fds in variants(world, request_id) if one == request_id][:1]
	fds = [os.dup(fd) for fd in fds]
	protocol = world.device.protocol
	world.unplug()
	forms = list(broken(payload, fds, world.event))
	hello = HEADER.pack(Request.SET_PROTOCOL_FEATURES, VERSION, 8) + U64.pack(protocol)

	def connect(number):
		payload, fds, size, flags = forms[number % len(forms)]
		with Connection(path) as connection:
			connection.send_raw(hello)
			connection.send(request_id, payload, fds, flags=flags, size=size)
			connection.sock.shutdown(socket.SHUT_WR)
			assert connection.closed()

	for number in range(len(forms)):
		connect(number)
	before = world.server.settled(world.measure, None, 0.2)
	for number in range(CONNECTS):
		connect(number)
	world.unchanged(before)
	close_all(fds)
	world.check()
