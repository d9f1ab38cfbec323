# SPDX-License-Identifier: BSD-3-Clause
"""
Backends that fail: errors reach the request that they belong to, waiting has an end, and other disks do not notice.

Each test has a neighbour: a disk in memory on the same sidecore, served all the while.
"""
import os
import resource
import time

import pytest

from . import nbd_server, server as daemon
from .devices import S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, BlockDevice
from .nbd_server import NbdServer, reply_to, silent

pytestmark = pytest.mark.deadline(60)

MEGABYTE = 1 << 20
SIZE = 4 * MEGABYTE
TIMEOUT = 2
SLACK = 8	# of a busy machine, seconds


class Lab:
	"""A daemon with a failing disk and its neighbour, and the NBD server behind the first."""

	def __init__(self, serve, backend, nbd=None):
		self.server = serve(networks=(), disks={"bad": backend, "good": f"type: ram, size: {SIZE}"})
		self.nbd = nbd
		self.disk = BlockDevice(self.server.path("bad.sock"))
		self.good = BlockDevice(self.server.path("good.sock"))

	def neighbour(self, rounds=50):
		"""Return: the longest that the neighbour waited for one request, seconds."""
		longest = 0
		for number in range(rounds):
			data = bytes([number]) * 4096
			start = time.monotonic()
			assert self.good.write(number * 8, data).status == S_OK
			assert self.good.read(number * 8, 4096).data == data
			longest = max(longest, time.monotonic() - start)
		return longest

	def state(self):
		return self.server.status()["disks"]["bad"]["state"]

	def await_state(self, wanted):
		assert self.server.settled(self.state, wanted, TIMEOUT + SLACK) == wanted

	def close(self):
		self.disk.close()
		self.good.close()


@pytest.fixture
def nbd_lab(serve, tmp_path):
	with NbdServer(tmp_path / "nbd", SIZE) as nbd:
		lab = Lab(serve, f'type: nbd, uri: "{nbd.uri}", timeout: {TIMEOUT}s', nbd)
		yield lab
		assert lab.server.alive()
		lab.neighbour()
		lab.close()


def outcomes(disk, keys, timeout):
	"""Wait for all of @keys. Return: {key: Result}."""
	done = {}
	end = time.monotonic() + timeout
	while len(done) < len(keys):
		done.update(disk.complete(timeout=max(end - time.monotonic(), 0.01)))
	return done


def test_nbd_serves(nbd_lab):
	"""The test's own server is a good one, if nothing else is asked of it."""
	data = os.urandom(65536)
	assert nbd_lab.disk.read(8, 65536).data == bytes(nbd_lab.nbd.content[4096:4096 + 65536])
	assert nbd_lab.disk.write(8, data).status == S_OK
	assert nbd_lab.disk.flush().status == S_OK
	assert bytes(nbd_lab.nbd.content[4096:4096 + 65536]) == data


def test_nbd_errors_reach_the_right_requests(nbd_lab):
	"""Every third block cannot be read, every fifth not written; answers come as the server likes."""
	nbd = nbd_lab.nbd

	def answer(request, reply):
		block = request.offset // 4096
		if request.kind == nbd_server.READ and block % 3 == 0:
			return reply_to(request, error=nbd_server.EIO)
		if request.kind == nbd_server.WRITE and block % 5 == 0:
			return reply_to(request, error=nbd_server.ENOSPC)
		return reply

	nbd.answer = answer
	for _ in range(5):
		keys = {nbd_lab.disk.submit(T_IN, block * 8, into=4096, kick=False): block for block in range(60)}
		nbd_lab.disk.publish()
		for key, result in outcomes(nbd_lab.disk, keys, 20).items():
			block = keys[key]
			assert result.status == (S_OK if block % 3 else S_IOERR)
			if block % 3:
				assert result.data == bytes(nbd.content[block * 4096:(block + 1) * 4096])
		keys = {nbd_lab.disk.submit(T_OUT, block * 8, out=bytes([block]) * 4096, kick=False): block
			for block in range(60)}
		nbd_lab.disk.publish()
		for key, result in outcomes(nbd_lab.disk, keys, 20).items():
			assert result.status == (S_OK if keys[key] % 5 else S_IOERR)
	for block in range(60):
		assert (bytes(nbd.content[block * 4096:(block + 1) * 4096]) == bytes([block]) * 4096) == bool(block % 5)
	assert nbd.connections == 1, "an error is no reason to connect again"


LIES = {
	"another request's handle": lambda request, reply: reply_to(request, bytes(request.length),
								    handle=request.handle + 1000),
	"handle of nobody": lambda request, reply: reply_to(request, bytes(request.length), handle=(1 << 64) - 1),
	"wrong magic": lambda request, reply: reply_to(request, bytes(request.length), magic=0x12345678),
	"structured reply, not negotiated": lambda request, reply: reply_to(request, bytes(64), magic=0x668e33ef),
	"garbage": lambda request, reply: os.urandom(4096),
	"zeroes": lambda request, reply: bytes(65536),
	"answers twice": lambda request, reply: reply + reply,
}


@pytest.mark.parametrize("name", LIES)
def test_nbd_server_that_lies(nbd_lab, name):
	"""What cannot be believed ends the connection; a request is tried a few times, then fails, within the timeout."""
	nbd_lab.nbd.answer = LIES[name]
	start = time.monotonic()
	keys = [nbd_lab.disk.submit(T_IN, block * 8, into=4096, kick=False) for block in range(8)]
	nbd_lab.disk.publish()
	done = outcomes(nbd_lab.disk, keys, TIMEOUT + SLACK)
	assert time.monotonic() - start < TIMEOUT + SLACK
	if name == "answers twice":
		# The first answer of each was true, so what came back with S_OK must be the content.
		for number, key in enumerate(keys):
			if done[key].status == S_OK:
				assert done[key].data == bytes(nbd_lab.nbd.content[number * 4096:(number + 1) * 4096])
	else:
		assert {result.status for result in done.values()} == {S_IOERR}
	assert nbd_lab.nbd.connections < 20, "it does not connect again without a pause"
	nbd_lab.neighbour()
	nbd_lab.nbd.answer = nbd_server.honest
	nbd_lab.await_state("connected")
	assert nbd_lab.disk.read(0, 4096).data == bytes(nbd_lab.nbd.content[:4096])


@pytest.mark.parametrize("error", (1, 22, 75, 95, 108, 0x7fffffff, 0xffffffff))
def test_nbd_strange_errors(nbd_lab, error):
	"""An error that NBD does not know, or that means the connection elsewhere (ESHUTDOWN), is an error all the same."""
	nbd_lab.nbd.answer = lambda request, reply: reply_to(request, error=error)
	start = time.monotonic()
	assert nbd_lab.disk.read(0, 4096).status != S_OK
	assert time.monotonic() - start < TIMEOUT + SLACK


def test_nbd_server_stalls(nbd_lab):
	"""No answer: requests fail at their timeout, not before, not much later; the neighbour is served meanwhile."""
	nbd_lab.nbd.answer = silent
	start = time.monotonic()
	keys = [nbd_lab.disk.submit(T_OUT if number % 2 else T_IN, number * 8, kick=False,
				    **({"out": bytes(4096)} if number % 2 else {"into": 4096})) for number in range(16)]
	keys.append(nbd_lab.disk.submit(T_FLUSH))
	while time.monotonic() - start < TIMEOUT * 0.75:
		assert nbd_lab.neighbour(5) < TIMEOUT / 2
	done = outcomes(nbd_lab.disk, keys, TIMEOUT + SLACK)
	assert time.monotonic() - start >= TIMEOUT * 0.95
	assert {result.status for result in done.values()} == {S_IOERR}
	nbd_lab.nbd.answer = nbd_server.honest
	nbd_lab.await_state("connected")
	assert nbd_lab.disk.read(0, 4096).data == bytes(nbd_lab.nbd.content[:4096])


def test_nbd_guest_goes_while_server_stalls(nbd_lab):
	"""Its requests are awaited, for no longer than the timeout; then the next guest is served."""
	nbd_lab.nbd.answer = silent
	for number in range(16):
		nbd_lab.disk.submit(T_IN, number * 8, into=4096)
	nbd_lab.disk.close()
	start = time.monotonic()
	assert nbd_lab.neighbour() < TIMEOUT
	nbd_lab.nbd.answer = nbd_server.honest
	nbd_lab.disk = BlockDevice(nbd_lab.server.path("bad.sock"))
	assert nbd_lab.disk.read(0, 4096).data == bytes(nbd_lab.nbd.content[:4096])
	assert time.monotonic() - start < TIMEOUT + SLACK


@pytest.mark.parametrize("gone", (False, True))
def test_nbd_daemon_ends_while_server_stalls(tmp_path, gone):
	"""SIGTERM with requests at a server that is silent, or gone: a clean end within the timeout."""
	with NbdServer(tmp_path / "nbd", SIZE) as nbd:
		lab = Lab(lambda **keywords: daemon.Server(daemon.configuration(**keywords)),
			  f'type: nbd, uri: "{nbd.uri}", timeout: {TIMEOUT}s', nbd)
		nbd.answer = silent
		for number in range(16):
			lab.disk.submit(T_IN, number * 8, into=4096)
		assert lab.server.settled(lambda: len(nbd.seen) > 0, True)
		if gone:
			nbd.die()
		lab.server.stop(TIMEOUT + SLACK)	# checks status and sanitizers, too
		lab.close()


def test_nbd_server_dies_and_returns(nbd_lab):
	"""Writes under way when the server dies are repeated at the next one: all done, all there, none answered early."""
	nbd = nbd_lab.nbd
	nbd.answer = silent
	data = {block: os.urandom(4096) for block in range(80)}
	keys = [nbd_lab.disk.submit(T_OUT, block * 8, out=content, kick=False) for block, content in data.items()]
	nbd_lab.disk.publish()
	assert nbd_lab.server.settled(lambda: len(nbd.seen) >= 64, True)
	nbd.die()
	nbd_lab.await_state("reconnecting")
	nbd_lab.neighbour(5)
	nbd.answer = nbd_server.honest
	nbd.start()
	done = outcomes(nbd_lab.disk, keys, TIMEOUT + SLACK)
	assert {result.status for result in done.values()} == {S_OK}
	assert bytes(nbd.content[:80 * 4096]) == b"".join(data.values())


def test_nbd_export_that_shrank(nbd_lab):
	"""A server that comes back with less than the guest was promised is not used: what is gone would read as an error."""
	nbd_lab.nbd.die()
	nbd_lab.nbd.announced = SIZE // 2
	nbd_lab.nbd.start()
	assert nbd_lab.disk.read(0, 4096).status == S_IOERR
	assert nbd_lab.state() == "reconnecting"
	nbd_lab.nbd.die()
	nbd_lab.nbd.announced = SIZE
	nbd_lab.nbd.start()
	nbd_lab.await_state("connected")
	assert nbd_lab.disk.read(0, 4096).data == bytes(nbd_lab.nbd.content[:4096])


def test_nbd_log_of_a_server_that_lies_is_short(nbd_lab):
	"""A guest that keeps asking, a server that keeps lying: some lines in the log, not one for each."""
	before = nbd_lab.server.log.read_text().count("\n")
	nbd_lab.nbd.answer = LIES["wrong magic"]
	end = time.monotonic() + 4
	while time.monotonic() < end:
		assert nbd_lab.disk.read(0, 4096).status == S_IOERR
	assert nbd_lab.server.log.read_text().count("\n") - before < 40


# -- files


@pytest.fixture
def file_lab(serve, tmp_path):
	image = tmp_path / "image"
	image.write_bytes(os.urandom(SIZE))
	lab = Lab(serve, f"type: file, path: {image}")
	lab.image = image
	yield lab
	assert lab.server.alive()
	lab.neighbour()
	lab.close()


@pytest.mark.parametrize("how", ("deleted", "renamed", "replaced"))
def test_image_that_goes(file_lab, how):
	"""The guest keeps the file that it was given, whatever becomes of its name."""
	old = file_lab.image.read_bytes()
	if how == "renamed":
		file_lab.image.rename(file_lab.image.with_name("elsewhere"))
	else:
		file_lab.image.unlink()
	if how == "replaced":
		file_lab.image.write_bytes(bytes(SIZE))
	data = os.urandom(4096)
	assert file_lab.disk.write(8, data).status == S_OK
	assert file_lab.disk.flush().status == S_OK
	assert file_lab.disk.read(0, 12288).data == old[:4096] + data + old[8192:12288]
	if how == "replaced":
		assert file_lab.image.read_bytes() == bytes(SIZE), "not a byte goes to the file that took the name"


def test_image_truncated_under_the_guest(file_lab):
	"""What is gone is an error, not zeroes; the rest is served, and so is a write that brings it back."""
	half = SIZE // 2
	old = file_lab.image.read_bytes()
	os.truncate(file_lab.image, half)
	keys = {file_lab.disk.submit(T_IN, offset // 512, into=4096, kick=False): offset
		for offset in range(half - 16 * 4096, half + 16 * 4096, 4096)}
	file_lab.disk.publish()
	for key, result in outcomes(file_lab.disk, keys, 10).items():
		offset = keys[key]
		assert result.status == (S_OK if offset < half else S_IOERR)
		if offset < half:
			assert result.data == old[offset:offset + 4096]
	assert file_lab.disk.read((half - 4096) // 512, 8192).status == S_IOERR, "half of it is there"
	assert file_lab.disk.write(half // 512, bytes(4096)).status == S_OK
	assert file_lab.disk.read(half // 512, 4096).data == bytes(4096)


def test_write_past_the_limit_of_file_sizes(file_lab):
	"""RLIMIT_FSIZE: the kernel would kill the process by SIGXFSZ; here the write, or the resize, fails and no more."""
	resource.prlimit(file_lab.server.pid, resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
	assert file_lab.disk.write(0, b"\x5a" * 4096).status == S_OK
	assert file_lab.disk.write(2 * MEGABYTE // 512, b"\x5a" * 4096).status == S_IOERR
	assert file_lab.disk.read(0, 4096).data == b"\x5a" * 4096
	assert file_lab.disk.read(2 * MEGABYTE // 512, 4096).status == S_OK
	assert "File too large" in file_lab.server.control(command="resize", disk="bad", size=2 * SIZE)["error"]
