# SPDX-License-Identifier: BSD-3-Clause
"""
A `sidecore serve` daemon of a test's own: configuration, start, status, checks, stop.

	with Server(configuration(interfaces=["a-net", "b-net"], disks={"a-disk": "type: ram, size: 64M"})) as server:
		NetDevice(server.path("a-net.sock"))

The daemon runs in a temporary directory; socket names in the configuration are relative to it. Leaving the block stops
it with SIGTERM and fails the test if it had died, ended with a status other than 0, or a sanitizer has spoken.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import child

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = re.compile(rb"(Address|Thread|Leak|Memory|UndefinedBehavior)Sanitizer|runtime error:|DEADLYSIGNAL")


class ServerFailure(AssertionError):
	"""The daemon crashed, did not start or did not end as it should."""


def binary():
	return Path(os.environ.get("SIDECORE", ROOT / "build" / "release" / "sidecore"))


def why_missing():
	"""Return: the reason for a skip, or None."""
	path = binary()
	return None if os.access(path, os.X_OK) else f"no sidecore binary at {path} (set SIDECORE or build it)"


@contextlib.contextmanager
def without_quarantine():
	"""
	Daemons started in here give freed memory back at once. AddressSanitizer keeps it for a while otherwise, which looks like
	a leak to whoever measures from outside.
	"""
	before = os.environ.get("ASAN_OPTIONS")
	os.environ["ASAN_OPTIONS"] = ":".join(filter(None, [before, "quarantine_size_mb=0", "thread_local_quarantine_size_kb=0"]))
	try:
		yield
	finally:
		os.environ.pop("ASAN_OPTIONS")
		if before is not None:
			os.environ["ASAN_OPTIONS"] = before


def configuration(interfaces=(), disks=None, networks=("lan",), sidecores=1, extra=""):
	"""
	Configuration text. @interfaces: names, or {name: further YAML lines as "key: value, key: value"}; a value may
	name another network. @disks: {name: what goes between the braces of backend}, or a (backend, further) pair.
	"""
	cpus = sorted(os.sched_getaffinity(0))
	lines = ["control: ctl.sock", "sidecores:"]
	lines += [f"  - cpu: {cpus[-1 - number % len(cpus)]}" for number in range(sidecores)]
	if networks:
		lines.append("networks:")
	for name in networks:
		lines += [f"  - name: {name}", "    uplink: { type: none }"]
	if not isinstance(interfaces, dict):
		interfaces = {name: "" for name in interfaces}
	if interfaces:
		lines.append("interfaces:")
	for number, (name, further) in enumerate(interfaces.items(), 1):
		keys = {"network": networks[0], "socket": f"{name}.sock", "mac": f"52:54:00:00:00:{number:02x}"}
		keys.update(pair.split(": ", 1) for pair in further.split(", ") if pair)
		lines += [f"  - name: {name}"] + [f"    {key}: {value}" for key, value in keys.items()]
	if disks:
		lines.append("disks:")
	for name, backend in (disks or {}).items():
		backend, further = backend if isinstance(backend, tuple) else (backend, "")
		lines += [f"  - name: {name}", f"    socket: {name}.sock", f"    backend: {{ {backend} }}"]
		lines += [f"    {pair}" for pair in further.split(", ") if pair]
	return "\n".join(lines) + "\n" + extra


class Server:
	def __init__(self, config, start_timeout=20.0, wait=True):
		self.directory = Path(tempfile.mkdtemp(prefix="sidecore-test-"))
		self.config = config
		(self.directory / "config.yaml").write_text(config)
		self.process = None
		self.log = self.directory / "log"
		try:
			self.start(start_timeout, wait)
		except BaseException:
			self.kill()
			raise

	def path(self, name):
		return str(self.directory / name)

	def sockets(self):
		"""Names of the sockets that the daemon has to make: all but those in client mode."""
		blocks = re.split(r"\n(?=  - )", self.config)
		names = [match.group(1) for block in blocks if "mode: client" not in block
			 for match in re.finditer(r"^ *(?:socket|control): *(\S+)", block, re.MULTILINE)]
		return names

	def start(self, timeout=20.0, wait=True):
		"""@wait: until the daemon says that it is ready: a socket is there some time before it listens."""
		said = self.log.stat().st_size if self.log.exists() else 0
		with open(self.log, "ab") as log:
			self.process = child.start([str(binary().resolve()), "serve", "config.yaml"], cwd=self.directory,
						   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
		deadline = time.monotonic() + timeout
		while wait:
			missing = [name for name in self.sockets() if not (self.directory / name).exists()]
			if not missing and b"\nready\n" in b"\n" + self.log.read_bytes()[said:]:
				return
			if self.process.poll() is not None:
				raise ServerFailure(f"the daemon ended at start with {self.process.returncode}:\n{self.tail()}")
			if time.monotonic() > deadline:
				raise ServerFailure(f"no {', '.join(missing) or 'word that it is ready'} within {timeout} s:\n{self.tail()}")
			time.sleep(0.02)

	def tail(self, lines=40):
		text = self.log.read_text(errors="replace") if self.log.exists() else ""
		return "\n".join(text.splitlines()[-lines:])

	@property
	def pid(self):
		return self.process.pid

	# -- looking at it

	def control(self, timeout=10.0, **command):
		"""One request, one answer, a JSON object a line each."""
		with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
			sock.settimeout(timeout)
			sock.connect(self.path("ctl.sock"))
			sock.sendall(json.dumps(command).encode() + b"\n")
			answer = b""
			while not answer.endswith(b"\n"):
				part = sock.recv(1 << 16)
				if not part:
					break
				answer += part
		if not answer:
			raise ServerFailure(f"the control socket closed without an answer to {command}")
		return json.loads(answer)

	def status(self):
		return self.control(command="status")

	def broken(self, kind, name, queue):
		"""The reason why a queue is broken, or None. @kind: "interfaces" or "disks"."""
		return self.status()[kind][name]["queues"][queue]["broken"]

	def wait_broken(self, kind, name, queue, timeout=5.0):
		"""Return: the reason, once there is one."""
		deadline = time.monotonic() + timeout
		while True:
			reason = self.broken(kind, name, queue)
			if reason:
				return reason
			if time.monotonic() > deadline:
				raise AssertionError(f"queue {queue} of {name} is not broken after {timeout} s")
			time.sleep(0.02)

	def alive(self):
		"""The process runs, its control socket answers and no sanitizer has spoken."""
		return self.process.poll() is None and bool(self.status()) and not self.complaint()

	def complaint(self):
		return self.log.exists() and SANITIZER.search(self.log.read_bytes()) is not None

	def descriptors(self):
		return len(os.listdir(f"/proc/{self.pid}/fd"))

	def mappings(self):
		"""Number of shared mappings of memfds: guest memory and inflight regions."""
		text = Path(f"/proc/{self.pid}/maps").read_text()
		return sum("/memfd:" in line for line in text.splitlines())

	def settled(self, measure, expected, timeout=5.0):
		"""Wait until measure() is @expected. Return: its last value."""
		deadline = time.monotonic() + timeout
		while True:
			value = measure()
			if value == expected or time.monotonic() > deadline:
				return value
			time.sleep(0.02)

	# -- ending it

	def crash(self):
		"""SIGKILL, as a crash would be; start() brings it back with the same sockets."""
		self.process.kill()
		self.process.wait()
		for name in self.sockets():
			if (self.directory / name).exists():
				os.unlink(self.directory / name)

	def kill(self):
		if self.process and self.process.poll() is None:
			self.process.kill()
			self.process.wait()
		shutil.rmtree(self.directory, ignore_errors=True)

	def stop(self, timeout=15.0):
		try:
			died = self.process.poll()
			if died is not None:
				raise ServerFailure(f"the daemon died with {died}:\n{self.tail()}")
			os.kill(self.pid, signal.SIGTERM)
			try:
				code = self.process.wait(timeout)
			except subprocess.TimeoutExpired as error:
				raise ServerFailure(f"the daemon did not end within {timeout} s of SIGTERM:\n{self.tail()}") from error
			if code:
				raise ServerFailure(f"the daemon ended with {code}:\n{self.tail()}")
			if self.complaint():
				raise ServerFailure(f"a sanitizer has spoken:\n{self.tail(80)}")
		finally:
			self.kill()

	def __enter__(self):
		return self

	def __exit__(self, kind, *_):
		if kind is None:
			self.stop()
			return
		# The test failed already; what the daemon said may tell why.
		print(f"\n--- log of the daemon ---\n{self.tail()}")
		self.kill()
