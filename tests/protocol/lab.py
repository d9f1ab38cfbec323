# SPDX-License-Identifier: BSD-3-Clause
"""
A laboratory for messages: a daemon with devices to offend, a neighbour that must not notice, and a table of good messages
from which bad ones are made.
"""
import os

from . import vhost_user
from .devices import S_OK, BlockDevice
from .memory import PAGE, GuestMemory
from .vhost_user import (CONFIG, INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VRING_STATE, Connection, Protocol,
			 Request, pack_table)

REFUSED = ("closed", "error")
MEGABYTE = 1 << 20


class Lab:
	"""A daemon with devices to offend and a neighbour that must not notice."""

	def __init__(self, server):
		self.server = server
		self.neighbour = BlockDevice(server.path("n-disk.sock"))
		self.memory = GuestMemory(2, MEGABYTE)
		self.open = [self.neighbour, self.memory]

	def connect(self, name="a-net", protocol=None):
		"""
		A connection with every offered protocol feature (or @protocol), an owner and VERSION_1. It takes the place of
		the one before it: a device has one front-end at a time.
		"""
		for earlier in [thing for thing in self.open if isinstance(thing, Connection)]:
			if earlier.label == str(self.server.path(f"{name}.sock")):
				earlier.close()
				self.open.remove(earlier)
		connection = Connection(self.server.path(f"{name}.sock"))
		self.open.append(connection)
		features = connection.get_features()
		offered = connection.get_protocol_features()
		wanted = Protocol(offered if protocol is None else offered & protocol)
		connection.set_protocol_features(wanted & ~Protocol.INBAND_NOTIFICATIONS)
		connection.set_owner()
		connection.set_features(features & (vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES))
		return connection

	def check(self):
		data = os.urandom(4096)
		assert self.server.alive()
		assert self.neighbour.write(8, data).status == S_OK
		assert self.neighbour.read(8, 4096).data == data

	def close(self):
		for thing in reversed(self.open):
			thing.close()


def eventfds(count):
	return [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(count)]


def close_all(fds):
	for fd in fds:
		os.close(fd)


def region(memory, number=0, **changes):
	guest, size, user, offset = memory.regions[number].entry()
	return (changes.get("guest", guest), changes.get("size", size), changes.get("user", user),
		changes.get("offset", offset))


EVENT = "event"			# stands for an eventfd
FIRST = "memory"		# stands for the descriptor of the first region
TABLE = object()		# stands for the table of both regions

# request, good payload, good descriptors, device
GOOD = [
	(Request.GET_FEATURES, b"", [], "a-net"),
	(Request.SET_FEATURES, U64.pack(vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES), [], "a-net"),
	(Request.GET_PROTOCOL_FEATURES, b"", [], "a-net"),
	(Request.SET_OWNER, b"", [], "a-net"),
	(Request.RESET_OWNER, b"", [], "a-net"),
	(Request.SET_MEM_TABLE, TABLE, [FIRST, FIRST], "a-net"),
	(Request.SET_LOG_BASE, LOG.pack(PAGE, 0), [FIRST], "a-net"),
	(Request.SET_LOG_FD, b"", [EVENT], "a-net"),
	(Request.SET_VRING_NUM, VRING_STATE.pack(0, 256), [], "a-net"),
	(Request.SET_VRING_BASE, VRING_STATE.pack(0, 0), [], "a-net"),
	(Request.GET_VRING_BASE, VRING_STATE.pack(0, 0), [], "a-net"),
	(Request.SET_VRING_KICK, U64.pack(0), [EVENT], "a-net"),
	(Request.SET_VRING_CALL, U64.pack(0), [EVENT], "a-net"),
	(Request.SET_VRING_ERR, U64.pack(0), [EVENT], "a-net"),
	(Request.GET_QUEUE_NUM, b"", [], "a-net"),
	(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 0), [], "a-net"),
	(Request.NET_SET_MTU, U64.pack(1500), [], "a-net"),
	(Request.GET_CONFIG, CONFIG.pack(0, 8, 0) + bytes(8), [], "a-disk"),
	(Request.GET_INFLIGHT_FD, INFLIGHT_PADDED.pack(0, 0, 1, 128), [], "a-disk"),
	(Request.RESET_DEVICE, b"", [], "a-net"),
	(Request.GET_MAX_MEM_SLOTS, b"", [], "a-net"),
	(Request.ADD_MEM_REG, "region", [FIRST], "a-net"),
	(Request.SET_STATUS, U64.pack(1), [], "a-net"),
	(Request.GET_STATUS, b"", [], "a-net"),
]
IDS = [entry[0].name for entry in GOOD]


def real(lab, payload, fds):
	"""Replace the stand-ins. Return: (payload, descriptors, those to close)."""
	if payload is TABLE:
		payload = pack_table([region(lab.memory, 0), region(lab.memory, 1)])
	elif payload == "region":
		payload = SINGLE_REGION.pack(0, *region(lab.memory))
	made = eventfds(fds.count(EVENT))
	spare = iter(made)
	return payload, [next(spare) if fd == EVENT else lab.memory.regions[0].fd for fd in fds], made


def take(connection, request_id, payload, fds):
	"""A good message must succeed; but a second SET_OWNER may fail, as it does with the kernel's vhost."""
	if request_id in vhost_user.REPLIED:
		connection.call(request_id, payload, fds).close()
	elif request_id == Request.SET_OWNER:
		connection.command(request_id, payload, fds)
	else:
		connection.must(request_id, payload, fds)
