# SPDX-License-Identifier: BSD-3-Clause
"""
What the tests of known holes share: devices to offend, guest memory with a border, processes that change it, control queues.
"""
import contextlib
import multiprocessing
import os
from pathlib import Path

import pytest

from .devices import NET_CTRL_RX, NET_CTRL_VQ, BlockDevice, NetDevice, Options
from .lab import MEGABYTE
from .vhost_user import Connection

BOTH = pytest.mark.parametrize("packed", (False, True), ids=("split", "packed"))
SECTORS = 16 * MEGABYTE // 512		# of a-disk
CANARY = bytes(range(256)) * 16


def held(server):
	return server.descriptors(), server.mappings()


def disk_of(lab, **choices):
	for earlier in [thing for thing in lab.open if isinstance(thing, Connection) and "a-disk" in thing.label]:
		earlier.close()
		lab.open.remove(earlier)
	disk = BlockDevice(lab.server.path("a-disk.sock"), Options(**choices))
	lab.open.append(disk)
	return disk


def extend(disk):
	"""A page behind each region, in the same file but not of guest memory. Return: a function that tells if it is untouched."""
	places = [(part.fd, part.offset + part.size) for part in disk.memory.regions]
	for fd, place in places:
		os.ftruncate(fd, place + len(CANARY))
		os.pwrite(fd, CANARY, place)
	return lambda: all(os.pread(fd, len(CANARY), place) == CANARY for fd, place in places)


def offer(device, queue, parts):
	queue.add_raw(parts)
	queue.publish()
	queue.kick(force=True)


def mend(disk):
	"""Start the only queue of a disk again after it broke."""
	disk.connection.get_vring_base(0)
	for queue in disk.queues:
		queue.close()
	disk.requests.clear()
	disk.make_queues()
	disk.start_queues()


@contextlib.contextmanager
def mutator(memory, changes):
	"""A process that writes, without end, each of @changes, (guest address, [bytes, ...]), while the block runs."""
	stop = multiprocessing.Event()

	def run():
		places = [(memory.find(address), address, values) for address, values in changes]
		places = [(part.bytes, address - part.guest_address, values) for part, address, values in places]
		number = 0
		while not stop.is_set():
			for _ in range(1000):
				number += 1
				for view, start, values in places:
					value = values[number % len(values)]
					view[start:start + len(value)] = value

	process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
	process.start()
	try:
		yield
	finally:
		stop.set()
		process.join(10)
		process.kill()



class ControlledNet(NetDevice):
	"""A card with a control queue, the last of its queues (virtio 1.3, 5.1.2)."""

	def vring_count(self):
		return 2 * self.options.queues + 1

	def command(self, data, **keywords):
		"""Return: the acknowledgement."""
		ack = self.memory.allocate(1)
		self.memory.write(ack, b"\xff")
		queue = self.queues[-1]
		identity = queue.add(self.lay_out(data, [2], False) + [(ack, 1, True)])
		queue.publish()
		queue.kick()
		queue.wait_for(identity, **keywords)
		return self.memory.read(ack, 1)[0]


def controlled(lab, **choices):
	net = ControlledNet(lab.server.path("a-net.sock"), Options(features=NET_CTRL_VQ | NET_CTRL_RX, queues=2, **choices))
	lab.open.append(net)
	assert net.features & NET_CTRL_VQ
	return net


MAC_TABLE_SET = b"\1\0"




def memory_of(server):
	text = Path(f"/proc/{server.pid}/status").read_text()
	return int(text.split("RssAnon:")[1].split()[0]) << 10
