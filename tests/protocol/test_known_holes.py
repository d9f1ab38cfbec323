# SPDX-License-Identifier: BSD-3-Clause
"""
Holes that others had, rows 1 to 14: lengths, offsets, indices and counts. One test for each row of the table of known holes
(of DPDK, SPDK, QEMU, the kernel's vhost, kvmtool and virtiofsd) that a paravirtual back-end can have. Rows 5, 19, 21, 23 and 24
are about keys of crypto devices, registers of emulated cards and RSS, which there are none of here. What is asked: the daemon
lives, nothing outside of the guest's own buffers is read or written, nobody else waits, and what was brought along is let go.
"""
import contextlib
import os
import random
import struct
import time

import pytest

from . import frames, vhost_user
from .bad_chains import make_bad
from .devices import (BLK_HEADER, GSO_TCPV4, HDR_F_NEEDS_CSUM, NET_HEADER, NET_SEND_OFFLOADS, S_IOERR, S_OK, S_UNSUPP,
		      T_DISCARD, T_IN, T_OUT, T_WRITE_ZEROES, BlockDevice, NetDevice, NetHeader, Options)
from .holes import BOTH, MAC_TABLE_SET, SECTORS, controlled, disk_of, extend, held, mend, mutator, offer
from .lab import MEGABYTE, REFUSED, close_all, eventfds
from .lan import MAC, neighbours_work, warm
from .memory import PAGE, GuestMemory
from .rings import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, Raw
from .vhost_user import INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VRING_ADDRESS, VRING_STATE, Request, pack_table

pytestmark = pytest.mark.deadline(60)


@BOTH
def test_row_01_translation_checks_the_length(lab, packed):
	"""CVE-2018-1059: a buffer, or a table of descriptors, that begins in a region and ends behind it."""
	disk = disk_of(lab, packed=packed, indirect=True, regions=2, region_size=MEGABYTE, region_gap=0)
	untouched = extend(disk)
	end = max(part.end for part in disk.memory.regions)
	data = os.urandom(4096)
	assert disk.write(0, data).status == S_OK
	for length in (17, 512, 4096, MEGABYTE, 0xffffffff):
		header, status = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False)[0], disk.lay_out(1, [], True)[0]
		offer(disk, disk.queues[0], [Raw(header[0], 16, F_NEXT), Raw(end - 16, length, F_NEXT | F_WRITE), Raw(status[0], 1, F_WRITE)])
		assert lab.server.wait_broken("disks", "a-disk", 0) == "bad-address"
		mend(disk)
	# The first entry of the table is in memory, the second is not.
	header, status = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False)[0], disk.lay_out(1, [], True)[0]
	disk.memory.write(end - 16, DESCRIPTOR.pack(header[0], 16, 0 if packed else F_NEXT, 0 if packed else 1))
	offer(disk, disk.queues[0], [Raw(end - 16, 48, F_INDIRECT)])
	assert lab.server.wait_broken("disks", "a-disk", 0)
	# Across two regions that lie side by side it is all memory.
	mend(disk)
	middle = disk.memory.regions[0].end - 2048
	disk.memory.write(middle, b"\xaa" * 4096)
	identity = disk.queues[0].add(disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False) + [(middle, 4096, True)] + [(status[0], 1, True)])
	disk.publish()
	disk.queues[0].wait_for(identity)
	assert disk.memory.read(middle, 4096) == data
	assert untouched()


def test_row_02_surplus_descriptors_and_repeated_ring_sizes(lab):
	"""CVE-2019-14818: descriptors that a message has no use for, and a second SET_VRING_NUM, stayed for ever."""
	connection = lab.connect()
	connection.set_vring_num(0, 256)
	before = held(lab.server)
	for number in range(1000):
		connection.set_vring_num(0, 2 << number % 8)
	assert held(lab.server) == before
	extra = eventfds(1)
	for number in range(100):
		outcome = lab.connect().refused(Request.SET_VRING_NUM, VRING_STATE.pack(0, 256), extra * (1 + number % 8))
		assert outcome in REFUSED
	lab.connect()
	close_all(extra)
	assert lab.server.settled(lambda: held(lab.server), before) == before


@pytest.mark.parametrize("size, offset", [((1 << 64) - PAGE, 2 * PAGE), (PAGE, (1 << 64) - PAGE), (1 << 63, 1 << 63),
					   ((1 << 64) - 1, 1), (1, (1 << 64) - 1)])
def test_row_03_size_and_offset_wrap(lab, size, offset):
	"""CVE-2020-10722: the sum of both wrapped to a small number, and so did the mapping."""
	log = GuestMemory(1, MEGABYTE)
	before = held(lab.server)
	fd = log.regions[0].fd
	assert lab.connect("a-disk").refused(Request.SET_LOG_BASE, LOG.pack(size, offset), [fd]) in REFUSED
	for guest, user in ((0, 0), (PAGE, 1 << 40)):
		entry = (guest, size, user, offset)
		assert lab.connect("a-disk").refused(Request.SET_MEM_TABLE, pack_table([entry]), [fd]) in REFUSED
		assert lab.connect("a-disk").refused(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, *entry), [fd]) in REFUSED
	assert lab.connect("a-disk").refused(Request.SET_INFLIGHT_FD, INFLIGHT_PADDED.pack(size, offset, 1, 128), [fd]) in REFUSED
	lab.connect("a-disk").close()
	assert lab.server.settled(lambda: held(lab.server), before) == before
	log.close()


def test_row_04_index_is_not_truncated(lab):
	"""CVE-2020-10723: an index of 32 bits was cut to 16 before it was checked, so that 65536 was ring 0."""
	[event] = eventfds(1)
	for index in (0x10000, 0x100, 0x80000000, 0xffff0000):
		for request in (Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ENABLE, Request.GET_VRING_BASE):
			assert lab.connect("a-disk").refused(request, VRING_STATE.pack(index, 128)) in REFUSED, (request, index)
		payload = VRING_ADDRESS.pack(index, 0, 0, 0, 0, 0)
		assert lab.connect("a-disk").refused(Request.SET_VRING_ADDR, payload) in REFUSED
	for value in (1 << 9, 1 << 16, 1 << 32, 1 << 63):
		for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
			assert lab.connect("a-disk").refused(request, U64.pack(value), [event]) in REFUSED, (request, value)
	for size in (0x10000 + 256, 0x80000000 + 256):
		assert lab.connect("a-disk").refused(Request.SET_VRING_NUM, VRING_STATE.pack(0, size)) in REFUSED
	os.close(event)
	# What was refused has not moved ring 0 either.
	disk = disk_of(lab)
	assert disk.write(0, bytes(512)).status == S_OK
	assert disk.connection.refused(Request.SET_VRING_BASE, VRING_STATE.pack(0x10000, 77)) == "error"
	assert disk.connection.refused(Request.SET_VRING_ENABLE, VRING_STATE.pack(0x10000, 0)) == "error"
	assert disk.write(0, bytes(512)).status == S_OK


BAD_IN_BATCH = ["no bytes", "address in a hole", "past the end of a region", "address wraps", "length of all ones", "wrong direction"]


@pytest.mark.parametrize("name", BAD_IN_BATCH)
def test_row_06_batches_are_checked_like_single_chains(lan, name):
	"""CVE-2020-10725: four packed descriptors at a time went without a check that one had. Each place in a batch, split too."""
	for packed, place in [(packed, place) for packed in (True, False) for place in (0, 1, 2, 3, 4, 7)]:
		with contextlib.ExitStack() as stack:
			a = stack.enter_context(NetDevice(lan.server.path("a-net.sock"), Options(packed=packed)))
			b = stack.enter_context(NetDevice(lan.server.path("b-net.sock"), Options(packed=packed)))
			b.fill_receive(32)
			warm(a, b)
			queue = a.transmit_queue()
			for number in range(8):
				if number == place:
					queue.add_raw(make_bad(a, name, False))
				else:
					queue.add(a.chain(frames.plain(MAC["b"], MAC["a"], 100, fill=number), NetHeader()))
			queue.publish()		# all at once
			queue.kick(force=True)
			reason = lan.server.wait_broken("interfaces", "a-net", 1)
			for number in range(place):
				assert b.receive()[1] == frames.plain(MAC["b"], MAC["a"], 100, fill=number)
			assert b.silent(0.05)
			alone = alone_in_its_ring(lan, name, packed) if place == 0 else alone
			assert reason == alone, f"{reason} in a batch, {alone} alone"
	neighbours_work(lan)


def alone_in_its_ring(lan, name, packed):
	with NetDevice(lan.server.path("c-net.sock"), Options(packed=packed)) as c:
		offer(c, c.transmit_queue(), make_bad(c, name, False))
		return lan.server.wait_broken("interfaces", "c-net", 1)


def test_row_07_repeated_inflight_requests(lab):
	"""CVE-2020-10726: each GET_INFLIGHT_FD left a mapping and a descriptor behind. (test_repetition.py has all messages.)"""
	disk = disk_of(lab, inflight=True)
	before = held(lab.server)
	for number in range(1000):
		size, offset, fd = disk.connection.get_inflight_fd(1, 256)
		if number % 10 == 0:
			disk.connection.set_inflight_fd(size, offset, 1, 256, fd)
		os.close(fd)
	assert lab.server.settled(lambda: held(lab.server), before) == before
	assert disk.read(0, 512).status == S_OK


def test_row_08_offsets_and_lengths_within_requests(lab):
	"""CVE-2020-14374 and others: what a request says of itself was believed. Sectors that wrap when made bytes, ranges that do."""
	disk = disk_of(lab)
	data = os.urandom(8192)
	assert disk.write(0, data).status == S_OK
	for sector in (1 << 55, (1 << 55) + 8, (1 << 64) - 1, (1 << 63), SECTORS, SECTORS - 1):
		assert disk.read(sector, 1024).status == S_IOERR
		assert disk.write(sector, bytes(1024)).status == S_IOERR
		for action in (disk.discard, disk.write_zeroes):
			assert action((sector, 2)).status in (S_IOERR, S_UNSUPP)
	for sector, count in ((0, 0xffffffff), (1, 0xffffffff), ((1 << 64) - 1, 2), (1 << 55, 1), (0, SECTORS + 1)):
		for action in (disk.discard, disk.write_zeroes):
			assert action((sector, count)).status in (S_IOERR, S_UNSUPP)
			# Not even the good one of two.
			assert action((0, 1), (sector, count)).status in (S_IOERR, S_UNSUPP)
	assert disk.read(0, 8192).data == data


@BOTH
def test_row_09_descriptors_and_headers_that_change(lab, packed):
	"""CVE-2020-14375: looked at, checked, and then looked at again. A process flips the header, and then the descriptor."""
	disk = disk_of(lab, packed=packed, regions=1, region_size=4 * MEGABYTE)
	untouched = extend(disk)
	good, secret = os.urandom(512), b"\x5a" * 512
	assert disk.write(8, good).status == S_OK and disk.write(9, secret).status == S_OK
	header, into, status = (disk.memory.allocate(size) for size in (16, 512, 16))
	queue = disk.queues[0]
	chain = [(header, 16, False), (into, 512, True), (status, 1, True)]
	headers = [BLK_HEADER.pack(T_IN, 0, 8), BLK_HEADER.pack(T_IN, 0, 8 | 1 << 55), BLK_HEADER.pack(99, 0, 8)]
	seen = set()
	disk.memory.write(header, headers[0])
	with mutator(disk.memory, [(header, headers)]):
		for _ in range(500):
			disk.memory.write(into, bytes(512))
			disk.memory.write(status, b"\xff")
			identity = queue.add(chain)
			queue.publish()
			queue.kick()
			queue.wait_for(identity)
			outcome = disk.memory.read(status, 1)[0]
			seen.add(outcome)
			# Whichever of the three it saw, it did that one and no mixture.
			assert disk.memory.read(into, 512) == (good if outcome == S_OK else bytes(512))
	assert len(seen) > 1 and seen <= {S_OK, S_IOERR, S_UNSUPP}
	disk.memory.write(header, BLK_HEADER.pack(T_OUT, 0, 16))
	flip_descriptors(lab, disk, [(header, 16, False), (into, 512, False), (status, 1, True)])
	assert untouched()
	lab.check()


def flip_descriptors(lab, disk, chain):
	"""Address and length of every descriptor in the ring, good and bad in turn, while the device reads them."""
	into, bad, reasons = chain[1][0], disk.memory.regions[0].end - 16, set()
	deadline = time.monotonic() + 20
	while len(reasons - {None}) < 2:
		assert time.monotonic() < deadline, f"the queue broke for {reasons} only"
		table, size = disk.queues[0].addresses()[0], disk.queues[0].size
		used_first = range(12) if disk.queues[0].packed else range(size - 12, size)
		changes = [(table + 16 * number, [struct.pack("<QI", into, 512), struct.pack("<QI", bad, 0x7fffffff),
						  struct.pack("<QI", into, 0)]) for number in used_first]
		until = time.monotonic() + 0.2
		with mutator(disk.memory, changes), contextlib.suppress(TimeoutError, vhost_user.ProtocolError):
			while time.monotonic() < until:
				disk.queues[0].add(chain)
				disk.publish()
				disk.queues[0].poll(timeout=0.02)
		reasons.add(lab.server.broken("disks", "a-disk", 0))
		mend(disk)


def test_row_10_remaining_count_underflow(lab):
	"""CVE-2020-14378: what was left went below zero and became four thousand million. Payloads that end too early."""
	disk, net = disk_of(lab), controlled(lab)
	data = os.urandom(512)
	assert disk.write(0, data).status == S_OK
	for kind in (T_DISCARD, T_WRITE_ZEROES):
		for length in (1, 8, 15, 17, 31, 33):
			began = time.monotonic()
			assert disk.execute(kind, out=bytes(length)).status in (S_IOERR, S_UNSUPP)
			assert time.monotonic() - began < 1
	assert disk.read(0, 512).data == data
	one = bytes.fromhex("025400000009")
	for table in (b"", bytes(3), bytes(4), bytes(7), U64.pack(1), struct.pack("<I", 0xffffffff), struct.pack("<I", 0x2aaaaaab) + bytes(8),
		      struct.pack("<I", 0x2aaaaaaa) + bytes(8), struct.pack("<I", 0x10000000) + bytes(8),
		      struct.pack("<I", 2) + one, struct.pack("<I", 1) + one[:5], struct.pack("<I", 1) + one + struct.pack("<I", 0xffffffff)):
		began = time.monotonic()
		assert net.command(MAC_TABLE_SET + table) == 1, table
		assert time.monotonic() - began < 1
	assert net.command(MAC_TABLE_SET + (struct.pack("<I", 1) + one) * 2) == 0
	# Headers that say that more has been taken from the frame than it has.
	for changes in ({"hdr_len": 65535}, {"hdr_len": 61, "gso_size": 65535}, {"csum_start": 65535}, {"csum_offset": 65535}):
		fields = {"flags": HDR_F_NEEDS_CSUM, "gso_type": GSO_TCPV4, "hdr_len": 54, "gso_size": 10, "csum_start": 34, "csum_offset": 16}
		net.send(frames.plain(frames.BROADCAST, MAC["a"], 60), NetHeader(**{**fields, **changes}), timeout=2)
	lab.check()


def test_row_11_number_of_queues_in_an_inflight_region(lab):
	"""CVE-2021-3839: the number of queues was not compared with those that there are, nor with the size of the region."""
	size, offset, fd = lab.connect("a-disk").get_inflight_fd(1, 128)
	os.close(fd)
	fd = os.memfd_create("inflight", os.MFD_CLOEXEC)	# all the room in the world: it is the numbers that are wrong
	os.truncate(fd, 64 << 20)
	for claimed, queues, queue_size in ((size, 2, 128), (size, 0xffff, 128), (size, 1, 256), (size, 1, 0x8000), (size, 0, 128),
					     (64 << 20, 0xffff, 0x8000), (64 << 20, 17, 128), (64 << 20, 256, 128), (size - 1, 1, 128), (64, 1, 128), (0, 1, 128)):
		payload = INFLIGHT_PADDED.pack(claimed, offset, queues, queue_size)
		assert lab.connect("a-disk").refused(Request.SET_INFLIGHT_FD, payload, [fd]) in REFUSED, (claimed, queues, queue_size)
	os.close(fd)
	lab.connect("a-disk").close()
	for options in ({}, {"packed": True}):
		spoiled_inflight(lab, options)


def spoiled_inflight(lab, options):
	"""A region of the right size whose content is noise: indices, next and last_batch_head are counts, too."""
	generator = random.Random(11)
	for _ in range(20):
		with BlockDevice(lab.server.path("a-disk.sock"), Options(inflight=True, region_size=MEGABYTE, **options)) as disk:
			assert disk.read(0, 512).status == S_OK
			disk.options.timeout = 0.3
			size, offset, fd = disk.inflight_fd
			for _ in range(generator.randrange(1, 200)):
				os.pwrite(fd, generator.randbytes(2), offset + generator.randrange(size - 2))
			with contextlib.suppress(vhost_user.Closed, vhost_user.Late, vhost_user.ProtocolError):
				disk.reconnect()
				disk.read(0, 512)
	lab.check()


def test_row_12_descriptors_attached_to_inflight_messages(lab):
	"""CVE-2022-0669: they were neither used nor closed."""
	lab.connect("a-disk").close()
	before = lab.server.settled(lambda: held(lab.server), None, 0.3)
	events = eventfds(8)
	for number in range(100):
		for request in (Request.GET_INFLIGHT_FD, Request.SET_INFLIGHT_FD):
			count = number % 8 + 1
			surplus = count if request == Request.GET_INFLIGHT_FD else max(count, 2)
			payload = INFLIGHT_PADDED.pack(PAGE, 0, 1, 128)
			assert lab.connect("a-disk").refused(request, payload, events[:surplus]) in REFUSED
	lab.connect("a-disk").close()
	close_all(events)
	assert lab.server.settled(lambda: held(lab.server), before) == before


@BOTH
def test_row_13_header_in_many_pieces(lan, packed):
	"""CVE-2022-2132: a header over three descriptors and more, and a chain that is shorter than its header."""
	a, b = lan.plug("a", packed=packed), lan.plug("b", packed=packed)
	b.fill_receive(64)
	warm(a, b)
	sent = frames.plain(MAC["b"], MAC["a"], 200)
	queue = a.transmit_queue()
	for cuts in ([1] * 12, [5, 5, 2], [1, 1, 10], [11, 1, 1], [4, 4, 5], [1] * 26):
		identity = queue.add(a.lay_out(NET_HEADER.pack(0, 0, 0, 0, 0, 0, 0) + sent, cuts, False))
		queue.publish()
		queue.kick()
		queue.wait_for(identity)
		assert b.receive()[1] == sent, cuts
	for lengths in ([11], [1] * 11, [4, 4, 3], [1, 10]):
		with NetDevice(lan.server.path("c-net.sock"), Options(packed=packed)) as c:
			good = c.memory.allocate(64)
			offer(c, c.transmit_queue(), [Raw(good, length, F_NEXT if number < len(lengths) - 1 else 0)
						      for number, length in enumerate(lengths)])
			assert lan.server.wait_broken("interfaces", "c-net", 1) == "header-too-short", lengths
	# And the other way: the device writes its header into pieces.
	b.close()
	lan.devices.remove(b)
	again = lan.plug("b", packed=packed)
	again.fill_receive(16, cuts=[1] * 12)
	warm(a, again)
	a.send(sent)
	assert again.receive()[1] == sent


@pytest.mark.parametrize("field", ["csum_start", "csum_offset", "hdr_len", "gso_size"])
def test_row_14_offload_fields_beyond_the_packet(lan, field):
	"""CVE-2024-11614: csum_start behind the packet's end; and the mended check read the header twice. So it changes here, too."""
	a, b = lan.plug("a", features=NET_SEND_OFFLOADS), lan.plug("b")
	b.fill_receive(60, cuts=[])
	warm(a, b)
	flow = frames.Flow(MAC["a"], MAC["b"], "10.0.0.1", "10.0.0.2")
	sent = frames.tcp(flow, bytes(100), partial=True)
	fields = {"flags": HDR_F_NEEDS_CSUM, "hdr_len": 54, "csum_start": 34, "csum_offset": 16}
	if field == "gso_size":
		fields.update(gso_type=GSO_TCPV4, gso_size=60)
	good = NetHeader(**fields)
	for value in (len(sent) - 1, len(sent), len(sent) + 1, 0x7fff, 0xffff):
		a.send(sent, good._replace(**{field: value}))
	while not b.silent(0.05):
		pass
	b.fill_receive(60, cuts=[])
	queue, memory = a.transmit_queue(), a.memory
	place = memory.allocate(12 + len(sent))
	memory.write(place, good.pack() + sent)
	with mutator(memory, [(place, [good.pack(), good._replace(**{field: 0xffff}).pack()])]):
		for _ in range(300):
			identity = queue.add([(place, 12 + len(sent), False)])
			queue.publish()
			queue.kick()
			queue.wait_for(identity)
			while b.ready():
				_, got = b.receive()
				b.fill_receive(1, cuts=[])
				frames.parse(got)	# lengths and checksums of what arrives are right
	neighbours_work(lan)
