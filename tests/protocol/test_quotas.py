# SPDX-License-Identifier: BSD-3-Clause
"""
What one guest can have of what all share: memory that is mapped for it, regions, descriptors, queues, the daemon's own memory,
lines of the log. Each ends where the configuration or a constant says, with a refusal, and the neighbour's share is its own.
(Time of the sidecore: test_hostile_floods.py; clients of the control socket: test_control_socket.py.)
"""
import os
import re
import time
from pathlib import Path

import pytest

from .devices import S_OK, BlockDevice, Options
from .lab import MEGABYTE, REFUSED, Lab, close_all, eventfds
from .memory import PAGE
from .server import without_quarantine
from .vhost_user import INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VRING_STATE, Connection, Protocol, Request, pack_table

pytestmark = pytest.mark.deadline(60)

QUOTA = 2 * MEGABYTE
REGIONS = 509
LINES = 4		# a second, of each limit of a device: what its connection does, and its coming and going
LIMITS = 2
OWN = 1 << 20		# bytes of the daemon's memory for a device of 16 queues


@pytest.fixture
def small(serve):
	"""a-disk may map 2 MiB, n-disk as much as it likes."""
	lab = Lab(serve(interfaces={"a-net": "queue_pairs: 2"},
			disks={"a-disk": ("type: ram, size: 16M", "memory_max: 2M, queues: 4"), "n-disk": "type: ram, size: 1M"}))
	yield lab
	try:
		lab.check()
	finally:
		lab.close()


@pytest.fixture
def memory():
	fd = os.memfd_create("memory", os.MFD_CLOEXEC)
	os.truncate(fd, 64 * MEGABYTE)
	yield fd
	os.close(fd)


def entry(number, size=MEGABYTE):
	return number * 16 * MEGABYTE, size, number * 16 * MEGABYTE, 0


def test_memory_of_a_table(small, memory):
	connection = small.connect("a-disk")
	connection.set_mem_table([entry(1), entry(2)], [memory] * 2)
	for table in ([entry(1, QUOTA + PAGE)], [entry(1), entry(2), entry(3, PAGE)], [entry(number) for number in range(8)]):
		assert connection.refused(Request.SET_MEM_TABLE, pack_table(table), [memory] * len(table)) == "error"
	# The table that was in force still is; one that replaces it may be as large, for both are not in force at a time.
	assert connection.refused(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, *entry(3, PAGE)), [memory]) == "error"
	connection.set_mem_table([entry(5, QUOTA)], [memory])


def test_memory_region_by_region(small, memory):
	connection = small.connect("a-disk")
	connection.add_mem_reg(entry(1), memory)
	connection.add_mem_reg(entry(2), memory)
	bad = SINGLE_REGION.pack(0, *entry(3, PAGE))
	assert connection.refused(Request.ADD_MEM_REG, bad, [memory]) == "error"
	connection.rem_mem_reg(entry(1))
	connection.add_mem_reg(entry(3), memory)
	assert connection.refused(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, *entry(1, PAGE)), [memory]) == "error"
	assert sum("/memfd:memory" in line for line in maps(small.server)) == 2


def test_memory_of_a_log(small, memory):
	assert small.connect("a-disk").refused(Request.SET_LOG_BASE, LOG.pack(QUOTA + PAGE, 0), [memory]) in REFUSED
	small.connect("a-disk").set_log_base(QUOTA, 0, memory)


def test_memory_is_each_connections_own(small, memory):
	"""What one has used up the next one still has, and a new connection begins at nothing."""
	small.connect("a-disk").set_mem_table([entry(1, QUOTA)], [memory])
	small.connect("a-net").set_mem_table([entry(1, 32 * MEGABYTE)], [memory])
	small.connect("a-disk").set_mem_table([entry(1, QUOTA)], [memory])
	assert small.server.settled(lambda: sum("/memfd:memory" in line for line in maps(small.server)), 2) == 2


def maps(server):
	return Path(f"/proc/{server.pid}/maps").read_text().splitlines()


def test_regions(small, memory):
	"""As many as the specification's front-ends ask for; their files are not kept open."""
	connection = small.connect("a-net")
	assert connection.get_max_mem_slots() == REGIONS
	descriptors = small.server.descriptors()
	for number in range(REGIONS):
		connection.add_mem_reg(entry(number, PAGE), memory)
	assert connection.refused(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, *entry(REGIONS, PAGE)), [memory]) == "error"
	assert small.server.descriptors() == descriptors
	assert sum("/memfd:memory" in line for line in maps(small.server)) == REGIONS


@pytest.mark.parametrize("name, queues", [("a-net", 5), ("a-disk", 4)])
def test_descriptors_and_queues(small, name, queues):
	"""Three of each queue, the socket, the channel for the daemon's own requests; each replaced, none added."""
	small.connect(name).close()
	before = small.server.settled(small.server.descriptors, None, 0.3)
	connection, events = small.connect(name), eventfds(3)
	assert connection.get_queue_num() <= queues
	took = set()
	for _ in range(3):
		for index in range(256):
			for request, event in zip((Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR), events):
				if connection.command(request, U64.pack(index), [event]) == 0:
					took.add(index)
	assert took == set(range(queues))
	for index in range(queues, 256):
		assert connection.command(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1)) != 0
	assert small.server.descriptors() <= before + 1 + 3 * queues
	close_all(events)


def test_in_flight_region(small):
	"""The largest that it gives is that of its queues at their largest, and it is the front-end's memory, not the daemon's."""
	connection = small.connect("a-disk")
	size, _, fd = connection.get_inflight_fd(4, 1024)
	assert size < MEGABYTE and os.fstat(fd).st_size < MEGABYTE
	os.close(fd)
	for queues, queue_size in ((5, 1024), (0xffff, 1024), (4, 0xffff)):
		payload = INFLIGHT_PADDED.pack(0, 0, queues, queue_size)
		assert small.connect("a-disk").refused(Request.GET_INFLIGHT_FD, payload) in REFUSED


def test_own_memory(serve):
	"""Rings of the largest size on all queues: what the daemon takes for them is bounded, and comes back."""
	with without_quarantine():
		server = serve(disks={"a-disk": ("type: ram, size: 1M", "queues: 16"), "n-disk": "type: ram, size: 1M"})

	def resident():
		return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())[1]) << 10

	def life():
		options = Options(queues=16, queue_size=1024, region_size=8 * MEGABYTE)
		with BlockDevice(server.path("a-disk.sock"), options) as disk:
			for queue in range(16):
				assert disk.read(0, 512, queue=queue).status == S_OK
			return resident()

	before = resident()
	taken = [life() - before for _ in range(20)]
	print(f"{taken[0] >> 10} KiB, and {taken[-1] >> 10} KiB the twentieth time")
	assert max(taken) <= 16 * OWN
	assert taken[-1] <= taken[2] + (64 << 10) * 2


def test_log_lines(small):
	"""Refusals, breaks, connections without end: so many lines a second, and then how many were left out."""
	begun = len(small.server.log.read_text().splitlines())
	start, rounds = time.monotonic(), 0
	while time.monotonic() < start + 3:
		for name in ("a-disk", "a-net"):
			with Connection(small.server.path(f"{name}.sock")) as connection:
				connection.set_protocol_features(Protocol.REPLY_ACK)
				for _ in range(20):
					connection.command(Request.SET_VRING_NUM, VRING_STATE.pack(0, 0))
				connection.send(99)
				assert connection.closed()
		rounds += 1
	lines = small.server.log.read_text().splitlines()[begun:]
	seconds = int(time.monotonic() - start) + 2
	assert rounds > 20 and len(lines) <= 2 * LIMITS * (LINES + 1) * seconds, f"{len(lines)} lines of {rounds} rounds"
	assert any("left out" in line for line in lines)
