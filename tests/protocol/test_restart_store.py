# SPDX-License-Identifier: BSD-3-Clause
"""
A restart by the service manager: SIGTERM leaves the clients of emulated devices in its store of files, the next start takes
them over. There is no systemd here: Manager stands in for it, by sd_notify(3) and sd_listen_fds(3).

And what comes from such a store is not trusted: parcels that were damaged.
"""
import array
import contextlib
import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import threading

import pytest

from . import child, emulated, nbd_server, server as daemon
from .emulated import DATA, MEGABYTE, Card, Nvme, command, wait_for
from .nbd_server import NbdServer
from .test_restart import CARDS, Restarted, asked, frame
from .vfio_user import ACCESS, Closed, Command

NAME = "sidecore-handover"
LABEL = struct.Struct("<QIIII16s64s")		# magic, version, length, files, reserved, kind, name
PARCEL_MAGIC, PARCEL_VERSION = 0x4c435250454449, 1
SEALS = 0x000f		# F_SEAL_SEAL, _SHRINK, _GROW, _WRITE
F_ADD_SEALS = 1033


class Manager:
	"""What systemd does with sd_notify's FDSTORE, FDSTOREREMOVE and BARRIER, and passes at the next start."""

	def __init__(self, path):
		self.said, self.stored, self.barriers = [], [], 0
		self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		self.sock.bind(path)
		self.end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)	# the path goes before we do
		self.end.connect(path)
		self.thread = threading.Thread(target=self.listen, daemon=True)
		self.thread.start()

	def listen(self):
		while True:
			text, ancillary, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(64 * 4))
			fds = [fd for _, _, content in ancillary for fd in array.array("i", content)]
			fields = dict(line.split("=", 1) for line in text.decode().splitlines())
			self.said.append(fields)
			if "END" in fields:
				return
			if "FDSTORE" in fields:
				assert fields == {"FDSTORE": "1", "FDNAME": NAME, "FDPOLL": "0"}
				for fd in fds:
					self.store(fd)
			elif fields.get("FDSTOREREMOVE") == "1":
				assert fields["FDNAME"] == NAME
				self.forget()
			else:
				self.barriers += "BARRIER" in fields
				for fd in fds:
					os.close(fd)

	def store(self, fd):
		"""What is there already is not kept twice."""
		if os.fstat(fd).st_ino in [os.fstat(other).st_ino for other in self.stored]:
			os.close(fd)
		else:
			self.stored.append(fd)

	def forget(self):
		while self.stored:
			os.close(self.stored.pop())

	def close(self):
		self.end.send(b"END=1")
		self.end.close()
		self.thread.join()
		self.sock.close()
		self.forget()


class Managed(Restarted):
	"""A daemon that is started and ended as by systemd."""

	def start(self, timeout=20.0, wait=True):
		if not hasattr(self, "manager"):
			self.manager, self.store = Manager(self.path("notify")), "512"
		ready = self.log.read_text().count("\nready\n") if self.log.exists() else 0
		self.launch()
		wait_for(lambda: self.process.poll() is not None or self.log.read_text().count("\nready\n") > ready, "a start", timeout)
		assert self.process.poll() is None, self.tail()

	def launch(self, name=NAME):
		fds = self.manager.stored[::-1]		# in another order
		script = "".join(f"exec {3 + i}<&{fd} {fd}<&-; " for i, fd in enumerate(fds))
		environment = dict(os.environ, NOTIFY_SOCKET=self.path("notify"), FDSTORE=self.store, LISTEN_FDS=str(len(fds)),
				   LISTEN_FDNAMES=":".join([name] * len(fds)))
		command_line = ["bash", "-c", script + 'export LISTEN_PID=$$; exec "$@"', "bash", str(daemon.binary().resolve()), "serve",
				"config.yaml"]
		assert not fds or min(fds) > 2 + len(fds)
		with open(self.log, "ab") as log:
			self.process = child.start(command_line, cwd=self.directory, stdout=log, stderr=log, env=environment, pass_fds=fds)

	def end(self, number=signal.SIGTERM):
		self.process.send_signal(number)
		assert self.process.wait(20) == 0, self.tail()

	def __exit__(self, *arguments):
		try:
			super().__exit__(*arguments)
		finally:
			self.manager.close()


@pytest.fixture
def server():
	# Numbers low enough for a shell are taken by files of the daemon to be: keep ours away from them.
	spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(24)]
	try:
		with Managed() as running:
			yield running
	finally:
		for fd in spare:
			os.close(fd)


def test_store(server):
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	other = Card(server.path("e1000-net.sock"), "e1000")
	queue = disk.create(1)
	for number in range(3):
		server.end()
		assert len(server.manager.stored) == 3 and server.manager.barriers == number + 1
		# Between the daemons: what is asked and submitted now waits.
		asked = card.connection.send(Command.REGION_READ, ACCESS.pack(8, 0, 4))
		submitted = queue.add(command(emulated.READ, 1, DATA, dw10=0, dw12=7), ring=False)
		disk.connection.post_write(0, 0x1000 + 64, struct.pack("<I", queue.tail))
		server.start()
		wait_for(lambda: not server.manager.stored, "the store is emptied")
		card.connection.reply_to(Command.REGION_READ, asked)
		assert wait_for(queue.take, "a completion") == (submitted, 0, 0)
		queue.taken()
		card.send(frame(number))
		other.expect(frame(number))
	assert {"READY": "1", "STATUS": "serving"} in server.manager.said
	assert server.status()["taken_over"] == 3
	server.end()
	server.manager.forget()		# systemctl stop
	assert all(guest.connection.closed() for guest in (card, disk, other))
	server.start()
	for guest in (card, disk, other):
		guest.close()


def test_without_a_store(server):
	"""SIGINT, or a manager that keeps nothing: clients are disconnected, as ever."""
	card = Card(server.path("igb-net.sock"), "igb")
	server.end(signal.SIGINT)
	assert card.connection.closed() and not server.manager.stored
	card.close()
	server.store = "0"
	server.start()
	card = Card(server.path("igb-net.sock"), "igb")
	server.end()
	assert card.connection.closed() and not server.manager.stored
	card.close()
	server.start()


def test_both_ways(server):
	"""A restart in place below a service manager, then one by it."""
	card = Card(server.path("igb-net.sock"), "igb")
	assert server.restart() == 1
	server.end()
	server.start()
	assert server.restart() == 1 and card.read(8)
	card.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_start_that_fails(server, number):
	"""Its clients stay in the store, however it ends, and an attempt that succeeds has them."""
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	server.end()
	server.configure(image="/dev/null")
	for _ in range(2):
		count = server.attempts()
		server.launch()
		wait_for(lambda: server.attempts() > count + 1, "attempts")
		server.process.send_signal(number)
		assert server.process.wait(10) == (1 if number == signal.SIGTERM else -number)
		assert len(server.manager.stored) == 2
	take = asked(card)
	server.configure()
	server.start()
	take()
	wait_for(lambda: not server.manager.stored, "the store is emptied")
	assert server.status()["taken_over"] == 2 and disk.works()
	card.close()
	disk.close()


def test_restart_in_place_that_fails(server):
	"""The store has its clients from the moment at which they are left."""
	card = Card(server.path("igb-net.sock"), "igb")
	server.configure(image="/dev/null")
	assert server.control(command="restart") == {"restart": "begun"}
	wait_for(server.attempts, "a start that fails")
	assert len(server.manager.stored) == 1
	server.process.kill()
	server.process.wait()
	server.configure()
	server.start()
	assert server.status()["taken_over"] == 1 and card.read(8)
	wait_for(lambda: not server.manager.stored, "the store is emptied")
	card.close()


@pytest.mark.parametrize("what", ["another version", "another file", "nothing"])
def test_sockets_that_cannot_be_taken_over(server, what):
	"""An upgrade has another format: they are made anew, although those before listen for a moment still."""
	server.end()
	numbers = range(3 if what == "nothing" else 300)	# more than are closed at once
	with contextlib.ExitStack() as stack:
		names = [*(name + ".sock" for name in CARDS), *(f"other-{number}.sock" for number in numbers)]
		sockets = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in names]
		for name, listener in zip(names, sockets):
			listener.bind(server.path(name))
			listener.listen()
		fds = [listener.fileno() for listener in sockets]
		messages = [fds[start:start + 128] for start in range(0, len(fds), 128)]
		version = PARCEL_VERSION + 1 if what == "another version" else PARCEL_VERSION
		if what == "another file":
			messages[0][0] = os.open("/dev/null", os.O_RDONLY)
			stack.callback(os.close, messages[0][0])
		content = b"" if what == "nothing" else saved_listeners([server.path(name) for name in names])
		fields = [PARCEL_MAGIC, version, len(content), len(fds), 0, b"listeners", b""]
		server.manager.stored = [put_together(fields, content, messages)]
		os.set_inheritable(server.manager.stored[0], True)
		# The parcel alone keeps them open, as after execv().
		for listener in sockets:
			listener.close()
		server.launch("sidecore-listeners")
		server.manager.forget()
	wait_for(lambda: server.process.poll() is not None or server.log.read_text().count("\nready\n") > 1, "a start")
	assert server.alive(), server.tail()
	assert server.logged("made anew") or what == "another file"
	card = Card(server.path("igb-net.sock"), "igb")
	assert card.read(8)
	card.close()


def test_killed_in_the_midst(server, tmp_path):
	"""While it waits for the disk of one guest: that one's device is lost, not those that have been left."""
	with NbdServer(tmp_path / "nbd", 4 * MEGABYTE) as nbd:
		server.backend = f'type: nbd, uri: "{nbd.uri}"'
		server.configure()
		assert server.restart() == 0
		card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
		queue = disk.create(1)
		nbd.answer = nbd_server.silent
		queue.add(command(emulated.READ, 1, DATA, dw10=0, dw12=7))
		wait_for(lambda: nbd.seen, "a request")
		server.process.send_signal(signal.SIGTERM)
		wait_for(lambda: server.manager.stored, "a client in the store")
		server.process.kill()
		server.process.wait()
		nbd.answer = nbd_server.honest
		server.start()
		assert server.status()["taken_over"] == 1 and card.read(8)
		assert disk.connection.closed()
		card.close()
		disk.close()
		again = Nvme(server.path("n-disk.sock"))
		assert again.works()
		again.close()


# -- parcels

def take_apart(fd):
	"""Return: (label's fields, bytes, [descriptors of one message each])."""
	with socket.socket(fileno=os.dup(fd)) as sock:
		text, fds, _, _ = socket.recv_fds(sock, 4096, 8, socket.MSG_DONTWAIT)
		fields = list(LABEL.unpack(text))
		content = bytes(mmap.mmap(fds[0], fields[2], prot=mmap.PROT_READ))
		os.close(fds[0])
		messages = []
		while sum(map(len, messages)) < fields[3]:
			messages.append(socket.recv_fds(sock, 4, 253, socket.MSG_DONTWAIT)[1])
	return fields, content, messages


def put_together(fields, content, messages):
	memory = os.memfd_create("parcel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
	os.write(memory, content)
	fcntl.fcntl(memory, F_ADD_SEALS, SEALS)
	inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
	with inside:
		socket.send_fds(inside, [LABEL.pack(*fields)], [memory])
		for fds in messages:
			socket.send_fds(inside, [struct.pack("<I", len(fds))], fds)
	os.close(memory)
	return outside.detach()


def saved_listeners(paths):
	"""The sections of src/transport/listeners.c: the group, then each one's path and identity."""
	entries = b""
	for path in paths:
		status = os.stat(path)
		entries += struct.pack("<108s4xQQ", path.encode(), status.st_dev, status.st_ino)
	return struct.pack("<IIi", 0x50001, 4, -1) + struct.pack("<II", 0x50000, len(entries)) + entries


def another(server, guest, change):
	"""Ends the daemon, changes what it has left with @change(fields, content, messages), and starts another one."""
	server.end()
	assert len(server.manager.stored) == 1
	fields, content, messages = take_apart(server.manager.stored[0])
	changed = change(list(fields), bytearray(content), [list(fds) for fds in messages])
	server.manager.forget()
	with contextlib.ExitStack() as stack:
		for fds in messages:
			for fd in fds:
				stack.callback(os.close, fd)
		server.manager.stored = [os.dup(changed) if isinstance(changed, int) else put_together(*changed)]
		os.set_inheritable(server.manager.stored[0], True)
	server.start()
	assert server.alive()


def no_socket(fields, content, messages):
	return os.open("/dev/zero", os.O_RDONLY)


def other_version(fields, content, messages):
	fields[1] += 1
	return fields, content, messages


def too_short(fields, content, messages):
	fields[2] //= 2
	return fields, content[:fields[2]], messages


def not_as_long_as_it_says(fields, content, messages):
	fields[2] += 1
	return fields, content, messages


def a_file_is_missing(fields, content, messages):
	messages[-1].pop()
	fields[3] -= 1
	return fields, content, messages


def files_in_another_order(fields, content, messages):
	messages[0].reverse()
	return fields, content, messages


def a_section_too_many(fields, content, messages):
	content += struct.pack("<II", 1, 0)
	fields[2] += 8
	return fields, content, messages


@pytest.mark.parametrize("kind, change", [
	("igb", no_socket), ("nvme", other_version), ("igb", too_short), ("nvme", not_as_long_as_it_says), ("igb", a_file_is_missing),
	("nvme", files_in_another_order), ("igb", files_in_another_order), ("nvme", a_section_too_many)])
def test_damaged(server, kind, change):
	"""The client is let go, and the next one finds a device as after power-on."""
	name = server.path("igb-net.sock" if kind == "igb" else "n-disk.sock")
	guest = Card(name, "igb") if kind == "igb" else Nvme(name)
	another(server, guest, change)
	assert guest.connection.closed()
	guest.close()
	said = server.log.read_text()
	assert "is let go: " in said or "cannot be served: " in said
	assert "another format" in said or change is not other_version
	assert Card(name, "igb").read(8) if kind == "igb" else Nvme(name).works()


@pytest.mark.parametrize("seed", range(2))
def test_bits_that_have_changed(server, seed):
	"""Whatever the new daemon makes of it, it serves on. Thousands of such changes: tests/unit/nvme_state_test.c and its like."""
	numbers = random.Random(seed)
	name = server.path("igb-net.sock" if seed % 2 else "n-disk.sock")
	for _ in range(4):
		guest = Card(name, "igb") if seed % 2 else Nvme(name)
		if not seed % 2:
			guest.create(1)

		def change(fields, content, messages):
			for _ in range(numbers.choice((1, 3, 30))):
				at = numbers.randrange(len(content)) if numbers.random() < 0.3 else numbers.randrange(4096)
				content[at % len(content)] ^= 1 << numbers.randrange(8)
			return fields, content, messages

		another(server, guest, change)
		with contextlib.suppress(Closed, ConnectionError):
			guest.read(8)
			guest.write(0x2818, 17)
		guest.close()
	again = Nvme(server.path("n-disk.sock"))
	assert again.works()
	again.close()
