# SPDX-License-Identifier: BSD-3-Clause
"""
Live migration: a guest moves between two QEMUs, each with a daemon of its own, and back again, while it writes to its disk
and to the network. The daemons share the disk's image ("handover") and join their networks by an uplink; the partner of
the network traffic stays where it is.

SIDECORE_MIGRATIONS tells how often it moves (5).
"""
import os
import pathlib
import re
import socket
import statistics
import sys
import tempfile
import threading
import time

import pytest

from guest import Guest, GuestError, accelerator, build_image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from protocol.server import Server, configuration, why_missing  # noqa: E402

MIGRATIONS = int(os.environ.get("SIDECORE_MIGRATIONS", "5"))
MIGRATION_TIMEOUT = 60
DISK_SIZE = 64 << 20
MOVING, PARTNER = "10.0.0.1", "10.0.0.2"
RECOVERY = 5.0	# the network answers again so many seconds after the new QEMU runs

FIO = ("fio --name=job --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=16M "
       "--verify=crc32c --verify_backlog=256 --verify_fatal=1 --do_verify=1 --time_based --runtime={seconds}")


class Port:
	"""
	The agent's socket. Lines that began at the old QEMU end at the new one: @owed is what came of such a line. Nothing is
	let through before the commands under way have been handed over.
	"""

	def __init__(self, port):
		self.port, self.tail, self.owed = port, b"", b""
		self.released, self.at_end = threading.Event(), lambda: None

	def recv(self, size):
		data = self.port.recv(size)
		self.released.wait()
		if not data:
			self.at_end()
			return data
		data, self.owed = self.owed + data, b""
		self.tail = (self.tail + data).rpartition(b"\n")[2]
		return data

	def __getattr__(self, name):
		return getattr(self.port, name)


class MovingGuest(Guest):
	"""A guest that goes on in another QEMU, with the commands that it runs: successor = guest.migrate(...)."""

	def __init__(self, name, devices, incoming=False, **keywords):
		self._incoming = incoming
		super().__init__(name, devices=[*devices, *(["-incoming", "defer"] if incoming else [])], wait=not incoming,
				 **keywords)

	def _open_socket(self, name):
		port = super()._open_socket(name)
		if name != "agent":
			return port
		port = Port(port)
		if not self._incoming:
			port.released.set()
		return port

	def migrate(self, successor):
		"""Moves to @successor, a QEMU that waits. Returns what query-migrate said; this one is gone then."""
		address = f"unix:{self._sockets}/migration"
		self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
		successor.qmp("migrate-incoming", uri=address)
		self.qmp("migrate", uri=address)
		deadline = time.monotonic() + MIGRATION_TIMEOUT
		while True:
			info = self.qmp("query-migrate")
			if info["status"] == "completed":
				break
			if info["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
				raise GuestError(f"{self.name}: migration {info}{self.tail()}{successor.tail()}")
			time.sleep(0.02)
		# The old one is done when all is sent; whether the new one could make use of it, only that one knows.
		while successor.qmp("query-status")["status"] != "running":
			if time.monotonic() > deadline:
				raise GuestError(f"{self.name}: the successor does not run{successor.tail()}")
			time.sleep(0.02)
		self._hand_over(successor)
		return info

	def _hand_over(self, successor):
		commands = {}

		def take():
			commands.update(self._commands)
			self._commands = {}

		# All that the old QEMU wrote is in its socket; reading ends with its end.
		self._port.at_end = take
		self.process.kill()
		self._reader.join()
		for command in commands.values():
			command._guest = successor
		successor._commands, successor._next = commands, self._next
		successor._port.owed = self._port.tail
		successor._hello.set()
		successor._port.released.set()
		self.kill()


class Place:
	"""One of the two ends: a daemon, and how a QEMU attaches to it."""

	def __init__(self, number, image, uplink):
		networks = {"a-net": 'mac: "52:54:00:00:00:01"'}
		if number == 0:
			networks["b-net"] = 'mac: "52:54:00:00:00:02"'
		text = configuration(interfaces=networks, disks={"a-disk": (f"type: file, path: {image}, handover: true", "")})
		text = text.replace("uplink: { type: none }",
				    f"uplink: {{ type: stream, address: {uplink}{', listen: true' if number == 0 else ''} }}")
		self.daemon = Server(text)

	def card(self, name, mac):
		# QEMU 7.2 without KVM cannot do MSI-X with a vhost-user card.
		vectors = ",vectors=0" if accelerator()[0] == "tcg" else ""
		return ["-chardev", f"socket,id={name}-socket,path={self.daemon.path(name + '.sock')}",
			"-netdev", f"vhost-user,id={name}-netdev,chardev={name}-socket",
			"-device", f"virtio-net-pci,netdev={name}-netdev,mac=52:54:00:00:00:{mac:02x}{vectors}"]

	def moving_devices(self, packed):
		return [*self.card("a-net", 1), "-chardev", f"socket,id=disk-socket,path={self.daemon.path('a-disk.sock')}",
			"-device", f"vhost-user-blk-pci,chardev=disk-socket,num-queues=1{packed}"]

	def healthy(self):
		status = self.daemon.status()
		for device in [*status["interfaces"].values(), *status["disks"].values()]:
			assert device["refused"] == 0 and device["log_missed"] == 0, device
			assert not any(queue["broken"] for queue in device["queues"]), device
		assert self.daemon.alive()


@pytest.fixture(scope="module", autouse=True)
def image():
	reason = why_missing()
	if reason:
		pytest.skip(reason)
	build_image()


@pytest.fixture
def places(tmp_path):
	disk = tmp_path / "disk.raw"
	with open(disk, "wb") as file:
		file.truncate(DISK_SIZE)
	with tempfile.TemporaryDirectory(prefix="sidecore-test-") as folder:
		first = Place(0, disk, f"{folder}/uplink")
		with first.daemon:
			second = Place(1, disk, f"{folder}/uplink")
			with second.daemon:
				yield first, second


def reached_again(partner, since):
	"""Seconds until the partner reaches the guest that has just moved."""
	while True:
		if partner.run(f"ping -n -q -c 1 -W 1 {MOVING}", check=False).ok:
			return time.monotonic() - since
		assert time.monotonic() - since < RECOVERY, "the guest is not reached at its new place"


def test_moves_under_load(places, request):
	report = []
	with Guest("b", devices=places[0].card("b-net", 2), memory=224) as partner:
		guest = MovingGuest("a", places[0].moving_devices(""), memory=256)
		try:
			partner.run(f"ip addr add {PARTNER}/24 dev eth0 && ip link set eth0 up")
			guest.run(f"ip addr add {MOVING}/24 dev eth0 && ip link set eth0 up")
			server = partner.spawn("iperf3 -s -1")
			partner.run(f"ping -n -q -c 3 -i 0.2 {MOVING}")
			seconds = 6 * MIGRATIONS
			fio = guest.spawn(FIO.format(seconds=seconds), timeout=6 * seconds)
			iperf = guest.spawn(f"iperf3 -c {PARTNER} -t {seconds} -i 1 -f m --forceflush", timeout=3 * seconds)
			iperf.wait_output(r" sec ", timeout=20)

			for number in range(1, MIGRATIONS + 1):
				place = places[number % 2]
				successor = MovingGuest("a", place.moving_devices(""), memory=256, incoming=True)
				before = place.daemon.status()
				try:
					info = guest.migrate(successor)
				except BaseException:
					successor.kill()
					raise
				guest, moved = successor, time.monotonic()
				gap = reached_again(partner, moved)
				after = place.daemon.status()
				assert after["disks"]["a-disk"]["writes"] > before["disks"]["a-disk"]["writes"] or fio.running
				report.append((info["downtime"], info["total-time"], gap))
				assert iperf.running and fio.running, f"the load ended early:\n{iperf.output}\n{fio.output}"
				places[0].healthy()
				places[1].healthy()
				time.sleep(1)

			result = iperf.wait(3 * seconds + 30)
			assert result.ok, result.output
			rates = [float(rate) for rate in re.findall(r"([\d.]+) Mbits/sec +\d+ +[\d.]+ [KM]?Bytes", result.output)]
			assert rates[-1] > 0, "the connection stood still after the last move"
			assert server.wait(30).ok, server.output
			result = fio.wait(6 * seconds + 30)
			assert result.ok and "err= 0" in result.output, result.output
			guest.close()
		finally:
			guest.kill()
	downtimes = [downtime for downtime, _, _ in report]
	print(f"\n{len(report)} migrations: downtime {min(downtimes)} to {max(downtimes)} ms, median"
	      f" {statistics.median(downtimes)} ms; total {statistics.median(total for _, total, _ in report)} ms; network"
	      f" answers {max(gap for _, _, gap in report):.2f} s later at the latest; iperf3 {statistics.mean(rates):.0f} Mbit/s")
	print("\n".join(f"  downtime {downtime:4} ms, total {total:5} ms, answered after {gap:.2f} s"
			for downtime, total, gap in report))
	print("rates", rates)
