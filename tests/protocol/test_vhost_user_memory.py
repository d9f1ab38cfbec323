# SPDX-License-Identifier: BSD-3-Clause
"""
vhost-user: memory tables and rings, good and bad, in good and bad order. What is refused and how: as in
test_vhost_user_messages.py.
"""
import itertools
import os
import random
import time

import pytest

from . import vhost_user
from .devices import S_OK, BlockDevice, Options
from .lab import MEGABYTE, REFUSED, close_all, eventfds, region
from .memory import PAGE, GuestMemory
from .vhost_user import (INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VRING_ADDRESS, VRING_STATE, Closed, Request,
			 pack_table)

pytestmark = pytest.mark.deadline(60)


# -- rings

INDEXED = [
	(Request.SET_VRING_NUM, lambda index: VRING_STATE.pack(index, 256), 0),
	(Request.SET_VRING_BASE, lambda index: VRING_STATE.pack(index, 0), 0),
	(Request.GET_VRING_BASE, lambda index: VRING_STATE.pack(index, 0), 0),
	(Request.SET_VRING_ENABLE, lambda index: VRING_STATE.pack(index, 1), 0),
	(Request.SET_VRING_ADDR, lambda index: VRING_ADDRESS.pack(index, 0, 0, 0, 0, 0), 0),
	(Request.SET_VRING_KICK, lambda index: U64.pack(index), 1),
	(Request.SET_VRING_CALL, lambda index: U64.pack(index), 1),
	(Request.SET_VRING_ERR, lambda index: U64.pack(index), 1),
]


@pytest.mark.parametrize("request_id, pack, fds", INDEXED, ids=[entry[0].name for entry in INDEXED])
def test_vring_index_out_of_range(lab, request_id, pack, fds):
	events = eventfds(fds)
	for index in (64, 128, 255) if fds else (64, 255, 256, 0x7fffffff, 0x80000000, 0xffffffff):
		assert lab.connect().refused(request_id, pack(index), events) in REFUSED, f"index {index}"
	if fds:
		assert lab.connect().refused(request_id, U64.pack(1 << 32), events) in REFUSED, "bits above the index"
	close_all(events)


@pytest.mark.parametrize("number", [0, 3, 255, 65536, 65535, 0x80000000, 0xffffffff])
def test_impossible_ring_size(lab, number):
	"""Split rings: a power of two, at most 32768 (virtio 1.3, 2.7)."""
	assert lab.connect().refused(Request.SET_VRING_NUM, VRING_STATE.pack(0, number)) in REFUSED


BAD_RINGS = [
	("descriptor table in no region", lambda d, u, a: (0x1000, u, a)),
	("used ring in no region", lambda d, u, a: (d, 0x1000, a)),
	("available ring in no region", lambda d, u, a: (d, u, 0x1000)),
	("descriptor table unaligned", lambda d, u, a: (d + 8, u, a)),
	("used ring unaligned", lambda d, u, a: (d, u + 2, a)),
	("available ring unaligned", lambda d, u, a: (d, u, a + 1)),
	("top of the address space", lambda d, u, a: ((1 << 64) - 16, u, a)),
	("zero", lambda d, u, a: (0, 0, 0)),
]


@pytest.mark.parametrize("change", [entry[1] for entry in BAD_RINGS], ids=[entry[0] for entry in BAD_RINGS])
def test_bad_ring_address(lab, change):
	"""Whether at the message or at the start: the ring never runs. Addresses may come before they can be checked."""
	disk = BlockDevice(connection=lab.connect("a-disk"), start=False)
	lab.open.append(disk)
	disk.features = vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES
	disk.share_memory()
	disk.make_queues()
	queue = disk.queues[0]
	good = queue.addresses()
	connection, send = disk.connection, disk.connection.set_vring_addr
	descriptor, used, available = change(*(disk.memory.user(address) for address in good))
	connection.set_vring_addr = lambda index, *_: send(index, descriptor, used, available)
	try:
		disk.start_queue(queue)
	except (Closed, vhost_user.ProtocolError):
		return
	disk.submit(0, into=512)
	queue.kick(force=True)
	with pytest.raises((TimeoutError, vhost_user.ProtocolError)):
		disk.complete(timeout=0.3)


@pytest.mark.parametrize("end", range(16, 4096, 1000))
def test_ring_reaches_out_of_its_region(lab, end):
	connection = lab.connect("a-disk")
	table, fds = lab.memory.table()
	connection.set_mem_table(table, fds)
	connection.set_vring_num(0, 256)
	user = table[0][2]
	payload = VRING_ADDRESS.pack(0, 0, user + MEGABYTE - (end & ~15), user, user + 8192, 0)
	outcome = connection.refused(Request.SET_VRING_ADDR, payload)
	if outcome == "accepted":
		[kick] = eventfds(1)
		outcome = connection.refused(Request.SET_VRING_KICK, U64.pack(0), [kick])
		if outcome == "accepted":
			outcome = connection.refused(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 1))
			os.eventfd_write(kick, 1)
			time.sleep(0.1)
			assert outcome in REFUSED or lab.server.broken("disks", "a-disk", 0)
		os.close(kick)


# -- memory tables


def bad_tables(memory):
	first, second = region(memory, 0), region(memory, 1)
	guest, size, user, _ = first
	nine = [(guest + number * MEGABYTE * 2, PAGE, user + number * MEGABYTE * 2, 0) for number in range(9)]
	yield "guest addresses overlap", [first, region(memory, 1, guest=guest + size - PAGE)], None
	yield "the same region twice", [first, first], None
	yield "guest address overflows", [region(memory, guest=(1 << 64) - PAGE), second], None
	yield "user address overflows", [region(memory, user=(1 << 64) - PAGE), second], None
	yield "offset overflows", [region(memory, offset=(1 << 64) - PAGE), second], None
	yield "offset and size overflow", [region(memory, offset=1 << 63, size=1 << 63), second], None
	yield "larger than its file", [region(memory, size=MEGABYTE * 2), second], None
	yield "offset past the end of its file", [region(memory, offset=MEGABYTE), second], None
	yield "no bytes", [region(memory, size=0), second], None
	yield "all bytes there are", [region(memory, size=(1 << 64) - 1), second], None
	yield "nine regions", nine, None
	yield "count above the regions given", [first, second], 8
	yield "count below the regions given", [first, second], 1
	yield "enormous count", [first, second], 0xffffffff


with GuestMemory(2, MEGABYTE) as example:
	TABLE_NAMES = [name for name, _, _ in bad_tables(example)]


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_bad_memory_table(lab, name):
	[(_, table, count)] = [entry for entry in bad_tables(lab.memory) if entry[0] == name]
	before = lab.server.descriptors(), lab.server.mappings()
	connection = lab.connect()
	fds = [lab.memory.regions[min(number, 1)].fd for number in range(len(table))]
	assert connection.refused(Request.SET_MEM_TABLE, pack_table(table, count), fds) in REFUSED
	connection.close()
	assert lab.server.settled(lambda: (lab.server.descriptors(), lab.server.mappings()), before) == before


@pytest.mark.parametrize("name", [name for name in TABLE_NAMES if "count" not in name and "nine" not in name])
def test_bad_memory_region(lab, name):
	"""The same through ADD_MEM_REG, one by one: the last one added is the bad one."""
	[(_, table, _)] = [entry for entry in bad_tables(lab.memory) if entry[0] == name]
	if table[1] == region(lab.memory, 1):
		table = table[::-1]
	connection = lab.connect()
	connection.add_mem_reg(table[0], lab.memory.regions[0].fd)
	bad = SINGLE_REGION.pack(0, *table[1])
	assert connection.refused(Request.ADD_MEM_REG, bad, [lab.memory.regions[1].fd]) in REFUSED


def test_more_regions_than_slots(lab):
	connection = lab.connect()
	slots = connection.get_max_mem_slots()
	assert slots <= 4096
	guest, _, user, _ = region(lab.memory)
	entries = [(guest + number * PAGE, PAGE, user + number * PAGE, 0) for number in range(slots + 1)]
	for entry in entries[:-1]:
		connection.add_mem_reg(entry, lab.memory.regions[0].fd)
	payload = SINGLE_REGION.pack(0, *entries[-1])
	assert connection.refused(Request.ADD_MEM_REG, payload, [lab.memory.regions[0].fd]) in REFUSED


def test_memory_that_cannot_be_mapped(lab, tmp_path):
	(tmp_path / "read-only").write_bytes(bytes(MEGABYTE))
	read_only = os.open(tmp_path / "read-only", os.O_RDONLY)
	pipe, [event] = os.pipe(), eventfds(1)
	for fd in (read_only, *pipe, event):
		table = pack_table([region(lab.memory)])
		assert lab.connect().refused(Request.SET_MEM_TABLE, table, [fd]) in REFUSED
	close_all([read_only, *pipe, event])


def test_memory_file_shrinks(lab):
	"""SIGBUS is the offender's loss alone."""
	disk = BlockDevice(lab.server.path("a-disk.sock"))
	lab.open.append(disk)
	assert disk.read(0, 4096).status == S_OK
	os.ftruncate(disk.memory.regions[0].fd, 0)
	time.sleep(0.2)
	try:
		os.eventfd_write(disk.queues[0].kick_fd, 1)
		disk.connection.get_vring_base(0)
	except (Closed, TimeoutError):
		pass
	lab.check()
	# Python would die of the same signal: give the file its pages back before the rings are touched again.
	os.ftruncate(disk.memory.regions[0].fd, disk.memory.regions[0].size)


# -- order


@pytest.mark.parametrize("seed", range(12))
def test_reordered_start(lab, seed):
	"""The messages of a start in any order: each is taken or refused, and then a proper start works."""
	disk = BlockDevice(connection=lab.connect("a-disk"), start=False)
	lab.open.append(disk)
	disk.make_queues()
	queue, connection = disk.queues[0], disk.connection
	descriptor, used, available = (disk.memory.user(address) for address in queue.addresses())
	steps = [
		lambda: connection.set_mem_table(*disk.memory.table()),
		lambda: connection.set_vring_num(0, queue.size),
		lambda: connection.set_vring_base(0, 0),
		lambda: connection.set_vring_addr(0, descriptor, used, available),
		lambda: connection.set_vring_kick(0, queue.kick_fd),
		lambda: connection.set_vring_call(0, queue.call_fd),
		lambda: connection.set_vring_enable(0, 1),
		lambda: connection.get_vring_base(0),
		lambda: queue.kick(force=True),
	]
	random.Random(seed).shuffle(steps)
	try:
		for step in steps:
			step()
	except (Closed, vhost_user.ProtocolError):
		pass
	connection.close()
	with BlockDevice(lab.server.path("a-disk.sock")) as again:
		assert again.read(0, 512).status == S_OK


def test_changes_while_rings_run(lab):
	"""Call and kick descriptors, enable and the memory table may change under a running ring."""
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		queue, connection = disk.queues[0], disk.connection
		for number in range(30):
			connection.set_vring_call(0, queue.call_fd)
			connection.set_vring_kick(0, queue.kick_fd)
			connection.set_mem_table(*disk.memory.table())
			connection.set_vring_enable(0, 0)
			connection.set_vring_enable(0, 1)
			queue.kick(force=True)
			assert disk.read(number, 512).status == S_OK


def test_disabled_ring_is_not_served(lab):
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		disk.connection.set_vring_enable(0, 0)
		key = disk.submit(0, into=512)
		disk.queues[0].kick(force=True)
		with pytest.raises(TimeoutError):
			disk.complete(timeout=0.3)
		disk.connection.set_vring_enable(0, 1)
		assert disk.complete()[key].status == S_OK


@pytest.mark.parametrize("packed", (False, True))
def test_stop_returns_where_it_stopped(lab, packed):
	with BlockDevice(lab.server.path("a-disk.sock"), Options(packed=packed)) as disk:
		for _ in range(5):
			assert disk.read(0, 512).status == S_OK
		queue = disk.queues[0]
		assert disk.stop_queues() == [queue.base()]
		disk.start_queues()
		assert disk.read(0, 512).status == S_OK


def test_reset_device_and_start_again(lab):
	with BlockDevice(lab.server.path("a-disk.sock")) as disk:
		assert disk.read(0, 512).status == S_OK
		disk.connection.reset_device()
		disk.connection.set_features(disk.features)
		disk.share_memory()
		disk.start_queues()
		assert disk.read(0, 512).status == S_OK


@pytest.mark.parametrize("options", [
	Options(regions=4, region_size=MEGABYTE * 4), Options(regions=4, region_size=MEGABYTE * 4, memory_slots=True),
	Options(regions=3, region_size=MEGABYTE, region_gap=0, file_offset=12 * PAGE), Options(status=True),
	Options(call=False), Options(kick=False), Options(inflight=True), Options(inflight=True, packed=True),
	Options(regions=8, region_size=MEGABYTE, memory_slots=True, status=True, inflight=True, packed=True),
], ids=["regions", "slots", "adjacent", "status", "no-call", "no-kick", "inflight", "inflight-packed", "everything"])
def test_ways_to_start(lab, options):
	with BlockDevice(lab.server.path("a-disk.sock"), options) as disk:
		for sector in range(0, 64, 8):
			data = os.urandom(4096)
			assert disk.write(sector, data).status == S_OK
			assert disk.read(sector, 4096).data == data


@pytest.mark.xdist_group("huge_pages")
def test_huge_pages(lab, huge_pages):
	"""Regions need not begin at a multiple of the page that backs them."""
	options = Options(huge_pages=True, regions=2, region_size=4 * MEGABYTE, file_offset=12 * PAGE)
	with BlockDevice(lab.server.path("a-disk.sock"), options) as disk:
		data = os.urandom(4096)
		assert disk.write(0, data).status == S_OK and disk.read(0, 4096).data == data


# size, offset, queues, queue size: relative to what GET_INFLIGHT_FD gave
BAD_INFLIGHT = {
	"larger than its file": lambda size, offset: (size + (1 << 30), offset, 1, 128),
	"offset past its end": lambda size, offset: (size, offset + (1 << 30), 1, 128),
	"offset overflows": lambda size, offset: (size, (1 << 64) - PAGE, 1, 128),
	"too small for its queues": lambda size, offset: (64, offset, 1, 128),
	"no bytes": lambda size, offset: (0, offset, 1, 128),
	"more queues than there are": lambda size, offset: (size, offset, 0xffff, 128),
	"queues too large": lambda size, offset: (size, offset, 1, 0xffff),
}


@pytest.mark.parametrize("name", BAD_INFLIGHT)
def test_bad_inflight_region(lab, name):
	connection = lab.connect("a-disk")
	size, offset, fd = connection.get_inflight_fd(1, 128)
	payload = INFLIGHT_PADDED.pack(*BAD_INFLIGHT[name](size, offset))
	assert connection.refused(Request.SET_INFLIGHT_FD, payload, [fd]) in REFUSED
	os.close(fd)


@pytest.mark.parametrize("queues, size", [(0, 128), (1, 0), (0xffff, 128), (1, 0xffff)])
def test_bad_inflight_request(lab, queues, size):
	"""Refused, or answered without a region ("mmap size" 0); never a region of gigabytes."""
	connection = lab.connect("a-disk")
	connection.send(Request.GET_INFLIGHT_FD, INFLIGHT_PADDED.pack(0, 0, queues, size))
	try:
		reply = connection.reply_to(Request.GET_INFLIGHT_FD)
	except Closed:
		return
	assert not reply.fds and not any(reply.payload[:8])


def test_hot_add_and_remove(lab):
	with BlockDevice(lab.server.path("a-disk.sock"), Options(memory_slots=True)) as disk:
		other = GuestMemory(1, MEGABYTE, base=0x8000_0000)
		entry = region(other, user=disk.memory.regions[0].user_address + (1 << 40))
		queue = disk.queues[0]
		for _ in range(20):
			disk.connection.add_mem_reg(entry, other.regions[0].fd)
			header, status = disk.lay_out(bytes(16), [], False), disk.lay_out(1, [], True)
			identity = queue.add(header + [(entry[0], 512, True)] + status)
			queue.publish()
			queue.kick()
			queue.wait_for(identity)
			disk.connection.rem_mem_reg(entry)
		other.close()


@pytest.mark.parametrize("packed", (False, True))
def test_dirty_log(lab, packed):
	"""A read of the disk dirties the pages of its data and of the used ring ("Migration")."""
	log = GuestMemory(1, MEGABYTE)
	with BlockDevice(connection=lab.connect("a-disk"), options=Options(packed=packed), start=False) as disk:
		connection = disk.connection
		disk.features = connection.get_features() & disk.wanted()
		connection.set_features(disk.features)
		disk.share_memory()
		disk.make_queues()
		disk.start_queues()
		queue = disk.queues[0]
		connection.set_log_base(MEGABYTE, 0, log.regions[0].fd)
		connection.set_features(disk.features | vhost_user.F_LOG_ALL)
		descriptor, used, available = (disk.memory.user(address) for address in queue.addresses())
		connection.set_vring_addr(0, descriptor, used, available, vhost_user.VRING_ADDRESS_F_LOG,
					  queue.addresses()[0 if packed else 1])
		data = disk.memory.allocate(3 * PAGE, PAGE)
		header, status = disk.lay_out(bytes(16), [], False), disk.lay_out(1, [], True)
		identity = queue.add(header + [(data, 3 * PAGE, True)] + status)
		queue.publish()
		queue.kick(force=True)
		queue.wait_for(identity)

		def dirty(address):
			return bool(log.regions[0].bytes[address // PAGE // 8] & 1 << address // PAGE % 8)
		assert [dirty(data + offset) for offset in range(0, 3 * PAGE, PAGE)] == [True] * 3
		assert dirty(status[0][0]) and dirty(queue.addresses()[0 if packed else 1])
		assert not dirty(data + 3 * PAGE + 64 * PAGE)
	log.close()


@pytest.mark.parametrize("size, offset", itertools.product((0, 1, 1 << 40, (1 << 64) - 1), (0, (1 << 64) - PAGE)))
def test_bad_dirty_log(lab, size, offset):
	"""Too small or impossible: refused, or writes past its end are dropped; never a crash."""
	log = GuestMemory(1, MEGABYTE)
	connection = lab.connect("a-disk")
	connection.set_mem_table(*lab.memory.table())
	connection.refused(Request.SET_LOG_BASE, LOG.pack(size, offset), [log.regions[0].fd])
	log.close()
