# SPDX-License-Identifier: BSD-3-Clause
"""
Front-ends that come in thousands, talk without end or never to an end, and take without limit: what they cost a
neighbour on the same sidecore, measured as the latency of his requests before and meanwhile.
"""
import contextlib
import itertools
import multiprocessing
import os
import socket
import time

import pytest

from . import vhost_user
from .devices import S_OK
from .lab import region
from .memory import PAGE
from .vhost_user import HEADER, LOG, U64, VERSION, VRING_STATE, Closed, Connection, Late, Protocol, Request, pack_table

# Latencies are compared: nothing else of ours should want the CPUs.
pytestmark = [pytest.mark.deadline(120), pytest.mark.alone]

TERABYTE = 1 << 40



def latencies(neighbour, seconds):
	taken, end = [], time.monotonic() + seconds
	data = os.urandom(512)
	while time.monotonic() < end:
		begin = time.monotonic()
		assert neighbour.write(3, data).status == S_OK
		taken.append(time.monotonic() - begin)
	return sorted(taken)


def quantile(taken, share):
	return taken[min(int(len(taken) * share), len(taken) - 1)]


@contextlib.contextmanager
def attackers(*attacks):
	"""Each of @attacks, (function, arguments), in a process of its own that begins it again and again."""
	stop, rounds = multiprocessing.Event(), [multiprocessing.Value("L") for _ in attacks]

	def run(attack, arguments, count):
		while not stop.is_set():
			with contextlib.suppress(Closed, Late, OSError):
				attack(*arguments, stop)
			count.value += 1

	processes = [multiprocessing.Process(target=run, args=(attack, arguments, count), daemon=True)
		     for (attack, arguments), count in zip(attacks, rounds)]
	for process in processes:
		process.start()
	try:
		yield lambda: sum(count.value for count in rounds)
	finally:
		stop.set()
		for process in processes:
			process.join(10)
			process.kill()


def unmoved(lab, *attacks, seconds=2):
	"""The neighbour's requests take about as long as without the attacks. Return: rounds of the attacks."""
	latencies(lab.neighbour, 0.3)
	before = latencies(lab.neighbour, 1)
	with attackers(*attacks) as rounds:
		time.sleep(0.3)
		begun = rounds()
		during = latencies(lab.neighbour, seconds)
		done = rounds() - begun
	print(f"p50 {quantile(before, .5) * 1e6:.0f} -> {quantile(during, .5) * 1e6:.0f} us, "
	      f"p99 {quantile(before, .99) * 1e6:.0f} -> {quantile(during, .99) * 1e6:.0f} us, {done} rounds")
	# Generous: the attackers also compete for CPUs with this process, which measures.
	assert quantile(during, .5) < 5 * quantile(before, .5) + 0.0005
	assert quantile(during, .99) < 5 * quantile(before, .99) + 0.01
	assert lab.server.alive()
	return done


def come_and_go(path, _):
	with Connection(path):
		pass


def come_and_ask(path, _):
	with Connection(path) as connection:
		connection.get_features()


def talk(path, stop):
	"""Messages without end, none of their answers read."""
	with Connection(path) as connection:
		connection.set_protocol_features(Protocol.REPLY_ACK | Protocol.STATUS)
		connection.sock.setblocking(False)
		batch = HEADER.pack(Request.GET_FEATURES, VERSION, 0) * 64
		while not stop.is_set():
			with contextlib.suppress(BlockingIOError):
				connection.sock.send(batch)


def order_about(path, stop):
	"""Messages that stop and start all queues, as fast as they are taken."""
	with Connection(path) as connection:
		features = connection.get_features() & (vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES)
		batch = HEADER.pack(Request.SET_FEATURES, VERSION, 8) + U64.pack(features)
		while not stop.is_set():
			connection.send_raw(batch * 32)


def map_about(path, fds, table, stop):
	"""The whole of guest memory, over and over again, each time at another place."""
	with Connection(path) as connection:
		for number in itertools.count():
			if stop.is_set():
				return
			moved = [(guest + (number % 2) * (64 << 20), *rest) for guest, *rest in table]
			connection.send(Request.SET_MEM_TABLE, pack_table(moved), fds)


def dawdle(path, stop):
	"""One byte now and then."""
	with Connection(path) as connection:
		for byte in itertools.cycle(HEADER.pack(Request.GET_FEATURES, VERSION, 0)):
			if stop.wait(0.05):
				return
			connection.sock.send(bytes([byte]))


def test_thousands_of_connections(lab):
	paths = [lab.server.path(f"{name}.sock") for name in ("a-net", "a-disk")]
	before = lab.server.descriptors(), lab.server.mappings()
	assert unmoved(lab, (come_and_go, (paths[0],)), (come_and_ask, (paths[1],))) > 1000
	assert lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), before) == before
	# What they leave behind in the log is bounded: 5 lines a second and device.
	assert len(lab.server.log.read_text().splitlines()) < 200


def messages(lab, kind, name):
	return lab.server.status()[kind][name]["messages"]


def test_messages_without_end(lab):
	unmoved(lab, (talk, (lab.server.path("a-net.sock"),)), (order_about, (lab.server.path("a-disk.sock"),)))
	assert messages(lab, "interfaces", "a-net") > 100 and messages(lab, "disks", "a-disk") > 1000


def test_memory_without_end(lab):
	table, fds = lab.memory.table()
	unmoved(lab, (map_about, (lab.server.path("a-disk.sock"), fds, table)))
	assert messages(lab, "disks", "a-disk") > 1000


def test_byte_by_byte(lab):
	unmoved(lab, *((dawdle, (lab.server.path(f"{name}.sock"),)) for name in ("a-net", "b-net", "a-disk")))


def test_answers_that_nobody_reads(lab):
	"""The daemon stops listening to whom it cannot answer, and keeps nothing for him."""
	connection = lab.connect()
	connection.sock.setblocking(False)
	batch, sent, idle = HEADER.pack(Request.GET_FEATURES, VERSION, 0) * 64, 0, 0
	while idle < 20:
		try:
			sent += connection.sock.send(batch)
			idle = 0
		except BlockingIOError:
			idle += 1
			time.sleep(0.05)
	assert sent < 64 << 20
	lab.check()


def test_address_space_is_not_for_one(lab):
	"""Files of no bytes and any size: the device's share of addresses ends, the daemon's does not."""
	huge = [os.memfd_create("huge", os.MFD_CLOEXEC) for _ in range(8)]
	for fd in huge:
		os.truncate(fd, 16 * TERABYTE)
	connection = lab.connect("a-disk")
	table = [(number * 16 * TERABYTE, 16 * TERABYTE, number * 16 * TERABYTE, 0) for number in range(8)]
	assert connection.refused(Request.SET_MEM_TABLE, pack_table(table), huge) == "error"
	assert connection.refused(Request.SET_MEM_TABLE, pack_table([(0, TERABYTE + PAGE, 0, 0)]), huge[:1]) == "error"
	connection.must(Request.SET_MEM_TABLE, pack_table([(0, TERABYTE, 0, 0)]), huge[:1])
	extra = vhost_user.SINGLE_REGION.pack(0, 2 * TERABYTE, PAGE, 2 * TERABYTE, 0)
	assert connection.refused(Request.ADD_MEM_REG, extra, huge[:1]) == "error"
	assert lab.connect("a-disk").refused(Request.SET_LOG_BASE, LOG.pack(16 * TERABYTE, 0), huge[:1]) == "closed"
	for fd in huge:
		os.close(fd)
	lab.check()
