# SPDX-License-Identifier: BSD-3-Clause
"""
vhost-user messages, good and bad. A bad one must be refused in one of the two ways that the specification has: the
connection is closed, or, with REPLY_ACK, the answer is not zero. Whatever is sent, the daemon lives, leaks nothing and
its other devices go on: the lab fixture (conftest.py) checks that after each test.
"""
import os
import os
import random
import socket
import struct
import time

import pytest

from . import vhost_user
from .devices import S_OK, BlockDevice, NetDevice, Options
from .lab import GOOD, IDS, MEGABYTE, REFUSED, close_all, eventfds, real, region, take
from .memory import PAGE
from .vhost_user import (CONFIG, INFLIGHT_PADDED, SINGLE_REGION, U64, VRING_NO_FD, VRING_STATE, Closed, Connection,
			 Listener, Protocol, Request, pack_table)

pytestmark = pytest.mark.deadline(60)


# -- negotiation

COMMON = (Protocol.MQ | Protocol.REPLY_ACK | Protocol.CONFIG | Protocol.CONFIGURE_MEM_SLOTS | Protocol.RESET_DEVICE |
	  Protocol.STATUS | Protocol.LOG_SHMFD)


@pytest.mark.parametrize("name, protocol", [("a-net", COMMON | Protocol.NET_MTU), ("a-disk", COMMON | Protocol.INFLIGHT_SHMFD)])
def test_offered_features(lab, name, protocol):
	with Connection(lab.server.path(f"{name}.sock")) as connection:
		features = connection.get_features()
		for bit in ("F_VERSION_1", "F_PROTOCOL_FEATURES", "F_RING_INDIRECT_DESC", "F_RING_EVENT_IDX", "F_RING_PACKED",
			    "F_LOG_ALL"):
			assert features & getattr(vhost_user, bit), bit
		# Frames are used in order; requests of a disk complete as they do.
		assert bool(features & vhost_user.F_IN_ORDER) == (name == "a-net")
		assert not features & vhost_user.F_ACCESS_PLATFORM
		offered = connection.get_protocol_features()
		assert not protocol & ~offered, f"missing {protocol & ~offered!r}"
		assert connection.get_features() == features


def test_features_that_were_not_offered(lab):
	for request in (Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES):
		connection = lab.connect()
		assert connection.refused(request, U64.pack(1 << 63 | vhost_user.F_VERSION_1)) in REFUSED, request


def test_features_can_be_set_again(lab):
	connection = lab.connect()
	features = connection.get_features()
	for _ in range(3):
		connection.set_features(features & (vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES))


@pytest.mark.parametrize("name, pairs", [("a-net", 2), ("b-net", 1)])
def test_queue_number(lab, name, pairs):
	"""QEMU compares it with its queue pairs, Cloud Hypervisor with its queues: two for each pair, and a control queue."""
	assert lab.connect(name).get_queue_num() in (2 * pairs, 2 * pairs + 1)


def test_plain_messages(lab):
	net, disk = lab.connect("a-net"), lab.connect("a-disk")
	assert net.get_config(6) == bytes.fromhex("525400000001")
	assert struct.unpack("<Q", disk.get_config(8))[0] == 16 * MEGABYTE // 512
	assert disk.get_config(4, offset=20) == disk.get_config(60)[20:24]
	assert net.set_mtu(1500) == 0
	assert net.get_max_mem_slots() >= 8
	net.set_status(vhost_user.S_ACKNOWLEDGE | vhost_user.S_DRIVER)
	assert net.get_status() == vhost_user.S_ACKNOWLEDGE | vhost_user.S_DRIVER
	if net.protocol_features & Protocol.RARP:
		net.send_rarp(bytes.fromhex("525400000001"))
	net.reset_owner()
	net.reset_device()
	assert net.get_features()


@pytest.mark.parametrize("offset, size", [(0, 0x1000), (4096, 4), (0xffffffff, 4), (0xfffffffc, 8)])
def test_configuration_out_of_bounds(lab, offset, size):
	payload = CONFIG.pack(offset, size, 0) + bytes(min(size, 256))
	assert lab.connect().refused(Request.GET_CONFIG, payload) in REFUSED


def test_configuration_writes(lab):
	disk = lab.connect("a-disk")
	assert disk.set_config(0, bytes(8)) != 0, "capacity is read-only"
	net = lab.connect("a-net")
	assert net.refused(Request.SET_CONFIG, CONFIG.pack(4096, 4, 0) + bytes(4)) in REFUSED


@pytest.mark.parametrize("mtu", [0, 67, 65536, 1 << 40])
def test_impossible_mtu(lab, mtu):
	assert lab.connect().refused(Request.NET_SET_MTU, U64.pack(mtu)) in REFUSED


def test_memory_slots(lab):
	connection = lab.connect()
	for number in (0, 1):
		for _ in range(2):	# QEMU before 8.0 does both once for each queue pair
			connection.add_mem_reg(region(lab.memory, number), lab.memory.regions[number].fd)
	for _ in range(2):
		connection.rem_mem_reg(region(lab.memory, 0))
	payload = SINGLE_REGION.pack(0, *region(lab.memory, 1, size=PAGE))
	assert connection.refused(Request.REM_MEM_REG, payload) in REFUSED, "of another size"


def test_removed_region_may_carry_a_descriptor(lab):
	"""A back-end may accept it, and must close it then."""
	connection = lab.connect()
	before = lab.server.descriptors()
	for _ in range(20):
		connection.add_mem_reg(region(lab.memory), lab.memory.regions[0].fd)
		try:
			if connection.command(Request.REM_MEM_REG, SINGLE_REGION.pack(0, *region(lab.memory)), [lab.memory.regions[0].fd]):
				break
		except Closed:
			break
	assert lab.server.settled(lambda: lab.server.descriptors() <= before, True)


# -- messages that are good or wrong in themselves


@pytest.mark.parametrize("request_id, payload, fds, name", GOOD, ids=IDS)
def test_good_message(lab, request_id, payload, fds, name):
	payload, fds, made = real(lab, payload, fds)
	connection = lab.connect(name)
	take(connection, request_id, payload, fds)
	assert connection.get_features()
	close_all(made)


@pytest.mark.parametrize("request_id, payload, fds, name", GOOD, ids=IDS)
def test_wrong_size(lab, request_id, payload, fds, name):
	payload, fds, made = real(lab, payload, fds)
	wrong = {payload + b"\0", payload + bytes(64), payload[:-1], payload[:len(payload) // 2], b""} - {payload}
	if request_id == Request.GET_INFLIGHT_FD:
		wrong.discard(payload[:-4])	# the structure without its trailing padding is as good
	for bad in sorted(wrong):
		assert lab.connect(name).refused(request_id, bad, fds) in REFUSED, f"{len(bad)} bytes"
	close_all(made)


@pytest.mark.parametrize("request_id, payload, fds, name", GOOD, ids=IDS)
def test_surplus_and_missing_descriptors(lab, request_id, payload, fds, name):
	payload, fds, made = real(lab, payload, fds)
	before = lab.server.descriptors()
	extra = eventfds(1)
	for more in (1, 8, vhost_user.MAX_FDS - len(fds)):
		assert lab.connect(name).refused(request_id, payload, fds + extra * more) in REFUSED, f"{more} surplus"
	for less in range(len(fds)):
		assert lab.connect(name).refused(request_id, payload, fds[:less]) in REFUSED, f"{less} of {len(fds)}"
	close_all(made + extra)
	for thing in lab.open[2:]:
		thing.close()
	assert lab.server.settled(lambda: lab.server.descriptors() <= before, True), "descriptors leak"


@pytest.mark.parametrize("request_id", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_no_descriptor_flag(lab, request_id):
	connection = lab.connect()
	connection.must(request_id, U64.pack(0 | VRING_NO_FD))
	[event] = eventfds(1)
	assert connection.refused(request_id, U64.pack(0 | VRING_NO_FD), [event]) in REFUSED
	os.close(event)


@pytest.mark.parametrize("flags", [0, 2, 3, vhost_user.VERSION | vhost_user.FLAG_REPLY], ids=["v0", "v2", "v3", "reply"])
def test_wrong_header_flags(lab, flags):
	connection = lab.connect()
	assert connection.refused(Request.GET_FEATURES, flags=flags | vhost_user.FLAG_NEED_REPLY) in REFUSED


@pytest.mark.parametrize("size", [0xffffffff, 0x80000000, 1 << 20, 4097])
def test_enormous_size(lab, size):
	"""Refused by its header: the payload never comes, so waiting for it would be silence."""
	assert lab.connect().refused(Request.SET_MEM_TABLE, size=size) in REFUSED


UNKNOWN = [0, 44, 63, 64, 255, 256, 1 << 16, 0x7fffffff, 0xffffffff]
NOT_NEGOTIATED = [
	(Request.IOTLB_MSG, bytes(40)), (Request.SET_VRING_ENDIAN, bytes(8)), (Request.CREATE_CRYPTO_SESSION, bytes(64)),
	(Request.CLOSE_CRYPTO_SESSION, bytes(8)), (Request.POSTCOPY_ADVISE, b""), (Request.POSTCOPY_LISTEN, b""),
	(Request.POSTCOPY_END, b""), (Request.GPU_SET_SOCKET, b""), (Request.VRING_KICK, bytes(8)),
	(Request.GET_SHARED_OBJECT, bytes(16)), (Request.GET_INFLIGHT_FD, INFLIGHT_PADDED.pack(0, 0, 1, 128)),
	(Request.GET_MAX_MEM_SLOTS, b""), (Request.GET_STATUS, b""), (Request.SET_STATUS, U64.pack(1)),
	(Request.RESET_DEVICE, b""), (Request.SET_DEVICE_STATE_FD, bytes(8)), (Request.CHECK_DEVICE_STATE, b""),
]


@pytest.mark.parametrize("number", UNKNOWN)
def test_unknown_request(lab, number):
	for payload in (b"", bytes(8), bytes(200)):
		assert lab.connect().refused(number, payload) in REFUSED, f"{len(payload)} bytes"


@pytest.mark.parametrize("request_id, payload", NOT_NEGOTIATED, ids=[entry[0].name for entry in NOT_NEGOTIATED])
def test_request_of_a_feature_not_negotiated(lab, request_id, payload):
	connection = lab.connect(protocol=Protocol.REPLY_ACK)
	assert connection.refused(request_id, payload) in REFUSED


# -- framing


def test_truncated_messages(lab):
	message = vhost_user.HEADER.pack(Request.SET_VRING_NUM, vhost_user.VERSION, 8) + VRING_STATE.pack(0, 256)
	before = lab.server.descriptors()
	[event] = eventfds(1)
	for length in range(1, len(message)):
		with Connection(lab.server.path("a-net.sock")) as connection:
			connection.send_raw(message[:length], [event])
	os.close(event)
	assert lab.server.settled(lambda: lab.server.descriptors() <= before, True)


def test_slow_sender_holds_nobody_up(lab):
	connection = lab.connect()
	for byte in vhost_user.HEADER.pack(Request.GET_FEATURES, vhost_user.VERSION, 0):
		lab.check()
		connection.send_raw(bytes([byte]))
	assert connection.reply_to(Request.GET_FEATURES).u64()


def test_payload_after_its_header(lab):
	connection = lab.connect()
	payload = pack_table([region(lab.memory)])
	flags = vhost_user.VERSION | vhost_user.FLAG_NEED_REPLY
	connection.send_raw(vhost_user.HEADER.pack(Request.SET_MEM_TABLE, flags, len(payload)), [lab.memory.regions[0].fd])
	time.sleep(0.1)
	connection.send_raw(payload[:11])
	time.sleep(0.1)
	connection.send_raw(payload[11:])
	assert connection.reply_to(Request.SET_MEM_TABLE).u64() == 0


def test_many_messages_in_one_write(lab):
	connection = lab.connect()
	connection.send_raw(vhost_user.HEADER.pack(Request.GET_FEATURES, vhost_user.VERSION, 0) * 100)
	assert len({connection.reply_to(Request.GET_FEATURES).u64() for _ in range(100)}) == 1


def test_reader_that_never_reads(lab):
	"""Replies pile up until the socket is full: that must not hold the daemon up."""
	connection = lab.connect()
	connection.sock.setblocking(False)
	data = vhost_user.HEADER.pack(Request.GET_FEATURES, vhost_user.VERSION, 0) * 100
	deadline = time.monotonic() + 2
	while time.monotonic() < deadline:
		try:
			connection.sock.send(data)
		except BlockingIOError:
			time.sleep(0.05)
		except (BrokenPipeError, ConnectionResetError):
			break
	lab.check()


def test_noise(lab):
	generator = random.Random(2)
	for _ in range(200):
		with Connection(lab.server.path("a-net.sock")) as connection:
			try:
				connection.send_raw(generator.randbytes(generator.randrange(1, 400)))
			except Closed:
				pass


# -- repetition: nothing may grow


def repeated(lab, name, action, times=200):
	connection = lab.connect(name)
	action(connection)
	before = lab.server.descriptors(), lab.server.mappings()
	for _ in range(times):
		action(connection)
	after = lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), before)
	assert after == before, "(descriptors, mappings) grew"


@pytest.mark.parametrize("request_id, payload, fds, name", GOOD, ids=IDS)
def test_repeated_message(lab, request_id, payload, fds, name):
	def action(connection):
		body, descriptors, made = real(lab, payload, fds)
		if request_id == Request.ADD_MEM_REG:
			connection.must(request_id, body, descriptors)
			connection.rem_mem_reg(region(lab.memory))
		else:
			take(connection, request_id, body, descriptors)
		close_all(made)
	repeated(lab, name, action)


def test_repeated_bad_messages(lab):
	before = lab.server.descriptors(), lab.server.mappings()
	payload = pack_table([region(lab.memory, 0), region(lab.memory, 0)])
	for _ in range(200):
		with lab.connect() as connection:
			assert connection.refused(Request.SET_MEM_TABLE, payload, [lab.memory.regions[0].fd] * 2) in REFUSED
	after = lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), before)
	assert after == before


def test_repeated_connections(lab):
	def whole_life():
		with BlockDevice(lab.server.path("a-disk.sock"), Options(inflight=True)) as disk:
			assert disk.read(0, 512).status == S_OK
	whole_life()
	before = lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), None, 0.5)
	for _ in range(200):
		whole_life()
	after = lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), before)
	assert after == before


# -- sockets


def test_second_connection_does_not_disturb_the_first(lab):
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		second = socket.socket(socket.AF_UNIX)
		second.settimeout(0.5)
		try:
			second.connect(lab.server.path("a-disk.sock"))
			second.sendall(vhost_user.HEADER.pack(Request.SET_OWNER, vhost_user.VERSION, 0))
		except OSError:
			pass
		assert disk.read(0, 512).status == S_OK
		second.close()
		assert disk.read(0, 512).status == S_OK


def test_client_mode(serve, tmp_path):
	"""The daemon connects to us, and again after we go."""
	listener = Listener(tmp_path / "c.sock")
	server = serve(interfaces={"c-net": f"mode: client, socket: {listener.path}"})
	for _ in range(3):
		with NetDevice(connection=listener.accept()) as net:
			assert net.features & vhost_user.F_VERSION_1
	assert server.alive()
	listener.close()
