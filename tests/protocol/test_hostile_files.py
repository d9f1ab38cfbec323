# SPDX-License-Identifier: BSD-3-Clause
"""
Files that make whoever touches them wait: passed as anything, they may cost their sender its connection, but neither
the daemon nor a neighbour may wait for them.
"""
import array
import contextlib
import fcntl
import os
import signal
import socket
import struct
import threading
import time

import pytest

from .devices import S_OK, BlockDevice
from .fuse import SIZE, Fuse
from .memory import PAGE
from .rings import Raw
from .vhost_user import (FLAG_NEED_REPLY, HEADER, INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VERSION, Connection, Protocol,
			 Request, pack_table)

pytestmark = pytest.mark.deadline(60)

SOON = 3.0	# a daemon that answers does so in milliseconds; one that waits does not answer for hours


def lingering():
	"""A TCP socket whose last close() waits for an hour: bytes that its peer never takes, and SO_LINGER. Return: both."""
	with socket.socket() as listener:
		listener.bind(("127.0.0.1", 0))
		listener.listen(1)
		ours = socket.socket()
		ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
		ours.connect(listener.getsockname())
		peer, _ = listener.accept()
	ours.setblocking(False)
	try:
		while True:
			ours.send(bytes(1 << 16))
	except BlockingIOError:
		pass
	ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
	return ours, peer


class asleep:
	"""The daemon looks at nothing while the block runs: what is closed in it is closed before the daemon sees it."""

	def __init__(self, server):
		self.pid = server.pid

	def __enter__(self):
		os.kill(self.pid, signal.SIGSTOP)

	def __exit__(self, *_):
		os.kill(self.pid, signal.SIGCONT)


def send_off(sock, data, files):
	"""Send @data with @files, and keep no file of it: the receiver's descriptor becomes the last one."""
	numbers = array.array("i", [file.fileno() for file in files])
	sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
	for file in files:
		file.close()


def answers(lab):
	"""The control thread takes commands, new connections and messages, and the neighbour is served."""
	assert lab.server.control(timeout=SOON, command="status")
	with Connection(lab.server.path("b-net.sock"), timeout=SOON) as other:
		other.get_features()
	lab.check()


def message(request, payload=b""):
	return HEADER.pack(request, VERSION | FLAG_NEED_REPLY, len(payload)) + payload


GUEST, USER = 0x10_0000, 0x7000_0000_0000
TABLE = pack_table([(GUEST, SIZE, USER, 0)])
# What takes a file: by the right number of them, and by one too many.
TAKERS = [
	(Request.SET_MEM_TABLE, TABLE),
	(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, GUEST, SIZE, USER, 0)),
	(Request.SET_LOG_BASE, LOG.pack(PAGE, 0)),
	(Request.SET_LOG_FD, b""),
	(Request.SET_VRING_KICK, U64.pack(0)),
	(Request.SET_VRING_CALL, U64.pack(0)),
	(Request.SET_VRING_ERR, U64.pack(0)),
	(Request.SET_BACKEND_REQ_FD, b""),
	(Request.SET_INFLIGHT_FD, INFLIGHT_PADDED.pack(PAGE, 0, 1, 16)),
	(Request.GET_FEATURES, b""),
]
IDS = [request.name for request, _ in TAKERS]


@pytest.mark.parametrize("request_id, payload", TAKERS, ids=IDS)
def test_socket_that_lingers(lab, request_id, payload):
	ours, peer = lingering()
	connection = lab.connect("a-disk")
	with peer:
		with asleep(lab.server):
			send_off(connection.sock, message(request_id, payload), [ours])
		answers(lab)


def test_many_sockets_that_linger(lab):
	"""More descriptors than any message may have: the kernel closes what it has no room for."""
	pairs = [lingering() for _ in range(40)]
	connection = lab.connect("a-disk")
	with asleep(lab.server):
		send_off(connection.sock, message(Request.GET_FEATURES), [ours for ours, _ in pairs])
	answers(lab)
	# They wait in vain for the device, which is its own front-end's; everybody else's are served.
	for _, peer in pairs:
		peer.close()


def test_sockets_that_linger_in_queues(lab):
	"""In messages that nobody reads: behind a bad one, of a second front-end, of a channel for back-end requests."""
	pairs = [lingering() for _ in range(3)]
	connection = lab.connect("a-disk", Protocol.BACKEND_REQ | Protocol.REPLY_ACK)
	ours, channel = socket.socketpair()
	connection.must(Request.SET_BACKEND_REQ_FD, fds=[channel.fileno()])
	channel.close()
	with asleep(lab.server), socket.socket(socket.AF_UNIX) as second:
		send_off(ours, b"?", [pairs[0][0]])
		second.connect(lab.server.path("a-disk.sock"))
		send_off(second, message(Request.GET_FEATURES), [pairs[1][0]])
		connection.send(99)
		send_off(connection.sock, message(Request.GET_FEATURES), [pairs[2][0]])
	answers(lab)
	for _, peer in pairs:
		peer.close()
	ours.close()


def test_device_comes_back(lab):
	"""When the file has let go at last, the device has a front-end again."""
	ours, peer = lingering()
	connection = lab.connect("a-disk")
	with asleep(lab.server):
		send_off(connection.sock, message(Request.SET_VRING_KICK, U64.pack(0)), [ours])
	connection.close()
	answers(lab)
	peer.close()
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		assert disk.write(0, bytes(512)).status == S_OK


def close_in_vain(fd):
	with contextlib.suppress(OSError):
		os.close(fd)


@pytest.mark.parametrize("request_id, payload", TAKERS, ids=IDS)
def test_file_system_that_hangs(lab, request_id, payload):
	"""Neither fstat() nor a fault nor close() of it returns before the test lets it go."""
	try:
		fuse = Fuse()
	except OSError as error:
		pytest.skip(f"no FUSE here: {error}")
	with contextlib.ExitStack() as stack:
		stack.callback(fuse.release)
		fd = fuse.open()
		connection = lab.connect("a-disk")
		with asleep(lab.server):
			connection.send(request_id, payload, [fd], need_reply=True)
			fuse.hang()
			threading.Thread(target=close_in_vain, args=[fd], daemon=True).start()
			time.sleep(0.1)
		answers(lab)


def spoil(fd):
	"""As full as it can be, and blocking, whatever the daemon made of it."""
	fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
	with contextlib.suppress(BlockingIOError):
		os.eventfd_read(fd)
	os.eventfd_write(fd, (1 << 64) - 2)
	fcntl.fcntl(fd, fcntl.F_SETFL, 0)


def test_full_eventfds(lab):
	"""An interrupt that nobody takes: the disk goes on, and so does its neighbour on the same sidecore."""
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		queue = disk.queues[0]
		for fd in queue.call_fd, queue.err_fd:
			spoil(fd)
		for number in range(20):
			assert disk.write(number, os.urandom(512)).status == S_OK
		answers(lab)
		# A break is told by the control thread.
		queue.add_raw([Raw(disk.memory.hole(), 512, 0)])
		queue.publish()
		queue.kick(force=True)
		assert lab.server.wait_broken("disks", "a-disk", 0)
		answers(lab)
		for fd in queue.call_fd, queue.err_fd:
			fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
