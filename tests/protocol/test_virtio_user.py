# SPDX-License-Identifier: BSD-3-Clause
"""
DPDK's virtio-user driver as the client: a poll-mode driver with fast paths of its own for each kind of ring, which
never wants an interrupt. Two of its ports forward to each other, through the network, what one burst began.
"""
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time

import pytest

TESTPMD = shutil.which("dpdk-testpmd") or shutil.which("testpmd")
MACS = ["52:54:00:00:00:01", "52:54:00:00:00:02"]	# as configuration() deals them out
BURST = 32
F_MRG_RXBUF, F_PACKED, F_IN_ORDER = 1 << 15, 1 << 34, 1 << 35

# There is one number of huge pages for the whole machine: those who need them go one after the other.
pytestmark = pytest.mark.xdist_group("huge_pages")


class Testpmd:
	"""dpdk-testpmd with its prompt: say(), and wait for what it prints."""

	__test__ = False	# not for pytest

	def __init__(self, sockets, options, queues, extra=()):
		cpu = min(os.sched_getaffinity(0))	# the daemon has the last one
		# Into a pipe, it would print when 4 KiB have come together.
		command = ["stdbuf", "-o0", TESTPMD, "--lcores", f"0@{cpu},1@{cpu}", "--no-pci", "--in-memory",
			   "--single-file-segments", "-m", "192", *extra]
		for number, path in enumerate(sockets):
			command += ["--vdev", f"net_virtio_user{number},path={path},queues={queues},queue_size=256,mac={MACS[number]},"
				    f"{options}"]
		command += ["--", "-i", "--no-mlockall", "--total-num-mbufs=16384", f"--rxq={queues}", f"--txq={queues}",
			    f"--burst={BURST}"]
		command += [f"--eth-peer={number},{MACS[1 - number]}" for number in range(len(sockets))]
		self.text = ""
		self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
						cwd=tempfile.gettempdir())
		self.reader = threading.Thread(target=self.read, daemon=True)
		self.reader.start()

	def read(self):
		while part := os.read(self.process.stdout.fileno(), 65536):
			self.text += part.decode(errors="replace")

	def say(self, line):
		self.process.stdin.write(line.encode() + b"\n")
		self.process.stdin.flush()

	def wait(self, pattern, start=0, timeout=20.0):
		deadline = time.monotonic() + timeout
		while not (match := re.search(pattern, self.text[start:], re.MULTILINE | re.DOTALL)):
			assert self.process.poll() is None, f"testpmd ended with {self.process.returncode}:\n{self.text[-3000:]}"
			assert time.monotonic() < deadline, f"testpmd printed no {pattern!r} within {timeout} s:\n{self.text[-3000:]}"
			time.sleep(0.02)
		return match

	def ask(self, command, pattern):
		start = len(self.text)
		self.say(command)
		return self.wait(pattern, start)

	def counts(self):
		"""Return: frames received and sent, a list of both for each port."""
		text = self.ask("show port stats all", r"NIC statistics for port 0.*NIC statistics for port 1.*Tx-bps").group(0)
		received = [int(number) for number in re.findall(r"RX-packets:\s*(\d+)", text)]
		sent = [int(number) for number in re.findall(r"TX-packets:\s*(\d+)", text)]
		return received, sent

	def __enter__(self):
		return self

	def __exit__(self, *_):
		if self.process.poll() is None:
			with contextlib.suppress(OSError):
				self.say("quit")
			try:
				self.process.wait(10)
			except subprocess.TimeoutExpired:
				self.process.kill()
				self.process.wait()
		self.reader.join(5)
		self.process.stdin.close()
		self.process.stdout.close()


WIDE = ("--force-max-simd-bitwidth=512",)
# packed, in order, mergeable, vectorized, pairs of queues
KINDS = {
	"split": (0, 0, 0, 0, 1),
	"split-mergeable": (0, 0, 1, 0, 1),
	"split-in-order": (0, 1, 0, 0, 1),
	"split-in-order-mergeable": (0, 1, 1, 0, 1),
	"split-vectorized": (0, 0, 0, 1, 1),
	"split-two-pairs": (0, 0, 1, 0, 2),
	"packed": (1, 0, 0, 0, 1),
	"packed-mergeable": (1, 0, 1, 0, 1),
	"packed-in-order": (1, 1, 0, 0, 1),
	"packed-in-order-mergeable": (1, 1, 1, 0, 1),
	"packed-vectorized": (1, 1, 0, 1, 1),
	"packed-two-pairs": (1, 1, 1, 0, 2),
}


@pytest.fixture
def start(serve, huge_pages):
	"""start(kind): a daemon with two interfaces and a testpmd that drives both. Returns (daemon, testpmd)."""
	if not TESTPMD:
		pytest.skip("dpdk-testpmd is not installed (tools/setup.sh bench)")
	with contextlib.ExitStack() as stack:
		def begin(kind):
			packed, in_order, mergeable, vectorized, pairs = KINDS[kind]
			server = serve(interfaces={name: f"queue_pairs: {pairs}" for name in ("a-net", "b-net")})
			options = (f"packed_vq={packed},in_order={in_order},mrg_rxbuf={mergeable},vectorized={vectorized}"
				   f"{',cq=1' if pairs > 1 else ''}")
			testpmd = stack.enter_context(Testpmd([server.path("a-net.sock"), server.path("b-net.sock")], options, pairs,
							      WIDE if vectorized else ()))
			testpmd.wait(r"testpmd> ")
			for name in ("a-net", "b-net"):
				features = int(server.status()["interfaces"][name]["features"], 16)
				wanted = packed * F_PACKED | in_order * F_IN_ORDER | mergeable * F_MRG_RXBUF
				assert features & (F_PACKED | F_IN_ORDER | F_MRG_RXBUF) == wanted
			return server, testpmd

		yield begin


def ports(server):
	status = server.status()["interfaces"]
	return [status["a-net"], status["b-net"]]


def more_delivered(server, before, frames=512):
	"""To both, since @before was counted."""
	def enough():
		return all(port["out_frames"] > old + frames for port, old in zip(ports(server), before))

	return server.settled(enough, True, 20)


def no_queue_broken(server):
	return not any(queue["broken"] for port in ports(server) for queue in port["queues"])


@pytest.mark.parametrize("size", [64, 1514])
@pytest.mark.parametrize("kind", KINDS)
def test_forward(start, kind, size):
	"""Bursts go round for a while. All that was sent is accounted for: delivered, or dropped by name."""
	server, testpmd = start(kind)
	testpmd.say(f"set txpkts {size}")
	testpmd.say("start tx_first 4")
	rings = 4096	# around each ring more than twice, and each lap of a packed one
	assert more_delivered(server, (0, 0), rings)
	testpmd.ask("stop", r"Done\.")
	received, sent = testpmd.counts()
	assert min(received) > rings // 2 and min(sent) > rings

	# What testpmd sent is taken in, even after it stopped; what it received was delivered.
	assert server.settled(lambda: [port["in_frames"] for port in ports(server)], sent) == sent
	state = ports(server)
	for number in (0, 1):
		source, target = state[number], state[1 - number]
		assert source["in_bytes"] == size * source["in_frames"] and target["out_bytes"] == size * target["out_frames"]
		assert target["out_frames"] + sum(source["drops"].values()) + sum(target["drops"].values()) >= source["in_frames"]
		assert target["out_frames"] >= received[1 - number]
		# Frames that found no buffer are all that may be lost.
		assert set(source["drops"]) | set(target["drops"]) <= {"full"}
	assert no_queue_broken(server)


@pytest.mark.parametrize("kind", ["split", "packed-in-order"])
def test_stopped_and_started(start, kind):
	"""The driver resets its device: rings begin anew."""
	server, testpmd = start(kind)
	for _ in range(3):
		before = [port["out_frames"] for port in ports(server)]
		testpmd.say("start tx_first 2")
		assert more_delivered(server, before)
		testpmd.ask("stop", r"Done\.")
		testpmd.ask("port stop all", r"Stopping ports.*Done")
		testpmd.ask("port start all", r"Done")
	assert no_queue_broken(server)


def test_killed(start):
	"""In the middle of it, without a word; the next one gets the same sockets."""
	server, testpmd = start("packed-in-order")
	testpmd.say("start tx_first 4")
	assert more_delivered(server, (0, 0))
	testpmd.process.kill()
	testpmd.process.wait()
	assert server.settled(lambda: [port["connected"] for port in ports(server)], [False, False]) == [False, False]
	assert server.alive()
	with Testpmd([server.path("a-net.sock"), server.path("b-net.sock")], "packed_vq=0", 1) as again:
		again.wait(r"testpmd> ")
		before = [port["out_frames"] for port in ports(server)]
		again.say("start tx_first 4")
		assert more_delivered(server, before)
