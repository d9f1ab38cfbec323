# SPDX-License-Identifier: BSD-3-Clause
"""
What every emulated device of the daemon must bear from its transport, whatever its registers mean: accesses of any width to
any offset with any value, resets and memory that comes and goes meanwhile, clients that leave in any state. The daemon
lives, leaks nothing, and a neighbour notices nothing.
"""
import os
import random
import time

import pytest

from .devices import S_OK, BlockDevice
from .vfio_lab import MODELS, DaemonTarget
from .vfio_user import (CONFIG_REGION, DATA_EVENTFD, DATA_NONE, INTX, MSIX, TRIGGER, UNMAP_ALL, UNMASK, Memory, Refused,
			Window, capabilities, eventfds)

MEGABYTE = 1 << 20
EXPRESS, MSIX_CAPABILITY = 0x10, 0x11


@pytest.fixture(params=MODELS)
def target(request, serve):
	keywords, _ = MODELS[request.param]
	keywords = dict(keywords, disks={**keywords.get("disks", {}), "n-disk": "type: ram, size: 1M"})
	server = serve(**keywords)
	target = DaemonTarget(server, request.param)
	neighbour = BlockDevice(server.path("n-disk.sock"))
	yield target
	data = os.urandom(4096)
	assert server.alive()
	assert neighbour.write(8, data).status == S_OK and neighbour.read(8, 4096).data == data
	neighbour.close()


@pytest.fixture
def memory():
	memory = Memory(8 * MEGABYTE)
	yield memory
	memory.close()


def test_description_agrees_with_configuration_space(target):
	connection = target.connect()
	regions = connection.regions()
	for region in regions[:6]:
		if region.fd is not None:
			os.close(region.fd)
		at = 0x10 + 4 * region.index
		connection.write32(CONFIG_REGION, at, 0xffffffff)
		value = connection.read32(CONFIG_REGION, at)
		if region.size:
			mask = 3 if value & 1 else 15
			assert (~(value & ~mask) & 0xffffffff) + 1 == region.size, region.index
		for offset, size in region.areas:
			assert offset % 4096 == size % 4096 == 0 and offset + size <= region.size
	found = capabilities(connection)
	if MSIX_CAPABILITY in found:
		control = int.from_bytes(connection.read(CONFIG_REGION, found[MSIX_CAPABILITY] + 2, 2), "little")
		table = connection.read32(CONFIG_REGION, found[MSIX_CAPABILITY] + 4)
		assert (control & 0x7ff) + 1 == connection.irq_info(MSIX)[1]
		assert (table & ~7) + 16 * ((control & 0x7ff) + 1) <= regions[table & 7].size
	else:
		assert connection.irq_info(MSIX)[1] == 0
	assert regions[CONFIG_REGION].size == (4096 if EXPRESS in found else 256)


def scramble(connection, generator, regions, count):
	"""Random accesses; only their bounds are right."""
	for _ in range(count):
		region = generator.choice(regions)
		length = generator.choice((1, 1, 2, 2, 4, 4, 4, 4, 8, 3, 16, 64))
		offset = generator.randrange(max(1, region.size - length))
		if generator.random() < 0.7:
			offset &= ~3
		length = min(length, region.size - offset)
		data = generator.choice((bytes(length), b"\xff" * length, generator.randbytes(length)))
		choice = generator.random()
		if choice < 0.3:
			connection.read(region.index, offset, length)
		elif choice < 0.7:
			connection.write(region.index, offset, data)
		else:
			connection.post_write(region.index, offset, data)


@pytest.mark.deadline(120)
@pytest.mark.parametrize("seed", range(3))
def test_any_access(target, memory, seed):
	"""Registers of any width, in any order, among resets, and with memory that comes and goes."""
	generator = random.Random(seed)
	connection = target.connect()
	regions = [region for region in connection.regions() if region.size]
	window = next((Window(region) for region in regions if region.fd is not None), None)
	identity = connection.read32(CONFIG_REGION, 0)
	connection.dma_map(0, memory.size, 0, memory.fd)
	for _ in range(40):
		scramble(connection, generator, regions, 40)
		if window:
			for offset, size, _ in window.areas:
				window.store(offset + generator.randrange(size) // 4 * 4, generator.randrange(1 << 32))
		choice = generator.randrange(4)
		if choice == 0:
			connection.reset()
		elif choice == 1:
			connection.dma_unmap(0, memory.size)
			connection.dma_map(0, memory.size, 0, memory.fd)
		elif choice == 2:
			for begin in range(0, 1 << 16, 8):	# anything in the memory, too
				memory.map[begin:begin + 8] = generator.randbytes(8)
	assert connection.read32(CONFIG_REGION, 0) == identity
	connection.reset()
	assert connection.read32(CONFIG_REGION, 0) == identity
	if window:
		window.close()


def test_function_level_reset(target):
	connection = target.connect()
	found = capabilities(connection)
	if EXPRESS not in found:
		return
	connection.write(CONFIG_REGION, 4, b"\6\4")
	connection.write(CONFIG_REGION, found[EXPRESS] + 8, b"\0\x80")
	assert connection.read(CONFIG_REGION, 4, 2) == b"\0\0"


@pytest.mark.deadline(120)
def test_clients_that_leave(target, memory):
	"""In any state: master or not, with interrupts and memory or half of it, in the middle of a message."""
	target.connect().close()
	before = target.settled(lambda: (target.descriptors(), target.mappings()), None, 0.3)
	generator = random.Random(4)
	for i in range(60):
		connection = target.connect()
		events = eventfds(3)
		connection.dma_map(0, memory.size, 0, memory.fd)
		connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=events[:1])
		connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=events[1:2])
		try:
			connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, fds=events[2:])
		except Refused:
			assert target.model == "e1000"
		connection.write(CONFIG_REGION, 4, b"\6\0")
		if i % 3 == 1:
			connection.dma_unmap(0, 0, UNMAP_ALL)
		elif i % 3 == 2:
			connection.send_raw(generator.randbytes(generator.randrange(1, 16)))
		connection.close()
		for event in events:
			os.close(event)
	after = target.settled(lambda: (target.descriptors(), target.mappings()), before)
	assert after == before


def test_neighbours_share_the_control_thread(target):
	"""A client that floods with posted writes does not keep the control socket waiting."""
	connection = target.connect()
	deadline = time.monotonic() + 2
	slowest = 0
	while time.monotonic() < deadline:
		for _ in range(500):
			connection.post_write(CONFIG_REGION, 0x3c, b"\0")
		begin = time.monotonic()
		target.server.status()
		slowest = max(slowest, time.monotonic() - begin)
	assert slowest < 1
	connection.set_irqs(DATA_NONE | TRIGGER, INTX, count=0)


def test_status(target):
	connection = target.connect()
	connection.read32(CONFIG_REGION, 0)
	connection.dma_map(0, 1 << 20)
	status = target.server.status()
	device = (status["disks"] if target.model == "nvme" else status["interfaces"])[MODELS[target.model][1]]
	assert device["connected"] and device["messages"] == 3 and device["refused"] == 0
	assert device["pci"]["messages"] == {"region_reads": 1, "region_writes": 0, "interrupts": 0, "memory": 1}
