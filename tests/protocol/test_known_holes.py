# SPDX-License-Identifier: BSD-3-Clause
"""
Holes that others had: one test for each row of the table of known holes (of DPDK, SPDK, QEMU, the kernel's vhost, kvmtool
and virtiofsd) that a paravirtual back-end can have. Rows 5, 19, 21, 23 and 24 are about keys of crypto devices, registers
of emulated cards and RSS, which there are none of here. What is asked: the daemon lives, nothing outside of the guest's own
buffers is read or written, nobody else waits, and what was brought along is let go.
"""
import contextlib
import multiprocessing
import os
import random
import struct
import time
from pathlib import Path

import pytest

from . import frames, vhost_user
from .bad_chains import BAD_CHAINS, make_bad
from .devices import (BLK_HEADER, GSO_TCPV4, HDR_F_NEEDS_CSUM, NET_CTRL_RX, NET_CTRL_VQ, NET_HEADER, NET_SEND_OFFLOADS, S_IOERR, S_OK,
		      S_UNSUPP, T_DISCARD, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES, BlockDevice, NetDevice, NetHeader, Options)
from .lab import MEGABYTE, REFUSED, close_all, eventfds, region
from .lan import MAC, neighbours_work, warm
from .memory import PAGE, GuestMemory
from .rings import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, Raw
from .vhost_user import (CONFIG, INFLIGHT_PADDED, LOG, SINGLE_REGION, U64, VRING_ADDRESS, VRING_STATE, Connection, Protocol,
			 Request, pack_table)

pytestmark = pytest.mark.deadline(60)

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


# -- lengths, offsets, indices

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
			# What the device itself finds, not the walker, may cost the frames before it in the batch.
			for number in range(place if name != "wrong direction" else 0):
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


# -- counts that run out, and loops

CONTROL = Options(features=NET_CTRL_VQ | NET_CTRL_RX, queues=2)


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
					     (64 << 20, 0xffff, 0x8000), (size - 1, 1, 128), (64, 1, 128), (0, 1, 128)):
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


ENDLESS = ["loop of one", "loop of two", "next out of range", "chain without end", "indirect loop", "nested indirect", "indirect with next",
	   "indirect table enormous", "no bytes", "address in a hole"]


@pytest.mark.parametrize("name", ENDLESS)
def test_row_15_control_queue_has_the_same_walker(lab, name):
	"""DPDK 6ec1778134: the walker for control queues knew neither bound nor loop limit, years after the others did."""
	formats, needs, _ = BAD_CHAINS[name]
	for packed in [letter == "p" for letter in formats]:
		net = controlled(lab, packed=packed, indirect=needs > 0)
		assert net.command(MAC_TABLE_SET + bytes(8)) == 0
		offer(net, net.queues[-1], make_bad(net, name, False))
		assert lab.server.wait_broken("interfaces", "a-net", 4)
		assert not any(lab.server.broken("interfaces", "a-net", number) for number in range(4))
		lab.check()
		net.close()
		lab.open.remove(net)


def test_row_16_circular_chains_hold_nobody_up(lab):
	"""CVE-2019-9547: a loop in the chain stopped the reactor. Again and again in all forms; the neighbour is served meanwhile."""
	worst = 0.0
	for name in ("loop of one", "loop of two", "indirect loop", "chain without end"):
		formats, needs, _ = BAD_CHAINS[name]
		for packed in [letter == "p" for letter in formats]:
			with BlockDevice(lab.server.path("a-disk.sock"), Options(packed=packed, indirect=needs > 0)) as disk:
				for _ in range(5):
					offer(disk, disk.queues[0], make_bad(disk, name, False))
					began = time.monotonic()
					for _ in range(5):
						assert lab.neighbour.write(0, bytes(512)).status == S_OK
					worst = max(worst, time.monotonic() - began)
					assert lab.server.wait_broken("disks", "a-disk", 0) in ("chain-too-long", "bad-next")
					mend(disk)
	assert worst < 2, f"five requests of the neighbour took {worst:.1f} s"


def test_row_17_counts_and_the_arrays_that_they_fill(lab):
	"""CVE-2025-57275: sixteen places, filled with as many as the wire said."""
	fd = lab.memory.regions[0].fd
	entries = [(number * PAGE, PAGE, number * PAGE, 0) for number in range(16)]
	for count, given in ((9, 9), (16, 16), (9, 8), (255, 8), (0x10001, 1), (0xffffffff, 8), (0x80000000, 8)):
		assert lab.connect().refused(Request.SET_MEM_TABLE, pack_table(entries[:given], count), [fd] * min(given, 8)) in REFUSED
	for count in (9, 16, 64, vhost_user.MAX_FDS):
		assert lab.connect().refused(Request.SET_MEM_TABLE, pack_table(entries[:8]), [fd] * count) in REFUSED, f"{count} descriptors"
	for size in (257, 1000, 4000):
		assert lab.connect("a-disk").refused(Request.GET_CONFIG, CONFIG.pack(0, size, 0) + bytes(size)) in REFUSED
		assert lab.connect("a-disk").refused(Request.GET_CONFIG, CONFIG.pack(0, size, 0) + bytes(256)) in REFUSED
	disk = disk_of(lab, queue_size=1024, region_size=4 * MEGABYTE)
	for count in (disk.config.max_discard_seg + 1, 17, 64, 1000):
		assert disk.discard(*[(0, 1)] * count).status in (S_IOERR, S_UNSUPP)
	for count in (disk.config.max_write_zeroes_seg + 1, 17, 64, 1000):
		assert disk.write_zeroes(*[(0, 1)] * count).status in (S_IOERR, S_UNSUPP)
	scatter(lab, disk)
	lab.check()


def scatter(lab, disk):
	"""As many buffers as the ring has room for: served or broken by name, and more than any array of ours."""
	place = disk.memory.allocate(512)
	for count in (126, 127, 128, 500, 1000, 1022):
		header, status = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False), disk.lay_out(1, [], True)
		identity = disk.queues[0].add(header + [(place, 512, True)] * count + status)
		disk.publish()
		try:
			disk.queues[0].wait_for(identity, 2)
		except TimeoutError:
			assert lab.server.wait_broken("disks", "a-disk", 0)
			mend(disk)


# -- what is shown and when

@BOTH
def test_row_18_used_buffers_are_shown_all_or_none(lan, packed):
	"""CVE-2021-3748 and its mending: num_buffers was written late, and an error in the middle left elements behind."""
	a, b = lan.plug("a"), lan.plug("b", packed=packed)
	b.fill_receive(8)
	warm(a, b)
	b.close()
	lan.devices.remove(b)
	b = lan.plug("b", packed=packed)
	b.fill_receive(2, size=1024, cuts=[])
	queue = b.receive_queue()
	offer(b, queue, [Raw(b.memory.hole(), 1024, F_WRITE)])
	before = lan.server.status()["interfaces"]["b-net"]
	sent = frames.plain(MAC["b"], MAC["a"], 2500)
	deadline = time.monotonic() + 10
	while not lan.server.broken("interfaces", "b-net", 0):	# three buffers are needed, the third one is bad
		a.send(sent)
		assert time.monotonic() < deadline
	assert not b.ready(), "a part of a frame was shown"
	assert lan.server.status()["interfaces"]["b-net"]["out_frames"] == before["out_frames"]
	again = lan.plug("c", packed=packed)
	again.fill_receive(8, size=1024, cuts=[])
	warm(a, again)
	a.send(frames.plain(MAC["c"], MAC["a"], 2500))
	header, got = again.receive()
	assert header.num_buffers == 3 and got == frames.plain(MAC["c"], MAC["a"], 2500)


@BOTH
def test_row_20_descriptors_that_make_no_progress(lan, packed):
	"""CVE-2021-20257: a descriptor of nothing kept the loop going. Frames of no bytes are used up, each one; nobody waits."""
	a, b, c = lan.plug("a", packed=packed), lan.plug("b"), lan.plug("c")
	c.fill_receive(64)
	warm(b, c)
	empty = a.lay_out(NET_HEADER.pack(0, 0, 0, 0, 0, 0, 0), [], False)
	queue = a.transmit_queue()
	for _ in range(20):
		for _ in range(queue.room()):
			queue.add(empty)
		queue.publish()
		queue.kick()
		while queue.outstanding:
			queue.poll(timeout=5, what="frames of no bytes")
	assert lan.server.broken("interfaces", "a-net", 1) is None
	b.send(frames.plain(MAC["c"], MAC["b"], 100))
	assert c.receive()[1] == frames.plain(MAC["c"], MAC["b"], 100)
	offer(a, queue, [Raw(a.memory.allocate(16), 0)])
	assert lan.server.wait_broken("interfaces", "a-net", 1) == "zero-length"
	neighbours_work(lan)


def test_row_22_nothing_that_a_guest_does_ends_the_daemon(lab):
	"""CVE-2020-16092: an assertion that the guest could reach. Every malformed chain, on every kind of queue, one after another."""
	pid = lab.server.pid
	for name, (formats, needs, _) in BAD_CHAINS.items():
		for packed in [letter == "p" for letter in formats]:
			choices = {"packed": packed, "indirect": needs > 0, "region_size": 2 * MEGABYTE,
				   "without": vhost_user.F_RING_INDIRECT_DESC if needs < 0 else 0}
			with BlockDevice(lab.server.path("a-disk.sock"), Options(**choices)) as disk:
				offer(disk, disk.queues[0], make_bad(disk, name, False))
				if name not in ("shorter than its header", "wrong direction"):	# those may be answered
					assert lab.server.wait_broken("disks", "a-disk", 0), name
			choices["features"] = NET_CTRL_VQ | NET_CTRL_RX
			with ControlledNet(lab.server.path("a-net.sock"), Options(queues=2, **choices)) as net:
				for number, queue in enumerate(net.queues):
					writable = number in (0, 2)
					offer(net, queue, make_bad(net, name, writable))
				for number in (1, 3):
					assert lab.server.wait_broken("interfaces", "a-net", number), name
	assert lab.server.pid == pid
	lab.check()


def test_row_25_lengths_of_source_and_destination_differ(lab):
	"""CVE-2023-3180: as many bytes were copied as the source had. Buffers that are shorter or longer than what goes into them."""
	disk = disk_of(lab)
	area = disk.memory.allocate(4096)
	for kind, sector in ((T_GET_ID, 0), (T_IN, 0), (T_IN, SECTORS - 1)):
		for length in (1, 5, 19, 20, 21, 40, 511, 512, 513, 1024):
			disk.memory.write(area, b"\xaa" * 4096)
			header, status = disk.lay_out(BLK_HEADER.pack(kind, 0, sector), [], False), disk.lay_out(b"\xff", [], True)
			identity = disk.queues[0].add(header + [(area + 1000, length, True)] + status)
			disk.publish()
			disk.queues[0].wait_for(identity)
			assert disk.memory.read(status[0][0], 1)[0] in (S_OK, S_IOERR)
			got = disk.memory.read(area, 4096)
			assert got[:1000] == b"\xaa" * 1000 and got[1000 + length:] == b"\xaa" * (3096 - length), (kind, length)
	# And a source that is shorter than the sectors it claims to be.
	before = disk.read(0, 4096).data
	for length in (1, 511, 513):
		assert disk.write(0, b"\x55" * length).status == S_IOERR
	assert disk.read(0, 4096).data == before


@BOTH
def test_row_26_dirty_log_has_the_same_bounds(lab, packed):
	"""CVE-2019-14835: what only a migration does had weaker checks. A log that is too small, and indirect chains through it."""
	log = GuestMemory(1, MEGABYTE)
	fd, small = log.regions[0].fd, PAGE		# says of 128 MiB which pages are dirty; guest memory lies above
	os.pwrite(fd, CANARY[:PAGE], small)
	memory = GuestMemory(1, 2 * MEGABYTE, base=0x1_0000_0000)
	with BlockDevice(connection=lab.connect("a-disk"), options=Options(packed=packed, indirect=True), start=False) as disk:
		disk.memory.close()
		disk.memory = memory
		connection = disk.connection
		disk.features = connection.get_features() & disk.wanted()
		connection.set_features(disk.features)
		disk.share_memory()
		disk.make_queues()
		disk.start_queues()
		connection.set_log_base(small, 0, fd)
		connection.set_features(disk.features | vhost_user.F_LOG_ALL)
		queue = disk.queues[0]
		addresses = [memory.user(address) for address in queue.addresses()]
		for logged in (queue.addresses()[0 if packed else 1], (1 << 64) - 1, (1 << 64) - PAGE, small * 8 * PAGE, 0):
			outcome = connection.refused(Request.SET_VRING_ADDR, VRING_ADDRESS.pack(0, vhost_user.VRING_ADDRESS_F_LOG, *addresses, logged))
			if outcome == "closed":
				break
			with contextlib.suppress(TimeoutError):
				assert disk.execute(T_IN, 0, into=3 * PAGE, timeout=2).status == S_OK
	assert os.pread(fd, PAGE, small) == CANARY[:PAGE], "written behind the log's end"
	assert not any(os.pread(fd, small - 2, 2)), "a page was marked that nobody wrote"
	log.close()
	lab.check()


def test_row_27_configuration_space_and_indices(lab):
	"""CVE-2021-45464: offsets into the configuration space, and queue indices, that were not compared with anything."""
	connection = lab.connect("a-disk")
	whole = connection.get_config(256)
	assert whole[:60].strip(b"\0") and not any(whole[128:])
	for offset in (0, 1, 7, 59, 95, 128, 255, 256, 4095, 0x7fffffff, 0xfffffff0, 0xffffffff):
		for size in (1, 2, 8, 60, 200, 256):
			connection = lab.connect("a-disk") if connection is None else connection
			connection.send(Request.GET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size))
			try:
				reply = connection.reply_to(Request.GET_CONFIG)
			except vhost_user.Closed:
				connection = None
				continue
			assert not reply.payload or reply.payload[CONFIG.size:] == (whole + bytes(256))[offset:offset + size], (offset, size)
			assert not reply.payload or offset + size <= 256
	for offset, size in ((0xffffffff, 1), (0xfffffffc, 8), (256, 1), (255, 2), (0x80000000, 4), (33, 256)):
		assert lab.connect("a-disk").refused(Request.SET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size)) in REFUSED
	for index in (5, 16, 31, 32, 63, 64, 255):
		assert lab.connect("a-net").refused(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1)) in REFUSED
		assert lab.connect("a-net").refused(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0)) in REFUSED


def test_row_28_what_one_guest_can_use_up(lab):
	"""
	CVE-2021-3544, CVE-2020-10717 and others: a guest took descriptors and memory until there were none for anybody. The most of
	everything, from one connection: regions, files, queues, memory, log lines. (test_quotas.py has the figures of each.)
	"""
	connection = lab.connect("a-net")
	descriptors, resident, lines = lab.server.descriptors(), memory_of(lab.server), len(lab.server.log.read_text().splitlines())
	fd, events = lab.memory.regions[0].fd, eventfds(3)
	taken = sum(connection.command(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, number * PAGE, PAGE, number * PAGE, 0), [fd]) == 0
		    for number in range(1000))
	assert taken == connection.get_max_mem_slots()
	for index in range(256):
		for request, event in zip((Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR), events):
			connection.command(request, U64.pack(index), [event])
	for _ in range(20):
		connection.call(Request.SET_LOG_BASE, LOG.pack(MEGABYTE, 0), [fd]).close()
	assert lab.server.descriptors() <= descriptors + 3 * 5, "five queues have a kick, a call and an error descriptor each"
	assert memory_of(lab.server) < resident + (8 << 20)
	assert len(lab.server.log.read_text().splitlines()) < lines + 200
	close_all(events)
	connection.close()
	assert lab.server.settled(lambda: lab.server.descriptors() <= descriptors, True)


def memory_of(server):
	text = Path(f"/proc/{server.pid}/status").read_text()
	return int(text.split("RssAnon:")[1].split()[0]) << 10
