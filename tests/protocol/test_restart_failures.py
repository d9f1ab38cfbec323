# SPDX-License-Identifier: BSD-3-Clause
"""
Restarts that go wrong: into what cannot be built, and behind a disk that does not answer.
"""
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import time

import pytest

from . import emulated, nbd_server, server as daemon
from .emulated import DATA, MEGABYTE, Card, Nvme, command, wait_for
from .fuse import Fuse
from .nbd_server import NbdServer
from .test_handover import F_OFD_SETLK, FLOCK
from .test_restart import CARDS, Restarted, asked, frame, server  # noqa: F401 (a fixture)


class Program(Restarted):
	"""A daemon whose program is a file of its own, which can be replaced."""

	def start(self, timeout=20.0, wait=True):
		shutil.copy(daemon.binary(), self.path("sidecore"))
		usual = os.environ.get("SIDECORE")
		os.environ["SIDECORE"] = self.path("sidecore")
		try:
			super().start(timeout, wait)
		finally:
			os.environ.pop("SIDECORE")
			if usual is not None:
				os.environ["SIDECORE"] = usual

	def replace(self, script):
		"""@script: None: by the program."""
		new = self.path("sidecore.new")
		if script is None:
			shutil.copy(daemon.binary(), new)
		else:
			(self.directory / "sidecore.new").write_text(script)
			os.chmod(new, 0o755)
		os.rename(new, self.path("sidecore"))


# -- a start that fails

def refused(server, name):
	with socket.socket(socket.AF_UNIX) as client:
		return client.connect_ex(server.path(name)) in (errno.ENOENT, errno.ECONNREFUSED)


@pytest.mark.parametrize("change, said", [
	({"image": "/dev/null"}, "/dev/null"),
	("control: /nonexistent/ctl.sock\n", "control socket /nonexistent/ctl.sock"),		# the very last step
])
def test_start_that_fails(server, change, said):
	"""--check does not open things: the clients wait until the configuration is mended, and go on."""
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	other = Card(server.path("e1000-net.sock"), "e1000")
	queue = disk.create(1)
	if isinstance(change, dict):
		server.configure(**change)
	else:
		key = change.split(":")[0]
		text = re.sub(rf"{key}:.*\n( .*\n)*", change, server.text(), count=1)
		(server.directory / "config.yaml").write_text(text)
	assert server.control(command="restart") == {"restart": "begun"}
	wait_for(server.attempts, "a start that fails")
	take = asked(card)
	submitted = queue.add(command(emulated.READ, 1, DATA, dw10=0, dw12=7), ring=False)
	disk.connection.post_write(0, 0x1000 + 64, struct.pack("<I", queue.tail))
	wait_for(lambda: server.attempts() > 1, "another attempt")
	assert server.logged(said) and server.logged("3 clients of emulated devices wait"), server.tail()
	assert all(refused(server, name + ".sock") for name in CARDS), "who connects now would wait with his whole machine"
	(server.directory / "config.yaml").write_text("nonsense: 1\n")	# not --check's any more
	count = server.attempts()
	wait_for(lambda: server.attempts() > count, "an attempt with nonsense")
	server.configure()
	take()
	assert wait_for(queue.take, "a completion") == (submitted, 0, 0)
	queue.taken()
	card.send(frame(1))
	other.expect(frame(1))
	assert server.status()["taken_over"] == 3 and disk.works()
	assert server.restart() == 3
	for guest in (card, disk, other):
		guest.close()


def test_image_that_another_has(server):
	card = Card(server.path("igb-net.sock"), "igb")
	image = server.image + ".other"
	shutil.copy(server.image, image)
	fd = os.open(image, os.O_RDWR)
	fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
	server.configure(image=image)
	assert server.control(command="restart") == {"restart": "begun"}
	wait_for(lambda: server.attempts() > 1, "attempts")
	take = asked(card)
	os.close(fd)
	take()
	os.unlink(image)
	card.close()


def test_program_that_has_gone():
	"""It was there when it was asked, and comes back."""
	with Program() as server:
		card = Card(server.path("igb-net.sock"), "igb")
		server.replace('#!/bin/sh\nchmod 0 "$0"\n')
		assert server.control(command="restart") == {"restart": "begun"}
		wait_for(lambda: server.attempts() > 2, "attempts")
		take = asked(card)
		assert refused(server, "igb-net.sock")
		server.replace(None)
		take()
		assert server.status()["taken_over"] == 1
		card.close()


def test_end_of_the_attempts(server):
	"""By a signal, and nobody else: then clients are let go."""
	card = Card(server.path("igb-net.sock"), "igb")
	server.configure(image="/dev/null")
	assert server.control(command="restart") == {"restart": "begun"}
	wait_for(server.attempts, "a start that fails")
	begun = time.monotonic()
	for _ in range(6):
		count = server.attempts()
		server.process.send_signal(signal.SIGUSR2)		# at once
		wait_for(lambda: server.attempts() > count, "another attempt")
	assert time.monotonic() - begun < 6
	server.process.send_signal(signal.SIGTERM)
	assert server.process.wait(5) == 1
	assert card.connection.closed() and not server.complaint()
	card.close()
	server.configure()
	server.start()


def test_start_that_fails_with_nobody_to_lose(server):
	server.configure(image="/dev/null")
	assert server.control(command="restart") == {"restart": "begun"}
	assert server.process.wait(10) == 1
	assert server.attempts() == 0
	assert not any(os.path.lexists(server.path(name + ".sock")) for name in CARDS)
	server.configure()
	server.start()


# -- disks that do not answer

@pytest.fixture
def lab(tmp_path):
	"""A daemon with a disk of an NBD server's, which would wait for 20 s. Return: (the daemon, the NBD server)."""
	with NbdServer(tmp_path / "nbd", 4 * MEGABYTE) as nbd:
		class Lab(Restarted):
			backend = f'type: nbd, uri: "{nbd.uri}", timeout: 20s'

		with Lab() as running:
			yield running, nbd


def restart_refused(server):
	return server.control(command="restart").get("error")


def read_something(queue):
	return queue.add(command(emulated.READ, 1, DATA, dw10=0, dw12=7))


def test_disk_that_hangs(lab):
	"""Known beforehand: the daemon goes on as it is."""
	server, nbd = lab
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	queue = disk.create(1)
	answers = []
	nbd.answer = lambda request, reply: answers.append(reply)		# later
	number = read_something(queue)
	time.sleep(4.5)
	said = restart_refused(server)
	assert re.fullmatch(r"not restarted: disk n-disk has not answered one of a guest's requests for [2-9] s", said)
	server.process.send_signal(signal.SIGUSR2)
	wait_for(lambda: server.logged("not restarted: disk n-disk has not answered"), "a line in the log")
	assert card.read(8) and server.status()["taken_over"] == 0
	nbd.answer = nbd_server.honest
	for client in nbd.clients:
		client.sendall(b"".join(answers))
	assert wait_for(queue.take, "a completion") == (number, 0, 0)
	queue.taken()
	assert server.restart() == 2
	card.close()
	disk.close()


def test_disk_whose_server_has_gone(lab):
	"""An obstacle while a guest uses it, whether or not it waits for anything."""
	server, nbd = lab
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	nbd.die()
	wait_for(lambda: server.status()["disks"]["n-disk"]["state"] == "reconnecting", "a lost connection")
	assert restart_refused(server) == "not restarted: a guest uses disk n-disk, whose server is not connected (reconnecting)"
	disk.close()
	wait_for(lambda: not server.status()["disks"]["n-disk"]["connected"], "an end")
	server.configure(disk=None)		# away with it
	assert server.restart() == 1
	nbd.start()
	server.configure()
	assert server.restart() == 1 and card.read(8)
	card.close()


@pytest.mark.deadline(60)
def test_disk_that_begins_to_hang(lab):
	"""Too late to refuse: its guest gets an error after 5 s, not 20, and the others go on."""
	server, nbd = lab
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	queue = disk.create(1)
	nbd.answer = nbd_server.silent
	number = read_something(queue)
	began = time.monotonic()
	assert server.control(command="restart") == {"restart": "begun"}
	wait_for(lambda: server.logged("restarting"), "its beginning")
	time.sleep(0.2)			# so that the card is asked when it has been left
	take = asked(card)
	nbd_asked = wait_for(lambda: nbd.seen, "a request")
	assert nbd_asked
	wait_for(lambda: server.logged("disk n-disk does not answer: 1 request in flight"), "a name", 10)
	take()
	assert 4 < time.monotonic() - began < 15
	assert server.status()["taken_over"] == 2
	done = wait_for(queue.take, "a completion")
	assert done[0] == number and done[1] != 0
	queue.taken()
	nbd.answer = nbd_server.honest
	assert queue.run(command(emulated.READ, 1, DATA, dw10=0, dw12=7)) == 0
	card.close()
	disk.close()


@pytest.fixture
def hanging(server):
	"""A file in a file system that does not answer. Return: (a card, a disk with a request in flight, its queue, what ends it)."""
	try:
		fuse = Fuse()
	except OSError as error:
		pytest.skip(f"no FUSE here: {error}")
	with contextlib.ExitStack() as stack:
		stack.callback(fuse.release)
		server.configure(backend=f"type: file, path: {fuse.path}/file", disk="model: nvme, read_only: true")
		server.restart()
		card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
		queue = disk.create(1)
		fuse.hang()
		read_something(queue)
		yield card, disk, queue, stack.close
	for guest in (card, disk):
		guest.close()
	server.configure()
	server.restart()


def test_signals_to_one_that_ends(lab):
	"""Asked to restart while it does so, or stops: once is enough."""
	server, nbd = lab
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	for _ in range(5):
		taken_over = server.log.read_text().count("igb-net: client taken over")
		for _ in range(150):		# in each of its stages
			server.process.send_signal(signal.SIGUSR2)
			time.sleep(0.001)
		wait_for(lambda: server.log.read_text().count("igb-net: client taken over") > taken_over, "a restart")
		assert card.read(8)
	card.close()
	disk.close()


def test_half_a_message_with_a_file(server):
	"""Nobody knows of such a file whether it would be let go of."""
	card, other = Card(server.path("igb-net.sock"), "igb"), Card(server.path("e1000-net.sock"), "e1000")
	fd = os.open("/dev/null", os.O_RDONLY)
	socket.send_fds(other.connection.sock, [b"\1"], [fd])
	os.close(fd)
	wait_for(lambda: restart_refused(server) == "not restarted: a file that the client of e1000-net gave is not let go of "
		 "(FUSE?): end that client first", "a reason")
	other.close()
	wait_for(lambda: not server.status()["interfaces"]["e1000-net"]["connected"], "an end")
	assert server.restart() == 1 and card.read(8)
	card.close()


def test_file_that_hangs(server, hanging):
	card, disk, queue, release = hanging
	time.sleep(4.5)
	assert restart_refused(server).startswith("not restarted: disk n-disk has not answered one of a guest's requests for ")
	assert card.read(8) and queue.take() is None
	release()
	assert wait_for(queue.take, "a completion")[1] != 0
	server.configure(disk=None)
	assert server.restart() == 1 and card.read(8) and disk.connection.closed()


@pytest.mark.deadline(60)
def test_file_that_begins_to_hang(server, hanging):
	"""The program that is asked looks for the file, too, and not even SIGKILL ends it: the daemon does not wait for it."""
	card, disk, queue, release = hanging
	began = time.monotonic()
	said = restart_refused(server)
	assert said == "not restarted: the program does not say in time whether it takes the configuration; does a disk hang?"
	assert time.monotonic() - began < 9
	assert card.read(8) and queue.take() is None
	said = restart_refused(server)
	assert "hangs still" in said or "has not answered one of a guest's requests" in said
	release()
	assert wait_for(queue.take, "a completion")[1] != 0
	server.configure(disk=None)
	assert server.restart() == 1 and card.read(8) and disk.connection.closed()
