# SPDX-License-Identifier: BSD-3-Clause
"""
Live migration of a disk whose image two daemons have open: the lock goes from one to the other with the guest, and
nobody else gets it while a guest's queues merely pause.
"""
import fcntl
import os
import struct

import pytest

from . import server as daemon
from .devices import S_OK, SECTOR, BlockDevice, Options
from .server import ServerFailure
from .vhost_user import Closed, ProtocolError

F_OFD_GETLK, F_OFD_SETLK = 36, 37	# Linux; Python 3.11 has no names for them
FLOCK = struct.Struct("hhqqi4x")
SIZE = 4 << 20


@pytest.fixture
def image(tmp_path):
	path = tmp_path / "disk.raw"
	path.write_bytes(bytes(SIZE))
	return path


@pytest.fixture
def plug(serve, image):
	"""plug() starts one more daemon on the image and connects; plug(start=False) stops before the first message."""
	devices = []

	def start_one(further="handover: true", **keywords):
		server = serve(networks=(), disks={"d": (f"type: file, path: {image}, {further}", "queues: 2")})
		devices.append(BlockDevice(server.path("d.sock"), Options(queues=2), **keywords))
		return server, devices[-1]

	yield start_one
	for device in devices:
		device.close()


def locked(path):
	fd = os.open(path, os.O_RDWR)
	try:
		answer = fcntl.fcntl(fd, F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
	finally:
		os.close(fd)
	return FLOCK.unpack(answer)[0] != fcntl.F_UNLCK


def refused(device):
	try:
		device.bring_up()
	except (Closed, ProtocolError):
		return True
	return False


def test_locked_while_a_guest_uses_it(plug, image):
	server, device = plug(start=False)
	assert not locked(image)
	device.bring_up()
	assert locked(image)
	# What a migration does at its beginning, and memory hot-plug: queues stop for a moment.
	device.connection.set_features(device.features)
	device.connection.set_vring_enable(0, 0)
	device.connection.set_vring_enable(1, 0)
	assert locked(image)
	assert device.connection.get_vring_base(0) == 0
	assert locked(image), "one of two queues is stopped"
	device.connection.get_vring_base(1)
	assert not locked(image), "the reply came before the lock was given up"
	# The migration failed: the guest goes on here.
	device.start_queues([0, 0])
	assert locked(image)
	device.close()
	assert not server.settled(lambda: locked(image), False)


def test_the_guest_goes_on_at_the_other_daemon(plug, image):
	_, source = plug()
	_, target = plug(start=False)
	data = os.urandom(4 * SECTOR)
	assert source.write(0, data).status == S_OK
	source.stop_queues()
	target.bring_up()
	assert target.read(0, len(data)).data == data
	assert locked(image)


def test_two_guests_cannot_have_it(plug, image):
	server, one = plug()
	_, other = plug(start=False)
	assert refused(other)
	assert one.write(0, os.urandom(SECTOR)).status == S_OK
	one.close()
	assert not server.settled(lambda: locked(image), False)
	other.close()
	with BlockDevice(other.socket_path, Options(queues=2)) as again:
		assert again.read(0, SECTOR).status == S_OK


def test_size_is_that_of_the_handover(plug, image):
	"""The source's disk was grown after the destination had opened the image."""
	_, target = plug(start=False)
	os.truncate(image, 2 * SIZE)
	target.bring_up()
	assert target.connection.get_config(8) == struct.pack("<Q", 2 * SIZE // SECTOR)
	assert target.read(2 * SIZE // SECTOR - 8, 8 * SECTOR).status == S_OK


def test_without_the_key_the_second_daemon_does_not_start(plug, image):
	plug(further="direct: true")
	assert locked(image)
	with pytest.raises(ServerFailure, match="handover"):
		daemon.Server(daemon.configuration(networks=(), disks={"d": f"type: file, path: {image}"}))


def test_the_key_does_not_open_what_another_has_locked(plug, image):
	fd = os.open(image, os.O_RDWR)
	fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
	server, device = plug(start=False)
	assert refused(device)
	assert "in use by another" in server.tail()
	os.close(fd)
	device.close()
	with BlockDevice(device.socket_path, Options(queues=2)) as again:
		assert again.read(0, SECTOR).status == S_OK
