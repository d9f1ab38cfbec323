# SPDX-License-Identifier: BSD-3-Clause
"""
Servers of emulated devices to offend: the test program tests/protocol/vfio_server.c, whose device does little and that
exactly, and the daemon with the devices that it emulates.

	with FakeServer() as server:
		server.connect().read32(0, FakeServer.PLAIN)
"""
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from . import server as daemon
from .vfio_user import Connection

# The models that the daemon emulates: configuration() keywords, and the name of the socket.
MODELS = {
	"nvme": ({"disks": {"a-disk": ("type: ram, size: 16M", "model: nvme")}}, "a-disk"),
	"igb": ({"interfaces": {"a-net": "model: igb"}}, "a-net"),
	"e1000e": ({"interfaces": {"a-net": "model: e1000e"}}, "a-net"),
	"e1000": ({"interfaces": {"a-net": "model: e1000"}}, "a-net"),
}


class Target:
	"""What the tests ask of either kind of server. A device has one client at a time: connect() ends the one before."""
	socket = None
	pid = None
	connection = None

	def connect(self, **keywords):
		if self.connection:
			self.connection.close()
		self.connection = Connection(self.socket, **keywords)
		return self.connection

	def descriptors(self):
		return len(os.listdir(f"/proc/{self.pid}/fd"))

	def mappings(self):
		"""Mappings of guests' memory (vfio_user.Memory)."""
		return Path(f"/proc/{self.pid}/maps").read_text().count("/memfd:guest")

	def mapped(self):
		"""Bytes in them."""
		total = 0
		for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines():
			if "/memfd:guest" in line:
				begin, end = line.split()[0].split("-")
				total += int(end, 16) - int(begin, 16)
		return total

	@staticmethod
	def settled(measure, expected, timeout=5.0):
		"""Wait until measure() is @expected. Return: its last value."""
		deadline = time.monotonic() + timeout
		while True:
			value = measure()
			if value == expected or time.monotonic() > deadline:
				return value
			time.sleep(0.02)


class FakeServer(Target):
	# Registers of BAR 0; ports in BAR 2 (tests/unit/fake_pci_device.h).
	RAISE, PIN, PLAIN, WINDOW, BAR = 0x24, 0x28, 0x40, 0x1000, 0x4000
	VECTORS, PORTS = 4, 32

	def __init__(self, *arguments):
		self.directory = Path(tempfile.mkdtemp(prefix="sidecore-vfio-"))
		self.socket = str(self.directory / "socket")
		self.log = self.directory / "log"
		with open(self.log, "wb") as log:
			self.process = subprocess.Popen([str(self.binary()), self.socket, *arguments], stdin=subprocess.PIPE,
							stdout=subprocess.PIPE, stderr=log)
		self.pid, self.status = self.process.pid, None
		deadline = time.monotonic() + 20
		while not os.path.exists(self.socket):
			if self.process.poll() is not None or time.monotonic() > deadline:
				raise daemon.ServerFailure(f"the server did not start:\n{self.log.read_text()}")
			time.sleep(0.01)

	@staticmethod
	def binary():
		return daemon.binary().resolve().parent / "tests" / "vfio_server"

	def alive(self):
		return self.process.poll() is None and not daemon.SANITIZER.search(self.log.read_bytes())

	def stop(self):
		"""Return: its status. Fails the test if it had died or a sanitizer has spoken."""
		if self.connection:
			self.connection.close()
		try:
			output, _ = self.process.communicate(timeout=15)	# closes its standard input
			text = self.log.read_text(errors="replace")
			if self.process.returncode or daemon.SANITIZER.search(text.encode()):
				raise daemon.ServerFailure(f"the server ended with {self.process.returncode}:\n{text[-4000:]}")
			self.status = json.loads(output)
			return self.status
		finally:
			self.kill()

	def kill(self):
		if self.process.poll() is None:
			self.process.kill()
			self.process.wait()
		shutil.rmtree(self.directory, ignore_errors=True)

	def __enter__(self):
		return self

	def __exit__(self, kind, *_):
		if kind is None:
			self.stop()
		else:
			self.kill()


class DaemonTarget(Target):
	"""One emulated device of a daemon."""

	def __init__(self, server, model):
		self.server, self.model = server, model
		self.socket = server.path(f"{MODELS[model][1]}.sock")
		self.pid = server.pid

	def alive(self):
		return self.server.alive()
