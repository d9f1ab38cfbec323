# SPDX-License-Identifier: BSD-3-Clause
"""
The NVMe controller over its transport, where clients come and go, disks take their time and interrupts are eventfds:
shutdown, resets and the power, the error log, coalescing.
"""
import os
import struct
import time

import pytest

from . import nbd_server
from .devices import S_OK, BlockDevice
from .emulated import (CC, CREATE_CQ, CREATE_SQ, CSTS, DATA, ENABLE, GET_LOG, LBA_RANGE, NSSR, READ, READY, SET_FEATURES, SUCCESS, Nvme,
		       Pair, command, wait_for)
from .nbd_server import NbdServer, honest
from .vfio_user import CONFIG_REGION, DATA_EVENTFD, MSIX, TRIGGER, eventfds, signalled

MEGABYTE = 1 << 20
NORMAL, ABRUPT = 1 << 14, 2 << 14
SHUTTING, SHUT = 1 << 2, 2 << 2		# CSTS.SHST
RESET_OCCURRED = 1 << 4
COALESCING, VECTOR = 8, 9


def get_log(guest, page, length):
	assert guest.admin.run(command(GET_LOG, 0xffffffff, DATA, dw10=page | (length // 4 - 1) << 16)) == SUCCESS
	return guest.peek(DATA, length)


def smart(guest):
	"""Return: (power cycles, unsafe shutdowns, media errors, entries of the error log)."""
	page = get_log(guest, 2, 512)
	return tuple(struct.unpack_from("<Q", page, offset)[0] for offset in (112, 144, 160, 176))


def test_a_shutdown_waits_for_the_disk_alone(serve, tmp_path):
	"""A flush that never ends keeps its own guest waiting, until the disk's time is up, and nobody else."""
	with NbdServer(tmp_path / "nbd", MEGABYTE) as nbd:
		server = serve(networks=(), disks={"a-disk": (f'type: nbd, uri: "{nbd.uri}", timeout: 2s', "model: nvme"),
						   "n-disk": "type: ram, size: 1M"})
		neighbour = BlockDevice(server.path("n-disk.sock"))
		guest = Nvme(server.path("a-disk.sock"))
		nbd.answer = lambda request, reply: None if request.kind == nbd_server.FLUSH else reply
		guest.write(CC, ENABLE | NORMAL)
		wait_for(lambda: any(request.kind == nbd_server.FLUSH for request in nbd.seen), "no flush")
		for number in range(100):
			data = os.urandom(4096)
			start = time.monotonic()
			assert neighbour.write(8, data).status == S_OK and neighbour.read(8, 4096).data == data
			assert time.monotonic() - start < 1
			assert number or guest.read(CSTS) & (SHUTTING | SHUT) == SHUTTING
		# The disk gives up, or is well again: the shutdown is complete either way.
		wait_for(lambda: guest.read(CSTS) & (SHUTTING | SHUT) == SHUT, "the shutdown does not end")
		nbd.answer = honest
		flushes = server.status()["disks"]["a-disk"]["flushes"]
		guest.works()
		guest.write(CC, ENABLE | NORMAL)
		wait_for(lambda: guest.read(CSTS) & (SHUTTING | SHUT) == SHUT, "the shutdown does not end")
		assert server.status()["disks"]["a-disk"]["flushes"] == flushes + 1
		# Without notice there is none.
		guest.works()
		guest.write(CC, ENABLE | ABRUPT)
		wait_for(lambda: guest.read(CSTS) & (SHUTTING | SHUT) == SHUT, "the shutdown does not end")
		assert server.status()["disks"]["a-disk"]["flushes"] == flushes + 1
		guest.close()
		neighbour.close()


def test_clients_that_leave_in_a_shutdown(serve, tmp_path):
	with NbdServer(tmp_path / "nbd", MEGABYTE) as nbd:
		server = serve(networks=(), disks={"a-disk": (f'type: nbd, uri: "{nbd.uri}", timeout: 1s', "model: nvme")})
		for _ in range(2):
			guest = Nvme(server.path("a-disk.sock"))
			nbd.answer = lambda request, reply: None if request.kind == nbd_server.FLUSH else reply
			guest.write(CC, ENABLE | NORMAL)
			guest.close()
			nbd.answer = honest
		guest = Nvme(server.path("a-disk.sock"))
		guest.works()
		guest.close()


@pytest.fixture
def disk(serve):
	return serve(networks=(), disks={"a-disk": ("type: ram, size: 1M", "model: nvme")})


def test_what_outlives_resets_and_clients(disk):
	guest = Nvme(disk.path("a-disk.sock"))
	assert smart(guest) == (1, 0, 0, 0)
	guest.write(NSSR, 0x4e564d65)
	assert guest.read(CSTS) == RESET_OCCURRED and guest.read(CC) == 0
	guest.connection.reset()	# the machine's
	assert guest.read(CSTS) == RESET_OCCURRED
	guest.connection.write(CONFIG_REGION, 4, b"\6\0")
	guest.start()
	assert guest.read(CSTS) == RESET_OCCURRED | READY
	queue = guest.create()
	assert queue.run(command(READ, 1, DATA, dw10=4096)) == LBA_RANGE
	assert smart(guest) == (1, 0, 0, 1)
	guest.close()

	# The power went, without a word; the log is the drive's.
	guest = Nvme(disk.path("a-disk.sock"))
	assert guest.read(CSTS) == READY
	assert smart(guest) == (2, 1, 0, 1)
	number, queue, _, status, _, lba, nsid = struct.unpack_from("<QHHHHQI", get_log(guest, 1, 64))
	assert (number, queue, status >> 1 & 0x7ff, lba, nsid) == (1, 1, LBA_RANGE, 4096, 1)
	guest.write(CC, ENABLE | NORMAL)
	wait_for(lambda: guest.read(CSTS) & (SHUTTING | SHUT) == SHUT, "the shutdown does not end")
	guest.close()
	guest = Nvme(disk.path("a-disk.sock"))
	assert smart(guest) == (3, 1, 0, 1)
	guest.close()


def test_interrupts_that_are_held_back(disk):
	"""The time and the number of entries that the driver asks for, for the vector that it names, without a message."""
	guest = Nvme(disk.path("a-disk.sock"))
	events = eventfds(2)
	for vector, event in enumerate(events):
		guest.connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, vector, fds=(event,))
	submit, complete = 0x10000, 0x18000
	assert guest.admin.run(command(CREATE_CQ, prp1=complete, dw10=31 << 16 | 1, dw11=1 << 16 | 3)) == SUCCESS
	assert guest.admin.run(command(CREATE_SQ, prp1=submit, dw10=31 << 16 | 1, dw11=1 << 16 | 1)) == SUCCESS
	queue = Pair(guest, 1, submit, complete, 32)

	def reads(count):
		"""Return: (seconds until the interrupt, interrupts)."""
		signalled(events[1])
		for _ in range(count):
			queue.add(command(READ, 1, DATA), ring=False)
		start = time.monotonic()
		queue.ring()
		interrupts = signalled(events[1], 5)
		taken = time.monotonic() - start
		for _ in range(count):
			assert wait_for(queue.take, "no completion")[1] == SUCCESS
		queue.taken()
		return taken, interrupts

	assert reads(1)[1] == 1
	assert guest.admin.run(command(SET_FEATURES, dw10=COALESCING, dw11=7 | 250 << 8)) == SUCCESS	# 8 entries, 25 ms
	taken, interrupts = reads(1)
	assert taken >= 0.025 and interrupts == 1
	assert min(reads(8)[0] for _ in range(5)) < 0.02
	messages = disk.status()["disks"]["a-disk"]["messages"]
	reads(3)
	assert disk.status()["disks"]["a-disk"]["messages"] - messages <= 4	# the doorbells of this client, no more
	assert guest.admin.run(command(SET_FEATURES, dw10=VECTOR, dw11=1 | 1 << 16)) == SUCCESS
	assert min(reads(1)[0] for _ in range(5)) < 0.02
	# The admin queue was never concerned.
	signalled(events[0])
	smart(guest)
	assert signalled(events[0], 1) == 1
	for event in events:
		os.close(event)
	guest.close()
