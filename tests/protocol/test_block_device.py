# SPDX-License-Identifier: BSD-3-Clause
"""
virtio-blk: every request over every form of ring, limits, malformed requests, and a restart of the daemon with requests
in flight. All expectations are of virtio 1.3, 5.2.
"""
import itertools
import os
import socket
import struct
import time

import pytest

from . import vhost_user
from .bad_chains import BAD_CHAINS, CASES, make_bad
from .devices import (BLK_CONFIG_WCE, BLK_DISCARD, BLK_FLUSH, BLK_HEADER, BLK_MQ, BLK_RANGE, BLK_RO, BLK_WRITE_ZEROES,
		      S_IOERR, S_OK, S_UNSUPP, SECTOR, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES,
		      BlockDevice, Options)
from .rings import F_NEXT, F_WRITE, Raw
from .vhost_user import BackendRequest, Connection, Protocol

pytestmark = pytest.mark.deadline(60)

MEGABYTE = 1 << 20
SIZE = 16 * MEGABYTE
SECTORS = SIZE // SECTOR


class Disks:
	"""A daemon with one disk of each kind, and a neighbour."""

	def __init__(self, serve, tmp_path):
		self.image = tmp_path / "disk.raw"
		self.image.write_bytes(os.urandom(MEGABYTE) + bytes(SIZE - MEGABYTE))
		self.fixed = tmp_path / "fixed.raw"
		self.fixed.write_bytes(self.image.read_bytes())
		self.server = serve(networks=(), disks={
			"ram": (f"type: ram, size: {SIZE}", "queues: 4"),
			"file": (f"type: file, path: {self.image}", "queues: 4, serial: twenty-letter-serial"),
			"fixed": (f"type: file, path: {self.fixed}", "read_only: true"),
			"large": (f"type: ram, size: {SIZE}", "block_size: 4096"),
			"nothing": f"type: null, size: {SIZE}",
			"neighbour": "type: ram, size: 1M",
		})
		self.devices = []
		self.neighbour = self.plug("neighbour")

	def plug(self, name, options=None, **choices):
		device = BlockDevice(self.server.path(f"{name}.sock"), options or Options(**choices))
		self.devices.append(device)
		return device

	def check(self):
		data = os.urandom(8192)
		assert self.server.alive()
		assert self.neighbour.write(16, data).status == S_OK
		assert self.neighbour.read(16, 8192).data == data

	def close(self):
		for device in self.devices:
			device.close()


@pytest.fixture
def disks(serve, tmp_path):
	disks = Disks(serve, tmp_path)
	yield disks
	try:
		disks.check()
	finally:
		disks.close()


# -- every form of ring

# Requests of a disk complete in any order, so it does not offer IN_ORDER (virtio 1.3 2.7.9 leaves that to the device).
MATRIX = list(itertools.product((False, True), repeat=3))


@pytest.mark.parametrize("packed, indirect, event_idx", MATRIX)
def test_matrix(disks, packed, indirect, event_idx):
	"""All requests, then depth and more than twice around a ring of 64."""
	disk = disks.plug("file", packed=packed, indirect=indirect, event_idx=event_idx, queue_size=64)
	data = os.urandom(64 << 10)
	result = disk.write(2048, data)
	assert (result.status, result.length) == (S_OK, 1)
	result = disk.read(2048, len(data))
	assert (result.status, result.length) == (S_OK, len(data) + 1) and result.data == data
	assert disk.flush().status == S_OK
	assert disk.discard((2048, 8), (2064, 8)).status == S_OK
	assert disk.write_zeroes((2056, 8)).status == S_OK
	assert disk.read(2056, 4096).data == bytes(4096)
	assert disk.read(2072, 4096).data == data[24 * SECTOR:32 * SECTOR]
	for batch in range(20):
		expected = {}
		for number in range(12):
			sector = (batch * 12 + number) % 2000
			expected[disk.submit(T_IN, sector, into=1024, kick=False)] = sector
		disk.publish()
		results = disk.complete(count=12, by_call=True)
		for key, sector in expected.items():
			with open(disks.image, "rb") as image:
				assert results[key].data == os.pread(image.fileno(), 1024, sector * SECTOR)


@pytest.mark.parametrize("layout, packed, indirect", itertools.product(
	("together", "scattered"), (False, True), (False, True)))
def test_any_layout(disks, layout, packed, indirect):
	"""Header, data and status anyhow across descriptors (2.7.4); the status is the last writable byte."""
	disk = disks.plug("file", layout=layout, packed=packed, indirect=indirect)
	for length in (512, 4096, 5120, 65536):
		data = os.urandom(length)
		assert disk.write(64, data).status == S_OK
		result = disk.read(64, length)
		assert result.status == S_OK and result.data == data
	assert disk.get_id().status == S_OK


@pytest.mark.parametrize("name, packed", itertools.product(("ram", "file"), (False, True)))
def test_queues(disks, name, packed):
	disk = disks.plug(name, queues=4, packed=packed)
	assert disk.features & BLK_MQ and disk.config.num_queues == 4
	for queue in range(4):
		data = os.urandom(4096)
		assert disk.write(8 * queue, data, queue).status == S_OK
		assert disk.read(8 * queue, 4096, 3 - queue).data == data


@pytest.mark.parametrize("packed, event_idx", itertools.product((False, True), repeat=2))
def test_idle_disk_wakes_by_its_kick(disks, packed, event_idx):
	disk = disks.plug("file", packed=packed, event_idx=event_idx)
	for pause in (0, 0.001, 0.01, 0.3, 1.0):
		time.sleep(pause)
		assert disk.read(0, 512).status == S_OK


def test_buffers_across_adjacent_regions(disks):
	disk = disks.plug("file", regions=3, region_size=MEGABYTE, region_gap=0, file_offset=64 << 10)
	ring, middle = disk.queues[0], disk.memory.regions[1].guest_address
	header, status = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False), disk.lay_out(1, [], True)
	disk.memory.write(middle - 2048, b"\xee" * 4096)
	ring.wait_for((ring.add(header + [(middle - 2048, 4096, True)] + status), ring.publish(), ring.kick())[0])
	assert disk.memory.read(status[0][0], 1) == b"\0"
	assert disk.memory.read(middle - 2048, 4096) == disks.image.read_bytes()[:4096]


# -- configuration and requests


def test_configuration(disks):
	disk, large, fixed = disks.plug("ram"), disks.plug("large"), disks.plug("fixed")
	assert disk.config.capacity == large.config.capacity == SECTORS, "capacity is in sectors of 512 (5.2.4)"
	assert disk.config.blk_size == 512 and large.config.blk_size == 4096
	assert disk.config.seg_max and disk.config.seg_max <= 254, "a chain also needs header and status"
	cached = disks.plug("file")
	assert cached.features & BLK_FLUSH and cached.features & BLK_CONFIG_WCE, "a file has a cache above it"
	assert disk.config.max_discard_sectors and disk.config.max_discard_seg > 1 and disk.config.discard_sector_alignment
	assert disk.config.max_write_zeroes_sectors and disk.config.max_write_zeroes_seg > 1
	assert fixed.features & BLK_RO and not disk.features & BLK_RO


def test_get_id(disks):
	"""20 bytes, padded with zeroes; no terminator when it fills them (5.2.6)."""
	result = disks.plug("file").get_id()
	assert result.status == S_OK and result.data == b"twenty-letter-serial"
	disk = disks.plug("ram")
	for size in (1, 19, 21, 512):
		assert disk.get_id(size).status in (S_OK, S_IOERR, S_UNSUPP)


def test_write_cache(disks):
	disk = disks.plug("file")
	offset = 32
	for value in (0, 1, 0):
		assert disk.connection.set_config(offset, bytes([value])) == 0
		assert disk.connection.get_config(1, offset) == bytes([value])
		assert disk.write(0, bytes(512)).status == S_OK


def test_read_only(disks):
	disk = disks.plug("fixed")
	before = disks.image.read_bytes()
	assert disk.read(0, 4096).data == before[:4096]
	assert disk.write(0, bytes(512)).status == S_IOERR
	assert disk.write_zeroes((0, 8)).status in (S_IOERR, S_UNSUPP)
	assert disk.discard((0, 8)).status in (S_IOERR, S_UNSUPP)
	assert disk.flush().status == S_OK
	assert disks.image.read_bytes() == before


PAST_THE_END = [(SECTORS, 512), (SECTORS - 1, 1024), (SECTORS - 7, 4096), (SECTORS + 1000, 512), (1 << 32, 512),
		(1 << 55, 512), ((1 << 64) - 1, 512), ((1 << 64) - 8, 4096), ((1 << 55) - 1, 4096)]


@pytest.mark.parametrize("name", ["ram", "file", "nothing"])
def test_past_the_end(disks, name):
	disk = disks.plug(name)
	for sector, length in PAST_THE_END:
		assert disk.read(sector, length).status == S_IOERR, (sector, length)
		assert disk.write(sector, bytes(length)).status == S_IOERR, (sector, length)
	assert disk.read(SECTORS - 8, 4096).status == S_OK


@pytest.mark.parametrize("name", ["ram", "file"])
def test_odd_lengths(disks, name):
	"""The data of a read or write is a multiple of 512 bytes (5.2.6): else an error, and nothing is written."""
	disk = disks.plug(name)
	before = disk.read(0, 4096).data
	for length in (1, 511, 513, 1000, 4095):
		assert disk.read(0, length).status == S_IOERR, length
		assert disk.write(0, b"\x55" * length).status == S_IOERR, length
	assert disk.read(0, 4096).data == before
	assert disk.read(0, 0).status in (S_OK, S_IOERR)


def test_block_size_of_4096(disks):
	disk = disks.plug("large")
	data = os.urandom(8192)
	assert disk.write(8, data).status == S_OK and disk.read(8, 8192).data == data


@pytest.mark.parametrize("kind", [2, 3, 5, 7, 9, 10, 12, 14, 99, 0x80000000, 0xffffffff])
def test_unknown_request(disks, kind):
	result = disks.plug("ram").execute(kind, into=512)
	assert result.status == S_UNSUPP and result.length >= 1


@pytest.mark.parametrize("packed", (False, True))
def test_one_status_byte_is_written(disks, packed):
	"""It is the last of the writable bytes, and bytes before the data stay as they are."""
	disk = disks.plug("ram", packed=packed)
	data = os.urandom(512)
	disk.write(0, data)
	area = disk.memory.allocate(4096)
	disk.memory.write(area, b"\xaa" * 4096)
	header = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False)
	ring = disk.queues[0]
	identity = ring.add(header + [(area + 100, 300, True), (area + 1000, 213, True)])
	ring.publish()
	ring.kick()
	assert ring.wait_for(identity).length == 513
	expected = bytearray(b"\xaa" * 4096)
	expected[100:400], expected[1000:1212], expected[1212] = data[:300], data[300:], 0
	assert disk.memory.read(area, 4096) == bytes(expected)


# -- discard and write zeroes


@pytest.mark.parametrize("name", ["ram", "file"])
def test_write_zeroes_of_several_ranges(disks, name):
	disk = disks.plug(name)
	data = os.urandom(64 * SECTOR)
	for unmap in (False, True):
		assert disk.write(0, data).status == S_OK
		assert disk.write_zeroes((1, 2), (10, 1), (40, 20), unmap=unmap).status == S_OK
		expected = bytearray(data)
		for sector, count in ((1, 2), (10, 1), (40, 20)):
			expected[sector * SECTOR:(sector + count) * SECTOR] = bytes(count * SECTOR)
		assert disk.read(0, len(data)).data == bytes(expected)


@pytest.mark.parametrize("name", ["ram", "file"])
def test_discard_touches_its_ranges_alone(disks, name):
	disk = disks.plug(name)
	data = os.urandom(64 * SECTOR)
	assert disk.write(0, data).status == S_OK
	assert disk.discard((8, 8), (24, 16)).status == S_OK
	read = disk.read(0, len(data)).data
	for start, end in ((0, 8), (16, 24), (40, 64)):
		assert read[start * SECTOR:end * SECTOR] == data[start * SECTOR:end * SECTOR]


BAD_RANGES = [
	("no range", T_DISCARD, b"", (S_IOERR, S_UNSUPP)),
	("no range to zero", T_WRITE_ZEROES, b"", (S_IOERR, S_UNSUPP)),
	("part of a range", T_DISCARD, bytes(15), (S_IOERR, S_UNSUPP)),
	("a range and a part", T_WRITE_ZEROES, BLK_RANGE.pack(0, 8, 0) + bytes(5), (S_IOERR, S_UNSUPP)),
	("discard past the end", T_DISCARD, BLK_RANGE.pack(SECTORS - 4, 8, 0), (S_IOERR,)),
	("zeroes past the end", T_WRITE_ZEROES, BLK_RANGE.pack(SECTORS - 4, 8, 0), (S_IOERR,)),
	("sector overflows", T_WRITE_ZEROES, BLK_RANGE.pack((1 << 64) - 4, 8, 0), (S_IOERR,)),
	("byte offset overflows", T_WRITE_ZEROES, BLK_RANGE.pack(1 << 55, 8, 0), (S_IOERR,)),
	("count of all ones", T_WRITE_ZEROES, BLK_RANGE.pack(0, 0xffffffff, 0), (S_IOERR,)),
	("count of all ones to discard", T_DISCARD, BLK_RANGE.pack(0, 0xffffffff, 0), (S_IOERR,)),
	("count wraps 32 bits of bytes", T_WRITE_ZEROES, BLK_RANGE.pack(0, 1 << 23, 0), (S_IOERR,)),
	("unmap flag of a discard", T_DISCARD, BLK_RANGE.pack(0, 8, 1), (S_UNSUPP,)),
	("reserved flags of a discard", T_DISCARD, BLK_RANGE.pack(0, 8, 6), (S_UNSUPP,)),
	("reserved flags of zeroes", T_WRITE_ZEROES, BLK_RANGE.pack(0, 8, 2), (S_UNSUPP,)),
	("too many ranges", T_WRITE_ZEROES, BLK_RANGE.pack(0, 1, 0) * 4096, (S_IOERR, S_UNSUPP)),
	("good, then past the end", T_WRITE_ZEROES, BLK_RANGE.pack(0, 1, 0) + BLK_RANGE.pack(SECTORS, 1, 0), (S_IOERR,)),
]


@pytest.mark.parametrize("name", ["ram", "file"])
@pytest.mark.parametrize("case", BAD_RANGES, ids=[case[0] for case in BAD_RANGES])
def test_bad_ranges(disks, name, case):
	_, kind, out, statuses = case
	disk = disks.plug(name)
	assert disk.features & BLK_DISCARD and disk.features & BLK_WRITE_ZEROES
	data = disk.read(8, 4096).data
	assert disk.execute(kind, out=out).status in statuses
	assert disk.read(8, 4096).data == data


# -- malformed requests


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_header_too_short(disks, length):
	disk = disks.plug("ram")
	ring = disk.queues[0]
	chain = disk.lay_out(bytes(length), [], False) + disk.lay_out(513, [], True)
	ring.add(chain)
	ring.publish()
	ring.kick()
	assert disks.server.wait_broken("disks", "ram", 0)


@pytest.mark.parametrize("kind", [T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, 99])
def test_no_status_byte(disks, kind):
	"""A chain with nothing to write to has no place for its answer."""
	disk = disks.plug("ram")
	ring = disk.queues[0]
	ring.add(disk.lay_out(BLK_HEADER.pack(kind, 0, 0) + bytes(512), [], False))
	ring.publish()
	ring.kick()
	assert disks.server.wait_broken("disks", "ram", 0)


def test_readable_after_writable(disks):
	"""All readable parts come first (2.7.4.2)."""
	disk = disks.plug("ram")
	ring = disk.queues[0]
	area = disk.memory.allocate(4096)
	ring.add_raw([Raw(area, 16, F_NEXT), Raw(area + 512, 513, F_WRITE | F_NEXT), Raw(area + 2048, 512)])
	ring.publish()
	ring.kick()
	assert disks.server.wait_broken("disks", "ram", 0)


DISK_CASES = [case for case in CASES if case[0] not in ("wrong direction", "shorter than its header")]


@pytest.mark.parametrize("name, packed", DISK_CASES, ids=[f"{name}-{'packed' if packed else 'split'}" for name, packed in DISK_CASES])
def test_malformed_chain(disks, name, packed):
	needs = BAD_CHAINS[name][1]
	disk = disks.plug("ram", packed=packed, indirect=needs > 0, queues=2,
			  without=vhost_user.F_RING_INDIRECT_DESC if needs < 0 else 0)
	ring = disk.queues[0]
	ring.add_raw(make_bad(disk, name, False))
	ring.publish()
	ring.kick(force=True)
	assert disks.server.wait_broken("disks", "ram", 0)
	assert disks.server.broken("disks", "ram", 1) is None
	assert disk.read(0, 512, queue=1).status == S_OK, "the other queue of the same guest goes on"


def test_request_in_flight_when_the_guest_goes(disks):
	for packed, number in itertools.product((False, True), range(10)):
		with BlockDevice(disks.server.path("file.sock"), Options(packed=packed)) as disk:
			for sector in range(64):
				disk.submit(T_IN if number % 2 else T_OUT, sector * 8, kick=False,
					    **({"into": 4096} if number % 2 else {"out": bytes(4096)}))
			disk.publish()


# -- size and restart


def test_grown_file_is_seen(disks):
	"""The front-end is told by CONFIG_CHANGE_MSG on the back-end's channel, and reads the new capacity."""
	disk = BlockDevice(disks.server.path("file.sock"), start=False)
	disks.devices.append(disk)
	disk.wanted_protocol |= Protocol.BACKEND_REQ
	disk.bring_up()
	assert disk.protocol & Protocol.BACKEND_REQ, "without it the guest cannot learn of a new size"
	ours, theirs = socket.socketpair()
	disk.connection.set_backend_req_fd(theirs.fileno())
	theirs.close()
	os.truncate(disks.image, 2 * SIZE)
	assert disks.server.control(command="resize", disk="file") == {"disk": "file", "size": 2 * SIZE}
	with Connection(sock=ours) as channel:
		message = channel.recv("CONFIG_CHANGE_MSG")
	assert message.request == BackendRequest.CONFIG_CHANGE_MSG and not message.payload
	deadline = time.monotonic() + 10
	while struct.unpack("<Q", disk.connection.get_config(8))[0] != 2 * SECTORS:
		assert time.monotonic() < deadline, "the new size is not in the configuration"
		time.sleep(0.1)
	assert disk.read(2 * SECTORS - 8, 4096).data == bytes(4096)


@pytest.mark.parametrize("packed", (False, True))
def test_restart_with_requests_in_flight(disks, packed):
	"""The daemon is killed amid writes: every request completes once after the restart, none is lost."""
	disk = disks.plug("file", packed=packed, inflight=True, queue_size=128)
	pending = {}
	for number in range(32):
		data = bytes([number]) * 4096
		pending[disk.submit(T_OUT, 4096 + number * 8, out=data, kick=False)] = data
	disk.publish()
	disks.server.crash()
	disks.server.start()
	disk.reconnect()
	statuses = {}
	while len(statuses) < len(pending):
		statuses.update(disk.complete(count=1))
	assert all(result.status == S_OK for result in statuses.values())
	content = disk.read(4096, 32 * 4096).data
	assert content == b"".join(pending.values())
	assert disk.execute(T_OUT, 0, out=bytes(512)).status == S_OK
	disks.neighbour.close()
	disks.neighbour = disks.plug("neighbour")


def set_inflight(disk, identity, counter):
	"""Mark a split descriptor as in flight, as a back-end does that took it and died ("Inflight I/O tracking")."""
	size, offset, fd = disk.inflight_fd
	head = 16
	os.pwrite(fd, struct.pack("<B5xHQ", 1, 0, counter), offset + head + 16 * identity)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_inflight_region_is_resubmitted_in_order(disks, order):
	"""
	Three writes to one sector are marked in flight by hand, with counters in @order: the last by counter wins.
	They are behind the avail index, so only the region can tell that they are due.
	"""
	disk = disks.plug("file", inflight=True)
	assert disk.execute(T_FLUSH).status == S_OK
	bases = disk.stop_queues()
	keys = [disk.submit(T_OUT, 0, out=bytes([0x10 + number]) * 512, kick=False) for number in range(3)]
	disk.queues[0].publish()
	for number, (_, identity) in enumerate(keys):
		set_inflight(disk, identity, 1000 + order.index(number))
	assert bases == [1]
	disk.reconnect([disk.queues[0].avail_idx])
	done = {}
	while len(done) < 3:
		done.update(disk.complete(count=1))
	assert all(result.status == S_OK for result in done.values())
	assert disk.read(0, 512).data == bytes([0x10 + order[-1]]) * 512
